"""Volumes in containers: shared, kept, read-only, in part, in memory; and who may go when."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from container_helpers import IMAGE, execute, logged, remove_all, run, sh, start, until

from lazarus.containers import shown
from lazarus.errors import ConflictError, ContainerRuntimeError, NotFoundError
from lazarus.runtime.bundle import Bind, Tmpfs
from lazarus.store import Store
from lazarus.volumes.mounts import VolumeMount

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def no_volumes_left(store: Store) -> Iterator[None]:
    remove_all(store)
    yield
    remove_all(store)
    assert os.listdir(store.paths.volumes) == []


def names(store: Store) -> list[str]:
    return [volume.name for volume in store.volumes.list()]


def test_data_outlives_the_container(store: Store) -> None:
    assert run(store, "echo kept > /v/file", volumes=["db:/v"], auto_remove=True) == (0, "")
    assert names(store) == ["db"]
    assert Path(store.volumes.get("db").path, "file").read_text() == "kept\n"
    assert run(store, "cat /v/file", volumes=[VolumeMount("db", "/v")]) == (0, "kept\n")


def test_a_container_that_exists_keeps_its_volumes(store: Store) -> None:
    one = sh(store, ":", volumes=["db:/v", "db:/w"], name="first")
    two = sh(store, ":", volumes=["db:/v"], name="second")
    assert store.volumes.get("db").users == ("first", "second")
    with pytest.raises(ConflictError, match="first, second"):
        store.volumes.remove("db")
    assert store.volumes.prune(all=True).names == ()
    one.remove()
    with pytest.raises(ConflictError, match="container second;"):
        store.volumes.remove("db")
    two.rename("third")
    assert store.volumes.list(["dangling=true"]) == [] and store.volumes.get("db").users == ("third",)
    two.remove(volumes=True)
    assert names(store) == ["db"], "one with a name stays"
    store.volumes.remove("db")


def test_several_containers_write_one_file(store: Store) -> None:
    """The kernel's own coherence: appends of several containers do not overwrite one another."""
    script = "i=0; while [ $i -lt 200 ]; do echo $1 >> /v/log; i=$((i+1)); done"
    writers = [
        store.containers.create(IMAGE, command=["sh", "-c", script, "sh", str(n)], volumes=["db:/v"]) for n in range(3)
    ]
    for writer in writers:
        writer.start()
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = Path(store.volumes.get("db").path, "log").read_text().split()
    assert sorted(lines) == sorted(["0", "1", "2"] * 200)


def test_volumes_without_a_name(store: Store) -> None:
    container = sh(store, "echo x > /anon/x; echo y > /anon2/y", volumes=["/anon", VolumeMount(None, "/anon2")])
    assert len(names(store)) == 2 and all(volume.anonymous for volume in store.volumes.list())
    assert start(container)[0] == 0 and start(container)[0] == 0
    container.remove()
    assert len(names(store)) == 2, "without volumes=True they stay"
    kept = sh(store, ":", volumes=["/anon", f"{names(store)[0]}:/other"])
    kept.remove(volumes=True)
    assert len(names(store)) == 2, "one that was named goes with nobody"
    assert len(store.volumes.prune().names) == 2


def test_what_a_container_that_removes_itself_leaves(store: Store) -> None:
    other = sh(store, ":", volumes=["/anon"])
    (shared,) = names(store)
    run(store, "echo > /a/x", volumes=["/a", "named:/b", f"{shared}:/c"], auto_remove=True)
    assert names(store) == sorted([shared, "named"])
    background = sh(store, ":", volumes=["/a"], auto_remove=True)
    background.start()
    until(lambda: len(names(store)) == 2 and len(os.listdir(store.paths.volumes)) == 2)
    other.remove(volumes=True)
    assert names(store) == ["named"]


def test_volumes_of_the_image(store: Store, small_tar: Path) -> None:
    store.images.import_(str(small_tar), "vol:latest", changes=["VOLUME /state /data", 'CMD ["sh"]'])
    container = store.containers.create("vol", command=["sh", "-c", "echo x > /state/x"])
    assert len(names(store)) == 2 and start(container)[0] == 0
    assert container.diff() == []
    mine = store.containers.create("vol", volumes=["mine:/state", Tmpfs("/data")])
    assert [mount.name for mount in mine.settings.volumes] == ["mine"]
    container.remove(volumes=True)
    assert names(store) == ["mine"]


