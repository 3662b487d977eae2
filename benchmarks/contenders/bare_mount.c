/* The system calls that a container's root file system needs, and nothing else: the floor for start__mounted_rootfs.py.
 * usage: bare_mount IMAGE OBJECTS UPPER WORK TARGET ROUNDS; prints nanoseconds a round for mounting. */
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* glibc's sys/mount.h and linux/mount.h cannot be included together in Debian 12 */
extern int umount2(const char *target, int flags);

static int must(long rc, const char *what)
{
    if (rc < 0) {
        perror(what);
        exit(1);
    }
    return (int)rc;
}

static int set(int fs, unsigned command, const char *key, const void *value, int aux)
{
    return must(syscall(SYS_fsconfig, fs, command, key, value, aux), key != NULL ? key : "create");
}

static void mount_once(char **path)
{
    int erofs = must(syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC), "fsopen erofs");
    set(erofs, FSCONFIG_SET_STRING, "source", path[1], 0);
    set(erofs, FSCONFIG_SET_FLAG, "ro", NULL, 0);
    set(erofs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    int lower = must(syscall(SYS_fsmount, erofs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY), "fsmount erofs");
    int data = must(open(path[2], O_PATH | O_CLOEXEC), "objects");
    int upper = must(open(path[3], O_PATH | O_CLOEXEC), "upper");
    int work = must(open(path[4], O_PATH | O_CLOEXEC), "work");
    int overlay = must(syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC), "fsopen overlay");
    set(overlay, FSCONFIG_SET_FD, "lowerdir+", NULL, lower);
    set(overlay, FSCONFIG_SET_FD, "datadir+", NULL, data);
    set(overlay, FSCONFIG_SET_FD, "upperdir", NULL, upper);
    set(overlay, FSCONFIG_SET_FD, "workdir", NULL, work);
    set(overlay, FSCONFIG_SET_STRING, "metacopy", "on", 0);
    set(overlay, FSCONFIG_SET_STRING, "redirect_dir", "on", 0);
    set(overlay, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    int merged = must(syscall(SYS_fsmount, overlay, FSMOUNT_CLOEXEC, 0), "fsmount overlay");
    must(syscall(SYS_move_mount, merged, "", AT_FDCWD, path[5], MOVE_MOUNT_F_EMPTY_PATH), "move_mount");
    int all[] = {erofs, lower, data, upper, work, overlay, merged};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        close(all[i]);
}

int main(int count, char **path)
{
    if (count != 7) {
        fprintf(stderr, "usage: bare_mount IMAGE OBJECTS UPPER WORK TARGET ROUNDS\n");
        return 2;
    }
    for (long round = atol(path[6]); round > 0; round--) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        mount_once(path);
        clock_gettime(CLOCK_MONOTONIC, &to);
        printf("%ld\n", (to.tv_sec - from.tv_sec) * 1000000000L + (to.tv_nsec - from.tv_nsec));
        must(umount2(path[5], 0), "umount");
    }
    return 0;
}
