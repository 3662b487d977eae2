/* The tar writer: what it writes is read back as what it was given, and is the same bytes each time. */
#include "tar_listing.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define NAMES "abcdefghijklmnopqrstuvwxyz/0123456789-._\xe9\n = "

/* As the reader gives it: a directory with its slash. */
static void say_expected(struct lz_buf *out, struct lz_tar_entry entry)
{
    struct lz_buf slashed = {0};
    if (entry.type == LZ_TAR_DIRECTORY && entry.path[entry.path_size - 1] != '/') {
        say(&slashed, entry.path);
        CHECK_EQ(lz_buf_append(&slashed, "/", 2), 0);
        entry.path = (const char *)slashed.data;
        entry.path_size++;
    }
    if (entry.extents != NULL) {
        entry.stored_size = 0;
        for (size_t i = 0; i < entry.extent_count; i++)
            entry.stored_size += entry.extents[i].size;
    }
    say_entry(out, &entry);
    CHECK_EQ(lz_buf_append(out, "", 1), 0);
    lz_buf_free(&slashed);
}

/* Writes the entry and reads its headers back; returns how many bytes they are. */
static size_t round_trip(const struct lz_tar_entry *entry)
{
    struct lz_buf bytes = {0}, again = {0}, expected = {0}, found = {0};
    struct lz_detail detail = {{0}};
    int rc = lz_tar_write_entry(entry, &bytes, &detail);
    if (rc != 0)
        fprintf(stderr, "  %s\n", detail.text);
    CHECK_EQ(rc, 0);
    CHECK_EQ(bytes.size % 512, 0);
    CHECK_EQ(lz_tar_write_entry(entry, &again, &detail), 0);
    CHECK(again.size == bytes.size && memcmp(again.data, bytes.data, bytes.size) == 0);
    struct stream stream = {.data = bytes.data, .size = bytes.size, .chunk = 500};
    const struct lz_tar_source source = {.next = stream_next, .literal = stream_literal, .ctx = &stream};
    struct lz_tar_reader *reader;
    struct lz_tar_entry read;
    CHECK_EQ(lz_tar_reader_new(&source, 0, &reader), 0);
    rc = lz_tar_next(reader, &read, &detail);
    if (rc != 1)
        fprintf(stderr, "  %s\n", detail.text);
    CHECK_EQ(rc, 1);
    say_entry(&found, &read);
    CHECK_EQ(lz_buf_append(&found, "", 1), 0);
    say_expected(&expected, *entry);
    CHECK_STR((const char *)found.data, (const char *)expected.data);
    CHECK_EQ(stream.rebuilt.size, bytes.size); /* nothing of it was taken for content */
    size_t size = bytes.size;
    lz_tar_reader_free(reader);
    stream_free(&stream);
    lz_buf_free(&bytes);
    lz_buf_free(&again);
    lz_buf_free(&expected);
    lz_buf_free(&found);
    return size;
}

static struct lz_tar_entry named(enum lz_tar_type type, const char *path)
{
    bool link = type == LZ_TAR_HARDLINK || type == LZ_TAR_SYMLINK;
    return (struct lz_tar_entry){.type = type,
                                 .path = path,
                                 .path_size = strlen(path),
                                 .link = link ? "target" : NULL,
                                 .link_size = link ? 6 : 0,
                                 .mode = 0755,
                                 .uid = 1000,
                                 .gid = 100,
                                 .mtime = 1000000000};
}

