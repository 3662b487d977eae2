/* What others do to a name between the looking up and the opening of it, who dies between a copy-up and its count, and
 * what fork() shares. */
#include <sys/wait.h>

#include "fault.h"
#include "tree/lz_union_internal.h"
#include "union_script.h"

#define RUN_OP(self, ...) apply_union(self, &(const struct op){__VA_ARGS__})

/* Calls `run` once, just before the file `path` of an upper, or a map, is opened. */
static struct hook {
    const char *path; /* NULL: a map */
    int (*run)(struct lz_union *other);
    struct lz_union *other;
} hook;

static void at_hook(void)
{
    int (*run)(struct lz_union *) = hook.run;
    hook.run = NULL;
    CHECK_EQ(run(hook.other), 0);
}

static int hooked_openat2(void *ctx, int dir, const char *path, const struct open_how *how)
{
    if (hook.run != NULL && hook.path != NULL && strcmp(path, hook.path) == 0 && (how->flags & O_PATH) == 0)
        at_hook();
    return lz_sys_linux()->openat2(ctx, dir, path, how);
}

static int hooked_openat(void *ctx, int dir, const char *path, int flags, mode_t mode)
{
    if (hook.run != NULL && hook.path == NULL && strlen(path) == LZ_BLOCKS_NAME_SIZE - 1)
        at_hook();
    return lz_sys_linux()->openat(ctx, dir, path, flags, mode);
}

static bool journal_is_safe;

static int hooked_fdatasync(void *ctx, int fd)
{
    char link[64], path[300] = "";
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    CHECK(readlink(link, path, sizeof path - 1) > 0);
    journal_is_safe |= strcmp(path + strlen(path) - 4, "/new") == 0;
    return lz_sys_linux()->fdatasync(ctx, fd);
}

static int hooked_renameat2(void *ctx, int from, const char *source, int to, const char *target, unsigned flags)
{
    if (strcmp(target, "group") == 0)
        journal_is_safe = false;
    if (strcmp(target, "journal") == 0)
        CHECK(journal_is_safe);
    return lz_sys_linux()->renameat2(ctx, from, source, to, target, flags);
}

static struct lz_sys hooked;

/* ---- a name that changes between looking and opening ---- */

static int copy_up(struct lz_union *other, const char *path)
{
    return RUN_OP(other, .kind = OP_WRITE, .a = path, .flags = O_WRONLY);
}

static int rename_a_lower_file(struct lz_union *other)
{
    return RUN_OP(other, .kind = OP_RENAME, .a = "/d/sub/x", .b = "/d/a");
}

static int rename_a_whole_file(struct lz_union *other)
{
    return RUN_OP(other, .kind = OP_RENAME, .a = "/d/a", .b = "/big");
}

static int open_block_by_block(struct lz_union *other)
{
    return copy_up(other, "/big");
}

static int settle(struct lz_union *other)
{
    return lz_union_settle(other, "/", 1, NULL, NULL);
}

static void check_open(struct lz_union *self, const char *path, int flags, const char *expected)
{
    struct lz_union_file *file = NULL;
    struct lz_detail detail = {{0}};
    char bytes[20] = "";
    int rc = lz_union_open(self, path, strlen(path), flags, 0, &file, &detail);
    if (rc != 0)
        fprintf(stderr, "%s: %s\n", path, detail.text);
    CHECK_EQ(rc, 0);
    CHECK(hook.run == NULL);
    CHECK_EQ(lz_union_file_read(file, bytes, strlen(expected), 0), strlen(expected));
    CHECK_STR(bytes, expected);
    lz_union_file_close(file);
}

