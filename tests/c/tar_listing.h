/* tar_listing.h - reads a whole archive in chunks of any size and writes down what the reader said: one line an entry.
 *
 * Each chunk is lent in memory of its own that is given back at the next call, so that the sanitizer sees every use of
 * a chunk after its time, and every byte read past its end.
 */
#ifndef TAR_LISTING_H
#define TAR_LISTING_H

#include <errno.h>

#include "bytes/lz_tar.h"
#include "check.h"
#include "load_file.h"

struct stream {
    const uint8_t *data;
    size_t size, at, chunk;
    uint8_t *lent;
    struct lz_buf rebuilt; /* literals and contents in the order in which they came */
    long calls, fail_at;   /* the n-th call of next() or literal() says -EIO */
};

static int stream_fails(struct stream *stream)
{
    stream->calls++;
    return stream->fail_at > 0 && stream->calls >= stream->fail_at;
}

static int stream_next(void *ctx, const uint8_t **data, size_t *size)
{
    struct stream *stream = ctx;
    free(stream->lent);
    stream->lent = NULL;
    if (stream_fails(stream))
        return -EIO;
    size_t left = stream->size - stream->at, now = left < stream->chunk ? left : stream->chunk;
    if (now == 0)
        return 0;
    stream->lent = malloc(now);
    CHECK(stream->lent != NULL);
    memcpy(stream->lent, stream->data + stream->at, now);
    stream->at += now;
    *data = stream->lent;
    *size = now;
    return 1;
}

static int stream_literal(void *ctx, const uint8_t *data, size_t size)
{
    struct stream *stream = ctx;
    if (stream_fails(stream))
        return -EIO;
    CHECK(size > 0);
    CHECK_EQ(lz_buf_append(&stream->rebuilt, data, size), 0);
    return 0;
}

static void stream_free(struct stream *stream)
{
    free(stream->lent);
    stream->lent = NULL;
    lz_buf_free(&stream->rebuilt);
}

/* ---- one line an entry ---- */

static void say(struct lz_buf *out, const char *text)
{
    CHECK_EQ(lz_buf_append(out, text, strlen(text)), 0);
}

static void say_bytes(struct lz_buf *out, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = ((const uint8_t *)bytes)[i];
        char text[5];
        if (byte > 0x20 && byte < 0x7f)
            (void)snprintf(text, sizeof text, "%c", byte);
        else
            (void)snprintf(text, sizeof text, "\\x%02x", byte);
        say(out, text);
    }
}

static void say_entry(struct lz_buf *out, const struct lz_tar_entry *entry)
{
    char text[160];
    CHECK_EQ(strlen(entry->path), entry->path_size);
    (void)snprintf(text, sizeof text, "%c %o %u:%u %llu %lld.%09u ", "fhlcbdp"[entry->type], entry -> mode,
                   entry -> uid, entry -> gid, (unsigned long long)entry -> size, (long long)entry -> mtime,
                   entry -> mtime_nsec);
    say(out, text);
    say_bytes(out, entry->path, entry->path_size);
    if (entry->link != NULL) {
        CHECK_EQ(strlen(entry->link), entry->link_size);
        say(out, " -> ");
        say_bytes(out, entry->link, entry->link_size);
    }
    if (entry->type == LZ_TAR_CHAR || entry->type == LZ_TAR_BLOCK_DEVICE) {
        (void)snprintf(text, sizeof text, " %u,%u", entry->major, entry->minor);
        say(out, text);
    }
    for (size_t i = 0; i < entry->xattr_count; i++) {
        const struct lz_tar_xattr *xattr = &entry->xattrs[i];
        CHECK_EQ(strlen(xattr->name), xattr->name_size);
        CHECK(i == 0 || strcmp(entry->xattrs[i - 1].name, xattr->name) < 0);
        say(out, " ");
        say_bytes(out, xattr->name, xattr->name_size);
        say(out, "=");
        say_bytes(out, xattr->value, xattr->value_size);
    }
    uint64_t end = 0, stored = 0;
    for (size_t i = 0; i < entry->extent_count; i++) {
        CHECK(entry->extents[i].size > 0 && entry->extents[i].offset >= end);
        end = entry->extents[i].offset + entry->extents[i].size;
        stored += entry->extents[i].size;
        (void)snprintf(text, sizeof text, " [%llu+%llu]", (unsigned long long)entry->extents[i].offset,
                       (unsigned long long)entry->extents[i].size);
        say(out, i < 8 ? text : ".");
    }
    CHECK(end <= entry->size);
    CHECK_EQ(entry->stored_size, entry->extents != NULL ? stored : entry->size);
    say(out, entry->extents != NULL && entry->extent_count == 0 ? " [hole]" : "");
}