/* POSIX.1-2017 pax(1), "ustar Interchange Format", field by field. */
static void exact_header(void)
{
    struct lz_tar_entry entry = named(LZ_TAR_SYMLINK, "some/where");
    struct lz_buf bytes = {0};
    uint8_t expected[512] = {0};
    memcpy(expected, "some/where", 10);
    memcpy(expected + 100, "0000755", 8);
    memcpy(expected + 108, "0001750", 8);
    memcpy(expected + 116, "0000144", 8);
    memcpy(expected + 124, "00000000000", 12);
    memcpy(expected + 136, "07346545000", 12);
    memcpy(expected + 148, "        ", 8);
    expected[156] = '2';
    memcpy(expected + 157, "target", 6);
    memcpy(expected + 257, "ustar\00000", 8);
    memcpy(expected + 329, "0000000", 8);
    memcpy(expected + 337, "0000000", 8);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof expected; i++)
        sum += expected[i];
    (void)snprintf((char *)expected + 148, 8, "%06o", sum);
    CHECK_EQ(lz_buf_append(&bytes, "before", 6), 0);
    CHECK_EQ(lz_tar_write_entry(&entry, &bytes, NULL), 0);
    CHECK_EQ(bytes.size, 6 + 512);
    CHECK(memcmp(bytes.data, "before", 6) == 0);
    CHECK(memcmp(bytes.data + 6, expected, 512) == 0);
    lz_buf_free(&bytes);
}

static void every_type(void)
{
    for (int type = LZ_TAR_FILE; type <= LZ_TAR_FIFO; type++) {
        struct lz_tar_entry entry = named((enum lz_tar_type)type, "a/b");
        if (type == LZ_TAR_CHAR || type == LZ_TAR_BLOCK_DEVICE) {
            entry.major = 259;
            entry.minor = (1u << 20) - 1;
        }
        if (type == LZ_TAR_FILE)
            entry.size = entry.stored_size = 12345;
        for (entry.mode = 0; entry.mode <= 07777; entry.mode += 0777)
            CHECK_EQ(round_trip(&entry), 512);
    }
}

static char *repeat(char letter, size_t size)
{
    char *name = malloc(size + 1);
    CHECK(name != NULL);
    memset(name, letter, size);
    name[size] = 0;
    return name;
}

static void every_name_length(void)
{
    for (size_t size = 1; size < 520; size++) {
        char *name = repeat('n', size);
        struct lz_tar_entry entry = named(LZ_TAR_FILE, name);
        /* "512 path=...\n" fills a block */
        CHECK_EQ(round_trip(&entry), size <= 100 ? 512 : size <= 502 ? 512 * 3 : 512 * 4);
        entry = named(LZ_TAR_DIRECTORY, name);
        CHECK(round_trip(&entry) == 512 || size > 99);
        entry = named(LZ_TAR_SYMLINK, "link");
        entry.link = name;
        entry.link_size = size;
        CHECK(round_trip(&entry) == 512 || size > 100);
        for (size_t slash = 1; slash + 1 < size; slash += 7) { /* a prefix of 155 bytes, a name of 100 */
            name[slash] = '/';
            entry = named(LZ_TAR_FILE, name);
            bool fits = size <= 100 || (slash <= 155 && size - slash - 1 <= 100);
            CHECK_EQ(round_trip(&entry) == 512, fits);
            name[slash] = 'n';
        }
        free(name);
    }
}

static void numbers(void)
{
    static const uint32_t ids[] = {0, 1, (1u << 21) - 1, 1u << 21, 3000000, UINT32_MAX};
    static const uint64_t sizes[] = {0, 1, (1ull << 33) - 1, 1ull << 33, 1ull << 40, INT64_MAX};
    static const int64_t times[] = {0, 1, -1, -86400, (1ll << 33) - 1, 1ll << 33, INT64_MAX, INT64_MIN + 1};
    static const uint32_t fractions[] = {0, 1, 500000000, 999999999, 120000000};
    struct lz_tar_entry entry = named(LZ_TAR_FILE, "file");
    for (size_t i = 0; i < COUNT(ids); i++) {
        entry.uid = ids[i];
        entry.gid = ids[COUNT(ids) - 1 - i];
        round_trip(&entry);
    }
    for (size_t i = 0; i < COUNT(sizes); i++) {
        entry.size = entry.stored_size = sizes[i];
        round_trip(&entry);
    }
    for (size_t i = 0; i < COUNT(times); i++) {
        for (size_t j = 0; j < COUNT(fractions); j++) {
            entry.mtime = times[i];
            entry.mtime_nsec = fractions[j];
            round_trip(&entry);
        }
    }
}

