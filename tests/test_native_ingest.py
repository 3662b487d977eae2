"""Ingest against archives of GNU tar and tarfile, read back through hashlib, zlib and tarfile; and every bad input."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lazarus.errors import (
    CancelledError,
    CorruptError,
    FormatError,
    LazarusError,
    LimitError,
    TruncatedError,
    UnsafeError,
)
from lazarus.terms import Limits

ingest_module = pytest.importorskip("lazarus._native.ingest")
recipe_module = pytest.importorskip("lazarus._native.recipe")
stream = pytest.importorskip("lazarus._native.stream")


class Bench:
    """A staging area and a store's objects directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staged = root / "staged"
        self.objects = root / "objects"
        self.staged.mkdir()
        self.objects.mkdir()
        self.count = 0

    def ingest(self, data: bytes, **options: object) -> ingest_module.IngestResult:
        """Ingests bytes from a file; `self.staging` is the layer's directory afterwards."""
        self.count += 1
        self.staging = self.root / f"layer{self.count}"
        self.staging.mkdir()
        source = self.root / "source"
        source.write_bytes(data)
        fd = os.open(source, os.O_RDONLY)
        try:
            return ingest_module.ingest(
                fd,
                **{"offset": 0, "size": len(data), **options},
                staging=str(self.staging),
                staged_objects=str(self.staged),
                objects=str(self.objects),
            )
        finally:
            os.close(fd)

    def publish(self) -> None:
        """Moves staged objects to where a store has them."""
        for path in self.staged.iterdir():
            (self.objects / path.name[:2]).mkdir(exist_ok=True)
            path.rename(self.objects / path.name[:2] / path.name[2:])

    def gives_back(self, tar: bytes) -> bool:
        """Whether recipe, index and objects of the layer that was ingested last give this tar."""
        out = self.root / "out"
        with out.open("w+b") as file:
            size = recipe_module.replay(self.staging / "recipe", self.staging / "index", self.objects, file.fileno())
            assert size == os.fstat(file.fileno()).st_size
        return out.read_bytes() == tar


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, type: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = type
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def sample() -> bytes:
    """Files on both sides of the inline limit and of what is taken whole."""
    return tar_of(
        (member("usr", tarfile.DIRTYPE, mode=0o755), b""),
        *((member(f"usr/f{size}"), os.urandom(size)) for size in (0, 1, 4096, 4097, 100_000, 1_500_000)),
        (member("usr/again"), b"x" * 5000),
        (member("usr/link", tarfile.LNKTYPE, linkname="usr/f4097"), b""),
        (member("usr/sym", tarfile.SYMTYPE, linkname="f1"), b""),
    )


def compressed(data: bytes, kind: str) -> bytes:
    if kind == "none":
        return data
    if kind == "gzip":
        return gzip.compress(data, 1)
    if kind == "gzip members":
        return b"".join(gzip.compress(data[at : at + 99_999], 1) for at in range(0, len(data), 99_999))
    return subprocess.run(["zstd", "-q", "-c"], input=data, check=True, capture_output=True).stdout


def _unpacked(data: bytes) -> bytes:
    command = "gzip" if data[:2] == b"\x1f\x8b" else "zstd"
    return subprocess.run([command, "-dc"], input=data, check=True, capture_output=True).stdout


@pytest.mark.parametrize("kind", ["none", "gzip", "gzip members", "zstd"])
@pytest.mark.parametrize("blob", ["none", "keep", "gzip", "zstd"])
def test_every_digest(bench: Bench, kind: str, blob: str) -> None:
    tar = sample()
    source = compressed(tar, kind)
    result = bench.ingest(source, blob=blob, blob_level=1)
    assert result.compression == kind.split()[0]
    assert result.source_digest == hashlib.sha256(source).digest()
    assert result.source_size == len(source)
    assert result.diff_id == hashlib.sha256(tar).digest()
    assert result.tar_size == len(tar)
    if blob == "none":
        assert not (bench.staging / "blob").exists()
        assert (result.blob_digest, result.blob_size) == (bytes(32), 0)
    else:
        written = (bench.staging / "blob").read_bytes()
        assert result.blob_digest == hashlib.sha256(written).digest()
        assert result.blob_size == len(written)
        if blob == "keep":
            assert written == source
        else:
            assert _unpacked(written) == tar
    for path in bench.staged.iterdir():
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.stat().st_mode & 0o7777 == 0o444
    bench.publish()
    assert bench.gives_back(tar)


