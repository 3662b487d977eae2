"""Any host directories as one: `lazarus union A:B:C --upper U --work W TARGET`."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from itertools import pairwise

from lazarus.errors import ConflictError, LimitError, NotFoundError
from lazarus.mounts.attach import attach, detach
from lazarus.terms import Mount

MAX_LOWERS = 500  # OVL_MAX_STACK, fs/overlayfs/params.h
UNION = "union"

Path = str | os.PathLike[str]


def union(lowers: Sequence[Path], target: Path, *, upper: Path | None = None, work: Path | None = None) -> Mount:
    """Mounts directories over one another at `target`, the first of `lowers` topmost, and returns what was mounted.

    With `upper`, which gets the changes, an empty `work` directory on the same file system is needed; without, the
    union is read-only. `detach` undoes it and leaves the upper as it is: whole files, readable by any tool.
    Names may hold colons and commas. Raises `NotFoundError` for what is no directory, `ConflictError` for directories
    that cannot go together, `LimitError` beyond 500 lowers.
    """
    mount = describe([os.fspath(path) for path in lowers], _text(upper), _text(work))
    attach(mount, _directory(os.fspath(target), "target"))
    return mount


def dissolve(target: Path) -> None:
    """Undoes union(). `NotFoundError` where no union is mounted, `ConflictError` while files in it are open.

    One of a single directory is no overlay but a read-only view of that directory, and known by it; not where the
    directory is the root of its file system, which looks as if that itself were mounted: there `umount` is left.
    """
    path = _directory(os.fspath(target), "target")
    kind = mounted(path)
    if kind != UNION:
        raise NotFoundError(
            f"union: target {path}: {f'{kind}, not a union, is' if kind else 'nothing is'} mounted there"
        )
    try:
        detach(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise ConflictError(f"union: target {path}: in use by another process") from error


def mounted(path: str) -> str | None:
    """What is mounted at exactly this (real) path: `UNION`, or the type of another file system; None for nothing."""
    kind = None
    with open("/proc/self/mountinfo", "rb") as table:  # the last one lies on top
        for line in table:
            fields, _, rest = line.partition(b" - ")
            place = fields.split(b" ")[4]
            if b"\\" in place:  # space, tab, newline and backslash are octal there
                place = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), place)
            if place == os.fsencode(path):
                kind = os.fsdecode(rest.split(b" ")[0])
                view = fields.split(b" ")[3] != b"/" and b"ro" in fields.split(b" ")[5].split(b",")
                kind = UNION if kind == "overlay" or view else kind
    return kind


def describe(lowers: Sequence[str], upper: str | None, work: str | None) -> Mount:
    """The union as a value, with everything checked that can be checked before mounting."""
    if not lowers:
        raise NotFoundError("union: at least one lower directory is needed")
    if len(lowers) > MAX_LOWERS:
        raise LimitError(f"union: {len(lowers)} lower directories, the kernel takes {MAX_LOWERS}")
    found = tuple(_directory(path, "lower") for path in lowers)
    if upper is None and work is None:
        _check_apart([(path, "lower") for path in found])
        return Mount(lowers=found, metacopy=False, redirect_dir=False, read_only=True)
    if upper is None or work is None:
        given, missing = ("upper", "work") if work is None else ("work", "upper")
        raise ConflictError(f"union: {given} needs {missing}: they are given together")
    upper, work = _directory(upper, "upper"), _directory(work, "work")
    _check_apart([*((path, "lower") for path in found), (upper, "upper"), (work, "work")])
    if os.stat(upper).st_dev != os.stat(work).st_dev:
        raise ConflictError(f"union: upper {upper} and work {work} are on different file systems")
    # what overlayfs itself left there is no obstacle: it clears it
    if any(name not in ("work", "index") for name in os.listdir(work)):
        raise ConflictError(f"union: work directory {work} is not empty")
    return Mount(lowers=found, upper=upper, work=work, metacopy=False)


def _check_apart(directories: list[tuple[str, str]]) -> None:
    """No directory is another one or lies in it. In byte order, what lies in a directory follows it at once."""
    ordered = sorted((path.rstrip("/") + "/", role) for path, role in directories)
    for (outer, outer_role), (inner, inner_role) in pairwise(ordered):
        if inner.startswith(outer):
            relation = "are the same directory" if inner == outer else "overlap"
            shown = (outer.rstrip("/") or "/", inner.rstrip("/") or "/")
            raise ConflictError(f"union: {outer_role} {shown[0]} and {inner_role} {shown[1]} {relation}")


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)


def _directory(path: str, role: str) -> str:
    if not os.path.isdir(path):
        problem = "not a directory" if os.path.lexists(path) else "does not exist"
        raise NotFoundError(f"union: {role} {path}: {problem}")
    return os.path.realpath(path)
