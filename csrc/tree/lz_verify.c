#include "lz_verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes/lz_sha256_batch.h"

#define ALIGNMENT ((size_t)4096) /* of what O_DIRECT reads */
#define BATCH 256                /* files that are gathered, at most */

struct verifier {
    const struct lz_sys *sys;
    const struct lz_verify_files *files;
    struct lz_buf *wrong;
    struct lz_detail *detail;
    uint8_t *window; /* LZ_VERIFY_WINDOW bytes, aligned */
    size_t used;     /* a multiple of ALIGNMENT */
    struct lz_sha256_batch *batch;
    struct lz_sha256 *single;
    size_t count; /* files in the window */
    struct lz_message messages[BATCH];
    const uint8_t *expected[BATCH];
    uint8_t found[BATCH][LZ_SHA256_SIZE];
};

static int fail(struct verifier *self, int code, const uint8_t *digest)
{
    char hex[LZ_SHA256_HEX_SIZE + 1];
    lz_hex(digest, hex);
    return lz_fail(self->detail, code, "verifying %s: %s", hex, lz_error_text(code));
}

static int tell(struct verifier *self, uint64_t files, uint64_t bytes)
{
    return self->files->step == NULL ? 0 : self->files->step(self->files->ctx, files, bytes);
}

/* Hashes what is in the window, and empties it. */
static int flush(struct verifier *self)
{
    uint64_t bytes = 0, files = self->count;
    int rc = lz_sha256_batch(self->batch, self->messages, self->count);
    for (size_t i = 0; rc == 0 && i < self->count; i++) {
        bytes += self->messages[i].size;
        if (memcmp(self->found[i], self->expected[i], LZ_SHA256_SIZE) != 0)
            rc = lz_buf_append(self->wrong, self->expected[i], LZ_SHA256_SIZE);
    }
    self->count = self->used = 0;
    return rc != 0 || files == 0 ? rc : tell(self, files, bytes);
}

/* A descriptor; `direct` says of which kind. -EINVAL from open: no O_DIRECT here. */
static int open_file(struct verifier *self, const uint8_t *digest, bool *direct)
{
    char hex[LZ_SHA256_HEX_SIZE + 1], path[LZ_SHA256_HEX_SIZE + 2];
    const struct lz_sys *sys = self->sys;
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, fd = -EINVAL;
    lz_hex(digest, hex);
    (void)snprintf(path, sizeof path, self->files->fan ? "%.2s/%s" : "%.2s%s", hex, hex + 2);
    if (*direct)
        fd = sys->openat(sys->ctx, self->files->dir, path, flags | O_DIRECT, 0);
    if (fd == -EINVAL) {
        *direct = false;
        fd = sys->openat(sys->ctx, self->files->dir, path, flags, 0);
    }
    return fd;
}

/* Up to `size` bytes from `offset`, fewer only at the end of the file: how many. Both are multiples of ALIGNMENT, and so
 * is every offset that is read from. */
static ssize_t read_window(const struct lz_sys *sys, int fd, uint8_t *out, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = sys->pread(sys->ctx, fd, out + done, size - done, (off_t)(offset + done));
        if (got < 0)
            return got;
        done += (size_t)got;
        if ((size_t)got % ALIGNMENT != 0 || got == 0)
            break;
    }
    return (ssize_t)done;
}

/* What is said of bytes that a disk has lost, or a file system has with another checksum or in no order: by the block layer
 * (O_DIRECT passes on what it says), ext4, XFS and btrfs. Any other failure is no finding, but the end of the search. */
static bool is_lost(int code)
{
    static const int codes[] = {-EIO, -EBADMSG, -EUCLEAN, -ENODATA, -EILSEQ, -EREMOTEIO};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (code == codes[i])
            return true;
    return false;
}

/* What became of reading: TRY_AGAIN, without O_DIRECT; 0, and the file is wrong; or the code. */
#define TRY_AGAIN 1
static int refused(struct verifier *self, int code, bool direct, const uint8_t *digest)
{
    if (code == -EINVAL && direct)
        return TRY_AGAIN;
    if (is_lost(code) || code == -EISDIR)
        return lz_buf_append(self->wrong, digest, LZ_SHA256_SIZE);
    return fail(self, code, digest);
}

/* More than a window: through it, piece by piece. */
static int verify_large(struct verifier *self, int fd, bool direct, const uint8_t *digest)
{
    int rc = flush(self);
    uint8_t found[LZ_SHA256_SIZE];
    ssize_t got = (ssize_t)LZ_VERIFY_WINDOW;
    for (uint64_t offset = 0; rc == 0 && got == (ssize_t)LZ_VERIFY_WINDOW; offset += LZ_VERIFY_WINDOW) {
        got = read_window(self->sys, fd, self->window, LZ_VERIFY_WINDOW, offset);
        if (got >= 0)
            rc = lz_sha256_update(self->single, self->window, (size_t)got);
        if (got >= 0 && rc == 0)
            rc = tell(self, got < (ssize_t)LZ_VERIFY_WINDOW, (uint64_t)got);
    }
    int ended = lz_sha256_final(self->single, found); /* in any case: it leaves the context empty */
    if (rc != 0)
        return rc;
    if (got < 0)
        return refused(self, (int)got, direct, digest);
    if (ended == 0 && memcmp(found, digest, sizeof found) != 0)
        return lz_buf_append(self->wrong, digest, LZ_SHA256_SIZE);
    return ended;
}