def test_pipe_and_window(bench: Bench) -> None:
    """A pipe is read from where it stands; an offset and a size cut a blob out of an archive."""
    tar = sample()
    assert bench.ingest(b"x" * 1000 + tar + b"y" * 1000, offset=1000, size=len(tar)).tar_size == len(tar)
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=lambda: os.fdopen(write_end, "wb").write(gzip.compress(tar, 1)))
    writer.start()
    staging = bench.root / "pipe"
    staging.mkdir()
    result = ingest_module.ingest(
        read_end, staging=staging, staged_objects=bench.staged, objects=bench.objects, offset=None, size=None
    )
    writer.join()
    os.close(read_end)
    assert result.diff_id == hashlib.sha256(tar).digest()
    assert result.new_object_count == 0, "the first pass has staged them all"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("tree")
    (root / "directory").mkdir()
    (root / ("long" * 50)).mkdir()
    (root / ("long" * 50) / ("name" * 30)).write_bytes(b"long names" * 1000)
    (root / "directory" / "small").write_text("small")
    (root / "directory" / "large").write_bytes(os.urandom(2_000_000))
    os.link(root / "directory" / "large", root / "hard")
    (root / "symlink").symlink_to("directory/small")
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        for at in (0, 1_000_000, 20_000_000):
            file.seek(at)
            file.write(os.urandom(10_000))
        file.truncate(30_000_000)
    yield root


@pytest.mark.parametrize(
    "options",
    [
        "--format=ustar",
        "--format=gnu",
        "--format=oldgnu",
        "--format=posix",
        "--format=gnu -S",
        "--format=oldgnu -S",
        "--format=posix -S --sparse-version=0.0",
        "--format=posix -S --sparse-version=0.1",
        "--format=posix -S --sparse-version=1.0",
    ],
)
def test_gnu_tar(bench: Bench, tree: Path, options: str) -> None:
    names = ["directory", "hard", "symlink", "fifo", "sparse"] + (["long" * 50] if "ustar" not in options else [])
    sparse = "-S" in options
    command = ["tar", "-C", str(tree), *options.split(), "-cf", "-", *names]
    tar = subprocess.run(command, check=True, capture_output=True).stdout
    if sparse:
        assert len(tar) < 10_000_000
    result = bench.ingest(tar)
    assert result.diff_id == hashlib.sha256(tar).digest()
    expected = hashlib.sha256((tree / "sparse").read_bytes()).hexdigest()
    stored = bench.staged / expected
    assert stored.stat().st_size == 30_000_000
    if sparse:
        assert stored.stat().st_blocks * 512 < 1_000_000, "holes stay holes"
    bench.publish()
    assert bench.gives_back(tar)


def test_nothing_is_written_twice(bench: Bench) -> None:
    tar = sample()
    first = bench.ingest(tar)
    assert first.new_object_count == first.object_count == 4
    bench.publish()
    second = bench.ingest(tar)
    assert (second.object_count, second.new_object_count, second.new_object_bytes) == (4, 0, 0)
    for path in bench.staged.iterdir():
        assert path.stat().st_nlink == 2


