"""Collection: rows that nothing refers to, then files that no row names."""

from __future__ import annotations

import json
import os
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from lazarus._native.publish import sweep_objects
from lazarus.content import trash as rubbish
from lazarus.content.lease import HOUSEKEEPING
from lazarus.errors import FULL
from lazarus.terms import DiffID

if TYPE_CHECKING:
    from lazarus.content.content import ContentStore
    from lazarus.content.lease import Lease
    from lazarus.content.paths import StorePaths
    from lazarus.content.publish import Rows


class Collected(NamedTuple):
    """How many of each were removed, and the bytes on disk that this gave back."""

    blobs: int
    layers: int
    objects: int
    stacks: int
    bytes: int


class Plan(NamedTuple):
    """Rows that nothing refers to."""

    blobs: set[str]
    layers: set[str]
    stacks: set[str]


def collect(content: ContentStore, dry_run: bool, rows: Rows | None) -> Collected:
    """See `ContentStore.collect`."""
    from lazarus.content.recover import recover

    if dry_run:
        return _count(content, rows)
    recover(content)
    with content.lease("collect") as lease:
        # First the rows, durably, then what they named: killed between the two, files without a row are left, never a
        # row without its files.
        with content.catalogue.write() as connection:
            if rows is not None:
                rows(connection)
            delete_rows(connection, plan(connection))
        return sweep(content, lease, objects=True)


def plan(connection: sqlite3.Connection) -> Plan:
    """What no image and no container needs. Blobs and layers stay as long as a live lease may count on them: a load
    that finds a layer in the store does not read it again."""
    images = _image_layers(connection)
    stacks = {row["chain_id"]: row["diff_ids"] for row in connection.execute("SELECT chain_id, diff_ids FROM stacks")}
    in_use = {row["chain_id"] for row in connection.execute("SELECT DISTINCT chain_id FROM containers")}
    lists = {json.dumps(diff_ids) for diff_ids in images.values()}
    kept = {chain_id for chain_id, diff_ids in stacks.items() if chain_id in in_use or diff_ids in lists}
    dead_stacks = stacks.keys() - kept
    housekeeping = ",".join(f"'{purpose}'" for purpose in HOUSEKEEPING)
    if connection.execute(f"SELECT 1 FROM leases WHERE purpose NOT IN ({housekeeping})").fetchone() is not None:
        return Plan(set(), set(), dead_stacks)
    live_layers = {diff_id for diff_ids in images.values() for diff_id in diff_ids}
    live_layers.update(diff_id for chain_id in kept for diff_id in json.loads(stacks[chain_id]))
    # A container that was never started has no stack yet.
    live_layers.update(
        row[0] for row in connection.execute("SELECT value FROM containers, json_each(config, '$.diff_ids')")
    )
    live_blobs = {row[0] for row in connection.execute("SELECT manifest_digest FROM images")}
    live_blobs.update(row[0] for row in connection.execute("SELECT config_digest FROM images"))
    live_blobs.update(row[0] for row in connection.execute("SELECT blob_digest FROM image_layers"))
    live_blobs.update(
        row["digest"]
        for row in connection.execute("SELECT digest, diff_id FROM layer_blobs WHERE kept = 1")
        if row["diff_id"] in live_layers
    )
    blobs = {row[0] for row in connection.execute("SELECT digest FROM blobs")}
    layers = {row[0] for row in connection.execute("SELECT diff_id FROM layers")}
    return Plan(blobs - live_blobs, layers - live_layers, dead_stacks)


