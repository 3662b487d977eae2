/* The tree's rules: inside one layer, whatever the order; between layers; and the file, when the disk says no. */
#include <errno.h>

#include "fault.h"
#include "tree_script.h"

static void check_layer(const char *script, const char *expected)
{
    struct image image = layer(script);
    char *text = dump(&image.index);
    CHECK_STR(text, expected);
    free(text);
    free_image(&image);
}

/* Scripts of layers, the lowest first, NULL at the end. */
static struct image merged(const char *const *scripts, bool part)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    if (part)
        lz_tree_begin_part(tree);
    for (size_t i = 0; scripts[i] != NULL; i++) {
        struct image image = layer(scripts[i]);
        uint8_t diff_id[32] = {[0] = (uint8_t)(i + 1)};
        CHECK_EQ(lz_tree_apply(tree, &image.index, diff_id, NULL), 0);
        free_image(&image);
    }
    return finish_tree(tree, "");
}

static void check_dump(struct image *image, const char *expected)
{
    char *text = dump(&image->index);
    CHECK_STR(text, expected);
    free(text);
    free_image(image);
}

/* The layers at once; and for each cut those below it, then those above it as one, merged as a part of a stack. */
static void check_merge(const char *expected, const char *const *scripts)
{
    struct image image = merged(scripts, false);
    size_t count = 0;
    while (scripts[count] != NULL)
        count++;
    for (size_t cut = 0; cut < count; cut++) {
        struct lz_tree *tree = NULL;
        struct image part = merged(scripts + cut, true);
        CHECK_EQ(lz_tree_new(NULL, &tree), 0);
        for (size_t i = 0; i <= cut; i++) {
            struct image one = layer(scripts[i]);
            CHECK_EQ(
                lz_tree_apply(tree, i < cut ? &one.index : &part.index, (const uint8_t[32]){(uint8_t)(i + 1)}, NULL),
                0);
            free_image(&one);
        }
        struct image again = finish_tree(tree, "");
        check_dump(&again, expected);
        free_image(&part);
    }
    check_dump(&image, expected);
}
#define MERGE(expected, ...) check_merge(expected, (const char *const[]){__VA_ARGS__, NULL})

static int script_code(const char *script)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    int rc = run_script(tree, script);
    lz_tree_free(tree);
    return rc;
}

static void clean_paths(void)
{
    static const char *const cases[][2] = {
        {"", ""},
        {".", ""},
        {"./", ""},
        {"/", ""},
        {"a", "a"},
        {"./a//b/", "a/b"},
        {"/./a/./b", "a/b"},
        {"...", "..."},
        {".a", ".a"},
        {"a/.../b", "a/.../b"},
        {"a\n\xff", "a\n\xff"},
    };
    char out[LZ_PATH_MAX + 1], text[6000];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_EQ(lz_path_clean(cases[i][0], strlen(cases[i][0]), out, NULL), strlen(cases[i][1]));
        CHECK_STR(out, cases[i][1]);
    }
    CHECK_EQ(lz_path_clean("..", 2, out, NULL), LZ_E_UNSAFE);
    CHECK_EQ(lz_path_clean("a/../b", 6, out, NULL), LZ_E_UNSAFE);
    CHECK_EQ(lz_path_clean("a\0b", 3, out, NULL), LZ_E_FORMAT);
    memset(text, 'n', sizeof text);
    CHECK_EQ(lz_path_clean(text, 255, out, NULL), 255);
    CHECK_EQ(lz_path_clean(text, 256, out, NULL), LZ_E_LIMIT);
    for (size_t i = 1; i < sizeof text; i += 2)
        text[i] = '/';
    CHECK_EQ(lz_path_clean(text, 4095, out, NULL), 4095);
    CHECK_EQ(lz_path_clean(text, 4096, out, NULL), 4095); /* a trailing slash */
    CHECK_EQ(lz_path_clean(text, 4097, out, NULL), LZ_E_LIMIT);
}

