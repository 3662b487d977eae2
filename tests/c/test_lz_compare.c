/* Compare: what became of each path of two views, and the same the other way round. */
#include "tree/lz_compare.h"
#include "tree_script.h"

static struct image merged(const char *script)
{
    struct image one = layer(script);
    struct lz_tree *tree = NULL;
    uint8_t diff_id[32] = {1};
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    CHECK_EQ(lz_tree_apply(tree, &one.index, diff_id, NULL), 0);
    free_image(&one);
    return finish_tree(tree, "");
}

/* "C a 2|A a/b 0|...": change, path, bits. */
static void check(const char *before, const char *after, const char *expected)
{
    struct image left = merged(before), right = merged(after);
    struct lz_compare *compare = NULL;
    struct lz_view_change change;
    char text[4096] = "";
    size_t used = 0;
    int rc;
    CHECK_EQ(lz_compare_new(&left.index, &right.index, &compare), 0);
    while ((rc = lz_compare_next(compare, &change)) == 1) {
        CHECK_EQ(strlen(change.path), change.path_size);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%c %s %u", used > 0 ? "|" : "",
                                 (char)change.change, change.path_size > 0 ? change.path : ".", change.differs);
    }
    CHECK_EQ(rc, 0);
    CHECK_EQ(lz_compare_next(compare, &change), 0);
    CHECK_STR(text, expected);
    lz_compare_free(compare);
    free_image(&left);
    free_image(&right);
}

static void paths(void)
{
    check("d a 1; f a/b 2", "d a 1; f a/b 2", "");
    check("d a 1; f a/b 2", "d a 1; f a/c 2", "D a/b 0|A a/c 0");
    check("f b 1", "d a 1; d a/x 1; f a/x/y 1; f b 1; f c 1", "A a 0|A a/x 0|A a/x/y 0|A c 0");
    check("d a 1; d a/x 1; f a/x/y 1; f b 1; f c 1", "f b 1", "D a 0|D a/x 0|D a/x/y 0|D c 0");
    /* by component: a, what is in it, then a.b */
    check("d . 1", "d . 1; f a.b 1; d a 1; f a/z 1; f ab 1", "A a 0|A a/z 0|A a.b 0|A ab 0");
    check("d . 1; f x 1", "d . 2; f x 1", "C . 32");
    check("", "", "");
}

static void kinds(void)
{
    check("d a 1; f a/b 1", "s a 1 x", "C a 1|D a/b 0");
    check("s a 1 x", "d a 1; f a/b 1", "C a 1|A a/b 0");
    check("s a 1 x", "s a 1 y", "C a 4");
    check("s a 1 x", "s a 1 xx", "C a 4");
    check("f a 3", "f a 6", "C a 34");  /* content and owner: the script makes digests of uids */
    check("f a 3", "f a 4", "C a 162"); /* and xattrs: uid % 3 of them */
    check("c a 1", "f a 1", "C a 129"); /* a file of uid 1 has an xattr, a device has none */
}

static void links(void)
{
    check("f a 3; h b a; f c 3", "f a 3; h b a; f c 3", "");
    check("f a 3; h b a; f c 3", "f a 3; f b 3; h c a", "C b 256|C c 256");
    check("f a 3; h b a; h c a", "f a 3; h b a", "D c 0"); /* of what both have, the same names are linked */
    check("f a 3; h b a; h c a", "f b 3; h c b", "D a 0");
    check("f b 3; h c b", "f a 3; h b a; h c a", "A a 0");
    check("f a 3; h b a; f c 3; h d c", "f a 3; f b 3; h c a; h d b", "C b 256|C c 256|C d 256");
}

static void values(void)
{
    struct image left = merged("d a 1; f a/b 2"), right = merged("d a 1; s a/b 2 x; f c 1");
    struct lz_compare *compare = NULL;
    struct lz_view_change change;
    CHECK_EQ(lz_compare_new(&left.index, &right.index, &compare), 0);
    CHECK_EQ(lz_compare_next(compare, &change), 1);
    CHECK_EQ(change.kind, LZ_KIND_SYMLINK);
    CHECK_EQ(change.old_size, 5);
    CHECK_EQ(change.size, 0);
    CHECK_EQ(lz_compare_next(compare, &change), 1);
    CHECK_EQ(change.kind, LZ_KIND_FILE);
    CHECK_EQ(change.change, LZ_CHANGE_ADDED);
    CHECK_EQ(change.old_size, 0);
    CHECK_EQ(change.size, 5);
    lz_compare_free(compare); /* before its end */
    free_image(&left);
    free_image(&right);
}

static void deep(void)
{
    struct lz_buf script = {0};
    char path[4096] = "";
    for (size_t i = 0; i < 2000; i++)
        memcpy(path + 2 * i, "x/", 3);
    CHECK_EQ(lz_buf_append(&script, "f ", 2), 0);
    CHECK_EQ(lz_buf_append(&script, path, strlen(path)), 0);
    CHECK_EQ(lz_buf_append(&script, "y 3", 4), 0);
    struct image left = merged((const char *)script.data), right = merged("");
    struct lz_compare *compare = NULL;
    struct lz_view_change change;
    int count = 0;
    CHECK_EQ(lz_compare_new(&left.index, &right.index, &compare), 0);
    while (lz_compare_next(compare, &change) == 1)
        count++;
    CHECK_EQ(count, 2001);
    lz_compare_free(compare);
    free_image(&left);
    free_image(&right);
    lz_buf_free(&script);
}

int main(void)
{
    RUN(paths);
    RUN(kinds);
    RUN(links);
    RUN(values);
    RUN(deep);
    return check_end();
}
