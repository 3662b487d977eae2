/* Real loop devices and XFS images, mounted in a namespace of the test's own: one device for one image, whoever asks. */
#include "tree/lz_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fault.h"
#include "shell.h"
#include "tree/lz_mount.h"

#define MIB (1024ull * 1024)
#define SIZE (320 * MIB)

static char top[] = "/tmp/lz_pool.XXXXXX";
static char image[64], target[64];
static const struct lz_sys *linux_sys;

static void shell(const char *line)
{
    shell_in(top, line);
}

/* Loop devices over files of this test. */
static int devices(void)
{
    glob_t found = {0};
    int count = 0;
    (void)glob("/sys/block/loop*/loop/backing_file", 0, NULL, &found); /* none: no match */
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char line[256] = "";
        FILE *file = fopen(found.gl_pathv[i], "r");
        if (file == NULL)
            continue; /* it has gone meanwhile */
        if (fgets(line, sizeof line, file) != NULL && strncmp(line, top, strlen(top)) == 0 && line[strlen(top)] == '/')
            count++;
        (void)fclose(file);
    }
    globfree(&found);
    return count;
}

static void wait_for_devices(int count)
{
    for (int i = 0; i < 1000 && devices() != count; i++)
        (void)usleep(2000);
    CHECK_EQ(devices(), count);
}

