"""Volumes with a limit: what they hold stops there, whoever writes it; all verbs work; nothing stays mounted."""

from __future__ import annotations

import fcntl
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Command
from container_helpers import execute, logged, remove_all, run, sh, start, until
from pool_helpers import devices

from lazarus.containers.containers import Containers
from lazarus.content import limited
from lazarus.errors import ConflictError, ContainerRuntimeError, FormatError, LimitError, NotFoundError, StoreError
from lazarus.store import Store
from lazarus.volumes.making import NewVolumes
from lazarus.volumes.mounts import VolumeMount
from lazarus.volumes.trees import reached
from lazarus.volumes.volume import Volume

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
SIZE = 300 << 20
SAID = f"volume small: No space left on device: its limit is {SIZE} bytes"


@pytest.fixture(autouse=True)
def nothing_left(store: Store) -> Iterator[None]:
    remove_all(store)
    yield
    until(lambda: devices(f"{store.paths.root}/volumes") == [] or store.containers.list())
    remove_all(store)
    assert os.listdir(store.paths.volumes) == os.listdir(store.paths.snapshots) == []
    until(lambda: devices(store.paths.root) == [])


def put(volume: Volume, name: str, text: str) -> None:
    with volume.opened() as path:
        Path(path, name).write_text(text)


def files(volume: Volume) -> dict[str, str]:
    with volume.opened() as path:
        return {name: Path(path, name).read_text() for name in sorted(os.listdir(path))}


def fill(volume: Volume) -> None:
    """Not a byte more goes in."""
    with volume.opened() as path, open(f"{path}/ballast", "wb", buffering=0) as ballast:
        for size in (1 << 20, 4096):
            try:
                while True:
                    ballast.write(os.urandom(size))
            except OSError as error:
                assert "No space left" in str(error)
        os.fsync(ballast.fileno())


def test_the_limit_holds_and_harms_nobody(store: Store) -> None:
    small = store.volumes.create("small", size=SIZE)
    assert small.fresh and small.limit == SIZE and files(small) == {}
    code, said = run(
        store, "dd if=/dev/zero of=/v/big bs=1M count=400 2>&1; echo after", volumes=["small:/v", "other:/w"]
    )
    assert "No space left" in said and said.endswith("after\n") and code == 0
    assert devices(store.paths.root) == []
    assert 200 << 20 < store.volumes.size("small") < SIZE + (1 << 20)
    script = "rm /v/big; dd if=/dev/zero of=/w/big bs=1M count=320 2>&1 && echo more > /v/file"
    assert run(store, script, volumes=["small:/v", "other:/w"])[0] == 0
    assert files(small) == {"file": "more\n"}


def test_it_is_shown(store: Store) -> None:
    small = store.volumes.create("small", size=SIZE + 17)
    found = small.inspect()
    assert found["Options"] == {"size": str(SIZE)} and found["Mountpoint"] == ""
    usage = found["UsageData"]
    assert usage["Limit"] == SIZE and usage["Free"] > 200 << 20 > usage["Size"]
    put(small, "file", "x" * (10 << 20))
    assert small.inspect()["UsageData"]["Free"] <= usage["Free"] - (10 << 20)
    other = store.volumes.create("other")
    assert other.inspect()["Options"] == {} and "UsageData" not in other.inspect() and other.limit is None
    container = sh(store, ":", volumes=["small:/v"])
    assert container.inspect()["Mounts"][0]["Source"] == ""


