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

static int look(const char *path, struct statx *out)
{
    return statx(AT_FDCWD, path, 0, STATX_INO | STATX_MNT_ID, out);
}

static bool same_place(const struct statx *a, const struct statx *b)
{
    return a->stx_mnt_id == b->stx_mnt_id && a->stx_ino == b->stx_ino;
}

/* Goes up from `directory` to the root of the mount namespace; the root directory is somewhere below then. */
static int climb(int directory)
{
    if (fchdir(directory) < 0 || chroot("proc") < 0) /* any directory below: from outside it, ".." leads to the top */
        return -1;
    struct statx here, up;
    if (look(".", &up) < 0)
        return -1;
    do {
        here = up;
        if (chdir("..") < 0 || look(".", &up) < 0)
            return -1;
    } while (!same_place(&here, &up));
    return 0;
}

/* Is the root directory another than that of the mount namespace, be it the root of a mount or a plain directory? 1, 0,
 * or -1 with errno. 0 for a user who may not ask, and who could not start a container either. */
static int in_chroot(void)
{
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return -1;
    int place = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct statx own, top;
    int answer = -1;
    if (fchdir(root) == 0 && chroot(".") < 0 && errno == EPERM)
        answer = 0;
    else if (look("/", &own) == 0 && climb(root) == 0 && look(".", &top) == 0 && fchdir(root) == 0 && chroot(".") == 0)
        answer = !same_place(&own, &top);
    int error = errno;
    if (place >= 0) {
        (void)!fchdir(place);
        close(place);
    }
    close(root);
    errno = error;
    return answer;
}

/* Makes "/" of a chroot the root mount of this namespace, with the mounts below it and no others. Nothing less
 * will do: who enters the namespace of a container later begins at its root mount, not in a directory of that. */
static const char *make_root_mount(void)
{
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || climb(root) < 0 || chroot(".") < 0)
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
    int elsewhere = in_chroot();
    if (elsewhere < 0)
        return "looking out of the chroot";
    if (elsewhere == 0 && hidden == NULL)
        return NULL;
    if (unshare(CLONE_NEWNS) < 0)
        return "unshare";
    if (elsewhere == 1) {
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

/* Through `tasks`, not `cgroup.procs`: one thread that moves itself need not wait until no process forks. */
static const char *join_cgroup(const char *members)
{
    if (members == NULL)
        return NULL;
    int fd = open(members, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) < 0) /* 0: whoever writes it */
        return "joining a cgroup";
    close(fd);
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
    return close_range(3, ~0U, 0) < 0 ? "closing descriptors" : NULL;
}

static void child(const struct lz_spawn *spawn, volatile struct failure *failure)
{
    setsid();
    const char *step = join_cgroup(spawn->join); /* before its directory may be hidden */
    if (step == NULL)
        step = own_mounts(spawn->hide);
    if (step == NULL)
        step = place_stdio(spawn->stdio); /* last: it closes what the others have opened */
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
