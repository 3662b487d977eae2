"""What the questions about pulls are asked with: versions of an image, and a line that counts."""

from __future__ import annotations

import io
import json
import random
import socket
import tarfile
import threading
from pathlib import Path

import pytest
from images_made import Made, layer, sha256

from benchmarks.contenders.registries import counted
from benchmarks.images.variants import with_an_edit, with_changed_files, with_other_bytes

FILES = [{f"{name}{number}": f"{name} of {number}\n".encode() * 50 for number in range(50)} for name in "ab"]


def archive(path: Path) -> Path:
    made = Made()
    made.image([layer({**files, "empty": b"", "d/": None}) for files in FILES])
    made.archive(path)
    return path


def files_of(layout: Path) -> list[dict[str, bytes]]:
    """Of each layer, after a look at what the documents say of it."""

    def blob(digest: str) -> bytes:
        data = (layout / f"blobs/sha256/{digest[7:]}").read_bytes()
        assert sha256(data) == digest
        return data

    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(entry["digest"]))
    config = json.loads(blob(manifest["config"]["digest"]))
    assert config["rootfs"]["diff_ids"] == [one["digest"] for one in manifest["layers"]]
    found = []
    for one in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(blob(one["digest"]))) as tar:
            regular = [info for info in tar if info.isreg() and info.size]
            found.append({info.name: tar.extractfile(info).read() for info in regular})  # type: ignore[union-attr]
    return found


def test_a_version_differs_in_as_many_files_as_are_asked_for(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.tar")
    assert with_changed_files(source, tmp_path / "new", 0.05, with_other_bytes, 7) > 0
    new = files_of(tmp_path / "new")
    assert [list(one) for one in new] == [list(one) for one in FILES]
    differ = [old[name] != files[name] for old, files in zip(FILES, new, strict=True) for name in old]
    assert sum(differ) == 5
    with_changed_files(source, tmp_path / "again", 0.05, with_other_bytes, 7)
    assert files_of(tmp_path / "again") == new
    with_changed_files(source, tmp_path / "other", 0.05, with_other_bytes, 8)
    assert files_of(tmp_path / "other") != new


def test_changes_keep_the_size() -> None:
    chance = random.Random(1)
    for size in (1, 39, 40, 1000):
        old = bytes(range(256)) * 4
        for change in (with_other_bytes, with_an_edit):
            new = change(old[:size], chance)
            assert len(new) == size and new != old[:size]
    edited = with_an_edit(bytes(1000), chance)
    assert edited[:480] == edited[520:] == bytes(480)


def test_a_line_counts_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as asked:
                assert asked.read(5) == b"hello"
                connection.sendall(bytes(1_000_000))

        thread = threading.Thread(target=answer)
        thread.start()
        with counted(f"127.0.0.1:{server.getsockname()[1]}") as line:
            name, port = line.host.split(":")
            with socket.create_connection((name, int(port))) as client, client.makefile("rb") as answered:
                client.sendall(b"hello")
                assert answered.read() == bytes(1_000_000)
            assert line.count == 1_000_005
        thread.join()
        with pytest.raises(OSError), socket.create_connection((name, int(port)), 1):
            pass
