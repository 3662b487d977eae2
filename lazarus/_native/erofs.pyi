from collections.abc import Sequence
from os import PathLike

Path = str | bytes | PathLike[str]

def write_erofs(merged: Path, layer_indexes: Sequence[Path], out: Path) -> int: ...
