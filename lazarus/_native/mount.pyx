"""Mounts (csrc/tree/lz_mount.h, lz_mount_stack.h). Nothing here parses option strings."""

import os

from libc.stdlib cimport calloc, free

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux

cdef extern from "tree/lz_mount_stack.h":
    enum lz_erofs_source:
        pass
    struct lz_stack:
        const char *const *above
        size_t above_count
        const char *image
        lz_erofs_source erofs_source
        const char *const *lowers
        size_t lower_count
        const char *const *data
        size_t data_count
        const char *upper
        const char *work
        const char *target
        bint metacopy, redirect_dir, is_volatile, user_xattr, read_only
        const char *attach_dir
        bint force_paths
    int lz_mount_stack(const lz_sys *sys, const lz_stack *stack, lz_erofs_source *used, lz_detail *detail) nogil
    int lz_mount_bind(const lz_sys *sys, const char *source, const char *target, bint read_only, bint recursive,
                      lz_detail *detail) nogil
    int lz_mount_view(const lz_sys *sys, int directory_fd, lz_detail *detail) nogil
    int lz_is_mount(const lz_sys *sys, const char *path) nogil
    int lz_unmount(const lz_sys *sys, const char *target, bint lazy, lz_detail *detail) nogil
    int lz_mount_supports(const lz_sys *sys, const char *type, const char *key, lz_detail *detail) nogil

_SOURCES = {"auto": 0, "file": 1, "loop": 2}
_USED = ("none", "file", "loop")


cdef const char *_text(object path, list kept) except? NULL:
    """The path's bytes, kept alive by `kept`; NULL for None."""
    if path is None:
        return NULL
    cdef bytes raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    kept.append(raw)
    return raw


cdef const char **_array(object paths, list kept) except NULL:
    cdef const char **array = <const char **> calloc(len(paths) + 1, sizeof(char *))
    if array == NULL:
        raise MemoryError
    try:
        for number, path in enumerate(paths):
            array[<size_t> number] = _text(path, kept)
    except BaseException:
        free(array)
        raise
    return array


def mount_stack(image, lowers, data, upper, work, target, *, above=(), bint metacopy=True, bint redirect_dir=True,
                bint volatile=False, bint user_xattr=False, bint read_only=False, erofs_source="auto", attach_dir=None,
                bint force_paths=False):
    """Mounts an EROFS image and directories as one overlay at `target`; see `lazarus.terms.Mount` for the parts.

    Returns how the image was mounted: "file", "loop", or "none" without one. Nothing stays mounted on failure: OSError,
    or UnsupportedError naming what the kernel lacks. `attach_dir` is where kernels before 6.13 put the image while the
    overlay is made (the target will do); `force_paths` takes that way always.
    """
    cdef lz_stack stack
    cdef lz_detail detail
    cdef lz_erofs_source used = <lz_erofs_source> 0
    cdef int rc
    kept = []
    if erofs_source not in _SOURCES:
        raise ValueError(f"EROFS source {erofs_source!r}: known are {', '.join(_SOURCES)}")
    cdef const char **lower_array = _array(lowers, kept)
    cdef const char **data_array = NULL
    cdef const char **above_array = NULL
    detail.text[0] = 0
    try:
        data_array = _array(data, kept)
        above_array = _array(above, kept)
        stack = lz_stack(above=above_array, above_count=len(above), image=_text(image, kept),
                         erofs_source=<lz_erofs_source> <int> _SOURCES[erofs_source], lowers=lower_array,
                         lower_count=len(lowers), data=data_array, data_count=len(data), upper=_text(upper, kept),
                         work=_text(work, kept), target=_text(target, kept), metacopy=metacopy,
                         redirect_dir=redirect_dir, is_volatile=volatile, user_xattr=user_xattr, read_only=read_only,
                         attach_dir=_text(attach_dir, kept), force_paths=force_paths)
        with nogil:
            rc = lz_mount_stack(lz_sys_linux(), &stack, &used, &detail)
    finally:
        free(lower_array)
        free(data_array)
        free(above_array)
    check(rc, &detail)
    return _USED[<int> used]


def bind(source, target, *, bint read_only=False, bint recursive=True):
    """Shows what `source` shows also at `target`."""
    cdef lz_detail detail
    kept = []
    cdef const char *from_path = _text(source, kept)
    cdef const char *to_path = _text(target, kept)
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_mount_bind(lz_sys_linux(), from_path, to_path, read_only, recursive, &detail)
    check(rc, &detail)


def hold(target):
    """A descriptor, which the caller closes, that keeps what is mounted at `target` alive when it is unmounted there:
    the kernel writes back what it holds when the descriptor is closed."""
    cdef lz_detail detail
    cdef int rc
    cdef int directory = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    detail.text[0] = 0
    try:
        with nogil:
            rc = lz_mount_view(lz_sys_linux(), directory, &detail)
    finally:
        os.close(directory)
    check(rc, &detail)
    return rc


def unmount(target, bint lazy=False):
    """Unmounts what is mounted at `target`; OSError: EINVAL when nothing is, EBUSY in use (not if `lazy`)."""
    cdef lz_detail detail
    kept = []
    cdef const char *path = _text(target, kept)
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_unmount(lz_sys_linux(), path, lazy, &detail)
    check(rc, &detail)


def is_mount(path):
    """Whether something is mounted exactly at `path` (also a bind mount). OSError when it does not exist."""
    kept = []
    cdef const char *text = _text(path, kept)
    cdef int rc
    with nogil:
        rc = lz_is_mount(lz_sys_linux(), text)
    check(rc, NULL, path)
    return rc == 1


def supports(file_system, key=None):
    """Whether the kernel has this file system, loading its module, and a mount option of that name. Mounts nothing.

    OSError (EPERM) without CAP_SYS_ADMIN.
    """
    kept = []
    cdef lz_detail detail
    cdef const char *type_text = _text(file_system, kept)
    cdef const char *key_text = _text(key, kept)
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_mount_supports(lz_sys_linux(), type_text, key_text, &detail)
    check(rc, &detail)
    return rc == 1
