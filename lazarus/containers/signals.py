"""Signals by name, as people and images write them."""

from __future__ import annotations

import signal

from lazarus.errors import FormatError


def signal_number(text: str | int) -> int:
    """`TERM`, `SIGTERM`, `15`, `SIGRTMIN+3`. Raises `FormatError`."""
    name = str(text).strip().upper()
    if not name.isascii() or len(name) > 20:
        raise FormatError(f"{text!r:.40}: not a signal")
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    base, sign, offset = name.removeprefix("SIG").partition("+")
    number = getattr(signal, f"SIG{base}", None)
    if isinstance(number, signal.Signals) and (not sign or (base == "RTMIN" and offset.isdigit())):
        value = int(number) + int(offset or 0)
        if value < signal.NSIG:
            return value
    raise FormatError(f"{text!r:.40}: not a signal")
