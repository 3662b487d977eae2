"""`diff`, `commit`, `cp`, `export`, `mount`, `umount`, `union`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO

from lazarus.cli.containers import CONTAINER, CONTAINERS, each
from lazarus.cli.options import PROGRAM, Mistake, Option, Verb, Word, truth
from lazarus.cli.output import FORMAT, complain, print_json

if TYPE_CHECKING:
    from lazarus.store import Store


@contextmanager
def binary_output(path: str) -> Iterator[BinaryIO]:
    """A file that appears when it is whole; or standard output for `-`, which must not be a terminal."""
    if path != "-":
        from lazarus.whole_file import whole_file

        with whole_file(path) as fd, os.fdopen(fd, "wb", closefd=False) as file:
            yield file
        return
    if sys.stdout.isatty():
        raise Mistake("refusing to write an archive to a terminal; use -o FILE or redirect")
    with os.fdopen(os.dup(1), "wb") as out:
        yield out


def diff(store: Store, arguments: SimpleNamespace) -> int:
    """Lines `A /path`, `C /path`, `D /path`."""
    changes = store.containers.get(arguments.container).diff(mount=arguments.mount)
    if arguments.format == "json":
        print_json(
            [
                {
                    "change": change.change,
                    "path": os.fsdecode(change.path),
                    "kind": change.kind,
                    "content": change.content,
                    "size": change.size,
                }
                for change in changes
            ]
        )
        return 0
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(b"%s %s\n" % (change.change.encode(), change.path) for change in changes))
    return 0


def commit(store: Store, arguments: SimpleNamespace) -> int:
    """An image of what a container has changed; prints its ID."""
    if "@" in arguments.container:  # which no name of a container has
        place = f"{arguments.container:.200}"
        raise Mistake(f"{place}: a checkpoint is not committed itself: `{PROGRAM} fork {place}`, and commit the fork")
    image = store.containers.get(arguments.container).commit(
        arguments.reference,
        changes=arguments.change,
        message=arguments.message,
        author=arguments.author,
        compression=arguments.compression,
        pause=arguments.pause,
        mount=arguments.mount,
    )
    print(image.id)
    return 0


def cp(store: Store, arguments: SimpleNamespace) -> int:
    """Between a container or image and the host: one side is a path of the host, or - for a tar stream."""
    from lazarus.cli.trees import locate

    source, target, archive = arguments.source, arguments.target, arguments.archive
    inside, outside = is_inside(source), is_inside(target)
    if inside == outside:
        raise Mistake(
            "one of SOURCE and TARGET must be CONTAINER:PATH or IMAGE:PATH, the other a path of the host or -"
        )
    place = locate(store, source if inside else target)
    if inside:
        if target != "-":
            place.thing.copy_out(place.path, target, archive=archive)
            return 0
        with binary_output("-") as out:
            place.thing.copy_out(place.path, out, archive=archive)
        return 0
    if not hasattr(place.thing, "copy_in"):
        from lazarus.errors import UnsupportedError

        raise UnsupportedError(
            f"cp: {place.name}: an image does not change; copy into a container of it, and commit that"
        )
    place.thing.copy_in(sys.stdin.buffer if source == "-" else source, place.path, archive=archive)
    return 0


def is_inside(text: str) -> bool:
    """A path of the host begins with / or ., or has no colon."""
    name, separator, _ = text.partition(":")
    return bool(separator and name) and not text.startswith(("/", "."))


def export(store: Store, arguments: SimpleNamespace) -> int:
    """All files of a container as one tar."""
    container = store.containers.get(arguments.container)
    with binary_output(arguments.output) as out:
        container.export(out)
    return 0


def mount(store: Store, arguments: SimpleNamespace) -> int:
    """Mounts containers and prints the paths; without arguments, lists what is mounted."""
    if arguments.containers:
        return each(store, arguments.containers, lambda container: container.mount())
    for container in store.containers.list(all=True):
        if os.path.ismount(container.rootfs):
            print(f"{container.id[:12]}   {container.name}   {container.rootfs}")
    return 0


def umount(store: Store, arguments: SimpleNamespace) -> int:
    """Unmounts containers, and unions."""
    from lazarus.errors import LazarusError
    from lazarus.mounts.union import dissolve

    failures = 0
    for name in arguments.containers:
        identity = os.path.basename(os.path.dirname(os.path.realpath(name)))
        if not _is_place(store, name):
            failures += each(store, [name], lambda container: container.unmount())
        elif os.path.realpath(name) == os.path.realpath(f"{store.paths.container(identity)}/merged"):
            failures += each(store, [identity], lambda container: container.unmount())  # what `mount` printed
        else:
            try:
                dissolve(name)
                print(name)
            except (LazarusError, OSError) as error:
                failures += 1
                complain(error)
    return 1 if failures else 0


def _is_place(store: Store, name: str) -> bool:
    """Is a directory meant? With a slash it is; without, where no container is called so (an ID that begins so does not
    count) and something is mounted."""
    from lazarus.errors import LazarusError, NotFoundError
    from lazarus.mounts.union import mounted

    if "/" in name:
        return True
    try:
        found = store.containers.get(name)
    except NotFoundError:
        pass
    except LazarusError:  # several have such an ID
        return False
    else:
        if name in (found.name, found.id):
            return False
    return mounted(os.path.realpath(name)) is not None


def split_lowers(text: str) -> list[str]:
    """`A:B:C` as overlayfs reads it: a backslash takes the next character as it is, so `\\:` is a colon in a name."""
    parts, letters = [""], iter(text)
    for letter in letters:
        if letter == ":":
            parts.append("")
        else:
            parts[-1] += next(letters, letter) if letter == "\\" else letter
    return [part for part in parts if part]


def union(_store: None, arguments: SimpleNamespace) -> int:
    """Directories of the host over one another."""
    from lazarus.mounts.union import union as unite

    unite(split_lowers(arguments.lowers), arguments.target, upper=arguments.upper, work=arguments.work)
    return 0


_MOUNT = Option(
    ("--mount",), "mount", "meant is the image that is mounted, writable, in this place of the container", "TARGET"
)
_COMMIT_OPTIONS = (
    _MOUNT,
    Option(("-m", "--message"), "message", "comment in the image's history", "TEXT", default=""),
    Option(("-a", "--author"), "author", "author of the image", "NAME", default=""),
    Option(
        ("-c", "--change"), "change", "a Dockerfile instruction for its config: CMD, ENV, ...", "INSTRUCTION", many=True
    ),
    Option(
        ("--compression",),
        "compression",
        "of the layer: gzip (the default), zstd, none",
        "KIND",
        default="gzip",
        choices=("gzip", "zstd", "none"),
    ),
    Option(
        ("-p", "--pause"),
        "pause",
        "false: do not freeze a running container meanwhile",
        "true|false",
        default=True,
        kind=truth,
    ),
    Option(("-q", "--quiet"), "quiet", "accepted for the sake of scripts: nothing but the ID is printed anyway"),
)
_ARCHIVE = Option(
    ("-a", "--archive"),
    "archive",
    "keep owners, set-ID bits and capabilities (else: root's in the container, the caller's on the host, without them)",
)

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "diff",
            "list what a container has changed in its image's files",
            diff,
            (CONTAINER,),
            (_MOUNT, FORMAT),
            "A added, C changed, D deleted.",
        ),
        Verb(
            "commit",
            "make an image from what a container has changed; prints its ID",
            commit,
            (CONTAINER, Word("reference", "REFERENCE", "name for the image", "?")),
            _COMMIT_OPTIONS,
            "Same changes, same layer. $SOURCE_DATE_EPOCH sets the time of the image and bounds those of files.\n"
            f"To commit what it was in a checkpoint: `{PROGRAM} fork CONTAINER@CHECKPOINT`, and commit the fork.",
        ),
        Verb(
            "cp",
            "copy between a container or image and the host",
            cp,
            (
                Word("source", "SOURCE", "NAME:PATH or PATH; DIR/. is what is in it; - a tar from standard input"),
                Word("target", "TARGET", "CONTAINER:PATH or PATH; - writes a tar to standard output"),
            ),
            (_ARCHIVE,),
        ),
        Verb(
            "export",
            "write all files of a container as a tar",
            export,
            (CONTAINER,),
            (Option(("-o", "--output"), "output", "file to write (default: standard output)", "FILE", default="-"),),
        ),
        Verb(
            "mount",
            "mount root file systems of containers; prints the paths",
            mount,
            (CONTAINERS._replace(amount="*"),),
            (),
            "Without arguments: lists what is mounted.",
        ),
        Verb(
            "umount",
            "unmount root file systems of containers, and unions",
            umount,
            (CONTAINERS._replace(metavar="CONTAINER|DIR", help=f"{CONTAINER.help}; or a union's target"),),
            (),
            "A name without a / is a container's, if there is one; else a directory's.",
        ),
        Verb(
            "union",
            "mount directories of the host over one another",
            union,
            (
                Word("lowers", "A:B:C", "lower directories, topmost first; \\: is a colon in a name"),
                Word("target", "TARGET", "where to mount"),
            ),
            (
                Option(("--upper",), "upper", "writable directory on top of all", "DIR"),
                Option(("--work",), "work", "empty directory on the same file system as the upper", "DIR"),
            ),
            f"`{PROGRAM} umount TARGET` undoes it (./TARGET where a container has that name).",
            needs_store=False,
        ),
    )
}
