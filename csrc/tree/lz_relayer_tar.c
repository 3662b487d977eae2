#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes/lz_digest.h"
#include "lz_kind.h"
#include "lz_recipe.h"
#include "lz_relayer_internal.h"

#define READ_SIZE (256u * 1024)       /* stays in the second-level cache between the two hashes */
#define INLINE_BUFFER (256u * 1024)   /* inline data that is gathered before it is written */
#define STEP_SIZE (8u * 1024 * 1024)  /* tar between two calls of step() */
#define HOLE_STEP (64u * 1024 * 1024) /* the same in a hole, which is hashed but not in the tar */

/* The tar on its way into its digest and its recipe. */
struct tar {
    struct lz_relayer *self;
    struct lz_recipe_writer *recipe;
    struct lz_sha256 *sha256;  /* of the tar */
    struct lz_sha256 *content; /* of the file at hand */
    int index_fd;
    struct lz_buf header, inline_data, scratch;
    uint64_t inline_written, stepped;
    uint8_t *bytes;       /* READ_SIZE */
    uint32_t *firsts;     /* hard-link group -> the node whose name came first, 0: none yet (never the root) */
    uint16_t *path_sizes; /* by node: of directories */
    char path[LZ_PATH_MAX + 1];
    size_t path_size;
};

static int step(struct tar *tar)
{
    const struct lz_relayer_plan *plan = tar->self->plan;
    uint64_t size = tar->self->result.tar_size;
    if (plan->step == NULL || size - tar->stepped < STEP_SIZE)
        return 0;
    tar->stepped = size;
    return plan->step(plan->ctx, size);
}

/* ---- pieces of the tar ---- */

static int put_literal(struct tar *tar, const void *bytes, size_t size)
{
    int rc = lz_sha256_update(tar->sha256, bytes, size);
    tar->self->result.tar_size += size;
    return rc != 0 ? rc : lz_recipe_literal(tar->recipe, bytes, size);
}

static int put_padding(struct tar *tar, uint64_t size)
{
    static const uint8_t zeros[LZ_TAR_BLOCK];
    return put_literal(tar, zeros, lz_tar_pad(size));
}

static int put_header(struct tar *tar, const struct lz_tar_entry *entry)
{
    tar->header.size = 0;
    int rc = lz_tar_write_entry(entry, &tar->header, tar->self->detail);
    return rc != 0 ? rc : put_literal(tar, tar->header.data, tar->header.size);
}

/* ---- names ---- */

/* The path of a node in tar->path. Nodes come after their directory and what else is in it, so the directory's path is
 * still the beginning of the one before. */
static int enter(struct tar *tar, uint32_t number)
{
    const struct lz_tree *tree = tar->self->tree;
    const struct node *node = &tree->nodes[number];
    size_t size = number == 0 ? 0 : tar->path_sizes[node->parent];
    size_t slash = size > 0;
    if (size + slash + node->entry.name_size > LZ_PATH_MAX)
        return lz_fail(tar->self->detail, LZ_E_LIMIT, "a path of more than %u bytes", LZ_PATH_MAX);
    if (slash)
        tar->path[size] = '/';
    if (number != 0)
        memcpy(tar->path + size + slash, tree->names.data + node->name_offset, node->entry.name_size);
    tar->path_size = number == 0 ? 0 : size + slash + node->entry.name_size;
    tar->path[tar->path_size] = 0;
    if (node->entry.kind == LZ_KIND_DIRECTORY)
        tar->path_sizes[number] = (uint16_t)tar->path_size;
    return 0;
}

