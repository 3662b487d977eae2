"""After wrong bytes of a mirror, the next one is asked: the loop around whatever reads a blob and knows its digest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lazarus.errors import CorruptError, LazarusError

_Result = TypeVar("_Result")


def asking_others(
    attempt: Callable[[], _Result],
    distrust: Callable[[LazarusError], bool],
    wrong: tuple[type[LazarusError], ...] = (CorruptError,),
) -> _Result:
    """What `attempt` returns. It is made again after one of the errors `wrong` as long as `distrust`
    (`RegistryClient.distrust`) says that there is somebody who has not sent any of the bytes; each time there is one
    mirror less."""
    while True:
        try:
            return attempt()
        except wrong as error:
            if not distrust(error):
                raise
