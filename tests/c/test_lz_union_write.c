/* Changing a union: hard links, rungs, counters, inheritance, callers without privileges, file systems that know less, and
 * index branches. What overlayfs does the same is in test_lz_union_write_kernel.c. */
#include <sched.h>
#include <sys/wait.h>

#include "union_fixture.h"
#include "union_script.h"

#define RUN_OP(self, ...) apply_union(self, &(const struct op){__VA_ARGS__})
#define NEW (O_WRONLY | O_CREAT | O_EXCL)

static struct lz_union_info info_of(struct lz_union *self, const char *path)
{
    struct lz_union_info info;
    int rc = lz_union_stat(self, path, strlen(path), LZ_UNION_NOFOLLOW, &info);
    if (rc != 0)
        fprintf(stderr, "%s: %s\n", path, lz_error_text(rc));
    CHECK_EQ(rc, 0);
    return info;
}

static void check_content(struct lz_union *self, const char *path, const char *expected)
{
    struct lz_union_file *file;
    char bytes[200] = "";
    CHECK_EQ(lz_union_open(self, path, strlen(path), O_RDONLY, 0, &file, NULL), 0);
    ssize_t got = lz_union_file_read(file, bytes, sizeof bytes - 1, 0);
    CHECK(got >= 0);
    bytes[got] = 0;
    CHECK_STR(bytes, expected);
    lz_union_file_close(file);
}

/* ---- hard links ---- */

static void check_group(struct lz_union *self, const char *const *paths, size_t count, bool in_upper)
{
    struct lz_union_info first = info_of(self, paths[0]);
    for (size_t i = 0; i < count; i++) {
        struct lz_union_info info = info_of(self, paths[i]);
        CHECK_EQ(info.number, first.number);
        CHECK_EQ(info.device, first.device);
        CHECK_EQ(info.link_count, in_upper ? count : first.link_count);
        CHECK_EQ(info.branch == LZ_UNION_UPPER, in_upper);
    }
}

static void a_group_comes_up_together(void)
{
    static const char *const names[] = {"h1", "h2", "h/h3"}, *const moved[] = {"h1", "h2", "d/hh/h3"},
                             *const two[] = {"h1", "d/hh/h3"};
    struct world world;
    world_new(&world);
    struct lz_union *self = world_union(&world, lz_sys_linux());
    check_group(self, names, 3, false);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/h2", .flags = O_WRONLY, .text = "L"), 0);
    check_group(self, names, 3, true);
    check_content(self, "/h/h3", "Linked");
    CHECK_EQ(info_of(self, "h").mtime.tv_sec, OLD_TIME);
    lz_union_free(self);
    /* by attributes alone, of names that a renamed directory shows elsewhere */
    world_clear_upper(&world);
    self = world_union(&world, lz_sys_linux());
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/h", .b = "/d/hh"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/h1", .mode = 0600), 0);
    check_group(self, moved, 3, true);
    check_content(self, "/d/hh/h3", "linked");
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/h1", .b = "/h2"), 0); /* one file: nothing is done */
    check_group(self, moved, 3, true);
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/h1", .b = "/d/other"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/h2", .flags = O_WRONLY, .text = "X"), 0);
    check_content(self, "/d/other", "Xinked");
    check_content(self, "/d/hh/h3", "Xinked");
    lz_union_free(self);
    /* a name that is gone stays away */
    world_clear_upper(&world);
    self = world_union(&world, lz_sys_linux());
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/h", .b = "/d/hh"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/h2"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/d/hh/h3", .mode = 0600), 0);
    check_group(self, two, 2, true);
    struct lz_union_info info;
    CHECK_EQ(lz_union_stat(self, "h2", 2, 0, &info), -ENOENT);
    lz_union_free(self);
    check_work_clean(&world);
    world_free(&world);
}

