"""What a verb takes, as a table, and two readers of it.

Importing argparse and building a parser costs 6 ms, a quarter of a whole `run`. So a small scanner reads the command
line straight from the table; whatever it does not understand (a mistake, `--help`) goes to an argparse parser made from
the same table, which has the last word and writes all messages. `tests/test_cli_options.py` holds the two to one
another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    import argparse

    from lazarus.store import Store

PROGRAM = "lazarus"


class Option(NamedTuple):
    """One option. Without `metavar` it is a switch; `many` collects a list; `kind` converts (ValueError: a mistake)."""

    flags: tuple[str, ...]
    dest: str
    help: str
    metavar: str = ""
    many: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    kind: Callable[[str], Any] | None = None


class Word(NamedTuple):
    """A positional argument. `amount` is "" (one), "?", "*", "+", or "..." (all that follows, options too)."""

    dest: str
    metavar: str
    help: str
    amount: str = ""


class Verb(NamedTuple):
    """A verb: what it takes and what it does.

    `action(store, arguments)` returns the exit code; `store` is None for a verb that needs none. `engine_code` is the
    exit code when the engine fails, not the command in the container.
    """

    name: str
    summary: str
    action: Callable[..., int]
    words: tuple[Word, ...] = ()
    options: tuple[Option, ...] = ()
    details: str = ""
    needs_store: bool = True
    engine_code: int = 1

    @property
    def usage_code(self) -> int:
        """The exit code for a wrong command line: 2, but for verbs whose other codes are those of a container."""
        return 2 if self.engine_code == 1 else self.engine_code


class Mistake(Exception):
    """The command line is wrong in a way that only the verb can see: the message in one line, `usage_code`."""


def truth(text: str) -> bool:
    """`true`, `false`, `1`, `0`."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ValueError(text)


def storage_size(flag: str, options: list[str]) -> int | None:
    """The limit that the values of an option which takes `size=SIZE` ask for, in bytes."""
    if not options:
        return None
    from lazarus.errors import FormatError
    from lazarus.volumes.spelling import read_size

    try:
        return read_size(flag, options)
    except FormatError as error:
        raise Mistake(str(error)) from None


