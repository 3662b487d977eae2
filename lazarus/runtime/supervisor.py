"""From the start of a container's process to its end: streams, signals, log, exit status.

One function, attend(), serves `run` and `exec`, in the foreground and in a supervisor of its own (background()):

    no log, no terminal    the process inherits the caller's streams; the caller only waits
    log                    its output goes through pipes to the caller's streams and into the log
    terminal               it gets a pseudo-terminal, whose other side is carried to the caller's and into the log
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import FrameType, TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from lazarus._native.ending import put_back
from lazarus.runtime.crun import Streams
from lazarus.runtime.forking import no_copies
from lazarus.runtime.log import LogWriter

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_CHUNK = 1 << 16
_HELD_BACK = (*FORWARDED, signal.SIGALRM)
_CLOSED = b"\n"  # what a process in the background says before its report: it has none of the caller's descriptors

Start = Callable[[Streams, str | None], int]


class Attachment(NamedTuple):
    """Whose streams a process is connected to. None: to nothing; an open but silent stdin when `hold_stdin`."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    hold_stdin: bool = False
    signals: bool = False  # forward the caller's signals: only from a main thread


def exit_code(wait_status: int) -> int:
    """A shell's number: the exit code, or 128 + the signal that ended it."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


def attend(
    start: Start,
    started: Callable[[int], None],
    attachment: Attachment,
    *,
    notes: str,
    terminal: bool = False,
    log: LogWriter | None = None,
) -> int:
    """Starts a process, stays with it until it ends and returns its exit code.

    `start(streams, console)` starts it and returns its pid, a child of this process. `started(pid)` is told before
    anything is waited for; when it raises, the process is killed and the error goes on. `notes` is a directory for a
    socket.
    """
    with Child(start, started, forward=attachment.signals) as child, ExitStack() as stack:
        if terminal:
            return _attend_terminal(stack, child, attachment, notes, log)
        stdin = _stdin(stack, attachment)
        if log is None and attachment.stdout is not None and attachment.stderr is not None:
            child.launch(Streams(stdin, attachment.stdout, attachment.stderr))
            return child.wait()
        return _attend_pipes(stack, child, attachment, stdin, log)


def background(work: Callable[[Callable[[bytes], None]], None], *, keep: tuple[int, ...] = ()) -> bytes:
    """Runs `work(report)` in a process of its own session that nobody needs to wait for; returns what it reported.

    It is a fork, not a fresh interpreter: a start costs 2 ms and not 20, and the memory is shared with the caller's.
    All descriptors but the report and those in `keep` are closed first, so it must open what it needs, and must not
    touch databases of the caller. Signals to the caller wait until the report is there.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        ours, theirs = os.pipe()
        try:
            with no_copies():
                try:
                    child = os.fork()
                    if child == 0:
                        _in_background(theirs, keep, before, work)
                finally:
                    os.close(theirs)
                os.waitpid(child, 0)
                os.read(ours, len(_CLOSED))  # nothing when it was killed: its copies have gone all the same
            pieces = []
            while piece := os.read(ours, _CHUNK):
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            os.close(ours)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_background(
    report: int, keep: tuple[int, ...], mask: set[int | signal.Signals], work: Callable[[Callable[[bytes], None]], None]
) -> NoReturn:
    try:
        os.setsid()
        if os.fork() == 0:
            gc.disable()  # the caller's objects must not be finalised here, nor their memory touched
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.chdir("/")
            report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, 3)
            null = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, 3)
            for fd in range(3):
                os.dup2(null, fd)
            last = 2
            for fd in sorted({report, *keep} - {0, 1, 2}):
                os.closerange(last + 1, fd)
                last = fd
            os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))
            with suppress(BrokenPipeError):
                os.write(report, _CLOSED)
            work(_Report(report))
    finally:
        os._exit(0)


