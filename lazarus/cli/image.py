"""`image squash|rebase|drop|reorder|split|diff`."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.options import Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, print_json
from lazarus.cli.progress import progress_bars

if TYPE_CHECKING:
    from lazarus.store import Store


def squash(store: Store, arguments: SimpleNamespace) -> int:
    """Layers that follow one another become one; prints the new image's ID."""
    with progress_bars(not arguments.quiet) as progress:
        image = store.images.squash(
            arguments.image, arguments.tag, first=arguments.first, last=arguments.last, progress=progress
        )
    print(image.id)
    return 0


def split(store: Store, arguments: SimpleNamespace) -> int:
    """Some paths of a layer get a layer of their own; prints the new image's ID."""
    if not arguments.path:
        raise Mistake("--path GLOB is needed: which paths get a layer of their own")
    with progress_bars(not arguments.quiet) as progress:
        image = store.images.split(arguments.image, arguments.layer, arguments.path, arguments.tag, progress=progress)
    print(image.id)
    return 0


def drop(store: Store, arguments: SimpleNamespace) -> int:
    """An image without some layers; prints its ID."""
    print(store.images.drop(arguments.image, arguments.layers, arguments.tag).id)
    return 0


def reorder(store: Store, arguments: SimpleNamespace) -> int:
    """The same layers in another order; prints the new image's ID."""
    print(store.images.reorder(arguments.image, arguments.order, arguments.tag, force=arguments.force).id)
    return 0


def rebase(store: Store, arguments: SimpleNamespace) -> int:
    """An image's own layers on another base; prints the new image's ID."""
    if arguments.onto is None:
        raise Mistake("--onto IMAGE is needed: the new base")
    print(store.images.rebase(arguments.image, arguments.onto, arguments.tag, base=arguments.base).id)
    return 0


def diff(store: Store, arguments: SimpleNamespace) -> int:
    """Lines `A /path`, `C /path (what differs)`, `D /path`."""
    found = False
    changes = store.images.diff(arguments.before, arguments.after)
    if arguments.format == "json":
        rows = [
            {
                "change": change.change,
                "path": os.fsdecode(change.path),
                "kind": change.kind,
                "differs": list(change.differs),
                "old_size": change.old_size,
                "size": change.size,
            }
            for change in changes
        ]
        found = bool(rows)
        print_json(rows)
    else:
        sys.stdout.flush()
        for change in changes:
            found = True
            differs = f" ({', '.join(change.differs)})" if change.differs else ""
            sys.stdout.buffer.write(b"%s %s%s\n" % (change.change.encode(), change.path, differs.encode()))
    return 1 if found and arguments.exit_code else 0


_IMAGE = Word("image", "IMAGE", "a reference, or an ID or the beginning of one")
_TAG = Option(("-t", "--tag"), "tag", "a name for the new image", "NAME")
_NO_BARS = Option(("-q", "--quiet"), "quiet", "draw no progress bars")
_NUMBERS = "Layers are given by number (1 is the lowest) or by diff ID or its beginning. The image itself stays."

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "image squash",
            "make one layer of several that follow one another",
            squash,
            (_IMAGE,),
            (
                Option(("--from",), "first", "the lowest of them (default: 1)", "N", default=1, kind=whole_number),
                Option(("--to",), "last", "the highest of them (default: the topmost)", "M", kind=whole_number),
                _TAG,
                _NO_BARS,
            ),
            "The tree stays the same. No file is copied; each is read once, because a layer's diff ID is the digest\n"
            "of its tar.",
        ),
        Verb(
            "image split",
            "give some paths of a layer a layer of their own",
            split,
            (_IMAGE, Word("layer", "LAYER", "which layer")),
            (
                Option(
                    ("--path",),
                    "path",
                    "paths that go to the new layer, with all that is in them; * ? [a-z] stay in one directory, ** does"
                    " not",
                    "GLOB",
                    many=True,
                ),
                _TAG,
                _NO_BARS,
            ),
            _NUMBERS + "\nThe new layer lies on what is left of the old one; the tree stays the same.",
        ),
        Verb(
            "image drop",
            "leave layers out",
            drop,
            (_IMAGE, Word("layers", "LAYER", "which layers", "+")),
            (_TAG,),
            _NUMBERS,
        ),
        Verb(
            "image reorder",
            "put layers in another order",
            reorder,
            (_IMAGE, Word("order", "LAYER", "every layer once, the lowest first", "+")),
            (
                Option(("-f", "--force"), "force", "also when the tree is another then"),
                _TAG,
            ),
            _NUMBERS,
        ),
        Verb(
            "image rebase",
            "put an image's own layers on another base",
            rebase,
            (_IMAGE,),
            (
                Option(("--onto",), "onto", "the new base", "IMAGE"),
                Option(("--base",), "base", "what it was built on (default: found in the store)", "IMAGE"),
                _TAG,
            ),
            "The config of the image stays, but for its history.",
        ),
        Verb(
            "image diff",
            "show what differs between the trees of two images",
            diff,
            (Word("before", "A", "an image"), Word("after", "B", "another")),
            (Option(("--exit-code",), "exit_code", "exit with 1 when anything differs"), FORMAT),
        ),
    )
}
