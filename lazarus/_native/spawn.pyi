from collections.abc import Iterable

def spawn(
    argv: Iterable[str | bytes],
    env: Iterable[str | bytes],
    *,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
    join: str | bytes | None = None,
    hide: str | bytes | None = None,
) -> int: ...
def set_subreaper(on: bool) -> None: ...