class _Report:
    """Tells the caller of background() once, and lets it go on."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, data: bytes) -> None:
        if self._fd >= 0:
            with suppress(BrokenPipeError):
                write_all(self._fd, data)
            os.close(self._fd)
            self._fd = -1


class Child:
    """The process from launch() to wait(), and the caller's signals on their way to it.

    A context manager: handlers are put back at its end, and a process that nobody has waited for is killed.
    """

    def __init__(self, start: Start, started: Callable[[int], None], *, forward: bool) -> None:
        self._start = start
        self._started = started
        self._forward = forward
        self._before: dict[signal.Signals, Any] = {}
        self._early: list[int] = []
        self._launched = False
        self.pid = 0
        self.on_resize: Callable[[], None] | None = None

    def launch(self, streams: Streams, console: str | None = None) -> None:
        """Starts it and tells who wants to know; signals that came before it was there are sent now."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)  # no handler may raise before we know its pid
        try:
            self.pid = self._start(streams, console)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._started(self.pid)
        self._launched = True
        while self._early:
            self._send(self._early.pop(0))

    def wait(self) -> int:
        """Waits for it and returns its exit code."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        pid, self.pid = self.pid, 0  # from here on the number may become somebody else's
        return exit_code(os.waitpid(pid, 0)[1])

    def _send(self, number: int) -> None:
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGWINCH and self.on_resize is not None:
            self.on_resize()
        elif self._launched:
            self._send(number)
        else:
            self._early.append(number)

    def __enter__(self) -> Self:
        if self._forward:
            for number in FORWARDED:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid:
            self._send(signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
            put_back(number)


def _stdin(stack: ExitStack, attachment: Attachment) -> int:
    if attachment.stdin is not None:
        return attachment.stdin
    if attachment.hold_stdin:
        ours, theirs = os.pipe()  # nobody writes into it: a shell waits there for ever
        stack.callback(os.close, ours)
        stack.callback(os.close, theirs)
        return ours
    null = os.open(os.devnull, os.O_RDONLY)
    stack.callback(os.close, null)
    return null


class _Carrier:
    """One pipe or terminal of the process on its way to the caller's stream and into the log."""

    def __init__(self, source: int, target: int | None, stream: str, log: LogWriter | None) -> None:
        self.source = source
        self._target = target
        self._stream = stream
        self._log = log
        os.set_blocking(source, False)

    def carry(self) -> bool:
        """Takes what is there. False at the end: nothing more will come, or nobody wants it."""
        try:
            data = os.read(self.source, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False  # EIO: the other side of a terminal has gone
        if not data:
            return False
        if self._log is not None:
            self._log.write(self._stream, data)
        if self._target is not None:
            try:
                write_all(self._target, data)
            except BrokenPipeError:
                return False
        return True

    def drain(self) -> None:
        """Takes what is left after the process has ended."""
        while _ready(self.source, select.POLLIN, 0) and self.carry():
            pass


def write_all(fd: int, data: bytes) -> None:
    """Writes everything, waiting where a descriptor is non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _ready(fd, select.POLLOUT, None)


def _ready(fd: int, events: int, timeout: int | None) -> bool:
    """poll() and not select(), which takes no descriptor above 1023."""
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(timeout))


def _attend_pipes(stack: ExitStack, child: Child, attachment: Attachment, stdin: int, log: LogWriter | None) -> int:
    sources: list[int] = []
    targets: list[int] = []
    try:
        for _ in range(2):
            source, target = os.pipe()
            stack.callback(os.close, source)
            sources.append(source)
            targets.append(target)
        child.launch(Streams(stdin, *targets))
    finally:
        for target in targets:
            os.close(target)
    carriers = [
        _Carrier(sources[0], attachment.stdout, "stdout", log),
        _Carrier(sources[1], attachment.stderr, "stderr", log),
    ]
    _carry_until_exit(stack, child.pid, carriers)
    return child.wait()


def _carry_until_exit(stack: ExitStack, pid: int, carriers: list[_Carrier]) -> None:
    """Carries while the process lives; what it leaves in the pipes at its end is taken too."""
    pidfd = os.pidfd_open(pid)
    stack.callback(os.close, pidfd)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    open_carriers = {carrier.source: carrier for carrier in carriers}
    for source in open_carriers:
        poll.register(source, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        for fd in ready:
            if fd in open_carriers and not open_carriers[fd].carry():
                poll.unregister(fd)
                del open_carriers[fd]
                _hang_up(stack, fd)
        if pidfd in ready:
            for carrier in open_carriers.values():
                carrier.drain()
            return


def _attend_terminal(stack: ExitStack, child: Child, attachment: Attachment, notes: str, log: LogWriter | None) -> int:
    from lazarus.runtime.console import Console, RawMode, copy_window_size

    null = os.open(os.devnull, os.O_RDWR)
    stack.callback(os.close, null)
    with Console(notes) as console:
        child.launch(Streams(null, null, null), console.path)
        master = console.receive()
    stack.callback(os.close, master)
    window = next((fd for fd in (attachment.stdin, attachment.stdout) if fd is not None and os.isatty(fd)), None)
    copy_window_size(window, master)
    child.on_resize = lambda: copy_window_size(window, master)
    stack.enter_context(RawMode(attachment.stdin))
    _carry_terminal(stack, child.pid, _Carrier(master, attachment.stdout, "stdout", log), attachment.stdin)
    return child.wait()


def _carry_terminal(stack: ExitStack, pid: int, carrier: _Carrier, stdin: int | None) -> None:
    """Both ways at once; what the process does not read yet is held back, and no more is taken meanwhile."""
    master = carrier.source
    pidfd = os.pidfd_open(pid)
    stack.callback(os.close, pidfd)
    typed = b""
    hung_up = False
    while True:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not hung_up:
            poll.register(master, select.POLLIN | (select.POLLOUT if typed else 0))
        if stdin is not None and not typed:
            poll.register(stdin, select.POLLIN)
        ready = dict(poll.poll())
        if ready.get(master, 0) & ~select.POLLOUT and not carrier.carry():
            _hang_up(stack, master)
            hung_up, typed, stdin = True, b"", None
        if stdin is not None and stdin in ready:
            try:
                typed = os.read(stdin, _CHUNK)
            except OSError:  # the caller's terminal has gone
                typed = b""
            if not typed:
                stdin = None
                typed = b"\x04"  # end of input, as a terminal says it
        if typed and ready.get(master, 0) & select.POLLOUT:
            with suppress(BlockingIOError):
                typed = typed[os.write(master, typed) :]
        if pidfd in ready:
            carrier.drain()
            return


def _hang_up(stack: ExitStack, fd: int) -> None:
    """Closes a pipe or terminal, whose number goes on to be valid: who still writes into it learns of it."""
    null = os.open(os.devnull, os.O_RDWR)
    stack.callback(os.close, null)
    os.dup2(null, fd, inheritable=False)
