/* Lookup without a walk: it answers only what the walk would, and leaves the rest to it. */
#include <errno.h>

#include "tree/lz_lookup.h"
#include "tree_script.h"

static const char *const sample = "d usr 1; d usr/bin 2; f usr/bin/env 5; s bin 3 usr/bin; s usr/lib 3 lib; f README 4";

static int64_t ask(const struct lz_index *index, const char *path, unsigned flags)
{
    return lz_lookup_try(index, path, strlen(path), flags);
}

static void one(void)
{
    struct image image = layer(sample);
    const struct lz_index *index = &image.index;
    int64_t env = lz_index_find(index, "usr/bin/env", 11), bin = lz_index_find(index, "bin", 3);
    CHECK_EQ(ask(index, "usr/bin/env", 0), env);
    CHECK_EQ(ask(index, "/usr/bin/env", 0), env);
    CHECK_EQ(ask(index, "/", 0), 0);
    CHECK_EQ(ask(index, "bin", LZ_UNION_NOFOLLOW), bin);
    CHECK_EQ(ask(index, "usr/bin/nothing", 0), -ENOENT);
    CHECK_EQ(ask(index, "nothing", 0), -ENOENT);
    CHECK_EQ(ask(index, "/nothing", 0), -ENOENT);
    static const char *const walks[] = {"",      "bin/env",      "//usr",    "usr//bin",      "usr/",        "usr/.",
                                        "..",    "usr/bin/..",   "README/x", "no/such/name",  "usr/lib/x",   "///",
                                        "./usr", "usr/./bin/en", "README/",  "usr/../README", "usr/bin/../x"};
    for (size_t i = 0; i < sizeof walks / sizeof *walks; i++)
        CHECK_EQ(ask(index, walks[i], LZ_UNION_NOFOLLOW), LZ_LOOKUP_WALK);
    CHECK_EQ(ask(index, "bin", 0), LZ_LOOKUP_WALK);
    CHECK_EQ(lz_lookup_try(index, "usr\0x", 5, 0), LZ_LOOKUP_WALK);
    CHECK_EQ(lz_lookup_try(index, "\0", 1, 0), LZ_LOOKUP_WALK);
    char name[LZ_PATH_MAX + 2];
    memset(name, 'n', sizeof name);
    CHECK_EQ(lz_lookup_try(index, name, LZ_NAME_MAX, 0), -ENOENT);
    CHECK_EQ(lz_lookup_try(index, name, LZ_NAME_MAX + 1, 0), LZ_LOOKUP_WALK);
    memset(name, '/', sizeof name);
    memcpy(name + sizeof name - 6, "README", 6);
    CHECK_EQ(lz_lookup_try(index, name, sizeof name, 0), LZ_LOOKUP_WALK);
    free_image(&image);
}

/* A batch of every size, hits and misses mixed, packed and not, gives what one after the other gives. */
static void batches(void)
{
    static const char *const paths[] = {"/usr/bin/env", "nothing", "README",  "/", "bin",
                                        "usr/bin/no",   "usr",     "bin/env", ""};
    struct image image = layer(sample);
    struct lz_branch branch = {.kind = LZ_BRANCH_INDEX, .index = &image.index, .objects_fd = -1, .fd = -1};
    struct lz_union_options options = {.lowers = &branch, .lower_count = 1, .upper_fd = -1, .work_fd = -1};
    uint32_t first_layer = 7;
    struct lz_lookup lookup = {.index = &image.index, .lowers = &branch, .first_layer = &first_layer};
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &lookup.layers, NULL), 0);
    for (size_t count = 0; count < 200; count++) {
        struct lz_text *texts = calloc(count + 1, sizeof *texts);
        uint64_t *offsets = calloc(count + 1, sizeof *offsets);
        struct lz_lookup_row *rows = malloc((count + 1) * sizeof *rows), *same = malloc((count + 1) * sizeof *same);
        struct lz_buf packed = {0};
        CHECK(texts != NULL && offsets != NULL && rows != NULL && same != NULL);
        for (size_t i = 0; i < count; i++) {
            const char *path = paths[i * 7 % (sizeof paths / sizeof *paths)];
            texts[i] = (struct lz_text){path, strlen(path)};
            CHECK_EQ(lz_buf_append(&packed, path, strlen(path)), 0);
            offsets[i + 1] = packed.size;
        }
        lz_lookup_many(&lookup, texts, count, LZ_UNION_NOFOLLOW, rows);
        CHECK_EQ(
            lz_lookup_packed(&lookup, (const char *)packed.data, packed.size, offsets, count, LZ_UNION_NOFOLLOW, same),
            0);
        CHECK(count == 0 || memcmp(rows, same, count * sizeof *rows) == 0);
        for (size_t i = 0; i < count; i++) {
            struct lz_union_info info = {0};
            int rc = lz_union_stat(lookup.layers, texts[i].bytes, texts[i].size, LZ_UNION_NOFOLLOW, &info);
            CHECK_EQ(rows[i].error, -rc);
            CHECK_EQ(rows[i].kind, info.kind);
            CHECK_EQ(rows[i].entry, rc == 0 ? info.entry : -1);
            CHECK_EQ(rows[i].layer, rc == 0 ? 7 : -1);
            CHECK_EQ(rows[i].mode, info.mode);
            CHECK_EQ(rows[i].uid, info.uid);
            CHECK_EQ(rows[i].size, info.size);
        }
        if (count > 1) { /* offsets that decrease, or lead outside */
            CHECK_EQ(lz_lookup_packed(&lookup, (const char *)packed.data, packed.size - 1, offsets, count, 0, same),
                     packed.size > 0 && offsets[count] == packed.size ? -EINVAL : 0);
            offsets[count / 2] = UINT64_MAX;
            CHECK_EQ(lz_lookup_packed(&lookup, (const char *)packed.data, packed.size, offsets, count, 0, same),
                     -EINVAL);
        }
        lz_buf_free(&packed);
        free(texts);
        free(offsets);
        free(rows);
        free(same);
    }
    lz_union_free(lookup.layers);
    free_image(&image);
}

int main(void)
{
    RUN(one);
    RUN(batches);
    return check_end();
}