def test_two_containers_at_once(store: Store) -> None:
    small = store.volumes.create("small", size=SIZE)
    one, two = (sh(store, "touch /v/$0; sleep 60", volumes=["small:/v"]) for _ in range(2))
    one.start()
    two.start()
    assert execute(one, "sh", "-c", "echo one > /v/file") == (0, "")
    assert execute(two, "cat", "/v/file") == (0, "one\n")
    assert execute(two, "sh", "-c", "echo two >> /v/file") == (0, "")
    assert files(small)["file"] == "one\ntwo\n"
    small.snapshot("a")
    assert len(devices(store.paths.root)) == 1, "one image, one device"
    assert str(store.paths.volumes) not in Path("/proc/self/mountinfo").read_text()
    one.remove(force=True)
    assert execute(two, "cat", "/v/file") == (0, "one\ntwo\n")
    with pytest.raises(ConflictError, match="runs on it"):
        small.rollback("a")
    two.kill()
    two.wait()
    until(lambda: devices(store.paths.root) == [])
    small.rollback("a")
    assert start(sh(store, "cat /v/file", volumes=["small:/v"])) == (0, "one\ntwo\n")


def test_many_at_once(store: Store) -> None:
    """Processes that come and go: the last one ends the mount, the next one begins it, and they never meet badly."""
    small = store.volumes.create("small", size=SIZE)
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            try:
                for turn in range(15):
                    with small.opened() as path, open(f"{path}/{number}", "a") as file:
                        file.write(f"{turn}\n")
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    text = "".join(f"{turn}\n" for turn in range(15))
    assert files(small) == {str(number): text for number in range(4)}


def test_it_is_populated(store: Store) -> None:
    mount = VolumeMount("small", "/data", size=SIZE)
    assert run(store, "cat /data/file; ls -ld /data", volumes=[mount])[1].startswith("from the image\ndrwx")
    small = store.volumes.get("small")
    assert not small.fresh and small.limit == SIZE
    with small.opened() as path:
        assert sorted(os.listdir(path)) == ["file", "link"]
        assert os.listdir(f"{path}/../staging") == []
    assert run(store, "ls /data", volumes=[VolumeMount("empty", "/data", nocopy=True, size=SIZE)]) == (0, "")
    again = [VolumeMount("small", "/data")]
    assert run(store, "echo more >> /data/file; cat /data/file", volumes=again) == (0, "from the image\nmore\n")


def test_parts_and_read_only(store: Store) -> None:
    small = store.volumes.create("small", size=SIZE)
    with small.opened() as path:
        os.makedirs(f"{path}/deep/er")
        Path(path, "deep/er/file").write_text("deep\n")
        os.symlink("/etc", f"{path}/out")
    part = VolumeMount("small", "/v", subpath="deep/er")
    assert run(store, "cat /v/file; echo more > /v/more", volumes=[part]) == (0, "deep\n")
    assert run(store, "cat /v/deep/er/more; touch /v/x", volumes=["small:/v:ro"])[1].startswith("more\n")
    with pytest.raises(ContainerRuntimeError, match="volume small: nothing: No such file"):
        run(store, ":", volumes=["small:/v:subpath=nothing"])
    assert "/etc" not in run(store, "ls /v", volumes=[VolumeMount("small", "/v", subpath="deep")])[1]
    assert os.listdir(f"{small.directory}/mounts") == []
    with small.opened() as path:
        assert sorted(os.listdir(path)) == ["deep", "out"]


def test_without_a_name(store: Store) -> None:
    container = sh(store, "echo x > /v/x", volumes=[VolumeMount(None, "/v", size=SIZE)])
    assert start(container) == (0, "")
    (volume,) = store.volumes.list()
    assert volume.anonymous and volume.limit == SIZE and files(volume) == {"x": "x\n"}
    (fork,) = container.fork()
    assert {found.limit for found in store.volumes.list()} == {SIZE} and len(store.volumes.list()) == 2
    fork.remove(volumes=True)
    container.remove(volumes=True)
    assert store.volumes.list() == []
    assert run(store, "echo x > /v/x", volumes=[VolumeMount(None, "/v", size=SIZE)], auto_remove=True) == (0, "")
    assert store.volumes.list() == []


