"""Where the members of an archive lie. For the archive around an image; layers are read by the native codec.

Only headers are read, with pread; nothing is unpacked. A member's name is a key of the result, never a host path.
Formats: ustar, pax (path, linkpath, size), GNU long names and base-256 numbers.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from lazarus.errors import (
    CorruptError,
    FormatError,
    LimitError,
    NotFoundError,
    TruncatedError,
    UnsafeError,
    UnsupportedError,
)

BLOCK = 512
MAX_MEMBERS = 1 << 18
MAX_EXTENSION = 1 << 20  # bytes of one pax header or long name
MAX_LINKS = 16
_MAX_SIZE = 1 << 62
_EXTENSIONS = b"LKxg"


class Member(NamedTuple):
    """`kind` is "file", "directory", "symlink", "hardlink" or "other"; `offset` is of the data."""

    name: str
    kind: str
    offset: int
    size: int
    link: str = ""


class OuterTar:
    """The table of contents of an archive: `names` has every name once. Reading it costs one pread a member."""

    def __init__(self, fd: int, what: str) -> None:
        """`fd` is a regular file, which stays the caller's; `what` names the archive in errors."""
        self.fd = fd
        self.what = what
        self._members: dict[str, Member] = {}
        self._twice: set[str] = set()
        self._size = os.fstat(fd).st_size
        self._scan()

    @property
    def names(self) -> list[str]:
        """In the order of the archive."""
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def file(self, name: str) -> Member:
        """The regular file that `name` leads to, through links inside the archive. `NotFoundError`, `FormatError` for a
        name that is there twice or is no file, `UnsafeError` for a link that leaves the archive."""
        target = self._normal(name)
        for _ in range(MAX_LINKS):
            member = self._members.get(target)
            if member is None:
                via = "" if target == name else f" (through a link in {name!r:.200})"
                raise NotFoundError(f"{self.what}: no member {target!r:.200}{via}")
            if target in self._twice:
                raise FormatError(f"{self.what}: member {target!r:.200} is there more than once")
            if member.kind == "file":
                return member
            if member.kind not in ("symlink", "hardlink"):
                raise FormatError(f"{self.what}: member {target!r:.200} is a {member.kind}, not a file")
            target = self._follow(member)
        raise FormatError(f"{self.what}: member {name!r:.200}: more than {MAX_LINKS} links, one after the other")

    def read(self, member: Member, limit: int) -> bytes:
        """All bytes of a small member; `LimitError` over `limit`."""
        if member.size > limit:
            raise LimitError(f"{self.what}: member {member.name!r:.200}: {member.size} bytes, more than {limit}")
        data = os.pread(self.fd, member.size, member.offset)
        if len(data) != member.size:
            raise TruncatedError(f"{self.what}: ends inside of member {member.name!r:.200}")
        return data

    def _follow(self, member: Member) -> str:
        if member.link.startswith("/"):
            raise UnsafeError(
                f"{self.what}: member {member.name!r:.200}: link to {member.link!r:.200} leaves the archive"
            )
        directory = member.name.split("/")[:-1] if member.kind == "symlink" else []
        for part in member.link.split("/"):
            if part == "..":
                if not directory:
                    raise UnsafeError(
                        f"{self.what}: member {member.name!r:.200}: link to {member.link!r:.200} leaves the archive"
                    )
                directory.pop()
            elif part not in ("", "."):
                directory.append(part)
        return "/".join(directory)

    def _normal(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise UnsafeError(f"{self.what}: member {name!r:.200}: the name leaves the archive")
        return "/".join(parts)

    def _scan(self) -> None:
        offset = 0
        extensions: dict[str, str] = {}
        for _ in range(2 * MAX_MEMBERS):
            header = os.pread(self.fd, BLOCK, offset)
            if not header.strip(b"\0") and (len(header) == BLOCK or (not header and offset)):
                break  # the end mark; GNU tar takes an archive that only stops, too
            if len(header) < BLOCK:
                raise TruncatedError(f"{self.what}: ends inside of the header at byte {offset}")
            flag, size = self._check_header(header, offset, extensions)
            data = offset + BLOCK
            if data + size > self._size:
                raise TruncatedError(
                    f"{self.what}: the member at byte {offset} has {size} bytes, the archive ends before"
                )
            if flag in _EXTENSIONS:
                self._extend(extensions, flag, data, size)
            else:
                self._add(header, flag, data, size, extensions)
                extensions = {}
            offset = data + (size + BLOCK - 1) // BLOCK * BLOCK
        else:
            raise LimitError(f"{self.what}: more than {MAX_MEMBERS} members")
        if extensions:
            raise TruncatedError(f"{self.what}: ends after an extended header")

    def _check_header(self, header: bytes, offset: int, extensions: dict[str, str]) -> tuple[bytes, int]:
        where = f"{self.what}: header at byte {offset}"
        stated = _number(header[148:156], where)
        plain = sum(header) - sum(header[148:156]) + 8 * 32
        signed = plain - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
        if stated not in (plain, signed):
            raise CorruptError(f"{where}: checksum is {stated}, its bytes give {plain}: no tar, or a damaged one")
        flag = header[156:157]
        if flag == b"S" or any(key.startswith("GNU.sparse.") for key in extensions):
            raise UnsupportedError(f"{where}: a sparse member")
        size = _number(header[124:136], where)
        if "size" in extensions and flag not in _EXTENSIONS:
            text = extensions["size"]
            if not text.isascii() or not text.isdigit() or len(text) > 19:
                raise FormatError(f"{where}: pax size {text!r:.40}")
            size = int(text)
        if size > _MAX_SIZE:
            raise FormatError(f"{where}: size {size}")
        return flag, 0 if flag in (b"1", b"2", b"3", b"4", b"5", b"6") else size

    def _extend(self, extensions: dict[str, str], flag: bytes, offset: int, size: int) -> None:
        if flag == b"g":
            return
        if size > MAX_EXTENSION:
            raise LimitError(f"{self.what}: an extended header of {size} bytes, more than {MAX_EXTENSION}")
        data = os.pread(self.fd, size, offset)
        if flag == b"L":
            extensions["path"] = _text(data)
        elif flag == b"K":
            extensions["linkpath"] = _text(data)
        else:
            extensions.update(_pax(data, f"{self.what}: pax header at byte {offset}"))

    def _add(self, header: bytes, flag: bytes, offset: int, size: int, extensions: dict[str, str]) -> None:
        name = _text(header[:100])
        if header[257:263] == b"ustar\0" and header[345] != 0:
            name = f"{_text(header[345:500])}/{name}"
        name = extensions.get("path", name)
        kinds = {b"0": "file", b"\0": "file", b"7": "file", b"1": "hardlink", b"2": "symlink", b"5": "directory"}
        kind = kinds.get(flag, "other")
        if kind == "file" and name.endswith("/"):
            kind = "directory"
        key = self._normal(name)
        if key in self._members and (kind, self._members[key].kind) != ("directory", "directory"):
            self._twice.add(key)
        if len(self._members) >= MAX_MEMBERS:
            raise LimitError(f"{self.what}: more than {MAX_MEMBERS} members")
        self._members[key] = Member(key, kind, offset, size, extensions.get("linkpath", _text(header[157:257])))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes, where: str) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise FormatError(f"{where}: {field.decode('latin-1')!a} is not a number: no tar, or a damaged one")
    return int(text or b"0", 8)


def _pax(data: bytes, where: str) -> dict[str, str]:
    """`"%d %s=%s\\n"` records; the number counts the whole record."""
    records: dict[str, str] = {}
    start = 0
    while start < len(data):
        digits, space, _ = data[start : start + 20].partition(b" ")
        end = start + (int(digits) if space and digits.isdigit() else 0)
        key, equals, value = data[start + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise FormatError(f"{where}: a malformed record")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        start = end
    return records
