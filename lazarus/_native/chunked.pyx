"""A layer as zstd:chunked (csrc/tree/lz_chunked.h)."""

import os
from typing import NamedTuple

from libc.stdint cimport uint64_t, uint8_t

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux

cdef extern from "tree/lz_chunked.h":
    struct lz_chunked_options:
        int recipe_fd, index_fd, objects_fd, out_fd, level
        unsigned threads
    struct lz_chunked_part:
        uint64_t offset, size, plain_size
    struct lz_chunked_result:
        uint8_t digest[32]
        uint64_t size, tar_size
        uint8_t diff_id[32]
        bint has_toc
        lz_chunked_part toc, tar_split
        uint8_t toc_digest[32]
    int lz_chunked_write(const lz_sys *sys, const lz_chunked_options *options, lz_chunked_result *result,
                         lz_detail *detail) nogil

cdef extern from "bytes/lz_framer.h":
    int LZ_FRAMER_THREADS_MAX


class Written(NamedTuple):
    """What `write` wrote: raw digests, sizes in bytes. `toc` and `tar_split` are (offset, size, size when inflated) in
    the blob, `toc_digest` is of the table's bytes there; all None for a layer that has no table."""

    digest: bytes
    size: int
    diff_id: bytes
    tar_size: int
    toc: tuple[int, int, int] | None
    tar_split: tuple[int, int, int] | None
    toc_digest: bytes | None


def write(recipe, index, objects, int out_fd, *, int level=0, int threads=0):
    """Streams the layer's zstd:chunked form to `out_fd` (file, pipe or socket): a `Written`.

    `threads` 0 is as many as there are cores, at most 16; the output does not depend on it. Raises CorruptError, which
    names the object or the layer, when the tar's bytes are not the ones that came in (the output is worthless then),
    and OSError, ENOENT for an object that is missing.
    """
    cdef lz_detail detail
    cdef lz_chunked_options options
    cdef lz_chunked_result result
    cdef int rc
    detail.text[0] = 0
    options.out_fd, options.level = out_fd, level
    options.threads = threads if threads > 0 else min(len(os.sched_getaffinity(0)), LZ_FRAMER_THREADS_MAX)
    options.recipe_fd = options.index_fd = options.objects_fd = -1
    try:
        options.recipe_fd = os.open(recipe, os.O_RDONLY | os.O_CLOEXEC)
        options.index_fd = os.open(index, os.O_RDONLY | os.O_CLOEXEC)
        options.objects_fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with nogil:
            rc = lz_chunked_write(lz_sys_linux(), &options, &result, &detail)
    finally:
        for fd in (options.recipe_fd, options.index_fd, options.objects_fd):
            if fd >= 0:
                os.close(fd)
    check(rc, &detail)
    if not result.has_toc:
        return Written(result.digest[:32], result.size, result.diff_id[:32], result.tar_size, None, None, None)
    return Written(
        result.digest[:32], result.size, result.diff_id[:32], result.tar_size,
        (result.toc.offset, result.toc.size, result.toc.plain_size),
        (result.tar_split.offset, result.tar_split.size, result.tar_split.plain_size),
        result.toc_digest[:32],
    )
