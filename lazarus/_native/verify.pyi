from collections.abc import Callable

from lazarus._native.index import Index

def verify_files(
    directory: str, digests: bytes, *, fan: bool, step: Callable[[int, int], None] | None = None
) -> bytes: ...
def verify_parts(index: Index, recipe: str, diff_id: bytes, tar_size: int) -> None: ...
