/* Block-level files against a plain file in memory; names, lowers, damage and failing calls. Crashes and concurrency:
 * test_lz_blocks_many.c. */
#include "blocks_fixture.h"
#include "disks.h"

static uint8_t written[MODEL_MAX];

static const uint8_t *some_bytes(uint32_t *random, size_t size)
{
    uint8_t mark = (uint8_t)(128 + next_random(random) % 128);
    for (size_t i = 0; i < size; i++)
        written[i] = (uint8_t)(mark ^ (i & 15));
    return written;
}

/* ---- what one call does ---- */

static uint64_t upper_bytes(struct lz_blocks *blocks);

static void one_write(void)
{
    struct subject subject = subject_open(1 << 20, 0, true, BLOCK);
    struct stat info;
    check_content(subject.blocks, &subject.model);
    write_both(&subject, "xyz", 3, 500000);
    check_content(subject.blocks, &subject.model);
    CHECK_EQ(lz_blocks_filled(subject.blocks), BLOCK - 3);
    CHECK_EQ(upper_bytes(subject.blocks), BLOCK);
    CHECK_EQ(fstat(subject.file_fd, &info), 0);
    CHECK_EQ(info.st_size, 1 << 20);
    CHECK(info.st_blocks <= 16);
    write_both(&subject, "abc", 3, 500003); /* the block is there now */
    CHECK_EQ(lz_blocks_filled(subject.blocks), BLOCK - 3);
    write_both(&subject, some_bytes(&(uint32_t){7}, 3 * BLOCK), 3 * BLOCK, 10 * BLOCK); /* whole blocks need no fill */
    CHECK_EQ(lz_blocks_filled(subject.blocks), BLOCK - 3);
    CHECK_EQ(upper_bytes(subject.blocks), 4 * BLOCK);
    check_content(subject.blocks, &subject.model);
    CHECK_EQ(lz_blocks_write(subject.blocks, "", 0, 5), 0);
    CHECK_EQ(lz_blocks_write(subject.blocks, "x", 1, (uint64_t)INT64_MAX + 1), -EINVAL);
    CHECK_EQ(lz_blocks_write(subject.blocks, "x", 1, INT64_MAX), -EFBIG);
    CHECK_EQ(lz_blocks_truncate(subject.blocks, UINT64_MAX), -EINVAL);
    CHECK_EQ(lz_blocks_punch(subject.blocks, 0, 0), -EINVAL);
    CHECK_EQ(lz_blocks_read(subject.blocks, written, 5, INT64_MAX), 0);
    CHECK_EQ(lz_blocks_read(subject.blocks, written, 5, UINT64_MAX), -EINVAL);
    CHECK_EQ(lz_blocks_seek(subject.blocks, 0, SEEK_SET), -EINVAL);
    CHECK_EQ(lz_blocks_seek(subject.blocks, 1 << 20, SEEK_DATA), -ENXIO);
    check_content(subject.blocks, &subject.model);
    struct lz_blocks *reader = open_again(&subject, false);
    check_content(reader, &subject.model);
    CHECK_EQ(lz_blocks_write(reader, "x", 1, 0), -EBADF);
    CHECK_EQ(lz_blocks_append(reader, "x", 1), -EBADF);
    CHECK_EQ(lz_blocks_truncate(reader, 0), -EBADF);
    CHECK_EQ(lz_blocks_punch(reader, 0, 1), -EBADF);
    CHECK_EQ(lz_blocks_sync(reader), 0);
    CHECK_EQ(lz_blocks_settle(reader, subject.maps_fd, NULL), -EBADF);
    lz_blocks_close(reader);
    subject_free(&subject);
}

/* What was cut off does not come back, whichever way the file grows again. */
static void cut_off(void)
{
    for (int way = 0; way < 4; way++) {
        struct subject subject = subject_open(100000, 77, false, BLOCK);
        write_both(&subject, "here", 4, 60000);
        CHECK_EQ(lz_blocks_truncate(subject.blocks, 10), 0);
        model_resize(&subject.model, 10);
        check_content(subject.blocks, &subject.model);
        if (way == 0)
            CHECK_EQ(lz_blocks_truncate(subject.blocks, 100000), 0);
        if (way == 0)
            model_resize(&subject.model, 100000);
        if (way == 1)
            write_both(&subject, "end", 3, 80000);
        if (way == 2) {
            CHECK_EQ(lz_blocks_append(subject.blocks, "end", 3), 3);
            model_write(&subject.model, (const uint8_t *)"end", 3, 10);
        }
        if (way == 3)
            write_both(&subject, "in the first block", 18, 2000);
        check_content(subject.blocks, &subject.model);
        write_both(&subject, "x", 1, 5);
        check_content(subject.blocks, &subject.model);
        lz_blocks_close(subject.blocks);
        subject.blocks = open_again(&subject, true);
        check_content(subject.blocks, &subject.model);
        CHECK_EQ(lz_blocks_settle(subject.blocks, subject.maps_fd, NULL), 0);
        check_content(subject.blocks, &subject.model);
        subject_free(&subject);
    }
}

