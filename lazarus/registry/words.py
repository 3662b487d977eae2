"""What is said of servers and of what they say: one short line of printable ASCII."""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import time

from urllib3 import exceptions


def printable(text: str, limit: int) -> str:
    """What a server says, fit for a message: printable ASCII on one line, cut; nothing in it drives a terminal."""
    line = " ".join("".join(c if c.isascii() and c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def why(error: BaseException) -> str:
    """The innermost reason, in few words."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen and len(seen) < 6:
        seen.append(cause)
        inner = getattr(cause, "reason", None) or getattr(cause, "original_error", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__ or cause.__context__
    for cause in reversed(seen):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {printable(cause.verify_message or str(cause), 150)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {printable((cause.reason or str(cause)).replace('_', ' ').lower(), 100)}"
        if isinstance(cause, socket.gaierror):
            return f"its host is not known: {printable(cause.strerror or str(cause), 100)}"
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return printable(cause.strerror, 100)
    if isinstance(seen[-1], TimeoutError | exceptions.TimeoutError):
        return "no answer in time"
    return printable(str(seen[-1]), 150) or type(seen[-1]).__name__


def retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header: a number or a date; None when it is neither."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
