#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lz_packer.h"
#include "lz_union_internal.h"
#include "lz_union_tar.h"

#define AGAIN 1 /* what lz_packer_write() passes on, too */
#define GONE 2

struct walk {
    struct lz_union *self;
    struct lz_packer packer;
    struct lz_buf path; /* of the node at hand, in the union, with a leading slash */
    size_t top_size;    /* so much of it is the caller's; the rest is the name in the archive */
    struct lz_place place;
    struct lz_buf records;
    struct lz_tar_xattr *xattrs;
    size_t xattr_capacity;
    struct lz_buf names; /* of the xattrs, NUL-terminated */
    char target[LZ_PATH_MAX + 1];
};

/* ---- attributes ---- */

/* Makes the records of the place at hand the node's xattrs; they lie in records and names until the next call. */
static int fill_xattrs(struct walk *walk, struct lz_walk_node *node)
{
    walk->records.size = walk->names.size = 0;
    int rc = lz_union_xattrs(walk->self, &walk->place, &walk->records);
    size_t count = 0;
    /* A name with its NUL never needs more than the record it comes from, so names do not move while it is filled. */
    if (rc == 0)
        rc = lz_buf_reserve(&walk->names, walk->records.size);
    for (size_t at = 0; at < walk->records.size && rc == 0; count++) {
        struct lz_xattr_record record;
        memcpy(&record, walk->records.data + at, sizeof record);
        at += sizeof record;
        void *items = walk->xattrs;
        rc = lz_grow(&items, &walk->xattr_capacity, count + 1, sizeof *walk->xattrs);
        if (rc != 0)
            break;
        walk->xattrs = items;
        walk->xattrs[count] = (struct lz_tar_xattr){.name = (const char *)walk->names.data + walk->names.size,
                                                    .name_size = record.name_size,
                                                    .value = walk->records.data + at + record.name_size,
                                                    .value_size = record.value_size};
        (void)lz_buf_append(&walk->names, walk->records.data + at, record.name_size);
        (void)lz_buf_append_zeros(&walk->names, 1);
        at += (size_t)record.name_size + record.value_size;
        at += -at & 3;
    }
    node->xattrs = walk->xattrs;
    node->xattr_count = count;
    return rc;
}

static void fill(struct lz_walk_node *node, const struct lz_union_info *info)
{
    node->event = LZ_WALK_ENTRY;
    node->kind = info->kind;
    node->mode = info->mode & 07777u;
    node->uid = info->uid;
    node->gid = info->gid;
    node->major = info->major;
    node->minor = info->minor;
    node->mtime = info->mtime.tv_sec;
    node->mtime_nsec = (uint32_t)info->mtime.tv_nsec;
    node->size = info->size;
    node->has_links = info->kind != LZ_KIND_DIRECTORY && info->link_count > 1;
    node->link_dev = info->device;
    node->link_number = info->number;
}

/* ---- contents ---- */

static bool is_gone(int rc)
{
    return rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP;
}

static int64_t seek_file(void *ctx, uint64_t at, int whence)
{
    return lz_union_file_seek(ctx, at, whence);
}

