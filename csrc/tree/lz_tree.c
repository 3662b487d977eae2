#include "lz_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lz_kind.h"
#include "lz_tree_internal.h"

static const struct lz_tree_limits default_limits = {
    .max_entries = 16u << 20,
    .max_text = 1u << 30,
    .max_xattrs = 512u << 20,
};

static const char *name_of(const struct lz_tree *tree, const struct node *node)
{
    return (const char *)tree->names.data + node->name_offset;
}

static uint32_t hash_of(uint32_t parent, const char *name, size_t size)
{
    return (uint32_t)XXH3_64bits_withSeed(name, size, parent);
}

uint32_t lz_tree_find_child(const struct lz_tree *tree, uint32_t parent, const char *name, size_t size)
{
    uint32_t at = tree->heads[hash_of(parent, name, size) & tree->head_mask];
    for (; at != NO_NODE; at = tree->nodes[at].hash_next) {
        const struct node *node = &tree->nodes[at];
        if (node->parent == parent && node->entry.name_size == size && memcmp(name_of(tree, node), name, size) == 0)
            return at;
    }
    return NO_NODE;
}

/* Doubles the hash when it is as full as it has heads. */
static int grow_hash(struct lz_tree *tree)
{
    if (tree->count < tree->head_mask)
        return 0;
    uint32_t mask = tree->head_mask * 2 + 1;
    uint32_t *heads = lz_alloc_array((size_t)mask + 1, sizeof *heads);
    if (heads == NULL)
        return -ENOMEM;
    memset(heads, 0xff, ((size_t)mask + 1) * sizeof *heads);
    for (uint32_t i = 1; i < tree->count; i++) {
        struct node *node = &tree->nodes[i];
        if (node->parent == NO_NODE)
            continue; /* dropped */
        uint32_t *head = &heads[hash_of(node->parent, name_of(tree, node), node->entry.name_size) & mask];
        node->hash_next = *head;
        *head = i;
    }
    free(tree->heads);
    tree->heads = heads;
    tree->head_mask = mask;
    return 0;
}

static int check_text(const struct lz_tree *tree, size_t size, struct lz_detail *detail)
{
    if (size <= tree->limits.max_text - tree->names.size)
        return 0;
    return lz_fail(detail, LZ_E_LIMIT, "names and symlink targets of more than %llu bytes",
                   (unsigned long long)tree->limits.max_text);
}

int lz_tree_new_child(struct lz_tree *tree, uint32_t parent, const char *name, size_t size, uint32_t *out,
                      struct lz_detail *detail)
{
    if (tree->count >= tree->limits.max_entries)
        return lz_fail(detail, LZ_E_LIMIT, "more than %llu entries", (unsigned long long)tree->limits.max_entries);
    void *nodes = tree->nodes;
    int rc = lz_grow(&nodes, &tree->capacity, tree->count + 1, sizeof *tree->nodes);
    tree->nodes = nodes;
    if (rc == 0)
        rc = grow_hash(tree);
    size_t name_offset = tree->names.size;
    if (rc == 0)
        rc = check_text(tree, size, detail);
    if (rc == 0)
        rc = lz_buf_append(&tree->names, name, size);
    if (rc != 0)
        return rc;
    uint32_t number = (uint32_t)tree->count++;
    uint32_t *head = &tree->heads[hash_of(parent, name, size) & tree->head_mask];
    uint32_t *sibling = &tree->nodes[parent].first_child;
    tree->nodes[number] = (struct node){.entry = {.name_size = (uint16_t)size},
                                        .parent = parent,
                                        .name_offset = (uint32_t)name_offset,
                                        .hash_next = *head,
                                        .first_child = NO_NODE,
                                        .next_sibling = *sibling,
                                        .previous_sibling = NO_NODE};
    if (*sibling != NO_NODE)
        tree->nodes[*sibling].previous_sibling = number;
    *sibling = number;
    *head = number;
    *out = number;
    return 0;
}

