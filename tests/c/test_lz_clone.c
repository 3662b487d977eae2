/* A tree under a new name: a snapshot on btrfs, a copy elsewhere and of what has subvolumes inside; and both go again. */
#include "tree/lz_clone.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "disks.h"
#include "fault.h"
#include "shell.h"
#include "tree/lz_remove.h"

static const char *make = "umask 0; mkdir -p from/a/b && echo one > from/a/one && ln from/a/one from/a/b/again && "
                          "head -c 200000 /dev/urandom > from/large && ln -s a from/link && chmod 1751 from && "
                          "chown 3:4 from && setfattr -n user.x -v y from && touch -d 2001-02-03 from && sync";
static const char *same = "for side in from to; do (cd $side && find . -printf '%P|%y|%m|%U|%G|%T@|%l\\n' | sort && "
                          "getfattr -d . && find . -type f -exec sha256sum {} + | sort) > $side.list; done && "
                          "cmp from.list to.list && test $(wc -l < to.list) -gt 10 && "
                          "test $(stat -c %h to/a/one) = 2";

static int clone_it(const struct lz_sys *sys, const struct disk *disk, struct lz_copy_result *result)
{
    struct lz_detail detail = {{0}};
    int from = openat(disk->fd, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC), before = count_descriptors();
    CHECK(from >= 0);
    int rc = lz_clone_tree(sys, from, disk->fd, "to", 2, NULL, result, &detail);
    CHECK_EQ(count_descriptors(), before);
    CHECK(rc == 0 || detail.text[0] != 0);
    CHECK_EQ(close(from), 0);
    return rc;
}

