"""The containers of a store: making and finding them."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lazarus.containers import rootfs
from lazarus.containers.container import Container
from lazarus.containers.names import check_name, is_name, random_name
from lazarus.containers.settings import (
    NETWORKS,
    Settings,
    check_environment,
    check_hostname,
    check_signal,
    command_line,
    parse_mounts,
    working_directory,
)
from lazarus.containers.shown import Row, insert_made, insert_with_volumes
from lazarus.containers.state import Lock, Room
from lazarus.content import limited, readers
from lazarus.errors import ConflictError, ContainerRuntimeError, FormatError, LazarusError, NotFoundError
from lazarus.terms import ChainID, Digest

if TYPE_CHECKING:
    from lazarus.images import Image
    from lazarus.layers.stack import RootAttributes
    from lazarus.store import Store
    from lazarus.volumes.mounts import AnyMount
    from lazarus.volumes.volume import Volume

_DIRECTORIES = ("upper", "work", "merged", "bundle")
_WRITTEN = ("upper", "work", "union")  # what is renamed between them stays on one file system


class Containers:
    """`store.containers`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(
        self,
        image: Image | str,
        *,
        command: Iterable[str] | None = None,
        name: str | None = None,
        env: Iterable[str] = (),
        workdir: str | None = None,
        user: str | None = None,
        volumes: Iterable[str | AnyMount] = (),
        network: str = "none",
        hostname: str | None = None,
        tty: bool = False,
        interactive: bool = False,
        read_only: bool = False,
        size: int | None = None,
        entrypoint: str | Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
        stop_signal: str | None = None,
        ephemeral: bool = False,
        auto_remove: bool = False,
    ) -> Container:
        """A container that has not been started. Nothing is mounted, nothing synced: about 0.5 ms, and the first time
        for a list of layers some milliseconds per 10,000 files.

        What is not given comes from the image's config. `network` is "none" (only `lo`) or "host"; `volumes` are what
        `-v` takes, or values of lazarus.volumes.mounts, and new ones are made (some milliseconds more);
        `interactive` keeps stdin open in the background. `ephemeral` mounts without any sync: what it writes may not
        survive a crash of the machine, volumes apart. `auto_remove` removes it when it ends, and is ephemeral. `size`:
        the bytes that it can write, volumes and mounted images apart (30 ms more; a checkpoint of it is a copy).
        Raises `NotFoundError` (image), `ConflictError` (name), `FormatError`, `ContainerRuntimeError` (no command).
        """
        found = self.store.images.get(image) if isinstance(image, str) else image
        config = found.config.config
        if network not in NETWORKS:
            raise FormatError(f"network {network!r:.40}: not one of {', '.join(NETWORKS)}")
        args = command_line(config, command, entrypoint)
        if not args:
            raise ContainerRuntimeError(f"image {image}: it names no command, and none was given")
        mounts = parse_mounts(config, volumes)
        settings = Settings(
            image=image if isinstance(image, str) else next(iter(found.names), found.id),
            image_id=found.id,
            diff_ids=tuple(found.diff_ids),
            args=args,
            image_env=tuple(config.get("Env") or ()),
            env=check_environment(env),
            cwd=working_directory(config, workdir),
            user=user if user is not None else (config.get("User") or ""),
            hostname=check_hostname(hostname or ""),
            network=network,
            **mounts._asdict(),
            labels={**(config.get("Labels") or {}), **(labels or {})},
            stop_signal=check_signal(stop_signal or config.get("StopSignal") or "SIGTERM"),
            terminal=tty,
            interactive=interactive,
            read_only=read_only,
            size=size,
            ephemeral=ephemeral or auto_remove,
            auto_remove=auto_remove,
        )
        return self._insert(found, settings, name)

    def run(self, image: Image | str, *, attach: bool = True, **options: object) -> tuple[Container, int | None]:
        """create() and start(): the container, and its exit code when attached. Options are those of create()."""
        container = self.create(image, **options)  # type: ignore[arg-type]
        try:
            return container, container.start(attach=attach)
        except BaseException:
            if container.settings.auto_remove:
                container.remove(force=True)
            raise

    def _insert(self, image: Image, settings: Settings, name: str | None) -> Container:
        """Row, then directories: a directory without a row would be rubbish, a row without one can be removed. Of a
        limited size both come at once."""
        self.store.content.reserve.check()
        container_id = os.urandom(32).hex()
        chosen = check_name(name) if name is not None else random_name()
        now = time.time()
        made = [(container_id, settings.diff_ids)]
        rows: list[Row] = []
        if settings.images:
            from lazarus.containers import parts

            settings, new = parts.plan(self.store, settings)
            for part in new:
                rows.append(part.row(container_id, now))
                made.append((part.part_id, part.settings.diff_ids))
        row = Row(container_id, chosen, image.digest, image.chain_id, now, settings)
        roots = [self.store.stacks.open(diff_ids).root for _, diff_ids in made]
        with Room(self.store.paths.containers):
            if settings.size is None:
                insert_with_volumes(self.store, [row, *rows])
            else:
                self._insert_limited([row, *rows], settings.size, roots.pop(0))
                made.pop(0)  # it has its directory
            container = Container(self.store, *row[:6])
            try:
                for (one, _), root in zip(made, roots, strict=True):
                    place = self.store.paths.container(one)
                    os.mkdir(place, 0o700)
                    for directory in _DIRECTORIES:
                        os.mkdir(f"{place}/{directory}", 0o755)
                    root.apply(f"{place}/upper")
            except (OSError, LazarusError) as error:
                container.remove(volumes=True)
                if isinstance(error, PermissionError):
                    raise rootfs.needs_root(
                        f"user {os.geteuid()} may not give its files their owners (CAP_CHOWN)"
                    ) from error
                raise
        return container

    def _insert_limited(self, rows: Sequence[Row], size: int, root: RootAttributes) -> None:
        """The rows, and with them the directory of the first, of which what the container writes takes `size` bytes:
        one that were made after its row could be met half made, and without its limit."""
        with self.store.content.lease("create") as lease:
            place = lease.new_directory("container")
            with limited.making(place, size, _WRITTEN) as inside:
                root.apply(f"{inside}/upper")
            for directory in _DIRECTORIES:
                if directory not in _WRITTEN:
                    os.mkdir(f"{place}/{directory}", 0o755)
            insert_made(self.store, lease, rows, [(place, self.store.paths.container(rows[0].id))])

    def get(self, name: str) -> Container:
        """By name, ID or the beginning of an ID. `NotFoundError`; `ConflictError` for a beginning that several have."""
        rows = is_name(name) and (
            self.store.catalogue.read()
            .execute(
                "SELECT * FROM containers WHERE part_of IS NULL AND (name = ?1 OR id = ?1"
                " OR (length(?1) >= 2 AND substr(id, 1, length(?1)) = ?1))"
                " ORDER BY name = ?1 DESC, id = ?1 DESC LIMIT 3",
                (name,),
            )
            .fetchall()
        )
        if not rows:
            raise NotFoundError(f"container {name!r:.140}: not in this store")
        if len(rows) > 1 and name not in (rows[0]["name"], rows[0]["id"]):
            raise ConflictError(f"container {name}: {len(rows)} or more containers have an ID that begins so")
        return self._from_row(rows[0])

    def part(self, part_id: str) -> Container:
        """What a container changes in an image that is mounted in it: see parts.py. `NotFoundError`."""
        row = self.store.catalogue.read().execute("SELECT * FROM containers WHERE id = ?", (part_id,)).fetchone()
        if row is None:
            raise NotFoundError("the container that the image is mounted in has been removed")
        return self._from_row(row)

    def list(self, all: bool = False) -> list[Container]:
        """The running ones, or all; the newest first."""
        containers = self._rows("WHERE part_of IS NULL")
        return [container for container in containers if all or _runs(container)]

    def _rows(self, which: str = "") -> Iterator[Container]:
        rows = self.store.catalogue.read().execute(f"SELECT * FROM containers {which} ORDER BY created DESC, id")
        yield from map(self._from_row, rows.fetchall())

    def rename(self, container: Container, name: str) -> None:
        """See `Container.rename`."""
        try:
            with self.store.catalogue.write(durable=False) as connection:
                changed = connection.execute(
                    "UPDATE containers SET name = ? WHERE id = ?", (check_name(name), container.id)
                )
                if changed.rowcount != 1:
                    raise NotFoundError(f"container {container.name}: it has been removed")
        except sqlite3.IntegrityError:
            raise ConflictError(f"container name {name}: already in use") from None
        container.name = name

    def sweep(self, dry_run: bool = False, gone: Collection[str] = ()) -> int:
        """Removes directories without a row, of processes or machines that died at the wrong moment, and checkpoints
        that no container needs; the bytes on disk that it gave back, or with `dry_run` would give. `gone` are IDs of
        containers that count as removed.

        A row is there before its directory, and gone before it goes; those of forks come together, while nobody else
        has the room. So who has that, and the lock of a directory without a row, is the only one who knows of it.
        """
        from lazarus._native.publish import remove_tree
        from lazarus.containers.checkpoints import sweep
        from lazarus.content.usage import disk_usage

        rows = self.store.catalogue.read()
        freed = 0

        def without_row(name: str) -> bool:
            return rows.execute("SELECT 1 FROM containers WHERE id = ?", (name,)).fetchone() is None

        found = list(filter(without_row, os.listdir(self.store.paths.containers)))
        if found:
            with Room(self.store.paths.containers, alone=True):  # who was making some is done
                found = list(filter(without_row, found))
        for name in found:
            directory, trash = f"{self.store.paths.containers}/{name}", f"{self.store.paths.trash}/container-{name}"
            try:
                with Lock(directory, to_remove=True):
                    if dry_run:
                        freed += disk_usage(directory).allocated
                        continue
                    if rootfs.is_mounted(f"{directory}/merged"):
                        rootfs.unmount(directory)
                    limited.leave(directory, lazy=True)
                    os.rename(directory, trash)
            except (NotFoundError, NotADirectoryError, ConflictError):
                continue  # somebody removes it just now, or still uses its files
            freed += remove_tree(trash)
        return freed + sweep(self.store, gone, dry_run)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Inside the `with` no container runs, is mounted or open, starts, comes or goes: their files can be moved.

        Waits for a commit or a copy that is under way; `ConflictError` names a container that runs, is mounted, or has
        a layer stack open.
        """
        with Room(self.store.paths.containers, alone=True), ExitStack() as locks:
            containers = list(self._rows())
            readers.make_room_for_descriptors(len(containers))
            for container in containers:
                try:
                    locks.enter_context(Lock(container.directory))
                except NotFoundError:
                    continue  # without a directory: created by a process that died there
                if container._execution.settled().status == "running":
                    raise ConflictError(f"container {container.name}: it is running; stop it first")
                if rootfs.is_mounted(container.rootfs):
                    raise ConflictError(f"container {container.name}: it is mounted; unmount it first")
                if os.path.isdir(f"{container.directory}/union"):
                    from lazarus.containers.stack import check_free

                    check_free(container.directory)
                limited.leave(container.directory)
            yield

    @contextmanager
    def at_rest(self, volume: Volume, how: str) -> Iterator[None]:
        """Inside the `with` nobody copies from or to a volume, no container that names it starts, and those that run
        are frozen (`how` is "freeze"; `ContainerRuntimeError` when that cannot be), left alone ("leave"), or a reason
        to raise `ConflictError` ("refuse", which waits for no copy either)."""
        from lazarus.containers.freeze import at_rest

        with at_rest(self.store, volume, how):
            yield

    def forget(self, container: Container, volumes: Collection[str] = ()) -> None:
        """Deletes the row: from here on the container does not exist. Its directory is the caller's business. Those
        `volumes` go in the same step, unless somebody else names them by now."""
        with self.store.catalogue.write(durable=bool(volumes) and not container.settings.ephemeral) as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container.id,))
            connection.executemany(
                "DELETE FROM volumes WHERE name = ?1 AND ?1 NOT IN (SELECT volume FROM container_volumes)",
                [(name,) for name in volumes],
            )

    def _from_row(self, row: sqlite3.Row) -> Container:
        return Container(
            self.store,
            row["id"],
            row["name"],
            Digest(row["manifest_digest"]),
            ChainID(row["chain_id"]),
            row["created"],
            Settings.from_json(row["config"]),
        )


def _runs(container: Container) -> bool:
    try:
        return container.status == "running"
    except NotFoundError:
        return False