static void one_layer(void)
{
    check_layer("", "D . 0 i");
    check_layer("d ./ 7", "D . 7");
    check_layer("f a/b/c 1", "D . 0 i|D a 0 i|D a/b 0 i|F a/b/c 1");
    check_layer("f a/b 1; d a 2", "D . 0 i|D a 2|F a/b 1");         /* child before its parent */
    check_layer("d a 2; f a/b 1; d a 3", "D . 0 i|D a 3|F a/b 1");  /* later attributes, same children */
    check_layer("d a 2; f a/b 1; f a 4", "D . 0 i|F a 4");          /* a file drops the children */
    check_layer("d a 2; f a/b 1; s a 4 x; d a 5", "D . 0 i|D a 5"); /* and they do not come back */
    check_layer("f a 1; f a 2", "D . 0 i|F a 2");
    CHECK_EQ(script_code("s a 1 /etc; f a/passwd 2"), LZ_E_UNSAFE);
    CHECK_EQ(script_code("s a 1 /etc; w a/passwd"), LZ_E_UNSAFE);
    CHECK_EQ(script_code("s a 1 /etc; o a"), LZ_E_UNSAFE);
    CHECK_EQ(script_code("f a 1; d a/b/c 2"), LZ_E_UNSAFE);
    check_layer("s a 1 /etc; d a 3; f a/passwd 2", "D . 0 i|D a 3|F a/passwd 2");
    CHECK_EQ(script_code("f . 1"), LZ_E_FORMAT);
    CHECK_EQ(script_code("w ."), LZ_E_FORMAT);
    CHECK_EQ(script_code("f a 1; h . a"), LZ_E_FORMAT);
}

static void marks(void)
{
    check_layer("w a", "D . 0 i|W a 0");
    check_layer("w a/b", "D . 0 i|D a 0 i|W a/b 0");
    check_layer("w a; w a", "D . 0 i|W a 0");
    /* a whiteout speaks of lower layers, in either order */
    check_layer("w a; f a 1", "D . 0 i|F a 1");
    check_layer("f a 1; w a", "D . 0 i|F a 1");
    check_layer("w a; d a 1", "D . 0 i|D a 1 o");
    check_layer("d a 1; w a", "D . 0 i|D a 1 o");
    check_layer("w a; f a/b 1", "D . 0 i|D a 0 o|F a/b 1");
    check_layer("f a/b 1; w a", "D . 0 i|D a 0 o|F a/b 1");
    check_layer("f a/b 1; w a; d a 2", "D . 0 i|D a 2 o|F a/b 1");
    check_layer("f a 1; w a; d a 2", "D . 0 i|D a 2 o");
    check_layer("o a", "D . 0 i|D a 0 i o");
    check_layer("f a/b 1; o a", "D . 0 i|D a 0 i o|F a/b 1");
    check_layer("o a; d a 1", "D . 0 i|D a 1 o");
    check_layer("d a 1; o a; d a 2", "D . 0 i|D a 2 o");
    check_layer("o a; f a 1; d a 2", "D . 0 i|D a 2 o");
    check_layer("w a; o a", "D . 0 i|D a 0 o");
    check_layer("o a; w a", "D . 0 i|D a 0 o");
    check_layer("o .", "D . 0 i o");
    check_layer("o .; d . 3", "D . 3 o");
    CHECK_EQ(script_code("w a; h b a"), LZ_E_FORMAT);
}

static void hard_links(void)
{
    check_layer("f b 1; h a b; h c/d a", "D . 0 i|F a 1 3>1|F b 1 3>1|D c 0 i|F c/d 1 3>1");
    check_layer("f b 1; h a b; f b 2", "D . 0 i|F a 1|F b 2");
    check_layer("f b 1; h a b; h c b; f a 2", "D . 0 i|F a 2|F b 1 2>2|F c 1 2>2");
    check_layer("f b 1; h b b", "D . 0 i|F b 1");
    check_layer("s b 1 x; h a b", "D . 0 i|S a 1 2>1> x|S b 1 2>1> x");
    check_layer("c b 1; h a b", "D . 0 i|C a 1 2>1|C b 1 2>1");
    check_layer("f a/b 1; h a a/b", "D . 0 i|F a 1"); /* the link takes the place of its target's parent */
    check_layer("f a 1; f b 2; h a b", "D . 0 i|F a 2 2>1|F b 2 2>1");
    check_layer("f a 1; h b a; d a 2; h b2 b", "D . 0 i|D a 2|F b 1 2>2|F b2 1 2>2");
    CHECK_EQ(script_code("h a b"), LZ_E_FORMAT);
    CHECK_EQ(script_code("h a ."), LZ_E_FORMAT);
    CHECK_EQ(script_code("d b 1; h a b"), LZ_E_FORMAT);
    CHECK_EQ(script_code("f b 1; h a b/c"), LZ_E_FORMAT);
    CHECK_EQ(script_code("f b/c 1; f b 1; h a b/c"), LZ_E_FORMAT); /* dropped with its directory */
}