static int open_image(void)
{
    int fd = open(image, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void fresh_image(void)
{
    shell("rm -f image && truncate -s 320M image && mkfs.xfs -q -m reflink=1 -s size=4096 image");
}

static int mount_image(const struct lz_sys *sys, struct lz_loop_state *state, struct lz_detail *detail)
{
    int fd = open_image();
    int rc = lz_pool_mount(sys, fd, state, detail);
    CHECK_EQ(close(fd), 0);
    if (rc < 0 && sys == linux_sys)
        fprintf(stderr, "%s\n", detail->text);
    return rc;
}

static int open_below(int mount_fd, const char *name, int flags)
{
    int fd = openat(mount_fd, name, flags | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    return fd;
}

static void one_device_for_one_image(void)
{
    fresh_image();
    int before = count_descriptors();
    int fd = open_image();
    struct lz_loop_state none = {.name = "untouched"};
    CHECK_EQ(lz_loop_find(linux_sys, fd, &none, NULL), -ENXIO);
    CHECK_STR(none.name, "untouched");
    struct lz_detail detail = {{0}};
    struct lz_loop_state first, second;
    int one = mount_image(linux_sys, &first, &detail);
    CHECK(one >= 0);
    CHECK(!first.read_only);
    /* under another name of the file, and after it was renamed, it is the same file */
    shell("mv image renamed && ln renamed image && rm renamed");
    int two = mount_image(linux_sys, &second, &detail);
    CHECK(two >= 0);
    CHECK_STR(first.name, second.name);
    CHECK_EQ(devices(), 1);
    CHECK_EQ(close(open_below(one, "seen", O_WRONLY | O_CREAT)), 0);
    CHECK_EQ(close(open_below(two, "seen", O_RDONLY)), 0);
    CHECK_EQ(close(one), 0);
    CHECK_EQ(devices(), 1);
    CHECK_EQ(close(two), 0);
    wait_for_devices(0);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(count_descriptors(), before);
}

static void another_namespace(void)
{
    fresh_image();
    struct lz_detail detail = {{0}};
    struct lz_loop_state state;
    int mount_fd = mount_image(linux_sys, &state, &detail);
    CHECK(mount_fd >= 0);
    CHECK_EQ(lz_mount_attach(linux_sys, mount_fd, AT_FDCWD, target, NULL), 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK_EQ(unshare(CLONE_NEWNS), 0);
        CHECK_EQ(lz_unmount(linux_sys, target, false, NULL), 0);
        struct lz_loop_state theirs;
        int again = mount_image(linux_sys, &theirs, &detail);
        CHECK(again >= 0);
        CHECK_STR(theirs.name, state.name);
        CHECK_EQ(lz_mount_attach(linux_sys, again, AT_FDCWD, target, NULL), 0);
        shell("echo theirs > mount/file");
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    shell("grep -q theirs mount/file");
    CHECK_EQ(devices(), 1);
    CHECK_EQ(close(mount_fd), 0);
    CHECK_EQ(lz_unmount(linux_sys, target, false, NULL), 0);
    wait_for_devices(0);
}

static void a_device_that_is_read_only(void)
{
    int fd = open_image();
    char name[LZ_LOOP_NAME_SIZE];
    int device = lz_loop_attach(linux_sys, fd, LZ_LOOP_READ_ONLY, name, NULL);
    CHECK(device >= 0);
    struct lz_detail detail = {{0}};
    struct lz_loop_state state;
    int before = count_descriptors();
    CHECK_EQ(lz_pool_mount(linux_sys, fd, &state, &detail), -EROFS);
    CHECK(strstr(detail.text, name) != NULL);
    CHECK_EQ(count_descriptors(), before);
    CHECK_EQ(close(device), 0);
    CHECK_EQ(close(fd), 0);
    wait_for_devices(0);
}

static void what_is_no_file_system(void)
{
    shell("rm -f image && truncate -s 320M image");
    struct lz_detail detail = {{0}};
    struct lz_loop_state state;
    int fd = open_image();
    CHECK(lz_pool_mount(linux_sys, fd, &state, &detail) < 0);
    CHECK(strncmp(detail.text, "xfs mount: ", 11) == 0);
    wait_for_devices(0);
    struct lz_pool_geometry geometry;
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_EQ(lz_pool_geometry(linux_sys, proc, &geometry, &detail), LZ_E_UNSUPPORTED);
    CHECK_EQ(lz_pool_grow(linux_sys, fd, proc, SIZE, &detail), LZ_E_UNSUPPORTED);
    CHECK(lz_pool_trim(linux_sys, proc, &detail) < 0);
    CHECK_EQ(close(proc), 0);
    CHECK_EQ(close(fd), 0);
}

static uint64_t size_of(int root)
{
    struct lz_pool_geometry geometry = {0};
    CHECK_EQ(lz_pool_geometry(linux_sys, root, &geometry, NULL), 0);
    CHECK(geometry.reflink);
    return geometry.blocks * geometry.block_size;
}

static void growing_while_in_use(void)
{
    fresh_image();
    struct lz_detail detail = {{0}};
    struct lz_loop_state state;
    int mount_fd = mount_image(linux_sys, &state, &detail);
    CHECK(mount_fd >= 0);
    int root = open_below(mount_fd, ".", O_RDONLY | O_DIRECTORY), fd = open_image();
    int file = open_below(root, "held", O_RDWR | O_CREAT);
    CHECK_EQ(size_of(root), SIZE);
    CHECK_EQ(lz_pool_grow(linux_sys, fd, root, SIZE - MIB, &detail), 0); /* nothing shrinks */
    CHECK_EQ(size_of(root), SIZE);
    CHECK_EQ(lz_pool_grow(linux_sys, fd, root, 2 * SIZE, &detail), 0);
    CHECK_EQ(size_of(root), 2 * SIZE);
    CHECK_EQ(ftruncate(fd, (off_t)(3 * SIZE)), 0); /* a growth that ended after its first step */
    CHECK_EQ(lz_pool_grow(linux_sys, fd, root, 3 * SIZE, &detail), 0);
    CHECK_EQ(size_of(root), 3 * SIZE);
    CHECK_EQ(lz_pool_grow(linux_sys, fd, root, 3 * SIZE, &detail), 0);
    CHECK_EQ(write(file, "x", 1), 1);
    CHECK_EQ(fsync(file), 0);
    CHECK(lz_pool_grow(linux_sys, fd, root, UINT64_MAX, &detail) < 0);
    CHECK_EQ(close(file), 0);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(root), 0);
    CHECK_EQ(close(mount_fd), 0);
    wait_for_devices(0);
}

static void every_failing_call_of_mount(void)
{
    static const int codes[] = {-EMFILE, -EBUSY, -ENXIO, -EIO};
    fresh_image();
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        long n = 1;
        for (;; n++) {
            struct fault fault;
            fault_arm(&fault, n, codes[i]);
            struct lz_detail detail = {{0}};
            struct lz_loop_state state;
            int before = count_descriptors();
            int rc = mount_image(fault_sys(&fault), &state, &detail);
            CHECK_EQ(count_descriptors(), before + (rc >= 0));
            CHECK(rc >= 0 || detail.text[0] != 0);
            if (rc >= 0)
                CHECK_EQ(close(rc), 0);
            wait_for_devices(0);
            if (!fault.fired) {
                CHECK(rc >= 0);
                break;
            }
        }
        CHECK(n > 20);
    }
}

static void every_failing_call_of_grow_and_trim(void)
{
    fresh_image();
    struct lz_detail detail = {{0}};
    struct lz_loop_state state;
    int mount_fd = mount_image(linux_sys, &state, &detail);
    int root = open_below(mount_fd, ".", O_RDONLY | O_DIRECTORY), fd = open_image();
    uint64_t size = SIZE;
    for (long n = 1;; n++) {
        size += 64 * MIB;
        struct fault fault;
        fault_arm(&fault, n, -EIO);
        int before = count_descriptors();
        detail.text[0] = 0;
        int rc = lz_pool_grow(fault_sys(&fault), fd, root, size, &detail);
        CHECK_EQ(count_descriptors(), before);
        CHECK((rc == 0) == (detail.text[0] == 0));
        CHECK_EQ(lz_pool_grow(linux_sys, fd, root, size, NULL), 0); /* the next one finishes it */
        CHECK_EQ(size_of(root), size);
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            CHECK(n > 8);
            break;
        }
    }
    for (long n = 1;; n++) {
        struct fault fault;
        fault_arm(&fault, n, -EIO);
        int64_t rc = lz_pool_trim(fault_sys(&fault), root, &detail);
        CHECK_EQ(rc < 0, fault.fired);
        if (!fault.fired)
            break;
    }
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(root), 0);
    CHECK_EQ(close(mount_fd), 0);
    wait_for_devices(0);
}

