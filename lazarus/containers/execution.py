"""Starting and ending the processes of a container. `Container` is the face; here is the order of things.

start: lock, mount, bundle, runtime; the state file says "running" before the lock is given back. The end of the process
is handled by whoever supervises it: the caller (attached) or a background process, which must not touch the catalogue
(see `lazarus.runtime.supervisor.background`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from lazarus._native.openat2 import open_in_root
from lazarus.containers import rootfs
from lazarus.containers.settings import Settings
from lazarus.containers.state import NOBODY, Lock, State, process, read_state, write_state
from lazarus.errors import ConflictError, ContainerRuntimeError, LazarusError
from lazarus.runtime import bundle as oci
from lazarus.runtime.crun import Runtime, Streams
from lazarus.runtime.executable import check_program
from lazarus.runtime.log import LogWriter, timestamp
from lazarus.runtime.supervisor import Attachment, attend, background
from lazarus.runtime.user import resolve_user

if TYPE_CHECKING:
    from lazarus.store import Store


class Execution:
    """The processes of one container: its directory, settings and runtime."""

    def __init__(self, store: Store, container_id: str, settings: Settings) -> None:
        self.store = store
        self.id = container_id
        self.settings = settings
        self.directory = store.paths.container(container_id)
        self.bundle = f"{self.directory}/bundle"
        self.notes = f"{self.directory}/runtime"

    # -- start --

    def start(self, attachment: Attachment | None) -> int | None:
        """Starts the container's process. With an attachment: stays with it and returns its exit code."""
        runtime = Runtime()
        with Lock(self.directory) as lock:
            state = self.settled()
            if state.status == "running":
                raise ConflictError(f"container {self.id[:12]}: it is running already")
            held = rootfs.is_mounted(f"{self.directory}/merged")
            try:
                self._prepare(runtime, held)
                if attachment is None:
                    self._start_in_background(runtime, held)
                    return None
                code = self._attend(runtime, attachment, held, lock.release)
            except BaseException as error:
                with lock.again():
                    self._end(runtime, getattr(error, "exit_code", 125), held, str(error))
                raise
            with lock.again():
                self._end(runtime, code, held)
        return code

    def _prepare(self, runtime: Runtime, held: bool) -> None:
        """Everything up to the bundle's config.json."""
        settings = self.settings
        for directory in ("upper", "work", "merged", "bundle"):
            os.makedirs(f"{self.directory}/{directory}", 0o755, exist_ok=True)
        for bind in settings.binds:
            if not os.path.exists(bind.source):
                raise ContainerRuntimeError(
                    f"volume {bind.source}:{bind.target}: no such file or directory on this host"
                )
        runtime.forget(self.notes, self.id, self.bundle) if os.path.isdir(self.notes) else None
        if not held:
            rootfs.mount(self.store, self.directory, settings)
        files = rootfs.etc_files(self.directory, self.id, settings)
        if not held:
            rootfs.add_mount_points(self.store, self.directory, settings, files)
        root = os.open(f"{self.directory}/merged", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            what = self._process(root, settings.args, settings.env, settings.cwd, settings.user, settings.terminal)
            if not any(settings.cwd == b.target or settings.cwd.startswith(f"{b.target}/") for b in settings.binds):
                rootfs.make_directory(root, settings.cwd)
            if not settings.binds:  # a program may lie in a volume
                check_program(root, what)
        finally:
            os.close(root)
        document = oci.bundle_document(
            what,
            rootfs=f"{self.directory}/merged",
            hostname=rootfs.hostname_of(self.id, settings),
            network=settings.network,
            binds=(*files, *settings.binds),
            read_only=settings.read_only,
            cgroups_path=f"/lazarus/{self.id}" if runtime.manages_cgroups else None,
        )
        with open(f"{self.bundle}/config.json", "w", encoding="utf-8") as file:
            file.write(json.dumps(document))
        _discard(f"{self.bundle}/runtime.log")

    def _process(
        self, root: int, args: Sequence[str], env: Sequence[str], cwd: str, user_text: str, terminal: bool
    ) -> oci.Process:
        user = resolve_user(root, user_text)
        environment = oci.environment(
            list(self.settings.image_env),
            tuple(env),
            hostname=rootfs.hostname_of(self.id, self.settings),
            home=user.home,
            terminal=terminal,
        )
        return oci.Process(tuple(args), tuple(environment), cwd, user, terminal)

    def _attend(
        self, runtime: Runtime, attachment: Attachment, held: bool, started: Callable[[], None], keep_log: bool = True
    ) -> int:
        settings = self.settings
        log = None if settings.auto_remove and attachment.stdout is not None else LogWriter(f"{self.directory}/log")

        def start(streams: Streams, console: str | None) -> int:
            return runtime.run(self.notes, self.id, self.bundle, streams, console)

        def tell(pid: int) -> None:
            me = process(os.getpid())
            write_state(self.directory, State("running", process(pid), me, None, timestamp(), held=held))
            started()

        try:
            return attend(start, tell, attachment, notes=self.bundle, terminal=settings.terminal, log=log)
        finally:
            if log is not None:
                log.close()

    def _start_in_background(self, runtime: Runtime, held: bool) -> None:
        from lazarus import mounts  # noqa: F401  - imported here so that the forked process need not

        attachment = Attachment(hold_stdin=self.settings.interactive)

        def supervise(report: Callable[[bytes], None]) -> None:
            try:
                code = self._attend(runtime, attachment, held, lambda: report(b"{}"))
            except BaseException as error:
                code = getattr(error, "exit_code", 125)
                report(json.dumps({"error": str(error), "exit_code": code}).encode())
                return  # the caller still holds the lock, and cleans up
            with Lock(self.directory):
                self._end(runtime, code, held, remove=False)
            if self.settings.auto_remove:
                self._exec_removal()

        answer = background(supervise)
        if not answer:
            raise ContainerRuntimeError(f"container {self.id[:12]}: its supervisor was killed before it could start it")
        failure = json.loads(answer)
        if failure:
            raise ContainerRuntimeError(failure["error"], failure["exit_code"])

    def _exec_removal(self) -> None:
        """Becomes a fresh `lazarus rm`: a forked process must not open its parent's database."""
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment = {**os.environ, "PYTHONPATH": package}
        command = [sys.executable, "-m", "lazarus", "--root", self.store.paths.root, "rm", "--force", self.id]
        os.execve(sys.executable, command, environment)

    # -- end --

    def _end(self, runtime: Runtime, code: int | None, held: bool, error: str = "", *, remove: bool = True) -> None:
        """What follows the end of the process; the lock is held. The exit code is on disk before anything can fail."""
        before = read_state(self.directory)
        if self.settings.auto_remove and remove:
            self._clean(runtime, held)
            return
        finished = State("exited", NOBODY, NOBODY, code, before.started, timestamp(), error)
        if not held:
            self._clean(runtime, held)
        else:
            runtime.forget(self.notes, self.id, self.bundle)
        write_state(self.directory, finished)

    def _clean(self, runtime: Runtime, held: bool) -> None:
        runtime.forget(self.notes, self.id, self.bundle)
        if not held and rootfs.is_mounted(f"{self.directory}/merged"):
            rootfs.unmount(self.directory)

    def settled(self) -> State:
        """The state, after cleaning up behind a supervisor that was killed; the lock is held."""
        state = read_state(self.directory)
        if not state.abandoned:
            return state
        self._end(Runtime(), None, state.held, "its supervisor was killed", remove=False)
        return read_state(self.directory)

    def state(self) -> State:
        """The state now; takes the lock only when there is something to clean up."""
        state = read_state(self.directory)
        if not state.abandoned:
            return state
        with Lock(self.directory):
            return self.settled()

    def signal(self, number: int) -> None:
        """Sends a signal to the container's process. `ConflictError` when it does not run."""
        state = self.state()
        if state.status == "running":
            try:
                pidfd = os.pidfd_open(state.process.pid)
            except ProcessLookupError:
                pidfd = -1
            if pidfd >= 0:
                try:
                    if state.process.alive:  # asked after the descriptor was taken: it is this process
                        signal.pidfd_send_signal(pidfd, number)
                        return
                except ProcessLookupError:
                    pass
                finally:
                    os.close(pidfd)
        raise ConflictError(f"container {self.id[:12]}: it is not running")

    def wait(self, timeout: float | None = None) -> State | None:
        """Waits until the container is not running; the state then, None when the time is up first."""
        import select

        deadline = None if timeout is None else time.monotonic() + timeout
        state = self.state()
        if state.status == "running" and state.process.alive:
            try:
                pidfd = os.pidfd_open(state.process.pid)
            except ProcessLookupError:
                pass
            else:
                try:
                    poll = select.poll()
                    poll.register(pidfd, select.POLLIN)
                    if state.process.alive and not poll.poll(None if timeout is None else timeout * 1000):
                        return None
                finally:
                    os.close(pidfd)
        while (state := self.state()).status == "running":  # the supervisor is about to say how it ended
            if deadline is not None and time.monotonic() > deadline + 5:
                return None
            time.sleep(0.002)
        return state

    def stop(self, timeout: float, number: int) -> None:
        """The stop signal, then SIGKILL after `timeout` seconds; returns when it has ended."""
        for sent, limit in ((number, timeout), (int(signal.SIGKILL), None)):
            with suppress(ConflictError):  # it has ended
                self.signal(sent)
            if self.wait(limit) is not None:
                return

    # -- further processes --

    def exec(
        self,
        args: Sequence[str],
        *,
        env: Sequence[str],
        cwd: str | None,
        user: str | None,
        terminal: bool,
        attachment: Attachment | None,
    ) -> int | None:
        """A further process in the running container; its exit code, or None when it was started in the background."""
        state = self.state()
        if state.status != "running":
            raise ConflictError(f"container {self.id[:12]}: it is not running")
        runtime = Runtime()
        notes = f"{self.directory}/exec-{os.urandom(6).hex()}"
        os.mkdir(notes, 0o700)
        try:
            self._write_process(notes, state.process.pid, args, env, cwd, user, terminal)
            if attachment is not None:
                return self._attend_exec(runtime, notes, terminal, attachment, lambda: None)
            self._exec_in_background(runtime, notes, terminal)
            return None
        finally:
            if attachment is not None:
                _remove_directory(notes)

    def _write_process(
        self,
        notes: str,
        pid: int,
        args: Sequence[str],
        env: Sequence[str],
        cwd: str | None,
        user: str | None,
        terminal: bool,
    ) -> None:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            settings = self.settings
            what = self._process(
                root,
                args,
                (*settings.env, *env),
                settings.cwd if cwd is None else cwd,
                settings.user if user is None else user,
                terminal,
            )
            check_program(root, what)
            try:
                os.close(open_in_root(root, os.fsencode(what.cwd), os.O_PATH | os.O_DIRECTORY))
            except OSError as error:
                raise ContainerRuntimeError(f"{what.cwd}: no such directory in the container", 126) from error
        finally:
            os.close(root)
        with open(f"{notes}/process.json", "w", encoding="utf-8") as file:
            file.write(json.dumps(oci.process_document(what)))

    def _attend_exec(
        self, runtime: Runtime, notes: str, terminal: bool, attachment: Attachment, started: Callable[[], None]
    ) -> int:
        def start(streams: Streams, console: str | None) -> int:
            return runtime.exec(self.notes, self.id, f"{notes}/process.json", notes, streams, console)

        return attend(start, lambda _pid: started(), attachment, notes=notes, terminal=terminal)

    def _exec_in_background(self, runtime: Runtime, notes: str, terminal: bool) -> None:
        def supervise(report: Callable[[bytes], None]) -> None:
            try:
                null = os.open(os.devnull, os.O_RDWR)
                self._attend_exec(runtime, notes, terminal, Attachment(None, null, null), lambda: report(b"{}"))
            except (OSError, LazarusError) as error:
                failure = {"error": str(error), "exit_code": getattr(error, "exit_code", 125)}
                report(json.dumps(failure).encode())
            finally:
                _remove_directory(notes)

        failure = json.loads(background(supervise) or b'{"error": "its supervisor was killed", "exit_code": 125}')
        if failure:
            raise ContainerRuntimeError(failure["error"], failure["exit_code"])


def _discard(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _remove_directory(path: str) -> None:
    """A flat directory of our own."""
    with suppress(FileNotFoundError):  # the whole container was removed meanwhile
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
