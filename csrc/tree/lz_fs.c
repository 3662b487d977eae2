#include "lz_fs.h"

#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

void lz_fd_path(int fd, char out[LZ_FD_PATH_SIZE])
{
    (void)snprintf(out, LZ_FD_PATH_SIZE, "/proc/self/fd/%d", fd);
}

int lz_fs_open(const struct lz_sys *sys, const char *type, struct lz_detail *detail)
{
    int fs = sys->fsopen(sys->ctx, type, FSOPEN_CLOEXEC);
    return fs >= 0 ? fs : lz_fail(detail, fs, "file system %s: %s", type, lz_error_text(fs));
}

int lz_fs_fail(const struct lz_sys *sys, int fs, const char *type, const char *step, int rc, struct lz_detail *detail)
{
    /* each read gives one message, "e ...", "w ..." or "i ..." */
    char message[LZ_DETAIL_SIZE];
    for (int i = 0; i < 8 && detail != NULL; i++) {
        ssize_t got = sys->read(sys->ctx, fs, message, sizeof message - 1);
        if (got <= 0)
            break;
        message[got] = 0;
        message[strcspn(message, "\n")] = 0;
        if (got > 2 && message[0] == 'e')
            return lz_fail(detail, rc, "%s mount: %s (%s)", type, message + 2, lz_error_text(rc));
    }
    return lz_fail(detail, rc, "%s mount: %s: %s", type, step, lz_error_text(rc));
}

int lz_fs_set(const struct lz_sys *sys, int fs, const char *key, const char *value)
{
    return sys->fsconfig(sys->ctx, fs, value != NULL ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, key, value, 0);
}

int lz_fs_set_fd(const struct lz_sys *sys, int fs, const char *key, int fd)
{
    return sys->fsconfig(sys->ctx, fs, FSCONFIG_SET_FD, key, NULL, fd);
}

int lz_fs_mount(const struct lz_sys *sys, int fs, const char *type, unsigned attributes, struct lz_detail *detail)
{
    int rc = sys->fsconfig(sys->ctx, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    if (rc < 0)
        return lz_fs_fail(sys, fs, type, "create", rc, detail);
    rc = sys->fsmount(sys->ctx, fs, FSMOUNT_CLOEXEC, attributes);
    return rc >= 0 ? rc : lz_fs_fail(sys, fs, type, "fsmount", rc, detail);
}