static int copy_range(struct lz_packer *packer, struct lz_union_file *file, const char *path, uint64_t offset,
                      uint64_t size)
{
    for (uint64_t end = offset + size; offset < end;) {
        uint8_t *at;
        size_t room;
        int rc = lz_sink_room(&packer->sink, end - offset, &at, &room);
        if (rc != 0)
            return rc;
        ssize_t got = lz_union_file_read(file, at, room, offset);
        if (got < 0)
            return lz_fail(packer->detail, (int)got, "%s: reading: %s", path, lz_error_text((int)got));
        if (got == 0)
            return lz_fail(packer->detail, LZ_E_TRUNCATED, "%s: became shorter while it was read", path);
        packer->sink.buf.size += (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

/* AGAIN: what was opened is another file than the node tells of. */
static int write_open_file(struct lz_packer *packer, const struct lz_walk_node *node, struct lz_union_file *file,
                           const char *path, struct lz_tar_entry *entry)
{
    struct lz_union_info info;
    struct lz_extents extents = {0};
    int rc = lz_union_file_stat(file, &info);
    if (rc == 0 && (info.kind != node->kind || info.device != node->link_dev || info.number != node->link_number))
        return AGAIN;
    if (rc == 0)
        rc = lz_extents_find(info.size, 1, seek_file, file, &extents);
    if (rc == 0) {
        lz_extents_describe(&extents, info.size, entry);
        rc = lz_packer_header(packer, entry);
    }
    if (rc == 0 && !extents.sparse)
        rc = copy_range(packer, file, path, 0, info.size);
    for (size_t i = 0; extents.sparse && i < extents.count && rc == 0; i++)
        rc = copy_range(packer, file, path, extents.items[i].offset, extents.items[i].size);
    if (rc == 0)
        rc = lz_buf_append_zeros(&packer->sink.buf, lz_tar_pad(extents.stored_size));
    lz_extents_free(&extents);
    return rc;
}

static int write_file(struct lz_packer *packer, const struct lz_walk_node *node, struct lz_tar_entry *entry)
{
    struct walk *walk = packer->ctx;
    const char *path = (const char *)walk->path.data;
    struct lz_union_file *file;
    struct lz_detail detail = {{0}};
    int rc = lz_union_open(walk->self, path, walk->path.size, O_RDONLY | O_NOFOLLOW, 0, &file, &detail);
    if (is_gone(rc) && detail.text[0] == 0) /* a missing object has a detail */
        return AGAIN;
    if (rc != 0)
        return detail.text[0] != 0 ? lz_fail(packer->detail, rc, "%s", detail.text)
                                   : lz_fail(packer->detail, rc, "%s: opening: %s", path, lz_error_text(rc));
    rc = write_open_file(packer, node, file, path, entry);
    lz_union_file_close(file);
    return rc;
}

/* ---- the tree ---- */

static int set_path(struct walk *walk, size_t size)
{
    walk->path.size = size;
    int rc = lz_buf_append_zeros(&walk->path, 1);
    if (rc == 0)
        walk->path.size--;
    return rc;
}

static int write_below(struct walk *walk);

static int fill_target(struct walk *walk, struct lz_walk_node *node)
{
    ssize_t got = lz_union_readlink(walk->self, (const char *)walk->path.data, walk->path.size, walk->target,
                                    sizeof walk->target - 1);
    if (got < 0)
        return (int)got;
    walk->target[got] = 0;
    node->target = walk->target;
    node->target_size = (size_t)got;
    return 0;
}

static int fail_here(struct walk *walk, int code)
{
    return lz_fail(walk->packer.detail, code, "%s: %s", (const char *)walk->path.data, lz_error_text(code));
}

static bool at_top(const struct walk *walk)
{
    return walk->path.size == walk->top_size;
}

/* What walk->path is now. AGAIN: one thing for one call and another for the next, and nothing was written. */
static int write_node(struct walk *walk, struct lz_walk_node *node)
{
    *node = (struct lz_walk_node){0};
    int rc = lz_union_walk(walk->self, (const char *)walk->path.data, walk->path.size, LZ_WALK_NOFOLLOW, &walk->place);
    if (rc != 0)
        return is_gone(rc) && !at_top(walk) ? GONE : fail_here(walk, rc);
    fill(node, &walk->place.info);
    rc = fill_xattrs(walk, node);
    if (rc == 0 && node->kind == LZ_KIND_SYMLINK)
        rc = fill_target(walk, node);
    if (rc != 0)
        return is_gone(rc) || (rc == -EINVAL && node->kind == LZ_KIND_SYMLINK) ? AGAIN : fail_here(walk, rc);
    size_t above = walk->top_size + (!at_top(walk) && walk->top_size > 1);
    node->path = (const char *)walk->path.data + above;
    node->path_size = walk->path.size - above;
    return lz_packer_write(&walk->packer, node);
}

/* What walk->path is now, and everything below it. */
static int write_path(struct walk *walk)
{
    struct lz_walk_node node;
    int rc = AGAIN;
    for (unsigned looks = 0; rc == AGAIN && looks < LZ_WALK_LOOKS; looks++)
        rc = write_node(walk, &node);
    if (rc > 0) /* gone since it was listed, or another thing at each look */
        return at_top(walk) ? fail_here(walk, -ENOENT) : 0;
    return rc == 0 && node.kind == LZ_KIND_DIRECTORY ? write_below(walk) : rc;
}

/* As deep as paths are long: LZ_PATH_MAX / 2 calls of 0.5 KiB of stack each at most. */
static int write_below(struct walk *walk)
{
    struct lz_union_list *list;
    size_t size = walk->path.size;
    int rc = lz_union_list(walk->self, (const char *)walk->path.data, size, &list);
    if (is_gone(rc))
        return 0;
    if (rc != 0)
        return lz_fail(walk->packer.detail, rc, "%s: listing: %s", (const char *)walk->path.data, lz_error_text(rc));
    for (size_t i = 0; i < lz_union_list_count(list) && rc == 0; i++) {
        const struct lz_union_name *name = lz_union_list_at(list, i);
        walk->path.size = size;
        rc = size > 1 ? lz_buf_append(&walk->path, "/", 1) : 0;
        if (rc == 0)
            rc = lz_buf_append(&walk->path, name->name, name->size);
        if (rc == 0)
            rc = set_path(walk, walk->path.size);
        if (rc == 0)
            rc = write_path(walk);
    }
    lz_union_list_free(list);
    int reset = set_path(walk, size);
    return rc == 0 ? reset : rc;
}

static int write_top(struct walk *walk, const char *path, size_t size, unsigned flags, const char *root_name)
{
    int rc = lz_union_walk(walk->self, path, size, flags & LZ_UNION_NOFOLLOW, &walk->place);
    const struct lz_place *place = &walk->place;
    if (rc == 0 && place->info.kind != LZ_KIND_DIRECTORY && root_name == NULL)
        rc = -ENOTDIR;
    if (rc == 0 && place->info.kind == LZ_KIND_SOCKET)
        rc = -ENOTSUP;
    if (rc == 0)
        rc = lz_buf_append(&walk->path, "/", 1);
    if (rc == 0)
        rc = lz_buf_append(&walk->path, place->path, place->path_size);
    if (rc == 0)
        rc = set_path(walk, walk->path.size);
    walk->top_size = walk->path.size;
    return rc == 0 ? write_path(walk) : rc;
}

int lz_union_pack(struct lz_union *self, const char *path, size_t size, unsigned flags, const char *root_name,
                  const struct lz_pack_options *options, int out_fd, uint64_t *bytes, struct lz_detail *detail)
{
    struct walk *walk = calloc(1, sizeof *walk);
    if (walk == NULL)
        return -ENOMEM;
    walk->self = self;
    walk->packer =
        (struct lz_packer){.options = options, .root_name = root_name, .write_file = write_file, .ctx = walk};
    lz_place_begin(&walk->place);
    int rc = lz_packer_begin(&walk->packer, self->sys, out_fd, detail);
    if (rc == 0)
        rc = write_top(walk, path, size, flags, root_name);
    rc = lz_packer_finish(&walk->packer, rc, bytes);
    lz_place_end(&walk->place);
    lz_buf_free(&walk->path);
    lz_buf_free(&walk->records);
    lz_buf_free(&walk->names);
    free(walk->xattrs);
    free(walk);
    return rc;
}