static void stack(void)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    lz_tree_begin_stack(tree);
    struct image image = finish_tree(tree, "");
    CHECK_EQ(image.index.entry_count, 1);
    CHECK_EQ(image.index.layer_count, 0);
    CHECK_EQ(image.index.entries[0].mode, S_IFDIR | 0755);
    free_image(&image);
    MERGE("D . 0", "");
    MERGE("D . 9|F a 1", "d . 9", "f a 1; w a; w b");
}

static void layers_of_directories(void)
{
    MERGE("D . 0|D a 5|F a/x 1|F a/y 2", "d a 3; f a/x 1", "d a 5; f a/y 2");
    MERGE("D . 0|D a 3|F a/x 1|F a/y 2", "d a 3; f a/x 1", "f a/y 2"); /* implicit: the lower's attributes */
    MERGE("D . 0|D a 0|F a/y 2", "f a 3", "f a/y 2");                  /* implicit over a file replaces it */
    MERGE("D . 0|D a 0|F a/y 2", "s a 3 /etc", "f a/y 2");
    MERGE("D . 0|D a 7", "f a 3", "d a 7");
    MERGE("D . 0|F a 7", "d a 3; f a/b/c 1", "f a 7");
    MERGE("D . 0|D a 8|F a/z 1", "d a 3; f a/b/c 1", "f a 7", "d a 8; f a/z 1");
    MERGE("D . 4|D a 0", "d . 4", "d a 0");
    MERGE("D . 6", "d . 4", "d . 6");
}

#define PART(expected, ...) check_part(expected, (const char *const[]){__VA_ARGS__, NULL})
static void check_part(const char *expected, const char *const *scripts)
{
    struct image image = merged(scripts, true);
    check_dump(&image, expected);
}

static void parts_keep_what_hides(void)
{
    PART("D . 0 i", "");
    PART("D . 4", "d . 4", "");
    PART("D . 0 i o|F b 2", "f a 1", "o .; f b 2");
    PART("D . 0 i|W a 0", "w a");
    PART("D . 0 i|W a 0", "f a 1", "w a");
    PART("D . 0 i|W a 0", "d a 1; f a/b 2", "w a");
    PART("D . 0 i|F a 3", "w a", "f a 3");
    PART("D . 0 i|D a 3 o", "w a", "d a 3");             /* over a whiteout: nothing of what is below */
    PART("D . 0 i|D a 3 o", "f a 1", "d a 3");           /* over a file, which hid it too */
    PART("D . 0 i|D a 0 o|F a/b 3", "f a 1", "f a/b 3"); /* its attributes are not the lower's either */
    PART("D . 0 i|D a 0 i|F a/b 3|F a/c 4", "f a/b 3", "f a/c 4");
    PART("D . 0 i|D a 5|F a/b 3", "f a/b 3", "d a 5");
    PART("D . 0 i|D a 5|F a/b 3", "d a 5", "f a/b 3");
    PART("D . 0 i|D a 0 i o|F a/c 4", "f a/b 3", "o a; f a/c 4");
    PART("D . 0 i|D a 5 o|F a/c 4", "d a 5; f a/b 3", "o a; f a/c 4");
    PART("D . 0 i|D a 6 o|F a/b 3|F a/c 4", "o a; f a/b 3", "d a 6; f a/c 4");
    PART("D . 0 i|D a 5|W a/b 0", "d a 5; d a/b 1; f a/b/c 2", "w a/b");
    PART("D . 0 i|F a 1 2>1|F b 1 2>1|W c 0", "f a 1; h b a; h c a", "w c");
}