def whole_number(text: str) -> int:
    """Decimal digits, below 2**63. `ValueError`."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63):
        raise ValueError(text)
    return int(text)


whole_number.__name__ = "whole number"  # argparse says it of what is none


def parse(verb: Verb, argv: Sequence[str]) -> SimpleNamespace:
    """The arguments of a verb. Ends the program, as argparse does, with help or a usage error."""
    if list(argv) == ["-h"]:  # help of every verb, also of those that take -h for something else
        argv = ["--help"]
    found = scan(verb, argv)
    if found is not None:
        return found
    problem = complaint(verb, argv)
    if problem is not None:
        raise SystemExit(usage_error(verb, problem))
    try:
        return parse_slowly(verb, argv)
    except SystemExit as ending:
        raise SystemExit(verb.usage_code if ending.code else 0) from None


def complaint(verb: Verb, argv: Sequence[str]) -> str | None:
    """The two commonest mistakes in one line: a flag that the verb has not, a word that is missing. None for others,
    and when help is asked for."""
    by_flag = {flag: option for option in verb.options for flag in option.flags}
    rest = verb.words[-1].amount == "..." if verb.words else False
    queue, count = list(argv), 0
    while queue and not (rest and count == len(verb.words) - 1):
        text = queue.pop(0)
        if text == "--":
            count += len(queue)
            break
        if not text.startswith("-") or text == "-":
            count += 1
            continue
        flag, separator, _ = text.partition("=")
        flags = [flag] if text.startswith("--") else [f"-{letter}" for letter in text[1:]]
        while flags:
            flag = flags.pop(0)
            if flag in ("-h", "--help") and flag not in by_flag:
                return None
            if flag not in by_flag:
                if f"-{text}" in by_flag:  # -name, as of find
                    return f"unknown flag: {text}; did you mean -{text}?"
                return f"unknown flag: {flag:.60}{f' in {text:.60}' if flags else ''}"
            if by_flag[flag].metavar:
                if not flags and not (separator and text.startswith("--")) and queue:
                    queue.pop(0)
                break
    missing = [word.metavar for word in verb.words if word.amount in ("", "+")][count:]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else None


def parse_slowly(verb: Verb, argv: Sequence[str]) -> SimpleNamespace:
    """parse() by argparse alone."""
    parser = build_parser(verb)
    intermixed = not any(word.amount == "..." for word in verb.words)  # argparse cannot do both
    read = parser.parse_intermixed_args if intermixed else parser.parse_args
    found = SimpleNamespace(**vars(read(list(argv))))
    for option in verb.options:
        if option.many and getattr(found, option.dest) is None:
            setattr(found, option.dest, [])
    return found


def scan(verb: Verb, argv: Sequence[str]) -> SimpleNamespace | None:
    """parse() without argparse; None for anything out of the ordinary."""
    values: dict[str, Any] = {
        option.dest: [] if option.many else (option.default if option.metavar else bool(option.default))
        for option in verb.options
    }
    by_flag = {flag: option for option in verb.options for flag in option.flags}
    words: list[str] = []
    before_rest = len(verb.words) - 1 if verb.words and verb.words[-1].amount == "..." else sys.maxsize
    queue = list(argv)
    while queue:
        text = queue.pop(0)
        if text == "--" and len(words) < before_rest:
            words += queue
            break
        if not text.startswith("-") or text == "-":
            words.append(text)
            if len(words) >= before_rest:
                words += queue
                break
        elif not _take_option(text, queue, by_flag, values):
            return None
    return SimpleNamespace(**values) if _take_words(verb, words, values) else None


def _take_option(text: str, queue: list[str], by_flag: dict[str, Option], values: dict[str, Any]) -> bool:
    if text.startswith("--"):
        flag, separator, value = text.partition("=")
        option = by_flag.get(flag)
        if option is None:
            return False
        if not option.metavar:
            return _set(option, value if separator else "true", values)
        if not separator:
            if not queue or (queue[0].startswith("-") and queue[0] != "-"):
                return False
            value = queue.pop(0)
        return _set(option, value, values)
    letters = text[1:]
    while letters:
        option, letters = by_flag.get(f"-{letters[0]}"), letters[1:]
        if option is None or letters.startswith("="):
            return False
        if option.metavar:
            if not letters and (not queue or (queue[0].startswith("-") and queue[0] != "-")):
                return False
            return _set(option, letters or queue.pop(0), values)
        _set(option, "true", values)
    return True


def _set(option: Option, text: str, values: dict[str, Any]) -> bool:
    try:
        value = option.kind(text) if option.kind else (text if option.metavar else truth(text))
    except ValueError:
        return False
    if option.choices and value not in option.choices:
        return False
    if option.many:
        values[option.dest].append(value)
    else:
        values[option.dest] = value
    return True


def _take_words(verb: Verb, words: list[str], values: dict[str, Any]) -> bool:
    needed = sum(word.amount in ("", "+") for word in verb.words)
    spare = len(words) - needed
    if spare < 0:
        return False
    for word in verb.words:
        if word.amount == "":
            values[word.dest] = words.pop(0)
        elif word.amount == "?":
            values[word.dest] = words.pop(0) if spare > 0 else None
            spare -= spare > 0
        else:
            taken = spare + (word.amount == "+")
            values[word.dest], words, spare = words[:taken], words[taken:], 0
    return not words


def build_parser(verb: Verb) -> argparse.ArgumentParser:
    """The same table as an argparse parser, which says of a mistake what usage_error() does."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.exit(usage_error(verb, message.removeprefix("argument ")))

    taken = any("-h" in option.flags for option in verb.options)
    parser = Parser(
        prog=f"{PROGRAM} {verb.name}",
        description=f"{verb.summary[0].upper()}{verb.summary[1:]}.",
        epilog=verb.details or None,
        allow_abbrev=False,
        add_help=not taken,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if taken:
        parser.add_argument("--help", action="help", help="show this help message and exit")
    for option in verb.options:
        settings: dict[str, Any] = {"dest": option.dest, "help": option.help.replace("%", "%%")}
        if option.metavar:
            settings |= {"metavar": option.metavar, "default": None if option.many else option.default}
            settings |= {"action": "append" if option.many else "store", "choices": option.choices or None}
            settings["type"] = option.kind or str
        else:
            settings["action"] = "store_true"
        parser.add_argument(*option.flags, **settings)
    for word in verb.words:
        count = {"": None, "...": argparse.REMAINDER}.get(word.amount, word.amount)
        parser.add_argument(word.dest, metavar=word.metavar, help=word.help.replace("%", "%%"), nargs=count)
    return parser


def usage_error(verb: Verb, message: str) -> int:
    """Writes the message, and where help is, in one line; the exit code for a wrong command line."""
    sys.stderr.write(f"{PROGRAM} {verb.name}: {message}; see {PROGRAM} {verb.name} --help\n")
    return verb.usage_code


Action = Callable[["Store", SimpleNamespace], int]
