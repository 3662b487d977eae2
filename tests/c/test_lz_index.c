/* The index file: every question has the right answer, and no byte of it, however changed, makes an answer wrong or
 * leads outside the mapping. */
#include <dirent.h>
#include <errno.h>
#include <xxhash.h>

#include "load_file.h"
#include "tree_script.h"

static const char *const sample = "d usr 1; d usr/bin 2; f usr/bin/env 5; h usr/bin/env2 usr/bin/env; s bin 3 usr/bin; "
                                  "c dev/null 4; w etc/gone; o var; f var/a 6; f var/aa 7; f var/b 8; f README 10";

static int64_t find(const struct lz_index *index, const char *path)
{
    return lz_index_find(index, path, strlen(path));
}

static void check_answers(const struct lz_index *index)
{
    for (uint32_t i = 0; i < index->entry_count; i++) {
        const struct lz_entry *entry = &index->entries[i];
        CHECK_EQ(find(index, lz_index_path(index, i)), i);
        if (i > 0)
            CHECK_EQ(lz_index_child(index, entry->parent, lz_index_name(index, i), entry->name_size), i);
        CHECK_EQ(lz_index_child(index, i, "no such name", 12), -ENOENT);
    }
}

static void lookup(void)
{
    struct image image = layer(sample);
    const struct lz_index *index = &image.index;
    check_answers(index);
    CHECK_EQ(find(index, ""), 0);
    CHECK_EQ(find(index, "usr/"), -ENOENT);
    CHECK_EQ(find(index, "/usr"), -ENOENT);
    CHECK_EQ(find(index, "usr/bin/en"), -ENOENT);
    CHECK_EQ(lz_index_child(index, 0, "", 0), -ENOENT);
    CHECK_EQ(lz_index_child(index, (uint32_t)find(index, "var"), "aaa", 3), -ENOENT);
    CHECK_EQ(lz_index_child(index, (uint32_t)find(index, "README"), "a", 1), -ENOENT);
    char *text = dump(index);
    CHECK_STR(text, "D . 0 i|F README 10|S bin 3> usr/bin|D dev 0 i|D etc 0 i|D usr 1|D var 0 i o|C dev/null 4|"
                    "W etc/gone 0|D usr/bin 2|F var/a 6|F var/aa 7|F var/b 8|F usr/bin/env 5 2>13|"
                    "F usr/bin/env2 5 2>13");
    free(text);
    CHECK_EQ(index->object_count, 5); /* uid 5, 6, 7, 8, 10 */
    CHECK_EQ(index->entries[0].link_count, 2 + 4);
    free_image(&image);
}

static void batches(void)
{
    struct image image = layer(sample);
    struct lz_buf paths = {0};
    uint64_t offsets[101] = {0};
    int64_t found[100];
    for (uint32_t i = 0; i < 100; i++) {
        const char *path = i % 3 == 0 ? "missing/name" : lz_index_path(&image.index, i % image.index.entry_count);
        CHECK_EQ(lz_buf_append(&paths, path, strlen(path)), 0);
        offsets[i + 1] = paths.size;
    }
    for (size_t count = 0; count <= 100; count++) {
        memset(found, 0x55, sizeof found);
        lz_index_find_many(&image.index, (const char *)paths.data, offsets, count, found);
        for (uint32_t i = 0; i < count; i++)
            CHECK_EQ(found[i], i % 3 == 0 ? -1 : (int64_t)(i % image.index.entry_count));
    }
    lz_buf_free(&paths);
    free_image(&image);
}

static void xattrs(void)
{
    struct image image = layer(sample);
    struct lz_xattr xattr;
    uint32_t cursor = 0, number = (uint32_t)find(&image.index, "usr/bin/env2"); /* uid 5: two of them */
    CHECK_EQ(lz_index_next_xattr(&image.index, number, &cursor, &xattr), 1);
    CHECK(xattr.name_size == 6 && memcmp(xattr.name, "user.a", 6) == 0);
    CHECK(xattr.value_size == 1 && xattr.value[0] == '1');
    CHECK_EQ(lz_index_next_xattr(&image.index, number, &cursor, &xattr), 1);
    CHECK(xattr.name_size == 9 && memcmp(xattr.name, "user.long", 9) == 0);
    CHECK(xattr.value_size == 4 && memcmp(xattr.value, "four", 4) == 0);
    CHECK_EQ(lz_index_next_xattr(&image.index, number, &cursor, &xattr), 0);
    CHECK_EQ(lz_index_next_xattr(&image.index, number, &cursor, &xattr), 0);
    cursor = 0;
    CHECK_EQ(lz_index_next_xattr(&image.index, 0, &cursor, &xattr), 0);
    free_image(&image);
}

