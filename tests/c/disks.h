/* disks.h - small real file systems for a test, in a mount namespace of its own, so that nothing can stay mounted.
 *
 *     struct disk disk;
 *     if (disk_mount(&disk, "xfs", 320)) { ...disk.path, disk.fd...; disk_unmount(&disk); }
 *
 * What this machine cannot make (no mkfs for it, not root) is said on stderr, once for each use.
 */
#ifndef DISKS_H
#define DISKS_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

struct disk {
    const char *type;
    char path[64];
    int fd; /* the root directory */
};

static inline bool disk_own_namespace(void)
{
    static bool done;
    if (!done && (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)) {
        fprintf(stderr, "    left out: no mount namespace: %s\n", strerror(errno));
        return false;
    }
    done = true;
    return true;
}

static inline bool disk_shell(const char *line)
{
    char command[1024];
    (void)snprintf(command, sizeof command, "PATH=$PATH:/usr/sbin:/sbin; { %s; } >/dev/null 2>&1", line);
    return system(command) == 0;
}

/* `type`: ext4, xfs (320 MiB at least), btrfs (120 MiB at least) or tmpfs; `size` in MiB. */
static inline bool disk_mount(struct disk *disk, const char *type, unsigned size)
{
    char line[512];
    *disk = (struct disk){.type = type, .path = "/var/tmp/lz-disk-XXXXXX"};
    if (!disk_own_namespace())
        return false;
    CHECK(mkdtemp(disk->path) != NULL);
    if (strcmp(type, "tmpfs") == 0)
        (void)snprintf(line, sizeof line, "mount -t tmpfs -o size=%um lz-disk %s", size, disk->path);
    else
        (void)snprintf(line, sizeof line,
                       "truncate -s %uM %s.image && mkfs.%s -q %s.image && mount -o loop %s.image %s", size, disk->path,
                       type, disk->path, disk->path, disk->path);
    bool mounted = disk_shell(line);
    (void)snprintf(line, sizeof line, "%s.image", disk->path);
    (void)unlink(line); /* the loop device keeps it */
    if (!mounted) {
        fprintf(stderr, "    left out: no %s (mkfs.%s, loop devices and root make it)\n", type, type);
        CHECK_EQ(rmdir(disk->path), 0);
        return false;
    }
    disk->fd = open(disk->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(disk->fd >= 0);
    return true;
}

static inline void disk_unmount(struct disk *disk)
{
    CHECK_EQ(close(disk->fd), 0);
    CHECK_EQ(umount2(disk->path, 0), 0); /* busy: somebody leaked a descriptor */
    CHECK_EQ(rmdir(disk->path), 0);
}

#endif
