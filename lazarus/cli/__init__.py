"""The command line: each verb is a call of the Python API and nothing more.

    options.py      what verbs take: one table, read by a fast scanner and by argparse
    run.py          create run start           (on the path that has to be fast: imports nothing that it can do without)
    containers.py   ps exec stop kill wait rm logs rename inspect
    files.py        diff commit cp export mount umount union
    checkpoints.py  checkpoint fork log rollback
    trees.py        cat ls find du
    images.py       load save import images history tag rmi
    registry.py     pull push copy search-tags        login.py         login logout
    image.py        image squash|rebase|drop|reorder|split|diff
    volumes.py      volume create|ls|inspect|rm|prune|cp|export|import|push|pull
    snapshots.py    volume snapshot|snapshots|rollback|clone|diff|forget
    dedup.py        dedup report
    system.py       system df|prune|info|check|scrub, version, completion
    pool.py         pool create|status|grow|destroy
    output.py       tables, sizes, ages, JSON          progress.py   bars, where there is a terminal

Exit codes: 0; 1 an error, said in one line on stderr; 2 a wrong command line; 130 interrupted. For `run`, `exec` and
`start` the container's own, or 125 (the engine failed, or a wrong command line), 126 (the command cannot be invoked),
127 (it was not found). For those of registry.py and login.py 125 in place of 1 and 2. SIGTERM and SIGHUP end a command
as Ctrl-C does, in order and in one line, with 143 and 129; another one, a second later or more, ends it at once, and so
does the first after five seconds in which nothing in order could be begun. Attached `run`, `exec` and `start` pass them
on to the container instead, and while one is started in the background, or stands still, they wait.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

# verb -> its module; summaries are with the verbs
VERBS = {
    **dict.fromkeys(("create", "run", "start"), "run"),
    **dict.fromkeys(("ps", "exec", "stop", "kill", "wait", "rm", "logs", "rename", "inspect"), "containers"),
    **dict.fromkeys(("cat", "ls", "find", "du"), "trees"),
    **dict.fromkeys(("diff", "commit", "cp", "export", "mount", "umount", "union"), "files"),
    **dict.fromkeys(("checkpoint", "fork", "log", "rollback"), "checkpoints"),
    **dict.fromkeys(("load", "save", "import", "images", "history", "tag", "rmi"), "images"),
    **dict.fromkeys(("pull", "push", "copy", "search-tags"), "registry"),
    **dict.fromkeys(("login", "logout"), "login"),
    **dict.fromkeys(
        ("image squash", "image rebase", "image drop", "image reorder", "image split", "image diff"), "image"
    ),
    **dict.fromkeys(
        (
            *("volume create", "volume ls", "volume inspect", "volume rm", "volume prune"),
            *("volume cp", "volume export", "volume import", "volume push", "volume pull"),
        ),
        "volumes",
    ),
    **dict.fromkeys(
        (
            *("volume snapshot", "volume snapshots", "volume rollback"),
            *("volume clone", "volume diff", "volume forget"),
        ),
        "snapshots",
    ),
    "dedup report": "dedup",
    **dict.fromkeys(("system df", "system prune", "system info", "system check", "system scrub"), "system"),
    **dict.fromkeys(("version", "completion"), "system"),
    **dict.fromkeys(("pool create", "pool status", "pool grow", "pool destroy"), "pool"),
}
GROUPS = ("image", "volume", "dedup", "system", "pool")  # first words of verbs of two words


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. With `argv` (without the program's name) returns its exit code; without, the process ends so.

    A process that ends here is not torn down piece by piece: that would take as long as mounting a container.
    """
    if argv is not None:
        return _interruptible(argv)
    _check_streams()
    _end_in_order()
    try:
        code = _interruptible(sys.argv[1:])
    except SystemExit as ending:  # argparse: help, or a wrong command line
        code = ending.code if isinstance(ending.code, int) else 1
    except BrokenPipeError:  # who reads the help has read enough
        code = 141
    return _leave(code)


def _interruptible(argv: Sequence[str]) -> int:
    """command(), and one line for Ctrl-C, whenever it comes: also while modules are still imported."""
    try:
        return command(argv)
    except KeyboardInterrupt as interrupt:
        from lazarus.cli.output import complain

        complain(interrupt)
        return 128 + getattr(interrupt, "number", 2)


def _end_in_order() -> None:
    """What a supervisor or a closed terminal sends raises, as Ctrl-C does, so that what was begun is undone and a hook
    after a snapshot is called. What is ignored (nohup) stays so."""
    import signal

    from lazarus._native.ending import on_first, under_way

    def end(number: int, _frame: object) -> None:
        from lazarus.errors import Terminated

        under_way()
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)
            on_first(number)


def command(argv: Sequence[str]) -> int:
    """Finds the verb, opens the store, calls the verb's action; turns errors into one line and an exit code."""
    root, words = _global_options(list(argv))
    if words is None:
        return _overview(argv)
    name = f"{words[0]} {words[1]}" if words[0] in GROUPS and len(words) > 1 else words[0]
    module = VERBS.get(name)
    if module is None:
        return _overview(argv)
    from importlib import import_module

    from lazarus.cli.options import Mistake, parse, usage_error

    verb = import_module(f"lazarus.cli.{module}").VERBS[name]
    arguments = parse(verb, words[len(name.split()) :])
    try:
        if not verb.needs_store:
            return int(verb.action(None, arguments))
        from lazarus.store import Store

        with Store(root) as store:
            return int(verb.action(store, arguments))
    except Mistake as mistake:
        return usage_error(verb, str(mistake))
    except BrokenPipeError:
        sys.stdout = None  # whoever read it has gone: nothing to flush, nothing to say
        return 141
    except Exception as error:
        return _explain(error, verb.engine_code)


def _global_options(words: list[str]) -> tuple[str | None, list[str] | None]:
    """`--root DIR` before the verb. None for the words when there is no verb, or help is asked for."""
    root = None
    while words and words[0].startswith("-"):
        option, separator, value = words.pop(0).partition("=")
        if option == "--version":
            return root, ["version"]
        if option != "--root" or not (separator or words):
            return root, None
        root = value if separator else words.pop(0)
        if not root:  # an unset variable of a script: not the current directory
            return root, None
    return root, words or None


def _overview(argv: Sequence[str]) -> int:
    """Help on the whole program, or the mistake in the command line."""
    from lazarus.cli.overview import overview

    return overview(argv)


def _explain(error: Exception, engine_code: int) -> int:
    from lazarus.cli.output import complain
    from lazarus.errors import ContainerRuntimeError, LazarusError

    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":  # all that Python says of it
        error = LazarusError("no more threads can be started: a limit of processes is reached (ulimit -u, pids.max)")
    if not isinstance(error, LazarusError | OSError | MemoryError):
        if "LAZARUS_TRACEBACK" in os.environ:
            raise error
        step = error.__traceback__
        while step is not None and step.tb_next is not None:
            step = step.tb_next
        where = f" at {step.tb_frame.f_code.co_filename}:{step.tb_lineno}" if step is not None else ""
        error = LazarusError(
            f"a mistake in lazarus itself: {type(error).__name__}: {error}{where}; LAZARUS_TRACEBACK=1 shows more"
        )
    complain(error)
    return error.exit_code if isinstance(error, ContainerRuntimeError) and engine_code != 1 else engine_code


def _check_streams() -> None:
    """Closed standard streams become /dev/null, or the next file opened would be one; any name can be written."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))
        elif fd == 1:
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            code = code or 1
        except OSError as error:
            code = code or 1
            os.write(2, f"lazarus: standard output: {error.strerror}\n".encode())
    os._exit(code)