static void layers_of_marks(void)
{
    MERGE("D . 0|F b 2", "f a 1; f b 2", "w a");
    MERGE("D . 0|F b 2", "d a 3; f a/x 1; f b 2", "w a");
    MERGE("D . 0|D a 3|F a/y 2", "d a 3; f a/x 1; f a/y 2", "w a/x");
    MERGE("D . 0|F b 2", "f b 2", "w a; w c"); /* nothing below it */
    MERGE("D . 0|F b 2|D c 0", "f b 2", "w c/d");
    MERGE("D . 0|F a 4", "f a 1", "w a", "f a 4");
    MERGE("D . 0|D a 9|F a/y 2", "d a 3; f a/x 1", "d a 9; o a; f a/y 2");
    MERGE("D . 0|D a 3|F a/y 2", "d a 3; f a/x 1", "o a; f a/y 2"); /* opaque and implicit: the lower's attributes */
    MERGE("D . 0|D a 0|F a/y 2", "f a 3", "o a; f a/y 2");
    MERGE("D . 0|D a 0|F a/y 2", "d a 3; f a/x 1", "w a; f a/y 2"); /* a new directory: not even its attributes */
    MERGE("D . 0|D a 0|F a/y 2", "d a 3; f a/x 1", "f a/y 2; w a");
    MERGE("D . 0|D a 2", "d a 3; f a/x 1", "w a; d a 2");
    MERGE("D . 0|F b 2", "d a 3; f a/x 1", "o .; f b 2");
    MERGE("D . 5|F b 2", "d . 5; d a 3; f a/x 1", "o .; f b 2");
    MERGE("D . 0|D a 3|D a/b 2|F a/b/c 1", "d a 3; d a/b 2; f a/b/x 9; f a/b/d/e 8", "o a/b; f a/b/c 1");
    MERGE("D . 0|D a 1", "d a 1; d a/b 2; d a/b/c 3; f a/b/c/d 4", "o a/b/c", "w a/b", "w a/b");
}

static void layers_of_links(void)
{
    MERGE("D . 0|F a 1 3>1|F b 1 3>1|F c 1 3>1", "f b 1; h a b; h c b", "w x");
    MERGE("D . 0|F a 2|F b 1 2>2|F c 1 2>2", "f b 1; h a b; h c b", "f a 2"); /* the first one goes */
    MERGE("D . 0|F a 1 2>1|F b 2|F c 1 2>1", "f b 1; h a b; h c b", "f b 2");
    MERGE("D . 0|F c 1", "f b 1; h a b; h c b", "w a", "w b");
    MERGE("D . 0|D a 2|F b 1 2>2|F c 1 2>2", "f b 1; h a b; h c b", "d a 2");
    /* each layer's groups are its own */
    MERGE("D . 0|F a 1 2>1|F b 1 2>1|F c 2 2>3|F d 2 2>3", "f b 1; h a b", "f c 2; h d c");
    MERGE("D . 0|F a 1|F b 2 2>2|F c 2 2>2", "f b 1; h a b", "f c 2; h b c");
    MERGE("D . 0|F a 1|D d 5", "f d/b 1; h a d/b", "w d; d d 5"); /* one name in a directory that is hidden */
}

static void sources(void)
{
    struct image image = merged((const char *const[]){"d a 1; f a/x 2; f a/z 5", "f a/y 3", "d a 4", NULL}, false);
    const struct lz_index *index = &image.index;
    CHECK_EQ(index->layer_count, 3);
    CHECK_EQ(index->object_count, 0);
    for (uint8_t i = 0; i < 3; i++)
        CHECK_EQ(index->layers[i][0], i + 1);
    CHECK_EQ(index->entries[lz_index_find(index, "a", 1)].layer, 2);
    CHECK_EQ(index->entries[lz_index_find(index, "a/x", 3)].layer, 0);
    CHECK_EQ(index->entries[lz_index_find(index, "a/y", 3)].layer, 1);
    const struct lz_entry *entry = &index->entries[lz_index_find(index, "a/z", 3)];
    CHECK_EQ(entry->size, 5);
    CHECK_EQ(entry->mtime, 1);
    CHECK_EQ(entry->mtime_nsec, 2);
    CHECK_EQ(entry->mode, S_IFREG | 0644);
    CHECK_EQ(entry->flags, LZ_FLAG_OBJECT);
    CHECK_EQ(entry->digest[0], 5);
    struct lz_xattr xattr;
    uint32_t cursor = 0;
    CHECK_EQ(lz_index_next_xattr(index, (uint32_t)(entry - index->entries), &cursor, &xattr), 1);
    CHECK_EQ(xattr.value[0], '1');
    free_image(&image);
}

