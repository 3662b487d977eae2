"""A stack as the kernel shows it, by every way to mount it, against its index; and writing into it."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.overlay import in_mount_namespace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mount_helpers import OBJECT, Built, build, check_tree, member

from lazarus._native import index
from lazarus.mounts import attach, detach
from lazarus.mounts.kernel import KernelDriver
from lazarus.terms import Mount

pytestmark = pytest.mark.root

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".decode("latin-1")


def _layers() -> list[list[tuple[tarfile.TarInfo, bytes]]]:
    lower = [member(f"sizes/{size}", bytes([size % 251]) * size) for size in (0, 1, 4095, 4096, 4097, 70000)]
    lower += [
        member("dir", type=tarfile.DIRTYPE, mode=0o1777, uid=3, gid=4, mtime=-5.25),
        member("dir/link", type=tarfile.SYMTYPE, linkname="../sizes/1", mode=0o777),
        member("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("dev/disk", type=tarfile.BLKTYPE, devmajor=8, devminor=300),
        member("dev/fifo", type=tarfile.FIFOTYPE),
        member("gone", b"x" * 5000),
        member("dir/kept", b"k", xattrs={"user.text": "caf\u00e9", "security.capability": CAPABILITY}),
        member(
            "escaped", b"e" * 9000, xattrs={"trusted.overlay.redirect": "/etc/shadow", "trusted.overlay.opaque": "y"}
        ),
        member("hard", type=tarfile.LNKTYPE, linkname="sizes/70000"),
        member("setuid", b"s", mode=0o4755, mtime=2**33 + 0.5),
        member("n" * 255, b"long"),
        member("bytes-\udcff\udcfe", b"not UTF-8"),
        member("/".join(["deep"] * 200), type=tarfile.DIRTYPE),
    ]
    upper = [member(".wh.gone"), member("sizes/1", b"2"), member("dir/new", b"new" * 3000)]
    return [lower, upper]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("stack"), *_layers())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("upper", "work", "target"):
        (tmp_path / name).mkdir()
    return tmp_path


def _describe(stack: Built, place: Path, *, writable: bool = True) -> Mount:
    driver = KernelDriver()
    if not writable:
        return driver.describe(stack.image, stack.objects)
    return driver.describe(stack.image, stack.objects, upper=f"{place}/upper", work=f"{place}/work")


def _within(mount: Mount, place: Path, work: Callable[[str], object], **how: object) -> str:
    """Does the work on the mounted value, in a mount namespace; what `attach` said."""

    def run() -> str:
        target = f"{place}/target"
        used = attach(mount, target, **how)  # type: ignore[arg-type]
        work(target)
        detach(target)
        assert os.listdir(target) == []
        return used

    return in_mount_namespace(run)


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("force_paths", [True, False])
@pytest.mark.parametrize("source", ["auto", "loop"])
def test_the_mounted_tree_is_the_index(
    stack: Built, place: Path, source: str, force_paths: bool, writable: bool
) -> None:
    def compare(target: str) -> None:
        assert check_tree(target, stack.merged, skip_root=writable) > 200

    used = _within(
        _describe(stack, place, writable=writable), place, compare, erofs_source=source, force_paths=force_paths
    )
    assert used == source or (source == "auto" and used in ("file", "loop"))
    assert os.listdir(place / "upper") == []


def test_writing_copies_up_and_leaves_the_objects(stack: Built, place: Path) -> None:
    before = {path: path.read_bytes() for path in Path(stack.objects).glob("*/*")}
    assert before

    def change(target: str) -> None:
        os.chmod(f"{target}/sizes/70000", 0o600)
        upper = f"{place}/upper/sizes/70000"
        assert os.stat(upper).st_blocks == 0 and os.stat(upper).st_size == 70000  # attributes only
        assert os.getxattr(upper, "trusted.overlay.metacopy") is not None
        with open(f"{target}/sizes/70000", "r+b") as file:
            file.write(b"changed")
        assert os.stat(upper).st_blocks > 0
        os.rename(f"{target}/dir", f"{target}/moved")  # redirect_dir: no EXDEV
        assert Path(target, "moved/kept").read_bytes() == b"k"
        os.unlink(f"{target}/setuid")

    _within(_describe(stack, place), place, change)

    def look_again(target: str) -> None:
        assert Path(target, "sizes/70000").read_bytes() == b"changed" + bytes([70000 % 251]) * (70000 - 7)
        assert Path(target, "hard").read_bytes() == bytes([70000 % 251]) * 70000
        assert os.path.exists(f"{target}/moved/new") and not os.path.exists(f"{target}/setuid")

    _within(_describe(stack, place), place, look_again, erofs_source="loop", force_paths=True)
    assert {path: path.read_bytes() for path in Path(stack.objects).glob("*/*")} == before


def test_host_directories_below_the_image(stack: Built, place: Path) -> None:
    init = place / "init"
    (init / "dir").mkdir(parents=True)
    (init / "dir/kept").write_text("hidden by the image")
    (init / "proc").mkdir()
    mount = KernelDriver().describe(stack.image, stack.objects, lowers=(str(init),))

    def look(target: str) -> None:
        assert os.path.isdir(f"{target}/proc") and Path(target, "dir/kept").read_text() == "k"

    _within(mount, place, look)


def test_an_image_alone_is_read_only(stack: Built, place: Path) -> None:
    def look(target: str) -> None:
        assert Path(target, "dir/kept").read_bytes() == b"k"
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir(f"{target}/new")

    assert _within(Mount(image=stack.image), place, look) in ("file", "loop")


def test_a_missing_object_is_an_error_and_nothing_else(stack: Built, place: Path) -> None:
    """The object's name is there with its size; its content is not made up."""

    def look(target: str) -> None:
        assert os.stat(f"{target}/sizes/70000").st_size == 70000
        with pytest.raises(OSError):
            Path(target, "sizes/70000").read_bytes()

    (place / "no objects").mkdir()
    _within(KernelDriver().describe(stack.image, f"{place}/no objects"), place, look)


