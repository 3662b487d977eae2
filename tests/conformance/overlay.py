"""A real kernel overlay for tests, mounted in a child process with its own mount namespace.

Whatever happens to the child, the kernel takes its mounts away with it, so nothing is ever left mounted.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000
DEFAULT_OPTIONS = "redirect_dir=on,metacopy=on,index=off"


def in_mount_namespace(function: Callable[[], Result]) -> Result:
    """Calls `function` in a forked child with its own mounts and returns what it returns (it must pickle).

    An exception in the child is raised here as `AssertionError` with the child's traceback.
    """
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)
        _serve(function, write_fd)  # does not return
    os.close(write_fd)
    with open(read_fd, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert answer, f"the child ended with status {status:#x} and said nothing"
    ok, value = pickle.loads(answer)
    assert ok, value
    result: Result = value
    return result


def _serve(function: Callable[[], object], write_fd: int) -> None:
    code = 1
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None) != 0:
            raise OSError(ctypes.get_errno(), "cannot make a mount namespace")
        answer: tuple[bool, object] = (True, function())
        code = 0
    except BaseException:
        answer = (False, traceback.format_exc())
    try:
        with open(write_fd, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def mount(kind: str, source: str, target: str, options: str = "", flags: int = 0) -> None:
    """mount(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount -t {kind} -o {options}: {os.strerror(ctypes.get_errno())}", target)


def mount_overlay(lower: str, upper: str, work: str, target: str, options: str = DEFAULT_OPTIONS) -> None:
    """Mounts lower (several with `:`) and upper at `target`; all four exist."""
    mount("overlay", "overlay", target, f"lowerdir={lower},upperdir={upper},workdir={work},{options}")


def unmount(target: str) -> None:
    """umount(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(target.encode(), 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
