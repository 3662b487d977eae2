"""How long does it take to bring a real image into a store, and how much memory?

Contenders: `lazarus load`, `podman load`, `ctr image import`, `umoci unpack`, and `tar -xzf` of the layers, which
verifies nothing.
Every run starts with an empty store; what a run left dirty is written back before the next begins.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.race import Contender, race


def test_load_of_a_real_image(benchmark: Any, image: Path, scratch: Path) -> None:
    layout = peers.unpack_layout(image, scratch / "layout")
    blobs = peers.layer_blobs(layout)
    reference = peers.reference_of(layout)

    def fresh(*names: str) -> Any:
        def prepare() -> None:
            for name in names:
                shutil.rmtree(scratch / name, ignore_errors=True)
            os.sync()

        return prepare

    podman = peers.podman(scratch)
    contenders = [
        Contender(
            "podman load", [*podman, "load", "-q", "-i", str(image)], before=fresh("podman", "podman-run", "podman-tmp")
        ),
        Contender(
            "umoci unpack",
            ["umoci", "unpack", "--image", f"{layout}:{reference.replace(':', '-')}", str(scratch / "umoci")],
            before=fresh("umoci"),
        ),
        Contender(
            "tar -xzf of the layers",
            [
                "sh",
                "-ec",
                'mkdir "$0"; for blob; do tar -xzf "$blob" -C "$0"; done',
                str(scratch / "tar"),
                *map(str, blobs),
            ],
            before=fresh("tar"),
        ),
    ]
    # umoci looks an image up by a tag, in which a colon cannot be written
    index = layout / "index.json"
    index.write_text(index.read_text().replace(f'"{reference}"', f'"{reference.replace(":", "-")}"'))
    try:
        ctr = peers.containerd(scratch)

        def forget() -> None:
            import subprocess

            subprocess.run([*ctr, "images", "rm", "--sync", f"bench:{reference}"], capture_output=True, check=False)
            subprocess.run([*ctr, "images", "prune", "--all"], capture_output=True, check=False)
            os.sync()

        contenders.append(
            Contender("ctr image import", [*ctr, "image", "import", "--base-name", "bench", str(image)], before=forget)
        )
    except (RuntimeError, OSError):
        contenders.append(Contender("ctr image import", ["containerd"]))
    ours = Contender(
        "lazarus load",
        [peers.LAZARUS, "--root", str(scratch / "store"), "load", "-q", "-i", str(image)],
        before=fresh("store"),
    )
    race(benchmark, ours, contenders, rounds=5)


def test_second_image_on_the_same_base(benchmark: Any, image: Path, scratch: Path) -> None:
    """What a store grows by when an image comes that shares its base, and when the same files come in other layers."""
    import lazarus
    from benchmarks.variants import flattened, with_one_more_layer

    with lazarus.Store(scratch / "store") as store:
        store.images.load(image)
        before = _allocated(scratch / "store")
        more = with_one_more_layer(image, scratch / "more.tar", b"x" * 100_000)
        benchmark.pedantic(lambda: store.images.load(more), rounds=1, iterations=1)
        shared_base = _allocated(scratch / "store") - before
        before = _allocated(scratch / "store")
        store.images.load(flattened(image, scratch / "flat.tar"), keep_blobs=False)
        same_files = _allocated(scratch / "store") - before
    benchmark.extra_info.update({"added_by_shared_base": shared_base, "added_by_same_files_in_one_layer": same_files})
    print(f"\nadded by one 100 kB layer more: {shared_base} bytes; by the same files in one layer: {same_files} bytes")


def _allocated(directory: Path) -> int:
    os.sync()
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))
