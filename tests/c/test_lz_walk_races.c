/* What others do to a name between two looks at it, while its tree is copied, packed or compared: a name that is gone is
 * left out, and the bytes of one file never get the attributes of another. */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "shell.h"
#include "tree/lz_copy.h"
#include "tree/lz_diff.h"
#include "tree/lz_remove.h"

static char top[] = "/tmp/lz_walk_races.XXXXXX";
static int top_fd;

static void shell(const char *line)
{
    shell_in(top, line);
}

/* ---- who changes things ---- */

enum call { STAT = 1, OPEN, LIST, READLINK, MADE /* in the copy, just now */ };

static struct hook {
    enum call call;
    const char *name;           /* of the last component */
    int skip, left;             /* so many such calls are passed over, then there are changes before so many */
    const char *line;           /* a shell line, or: */
    const char *first, *second; /* exchanged */
} hook;

static void at(enum call call, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (hook.call != call || hook.left == 0 || strcmp(slash != NULL ? slash + 1 : path, hook.name) != 0)
        return;
    if (hook.skip-- > 0)
        return;
    hook.left--;
    if (hook.line != NULL)
        shell(hook.line);
    else
        CHECK_EQ(renameat2(top_fd, hook.first, top_fd, hook.second, RENAME_EXCHANGE), 0);
}

static void at_descriptor(enum call call, int fd)
{
    char link[64], path[8192] = "";
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    CHECK(readlink(link, path, sizeof path - 1) > 0);
    at(call, path);
}

static int hooked_fstatat(void *ctx, int dir, const char *path, struct stat *out, int flags)
{
    at(STAT, path);
    return lz_sys_linux()->fstatat(ctx, dir, path, out, flags);
}

static int hooked_openat2(void *ctx, int dir, const char *path, const struct open_how *how)
{
    if ((how->flags & O_PATH) == 0)
        at(OPEN, path);
    return lz_sys_linux()->openat2(ctx, dir, path, how);
}

static ssize_t hooked_getdents(void *ctx, int fd, void *out, size_t size)
{
    at_descriptor(LIST, fd);
    return lz_sys_linux()->getdents(ctx, fd, out, size);
}

static ssize_t hooked_readlinkat(void *ctx, int dir, const char *path, char *out, size_t size)
{
    at(READLINK, path);
    return lz_sys_linux()->readlinkat(ctx, dir, path, out, size);
}

static int hooked_mkdirat(void *ctx, int dir, const char *path, mode_t mode)
{
    int rc = lz_sys_linux()->mkdirat(ctx, dir, path, mode);
    at(MADE, path);
    return rc;
}

static struct lz_sys hooked;

/* ---- who reads ---- */

static int report(void *ctx, const struct lz_change *change)
{
    (void)ctx;
    return change->kind != 0 ? 0 : -1;
}

enum reader { COPY, COPY_WITH_THREADS, PACK_TREE, PACK_UPPER, DIFF, READERS };

