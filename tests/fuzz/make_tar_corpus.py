"""Writes corpus/lz_tar/: small tar archives whose names say what they are; `should-fail-*` must be refused.

    python3 tests/fuzz/make_tar_corpus.py            writes the files
    python3 tests/fuzz/make_tar_corpus.py --check    exit status 1 when the files are not what it would write

Headers are put together here field by field, from POSIX.1-2017 pax(1) and the GNU tar manual, and not by a library:
most of these archives no library would write. tests/c/tar_corpus.h says what each of them must read as.
"""

from __future__ import annotations

import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus" / "lz_tar"
POSIX, GNU, V7 = b"ustar\x0000", b"ustar  \x00", bytes(8)
END = bytes(1024)


def octal(value: int, size: int) -> bytes:
    """A NUL-terminated octal field of `size` bytes."""
    return b"%0*o\0" % (size - 1, value)


def base256(value: int, size: int) -> bytes:
    """GNU's binary number: the top bit marks it, the rest is big-endian two's complement."""
    field = bytearray((value % (1 << (8 * size))).to_bytes(size, "big"))
    field[0] |= 0x80
    return bytes(field)


def header(name: bytes = b"file", kind: bytes = b"0", size: int | bytes = 0, **fields: bytes) -> bytes:
    """One header block; `fields` are raw bytes that replace a default. `signed` sums the bytes as signed ones."""
    size_field = size if isinstance(size, bytes) else octal(size, 12)
    magic = fields.get("magic", POSIX)
    layout = (
        (0, name),
        (100, fields.get("mode", octal(0o644, 8))),
        (108, fields.get("uid", octal(1000, 8))),
        (116, fields.get("gid", octal(100, 8))),
        (124, size_field),
        (136, fields.get("mtime", octal(1_000_000_000, 12))),
        (148, b" " * 8),
        (156, kind),
        (157, fields.get("link", b"")),
        (257, magic),
        (329, fields.get("major", b"")),
        (337, fields.get("minor", b"")),
        (345, fields.get("prefix", b"")),
        (386, fields.get("sparse", b"")),
        (482, fields.get("extended", b"")),
        (483, fields.get("realsize", b"")),
        (508, fields.get("trailer", b"")),
    )
    block = bytearray(512)
    for offset, value in layout:
        block[offset : offset + len(value)] = value
    total = sum(byte - 256 if byte > 127 and "signed" in fields else byte for byte in block)
    block[148:156] = fields.get("checksum", b"%06o\0 " % total)
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Data and zeros up to a multiple of 512."""
    return data + bytes(-len(data) % 512)


def file(name: bytes = b"file", data: bytes = b"hello", **fields: bytes) -> bytes:
    """A regular file with its content."""
    return header(name, size=len(data), **fields) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    """A pax record, whose length counts its own digits."""
    body = len(key) + len(value) + 3
    length = body + 1
    while len(str(length)) + body != length:
        length = len(str(length)) + body
    return b"%d %s=%s\n" % (length, key, value)


def extended(*records: bytes, kind: bytes = b"x") -> bytes:
    """A pax header with these raw records."""
    data = b"".join(records)
    return header(b"PaxHeaders.0/file", kind, len(data)) + padded(data)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    """GNU's header for a long name ('L') or link target ('K')."""
    return header(b"././@LongLink", kind, len(name) + 1, magic=GNU) + padded(name + b"\0")


def segments(*pairs: tuple[int, int]) -> bytes:
    """Old GNU sparse segments."""
    return b"".join(octal(offset, 12) + octal(size, 12) for offset, size in pairs)


def gnu_sparse(stored: bytes, *pairs: tuple[int, int], real: int, **fields: bytes) -> bytes:
    """A sparse file in the old GNU format: four segments in the header, 21 in each further block."""
    block = {"magic": GNU, "sparse": segments(*pairs[:4]), "realsize": octal(real, 12), **fields}
    rest, extra = pairs[4:], b""
    if rest:
        block["extended"] = b"\1"
    while rest:
        extra += segments(*rest[:21]).ljust(504, b"\0") + (b"\1" if rest[21:] else b"\0") + bytes(7)
        rest = rest[21:]
    return header(b"sparse", b"S", len(stored), **block) + extra + padded(stored)