/* A redirect that is none leads nowhere: it must not shift what is remembered of the others. */
static void redirects_that_are_none(void)
{
    static const struct {
        const char *value;
        size_t size;
    } bad[] = {{"/a\0b", 4}, {"/", 1}, {"/a//b", 5}, {"a/b", 3}, {"..", 2}, {"/a/../b", 7}};
    struct world world;
    world_new(&world);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "lower1/elevenchar%zu", i);
        make_directory(&world.top, path);
        int fd = world_open(&world, path);
        CHECK_EQ(fsetxattr(fd, "user.overlay.redirect", bad[i].value, bad[i].size, 0), 0);
        CHECK_EQ(close(fd), 0);
    }
    world.options.user_xattr = true;
    struct lz_union *self = world_union(&world, lz_sys_linux());
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/h2"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/h1", .mode = 0600), 0);
    CHECK_EQ(info_of(self, "h/h3").number, info_of(self, "h1").number);
    lz_union_free(self);
    world_free(&world);
}

/* ---- rungs and counters ---- */

static struct lz_union_stats stats_of(const struct lz_union *self)
{
    struct lz_union_stats stats;
    lz_union_stats(self, &stats);
    return stats;
}

static void check_big(struct lz_union *self, const char *path, uint64_t at, const char *text)
{
    struct lz_union_file *file;
    uint8_t *bytes = malloc(BIG_SIZE), *expected = malloc(BIG_SIZE);
    CHECK(bytes != NULL && expected != NULL);
    big_bytes(expected, BIG_SIZE);
    if (text != NULL)
        memcpy(expected + at, text, strlen(text));
    CHECK_EQ(lz_union_open(self, path, strlen(path), O_RDONLY, 0, &file, NULL), 0);
    for (size_t done = 0; done < BIG_SIZE;) {
        ssize_t got = lz_union_file_read(file, bytes + done, BIG_SIZE - done, done);
        CHECK(got > 0);
        done += (size_t)got;
    }
    CHECK(memcmp(bytes, expected, BIG_SIZE) == 0);
    lz_union_file_close(file);
    free(bytes);
    free(expected);
}

static void each_rung_is_what_was_asked_for(void)
{
    static const enum lz_rung rungs[] = {LZ_RUNG_RANGE, LZ_RUNG_SENDFILE, LZ_RUNG_READ_WRITE, LZ_RUNG_BLOCKS};
    struct world world;
    world_new(&world);
    for (size_t i = 0; i < 4; i++) {
        world_clear_upper(&world);
        world.options.rung = rungs[i];
        struct lz_union *self = world_union(&world, lz_sys_linux());
        CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .number = 9, .text = "written"), 0);
        check_big(self, "/big", 9, "written");
        struct lz_union_stats stats = stats_of(self);
        CHECK_EQ(stats.copyups[rungs[i]], 1);
        CHECK_EQ(stats.copyups[LZ_RUNG_AUTO] + stats.copyups[LZ_RUNG_METACOPY] + stats.copyups[LZ_RUNG_CLONE], 0);
        CHECK_EQ(stats.bytes_asked, 7);
        CHECK_EQ(stats.bytes_copied, rungs[i] == LZ_RUNG_BLOCKS ? 4096 - 7 : BIG_SIZE);
        CHECK_EQ(info_of(self, "big").unsettled, rungs[i] == LZ_RUNG_BLOCKS);
        lz_union_free(self);
    }
    world_clear_upper(&world);
    world.options.rung = LZ_RUNG_METACOPY;
    struct lz_union *self = world_union(&world, lz_sys_linux());
    struct lz_union_file *file;
    struct lz_detail detail = {{0}};
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/big", .mode = 0600), 0);
    CHECK_EQ(stats_of(self).copyups[LZ_RUNG_METACOPY], 1);
    CHECK_EQ(lz_union_open(self, "/big", 4, O_WRONLY, 0, &file, &detail), -EOPNOTSUPP);
    CHECK(strstr(detail.text, "big") != NULL);
    check_big(self, "/big", 0, NULL);
    CHECK_EQ(info_of(self, "big").data_branch, 1);
    lz_union_free(self);
    world.options.rung = LZ_RUNG_AUTO;
    world_clear_upper(&world);
    self = world_union(&world, lz_sys_linux());
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/d/sub/t", .mode = 0700), 0); /* with d and d/sub */
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/d/fifo", .mode = 0600), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/empty", .flags = O_WRONLY), 0);
    struct lz_union_stats stats = stats_of(self);
    CHECK_EQ(stats.copyups_other, 4);
    CHECK_EQ(stats.copyups[LZ_RUNG_AUTO], 1);
    CHECK_EQ(stats.bytes_asked + stats.bytes_copied, 0);
    lz_union_free(self);
    world_free(&world);
}

