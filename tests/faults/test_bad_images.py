"""Bad input: one clear line that names the object, and the store as it was."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import Command

sys.path.insert(0, str(Path(__file__).parent.parent))
import images_made as made

import lazarus
from lazarus import errors
from lazarus.terms import Limits


@pytest.fixture
def store(tmp_path: Path) -> lazarus.Store:
    """With one good image, so that "as it was" says something."""
    store = lazarus.Store(tmp_path / "store")
    good = made.Made()
    good.image([made.layer({"good": b"y" * 6000})], "good:1")
    store.images.load(good.archive(tmp_path / "good.tar"))
    return store


def picture(store: lazarus.Store) -> tuple[object, ...]:
    """Every row that counts, and every file outside of the database."""
    tables = ("images", "image_layers", "names", "layers", "layer_blobs", "blobs", "leases")
    rows = [sorted(map(tuple, store.catalogue.read().execute(f"SELECT * FROM {table}"))) for table in tables]
    root = Path(store.paths.root)
    files = sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "lazarus.db" not in path.name
    )
    return (rows, files)


def refuse(store: lazarus.Store, source: Path, match: str, kind: type[BaseException] = errors.LazarusError) -> None:
    before = picture(store)
    with pytest.raises(kind, match=match) as caught:
        store.images.load(source)
    assert str(caught.value).isprintable()  # one line, and nothing that drives a terminal
    assert picture(store) == before
    assert store.images.get("good:1").layers


def rewritten(source: made.Made, change: Callable[[dict[str, object]], object]) -> None:
    """Changes the only manifest and everything that names it."""
    (entry,) = source.entries
    document = json.loads(source.blobs.pop(entry["digest"]))
    change(document)
    data = source.put(json.dumps(document).encode())
    entry.update(digest=made.sha256(data), size=len(data))


def one_image() -> made.Made:
    source = made.Made()
    source.image([made.base_tar()])
    return source


def test_flipped_and_truncated_blobs(store: lazarus.Store, tmp_path: Path) -> None:
    source = one_image()
    for digest, data in list(source.blobs.items()):
        for number, broken in enumerate((data[: len(data) // 2], bytes([data[0] ^ 1]) + data[1:], data + b"x", b"")):
            source.blobs[digest] = broken
            refuse(store, source.archive(tmp_path / f"{number}.tar"), digest)
        last = len(data) - 10
        source.blobs[digest] = data[:last] + bytes([data[last] ^ 0x10]) + data[last + 1 :]
        refuse(store, source.archive(tmp_path / "flipped.tar"), digest)
        source.blobs[digest] = data


def test_missing_blobs(store: lazarus.Store, tmp_path: Path) -> None:
    source = one_image()
    for digest in list(source.blobs):
        data = source.blobs.pop(digest)
        refuse(store, source.archive(tmp_path / "bad.tar"), digest, errors.NotFoundError)
        source.blobs[digest] = data


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update(manifests=[]), "both manifests and layers"),
        (lambda m: m.update(schemaVersion=1), "schema 1"),
        (lambda m: m.update(mediaType=f"{made.OCI}index.v1+json"), "descriptor says"),
        (lambda m: m["config"].update(mediaType=f"{made.OCI}layer.v1.tar"), "config is of media type"),
        (lambda m: m["layers"][0].update(mediaType=f"{made.OCI}manifest.v1+json"), "which is no layer"),
        (lambda m: m["layers"][0].update(mediaType=f"{made.OCI}layer.nondistributable.v1.tar"), "non-distributable"),
        (lambda m: m["layers"][0].update(digest="sha256:../../etc/passwd"), "not a Digest"),
        (lambda m: m["layers"][0].update(digest=m["layers"][0]["digest"].upper()), "not a Digest"),
        (lambda m: m["layers"][0].update(digest="md5:00"), "not a Digest"),
        (lambda m: m["layers"][0].update(size=-1), "size"),
        (lambda m: m["layers"][0].update(size=m["layers"][0]["size"] + 1), "its descriptor says"),
        (lambda m: m["layers"].append(m["layers"][0]), "diff IDs"),
        (lambda m: m.update(layers=[]), "diff IDs"),
        (lambda m: m.update(layers="no"), "array"),
        (lambda m: m.update(mediaType="a\nb"), "printable"),
        (lambda m: m["config"].update(mediaType="\x1b[2J"), "printable"),
        (lambda m: m["layers"][0].update(mediaType="application/\u202etar"), "printable"),
        (lambda m: m["layers"][0].update(mediaType=f"{made.OCI}layer.v1.tar"), "checksum"),
        (lambda m: m["layers"][0].update(mediaType=f"{made.OCI}layer.v1.tar+zstd"), "zstd"),
    ],
)
def test_manifests(store: lazarus.Store, tmp_path: Path, change: Callable[..., object], match: str) -> None:
    source = one_image()
    rewritten(source, change)
    refuse(store, source.archive(tmp_path / "bad.tar"), match)


def test_a_layer_that_is_known_is_not_taken_for_something_else(store: lazarus.Store, tmp_path: Path) -> None:
    """Its bytes are not read again, and so cannot say that the manifest's media type is wrong."""
    source = one_image()
    store.images.load(source.archive(tmp_path / "good.tar"), keep_blobs=False)
    rewritten(source, lambda m: m["layers"][0].update(mediaType=f"{made.OCI}layer.v1.tar"))  # type: ignore[index]
    refuse(store, source.archive(tmp_path / "bad.tar"), "checksum", errors.FormatError)


