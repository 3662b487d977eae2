"""New layers out of layers that exist, and what differs between two stacks, from indexes alone
(csrc/tree/lz_relayer.h, lz_compare.h)."""

import os
from typing import NamedTuple

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free
from libc.string cimport memset
from posix.unistd cimport close

from lazarus._native.check cimport check, lz_detail, lz_sys_linux
from lazarus._native.index cimport Index

cdef extern from "base/lz_mem.h":
    void *lz_alloc_array(size_t count, size_t size) nogil

cdef extern from "base/lz_err.h":
    enum:
        LZ_E_CANCELLED

# In the order of enum lz_kind and of the bits of enum lz_difference.
_KINDS = ("", "directory", "file", "symlink", "char", "block", "fifo", "socket")
_DIFFERENCES = ("type", "content", "target", "device", "mode", "owner", "mtime", "xattrs", "links")


class RelayerResult(NamedTuple):
    """A new layer; the members that publishing reads of an ingest are here too: its source is its own tar."""

    diff_id: bytes
    tar_size: int
    entry_count: int
    content_size: int
    object_count: int
    inline_bytes: int
    source_digest: bytes
    source_size: int
    blob_digest: bytes = bytes(32)
    blob_size: int = 0
    compression: str = "none"


cdef class _Writing:
    """One call of lz_relayer_write(): what it needs open, and what a callback of Python raised in it."""

    cdef lz_relayer_plan plan
    cdef lz_relayer_layer *layers
    cdef object progress, error
    cdef list indexes

    def __cinit__(self, layers, objects, staging, progress):
        cdef size_t i
        memset(&self.plan, 0, sizeof(self.plan))
        self.plan.objects_fd = self.plan.staging_fd = -1
        self.progress, self.error, self.indexes = progress, None, []
        self.layers = <lz_relayer_layer *> lz_alloc_array(len(layers) + 1, sizeof(lz_relayer_layer))
        if self.layers == NULL:
            raise MemoryError
        self.plan.layers = self.layers
        for index, recipe in layers:
            self.indexes.append(Index(index))
            i = self.plan.layer_count
            self.layers[i].index = (<Index> self.indexes[i]).open()
            self.layers[i].take = NULL
            self.layers[i].recipe_fd = os.open(recipe, os.O_RDONLY | os.O_CLOEXEC)
            self.plan.layer_count += 1
        self.plan.objects_fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.plan.staging_fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.plan.step, self.plan.ctx = _step, <void *> self

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.plan.layer_count):
            close(self.layers[i].recipe_fd)
        free(self.layers)
        for fd in (self.plan.objects_fd, self.plan.staging_fd):
            if fd >= 0:
                close(fd)

    cdef run(self, Index below):
        cdef lz_relayer_result r
        cdef lz_detail detail
        cdef int rc
        detail.text[0] = 0
        self.plan.below = NULL if below is None else below.open()
        with nogil:
            rc = lz_relayer_write(lz_sys_linux(), &self.plan, &r, &detail)
        if self.error is not None:
            raise self.error
        check(rc, &detail)
        return RelayerResult(r.diff_id[:32], r.tar_size, r.entry_count, r.content_size, r.object_count, r.inline_bytes,
                             r.diff_id[:32], r.tar_size)


cdef int _step(void *ctx, uint64_t tar_bytes) noexcept with gil:
    cdef _Writing this = <_Writing> ctx
    try:
        PyErr_CheckSignals()
        if this.progress is not None:
            this.progress(tar_bytes)
    except BaseException as error:  # raised again once the call has come back
        this.error = error
        return LZ_E_CANCELLED
    return 0


def squash(layers, objects, staging, *, Index below=None, progress=None):
    """Writes `index` and `recipe` of one layer that does what several do, into the directory `staging`.

    `layers` are (index path, recipe path), lowest first; `below` is the merged index of what lies under them (None:
    nothing), so that only marks that hide something of it stay. No object is written, but every content is read once,
    because the diff ID is the digest of the tar: about 1 GB/s, without the GIL. `progress(tar_bytes)` is called every
    few MiB; what it raises, or Ctrl-C, ends the work. CorruptError or OSError (ENOENT) name a content that is damaged
    or missing.
    """
    return (<_Writing> _Writing(layers, objects, staging, progress)).run(below)


def match(Index layer not None, patterns):
    """Which entries of a layer match a pattern (bytes, csrc/bytes/lz_glob.h), as a byte for each, and how many.

    All that is in a directory that matches does too, and all names of a hard-linked file of which one does.
    """
    cdef const lz_index *index = layer.open()
    cdef bytearray matched = bytearray(index.entry_count)
    cdef list kept = [bytes(pattern) for pattern in patterns]
    cdef lz_relayer_pattern *list_ = <lz_relayer_pattern *> lz_alloc_array(len(kept) + 1, sizeof(lz_relayer_pattern))
    cdef uint8_t *out = <uint8_t *> <char *> matched
    cdef size_t i, count = len(kept)
    cdef int64_t found
    if list_ == NULL:
        raise MemoryError
    for i in range(count):
        list_[i].text, list_[i].size = <bytes> kept[i], len(kept[i])
    with nogil:
        found = lz_relayer_match(index, list_, count, out)
    free(list_)
    return matched, found


def split(layer, bytearray matched not None, bint side, objects, staging, *, Index below=None, progress=None):
    """Writes one part of a layer, (index path, recipe path), into `staging`: the entries for which `matched` (from
    `match`) is `side`.

    The part with the matches lists the directories that lead to them, with the attributes that they have in `below`.
    Everything else is as with `squash`.
    """
    cdef _Writing this = _Writing([layer], objects, staging, progress)
    cdef const lz_index *index = this.layers[0].index
    if len(matched) != index.entry_count:
        raise ValueError(f"{len(matched)} bytes for {index.entry_count} entries")
    cdef bytearray take = bytearray(index.entry_count)
    cdef uint8_t *out = <uint8_t *> <char *> take
    lz_relayer_take(index, <uint8_t *> <char *> matched, side, out)
    this.layers[0].take = out
    this.plan.list_parents = side
    return this.run(below)


cdef class Comparison:
    """An iterator over what became of each path between two merged indexes; values are `terms.ViewChange`."""

    cdef lz_compare *compare
    cdef lz_index views[2]
    cdef tuple kept  # whoever closes an Index, the mapping stays
    cdef object value
    cdef bint busy

    def __cinit__(self, Index before not None, Index after not None):
        from lazarus.terms import ViewChange
        self.value = ViewChange
        self.kept = (before.entries_buffer, after.entries_buffer)
        self.views[0], self.views[1] = before.index, after.index
        check(lz_compare_new(&self.views[0], &self.views[1], &self.compare), NULL)

    def __dealloc__(self):
        lz_compare_free(self.compare)

    def __iter__(self):
        return self

    def __next__(self):
        cdef lz_view_change change
        cdef int rc
        if self.busy:
            raise ValueError("the comparison is at work in another thread")
        self.busy = True
        with nogil:
            rc = lz_compare_next(self.compare, &change)
        self.busy = False
        if rc == 0:
            raise StopIteration
        check(rc, NULL)
        differs = tuple([word for bit, word in enumerate(_DIFFERENCES) if change.differs & (1 << bit)])
        return self.value(chr(change.change), b"/" + change.path[:change.path_size], _KINDS[change.kind], differs,
                          change.old_size, change.size)
