"""A layer from parts of its blob: only what the store has nothing of is fetched.

1. The end of the blob is fetched: the table of contents, which the manifest's annotation names by digest, and the
   tar-split, which the table names by digest.
2. The table's files are looked up by SHA-256: as objects of the store, and inline in the layers that came last.
3. The other files' ranges are fetched (and what lies between files, where there is no tar-split), close ones as one,
   some requests ahead of the bytes that are being read. Each file is compared with its SHA-256.
4. The tar, put together from all of these, goes into the ordinary ingest, which hashes all of it. Only a tar with the
   diff ID of the image's config is staged.

So a layer that came in parts is as good as one that came whole. What is not known is that the blob's other bytes were
right: nobody saw them. Hence nothing is recorded that says which tar that blob is.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from lazarus.errors import CorruptError, FormatError, LazarusError, LimitError, TruncatedError, UnsupportedError
from lazarus.layers.chunked.annotations import Footer, parse_annotations
from lazarus.terms import Descriptor, DiffID, Limits, Progress, ProgressEvent

if TYPE_CHECKING:
    from types import TracebackType

    from lazarus._native.chunked_read import Plan
    from lazarus._native.index import Index
    from lazarus.content.lease import Lease
    from lazarus.content.staged import StagedLayer
    from lazarus.layers.layer_store import LayerStore

log = logging.getLogger(__name__)

GAP = 8 << 10  # bytes that cost less than another request: from 1 to 16 KiB, as good as the same bytes and time
MOST_RANGES = 512  # then the gap grows
WORTH_IT = 0.8  # of the blob: where more would have to be fetched, it is fetched whole
AHEAD = 3  # requests that wait for their turn, each with a connection of its own
LAYERS_LOOKED_INTO = 64  # for small files; some 0.1 ms for each 1,000 entries
_TAIL_MAX = 32 << 20  # of the blob: the largest table that is read (64 MiB, inflated) and its tar-split take less
_SKIPPABLE_HEADER = 8
_LIES = (CorruptError, FormatError, LimitError, TruncatedError, UnsupportedError)


class Part(Protocol):
    """Bytes of a part of the blob; like `lazarus.registry.client.BlobStream`."""

    def __enter__(self) -> Part: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """The next bytes, at least one; 0 at the end."""

    def copy_to(self, fd: int, /) -> int:
        """All of them into a pipe."""


class Ranges(Protocol):
    """How parts of the blob are had. Several threads open at once."""

    def open(self, offset: int, size: int, /) -> Part: ...


def ingest_chunked(
    layers: LayerStore,
    lease: Lease,
    ranges: Ranges,
    descriptor: Descriptor,
    expected_diff_id: DiffID,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> StagedLayer | None:
    """Stages the layer, with the diff ID that was expected, in the lease; None when the blob is to be fetched whole.

    That is so without a table of contents, when it is of a version that is not known, when the store has too little of
    the layer to be worth it, and when anything is not as it says (a warning is logged). What `ranges` and the disk
    raise comes through. What is staged is known as a tar alone: no row speaks of the blob.
    """
    try:
        footer = parse_annotations(descriptor)
        if footer is None or not _has_layers(layers):
            return None
        tail = _fetch_tail(ranges, footer)
        with _open_layers(layers) as indexes:
            plan = _plan(layers, footer, tail, indexes)
            if plan is None or plan.need.wire + sum(map(len, tail)) > WORTH_IT * descriptor.size:
                return None
            return _rebuild(layers, lease, ranges, descriptor, expected_diff_id, plan, limits, progress)
    except _LIES as error:
        what = "its parts are not what they should be, so it is fetched whole"
        log.warning("layer %s: %s: %s", descriptor.digest, what, error)
        return None


def _has_layers(layers: LayerStore) -> bool:
    return layers.content.catalogue.read().execute("SELECT 1 FROM layers LIMIT 1").fetchone() is not None


@contextmanager
def _open_layers(layers: LayerStore) -> Iterator[list[Index]]:
    """Indexes of the layers that came last. They stay while the lease is held; one that cannot be read is left out."""
    rows = layers.content.catalogue.read().execute(
        "SELECT diff_id FROM layers WHERE damaged=0 ORDER BY created DESC, diff_id LIMIT ?", (LAYERS_LOOKED_INTO,)
    )
    with ExitStack() as closing:
        found = []
        for (diff_id,) in rows.fetchall():
            try:
                found.append(closing.enter_context(layers.get(DiffID(diff_id)).index()))
            except (LazarusError, OSError) as error:
                log.debug("layer %s: not looked into: %s", diff_id, error)
        yield found


def _fetch_tail(ranges: Ranges, footer: Footer) -> tuple[bytes, ...]:
    """Table and tar-split, which lie beside each other in every blob that we know: one request, then."""
    parts = [footer.toc] if footer.tar_split is None else [footer.toc, footer.tar_split]
    start = min(part.offset for part in parts)
    size = max(part.offset + part.size for part in parts) - start
    if size > _TAIL_MAX or size > sum(part.size for part in parts) + GAP:
        raise LimitError(f"table of contents and tar-split: {size} bytes of the blob")
    buffer = bytearray(size)
    view = memoryview(buffer)
    with ranges.open(start, size) as stream:
        while view:
            count = stream.readinto(view)
            if count == 0:
                raise TruncatedError(f"table of contents: ends {len(view)} bytes early")
            view = view[count:]
    whole = memoryview(buffer)
    return tuple(bytes(whole[part.offset - start : part.offset - start + part.size]) for part in parts)


def _plan(layers: LayerStore, footer: Footer, tail: Sequence[bytes], indexes: list[Index]) -> Plan | None:
    from lazarus._native.chunked_read import Plan

    first = min(part.offset for part in (footer.toc, footer.tar_split) if part is not None)
    if first < _SKIPPABLE_HEADER:
        raise FormatError(f"table of contents: at byte {first} of the blob")
    gap = GAP
    while True:
        plan = Plan(
            tail[0],
            footer.toc.plain_size,
            footer.toc_digest.raw,
            tail[1] if len(tail) > 1 else None,
            first - _SKIPPABLE_HEADER,
            layers.content.paths.objects,
            indexes,
            gap=gap,
        )
        if len(plan.ranges) <= MOST_RANGES:
            return plan
        gap *= 4


def _rebuild(
    layers: LayerStore,
    lease: Lease,
    ranges: Ranges,
    descriptor: Descriptor,
    expected_diff_id: DiffID,
    plan: Plan,
    limits: Limits | None,
    progress: Progress | None,
) -> StagedLayer:
    """Three stages between two pipes. The first one to fail closes its ends, and so ends the others; what it raised is
    what counts, and not that a pipe broke."""
    failures: list[BaseException] = []
    wire_out, wire_in = os.pipe2(os.O_CLOEXEC)
    tar_out, tar_in = os.pipe2(os.O_CLOEXEC)
    largest = _largest(descriptor, limits)
    content = plan.need.content

    def say(event: ProgressEvent) -> None:
        """Bytes of the tar, of which its files' are known: some headers more come in the end."""
        if progress is not None:
            progress(event._replace(total=max(content, event.done)))

    feeder = threading.Thread(target=_feed, args=(ranges, plan.ranges, wire_in, failures), name="lazarus-ranges")
    maker = threading.Thread(target=_put_together, args=(plan, wire_out, tar_in, largest, failures), name="lazarus-tar")
    staged: StagedLayer | None = None
    try:
        feeder.start()
        maker.start()
        staged = layers.ingest(
            lease,
            tar_out,
            compression="none",
            limits=limits,
            name=descriptor.digest,
            progress=progress and say,
            expected_diff_id=expected_diff_id,
        )
    except _LIES as error:
        failures.append(error)
    finally:
        os.close(tar_out)
        for stage, ends in ((maker, (wire_out, tar_in)), (feeder, (wire_in,))):
            if stage.ident is None:  # there was no thread to be had: its ends are still ours
                for fd in ends:
                    os.close(fd)
            else:
                stage.join()
    broken = [error for error in failures if not isinstance(error, BrokenPipeError)]
    if broken:
        raise broken[0]
    if staged is None or failures:
        raise CorruptError(f"layer {descriptor.digest}: its parts do not make up the tar")
    need = plan.need
    log.info(
        "layer %s: %d of %d files, %d of %d bytes fetched",
        descriptor.digest,
        need.missing,
        need.files,
        need.wire,
        descriptor.size,
    )
    return staged