/* ---- everything against the model ---- */

static void check_seek(struct subject *subject, uint32_t *random)
{
    size_t size = subject->model.size;
    if (size == 0)
        return;
    size_t at = next_random(random) % size;
    int64_t data = lz_blocks_seek(subject->blocks, at, SEEK_DATA),
            hole = lz_blocks_seek(subject->blocks, at, SEEK_HOLE);
    CHECK(data == -ENXIO || (data >= (int64_t)at && data < (int64_t)size));
    for (size_t i = at; i < (data < 0 ? size : (size_t)data); i++)
        CHECK_EQ(subject->model.bytes[i], 0);
    CHECK(hole >= (int64_t)at && hole <= (int64_t)size);
    CHECK(data == (int64_t)at || hole == (int64_t)at);
}

struct ranges {
    uint64_t last, sum;
};

static int add_range(void *ctx, uint64_t offset, uint64_t size)
{
    struct ranges *ranges = ctx;
    CHECK(size > 0 && (ranges->last == 0 || offset > ranges->last)); /* in order, neighbours joined */
    ranges->last = offset + size;
    ranges->sum += size;
    return 0;
}

static uint64_t upper_bytes(struct lz_blocks *blocks)
{
    struct ranges ranges = {0};
    CHECK_EQ(lz_blocks_each(blocks, add_range, &ranges), 0);
    return ranges.sum;
}

static void one_step(struct subject *subject, struct lz_blocks *blocks, uint32_t *random)
{
    static const size_t sizes[] = {1, 3, 100, 4000, 4096, 5000, 8192, 40000};
    size_t reach = subject->lower_model.size + 20000;
    size_t offset = next_random(random) % (reach + 1), size = sizes[next_random(random) % 8];
    if (next_random(random) % 3 == 0)
        offset &= ~(size_t)4095;
    const uint8_t *bytes = some_bytes(random, size);
    switch (next_random(random) % 12) {
    case 0:
        CHECK_EQ(lz_blocks_append(blocks, bytes, size), size);
        model_write(&subject->model, bytes, size, subject->model.size);
        break;
    case 1:
        CHECK_EQ(lz_blocks_truncate(blocks, offset), 0);
        model_resize(&subject->model, offset);
        break;
    case 2:
    case 3:
        CHECK_EQ(lz_blocks_punch(blocks, offset, size), 0);
        model_punch(&subject->model, offset, size);
        break;
    case 4:
        CHECK_EQ(lz_blocks_sync(blocks), 0);
        break;
    case 5:
        lz_blocks_close(subject->blocks);
        subject->blocks = open_again(subject, true);
        break;
    default:
        CHECK_EQ(lz_blocks_write(blocks, bytes, size, offset), size);
        model_write(&subject->model, bytes, size, offset);
    }
}

/* Random calls through two handles; the seed says which. */
static void against_model(void)
{
    static const size_t lowers[] = {0, 1, 100, 4095, 4096, 4097, 70000, 300000};
    for (uint32_t seed = 1; seed <= 96; seed++) {
        uint32_t random = seed * 7919;
        struct subject subject =
            subject_open(lowers[seed % 8], seed % 3 * 4096 + seed % 2, seed % 2 == 0, seed % 5 == 0 ? 65536 : BLOCK);
        struct lz_blocks *second = open_again(&subject, true);
        for (int step = 0; step < 60 && subject.model.size < MODEL_MAX - 100000; step++) {
            one_step(&subject, next_random(&random) % 2 ? subject.blocks : second, &random);
            if (step % 6 == 5)
                check_content(step % 12 == 5 ? second : subject.blocks, &subject.model);
            check_seek(&subject, &random);
            CHECK(upper_bytes(second) <= subject.model.size);
        }
        check_content(subject.blocks, &subject.model);
        CHECK_EQ(lz_blocks_settle(subject.blocks, subject.maps_fd, NULL), 0);
        char name[LZ_BLOCKS_NAME_SIZE];
        CHECK_EQ(lz_blocks_name(booted(), subject.file_fd, "", subject.user_xattr, name), 0);
        CHECK_EQ(upper_bytes(second), subject.model.size);
        CHECK_EQ(lz_blocks_write(second, "later", 5, 3000), 5); /* other handles stay good */
        model_write(&subject.model, (const uint8_t *)"later", 5, 3000);
        check_content(second, &subject.model);
        struct lz_buf whole = read_whole(subject.file_fd);
        CHECK_EQ(whole.size, subject.model.size);
        CHECK(whole.size == 0 || memcmp(whole.data, subject.model.bytes, whole.size) == 0);
        lz_buf_free(&whole);
        lz_blocks_close(second);
        subject_free(&subject);
    }
}

