"""`volume create`, `volume ls`, `volume inspect`, `volume rm`, `volume prune`, `volume cp`, `export`, `import`,
`push` and `pull`."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.options import Mistake, Option, Verb, Word, storage_size
from lazarus.cli.output import FORMAT, complain, print_json, print_table, size
from lazarus.cli.registry_options import REGISTRY, settings
from lazarus.errors import CorruptError, FormatError, UnsafeError

if TYPE_CHECKING:
    from lazarus.store import Store

_KINDS = ("name", "label", "label!", "dangling")


def create(store: Store, arguments: SimpleNamespace) -> int:
    """An empty volume; prints its name. One that is there stays as it is."""
    labels = {name: value for name, _, value in (label.partition("=") for label in arguments.labels)}
    size = storage_size("-o", arguments.options)
    print(store.volumes.create(arguments.name, labels, size=size, exist_ok=True).name)
    return 0


def _check_filters(filters: list[str], kinds: tuple[str, ...]) -> None:
    for text in filters:
        kind, separator, value = text.partition("=")
        if kind not in kinds or not separator:
            raise Mistake(f"--filter {text:.100}: not one of {', '.join(f'{kind}=...' for kind in kinds)}")
        if kind == "dangling" and value not in ("true", "false", "1", "0"):
            raise Mistake(f"--filter {text:.100}: neither true nor false")


def ls(store: Store, arguments: SimpleNamespace) -> int:
    """The volumes, by name."""
    _check_filters(arguments.filter, _KINDS)
    found = store.volumes.list(arguments.filter)
    if arguments.quiet:
        for volume in found:
            print(volume.name)
    elif arguments.format == "json":
        print_json([volume.inspect() for volume in found])
    else:
        print_table(("DRIVER", "VOLUME NAME"), [("local", volume.name) for volume in found])
    return 0


def inspect(store: Store, arguments: SimpleNamespace) -> int:
    """Volumes and snapshots as JSON."""
    from lazarus.volumes.names import split_snapshot

    found = []
    for text in arguments.names:
        name, snapshot = split_snapshot(text)
        volume = store.volumes.get(name)
        found.append(volume.inspect() if snapshot is None else volume.get_snapshot(snapshot).inspect())
    print_json(found)
    return 0


def rm(store: Store, arguments: SimpleNamespace) -> int:
    """Removes volumes and snapshots; one that cannot be removed does not keep the others."""
    from lazarus.errors import LazarusError, NotFoundError
    from lazarus.volumes.names import split_snapshot

    failures = 0
    for name in arguments.names:
        try:
            volume, snapshot = split_snapshot(name)
            if snapshot is None:
                store.volumes.remove(volume, missing_ok=arguments.force)
            else:
                store.volumes.get(volume).get_snapshot(snapshot).remove()
        except (LazarusError, OSError) as error:
            if arguments.force and isinstance(error, NotFoundError):
                print(name)
                continue
            failures += 1
            complain(error)
        else:
            print(name)
    return 1 if failures else 0


def prune(store: Store, arguments: SimpleNamespace) -> int:
    """Removes volumes that no container names: a line for each, then how much that gave back."""
    _check_filters(arguments.filter, ("label", "label!"))
    removed = store.volumes.prune(all=arguments.all, filters=arguments.filter)
    for name in removed.names:
        print(name)
    print(f"Total reclaimed space: {size(removed.bytes)}")
    return 0


def cp(store: Store, arguments: SimpleNamespace) -> int:
    """Between a volume and the host: one side is a path of the host, or - for a tar stream."""
    from lazarus.cli.files import binary_output, is_inside
    from lazarus.volumes.names import split_snapshot

    source, target, archive = arguments.source, arguments.target, arguments.archive
    inside = is_inside(source)
    if inside == is_inside(target):
        raise Mistake("one of SOURCE and TARGET must be VOLUME:PATH, the other a path of the host or -")
    text, _, path = (source if inside else target).partition(":")
    name, snapshot = split_snapshot(text)
    if snapshot is not None and not inside:
        raise Mistake(f"{text}: a snapshot does not change; copy into the volume, or into a clone of the snapshot")
    volume, path = store.volumes.get(name), "/" + path.lstrip("/")
    if not inside:
        volume.copy_in(sys.stdin.buffer if source == "-" else source, path, archive=archive)
    elif target != "-":
        volume.copy_out(path, target, snapshot=snapshot, archive=archive)
    else:
        with binary_output("-") as out:
            volume.copy_out(path, out, snapshot=snapshot, archive=archive)
    return 0


def export(store: Store, arguments: SimpleNamespace) -> int:
    """All files of a volume, or of a snapshot of it, as one tar."""
    from lazarus.cli.files import binary_output
    from lazarus.volumes.names import split_snapshot

    name, snapshot = split_snapshot(arguments.name)
    volume = store.volumes.get(name)
    if snapshot is not None:
        volume.get_snapshot(snapshot)  # before a file is made, or a terminal complained about
    with binary_output(arguments.output) as out:
        volume.export(out, snapshot=snapshot)
    return 0


def import_(store: Store, arguments: SimpleNamespace) -> int:
    """What a tar holds, into a volume that is there."""
    volume = store.volumes.get(arguments.name)
    named = arguments.file if arguments.file != "-" else "<stdin>"
    try:
        if arguments.file == "-":
            volume.import_(sys.stdin.buffer)
        else:
            with open(arguments.file, "rb") as file:
                volume.import_(file)
    except (FormatError, CorruptError, UnsafeError) as error:  # of the tar, which has no name for who reads it
        raise type(error)(f"{named}: {error}") from error
    return 0


def push(store: Store, arguments: SimpleNamespace) -> int:
    """A volume as chunks to a registry, an OCI layout or an archive of one."""
    from lazarus.cli.progress import progress_bars
    from lazarus.volumes.names import split_snapshot

    name, snapshot = split_snapshot(arguments.name)
    with progress_bars(not arguments.quiet) as progress:
        pushed = store.volumes.get(name).push(
            arguments.destination, snapshot=snapshot, registry=settings(arguments), progress=progress
        )
    if arguments.format == "json":
        print_json(
            {
                "Digest": str(pushed.digest),
                "Total": pushed.size,
                "New": pushed.new,
                "Sent": pushed.sent,
                "Entries": pushed.entries,
                "Chunks": pushed.chunks,
                "Packs": pushed.packs,
                "Skipped": [os.fsdecode(path) for path in pushed.skipped],
            }
        )
    else:
        print(f"Pushed {arguments.name}: {size(pushed.size)} of files, {size(pushed.sent)} sent, {pushed.digest}")
    return 0


def pull(store: Store, arguments: SimpleNamespace) -> int:
    """A new volume from chunks; prints its name."""
    from lazarus.cli.progress import progress_bars

    limit = storage_size("-o", arguments.options)
    with progress_bars(not arguments.quiet) as progress:
        pulled = store.volumes.pull(
            arguments.source, arguments.name, size=limit, registry=settings(arguments), progress=progress
        )
    if arguments.format == "json":
        print_json(
            {
                "Name": pulled.volume.name,
                "Digest": str(pulled.digest),
                "Total": pulled.size,
                "Read": pulled.read,
                "Entries": pulled.entries,
            }
        )
    else:
        print(pulled.volume.name)
    return 0


_PLACE = "HOST/REPOSITORY[:TAG] or docker://REF, oci:DIR[:TAG] or oci-archive:FILE[:TAG]"
_OPTIONS = Option(
    ("-o", "--opt"),
    "options",
    "size=SIZE: what is in it, and its snapshots, take at most so much (300M at least)",
    "NAME=VALUE",
    many=True,
)
_NO_BARS = Option(("-q", "--quiet"), "quiet", "draw no progress bars")
_NAME = Word("name", "VOLUME", "name of a volume")
_NAMES = Word("names", "VOLUME[@NAME]", "name of a volume, or of a snapshot of it", "+")


def _filters(kinds: tuple[str, ...]) -> Option:
    return Option(("--filter",), "filter", f"only those that match: {', '.join(kinds)}", "KIND=VALUE", many=True)


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "volume create",
            "make a volume; prints its name",
            create,
            (Word("name", "NAME", "its name (default: 64 hex digits)", "?"),),
            (Option(("--label", "-l"), "labels", "a label", "NAME[=VALUE]", many=True), _OPTIONS),
            "One that is there already stays as it is. A size needs root and mkfs.xfs: it is an XFS in a file then.",
        ),
        Verb(
            "volume ls",
            "list volumes",
            ls,
            (),
            (
                _filters(_KINDS)._replace(flags=("-f", "--filter")),
                Option(("-q", "--quiet"), "quiet", "print names only"),
                FORMAT,
            ),
            "dangling=true: those that no container names.",
        ),
        Verb(
            "volume inspect",
            "print all about volumes and snapshots, as JSON",
            inspect,
            (_NAMES,),
            (FORMAT._replace(help="json (the only one)", default="json", choices=("json",), metavar="json"),),
        ),
        Verb(
            "volume rm",
            "remove volumes, all that is in them and their snapshots; or one snapshot",
            rm,
            (_NAMES,),
            (Option(("-f", "--force"), "force", "a missing one is no error"),),
            "One that a container names, running or not, stays.",
        ),
        Verb(
            "volume prune",
            "remove volumes without a name of their own that no container uses",
            prune,
            (),
            (
                Option(("-a", "--all"), "all", "also those that were given a name"),
                _filters(("label", "label!")),
                Option(("-f", "--force"), "force", "accepted for the sake of scripts: nothing is asked anyway"),
            ),
        ),
        Verb(
            "volume cp",
            "copy between a volume and the host",
            cp,
            (
                Word(
                    "source",
                    "SOURCE",
                    "VOLUME[@NAME]:PATH or PATH; DIR/. is what is in it; - a tar from standard input",
                ),
                Word("target", "TARGET", "VOLUME:PATH or PATH; - writes a tar to standard output"),
            ),
            (
                Option(
                    ("-a", "--archive"),
                    "archive",
                    "keep owners, set-ID bits and capabilities (else: root's in the volume, the caller's on the host)",
                ),
            ),
            "Containers may use it meanwhile. A snapshot (VOLUME@NAME) can be copied from.",
        ),
        Verb(
            "volume export",
            "write all files of a volume, or of a snapshot of it, as a tar",
            export,
            (Word("name", "VOLUME[@NAME]", "name of a volume, or of a snapshot of it"),),
            (Option(("-o", "--output"), "output", "file to write (default: standard output)", "FILE", default="-"),),
        ),
        Verb(
            "volume import",
            "add what a tar holds to a volume",
            import_,
            (_NAME, Word("file", "FILE", "a tar (plain, gzip or zstd); - for standard input")),
            (),
            "The volume must be there. Files in the way are replaced, directories stay. When it fails, as for"
            " a tar that is cut off, files that came whole stay, and those that others were to replace.",
        ),
        Verb(
            "volume push",
            "write a volume or snapshot as an OCI artifact of chunks; again, only what changed",
            push,
            (
                Word("name", "VOLUME[@NAME]", "a volume as it is now, or a snapshot of it"),
                Word("destination", "DESTINATION", _PLACE),
            ),
            (_NO_BARS, FORMAT, *REGISTRY),
            "To a registry or directory only chunks are written that no volume there has. Containers may use the volume"
            " meanwhile; files that change then may come torn, but for those of a snapshot.",
        ),
        Verb(
            "volume pull",
            "make a volume from what push wrote; prints its name",
            pull,
            (
                Word("source", "SOURCE", _PLACE),
                Word("name", "NAME", "name of the new volume (default: the one it was pushed under)", "?"),
            ),
            (_OPTIONS, _NO_BARS, FORMAT, *REGISTRY),
            "Everything is checked. In a directory or archive without a TAG there must be one volume. A pull changes no"
            " volume that is there: what was pushed since then is pulled under another name.",
        ),
    )
}
