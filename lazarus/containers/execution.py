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

from lazarus.containers import rootfs, shown
from lazarus.containers.settings import Settings
from lazarus.containers.state import NOBODY, Lock, State, process, read_state, write_state
from lazarus.content.limited import is_limited
from lazarus.errors import ConflictError, ContainerRuntimeError, CorruptError, NotFoundError, one_line
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
            if self.settled().status == "running":
                raise ConflictError(f"container {self.id[:12]}: it is running already")
            self.end_stray()
            held = rootfs.is_mounted(f"{self.directory}/merged")
            try:
                self._prepare(runtime, held)
                if attachment is None:
                    self._start_in_background(runtime, held, lock)
                    return None
                code = self._attend(runtime, attachment, held, lock.release)
            except BaseException as error:
                if attachment is None and read_state(self.directory).status == "running":
                    raise  # a signal's: the start itself went well
                with suppress(NotFoundError), lock.again():
                    self._end(runtime, getattr(error, "exit_code", 125), held, one_line(error))
                raise
            with suppress(NotFoundError), lock.again():  # somebody may have removed it meanwhile
                self._end(runtime, code, held)
        return code

    def _prepare(self, runtime: Runtime, held: bool) -> None:
        """Everything up to the bundle's config.json."""
        settings = self.settings
        if settings.size is not None and not is_limited(self.directory):  # a power cut may have taken it
            raise CorruptError(f"container {self.id[:12]}: the file system that limits its size is gone; remove it")
        for directory in ("upper", "work", "merged", "bundle"):
            os.makedirs(f"{self.directory}/{directory}", 0o755, exist_ok=True)
        for bind in settings.binds:
            if not os.path.exists(bind.source):
                raise ContainerRuntimeError(
                    f"volume {bind.source}:{bind.target}: no such file or directory on this host"
                )
        if os.path.isdir(self.notes):
            runtime.forget(self.notes, self.id, self.bundle)
        if not held:
            rootfs.mount(self.store, self.directory, settings)
        mounts = shown.prepare(self.store, self.id, settings)
        files = rootfs.etc_files(self.directory, self.id, settings)
        if not held:
            rootfs.add_mount_points(self.store, self.directory, settings)
        root = os.open(f"{self.directory}/merged", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            what = self.process(root, settings.args, settings.env, settings.cwd, settings.user, settings.terminal)
            if not any(settings.cwd == place or settings.cwd.startswith(f"{place}/") for place in settings.targets):
                rootfs.make_directory(root, settings.cwd)
            if not settings.targets:  # a program may lie in a volume
                check_program(root, what)
        finally:
            os.close(root)
        document = oci.bundle_document(
            what,
            rootfs=os.path.realpath(f"{self.directory}/merged"),  # runc refuses a path with symlinks, as a pool makes
            hostname=rootfs.hostname_of(self.id, settings),
            network=settings.network,
            binds=(*files, *mounts),
            read_only=settings.read_only,
            cgroups_path=f"/lazarus/{self.id}" if runtime.manages_cgroups else None,
            rules_devices=runtime.rules_devices,
        )
        with open(f"{self.bundle}/config.json", "w", encoding="utf-8") as file:
            file.write(json.dumps(document))
        for name in ("runtime.log", "pid"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self.bundle}/{name}")

    def process(
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
            shown.release(self.store, self.id, settings)
            write_state(self.directory, State("running", process(pid), me, None, timestamp(), held=held))
            started()

        try:
            return attend(start, tell, attachment, notes=self.bundle, terminal=settings.terminal, log=log)
        finally:
            if log is not None:
                log.close()

    def _start_in_background(self, runtime: Runtime, held: bool, lock: Lock) -> None:
        """The supervisor holds the lock too, until the state file says "running": the caller's death opens no gap."""
        from lazarus import mounts  # noqa: F401  - imported here so that the forked process need not

        attachment = Attachment(hold_stdin=self.settings.interactive)

        def supervise(report: Callable[[bytes], None]) -> None:
            def started() -> None:
                lock.release()
                report(b"{}")

            try:
                code = self._attend(runtime, attachment, held, started)
            except BaseException as error:
                code = getattr(error, "exit_code", 125)
                report(json.dumps({"error": one_line(error), "exit_code": code}).encode())
                return  # the caller still holds the lock, and cleans up
            with Lock(self.directory):
                self._end(runtime, code, held, remove=False)
            if self.settings.auto_remove:
                self._exec_removal()

        answer = background(supervise, keep=(lock.fd,))
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

    def _end(
        self, runtime: Runtime | None, code: int | None, held: bool, error: str = "", *, remove: bool = True
    ) -> State:
        """What follows the end of the process; the lock is held. Whatever goes wrong here, it has ended: a root file
        system in use stays mounted (until unmount, remove or the end of the next run), a full disk costs the exit code.
        """
        before = read_state(self.directory)
        finished = State("exited", NOBODY, NOBODY, code, before.started, timestamp(), error)
        self.end_stray()
        shown.release(self.store, self.id, self.settings)
        if runtime is not None:
            runtime.forget(self.notes, self.id, self.bundle)
        with suppress(OSError, ConflictError):
            if not held and rootfs.is_mounted(f"{self.directory}/merged"):
                rootfs.unmount(self.directory)
        if not (self.settings.auto_remove and remove):
            with suppress(OSError):
                write_state(self.directory, finished)
        return finished

    def end_stray(self) -> None:
        """Kills a first process that no state file names, because its starter was killed before writing one; the lock
        is held. It is told by its root directory: an overlay's device belongs to one container alone."""
        merged = f"{self.directory}/merged"
        try:
            with open(f"{self.bundle}/pid", encoding="ascii") as file:
                pid = int(file.read())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return
        try:
            if rootfs.is_mounted(merged) and os.stat(f"/proc/{pid}/root/").st_dev == os.stat(merged).st_dev:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _ended(pidfd)
        except OSError:
            pass  # it has ended
        finally:
            os.close(pidfd)

    def settled(self) -> State:
        """The state, after cleaning up behind a supervisor, or a change of checkpoints, that was killed; the lock is
        held."""
        if os.path.islink(f"{self.directory}/unmounted"):
            from lazarus.containers.unmounted import mount_again

            mount_again(self.store, self.directory, self.settings)
        state = read_state(self.directory)
        if not state.abandoned:
            return state
        try:
            runtime = Runtime()
        except ContainerRuntimeError:  # it is not installed any more: no reason not to list the container
            runtime = None
        return self._end(runtime, None, state.held, "its supervisor was killed", remove=False)

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
            except OSError:  # it has ended, perhaps before its starter could look (pid 0), or a thread has its pid now
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
        deadline = None if timeout is None else time.monotonic() + timeout
        state = self.state()
        if state.status == "running" and state.process.alive:
            try:
                pidfd = os.pidfd_open(state.process.pid)
            except OSError:
                pass
            else:
                try:
                    if state.process.alive and not _ended(pidfd, timeout):
                        return None
                finally:
                    os.close(pidfd)
        while (state := self.state()).status == "running":  # the supervisor is about to say how it ended
            if deadline is not None and time.monotonic() > deadline + 5:
                return None
            time.sleep(0.002)
        return state

    def stop(self, timeout: float, number: int) -> None:
        """The stop signal, then SIGKILL after `timeout` seconds (negative: never); returns when it has ended."""
        for sent, limit in ((number, timeout if timeout >= 0 else None), (int(signal.SIGKILL), None)):
            with suppress(ConflictError):  # it has ended
                self.signal(sent)
            if self.wait(limit) is not None:
                return

    def open_live_root(self) -> int:
        """A descriptor of what the running container's first process has as root. `ConflictError` without one."""
        running = read_state(self.directory).process
        try:
            root = os.open(f"/proc/{running.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            root = -1
        if root >= 0:
            if running.alive:  # asked after it was opened: it is that process's, not that of a later one
                return root
            os.close(root)
        raise ConflictError(f"container {self.id[:12]}: it is not running")


def _ended(pidfd: int, timeout: float | None = None) -> bool:
    """Waits for the end of a process, at most `timeout` seconds."""
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else min(timeout * 1000, 2**31 - 1)))
