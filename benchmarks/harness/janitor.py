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

# In a mount namespace of its own, so that nothing of it stays.
TRACES = """
mount -t tracefs tracefs "$1" || exit
for trace in "$1"/instances/"$2"*; do [ ! -d "$trace" ] || rmdir "$trace"; done
"""

pipe, directory = int(sys.argv[1]), sys.argv[2]
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
with contextlib.suppress(OSError):
    os.read(pipe, 1)
if os.geteuid() == 0:
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", TRACES, "sh"]
    subprocess.run([*alone, directory, os.path.basename(directory)], check=False, stderr=subprocess.DEVNULL)
for path in glob.glob(f"/run/{glob.escape(os.path.basename(directory))}-*"):
    shutil.rmtree(path, ignore_errors=True)
for _ in range(100):  # the last processes of the namespace may still be ending
    shutil.rmtree(directory, ignore_errors=True)
    if not os.path.lexists(directory):
        break
    time.sleep(0.1)
