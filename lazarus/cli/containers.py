"""`ps`, `exec`, `stop`, `kill`, `wait`, `rm`, `logs`, `rename`, `inspect`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lazarus.cli.options import Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, NO_TRUNC, QUIET, age, complain, duration, print_json, print_table, short

if TYPE_CHECKING:
    from lazarus.containers import Container
    from lazarus.containers.state import State
    from lazarus.store import Store

CONTAINER = Word("container", "CONTAINER", "name, ID, or the beginning of an ID")
CONTAINERS = Word("containers", "CONTAINER", "name, ID, or the beginning of an ID", "+")
FILTERS = ("name", "id", "status", "label", "ancestor")


def each(store: Store, names: list[str], act: Callable[[Container], Any]) -> int:
    """Acts on every container named; prints its name or what act() gives. One that fails does not stop the others."""
    from lazarus.errors import LazarusError

    failures = 0
    for name in names:
        try:
            result = act(store.containers.get(name))
        except (LazarusError, OSError) as error:
            failures += 1
            complain(error)
        else:
            print(name if result is None else result)
    return 1 if failures else 0


def _seconds(text: str) -> float:
    """An RFC 3339 time of ours as seconds since 1970."""
    import calendar  # 3 ms with what it imports

    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))


def status_text(state: State) -> str:
    """ "Up 5 minutes", "Exited (0) 2 hours ago", "Created"."""
    if state.status == "running":
        return f"Up {duration(time.time() - _seconds(state.started))}"
    if state.status == "exited":
        code = "?" if state.exit_code is None else state.exit_code
        return f"Exited ({code}) {age(_seconds(state.finished))}"
    return "Created"


def _matches(container: Container, state: State, filters: list[str]) -> bool:
    """Filters of one kind are alternatives, of different kinds conditions (docker's rule); labels are conditions."""
    wanted: dict[str, list[str]] = {}
    for text in filters:
        kind, _, value = text.partition("=")
        wanted.setdefault(kind, []).append(value)
    labels = container.settings.labels
    tests: dict[str, Callable[[str], bool]] = {
        "name": lambda value: value in container.name,
        "id": container.id.startswith,
        "status": lambda value: value == state.status,
        "ancestor": lambda value: value in (container.settings.image, container.settings.image_id),
        "label": lambda value: value in labels or value in {f"{name}={text}" for name, text in labels.items()},
    }
    combine = {"label": all}
    return all(combine.get(kind, any)(tests[kind](value) for value in values) for kind, values in wanted.items())


def ps(store: Store, arguments: SimpleNamespace) -> int:
    """The running containers, or all."""
    from lazarus.errors import NotFoundError

    for text in arguments.filter:
        if text.partition("=")[0] not in FILTERS or "=" not in text:
            raise Mistake(f"--filter {text}: not one of {', '.join(f'{name}=...' for name in FILTERS)}")
    rows = []
    for container in store.containers.list(all=True):
        try:
            state = container.state
        except NotFoundError:
            continue  # it was removed between the list and now
        asked = arguments.all or any(text.startswith("status=") for text in arguments.filter)
        if (asked or state.status == "running") and _matches(container, state, arguments.filter):
            rows.append((container, state))
    if arguments.quiet:
        for container, _ in rows:
            print(short(container.id, arguments.no_trunc))
    elif arguments.format == "json":
        print_json([_as_json(container, state) for container, state in rows])
    else:
        print_table(
            ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"),
            [_as_row(container, state, arguments.no_trunc) for container, state in rows],
        )
    return 0


def _as_row(container: Container, state: State, no_trunc: bool) -> tuple[str, ...]:
    command = " ".join(container.settings.args)
    command = command if no_trunc or len(command) <= 24 else f"{command[:23]}…"
    image = container.settings.image
    image = short(image) if image.startswith("sha256:") else image
    return short(container.id, no_trunc), image, command, age(container.created), status_text(state), container.name


def _as_json(container: Container, state: State) -> dict[str, Any]:
    return {
        "Id": container.id,
        "Names": [container.name],
        "Image": container.settings.image,
        "ImageID": container.settings.image_id,
        "Command": list(container.settings.args),
        "Created": int(container.created),
        "State": state.status,
        "Status": status_text(state),
        "ExitCode": state.exit_code,
        "Pid": state.process.pid if state.status == "running" else 0,
        "StartedAt": state.started,
        "ExitedAt": state.finished,
        "Labels": dict(container.settings.labels),
    }


def exec_(store: Store, arguments: SimpleNamespace) -> int:
    """A further process in a running container."""
    from lazarus.cli.run import read_env_file

    if not arguments.command:
        raise Mistake("a command is needed")
    code = store.containers.get(arguments.container).exec(
        arguments.command,
        env=[*(setting for path in arguments.env_file for setting in read_env_file(path)), *arguments.env],
        workdir=arguments.workdir,
        user=arguments.user,
        tty=arguments.tty,
        detach=arguments.detach,
        stdin=0 if arguments.interactive else None,
        signals=True,
    )
    return code or 0


def stop(store: Store, arguments: SimpleNamespace) -> int:
    """The stop signal, later SIGKILL."""

    def act(container: Container) -> None:
        container.stop(arguments.time, arguments.signal)

    return each(store, arguments.containers, act)


def kill(store: Store, arguments: SimpleNamespace) -> int:
    """A signal, SIGKILL by default."""
    return each(store, arguments.containers, lambda container: container.kill(arguments.signal))


def wait(store: Store, arguments: SimpleNamespace) -> int:
    """Waits, and prints exit codes."""

    def act(container: Container) -> int:
        code = container.wait()
        return -1 if code is None else code

    return each(store, arguments.containers, act)


def rm(store: Store, arguments: SimpleNamespace) -> int:
    """Removes containers; with --force also running ones, and names that are not there are no error."""
    names = arguments.containers
    if arguments.force:
        from lazarus.errors import LazarusError, NotFoundError

        def exists(name: str) -> bool:
            try:
                store.containers.get(name.partition("@")[0])
            except NotFoundError:
                return False
            except LazarusError:
                pass  # several have it: that is said when its turn comes
            return True

        names = [name for name in names if exists(name)]
    return max([_rm(store, name, arguments) for name in names], default=0)


def _rm(store: Store, name: str, arguments: SimpleNamespace) -> int:
    container, at, checkpoint = name.partition("@")

    def act(found: Container) -> str:
        if at:
            found.remove_checkpoint(checkpoint)
        else:
            found.remove(force=arguments.force, volumes=arguments.volumes)
        return name

    return each(store, [container], act)


def logs(store: Store, arguments: SimpleNamespace) -> int:
    """What a container wrote, each stream to ours."""
    tail = None if arguments.tail == "all" else int(arguments.tail)
    container = store.containers.get(arguments.container)
    fresh = {"stdout": True, "stderr": True}
    for record in container.logs(follow=arguments.follow, tail=tail):
        out = sys.stdout if record.stream == "stdout" else sys.stderr
        if arguments.timestamps and fresh[record.stream]:
            out.write(f"{record.time} ")
        out.flush()
        out.buffer.write(record.data)
        out.buffer.flush()
        fresh[record.stream] = record.data.endswith(b"\n")
    return 0


def rename(store: Store, arguments: SimpleNamespace) -> int:
    """Gives a container another name."""
    store.containers.get(arguments.container).rename(arguments.name)
    return 0


def inspect(store: Store, arguments: SimpleNamespace) -> int:
    """Containers, else images, as JSON."""
    from lazarus.errors import NotFoundError

    found = []
    for name in arguments.names:
        if arguments.type != "image":
            try:
                found.append(store.containers.get(name).inspect())
                continue
            except NotFoundError:
                if arguments.type == "container":
                    raise
        try:
            found.append(store.images.get(name).inspect())
        except NotFoundError:
            if arguments.type == "image":
                raise
            raise NotFoundError(f"{name}: no such container or image") from None
    print_json(found)
    return 0


def seconds(text: str) -> float:
    """A number of seconds. `ValueError`."""
    value = float(text)
    if value != value:
        raise ValueError(text)
    return value


def line_count(text: str) -> str:
    """`all`, or a number of lines."""
    return text if text == "all" else str(whole_number(text))


_SIGNAL = Option(("-s", "--signal"), "signal", "the signal: TERM, SIGTERM, 15", "SIGNAL")
_EXEC_OPTIONS = (
    Option(("-e", "--env"), "env", "set NAME=VALUE in its environment", "NAME[=VALUE]", many=True),
    Option(("--env-file",), "env_file", "read such settings from a file, one a line", "FILE", many=True),
    Option(("-w", "--workdir"), "workdir", "working directory", "DIR"),
    Option(("-u", "--user"), "user", "name or number, and group", "USER[:GROUP]"),
    Option(("-d", "--detach"), "detach", "leave it in the background"),
    Option(("-i", "--interactive"), "interactive", "connect its standard input"),
    Option(("-t", "--tty"), "tty", "give it a terminal"),
)
_PS_OPTIONS = (
    Option(("-a", "--all"), "all", "also those that do not run"),
    Option(("-f", "--filter"), "filter", f"only those that match: {', '.join(FILTERS)}", "KIND=VALUE", many=True),
    QUIET,
    NO_TRUNC,
    FORMAT,
)
_LOGS_OPTIONS = (
    Option(("-f", "--follow"), "follow", "go on until it ends"),
    Option(("-n", "--tail"), "tail", "only the last lines", "LINES|all", default="all", kind=line_count),
    Option(("-t", "--timestamps"), "timestamps", "write the time before each line"),
)

VERBS = {
    verb.name: verb
    for verb in (
        Verb("ps", "list containers", ps, (), _PS_OPTIONS),
        Verb(
            "exec",
            "run a further command in a running container",
            exec_,
            (CONTAINER, Word("command", "COMMAND", "program and arguments", "...")),
            _EXEC_OPTIONS,
            "The exit code is the command's own; 125, 126 and 127 as for `run`.",
            engine_code=125,
        ),
        Verb(
            "stop",
            "end containers: their stop signal, then SIGKILL",
            stop,
            (CONTAINERS,),
            (
                Option(
                    ("-t", "--time"),
                    "time",
                    "seconds before SIGKILL (default: 10; negative: never)",
                    "SECONDS",
                    default=10.0,
                    kind=seconds,
                ),
                _SIGNAL,
            ),
        ),
        Verb("kill", "send containers a signal", kill, (CONTAINERS,), (_SIGNAL._replace(default="KILL"),)),
        Verb("wait", "wait until containers end; prints their exit codes", wait, (CONTAINERS,)),
        Verb(
            "rm",
            "remove containers and all that they have written",
            rm,
            (Word("containers", "CONTAINER[@CHECKPOINT]", f"{CONTAINER.help}; or one of its checkpoints", "+"),),
            (
                Option(("-f", "--force"), "force", "kill running ones first; a missing one is no error"),
                Option(("-v", "--volumes"), "volumes", "also the volumes without a name that were made for them"),
            ),
        ),
        Verb("logs", "print what a container wrote", logs, (CONTAINER,), _LOGS_OPTIONS),
        Verb("rename", "give a container another name", rename, (CONTAINER, Word("name", "NAME", "the new name"))),
        Verb(
            "inspect",
            "print all about containers or images, as JSON",
            inspect,
            (Word("names", "NAME", "a container or an image", "+"),),
            (
                Option(
                    ("--type",),
                    "type",
                    "only containers, or only images",
                    "container|image",
                    choices=("container", "image"),
                ),
                FORMAT._replace(help="json (the only one)", default="json", choices=("json",), metavar="json"),
            ),
        ),
    )
}
