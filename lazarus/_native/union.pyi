from collections.abc import Sequence

from lazarus._native.index import Index

class Union:
    def __init__(
        self,
        lowers: Sequence[tuple[Index, Sequence[int], int] | tuple[int, bool]],
        upper_fd: int = -1,
        work_fd: int = -1,
        *,
        user_xattr: bool = False,
        rung: int = 0,
        block_threshold: int = 0,
        block_size: int = 0,
        read_only: bool = False,
        also: Sequence[int] = (),
    ) -> None: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
