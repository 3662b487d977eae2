# The C side of info.pyx.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from lazarus._native.union cimport lz_lookup, lz_union_info, timespec


cdef class Info:
    cdef readonly int layer, data_layer
    cdef readonly unsigned int mode, uid, gid, major, minor, link_count
    cdef readonly uint64_t size, device, number
    cdef readonly int64_t entry
    cdef readonly bint unsettled
    cdef int kind_number
    cdef timespec atime, mtime, ctime
    cdef bint has_digest
    cdef uint8_t raw_digest[32]


cdef Info make_info(const lz_lookup *view, const lz_union_info *info)
