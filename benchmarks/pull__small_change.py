"""How many bytes cross the wire when a version is pulled of which 1 % of the files have changed?

The files are chosen at random, each turn others, out of all layers of a Debian image; each changes in the layer where
it is, as in an image that was built again. They get other content (that compresses as well), or 40 other bytes in the
middle. A client that has the first version pulls the second, through a line that counts what goes in both directions.
The whole is what the blobs of the second version come to, in the form that the client pulls.

Lazarus and podman pull the same layers, zstd:chunked, that Lazarus has pushed; podman with its partial pulls (of
overlay, `enable_partial_images`) and, as `ctr`, gzip layers as well. Those come whole whatever has changed, so they are
asked for once. Debian's podman 4.3 finds the table of contents by annotations of an older name, which a second manifest
has; it fetches no headers of the tar, and what it makes has neither owners nor times. The limit is the changed files
alone, each compressed by zlib.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import peers, registries
from benchmarks.harness.results import LIMIT, OURS, record, record_missing
from benchmarks.images.variants import with_an_edit, with_changed_files, with_other_bytes

PART = 0.01
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FORMS = {"chunked": "zstd:chunked", "gzip": "gzip"}  # by repository
OLDER = "-older"  # at the end of a tag: the manifest that podman 4.3 is to pull
ROUNDS = 3


@pytest.mark.parametrize(
    ("change", "what"),
    [(with_other_bytes, "other content"), (with_an_edit, "40 other bytes")],
    ids=["other content", "40 other bytes"],
)
def test_pull_of_a_small_change(
    benchmark: Any,
    image: Path,
    scratch: Path,
    quick: bool,
    change: Callable[[bytes, random.Random], bytes],
    what: str,
) -> None:
    if (why := registries.why_not()) is not None:
        pytest.skip(why)
    wire: defaultdict[str, list[float]] = defaultdict(list)
    share: defaultdict[str, list[float]] = defaultdict(list)
    missing: dict[str, str] = {}
    with registries.registry(scratch / "registry") as host, registries.counted(host) as line:
        work = _Work(scratch, image, host, line)
        ordinary = change is with_other_bytes

        def turn() -> None:
            nonlocal ordinary
            repositories = ["chunked", "gzip"] if ordinary else ["chunked"]
            ordinary = False
            changed = work.next_version(change, repositories)
            name = f"{LIMIT}the changed files"
            wire[name].append(changed)
            share[name].append(100 * changed / work.whole("chunked"))
            for name, (repository, pull) in work.contenders.items():
                if name in missing or repository not in repositories:
                    continue
                try:
                    counted = work.pulled(repository, pull)
                except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                    detail = getattr(error, "stderr", b"") or b""
                    missing[name] = f"{error} {detail.decode(errors='replace')[-200:]}".strip()
                    continue
                wire[name].append(counted)
                share[name].append(100 * counted / work.whole(repository))

        benchmark.pedantic(turn, rounds=1 if quick else ROUNDS, iterations=1)
    record_missing(benchmark, missing)
    if OURS in missing:
        raise RuntimeError(missing[OURS])
    case = f"1 % of the files, {what}"
    print(f"\n{case}")
    for name, values in wire.items():
        megabytes = record(benchmark, name, "on the wire", "B", values, case=case).median / 1e6
        found = record(benchmark, name, "of the whole", "%", share[name], case=case)
        print(f"  {name:30} {megabytes:8.2f} MB   {found.median:7.2f} % of the whole ± {found.spread:.2f}")
    for name, why in missing.items():
        print(f"  {name:30} missing: {why[-150:]}")


class _Work:
    """The first version in a registry, and in a store; and who pulls it. Each turn has a version of its own."""

    def __init__(self, scratch: Path, image: Path, host: str, line: registries.Line) -> None:
        self._scratch, self._image, self._host, self._line = scratch, image, host, line
        self._version = 1
        self._command = [peers.LAZARUS, "--root", str(scratch / "made")]
        self._run("load", "-q", "--drop-blobs", "-i", str(image))
        self._push("debian:app", FORMS)
        self._ctr: list[str] = []
        self._partial = peers.podman_in_parts(scratch)
        self.contenders: dict[str, tuple[str, Callable[[str, Path], None]]] = {
            OURS: ("chunked", self._lazarus),
            "podman, in parts": ("chunked", self._podman_in_parts),
            "podman, gzip": ("gzip", self._podman),
            "ctr, gzip": ("gzip", self._containerd),
        }

    def next_version(self, change: Callable[[bytes, random.Random], bytes], repositories: Iterable[str]) -> int:
        """Puts it into the registry; the bytes of the changed files."""
        self._version += 1
        layout = self._scratch / "layout"
        changed = with_changed_files(self._image, layout, PART, change, self._version)
        self._run("load", "-q", "-i", str(layout))
        shutil.rmtree(layout)
        self._push(f"bench:{self._version}", repositories)
        return changed

    def whole(self, repository: str) -> int:
        """Bytes of all blobs of this version, in the form that this repository has."""
        document = self._manifest(repository)
        manifest = json.loads(document)
        return len(document) + sum(blob["size"] for blob in (manifest["config"], *manifest["layers"]))

    def _manifest(self, repository: str) -> bytes:
        asked = urllib.request.Request(self._url(repository, f"{self._version}"), headers={"Accept": MANIFEST})
        with urllib.request.urlopen(asked) as answer:
            return bytes(answer.read())

    def _url(self, repository: str, tag: str) -> str:
        return f"http://{self._host}/v2/{repository}/manifests/{tag}"

    def _with_older_names(self) -> None:
        """The newest version once more, with the annotations that podman 4.3 knows."""
        document = self._manifest("chunked").replace(b"io.github.containers.", b"io.containers.")
        sent = urllib.request.Request(
            self._url("chunked", f"{self._version}{OLDER}"), document, {"Content-Type": MANIFEST}, method="PUT"
        )
        urllib.request.urlopen(sent).close()

    def pulled(self, repository: str, pull: Callable[[str, Path], None]) -> int:
        """Pulls the first version into an empty store, and then this one: its bytes on the wire."""
        store = self._scratch / f"store-{os.urandom(6).hex()}"
        try:
            pull(f"{self._line.host}/{repository}:1", store)
            before = self._line.count
            pull(f"{self._line.host}/{repository}:{self._version}", store)
            return self._line.count - before
        finally:
            peers.forget_podman(store)
            shutil.rmtree(store, ignore_errors=True)

    def _run(self, *words: str) -> None:
        subprocess.run([*self._command, *words], check=True, capture_output=True)

    def _push(self, name: str, repositories: Iterable[str]) -> None:
        for repository in repositories:
            words = ("push", "-q", "--compression-format", FORMS[repository], name)
            self._run(*words, f"{self._host}/{repository}:{self._version}")
        self._with_older_names()

    def _lazarus(self, reference: str, store: Path) -> None:
        subprocess.run([peers.LAZARUS, "--root", str(store), "pull", "-q", reference], check=True, capture_output=True)

    def _podman(self, reference: str, store: Path, **environment: str) -> None:
        command = [*peers.podman(store), "pull", "-q", "--tls-verify=false", reference]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})

    def _podman_in_parts(self, reference: str, store: Path) -> None:
        self._podman(reference + OLDER, store, **self._partial)

    def _containerd(self, reference: str, store: Path) -> None:
        """One for all turns; it is emptied where the others' store is a new one."""
        if not self._ctr:
            self._ctr = peers.containerd(self._scratch)
        if reference.endswith(":1"):
            peers.forget_all_images(self._ctr)
        subprocess.run([*self._ctr, "image", "pull", "--plain-http", reference], check=True, capture_output=True)
