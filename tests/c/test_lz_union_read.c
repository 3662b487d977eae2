/* Reading a union: paths, symlinks, lists, xattrs, contents, by hand. */
#include "union_fixture.h"

static struct scratch scratch;
static int objects;

/* A union of one index. */
struct one {
    struct branch_index index;
    struct lz_branch branch;
    struct lz_union *self;
};

static void open_one(struct one *one, const char *script)
{
    *one = (struct one){.index = make_index(&script, 1, 1, objects, false)};
    one->branch = index_branch(&one->index, objects);
    one->self = open_union(&one->branch, 1, -1, -1);
}

static void close_one(struct one *one)
{
    lz_union_free(one->self);
    free_index(&one->index);
}

static int stat_code(struct lz_union *self, const char *path, unsigned flags)
{
    struct lz_union_info info;
    int rc = lz_union_stat(self, path, strlen(path), flags, &info);
    return rc == 0 ? (int)info.kind : rc;
}

static void check_real(struct lz_union *self, const char *path, const char *expected)
{
    char out[LZ_PATH_MAX + 1];
    ssize_t size = lz_union_realpath(self, path, strlen(path), out);
    if (size < 0)
        fprintf(stderr, "%s: %s\n", path, lz_error_text((int)size));
    CHECK_EQ(size, strlen(expected));
    CHECK_STR(out, expected);
}

static void resolves_paths(void)
{
    struct one one;
    open_one(&one, "d a 755; d a/b 700; f a/b/c text; s a/up ..; s a/b/abs /a/b/c; s dangling nowhere/x; "
                   "s loop1 loop2; s loop2 loop1; s self self; s todir a/b/; s out ../../../etc; d etc 755; "
                   "s dot .; f etc/passwd root; p a/fifo; s a/b/rel ../b/./c; s tofile a/b/c/");
    for (int directories = 0; directories < 2; directories++) {
        int fd = -1;
        struct lz_branch branch = one.branch;
        if (directories != 0) {
            fd = make_layer_directory(&scratch, "paths",
                                      "d a 755; d a/b 700; f a/b/c text; s a/up ..; s a/b/abs /a/b/c; s dangling "
                                      "nowhere/x; s loop1 loop2; s loop2 loop1; s self self; s todir a/b/; s out "
                                      "../../../etc; d etc 755; s dot .; f etc/passwd root; p a/fifo; s a/b/rel "
                                      "../b/./c; s tofile a/b/c/",
                                      1);
            branch = directory_branch(fd, false);
        }
        struct lz_union *self = open_union(&branch, 1, -1, -1);
        CHECK_EQ(stat_code(self, "a/b/c", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "/a/b/c", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "//a///b//c", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "./a/./b/../b/c", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "..", 0), LZ_KIND_DIRECTORY);
        CHECK_EQ(stat_code(self, "../../../../a/b/c", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "/", 0), LZ_KIND_DIRECTORY);
        CHECK_EQ(stat_code(self, "", 0), -ENOENT);
        CHECK_EQ(stat_code(self, "a/b/", 0), LZ_KIND_DIRECTORY);
        CHECK_EQ(stat_code(self, "a/b/.", 0), LZ_KIND_DIRECTORY);
        CHECK_EQ(stat_code(self, "a/b/c/", 0), -ENOTDIR);
        CHECK_EQ(stat_code(self, "a/b/c/.", 0), -ENOTDIR);
        CHECK_EQ(stat_code(self, "a/b/c/..", 0), -ENOTDIR);
        CHECK_EQ(stat_code(self, "a/b/c/d", 0), -ENOTDIR);
        CHECK_EQ(stat_code(self, "a/x", 0), -ENOENT);
        CHECK_EQ(stat_code(self, "a/x/y", 0), -ENOENT);
        CHECK_EQ(stat_code(self, "a/x/..", 0), -ENOENT);
        CHECK_EQ(stat_code(self, "x", 0), -ENOENT);
        CHECK_EQ(stat_code(self, "a/fifo", 0), LZ_KIND_FIFO);
        /* symlinks */
        CHECK_EQ(stat_code(self, "todir", LZ_UNION_NOFOLLOW), LZ_KIND_SYMLINK);
        CHECK_EQ(stat_code(self, "todir", 0), LZ_KIND_DIRECTORY);
        CHECK_EQ(stat_code(self, "todir/", LZ_UNION_NOFOLLOW), LZ_KIND_DIRECTORY);
        CHECK_EQ(stat_code(self, "todir/.", LZ_UNION_NOFOLLOW), LZ_KIND_DIRECTORY);
        CHECK_EQ(stat_code(self, "todir/c", LZ_UNION_NOFOLLOW), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "todir/abs", LZ_UNION_NOFOLLOW), LZ_KIND_SYMLINK);
        CHECK_EQ(stat_code(self, "todir/abs", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "todir/rel", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "tofile", 0), -ENOTDIR);
        CHECK_EQ(stat_code(self, "out/passwd", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "dangling", 0), -ENOENT);
        CHECK_EQ(stat_code(self, "dangling", LZ_UNION_NOFOLLOW), LZ_KIND_SYMLINK);
        CHECK_EQ(stat_code(self, "loop1", 0), -ELOOP);
        CHECK_EQ(stat_code(self, "loop1/x", 0), -ELOOP);
        CHECK_EQ(stat_code(self, "self", 0), -ELOOP);
        check_real(self, "a/up/todir/../b/c", "a/b/c");
        check_real(self, "a/up/a/up/a/b", "a/b");
        check_real(self, "todir/..", "a");
        check_real(self, "todir/../..", "");
        check_real(self, "todir/../../..", "");
        check_real(self, "dot/dot/./dot/etc/new", "etc/new");
        check_real(self, "out/../a/fifo", "a/fifo");
        check_real(self, "/", "");
        check_real(self, "a/b/./../b/.", "a/b");
        lz_union_free(self);
        if (fd >= 0)
            CHECK_EQ(close(fd), 0);
    }
    close_one(&one);
}

