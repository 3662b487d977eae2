/* Relayer: new layers stand for the tar that ingest would make the same index of; holes, links and marks are right; a
 * damaged or missing content is an error, and so is every system call that fails. */
#include "layer.h"

#include "fault.h"
#include "shell.h"
#include "tree/lz_relayer.h"
#include "tree/lz_tree.h"

#define LAYERS_MAX 4

/* Layers that lie on one another, in one store. */
struct pile {
    struct room room;
    size_t count;
    uint8_t *bytes[LAYERS_MAX];
    struct lz_index indexes[LAYERS_MAX];
    int recipes[LAYERS_MAX];
    uint8_t diff_ids[LAYERS_MAX][32];
};

static struct pile pile_new(void)
{
    struct lz_buf nothing = {0};
    return (struct pile){.room = open_room(&nothing)};
}

static uint8_t *open_index(int dir, struct lz_index *index)
{
    size_t size;
    uint8_t *bytes = read_file(dir, "index", &size);
    CHECK_EQ(lz_index_open(bytes, size, index, NULL), 0);
    return bytes;
}

/* Ingests a tar on top; the tar is given back. */
static void pile_push(struct pile *pile, struct lz_buf *tar)
{
    char name[16];
    put_end(tar);
    (void)snprintf(name, sizeof name, "layer%zu", pile->count);
    int dir = make_dir(pile->room.dir, name);
    CHECK_EQ(ftruncate(pile->room.source, 0), 0);
    CHECK_EQ(pwrite(pile->room.source, tar->data, tar->size, 0), tar->size);
    struct lz_ingest_options options = options_of(&pile->room);
    struct lz_ingest_result result;
    options.staging_fd = dir;
    CHECK_EQ(ingest(&options, &result), 0);
    publish(&pile->room);
    memcpy(pile->diff_ids[pile->count], result.diff_id, 32);
    pile->bytes[pile->count] = open_index(dir, &pile->indexes[pile->count]);
    pile->recipes[pile->count] = openat(dir, "recipe", O_RDONLY | O_CLOEXEC);
    CHECK(pile->recipes[pile->count] >= 0);
    pile->count++;
    (void)close(dir);
    lz_buf_free(tar);
}

static void pile_free(struct pile *pile)
{
    for (size_t i = 0; i < pile->count; i++) {
        free(pile->bytes[i]);
        (void)close(pile->recipes[i]);
    }
    close_room(&pile->room);
}

