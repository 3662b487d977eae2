"""Removing: names first, and the image with its last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazarus.errors import ConflictError

if TYPE_CHECKING:
    from lazarus.store import Store


def remove(store: Store, reference: str, force: bool) -> list[str]:
    """See `Images.remove`."""
    lines, deleted = store.content.reserve.with_room(lambda: _remove_rows(store, reference, force))
    if deleted:
        store.content.collect()
    return lines


def _remove_rows(store: Store, reference: str, force: bool) -> tuple[list[str], bool]:
    """Docker's lines, and whether the image itself went. One transaction: a name that another process gives the image
    meanwhile comes before it, or finds no image."""
    with store.catalogue.write() as connection:
        image = store.images.get(reference)
        names = image.all_names
        name = store.images.name_of(image, reference, digests=True)
        if name is not None and len(names) > 1:
            connection.execute("DELETE FROM names WHERE reference=?", (name,))
            return [f"Untagged: {name}"], False
        if name is None and len(names) > 1 and not force:
            raise ConflictError(f"image {reference}: has several names ({', '.join(names)}); force removes them all")
        untagged = [f"Untagged: {name}" for name in names]
        user = connection.execute(
            "SELECT coalesce(owners.name, containers.name) FROM containers"
            " LEFT JOIN containers AS owners ON owners.id = containers.part_of WHERE containers.manifest_digest=?",
            (image.digest,),
        ).fetchone()
        if user is None:
            connection.execute("DELETE FROM images WHERE manifest_digest=?", (image.digest,))
            return [*untagged, f"Deleted: {image.id}"], True
        if not force:
            raise ConflictError(f"image {reference}: container {user[0]} uses it")
        if not names:
            raise ConflictError(f"image {reference}: container {user[0]} uses it, and it has no name to take away")
        connection.execute("DELETE FROM names WHERE manifest_digest=?", (image.digest,))
        return untagged, False