def sparse_1_0(data: bytes, content: bytes, *, real: int, major: bytes = b"1", minor: bytes = b"0") -> bytes:
    """A pax 1.0 sparse file: `data` is its map, `content` what the segments hold."""
    return extended(
        record(b"GNU.sparse.major", major),
        record(b"GNU.sparse.minor", minor),
        record(b"GNU.sparse.name", b"sparse"),
        record(b"GNU.sparse.realsize", b"%d" % real),
    ) + file(b"GNUSparseFile.0/sparse", padded(data) + content)


def sparse_0_1(sparse_map: bytes, content: bytes, *, real: int) -> bytes:
    """A pax 0.1 sparse file: the map is a record."""
    return extended(
        record(b"GNU.sparse.size", b"%d" % real),
        record(b"GNU.sparse.name", b"sparse"),
        record(b"GNU.sparse.map", sparse_map),
    ) + file(b"GNUSparseFile.0/sparse", content)


def sparse_0_0(*pairs: tuple[int, int], content: bytes, real: int) -> bytes:
    """A pax 0.0 sparse file: two records a segment."""
    numbers = [
        record(b"GNU.sparse." + key, b"%d" % value)
        for pair in pairs
        for key, value in zip((b"offset", b"numbytes"), pair, strict=True)
    ]
    count = record(b"GNU.sparse.numblocks", b"%d" % len(pairs))
    return extended(record(b"GNU.sparse.size", b"%d" % real), count, *numbers) + file(b"sparse", content)


LONG = b"a" * 120 + b"/" + b"b" * 120
BLOCK_A, BLOCK_B = b"A" * 512, b"B" * 512


