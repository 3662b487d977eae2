"""Images of Debian with a program and its data: built once, through Lazarus itself, and kept as OCI archives."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from small_rootfs import need_runtime

from benchmarks.images import rootfs
from lazarus.images import Image
from lazarus.runtime.bundle import Bind
from lazarus.store import Store

BASE = "debian:base"
CANNOT_FETCH = 75  # EX_TEMPFAIL
ENVIRONMENT = ("DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")

# What a package's scripts would start belongs to nobody in a container that only installs.
INSTALL = f"""
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
apt-get update -qq || exit {CANNOT_FETCH}
apt-get install -qq --no-install-recommends --download-only $PACKAGES >/dev/null || exit {CANNOT_FETCH}
apt-get install -qq --no-install-recommends $PACKAGES >/dev/null
apt-get clean; rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d
"""


class Recipe(NamedTuple):
    """Packages from Debian, wheels from PyPI (for its Python), then a shell script, which sees `files` of this host."""

    name: str
    packages: str = ""
    wheels: tuple[str, ...] = ()
    script: str = ""
    files: Mapping[str, Path] = {}

    @property
    def digest(self) -> str:
        """Another one for another recipe."""
        parts = [INSTALL, self.packages, *self.wheels, self.script]
        parts += [place + path.read_text() for place, path in self.files.items()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def load(store: Store, recipe: Recipe) -> Image:
    """The recipe's image in a store, under its name. Skips with the reason where it cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root: containers are mounted")
    need_runtime()
    home = rootfs.IMAGES / "lazarus-workloads"
    home.mkdir(exist_ok=True)
    archive = home / f"{recipe.name}-{recipe.digest}.oci.tar"
    if not archive.exists():
        for outdated in home.glob(f"{recipe.name}-*.oci.tar"):
            outdated.unlink()
        _build(recipe, archive)
    (image,) = store.images.load(archive)
    return image


def _build(recipe: Recipe, archive: Path) -> None:
    """Two layers, of Debian and of what a container has made of it."""
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    try:
        base = rootfs.debian_root(rootfs.IMAGES)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"no Debian root file system: {error}")
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        wheels = Path(scratch, "wheels")
        wheels.mkdir()
        _fetch(recipe.wheels, wheels)
        with Store(f"{scratch}/store") as store:
            store.images.import_(str(base), BASE)
            binds = [Bind(str(path), place, read_only=True) for place, path in recipe.files.items()]
            container = store.containers.create(
                BASE,
                command=["sh", "-ec", _script(recipe)],
                env=(*ENVIRONMENT, f"PACKAGES={recipe.packages}"),
                volumes=[*binds, Bind(str(wheels), "/wheels", read_only=True)],
                network="host",
            )
            with container, tempfile.TemporaryFile() as said:
                code = container.start(attach=True, stdout=said.fileno(), stderr=said.fileno())
                said.seek(0)
                text = said.read().decode(errors="replace")[-2000:]
                if code == CANNOT_FETCH:
                    pytest.skip(f"cannot fetch {recipe.packages} from Debian: {text}")
                assert code == 0, f"image {recipe.name}: {text}"
                container.commit(f"{recipe.name}:latest", changes=['CMD ["sh"]'], compression="none")
            store.images.save([f"{recipe.name}:latest"], archive)


def _script(recipe: Recipe) -> str:
    unpack = "for wheel in /wheels/*; do python3 -m zipfile -e $wheel /usr/lib/python3/dist-packages; done\n"
    return (INSTALL if recipe.packages else "") + (unpack if recipe.wheels else "") + recipe.script


def _fetch(wheels: tuple[str, ...], target: Path) -> None:
    """By this Python's pip, which knows where this machine fetches from; for the Python of bookworm."""
    if not wheels:
        return
    pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version=3.11"]
    done = subprocess.run([*pip, "-d", target, *wheels], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot fetch {' '.join(wheels)} from PyPI: {done.stderr.strip()[-300:]}")
