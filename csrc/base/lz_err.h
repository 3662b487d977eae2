/* lz_err.h - the one return convention of csrc/, and the text that goes with a failure.
 *
 * Every function that can fail returns an int or int64_t:
 *      >= 0              success, or a count
 *      -1 .. -4095       -errno: the kernel said no
 *      < -10000          LZ_E_*: the input or the store is at fault
 * The two ranges cannot meet, so one value carries both. Outputs are untouched on failure unless the
 * prototype says otherwise. There is no hidden last error: a function that has more to say than a code
 * takes a `struct lz_detail *` (NULL is allowed everywhere) and fills it through lz_fail().
 */
#ifndef LZ_ERR_H
#define LZ_ERR_H

enum lz_error {
    LZ_E_FORMAT = -10001,      /* malformed input: tar header, gzip stream, index, recipe */
    LZ_E_TRUNCATED = -10002,   /* the input ends before its own structure says so */
    LZ_E_CORRUPT = -10003,     /* a checksum or digest that was stored does not match what was read */
    LZ_E_LIMIT = -10004,       /* a configured limit was passed (entries, bytes, ratio, path length) */
    LZ_E_UNSAFE = -10005,      /* would escape its tree: `..`, absolute link, parent that is a symlink */
    LZ_E_UNSUPPORTED = -10006, /* well-formed, but a feature that is not handled */
    LZ_E_CANCELLED = -10007,   /* the caller asked to stop */
};

#define LZ_DETAIL_SIZE 640

/* One line for a person: which object, what was found, what was expected. Always NUL-terminated; bytes
 * that are not printable ASCII are escaped as \xNN so that a name from an image cannot drive a terminal. */
struct lz_detail {
    char text[LZ_DETAIL_SIZE];
};

/* Formats the line into `detail` (if not NULL) and returns `code`, so that `return lz_fail(...)` reads well. */
int lz_fail(struct lz_detail *detail, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before what `detail` already says; returns `code`. For callers that know the object's name. */
int lz_fail_within(struct lz_detail *detail, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A short constant text for any code of either range. Never NULL. */
const char *lz_error_text(int code);

#endif