def test_nothing_is_left_of_a_container_that_could_not_be_made(store: Store) -> None:
    sh(store, ":", name="taken")
    with pytest.raises(ConflictError, match="taken"):
        sh(store, ":", name="taken", volumes=["new:/v", "/anon"])
    with pytest.raises(NotFoundError):
        store.containers.create("none", volumes=["new:/v"])
    assert names(store) == os.listdir(store.paths.volumes) == []


def test_read_only(store: Store) -> None:
    code, text = run(store, "echo x > /v/x || echo refused", volumes=["db:/v:ro"])
    assert code == 0 and "refused\n" in text
    assert run(store, "echo x > /v/x && echo ok", volumes=["db:/v"], read_only=True) == (0, "ok\n")


def test_outer_mounts_come_before_inner_ones(store: Store, tmp_path: Path) -> None:
    mounts = ["in:/a/b/c", VolumeMount("out", "/a"), Bind(str(tmp_path), "/a/b")]
    assert run(store, "echo 1 > /a/b/c/x; echo 2 > /a/b/x; echo 3 > /a/x", volumes=mounts) == (0, "")
    assert Path(store.volumes.get("in").path, "x").read_text() == "1\n"
    assert (tmp_path / "x").read_text() == "2\n"
    assert Path(store.volumes.get("out").path, "x").read_text() == "3\n"


def test_memory(store: Store) -> None:
    mounts = [Tmpfs("/t", 1 << 20, 0o700), Tmpfs("/u"), Tmpfs("/r", read_only=True)]
    script = "while read a b c d; do case $b in /t|/u|/r) echo $b $c $d;; esac; done < /proc/mounts; ls -ld /t /u"
    code, text = run(
        store, f"{script}; echo x > /t/x && echo ok; dd if=/dev/zero of=/t/big bs=1M count=2", volumes=mounts
    )
    assert "/t tmpfs rw,nosuid,nodev,noexec" in text and "size=1024k" in text and "ok\n" in text
    assert "/r tmpfs ro" in text and "drwx------" in text and "drwxrwxrwt" in text
    assert code != 0 and "No space" in text


