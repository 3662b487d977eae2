from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import NamedTuple, Self

from lazarus._native.index import Index
from lazarus.terms import ViewChange

Path = str | PathLike[str]

class RelayerResult(NamedTuple):
    diff_id: bytes
    tar_size: int
    entry_count: int
    content_size: int
    object_count: int
    inline_bytes: int
    source_digest: bytes
    source_size: int
    blob_digest: bytes
    blob_size: int
    compression: str

def squash(
    layers: Sequence[tuple[Path, Path]],
    objects: Path,
    staging: Path,
    *,
    below: Index | None = None,
    progress: Callable[[int], None] | None = None,
) -> RelayerResult: ...
def match(layer: Index, patterns: Iterable[bytes]) -> tuple[bytearray, int]: ...
def split(
    layer: tuple[Path, Path],
    matched: bytearray,
    side: bool,
    objects: Path,
    staging: Path,
    *,
    below: Index | None = None,
    progress: Callable[[int], None] | None = None,
) -> RelayerResult: ...

class Comparison:
    def __init__(self, before: Index, after: Index) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> ViewChange: ...
