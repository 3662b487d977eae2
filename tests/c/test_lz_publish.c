#include "tree/lz_publish.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bytes/lz_digest.h"
#include "check.h"
#include "fault.h"
#include "tree/lz_remove.h"

#define OBJECTS 40

static char base[] = "/tmp/lz-publish-XXXXXX";
static int staged_fd, objects_fd, trash_fd, base_fd;

static int open_directory(const char *name)
{
    CHECK_EQ(mkdirat(base_fd, name, 0700), 0);
    int fd = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void set_up(void)
{
    strcpy(base, "/tmp/lz-publish-XXXXXX");
    CHECK(mkdtemp(base) != NULL);
    base_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(base_fd >= 0);
    staged_fd = open_directory("staged");
    objects_fd = open_directory("objects");
    trash_fd = open_directory("trash");
}

static void tear_down(void)
{
    close(staged_fd);
    close(objects_fd);
    close(trash_fd);
    close(base_fd);
    CHECK(lz_remove_tree(lz_sys_linux(), AT_FDCWD, base, NULL) > 0);
    CHECK_EQ(access(base, F_OK), -1);
}

/* The content of object `n` and its names. */
static void object(unsigned n, char content[16], char hex[65], uint8_t digest[32])
{
    struct lz_sha256 *context;
    snprintf(content, 16, "object %u", n);
    CHECK_EQ(lz_sha256_new(&context), 0);
    CHECK_EQ(lz_sha256_digest(context, content, strlen(content), digest), 0);
    lz_sha256_free(context);
    lz_hex(digest, hex);
}

static void write_file(int dir, const char *name, const char *content)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, content, strlen(content)), (ssize_t)strlen(content));
    close(fd);
}

static void stage(unsigned from, unsigned to)
{
    for (unsigned n = from; n < to; n++) {
        char content[16], hex[65];
        uint8_t digest[32];
        object(n, content, hex, digest);
        write_file(staged_fd, hex, content);
    }
}

static bool has(int dir, const char *path, const char *content)
{
    char found[32] = {0};
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    CHECK(read(fd, found, sizeof found - 1) >= 0);
    close(fd);
    CHECK_STR(found, content);
    return true;
}

static bool in_store(unsigned n)
{
    char content[16], hex[65], path[67];
    uint8_t digest[32];
    object(n, content, hex, digest);
    snprintf(path, sizeof path, "%.2s/%s", hex, hex + 2);
    return has(objects_fd, path, content);
}

static bool in_flat(int dir, unsigned n)
{
    char content[16], hex[65];
    uint8_t digest[32];
    object(n, content, hex, digest);
    return has(dir, hex, content);
}

