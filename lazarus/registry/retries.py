"""How often something is tried again, and after how long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from lazarus.errors import LazarusError
from lazarus.registry.settings import Settings

_LONGEST = 3  # the exponent that a pause grows to: eight times `backoff`
_SAID = 5.0  # seconds from which a pause that a server asks for is worth a word
_OUTAGE = 60.0  # seconds for which a server may be away, however few tries they were


class TransientError(Exception):
    """Something that may be over the next time: `error` is what is said when it is not. `away`: a server that was there
    is not, as when it starts again."""

    def __init__(self, error: LazarusError, pause: float | None = None, *, away: bool = False) -> None:
        super().__init__(str(error))
        self.error, self.pause, self.away = error, pause, away


class Retries:
    """The failures of a request, or those of a blob since it last got on.

    What a server does wrong it may do `settings.retries` times more. One that is away has longer, `settings.away` tries
    with pauses of up to eight times `backoff`, half a minute by default: it may be starting again. With somebody else
    to ask (`patient` off) it has not.
    """

    def __init__(
        self,
        settings: Settings,
        wait: Callable[[float], None],
        say: Callable[[str], None],
        *,
        patient: bool = True,
    ) -> None:
        """`wait` waits, or raises when nobody wants to any longer; `say` is told of the long pauses that a server asks
        for."""
        self._settings, self._wait, self._say, self._patient = settings, wait, say, patient
        self._wrong = self._away = 0
        self._until = 0.0

    def after(self, error: TransientError) -> None:
        """Waits until the next try, as long as the server asked for or longer each time; raises what the error means
        when there is to be none."""
        settings, now = self._settings, time.monotonic()
        if error.away and self._patient:
            if self._away == 0:
                self._until = now + _OUTAGE
            over = self._away >= (settings.away if now < self._until else settings.retries)
            self._away += 1
        else:
            over = self._wrong >= settings.retries
            self._wrong += 1
        if over:
            raise error.error from error
        power = min(self._wrong + self._away - 1, _LONGEST)
        asked = min(error.pause or 0.0, settings.longest_pause)
        if asked >= _SAID:
            self._say(f"{error.error}; again in {asked:.0f} s")
        self._wait(min(max(settings.backoff * 2**power * random.uniform(0.5, 1.0), asked), settings.longest_pause))

    def forget(self) -> None:
        """It gets on: the failures so far do not count any more."""
        self._wrong = self._away = 0