static void bounds_names_and_paths(void)
{
    struct one one;
    open_one(&one, "d a 755; f a/b x");
    struct lz_union_info info;
    char path[5000];
    memset(path, 'n', sizeof path);
    CHECK_EQ(lz_union_stat(one.self, path, 255, 0, &info), -ENOENT);
    CHECK_EQ(lz_union_stat(one.self, path, 256, 0, &info), -ENAMETOOLONG);
    CHECK_EQ(lz_union_stat(one.self, path, 4096, 0, &info), -ENAMETOOLONG);
    CHECK_EQ(lz_union_stat(one.self, "a\0b", 3, 0, &info), -EINVAL);
    for (size_t i = 0; i < 4094; i += 2)
        memcpy(path + i, "./", 2);
    memcpy(path + 4092, "a/b", 3);
    CHECK_EQ(lz_union_stat(one.self, path, 4095, 0, &info), 0);
    memset(path, '/', 4092);
    CHECK_EQ(lz_union_stat(one.self, path, 4095, 0, &info), 0);
    CHECK_EQ(info.kind, LZ_KIND_FILE);
    close_one(&one);
}

/* 40 symlinks one behind the other are followed, 41 are not; as the kernel has it. */
static void follows_forty_symlinks(void)
{
    char script[4000] = "f l0 end";
    for (int i = 1; i <= 41; i++)
        (void)snprintf(script + strlen(script), sizeof script - strlen(script), "; s l%d l%d", i, i - 1);
    struct one one;
    open_one(&one, script);
    int fd = make_layer_directory(&scratch, "forty", script, 1);
    struct lz_branch branch = directory_branch(fd, false);
    struct lz_union *self = open_union(&branch, 1, -1, -1);
    struct stat info;
    CHECK_EQ(stat_code(one.self, "l40", 0), LZ_KIND_FILE);
    CHECK_EQ(stat_code(one.self, "l41", 0), -ELOOP);
    CHECK_EQ(stat_code(self, "l40", 0), LZ_KIND_FILE);
    CHECK_EQ(stat_code(self, "l41", 0), -ELOOP);
    CHECK_EQ(fstatat(fd, "l40", &info, 0), 0);
    CHECK(fstatat(fd, "l41", &info, 0) < 0 && errno == ELOOP);
    lz_union_free(self);
    CHECK_EQ(close(fd), 0);
    close_one(&one);
}