/* The name is there all the time, so that opening it must do; and what it reads is what one of the files has. */
static void opens_beside_changes(void)
{
    static const struct {
        const char *before, *path;
        int (*run)(struct lz_union *other);
        bool chmod, at_map;
    } cases[] = {
        {"/d/a", "d/a", rename_a_lower_file, false, false}, /* whole, then a metacopy */
        {NULL, "d/a", rename_a_lower_file, true, false},    /* a metacopy, then another one */
        {"/big", "big", rename_a_whole_file, false, false}, /* blocks, then whole */
        {"/big", "big", rename_a_whole_file, false, true},  /* the map goes, too */
        {NULL, "big", open_block_by_block, true, false},    /* a metacopy gets its blocks */
        {"/big", "big", settle, false, false},
        {"/big", "big", settle, false, true},
    };
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof *cases); i++) {
        struct world world;
        uint8_t big[8];
        char expected[9] = "ex";
        world_new(&world);
        world.options.block_threshold = 65536;
        struct lz_union *self = world_union(&world, &hooked), *other = world_union(&world, lz_sys_linux());
        const char *path = cases[i / 2].path;
        if (cases[i / 2].before != NULL)
            CHECK_EQ(copy_up(other, cases[i / 2].before), 0);
        if (cases[i / 2].run == rename_a_whole_file) {
            CHECK_EQ(copy_up(other, "/d/a"), 0);
            (void)snprintf(expected, sizeof expected, "alpha");
        } else if (path[0] == 'b') {
            big_bytes(big, sizeof big);
            memcpy(expected, big, sizeof big);
            expected[8] = 0;
        }
        if (cases[i / 2].chmod)
            CHECK_EQ(RUN_OP(other, .kind = OP_CHMOD, .a = path, .mode = 0600), 0);
        hook = (struct hook){cases[i / 2].at_map ? NULL : path, cases[i / 2].run, other};
        check_open(self, path, i % 2 == 0 || cases[i / 2].chmod ? O_RDONLY : O_RDWR | O_APPEND, expected);
        lz_union_free(self);
        lz_union_free(other);
        world_free(&world);
    }
}

static int remove_it(struct lz_union *other)
{
    return RUN_OP(other, .kind = OP_UNLINK, .a = "/d/a"); /* a lower has one, too: a whiteout */
}

static int make_a_fifo_of_it(struct lz_union *other)
{
    CHECK_EQ(remove_it(other), 0);
    return RUN_OP(other, .kind = OP_MKNOD, .a = "/d/a", .mode = S_IFIFO | 0644);
}

static int make_a_symlink_of_it(struct lz_union *other)
{
    CHECK_EQ(remove_it(other), 0);
    return RUN_OP(other, .kind = OP_SYMLINK, .a = "/d/none", .b = "/d/a");
}

static int make_a_directory_of_it(struct lz_union *other)
{
    CHECK_EQ(remove_it(other), 0);
    return RUN_OP(other, .kind = OP_MKDIR, .a = "/d/a", .mode = 0755);
}

/* What is said then is what is true of the name as it is by now. */
static void opens_what_is_no_file_any_more(void)
{
    static const struct {
        int (*run)(struct lz_union *other);
        int opened, truncated;
    } cases[] = {
        {remove_it, -ENOENT, -ENOENT},
        {make_a_fifo_of_it, -ENXIO, -EINVAL},
        {make_a_symlink_of_it, -ENOENT, -ENOENT},
        {make_a_directory_of_it, -EISDIR, -EISDIR},
    };
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof *cases); i++) {
        struct world world;
        struct lz_union_file *file;
        world_new(&world);
        struct lz_union *self = world_union(&world, &hooked), *other = world_union(&world, lz_sys_linux());
        CHECK_EQ(copy_up(other, "/d/a"), 0);
        hook = (struct hook){"d/a", cases[i / 2].run, other};
        if (i % 2 == 0)
            CHECK_EQ(lz_union_open(self, "d/a", 3, O_WRONLY, 0, &file, NULL), cases[i / 2].opened);
        else
            CHECK_EQ(lz_union_truncate(self, "d/a", 3, 0), cases[i / 2].truncated);
        CHECK(hook.run == NULL);
        lz_union_free(self);
        lz_union_free(other);
        world_free(&world);
    }
}

/* A handle on a lower's bytes that looks for the file just when it is settled. */
static void follows_beside_settling(void)
{
    struct world world;
    struct lz_union_file *file;
    char bytes[4] = "";
    world_new(&world);
    world.options.block_threshold = 65536;
    struct lz_union *self = world_union(&world, &hooked), *other = world_union(&world, lz_sys_linux());
    CHECK_EQ(lz_union_open(self, "big", 3, O_RDONLY, 0, &file, NULL), 0);
    CHECK_EQ(RUN_OP(other, .kind = OP_WRITE, .a = "big", .flags = O_WRONLY, .text = "new"), 0);
    hook = (struct hook){NULL, settle, other};
    CHECK_EQ(lz_union_file_read(file, bytes, 3, 0), 3);
    CHECK(hook.run == NULL);
    CHECK_STR(bytes, "new");
    lz_union_file_close(file);
    lz_union_free(self);
    lz_union_free(other);
    world_free(&world);
}

/* ---- block-level files that are open with O_APPEND ---- */

