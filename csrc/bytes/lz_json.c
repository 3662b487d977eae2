#include "lz_json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* ---- out ---- */

int lz_json_put(struct lz_buf *out, const char *format, ...)
{
    char line[201];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    return lz_buf_append(out, line, size > 0 && (size_t)size < sizeof line ? (size_t)size : 0);
}

int lz_json_put_text(struct lz_buf *out, const char *text, size_t size)
{
    int rc = lz_buf_append(out, "\"", 1);
    size_t from = 0;
    for (size_t at = 0; at < size && rc == 0; at++) {
        unsigned char byte = (unsigned char)text[at];
        if (byte >= 0x20 && byte != '"' && byte != '\\')
            continue;
        rc = lz_buf_append(out, text + from, at - from);
        if (rc == 0)
            rc = byte < 0x20 ? lz_json_put(out, "\\u%04x", byte) : lz_json_put(out, "\\%c", byte);
        from = at + 1;
    }
    if (rc == 0)
        rc = lz_buf_append(out, text + from, size - from);
    return rc != 0 ? rc : lz_buf_append(out, "\"", 1);
}

int lz_json_put_base64(struct lz_buf *out, const uint8_t *bytes, size_t size)
{
    size_t digits = (size + 2) / 3 * 4;
    int rc = lz_buf_reserve(out, digits + 2);
    if (rc != 0)
        return rc;
    char *to = (char *)out->data + out->size;
    out->size += digits + 2;
    *to++ = '"';
    for (; size >= 3; size -= 3, bytes += 3, to += 4) {
        uint32_t three = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 8 | bytes[2];
        to[0] = base64_digits[three >> 18];
        to[1] = base64_digits[three >> 12 & 63];
        to[2] = base64_digits[three >> 6 & 63];
        to[3] = base64_digits[three & 63];
    }
    if (size > 0) {
        uint32_t three = (uint32_t)bytes[0] << 16 | (size > 1 ? (uint32_t)bytes[1] << 8 : 0);
        to[0] = base64_digits[three >> 18];
        to[1] = base64_digits[three >> 12 & 63];
        to[2] = size > 1 ? base64_digits[three >> 6 & 63] : '=';
        to[3] = '=';
        to += 4;
    }
    *to = '"';
    return 0;
}

bool lz_is_utf8(const char *text, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)text;
    for (size_t at = 0; at < size;) {
        unsigned char head = bytes[at++];
        if (head < 0x80)
            continue;
        size_t more = head >= 0xc2 && head < 0xe0 ? 1 : head >= 0xe0 && head < 0xf0 ? 2 : head < 0xf5 ? 3 : 0;
        if (head < 0xc2 || more == 0 || more > size - at)
            return false;
        unsigned char low = head == 0xe0 ? 0xa0 : head == 0xf0 ? 0x90 : 0x80;  /* no longer form than needed */
        unsigned char high = head == 0xed ? 0x9f : head == 0xf4 ? 0x8f : 0xbf; /* no surrogates, no more than 10ffff */
        if (bytes[at] < low || bytes[at] > high)
            return false;
        for (size_t i = 1; i < more; i++) {
            if ((bytes[at + i] & 0xc0) != 0x80)
                return false;
        }
        at += more;
    }
    return true;
}

/* ---- in ---- */

static void skip_space(struct lz_json *json)
{
    while (json->at < json->size && (json->text[json->at] == ' ' || json->text[json->at] == '\n' ||
                                     json->text[json->at] == '\r' || json->text[json->at] == '\t'))
        json->at++;
}

/* The next byte that is no space, or 0. */
static char peek(struct lz_json *json)
{
    skip_space(json);
    return json->at < json->size ? json->text[json->at] : 0;
}

int lz_json_end(struct lz_json *json)
{
    skip_space(json);
    return json->at == json->size ? 0 : LZ_E_FORMAT;
}

static bool is_hex(char byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

int lz_json_text(struct lz_json *json, struct lz_json_text *out)
{
    if (peek(json) != '"')
        return LZ_E_FORMAT;
    size_t start = ++json->at;
    while (json->at < json->size) {
        char byte = json->text[json->at++];
        if (byte == '"') {
            *out = (struct lz_json_text){json->text + start, json->at - 1 - start};
            return 0;
        }
        if ((unsigned char)byte < 0x20)
            return LZ_E_FORMAT;
        if (byte != '\\')
            continue;
        char escape = json->at < json->size ? json->text[json->at++] : 0;
        if (escape == 0 || strchr("\"\\/bfnrtu", escape) == NULL)
            return LZ_E_FORMAT;
        for (int i = 0; escape == 'u' && i < 4; i++) {
            if (json->at == json->size || !is_hex(json->text[json->at++]))
                return LZ_E_FORMAT;
        }
    }
    return LZ_E_FORMAT;
}

int lz_json_number(struct lz_json *json, uint64_t *out)
{
    uint64_t value = 0;
    (void)peek(json);
    size_t start = json->at;
    while (json->at < json->size && json->text[json->at] >= '0' && json->text[json->at] <= '9') {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(json->text[json->at] - '0'), &value) || value > INT64_MAX)
            return LZ_E_FORMAT;
        json->at++;
    }
    size_t digits = json->at - start;
    if (digits == 0 || (digits > 1 && json->text[start] == '0'))
        return LZ_E_FORMAT;
    if (json->at < json->size && strchr(".eE", json->text[json->at]) != NULL && json->text[json->at] != 0)
        return LZ_E_FORMAT;
    *out = value;
    return 0;
}