/* Reads content into `content`: 0 or the reader's error. */
static inline int read_content(struct lz_tar_reader *reader, struct stream *stream, struct lz_buf *content,
                               struct lz_detail *detail)
{
    const uint8_t *data;
    size_t size;
    int rc;
    content->size = 0;
    while ((rc = lz_tar_read(reader, &data, &size, detail)) == 1) {
        CHECK(size > 0);
        CHECK_EQ(lz_buf_append(content, data, size), 0);
        CHECK_EQ(lz_buf_append(&stream->rebuilt, data, size), 0);
    }
    return rc;
}

static inline uint64_t hash_bytes(const uint8_t *bytes, size_t size) /* FNV-1a */
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

static inline void say_content(struct lz_buf *out, const struct lz_buf *content)
{
    char text[64];
    if (content->size > 0 && content->size <= 16) {
        say(out, " =");
        say_bytes(out, content->data, content->size);
    } else if (content->size > 0) {
        (void)snprintf(text, sizeof text, " #%016llx", (unsigned long long)hash_bytes(content->data, content->size));
        say(out, text);
    }
    say(out, "\n");
}

/* Reads all of it; `listing` (NUL-terminated afterwards) gets the lines. 0, or the reader's error. What came out is
 * always the stream's own bytes up to where the reader stopped; after success it is all of them. */
static inline int list_stream(struct stream *stream, size_t max_header, struct lz_buf *listing,
                              struct lz_detail *detail)
{
    const struct lz_tar_source source = {.next = stream_next, .literal = stream_literal, .ctx = stream};
    struct lz_tar_reader *reader;
    struct lz_tar_entry entry;
    struct lz_buf content = {0};
    int rc = lz_tar_reader_new(&source, max_header, &reader);
    CHECK_EQ(rc, 0);
    while ((rc = lz_tar_next(reader, &entry, detail)) == 1) {
        say_entry(listing, &entry);
        rc = read_content(reader, stream, &content, detail);
        if (rc != 0)
            break;
        CHECK_EQ(content.size, entry.stored_size);
        say_content(listing, &content);
    }
    CHECK_EQ(lz_buf_append(listing, "", 1), 0);
    CHECK(stream->rebuilt.size <= stream->size);
    CHECK(stream->rebuilt.size == 0 || memcmp(stream->rebuilt.data, stream->data, stream->rebuilt.size) == 0);
    if (rc == 0) {
        CHECK_EQ(stream->rebuilt.size, stream->size);
        CHECK_EQ(lz_tar_offset(reader), stream->size);
        CHECK_EQ(lz_tar_next(reader, &entry, detail), 0); /* the end stays the end */
    }
    lz_buf_free(&content);
    lz_tar_reader_free(reader);
    return rc;
}

static inline int list_archive(const void *data, size_t size, size_t chunk, struct lz_buf *listing,
                               struct lz_detail *detail)
{
    struct stream stream = {.data = data, .size = size, .chunk = chunk};
    listing->size = 0;
    int rc = list_stream(&stream, 0, listing, detail);
    stream_free(&stream);
    return rc;
}

/* The same in every chunking: the listing of it whole, and the code. */
static inline int list_every_way(const void *data, size_t size, struct lz_buf *listing, struct lz_detail *detail)
{
    static const size_t chunks[] = {1, 7, 511, 512, 513, 10240};
    int expected = list_archive(data, size, 1 << 20, listing, detail);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        struct lz_buf again = {0};
        CHECK_EQ(list_archive(data, size, chunks[i], &again, detail), expected);
        CHECK_STR((const char *)again.data, (const char *)listing->data);
        lz_buf_free(&again);
    }
    return expected;
}

#endif
