/* The writing half of the union against the kernel's overlayfs: the same operations on both, over the same lowers; after each
 * one the same errno and the same tree. And the upper that the union wrote, mounted by the kernel, is that tree, too. */
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "union_script.h"

struct rig {
    struct world world; /* the union's; the kernel's upper and work are kupper/ and kwork/ */
    struct lz_union *self;
    pid_t child; /* lives in the kernel's mount, and carries out operations there */
    int wire;
    time_t now;
    int mounts;
};

/* ---- the other side ---- */

static void send_all(int fd, const void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t sent = send(fd, (const char *)bytes + done, size - done, MSG_NOSIGNAL);
        CHECK(sent > 0);
        done += (size_t)sent;
    }
}

static bool receive_all(int fd, void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = recv(fd, (char *)bytes + done, size - done, 0);
        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return true;
}

static void send_text(int fd, const char *text)
{
    size_t size = strlen(text) + 1;
    send_all(fd, &size, sizeof size);
    send_all(fd, text, size);
}

static char *receive_text(int fd)
{
    size_t size;
    CHECK(receive_all(fd, &size, sizeof size));
    char *text = malloc(size);
    CHECK(text != NULL && receive_all(fd, text, size));
    return text;
}

/* The strings of an operation are the parent's own, and at the same place here: a fork shares them. NULL asks for the tree. */
static void serve(int wire, const char *root, time_t now)
{
    const struct op *op;
    CHECK_EQ(chroot(root), 0);
    CHECK_EQ(chdir("/"), 0);
    (void)umask(0);
    while (receive_all(wire, &op, sizeof op)) {
        if (op != NULL) {
            int rc = apply_posix(op);
            send_all(wire, &rc, sizeof rc);
            continue;
        }
        char *text = text_posix(now);
        send_text(wire, text);
        free(text);
    }
    _exit(0);
}

/* ---- both ---- */

static void mount_kernel(const struct rig *rig, const char *target, const char *upper, const char *work)
{
    char options[600], full[200];
    const char *top = rig->world.top.path;
    int size = snprintf(options, sizeof options, "lowerdir=");
    if (work == NULL)
        size += snprintf(options + size, sizeof options - (size_t)size, "%s/%s:", top, upper);
    size += snprintf(options + size, sizeof options - (size_t)size,
                     "%s/lower0:%s/lower1,index=off,metacopy=on,redirect_dir=on", top, top);
    if (work != NULL)
        (void)snprintf(options + size, sizeof options - (size_t)size, ",upperdir=%s/%s,workdir=%s/%s", top, upper, top,
                       work);
    (void)snprintf(full, sizeof full, "%s/%s", top, target);
    if (mount("overlay", full, "overlay", 0, options) != 0) {
        fprintf(stderr, "mount %s: %s\n", options, strerror(errno));
        CHECK(false);
    }
}

static void unmount(const struct rig *rig, const char *target)
{
    char full[200];
    (void)snprintf(full, sizeof full, "%s/%s", rig->world.top.path, target);
    CHECK_EQ(umount2(full, 0), 0);
}

static void rig_new(struct rig *rig)
{
    int wires[2];
    char root[200];
    *rig = (struct rig){.now = time(NULL)};
    world_new(&rig->world);
    make_directory(&rig->world.top, "kupper");
    make_directory(&rig->world.top, "kwork");
    make_directory(&rig->world.top, "kernel");
    make_directory(&rig->world.top, "again");
    mount_kernel(rig, "kernel", "kupper", "kwork");
    rig->self = world_union(&rig->world, lz_sys_linux());
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wires), 0);
    (void)snprintf(root, sizeof root, "%s/kernel", rig->world.top.path);
    rig->child = fork();
    CHECK(rig->child >= 0);
    if (rig->child == 0) {
        (void)close(wires[0]);
        serve(wires[1], root, rig->now);
    }
    CHECK_EQ(close(wires[1]), 0);
    rig->wire = wires[0];
}

