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
    from lazarus import chunks, errors, terms
    from lazarus.store import Store
    from lazarus.union import LayerStack

__version__ = "0.1.0"
__all__ = ["LayerStack", "Store", "chunks", "errors", "terms"]


def __getattr__(name: str) -> object:
    """PEP 562: `Store`, `LayerStack`, `chunks`, `errors` and `terms` on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    classes = {"Store": "lazarus.store", "LayerStack": "lazarus.union.layer_stack"}
    value: object = getattr(import_module(classes[name]), name) if name in classes else import_module(f"lazarus.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
