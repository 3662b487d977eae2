"""Writes corpus/lz_toc: tables of contents of zstd:chunked layers, lines of tar-split. `--check` compares instead."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus" / "lz_toc"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def table(*entries: dict[str, Any], **members: object) -> bytes:
    return json.dumps({"version": 1, "entries": entries, **members}).encode()


def regular(name: str, size: int, offset: int, end: int, **members: object) -> dict[str, Any]:
    return {"type": "reg", "name": name, "size": size, "digest": DIGEST, "offset": offset, "endOffset": end, **members}


def chunk(name: str, position: int, size: int, offset: int, **members: object) -> dict[str, Any]:
    return {"type": "chunk", "name": name, "chunkOffset": position, "chunkSize": size, "offset": offset, **members}


def files() -> dict[str, bytes]:
    whole = [
        {"type": "dir", "name": "d/", "mode": 0o755, "modtime": "2024-01-01T00:00:00Z", "xattrs": None},
        regular("d/a", 5, 10, 20, xattrs={"user.x": "eA=="}),
        {"type": "symlink", "name": 'd/\u00e9"\\\n', "linkName": "a"},
        regular("d/b", 9, 20, 50, chunkSize=4, chunkDigest=DIGEST),
        chunk("d/b", 4, 3, 30, chunkType="zeros"),
        chunk("d/b", 7, 2, 40, endOffset=50),
        regular("empty", 0, 0, 0, digest=""),
    ]
    lines = [
        {"type": 2, "payload": base64.b64encode(bytes(512)).decode(), "position": 0},
        {"type": 1, "name": "a", "size": 5, "payload": "AAAAAAAAAAA=", "position": 1},
        {"type": 1, "name_raw": "/w==", "payload": None, "position": 2},
    ]
    return {
        "whole": table(*whole, tarSplitDigest=DIGEST),
        "nothing": table(),
        "another-version": json.dumps({"version": 2, "entries": []}).encode(),
        "backwards": table(regular("a", 5, 20, 30), regular("b", 5, 10, 20)),
        "overlapping": table(regular("a", 5, 20, 30), regular("b", 5, 29, 40)),
        "outside": table(regular("a", 5, 20, 2**63 - 1)),
        "huge": table(regular("a", 2**63 - 1, 20, 30, chunkSize=2**63 - 1), chunk("a", 2**63 - 1, 2**63 - 1, 25)),
        "chunks-too-few": table(regular("a", 9, 20, 50, chunkSize=4), chunk("a", 4, 3, 30)),
        "chunk-alone": table(chunk("a", 0, 3, 30)),
        "cut": table(*whole)[:-40],
        "numbers": b'{"version":1,"entries":[{"type":"reg","size":1e3,"mode":-0.5e+1}]}',
        "deep": b'{"version":1,"more":' + b"[" * 100 + b"]" * 100 + b',"entries":[]}',
        "tar-split": b"".join(json.dumps(line).encode() + b"\n" for line in lines),
    }


def main() -> int:
    wanted = files()
    if "--check" in sys.argv:
        found = {path.name: path.read_bytes() for path in CORPUS.iterdir()}
        if found != wanted:
            differ = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            print(f"{CORPUS}: not what this script writes: {', '.join(differ)}", file=sys.stderr)
            return 1
        return 0
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in wanted.items():
        (CORPUS / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
