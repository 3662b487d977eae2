"""One container: the face of this room. See `lazarus.containers` for its life and its directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from lazarus.containers import rootfs
from lazarus.containers.execution import Execution
from lazarus.containers.settings import Settings, check_environment, check_words, working_directory
from lazarus.containers.state import Lock, State
from lazarus.errors import ConflictError, NotFoundError
from lazarus.runtime.supervisor import Attachment
from lazarus.terms import ChainID, Change, Digest, Json

if TYPE_CHECKING:
    from lazarus.containers.checkpoints import Checkpoint
    from lazarus.images import Image
    from lazarus.runtime.log import Record
    from lazarus.store import Store
    from lazarus.union.layer_stack import LayerStack, Stats


class Container:
    """A container of a store. As a context manager it is removed at the end, whatever it is doing.

    Attributes: `id` (64 hex digits), `name`, `created` (seconds since 1970), `settings`, `manifest_digest`, `chain_id`.
    The object holds no state of its own: several of them, in several processes, may speak of one container.
    """

    def __init__(
        self,
        store: Store,
        container_id: str,
        name: str,
        manifest_digest: Digest,
        chain_id: ChainID,
        created: float,
        settings: Settings,
    ) -> None:
        self.store = store
        self.id = container_id
        self.name = name
        self.manifest_digest = manifest_digest
        self.chain_id = chain_id
        self.created = created
        self.settings = settings
        self.directory = store.paths.container(container_id)
        self.rootfs = f"{self.directory}/merged"
        self._execution = Execution(store, container_id, settings)

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]} {self.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(NotFoundError):  # --rm, or somebody else was quicker
            self.remove(force=True)

    # -- what it is doing --

    @property
    def state(self) -> State:
        """Asked anew each time; cleans up behind a supervisor that was killed: finishes the removal that an
        `auto_remove` container was owed, too. `NotFoundError` once it is removed."""
        if not os.path.isdir(self.directory):
            raise NotFoundError(f"container {self.name}: it has been removed")
        state = self._execution.state()
        if state.status == "exited" and self.settings.auto_remove:
            with suppress(OSError):  # a full disk, say: the next one who asks tries again
                if self._delete(force=True):
                    raise NotFoundError(f"container {self.name}: it has been removed")
            return self._execution.state()  # started anew meanwhile, or still there
        return state

    @property
    def status(self) -> str:
        """ "created", "running" or "exited"."""
        return self.state.status

    @property
    def exit_code(self) -> int | None:
        """Of the last run; None before, during, and after an end that nobody saw."""
        return self.state.exit_code

    @cached_property
    def image(self) -> Image:
        """The image it was made from, which stays as long as the container, with or without a name."""
        return self.store.images.get(self.manifest_digest)

    def inspect(self) -> Json:
        """Everything about it, in docker's words where docker has some."""
        from lazarus.containers.inspect import inspect

        return inspect(self)

    # -- its process --

    def start(
        self,
        attach: bool = False,
        *,
        stdin: int | None = None,
        stdout: int = 1,
        stderr: int = 2,
        signals: bool = False,
    ) -> int | None:
        """Mounts the root file system and starts the process.

        Without `attach`: returns None once it runs; a supervisor process stays with it. With it: connects it to the
        descriptors (`stdin` None: /dev/null), and returns its exit code (128 + signal for a signal) when it has ended;
        `signals` passes this process's on to it (main thread only).
        Raises `ConflictError` when it runs already, `ContainerRuntimeError` when it cannot be started. About 15 ms.
        """
        if not attach:
            self._execution.start(None)
            return None
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        try:
            return self._execution.start(Attachment(stdin, stdout, stderr, signals=signals))
        finally:
            if self.settings.auto_remove:
                with suppress(NotFoundError):
                    if not self._execution.state().process.alive:
                        self._delete(force=True)

    def stop(self, timeout: float = 10, signal: str | int | None = None) -> int | None:
        """The image's stop signal (or `signal`), then SIGKILL after `timeout` seconds (negative: never); the exit code.
        No-op when it has ended."""
        from lazarus.containers.signals import signal_number

        self._execution.stop(timeout, signal_number(signal or self.settings.stop_signal))
        return None if self.settings.auto_remove else self.exit_code

    def kill(self, signal: str | int = "KILL") -> None:
        """Sends a signal to its process. `ConflictError` when it does not run."""
        from lazarus.containers.signals import signal_number

        self._execution.signal(signal_number(signal))

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits until it has ended; its exit code, None when nobody saw it or the time was up."""
        state = self._execution.wait(timeout)
        return None if state is None else state.exit_code

    def exec(
        self,
        command: Sequence[str],
        *,
        env: Iterable[str] = (),
        workdir: str | None = None,
        user: str | None = None,
        tty: bool = False,
        detach: bool = False,
        stdin: int | None = None,
        stdout: int = 1,
        stderr: int = 2,
        signals: bool = False,
    ) -> int | None:
        """Runs a further process in it; the exit code, or None with `detach`. Defaults are the container's own.

        Raises `ConflictError` when the container does not run, `ContainerRuntimeError` when the program cannot.
        """
        from lazarus.containers.further import Wanted, execute

        cwd = None if workdir is None else working_directory({}, workdir)
        wanted = Wanted(check_words(command), check_environment(env), cwd, user, tty)
        return execute(self._execution, wanted, None if detach else Attachment(stdin, stdout, stderr, signals=signals))

    def logs(self, *, follow: bool = False, tail: int | None = None) -> Iterator[Record]:
        """What it wrote, line by line; the last `tail` lines; with `follow`, until it ends."""
        from lazarus.runtime.log import read_log

        return read_log(f"{self.directory}/log", tail=tail, following=self._is_running if follow else None)

    def _is_running(self) -> bool:
        try:
            return self.status == "running"
        except NotFoundError:
            return False

    # -- its files --

    def mount(self) -> str:
        """Mounts the root file system if it is not, and returns its path. An exit leaves it mounted when it was mounted
        before the start; unmount() or remove() undoes it."""
        with Lock(self.directory):
            self._execution.settled()
            if not rootfs.is_mounted(self.rootfs):
                rootfs.mount(self.store, self.directory, self.settings)
                try:
                    rootfs.add_mount_points(self.store, self.directory, self.settings)
                except BaseException:
                    if rootfs.is_mounted(self.rootfs):
                        rootfs.unmount(self.directory)
                    raise
        return self.rootfs

    def unmount(self) -> None:
        """Undoes mount(). `ConflictError` while the container runs or its files are in use."""
        with Lock(self.directory):
            if self._execution.settled().status == "running":
                raise ConflictError(f"container {self.name}: it is running; stop it first")
            if rootfs.is_mounted(self.rootfs):
                rootfs.unmount(self.directory)

    def stack(self, *, read_only: bool = False, **options: Any) -> LayerStack:
        """Its files as a `LayerStack`, without a mount; `options` are the stack's.

        Changes go where its process's go, and `close()` leaves whole files. `ConflictError` when its files are mounted,
        as they are while it runs (the kernel must be the only one that changes them), unless `read_only`. While the
        stack is open it cannot be mounted, started or removed.
        """
        from lazarus.containers.stack import open_stack

        return open_stack(self, read_only, options)

    @property
    def stats(self) -> Stats:
        """What writing into it has cost, over all its closed `stack()`s. What the kernel copies up is not counted."""
        from lazarus.containers.stack import read_stats

        return read_stats(self.directory)

    def diff(self, *, mount: str | None = None) -> list[Change]:
        """What it has changed in its image's files: a walk of `upper` only. `mount`: in the image that is mounted,
        writable, in this place. `NotFoundError`."""
        from lazarus.containers.changes import diff

        return diff(self if mount is None else self._part(mount))

    def _part(self, mount: str) -> Container:
        from lazarus.containers.parts import find

        return find(self, mount)

    def commit(
        self,
        reference: str | None = None,
        *,
        changes: Iterable[str] = (),
        message: str = "",
        author: str = "",
        compression: str = "gzip",
        pause: bool = True,
        mount: str | None = None,
    ) -> Image:
        """An image of its image's layers and one more with what it has changed; same changes, same layer. `mount`: of
        the image that is mounted, writable, in this place instead, and what has changed in that.

        `changes` are Dockerfile instructions (`CMD ...`, `ENV A=b`), `compression` is "gzip", "zstd" or "none". A
        running container stands still meanwhile (see `lazarus.runtime.freezer`), unless `pause` is False: then files
        that change during the commit may come half-written. `SOURCE_DATE_EPOCH` sets the image's time and is the latest
        time of any file. Costs what changed.
        """
        from lazarus.containers.changes import commit

        return commit(
            self,
            reference,
            changes=tuple(changes),
            message=message,
            author=author,
            compression=compression,
            pause=pause,
            part=None if mount is None else self._part(mount),
        )

    def export(self, out: int | IO[bytes]) -> int:
        """Writes all its files as one plain tar; the number of bytes."""
        from lazarus.containers.files import export

        return export(self, out if isinstance(out, int) else out.fileno())

    def copy_in(self, source: str | IO[bytes] | int, target: str, *, archive: bool = False) -> None:
        """Copies a file or tree of the host (or a tar stream) to `target` in it: docker's rules, see
        `lazarus/union/copy.py`."""
        from lazarus.containers.files import copy_in

        copy_in(self, source, target, archive=archive)

    def copy_out(self, source: str, target: str | IO[bytes] | int, *, archive: bool = False) -> None:
        """Copies a file or tree of it to the host (or as a tar stream): docker's rules, see `lazarus/union/copy.py`."""
        from lazarus.containers.files import copy_out

        copy_out(self, source, target, archive=archive)

    # -- checkpoints of its files --

    def checkpoint(self, name: str | None = None, *, sync: bool = False) -> Checkpoint:
        """Freezes what it has written under a name (default: the next number), and goes on from there. Files alone,
        without volumes.

        Stopped: nothing is copied, about 0.3 ms; it must not be in use, nor a writable stack be open (`ConflictError`).
        Running: its processes are frozen while what it has written is copied, or cloned where the file system can. Of
        one whose size is limited it is always copied.
        `sync`: it is on disk then; else it is as durable as what a container writes is.
        Raises `FormatError` or `ConflictError` (name), `LimitError` (the chain is too long), `OSError`.
        """
        from lazarus.containers.checkpoints import take

        return take(self, name, sync)

    def checkpoints(self) -> list[Checkpoint]:
        """Its own, and those of others that it comes from; the oldest first."""
        from lazarus.containers.checkpoints import listed

        return listed(self)

    def rollback(self, checkpoint: str | Checkpoint) -> None:
        """Goes back to a checkpoint; what was written since is lost. Its settings and volumes stay as they are.

        A name means one of its own checkpoints first. `ConflictError` while it runs or is in use; `NotFoundError`.
        """
        from lazarus.containers.checkpoints import rollback

        rollback(self, checkpoint)

    def fork(
        self,
        n: int = 1,
        checkpoint: str | Checkpoint | None = None,
        *,
        name: str | None = None,
        mount: bool = False,
    ) -> list[Container]:
        """New containers that go on from a checkpoint, with the settings of this one: all `n` of them, or none.

        Without `checkpoint`: from where it is now; a checkpoint is taken first if it has written something since the
        last one. `name` is the name of one, or with a number (NAME-1, ...) of each. Volumes that have a name are
        shared, those without one are new. Nothing is copied: some 0.1 ms each, with a limited size 50 ms. `mount`
        mounts them all, over one image that is mounted once. Raises as checkpoint() and rollback() do,
        and `ConflictError` (name), `LimitError` (`n`).
        """
        from lazarus.containers.forks import fork

        return fork(self, n, checkpoint, name, mount)

    def remove_checkpoint(self, name: str) -> None:
        """Removes one of its own checkpoints that nothing lies on: `ConflictError` else."""
        from lazarus.containers.checkpoints import remove

        remove(self, name)

    # -- the end of it --

    def rename(self, name: str) -> None:
        """Gives it another name. `ConflictError` when that is taken."""
        self.store.containers.rename(self, name)

    def remove(self, force: bool = False, *, volumes: bool = False) -> None:
        """Removes it, all that it has written, and its checkpoints that no other container lies on. `ConflictError`
        when it runs or its files are in use, unless `force` kills it first, and leaves the files to whoever uses them.
        `volumes`: also the volumes without a name that were made for it; those of an `auto_remove` container go always.
        """
        while not self._delete(force, volumes):
            self._execution.stop(0, 9)

    def _delete(self, force: bool, volumes: bool = False) -> bool:
        from lazarus.containers.removal import delete

        return delete(self, force, volumes)
