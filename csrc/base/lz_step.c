#include "lz_step.h"

#include <errno.h>
#include <stddef.h>

int lz_step_ask(const struct lz_step *self)
{
    return self == NULL ? 0 : self->ask(self->ctx);
}

int lz_pace_on(struct lz_pace *self, unsigned names, uint64_t bytes)
{
    self->names += names;
    self->bytes += bytes;
    if (self->names < LZ_STEP_NAMES && self->bytes < LZ_STEP_BYTES)
        return 0;
    self->names = 0;
    self->bytes = 0;
    return lz_step_ask(self->step);
}

int lz_step_wait(const struct lz_sys *sys, const struct lz_step *step, int fd, int out_fd)
{
    if (fd < 0) /* poll() passes over it */
        return -EBADF;
    for (;;) {
        struct pollfd ends[2] = {{.fd = fd, .events = POLLIN}, {.fd = out_fd}};
        int rc = sys->poll(sys->ctx, ends, 2, step != NULL ? LZ_STEP_WAIT : -1);
        if (rc < 0 && rc != -EINTR)
            return rc;
        if (rc > 0 && (ends[1].revents & POLLERR) != 0)
            return -EPIPE;
        if (rc > 0 && ends[0].revents != 0)
            return 0;
        rc = lz_step_ask(step);
        if (rc != 0)
            return rc;
    }
}
