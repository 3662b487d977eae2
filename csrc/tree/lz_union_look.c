#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <xxhash.h>

#include "../bytes/lz_mark.h"
#include "lz_kind.h"
#include "lz_union_look.h"

/* What is looked for, as it changes on the way down (the kernel's struct ovl_lookup_data). */
struct search {
    const char *name; /* a name, or a path from the root of a branch that begins with a slash */
    size_t size;
    bool directory;  /* found so far: a directory; what is no directory ends it */
    bool needs_data; /* found so far: a file without data */
    bool borrows;    /* found so far: an opaque directory that takes only its attributes from below */
    bool stop;
    char redirect[LZ_PATH_MAX + 1]; /* `name` points here once there was one */
};

/* Where in a branch the search stands. */
struct spot {
    uint32_t branch;
    int64_t entry;               /* index */
    int dir_fd;                  /* directory: of what holds the last element of `lower`, else -1 */
    char lower[LZ_PATH_MAX + 1]; /* directory: path below the branch */
    size_t lower_size;
};

struct hit {
    enum lz_kind kind;
    bool has_stat;
    struct stat stat; /* directory branches, unless only passed through */
};

/* ---- redirects ---- */

/* The redirect of the element that begins at `prefix` of the name and is followed by `rest` ("" or "/..."). */
static int follow_redirect(struct search *search, const struct lz_marks *marks, size_t prefix, const char *rest)
{
    if (marks->redirect_size == 0)
        return 0;
    bool absolute = marks->redirect[0] == '/';
    size_t kept = absolute ? 0 : prefix, rest_size = strlen(rest);
    if (kept + marks->redirect_size + rest_size > LZ_PATH_MAX)
        return -ENAMETOOLONG;
    if (absolute) /* an opaque directory on the way here says nothing about where it leads */
        search->stop = false;
    char joined[LZ_PATH_MAX + 1];
    memcpy(joined, search->name, kept);
    memcpy(joined + kept, marks->redirect, marks->redirect_size);
    memcpy(joined + kept + marks->redirect_size, rest, rest_size + 1);
    search->size = kept + marks->redirect_size + rest_size;
    memcpy(search->redirect, joined, search->size + 1);
    search->name = search->redirect;
    return 0;
}

/* ---- one element in one branch: 1 found, 0 not (or the search stops), or a code ---- */

static int step_index(const struct lz_index *index, struct spot *spot, const char *name, size_t size, bool last,
                      struct search *search, struct hit *hit)
{
    int64_t child = lz_index_child(index, (uint32_t)spot->entry, name, size);
    if (child < 0)
        return 0;
    const struct lz_entry *entry = &index->entries[child];
    hit->kind = (enum lz_kind)entry->kind;
    bool directory = entry->kind == LZ_KIND_DIRECTORY;
    if (entry->kind == LZ_KIND_WHITEOUT || (last && search->needs_data && entry->kind != LZ_KIND_FILE) ||
        (!directory && (search->directory || !last))) {
        search->stop = true;
        return 0;
    }
    spot->entry = child;
    if (!directory) {
        search->needs_data = false;
        search->stop = true;
        return 1;
    }
    search->directory |= last;
    bool opaque = (entry->flags & LZ_FLAG_OPAQUE) != 0, implicit = (entry->flags & LZ_FLAG_IMPLICIT) != 0;
    search->borrows |= last && opaque && implicit;
    search->stop |= opaque && !(last && implicit);
    return 1;
}

/* The marks of a file: its xattrs can only be asked for by name, below its directory. */
static int marks_of_file(struct lz_union *self, int branch_fd, const struct spot *spot, struct lz_marks *marks)
{
    const char *slash = memrchr(spot->lower, '/', spot->lower_size);
    if (slash == NULL)
        return lz_union_marks(self, branch_fd, spot->lower, marks);
    char parent[LZ_PATH_MAX + 1];
    size_t size = (size_t)(slash - spot->lower);
    memcpy(parent, spot->lower, size);
    parent[size] = 0;
    int fd = lz_union_beneath(self, branch_fd, parent, O_PATH | O_DIRECTORY);
    if (fd < 0)
        return fd;
    int rc = lz_union_marks(self, fd, slash + 1, marks);
    (void)self->sys->close(self->sys->ctx, fd);
    return rc;
}

