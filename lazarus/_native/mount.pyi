from collections.abc import Sequence
from os import PathLike

Path = str | bytes | PathLike[str]

def mount_stack(
    image: Path | None,
    lowers: Sequence[Path],
    data: Sequence[Path],
    upper: Path | None,
    work: Path | None,
    target: Path,
    *,
    above: Sequence[Path] = (),
    metacopy: bool = True,
    redirect_dir: bool = True,
    volatile: bool = False,
    user_xattr: bool = False,
    read_only: bool = False,
    erofs_source: str = "auto",
    attach_dir: Path | None = None,
    force_paths: bool = False,
) -> str: ...
def bind(source: Path, target: Path, *, read_only: bool = False, recursive: bool = True) -> None: ...
def hold(target: Path) -> int: ...
def unmount(target: Path, lazy: bool = False) -> None: ...
def is_mount(path: Path) -> bool: ...
def supports(file_system: str, key: str | None = None) -> bool: ...
