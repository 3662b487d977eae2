/* lz_list.h - the names of a directory, sorted, and the xattrs of one name (internal to diff, pack).
 */
#ifndef LZ_LIST_H
#define LZ_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_mem.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_tar.h"

struct lz_name {
    const char *name; /* NUL-terminated when it comes from a directory */
    uint32_t size;
    uint8_t type;   /* DT_*, as getdents says; DT_UNKNOWN for names added by lz_listing_add() */
    bool on_disk;   /* the directory has it */
    bool is_absent; /* for the walker: nothing is to be seen under this name */
};

/* `{0}` is a valid empty listing. Give back with lz_listing_free(). */
struct lz_listing {
    struct lz_buf bytes; /* of the names that come from the directory */
    struct lz_name *items;
    size_t count, capacity;
};

/* Adds every name of the open directory `fd` but `.` and `..`, in the directory's order. Reads on from where the
 * descriptor is, so give it a fresh one. A directory that was removed since it was opened is empty. 0, -errno or -ENOMEM. Once for a listing, before any lz_listing_add(). */
int lz_listing_read(const struct lz_sys *sys, int fd, struct lz_listing *listing);

/* Adds a name that the caller keeps alive. 0 or -ENOMEM. */
int lz_listing_add(struct lz_listing *listing, const char *name, size_t size);

/* Sorts by memcmp and leaves one of equal names, the one that is on disk. */
void lz_listing_sort(struct lz_listing *listing);

void lz_listing_free(struct lz_listing *listing);

/* What a name's xattrs are, for one name after the other. `{0}` is valid; give back with lz_attributes_free(). */
struct lz_attributes {
    struct lz_tar_xattr *xattrs; /* sorted by name */
    size_t xattr_count;
    bool opaque, metacopy; /* overlay's marks */
    bool blocks;           /* a block-level file (lz_blocks.h) */
    const char *redirect;  /* NULL: none; NUL-terminated */
    size_t redirect_size;

    struct lz_buf names, bytes; /* what the pointers above point into */
    size_t xattr_capacity;
    char *list; /* scratch */
};

struct lz_attributes_rules {
    bool overlay;    /* overlay's own xattrs are marks, and escaped ones are unescaped; else all are plain data */
    bool user_xattr; /* overlay's own are user.overlay.* */
    bool collect;    /* fill `xattrs`; else only the marks */
};

/* Reads the xattrs of `path` (one component, or "" for `dir` itself, which must not be O_PATH). What was there before
 * is dropped. The host's own labels (security.selinux) are left out. A file system without xattrs has none. 0 or
 * -errno. */
int lz_attributes_read(const struct lz_sys *sys, int dir, const char *path, const struct lz_attributes_rules *rules,
                       struct lz_attributes *out);

/* Empties `out`, then takes copies, in order (used for entries of an index). 0 or -ENOMEM. */
void lz_attributes_clear(struct lz_attributes *out);
int lz_attributes_add(struct lz_attributes *out, const char *name, size_t name_size, const uint8_t *value,
                      size_t value_size);
/* Makes the pointers of what was added valid, sorted by name. */
void lz_attributes_finish(struct lz_attributes *out);

void lz_attributes_free(struct lz_attributes *out);

#endif
