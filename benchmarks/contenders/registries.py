"""A registry on loopback: Debian's docker-registry, with what it has in a directory of the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