/* ---- without an upper ---- */

static void nothing_changes_without_an_upper(void)
{
    struct world world;
    world_new(&world);
    world.options.upper_fd = world.options.work_fd = -1;
    struct lz_union *self = world_union(&world, lz_sys_linux());
    char *before = text_union(self, 1);
    CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = "/x", .mode = 0755), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_MKNOD, .a = "/x", .mode = S_IFIFO | 0644), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_SYMLINK, .a = "t", .b = "/x"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_LINK, .a = "/d/a", .b = "/x"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/d/a"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_RMDIR, .a = "/e"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/d/a", .b = "/x"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/d/a", .mode = 0600), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHOWN, .a = "/d/a", .mode = 1, .number = 1), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_UTIMES, .a = "/d/a"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_SETXATTR, .a = "/d/a", .b = "user.x", .text = "1"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_REMOVEXATTR, .a = "/d/a", .b = "user.one"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_TRUNCATE, .a = "/d/a"), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/d/a", .flags = O_WRONLY), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/x", .flags = NEW), -EROFS);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/d/a", .flags = O_RDONLY | O_CREAT), 0);
    CHECK_EQ(lz_union_settle(self, "/", 1, NULL, NULL), -EROFS);
    char *after = text_union(self, 1);
    check_text("read-only", after, before);
    free(before);
    free(after);
    lz_union_free(self);
    world_free(&world);
}

/* ---- bad paths ---- */

static void bad_paths(void)
{
    struct world world;
    char name[LZ_NAME_MAX + 3], path[LZ_PATH_MAX + 10];
    world_new(&world);
    struct lz_union *self = world_union(&world, lz_sys_linux());
    memset(name, 'n', sizeof name);
    name[0] = '/';
    name[sizeof name - 1] = 0;
    CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = name, .mode = 0755), -ENAMETOOLONG);
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/d/a", .b = name), -ENAMETOOLONG);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = name, .flags = NEW, .mode = 0644), -ENAMETOOLONG);
    memset(path, '/', sizeof path);
    path[sizeof path - 2] = 'x';
    path[sizeof path - 1] = 0;
    CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = path, .mode = 0755), -ENAMETOOLONG);
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = ""), -ENOENT);
    CHECK_EQ(lz_union_mkdir(self, "/a\0b", 4, 0755), -EINVAL);
    CHECK_EQ(lz_union_rename(self, "/d/a", 4, "/a\0b", 4, 0), -EINVAL);
    CHECK_EQ(lz_union_symlink(self, "a\0b", 3, "/s", 2), -EINVAL);
    CHECK_EQ(lz_union_symlink(self, path, LZ_PATH_MAX + 1, "/s", 2), -ENAMETOOLONG);
    CHECK_EQ(RUN_OP(self, .kind = OP_MKNOD, .a = "/x", .mode = S_IFLNK | 0777), -EINVAL);
    CHECK_EQ(lz_union_truncate(self, "/d/a", 4, UINT64_MAX), -EINVAL);
    const struct timespec bad[2] = {{.tv_nsec = 2000000000}, {.tv_nsec = 0}};
    CHECK_EQ(lz_union_utimens(self, "/d/a", 4, 0, bad), -EINVAL);
    const struct timespec omit[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    CHECK_EQ(lz_union_utimens(self, "/none", 5, 0, omit), 0);
    CHECK_EQ(lz_union_setxattr(self, "/d/a", 4, 0, "user.x", "", 0, 4), -EINVAL);
    name[255] = 0;
    CHECK_EQ(lz_union_setxattr(self, "/d/a", 4, 0, name, "", LZ_XATTR_VALUE_MAX + 1, 0), -E2BIG);
    CHECK_EQ(lz_union_chmod(self, "/d/ln", 5, LZ_UNION_NOFOLLOW, 0600), -EOPNOTSUPP);
    /* the root is the upper's: nothing is copied up for it */
    CHECK_EQ(RUN_OP(self, .kind = OP_SETXATTR, .a = "/", .b = "user.root", .text = "1"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_REMOVEXATTR, .a = "/..", .b = "user.root"), 0);
    lz_union_free(self);
    world_free(&world);
}

