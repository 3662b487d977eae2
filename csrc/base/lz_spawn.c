#include "lz_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Written by the child, read by the parent: a vfork() child shares the parent's memory. The object itself must be
 * volatile: the compiler sees that the child never returns, and would conclude that the parent's copy cannot change. */
struct failure {
    int error;
    const char *step;
};

static void reset_signals(void)
{
    for (int number = 1; number < NSIG; number++) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        if (number != SIGKILL && number != SIGSTOP)
            sigaction(number, &action, NULL); /* the numbers that the C library keeps for itself fail; fine */
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Is the root directory a mount point? Not in a chroot to a plain directory. Yes where the kernel does not say. */
static bool root_is_mount(void)
{
    struct statx root;
    return statx(AT_FDCWD, "/", 0, 0, &root) < 0 || !(root.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) ||
           (root.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

/* Goes up from `directory` to the root of the mount namespace, which becomes the root directory. */
static int climb(int directory)
{
    if (fchdir(directory) < 0 || chroot("proc") < 0) /* any directory below: from outside it, ".." leads to the top */
        return -1;
    struct stat here, up;
    if (stat(".", &up) < 0)
        return -1;
    do {
        here = up;
        if (chdir("..") < 0 || stat(".", &up) < 0)
            return -1;
    } while (here.st_dev != up.st_dev || here.st_ino != up.st_ino);
    return chroot(".");
}

/* Makes "/", a plain directory, the root mount of this namespace, with the mounts below it and no others. Nothing less
 * will do: who enters the namespace of a container later begins at its root mount, not in a directory of that. */
static const char *make_root_mount(void)
{
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || climb(root) < 0)
        return "leaving the chroot";
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return "making mounts slaves";
    int tree = open_tree(root, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH);
    if (tree < 0 || move_mount(tree, "", root, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
        return "making the root directory a mount point";
    if (fchdir(tree) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
        return "changing the root mount";
    return umount2(".", MNT_DETACH) < 0 ? "letting go of the old root mount" : NULL;
}

static const char *own_mounts(const char *hidden)
{
    bool in_place = root_is_mount();
    if (in_place && hidden == NULL)
        return NULL;
    if (unshare(CLONE_NEWNS) < 0)
        return "unshare";
    if (!in_place) {
        const char *step = make_root_mount();
        if (step != NULL)
            return step;
    } else if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
        return "making mounts slaves";
    }
    if (hidden != NULL && mount("none", hidden, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755") < 0)
        return "covering a directory";
    return NULL;
}

static const char *place_stdio(const int stdio[3])
{
    int high[3];
    for (int i = 0; i < 3; i++) { /* out of the way first: a source may be another one's target */
        high[i] = fcntl(stdio[i], F_DUPFD_CLOEXEC, 3);
        if (high[i] < 0)
            return "duplicating a descriptor";
    }
    for (int i = 0; i < 3; i++)
        if (dup2(high[i], i) < 0)
            return "placing a descriptor";
    return NULL;
}

static void child(const struct lz_spawn *spawn, volatile struct failure *failure)
{
    setsid();
    const char *step = own_mounts(spawn->hide);
    if (step == NULL)
        step = place_stdio(spawn->stdio);
    if (step == NULL) {
        reset_signals();
        execve(spawn->path, spawn->argv, spawn->envp);
        step = "execve";
    }
    failure->error = errno;
    failure->step = step;
    _exit(127);
}

int lz_spawn(const struct lz_spawn *spawn, struct lz_detail *detail)
{
    volatile struct failure failure = {0, NULL};
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* no handler of the caller may run in the child */
    pid_t pid = vfork();
    if (pid == 0)
        child(spawn, &failure);
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        return lz_fail(detail, -error, "fork: %s", strerror(error));
    error = failure.error;
    if (error != 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
        return lz_fail(detail, -error, "%s: %s: %s", spawn->path, failure.step, strerror(error));
    }
    return pid;
}

int lz_set_subreaper(bool on)
{
    return prctl(PR_SET_CHILD_SUBREAPER, on ? 1 : 0, 0, 0, 0) < 0 ? -errno : 0;
}
