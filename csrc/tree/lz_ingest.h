/* lz_ingest.h - one pass from a layer's stream to blob digest, diff ID, objects, index and recipe.
 *
 *     source fd ──read + SHA-256──▶ inflate ──┬──▶ SHA-256 (diff ID) [+ compress ──▶ SHA-256 + blob, when asked]
 *          └──▶ blob file (when kept)          └──▶ tar ──▶ SHA-256 per file ──▶ objects / inline data, tree, recipe
 *
 * Each arrow is a bounded queue of reference-counted 128 KiB buffers between threads, so memory is bounded whatever the
 * layer. The calling thread runs the tar stage. Nothing outside `staging_fd` is written. Staging afterwards:
 *
 *     index        layer index (lz_index.h)
 *     recipe       the tar, byte for byte (lz_recipe.h)
 *     blob         when blob_mode is not NONE
 *
 * and in `staged_objects_fd`, a flat directory, one file per new object, named by 64 hex digits, mode 0444. An object
 * that `objects_fd` already has ("ab/cdef...") is hard-linked into staged_objects_fd instead, so that a concurrent
 * garbage collection cannot take it away; on EMLINK or EXDEV it is written again. On failure what was written stays in
 * staging (the caller removes the whole lease directory).
 */
#ifndef LZ_INGEST_H
#define LZ_INGEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_inflate.h"

enum lz_blob_mode {
    LZ_BLOB_NONE = 0, /* no blob */
    LZ_BLOB_KEEP = 1, /* the source's bytes as they came */
    LZ_BLOB_GZIP = 2, /* the tar, compressed by lz_deflate */
    LZ_BLOB_ZSTD = 3,
};

struct lz_ingest_limits {  /* 0 means the default in parentheses */
    uint64_t max_tar_size; /* uncompressed bytes (1 TiB) */
    uint64_t max_ratio; /* uncompressed over compressed, after the first 64 MiB (1100: deflate's own limit is 1032) */
    uint64_t max_file_size; /* logical size of one file, sparse ones too (1 TiB) */
    uint64_t max_entries;   /* (16 Mi) */
    uint64_t inline_limit;  /* files up to this many bytes are stored inline (4096); UINT64_MAX means none */
};

/* Counters that another thread may read while ingest runs, and the flag by which it can stop it. */
struct lz_ingest_progress {
    _Atomic uint64_t source_bytes;
    _Atomic uint64_t tar_bytes;
    _Atomic uint64_t entries;
    _Atomic int cancel; /* set to 1: ingest returns LZ_E_CANCELLED soon */
};

struct lz_ingest_options {
    int source_fd;
    int64_t source_offset; /* >= 0: pread from here; -1: read() from where it stands (pipe) */
    uint64_t source_size;  /* exactly this many bytes are expected: fewer is LZ_E_TRUNCATED; UINT64_MAX: to the end of
                              the file */
    int compression;       /* enum lz_compression, or -1: detect from the magic */
    int staging_fd;
    int staged_objects_fd;
    int objects_fd;
    enum lz_blob_mode blob_mode;
    int blob_level; /* 0: default */
    struct lz_ingest_limits limits;
};

struct lz_ingest_result {
    uint8_t source_digest[32]; /* SHA-256 of the source's bytes */
    uint64_t source_size;
    uint8_t diff_id[32]; /* SHA-256 of the uncompressed tar */
    uint64_t tar_size;
    uint8_t blob_digest[32]; /* of staging/blob; zero when blob_mode is NONE */
    uint64_t blob_size;
    enum lz_compression compression; /* what the source was */
    uint64_t entry_count;
    uint64_t content_size;     /* logical bytes of regular files (each hard-link group once) */
    uint64_t object_count;     /* distinct objects the layer refers to */
    uint64_t new_object_count; /* of these, written here because the store had none */
    uint64_t new_object_bytes;
    uint64_t inline_bytes;
};

/* `progress` may be NULL. -EAGAIN where its three or four threads are not to be had. 0, or the first error of any stage
 * (all threads are joined before it returns). */
int lz_ingest(const struct lz_sys *sys, const struct lz_ingest_options *options, struct lz_ingest_progress *progress,
              struct lz_ingest_result *result, struct lz_detail *detail);

#endif
