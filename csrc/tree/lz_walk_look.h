/* lz_walk_look.h - what a name of the upper is, as one look has it: whatever else gets the name from one call to the next
 * (internal to the walk).
 */
#ifndef LZ_WALK_LOOK_H
#define LZ_WALK_LOOK_H

#include "lz_walk.h"

struct walk {
    const struct lz_sys *sys;
    const struct lz_walk_options *options;
    const struct lz_index *lower;
    int (*visit)(void *ctx, const struct lz_walk_node *node);
    void *ctx;
    struct lz_detail *detail;
    int root_fd;
    struct lz_attributes attributes; /* of the name at hand */
    char path[LZ_PATH_MAX + 1];
    size_t path_size;
    char target[LZ_PATH_MAX + 1];
};

struct frame { /* one directory of the merged view; entries of the lower index are -1 for none */
    int fd;    /* -1: not in the upper */
    int64_t lower, before;
    bool fresh;
    bool gone; /* the names of the upper are none any more */
    unsigned depth;
    dev_t device; /* which directory it is */
    ino_t number;
};

struct found { /* a name of the upper, as one look has it */
    struct lz_walk_node node;
    struct stat info;
    int fd; /* of a directory, and of a file whose attributes are wanted; else -1 */
};

/* Says what failed at walk->path; returns `code`. */
int lz_walk_fail(struct walk *walk, int code, const char *what);

/* Entries of the lower index: a child or -1, and whether there is an entry of that kind. */
int64_t lz_walk_child(const struct walk *walk, int64_t directory, const char *name, size_t size);
bool lz_walk_is(const struct walk *walk, int64_t entry, enum lz_kind kind);

struct lz_walk_node lz_walk_node_here(const struct walk *walk, enum lz_walk_event event, const struct frame *frame,
                                      int64_t before);

/* The entry of the lower index that overlayfs looks under for a name of the upper: its redirect, else its name. */
int64_t lz_walk_lower(const struct walk *walk, const struct frame *frame, const struct lz_name *item);

/* Everything of a name of the upper but its children. `item` NULL: the root. `fd`: as it is open, or -1. 0, a code, or 1
 * (not for the root) when the name is gone or something else's. */
int lz_walk_fill_upper(struct walk *walk, const struct frame *frame, const struct lz_name *item, int fd,
                       struct lz_walk_node *node);

/* A descriptor of a directory or a regular file, or -errno; -EXDEV for a mount point that is not entered. */
int lz_walk_open(struct walk *walk, int dir, const char *name, bool directory);
void lz_walk_close(const struct walk *walk, int *fd); /* -1 is none, as it is afterwards */

/* Whether a failure to open says that the name is gone or something else's: a link, a file in the place of a directory, a
 * fifo or a socket in that of a file. */
bool lz_walk_has_changed(int rc);

/* Looks at a name until all that it says is of one thing. 0, and found->fd is to be closed; -ENOENT when there is nothing
 * of that name, or other things each time; or a code. */
int lz_walk_look(struct walk *walk, const struct frame *frame, const struct lz_name *item, struct found *found);

#endif