static void shows_what_an_index_has(void)
{
    struct one one;
    open_one(&one, "d a 750; f a/inline text; @ a/object bytes; f a/empty; s a/link inline; h a/hard a/inline; "
                   "d a/sub 755; p pipe");
    char *text = dump_union(one.self);
    check_same_text(text,
                    "D . 755 0:0 0\n"
                    "D a 750 1:1 1000001 user.layer=1\n"
                    "F a/empty 644 1:1 1000001 = user.layer=1\n"
                    "F a/hard 644 1:1 1000001 =text user.layer=1\n"
                    "F a/inline 644 1:1 1000001 =text user.layer=1\n"
                    "S a/link 777 1:1 1000001 >inline\n"
                    "F a/object 644 1:1 1000001 =bytes user.layer=1\n"
                    "D a/sub 755 1:1 1000001 user.layer=1\n"
                    "P pipe 644 1:1 1000001\n",
                    "one index");
    free(text);
    struct lz_union_info hard, file;
    CHECK_EQ(lz_union_stat(one.self, "a/hard", 6, 0, &hard), 0);
    CHECK_EQ(lz_union_stat(one.self, "a/inline", 8, 0, &file), 0);
    CHECK(hard.device == file.device && hard.number == file.number);
    CHECK_EQ(hard.link_count, 2);
    CHECK(file.has_digest && memcmp(file.digest, hard.digest, 32) == 0);
    CHECK_EQ(file.data_entry, file.entry);
    close_one(&one);
}

static void answers_xattr_calls(void)
{
    struct one one;
    open_one(&one, "d a 755; f a/b x; s l a/b");
    int fd = make_layer_directory(&scratch, "xattrs", "d a 755; f a/b x; s l a/b", 1);
    set_xattr(&scratch, "xattrs/a/b", "trusted.overlay.overlay.opaque", "data");
    set_xattr(&scratch, "xattrs/a/b", "trusted.overlay.origin", "private");
    struct lz_branch branch = directory_branch(fd, true);
    struct lz_union *unions[2] = {open_union(&one.branch, 1, -1, -1), open_union(&branch, 1, -1, -1)};
    char out[100];
    for (int i = 0; i < 2; i++) {
        struct lz_union *self = unions[i];
        CHECK_EQ(lz_union_getxattr(self, "l", 1, 0, "user.layer", out, sizeof out), 1);
        CHECK_EQ(out[0], '1');
        CHECK_EQ(lz_union_getxattr(self, "l", 1, LZ_UNION_NOFOLLOW, "user.layer", out, sizeof out), -ENODATA);
        CHECK_EQ(lz_union_getxattr(self, "a/b", 3, 0, "user.layer", NULL, 0), 1);
        CHECK_EQ(lz_union_getxattr(self, "a/b", 3, 0, "user.none", out, sizeof out), -ENODATA);
        CHECK_EQ(lz_union_getxattr(self, "a/b", 3, 0, "nothing", out, sizeof out), -EOPNOTSUPP);
        CHECK_EQ(lz_union_getxattr(self, "a/b", 3, 0, "", out, sizeof out), -ERANGE);
        CHECK_EQ(lz_union_getxattr(self, "a/x", 3, 0, "user.layer", out, sizeof out), -ENOENT);
        CHECK_EQ(lz_union_listxattr(self, "a", 1, 0, NULL, 0), 11);
        CHECK_EQ(lz_union_listxattr(self, "a", 1, 0, out, 10), -ERANGE);
        CHECK_EQ(lz_union_listxattr(self, "a", 1, 0, out, 11), 11);
        CHECK_STR(out, "user.layer");
        CHECK_EQ(lz_union_listxattr(self, "l", 1, LZ_UNION_NOFOLLOW, out, sizeof out), 0);
        CHECK_EQ(lz_union_readlink(self, "a/b", 3, out, sizeof out), -EINVAL);
        CHECK_EQ(lz_union_readlink(self, "l", 1, out, 2), 3);
    }
    CHECK_EQ(lz_union_getxattr(unions[1], "a/b", 3, 0, "trusted.overlay.opaque", out, sizeof out), 4);
    CHECK_EQ(memcmp(out, "data", 4), 0);
    CHECK_EQ(lz_union_getxattr(unions[1], "a/b", 3, 0, "trusted.overlay.origin", out, sizeof out), -ENODATA);
    CHECK_EQ(lz_union_listxattr(unions[1], "a/b", 3, 0, out, sizeof out), 11 + 23);
    lz_union_free(unions[0]);
    lz_union_free(unions[1]);
    CHECK_EQ(close(fd), 0);
    close_one(&one);
}

static int open_code(struct lz_union *self, const char *path, int flags)
{
    struct lz_union_file *file;
    int rc = lz_union_open(self, path, strlen(path), flags, 0644, &file, NULL);
    if (rc == 0)
        lz_union_file_close(file);
    return rc;
}

