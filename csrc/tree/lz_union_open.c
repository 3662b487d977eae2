#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "lz_union_writer.h"

struct opening {
    struct lz_union *self;
    int flags;
    uint32_t mode;
    struct lz_detail *detail;
    struct lz_place place;
};

static bool writes(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
}

static unsigned walk_flags(int flags, const char *path, size_t size)
{
    bool exclusive = (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
    if ((flags & O_CREAT) != 0 && size > 0 && path[size - 1] == '/') /* is refused, whatever is there */
        return LZ_WALK_NOFOLLOW | LZ_WALK_CHANGE | LZ_WALK_MAY_MISS;
    return ((flags & O_NOFOLLOW) != 0 || exclusive ? LZ_WALK_NOFOLLOW : 0) |
           ((flags & O_CREAT) != 0 ? LZ_WALK_MAY_MISS : 0);
}

/* What Linux says of what was found, in its order. */
static int check(const struct lz_place *place, int flags)
{
    enum lz_kind kind = place->info.kind;
    if ((flags & O_CREAT) != 0 && place->needs_directory && place->last == LZ_LAST_NAME)
        return -EISDIR;
    if (!place->exists)
        return 0; /* is to be made */
    if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        return -EEXIST;
    if ((flags & O_DIRECTORY) != 0 && kind != LZ_KIND_DIRECTORY)
        return -ENOTDIR;
    if (kind == LZ_KIND_SYMLINK)
        return -ELOOP;
    if (kind == LZ_KIND_DIRECTORY)
        return (flags & O_CREAT) != 0 || writes(flags) ? -EISDIR : 0;
    if (kind == LZ_KIND_FILE)
        return 0;
    return kind == LZ_KIND_FIFO || kind == LZ_KIND_SOCKET ? -ENXIO : -EACCES; /* as on a file system without devices */
}

/* Cuts what is open to nothing. */
static int cut(struct lz_union *self, struct lz_union_source *source)
{
    return source->blocks != NULL ? lz_blocks_truncate(source->blocks, 0)
                                  : self->sys->ftruncate(self->sys->ctx, source->upper_fd, 0);
}

static int open_place(struct opening *opening, struct lz_union_file **out)
{
    struct lz_union *self = opening->self;
    struct lz_union_source *source = NULL;
    int flags = opening->flags & ~(O_CREAT | O_EXCL | O_TRUNC), rc = 0;
    if ((opening->flags & O_TRUNC) != 0) { /* also of O_RDONLY */
        struct lz_union_source *writer;
        rc = lz_union_source_open(self, &opening->place, O_WRONLY, &writer, opening->detail);
        if (rc == 0) {
            rc = cut(self, writer);
            lz_union_source_release(writer);
        }
    }
    if (rc == 0 && opening->place.info.kind == LZ_KIND_FILE)
        rc = lz_union_source_open(self, &opening->place, flags, &source, opening->detail);
    return rc == 0 ? lz_union_file_new(self, &opening->place, flags, source, out) : rc;
}

/* A new file may be one that its maker could not open. */
static int open_made(struct opening *opening, struct lz_union_file **out)
{
    struct lz_union *self = opening->self;
    struct lz_upper upper;
    opening->flags &= ~O_TRUNC;
    int rc = open_place(opening, out);
    if (rc != -EACCES)
        return rc;
    rc = lz_upper_at(self, &opening->place, &upper);
    if (rc != 0)
        return rc;
    rc = lz_upper_chmod(self, upper.dir, upper.name, opening->place.info.mode | 0600);
    if (rc == 0) {
        rc = open_place(opening, out);
        int back = lz_upper_chmod(self, upper.dir, upper.name, opening->place.info.mode);
        if (rc == 0 && back != 0) {
            lz_union_file_close(*out);
            rc = back;
        }
    }
    lz_upper_done(self, &upper);
    return rc;
}

static int make_and_open(struct opening *opening, struct lz_union_file **out)
{
    struct lz_union *self = opening->self;
    struct lz_place *place = &opening->place;
    char path[LZ_PATH_MAX + 1];
    size_t size = place->path_size;
    memcpy(path, place->path, size + 1); /* where symlinks led */
    int rc = lz_union_make_room(self, path, size, false, place);
    if (rc == 0)
        rc = lz_union_make(self, place, &(struct lz_making){.mode = S_IFREG | (opening->mode & 07777)});
    if (rc == 0)
        rc = lz_union_walk(self, path, size, LZ_WALK_NOFOLLOW, place);
    return rc == 0 ? open_made(opening, out) : rc;
}

static int open_locked(struct opening *opening, const char *path, size_t size, struct lz_union_file **out)
{
    struct lz_union *self = opening->self;
    struct lz_place *place = &opening->place;
    int rc = lz_union_walk(self, path, size, walk_flags(opening->flags, path, size), place);
    if (rc == 0)
        rc = check(place, opening->flags);
    if (rc != 0)
        return rc;
    if (!place->exists)
        return make_and_open(opening, out);
    if (writes(opening->flags))
        rc = lz_union_copyup(self, place, (opening->flags & O_TRUNC) != 0 ? LZ_WANT_NOTHING : LZ_WANT_DATA,
                             opening->detail);
    return rc == 0 ? open_place(opening, out) : rc;
}

/* Without the lock: 1 when names must change for it. */
static int open_unlocked(struct opening *opening, const char *path, size_t size, struct lz_union_file **out)
{
    const struct lz_place *place = &opening->place;
    int rc = lz_union_walk(opening->self, path, size, walk_flags(opening->flags, path, size), &opening->place);
    if (rc == 0)
        rc = check(place, opening->flags);
    if (rc != 0)
        return rc;
    if (place->exists && !writes(opening->flags))
        return open_place(opening, out);
    if (!place->exists || !place->in_upper || place->metacopy)
        return 1;
    rc = lz_work_in_use(opening->self); /* a name may be one of a group that is not all there yet */
    return rc == 0 ? open_place(opening, out) : rc;
}

int lz_union_open_writing(struct lz_union *self, const char *path, size_t size, int flags, uint32_t mode,
                          struct lz_union_file **out, struct lz_detail *detail)
{
    struct opening opening = {.self = self, .flags = flags, .mode = mode, .detail = detail};
    if ((flags & O_ACCMODE) == O_ACCMODE || (flags & (O_CREAT | O_DIRECTORY)) == (O_CREAT | O_DIRECTORY))
        return -EINVAL;
    lz_place_begin(&opening.place);
    int rc, tries = 0;
    do
        rc = open_unlocked(&opening, path, size, out);
    while (lz_union_open_again(&rc, &opening.place, &tries, detail));
    if (rc == 1 && (rc = lz_union_lock(self)) == 0) {
        rc = open_locked(&opening, path, size, out);
        lz_union_unlock(self);
    }
    lz_place_end(&opening.place);
    return rc;
}

/* ---- by path ---- */

static bool is_file(struct lz_union *self, const char *path, size_t size)
{
    struct lz_union_info info;
    return lz_union_stat(self, path, size, 0, &info) == 0 && info.kind == LZ_KIND_FILE;
}

int lz_union_truncate(struct lz_union *self, const char *path, size_t size, uint64_t length)
{
    struct lz_union_file *file;
    if (length > INT64_MAX)
        return -EINVAL;
    if (self->read_only)
        return -EROFS;
    int rc = lz_union_open_writing(self, path, size, O_WRONLY | (length == 0 ? O_TRUNC : 0), 0, &file, NULL);
    if (rc == -ENXIO || rc == -EACCES)
        return is_file(self, path, size) ? rc : -EINVAL;
    if (rc != 0)
        return rc;
    rc = length == 0 ? 0 : lz_union_file_truncate(file, length);
    lz_union_file_close(file);
    return rc;
}
