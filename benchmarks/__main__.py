"""python -m benchmarks run|report|compare|history; `--help` of each says more."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import results
from benchmarks.harness import run as running
from benchmarks.harness.disks import HERE, KINDS
from benchmarks.reporting import compare, history, page, plots


def main(words: list[str] | None = None) -> int:
    """0; 1 when a benchmark failed, none could be asked, or a comparison found a regression; 2 for a wrong command line
    or file; 130 when interrupted."""
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.call(arguments))
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]  # whoever read has had enough
        return 0
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return running.INTERRUPTED
    except (ValueError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    systems = arguments.fs or ([HERE] if arguments.dir else ["ext4", "xfs", "btrfs"])
    options = [f"--fs={','.join(systems)}", f"--size={arguments.size}"]
    options += ["--quick"] if arguments.quick else []
    names = running.chosen(arguments.question, arguments.quick)
    output = arguments.output or Path(".benchmarks") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    _check_places(output, arguments.report)
    code, measured = running.run(names, options, arguments.dir or Path("/var/tmp"), output)
    is_interrupted = code == running.INTERRUPTED
    if not measured:
        print(f"no results: {'interrupted' if is_interrupted else 'nothing could be asked'}", file=sys.stderr)
        return code if is_interrupted else 1
    print(f"results{', of what was asked until it was interrupted' if is_interrupted else ''}: {output}")
    if arguments.report:
        _write_report([output], arguments.report)
    return code if is_interrupted else int(code != 0)


def _check_places(output: Path, report: Path | None) -> None:
    """Before a long run, that its results have somewhere to go. `OSError`."""
    for directory in (output.parent, *([report] if report else [])):
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(f"{directory}: not writable")
    if output.is_dir():
        raise IsADirectoryError(f"{output}: a directory; -o names a file")
    if output.exists() and not os.access(output, os.W_OK):
        raise PermissionError(f"{output}: not writable")


def _report(arguments: argparse.Namespace) -> int:
    _write_report(arguments.results, arguments.output, arguments.again)
    return 0


def _write_report(paths: list[Path], directory: Path, again: Path | None = None) -> None:
    parts = [results.read(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if compare.machine(part) != compare.machine(parts[0]):
            raise ValueError(f"{path}: of another machine or file system than {paths[0]}: no part of one run with it")
    run = results.joined(parts)
    if again is not None:
        run = results.repeated(run, results.read(again))
    try:
        drawn = list(plots.figures(run))
    except ModuleNotFoundError as error:
        print(f"no figures: {error.name} is not installed (it is in the extra [bench])", file=sys.stderr)
        drawn = []
    print(f"report: {page.write(run, drawn, directory)}")


def _compare(arguments: argparse.Namespace) -> int:
    old, new = results.read(arguments.old), results.read(arguments.new)
    found = compare.compare(old, new)
    if not found.moves:
        raise ValueError(f"{arguments.old} and {arguments.new}: no row of ours can be compared")
    print("\n".join(compare.table(found, arguments.fail_over, every=arguments.all)))
    return 1 if any(move.is_regression(arguments.fail_over) for move in found.moves) else 0


def _history(arguments: argparse.Namespace) -> int:
    found = results.read(arguments.results)
    if arguments.github:
        arguments.github.write_text(history.github(found))
    if arguments.lines:
        with open(arguments.lines, "a+", encoding="utf-8") as file:
            file.seek(0)
            known = set(file.read().splitlines())  # the same results twice are no history
            file.write("".join(f"{line}\n" for line in history.lines(found) if line not in known))
    if not arguments.github and not arguments.lines:
        print("\n".join(history.lines(found)))
    return 0


def _percent(text: str) -> float:
    """ "10%" and "0.1" are the same; 10 alone is neither."""
    is_percent = text.endswith("%")
    try:
        value = float(text.removesuffix("%")) / (100 if is_percent else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (value > 1 and not is_percent):
        raise argparse.ArgumentTypeError(f"{text}: not a part, as 10% or 0.1")
    return value


def _size(text: str) -> int:
    """Bytes; K, M, G and T are powers of 1024."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}.get(text[-1:].upper(), 1)
    try:
        value = int(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        value = 0
    if value < 1 << 30:
        raise argparse.ArgumentTypeError(f"{text}: not a size of 1G or more (K, M, G, T)")
    return value


def _file_systems(text: str) -> list[str]:
    found = list(dict.fromkeys(name for name in text.split(",") if name))
    if not found or not set(found) <= {*KINDS, HERE}:
        raise argparse.ArgumentTypeError(f"{text}: not among {', '.join(KINDS)}, {HERE}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    one = verbs.add_parser("run", help="asks questions and writes what was found as JSON")
    one.add_argument("question", nargs="*", help="which (default: all), by name or the part before __")
    one.add_argument("--quick", action="store_true", help="the quick set, and less of each: about two minutes")
    one.add_argument("--fs", type=_file_systems, metavar="KIND,...",
                     help=f"file systems that are made on loop devices, of {', '.join(KINDS)} (default: ext4,xfs,btrfs)"
                     f" or {HERE}, the directory's own (the default with --dir)")  # fmt: skip
    one.add_argument("--size", type=_size, default=8 << 30, help="of each file system (default 8G, least 1G)")
    one.add_argument("--dir", type=Path, help="a directory on the disk under test (default: /var/tmp)")
    one.add_argument("-o", "--output", type=Path, help="JSON file (default: .benchmarks/TIME.json)")
    one.add_argument("--report", type=Path, metavar="DIR", help="write the page there, too")
    one.set_defaults(call=_run)
    page = verbs.add_parser("report", help="a run as one self-contained page with figures")
    page.add_argument("results", type=Path, nargs="+", help="JSON of a run, or of its parts")
    page.add_argument("-o", "--output", type=Path, default=Path("report"), help="directory (default: report)")
    page.add_argument("--again", type=Path, metavar="RESULTS", help="a second run: what moved between them is noisy")
    page.set_defaults(call=_report)
    two = verbs.add_parser("compare", help="two runs, and whether anything became worse")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    two.add_argument("--fail-over", type=_percent, default=0.1, metavar="PART", help="10%% or 0.1 (the default)")
    two.add_argument("--all", action="store_true", help="also the rows that did not move")
    two.set_defaults(call=_compare)
    three = verbs.add_parser("history", help="a run as JSON lines, or for github-action-benchmark")
    three.add_argument("results", type=Path)
    three.add_argument("--lines", type=Path, help="append one JSON object a row, once, to this file (default: print)")
    three.add_argument("--github", type=Path, help="write github-action-benchmark's customSmallerIsBetter array here")
    three.set_defaults(call=_history)
    return parser


if __name__ == "__main__":
    sys.exit(main())
