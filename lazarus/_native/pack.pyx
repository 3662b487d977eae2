"""What an upper directory changes, as values and as a layer's tar; any tree as a tar, and a tar as a tree
(csrc/tree/lz_diff.h, lz_unpack.h)."""

import os

from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from lazarus._native.check cimport ask_signals, check, lz_detail, lz_step, lz_sys_linux
from lazarus._native.index cimport Index

# In the order of enum lz_kind.
_KINDS = ("", "directory", "file", "symlink", "char", "block", "fifo", "socket", "whiteout")


cdef class _Source:
    """An upper and what lies under it, open; everything is closed with the object."""

    cdef lz_diff_source source
    cdef Index lower
    cdef int *layer_fds
    cdef size_t layer_count

    def __cinit__(self):
        memset(&self.source, 0, sizeof(self.source))
        self.source.upper_fd = self.source.maps_fd = self.source.objects_fd = -1
        self.layer_fds = NULL
        self.layer_count = 0

    def __dealloc__(self):
        cdef size_t i
        for fd in (self.source.upper_fd, self.source.maps_fd, self.source.objects_fd):
            if fd >= 0:
                close(fd)
        for i in range(self.layer_count):
            close(self.layer_fds[i])
        free(self.layer_fds)

    def open_upper(self, upper, maps, user_xattr):
        self.source.upper_fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if maps is not None:
            self.source.maps_fd = os.open(maps, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.source.user_xattr = user_xattr

    def open_lower(self, lower):
        self.lower = lower if isinstance(lower, Index) else Index(lower)
        self.source.lower = self.lower.open()

    def open_contents(self, layer_indexes, objects):
        count = self.lower.index.layer_count
        if len(layer_indexes) != count:
            raise ValueError(f"the lower index has {count} layers, {len(layer_indexes)} were given")
        self.source.objects_fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.layer_fds = <int *> lz_alloc_array(len(layer_indexes), sizeof(int))
        if self.layer_fds == NULL:
            raise MemoryError
        for path in layer_indexes:
            self.layer_fds[self.layer_count] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.layer_count += 1
        self.source.layer_fds = self.layer_fds


cdef int _gather(void *ctx, const lz_change *change) noexcept nogil:
    cdef int rc = lz_buf_append(<lz_buf *> ctx, change, sizeof(lz_change))
    return rc if rc != 0 else lz_buf_append(<lz_buf *> ctx, change.path, change.path_size)


cdef list _changes(const lz_buf *buf):
    """The records of _gather() as values."""
    from lazarus.terms import Change
    cdef lz_change change
    cdef size_t at = 0
    found = []
    while at < buf.size:
        memcpy(&change, buf.data + at, sizeof(lz_change))
        at += sizeof(lz_change)
        path = b"/" + (<const char *> buf.data)[at:at + change.path_size]
        at += change.path_size
        found.append(Change(chr(change.change), path, _KINDS[change.kind], change.content, change.size))
    return found


cdef lz_pack_options _options(object max_mtime):
    cdef lz_pack_options options
    options.clamp_mtime = max_mtime is not None
    options.max_mtime = 0 if max_mtime is None else max_mtime
    return options


def diff(upper, lower_index, layer_indexes=(), objects=None, *, maps=None, user_xattr=False):
    """What the upper directory changes over the stack `lower_index` (a merged index, as a path or open; None: an empty
    one), a directory before its children, children by name.

    A directory that a child's change copied up is "C", as with docker. A renamed directory is "D" of the old name and
    "A" of the new one and everything in it. `user_xattr`: the upper's marks are user.overlay.*. Costs what the upper
    holds, not what the image holds. Block-level files are compared with what is under them if `layer_indexes`,
    `objects` and `maps` (as for pack_upper) are given, else their content may have changed. Raises OSError,
    FormatError for marks that refer to nothing.
    """
    cdef _Source this = _Source()
    cdef lz_detail detail
    cdef lz_buf buf
    cdef int rc
    detail.text[0] = 0
    memset(&buf, 0, sizeof(buf))
    this.open_upper(upper, maps, user_xattr)
    if lower_index is not None:
        this.open_lower(lower_index)
        if objects is not None:
            this.open_contents(layer_indexes, objects)
    try:
        with nogil:
            rc = lz_diff(lz_sys_linux(), &this.source, _gather, &buf, &detail)
        check(rc, &detail)
        return _changes(&buf)
    finally:
        lz_buf_free(&buf)


def pack_upper(upper, lower_index, layer_indexes, objects, int out_fd, *, maps=None, user_xattr=False,
               max_mtime=None):
    """Writes what the upper changes as an OCI layer tar to `out_fd` and returns its size in bytes.

    `layer_indexes` are the index files of the layers of `lower_index`, lowest first, and `objects` the store's objects
    directory: contents of renamed files and of files with changed attributes only come from there, checked against
    their digests (CorruptError). `maps` is the directory of the block maps of files that were copied up block by block
    (None: there are none): they are written as if they were whole. Times after `max_mtime` (seconds) become it. The
    same tree gives the same bytes. UnsupportedError for a file whose name begins with `.wh.`.
    """
    cdef _Source this = _Source()
    cdef lz_pack_options options = _options(max_mtime)
    cdef lz_detail detail
    cdef uint64_t size = 0
    cdef int rc
    detail.text[0] = 0
    this.open_upper(upper, maps, user_xattr)
    if lower_index is not None:
        this.open_lower(lower_index)
        this.open_contents(layer_indexes, objects)
    with nogil:
        rc = lz_pack_upper(lz_sys_linux(), &this.source, &options, out_fd, &size, &detail)
    check(rc, &detail)
    return size


def pack_tree(int source_fd, int out_fd, *, root_name=None, cross_mounts=False, max_mtime=None):
    """Writes the directory `source_fd` (or the single file that it is, O_PATH too) as a plain tar to `out_fd` and
    returns its size in bytes.

    `root_name` (bytes) is what the directory or file is called in the tar; None: entries are named from the
    directory's inside, and `./` is the directory itself. Sockets are left out. Other mounts stay empty unless
    `cross_mounts`.
    """
    cdef lz_pack_options options = _options(max_mtime)
    cdef lz_detail detail
    cdef uint64_t size = 0
    cdef const char *name = NULL
    cdef bint cross = cross_mounts
    cdef int rc
    detail.text[0] = 0
    if root_name is not None:
        name = root_name
    with nogil:
        rc = lz_pack_tree(lz_sys_linux(), source_fd, name, cross, &options, out_fd, &size, &detail)
    check(rc, &detail)
    return size


def unpack(int in_fd, int dir_fd, *, keep_owner=True, keep_xattrs=True, no_replace_directory=False):
    """Makes what the plain tar `in_fd` holds in the directory `dir_fd` and returns the number of its entries.

    Nothing is ever made outside: UnsafeError for `..` and for parents that are symlinks. Files in the way are replaced,
    of directories only empty ones; with `no_replace_directory` a directory never replaces a file (ENOTDIR) nor the
    other way round (EISDIR). What was made before a failure stays; of a file that did not come whole nothing does, and
    what it was to replace stays, but for an empty directory. A signal whose handler raises is such a failure, and comes
    soon: also while `in_fd` has nothing to read.
    """
    cdef lz_unpack_options options
    cdef list raised = []
    cdef lz_step step = lz_step(ask_signals, <void *> raised)
    cdef lz_detail detail
    cdef uint64_t entries = 0
    cdef int rc
    detail.text[0] = 0
    options.keep_owner, options.keep_xattrs = keep_owner, keep_xattrs
    options.no_replace_directory = no_replace_directory
    with nogil:
        rc = lz_unpack(lz_sys_linux(), in_fd, dir_fd, &options, &step, &entries, &detail)
    if raised:
        raise raised[0]
    check(rc, &detail)
    return entries