static void rig_free(struct rig *rig)
{
    int status;
    CHECK_EQ(close(rig->wire), 0);
    CHECK_EQ(waitpid(rig->child, &status, 0), rig->child);
    CHECK_EQ(status, 0);
    lz_union_free(rig->self);
    check_work_clean(&rig->world);
    unmount(rig, "kernel");
    world_free(&rig->world);
}

static char *text_kernel(struct rig *rig)
{
    const struct op *ask = NULL;
    send_all(rig->wire, &ask, sizeof ask);
    return receive_text(rig->wire);
}

/* The union's upper as the kernel reads it. */
static char *text_again(struct rig *rig)
{
    char root[200];
    int wires[2], status;
    const struct op *ask = NULL;
    mount_kernel(rig, "again", "upper", NULL);
    (void)snprintf(root, sizeof root, "%s/again", rig->world.top.path);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wires), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        (void)close(wires[0]);
        serve(wires[1], root, rig->now);
    }
    CHECK_EQ(close(wires[1]), 0);
    send_all(wires[0], &ask, sizeof ask);
    char *text = receive_text(wires[0]);
    CHECK_EQ(close(wires[0]), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    unmount(rig, "again");
    return text;
}

static void check_same(struct rig *rig, const struct op *op, bool again)
{
    char *ours = text_union(rig->self, rig->now), *theirs = text_kernel(rig);
    if (strcmp(ours, theirs) != 0)
        print_op(op);
    check_text("union and overlayfs", ours, theirs);
    if (again) {
        char *read = text_again(rig);
        if (strcmp(ours, read) != 0)
            print_op(op);
        check_text("overlayfs on the union's upper", read, ours);
        free(read);
    }
    free(ours);
    free(theirs);
}

static int step(struct rig *rig, const struct op *op)
{
    int theirs, ours = apply_union(rig->self, op);
    send_all(rig->wire, &op, sizeof op);
    CHECK(receive_all(rig->wire, &theirs, sizeof theirs));
    if (ours != theirs)
        print_op(op);
    CHECK_EQ(ours, theirs);
    return ours;
}

#define NEW (O_WRONLY | O_CREAT | O_EXCL)