void lz_tree_drop(struct lz_tree *tree, uint32_t number)
{
    struct node *node = &tree->nodes[number];
    uint32_t *link = &tree->heads[hash_of(node->parent, name_of(tree, node), node->entry.name_size) & tree->head_mask];
    while (*link != number)
        link = &tree->nodes[*link].hash_next;
    *link = node->hash_next;
    if (node->previous_sibling != NO_NODE)
        tree->nodes[node->previous_sibling].next_sibling = node->next_sibling;
    else
        tree->nodes[node->parent].first_child = node->next_sibling;
    if (node->next_sibling != NO_NODE)
        tree->nodes[node->next_sibling].previous_sibling = node->previous_sibling;
    node->parent = NO_NODE;
}

void lz_tree_drop_children(struct lz_tree *tree, uint32_t number)
{
    tree->trail.count = 0;
    while (tree->nodes[number].first_child != NO_NODE)
        lz_tree_drop(tree, tree->nodes[number].first_child);
}

void lz_tree_make_implicit(struct node *node)
{
    uint16_t name_size = node->entry.name_size;
    node->entry = (struct lz_entry){.kind = LZ_KIND_DIRECTORY,
                                    .mode = S_IFDIR | 0755,
                                    .flags = LZ_FLAG_IMPLICIT,
                                    .link_count = 2,
                                    .name_size = name_size};
    node->group = 0;
}

/* Numbers and positions of the index have 32 bits. */
static uint64_t limit(uint64_t asked, uint64_t fallback)
{
    uint64_t value = asked != 0 ? asked : fallback;
    return value < UINT32_MAX - 1 ? value : UINT32_MAX - 1;
}

int lz_tree_new(const struct lz_tree_limits *limits, struct lz_tree **out)
{
    struct lz_tree *tree = calloc(1, sizeof *tree);
    if (tree == NULL)
        return -ENOMEM;
    static const struct lz_tree_limits none;
    limits = limits != NULL ? limits : &none;
    tree->limits = (struct lz_tree_limits){
        .max_entries = limit(limits->max_entries, default_limits.max_entries),
        .max_text = limit(limits->max_text, default_limits.max_text),
        .max_xattrs = limit(limits->max_xattrs, default_limits.max_xattrs),
    };
    tree->head_mask = 1023;
    tree->heads = lz_alloc_array(1024, sizeof *tree->heads);
    tree->nodes = lz_alloc_array(256, sizeof *tree->nodes);
    if (tree->heads == NULL || tree->nodes == NULL) {
        lz_tree_free(tree);
        return -ENOMEM;
    }
    memset(tree->heads, 0xff, 1024 * sizeof *tree->heads);
    tree->capacity = 256;
    tree->count = 1;
    tree->nodes[0] = (struct node){.parent = 0,
                                   .hash_next = NO_NODE,
                                   .first_child = NO_NODE,
                                   .next_sibling = NO_NODE,
                                   .previous_sibling = NO_NODE};
    lz_tree_make_implicit(&tree->nodes[0]);
    *out = tree;
    return 0;
}

void lz_tree_free(struct lz_tree *tree)
{
    if (tree == NULL)
        return;
    free(tree->nodes);
    free(tree->heads);
    free(tree->objects);
    free(tree->layers);
    lz_buf_free(&tree->names);
    lz_buf_free(&tree->xattrs);
    free(tree);
}

/* A name that must be a directory, because something lies or is hidden in it. */
static int enter(struct lz_tree *tree, uint32_t *number, const char *path, size_t size, struct lz_detail *detail)
{
    struct node *node = &tree->nodes[*number];
    if (node->entry.kind == LZ_KIND_DIRECTORY)
        return 0;
    if (node->entry.kind != LZ_KIND_WHITEOUT)
        return lz_fail(detail, LZ_E_UNSAFE, "'%s': its parent '%.*s' is a %s of the same layer, not a directory", path,
                       (int)size, path, node->entry.kind == LZ_KIND_SYMLINK ? "symlink" : "file");
    /* whiteout of NAME and something in NAME/: a new directory that has nothing of the lower's */
    lz_tree_make_implicit(node);
    node->entry.flags = LZ_FLAG_OPAQUE;
    return 0;
}

