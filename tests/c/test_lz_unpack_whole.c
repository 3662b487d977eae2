/* Unpack: a file comes whole or not at all, whatever ends it, and what it was to replace stays until then. */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "unpack_fixture.h"

struct unpacking {
    int in_fd, dir_fd, rc;
};

static void *unpack_it(void *argument)
{
    struct unpacking *unpacking = argument;
    unpacking->rc = lz_unpack(lz_sys_linux(), unpacking->in_fd, unpacking->dir_fd, &ALL, NULL, NULL, NULL);
    return NULL;
}

/* The archive ends within the content of its last file: what came before that is there, and what it was to replace. */
static void cut_off(void)
{
    struct scratch scratch = scratch_new();
    struct archive archive = {0};
    make_file(&scratch, "old", "old", 3);
    CHECK_EQ(symlinkat("old", scratch.fd, "link"), 0);
    for (size_t i = 0; i < 3; i++) {
        put_file(&archive, "whole", "whole");
        put_file(&archive, (const char *[]){"new", "old", "link"}[i], "four");
        archive.bytes.size -= 510;
        archive.fd = memfd_create("archive", MFD_CLOEXEC);
        CHECK_EQ(write(archive.fd, archive.bytes.data, archive.bytes.size), archive.bytes.size);
        CHECK_EQ(lseek(archive.fd, 0, SEEK_SET), 0);
        CHECK_EQ(lz_unpack(lz_sys_linux(), archive.fd, scratch.fd, &ALL, NULL, NULL, NULL), LZ_E_TRUNCATED);
        archive_free(&archive);
        check_tree(&scratch, "D ./|L link>old|F old 3|F whole 5");
    }
    scratch_free(&scratch);
}

