#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lz_union_look.h"

#define OPEN_TRIES 100

/* ---- sources ---- */

void lz_union_source_release(struct lz_union_source *source)
{
    if (source == NULL || atomic_fetch_sub_explicit(&source->users, 1, memory_order_acq_rel) != 1)
        return;
    if (source->blocks != NULL)
        lz_blocks_close(source->blocks);
    if (source->upper_fd >= 0)
        (void)source->sys->close(source->sys->ctx, source->upper_fd);
    if (source->lower_owned && source->lower.fd >= 0)
        (void)source->sys->close(source->sys->ctx, source->lower.fd);
    free(source);
}

/* What opening a file says when its name has a whiteout by now, a FIFO or socket, a symlink, or a directory. */
static bool is_no_file(int rc)
{
    return rc == -ENXIO || rc == -ELOOP || rc == -EISDIR;
}

static int open_upper(struct lz_union *self, const struct lz_place *place, int flags, struct lz_union_source *source)
{
    /* pwrite() with O_APPEND goes to the end wherever it is told to: a block-level file finds the end itself */
    int wanted = (flags & (place->info.unsettled ? O_ACCMODE : O_ACCMODE | O_APPEND)) | O_NONBLOCK | O_NOCTTY;
    struct stat info;
    int fd = lz_union_upper_open(self, place->path, place->path_size, wanted);
    if (fd < 0)
        return is_no_file(fd) ? -ENOENT : fd;
    source->upper_fd = fd;
    int rc = self->sys->fstatat(self->sys->ctx, fd, "", &info, AT_EMPTY_PATH);
    bool same =
        rc == 0 && S_ISREG(info.st_mode) && info.st_ino == place->info.number && info.st_dev == place->info.device;
    return rc == 0 && !same ? -ENOENT : rc; /* the name has another file since it was looked up */
}

static int open_blocks(struct lz_union *self, const struct lz_place *place, int flags, struct lz_union_source *source,
                       struct lz_detail *detail)
{
    const struct lz_share *share = lz_place_data(place);
    struct lz_blocks_lower lower;
    char map[LZ_BLOCKS_NAME_SIZE];
    int rc = lz_blocks_name(self->sys, source->upper_fd, "", self->user_xattr, map);
    if (rc <= 0) /* 0: was settled a moment ago */
        return rc < 0 ? rc : -ENOENT;
    int maps_fd = lz_union_blocks_dir(self, false);
    if (maps_fd < 0 || share == NULL)
        return lz_fail(detail, LZ_E_CORRUPT, "/%s: the maps of block-level files are gone", place->path);
    rc = lz_union_blocks_lower(self, place, share, &lower, &source->lower_owned, detail);
    if (rc != 0)
        return rc;
    source->lower = lower.at;
    bool writable = (flags & O_ACCMODE) != O_RDONLY;
    return lz_blocks_open(self->sys, source->upper_fd, maps_fd, map, writable, &lower, &source->blocks, detail);
}

static int open_parts(struct lz_union *self, const struct lz_place *place, int flags, struct lz_union_source *source,
                      struct lz_detail *detail)
{
    int rc = place->in_upper ? open_upper(self, place, flags, source) : 0;
    if (rc != 0)
        return rc;
    if (place->info.unsettled)
        return open_blocks(self, place, flags, source, detail);
    const struct lz_share *share = lz_place_data(place);
    struct lz_marks marks;
    if (place->in_upper && self->lower_count > 0) { /* has its data come up since it was looked up? */
        rc = lz_union_marks(self, source->upper_fd, "", &marks);
        if (rc != 0)
            return rc;
        if (marks.metacopy ? share == NULL : marks.blocks)
            return -ENOENT; /* is not what was looked up: its bytes are not all here */
        if (!marks.metacopy)
            return 0;
    }
    if (share == NULL)
        return 0;
    rc = lz_union_content(self, place, share, &source->lower, &source->lower_owned, detail);
    if (place->in_upper && place->info.size == 0)
        source->lower.size = 0; /* who cut it to nothing was killed before he took the mark away */
    return rc;
}

bool lz_union_open_again(int *rc, const struct lz_place *place, int *tries, struct lz_detail *detail)
{
    if (*rc != -ENOENT || !place->exists)
        return false;
    if (++*tries >= OPEN_TRIES) {
        if (place->info.unsettled) /* not settled, removed or replaced just now: its map is gone */
            *rc = LZ_E_CORRUPT;
        return false;
    }
    if (detail != NULL)
        detail->text[0] = 0;
    return true;
}

int lz_union_source_open(struct lz_union *self, const struct lz_place *place, int flags, struct lz_union_source **out,
                         struct lz_detail *detail)
{
    struct lz_union_source *source = calloc(1, sizeof *source);
    if (source == NULL)
        return -ENOMEM;
    atomic_init(&source->users, 1);
    atomic_init(&source->filled, 0);
    source->sys = self->sys;
    source->upper_fd = source->lower.fd = -1;
    int rc = open_parts(self, place, flags, source, detail);
    if (rc != 0)
        lz_union_source_release(source);
    else
        *out = source;
    return rc;
}

