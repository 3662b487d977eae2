"""Changing a union: names, owners, modes, times, xattrs (csrc/tree/lz_union.h). Paths, errors and the GIL are as in
union_read. Modes are applied as given: there is no umask. EROFS without an upper.
"""

import errno
import os

from posix.types cimport dev_t

from lazarus._native.union cimport *

cdef enum Change:
    MKDIR
    MKNOD
    UNLINK
    RMDIR
    CHMOD
    CHOWN
    TRUNCATE


cdef int _change(Union union, Change what, object path, bint follow, uint64_t one, uint64_t two) except -1:
    """The calls that take a path and numbers."""
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef unsigned flags = 0 if follow else LZ_UNION_NOFOLLOW
    cdef int rc
    cdef lz_union *native = union.enter()
    with nogil:
        if what == MKDIR:
            rc = lz_union_mkdir(native, text, size, <uint32_t> one)
        elif what == MKNOD:
            rc = lz_union_mknod(native, text, size, <uint32_t> one, <dev_t> two)
        elif what == UNLINK:
            rc = lz_union_unlink(native, text, size)
        elif what == RMDIR:
            rc = lz_union_rmdir(native, text, size)
        elif what == CHMOD:
            rc = lz_union_chmod(native, text, size, flags, <uint32_t> one)
        elif what == CHOWN:
            rc = lz_union_chown(native, text, size, flags, <uid_t> one, <gid_t> two)
        else:
            rc = lz_union_truncate(native, text, size, one)
    union.leave()
    return check_path(rc, path)


def mkdir(Union union not None, path, uint32_t mode):
    """Makes a directory."""
    _change(union, MKDIR, path, True, mode, 0)


def mknod(Union union not None, path, uint32_t mode, uint64_t device):
    """Makes an empty file, a FIFO, a socket or a device, as the type bits of `mode` say."""
    _change(union, MKNOD, path, True, mode, device)


def unlink(Union union not None, path):
    """Removes a name that is no directory."""
    _change(union, UNLINK, path, True, 0, 0)


def rmdir(Union union not None, path):
    """Removes an empty directory."""
    _change(union, RMDIR, path, True, 0, 0)


def chmod(Union union not None, path, uint32_t mode, *, bint follow=True):
    """Sets the permission bits."""
    _change(union, CHMOD, path, follow, mode, 0)


def chown(Union union not None, path, uid, gid, *, bint follow=True):
    """Sets owner and group; -1 leaves one as it is. OverflowError for what is no 32-bit number."""
    for number in (uid, gid):
        if not -1 <= number <= 0xFFFFFFFF:
            raise OverflowError(f"{number}: not an ID of a user or group")
    _change(union, CHOWN, path, follow, <uid_t> (uid & 0xFFFFFFFF), <gid_t> (gid & 0xFFFFFFFF))


def truncate(Union union not None, path, uint64_t length):
    """Sets a file's size in bytes."""
    _change(union, TRUNCATE, path, True, length, 0)


cdef int _check_two(int rc, object source, object target) except -1:
    if rc == 0:
        return 0
    raise OSError(-rc, os.strerror(-rc), os.fspath(source), None, os.fspath(target)) if rc > -4096 else RuntimeError(rc)


def symlink(Union union not None, target, path):
    """Makes a symlink that says `target`."""
    cdef bytes name = path_bytes(path), aim = path_bytes(target)
    cdef const char *text = name
    cdef const char *words = aim
    cdef size_t size = len(name), words_size = len(aim)
    cdef int rc
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_symlink(native, words, words_size, text, size)
    union.leave()
    _check_two(rc, target, path)


cdef int _two(Union union, object source, object target, bint linking, unsigned flags) except -1:
    cdef bytes old = path_bytes(source), new = path_bytes(target)
    cdef const char *old_text = old
    cdef const char *new_text = new
    cdef size_t old_size = len(old), new_size = len(new)
    cdef int rc
    cdef lz_union *native = union.enter()
    with nogil:
        if linking:
            rc = lz_union_link(native, old_text, old_size, new_text, new_size)
        else:
            rc = lz_union_rename(native, old_text, old_size, new_text, new_size, flags)
    union.leave()
    return _check_two(rc, source, target)


def link(Union union not None, source, target):
    """Makes `target` a further name of the file `source`."""
    _two(union, source, target, True, 0)


def rename(Union union not None, source, target, unsigned flags=0):
    """Renames as renameat2() with its `flags` (RENAME_NOREPLACE 1, RENAME_EXCHANGE 2)."""
    _two(union, source, target, False, flags)


def utime(Union union not None, path, atime, mtime, *, bint follow=True):
    """Sets the times, each (seconds, nanoseconds)."""
    cdef bytes name = path_bytes(path)
    cdef const char *text = name
    cdef size_t size = len(name)
    cdef unsigned flags = 0 if follow else LZ_UNION_NOFOLLOW
    cdef timespec times[2]
    cdef int rc
    times[0] = timespec(atime[0], atime[1])
    times[1] = timespec(mtime[0], mtime[1])
    cdef lz_union *native = union.enter()
    with nogil:
        rc = lz_union_utimens(native, text, size, flags, times)
    union.leave()
    check_path(rc, path)


def setxattr(Union union not None, path, attribute, value, int flags=0, *, bint follow=True):
    """Sets an extended attribute; `value` None takes it away. `flags` are those of setxattr(2)."""
    cdef bytes name = path_bytes(path), xattr = path_bytes(attribute), data = b"" if value is None else bytes(value)
    cdef const char *text = name
    cdef const char *which = xattr
    cdef const char *content = data
    cdef size_t size = len(name), content_size = len(data)
    cdef unsigned how = 0 if follow else LZ_UNION_NOFOLLOW
    cdef bint removing = value is None
    cdef int rc
    if b"\0" in xattr:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    cdef lz_union *native = union.enter()
    with nogil:
        if removing:
            rc = lz_union_removexattr(native, text, size, how, which)
        else:
            rc = lz_union_setxattr(native, text, size, how, which, content, content_size, flags)
    union.leave()
    check_path(rc, path)
