#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "lz_data.h"
#include "lz_union_look.h"

static int fail_at(const struct lz_place *place, int code, struct lz_detail *detail)
{
    return lz_fail(detail, code, "/%s: %s", place->path, lz_error_text(code));
}

/* The size of an open regular file. */
static int measure(struct lz_union *self, int fd, struct stat *info)
{
    int rc = self->sys->fstatat(self->sys->ctx, fd, "", info, AT_EMPTY_PATH);
    return rc == 0 && !S_ISREG(info->st_mode) ? -ENOENT : rc; /* has become something else since it was looked up */
}

static int open_object(struct lz_union *self, const struct lz_place *place, const struct lz_branch *branch,
                       const struct lz_entry *entry, struct lz_bytes_at *out, struct lz_detail *detail)
{
    int fd = lz_data_open_object(self->sys, branch->objects_fd, entry->digest, place->path, detail);
    if (fd < 0)
        return fd;
    struct stat info;
    int rc = measure(self, fd, &info);
    if (rc == 0 && (uint64_t)info.st_size != entry->size)
        rc = lz_fail(detail, LZ_E_CORRUPT, "/%s: its object has %llu bytes, expected %llu", place->path,
                     (unsigned long long)info.st_size, (unsigned long long)entry->size);
    if (rc != 0) {
        (void)self->sys->close(self->sys->ctx, fd);
        return rc == LZ_E_CORRUPT ? rc : fail_at(place, rc, detail);
    }
    *out = (struct lz_bytes_at){.fd = fd, .size = entry->size};
    return 0;
}

static int open_file(struct lz_union *self, const struct lz_place *place, const struct lz_share *share,
                     struct lz_bytes_at *out, struct stat *info, struct lz_detail *detail)
{
    int fd = lz_union_share_open(self, place, share, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    int rc = fd < 0 ? fd : measure(self, fd, info);
    if (rc != 0) {
        if (fd >= 0)
            (void)self->sys->close(self->sys->ctx, fd);
        return fail_at(place, rc, detail);
    }
    char map[LZ_BLOCKS_NAME_SIZE];
    if (self->lowers[share->branch].marks)
        rc = lz_blocks_name(self->sys, fd, "", self->user_xattr, map);
    if (rc != 0) {
        (void)self->sys->close(self->sys->ctx, fd);
        return rc < 0 ? fail_at(place, rc, detail)
                      : lz_fail(detail, -EIO,
                                "/%s: in a lower directory, and only some of its blocks: whoever wrote it "
                                "has to settle it",
                                place->path);
    }
    *out = (struct lz_bytes_at){.fd = fd, .size = (uint64_t)info->st_size};
    return 0;
}

int lz_union_blocks_lower(struct lz_union *self, const struct lz_place *place, const struct lz_share *share,
                          struct lz_blocks_lower *out, bool *owned, struct lz_detail *detail)
{
    const struct lz_branch *branch = &self->lowers[share->branch];
    struct lz_blocks_lower lower = {.at = {.fd = -1}};
    int rc = 0;
    *owned = true;
    if (share->entry < 0) {
        struct stat info;
        rc = open_file(self, place, share, &lower.at, &info, detail);
        if (rc != 0)
            return rc;
        lower.device = info.st_dev;
        lower.number = info.st_ino;
        lower.mtime = info.st_mtim.tv_sec;
        lower.mtime_nsec = (uint32_t)info.st_mtim.tv_nsec;
        *out = lower;
        return 0;
    }
    const struct lz_entry *entry = &branch->index->entries[share->entry];
    if (entry->kind != LZ_KIND_FILE)
        return -EINVAL;
    if ((entry->flags & LZ_FLAG_OBJECT) != 0) {
        rc = open_object(self, place, branch, entry, &lower.at, detail);
    } else { /* an empty file's content is the beginning of nothing, but somewhere it must be */
        *owned = false;
        lower.at = (struct lz_bytes_at){.fd = branch->layer_fds[entry->layer],
                                        .offset = LZ_INDEX_INLINE_OFFSET + entry->data_offset,
                                        .size = entry->size};
    }
    lower.has_digest = true;
    memcpy(lower.digest, entry->digest, sizeof lower.digest);
    if (rc == 0)
        *out = lower;
    return rc;
}

int lz_union_content(struct lz_union *self, const struct lz_place *place, const struct lz_share *share,
                     struct lz_bytes_at *out, bool *owned, struct lz_detail *detail)
{
    struct lz_blocks_lower lower;
    int rc = lz_union_blocks_lower(self, place, share, &lower, owned, detail);
    if (rc == 0)
        *out = lower.at;
    return rc;
}

void lz_union_origin(const struct lz_place *place, struct lz_origin *out)
{
    const struct lz_union_info *info = &place->info;
    *out = (struct lz_origin){.device = info->device, .number = info->number};
    if (info->entry >= 0)
        memcpy(&out->check, info->digest, sizeof out->check);
    else
        out->check = (uint64_t)info->mtime.tv_sec * 1000000000u + (uint64_t)info->mtime.tv_nsec;
}