/* The whole path of any node in tar->scratch, NUL-terminated. */
static int spell(struct tar *tar, uint32_t number, size_t *size)
{
    const struct lz_tree *tree = tar->self->tree;
    size_t all = 0;
    for (uint32_t at = number; at != 0; at = tree->nodes[at].parent)
        all += tree->nodes[at].entry.name_size + 1u;
    tar->scratch.size = 0;
    int rc = lz_buf_append_zeros(&tar->scratch, all);
    if (rc != 0)
        return rc;
    char *text = (char *)tar->scratch.data;
    *size = all - 1;
    for (uint32_t at = number; at != 0; at = tree->nodes[at].parent) {
        const struct node *node = &tree->nodes[at];
        all -= node->entry.name_size + 1u;
        memcpy(text + all, tree->names.data + node->name_offset, node->entry.name_size);
        if (all > 0)
            text[all - 1] = '/';
    }
    return 0;
}

/* ---- marks ---- */

/* `prefix` before the last `base_size` bytes of the path, `suffix` after it. All attributes are zero. */
static int put_mark(struct tar *tar, size_t base_size, const char *prefix, const char *suffix)
{
    struct lz_buf *name = &tar->scratch;
    size_t above = tar->path_size - base_size;
    name->size = 0;
    int rc = lz_buf_append(name, tar->path, above);
    if (rc == 0)
        rc = lz_buf_append(name, prefix, strlen(prefix));
    if (rc == 0)
        rc = lz_buf_append(name, tar->path + above, base_size);
    if (rc == 0)
        rc = lz_buf_append(name, suffix, strlen(suffix) + 1);
    if (rc != 0)
        return rc;
    struct lz_tar_entry entry = {.type = LZ_TAR_FILE, .path = (const char *)name->data, .path_size = name->size - 1};
    if (entry.path_size > LZ_PATH_MAX)
        return lz_fail(tar->self->detail, LZ_E_LIMIT, "/%s: the path is too long for a mark", tar->path);
    return put_header(tar, &entry);
}

static int put_whiteout(struct tar *tar, const struct lz_entry *entry)
{
    if (entry->name_size + 4u <= LZ_NAME_MAX && tar->path_size + 4 <= LZ_PATH_MAX)
        return put_mark(tar, entry->name_size, ".wh.", "");
    /* the other spelling, for names that leave no room for the mark */
    struct lz_tar_entry device = {.type = LZ_TAR_CHAR, .path = tar->path, .path_size = tar->path_size};
    return put_header(tar, &device);
}

/* ---- contents ---- */

static int put_inline(struct tar *tar, struct lz_entry *entry, const struct lz_index *layer)
{
    const uint8_t *bytes = layer->base + LZ_INDEX_INLINE_OFFSET + entry->data_offset;
    struct lz_relayer *self = tar->self;
    entry->data_offset = self->result.inline_bytes;
    int rc = lz_recipe_inline(tar->recipe, entry->data_offset, entry->size);
    if (rc == 0)
        rc = lz_sha256_update(tar->sha256, bytes, entry->size);
    if (rc == 0)
        rc = lz_sha256_update(tar->content, bytes, entry->size);
    if (rc == 0)
        rc = lz_buf_append(&tar->inline_data, bytes, entry->size);
    self->result.inline_bytes += entry->size;
    self->result.tar_size += entry->size;
    return rc;
}

static int flush_inline(struct tar *tar)
{
    const struct lz_sys *sys = tar->self->sys;
    int rc = lz_pwrite_all(sys, tar->index_fd, tar->inline_data.data, tar->inline_data.size,
                           (off_t)(LZ_INDEX_INLINE_OFFSET + tar->inline_written));
    tar->inline_written += tar->inline_data.size;
    tar->inline_data.size = 0;
    return rc != 0 ? lz_fail(tar->self->detail, rc, "writing the layer index: %s", lz_error_text(rc)) : 0;
}

