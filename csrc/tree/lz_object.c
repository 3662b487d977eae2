#include "lz_object.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WRITE_BACK_SIZE (8u * 1024 * 1024) /* start write-back after this much of a sparse object */

static const uint8_t zeros[64 * 1024];

int lz_object_open(struct lz_object_writer *self, const struct lz_sys *sys, int objects_fd, int staged_fd)
{
    *self = (struct lz_object_writer){
        .sys = sys, .objects_fd = objects_fd, .staged_fd = staged_fd, .fd = -1, .direct = {.fd = -1}};
    return lz_sha256_new(&self->sha256);
}

/* Throws the temporary file away. A name that could not be removed is kept, for close() to try again. */
static int discard(struct lz_object_writer *self)
{
    if (self->fd >= 0)
        (void)self->sys->close(self->sys->ctx, self->fd); /* what it held is not wanted */
    self->fd = -1;
    lz_direct_close(&self->direct);
    int rc = self->temporary[0] != 0 ? self->sys->unlinkat(self->sys->ctx, self->staged_fd, self->temporary, 0) : 0;
    if (rc == 0)
        self->temporary[0] = 0;
    return rc;
}

void lz_object_close(struct lz_object_writer *self)
{
    (void)discard(self); /* after a failure, which is the one to report */
    lz_direct_free(&self->direct);
    lz_sha256_free(self->sha256);
    self->sha256 = NULL;
}

static int fail(struct lz_detail *detail, int code, const char *what)
{
    return lz_fail(detail, code, "%s: %s", what, lz_error_text(code));
}

/* Creates the temporary file, for writing past the page cache or through it. Names differ by process, writer and serial
 * number; a left-over of a process that had the same three is stepped over. */
