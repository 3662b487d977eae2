"""Opening a store: what is one, what is not, and what opening costs."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_helpers import add_image, assert_whole, layer_tar, let_others_in

import lazarus
from lazarus import chunks
from lazarus.content import schema
from lazarus.errors import StoreError
from lazarus.store import Store, default_root


def test_a_new_store_has_its_directories_and_is_private(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er" / "store"
    with Store(root) as store:
        assert store.paths.root == str(root)
    assert os.stat(root).st_mode & 0o7777 == 0o700
    assert {entry.name for entry in root.iterdir()} == {
        *("lazarus.db", "blobs", "objects", "layers", "stacks", "containers", "checkpoints", "volumes", "snapshots"),
        "staging",
        *("trash", "reserve"),
    }


def test_an_empty_directory_becomes_one(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    (tmp_path / "lost+found").mkdir()  # of a fresh file system
    Store(tmp_path).close()
    assert os.stat(tmp_path).st_mode & 0o7777 == 0o700
    Store(tmp_path, create=False).close()


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZARUS_ROOT", "/somewhere")
    assert default_root() == "/somewhere"
    monkeypatch.delenv("LAZARUS_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == "/var/lib/lazarus"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == "/data/lazarus"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert default_root() == "/home/x/.local/share/lazarus"


def _line(root: Path, **options: bool) -> str:
    with pytest.raises((StoreError, OSError)) as caught:
        Store(root, **options)
    text = str(caught.value)
    assert "\n" not in text and str(root) in text
    return text


def test_what_is_no_store(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert _line(file).endswith("not a directory")
    assert _line(file / "below").endswith("not a directory")
    assert _line(tmp_path).endswith("not a Lazarus store, and not empty")
    assert file.read_text() == "x"
    assert _line(tmp_path / "missing", create=False).endswith("no store there")
    assert not (tmp_path / "missing").exists()
    (tmp_path / "empty").mkdir()
    assert _line(tmp_path / "empty", create=False).endswith("no store there")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_newer_schema(tmp_path: Path) -> None:
    Store(tmp_path / "s").close()
    with sqlite3.connect(tmp_path / "s" / "lazarus.db") as connection:
        connection.execute(f"PRAGMA user_version={schema.VERSION + 7}")
    connection.close()
    assert f"schema version {schema.VERSION + 7}" in _line(tmp_path / "s")


@pytest.mark.parametrize("damage", ["text", "page", "truncated"])
def test_a_damaged_catalogue(tmp_path: Path, damage: str) -> None:
    Store(tmp_path / "s").close()
    path = tmp_path / "s" / "lazarus.db"
    data = path.read_bytes()
    path.write_bytes({"text": b"hello " * 999, "page": data[:100] + b"\xff" * 5000, "truncated": data[:3000]}[damage])
    assert "lazarus.db: " in _line(tmp_path / "s")


def test_a_lost_directory_is_named(tmp_path: Path) -> None:
    Store(tmp_path / "s").close()
    (tmp_path / "s" / "staging").rmdir()
    assert "lost a directory" in _line(tmp_path / "s")


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_no_permission(tmp_path: Path, mode: int) -> None:
    """As another user, in a directory that is there, and in one below."""
    let_others_in(tmp_path)
    Store(tmp_path / "store").close()
    os.chown(tmp_path / "store", 65534, 65534)
    os.chmod(tmp_path / "store", mode)
    script = (
        "import os, sys; from lazarus.store import Store; import lazarus.content.catalogue, lazarus.content.content\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "for root in sys.argv[1:]:\n"
        "    try: Store(root); print('opened')\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    roots = [str(tmp_path / "store"), str(tmp_path / "new")]
    out = subprocess.run([sys.executable, "-c", script, *roots], capture_output=True, text=True, check=True).stdout
    for line, root in zip(out.splitlines(), roots, strict=True):
        assert line.startswith("PermissionError ") and root in line


def test_rooms_are_built_once_and_when_asked_for(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        assert store.layers is store.layers and store.stacks.layers is store.layers
        assert "s>" in repr(store)
    store.close()  # a second time


def test_the_chunk_key_is_one_of_each_store(tmp_path: Path) -> None:
    """Also where several processes ask for it at once, and for ever after."""
    root = tmp_path / "s"
    Store(root).close()
    program = f"import lazarus; print(lazarus.Store({str(root)!r}).chunk_key.hex())"
    asking = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = {process.communicate(timeout=60)[0].strip() for process in asking}
    with Store(root) as store, Store(tmp_path / "other") as other:
        assert told == {store.chunk_key.hex()} == {store.chunk_key.hex()}
        assert len(store.chunk_key) == 32
        assert other.chunk_key != store.chunk_key
        data = random.Random(7).randbytes(300_000)
        cuts = [
            chunks.cut(data, average=1024, key=key)["offset"].tolist()
            for key in (None, store.chunk_key, other.chunk_key)
        ]
        assert len({tuple(cut) for cut in cuts}) == 3


def test_a_store_opens_again_after_work(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        add_image(store, layer_tar("a"))
    with Store(tmp_path / "s", create=False) as store:
        assert_whole(store)


def test_the_package_exports_what_it_says() -> None:
    assert lazarus.Store is Store
    assert lazarus.errors.StoreError is StoreError
    assert set(lazarus.__all__) <= set(dir(lazarus))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lazarus.nothing  # noqa: B018


def test_importing_and_opening_are_cheap(tmp_path: Path) -> None:
    """`import lazarus` brings in nothing; a store that exists opens without listing objects or layers."""
    with Store(tmp_path / "s") as store:
        add_image(store, layer_tar("a"))
    script = (
        "import sys; before = set(sys.modules); import lazarus\n"
        "print(len({m for m in set(sys.modules) - before if m.startswith('lazarus')}))\n"
        "from lazarus.store import Store; import sqlite3\n"
        f"Store({str(tmp_path / 's')!r})\n"
        "print(*sorted({'dataclasses', 'tempfile', 'shutil', 'subprocess', 'logging', 'tarfile', 'asyncio', 'numpy'}"
        " & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["1", ""]

    def opening() -> float:
        start = time.perf_counter()
        Store(tmp_path / "s", create=False)
        return time.perf_counter() - start

    best = min(opening() for _ in range(20))
    assert best < 0.005, f"{best * 1e3:.2f} ms"
