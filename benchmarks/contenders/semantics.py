"""What a root file system promises beyond reading and writing: one probe a question, and each really does it.

    fill(lower, 64 << 20)                     # what the probes want to find in a lower
    with view_of(root) as view:               # a root of roots.py, prepared
        for question in QUESTIONS:
            question.answer(view)             # "yes", "no (EXDEV)", "copies 64 MiB"

A probe's docstring says what it asks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.contenders.semantics_view import NEW, RECORD, RECORDS, View, allocated, read, record, write
from benchmarks.contenders.workloads import BLOCK

SMALL = 64 << 10  # a file that no layer keeps in its own table
XATTRS = {"user.probe": b"kept", "security.capability": struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)}


def fill(lower: Path, size: int) -> None:
    """Makes the lower of which the probes speak, with a /big and a /sparse of `size` bytes."""
    (lower / "directory/inside").mkdir(parents=True)
    names = ("directory/inside/file", "reader", "reader-elsewhere", "link-a", "inode", "xattr-open", "xattr-chmod")
    for name in (*names, "mapped", "mapped-before", "lock", "lock-before", "append"):
        (lower / name).write_bytes(os.urandom(SMALL))
    os.link(lower / "link-a", lower / "link-b")
    for name in ("xattr-open", "xattr-chmod"):
        for attribute, value in XATTRS.items():
            os.setxattr(lower / name, attribute, value)
    with open(lower / "sparse", "wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(os.urandom(SMALL))
    with open(lower / "big", "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))


class Question(NamedTuple):
    """`what` is in question, and what answers it. A view that has no descriptors says `unsupported`."""

    what: str
    probe: Callable[[View], str]
    unsupported: str = ""

    @property
    def asked(self) -> str:
        """What the probe does, in a line."""
        return " ".join((self.probe.__doc__ or "").split())

    def answer(self, view: View) -> str:
        """In a few words. An error is an answer, too."""
        return guarded(lambda: self.probe(view), self.unsupported)


def guarded(call: Callable[[], str], unsupported: str = "") -> str:
    """What it says, or "no" with the errno."""
    try:
        return call()
    except io.UnsupportedOperation as error:
        return unsupported or f"no ({error})"
    except Exception as error:
        number = getattr(error, "errno", None)
        said = errno.errorcode.get(number, str(number)) if number else str(error) or type(error).__name__
        return f"no ({said[-80:]})"


def rename(view: View) -> str:
    """rename(2) of a directory that a lower has, and what it and its parent show then (overlayfs: redirect_dir=on)."""
    content = read(view.tree, "/directory/inside/file", SMALL)
    view.tree.rename("/directory", "/renamed")
    names = {os.fsdecode(name) for name in view.tree.listdir("/")}
    moved = "renamed" in names and "directory" not in names
    return "yes" if moved and read(view.tree, "/renamed/inside/file", SMALL) == content else "no (another tree)"


def reader(view: View) -> str:
    """A lower file is opened read-only, and read again when it has been written by its name: in the same process, and
    in another."""
    return _either(
        _sees(view, "/reader", lambda path: write(view.tree, path)),
        _sees(view, "/reader-elsewhere", lambda path: view.others[0].do("write", path)),
        "from the same process",
        "from another process",
    )


def _sees(view: View, path: str, change: Callable[[str], object]) -> bool:
    with view.tree.open(path, "rb", 0) as file:
        before = file.read(len(NEW))
        change(path)
        file.seek(0)
        return bool(file.read(len(NEW)) == NEW != before)


def _either(one: bool, two: bool, first: str, second: str) -> str:
    return "yes" if one and two else f"only {first if one else second}" if one or two else "no"


def links(view: View) -> str:
    """One of two names of a lower file is written, the other one read; the link counts of both."""
    write(view.tree, "/link-a")
    both = view.tree.stat("/link-a"), view.tree.stat("/link-b")
    counts = f"link counts {both[0].st_nlink} and {both[1].st_nlink}"
    if read(view.tree, "/link-b", len(NEW)) != NEW:
        return f"no ({counts})"
    return "yes" if os.path.samestat(*both) and both[0].st_nlink == both[1].st_nlink == 2 else f"content only, {counts}"


def inode(view: View) -> str:
    """st_ino and st_dev of a lower file, before and after it is written."""
    before = view.tree.stat("/inode")
    write(view.tree, "/inode")
    after = view.tree.stat("/inode")
    changed = [name for name in ("st_ino", "st_dev") if getattr(before, name) != getattr(after, name)]
    return f"no ({' and '.join(changed)})" if changed else "yes"


def temporary(view: View) -> str:
    """A file without a name is made by O_TMPFILE, and gets one by linkat(2)."""
    flags = os.O_TMPFILE | os.O_RDWR
    if view.in_process:
        from lazarus.union.file import StackFile

        StackFile(view.tree, "/", flags, 0o600).close()
        return "opens, and cannot be linked"
    root = os.open(view.tree.root, os.O_PATH)
    try:
        with open(os.open(view.tree.root, flags, 0o600), "wb", 0) as file:
            file.write(NEW)
            os.link(f"/proc/self/fd/{file.fileno()}", "linked", dst_dir_fd=root)  # AT_SYMLINK_FOLLOW
    finally:
        os.close(root)
    return "yes" if read(view.tree, "/linked", BLOCK) == NEW else "no (another content)"


def sparse(view: View) -> str:
    """A sparse lower file is written at its begin; what is allocated where changes go."""
    before = allocated(view.written)
    write(view.tree, "/sparse")
    grown = allocated(view.written) - before
    return "yes" if grown < view.tree.stat("/sparse").st_size // 4 else f"no ({_bytes(grown)})"


def xattrs(view: View) -> str:
    """user.probe and security.capability of two lower files; one is opened for writing, one gets another mode."""
    ways: dict[str, Callable[[str], object]] = {
        "open": lambda path: view.tree.open(path, "r+b", 0).close(),  # a write takes the capability away, as it should
        "chmod": lambda path: view.tree.chmod(path, 0o711),
    }
    for name, copy in ways.items():
        path = f"/xattr-{name}"
        for when in ("before it", "by it"):
            lost = [one for one, value in XATTRS.items() if _xattr(view, path, one) != value]
            if lost:
                return f"no ({name}: {' and '.join(lost)} lost {when})"
            copy(path)
    return "yes"


def _xattr(view: View, path: str, name: str) -> bytes | None:
    with contextlib.suppress(OSError):
        return bytes(view.tree.getxattr(path, name))
    return None


def copy_up(view: View) -> str:
    """One block of a large lower file is written; what is allocated where changes go, and no other file shares."""
    before = allocated(view.written, shared=False)
    write(view.tree, "/big")
    grown = allocated(view.written, shared=False) - before
    return f"copies {_bytes(grown) if grown > 0 else 'nothing'}"


def mapping(view: View) -> str:
    """What is written to a MAP_SHARED mapping is read through another descriptor, and the other way round."""
    with (
        view.tree.open("/mapped", "r+b", 0) as one,
        view.tree.open("/mapped", "r+b", 0) as two,
        mmap.mmap(one.fileno(), SMALL) as mapped,
    ):
        mapped[: len(NEW)] = NEW
        read_back = two.read(len(NEW)) == NEW
        two.seek(BLOCK)
        two.write(NEW)
        shown = mapped[BLOCK : BLOCK + len(NEW)] == NEW
    return _either(read_back, shown, "from the mapping", "into the mapping")


def mapping_before(view: View) -> str:
    """A lower file is mapped read-only, and looked at again when it has been written by its name."""
    with (
        view.tree.open("/mapped-before", "rb", 0) as file,
        mmap.mmap(file.fileno(), SMALL, prot=mmap.PROT_READ) as mapped,
    ):
        before = mapped[: len(NEW)]
        write(view.tree, "/mapped-before")
        return "yes" if mapped[: len(NEW)] == NEW != before else "no"


def locks(view: View) -> str:
    """flock and fcntl locks of a file that is open for writing; another process asks for the same."""
    with view.tree.open("/lock", "r+b", 0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        return _refused(view, "/lock")


def lock_before(view: View) -> str:
    """flock and fcntl locks through a read-only descriptor of a lower file; another process opens it for writing, and
    asks for the same."""
    with view.tree.open("/lock-before", "rb", 0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_SH)  # an exclusive one takes a descriptor to write to
        return _refused(view, "/lock-before")


def _refused(view: View, path: str) -> str:
    refused = view.others[0].do("lock", path).split()
    return _either("flock" in refused, "fcntl" in refused, "flock", "fcntl")


def append(view: View) -> str:
    """Two processes append 200 records each to one lower file, through opens, or stacks, of their own."""
    for writer in view.others:
        writer.begin("append", "/append")
    for writer in view.others:
        writer.end()
    found = read(view.tree, "/append", SMALL + 3 * RECORDS * RECORD)[SMALL:]
    whole = {found[at : at + RECORD] for at in range(0, len(found), RECORD)}
    expected = {record(writer.pid, number) for writer in view.others for number in range(RECORDS)}
    lost, odd = len(expected - whole), len(whole - expected)
    return f"no ({lost} of {2 * RECORDS} lost, {odd} torn)" if lost or odd else "yes"


def _bytes(size: int) -> str:
    return f"{size / 2**20:.3g} MiB" if size >= 1 << 20 else f"{size / 2**10:.3g} KiB"


NO_MAPPING, NO_LOCKS = "no mapping in process", "no locks in process"
QUESTIONS = (
    Question("rename of a lower directory", rename),
    Question("a reader sees later writes", reader),
    Question("hard links survive copy-up", links),
    Question("inode number survives copy-up", inode),
    Question("O_TMPFILE and linkat", temporary),
    Question("holes survive copy-up", sparse),
    Question("extended attributes survive copy-up", xattrs),
    Question("copy-up of a large file", copy_up),
    Question("shared mapping", mapping, NO_MAPPING),
    Question("a mapping sees later writes", mapping_before, NO_MAPPING),
    Question("locks between processes", locks, NO_LOCKS),
    Question("locks from before copy-up", lock_before, NO_LOCKS),
    Question("two processes append", append),
)
