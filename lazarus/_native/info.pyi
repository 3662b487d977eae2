from typing import final

@final
class Info:
    layer: int
    data_layer: int
    mode: int
    uid: int
    gid: int
    major: int
    minor: int
    link_count: int
    size: int
    device: int
    number: int
    entry: int
    unsettled: bool
    @property
    def kind(self) -> str: ...
    @property
    def digest(self) -> bytes | None: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...
