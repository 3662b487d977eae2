"""The composition root: opens a store and hands out its rooms, each built when first asked for."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from lazarus.content.paths import StorePaths
from lazarus.errors import ConflictError, NotFoundError, StoreError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from lazarus.containers import Containers
    from lazarus.containers.container import Container
    from lazarus.content.catalogue import Catalogue
    from lazarus.content.content import ContentStore
    from lazarus.content.pool import Pool
    from lazarus.content.scrub import Scrub
    from lazarus.content.verify import Problem
    from lazarus.images import Images
    from lazarus.images.dedup import Dedup
    from lazarus.images.image import Image
    from lazarus.layers.layer_store import LayerStore
    from lazarus.layers.stack import StackStore
    from lazarus.terms import Progress
    from lazarus.union.layer_stack import LayerStack
    from lazarus.volumes.volumes import Volumes


def default_root() -> str:
    """LAZARUS_ROOT, else /var/lib/lazarus for root, $XDG_DATA_HOME/lazarus for others."""
    root = os.environ.get("LAZARUS_ROOT")
    if root:
        return root
    if os.geteuid() == 0:
        return "/var/lib/lazarus"
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "lazarus")


class PrunedContainer(NamedTuple):
    """A container that a prune removed."""

    id: str
    name: str


class PrunedImage(NamedTuple):
    """An image that a prune removed, with the names that it had."""

    id: str
    names: tuple[str, ...]


class Pruned(NamedTuple):
    """What a prune removed: containers, images and (names of) volumes, how many of the rest, and the bytes on disk that
    this gave back."""

    containers: tuple[PrunedContainer, ...]
    images: tuple[PrunedImage, ...]
    volumes: tuple[str, ...]
    blobs: int
    layers: int
    objects: int
    stacks: int
    bytes: int


class Store:
    """A store of images and containers. A context manager; `close()` when used without `with`.

    Any number of processes and threads may have the same store open. Attributes: `paths`, `catalogue`, `content`,
    `layers`, `stacks`, `images`, `dedup`, `containers`, `volumes`, `pool`, `chunk_key`.
    """

    paths: StorePaths
    catalogue: Catalogue

    def __init__(self, root: str | os.PathLike[str] | None = None, *, create: bool = True) -> None:
        """Opens the store at `root` (default: `default_root()`); makes one when the directory is missing or empty.

        Raises `StoreError` (not a store, a newer schema, a damaged catalogue) or `OSError` (permissions, a full disk).
        Opening one that exists takes under a millisecond; what dead processes left in it is removed on the way.
        """
        path = os.path.abspath(os.fspath(root) if root is not None else default_root())
        self.paths = StorePaths(path)
        fresh = _prepare_root(path, create)
        from lazarus.content.catalogue import Catalogue
        from lazarus.content.reserve import Reserve

        reserve = Reserve.of(self.paths)
        self.catalogue = Catalogue(
            self.paths.db, create=fresh or create, prepare=self._make_directories, reserve=reserve
        )
        try:
            self._recover()
        except FileNotFoundError as error:
            self.close()
            raise StoreError(f"{path}: the store has lost a directory: {error.filename}") from error
        except BaseException:
            self.close()
            raise
        reserve.fill()

    def _recover(self) -> None:
        """A store whose rooms are not to be seen has a pool that is not mounted here: after a reboot, or in a mount
        namespace that was made before it. A store without a pool, or with a mounted one, pays nothing for this."""
        try:
            self.content.recover()
        except FileNotFoundError:
            if not os.path.islink(self.paths.data):
                raise
            from lazarus.content.pool_disk import reattach

            reattach(self.paths)
            self.content.recover()

    def _make_directories(self) -> None:
        for directory in self.paths.directories():
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:  # of a process that died while it made this store
                if not os.path.isdir(directory):
                    raise

    @cached_property
    def content(self) -> ContentStore:
        """Blobs, objects, leases, publishing, collection."""
        from lazarus.content.content import ContentStore

        return ContentStore(self.paths, self.catalogue)

    @cached_property
    def layers(self) -> LayerStore:
        """Layers by diff ID."""
        from lazarus.layers.layer_store import LayerStore

        return LayerStore(self.content)

    @cached_property
    def stacks(self) -> StackStore:
        """Merged indexes and EROFS images by chain ID."""
        from lazarus.layers.stack import StackStore

        return StackStore(self.content, self.layers)

    @cached_property
    def images(self) -> Images:
        """Load, save, import, tag, remove."""
        from lazarus.images import Images

        return Images(self)

    @cached_property
    def dedup(self) -> Dedup:
        """What images share, and would if they shared chunks."""
        from lazarus.images.dedup import Dedup

        return Dedup(self)

    @cached_property
    def containers(self) -> Containers:
        """Create, start, stop, exec, diff, commit."""
        from lazarus.containers import Containers

        return Containers(self)

    @cached_property
    def volumes(self) -> Volumes:
        """Directories that outlive containers: create, remove, copy, export."""
        from lazarus.volumes.volumes import Volumes

        return Volumes(self)

    @cached_property
    def pool(self) -> Pool:
        """The XFS image that gives a store on any file system copy-ups that share blocks."""
        from lazarus.content.pool import Pool

        return Pool(self.content, self.containers.still)

    @property
    def chunk_key(self) -> bytes:
        """32 secret bytes that no other store has, drawn when they are first asked for: the `key` of
        `lazarus.chunks.cut()` and `dedup.report()`. Chunks that are cut with them have lengths that say nothing of
        their content to whoever does not know them, and are found again in this store alone. `StoreError`, `OSError`:
        the catalogue cannot be written."""
        select = "SELECT secret FROM secrets WHERE purpose='chunks'"
        row = self.catalogue.read().execute(select).fetchone()
        if row is None:
            with self.catalogue.write() as connection:
                insert = "INSERT OR IGNORE INTO secrets(purpose, secret) VALUES ('chunks', ?)"  # another may be first
                connection.execute(insert, (os.urandom(32),))
                row = connection.execute(select).fetchone()
        return bytes(row[0])

    def system_df(self) -> dict[str, Any]:
        """Counts and bytes of everything in the store; see `ContentStore.usage`."""
        return {"root": self.paths.root, **self.content.usage()}

    def prune(
        self, *, all_images: bool = False, containers: bool = False, volumes: bool = False, dry_run: bool = False
    ) -> Pruned:
        """Removes images without a name that no container uses, then everything that nothing needs any more.

        `all_images` also removes images that have names but no container; `containers` first removes every container
        that is not running; `volumes` then those without a name of their own that no container uses. A dry run changes
        nothing, and says what the same call would do without it.
        """
        from lazarus.containers.removal import delete
        from lazarus.content.usage import disk_usage
        from lazarus.volumes.volumes import PrunedVolumes

        gone: list[PrunedContainer] = []
        images: dict[str, PrunedImage] = {}
        freed = 0
        for container in self.containers.list(all=True) if containers else ():
            with suppress(NotFoundError, ConflictError):  # removed or started meanwhile, or in use
                if container.status != "running":
                    size = disk_usage(container.directory).allocated
                    if not dry_run:
                        delete(container, False, checkpoints=False)  # the sweep below counts those
                    gone.append(PrunedContainer(container.id, container.name))
                    freed += size
        freed += self.containers.sweep(dry_run, [container.id for container in gone])
        unused = PrunedVolumes((), 0)
        if volumes:
            unused = self.volumes.prune(dry_run=dry_run, gone=[container.id for container in gone])
            freed += unused.bytes

        def delete_rows(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM containers WHERE id=?", [(container.id,) for container in gone])
            nameless = connection.execute(
                "SELECT manifest_digest, config_digest FROM images WHERE manifest_digest NOT IN"
                " (SELECT manifest_digest FROM containers)"
                + ("" if all_images else " AND manifest_digest NOT IN (SELECT manifest_digest FROM names)")
                + " ORDER BY created, manifest_digest"
            ).fetchall()
            names = "SELECT reference FROM names WHERE manifest_digest=? ORDER BY reference"
            for digest, config in nameless:
                images[digest] = PrunedImage(config, tuple(row[0] for row in connection.execute(names, (digest,))))
            connection.executemany("DELETE FROM images WHERE manifest_digest=?", [(row[0],) for row in nameless])

        collected = self.content.collect(dry_run, rows=delete_rows)
        if not dry_run and self.pool.exists:
            self.pool.trim()
        return Pruned(tuple(gone), tuple(images.values()), unused.names, *collected[:4], collected.bytes + freed)

    def find(self, name: str) -> Container | Image:
        """The container or image of that name or ID; a container wins. `NotFoundError`."""
        try:
            return self.containers.get(name)
        except NotFoundError:
            pass
        try:
            return self.images.get(name)
        except NotFoundError:
            raise NotFoundError(f"{name}: no such container or image") from None

    def stack(self, name: str | Container | Image, *, writable: bool = False) -> LayerStack:
        """The files of a container or image, or of what has that name or ID. `NotFoundError`; `writable`: of a
        container that neither runs nor is mounted (`ConflictError`); an image has no writable ones (EROFS when
        something is changed)."""
        from lazarus.containers.container import Container

        found = self.find(name) if isinstance(name, str) else name
        return found.stack(read_only=not writable) if isinstance(found, Container) else found.stack()

    def check(
        self, *, repair: bool = False, threads: int | None = None, progress: Progress | None = None
    ) -> Iterator[Problem]:
        """Reads everything and yields what is wrong: see `ContentStore.verify`; and of containers, what their files lie
        on, and those that were copied up block by block (these are not repaired)."""
        from lazarus.containers.check import problems

        yield from self.content.verify(repair, threads=threads, progress=progress)
        yield from problems(self)

    def scrub(
        self, *, since: float = 0.0, rate: int = 0, threads: int | None = None, progress: Progress | None = None
    ) -> Scrub:
        """Reads every byte once, in parts that can be left out the next time; see `ContentStore.scrub`."""
        return self.content.scrub(since=since, rate=rate, threads=threads, progress=progress)

    def close(self) -> None:
        """Closes the catalogue, and fills the reserve again with what that gave back. Idempotent; containers that run
        go on running."""
        self.catalogue.close()
        self.content.reserve.fill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.paths.root}>"


def _prepare_root(path: str, create: bool) -> bool:
    """Makes the directory if need be. True when it is new or empty; raises when it cannot be a store."""
    try:
        if create:
            os.makedirs(path, 0o700, exist_ok=True)
        # One look, without listing a directory that is a store already.
        if os.path.isfile(f"{path}/lazarus.db"):
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return False
        names = os.listdir(path)
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(f"{path}: not a directory") from error
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no store there") from error
    if [name for name in names if name != "lost+found"]:
        raise StoreError(f"{path}: not a Lazarus store, and not empty")
    if not create:
        raise StoreError(f"{path}: no store there")
    os.chmod(path, 0o700)
    return True
