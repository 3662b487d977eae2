"""`lazarus`, `lazarus --help`, and what is said about a command line without a verb that we know."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from lazarus.cli import GROUPS, VERBS
from lazarus.cli.options import PROGRAM, Verb

_GROUPS = {
    "run": "Starting containers",
    "containers": "Containers",
    "files": "Files of containers",
    "checkpoints": "Checkpoints of containers' files",
    "trees": "Files of images and containers, without a mount",
    "images": "Images",
    "registry": "Images elsewhere",
    "login": "Credentials for registries",
    "image": "Layers of images",
    "volumes": "Volumes",
    "snapshots": "What volumes were",
    "dedup": "What images share",
    "system": "The store",
    "pool": "The store's pool",
}


def all_verbs() -> dict[str, Verb]:
    """Every verb by its name; imports every module of this room."""
    return {name: import_module(f"lazarus.cli.{module}").VERBS[name] for name, module in VERBS.items()}


def help_text() -> str:
    """Usage and one line for each verb."""
    lines = [
        f"usage: {PROGRAM} [--root DIR] VERB ...",
        "",
        "A layer engine: container images as indexes and objects.",
        "",
    ]
    verbs = all_verbs()
    for module, title in _GROUPS.items():
        lines.append(f"{title}:")
        lines += [f"  {name:16} {verb.summary}" for name, verb in verbs.items() if VERBS[name] == module]
        lines.append("")
    lines += [
        "  --root DIR     the store (default: $LAZARUS_ROOT, else /var/lib/lazarus for root",
        "                 and $XDG_DATA_HOME/lazarus or ~/.local/share/lazarus for others)",
        "  --version      the version",
        "",
        f"`{PROGRAM} VERB --help` says what a verb takes.",
    ]
    return "\n".join(lines) + "\n"


def overview(argv: Sequence[str]) -> int:
    """Help when it is asked for, with exit code 0; else the mistake, with exit code 2."""
    words = list(argv)
    while words and words[0].partition("=")[0] == "--root":
        if (words[0].partition("=")[2] if "=" in words[0] else "".join(words[1:2])) == "":
            sys.stderr.write(f"{PROGRAM}: --root needs a directory\n")
            return 2
        del words[: 1 if "=" in words[0] else 2]
    if not words or words[0] in ("-h", "--help", "help"):
        out = sys.stdout if words else sys.stderr
        out.write(help_text())
        return 0 if words else 2
    if words[0] in GROUPS:
        names = ", ".join(name.partition(" ")[2] for name in VERBS if name.startswith(f"{words[0]} "))
        asked = len(words) > 1 and words[1] in ("-h", "--help")
        text = f"usage: {PROGRAM} [--root DIR] {words[0]} WORD ...\n\nWORD is one of {names}.\n"
        (sys.stdout if asked else sys.stderr).write(text)
        return 0 if asked else 2
    kind = "option" if words[0].startswith("-") else "verb"
    close = [name for name in VERBS if name[:2] == words[0][:2]] if kind == "verb" else []
    hint = f" (did you mean {', '.join(close)}?)" if close else ""
    sys.stderr.write(f"{PROGRAM}: {words[0]!r:.60}: no such {kind}{hint}; see {PROGRAM} --help\n")
    return 2
