/* lz_spawn.h - start a program, in a cgroup, with one directory of the host hidden from it.
 *
 * What posix_spawn() does (a vfork()-like child, so the cost does not grow with the caller's memory), plus three things
 * that it cannot do. The program may begin in a cgroup of the caller's choice. It may run in a mount namespace of its
 * own in which a directory is covered with an empty read-only tmpfs: that is how a runtime that refuses the machine's
 * cgroup set-up is kept from seeing it. Mounts made and undone outside still reach that namespace (it is a slave), so it
 * never keeps a root file system busy. And in a chroot it gets such a namespace too, whose root mount is that directory,
 * which runtimes take for granted: the same files under the same names.
 */
#ifndef LZ_SPAWN_H
#define LZ_SPAWN_H

#include <stdbool.h>

#include "lz_err.h"

struct lz_spawn {
    const char *path; /* of the program, absolute */
    char *const *argv;
    char *const *envp;
    int stdio[3];     /* descriptors that become 0, 1 and 2 */
    const char *join; /* the file `tasks` of the cgroup that it begins in; NULL: the caller's */
    const char *hide; /* NULL: nothing is hidden */
};

/* The pid of the new process, which leads a session of its own, has an empty signal mask and default dispositions; or
 * -errno of the step that failed, named in `detail`. It has the three descriptors and no others, and once this function
 * has returned no copy of the caller's: execve() would close them only after the caller of vfork() has been let go, and
 * whoever unmounts a file system in another thread would find it busy. */
int lz_spawn(const struct lz_spawn *spawn, struct lz_detail *detail);

/* Makes orphaned grandchildren children of the calling process (prctl PR_SET_CHILD_SUBREAPER). 0 or -errno. */
int lz_set_subreaper(bool on);

#endif