static void appends_and_punches(void)
{
    struct world world;
    struct lz_union_file *file;
    static uint8_t expected[BIG_SIZE + 3], bytes[BIG_SIZE + 4];
    world_new(&world);
    world.options.block_threshold = 65536;
    struct lz_union *self = world_union(&world, lz_sys_linux());
    CHECK_EQ(lz_union_open(self, "big", 3, O_RDWR | O_APPEND, 0, &file, NULL), 0);
    CHECK_EQ(lz_union_file_punch(file, 5000, 100), 0);
    CHECK_EQ(lz_union_file_write(file, "end", 3, 0), 3);
    big_bytes(expected, BIG_SIZE);
    memset(expected + 5000, 0, 100);
    memcpy(expected + BIG_SIZE, "end", 3);
    CHECK_EQ(lz_union_file_read(file, bytes, sizeof bytes, 0), sizeof expected);
    CHECK(memcmp(bytes, expected, sizeof expected) == 0);
    lz_union_file_close(file);
    lz_union_free(self);
    world_free(&world);
}

/* ---- who dies ---- */

static void a_handle_follows_whoever_dies(void)
{
    bool died = true;
    for (long n = 1; died; n++) {
        struct world world;
        struct lz_union_file *file;
        char bytes[4] = "";
        int status;
        world_new(&world);
        struct lz_union *self = world_union(&world, lz_sys_linux());
        CHECK_EQ(lz_union_open(self, "d/a", 3, O_RDONLY, 0, &file, NULL), 0);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            struct fault fault;
            fault_arm(&fault, n, -EIO);
            fault.dies = true;
            struct lz_union *dying = world_union(&world, fault_sys(&fault));
            (void)copy_up(dying, "/d/a");
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        died = WEXITSTATUS(status) != 0;
        struct lz_union *next = world_union(&world, lz_sys_linux());
        CHECK_EQ(RUN_OP(next, .kind = OP_WRITE, .a = "/d/a", .flags = O_WRONLY, .text = "new"), 0);
        CHECK_EQ(lz_union_file_read(file, bytes, 3, 0), 3);
        CHECK_STR(bytes, "new");
        lz_union_file_close(file);
        lz_union_free(next);
        lz_union_free(self);
        world_free(&world);
    }
}

/* A power cut between the names of a group: the journal that says the rest has reached the disk by then. */
static void a_journal_is_on_the_disk(void)
{
    struct world world;
    world_new(&world);
    struct lz_union *self = world_union(&world, &hooked);
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/h1", .mode = 0600), 0);
    CHECK(journal_is_safe);
    lz_union_free(self);
    world_free(&world);
}

/* ---- fork ---- */

static void a_child_has_a_lock_of_its_own(void)
{
    struct world world;
    int pipes[2][2], status;
    char byte;
    world_new(&world);
    struct lz_union *self = world_union(&world, lz_sys_linux());
    CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = "/before", .mode = 0755), 0);
    CHECK_EQ(pipe(pipes[0]) + pipe(pipes[1]), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(close(pipes[1][1]), 0); /* or it would wait for ever when the parent has failed */
        CHECK_EQ(lz_union_lock(self), 0);
        CHECK_EQ(write(pipes[0][1], "l", 1), 1);
        CHECK_EQ(read(pipes[1][0], &byte, 1), 1);
        lz_union_unlock(self);
        CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = "/child", .mode = 0755), 0);
        lz_union_free(self);
        _exit(0);
    }
    CHECK_EQ(read(pipes[0][0], &byte, 1), 1);
    struct flock lock = {.l_type = F_WRLCK};
    CHECK_EQ(fcntl(self->lock_fd, F_OFD_GETLK, &lock), 0);
    CHECK_EQ(lock.l_type, F_WRLCK); /* somebody else's */
    CHECK_EQ(write(pipes[1][1], "g", 1), 1);
    CHECK_EQ(RUN_OP(self, .kind = OP_MKDIR, .a = "/parent", .mode = 0755), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_RMDIR, .a = "/child"), 0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(close(pipes[i / 2][i % 2]), 0);
    lz_union_free(self);
    world_free(&world);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  skipped: trusted.overlay.* needs root\n");
        return 0;
    }
    hooked = *lz_sys_linux();
    hooked.openat = hooked_openat;
    hooked.openat2 = hooked_openat2;
    hooked.fdatasync = hooked_fdatasync;
    hooked.renameat2 = hooked_renameat2;
    RUN(opens_beside_changes);
    RUN(opens_what_is_no_file_any_more);
    RUN(follows_beside_settling);
    RUN(appends_and_punches);
    RUN(a_handle_follows_whoever_dies);
    RUN(a_journal_is_on_the_disk);
    RUN(a_child_has_a_lock_of_its_own);
    return check_end();
}