/* The same as probe(), where the directory is open. */
static int probe_in(struct lz_union *self, const struct spot *spot, struct hit *hit, struct lz_marks *marks)
{
    const char *slash = memrchr(spot->lower, '/', spot->lower_size);
    const char *name = slash != NULL ? slash + 1 : spot->lower;
    int rc = self->sys->fstatat(self->sys->ctx, spot->dir_fd, name, &hit->stat, AT_SYMLINK_NOFOLLOW);
    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    hit->has_stat = true;
    hit->kind = lz_kind_of_mode(hit->stat.st_mode);
    if (self->lowers[spot->branch].marks && (hit->kind == LZ_KIND_DIRECTORY || hit->kind == LZ_KIND_FILE))
        rc = lz_union_marks(self, spot->dir_fd, name, marks);
    return rc == 0 ? 1 : rc;
}

/* Whether the spot is known to be a directory without marks. A hash has two places, so that few push out one another; *slot
 * is where it can be noted. */
static bool is_plain(struct lz_union *self, const struct spot *spot, _Atomic uint64_t **slot, uint64_t *hash)
{
    /* The branch is hashed too: as a part of the seed it and a short path could make up for one another. */
    const uint64_t key[2] = {XXH3_64bits_withSeed(spot->lower, spot->lower_size, self->seed), spot->branch};
    *hash = XXH3_64bits_withSeed(key, sizeof key, self->seed);
    _Atomic uint64_t *first = &self->plain[*hash % LZ_PLAIN_COUNT];
    _Atomic uint64_t *second = &self->plain[(*hash >> 32) % LZ_PLAIN_COUNT];
    uint64_t known = atomic_load_explicit(first, memory_order_relaxed);
    *slot = known == 0 ? first : second;
    return known == *hash || atomic_load_explicit(second, memory_order_relaxed) == *hash;
}

/* What lies at spot->lower: kind, stat unless a directory was all that `pass` asked for, marks. 1, 0 or a code. */
static int probe(struct lz_union *self, const struct spot *spot, bool pass, struct hit *hit, struct lz_marks *marks)
{
    const struct lz_branch *branch = &self->lowers[spot->branch];
    bool lowest = spot->branch + 1 == self->lower_count; /* nothing that a mark of a directory could speak of */
    int flags = O_PATH;
    _Atomic uint64_t *slot;
    uint64_t hash;
    if (pass && is_plain(self, spot, &slot, &hash)) {
        hit->has_stat = false;
        hit->kind = LZ_KIND_DIRECTORY;
        return 1;
    }
    int rc = 0, fd = lz_union_beneath(self, branch->fd, spot->lower, pass ? flags | O_DIRECTORY : flags);
    hit->has_stat = !pass;
    hit->kind = LZ_KIND_DIRECTORY;
    if (pass && (fd == -ENOTDIR || fd == -ELOOP)) {
        hit->has_stat = true;
        fd = lz_union_beneath(self, branch->fd, spot->lower, flags);
    }
    if (fd < 0)
        return fd == -ENOENT || fd == -ENOTDIR || fd == -ENAMETOOLONG ? 0 : fd;
    if (hit->has_stat) {
        rc = self->sys->fstatat(self->sys->ctx, fd, "", &hit->stat, AT_EMPTY_PATH);
        hit->kind = rc == 0 ? lz_kind_of_mode(hit->stat.st_mode) : hit->kind;
    }
    if (rc == 0 && branch->marks && !lowest && hit->kind == LZ_KIND_DIRECTORY)
        rc = lz_union_marks(self, fd, ".", marks);
    (void)self->sys->close(self->sys->ctx, fd);
    if (rc == 0 && branch->marks && hit->kind == LZ_KIND_FILE)
        rc = marks_of_file(self, branch->fd, spot, marks);
    if (rc == 0 && pass && hit->kind == LZ_KIND_DIRECTORY && !marks->opaque && marks->redirect_size == 0)
        atomic_store_explicit(slot, hash, memory_order_relaxed);
    return rc == 0 ? 1 : rc;
}

static bool is_whiteout(const struct hit *hit, const struct lz_marks *marks)
{
    if (hit->kind == LZ_KIND_CHAR)
        return lz_mark_is_whiteout_device(hit->stat.st_mode, major(hit->stat.st_rdev), minor(hit->stat.st_rdev));
    return hit->kind == LZ_KIND_FILE && hit->stat.st_size == 0 && marks->whiteout;
}