static void inline_data(void)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    struct lz_tree_node node = {
        .kind = LZ_KIND_FILE, .mode = 04755, .size = 5, .data_offset = 6, .flags = LZ_FLAG_INLINE};
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), 0);
    struct image image = finish_tree(tree, "hello world");
    const struct lz_entry *entry = &image.index.entries[1];
    CHECK_EQ(entry->mode, S_IFREG | 04755);
    CHECK(memcmp(image.bytes + LZ_INDEX_INLINE_OFFSET + entry->data_offset, "world", 5) == 0);
    free_image(&image);
}

static void what_cannot_be_stored(void)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(&(struct lz_tree_limits){.max_entries = 3}, &tree), 0);
    struct lz_xattr xattr = {.name = "user.a\0b", .name_size = 8};
    struct lz_tree_node node = {.kind = LZ_KIND_FILE, .xattrs = &xattr, .xattr_count = 1};
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), LZ_E_FORMAT);
    xattr.name_size = 0;
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), LZ_E_LIMIT);
    xattr = (struct lz_xattr){.name = "user.a", .name_size = 6, .value_size = LZ_XATTR_VALUE_MAX + 1};
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), LZ_E_LIMIT);
    node.xattr_count = 0;
    node.mtime_nsec = 1000000000;
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), LZ_E_FORMAT);
    node = (struct lz_tree_node){.kind = LZ_KIND_SYMLINK, .target = "a\0b", .target_size = 3};
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), LZ_E_FORMAT);
    node.target_size = 0;
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), LZ_E_FORMAT);
    node = (struct lz_tree_node){.kind = LZ_KIND_WHITEOUT};
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), LZ_E_FORMAT);
    node.kind = LZ_KIND_FILE;
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), 0);
    CHECK_EQ(lz_tree_add(tree, "g", 1, &node, NULL), 0);
    CHECK_EQ(lz_tree_add(tree, "g", 1, &node, NULL), 0); /* no further entry */
    CHECK_EQ(lz_tree_add(tree, "h", 1, &node, NULL), LZ_E_LIMIT);
    struct image image = finish_tree(tree, "");
    CHECK_EQ(image.index.entry_count, 3);
    free_image(&image);
}

static int write_code(struct lz_tree *tree)
{
    int fd = memfd_create("index", MFD_CLOEXEC);
    CHECK(fd >= 0);
    struct lz_detail detail = {{0}};
    int rc = lz_tree_write(lz_sys_linux(), tree, fd, 0, NULL, &detail);
    CHECK(rc == 0 || strncmp(detail.text, "index: more than", 16) == 0);
    CHECK_EQ(close(fd), 0);
    lz_tree_free(tree);
    return rc;
}

/* All of a tree is in memory, and compressed it takes next to nothing to ask for gigabytes. */
static void what_memory_is_bounded(void)
{
    const struct lz_tree_limits limits = {.max_text = 64, .max_xattrs = 64};
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(&limits, &tree), 0);
    CHECK_EQ(run_script(tree, "f 0123456789 1; s l 1 0123456789012345678901234567890123456789012345"), 0);
    CHECK_EQ(run_script(tree, "f 01234567890 1"), LZ_E_LIMIT); /* names: 10 + 1 + 46 + 11 */
    CHECK_EQ(run_script(tree, "s l 1 012345678"), LZ_E_LIMIT); /* also of entries that are replaced */
    CHECK_EQ(write_code(tree), 0);                             /* strings: 1 + 11 + 2 + 47 */

    CHECK_EQ(lz_tree_new(&limits, &tree), 0);
    CHECK_EQ(run_script(tree, "f aaaaaaaaaa/1 1; f aaaaaaaaaa/2 1; f aaaaaaaaaa/3 1; f aaaaaaaaaa/4 1"), 0);
    CHECK_EQ(write_code(tree), LZ_E_LIMIT); /* names are few, paths are not: 1 + 11 + 4 * 13 */

    CHECK_EQ(lz_tree_new(&limits, &tree), 0);
    struct lz_xattr xattr = {
        .name = "user.a", .name_size = 6, .value = (const uint8_t *)"0123456789", .value_size = 10};
    struct lz_tree_node node = {.kind = LZ_KIND_FILE, .xattrs = &xattr, .xattr_count = 1};
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), 0); /* 24 bytes each */
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), 0);
    CHECK_EQ(lz_tree_add(tree, "f", 1, &node, NULL), LZ_E_LIMIT);
    CHECK_EQ(run_script(tree, "h g f"), 0);
    CHECK_EQ(run_script(tree, "h h f"), 0);
    CHECK_EQ(write_code(tree), LZ_E_LIMIT); /* each name has them in the index */
}

