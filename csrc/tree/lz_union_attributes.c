#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "../bytes/lz_mark.h"
#include "lz_kind.h"
#include "lz_list.h"
#include "lz_union_look.h"

#define LIST_MAX 65536u /* XATTR_LIST_MAX */

/* ---- attributes ---- */

void lz_union_info_of_entry(const struct lz_union *self, uint32_t branch, uint32_t number, struct lz_union_info *out)
{
    const struct lz_entry *entry = &self->lowers[branch].index->entries[number];
    struct timespec time = {.tv_sec = entry->mtime, .tv_nsec = (long)entry->mtime_nsec};
    *out = (struct lz_union_info){
        .kind = (enum lz_kind)entry->kind,
        .mode = entry->mode,
        .uid = entry->uid,
        .gid = entry->gid,
        .major = entry->major,
        .minor = entry->minor,
        .link_count = entry->link_count,
        .size = entry->size,
        .atime = time,
        .mtime = time,
        .ctime = time,
        .branch = branch,
        .entry = number,
        .data_branch = branch,
        .data_entry = number,
        .has_digest = entry->kind == LZ_KIND_FILE,
        .device = UINT64_MAX - branch, /* no st_dev: the kernel's are 32 bits */
        .number = (uint64_t)entry->link + 1,
    };
    if (out->has_digest)
        memcpy(out->digest, entry->digest, sizeof out->digest);
}

void lz_union_info_of_stat(const struct stat *info, uint32_t branch, struct lz_union_info *out)
{
    bool device = S_ISCHR(info->st_mode) || S_ISBLK(info->st_mode);
    *out = (struct lz_union_info){
        .kind = lz_kind_of_mode(info->st_mode),
        .mode = info->st_mode,
        .uid = info->st_uid,
        .gid = info->st_gid,
        .major = device ? major(info->st_rdev) : 0,
        .minor = device ? minor(info->st_rdev) : 0,
        .link_count = (uint32_t)info->st_nlink,
        .size = S_ISREG(info->st_mode) || S_ISLNK(info->st_mode) ? (uint64_t)info->st_size : 0,
        .atime = info->st_atim,
        .mtime = info->st_mtim,
        .ctime = info->st_ctim,
        .branch = branch,
        .entry = -1,
        .data_branch = branch,
        .data_entry = -1,
        .device = info->st_dev,
        .number = info->st_ino,
    };
}

/* ---- of a path ---- */

int lz_union_stat(struct lz_union *self, const char *path, size_t size, unsigned flags, struct lz_union_info *out)
{
    struct lz_place place;
    lz_place_begin(&place);
    int rc = lz_union_walk(self, path, size, flags & LZ_UNION_NOFOLLOW, &place);
    bool merged = rc == 0 && place.info.kind == LZ_KIND_DIRECTORY && place.share_count + place.in_upper > 1;
    if (merged)
        rc = lz_union_count_links(self, &place, &place.info.link_count);
    if (rc == 0)
        *out = place.info;
    lz_place_end(&place);
    return rc;
}

ssize_t lz_union_realpath(struct lz_union *self, const char *path, size_t size, char out[LZ_PATH_MAX + 1])
{
    struct lz_place place;
    lz_place_begin(&place);
    int rc = lz_union_walk(self, path, size, LZ_WALK_MAY_MISS, &place);
    if (rc == 0)
        memcpy(out, place.path, place.path_size + 1);
    lz_place_end(&place);
    return rc == 0 ? (ssize_t)place.path_size : rc;
}

/* ---- where a place's name and attributes lie on disk ---- */

/* The share that gives the attributes of a place that is not in the upper. */
static const struct lz_share *attributes_share(const struct lz_place *place)
{
    if (place->borrows)
        return &place->owner;
    for (size_t i = 0; i < place->share_count; i++)
        if (place->shares[i].branch == place->info.branch)
            return &place->shares[i];
    return NULL;
}

/* Of a place in a directory: its parent as O_PATH descriptor, to be closed, and its name there ("." for the root). */
static int open_parent(struct lz_union *self, const struct lz_place *place, const char **name)
{
    const char *path = place->path;
    size_t size = place->path_size;
    int dir_fd = self->upper_fd;
    if (!place->in_upper) {
        const struct lz_share *share = attributes_share(place);
        if (share == NULL)
            return -ENOENT;
        path = (const char *)place->text.data + share->path_offset;
        size = strlen(path);
        dir_fd = self->lowers[share->branch].fd;
    }
    const char *slash = size > 0 ? memrchr(path, '/', size) : NULL;
    char parent[LZ_PATH_MAX + 1];
    size_t parent_size = slash != NULL ? (size_t)(slash - path) : 0;
    memcpy(parent, path, parent_size);
    parent[parent_size] = 0;
    *name = size == 0 ? "." : slash != NULL ? slash + 1 : path;
    return lz_union_beneath(self, dir_fd, parent, O_PATH | O_DIRECTORY);
}