def test_platforms_that_are_no_words(store: lazarus.Store, tmp_path: Path) -> None:
    source = one_image()
    source.entries[0]["platform"] = {"os": "linux", "architecture": "am\nd64"}
    refuse(store, source.archive(tmp_path / "bad.tar"), "printable", errors.FormatError)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({}, "an object where an array"),
        ([], "an array where an array of images"),
        ([[]], "an array where an object"),
        ([{}], "no Config"),
        ([{"Config": "../x", "Layers": []}], "leaves the archive"),
        ([{"Config": "nothing", "Layers": []}], "no member 'nothing'"),
        ([{"Config": "c", "Layers": []}], "0 layers, its config has 1"),
        ([{"Config": "c", "Layers": ["l", "l"]}], "2 layers, its config has 1"),
        ([{"Config": "c", "Layers": ["nothing"]}], "no member 'nothing'"),
        ([{"Config": "c", "Layers": [1]}], "Layers is not an array of strings"),
        (
            [{"Config": "c", "Layers": ["l"], "RepoTags": ["A b\n"]}],
            r"image 1, RepoTags: not a reference",
        ),
        ([{"Config": "c", "Layers": ["c"]}], "layer c: tar"),
        ([{"Config": "l", "Layers": ["l"]}], "not UTF-8|not JSON"),
    ],
)
def test_docker_archives(store: lazarus.Store, tmp_path: Path, entries: object, match: str) -> None:
    tar = made.base_tar()
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [made.sha256(tar)]}}
    files = {"manifest.json": json.dumps(entries).encode(), "c": json.dumps(config).encode(), "l": tar}
    bad = tmp_path / "bad.tar"
    bad.write_bytes(made.layer(files))
    refuse(store, bad, match)


def test_json_with_duplicate_keys(store: lazarus.Store, tmp_path: Path) -> None:
    source = one_image()
    (entry,) = source.entries
    data = source.blobs.pop(entry["digest"])
    twice = source.put(data.replace(b"{", b'{"schemaVersion": 2, ', 1))
    entry.update(digest=made.sha256(twice), size=len(twice))
    refuse(store, source.archive(tmp_path / "bad.tar"), "schemaVersion", errors.FormatError)


def test_diff_id_that_is_not_the_layers(store: lazarus.Store, tmp_path: Path) -> None:
    source = made.Made()
    wrong = made.sha256(b"something else")
    source.image([made.base_tar()], config={"rootfs": {"type": "layers", "diff_ids": [wrong]}})
    refuse(store, source.archive(tmp_path / "bad.tar"), f"config says {wrong}", errors.CorruptError)


def test_index_that_names_itself_or_nests_deeply(store: lazarus.Store, tmp_path: Path) -> None:
    source = one_image()
    entry = source.entries.pop()
    for _ in range(8):
        document = {"schemaVersion": 2, "mediaType": f"{made.OCI}index.v1+json", "manifests": [entry]}
        entry = made.descriptor(f"{made.OCI}index.v1+json", source.put(json.dumps(document).encode()))
    source.entries.append(entry)
    refuse(store, source.archive(tmp_path / "bad.tar"), "nested", errors.LimitError)


