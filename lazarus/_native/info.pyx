"""What a name of a union is, as a value."""

from libc.string cimport memcpy

import cython

from lazarus._native.union cimport lz_lookup, lz_lookup_layer, lz_union_info, timespec

_KINDS = ("", "directory", "file", "symlink", "char", "block", "fifo", "socket", "whiteout")  # enum lz_kind


cdef object nanoseconds(timespec time):
    return <object> time.tv_sec * 1000000000 + time.tv_nsec  # a Python number: 64 bits of seconds are too many


@cython.freelist(64)
cdef class Info:
    """What a name is: `layer` that it comes from, `mode` (with type bits), `uid`, `gid`, `major`, `minor`, `size`,
    `link_count`, and `entry`, its row in `entries` (-1: it is in a directory).

    `device` and `number` are equal for two names of one file only. `data_layer` is where a file's data lies when only
    its attributes were changed, else `layer`. `unsettled`: a block-level file, with a part of its data still there.
    """

    def __init__(self):
        raise TypeError("lookup() and stat() make it")

    @property
    def kind(self):
        """ "directory", "file", "symlink", "char", "block", "fifo" or "socket"."""
        return _KINDS[self.kind_number]

    @property
    def digest(self):
        """SHA-256 (32 bytes) of a file whose content is an image's, unchanged; else None."""
        return self.raw_digest[:32] if self.has_digest else None

    @property
    def mtime_ns(self):
        """Time of the last change; of an image's entry, the time in its layer."""
        return nanoseconds(self.mtime)

    @property
    def atime_ns(self):
        """Time of the last reading; of an image's entry, its `mtime_ns`."""
        return nanoseconds(self.atime)

    @property
    def ctime_ns(self):
        """Time of the last change of attributes; of an image's entry, its `mtime_ns`."""
        return nanoseconds(self.ctime)

    def __repr__(self):
        return f"<Info {self.kind} {self.mode & 0o7777:04o} {self.size} bytes, layer {self.layer}>"


cdef Info make_info(const lz_lookup *view, const lz_union_info *info):
    cdef Info out = Info.__new__(Info)
    out.layer = <int> lz_lookup_layer(view, info.branch, info.entry)
    out.data_layer = <int> lz_lookup_layer(view, info.data_branch, info.data_entry)
    out.mode, out.uid, out.gid, out.major, out.minor = info.mode, info.uid, info.gid, info.major, info.minor
    out.link_count, out.size, out.device, out.number = info.link_count, info.size, info.device, info.number
    out.entry, out.unsettled, out.kind_number, out.has_digest = info.entry, info.unsettled, info.kind, info.has_digest
    out.atime, out.mtime, out.ctime = info.atime, info.mtime, info.ctime
    memcpy(out.raw_digest, info.digest, 32)
    return out
