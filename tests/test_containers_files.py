"""Files of a container from outside: cp in and out, export, mount. Nothing in it can lead them elsewhere."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_helpers import execute, logged, sh, start, until

from lazarus.containers import Container
from lazarus.errors import ConflictError, LazarusError, NotFoundError, UnsupportedError
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root


@pytest.fixture(params=["stopped", "running"])
def container(request: pytest.FixtureRequest, store: Store) -> Iterator[Container]:
    """Every rule holds for a container that runs and for one that does not."""
    script = "mkdir -p /dir/sub; echo a > /dir/a; echo b > /dir/sub/b; ln -s a /dir/l; chown bob /dir/a; echo up"
    container = sh(store, f"{script}; exec sleep 600" if request.param == "running" else script)
    if request.param == "running":
        container.start()
        until(lambda: logged(container))
    else:
        start(container)
    yield container
    assert os.path.ismount(container.rootfs) == (request.param == "running")


def look(container: Container, path: str) -> str:
    """A file's content, through cp."""
    out = io.BytesIO()
    fd = os.memfd_create("tar")
    with open(fd, "r+b") as file:
        container.copy_out(path, file)
        file.seek(0)
        out.write(file.read())
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        member = tar.next()
        assert member is not None
        content = tar.extractfile(member)
        return content.read().decode() if content is not None else ""


