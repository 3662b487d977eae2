#include "lz_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
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

static const char *hide(const char *directory)
{
    if (unshare(CLONE_NEWNS) < 0)
        return "unshare";
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return "making mounts slaves";
    if (mount("none", directory, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755") < 0)
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
    const char *step = spawn->hide != NULL ? hide(spawn->hide) : NULL;
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
