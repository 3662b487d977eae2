#include "lz_copyup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#define STEP (1024u * 1024 * 1024) /* of the rungs in the kernel: one call copies so much at most */
#define BUFFER (256u * 1024)       /* of the last rung: stays in the processor's cache between reading and writing */

struct copy {
    const struct lz_sys *sys;
    const struct lz_bytes_at *from;
    int out_fd;
    uint64_t out_offset;
    enum lz_rung asked, rung;
    bool whole; /* the output is a new file of our own */
    uint8_t *buffer;
    uint64_t copied;
    struct lz_detail *detail;
};

const char *lz_rung_name(enum lz_rung rung)
{
    static const char *const names[LZ_RUNG_COUNT] = {"auto",     "metacopy",  "blocks", "clone", "copy_file_range",
                                                     "sendfile", "read-write"};
    return rung >= 0 && rung < LZ_RUNG_COUNT ? names[rung] : "unknown";
}

/* The kernel or the file system cannot do it this way; another way may work. */
static bool falls_through(int64_t code)
{
    return code == -EXDEV || code == -EOPNOTSUPP || code == -EINVAL || code == -ENOSYS || code == -ENOTTY ||
           code == -EPERM;
}

static int fail_truncated(const struct copy *copy, uint64_t found)
{
    return lz_fail(copy->detail, LZ_E_TRUNCATED, "copy-up: the lower content ends after %llu bytes, expected %llu",
                   (unsigned long long)found, (unsigned long long)copy->from->size);
}

static int fail_rung(const struct copy *copy, int code)
{
    if (falls_through(code))
        return lz_fail(copy->detail, -EOPNOTSUPP, "copy-up: %s cannot serve here: %s", lz_rung_name(copy->rung),
                       lz_error_text(code));
    return lz_fail(copy->detail, code, "copy-up: %s: %s", lz_rung_name(copy->rung), lz_error_text(code));
}

/* ---- the rungs ---- */

static int clone_range(const struct copy *copy)
{
    struct file_clone_range range = {.src_fd = copy->from->fd,
                                     .src_offset = copy->from->offset,
                                     .src_length = copy->from->size,
                                     .dest_offset = copy->out_offset};
    return copy->sys->ioctl(copy->sys->ctx, copy->out_fd, FICLONERANGE, (uintptr_t)&range);
}

static ssize_t step_range(struct copy *copy, uint64_t at, uint64_t size)
{
    off_t in = (off_t)(copy->from->offset + at), out = (off_t)(copy->out_offset + at);
    return copy->sys->copy_file_range(copy->sys->ctx, copy->from->fd, &in, copy->out_fd, &out,
                                      size < STEP ? (size_t)size : STEP);
}

static ssize_t step_sendfile(struct copy *copy, uint64_t at, uint64_t size)
{
    off_t in = (off_t)(copy->from->offset + at);
    off_t seeked = copy->sys->lseek(copy->sys->ctx, copy->out_fd, (off_t)(copy->out_offset + at), SEEK_SET);
    if (seeked < 0)
        return (ssize_t)seeked;
    return copy->sys->sendfile(copy->sys->ctx, copy->out_fd, copy->from->fd, &in, size < STEP ? (size_t)size : STEP);
}

static ssize_t step_read_write(struct copy *copy, uint64_t at, uint64_t size)
{
    if (copy->buffer == NULL && (copy->buffer = malloc(BUFFER)) == NULL)
        return -ENOMEM;
    ssize_t got = lz_pread_full(copy->sys, copy->from->fd, copy->buffer, size < BUFFER ? (size_t)size : BUFFER,
                                (off_t)(copy->from->offset + at));
    if (got <= 0)
        return got;
    int rc = lz_pwrite_all(copy->sys, copy->out_fd, copy->buffer, (size_t)got, (off_t)(copy->out_offset + at));
    return rc != 0 ? rc : got;
}

static ssize_t step(struct copy *copy, uint64_t at, uint64_t size)
{
    switch (copy->rung) {
    case LZ_RUNG_RANGE:
        return step_range(copy, at, size);
    case LZ_RUNG_SENDFILE:
        return step_sendfile(copy, at, size);
    default:
        return step_read_write(copy, at, size);
    }
}

/* ---- extents ---- */

/* One extent of data, going down the ladder where a rung does not serve; what a rung has copied stays. A rung in the
 * kernel that says "end of file" may mean that it cannot read this file, so that the last one decides. */
static int copy_extent(struct copy *copy, uint64_t at, uint64_t end)
{
    while (at < end) {
        ssize_t got = step(copy, at, end - at);
        if (got > 0) {
            at += (uint64_t)got;
            copy->copied += (uint64_t)got;
        } else if (copy->asked == LZ_RUNG_AUTO && copy->rung != LZ_RUNG_READ_WRITE &&
                   (got == 0 || falls_through(got))) {
            copy->rung = copy->rung == LZ_RUNG_RANGE && copy->whole ? LZ_RUNG_SENDFILE : LZ_RUNG_READ_WRITE;
        } else {
            return got == 0 ? fail_truncated(copy, at) : fail_rung(copy, (int)got);
        }
    }
    return 0;
}

