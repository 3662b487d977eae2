"""How long does it take to bring a real image into a store, and how much memory?

Contenders: `lazarus load`, `podman load`, `ctr image import`, `umoci unpack`, and `tar -xzf` of the layers, which
verifies nothing.
Every run has an empty store in a directory of its own, and what others left dirty is written back before it begins.
Nothing is deleted in between: ext4 keeps inodes that were deleted a minute ago from being used again, and searching for
others costs whoever comes next up to a third of its CPU (perf: recently_deleted, find_inode_bit).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lazarus
from benchmarks.contenders import peers
from benchmarks.harness.race import Contender, race
from benchmarks.harness.results import LIMIT, record
from benchmarks.images.variants import flattened, with_one_more_layer

UNPACK = 'mkdir "$0"; for blob; do tar -xzf "$blob" -C "$0"; done'


def test_load_of_a_real_image(benchmark: Any, image: Path, scratch: Path) -> None:
    layout = peers.unpack_layout(image, scratch / "layout")
    blobs = peers.layer_blobs(layout)
    # umoci looks an image up by a tag, in which a colon cannot be written
    tag = peers.rename(layout, "bench")

    def podman(run: int) -> list[str]:
        return [*peers.podman(scratch / f"podman-{run}"), "load", "-q", "-i", str(image)]

    contenders = [
        Contender("podman load", podman, before=os.sync),
        Contender(
            "umoci unpack",
            lambda run: ["umoci", "unpack", "--image", f"{layout}:{tag}", f"{scratch}/umoci-{run}"],
            before=os.sync,
        ),
        Contender(
            "tar -xzf of the layers",
            lambda run: ["sh", "-ec", UNPACK, f"{scratch}/tar-{run}", *map(str, blobs)],
            before=os.sync,
        ),
        _containerd(image, scratch),
        Contender(f"{LIMIT}the disk alone", _as_many_bytes(image, scratch), before=os.sync),
    ]
    ours = Contender(
        "lazarus load",
        lambda run: [peers.LAZARUS, "--root", f"{scratch}/store-{run}", "load", "-q", "-i", str(image)],
        before=os.sync,
    )
    race(benchmark, ours, contenders, rounds=4)  # 4 GB each, and the first one warms up


def _as_many_bytes(image: Path, scratch: Path) -> Callable[[int], list[str]]:
    """A command that writes as many bytes as a store takes for the image, past the page cache, and syncs them."""
    with lazarus.Store(scratch / "measured") as store:
        store.images.load(image)
    count = _allocated(scratch / "measured") >> 20
    write = ["dd", "if=/dev/zero", "bs=1M", f"count={count}", "oflag=direct", "conv=fsync", "status=none"]
    return lambda _: [*write, f"of={scratch}/dd"]


def _containerd(image: Path, scratch: Path) -> Contender:
    """`ctr image import` into one containerd, whose content is dropped before each run: it has no second root to
    offer. It does most of the work, and its CPU and memory are not the command's."""
    ctr: list[str] = []

    def forget() -> None:
        peers.forget_all_images(ctr)
        os.sync()

    return Contender(
        "ctr image import",
        lambda _: [*ctr, "image", "import", str(image)],
        prepare=lambda: ctr.extend(peers.containerd(scratch)),
        before=forget,
        is_client=True,
    )


def test_second_image_on_the_same_base(benchmark: Any, image: Path, scratch: Path) -> None:
    """What a store grows by when an image comes that shares its base, and when the same files come in other layers."""
    with lazarus.Store(scratch / "store") as store:
        store.images.load(image)
        before = _allocated(scratch / "store")
        more = with_one_more_layer(image, scratch / "more.tar", b"x" * 100_000)
        benchmark.pedantic(lambda: store.images.load(more), rounds=1, iterations=1)
        shared_base = _allocated(scratch / "store") - before
        before = _allocated(scratch / "store")
        store.images.load(flattened(image, scratch / "flat.tar"), keep_blobs=False)
        same_files = _allocated(scratch / "store") - before
    record(benchmark, "lazarus", "disk", "B", [shared_base], case="one 100 kB layer more")
    record(benchmark, "lazarus", "disk", "B", [same_files], case="the same files in one layer")
    print(f"\nadded by one 100 kB layer more: {shared_base} bytes; by the same files in one layer: {same_files} bytes")


def _allocated(directory: Path) -> int:
    os.sync()
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))
