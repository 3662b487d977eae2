/* lz_step.h - a long call that asks its caller now and then whether to go on: a signal may have come.
 *
 * No handler of Python runs while a call of C does, so whoever may take seconds asks, between two names and two pieces of
 * a file, and while it waits for somebody else's bytes.
 */
#ifndef LZ_STEP_H
#define LZ_STEP_H

#include <stdint.h>

#include "lz_sys.h"

#define LZ_STEP_NAMES 64u
#define LZ_STEP_BYTES (64u << 20) /* 50 ms where 1.3 GB/s are written */
#define LZ_STEP_WAIT 1000         /* milliseconds: of a signal that came just before */

/* Anything but 0 ends the call with that. */
struct lz_step {
    int (*ask)(void *ctx);
    void *ctx;
};

/* Asks; `self` may be NULL, which is 0. */
int lz_step_ask(const struct lz_step *self);

/* What was done since `step`, which may be NULL, was asked for its sake. */
struct lz_pace {
    const struct lz_step *step;
    unsigned names;
    uint64_t bytes;
};

/* So much more is done: asks where it has come to LZ_STEP_NAMES or LZ_STEP_BYTES. */
int lz_pace_on(struct lz_pace *self, unsigned names, uint64_t bytes);

/* Waits until a read of `fd` says something at once, its end or error included, and asks when a signal comes, and every
 * LZ_STEP_WAIT. What is read goes to `out_fd` (-1: to nobody who could go): -EPIPE when that is a pipe which nobody will
 * read. 0 or a negative code, or what `step`, which may be NULL, said. */
int lz_step_wait(const struct lz_sys *sys, const struct lz_step *step, int fd, int out_fd);

#endif
