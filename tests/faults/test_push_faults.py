"""push and pull that are killed, meet one another or a full disk, or read what somebody damaged."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_at_lines import kills, run_until
from test_full_disk import _leave, _with_small_disk
from volume_trees import fill, look

from lazarus.errors import CorruptError, LazarusError, LimitError, NotFoundError, one_line
from lazarus.oci.layout import sha256
from lazarus.store import Store
from lazarus.volumes.artifact import index
from lazarus.volumes.artifact.push import compress

ROOMS = ("/lazarus/volumes/artifact/", "/lazarus/oci/layout_writer.py", "/lazarus/volumes/making.py")
KILLS = kills(40)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def write(store: Store, seed: int, size: int = 300_000) -> None:
    volume = store.volumes.create("db", exist_ok=True)
    Path(volume.path, "data").write_bytes(random.Random(seed).randbytes(size))
    Path(volume.path, "seed").write_text(str(seed))


def seed_of(store: Store, place: str) -> str:
    """What a pull finds, whole."""
    pulled = store.volumes.pull(place, "pulled")
    try:
        seed = Path(pulled.volume.path, "seed").read_text()
        assert Path(pulled.volume.path, "data").read_bytes() == random.Random(int(seed)).randbytes(300_000)
        return seed
    finally:
        pulled.volume.remove()


# -- killed --


def test_killed_push(tmp_path: Path) -> None:
    """The tag is the old one or the new one, the other tag stays, and the next push clears what was left."""
    root, layout = tmp_path / "store", tmp_path / "out"
    place = f"oci:{layout}:v1"
    with Store(root) as store:
        write(store, 0)
        store.volumes.get("db").push(f"oci:{layout}:other")
        write(store, 1)
        store.volumes.get("db").push(place)
        write(store, 2)

    def act(store: Store) -> None:
        store.volumes.get("db").push(place)

    total = run_until(ROOMS, root, act, None)
    assert total is not None and total > 100
    outcomes = set()
    for number, moment in enumerate([*range(0, total, total // KILLS), total - 1], 3):
        with Store(root) as store:
            write(store, number)
        died = run_until(ROOMS, root, act, moment) is None
        with Store(root) as store:
            seed = seed_of(store, place)
            assert seed_of(store, f"oci:{layout}:other") == "0"
            assert seed in ((str(number), str(number - 1)) if died else (str(number),))
            outcomes.add(seed == str(number))
            store.volumes.get("db").push(place)
            assert seed_of(store, place) == str(number)
        assert sorted(os.listdir(layout)) == ["blobs", "index.json", "oci-layout"]
    assert outcomes == {True, False}


def test_killed_first_push(tmp_path: Path) -> None:
    """Whatever it leaves of a new layout, the next push goes on with."""
    root = tmp_path / "store"
    with Store(root) as store:
        write(store, 1)
    total = None
    for number in range(KILLS):
        layout = tmp_path / f"out{number}"

        def act(store: Store, layout: Path = layout) -> None:
            store.volumes.get("db").push(f"oci:{layout}")

        if total is None:
            total = run_until(ROOMS, root, act, None)
            assert total is not None
            shutil.rmtree(layout)
        run_until(ROOMS, root, act, number * total // KILLS)
        with Store(root) as store:
            act(store)
            assert seed_of(store, f"oci:{layout}") == "1"
        shutil.rmtree(layout)


def test_killed_push_to_an_archive(tmp_path: Path) -> None:
    root, archive = tmp_path / "store", tmp_path / "out.tar"
    with Store(root) as store:
        write(store, 1)
        store.volumes.get("db").push(f"oci-archive:{archive}")
        write(store, 2)

    def act(store: Store) -> None:
        store.volumes.get("db").push(f"oci-archive:{archive}")

    total = run_until(ROOMS, root, act, None)
    assert total is not None
    for moment in range(total // 20, total, total // 10):
        with Store(root) as store:
            write(store, 1)
            act(store)
            write(store, 2)
        died = run_until(ROOMS, root, act, moment) is None
        with Store(root) as store:
            assert seed_of(store, f"oci-archive:{archive}") in ({"1", "2"} if died else {"2"})


def test_killed_pull(tmp_path: Path) -> None:
    """The volume is there, whole, or is not; nothing is left in staging."""
    root = tmp_path / "store"
    place = f"oci:{tmp_path}/out"
    with Store(root) as store:
        fill(Path(store.volumes.create("db").path), as_root=os.geteuid() == 0)
        Path(store.volumes.get("db").path, "only hole").unlink()
        store.volumes.get("db").push(place)
        wanted = look(Path(store.volumes.get("db").path))

    def act(store: Store) -> None:
        store.volumes.pull(place, "new")

    total = run_until(ROOMS, root, act, None)
    assert total is not None
    outcomes = set()
    for moment in [*range(0, total, total // KILLS), total - 1]:
        with Store(root) as store:
            store.volumes.remove("new", missing_ok=True)
        run_until(ROOMS, root, act, moment)
        with Store(root) as store:
            volume = store.volumes.find("new")
            outcomes.add(volume is None)
            assert volume is None or look(Path(volume.path)) == wanted
            assert os.listdir(store.paths.staging) == []
            store.prune()
            assert set(os.listdir(store.paths.volumes)) == {found.name for found in store.volumes.list()}
    assert outcomes == {True, False}


# -- together --


def test_pushes_at_once_lose_no_tag(tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(6)]
    with Store(tmp_path / "store") as store:
        for name in names:
            Path(store.volumes.create(name).path, "data").write_bytes(os.urandom(200_000))
    failures: list[BaseException] = []

    def push(name: str) -> None:
        try:
            with Store(tmp_path / "store") as store:
                for _ in range(3):
                    store.volumes.get(name).push(f"oci:{tmp_path}/out:{name}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Store(tmp_path / "store") as store:
        for name in names:
            back = store.volumes.pull(f"oci:{tmp_path}/out:{name}", f"{name}-back").volume
            assert Path(back.path, "data").read_bytes() == Path(store.volumes.get(name).path, "data").read_bytes()


def test_push_of_what_changes_meanwhile(store: Store, tmp_path: Path) -> None:
    """Files that come, go, shrink and become something else while they are read: each push is whole by itself."""
    volume = store.volumes.create("db")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    stop = threading.Event()

    def restless(seed: int) -> None:
        chance, place = random.Random(seed), Path(volume.path, str(seed))
        while not stop.is_set():
            place.mkdir(exist_ok=True)
            name = place / str(chance.randrange(6))
            kind = chance.randrange(5)
            if name.is_dir() and not name.is_symlink():
                shutil.rmtree(name)
            elif kind == 0 and name.is_file() and not name.is_symlink():
                os.truncate(name, chance.randrange(1 << 20))
            else:
                name.unlink(missing_ok=True)
                if kind == 1:
                    name.mkdir()
                    (name / "secret").write_bytes(b"mine")
                elif kind == 2:
                    name.symlink_to(outside)
                elif kind == 3:
                    name.write_bytes(chance.randbytes(1 << 20))
                    os.setxattr(name, "user.x", b"x")
                    os.removexattr(name, "user.x")

    threads = [threading.Thread(target=restless, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(25):
            volume.push(f"oci:{tmp_path}/out:v1")
            pulled = store.volumes.pull(f"oci:{tmp_path}/out:v1", f"new{number}").volume
            for secret in Path(pulled.path).glob("*/*/secret"):
                assert secret.parent.is_symlink() or secret.read_bytes() in (b"mine", b"")
            pulled.remove()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# -- a full disk --


def _push_until_it_fits(disk: Path) -> None:
    with Store(disk.parent / "elsewhere") as store:
        write(store, 1)
        volume = store.volumes.get("db")
        for kind, path in (("oci", disk / "out"), ("oci-archive", disk / "out.tar")):
            place = f"{kind}:{path}:v1"
            write(store, 1)
            volume.push(place)
            write(store, 2)
            failures = 0
            for free in [*range(0, 400_000, 30_000), 1_500_000]:
                _leave(disk, free)
                try:
                    volume.push(place)
                except OSError as error:
                    assert error.errno == errno.ENOSPC and str(path) in str(error) and "\n" not in str(error)
                    failures += 1
                    assert seed_of(store, place) == "1", "the old tag stays"
                else:
                    assert seed_of(store, place) == "2"
                    break
            assert failures > 3
            (disk / "ballast").unlink()
            if kind == "oci":
                assert sorted(os.listdir(path)) == ["blobs", "index.json", "oci-layout"]
                shutil.rmtree(path)


@pytest.mark.root
def test_push_to_a_full_disk(tmp_path: Path) -> None:
    _with_small_disk("ext4 4096", tmp_path, _push_until_it_fits)


def _pull_until_it_fits(disk: Path) -> None:
    place = f"oci:{disk.parent}/out"
    with Store(disk.parent / "elsewhere") as store:
        write(store, 1)
        store.volumes.get("db").push(place)
    failures = 0
    with Store(disk / "store") as store:
        for free in [*range(0, 600_000, 50_000), 2_500_000]:
            _leave(disk, free)
            try:
                store.volumes.pull(place, "new")
            except OSError as error:
                assert error.errno == errno.ENOSPC and "\n" not in str(error)
                failures += 1
                assert store.volumes.list() == [] and os.listdir(store.paths.volumes) == []
                assert os.listdir(store.paths.staging) == []
            else:
                break
        (disk / "ballast").unlink()
        assert failures > 3 and seed_of(store, place) == "1"


@pytest.mark.root
def test_pull_to_a_full_disk(tmp_path: Path) -> None:
    _with_small_disk("ext4 4096", tmp_path, _pull_until_it_fits)


# -- damaged --


def the_manifest(layout: Path) -> tuple[Path, dict[str, Any]]:
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    path = layout / "blobs/sha256" / entry["digest"][7:]
    return path, json.loads(path.read_bytes())


def refused(store: Store, layout: Path, *errors: type[BaseException]) -> str:
    """A pull fails with one line, and leaves nothing."""
    with pytest.raises(errors or (LazarusError,)) as raised:
        store.volumes.pull(f"oci:{layout}", "new")
    assert store.volumes.find("new") is None and os.listdir(store.paths.staging) == []
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_every_byte_counts(store: Store, tmp_path: Path) -> None:
    """One byte of any blob, flipped anywhere: an error that names it."""
    write(store, 1)
    Path(store.volumes.get("db").path, "text").write_bytes(b"so it goes\n" * 3000)
    layout = tmp_path / "out"
    store.volumes.get("db").push(f"oci:{layout}")
    chance = random.Random(3)
    blobs = list((layout / "blobs/sha256").iterdir())
    assert len(blobs) == 4
    for path in blobs:
        data = path.read_bytes()
        if data == b"{}":
            continue
        for at in {0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(12))}:
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :])
            said = refused(store, layout)
            assert "chunk " in said or path.name in said or "digest" in said, said
        for size in (0, 1, len(data) - 1):
            path.write_bytes(data[:size])
            refused(store, layout)
        path.unlink()
        assert path.name in refused(store, layout, NotFoundError)
        path.write_bytes(data)
    assert seed_of(store, f"oci:{layout}") == "1"


def test_a_changed_chunk_is_named(store: Store, tmp_path: Path) -> None:
    write(store, 1)
    layout = tmp_path / "out"
    store.volumes.get("db").push(f"oci:{layout}")
    pack = the_manifest(layout)[1]["layers"][1]["digest"]
    with open(layout / "blobs/sha256" / pack[7:], "r+b") as file:
        file.seek(1000)
        file.write(b"!")
    said = refused(store, layout, CorruptError)
    assert said == f"oci:{layout}: data: chunk 0 of pack {pack} is not what its table says"


def forge(layout: Path, change: Callable[[dict[str, Any], dict[str, bytes]], object]) -> None:
    """Has the manifest changed, with blobs that are added to the layout, and everything named by its digest again."""
    _, manifest = the_manifest(layout)
    blobs: dict[str, bytes] = {}
    change(manifest, blobs)
    for data in (*blobs.values(), json.dumps(manifest).encode()):
        (layout / "blobs/sha256" / sha256(data).hex).write_bytes(data)
    data = json.dumps(manifest).encode()
    entry = {"mediaType": manifest.get("mediaType"), "digest": str(sha256(data)), "size": len(data)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def with_index(data: bytes) -> Callable[[dict[str, Any], dict[str, bytes]], object]:
    def change(manifest: dict[str, Any], blobs: dict[str, bytes]) -> None:
        blobs["index"] = data
        manifest["layers"][0] |= {"digest": str(sha256(data)), "size": len(data)}

    return change


def layer(number: int, **members: Any) -> Callable[[dict[str, Any], dict[str, bytes]], object]:
    return lambda manifest, blobs: manifest["layers"][number].update(members)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (with_index(b"not zstd at all"), "not the index of a volume"),
        (with_index(compress(b"x" * 5000)), "not the index of a volume"),
        (with_index(compress(index.MAGIC + b"\xff" * 72)), "more than"),
        (with_index(compress(index.MAGIC + b"\0" * 72)), "no entries"),
        (lambda manifest, blobs: manifest["layers"].pop(), "its packs have 0"),
        (lambda manifest, blobs: manifest["layers"].append(manifest["layers"][1]), "names a pack twice"),
        (lambda manifest, blobs: manifest["layers"].reverse(), "its first layer is not"),
        (lambda manifest, blobs: manifest.pop("artifactType"), "not a volume|volumes there: none"),
        (lambda manifest, blobs: manifest.pop("layers"), "layers"),
        (layer(1, mediaType="text/plain"), "is expected"),
        (layer(1, size=7), "7 bytes, fewer than the table"),
        (layer(1, size=100 << 20), "its descriptor says 104857600"),
        (layer(1, size=1 << 30), "a pack of 1073741824 bytes, more than"),
        (layer(1, annotations={}), "not a pack"),
        (layer(1, annotations={"vnd.lazarus.volume.pack.chunks": "99999999"}), "expected 1 to"),
        (layer(1, annotations={"vnd.lazarus.volume.pack.chunks": "-1"}), "not a pack"),
        (layer(1, annotations={"vnd.lazarus.volume.pack.chunks": "1"}), "its packs have 1"),
        (layer(1, annotations={"vnd.lazarus.volume.pack.chunks": "100"}), "its table has digest"),
        (layer(0, size=1 << 40), "1099511627776 bytes, more than"),
        (layer(0, size=9), "its descriptor says 9"),
        (layer(0, digest="sha256:" + "0" * 64), "not in"),
        (layer(0, digest="sha512:" + "0" * 128), "only SHA-256"),
    ],
)
def test_hostile_manifests(store: Store, tmp_path: Path, change: Any, text: str) -> None:
    import re

    write(store, 1)
    layout = tmp_path / "out"
    store.volumes.get("db").push(f"oci:{layout}")
    forge(layout, change)
    assert re.search(text, refused(store, layout))


def test_an_index_that_unpacks_to_too_much(store: Store, tmp_path: Path) -> None:
    write(store, 1)
    layout = tmp_path / "out"
    store.volumes.get("db").push(f"oci:{layout}")
    forge(layout, with_index(compress(bytes(80 << 20))))
    assert "bytes uncompressed, allowed are" in refused(store, layout, LimitError)


def test_more_than_the_disk_has(store: Store, tmp_path: Path) -> None:
    """A few bytes that stand for much more than there is room for are refused before anything is written."""
    volume = store.volumes.create("db")
    Path(volume.path, "data").write_bytes(os.urandom(16 << 20))
    layout = tmp_path / "out"
    volume.push(f"oci:{layout}")
    tree = index.decode(decompressed(layout), "index")
    room = os.statvfs(tmp_path)
    times = room.f_bavail * room.f_frsize // (16 << 20) + 2
    columns = {name: column.copy() for name, column in tree.columns.items()}
    columns["size"][1] *= times
    columns["chunks"][1] *= times
    columns["run_first"] = columns["run_first"].repeat(times)
    columns["run_count"] = columns["run_count"].repeat(times)
    columns["run_step"] = columns["run_step"].repeat(times)
    forge(layout, with_index(compress(index.encode(index.Tree(columns, tree.names, b"", b"", {})))))
    assert "No space left on device" in refused(store, layout, OSError)


@pytest.mark.parametrize(
    ("xattrs", "text"),
    [
        (b"user.a1user.a2", "that are not in order, or there twice"),
        (b"user.b1user.a2", "that are not in order, or there twice"),
        (b"user.\x001user.b2", "with a NUL byte"),
        (b"userxa1userxb2", "data: Operation not supported"),
    ],
)
def test_hostile_xattrs(store: Store, tmp_path: Path, xattrs: bytes, text: str) -> None:
    volume = store.volumes.create("db")
    Path(volume.path, "data").write_bytes(b"x")
    for name in ("user.a", "user.b"):
        os.setxattr(f"{volume.path}/data", name, b"1")
    layout = tmp_path / "out"
    volume.push(f"oci:{layout}")
    tree = index.decode(decompressed(layout), "index")
    assert tree.xattrs == b"user.a1user.b1"
    forge(layout, with_index(compress(index.encode(index.Tree(tree.columns, tree.names, b"", xattrs, {})))))
    with pytest.raises((LazarusError, OSError)) as raised:
        store.volumes.pull(f"oci:{layout}", "new")
    assert text in one_line(raised.value) and "None" not in str(raised.value)
    assert store.volumes.find("new") is None and os.listdir(store.paths.staging) == []


def decompressed(layout: Path) -> bytes:
    from lazarus._native.stream import decompress

    path = layout / "blobs/sha256" / the_manifest(layout)[1]["layers"][0]["digest"][7:]
    with open(path, "rb") as source, open(os.memfd_create("raw"), "r+b") as out:
        decompress(source.fileno(), out.fileno())
        out.seek(0)
        return out.read()
