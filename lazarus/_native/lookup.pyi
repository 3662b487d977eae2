from os import PathLike

from lazarus._native.info import Info
from lazarus._native.union import Union

ROW_FIELDS: tuple[tuple[str, str] | tuple[str, str, tuple[int]], ...]

class Lookup(Union):
    def lookup(self, path: bytes | str | PathLike[str] | PathLike[bytes], *, follow: bool = False) -> Info | None: ...
    def lookup_rows(self, paths: object, offsets: object, rows: object, *, follow: bool = False) -> None: ...
