#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lz_blocks_map.h"

/* ---- create ---- */

static int random_name(const struct lz_sys *sys, char out[LZ_BLOCKS_NAME_SIZE])
{
    uint8_t bytes[(LZ_BLOCKS_NAME_SIZE - 1) / 2];
    ssize_t got = sys->getrandom(sys->ctx, bytes, sizeof bytes);
    if (got != (ssize_t)sizeof bytes)
        return got < 0 ? (int)got : -EIO;
    for (size_t i = 0; i < sizeof bytes; i++) {
        out[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    out[LZ_BLOCKS_NAME_SIZE - 1] = 0;
    return 0;
}

/* The header, and room for the cells as a hole: what is not written costs nothing. The size comes first, for XFS writes
 * back what lies before a new end. */
static int fill_map(const struct lz_sys *sys, int map_fd, const struct lz_blocks_header *header)
{
    off_t size = (off_t)lz_blocks_map_size(header->lower_size, header->block_size);
    int rc = sys->ftruncate(sys->ctx, map_fd, size);
    return rc != 0 ? rc : lz_pwrite_all(sys, map_fd, header, sizeof *header, 0);
}

int lz_blocks_create(const struct lz_sys *sys, int file_fd, int maps_fd, bool user_xattr, uint32_t block_size,
                     const struct lz_blocks_lower *lower, struct lz_detail *detail)
{
    char name[LZ_BLOCKS_NAME_SIZE], value[LZ_BLOCKS_VALUE_MAX + 1];
    struct lz_blocks_header header;
    struct lz_blocks_boot boot;
    if (lz_blocks_map_size(lower->at.size, block_size) == 0)
        return lz_fail(detail, -EINVAL, "block map: no map for blocks of %u bytes and a file of %llu", block_size,
                       (unsigned long long)lower->at.size);
    int rc = lz_blocks_boot_now(sys, &boot);
    if (rc == 0)
        rc = random_name(sys, name);
    if (rc != 0)
        return lz_fail(detail, rc, "block map: %s", lz_error_text(rc));
    int map_fd = sys->openat(sys->ctx, maps_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (map_fd < 0)
        return lz_fail(detail, map_fd, "block map %s: %s", name, lz_error_text(map_fd));
    lz_blocks_header_make(&header, lower, block_size, user_xattr, &boot);
    rc = fill_map(sys, map_fd, &header);
    (void)sys->close(sys->ctx, map_fd);
    if (rc == 0)
        rc = sys->ftruncate(sys->ctx, file_fd, (off_t)lower->at.size);
    if (rc == 0)
        rc = sys->setxattrat(sys->ctx, file_fd, "", lz_blocks_xattr(user_xattr), value,
                             lz_blocks_value(value, name, &boot, lower));
    if (rc == 0)
        return 0;
    (void)sys->unlinkat(sys->ctx, maps_fd, name, 0);
    return lz_fail(detail, rc, "block map %s: %s", name, lz_error_text(rc));
}

/* ---- the name ---- */

/* 1, 0 for none, or a code. */
static int read_value(const struct lz_sys *sys, int dir_fd, const char *name, bool user_xattr,
                      char out[LZ_BLOCKS_VALUE_MAX + 1])
{
    ssize_t got = sys->getxattrat(sys->ctx, dir_fd, name, lz_blocks_xattr(user_xattr), out, LZ_BLOCKS_VALUE_MAX);
    if (got == -ENODATA || got == -EOPNOTSUPP)
        return 0;
    if (got == -ERANGE || (got >= 0 && !lz_blocks_value_good(out, (size_t)got)))
        return LZ_E_CORRUPT;
    if (got < 0)
        return (int)got;
    out[got] = 0;
    return 1;
}

int lz_blocks_name(const struct lz_sys *sys, int dir_fd, const char *name, bool user_xattr,
                   char out[LZ_BLOCKS_NAME_SIZE])
{
    char value[LZ_BLOCKS_VALUE_MAX + 1];
    int rc = read_value(sys, dir_fd, name, user_xattr, value);
    if (rc == 1) {
        memcpy(out, value, LZ_BLOCKS_NAME_SIZE - 1);
        out[LZ_BLOCKS_NAME_SIZE - 1] = 0;
    }
    return rc;
}

/* ---- open ---- */

/* Does the xattr say that nothing was ever synced, in `boot` or in another? */
enum freshness { SYNCED, FRESH_NOW, FRESH_BEFORE };

static int find_freshness(const struct lz_blocks *file, bool user_xattr, enum freshness *out)
{
    char value[LZ_BLOCKS_VALUE_MAX + 1], expected[LZ_BLOCKS_VALUE_MAX + 1];
    int rc = read_value(file->sys, file->file_fd, "", user_xattr, value);
    *out = SYNCED;
    if (rc <= 0 || memcmp(value, file->name, LZ_BLOCKS_NAME_SIZE - 1) != 0)
        return rc < 0 ? rc : 0;
    (void)lz_blocks_value(expected, file->name, &file->boot, &file->lower);
    size_t boot = LZ_BLOCKS_NAME_SIZE - 1, lower = boot + 8;
    if (value[boot] != 0 && strcmp(value + lower, expected + lower) == 0)
        *out = memcmp(value + boot, expected + boot, 8) == 0 ? FRESH_NOW : FRESH_BEFORE;
    return 0;
}

static bool all_zero(const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0);
}

/* A power cut came before anything was synced: 1, and whose xattr says so; 0: not so; or a code. */
static int was_never_synced(const struct lz_blocks *file, bool *user_xattr)
{
    for (int user = 0; user < 2; user++) {
        enum freshness fresh;
        int rc = find_freshness(file, user == 1, &fresh);
        *user_xattr = user == 1;
        if (rc < 0 || fresh == FRESH_BEFORE)
            return rc < 0 ? rc : 1;
    }
    return 0;
}

/* The map has no content: nobody had asked for that, so nothing was written. 1 when the map is made anew, 0 when that is
 * not what happened. */
static int make_anew(struct lz_blocks *file)
{
    struct lz_blocks_header header = {0};
    bool user_xattr;
    int rc = was_never_synced(file, &user_xattr);
    if (rc <= 0)
        return rc;
    rc = lz_blocks_lock(file, 0, 0);
    if (rc != 0)
        return rc;
    ssize_t got = lz_pread_full(file->sys, file->map_fd, &header, sizeof header, 0);
    rc = got < 0 ? (int)got : 0;
    if (rc == 0 && all_zero(&header, (size_t)got)) { /* nobody was faster */
        lz_blocks_header_make(&header, &file->lower, LZ_BLOCKS_SIZE_DEFAULT, user_xattr, &file->boot);
        rc = file->sys->ftruncate(file->sys->ctx, file->map_fd, 0); /* cells may have got there without the header */
        if (rc == 0)
            rc = fill_map(file->sys, file->map_fd, &header);
    }
    lz_blocks_unlock(file, 0, 0);
    return rc == 0 ? 1 : rc;
}

static int read_header(struct lz_blocks *file, struct lz_blocks_header *header, struct lz_detail *detail)
{
    for (int again = 0; again < 2; again++) {
        memset(header, 0, sizeof *header);
        ssize_t got = lz_pread_full(file->sys, file->map_fd, header, sizeof *header, 0);
        if (got < 0)
            return lz_fail(detail, (int)got, "block map %s: %s", file->name, lz_error_text((int)got));
        if (again == 0 && file->map_writable && all_zero(header, sizeof *header)) {
            int rc = make_anew(file);
            if (rc < 0)
                return lz_fail(detail, rc, "block map %s: making it anew: %s", file->name, lz_error_text(rc));
        } else {
            break;
        }
    }
    if (!lz_blocks_header_good(header))
        return lz_fail(detail, LZ_E_CORRUPT, "block map %s: the header is damaged", file->name);
    if (!lz_blocks_header_is_of(header, &file->lower, &file->boot))
        return lz_fail(detail, LZ_E_CORRUPT,
                       "block map %s: the lower file is not the one that was copied up: it was changed or replaced",
                       file->name);
    return 0;
}

static int map_it(struct lz_blocks *file, const struct lz_blocks_header *header, struct lz_detail *detail)
{
    const struct lz_sys *sys = file->sys;
    uint64_t size = lz_blocks_map_size(header->lower_size, header->block_size);
    struct stat info;
    int rc = sys->fstatat(sys->ctx, file->map_fd, "", &info, AT_EMPTY_PATH);
    if (rc == 0 && (uint64_t)info.st_size < size)
        return lz_fail(detail, LZ_E_CORRUPT, "block map %s: has %llu bytes, expected %llu", file->name,
                       (unsigned long long)info.st_size, (unsigned long long)size);
    void *map = NULL;
    if (rc == 0)
        rc = sys->mmap(sys->ctx, &map, (size_t)size, PROT_READ, MAP_SHARED, file->map_fd, 0);
    if (rc != 0)
        return lz_fail(detail, rc, "block map %s: %s", file->name, lz_error_text(rc));
    file->map = map;
    file->map_size = (size_t)size;
    file->user_xattr = header->user_xattr != 0;
    file->block_size = header->block_size;
    file->shift = (uint32_t)__builtin_ctz(header->block_size);
    file->cell_count = (size - LZ_BLOCKS_HEADER_SIZE) / LZ_BLOCKS_CELL_SIZE;
    return 0;
}

/* After another boot `now` may speak of blocks that never reached the disk: what was kept counts. */
static int bring_into_boot(struct lz_blocks *file, struct lz_blocks_end *end)
{
    for (uint64_t cell = 0; cell < file->cell_count;) {
        uint32_t kept[64];
        size_t count = 0;
        bool differs = false;
        for (; count < 64 && cell + count < file->cell_count; count++) {
            uint32_t now;
            int rc = lz_blocks_kept(file, cell + count, &kept[count]);
            if (rc != 0)
                return rc;
            differs |= lz_blocks_bits(file, true, cell + count, &now) != 0 || now != kept[count];
        }
        int rc = differs ? lz_blocks_write_cells(file, cell, kept, kept, count) : 0;
        if (rc != 0)
            return rc;
        cell += count;
    }
    end->boot = file->boot;
    end->now = end->kept;
    return lz_blocks_set_end(file, end);
}

/* What has to be put right before this handle reads: another boot's map, a truncation that was killed. */
static int bring_up_to_date(struct lz_blocks *file)
{
    struct lz_blocks_end end;
    int64_t limit = lz_blocks_end(file, false, &end), size = lz_blocks_file_size(file);
    if (limit < 0 || size < 0)
        return (int)(limit < 0 ? limit : size);
    bool other = end.boot.id[0] != file->boot.id[0] || end.boot.id[1] != file->boot.id[1];
    if (!file->map_writable || (!other && limit <= size)) {
        file->current = !other;
        return 0;
    }
    int rc = lz_blocks_lock(file, 0, 0);
    if (rc != 0)
        return rc;
    limit = lz_blocks_end(file, true, &end);
    rc = limit < 0 ? (int)limit : 0;
    file->current = true; /* `now` as it is written, from here on */
    if (rc == 0 && (end.boot.id[0] != file->boot.id[0] || end.boot.id[1] != file->boot.id[1]))
        rc = bring_into_boot(file, &end);
    size = rc == 0 ? lz_blocks_file_size(file) : 0;
    if (rc == 0)
        rc = size < 0 ? (int)size : lz_blocks_settle_end(file, (uint64_t)size, false);
    lz_blocks_unlock(file, 0, 0);
    return rc;
}

/* The descriptor or a code. Where the disk got the file and not the map's name (btrfs writes each file back by itself), and
 * nothing was ever synced, the map is an empty one. */
static int open_map_file(struct lz_blocks *file, int maps_fd)
{
    const struct lz_sys *sys = file->sys;
    int flags = O_NOFOLLOW | O_NONBLOCK, fd = sys->openat(sys->ctx, maps_fd, file->name, O_RDWR | flags, 0);
    bool user_xattr;
    file->map_writable = true;
    if (!file->writable && (fd == -EACCES || fd == -EROFS || fd == -EPERM)) {
        file->map_writable = false;
        return sys->openat(sys->ctx, maps_fd, file->name, O_RDONLY | flags, 0);
    }
    if (fd != -ENOENT)
        return fd;
    int rc = was_never_synced(file, &user_xattr);
    return rc == 1 ? sys->openat(sys->ctx, maps_fd, file->name, O_RDWR | O_CREAT | flags, 0600) : rc < 0 ? rc : fd;
}

static int open_map(struct lz_blocks *file, int maps_fd, struct lz_detail *detail)
{
    file->map_fd = open_map_file(file, maps_fd);
    if (file->map_fd == -ENOENT)
        return lz_fail(detail, -ENOENT, "block map %s is gone", file->name);
    if (file->map_fd < 0)
        return lz_fail(detail, file->map_fd, "block map %s: %s", file->name, lz_error_text(file->map_fd));
    struct lz_blocks_header header;
    int rc = read_header(file, &header, detail);
    if (rc == 0)
        rc = map_it(file, &header, detail);
    if (rc != 0)
        return rc;
    enum freshness fresh;
    rc = bring_up_to_date(file);
    if (rc == 0)
        rc = find_freshness(file, file->user_xattr, &fresh);
    if (rc < 0)
        return lz_fail(detail, rc, "block map %s: %s", file->name, lz_error_text(rc));
    file->fresh = fresh != SYNCED;
    return 0;
}

int lz_blocks_open(const struct lz_sys *sys, int file_fd, int maps_fd, const char *map_name, bool writable,
                   const struct lz_blocks_lower *lower, struct lz_blocks **out, struct lz_detail *detail)
{
    if (strlen(map_name) != LZ_BLOCKS_NAME_SIZE - 1 || !lz_blocks_value_good(map_name, strlen(map_name)))
        return lz_fail(detail, LZ_E_CORRUPT, "block map: \"%.64s\" is no name of one", map_name);
    struct lz_blocks *file = calloc(1, sizeof *file);
    if (file == NULL)
        return -ENOMEM;
    file->sys = sys;
    file->file_fd = file_fd;
    file->map_fd = -1;
    file->writable = writable;
    file->lower = *lower;
    memcpy(file->name, map_name, LZ_BLOCKS_NAME_SIZE);
    (void)pthread_mutex_init(&file->mutex, NULL); /* cannot fail on Linux */
    int rc = lz_blocks_boot_now(sys, &file->boot);
    if (rc != 0)
        rc = lz_fail(detail, rc, "block map %s: which boot this is: %s", file->name, lz_error_text(rc));
    if (rc == 0)
        rc = open_map(file, maps_fd, detail);
    if (rc == 0 && (file->scratch = malloc(file->block_size)) == NULL)
        rc = -ENOMEM;
    if (rc != 0) {
        lz_blocks_close(file);
        return rc;
    }
    *out = file;
    return 0;
}

void lz_blocks_close(struct lz_blocks *file)
{
    if (file == NULL)
        return;
    if (file->map != NULL)
        (void)file->sys->munmap(file->sys->ctx, (void *)(uintptr_t)file->map, file->map_size);
    if (file->map_fd >= 0)
        (void)file->sys->close(file->sys->ctx, file->map_fd); /* gives back its locks, too */
    (void)pthread_mutex_destroy(&file->mutex);
    free(file->scratch);
    free(file);
}
