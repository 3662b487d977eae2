/* lz_tree.h - a mutable tree in memory: how a layer is gathered from a tar, and how layers become one merged index.
 *
 * Two uses of the same rules:
 *
 *     one layer    add(), link(), whiteout(), opaque() in the tar's order, then write() -> a layer index
 *     a stack      apply(layer 0), apply(layer 1), ... then write() -> a merged index (no whiteouts or opaque marks left,
 *                  but in a part of a stack: begin_part())
 *
 * and, for lz_relayer.h, compose(layer n), compose(layer n + 1), ...: one layer that does what these do together.
 *
 * Rules inside one layer (OCI image-spec layer.md; the same in whatever order the tar has them):
 *   - a later entry of the same path replaces the earlier one; a directory over a directory keeps the children and takes
 *     the later attributes; a non-directory over a directory drops the children
 *   - a whiteout or opaque mark speaks of lower layers only: whiteout of NAME plus an entry NAME is that entry, and if it
 *     is a directory, that directory opaque
 *   - parents that the tar does not list are made IMPLICIT (0755, root, mtime 0)
 *   - a parent that is a symlink or any other non-directory of this layer: LZ_E_UNSAFE; an explicit later directory may
 *     replace it
 *
 * Rules between layers: a non-directory replaces whatever is below; a directory over a directory merges (an IMPLICIT one
 * keeps the lower's attributes), over anything else replaces; OPAQUE drops the lower children first; whiteout drops the
 * lower entry. Hard links: a group is what one layer linked together; replacing one name leaves the others linked.
 *
 * Cost: O(entries applied), independent of depth: a hash of (parent, name), dropped subtrees are dropped by unlinking
 * their top. A path's walk begins where it leaves the path before.
 */
#ifndef LZ_TREE_H
#define LZ_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"

struct lz_tree;

/* What a tree may hold; it is all in memory, and a small archive can ask for much. 0 means the default. */
struct lz_tree_limits {
    uint64_t max_entries; /* 16 Mi */
    uint64_t max_text;    /* bytes of names and symlink targets, and of paths in the index: 1 GiB, 64 for each entry */
    uint64_t max_xattrs;  /* bytes of xattr records: 512 MiB */
};

/* What add() is told of an entry. `path` is normalised by lz_path_clean(). */
struct lz_tree_node {
    enum lz_kind kind; /* not WHITEOUT */
    uint32_t mode;     /* 07777 */
    uint32_t uid, gid;
    uint32_t major, minor;
    int64_t mtime;
    uint32_t mtime_nsec;
    uint64_t size;        /* files */
    uint64_t data_offset; /* inline files */
    uint8_t flags;        /* LZ_FLAG_INLINE or LZ_FLAG_OBJECT for files, else 0 */
    uint8_t digest[32];   /* files */
    const char *target;   /* symlinks */
    size_t target_size;
    const struct lz_xattr *xattrs; /* sorted by name; copied */
    size_t xattr_count;
};

int lz_tree_new(const struct lz_tree_limits *limits, struct lz_tree **out);
void lz_tree_free(struct lz_tree *tree);

/* Brings a path as an archive spells it into the one form of the index: no leading `/` or `./`, no `//`, no `.`
 * components, no trailing slash. Writes to out (capacity LZ_PATH_MAX + 1, NUL-terminated) and returns the length (0 is
 * the root). LZ_E_UNSAFE for a `..` component, LZ_E_LIMIT for a path over LZ_PATH_MAX or a name over LZ_NAME_MAX. */
int lz_path_clean(const char *path, size_t size, char out[LZ_PATH_MAX + 1], struct lz_detail *detail);

/* All take clean paths. 0 or LZ_E_UNSAFE (parent), LZ_E_LIMIT (entries), LZ_E_FORMAT, -ENOMEM. */
int lz_tree_add(struct lz_tree *tree, const char *path, size_t size, const struct lz_tree_node *node,
                struct lz_detail *detail);
/* A further name for what `target` is now: LZ_E_FORMAT when target does not exist in this layer or is a directory. */
int lz_tree_link(struct lz_tree *tree, const char *path, size_t size, const char *target, size_t target_size,
                 struct lz_detail *detail);
int lz_tree_whiteout(struct lz_tree *tree, const char *path, size_t size, struct lz_detail *detail);
int lz_tree_opaque(struct lz_tree *tree, const char *directory, size_t size, struct lz_detail *detail);

/* Records an object in the index's object table (also of entries that a later entry of the tar replaced: the recipe
 * needs them). */
int lz_tree_add_object(struct lz_tree *tree, const uint8_t digest[32], uint64_t size);

/* Says that the tree is a stack, also when no layer follows (an empty image); apply() says it too. */
void lz_tree_begin_stack(struct lz_tree *tree);
/* Says, before the first apply(), that it is a part of a stack, with something below that is no layer (lz_union.h): what it
 * says about that is kept, as compose() keeps it. */
void lz_tree_begin_part(struct lz_tree *tree);

/* Lays a layer index on top. `diff_id` becomes a row of the merged index's layer table. The tree must have been filled
 * by apply() only. */
int lz_tree_apply(struct lz_tree *tree, const struct lz_index *layer, const uint8_t diff_id[32],
                  struct lz_detail *detail);

/* What compose() does with an entry. */
enum lz_take {
    LZ_TAKE_NONE = 0,   /* leaves it out, and with a directory what is in it must be left out too */
    LZ_TAKE_ALL = 1,    /* */
    LZ_TAKE_PARENT = 2, /* a directory that is only the way to others: as if the layer did not list it, without marks */
};

/* Lays a layer index on top like apply(), but keeps what it says about layers that are below all of them: laid on
 * anything, the result does what the composed layers do one after the other. `take` has an enum lz_take for each entry;
 * NULL takes all. Entries remember `layer_number` (in entry.layer) and where in that layer's index their inline content
 * is. The tree must have been filled by compose() only. 0, LZ_E_LIMIT or -ENOMEM. */
int lz_tree_compose(struct lz_tree *tree, const struct lz_index *layer, uint32_t layer_number, const uint8_t *take,
                    struct lz_detail *detail);

/* Writes header and table to `fd` (positional writes: header at 0, table after `inline_size` bytes of inline data that
 * the caller has written from LZ_INDEX_INLINE_OFFSET on). No fsync. Whiteouts are kept unless the tree is a
 * whole stack. *entry_count (may be NULL) gets the number of entries. 0, -errno, LZ_E_LIMIT when the paths pass
 * max_text, -ENOMEM. */
int lz_tree_write(const struct lz_sys *sys, struct lz_tree *tree, int fd, uint64_t inline_size, uint32_t *entry_count,
                  struct lz_detail *detail);

#endif
