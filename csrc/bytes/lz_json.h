/* lz_json.h - just enough JSON for documents that other programs write line by line: texts out, tokens in.
 *
 * RFC 8259. The reader looks at one document in memory, checks all of it that it passes over (UTF-8 in strings excepted),
 * nests at most LZ_JSON_DEPTH deep, and copies nothing: a string is the bytes between its quotes, escapes and all.
 */
#ifndef LZ_JSON_H
#define LZ_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_mem.h"

/* ---- out: 0 or -ENOMEM ---- */

/* A string with its quotes; `text` is UTF-8 (lz_is_utf8()). */
int lz_json_put_text(struct lz_buf *out, const char *text, size_t size);

/* Bytes as base64 (RFC 4648, padded), in quotes. */
int lz_json_put_base64(struct lz_buf *out, const uint8_t *bytes, size_t size);

/* Like printf(); at most 200 bytes. */
int lz_json_put(struct lz_buf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

bool lz_is_utf8(const char *text, size_t size);

/* ---- in ---- */

#define LZ_JSON_DEPTH 16

struct lz_json {
    const char *text;
    size_t size, at;
};

/* A string without its quotes. */
struct lz_json_text {
    const char *bytes;
    size_t size;
};

/* Each of these takes one thing and the white space before it: 0, or LZ_E_FORMAT. */
int lz_json_skip(struct lz_json *json); /* any value */
int lz_json_text(struct lz_json *json, struct lz_json_text *out);
int lz_json_number(struct lz_json *json, uint64_t *out); /* an integer from 0 to 2^63 - 1 */
bool lz_json_null(struct lz_json *json);                 /* whether null is next; then it is taken */
int lz_json_end(struct lz_json *json);                   /* nothing but white space follows */

/* Walks an object or array: 1 for each member (its name in *key, for the caller to compare and its value to take), 0 at
 * the end. `first` is true on the way in, and set by the call. */
int lz_json_member(struct lz_json *json, bool *first, struct lz_json_text *key);
int lz_json_element(struct lz_json *json, bool *first);

static inline bool lz_json_is(const struct lz_json_text *text, const char *word)
{
    size_t at = 0;
    while (at < text->size && word[at] != 0 && word[at] == text->bytes[at])
        at++;
    return at == text->size && word[at] == 0;
}

/* Base64 as lz_json_put_base64() writes it, `\/` and `\u002b` not understood: appends the bytes. LZ_E_FORMAT, -ENOMEM. */
int lz_json_base64(const struct lz_json_text *text, struct lz_buf *out);

#endif