static void opens_as_a_read_only_file_system(void)
{
    struct one one;
    open_one(&one, "d d 755; f f text; s l f; s dangling x; p p");
    struct lz_union *self = one.self;
    CHECK_EQ(open_code(self, "f", O_RDONLY), 0);
    CHECK_EQ(open_code(self, "f", O_RDONLY | O_CREAT), 0);
    CHECK_EQ(open_code(self, "f", O_RDONLY | O_CREAT | O_EXCL), -EEXIST);
    CHECK_EQ(open_code(self, "f", O_RDWR), -EROFS);
    CHECK_EQ(open_code(self, "f", O_WRONLY | O_APPEND), -EROFS);
    CHECK_EQ(open_code(self, "f", O_RDONLY | O_TRUNC), -EROFS);
    CHECK_EQ(open_code(self, "f", O_RDONLY | O_DIRECTORY), -ENOTDIR);
    CHECK_EQ(open_code(self, "f/", O_RDONLY), -ENOTDIR);
    CHECK_EQ(open_code(self, "x", O_RDONLY), -ENOENT);
    CHECK_EQ(open_code(self, "x", O_RDWR | O_CREAT), -EROFS);
    CHECK_EQ(open_code(self, "x/y", O_RDWR | O_CREAT), -ENOENT);
    CHECK_EQ(open_code(self, "d", O_RDONLY | O_DIRECTORY), 0);
    CHECK_EQ(open_code(self, "d", O_RDWR), -EISDIR);
    CHECK_EQ(open_code(self, "l", O_RDONLY), 0);
    CHECK_EQ(open_code(self, "l", O_RDONLY | O_NOFOLLOW), -ELOOP);
    CHECK_EQ(open_code(self, "dangling", O_RDONLY), -ENOENT);
    CHECK_EQ(open_code(self, "dangling", O_RDONLY | O_CREAT | O_EXCL), -EEXIST);
    CHECK_EQ(open_code(self, "p", O_RDONLY), -ENXIO);
    CHECK_EQ(open_code(self, "f", O_PATH), -EINVAL);
    struct lz_union_file *file;
    struct lz_union_info info;
    char bytes[10];
    CHECK_EQ(lz_union_open(self, "f", 1, O_RDONLY, 0, &file, NULL), 0);
    CHECK_EQ(lz_union_file_read(file, bytes, sizeof bytes, 1), 3);
    CHECK_EQ(memcmp(bytes, "ext", 3), 0);
    CHECK_EQ(lz_union_file_read(file, bytes, 2, 1), 2);
    CHECK_EQ(lz_union_file_read(file, bytes, 2, 4), 0);
    CHECK_EQ(lz_union_file_read(file, bytes, 2, UINT64_MAX), -EINVAL);
    CHECK_EQ(lz_union_file_seek(file, 1, SEEK_DATA), 1);
    CHECK_EQ(lz_union_file_seek(file, 1, SEEK_HOLE), 4);
    CHECK_EQ(lz_union_file_seek(file, 4, SEEK_DATA), -ENXIO);
    CHECK_EQ(lz_union_file_seek(file, 0, SEEK_SET), -EINVAL);
    CHECK_EQ(lz_union_file_stat(file, &info), 0);
    CHECK_EQ(info.size, 4);
    CHECK_EQ(lz_union_file_sync(file), 0);
    lz_union_file_close(file);
    CHECK_EQ(lz_union_open(self, "d", 1, O_RDONLY, 0, &file, NULL), 0);
    CHECK_EQ(lz_union_file_read(file, bytes, 1, 0), -EISDIR);
    CHECK_EQ(lz_union_file_stat(file, &info), 0);
    CHECK_EQ(info.kind, LZ_KIND_DIRECTORY);
    CHECK_EQ(lz_union_file_sync(file), 0);
    lz_union_file_close(file);
    close_one(&one);
}

static void names_a_missing_object(void)
{
    struct one one;
    open_one(&one, "d d 755; @ d/gone lost-bytes; @ d/short shortened");
    struct lz_union_file *file;
    struct lz_detail detail = {{0}};
    for (uint32_t i = 0; i < one.index.merged.index.entry_count; i++) {
        const struct lz_entry *entry = &one.index.merged.index.entries[i];
        char hex[65], name[80];
        if ((entry->flags & LZ_FLAG_OBJECT) == 0)
            continue;
        lz_hex(entry->digest, hex);
        (void)snprintf(name, sizeof name, "%.2s/%s", hex, hex + 2);
        if (strcmp(lz_index_path(&one.index.merged.index, i), "d/gone") == 0)
            CHECK_EQ(unlinkat(objects, name, 0), 0);
        else {
            int fd = openat(objects, name, O_WRONLY | O_TRUNC | O_CLOEXEC);
            CHECK(fd >= 0);
            CHECK_EQ(write(fd, "short", 5), 5);
            CHECK_EQ(close(fd), 0);
        }
    }
    CHECK_EQ(lz_union_open(one.self, "d/gone", 6, O_RDONLY, 0, &file, &detail), -ENOENT);
    CHECK(strstr(detail.text, "/d/gone: object sha256:") != NULL);
    CHECK_EQ(lz_union_open(one.self, "d/short", 7, O_RDONLY, 0, &file, &detail), LZ_E_CORRUPT);
    CHECK(strstr(detail.text, "/d/short: its object has 5 bytes, expected 9") != NULL);
    close_one(&one);
}

