#include "lz_blocks_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#define LOCK_BASE ((off_t)1 << 62) /* locks lie behind all content: a lock is no claim on bytes of the map */
#define LOOKS 4                    /* at a number that is being written, before taking the lock */

_Static_assert(sizeof(struct lz_blocks_header) <= LZ_BLOCKS_HEADER_SIZE, "on-disk size");
_Static_assert(sizeof(struct lz_blocks_end) == 40 && offsetof(struct lz_blocks_header, end) % 8 == 0, "on-disk size");

/* ---- the xattr ---- */

const char *lz_blocks_xattr(bool user_xattr)
{
    return user_xattr ? "user.overlay.lazarus" : "trusted.overlay.lazarus";
}

static void put_hex(char *out, uint64_t value, size_t digits)
{
    for (size_t i = 0; i < digits; i++)
        out[i] = "0123456789abcdef"[value >> (4 * (digits - 1 - i)) & 15];
}

static uint64_t identity(const struct lz_blocks_lower *lower)
{
    uint64_t parts[4] = {lower->number, (uint64_t)lower->mtime, lower->mtime_nsec, lower->at.size};
    uint64_t id;
    memcpy(&id, lower->digest, sizeof id);
    return lower->has_digest ? id : XXH3_64bits(parts, sizeof parts);
}

size_t lz_blocks_value(char out[LZ_BLOCKS_VALUE_MAX + 1], const char *name, const struct lz_blocks_boot *boot,
                       const struct lz_blocks_lower *lower)
{
    size_t size = LZ_BLOCKS_NAME_SIZE - 1;
    memcpy(out, name, size);
    if (lower != NULL) {
        put_hex(out + size, boot->id[0] & UINT32_MAX, 8);
        put_hex(out + size + 8, identity(lower), 16);
        size += 24;
    }
    out[size] = 0;
    return size;
}

bool lz_blocks_value_good(const char *value, size_t size)
{
    if (size != LZ_BLOCKS_NAME_SIZE - 1 && size != LZ_BLOCKS_VALUE_MAX)
        return false;
    for (size_t i = 0; i < size; i++) {
        if ((value[i] < '0' || value[i] > '9') && (value[i] < 'a' || value[i] > 'f'))
            return false;
    }
    return true;
}

int lz_blocks_boot_now(const struct lz_sys *sys, struct lz_blocks_boot *out)
{
    char text[36]; /* a UUID; the newline behind it would take a second read to see the end */
    int fd = sys->openat(sys->ctx, AT_FDCWD, "/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
    if (fd < 0)
        return fd;
    ssize_t got = lz_read_full(sys, fd, text, sizeof text);
    (void)sys->close(sys->ctx, fd);
    if (got != (ssize_t)sizeof text)
        return got < 0 ? (int)got : -EIO;
    XXH128_hash_t hash = XXH3_128bits(text, sizeof text);
    *out = (struct lz_blocks_boot){{hash.low64, hash.high64 | 1}}; /* never that of a map of zeros */
    return 0;
}

static bool same_boot(const struct lz_blocks_boot *a, const struct lz_blocks_boot *b)
{
    return a->id[0] == b->id[0] && a->id[1] == b->id[1];
}

/* ---- header ---- */

uint64_t lz_blocks_map_size(uint64_t lower_size, uint32_t block_size)
{
    bool good = block_size >= 4096 && block_size <= 65536 && (block_size & (block_size - 1)) == 0;
    if (!good || lower_size > INT64_MAX)
        return 0;
    uint64_t span = (uint64_t)block_size * LZ_BLOCKS_PER_CELL;
    return LZ_BLOCKS_HEADER_SIZE + (lower_size + span - 1) / span * LZ_BLOCKS_CELL_SIZE;
}

static uint64_t header_check(const struct lz_blocks_header *header)
{
    return XXH3_64bits(header, offsetof(struct lz_blocks_header, check));
}

static uint64_t end_check(const struct lz_blocks_end *end)
{
    return XXH3_64bits(end, offsetof(struct lz_blocks_end, check));
}

void lz_blocks_header_make(struct lz_blocks_header *out, const struct lz_blocks_lower *lower, uint32_t block_size,
                           bool user_xattr, const struct lz_blocks_boot *boot)
{
    memset(out, 0, sizeof *out); /* padding, too: it is hashed and written */
    out->magic = LZ_BLOCKS_MAGIC;
    out->block_size = block_size;
    out->user_xattr = user_xattr;
    out->has_digest = lower->has_digest;
    out->lower_size = lower->at.size;
    if (lower->has_digest) {
        memcpy(out->digest, lower->digest, sizeof out->digest);
    } else {
        out->device = lower->device;
        out->number = lower->number;
        out->mtime = lower->mtime;
        out->mtime_nsec = lower->mtime_nsec;
    }
    out->made = *boot;
    out->check = header_check(out);
    out->end = (struct lz_blocks_end){.boot = *boot, .now = lower->at.size, .kept = lower->at.size};
    out->end.check = end_check(&out->end);
}

bool lz_blocks_header_good(const struct lz_blocks_header *header)
{
    return header->magic == LZ_BLOCKS_MAGIC && header->check == header_check(header) &&
           lz_blocks_map_size(header->lower_size, header->block_size) != 0;
}

bool lz_blocks_header_is_of(const struct lz_blocks_header *header, const struct lz_blocks_lower *lower,
                            const struct lz_blocks_boot *boot)
{
    if (header->lower_size != lower->at.size || header->has_digest != lower->has_digest)
        return false;
    if (lower->has_digest)
        return memcmp(header->digest, lower->digest, sizeof header->digest) == 0;
    return header->number == lower->number && header->mtime == lower->mtime &&
           header->mtime_nsec == lower->mtime_nsec &&
           (header->device == lower->device || !same_boot(&header->made, boot));
}

/* ---- locks ---- */

static int lock(struct lz_blocks *file, int type, uint64_t first, uint64_t count)
{
    (void)pthread_mutex_lock(&file->mutex);
    int rc = file->sys->ofd_lock(file->sys->ctx, file->map_fd, type, LOCK_BASE + (off_t)first, (off_t)count);
    if (rc != 0)
        (void)pthread_mutex_unlock(&file->mutex);
    return rc;
}

int lz_blocks_lock(struct lz_blocks *file, uint64_t first, uint64_t count)
{
    return lock(file, F_WRLCK, first, count);
}

int lz_blocks_lock_shared(struct lz_blocks *file)
{
    return lock(file, F_RDLCK, 0, 0);
}

void lz_blocks_unlock(struct lz_blocks *file, uint64_t first, uint64_t count)
{
    (void)file->sys->ofd_lock(file->sys->ctx, file->map_fd, F_UNLCK, LOCK_BASE + (off_t)first, (off_t)count);
    (void)pthread_mutex_unlock(&file->mutex);
}

/* ---- numbers in the map ---- */

static uint64_t load(const struct lz_blocks *file, uint64_t offset)
{
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(file->map + offset), memory_order_acquire);
}