/* ---- names and lowers ---- */

static void check_refused(struct subject *subject, const struct lz_blocks_lower *lower, int code, const char *says)
{
    char name[LZ_BLOCKS_NAME_SIZE];
    struct lz_blocks *blocks = NULL;
    struct lz_detail detail = {{0}};
    CHECK_EQ(lz_blocks_name(booted(), subject->file_fd, "", subject->user_xattr, name), 1);
    CHECK_EQ(lz_blocks_open(booted(), subject->file_fd, subject->maps_fd, name, true, lower, &blocks, &detail), code);
    CHECK(blocks == NULL);
    if (strstr(detail.text, says) == NULL)
        fprintf(stderr, "%s\n", detail.text);
    CHECK(strstr(detail.text, says) != NULL);
}

static void other_lower(void)
{
    for (int digest = 0; digest < 2; digest++) {
        struct subject subject = subject_open(50000, 0, digest == 1, BLOCK);
        struct lz_blocks_lower lower = subject.lower;
        lower.at.size--;
        check_refused(&subject, &lower, LZ_E_CORRUPT, "changed or replaced");
        lower = subject.lower;
        lower.digest[31] ^= 1;
        lower.mtime_nsec ^= 1;
        check_refused(&subject, &lower, LZ_E_CORRUPT, "changed or replaced");
        lower = subject.lower;
        lower.has_digest = !lower.has_digest;
        check_refused(&subject, &lower, LZ_E_CORRUPT, "changed or replaced");
        lower = subject.lower;
        lower.device++;
        if (digest == 0) {
            check_refused(&subject, &lower, LZ_E_CORRUPT, "changed or replaced");
            reboot_into(&subject, 'b'); /* devices get new numbers */
        }
        subject.lower = lower;
        struct lz_blocks *blocks = open_again(&subject, true);
        check_content(blocks, &subject.model);
        lz_blocks_close(blocks);
        subject_free(&subject);
    }
}

static void names(void)
{
    struct subject subject = subject_open(50000, 0, true, BLOCK);
    const char *xattr = subject.user_xattr ? "user.overlay.lazarus" : "trusted.overlay.lazarus";
    char name[LZ_BLOCKS_NAME_SIZE];
    CHECK_EQ(lz_blocks_name(booted(), subject.scratch.fd, "lower", subject.user_xattr, name), 0);
    CHECK_EQ(lz_blocks_name(booted(), subject.scratch.fd, "nothing", subject.user_xattr, name), -ENOENT);
    CHECK_EQ(lz_blocks_name(booted(), subject.scratch.fd, "upper", subject.user_xattr, name), 1);
    struct lz_blocks *blocks = NULL;
    struct lz_detail detail;
    static const char *const wrong[] = {"", "../../etc/passwd", "../0123456789012345678901234567890",
                                        "0123456789ABCDEF0123456789ABCDEF"};
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(lz_blocks_open(booted(), subject.file_fd, subject.maps_fd, wrong[i], true, &subject.lower, &blocks,
                                &detail),
                 LZ_E_CORRUPT);
        CHECK(strstr(detail.text, "is no name of one") != NULL);
        set_xattr(&subject.scratch, "lower", xattr, wrong[i]);
        CHECK_EQ(lz_blocks_name(booted(), subject.scratch.fd, "lower", subject.user_xattr, name), LZ_E_CORRUPT);
    }
    CHECK_EQ(unlinkat(subject.maps_fd, name, 0), 0);
    check_refused(&subject, &subject.lower, -ENOENT, "is gone");
    struct lz_blocks_lower lower = subject.lower;
    CHECK_EQ(lz_blocks_create(booted(), subject.file_fd, subject.maps_fd, true, 4095, &lower, &detail), -EINVAL);
    CHECK_EQ(lz_blocks_create(booted(), subject.file_fd, subject.maps_fd, true, 131072, &lower, &detail), -EINVAL);
    lower.at.size = (uint64_t)INT64_MAX + 1;
    CHECK_EQ(lz_blocks_create(booted(), subject.file_fd, subject.maps_fd, true, BLOCK, &lower, &detail), -EINVAL);
    subject_free(&subject);
}

