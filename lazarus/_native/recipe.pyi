from os import PathLike

def replay(
    recipe: str | PathLike[str], index: str | PathLike[str], objects: str | PathLike[str], out_fd: int
) -> int: ...
