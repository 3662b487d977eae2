"""The objects directory of a store, many objects a call, and trees removed (csrc/tree/lz_publish.h, lz_remove.h)."""

import os

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t, uint8_t

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux

cdef extern from "base/lz_mem.h":
    struct lz_buf:
        uint8_t *data
        size_t size
    void lz_buf_free(lz_buf *buf) nogil

cdef extern from "bytes/lz_index.h":
    struct lz_object_ref:
        pass

cdef extern from "tree/lz_publish.h":
    struct lz_sweep:
        uint64_t count, bytes, allocated
    int lz_publish_objects(const lz_sys *sys, int staged_fd, int objects_fd, lz_buf *moved, lz_detail *detail) nogil
    int64_t lz_withdraw_objects(const lz_sys *sys, int objects_fd, int target_fd, const uint8_t *digests, size_t count,
                                lz_detail *detail) nogil
    int lz_sweep_objects(const lz_sys *sys, int objects_fd, int trash_fd, const lz_object_ref *marks, size_t count,
                         lz_sweep *result, lz_detail *detail) nogil
    int lz_missing_objects(const lz_sys *sys, int objects_fd, const lz_object_ref *refs, size_t count, lz_buf *missing,
                           lz_detail *detail) nogil

cdef extern from "tree/lz_remove.h":
    int64_t lz_remove_tree(const lz_sys *sys, int dir, const char *name, lz_detail *detail) nogil


cdef class _Directory:
    """A directory, open as long as this lives."""

    cdef int fd

    def __cinit__(self, path):
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __dealloc__(self):
        if self.fd >= 0:
            os.close(self.fd)


cdef bytes _take(lz_buf *buf):
    """The bytes of a native buffer, which is given back."""
    try:
        return buf.data[:buf.size] if buf.size > 0 else b""
    finally:
        lz_buf_free(buf)


def publish_objects(staged, objects):
    """Moves all objects of the flat directory `staged` into the store's; those it has already win.

    Returns the digests (32 bytes each, one after the other) of those moved; on OSError nothing is. 5 us an object.
    """
    cdef _Directory source = _Directory(staged), target = _Directory(objects)
    cdef lz_detail detail
    cdef lz_buf moved = lz_buf(NULL, 0)
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_publish_objects(lz_sys_linux(), source.fd, target.fd, &moved, &detail)
    cdef bytes digests = _take(&moved)
    check(rc, &detail)
    return digests


def withdraw_objects(objects, target, const uint8_t[::1] digests):
    """Moves objects (32-byte digests) from the store to the flat directory `target`; returns how many were there."""
    cdef _Directory source = _Directory(objects), to = _Directory(target)
    cdef lz_detail detail
    cdef size_t count = <size_t> digests.shape[0] // 32
    cdef const uint8_t *first = &digests[0] if count > 0 else NULL
    cdef int64_t moved
    detail.text[0] = 0
    with nogil:
        moved = lz_withdraw_objects(lz_sys_linux(), source.fd, to.fd, first, count, &detail)
    check(moved, &detail)
    return moved


def sweep_objects(objects, trash, const uint8_t[::1] marks):
    """Moves every object that is not in `marks` (records of an index's object table) to the flat directory `trash`.

    None counts only. Returns (count, bytes, bytes on disk) of what has no mark."""
    cdef _Directory source = _Directory(objects), to = None if trash is None else _Directory(trash)
    cdef lz_detail detail
    cdef lz_sweep result
    cdef size_t count = <size_t> marks.shape[0] // 40
    cdef const uint8_t *first = &marks[0] if count > 0 else NULL
    cdef int rc, trash_fd = -1 if to is None else to.fd
    detail.text[0] = 0
    with nogil:
        rc = lz_sweep_objects(
            lz_sys_linux(), source.fd, trash_fd, <const lz_object_ref *> first, count, &result, &detail)
    check(rc, &detail)
    return result.count, result.bytes, result.allocated


def missing_objects(objects, const uint8_t[::1] refs):
    """The digests (32 bytes each) of those records of an object table that the store has not, or in another size."""
    cdef _Directory source = _Directory(objects)
    cdef lz_detail detail
    cdef lz_buf missing = lz_buf(NULL, 0)
    cdef size_t count = <size_t> refs.shape[0] // 40
    cdef const uint8_t *first = &refs[0] if count > 0 else NULL
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_missing_objects(lz_sys_linux(), source.fd, <const lz_object_ref *> first, count, &missing, &detail)
    cdef bytes digests = _take(&missing)
    check(rc, &detail)
    return digests


def remove_tree(path):
    """Removes a file or a whole tree, whatever its depth; never follows a symlink nor enters a mount (OSError EBUSY).

    Returns the bytes on disk that were given back; 0 when there is nothing at `path`.
    """
    cdef bytes encoded = os.fsencode(path)
    cdef const char *name = encoded
    cdef lz_detail detail
    cdef int64_t freed
    detail.text[0] = 0
    with nogil:
        freed = lz_remove_tree(lz_sys_linux(), -100, name, &detail)  # AT_FDCWD
    check(freed, &detail)
    return freed
