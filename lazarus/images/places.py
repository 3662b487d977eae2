"""Where registries have the layers of this store: so that a push to a neighbouring repository need not send them.

Only a memory: a registry may have forgotten since, and is asked.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from lazarus.errors import StoreError
from lazarus.oci.references import parse_reference
from lazarus.terms import DiffID, Digest

if TYPE_CHECKING:
    from lazarus.registry.settings import Repository
    from lazarus.store import Store

_KNOWN = 64  # repositories of a layer that are looked at


def remember(store: Store, repository: Repository, layers: Iterable[tuple[Digest, DiffID]]) -> None:
    """A repository has these blobs of these layers: they have just come from there, or gone there. Does nothing on a
    full disk, and for layers that somebody has just removed."""
    now = time.time()
    rows = [(digest, str(repository), diff_id, now) for digest, diff_id in layers]
    with suppress(OSError, StoreError, sqlite3.IntegrityError), store.catalogue.write(durable=False) as connection:
        connection.executemany(
            "INSERT INTO blob_places(digest, repository, diff_id, seen) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (digest, repository) DO UPDATE SET seen=excluded.seen",
            rows,
        )


def repositories_with(store: Store, digest: Digest, diff_id: DiffID) -> list[Repository]:
    """Where registries may have a blob of a layer: where it came from or went to, the last one first; then the
    repositories by which images with the layer are called here."""
    from lazarus.registry.settings import Repository

    connection = store.catalogue.read()
    places = connection.execute(
        "SELECT repository FROM blob_places WHERE digest=? ORDER BY seen DESC LIMIT ?", (digest, _KNOWN)
    )
    found = [Repository(*row[0].split("/", 1)) for row in places]
    names = connection.execute(
        "SELECT DISTINCT reference FROM names JOIN image_layers USING (manifest_digest) WHERE diff_id=?"
        " ORDER BY names.created DESC LIMIT ?",
        (diff_id, _KNOWN),
    )
    found += [Repository.of(parse_reference(row[0])) for row in names]
    return list(dict.fromkeys(found))
