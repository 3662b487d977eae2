"""`lazarus`, `lazarus --help`, and what is said about a command line without a verb that we know."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from lazarus.cli import GROUPS, VERBS, command
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

_OTHER_NAMES = {  # of docker and podman, where their other word is not the verb's own
    **dict.fromkeys(("container ls", "container list", "container ps", "list"), "ps"),
    **dict.fromkeys(("image ls", "image list"), "images"),
    **dict.fromkeys(("image rm", "image remove"), "rmi"),
    "image prune": "system prune",
    "container prune": "system prune --containers",
    "info": "system info",
    "remove": "rm",
    "restart": "stop, start",
    "unmount": "umount",
    "volume list": "volume ls",
    "volume remove": "volume rm",
    "volume restore": "volume rollback",
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
    if not words or words[0] in ("-h", "--help") or words == ["help"]:
        out = sys.stdout if words else sys.stderr
        out.write(help_text())
        return 0 if words else 2
    if words[0] == "help":
        return command([*words[1:], "--help"])
    if words[0] in GROUPS and (len(words) == 1 or words[1].startswith("-")):
        asked = len(words) > 1 and words[1] in ("-h", "--help")
        text = f"usage: {PROGRAM} [--root DIR] {words[0]} WORD ...\n\nWORD is one of {_second_words(words[0])}.\n"
        (sys.stdout if asked else sys.stderr).write(text)
        return 0 if asked else 2
    sys.stderr.write(f"{PROGRAM}: {_unknown(words)}\n")
    return 2


def _second_words(group: str) -> str:
    return ", ".join(name.partition(" ")[2] for name in VERBS if name.startswith(f"{group} "))


def _unknown(words: list[str]) -> str:
    """What is said about words that are no verb: the nearest, or what its first word goes with."""
    if words[0].startswith("-"):
        return f"{words[0]!r:.60}: no such option; see {PROGRAM} --help"
    pair = " ".join(words[:2])
    name = pair if words[0] in (*GROUPS, "container") else words[0]
    close = _meant(words[0], words[1] if len(words) > 1 else "")
    if not close and words[0] in GROUPS:
        return f"{name!r:.60}: no such verb; {words[0]} goes with {_second_words(words[0])}"
    hint = f" (did you mean {', '.join(close)}?)" if close else ""
    return f"{name!r:.60}: no such verb{hint}; see {PROGRAM} --help"


def _meant(first: str, second: str) -> list[str]:
    """Verbs that this may stand for: docker's and podman's other names, another order, a slip of the finger."""
    from difflib import get_close_matches

    pair = f"{first} {second}"
    known = _OTHER_NAMES.get(pair) or _OTHER_NAMES.get(first)
    if known:
        return [known]
    if first in ("image", "container") and second in VERBS:
        return [second]
    of_two = [name for name in VERBS if " " in name]
    found = [name for name in of_two if name.partition(" ")[2] == first]
    found = found or get_close_matches(pair, of_two, 2, 0.8)
    if found or first in GROUPS:
        return found
    of_one = [*(name for name in VERBS if " " not in name), *GROUPS]
    return get_close_matches(first, of_one, 3, 0.6) or [name for name in of_one if first and name.startswith(first)][:3]
