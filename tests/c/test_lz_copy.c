/* A tree with one of everything, copied by one thread and by several; whatever call fails, nothing leaks, and a success is
 * whole. */
#include "tree/lz_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"
#include "disks.h"
#include "fault.h"
#include "shell.h"

static char top[] = "/tmp/lz_copy.XXXXXX";

static void shell(const char *line)
{
    shell_in(top, line);
}

static int open_directory(const char *name)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", top, name);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static unsigned threads = 1; /* of a copy */

static int copy(const struct lz_sys *sys, struct lz_copy_result *result, struct lz_detail *detail)
{
    int from = open_directory("from"), to = open_directory("to");
    int rc = lz_copy_tree(sys, from, to, threads, NULL, result, detail);
    CHECK_EQ(close(from), 0);
    CHECK_EQ(close(to), 0);
    return rc;
}

static void make_tree(void)
{
    shell("mkdir -p from/a/b 'from/sp ace' && printf hello > from/a/file && : > from/empty");
    shell("ln from/a/file from/a/b/link && ln -s ../a/file from/a/symlink && ln -s /nowhere from/dangling");
    shell("mkfifo from/fifo && mknod from/null c 1 3 && mknod from/whiteout c 0 0 && mknod from/block b 7 200");
    shell("truncate -s 20M from/sparse && printf mid | dd of=from/sparse bs=1M seek=10 conv=notrunc status=none");
    shell("head -c 3000001 /dev/urandom > from/large && truncate -s 7M from/hole");
    shell("setfattr -n trusted.overlay.opaque -v y from/a && setfattr -n trusted.overlay.metacopy from/hole && "
          "setfattr -n user.x -v 1 from/a/file && setfattr -h -n trusted.y -v 2 from/dangling && "
          "setfattr -n trusted.y -v 3 from/fifo && setcap cap_net_raw+ep from/large");
    shell("chown 1:2 from/a/file && chmod 4751 from/a/file && chown -h 3:4 from/dangling && chmod 1777 from/a/b && "
          "chmod 0 from/empty && chown 5:6 from/null && chmod 0000 'from/sp ace' && setfacl -m u:7:r from/large");
    shell("ln from/fifo from/a/fifo2");
    char path[128];
    (void)snprintf(path, sizeof path, "%s/from/socket", top);
    CHECK_EQ(mknod(path, S_IFSOCK | 0640, 0), 0);
    /* deeper than the descriptors that a walk keeps, and than one path */
    shell("cd from && for i in $(seq 1 150); do mkdir d$i && cd d$i; done && echo deep > bottom");
    shell("find from -exec touch -h -d '2001-02-03 04:05:06.789' {} + && touch -d '1965-01-01 00:00:00.5' from");
}

/* Everything that stat and the attribute tools say, in NAME.list. Times of access and change are the copy's own. */
static void list(const char *name)
{
    char line[1024];
    (void)snprintf(line, sizeof line,
                   "cd %s && (find . -printf '%%P|%%y|%%m|%%U|%%G|%%n|%%T@|%%l|%%s\\n' | sed "
                   "'s/|d\\(.*\\)|[0-9]*$/|d\\1/'"
                   " | sort && " /* file systems list names and xattrs in orders of their own */
                   "getfattr -R -P -h -d -m - . 2>/dev/null | awk '/^# file: / {name = $0; next} NF {print name, $0}'"
                   " | sort && find . -type f -exec sha256sum {} + | sort && stat -c '%%t:%%T' null whiteout block)"
                   " > ../%s.list",
                   name, name);
    shell(line);
}

/* With `from` as it was listed. */
static void compare_with_list(void)
{
    list("to");
    shell("cmp from.list to.list && test $(wc -l < to.list) -gt 25");
    shell("test $(stat -c %i to/a/file) = $(stat -c %i to/a/b/link)");
    shell("test $(stat -c %i to/fifo) = $(stat -c %i to/a/fifo2)");
    shell("test $(du -k to/sparse | cut -f1) -lt 100 && test $(du -k to/hole | cut -f1) -lt 20");
}

static void compare(void)
{
    list("from");
    compare_with_list();
}

