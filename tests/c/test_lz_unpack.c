/* Unpack: what an archive makes, and what an evil one must not make. */
#include <pthread.h>
#include <stdatomic.h>

#include "unpack_fixture.h"

static const struct lz_unpack_options CAREFUL = {.keep_owner = true, .keep_xattrs = true, .no_replace_directory = true};

static void unpack_all(struct archive *archive, const struct scratch *scratch, uint64_t expected)
{
    uint64_t entries = 0;
    struct lz_detail detail = {{0}};
    int rc = lz_unpack(lz_sys_linux(), finished(archive), scratch->fd, &ALL, NULL, &entries, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    CHECK_EQ(entries, expected);
    archive_free(archive);
}

static void refuse(struct archive *archive, const struct scratch *scratch, const struct lz_unpack_options *options,
                   int code, const char *text)
{
    uint64_t entries = 99;
    struct lz_detail detail = {{0}};
    int before = count_descriptors();
    CHECK_EQ(lz_unpack(lz_sys_linux(), finished(archive), scratch->fd, options, NULL, &entries, &detail), code);
    if (strstr(detail.text, text) == NULL)
        CHECK_STR(detail.text, text);
    CHECK_EQ(entries, 99);
    CHECK_EQ(count_descriptors(), before + 1);
    archive_free(archive);
}

static struct stat info_of(const struct scratch *scratch, const char *path)
{
    struct stat info;
    CHECK_EQ(fstatat(scratch->fd, path, &info, AT_SYMLINK_NOFOLLOW), 0);
    return info;
}

/* ---- what an archive makes ---- */

static void every_type(void)
{
    struct scratch scratch = scratch_new();
    struct archive archive = {0};
    static const struct lz_tar_xattr xattrs[] = {{"user.a", 6, (const uint8_t *)"1", 1}};
    put(&archive, (struct lz_tar_entry){.type = LZ_TAR_DIRECTORY, .mode = 0711, .mtime = 3}, ".", NULL);
    put(&archive,
        (struct lz_tar_entry){.type = LZ_TAR_DIRECTORY,
                              .mode = 0500,
                              .uid = 4,
                              .mtime = 7,
                              .mtime_nsec = 9,
                              .xattrs = xattrs,
                              .xattr_count = 1},
        "d", NULL);
    put(&archive,
        (struct lz_tar_entry){.type = LZ_TAR_FILE,
                              .mode = 06755,
                              .uid = 1000,
                              .gid = 70000,
                              .mtime = -5,
                              .mtime_nsec = 999999999,
                              .xattrs = xattrs,
                              .xattr_count = 1},
        "d/f", "content");
    put_link(&archive, LZ_TAR_HARDLINK, "h", "d/f");
    put_link(&archive, LZ_TAR_SYMLINK, "s", "/etc/passwd");
    put(&archive, (struct lz_tar_entry){.type = LZ_TAR_CHAR, .mode = 0666, .major = 1, .minor = 3}, "c", NULL);
    put(&archive, (struct lz_tar_entry){.type = LZ_TAR_BLOCK_DEVICE, .mode = 0660, .major = 259, .minor = 70000}, "b",
        NULL);
    put(&archive, (struct lz_tar_entry){.type = LZ_TAR_FIFO, .mode = 0622}, "p", NULL);
    put_file(&archive, "not/listed/file", "");
    unpack_all(&archive, &scratch, 9);
    check_tree(&scratch, "D ./|B b|C c|D d/ user.a|F d/f 7 user.a|H h>d/f|D not/|D not/listed/|F not/listed/file 0|"
                         "P p|L s>/etc/passwd");
    struct stat info = info_of(&scratch, "d/f");
    CHECK_EQ(info.st_mode & 07777, 06755);
    CHECK_EQ(info.st_uid, 1000);
    CHECK_EQ(info.st_gid, 70000);
    CHECK_EQ(info.st_mtim.tv_sec, -5);
    CHECK_EQ(info.st_mtim.tv_nsec, 999999999);
    info = info_of(&scratch, "d");
    CHECK_EQ(info.st_mode & 07777, 0500);
    CHECK_EQ(info.st_uid, 4);
    CHECK_EQ(info.st_mtim.tv_sec, 7);
    CHECK_EQ(info.st_mtim.tv_nsec, 9);
    CHECK_EQ(info_of(&scratch, "b").st_rdev, makedev(259, 70000));
    CHECK_EQ(info_of(&scratch, "p").st_mode & 07777, 0622);
    CHECK_EQ(info_of(&scratch, ".").st_mode & 07777, 0711);
    CHECK_EQ(info_of(&scratch, ".").st_mtim.tv_sec, 3);
    scratch_free(&scratch);
}

static void sparse(void)
{
    struct scratch scratch = scratch_new();
    struct archive archive = {0};
    static const struct lz_tar_extent extents[] = {{0, 2}, {1 << 20, 3}};
    static const struct lz_tar_extent hole[] = {{0, 0}};
    put(&archive,
        (struct lz_tar_entry){
            .type = LZ_TAR_FILE, .size = 2 << 20, .stored_size = 5, .extents = extents, .extent_count = 2},
        "s", "abcde");
    put(&archive, (struct lz_tar_entry){.type = LZ_TAR_FILE, .size = 9999, .extents = hole, .extent_count = 0}, "hole",
        NULL);
    unpack_all(&archive, &scratch, 2);
    struct stat info = info_of(&scratch, "s");
    CHECK_EQ(info.st_size, 2 << 20);
    CHECK(info.st_blocks * 512 < 1 << 20);
    char bytes[5] = "";
    int fd = openat(scratch.fd, "s", O_RDONLY | O_CLOEXEC);
    CHECK_EQ(pread(fd, bytes, 2, 0), 2);
    CHECK_EQ(pread(fd, bytes + 2, 3, 1 << 20), 3);
    CHECK_EQ(memcmp(bytes, "abcde", 5), 0);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(info_of(&scratch, "hole").st_size, 9999);
    scratch_free(&scratch);
}

static void replacing(void)
{
    struct scratch scratch = scratch_new();
    struct archive archive = {0};
    make_directory(&scratch, "kept");
    make_file(&scratch, "kept/inside", "x", 1);
    make_directory(&scratch, "empty");
    make_file(&scratch, "file", "old", 3);
    CHECK_EQ(linkat(scratch.fd, "file", scratch.fd, "other name", 0), 0);
    CHECK_EQ(symlinkat("kept", scratch.fd, "link"), 0);
    put_directory(&archive, "kept");
    put_file(&archive, "file", "newer");
    put_directory(&archive, "link");
    put_file(&archive, "link/in", "in");
    put_file(&archive, "empty", "no directory");
    put_file(&archive, "twice", "1");
    put_link(&archive, LZ_TAR_SYMLINK, "twice", "2");
    put_link(&archive, LZ_TAR_HARDLINK, "twice", "file");
    put_link(&archive, LZ_TAR_HARDLINK, "twice", "file"); /* already so */
    put_link(&archive, LZ_TAR_HARDLINK, "file", "file");  /* itself */
    unpack_all(&archive, &scratch, 10);
    check_tree(&scratch, "D ./|F empty 12|F file 5|D kept/|F kept/inside 1|D link/|F link/in 2|F other name 3|"
                         "H twice>file");
    scratch_free(&scratch);
}

static void never_between_directory_and_file(void)
{
    struct scratch scratch = scratch_new();
    struct archive archive = {0};
    make_directory(&scratch, "d");
    make_file(&scratch, "f", "x", 1);
    put_directory(&archive, "f");
    refuse(&archive, &scratch, &CAREFUL, -ENOTDIR, "f: making the directory");
    put_file(&archive, "d", "x");
    refuse(&archive, &scratch, &CAREFUL, -EISDIR, "d: making the file");
    put_link(&archive, LZ_TAR_SYMLINK, "d", "x");
    refuse(&archive, &scratch, &CAREFUL, -EISDIR, "d: ");
    put_link(&archive, LZ_TAR_HARDLINK, "d", "f");
    refuse(&archive, &scratch, &CAREFUL, -EISDIR, "d: hard link to f");
    put_link(&archive, LZ_TAR_HARDLINK, "f", "d"); /* what cannot be takes nothing away */
    refuse(&archive, &scratch, &ALL, -EPERM, "f: hard link to d");
    CHECK_EQ(faccessat(scratch.fd, "f", F_OK, 0), 0);
    make_file(&scratch, "d/x", "x", 1);
    put_file(&archive, "d", "x");
    refuse(&archive, &scratch, &ALL, -ENOTEMPTY, "d: making the file"); /* only empty ones go */
    put_file(&archive, "f", "y");
    put_directory(&archive, "d");
    unpack_all(&archive, &scratch, 2);
    scratch_free(&scratch);
}

static void attributes_of_the_later_entry(void)
{
    struct scratch scratch = scratch_new();
    struct archive archive = {0};
    put(&archive, (struct lz_tar_entry){.type = LZ_TAR_DIRECTORY, .mode = 0700, .mtime = 1}, "a", NULL);
    put_directory(&archive, "a/b");
    put(&archive, (struct lz_tar_entry){.type = LZ_TAR_DIRECTORY, .mode = 0755, .mtime = 2}, "a/", NULL);
    put_file(&archive, "a/f", "");
    put_directory(&archive, "was");
    put_link(&archive, LZ_TAR_SYMLINK, "was", "a");
    unpack_all(&archive, &scratch, 6);
    CHECK_EQ(info_of(&scratch, "a").st_mode & 07777, 0755);
    CHECK_EQ(info_of(&scratch, "a").st_mtim.tv_sec, 2);
    CHECK_EQ(info_of(&scratch, "a/b").st_mtim.tv_sec, 7);
    scratch_free(&scratch);
}

/* ---- what an evil archive must not make ---- */

static void evil_names(void)
{
    struct scratch outside = scratch_new(), scratch = scratch_new();
    struct archive archive = {0};
    char path[200], target[200];
    (void)snprintf(path, sizeof path, "%s/made", outside.path);
    put_file(&archive, path, "x");
    unpack_all(&archive, &scratch, 1); /* an absolute name lies below the target, as with every tar */
    CHECK_EQ(faccessat(outside.fd, "made", F_OK, 0), -1);
    CHECK_EQ(faccessat(scratch.fd, path + 1, F_OK, 0), 0);

    put_file(&archive, "../made", "x");
    refuse(&archive, &scratch, &ALL, LZ_E_UNSAFE, "'..' component");
    put_file(&archive, "a/../../made", "x");
    refuse(&archive, &scratch, &ALL, LZ_E_UNSAFE, "'..' component");

    put_link(&archive, LZ_TAR_SYMLINK, "way", outside.path);
    put_file(&archive, "way/made", "x");
    refuse(&archive, &scratch, &ALL, LZ_E_UNSAFE, "way/made: a parent directory is a symlink");
    put_link(&archive, LZ_TAR_SYMLINK, "inner", "var");
    put_directory(&archive, "inner/made");
    refuse(&archive, &scratch, &ALL, LZ_E_UNSAFE, "a parent directory is a symlink");
    put_file(&archive, "way/missing/made", "x");
    refuse(&archive, &scratch, &ALL, LZ_E_UNSAFE, "a parent directory is a symlink");

    make_file(&outside, "secret", "secret", 6);
    put_link(&archive, LZ_TAR_HARDLINK, "stolen", "way/secret");
    refuse(&archive, &scratch, &ALL, LZ_E_UNSAFE, "stolen: hard link to way/secret, which lies behind a symlink");
    (void)snprintf(target, sizeof target, "../%s/secret", strrchr(outside.path, '/') + 1);
    put_link(&archive, LZ_TAR_HARDLINK, "stolen", target);
    refuse(&archive, &scratch, &ALL, LZ_E_UNSAFE, "stolen: hard link: path");
    (void)snprintf(target, sizeof target, "%s/secret", outside.path);
    put_link(&archive, LZ_TAR_HARDLINK, "stolen", target);
    refuse(&archive, &scratch, &ALL, -ENOENT, "stolen: hard link to");
    put_link(&archive, LZ_TAR_HARDLINK, "stolen", ".");
    refuse(&archive, &scratch, &ALL, LZ_E_FORMAT, "stolen: hard link to the root");
    put_link(&archive, LZ_TAR_HARDLINK, "stolen", "way"); /* of the symlink itself */
    put_file(&archive, "way", "a file now");
    unpack_all(&archive, &scratch, 2);
    CHECK(S_ISLNK(info_of(&scratch, "stolen").st_mode));
    CHECK_EQ(info_of(&outside, "secret").st_size, 6);
    CHECK_EQ(info_of(&outside, "secret").st_nlink, 1);
    scratch_free(&scratch);
    scratch_free(&outside);
}

static void evil_contents(void)
{
    struct scratch scratch = scratch_new();
    struct archive archive = {0};
    static const struct lz_tar_xattr marks[] = {{"trusted.overlay.opaque", 22, (const uint8_t *)"y", 1},
                                                {"user.overlay.redirect", 21, (const uint8_t *)"/", 1}};
    for (size_t i = 0; i < 2; i++) {
        struct lz_tar_entry entry = {.type = LZ_TAR_DIRECTORY, .xattrs = &marks[i], .xattr_count = 1};
        put(&archive, entry, "d", NULL);
        refuse(&archive, &scratch, &ALL, LZ_E_UNSAFE, "which is overlayfs' own");
        put(&archive, entry, "d", NULL);
        struct lz_unpack_options options = {.keep_owner = true};
        CHECK_EQ(lz_unpack(lz_sys_linux(), finished(&archive), scratch.fd, &options, NULL, NULL, NULL), 0);
        archive_free(&archive);
    }
    put_file(&archive, ".", "x");
    refuse(&archive, &scratch, &ALL, LZ_E_FORMAT, "the root of the archive is not a directory");
    put_file(&archive, "f", "x");
    put_file(&archive, "f/x", "x");
    refuse(&archive, &scratch, &ALL, -ENOTDIR, "f/x: opening the parent directory");

    scratch_free(&scratch);
}

/* Somebody swaps a directory with a symlink that leads out, all the time. */
struct swapper {
    const struct scratch *scratch;
    atomic_bool stop;
    long swaps;
};

static void *swap_always(void *argument)
{
    struct swapper *swapper = argument;
    while (!atomic_load(&swapper->stop)) {
        (void)renameat2(swapper->scratch->fd, "d", swapper->scratch->fd, "evil", RENAME_EXCHANGE);
        swapper->swaps++;
    }
    return NULL;
}

static void swapped_meanwhile(void)
{
    struct scratch outside = scratch_new(), scratch = scratch_new();
    struct swapper swapper = {.scratch = &scratch};
    struct stat before = info_of(&outside, ".");
    pthread_t thread;
    make_directory(&scratch, "d");
    CHECK_EQ(symlinkat(outside.path, scratch.fd, "evil"), 0);
    CHECK_EQ(pthread_create(&thread, NULL, swap_always, &swapper), 0);
    int refused = 0, made = 0;
    for (int i = 0; i < 300; i++) {
        struct archive archive = {0};
        char name[32];
        (void)snprintf(name, sizeof name, "d/%d", i);
        put_file(&archive, name, "x");
        (void)snprintf(name, sizeof name, "d/s%d", i);
        put(&archive, (struct lz_tar_entry){.type = LZ_TAR_FIFO, .mode = 0777, .uid = 77}, name, NULL);
        put(&archive, (struct lz_tar_entry){.type = LZ_TAR_FILE, .mode = 0777, .uid = 77}, "d/again", "y");
        int rc = lz_unpack(lz_sys_linux(), finished(&archive), scratch.fd, &ALL, NULL, NULL, NULL);
        CHECK(rc == 0 || rc == LZ_E_UNSAFE || rc == -EAGAIN || rc == -ENOENT);
        refused += rc == LZ_E_UNSAFE;
        made += rc == 0;
        archive_free(&archive);
    }
    atomic_store(&swapper.stop, true);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    fprintf(stderr, "    %d made, %d refused, %ld swaps\n", made, refused, swapper.swaps);
    CHECK(swapper.swaps > 0);
    CHECK_EQ(rmdir(outside.path), 0); /* still empty */
    CHECK_EQ(mkdir(outside.path, before.st_mode & 07777), 0);
    CHECK_EQ(before.st_uid, 0);
    scratch_free(&scratch);
    scratch_free(&outside);
}

int main(void)
{
    RUN(every_type);
    RUN(sparse);
    RUN(replacing);
    RUN(never_between_directory_and_file);
    RUN(attributes_of_the_later_entry);
    RUN(evil_names);
    RUN(evil_contents);
    RUN(swapped_meanwhile);
    return check_end();
}
