#include "lz_publish.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes/lz_digest.h"
#include "lz_list.h"

#define NAME_SIZE LZ_SHA256_HEX_SIZE
#define PATH_SIZE (LZ_SHA256_HEX_SIZE + 2) /* "ab/cdef...", with its NUL */

static int fail(struct lz_detail *detail, int code, const char *what, const char *name)
{
    return lz_fail(detail, code, "%s %s: %s", what, name, lz_error_text(code));
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* `size` hex digits to size / 2 bytes; false for anything else. */
static bool parse_hex(const char *text, size_t size, uint8_t *out)
{
    for (size_t i = 0; i < size; i += 2) {
        int high = hex_value(text[i]), low = hex_value(text[i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i / 2] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static void store_path(const char *hex, char out[PATH_SIZE])
{
    (void)snprintf(out, PATH_SIZE, "%.2s/%.62s", hex, hex + 2);
}

/* The sorted names of a directory that is opened anew, so that its offset is its own. */
static int list(const struct lz_sys *sys, int dir, const char *path, struct lz_listing *listing,
                struct lz_detail *detail)
{
    int fd = sys->openat(sys->ctx, dir, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return fail(detail, fd, "opening the objects directory", path);
    int rc = lz_listing_read(sys, fd, listing);
    (void)sys->close(sys->ctx, fd); /* nothing was written */
    if (rc < 0)
        return fail(detail, rc, "reading the objects directory", path);
    lz_listing_sort(listing);
    return 0;
}

static int make_directory(const struct lz_sys *sys, int objects_fd, const char *hex)
{
    char name[3] = {hex[0], hex[1], 0};
    int rc = sys->mkdirat(sys->ctx, objects_fd, name, 0700);
    return rc == -EEXIST ? 0 : rc;
}

/* Not over what is there: -EEXIST. Some file systems do not know the flag; nobody else adds names meanwhile. */
static int rename_new(const struct lz_sys *sys, int from, const char *name, int to, const char *path)
{
    int rc = sys->renameat2(sys->ctx, from, name, to, path, RENAME_NOREPLACE);
    if (rc != -EINVAL)
        return rc;
    struct stat status;
    rc = sys->fstatat(sys->ctx, to, path, &status, AT_SYMLINK_NOFOLLOW);
    if (rc == 0)
        return -EEXIST;
    return rc == -ENOENT ? sys->renameat2(sys->ctx, from, name, to, path, 0) : rc;
}

/* 1: moved; 0: the store had it, and the staged link is gone. */
static int publish_one(const struct lz_sys *sys, int staged_fd, int objects_fd, const char *hex)
{
    char path[PATH_SIZE];
    store_path(hex, path);
    int rc = rename_new(sys, staged_fd, hex, objects_fd, path);
    if (rc == -ENOENT) {
        rc = make_directory(sys, objects_fd, hex);
        if (rc == 0)
            rc = rename_new(sys, staged_fd, hex, objects_fd, path);
    }
    if (rc == -EEXIST)
        return sys->unlinkat(sys->ctx, staged_fd, hex, 0);
    return rc < 0 ? rc : 1;
}

int lz_publish_objects(const struct lz_sys *sys, int staged_fd, int objects_fd, struct lz_buf *moved,
                       struct lz_detail *detail)
{
    struct lz_listing listing = {0};
    size_t before = moved->size;
    int rc = list(sys, staged_fd, ".", &listing, detail);
    if (rc == 0 && lz_buf_reserve(moved, listing.count * LZ_SHA256_SIZE) != 0)
        rc = fail(detail, -ENOMEM, "publishing", "objects");
    for (size_t i = 0; rc >= 0 && i < listing.count; i++) {
        const char *name = listing.items[i].name;
        uint8_t digest[LZ_SHA256_SIZE];
        if (listing.items[i].size != NAME_SIZE || !parse_hex(name, NAME_SIZE, digest))
            continue;
        rc = publish_one(sys, staged_fd, objects_fd, name);
        if (rc < 0)
            (void)fail(detail, rc, "publishing object", name);
        else if (rc == 1)
            (void)lz_buf_append(moved, digest, sizeof digest); /* reserved above */
    }
    lz_listing_free(&listing);
    if (rc >= 0)
        return 0;
    if (moved->size > before)
        (void)lz_withdraw_objects(sys, objects_fd, staged_fd, moved->data + before,
                                  (moved->size - before) / LZ_SHA256_SIZE, NULL);
    moved->size = before;
    return rc;
}

int64_t lz_withdraw_objects(const struct lz_sys *sys, int objects_fd, int target_fd, const uint8_t *digests,
                            size_t count, struct lz_detail *detail)
{
    int64_t moved = 0;
    int first = 0;
    for (size_t i = 0; i < count; i++) {
        char hex[NAME_SIZE + 1], path[PATH_SIZE];
        lz_hex(digests + i * LZ_SHA256_SIZE, hex);
        store_path(hex, path);
        int rc = sys->renameat2(sys->ctx, objects_fd, path, target_fd, hex, 0);
        if (rc == 0)
            moved++;
        else if (rc != -ENOENT && first == 0)
            first = fail(detail, rc, "withdrawing object", hex);
    }
    return first != 0 ? first : moved;
}

/* -- sweep -- */

static int compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, LZ_SHA256_SIZE);
}

struct sweeper {
    const struct lz_sys *sys;
    int objects_fd, trash_fd;
    uint8_t (*marks)[LZ_SHA256_SIZE]; /* sorted */
    size_t mark_count;
    struct lz_sweep *result;
};

static int sweep_one(const struct sweeper *self, const char *hex)
{
    char path[PATH_SIZE];
    struct stat status;
    store_path(hex, path);
    int rc = self->sys->fstatat(self->sys->ctx, self->objects_fd, path, &status, AT_SYMLINK_NOFOLLOW);
    if (rc == 0 && self->trash_fd >= 0)
        rc = self->sys->renameat2(self->sys->ctx, self->objects_fd, path, self->trash_fd, hex, 0);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    self->result->count++;
    self->result->bytes += (uint64_t)status.st_size;
    self->result->allocated += (uint64_t)status.st_blocks * 512;
    return 0;
}

static int sweep_directory(const struct sweeper *self, const char *name, struct lz_detail *detail)
{
    struct lz_listing listing = {0};
    int rc = list(self->sys, self->objects_fd, name, &listing, detail);
    for (size_t i = 0; rc == 0 && i < listing.count; i++) {
        char hex[NAME_SIZE + 1];
        uint8_t digest[LZ_SHA256_SIZE];
        if (listing.items[i].size != NAME_SIZE - 2)
            continue;
        (void)snprintf(hex, sizeof hex, "%.2s%.62s", name, listing.items[i].name);
        if (!parse_hex(hex, NAME_SIZE, digest))
            continue;
        if (self->mark_count > 0 &&
            bsearch(digest, self->marks, self->mark_count, LZ_SHA256_SIZE, compare_digests) != NULL)
            continue;
        rc = sweep_one(self, hex);
        if (rc < 0)
            (void)fail(detail, rc, "sweeping object", hex);
    }
    lz_listing_free(&listing);
    return rc;
}

/* Is it one of the 256 directories? */
static bool is_fan(const struct lz_name *name)
{
    uint8_t byte;
    return name->size == 2 && parse_hex(name->name, 2, &byte);
}

int lz_sweep_objects(const struct lz_sys *sys, int objects_fd, int trash_fd, const struct lz_object_ref *marks,
                     size_t count, struct lz_sweep *result, struct lz_detail *detail)
{
    struct lz_listing listing = {0};
    struct sweeper self = {
        .sys = sys, .objects_fd = objects_fd, .trash_fd = trash_fd, .mark_count = count, .result = result};
    *result = (struct lz_sweep){0};
    if (count > 0) {
        self.marks = lz_alloc_array(count, LZ_SHA256_SIZE);
        if (self.marks == NULL)
            return fail(detail, -ENOMEM, "sweeping", "objects");
        for (size_t i = 0; i < count; i++)
            memcpy(self.marks[i], marks[i].digest, LZ_SHA256_SIZE);
        qsort(self.marks, count, LZ_SHA256_SIZE, compare_digests);
    }
    int rc = list(sys, objects_fd, ".", &listing, detail);
    for (size_t i = 0; rc == 0 && i < listing.count; i++)
        if (is_fan(&listing.items[i]))
            rc = sweep_directory(&self, listing.items[i].name, detail);
    lz_listing_free(&listing);
    free(self.marks);
    return rc;
}

/* -- what is missing -- */

int lz_missing_objects(const struct lz_sys *sys, int objects_fd, const struct lz_object_ref *refs, size_t count,
                       struct lz_buf *missing, struct lz_detail *detail)
{
    for (size_t i = 0; i < count; i++) {
        char hex[NAME_SIZE + 1], path[PATH_SIZE];
        struct stat status;
        lz_hex(refs[i].digest, hex);
        store_path(hex, path);
        int rc = sys->fstatat(sys->ctx, objects_fd, path, &status, AT_SYMLINK_NOFOLLOW);
        if (rc < 0 && rc != -ENOENT)
            return fail(detail, rc, "looking for object", hex);
        if (rc == 0 && S_ISREG(status.st_mode) && (uint64_t)status.st_size == refs[i].size)
            continue;
        if (lz_buf_append(missing, refs[i].digest, LZ_SHA256_SIZE) != 0)
            return fail(detail, -ENOMEM, "looking for object", hex);
    }
    return 0;
}
