"""The one way from a path of an image to a descriptor of the host: openat2() that cannot leave its root."""
from libc.stdint cimport uint64_t

from lazarus._native.check cimport check, lz_sys, lz_sys_linux

cdef extern from "<linux/openat2.h>":
    struct open_how:
        uint64_t flags
        uint64_t mode
        uint64_t resolve
    enum:
        RESOLVE_IN_ROOT
        RESOLVE_NO_MAGICLINKS

cdef extern from *:
    """
    #include "base/lz_sys.h"
    static int open_below(const struct lz_sys *sys, int root, const char *path, const struct open_how *how)
    {
        return sys->openat2(sys->ctx, root, path, how);
    }
    """
    int open_below(const lz_sys *sys, int root, const char *path, const open_how *how) nogil


def open_in_root(int root_fd, bytes path, uint64_t flags, uint64_t mode=0):
    """Opens `path` as a process whose root directory is `root_fd` would: absolute symlinks and `..` stay inside.

    `flags` and `mode` are those of open(2); the descriptor closes on exec. Magic links of /proc are refused.
    Raises `OSError` with the kernel's errno and the path.
    """
    cdef open_how how
    cdef int fd
    if b"\0" in path:
        raise FileNotFoundError(2, "a NUL byte in a path", path)
    cdef const char *name = path
    how.flags, how.mode, how.resolve = flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    with nogil:
        fd = open_below(lz_sys_linux(), root_fd, name, &how)
    check(fd, NULL, path)
    return fd
