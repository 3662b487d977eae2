"""Many small pieces, each compressed by itself (csrc/bytes/lz_frame.h)."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

from lazarus._native.check cimport check

cdef extern from "base/lz_err.h":
    int LZ_E_CORRUPT

cdef extern from "bytes/lz_frame.h":
    int64_t lz_frames_compress(const uint8_t *bytes, size_t size, const uint64_t *offsets, const uint32_t *lengths,
                               size_t count, int level, uint8_t *out, size_t capacity, uint32_t *stored) nogil
    int64_t lz_frames_expand(const uint8_t *bytes, size_t size, const uint64_t *offsets, const uint32_t *stored,
                             const uint32_t *lengths, const uint8_t *digests, size_t count, uint8_t *out,
                             size_t capacity, size_t *bad) nogil


def compress(const uint8_t[::1] data, const uint64_t[::1] offsets, const uint32_t[::1] lengths, uint8_t[::1] out,
             uint32_t[::1] stored, *, int level=0):
    """Pieces of `data`, each as a zstd frame or as it is, one after the other into `out`: how many bytes they take.

    `stored` gets what each takes; as many bytes as the piece itself are those bytes. `out` must have room for the sum
    of `lengths`. One C call without the GIL. ValueError for arrays that do not fit together, OSError.
    """
    cdef size_t count = lengths.shape[0], size = data.shape[0], capacity = out.shape[0]
    cdef int64_t used
    if <size_t> offsets.shape[0] != count or <size_t> stored.shape[0] != count:
        raise ValueError("as many offsets and stored as lengths")
    if count == 0:
        return 0
    if size == 0 or capacity == 0:
        raise ValueError("pieces of nothing, or room for none")
    with nogil:
        used = lz_frames_compress(&data[0], size, &offsets[0], &lengths[0], count, level, &out[0], capacity, &stored[0])
    check(used, NULL)
    return used


def expand(const uint8_t[::1] data, const uint64_t[::1] offsets, const uint32_t[::1] stored,
           const uint32_t[::1] lengths, const uint8_t[::1] digests, uint8_t[::1] out):
    """The pieces themselves, one after the other into `out`, their SHA-256 (32 bytes each) compared: -1, or the number
    of the first that is not what `lengths` and `digests` say; `out` is worthless from there on.

    One C call without the GIL. ValueError for arrays that do not fit together, OSError.
    """
    cdef size_t count = lengths.shape[0], size = data.shape[0], capacity = out.shape[0], bad = 0
    cdef int64_t used
    if <size_t> offsets.shape[0] != count or <size_t> stored.shape[0] != count \
            or <size_t> digests.shape[0] != 32 * count:
        raise ValueError("as many offsets, stored and digests as lengths")
    if count == 0:
        return -1
    if size == 0 or capacity == 0:
        raise ValueError("pieces of nothing, or room for none")
    with nogil:
        used = lz_frames_expand(&data[0], size, &offsets[0], &stored[0], &lengths[0], &digests[0], count, &out[0],
                                capacity, &bad)
    if used == LZ_E_CORRUPT:
        return <int64_t> bad
    check(used, NULL)
    return -1
