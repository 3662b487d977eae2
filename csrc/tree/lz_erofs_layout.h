/* lz_erofs_layout.h - where everything of an EROFS image goes, decided before the first byte is written
 * (internal to lz_erofs*.c).
 */
#ifndef LZ_EROFS_LAYOUT_H
#define LZ_EROFS_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_mem.h"
#include "../bytes/lz_index.h"
#include "lz_erofs_format.h"

/* One inode. Entries that are a further name of a hard-link group have none: their place stays zero. */
struct lz_erofs_place {
    uint64_t address;    /* of the inode in the image */
    uint64_t size;       /* i_size */
    uint32_t block;      /* first data block, if it has any */
    uint32_t xattr_size; /* bytes between inode and tail */
    uint8_t layout;      /* enum lz_erofs_layout */
};

struct lz_erofs_plan {
    struct lz_erofs_place *places; /* one an entry */
    uint64_t inode_count;
    uint64_t meta_size;   /* bytes from the image's start to the end of the inodes, a multiple of the block */
    uint32_t block_count; /* of the whole image */
};

/* 0; LZ_E_FORMAT for what cannot be in a merged index, LZ_E_LIMIT for what EROFS cannot hold, -ENOMEM.
 * Give back with lz_erofs_plan_free(). */
int lz_erofs_plan_make(const struct lz_index *merged, struct lz_erofs_plan *out, struct lz_detail *detail);
void lz_erofs_plan_free(struct lz_erofs_plan *plan);

/* How the data of an inode is divided: whole blocks in the data area, then `tail` bytes behind the inode. */
static inline uint64_t lz_erofs_blocks_of(const struct lz_erofs_place *place)
{
    if (place->layout == LZ_EROFS_CHUNK_BASED)
        return 0;
    uint64_t blocks = place->size / LZ_EROFS_BLOCK;
    return place->layout == LZ_EROFS_FLAT_PLAIN && place->size % LZ_EROFS_BLOCK != 0 ? blocks + 1 : blocks;
}
static inline uint32_t lz_erofs_tail_of(const struct lz_erofs_place *place)
{
    return place->layout == LZ_EROFS_FLAT_INLINE ? (uint32_t)(place->size % LZ_EROFS_BLOCK) : 0;
}

/* A chunk-based file is one hole, in as few chunks as the format allows. */
uint32_t lz_erofs_chunk_bits(uint64_t size); /* log2(chunk / block) */
uint64_t lz_erofs_chunk_count(uint64_t size);

/* Renders the xattrs of an entry, header included, as the inode wants them behind it (a multiple of 4 bytes; nothing
 * for none) and appends them to `out`; with `out` NULL only *size is filled. What an object file needs for overlayfs is
 * added here. Names that no Linux file system takes ("com.apple...") are left out: the index still has them. */
int lz_erofs_xattrs(const struct lz_index *merged, uint32_t entry, struct lz_buf *out, uint32_t *size,
                    struct lz_detail *detail);

/* A directory as EROFS sees it: the children and `.` and `..`, in byte order. */
struct lz_erofs_directory {
    const struct lz_index *index;
    uint32_t entry;
    uint64_t dot, dot_dot, count; /* positions of `.` and `..`; number of names */
};
struct lz_erofs_name {
    const char *name;
    size_t size;
    uint32_t entry;
};
void lz_erofs_directory_open(const struct lz_index *index, uint32_t entry, struct lz_erofs_directory *out);
struct lz_erofs_name lz_erofs_directory_at(const struct lz_erofs_directory *directory, uint64_t position);
/* How many names from `position` on share one block, and the bytes that they take. */
uint64_t lz_erofs_directory_fill(const struct lz_erofs_directory *directory, uint64_t position, uint32_t *used);

#endif