/* a/a leads to a/b of the branch below. What is remembered of a/b there was once taken for what is known of a/a: two short
 * paths differed by as much as the numbers of their branches did in the seed, for one seed in four. */
static void remembers_directories_of_one_branch(void)
{
    make_directory(&scratch, "top");
    make_directory(&scratch, "top/a");
    make_directory(&scratch, "top/a/a");
    make_directory(&scratch, "low");
    make_directory(&scratch, "low/a");
    make_directory(&scratch, "low/a/b");
    make_file(&scratch, "low/a/b/f", "f", 1);
    struct lz_branch branches[2];
    const char *names[2] = {"top", "low"};
    for (size_t i = 0; i < 2; i++)
        branches[i] = directory_branch(openat(scratch.fd, names[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC), true);
    int renamed = openat(branches[0].fd, "a/a", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_EQ(fsetxattr(renamed, "user.overlay.redirect", "b", 1, 0), 0);
    CHECK_EQ(close(renamed), 0);
    struct lz_union_options options = {
        .lowers = branches, .lower_count = 2, .upper_fd = -1, .work_fd = -1, .user_xattr = true};
    for (uint64_t seed = 0; seed < 16; seed++) {
        struct lz_union *self;
        CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, NULL), 0);
        self->seed = seed;
        CHECK_EQ(stat_code(self, "a/a/f", 0), LZ_KIND_FILE);
        CHECK_EQ(stat_code(self, "a/a/f", 0), LZ_KIND_FILE);
        lz_union_free(self);
    }
    CHECK_EQ(close(branches[0].fd) | close(branches[1].fd), 0);
}

static void refuses_what_is_no_union(void)
{
    struct lz_union *self;
    struct lz_detail detail = {{0}};
    int file = memfd_create("file", MFD_CLOEXEC);
    struct lz_branch branch = directory_branch(file, true);
    struct lz_union_options options = {.lowers = &branch, .lower_count = 1, .upper_fd = -1, .work_fd = -1};
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), -ENOTDIR);
    CHECK_STR(detail.text, "union: branch 0: Not a directory");
    branch.fd = -1;
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), -EBADF);
    branch.kind = LZ_BRANCH_INDEX;
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), -EINVAL);
    options.lower_count = 0;
    options.upper_fd = scratch.fd;
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), -EINVAL);
    options.work_fd = scratch.fd;
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), -EINVAL);
    CHECK_STR(detail.text, "union: upper and work directory are the same");
    options.work_fd = open("/proc", O_PATH | O_CLOEXEC);
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), -EXDEV);
    CHECK_EQ(close(options.work_fd), 0);
    options.upper_fd = options.work_fd = -1;
    options.block_size = 5000;
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), -EINVAL);
    options.block_size = 0;
    options.rung = LZ_RUNG_COUNT;
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), -EINVAL);
    options.rung = LZ_RUNG_AUTO;
    CHECK_EQ(lz_union_new(lz_sys_linux(), &options, &self, &detail), 0);
    CHECK_EQ(stat_code(self, "/", 0), LZ_KIND_DIRECTORY);
    CHECK_EQ(stat_code(self, "x", 0), -ENOENT);
    lz_union_free(self);
    CHECK_EQ(close(file), 0);
}

int main(void)
{
    scratch = scratch_new();
    make_directory(&scratch, "objects");
    objects = openat(scratch.fd, "objects", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    RUN(resolves_paths);
    RUN(bounds_names_and_paths);
    RUN(follows_forty_symlinks);
    RUN(shows_what_an_index_has);
    RUN(answers_xattr_calls);
    RUN(opens_as_a_read_only_file_system);
    RUN(names_a_missing_object);
    RUN(remembers_directories_of_one_branch);
    RUN(refuses_what_is_no_union);
    CHECK_EQ(close(objects), 0);
    scratch_free(&scratch);
    return check_end();
}
