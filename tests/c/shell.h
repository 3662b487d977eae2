/* shell.h - shell lines in a directory of the test's own, and what the process has open: for tests that make trees, disks
 * and mounts. */
#ifndef SHELL_H
#define SHELL_H

#include <dirent.h>

#include "check.h"

/* Runs a shell line with `top` as its working directory; it must succeed. */
static inline void shell_in(const char *top, const char *line)
{
    char command[2048];
    (void)snprintf(command, sizeof command, "cd %s && %s", top, line);
    int rc = system(command);
    if (rc != 0)
        fprintf(stderr, "failed: %s\n", command);
    CHECK_EQ(rc, 0);
}

/* Descriptors of this process, for leak checks. */
static inline int count_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    int count = 0;
    while (readdir(directory) != NULL)
        count++;
    CHECK_EQ(closedir(directory), 0);
    return count;
}

#endif
