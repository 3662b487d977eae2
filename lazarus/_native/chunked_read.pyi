from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

from lazarus._native.index import Index

class Need(NamedTuple):
    files: int
    missing: int
    content: int
    fetched: int
    wire: int

class Plan:
    def __init__(
        self,
        toc: bytes,
        toc_plain_size: int,
        toc_digest: bytes,
        tar_split: bytes | None,
        end: int,
        objects: str | PathLike[str],
        layers: Sequence[Index],
        *,
        gap: int,
    ) -> None: ...
    @property
    def ranges(self) -> list[tuple[int, int]]: ...
    @property
    def need(self) -> Need: ...
    def rebuild(self, wire_fd: int, out_fd: int, max_size: int) -> None: ...