static void xattrs(void)
{
    static const uint8_t every_byte[] = "\n=\0 30 SCHILY.xattr.user.no=such\n\xff\x80";
    const struct lz_tar_xattr all[] = {
        {"security.capability", 19, (const uint8_t *)"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20},
        {"user.empty", 10, (const uint8_t *)"", 0},
        {"user.every byte", 15, every_byte, sizeof every_byte},
        {"user.\xff\n", 7, (const uint8_t *)"x", 1},
    };
    for (int type = LZ_TAR_FILE; type <= LZ_TAR_FIFO; type++) {
        struct lz_tar_entry entry = named((enum lz_tar_type)type, "entry");
        entry.xattrs = all;
        for (entry.xattr_count = 1; entry.xattr_count <= COUNT(all); entry.xattr_count++)
            round_trip(&entry);
    }
    /* a record's length counts its own digits: every length around the powers of ten */
    uint8_t *value = (uint8_t *)repeat('v', 70000);
    for (size_t size = 0; size < 70000; size += size < 1100 || (size > 9900 && size < 10010) ? 1 : 1000) {
        struct lz_tar_xattr one = {"user.x", 6, value, size};
        struct lz_tar_entry entry = named(LZ_TAR_FILE, "f");
        entry.xattrs = &one;
        entry.xattr_count = 1;
        CHECK(round_trip(&entry) >= 1024 + size);
    }
    free(value);
}

static void sparse(void)
{
    struct lz_tar_extent some[300];
    for (size_t i = 0; i < COUNT(some); i++)
        some[i] = (struct lz_tar_extent){.offset = (uint64_t)i << 33, .size = 4096 + i};
    char *name = repeat('n', 300);
    struct lz_tar_entry entry = named(LZ_TAR_FILE, name);
    entry.size = INT64_MAX;
    entry.extents = some;
    for (entry.extent_count = 0; entry.extent_count <= COUNT(some); entry.extent_count++)
        round_trip(&entry);
    entry.extent_count = 2;
    some[1] = (struct lz_tar_extent){.offset = 4096, .size = 1ull << 40}; /* stored more than eleven digits hold */
    round_trip(&entry);
    entry.size = 4096 + (1ull << 40);
    round_trip(&entry);
    free(name);
}

static void refuse(const struct lz_tar_entry *entry)
{
    struct lz_buf out = {0};
    struct lz_detail detail = {{0}};
    CHECK_EQ(lz_buf_append(&out, "before", 6), 0);
    CHECK_EQ(lz_tar_write_entry(entry, &out, &detail), LZ_E_FORMAT);
    CHECK_EQ(out.size, 6);
    CHECK(detail.text[0] != 0);
    lz_buf_free(&out);
}

static void what_tar_cannot_say(void)
{
    struct lz_tar_entry entry = named(LZ_TAR_FILE, "");
    refuse(&entry);
    entry = named(LZ_TAR_FILE, "a");
    entry.path = "a\0b";
    entry.path_size = 3;
    refuse(&entry);
    entry = named(LZ_TAR_FILE, "file/"); /* a reader would take it for a directory */
    refuse(&entry);
    entry = named(LZ_TAR_SYMLINK, "a");
    entry.link_size = 0;
    refuse(&entry);
    entry.link = "a\0b";
    entry.link_size = 3;
    refuse(&entry);
    entry = named(LZ_TAR_FILE, "a");
    entry.size = (uint64_t)INT64_MAX + 1;
    refuse(&entry);
    entry = named(LZ_TAR_FILE, "a");
    entry.mtime_nsec = 1000000000;
    refuse(&entry);
    entry = named(LZ_TAR_FILE, "a");
    entry.mtime = INT64_MIN;
    refuse(&entry);
    entry = named(LZ_TAR_CHAR, "a");
    entry.major = 1u << 21;
    refuse(&entry);
    entry = named(LZ_TAR_CHAR, "a");
    entry.minor = 1u << 21;
    refuse(&entry);
    static const struct lz_tar_xattr bad_names[] = {{"user.a=b", 8, (const uint8_t *)"", 0},
                                                    {"user\0b", 6, (const uint8_t *)"", 0},
                                                    {"", 0, (const uint8_t *)"", 0}};
    for (size_t i = 0; i < COUNT(bad_names); i++) {
        entry = named(LZ_TAR_FILE, "a");
        entry.xattrs = &bad_names[i];
        entry.xattr_count = 1;
        refuse(&entry);
    }
    static const struct lz_tar_extent bad_maps[][2] = {
        {{0, 512}, {256, 512}},               /* overlap */
        {{512, 512}, {0, 512}},               /* backwards */
        {{0, 512}, {4096, 1}},                /* past the end */
        {{0, 512}, {4000, UINT64_MAX - 100}}, /* the sum wraps */
        {{0, 512}, {UINT64_MAX, 1}},          /* and again */
    };
    for (size_t i = 0; i < COUNT(bad_maps); i++) {
        entry = named(LZ_TAR_FILE, "a");
        entry.size = 4096;
        entry.extents = bad_maps[i];
        entry.extent_count = 2;
        refuse(&entry);
    }
    static const struct lz_tar_extent all = {0, INT64_MAX}; /* with its map, more than a size can say */
    entry = named(LZ_TAR_FILE, "a");
    entry.size = INT64_MAX;
    entry.extents = &all;
    entry.extent_count = 1;
    refuse(&entry);
}

static uint32_t random_below(uint32_t *state, uint32_t bound)
{
    *state = *state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)*state * bound >> 32);
}

