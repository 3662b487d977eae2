#include "lz_loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>

/* Between asking for a free device and taking it somebody else may take it; so many times in a row is no accident. */
#define TRIES 64

static int take(const struct lz_sys *sys, int file_fd, const char *name)
{
    int device = sys->openat(sys->ctx, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0);
    if (device < 0)
        return device;
    struct loop_config config = {
        .fd = (uint32_t)file_fd,
        .info = {.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR},
    };
    int rc = sys->ioctl(sys->ctx, device, LOOP_CONFIGURE, (uintptr_t)&config);
    if (rc >= 0)
        return device;
    (void)sys->close(sys->ctx, device);
    return rc;
}

int lz_loop_attach(const struct lz_sys *sys, int file_fd, char name[LZ_LOOP_NAME_SIZE], struct lz_detail *detail)
{
    int control = sys->openat(sys->ctx, AT_FDCWD, "/dev/loop-control", O_RDWR | O_CLOEXEC, 0);
    if (control < 0)
        return lz_fail(detail, control, "/dev/loop-control: %s", lz_error_text(control));
    char path[LZ_LOOP_NAME_SIZE] = "a free loop device";
    int rc = -EBUSY;
    for (int i = 0; i < TRIES && rc == -EBUSY; i++) {
        rc = sys->ioctl(sys->ctx, control, LOOP_CTL_GET_FREE, 0);
        if (rc < 0)
            break;
        (void)snprintf(path, sizeof path, "/dev/loop%d", rc);
        rc = take(sys, file_fd, path);
    }
    (void)sys->close(sys->ctx, control);
    if (rc < 0)
        return lz_fail(detail, rc, "%s: %s", path, lz_error_text(rc));
    memcpy(name, path, sizeof path);
    return rc;
}
