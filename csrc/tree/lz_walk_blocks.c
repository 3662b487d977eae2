#include <string.h>

#include "lz_data.h"
#include "lz_walk.h"

bool lz_walk_same_attributes(const struct lz_index *lower, uint32_t entry, const struct lz_walk_node *node)
{
    const struct lz_entry *was = &lower->entries[entry];
    if (node->mode != (was->mode & 07777u) || node->uid != was->uid || node->gid != was->gid ||
        node->mtime != was->mtime || node->mtime_nsec != was->mtime_nsec)
        return false;
    struct lz_xattr xattr;
    uint32_t cursor = 0;
    for (size_t i = 0; i < node->xattr_count; i++) {
        const struct lz_tar_xattr *now = &node->xattrs[i];
        if (lz_index_next_xattr(lower, entry, &cursor, &xattr) != 1 || xattr.name_size != now->name_size ||
            xattr.value_size != now->value_size || memcmp(xattr.name, now->name, now->name_size) != 0 ||
            memcmp(xattr.value, now->value, now->value_size) != 0)
            return false;
    }
    return lz_index_next_xattr(lower, entry, &cursor, &xattr) != 1;
}

int lz_walk_blocks(const struct lz_sys *sys, const struct lz_walk_options *options, struct lz_attributes *attributes,
                   struct lz_walk_node *node, struct lz_detail *detail)
{
    if ((int64_t)node->lower != node->before || options->source->objects_fd < 0)
        return 1;
    int rc = lz_data_same(sys, options->source, node, detail);
    if (rc < 0)
        return rc;
    node->same_data = rc == 1;
    if (!node->same_data || node->has_links) /* other names may say that it is a file of its own now */
        return 1;
    struct lz_attributes_rules rules = {.overlay = true, .user_xattr = options->source->user_xattr, .collect = true};
    rc = options->attributes ? 0 : lz_attributes_read(sys, node->dir_fd, node->name, &rules, attributes);
    if (rc != 0)
        return rc;
    node->xattrs = attributes->xattrs;
    node->xattr_count = attributes->xattr_count;
    return !lz_walk_same_attributes(options->source->lower, node->lower, node);
}
