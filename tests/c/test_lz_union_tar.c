/* A union as a tar is the tar of the same directory; that tar into a union, and out again, is the same tar. */
#include <linux/fs.h>

#include "tree_fixture.h"

#include "tree/lz_diff.h"
#include "tree/lz_union_tar.h"

static const struct lz_unpack_options ALL = {.keep_owner = true, .keep_xattrs = true};

static struct lz_union *open_union(const struct lz_sys *sys, const struct scratch *lower, const struct scratch *upper,
                                   const struct scratch *work)
{
    struct lz_branch branch = {.kind = LZ_BRANCH_DIRECTORY, .fd = lower != NULL ? lower->fd : -1};
    struct lz_union_options options = {.lowers = &branch,
                                       .lower_count = lower != NULL ? 1 : 0,
                                       .upper_fd = upper != NULL ? upper->fd : -1,
                                       .work_fd = work != NULL ? work->fd : -1};
    struct lz_union *self = NULL;
    CHECK_EQ(lz_union_new(sys, &options, &self, NULL), 0);
    return self;
}

static int new_output(void)
{
    int fd = memfd_create("archive", MFD_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void check_same(int a, int b)
{
    struct lz_buf left = read_whole(a), right = read_whole(b);
    CHECK_EQ(left.size, right.size);
    CHECK(memcmp(left.data, right.data, left.size) == 0);
    lz_buf_free(&left);
    lz_buf_free(&right);
}

/* One of each kind, links, holes, xattrs, an odd name; times that do not move any more. */
static void fill(const struct scratch *scratch)
{
    static const struct timespec times[2] = {{.tv_sec = 5, .tv_nsec = 6}, {.tv_sec = 5, .tv_nsec = 6}};
    static const char *const names[] = {"a",       "a/b",    "a/b/file", "a/again",  "a/empty",
                                        "a/holes", "a/link", "a/pipe",   "new\nline"};
    make_directory(scratch, "a");
    make_directory(scratch, "a/b");
    make_file(scratch, "a/b/file", "hello", 5);
    CHECK_EQ(linkat(scratch->fd, "a/b/file", scratch->fd, "a/again", 0), 0);
    make_file(scratch, "a/empty", "", 0);
    make_file(scratch, "new\nline", "x", 1);
    make_file(scratch, "a/holes", "begin", 5);
    int fd = openat(scratch->fd, "a/holes", O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(pwrite(fd, "end", 3, 1 << 20), 3);
    CHECK_EQ(ftruncate(fd, 3 << 20), 0);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(symlinkat("../nowhere", scratch->fd, "a/link"), 0);
    CHECK_EQ(mkfifoat(scratch->fd, "a/pipe", 0600), 0);
    set_xattr(scratch, "a/empty", "user.note", "one");
    set_xattr(scratch, "a/b", "user.note", "two");
    CHECK_EQ(fchmodat(scratch->fd, "a/b", 01751, 0), 0);
    for (size_t i = sizeof names / sizeof *names; i-- > 0;)
        CHECK_EQ(utimensat(scratch->fd, names[i], times, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_EQ(utimensat(scratch->fd, ".", times, 0), 0);
}

static void pack_is_that_of_the_directory(void)
{
    struct scratch lower = scratch_new();
    fill(&lower);
    struct lz_union *self = open_union(lz_sys_linux(), &lower, NULL, NULL);
    static const struct {
        const char *path, *name;
    } parts[] = {{"/", NULL}, {"a", NULL}, {"a/b", "renamed"}, {"a/holes", "holes"}, {"a/link", "link"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        int ours = new_output(), theirs = new_output();
        uint64_t size = 0, expected = 0;
        int source = openat(lower.fd, i == 0 ? "." : parts[i].path, i < 3 ? O_RDONLY : O_PATH | O_NOFOLLOW);
        CHECK(source >= 0);
        CHECK_EQ(lz_union_pack(self, parts[i].path, strlen(parts[i].path), LZ_UNION_NOFOLLOW, parts[i].name, NULL, ours,
                               &size, NULL),
                 0);
        CHECK_EQ(lz_pack_tree(lz_sys_linux(), source, parts[i].name, false, NULL, theirs, &expected, NULL), 0);
        CHECK_EQ(size, expected);
        check_same(ours, theirs);
        CHECK_EQ(close(source), 0);
        CHECK_EQ(close(ours), 0);
        CHECK_EQ(close(theirs), 0);
    }
    lz_union_free(self);
    scratch_free(&lower);
}

static void pack_refuses(void)
{
    struct scratch lower = scratch_new();
    fill(&lower);
    CHECK_EQ(mknodat(lower.fd, "socket", S_IFSOCK | 0600, 0), 0);
    struct lz_union *self = open_union(lz_sys_linux(), &lower, NULL, NULL);
    int out = new_output();
    CHECK_EQ(lz_union_pack(self, "missing", 7, 0, NULL, NULL, out, NULL, NULL), -ENOENT);
    CHECK_EQ(lz_union_pack(self, "a/empty", 7, 0, NULL, NULL, out, NULL, NULL), -ENOTDIR);
    CHECK_EQ(lz_union_pack(self, "a/link", 6, 0, "link", NULL, out, NULL, NULL), -ENOENT);
    CHECK_EQ(lz_union_pack(self, "socket", 6, 0, "socket", NULL, out, NULL, NULL), -ENOTSUP);
    CHECK_EQ(lseek(out, 0, SEEK_END), 0);
    CHECK_EQ(close(out), 0);
    lz_union_free(self);
    scratch_free(&lower);
}

static void unpack_and_pack_again(void)
{
    struct scratch lower = scratch_new(), other = scratch_new(), upper = scratch_new(), work = scratch_new();
    fill(&lower);
    make_directory(&other, "old");
    int first = new_output(), second = new_output();
    struct lz_union *from = open_union(lz_sys_linux(), &lower, NULL, NULL);
    CHECK_EQ(lz_union_pack(from, "/", 1, 0, NULL, NULL, first, NULL, NULL), 0);
    struct lz_union *to = open_union(lz_sys_linux(), &other, &upper, &work);
    uint64_t entries = 0;
    CHECK_EQ(lseek(first, 0, SEEK_SET), 0);
    CHECK_EQ(lz_union_unpack(to, first, "/old/../old", 11, &ALL, NULL, &entries, NULL), 0);
    CHECK_EQ(entries, 10);
    CHECK_EQ(lz_union_pack(to, "old", 3, 0, NULL, NULL, second, NULL, NULL), 0);
    check_same(first, second);
    /* Over itself: everything is replaced by the same. */
    CHECK_EQ(lseek(first, 0, SEEK_SET), 0);
    CHECK_EQ(lz_union_unpack(to, first, "old", 3, &ALL, NULL, &entries, NULL), 0);
    CHECK_EQ(ftruncate(second, 0), 0);
    CHECK_EQ(lseek(second, 0, SEEK_SET), 0);
    CHECK_EQ(lz_union_pack(to, "old", 3, 0, NULL, NULL, second, NULL, NULL), 0);
    check_same(first, second);
    lz_union_free(from);
    lz_union_free(to);
    CHECK_EQ(close(first), 0);
    CHECK_EQ(close(second), 0);
    scratch_free(&lower);
    scratch_free(&other);
    scratch_free(&upper);
    scratch_free(&work);
}

struct archive {
    struct lz_buf bytes;
};

static void put(struct archive *archive, enum lz_tar_type type, const char *path, const char *link)
{
    struct lz_tar_entry entry = {.type = type,
                                 .path = path,
                                 .path_size = strlen(path),
                                 .mode = 0755,
                                 .link = link,
                                 .link_size = link != NULL ? strlen(link) : 0};
    CHECK_EQ(lz_tar_write_entry(&entry, &archive->bytes, NULL), 0);
}

static int unpack_made(struct lz_union *self, struct archive *archive, const struct lz_unpack_options *options)
{
    int fd = new_output();
    struct lz_detail detail = {{0}};
    CHECK_EQ(lz_buf_append_zeros(&archive->bytes, 1024), 0);
    CHECK_EQ(write(fd, archive->bytes.data, archive->bytes.size), archive->bytes.size);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    int rc = lz_union_unpack(self, fd, "/", 1, options, NULL, NULL, &detail);
    CHECK(rc == 0 || detail.text[0] != 0);
    CHECK_EQ(close(fd), 0);
    lz_buf_free(&archive->bytes);
    return rc;
}

/* The archive ends within the content of a file: nothing is left of that. */
static void unpack_what_is_cut_off(void)
{
    struct scratch lower = scratch_new(), upper = scratch_new(), work = scratch_new();
    struct lz_union *self = open_union(lz_sys_linux(), &lower, &upper, &work);
    struct lz_tar_entry entry = {.type = LZ_TAR_FILE, .path = "f", .path_size = 1, .size = 4, .stored_size = 4};
    struct lz_buf bytes = {0};
    int fd = new_output();
    CHECK_EQ(lz_tar_write_entry(&entry, &bytes, NULL), 0);
    CHECK_EQ(lz_buf_append(&bytes, "ha", 2), 0);
    CHECK_EQ(write(fd, bytes.data, bytes.size), bytes.size);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(lz_union_unpack(self, fd, "/", 1, &ALL, NULL, NULL, NULL), LZ_E_TRUNCATED);
    struct lz_union_info info;
    CHECK_EQ(lz_union_stat(self, "f", 1, LZ_UNION_NOFOLLOW, &info), -ENOENT);
    CHECK_EQ(faccessat(upper.fd, "f", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    CHECK_EQ(close(fd), 0);
    lz_buf_free(&bytes);
    lz_union_free(self);
    scratch_free(&lower);
    scratch_free(&upper);
    scratch_free(&work);
}

static int go_on(void *ctx)
{
    int *rest = ctx;
    return (*rest)-- > 0 ? 0 : LZ_E_CANCELLED;
}

/* Between entries and while it waits in the middle of a file, it is asked whether to go on. */
static void unpack_that_is_ended(void)
{
    struct scratch lower = scratch_new(), upper = scratch_new(), work = scratch_new();
    struct lz_union *self = open_union(lz_sys_linux(), &lower, &upper, &work);
    struct archive archive = {{0}};
    char name[8];
    for (unsigned i = 0; i < LZ_STEP_NAMES; i++) {
        (void)snprintf(name, sizeof name, "%u", i);
        put(&archive, LZ_TAR_DIRECTORY, name, NULL);
    }
    struct lz_tar_entry entry = {.type = LZ_TAR_FILE, .path = "f", .path_size = 1, .size = 4, .stored_size = 4};
    CHECK_EQ(lz_tar_write_entry(&entry, &archive.bytes, NULL), 0);
    CHECK_EQ(lz_buf_append(&archive.bytes, "ha", 2), 0);
    for (int wanted = 0; wanted <= 2; wanted++) {
        int ends[2], rest = wanted, descriptors = count_descriptors();
        struct lz_step step = {.ask = go_on, .ctx = &rest};
        struct lz_union_info info;
        CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
        CHECK_EQ(write(ends[1], archive.bytes.data, archive.bytes.size), archive.bytes.size);
        CHECK_EQ(lz_union_unpack(self, ends[0], "/", 1, &ALL, &step, NULL, NULL), LZ_E_CANCELLED);
        CHECK_EQ(rest, -1);
        CHECK_EQ(close(ends[0]), 0);
        CHECK_EQ(close(ends[1]), 0);
        CHECK_EQ(count_descriptors(), descriptors);
        CHECK_EQ(lz_union_stat(self, "63", 2, LZ_UNION_NOFOLLOW, &info), 0);
        CHECK_EQ(lz_union_stat(self, "f", 1, LZ_UNION_NOFOLLOW, &info), -ENOENT);
        CHECK_EQ(faccessat(upper.fd, "f", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    }
    lz_buf_free(&archive.bytes);
    lz_union_free(self);
    scratch_free(&lower);
    scratch_free(&upper);
    scratch_free(&work);
}

static void unpack_refuses(void)
{
    static const struct lz_unpack_options careful = {.no_replace_directory = true};
    struct scratch lower = scratch_new(), upper = scratch_new(), work = scratch_new();
    fill(&lower);
    CHECK_EQ(symlinkat("a", lower.fd, "to-a"), 0);
    struct lz_union *self = open_union(lz_sys_linux(), &lower, &upper, &work);
    struct archive archive = {{0}};
    put(&archive, LZ_TAR_FILE, "to-a/x", NULL);
    CHECK_EQ(unpack_made(self, &archive, &ALL), LZ_E_UNSAFE);
    put(&archive, LZ_TAR_FILE, "../x", NULL);
    CHECK_EQ(unpack_made(self, &archive, &ALL), LZ_E_UNSAFE);
    put(&archive, LZ_TAR_HARDLINK, "x", "missing");
    CHECK_EQ(unpack_made(self, &archive, &ALL), -ENOENT);
    put(&archive, LZ_TAR_HARDLINK, "x", "to-a/pipe"); /* as lz_unpack(): a way through a symlink leads anywhere */
    CHECK_EQ(unpack_made(self, &archive, &ALL), LZ_E_UNSAFE);
    put(&archive, LZ_TAR_HARDLINK, "x", "no/such");
    CHECK_EQ(unpack_made(self, &archive, &ALL), -ENOENT);
    put(&archive, LZ_TAR_HARDLINK, "to-a", "a"); /* what cannot be takes nothing away */
    CHECK_EQ(unpack_made(self, &archive, &ALL), -EPERM);
    struct lz_union_info info;
    CHECK_EQ(lz_union_stat(self, "to-a", 4, LZ_UNION_NOFOLLOW, &info), 0);
    put(&archive, LZ_TAR_FILE, "a/empty/x", NULL);
    CHECK_EQ(unpack_made(self, &archive, &ALL), -ENOTDIR);
    put(&archive, LZ_TAR_FILE, "a", NULL);
    CHECK_EQ(unpack_made(self, &archive, &careful), -EISDIR);
    put(&archive, LZ_TAR_DIRECTORY, "a/empty", NULL);
    CHECK_EQ(unpack_made(self, &archive, &careful), -ENOTDIR);
    put(&archive, LZ_TAR_FILE, "a", NULL);
    CHECK_EQ(unpack_made(self, &archive, &ALL), -ENOTEMPTY);
    put(&archive, LZ_TAR_FILE, ".", NULL);
    CHECK_EQ(unpack_made(self, &archive, &ALL), LZ_E_FORMAT);
    put(&archive, LZ_TAR_DIRECTORY, "a/pipe", NULL);
    put(&archive, LZ_TAR_FILE, "a/pipe/made/here", NULL);
    CHECK_EQ(unpack_made(self, &archive, &ALL), 0);
    CHECK_EQ(lz_union_stat(self, "a/pipe/made/here", 16, 0, &info), 0);
    CHECK_EQ(info.kind, LZ_KIND_FILE);
    lz_union_free(self);
    scratch_free(&lower);
    scratch_free(&upper);
    scratch_free(&work);
}

/* Whatever call fails: an error, or a file left out because it seemed gone; no leak. */
static void every_failing_call(void)
{
    struct scratch lower = scratch_new(), upper = scratch_new(), work = scratch_new();
    fill(&lower);
    int packed = new_output();
    struct lz_union *from = open_union(lz_sys_linux(), &lower, NULL, NULL);
    CHECK_EQ(lz_union_pack(from, "/", 1, 0, NULL, NULL, packed, NULL, NULL), 0);
    lz_union_free(from);
    int before = count_descriptors();
    long n = 1;
    for (;; n++) {
        struct fault fault;
        fault_arm(&fault, 0, -EIO);
        struct lz_union *self = open_union(fault_sys(&fault), &lower, NULL, NULL);
        int out = new_output();
        fault_arm(&fault, n, -EIO);
        int rc = lz_union_pack(self, "/", 1, 0, NULL, NULL, out, NULL, NULL);
        bool fired = fault.fired;
        if (!fired) {
            CHECK_EQ(rc, 0);
            check_same(out, packed);
        }
        CHECK_EQ(close(out), 0);
        lz_union_free(self);
        CHECK_EQ(count_descriptors(), before);
        if (!fired)
            break;
    }
    CHECK(n > 50);
    for (n = 1;; n += 1 + n / 40) { /* the writing half has a loop of its own for each of its calls */
        struct fault fault;
        struct scratch clean = scratch_new();
        fault_arm(&fault, 0, -EIO);
        CHECK_EQ(mkdirat(clean.fd, "upper", 0755), 0);
        CHECK_EQ(mkdirat(clean.fd, "work", 0755), 0);
        struct scratch parts[2] = {{.fd = openat(clean.fd, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC)},
                                   {.fd = openat(clean.fd, "work", O_RDONLY | O_DIRECTORY | O_CLOEXEC)}};
        struct lz_union *self = open_union(fault_sys(&fault), NULL, &parts[0], &parts[1]);
        CHECK_EQ(lseek(packed, 0, SEEK_SET), 0);
        fault_arm(&fault, n, -ENOSPC);
        int rc = lz_union_unpack(self, packed, "/", 1, &ALL, NULL, NULL, NULL);
        bool fired = fault.fired;
        if (!fired)
            CHECK_EQ(rc, 0);
        lz_union_free(self);
        CHECK_EQ(close(parts[0].fd), 0);
        CHECK_EQ(close(parts[1].fd), 0);
        scratch_free(&clean);
        CHECK_EQ(count_descriptors(), before);
        if (!fired)
            break;
    }
    CHECK(n > 100);
    CHECK_EQ(close(packed), 0);
    scratch_free(&lower);
    scratch_free(&upper);
    scratch_free(&work);
}

/* ---- names that change between two looks ---- */

static struct hook {
    const char *name, *other; /* change places before `name` is opened, or read as a link */
    int left;                 /* so often; or, with no `other`, `name` goes */
    struct scratch upper;
} hook;

static void at_hook(const char *path)
{
    if (hook.left == 0 || strcmp(path, hook.name) != 0)
        return;
    hook.left--;
    if (hook.other != NULL)
        CHECK_EQ(renameat2(hook.upper.fd, hook.name, hook.upper.fd, hook.other, RENAME_EXCHANGE), 0);
    else
        CHECK_EQ(unlinkat(hook.upper.fd, hook.name, 0), 0);
}

static int hooked_openat2(void *ctx, int dir, const char *path, const struct open_how *how)
{
    if ((how->flags & O_PATH) == 0)
        at_hook(path);
    return lz_sys_linux()->openat2(ctx, dir, path, how);
}

static ssize_t hooked_readlinkat(void *ctx, int dir, const char *path, char *out, size_t size)
{
    at_hook(path);
    return lz_sys_linux()->readlinkat(ctx, dir, path, out, size);
}

/* Packs and checks `expected` where it was unpacked. */
static void check_changing(const char *expected)
{
    struct lz_sys sys = *lz_sys_linux();
    sys.openat2 = hooked_openat2;
    sys.readlinkat = hooked_readlinkat;
    struct scratch to = scratch_new(), work = scratch_new();
    struct lz_union *self = open_union(&sys, NULL, &hook.upper, &work);
    int out = openat(to.fd, "tar", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct lz_detail detail = {{0}};
    int rc = lz_union_pack(self, "/", 1, 0, NULL, NULL, out, NULL, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    char line[1024];
    (void)snprintf(line, sizeof line, "cd %s && mkdir to && tar -xpf tar -C to && cd to && %s", to.path, expected);
    CHECK_EQ(system(line), 0);
    CHECK_EQ(close(out), 0);
    lz_union_free(self);
    scratch_free(&to);
    scratch_free(&work);
    scratch_free(&hook.upper);
}

static void names_that_change_meanwhile(void)
{
    for (int left = 1; left <= 9999; left += 9998) { /* once, and at each look, until it counts as gone */
        hook = (struct hook){"pub", "sec", left, scratch_new()};
        make_file(&hook.upper, "pub", "public", 6);
        make_file(&hook.upper, "sec", "secret", 6);
        CHECK_EQ(fchmodat(hook.upper.fd, "sec", 0600, 0), 0);
        check_changing(left == 1
                           ? "test $(cat pub) = secret && test $(stat -c %a pub) = 600 && test $(cat sec) = public"
                           : "test ! -e pub && test -e sec");
        CHECK(left == 1 ? hook.left == 0 : hook.left > 5000);
    }
    hook = (struct hook){"link", "file", 1, scratch_new()};
    make_file(&hook.upper, "file", "x", 1);
    CHECK_EQ(symlinkat("nowhere", hook.upper.fd, "link"), 0);
    check_changing("test -f link");
    hook = (struct hook){"link", NULL, 1, scratch_new()};
    CHECK_EQ(symlinkat("nowhere", hook.upper.fd, "link"), 0);
    make_file(&hook.upper, "more", "x", 1);
    check_changing("test ! -h link && test -f more");
    CHECK_EQ(hook.left, 0);
}

int main(void)
{
    RUN(pack_is_that_of_the_directory);
    RUN(pack_refuses);
    RUN(unpack_and_pack_again);
    RUN(unpack_what_is_cut_off);
    RUN(unpack_that_is_ended);
    RUN(unpack_refuses);
    RUN(names_that_change_meanwhile);
    RUN(every_failing_call);
    return check_end();
}
