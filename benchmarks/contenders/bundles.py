"""crun or runc with nobody above it, and the bundle that Lazarus would give it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from benchmarks.contenders.peers import NAME
from lazarus._native.spawn import spawn
from lazarus.runtime.bundle import Process, bundle_document, environment
from lazarus.runtime.crun import Runtime
from lazarus.runtime.user import User


def write_bundle(home: Path, runtime: Runtime, program: str) -> None:
    """`home/config.json` for the root file system at `home/merged`."""
    user = User(0, 0, (), "/")
    process = Process((program,), tuple(environment([], (), hostname="bench", home="/", terminal=False)), "/", user)
    document = bundle_document(
        process,
        rootfs=f"{home}/merged",
        hostname="bench",
        network="none",
        cgroups_path=f"/{NAME}/{home.name}" if runtime.manages_cgroups else None,
        rules_devices=runtime.rules_devices,
    )
    (home / "config.json").write_text(json.dumps(document))


def call_runtime(runtime: Runtime, home: Path, *verb: str) -> None:
    """Runs `verb` for the container of that bundle, which is called as its directory is."""
    options = ["--cgroup-manager=disabled"] if runtime.is_crun and not runtime.manages_cgroups else []
    command = [runtime.path, "--root", f"{home}/state", *options, *verb, home.name]
    with open(f"{home}/said", "w+b") as said, open(os.devnull, "rb") as null:
        pid = spawn(command, [f"PATH={os.defpath}"], stdin=null.fileno(), stdout=said.fileno(), stderr=said.fileno(),
                    hide=runtime.hide)  # fmt: skip
        _, status = os.waitpid(pid, 0)
        if status != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or [f"wait status {status}"]
            raise RuntimeError(f"{Path(runtime.path).name}: {lines[-1]}")