static int step_directory(struct lz_union *self, struct spot *spot, size_t prefix, const char *rest, bool enter,
                          struct search *search, struct hit *hit)
{
    struct lz_marks marks;
    marks.opaque = marks.metacopy = marks.whiteout = false;
    marks.redirect_size = 0;
    bool last = rest[0] == 0;
    int rc = spot->dir_fd >= 0 ? probe_in(self, spot, hit, &marks) : probe(self, spot, enter || !last, hit, &marks);
    if (rc <= 0)
        return rc;
    bool directory = hit->kind == LZ_KIND_DIRECTORY;
    if ((self->lowers[spot->branch].marks && is_whiteout(hit, &marks)) ||
        (last && search->needs_data && hit->kind != LZ_KIND_FILE) || (!directory && (search->directory || !last))) {
        search->stop = true;
        return 0;
    }
    if (!directory) {
        search->needs_data = marks.metacopy;
        search->stop = !marks.metacopy;
        rc = marks.metacopy ? follow_redirect(search, &marks, prefix, rest) : 0;
        return rc == 0 ? 1 : rc;
    }
    search->directory |= last;
    if (marks.opaque)
        search->stop = true;
    else
        rc = follow_redirect(search, &marks, prefix, rest);
    return rc == 0 ? 1 : rc;
}

static int step(struct lz_union *self, struct spot *spot, const char *name, size_t size, size_t prefix,
                const char *rest, bool enter, struct search *search, struct hit *hit)
{
    const struct lz_branch *branch = &self->lowers[spot->branch];
    if (branch->kind == LZ_BRANCH_INDEX)
        return step_index(branch->index, spot, name, size, rest[0] == 0, search, hit);
    if (spot->lower_size + size + 1 > LZ_PATH_MAX)
        return -ENAMETOOLONG;
    if (spot->lower_size > 0)
        spot->lower[spot->lower_size++] = '/';
    memcpy(spot->lower + spot->lower_size, name, size);
    spot->lower_size += size;
    spot->lower[spot->lower_size] = 0;
    return step_directory(self, spot, prefix, rest, enter, search, hit);
}

/* A name below a part, or a path below a part that is a branch's root; the search's name may change meanwhile, which
 * is for the branches below. */
static int look_in_part(struct lz_walker *walker, const struct lz_part *part, int part_fd, struct spot *spot,
                        bool enter, struct search *search, struct hit *hit)
{
    size_t parent_size = walker->levels[walker->level_count - 1].path_size;
    spot->branch = part->branch;
    spot->entry = part->entry;
    spot->lower_size = 0;
    spot->dir_fd = search->name[0] != '/' ? part_fd : -1;
    if (search->name[0] != '/') {
        int size = part->entry < 0 ? lz_part_path(walker, part, parent_size, spot->lower) : 0;
        spot->lower_size = size > 0 ? (size_t)size : 0;
        return size < 0 ? size : step(walker->self, spot, search->name, search->size, 0, "", enter, search, hit);
    }
    char path[LZ_PATH_MAX + 1];
    size_t whole = search->size;
    memcpy(path, search->name, whole + 1);
    int rc = 1;
    for (size_t at = 1; rc == 1 && at <= whole;) {
        const char *slash = memchr(path + at, '/', whole - at);
        size_t end = slash != NULL ? (size_t)(slash - path) : whole;
        /* a redirect on the way has changed what the search is for, and how far into it this element begins */
        size_t prefix = search->size - (whole - at);
        rc = step(walker->self, spot, path + at, end - at, prefix, path + end, enter, search, hit);
        at = end + 1;
        if (rc == 1 && at <= whole && hit->kind != LZ_KIND_DIRECTORY)
            rc = 0;
    }
    return rc;
}

/* ---- the branches below the upper ---- */

/* What was found in the branch of a part of the level. */
static int make_part(struct lz_walker *walker, const struct lz_part *parent, size_t path_size, bool same_name,
                     const struct spot *spot, struct lz_part *out)
{
    struct lz_part part = *parent;
    part.entry = walker->self->lowers[spot->branch].kind == LZ_BRANCH_INDEX ? spot->entry : -1;
    if (part.entry < 0 && !same_name) {
        part.base_offset = (uint32_t)walker->text.size;
        part.base_size = (uint16_t)spot->lower_size;
        part.cut = (uint16_t)path_size;
        int rc = lz_buf_append(&walker->text, spot->lower, spot->lower_size);
        if (rc != 0)
            return rc;
    }
    *out = part;
    return 0;
}