/* ---- what a new name inherits ---- */

static void new_names_inherit(void)
{
    /* u::rwx g::r-x o::--- and u:65:rwx m::rwx, as in linux/posix_acl_xattr.h */
    static const uint8_t acl[] = {2, 0,  0,    0,    1,    0,    7,    0, 255, 255,  255,  255,  2,    0,    7,
                                  0, 65, 0,    0,    0,    4,    0,    5, 0,   0xff, 0xff, 0xff, 0xff, 0x10, 0,
                                  7, 0,  0xff, 0xff, 0xff, 0xff, 0x20, 0, 0,   0,    0xff, 0xff, 0xff, 0xff};
    struct world world;
    world_new(&world);
    struct lz_union *self = world_union(&world, lz_sys_linux());
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/e", .mode = 02755), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHOWN, .a = "/d/sub", .mode = 0, .number = 99), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/d/sub", .mode = 02755), 0);
    CHECK_EQ(lz_union_setxattr(self, "/d/sub", 6, 0, "system.posix_acl_default", acl, sizeof acl, 0), 0);
    /* x and t are whiteouts by then, new1 and new2 are not: both must come out the same */
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/d/sub/x"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/d/sub/t/z"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_RMDIR, .a = "/d/sub/t"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/d/sub/x", .flags = NEW, .mode = 0666), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/d/sub/new1", .flags = NEW, .mode = 0666), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = "/d/sub/t", .mode = 0777), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = "/d/sub/new2", .mode = 0777), 0);
    struct lz_union_info file = info_of(self, "d/sub/x"), file2 = info_of(self, "d/sub/new1");
    struct lz_union_info directory = info_of(self, "d/sub/t"), directory2 = info_of(self, "d/sub/new2");
    CHECK_EQ(file.gid, 99);
    CHECK_EQ(file.mode, S_IFREG | 0660);
    CHECK_EQ(file.mode, file2.mode);
    CHECK_EQ(file.gid, file2.gid);
    CHECK_EQ(directory.gid, 99);
    CHECK_EQ(directory.mode, S_IFDIR | 02770);
    CHECK_EQ(directory.mode, directory2.mode);
    char one[200], two[200];
    CHECK_EQ(lz_union_getxattr(self, "/d/sub/t", 8, 0, "system.posix_acl_default", one, sizeof one), sizeof acl);
    ssize_t size = lz_union_getxattr(self, "/d/sub/x", 8, 0, "system.posix_acl_access", one, sizeof one);
    CHECK(size > 0);
    CHECK_EQ(lz_union_getxattr(self, "/d/sub/new1", 11, 0, "system.posix_acl_access", two, sizeof two), size);
    CHECK(memcmp(one, two, (size_t)size) == 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/e/f", .flags = NEW, .mode = 0666), 0); /* no umask */
    CHECK_EQ(info_of(self, "e/f").mode, S_IFREG | 0666);
    lz_union_free(self);
    check_work_clean(&world);
    world_free(&world);
}

