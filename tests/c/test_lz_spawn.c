#include "base/lz_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static char *const ENVIRONMENT[] = {"PATH=/usr/bin:/bin", "WORD=lazarus", NULL};

/* Runs `sh -c script` with stdout in a pipe; the exit status, and what it wrote. */
static int run(const char *script, const char *hide, char *out, size_t size)
{
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(null >= 0);
    char *argv[] = {"sh", "-c", (char *)script, NULL};
    struct lz_spawn spawn = {
        .path = "/bin/sh", .argv = argv, .envp = ENVIRONMENT, .stdio = {null, ends[1], 2}, .hide = hide};
    struct lz_detail detail = {""};
    int pid = lz_spawn(&spawn, &detail);
    CHECK(pid > 0);
    close(ends[1]);
    close(null);
    size_t got = 0;
    ssize_t count;
    while (got + 1 < size && (count = read(ends[0], out + got, size - 1 - got)) > 0)
        got += (size_t)count;
    out[got] = '\0';
    close(ends[0]);
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    return status;
}

static void arguments_environment_and_status_arrive(void)
{
    char out[200];
    int status = run("echo $WORD; exit 7", NULL, out, sizeof out);
    CHECK_STR(out, "lazarus\n");
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 7);
}

static void signals_are_at_their_defaults(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    CHECK(sigaction(SIGPIPE, &ignore, &before) == 0);
    char out[200];
    int status = run("kill -PIPE $$; echo survived", NULL, out, sizeof out);
    CHECK(sigaction(SIGPIPE, &before, NULL) == 0);
    CHECK_STR(out, "");
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), SIGPIPE);
}

static void it_leads_a_session(void)
{
    char out[200];
    run("read -r pid name state parent group session rest </proc/self/stat; test $session = $$ && echo yes", NULL, out,
        sizeof out);
    CHECK_STR(out, "yes\n");
}

static void swapped_stdio(void)
{
    /* 1 and 2 exchanged: every source is another one's target */
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    int saved = dup(2);
    CHECK(dup2(ends[1], 2) == 2);
    char *argv[] = {"sh", "-c", "echo to-out", NULL};
    struct lz_spawn spawn = {.path = "/bin/sh", .argv = argv, .envp = ENVIRONMENT, .stdio = {0, 2, 1}};
    int pid = lz_spawn(&spawn, NULL);
    CHECK(dup2(saved, 2) == 2);
    close(saved);
    close(ends[1]);
    CHECK(pid > 0);
    char out[20] = "";
    CHECK_EQ(read(ends[0], out, sizeof out - 1), 7);
    CHECK_STR(out, "to-out\n");
    close(ends[0]);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
}

static void no_other_descriptor_is_passed_on(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0); /* without close-on-exec */
    char out[200];
    run("ls /proc/$$/fd; :", NULL, out, sizeof out);
    CHECK_STR(out, "0\n1\n2\n");
    close(ends[0]);
    close(ends[1]);
}

static void a_missing_program_is_an_errno(void)
{
    char *argv[] = {"nothing", NULL};
    struct lz_spawn spawn = {.path = "/nonexistent/nothing", .argv = argv, .envp = ENVIRONMENT, .stdio = {0, 1, 2}};
    struct lz_detail detail = {""};
    CHECK_EQ(lz_spawn(&spawn, &detail), -ENOENT);
    CHECK_STR(detail.text, "/nonexistent/nothing: execve: No such file or directory");
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); /* no zombie */
    CHECK_EQ(errno, ECHILD);
}

static void a_directory_is_hidden_from_it_alone(void)
{
    char directory[] = "/tmp/lz_spawn_XXXXXX";
    CHECK(mkdtemp(directory) != NULL);
    char file[64], script[100], out[200];
    snprintf(file, sizeof file, "%s/file", directory);
    snprintf(script, sizeof script, "ls %s; echo done", directory);
    int fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
    if (geteuid() == 0) {
        run(script, directory, out, sizeof out);
        CHECK_STR(out, "done\n");
    }
    run(script, NULL, out, sizeof out);
    CHECK_STR(out, "file\ndone\n");
    char *argv[] = {"sh", NULL};
    struct lz_spawn spawn = {
        .path = "/bin/sh", .argv = argv, .envp = ENVIRONMENT, .stdio = {0, 1, 2}, .hide = "/nonexistent"};
    CHECK_EQ(lz_spawn(&spawn, NULL), geteuid() == 0 ? -ENOENT : -EPERM);
    unlink(file);
    rmdir(directory);
}

/* The whole of /proc/self/mountinfo. */
static size_t mount_table(char *out, size_t size)
{
    int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    size_t got = 0;
    ssize_t count;
    while (got + 1 < size && (count = read(fd, out + got, size - 1 - got)) > 0)
        got += (size_t)count;
    close(fd);
    out[got] = '\0';
    return got;
}