static const struct op script[] = {
    /* what cannot be done */
    {.kind = OP_MKDIR, .a = "/d", .mode = 0755},
    {.kind = OP_MKDIR, .a = "/", .mode = 0755},
    {.kind = OP_MKDIR, .a = "/d/.", .mode = 0755},
    {.kind = OP_MKDIR, .a = "/d/..", .mode = 0755},
    {.kind = OP_MKDIR, .a = "/none/x", .mode = 0755},
    {.kind = OP_MKDIR, .a = "/d/a/x", .mode = 0755},
    {.kind = OP_MKDIR, .a = "/dangling", .mode = 0755},
    {.kind = OP_MKDIR, .a = "/dangling/", .mode = 0755},
    {.kind = OP_MKNOD, .a = "/d/a", .mode = S_IFREG | 0644},
    {.kind = OP_MKNOD, .a = "/nothing/", .mode = S_IFREG | 0644},
    {.kind = OP_MKNOD, .a = "/d/wh", .mode = S_IFCHR | 0644},
    {.kind = OP_MKNOD, .a = "/d/wh", .mode = S_IFDIR | 0755},
    {.kind = OP_SYMLINK, .a = "t", .b = "/d/a"},
    {.kind = OP_SYMLINK, .a = "t", .b = "/nothing/"},
    {.kind = OP_SYMLINK, .a = "", .b = "/d/new"},
    {.kind = OP_LINK, .a = "/d", .b = "/dd"},
    {.kind = OP_LINK, .a = "/d/a", .b = "/d/c"},
    {.kind = OP_LINK, .a = "/d", .b = "/d/c"},
    {.kind = OP_LINK, .a = "/d/none", .b = "/d/new"},
    {.kind = OP_LINK, .a = "/d/a", .b = "/d/new/"},
    {.kind = OP_UNLINK, .a = "/d"},
    {.kind = OP_UNLINK, .a = "/"},
    {.kind = OP_UNLINK, .a = "/d/."},
    {.kind = OP_UNLINK, .a = "/d/.."},
    {.kind = OP_UNLINK, .a = "/d/none"},
    {.kind = OP_UNLINK, .a = "/d/gone"},
    {.kind = OP_UNLINK, .a = "/d/a/"},
    {.kind = OP_UNLINK, .a = "/none/"},
    {.kind = OP_RMDIR, .a = "/d/a"},
    {.kind = OP_RMDIR, .a = "/d"},
    {.kind = OP_RMDIR, .a = "/"},
    {.kind = OP_RMDIR, .a = "/d/."},
    {.kind = OP_RMDIR, .a = "/d/sub/.."},
    {.kind = OP_RMDIR, .a = "/none"},
    {.kind = OP_RMDIR, .a = "/dirlink"},
    {.kind = OP_RMDIR, .a = "/dirlink/"},
    {.kind = OP_RENAME, .a = "/none", .b = "/x"},
    {.kind = OP_RENAME, .a = "/d", .b = "/d/sub/in"},
    {.kind = OP_RENAME, .a = "/d/sub", .b = "/d"},
    {.kind = OP_RENAME, .a = "/d/sub/t", .b = "/d"},
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/sub"},
    {.kind = OP_RENAME, .a = "/d/sub", .b = "/d/a"},
    {.kind = OP_RENAME, .a = "/e", .b = "/d"},
    {.kind = OP_RENAME, .a = "/d/a/", .b = "/d/x"},
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/x/"},
    {.kind = OP_RENAME, .a = "/d/.", .b = "/x"},
    {.kind = OP_RENAME, .a = "/d", .b = "/e/."},
    {.kind = OP_RENAME, .a = "/", .b = "/x"},
    {.kind = OP_RENAME, .a = "/d", .b = "/"},
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/c", .number = RENAME_NOREPLACE},
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/..", .number = RENAME_NOREPLACE},
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/none", .number = RENAME_EXCHANGE},
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/c", .number = RENAME_EXCHANGE | RENAME_NOREPLACE},
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/c", .number = RENAME_WHITEOUT},
    {.kind = OP_RENAME, .a = "/d", .b = "/d/sub/t", .number = RENAME_EXCHANGE},
    {.kind = OP_RENAME, .a = "/d/sub/t", .b = "/d", .number = RENAME_EXCHANGE},
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/a"},
    {.kind = OP_CHMOD, .a = "/none", .mode = 0644},
    {.kind = OP_CHMOD, .a = "/dangling", .mode = 0644},
    {.kind = OP_TRUNCATE, .a = "/d"},
    {.kind = OP_TRUNCATE, .a = "/d/fifo"},
    {.kind = OP_TRUNCATE, .a = "/d/null"},
    {.kind = OP_TRUNCATE, .a = "/none"},
    {.kind = OP_SETXATTR, .a = "/d/a", .b = "user.one", .text = "2", .number = XATTR_CREATE},
    {.kind = OP_SETXATTR, .a = "/d/a", .b = "user.two", .text = "2", .number = XATTR_REPLACE},
    {.kind = OP_SETXATTR, .a = "/d/ln", .b = "user.two", .text = "2", .nofollow = true},
    {.kind = OP_SETXATTR, .a = "/d/a", .b = "nonsense", .text = "2"},
    {.kind = OP_SETXATTR, .a = "/d/a", .b = "", .text = "2"},
    {.kind = OP_REMOVEXATTR, .a = "/d/a", .b = "user.two"},
    {.kind = OP_WRITE, .a = "/d", .flags = O_WRONLY},
    {.kind = OP_WRITE, .a = "/d", .flags = O_RDONLY | O_CREAT},
    {.kind = OP_WRITE, .a = "/d", .flags = O_RDONLY | O_TRUNC},
    {.kind = OP_WRITE, .a = "/d/a", .flags = NEW},
    {.kind = OP_WRITE, .a = "/dangling", .flags = NEW},
    {.kind = OP_WRITE, .a = "/dangling", .flags = O_WRONLY | O_CREAT},
    {.kind = OP_WRITE, .a = "/none", .flags = O_WRONLY},
    {.kind = OP_WRITE, .a = "/none/", .flags = O_WRONLY | O_CREAT, .mode = 0644},
    {.kind = OP_WRITE, .a = "/d/a/", .flags = O_WRONLY | O_CREAT, .mode = 0644},
    {.kind = OP_WRITE, .a = "/d/.", .flags = O_WRONLY | O_CREAT, .mode = 0644},
    {.kind = OP_WRITE, .a = "/d/a", .flags = O_WRONLY | O_DIRECTORY},
    {.kind = OP_WRITE, .a = "/d/ln", .flags = O_WRONLY | O_NOFOLLOW},
    {.kind = OP_WRITE, .a = "/d/sock", .flags = O_WRONLY},
    {.kind = OP_WRITE, .a = "/d/x", .flags = O_WRONLY | O_CREAT | O_DIRECTORY, .mode = 0644},
    {.kind = OP_WRITE, .a = "", .flags = O_WRONLY},
    /* attributes alone */
    {.kind = OP_CHMOD, .a = "/d/a", .mode = 0600},
    {.kind = OP_CHMOD, .a = "/d/sub/x", .mode = 04711},
    {.kind = OP_CHOWN, .a = "/d/b", .mode = 7, .number = 8},
    {.kind = OP_CHOWN, .a = "/d/ln", .mode = 9, .number = 10, .nofollow = true},
    {.kind = OP_CHOWN, .a = "/d/ln", .mode = 11, .number = 12},
    {.kind = OP_CHOWN, .a = "/d/c", .mode = UINT32_MAX, .number = 3},
    {.kind = OP_UTIMES, .a = "/d/sub/y"},
    {.kind = OP_UTIMES, .a = "/d/ln", .nofollow = true},
    {.kind = OP_UTIMES, .a = "/d/sub"},
    {.kind = OP_CHMOD, .a = "/d/fifo", .mode = 0600},
    {.kind = OP_CHMOD, .a = "/d/sock", .mode = 0600},
    {.kind = OP_CHMOD, .a = "/d/null", .mode = 0600},
    {.kind = OP_CHMOD, .a = "/", .mode = 0711},
    {.kind = OP_SETXATTR, .a = "/d/a", .b = "user.two", .text = "zwei"},
    {.kind = OP_SETXATTR, .a = "/d/sub/x", .b = "trusted.overlay.mine", .text = "escaped"},
    {.kind = OP_SETXATTR, .a = "/d/sub/x", .b = "trusted.overlay.opaque", .text = "y"},
    {.kind = OP_SETXATTR, .a = "/n", .b = "user.n", .text = "enn"},
    {.kind = OP_REMOVEXATTR, .a = "/d/a", .b = "user.one"},
    {.kind = OP_REMOVEXATTR, .a = "/d/sub/x", .b = "trusted.overlay.mine"},
    /* data */
    {.kind = OP_WRITE, .a = "/d/a", .flags = O_WRONLY, .number = 2, .text = "XX"},
    {.kind = OP_WRITE, .a = "/d/b", .flags = O_WRONLY | O_APPEND, .text = " and more"},
    {.kind = OP_WRITE, .a = "/d/c", .flags = O_WRONLY | O_TRUNC, .text = "cut"},
    {.kind = OP_WRITE, .a = "/d/sub/y", .flags = O_RDONLY | O_TRUNC},
    {.kind = OP_WRITE, .a = "/d/sub/t/z", .flags = O_RDWR},
    {.kind = OP_WRITE, .a = "/empty", .flags = O_WRONLY, .text = "no more"},
    {.kind = OP_WRITE, .a = "/makes", .flags = O_WRONLY | O_CREAT, .mode = 0640, .text = "through a symlink"},
    {.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .number = 100000, .text = "in the middle"},
    {.kind = OP_TRUNCATE, .a = "/big", .number = 5000},
    {.kind = OP_TRUNCATE, .a = "/big", .number = 15000},
    {.kind = OP_TRUNCATE, .a = "/sparse", .number = 100000},
    {.kind = OP_WRITE, .a = "/sparse", .flags = O_WRONLY, .number = 50000, .text = "in a hole"},
    {.kind = OP_WRITE, .a = "/d/new", .flags = NEW, .mode = 0666, .text = "new"},
    {.kind = OP_WRITE, .a = "/g/new", .flags = NEW, .mode = 0666, .text = "of a group"},
    /* names */
    {.kind = OP_MKDIR, .a = "/g/in", .mode = 0777},
    {.kind = OP_MKDIR, .a = "/m/", .mode = 01777},
    {.kind = OP_MKNOD, .a = "/m/p", .mode = S_IFIFO | 0622},
    {.kind = OP_MKNOD, .a = "/m/null", .mode = S_IFCHR | 0622, .number = 0x103},
    {.kind = OP_SYMLINK, .a = "../d/a", .b = "/m/s"},
    {.kind = OP_LINK, .a = "/d/new", .b = "/m/new"},
    {.kind = OP_LINK, .a = "/d/a", .b = "/m/a"},
    {.kind = OP_LINK, .a = "/d/ln", .b = "/m/ln"},
    {.kind = OP_LINK, .a = "/n/low", .b = "/m/low"},
    {.kind = OP_WRITE, .a = "/m/low", .flags = O_WRONLY, .text = "L"},
    {.kind = OP_UNLINK, .a = "/d/sub/x"},
    {.kind = OP_UNLINK, .a = "/d/new"},
    {.kind = OP_UNLINK, .a = "/n/deep/down"},
    {.kind = OP_UNLINK, .a = "/d/fifo"},
    {.kind = OP_MKNOD, .a = "/d/fifo", .mode = S_IFREG | 0600},
    {.kind = OP_WRITE, .a = "/d/sub/x", .flags = O_WRONLY | O_CREAT, .mode = 0600, .text = "again"},
    {.kind = OP_UNLINK, .a = "/d/sub/x"},
    {.kind = OP_MKDIR, .a = "/d/sub/x", .mode = 0700},
    {.kind = OP_RMDIR, .a = "/d/sub/x"},
    {.kind = OP_SYMLINK, .a = "t", .b = "/d/sub/x"},
    {.kind = OP_UNLINK, .a = "/d/sub/x"},
    {.kind = OP_LINK, .a = "/d/a", .b = "/d/sub/x"},
    {.kind = OP_RMDIR, .a = "/n/deep"},
    {.kind = OP_MKDIR, .a = "/n/deep", .mode = 0755},
    {.kind = OP_WRITE, .a = "/n/deep/other", .flags = NEW, .mode = 0644},
    {.kind = OP_UNLINK, .a = "/o/seen"},
    {.kind = OP_RMDIR, .a = "/o"},
    {.kind = OP_MKDIR, .a = "/o", .mode = 0750},
    {.kind = OP_RMDIR, .a = "/e"},
    {.kind = OP_MKDIR, .a = "/e", .mode = 0755},
    {.kind = OP_RMDIR, .a = "/e"},
    {.kind = OP_UNLINK, .a = "/g/new"},
    {.kind = OP_WRITE, .a = "/g/new", .flags = NEW, .mode = 0666, .text = "of a group"},
    /* renames of files */
    {.kind = OP_RENAME, .a = "/d/a", .b = "/d/a2"},
    {.kind = OP_RENAME, .a = "/d/a2", .b = "/d/b"},
    {.kind = OP_RENAME, .a = "/d/b", .b = "/d/sub/x"},
    {.kind = OP_RENAME, .a = "/n/low", .b = "/e"},
    {.kind = OP_RENAME, .a = "/e", .b = "/n/low"},
    {.kind = OP_RENAME, .a = "/d/null", .b = "/d/sub/null"},
    {.kind = OP_RENAME, .a = "/d/sock", .b = "/d/a", .number = RENAME_NOREPLACE},
    {.kind = OP_RENAME, .a = "/dangling", .b = "/d/dangling"},
    {.kind = OP_RENAME, .a = "/d/c", .b = "/d/sub/y", .number = RENAME_EXCHANGE},
    {.kind = OP_RENAME, .a = "/big", .b = "/d/big"},
    {.kind = OP_RENAME, .a = "/d/big", .b = "/d/big2"},
    {.kind = OP_WRITE, .a = "/d/big2", .flags = O_WRONLY, .number = 4, .text = "after two renames"},
    /* renames of directories */
    {.kind = OP_RENAME, .a = "/d/sub", .b = "/moved"},
    {.kind = OP_WRITE, .a = "/moved/t/z", .flags = O_WRONLY, .text = "Z"},
    {.kind = OP_CHMOD, .a = "/moved/t", .mode = 0700},
    {.kind = OP_RENAME, .a = "/moved", .b = "/moved2/"},
    {.kind = OP_RENAME, .a = "/moved2/t", .b = "/m/t"},
    {.kind = OP_MKDIR, .a = "/moved2/t", .mode = 0755},
    {.kind = OP_RENAME, .a = "/m/t", .b = "/moved2/t"},
    {.kind = OP_RENAME, .a = "/n", .b = "/d/n"},
    {.kind = OP_MKDIR, .a = "/n", .mode = 0755},
    {.kind = OP_RENAME, .a = "/d/n/w", .b = "/n/w"},
    {.kind = OP_RENAME, .a = "/n", .b = "/o"},
    {.kind = OP_RENAME, .a = "/d", .b = "/o/d"},
    {.kind = OP_RENAME, .a = "/o", .b = "/g", .number = RENAME_EXCHANGE},
    {.kind = OP_RENAME, .a = "/g/d", .b = "/moved2", .number = RENAME_EXCHANGE},
    {.kind = OP_RENAME, .a = "/moved2/big2", .b = "/g/d/t", .number = RENAME_EXCHANGE},
    {.kind = OP_RENAME, .a = "/m", .b = "/d"},
    {.kind = OP_RMDIR, .a = "/d"},
    {.kind = OP_RENAME, .a = "/h", .b = "/d/h"},
    {.kind = OP_RENAME, .a = "/d", .b = "/m"},
};