static unsigned count_names(int dir)
{
    unsigned count = 0;
    DIR *names = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    CHECK(names != NULL);
    for (struct dirent *entry; (entry = readdir(names)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(names);
    return count;
}

static void refs(unsigned from, unsigned to, struct lz_object_ref *out)
{
    for (unsigned n = from; n < to; n++) {
        char content[16], hex[65];
        object(n, content, hex, out[n - from].digest);
        out[n - from].size = strlen(content);
    }
}

static void publish_moves_what_is_new_and_drops_what_is_there(void)
{
    struct lz_buf moved = {0};
    set_up();
    stage(0, 20);
    write_file(staged_fd, "tmp-1-2-3", "torn");
    write_file(staged_fd, "ABCDEF", "no name of ours");
    CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
    CHECK_EQ(moved.size, 20 * 32);
    CHECK_EQ(count_names(staged_fd), 2);
    stage(10, 30);
    CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
    CHECK_EQ(moved.size, 30 * 32); /* appended: ten more */
    CHECK_EQ(count_names(staged_fd), 2);
    for (unsigned n = 0; n < 30; n++)
        CHECK(in_store(n));
    CHECK_EQ(lz_withdraw_objects(lz_sys_linux(), objects_fd, staged_fd, moved.data, 30, NULL), 30);
    CHECK_EQ(lz_withdraw_objects(lz_sys_linux(), objects_fd, staged_fd, moved.data, 30, NULL), 0);
    for (unsigned n = 0; n < 30; n++)
        CHECK(!in_store(n) && in_flat(staged_fd, n));
    lz_buf_free(&moved);
    tear_down();
}

/* Two names of one inode: rename(2) alone would do nothing and leave both. */
static void publish_drops_a_hard_link_of_what_is_there(void)
{
    struct lz_buf moved = {0};
    char content[16], hex[65], path[67];
    uint8_t digest[32];
    set_up();
    stage(0, 1);
    CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
    object(0, content, hex, digest);
    snprintf(path, sizeof path, "%.2s/%s", hex, hex + 2);
    CHECK_EQ(linkat(objects_fd, path, staged_fd, hex, 0), 0);
    CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
    CHECK_EQ(moved.size, 32);
    CHECK(in_store(0));
    CHECK_EQ(count_names(staged_fd), 0);
    lz_buf_free(&moved);
    tear_down();
}

static int no_flags(void *ctx, int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return flags != 0 ? -EINVAL : lz_sys_linux()->renameat2(ctx, from_dir, from, to_dir, to, flags);
}

static void publish_works_where_renames_have_no_flags(void)
{
    struct lz_sys sys = *lz_sys_linux();
    struct lz_buf moved = {0};
    sys.renameat2 = no_flags;
    set_up();
    stage(0, 5);
    CHECK_EQ(lz_publish_objects(&sys, staged_fd, objects_fd, &moved, NULL), 0);
    stage(3, 8);
    CHECK_EQ(lz_publish_objects(&sys, staged_fd, objects_fd, &moved, NULL), 0);
    CHECK_EQ(moved.size, 8 * 32);
    CHECK_EQ(count_names(staged_fd), 0);
    lz_buf_free(&moved);
    tear_down();
}

/* A failed publish leaves all that it moved in staging again, and says so; the retry succeeds. */
static void publish_survives_every_failing_call(void)
{
    for (long n = 1;; n++) {
        struct fault fault;
        struct lz_buf moved = {0};
        struct lz_detail detail = {0};
        set_up();
        stage(0, 3);
        CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
        moved.size = 0;
        stage(1, 6);
        fault_arm(&fault, n, -ENOSPC);
        int rc = lz_publish_objects(fault_sys(&fault), staged_fd, objects_fd, &moved, &detail);
        if (rc < 0) {
            CHECK(atomic_load(&fault.fired));
            CHECK_EQ(rc, -ENOSPC);
            CHECK(detail.text[0] != 0);
            CHECK_EQ(moved.size, 0);
            for (unsigned object_number = 3; object_number < 6; object_number++)
                CHECK(!in_store(object_number) && in_flat(staged_fd, object_number));
            CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
        }
        for (unsigned object_number = 0; object_number < 6; object_number++)
            CHECK(in_store(object_number));
        CHECK_EQ(moved.size, 3 * 32);
        lz_buf_free(&moved);
        tear_down();
        if (!atomic_load(&fault.fired))
            break;
        CHECK(n < 1000);
    }
}

struct killer {
    struct lz_sys table;
    long left;
};

static int killing_rename(void *ctx, int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    struct killer *killer = ctx;
    if (killer->left-- == 0)
        (void)raise(SIGKILL);
    return lz_sys_linux()->renameat2(NULL, from_dir, from, to_dir, to, flags);
}

/* kill -9 before each rename: every object is whole, in one of the two places, and a second publish finishes. */
static void publish_survives_kill_at_every_rename(void)
{
    for (long at = 0;; at++) {
        struct lz_buf moved = {0};
        set_up();
        stage(0, 8);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            struct killer killer = {.table = *lz_sys_linux(), .left = at};
            killer.table.ctx = &killer;
            killer.table.renameat2 = killing_rename;
            int rc = lz_publish_objects(&killer.table, staged_fd, objects_fd, &moved, NULL);
            _exit(rc == 0 ? 0 : 1);
        }
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        bool finished = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        CHECK(finished || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
        for (unsigned n = 0; n < 8; n++)
            CHECK(in_store(n) != in_flat(staged_fd, n));
        CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
        for (unsigned n = 0; n < 8; n++)
            CHECK(in_store(n));
        lz_buf_free(&moved);
        tear_down();
        if (finished)
            break;
        CHECK(at < 100);
    }
}

static void sweep_takes_what_has_no_mark(void)
{
    struct lz_buf moved = {0};
    struct lz_sweep result;
    struct lz_object_ref marks[OBJECTS + 5];
    set_up();
    stage(0, OBJECTS);
    CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
    write_file(objects_fd, "README", "not an object");
    refs(10, OBJECTS, marks);           /* unsorted */
    refs(12, 17, marks + OBJECTS - 10); /* and some of them twice */
    CHECK_EQ(lz_sweep_objects(lz_sys_linux(), objects_fd, -1, marks, OBJECTS - 5, &result, NULL), 0);
    CHECK_EQ(result.count, 10);
    CHECK_EQ(result.bytes, 10 * strlen("object 0"));
    CHECK_EQ(count_names(trash_fd), 0);
    CHECK_EQ(lz_sweep_objects(lz_sys_linux(), objects_fd, trash_fd, marks, OBJECTS - 5, &result, NULL), 0);
    CHECK_EQ(result.count, 10);
    CHECK(result.allocated >= 10 * 512 || result.allocated == 0); /* 0: tmpfs and inline data */
    for (unsigned n = 0; n < OBJECTS; n++)
        CHECK(in_store(n) == (n >= 10) && in_flat(trash_fd, n) == (n < 10));
    CHECK_EQ(lz_sweep_objects(lz_sys_linux(), objects_fd, trash_fd, NULL, 0, &result, NULL), 0);
    CHECK_EQ(result.count, OBJECTS - 10);
    CHECK_EQ(count_names(trash_fd), OBJECTS);
    CHECK(has(objects_fd, "README", "not an object"));
    lz_buf_free(&moved);
    tear_down();
}

static void sweep_survives_every_failing_call(void)
{
    struct lz_object_ref marks[4];
    refs(0, 4, marks);
    for (long n = 1;; n++) {
        struct fault fault;
        struct lz_buf moved = {0};
        struct lz_sweep result;
        set_up();
        stage(0, 8);
        CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
        fault_arm(&fault, n, -EIO);
        int rc = lz_sweep_objects(fault_sys(&fault), objects_fd, trash_fd, marks, 4, &result, NULL);
        CHECK(rc == 0 || (rc == -EIO && atomic_load(&fault.fired)));
        CHECK_EQ(result.count, count_names(trash_fd));
        CHECK_EQ(lz_sweep_objects(lz_sys_linux(), objects_fd, trash_fd, marks, 4, &result, NULL), 0);
        for (unsigned object_number = 0; object_number < 8; object_number++)
            CHECK(in_store(object_number) == (object_number < 4));
        lz_buf_free(&moved);
        tear_down();
        if (!atomic_load(&fault.fired))
            break;
        CHECK(n < 1000);
    }
}

static void missing_objects_are_named(void)
{
    struct lz_buf moved = {0}, missing = {0};
    struct lz_object_ref all[5];
    char content[16], hex[65], path[67];
    uint8_t digest[32];
    set_up();
    stage(0, 5);
    CHECK_EQ(lz_publish_objects(lz_sys_linux(), staged_fd, objects_fd, &moved, NULL), 0);
    refs(0, 5, all);
    CHECK_EQ(lz_missing_objects(lz_sys_linux(), objects_fd, all, 5, &missing, NULL), 0);
    CHECK_EQ(missing.size, 0);

    object(2, content, hex, digest);
    snprintf(path, sizeof path, "%.2s/%s", hex, hex + 2);
    CHECK_EQ(unlinkat(objects_fd, path, 0), 0);
    write_file(objects_fd, path, "OBJECT 2"); /* of the same size */
    CHECK_EQ(lz_missing_objects(lz_sys_linux(), objects_fd, all, 5, &missing, NULL), 0);
    CHECK_EQ(missing.size, 0);

    all[3].size++;
    CHECK_EQ(unlinkat(objects_fd, path, 0), 0);
    CHECK_EQ(lz_missing_objects(lz_sys_linux(), objects_fd, all, 5, &missing, NULL), 0);
    CHECK_EQ(missing.size, 2 * 32);
    CHECK(memcmp(missing.data, all[2].digest, 32) == 0 && memcmp(missing.data + 32, all[3].digest, 32) == 0);
    lz_buf_free(&moved);
    lz_buf_free(&missing);
    tear_down();
}

int main(void)
{
    RUN(publish_moves_what_is_new_and_drops_what_is_there);
    RUN(publish_drops_a_hard_link_of_what_is_there);
    RUN(publish_works_where_renames_have_no_flags);
    RUN(publish_survives_every_failing_call);
    RUN(publish_survives_kill_at_every_rename);
    RUN(sweep_takes_what_has_no_mark);
    RUN(sweep_survives_every_failing_call);
    RUN(missing_objects_are_named);
    return check_end();
}