/* ---- file systems and kernels that know less ---- */

static unsigned refused; /* flags of renameat2 */
static struct lz_sys poor;

static int poor_renameat2(void *ctx, int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return (flags & refused) != 0 ? -EINVAL : lz_sys_linux()->renameat2(ctx, from_dir, from, to_dir, to, flags);
}

static void without_flags_of_rename(void)
{
    static const struct op ops[] = {
        {.kind = OP_UNLINK, .a = "/d/a"},
        {.kind = OP_CHMOD, .a = "/d/sub/x", .mode = 0600},
        {.kind = OP_UNLINK, .a = "/d/sub/x"},
        {.kind = OP_CHMOD, .a = "/d/sub/t", .mode = 0700},
        {.kind = OP_RENAME, .a = "/d/sub/t", .b = "/tt"},
        {.kind = OP_RENAME, .a = "/d/b", .b = "/d/c"},
        {.kind = OP_RENAME, .a = "/d/c", .b = "/d/a"},
        {.kind = OP_CHMOD, .a = "/e", .mode = 0700},
        {.kind = OP_RMDIR, .a = "/e"},
        {.kind = OP_MKDIR, .a = "/e", .mode = 0711},
        {.kind = OP_RMDIR, .a = "/e"},
        {.kind = OP_MKDIR, .a = "/new", .mode = 0711},
        {.kind = OP_RENAME, .a = "/new", .b = "/e"},
        {.kind = OP_RENAME, .a = "/n", .b = "/d/c"},
    };
    struct world world;
    char *expected = NULL;
    world_new(&world);
    poor = *lz_sys_linux();
    poor.renameat2 = poor_renameat2;
    for (unsigned i = 0; i < 3; i++) {
        refused = i == 0 ? 0 : i == 1 ? RENAME_WHITEOUT : RENAME_WHITEOUT | RENAME_EXCHANGE;
        world_clear_upper(&world);
        struct lz_union *self = world_union(&world, &poor);
        for (size_t k = 0; k < sizeof ops / sizeof *ops; k++)
            CHECK_EQ(apply_union(self, &ops[k]), 0);
        char *text = text_union(self, 0);
        check_text("without flags", text, expected != NULL ? expected : text);
        if (expected == NULL)
            expected = text;
        else
            free(text);
        CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/e", .b = "/g", .number = RENAME_EXCHANGE),
                 (refused & RENAME_EXCHANGE) != 0 ? -EINVAL : 0);
        lz_union_free(self);
        check_work_clean(&world);
    }
    free(expected);
    world_free(&world);
}

/* ---- a caller without privileges ---- */

static void run_unprivileged(const struct world *world)
{
    struct lz_union *self = world_union(world, lz_sys_linux());
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/d/b", .mode = 0640), 0); /* owned by 12 in the lower */
    CHECK_EQ(info_of(self, "d/b").uid, 65534);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHOWN, .a = "/d/b", .mode = 12, .number = 13), -EPERM);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/d/b", .flags = O_WRONLY, .text = "BETA"), 0);
    check_content(self, "/d/b", "BETA on top");
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/d/a"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = "/d/a", .mode = 0755), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/d", .b = "/o/d"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/o/d/fifo", .mode = 0600), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/o/d/null", .mode = 0600), -EPERM); /* a device */
    CHECK_EQ(RUN_OP(self, .kind = OP_SETXATTR, .a = "/h1", .b = "user.overlay.opaque", .text = "mine"), 0);
    char value[10];
    CHECK_EQ(lz_union_getxattr(self, "/h/h3", 5, 0, "user.overlay.opaque", value, sizeof value), 4);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/o/ro", .flags = NEW, .mode = 0444, .text = "read-only"), 0);
    CHECK_EQ(info_of(self, "o/ro").mode, S_IFREG | 0444);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/o/ro", .flags = O_WRONLY), -EACCES);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/d", .flags = NEW, .mode = 0644), 0);
    lz_union_free(self);
    check_work_clean(world);
}

