"""Is the program that a container is to run there? Asked before the runtime is: the answer is one clear line."""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from lazarus._native.openat2 import open_in_root
from lazarus.errors import ContainerRuntimeError
from lazarus.runtime.bundle import DEFAULT_PATH, Process


def check_program(root_fd: int, process: Process) -> None:
    """Raises `ContainerRuntimeError` 127 when args[0] is not found (in PATH, or at its path), 126 when it cannot run.

    Only what root could see is asked; the kernel and the runtime have the last word. A few microseconds.
    """
    if not process.args or not process.args[0]:
        raise ContainerRuntimeError("no command: neither the caller nor the image names a program", 125)
    program = process.args[0]
    if "/" in program:
        found = _look(root_fd, posixpath.join(process.cwd, program))
        if found is None:
            raise ContainerRuntimeError(f"{program}: no such file in the container", 127)
    else:
        path = next((e[5:] for e in reversed(process.env) if e.startswith("PATH=")), DEFAULT_PATH)
        modes = [
            _look(root_fd, posixpath.join(process.cwd, directory or ".", program)) for directory in path.split(":")
        ]
        usable = [mode for mode in modes if mode is not None]
        if not usable:
            raise ContainerRuntimeError(f"{program}: executable file not found in the container's PATH", 127)
        found = next((mode for mode in usable if stat.S_ISREG(mode) and mode & 0o111), usable[0])
    if stat.S_ISDIR(found):
        raise ContainerRuntimeError(f"{program}: is a directory", 126)
    if not stat.S_ISREG(found) or not found & 0o111:
        raise ContainerRuntimeError(f"{program}: permission denied (not an executable file)", 126)


def _look(root_fd: int, path: str) -> int | None:
    try:
        fd = open_in_root(root_fd, os.fsencode(path), os.O_PATH)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG):
            raise
        return None
    try:
        return os.fstat(fd).st_mode
    finally:
        os.close(fd)
