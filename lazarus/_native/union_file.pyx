"""Open files of a union (csrc/tree/lz_union.h). One handle may be used by several threads; the GIL is released."""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

import cython

from lazarus._native.info cimport make_info
from lazarus._native.union cimport *


@cython.no_gc_clear  # the union must outlive the native file
cdef class Handle:
    """An open file: positional reads and writes. It keeps its union alive until it is closed."""

    cdef Union union
    cdef lz_union_file *file
    cdef Py_ssize_t users
    cdef readonly object path
    cdef bint shut

    def __init__(self, Union union not None, path, int flags, uint32_t mode=0o644):
        """Opens as open(2) does, with `flags` of the os module. EROFS for writing without an upper."""
        cdef lz_detail detail
        cdef bytes name = path_bytes(path)
        cdef const char *text = name
        cdef size_t size = len(name)
        cdef lz_union_file *file = NULL
        cdef int rc
        if self.union is not None:
            raise TypeError("it is open already")
        detail.text[0] = 0
        cdef lz_union *native = union.enter()
        with nogil:
            rc = lz_union_open(native, text, size, flags, mode, &file, &detail)
        if rc < 0:
            union.leave()
        check_path(rc, path, &detail)
        self.union, self.file, self.path = union, file, os.fspath(path)

    cdef lz_union_file *enter(self) except NULL:
        if self.shut or self.file == NULL:
            raise ValueError("I/O operation on closed file")
        self.users += 1
        return self.file

    cdef int leave(self, int64_t code) except -1:
        self.users -= 1
        if self.shut and self.users == 0:
            self.give_back()
        return check_path(code, self.path)

    cdef void give_back(self) noexcept:
        cdef lz_union_file *file = self.file
        self.file = NULL
        if file != NULL:
            with nogil:
                lz_union_file_close(file)
            self.union.leave()

    def __dealloc__(self):
        if self.file != NULL:
            lz_union_file_close(self.file)
            self.union.leave()

    def close(self):
        """Closes it, once calls of other threads have ended. A second call is harmless."""
        if not self.shut and self.file != NULL:
            self.shut = True
            self.users += 1
            self.leave(0)

    def read_into(self, buffer, uint64_t offset):
        """Reads at `offset` into a writable buffer; the number of bytes, 0 at the end."""
        cdef Py_buffer out
        cdef ssize_t rc
        cdef lz_union_file *file
        PyObject_GetBuffer(buffer, &out, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            file = self.enter()
            with nogil:
                rc = lz_union_file_read(file, out.buf, <size_t> out.len, offset)
            self.leave(rc)
        finally:
            PyBuffer_Release(&out)
        return rc

    def write(self, data, uint64_t offset):
        """Writes at `offset` (O_APPEND: at the end); the number of bytes."""
        cdef Py_buffer source
        cdef ssize_t rc
        cdef lz_union_file *file
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            file = self.enter()
            with nogil:
                rc = lz_union_file_write(file, source.buf, <size_t> source.len, offset)
            self.leave(rc)
        finally:
            PyBuffer_Release(&source)
        return rc

    def truncate(self, uint64_t size):
        """Sets its size in bytes."""
        cdef lz_union_file *file = self.enter()
        cdef int rc
        with nogil:
            rc = lz_union_file_truncate(file, size)
        self.leave(rc)

    def punch_hole(self, uint64_t offset, uint64_t size):
        """Makes a range read as zeros and gives its blocks back."""
        cdef lz_union_file *file = self.enter()
        cdef int rc
        with nogil:
            rc = lz_union_file_punch(file, offset, size)
        self.leave(rc)

    def copy_range(self, uint64_t offset, Handle target not None, uint64_t target_offset, uint64_t size):
        """copy_file_range() into another handle, a clone where the file system can; the number of bytes."""
        cdef lz_union_file *file = self.enter()
        cdef lz_union_file *to
        cdef int64_t rc
        try:
            to = target.enter()
        except BaseException:
            self.leave(0)
            raise
        with nogil:
            rc = lz_union_file_copy(file, offset, to, target_offset, size)
        target.leave(0)
        self.leave(rc)
        return rc

    def seek(self, uint64_t offset, int whence):
        """Where the next data (SEEK_DATA) or hole (SEEK_HOLE) begins; ENXIO past the end."""
        cdef lz_union_file *file = self.enter()
        cdef int64_t rc
        with nogil:
            rc = lz_union_file_seek(file, offset, whence)
        self.leave(rc)
        return rc

    def sync(self):
        """fdatasync: what was written so far is on the disk."""
        cdef lz_union_file *file = self.enter()
        cdef int rc
        with nogil:
            rc = lz_union_file_sync(file)
        self.leave(rc)

    def stat(self):
        """What the file is now, an Info."""
        cdef lz_union_file *file = self.enter()
        cdef lz_union_info info
        cdef int rc
        cdef object out = None
        with nogil:
            rc = lz_union_file_stat(file, &info)
        try:
            out = make_info(&self.union.view, &info) if rc >= 0 else None
        finally:  # the view may go with it
            self.leave(rc)
        return out


def settle(Union union not None, path):
    """Makes every block-level file below `path` a whole one; the number of them."""
    cdef lz_detail detail
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef uint64_t count = 0
    cdef int rc
    detail.text[0] = 0
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_settle(native, text, size, &count, &detail)
    union.leave()
    check_path(rc, path, &detail)
    return count