/* More files than can be under way, some with xattrs, some so large that others wait. */
static void many_files(void)
{
    shell("mkdir to from/many && cd from/many && for i in $(seq 1 200); do echo $i > $i && chown $i:$((i * 2)) $i && "
          "chmod 6$((i % 8))4 $i && touch -d \"2002-01-01 + $i minutes\" $i; done");
    shell("cd from/many && for i in $(seq 7 7 200); do setfattr -n user.number -v $i $i && ln $i $i.link && "
          "head -c 300000 /dev/urandom > $i; done");
    for (threads = 1; threads <= 5; threads += 2) {
        struct lz_detail detail = {{0}};
        int rc = copy(lz_sys_linux(), NULL, &detail);
        CHECK_EQ(rc, 0);
        compare();
        shell("rm -rf to && mkdir to");
    }
    shell("rm -rf to");
}

static int refuse_owner(void *ctx, int dir, const char *name, uid_t uid, gid_t gid, int flags)
{
    return uid == 123 ? -EDQUOT : lz_sys_linux()->fchownat(ctx, dir, name, uid, gid, flags);
}

/* Not the one that was at hand when the failure was seen. */
static void the_file_that_failed_is_named(void)
{
    shell("mkdir to");
    for (threads = 1; threads <= 3; threads += 2) {
        struct fault fault;
        fault_arm(&fault, 0, 0);
        fault.table.fchownat = refuse_owner;
        struct lz_detail detail = {{0}};
        CHECK_EQ(copy(fault_sys(&fault), NULL, &detail), -EDQUOT);
        CHECK(strstr(detail.text, "copying /many/123: ") == detail.text);
        shell("rm -rf to && mkdir to");
    }
    shell("rm -rf to from/many");
    threads = 1;
}

static void everything_is_copied(void)
{
    shell("mkdir to");
    int before = count_descriptors();
    struct lz_detail detail = {{0}};
    struct lz_copy_result result = {0};
    int rc = copy(lz_sys_linux(), &result, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    CHECK_EQ(count_descriptors(), before);
    compare();
    char line[128];
    (void)snprintf(line, sizeof line, "test $(find to -mindepth 1 | wc -l) = %u", (unsigned)result.entries);
    shell(line);
    /* the file system of /tmp may share blocks or not; small files may lie in an inode and take no block */
    CHECK((result.copied == 0) != (result.shared == 0));
    CHECK(result.copied + result.shared >= 3000001 && result.copied + result.shared < 4000000);
    shell("rm -rf to");
}

static void into_a_name_that_is_there(void)
{
    shell("mkdir to && : > to/large");
    struct lz_detail detail = {{0}};
    CHECK_EQ(copy(lz_sys_linux(), NULL, &detail), -EEXIST);
    CHECK(strstr(detail.text, "/large") != NULL);
    shell("rm -rf to");
}

/* ---- a source that changes ---- */

static int shortenings; /* how often `cut` gets shorter just when it is copied */

static int shortening_ioctl(void *ctx, int fd, unsigned long request, uintptr_t argument)
{
    char path[128];
    struct stat cut, read;
    (void)snprintf(path, sizeof path, "%s/from/cut", top);
    if (request == FICLONERANGE && shortenings > 0 && stat(path, &cut) == 0 &&
        fstat((int)((const struct file_clone_range *)argument)->src_fd, &read) == 0 && cut.st_ino == read.st_ino) {
        shortenings--;
        CHECK_EQ(truncate(path, cut.st_size - 5000), 0);
        return -EOPNOTSUPP; /* a clone would take the rest all the same */
    }
    return lz_sys_linux()->ioctl(ctx, fd, request, argument);
}

/* As soon as it is opened, the file `turn` is a directory. */
static int turning_openat(void *ctx, int dir, const char *name, int flags, mode_t mode)
{
    int rc = lz_sys_linux()->openat(ctx, dir, name, flags, mode);
    if (rc >= 0 && strcmp(name, "turn") == 0)
        shell("rm -f from/turn && mkdir -p from/turn/sub");
    return rc;
}

static void a_source_that_changes(void)
{
    struct lz_sys sys = *lz_sys_linux();
    sys.ioctl = shortening_ioctl;
    sys.openat = turning_openat;
    int often[] = {1, 3, 1000};
    for (size_t i = 0; i < sizeof often / sizeof often[0]; i++) {
        shell("rm -rf from to && mkdir from to && echo x > from/turn && head -c 9000000 /dev/urandom > from/cut");
        shortenings = often[i];
        struct lz_copy_result result;
        struct lz_detail detail = {{0}};
        CHECK_EQ(copy(&sys, &result, &detail), 0);
        CHECK_EQ((int)result.entries, 2);
        shell("test -f to/turn");
        if (often[i] < 10) /* whole, as it is at last; else it is as torn as it may come */
            shell("cmp from/cut to/cut");
    }
    shell("rm -rf from to");
}

static void every_failing_call(void)
{
    shell("rm -rf from/d1 && truncate -s 1M from/hole && truncate -s 0 from/sparse && truncate -s 1M from/sparse && "
          "printf mid | dd of=from/sparse bs=64K seek=8 conv=notrunc status=none"); /* less to read over and over */
    list("from");
    long n = 1;
    for (;; n += threads) { /* of several, which is the n-th differs from run to run: every third will do */
        shell("rm -rf to && mkdir to");
        struct fault fault;
        fault_arm(&fault, n, n % 2 != 0 ? -ENOSPC : -EIO);
        int before = count_descriptors();
        struct lz_detail detail = {{0}};
        int rc = copy(fault_sys(&fault), NULL, &detail);
        CHECK_EQ(count_descriptors(), before);
        CHECK(rc == 0 || detail.text[0] != 0);
        if (rc == 0)
            compare_with_list(); /* also where what failed was the closing of something that was only read */
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            break;
        }
    }
    shell("rm -rf to");
    CHECK(n > 150);
    fprintf(stderr, "  %ld calls failed in turn\n", n - 1);
}

