"""Reading a union: what a name is, where a symlink leads, the names of a directory (csrc/tree/lz_union.h).

Paths are bytes, or text and path objects as the file system encodes them, with or without a leading slash; symlinks
resolve inside. OSError has the errno that Linux gives, and the path as it was given. Every call releases the GIL.
"""

import errno
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport ERANGE

from lazarus._native.index cimport LZ_PATH_MAX
from lazarus._native.info cimport make_info
from lazarus._native.union cimport *

#: Rungs of the ladder of copy-up by number (enum lz_rung).
RUNGS = tuple([lz_rung_name(<lz_rung> number).decode() for number in range(LZ_RUNG_COUNT)])


def stat(Union union not None, path, *, bint follow=True):
    """What the name is, an Info."""
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef unsigned flags = 0 if follow else LZ_UNION_NOFOLLOW
    cdef lz_union_info info
    cdef int rc
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_stat(native, text, size, flags, &info)
    try:  # whoever closes the union meanwhile, the view stays until here
        check_path(rc, path)
        return make_info(&union.view, &info)
    finally:
        union.leave()


def readlink(Union union not None, path):
    """The target of a symlink. EINVAL for anything else."""
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef char out[LZ_PATH_MAX + 1]
    cdef ssize_t rc
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_readlink(native, text, size, out, LZ_PATH_MAX + 1)
    union.leave()
    check_path(rc, path)
    return out[:min(rc, LZ_PATH_MAX + 1)]


def realpath(Union union not None, path):
    """The path without symlinks, `.` and `..`, with a leading slash; its last component may be missing."""
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef char out[LZ_PATH_MAX + 1]
    cdef ssize_t rc
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_realpath(native, text, size, out)
    union.leave()
    check_path(rc, path)
    return b"/" + out[:rc]


cdef ssize_t _xattr(Union union, bytes name, unsigned flags, const char *xattr, char *out, size_t capacity):
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef ssize_t rc
    cdef lz_union *native = union.enter()
    with nogil:
        if xattr == NULL:
            rc = lz_union_listxattr(native, text, size, flags, out, capacity)
        else:
            rc = lz_union_getxattr(native, text, size, flags, xattr, out, capacity)
    union.leave()
    return rc


cdef bytes _whole_xattr(Union union, object path, bint follow, bytes xattr):
    """Asks for the size, then for the bytes, again when it has grown meanwhile."""
    cdef unsigned flags = 0 if follow else LZ_UNION_NOFOLLOW
    cdef bytes name = path_bytes(path)
    cdef const char *which = NULL
    cdef bytes out
    cdef ssize_t size, rc = -ERANGE
    if xattr is not None:
        which = xattr
    while rc == -ERANGE:
        size = _xattr(union, name, flags, which, NULL, 0)
        check_path(size, path)
        if size == 0:
            return b""
        out = PyBytes_FromStringAndSize(NULL, size)
        rc = _xattr(union, name, flags, which, PyBytes_AS_STRING(out), size)
    check_path(rc, path)
    return out[:rc]


def listxattr(Union union not None, path, *, bint follow=True):
    """The names of its extended attributes, overlay's own left out."""
    return _whole_xattr(union, path, follow, None).split(b"\0")[:-1]


def getxattr(Union union not None, path, attribute, *, bint follow=True):
    """The value of one; ENODATA when it has none of that name."""
    cdef bytes name = path_bytes(attribute)
    if b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    return _whole_xattr(union, path, follow, name)


def scan(Union union not None, path):
    """(name, Info) of everything in a directory, sorted by name: a snapshot."""
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name), i
    cdef lz_union_list *names = NULL
    cdef const lz_union_name *one
    cdef int rc
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_list_names(native, text, size, &names)
    found = []
    try:
        check_path(rc, path)
        for i in range(lz_union_list_count(names)):
            one = lz_union_list_at(names, i)
            found.append((one.name[:one.size], make_info(&union.view, &one.info)))
    finally:
        lz_union_list_free(names)
        union.leave()  # the view goes with it
    return found


def stats(Union union not None):
    """(copy-ups of files by rung number, of other things, bytes that callers wrote, bytes copied up) since opening."""
    cdef lz_union_stats numbers
    cdef lz_union *native = union.enter()
    lz_union_stats_of(native, &numbers)
    union.leave()
    counts = [numbers.copyups[i] for i in range(LZ_RUNG_COUNT)]
    return counts, numbers.copyups_other, numbers.bytes_asked, numbers.bytes_copied