/* NULL, or why no pool can be made here. */
static const char *missing(void)
{
    if (geteuid() != 0)
        return "not root: nothing can be mounted";
    if (access("/dev/loop-control", F_OK) != 0)
        return "no loop devices: /dev/loop-control is missing";
    if (lz_mount_supports(lz_sys_linux(), "xfs", NULL, NULL) != 1)
        return "this kernel has no XFS";
    return system("command -v mkfs.xfs > /dev/null") == 0 ? NULL : "mkfs.xfs is not installed";
}

int main(void)
{
    if (missing() != NULL) {
        fprintf(stderr, "  skipped: %s\n", missing());
        return 0;
    }
    linux_sys = lz_sys_linux();
    CHECK_EQ(unshare(CLONE_NEWNS), 0);
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK(mkdtemp(top) != NULL);
    (void)snprintf(image, sizeof image, "%s/image", top);
    (void)snprintf(target, sizeof target, "%s/mount", top);
    CHECK_EQ(mkdir(target, 0755), 0);
    RUN(one_device_for_one_image);
    RUN(another_namespace);
    RUN(a_device_that_is_read_only);
    RUN(what_is_no_file_system);
    RUN(growing_while_in_use);
    RUN(every_failing_call_of_mount);
    RUN(every_failing_call_of_grow_and_trim);
    shell("cd / && rm -rf \"$OLDPWD\"");
    return check_end();
}
