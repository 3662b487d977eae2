"""`cat`, `ls`, `find`, `du` and `cp` on images and on containers that do not run: no mount, no privileges."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from cli_helpers import COMMAND, Command
from container_fixtures import small_root, small_tar, store
from container_helpers import IMAGE, sh, start
from store_helpers import add_image
from union_helpers import APP, BASE, BIG

from lazarus.store import Store

__all__ = ["small_root", "small_tar", "store"]


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A store with the image `union:1` of two layers."""
    with Store(tmp_path / "store") as made:
        add_image(made, BASE, APP)
        made.images.tag(made.images.list()[0], "union:1")
    return str(tmp_path / "store")


def answer(root: str, *words: str, code: int = 0) -> str:
    """Standard output of a command that says nothing on standard error."""
    done = Command(root)(*words)
    assert (done.code, done.err) == (code, "")
    return done.out


def complaint(root: str, *words: str) -> str:
    """The one line that a failing command says."""
    done = Command(root)(*words)
    assert done.code == 1 and done.err.count("\n") == 1
    return done.err.removeprefix("lazarus: ").rstrip("\n")


def test_ls(root: str) -> None:
    assert answer(root, "ls", "union:1:/etc") == "passwd\n"
    assert answer(root, "ls", "union:1").split() == sorted(
        ["away", "bin", "dangling", "etc", "fifo", "loop", "loop2", "null", "srv", "usr", "var"]
    )
    assert answer(root, "ls", "-d", "union:1:/bin") == "/bin\n"
    assert answer(root, "ls", "union:1:/bin") == "env\nenv2\n"
    lines = answer(root, "ls", "-l", "union:1:/usr/bin").splitlines()
    assert lines[0] == f"-rwsr-xr-x 2 0 0 {len(BIG)} 2023-11-14 22:13 env"
    assert answer(root, "ls", "-l", "union:1:/").splitlines()[7].split()[4:] == ["1,3", "2023-11-14", "22:13", "null"]
    assert "union:1:/usr/bin:\nenv\nenv2\n" in answer(root, "ls", "-R", "union:1:/usr")
    [row] = json.loads(answer(root, "ls", "--format", "json", "union:1:/srv"))
    assert (row["path"], row["kind"], row["mode"], row["size"], row["layer"]) == (
        "/srv/app",
        "file",
        "0644",
        2 * len(BIG),
        2,
    )


def test_cat(root: str) -> None:
    assert answer(root, "cat", "union:1:/etc/passwd", "union:1:/var/lib/new") == "root\nbob\nnew"


def test_find(root: str) -> None:
    assert answer(root, "find", "union:1:/var") == "/var\n/var/lib\n/var/lib/new\n"
    assert answer(root, "find", "union:1", "--name", "env*", "--type", "f") == "/usr/bin/env\n/usr/bin/env2\n"
    assert answer(root, "find", "union:1", "--layer", "2", "--type", "f,d").split() == [
        "/etc/passwd",
        "/srv",
        "/srv/app",
        "/var/lib",
        "/var/lib/new",
    ]
    assert answer(root, "find", "union:1", "--maxdepth", "0", "--print0") == "/\0"
    assert complaint(root, "find", "union:1", "--layer", "3") == "union:1: it has layers 1 to 2, not 3"
    wrong = Command(root)("find", "union:1", "--type", "f,q")
    assert wrong.code == 2 and "--type: 'q' is none of d, f, l, c, b, p, s" in wrong.err
    assert [
        row["target"] for row in json.loads(answer(root, "find", "union:1", "--type", "l", "--format", "json"))
    ] == [
        "../../../etc/passwd",
        "usr/bin",
        "/no/such",
        "loop2",
        "loop",
    ]


def test_du(root: str) -> None:
    kib = len(BIG) // 1024
    assert answer(root, "du", "union:1:/usr") == f"{kib}\tunion:1:/usr/bin\n{kib}\tunion:1:/usr\n"
    assert (
        answer(root, "du", "-s", "-b", "union:1") == f"{3 * len(BIG) + 9 + 3 + 43}\tunion:1:/\n"
    )  # 43: targets of symlinks
    assert answer(root, "du", "-b", "union:1:/etc/passwd") == "9\tunion:1:/etc/passwd\n"
    assert (
        answer(root, "du", "-a", "-b", "-d", "1", "union:1:/var/lib")
        == "3\tunion:1:/var/lib/new\n3\tunion:1:/var/lib\n"
    )


