#include "lz_relayer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes/lz_glob.h"
#include "lz_relayer_internal.h"

/* ---- which entries ---- */

int64_t lz_relayer_match(const struct lz_index *layer, const struct lz_relayer_pattern *patterns, size_t count,
                         uint8_t *matched)
{
    matched[0] = 0;
    for (uint32_t i = 1; i < layer->entry_count; i++) {
        const struct lz_entry *entry = &layer->entries[i];
        matched[i] = matched[entry->parent];
        for (size_t p = 0; !matched[i] && p < count; p++)
            matched[i] = lz_glob_match(patterns[p].text, patterns[p].size, lz_index_path(layer, i), entry->path_size);
    }
    for (uint32_t i = 1; i < layer->entry_count; i++)
        if (matched[i] && layer->entries[i].kind != LZ_KIND_DIRECTORY)
            matched[layer->entries[i].link] = 1;
    int64_t found = 0;
    for (uint32_t i = 1; i < layer->entry_count; i++) {
        if (layer->entries[i].kind != LZ_KIND_DIRECTORY)
            matched[i] |= matched[layer->entries[i].link];
        found += matched[i];
    }
    return found;
}

void lz_relayer_take(const struct lz_index *layer, const uint8_t *matched, bool side, uint8_t *take)
{
    for (uint32_t i = 0; i < layer->entry_count; i++) {
        /* what was not listed is there only for what is in it, which may be in the other part */
        bool listed = (layer->entries[i].flags & (LZ_FLAG_IMPLICIT | LZ_FLAG_OPAQUE)) != LZ_FLAG_IMPLICIT;
        take[i] = (matched[i] != 0) == side && listed ? LZ_TAKE_ALL : LZ_TAKE_NONE;
    }
    for (uint32_t i = layer->entry_count; i-- > 1;) /* parents come before their children */
        if (take[i] != LZ_TAKE_NONE && take[layer->entries[i].parent] == LZ_TAKE_NONE)
            take[layer->entries[i].parent] = LZ_TAKE_PARENT;
}

/* ---- marks ---- */

/* The lower directory that still shows inside a node (by node), or NO_NODE. */
struct inside {
    const struct lz_index *below;
    uint32_t *entries;
};

static uint32_t find_below(const struct lz_relayer *self, const struct inside *inside, uint32_t number)
{
    const struct node *node = &self->tree->nodes[number];
    if (inside->below == NULL || number == 0)
        return inside->below == NULL ? NO_NODE : 0;
    uint32_t parent = inside->entries[node->parent];
    if (parent == NO_NODE)
        return NO_NODE;
    const char *name = (const char *)self->tree->names.data + node->name_offset;
    int64_t found = lz_index_child(inside->below, parent, name, node->entry.name_size);
    return found < 0 ? NO_NODE : (uint32_t)found;
}

static int settle_directory(struct lz_relayer *self, struct inside *inside, uint32_t number, uint32_t lower)
{
    const struct lz_entry *under = lower != NO_NODE ? &inside->below->entries[lower] : NULL;
    bool merges = under != NULL && under->kind == LZ_KIND_DIRECTORY;
    struct lz_entry *entry = &self->tree->nodes[number].entry;
    if (!merges || under->child_count == 0)
        entry->flags &= (uint8_t)~LZ_FLAG_OPAQUE;
    if (number != 0 && (entry->flags & LZ_FLAG_IMPLICIT) != 0 && (!merges || self->plan->list_parents)) {
        uint8_t flags = entry->flags & LZ_FLAG_OPAQUE;
        int rc = merges ? lz_tree_take_entry(self->tree, inside->below, lower, number, 0, self->detail) : 0;
        if (rc != 0)
            return rc;
        entry->flags = flags;
    }
    inside->entries[number] = merges && (entry->flags & LZ_FLAG_OPAQUE) == 0 ? lower : NO_NODE;
    return 0;
}

/* Whiteouts of nothing, opaque marks over nothing, and directories that would not be in the tar, go. `order` has every
 * node after its parent. */
static int settle_marks(struct lz_relayer *self)
{
    struct lz_tree *tree = self->tree;
    struct inside inside = {self->plan->below, lz_alloc_array(tree->count, sizeof *inside.entries)};
    int rc = inside.entries == NULL ? -ENOMEM : 0;
    for (size_t i = 0; rc == 0 && i < self->count; i++) {
        uint32_t number = self->order[i], lower = find_below(self, &inside, number);
        uint8_t kind = tree->nodes[number].entry.kind;
        if (kind == LZ_KIND_DIRECTORY)
            rc = settle_directory(self, &inside, number, lower);
        else if (kind == LZ_KIND_WHITEOUT && lower == NO_NODE)
            lz_tree_drop(tree, number);
    }
    for (size_t i = self->count; rc == 0 && i-- > 1;) {
        struct node *node = &tree->nodes[self->order[i]];
        if (node->parent != NO_NODE && node->entry.kind == LZ_KIND_DIRECTORY && node->first_child == NO_NODE &&
            (node->entry.flags & (LZ_FLAG_IMPLICIT | LZ_FLAG_OPAQUE)) == LZ_FLAG_IMPLICIT)
            lz_tree_drop(tree, self->order[i]);
    }
    free(inside.entries);
    return rc;
}

/* ---- order ---- */

static void list_nodes(struct lz_relayer *self)
{
    self->order[0] = 0;
    self->count = 1;
    for (size_t i = 0; i < self->count; i++)
        for (uint32_t at = self->tree->nodes[self->order[i]].first_child; at != NO_NODE;
             at = self->tree->nodes[at].next_sibling)
            self->order[self->count++] = at;
}

