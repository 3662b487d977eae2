"""Are files still what their names say, and the parts of a layer whole? (csrc/tree/lz_verify.h)"""

import os

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uint8_t

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux
from lazarus._native.index cimport Index, lz_index

cdef extern from "base/lz_mem.h":
    struct lz_buf:
        uint8_t *data
        size_t size
    void lz_buf_free(lz_buf *buf) nogil

cdef extern from "base/lz_err.h":
    enum:
        LZ_E_CANCELLED

cdef extern from "tree/lz_verify.h":
    struct lz_verify_files_ "lz_verify_files":
        int dir
        bint fan
        const uint8_t *digests
        size_t count
        int (*step)(void *ctx, uint64_t files, uint64_t bytes) noexcept nogil
        void *ctx
    int lz_verify_files(const lz_sys *sys, const lz_verify_files_ *files, lz_buf *wrong, lz_detail *detail) nogil
    int64_t lz_verify_inline(const lz_index *layer) nogil

cdef extern from "tree/lz_recipe_read.h":
    int lz_recipe_check(const lz_sys *sys, int recipe_fd, const lz_index *layer, const uint8_t *diff_id,
                        uint64_t tar_size, lz_detail *detail) nogil


cdef class _Steps:
    """A function of Python that is told of every window, and what it raised."""

    cdef object function, error


cdef int _step(void *ctx, uint64_t files, uint64_t bytes_) noexcept with gil:
    cdef _Steps steps = <_Steps> ctx
    try:
        steps.function(files, bytes_)
    except BaseException as error:  # raised again once the call has come back
        steps.error = error
        return LZ_E_CANCELLED
    return 0


def verify_files(directory, const uint8_t[::1] digests, *, bint fan, step=None):
    """Reads the files of `directory` that have these digests (32 bytes each) as their names, past the page cache where
    that can be, and returns the digests of those whose bytes have another one. `fan`: as objects lie, "ab/cdef...".

    Files that are missing are skipped; what cannot be read, or is no file, is wrong. `step(files, bytes)` is called
    after every window (8 MiB); what it raises ends the call. OSError. Without the GIL; memory: one window.
    """
    cdef lz_detail detail
    cdef lz_buf wrong = lz_buf(NULL, 0)
    cdef lz_verify_files_ files
    cdef _Steps steps = _Steps()
    cdef int rc
    detail.text[0] = 0
    steps.function, steps.error = step, None
    files.count = <size_t> digests.shape[0] // 32
    files.digests = &digests[0] if files.count > 0 else NULL
    files.fan = fan
    files.step = NULL
    if step is not None:
        files.step = _step
    files.ctx = <void *> steps
    files.dir = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with nogil:
            rc = lz_verify_files(lz_sys_linux(), &files, &wrong, &detail)
        if steps.error is not None:
            raise steps.error
        check(rc, &detail)
        return wrong.data[:wrong.size] if wrong.size > 0 else b""
    finally:
        os.close(files.dir)
        lz_buf_free(&wrong)


def verify_parts(Index index not None, recipe, const uint8_t[::1] diff_id not None, uint64_t tar_size):
    """Hashes what a layer's open index has inline, and reads its recipe, which must be of that diff ID (32 bytes) and
    tar size, to its end; objects are not read. CorruptError, TruncatedError, OSError."""
    cdef lz_detail detail
    cdef int64_t entry
    cdef int rc, fd
    cdef const lz_index *layer = index.open()
    detail.text[0] = 0
    if diff_id.shape[0] != 32:
        raise ValueError("a diff ID of 32 bytes is needed")
    with nogil:
        entry = lz_verify_inline(layer)
    if entry >= 0:
        from lazarus.errors import CorruptError
        path = os.fsdecode(index.entry(entry).path)
        raise CorruptError(f"index: the content of /{path} has another digest")
    if entry != -2:  # ENOENT: none is wrong
        check(entry, NULL)
    fd = os.open(recipe, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with nogil:
            rc = lz_recipe_check(lz_sys_linux(), fd, layer, &diff_id[0], tar_size, &detail)
    finally:
        os.close(fd)
    check(rc, &detail)
