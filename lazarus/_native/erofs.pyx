"""A merged index as an EROFS image of metadata and small files (csrc/tree/lz_erofs.h)."""

import os

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux
from lazarus._native.index import Index

cdef extern from "bytes/lz_index.h":
    struct lz_index:
        pass
    int lz_index_open(const void *bytes, uint64_t size, lz_index *out, lz_detail *detail) nogil

cdef extern from "tree/lz_erofs.h":
    int lz_erofs_write(const lz_sys *sys, const lz_index *merged, const int *layer_fds, int out_fd, uint64_t *size,
                       lz_detail *detail) nogil


def write_erofs(merged, layer_indexes, out):
    """Writes the image of the merged index at path `merged` to `out` (created, not synced); returns its size in bytes.

    `layer_indexes` are the paths of its layers' indexes, in the order of its layer table: inline contents are read from
    them. CorruptError names a path whose inline content has another digest. O(entries): about 10 ms for 17,000.
    """
    import mmap

    cdef lz_index index
    cdef lz_detail detail
    cdef uint64_t size = 0, length
    cdef const unsigned char[::1] view
    cdef int rc, fd
    cdef size_t count = len(layer_indexes), i
    cdef int *fds = <int *> calloc(count + 1, sizeof(int))
    if fds == NULL:
        raise MemoryError
    detail.text[0] = 0
    opened = []
    try:
        for i in range(count):
            opened.append(os.open(layer_indexes[i], os.O_RDONLY | os.O_CLOEXEC))
            fds[i] = opened[i]
        opened.append(os.open(merged, os.O_RDONLY | os.O_CLOEXEC))
        with mmap.mmap(opened[count], 0, prot=mmap.PROT_READ) as mapped:
            view = mapped
            length = view.shape[0]
            try:
                with nogil:
                    rc = lz_index_open(&view[0], length, &index, &detail)
                check(rc, &detail, merged)
                if count != len(Index(merged).layers):
                    raise ValueError("one layer index for each layer of the merged index is needed")
                fd = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                opened.append(fd)
                with nogil:
                    rc = lz_erofs_write(lz_sys_linux(), &index, fds, fd, &size, &detail)
                check(rc, &detail, out)
            finally:
                view = None
    finally:
        free(fds)
        for descriptor in opened:
            os.close(descriptor)
    return size
