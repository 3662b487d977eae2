"""Any host directories as one: `lazarus union A:B:C --upper U --work W TARGET`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lazarus.errors import ConflictError, LimitError, NotFoundError
from lazarus.mounts.attach import attach
from lazarus.terms import Mount

MAX_LOWERS = 500  # OVL_MAX_STACK, fs/overlayfs/super.c

Path = str | os.PathLike[str]


def union(lowers: Sequence[Path], target: Path, *, upper: Path | None = None, work: Path | None = None) -> Mount:
    """Mounts directories over one another at `target` through overlayfs, the first of `lowers` topmost, and returns
    what
    was mounted; `detach` undoes it.

    With `upper` (changes go there) a `work` directory on the same file system is needed; without, the union is
    read-only.
    Names may hold colons and commas. Raises `NotFoundError` for what is no directory, `ConflictError` for an upper
    and work
    that cannot go together, `LimitError` beyond 500 lowers.
    """
    mount = describe([os.fspath(path) for path in lowers], _text(upper), _text(work))
    where = _directory(os.fspath(target), "target")
    attach(mount, where)
    return mount


def describe(lowers: Sequence[str], upper: str | None, work: str | None) -> Mount:
    """The union as a value, with everything checked that can be checked before mounting."""
    if not lowers:
        raise NotFoundError("union: at least one lower directory is needed")
    if len(lowers) > MAX_LOWERS:
        raise LimitError(f"union: {len(lowers)} lower directories, the kernel takes {MAX_LOWERS}")
    found = tuple(_directory(path, "lower") for path in lowers)
    if upper is None or work is None:
        if upper != work:
            missing, given = ("--work", "--upper") if work is None else ("--upper", "--work")
            raise ConflictError(f"union: {given} needs {missing}")
        return Mount(lowers=found, metacopy=False, read_only=True)
    upper, work = _directory(upper, "upper"), _directory(work, "work")
    if os.stat(upper).st_dev != os.stat(work).st_dev:
        raise ConflictError(f"union: upper {upper} and work {work} are on different file systems")
    if _is_below(upper, work) or _is_below(work, upper):
        raise ConflictError(f"union: upper {upper} and work {work} lie in one another")
    if any(name not in ("work", "index") for name in os.listdir(work)):
        raise ConflictError(f"union: work directory {work} is not empty")
    return Mount(lowers=found, upper=upper, work=work)


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)


def _directory(path: str, what: str) -> str:
    if not os.path.isdir(path):
        raise NotFoundError(f"union: {what} {path}: not a directory")
    return os.path.realpath(path)


def _is_below(path: str, other: str) -> bool:
    return os.path.commonpath([path, other]) == other
