"""The main job with real parts: a Debian base, apt-get in a container, commit, an edit of a large file, 100 containers.

Everything below is the public API; nothing here is special to the demo. usage: main_job.py DIRECTORY
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import lazarus
from lazarus.errors import LazarusError, one_line
from lazarus.images import Image
from lazarus.mounts import detach

CONTAINERS = 100
PACKAGES = "python3 postgresql"
INSTALL = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {PACKAGES} >/dev/null && apt-get clean"
LARGEST = "find / -xdev -type f -size +10M -printf '%s %p\\n' | sort -n | tail -1 | cut -d' ' -f2-"


def say(text: str) -> None:
    print(f"\033[1m==> {text}\033[0m" if sys.stdout.isatty() else f"==> {text}", flush=True)


def size(count: float) -> str:
    """1234567 -> "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def disk_used(*directories: str | Path) -> int:
    """Bytes allocated below directories, each inode once; other file systems mounted there are not entered."""
    command = ["du", "-sxB1", *map(str, directories)]
    lines = subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines()
    return sum(int(line.split()[0]) for line in lines)


def unmount_below(directory: Path) -> None:
    """Undoes every mount in a directory, the last one first."""
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in reversed(places):
        if place.startswith(f"{directory}/"):
            detach(place, lazy=True)


def put_aside(store: Path) -> None:
    """Makes way for a new store at once; the old one is deleted at the end, when nobody waits for it."""
    if store.exists():
        store.rename(store.with_name(f"old-{store.name}-{time.time_ns()}"))


def delete_old(home: Path) -> None:
    """Deletes what was put aside, by this run and by those that did not come to their end."""
    for old in home.glob("old-*"):
        unmount_below(old)
        shutil.rmtree(old, ignore_errors=True)


