"""Verification: read everything, compare with what the names and the catalogue say.

`verify` does all of it, and puts each layer's tar together again, which reads its objects a second time. scrub.py asks
for the same parts but that, shard by shard: there are 256, by the first byte of a digest.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from lazarus._native.publish import missing_objects
from lazarus._native.verify import verify_files, verify_parts
from lazarus.content import readers
from lazarus.content.workers import Reading, Workers
from lazarus.errors import LazarusError
from lazarus.terms import DiffID, Digest, Progress

if TYPE_CHECKING:
    from lazarus.content.content import ContentStore

WHOLE = "is whole again"  # what is said of a layer that need not be loaded again
Mend = Callable[["ContentStore", DiffID], bool]
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)  # what says nothing of the disk
SHARDS = tuple(f"{number:02x}" for number in range(256))


class Problem(NamedTuple):
    """One finding. `kind` is "object", "blob", "layer" or "stack", and `name` its digest; or "shard", a directory of
    objects, by its two digits; or "container" (its ID) or "checkpoint" (container@name), of which this room knows
    nothing. `text` is one line for a person; `repaired` says that the broken thing was taken out of the way, or that
    what is whole again counts again."""

    kind: str
    name: str
    text: str
    repaired: bool = False


def verify(content: ContentStore, repair: bool, threads: int | None, progress: Progress | None) -> Iterator[Problem]:
    """See `ContentStore.verify`. Objects come first, since a layer may only be broken by one of them."""
    with ExitStack() as closing:
        closing.callback(os.close, readers.hold(content.paths.objects))  # no pool takes them elsewhere
        yield from _verify(content, repair, threads, progress)


def _verify(content: ContentStore, repair: bool, threads: int | None, progress: Progress | None) -> Iterator[Problem]:
    read = content.catalogue.read()
    blobs = read.execute("SELECT digest, size FROM blobs ORDER BY digest").fetchall()
    layers = read.execute("SELECT diff_id, tar_size, damaged FROM layers ORDER BY diff_id").fetchall()
    stacks = read.execute("SELECT * FROM stacks ORDER BY chain_id").fetchall()
    with Workers(threads) as workers:
        reading = Reading(workers, "check", progress=progress)
        for wrong in workers.map(partial(object_problems, content, reading), SHARDS):
            for problem in wrong:
                mended = repair and problem.kind == "object" and _drop_object(content, Digest(problem.name))
                yield problem._replace(repaired=mended)
        for found in workers.map(partial(blob_problem, content, reading), blobs):
            if found is not None:
                yield found._replace(repaired=repair and _drop_blob(content, Digest(found.name)))
        null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        try:
            for result in workers.map(partial(_whole_layer_problem, content, reading, null), layers):
                if result is not None and has_row(content, "layers", "diff_id", result[0].name):
                    problem, mend = result
                    yield problem._replace(repaired=repair and mend is not None and mend(content, DiffID(problem.name)))
        finally:
            os.close(null)
        for found in workers.map(partial(stack_problem, content), stacks):
            if found is not None and has_row(content, "stacks", "chain_id", found.name):
                yield found._replace(repaired=repair and _delete_row(content, "stacks", "chain_id", found.name))


def object_problems(content: ContentStore, reading: Reading, shard: str) -> list[Problem]:
    """Of the objects in one of the 256 directories, or of that directory."""
    try:
        with os.scandir(f"{content.paths.objects}/{shard}") as found:
            names = sorted((entry.inode(), entry.name) for entry in found if _is_hex(entry.name, 62))  # as they lie
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno in _OURS:
            raise
        return [Problem("shard", shard, f"objects {shard}: the directory cannot be read: {error.strerror}")]
    digests = bytes.fromhex("".join(shard + name for _, name in names))
    wrong = _split(verify_files(content.paths.objects, digests, fan=True, step=reading))
    return [Problem("object", digest, f"object {digest}: its bytes have another digest") for digest in sorted(wrong)]


def blob_problem(content: ContentStore, reading: Reading, row: sqlite3.Row) -> Problem | None:
    """Of a row of `blobs`."""
    digest = Digest(row["digest"])
    wrong = verify_files(content.paths.blobs, digest.raw, fan=False, step=reading)
    try:
        size = os.lstat(content.paths.blob(digest)).st_size
    except FileNotFoundError:
        if content.has_blob(digest):  # not collected meanwhile
            return Problem("blob", digest, f"blob {digest}: its file is missing")
        return None
    if not wrong:
        return None
    return Problem("blob", digest, f"blob {digest}: its {size} bytes (of {row['size']}) have another digest")


def layer_problem(content: ContentStore, row: sqlite3.Row) -> Problem | None:
    """Of a row of `layers`: its index and what that has inline, its recipe, and whether its objects are there. Objects
    are not read."""
    diff_id = DiffID(row["diff_id"])
    if row["damaged"]:
        return Problem("layer", diff_id, f"layer {diff_id}: damaged; load its image again")
    return _parts_problem(content, row)


def _parts_problem(content: ContentStore, row: sqlite3.Row) -> Problem | None:
    """The same, whatever the row says."""
    from lazarus._native.index import Index

    diff_id = DiffID(row["diff_id"])
    directory = content.paths.layer(diff_id)
    try:
        with Index(f"{directory}/index") as index:
            missing = _split(missing_objects(content.paths.objects, index.objects_bytes()))
            if not missing:
                verify_parts(index, f"{directory}/recipe", diff_id.raw, row["tar_size"])
                return None
        text = f"{len(missing)} objects missing or of the wrong size, the first {missing[0]}"
    except (LazarusError, OSError) as error:
        text = str(error)
    return Problem("layer", diff_id, f"layer {diff_id}: {text}")


def _whole_layer_problem(
    content: ContentStore, reading: Reading, null: int, row: sqlite3.Row
) -> tuple[Problem, Mend | None] | None:
    """What is wrong with a layer whose tar is put together, too, and what helps. One that was damaged is not any more
    when its objects are back, with another image that has the same files."""
    problem = _whole_problem(content, reading, null, row)
    if not row["damaged"]:
        return None if problem is None else (problem, _mark_damaged)
    name = row["diff_id"]
    if problem is None:
        return Problem("layer", name, f"layer {name}: was damaged, and {WHOLE}"), _mark_whole
    return Problem("layer", name, f"layer {name}: damaged; load its image again"), None


def _whole_problem(
    content: ContentStore, reading: Callable[[int, int], None], null: int, row: sqlite3.Row
) -> Problem | None:
    from lazarus._native.recipe import replay

    problem = _parts_problem(content, row)
    if problem is not None:
        return problem
    diff_id = DiffID(row["diff_id"])
    directory = content.paths.layer(diff_id)
    try:
        size = replay(f"{directory}/recipe", f"{directory}/index", content.paths.objects, null)
    except (LazarusError, OSError) as error:
        return Problem("layer", diff_id, f"layer {diff_id}: {error}")
    reading(0, size)
    return None


def stack_problem(content: ContentStore, row: sqlite3.Row) -> Problem | None:
    """Of a row of `stacks`: its index and its EROFS image."""
    from lazarus._native.index import Index
    from lazarus._native.stream import sha256_file

    directory = f"{content.paths.stacks}/{row['chain_id'][7:]}"
    try:
        Index(f"{directory}/index").close()
        fd = os.open(f"{directory}/metadata.erofs", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = Digest.from_bytes(sha256_file(fd))
        finally:
            os.close(fd)
        if found == row["image_digest"]:
            return None
        text = f"its EROFS image has digest {found}"
    except (LazarusError, OSError) as error:
        text = str(error)
    return Problem("stack", row["chain_id"], f"stack {row['chain_id']}: {text}")


# -- repairs: what is broken stops counting as there, so that the next load or use makes it anew. Under the lock it is
# looked at once more: somebody else may have repaired it meanwhile, and somebody have loaded it again --


def _drop_object(content: ContentStore, digest: Digest) -> bool:
    with content.catalogue.write(durable=False):
        if not verify_files(content.paths.objects, digest.raw, fan=True):
            return True
        try:
            os.unlink(content.paths.object(digest))
        except OSError:
            return False
    return True


def _drop_blob(content: ContentStore, digest: Digest) -> bool:
    """The row goes first: a blob without a row is nothing, a row without a blob is a lie."""
    with content.catalogue.write() as connection:
        here = os.path.lexists(content.paths.blob(digest))
        if here and not verify_files(content.paths.blobs, digest.raw, fan=False):
            return True
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
    """Reads the whole layer under the lock only where all its parts are there by now."""
    with content.catalogue.write() as connection, open(os.devnull, "wb") as null:
        row = connection.execute("SELECT diff_id, tar_size FROM layers WHERE diff_id=?", (diff_id,)).fetchone()
        if row is not None and _whole_problem(content, lambda files, size: None, null.fileno(), row) is not None:
            connection.execute("UPDATE layers SET damaged=1 WHERE diff_id=?", (diff_id,))
    return True


def _mark_whole(content: ContentStore, diff_id: DiffID) -> bool:
    """Collection keeps nothing for a damaged layer: until the row says otherwise its objects may go again."""
    with content.catalogue.write() as connection:
        row = connection.execute("SELECT diff_id, tar_size FROM layers WHERE diff_id=?", (diff_id,)).fetchone()
        if row is None or _parts_problem(content, row) is not None:
            return False
        connection.execute("UPDATE layers SET damaged=0 WHERE diff_id=?", (diff_id,))
    return True


def _delete_row(content: ContentStore, table: str, column: str, name: str) -> bool:
    with content.catalogue.write(durable=False) as connection:
        connection.execute(f"DELETE FROM {table} WHERE {column}=?", (name,))
    return True


def has_row(content: ContentStore, table: str, column: str, name: str) -> bool:
    """Is that name still in the catalogue?"""
    found: sqlite3.Row | None = (
        content.catalogue.read().execute(f"SELECT 1 FROM {table} WHERE {column}=?", (name,)).fetchone()
    )
    return found is not None


def _is_hex(name: str, size: int) -> bool:
    return len(name) == size and not name.strip("0123456789abcdef")


def _split(digests: bytes) -> list[Digest]:
    return [Digest.from_bytes(digests[at : at + 32]) for at in range(0, len(digests), 32)]
