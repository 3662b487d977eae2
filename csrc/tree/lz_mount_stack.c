#include "lz_mount_stack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "../base/lz_mem.h"

/* Everything that is open on the way. */
struct opened {
    int *fds; /* lowers (the image among them), then data, then upper and work */
    size_t count;
    size_t detached; /* 1 when the image is there */
    enum lz_erofs_source used;
};

static int open_directory(const struct lz_sys *sys, struct opened *opened, const char *path, const char *role,
                          struct lz_detail *detail)
{
    int fd = sys->openat(sys->ctx, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return lz_fail(detail, fd, "%s %s: %s", role, path, lz_error_text(fd));
    opened->fds[opened->count++] = fd;
    return 0;
}

static int open_all(const struct lz_sys *sys, const struct lz_stack *stack, struct opened *opened,
                    struct lz_detail *detail)
{
    int rc = 0;
    for (size_t i = 0; i < stack->above_count && rc == 0; i++)
        rc = open_directory(sys, opened, stack->above[i], "lower", detail);
    if (rc == 0 && stack->image != NULL) {
        rc = lz_mount_erofs(sys, stack->image, stack->erofs_source, &opened->used, detail);
        if (rc < 0)
            return rc;
        opened->fds[opened->count++] = rc;
        opened->detached = 1;
        rc = 0;
    }
    for (size_t i = 0; i < stack->lower_count && rc == 0; i++)
        rc = open_directory(sys, opened, stack->lowers[i], "lower", detail);
    for (size_t i = 0; i < stack->data_count && rc == 0; i++)
        rc = open_directory(sys, opened, stack->data[i], "data layer", detail);
    if (rc == 0 && stack->upper != NULL)
        rc = open_directory(sys, opened, stack->upper, "upper", detail);
    if (rc == 0 && stack->work != NULL)
        rc = open_directory(sys, opened, stack->work, "work", detail);
    return rc;
}

/* overlayfs refuses a work directory that a volatile mount was not taken down from properly, and says so to the
 * kernel's log only. */
static int explain(const struct lz_sys *sys, const struct lz_stack *stack, int work_fd, int rc,
                   struct lz_detail *detail)
{
    struct stat info;
    if (stack->upper == NULL || rc != -EINVAL)
        return rc;
    if (sys->fstatat(sys->ctx, work_fd, "work/incompat/volatile", &info, AT_SYMLINK_NOFOLLOW) == 0)
        return lz_fail(detail, rc, "work %s: was mounted volatile; what its upper holds may be incomplete",
                       stack->work);
    return rc;
}

static int make_overlay(const struct lz_sys *sys, const struct lz_stack *stack, const struct opened *opened,
                        struct lz_detail *detail)
{
    size_t lowers = stack->above_count + opened->detached + stack->lower_count;
    bool writable = stack->upper != NULL;
    struct lz_overlay overlay = {
        .lower_fds = opened->fds,
        .lower_count = lowers,
        .detached_first = stack->above_count,
        .detached_count = opened->detached,
        .data_fds = opened->fds + lowers,
        .data_count = stack->data_count,
        .upper_fd = writable ? opened->fds[opened->count - 2] : -1,
        .work_fd = writable ? opened->fds[opened->count - 1] : -1,
        .metacopy = stack->metacopy,
        .redirect_dir = stack->redirect_dir,
        .is_volatile = stack->is_volatile,
        .user_xattr = stack->user_xattr,
        .read_only = stack->read_only,
        .attach_dir = stack->attach_dir,
        .force_paths = stack->force_paths,
    };
    int rc = lz_mount_overlay(sys, &overlay, detail);
    return rc < 0 ? explain(sys, stack, overlay.work_fd, rc, detail) : rc;
}

static int attach_all(const struct lz_sys *sys, const struct lz_stack *stack, const struct opened *opened,
                      struct lz_detail *detail)
{
    bool single = opened->count == 1;
    if (single && opened->detached == 1)
        return lz_mount_attach(sys, opened->fds[0], AT_FDCWD, stack->target, detail);
    int mount = single ? lz_mount_view(sys, opened->fds[0], detail) : make_overlay(sys, stack, opened, detail);
    if (mount < 0)
        return mount;
    int rc = lz_mount_attach(sys, mount, AT_FDCWD, stack->target, detail);
    (void)sys->close(sys->ctx, mount);
    return rc;
}

int lz_mount_stack(const struct lz_sys *sys, const struct lz_stack *stack, enum lz_erofs_source *used,
                   struct lz_detail *detail)
{
    if ((stack->upper == NULL) != (stack->work == NULL))
        return lz_fail(detail, -EINVAL, "mount: upper and work go together");
    if (stack->image == NULL && stack->above_count == 0 && stack->lower_count == 0)
        return lz_fail(detail, -EINVAL, "mount: no image and no lower");
    size_t most;
    if (__builtin_add_overflow(stack->lower_count, stack->data_count, &most) ||
        __builtin_add_overflow(stack->above_count, most, &most) || most > SIZE_MAX - 3)
        return -ENOMEM;
    struct opened opened = {.fds = lz_alloc_array(most + 3, sizeof(int)), .used = LZ_EROFS_AUTO};
    if (opened.fds == NULL)
        return -ENOMEM;
    int rc = open_all(sys, stack, &opened, detail);
    if (rc == 0)
        rc = attach_all(sys, stack, &opened, detail);
    for (size_t i = 0; i < opened.count; i++)
        (void)sys->close(sys->ctx, opened.fds[i]);
    free(opened.fds);
    if (rc == 0 && used != NULL)
        *used = opened.used;
    return rc;
}
