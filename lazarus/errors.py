"""Every exception that Lazarus raises on purpose, and the one place that turns a native code into one.

`OSError` with its errno stays `OSError`: a full disk is a full disk. Everything else derives from `LazarusError`; its
message is one line that names the object, what was found and what was expected; the command line prints it as it is.
"""

from __future__ import annotations

import errno
import os

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a full disk answers, and one on which this user may have no more
NO_ROOM = (*FULL, errno.EFBIG)  # the same to who writes one file, which may be as large as it can be


class LazarusError(Exception):
    """Base of all errors that are not plain operating system errors."""


class FormatError(LazarusError):
    """Malformed input: a tar header, a gzip stream, a manifest, a reference, an index."""


class TruncatedError(FormatError):
    """The input ends before its own structure says so."""


class CorruptError(LazarusError):
    """Bytes do not have the digest, size or checksum that was stated for them."""


class LimitError(LazarusError):
    """A configured limit was passed: entries, bytes, ratio, path length."""


class UnsafeError(LazarusError):
    """A path would leave its tree: `..`, a hard link out of it, a parent that is a symlink."""


class UnsupportedError(LazarusError):
    """Well-formed, but a feature that Lazarus or this kernel does not have."""


class CancelledError(LazarusError):
    """The caller asked to stop."""


class NotFoundError(LazarusError):
    """No such image, container, layer, blob or lease."""


class ConflictError(LazarusError):
    """The name is taken, or the object is in use, or in a state that does not allow it."""


class StoreError(LazarusError):
    """The store itself: wrong schema version, not a store, permissions."""


class ContainerRuntimeError(LazarusError):
    """crun or runc is missing or failed to start the container. `exit_code` is what the command line returns
    (125 engine, 126 command cannot be invoked, 127 command not found)."""

    def __init__(self, message: str, exit_code: int = 125) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RegistryError(LazarusError):
    """A registry, or a server on the way to one, did not do what the distribution specification says; `status` is the
    HTTP status of its answer, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class DeniedError(RegistryError):
    """A registry wants other credentials, or none will do: 401 and 403."""


class HookError(LazarusError):
    """A command or function that was to be called before or after something failed, or took too long."""


class Terminated(KeyboardInterrupt):
    """A signal that would have ended the process: at the command line it is as Ctrl-C, but for the word and the exit
    code. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__("terminated")
        self.number = number


# The codes of csrc/base/lz_err.h; tests/test_native_errors.py compares the two.
NATIVE_CODES: dict[int, type[LazarusError]] = {
    -10001: FormatError,
    -10002: TruncatedError,
    -10003: CorruptError,
    -10004: LimitError,
    -10005: UnsafeError,
    -10006: UnsupportedError,
    -10007: CancelledError,
}


def one_line(error: BaseException) -> str:
    """What there is to say about an error: the files that an `OSError` names, and what the kernel said about them."""
    if isinstance(error, OSError):
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        return ": ".join([*names, error.strerror or str(error)])
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    return str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


def from_code(code: int, text: str, path: object = None) -> Exception:
    """The exception for a negative return of csrc/: `OSError` for -errno, a `LazarusError` subclass otherwise."""
    if code < -10000:
        kind = NATIVE_CODES.get(code, LazarusError)
        return kind(f"{os.fsdecode(path)}: {text}" if isinstance(path, str | bytes) else text)
    if path is None:
        return OSError(-code, text or os.strerror(-code))
    return OSError(-code, text or os.strerror(-code), path)