/* Reads `from` while `change` happens; what was read is in `to`, but of DIFF. */
static void read_with(enum reader reader, const char *make, const struct hook *change)
{
    shell("rm -rf from to away sec pub && mkdir from to");
    shell(make);
    int from = openat(top_fd, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int to = openat(top_fd, "to", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int out = openat(top_fd, "tar", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(from >= 0 && to >= 0 && out >= 0);
    struct lz_diff_source source = {.upper_fd = from, .maps_fd = -1, .objects_fd = -1};
    struct lz_detail detail = {{0}};
    int before = count_descriptors(), rc;
    hook = *change;
    if (reader == COPY || reader == COPY_WITH_THREADS)
        rc = lz_copy_tree(&hooked, from, to, reader == COPY ? 1 : 3, NULL, NULL, &detail);
    else if (reader == PACK_TREE)
        rc = lz_pack_tree(&hooked, from, NULL, false, NULL, out, NULL, &detail);
    else if (reader == PACK_UPPER)
        rc = lz_pack_upper(&hooked, &source, NULL, out, NULL, &detail);
    else
        rc = lz_diff(&hooked, &source, report, NULL, &detail);
    if (rc != 0)
        fprintf(stderr, "reader %d: %s\n", (int)reader, detail.text);
    CHECK_EQ(rc, 0);
    CHECK(change->left == 0 || hook.skip < 0);
    hook = (struct hook){0};
    CHECK_EQ(count_descriptors(), before);
    CHECK_EQ(close(from), 0);
    CHECK_EQ(close(to), 0);
    CHECK_EQ(close(out), 0);
    if (reader == PACK_TREE || reader == PACK_UPPER)
        shell("tar -x --numeric-owner --same-owner -p --xattrs --xattrs-include='*' -f tar -C to");
}

static void check_each(const char *make, const struct hook *change, const char *expected)
{
    for (enum reader reader = COPY; reader < READERS; reader++) {
        if (reader == DIFF && change->call == READLINK)
            continue; /* asks for no targets */
        read_with(reader, make, change);
        if (reader != DIFF)
            shell(expected);
    }
}

/* ---- names that vanish, or become something else ---- */

static void a_directory_that_is_removed(void)
{
    check_each("mkdir from/d && echo x > from/e && echo x > from/a",
               &(struct hook){.call = LIST, .name = "d", .left = 1, .line = "rmdir from/d"},
               "test -d to/d && test -f to/e && test -f to/a");
    /* and one whose names are read in several calls */
    check_each("mkdir from/d && cd from/d && for i in $(seq 1000 1299); do : > $(printf %0200d $i); done",
               &(struct hook){.call = LIST, .name = "d", .skip = 1, .left = 1, .line = "rm -r from/d"},
               "test -d to/d && test -z \"$(ls to/d)\"");
    check_each("mkdir from/d && echo x > from/d/f",
               &(struct hook){.call = OPEN, .name = "d", .left = 1, .line = "rm -r from/d"}, "test -z \"$(ls to)\"");
}

static void a_directory_that_is_removed_twice(void)
{
    shell("mkdir -p gone/d && cd gone/d && for i in $(seq 1000 1299); do : > $(printf %0200d $i); done");
    hook = (struct hook){.call = LIST, .name = "d", .skip = 1, .left = 1, .line = "rm -r gone/d"};
    CHECK(lz_remove_tree(&hooked, top_fd, "gone", NULL) >= 0);
    CHECK_EQ(hook.left, 0);
    shell("test ! -e gone");
}

static void names_that_become_something_else(void)
{
    static const struct {
        enum call call;
        const char *make, *line, *expected;
    } cases[] = {
        {OPEN, "mkdir from/n", "rmdir from/n && echo x > from/n && chmod 640 from/n",
         "test -f to/n && test $(stat -c %a to/n) = 640"},
        {OPEN, "mkdir from/n", "rmdir from/n && ln -s / from/n", "test -h to/n"},
        {READLINK, "ln -s / from/n", "rm from/n && echo x > from/n", "test -f to/n && test ! -h to/n"},
        {READLINK, "ln -s / from/n", "rm from/n", "test -z \"$(ls -A to)\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_each(cases[i].make, &(struct hook){.call = cases[i].call, .name = "n", .left = 1, .line = cases[i].line},
                   cases[i].expected);
    struct hook change = {.call = OPEN, .name = "n", .left = 1};
    for (enum reader reader = COPY; reader <= PACK_UPPER; reader++) { /* files are opened by those alone */
        change.line = "rm from/n && mkdir from/n && echo y > from/n/f";
        read_with(reader, "echo x > from/n", &change);
        shell("test $(cat to/n/f) = y");
        change.line = "rm from/n && mkfifo from/n";
        read_with(reader, "echo x > from/n", &change);
        shell("test -p to/n");
        change.line = "rm from/n";
        read_with(reader, "echo x > from/n", &change);
        shell("test -z \"$(ls -A to)\"");
    }
}

/* It is looked at some times, and the rest is read all the same. */
static void a_name_that_never_stands_still(void)
{
    const struct hook change = {.call = OPEN, .name = "n", .left = 1000, .first = "from/n", .second = "away"};
    check_each("mkdir from/n && ln -s / away && echo x > from/z", &(struct hook){.call = STAT, .name = "n", .left = 0},
               "test -d to/n");
    for (enum reader reader = COPY; reader <= PACK_UPPER; reader++) {
        read_with(reader, "mkdir from/n && echo secret > away && echo x > from/z", &change);
        shell("test ! -d to/n && test $(cat to/z) = x");
    }
}

/* ---- content and attributes ---- */

static const char *files =
    "echo secret > from/sec && chown 1:1 from/sec && setfattr -n user.which -v secret from/sec && "
    "chmod 600 from/sec && echo public > from/pub && chown 2:2 from/pub && "
    "setfattr -n user.which -v public from/pub && chmod 644 from/pub";
static const char *files_are_whole =
    "for n in sec pub; do case $(cat to/$n) in secret) want=600:1:1;; public) want=644:2:2;; *) exit 1;; esac; "
    "test $(stat -c %a:%u:%g to/$n) = $want && "
    "test $(getfattr --only-values -n user.which to/$n) = $(cat to/$n) || exit 1; done";

static void files_that_change_places(void)
{
    struct hook change = {.name = "pub", .first = "from/pub", .second = "from/sec"};
    for (change.call = STAT; change.call <= OPEN; change.call++) {
        for (int left = 1; left < 2000; left += 1998) {
            change.left = left;
            for (enum reader reader = COPY; reader <= PACK_UPPER; reader++) {
                read_with(reader, files, &change);
                shell(files_are_whole);
            }
        }
    }
}

/* The second name of a file is not linked to what its first name was opened as. */
static void links_that_change_places(void)
{
    const struct hook change = {.call = OPEN, .name = "a", .left = 1, .first = "from/a", .second = "from/sec"};
    for (enum reader reader = COPY; reader <= PACK_UPPER; reader++) {
        read_with(reader, "echo public > from/a && ln from/a from/b && echo secret > from/sec && chmod 600 from/sec",
                  &change);
        shell("test $(cat to/b) = public && test $(cat to/a) = secret && test $(stat -c %a to/a) = 600 && "
              "test $(stat -c %a to/b) = 644");
    }
}

static void symlinks_that_change_places(void)
{
    const struct hook change = {.call = READLINK, .name = "a", .left = 1, .first = "from/a", .second = "from/b"};
    for (enum reader reader = COPY; reader <= PACK_UPPER; reader++) {
        read_with(reader, "ln -s one from/a && chown -h 1 from/a && ln -s two from/b && chown -h 2 from/b", &change);
        shell("for n in a b; do case $(readlink to/$n) in one) want=1;; two) want=2;; esac; "
              "test $(stat -c %u to/$n) = $want || exit 1; done");
    }
}

/* What only some may enter is not copied into what all may. */
static void directories_that_change_places(void)
{
    static const char *make = "mkdir from/pub from/sec && echo x > from/pub/public && echo x > from/sec/secret && "
                              "chmod 700 from/sec && chown 1 from/sec && setfattr -n user.s -v 1 from/sec";
    static const char *whole =
        "for n in sec pub; do if test -e to/$n/secret; then want=700:1:1; else want=755:0:; fi; "
        "test $(stat -c %a:%u to/$n):$(getfattr --only-values -n user.s to/$n 2>/dev/null) = $want || exit 1; done";
    struct hook change = {.name = "pub", .first = "from/pub", .second = "from/sec"};
    for (change.call = STAT; change.call <= MADE; change.call++) {
        for (int left = 1; left < 2000; left += 1998) {
            for (enum reader reader = COPY; reader <= PACK_UPPER; reader++) {
                if (change.call == READLINK || (change.call == MADE && reader > COPY_WITH_THREADS))
                    continue;
                change.left = left;
                read_with(reader, make, &change);
                shell(whole);
            }
        }
    }
}

/* Far down, where a directory is closed while what is in it is read, and opened again. */
static void a_deep_directory_that_changes_places(void)
{
    static const char *make = "mkdir -p away && cd from && for i in $(seq 70); do mkdir d && cd d; done && "
                              "mkdir p && echo x > p/z && mkdir p/m && echo x > z";
    static const char *lines[] = {
        "d=from$(printf '/d%.0s' $(seq 70)); mv $d/p away/p",
        "d=from$(printf '/d%.0s' $(seq 70)); mv $d/p away/p && echo x > $d/p",
        "d=from$(printf '/d%.0s' $(seq 70)); mv $d/p away/p && mkdir $d/p && echo y > $d/p/z"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        check_each(make, &(struct hook){.call = LIST, .name = "m", .left = 1, .line = lines[i]},
                   "d=to$(printf '/d%.0s' $(seq 70)); test -d $d/p/m && test ! -e $d/p/z && test -f $d/z");
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  not root: owners cannot be made\n");
        return 0;
    }
    CHECK(mkdtemp(top) != NULL);
    (void)umask(022);
    top_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(top_fd >= 0);
    hooked = *lz_sys_linux();
    hooked.fstatat = hooked_fstatat;
    hooked.openat2 = hooked_openat2;
    hooked.getdents = hooked_getdents;
    hooked.readlinkat = hooked_readlinkat;
    hooked.mkdirat = hooked_mkdirat;
    RUN(a_directory_that_is_removed);
    RUN(a_directory_that_is_removed_twice);
    RUN(names_that_become_something_else);
    RUN(a_name_that_never_stands_still);
    RUN(files_that_change_places);
    RUN(links_that_change_places);
    RUN(symlinks_that_change_places);
    RUN(directories_that_change_places);
    RUN(a_deep_directory_that_changes_places);
    CHECK_EQ(close(top_fd), 0);
    shell("cd / && rm -rf \"$OLDPWD\"");
    return check_end();
}
