"""usage: janitor.py DESCRIPTOR DIRECTORY; waits until nobody has the pipe's other end any more, then removes DIRECTORY
and what begins with its name among the kernel's traces and cgroups and in /run.

A process of its own, in a session of its own, so that a benchmark run that is killed leaves no files behind either: its
mounts and processes go with its namespaces. Only then is the directory removed: rmdir of a place where another mount
namespace has something mounted detaches that, with all below still connected to it (namespace.c, UMOUNT_CONNECTED). A
container in there has its EROFS image open through the mount that it hangs on, as a pool has its image: neither would
ever go, nor the loop device below. A kill in a container's first write left one so 12 of 13 times.
"""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import time

# In a mount namespace of its own, so that nothing of it stays: any directory will do.
TRACES = """
mount -t tracefs tracefs /tmp || exit 0
for trace in /tmp/instances/"$1"*; do [ ! -d "$trace" ] || rmdir "$trace" || exit; done
"""


def mounted(directory: str) -> bool:
    """Has any process something mounted below the directory?"""
    below = os.path.realpath(directory) + "/"
    for special in "\\ \t\n#":  # proc(5): octal there; the backslash first
        below = below.replace(special, f"\\{ord(special):03o}")
    for path in glob.glob("/proc/[0-9]*/mountinfo"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as mounts:
            if any(f" {below}" in line for line in mounts):
                return True
    return False


def forget(name: str) -> bool:
    """Removes what begins with the run's name outside of its directory. Is all of it gone?"""
    for path in glob.glob(f"/run/{glob.escape(name)}-*"):
        shutil.rmtree(path, ignore_errors=True)
    for tree in (f"/sys/fs/cgroup/{name}", *glob.glob(f"/sys/fs/cgroup/*/{glob.escape(name)}")):
        for path, _, _ in os.walk(tree, topdown=False):
            with contextlib.suppress(OSError):  # somebody is still in it
                os.rmdir(path)
    if os.geteuid() != 0:
        return True
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", TRACES, "sh", name]
    return subprocess.run(alone, check=False, stderr=subprocess.DEVNULL).returncode == 0


pipe, directory = int(sys.argv[1]), sys.argv[2]
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
with contextlib.suppress(OSError):
    os.read(pipe, 1)
for _ in range(300):  # the last processes of the namespace may still be ending
    time.sleep(0.1)  # a process that ends has no mountinfo any more a moment before its mounts are gone
    if mounted(directory):
        continue
    shutil.rmtree(directory, ignore_errors=True)
    # after the directory: who is not dead yet can make nothing new without it
    if not os.path.lexists(directory) and forget(os.path.basename(directory)):
        break