/* Which call of which file is the n-th is up to the threads; how many there are is not. */
static void every_failing_call_of_several_threads(void)
{
    shell("mkdir from/some && for i in $(seq 1 9); do echo $i > from/some/$i && chown $i from/some/$i; done");
    threads = 3;
    every_failing_call();
    threads = 1;
}

static int go_on(void *ctx)
{
    int *rest = ctx;
    return (*rest)-- > 0 ? 0 : LZ_E_CANCELLED;
}

/* Every so many names it is asked; an end is one soon, and leaves no descriptor. */
static void asked_whether_to_go_on(void)
{
    shell("rm -rf from && mkdir from && cd from && mkdir $(seq 1 100) && seq 101 450 | xargs touch");
    int from = open_directory("from"), descriptors = count_descriptors();
    for (threads = 1; threads <= 3; threads += 2) {
        for (int wanted = 0; wanted <= 8; wanted++) {
            int rest = wanted;
            struct lz_step step = {.ask = go_on, .ctx = &rest};
            struct lz_copy_result result = {0};
            shell("rm -rf to && mkdir to");
            int to = open_directory("to");
            int rc = lz_copy_tree(lz_sys_linux(), from, to, threads, &step, &result, NULL);
            CHECK_EQ(rc, wanted < 8 ? LZ_E_CANCELLED : 0); /* 451 names, and 101 directories once more */
            CHECK_EQ(rest, wanted < 8 ? -1 : 0);
            CHECK_EQ(close(to), 0);
            CHECK_EQ(count_descriptors(), descriptors);
            char command[80];
            (void)snprintf(command, sizeof command, "test $(ls to | wc -l) -le %u",
                           LZ_STEP_NAMES * (unsigned)(wanted + 1));
            shell(command);
        }
    }
    threads = 1;
    CHECK_EQ(close(from), 0);
}