def _image_layers(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Manifest digest -> diff IDs, lowest first, of every image."""
    images: dict[str, list[str]] = {row[0]: [] for row in connection.execute("SELECT manifest_digest FROM images")}
    for row in connection.execute(
        "SELECT manifest_digest, diff_id FROM image_layers ORDER BY manifest_digest, position"
    ):
        images[row["manifest_digest"]].append(row["diff_id"])
    return images


def delete_rows(connection: sqlite3.Connection, dead: Plan) -> None:
    """`layer_blobs` go with their layers."""
    connection.executemany("DELETE FROM stacks WHERE chain_id=?", [(name,) for name in dead.stacks])
    connection.executemany("DELETE FROM layers WHERE diff_id=?", [(name,) for name in dead.layers])
    connection.executemany("DELETE FROM blobs WHERE digest=?", [(name,) for name in dead.blobs])


def sweep(content: ContentStore, lease: Lease, *, objects: bool) -> Collected:
    """Renames what no row names to the lease's trash, under the write lock, and removes it after. Nobody adds names
    meanwhile: publishing takes the same lock, and staging has its own links of the objects that it counts on.

    The trash grows with the names in it. On a full disk what has been moved makes room, and then it goes on."""
    done = Collected(0, 0, 0, 0, 0)
    while True:
        part, failure = _sweep_once(content, lease, objects)
        done = Collected(*map(sum, zip(done, part, strict=True)))
        if failure is None:
            return done
        if part.bytes <= 0:
            raise failure


def _sweep_once(content: ContentStore, lease: Lease, objects: bool) -> tuple[Collected, OSError | None]:
    """What went, and the error of a full disk that ended it early."""
    paths = content.paths
    trash = f"{paths.trash}/{lease.id}"
    os.mkdir(trash, 0o700)
    failure = None
    names: list[str] = []
    try:
        with content.catalogue.write(durable=False) as connection:
            for directory, query in _rooms(paths):
                for name in _unnamed(connection, directory, query):
                    os.rename(f"{directory}/{name}", f"{trash}/{os.path.basename(directory)}-{name}")
            if objects:
                sweep_objects(paths.objects, trash, marks(content, connection))
    except OSError as error:
        if error.errno not in FULL:
            raise
        failure = error
    finally:
        # Outside the lock. Killed before or in it, the next open does the rest.
        own = os.stat(trash).st_blocks * 512
        names = os.listdir(trash)
        freed = rubbish.remove(trash) - own
    blobs, layers, stacks, *others = (
        sum(name.startswith(f"{os.path.basename(directory)}-") for name in names) for directory, _ in _rooms(paths)
    )
    rest = len(names) - blobs - layers - stacks - sum(others)
    return Collected(blobs, layers, rest, stacks, freed), failure


def _rooms(paths: StorePaths) -> tuple[tuple[str, str], ...]:
    """Directories of things that a row names, and which names those are."""
    return (
        (paths.blobs, "SELECT digest FROM blobs"),
        (paths.layers, "SELECT diff_id FROM layers"),
        (paths.stacks, "SELECT chain_id FROM stacks"),
        (paths.volumes, "SELECT name FROM volumes"),
        (paths.snapshots, "SELECT volume || '@' || name FROM snapshots"),
    )


def _unnamed(connection: sqlite3.Connection, directory: str, query: str) -> list[str]:
    named = {row[0].removeprefix("sha256:") for row in connection.execute(query)}
    return [name for name in os.listdir(directory) if name not in named]


def marks(content: ContentStore, connection: sqlite3.Connection) -> bytes:
    """The object tables (40 bytes a record) of all layers, one after the other. A layer whose index cannot be read
    raises: without it nobody knows which objects it needs (`system check --repair` takes it out of the way)."""
    from lazarus._native.index import Index

    tables = []
    for row in connection.execute("SELECT diff_id FROM layers WHERE damaged = 0").fetchall():
        with Index(f"{content.paths.layer(DiffID(row[0]))}/index") as index:
            tables.append(index.objects_bytes())
    return b"".join(tables)


def _count(content: ContentStore, rows: Rows | None) -> Collected:
    """A dry run: rows are deleted and rolled back, files are only looked at."""
    from lazarus.content.usage import disk_usage

    paths = content.paths
    freed = 0
    counts = []
    with _Undo(content) as connection:
        if rows is not None:
            rows(connection)
        dead = plan(connection)
        delete_rows(connection, dead)
        for directory, query in _rooms(paths):
            unnamed = _unnamed(connection, directory, query)
            freed += sum(disk_usage(f"{directory}/{name}").allocated for name in unnamed)
            counts.append(len(unnamed))
        object_count, _, object_bytes = sweep_objects(paths.objects, None, marks(content, connection))
    blobs, layers, stacks, *_ = counts
    return Collected(blobs, layers, object_count, stacks, freed + object_bytes)


class _Undo:
    """A write transaction that is always rolled back."""

    def __init__(self, content: ContentStore) -> None:
        self._connection = content.catalogue.read()

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