/* Into the window, behind what is there; or as a large one. */
static int verify_open(struct verifier *self, int fd, bool direct, const uint8_t *digest)
{
    struct stat status;
    int rc = self->sys->fstatat(self->sys->ctx, fd, "", &status, AT_EMPTY_PATH);
    if (rc < 0)
        return refused(self, rc, false, digest);
    if (!S_ISREG(status.st_mode))
        return lz_buf_append(self->wrong, digest, LZ_SHA256_SIZE);
    if ((uint64_t)status.st_size >= LZ_VERIFY_WINDOW)
        return verify_large(self, fd, direct, digest);
    size_t room = ((size_t)status.st_size / ALIGNMENT + 1) * ALIGNMENT; /* a byte more than it should have */
    if (room > LZ_VERIFY_WINDOW - self->used || self->count == BATCH)
        rc = flush(self);
    if (rc != 0)
        return rc;
    ssize_t got = read_window(self->sys, fd, self->window + self->used, room, 0);
    if (got < 0)
        return refused(self, (int)got, direct, digest);
    uint8_t *found = self->found[self->count];
    self->messages[self->count] = (struct lz_message){self->window + self->used, (size_t)got, found};
    self->expected[self->count++] = digest;
    self->used += room;
    return 0;
}

static int verify_one(struct verifier *self, const uint8_t *digest)
{
    int rc = TRY_AGAIN;
    for (bool direct = true; rc == TRY_AGAIN; direct = false) {
        int fd = open_file(self, digest, &direct);
        if (fd == -ENOENT)
            return 0;
        if (fd == -ELOOP || fd == -ENXIO)
            return lz_buf_append(self->wrong, digest, LZ_SHA256_SIZE); /* not even a file */
        if (fd < 0)
            return refused(self, fd, false, digest);
        rc = verify_open(self, fd, direct, digest);
        (void)self->sys->close(self->sys->ctx, fd); /* nothing was written */
    }
    return rc;
}

int lz_verify_files(const struct lz_sys *sys, const struct lz_verify_files *files, struct lz_buf *wrong,
                    struct lz_detail *detail)
{
    struct verifier *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    *self = (struct verifier){.sys = sys, .files = files, .wrong = wrong, .detail = detail};
    void *window = NULL;
    int rc = posix_memalign(&window, ALIGNMENT, LZ_VERIFY_WINDOW) == 0 ? 0 : -ENOMEM;
    self->window = window;
    if (rc == 0)
        rc = lz_sha256_batch_new(1, &self->batch);
    if (rc == 0)
        rc = lz_sha256_new(&self->single);
    for (size_t i = 0; rc == 0 && i < files->count; i++)
        rc = verify_one(self, files->digests + i * LZ_SHA256_SIZE);
    if (rc == 0)
        rc = flush(self);
    lz_sha256_batch_free(self->batch);
    lz_sha256_free(self->single);
    free(window);
    free(self);
    return rc;
}

int64_t lz_verify_inline(const struct lz_index *layer)
{
    const uint8_t *contents = layer->base + layer->header->inline_data.offset;
    struct lz_message messages[BATCH];
    uint8_t found[BATCH][LZ_SHA256_SIZE];
    uint32_t numbers[BATCH];
    struct lz_sha256_batch *batch = NULL;
    int64_t rc = lz_sha256_batch_new(1, &batch);
    for (uint32_t number = 0; rc == 0 && number < layer->entry_count;) {
        size_t count = 0;
        for (; number < layer->entry_count && count < BATCH; number++) {
            const struct lz_entry *entry = &layer->entries[number];
            if (entry->kind != LZ_KIND_FILE || (entry->flags & LZ_FLAG_INLINE) == 0)
                continue;
            messages[count] = (struct lz_message){contents + entry->data_offset, (size_t)entry->size, found[count]};
            numbers[count++] = number;
        }
        rc = lz_sha256_batch(batch, messages, count);
        for (size_t i = 0; rc == 0 && i < count; i++)
            if (memcmp(found[i], layer->entries[numbers[i]].digest, LZ_SHA256_SIZE) != 0) {
                lz_sha256_batch_free(batch);
                return numbers[i];
            }
    }
    lz_sha256_batch_free(batch);
    return rc == 0 ? -ENOENT : rc;
}
