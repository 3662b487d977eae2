"""What of containers can be checked: that what their files lie on is there, and that files which a layer stack has
copied up block by block can be read. Everything else in an upper is the container's own, of which nobody knows more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lazarus.containers import chain, checkpoints
from lazarus.containers.state import Room
from lazarus.content.verify import Problem
from lazarus.errors import ConflictError, LazarusError, NotFoundError, one_line

if TYPE_CHECKING:
    from lazarus.containers.container import Container
    from lazarus.store import Store

_BLOCKS = "trusted.overlay.lazarus"  # of a file of which only some blocks are there (csrc/tree/lz_blocks.h)
_PIECE = 1 << 20


def problems(store: Store) -> Iterator[Problem]:
    """Kind "container" or "checkpoint"; nothing is changed."""
    yield from _chains(store)
    for container in store.containers.list(all=True):
        try:
            if os.path.isdir(f"{container.directory}/union/blocks"):
                yield from _blocks(container)
        except (NotFoundError, ConflictError):
            continue  # it has been removed, or made whole meanwhile
        except (LazarusError, OSError) as error:
            yield Problem("container", container.id, f"container {container.name}: {one_line(error)}")


def _chains(store: Store) -> Iterator[Problem]:
    """Every upper that lies on a checkpoint which is not there."""
    found = []
    with Room(store.paths.containers, alone=True):  # nothing is half-way
        for upper, what in checkpoints.all_uppers(store):
            key = checkpoints.lies_on(upper)
            if key is not None and not os.path.isdir(f"{store.paths.checkpoint(key)}/upper"):
                found.append((what, os.path.basename(os.path.dirname(upper)), key))
    for what, identity, key in found:
        kind, _, name = what.partition(" ")
        text = f"{what}: checkpoint {chain.spoken(key)}, which its files lie on, is gone"
        yield Problem(kind, identity if kind == "container" else name, text)


def _blocks(container: Container) -> Iterator[Problem]:
    upper = f"{container.directory}/upper"
    with container.stack(read_only=True) as stack:
        for place, _, names in os.walk(upper):
            for name in names:
                path = f"{place}/{name}"
                if not _in_blocks(path):
                    continue
                inside = path[len(upper) :]
                try:
                    with stack.open(inside, "rb") as file:
                        while file.read(_PIECE):
                            pass
                except FileNotFoundError:
                    continue
                except (LazarusError, OSError) as error:
                    text = f"container {container.name}: {inside}: {one_line(error)}"
                    yield Problem("container", container.id, text)


def _in_blocks(path: str) -> bool:
    try:
        os.getxattr(path, _BLOCKS, follow_symlinks=False)
    except OSError:
        return False
    return True
