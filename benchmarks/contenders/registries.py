"""A registry on loopback: Debian's docker-registry, with what it has in a directory of the run; and a line to it on
which the bytes are counted."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def why_not() -> str | None:
    """Why there can be none here."""
    return None if shutil.which("docker-registry") else "docker-registry is not installed"


@contextmanager
def registry(directory: Path, base: Path | None = None) -> Iterator[str]:
    """Runs one in a new directory: what stands before the first slash of its references. It begins with what the one in
    the directory `base` had."""
    directory.mkdir()
    if base is not None:
        shutil.copytree(base / "storage", directory / "storage", copy_function=os.link)
    configuration = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0"},
    }
    (directory / "config.yml").write_text(json.dumps(configuration))
    log = directory / "log"
    with log.open("wb") as output:
        command = ["docker-registry", "serve", str(directory / "config.yml")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield f"127.0.0.1:{_port(process, log)}"
    finally:
        process.kill()
        process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(1000):
        found = re.search(r"listening on \S+:(\d+)", log.read_text(errors="replace"))
        if found:
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise RuntimeError(f"docker-registry did not start: {log.read_text(errors='replace')[-500:]}")


def copied(source: str, reference: str) -> None:
    """Puts an image there, by skopeo."""
    command = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", source, f"docker://{reference}"]
    subprocess.run(command, check=True, capture_output=True)


class Line:
    """Connections to a host, each carried on byte by byte. `count` is of the bytes in both directions so far: requests,
    answers, and their headers."""

    def __init__(self, listener: socket.socket, host: str) -> None:
        self.host = f"127.0.0.1:{listener.getsockname()[1]}"
        self.count = 0
        self._lock = threading.Lock()
        self._listener = listener
        name, _, port = host.rpartition(":")
        self._to = (name, int(port))

    def serve(self) -> None:
        """Until the listener is shut down."""
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 18):
                with self._lock:
                    self.count += len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def counted(host: str) -> Iterator[Line]:
    """A line to a host on loopback; what comes and goes by its own `host` is counted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = Line(listener, host)
        thread = threading.Thread(target=line.serve)
        thread.start()
        try:
            yield line
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
