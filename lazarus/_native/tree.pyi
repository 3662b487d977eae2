from collections.abc import Mapping
from os import PathLike

def clean_path(path: bytes) -> bytes: ...

class TreeBuilder:
    def __init__(self, max_entries: int = 0) -> None: ...
    def add(
        self,
        path: bytes,
        kind: str,
        *,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        mtime_ns: int = 0,
        size: int = 0,
        digest: bytes | None = None,
        target: bytes | None = None,
        xattrs: Mapping[bytes, bytes] | None = None,
        major: int = 0,
        minor: int = 0,
    ) -> None: ...
    def link(self, path: bytes, target: bytes) -> None: ...
    def whiteout(self, path: bytes) -> None: ...
    def opaque(self, path: bytes) -> None: ...
    def write(self, out: str | bytes | PathLike[str] | PathLike[bytes]) -> int: ...
