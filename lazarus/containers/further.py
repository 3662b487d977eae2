"""Further processes in a running container: `Container.exec`.

Each has a directory of its own beside the container's, for as long as it lasts: the document for the runtime, its log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from lazarus._native.openat2 import open_in_root
from lazarus.containers.state import door
from lazarus.errors import ConflictError, ContainerRuntimeError, LazarusError, one_line
from lazarus.runtime import bundle as oci
from lazarus.runtime.crun import Runtime, Streams
from lazarus.runtime.executable import check_program
from lazarus.runtime.supervisor import Attachment, attend, background

if TYPE_CHECKING:
    from lazarus.containers.execution import Execution


class Wanted(NamedTuple):
    """What to run; None where the container's own setting is meant."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str | None = None
    user: str | None = None
    terminal: bool = False


def execute(execution: Execution, wanted: Wanted, attachment: Attachment | None) -> int | None:
    """Starts it; its exit code, or None when it was started in the background (without an attachment)."""
    if execution.state().status != "running":
        raise ConflictError(f"container {execution.id[:12]}: it is not running")
    runtime = Runtime()
    notes = f"{execution.directory}/exec-{os.urandom(6).hex()}"
    os.mkdir(notes, 0o700)
    handed_over = False
    try:
        _write_process(execution, runtime, notes, wanted)
        if attachment is not None:
            return _attend(execution, runtime, notes, wanted.terminal, attachment, lambda: None)
        handed_over = True
        _in_background(execution, runtime, notes, wanted.terminal)
        return None
    finally:
        if not handed_over:
            _remove_directory(notes)


def _write_process(execution: Execution, runtime: Runtime, notes: str, wanted: Wanted) -> None:
    settings = execution.settings
    root = execution.open_live_root()
    try:
        what = execution.process(
            root,
            wanted.args,
            (*settings.env, *wanted.env),
            settings.cwd if wanted.cwd is None else wanted.cwd,
            settings.user if wanted.user is None else wanted.user,
            wanted.terminal,
        )
        check_program(root, what)
        try:
            os.close(open_in_root(root, os.fsencode(what.cwd), os.O_PATH | os.O_DIRECTORY))
        except OSError as error:
            raise ContainerRuntimeError(f"{what.cwd}: no such directory in the container", 126) from error
    finally:
        os.close(root)
    with open(f"{notes}/process.json", "w", encoding="utf-8") as file:
        file.write(json.dumps(oci.process_document(what, rules_devices=runtime.rules_devices)))


def _attend(
    execution: Execution,
    runtime: Runtime,
    notes: str,
    terminal: bool,
    attachment: Attachment,
    started: Callable[[], None],
) -> int:
    def start(streams: Streams, console: str | None) -> int:
        return runtime.exec(execution.notes, execution.id, f"{notes}/process.json", notes, streams, console)

    with door(execution.directory) as held:  # while it is frozen, for a commit or a snapshot, nobody comes in

        def there(_pid: int) -> None:
            held.close()
            started()

        return attend(start, there, attachment, notes=notes, terminal=terminal)
    raise AssertionError


def _in_background(execution: Execution, runtime: Runtime, notes: str, terminal: bool) -> None:
    def supervise(report: Callable[[bytes], None]) -> None:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            _attend(execution, runtime, notes, terminal, Attachment(None, null, null), lambda: report(b"{}"))
        except (OSError, LazarusError) as error:
            failure = {"error": one_line(error), "exit_code": getattr(error, "exit_code", 125)}
            report(json.dumps(failure).encode())
        finally:
            _remove_directory(notes)

    failure = json.loads(background(supervise) or b'{"error": "its supervisor was killed", "exit_code": 125}')
    if failure:
        raise ContainerRuntimeError(failure["error"], failure["exit_code"])


def _remove_directory(path: str) -> None:
    """A flat directory of our own."""
    with suppress(FileNotFoundError):  # the whole container was removed meanwhile
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