static bool in_index(const struct lz_place *place)
{
    return !place->in_upper && place->info.entry >= 0;
}

static bool has_marks(const struct lz_union *self, const struct lz_place *place)
{
    return place->in_upper || self->lowers[place->info.branch].marks;
}

ssize_t lz_union_readlink(struct lz_union *self, const char *path, size_t size, char *out, size_t capacity)
{
    struct lz_place place;
    lz_place_begin(&place);
    ssize_t got = lz_union_walk(self, path, size, LZ_WALK_NOFOLLOW, &place);
    if (got == 0 && place.info.kind != LZ_KIND_SYMLINK)
        got = -EINVAL;
    if (got == 0 && in_index(&place)) {
        const struct lz_index *index = self->lowers[place.info.branch].index;
        got = (ssize_t)place.info.size;
        memcpy(out, lz_index_target(index, (uint32_t)place.info.entry),
               (size_t)got < capacity ? (size_t)got : capacity);
    } else if (got == 0) {
        char target[LZ_PATH_MAX + 2];
        const char *name;
        int fd = open_parent(self, &place, &name);
        got = fd < 0 ? fd : self->sys->readlinkat(self->sys->ctx, fd, name, target, sizeof target);
        if (fd >= 0)
            (void)self->sys->close(self->sys->ctx, fd);
        if (got > 0)
            memcpy(out, target, (size_t)got < capacity ? (size_t)got : capacity);
    }
    lz_place_end(&place);
    return got;
}

/* ---- xattrs ---- */

static int put_record(struct lz_buf *records, const struct lz_tar_xattr *xattr)
{
    if (xattr->name_size > LZ_XATTR_NAME_MAX || xattr->value_size > LZ_XATTR_VALUE_MAX)
        return -ERANGE;
    struct lz_xattr_record record = {.value_size = (uint32_t)xattr->value_size,
                                     .name_size = (uint16_t)xattr->name_size};
    int rc = lz_buf_append(records, &record, sizeof record);
    if (rc == 0)
        rc = lz_buf_append(records, xattr->name, xattr->name_size);
    if (rc == 0)
        rc = lz_buf_append(records, xattr->value, xattr->value_size);
    return rc != 0 ? rc : lz_buf_append_zeros(records, -records->size & 3);
}

int lz_union_xattrs(struct lz_union *self, const struct lz_place *place, struct lz_buf *records)
{
    records->size = 0;
    if (in_index(place)) {
        const struct lz_index *index = self->lowers[place->info.branch].index;
        const struct lz_entry *entry = &index->entries[place->info.entry];
        return lz_buf_append(records, index->xattrs + entry->xattr_offset, entry->xattr_size);
    }
    if (place->share_count == 0 && !place->in_upper) /* the root of a union of nothing */
        return 0;
    const char *name;
    int fd = open_parent(self, place, &name);
    if (fd < 0)
        return fd;
    struct lz_attributes attributes = {0};
    struct lz_attributes_rules rules = {
        .overlay = has_marks(self, place), .user_xattr = self->user_xattr, .collect = true};
    int rc = lz_attributes_read(self->sys, fd, name, &rules, &attributes);
    for (size_t i = 0; i < attributes.xattr_count && rc == 0; i++)
        rc = put_record(records, &attributes.xattrs[i]);
    lz_attributes_free(&attributes);
    (void)self->sys->close(self->sys->ctx, fd);
    return rc;
}

static ssize_t list_index(const struct lz_index *index, uint32_t entry, char *out, size_t capacity)
{
    struct lz_xattr xattr;
    size_t size = 0;
    for (uint32_t cursor = 0; lz_index_next_xattr(index, entry, &cursor, &xattr) == 1;) {
        if (capacity > 0) {
            if (xattr.name_size + 1 > capacity - size)
                return -ERANGE;
            memcpy(out + size, xattr.name, xattr.name_size);
            out[size + xattr.name_size] = 0;
        }
        size += xattr.name_size + 1;
    }
    return (ssize_t)size;
}

