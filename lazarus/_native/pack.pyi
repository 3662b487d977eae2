from collections.abc import Sequence
from os import PathLike

from lazarus._native.index import Index
from lazarus.terms import Change

def diff(
    upper: str | PathLike[str],
    lower_index: str | PathLike[str] | Index | None,
    layer_indexes: Sequence[str | PathLike[str]] = (),
    objects: str | PathLike[str] | None = None,
    *,
    maps: str | PathLike[str] | None = None,
    user_xattr: bool = False,
) -> list[Change]: ...
def pack_upper(
    upper: str | PathLike[str],
    lower_index: str | PathLike[str] | Index | None,
    layer_indexes: Sequence[str | PathLike[str]],
    objects: str | PathLike[str],
    out_fd: int,
    *,
    maps: str | PathLike[str] | None = None,
    user_xattr: bool = False,
    max_mtime: int | None = None,
) -> int: ...
def pack_tree(
    source_fd: int,
    out_fd: int,
    *,
    root_name: bytes | None = None,
    cross_mounts: bool = False,
    max_mtime: int | None = None,
) -> int: ...
def unpack(
    in_fd: int,
    dir_fd: int,
    *,
    keep_owner: bool = True,
    keep_xattrs: bool = True,
    no_replace_directory: bool = False,
) -> int: ...