static bool is_implicit(const struct lz_union *self, const struct spot *spot)
{
    const struct lz_branch *branch = &self->lowers[spot->branch];
    return branch->kind == LZ_BRANCH_INDEX && (branch->index->entries[spot->entry].flags & LZ_FLAG_IMPLICIT) != 0;
}

static void take_info(const struct lz_union *self, const struct spot *spot, const struct hit *hit,
                      struct lz_union_info *out)
{
    if (self->lowers[spot->branch].kind == LZ_BRANCH_INDEX)
        lz_union_info_of_entry(self, spot->branch, (uint32_t)spot->entry, out);
    else if (hit->has_stat)
        lz_union_info_of_stat(&hit->stat, spot->branch, out);
    else
        *out = (struct lz_union_info){.kind = hit->kind, .branch = spot->branch, .entry = -1};
}

/* The data of a file whose attributes came from above. */
static void take_data(const struct lz_union *self, const struct spot *spot, struct lz_union_info *out)
{
    const struct lz_branch *branch = &self->lowers[spot->branch];
    out->data_branch = spot->branch;
    out->data_entry = branch->kind == LZ_BRANCH_INDEX ? spot->entry : -1;
    out->has_digest = out->data_entry >= 0 && !out->unsettled;
    if (out->has_digest)
        memcpy(out->digest, branch->index->entries[spot->entry].digest, sizeof out->digest);
}

/* The first part of the root's that lies below `branch`. */
static size_t below(const struct lz_walker *walker, uint32_t branch)
{
    size_t number = walker->levels[0].first, end = number + walker->levels[0].count;
    while (number < end && walker->parts[number].branch <= branch)
        number++;
    return number;
}

static int take_hit(struct lz_walker *walker, const struct lz_part *parent, size_t path_size, bool same_name,
                    bool borrowing, const struct spot *spot, const struct hit *hit, struct lz_look *look,
                    struct search *search)
{
    bool data = look->exists && hit->kind == LZ_KIND_FILE, gives_info = !look->exists || look->implicit;
    struct lz_part part;
    int rc = make_part(walker, parent, path_size, same_name, spot, &part);
    if (gives_info) {
        take_info(walker->self, spot, hit, &look->info);
        look->implicit = hit->kind == LZ_KIND_DIRECTORY && is_implicit(walker->self, spot);
        look->borrows = borrowing;
        look->owner = part;
    }
    look->exists = true;
    if (data && !search->needs_data)
        take_data(walker->self, spot, &look->info);
    if (rc == 0 && !borrowing && (!data || !search->needs_data))
        rc = lz_walker_add(walker, &part);
    search->stop |= search->borrows && (!look->implicit || look->enter);
    return rc;
}

static int look_lowers(struct lz_walker *walker, size_t path_size, struct lz_look *look, struct search *search)
{
    const struct lz_level *level = &walker->levels[walker->level_count - 1];
    bool absolute = search->name[0] == '/';
    size_t number = absolute ? walker->levels[0].first : level->first;
    size_t end = number + (absolute ? walker->levels[0].count : level->count), only = 0;
    for (; number < end && !search->stop; number++) {
        bool same_name = search->name == look->name, borrowing = search->borrows;
        if (look->only != NULL && same_name) { /* from one that has it to the next */
            if (only == look->only_count)
                break;
            number = look->only[only++];
        }
        struct lz_part part = walker->parts[number];
        struct spot spot;
        struct hit hit;
        int part_fd = look->part_fds != NULL && !absolute ? look->part_fds[number - level->first] : -1;
        int rc = look_in_part(walker, &part, part_fd, &spot, look->enter, search, &hit);
        if (rc == 1)
            rc = take_hit(walker, &part, path_size, same_name, borrowing, &spot, &hit, look, search);
        if (rc < 0)
            return rc;
        if (!absolute && search->name[0] == '/') {
            absolute = true;
            number = below(walker, part.branch) - 1;
            end = walker->levels[0].first + walker->levels[0].count;
        }
    }
    return 0;
}

/* ---- the upper ---- */