def test_what_it_was(store: Store) -> None:
    small = store.volumes.create("small", {"a": "1"}, size=SIZE)
    put(small, "file", "old")
    put(small, "big", "x" * (60 << 20))
    first = small.snapshot("a")
    assert first.cost.copied == 0 and first.cost.shared >= 60 << 20, "clones, whatever the host's file system is"
    assert first.inspect()["Mountpoint"] == "" and os.listdir(first.directory) == []
    put(small, "file", "new!")
    put(small, "more", "new!")
    assert {(change.change, change.path) for change in small.diff("a")} == {
        ("C", b"/"),
        ("C", b"/file"),
        ("A", b"/more"),
    }
    small.snapshot("b")
    assert [(change.change, change.path) for change in small.diff("b")] == []
    assert {change.path for change in small.diff("a", "b")} == {b"/", b"/file", b"/more"}
    cost = small.rollback("a", keep="c")
    assert cost.copied == 0 and sorted(files(small)) == ["big", "file"] and files(small)["file"] == "old"
    clone = small.clone("clone")
    assert clone.volume.limit == SIZE and clone.volume.labels == {"a": "1"} and files(clone.volume) == files(small)
    of_c = small.clone("of-c", snapshot="c").volume
    assert sorted(files(of_c)) == ["big", "file", "more"]
    with pytest.raises(ConflictError, match="there is one already"):
        small.snapshot("a")
    small.get_snapshot("a").remove()
    with small.opened() as path:
        assert sorted(os.listdir(f"{path}/../snapshots")) == ["b", "c"] and os.listdir(f"{path}/../staging") == []
    with pytest.raises(NotFoundError):
        small.rollback("a")
    small.rollback("b")
    assert files(small)["more"] == "new!"
    store.volumes.remove("small")
    assert files(clone.volume)["file"] == "old"


def test_snapshots_count(store: Store) -> None:
    small = store.volumes.create("small", size=SIZE)
    put(small, "big", "x" * (120 << 20))
    small.snapshot("a")
    free = small.inspect()["UsageData"]["Free"]
    assert free > 80 << 20, "the same bytes twice take no room"
    small.copy_in(os.path.devnull, "/none")
    with pytest.raises(OSError, match="No space left"):
        put(small, "big", "y" * (160 << 20))
    small.get_snapshot("a").remove()
    put(small, "big", "y" * (160 << 20))