static void random_entries(void)
{
    uint32_t state = 2;
    for (int n = 0; n < 20000; n++) {
        char path[301], link[301];
        struct lz_tar_entry entry = named((enum lz_tar_type)random_below(&state, LZ_TAR_FIFO + 1), "");
        entry.path_size = 1 + random_below(&state, 1 + random_below(&state, 300));
        for (size_t i = 0; i < entry.path_size; i++)
            path[i] = NAMES[random_below(&state, sizeof NAMES - 1)];
        if (path[entry.path_size - 1] == '/')
            path[entry.path_size - 1] = 'x';
        path[entry.path_size] = 0;
        entry.path = path;
        if (entry.link != NULL) {
            entry.link_size = 1 + random_below(&state, 300);
            for (size_t i = 0; i < entry.link_size; i++)
                link[i] = NAMES[random_below(&state, sizeof NAMES - 1)];
            link[entry.link_size] = 0;
            entry.link = link;
        }
        entry.uid = random_below(&state, UINT32_MAX) >> random_below(&state, 32);
        entry.gid = random_below(&state, UINT32_MAX) >> random_below(&state, 32);
        entry.mtime = (int64_t)random_below(&state, UINT32_MAX) * ((int)random_below(&state, 9) - 3);
        entry.mtime_nsec = random_below(&state, 2) != 0 ? random_below(&state, 1000000000) : 0;
        if (entry.type == LZ_TAR_FILE)
            entry.size = entry.stored_size = (uint64_t)random_below(&state, UINT32_MAX) << random_below(&state, 31);
        round_trip(&entry);
    }
}

int main(void)
{
    RUN(exact_header);
    RUN(every_type);
    RUN(every_name_length);
    RUN(numbers);
    RUN(xattrs);
    RUN(sparse);
    RUN(what_tar_cannot_say);
    RUN(random_entries);
    return check_end();
}
