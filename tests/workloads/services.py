"""A container that serves and is killed, and clients that remember what it has acknowledged."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import IO

from cli_helpers import Command

KILLED = "137"  # 128 + SIGKILL: the exit code of who was killed


class Service:
    """One container of a name. `ready` is a command in it that succeeds when it serves."""

    def __init__(
        self,
        lazarus: Command,
        name: str,
        image: str,
        command: Sequence[str],
        *,
        options: Sequence[str] = (),
        ready: Sequence[str] = ("true",),
    ) -> None:
        self.lazarus, self.name, self.image = lazarus, name, image
        self.command, self.options, self.ready = command, options, ready
        self.create()

    def create(self) -> None:
        """The container, which does not run."""
        self.lazarus.ok("create", "--name", self.name, *self.options, self.image, *self.command)

    def replace(self) -> None:
        """Another container with the same settings: only what is in its volumes stays."""
        self.lazarus.ok("rm", self.name)
        self.create()

    def start(self, seconds: float = 30) -> None:
        """Returns when it serves."""
        self.lazarus.ok("start", self.name)
        deadline = time.monotonic() + seconds
        while (asked := self.lazarus("exec", self.name, *self.ready)).code != 0:
            assert self.lazarus.ok("ps", "-q", "--filter", f"name={self.name}"), f"{self.name} ended: {self.logs()}"
            assert time.monotonic() < deadline, f"{self.name} does not serve: {asked}; {self.logs()}"

    def kill(self) -> None:
        """kill -9 of its first process: the kernel ends all others in that instant."""
        self.lazarus.ok("kill", "--signal", "KILL", self.name)
        assert self.lazarus.ok("wait", self.name) == KILLED

    def stop(self) -> None:
        """As its program wants to be stopped, and it must end well."""
        self.lazarus.ok("stop", "--time", "50", self.name)
        assert self.lazarus.ok("wait", self.name) == "0", self.logs()

    def ask(self, *command: str, seconds: float = 60) -> str:
        """What a further command in it prints; it must succeed."""
        return self.lazarus.ok("exec", self.name, *command, timeout=seconds)

    def load(self, *command: str) -> None:
        """A further command in it that goes on until it is killed with it."""
        self.lazarus.ok("exec", "--detach", self.name, *command)

    def logs(self) -> str:
        """The end of what it wrote."""
        result = self.lazarus("logs", "--tail", "20", self.name)
        return result.out + result.err


class Client(threading.Thread):
    """A client of a service, in its container, which writes numbers one after the other.

    `statement(n)` is a line that writes n, and the program says n when that is done. This process, which survives, is
    told by the pipe: `acknowledged` is the last number that was, `sent` may be one more.
    """

    def __init__(self, service: Service, command: Sequence[str], statement: Callable[[int], str], last: int = 0):
        super().__init__(daemon=True)
        self.acknowledged = self.sent = last
        self._statement, self._answer = statement, ""
        self._errors: IO[str] = os.fdopen(os.memfd_create("errors"), "w+")  # a full disk must not swallow it
        self._process = subprocess.Popen(
            service.lazarus.words("exec", "-i", service.name, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
        )
        self.start()

    def run(self) -> None:
        """Until the service is gone, or answers something else."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            while True:
                self.sent = self.acknowledged + 1
                self._process.stdin.write(self._statement(self.sent) + "\n")
                self._answer = self._process.stdout.readline().strip()
                if self._answer != str(self.sent):
                    break
                self.acknowledged = self.sent

    def end(self) -> None:
        """After its service was killed."""
        self.join(timeout=20)
        assert not self.is_alive(), "a client of a container that was killed still waits"
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._errors):
            assert stream is not None
            stream.close()
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def why(self) -> str:
        """What came in place of an acknowledgment, how the client ended, and the end of what it said about it."""
        try:
            ended = f"it ended with {self._process.wait(timeout=5)}"
        except subprocess.TimeoutExpired:
            ended = "it has not ended"
        self._errors.seek(0)
        said = self._errors.read()[-500:].strip()
        return f"after {self.acknowledged} came {self._answer!r}, and {ended}, saying {said!r}"


def kill_when(service: Service, clients: Sequence[Client], more: int, seconds: float = 60) -> None:
    """Kills it when each client has had `more` numbers acknowledged, while all still write."""
    goals = [client.acknowledged + more for client in clients]
    deadline = time.monotonic() + seconds
    while any(client.acknowledged < goal for client, goal in zip(clients, goals, strict=True)):
        for client in clients:
            assert client.is_alive(), client.why()
        assert time.monotonic() < deadline, f"{[client.acknowledged for client in clients]}, and not {goals}"
        time.sleep(0.005)
    service.kill()
    for client in clients:
        client.end()


def check_kept(client: Client, found: Iterable[int]) -> int:
    """Every number that was acknowledged is there, and none that was never sent; the last that is there."""
    numbers = sorted(found)
    last = len(numbers)
    assert numbers == list(range(1, last + 1)), "a number is missing, or twice"
    assert client.acknowledged <= last <= client.sent, f"{last} of {client.acknowledged} acknowledged numbers are there"
    return last