/* A file that does not come whole is not somebody else's who has taken its name meanwhile. */
static void replaced_meanwhile(void)
{
    struct scratch scratch = scratch_new();
    struct archive archive = {0};
    int ends[2];
    pthread_t thread;
    put_file(&archive, "f", "four");
    make_file(&scratch, "other", "other", 5);
    CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
    struct unpacking unpacking = {.in_fd = ends[0], .dir_fd = scratch.fd};
    CHECK_EQ(pthread_create(&thread, NULL, unpack_it, &unpacking), 0);
    CHECK_EQ(write(ends[1], archive.bytes.data, archive.bytes.size - 510), archive.bytes.size - 510);
    while (faccessat(scratch.fd, "f", F_OK, 0) != 0)
        (void)usleep(1000);
    CHECK_EQ(renameat(scratch.fd, "other", scratch.fd, "f"), 0);
    CHECK_EQ(close(ends[1]), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(unpacking.rc, LZ_E_TRUNCATED);
    check_tree(&scratch, "D ./|F f 5");
    CHECK_EQ(close(ends[0]), 0);
    lz_buf_free(&archive.bytes);
    scratch_free(&scratch);
}

/* ---- every failing call ---- */

static void build(struct archive *archive)
{
    static const struct lz_tar_xattr xattrs[] = {{"user.a", 6, (const uint8_t *)"1", 1}};
    put(archive, (struct lz_tar_entry){.type = LZ_TAR_DIRECTORY, .xattrs = xattrs, .xattr_count = 1}, "a", NULL);
    put(archive, (struct lz_tar_entry){.type = LZ_TAR_FILE, .mtime = 5, .xattrs = xattrs, .xattr_count = 1}, "a/f",
        "content");
    put_link(archive, LZ_TAR_HARDLINK, "h", "a/f");
    put_link(archive, LZ_TAR_SYMLINK, "s", "x");
    put(archive, (struct lz_tar_entry){.type = LZ_TAR_FIFO, .mode = 0622}, "p", NULL);
    put_file(archive, "x/y/z", "deep");
}

/* A file is there with all that it has, or as it was, or not at all. */
static void check_file(int dir, bool old)
{
    struct stat info;
    if (fstatat(dir, "a/f", &info, AT_SYMLINK_NOFOLLOW) != 0)
        CHECK(!old);
    else if (!old || info.st_size != 3)
        CHECK(info.st_size == 7 && info.st_mtim.tv_sec == 5);
    int a = openat(dir, "a", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = a >= 0 ? fdopendir(a) : NULL;
    for (struct dirent *entry; list != NULL && (entry = readdir(list)) != NULL;)
        CHECK(strncmp(entry->d_name, ".lz", 3) != 0);
    if (list != NULL)
        CHECK_EQ(closedir(list), 0);
}

static void every_failing_call(bool old)
{
    struct scratch scratch = scratch_new();
    struct fault fault;
    int failed = 0, before = count_descriptors();
    for (long n = 1;; n++) {
        struct archive archive = {0};
        char name[32];
        (void)snprintf(name, sizeof name, "%ld", n);
        make_directory(&scratch, name);
        int dir = openat(scratch.fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct scratch made = {.fd = dir};
        if (old) {
            make_directory(&made, "a");
            make_file(&made, "a/f", "old", 3);
        }
        build(&archive);
        fault_arm(&fault, n, -ENOSPC);
        struct lz_detail detail = {{0}};
        int rc = lz_unpack(fault_sys(&fault), finished(&archive), dir, &ALL, NULL, NULL, &detail);
        failed += rc != 0;
        CHECK(rc == 0 || rc == -ENOSPC);
        check_file(dir, old);
        CHECK_EQ(lseek(archive.fd, 0, SEEK_SET), 0);
        CHECK_EQ(lz_unpack(lz_sys_linux(), archive.fd, dir, &ALL, NULL, NULL, NULL), 0); /* again, over what was made */
        check_tree(&made, "D ./|D a/ user.a|F a/f 7 user.a|H h>a/f|P p|L s>x|D x/|D x/y/|F x/y/z 4");
        CHECK_EQ(close(dir), 0);
        archive_free(&archive);
        CHECK_EQ(count_descriptors(), before);
        if (!fault.fired)
            break;
    }
    CHECK(failed > 30);
    scratch_free(&scratch);
}

static void failing_calls(void)
{
    every_failing_call(false);
    every_failing_call(true);
}

/* ---- asked whether to go on ---- */

static int go_on(void *ctx)
{
    int *rest = ctx;
    return (*rest)-- > 0 ? 0 : LZ_E_CANCELLED;
}

static void asked_between_entries(void)
{
    struct archive archive = {0};
    for (int i = 0; i < 200; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%d", i);
        if (i % 2 == 0)
            put_directory(&archive, name);
        else
            put_file(&archive, name, "content");
    }
    (void)finished(&archive);
    for (int wanted = 0; wanted <= 4; wanted++) { /* 200 entries, and 100 directories once more */
        struct scratch scratch = scratch_new();
        int rest = wanted, descriptors = count_descriptors();
        struct lz_step step = {.ask = go_on, .ctx = &rest};
        CHECK_EQ(lseek(archive.fd, 0, SEEK_SET), 0);
        CHECK_EQ(lz_unpack(lz_sys_linux(), archive.fd, scratch.fd, &ALL, &step, NULL, NULL),
                 wanted < 4 ? LZ_E_CANCELLED : 0);
        CHECK_EQ(rest, wanted < 4 ? -1 : 0);
        CHECK_EQ(count_descriptors(), descriptors);
        int expected = wanted < 3 ? (int)LZ_STEP_NAMES * (wanted + 1) : 200, found = 0;
        for (int i = 0; i < 200; i++) {
            char name[32];
            (void)snprintf(name, sizeof name, "%d", i);
            found += faccessat(scratch.fd, name, F_OK, 0) == 0;
        }
        CHECK_EQ(found, expected);
        scratch_free(&scratch);
    }
    archive_free(&archive);
}

/* A large one, of which there is always more to read. */
static void asked_within_a_file(void)
{
    struct scratch scratch = scratch_new();
    struct lz_tar_entry entry = {.type = LZ_TAR_FILE, .size = 130 << 20, .stored_size = 130 << 20};
    struct archive archive = {0};
    put(&archive, entry, "f", NULL);
    (void)finished(&archive);
    CHECK_EQ(ftruncate(archive.fd, 132 << 20), 0);
    for (int wanted = 0; wanted <= 1; wanted++) {
        int rest = wanted, descriptors = count_descriptors();
        struct lz_step step = {.ask = go_on, .ctx = &rest};
        CHECK_EQ(lseek(archive.fd, 0, SEEK_SET), 0);
        CHECK_EQ(lz_unpack(lz_sys_linux(), archive.fd, scratch.fd, &ALL, &step, NULL, NULL), LZ_E_CANCELLED);
        CHECK_EQ(rest, -1);
        off_t at = lseek(archive.fd, 0, SEEK_CUR);
        CHECK_EQ(at, (off_t)LZ_STEP_BYTES * (wanted + 1));
        CHECK_EQ(count_descriptors(), descriptors);
        check_tree(&scratch, "D ./");
    }
    archive_free(&archive);
    scratch_free(&scratch);
}

static void pass(int number)
{
    (void)number;
}

/* Calls end with EINTR from now on, or no more. */
static void interrupt_often(bool often)
{
    struct sigaction action = {.sa_handler = pass};
    struct itimerval timer = {.it_interval.tv_usec = often ? 5000 : 0, .it_value.tv_usec = often ? 5000 : 0};
    CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
    CHECK_EQ(setitimer(ITIMER_REAL, &timer, NULL), 0);
}

struct waiting {
    const struct archive *archive;
    int fd, dir, asked;
    bool to_its_end;
};

/* The first part of the file is there: sends the second one, and is asked again. Then sends the rest, or ends it. */
static int feed(void *ctx)
{
    struct waiting *self = ctx;
    struct stat info;
    CHECK_EQ(fstatat(self->dir, "new", &info, 0), 0);
    CHECK_EQ(info.st_size, 2 + self->asked);
    const uint8_t *next = self->archive->bytes.data + LZ_TAR_BLOCK + 2 + self->asked;
    size_t left = self->archive->bytes.size - LZ_TAR_BLOCK - 2 - (size_t)self->asked;
    if (self->asked++ == 1 && !self->to_its_end)
        return LZ_E_CANCELLED;
    size_t size = self->asked == 1 ? 1 : left;
    CHECK_EQ(write(self->fd, next, size), size);
    if (self->asked == 2)
        CHECK_EQ(close(self->fd), 0);
    return 0;
}

/* Nobody sends the rest of the file: it is asked when a signal comes, and soon when one came just before. */
static void asked_while_it_waits(void)
{
    struct archive archive = {0};
    put(&archive, (struct lz_tar_entry){.type = LZ_TAR_FILE, .mtime = 5}, "new", "four");
    (void)finished(&archive);
    for (int i = 0; i < 4; i++) {
        struct scratch scratch = scratch_new();
        int ends[2];
        CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
        struct waiting waiting = {.archive = &archive, .fd = ends[1], .dir = scratch.fd, .to_its_end = i % 2 == 1};
        struct lz_step step = {.ask = feed, .ctx = &waiting};
        int descriptors = count_descriptors();
        CHECK_EQ(write(ends[1], archive.bytes.data, LZ_TAR_BLOCK + 2), LZ_TAR_BLOCK + 2);
        interrupt_often(i < 2);
        if (waiting.to_its_end) {
            CHECK_EQ(lz_unpack(lz_sys_linux(), ends[0], scratch.fd, &ALL, &step, NULL, NULL), 0);
        } else {
            CHECK_EQ(lz_unpack(lz_sys_linux(), ends[0], scratch.fd, &ALL, &step, NULL, NULL), LZ_E_CANCELLED);
        }
        interrupt_often(false);
        CHECK_EQ(count_descriptors(), descriptors - waiting.to_its_end);
        CHECK_EQ(waiting.asked, 2);
        check_tree(&scratch, waiting.to_its_end ? "D ./|F new 4" : "D ./");
        CHECK_EQ(close(ends[0]), 0);
        if (!waiting.to_its_end)
            CHECK_EQ(close(ends[1]), 0);
        scratch_free(&scratch);
    }
    archive_free(&archive);
}

int main(void)
{
    RUN(cut_off);
    RUN(replaced_meanwhile);
    RUN(failing_calls);
    RUN(asked_between_entries);
    RUN(asked_within_a_file);
    RUN(asked_while_it_waits);
    return check_end();
}
