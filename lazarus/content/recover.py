"""Recovery: what dead processes left behind. Anyone may run it at any time."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from lazarus.content import lease as leases
from lazarus.content import trash

if TYPE_CHECKING:
    from lazarus.content.content import ContentStore


def recover(content: ContentStore) -> bool:
    """See `ContentStore.recover`."""
    paths = content.paths
    # The names first, then the rows: a lease makes its row before its directory, so a name without a row is garbage.
    names = {directory: os.listdir(directory) for directory in (paths.staging, paths.trash)}
    found_dead = bury(content)
    live = {row["id"] for row in content.catalogue.read().execute("SELECT id FROM leases")}
    for directory, entries in names.items():
        for name in entries:
            if name not in live:
                with suppress(PermissionError):  # root's files in a user's volume: left to whoever may
                    trash.remove(f"{directory}/{name}")
    if found_dead:
        from lazarus.content.collect import sweep

        with content.lease("recover") as lease:
            sweep(content, lease, objects=False)
    if any(os.path.lexists(name) for name in (paths.data, paths.host, paths.pool)):
        from lazarus.content.pool_disk import tidy_if_free

        tidy_if_free(paths)
    return found_dead


def bury(content: ContentStore) -> bool:
    """Deletes the rows of dead leases. Were there any?"""
    rows = content.catalogue.read().execute("SELECT * FROM leases").fetchall()
    me, now = leases.identity(), time.time()
    dead = [(row["id"], row["expires"]) for row in rows if leases.is_dead(row, me, now)]
    if dead:
        with content.catalogue.write(durable=False) as connection:
            # Not by ID alone: it may have been renewed since.
            connection.executemany("DELETE FROM leases WHERE id=? AND expires=?", dead)
    return bool(dead)
