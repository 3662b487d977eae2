/* The tar reader: what each archive of the corpus reads as, in every chunking; and for every cut, every changed byte,
 * every failing call and every limit, an error or a true answer. */
#include <dirent.h>

#include "bytes/lz_tar_pax.h"
#include "tar_corpus.h"
#include "tar_listing.h"

#define CORPUS "../fuzz/corpus/lz_tar"
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* One of each way in which headers, maps, names and content can lie. */
static const char *const samples[] = {
    "ustar-every-type",
    "ustar-bytes-after-the-end",
    "gnu-long-both",
    "gnu-volume-label",
    "gnu-sparse-further-blocks",
    "pax-global-applies-until-taken-back",
    "pax-sparse-0.0",
    "pax-sparse-1.0",
    "pax-xattr-last-wins-and-sorted",
    "pax-owner-and-time",
    "pax-path-and-linkpath",
    "v7-directory-by-slash",
};

static struct lz_buf archive(const char *name)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", CORPUS, name);
    return load_file(path);
}

/* Every byte, but not all of a long content: what comes after so many of them is more of the same. */
static size_t step(size_t at)
{
    return at < 5000 ? 1 : 61;
}

static const char *text(const struct lz_buf *listing)
{
    return (const char *)listing->data;
}

static void corpus_is_read(void)
{
    for (size_t i = 0; i < COUNT(good_archives); i++) {
        struct lz_buf bytes = archive(good_archives[i].name), listing = {0};
        struct lz_detail detail = {{0}};
        int rc = list_every_way(bytes.data, bytes.size, &listing, &detail);
        if (rc != 0 || strcmp(text(&listing), good_archives[i].listing) != 0)
            fprintf(stderr, "  %s: %s\n", good_archives[i].name, detail.text);
        CHECK_EQ(rc, 0);
        CHECK_STR(text(&listing), good_archives[i].listing);
        lz_buf_free(&bytes);
        lz_buf_free(&listing);
    }
}

static void corpus_is_refused(void)
{
    for (size_t i = 0; i < COUNT(bad_archives); i++) {
        char name[128];
        (void)snprintf(name, sizeof name, "should-fail-%s", bad_archives[i].name);
        struct lz_buf bytes = archive(name), listing = {0};
        struct lz_detail detail = {{0}};
        int rc = list_every_way(bytes.data, bytes.size, &listing, &detail);
        if (rc != bad_archives[i].code)
            fprintf(stderr, "  %s\n", name);
        CHECK_EQ(rc, bad_archives[i].code);
        CHECK_STR(detail.text, bad_archives[i].detail);
        CHECK(strstr(detail.text, "at byte ") != NULL); /* so that a person finds the entry */
        lz_buf_free(&bytes);
        lz_buf_free(&listing);
    }
}

static void corpus_is_complete(void)
{
    size_t found = 0;
    DIR *directory = opendir(CORPUS);
    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        const char *name = entry->d_name;
        bool known = name[0] == '.';
        found += !known;
        for (size_t i = 0; i < COUNT(good_archives); i++)
            known = known || strcmp(name, good_archives[i].name) == 0;
        for (size_t i = 0; i < COUNT(bad_archives); i++)
            known = known || (strncmp(name, "should-fail-", 12) == 0 && strcmp(name + 12, bad_archives[i].name) == 0);
        if (!known)
            fprintf(stderr, "  %s: nothing says what it reads as\n", name);
        CHECK(known);
    }
    (void)closedir(directory);
    CHECK_EQ(found, COUNT(good_archives) + COUNT(bad_archives));
}

static void every_truncation(void)
{
    for (size_t i = 0; i < COUNT(samples); i++) {
        struct lz_buf bytes = archive(samples[i]), whole = {0}, listing = {0};
        CHECK_EQ(list_archive(bytes.data, bytes.size, 700, &whole, NULL), 0);
        for (size_t cut = 0; cut < bytes.size; cut += step(cut)) {
            struct lz_detail detail = {{0}};
            int rc = list_archive(bytes.data, cut, 700, &listing, &detail);
            CHECK(rc == 0 || (rc == LZ_E_TRUNCATED && strstr(detail.text, "tar ends inside") != NULL));
            CHECK(strncmp(text(&listing), text(&whole), strlen(text(&listing))) == 0);
        }
        lz_buf_free(&bytes);
        lz_buf_free(&whole);
        lz_buf_free(&listing);
    }
}

/* Makes the checksum of a header right again, by POSIX's rule and not by the reader's code. */
static void seal(uint8_t *block)
{
    unsigned sum = 0;
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < 512; i++)
        sum += block[i];
    (void)snprintf((char *)block + 148, 8, "%06o", sum);
}

static bool is_header(const uint8_t *block)
{
    static const uint8_t zeros[512];
    uint8_t copy[512];
    memcpy(copy, block, 512);
    seal(copy);
    return memcmp(block, zeros, 512) != 0 && memcmp(copy, block, 154) == 0;
}

