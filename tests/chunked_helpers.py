"""zstd:chunked layers for tests: another store's blob as a registry would have it, and tables that lie."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from store_helpers import add_image, sha256

from lazarus.layers.chunked import write_chunked
from lazarus.layers.chunked.annotations import CHECKSUM, POSITION, TAR_SPLIT
from lazarus.store import Store
from lazarus.terms import Descriptor, DiffID


def unzstd(data: bytes) -> bytes:
    """With the zstd of the machine: somebody else's reader."""
    return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout


class Blob:
    """A layer's blob and its descriptor; counts what is asked for. A `Ranges`."""

    def __init__(self, data: bytes, annotations: dict[str, str]) -> None:
        self.data = data
        self.descriptor = Descriptor(
            "application/vnd.oci.image.layer.v1.tar+zstd", sha256(data), len(data), annotations=annotations
        )
        self.asked: list[tuple[int, int]] = []

    @property
    def wire(self) -> int:
        return sum(size for _, size in self.asked)

    def open(self, offset: int, size: int) -> Stream:
        assert offset >= 0 and size > 0 and offset + size <= len(self.data)
        self.asked.append((offset, size))
        return Stream(self.data[offset : offset + size])


class Stream:
    """In small pieces, as a network has them."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.closed = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closed = True

    def readinto(self, buffer: bytearray | memoryview) -> int:
        count = min(len(buffer), len(self.data), 1000)
        memoryview(buffer)[:count] = self.data[:count]
        self.data = self.data[count:]
        return count

    def copy_to(self, fd: int) -> int:
        size = len(self.data)
        while self.data:
            self.data = self.data[os.write(fd, self.data[:7000]) :]
        return size


def blob_of(tar: bytes, directory: Path) -> Blob:
    """As another store pushes it."""
    with Store(directory) as store:
        add_image(store, tar)
        fd = os.memfd_create("blob")
        try:
            blob = write_chunked(store.layers.get(DiffID(sha256(tar))), fd)
            return Blob(os.pread(fd, blob.size, 0), blob.annotations)
        finally:
            os.close(fd)


def without_tar_split(blob: Blob) -> Blob:
    """As containers/storage wrote them before it had one."""
    kept = {name: text for name, text in blob.descriptor.annotations.items() if name != TAR_SPLIT}
    return Blob(blob.data, kept)


def with_tar_split(blob: Blob, text: bytes) -> Blob:
    """The same with another tar-split, of which its table says that it is the right one."""
    packed = zstd(text)
    annotations = dict(blob.descriptor.annotations)
    offset, *_ = map(int, annotations[TAR_SPLIT].split(":"))
    annotations[TAR_SPLIT] = f"{offset}:{len(packed)}:{len(text)}"
    data = blob.data[: offset - 8] + struct.pack("<II", 0x184D2A50, len(packed)) + packed
    return with_table(Blob(data, annotations), lambda toc: toc.update(tarSplitDigest=str(sha256(packed))))


def with_table(blob: Blob, change: Callable[[dict[str, Any]], object] | bytes) -> Blob:
    """The same with another table, of which the manifest says that it is the right one."""
    annotations = dict(blob.descriptor.annotations)
    offset, size, *_ = map(int, annotations[POSITION].split(":"))
    split_offset, split_size, split_plain = map(int, annotations[TAR_SPLIT].split(":"))
    if isinstance(change, bytes):
        plain = change
    else:
        toc = json.loads(unzstd(blob.data[offset : offset + size]))
        change(toc)
        plain = json.dumps(toc).encode()
    table, tar_split = zstd(plain), blob.data[split_offset : split_offset + split_size]
    data = blob.data[: offset - 8]
    for part in (table, tar_split):
        data += struct.pack("<II", 0x184D2A50, len(part)) + part
    annotations[CHECKSUM] = sha256(table)
    annotations[POSITION] = f"{offset}:{len(table)}:{len(plain)}:1"
    annotations[TAR_SPLIT] = f"{offset + len(table) + 8}:{split_size}:{split_plain}"
    return Blob(data, annotations)
