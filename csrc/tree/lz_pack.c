#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "../bytes/lz_mark.h"
#include "lz_kind.h"
#include "lz_list.h"
#include "lz_packer.h"

/* The packer's ctx: where the contents of a walk over directories are. */
struct contents {
    const struct lz_diff_source *source;
};

static int set_name(struct lz_packer *packer, const char *before, const char *path, size_t size)
{
    struct lz_buf *name = &packer->name;
    name->size = 0;
    int rc = 0;
    if (before != NULL)
        rc = lz_buf_append(name, before, strlen(before));
    if (rc == 0 && before != NULL && size > 0)
        rc = lz_buf_append(name, "/", 1);
    if (rc == 0)
        rc = lz_buf_append(name, path, size);
    if (rc == 0 && name->size == 0)
        rc = lz_buf_append(name, ".", 1); /* the root itself */
    if (rc == 0)
        rc = lz_buf_append_zeros(name, 1);
    if (rc == 0)
        name->size--;
    return rc;
}

static struct lz_tar_entry tar_entry(const struct lz_packer *packer, const struct lz_walk_node *node)
{
    const struct lz_pack_options *options = packer->options;
    struct lz_tar_entry entry = {.type = lz_kind_to_tar(node->kind),
                                 .path = (const char *)packer->name.data,
                                 .path_size = packer->name.size,
                                 .mode = node->mode,
                                 .uid = node->uid,
                                 .gid = node->gid,
                                 .mtime = node->mtime,
                                 .mtime_nsec = node->mtime_nsec,
                                 .major = node->major,
                                 .minor = node->minor};
    if (options != NULL && options->clamp_mtime && entry.mtime >= options->max_mtime) {
        entry.mtime = options->max_mtime;
        entry.mtime_nsec = 0;
    }
    return entry;
}

int lz_packer_header(struct lz_packer *packer, const struct lz_tar_entry *entry)
{
    int rc = lz_tar_write_entry(entry, &packer->sink.buf, packer->detail);
    return rc == 0 ? lz_sink_check(&packer->sink) : rc;
}

/* ---- marks ---- */

/* `.wh.NAME` beside a name, or `.wh..wh..opq` inside a directory. All attributes are zero: only the name speaks. */
static int write_mark(struct lz_packer *packer, const struct lz_walk_node *node)
{
    const char *path = node->path;
    const char *slash = memrchr(path, '/', node->path_size);
    size_t above = slash != NULL ? (size_t)(slash - path) + 1 : 0;
    struct lz_buf *name = &packer->name;
    name->size = 0;
    int rc = lz_buf_reserve(name, node->path_size + sizeof "/.wh..wh..opq");
    if (rc != 0)
        return rc;
    if (node->event == LZ_WALK_OPAQUE) {
        (void)lz_buf_append(name, path, node->path_size);
        (void)lz_buf_append(name, "/.wh..wh..opq", sizeof "/.wh..wh..opq");
    } else {
        (void)lz_buf_append(name, path, above);
        (void)lz_buf_append(name, ".wh.", 4);
        (void)lz_buf_append(name, path + above, node->path_size - above + 1);
    }
    struct lz_tar_entry entry = {.type = LZ_TAR_FILE, .path = (const char *)name->data, .path_size = name->size - 1};
    return lz_packer_header(packer, &entry);
}

static int check_name(struct lz_packer *packer, const struct lz_walk_node *node)
{
    const char *slash = memrchr(node->path, '/', node->path_size);
    const char *name = slash != NULL ? slash + 1 : node->path;
    const char *target;
    size_t target_size;
    if (lz_mark_of_name(name, node->path_size - (size_t)(name - node->path), &target, &target_size) == LZ_MARK_NONE)
        return 0;
    return lz_fail(packer->detail, LZ_E_UNSUPPORTED,
                   "/%s: a layer cannot hold this name: names that begin with .wh. mean deletions there", node->path);
}

/* ---- entries ---- */

static int write_link(struct lz_packer *packer, const struct lz_walk_node *node, const char *target)
{
    struct lz_tar_entry entry = tar_entry(packer, node);
    entry.type = LZ_TAR_HARDLINK;
    entry.major = entry.minor = 0;
    entry.link = target;
    entry.link_size = strlen(target);
    return lz_packer_header(packer, &entry);
}

static int write_file(struct lz_packer *packer, const struct lz_walk_node *node, struct lz_tar_entry *entry)
{
    const struct contents *contents = packer->ctx;
    struct lz_data data = {.fd = -1};
    int rc = lz_data_open(packer->sys, contents->source, node, &data, packer->detail);
    if (rc != 0)
        return packer->detail != NULL && packer->detail->text[0] != 0
                   ? rc
                   : lz_fail(packer->detail, rc, "/%s: opening: %s", node->path, lz_error_text(rc));
    lz_extents_describe(&data.extents, data.size, entry);
    rc = lz_packer_header(packer, entry);
    if (rc == 0)
        rc = lz_data_copy(packer->sys, &data, packer->sha256, node->path, &packer->sink, packer->detail);
    lz_data_close(packer->sys, &data);
    return rc;
}

int lz_packer_write(struct lz_packer *packer, const struct lz_walk_node *node)
{
    if (node->kind == LZ_KIND_SOCKET) /* tar has no word for it, and a socket without its process is of no use */
        return 0;
    int rc = packer->layer ? check_name(packer, node) : 0;
    if (rc == 0)
        rc = set_name(packer, packer->root_name, node->path, node->path_size);
    if (rc != 0)
        return rc;
    const char *first = node->has_links ? lz_links_find(&packer->links, node->link_dev, node->link_number) : NULL;
    if (first != NULL)
        return write_link(packer, node, first);

    struct lz_tar_entry entry = tar_entry(packer, node);
    entry.xattrs = node->xattrs;
    entry.xattr_count = node->xattr_count;
    entry.link = node->target;
    entry.link_size = node->target_size;
    rc = node->kind == LZ_KIND_FILE ? packer->write_file(packer, node, &entry) : lz_packer_header(packer, &entry);
    if (rc != 0)
        return rc;
    if (node->has_links)
        rc = lz_links_add(&packer->links, node->link_dev, node->link_number, (const char *)packer->name.data,
                          packer->name.size);
    return rc;
}

