#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes/lz_mark.h"
#include "lz_union_look.h"

#define LIST_FIRST 1024u
#define LIST_MAX 65536u /* XATTR_LIST_MAX */

bool lz_union_is_redirect(const char *text, size_t size)
{
    if (size == 0 || memchr(text, 0, size) != NULL)
        return false;
    if (text[0] != '/')
        return memchr(text, '/', size) == NULL && size <= LZ_NAME_MAX && !(size <= 2 && memcmp(text, "..", size) == 0);
    for (size_t at = 0; at < size;) {
        const char *name = text + at + 1;
        const char *slash = memchr(name, '/', size - at - 1);
        size_t length = slash != NULL ? (size_t)(slash - name) : size - at - 1;
        if (length == 0 || length > LZ_NAME_MAX || (length <= 2 && memcmp(name, "..", length) == 0))
            return false;
        at += length + 1;
    }
    return true;
}

static int take_redirect(struct lz_union *self, int dir_fd, const char *path, const char *xattr, struct lz_marks *out)
{
    ssize_t got = self->sys->getxattrat(self->sys->ctx, dir_fd, path, xattr, out->redirect, LZ_PATH_MAX);
    if (got == -ENODATA) /* went away meanwhile */
        return 0;
    if (got == -ERANGE)
        return -EINVAL;
    if (got < 0)
        return (int)got;
    out->redirect[got] = 0;
    out->redirect_size = (size_t)got;
    return lz_union_is_redirect(out->redirect, (size_t)got) ? 0 : -EINVAL;
}

static int take_opaque(struct lz_union *self, int dir_fd, const char *path, const char *xattr, struct lz_marks *out)
{
    char value[2];
    ssize_t got = self->sys->getxattrat(self->sys->ctx, dir_fd, path, xattr, value, sizeof value);
    out->opaque = got == 1 && value[0] == 'y'; /* "x" only says that whiteouts may be xattrs */
    return got < 0 && got != -ENODATA && got != -ERANGE ? (int)got : 0;
}

static int take_list(struct lz_union *self, int dir_fd, const char *path, const char *list, size_t size,
                     struct lz_marks *out)
{
    int rc = 0;
    for (size_t at = 0; at < size && rc == 0; at += strlen(list + at) + 1) {
        const char *xattr = list + at;
        switch (lz_overlay_xattr_kind(xattr, self->user_xattr)) {
        case LZ_OVERLAY_OPAQUE:
            rc = take_opaque(self, dir_fd, path, xattr, out);
            break;
        case LZ_OVERLAY_REDIRECT:
            rc = take_redirect(self, dir_fd, path, xattr, out);
            break;
        case LZ_OVERLAY_METACOPY:
            out->metacopy = true;
            break;
        case LZ_OVERLAY_PRIVATE:
            xattr = strstr(xattr, ".overlay.") + strlen(".overlay.");
            out->blocks |= strcmp(xattr, "lazarus") == 0;
            out->whiteout |= strcmp(xattr, "whiteout") == 0;
            break;
        default:
            break;
        }
    }
    return rc;
}

int lz_union_marks(struct lz_union *self, int dir_fd, const char *name, struct lz_marks *out)
{
    const struct lz_sys *sys = self->sys;
    char list[LIST_FIRST];
    out->opaque = out->metacopy = out->blocks = out->whiteout = false;
    out->redirect_size = 0;
    ssize_t size = sys->listxattrat(sys->ctx, dir_fd, name, list, sizeof list);
    if (size >= 0)
        return take_list(self, dir_fd, name, list, (size_t)size, out);
    if (size == -EOPNOTSUPP)
        return 0;
    if (size != -ERANGE)
        return (int)size;
    char *whole = malloc(LIST_MAX);
    if (whole == NULL)
        return -ENOMEM;
    size = sys->listxattrat(sys->ctx, dir_fd, name, whole, LIST_MAX);
    int rc = size >= 0 ? take_list(self, dir_fd, name, whole, (size_t)size, out) : (int)size;
    free(whole);
    return rc;
}
