"""For any archive that tarfile can write: ingest, then replay, gives the same bytes; digests are what hashlib says."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ingest_module = pytest.importorskip("lazarus._native.ingest")
recipe_module = pytest.importorskip("lazarus._native.recipe")

names = st.text("abc\u00e9 ", min_size=1, max_size=8).filter(lambda name: name.strip() == name)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
xattrs = st.dictionaries(st.sampled_from(["user.a", "user.b", "security.capability"]), st.text("xyz", max_size=50))
sizes = st.sampled_from([0, 1, 511, 512, 513, 4095, 4096, 4097, 70_000, 262_144, 1_048_577])


@st.composite
def members(draw: st.DrawFn) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Files, directories, links and devices; directories first, so that no parent is something else."""
    found: list[tuple[tarfile.TarInfo, bytes]] = []
    files: list[str] = []
    for number, path in enumerate(draw(st.lists(paths, max_size=12))):
        # every path gets its own top, so that files never become parents
        info = tarfile.TarInfo(f"{number}/{path}")
        info.type = draw(st.sampled_from([tarfile.REGTYPE] * 4 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE]))
        info.mode = draw(st.integers(0, 0o7777))
        info.uid, info.gid = draw(st.integers(0, 2**31)), draw(st.integers(0, 2**21))
        info.mtime = draw(st.one_of(st.integers(0, 2**33), st.integers(1, 2 * 10**12).map(lambda n: n / 1000)))
        info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in draw(xattrs).items()}
        data = b""
        if info.type == tarfile.REGTYPE:
            if files and draw(st.booleans()):
                info.type, info.linkname = tarfile.LNKTYPE, draw(st.sampled_from(files))
            else:
                data = (draw(st.binary(min_size=1, max_size=16)) * 70_000)[: draw(sizes)]
                files.append(info.name)
        elif info.type == tarfile.SYMTYPE:
            info.linkname = draw(paths)
        info.size = len(data)
        found.append((info, data))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    entries=members(),
    format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    zipped=st.booleans(),
    tail=st.sampled_from([b"", bytes(512), bytes(10_240), b"tail" * 100]),
)
def test_replay_gives_the_same_bytes(
    entries: list[tuple[tarfile.TarInfo, bytes]], format: int, zipped: bool, tail: bytes
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    tar_bytes = out.getvalue() + tail
    source = gzip.compress(tar_bytes, 1) if zipped else tar_bytes
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for directory in ("staging", "staged", "objects"):
            (root / directory).mkdir()
        (root / "source").write_bytes(source)
        with (root / "source").open("rb") as file, (root / "out").open("w+b") as back:
            result = ingest_module.ingest(
                file.fileno(), staging=root / "staging", staged_objects=root / "staged", objects=root / "objects"
            )
            for path in (root / "staged").iterdir():
                (root / "objects" / path.name[:2]).mkdir(exist_ok=True)
                path.rename(root / "objects" / path.name[:2] / path.name[2:])
            recipe_module.replay(
                root / "staging" / "recipe", root / "staging" / "index", root / "objects", back.fileno()
            )
        assert (root / "out").read_bytes() == tar_bytes
    assert result.diff_id == hashlib.sha256(tar_bytes).digest()
    assert result.source_digest == hashlib.sha256(source).digest()
    assert result.content_size == sum(len(data) for _, data in entries)