static void by_hand(void)
{
    struct rig rig;
    rig_new(&rig);
    struct op none = {.kind = OP_CHMOD, .a = "/"};
    check_same(&rig, &none, false);
    for (size_t i = 0; i < sizeof script / sizeof *script; i++) {
        bool worked = step(&rig, &script[i]) == 0;
        if (worked || i % 16 == 0)
            check_same(&rig, &script[i], worked);
    }
    rig_free(&rig);
}

/* ---- operations at random ---- */

static uint32_t state;

static uint32_t roll(uint32_t bound)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % bound;
}

static const char *any_path(void)
{
    static const char *const paths[] = {
        "/d",        "/d/a",      "/d/b",    "/d/c",       "/d/sub",     "/d/sub/x",  "/d/sub/t",   "/d/sub/t/z",
        "/e",        "/n",        "/n/deep", "/n/w",       "/n/low",     "/o",        "/o/seen",    "/x",
        "/x/d",      "/x/sub",    "/e/a",    "/e/sub",     "/e/sub/x",   "/o/sub",    "/o/sub/t/z", "/d/n",
        "/d/n/deep", "/big",      "/d/big",  "/e/sub/t",   "/d/gone",    "/n/w/only", "/g",         "/g/a",
        "/g/sub",    "/d/n/low",  "/d/ln",   "/x/sub/t",   "/dirlink/a", "/d/sub/..", "/n/w/",      "/empty",
        "/sparse",   "/o/hidden", "/x/d/a",  "/x/d/sub/x", "/d/fifo"};
    return paths[roll(sizeof paths / sizeof *paths)];
}

