"""What tests of containers do over and over; their fixtures are in container_fixtures.py."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lazarus.containers import Container
from lazarus.store import Store

IMAGE = "small:latest"


def clean(store: Store) -> None:
    """Removes all containers, and all images but `small:latest`."""
    for container in store.containers.list(all=True):
        container.remove(force=True)
    for image in store.images.list():
        if IMAGE not in image.names:
            store.images.remove(image.id, force=True)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def inside(root: Path) -> list[int]:
    """Processes that live in a container of this store: its overlay is in their mount table and not in ours."""
    found: list[int] = []
    deadline = time.monotonic() + 2
    while True:
        found.clear()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                first = Path(f"/proc/{pid}/mountinfo").read_text().split("\n", 1)[0]
            except OSError:
                continue
            if f"{root}/containers/" in first:
                found.append(int(pid))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def sh(store: Store, script: str, **options: object) -> Container:
    """A container that runs a shell script; not started."""
    return store.containers.create(IMAGE, command=["sh", "-c", script], **options)  # type: ignore[arg-type]


def start(container: Container, stdin: int | None = None) -> tuple[int | None, str]:
    """Starts it attached: its exit code, and what it wrote to both streams."""
    with tempfile.TemporaryFile() as out:
        code = container.start(attach=True, stdin=stdin, stdout=out.fileno(), stderr=out.fileno())
        out.seek(0)
        return code, out.read().decode()


def run(store: Store, script: str, **options: object) -> tuple[int | None, str]:
    """Runs a shell script in a new container."""
    return start(sh(store, script, **options))


def execute(container: Container, *command: str, **options: object) -> tuple[int | None, str]:
    """A further process in a running container: its exit code, and what it wrote to both streams."""
    with tempfile.TemporaryFile() as out:
        code = container.exec(command, stdout=out.fileno(), stderr=out.fileno(), **options)  # type: ignore[arg-type]
        out.seek(0)
        return code, out.read().decode()


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def logged(container: Container, stream: str | None = None) -> str:
    """What it wrote, from its log."""
    return b"".join(record.data for record in container.logs() if stream in (None, record.stream)).decode()


def remove_all(store: Store) -> None:
    """Every container and volume; also volumes that containers of other tests have left, whose image has some."""
    for container in store.containers.list(all=True):
        container.remove(force=True, volumes=True)
    store.volumes.prune(all=True)