/* Whether the root has other attributes than the lower's, with which a new container's upper begins. */
static bool root_changed(const struct lz_diff_source *source, const struct lz_walk_node *node)
{
    return source->lower == NULL || !lz_walk_same_attributes(source->lower, 0, node);
}

static int pack_upper_node(void *ctx, const struct lz_walk_node *node)
{
    struct lz_packer *packer = ctx;
    const struct contents *contents = packer->ctx;
    if (node->event != LZ_WALK_ENTRY) /* fresh: a mark of a directory above hides it already */
        return node->fresh ? 0 : write_mark(packer, node);
    if (node->path_size == 0 && !root_changed(contents->source, node))
        return 0;
    return lz_packer_write(packer, node);
}

static int pack_tree_node(void *ctx, const struct lz_walk_node *node)
{
    return lz_packer_write(ctx, node);
}

/* ---- the archive ---- */

int lz_packer_begin(struct lz_packer *packer, const struct lz_sys *sys, int out_fd, struct lz_detail *detail)
{
    packer->sys = sys;
    packer->detail = detail;
    packer->sink = (struct lz_sink){.sys = sys, .fd = out_fd};
    if (detail != NULL)
        detail->text[0] = 0;
    return lz_sha256_new(&packer->sha256);
}

int lz_packer_finish(struct lz_packer *packer, int rc, uint64_t *size)
{
    if (rc == 0)
        rc = lz_buf_append_zeros(&packer->sink.buf, (size_t)2 * LZ_TAR_BLOCK);
    if (rc == 0)
        rc = lz_sink_flush(&packer->sink);
    if (rc == 0 && size != NULL)
        *size = packer->sink.total;
    lz_sink_free(&packer->sink);
    lz_links_free(&packer->links);
    lz_buf_free(&packer->name);
    lz_sha256_free(packer->sha256);
    return rc;
}

int lz_pack_upper(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_pack_options *options,
                  int out_fd, uint64_t *size, struct lz_detail *detail)
{
    struct contents contents = {.source = source};
    struct lz_packer packer = {.options = options, .layer = true, .write_file = write_file, .ctx = &contents};
    struct lz_walk_options walk = {.source = source, .layer = true, .attributes = true};
    int rc = lz_packer_begin(&packer, sys, out_fd, detail);
    if (rc == 0)
        rc = lz_walk(sys, &walk, pack_upper_node, &packer, detail);
    return lz_packer_finish(&packer, rc, size);
}

/* A single file handed in as a descriptor, under `root_name`. */
static int pack_file(struct lz_packer *packer, const struct stat *info)
{
    const struct contents *contents = packer->ctx;
    int source_fd = contents->source->upper_fd;
    struct lz_walk_node node = {.path = "", .data = LZ_DATA_UPPER};
    struct lz_attributes attributes = {0};
    struct lz_attributes_rules rules = {.collect = true};
    char target[LZ_PATH_MAX + 1];
    lz_walk_fill(&node, info);
    node.has_links = false;
    if (node.kind == LZ_KIND_SYMLINK) {
        ssize_t got = packer->sys->readlinkat(packer->sys->ctx, source_fd, "", target, sizeof target);
        if (got < 0 || got > (ssize_t)LZ_PATH_MAX)
            return got < 0 ? (int)got : LZ_E_LIMIT;
        target[got] = 0;
        node.target = target;
        node.target_size = (size_t)got;
    }
    int fd = node.kind == LZ_KIND_FILE ? lz_data_reopen(packer->sys, source_fd) : -1;
    int rc = node.kind == LZ_KIND_FILE && fd < 0 ? fd : 0;
    if (fd >= 0)
        rc = lz_attributes_read(packer->sys, fd, "", &rules, &attributes);
    node.fd = &fd;
    node.xattrs = attributes.xattrs;
    node.xattr_count = attributes.xattr_count;
    if (rc == 0)
        rc = lz_packer_write(packer, &node);
    lz_attributes_free(&attributes);
    if (fd >= 0)
        (void)packer->sys->close(packer->sys->ctx, fd);
    return rc;
}

int lz_pack_tree(const struct lz_sys *sys, int source_fd, const char *root_name, bool cross_mounts,
                 const struct lz_pack_options *options, int out_fd, uint64_t *size, struct lz_detail *detail)
{
    struct lz_diff_source source = {.upper_fd = source_fd, .maps_fd = -1, .objects_fd = -1};
    struct contents contents = {.source = &source};
    struct lz_packer packer = {.options = options, .root_name = root_name, .write_file = write_file, .ctx = &contents};
    struct lz_walk_options walk = {.source = &source, .plain = true, .attributes = true, .cross_mounts = cross_mounts};
    struct stat info;
    int rc = lz_packer_begin(&packer, sys, out_fd, detail);
    if (rc == 0)
        rc = sys->fstatat(sys->ctx, source_fd, "", &info, AT_EMPTY_PATH);
    if (rc == 0 && S_ISDIR(info.st_mode))
        rc = lz_walk(sys, &walk, pack_tree_node, &packer, detail);
    else if (rc == 0)
        rc = root_name != NULL ? pack_file(&packer, &info) : -ENOTDIR;
    return lz_packer_finish(&packer, rc, size);
}
