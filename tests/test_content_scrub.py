"""Scrubbing: damage of every kind is named, nothing is changed, what was whole is left out the next time, the cache
stays as it is."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Command
from store_helpers import KINDS, add_image, damage, first_of, layer_tar, object_names, remove_image, tree

from lazarus.content import workers
from lazarus.store import Store

TARS = [layer_tar("a"), layer_tar("b", files=60)]
DAY = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        store.stacks.open(add_image(store, *TARS, blob="gzip"))
        yield store


def _shards_of(store: Store) -> set[str]:
    return {name[:2] for name in object_names(store)}


def test_a_whole_store_has_no_problem_and_every_file_is_read(store: Store) -> None:
    before = tree(store.paths.root)
    scrub = store.scrub(threads=3)
    assert list(scrub) == []
    paths = [f"{store.paths.objects}/{name[:2]}/{name[2:]}" for name in object_names(store)]
    paths += [f"{store.paths.blobs}/{name}" for name in os.listdir(store.paths.blobs)]
    assert (scrub.files, scrub.bytes) == (len(paths), sum(map(os.path.getsize, paths)))
    assert (scrub.shards, scrub.skipped) == (256, 0)
    assert tree(store.paths.root) == before | {"scrubbed"}


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "one bit"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_again_and_again_and_nothing_is_changed(store: Store, kind: str, how: str) -> None:
    name, path = first_of(store, kind)
    damage(path, how)
    files = tree(store.paths.root)
    found = list(store.scrub())
    assert found and any(name in problem.text for problem in found), found
    assert not any(problem.repaired for problem in found)
    assert all("\n" not in problem.text for problem in found)
    again = store.scrub(since=DAY)  # where nothing was wrong is left out
    assert list(again) == found
    assert again.skipped == 256 - len({problem.name[7:9] for problem in found})
    assert tree(store.paths.root) == files | {"scrubbed"}


def test_a_directory_of_objects_that_cannot_be_read(store: Store) -> None:
    """It is named, the others are read, and what lies in it is missed by its layers; nothing of it can be mended."""
    names = sorted(object_names(store))
    shard = names[0][:2]
    os.rename(f"{store.paths.objects}/{shard}", f"{store.paths.root}/away")
    Path(f"{store.paths.objects}/{shard}").write_bytes(b"")
    name = next(name for name in names if name[:2] != shard)
    damage(f"{store.paths.objects}/{name[:2]}/{name[2:]}", "one bit")
    for problems in (list(store.scrub()), list(store.check()), list(store.check(repair=True))):
        found = {(problem.kind, problem.name): problem for problem in problems}
        assert "cannot be read: Not a directory" in found["shard", shard].text and not found["shard", shard].repaired
        assert ("object", f"sha256:{name}") in found and any(kind == "layer" for kind, _ in found)
    result = Command(store.paths.root)("system", "scrub")
    assert result.code == 1 and f"objects {shard}: the directory cannot be read: Not a directory\n" in result.out


def test_a_content_that_an_index_has_itself(store: Store) -> None:
    name, path = first_of(store, "layers/index")
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(4096)
        byte = file.read(1)
        file.seek(4096)
        file.write(bytes([byte[0] ^ 1]))
    (problem,) = store.scrub()
    assert problem.name == name
    assert "small has another digest" in problem.text


def test_a_recipe_of_another_layer(store: Store) -> None:
    recipes = sorted(Path(store.paths.layers).glob("*/recipe"))
    contents = [recipe.read_bytes() for recipe in recipes]
    for recipe, content in zip(recipes, reversed(contents), strict=True):
        recipe.unlink()
        recipe.write_bytes(content)
    found = list(store.scrub())
    assert [problem.kind for problem in found] == ["layer", "layer"]
    assert all("its header is of another layer" in problem.text for problem in found)


def test_what_was_whole_is_left_out_while_that_is_recent(store: Store) -> None:
    assert list(store.scrub()) == []
    again = store.scrub(since=DAY)
    assert list(again) == []
    assert (again.skipped, again.shards, again.files, again.bytes) == (256, 0, 0, 0)
    everything = store.scrub()
    assert list(everything) == [] and everything.skipped == 0

    path = Path(store.paths.root) / "scrubbed"
    times = list(struct.unpack("<256Q", path.read_bytes()))
    assert all(time.time() - 100 < when <= time.time() for when in times)
    times[:3] = [0, int(time.time()) - 2 * 86400, int(time.time()) + 1000]  # never; too long ago; a clock was wrong
    path.write_bytes(struct.pack("<256Q", *times))
    again = store.scrub(since=DAY)
    assert list(again) == [] and again.skipped == 253

    path.write_bytes(b"garbage")
    again = store.scrub(since=DAY)
    assert list(again) == [] and again.skipped == 0


def test_an_interrupted_one_is_gone_on_with(store: Store) -> None:
    calls = 0

    def interrupt(_event: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt

    before = threading.active_count()
    scrub = store.scrub(threads=2, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(scrub)
    assert threading.active_count() == before
    again = store.scrub(since=DAY)
    assert list(again) == []
    assert again.skipped == scrub.shards > 0
    assert again.skipped + again.shards == 256


def test_who_leaves_it_early_ends_its_threads(store: Store) -> None:
    for name in object_names(store):
        damage(f"{store.paths.objects}/{name[:2]}/{name[2:]}", "one bit")
    before = threading.active_count()
    found = iter(store.scrub(threads=4))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    checking = store.check(threads=4)
    next(checking)
    checking.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_what_is_removed_meanwhile_is_no_problem(store: Store) -> None:
    diff_ids = [*add_image(store, layer_tar("c", files=30))]
    removed = False

    def remove(_event: object) -> None:
        nonlocal removed
        if not removed:
            removed = True
            remove_image(store, diff_ids)
            store.content.collect()

    assert list(store.scrub(threads=1, progress=remove)) == []
    assert removed


def test_the_rate_holds_all_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(workers.time, "monotonic", lambda: now)

    def sleep(seconds: float) -> None:
        nonlocal now
        assert 0 < seconds <= 0.1
        now += seconds

    monkeypatch.setattr(workers.time, "sleep", sleep)
    with workers.Workers(1) as pool:
        reading = workers.Reading(pool, "scrub", rate=1000)
        for _ in range(10):
            reading(1, 500)
        assert now == pytest.approx(105)
        now += 60  # time that nobody has used is not made up for
        reading(1, 2000)
        assert now == pytest.approx(167)


def _resident(path: str) -> int:
    """Pages of a file that are in the page cache, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as m:
        there = (ctypes.c_ubyte * ((len(m) + 4095) // 4096))()
        view = (ctypes.c_char * len(m)).from_buffer(m)
        code = libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(m)), there)
        del view
        assert code == 0
        return sum(page & 1 for page in there)


