"""Stacks: several layers as one tree, under their chain ID."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from lazarus.content.lease import boot_id
from lazarus.content.paths import StorePaths
from lazarus.errors import LazarusError
from lazarus.terms import ChainID, DiffID, Digest

if TYPE_CHECKING:
    from sqlite3 import Row

    from lazarus._native.entry import Entry
    from lazarus._native.index import Index
    from lazarus.content.content import ContentStore
    from lazarus.content.lease import Lease
    from lazarus.layers.layer import Layer
    from lazarus.layers.layer_store import LayerStore


def chain_id(diff_ids: Sequence[DiffID]) -> ChainID:
    """The chain ID of a stack, lowest layer first (OCI image-spec, config.md, "Layer ChainID"). The specification has
    none for no layers at all; here it is the digest of nothing. The last ones are remembered: a start asks three times,
    and 500 layers take 0.5 ms."""
    return _chain_id(tuple(diff_ids))


@lru_cache(maxsize=64)
def _chain_id(diff_ids: tuple[DiffID, ...]) -> ChainID:
    import hashlib

    if not diff_ids:
        return ChainID("sha256:" + hashlib.sha256().hexdigest())
    chain = str(diff_ids[0])
    for diff_id in diff_ids[1:]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
    return ChainID(chain)


class RootAttributes(NamedTuple):
    """What a stack's root directory has: permission bits, owner, time, xattrs (as overlayfs wants them; hex values)."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[str, str]

    @classmethod
    def of(cls, root: Entry) -> RootAttributes:
        """Those of an index's first entry. overlayfs keeps `trusted.overlay.*` for itself: the image's own are escaped
        ("Nested overlayfs mounts" in overlayfs.rst)."""
        own = b"trusted.overlay."
        xattrs = {
            os.fsdecode(own + b"overlay." + name[len(own) :] if name.startswith(own) else name): value.hex()
            for name, value in root.xattrs.items()
        }
        return cls(root.mode & 0o7777, root.uid, root.gid, root.mtime_ns, xattrs)

    def apply(self, directory: str) -> None:
        """Gives them to a directory, as a container's upper needs it: an overlay's root shows those of the upper.

        Raises `PermissionError` for an owner or xattr that only root may set.
        """
        os.chown(directory, self.uid, self.gid)
        os.chmod(directory, self.mode)
        for name, value in self.xattrs.items():
            os.setxattr(directory, name, bytes.fromhex(value))
        os.utime(directory, ns=(self.mtime_ns, self.mtime_ns))


class Stack:
    """A merged index and the EROFS image of it, ready to be mounted. `root` is set by `StackStore.open`."""

    __slots__ = ("_paths", "chain_id", "diff_ids", "directory", "image_path", "index_path", "root")
    root: RootAttributes

    def __init__(self, name: ChainID, diff_ids: Sequence[DiffID], paths: StorePaths) -> None:
        self._paths = paths
        self.chain_id = name
        self.diff_ids = tuple(diff_ids)
        self.directory = paths.stack(name)
        self.index_path = f"{self.directory}/index"
        self.image_path = f"{self.directory}/metadata.erofs"

    def __repr__(self) -> str:
        return f"<Stack {self.chain_id[:19]} of {len(self.diff_ids)}>"

    @property
    def layer_index_paths(self) -> tuple[str, ...]:
        """The indexes of `diff_ids`, in that order: inline contents lie there."""
        return tuple(f"{self._paths.layer(diff_id)}/index" for diff_id in self.diff_ids)

    def index(self) -> Index:
        """The merged index, mapped and checked."""
        from lazarus._native.index import Index

        return Index(self.index_path)