static struct op any_op(void)
{
    static const enum op_kind kinds[] = {OP_MKDIR,  OP_MKDIR,  OP_WRITE,  OP_WRITE,    OP_WRITE,      OP_UNLINK,
                                         OP_RMDIR,  OP_RMDIR,  OP_RENAME, OP_RENAME,   OP_RENAME,     OP_RENAME,
                                         OP_LINK,   OP_CHMOD,  OP_CHOWN,  OP_SYMLINK,  OP_MKNOD,      OP_TRUNCATE,
                                         OP_UTIMES, OP_RENAME, OP_UNLINK, OP_SETXATTR, OP_REMOVEXATTR};
    static const uint64_t renames[] = {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE};
    static const int opens[] = {O_WRONLY,         O_WRONLY | O_CREAT,  O_WRONLY | O_CREAT | O_EXCL,
                                O_RDWR | O_TRUNC, O_WRONLY | O_APPEND, O_RDONLY | O_CREAT};
    struct op op = {.kind = kinds[roll(sizeof kinds / sizeof *kinds)], .a = any_path(), .mode = 0600 | roll(0200)};
    switch (op.kind) {
    case OP_SYMLINK:
        op.b = op.a;
        op.a = roll(2) != 0 ? "a" : "/d/sub";
        break;
    case OP_LINK:
        op.b = any_path();
        break;
    case OP_RENAME:
        op.b = any_path();
        op.number = renames[roll(6)];
        break;
    case OP_CHOWN:
        op.nofollow = true;
        op.number = roll(5);
        break;
    case OP_MKNOD:
        op.mode |= roll(2) != 0 ? S_IFIFO : S_IFREG;
        break;
    case OP_TRUNCATE:
        op.number = roll(3) * 3000;
        break;
    case OP_SETXATTR:
        op.text = "value";
        op.number = roll(3);
        /* fall through */
    case OP_REMOVEXATTR:
        op.b = roll(3) != 0 ? "user.one" : "trusted.overlay.redirect";
        break;
    case OP_WRITE:
        op.flags = opens[roll(6)] | O_NONBLOCK;
        op.text = (op.flags & O_ACCMODE) != O_RDONLY ? "some bytes" : NULL;
        op.number = roll(2) * 5000;
        break;
    default:
        break;
    }
    return op;
}