def test_a_file_in_and_out(container: Container, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from the host\n")
    os.chown(tmp_path / "f", 77, 78)
    container.copy_in(str(tmp_path / "f"), "/tmp")
    container.copy_in(str(tmp_path / "f"), "/tmp/g")
    container.copy_in(str(tmp_path / "f"), "/tmp/g")  # replaces it
    container.copy_in(str(tmp_path / "f"), "/tmp/kept", archive=True)
    for name in ("f", "g", "kept"):
        container.copy_out(f"/tmp/{name}", str(tmp_path / f"back-{name}"), archive=True)
        assert (tmp_path / f"back-{name}").read_text() == "from the host\n"
    owners = [(tmp_path / f"back-{name}").stat().st_uid for name in ("f", "g", "kept")]
    assert owners == [0, 0, 77]
    container.copy_out("/dir/a", str(tmp_path / "mine"))
    assert (tmp_path / "mine").stat().st_uid == 0
    assert b"/tmp/f" in [change.path for change in container.diff()]


def test_a_directory_in_and_out(container: Container, tmp_path: Path) -> None:
    container.copy_out("/dir", str(tmp_path / "new"))
    assert (tmp_path / "new/sub/b").read_text() == "b\n" and os.readlink(tmp_path / "new/l") == "a"
    (tmp_path / "old").mkdir()
    container.copy_out("/dir", str(tmp_path / "old"))
    container.copy_out("/dir/.", str(tmp_path / "old"))
    assert (tmp_path / "old/dir/a").read_text() == (tmp_path / "old/a").read_text() == "a\n"
    container.copy_in(f"{tmp_path}/old/.", "/into")
    container.copy_in(str(tmp_path / "old/dir"), "/into/")
    assert look(container, "/into/a") == look(container, "/into/dir/sub/b").replace("b", "a") == "a\n"


def test_what_does_not_fit(container: Container, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "d").mkdir()
    cases = [
        (str(tmp_path / "none"), "/tmp", NotFoundError),
        (str(tmp_path / "f"), "/none/f", NotFoundError),
        (str(tmp_path / "f"), "/none/", NotFoundError),
        (str(tmp_path / "f") + "/", "/tmp", LazarusError),
        (str(tmp_path / "d"), "/dir/a", ConflictError),
        (str(tmp_path / "f"), "/dir/a/x", NotFoundError),
    ]
    for source, target, kind in cases:
        with pytest.raises(kind):
            container.copy_in(source, target)
    for source, target in (("/none", "."), ("/dir/a/", "."), ("/dir", str(tmp_path / "f")), ("/dir/a", "/none/x")):
        with pytest.raises(LazarusError):
            container.copy_out(source, target)
    (tmp_path / "d/a").mkdir()
    with pytest.raises(ConflictError):  # a directory would replace the file /dir/a
        container.copy_in(f"{tmp_path}/d/.", "/dir")
    assert look(container, "/dir/a") == "a\n"


def test_sockets_and_pipes(container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as unix:
        monkeypatch.chdir(tmp_path)  # a short name
        unix.bind("s")
        with pytest.raises(UnsupportedError):
            container.copy_in("s", "/tmp")
    os.mkfifo(tmp_path / "p")
    container.copy_in(str(tmp_path / "p"), "/tmp")  # and nobody waits for a writer
    container.copy_out("/tmp/p", str(tmp_path / "q"))
    assert (tmp_path / "q").is_fifo()
    (tmp_path / "f").write_text("x")
    with pytest.raises(ConflictError, match=r"cp: .*:/tmp/p: a device, FIFO or socket is there"):
        container.copy_in(str(tmp_path / "f"), "/tmp/p")


def test_as_a_tar(container: Container, tmp_path: Path) -> None:
    with (tmp_path / "out.tar").open("wb") as out:
        container.copy_out("/dir", out)
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert {"dir", "dir/a", "dir/sub/b", "dir/l"} <= {name.rstrip("/") for name in tar.getnames()}
    with (tmp_path / "out.tar").open("rb") as file:
        container.copy_in(file, "/tmp")
    assert look(container, "/tmp/dir/sub/b") == "b\n"
    for path in ("/dir/a", "/none"):
        with (tmp_path / "out.tar").open("rb") as file, pytest.raises(NotFoundError):
            container.copy_in(file, path)


EVIL = (
    "ln -s /etc /evil; ln -s {out} /abs; ln -s ../../../../../../../../../{out} /up; ln -s loop /loop; ln -s / /root/r"
)


def test_links_in_the_container_stay_in_it(store: Store, tmp_path: Path) -> None:
    """Whatever a container makes of its paths, a copy into it touches nothing outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    (tmp_path / "victim").write_text("evil")
    script = EVIL.format(out=outside)
    container = sh(store, f"{script}; mkdir -p {outside}; ln -s {outside}/victim /file; echo up; exec sleep 600")
    container.start()
    until(lambda: logged(container))
    for target in ("/abs", "/up", "/abs/victim", "/up/../outside/victim", "/file", f"/root/r{outside}/victim"):
        container.copy_in(str(tmp_path / "victim"), target)
    assert (outside / "victim").read_text() == "safe" and os.listdir(outside) == ["victim"]
    with pytest.raises(LazarusError):
        container.copy_in(str(tmp_path / "victim"), "/loop/x")
    assert execute(container, "cat", f"{outside}/victim") == (0, "evil")
    container.copy_out("/evil/passwd", str(tmp_path / "passwd"))
    assert "bob" in (tmp_path / "passwd").read_text(), "the container's, not the host's"
    for magic in ("/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd", "/proc/self/fd/0"):
        try:
            container.copy_out(magic, str(tmp_path / "magic"))
        except LazarusError:
            continue
        assert "bob" in (tmp_path / "magic").read_text()


def test_links_that_come_out_do_not_lead_the_rest_astray(store: Store, tmp_path: Path) -> None:
    """A tree with a link and a file below it of the same name, over a tree that has such a link already."""
    (tmp_path / "target/dir").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "target/dir/sub").symlink_to(tmp_path / "victim")
    container = sh(store, "mkdir -p /dir/sub; echo x > /dir/sub/x")
    start(container)
    with pytest.raises((LazarusError, OSError)):
        container.copy_out("/dir", str(tmp_path / "target"))
    assert os.listdir(tmp_path / "victim") == []


def test_export(container: Container, tmp_path: Path) -> None:
    with (tmp_path / "all.tar").open("wb") as out:
        size = container.export(out)
    assert size == (tmp_path / "all.tar").stat().st_size
    with tarfile.open(tmp_path / "all.tar") as tar:
        members = {info.name.strip("/"): info for info in tar}
    assert {"bin/sh", "dir/sub/b", "data/link", "etc/passwd"} <= set(members)
    assert members["dir/a"].uid == 1000 and members["data/link"].linkname == "/data/file"
    assert not [name for name in members if name.startswith(("proc/", "sys/", "dev/"))]


def test_mount(store: Store) -> None:
    container = sh(store, "echo run > /from-run; cat /from-host")
    path = Path(container.mount())
    assert container.mount() == str(path) and (path / "data/file").read_text() == "from the image\n"
    assert container.diff() == [], "mount points are no changes"
    (path / "from-host").write_text("host\n")
    assert start(container) == (0, "host\n")
    assert (path / "from-run").read_text() == "run\n", "what was mounted before the start is so after the end"
    assert {change.path for change in container.diff()} == {b"/from-run", b"/from-host"}
    with (path / "from-run").open(), pytest.raises(ConflictError, match="in use"):
        container.unmount()
    container.unmount()
    container.unmount()
    assert not path.is_mount()
    container.mount()
    container.remove()
    assert not path.exists()


def test_mounting_while_it_runs(store: Store) -> None:
    container = sh(store, "exec sleep 600")
    container.start()
    assert Path(container.mount()).is_mount()
    with pytest.raises(ConflictError, match="running"):
        container.unmount()
    container.stop(timeout=0)
    assert not Path(container.rootfs).is_mount()
