from os import PathLike

from lazarus._native.union import Union

Path = bytes | str | PathLike[str] | PathLike[bytes]

def pack(
    union: Union,
    path: Path,
    out_fd: int,
    *,
    follow: bool = True,
    root_name: bytes | None = None,
    max_mtime: int | None = None,
) -> int: ...
def unpack(
    union: Union,
    in_fd: int,
    path: Path,
    *,
    keep_owner: bool = True,
    keep_xattrs: bool = True,
    no_replace_directory: bool = False,
) -> int: ...