def test_mistakes(root: str) -> None:
    assert complaint(root, "ls", "union:1:/nosuch") == "union:1:/nosuch: No such file or directory"
    assert complaint(root, "cat", "union:1:/etc") == "union:1:/etc: Is a directory"
    assert complaint(root, "cat", "union:1:/loop") == "union:1:/loop: Too many levels of symbolic links"
    assert complaint(root, "find", "union:1:/nosuch") == "union:1:/nosuch: No such file or directory"
    assert complaint(root, "ls", "other:/etc") == "other: no such container or image"
    assert complaint(root, "cp", "/etc/hostname", "union:1:/etc").startswith("cp: union:1: an image does not change")
    assert complaint(root, "cp", "union:1:/nosuch", "/tmp") == "cp: /nosuch: No such file or directory"
    done = Command(root)("ls", "other:/etc", "union:1:/etc")
    assert (done.code, done.out) == (1, "union:1:/etc:\npasswd\n")


def test_cp_out_of_an_image(root: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    answer(root, "cp", "union:1:/usr/bin", str(out))
    assert (out / "bin/env").read_bytes() == BIG and (out / "bin/env2").samefile(out / "bin/env")
    answer(root, "cp", "union:1:/usr/bin/.", str(out))
    assert sorted(path.name for path in out.iterdir()) == ["bin", "env", "env2"]
    answer(root, "cp", "union:1:/bin", f"{out}/link")
    assert os.readlink(out / "link") == "usr/bin"
    answer(root, "cp", "union:1:/bin/", f"{out}/followed")
    assert sorted(os.listdir(out / "followed")) == ["env", "env2"]
    answer(root, "cp", "union:1:/srv/app", f"{out}/env")
    assert (out / "env").read_bytes() == BIG + BIG
    (tmp_path / "tar").write_bytes(Command(root)("cp", "union:1:/etc", "-").raw)
    with tarfile.open(tmp_path / "tar") as archive:
        assert archive.getnames() == ["etc", "etc/passwd"]


@pytest.mark.root
def test_cp_into_a_container_that_does_not_run(store: Store, tmp_path: Path) -> None:
    assert start(sh(store, "true", name="c1")) == (0, "")
    root = store.paths.root
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("from the host")
    (tree / "link").symlink_to("file")
    os.chown(tree / "file", 5, 6)
    store.close()
    mounts = Path("/proc/self/mountinfo").read_text()
    answer(root, "cp", str(tree), "c1:/etc/new")
    answer(root, "cp", "-a", str(tree), "c1:/etc")
    answer(root, "cp", f"{tree}/file", "c1:/etc/passwd")
    assert answer(root, "cat", "c1:/etc/new/link", "c1:/etc/passwd") == "from the host" * 2
    rows = json.loads(answer(root, "ls", "--format", "json", "c1:/etc/tree/file", "c1:/etc/new/file"))
    assert [(row["uid"], row["gid"]) for row in rows] == [(5, 6), (0, 0)]
    assert "A /etc/new/link\n" in answer(root, "diff", "c1")
    assert complaint(root, "cp", str(tree), "c1:/etc/passwd") == "cp: c1:/etc/passwd: a directory cannot replace a file"
    assert complaint(root, "cp", f"{tree}/file", "c1:/no/such/place").startswith("cp: c1:/no/such: No such file")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    answer(root, "cp", "c1:/etc/tree", str(tmp_path / "back"))
    assert (tmp_path / "back/file").read_text() == "from the host"


@pytest.mark.root
def test_a_symlink_of_a_container_leads_nowhere_else(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    start(sh(store, f"ln -s {outside} /escape; ln -s ../../../../../../../../etc /up", name="c1"))
    root = store.paths.root
    store.close()
    (tmp_path / "file").write_text("x")
    assert complaint(root, "cp", f"{tmp_path}/file", "c1:/escape/file").startswith("cp: c1:/escape: No such file")
    answer(root, "cp", f"{tmp_path}/file", "c1:/up/file")
    assert list(outside.iterdir()) == [] and not Path("/etc/file").exists()
    assert answer(root, "cat", "c1:/etc/file") == "x"


def test_without_privileges(root: str, tmp_path: Path) -> None:
    """Root without any capability is an ordinary user, one who can read this Python wherever it lies."""
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"] if os.geteuid() == 0 else []
    for words in (["cat", "union:1:/etc/passwd"], ["cp", "union:1:/usr", str(tmp_path)]):
        done = subprocess.run([*bare, *COMMAND, "--root", root, *words], check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "usr/bin/env").read_bytes() == BIG


def test_image_name_of_a_small_image(store: Store) -> None:
    """A name without a tag, and one with."""
    root = store.paths.root
    name = IMAGE.partition(":")[0]
    store.close()
    assert answer(root, "ls", "-d", f"{name}:/") == answer(root, "ls", "-d", name) == "/\n"
