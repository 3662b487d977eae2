#include "tree/lz_remove.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "check.h"
#include "fault.h"

static char base[64];
static int base_fd;

static void set_up(void)
{
    strcpy(base, "/tmp/lz-remove-XXXXXX");
    CHECK(mkdtemp(base) != NULL);
    base_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(base_fd >= 0);
}

static void tear_down(void)
{
    close(base_fd);
    CHECK_EQ(rmdir(base), 0);
}

static void write_file(int dir, const char *name, size_t size)
{
    static char zeros[8192];
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, zeros, size), (ssize_t)size);
    close(fd);
}

/* A tree with files, links, empty and nested directories below `name`. */
static void grow(const char *name)
{
    CHECK_EQ(mkdirat(base_fd, name, 0700), 0);
    int fd = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    write_file(fd, "file", 5000);
    write_file(fd, "\xff\n weird", 1);
    CHECK_EQ(symlinkat("/etc", fd, "link"), 0);
    CHECK_EQ(mkdirat(fd, "empty", 0700), 0);
    CHECK_EQ(mkdirat(fd, "a", 0700), 0);
    CHECK_EQ(mkdirat(fd, "a/b", 0500), 0);
    CHECK_EQ(mkdirat(fd, "a/b/c", 0700), 0);
    write_file(fd, "a/b/c/file", 10);
    write_file(fd, "a/b/other", 10);
    CHECK_EQ(mkdirat(fd, "a/.lz-removed-0", 0700), 0); /* the names that removal itself uses */
    write_file(fd, "a/.lz-removed-0/file", 10);
    CHECK_EQ(mkdirat(fd, ".lz-removed-1", 0700), 0);
    write_file(fd, ".lz-removed-1/file", 10);
    close(fd);
}

static void files_links_and_trees_go(void)
{
    set_up();
    write_file(base_fd, "file", 5000);
    CHECK_EQ(symlinkat("nowhere", base_fd, "link"), 0);
    CHECK_EQ(mkdirat(base_fd, "empty", 0700), 0);
    grow("tree");
    CHECK_EQ(linkat(base_fd, "tree/file", base_fd, "kept", 0), 0);
    CHECK_EQ(lz_remove_tree(lz_sys_linux(), base_fd, "missing", NULL), 0);
    CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "file", NULL) >= 4096);
    CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "link", NULL) >= 0);
    CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "empty", NULL) >= 0);
    CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "tree", NULL) >= 0);
    CHECK_EQ(faccessat(base_fd, "tree", F_OK, 0), -1);
    CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "kept", NULL) >= 4096); /* the last name gives the bytes back */
    CHECK_EQ(access("/etc", F_OK), 0);
    tear_down();
}

static void depth_does_not_matter(void)
{
    set_up();
    int at = dup(base_fd);
    for (int depth = 0; depth < 20000; depth++) { /* far over PATH_MAX and any stack or descriptor limit */
        CHECK_EQ(mkdirat(at, "directory-with-a-long-name", 0700), 0);
        int next = openat(at, "directory-with-a-long-name", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        CHECK(next >= 0);
        if (depth % 100 == 0)
            write_file(next, "file", 1);
        close(at);
        at = next;
    }
    close(at);
    CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "directory-with-a-long-name", NULL) > 0);
    tear_down();
}

static void a_mount_is_never_entered(void)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0) {
        fprintf(stderr, "    not done: needs root\n");
        return;
    }
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    set_up();
    struct lz_detail detail;
    char from[96], to[96];
    grow("tree");
    CHECK_EQ(mkdirat(base_fd, "precious", 0700), 0);
    write_file(base_fd, "precious/file", 10);
    snprintf(from, sizeof from, "%s/precious", base);
    snprintf(to, sizeof to, "%s/tree/a/b", base);
    CHECK_EQ(mount(from, to, NULL, MS_BIND, NULL), 0); /* of the same device: only the kernel can tell */
    CHECK_EQ(lz_remove_tree(lz_sys_linux(), base_fd, "tree", &detail), -EBUSY);
    CHECK(strstr(detail.text, "tree") != NULL);
    CHECK_EQ(faccessat(base_fd, "precious/file", F_OK, 0), 0);
    snprintf(to, sizeof to, "%s/precious", base);
    CHECK_EQ(mount(from, to, NULL, MS_BIND, NULL), 0); /* the top itself */
    CHECK_EQ(lz_remove_tree(lz_sys_linux(), base_fd, "precious", NULL), -EBUSY);
    CHECK_EQ(umount2(to, 0), 0);
    CHECK_EQ(faccessat(base_fd, "precious/file", F_OK, 0), 0);
    CHECK(lz_sys_linux()->umount2(NULL, base, 0) < 0);
    /* the mounted directory may have been moved to the top of its tree? no: a mount point does not move */
    snprintf(to, sizeof to, "%s/tree/a/b", base);
    CHECK_EQ(umount2(to, 0), 0);
    CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "tree", NULL) >= 0);
    CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "precious", NULL) >= 0);
    tear_down();
}

/* Whatever fails, a second call finishes. */
/* Somebody who removes the same tree, and is faster, just when a directory of it has been opened. */
static int open_and_lose(void *ctx, int dir, const char *path, int flags, mode_t mode)
{
    int fd = lz_sys_linux()->openat(NULL, dir, path, flags, mode);
    if (fd >= 0 && strcmp(path, ctx) == 0)
        CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "tree", NULL) >= 0);
    return fd;
}

static void two_at_once(void)
{
    static char opened[][16] = {"tree", "a", ".lz-removed-1"};
    for (size_t i = 0; i < sizeof opened / sizeof *opened; i++) {
        struct lz_sys sys = *lz_sys_linux();
        struct lz_detail detail = {0};
        sys.ctx = opened[i];
        sys.openat = open_and_lose;
        set_up();
        grow("tree");
        CHECK(lz_remove_tree(&sys, base_fd, "tree", &detail) >= 0);
        CHECK_EQ(detail.text[0], 0);
        tear_down();
    }
}

static void every_failing_call(void)
{
    for (long n = 1;; n++) {
        struct fault fault;
        struct lz_detail detail = {0};
        set_up();
        grow("tree");
        fault_arm(&fault, n, -EIO);
        int64_t rc = lz_remove_tree(fault_sys(&fault), base_fd, "tree", &detail);
        if (rc < 0) {
            CHECK_EQ(rc, -EIO);
            CHECK(atomic_load(&fault.fired) && detail.text[0] != 0);
        }
        CHECK(lz_remove_tree(lz_sys_linux(), base_fd, "tree", NULL) >= 0);
        CHECK_EQ(faccessat(base_fd, "tree", F_OK, 0), -1);
        tear_down();
        if (!atomic_load(&fault.fired))
            break;
        CHECK(n < 1000);
    }
}

int main(void)
{
    RUN(files_links_and_trees_go);
    RUN(depth_does_not_matter);
    RUN(two_at_once);
    RUN(every_failing_call);
    RUN(a_mount_is_never_entered);
    return check_end();
}