def _largest(descriptor: Descriptor, limits: Limits | None) -> int:
    """What the layer may inflate to, by the rule that holds for one that comes whole (csrc/tree/lz_ingest.h)."""
    ratio = (limits.max_ratio if limits is not None else 0) or 1100
    largest = (limits.max_tar_size if limits is not None else 0) or 1 << 40
    return min(largest, (64 << 20) + ratio * descriptor.size)


def _feed(ranges: Ranges, wanted: Sequence[tuple[int, int]], wire: int, failures: list[BaseException]) -> None:
    """The ranges' bytes in order; the next requests are made while they come."""
    waiting: deque[Future[Part]] = deque()
    rest = iter(wanted)
    try:
        with ThreadPoolExecutor(AHEAD, "lazarus-range") as pool:
            try:
                while True:
                    while len(waiting) < AHEAD and (place := next(rest, None)) is not None:
                        waiting.append(pool.submit(ranges.open, *place))
                    if not waiting:
                        break
                    with waiting.popleft().result() as stream:
                        stream.copy_to(wire)
            finally:
                for future in waiting:
                    future.cancel()
                for future in waiting:
                    if not future.cancelled() and future.exception() is None:
                        future.result().__exit__(None, None, None)
    except BaseException as error:
        failures.append(error)
    finally:
        os.close(wire)


def _put_together(plan: Plan, wire: int, tar: int, largest: int, failures: list[BaseException]) -> None:
    try:
        plan.rebuild(wire, tar, largest)
    except BaseException as error:
        failures.append(error)
    finally:
        os.close(wire)
        os.close(tar)
