"""A part of a union as a tar, and a tar into it (csrc/tree/lz_union_tar.h). Paths, errors and the GIL are as in
union_read."""

from lazarus._native.check cimport ask_signals, lz_step
from lazarus._native.pack cimport lz_pack_options, lz_unpack_options
from lazarus._native.union cimport *

cdef extern from "tree/lz_union_tar.h" nogil:
    int lz_union_pack(lz_union *self, const char *path, size_t size, unsigned flags, const char *root_name,
                      const lz_pack_options *options, int out_fd, uint64_t *bytes, lz_detail *detail)
    int lz_union_unpack(lz_union *self, int in_fd, const char *path, size_t size, const lz_unpack_options *options,
                        const lz_step *step, uint64_t *entries, lz_detail *detail)


def pack(Union union not None, path, int out_fd, *, bint follow=True, root_name=None, max_mtime=None):
    """Writes what `path` is as a plain tar to `out_fd` and returns its size in bytes: a directory with everything below
    it, or one file. `root_name` and `max_mtime` are those of pack_tree().

    ENOTDIR without `root_name` for what is no directory, ENOTSUP for a socket. What goes away meanwhile is left out.
    """
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef unsigned flags = 0 if follow else LZ_UNION_NOFOLLOW
    cdef lz_pack_options options
    cdef lz_detail detail
    cdef const char *root = NULL
    cdef uint64_t count = 0
    cdef int rc
    detail.text[0] = 0
    options.clamp_mtime = max_mtime is not None
    options.max_mtime = 0 if max_mtime is None else max_mtime
    if root_name is not None:
        root = root_name
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_pack(native, text, size, flags, root, &options, out_fd, &count, &detail)
    union.leave()
    check_path(rc, path, &detail)
    return count


def unpack(Union union not None, int in_fd, path, *, keep_owner=True, keep_xattrs=True, no_replace_directory=False):
    """Makes what the plain tar `in_fd` holds in the directory `path` and returns the number of its entries; arguments
    and errors are those of lazarus._native.pack.unpack(). What a file that does not come whole was to replace is
    gone.
    """
    cdef list raised = []
    cdef lz_step step = lz_step(ask_signals, <void *> raised)
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef lz_unpack_options options
    cdef lz_detail detail
    cdef uint64_t entries = 0
    cdef int rc
    detail.text[0] = 0
    options.keep_owner, options.keep_xattrs = keep_owner, keep_xattrs
    options.no_replace_directory = no_replace_directory
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_unpack(native, in_fd, text, size, &options, &step, &entries, &detail)
    union.leave()
    if raised:
        raise raised[0]
    check_path(rc, path, &detail)
    return entries
