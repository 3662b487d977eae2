"""`pull`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.images import LIMITS, PLATFORM, limits
from lazarus.cli.options import Option, Verb, Word
from lazarus.cli.progress import PROGRESS, transfer_progress

if TYPE_CHECKING:
    from lazarus.store import Store


def pull(store: Store, arguments: SimpleNamespace) -> int:
    """Brings images into the store; prints their IDs."""
    with transfer_progress(arguments.progress, arguments.quiet) as progress:
        images = store.images.pull(
            arguments.source,
            platform=arguments.platform,
            all_platforms=arguments.all_platforms,
            keep_blobs=arguments.keep_blobs,
            limits=limits(arguments),
            progress=progress,
        )
    for image in images:
        print(image.id)
    return 0


_QUIET = Option(("-q", "--quiet"), "quiet", "print the ID only")
_ALL_PLATFORMS = Option(
    ("--all-platforms",),
    "all_platforms",
    "all images of an index: others than this host's (or --platform's) get their platform after the tag",
)

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "pull",
            "bring an image from a registry or another place into the store; prints its ID",
            pull,
            (
                Word(
                    "source",
                    "SOURCE",
                    "a reference, or docker://REF, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REF],"
                    " dir:DIR",
                ),
            ),
            (
                PLATFORM,
                _ALL_PLATFORMS,
                Option(
                    ("--keep-blobs",),
                    "keep_blobs",
                    "keep compressed layers as they come, too, so that save and push give the same manifest again",
                ),
                _QUIET,
                PROGRESS,
                *LIMITS,
            ),
            engine_code=125,
        ),
    )
}