static void every_byte_flipped(void)
{
    struct image image = layer(sample);
    char *before = dump(&image.index);
    uint32_t refused = 0;
    for (size_t at = 0; at < image.size; at++) {
        for (unsigned bits = 1; bits <= 0xff; bits = bits == 1 ? 0x80 : bits == 0x80 ? 0xff : 0x100) {
            struct lz_index index;
            struct lz_detail detail = {{0}};
            image.bytes[at] ^= (uint8_t)bits;
            int rc = lz_index_open(image.bytes, image.size, &index, &detail);
            if (rc == 0) {
                CHECK(at >= LZ_INDEX_HEADER_SIZE && at < LZ_INDEX_INLINE_OFFSET); /* the only bytes that mean nothing */
                char *after = dump(&index);
                CHECK_STR(after, before);
                free(after);
            } else {
                CHECK(rc < -10000 && detail.text[0] != 0);
                refused++;
            }
            image.bytes[at] ^= (uint8_t)bits;
        }
    }
    CHECK_EQ(refused, 3 * (image.size - LZ_INDEX_INLINE_OFFSET + LZ_INDEX_HEADER_SIZE));
    free(before);
    free_image(&image);
}

static void seal(struct image *image)
{
    struct lz_index_header *header = (void *)image->bytes;
    uint64_t from = header->entries.offset;
    if (from <= image->size)
        header->table_checksum = XXH3_64bits(image->bytes + from, image->size - from);
    header->header_checksum = XXH3_64bits(header, offsetof(struct lz_index_header, header_checksum));
}

/* Reads whatever the index says there is. */
static void wander(const struct lz_index *index)
{
    struct lz_xattr xattr;
    volatile uint64_t seen = 0;
    char *text = dump(index);
    free(text);
    for (uint32_t i = 0; i < index->entry_count; i++) {
        seen += (uint64_t)find(index, lz_index_path(index, i));
        seen += (uint64_t)lz_index_child(index, i, "a", 1);
        for (uint32_t cursor = 0; lz_index_next_xattr(index, i, &cursor, &xattr) == 1;)
            seen += xattr.value_size > 0 ? xattr.value[xattr.value_size - 1] : 0;
        CHECK(i == 0 || index->entries[i].parent < i);
    }
}

/* Somebody who can write checksums: the structure itself must hold. */
static void every_byte_forged(void)
{
    struct image image = layer(sample);
    uint8_t *pristine = malloc(image.size);
    CHECK(pristine != NULL);
    memcpy(pristine, image.bytes, image.size);
    uint32_t opened = 0;
    for (size_t at = 0; at < image.size; at = at == 511 ? LZ_INDEX_INLINE_OFFSET : at + 1) {
        for (unsigned bits = 1; bits <= 0xff; bits = bits == 0x80 ? 0xff : bits * 2) {
            struct lz_index index;
            image.bytes[at] ^= (uint8_t)bits;
            seal(&image);
            if (lz_index_open(image.bytes, image.size, &index, NULL) == 0) {
                wander(&index);
                opened++;
            }
            memcpy(image.bytes, pristine, image.size);
        }
    }
    CHECK(opened > 0); /* a changed uid is as good as another */
    free(pristine);
    free_image(&image);
}

