"""usage: janitor.py DESCRIPTOR DIRECTORY; waits until nobody has the pipe's other end any more, then removes DIRECTORY.

A process of its own, in a session of its own, so that a benchmark run that is killed leaves no files behind either: its
mounts and processes go with its namespaces.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

pipe, directory = int(sys.argv[1]), sys.argv[2]
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
with contextlib.suppress(OSError):
    os.read(pipe, 1)
for _ in range(100):  # the last processes of the namespace may still be ending
    shutil.rmtree(directory, ignore_errors=True)
    if not os.path.lexists(directory):
        break
    time.sleep(0.1)
