// clang-format off
/* lz_index.h - the layer index: a memory-mappable table of everything in a layer or a merged stack.
 *
 *   0        +----------------------+
 *            | header     512 bytes |  magic, counts, where each section lies, checksums
 *   4096     +----------------------+
 *            | inline data          |  contents of small files, one after the other (layer indexes only)
 *            +----------------------+  8-byte aligned from here; "the table" is all that follows
 *            | entries   128 each   |  in directory order: the children of a directory lie together, sorted by name (memcmp)
 *            | slots       8 each   |  open-addressed hash of full paths: {tag, entry + 1}; power of two, at most half full
 *            | strings              |  paths and symlink targets, each NUL-terminated
 *            | xattrs               |  records, see below
 *            | layers     32 each   |  diff IDs; entry.layer counts into this (a layer index has one: itself, all zero;
 *            |                      |  the stack of no layers has none, and only a root)
 *            | objects    40 each   |  {sha256, size} of every object the layer's tar refers to, sorted, unique
 *            |                      |  (layer indexes only)
 *            +----------------------+
 *
 * All numbers are little-endian (other hosts refuse the magic). Written once, never changed. Inline data comes first so
 * that ingest can stream it out before it knows how many entries there are. `table_checksum` is XXH3-64 of the table,
 * `header_checksum` of the header before it. Inline data and objects are covered by each entry's SHA-256.
 *
 * Paths have no leading slash; the root is entry 0 with the empty path and is its own parent. Entry 0 always exists.
 */
// clang-format on
#ifndef LZ_INDEX_H
#define LZ_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"

#define LZ_INDEX_MAGIC "LZINDEX\x01"
#define LZ_INDEX_VERSION 1u
#define LZ_INDEX_HEADER_SIZE 512u
#define LZ_INDEX_INLINE_OFFSET 4096u
#define LZ_PATH_MAX 4095u /* bytes of a path inside an image: PATH_MAX without its NUL */
#define LZ_NAME_MAX 255u
#define LZ_XATTR_NAME_MAX 255u
#define LZ_XATTR_VALUE_MAX 65536u

enum lz_kind {
    LZ_KIND_DIRECTORY = 1,
    LZ_KIND_FILE = 2,
    LZ_KIND_SYMLINK = 3,
    LZ_KIND_CHAR = 4,
    LZ_KIND_BLOCK = 5,
    LZ_KIND_FIFO = 6,
    LZ_KIND_SOCKET = 7,
    LZ_KIND_WHITEOUT = 8, /* layer indexes only */
};

enum lz_flag {
    LZ_FLAG_OPAQUE = 1, /* directory: hides the same directory of lower layers; layer indexes only */
    LZ_FLAG_IMPLICIT =
        2, /* directory that the tar did not list: made for its children, takes a lower's attributes if there is one */
    LZ_FLAG_INLINE = 4, /* file: content lies in the inline section of layer entry.layer at data_offset */
    LZ_FLAG_OBJECT = 8, /* file: content is the object named by digest. A file of size 0 has neither flag. */
};

struct lz_entry {          /* 128 bytes */
    uint64_t path_hash;    /*   0  lz_path_hash() of the full path */
    uint64_t size;         /*   8  file: bytes; symlink: length of the target; else 0 */
    int64_t mtime;         /*  16  seconds */
    uint64_t data_offset;  /*  24  inline file: offset in the inline section; symlink: target's offset in strings */
    uint8_t digest[32];    /*  32  file: SHA-256 of the content (also for empty and inline files) */
    uint32_t mtime_nsec;   /*  64 */
    uint32_t uid;          /*  68 */
    uint32_t gid;          /*  72 */
    uint32_t parent;       /*  76  entry number */
    uint32_t first_child;  /*  80  directory: entry number of its first child; 0 when it has none */
    uint32_t child_count;  /*  84 */
    uint32_t link;         /*  88  first entry of the hard-link group in entry order; itself when alone */
    uint32_t link_count;   /*  92  names in the group, at least 1; directories: 2 + subdirectories */
    uint32_t path_offset;  /*  96  in strings */
    uint32_t xattr_offset; /* 100  in xattrs */
    uint32_t xattr_size;   /* 104  bytes of this entry's records; 0 for none */
    uint32_t major;        /* 108 */
    uint32_t minor;        /* 112 */
    uint32_t layer;        /* 116  which layer the entry comes from */
    uint16_t path_size;    /* 120 */
    uint16_t name_size;    /* 122  the name is the last name_size bytes of the path; 0 for the root */
    uint16_t mode;         /* 124  S_IFMT | 07777, 0 for a whiteout */
    uint8_t kind;          /* 126  enum lz_kind */
    uint8_t flags;         /* 127  enum lz_flag */
};