/* Nor does an end wait for a few large files, whether they have their names already or not. */
static void asked_before_large_files(void)
{
    shell("rm -rf from && mkdir from && cd from && fallocate -l 64M a && fallocate -l 64M b && fallocate -l 64M c");
    int from = open_directory("from"), descriptors = count_descriptors();
    for (threads = 1; threads <= 2; threads++) {
        int asked = threads == 1 ? 3 : 6; /* with a helper, which so few are not worth, all of them wait first */
        for (int wanted = 0; wanted <= asked; wanted++) {
            int rest = wanted;
            struct lz_step step = {.ask = go_on, .ctx = &rest};
            shell("rm -rf to && mkdir to");
            int to = open_directory("to");
            int rc = lz_copy_tree(lz_sys_linux(), from, to, threads, &step, NULL, NULL);
            CHECK_EQ(rc, wanted < asked ? LZ_E_CANCELLED : 0);
            CHECK_EQ(rest, wanted < asked ? -1 : 0);
            CHECK_EQ(close(to), 0);
            CHECK_EQ(count_descriptors(), descriptors);
            char command[80];
            (void)snprintf(command, sizeof command, "test $(find to -type f -size +0 | wc -l) = %d",
                           wanted > asked - 3 ? wanted - (asked - 3) : 0);
            shell(command);
        }
    }
    threads = 1;
    CHECK_EQ(close(from), 0);
    shell("rm -rf from to");
}

/* What a copy on a file system of its own comes to; `setup` makes `from` there. */
static struct lz_copy_result copied_on(const struct disk *disk, const char *setup)
{
    shell_in(disk->path, "rm -rf from to && mkdir from to");
    shell_in(disk->path, setup);
    int from = openat(disk->fd, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int to = openat(disk->fd, "to", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct lz_copy_result result = {0};
    struct lz_detail detail = {{0}};
    CHECK_EQ(lz_copy_tree(lz_sys_linux(), from, to, threads, NULL, &result, &detail), 0);
    CHECK_EQ(close(from), 0);
    CHECK_EQ(close(to), 0);
    shell_in(disk->path, "cmp from/file to/file");
    return result;
}

/* Dirty pages, a size that ends within a block, and holes: shared where the file system can, else copied. */
static void clones(void)
{
    static const struct {
        const char *type;
        unsigned size;
        bool clones;
    } types[] = {{"xfs", 320, true}, {"btrfs", 128, true}, {"ext4", 64, false}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct disk disk;
        if (!disk_mount(&disk, types[i].type, types[i].size))
            continue;
        struct lz_copy_result result =
            copied_on(&disk, "truncate -s 20M from/file && head -c 2000001 /dev/urandom | "
                             "dd of=from/file conv=notrunc bs=1M seek=3 iflag=fullblock status=none && sync from/file");
        CHECK_EQ(result.entries, 1);
        CHECK(types[i].clones ? result.copied == 0 : result.shared == 0);
        CHECK(result.copied + result.shared >= 2000001 && result.copied + result.shared < 2100000);
        result = copied_on(&disk, "head -c 1000001 /dev/urandom > from/file"); /* not written back yet */
        CHECK(types[i].clones ? result.copied == 0 : result.shared == 0);
        disk_unmount(&disk);
    }
}

/* btrfs shares the blocks of files that are written in place only with files like them. */
static void written_in_place(void)
{
    struct disk disk;
    if (!disk_mount(&disk, "btrfs", 128))
        return;
    struct lz_copy_result result = copied_on(
        &disk, "mkdir from/d && chattr +C from from/d && head -c 1000001 /dev/urandom > from/file && sync from/file");
    CHECK_EQ(result.copied, 0);
    CHECK(result.shared >= 1000001);
    shell_in(disk.path, "lsattr -d from to to/d to/file | grep -c -- '-C-' | grep -qx 4");
    disk_unmount(&disk);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  not root: owners and devices cannot be made\n");
        return 0;
    }
    CHECK(mkdtemp(top) != NULL);
    (void)umask(022);
    make_tree();
    RUN(everything_is_copied);
    RUN(into_a_name_that_is_there);
    RUN(clones);
    RUN(written_in_place);
    RUN(many_files);
    RUN(the_file_that_failed_is_named);
    RUN(every_failing_call);
    RUN(every_failing_call_of_several_threads);
    RUN(a_source_that_changes);
    RUN(asked_whether_to_go_on);
    RUN(asked_before_large_files);
    shell("cd / && rm -rf \"$OLDPWD\"");
    return check_end();
}
