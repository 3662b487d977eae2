#include "lz_diff.h"

#include "lz_walk.h"

struct differ {
    int (*report)(void *ctx, const struct lz_change *change);
    void *ctx;
};

static int report_node(void *ctx, const struct lz_walk_node *node)
{
    const struct differ *differ = ctx;
    if (node->path_size == 0 || node->event == LZ_WALK_OPAQUE) /* opaque: its children tell */
        return 0;
    struct lz_change change = {.kind = node->kind, .path = node->path, .path_size = node->path_size, .content = true};
    if (node->event == LZ_WALK_WHITEOUT) {
        change.change = LZ_CHANGE_DELETED;
    } else {
        change.change = node->before >= 0 ? LZ_CHANGE_MODIFIED : LZ_CHANGE_ADDED;
        change.size = node->kind == LZ_KIND_FILE ? node->size : 0;
        if (node->before >= 0)
            change.content = !(node->kind == LZ_KIND_DIRECTORY || node->same_data);
    }
    return differ->report(differ->ctx, &change);
}

int lz_diff(const struct lz_sys *sys, const struct lz_diff_source *source,
            int (*report)(void *ctx, const struct lz_change *change), void *ctx, struct lz_detail *detail)
{
    struct differ differ = {.report = report, .ctx = ctx};
    struct lz_walk_options options = {.source = source};
    return lz_walk(sys, &options, report_node, &differ, detail);
}
