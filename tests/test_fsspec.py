"""The fsspec file system: fsspec's own abstract suites on a stack, and what they do not ask."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import SameFileError

import fsspec
import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)
from store_helpers import add_image
from union_helpers import BIG, tar

import lazarus
from lazarus.errors import NotFoundError
from lazarus.fsspec import LayerFileSystem
from lazarus.store import Store


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[lazarus.LayerStack]:
    """Over a directory that has something already, so that the suites copy up."""
    (tmp_path / "lower" / "suite").mkdir(parents=True)
    (tmp_path / "upper").mkdir()
    with lazarus.LayerStack([tmp_path / "lower"], upper=tmp_path / "upper") as made:
        yield made


class Fixtures(AbstractFixtures):
    @pytest.fixture
    def fs(self, stack: lazarus.LayerStack) -> LayerFileSystem:
        return LayerFileSystem(stack=stack, auto_mkdir=True)

    @pytest.fixture
    def fs_path(self) -> str:
        return "/suite"


class TestCopy(AbstractCopyTests, Fixtures):
    pass


class TestGet(AbstractGetTests, Fixtures):
    pass


class TestPut(AbstractPutTests, Fixtures):
    pass


class TestOpen(AbstractOpenTests, Fixtures):
    pass


class TestPipe(AbstractPipeTests, Fixtures):
    pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with the image `team/app:1`."""
    place = tmp_path / "store"
    with Store(place) as store:
        add_image(
            store,
            tar(
                ("d", "etc"),
                ("f", "etc/hosts", b"one"),
                ("f", "big", BIG),
                ("l", "link", "etc/hosts"),
                ("l", "l2", "l2"),
            ),
            tar(("f", "etc/more", b"two"), ("h", "etc/again", "etc/more")),
        )
        store.images.tag(store.images.list()[0], "team/app:1")
    return place


def test_an_image_by_url(root: Path) -> None:
    url = "lazarus://team%2Fapp:1/etc/hosts"
    with fsspec.open(url, root=root) as file:
        assert file.read() == b"one"
    fs, path = fsspec.core.url_to_fs(url, root=root)
    assert (fs.target, path) == ("team/app:1", "/etc/hosts")
    assert fs.unstrip_protocol(path) == url
    assert fs.cat_ranges(["/big"] * 2, [0, 100], [4, 104]) == [BIG[:4], BIG[100:104]]
    fs.close()


def test_what_is_known_of_a_name(root: Path) -> None:
    fs = LayerFileSystem("team/app:1", root)
    assert fs.ls("/etc", detail=False) == ["/etc/again", "/etc/hosts", "/etc/more"]
    assert fs.ls("lazarus://team%2Fapp:1/etc/hosts", detail=False) == ["/etc/hosts"]
    more = fs.info("/etc/more")
    assert (more["type"], more["size"], more["layer"], more["nlink"]) == ("file", 3, 1, 2)
    assert more["ino"] == fs.info("/etc/again")["ino"] != fs.info("/etc/hosts")["ino"]
    assert fs.info("/etc/hosts")["sha256"] == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    link = fs.info("/link")
    assert (link["type"], link["size"], link["islink"], link["destination"]) == ("file", 3, True, "etc/hosts")
    assert fs.info("/l2")["type"] == "link" and not fs.exists("/nosuch") and fs.lexists("/l2")
    assert sorted(fs.find("/")) == ["/big", "/etc/again", "/etc/hosts", "/etc/more", "/l2", "/link"]
    assert fs.glob("/etc/*o*") == ["/etc/hosts", "/etc/more"]
    assert fs.du("/etc") == 9 and fs.modified("/big").year == 2023
    fs.close()