/* The merged view of some layers, or of all and another one. */
static uint8_t *merge(const struct pile *pile, size_t from, size_t to, const struct lz_index *top, struct lz_index *out)
{
    struct lz_tree *tree;
    static const uint8_t top_id[32] = {1}; /* all zeros would say that it is a layer */
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    lz_tree_begin_stack(tree);
    for (size_t i = from; i < to; i++)
        CHECK_EQ(lz_tree_apply(tree, &pile->indexes[i], pile->diff_ids[i], NULL), 0);
    if (top != NULL)
        CHECK_EQ(lz_tree_apply(tree, top, top_id, NULL), 0);
    int fd = memfd_create("merged", MFD_CLOEXEC);
    CHECK_EQ(lz_tree_write(lz_sys_linux(), tree, fd, 0, NULL, NULL), 0);
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc((size_t)size);
    CHECK_EQ(pread(fd, bytes, (size_t)size, 0), size);
    struct lz_detail detail = {.text = ""};
    int rc = lz_index_open(bytes, (uint64_t)size, out, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    CHECK_EQ(close(fd), 0);
    lz_tree_free(tree);
    return bytes;
}

/* The new layer is in staging: its tar, ingested, must give the same index and the same recipe, and no new object. */
static void check_layer(struct room *room, int staging, const struct lz_relayer_result *result, const char *expected)
{
    int tar = memfd_create("tar", MFD_CLOEXEC);
    int index_fd = openat(staging, "index", O_RDONLY | O_CLOEXEC);
    int recipe_fd = openat(staging, "recipe", O_RDONLY | O_CLOEXEC);
    struct lz_detail detail = {.text = ""};
    uint64_t size = 0;
    int rc = lz_recipe_replay(lz_sys_linux(), recipe_fd, index_fd, room->objects, tar, &size, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    CHECK_EQ(size, result->tar_size);
    int again = make_dir(room->dir, "again");
    struct lz_ingest_options options = options_of(room);
    struct lz_ingest_result ingested;
    options.source_fd = tar;
    options.staging_fd = again;
    CHECK_EQ(ingest(&options, &ingested), 0);
    CHECK(memcmp(ingested.diff_id, result->diff_id, 32) == 0);
    CHECK_EQ(ingested.entry_count, result->entry_count);
    CHECK_EQ(ingested.content_size, result->content_size);
    CHECK_EQ(ingested.object_count, result->object_count);
    CHECK_EQ(ingested.inline_bytes, result->inline_bytes);
    CHECK_EQ(ingested.new_object_count, 0);
    static const char *const names[] = {"index", "recipe"};
    for (size_t i = 0; i < 2; i++) {
        size_t sizes[2];
        uint8_t *left = read_file(staging, names[i], &sizes[0]), *right = read_file(again, names[i], &sizes[1]);
        CHECK_EQ(sizes[0], sizes[1]);
        CHECK(memcmp(left, right, sizes[0]) == 0);
        free(left);
        free(right);
        CHECK_EQ(unlinkat(again, names[i], 0), 0);
    }
    /* what is in the tar, in order */
    CHECK_EQ(lseek(tar, 0, SEEK_SET), 0);
    struct lz_buf text = {0}, bytes = {0};
    CHECK_EQ(lz_buf_append_zeros(&bytes, size + 1), 0);
    CHECK_EQ(pread(tar, bytes.data, size, 0), size);
    for (uint64_t at = 0; at < size && bytes.data[at] != 0;) {
        const char *header = (const char *)bytes.data + at;
        char line[300], type = header[156];
        uint64_t stored = strtoull(header + 124, NULL, 8);
        int used = type == 'x' ? 0
                               : snprintf(line, sizeof line, "%s%c %.100s%s%.100s", text.size > 0 ? "|" : "", type,
                                          header, type == '1' || type == '2' ? ">" : "",
                                          type == '1' || type == '2' ? header + 157 : "");
        CHECK_EQ(lz_buf_append(&text, line, (size_t)used), 0);
        at += 512 + ((stored + 511) & ~511ull);
    }
    CHECK_EQ(lz_buf_append_zeros(&text, 1), 0);
    if (expected != NULL)
        CHECK_STR((const char *)text.data, expected);
    lz_buf_free(&text);
    lz_buf_free(&bytes);
    CHECK_EQ(unlinkat(room->dir, "again", AT_REMOVEDIR), 0);
    (void)close(again);
    (void)close(tar);
    (void)close(index_fd);
    (void)close(recipe_fd);
    CHECK_EQ(check_objects(room->staged), result->object_count); /* ingest linked them */
    char command[200];
    (void)snprintf(command, sizeof command, "rm -f %s/%s/staged/*", root, room->name);
    CHECK_EQ(system(command), 0);
}

/* Squashes from..to and holds the outcome against the view of all. */
static struct lz_relayer_result squash(struct pile *pile, size_t from, size_t to, const char *expected)
{
    struct lz_index below, before, after, made;
    uint8_t *below_bytes = merge(pile, 0, from, NULL, &below);
    struct lz_relayer_layer layers[LAYERS_MAX];
    for (size_t i = from; i < to; i++)
        layers[i - from] = (struct lz_relayer_layer){&pile->indexes[i], pile->recipes[i], NULL};
    int staging = make_dir(pile->room.dir, "new");
    struct lz_relayer_plan plan = {.layers = layers,
                                   .layer_count = to - from,
                                   .below = from > 0 ? &below : NULL,
                                   .objects_fd = pile->room.objects,
                                   .staging_fd = staging};
    struct lz_relayer_result result;
    struct lz_detail detail;
    int rc = lz_relayer_write(lz_sys_linux(), &plan, &result, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    check_layer(&pile->room, staging, &result, expected);
    uint8_t *made_bytes = open_index(staging, &made);
    uint8_t *before_bytes = merge(pile, 0, to, NULL, &before), *after_bytes = merge(pile, 0, from, &made, &after);
    CHECK_EQ(before.entry_count, after.entry_count);
    for (uint32_t i = 0; i < before.entry_count; i++) {
        struct lz_entry left = before.entries[i], right = after.entries[i];
        left.layer = right.layer = 0;
        left.data_offset = right.data_offset = 0;
        CHECK(memcmp(&left, &right, sizeof left) == 0);
        CHECK_STR(lz_index_path(&before, i), lz_index_path(&after, i));
    }
    free(below_bytes);
    free(made_bytes);
    free(before_bytes);
    free(after_bytes);
    CHECK_EQ(unlinkat(staging, "index", 0), 0);
    CHECK_EQ(unlinkat(staging, "recipe", 0), 0);
    CHECK_EQ(unlinkat(pile->room.dir, "new", AT_REMOVEDIR), 0);
    (void)close(staging);
    return result;
}

static void put_file(struct lz_buf *out, const char *path, size_t size, uint32_t seed)
{
    uint8_t *bytes = noise(size + 1, seed);
    put_entry(out, path, 'f', NULL, bytes, size);
    free(bytes);
}

/* Data at the given places, holes between. */
static void put_sparse(struct lz_buf *out, const char *path, uint64_t size, const struct lz_tar_extent *extents,
                       size_t count)
{
    static const struct lz_tar_extent none;
    struct lz_tar_entry entry = {.type = LZ_TAR_FILE,
                                 .path = path,
                                 .path_size = strlen(path),
                                 .mode = 0644,
                                 .mtime = 5,
                                 .mtime_nsec = 7,
                                 .size = size,
                                 .extents = count > 0 ? extents : &none,
                                 .extent_count = count};
    CHECK_EQ(lz_tar_write_entry(&entry, out, NULL), 0);
    uint64_t stored = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t *bytes = noise(extents[i].size + 1, (uint32_t)extents[i].offset);
        CHECK_EQ(lz_buf_append(out, bytes, extents[i].size), 0);
        stored += extents[i].size;
        free(bytes);
    }
    CHECK_EQ(lz_buf_append_zeros(out, lz_tar_pad(stored)), 0);
}

static void put_special(struct lz_buf *out, const char *path, enum lz_tar_type type, uint32_t mode)
{
    static const struct lz_tar_xattr xattrs[] = {{"security.capability", 19, (const uint8_t *)"\0\1\2", 3},
                                                 {"user.b", 6, (const uint8_t *)"four", 4}};
    struct lz_tar_entry entry = {.type = type,
                                 .path = path,
                                 .path_size = strlen(path),
                                 .mode = mode,
                                 .uid = 3000000,
                                 .gid = 4,
                                 .mtime = -5,
                                 .mtime_nsec = 500,
                                 .major = type == LZ_TAR_CHAR ? 7 : 0,
                                 .minor = type == LZ_TAR_CHAR ? 9 : 0,
                                 .xattrs = xattrs,
                                 .xattr_count = 2};
    CHECK_EQ(lz_tar_write_entry(&entry, out, NULL), 0);
}

static struct pile rich_pile(void)
{
    static const struct lz_tar_extent extents[] = {{4096, 100}, {100000, 5000}};
    struct pile pile = pile_new();
    struct lz_buf tar = {0};
    put_special(&tar, "./", LZ_TAR_DIRECTORY, 0711);
    put_special(&tar, "dir/", LZ_TAR_DIRECTORY, 01777);
    put_file(&tar, "dir/small", 10, 1);
    put_file(&tar, "dir/large", 300000, 2);
    put_entry(&tar, "dir/link", 'h', "dir/large", NULL, 0);
    put_entry(&tar, "dir/small2", 'h', "dir/small", NULL, 0);
    put_special(&tar, "tty", LZ_TAR_CHAR, 0600);
    put_special(&tar, "pipe", LZ_TAR_FIFO, 0600);
    put_file(&tar, "old/a", 5000, 3);
    put_file(&tar, "old/b", 1, 4);
    put_sparse(&tar, "sparse", 200000, extents, 2);
    put_sparse(&tar, "hole", 100000, NULL, 0);
    put_file(&tar, "gone/deep/x", 6000, 5);
    pile_push(&pile, &tar);
    put_file(&tar, "dir/small", 20, 6);
    put_file(&tar, "dir/large2", 300000, 2);
    put_entry(&tar, "old/.wh.a", 'f', NULL, NULL, 0);
    put_entry(&tar, ".wh.gone", 'f', NULL, NULL, 0);
    put_entry(&tar, "s", 'l', "dir/small", NULL, 0);
    put_entry(&tar, "s2", 'h', "s", NULL, 0);
    put_sparse(&tar, "new/sparse", 150000, extents, 2);
    put_file(&tar, "new/empty", 0, 0);
    pile_push(&pile, &tar);
    put_file(&tar, "gone/y", 7000, 7);
    put_entry(&tar, "new/.wh..wh..opq", 'f', NULL, NULL, 0);
    put_file(&tar, "new/last", 4097, 8);
    put_entry(&tar, ".wh.never", 'f', NULL, NULL, 0);
    pile_push(&pile, &tar);
    return pile;
}

static void squashes(void)
{
    struct pile pile = rich_pile();
    struct lz_relayer_result all =
        squash(&pile, 0, 3,
               "5 ./|5 dir/|0 dir/large|0 dir/large2|1 dir/link>dir/large|0 dir/small|0 dir/small2|5 gone/|0 gone/y|"
               "0 GNUSparseFile.0/hole|5 new/|0 new/last|5 old/|0 old/b|6 pipe|2 s>dir/small|1 s2>s|"
               "0 GNUSparseFile.0/sparse|3 tty");
    CHECK_EQ(all.object_count, 5);
    /* above the first: marks stay where they hide something of it */
    (void)squash(&pile, 1, 3,
                 "0 dir/large2|0 dir/small|5 gone/|0 gone/.wh..wh..opq|0 gone/y|5 new/|0 new/last|0 old/.wh.a|"
                 "2 s>dir/small|1 s2>s");
    (void)squash(&pile, 2, 3, "5 gone/|0 gone/y|0 new/.wh..wh..opq|0 new/last");
    (void)squash(&pile, 0, 1, NULL);
    (void)squash(&pile, 0, 2, NULL);
    struct lz_relayer_result again = squash(&pile, 0, 3, NULL);
    CHECK(memcmp(&all, &again, sizeof all) == 0);
    pile_free(&pile);
}

/* The pattern's part on the rest gives the old view. */
static void split_at(struct pile *pile, size_t number, const char *text, int64_t expected, const char *rest,
                     const char *part)
{
    const struct lz_index *layer = &pile->indexes[number];
    uint8_t *matched = malloc(layer->entry_count), *take = malloc(layer->entry_count);
    struct lz_relayer_pattern pattern = {text, strlen(text)};
    CHECK_EQ(lz_relayer_match(layer, &pattern, 1, matched), expected);
    struct lz_index below, made[2], before, after;
    uint8_t *bytes[2], *below_bytes = merge(pile, 0, number, NULL, &below);
    for (int side = 0; side < 2; side++) {
        int staging = make_dir(pile->room.dir, side == 0 ? "rest" : "part");
        lz_relayer_take(layer, matched, side == 1, take);
        struct lz_relayer_layer source = {layer, pile->recipes[number], take};
        struct lz_relayer_plan plan = {.layers = &source,
                                       .layer_count = 1,
                                       .below = &below,
                                       .list_parents = side == 1,
                                       .objects_fd = pile->room.objects,
                                       .staging_fd = staging};
        struct lz_relayer_result result;
        CHECK_EQ(lz_relayer_write(lz_sys_linux(), &plan, &result, NULL), 0);
        check_layer(&pile->room, staging, &result, side == 0 ? rest : part);
        bytes[side] = open_index(staging, &made[side]);
        CHECK_EQ(unlinkat(staging, "index", 0), 0);
        CHECK_EQ(unlinkat(staging, "recipe", 0), 0);
        CHECK_EQ(unlinkat(pile->room.dir, side == 0 ? "rest" : "part", AT_REMOVEDIR), 0);
        (void)close(staging);
        free(below_bytes);
        below_bytes = merge(pile, 0, number, &made[0], &below);
    }
    struct pile two = *pile; /* the layers below, and the rest */
    two.indexes[number] = made[0];
    uint8_t *after_bytes = merge(&two, 0, number + 1, &made[1], &after);
    uint8_t *before_bytes = merge(pile, 0, number + 1, NULL, &before);
    CHECK_EQ(before.entry_count, after.entry_count);
    for (uint32_t i = 0; i < before.entry_count; i++) {
        struct lz_entry left = before.entries[i], right = after.entries[i];
        left.layer = right.layer = 0;
        left.data_offset = right.data_offset = 0;
        CHECK(memcmp(&left, &right, sizeof left) == 0);
    }
    free(below_bytes);
    free(before_bytes);
    free(after_bytes);
    free(bytes[0]);
    free(bytes[1]);
    free(matched);
    free(take);
}

static void splits(void)
{
    struct pile pile = rich_pile();
    split_at(&pile, 0, "dir", 5, NULL, "5 dir/|0 dir/large|1 dir/link>dir/large|0 dir/small|1 dir/small2>dir/small");
    /* one name of a group takes the others along, and the directory comes with its attributes */
    split_at(&pile, 0, "dir/lin*", 2, NULL, "5 dir/|0 dir/large|1 dir/link>dir/large");
    split_at(&pile, 0, "**/*", 15, NULL, NULL);
    split_at(&pile, 0, "nothing", 0, NULL, "");
    split_at(&pile, 1, "gone", 1,
             "0 dir/large2|0 dir/small|5 new/|0 new/empty|0 GNUSparseFile.0/sparse|0 old/.wh.a|2 s>dir/small|1 s2>s",
             "0 .wh.gone");
    split_at(&pile, 1, "*/*", 5, "0 .wh.gone|2 s>dir/small|1 s2>s", NULL);
    split_at(&pile, 2, "new/last", 1, "5 gone/|0 gone/y|0 new/.wh..wh..opq", "5 new/|0 new/last");
    pile_free(&pile);
}

/* A name so long that no mark fits before it. */
static void long_names(void)
{
    struct pile pile = pile_new();
    struct lz_buf tar = {0};
    char name[LZ_NAME_MAX + 1];
    memset(name, 'n', LZ_NAME_MAX);
    name[LZ_NAME_MAX] = 0;
    put_file(&tar, name, 1, 1);
    pile_push(&pile, &tar);
    put_entry(&tar, name, 'c', NULL, NULL, 0);
    put_file(&tar, "other", 1, 1);
    pile_push(&pile, &tar);
    put_file(&tar, "third", 1, 1);
    pile_push(&pile, &tar);
    (void)squash(&pile, 1, 3, NULL);
    (void)squash(&pile, 0, 3, "0 other|0 third");
    pile_free(&pile);
}

static int write_layer(struct pile *pile, const struct lz_sys *sys, int (*step)(void *, uint64_t),
                       struct lz_relayer_result *result, struct lz_detail *detail)
{
    struct lz_relayer_layer layers[LAYERS_MAX];
    for (size_t i = 0; i < pile->count; i++)
        layers[i] = (struct lz_relayer_layer){&pile->indexes[i], pile->recipes[i], NULL};
    int staging = make_dir(pile->room.dir, "new");
    struct lz_relayer_plan plan = {.layers = layers,
                                   .layer_count = pile->count,
                                   .objects_fd = pile->room.objects,
                                   .staging_fd = staging,
                                   .step = step};
    int rc = lz_relayer_write(sys, &plan, result, detail);
    (void)unlinkat(staging, "index", 0);
    (void)unlinkat(staging, "recipe", 0);
    (void)close(staging);
    CHECK_EQ(unlinkat(pile->room.dir, "new", AT_REMOVEDIR), 0);
    return rc;
}

static int write_plain(struct pile *pile, const struct lz_sys *sys, int (*step)(void *, uint64_t),
                       struct lz_detail *detail)
{
    struct lz_relayer_result result;
    return write_layer(pile, sys, step, &result, detail);
}

static void faults(void)
{
    struct pile pile = rich_pile();
    int before = count_descriptors();
    long n = 1;
    for (;; n++) {
        struct fault fault;
        struct lz_detail detail;
        fault_arm(&fault, n, n % 2 == 0 ? -ENOSPC : -EIO);
        int rc = write_plain(&pile, fault_sys(&fault), NULL, &detail);
        CHECK_EQ(count_descriptors(), before);
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            break;
        }
        /* closing what was only read may fail without harm */
        CHECK(rc == fault.code || rc == 0);
        CHECK(rc == 0 || detail.text[0] != 0);
    }
    CHECK(n > 20);
    pile_free(&pile);
}

static int stop(void *ctx, uint64_t tar_bytes)
{
    (void)ctx;
    (void)tar_bytes;
    return LZ_E_CANCELLED;
}

static void cancelled(void)
{
    struct pile pile = pile_new();
    struct lz_buf tar = {0};
    put_file(&tar, "large", 9u << 20, 1);
    pile_push(&pile, &tar);
    CHECK_EQ(write_plain(&pile, lz_sys_linux(), stop, NULL), LZ_E_CANCELLED);
    CHECK_EQ(write_plain(&pile, lz_sys_linux(), NULL, NULL), 0);
    pile_free(&pile);
}

/* Whatever a content became meanwhile, no sound name is given to it. */
static void damaged(void)
{
    struct pile pile = pile_new();
    struct lz_buf tar = {0};
    put_file(&tar, "large", 9000, 1);
    pile_push(&pile, &tar);
    char path[80], hex[65];
    lz_hex(pile.indexes[0].objects[0].digest, hex);
    (void)snprintf(path, sizeof path, "%.2s/%.62s", hex, hex + 2);
    CHECK_EQ(fchmodat(pile.room.objects, path, 0600, 0), 0);
    int fd = openat(pile.room.objects, path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    struct lz_detail detail;
    CHECK_EQ(pwrite(fd, "x", 1, 8000), 1);
    CHECK_EQ(write_plain(&pile, lz_sys_linux(), NULL, &detail), LZ_E_CORRUPT);
    CHECK(strstr(detail.text, "/large: the stored content is sha256:") != NULL);
    CHECK(strstr(detail.text, hex) != NULL);
    CHECK_EQ(ftruncate(fd, 8000), 0);
    CHECK_EQ(write_plain(&pile, lz_sys_linux(), NULL, &detail), LZ_E_CORRUPT);
    CHECK(strstr(detail.text, "shorter than its layer says") != NULL);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(unlinkat(pile.room.objects, path, 0), 0);
    CHECK_EQ(write_plain(&pile, lz_sys_linux(), NULL, &detail), -ENOENT);
    CHECK(strstr(detail.text, hex) != NULL);
    pile_free(&pile);
}

/* A recipe of another layer: its objects are not this index's. */
static void foreign_recipe(void)
{
    struct pile pile = pile_new();
    struct lz_buf tar = {0};
    put_file(&tar, "a", 9000, 1);
    pile_push(&pile, &tar);
    put_file(&tar, "b", 9000, 2);
    pile_push(&pile, &tar);
    int recipe = pile.recipes[0];
    pile.recipes[0] = pile.recipes[1];
    struct lz_detail detail;
    CHECK_EQ(write_plain(&pile, lz_sys_linux(), NULL, &detail), LZ_E_CORRUPT);
    CHECK(strstr(detail.text, "recipe: names an object that its index does not have") != NULL);
    pile.recipes[0] = recipe;
    pile_free(&pile);
}

/* Whatever byte of a recipe is another: an error, or a layer that is the right one. */
static void damaged_recipe(void)
{
    struct pile pile = rich_pile();
    struct lz_relayer_result whole = squash(&pile, 0, 1, NULL), result;
    off_t size = lseek(pile.recipes[0], 0, SEEK_END);
    uint8_t *bytes = malloc((size_t)size);
    CHECK_EQ(pread(pile.recipes[0], bytes, (size_t)size, 0), size);
    (void)close(pile.recipes[0]);
    pile.count = 1;
    int errors = 0;
    for (off_t i = 0; i < size; i++) {
        int fd = pile.recipes[0] = memfd_create("recipe", MFD_CLOEXEC);
        uint8_t flipped = bytes[i] ^ (uint8_t)(1u << (i % 8));
        CHECK_EQ(pwrite(fd, bytes, (size_t)size, 0), size);
        CHECK_EQ(pwrite(fd, &flipped, 1, i), 1);
        int rc = write_layer(&pile, lz_sys_linux(), NULL, &result, NULL);
        CHECK(rc == 0 || rc < -10000);
        CHECK(rc != 0 || memcmp(&result, &whole, sizeof whole) == 0);
        errors += rc != 0;
        CHECK_EQ(ftruncate(fd, i), 0); /* and cut there */
        CHECK(write_layer(&pile, lz_sys_linux(), NULL, &result, NULL) < -10000);
        CHECK_EQ(close(fd), 0);
    }
    CHECK(errors > size / 2);
    pile.recipes[0] = memfd_create("recipe", MFD_CLOEXEC);
    for (size_t i = 1; i < 3; i++) {
        free(pile.bytes[i]);
        (void)close(pile.recipes[i]);
    }
    free(bytes);
    pile_free(&pile);
}

int main(void)
{
    open_root();
    RUN(squashes);
    RUN(splits);
    RUN(long_names);
    RUN(faults);
    RUN(cancelled);
    RUN(damaged);
    RUN(foreign_recipe);
    RUN(damaged_recipe);
    close_root();
    return check_end();
}
