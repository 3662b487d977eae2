"""Layers for the tests of layer stacks: tars with everything that a name can be, and a store that holds them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from typing import Any

from store_helpers import add_image

from lazarus.layers.layer import Layer
from lazarus.store import Store

BIG = bytes(range(256)) * 64  # an object; what is smaller than 4 KiB lies inline
TIME = 1_700_000_000

_TYPES = {
    "d": tarfile.DIRTYPE,
    "f": tarfile.REGTYPE,
    "l": tarfile.SYMTYPE,
    "h": tarfile.LNKTYPE,
    "p": tarfile.FIFOTYPE,
    "c": tarfile.CHRTYPE,
}


def tar(*entries: tuple[Any, ...]) -> bytes:
    """(type letter, path, content or target or device, further attributes of TarInfo) of each entry, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for letter, path, *rest in entries:
            info = tarfile.TarInfo(path)
            info.type = _TYPES[letter]
            info.mtime, info.mode = TIME, 0o755 if letter == "d" else 0o644
            content = rest[0] if rest else b""
            for name, value in (rest[1] if len(rest) > 1 else {}).items():
                setattr(info, name, value)
            if letter in "lh":
                info.linkname = content
            elif letter == "c":
                info.devmajor, info.devminor = content
            elif letter == "f":
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if letter == "f" else None)
    return out.getvalue()


BASE = tar(
    ("d", "etc"),
    ("f", "etc/passwd", b"root\n", {"uid": 3, "gid": 4, "mode": 0o640, "pax_headers": {"SCHILY.xattr.user.a": "b"}}),
    ("f", "etc/gone", b"gone"),
    ("d", "usr/bin"),
    ("f", "usr/bin/env", BIG, {"mode": 0o4755}),
    ("h", "usr/bin/env2", "usr/bin/env"),
    ("l", "bin", "usr/bin"),
    ("l", "loop", "loop2"),
    ("l", "loop2", "loop"),
    ("l", "away", "../../../etc/passwd"),
    ("l", "dangling", "/no/such"),
    ("p", "fifo"),
    ("c", "null", (1, 3)),
    ("d", "var/lib"),
    ("f", "var/lib/old", b"old"),
)
APP = tar(
    ("f", "etc/.wh.gone"),
    ("f", "etc/passwd", b"root\nbob\n"),
    ("d", "var/lib"),
    ("f", "var/lib/.wh..wh..opq"),
    ("f", "var/lib/new", b"new"),
    ("f", "srv/app", BIG + BIG),
)


def layers_of(store: Store, tars: Iterable[bytes]) -> Sequence[Layer]:
    """Ingests the tars as one image's layers."""
    return [store.layers.get(diff_id) for diff_id in add_image(store, *tars)]