/* What is known to differ: overlayfs opens fifos, and waits or not; the union does not. */
static bool differs(struct rig *rig, const struct op *op)
{
    struct lz_union_info info;
    return (op->kind == OP_WRITE || op->kind == OP_TRUNCATE) &&
           lz_union_stat(rig->self, op->a, strlen(op->a), 0, &info) == 0 && info.kind != LZ_KIND_FILE &&
           info.kind != LZ_KIND_DIRECTORY;
}

static struct op *shared_op; /* what the child reads it from */

static void at_random(void)
{
    const char *text = getenv("LZ_SEED"), *rounds = getenv("LZ_ROUNDS");
    uint32_t first = text != NULL ? (uint32_t)strtoul(text, NULL, 0) : 1;
    uint32_t count = rounds != NULL ? (uint32_t)strtoul(rounds, NULL, 0) : 5;
    shared_op = mmap(NULL, sizeof *shared_op, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared_op != MAP_FAILED);
    for (uint32_t seed = first; seed < first + count; seed++) {
        struct rig rig;
        fprintf(stderr, "    LZ_SEED=%u\n", seed);
        state = seed * 2654435761u;
        rig_new(&rig);
        for (int i = 0; i < 250; i++) {
            *shared_op = any_op();
            if (!differs(&rig, shared_op) && step(&rig, shared_op) == 0)
                check_same(&rig, shared_op, i % 10 == 0);
        }
        check_same(&rig, shared_op, true);
        rig_free(&rig);
    }
    CHECK_EQ(munmap(shared_op, sizeof *shared_op), 0);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  skipped: mounting overlayfs needs root\n");
        return 0;
    }
    CHECK_EQ(unshare(CLONE_NEWNS), 0);
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK_EQ(mount("tmpfs", "/var/tmp", "tmpfs", 0, NULL), 0); /* each copy-up writes back: no disk is to wait for */
    (void)umask(022);                                          /* which the union does not have */
    RUN(by_hand);
    RUN(at_random);
    return check_end();
}
