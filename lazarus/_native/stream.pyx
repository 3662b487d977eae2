"""Whole files through the native codecs: decompress, compress, digest (csrc/tree/lz_recode.h)."""

from libc.stdint cimport uint64_t, uint8_t

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux

cdef extern from "bytes/lz_inflate.h":
    enum lz_compression:
        pass

cdef extern from "tree/lz_recode.h":
    int lz_digest_file(const lz_sys *sys, int fd, uint8_t *digest, uint64_t *size, lz_detail *detail) nogil
    int lz_decompress_file(const lz_sys *sys, int in_fd, int out_fd, uint64_t max_size, uint64_t *size,
                           lz_detail *detail) nogil
    int lz_compress_file(const lz_sys *sys, int in_fd, int out_fd, lz_compression kind, int level, uint8_t *digest,
                         uint64_t *size, lz_detail *detail) nogil

_KINDS = ("none", "gzip", "zstd")  # in the order of enum lz_compression


def sha256_file(int fd):
    """SHA-256 (32 bytes) of the file's whole content, wherever it stands. Raises OSError."""
    cdef lz_detail detail
    cdef uint8_t digest[32]
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_digest_file(lz_sys_linux(), fd, digest, NULL, &detail)
    check(rc, &detail)
    return digest[:32]


def decompress(int in_fd, int out_fd, *, uint64_t max_size=0):
    """Gzip or zstd, by the magic, from `in_fd` to `out_fd`; other bytes are copied. Returns the bytes written.

    Raises FormatError, TruncatedError, CorruptError, LimitError (more than `max_size` bytes; 0: 1 TiB) or OSError;
    BrokenPipeError as soon as nobody will read `out_fd`, also while `in_fd` has nothing.
    """
    cdef lz_detail detail
    cdef uint64_t size = 0
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_decompress_file(lz_sys_linux(), in_fd, out_fd, max_size, &size, &detail)
    check(rc, &detail)
    return size


def compress(int in_fd, int out_fd, kind, int level=0):
    """"gzip", "zstd" or "none" from `in_fd` to `out_fd`: (digest as 32 bytes, size) of what was written.

    The same bytes always give the same output. `level` 0 is the default. Raises OSError; ValueError for the kind.
    """
    if kind not in _KINDS:
        raise ValueError(f"compression {kind!r}: known are {', '.join(_KINDS)}")
    cdef lz_detail detail
    cdef uint8_t digest[32]
    cdef uint64_t size = 0
    cdef lz_compression number = <lz_compression> (<int> _KINDS.index(kind))
    cdef int rc
    detail.text[0] = 0
    with nogil:
        rc = lz_compress_file(lz_sys_linux(), in_fd, out_fd, number, level, digest, &size, &detail)
    check(rc, &detail)
    return digest[:32], size
