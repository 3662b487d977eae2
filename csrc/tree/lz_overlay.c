#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "lz_fs.h"
#include "lz_mount.h"

/* Descriptors for layers came with Linux 6.13; a kernel without them says that the value is of the wrong type. */
static bool refuses_descriptors(int rc, const struct lz_detail *detail)
{
    return rc == -EINVAL && (strstr(detail->text, "Bad value") != NULL || strstr(detail->text, "Unknown parameter"));
}

static int set_layer(const struct lz_sys *sys, int fs, const char *key, int fd, bool by_path, struct lz_detail *detail)
{
    int rc;
    if (by_path) {
        char path[LZ_FD_PATH_SIZE];
        lz_fd_path(fd, path);
        rc = lz_fs_set(sys, fs, key, path);
    } else {
        rc = lz_fs_set_fd(sys, fs, key, fd);
    }
    return rc >= 0 ? 0 : lz_fs_fail(sys, fs, "overlay", key, rc, detail);
}

static int set_layers(const struct lz_sys *sys, int fs, const struct lz_overlay *overlay, bool by_path,
                      struct lz_detail *detail)
{
    int rc = 0;
    for (size_t i = 0; i < overlay->lower_count && rc == 0; i++)
        rc = set_layer(sys, fs, "lowerdir+", overlay->lower_fds[i], by_path, detail);
    for (size_t i = 0; i < overlay->data_count && rc == 0; i++)
        rc = set_layer(sys, fs, "datadir+", overlay->data_fds[i], by_path, detail);
    if (rc != 0 || overlay->upper_fd < 0)
        return rc;
    rc = set_layer(sys, fs, "upperdir", overlay->upper_fd, by_path, detail);
    return rc != 0 ? rc : set_layer(sys, fs, "workdir", overlay->work_fd, by_path, detail);
}

static int set_option(const struct lz_sys *sys, int fs, const char *key, const char *value, struct lz_detail *detail)
{
    int rc = lz_fs_set(sys, fs, key, value);
    return rc >= 0 ? 0 : lz_fs_fail(sys, fs, "overlay", key, rc, detail);
}

/* What is off is said only where that does not contradict another option; `index` is always off, because an upper
 * must mount again on a stack whose image was rebuilt. */
static int set_options(const struct lz_sys *sys, int fs, const struct lz_overlay *overlay, struct lz_detail *detail)
{
    int rc = set_option(sys, fs, "index", "off", detail);
    if (rc == 0 && (overlay->metacopy || !overlay->user_xattr))
        rc = set_option(sys, fs, "metacopy", overlay->metacopy ? "on" : "off", detail);
    if (rc == 0 && (overlay->redirect_dir || (!overlay->user_xattr && !overlay->metacopy)))
        rc = set_option(sys, fs, "redirect_dir", overlay->redirect_dir ? "on" : "off", detail);
    if (rc == 0 && overlay->is_volatile && overlay->upper_fd >= 0)
        rc = set_option(sys, fs, "volatile", NULL, detail);
    if (rc == 0 && overlay->user_xattr)
        rc = set_option(sys, fs, "userxattr", NULL, detail);
    return rc;
}

static int mount_with(const struct lz_sys *sys, const struct lz_overlay *overlay, bool by_path,
                      struct lz_detail *detail)
{
    int fs = lz_fs_open(sys, "overlay", detail);
    if (fs < 0)
        return fs;
    int rc = set_layers(sys, fs, overlay, by_path, detail);
    if (rc == 0)
        rc = set_options(sys, fs, overlay, detail);
    if (rc == 0)
        rc = lz_fs_mount(sys, fs, "overlay", overlay->read_only ? MOUNT_ATTR_RDONLY : 0, detail);
    (void)sys->close(sys->ctx, fs);
    return rc;
}

/* By path, a layer must be somewhere in the mount namespace while the overlay is made. They stack at one place: each is
 * named by its descriptor, so it does not matter which one is on top. */
static int mount_by_path(const struct lz_sys *sys, const struct lz_overlay *overlay, struct lz_detail *detail)
{
    if (overlay->detached_count > 0 && overlay->attach_dir == NULL)
        return lz_fail(detail, LZ_E_UNSUPPORTED,
                       "overlay: this kernel takes no layers by descriptor (Linux 6.13 does)");
    const int *detached = overlay->lower_fds + overlay->detached_first;
    int rc = 0;
    size_t attached = 0;
    while (attached < overlay->detached_count && rc == 0) {
        rc = lz_mount_attach(sys, detached[attached], AT_FDCWD, overlay->attach_dir, detail);
        attached += rc == 0;
    }
    if (rc == 0)
        rc = mount_with(sys, overlay, true, detail);
    while (attached > 0) {
        char path[LZ_FD_PATH_SIZE];
        lz_fd_path(detached[--attached], path);
        int undone = sys->umount2(sys->ctx, path, MNT_DETACH);
        if (undone < 0 && rc >= 0) {
            (void)sys->close(sys->ctx, rc);
            rc = lz_fail(detail, undone, "%s: cannot be unmounted: %s", overlay->attach_dir, lz_error_text(undone));
        }
    }
    return rc;
}

int lz_mount_overlay(const struct lz_sys *sys, const struct lz_overlay *overlay, struct lz_detail *detail)
{
    if ((overlay->upper_fd < 0) != (overlay->work_fd < 0))
        return lz_fail(detail, -EINVAL, "overlay: upper and work go together");
    if (overlay->detached_first > overlay->lower_count ||
        overlay->detached_count > overlay->lower_count - overlay->detached_first)
        return lz_fail(detail, -EINVAL, "overlay: more detached mounts than lowers");
    if (overlay->force_paths)
        return mount_by_path(sys, overlay, detail);
    struct lz_detail said = {{0}};
    int rc = mount_with(sys, overlay, false, &said);
    if (refuses_descriptors(rc, &said))
        return mount_by_path(sys, overlay, detail);
    return rc >= 0 ? rc : lz_fail(detail, rc, "%s", said.text);
}