/* Whether bytes come from a lower, so that a copy-up would leave the handle behind. */
static bool can_fall_behind(const struct lz_union_source *source)
{
    return source != NULL && source->blocks == NULL && source->lower.fd >= 0;
}

/* ---- handles ---- */

static void list_file(struct lz_union_file *file)
{
    struct lz_union *self = file->owner;
    (void)pthread_mutex_lock(&self->files);
    file->next = self->open_files;
    if (file->next != NULL)
        file->next->previous = file;
    self->open_files = file;
    file->listed = true;
    (void)pthread_mutex_unlock(&self->files);
}

static void unlist_file(struct lz_union_file *file)
{
    struct lz_union *self = file->owner;
    (void)pthread_mutex_lock(&self->files);
    if (file->next != NULL)
        file->next->previous = file->previous;
    if (file->previous != NULL)
        file->previous->next = file->next;
    else
        self->open_files = file->next;
    (void)pthread_mutex_unlock(&self->files);
}

/* Which lower file a file of the upper came from. False: it does not say. */
static bool origin_of_upper(struct lz_union *self, int fd, struct lz_origin *out)
{
    ssize_t got = self->sys->getxattrat(self->sys->ctx, fd, "", LZ_ORIGIN_XATTR(self->user_xattr), out, sizeof *out);
    return got == (ssize_t)sizeof *out;
}

int lz_union_file_new(struct lz_union *self, const struct lz_place *place, int flags, struct lz_union_source *source,
                      struct lz_union_file **out)
{
    struct lz_union_file *file = calloc(1, sizeof *file);
    char *path = file != NULL ? malloc(place->path_size + 1) : NULL;
    int rc = path != NULL ? -pthread_mutex_init(&file->lock, NULL) : -ENOMEM;
    if (rc != 0) {
        free(path);
        free(file);
        lz_union_source_release(source);
        return rc;
    }
    memcpy(path, place->path, place->path_size + 1);
    file->owner = self;
    file->flags = flags;
    file->source = source;
    file->info = place->info;
    file->path = path;
    file->path_size = place->path_size;
    if (can_fall_behind(source) && self->upper_fd >= 0) {
        lz_union_origin(place, &file->origin);
        if (source->upper_fd >= 0)
            (void)origin_of_upper(self, source->upper_fd, &file->origin);
        list_file(file);
    }
    *out = file;
    return 0;
}

void lz_union_file_close(struct lz_union_file *file)
{
    if (file == NULL)
        return;
    if (file->listed)
        unlist_file(file);
    lz_union_source_release(file->source);
    (void)pthread_mutex_destroy(&file->lock);
    free(file->path);
    free(file);
}

/* ---- changing over ---- */

static void change_over(struct lz_union_file *file, struct lz_union_source *source, const struct lz_union_info *info)
{
    struct lz_union_source *before = file->source;
    atomic_fetch_add_explicit(&source->users, 1, memory_order_relaxed);
    file->source = source;
    file->info = *info;
    lz_union_source_release(before);
}

/* What the upper has at the path now, if it came from that lower file. *out is NULL when it did not. */
static int find_moved(struct lz_union *self, const struct lz_origin *origin, const char *path, size_t size,
                      struct lz_union_info *info, struct lz_union_source **out)
{
    struct lz_union_source *source = NULL;
    struct lz_origin found;
    struct lz_place place;
    *out = NULL;
    lz_place_begin(&place);
    int rc, tries = 0;
    do {
        rc = lz_union_walk(self, path, size, LZ_WALK_NOFOLLOW | LZ_WALK_MAY_MISS, &place);
        if (rc == 0 && place.exists && place.in_upper && place.info.kind == LZ_KIND_FILE)
            rc = lz_union_source_open(self, &place, O_RDONLY, &source, NULL);
    } while (lz_union_open_again(&rc, &place, &tries, NULL));
    if (rc == -ENOENT || rc == -ENOTDIR)
        rc = 0; /* the file or its directory is gone or has another name */
    if (source != NULL && origin_of_upper(self, source->upper_fd, &found) &&
        memcmp(&found, origin, sizeof found) == 0) {
        *info = place.info;
        *out = source;
        source = NULL;
    }
    lz_union_source_release(source);
    lz_place_end(&place);
    return rc;
}