/* Changes each byte in turn; with `forge`, by somebody who can write checksums. */
static void change_every_byte(const char *name, bool forge)
{
    static const uint8_t changes[] = {0x01, 0x80, 0xff};
    struct lz_buf bytes = archive(name), whole = {0}, listing = {0};
    CHECK_EQ(list_archive(bytes.data, bytes.size, 1 << 20, &whole, NULL), 0);
    for (size_t at = 0; at + 512 <= bytes.size; at += step(at)) {
        uint8_t *block = bytes.data + at / 512 * 512, pristine[512];
        bool header = is_header(block);
        if (forge && !header)
            continue;
        memcpy(pristine, block, 512);
        for (size_t i = 0; i < COUNT(changes); i++) {
            struct lz_detail detail = {{0}};
            bytes.data[at] ^= changes[i];
            if (forge)
                seal(block);
            int rc = list_archive(bytes.data, bytes.size, 1000, &listing, &detail);
            CHECK(rc == 0 || (rc < -10000 && detail.text[0] != 0));
            if (rc == 0 && header && !forge)
                CHECK_STR(text(&listing), text(&whole)); /* the space after the checksum, say */
            memcpy(block, pristine, 512);
        }
    }
    lz_buf_free(&bytes);
    lz_buf_free(&whole);
    lz_buf_free(&listing);
}

static void every_byte_changed(void)
{
    for (size_t i = 0; i < COUNT(samples); i++) {
        change_every_byte(samples[i], false);
        change_every_byte(samples[i], true);
    }
}

static void every_call_failing(void)
{
    for (size_t i = 0; i < COUNT(samples); i++) {
        struct lz_buf bytes = archive(samples[i]);
        for (long n = 1;; n++) {
            struct stream stream = {.data = bytes.data, .size = bytes.size, .chunk = 333, .fail_at = n};
            struct lz_buf listing = {0};
            struct lz_detail detail = {{0}};
            int rc = list_stream(&stream, 0, &listing, &detail);
            bool fired = stream.calls >= n;
            stream_free(&stream);
            lz_buf_free(&listing);
            CHECK_EQ(rc, fired ? -EIO : 0);
            if (!fired)
                break;
        }
        lz_buf_free(&bytes);
    }
}

static int list_limited(const struct lz_buf *bytes, size_t max_header)
{
    struct stream stream = {.data = bytes->data, .size = bytes->size, .chunk = 600};
    struct lz_buf listing = {0};
    struct lz_detail detail = {{0}};
    int rc = list_stream(&stream, max_header, &listing, &detail);
    CHECK(rc == 0 || detail.text[0] != 0);
    stream_free(&stream);
    lz_buf_free(&listing);
    return rc;
}

static void limits(void)
{
    static const struct {
        const char *name;
        size_t needed;
    } cases[] = {
        {"gnu-long-name", 242},                             /* 241 and its NUL */
        {"gnu-long-both", 2 * 242},                         /* a name and a link */
        {"gnu-sparse-further-blocks", 2 * 512},             /* 26 segments, 21 in a block */
        {"pax-time-before-1970", 14},                       /* "14 mtime=-1.5\n" */
        {"pax-two-own-headers", 12 + 8 + 12},               /* path, uid; path */
        {"pax-global-applies-until-taken-back", 23 + 15},   /* the global header's, and the larger of two own */
        {"pax-sparse-1.0-map-over-two-blocks", 101 + 1024}, /* records, and two blocks of map */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct lz_buf bytes = archive(cases[i].name);
        CHECK_EQ(list_limited(&bytes, cases[i].needed), 0);
        CHECK_EQ(list_limited(&bytes, cases[i].needed - 1), LZ_E_LIMIT);
        lz_buf_free(&bytes);
    }
}

/* Content that is not asked for is passed over: the same entries. */
static void content_passed_over(void)
{
    for (size_t i = 0; i < COUNT(good_archives); i++) {
        for (size_t pieces = 0; pieces < 2; pieces++) { /* not at all, and not all of it */
            struct lz_buf bytes = archive(good_archives[i].name), listing = {0};
            struct stream stream = {.data = bytes.data, .size = bytes.size, .chunk = 100};
            const struct lz_tar_source source = {.next = stream_next, .ctx = &stream}; /* without literal() */
            struct lz_tar_reader *reader;
            struct lz_tar_entry entry;
            struct lz_detail detail;
            int rc;
            CHECK_EQ(lz_tar_reader_new(&source, 0, &reader), 0);
            const char *expected = good_archives[i].listing;
            while ((rc = lz_tar_next(reader, &entry, &detail)) == 1) {
                const uint8_t *data;
                size_t size;
                for (size_t n = 0; n < pieces; n++)
                    CHECK(lz_tar_read(reader, &data, &size, &detail) >= 0);
                listing.size = 0;
                say_entry(&listing, &entry);
                CHECK(strncmp(expected, (const char *)listing.data, listing.size) == 0);
                expected = strchr(expected, '\n') + 1;
            }
            CHECK_EQ(rc, 0);
            CHECK_STR(expected, "");
            CHECK_EQ(lz_tar_offset(reader), bytes.size);
            lz_tar_reader_free(reader);
            stream_free(&stream);
            lz_buf_free(&bytes);
            lz_buf_free(&listing);
        }
    }
    lz_tar_reader_free(NULL);
}