/* A lower that ends early is an error, never zeros. */
static void short_lower(void)
{
    struct subject subject = subject_open(50000, 0, true, BLOCK);
    CHECK_EQ(ftruncate(subject.lower_fd, 20000), 0);
    CHECK_EQ(lz_blocks_read(subject.blocks, written, 100, 30000), LZ_E_TRUNCATED);
    CHECK_EQ(lz_blocks_write(subject.blocks, "x", 1, 30000), LZ_E_TRUNCATED);
    CHECK_EQ(lz_blocks_read(subject.blocks, written, 100, 10000), 100);
    struct lz_detail detail;
    CHECK_EQ(lz_blocks_settle(subject.blocks, subject.maps_fd, &detail), LZ_E_TRUNCATED);
    subject_free(&subject);
}

/* ---- damage ---- */

/* A map with bits in several cells, some of them kept, of a file that was cut and has grown. */
static struct subject eventful(void)
{
    struct subject subject = subject_open(600000, 0, true, BLOCK);
    uint32_t random = 5;
    for (int i = 0; i < 40; i++) {
        size_t offset = next_random(&random) % 600000;
        write_both(&subject, some_bytes(&random, 3000), 3000, offset);
        if (i == 20)
            CHECK_EQ(lz_blocks_sync(subject.blocks), 0);
    }
    CHECK_EQ(lz_blocks_truncate(subject.blocks, 550000), 0);
    model_resize(&subject.model, 550000);
    write_both(&subject, "end", 3, 560000);
    write_both(&subject, some_bytes(&random, 5000), 5000, 100);
    return subject;
}

/* With the map as it is: an error, or what the file holds; the same after a write. */
static void error_or_right(struct subject *subject, const struct model *expected)
{
    struct lz_blocks *blocks = NULL;
    if (open_with(booted(), subject, true, &blocks, NULL) != 0)
        return;
    static uint8_t found[MODEL_MAX];
    for (size_t at = 0; at < expected->size; at += BLOCK) {
        size_t size = expected->size - at < BLOCK ? expected->size - at : BLOCK;
        ssize_t got = lz_blocks_read(blocks, found, size, at);
        CHECK(got < 0 || (got == (ssize_t)size && memcmp(found, expected->bytes + at, size) == 0));
    }
    uint8_t byte = expected->bytes[300001]; /* the same again: it brings the block in */
    ssize_t wrote = lz_blocks_write(blocks, &byte, 1, 300001);
    CHECK(wrote == 1 || wrote < 0);
    ssize_t got = lz_blocks_read(blocks, found, BLOCK, 299008);
    CHECK(got < 0 || memcmp(found, expected->bytes + 299008, BLOCK) == 0);
    int synced = lz_blocks_sync(blocks);
    CHECK(synced <= 0);
    lz_blocks_close(blocks);
}