static void every_length(void)
{
    struct image image = layer(sample);
    struct lz_index index;
    for (size_t size = 0; size < image.size; size++) {
        uint8_t *cut = malloc(size + 1);
        CHECK(cut != NULL);
        memcpy(cut, image.bytes, size);
        CHECK_EQ(lz_index_open(cut, size, &index, NULL), LZ_E_TRUNCATED);
        free(cut);
    }
    uint8_t *longer = calloc(1, image.size + 8);
    CHECK(longer != NULL);
    memcpy(longer, image.bytes, image.size);
    CHECK_EQ(lz_index_open(longer, image.size + 8, &index, NULL), LZ_E_FORMAT);
    free(longer);
    free_image(&image);
}

static void refuse(struct image *image, const char *why)
{
    struct lz_index index;
    struct lz_detail detail = {{0}};
    seal(image);
    CHECK_EQ(lz_index_open(image->bytes, image->size, &index, &detail), LZ_E_FORMAT);
    if (strstr(detail.text, why) == NULL)
        fprintf(stderr, "  got: %s\n", detail.text);
    CHECK(strstr(detail.text, why) != NULL);
    free_image(image);
}

static struct lz_entry *entry_of(struct image *image, const char *path)
{
    int64_t number = find(&image->index, path);
    CHECK(number >= 0);
    return (struct lz_entry *)(image->bytes + image->index.header->entries.offset) + number;
}

static char *text_of(struct image *image, const struct lz_entry *entry)
{
    return (char *)image->bytes + image->index.header->strings.offset + entry->path_offset;
}

static void forged_relations(void)
{
    struct image image = layer(sample);
    text_of(&image, entry_of(&image, "var/b"))[4] = 'A'; /* var/a, var/aa, var/A: out of order */
    refuse(&image, "does not fit its parent");
    image = layer(sample);
    memcpy(text_of(&image, entry_of(&image, "var/aa")) + 4, "..", 2);
    refuse(&image, "does not fit its parent");
    image = layer(sample);
    entry_of(&image, "dev")->child_count = 2; /* and so the parent of etc/gone too */
    refuse(&image, "directories share children");
    image = layer(sample);
    entry_of(&image, "etc")->child_count = 0;
    entry_of(&image, "etc")->first_child = 0;
    refuse(&image, "does not fit its parent");
    image = layer(sample);
    entry_of(&image, "dev")->first_child = 1; /* its grandparent's: a walk down would never end */
    refuse(&image, "children lie outside");
    image = layer(sample);
    entry_of(&image, "var/a")->link = (uint32_t)find(&image.index, "README");
    entry_of(&image, "var/a")->link_count = 2;
    refuse(&image, "hard link");
    image = layer(sample);
    entry_of(&image, "usr/bin/env2")->link_count = 0;
    refuse(&image, "hard link");
    image = layer(sample);
    entry_of(&image, "README")->flags = LZ_FLAG_INLINE; /* 5 bytes of none */
    refuse(&image, "inline");
    image = layer(sample);
    entry_of(&image, "bin")->flags = LZ_FLAG_OPAQUE;
    refuse(&image, "flags");
    image = layer(sample);
    entry_of(&image, "bin")->size = UINT64_MAX;
    refuse(&image, "target");
    image = layer(sample);
    struct lz_slot *slot = (struct lz_slot *)(image.bytes + image.index.header->slots.offset);
    while (slot->entry_plus_one == 0)
        slot++;
    slot->entry_plus_one = image.index.entry_count + 1;
    refuse(&image, "hash");
    image = layer(sample);
    slot = (struct lz_slot *)(image.bytes + image.index.header->slots.offset);
    for (uint32_t i = 0; i <= image.index.slot_mask; i++)
        slot[i].entry_plus_one = 1; /* none free: a miss would never end */
    refuse(&image, "hash");
}

