"""`pool create`, `pool status`, `pool grow`, `pool destroy`."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.options import PROGRAM, Mistake, Option, Verb, Word
from lazarus.cli.output import FORMAT, print_json, size

if TYPE_CHECKING:
    from lazarus.content.pool import PoolStatus
    from lazarus.store import Store


def create(store: Store, arguments: SimpleNamespace) -> int:
    """Makes a pool and moves the store onto it."""
    return _show(store.pool.create(_bytes(arguments.size)), arguments.format)


def status(store: Store, arguments: SimpleNamespace) -> int:
    """How large the pool is, what it takes of the host, and how it is mounted."""
    return _show(store.pool.status(), arguments.format)


def grow(store: Store, arguments: SimpleNamespace) -> int:
    """Makes the pool larger."""
    return _show(store.pool.grow(_bytes(arguments.size)), arguments.format)


def destroy(store: Store, arguments: SimpleNamespace) -> int:
    """Moves the store back to the host, or loses what it holds."""
    store.pool.destroy(force=arguments.force)
    return 0


def _bytes(text: str) -> int:
    """`1073741824`, `1G`, `1GiB`, `1.5g`."""
    digits = text.rstrip("KMGTiBkmgtb")
    unit = text[len(digits) :].upper().removesuffix("B").removesuffix("I")
    try:
        if not (digits.isascii() and digits.replace(".", "", 1).isdigit()):
            raise ValueError(digits)
        count = float(digits) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}[unit]
    except (KeyError, ValueError):
        raise Mistake(f"SIZE {text!r:.60}: not a number with K, M, G, T or nothing behind it") from None
    if not 0 <= count < 2**63:
        raise Mistake(f"SIZE {text!r:.60}: not between 0 and 2^63 bytes")
    return int(count)


def _show(found: PoolStatus, form: str) -> int:
    if found.missing:
        sys.stderr.write(
            f"{PROGRAM}: {found.path}: the pool may still take {size(found.size - found.allocated)} of the host, which"
            f" has {size(found.host_free)} free; writes in containers fail when it is full\n"
        )
    if form == "json":
        print_json(found._asdict())
        return 0
    facts = {
        "Image": found.path,
        "Size": size(found.size),
        "Used": size(found.used),
        "Free": size(found.free),
        "OnHost": size(found.allocated),
        "HostFree": size(found.host_free),
        "Mounted": found.mounted,
        "Device": found.device or "none",
        "DirectIO": "yes" if found.direct_io else "no",
        "Reflink": "yes" if found.reflink else "no",
    }
    for name, value in facts.items():
        print(f"{name}: {value}")
    return 0


_SIZE = Word("size", "SIZE", "bytes, or a number with K, M, G or T (powers of 1024)")

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "pool create", "move the store onto an XFS image of its own, for cheap copy-up", create, (_SIZE,), (FORMAT,)
        ),
        Verb("pool status", "show the size, use and mount of the store's pool", status, (), (FORMAT,)),
        Verb(
            "pool destroy",
            "move the store back to the host's file system and remove its pool",
            destroy,
            (),
            (Option(("-f", "--force"), "force", "lose everything in the store instead of moving it"),),
        ),
        Verb("pool grow", "make the store's pool larger, while it is in use", grow, (_SIZE,), (FORMAT,)),
    )
}
