/* lz_lookup.h - what names are, one or a million at a time: the hot path over a union.
 *
 * A union that is one merged index and nothing else (an image) is asked without a walk: the path's hash leads to its
 * entry, whatever the number of layers. A hit by the whole path is the answer, for the index holds each name once, as
 * the merge leaves it. A miss is one when the directory that should hold the name is there. Everything else (symlinks on
 * the way, `..`, doubled slashes, paths that are errors) and every other union goes through lz_union_stat(), which alone
 * knows the rules.
 *
 * A layer's number counts the union's layers from the lowest: each directory branch is one, each index as many as it
 * merges, the upper the last.
 */
#ifndef LZ_LOOKUP_H
#define LZ_LOOKUP_H

#include <stddef.h>
#include <stdint.h>

#include "lz_union.h"

struct lz_lookup_row {   /* 88 bytes, read by numpy */
    int64_t entry;       /*   0  number in its merged index; -1 when missing or in a directory */
    uint64_t size;       /*   8  file: bytes; symlink: length of the target */
    int64_t mtime;       /*  16  seconds */
    uint8_t digest[32];  /*  24  SHA-256 when has_digest */
    uint32_t mtime_nsec; /*  56 */
    uint32_t uid;        /*  60 */
    uint32_t gid;        /*  64 */
    uint32_t link_count; /*  68 */
    int32_t layer;       /*  72  -1 when missing */
    uint16_t mode;       /*  76  S_IFMT | 07777; 0 when missing */
    uint16_t error;      /*  78  0, or the errno with which the name is missing: ENOENT, ENOTDIR, ELOOP, ... */
    uint8_t kind;        /*  80  enum lz_kind; 0 when missing */
    uint8_t has_digest;  /*  81 */
    uint8_t reserved[6];
};

struct lz_lookup {           /* all borrowed */
    struct lz_union *layers; /* who walks */
    const struct lz_index
        *index; /* iff the union is this one index, without whiteouts: nobody needs to walk. Else NULL */
    const struct lz_branch *lowers; /* as the union has them */
    const uint32_t *first_layer;    /* of each of them: the number of its lowest layer */
    uint32_t upper_layer;
};

/* Answers without a walk: an entry number, -ENOENT, or LZ_LOOKUP_WALK when only a walk can tell. `path` as in lz_union.h. */
#define LZ_LOOKUP_WALK (-4096)
int64_t lz_lookup_try(const struct lz_index *index, const char *path, size_t size, unsigned flags);

/* What an entry of self->index is. */
void lz_lookup_entry(const struct lz_lookup *self, int64_t entry, struct lz_union_info *out);

/* Number of the layer of an entry (of a directory branch: -1) of a branch. */
uint32_t lz_lookup_layer(const struct lz_lookup *self, uint32_t branch, int64_t entry);

/* Fills a row for each path; a name that is missing, or an error, is in its row. flags: LZ_UNION_NOFOLLOW. */
void lz_lookup_many(const struct lz_lookup *self, const struct lz_text *paths, size_t count, unsigned flags,
                    struct lz_lookup_row *rows);

/* The same of packed paths, each bytes[offsets[i] .. offsets[i+1]). -EINVAL, and no row, when the offsets decrease or
 * pass `size`. */
int lz_lookup_packed(const struct lz_lookup *self, const char *bytes, size_t size, const uint64_t *offsets,
                     size_t count, unsigned flags, struct lz_lookup_row *rows);

#endif
