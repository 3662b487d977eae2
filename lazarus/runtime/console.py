"""Pseudo-terminals: the socket through which a runtime hands one over, and the caller's own in raw mode."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from lazarus.errors import ContainerRuntimeError


class Console:
    """A listening socket in `directory`: `path` is what the runtime is told, `receive()` gives the descriptor."""

    def __init__(self, directory: str) -> None:
        # a socket address holds 107 bytes: the directory is named through its descriptor, whatever its path
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._directory}/console"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._remove()
        self._socket.bind(self.path)
        self._socket.listen(1)

    def receive(self) -> int:
        """The master side, after the runtime has succeeded (it sends before it ends, so this never waits long)."""
        self._socket.settimeout(10)
        try:
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(10)
                _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        except OSError as error:
            raise ContainerRuntimeError(f"the runtime handed over no terminal: {error}") from error
        if not descriptors:
            raise ContainerRuntimeError("the runtime handed over no terminal")
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink("console", dir_fd=self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._remove()
        os.close(self._directory)


class RawMode:
    """The caller's terminal in raw mode while it lasts; nothing happens to what is no terminal."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd if fd is not None and os.isatty(fd) else None
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        if self._fd is not None:
            import tty

            self._before = termios.tcgetattr(self._fd)
            tty.setraw(self._fd, termios.TCSANOW)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            with suppress(termios.error):  # it has gone
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


def copy_window_size(source: int | None, target: int) -> None:
    """Gives a terminal the window size of another one; does nothing when there is none to ask."""
    if source is None:
        return
    try:
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        fcntl.ioctl(target, termios.TIOCSWINSZ, size)
    except OSError:
        pass  # not a terminal, or gone
