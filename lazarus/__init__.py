"""Lazarus: container images as indexes and objects, with a native core.

    import lazarus

    with lazarus.Store("/srv/store") as store:
        (image,) = store.images.load("debian.oci.tar")
        container = store.containers.create(image, command=["true"])

`import lazarus` costs less than 2 ms: each room is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lazarus import errors, terms
    from lazarus.store import Store

__version__ = "0.1.0"
__all__ = ["Store", "errors", "terms"]


def __getattr__(name: str) -> object:
    """PEP 562: `Store`, `errors` and `terms` on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = import_module("lazarus.store").Store if name == "Store" else import_module(f"lazarus.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
