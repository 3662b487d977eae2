"""Layers and host directories as one tree in this process: no mount, no root.

`LayerStack` (layer_stack.py) is the face: names, attributes, changes. `sources.py` opens what it is made of, `file.py`
is an open file as the io module knows one, `entries.py` what a directory gives, `changes.py` the diff. The rules are
those of csrc/tree/lz_union.h; there are none here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lazarus.union.layer_stack import LayerStack

__all__ = ["LayerStack"]


def __getattr__(name: str) -> object:
    if name != "LayerStack":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lazarus.union.layer_stack import LayerStack

    return LayerStack
