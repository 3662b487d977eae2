/* usage: bare_spawn COUNT COMMAND...; starts the command COUNT times and prints the nanoseconds of each, from before the
 * start to after its end: what a process costs before anybody measures it. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    for (long left = strtol(argv[1], NULL, 10); left > 0; left--) {
        long long begun = now();
        pid_t child;
        int status;
        if (posix_spawnp(&child, argv[2], NULL, NULL, argv + 2, environ) != 0 || waitpid(child, &status, 0) != child ||
            status != 0)
            return 1;
        printf("%lld\n", now() - begun);
    }
    return 0;
}
