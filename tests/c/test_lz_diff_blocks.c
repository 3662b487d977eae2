/* Diff and pack over uppers with block-level files: as if they were whole. */
#include "stack_fixture.h"
#include "tree_fixture.h"

#include "tree/lz_blocks.h"
#include "tree/lz_diff.h"

#define LARGE ((size_t)300000)
#define BLOCK 4096u

struct setting {
    struct scratch upper, place; /* place: objects/, maps/ */
    int objects_fd, maps_fd;
    struct stack stack;
    struct lz_diff_source source;
};

static uint8_t large[LARGE];
static bool user_xattr;

static void add_object(struct setting *setting, struct layer *layer, const char *path)
{
    struct lz_tree_node node = {.kind = LZ_KIND_FILE, .mode = 0644, .mtime = 7, .flags = LZ_FLAG_OBJECT, .size = LARGE};
    char hex[LZ_SHA256_HEX_SIZE + 1], name[LZ_SHA256_HEX_SIZE + 16];
    struct lz_sha256 *sha256;
    CHECK_EQ(lz_sha256_new(&sha256), 0);
    CHECK_EQ(lz_sha256_digest(sha256, large, LARGE, node.digest), 0);
    lz_sha256_free(sha256);
    layer_add(layer, path, node);
    CHECK_EQ(lz_tree_add_object(layer->tree, node.digest, node.size), 0);
    lz_hex(node.digest, hex);
    (void)snprintf(name, sizeof name, "objects/%.2s", hex);
    (void)mkdirat(setting->place.fd, name, 0755);
    (void)snprintf(name, sizeof name, "objects/%.2s/%s", hex, hex + 2);
    int fd = openat(setting->place.fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, (off_t)LARGE), 0);
    for (size_t at = 0; at < LARGE; at += BLOCK) { /* holes stay holes */
        if (large[at] != 0)
            CHECK_EQ(pwrite(fd, large + at, LARGE - at < BLOCK ? LARGE - at : BLOCK, (off_t)at),
                     LARGE - at < BLOCK ? LARGE - at : BLOCK);
    }
    CHECK_EQ(close(fd), 0);
}

