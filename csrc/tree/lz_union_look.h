/* lz_union_look.h - one name through the branches of a directory, and the directories that a walk stands in (internal to
 * lz_union_walker.c, lz_union_look.c, lz_union_marks.c, lz_union_resolve.c and lz_union_list.c).
 *
 * The rules are overlayfs' (overlayfs.rst, and what its lookup does where the text is silent), for any mix of branches:
 *
 *   - from the top, the first branch that has the name says what it is; a directory goes on to gather the directories of
 *     the branches below, until one is opaque, or a branch has something else or a whiteout under the name
 *   - a file goes on only if it has attributes alone (metacopy; block by block), to the file that has its data
 *   - a redirect changes the name that is looked for further down: `name` in the same directory, or `/a/b` from the root
 *     of each branch that is left
 *   - a directory of an index that its tar did not list (IMPLICIT) takes the attributes of the one below, also when it
 *     is opaque
 *
 * The upper is held by a descriptor, so that a rename beside the walk does not lead it astray; lowers do not change, and
 * are reached by path from their branch's descriptor. That a lower directory is there and has no marks is remembered, so
 * that a path costs a system call a branch, not one for each of its directories.
 */
#ifndef LZ_UNION_LOOK_H
#define LZ_UNION_LOOK_H

#include "lz_union_internal.h"

/* Opens below a branch or an upper's directory ("": itself): nothing leads out of it, no symlink is followed. */
int lz_union_beneath(const struct lz_union *self, int dir_fd, const char *path, int flags);

/* What a lower branch has of a directory or file. In a directory branch its path is text[base, base_size) and then the
 * merged path from `cut` on: base is empty until a redirect leads away from the merged path. */
struct lz_part {
    uint32_t branch;
    uint32_t base_offset;
    uint16_t base_size, cut;
    int64_t entry; /* index: entry number; directory: -1 */
};

struct lz_level {      /* a directory that the walk is in */
    size_t path_size;  /* of its merged path */
    size_t first;      /* its parts: [first, first + count) of walker.parts */
    size_t count;      /* */
    size_t text_size;  /* of walker.text, when it was entered */
    int upper_fd;      /* O_PATH; -1: not open */
    bool in_upper;     /* */
    bool upper_opaque; /* */
    bool floats;       /* jumped to in an index: the directories between it and the level below are not levels */
};

struct lz_walker {
    struct lz_union *self;
    char *path; /* of the place: the merged path of the top level, while looking also the name's */
    struct lz_level *levels;
    size_t level_count, level_capacity;
    struct lz_part *parts;
    size_t part_count, part_capacity;
    struct lz_buf text;
    struct lz_level few_levels[16];
    struct lz_part few_parts[24];
};

struct lz_look {
    /* asked */
    const char *name; /* NUL-terminated */
    size_t size;
    bool enter;          /* it is on the way: of a directory only its parts matter, not its attributes */
    bool upper_lacks;    /* the caller has seen that the upper does not have the name */
    const int *part_fds; /* the level's parts that are directories, open (else -1), in order; NULL: none is */
    const size_t *only;  /* numbers of the level's parts that have the name, in order; NULL: not known */
    size_t only_count;   /* */
    /* found; its parts are those of the walker behind the top level's */
    bool exists, in_upper, upper_whiteout, upper_opaque, metacopy;
    bool lost;    /* with -EIO: a file whose attributes are there, and whose data is nowhere */
    bool borrows; /* the attributes are those of `owner`, which is none of the parts */
    struct lz_part owner;
    int upper_fd; /* with `enter`, of a directory: the caller's to close; else -1 */
    struct lz_union_info info;
    size_t first;  /* part */
    bool implicit; /* a directory of an index that its tar did not list has given the attributes so far */
};

void lz_walker_begin(struct lz_walker *walker, struct lz_union *self, char *path);
void lz_walker_end(struct lz_walker *walker);
/* The root becomes the only level; or a resolved directory, without what is above it. */
int lz_walker_root(struct lz_walker *walker);
int lz_walker_at(struct lz_walker *walker, const struct lz_place *directory);
int lz_walker_add(struct lz_walker *walker, const struct lz_part *part);
int lz_walker_push(struct lz_walker *walker, const struct lz_level *level);
void lz_walker_close_upper(struct lz_walker *walker); /* of the top level */

/* The lower path of a part, for a merged path of `path_size` bytes, NUL-terminated. Length, or -ENAMETOOLONG. */
int lz_part_path(const struct lz_walker *walker, const struct lz_part *part, size_t path_size,
                 char out[LZ_PATH_MAX + 1]);

/* Looks the name up in the top level. walker->path must hold the level's path, a slash (but at the root) and the name;
 * `path_size` is the length of that. 0 or a code. */
int lz_union_look(struct lz_walker *walker, size_t path_size, struct lz_look *look);
/* Whether a lower shows something under the name when the upper is taken away. */
int lz_union_look_below(struct lz_walker *walker, size_t path_size, const struct lz_look *look, bool *out);

/* Attributes of the root. */
int lz_union_root_info(struct lz_union *self, struct lz_union_info *out);
int lz_place_add(struct lz_place *place, const struct lz_share *share);

/* The upper's directory of the top level, opened again if need be. Stays the walker's. */
int lz_walker_upper(struct lz_walker *walker);

/* What overlay's xattrs say of a file or directory. */
struct lz_marks {
    bool opaque, metacopy, blocks, whiteout;
    size_t redirect_size;
    char redirect[LZ_PATH_MAX + 1];
};
/* Is it what overlay's redirect says: a name in the same directory, or a path from the root without empty components? */
bool lz_union_is_redirect(const char *text, size_t size);
/* Of `name` below dir_fd (".": itself). 0, -EINVAL for a redirect that is none, or a code. */
int lz_union_marks(struct lz_union *self, int dir_fd, const char *name, struct lz_marks *out);

#endif