static void in_chroot(const char *root)
{
    CHECK(chroot(root) == 0 && chdir("/") == 0);
    static char before[1 << 16], after[1 << 16];
    CHECK(mount_table(before, sizeof before) > 0);
    char out[400];
    /* who enters the namespace later gets its root mount: nsenter does so, and must find the same directory */
    run("while read -r id parent device part place rest; do test $place = / && echo mounted; done "
        "</proc/self/mountinfo;"
        "nsenter --mount=/proc/self/ns/mnt sh -c 'ls -d /mark'; ls /mark /hide",
        "/hide", out, sizeof out);
    CHECK_STR(out, "mounted\n/mark\n/mark\n\n/hide:\n");
    run("nsenter --mount=/proc/self/ns/mnt ls -d /mark; ls /hide", NULL, out, sizeof out);
    CHECK_STR(out, "/mark\nfile\n");
    mount_table(after, sizeof after);
    CHECK_STR(after, before); /* outside nothing has changed */
}

static void a_chroot(bool to_a_mount)
{
    if (geteuid() != 0) {
        printf("  not root: left out\n");
        return;
    }
    char root[] = "/tmp/lz_spawn_XXXXXX";
    CHECK(mkdtemp(root) != NULL);
    static const char *const SCRIPT =
        "cd $0 && mkdir hide && touch mark hide/file && for path in /bin /sbin /lib* /usr /etc /proc /dev; do "
        "if test -L $path; then ln -s $(readlink $path) .$path; elif test -d $path; then mkdir .$path; fi; done";
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        execl("/bin/sh", "sh", "-ec", SCRIPT, root, NULL);
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) { /* shared: what is mounted in one namespace appears in the others */
        static const char *const SHOWN[] = {"/bin",    "/sbin", "/lib", "/lib32", "/lib64",
                                            "/libx32", "/usr",  "/etc", "/proc",  "/dev"};
        CHECK(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        CHECK(mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) == 0);
        if (to_a_mount)
            CHECK(mount(root, root, NULL, MS_BIND, NULL) == 0);
        for (size_t i = 0; i < sizeof SHOWN / sizeof *SHOWN; i++) {
            char place[80];
            struct stat found;
            snprintf(place, sizeof place, "%s%s", root, SHOWN[i]);
            if (lstat(place, &found) == 0 && S_ISDIR(found.st_mode))
                CHECK(mount(SHOWN[i], place, NULL, MS_BIND | MS_REC, NULL) == 0);
        }
        in_chroot(root);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    char command[100];
    snprintf(command, sizeof command, "rm -r --one-file-system %s", root);
    CHECK_EQ(system(command), 0);
}

static void a_chroot_to_a_plain_directory(void)
{
    a_chroot(false);
}

static void a_chroot_to_a_mount_point(void)
{
    a_chroot(true);
}

static void the_working_directory_stays(void)
{
    char before[400], out[400];
    CHECK(getcwd(before, sizeof before) != NULL && chdir("/usr/bin") == 0);
    run("readlink /proc/self/cwd; readlink /proc/self/root", NULL, out, sizeof out);
    CHECK(chdir(before) == 0);
    CHECK_STR(out, "/usr/bin\n/\n");
}

static void it_begins_in_a_cgroup(void)
{
    /* any file will do: what counts is what is written into it, and when */
    char file[] = "/tmp/lz_spawn_XXXXXX", out[10] = "";
    int fd = mkstemp(file);
    CHECK(fd >= 0);
    char *argv[] = {"sh", "-c", "true", NULL};
    struct lz_spawn spawn = {.path = "/bin/sh", .argv = argv, .envp = ENVIRONMENT, .stdio = {0, 1, 2}, .join = file};
    int pid = lz_spawn(&spawn, NULL);
    CHECK(pid > 0);
    CHECK_EQ(read(fd, out, sizeof out - 1), 1);
    CHECK_STR(out, "0");
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    close(fd);
    unlink(file);
    struct lz_detail detail = {""};
    CHECK_EQ(lz_spawn(&spawn, &detail), -ENOENT);
    CHECK_STR(detail.text, "/bin/sh: joining a cgroup: No such file or directory");
}

static void orphans_are_adopted(void)
{
    CHECK_EQ(lz_set_subreaper(true), 0);
    char out[200];
    run("(exec >/dev/null; sleep 0.1; exit 9) & echo $!", NULL, out, sizeof out);
    int orphan = atoi(out), status;
    CHECK_EQ(waitpid(orphan, &status, 0), orphan);
    CHECK_EQ(WEXITSTATUS(status), 9);
    CHECK_EQ(lz_set_subreaper(false), 0);
}

int main(void)
{
    RUN(arguments_environment_and_status_arrive);
    RUN(signals_are_at_their_defaults);
    RUN(it_leads_a_session);
    RUN(swapped_stdio);
    RUN(no_other_descriptor_is_passed_on);
    RUN(a_missing_program_is_an_errno);
    RUN(a_directory_is_hidden_from_it_alone);
    RUN(a_chroot_to_a_plain_directory);
    RUN(a_chroot_to_a_mount_point);
    RUN(the_working_directory_stays);
    RUN(it_begins_in_a_cgroup);
    RUN(orphans_are_adopted);
    return check_end();
}