/* Keeps of the trail what `path` has in common with it; returns where in `path` that ends. */
static size_t follow_trail(struct trail *trail, const char *path, size_t size)
{
    size_t count = trail->count, shared = 0;
    size_t most = count == 0 ? 0 : trail->ends[count - 1];
    most = most < size ? most : size;
    while (shared < most && path[shared] == trail->path[shared])
        shared++;
    while (count > 0 && trail->ends[count - 1] > shared)
        count--;
    trail->count = count;
    return count > 0 ? trail->ends[count - 1] : 0;
}

/* The directory that holds the last component of `path`, made on the way; *name_at is where that component begins. */
static int find_parent(struct lz_tree *tree, const char *path, size_t size, uint32_t *parent, size_t *name_at,
                       struct lz_detail *detail)
{
    struct trail *trail = &tree->trail;
    size_t from = follow_trail(trail, path, size);
    uint32_t at = trail->count > 0 ? trail->nodes[trail->count - 1] : 0;
    for (const char *slash; (slash = memchr(path + from, '/', size - from)) != NULL;) {
        size_t length = (size_t)(slash - path) - from;
        uint32_t next = lz_tree_find_child(tree, at, path + from, length);
        if (next == NO_NODE) {
            int rc = lz_tree_new_child(tree, at, path + from, length, &next, detail);
            if (rc != 0)
                return rc;
            lz_tree_make_implicit(&tree->nodes[next]);
        }
        int rc = enter(tree, &next, path, from + length, detail);
        if (rc != 0)
            return rc;
        memcpy(trail->path + from, path + from, length + 1);
        from += length + 1;
        at = next;
        trail->ends[trail->count] = (uint16_t)from;
        trail->nodes[trail->count++] = at;
    }
    *parent = at;
    *name_at = from;
    return 0;
}

/* The node of a path, made when it is missing (*made); its parents are directories afterwards. */
static int reach(struct lz_tree *tree, const char *path, size_t size, uint32_t *out, bool *made,
                 struct lz_detail *detail)
{
    *made = false;
    if (size == 0) {
        *out = 0;
        return 0;
    }
    uint32_t parent = 0;
    size_t from = 0;
    int rc = find_parent(tree, path, size, &parent, &from, detail);
    if (rc != 0)
        return rc;
    uint32_t found = lz_tree_find_child(tree, parent, path + from, size - from);
    if (found == NO_NODE) {
        rc = lz_tree_new_child(tree, parent, path + from, size - from, &found, detail);
        if (rc != 0)
            return rc;
        *made = true;
    }
    *out = found;
    return 0;
}

int lz_tree_check_xattrs(const struct lz_tree *tree, size_t size, struct lz_detail *detail)
{
    if (tree->xattrs.size <= tree->limits.max_xattrs && size <= tree->limits.max_xattrs - tree->xattrs.size)
        return 0;
    return lz_fail(detail, LZ_E_LIMIT, "xattrs of more than %llu bytes", (unsigned long long)tree->limits.max_xattrs);
}

