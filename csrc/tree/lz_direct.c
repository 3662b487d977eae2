#include "lz_direct.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 4096u

int lz_direct_create(struct lz_direct *direct, const struct lz_sys *sys, int dir, const char *name, mode_t mode)
{
    if (direct->buffer == NULL) {
        void *buffer;
        if (posix_memalign(&buffer, ALIGNMENT, LZ_DIRECT_SIZE) != 0)
            return -ENOMEM;
        direct->buffer = buffer;
    }
    int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;
    int fd = sys->openat(sys->ctx, dir, name, flags | O_DIRECT, mode);
    if (fd == -EINVAL) {
        /* no O_DIRECT here; some file systems have created the file by the time they say so */
        (void)sys->unlinkat(sys->ctx, dir, name, 0);
        fd = sys->openat(sys->ctx, dir, name, flags, mode);
    }
    if (fd < 0)
        return fd;
    direct->sys = sys;
    direct->fd = fd;
    direct->used = 0;
    direct->written = 0;
    return 0;
}

static int flush(struct lz_direct *direct, size_t size)
{
    int rc = lz_pwrite_all(direct->sys, direct->fd, direct->buffer, size, (off_t)direct->written);
    if (rc == 0)
        direct->written += direct->used;
    if (rc == 0)
        direct->used = 0;
    return rc;
}

int lz_direct_write(struct lz_direct *direct, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        size_t room = LZ_DIRECT_SIZE - direct->used;
        size_t now = size < room ? size : room;
        memcpy(direct->buffer + direct->used, bytes, now);
        direct->used += now;
        bytes += now;
        size -= now;
        if (direct->used == LZ_DIRECT_SIZE) {
            int rc = flush(direct, LZ_DIRECT_SIZE);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

int lz_direct_finish(struct lz_direct *direct)
{
    const struct lz_sys *sys = direct->sys;
    uint64_t size = direct->written + direct->used;
    int rc = 0;
    if (direct->used > 0) { /* whole blocks only: pad, then cut */
        size_t padded = (direct->used + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
        memset(direct->buffer + direct->used, 0, padded - direct->used);
        rc = flush(direct, padded);
        if (rc == 0)
            rc = sys->ftruncate(sys->ctx, direct->fd, (off_t)size);
    }
    int closed = sys->close(sys->ctx, direct->fd);
    direct->fd = -1;
    return rc != 0 ? rc : closed;
}

void lz_direct_close(struct lz_direct *direct)
{
    if (direct->fd >= 0)
        (void)direct->sys->close(direct->sys->ctx, direct->fd);
    direct->fd = -1;
}

void lz_direct_free(struct lz_direct *direct)
{
    lz_direct_close(direct);
    free(direct->buffer);
    *direct = (struct lz_direct){.fd = -1};
}