def good() -> dict[str, bytes]:
    """Archives that must be read."""
    many = [(1024 * i, 512) for i in range(30)]
    return {
        "empty-stream": b"",
        "empty-archive": END,
        "v7-file": file(magic=V7) + END,
        "v7-directory-by-slash": header(b"dir/", b"\0", magic=V7) + END,
        "v7-symlink": header(b"link", b"2", link=b"target", magic=V7) + END,
        "ustar-every-type": file(b"a")
        + header(b"hard", b"1", link=b"a")
        + header(b"soft", b"2", link=b"a")
        + header(b"char", b"3", major=octal(1, 8), minor=octal(3, 8))
        + header(b"block", b"4", major=octal(8, 8), minor=octal(17, 8))
        + header(b"dir/", b"5")
        + header(b"fifo", b"6")
        + END,
        "ustar-prefix": file(b"name", prefix=b"some/where") + END,
        "ustar-full-fields-without-nul": file(b"n" * 100, prefix=b"p" * 155) + END,
        "ustar-no-end-marker": file(),
        "ustar-half-end-marker": file() + bytes(512),
        "ustar-lone-zero-block": file(b"one") + bytes(512) + file(b"two") + END,
        "ustar-bytes-after-the-end": file() + END + b"what nobody reads" * 50,
        "ustar-space-padded-numbers": file(mode=b"   644 \0", uid=b"  1750 \0") + END,
        "ustar-numbers-after-a-nul": file(mode=b"\x000000644", uid=b"\x000001750") + END,
        "ustar-empty-numbers": file(mode=bytes(8), uid=b" " * 8, gid=bytes(8), mtime=bytes(12)) + END,
        "ustar-signed-checksum": file(b"\xe9\xe8\xff", signed=b"") + END,
        "ustar-contiguous": header(b"file", b"7", 5) + padded(b"hello") + END,
        "ustar-vendor-type-is-a-file": header(b"file", b"Q", 5) + padded(b"hello") + END,
        "ustar-hard-link-with-a-size": file(b"a") + header(b"hard", b"1", 5, link=b"a") + END,
        "ustar-directory-with-a-size": header(b"dir", b"5", 4096) + END,
        "star-prefix": file(b"name", prefix=b"q" * 131 + octal(1, 12)[:11] + b" " + octal(2, 12)[:11], trailer=b"tar")
        + END,
        "gnu-prefix-is-no-name": file(b"name", prefix=octal(1, 12) + octal(2, 12), magic=GNU) + END,
        "gnu-long-name": long_name(LONG) + file(LONG[:100], magic=GNU) + END,
        "gnu-long-link": long_name(LONG, b"K") + header(b"soft", b"2", link=LONG[:100], magic=GNU) + END,
        "gnu-long-both": long_name(LONG, b"K") + long_name(LONG) + header(b"cut", b"1", link=b"cut", magic=GNU) + END,
        "gnu-base256": header(b"file", size=base256(5, 12), uid=base256(3_000_000, 8), mtime=base256(1 << 34, 12))
        + padded(b"hello")
        + END,
        "gnu-base256-negative-time": file(mtime=base256(-86400, 12), magic=GNU) + END,
        "gnu-volume-label": header(b"backup of today", b"V", magic=GNU) + file() + END,
        "gnu-volume-label-only": header(b"backup of today", b"V", magic=GNU) + END,
        "gnu-sparse": gnu_sparse(BLOCK_A + BLOCK_B, (512, 512), (2048, 512), (4096, 0), real=4096) + END,
        "gnu-sparse-further-blocks": gnu_sparse(BLOCK_A * 30, *many, real=40000) + file(b"next") + END,
        "gnu-sparse-all-hole": gnu_sparse(b"", (9000, 0), real=9000) + END,
        "pax-sparse-0.0": sparse_0_0((512, 512), (2048, 512), content=BLOCK_A + BLOCK_B, real=4096) + END,
        "pax-sparse-0.1": sparse_0_1(b"512,512,2048,512", BLOCK_A + BLOCK_B, real=4096) + END,
        "pax-sparse-1.0": sparse_1_0(b"3\n512\n512\n2048\n512\n4096\n0\n", BLOCK_A + BLOCK_B, real=4096) + END,
        "pax-sparse-1.0-map-over-two-blocks": sparse_1_0(
            b"100\n" + b"".join(b"%d\n1\n" % (1 << 20 | i * 8) for i in range(100)), b"x" * 100, real=2 << 20
        )
        + END,
        "pax-sparse-1.0-all-hole": sparse_1_0(b"0\n", b"", real=1 << 40) + END,
        "pax-path-and-linkpath": extended(record(b"path", LONG), record(b"linkpath", LONG))
        + header(b"cut", b"2", link=b"cut")
        + END,
        "pax-path-with-newline-and-bytes": extended(record(b"path", b"a\nb=\xff\xfe")) + file() + END,
        "pax-size-wins": extended(record(b"size", b"5")) + header(b"file", size=999999) + padded(b"hello") + END,
        "pax-owner-and-time": extended(
            record(b"uid", b"4294967294"), record(b"gid", b"3000000"), record(b"mtime", b"1700000000.123456789")
        )
        + file()
        + END,
        "pax-time-before-1970": extended(record(b"mtime", b"-1.5")) + file() + END,
        "pax-time-finer-than-a-nanosecond": extended(record(b"mtime", b"-0.0000000001")) + file() + END,
        "pax-xattr-any-bytes": extended(record(b"SCHILY.xattr.user.x", b"\0\n=\xff")) + file() + END,
        "pax-xattr-empty": extended(record(b"SCHILY.xattr.user.x", b"")) + file() + END,
        "pax-xattr-last-wins-and-sorted": extended(
            record(b"SCHILY.xattr.user.b", b"old"),
            record(b"SCHILY.xattr.user.c", b"3"),
            record(b"SCHILY.xattr.user.a", b"1"),
            record(b"SCHILY.xattr.user.b", b"2"),
        )
        + file()
        + END,
        "pax-global-applies-until-taken-back": extended(record(b"uid", b"7"), record(b"path", b"global"), kind=b"g")
        + extended(record(b"path", b"own"))
        + file()
        + extended(record(b"uid", b""), record(b"path", b""))
        + file()
        + END,
        "pax-global-alone": extended(record(b"comment", b"0123456789abcdef"), kind=b"g") + END,
        "pax-global-between-own-and-entry": extended(record(b"path", b"own"))
        + extended(record(b"uid", b"7"), kind=b"g")
        + file()
        + END,
        "pax-two-own-headers": extended(record(b"path", b"one"), record(b"uid", b"7"))
        + extended(record(b"path", b"two"))
        + file()
        + END,
        "pax-solaris-type": extended(record(b"path", b"own"), kind=b"X") + file() + END,
        "pax-unknown-records": extended(record(b"VENDOR.thing", b"?"), record(b"atime", b"nonsense")) + file() + END,
        "pax-then-gnu-long-name": extended(record(b"path", b"pax")) + long_name(b"gnu") + file(b"header") + END,
    }


