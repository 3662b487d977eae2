/* A table of contents: what counts is read, what is none is refused, and no change of a byte does harm. */
#include "bytes/lz_toc.h"

#include <stdlib.h>

#include "check.h"

#define A64 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST "\"digest\":\"sha256:" A64 "\""
#define FILE_A "{\"type\":\"reg\",\"name\":\"a\",\"size\":5," DIGEST ",\"offset\":10,\"endOffset\":20}"
#define FIRST "{\"type\":\"reg\",\"name\":\"b\",\"size\":9," DIGEST ",\"offset\":20,\"endOffset\":50,\"chunkSize\":4}"
#define SECOND "{\"type\":\"chunk\",\"name\":\"b\",\"chunkOffset\":4,\"chunkSize\":3,\"offset\":30}"
#define THIRD "{\"type\":\"chunk\",\"name\":\"b\",\"chunkOffset\":7,\"chunkSize\":2,\"offset\":40,\"endOffset\":50}"
#define TABLE(entries) "{\"version\":1,\"entries\":[" entries "]}"
#define GOOD TABLE("{\"type\":\"dir\",\"name\":\"d/\",\"xattrs\":null}," FILE_A "," FIRST "," SECOND "," THIRD)

static int parse(const char *text, struct lz_toc *toc, struct lz_detail *detail)
{
    return lz_toc_parse(text, strlen(text), 100, toc, detail);
}

static void good(void)
{
    struct lz_toc toc;
    CHECK_EQ(parse(GOOD, &toc, NULL), 0);
    CHECK_EQ(toc.file_count, 3);
    CHECK_EQ(toc.files[0].chunk_count, 0);
    CHECK_EQ(toc.files[0].size, 0);
    CHECK_EQ(toc.files[1].size, 5);
    CHECK_EQ(toc.files[1].chunk_count, 1);
    CHECK_EQ(toc.files[1].digest[31], 0xaa);
    CHECK_EQ(toc.chunk_count, 4);
    static const struct lz_toc_chunk expected[] = {{10, 20, 5}, {20, 30, 4}, {30, 40, 3}, {40, 50, 2}};
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(toc.chunks[i].offset, expected[i].offset);
        CHECK_EQ(toc.chunks[i].end, expected[i].end);
        CHECK_EQ(toc.chunks[i].size, expected[i].size);
    }
    CHECK(!toc.has_tar_split);
    lz_toc_free(&toc);
    CHECK_EQ(parse("{\"tarSplitDigest\":\"sha256:" A64 "\",\"version\":1,\"more\":[{}],\"entries\":[]}", &toc, NULL),
             0);
    CHECK(toc.has_tar_split);
    CHECK_EQ(toc.tar_split_digest[0], 0xaa);
    lz_toc_free(&toc);
}