def debian_tar(home: Path) -> Path:
    """A Debian root file system as a tar, by debootstrap; fetched once and kept."""
    archive = home / "debian-base.tar"
    if archive.exists():
        return archive
    say("debootstrap: fetching a Debian root file system (once)")
    root = home / "rootfs"
    unmount_below(root)
    shutil.rmtree(root, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", "bookworm", str(root)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        unmount_below(root)  # it has mounted /proc there, and an interrupt leaves it no time to undo that
    if result.returncode != 0:
        sys.exit(f"demo: debootstrap failed: {' '.join((result.stdout[-300:] + result.stderr[-300:]).split())}")
    # this machine's resolver, apt proxy and certificates, so that apt works inside behind a mirror too
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for settings in Path("/etc/apt/apt.conf.d").glob("99*"):
        shutil.copy(settings, root / "etc/apt/apt.conf.d" / settings.name)
    if Path("/etc/ssl/certs").is_dir():
        shutil.copytree("/etc/ssl/certs", root / "etc/ssl/certs", dirs_exist_ok=True)
    partial = home / "partial.tar"
    subprocess.run(["tar", "--xattrs", "--numeric-owner", "-C", root, "-cf", partial, "."], check=True)
    partial.rename(archive)
    shutil.rmtree(root)
    return archive


def tar_digest(store: lazarus.Store, image: Image) -> str:
    """SHA-256 over the layers' tars as the store gives them back: the base is unchanged when this is."""
    digest = hashlib.sha256()
    for diff_id in image.diff_ids:
        with tempfile.TemporaryFile() as out:
            store.layers.get(diff_id).write_tar(out.fileno())
            out.seek(0)
            while piece := out.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def run_and_commit(
    store: lazarus.Store, image: Image, script: str, reference: str, network: str
) -> tuple[Image, float]:
    """Runs a shell script in a new container and commits what it changed; the image and the seconds of the commit."""
    container = store.containers.create(image, command=["sh", "-ec", script], network=network)
    try:
        code = container.start(attach=True)
        if code != 0:
            sys.exit(f"demo: the script for {reference} ended with exit code {code}")
        started = time.perf_counter()
        committed = container.commit(reference, message=script)
        return committed, time.perf_counter() - started
    finally:
        container.remove(force=True)


def hundred_containers(store: lazarus.Store, image: Image) -> tuple[int, float]:
    """Starts them all and measures the disk they use while they run. Bytes; median seconds of a start."""
    containers = []
    seconds = []
    try:
        for _ in range(CONTAINERS):
            container = store.containers.create(image, command=["sleep", "3600"], network="none")
            containers.append(container)
            started = time.perf_counter()
            container.start(attach=False)
            seconds.append(time.perf_counter() - started)
        running = sum(container.status == "running" for container in containers)
        if running != CONTAINERS:
            sys.exit(f"demo: {running} of {CONTAINERS} containers run")
        return disk_used(*(store.paths.container(container.id) for container in containers)), statistics.median(seconds)
    finally:
        for container in containers:
            container.remove(force=True)


def table(rows: list[tuple[str, str]], out: IO[str] = sys.stdout) -> None:
    width = max(len(name) for name, _ in rows)
    out.write("\n" + "".join(f"  {name:{width}}   {value}\n" for name, value in rows) + "\n")


def main_job(home: Path) -> None:
    """The whole story; needs root."""
    archive = debian_tar(home)
    unmount_below(home / "store")
    put_aside(home / "store")
    with lazarus.Store(home / "store") as store:
        say("import the root file system as base layer")
        started = time.perf_counter()
        with archive.open("rb") as source:
            base = store.images.import_(source, "debian:base")
        imported = time.perf_counter() - started
        before = tar_digest(store, base)

        say("a container in which apt-get install runs; commit")
        app, app_seconds = run_and_commit(store, base, INSTALL, "debian:app", "host")

        say("a second container edits a large file of the image; commit")
        edit = f"file=$({LARGEST}); printf lazarus | dd of=$file bs=1 seek=4096 conv=notrunc 2>/dev/null"
        edited, edited_seconds = run_and_commit(store, app, edit, "debian:edited", "none")

        say(f"{CONTAINERS} containers from the result")
        used, start = hundred_containers(store, edited)
        full = sum(layer.content_size for layer in edited.layers)

        added = [layer.tar_size for layer in edited.layers]
        unchanged = "yes" if tar_digest(store, store.images.get("debian:base")) == before else "NO"
        table(
            [
                ("base layer", f"{size(added[0])} (imported in {imported:.1f} s)"),
                ("commit 1 added: apt-get install", f"{size(added[1])} (in {app_seconds:.1f} s)"),
                ("commit 2 added: one large file edited", f"{size(added[2])} (in {edited_seconds:.1f} s)"),
                ("store on disk: all three images", size(disk_used(store.paths.root))),
                (f"{CONTAINERS} containers running, disk used", size(used)),
                (f"{CONTAINERS} full copies would use", size(full * CONTAINERS)),
                ("start of one container, median", f"{start * 1000:.0f} ms"),
                ("base layer unchanged", unchanged),
            ]
        )
        if unchanged != "yes":
            sys.exit("demo: the base layer changed")


def without_root(home: Path) -> None:
    """What an unprivileged user can do: import, save and load, with every byte checked."""
    print("not root: left out are debootstrap, containers and commits (they mount); what is left runs:")
    put_aside(home / "store")
    archive = home / "documents.tar"
    subprocess.run(["tar", "-C", "/usr/share", "-cf", archive, "doc"], check=False, stderr=subprocess.DEVNULL)
    with lazarus.Store(home / "store") as store:
        say("import a tar, save the image, load it into a second store")
        with archive.open("rb") as source:
            image = store.images.import_(source, "documents:latest")
        saved = home / "documents.oci.tar"
        saved.unlink(missing_ok=True)
        store.images.save(["documents:latest"], saved)
        put_aside(home / "second")
        with lazarus.Store(home / "second") as second:
            (loaded,) = second.images.load(saved)
        table(
            [
                ("layer", size(image.layers[0].tar_size)),
                ("entries", str(image.layers[0].entry_count)),
                ("same manifest digest", "yes" if loaded.digest == image.digest else "NO"),
            ]
        )


def main() -> None:
    home = Path(sys.argv[1] if len(sys.argv) > 1 else ".demo").resolve()
    home.mkdir(exist_ok=True)
    os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
    try:
        try:
            main_job(home) if os.geteuid() == 0 else without_root(home)
        finally:
            delete_old(home)
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; nothing is left running or mounted")
    except (LazarusError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"demo: {one_line(error)}")


if __name__ == "__main__":
    main()