def bad_numbers() -> dict[str, bytes]:
    """Numbers and names of header blocks that are refused."""
    return {
        "header-checksum": file(checksum=b"000000\0 ") + END,
        "header-size-negative": header(size=base256(-1, 12)) + END,
        "header-size-over-63-bits": header(size=base256(1 << 63, 12)) + END,
        "header-size-over-64-bits": header(size=base256(1 << 70, 12)) + END,
        "header-size-minus-sign": header(size=b"-0000000001\0") + END,
        "header-size-not-octal": header(size=b"00000000009\0") + END,
        "header-size-two-numbers": header(size=b"0001 000005\0") + END,
        "header-uid-negative": header(uid=base256(-2, 8)) + END,
        "header-gid-over-32-bits": header(gid=base256(1 << 32, 8)) + END,
        "header-time-over-64-bits": header(mtime=base256(1 << 80, 12)) + END,
        "header-device-negative": header(b"dev", b"3", major=base256(-1, 8)) + END,
        "header-long-name-size-negative": header(b"././@LongLink", b"L", base256(-5, 12), magic=GNU) + file() + END,
        "header-no-name": header(b"") + END,
        "header-link-to-nothing": header(b"link", b"2") + END,
        "header-hard-link-to-nothing": header(b"link", b"1") + END,
        "header-directory-name-with-content": file(b"dir/") + END,
        "type-unknown": header(b"file", b"9") + END,
        "type-gnu-names-before-long-name": header(b"file", b"N", magic=GNU) + END,
        "type-solaris-acl": header(b"file", b"A") + END,
        "type-solaris-attributes": header(b"file", b"E") + END,
        "type-gnu-dumpdir": header(b"dir", b"D", magic=GNU) + END,
        "type-gnu-multivolume": header(b"file", b"M", magic=GNU) + END,
        "type-gnu-sparse-in-ustar": gnu_sparse(BLOCK_A, (0, 512), real=512, magic=POSIX) + END,
        "limit-pax-size": header(b"PaxHeaders.0/file", b"x", 1 << 32) + END,
        "limit-long-name-size": header(b"././@LongLink", b"L", 1 << 32, magic=GNU) + END,
        "limit-global-size": header(b"PaxHeaders.0/file", b"g", 1 << 20) + END,
        "truncated-header": file() + header()[:300],
        "truncated-content": file(data=b"x" * 1000)[:1100],
        "truncated-padding": file()[:700],
        "truncated-pax": extended(record(b"path", b"own"))[:520],
        "truncated-second-header": file() + header(b"second")[:1],
        "truncated-after-pax": extended(record(b"path", b"own")),
        "truncated-long-name": long_name(LONG)[:700],
        "truncated-size-over-stream": header(size=(1 << 33) - 1) + END,
        "truncated-size-of-63-bits": header(size=base256((1 << 63) - 1, 12)) + END,
        "truncated-volume-label": header(b"backup of today", b"V", 600, magic=GNU) + bytes(512),
        "end-after-pax": extended(record(b"path", b"own")) + END,
        "end-after-long-name": long_name(b"name") + END,
    }


def bad_records() -> dict[str, bytes]:
    """Pax records that are refused."""
    records = {
        "length-zero": b"0 path=x\n",
        "length-too-short": b"3 path=x\n",
        "length-past-the-end": b"99 path=x\n",
        "length-over-64-bits": b"99999999999999999999 path=x\n",
        "length-negative": b"-9 path=x\n",
        "length-missing": b"path=x\n",
        "no-newline": b"9 path=xy",
        "no-equals": b"8 pathx\n",
        "no-key": b"5 =x\n",
        "nul-in-key": record(b"pa\0th", b"x"),
        "nul-in-path": record(b"path", b"a\0b"),
        "nul-in-linkpath": record(b"linkpath", b"a\0b"),
        "zeros-after-the-records": record(b"path", b"x") + bytes(4),
        "size-negative": record(b"size", b"-1"),
        "size-over-63-bits": record(b"size", b"9223372036854775808"),
        "size-over-64-bits": record(b"size", b"18446744073709551621"),
        "size-hex": record(b"size", b"0x5"),
        "size-over-stream": record(b"size", b"100000"),
        "size-under-header": record(b"size", b"0"),
        "uid-negative": record(b"uid", b"-1"),
        "uid-over-32-bits": record(b"uid", b"4294967296"),
        "gid-text": record(b"gid", b"wheel"),
        "time-text": record(b"mtime", b"yesterday"),
        "time-two-points": record(b"mtime", b"1.2.3"),
        "time-over-63-bits": record(b"mtime", b"9223372036854775808"),
    }
    split = record(b"path", b"half-here")
    return {f"pax-{name}": extended(raw) + file() + END for name, raw in records.items()} | {
        "pax-record-over-two-headers": extended(split[:9]) + extended(split[9:]) + file() + END,
        "pax-record-begun-in-a-global-header": extended(split[:9], kind=b"g") + extended(split[9:]) + file() + END,
        "pax-global-malformed-and-no-entry": extended(b"nonsense", kind=b"g") + END,
    }


