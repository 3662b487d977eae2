"""Progress: bars where there is a terminal to draw on, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lazarus.terms import Progress, ProgressEvent


@contextmanager
def progress_bars(wanted: bool = True) -> Iterator[Progress | None]:
    """A callback that draws one bar for each object on stderr; None where nobody would see it."""
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
            key = (event.action, event.name)
            if key not in tasks:
                name = event.name.removeprefix("sha256:")[:24]
                tasks[key] = bars.add_task(f"{event.action} {name}", total=event.total or None)
            bars.update(tasks[key], completed=event.done, total=event.total or None)

        yield draw
