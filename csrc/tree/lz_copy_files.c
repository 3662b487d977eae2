#include "lz_copy_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../base/lz_mem.h"
#include "lz_copyup.h"
#include "lz_fs.h"

#define FILES_UNDER_WAY 16u
#define WORTH_A_THREAD 8u /* files that wait: a thread is begun or woken in 50 us, and a file filled in 30 */
#define RETRIES 5

_Static_assert(LZ_COPY_THREADS_MAX <= FILES_UNDER_WAY, "when all files are taken, some wait");

struct job {
    struct lz_walk_node node; /* path and xattrs in `bytes` and `xattrs` */
    struct lz_copy_pair pair;
    struct lz_buf bytes;
    struct lz_tar_xattr *xattrs;
    size_t xattr_capacity;
    struct job *next;
};

struct lz_copy_files {
    const struct lz_sys *sys;
    unsigned helpers, started;
    pthread_t threads[LZ_COPY_THREADS_MAX];
    struct job jobs[FILES_UNDER_WAY];

    pthread_mutex_t lock; /* for all that follows */
    pthread_cond_t arrived;
    struct job *free, *first, *last; /* those that wait, the oldest first */
    unsigned waiting, idle;
    bool ended, cancelled;
    struct lz_copy_result done;
    int code; /* the first failure, and in words */
    struct lz_detail detail;
};

/* ---- one file ---- */

int lz_copy_attributes(const struct lz_sys *sys, const struct lz_walk_node *node, int dir, const char *name,
                       const struct stat *made)
{
    /* In this order: a change of owner clears set-user-ID bits and capabilities. A symlink has no mode. */
    int flags = name[0] == 0 ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
    bool owned = made != NULL && made->st_uid == node->uid && made->st_gid == node->gid;
    bool moded = node->kind == LZ_KIND_SYMLINK || (made != NULL && (made->st_mode & 07777) == node->mode);
    int rc = owned ? 0 : sys->fchownat(sys->ctx, dir, name, node->uid, node->gid, flags);
    if (rc >= 0 && !moded && name[0] == 0) { /* a descriptor's mode goes through /proc */
        char path[LZ_FD_PATH_SIZE];
        lz_fd_path(dir, path);
        rc = sys->fchmodat(sys->ctx, AT_FDCWD, path, node->mode);
    } else if (rc >= 0 && !moded) {
        rc = sys->fchmodat(sys->ctx, dir, name, node->mode);
    }
    for (size_t i = 0; rc >= 0 && i < node->xattr_count; i++) {
        const struct lz_tar_xattr *xattr = &node->xattrs[i];
        rc = sys->setxattrat(sys->ctx, dir, name, xattr->name, xattr->value, xattr->value_size);
    }
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = node->mtime, .tv_nsec = (long)node->mtime_nsec}};
    return rc < 0 ? rc : sys->utimensat(sys->ctx, dir, name, times, flags);
}

void lz_copy_in_place(const struct lz_sys *sys, int from, int to)
{
    unsigned flags = 0, own = 0;
    if (sys->ioctl(sys->ctx, from, FS_IOC_GETFLAGS, (uintptr_t)&flags) < 0 || (flags & FS_NOCOW_FL) == 0 ||
        sys->ioctl(sys->ctx, to, FS_IOC_GETFLAGS, (uintptr_t)&own) < 0)
        return;
    own |= FS_NOCOW_FL;
    (void)sys->ioctl(sys->ctx, to, FS_IOC_SETFLAGS, (uintptr_t)&own);
}

/* The whole file as it is by now, however long; false: the ladder is asked, which says what fails. Two looks at a file's
 * size less: 5 % of the clone of a database on XFS (four turns of 15, 47 ms for 50). */
static bool clone_all(const struct lz_sys *sys, const struct lz_walk_node *node, const struct lz_copy_pair *pair,
                      struct lz_copy_result *done)
{
    if (node->size == 0 || sys->ioctl(sys->ctx, pair->to, FICLONE, (uintptr_t)pair->from) < 0)
        return false;
    done->shared += node->stored < node->size ? node->stored : node->size;
    return true;
}