struct named {
    const char *name;
    size_t size;
    uint32_t node;
    bool whiteout;
};

/* The last first, because the one that is pushed last comes next. */
static int by_place(const void *a, const void *b)
{
    const struct named *left = b, *right = a;
    if (left->whiteout != right->whiteout)
        return left->whiteout ? -1 : 1;
    int order = memcmp(left->name, right->name, left->size < right->size ? left->size : right->size);
    return order != 0 ? order : (left->size > right->size) - (left->size < right->size);
}

/* No recursion, whatever the depth: a stack of what is still to come. */
static int put_in_order(struct lz_relayer *self)
{
    const struct lz_tree *tree = self->tree;
    struct named *stack = NULL;
    size_t capacity = 0, waiting = 1;
    self->count = 0;
    int rc = lz_grow((void **)&stack, &capacity, 1, sizeof *stack);
    if (rc == 0)
        stack[0] = (struct named){.node = 0};
    while (rc == 0 && waiting > 0) {
        uint32_t number = stack[--waiting].node;
        size_t first = waiting;
        self->order[self->count++] = number;
        for (uint32_t at = tree->nodes[number].first_child; rc == 0 && at != NO_NODE;
             at = tree->nodes[at].next_sibling) {
            const struct node *child = &tree->nodes[at];
            rc = lz_grow((void **)&stack, &capacity, waiting + 1, sizeof *stack);
            if (rc == 0)
                stack[waiting++] = (struct named){(const char *)tree->names.data + child->name_offset,
                                                  child->entry.name_size, at, child->entry.kind == LZ_KIND_WHITEOUT};
        }
        if (rc == 0 && waiting - first > 1)
            qsort(stack + first, waiting - first, sizeof *stack, by_place);
    }
    free(stack);
    return rc;
}

/* ---- the whole ---- */

static int create(const struct lz_relayer *self, const char *name)
{
    int fd = self->sys->openat(self->sys->ctx, self->plan->staging_fd, name,
                               O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
    return fd < 0 ? lz_fail(self->detail, fd, "creating %s in staging: %s", name, lz_error_text(fd)) : fd;
}

static int gather(struct lz_relayer *self)
{
    const struct lz_relayer_plan *plan = self->plan;
    self->sparse = lz_zalloc_array(plan->layer_count, sizeof *self->sparse);
    int rc = plan->layer_count > 0 && self->sparse == NULL ? -ENOMEM : lz_tree_new(NULL, &self->tree);
    for (size_t i = 0; rc == 0 && i < plan->layer_count; i++) {
        const struct lz_relayer_layer *layer = &plan->layers[i];
        rc = lz_sparse_read(self->sys, layer->recipe_fd, layer->index, &self->sparse[i], self->detail);
        if (rc == 0)
            rc = lz_tree_compose(self->tree, layer->index, (uint32_t)i, layer->take, self->detail);
    }
    if (rc != 0)
        return rc;
    self->order = lz_alloc_array(self->tree->count, sizeof *self->order);
    if (self->order == NULL)
        return -ENOMEM;
    list_nodes(self);
    rc = settle_marks(self);
    return rc == 0 ? put_in_order(self) : rc;
}

static int write_files(struct lz_relayer *self)
{
    const struct lz_sys *sys = self->sys;
    struct lz_index_header header;
    uint32_t entries = 0;
    int index_fd = create(self, "index"), recipe_fd = index_fd < 0 ? index_fd : create(self, "recipe");
    int rc = recipe_fd < 0 ? recipe_fd : lz_relayer_write_tar(self, index_fd, recipe_fd);
    if (rc == 0)
        rc = lz_tree_write(sys, self->tree, index_fd, self->result.inline_bytes, &entries, self->detail);
    if (rc == 0) { /* how many distinct objects there are, the header knows */
        ssize_t got = lz_pread_full(sys, index_fd, &header, sizeof header, 0);
        rc = got == (ssize_t)sizeof header ? 0 : got < 0 ? (int)got : -EIO;
    }
    int closed = index_fd >= 0 ? sys->close(sys->ctx, index_fd) : 0;
    rc = rc == 0 ? closed : rc;
    closed = recipe_fd >= 0 ? sys->close(sys->ctx, recipe_fd) : 0;
    rc = rc == 0 ? closed : rc;
    if (rc != 0)
        return rc;
    self->result.entry_count = entries;
    self->result.object_count = header.objects.size / sizeof(struct lz_object_ref);
    return 0;
}

int lz_relayer_write(const struct lz_sys *sys, const struct lz_relayer_plan *plan, struct lz_relayer_result *result,
                     struct lz_detail *detail)
{
    struct lz_detail own;
    struct lz_relayer self = {.sys = sys, .plan = plan, .detail = detail != NULL ? detail : &own};
    self.detail->text[0] = 0;
    int rc = gather(&self);
    if (rc == 0)
        rc = write_files(&self);
    for (size_t i = 0; self.sparse != NULL && i < plan->layer_count; i++)
        lz_sparse_free(&self.sparse[i]);
    free(self.sparse);
    free(self.order);
    lz_tree_free(self.tree);
    if (rc == 0)
        *result = self.result;
    else if (self.detail->text[0] == 0)
        (void)lz_fail(self.detail, rc, "writing the new layer: %s", lz_error_text(rc));
    return rc;
}
