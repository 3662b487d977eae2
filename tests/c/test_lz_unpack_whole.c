/* Unpack: a file comes whole or not at all, whatever ends it, and what it was to replace stays until then. */
#include <dirent.h>
#include <pthread.h>

#include "unpack_fixture.h"

struct unpacking {
    int in_fd, dir_fd, rc;
};

static void *unpack_it(void *argument)
{
    struct unpacking *unpacking = argument;
    unpacking->rc = lz_unpack(lz_sys_linux(), unpacking->in_fd, unpacking->dir_fd, &ALL, NULL, NULL);
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
        CHECK_EQ(lz_unpack(lz_sys_linux(), archive.fd, scratch.fd, &ALL, NULL, NULL), LZ_E_TRUNCATED);
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
        int rc = lz_unpack(fault_sys(&fault), finished(&archive), dir, &ALL, NULL, &detail);
        failed += rc != 0;
        CHECK(rc == 0 || rc == -ENOSPC);
        check_file(dir, old);
        CHECK_EQ(lseek(archive.fd, 0, SEEK_SET), 0);
        CHECK_EQ(lz_unpack(lz_sys_linux(), archive.fd, dir, &ALL, NULL, NULL), 0); /* again, over what was made */
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

int main(void)
{
    RUN(cut_off);
    RUN(replaced_meanwhile);
    RUN(failing_calls);
    return check_end();
}