/* A file that gets shorter just then is copied anew, as it is by now; one that does so again and again as it comes. */
static int fill_data(const struct lz_sys *sys, const struct lz_walk_node *node, const struct lz_copy_pair *pair,
                     struct lz_copy_result *done, struct lz_detail *detail)
{
    lz_copy_in_place(sys, pair->from, pair->to);
    if (clone_all(sys, node, pair, done))
        return 0;
    for (int tries = 0;; tries++) {
        struct stat now;
        int rc = sys->fstatat(sys->ctx, pair->from, "", &now, AT_EMPTY_PATH);
        if (rc < 0 || now.st_size == 0)
            return rc;
        struct lz_bytes_at bytes = {.fd = pair->from, .size = (uint64_t)now.st_size};
        struct lz_copyup_result result = {.rung = LZ_RUNG_AUTO};
        rc = lz_copyup_data(sys, &bytes, pair->to, LZ_RUNG_AUTO, &result, detail);
        uint64_t stored = (uint64_t)now.st_blocks * 512;
        done->copied += result.copied;
        if (rc == 0 && result.rung == LZ_RUNG_CLONE)
            done->shared += stored < bytes.size ? stored : bytes.size;
        if (rc != LZ_E_TRUNCATED)
            return rc;
        if (tries == RETRIES)
            return 0;
        rc = sys->ftruncate(sys->ctx, pair->to, 0);
        if (rc < 0)
            return rc;
    }
}

static void close_pair(const struct lz_sys *sys, const struct lz_copy_pair *pair)
{
    (void)sys->close(sys->ctx, pair->from);
    (void)sys->close(sys->ctx, pair->to);
}

/* Closes both, whatever happens. */
static int fill(const struct lz_sys *sys, const struct lz_walk_node *node, const struct lz_copy_pair *pair,
                struct lz_copy_result *done, struct lz_detail *detail)
{
    struct stat made;
    int rc = sys->fstatat(sys->ctx, pair->to, "", &made, AT_EMPTY_PATH);
    if (rc == 0)
        rc = fill_data(sys, node, pair, done, detail);
    if (rc == 0)
        rc = lz_copy_attributes(sys, node, pair->to, "", &made);
    int closed = sys->close(sys->ctx, pair->to);
    rc = rc < 0 ? rc : closed;
    (void)sys->close(sys->ctx, pair->from);
    return rc >= 0 ? 0 : lz_fail(detail, rc, "copying /%s: %s", node->path, lz_error_text(rc));
}

/* ---- jobs; each function that says so is called with the lock held ---- */

static int own(struct job *job, const struct lz_walk_node *node)
{
    job->node = *node;
    job->node.name = job->node.target = NULL; /* nobody asks for them again */
    job->node.fd = NULL;
    job->bytes.size = 0;
    void *xattrs = job->xattrs;
    int rc = lz_grow(&xattrs, &job->xattr_capacity, node->xattr_count, sizeof *job->xattrs);
    job->xattrs = xattrs;
    if (rc == 0)
        rc = lz_buf_append(&job->bytes, node->path, node->path_size + 1);
    for (size_t i = 0; rc == 0 && i < node->xattr_count; i++) {
        const struct lz_tar_xattr *xattr = &node->xattrs[i];
        rc = lz_buf_append(&job->bytes, xattr->name, xattr->name_size + 1);
        if (rc == 0)
            rc = lz_buf_append(&job->bytes, xattr->value, xattr->value_size);
    }
    if (rc != 0)
        return rc;
    const uint8_t *at = job->bytes.data; /* moves no more */
    job->node.path = (const char *)at;
    at += node->path_size + 1;
    for (size_t i = 0; i < node->xattr_count; i++) {
        job->xattrs[i] = node->xattrs[i];
        job->xattrs[i].name = (const char *)at;
        job->xattrs[i].value = at += node->xattrs[i].name_size + 1;
        at += node->xattrs[i].value_size;
    }
    job->node.xattrs = job->xattrs;
    return 0;
}

static void note_failure(struct lz_copy_files *self, int rc, const struct lz_detail *detail)
{
    if (rc == 0 || self->code != 0)
        return;
    self->code = rc;
    self->detail = *detail;
}

/* Fills the oldest that waits; with the lock held, but not meanwhile. After a failure it is only closed. */
static struct job *work(struct lz_copy_files *self)
{
    const struct lz_sys *sys = self->sys;
    struct job *job = self->first;
    struct lz_copy_result done = {0};
    struct lz_detail detail = {{0}};
    bool stop = self->code != 0 || self->cancelled;
    self->first = job->next;
    self->waiting--;
    (void)pthread_mutex_unlock(&self->lock);
    int rc = 0;
    if (stop) {
        close_pair(sys, &job->pair);
    } else {
        rc = fill(sys, &job->node, &job->pair, &done, &detail);
    }
    (void)pthread_mutex_lock(&self->lock);
    self->done.shared += done.shared;
    self->done.copied += done.copied;
    note_failure(self, rc, &detail);
    return job;
}

static void give_back(struct lz_copy_files *self, struct job *job)
{
    job->next = self->free;
    self->free = job;
}

static void *help(void *argument)
{
    struct lz_copy_files *self = argument;
    (void)pthread_mutex_lock(&self->lock);
    for (;;) {
        while (self->first != NULL)
            give_back(self, work(self));
        if (self->ended)
            break;
        self->idle++;
        (void)pthread_cond_wait(&self->arrived, &self->lock);
        self->idle--;
    }
    (void)pthread_mutex_unlock(&self->lock);
    return NULL;
}

