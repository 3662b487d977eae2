"""Drivers describe mounts as values; `attach` acts on them. `driver.py` is the page to read first."""

from __future__ import annotations

from lazarus.mounts.attach import attach, detach

__all__ = ["attach", "detach"]