static int directory_in(const struct scratch *scratch, const char *name)
{
    make_directory(scratch, name);
    int fd = openat(scratch->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

/* d/ {big (object), small (inline)}, other (object) */
static void setting_new(struct setting *setting)
{
    struct layer layer;
    for (size_t at = 0; at < LARGE; at++)
        large[at] = at / (10 * (size_t)BLOCK) % 3 == 1 ? 0 : (uint8_t)(1 + at * 31 % 250);
    *setting = (struct setting){.upper = scratch_new(), .place = scratch_new()};
    setting->objects_fd = directory_in(&setting->place, "objects");
    setting->maps_fd = directory_in(&setting->place, "maps");
    layer_begin(&layer);
    layer_add(&layer, "", (struct lz_tree_node){.kind = LZ_KIND_DIRECTORY, .mode = 0755, .mtime = 1});
    layer_add(&layer, "d", (struct lz_tree_node){.kind = LZ_KIND_DIRECTORY, .mode = 0755, .mtime = 1});
    add_object(setting, &layer, "d/big");
    layer_file(&layer, "d/small", (struct lz_tree_node){.mode = 0644, .mtime = 7}, "inline", 6);
    add_object(setting, &layer, "other");
    stack_push(&setting->stack, &layer);
    stack_merge(&setting->stack);
    setting->source = (struct lz_diff_source){.upper_fd = setting->upper.fd,
                                              .maps_fd = setting->maps_fd,
                                              .user_xattr = user_xattr,
                                              .lower = &setting->stack.merged,
                                              .layer_fds = setting->stack.layer_fds,
                                              .objects_fd = setting->objects_fd};
    make_directory(&setting->upper, "d");
}

static void setting_free(struct setting *setting)
{
    CHECK_EQ(close(setting->objects_fd), 0);
    CHECK_EQ(close(setting->maps_fd), 0);
    stack_free(&setting->stack);
    scratch_free(&setting->upper);
    scratch_free(&setting->place);
}

/* What lies under `entry`, as a copy-up would have it. The descriptor is to be closed unless it is a layer's. */
static struct lz_blocks_lower lower_of(const struct setting *setting, const char *path, bool *owned)
{
    const struct lz_index *index = &setting->stack.merged;
    int64_t number = lz_index_find(index, path, strlen(path));
    CHECK(number > 0);
    const struct lz_entry *entry = &index->entries[number];
    struct lz_blocks_lower lower = {.has_digest = true, .at = {.size = entry->size}};
    memcpy(lower.digest, entry->digest, sizeof lower.digest);
    char hex[LZ_SHA256_HEX_SIZE + 1], name[LZ_SHA256_HEX_SIZE + 2];
    lz_hex(entry->digest, hex);
    (void)snprintf(name, sizeof name, "%.2s/%s", hex, hex + 2);
    *owned = (entry->flags & LZ_FLAG_OBJECT) != 0;
    lower.at.fd =
        *owned ? openat(setting->objects_fd, name, O_RDONLY | O_CLOEXEC) : setting->stack.layer_fds[entry->layer];
    lower.at.offset = *owned ? 0 : LZ_INDEX_INLINE_OFFSET + entry->data_offset;
    CHECK(lower.at.fd >= 0);
    return lower;
}

struct block_file {
    struct lz_blocks *blocks;
    struct lz_blocks_lower lower;
    bool owned;
    int fd;
};

static struct block_file open_file(const struct setting *setting, const char *path, const char *from, bool create)
{
    struct block_file file;
    char name[LZ_BLOCKS_NAME_SIZE];
    file.lower = lower_of(setting, from, &file.owned);
    file.fd = openat(setting->upper.fd, path, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_EXCL : 0), 0644);
    CHECK(file.fd >= 0);
    if (create)
        CHECK_EQ(lz_blocks_create(lz_sys_linux(), file.fd, setting->maps_fd, user_xattr, BLOCK, &file.lower, NULL), 0);
    CHECK_EQ(lz_blocks_name(lz_sys_linux(), file.fd, "", user_xattr, name), 1);
    CHECK_EQ(lz_blocks_open(lz_sys_linux(), file.fd, setting->maps_fd, name, true, &file.lower, &file.blocks, NULL), 0);
    return file;
}

static void close_file(struct block_file *file)
{
    const struct timespec times[2] = {{.tv_sec = 7}, {.tv_sec = 7}}; /* the lower's time */
    lz_blocks_close(file->blocks);
    CHECK_EQ(futimens(file->fd, times), 0);
    CHECK_EQ(close(file->fd), 0);
    if (file->owned)
        CHECK_EQ(close(file->lower.at.fd), 0);
}

static int collect(void *ctx, const struct lz_change *change)
{
    char line[9000];
    struct lz_buf *out = ctx;
    int size = snprintf(line, sizeof line, "%s%c%c%s %s %llu", out->size > 0 ? "|" : "", change->change,
                        "?DFSCBPKW"[change->kind], change -> content ? "" : "-", change->path,
                        (unsigned long long)change->size);
    return lz_buf_append(out, line, (size_t)size);
}

static void check_diff(const struct setting *setting, const char *expected)
{
    struct lz_buf out = {0};
    CHECK_EQ(lz_diff(lz_sys_linux(), &setting->source, collect, &out, NULL), 0);
    CHECK_EQ(lz_buf_append_zeros(&out, 1), 0);
    CHECK_STR((char *)out.data, expected);
    lz_buf_free(&out);
}

static struct lz_buf pack(const struct setting *setting)
{
    struct lz_detail detail;
    int out = memfd_create("layer", MFD_CLOEXEC);
    int rc = lz_pack_upper(lz_sys_linux(), &setting->source, NULL, out, NULL, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    struct lz_buf bytes = read_whole(out);
    CHECK_EQ(close(out), 0);
    return bytes;
}

/* The root is as it was: only names below it speak. */
static void restore_root(const struct setting *setting)
{
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    CHECK_EQ(futimens(setting->upper.fd, times), 0);
}

static void check_pack(const struct setting *setting, const char *expected)
{
    int out = memfd_create("layer", MFD_CLOEXEC);
    restore_root(setting);
    CHECK_EQ(lz_pack_upper(lz_sys_linux(), &setting->source, NULL, out, NULL, NULL), 0);
    check_archive(out, expected);
    CHECK_EQ(close(out), 0);
}

/* The layer is the same, byte for byte, once the file is settled. */
static void check_settled(struct setting *setting, const char *path, const char *from)
{
    struct lz_buf before = pack(setting);
    struct block_file file = open_file(setting, path, from, false);
    CHECK_EQ(lz_blocks_settle(file.blocks, setting->maps_fd, NULL), 0);
    close_file(&file);
    struct lz_buf after = pack(setting);
    CHECK_EQ(before.size, after.size);
    CHECK(memcmp(before.data, after.data, before.size) == 0);
    lz_buf_free(&before);
    lz_buf_free(&after);
}

static void as_if_whole(void)
{
    for (int what = 0; what < 9; what++) {
        struct setting setting;
        setting_new(&setting);
        const char *path = what >= 5 && what <= 6 ? "d/small" : "d/big";
        struct block_file file = open_file(&setting, path, path, true);
        unsigned long long size = what == 5 || what == 6 ? 6 : LARGE;
        switch (what) {
        case 0:
            CHECK_EQ(lz_blocks_write(file.blocks, "changed", 7, 100), 7);
            break;
        case 1: /* data into a hole, a hole into data */
            CHECK_EQ(lz_blocks_write(file.blocks, "changed", 7, 11 * BLOCK + 5), 7);
            CHECK_EQ(lz_blocks_punch(file.blocks, 2 * BLOCK, 3 * BLOCK), 0);
            break;
        case 2:
            CHECK_EQ(lz_blocks_append(file.blocks, "longer", 6), 6);
            size += 6;
            break;
        case 3:
            size = 123456;
            CHECK_EQ(lz_blocks_truncate(file.blocks, size), 0);
            break;
        case 4:
            size = 2 * LARGE;
            CHECK_EQ(lz_blocks_truncate(file.blocks, size), 0);
            break;
        case 5:
            CHECK_EQ(lz_blocks_write(file.blocks, "I", 1, 0), 1);
            break;
        case 6:
            size = 10000;
            CHECK_EQ(lz_blocks_write(file.blocks, "I", 1, 9999), 1);
            break;
        case 7: /* cut in the middle of data, and a hole behind */
            size = 200000;
            CHECK_EQ(lz_blocks_truncate(file.blocks, 123456), 0);
            CHECK_EQ(lz_blocks_truncate(file.blocks, size), 0);
            break;
        default: /* cut in the middle of a hole, and data behind */
            size = 60003;
            CHECK_EQ(lz_blocks_truncate(file.blocks, 50000), 0);
            CHECK_EQ(lz_blocks_write(file.blocks, "end", 3, 60000), 3);
        }
        close_file(&file);
        char expected[64];
        (void)snprintf(expected, sizeof expected, "CD- d 0|CF %s %llu", path, size);
        check_diff(&setting, expected);
        check_settled(&setting, path, path);
        check_diff(&setting, expected);
        setting_free(&setting);
    }
}

/* Blocks that hold what the lower's do. */
static void no_change(void)
{
    struct setting setting;
    setting_new(&setting);
    struct block_file file = open_file(&setting, "d/big", "d/big", true);
    close_file(&file);
    check_diff(&setting, "CD- d 0"); /* opened for writing, never written */
    check_pack(&setting, "D d/");
    file = open_file(&setting, "d/big", "d/big", false);
    CHECK_EQ(lz_blocks_write(file.blocks, large + 5000, 100000, 5000), 100000);
    CHECK_EQ(lz_blocks_write(file.blocks, large + LARGE - 3, 3, LARGE - 3), 3);
    close_file(&file);
    check_diff(&setting, "CD- d 0");
    check_pack(&setting, "D d/");
    setting.source.objects_fd = -1; /* contents are not to be had: it may have changed */
    check_diff(&setting, "CD- d 0|CF d/big 300000");
    setting.source.objects_fd = setting.objects_fd;
    CHECK_EQ(fchmodat(setting.upper.fd, "d/big", 0600, 0), 0);
    check_diff(&setting, "CD- d 0|CF- d/big 300000");
    check_pack(&setting, "D d/|F d/big 300000s");
    check_settled(&setting, "d/big", "d/big");
    setting_free(&setting);
}

static void small_differences(void)
{
    for (int what = 0; what < 4; what++) {
        struct setting setting;
        setting_new(&setting);
        struct block_file file = open_file(&setting, "d/big", "d/big", true);
        if (what == 0)
            CHECK_EQ(lz_blocks_write(file.blocks, "\xff", 1, LARGE - 1), 1);
        if (what == 1)
            CHECK_EQ(lz_blocks_append(file.blocks, "", 1), 1);
        close_file(&file);
        if (what == 2)
            set_xattr(&setting.upper, "d/big", "user.note", "new");
        const struct timespec times[2] = {{.tv_sec = 7}, {.tv_sec = 7, .tv_nsec = 1}};
        if (what == 3)
            CHECK_EQ(utimensat(setting.upper.fd, "d/big", times, 0), 0);
        check_diff(&setting, what == 0   ? "CD- d 0|CF d/big 300000"
                             : what == 1 ? "CD- d 0|CF d/big 300001"
                                         : "CD- d 0|CF- d/big 300000");
        check_pack(&setting, what == 1   ? "D d/|F d/big 300001s"
                             : what == 2 ? "D d/|F d/big 300000s user.note"
                                         : "D d/|F d/big 300000s");
        setting_free(&setting);
    }
}

/* Renamed, and with two names: the lower is where the redirect says, and each content is written once. */
static void elsewhere(void)
{
    struct setting setting;
    setting_new(&setting);
    struct block_file file = open_file(&setting, "moved", "d/big", true);
    CHECK_EQ(lz_blocks_write(file.blocks, "changed", 7, 0), 7);
    close_file(&file);
    set_xattr(&setting.upper, "moved", user_xattr ? "user.overlay.redirect" : "trusted.overlay.redirect", "/d/big");
    CHECK_EQ(linkat(setting.upper.fd, "moved", setting.upper.fd, "twice", 0), 0);
    check_diff(&setting, "CD- d 0|AF moved 300000|AF twice 300000");
    check_pack(&setting, "D d/|F moved 300000s|H twice>moved");
    check_settled(&setting, "moved", "d/big");
    setting_free(&setting);
}

/* ---- what is refused ---- */

static void check_refused(const struct setting *setting, int code, const char *says)
{
    struct lz_detail detail = {{0}};
    int out = memfd_create("layer", MFD_CLOEXEC), before = count_descriptors();
    CHECK_EQ(lz_pack_upper(lz_sys_linux(), &setting->source, NULL, out, NULL, &detail), code);
    if (strstr(detail.text, says) == NULL)
        fprintf(stderr, "%s\n", detail.text);
    CHECK(strstr(detail.text, says) != NULL);
    CHECK_EQ(count_descriptors(), before);
    CHECK_EQ(close(out), 0);
}

static void bad_uppers(void)
{
    const char *xattr = user_xattr ? "user.overlay.lazarus" : "trusted.overlay.lazarus";
    char name[LZ_BLOCKS_NAME_SIZE];
    struct setting setting;
    setting_new(&setting);
    make_file(&setting.upper, "d/nothing", "", 0);
    set_xattr(&setting.upper, "d/nothing", xattr, "0123456789abcdef0123456789abcdef");
    check_refused(&setting, LZ_E_FORMAT, "/d/nothing: the upper has only some blocks, and the lower has no file");
    CHECK_EQ(unlinkat(setting.upper.fd, "d/nothing", 0), 0);
    struct block_file file = open_file(&setting, "d/big", "d/big", true);
    CHECK_EQ(lz_blocks_write(file.blocks, "changed", 7, 0), 7);
    CHECK_EQ(lz_blocks_name(lz_sys_linux(), file.fd, "", user_xattr, name), 1);
    close_file(&file);
    setting.source.maps_fd = -1;
    check_refused(&setting, LZ_E_CORRUPT,
                  "/d/big: the upper has only some blocks, and there is no directory of block maps");
    setting.source.maps_fd = setting.maps_fd;
    CHECK_EQ(renameat(setting.upper.fd, "d/big", setting.upper.fd, "d/small"), 0);
    check_refused(&setting, LZ_E_CORRUPT, "the lower file is not the one that was copied up");
    CHECK_EQ(renameat(setting.upper.fd, "d/small", setting.upper.fd, "d/big"), 0);
    CHECK_EQ(unlinkat(setting.maps_fd, name, 0), 0);
    check_refused(&setting, LZ_E_CORRUPT, "/d/big: block map");
    set_xattr(&setting.upper, "d/big", xattr, "../../../../etc/passwd");
    check_refused(&setting, LZ_E_CORRUPT, "/d/big: the name of its block map");
    setting_free(&setting);
}

static void failing_calls(void)
{
    struct setting setting;
    setting_new(&setting);
    struct block_file file = open_file(&setting, "d/big", "d/big", true);
    CHECK_EQ(lz_blocks_write(file.blocks, large + 5000, 100, 5000), 100);
    close_file(&file);
    file = open_file(&setting, "other", "other", true);
    CHECK_EQ(lz_blocks_write(file.blocks, "changed", 7, 5000), 7);
    close_file(&file);
    restore_root(&setting);
    for (int diffs = 0; diffs < 2; diffs++) {
        for (long n = 1;; n++) {
            struct fault fault;
            struct lz_buf changes = {0};
            int out = memfd_create("layer", MFD_CLOEXEC), before = count_descriptors();
            fault_arm(&fault, n, -EIO);
            int rc = diffs == 1 ? lz_diff(fault_sys(&fault), &setting.source, collect, &changes, NULL)
                                : lz_pack_upper(fault_sys(&fault), &setting.source, NULL, out, NULL, NULL);
            CHECK(rc == 0 || fault.fired);
            CHECK_EQ(count_descriptors(), before);
            if (rc == 0 && diffs == 0)
                check_archive(out, "D d/|F other 300000s");
            lz_buf_free(&changes);
            CHECK_EQ(close(out), 0);
            if (!fault.fired)
                break;
        }
    }
    setting_free(&setting);
}

int main(void)
{
    user_xattr = geteuid() != 0;
    RUN(as_if_whole);
    RUN(no_change);
    RUN(small_differences);
    RUN(elsewhere);
    RUN(bad_uppers);
    RUN(failing_calls);
    return check_end();
}