/* With the lock held: somebody who sleeps is woken, or one more thread begun, when enough files wait. Where none can be
 * begun there are fewer. */
static void call_for_help(struct lz_copy_files *self)
{
    if (self->waiting < WORTH_A_THREAD)
        return;
    if (self->idle > 0) {
        (void)pthread_cond_signal(&self->arrived);
    } else if (self->started < self->helpers) {
        if (pthread_create(&self->threads[self->started], NULL, help, self) == 0)
            self->started++;
        else
            self->helpers = self->started;
    }
}

/* ---- all ---- */

int lz_copy_files_new(const struct lz_sys *sys, unsigned threads, struct lz_copy_files **out)
{
    struct lz_copy_files *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->sys = sys;
    self->helpers = threads == 0 ? 0 : (threads < LZ_COPY_THREADS_MAX ? threads : LZ_COPY_THREADS_MAX) - 1;
    (void)pthread_mutex_init(&self->lock, NULL); /* with default attributes neither can fail on Linux */
    (void)pthread_cond_init(&self->arrived, NULL);
    for (size_t i = 0; i < FILES_UNDER_WAY; i++)
        give_back(self, &self->jobs[i]);
    *out = self;
    return 0;
}

/* With the lock held. */
static void put(struct lz_copy_files *self, struct job *job)
{
    job->next = NULL;
    if (self->first != NULL)
        self->last->next = job;
    else
        self->first = job;
    self->last = job;
    self->waiting++;
    call_for_help(self);
}

static int add_here(struct lz_copy_files *self, const struct lz_walk_node *node, const struct lz_copy_pair *pair)
{
    struct lz_detail detail;
    int rc = fill(self->sys, node, pair, &self->done, &detail);
    note_failure(self, rc, &detail);
    return rc;
}

int lz_copy_files_add(struct lz_copy_files *self, const struct lz_walk_node *node, const struct lz_copy_pair *pair)
{
    if (self->helpers == 0 && self->started == 0)
        return add_here(self, node, pair);
    (void)pthread_mutex_lock(&self->lock);
    struct job *job = self->free;
    if (job != NULL)
        self->free = job->next;
    else
        job = work(self); /* all are taken, more than there are threads */
    (void)pthread_mutex_unlock(&self->lock);
    int rc = own(job, node);
    job->pair = *pair;
    (void)pthread_mutex_lock(&self->lock);
    if (rc == 0) {
        put(self, job);
        rc = self->code;
    } else {
        give_back(self, job);
        close_pair(self->sys, pair);
    }
    (void)pthread_mutex_unlock(&self->lock);
    return rc;
}

/* With the lock held, but not meanwhile. An answer that ends the call is a failure of it. */
static void ask(struct lz_copy_files *self, const struct lz_step *step)
{
    if (self->code != 0 || self->cancelled)
        return;
    (void)pthread_mutex_unlock(&self->lock);
    int rc = lz_step_ask(step);
    (void)pthread_mutex_lock(&self->lock);
    note_failure(self, rc, &(struct lz_detail){{0}});
}

/* With the lock held: all that wait. */
static void fill_waiting(struct lz_copy_files *self, const struct lz_step *step)
{
    uint64_t bytes = 0;
    while (self->first != NULL) {
        bytes += self->first->node.stored;
        if (bytes >= LZ_STEP_BYTES) {
            bytes = 0;
            ask(self, step);
        }
        if (self->first != NULL) /* still: others take from them, too */
            give_back(self, work(self));
    }
}

int lz_copy_files_end(struct lz_copy_files *self, const struct lz_step *step, bool cancel, struct lz_copy_result *done,
                      struct lz_detail *detail)
{
    if (self == NULL)
        return 0;
    (void)pthread_mutex_lock(&self->lock);
    self->cancelled = cancel;
    self->ended = true;
    (void)pthread_cond_broadcast(&self->arrived);
    fill_waiting(self, step);
    (void)pthread_mutex_unlock(&self->lock);
    while (self->started > 0)
        (void)pthread_join(self->threads[--self->started], NULL);
    int rc = self->code;
    if (rc != 0 && detail != NULL)
        *detail = self->detail;
    done->shared += self->done.shared;
    done->copied += self->done.copied;
    for (size_t i = 0; i < FILES_UNDER_WAY; i++) {
        lz_buf_free(&self->jobs[i].bytes);
        free(self->jobs[i].xattrs);
    }
    (void)pthread_cond_destroy(&self->arrived);
    (void)pthread_mutex_destroy(&self->lock);
    free(self);
    return rc;
}
