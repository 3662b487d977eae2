"""Content-defined chunks of a buffer (csrc/bytes/lz_chunk.h)."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.stdlib cimport free

from lazarus._native.check cimport check

cdef extern from "bytes/lz_chunk.h":
    int LZ_CHUNK_SHA256, LZ_CHUNK_XXH3
    int LZ_CHUNK_KEY_SIZE
    struct lz_chunk_row:
        pass
    struct lz_chunk_rows:
        lz_chunk_row *rows
        size_t count, capacity
    struct lz_chunk_piece:
        pass
    struct lz_chunker:
        pass
    int lz_chunker_new(size_t min, size_t average, size_t max, const uint8_t *key, lz_chunker **out) nogil
    void lz_chunker_free(lz_chunker *self) nogil
    int64_t lz_chunk_buffer(const lz_chunker *self, const uint8_t *bytes, size_t size, uint64_t base, bint last,
                            unsigned digests, unsigned threads, lz_chunk_rows *out) nogil
    int lz_chunk_pieces(const lz_chunker *self, const uint8_t *bytes, size_t size, const lz_chunk_piece *pieces,
                        size_t count, unsigned digests, lz_chunk_rows *out) nogil

#: What a row of Chunker.cut() is: struct lz_chunk_row.
ROW_FIELDS = (("offset", "<u8"), ("length", "<u8"), ("sha256", "u1", (32,)), ("xxh3", "u1", (16,)))

#: What Chunker.cut() can be asked for, or-ed.
SHA256, XXH3 = LZ_CHUNK_SHA256, LZ_CHUNK_XXH3


cdef class Chunker:
    """Sizes and a table, constant; any number of threads may cut with one at once."""

    cdef lz_chunker *chunker

    def __cinit__(self, size_t minimum, size_t average, size_t maximum, const uint8_t[::1] key=None):
        """OSError EINVAL for sizes that are none (see lz_chunker_new()), ValueError for a key that has not 32 bytes."""
        cdef const uint8_t *secret = NULL
        cdef int rc
        if key is not None:
            if key.shape[0] != LZ_CHUNK_KEY_SIZE:
                raise ValueError(f"a key of {key.shape[0]} bytes, expected {LZ_CHUNK_KEY_SIZE}")
            secret = &key[0]
        with nogil:
            rc = lz_chunker_new(minimum, average, maximum, secret, &self.chunker)
        check(rc, NULL)

    def __dealloc__(self):
        lz_chunker_free(self.chunker)

    def cut(self, data, *, uint64_t base=0, bint last=True, unsigned digests=0, unsigned threads=1):
        """The chunks of a buffer: (how many of its bytes they cover, a bytearray with ROW_FIELDS rows).

        Offsets count from `base`. `last` False: more bytes follow; chunks that those could change are left out, always
        fewer bytes than `maximum`. One C call without the GIL. OSError: ENOMEM, EINVAL (threads).
        """
        cdef lz_chunk_rows rows = lz_chunk_rows(NULL, 0, 0)
        cdef Py_buffer view
        cdef int64_t covered
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                covered = lz_chunk_buffer(self.chunker, <const uint8_t *> view.buf, <size_t> view.len, base, last,
                                          digests, threads, &rows)
            check(covered, NULL)
            return covered, PyByteArray_FromStringAndSize(<char *> rows.rows, rows.count * sizeof(lz_chunk_row))
        finally:
            free(rows.rows)
            PyBuffer_Release(&view)

    def cut_pieces(self, data, const uint64_t[:, ::1] pieces not None, *, unsigned digests=0):
        """The chunks of parts of a buffer, each cut by itself, one after the other: a bytearray with ROW_FIELDS rows.

        `pieces` are rows of offset and size. Offsets count from the buffer's start. One C call without the GIL: for
        many small files. OSError: ENOMEM, EINVAL (a piece that is not in the buffer).
        """
        cdef lz_chunk_rows rows = lz_chunk_rows(NULL, 0, 0)
        cdef Py_buffer view
        cdef size_t count = <size_t> pieces.shape[0]
        cdef const lz_chunk_piece *first = NULL
        cdef int rc
        if pieces.shape[1] != 2:
            raise ValueError(f"pieces of {pieces.shape[1]} numbers, expected 2")
        if count > 0:
            first = <const lz_chunk_piece *> &pieces[0, 0]
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                rc = lz_chunk_pieces(self.chunker, <const uint8_t *> view.buf, <size_t> view.len, first, count, digests,
                                     &rows)
            check(rc, NULL)
            return PyByteArray_FromStringAndSize(<char *> rows.rows, rows.count * sizeof(lz_chunk_row))
        finally:
            free(rows.rows)
            PyBuffer_Release(&view)