static bool is_subvolume(const struct disk *disk, const char *name)
{
    struct stat info, above;
    CHECK_EQ(fstatat(disk->fd, name, &info, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_EQ(fstatat(disk->fd, ".", &above, 0), 0);
    return info.st_ino == 256 && info.st_dev != above.st_dev;
}

static void gone(const struct disk *disk, const char *name)
{
    struct lz_detail detail = {{0}};
    int before = count_descriptors();
    CHECK(lz_remove_tree(lz_sys_linux(), disk->fd, name, &detail) >= 0);
    CHECK_EQ(count_descriptors(), before);
    CHECK_EQ(faccessat(disk->fd, name, F_OK, AT_SYMLINK_NOFOLLOW), -1);
}

static void snapshots_and_copies(void)
{
    static const struct {
        const char *type;
        unsigned size;
        bool snapshots;
    } types[] = {{"btrfs", 128, true}, {"ext4", 64, false}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct disk disk;
        if (!disk_mount(&disk, types[i].type, types[i].size))
            continue;
        (void)umask(077);
        CHECK_EQ(lz_clone_prepare(lz_sys_linux(), disk.fd, "from"), 0);
        (void)umask(022);
        CHECK_EQ(is_subvolume(&disk, "from"), types[i].snapshots);
        CHECK_EQ(lz_clone_prepare(lz_sys_linux(), disk.fd, "from"), -EEXIST);
        shell_in(disk.path, "test $(stat -c %a from) = 700");
        shell_in(disk.path, make);
        struct lz_copy_result result = {0};
        CHECK_EQ(clone_it(lz_sys_linux(), &disk, &result), 0);
        shell_in(disk.path, same);
        CHECK_EQ(result.entries, 6);
        CHECK_EQ(is_subvolume(&disk, "to"), types[i].snapshots);
        CHECK(types[i].snapshots ? result.shared >= 200000 && result.copied == 0 : result.copied >= 200000);
        CHECK_EQ(clone_it(lz_sys_linux(), &disk, &result), -EEXIST);
        shell_in(disk.path,
                 "echo more >> to/large && mv to/a to/c && cmp -n 200000 from/large to/large && test -d from/a");
        gone(&disk, "to");
        gone(&disk, "from");
        disk_unmount(&disk);
    }
}

static void subvolume(const struct disk *disk, const char *name)
{
    CHECK_EQ(lz_clone_prepare(lz_sys_linux(), disk->fd, name), 0);
    CHECK(is_subvolume(disk, name));
}

/* A snapshot would show an empty directory in the place of the inner one. */
static void subvolumes_in_it(void)
{
    struct disk disk;
    if (!disk_mount(&disk, "btrfs", 128))
        return;
    subvolume(&disk, "from");
    shell_in(disk.path, make);
    subvolume(&disk, "inner");
    shell_in(disk.path, "mkdir -p inner/x/y && echo inner > inner/x/y/file && mv inner from/a/b/inner");
    CHECK_EQ(clone_it(lz_sys_linux(), &disk, NULL), 0);
    shell_in(disk.path, same);
    shell_in(disk.path, "test $(cat to/a/b/inner/x/y/file) = inner");
    CHECK(is_subvolume(&disk, "to"));
    gone(&disk, "to");
    shell_in(disk.path, "mkdir plain && cp -a from/a/one plain");
    struct lz_detail detail = {{0}};
    int plain = openat(disk.fd, "plain", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_EQ(lz_clone_tree(lz_sys_linux(), plain, disk.fd, "to", 1, NULL, NULL, &detail), 0);
    CHECK_EQ(close(plain), 0);
    CHECK(is_subvolume(&disk, "to")); /* from here on it has snapshots */
    /* one in the other in the other */
    for (int i = 0; i < 40; i++) {
        subvolume(&disk, "outer");
        shell_in(disk.path, "mkdir -p outer/d/e && echo > outer/d/e/f && mv to outer/d/e/to && mv outer to");
    }
    gone(&disk, "to");
    gone(&disk, "from");
    disk_unmount(&disk);
}

static int counting_fstatat(void *ctx, int dir, const char *path, struct stat *out, int flags)
{
    int rc = lz_sys_linux()->fstatat(ctx, dir, path, out, flags);
    if (rc == 0 && strncmp(path, "gone", 4) == 0)
        CHECK_EQ(unlinkat(dir, path, S_ISDIR(out->st_mode) ? AT_REMOVEDIR : 0), 0);
    return rc;
}

/* The snapshot has them; what it came to is counted in the source. */
static void names_that_vanish_while_they_are_counted(void)
{
    struct disk disk;
    if (!disk_mount(&disk, "btrfs", 128))
        return;
    subvolume(&disk, "from");
    shell_in(disk.path,
             "head -c 200000 /dev/urandom > from/gone && mkdir from/gone-directory && ln -s x from/gone-link && "
             "head -c 100000 /dev/urandom > from/stays && sync");
    struct lz_sys sys = *lz_sys_linux();
    sys.fstatat = counting_fstatat;
    struct lz_copy_result result = {0};
    CHECK_EQ(clone_it(&sys, &disk, &result), 0);
    CHECK(result.entries >= 1 && result.entries <= 4);
    CHECK(result.shared >= 100000);
    shell_in(disk.path, "test $(ls from) = stays && test $(ls to | wc -l) = 4");
    gone(&disk, "to");
    gone(&disk, "from");
    disk_unmount(&disk);
}

static void every_failing_call(void)
{
    struct disk disk;
    if (!disk_mount(&disk, "btrfs", 128))
        return;
    subvolume(&disk, "from");
    shell_in(disk.path, make);
    long n = 1;
    for (;; n++) {
        struct fault fault;
        fault_arm(&fault, n, n % 2 != 0 ? -ENOSPC : -EOPNOTSUPP);
        int rc = clone_it(fault_sys(&fault), &disk, NULL);
        if (rc == 0)
            shell_in(disk.path, same);
        gone(&disk, "to");
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            break;
        }
    }
    CHECK(n > 10);
    subvolume(&disk, "inner");
    shell_in(disk.path, "mv inner from/a");
    for (n = 1;; n++) {
        struct fault fault;
        shell_in(disk.path, "mkdir -p from/a/inner/d/e from/a/d/e && echo > from/a/inner/d/e/f && echo > from/a/d/e/f");
        fault_arm(&fault, n, -EIO);
        int before = count_descriptors();
        int64_t rc = lz_remove_tree(fault_sys(&fault), disk.fd, "from", NULL);
        CHECK_EQ(count_descriptors(), before);
        if (!fault.fired) {
            CHECK(rc >= 0);
            break;
        }
        gone(&disk, "from");
        subvolume(&disk, "from");
        subvolume(&disk, "inner");
        shell_in(disk.path, "mkdir from/a && mv inner from/a");
    }
    CHECK(n > 20);
    disk_unmount(&disk);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  not root: no disk can be mounted\n");
        return 0;
    }
    RUN(snapshots_and_copies);
    RUN(subvolumes_in_it);
    RUN(names_that_vanish_while_they_are_counted);
    RUN(every_failing_call);
    return check_end();
}
