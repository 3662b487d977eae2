/* check.h - the whole C test harness. A test file has functions `static void name(void)` and one
 * `int main(void) { RUN(name); ... return check_end(); }`. A failed check prints where and exits 1 at once. */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_int check_count; /* tests have threads */

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        check_count++;                                                                                                 \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: failed\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CHECK_EQ(actual, expected)                                                                                     \
    do {                                                                                                               \
        int64_t actual_ = (int64_t)(actual), expected_ = (int64_t)(expected);                                          \
        check_count++;                                                                                                 \
        if (actual_ != expected_) {                                                                                    \
            fprintf(stderr, "%s:%d: %s is %" PRId64 ", expected %" PRId64 "\n", __FILE__, __LINE__, #actual, actual_,  \
                    expected_);                                                                                        \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CHECK_STR(actual, expected)                                                                                    \
    do {                                                                                                               \
        const char *actual_ = (actual), *expected_ = (expected);                                                       \
        check_count++;                                                                                                 \
        if (strcmp(actual_, expected_) != 0) {                                                                         \
            fprintf(stderr, "%s:%d: %s is \"%s\", expected \"%s\"\n", __FILE__, __LINE__, #actual, actual_,            \
                    expected_);                                                                                        \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        fprintf(stderr, "  %s\n", #test);                                                                              \
        test();                                                                                                        \
    } while (0)

static inline int check_end(void)
{
    fprintf(stderr, "  %d checks\n", check_count);
    return check_count > 0 ? 0 : 1;
}

#endif
