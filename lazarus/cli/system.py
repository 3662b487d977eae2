"""`system df`, `system prune`, `system info`, `system check`, `system scrub`, `version`, `completion`."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lazarus.cli.options import PROGRAM, Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, plural, print_json, print_table, short, size
from lazarus.cli.progress import progress_bars

if TYPE_CHECKING:
    import argparse

    from lazarus.store import Store

_SOMETIMES = ("checkpoints", "volumes", "snapshots")  # said when there are some
_ROOMS = ("blobs", "layers", "objects", "stacks", "containers", *_SOMETIMES, "staging", "trash", "reserve", "total")


def df(store: Store, arguments: SimpleNamespace) -> int:
    """What the store holds and how much disk it uses."""
    usage = store.system_df()
    if arguments.format == "json":
        print_json(usage)
        return 0
    rows = [
        (name, str(usage[name]["count"]), size(usage[name]["bytes"]), size(usage[name]["allocated"]))
        for name in _ROOMS
        if name in usage and (name not in _SOMETIMES or usage[name]["count"])
    ]
    print_table(("WHAT", "COUNT", "SIZE", "ON DISK"), rows)
    print(f"\nreclaimable: {size(usage['reclaimable'])}")
    return 0


def prune(store: Store, arguments: SimpleNamespace) -> int:
    """Removes what nothing needs: a line for each container and image, and how many of the rest."""
    removed = store.prune(
        all_images=arguments.all, containers=arguments.containers, volumes=arguments.volumes, dry_run=arguments.dry_run
    )
    if arguments.format == "json":
        found = removed._asdict()
        for kind in ("containers", "images"):
            found[kind] = [thing._asdict() for thing in found[kind]]
        print_json(found)
        return 0
    for container in removed.containers:
        print(f"container {short(container.id)} {container.name}")
    for image in removed.images:
        print(f"image {short(image.id)} {', '.join(image.names) or '<none>'}")
    for name in removed.volumes:
        print(f"volume {name}")
    counts = [(len(removed.containers), "container"), (len(removed.images), "image"), (removed.blobs, "blob")]
    counts += [(removed.layers, "layer"), (removed.objects, "object"), (removed.stacks, "stack")]
    counts += [(len(removed.volumes), "volume")] if arguments.volumes else []
    what = ", ".join(plural(count, noun) for count, noun in counts)
    print(f"{'would remove' if arguments.dry_run else 'removed'}: {what}; {size(removed.bytes)}")
    return 0


def info(store: Store, arguments: SimpleNamespace) -> int:
    """The store, the machine, and what containers are run with."""
    from lazarus import __version__
    from lazarus.errors import LazarusError
    from lazarus.runtime.crun import Runtime, cgroup_layout

    try:
        runtime = Runtime()
        program, cgroups = runtime.path, "yes" if runtime.manages_cgroups else "no"
    except LazarusError as error:
        program, cgroups = str(error), "no"
    system = os.uname()
    facts: dict[str, Any] = {
        "Version": __version__,
        "Root": store.paths.root,
        "Images": len(store.images.list()),
        "Containers": len(store.containers.list(all=True)),
        "Running": len(store.containers.list()),
        "Volumes": len(store.volumes.list()),
        "Kernel": f"{system.sysname} {system.release}",
        "Architecture": system.machine,
        "Runtime": program,
        "CgroupLayout": cgroup_layout(),
        "CgroupsForContainers": cgroups,
    }
    if arguments.format == "json":
        print_json(facts)
    else:
        for name, value in facts.items():
            print(f"{name}: {value}")
    return 0


def check(store: Store, arguments: SimpleNamespace) -> int:
    """Reads everything and compares it with its digests; exit code 1 when something is wrong."""
    from lazarus.content.verify import WHOLE

    problems = 0
    with progress_bars() as progress:
        for problem in store.check(repair=arguments.repair, threads=_threads(arguments), progress=progress):
            problems += 1
            done = " (it counts again)" if problem.text.endswith(WHOLE) else " (taken out of the way)"
            print(f"{problem.text}{done if problem.repaired else ''}")
    print(plural(problems, "problem"))
    return 1 if problems else 0


def scrub(store: Store, arguments: SimpleNamespace) -> int:
    """Reads every byte once, past the cache; exit code 1 when something is wrong."""
    begun = time.monotonic()
    with progress_bars() as progress:
        scrubbing = store.scrub(
            since=arguments.since, rate=arguments.rate, threads=_threads(arguments), progress=progress
        )
        problems = []
        for problem in scrubbing:
            problems.append(problem)
            if arguments.format == "table":
                print(problem.text, flush=True)
    seconds = time.monotonic() - begun
    if arguments.format == "json":
        facts = {"files": scrubbing.files, "bytes": scrubbing.bytes, "seconds": round(seconds, 3)}
        shards = {"shards": scrubbing.shards, "skipped": scrubbing.skipped}
        found = [{"kind": problem.kind, "name": problem.name, "text": problem.text} for problem in problems]
        print_json({"problems": found, **facts, **shards})
    else:
        skipped = f"; {scrubbing.skipped} of 256 shards left out" if scrubbing.skipped else ""
        read = f"{plural(scrubbing.files, 'file')}, {size(scrubbing.bytes)}, in {seconds:.1f} s{skipped}"
        print(f"{plural(len(problems), 'problem')}; {read}")
    return 1 if problems else 0


def _threads(arguments: SimpleNamespace) -> int | None:
    threads: int | None = arguments.threads
    if threads is not None and not 1 <= threads <= 256:
        raise Mistake(f"--threads: {threads}, expected 1 to 256")
    return threads


def past(text: str) -> float:
    """`7d`, `12h`, `30m`, `90s`: seconds. `ValueError`."""
    unit = {"d": 86400, "h": 3600, "m": 60, "s": 1}.get(text[-1:])
    if unit is None:
        raise ValueError(text)
    return float(whole_number(text[:-1]) * unit)


past.__name__ = "time (expected 7d, 12h, 30m or 90s)"  # argparse says it of what is none


def rate(text: str) -> int:
    """Bytes a second: `100M`, `1GiB`. `ValueError`."""
    from lazarus.volumes.spelling import parse_size

    return parse_size(text.removesuffix("/s"))


rate.__name__ = "rate (expected 100M or 1G, of bytes a second)"


def version(_store: None, arguments: SimpleNamespace) -> int:
    """The version."""
    from lazarus import __version__

    if arguments.format == "json":
        print_json({"Version": __version__, "Python": sys.version.split()[0]})
    else:
        print(f"{PROGRAM} {__version__}")
    return 0


def completion(_store: None, arguments: SimpleNamespace) -> int:
    """A completion script for a shell, by shtab."""
    import shtab

    if arguments.shell not in shtab.SUPPORTED_SHELLS:
        raise Mistake(f"{arguments.shell:.40}: not one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    print(shtab.complete(whole_parser(), shell=arguments.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """All verbs as one argparse parser; only completion needs it."""
    import argparse

    from lazarus.cli import GROUPS
    from lazarus.cli.options import build_parser
    from lazarus.cli.overview import all_verbs

    parser = argparse.ArgumentParser(prog=PROGRAM)
    parser.add_argument("--root", metavar="DIR", help="the store")
    verbs = parser.add_subparsers(metavar="VERB")
    groups = {}
    for name in GROUPS:  # shtab offers only what has a help text
        groups[name] = verbs.add_parser(name, help="a verb of two words").add_subparsers(metavar="WORD")
    for name, verb in all_verbs().items():
        group, _, word = name.rpartition(" ")
        groups.get(group, verbs).add_parser(word, help=verb.summary, parents=[build_parser(verb)], add_help=False)
    return parser


_THREADS = Option(
    ("--threads",), "threads", "how many read at once (default: twice the cores, 4 to 16)", "N", kind=whole_number
)

VERBS = {
    verb.name: verb
    for verb in (
        Verb("system df", "show what the store holds and how much disk it uses", df, (), (FORMAT,)),
        Verb(
            "system prune",
            "remove images without a name, and everything that nothing needs",
            prune,
            (),
            (
                Option(("-a", "--all"), "all", "also images that have a name but no container"),
                Option(("--containers",), "containers", "first remove every container that is not running"),
                Option(("--volumes",), "volumes", "also volumes without a name of their own that no container uses"),
                Option(("-n", "--dry-run"), "dry_run", "change nothing, only say what would go"),
                Option(("-f", "--force"), "force", "accepted for the sake of scripts: nothing is asked anyway"),
                FORMAT,
            ),
        ),
        Verb("system info", "show the store, the machine, and what containers are run with", info, (), (FORMAT,)),
        Verb(
            "system check",
            "read everything in the store and compare it with its digests",
            check,
            (),
            (
                Option(("--repair",), "repair", "take what is broken out of the way; loading the image again heals it"),
                _THREADS,
            ),
            "Objects and blobs are read past the page cache; then each layer's tar is put together, which reads its\n"
            "objects again. Of containers: are the checkpoints there that their files lie on, and can files be read\n"
            "that came up block by block? For something that can be done often, see system scrub.",
        ),
        Verb(
            "system scrub",
            "read every byte of the store once, and say what has rotted on the disk",
            scrub,
            (),
            (
                Option(
                    ("--since",),
                    "since",
                    "leave out what a scrub has found whole since then: 7d, 12h, 30m or 90s ago",
                    "AGE",
                    default=0.0,
                    kind=past,
                ),
                Option(("--rate",), "rate", "read no more than that a second: 100M, 1G", "SIZE", default=0, kind=rate),
                _THREADS,
                FORMAT,
            ),
            "Objects and blobs are read past the page cache: what is on the disk counts, and what others have cached\n"
            "stays. Nothing is changed; `system check --repair` takes what is broken out of the way. One that was\n"
            "interrupted goes on with --since. Exit code 1 when something is wrong.",
        ),
        Verb("version", "print the version", version, (), (FORMAT,), needs_store=False),
        Verb(
            "completion",
            "print a completion script for a shell",
            completion,
            (Word("shell", "SHELL", "bash, zsh, tcsh, fish or powershell"),),
            needs_store=False,
        ),
    )
}