static int append_xattr(struct lz_tree *tree, const struct lz_xattr *xattr, struct lz_detail *detail)
{
    if (xattr->name_size == 0 || xattr->name_size > LZ_XATTR_NAME_MAX || xattr->value_size > LZ_XATTR_VALUE_MAX)
        return lz_fail(detail, LZ_E_LIMIT, "xattr '%.*s': name of %zu bytes, value of %zu (at most %u and %u)",
                       (int)(xattr->name_size < 100 ? xattr->name_size : 100), xattr->name, xattr->name_size,
                       xattr->value_size, LZ_XATTR_NAME_MAX, LZ_XATTR_VALUE_MAX);
    if (memchr(xattr->name, 0, xattr->name_size) != NULL)
        return lz_fail(detail, LZ_E_FORMAT, "xattr '%.*s': its name goes on after a NUL", (int)xattr->name_size,
                       xattr->name);
    int rc = lz_tree_check_xattrs(tree, sizeof(struct lz_xattr_record) + xattr->name_size + xattr->value_size, detail);
    if (rc != 0)
        return rc;
    struct lz_xattr_record record = {.value_size = (uint32_t)xattr->value_size,
                                     .name_size = (uint16_t)xattr->name_size};
    rc = lz_buf_append(&tree->xattrs, &record, sizeof record);
    if (rc == 0)
        rc = lz_buf_append(&tree->xattrs, xattr->name, xattr->name_size);
    if (rc == 0)
        rc = lz_buf_append(&tree->xattrs, xattr->value, xattr->value_size);
    return rc != 0 ? rc : lz_buf_append_zeros(&tree->xattrs, -tree->xattrs.size & 3);
}

int lz_tree_keep_text(struct lz_tree *tree, const char *text, size_t size, uint32_t *offset, struct lz_detail *detail)
{
    int rc = check_text(tree, size, detail);
    if (rc != 0)
        return rc;
    *offset = (uint32_t)tree->names.size;
    return lz_buf_append(&tree->names, text, size);
}

int lz_tree_add(struct lz_tree *tree, const char *path, size_t size, const struct lz_tree_node *given,
                struct lz_detail *detail)
{
    if (given->kind < LZ_KIND_DIRECTORY || given->kind > LZ_KIND_SOCKET ||
        (size == 0 && given->kind != LZ_KIND_DIRECTORY))
        return lz_fail(detail, LZ_E_FORMAT, "'%s': not a kind that can stand here", path);
    if (given->mtime_nsec >= 1000000000)
        return lz_fail(detail, LZ_E_FORMAT, "'%s': a time with %u nanoseconds", path, given->mtime_nsec);
    if (given->kind == LZ_KIND_SYMLINK && (given->target_size == 0 || given->target_size > LZ_PATH_MAX ||
                                           memchr(given->target, 0, given->target_size) != NULL))
        return lz_fail(detail, LZ_E_FORMAT, "'%s': symlink with a target of %zu bytes that no system could hold", path,
                       given->target_size);
    uint32_t number = 0, target_offset = 0;
    size_t xattrs_from = tree->xattrs.size;
    bool made = false;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < given->xattr_count; i++)
        rc = append_xattr(tree, &given->xattrs[i], detail);
    if (rc == 0 && given->kind == LZ_KIND_SYMLINK)
        rc = lz_tree_keep_text(tree, given->target, given->target_size, &target_offset, detail);
    if (rc == 0)
        rc = reach(tree, path, size, &number, &made, detail);
    if (rc != 0)
        return rc;

    struct node *node = &tree->nodes[number];
    bool directory = given->kind == LZ_KIND_DIRECTORY;
    bool was_directory = !made && node->entry.kind == LZ_KIND_DIRECTORY;
    bool opaque = directory && node->hides_lower;
    if (was_directory && !directory)
        lz_tree_drop_children(tree, number);
    node->entry = (struct lz_entry){
        .kind = (uint8_t)given->kind,
        .mode = (uint16_t)(lz_kind_to_mode(given->kind) | (given->mode & 07777)),
        .uid = given->uid,
        .gid = given->gid,
        .major = given->major,
        .minor = given->minor,
        .mtime = given->mtime,
        .mtime_nsec = given->mtime_nsec,
        .size = given->kind == LZ_KIND_FILE      ? given->size
                : given->kind == LZ_KIND_SYMLINK ? given->target_size
                                                 : 0,
        .data_offset = given->kind == LZ_KIND_FILE ? given->data_offset : 0,
        .flags = (uint8_t)(given->kind == LZ_KIND_FILE ? given->flags
                           : opaque                    ? LZ_FLAG_OPAQUE
                                                       : 0),
        .xattr_offset = (uint32_t)xattrs_from,
        .xattr_size = (uint32_t)(tree->xattrs.size - xattrs_from),
        .name_size = node->entry.name_size,
        .link_count = 1,
    };
    if (given->kind == LZ_KIND_FILE)
        memcpy(node->entry.digest, given->digest, sizeof node->entry.digest);
    node->target_offset = target_offset;
    node->group = 0;
    return 0;
}