struct lz_slot {
    uint32_t tag;            /* upper half of path_hash */
    uint32_t entry_plus_one; /* 0: free */
};

struct lz_object_ref {
    uint8_t digest[32];
    uint64_t size;
};

/* One xattr: this, then the name (no NUL), then the value, then zeros to a multiple of 4. Sorted by name in an entry.
 */
struct lz_xattr_record {
    uint32_t value_size;
    uint16_t name_size;
    uint16_t reserved;
};

struct lz_section {
    uint64_t offset;
    uint64_t size; /* bytes */
};

struct lz_index_header { /* LZ_INDEX_HEADER_SIZE bytes */
    uint8_t magic[8];
    uint32_t version;
    uint32_t entry_count;
    uint64_t file_size;
    struct lz_section inline_data, entries, slots, strings, xattrs, layers, objects;
    uint64_t table_checksum;
    uint8_t reserved[512 - 24 - 7 * 16 - 16];
    uint64_t header_checksum;
};

/* An open index: pointers into the caller's mapping, which must outlive it. Nothing to free. */
struct lz_index {
    const uint8_t *base;
    uint64_t size;
    const struct lz_index_header *header;
    const struct lz_entry *entries;
    const struct lz_slot *slots;
    uint32_t slot_mask;
    const char *strings;
    const uint8_t *xattrs;
    const uint8_t (*layers)[32];
    const struct lz_object_ref *objects;
    uint32_t entry_count, layer_count, object_count;
};

/* Checks everything once (checksums, every offset, every parent/child/link relation, so that no later call can read
 * outside or loop) in O(entries) and fills *out. LZ_E_FORMAT, LZ_E_CORRUPT or LZ_E_TRUNCATED with a detail otherwise.
 */
int lz_index_open(const void *bytes, uint64_t size, struct lz_index *out, struct lz_detail *detail);

uint64_t lz_path_hash(const char *path, size_t size); /* XXH3-64 */

/* Entry number of an exact path ("usr/bin/env", "" for the root; no normalisation), or -ENOENT. One or two cache
 * misses. */
int64_t lz_index_find(const struct lz_index *index, const char *path, size_t size);

/* `count` paths, each bytes[offsets[i] .. offsets[i+1]); out[i] is the entry number or -1. Prefetches, so a batch costs
 * less. */
void lz_index_find_many(const struct lz_index *index, const char *bytes, const uint64_t *offsets, size_t count,
                        int64_t *out);

/* The same of paths that lie anywhere. */
struct lz_text {
    const char *bytes;
    size_t size;
};
void lz_index_find_each(const struct lz_index *index, const struct lz_text *paths, size_t count, int64_t *out);

/* Child of directory `entry` by name: entry number or -ENOENT. */
int64_t lz_index_child(const struct lz_index *index, uint32_t entry, const char *name, size_t size);

static inline const char *lz_index_path(const struct lz_index *index, uint32_t entry)
{
    return index->strings + index->entries[entry].path_offset;
}
static inline const char *lz_index_name(const struct lz_index *index, uint32_t entry)
{
    const struct lz_entry *e = &index->entries[entry];
    return index->strings + e->path_offset + (e->path_size - e->name_size);
}
static inline const char *lz_index_target(const struct lz_index *index, uint32_t entry)
{
    return index->strings + index->entries[entry].data_offset;
}

struct lz_xattr { /* points into the index; name is not NUL-terminated */
    const char *name;
    size_t name_size;
    const uint8_t *value;
    size_t value_size;
};
/* Walks the records of an entry: start with *cursor = 0; 1 and *out, or 0 at the end. */
int lz_index_next_xattr(const struct lz_index *index, uint32_t entry, uint32_t *cursor, struct lz_xattr *out);

#endif
