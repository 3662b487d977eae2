"""A layer from parts of its zstd:chunked blob: what is fetched, that all of it is right, and that no lie gets in."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chunked_helpers import Blob, Stream, blob_of, with_table, with_tar_split, without_tar_split
from store_helpers import add_image, assert_tar, content, image_rows, make_tar, sha256

from lazarus.layers.chunked import ingest_chunked
from lazarus.layers.chunked.annotations import CHECKSUM, POSITION, TAR_SPLIT
from lazarus.store import Store
from lazarus.terms import DiffID, Limits


def files(*changed: str) -> dict[str, bytes]:
    """Small, middle and large ones that do not compress; `changed` differ from what they were."""

    def noise(name: str, size: int) -> bytes:
        return hashlib.shake_256(f"{name} {name in changed}".encode()).digest(size)

    found = {f"small/{number}": noise(f"small/{number}", 100 + number) for number in range(200)}
    found |= {f"middle/{number}": noise(f"middle/{number}", 5000 + 97 * number) for number in range(200)}
    found |= {"large": noise("large", 2_500_000), "empty": b"", "other": noise("other", 1_048_577)}
    return found


OLD = make_tar(files())
NEW = make_tar(files("small/7", "middle/5", "middle/6", "middle/190"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Blob:
    return blob_of(NEW, tmp_path_factory.mktemp("other") / "store")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lazarus-")]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """podman wants its run root to be at most 50 characters."""
    with tempfile.TemporaryDirectory(prefix="lz-", dir="/tmp") as path:
        yield Path(path)


def pull(store: Store, blob: Blob, tar: bytes, *, limits: Limits | None = None) -> bool:
    """Whether parts were enough; then the layer is published, and the whole of it is looked at."""
    blob.asked.clear()
    with store.content.lease() as lease:
        staged = ingest_chunked(store.layers, lease, blob, blob.descriptor, DiffID(sha256(tar)), limits=limits)
        if staged is None:
            assert not store.layers.has(DiffID(sha256(tar)))
            return False
        store.content.publish(lease, layers=[staged], rows=image_rows(sha256(tar).encode(), [staged.diff_id]))
    assert_tar(store, DiffID(sha256(tar)), tar)
    return True


@pytest.mark.parametrize("form", [lambda blob: blob, without_tar_split], ids=["tar-split", "gaps"])
def test_only_what_changed_is_fetched(store: Store, new: Blob, form: Callable[[Blob], Blob]) -> None:
    add_image(store, OLD)
    blob = form(new)
    assert pull(store, blob, NEW)
    tail = sum(int(new.descriptor.annotations[name].split(":")[1]) for name in (POSITION, TAR_SPLIT))
    changed = sum(len(files()[name]) for name in ("small/7", "middle/5", "middle/6", "middle/190"))
    if form is without_tar_split:
        assert blob.wire < tail + changed + 400_000  # headers, and files that are shorter than a request
    else:
        assert len(blob.asked) == 4 and blob.wire < tail + changed + 9000
    assert blob.wire < len(new.data) / 8


def test_nothing_says_which_tar_the_blob_is(store: Store, new: Blob) -> None:
    """Nobody saw all of its bytes."""
    add_image(store, OLD)
    assert pull(store, new, NEW)
    assert store.layers.find_by_blob(new.descriptor.digest) is None
    rows = store.catalogue.read().execute("SELECT digest, compression FROM layer_blobs WHERE diff_id=?", (sha256(NEW),))
    assert [tuple(row) for row in rows.fetchall()] == [(sha256(NEW), "none")]


def test_a_layer_that_is_all_here_needs_only_the_table(store: Store, new: Blob, tmp_path: Path) -> None:
    """The same files, in another tar."""
    add_image(store, make_tar(dict(reversed(files("small/7", "middle/5", "middle/6", "middle/190").items()))))
    assert pull(store, new, NEW)
    assert len(new.asked) == 1


def test_an_empty_store_asks_for_nothing(store: Store, new: Blob) -> None:
    assert not pull(store, new, NEW)
    assert new.asked == []


def test_a_store_of_other_things_asks_for_the_table_alone(store: Store, new: Blob) -> None:
    add_image(store, make_tar({"a": content("a")}))
    assert not pull(store, new, NEW)
    assert len(new.asked) == 1


@pytest.mark.parametrize("refused", ["lazarus-ranges", "lazarus-tar"])
def test_without_threads_it_ends_and_leaves_nothing_open(
    store: Store, new: Blob, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    add_image(store, OLD)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        pull(store, new, NEW)
    assert os.listdir("/proc/self/fd") == before


def test_a_layer_without_a_table_is_not_for_parts(store: Store, new: Blob) -> None:
    add_image(store, OLD)
    plain = Blob(new.data, {})
    assert not pull(store, plain, NEW) and plain.asked == []
    unknown = Blob(new.data, {**new.descriptor.annotations, POSITION: "10:20:30:2"})
    assert not pull(store, unknown, NEW) and unknown.asked == []


def test_files_that_are_there_twice_and_inline_ones_of_any_size(store: Store, tmp_path: Path) -> None:
    old = {f"{number}": hashlib.shake_256(b"%d" % number).digest(3000 * number + 1) for number in range(30)}
    tar = make_tar(old | {f"copy/{name}": data for name, data in old.items()} | {"new": b"new"})
    add_image(store, make_tar(old), limits=Limits(inline_limit=40_000))
    blob = blob_of(tar, tmp_path / "other")
    assert pull(store, blob, tar)
    assert len(blob.asked) <= 2


def test_many_ranges_become_fewer(store: Store, tmp_path: Path) -> None:
    """Every second file is new: not one request for each."""
    old = {f"{number:04}": hashlib.shake_256(b"%d" % number).digest(9000) for number in range(0, 2400, 2)}
    new = {f"{number:04}": hashlib.shake_256(b"%d" % number).digest(40) for number in range(1, 2400, 2)}
    tar = make_tar(dict(sorted((old | new).items())))
    add_image(store, make_tar(old | {f"more/{number}": content(str(number), 30_000) for number in range(3)}))
    blob = blob_of(tar, tmp_path / "other")
    assert not pull(store, blob, tar) or len(blob.asked) <= 513


# ---- lies ----


def entry_of(toc: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in toc["entries"] if entry["name"] == name)
    return found


def says_another_digest(toc: dict[str, Any]) -> None:
    """Of a file that the store has, and of the right size: 5000 + 97 n bytes are those of no other."""
    entry_of(toc, "middle/5")["digest"] = sha256(files()["middle/5"])


def says_a_digest_of_other_bytes(toc: dict[str, Any]) -> None:
    entry_of(toc, "middle/5")["digest"] = "sha256:" + 64 * "0"


def swaps_two_places(toc: dict[str, Any]) -> None:
    a, b = entry_of(toc, "middle/5"), entry_of(toc, "middle/6")
    for key in ("offset", "endOffset"):
        a[key], b[key] = b[key], a[key]


def says_less(toc: dict[str, Any]) -> None:
    entry_of(toc, "middle/5")["size"] -= 1


def says_more(toc: dict[str, Any]) -> None:
    entry_of(toc, "middle/5")["size"] += 1


def cuts_frames(toc: dict[str, Any]) -> None:
    entry_of(toc, "middle/5")["endOffset"] -= 1


def leaves_the_blob(toc: dict[str, Any]) -> None:
    toc["entries"][-1]["endOffset"] = 2**62


def has_no_end(toc: dict[str, Any]) -> None:
    del entry_of(toc, "middle/5")["endOffset"]


def has_no_digest(toc: dict[str, Any]) -> None:
    del entry_of(toc, "middle/5")["digest"]


def leaves_a_file_out(toc: dict[str, Any]) -> None:
    toc["entries"].remove(entry_of(toc, "small/3"))


def has_one_more(toc: dict[str, Any]) -> None:
    toc["entries"].append({"type": "reg", "name": "../../etc/passwd", "size": 0})


def moves_a_chunk(toc: dict[str, Any]) -> None:
    next(entry for entry in toc["entries"] if entry["type"] == "chunk")["chunkOffset"] += 1


def is_another_version(toc: dict[str, Any]) -> None:
    toc["version"] = 2


def names_another_tar_split(toc: dict[str, Any]) -> None:
    toc["tarSplitDigest"] = "sha256:" + 64 * "0"


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (says_another_digest, "tar has diff ID"),
        (says_a_digest_of_other_bytes, "file middle/5: its bytes have digest"),
        (swaps_two_places, "not after those before"),
        (says_less, "file middle/5: frames before byte|tar-split: its file number"),
        (says_more, "file middle/5: frames before byte|tar-split: its file number"),
        (cuts_frames, "file middle/5: "),
        (leaves_the_blob, "leave the blob"),
        (has_no_end, "leave the blob"),
        (has_no_digest, "entry middle/5: a file without a digest"),
        (leaves_a_file_out, "tar-split: its file number"),
        (has_one_more, "tar-split: ends after"),
        (moves_a_chunk, "its chunks do not make up the file"),
        (is_another_version, "version 2"),
        (names_another_tar_split, "tar-split has digest"),
    ],
)
def test_a_table_that_lies_is_found_out(
    store: Store, new: Blob, lie: Callable[[dict[str, Any]], None], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    add_image(store, OLD)
    with caplog.at_level(logging.WARNING):
        assert not pull(store, with_table(new, lie), NEW)
    import re

    assert re.search(said, caplog.text), caplog.text
    assert "so it is fetched whole" in caplog.text


def test_the_table_is_the_one_of_the_manifest(store: Store, new: Blob, caplog: pytest.LogCaptureFixture) -> None:
    add_image(store, OLD)
    lie = {**new.descriptor.annotations, CHECKSUM: sha256(b"another")}
    assert not pull(store, Blob(new.data, lie), NEW)
    assert f"expected is {sha256(b'another')}" in caplog.text


@pytest.mark.parametrize(
    "table",
    [b"", b"{}", b"[]", b'{"version":1}', b'{"version":1,"entries":[{"type":"chunk","name":"a"}]}', b"\xff" * 100],
)
def test_what_is_no_table(store: Store, new: Blob, table: bytes) -> None:
    add_image(store, OLD)
    assert not pull(store, with_table(new, table), NEW)


def test_bytes_of_the_blob_that_are_wrong_are_found_out(
    store: Store, new: Blob, caplog: pytest.LogCaptureFixture
) -> None:
    add_image(store, OLD)
    assert pull(store, new, NEW)
    places = [offset + size // 2 for offset, size in new.asked]
    with Store(store.paths.root + "2") as other:
        add_image(other, OLD)
        for place in places:
            data = bytearray(new.data)
            data[place] ^= 1
            assert not pull(other, Blob(bytes(data), dict(new.descriptor.annotations)), NEW)
    assert "file middle/190: " in caplog.text


def test_what_a_frame_inflates_to_is_bounded(store: Store, new: Blob, caplog: pytest.LogCaptureFixture) -> None:
    add_image(store, OLD)
    assert not pull(store, new, NEW, limits=Limits(max_tar_size=1_000_000))
    assert "more than 1000000 bytes" in caplog.text


def test_what_a_tar_split_inflates_to_is_bounded(store: Store, new: Blob, caplog: pytest.LogCaptureFixture) -> None:
    """Lines that are nothing of a tar: 100 MB of them are 10 KB in the blob."""
    add_image(store, OLD)
    assert not pull(store, with_tar_split(new, b'{"type":2,"payload":""}\n' * 4_000_000), NEW)
    assert "bytes of it are 0 of the tar" in caplog.text


# ---- what goes wrong on the way ----


class Failing(Blob):
    """The n-th request, or its bytes, fail."""

    def __init__(self, blob: Blob, at: int, error: Exception | None) -> None:
        super().__init__(blob.data, dict(blob.descriptor.annotations))
        self.at, self.error = at, error
        self.opened: list[Stream] = []

    def open(self, offset: int, size: int) -> Stream:
        stream = super().open(offset, size)
        if len(self.asked) == self.at:
            if self.error is not None:
                raise self.error
            stream.data = stream.data[: size // 2]
        self.opened.append(stream)
        return stream


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_request_that_fails_is_the_callers(store: Store, new: Blob, at: int) -> None:
    add_image(store, OLD)
    blob = Failing(new, at, ConnectionResetError("reset"))
    with pytest.raises(ConnectionResetError, match="reset"):
        pull(store, blob, NEW)
    assert all(stream.closed for stream in blob.opened)
    assert pull(store, new, NEW)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_fewer_bytes_than_were_asked_for(store: Store, new: Blob, at: int) -> None:
    add_image(store, OLD)
    blob = Failing(new, at, None)
    assert not pull(store, blob, NEW)
    assert all(stream.closed for stream in blob.opened)


def test_what_a_progress_raises_stops_it(store: Store, new: Blob) -> None:
    add_image(store, OLD)

    def stop(event: object) -> None:
        raise KeyboardInterrupt

    with store.content.lease() as lease, pytest.raises(KeyboardInterrupt):
        ingest_chunked(store.layers, lease, new, new.descriptor, DiffID(sha256(NEW)), progress=stop)


def test_an_object_that_went_away_is_fetched_again(store: Store, new: Blob) -> None:
    add_image(store, OLD)
    digest = sha256(files()["middle/50"])
    path = Path(store.content.paths.objects, digest.hex[:2], digest.hex[2:])
    path.chmod(0o600)
    path.write_bytes(b"short")  # of the wrong size: as good as none
    with store.content.lease() as lease:
        staged = ingest_chunked(store.layers, lease, new, new.descriptor, DiffID(sha256(NEW)))
        assert staged is not None
    path.write_bytes(bytes(len(files()["middle/50"])))  # of the right one: the diff ID tells
    assert not pull(store, new, NEW)


def test_an_object_that_goes_away_meanwhile(store: Store, new: Blob, caplog: pytest.LogCaptureFixture) -> None:
    add_image(store, OLD)
    digest = sha256(files()["middle/50"])
    path = Path(store.content.paths.objects, digest.hex[:2], digest.hex[2:])

    class Removing(Blob):
        def open(self, offset: int, size: int) -> Stream:
            if self.asked:  # the table was read
                path.unlink(missing_ok=True)
            return super().open(offset, size)

    assert not pull(store, Removing(new.data, dict(new.descriptor.annotations)), NEW)
    assert f"object {digest}: not there any more" in caplog.text


# ---- podman's ----


@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
def test_layers_that_podman_writes(store: Store, tmp_path: Path, short_path: Path) -> None:
    """Whatever version it is: with a tar-split, or without."""
    root = ["podman", f"--root={short_path}/c", f"--runroot={short_path}/r", "--storage-driver=vfs"]
    (tmp_path / "new.tar").write_bytes(NEW)
    image = subprocess.run([*root, "import", "-q", tmp_path / "new.tar"], capture_output=True, check=True, text=True)
    subprocess.run(
        [*root, "push", "-q", "--compression-format=zstd:chunked", image.stdout.strip(), f"oci:{tmp_path}/oci:x"],
        capture_output=True, check=True,
    )  # fmt: skip

    def document(digest: str) -> Any:
        return json.loads((tmp_path / "oci/blobs" / digest.replace(":", "/")).read_bytes())

    manifest = document(json.loads((tmp_path / "oci/index.json").read_bytes())["manifests"][0]["digest"])
    (layer,) = manifest["layers"]
    (diff_id,) = document(manifest["config"]["digest"])["rootfs"]["diff_ids"]
    data = (tmp_path / "oci/blobs" / layer["digest"].replace(":", "/")).read_bytes()
    blob = Blob(data, layer["annotations"])
    assert blob.descriptor.digest == layer["digest"] and diff_id == sha256(NEW)
    add_image(store, OLD)
    assert pull(store, blob, NEW)
    assert blob.wire < len(data) / 5


def test_everything_that_a_tar_can_have(store: Store, tmp_path: Path) -> None:
    """Long names, owners, xattrs, links and devices: headers come back from the tar-split, and from the gaps."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, kind in enumerate([tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE] * 3):
            entry = tarfile.TarInfo("long" * 50 + f"/{number}")
            entry.type, entry.uid = kind, 3_000_000
            entry.linkname = "x" * 200 if kind == tarfile.SYMTYPE else ""
            tar.addfile(entry)
            entry = tarfile.TarInfo(f"file{number}")
            entry.size, entry.pax_headers = 20_000 + number, {"SCHILY.xattr.user.a": "b"}
            tar.addfile(entry, io.BytesIO(hashlib.shake_256(b"%d" % number).digest(entry.size)))
    whole = out.getvalue()
    blob = blob_of(whole, tmp_path / "other")
    for form, name in ((blob, "a"), (without_tar_split(blob), "b")):
        with Store(tmp_path / name) as store_:
            add_image(store_, make_tar({f"f{n}": hashlib.shake_256(b"%d" % n).digest(20_000 + n) for n in range(11)}))
            assert pull(store_, form, whole)
            assert form.wire < len(blob.data) / 4