static int open_object(const struct lz_relayer *self, const uint8_t digest[LZ_SHA256_SIZE], char hex[65])
{
    char path[LZ_SHA256_HEX_SIZE + 2];
    lz_hex(digest, hex);
    path[0] = hex[0];
    path[1] = hex[1];
    path[2] = '/';
    memcpy(path + 3, hex + 2, LZ_SHA256_HEX_SIZE - 1);
    int fd = self->sys->openat(self->sys->ctx, self->plan->objects_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    return fd >= 0 ? fd : lz_fail(self->detail, fd, "object sha256:%s: %s", hex, lz_error_text(fd));
}

static int hash_hole(struct tar *tar, uint64_t size)
{
    memset(tar->bytes, 0, size < READ_SIZE ? (size_t)size : READ_SIZE);
    for (uint64_t done = 0; done < size;) {
        size_t now = size - done < READ_SIZE ? (size_t)(size - done) : READ_SIZE;
        int rc = lz_sha256_update(tar->content, tar->bytes, now);
        done += now;
        if (rc == 0 && tar->self->plan->step != NULL && done % HOLE_STEP == 0)
            rc = tar->self->plan->step(tar->self->plan->ctx, tar->self->result.tar_size);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int copy_segment(struct tar *tar, int fd, const struct lz_tar_extent *extent, const char *hex)
{
    struct lz_relayer *self = tar->self;
    for (uint64_t done = 0; done < extent->size;) {
        size_t wanted = extent->size - done < READ_SIZE ? (size_t)(extent->size - done) : READ_SIZE;
        ssize_t got = lz_pread_full(self->sys, fd, tar->bytes, wanted, (off_t)(extent->offset + done));
        if (got < 0)
            return lz_fail(self->detail, (int)got, "object sha256:%s: %s", hex, lz_error_text((int)got));
        if ((size_t)got < wanted)
            return lz_fail(self->detail, LZ_E_CORRUPT, "object sha256:%s: shorter than its layer says", hex);
        int rc = lz_sha256_update(tar->sha256, tar->bytes, wanted);
        if (rc == 0)
            rc = lz_sha256_update(tar->content, tar->bytes, wanted);
        done += wanted;
        self->result.tar_size += wanted;
        if (rc == 0)
            rc = step(tar);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int put_object(struct tar *tar, const struct lz_entry *entry, const struct lz_tar_extent *extents, size_t count)
{
    char hex[LZ_SHA256_HEX_SIZE + 1];
    int fd = open_object(tar->self, entry->digest, hex);
    if (fd < 0)
        return fd;
    uint64_t at = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = hash_hole(tar, extents[i].offset - at);
        if (rc == 0)
            rc = copy_segment(tar, fd, &extents[i], hex);
        if (rc == 0)
            rc = lz_recipe_object(tar->recipe, entry->digest, extents[i].offset, extents[i].size);
        at = extents[i].offset + extents[i].size;
    }
    if (rc == 0)
        rc = hash_hole(tar, entry->size - at);
    (void)tar->self->sys->close(tar->self->sys->ctx, fd); /* it was only read */
    return rc != 0 ? rc : lz_tree_add_object(tar->self->tree, entry->digest, entry->size);
}

static int check_content(struct tar *tar, const struct lz_entry *entry)
{
    uint8_t digest[LZ_SHA256_SIZE];
    int rc = lz_sha256_final(tar->content, digest);
    if (rc != 0 || memcmp(digest, entry->digest, sizeof digest) == 0)
        return rc;
    char found[LZ_SHA256_HEX_SIZE + 1], expected[LZ_SHA256_HEX_SIZE + 1];
    lz_hex(digest, found);
    lz_hex(entry->digest, expected);
    return lz_fail(tar->self->detail, LZ_E_CORRUPT, "/%s: the stored content is sha256:%s, expected sha256:%s",
                   tar->path, found, expected);
}

static int put_file(struct tar *tar, struct lz_entry *entry, struct lz_tar_entry *header)
{
    struct lz_relayer *self = tar->self;
    const struct lz_index *layer = self->plan->layers[entry->layer].index;
    struct lz_tar_extent whole = {0, entry->size};
    const struct lz_tar_extent *extents = &whole;
    const struct lz_sparse_object *sparse = NULL;
    size_t count = 1;
    if ((entry->flags & LZ_FLAG_OBJECT) != 0)
        sparse = lz_sparse_find(&self->sparse[entry->layer], layer, entry->digest);
    header->size = header->stored_size = entry->size;
    if (sparse != NULL) {
        static const struct lz_tar_extent all_hole;
        count = sparse->count;
        extents = count > 0 ? self->sparse[entry->layer].extents + sparse->first : &all_hole;
        header->extents = extents;
        header->extent_count = count;
        header->stored_size = 0;
        for (size_t i = 0; i < count; i++)
            header->stored_size += extents[i].size;
    }
    self->result.content_size += entry->size;
    int rc = put_header(tar, header);
    if (rc == 0 && (entry->flags & LZ_FLAG_INLINE) != 0)
        rc = put_inline(tar, entry, layer);
    else if (rc == 0 && (entry->flags & LZ_FLAG_OBJECT) != 0)
        rc = put_object(tar, entry, extents, count);
    if (rc == 0)
        rc = check_content(tar, entry);
    if (rc == 0)
        rc = put_padding(tar, header->stored_size);
    return rc == 0 && tar->inline_data.size >= INLINE_BUFFER ? flush_inline(tar) : rc;
}

/* ---- entries ---- */

/* The xattrs of an entry in tar->scratch: the records, then names with their NUL. */
static int read_xattrs(struct tar *tar, const struct lz_entry *entry, struct lz_tar_entry *out)
{
    const uint8_t *records = tar->self->tree->xattrs.data + entry->xattr_offset;
    size_t count = 0, text = 0;
    for (uint32_t at = 0; at < entry->xattr_size; count++) {
        struct lz_xattr_record record;
        memcpy(&record, records + at, sizeof record);
        text += record.name_size + 1u;
        at += (uint32_t)((sizeof record + record.name_size + record.value_size + 3) & ~(size_t)3);
    }
    tar->scratch.size = 0;
    int rc = lz_buf_append_zeros(&tar->scratch, count * sizeof(struct lz_tar_xattr) + text);
    if (rc != 0 || count == 0)
        return rc;
    struct lz_tar_xattr *xattrs = (struct lz_tar_xattr *)(void *)tar->scratch.data;
    char *name = (char *)(xattrs + count);
    uint32_t at = 0;
    for (size_t i = 0; i < count; i++) {
        struct lz_xattr_record record;
        memcpy(&record, records + at, sizeof record);
        memcpy(name, records + at + sizeof record, record.name_size);
        xattrs[i] = (struct lz_tar_xattr){name, record.name_size, records + at + sizeof record + record.name_size,
                                          record.value_size};
        name += record.name_size + 1u;
        at += (uint32_t)((sizeof record + record.name_size + record.value_size + 3) & ~(size_t)3);
    }
    out->xattrs = xattrs;
    out->xattr_count = count;
    return 0;
}

static int put_entry(struct tar *tar, struct node *node)
{
    struct lz_relayer *self = tar->self;
    struct lz_entry *entry = &node->entry;
    struct lz_tar_entry header = {.type = lz_kind_to_tar(entry->kind),
                                  .path = tar->path_size > 0 ? tar->path : ".",
                                  .path_size = tar->path_size > 0 ? tar->path_size : 1,
                                  .mode = entry->mode & 07777u,
                                  .uid = entry->uid,
                                  .gid = entry->gid,
                                  .mtime = entry->mtime,
                                  .mtime_nsec = entry->mtime_nsec,
                                  .major = entry->major,
                                  .minor = entry->minor};
    if (entry->kind == LZ_KIND_SOCKET)
        return lz_fail(self->detail, LZ_E_UNSUPPORTED, "/%s: a layer's tar cannot hold a socket", tar->path);
    int rc = read_xattrs(tar, entry, &header);
    if (rc != 0)
        return rc;
    if (entry->kind == LZ_KIND_SYMLINK) {
        header.link = (const char *)self->tree->names.data + node->target_offset;
        header.link_size = entry->size;
    }
    return entry->kind == LZ_KIND_FILE ? put_file(tar, entry, &header) : put_header(tar, &header);
}

static int put_link(struct tar *tar, struct node *node, uint32_t first)
{
    const struct lz_entry *target = &tar->self->tree->nodes[first].entry;
    struct lz_entry *entry = &node->entry;
    struct lz_tar_entry header = {.type = LZ_TAR_HARDLINK,
                                  .path = tar->path,
                                  .path_size = tar->path_size,
                                  .mode = entry->mode & 07777u,
                                  .uid = entry->uid,
                                  .gid = entry->gid,
                                  .mtime = entry->mtime,
                                  .mtime_nsec = entry->mtime_nsec};
    if (entry->kind == LZ_KIND_FILE)
        entry->data_offset = target->data_offset;
    int rc = spell(tar, first, &header.link_size);
    header.link = (const char *)tar->scratch.data;
    return rc != 0 ? rc : put_header(tar, &header);
}

static int put_node(struct tar *tar, uint32_t number)
{
    struct node *node = &tar->self->tree->nodes[number];
    struct lz_entry *entry = &node->entry;
    int rc = enter(tar, number);
    if (rc != 0)
        return rc;
    if (entry->kind == LZ_KIND_WHITEOUT)
        return put_whiteout(tar, entry);
    if (entry->kind == LZ_KIND_DIRECTORY) {
        if ((entry->flags & LZ_FLAG_IMPLICIT) == 0)
            rc = put_entry(tar, node);
        if (rc == 0 && (entry->flags & LZ_FLAG_OPAQUE) != 0)
            rc = put_mark(tar, 0, tar->path_size > 0 ? "/.wh..wh..opq" : ".wh..wh..opq", "");
    } else if (node->group != 0 && tar->firsts[node->group] != 0) {
        rc = put_link(tar, node, tar->firsts[node->group]);
    } else {
        rc = put_entry(tar, node);
        tar->firsts[node->group] = node->group != 0 ? number : 0;
    }
    entry->layer = 0;
    return rc;
}

static int put_nodes(struct tar *tar)
{
    static const uint8_t end[2 * LZ_TAR_BLOCK];
    struct lz_relayer *self = tar->self;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < self->count; i++) {
        rc = put_node(tar, self->order[i]);
        if (rc == 0)
            rc = step(tar);
    }
    if (rc == 0)
        rc = flush_inline(tar);
    if (rc == 0)
        rc = put_literal(tar, end, sizeof end);
    if (rc == 0)
        rc = lz_sha256_final(tar->sha256, self->result.diff_id);
    return rc == 0 ? lz_recipe_finish(tar->recipe, self->result.tar_size, self->result.diff_id) : rc;
}

int lz_relayer_write_tar(struct lz_relayer *self, int index_fd, int recipe_fd)
{
    struct tar *tar = calloc(1, sizeof *tar);
    if (tar == NULL)
        return -ENOMEM;
    tar->self = self;
    tar->index_fd = index_fd;
    tar->bytes = malloc(READ_SIZE);
    tar->firsts = lz_zalloc_array((size_t)self->tree->groups + 1, sizeof *tar->firsts);
    tar->path_sizes = lz_zalloc_array(self->tree->count, sizeof *tar->path_sizes);
    int rc = tar->bytes == NULL || tar->firsts == NULL || tar->path_sizes == NULL ? -ENOMEM : 0;
    if (rc == 0)
        rc = lz_sha256_new(&tar->sha256);
    if (rc == 0)
        rc = lz_sha256_new(&tar->content);
    if (rc == 0)
        rc = lz_recipe_writer_new(self->sys, recipe_fd, &tar->recipe);
    if (rc == 0)
        rc = put_nodes(tar);
    lz_recipe_writer_free(tar->recipe);
    lz_sha256_free(tar->sha256);
    lz_sha256_free(tar->content);
    lz_buf_free(&tar->header);
    lz_buf_free(&tar->inline_data);
    lz_buf_free(&tar->scratch);
    free(tar->bytes);
    free(tar->firsts);
    free(tar->path_sizes);
    free(tar);
    return rc;
}