static void without_privileges(void)
{
    struct world world;
    int status;
    world_new(&world);
    CHECK_EQ(fchown(world.upper_fd, 65534, 65534), 0);
    CHECK_EQ(fchown(world.work_fd, 65534, 65534), 0);
    world.options.user_xattr = true;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(setgid(65534), 0);
        CHECK_EQ(setuid(65534), 0);
        run_unprivileged(&world);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    world_free(&world);
}

/* ---- an index as lower ---- */

static void over_an_index(void)
{
    static const char *const layers[] = {"d . 755; d a 755; f a/b inline; s a/l b; d a/c 750; @ a/c/big "
                                         "the-content-of-an-object; f h1 linked; h a/h2 h1; "
                                         "h a/c/h3 h1; p a/p; f a/none",
                                         "d a 711; f a/top two"};
    static const char *const group[] = {"h1", "a/h2", "q/h3"};
    struct scratch scratch = scratch_new();
    make_directory(&scratch, "objects");
    make_directory(&scratch, "upper");
    make_directory(&scratch, "work");
    int objects = openat(scratch.fd, "objects", O_PATH | O_CLOEXEC),
        upper = openat(scratch.fd, "upper", O_PATH | O_CLOEXEC);
    int work = openat(scratch.fd, "work", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct branch_index index = make_index(layers, 2, 1, objects, false);
    struct lz_branch lower = index_branch(&index, objects);
    struct lz_union *self = open_union(&lower, 1, upper, work);
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/a/c", .b = "/q"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/a/h2", .mode = 0600), 0);
    check_group(self, group, 3, true);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/q/h3", .flags = O_WRONLY, .text = "L"), 0);
    check_content(self, "/h1", "Linked");
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/q/big", .mode = 0600), 0);
    CHECK(info_of(self, "q/big").has_digest);
    check_content(self, "/q/big", "the-content-of-an-object");
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/q/big", .flags = O_WRONLY | O_APPEND, .text = "!"), 0);
    check_content(self, "/q/big", "the-content-of-an-object!");
    CHECK(!info_of(self, "q/big").has_digest);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/a/b", .flags = O_WRONLY, .number = 2, .text = "LI"), 0);
    check_content(self, "/a/l", "inLIne");
    CHECK_EQ(RUN_OP(self, .kind = OP_CHOWN, .a = "/a/l", .mode = 5, .number = 6, .nofollow = true), 0);
    char target[10];
    CHECK_EQ(lz_union_readlink(self, "/a/l", 4, target, sizeof target), 1);
    CHECK_EQ(info_of(self, "a/l").uid, 5);
    CHECK_EQ(info_of(self, "a/l").mtime.tv_sec, 1000001);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/a/p", .mode = 0600), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/a/top"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/h1"), 0);
    struct lz_union_info info;
    CHECK_EQ(lz_union_stat(self, "/a/top", 6, 0, &info), -ENOENT);
    CHECK_EQ(lz_union_stat(self, "/h1", 3, 0, &info), -ENOENT);
    CHECK_EQ(info_of(self, "a/h2").link_count, 2);
    CHECK_EQ(lz_union_getxattr(self, "/a/b", 4, 0, "user.layer", target, sizeof target), 1);
    lz_union_free(self);
    free_index(&index);
    CHECK_EQ(close(objects), 0);
    CHECK_EQ(close(upper), 0);
    CHECK_EQ(close(work), 0);
    scratch_free(&scratch);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  skipped: trusted.overlay.* needs root\n");
        return 0;
    }
    (void)umask(022);
    RUN(a_group_comes_up_together);
    RUN(redirects_that_are_none);
    RUN(each_rung_is_what_was_asked_for);
    RUN(nothing_changes_without_an_upper);
    RUN(bad_paths);
    RUN(new_names_inherit);
    RUN(without_flags_of_rename);
    RUN(without_privileges);
    RUN(over_an_index);
    return check_end();
}
