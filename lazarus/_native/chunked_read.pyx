"""The tar of a zstd:chunked layer from what a store has and parts of the blob (csrc/tree/lz_chunked_read.h)."""

import os
from typing import NamedTuple

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t, uint8_t
from libc.stdlib cimport free

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux
from lazarus._native.index cimport Index, lz_index

cdef extern from "base/lz_mem.h":
    void *lz_zalloc_array(size_t count, size_t size) nogil

cdef extern from "tree/lz_chunked_read.h":
    struct lz_chunked_tail_bytes:
        const uint8_t *toc
        size_t toc_size
        uint64_t toc_plain_size
        const uint8_t *toc_digest
        const uint8_t *tar_split
        size_t tar_split_size
        uint64_t end
    struct lz_chunked_range:
        uint64_t offset, size
    struct lz_chunked_need:
        uint64_t files, missing, content, fetched, wire
    struct lz_chunked_plan:
        pass
    int lz_chunked_plan_new(const lz_sys *sys, const lz_chunked_tail_bytes *tail, int objects_fd,
                            const lz_index **layers, size_t layer_count, uint64_t gap, lz_chunked_plan **out,
                            lz_detail *detail) nogil
    void lz_chunked_plan_free(lz_chunked_plan *plan) nogil
    const lz_chunked_range *lz_chunked_ranges(const lz_chunked_plan *plan, size_t *count) nogil
    lz_chunked_need lz_chunked_need_of "lz_chunked_need"(const lz_chunked_plan *plan) nogil
    int lz_chunked_rebuild(lz_chunked_plan *plan, int wire_fd, int out_fd, uint64_t max_size, lz_detail *detail) nogil


class Need(NamedTuple):
    """Files with content in the layer, those of which none is here; the same in bytes; bytes of the blob to fetch."""

    files: int
    missing: int
    content: int
    fetched: int
    wire: int


cdef class Plan:
    """Which ranges of the blob have to be fetched, and the tar from them. A context manager.

    `toc` and `tar_split` (None: there is none) are bytes of the blob's end, `toc_digest` 32 raw bytes, `end` is where
    the frames of the tar end, `layers` are indexes of layers whose small files may be used. Ranges with up to `gap`
    bytes between them are one. Raises CorruptError, FormatError, LimitError, UnsupportedError or OSError.
    """

    cdef lz_chunked_plan *plan
    cdef const lz_index **indexes
    cdef int objects_fd
    cdef object held

    def __cinit__(self):
        self.plan = NULL
        self.indexes = NULL
        self.objects_fd = -1

    def __init__(self, bytes toc not None, uint64_t toc_plain_size, bytes toc_digest not None, bytes tar_split,
                 uint64_t end, objects, layers, *, uint64_t gap):
        cdef lz_chunked_tail_bytes tail
        cdef lz_detail detail
        cdef size_t count = len(layers)
        cdef Index layer
        cdef int rc
        if self.plan != NULL or len(toc_digest) != 32:
            raise ValueError("one plan, of a digest of 32 bytes")
        self.held = (toc, toc_digest, tar_split, list(layers))
        tail.toc, tail.toc_size, tail.toc_plain_size = toc, len(toc), toc_plain_size
        tail.toc_digest = toc_digest
        tail.tar_split, tail.tar_split_size = NULL, 0
        if tar_split is not None:
            tail.tar_split, tail.tar_split_size = <const uint8_t *> tar_split, len(tar_split)
        tail.end = end
        self.indexes = <const lz_index **> lz_zalloc_array(count + 1, sizeof(void *))
        if self.indexes == NULL:
            raise MemoryError
        for number, layer in enumerate(layers):
            self.indexes[number] = layer.open()
        self.objects_fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        detail.text[0] = 0
        with nogil:
            rc = lz_chunked_plan_new(lz_sys_linux(), &tail, self.objects_fd, self.indexes, count, gap, &self.plan,
                                     &detail)
        check(rc, &detail)

    def __dealloc__(self):
        lz_chunked_plan_free(self.plan)
        free(self.indexes)
        if self.objects_fd >= 0:
            os.close(self.objects_fd)

    @property
    def ranges(self):
        """(offset, size) in the blob, ascending."""
        cdef size_t count
        cdef const lz_chunked_range *ranges = lz_chunked_ranges(self.plan, &count)
        return [(ranges[i].offset, ranges[i].size) for i in range(count)]

    @property
    def need(self):
        """A `Need`."""
        cdef lz_chunked_need need = lz_chunked_need_of(self.plan)
        return Need(need.files, need.missing, need.content, need.fetched, need.wire)

    def rebuild(self, int wire_fd, int out_fd, uint64_t max_size):
        """Reads the bytes of all ranges, in order, and writes the tar, at most `max_size` bytes; once.

        That each fetched file is the one of the table is checked here: CorruptError names it. That the tar is the right
        one is for the caller to check, by its digest. Raises also FormatError, LimitError, TruncatedError, OSError.
        """
        cdef lz_detail detail
        cdef int rc
        detail.text[0] = 0
        with nogil:
            rc = lz_chunked_rebuild(self.plan, wire_fd, out_fd, max_size, &detail)
        check(rc, &detail)