/* The next data at or after `at`, in offsets of the content; false at the end. A file system that cannot tell says that
 * all is data. */
static int next_extent(const struct copy *copy, uint64_t at, uint64_t *begin, uint64_t *end)
{
    const struct lz_sys *sys = copy->sys;
    uint64_t offset = copy->from->offset, limit = copy->from->size;
    *begin = *end = limit;
    off_t data = sys->lseek(sys->ctx, copy->from->fd, (off_t)(offset + at), SEEK_DATA);
    if (data == -ENXIO || (data >= 0 && (uint64_t)data >= offset + limit))
        return 0;
    if (data < 0 && !falls_through(data))
        return lz_fail(copy->detail, (int)data, "copy-up: looking for holes: %s", lz_error_text((int)data));
    *begin = data < 0 ? at : (uint64_t)data - offset;
    if (data < 0)
        return 0;
    off_t hole = sys->lseek(sys->ctx, copy->from->fd, data, SEEK_HOLE);
    if (hole < 0)
        return lz_fail(copy->detail, (int)hole, "copy-up: looking for holes: %s", lz_error_text((int)hole));
    if ((uint64_t)hole < offset + limit)
        *end = (uint64_t)hole - offset;
    return 0;
}

static int copy_extents(struct copy *copy, bool holes)
{
    int rc = holes ? 0 : copy_extent(copy, 0, copy->from->size);
    for (uint64_t at = 0; holes && rc == 0 && at < copy->from->size;) {
        uint64_t begin = 0, end = 0;
        rc = next_extent(copy, at, &begin, &end);
        if (rc == 0)
            rc = copy_extent(copy, begin, end);
        at = end;
    }
    return rc;
}

/* ---- the ladder ---- */

static int climb_down(struct copy *copy, struct lz_copyup_result *result)
{
    const struct lz_sys *sys = copy->sys;
    struct stat info;
    int rc = sys->fstatat(sys->ctx, copy->from->fd, "", &info, AT_EMPTY_PATH);
    if (rc != 0)
        return lz_fail(copy->detail, rc, "copy-up: %s", lz_error_text(rc));
    uint64_t available = (uint64_t)info.st_size;
    if (available < copy->from->offset || available - copy->from->offset < copy->from->size)
        return fail_truncated(copy, available > copy->from->offset ? available - copy->from->offset : 0);
    copy->rung = copy->asked == LZ_RUNG_AUTO ? LZ_RUNG_CLONE : copy->asked;
    if (copy->rung == LZ_RUNG_CLONE && copy->from->size > 0) {
        rc = clone_range(copy);
        if (rc == 0)
            *result = (struct lz_copyup_result){.rung = LZ_RUNG_CLONE};
        if (rc == 0 || copy->asked == LZ_RUNG_CLONE || !falls_through(rc))
            return rc == 0 ? 0 : fail_rung(copy, rc);
    }
    if (copy->rung == LZ_RUNG_CLONE)
        copy->rung = LZ_RUNG_RANGE;
    if (copy->whole && (rc = sys->ftruncate(sys->ctx, copy->out_fd, (off_t)copy->from->size)) != 0)
        return lz_fail(copy->detail, rc, "copy-up: setting the size: %s", lz_error_text(rc));
    rc = copy_extents(copy, (uint64_t)info.st_blocks * 512 < available);
    if (rc == 0)
        *result =
            (struct lz_copyup_result){.rung = copy->copied > 0 ? copy->rung : LZ_RUNG_AUTO, .copied = copy->copied};
    return rc;
}

static int copy_up(struct copy *copy, struct lz_copyup_result *result)
{
    if (copy->asked == LZ_RUNG_METACOPY || copy->asked == LZ_RUNG_BLOCKS || copy->asked >= LZ_RUNG_COUNT)
        return lz_fail(copy->detail, -EOPNOTSUPP, "copy-up: %s copies no data", lz_rung_name(copy->asked));
    struct lz_copyup_result done = {.rung = LZ_RUNG_AUTO};
    int rc = climb_down(copy, &done);
    free(copy->buffer);
    if (rc == 0 && result != NULL)
        *result = done;
    return rc;
}

int lz_copyup_data(const struct lz_sys *sys, const struct lz_bytes_at *from, int out_fd, enum lz_rung rung,
                   struct lz_copyup_result *result, struct lz_detail *detail)
{
    struct copy copy = {.sys = sys, .from = from, .out_fd = out_fd, .asked = rung, .whole = true, .detail = detail};
    return copy_up(&copy, result);
}

int lz_copyup_range(const struct lz_sys *sys, const struct lz_bytes_at *from, int out_fd, uint64_t out_offset,
                    enum lz_rung rung, struct lz_copyup_result *result, struct lz_detail *detail)
{
    struct copy copy = {
        .sys = sys, .from = from, .out_fd = out_fd, .out_offset = out_offset, .asked = rung, .detail = detail};
    return copy_up(&copy, result);
}