/* The names that a listxattr gave, as the user sees them; they never get longer. */
static size_t plain_names(const struct lz_union *self, bool marks, char *list, size_t size)
{
    size_t kept = 0;
    for (size_t at = 0; at < size;) {
        char *name = list + at, plain[LZ_XATTR_NAME_MAX + 1];
        size_t length = strlen(name);
        at += length + 1;
        enum lz_overlay_xattr kind = marks ? lz_overlay_xattr_kind(name, self->user_xattr) : LZ_OVERLAY_NONE;
        if ((kind != LZ_OVERLAY_NONE && kind != LZ_OVERLAY_ESCAPED) || strcmp(name, "security.selinux") == 0)
            continue;
        if (kind == LZ_OVERLAY_ESCAPED) {
            length = (size_t)lz_overlay_xattr_unescape(name, self->user_xattr, plain, sizeof plain);
            name = plain;
        }
        memmove(list + kept, name, length + 1);
        kept += length + 1;
    }
    return kept;
}

static ssize_t list_directory(struct lz_union *self, const struct lz_place *place, char *out, size_t capacity)
{
    const char *name;
    char *list = malloc(LIST_MAX);
    int fd = list != NULL ? open_parent(self, place, &name) : -ENOMEM;
    ssize_t size = fd < 0 ? fd : self->sys->listxattrat(self->sys->ctx, fd, name, list, LIST_MAX);
    if (fd >= 0)
        (void)self->sys->close(self->sys->ctx, fd);
    if (size == -EOPNOTSUPP)
        size = 0;
    if (size > 0)
        size = (ssize_t)plain_names(self, has_marks(self, place), list, (size_t)size);
    if (size > 0 && capacity > 0 && (size_t)size > capacity)
        size = -ERANGE;
    if (size > 0 && capacity > 0)
        memcpy(out, list, (size_t)size);
    free(list);
    return size;
}

ssize_t lz_union_listxattr(struct lz_union *self, const char *path, size_t size, unsigned flags, char *out,
                           size_t capacity)
{
    struct lz_place place;
    lz_place_begin(&place);
    ssize_t got = lz_union_walk(self, path, size, flags & LZ_UNION_NOFOLLOW, &place);
    if (got == 0 && in_index(&place))
        got = list_index(self->lowers[place.info.branch].index, (uint32_t)place.info.entry, out, capacity);
    else if (got == 0 && (place.in_upper || place.share_count > 0))
        got = list_directory(self, &place, out, capacity);
    lz_place_end(&place);
    return got;
}

static bool has_namespace(const char *name)
{
    static const char *const prefixes[] = {"user.", "trusted.", "security.", "system."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static ssize_t get_index(const struct lz_index *index, uint32_t entry, const char *name, void *out, size_t capacity)
{
    struct lz_xattr xattr;
    size_t size = strlen(name);
    for (uint32_t cursor = 0; lz_index_next_xattr(index, entry, &cursor, &xattr) == 1;) {
        if (xattr.name_size != size || memcmp(xattr.name, name, size) != 0)
            continue;
        if (capacity > 0 && xattr.value_size > capacity)
            return -ERANGE;
        if (capacity > 0)
            memcpy(out, xattr.value, xattr.value_size);
        return (ssize_t)xattr.value_size;
    }
    return -ENODATA;
}

static ssize_t get_directory(struct lz_union *self, const struct lz_place *place, const char *xattr, void *out,
                             size_t capacity)
{
    char escaped[LZ_XATTR_NAME_MAX + 1];
    const char *name;
    if (strcmp(xattr, "security.selinux") == 0)
        return -ENODATA;
    if (has_marks(self, place)) {
        if (lz_overlay_xattr_escape(xattr, self->user_xattr, escaped, sizeof escaped) < 0)
            return -ENODATA; /* so long that the upper could not hold it */
        xattr = escaped;
    }
    int fd = open_parent(self, place, &name);
    if (fd < 0)
        return fd;
    ssize_t got = self->sys->getxattrat(self->sys->ctx, fd, name, xattr, out, capacity);
    (void)self->sys->close(self->sys->ctx, fd);
    return got;
}

ssize_t lz_union_getxattr(struct lz_union *self, const char *path, size_t size, unsigned flags, const char *name,
                          void *out, size_t capacity)
{
    size_t name_size = strlen(name);
    struct lz_place place;
    lz_place_begin(&place);
    ssize_t got = lz_union_walk(self, path, size, flags & LZ_UNION_NOFOLLOW, &place);
    if (got == 0 && (name_size == 0 || name_size > LZ_XATTR_NAME_MAX))
        got = -ERANGE;
    if (got == 0 && !has_namespace(name))
        got = -EOPNOTSUPP;
    if (got == 0 && in_index(&place))
        got = get_index(self->lowers[place.info.branch].index, (uint32_t)place.info.entry, name, out, capacity);
    else if (got == 0)
        got = place.in_upper || place.share_count > 0 ? get_directory(self, &place, name, out, capacity) : -ENODATA;
    lz_place_end(&place);
    return got;
}
