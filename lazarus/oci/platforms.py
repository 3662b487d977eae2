"""Platforms: the host's, and which manifest of an image index fits one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from lazarus.errors import FormatError, NotFoundError
from lazarus.terms import Descriptor, Platform

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm", "armel": "arm"}
_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "illumos", "aix", "wasip1")
_PART = re.compile(r"[A-Za-z0-9_.-]+\Z")


def host() -> Platform:
    """This machine's platform in Go's words."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def parse_platform(text: str) -> Platform:
    """`os/architecture[/variant]`, an architecture alone (of linux), or a system alone (on this host's architecture).
    Raises `FormatError`."""
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(_PART.match(part) for part in parts):
        raise FormatError(f"not a platform: {text!r:.100} (expected os/architecture[/variant])")
    if len(parts) == 1:
        parts = [text, *filter(None, host()[1:])] if text.lower() in _SYSTEMS else ["linux", text]
    system, architecture, *variant = (part.lower() for part in parts)
    return Platform(system, _ALIASES.get(architecture, architecture), variant[0] if variant else "")


def normal(platform: Platform) -> Platform:
    """With the variant that says nothing left out: arm64 is v8, amd64 is v1."""
    if (platform.architecture, platform.variant) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
        return platform._replace(variant="")
    return platform


def matches(wanted: Platform, offered: Platform) -> bool:
    """Same system and architecture; the variant only where both name one (on arm, an older one runs too)."""
    a, b = normal(wanted), normal(offered)
    if a[:2] != b[:2]:
        return False
    if not a.variant or not b.variant or a.variant == b.variant:
        return True
    return a.architecture == "arm" and b.variant < a.variant


def select(wanted: Platform, candidates: Sequence[Descriptor], what: str) -> Descriptor:
    """The first candidate with exactly this platform, else the first that matches. Without a platform a candidate fits
    only when it is alone. `NotFoundError` lists what is there."""
    exact = [c for c in candidates if c.platform is not None and normal(c.platform) == normal(wanted)]
    close = [c for c in candidates if c.platform is not None and matches(wanted, c.platform)]
    close.sort(key=lambda c: c.platform.variant if c.platform else "", reverse=True)
    for found in (exact, close):
        if found:
            return found[0]
    if len(candidates) == 1 and candidates[0].platform is None:
        return candidates[0]
    there = sorted({str(c.platform) if c.platform else "unnamed" for c in candidates} - {"unknown/unknown"})
    raise NotFoundError(f"{what}: no image for platform {wanted}; there are: {', '.join(there) or 'none'}")


def name_for(name: str, platform: Platform) -> str:
    """`name:tag` with a platform after the tag, for images that share a name but for their platforms."""
    return f"{name}-{str(normal(platform)).replace('/', '-')}"
