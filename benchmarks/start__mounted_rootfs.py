"""What does Lazarus add to the system calls that a container's root file system needs?

Ours: `container.mount()` and `container.unmount()` on a created container, in process, warm. Theirs: bare_mount.c,
which makes the same calls (EROFS file-backed mount, overlay with the objects as data-only lower, attach, unmount) and
nothing else.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lazarus
from benchmarks.contenders import peers
from benchmarks.harness.disks import run
from benchmarks.harness.results import LIMIT, record, record_missing

ROUNDS = 200


def test_mount_of_a_container(benchmark: Any, image: Path, scratch: Path) -> None:
    limit = f"{LIMIT}bare system calls"
    missing: dict[str, str] = {}
    bare = scratch / "bare_mount"
    with lazarus.Store(scratch / "store") as store:
        (loaded,) = store.images.load(image)
        container = store.containers.create(loaded, command=["true"])
        container.mount()  # builds the stack and warms the caches
        container.unmount()
        stack = store.stacks.open(loaded.diff_ids)
        target = scratch / "bare"
        for name in ("upper", "work", "merged"):
            (target / name).mkdir(parents=True, exist_ok=True)
        arguments = [
            str(stack.image_path),
            str(store.paths.objects),
            *(f"{target}/{n}" for n in ("upper", "work", "merged")),
        ]

        ours: list[float] = []
        theirs: list[float] = []

        def bare_turn() -> None:
            if limit in missing:
                return
            try:
                if not bare.exists():
                    peers.compiled("bare_mount.c", scratch)
                theirs.extend(float(line) * 1e-9 for line in run(str(bare), *arguments, "10").split())
            except (RuntimeError, OSError) as error:
                missing[limit] = str(error)

        def our_turn() -> None:
            for _ in range(10):
                started = time.perf_counter()
                container.mount()
                ours.append(time.perf_counter() - started)
                container.unmount()

        benchmark.pedantic(our_turn, setup=bare_turn, rounds=ROUNDS // 10, iterations=1)
        container.remove()
    mount = record(benchmark, "lazarus", "mount", "s", ours).median
    record_missing(benchmark, missing)
    print(f"\nmount: {mount * 1e6:.0f} us")
    if not missing:
        floor = record(benchmark, limit, "mount", "s", theirs).median
        print(f"bare system calls: {floor * 1e6:.0f} us, ratio {mount / floor:.2f}")
