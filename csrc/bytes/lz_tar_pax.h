/* lz_tar_pax.h - the reader's parts that look at bytes only: numbers, pax records, sparse maps. */
#ifndef LZ_TAR_PAX_H
#define LZ_TAR_PAX_H

#include "lz_tar.h"

/* What the records of one entry say. `records` owns the bytes that everything else points into; all of it is used again
 * for the next entry. */
struct lz_pax {
    struct lz_buf records; /* global records first, then the entry's own, which therefore win */
    const char *path, *link, *sparse_name;
    size_t path_size, link_size, sparse_name_size;
    bool has_size, has_uid, has_gid, has_mtime, has_atime, has_ctime;
    uint64_t size;
    uint32_t uid, gid;
    int64_t mtime, atime, ctime;
    uint32_t mtime_nsec, atime_nsec, ctime_nsec;
    struct lz_tar_xattr *xattrs;
    size_t xattr_count, xattr_capacity;
    bool xattrs_unsorted; /* while parsing */
    bool sparse;          /* any GNU.sparse.* record that makes the entry sparse */
    bool sparse_in_data;  /* format 1.0: the map is at the start of the content */
    uint64_t sparse_major, sparse_minor;
    bool has_real_size;
    uint64_t real_size;
    struct lz_tar_extent *extents;
    size_t extent_count, extent_capacity;
};

/* Forgets the last entry; keeps the memory. */
void lz_pax_clear(struct lz_pax *pax);
void lz_pax_free(struct lz_pax *pax);

/* Whether these bytes are whole records, one after the other: 0 or LZ_E_FORMAT. Asked of each extended header by
 * itself, because what parse() sees is several of them: a record must not begin in one and end in another. */
int lz_pax_check(const void *records, size_t size, struct lz_detail *detail);

/* Parses pax->records (which it changes: '=' and '\n' become NUL). 0, LZ_E_FORMAT or -ENOMEM. */
int lz_pax_parse(struct lz_pax *pax, struct lz_detail *detail);

/* Adds an extent; a length of 0 is dropped. LZ_E_FORMAT when it overlaps or goes backwards, -ENOMEM. */
int lz_pax_add_extent(struct lz_pax *pax, uint64_t offset, uint64_t size, struct lz_detail *detail);

/* Decimal digits only, all of `text`, at most 2^63-1: 0, or LZ_E_FORMAT. */
int lz_tar_decimal(const char *text, size_t size, uint64_t *out);

/* A numeric field of a header: octal, or base-256 when the first byte has its top bit. 0, or LZ_E_FORMAT. */
int lz_tar_number(const uint8_t *field, size_t size, int64_t *out);

#endif
