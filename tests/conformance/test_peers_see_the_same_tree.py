"""The tree that podman sees in a committed image is the tree that Lazarus shows, compared entry by entry."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

import lazarus

CHANGES = """
rm /srv/app.txt
chmod 600 /etc/passwd
mv /usr/share/doc /usr/share/doc2
echo new > /etc/new
ln /etc/new /etc/new2
ln -s /etc/new /etc/link
mkdir -p /srv/deep/er && echo x > /srv/deep/er/file
rm -r /opt/gone && mkdir /opt/gone && echo again > /opt/gone/again
mkfifo /srv/pipe
truncate -s 1M /srv/hole && echo tail >> /srv/hole
"""


def base(root: Path) -> None:
    """A small root file system of this machine's own parts: a static busybox, and something of every kind.

    With the mount points that a container needs: in a mounted container those that the image lacks are there too.
    """
    busybox = shutil.which("busybox")
    assert busybox is not None
    for name in ("bin", "etc", "srv", "usr/share/doc/a/b", "opt/gone/with", "tmp", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    for name in ("hostname", "hosts"):
        (root / "etc" / name).touch()
    shutil.copy(busybox, root / "bin/busybox")
    for applet in ("sh", "rm", "chmod", "mv", "ln", "mkdir", "mkfifo", "truncate", "true"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "srv/app.txt").write_text("app\n")
    os.link(root / "srv/app.txt", root / "srv/app2.txt")
    (root / "usr/share/doc/a/b/readme").write_bytes(os.urandom(20_000))
    (root / "opt/gone/with/file").write_text("hidden")
    os.setxattr(root / "srv/app2.txt", "user.note", b"\x00\xff")
    os.chown(root / "srv", 33, 44)
    os.chown(root, 3, 4)
    root.chmod(0o711)
    os.utime(root / "etc/passwd", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that can be compared about a tree, by path; links as the sorted names of their group."""
    found: dict[str, tuple[Any, ...]] = {}
    groups: dict[tuple[int, int], list[str]] = {}
    paths = [root, *sorted(root.rglob("*"))]
    for path in paths:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            groups.setdefault((status.st_dev, status.st_ino), []).append(str(path.relative_to(root)))
    for path in paths:
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: object = None
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = str(path.readlink())
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        group = None if kind == stat.S_IFDIR else tuple(groups[status.st_dev, status.st_ino])
        found[str(path.relative_to(root))] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_rdev,
            content,
            xattrs,
            group,
        )
    return found


@pytest.mark.root
def test_podman_sees_the_tree_that_lazarus_shows(tmp_path: Path) -> None:
    for tool in ("podman", "skopeo", "crun", "busybox"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    root = tmp_path / "root"
    base(root)
    archive = tmp_path / "base.tar"
    subprocess.run(["tar", "--xattrs", "--format=pax", "-C", root, "-cf", archive, "."], check=True)
    saved = tmp_path / "out.tar"
    with lazarus.Store(tmp_path / "store") as store:
        image = store.images.import_(archive, "base:latest")
        container = store.containers.create(image, command=["sh", "-ec", CHANGES], network="none")
        assert container.start(attach=True) == 0
        mine = container.commit("base:mine")
        store.images.save(["base:mine"], saved)
        shown = store.containers.create(mine, command=["true"], network="none")
        ours = tree(Path(os.fsdecode(shown.mount())))
        shown.unmount()
        shown.remove()
        container.remove()
    inspected = subprocess.run(["skopeo", "inspect", f"oci-archive:{saved}"], check=True, capture_output=True)
    assert mine.digest.encode() in inspected.stdout
    with tempfile.TemporaryDirectory(prefix="lz-") as home:  # podman wants paths of less than 50 characters
        theirs = _podman_tree(home, saved)
    assert sorted(theirs) == sorted(ours)
    theirs.pop(".")  # podman gives every root directory mode 0555 and a time of its own, whatever the layers say
    mode, uid, gid, *_ = ours.pop(".")
    assert (mode, uid, gid) == ("0o40711", 3, 4)
    for path, expected in ours.items():
        assert theirs[path] == expected, path


def _podman_tree(home: str, archive: Path) -> dict[str, tuple[Any, ...]]:
    return podman_tree(home, "load", "-q", "-i", str(archive))[0]


def podman_tree(home: str, *words: str, **environment: str) -> tuple[dict[str, tuple[Any, ...]], str]:
    """The tree of the image that a podman command has brought into the store in `home`, and what it said of it on
    standard error."""
    podman = ["podman", "--root", f"{home}/p", "--runroot", f"{home}/p-run", "--tmpdir", f"{home}/p-tmp"]
    podman += ["--cgroup-manager=cgroupfs", "--storage-driver=overlay"]

    def run(*arguments: str) -> tuple[str, str]:
        done = subprocess.run(
            [*podman, *arguments], check=False, capture_output=True, text=True, env={**os.environ, **environment}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    said, errors = run(*words)
    try:
        return tree(Path(run("image", "mount", said.rpartition(": ")[2])[0])), errors
    finally:
        subprocess.run([*podman, "image", "umount", "-a"], check=False, capture_output=True)
        subprocess.run(["umount", f"{home}/p/overlay"], check=False, capture_output=True)