def test_failures_name_what_is_missing_and_leave_nothing(stack: Built, place: Path) -> None:
    def fail() -> None:
        mount = _describe(stack, place)
        for changed, named in (
            (mount._replace(upper="/nonexistent/upper"), "upper /nonexistent/upper"),
            (mount._replace(image="/nonexistent/image"), "/nonexistent/image"),
            (mount._replace(data=("/nonexistent/objects",)), "/nonexistent/objects"),
        ):
            with pytest.raises(FileNotFoundError, match=named):
                attach(changed, f"{place}/target")
        with pytest.raises(OSError, match="upper and work go together"):
            attach(mount._replace(work=None), f"{place}/target")
        with pytest.raises(FileNotFoundError, match="cannot mount there"):
            attach(mount, f"{place}/nowhere")
        with pytest.raises(OSError, match="not a mount point"):
            detach(f"{place}/target")

    in_mount_namespace(fail)


def test_in_use_unless_lazy(stack: Built, place: Path) -> None:
    def run() -> None:
        target = f"{place}/target"
        attach(_describe(stack, place), target)
        with open(f"{target}/dir/kept", "rb") as file:
            with pytest.raises(OSError, match="busy"):
                detach(target)
            detach(target, lazy=True)
            assert os.listdir(target) == [] and file.read() == b"k"

    in_mount_namespace(run)


_NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..") and not name.startswith(b".wh.")
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    files=st.dictionaries(
        st.tuples(st.integers(0, 3), _NAMES),
        st.tuples(st.integers(0, 9000), st.integers(0, 0o7777), st.integers(-(2**35), 2**35)),
        max_size=60,
    )
)
def test_any_tree(
    tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[int, bytes], tuple[int, int, int]]
) -> None:
    place = tmp_path_factory.mktemp("any")
    (place / "target").mkdir()
    members = [
        member(f"{directory}/{os.fsdecode(name)}", b"%d" % size * (size // 4), mode=mode, mtime=time)
        for (directory, name), (size, mode, time) in files.items()
    ]
    stack = build(place, members)
    with index.Index(stack.merged) as table:
        objects = sum(entry.flags & OBJECT != 0 for entry in table)
        expected = len(table)
    assert (objects > 0) == any(len(content) > 4096 for _, content in members)

    def compare(target: str) -> None:
        assert check_tree(target, stack.merged) == expected

    _within(KernelDriver().describe(stack.image, stack.objects), place, compare)