def test_an_image_does_not_change(root: Path) -> None:
    fs = LayerFileSystem("team/app:1", root)
    for change in (
        lambda: fs.pipe_file("/new", b""),
        lambda: fs.rm("/big"),
        lambda: fs.mkdir("/new"),
        lambda: fs.mv("/big", "/small"),
        lambda: fs.touch("/big", truncate=False),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()
    assert fs.cat_file("/big") == BIG
    fs.close()


def test_names_that_are_not_there(root: Path) -> None:
    with pytest.raises(NotFoundError, match="other: no such container or image"):
        LayerFileSystem("other", root)
    with pytest.raises(ValueError, match="one of target"):
        LayerFileSystem(root=root)
    fs = LayerFileSystem("team/app:1", root)
    for missing in (fs.info, fs.ls, fs.cat_file, fs.rm):
        with pytest.raises(FileNotFoundError):
            missing("/nosuch")
    fs.close()


def test_trees_are_moved_removed_and_linked(stack: lazarus.LayerStack) -> None:
    fs = LayerFileSystem(stack=stack)
    fs.makedirs("/a/b/c")
    fs.pipe_file("/a/b/c/file", BIG)
    fs.symlink("nowhere", "/a/b/gone")
    fs.mv("/a/b", "/b")
    assert fs.cat_file("/b/c/file") == BIG
    fs.cp_file("/b/c/file", "/copy")
    fs.link("/copy", "/copy2")
    fs.chmod("/copy", 0o600)
    assert fs.info("/copy2")["mode"] == 0o100600 and fs.info("/copy2")["nlink"] == 2
    with pytest.raises(OSError, match="not empty"):
        fs.rm("/b")
    fs.rm("/b", recursive=True)
    assert fs.ls("/", detail=False) == ["/a", "/copy", "/copy2", "/suite"]
    with pytest.raises(FileExistsError):
        fs.mkdir("/a")


def test_a_transaction_is_seen_whole_or_not_at_all(stack: lazarus.LayerStack) -> None:
    fs = LayerFileSystem(stack=stack)
    fs.pipe_file("/one", b"old")
    with fs.transaction:
        with fs.open("/one", "wb") as file:
            file.write(b"new")
        assert fs.cat_file("/one") == b"old"
    assert fs.cat_file("/one") == b"new"
    with pytest.raises(RuntimeError), fs.transaction:
        with fs.open("/one", "wb") as file:
            file.write(b"newer")
        raise RuntimeError
    assert fs.cat_file("/one") == b"new" and fs.ls("/", detail=False) == ["/one", "/suite"]


def test_a_file_copied_onto_itself_stays(stack: lazarus.LayerStack) -> None:
    fs = LayerFileSystem(stack=stack)
    fs.pipe_file("/a", b"precious")
    stack.symlink("a", "/l")
    stack.link("/a", "/h")
    for source, target in (("/a", "/a"), ("/a", "/"), ("/l", "/a"), ("/a", "/l"), ("/a", "/h")):
        with pytest.raises(SameFileError):
            fs.cp(source, target)
        assert fs.cat_file("/a") == b"precious"


def test_a_transaction_leaves_owner_and_mode(stack: lazarus.LayerStack) -> None:
    fs = LayerFileSystem(stack=stack)
    fs.pipe_file("/one", b"old")
    if os.geteuid() == 0:
        stack.chown("/one", 5, 6)
    stack.chmod("/one", 0o600)
    before = fs.info("/one")
    with fs.transaction, fs.open("/one", "wb") as file:
        file.write(b"new")
    after = fs.info("/one")
    assert fs.cat_file("/one") == b"new"
    assert [after[key] for key in ("mode", "uid", "gid")] == [before[key] for key in ("mode", "uid", "gid")]


@pytest.mark.root
def test_threads_that_read_while_it_is_opened_for_writing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar(("d", "etc"), ("f", "etc/hosts", b"one")))
    with Store(root) as store:
        store.images.import_(str(tmp_path / "root.tar"), "made:1")
        store.containers.create("made:1", command=["true"], name="c1")
    fs = LayerFileSystem("c1", root)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(200):
                assert fs.cat_file("/etc/hosts") == b"one"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    fs.pipe_file("/new", b"new")
    for thread in threads:
        thread.join()
    assert failures == [] and fs.cat_file("/new") == b"new"
    fs.close()


def test_it_is_found_by_its_name_and_imports_nothing_early() -> None:
    assert fsspec.get_filesystem_class("lazarus") is LayerFileSystem
    code = "import sys, lazarus; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