def tar_of(*members: tuple[str, bytes, dict[str, object]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    ("tar", "match"),
    [
        (tar_of(("../../etc/cron.d/evil", b"x", {})), r"\.\."),
        (tar_of(("a/../../b", b"x", {})), r"\.\."),
        (tar_of(("a", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc"}), ("a/passwd", b"x", {})), "a/passwd"),
        (tar_of(("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "../../etc/shadow"})), "hard"),
        (tar_of(("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "nothing"})), "nothing"),
        (tar_of(("d/.wh.", b"", {})), r"\.wh\."),
        (tar_of(("d/.wh..", b"", {})), r"\.wh\.\."),
        (tar_of(("n" * 300, b"x", {})), "300"),
        (tar_of(("/".join("d" * 250 for _ in range(20)), b"x", {})), "at most"),
        (b"not a tar at all" * 64, "checksum"),
        (tar_of(("whole", b"x" * 3000, {}))[:2000], "ends inside"),
    ],
)
def test_layers(store: lazarus.Store, tmp_path: Path, tar: bytes, match: str) -> None:
    source = made.Made()
    source.image([tar])
    digest = made.sha256(gzip.compress(tar, mtime=0))
    refuse(store, source.archive(tmp_path / "bad.tar"), f"{digest}.*{match}")


def test_harmless_oddities_are_taken(store: lazarus.Store, tmp_path: Path) -> None:
    """Absolute names are names below the root, the later of two wins, overlay's xattrs are data."""
    overlay = {"pax_headers": {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.redirect": "/x"}}
    tar = tar_of(("/etc/motd", b"1", {}), ("etc/motd", b"2", {}), ("dir", b"", {"type": tarfile.DIRTYPE, **overlay}))
    source = made.Made()
    source.image([tar])
    (image,) = store.images.load(source.archive(tmp_path / "odd.tar"))
    with image.layers[0].index() as index:
        assert index.entry(index.find(b"etc/motd")).size == 1
        assert index.entry(index.find(b"dir")).xattrs[b"trusted.overlay.opaque"] == b"y"


def test_decompression_bomb(store: lazarus.Store, tmp_path: Path) -> None:
    source = made.Made()
    source.image([tar_of(("zeros", bytes(80 << 20), {}))])
    archive = source.archive(tmp_path / "bomb.tar")
    before = picture(store)
    for limits in (Limits(max_tar_size=1 << 20), Limits(max_ratio=100), Limits(max_file_size=1 << 20)):
        with pytest.raises(errors.LimitError, match=r"allowed|more than"):
            store.images.load(archive, limits=limits)
        assert picture(store) == before


def test_decompression_bomb_around_the_image(store: lazarus.Store, tmp_path: Path) -> None:
    """The archive itself may be compressed."""
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb") as out:
        for _ in range(80):
            out.write(bytes(1 << 20))
    before = picture(store)
    for limits in (Limits(max_tar_size=1 << 20), Limits(max_ratio=100)):
        with pytest.raises(errors.LimitError, match=r"bomb\.tar\.gz: at least \d+ bytes uncompressed, allowed are"):
            store.images.load(bomb, limits=limits)
        assert picture(store) == before


def test_the_first_bad_layer_stops_the_others(store: lazarus.Store, tmp_path: Path) -> None:
    """Otherwise somebody waits for all of a large image to hear that it is broken."""
    source = made.Made()
    large = tar_of(("large", os.urandom(1 << 20) * 250, {}))
    bad = tar_of(("d/.wh.", b"", {}))
    source.image([large, bad], compress=False)
    layout = source.directory(tmp_path / "bad")
    done: list[int] = []

    def progress(event: lazarus.terms.ProgressEvent) -> None:
        if event.name == made.sha256(large):
            done.append(event.done)

    before = picture(store)
    with pytest.raises(errors.FormatError, match=r"\.wh\."):
        store.images.load(layout, progress=progress)
    assert picture(store) == before
    assert max(done, default=0) < len(large)


@pytest.mark.parametrize("size", [0, 100, 512, 1000, 5000])
def test_archives_that_end_early(store: lazarus.Store, tmp_path: Path, size: int) -> None:
    whole = one_image().archive(tmp_path / "whole.tar")
    bad = tmp_path / "bad.tar"
    bad.write_bytes(whole.read_bytes()[:size])
    refuse(store, bad, "bad.tar")


def test_weird_members_of_the_outer_archive(store: lazarus.Store, tmp_path: Path) -> None:
    files = one_image().files()
    for name in ("../escape", "/etc/passwd"):
        bad = tmp_path / "bad.tar"
        bad.write_bytes(made.layer({name: b"x", **files}))
        refuse(store, bad, "leaves the archive", errors.UnsafeError)
    bad.write_bytes(made.layer({"index.json": b"{}"})[:1024] + made.layer(files))
    refuse(store, bad, "index.json")


@pytest.mark.parametrize("words", [["load", "-q", "-i"], ["import", "-q"]])
def test_nothing_and_a_directory_are_no_archive(tmp_path: Path, words: list[str]) -> None:
    """As a pipe gives it whose writer failed. The line names what was given."""
    (tmp_path / "empty").touch()
    lazarus = Command(tmp_path / "store")
    for name, source in ((f"{tmp_path}/empty", b""), ("/dev/null", b""), ("-", b"")):
        result = lazarus(*words, name, stdin=source)
        assert result.code == 1 and result.err.count("\n") == 1
        assert (name if name != "-" else "stdin") in result.err and ": empty: not a" in result.err
    result = lazarus(*words, str(tmp_path))
    assert result.code == 1 and result.err.startswith(f"lazarus: {tmp_path}: ") and result.err.count("\n") == 1
    assert lazarus.ok("images", "-q") == ""