static void objects_are_a_set(void)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    for (unsigned i = 0; i < 100; i++) {
        uint8_t digest[32] = {[31] = (uint8_t)(99 - i % 37)};
        CHECK_EQ(lz_tree_add_object(tree, digest, i % 37), 0);
    }
    struct image image = finish_tree(tree, "");
    CHECK_EQ(image.index.object_count, 37);
    for (unsigned i = 0; i < 37; i++) {
        CHECK_EQ(image.index.objects[i].digest[31], 99 - 36 + i);
        CHECK_EQ(image.index.objects[i].size, 36 - i);
    }
    free_image(&image);
}

static void deep(void)
{
    char path[LZ_PATH_MAX + 1];
    for (size_t i = 0; i < LZ_PATH_MAX; i++)
        path[i] = i % 2 == 0 ? 'd' : '/';
    path[LZ_PATH_MAX] = 0;
    char *script = malloc(2 * sizeof path);
    CHECK(script != NULL);
    (void)snprintf(script, 2 * sizeof path, "f %s 1", path);
    struct image image = layer(script);
    CHECK_EQ(image.index.entry_count, 2049);
    CHECK_EQ(lz_index_find(&image.index, path, LZ_PATH_MAX), 2048);
    free_image(&image);
    image = merged((const char *const[]){script, "f d/x 3", script, "w d/d", NULL}, false);
    char *text = dump(&image.index);
    CHECK_STR(text, "D . 0|D d 0|F d/x 3");
    free(text);
    free(script);
    free_image(&image);
}

/* The walk of a path begins where it leaves the path before; what was a directory there may be none any more. */
static void trails(void)
{
    check_layer("f a/b/c/d 1; f a/b/c/e 2; f a/b/f 3",
                "D . 0 i|D a 0 i|D a/b 0 i|D a/b/c 0 i|F a/b/f 3|F a/b/c/d 1|F a/b/c/e 2");
    check_layer("f a/b/c 1; f a/b 2; d a/b 3; f a/b/d 4", "D . 0 i|D a 0 i|D a/b 3|F a/b/d 4");
    check_layer("f a/b/c 1; f a 2; d a 3; f a/b/d 4", "D . 0 i|D a 3|D a/b 0 i|F a/b/d 4");
    check_layer("f x 9; f a/b/c 1; h a/b x; d a/b 3; f a/b/d 4", "D . 0 i|D a 0 i|F x 9|D a/b 3|F a/b/d 4");
    check_layer("f a/bb/c 1; f a/b/c 2; f a/bb 3; f aa/bb/c 4",
                "D . 0 i|D a 0 i|D aa 0 i|D a/b 0 i|F a/bb 3|D aa/bb 0 i|F a/b/c 2|F aa/bb/c 4");
    CHECK_EQ(script_code("f a/b/c 1; f a/b 2; f a/b/d 3"), LZ_E_UNSAFE);
    CHECK_EQ(script_code("f x 9; f a/b/c 1; h a/b x; f a/b/d 3"), LZ_E_UNSAFE);
    CHECK_EQ(script_code("f a/b/c 1; f a/b/c/d 2"), LZ_E_UNSAFE);
}

/* As many directories as a deep path has, once for each of its siblings, would be 4 * 10^7 steps. */
static void deep_and_wide(void)
{
    struct lz_tree *tree = NULL;
    char path[LZ_PATH_MAX + 1];
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    for (size_t i = 0; i < 4000; i++)
        path[i] = i % 2 == 0 ? 'd' : '/';
    for (unsigned i = 0; i < 20000; i++) {
        int size = snprintf(path + 4000, sizeof path - 4000, "%u", i);
        CHECK_EQ(lz_tree_opaque(tree, path, 4000 + (size_t)size, NULL), 0);
    }
    CHECK_EQ(write_code(tree), 0);
}

