"""`create`, `run`, `start`."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.options import Mistake, Option, Verb, Word, storage_size
from lazarus.errors import FormatError, NotFoundError

if TYPE_CHECKING:
    from lazarus.containers import Container
    from lazarus.store import Store
    from lazarus.volumes.mounts import AnyMount

_CREATE = (
    Option(("--name",), "name", "name of the container (default: two random words)", "NAME"),
    Option(
        ("-e", "--env"),
        "env",
        "set NAME=VALUE in its environment; NAME alone takes the value it has here",
        "NAME[=VALUE]",
        many=True,
    ),
    Option(("--env-file",), "env_file", "read such settings from a file, one a line", "FILE", many=True),
    Option(("-w", "--workdir"), "workdir", "working directory (made when it is missing)", "DIR"),
    Option(("-u", "--user"), "user", "name or number, and group, looked up in the container's files", "USER[:GROUP]"),
    Option(
        ("-v", "--volume"),
        "volumes",
        "mount a volume in it (VOLUME@SNAPSHOT: what it was then, read-only), or show a file or directory of the host;"
        " options: ro, and for volumes nocopy, subpath=DIR; CONTAINER alone: a new volume without a name",
        "[VOLUME|HOST:]CONTAINER[:OPTIONS]",
        many=True,
    ),
    Option(
        ("--mount",),
        "mounts",
        "the same in full: type=volume|bind|image|tmpfs, source, target, readonly, volume-nocopy, volume-subpath, rw"
        " and image-subpath for an image, tmpfs-size, tmpfs-mode",
        "KEY=VALUE,...",
        many=True,
    ),
    Option(
        ("--network", "--net"),
        "network",
        "none: only lo (the default); host: the host's network",
        "none|host",
        default="none",
        choices=("none", "host"),
    ),
    Option(("-h", "--hostname"), "hostname", "its host name (default: its short ID)", "NAME"),
    Option(("--entrypoint",), "entrypoint", "program in place of the image's entrypoint; empty: none", "PROGRAM"),
    Option(("--label", "-l"), "labels", "a label", "NAME[=VALUE]", many=True),
    Option(("--stop-signal",), "stop_signal", "signal that `stop` sends first", "SIGNAL"),
    Option(
        ("--storage-opt",),
        "storage_opt",
        "what it may write, volumes apart: size=10G (300M at least)",
        "size=SIZE",
        many=True,
    ),
    Option(("--read-only",), "read_only", "mount its root file system read-only"),
    Option(
        ("--rm",),
        "auto_remove",
        "remove it when it ends, with its volumes without a name; what it writes elsewhere is never synced",
    ),
    Option(("-i", "--interactive"), "interactive", "connect (in the background: keep open) its standard input"),
    Option(("-t", "--tty"), "tty", "give it a terminal"),
)
_IMAGE = (
    Word("image", "IMAGE", "a reference, or an ID or the beginning of one"),
    Word("command", "COMMAND", "program and arguments in place of the image's", "..."),
)


def read_env_file(path: str) -> list[str]:
    """Lines NAME=VALUE or NAME; empty lines and those that begin with # are left out."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.strip("\r\n").lstrip() for line in file]
    return [line for line in lines if line and not line.startswith("#")]


def new_container(store: Store, arguments: SimpleNamespace) -> Container:
    """The container that the options of `create` and `run` describe."""
    mounts: list[str | AnyMount] = list(arguments.volumes)
    if arguments.mounts:
        from lazarus.volumes.spelling import parse_mount

        mounts += [parse_mount(text) for text in arguments.mounts]
    env = [setting for path in arguments.env_file for setting in read_env_file(path)]
    labels = {name: value for name, _, value in (label.partition("=") for label in arguments.labels)}
    try:
        return _create(store, arguments, mounts, [*env, *arguments.env], labels)
    except NotFoundError:
        _check_image(store, arguments.image)
        raise


def _check_image(store: Store, image: str) -> None:
    """`NotFoundError`, with a word on where it may be, when the store has it not: `run` does not pull."""
    from lazarus.oci.references import parse_reference

    try:
        store.images.get(image)
    except NotFoundError as error:
        try:
            parse_reference(image)
        except FormatError:
            raise error from None
        raise NotFoundError(f"{error}; `lazarus pull {image}` asks its registry") from None


def _create(
    store: Store, arguments: SimpleNamespace, mounts: list[str | AnyMount], env: list[str], labels: dict[str, str]
) -> Container:
    return store.containers.create(
        arguments.image,
        command=arguments.command or None,
        name=arguments.name,
        env=env,
        workdir=arguments.workdir,
        user=arguments.user,
        volumes=mounts,
        network=arguments.network,
        hostname=arguments.hostname,
        tty=arguments.tty,
        interactive=arguments.interactive,
        read_only=arguments.read_only,
        size=storage_size("--storage-opt", arguments.storage_opt),
        entrypoint=arguments.entrypoint,
        labels=labels,
        stop_signal=arguments.stop_signal,
        auto_remove=arguments.auto_remove,
    )


def create(store: Store, arguments: SimpleNamespace) -> int:
    """A container that is not started; prints its ID."""
    print(new_container(store, arguments).id)
    return 0


def run(store: Store, arguments: SimpleNamespace) -> int:
    """create and start; in the foreground the exit code is the container's."""
    container = new_container(store, arguments)
    if not arguments.detach:
        return attach(container, arguments.interactive)
    try:
        container.start()
    except BaseException:
        if arguments.auto_remove:
            container.remove(force=True)
        raise
    print(container.id)
    return 0


def attach(container: Container, interactive: bool) -> int:
    """Starts it connected to this process's streams and signals; its exit code."""
    code = container.start(attach=True, stdin=0 if interactive else None, signals=True)
    return code if code is not None else 125


def start(store: Store, arguments: SimpleNamespace) -> int:
    """Starts containers that are there; prints what it was called with, or attaches to the only one."""
    if arguments.attach or arguments.interactive:
        if len(arguments.containers) != 1:
            raise Mistake("--attach and --interactive take one container")
        return attach(store.containers.get(arguments.containers[0]), arguments.interactive)
    for name in arguments.containers:
        container = store.containers.get(name)
        if container.status != "running":
            container.start()
        print(name)
    sys.stdout.flush()
    return 0


VERBS = {
    verb.name: verb
    for verb in (
        Verb("create", "make a container without starting it; prints its ID", create, _IMAGE, _CREATE),
        Verb(
            "run",
            "make a container and start it",
            run,
            _IMAGE,
            (*_CREATE, Option(("-d", "--detach"), "detach", "leave it in the background; prints its ID")),
            "The exit code is the command's own, 128 + N when signal N ended it,\n"
            "125 when the engine failed, 126 when the command cannot be invoked, 127 when it was not found.",
            engine_code=125,
        ),
        Verb(
            "start",
            "start containers that were made or have ended; their files are still there",
            start,
            (Word("containers", "CONTAINER", "name, ID, or the beginning of an ID", "+"),),
            (
                Option(("-a", "--attach"), "attach", "stay with it; the exit code is the container's"),
                Option(("-i", "--interactive"), "interactive", "connect its standard input; implies --attach"),
            ),
            engine_code=125,
        ),
    )
}