static int create(struct lz_object_writer *self, bool direct, struct lz_detail *detail)
{
    int rc = discard(self);
    if (rc != 0)
        return fail(detail, rc, "removing a temporary file in staging");
    do {
        (void)snprintf(self->temporary, sizeof self->temporary, "tmp-%d-%llx-%x", (int)getpid(),
                       (unsigned long long)(uintptr_t)self, self->serial++);
        if (direct)
            rc = lz_direct_create(&self->direct, self->sys, self->staged_fd, self->temporary, 0444);
        else
            rc = self->fd = self->sys->openat(self->sys->ctx, self->staged_fd, self->temporary,
                                              O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
    } while (rc == -EEXIST);
    if (rc >= 0)
        return 0;
    self->temporary[0] = 0;
    return fail(detail, rc, "creating an object in staging");
}

/* Is it staged, or can it be linked from the store? 1 or 0. */
static int find(struct lz_object_writer *self, const char *hex, struct lz_detail *detail)
{
    char path[LZ_SHA256_HEX_SIZE + 2];
    (void)snprintf(path, sizeof path, "%.2s/%s", hex, hex + 2);
    int rc = self->sys->linkat(self->sys->ctx, self->objects_fd, path, self->staged_fd, hex, 0);
    if (rc == 0 || rc == -EEXIST)
        return 1;
    if (rc == -EMLINK || rc == -EXDEV || rc == -EPERM || rc == -EOPNOTSUPP)
        return 0; /* it is there, but has to be written again */
    if (rc != -ENOENT)
        return fail(detail, rc, "linking an object into staging");
    struct stat status;
    rc = self->sys->fstatat(self->sys->ctx, self->staged_fd, hex, &status, AT_SYMLINK_NOFOLLOW);
    if (rc == -ENOENT)
        return 0;
    return rc < 0 ? fail(detail, rc, "looking for an object in staging") : 1;
}

static int fix_mode(struct lz_object_writer *self)
{
    if (!self->mode_known) {
        struct stat status;
        int rc = self->sys->fstatat(self->sys->ctx, self->staged_fd, self->temporary, &status, AT_SYMLINK_NOFOLLOW);
        if (rc < 0)
            return rc;
        self->needs_chmod = (status.st_mode & 07777) != 0444;
        self->mode_known = true;
    }
    return self->needs_chmod ? self->sys->fchmodat(self->sys->ctx, self->staged_fd, self->temporary, 0444) : 0;
}

/* The object turned out to be there. */
static int drop(struct lz_object_writer *self, struct lz_detail *detail)
{
    int rc = discard(self);
    return rc != 0 ? fail(detail, rc, "removing a temporary file in staging") : 0;
}

/* The temporary file becomes the object `hex`, unless another writer was faster. */
static int settle(struct lz_object_writer *self, const char *hex, uint64_t size, struct lz_detail *detail)
{
    int rc = self->fd < 0 ? lz_direct_finish(&self->direct) : self->sys->close(self->sys->ctx, self->fd);
    self->fd = -1;
    if (rc == 0)
        rc = fix_mode(self);
    if (rc == 0)
        rc = self->sys->renameat2(self->sys->ctx, self->staged_fd, self->temporary, self->staged_fd, hex,
                                  RENAME_NOREPLACE);
    if (rc == 0) {
        self->temporary[0] = 0;
        self->new_count++;
        self->new_bytes += size;
        return 0;
    }
    if (rc == -EEXIST)
        return drop(self, detail);
    return fail(detail, rc, "finishing an object in staging");
}

int lz_object_put(struct lz_object_writer *self, const uint8_t *bytes, size_t size, uint8_t digest[LZ_SHA256_SIZE],
                  struct lz_detail *detail)
{
    uint8_t name[LZ_SHA256_SIZE];
    char hex[LZ_SHA256_HEX_SIZE + 1];
    int rc = lz_sha256_digest(self->sha256, bytes, size, name);
    if (rc != 0)
        return fail(detail, rc, "hashing an object");
    lz_hex(name, hex);
    rc = find(self, hex, detail);
    if (rc == 0) {
        rc = create(self, false, detail);
        if (rc == 0) {
            rc = lz_write_all(self->sys, self->fd, bytes, size);
            if (rc != 0)
                (void)fail(detail, rc, "writing an object to staging");
        }
        if (rc == 0)
            rc = settle(self, hex, size, detail);
    }
    if (rc < 0)
        return rc;
    memcpy(digest, name, sizeof name);
    return 0;
}

int lz_object_begin(struct lz_object_writer *self, bool sparse, struct lz_detail *detail)
{
    uint8_t ignored[LZ_SHA256_SIZE];
    self->offset = self->synced = 0;
    int rc = lz_sha256_digest(self->sha256, zeros, 0, ignored); /* forgets what an object that failed had hashed */
    return rc != 0 ? fail(detail, rc, "hashing an object") : create(self, !sparse, detail);
}

int lz_object_write(struct lz_object_writer *self, const uint8_t *bytes, size_t size, struct lz_detail *detail)
{
    int rc = lz_sha256_update(self->sha256, bytes, size);
    if (rc != 0)
        return fail(detail, rc, "hashing an object");
    rc = self->fd < 0 ? lz_direct_write(&self->direct, bytes, size)
                      : lz_pwrite_all(self->sys, self->fd, bytes, size, (off_t)self->offset);
    if (rc != 0)
        return fail(detail, rc, "writing an object to staging");
    self->offset += size;
    /* Write-back while the rest is still being inflated: the sync at publish then finds little to do. A hint only. */
    if (self->fd >= 0 && self->offset - self->synced >= WRITE_BACK_SIZE) {
        (void)self->sys->sync_file_range(self->sys->ctx, self->fd, (off_t)self->synced,
                                         (off_t)(self->offset - self->synced), SYNC_FILE_RANGE_WRITE);
        self->synced = self->offset;
    }
    return 0;
}

int lz_object_hole(struct lz_object_writer *self, uint64_t size, struct lz_detail *detail)
{
    self->offset += size;
    while (size > 0) {
        size_t now = size < sizeof zeros ? (size_t)size : sizeof zeros;
        int rc = lz_sha256_update(self->sha256, zeros, now);
        if (rc != 0)
            return fail(detail, rc, "hashing an object");
        size -= now;
    }
    return 0;
}

int lz_object_finish(struct lz_object_writer *self, uint8_t digest[LZ_SHA256_SIZE], struct lz_detail *detail)
{
    uint8_t name[LZ_SHA256_SIZE];
    char hex[LZ_SHA256_HEX_SIZE + 1];
    int rc = lz_sha256_final(self->sha256, name);
    if (rc != 0)
        return fail(detail, rc, "hashing an object");
    if (self->fd >= 0)
        rc = self->sys->ftruncate(self->sys->ctx, self->fd, (off_t)self->offset); /* for a hole at the end */
    if (rc != 0)
        return fail(detail, rc, "writing an object to staging");
    lz_hex(name, hex);
    rc = find(self, hex, detail);
    if (rc == 0)
        rc = settle(self, hex, self->offset, detail);
    else if (rc > 0)
        rc = drop(self, detail);
    if (rc < 0)
        return rc;
    memcpy(digest, name, sizeof name);
    return 0;
}
