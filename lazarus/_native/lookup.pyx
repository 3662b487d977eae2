"""What names are, one or a million at a time (csrc/tree/lz_lookup.h)."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport ENOENT, ENOTDIR
from libc.stdlib cimport free

import cython

from lazarus._native.info cimport make_info
from lazarus._native.pack cimport lz_alloc_array
from lazarus._native.union cimport *

#: What a row of lookup_many() is: struct lz_lookup_row.
ROW_FIELDS = (
    ("entry", "<i8"), ("size", "<u8"), ("mtime", "<i8"), ("digest", "u1", (32,)), ("mtime_nsec", "<u4"),
    ("uid", "<u4"), ("gid", "<u4"), ("link_count", "<u4"), ("layer", "<i4"), ("mode", "<u2"), ("error", "<u2"),
    ("kind", "u1"), ("has_digest", "?"), ("reserved", "u1", (6,)),
)


cdef class Lookup(Union):
    """A union that answers for names. A union of one merged index (an image) is asked by hash, without a walk."""

    def lookup(self, path, *, bint follow=False):
        """What `path` is, an `Info`, or None when there is nothing. A symlink at the end is itself unless `follow`.

        OSError for what can never be a name: EINVAL, ENAMETOOLONG, ELOOP.
        """
        cdef bytes name = path if type(path) is bytes else path_bytes(path)
        cdef const char *text = PyBytes_AS_STRING(name)
        cdef size_t size = PyBytes_GET_SIZE(name)
        cdef unsigned flags = 0 if follow else LZ_UNION_NOFOLLOW
        cdef lz_union_info info
        cdef int64_t found = LZ_LOOKUP_WALK
        cdef int rc
        cdef lz_union *layers
        if self.view.index != NULL and not self.shut:
            found = lz_lookup_try(self.view.index, text, size, flags)
            if found >= 0:
                lz_lookup_entry(&self.view, found, &info)
                return make_info(&self.view, &info)
            if found != LZ_LOOKUP_WALK:
                return None
        layers = self.enter()
        with nogil:
            rc = lz_union_stat(layers, text, size, flags, &info)
        try:  # whoever closes the stack meanwhile, the view stays until here
            if rc == -ENOENT or rc == -ENOTDIR:
                return None
            check_path(rc, path)
            return make_info(&self.view, &info)
        finally:
            self.leave()

    def lookup_rows(self, paths, offsets, rows, *, bint follow=False):
        """Fills the writable buffer `rows` with a ROW_FIELDS row for each path.

        `paths` are a sequence of paths, or with `offsets` (a buffer of native 64-bit numbers, one more than paths) one
        buffer that has them one after the other. One C call without the GIL.
        """
        cdef Py_buffer out, text, ends
        cdef unsigned flags = 0 if follow else LZ_UNION_NOFOLLOW
        PyObject_GetBuffer(rows, &out, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if offsets is None:
                self.each(paths, &out, flags)
                return
            PyObject_GetBuffer(paths, &text, PyBUF_SIMPLE)
            try:
                PyObject_GetBuffer(offsets, &ends, PyBUF_SIMPLE)
                try:
                    self.packed(&text, &ends, &out, flags)
                finally:
                    PyBuffer_Release(&ends)
            finally:
                PyBuffer_Release(&text)
        finally:
            PyBuffer_Release(&out)

    cdef int packed(self, Py_buffer *text, Py_buffer *ends, Py_buffer *out, unsigned flags) except -1:
        cdef size_t count = out.len // sizeof(lz_lookup_row)
        cdef int rc
        if <size_t> ends.len != (count + 1) * sizeof(uint64_t):
            raise ValueError(f"{ends.len // 8} offsets for {count} paths: one more than paths is needed")
        self.enter()
        with nogil:
            rc = lz_lookup_packed(&self.view, <const char *> text.buf, <size_t> text.len, <const uint64_t *> ends.buf,
                                  count, flags, <lz_lookup_row *> out.buf)
        self.leave()
        if rc < 0:
            raise ValueError(f"offsets must not decrease, nor pass the {text.len} bytes of paths")
        return 0

    @cython.boundscheck(False)
    cdef int each(self, object paths, Py_buffer *out, unsigned flags) except -1:
        cdef tuple held = tuple(paths)  # nobody can change it while the GIL is released
        cdef size_t count = len(held), i
        cdef object path
        cdef lz_text *texts
        if out.len != <Py_ssize_t> (count * sizeof(lz_lookup_row)):
            raise ValueError(f"rows for {out.len // sizeof(lz_lookup_row)} paths, {count} paths were given")
        for path in held:
            if type(path) is not bytes:
                held = tuple([path_bytes(path) for path in held])
                break
        texts = <lz_text *> lz_alloc_array(count + 1, sizeof(lz_text))
        if texts == NULL:
            raise MemoryError
        for i in range(count):
            path = held[i]
            texts[i].bytes, texts[i].size = PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path)
        try:
            self.enter()
            with nogil:
                lz_lookup_many(&self.view, texts, count, flags, <lz_lookup_row *> out.buf)
            self.leave()
        finally:
            free(texts)
        return 0