def bad_sparse() -> dict[str, bytes]:
    """Sparse maps that are refused."""
    huge = b"%d" % ((1 << 63) - 1)
    return {
        "sparse-overlap": sparse_0_1(b"0,512,256,512", BLOCK_A + BLOCK_B, real=4096) + END,
        "sparse-backwards": sparse_0_1(b"1024,512,0,512", BLOCK_A + BLOCK_B, real=4096) + END,
        "sparse-offset-plus-size-overflows": sparse_0_1(huge + b",512", BLOCK_A, real=4096) + END,
        "sparse-past-real-size": sparse_0_1(b"4096,512", BLOCK_A, real=4096) + END,
        "sparse-more-stored-than-mapped": sparse_0_1(b"0,512", BLOCK_A + BLOCK_B, real=4096) + END,
        "sparse-less-stored-than-mapped": sparse_0_1(b"0,512,1024,512", BLOCK_A, real=4096) + END,
        "sparse-map-odd": sparse_0_1(b"0,512,1024", BLOCK_A, real=4096) + END,
        "sparse-map-text": sparse_0_1(b"0,512,a,b", BLOCK_A, real=4096) + END,
        "sparse-real-size-negative": extended(record(b"GNU.sparse.realsize", b"-1")) + file() + END,
        "sparse-no-real-size": extended(record(b"GNU.sparse.map", b"0,5")) + file() + END,
        "sparse-version-2.0": sparse_1_0(b"1\n0\n512\n", BLOCK_A, real=512, major=b"2") + END,
        "sparse-version-1.1": sparse_1_0(b"1\n0\n512\n", BLOCK_A, real=512, minor=b"1") + END,
        "sparse-1.0-map-does-not-end": sparse_1_0(b"5\n0\n512\n", b"", real=512) + END,
        "sparse-1.0-map-longer-than-content": sparse_1_0(b"%d\n0\n" % (1 << 40), b"", real=512) + END,
        "sparse-1.0-count-over-63-bits": sparse_1_0(b"9" * 25 + b"\n", b"", real=512) + END,
        "sparse-1.0-line-without-end": sparse_1_0(b"1" * 1000, b"", real=512) + END,
        "sparse-1.0-not-a-number": sparse_1_0(b"one\n0\n512\n", BLOCK_A, real=512) + END,
        "sparse-1.0-no-content": sparse_1_0(b"", b"", real=0) + END,
        "sparse-gnu-overlap": gnu_sparse(BLOCK_A * 2, (0, 512), (100, 512), real=4096) + END,
        "sparse-gnu-negative": gnu_sparse(
            BLOCK_A, real=4096, sparse=base256(-512, 12) + octal(512, 12), realsize=octal(4096, 12)
        )
        + END,
        "sparse-gnu-real-size-negative": gnu_sparse(BLOCK_A, (0, 512), real=0, realsize=base256(-1, 12)) + END,
        "sparse-gnu-truncated-map": gnu_sparse(b"", real=0, extended=b"\1"),
        "sparse-gnu-map-not-octal": gnu_sparse(b"", real=0, sparse=b"99999999999\0" * 2) + END,
    }


def corpus() -> dict[str, bytes]:
    """Every archive by its file name."""
    bad = {**bad_numbers(), **bad_records(), **bad_sparse()}
    return good() | {f"should-fail-{name}": data for name, data in bad.items()}


def main(arguments: list[str]) -> int:
    """Writes the corpus, or compares it with what lies there."""
    files = corpus()
    if arguments == ["--check"]:
        found = {path.name: path.read_bytes() for path in CORPUS.iterdir()}
        for name in sorted(files.keys() | found.keys()):
            if files.get(name) != found.get(name):
                print(f"corpus/lz_tar/{name}: not what this script writes", file=sys.stderr)
        return int(files != found)
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (CORPUS / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
