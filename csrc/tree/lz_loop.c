#include "lz_loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>

#include "lz_list.h"

/* Between asking for a free device and taking it somebody else may take it; so many times in a row is no accident. */
#define TRIES 64

static int take(const struct lz_sys *sys, int file_fd, enum lz_loop_mode mode, const char *name)
{
    bool writable = mode == LZ_LOOP_WRITABLE;
    int device = sys->openat(sys->ctx, AT_FDCWD, name, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC, 0);
    if (device < 0)
        return device;
    struct loop_config config = {
        .fd = (uint32_t)file_fd,
        .block_size = writable ? LZ_LOOP_BLOCK_SIZE : 0,
        .info = {.lo_flags = (writable ? LO_FLAGS_DIRECT_IO : LO_FLAGS_READ_ONLY) | LO_FLAGS_AUTOCLEAR},
    };
    int rc = sys->ioctl(sys->ctx, device, LOOP_CONFIGURE, (uintptr_t)&config);
    if (rc >= 0)
        return device;
    (void)sys->close(sys->ctx, device);
    return rc;
}

int lz_loop_attach(const struct lz_sys *sys, int file_fd, enum lz_loop_mode mode, char name[LZ_LOOP_NAME_SIZE],
                   struct lz_detail *detail)
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
        rc = take(sys, file_fd, mode, path);
    }
    (void)sys->close(sys->ctx, control);
    if (rc < 0)
        return lz_fail(detail, rc, "%s: %s", path, lz_error_text(rc));
    memcpy(name, path, sizeof path);
    return rc;
}

/* An open descriptor of the device `name` below /dev if it is bound to the file that `file` describes; -ENXIO if not. */
static int match(const struct lz_sys *sys, int dev_fd, const char *name, const struct stat *file,
                 struct lz_loop_state *state)
{
    int device = sys->openat(sys->ctx, dev_fd, name, O_RDONLY | O_CLOEXEC, 0);
    if (device == -ENOENT || device == -EBUSY) /* it goes away just now */
        return -ENXIO;
    if (device < 0)
        return device;
    struct loop_info64 info = {0};
    int rc = sys->ioctl(sys->ctx, device, LOOP_GET_STATUS64, (uintptr_t)&info);
    if (rc >= 0 && info.lo_device == (uint64_t)file->st_dev && info.lo_inode == (uint64_t)file->st_ino) {
        struct lz_loop_state found = {.direct_io = (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0,
                                      .read_only = (info.lo_flags & LO_FLAGS_READ_ONLY) != 0};
        (void)snprintf(found.name, sizeof found.name, "/dev/%.24s", name);
        *state = found;
        return device;
    }
    (void)sys->close(sys->ctx, device);
    return rc < 0 ? rc : -ENXIO;
}

static bool is_loop(const char *name)
{
    return strncmp(name, "loop", 4) == 0 && name[4] >= '0' && name[4] <= '9';
}

int lz_loop_find(const struct lz_sys *sys, int file_fd, struct lz_loop_state *state, struct lz_detail *detail)
{
    struct stat file;
    int rc = sys->fstatat(sys->ctx, file_fd, "", &file, AT_EMPTY_PATH);
    if (rc < 0)
        return lz_fail(detail, rc, "the file of a loop device: %s", lz_error_text(rc));
    int dev_fd = sys->openat(sys->ctx, AT_FDCWD, "/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dev_fd < 0)
        return lz_fail(detail, dev_fd, "/dev: %s", lz_error_text(dev_fd));
    struct lz_listing listing = {0};
    int listed = lz_listing_read(sys, dev_fd, &listing);
    rc = listed < 0 ? lz_fail(detail, listed, "/dev: %s", lz_error_text(listed)) : -ENXIO;
    for (size_t i = 0; listed >= 0 && rc == -ENXIO && i < listing.count; i++) {
        const char *name = listing.items[i].name;
        if (!is_loop(name))
            continue;
        rc = match(sys, dev_fd, name, &file, state);
        if (rc < 0 && rc != -ENXIO) /* not to know is not to find none: a second device over one file would ruin it */
            (void)lz_fail(detail, rc, "/dev/%s: %s", name, lz_error_text(rc));
    }
    lz_listing_free(&listing);
    (void)sys->close(sys->ctx, dev_fd);
    return rc;
}