/* What replaces something takes its place: only the tree as it is counts against the limit. */
static void layers_that_replace(void)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(&(struct lz_tree_limits){.max_entries = 4}, &tree), 0);
    static const char *const scripts[] = {"f a 1; f b 1; s l 1 a", "f a 2; f b 2; d l 2", "d a 3; f b 3; h l b",
                                          "f a 4; f b 4; f l 4"};
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        struct image image = layer(scripts[i]);
        CHECK_EQ(lz_tree_apply(tree, &image.index, (const uint8_t[32]){1}, NULL), 0);
        free_image(&image);
    }
    lz_tree_free(tree);
}

/* More names than the first hash has room for, in one directory and in many. */
static void wide(void)
{
    struct lz_tree *tree = NULL;
    char path[64];
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    struct lz_tree_node node = {.kind = LZ_KIND_FILE};
    for (unsigned i = 0; i < 5000; i++) {
        int size = snprintf(path, sizeof path, "%u/%u/f", i % 7, i * 7919 % 5000);
        CHECK_EQ(lz_tree_add(tree, path, (size_t)size, &node, NULL), 0);
        if (i % 5 == 0)
            CHECK_EQ(lz_tree_add(tree, path, (size_t)size - 2, &node, NULL), 0); /* the directory becomes a file */
    }
    struct image image = finish_tree(tree, "");
    CHECK_EQ(image.index.entry_count, 1 + 7 + 5000 + 4000);
    for (uint32_t i = 0; i < image.index.entry_count; i++)
        CHECK_EQ(lz_index_find(&image.index, lz_index_path(&image.index, i), image.index.entries[i].path_size), i);
    free_image(&image);
}

static void many_layers(void)
{
    const char *scripts[502] = {"d a 1; f a/keep 2"};
    for (int i = 1; i <= 500; i++)
        scripts[i] = i % 2 == 1 ? "f a/b 3; h a/c a/b; d a/d 1" : "w a/b; d a/d 2; f a/d/e 1";
    struct image image = merged(scripts, false);
    char *text = dump(&image.index);
    CHECK_EQ(image.index.layer_count, 501);
    CHECK_STR(text, "D . 0|D a 1|F a/c 3|D a/d 2|F a/keep 2|F a/d/e 1");
    free(text);
    free_image(&image);
}

static void disk_says_no(void)
{
    for (long n = 1;; n++) {
        struct lz_tree *tree = NULL;
        struct fault fault;
        struct lz_detail detail = {{0}};
        uint32_t count = 77;
        CHECK_EQ(lz_tree_new(NULL, &tree), 0);
        CHECK_EQ(run_script(tree, "f a/b 1; s c 2 d"), 0);
        int fd = memfd_create("index", MFD_CLOEXEC);
        fault_arm(&fault, n, -ENOSPC);
        int rc = lz_tree_write(fault_sys(&fault), tree, fd, 0, &count, &detail);
        if (fault.fired) {
            CHECK_EQ(rc, -ENOSPC);
            CHECK_EQ(count, 77);
            CHECK(detail.text[0] != 0);
            char magic[8] = {0}; /* the header comes last: half an index is none */
            CHECK(pread(fd, magic, 8, 0) <= 8 && memcmp(magic, LZ_INDEX_MAGIC, 8) != 0);
            CHECK_EQ(lz_tree_write(lz_sys_linux(), tree, fd, 0, &count, NULL), 0); /* a second try works */
        } else {
            CHECK_EQ(rc, 0);
            CHECK(n > 1);
        }
        CHECK_EQ(count, 4);
        struct image image;
        load_image(fd, &image);
        free_image(&image);
        CHECK_EQ(close(fd), 0);
        lz_tree_free(tree);
        if (!fault.fired)
            break;
    }
}

int main(void)
{
    RUN(clean_paths);
    RUN(one_layer);
    RUN(marks);
    RUN(hard_links);
    RUN(stack);
    RUN(layers_of_directories);
    RUN(parts_keep_what_hides);
    RUN(layers_of_marks);
    RUN(layers_of_links);
    RUN(sources);
    RUN(inline_data);
    RUN(what_cannot_be_stored);
    RUN(what_memory_is_bounded);
    RUN(objects_are_a_set);
    RUN(deep);
    RUN(trails);
    RUN(deep_and_wide);
    RUN(layers_that_replace);
    RUN(wide);
    RUN(many_layers);
    RUN(disk_says_no);
    lz_tree_free(NULL);
    return check_end();
}
