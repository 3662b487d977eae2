/* lz_tar.h - the tar codec: ustar, pax, GNU long names, base-256 numbers, GNU and pax sparse, SCHILY.xattr.
 *
 * Sources: POSIX.1-2017 pax(1) "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, appendix D
 * ("Tar Internals", "Storing Sparse Files"); star's SCHILY.xattr.* keywords.
 *
 * Reader: pulls chunks from a source and hands out pointers into them, so content is never copied. Everything of the
 * stream that is not file content (headers, pax records, padding, the end) is also given to `literal`, in order:
 * literals and contents together are the stream byte for byte. That is what lz_recipe keeps.
 */
#ifndef LZ_TAR_H
#define LZ_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_mem.h"

#define LZ_TAR_BLOCK 512u

enum lz_tar_type {
    LZ_TAR_FILE,
    LZ_TAR_HARDLINK,
    LZ_TAR_SYMLINK,
    LZ_TAR_CHAR,
    LZ_TAR_BLOCK_DEVICE,
    LZ_TAR_DIRECTORY,
    LZ_TAR_FIFO,
};

struct lz_tar_xattr { /* name without the SCHILY.xattr. prefix; NUL-terminated after name_size */
    const char *name;
    size_t name_size;
    const uint8_t *value;
    size_t value_size;
};

struct lz_tar_extent { /* one data segment of a sparse file, ascending, not overlapping, inside `size` */
    uint64_t offset;
    uint64_t size;
};

struct lz_tar_entry {
    enum lz_tar_type type;
    const char *path; /* raw bytes as in the archive, NUL-terminated; no NUL inside (that is LZ_E_FORMAT) */
    size_t path_size;
    const char *link; /* target of hard and symbolic links; NULL otherwise */
    size_t link_size;
    uint32_t mode; /* permission and set-id bits, 07777 */
    uint32_t uid, gid;
    uint32_t major, minor; /* devices */
    int64_t mtime;         /* seconds; may be negative */
    uint32_t mtime_nsec;
    bool has_atime, has_ctime; /* a pax record says it; read, not written, and what is no time is passed over */
    int64_t atime, ctime;
    uint32_t atime_nsec, ctime_nsec;
    uint64_t size;                     /* of the file as a reader of it sees it (sparse: expanded) */
    uint64_t stored_size;              /* bytes of content in the archive */
    const struct lz_tar_xattr *xattrs; /* sorted by name, no duplicates (the last record of a name wins) */
    size_t xattr_count;
    const struct lz_tar_extent *extents; /* NULL when not sparse; the segments lie one after the other in the archive */
    size_t extent_count;
};

/* Where the reader gets its bytes. next() sets *data and *size to the following chunk (any size > 0; valid until the
 * next call) and returns 1, or 0 at the end of the stream, or a negative code that the reader passes on. */
struct lz_tar_source {
    int (*next)(void *ctx, const uint8_t **data, size_t *size);
    int (*literal)(void *ctx, const uint8_t *data,
                   size_t size); /* may be NULL; 0 or a negative code that is passed on */
    void *ctx;
};

struct lz_tar_reader;

/* `max_header` bounds the memory of one entry's headers (pax records, long names, sparse maps); 0 means 8 MiB. */
int lz_tar_reader_new(const struct lz_tar_source *source, size_t max_header, struct lz_tar_reader **out);
void lz_tar_reader_free(struct lz_tar_reader *reader);

/* The next entry: 1 and *entry (valid until the next call of next()), 0 at the end of the archive (two zero blocks, or
 * the end of the stream at a block boundary, as GNU tar and Go accept; what follows the end marker is drained as
 * literals). Content of the entry before that was not read is skipped (and is lost to the recipe: call read() for all
 * of it). Rules: a pax `size` wins over the header's; `path`, `linkpath`, `uid`, `gid`, `mtime` likewise; global pax
 * headers apply to what follows; negative and overflowing numbers, a bad checksum, unknown critical types are
 * LZ_E_FORMAT; a stream that ends inside an entry is LZ_E_TRUNCATED; max_header passed is LZ_E_LIMIT. Types '7' and
 * unknown vendor types with the POSIX meaning "treat as regular file" are FILE; what is no file carries no content,
 * whatever its size fields say. The detail names the entry by its offset, and by its path where that is known. After an
 * error, next() and read() give its code again: only free() is left to do. */
int lz_tar_next(struct lz_tar_reader *reader, struct lz_tar_entry *entry, struct lz_detail *detail);

/* The next piece of the current entry's stored content, without a copy: 1 and data/size, 0 when all has been given. */
int lz_tar_read(struct lz_tar_reader *reader, const uint8_t **data, size_t *size, struct lz_detail *detail);

/* Bytes of the stream that have been consumed. */
uint64_t lz_tar_offset(const struct lz_tar_reader *reader);

/* ---- writer: one spelling for each entry, so that the same tree always gives the same bytes ----
 *
 * ustar where everything fits; else one pax header with the needed records sorted by key (path, linkpath, size, uid,
 * gid, mtime with fraction, SCHILY.xattr.*). Sparse entries as pax 1.0 sparse (GNU.sparse.major=1); stored_size is then
 * taken from the extents. uname and gname are empty. Directories get a trailing slash. Appends to *out: the header
 * blocks only; the caller writes the content, then lz_tar_pad(stored size) zeros, and at the end of the archive two
 * zero blocks. 0, -ENOMEM, or LZ_E_FORMAT for what tar cannot say (NUL in a name, a file's name that ends in a slash,
 * size over 2^63-1, device numbers over 21 bits, an xattr name with '=') and for extents that are none. */
int lz_tar_write_entry(const struct lz_tar_entry *entry, struct lz_buf *out, struct lz_detail *detail);

/* Zero bytes that follow `size` bytes of content. */
static inline size_t lz_tar_pad(uint64_t size)
{
    return (size_t)(-size & (LZ_TAR_BLOCK - 1));
}

#endif