def test_a_part_of_a_volume(store: Store) -> None:
    assert run(store, "mkdir -p /v/a/b; echo deep > /v/a/b/f; echo top > /v/f", volumes=["db:/v"])[0] == 0
    part = sh(store, "ls /v; cat /v/f; echo new > /v/new; echo up; exec sleep 600", volumes=["db:/v:subpath=a/b"])
    part.start()
    until(lambda: "up" in logged(part))
    assert logged(part) == "f\ndeep\nup\n"
    volume = store.volumes.get("db")
    assert os.listdir(f"{volume.directory}/mounts") == [] and volume.directory not in mounts()
    assert execute(part, "cat", "/v/new") == (0, "new\n")
    with pytest.raises(ContainerRuntimeError, match="none: No such file"):
        sh(store, ":", volumes=["db:/v:subpath=none"]).start()
    with pytest.raises(ContainerRuntimeError, match="Not a directory"):
        sh(store, ":", volumes=["db:/v:subpath=f"]).start()
    part.stop(timeout=0)
    assert start(sh(store, "ls /v", volumes=["db:/v:subpath=a/b,ro"])) == (0, "f\nnew\n")


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_a_part_cannot_lead_outside(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    up = "../" * 20
    script = f"ln -s {tmp_path} /v/abs; ln -s {up}{tmp_path} /v/up; ln -s / /v/root; mkdir /v/in; ln -s /in /v/inner"
    assert run(store, script, volumes=["db:/v"])[0] == 0
    for subpath in ("abs", "up"):
        with pytest.raises(ContainerRuntimeError, match="No such file"):
            sh(store, "cat /w/secret", volumes=[f"db:/w:subpath={subpath}"]).start()
    assert run(store, "ls /w", volumes=["db:/w:subpath=root"])[1].split() == ["abs", "in", "inner", "root", "up"]
    assert run(store, "echo x > /w/x", volumes=["db:/w:subpath=inner"])[0] == 0
    assert os.listdir(f"{store.volumes.get('db').path}/in") == ["x"]


def test_a_part_that_is_swapped_before_the_runtime_looks(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a container can do that uses the volume, at the worst moment: between our look and the runtime's."""
    (tmp_path / "f").write_text("of the host\n")
    assert run(store, "mkdir /v/part; echo mine > /v/part/f", volumes=["db:/v"])[0] == 0
    inside = store.volumes.get("db").path
    prepare = shown.prepare

    def swap(*arguments: Any) -> Any:
        found = prepare(*arguments)
        os.rename(f"{inside}/part", f"{inside}/moved")
        os.symlink(tmp_path, f"{inside}/part")
        return found

    monkeypatch.setattr(shown, "prepare", swap)
    assert run(store, "cat /w/f; echo > /w/made", volumes=["db:/w:subpath=part"]) == (0, "mine\n")
    assert os.listdir(tmp_path) == ["f"] and sorted(os.listdir(f"{inside}/moved")) == ["f", "made"]


def test_what_a_killed_start_left_mounted(store: Store) -> None:
    assert run(store, "mkdir /v/a", volumes=["db:/v"])[0] == 0
    container = sh(store, "echo x > /v/x", volumes=["db:/v:subpath=a"])
    directory = store.volumes.get("db").directory
    for _ in range(2):
        shown.prepare(store, container.id, container.settings)
        assert directory in mounts()
    assert start(container)[0] == 0 and directory not in mounts()
    shown.prepare(store, container.id, container.settings)
    container.remove()
    assert directory not in mounts()
    shown.prepare(store, "0" * 64, container.settings)  # of a container that is gone altogether
    for user in store.containers.list(all=True):
        user.remove()
    assert directory in mounts()
    store.volumes.remove("db")
    assert directory not in mounts()


def test_inspect(store: Store, tmp_path: Path) -> None:
    container = sh(store, ":", volumes=["db:/v:ro", f"{tmp_path}:/w", Tmpfs("/t", 4096, 0o700)])
    found = container.inspect()
    assert found["HostConfig"]["Binds"] == [f"{tmp_path}:/w", "db:/v:ro"]
    assert found["HostConfig"]["Tmpfs"] == {"/t": "size=4096,mode=700"}
    volume = next(mount for mount in found["Mounts"] if mount["Type"] == "volume")
    assert (volume["Name"], volume["Source"], volume["RW"]) == ("db", store.volumes.get("db").path, False)


def test_a_volume_that_has_lost_its_directory(store: Store) -> None:
    container = sh(store, ":", volumes=["db:/v"])
    os.rename(store.volumes.get("db").directory, f"{store.paths.trash}/gone")
    with pytest.raises(NotFoundError, match="db: its directory is gone"):
        container.start()
    os.rename(f"{store.paths.trash}/gone", store.volumes.get("db").directory)
    assert start(container)[0] == 0


def test_a_prune_does_what_its_dry_run_says(store: Store) -> None:
    store.prune()
    container = sh(store, "echo x > /anon/x; mkdir /anon/dir; echo > /anon/dir/y", volumes=["/anon", "db:/v"])
    other = sh(store, "exec sleep 600", volumes=["/anon"])
    start(container)
    other.start()
    planned = store.prune(containers=True, volumes=True, dry_run=True)
    assert planned.volumes == container.settings.anonymous and len(names(store)) == 3
    done = store.prune(containers=True, volumes=True)
    assert done == planned and done.bytes > 0
    assert names(store) == sorted(["db", *other.settings.anonymous])


def test_read_only_holds_from_the_beginning_and_for_what_is_mounted_in_it(store: Store, tmp_path: Path) -> None:
    """Nothing that lacks for a mount point or a working directory is made in it, and no mount in it is writable."""
    inner = tmp_path / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", str(inner)], check=True)
    try:
        code, said = run(store, "touch /h/inner/x; touch /h/x", volumes=[f"{tmp_path}:/h:ro"])
        assert code != 0 and said.count("Read-only file system") == 2
        for more in ({"workdir": "/h/made/by/it"}, {"volumes": [f"{tmp_path}:/h:ro", "db:/h/made"]}):
            with pytest.raises(ContainerRuntimeError):
                run(store, ":", **{"volumes": [f"{tmp_path}:/h:ro"], **more})
        assert os.listdir(tmp_path) == ["inner"] and os.listdir(inner) == []
    finally:
        subprocess.run(["umount", str(inner)], check=True)


def test_a_volume_of_another_containers_that_stays_is_synced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    first = sh(store, ":", volumes=["/v"], auto_remove=True)
    (name,) = names(store)
    monkeypatch.setattr("lazarus.content.pool_disk.fsync_directory", synced.append)
    sh(store, ":", volumes=[f"{name}:/v"])
    assert store.paths.volumes in synced
    first.remove(force=True)
    assert names(store) == [name]
