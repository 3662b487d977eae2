from collections.abc import Iterator, Sequence
from os import PathLike
from typing import NamedTuple, Self

Path = str | bytes | PathLike[str]

class Entry(NamedTuple):
    number: int
    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    digest: bytes
    target: bytes | None
    xattrs: dict[bytes, bytes]
    major: int
    minor: int
    link: int
    link_count: int
    layer: int
    flags: int
    data_offset: int

class Index:
    def __init__(self, path: Path | int) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def __len__(self) -> int: ...
    @property
    def layers(self) -> list[bytes]: ...
    def find(self, path: bytes) -> int: ...
    def entry(self, number: int) -> Entry: ...
    def __iter__(self) -> Iterator[Entry]: ...
    def children(self, number: int) -> range: ...
    def objects_bytes(self) -> bytes: ...

def merge(layer_indexes: Sequence[Path], diff_ids: Sequence[bytes], out: Path) -> int: ...