/* What comes after an error would be read from the wrong place, and the end after an error is not the end. */
static void errors_stay(void)
{
    static const char *const names[] = {"should-fail-header-checksum", "should-fail-truncated-content",
                                        "should-fail-pax-length-zero", "ustar-bytes-after-the-end"};
    for (size_t i = 0; i < COUNT(names); i++) {
        struct lz_buf bytes = archive(names[i]);
        /* the last one's own bytes are good: its last literal, after the end marker, is refused */
        struct stream stream = {.data = bytes.data, .size = bytes.size, .chunk = 1 << 20, .fail_at = i == 3 ? 6 : 0};
        const struct lz_tar_source source = {.next = stream_next, .literal = stream_literal, .ctx = &stream};
        struct lz_tar_reader *reader;
        struct lz_tar_entry entry;
        const uint8_t *data;
        size_t size;
        int rc;
        CHECK_EQ(lz_tar_reader_new(&source, 0, &reader), 0);
        while ((rc = lz_tar_next(reader, &entry, NULL)) == 1)
            continue;
        CHECK(rc < 0);
        stream.fail_at = 0;
        for (int again = 0; again < 3; again++) {
            struct lz_detail detail = {{0}};
            CHECK_EQ(lz_tar_next(reader, &entry, &detail), rc);
            CHECK(strstr(detail.text, "already failed") != NULL);
            CHECK_EQ(lz_tar_read(reader, &data, &size, &detail), rc);
        }
        lz_tar_reader_free(reader);
        stream_free(&stream);
        lz_buf_free(&bytes);
    }
}

static int number(const char *field, size_t size, int64_t *out)
{
    *out = 77;
    return lz_tar_number((const uint8_t *)field, size, out);
}

static void numbers(void)
{
    static const struct {
        const char *field;
        size_t size;
        int64_t value; /* 77: refused */
    } cases[] = {
        {"0000644\0", 8, 0644},
        {"77777777", 8, 077777777},
        {"777777777777", 12, 0777777777777},
        {"   12 \0x", 8, 012},
        {"\0\0  17 \0", 8, 017},
        {"        ", 8, 0},
        {"12 34\0\0\0", 8, 77},
        {"12a\0\0\0\0\0", 8, 77},
        {"+12\0\0\0\0\0", 8, 77},
        {"\x80\0\0\0\0\0\x01\x00", 8, 256},
        {"\xbf\xff\xff\xff\xff\xff\xff\xff", 8, 0x3fffffffffffffff},
        {"\xc0\0\0\0\0\0\0\0", 8, -0x4000000000000000},
        {"\xff\xff\xff\xff\xff\xff\xff\xff", 8, -1},
        {"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12, INT64_MAX},
        {"\x80\0\0\0\x80\0\0\0\0\0\0\0", 12, 77},
        {"\x80\0\0\x01\0\0\0\0\0\0\0\0", 12, 77},
        {"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", 12, INT64_MIN},
        {"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 12, 77},
        {"\xff\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff", 12, 77},
        {"\xc0\0\0\0\0\0\0\0\0\0\0\0", 12, 77},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t value;
        int rc = number(cases[i].field, cases[i].size, &value);
        CHECK_EQ(value, cases[i].value);
        CHECK_EQ(rc, value == 77 ? LZ_E_FORMAT : 0);
    }
    /* 21 octal digits are 63 bits; the field of no header is that long, but a number must not wrap in one */
    int64_t value;
    CHECK_EQ(number("777777777777777777777", 21, &value), 0);
    CHECK_EQ(value, INT64_MAX);
    CHECK_EQ(number("1000000000000000000000", 22, &value), LZ_E_FORMAT);
    uint64_t decimal = 77;
    CHECK_EQ(lz_tar_decimal("9223372036854775807", 19, &decimal), 0);
    CHECK_EQ(decimal, INT64_MAX);
    CHECK_EQ(lz_tar_decimal("9223372036854775808", 19, &decimal), LZ_E_FORMAT);
    CHECK_EQ(lz_tar_decimal("", 0, &decimal), LZ_E_FORMAT);
    CHECK_EQ(lz_tar_decimal("1 ", 2, &decimal), LZ_E_FORMAT);
}

int main(void)
{
    RUN(corpus_is_read);
    RUN(corpus_is_refused);
    RUN(corpus_is_complete);
    RUN(every_truncation);
    RUN(every_byte_changed);
    RUN(every_call_failing);
    RUN(limits);
    RUN(content_passed_over);
    RUN(errors_stay);
    RUN(numbers);
    return check_end();
}