/* Bits and their check as one number: a bijection of the bits, 0 for none, so that no change of one half fits. */
static uint64_t with_check(uint32_t bits)
{
    return bits | (uint64_t)(uint32_t)(bits * 0x9e3779b1u) << 32;
}

static bool load_bits(const struct lz_blocks *file, uint64_t offset, uint32_t *out)
{
    uint64_t value = load(file, offset);
    for (int i = 0; i < LOOKS && value != with_check((uint32_t)value); i++)
        value = load(file, offset);
    *out = (uint32_t)value;
    return value == with_check((uint32_t)value);
}

static bool load_end(const struct lz_blocks *file, struct lz_blocks_end *out)
{
    uint64_t parts[sizeof *out / 8];
    for (int i = 0; i < LOOKS; i++) {
        for (size_t j = 0; j < sizeof parts / sizeof *parts; j++)
            parts[j] = load(file, offsetof(struct lz_blocks_header, end) + 8 * j);
        memcpy(out, parts, sizeof *out);
        if (out->check == end_check(out))
            return true;
    }
    return false;
}

int64_t lz_blocks_end(struct lz_blocks *file, bool locked, struct lz_blocks_end *out)
{
    struct lz_blocks_end end;
    bool good = load_end(file, &end);
    if (!good && !locked) {
        int rc = lz_blocks_lock_shared(file);
        if (rc != 0)
            return rc;
        good = load_end(file, &end);
        lz_blocks_unlock(file, 0, 0);
    }
    uint64_t now = file->current || same_boot(&end.boot, &file->boot) ? end.now : end.kept;
    if (!good || now > file->lower.at.size || end.kept > file->lower.at.size)
        return LZ_E_CORRUPT;
    if (out != NULL)
        *out = end;
    return (int64_t)now;
}

int lz_blocks_set_end(struct lz_blocks *file, struct lz_blocks_end *end)
{
    end->check = end_check(end);
    return lz_pwrite_all(file->sys, file->map_fd, end, sizeof *end, offsetof(struct lz_blocks_header, end));
}

static bool load_now(struct lz_blocks *file, uint64_t cell, uint32_t *out, int *rc)
{
    uint64_t offset = LZ_BLOCKS_HEADER_SIZE + cell * LZ_BLOCKS_CELL_SIZE;
    struct lz_blocks_end end;
    *rc = 0;
    if (!file->current) { /* a map that we cannot write: perhaps nobody has brought it into this boot */
        int64_t limit = lz_blocks_end(file, true, &end);
        *rc = limit < 0 ? (int)limit : 0;
        offset += limit >= 0 && !same_boot(&end.boot, &file->boot) ? 8 : 0;
    }
    return *rc == 0 && load_bits(file, offset, out);
}