def test_progress_and_cancel(bench: Bench) -> None:
    tar = tar_of((member("zeros"), bytes(300_000_000)))
    seen: list[tuple[int, int]] = []
    bench.ingest(tar, progress=lambda source, done: seen.append((source, done)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(tar), len(tar))

    def stop(source: int, done: int) -> None:
        raise CancelledError("enough")

    before = threading.active_count()
    with pytest.raises(CancelledError, match="enough"):
        bench.ingest(tar, progress=stop)
    assert threading.active_count() == before


# ---- bad input: each gets one clear line that names the object, and leaves no half object ----

BOMB = gzip.compress(bytes(100_000_000), 9)


def pax(**records: str) -> dict[str, str]:
    return {key.replace("__", "."): value for key, value in records.items()}


def with_field(at: int, value: bytes) -> bytes:
    """A ustar header with a field overwritten and the checksum made right again."""
    block = bytearray(member("broken").tobuf(tarfile.USTAR_FORMAT))
    block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


BAD: dict[str, tuple[bytes | Callable[[], bytes], type[LazarusError], str]] = {
    "dot dot": (tar_of((member("a/../../etc/passwd"), b"x")), UnsafeError, "passwd"),
    "dot dot alone": (tar_of((member(".."), b"x")), UnsafeError, r"\.\."),
    "parent is a symlink": (
        tar_of((member("d", tarfile.SYMTYPE, linkname="/etc"), b""), (member("d/passwd"), b"x")),
        UnsafeError,
        "d/passwd",
    ),
    "parent is a file": (tar_of((member("d"), b""), (member("d/f"), b"x")), UnsafeError, "d/f"),
    "hard link out": (
        tar_of((member("evil", tarfile.LNKTYPE, linkname="../../etc/passwd"), b"")),
        UnsafeError,
        "evil",
    ),
    "hard link to nothing": (
        tar_of((member("dangling", tarfile.LNKTYPE, linkname="nothing"), b"")),
        FormatError,
        "dangling",
    ),
    "whiteout of nothing": (tar_of((member("d/.wh."), b"")), FormatError, r"d/\.wh\."),
    "whiteout of dot": (tar_of((member("d/.wh.."), b"")), FormatError, r"d/\.wh\.\."),
    "whiteout of dot dot": (tar_of((member("d/.wh..."), b"")), FormatError, r"d/\.wh\.\.\."),
    "below a whiteout": (tar_of((member("d/.wh.x/y"), b"")), FormatError, r"\.wh\.x"),
    "name too long": (tar_of((member("n" * 256), b"")), LimitError, "nnnn"),
    "path too long": (tar_of((member("n/" * 2048 + "n"), b"")), LimitError, "n/n"),
    "negative size": (with_field(124, b"\xff" * 12), FormatError, "byte 0"),
    "huge size": (with_field(124, b"\x80" + b"\x7f" * 11), FormatError, "byte 0"),
    "size is no number": (with_field(124, b"zzzzzzzzzzz\0"), FormatError, "byte 0"),
    "size past the end": (with_field(124, b"00000007777\0"), TruncatedError, "broken"),
    "file too large": (with_field(124, b"\x80\0\0\0\0\1\xff\xff\xff\xff\xff\xff"), LimitError, "broken"),
    "checksum": (member("broken").tobuf()[:-1] + b"x" + bytes(1024), FormatError, "checksum"),
    "garbage": (b"garbage " * 1000, FormatError, "checksum"),
    "xattr too large": (
        tar_of((member("f", pax_headers=pax(SCHILY__xattr__user__x="v" * 70_000)), b"")),
        LimitError,
        "user.x",
    ),
    "empty symlink": (tar_of((member("empty", tarfile.SYMTYPE, linkname=""), b"")), FormatError, "empty"),
    "decompression bomb": (BOMB, LimitError, "max_ratio|max_tar_size"),
    "gzip without an end": (gzip.compress(sample())[:-5], TruncatedError, "gzip"),
    "gzip checksum": (gzip.compress(sample())[:-8] + bytes(8), CorruptError, "gzip"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(bench: Bench, case: str) -> None:
    data, error, pattern = BAD[case]
    assert isinstance(data, bytes)
    limits = Limits(max_ratio=500) if data is BOMB else None
    with pytest.raises(error, match=pattern) as caught:
        bench.ingest(data, limits=limits)
    assert "\n" not in str(caught.value)
    assert not list(bench.staged.glob("tmp-*"))


def test_sizes_that_were_promised(bench: Bench) -> None:
    tar = sample()
    with pytest.raises(TruncatedError, match=f"expected {len(tar) + 7} bytes, found {len(tar)}"):
        bench.ingest(tar, size=len(tar) + 7)
    with pytest.raises((TruncatedError, FormatError)):
        bench.ingest(tar, size=1_000_000)


def test_holes_are_bounded(bench: Bench, tmp_path: Path) -> None:
    """2^40 bytes of holes would take minutes to hash."""
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    tar = subprocess.run(["tar", "-C", tmp_path, "-Scf", "-", "hole"], check=True, capture_output=True).stdout
    with pytest.raises(LimitError, match="hole: holes of sparse files come to 1099511627776 bytes"):
        bench.ingest(tar)


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_truncated_and_flipped_anywhere(bench: Bench, kind: str) -> None:
    """Never a hang, never a half object, never another content under the same diff ID."""
    tar = tar_of((member("a/b"), os.urandom(9000)), (member("a/c"), b"small"))
    source = compressed(tar, kind)
    diff_id = hashlib.sha256(tar).digest()
    for at in range(0, len(source), 331):
        with pytest.raises(LazarusError) as caught:
            bench.ingest(source[:at], size=len(source))
        assert isinstance(caught.value, TruncatedError)
        flipped = bytearray(source)
        flipped[at] ^= 0x20
        try:
            result = bench.ingest(bytes(flipped))
        except LazarusError as error:
            assert str(error)
        else:
            assert result.source_digest != hashlib.sha256(source).digest()
            assert kind == "none" or result.diff_id == diff_id or kind == "zstd"
    for path in bench.staged.iterdir():
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()


def test_names_of_overlay_are_data(bench: Bench) -> None:
    """overlay.* xattrs and odd bytes in names come through; a device 0:0 is a whiteout."""
    tar = tar_of(
        (member("f", pax_headers=pax(SCHILY__xattr__trusted__overlay__opaque="y")), b""),
        (member("caf\udce9"), b""),
        (member("white", tarfile.CHRTYPE, devmajor=0, devminor=0), b""),
        (member("/absolute"), b"x"),
        (member("./f"), b"again"),
    )
    assert bench.ingest(tar).entry_count == 5
    bench.publish()
    assert bench.gives_back(tar)


# ---- whole files ----


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_stream_round_trip(tmp_path: Path, kind: str) -> None:
    data = sample()
    paths = [tmp_path / name for name in ("in", "packed", "out")]
    paths[0].write_bytes(data)
    with paths[0].open("rb") as source, paths[1].open("w+b") as packed, paths[2].open("w+b") as out:
        digest, size = stream.compress(source.fileno(), packed.fileno(), kind, 1)
        assert stream.sha256_file(packed.fileno()) == digest == hashlib.sha256(paths[1].read_bytes()).digest()
        assert size == paths[1].stat().st_size
        packed.seek(0)
        assert stream.decompress(packed.fileno(), out.fileno()) == len(data)
    assert paths[2].read_bytes() == data
    with paths[1].open("rb") as packed, paths[2].open("wb") as out, pytest.raises(LimitError):
        stream.decompress(packed.fileno(), out.fileno(), max_size=1000)


def test_stream_bad_input(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(gzip.compress(sample())[:-1])
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as out:
        with pytest.raises(TruncatedError):
            stream.decompress(source.fileno(), out.fileno())
        with pytest.raises(ValueError, match="brotli"):
            stream.compress(source.fileno(), out.fileno(), "brotli")
        with pytest.raises(OSError):
            stream.compress(source.fileno(), out.fileno(), "gzip", 77)


def test_replay_names_what_is_wrong(bench: Bench) -> None:
    data = os.urandom(10_000)
    name = hashlib.sha256(data).hexdigest()
    bench.ingest(tar_of((member("f"), data)))
    bench.publish()
    path = bench.objects / name[:2] / name[2:]
    path.chmod(0o600)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptError, match=f"object sha256:{name}"):
        bench.gives_back(b"")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"object sha256:{name}"):
        bench.gives_back(b"")
