"""New volumes: made in a lease's staging, there for others with the transaction that inserts their rows."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from lazarus.content.pool_disk import fsync_directory
from lazarus.volumes import trees

if TYPE_CHECKING:
    from lazarus.content.lease import Lease
    from lazarus.content.paths import StorePaths


class _Staged(NamedTuple):
    name: str
    labels: Mapping[str, str]
    anonymous: bool
    directory: str
    fresh: bool


class NewVolumes:
    """What `Volumes.making` gives. What is staged and not placed goes with its `lease`."""

    def __init__(self, paths: StorePaths, lease: Lease) -> None:
        self._paths = paths
        self.lease = lease
        self._staged: list[_Staged] = []
        self._roots: list[int] = []
        self._sync = False

    def stage(
        self,
        name: str,
        labels: Mapping[str, str],
        *,
        anonymous: bool,
        size: int | None = None,
        durable: bool = True,
        fresh: bool = True,
        made: bool = True,
    ) -> str:
        """An empty directory, which `place` will show as the volume of this (checked) name; returns what will be seen
        of it, which is there until `close`. With a `size` that is the limit of what it takes, see trees.py, and more
        can be raised.

        Not `durable`: it is not synced, for it goes with a container that does not survive a power cut either, or
        `sync` follows. Not `made`: the caller makes the directory.
        """
        from lazarus._native.clone import make_root

        directory = self.lease.new_directory("volume")
        if size is None:
            data = f"{directory}/data"
            if made:
                make_root(data)
                os.chmod(data, 0o755)
        else:
            self._roots.append(trees.make(directory, size))
            data = f"/proc/self/fd/{self._roots[-1]}/data"
            if not made:
                os.rmdir(data)
        self._sync = self._sync or durable
        self._staged.append(_Staged(name, dict(labels), anonymous, directory, fresh))
        if durable and size is not None:
            self.sync()
        elif durable:
            fsync_directory(data)
            fsync_directory(directory)
        return data

    def sync(self) -> None:
        """Has all that was staged on disk, and what was put into it since."""
        from lazarus._native.sync import syncfs

        for root in self._roots:
            syncfs(root)
        syncfs(self.lease.fd)
        self._sync = True

    def close(self) -> None:
        """Lets go of what was staged, which stays."""
        while self._roots:
            os.close(self._roots.pop())

    def place(self, connection: sqlite3.Connection, but: frozenset[str] = frozenset()) -> None:
        """In a write transaction: gives them their names, on disk too, and inserts their rows. Those in `but` are left
        out. `sqlite3.IntegrityError` for a name that is taken.

        What has the name already and no row was left by somebody who died, and is thrown away.
        """
        self.lease.check_row(connection)
        now = time.time()
        wanted = [staged for staged in self._staged if staged.name not in but]
        for staged in wanted:
            connection.execute(
                "INSERT INTO volumes(name, created, labels, anonymous, fresh) VALUES (?, ?, ?, ?, ?)",
                (staged.name, now, json.dumps(staged.labels), staged.anonymous, staged.fresh),
            )
            place = self._paths.volume(staged.name)
            if os.path.lexists(place):
                os.rename(place, self.lease.new_path("rubbish"))
            os.rename(staged.directory, place)
        if wanted and self._sync:
            fsync_directory(self._paths.volumes)