static int open_map(struct subject *subject)
{
    char name[LZ_BLOCKS_NAME_SIZE];
    CHECK_EQ(lz_blocks_name(booted(), subject->file_fd, "", subject->user_xattr, name), 1);
    int fd = openat(subject->maps_fd, name, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void restore_map(int map, const struct lz_buf *good)
{
    CHECK_EQ(pwrite(map, good->data, good->size, 0), good->size);
    CHECK_EQ(ftruncate(map, (off_t)good->size), 0);
}

static void every_byte(void)
{
    static const uint8_t flips[] = {0x01, 0x80, 0xff};
    struct subject subject = eventful();
    for (int boot = 0; boot < 2; boot++) {
        if (boot == 1)
            CHECK_EQ(lz_blocks_sync(subject.blocks), 0); /* so that both boots read the same */
        lz_blocks_close(subject.blocks);
        subject.blocks = NULL;
        int map = open_map(&subject);
        struct lz_buf good = read_whole(map);
        if (boot == 1)
            reboot_into(&subject, 'b');
        for (size_t at = 0; at < good.size; at++) {
            for (size_t i = 0; i < sizeof flips; i++) {
                uint8_t bad = good.data[at] ^ flips[i];
                CHECK_EQ(pwrite(map, &bad, 1, (off_t)at), 1);
                error_or_right(&subject, &subject.model);
                restore_map(map, &good);
            }
        }
        for (size_t size = 0; size < good.size; size += 1 + size / 7) {
            struct lz_blocks *blocks = NULL;
            CHECK_EQ(ftruncate(map, (off_t)size), 0);
            CHECK_EQ(open_with(booted(), &subject, true, &blocks, NULL), LZ_E_CORRUPT);
            restore_map(map, &good);
        }
        subject.blocks = open_again(&subject, true);
        check_content(subject.blocks, &subject.model);
        lz_buf_free(&good);
        CHECK_EQ(close(map), 0);
    }
    subject_free(&subject);
}

/* ---- failing calls ---- */

/* Every block is what it was or what it was to become, the size is one of both. */
static void old_or_new(struct subject *subject, const struct model *before, const struct model *after)
{
    static uint8_t found[MODEL_MAX];
    struct lz_blocks *blocks = open_again(subject, true);
    ssize_t size = lz_blocks_size(blocks);
    CHECK(size == (ssize_t)before->size || size == (ssize_t)after->size || after->size > before->size);
    CHECK_EQ(lz_blocks_read(blocks, found, sizeof found, 0), size);
    for (ssize_t i = 0; i < size; i++) {
        uint8_t was = (size_t)i < before->size ? before->bytes[i] : 0;
        CHECK(found[i] == was || found[i] == after->bytes[i] || (found[i] == 0 && (size_t)i >= before->size));
    }
    lz_blocks_close(blocks);
}

static int change(struct lz_blocks *blocks, int what)
{
    ssize_t rc = 0;
    switch (what) {
    case 0:
        rc = lz_blocks_write(blocks, written, 20000, 30001);
        return rc >= 0 ? (rc == 20000 ? 0 : -EIO) : (int)rc;
    case 1:
        rc = lz_blocks_append(blocks, written, 5000);
        return rc >= 0 ? (rc == 5000 ? 0 : -EIO) : (int)rc;
    case 2:
        return lz_blocks_truncate(blocks, 12345);
    case 3:
        rc = lz_blocks_truncate(blocks, 12345);
        return rc == 0 ? lz_blocks_truncate(blocks, 90000) : (int)rc;
    case 4:
        return lz_blocks_punch(blocks, 5000, 30000);
    default:
        return lz_blocks_sync(blocks);
    }
}

static void change_model(struct model *model, int what)
{
    if (what == 0)
        model_write(model, written, 20000, 30001);
    if (what == 1)
        model_write(model, written, 5000, model->size);
    if (what == 2 || what == 3)
        model_resize(model, 12345);
    if (what == 3)
        model_resize(model, 90000);
    if (what == 4)
        model_punch(model, 5000, 30000);
}

static void failing(int what, int code)
{
    for (long n = 1;; n++) {
        struct subject subject = subject_new(70000, 0, true);
        struct fault fault;
        struct lz_blocks *blocks = NULL;
        struct lz_detail detail = {{0}};
        int before = count_descriptors();
        (void)some_bytes(&(uint32_t){(uint32_t)n}, 20000);
        subject.file_fd = openat(subject.scratch.fd, "upper", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        fault_arm(&fault, n, code);
        int rc = lz_blocks_create(fault_sys(&fault), subject.file_fd, subject.maps_fd, subject.user_xattr, BLOCK,
                                  &subject.lower, &detail);
        if (rc != 0) { /* no map stays behind, except when its removal was what failed */
            CHECK(fault.fired && detail.text[0] != 0);
            CHECK_EQ(unlinkat(subject.scratch.fd, "maps", AT_REMOVEDIR), 0);
            make_directory(&subject.scratch, "maps");
            subject_free(&subject);
            continue;
        }
        rc = open_with(fault_sys(&fault), &subject, true, &blocks, NULL);
        struct model after = {.bytes = malloc(MODEL_MAX), .size = subject.model.size};
        CHECK(after.bytes != NULL);
        memcpy(after.bytes, subject.model.bytes, MODEL_MAX);
        if (rc == 0) {
            rc = change(blocks, what);
            fault.fail_at = 0; /* looking at it does not count */
            change_model(&after, what);
            if (rc == 0)
                check_content(blocks, &after);
            lz_blocks_close(blocks);
        }
        CHECK(rc == 0 || fault.fired);
        old_or_new(&subject, rc == 0 ? &after : &subject.model, &after);
        CHECK_EQ(count_descriptors(), before + 1); /* file_fd */
        free(after.bytes);
        bool over = !fault.fired;
        subject_free(&subject);
        if (over)
            return;
    }
}

static void faults(void)
{
    for (int what = 0; what < 6; what++) {
        failing(what, -EIO);
        failing(what, -ENOSPC);
    }
}

/* A file system that cannot punch holes gets zeros. */
static int no_fallocate(void *ctx, int fd, int mode, off_t offset, off_t size)
{
    (void)ctx, (void)fd, (void)mode, (void)offset, (void)size;
    return -EOPNOTSUPP;
}

static void no_holes(void)
{
    struct lz_sys table = *lz_sys_linux();
    struct subject subject = subject_open(70000, 0, true, BLOCK);
    table.fallocate = no_fallocate;
    lz_blocks_close(subject.blocks);
    CHECK_EQ(open_with(&table, &subject, true, &subject.blocks, NULL), 0);
    CHECK_EQ(lz_blocks_punch(subject.blocks, 100, 30000), 0);
    model_punch(&subject.model, 100, 30000);
    check_content(subject.blocks, &subject.model);
    /* what a write left whose bit was never set, where the lower has a hole */
    CHECK_EQ(pwrite(subject.file_fd, "stale", 5, 60000), 5);
    CHECK_EQ(lz_blocks_settle(subject.blocks, subject.maps_fd, NULL), 0);
    check_content(subject.blocks, &subject.model);
    subject_free(&subject);
}

/* A disk that is full in the middle of a write. */
static void full_disk(const char *type, unsigned size)
{
    struct disk disk;
    if (!disk_mount(&disk, type, size))
        return;
    struct subject subject = subject_new(1 << 20, 0, true);
    CHECK_EQ(close(subject.maps_fd), 0);
    CHECK_EQ(mkdirat(disk.fd, "maps", 0700), 0);
    subject.maps_fd = openat(disk.fd, "maps", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int scratch_fd = subject.scratch.fd;
    subject.scratch.fd = disk.fd;
    make_upper(&subject, BLOCK);
    subject.blocks = open_again(&subject, true);
    write_both(&subject, "kept", 4, 5000);
    int hog = openat(disk.fd, "hog", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    for (size_t piece = 1 << 20; piece >= 512; piece /= 2) {
        while (write(hog, written, piece) == (ssize_t)piece)
            continue;
    }
    CHECK_EQ(ftruncate(hog, lseek(hog, 0, SEEK_END) - 64 * 1024), 0);
    CHECK_EQ(fsync(hog), 0);
    (void)some_bytes(&(uint32_t){3}, 1 << 20);
    ssize_t wrote = lz_blocks_write(subject.blocks, written, 900000, 50001);
    CHECK(wrote == -ENOSPC || (wrote > 0 && wrote < 900000));
    if (wrote > 0)
        model_write(&subject.model, written, (size_t)wrote, 50001);
    struct model after = {.bytes = malloc(MODEL_MAX), .size = subject.model.size};
    CHECK(after.bytes != NULL);
    memcpy(after.bytes, subject.model.bytes, MODEL_MAX);
    model_write(&after, written, 900000, 50001);
    check_content(subject.blocks, &subject.model);
    CHECK_EQ(lz_blocks_write(subject.blocks, written, 300000, 600000), -ENOSPC);
    struct lz_detail detail;
    CHECK_EQ(lz_blocks_settle(subject.blocks, subject.maps_fd, &detail), -ENOSPC);
    check_content(subject.blocks, &subject.model);
    old_or_new(&subject, &subject.model, &after);
    CHECK_EQ(close(hog), 0);
    CHECK_EQ(unlinkat(disk.fd, "hog", 0), 0);
    write_both(&subject, written, 900000, 50001); /* there is room again */
    CHECK_EQ(lz_blocks_settle(subject.blocks, subject.maps_fd, NULL), 0);
    check_content(subject.blocks, &subject.model);
    free(after.bytes);
    subject.scratch.fd = scratch_fd;
    subject_free(&subject);
    disk_unmount(&disk);
}

static void full_disks(void)
{
    full_disk("tmpfs", 3);
    full_disk("ext4", 16);
    full_disk("btrfs", 128);
}

int main(void)
{
    RUN(one_write);
    RUN(cut_off);
    RUN(against_model);
    RUN(other_lower);
    RUN(names);
    RUN(short_lower);
    RUN(every_byte);
    RUN(faults);
    RUN(no_holes);
    RUN(full_disks);
    return check_end();
}
