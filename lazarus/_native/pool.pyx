"""The pool's image as a mounted file system (csrc/tree/lz_pool.h), trees copied to it and back, names exchanged."""

import os
from contextlib import suppress

from libc.stdint cimport int64_t, uint32_t, uint64_t

from lazarus._native.check cimport ask_signals, check, lz_detail, lz_step, lz_sys, lz_sys_linux

cdef extern from "<fcntl.h>":
    int AT_FDCWD

cdef extern from "<linux/fs.h>":
    unsigned RENAME_EXCHANGE

cdef extern from "base/lz_sys.h":
    struct lz_sys_table "lz_sys":
        void *ctx
        int (*renameat2)(void *ctx, int from_dir, const char *source, int to_dir, const char *target,
                         unsigned flags) nogil
    const lz_sys_table *lz_sys_linux_table "lz_sys_linux"() nogil

cdef extern from "tree/lz_copy.h":
    struct lz_copy_result:
        uint64_t entries, shared, copied
    int lz_copy_tree(const lz_sys *sys, int from_fd, int to_fd, unsigned threads, const lz_step *step,
                     lz_copy_result *result, lz_detail *detail) nogil

cdef extern from "tree/lz_mount.h":
    int lz_mount_attach(const lz_sys *sys, int mount_fd, int target_dir, const char *target,
                        lz_detail *detail) nogil

cdef extern from "tree/lz_pool.h":
    struct lz_loop_state:
        char name[32]
        bint direct_io, read_only
    struct lz_pool_geometry_values "lz_pool_geometry":
        uint32_t block_size
        uint64_t blocks
        bint reflink
    int lz_loop_find(const lz_sys *sys, int file_fd, lz_loop_state *state, lz_detail *detail) nogil
    int lz_pool_mount(const lz_sys *sys, int image_fd, lz_loop_state *device, lz_detail *detail) nogil
    int lz_pool_geometry(const lz_sys *sys, int fs_fd, lz_pool_geometry_values *geometry, lz_detail *detail) nogil
    int lz_pool_grow(const lz_sys *sys, int image_fd, int fs_fd, uint64_t size, lz_detail *detail) nogil
    int64_t lz_pool_trim(const lz_sys *sys, int fs_fd, lz_detail *detail) nogil


def mount(int image_fd):
    """A detached mount of the image, as a descriptor that the caller closes: what is not attached by then is undone.

    `image_fd` is open for writing. The caller holds the store's pool lock.
    """
    cdef lz_detail detail
    cdef lz_loop_state device
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_pool_mount(lz_sys_linux(), image_fd, &device, &detail)
    check(rc, &detail)
    return rc


def attach(int mount_fd, target):
    """Shows the detached mount at the directory `target`."""
    cdef lz_detail detail
    cdef bytes path = os.fsencode(target)
    cdef const char *text = path
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_mount_attach(lz_sys_linux(), mount_fd, AT_FDCWD, text, &detail)
    check(rc, &detail)


def device(int image_fd):
    """(path, direct I/O) of the loop device that the image is bound to, or None."""
    cdef lz_detail detail
    cdef lz_loop_state state
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_loop_find(lz_sys_linux(), image_fd, &state, &detail)
    if rc < 0 and not detail.text[0]:
        return None
    check(rc, &detail)
    os.close(rc)
    return (<bytes> state.name).decode("ascii"), bool(state.direct_io)


def geometry(int fs_fd):
    """(bytes of the file system, can files share blocks) of an XFS. `UnsupportedError` for another."""
    cdef lz_detail detail
    cdef lz_pool_geometry_values found
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_pool_geometry(lz_sys_linux(), fs_fd, &found, &detail)
    check(rc, &detail)
    return found.blocks * found.block_size, bool(found.reflink)


def grow(int image_fd, int fs_fd, uint64_t size):
    """Image, device and file system to `size` bytes, each if it is smaller; `fs_fd` is open on the file system."""
    cdef lz_detail detail
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_pool_grow(lz_sys_linux(), image_fd, fs_fd, size, &detail)
    check(rc, &detail)


def trim(int fs_fd):
    """Gives free blocks back to the host, perhaps a moment after the return; the bytes that were looked at."""
    cdef lz_detail detail
    cdef int64_t rc
    detail.text[0] = 0
    with nogil:
        rc = lz_pool_trim(lz_sys_linux(), fs_fd, &detail)
    check(rc, &detail)
    return rc


def copy_tree(source, target):
    """Everything in the directory `source`, with all attributes, into the empty directory `target`; nothing is synced.

    (Entries, bytes whose blocks are shared now, bytes that were written.) What is there already when it fails stays. A
    signal whose handler raises ends it soon, but for the file at hand.
    """
    cdef lz_detail detail
    cdef lz_copy_result result
    cdef list raised = []
    cdef lz_step step = lz_step(ask_signals, <void *> raised)
    cdef int rc
    cdef int to_fd
    cdef unsigned threads = len(os.sched_getaffinity(0))
    detail.text[0] = 0
    cdef int from_fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        to_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with nogil:
                rc = lz_copy_tree(lz_sys_linux(), from_fd, to_fd, threads, &step, &result, &detail)
        finally:
            os.close(to_fd)
    finally:
        os.close(from_fd)
    if raised:
        raise raised[0]
    check(rc, &detail)
    return result.entries, result.shared, result.copied


def exchange(one, other):
    """What has each name gets the other one, at once (renameat2 RENAME_EXCHANGE). Modification times stay: XFS gives
    directories that are exchanged new ones, which a plain rename leaves alone."""
    cdef const lz_sys_table *sys = lz_sys_linux_table()
    cdef bytes first = os.fsencode(one)
    cdef bytes second = os.fsencode(other)
    cdef const char *from_path = first
    cdef const char *to_path = second
    cdef int rc
    was = os.lstat(first), os.lstat(second)
    with nogil:
        rc = sys.renameat2(sys.ctx, AT_FDCWD, from_path, AT_FDCWD, to_path, RENAME_EXCHANGE)
    check(rc, NULL, one)
    for path, info in zip((second, first), was):
        with suppress(OSError):  # it is done
            if os.lstat(path).st_mtime_ns != info.st_mtime_ns:
                os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