static void bad(void)
{
    static const struct {
        const char *text;
        int code;
    } cases[] = {
        {"", LZ_E_FORMAT},
        {"[]", LZ_E_FORMAT},
        {"{\"version\":1}", LZ_E_FORMAT},
        {"{\"entries\":[]}", LZ_E_UNSUPPORTED},
        {"{\"version\":2,\"entries\":[]}", LZ_E_UNSUPPORTED},
        {"{\"version\":1,\"entries\":[],\"entries\":[]}", LZ_E_FORMAT},
        {"{\"version\":1,\"entries\":[]}x", LZ_E_FORMAT},
        {TABLE(THIRD), LZ_E_FORMAT},
        {TABLE("{\"type\":\"dir\",\"name\":\"d\"}," SECOND), LZ_E_FORMAT},
        {TABLE(FIRST), LZ_E_FORMAT},
        {TABLE(FIRST "," SECOND), LZ_E_FORMAT},
        {TABLE(FIRST "," THIRD), LZ_E_FORMAT},
        {TABLE(FIRST "," SECOND "," THIRD "," THIRD), LZ_E_FORMAT},
        {TABLE(FIRST "," SECOND "," THIRD "," FILE_A), LZ_E_UNSUPPORTED},
        {TABLE(FILE_A "," FILE_A), LZ_E_UNSUPPORTED},
        {TABLE("{\"type\":\"reg\",\"name\":\"a\",\"size\":5,\"offset\":1,\"endOffset\":2}"), LZ_E_FORMAT},
        {TABLE("{\"type\":\"reg\",\"name\":\"a\",\"size\":5," DIGEST ",\"offset\":5,\"endOffset\":5}"), LZ_E_FORMAT},
        {TABLE("{\"type\":\"reg\",\"name\":\"a\",\"size\":5," DIGEST ",\"offset\":6,\"endOffset\":5}"), LZ_E_FORMAT},
        {TABLE("{\"type\":\"reg\",\"name\":\"a\",\"size\":5," DIGEST ",\"offset\":6,\"endOffset\":101}"), LZ_E_FORMAT},
        {TABLE("{\"type\":\"reg\",\"name\":\"a\",\"size\":5," DIGEST ",\"offset\":6}"), LZ_E_FORMAT},
        {TABLE("{\"type\":\"reg\",\"name\":\"a\",\"size\":-5," DIGEST ",\"offset\":6,\"endOffset\":9}"), LZ_E_FORMAT},
        {TABLE("{\"type\":\"reg\",\"name\":\"a\",\"size\":9223372036854775808}"), LZ_E_FORMAT},
        {TABLE("{\"type\":\"reg\",\"digest\":\"md5:1\"}"), LZ_E_FORMAT},
        {TABLE("{\"type\":\"reg\",\"digest\":\"sha256:" A64 "a\"}"), LZ_E_FORMAT},
        {TABLE("{\"type\":1}"), LZ_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lz_toc toc;
        struct lz_detail detail;
        int rc = parse(cases[i].text, &toc, &detail);
        if (rc != cases[i].code)
            fprintf(stderr, "    %s\n", cases[i].text);
        CHECK_EQ(rc, cases[i].code);
        CHECK(detail.text[0] != 0);
        lz_toc_free(&toc);
    }
}

/* Entries that say nothing are three bytes of text, and 72 of memory. */
static void too_many(void)
{
    static const char start[] = "{\"version\":1,\"entries\":[{}", entry[] = ",{}";
    size_t size = sizeof start - 1 + (size_t)3 * LZ_TOC_ENTRIES_MAX;
    char *text = malloc(size);
    struct lz_toc toc;
    struct lz_detail detail;
    CHECK(text != NULL);
    memcpy(text, start, sizeof start - 1);
    for (size_t i = 0; i < LZ_TOC_ENTRIES_MAX; i++)
        memcpy(text + sizeof start - 1 + 3 * i, entry, 3);
    CHECK_EQ(lz_toc_parse(text, size, 100, &toc, &detail), LZ_E_LIMIT);
    CHECK_EQ(strcmp(detail.text, "table of contents: more than 1048576 entries"), 0);
    lz_toc_free(&toc);
    free(text);
}

/* What lz_toc.h promises of a table that was read. */
static void check_table(const struct lz_toc *toc)
{
    uint64_t at = 0;
    size_t next = 0;
    for (size_t i = 0; i < toc->file_count; i++) {
        const struct lz_toc_file *file = &toc->files[i];
        uint64_t size = 0;
        CHECK_EQ(file->first_chunk, next);
        for (size_t n = 0; n < file->chunk_count; n++) {
            const struct lz_toc_chunk *chunk = &toc->chunks[next++];
            CHECK(chunk->offset >= at && chunk->end > chunk->offset && chunk->end <= 100 && chunk->size > 0);
            at = chunk->end;
            size += chunk->size;
        }
        CHECK_EQ(size, file->size);
    }
    CHECK_EQ(next, toc->chunk_count);
}

static void every_byte_changed(void)
{
    static const char others[] = "\"\\{}[],:0129-.eE x\xff";
    size_t size = strlen(GOOD);
    for (size_t at = 0; at <= size; at++) {
        for (size_t i = 0; i < sizeof others; i++) {
            char *text = malloc(at < size ? size : at); /* of its own, so that the sanitizer sees a byte too many */
            struct lz_toc toc;
            CHECK(text != NULL);
            memcpy(text, GOOD, size);
            if (at < size)
                text[at] = others[i];
            if (lz_toc_parse(text, at < size ? size : at - 1, 100, &toc, NULL) == 0)
                check_table(&toc);
            lz_toc_free(&toc);
            free(text);
        }
    }
    for (size_t cut = 0; cut < size; cut++) {
        char *text = malloc(cut + 1);
        struct lz_toc toc;
        CHECK(text != NULL);
        memcpy(text, GOOD, cut);
        CHECK_EQ(lz_toc_parse(text, cut, 100, &toc, NULL), LZ_E_FORMAT);
        lz_toc_free(&toc);
        free(text);
    }
}

static int split(const char *text, struct lz_tar_split_line *line)
{
    return lz_tar_split_parse(text, strlen(text), line);
}

static void tar_split(void)
{
    struct lz_tar_split_line line;
    CHECK_EQ(split("{\"type\":2,\"payload\":\"YWI=\",\"position\":0}", &line), 0);
    CHECK(!line.is_file);
    CHECK(lz_json_is(&line.payload, "YWI="));
    CHECK_EQ(split("{\"type\":1,\"name\":\"a\",\"size\":7,\"payload\":\"AAAA\",\"position\":1}", &line), 0);
    CHECK(line.is_file);
    CHECK_EQ(line.size, 7);
    CHECK_EQ(split("{\"type\":1,\"name_raw\":\"/w==\",\"payload\":null,\"position\":1}", &line), 0);
    CHECK_EQ(line.size, 0);
    static const char *const refused[] = {"",
                                          "{}",
                                          "{\"type\":3}",
                                          "{\"type\":2,\"payload\":1}",
                                          "{\"type\":2}x",
                                          "{\"type\":2,\"payload\":nul}",
                                          "{\"type\":1,\"size\":-1}",
                                          "[2]"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        CHECK_EQ(split(refused[i], &line), LZ_E_FORMAT);
}

int main(void)
{
    RUN(good);
    RUN(bad);
    RUN(too_many);
    RUN(every_byte_changed);
    RUN(tar_split);
    return check_end();
}
