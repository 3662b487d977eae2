"""One layer of the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lazarus.content import readers
from lazarus.errors import LazarusError
from lazarus.terms import DiffID

if TYPE_CHECKING:
    from lazarus._native.index import Index


class Layer:
    """What `LayerStore.get` returns. Sizes are bytes; `content_size` counts each hard-link group once."""

    __slots__ = (
        "content_size",
        "diff_id",
        "directory",
        "entry_count",
        "index_path",
        "objects_path",
        "recipe_path",
        "tar_size",
    )

    def __init__(
        self, diff_id: DiffID, directory: str, objects: str, tar_size: int, entry_count: int, content_size: int
    ) -> None:
        self.diff_id = diff_id
        self.directory = directory
        self.index_path = f"{directory}/index"
        self.recipe_path = f"{directory}/recipe"
        self.tar_size = tar_size
        self.entry_count = entry_count
        self.content_size = content_size
        self.objects_path = objects

    def __repr__(self) -> str:
        return f"<Layer {self.diff_id[:19]} {self.entry_count} entries>"

    def index(self) -> Index:
        """The layer's index, mapped and checked (O(entries), about 10 ms for 100,000)."""
        from lazarus._native.index import Index

        return Index(self.index_path)

    def hold(self) -> int:
        """A descriptor: until it is closed, no pool takes the objects to another place. About 5 us."""
        return readers.hold(self.objects_path)

    def write_tar(self, out_fd: int) -> int:
        """Writes the layer's tar, byte for byte as it came, to a file, pipe or socket; returns its size.

        The bytes are hashed on the way: `CorruptError` names what is not as it was, `OSError` (ENOENT) an object that
        is missing. The output is worthless then.
        """
        from lazarus._native.recipe import replay

        held = self.hold()
        try:
            return replay(self.recipe_path, self.index_path, self.objects_path, out_fd)
        except LazarusError as error:
            raise type(error)(f"layer {self.diff_id}: {error}") from error
        finally:
            os.close(held)