int lz_tree_link(struct lz_tree *tree, const char *path, size_t size, const char *target, size_t target_size,
                 struct lz_detail *detail)
{
    uint32_t from = 0;
    for (size_t at = 0; from != NO_NODE && at <= target_size;) {
        const char *slash = memchr(target + at, '/', target_size - at);
        size_t length = slash != NULL ? (size_t)(slash - target) - at : target_size - at;
        from = lz_tree_find_child(tree, from, target + at, length);
        at += length + 1;
    }
    if (from == NO_NODE || tree->nodes[from].entry.kind == LZ_KIND_WHITEOUT)
        return lz_fail(detail, LZ_E_FORMAT, "'%s': hard link to '%s', which this layer does not have (before it)", path,
                       target);
    if (tree->nodes[from].entry.kind == LZ_KIND_DIRECTORY)
        return lz_fail(detail, LZ_E_FORMAT, "'%s': hard link to '%s', which is a directory", path, target);
    uint32_t number = 0;
    bool made = false;
    if (size == 0)
        return lz_fail(detail, LZ_E_FORMAT, "the root cannot be a hard link");
    int rc = reach(tree, path, size, &number, &made, detail);
    if (rc != 0 || number == from)
        return rc;
    struct node *node = &tree->nodes[number], *first = &tree->nodes[from];
    if (!made && node->entry.kind == LZ_KIND_DIRECTORY)
        lz_tree_drop_children(tree, number);
    if (first->group == 0)
        first->group = ++tree->groups;
    uint16_t name_size = node->entry.name_size;
    node->entry = first->entry;
    node->entry.name_size = name_size;
    node->target_offset = first->target_offset;
    node->group = first->group;
    return 0;
}

int lz_tree_whiteout(struct lz_tree *tree, const char *path, size_t size, struct lz_detail *detail)
{
    uint32_t number = 0;
    bool made = false;
    if (size == 0)
        return lz_fail(detail, LZ_E_FORMAT, "a whiteout of the root");
    int rc = reach(tree, path, size, &number, &made, detail);
    if (rc != 0)
        return rc;
    struct node *node = &tree->nodes[number];
    if (made)
        node->entry.kind = LZ_KIND_WHITEOUT;
    else if (node->entry.kind == LZ_KIND_DIRECTORY)
        /* what this layer has stays, of the lower's nothing does: not even its attributes */
        node->entry.flags = LZ_FLAG_OPAQUE;
    node->hides_lower = true;
    return 0;
}

int lz_tree_opaque(struct lz_tree *tree, const char *path, size_t size, struct lz_detail *detail)
{
    uint32_t number = 0;
    bool made = false;
    int rc = reach(tree, path, size, &number, &made, detail);
    if (rc != 0)
        return rc;
    if (made)
        lz_tree_make_implicit(&tree->nodes[number]);
    rc = enter(tree, &number, path, size, detail);
    if (rc != 0)
        return rc;
    tree->nodes[number].entry.flags |= LZ_FLAG_OPAQUE;
    tree->nodes[number].hides_lower = true; /* also when a file takes the name and a directory takes it back */
    return 0;
}

int lz_tree_add_object(struct lz_tree *tree, const uint8_t digest[32], uint64_t size)
{
    void *objects = tree->objects;
    int rc = lz_grow(&objects, &tree->object_capacity, tree->object_count + 1, sizeof *tree->objects);
    tree->objects = objects;
    if (rc != 0)
        return rc;
    struct lz_object_ref *object = &tree->objects[tree->object_count++];
    memcpy(object->digest, digest, sizeof object->digest);
    object->size = size;
    return 0;
}