static int take_upper(const struct lz_walker *walker, struct lz_look *look, const struct lz_marks *marks,
                      struct search *search)
{
    bool directory = look->info.kind == LZ_KIND_DIRECTORY;
    bool no_data = look->info.kind == LZ_KIND_FILE && (marks->metacopy || marks->blocks);
    look->exists = look->in_upper = true;
    search->directory = directory;
    search->stop = !directory && !no_data;
    if (walker->self->lower_count == 0 || search->stop)
        return 0;
    if (directory && marks->opaque) {
        look->upper_opaque = true;
        search->stop = true;
        return 0;
    }
    search->needs_data = no_data;
    look->metacopy = no_data && marks->metacopy;
    look->info.unsettled = no_data && marks->blocks;
    return follow_redirect(search, marks, 0, "");
}

/* -EAGAIN: the name changed while it was looked at. */
static int try_upper(struct lz_walker *walker, int dir_fd, struct lz_look *look, struct search *search)
{
    struct lz_union *self = walker->self;
    struct lz_marks marks;
    marks.opaque = marks.metacopy = marks.blocks = false;
    marks.redirect_size = 0;
    if (look->enter) {
        int fd = lz_union_beneath(self, dir_fd, look->name, O_PATH | O_DIRECTORY);
        if (fd == -ENOENT)
            return 0;
        if (fd < 0 && fd != -ENOTDIR && fd != -ELOOP)
            return fd;
        if (fd >= 0) {
            look->upper_fd = fd;
            look->info = (struct lz_union_info){.kind = LZ_KIND_DIRECTORY, .branch = LZ_UNION_UPPER, .entry = -1};
            int rc = self->lower_count > 0 ? lz_union_marks(self, fd, ".", &marks) : 0;
            return rc == 0 ? take_upper(walker, look, &marks, search) : rc;
        }
    }
    struct stat info;
    int rc = self->sys->fstatat(self->sys->ctx, dir_fd, look->name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    if (lz_mark_is_whiteout_device(info.st_mode, major(info.st_rdev), minor(info.st_rdev))) {
        look->upper_whiteout = search->stop = true;
        return 0;
    }
    if (look->enter && S_ISDIR(info.st_mode))
        return -EAGAIN;
    lz_union_info_of_stat(&info, LZ_UNION_UPPER, &look->info);
    if (self->lower_count > 0 && (S_ISDIR(info.st_mode) || S_ISREG(info.st_mode)))
        rc = lz_union_marks(self, dir_fd, look->name, &marks);
    if (rc != 0)
        return rc == -ENOENT ? -EAGAIN : rc;
    return take_upper(walker, look, &marks, search);
}

int lz_union_look(struct lz_walker *walker, size_t path_size, struct lz_look *look)
{
    struct search search;
    search.name = look->name;
    search.size = look->size;
    search.directory = search.needs_data = search.borrows = search.stop = false;
    look->exists = look->in_upper = look->upper_whiteout = look->upper_opaque = look->metacopy = false;
    look->borrows = look->implicit = false;
    look->upper_fd = -1;
    look->first = walker->part_count;
    int rc = 0;
    if (walker->levels[walker->level_count - 1].in_upper && !look->upper_lacks) {
        int fd = lz_walker_upper(walker);
        rc = fd < 0 ? fd : -EAGAIN;
        for (int tries = 0; rc == -EAGAIN && tries < 100; tries++)
            rc = try_upper(walker, fd, look, &search);
    }
    if (rc == 0)
        rc = look_lowers(walker, path_size, look, &search);
    look->lost = rc == 0 && search.needs_data;
    if (look->lost)
        rc = -EIO; /* attributes whose data is nowhere */
    if (rc == 0 && look->info.kind == LZ_KIND_DIRECTORY && walker->part_count - look->first + look->in_upper > 1)
        look->info.link_count = 1;
    if (rc != 0) {
        walker->part_count = look->first;
        if (look->upper_fd >= 0)
            (void)walker->self->sys->close(walker->self->sys->ctx, look->upper_fd);
        look->upper_fd = -1;
    }
    return rc;
}

int lz_union_look_below(struct lz_walker *walker, size_t path_size, const struct lz_look *look, bool *out)
{
    struct lz_look lowers = {.name = look->name, .size = look->size, .enter = true, .upper_fd = -1};
    struct search search;
    search.name = look->name;
    search.size = look->size;
    search.directory = search.needs_data = search.borrows = search.stop = false;
    size_t count = walker->part_count, text_size = walker->text.size;
    int rc = look_lowers(walker, path_size, &lowers, &search);
    walker->part_count = count;
    walker->text.size = text_size;
    *out = lowers.exists;
    return rc;
}