void lz_union_files_moved(struct lz_union *self, const struct lz_origin *origin, const char *path, size_t size)
{
    struct lz_union_source *source = NULL;
    struct lz_union_info info;
    bool wanted = false;
    (void)pthread_mutex_lock(&self->files);
    for (struct lz_union_file *file = self->open_files; file != NULL && !wanted; file = file->next)
        wanted = memcmp(&file->origin, origin, sizeof *origin) == 0;
    (void)pthread_mutex_unlock(&self->files);
    if (!wanted || find_moved(self, origin, path, size, &info, &source) != 0 || source == NULL)
        return;
    (void)pthread_mutex_lock(&self->files);
    for (struct lz_union_file *file = self->open_files; file != NULL; file = file->next) {
        if (memcmp(&file->origin, origin, sizeof *origin) != 0)
            continue;
        (void)pthread_mutex_lock(&file->lock);
        if (can_fall_behind(file->source))
            change_over(file, source, &info);
        (void)pthread_mutex_unlock(&file->lock);
    }
    (void)pthread_mutex_unlock(&self->files);
    lz_union_source_release(source);
}

/* Looks whether another process has copied the file up. With file->lock held. */
static int look_again(struct lz_union_file *file)
{
    struct lz_union *self = file->owner;
    struct lz_union_source *source;
    struct lz_union_info info;
    uint64_t epoch;
    int rc = lz_union_epoch(self, &epoch);
    if (rc != 0 || epoch == file->epoch)
        return rc;
    rc = find_moved(self, &file->origin, file->path, file->path_size, &info, &source);
    if (rc != 0)
        return rc;
    file->epoch = epoch;
    if (source != NULL)
        change_over(file, source, &info);
    lz_union_source_release(source);
    return 0;
}

int lz_union_file_source(struct lz_union_file *file, struct lz_union_source **out)
{
    (void)pthread_mutex_lock(&file->lock);
    int rc = file->source == NULL ? -EISDIR : 0;
    if (rc == 0 && file->listed && can_fall_behind(file->source))
        rc = look_again(file);
    if (rc == 0) {
        atomic_fetch_add_explicit(&file->source->users, 1, memory_order_relaxed);
        *out = file->source;
    }
    (void)pthread_mutex_unlock(&file->lock);
    return rc;
}

/* ---- opening ---- */

static int check_flags(int flags)
{
    if ((flags & O_PATH) != 0 || (flags & O_ACCMODE) == O_ACCMODE)
        return -EINVAL;
    return (flags & O_TMPFILE) == O_TMPFILE ? -EOPNOTSUPP : 0;
}

/* What open(2) says of what is there; `writing` with no upper is what a read-only file system says. */
static int check_place(const struct lz_place *place, int flags)
{
    bool writing = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
    if (!place->exists)
        return -EROFS;
    if ((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0)
        return -EEXIST;
    switch (place->info.kind) {
    case LZ_KIND_DIRECTORY:
        return writing || (flags & O_CREAT) != 0 ? -EISDIR : 0;
    case LZ_KIND_FILE:
        return (flags & O_DIRECTORY) != 0 ? -ENOTDIR : writing ? -EROFS : 0;
    case LZ_KIND_SYMLINK:
        return (flags & O_DIRECTORY) != 0 ? -ENOTDIR : -ELOOP;
    case LZ_KIND_SOCKET:
    case LZ_KIND_FIFO:
        return (flags & O_DIRECTORY) != 0 ? -ENOTDIR : -ENXIO;
    default: /* a device of an image is never opened: as on a file system that is mounted nodev */
        return (flags & O_DIRECTORY) != 0 ? -ENOTDIR : -EACCES;
    }
}

static int open_reading(struct lz_union *self, const char *path, size_t size, int flags, struct lz_union_file **out,
                        struct lz_detail *detail)
{
    bool no_follow = (flags & O_NOFOLLOW) != 0 || ((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0);
    unsigned walk = (no_follow ? LZ_WALK_NOFOLLOW : 0) | ((flags & O_CREAT) != 0 ? LZ_WALK_MAY_MISS : 0);
    struct lz_union_source *source = NULL;
    struct lz_place place;
    uint64_t epoch = 0;
    lz_place_begin(&place);
    int rc, tries = 0;
    do {
        rc = self->upper_fd >= 0 ? lz_union_epoch(self, &epoch) : 0; /* before the look, so that none is missed */
        if (rc == 0)
            rc = lz_union_walk(self, path, size, walk, &place);
        if (rc == 0)
            rc = check_place(&place, flags);
        if (rc == 0 && place.info.kind == LZ_KIND_FILE)
            rc = lz_union_source_open(self, &place, flags, &source, detail);
    } while (lz_union_open_again(&rc, &place, &tries, detail));
    struct lz_union_file *file = NULL;
    if (rc == 0)
        rc = lz_union_file_new(self, &place, flags, source, &file);
    if (rc == 0) {
        file->epoch = epoch;
        *out = file;
    }
    lz_place_end(&place);
    return rc;
}

int lz_union_open(struct lz_union *self, const char *path, size_t size, int flags, uint32_t mode,
                  struct lz_union_file **out, struct lz_detail *detail)
{
    int rc = check_flags(flags);
    if (rc != 0)
        return rc;
    bool changes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)) != 0;
    if (changes && !self->read_only)
        return lz_union_open_writing(self, path, size, flags, mode, out, detail);
    return open_reading(self, path, size, flags, out, detail);
}
