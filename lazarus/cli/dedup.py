"""`dedup report`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.options import Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, plural, print_json, print_table, size
from lazarus.cli.progress import progress_bars

if TYPE_CHECKING:
    from lazarus.images.dedup import Sharing
    from lazarus.store import Store

_CURVE = tuple(1 << bits for bits in range(12, 21, 2))  # what a plot shows unless sizes are given


def report(store: Store, arguments: SimpleNamespace) -> int:
    """How many bytes images would take, the more is shared."""
    if arguments.plot is not None:
        from lazarus.images.dedup_plot import check_can_plot, plot

        check_can_plot(arguments.plot)
    sizes = arguments.sizes or (_CURVE if arguments.plot is not None else (64 << 10,))
    if arguments.threads is not None and not 1 <= arguments.threads <= 256:
        raise Mistake(f"--threads: {arguments.threads}, expected 1 to 256")
    with progress_bars() as progress:
        found = store.dedup.report(
            arguments.images or None,
            chunk_sizes=sizes,
            key=store.chunk_key if arguments.keyed else None,
            threads=arguments.threads,
            progress=progress,
        )
    if arguments.plot is not None:
        plot(found, arguments.plot)
    if arguments.format == "json":
        print_json(
            {
                "images": list(found.images),
                "alone": found.alone,
                "layers": found.layers._asdict(),
                "files": found.files._asdict(),
                "chunks": [row._asdict() for row in found.chunks],
                "blocks": [row._asdict() for row in found.blocks],
                "keyed": found.keyed,
            }
        )
        return 0
    alone = (plural(len(found.images), "image") + " alone", "", "", size(found.alone), "", "")
    print_table(("SHARED", "USES", "DIFFERENT", "SIZE", "INDEX", "SAVED"), [alone, *map(_line, found.rows)])
    return 0


def _line(row: Sharing) -> tuple[str, ...]:
    what = f"{row.by}s" if not row.size else f"{row.by}s of {_size(row.size)}"
    return what, str(row.uses), str(row.different), size(row.bytes), size(row.index_bytes), f"{100 * row.saved:.1f}%"


def _size(count: int) -> str:
    return f"{count >> 20}MiB" if count >= 1 << 20 else f"{count >> 10}KiB"


def chunk_size(text: str) -> int:
    """`65536`, `64K`, `64KiB`: a power of two from 1 KiB to 16 MiB. `ValueError`."""
    from lazarus.images.dedup import LARGEST, SMALLEST

    digits = text.rstrip("KMiBkmb")
    unit = {"": 1, "K": 1 << 10, "M": 1 << 20}.get(text[len(digits) :].upper().removesuffix("B").removesuffix("I"), 0)
    count = whole_number(digits) * unit
    if not SMALLEST <= count <= LARGEST or count & (count - 1):
        raise ValueError(text)
    return count


chunk_size.__name__ = "power of two from 1KiB to 16MiB"  # argparse says it of what is none

VERBS = {
    "dedup report": Verb(
        "dedup report",
        "show how many bytes images would take, sharing layers, files or chunks",
        report,
        (Word("images", "IMAGE", "an image (default: all that the store has)", "*"),),
        (
            Option(
                ("--chunk-size",),
                "sizes",
                "average size of a chunk, and size of a block: 4KiB, 64KiB (the default), 1MiB; can be given again",
                "SIZE",
                many=True,
                kind=chunk_size,
            ),
            Option(("--keyed",), "keyed", "cut chunks with this store's own secret key"),
            Option(("--plot",), "plot", "also draw them, by default from 4KiB to 1MiB: .png or .svg", "FILE"),
            Option(("--threads",), "threads", "how many read and cut (default: one a core)", "N", kind=whole_number),
            FORMAT,
        ),
        "SIZE is that of the contents of files, uncompressed; INDEX what it takes to find them: 40 bytes for a file\n"
        "of a layer, 40 for a different chunk and 4 for each in a file; SAVED is what is left when that is paid.\n"
        "Files are what this store shares now. Nothing is changed.",
    )
}
