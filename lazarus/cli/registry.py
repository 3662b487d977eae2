"""`pull`, `push`, `copy`, `search-tags`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.images import ALL_PLATFORMS, LIMITS, PLATFORM, limits
from lazarus.cli.options import Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, print_json
from lazarus.cli.progress import PROGRESS, transfer_progress
from lazarus.cli.registry_options import REGISTRY, registry_options, settings

if TYPE_CHECKING:
    from lazarus.oci.transports import Place
    from lazarus.store import Store

_PLACES = "a reference, or docker://REF, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REF], dir:DIR"


def pull(store: Store, arguments: SimpleNamespace) -> int:
    """Brings images into the store; prints their IDs."""
    with transfer_progress(arguments.progress, arguments.quiet) as progress:
        images = store.images.pull(
            arguments.source,
            reference=arguments.tag,
            platform=arguments.platform,
            all_platforms=arguments.all_platforms,
            keep_blobs=arguments.keep_blobs,
            limits=limits(arguments),
            registry=settings(arguments),
            progress=progress,
        )
    for image in images:
        print(image.id)
    return 0


def push(store: Store, arguments: SimpleNamespace) -> int:
    """Writes an image to a registry or another place; prints its digest."""
    with transfer_progress(arguments.progress, arguments.quiet) as progress:
        pushed = store.images.push(
            arguments.image,
            arguments.destination,
            all_platforms=arguments.all_platforms,
            compression=arguments.compression_format,
            level=arguments.compression_level,
            registry=settings(arguments),
            progress=progress,
        )
    return _say_digest(pushed.digest, arguments)


def copy(_: None, arguments: SimpleNamespace) -> int:
    """Copies an image from one place to another, without a store; prints its digest."""
    from lazarus.images.copy import copy_image
    from lazarus.oci.platforms import parse_platform
    from lazarus.oci.transports import parse_place

    source, target = parse_place(arguments.source), parse_place(arguments.destination)
    if arguments.creds is not None:
        _check_whose(source, target, arguments)
    with transfer_progress(arguments.progress, arguments.quiet) as progress:
        copied = copy_image(
            source,
            target,
            platform=parse_platform(arguments.platform) if arguments.platform else None,
            all_platforms=arguments.all_platforms,
            registry=settings(arguments, "src_"),
            target_registry=settings(arguments, "dest_"),
            progress=progress,
        )
    return _say_digest(copied.digest, arguments)


def _check_whose(source: Place, target: Place, arguments: SimpleNamespace) -> None:
    """One password is not for two registries: the other one would be told it when it asks."""
    from lazarus.registry.settings import Repository

    if source.kind == target.kind == "docker" and arguments.src_creds is None and arguments.dest_creds is None:
        hosts = [Repository.of(place.reference).host for place in (source, target)]
        if hosts[0] != hosts[1]:
            raise Mistake(f"--creds: for {hosts[0]} (--src-creds) or for {hosts[1]} (--dest-creds)?")


def _say_digest(digest: str, arguments: SimpleNamespace) -> int:
    if arguments.digestfile:
        from lazarus.oci.writers import write_all
        from lazarus.whole_file import whole_file

        with whole_file(arguments.digestfile) as fd:
            write_all(fd, digest.encode())
    print(digest)
    return 0


def search_tags(_: None, arguments: SimpleNamespace) -> int:
    """The tags that a registry has of a repository."""
    from itertools import islice

    from lazarus.images.remote import tags
    from lazarus.oci.transports import parse_place

    found = islice(
        tags(parse_place(arguments.repository, ("docker",), bare=True), settings(arguments)), arguments.limit
    )
    if arguments.format == "json":
        print_json({"Repository": arguments.repository, "Tags": list(found)})
        return 0
    for tag in found:
        print(tag)
    return 0


_QUIET = Option(("-q", "--quiet"), "quiet", "print the ID only")
_NO_BARS = _QUIET._replace(help="draw no progress bars")
_DIGEST_FILE = Option(("--digestfile",), "digestfile", "write the digest to a file, too", "FILE")

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "pull",
            "bring an image from a registry or another place into the store; prints its ID",
            pull,
            (Word("source", "SOURCE", _PLACES),),
            (
                Option(("-t", "--tag"), "tag", "its name here (default: the one that it is asked for by)", "REFERENCE"),
                PLATFORM,
                ALL_PLATFORMS,
                Option(
                    ("--keep-blobs",),
                    "keep_blobs",
                    "keep compressed layers as they come, too, so that save and push give the same manifest again",
                ),
                _QUIET,
                PROGRESS,
                *REGISTRY,
                *LIMITS,
            ),
            engine_code=125,
        ),
        Verb(
            "push",
            "write an image to a registry or another place, and only what is missing there; prints its digest",
            push,
            (
                Word("image", "IMAGE", "a reference, or an ID or the beginning of one"),
                Word("destination", "DESTINATION", f"{_PLACES} (default: the registry that its name says)", "?"),
            ),
            (
                ALL_PLATFORMS._replace(help="an image index of it and its neighbours of other platforms (see pull)"),
                Option(
                    ("--compression-format",),
                    "compression_format",
                    "of all layers (default: as they are; zstd:chunked for those that are not compressed yet)",
                    "gzip|zstd|zstd:chunked|none",
                    choices=("gzip", "zstd", "zstd:chunked", "none"),
                ),
                Option(
                    ("--compression-level",),
                    "compression_level",
                    "gzip: 1 to 9, zstd: 1 to 22; layers are compressed again for it",
                    "LEVEL",
                    default=0,
                    kind=whole_number,
                ),
                _DIGEST_FILE,
                _NO_BARS,
                PROGRESS,
                *REGISTRY,
            ),
            engine_code=125,
        ),
        Verb(
            "copy",
            "copy an image from one place to another as it is, without a store; prints its digest",
            copy,
            (
                Word("source", "SOURCE", _PLACES.removeprefix("a reference, or ")),
                Word("destination", "DESTINATION", "likewise"),
            ),
            (
                Option(("-a", "--all", "--all-platforms"), "all_platforms", "the image index, and all that is in it"),
                PLATFORM,
                _DIGEST_FILE,
                _NO_BARS,
                PROGRESS,
                *REGISTRY,
                *registry_options("src-", " (of the source)"),
                *registry_options("dest-", " (of the destination)"),
            ),
            needs_store=False,
            engine_code=125,
        ),
        Verb(
            "search-tags",
            "list the tags that a registry has of a repository",
            search_tags,
            (Word("repository", "REPOSITORY", "a reference; its tag does not matter"),),
            (
                Option(("--limit",), "limit", "at most so many", "COUNT", kind=whole_number),
                FORMAT,
                *REGISTRY,
            ),
            needs_store=False,
            engine_code=125,
        ),
    )
}