int lz_blocks_bits(struct lz_blocks *file, bool locked, uint64_t cell, uint32_t *now)
{
    int rc;
    if (cell >= file->cell_count)
        return LZ_E_CORRUPT;
    bool good = load_now(file, cell, now, &rc);
    if (!good && !locked) {
        if ((rc = lz_blocks_lock_shared(file)) != 0)
            return rc;
        good = load_now(file, cell, now, &rc);
        lz_blocks_unlock(file, 0, 0);
    }
    return good ? 0 : LZ_E_CORRUPT;
}

int lz_blocks_kept(struct lz_blocks *file, uint64_t cell, uint32_t *kept)
{
    bool good =
        cell < file->cell_count && load_bits(file, LZ_BLOCKS_HEADER_SIZE + cell * LZ_BLOCKS_CELL_SIZE + 8, kept);
    return good ? 0 : LZ_E_CORRUPT;
}

int lz_blocks_run(struct lz_blocks *file, bool locked, uint64_t block, uint64_t limit, bool *in_upper, uint64_t *end)
{
    uint64_t at = block;
    uint32_t wanted = 0;
    while (at < limit) {
        uint32_t bits;
        int rc = lz_blocks_bits(file, locked, at / LZ_BLOCKS_PER_CELL, &bits);
        if (rc != 0)
            return rc;
        unsigned skip = at % LZ_BLOCKS_PER_CELL;
        if (at == block)
            wanted = bits >> skip & 1 ? UINT32_MAX : 0;
        uint32_t others = (bits ^ wanted) >> skip;
        if (others != 0) {
            at += (unsigned)__builtin_ctz(others);
            break;
        }
        at += LZ_BLOCKS_PER_CELL - skip;
    }
    *in_upper = wanted != 0;
    *end = at < limit ? at : limit;
    return 0;
}

int lz_blocks_write_cells(struct lz_blocks *file, uint64_t first, const uint32_t *now, const uint32_t *kept,
                          size_t count)
{
    uint64_t raw[2 * 64];
    int rc = 0;
    for (size_t done = 0; done < count && rc == 0;) {
        size_t piece = count - done < 64 ? count - done : 64;
        for (size_t i = 0; i < piece; i++) {
            raw[2 * i] = with_check(now[done + i]);
            raw[2 * i + 1] = with_check(kept[done + i]);
        }
        rc = lz_pwrite_all(file->sys, file->map_fd, raw, piece * LZ_BLOCKS_CELL_SIZE,
                           (off_t)(LZ_BLOCKS_HEADER_SIZE + (first + done) * LZ_BLOCKS_CELL_SIZE));
        done += piece;
    }
    return rc;
}

int lz_blocks_set(struct lz_blocks *file, uint64_t first, uint64_t end)
{
    uint32_t now[64], kept[64];
    int rc = 0;
    atomic_thread_fence(memory_order_release);
    while (first < end && rc == 0) {
        uint64_t cell = first / LZ_BLOCKS_PER_CELL;
        size_t count = 0;
        for (; count < 64 && first < end && rc == 0; count++) {
            unsigned skip = first % LZ_BLOCKS_PER_CELL;
            uint64_t stop = first - skip + LZ_BLOCKS_PER_CELL;
            uint32_t mask = UINT32_MAX << skip;
            if (stop > end)
                mask &= UINT32_MAX >> (stop - end);
            rc = lz_blocks_bits(file, true, cell + count, &now[count]);
            if (rc == 0)
                rc = lz_blocks_kept(file, cell + count, &kept[count]);
            now[count] |= mask;
            first = stop;
        }
        if (rc == 0)
            rc = lz_blocks_write_cells(file, cell, now, kept, count);
    }
    return rc;
}

/* ---- lower_end against the file's size ---- */

int64_t lz_blocks_file_size(const struct lz_blocks *file)
{
    struct stat info;
    int rc = file->sys->fstatat(file->sys->ctx, file->file_fd, "", &info, AT_EMPTY_PATH);
    return rc != 0 ? rc : info.st_size;
}

int lz_blocks_settle_end(struct lz_blocks *file, uint64_t size, bool extends)
{
    const struct lz_sys *sys = file->sys;
    struct lz_blocks_end end;
    int64_t limit = lz_blocks_end(file, true, &end);
    if (limit < 0)
        return (int)limit;
    int rc = 0;
    if ((uint64_t)limit > size) {
        end.now = size;
        rc = lz_blocks_set_end(file, &end);
    }
    if (rc != 0 || !extends || end.kept <= end.now)
        return rc;
    /* After a power cut lower_end is the smaller of `kept` and the file's size: the size must not grow before */
    rc = sys->fdatasync(sys->ctx, file->file_fd);
    end.kept = end.now;
    if (rc == 0)
        rc = lz_blocks_set_end(file, &end);
    return rc != 0 ? rc : sys->fdatasync(sys->ctx, file->map_fd);
}
