from os import PathLike
from typing import NamedTuple

class Written(NamedTuple):
    digest: bytes
    size: int
    diff_id: bytes
    tar_size: int
    toc: tuple[int, int, int] | None
    tar_split: tuple[int, int, int] | None
    toc_digest: bytes | None

def write(
    recipe: str | PathLike[str],
    index: str | PathLike[str],
    objects: str | PathLike[str],
    out_fd: int,
    *,
    level: int = 0,
    threads: int = 0,
) -> Written: ...
