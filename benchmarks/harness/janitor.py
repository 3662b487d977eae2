"""usage: janitor.py DESCRIPTOR DIRECTORY; waits until nobody has the pipe's other end any more, then removes DIRECTORY
and what begins with its name among the kernel's traces and in /run.

A process of its own, in a session of its own, so that a benchmark run that is killed leaves no files behind either: its
mounts and processes go with its namespaces.
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


def forget(name: str) -> bool:
    """Removes what begins with the run's name outside of its directory. Is all of it gone?"""
    for path in glob.glob(f"/run/{glob.escape(name)}-*"):
        shutil.rmtree(path, ignore_errors=True)
    if os.geteuid() != 0:
        return True
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", TRACES, "sh", name]
    return subprocess.run(alone, check=False, stderr=subprocess.DEVNULL).returncode == 0


pipe, directory = int(sys.argv[1]), sys.argv[2]
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
with contextlib.suppress(OSError):
    os.read(pipe, 1)
for _ in range(100):  # the last processes of the namespace may still be ending
    shutil.rmtree(directory, ignore_errors=True)
    # after the directory: who is not dead yet can make nothing new without it
    if not os.path.lexists(directory) and forget(os.path.basename(directory)):
        break
    time.sleep(0.1)
