"""`load`, `save`, `import`, `images`, `history`, `tag`, `rmi`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

from lazarus.cli.options import Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, NO_TRUNC, QUIET, age, complain, print_json, print_table, short, size
from lazarus.cli.progress import progress_bars
from lazarus.cli.registry_options import REGISTRY, settings

if TYPE_CHECKING:
    from lazarus.images import Image
    from lazarus.store import Store
    from lazarus.terms import Limits

FORMATS = ("oci-archive", "oci-dir", "docker-archive")
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def byte_count(text: str) -> int:
    """`500`, `20k`, `3.5G`: decimal multiples of bytes. `ValueError`."""
    number = text.lower().removesuffix("b")
    factor = _UNITS.get(number[-1:], 1)
    count = float(number[:-1] if factor > 1 else number) * factor
    if not 0 <= count < 2**63:
        raise ValueError(text)
    return int(count)


def limits(arguments: SimpleNamespace) -> Limits | None:
    """What the options of LIMITS ask for; None when they ask for nothing."""
    from lazarus.terms import Limits

    given = {
        "max_tar_size": arguments.max_tar_size,
        "max_file_size": arguments.max_file_size,
        "max_entries": arguments.max_entries,
        "max_ratio": arguments.max_ratio,
    }
    return Limits(**given) if any(given.values()) else None


def _binary_input(path: str | None) -> str | BinaryIO:
    """A path as it is; standard input for None and `-`."""
    if path not in (None, "-"):
        return path or ""
    if sys.stdin.isatty():
        raise Mistake("nothing to read: give a file, or redirect standard input")
    return sys.stdin.buffer


def load(store: Store, arguments: SimpleNamespace) -> int:
    """Brings the images of an archive into the store."""
    with progress_bars(not arguments.quiet) as progress:
        images = store.images.load(
            _binary_input(arguments.input),
            platform=arguments.platform,
            keep_blobs=not arguments.drop_blobs,
            limits=limits(arguments),
            progress=progress,
        )
    for image in images:
        for name in image.loaded_names or (image.id,):
            print(f"Loaded image: {name}")
    return 0


def save(store: Store, arguments: SimpleNamespace) -> int:
    """Writes images to an archive or a directory."""
    from lazarus.cli.files import binary_output

    if arguments.output == "-" and arguments.format == "oci-dir":
        raise Mistake("--format oci-dir needs -o DIRECTORY")
    with ExitStack() as stack:
        output = arguments.output
        if output == "-":
            output = stack.enter_context(binary_output("-"))
        store.images.save(
            arguments.images,
            output,
            format=arguments.format,
            compression=arguments.compression_format,
            progress=stack.enter_context(progress_bars(not arguments.quiet)),
        )
    return 0


def import_(store: Store, arguments: SimpleNamespace) -> int:
    """An image of one layer from the tar of a root file system; prints its ID."""
    with progress_bars(not arguments.quiet) as progress:
        image = store.images.import_(
            _binary_input(arguments.file),
            arguments.reference,
            changes=arguments.change,
            message=arguments.message,
            platform=arguments.platform,
            limits=limits(arguments),
            progress=progress,
        )
    print(image.id)
    return 0


def _repository_and_tag(reference: str) -> tuple[str, str]:
    """`registry:5000/name:tag` in two; "<none>" for what is missing."""
    name, _, _digest = reference.partition("@")
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name or "<none>", "<none>")


def images(store: Store, arguments: SimpleNamespace) -> int:
    """The images, one row for each name; only names that the reference stands for, if there is one."""
    wanted = arguments.reference or None
    found = [
        (image, image.all_names if wanted is None else image.names_meant_by(wanted))
        for image in store.images.list(wanted)
    ]
    if not arguments.all:
        found.sort(key=lambda item: not item[1])
    if arguments.quiet:
        for image, _ in found:
            print(short(image.id, arguments.no_trunc))
    elif arguments.format == "json":
        print_json([_as_json(image, names) for image, names in found])
    else:
        rows = [
            (
                *_repository_and_tag(name),
                short(image.id, arguments.no_trunc),
                age(image.created),
                size(image.size),
            )
            for image, names in found
            for name in (names or ("<none>",))
        ]
        print_table(("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"), rows)
    return 0


def _as_json(image: Image, names: Sequence[str]) -> dict[str, Any]:
    return {
        "Id": image.id,
        "Names": list(names),
        "Digest": str(image.digest),
        "Created": int(image.created),
        "Size": image.size,
        "ChainId": str(image.chain_id),
        "Layers": [str(diff_id) for diff_id in image.diff_ids],
    }


def history(store: Store, arguments: SimpleNamespace) -> int:
    """How an image came to be, the newest step first."""
    steps = store.images.get(arguments.image).history()
    if arguments.format == "json":
        print_json(steps)
        return 0
    rows = [
        (
            step["created"][:19].replace("T", " "),
            _shortened(step["created_by"], arguments.no_trunc),
            size(step["size"]),
            step["comment"],
        )
        for step in steps
    ]
    print_table(("CREATED", "CREATED BY", "SIZE", "COMMENT"), rows)
    return 0


def _shortened(text: str, no_trunc: bool) -> str:
    return text if no_trunc or len(text) <= 60 else f"{text[:59]}…"


def tag(store: Store, arguments: SimpleNamespace) -> int:
    """One more name for an image."""
    store.images.tag(arguments.image, arguments.reference)
    return 0


def rmi(store: Store, arguments: SimpleNamespace) -> int:
    """Removes names, and images that have none left; with --remote, from a registry."""
    from lazarus.errors import LazarusError, NotFoundError

    def remove(name: str) -> Sequence[str]:
        if not arguments.remote:
            return store.images.remove(name, force=arguments.force)
        from lazarus.images.remote import delete
        from lazarus.oci.transports import parse_place

        return (f"Deleted: {delete(parse_place(name, ('docker',), bare=True), settings(arguments))}",)

    failures = 0
    for name in arguments.images:
        try:
            for line in remove(name):
                print(line)
        except NotFoundError as error:
            if not arguments.force:
                failures += 1
                complain(error)
        except LazarusError as error:
            failures += 1
            complain(error)
    return 1 if failures else 0


_IMAGE = Word("image", "IMAGE", "a reference, or an ID or the beginning of one")
_IMAGES = Word("images", "IMAGE", "a reference, or an ID or the beginning of one", "+")
PLATFORM = Option(
    ("--platform",),
    "platform",
    "which image of an index of platforms, and of no other platform (default: this host's where there is a choice)",
    "OS/ARCH[/VARIANT]",
)
ALL_PLATFORMS = Option(
    ("--all-platforms",),
    "all_platforms",
    "all images of an index: others than this host's (or --platform's) get their platform after the tag",
)
_CHANGE = Option(
    ("-c", "--change"), "change", "a Dockerfile instruction for its config: CMD, ENV, ...", "INSTRUCTION", many=True
)
_NO_BARS = Option(("-q", "--quiet"), "quiet", "draw no progress bars")
LIMITS = (
    Option(
        ("--max-tar-size",), "max_tar_size", "refuse layers that unpack to more", "BYTES", default=0, kind=byte_count
    ),
    Option(("--max-file-size",), "max_file_size", "refuse larger files", "BYTES", default=0, kind=byte_count),
    Option(("--max-entries",), "max_entries", "refuse layers with more entries", "COUNT", default=0, kind=whole_number),
    Option(
        ("--max-ratio",), "max_ratio", "refuse layers that grow more than this", "TIMES", default=0, kind=whole_number
    ),
)
_LOAD_OPTIONS = (
    Option(("-i", "--input"), "input", "archive or OCI layout directory (default: standard input)", "FILE"),
    PLATFORM,
    _NO_BARS,
    Option(
        ("--drop-blobs",), "drop_blobs", "do not keep compressed layers as they came: less disk, another digest on save"
    ),
    *LIMITS,
)

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "load",
            "bring the images of an OCI archive, OCI layout or docker-archive into the store",
            load,
            (),
            _LOAD_OPTIONS,
        ),
        Verb(
            "save",
            "write images to an archive or directory that any other tool reads",
            save,
            (_IMAGES,),
            (
                Option(
                    ("-o", "--output"), "output", "file or directory (default: standard output)", "FILE", default="-"
                ),
                Option(("--format",), "format", "|".join(FORMATS), "FORMAT", default="oci-archive", choices=FORMATS),
                Option(
                    ("--compression-format",),
                    "compression_format",
                    "of all layers (default: as they are)",
                    "gzip|zstd|zstd:chunked|none",
                    choices=("gzip", "zstd", "zstd:chunked", "none"),
                ),
                _NO_BARS,
            ),
        ),
        Verb(
            "import",
            "make an image of one layer from the tar of a root file system; prints its ID",
            import_,
            (
                Word("file", "FILE", "the tar, plain, gzip or zstd; - for standard input"),
                Word("reference", "REFERENCE", "name for the image", "?"),
            ),
            (
                _CHANGE,
                Option(("-m", "--message"), "message", "comment in its history", "TEXT", default=""),
                PLATFORM._replace(help="the platform that it is for (default: this host's)"),
                _NO_BARS,
                *LIMITS,
            ),
        ),
        Verb(
            "images",
            "list images",
            images,
            (
                Word(
                    "reference",
                    "REFERENCE",
                    "only this name, as `run` would find it, with or without a tag; or an ID",
                    "?",
                ),
            ),
            (Option(("-a", "--all"), "all", "in the order in which they came"), QUIET, NO_TRUNC, FORMAT),
        ),
        Verb("history", "show how an image came to be", history, (_IMAGE,), (NO_TRUNC, FORMAT)),
        Verb("tag", "give an image one more name", tag, (_IMAGE, Word("reference", "REFERENCE", "the new name"))),
        Verb(
            "rmi",
            "remove names of images, and images that have none left; --remote: from a registry",
            rmi,
            (_IMAGES,),
            (
                Option(
                    ("-f", "--force"),
                    "force",
                    "all names of an ID; also when a container uses it: then only names go; a missing one is no error",
                ),
                Option(
                    ("--remote",),
                    "remote",
                    "not from the store, but from the registry that the reference names, with all tags of its digest",
                ),
                *REGISTRY,
            ),
        ),
    )
}