/* Why the files of tests/fuzz/corpus/lz_index are refused, by how their names begin. */
static const struct {
    const char *begin, *why;
    int code;
} reasons[] = {
    {"bytes-after-the-end", "bytes, header says", LZ_E_FORMAT},
    {"children-of-two-parents", "directories share children", LZ_E_FORMAT},
    {"children-", "a directory's children lie outside the table", LZ_E_FORMAT},
    {"cut-in-the-header", "less than its header", LZ_E_TRUNCATED},
    {"cut", "bytes, header says", LZ_E_TRUNCATED},
    {"empty", "0 bytes, less than its header", LZ_E_TRUNCATED},
    {"entries-in-the-header", "a section lies outside the file", LZ_E_FORMAT},
    {"file-offset-wraps", "outside the inline data", LZ_E_FORMAT},
    {"file-past-the-inline-data", "outside the inline data", LZ_E_FORMAT},
    {"file-", "kind does not fit its mode, time or flags", LZ_E_FORMAT},
    {"header-checksum", "the header's checksum", LZ_E_CORRUPT},
    {"inline-data-over-the-table", "a section lies outside the file", LZ_E_FORMAT},
    {"layer-outside", "outside the layer table", LZ_E_FORMAT},
    {"link-", "a hard link's group is malformed", LZ_E_FORMAT},
    {"magic", "wrong magic", LZ_E_FORMAT},
    {"mode-", "kind does not fit its mode, time or flags", LZ_E_FORMAT},
    {"more-entries-than-table", "counts do not fit the sections", LZ_E_FORMAT},
    {"name", "an entry does not fit its parent", LZ_E_FORMAT},
    {"no-entries", "counts do not fit the sections", LZ_E_FORMAT},
    {"objects-", "the objects are not sorted", LZ_E_FORMAT},
    {"parent-", "an entry does not fit its parent", LZ_E_FORMAT},
    {"root-", "entry 0 is not a root", LZ_E_FORMAT},
    {"section-", "a section lies outside the file", LZ_E_FORMAT},
    {"slots-n", "counts do not fit the sections", LZ_E_FORMAT},
    {"slots-outside", "a hash slot points outside the table", LZ_E_FORMAT},
    {"slots-", "the hash table does not fit the entries", LZ_E_FORMAT},
    {"symlink-", "a symlink's target lies outside the strings", LZ_E_FORMAT},
    {"table-checksum", "the table's checksum", LZ_E_CORRUPT},
    {"time-", "kind does not fit its mode, time or flags", LZ_E_FORMAT},
    {"version-", "version 2, expected 1", LZ_E_UNSUPPORTED},
    {"xattr-", "an entry's xattrs are malformed", LZ_E_FORMAT},
};

static void check_corpus_file(const char *name, const struct lz_buf *bytes)
{
    struct lz_index index;
    struct lz_detail detail = {{0}};
    void *mapping = NULL;
    CHECK_EQ(posix_memalign(&mapping, 4096, bytes->size > 0 ? bytes->size : 1), 0);
    if (bytes->size > 0)
        memcpy(mapping, bytes->data, bytes->size);
    int rc = lz_index_open(mapping, bytes->size, &index, &detail);
    if (strncmp(name, "should-fail-", 12) == 0) {
        size_t i = 0;
        while (i < sizeof reasons / sizeof *reasons && strncmp(name + 12, reasons[i].begin, strlen(reasons[i].begin)))
            i++;
        CHECK(i < sizeof reasons / sizeof *reasons);
        if (rc != reasons[i].code || strstr(detail.text, reasons[i].why) == NULL)
            fprintf(stderr, "  %s: %s\n", name, detail.text);
        CHECK_EQ(rc, reasons[i].code);
        CHECK(strstr(detail.text, reasons[i].why) != NULL);
    } else {
        if (rc != 0)
            fprintf(stderr, "  %s: %s\n", name, detail.text);
        CHECK_EQ(rc, 0);
        check_answers(&index);
        wander(&index);
    }
    free(mapping);
}

static void corpus(void)
{
    DIR *directory = opendir("../fuzz/corpus/lz_index");
    int files = 0;
    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char path[512];
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof path, "../fuzz/corpus/lz_index/%s", entry->d_name);
        struct lz_buf bytes = load_file(path);
        check_corpus_file(entry->d_name, &bytes);
        lz_buf_free(&bytes);
        files++;
    }
    (void)closedir(directory);
    CHECK(files > 70);
}

int main(void)
{
    RUN(corpus);
    RUN(lookup);
    RUN(batches);
    RUN(xattrs);
    RUN(every_byte_flipped);
    RUN(every_byte_forged);
    RUN(every_length);
    RUN(forged_relations);
    return check_end();
}