static size_t digits(struct lz_json *json)
{
    size_t start = json->at;
    while (json->at < json->size && json->text[json->at] >= '0' && json->text[json->at] <= '9')
        json->at++;
    return json->at - start;
}

static bool take_byte(struct lz_json *json, char byte)
{
    bool is = json->at < json->size && json->text[json->at] == byte;
    json->at += is;
    return is;
}

/* Any number, also those that lz_json_number() does not take. */
static int skip_number(struct lz_json *json)
{
    (void)take_byte(json, '-');
    size_t start = json->at, whole = digits(json);
    if (whole == 0 || (whole > 1 && json->text[start] == '0'))
        return LZ_E_FORMAT;
    if (take_byte(json, '.') && digits(json) == 0)
        return LZ_E_FORMAT;
    if (take_byte(json, 'e') || take_byte(json, 'E')) {
        if (!take_byte(json, '+'))
            (void)take_byte(json, '-');
        if (digits(json) == 0)
            return LZ_E_FORMAT;
    }
    return 0;
}

static int skip_word(struct lz_json *json, const char *word)
{
    size_t size = strlen(word);
    if (json->size - json->at < size || memcmp(json->text + json->at, word, size) != 0)
        return LZ_E_FORMAT;
    json->at += size;
    return 0;
}

int lz_json_element(struct lz_json *json, bool *first)
{
    bool in = *first;
    *first = false;
    char byte = peek(json);
    if (in) {
        if (byte != '[')
            return LZ_E_FORMAT;
        json->at++;
        if (peek(json) != ']')
            return 1;
        json->at++;
        return 0;
    }
    if (byte != ',' && byte != ']')
        return LZ_E_FORMAT;
    json->at++;
    return byte == ',' ? 1 : 0;
}

int lz_json_member(struct lz_json *json, bool *first, struct lz_json_text *key)
{
    bool in = *first;
    *first = false;
    char byte = peek(json);
    if (in && byte != '{')
        return LZ_E_FORMAT;
    if (!in && byte != ',' && byte != '}')
        return LZ_E_FORMAT;
    json->at++;
    if (byte == '}')
        return 0;
    if (in && peek(json) == '}') {
        json->at++;
        return 0;
    }
    int rc = lz_json_text(json, key);
    if (rc != 0)
        return rc;
    if (peek(json) != ':')
        return LZ_E_FORMAT;
    json->at++;
    return 1;
}

static int skip_value(struct lz_json *json, unsigned depth)
{
    struct lz_json_text text;
    char byte = peek(json);
    bool first = true;
    int rc;
    if (depth > LZ_JSON_DEPTH)
        return LZ_E_FORMAT;
    switch (byte) {
    case '"':
        return lz_json_text(json, &text);
    case 't':
        return skip_word(json, "true");
    case 'f':
        return skip_word(json, "false");
    case 'n':
        return skip_word(json, "null");
    case '{':
        while ((rc = lz_json_member(json, &first, &text)) == 1) {
            rc = skip_value(json, depth + 1);
            if (rc != 0)
                return rc;
        }
        return rc;
    case '[':
        while ((rc = lz_json_element(json, &first)) == 1) {
            rc = skip_value(json, depth + 1);
            if (rc != 0)
                return rc;
        }
        return rc;
    default:
        return skip_number(json);
    }
}

bool lz_json_null(struct lz_json *json)
{
    return peek(json) == 'n' && skip_word(json, "null") == 0;
}

int lz_json_skip(struct lz_json *json)
{
    return skip_value(json, 1);
}

static int base64_value(char digit)
{
    if (digit >= 'A' && digit <= 'Z')
        return digit - 'A';
    if (digit >= 'a' && digit <= 'z')
        return digit - 'a' + 26;
    if (digit >= '0' && digit <= '9')
        return digit - '0' + 52;
    return digit == '+' ? 62 : digit == '/' ? 63 : -1;
}

int lz_json_base64(const struct lz_json_text *text, struct lz_buf *out)
{
    if (text->size % 4 != 0)
        return LZ_E_FORMAT;
    int rc = lz_buf_reserve(out, text->size / 4 * 3);
    if (rc != 0)
        return rc;
    uint8_t *to = out->data + out->size;
    for (size_t at = 0; at < text->size; at += 4) {
        const char *four = text->bytes + at;
        bool last = at + 4 == text->size;
        int missing = last && four[3] == '=' ? (four[2] == '=' ? 2 : 1) : 0;
        int a = base64_value(four[0]), b = base64_value(four[1]);
        int c = missing > 1 ? 0 : base64_value(four[2]), d = missing > 0 ? 0 : base64_value(four[3]);
        if (a < 0 || b < 0 || c < 0 || d < 0)
            return LZ_E_FORMAT;
        uint32_t three = (uint32_t)a << 18 | (uint32_t)b << 12 | (uint32_t)c << 6 | (uint32_t)d;
        *to++ = (uint8_t)(three >> 16);
        if (missing < 2)
            *to++ = (uint8_t)(three >> 8);
        if (missing < 1)
            *to++ = (uint8_t)three;
    }
    out->size = (size_t)(to - out->data);
    return 0;
}
