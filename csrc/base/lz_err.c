#include "lz_err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void escape_into(char *out, size_t capacity, const char *text)
{
    size_t used = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p != 0; p++) {
        if (*p >= 0x20 && *p < 0x7f) {
            if (used + 2 > capacity)
                break;
            out[used++] = (char)*p;
        } else {
            if (used + 5 > capacity)
                break;
            (void)snprintf(out + used, 5, "\\x%02x", *p);
            used += 4;
        }
    }
    out[used] = 0;
}

int lz_fail(struct lz_detail *detail, int code, const char *format, ...)
{
    if (detail == NULL)
        return code;
    char raw[LZ_DETAIL_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    escape_into(detail->text, sizeof detail->text, raw);
    return code;
}

int lz_fail_within(struct lz_detail *detail, int code, const char *format, ...)
{
    if (detail == NULL)
        return code;
    char prefix[LZ_DETAIL_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(prefix, sizeof prefix, format, arguments);
    va_end(arguments);

    char inner[LZ_DETAIL_SIZE];
    memcpy(inner, detail->text, sizeof inner);
    inner[sizeof inner - 1] = 0;
    return lz_fail(detail, code, "%s: %s", prefix, inner[0] != 0 ? inner : lz_error_text(code));
}

const char *lz_error_text(int code)
{
    switch (code) {
    case LZ_E_FORMAT:
        return "malformed input";
    case LZ_E_TRUNCATED:
        return "truncated input";
    case LZ_E_CORRUPT:
        return "stored checksum does not match";
    case LZ_E_LIMIT:
        return "limit exceeded";
    case LZ_E_UNSAFE:
        return "unsafe path";
    case LZ_E_UNSUPPORTED:
        return "unsupported feature";
    case LZ_E_CANCELLED:
        return "cancelled";
    default:
        return code < 0 ? strerror(-code) : "success";
    }
}
