"""Progress: bars where there is a terminal to draw on, nothing elsewhere; or lines of JSON for whoever reads those."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lazarus.cli.options import Option
from lazarus.terms import Progress, ProgressEvent

PROGRESS = Option(
    ("--progress",),
    "progress",
    "auto (bars on a terminal, the default), json (a line for each step, on standard error) or none",
    "auto|json|none",
    default="auto",
    choices=("auto", "json", "none"),
)


@contextmanager
def progress_bars(wanted: bool = True, *, one_each: bool = False) -> Iterator[Progress | None]:
    """A callback that draws one bar for each object and what is done with it (or, with `one_each`, one for each object)
    on stderr; None where nobody would see it."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[tuple[str, str], progress.TaskID] = {}

        def draw(event: ProgressEvent) -> None:
            if not event.name:
                return  # of no one object, and soon over
            key = ("" if one_each else event.action, event.name)
            what = f"{event.action} {event.name.removeprefix('sha256:')[: 12 if one_each else 24]}"
            if key not in tasks:
                tasks[key] = bars.add_task(what, total=event.total or None)
            bars.update(tasks[key], description=what, completed=event.done, total=event.total or None)

        yield draw


@contextmanager
def transfer_progress(style: str, quiet: bool) -> Iterator[Progress | None]:
    """What --progress asks for."""
    if style == "json":
        yield _print_json
    else:
        with progress_bars(style == "auto" and not quiet, one_each=True) as draw:
            yield draw


def _print_json(event: ProgressEvent) -> None:
    import json

    with suppress(OSError):  # whoever read them has gone; the work goes on
        sys.stderr.write(json.dumps(event._asdict()) + "\n")
        sys.stderr.flush()
