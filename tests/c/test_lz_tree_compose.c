/* Compose: several layers as one, whose effect on whatever lies below is that of all of them. */
#include "tree_script.h"

static struct image composed(const char *const *scripts)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    for (uint32_t i = 0; scripts[i] != NULL; i++) {
        struct image image = layer(scripts[i]);
        CHECK_EQ(lz_tree_compose(tree, &image.index, 0, NULL, NULL), 0);
        free_image(&image);
    }
    return finish_tree(tree, "");
}

/* What is seen of `below` under these layers. */
static char *seen(const char *below, const struct image *layers, size_t count)
{
    struct lz_tree *tree = NULL;
    struct image bottom = layer(below);
    uint8_t diff_id[32] = {1};
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    CHECK_EQ(lz_tree_apply(tree, &bottom.index, diff_id, NULL), 0);
    for (size_t i = 0; i < count; i++)
        CHECK_EQ(lz_tree_apply(tree, &layers[i].index, diff_id, NULL), 0);
    free_image(&bottom);
    struct image image = finish_tree(tree, "");
    char *text = dump(&image.index);
    free_image(&image);
    return text;
}

static void check_compose(const char *expected, const char *const *scripts)
{
    static const char *const belows[] = {
        "",
        "d . 90; d a 91; f a/b 92; d a/d 93; f a/d/e 94; d x 95; f x/y 96",
        "f a 91; s x 92 a",
        "d a 91; d a/b 92; f a/b/c 93; d x 94; d x/y 95; f x/y/z 96",
        "f z 3; h a z; h x z",
    };
    struct image one = composed(scripts), several[4];
    size_t count = 0;
    char *text = dump(&one.index);
    CHECK_STR(text, expected);
    free(text);
    for (; scripts[count] != NULL; count++)
        several[count] = layer(scripts[count]);
    for (size_t i = 0; i < sizeof belows / sizeof *belows; i++) {
        char *left = seen(belows[i], &one, 1), *right = seen(belows[i], several, count);
        CHECK_STR(left, right);
        free(left);
        free(right);
    }
    while (count > 0)
        free_image(&several[--count]);
    free_image(&one);
}
#define COMPOSE(expected, ...) check_compose(expected, (const char *const[]){__VA_ARGS__, NULL})

static void entries(void)
{
    COMPOSE("D . 0 i|F a 2", "f a 1", "f a 2");
    COMPOSE("D . 0 i|F a 1|F b 2", "f a 1", "f b 2");
    COMPOSE("D . 4", "d . 3", "d . 4");
    COMPOSE("D . 3|F a 1", "d . 3", "f a 1");
    COMPOSE("D . 0 i|D a 2|F a/b 1|F a/c 3", "d a 1; f a/b 1", "d a 2; f a/c 3");
    COMPOSE("D . 0 i|D a 1|F a/b 1|F a/c 3", "d a 1; f a/b 1", "f a/c 3"); /* not listed: attributes stay */
    COMPOSE("D . 0 i|D a 1|F a/b 1|F a/c 3", "f a/c 3", "d a 1; f a/b 1");
    COMPOSE("D . 0 i|D a 0 i|F a/b 1|F a/c 3", "f a/b 1", "f a/c 3");
    COMPOSE("D . 0 i|F a 2", "d a 1; f a/b 1", "f a 2");
    COMPOSE("D . 0 i|S a 2> b", "f a 1", "s a 2 b");
}

static void marks(void)
{
    COMPOSE("D . 0 i|W a 0", "f a 1", "w a");
    COMPOSE("D . 0 i|W a 0", "d a 1; f a/b 1", "w a");
    COMPOSE("D . 0 i|F a 2", "w a", "f a 2");
    COMPOSE("D . 0 i|W a 0", "w a", "w a");
    COMPOSE("D . 0 i|D a 2 o", "w a", "d a 2"); /* what the whiteout hid must not come back */
    COMPOSE("D . 0 i|D a 0 o|F a/b 2", "w a", "f a/b 2");
    COMPOSE("D . 0 i|D a 2 o", "f a 1", "d a 2");
    COMPOSE("D . 0 i|D a 0 o|F a/b 2", "f a 1", "f a/b 2");
    COMPOSE("D . 0 i|D a 2 o", "d a 1; f a/b 1; o a", "d a 2; o a");
    COMPOSE("D . 0 i|D a 2 o|F a/b 1", "d a 1; f a/b 1; o a", "d a 2");
    COMPOSE("D . 0 i|D a 1 o|F a/c 2", "d a 1; f a/b 1", "f a/c 2; o a");
    COMPOSE("D . 0 i|D a 0 i o|F a/c 2", "f a/b 1", "f a/c 2; o a");
    COMPOSE("D . 0 i|D a 1 o|W a/b 0", "d a 1; f a/b 1; o a", "w a/b");
    COMPOSE("D . 0 i o|F b 2", "f a 1", "o .; f b 2");
    COMPOSE("D . 3 o|F a 1", "o .; f a 1", "d . 3");
    COMPOSE("D . 0 i|D a 2 o", "w a", "d a 1; f a/b 1", "w a", "d a 2");
    COMPOSE("D . 0 i|D a 0 i|W a/b 0", "f a/b 1", "w a/b");
}

static void links(void)
{
    COMPOSE("D . 0 i|F a 3 2>1|F b 3 2>1", "f a 3; h b a");
    COMPOSE("D . 0 i|F a 3|F b 6", "f a 3; h b a", "f b 6"); /* one name replaced: the other is alone */
    COMPOSE("D . 0 i|F a 3|W b 0", "f a 3; h b a", "w b");
    COMPOSE("D . 0 i|F a 3 2>1|F b 6|F c 3 2>1", "f a 3; h b a; h c a", "f b 6");
    COMPOSE("D . 0 i|F a 3 2>1|F b 3 2>1|F c 6 2>3|F d 6 2>3", "f a 3; h b a", "f c 6; h d c");
    COMPOSE("D . 0 i|S a 3 2>1> x|S b 3 2>1> x|W z 0", "f z 1; w z", "s a 3 x; h b a; w z");
}

/* Some of the entries: the ones that lead to them are there without being listed. */
static void parts(void)
{
    struct image image = layer("d a 1; o a; f a/b 2; d a/c 3; f a/c/d 4; w e");
    struct lz_tree *tree = NULL;
    uint8_t take[7] = {LZ_TAKE_PARENT, LZ_TAKE_PARENT, LZ_TAKE_NONE, LZ_TAKE_NONE, LZ_TAKE_PARENT, LZ_TAKE_ALL, 0};
    CHECK_EQ(image.index.entry_count, 6); /* . a e a/b a/c a/c/d */
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    CHECK_EQ(lz_tree_compose(tree, &image.index, 0, take, NULL), 0);
    struct image part = finish_tree(tree, "");
    char *text = dump(&part.index);
    CHECK_STR(text, "D . 0 i|D a 0 i|D a/c 0 i|F a/c/d 4");
    free(text);
    free_image(&part);
    free_image(&image);
}

int main(void)
{
    RUN(entries);
    RUN(marks);
    RUN(links);
    RUN(parts);
    return check_end();
}
