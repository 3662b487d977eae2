/* lz_mount_stack.h - a whole root file system in one sequence: EROFS image, overlay, attached at its place.
 *
 *     above  image  lowers    data        upper  work
 *        \     |      /         |            |     |
 *      lowers, topmost first   data-only     +--+--+
 *              \________________|______________|
 *                       overlay  ->  target
 *
 * Where there is nothing to lay over one another (one image or one lower, no data, no upper) the target gets a
 * read-only mount of that one layer, because overlayfs refuses to be made of a single layer.
 */
#ifndef LZ_MOUNT_STACK_H
#define LZ_MOUNT_STACK_H

#include "lz_mount.h"

struct lz_stack {
    const char *const *above; /* directories over the image, topmost first */
    size_t above_count;
    const char *image; /* NULL: none */
    enum lz_erofs_source erofs_source;
    const char *const *lowers; /* directories under the image, topmost first */
    size_t lower_count;
    const char *const *data; /* data-only lowers */
    size_t data_count;
    const char *upper, *work; /* both or neither */
    const char *target;       /* a symlink is not followed in its last component */
    bool metacopy, redirect_dir, is_volatile, user_xattr, read_only;
    const char *attach_dir; /* see struct lz_overlay */
    bool force_paths;
};

/* Mounts the stack at its target. 0 or a negative code, with nothing mounted. *used (may be NULL) says how the image
 * was mounted, LZ_EROFS_AUTO when there is none. All paths are opened before anything is mounted over them. */
int lz_mount_stack(const struct lz_sys *sys, const struct lz_stack *stack, enum lz_erofs_source *used,
                   struct lz_detail *detail);

#endif
