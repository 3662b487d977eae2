"""push and pull: a volume as chunks in an OCI layout or archive, there and back; and what hostile ones are told."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import Command
from registry_helpers import needs_registry, registry
from store_helpers import let_others_in
from volume_trees import allocated, fill, look

from lazarus.errors import ConflictError, CorruptError, FormatError, NotFoundError, UnsafeError, UnsupportedError
from lazarus.oci.transports import Place, parse_place
from lazarus.store import Store
from lazarus.terms import ProgressEvent
from lazarus.volumes.artifact.manifest import parse_volume_place
from lazarus.volumes.volume import Volume

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def make(store: Store, name: str = "db", size: int = MIB) -> Volume:
    volume = store.volumes.create(name, {"tier": "1"})
    Path(volume.path, "data").write_bytes(os.urandom(size))
    Path(volume.path, "text").write_bytes(b"so it goes\n" * 3000)
    return volume


def blobs(layout: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (layout / "blobs/sha256").iterdir()}


def manifest_of(layout: Path, tag: str) -> dict[str, object]:
    for entry in json.loads((layout / "index.json").read_text())["manifests"]:
        if entry.get("annotations", {}).get("org.opencontainers.image.ref.name", "") == tag:
            found: dict[str, object] = json.loads((layout / "blobs/sha256" / entry["digest"][7:]).read_bytes())
            return found
    raise AssertionError(tag)


# -- there and back --


@pytest.mark.root
@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_everything_comes_back(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    volume = store.volumes.create("db", {"tier": "1", "é": ""})
    fill(Path(volume.path), as_root=True)
    with caplog.at_level(logging.WARNING):
        pushed = volume.push(f"{kind}:{tmp_path}/out:v1")
    assert pushed.skipped == (b"socket",) and "socket" in caplog.text
    pulled = store.volumes.pull(f"{kind}:{tmp_path}/out:v1", "new")
    assert look(Path(pulled.volume.path)) == look(Path(volume.path))
    assert allocated(Path(pulled.volume.path)) <= allocated(Path(volume.path)) + 65536, "holes stay holes"
    assert pulled.volume.labels == volume.labels and not pulled.volume.fresh and not pulled.volume.anonymous
    assert (pulled.size, pulled.digest) == (pushed.size, pushed.digest)
    again = pulled.volume.push(f"oci:{tmp_path}/again")
    assert again.chunks == pushed.chunks and again.skipped == ()


def test_manifest_is_what_oci_says(store: Store, tmp_path: Path) -> None:
    pushed = make(store).push(f"oci:{tmp_path}/out:v1")
    layout = tmp_path / "out"
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    manifest = manifest_of(layout, "v1")
    assert manifest["artifactType"] == "application/vnd.lazarus.volume.v1"
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    config = manifest["config"]
    assert config == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
        "size": 2,
    }
    for path in (layout / "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert sum(blobs(layout).values()) == pushed.sent
    assert sorted(path.name for path in layout.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_second_push_sends_what_changed(store: Store, tmp_path: Path) -> None:
    volume = make(store, size=32 * MIB)
    first = volume.push(f"oci:{tmp_path}/out:v1")
    same = volume.push(f"oci:{tmp_path}/out:v1")
    assert same.new == 0 and same.digest == first.digest and same.sent < 20_000
    with open(f"{volume.path}/data", "r+b") as file:
        for page in range(7, 8192, 100):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    second = volume.push(f"oci:{tmp_path}/out:v1")
    assert second.new == 82 * 4096 and second.sent < second.new * 1.1
    text = Path(volume.path, "data").read_bytes()
    Path(volume.path, "data").write_bytes(text[:5_000_001] + b"inserted" + text[5_000_001:])  # no whole pages any more
    volume.push(f"oci:{tmp_path}/out:v2")
    Path(volume.path, "data").write_bytes(text[:5_000_001] + b"inserted, and more" + text[5_000_001:])
    moved = volume.push(f"oci:{tmp_path}/out:v3")
    assert moved.new < 100_000, "cut where the content says"
    pulled = store.volumes.pull(f"oci:{tmp_path}/out:v3", "new")
    assert look(Path(pulled.volume.path)) == look(Path(volume.path))
    assert store.volumes.pull(f"oci:{tmp_path}/out:v1", "old").size == first.size
    assert [entry["annotations"] for entry in json.loads((tmp_path / "out/index.json").read_text())["manifests"]] == [
        {"org.opencontainers.image.ref.name": tag} for tag in ("v1", "v2", "v3")
    ]


def test_another_volume_of_the_layout_counts(store: Store, tmp_path: Path) -> None:
    one, two = make(store, "one", 3 * MIB), store.volumes.create("two")
    shutil.copy(f"{one.path}/data", f"{two.path}/other name")
    one.push(f"oci:{tmp_path}/out:one")
    assert two.push(f"oci:{tmp_path}/out:two").new == 0
    assert {volume.volume.name for volume in (store.volumes.pull(f"oci:{tmp_path}/out:two", "x"),)} == {"x"}


def test_packs_that_are_hardly_used_are_left(store: Store, tmp_path: Path) -> None:
    volume = make(store, size=8 * MIB)
    volume.push(f"oci:{tmp_path}/out:v1")
    (old,) = [layer["digest"] for layer in manifest_of(tmp_path / "out", "v1")["layers"][1:]]  # type: ignore[index]
    with open(f"{volume.path}/data", "r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(7 * MIB))  # an eighth is left of the pack
    pushed = volume.push(f"oci:{tmp_path}/out:v1")
    layers = [layer["digest"] for layer in manifest_of(tmp_path / "out", "v1")["layers"][1:]]  # type: ignore[index]
    assert old not in layers and pushed.new == 7 * MIB and pushed.sent > 8 * MIB
    assert look(Path(store.volumes.pull(f"oci:{tmp_path}/out:v1", "new").volume.path)) == look(Path(volume.path))


def test_what_moved_is_found_again(store: Store, tmp_path: Path) -> None:
    """Under a new tag each time, so that the old pack is still named."""
    volume = make(store, size=8 * MIB)
    volume.push(f"oci:{tmp_path}/out:v1")
    os.truncate(f"{volume.path}/data", MIB)
    assert volume.push(f"oci:{tmp_path}/out:v2").sent > MIB
    assert volume.push(f"oci:{tmp_path}/out:v3").sent < 20_000
    assert look(Path(store.volumes.pull(f"oci:{tmp_path}/out:v3", "new").volume.path)) == look(Path(volume.path))


def test_small_packs_do_not_pile_up(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lazarus.volumes.artifact import push

    monkeypatch.setattr(push, "_CROWD", 3)
    volume = make(store, size=MIB)
    counts, sent = [], 0
    for number in range(30):
        Path(volume.path, f"small{number}").write_bytes(os.urandom(3000))
        pushed = volume.push(f"oci:{tmp_path}/out:v1")
        counts.append(pushed.packs)
        sent += pushed.sent
    assert max(counts) <= 10 and counts[3] == 4, counts
    assert sent < 2.5 * MIB
    assert look(Path(store.volumes.pull(f"oci:{tmp_path}/out:v1", "new").volume.path)) == look(Path(volume.path))


def test_a_damaged_chunk_is_not_moved(store: Store, tmp_path: Path) -> None:
    volume = make(store, size=8 * MIB)
    volume.push(f"oci:{tmp_path}/out:v1")
    (pack,) = [layer["digest"] for layer in manifest_of(tmp_path / "out", "v1")["layers"][1:]]  # type: ignore[index]
    with open(tmp_path / "out/blobs/sha256" / pack[7:], "r+b") as file:
        file.seek(5000)
        file.write(b"damaged")
    os.truncate(f"{volume.path}/data", MIB)
    with pytest.raises(CorruptError, match=f"pack {pack}: chunk 1 is not what its table says"):
        volume.push(f"oci:{tmp_path}/out:v2")
    (tmp_path / "out/blobs/sha256" / pack[7:]).unlink()
    assert volume.push(f"oci:{tmp_path}/out:v2").new >= MIB, "one that is gone is not used again"


def test_tags(store: Store, tmp_path: Path) -> None:
    volume = make(store)
    volume.push(f"oci:{tmp_path}/out")
    Path(volume.path, "more").write_text("more")
    untagged = volume.push(f"oci:{tmp_path}/out")
    assert len(json.loads((tmp_path / "out/index.json").read_text())["manifests"]) == 1
    store.volumes.remove("db")
    pulled = store.volumes.pull(f"oci:{tmp_path}/out")
    assert pulled.volume.name == "db" and pulled.digest == untagged.digest
    pulled.volume.push(f"oci:{tmp_path}/out:a/b:c")
    with pytest.raises(NotFoundError, match=r"volumes there: \(no tag\), a/b:c"):
        store.volumes.pull(f"oci:{tmp_path}/out", "x")
    with pytest.raises(NotFoundError, match="no such tag"):
        store.volumes.pull(f"oci:{tmp_path}/out:none", "x")
    with pytest.raises(ConflictError, match="there is one already"):
        store.volumes.pull(f"oci:{tmp_path}/out:a/b:c")
    assert store.volumes.pull(f"oci:{tmp_path}/out:a/b:c", "x", {"mine": ""}).volume.labels == {"mine": ""}


def test_others_in_the_layout_stay(store: Store, tmp_path: Path) -> None:
    make(store).push(f"oci:{tmp_path}/out:v1")
    index = tmp_path / "out/index.json"
    document = json.loads(index.read_text())
    other = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:" + 64 * "1",
        "size": 7,
        "annotations": {"org.opencontainers.image.ref.name": "image"},
        "x-unknown": [1],
    }
    document["manifests"].insert(0, other)
    document["annotations"] = {"a": "b"}
    index.write_text(json.dumps(document))
    store.volumes.get("db").push(f"oci:{tmp_path}/out:v2")
    after = json.loads(index.read_text())
    assert after["manifests"][0] == other and len(after["manifests"]) == 3 and after["annotations"] == {"a": "b"}
    assert store.volumes.pull(f"oci:{tmp_path}/out:v2", "x").entries == 3


def test_a_snapshot(store: Store, tmp_path: Path) -> None:
    volume = make(store)
    before = look(Path(volume.path))
    volume.snapshot("monday")
    Path(volume.path, "data").write_bytes(b"later")
    volume.push(f"oci:{tmp_path}/out:now")
    assert volume.push(f"oci:{tmp_path}/out:monday", snapshot="monday").size == MIB + 33000
    assert look(Path(store.volumes.pull(f"oci:{tmp_path}/out:monday", "new").volume.path)) == before
    with pytest.raises(NotFoundError, match="db@none"):
        volume.push(f"oci:{tmp_path}/out:none", snapshot="none")


def test_a_volume_of_nothing(store: Store, tmp_path: Path) -> None:
    volume = store.volumes.create("empty")
    pushed = volume.push(f"oci-archive:{tmp_path}/out.tar")
    assert (pushed.size, pushed.packs, pushed.entries) == (0, 0, 1)
    pulled = store.volumes.pull(f"oci-archive:{tmp_path}/out.tar", "x")
    assert os.listdir(pulled.volume.path) == [] and not pulled.volume.fresh


def test_progress(store: Store, tmp_path: Path) -> None:
    volume = make(store, size=20 * MIB)
    seen: list[ProgressEvent] = []
    pushed = volume.push(f"oci:{tmp_path}/out", progress=seen.append)
    assert seen[-1].done == pushed.size and {event.action for event in seen} == {"push"}
    seen.clear()
    store.volumes.pull(f"oci:{tmp_path}/out", "x", progress=seen.append)
    assert seen[-1][2:] == (pushed.size, pushed.size) and len(seen) > 1


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_copies_it(store: Store, tmp_path: Path) -> None:
    volume = make(store, size=20 * MIB)
    pushed = volume.push(f"oci:{tmp_path}/out:v1")
    for source, target in (("oci", "oci"), ("oci", "oci-archive"), ("oci-archive", "oci")):
        words = [f"{source}:{tmp_path}/{'out' if source == 'oci' else 'copy-oci-oci-archive'}:v1"]
        place = f"{target}:{tmp_path}/copy-{source}-{target}:v1"
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", *words, place], check=True)
        pulled = store.volumes.pull(place, f"{source}-{target}")
        assert pulled.digest == pushed.digest
        assert look(Path(pulled.volume.path)) == look(Path(volume.path))
    volume.push(f"oci-archive:{tmp_path}/ours.tar:v1")
    place = f"oci:{tmp_path}/from-ours:v1"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", f"oci-archive:{tmp_path}/ours.tar:v1", place], check=True
    )
    assert store.volumes.pull(place, "from-ours").digest == pushed.digest
    assert volume.push(place).sent < 20_000, "what skopeo wrote is used again"


# -- what is refused --


def test_places() -> None:
    assert parse_place("oci:/a/b") == Place("oci", "/a/b", "")
    assert parse_place("oci-archive:x.tar:a/b:1.0@x") == Place("oci-archive", "x.tar", "a/b:1.0@x")
    for text in ("oci", "oci:", "oci::tag", "/x", "oci:/x:", "oci:/x:-a", "oci:/x:a b", "oci:/x:a\n", ""):
        with pytest.raises(FormatError):
            parse_place(text)
    for text in ("docker-archive:x", "dir:/x"):
        with pytest.raises(UnsupportedError, match="not supported here; known are docker://REF, oci:DIR"):
            parse_volume_place(text)
    for text in ("localhost/db", "127.0.0.1:5000/db:v1", "registry.example/team/db", "[::1]:5/db"):
        assert parse_volume_place(text) == Place("docker", text, "") == parse_volume_place(f"docker://{text}")
    for text in ("db", "team/db:v1", "./db", "/srv/db", "db:v1", "localhost/DB"):  # a directory, perhaps
        with pytest.raises(FormatError, match="not a place"):
            parse_volume_place(text)


def test_wrong_destinations(store: Store, tmp_path: Path) -> None:
    volume = make(store)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ConflictError, match="neither empty nor an OCI layout"):
        volume.push(f"oci:{tmp_path}/full")
    assert os.listdir(tmp_path / "full") == ["file"]
    for place in (f"oci:{tmp_path}/none/below", f"oci:{tmp_path}/full/file", f"oci-archive:{tmp_path}/none/x.tar"):
        with pytest.raises(OSError) as raised:
            volume.push(place)
        assert str(tmp_path) in str(raised.value)
    for place in (f"oci:{tmp_path}/full", f"oci-archive:{tmp_path}/full/file"):
        with pytest.raises(FormatError):
            store.volumes.pull(place)
    with pytest.raises(FileNotFoundError):
        store.volumes.pull(f"oci:{tmp_path}/none")


def test_an_image_is_no_volume(store: Store, tmp_path: Path) -> None:
    from store_helpers import make_tar

    with open(tmp_path / "root.tar", "wb") as file:
        file.write(make_tar({"file": b"x"}))
    store.images.import_(str(tmp_path / "root.tar"), "x:1")
    store.images.save(["x:1"], tmp_path / "image", format="oci-dir")
    with pytest.raises(UnsupportedError, match="a container image, not a volume"):
        store.volumes.pull(f"oci:{tmp_path}/image:x:1")
    with pytest.raises(NotFoundError, match="volumes there: none"):
        store.volumes.pull(f"oci:{tmp_path}/image")
    make(store).push(f"oci:{tmp_path}/image:volume")
    assert store.volumes.pull(f"oci:{tmp_path}/image", "new").entries == 3
    [image] = store.images.load(tmp_path / "image")
    assert image.names == ("x:1",), "the volume beside it is left out"
    store.volumes.get("db").push(f"oci:{tmp_path}/alone:volume")
    with pytest.raises(UnsupportedError, match="an artifact, not a container image"):
        store.images.load(tmp_path / "alone")


@pytest.mark.root
def test_devices_need_root(store: Store, tmp_path: Path) -> None:
    volume = store.volumes.create("db")
    os.mknod(f"{volume.path}/null", 0o20666, os.makedev(1, 3))
    volume.push(f"oci:{tmp_path}/out")
    child = os.fork()
    if child == 0:  # another user, with a store of its own
        try:
            (tmp_path / "theirs").mkdir()
            os.chown(tmp_path / "theirs", 12345, 12345)
            let_others_in(tmp_path)
            os.setresgid(12345, 12345, 12345)
            os.setresuid(12345, 12345, 12345)
            with Store(tmp_path / "theirs/store") as other:
                with pytest.raises(UnsafeError, match="null: a device, which only root can make"):
                    other.volumes.pull(f"oci:{tmp_path}/out")
                assert other.volumes.list() == [] and os.listdir(other.paths.staging) == []
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- as it is typed --


def test_command_line(store: Store, tmp_path: Path) -> None:
    lazarus = Command(store.paths.root)
    make(store)
    place = f"oci:{tmp_path}/out:v1"
    assert lazarus.ok("volume", "push", "db", place).startswith("Pushed db: ")
    said = json.loads(lazarus.ok("volume", "push", "--format", "json", "db", place))
    assert (said["New"], said["Total"], said["Skipped"]) == (0, MIB + 33000, []) and 0 < said["Sent"] < 20_000
    assert lazarus.ok("volume", "pull", place, "new") == "new"
    said = json.loads(lazarus.ok("volume", "pull", place, "newer", "--format", "json"))
    assert said["Name"] == "newer" and said["Total"] == MIB + 33000 and said["Entries"] == 3
    for words, text in (
        (("pull", place), "volume db: there is one already, and a pull makes a new one: give it"),
        (("pull", place, "../x"), "not a volume name"),
        (("pull", "dir:x"), "dir: is not supported here"),
        (("push", "db", "dir:x"), "dir: is not supported here"),
        (("push", "none", place), "not in this store"),
        (("push", "db", "elsewhere"), "not a place"),
        (("push", "db", "backups/db"), "not a place"),  # a directory, perhaps: nothing for the default registry
        (("pull", "backups/db:v1"), "not a place"),
    ):
        result = lazarus("volume", *words)
        assert result.code == 1 and text in result.err and result.err.count("\n") == 1, result
    assert lazarus("volume", "push", "db").code == 2
    lazarus.ok("volume", "snapshot", "db", "one")
    said = json.loads(lazarus.ok("volume", "push", "--format", "json", "db@one", place))
    assert (said["New"], said["Total"]) == (0, MIB + 33000)
    assert "db@two" in lazarus("volume", "push", "db@two", place).err


# -- a registry --


@needs_registry
def test_a_registry_is_a_destination_and_a_source(store: Store, tmp_path: Path) -> None:
    """What a second push sends is what changed; what skopeo copies, we read; and the other way round."""
    volume = make(store)
    with registry(tmp_path) as where:
        place = f"docker://{where.host}/backups/db:v1"
        first = volume.push(place)
        assert first.sent > 1000 and volume.push(place).sent < 1000
        (Path(volume.path) / "new").write_bytes(os.urandom(100_000))
        second = volume.push(f"docker://{where.host}/backups/db:v2")
        assert 100_000 < second.sent < 130_000, "another tag has the rest"
        for tag, pushed in (("v1", first), ("v2", second)):
            pulled = store.volumes.pull(f"docker://{where.host}/backups/db:{tag}", tag)
            assert pulled.digest == pushed.digest
        assert look(Path(store.volumes.get("v2").path)) == look(Path(volume.path))
        run = Command(store.paths.root)
        layout = f"oci:{tmp_path / 'layout'}:v2"
        assert run.ok("copy", f"docker://{where.host}/backups/db:v2", layout) == second.digest
        assert store.volumes.pull(layout, "from-layout").digest == second.digest
        assert json.loads(run.ok("volume", "push", "--format", "json", "db", f"{where.host}/other:1"))["Sent"]
        assert run.ok("volume", "pull", f"docker://{where.host}/other:1", "from-other") == "from-other"
        for words in (("pull", f"docker://{where.host}/none:1"), ("push", "db", f"docker://{where.host}/Bad:1")):
            result = run("volume", *words)
            assert result.code == 1 and result.err.count("\n") == 1, result
        result = run("pull", f"{where.host}/backups/db:v2")
        assert result.code == 125 and "an artifact, not a container image" in result.err


@needs_registry
def test_what_a_registry_has_damaged(store: Store, tmp_path: Path) -> None:
    volume = make(store)
    with registry(tmp_path) as where:
        place = f"docker://{where.host}/db:v1"
        volume.push(place)
        [pack] = [digest for digest in where.blobs if where.blob(digest).stat().st_size > 1000][:1]
        data = where.blob(pack).read_bytes()
        where.blob(pack).write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
        with pytest.raises(CorruptError):
            store.volumes.pull(place, "new")
        assert [found.name for found in store.volumes.list()] == [volume.name]
