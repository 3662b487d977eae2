"""What Python's os module does not have: syncfs(2)."""

from lazarus._native.check cimport check

cdef extern from "base/lz_sys.h":
    struct lz_sys_table "lz_sys":
        void *ctx
        int (*syncfs)(void *ctx, int fd) nogil
    const lz_sys_table *lz_sys_linux_table "lz_sys_linux"() nogil


def syncfs(int fd):
    """Writes back everything dirty of the file system that `fd` is on and waits for the disk. Raises OSError."""
    cdef const lz_sys_table *sys = lz_sys_linux_table()
    cdef int rc
    with nogil:
        rc = sys.syncfs(sys.ctx, fd)
    check(rc, NULL)