def test_the_page_cache_stays_as_it_is(store: Store) -> None:
    names = sorted(object_names(store))[:2]
    cached, other = (f"{store.paths.objects}/{name[:2]}/{name[2:]}" for name in names)
    try:
        os.close(os.open(cached, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the tests has no O_DIRECT")
    for path in (cached, other):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    if _resident(other) != 0:
        pytest.skip("the file system of the tests keeps everything in memory")
    Path(cached).read_bytes()
    assert _resident(cached) == 2
    assert list(store.scrub()) == []
    assert (_resident(cached), _resident(other)) == (2, 0)


def test_bad_values(store: Store) -> None:
    for wrong in ({"threads": 0}, {"threads": 257}, {"rate": -1}, {"since": -1.0}):
        with pytest.raises(ValueError, match="expected"):
            store.scrub(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 1 to 256"):
        next(store.check(threads=0))


def test_any_number_of_threads_finds_the_same(store: Store) -> None:
    for kind in KINDS:
        damage(first_of(store, kind)[1], "one bit")
    one: list[Any] = list(store.check(threads=1))
    assert {problem.kind for problem in one} == {"object", "blob", "layer", "stack"}
    assert list(store.check(threads=7)) == one
    assert list(store.scrub(threads=7)) == list(store.scrub(threads=1))


def test_the_command(store: Store) -> None:
    lazarus = Command(store.paths.root)
    assert lazarus.ok("system", "scrub", "--rate", "1G", "--threads", "2").startswith("0 problems; 68 files, ")
    assert lazarus.ok("system", "scrub", "--since", "1d").endswith("; 256 of 256 shards left out")
    name, path = first_of(store, "object")
    damage(path, "one bit")
    assert lazarus("system", "scrub", "--since=12h").code == 0  # read it was, and whole
    result = lazarus("system", "scrub")
    assert result.code == 1 and result.out.startswith(f"object {name}: its bytes have another digest\n1 problem; ")
    result = lazarus("system", "scrub", "--format", "json")
    found = json.loads(result.out)
    assert result.code == 1 and found.pop("seconds") >= 0
    assert found["problems"] == [
        {"kind": "object", "name": name, "text": f"object {name}: its bytes have another digest"}
    ]
    assert (found["files"], found["shards"], found["skipped"]) == (68, 256, 0)
    for words in (["--since", "7"], ["--since", "x"], ["--since", "-3d"], ["--rate", "fast"], ["--threads", "0"]):
        result = lazarus("system", "scrub", *words)
        assert (result.code, result.out) == (2, "") and result.err, result
    assert lazarus("system", "check", "--threads", "1").code == 1
    assert lazarus("system", "check", "--threads", "999").code == 2
