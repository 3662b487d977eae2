#include "lz_toc.h"

#include <stdlib.h>
#include <string.h>

#define NAME_SHOWN 200

/* The members of one entry that count. */
struct entry {
    struct lz_json_text type, name;
    bool has_digest;
    uint8_t digest[LZ_SHA256_SIZE];
    uint64_t size, offset, end_offset, chunk_size, chunk_offset;
};

static int hex_value(char digit)
{
    return digit >= '0' && digit <= '9' ? digit - '0' : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static int take_digest(struct lz_json *json, bool *has, uint8_t digest[LZ_SHA256_SIZE])
{
    static const char prefix[] = "sha256:";
    struct lz_json_text text;
    int rc = lz_json_text(json, &text);
    *has = rc == 0 && text.size > 0; /* empty: there is none */
    if (rc != 0 || text.size == 0)
        return rc;
    if (text.size != sizeof prefix - 1 + LZ_SHA256_HEX_SIZE || memcmp(text.bytes, prefix, sizeof prefix - 1) != 0)
        return LZ_E_FORMAT;
    const char *hex = text.bytes + sizeof prefix - 1;
    for (size_t i = 0; i < LZ_SHA256_SIZE; i++) {
        int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return LZ_E_FORMAT;
        digest[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static int take_member(struct lz_json *json, const struct lz_json_text *key, struct entry *entry)
{
    if (lz_json_is(key, "type"))
        return lz_json_text(json, &entry->type);
    if (lz_json_is(key, "name"))
        return lz_json_text(json, &entry->name);
    if (lz_json_is(key, "digest"))
        return take_digest(json, &entry->has_digest, entry->digest);
    if (lz_json_is(key, "size"))
        return lz_json_number(json, &entry->size);
    if (lz_json_is(key, "offset"))
        return lz_json_number(json, &entry->offset);
    if (lz_json_is(key, "endOffset"))
        return lz_json_number(json, &entry->end_offset);
    if (lz_json_is(key, "chunkSize"))
        return lz_json_number(json, &entry->chunk_size);
    if (lz_json_is(key, "chunkOffset"))
        return lz_json_number(json, &entry->chunk_offset);
    return lz_json_skip(json);
}

static int bad_entry(const struct lz_json_text *name, int code, struct lz_detail *detail, const char *what)
{
    int shown = (int)(name->size < NAME_SHOWN ? name->size : NAME_SHOWN);
    return lz_fail(detail, code, "table of contents: entry %.*s: %s", shown, name->bytes, what);
}

struct parser {
    struct lz_toc *toc;
    struct lz_detail *detail;
    uint64_t end;
    uint64_t file_end, chunk_end; /* endOffset of the current file and of its last chunk */
    uint64_t given;               /* bytes of the file that its chunks have so far */
};

static int too_many(struct lz_detail *detail, const char *what)
{
    return lz_fail(detail, LZ_E_LIMIT, "table of contents: more than %u %s", LZ_TOC_ENTRIES_MAX, what);
}

static int add_chunk(struct parser *parser, const struct entry *entry, uint64_t size)
{
    struct lz_toc *toc = parser->toc;
    if (toc->chunk_count == LZ_TOC_ENTRIES_MAX)
        return too_many(parser->detail, "chunks");
    int rc = lz_grow((void **)&toc->chunks, &toc->chunk_capacity, toc->chunk_count + 1, sizeof *toc->chunks);
    if (rc != 0)
        return rc;
    struct lz_toc_file *file = &toc->files[toc->file_count - 1];
    if (size == 0 || size > file->size - parser->given || entry->chunk_offset != parser->given)
        return bad_entry(&file->name, LZ_E_FORMAT, parser->detail, "its chunks do not make up the file");
    if (toc->chunk_count > file->first_chunk)
        toc->chunks[toc->chunk_count - 1].end = entry->offset;
    toc->chunks[toc->chunk_count++] = (struct lz_toc_chunk){.offset = entry->offset, .size = size};
    file->chunk_count++;
    parser->given += size;
    parser->chunk_end = entry->end_offset;
    return 0;
}

/* Where each chunk lies is known once the next entry begins. */
static int end_file(struct parser *parser)
{
    struct lz_toc *toc = parser->toc;
    if (toc->file_count == 0 || toc->files[toc->file_count - 1].chunk_count == 0)
        return 0;
    struct lz_toc_file *file = &toc->files[toc->file_count - 1];
    struct lz_toc_chunk *chunks = toc->chunks + file->first_chunk;
    chunks[file->chunk_count - 1].end = parser->chunk_end != 0 ? parser->chunk_end : parser->file_end;
    if (parser->given != file->size)
        return bad_entry(&file->name, LZ_E_FORMAT, parser->detail, "its chunks do not make up the file");
    uint64_t at = file->first_chunk > 0 ? chunks[-1].end : 0;
    for (size_t i = 0; i < file->chunk_count; i++) {
        if (chunks[i].end <= chunks[i].offset || chunks[i].end > parser->end)
            return bad_entry(&file->name, LZ_E_FORMAT, parser->detail, "its frames leave the blob");
        if (chunks[i].offset < at)
            return bad_entry(&file->name, LZ_E_UNSUPPORTED, parser->detail, "its frames are not after those before");
        at = chunks[i].end;
    }
    return 0;
}

static int add_file(struct parser *parser, const struct entry *entry)
{
    struct lz_toc *toc = parser->toc;
    bool regular = lz_json_is(&entry->type, "reg");
    int rc = toc->file_count == LZ_TOC_ENTRIES_MAX ? too_many(parser->detail, "entries") : end_file(parser);
    if (rc == 0)
        rc = lz_grow((void **)&toc->files, &toc->file_capacity, toc->file_count + 1, sizeof *toc->files);
    if (rc != 0)
        return rc;
    struct lz_toc_file *file = &toc->files[toc->file_count++];
    *file =
        (struct lz_toc_file){.name = entry->name, .size = regular ? entry->size : 0, .first_chunk = toc->chunk_count};
    if (!regular || entry->size == 0)
        return 0;
    if (!entry->has_digest)
        return bad_entry(&entry->name, LZ_E_FORMAT, parser->detail, "a file without a digest");
    memcpy(file->digest, entry->digest, LZ_SHA256_SIZE);
    parser->file_end = entry->end_offset;
    parser->given = 0;
    return add_chunk(parser, entry, entry->chunk_size != 0 ? entry->chunk_size : entry->size);
}

static int parse_entry(struct parser *parser, struct lz_json *json)
{
    struct entry entry = {.type = {"", 0}, .name = {"", 0}};
    struct lz_json_text key;
    bool first = true;
    int rc;
    while ((rc = lz_json_member(json, &first, &key)) == 1) {
        rc = take_member(json, &key, &entry);
        if (rc != 0)
            return bad_entry(&entry.name, rc, parser->detail, "malformed");
    }
    if (rc != 0)
        return rc;
    if (!lz_json_is(&entry.type, "chunk"))
        return add_file(parser, &entry);
    const struct lz_toc *toc = parser->toc;
    if (toc->file_count == 0 || toc->files[toc->file_count - 1].chunk_count == 0)
        return bad_entry(&entry.name, LZ_E_FORMAT, parser->detail, "a chunk of no file");
    return add_chunk(parser, &entry, entry.chunk_size);
}

static int parse_entries(struct parser *parser, struct lz_json *json)
{
    bool first = true;
    int rc;
    while ((rc = lz_json_element(json, &first)) == 1) {
        rc = parse_entry(parser, json);
        if (rc != 0)
            return rc;
    }
    return rc != 0 ? rc : end_file(parser);
}

static int parse_document(struct parser *parser, struct lz_json *json)
{
    struct lz_json_text key;
    uint64_t version = 0;
    bool first = true, entries = false;
    int rc;
    while ((rc = lz_json_member(json, &first, &key)) == 1) {
        if (lz_json_is(&key, "version")) {
            rc = lz_json_number(json, &version);
        } else if (lz_json_is(&key, "entries") && !entries) {
            entries = true;
            rc = parse_entries(parser, json);
        } else if (lz_json_is(&key, "tarSplitDigest")) {
            rc = take_digest(json, &parser->toc->has_tar_split, parser->toc->tar_split_digest);
        } else {
            rc = lz_json_is(&key, "entries") ? LZ_E_FORMAT : lz_json_skip(json);
        }
        if (rc != 0)
            return rc;
    }
    if (rc == 0)
        rc = lz_json_end(json);
    if (rc == 0 && version != 1)
        return lz_fail(parser->detail, LZ_E_UNSUPPORTED, "table of contents: version %llu, known is 1",
                       (unsigned long long)version);
    return rc == 0 && !entries ? LZ_E_FORMAT : rc;
}

int lz_toc_parse(const char *text, size_t size, uint64_t end, struct lz_toc *out, struct lz_detail *detail)
{
    struct lz_detail own = {.text = ""};
    struct parser parser = {.toc = out, .detail = detail != NULL ? detail : &own, .end = end};
    struct lz_json json = {.text = text, .size = size};
    *out = (struct lz_toc){.file_count = 0};
    parser.detail->text[0] = 0;
    int rc = parse_document(&parser, &json);
    if (rc == LZ_E_FORMAT && parser.detail->text[0] == 0)
        return lz_fail(parser.detail, rc, "table of contents: malformed at byte %zu of %zu", json.at, size);
    return rc;
}

void lz_toc_free(struct lz_toc *toc)
{
    free(toc->files);
    free(toc->chunks);
    *toc = (struct lz_toc){.file_count = 0};
}

/* ---- tar-split ---- */

int lz_tar_split_parse(const char *text, size_t size, struct lz_tar_split_line *out)
{
    struct lz_json json = {.text = text, .size = size};
    struct lz_json_text key, payload = {"", 0};
    uint64_t type = 0, file_size = 0;
    bool first = true;
    int rc;
    while ((rc = lz_json_member(&json, &first, &key)) == 1) {
        if (lz_json_is(&key, "type"))
            rc = lz_json_number(&json, &type);
        else if (lz_json_is(&key, "size"))
            rc = lz_json_number(&json, &file_size);
        else if (lz_json_is(&key, "payload"))
            rc = lz_json_null(&json) ? 0 : lz_json_text(&json, &payload);
        else
            rc = lz_json_skip(&json);
        if (rc != 0)
            return rc;
    }
    if (rc == 0)
        rc = lz_json_end(&json);
    if (rc != 0 || (type != 1 && type != 2))
        return LZ_E_FORMAT;
    *out = (struct lz_tar_split_line){.is_file = type == 1, .size = type == 1 ? file_size : 0, .payload = payload};
    return 0;
}
