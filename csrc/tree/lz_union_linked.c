#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lz_list.h"
#include "lz_union_look.h"
#include "lz_union_writer.h"

#define HIDDEN_MAX 4096u /* names; further ones are left to their fate: the group may fall apart */

/* ---- everything below a directory ---- */

struct below {
    const struct lz_sys *sys;
    int fd;
    lz_below_visit visit;
    void *ctx;
    struct lz_buf todo; /* directories, NUL-terminated, in the order they were met */
};

static int below_item(struct below *self, int dir, const char *directory, const char *name)
{
    char path[LZ_PATH_MAX + 1];
    struct stat info;
    size_t head = strlen(directory), size = strlen(name);
    if (head + 1 + size > LZ_PATH_MAX)
        return 0; /* nobody can name it */
    int rc = self->sys->fstatat(self->sys->ctx, dir, name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    memcpy(path, directory, head);
    if (head > 0)
        path[head++] = '/';
    memcpy(path + head, name, size + 1);
    rc = self->visit(self->ctx, dir, path, name, &info);
    return rc == 0 && S_ISDIR(info.st_mode) ? lz_buf_append(&self->todo, path, head + size + 1) : rc;
}

static int below_directory(struct below *self, const char *directory)
{
    struct lz_listing listing = {0};
    int dir = lz_openat_beneath(self->sys, self->fd, directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (dir < 0)
        return dir == -ENOENT ? 0 : dir;
    int rc = lz_listing_read(self->sys, dir, &listing);
    for (size_t i = 0; i < listing.count && rc == 0; i++)
        rc = below_item(self, dir, directory, listing.items[i].name);
    lz_listing_free(&listing);
    (void)self->sys->close(self->sys->ctx, dir);
    return rc;
}

int lz_below_each(const struct lz_sys *sys, int fd, const char *start, lz_below_visit visit, void *ctx)
{
    struct below self = {.sys = sys, .fd = fd, .visit = visit, .ctx = ctx};
    int rc = lz_buf_append(&self.todo, start, strlen(start) + 1);
    for (size_t at = 0; at < self.todo.size && rc == 0;) {
        char path[LZ_PATH_MAX + 1]; /* todo moves when it grows */
        size_t size = strlen((const char *)self.todo.data + at);
        memcpy(path, self.todo.data + at, size + 1);
        at += size + 1;
        rc = below_directory(&self, path);
    }
    lz_buf_free(&self.todo);
    return rc;
}

/* ---- files of a directory branch that have several names: found once, for lowers do not change ---- */

/* Where a directory's redirect leads, as a path from the root without its slash. Its length; 0: there is none. */
static int redirect_of(struct lz_union *self, int dir, const char *path, const char *name, char out[LZ_PATH_MAX + 1])
{
    char redirect[LZ_PATH_MAX + 1];
    const char *xattr = self->user_xattr ? "user.overlay.redirect" : "trusted.overlay.redirect";
    ssize_t got = self->sys->getxattrat(self->sys->ctx, dir, name, xattr, redirect, LZ_PATH_MAX + 1);
    if (got <= 0)
        return got == 0 || got == -ENODATA || got == -EOPNOTSUPP || got == -ERANGE ? 0 : (int)got;
    if (!lz_union_is_redirect(redirect, (size_t)got))
        return 0;                     /* whoever walks there is told */
    size_t from = redirect[0] == '/'; /* else a name in the same directory */
    size_t above = from ? 0 : strlen(path) - strlen(name), size = (size_t)got - from;
    if (above + size > LZ_PATH_MAX)
        return 0;
    memcpy(out, path, above);
    memcpy(out + above, redirect + from, size);
    out[above + size] = 0;
    return (int)(above + size);
}

struct filling {
    struct lz_union *self;
    struct lz_linked_branch *linked;
    bool marks;
};

static int note_redirect(const struct filling *filling, int dir, const char *path, const char *name)
{
    char target[LZ_PATH_MAX + 1];
    int size = redirect_of(filling->self, dir, path, name, target);
    if (size <= 0)
        return size;
    int rc = lz_buf_append(&filling->linked->redirects, path, strlen(path) + 1);
    return rc == 0 ? lz_buf_append(&filling->linked->redirects, target, (size_t)size + 1) : rc;
}

static int note_linked(void *ctx, int dir, const char *path, const char *name, const struct stat *info)
{
    const struct filling *filling = ctx;
    struct lz_linked_branch *linked = filling->linked;
    if (S_ISDIR(info->st_mode) && filling->marks)
        return note_redirect(filling, dir, path, name);
    if (S_ISDIR(info->st_mode) || info->st_nlink < 2)
        return 0;
    void *names = linked->names;
    int rc = lz_grow(&names, &linked->capacity, linked->count + 1, sizeof *linked->names);
    if (rc != 0)
        return rc;
    linked->names = names;
    size_t offset = linked->text.size;
    rc = lz_buf_append(&linked->text, path, strlen(path) + 1);
    if (rc == 0)
        linked->names[linked->count++] = (struct lz_linked_name){.number = info->st_ino, .path_offset = offset};
    return rc;
}

static int by_number(const void *a_item, const void *b_item)
{
    const struct lz_linked_name *a = a_item, *b = b_item;
    if (a->number != b->number)
        return a->number < b->number ? -1 : 1;
    return (a->path_offset > b->path_offset) - (a->path_offset < b->path_offset);
}

static int fill_linked(struct lz_union *self, uint32_t branch, struct lz_linked_branch **out)
{
    struct lz_union_writer *writer = self->writer;
    if (writer->linked == NULL) {
        writer->linked = lz_zalloc_array(self->lower_count, sizeof *writer->linked);
        if (writer->linked == NULL)
            return -ENOMEM;
    }
    struct lz_linked_branch *linked = &writer->linked[branch];
    *out = linked;
    if (linked->filled)
        return 0;
    linked->count = linked->text.size = linked->redirects.size = 0;
    struct filling filling = {.self = self, .linked = linked, .marks = self->lowers[branch].marks};
    int rc = lz_below_each(self->sys, self->lowers[branch].fd, "", note_linked, &filling);
    if (rc != 0)
        return rc;
    if (linked->count > 0)
        qsort(linked->names, linked->count, sizeof *linked->names, by_number);
    linked->filled = true;
    return 0;
}

/* ---- the visible ones of one file ---- */

struct search {
    struct lz_union *self;
    const struct lz_place *place;
    struct lz_buf *names; /* found */
    size_t count;
    struct lz_buf hidden; /* names that do not lead to the file: gone, or moved with a directory, then also those on
                             the way, each NUL-terminated */
    size_t hidden_count;
    struct lz_place other;
};

/* Takes a name if it leads to the file. 1, 0 or a code. */
static int try_name(struct search *search, const char *path, size_t size)
{
    const struct lz_union_info *wanted = &search->place->info;
    if (size == search->place->path_size && memcmp(path, search->place->path, size) == 0)
        return 1; /* is there already */
    int rc = lz_union_walk(search->self, path, size, LZ_WALK_NOFOLLOW, &search->other);
    if (rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP || rc == -ENAMETOOLONG)
        return 0;
    if (rc != 0)
        return rc;
    const struct lz_place *other = &search->other;
    if (other->in_upper || other->info.kind != wanted->kind || other->info.branch != wanted->branch ||
        other->info.device != wanted->device || other->info.number != wanted->number)
        return 0;
    if (other->path_size == search->place->path_size && memcmp(other->path, search->place->path, other->path_size) == 0)
        return 1;
    rc = lz_buf_append(search->names, other->path, other->path_size + 1);
    search->count += rc == 0;
    return rc == 0 ? 1 : rc;
}

static bool is_hidden(const struct search *search, const char *path)
{
    const char *name = (const char *)search->hidden.data, *end = name + search->hidden.size;
    for (; name < end; name += strlen(name) + 1)
        if (strcmp(name, path) == 0)
            return true;
    return false;
}

static int try_candidate(struct search *search, const char *path, size_t size)
{
    int rc = try_name(search, path, size);
    if (rc != 0 || search->hidden_count == HIDDEN_MAX)
        return rc < 0 ? rc : 0;
    search->hidden_count++;
    return lz_buf_append(&search->hidden, path, size + 1);
}

static int search_index(struct search *search)
{
    const struct lz_index *index = search->self->lowers[search->place->info.branch].index;
    const struct lz_entry *entry = &index->entries[search->place->info.entry];
    int rc = 0;
    uint32_t left = entry->link_count;
    for (uint32_t i = entry->link; i < index->entry_count && left > 0 && rc == 0; i++) {
        if (index->entries[i].link != entry->link)
            continue;
        left--;
        rc = try_candidate(search, lz_index_path(index, i), index->entries[i].path_size);
    }
    return rc;
}

static int search_directory(struct search *search)
{
    struct lz_linked_branch *linked = NULL;
    int rc = fill_linked(search->self, search->place->info.branch, &linked);
    uint64_t number = search->place->info.number;
    size_t low = 0, high = rc == 0 ? linked->count : 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (linked->names[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    for (; rc == 0 && low < linked->count && linked->names[low].number == number; low++) {
        const char *path = (const char *)linked->text.data + linked->names[low].path_offset;
        rc = try_candidate(search, path, strlen(path));
    }
    return rc;
}

/* A renamed directory, now at `path`, shows what lies below `lower` in the branches below. */
static int follow_directory(struct search *search, const char *path, const char *lower)
{
    char moved[LZ_PATH_MAX + 1];
    size_t path_size = strlen(path), lower_size = strlen(lower);
    int rc = 0;
    memcpy(moved, path, path_size);
    for (size_t at = 0; at < search->hidden.size && rc >= 0;) {
        const char *hidden = (const char *)search->hidden.data + at;
        size_t hidden_size = strlen(hidden), rest = hidden_size - lower_size;
        at += hidden_size + 1;
        if (hidden_size <= lower_size || memcmp(hidden, lower, lower_size) != 0 || hidden[lower_size] != '/' ||
            path_size + rest > LZ_PATH_MAX)
            continue;
        memcpy(moved + path_size, hidden + lower_size, rest + 1);
        if (!is_hidden(search, moved))
            rc = try_candidate(search, moved, path_size + rest);
    }
    return rc;
}

static int follow_upper(void *ctx, int dir, const char *path, const char *name, const struct stat *info)
{
    struct search *search = ctx;
    char lower[LZ_PATH_MAX + 1];
    int size = S_ISDIR(info->st_mode) ? redirect_of(search->self, dir, path, name, lower) : 0;
    return size > 0 ? follow_directory(search, path, lower) : size;
}

static int follow_lower(struct search *search, uint32_t branch)
{
    struct lz_linked_branch *linked;
    int rc = fill_linked(search->self, branch, &linked);
    if (rc != 0)
        return rc;
    const char *path = (const char *)linked->redirects.data, *end = path + linked->redirects.size;
    while (path < end && rc == 0) {
        const char *lower = path + strlen(path) + 1;
        rc = follow_directory(search, path, lower);
        path = lower + strlen(lower) + 1;
    }
    return rc;
}

/* From the file's branch upwards: each branch may have renamed what the ones below show. A rename inside another one
 * that has no path from the root needs a second round. */
static int follow_renames(struct search *search)
{
    const struct lz_union *self = search->self;
    int rc = 0;
    for (uint32_t branch = search->place->info.branch + 1; branch-- > 0 && rc == 0;) {
        const struct lz_branch *above = branch > 0 ? &self->lowers[branch - 1] : NULL;
        if (above != NULL && (above->kind != LZ_BRANCH_DIRECTORY || !above->marks))
            continue;
        for (size_t before = 0; rc == 0 && before < search->hidden.size;) {
            before = search->hidden.size;
            rc = above != NULL ? follow_lower(search, branch - 1)
                               : lz_below_each(self->sys, self->upper_fd, "", follow_upper, search);
        }
    }
    return rc;
}

int lz_linked_names(struct lz_union *self, const struct lz_place *place, struct lz_buf *names, size_t *count)
{
    struct search search = {.self = self, .place = place, .names = names, .count = 1};
    lz_place_begin(&search.other);
    int rc = lz_buf_append(names, place->path, place->path_size + 1);
    if (rc == 0)
        rc = place->info.entry >= 0 ? search_index(&search) : search_directory(&search);
    if (rc == 0 && search.hidden.size > 0)
        rc = follow_renames(&search);
    *count = search.count;
    lz_buf_free(&search.hidden);
    lz_place_end(&search.other);
    return rc;
}