def test_files_come_and_go(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("from the host\n")
    small = store.volumes.create("small", size=SIZE)
    small.copy_in(str(tmp_path / "tree"), "/")
    small.copy_out("/tree/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "from the host\n"
    with open(tmp_path / "tar", "wb") as tar:
        small.export(tar)
    two = store.volumes.create("two", size=SIZE)
    with open(tmp_path / "tar", "rb") as tar:
        two.import_(tar)
    small.snapshot("a")
    small.push(f"oci:{tmp_path}/layout:now")
    small.push(f"oci:{tmp_path}/layout:then", snapshot="a")
    three = store.volumes.pull(f"oci:{tmp_path}/layout:then", "three", size=SIZE).volume
    four = store.volumes.pull(f"oci:{tmp_path}/layout:now", "four").volume
    assert (three.limit, four.limit) == (SIZE, None)
    for volume in (two, three, four):
        with volume.opened() as path:
            assert Path(path, "tree/file").read_text() == "from the host\n"
    assert store.volumes.prune(all=True, dry_run=True).bytes > 4096
    assert store.volumes.prune(all=True).names == ("four", "small", "three", "two")


def test_what_is_said_at_the_limit(store: Store, tmp_path: Path) -> None:
    small = store.volumes.create("small", size=SIZE)
    put(small, "kept", "kept")
    small.snapshot("a")
    fill(small)
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    with tarfile.open(tmp_path / "tar", "w") as tar:
        tar.add(tmp_path / "file", "file")
    command = Command(store.paths.root)
    assert command("volume", "cp", f"{tmp_path}/file", "small:/new").err == f"lazarus: {SAID}\n"
    assert command("volume", "import", "small", f"{tmp_path}/tar").err == f"lazarus: {SAID}\n"
    big = store.volumes.create("big")
    Path(big.path, "big").write_bytes(os.urandom(SIZE))
    big.push(f"oci:{tmp_path}/layout:big")
    done = command("volume", "pull", "-q", f"oci:{tmp_path}/layout:big", "two", "-o", "size=300M")
    assert done.err == f"lazarus: {SAID.replace('small', 'two')}\n" and store.volumes.find("two") is None
    Path(big.path, "more").write_text("others go on")
    small.copy_out("/kept", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "kept"
    with small.opened() as path:
        os.unlink(f"{path}/ballast")
    small.rollback("a")
    assert files(small) == {"kept": "kept"}
    said = command("volume", "clone", "small", "other").err
    assert said == "1 entry: 0B shared, 4B copied\n", "and nothing of a pool, in which it would be a copy as well"


def test_a_snapshot_that_does_not_fit(store: Store) -> None:
    small = store.volumes.create("small", size=SIZE)
    put(small, "kept", "kept")
    small.snapshot("a")
    with small.opened() as path:
        for number in range(3000):
            os.mkdir(f"{path}/{number}")
    fill(small)
    acts: list[Callable[[], object]] = [small.snapshot, lambda: small.rollback("a", keep="b"), lambda: small.clone("c")]
    for act in acts:
        with pytest.raises(OSError, match=f"its limit is {SIZE} bytes: 'volume small'"):
            act()
        assert [found.name for found in small.snapshots] == ["a"] and store.volumes.find("c") is None
        with small.opened() as path:
            assert (
                len(os.listdir(path)) == 3002
                and "reserve" in os.listdir(f"{path}/..")
                and os.listdir(f"{path}/../staging") == []
            )
    assert small.rollback("a").entries == 1, "some room is kept for that"
    assert files(small) == {"kept": "kept"}


def test_an_image_that_does_not_fit(store: Store) -> None:
    container = sh(store, "dd if=/dev/zero of=/data/big bs=1M count=250 2>/dev/null")
    assert start(container)[0] == 0
    container.commit("big:1")
    users = [VolumeMount("small", "/data", size=SIZE)]
    user = store.containers.create("big:1", command=["true"], volumes=users)
    with pytest.raises(OSError, match="its limit is 314572800 bytes"):
        user.start(attach=True)
    small = store.volumes.get("small")
    assert small.fresh and files(small) == {}
    with small.opened() as path:
        assert os.listdir(f"{path}/../staging") == []


@pytest.mark.parametrize("where", ["opened", "shown"])
def test_one_that_nobody_left(store: Store, where: str) -> None:
    """Whoever looks at it is killed."""
    small = store.volumes.create("small", size=SIZE)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with small.opened() as path:
            Path(path, "file").write_text("written")
            os.fsync(os.open(f"{path}/file", os.O_RDONLY))
            if where == "shown":
                os.makedirs(f"{small.directory}/mounts/killed-0")
                limited.show(small.directory, f"{small.directory}/mounts/killed-0")
            os.write(write_end, b"x")
            time.sleep(60)
    os.read(read_end, 1)
    for fd in (read_end, write_end):
        os.close(fd)
    with pytest.raises(ConflictError, match="being copied"):
        small.remove()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    until(lambda: len(devices(store.paths.root)) == (where == "shown"))
    assert files(small) == {"file": "written"}
    small.remove()
    assert devices(store.paths.root) == []
    assert store.paths.root not in Path("/proc/self/mountinfo").read_text()


def test_a_start_that_was_killed(store: Store) -> None:
    """What it has shown is unmounted by the container's next start."""
    small = store.volumes.create("small", size=SIZE)
    container = sh(store, "echo x > /v/file", volumes=["small:/v"])
    place = f"{small.directory}/mounts/{container.id}-0"
    for _ in range(2):
        os.makedirs(place, exist_ok=True)
        limited.show(small.directory, place)
    assert start(container) == (0, "")
    assert not os.path.exists(place) and devices(store.paths.root) == []
    os.makedirs(place)
    limited.show(small.directory, place)
    container.remove()
    assert not os.path.exists(place) and devices(store.paths.root) == []


def test_a_supervisor_that_was_killed(store: Store) -> None:
    store.volumes.create("small", size=SIZE)
    container = sh(store, "echo up; sleep 60", volumes=["small:/v"])
    container.start()
    until(lambda: "up" in logged(container))
    os.kill(container._execution.state().supervisor.pid, signal.SIGKILL)
    assert len(devices(store.paths.root)) == 1
    container.kill()
    container.wait()
    until(lambda: devices(store.paths.root) == [])


def test_what_others_left_in_it(store: Store) -> None:
    small = store.volumes.create("small", size=SIZE)
    small.snapshot("a")
    with small.opened() as path:
        inside = f"{path}/.."
        for name in ("snapshots/b", "staging/0123456789abcdef-volume-0", "staging/rubbish-1"):
            os.makedirs(f"{inside}/{name}/deep")
        with store.content.lease("volume") as lease:
            os.mkdir(f"{inside}/staging/{lease.id}-x")
            with small.opened() as again:
                assert sorted(os.listdir(f"{again}/../snapshots")) == ["a"]
            assert os.listdir(f"{inside}/staging") == [f"{lease.id}-x"], "somebody lives"
    with small.opened() as path:
        assert os.listdir(f"{path}/../staging") == []


def test_it_moves_with_a_pool(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        small = store.volumes.create("small", size=SIZE)
        put(small, "file", "kept")
        small.snapshot("a")
        child = os.fork()
        if child == 0:
            os.makedirs(f"{small.directory}/mounts/killed-0")
            limited.show(small.directory, f"{small.directory}/mounts/killed-0")
            os._exit(0)
        os.waitpid(child, 0)
        store.pool.create(1 << 30)
        assert files(small) == {"file": "kept"}
        put(small, "more", "in the pool")
        assert small.clone("clone").cost.entries == 2
        with small.opened(), pytest.raises(ConflictError, match="in use"):
            store.pool.destroy()
        store.pool.destroy()
        assert files(small) == {"file": "kept", "more": "in the pool"} == files(store.volumes.get("clone"))
        small.rollback("a")
        assert files(small) == {"file": "kept"}
    until(lambda: devices(str(tmp_path)) == [])
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_the_reserve_is_used_while_it_is_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process that goes back to a snapshot: what is done here is done all the same."""
    small = store.volumes.create("small", size=SIZE)

    def used(*_: int) -> None:
        os.unlink("reserve", dir_fd=trees._root)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, reached(store, "small") as trees:
        assert "reserve" not in os.listdir(trees._root), "it comes with the end of the first visit"
        patch.setattr(os, "posix_fallocate", used)
    small.remove()


def test_removed_and_made_again_before_a_rollback(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    small = store.volumes.create("small", size=SIZE)
    put(small, "file", "old")
    small.snapshot("a")
    at_rest = Containers.at_rest

    def late(self: Containers, volume: Volume, how: str) -> Any:
        monkeypatch.undo()
        volume.remove()
        again = store.volumes.create("small", size=SIZE)
        put(again, "file", "new")
        again.snapshot("a")
        return at_rest(self, volume, how)

    monkeypatch.setattr(Containers, "at_rest", late)
    with pytest.raises(NotFoundError, match="volume small: it has been removed"):
        small.rollback("a")
    again = store.volumes.get("small")
    assert files(again) == {"file": "new"}
    again.remove()


def test_what_cannot_be(store: Store) -> None:
    with pytest.raises(LimitError, match="300 MiB"):
        store.volumes.create("tiny", size=1 << 20)
    assert store.volumes.find("tiny") is None and os.listdir(store.paths.staging) == []
    store.volumes.create("small", size=SIZE)
    store.volumes.create("other")
    assert store.volumes.create("small", size=SIZE + 5, exist_ok=True).limit == SIZE
    with pytest.raises(ConflictError, match=f"with a limit of {SIZE} bytes, not {SIZE * 2}"):
        store.volumes.create("small", size=SIZE * 2, exist_ok=True)
    with pytest.raises(ConflictError, match="volume other: there is one already, with no limit"):
        sh(store, ":", volumes=[VolumeMount("other", "/v", size=SIZE)])
    with pytest.raises(FormatError, match="at once"):
        sh(store, ":", volumes=[VolumeMount("new", "/v", size=SIZE), VolumeMount("new", "/w", size=SIZE * 2)])
    with pytest.raises(LimitError, match="300 MiB"):
        sh(store, ":", volumes=[VolumeMount("tiny", "/v", size=1 << 20)])
    assert [volume.name for volume in store.volumes.list()] == ["other", "small"]
    assert store.containers.list(all=True) == []
    small = store.volumes.get("small")
    with small.lock(fcntl.LOCK_EX), pytest.raises(ConflictError, match="being copied"):
        small.remove()


def test_another_limit_by_somebody_faster(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets a volume that was there gets no other limit than was asked for, however short it has been there."""
    stage = NewVolumes.stage

    def slowly(self: NewVolumes, name: str, labels: dict[str, str], **how: Any) -> str:
        monkeypatch.undo()
        store.volumes.create(name)
        return stage(self, name, labels, **how)

    monkeypatch.setattr(NewVolumes, "stage", slowly)
    with pytest.raises(ConflictError, match="volume db: there is one already, with no limit"):
        store.volumes.create("db", size=SIZE, exist_ok=True)
    store.volumes.remove("db")


def test_without_root(tmp_path: Path) -> None:
    """Nobody else can mount: what is there can be looked at and removed by its owner."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o55)
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            with Store(tmp_path / "store") as store:
                with pytest.raises(StoreError, match="a limited size needs root"):
                    store.volumes.create("small", size=SIZE)
                assert os.listdir(store.paths.volumes) == os.listdir(store.paths.staging) == []
                os.close(os.open(f"{store.volumes.create('other').directory}/limit.image", os.O_CREAT, 0o600))
                with pytest.raises(StoreError, match="a limited size needs root"), store.volumes.get("other").opened():
                    pass
                assert store.volumes.get("other").inspect()["UsageData"] == {"Limit": 0}
                store.volumes.remove("other")
        except BaseException as error:
            print(repr(error))
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_how_it_is_written(store: Store) -> None:
    command = Command(store.paths.root)
    assert command("volume", "create", "-o", "size=0.3G", "small").out == "small\n"
    assert store.volumes.get("small").limit == (3 << 30) // 10 // 4096 * 4096
    assert command("volume", "create", "--opt", "o=size=300m", "two").out == "two\n"
    assert '"size": "314572800"' in command("volume", "inspect", "two").out
    for options, said in (("size=", "size"), ("size=much", "not a size"), ("type=tmpfs", "not size=SIZE")):
        done = command("volume", "create", "-o", options, "three")
        assert done.code == 2 or done.code == 125
        assert said in done.err and store.volumes.find("three") is None
    assert "300 MiB" in command("volume", "create", "-o", "size=1M", "three").err
    mount = "type=volume,source=three,target=/v,volume-opt=size=300M"
    assert command("run", "--rm", "--mount", mount, "small:latest", "touch", "/v/file").code == 0
    assert store.volumes.get("three").limit == SIZE
    done = command("run", "--rm", "--mount", mount.replace("300M", "1G"), "small:latest", "true")
    assert "with a limit of 314572800 bytes, not 1073741824" in done.err
    assert "not size=SIZE" in command("run", "--mount", mount.replace("size=", "uid="), "small:latest", "true").err