class StackStore:
    """Stacks by their layers. A stack's files are a cache: removed or torn by a power cut, they are built again."""

    def __init__(self, content: ContentStore, layers: LayerStore) -> None:
        self.content = content
        self.layers = layers

    def open(self, diff_ids: Sequence[DiffID]) -> Stack:
        """The stack of these layers, lowest first; builds it when it is not there (milliseconds per 10,000 entries).

        One that exists costs a row and two stats (about 100 us). No layers at all are an empty root. Raises
        `NotFoundError` for a layer that is not in the store.
        """
        name = chain_id(diff_ids)
        stack = Stack(name, diff_ids, self.content.paths)
        row = self.content.catalogue.read().execute("SELECT * FROM stacks WHERE chain_id=?", (name,)).fetchone()
        if row is None or not self._is_whole(stack, row):
            stack.root = self._build(stack)
        else:
            stack.root = RootAttributes(**json.loads(row["root"]))
        return stack

    def _is_whole(self, stack: Stack, row: Row) -> bool:
        """Sizes are right, and under a boot that is not the one it was written in (it is not synced), contents too."""
        try:
            if os.stat(stack.index_path).st_size != row["index_size"]:
                return False
            if os.stat(stack.image_path).st_size != row["image_size"]:
                return False
            boot = boot_id()
            if row["boot_id"] == boot:
                return True
            stack.index().close()
            if _digest(stack.image_path) != row["image_digest"]:
                return False
        except (OSError, LazarusError):
            return False
        from lazarus.content.publish import sync_file_system

        sync_file_system(stack.directory)  # what we have read may still be only in memory
        with self.content.catalogue.write(durable=False) as connection:
            connection.execute("UPDATE stacks SET boot_id=? WHERE chain_id=?", (boot, stack.chain_id))
        return True

    def _build(self, stack: Stack) -> RootAttributes:
        from lazarus._native import index
        from lazarus._native.erofs import write_erofs

        for diff_id in stack.diff_ids:
            self.layers.get(diff_id)
        with self.content.lease("stack") as lease:
            directory = lease.new_directory("stack")
            merged, image = f"{directory}/index", f"{directory}/metadata.erofs"
            index.merge(list(stack.layer_index_paths), [diff_id.raw for diff_id in stack.diff_ids], merged)
            write_erofs(merged, list(stack.layer_index_paths), image)
            with index.Index(merged) as table:
                root = RootAttributes.of(next(iter(table)))
            row = (
                stack.chain_id,
                json.dumps(stack.diff_ids),
                os.stat(merged).st_size,
                os.stat(image).st_size,
                _digest(image),
                boot_id(),
                json.dumps(root._asdict()),
            )
            self._place(stack, lease, directory, row)
            return root

    def _place(self, stack: Stack, lease: Lease, directory: str, values: tuple[object, ...]) -> None:
        with self.content.catalogue.write(durable=False) as connection:
            lease.check_row(connection)
            row = connection.execute("SELECT * FROM stacks WHERE chain_id=?", (stack.chain_id,)).fetchone()
            if row is not None and row["boot_id"] == boot_id() and self._is_whole(stack, row):
                return  # another process was faster
            if os.path.lexists(stack.directory):
                os.rename(stack.directory, lease.new_path("torn"))
            os.rename(directory, stack.directory)
            connection.execute("INSERT OR REPLACE INTO stacks VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def merged_index(layers: Sequence[Layer], *, keep_whiteouts: bool = False) -> Index:
    """The merged index of layers of one store, lowest first: the stack's when the store has it, else made in memory.

    Two callers get the same one. `keep_whiteouts`: whiteouts and opaque marks stay, for something else lies below.
    """
    from lazarus._native import index

    name = chain_id([layer.diff_id for layer in layers])
    root = os.path.dirname(layers[0].objects_path)
    key = (root, name, keep_whiteouts)
    found = _merged.get(key)
    if found is None:
        found = None if keep_whiteouts else _index_of_stack(StorePaths(root).stack(name), layers)
        if found is None:
            fd = os.memfd_create("lazarus-index", os.MFD_CLOEXEC)
            try:
                paths, diff_ids = [layer.index_path for layer in layers], [layer.diff_id.raw for layer in layers]
                index.merge(paths, diff_ids, fd, keep_whiteouts=keep_whiteouts)
                found = index.Index(fd)
            finally:
                os.close(fd)
        _merged[key] = found
    return found


def _index_of_stack(directory: str, layers: Sequence[Layer]) -> Index | None:
    """The index of a stack of the store. It is a cache, not synced: only one that is whole, and of these layers."""
    from lazarus._native.index import Index

    try:
        index = Index(f"{directory}/index")
    except (OSError, LazarusError):
        return None
    return index if index.layers == [layer.diff_id.raw for layer in layers] else None


_merged: WeakValueDictionary[tuple[str, ChainID, bool], Index] = WeakValueDictionary()


def _digest(path: str) -> Digest:
    from lazarus._native.stream import sha256_file

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Digest.from_bytes(sha256_file(fd))
    finally:
        os.close(fd)
