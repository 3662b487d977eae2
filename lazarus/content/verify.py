"""Verification: read everything, compare with what the names and the catalogue say."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from lazarus._native.publish import missing_objects, verify_objects
from lazarus.errors import LazarusError
from lazarus.terms import DiffID, Digest

if TYPE_CHECKING:
    from lazarus.content.content import ContentStore


class Problem(NamedTuple):
    """One finding. `kind` is "object", "blob", "layer" or "stack", `name` its digest, `text` one line for a person;
    `repaired` says that the broken thing was taken out of the way."""

    kind: str
    name: str
    text: str
    repaired: bool = False


def verify(content: ContentStore, repair: bool) -> Iterator[Problem]:
    """See `ContentStore.verify`. Objects come first, since a layer may only be broken by one of them."""
    yield from _objects(content, repair)
    yield from _blobs(content, repair)
    yield from _layers(content, repair)
    yield from _stacks(content, repair)


def _objects(content: ContentStore, repair: bool) -> Iterator[Problem]:
    """One native call for each of the 256 directories."""
    paths = content.paths
    for name in sorted(os.listdir(paths.objects)):
        for digest in _split(verify_objects(paths.objects, name)):
            yield Problem(
                "object",
                digest,
                f"object {digest}: its bytes have another digest",
                repair and _remove(content, paths.object(digest)),
            )


def _blobs(content: ContentStore, repair: bool) -> Iterator[Problem]:
    from lazarus._native.stream import sha256_file

    for row in content.catalogue.read().execute("SELECT digest, size FROM blobs ORDER BY digest").fetchall():
        digest = Digest(row["digest"])
        try:
            fd = os.open(content.paths.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            if content.has_blob(digest):  # not collected meanwhile
                yield Problem(
                    "blob", digest, f"blob {digest}: its file is missing", repair and _drop_blob(content, digest)
                )
            continue
        try:
            size, found = os.fstat(fd).st_size, Digest.from_bytes(sha256_file(fd))
        finally:
            os.close(fd)
        if found != digest:
            text = f"blob {digest}: its {size} bytes (of {row['size']}) have digest {found}"
            yield Problem("blob", digest, text, repair and _drop_blob(content, digest))


def _layers(content: ContentStore, repair: bool) -> Iterator[Problem]:
    rows = content.catalogue.read().execute("SELECT diff_id, damaged FROM layers ORDER BY diff_id").fetchall()
    null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    try:
        for row in rows:
            diff_id = DiffID(row["diff_id"])
            if row["damaged"]:
                yield Problem("layer", diff_id, f"layer {diff_id}: damaged; load its image again", False)
                continue
            text = _layer_problem(content, diff_id, null)
            if text is not None and _has_row(content, "layers", "diff_id", diff_id):
                yield Problem("layer", diff_id, text, repair and _mark_damaged(content, diff_id))
    finally:
        os.close(null)


def _layer_problem(content: ContentStore, diff_id: DiffID, null: int) -> str | None:
    """Opening the index checks its table; replaying the recipe reads every byte of the layer's tar."""
    from lazarus._native.index import Index
    from lazarus._native.recipe import replay

    directory = content.paths.layer(diff_id)
    try:
        with Index(f"{directory}/index") as index:
            missing = _split(missing_objects(content.paths.objects, index.objects_bytes()))
        if missing:
            return f"layer {diff_id}: {len(missing)} objects missing or of the wrong size, the first {missing[0]}"
        replay(f"{directory}/recipe", f"{directory}/index", content.paths.objects, null)
    except (LazarusError, OSError) as error:
        return f"layer {diff_id}: {error}"
    return None


def _stacks(content: ContentStore, repair: bool) -> Iterator[Problem]:
    from lazarus._native.index import Index
    from lazarus._native.stream import sha256_file

    for row in content.catalogue.read().execute("SELECT * FROM stacks ORDER BY chain_id").fetchall():
        directory = f"{content.paths.stacks}/{row['chain_id'][7:]}"
        try:
            Index(f"{directory}/index").close()
            fd = os.open(f"{directory}/metadata.erofs", os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = Digest.from_bytes(sha256_file(fd))
            finally:
                os.close(fd)
            problem = None if found == row["image_digest"] else f"its EROFS image has digest {found}"
        except (LazarusError, OSError) as error:
            problem = str(error)
        if problem is not None and _has_row(content, "stacks", "chain_id", row["chain_id"]):
            done = repair and _delete_row(content, "stacks", "chain_id", row["chain_id"])
            yield Problem("stack", row["chain_id"], f"stack {row['chain_id']}: {problem}", done)


# -- repairs: what is broken stops counting as there, so that the next load or use makes it anew --


def _remove(content: ContentStore, path: str) -> bool:
    with content.catalogue.write(durable=False):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return True


def _drop_blob(content: ContentStore, digest: Digest) -> bool:
    """The row goes first: a blob without a row is nothing, a row without a blob is a lie."""
    with content.catalogue.write() as connection:
        connection.execute("DELETE FROM blobs WHERE digest=?", (digest,))
        connection.execute("UPDATE layer_blobs SET kept=0 WHERE digest=?", (digest,))
    with content.catalogue.write() as connection:
        if connection.execute("SELECT 1 FROM blobs WHERE digest=?", (digest,)).fetchone() is not None:
            return True  # published again in between; what was in place stayed, so the next check finds it again
        try:
            os.unlink(content.paths.blob(digest))
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return True


def _mark_damaged(content: ContentStore, diff_id: DiffID) -> bool:
    with content.catalogue.write() as connection:
        connection.execute("UPDATE layers SET damaged=1 WHERE diff_id=?", (diff_id,))
    return True


def _delete_row(content: ContentStore, table: str, column: str, name: str) -> bool:
    with content.catalogue.write(durable=False) as connection:
        connection.execute(f"DELETE FROM {table} WHERE {column}=?", (name,))
    return True


def _has_row(content: ContentStore, table: str, column: str, name: str) -> bool:
    found: sqlite3.Row | None = (
        content.catalogue.read().execute(f"SELECT 1 FROM {table} WHERE {column}=?", (name,)).fetchone()
    )
    return found is not None


def _split(digests: bytes) -> list[Digest]:
    return [Digest.from_bytes(digests[at : at + 32]) for at in range(0, len(digests), 32)]
