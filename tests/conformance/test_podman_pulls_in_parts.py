"""podman can pull the layers that we write in parts, and the tree is the one that Lazarus shows.

podman 4.3 of Debian 12 knows zstd:chunked by older names of the annotations, which we do not write; it neither asks for
a tar-split nor compares diff IDs. What it makes of the table of contents shows in the tree. By the names that we write
it pulls layers whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conformance.test_peers_see_the_same_tree import base, podman_tree, tree
from registry_helpers import Registry, needs_registry, registry

import lazarus
from benchmarks.contenders.peers import podman_in_parts

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.mark.root
@needs_registry
def test_podman_can_pull_what_we_have_pushed(tmp_path: Path) -> None:
    for tool in ("podman", "busybox"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    root = tmp_path / "root"
    base(root)
    large = os.urandom(600_000)  # several chunks
    (root / "srv/large").write_bytes(large + bytes(400_000) + large[:100_000])
    (root / "srv/empty").touch()
    settings = podman_in_parts(tmp_path)
    with (
        lazarus.Store(tmp_path / "store") as store,
        registry(tmp_path) as where,
        tempfile.TemporaryDirectory(prefix="lz-") as home,  # podman wants paths of less than 50 characters
    ):

        def pull(name: str) -> tuple[dict[str, tuple[Any, ...]], int]:
            """The tree, and how many layers came in parts."""
            words = ("--log-level=debug", "pull", "-q", "--tls-verify=false", name)
            found, said = podman_tree(home, *words, **settings)
            found.pop(".")  # podman gives every root directory a mode and owner of its own
            return found, said.count("Retrieved partial blob")

        for version in ("1", "2"):
            archive = tmp_path / f"{version}.tar"
            subprocess.run(["tar", "--xattrs", "--format=pax", "-C", root, "-cf", archive, "."], check=True)
            name = f"{where.host}/parts:{version}"
            store.images.push(store.images.import_(archive, name), name, compression="zstd:chunked")
            ours = _tree(store, name)
            _with_older_names(where, version)
            theirs, in_parts = pull(f"{name}-older")
            assert in_parts == 1
            assert {path: _comparable(node) for path, node in theirs.items()} == {
                path: _comparable(node) for path, node in ours.items()
            }
            (root / "srv/app.txt").write_text("another\n")
            (root / "srv/large").write_bytes(large[:300_000] + b"inserted" + large[300_000:])
        assert theirs["srv/app2.txt"][5] == b"another\n"
        subprocess.run(["rm", "-r", f"{home}/p"], check=True)
        assert pull(name) == (ours, 0)


def _with_older_names(where: Registry, tag: str) -> None:
    """The same image under another tag, with the annotations that podman 4.3 knows."""
    url = f"{where.url}/v2/parts/manifests/{tag}"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": MANIFEST})) as answer:
        document = answer.read().replace(b"io.github.containers.zstd-chunked", b"io.containers.zstd-chunked")
    put = urllib.request.Request(f"{url}-older", document, {"Content-Type": MANIFEST}, method="PUT")
    urllib.request.urlopen(put).close()


def _comparable(node: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without owner and time, of which podman 4.3 sets neither, also of layers that it has pushed itself."""
    mode, _, _, _, *rest = node
    return (mode, *rest)


def _tree(store: lazarus.Store, name: str) -> dict[str, tuple[Any, ...]]:
    shown = store.containers.create(store.images.get(name), command=["true"], network="none")
    try:
        found = tree(Path(os.fsdecode(shown.mount())))
        found.pop(".")
        return found
    finally:
        shown.unmount()
        shown.remove()
