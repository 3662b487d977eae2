"""One pass over a layer: blob digest, diff ID, objects, index and recipe (csrc/tree/lz_ingest.h)."""

import os
import threading
from typing import NamedTuple

from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.string cimport memset
from posix.unistd cimport close

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux

cdef extern from "bytes/lz_inflate.h":
    enum lz_compression:
        LZ_COMPRESSION_NONE
        LZ_COMPRESSION_GZIP
        LZ_COMPRESSION_ZSTD

cdef extern from "tree/lz_ingest.h":
    enum lz_blob_mode:
        LZ_BLOB_NONE
        LZ_BLOB_KEEP
        LZ_BLOB_GZIP
        LZ_BLOB_ZSTD
    struct lz_ingest_limits:
        uint64_t max_tar_size, max_ratio, max_file_size, max_entries, inline_limit
    struct lz_ingest_progress:
        uint64_t source_bytes, tar_bytes, entries
        int cancel
    struct lz_ingest_options:
        int source_fd
        int64_t source_offset
        uint64_t source_size
        int compression
        int staging_fd, staged_objects_fd, objects_fd
        lz_blob_mode blob_mode
        int blob_level
        lz_ingest_limits limits
    struct lz_ingest_result:
        uint8_t source_digest[32]
        uint8_t diff_id[32]
        uint8_t blob_digest[32]
        uint64_t source_size, tar_size, blob_size
        lz_compression compression
        uint64_t entry_count, content_size, object_count, new_object_count, new_object_bytes, inline_bytes
    int lz_ingest(const lz_sys *sys, const lz_ingest_options *options, lz_ingest_progress *progress,
                  lz_ingest_result *result, lz_detail *detail) nogil

# In the order of enum lz_compression and enum lz_blob_mode.
_COMPRESSIONS = ("none", "gzip", "zstd")
_BLOB_MODES = ("none", "keep", "gzip", "zstd")


class IngestResult(NamedTuple):
    """What ingest found; digests are 32 raw bytes, `compression` is "none", "gzip" or "zstd", sizes are bytes.

    `blob_digest` and `blob_size` are of the file `blob` in staging (zeros without one). `content_size` counts each file
    of the tar once, `object_count` the distinct objects the layer refers to, `new_object_count` those written here.
    """

    source_digest: bytes
    source_size: int
    diff_id: bytes
    tar_size: int
    blob_digest: bytes
    blob_size: int
    compression: str
    entry_count: int
    content_size: int
    object_count: int
    new_object_count: int
    new_object_bytes: int
    inline_bytes: int


cdef class _Pass:
    """One call of lz_ingest(), which may run on another thread than the one that looks at its progress.

    It owns its descriptors, so a pass that hangs in a read from a dead pipe can be left behind.
    """

    cdef lz_ingest_options options
    cdef lz_ingest_progress progress
    cdef lz_ingest_result result
    cdef lz_detail detail
    cdef int code

    def __cinit__(self):
        memset(&self.options, 0, sizeof(self.options))
        memset(&self.progress, 0, sizeof(self.progress))
        memset(&self.result, 0, sizeof(self.result))
        self.detail.text[0] = 0
        self.code = 0
        self.options.source_fd = -1
        self.options.staging_fd = self.options.staged_objects_fd = self.options.objects_fd = -1

    def __dealloc__(self):
        for fd in (self.options.source_fd, self.options.staging_fd, self.options.staged_objects_fd,
                   self.options.objects_fd):
            if fd >= 0:
                close(fd)

    def open(self, int source_fd, staging, staged_objects, objects):
        cdef int flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self.options.source_fd = os.dup(source_fd)
        self.options.staging_fd = os.open(staging, flags)
        self.options.staged_objects_fd = os.open(staged_objects, flags)
        self.options.objects_fd = os.open(objects, flags)

    def run(self):
        with nogil:
            self.code = lz_ingest(lz_sys_linux(), &self.options, &self.progress, &self.result, &self.detail)

    def watch(self, progress):
        """Runs on a second thread; calls `progress` from here ten times a second. Whatever is raised here (by
        `progress`, or KeyboardInterrupt) cancels and is raised once the pass has stopped; a second KeyboardInterrupt
        does not wait for that."""
        thread = threading.Thread(target=self.run, name="lazarus-ingest", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.1)
                if progress is not None:
                    progress(self.progress.source_bytes, self.progress.tar_bytes)
        finally:
            self.progress.cancel = 1
            thread.join()

    def outcome(self):
        check(self.code, &self.detail)
        cdef lz_ingest_result *r = &self.result
        return IngestResult(
            r.source_digest[:32], r.source_size, r.diff_id[:32], r.tar_size, r.blob_digest[:32], r.blob_size,
            _COMPRESSIONS[<int> r.compression], r.entry_count, r.content_size, r.object_count, r.new_object_count,
            r.new_object_bytes, r.inline_bytes,
        )


def ingest(
    int source_fd, *, offset=None, size=None, compression=None, staging, staged_objects, objects, blob="none",
    int blob_level=0, limits=None, progress=None,
):
    """Reads a layer from `source_fd` once; writes `index`, `recipe` (and `blob`) into the directory `staging` and new
    objects into `staged_objects`. Several passes may share `staged_objects`.

    `offset` None reads a pipe or a file from where it stands; `size` bytes are expected (None: to the end).
    `compression` None looks at the magic. `blob`: "none", "keep" (the source's bytes), "gzip" or "zstd" (the tar,
    compressed again). `progress(source_bytes, tar_bytes)` is called about ten times a second from this thread; what it
    raises cancels. Raises OSError, or a LazarusError that names the entry; what was written stays in staging.
    """
    from lazarus.errors import UnsupportedError

    if compression is not None and compression not in _COMPRESSIONS:
        raise UnsupportedError(f"compression {compression!r}: known are {', '.join(_COMPRESSIONS)}")
    if blob not in _BLOB_MODES:
        raise ValueError(f"blob mode {blob!r}: known are {', '.join(_BLOB_MODES)}")
    cdef _Pass this = _Pass()
    cdef lz_ingest_options *options = &this.options
    options.source_offset = -1 if offset is None else offset
    options.source_size = <uint64_t> -1 if size is None else size
    options.compression = -1 if compression is None else _COMPRESSIONS.index(compression)
    options.blob_mode = <lz_blob_mode> (<int> _BLOB_MODES.index(blob))
    options.blob_level = blob_level
    if limits is not None:
        options.limits.max_tar_size, options.limits.max_ratio = limits.max_tar_size, limits.max_ratio
        options.limits.max_file_size, options.limits.max_entries = limits.max_file_size, limits.max_entries
        options.limits.inline_limit = limits.inline_limit
    this.open(source_fd, staging, staged_objects, objects)
    if progress is not None or threading.current_thread() is threading.main_thread():  # so that Ctrl-C is heard
        this.watch(progress)
    else:
        this.run()
    return this.outcome()
