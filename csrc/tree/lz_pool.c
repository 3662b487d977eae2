#include "lz_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <string.h>

#include "lz_fs.h"

/* What the kernel takes from and gives to programs is stable, but only xfslibs-dev has a header for it: these are
 * struct xfs_fsop_geom_v1, xfs_growfs_data and xfs_fs_eofblocks of the kernel's fs/xfs/libxfs/xfs_fs.h. */
struct geometry_v1 {
    uint32_t blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct;
    uint64_t datablocks, rtblocks, rtextents, logstart;
    uint8_t uuid[16];
    uint32_t sunit, swidth;
    int32_t version;
    uint32_t flags, logsectsize, rtsectsize, dirblocksize;
};

struct growth {
    uint64_t newblocks;
    uint32_t imaxpct;
};

struct unneeded_blocks {
    uint32_t version, flags, uid, gid, project, pad;
    uint64_t min_file_size, reserved[12];
};

#define FREE_EOFBLOCKS _IOR('X', 58, struct unneeded_blocks)
#define EOFBLOCKS_VERSION 1u
#define EOFBLOCKS_SYNC 1u
#define FSGEOMETRY_V1 _IOR('X', 100, struct geometry_v1)
#define FSGROWFSDATA _IOW('X', 110, struct growth)
#define GEOMETRY_REFLINK (1u << 20)

/* The image's device: the one that it has, else a new one. */
static int find_or_attach(const struct lz_sys *sys, int image_fd, struct lz_loop_state *state, struct lz_detail *detail)
{
    int device = lz_loop_find(sys, image_fd, state, detail);
    if (device >= 0 && state->read_only) {
        (void)sys->close(sys->ctx, device);
        return lz_fail(detail, -EROFS, "%s: somebody has bound the image read-only", state->name);
    }
    if (device != -ENXIO)
        return device;
    char name[LZ_LOOP_NAME_SIZE];
    int made = lz_loop_attach(sys, image_fd, LZ_LOOP_WRITABLE, name, detail);
    if (made < 0)
        return made;
    /* direct I/O was a wish: ask what became of it */
    device = lz_loop_find(sys, image_fd, state, detail);
    (void)sys->close(sys->ctx, made);
    return device == -ENXIO ? lz_fail(detail, -ENXIO, "%s: lost its file", name) : device;
}

int lz_pool_mount(const struct lz_sys *sys, int image_fd, struct lz_loop_state *device, struct lz_detail *detail)
{
    struct lz_loop_state state;
    int device_fd = find_or_attach(sys, image_fd, &state, detail);
    if (device_fd < 0)
        return device_fd;
    int fs = lz_fs_open(sys, "xfs", detail);
    int rc = fs;
    if (fs >= 0) {
        rc = lz_fs_set(sys, fs, "source", state.name);
        rc = rc < 0 ? lz_fs_fail(sys, fs, "xfs", state.name, rc, detail) : lz_fs_mount(sys, fs, "xfs", 0, detail);
        (void)sys->close(sys->ctx, fs);
    }
    (void)sys->close(sys->ctx, device_fd); /* autoclear: the mount keeps it, or it goes */
    if (rc >= 0)
        *device = state;
    return rc;
}

static int ask_geometry(const struct lz_sys *sys, int fs_fd, struct geometry_v1 *found, struct lz_detail *detail)
{
    memset(found, 0, sizeof *found);
    int rc = sys->ioctl(sys->ctx, fs_fd, FSGEOMETRY_V1, (uintptr_t)found);
    if (rc == -ENOTTY)
        return lz_fail(detail, LZ_E_UNSUPPORTED, "not an XFS file system");
    if (rc >= 0 && found->blocksize == 0)
        rc = -EIO;
    return rc >= 0 ? 0 : lz_fail(detail, rc, "geometry: %s", lz_error_text(rc));
}

int lz_pool_geometry(const struct lz_sys *sys, int fs_fd, struct lz_pool_geometry *geometry, struct lz_detail *detail)
{
    struct geometry_v1 found;
    int rc = ask_geometry(sys, fs_fd, &found, detail);
    if (rc < 0)
        return rc;
    *geometry = (struct lz_pool_geometry){.block_size = found.blocksize,
                                          .blocks = found.datablocks,
                                          .max_inode_percent = found.imaxpct,
                                          .reflink = (found.flags & GEOMETRY_REFLINK) != 0};
    return 0;
}

static int grow_image(const struct lz_sys *sys, int image_fd, uint64_t size, struct lz_detail *detail)
{
    struct stat info;
    int rc = sys->fstatat(sys->ctx, image_fd, "", &info, AT_EMPTY_PATH);
    if (rc >= 0 && (uint64_t)info.st_size < size) {
        if (size > INT64_MAX)
            rc = -EFBIG;
        else
            rc = sys->ftruncate(sys->ctx, image_fd, (off_t)size);
    }
    /* before the file system relies on it: after a crash it may be larger than what is in it, never smaller */
    if (rc >= 0)
        rc = sys->fsync(sys->ctx, image_fd);
    return rc >= 0 ? 0 : lz_fail(detail, rc, "growing the image: %s", lz_error_text(rc));
}

static int grow_device(const struct lz_sys *sys, int image_fd, struct lz_detail *detail)
{
    struct lz_loop_state state;
    int device = lz_loop_find(sys, image_fd, &state, detail);
    if (device < 0)
        return device == -ENXIO ? lz_fail(detail, -ENXIO, "the image is not mounted") : device;
    int rc = sys->ioctl(sys->ctx, device, LOOP_SET_CAPACITY, 0);
    (void)sys->close(sys->ctx, device);
    return rc >= 0 ? 0 : lz_fail(detail, rc, "%s: growing: %s", state.name, lz_error_text(rc));
}

int lz_pool_grow(const struct lz_sys *sys, int image_fd, int fs_fd, uint64_t size, struct lz_detail *detail)
{
    struct geometry_v1 found;
    int rc = ask_geometry(sys, fs_fd, &found, detail);
    if (rc < 0 || size / found.blocksize <= found.datablocks)
        return rc;
    rc = grow_image(sys, image_fd, size, detail);
    if (rc == 0)
        rc = grow_device(sys, image_fd, detail);
    if (rc < 0)
        return rc;
    struct growth growth = {.newblocks = size / found.blocksize, .imaxpct = found.imaxpct};
    rc = sys->ioctl(sys->ctx, fs_fd, FSGROWFSDATA, (uintptr_t)&growth);
    return rc >= 0 ? 0 : lz_fail(detail, rc, "growing the file system: %s", lz_error_text(rc));
}

int64_t lz_pool_trim(const struct lz_sys *sys, int fs_fd, struct lz_detail *detail)
{
    /* XFS frees the blocks of removed files in the background, and until the log has it on disk they count as busy:
     * wait for the one and for the other */
    struct unneeded_blocks unneeded = {.version = EOFBLOCKS_VERSION, .flags = EOFBLOCKS_SYNC};
    struct fstrim_range range = {.len = UINT64_MAX};
    int rc = sys->ioctl(sys->ctx, fs_fd, FREE_EOFBLOCKS, (uintptr_t)&unneeded);
    if (rc >= 0)
        rc = sys->syncfs(sys->ctx, fs_fd);
    if (rc >= 0)
        rc = sys->ioctl(sys->ctx, fs_fd, FITRIM, (uintptr_t)&range);
    if (rc < 0)
        return lz_fail(detail, rc, "trimming: %s", lz_error_text(rc));
    return range.len <= INT64_MAX ? (int64_t)range.len : INT64_MAX;
}
