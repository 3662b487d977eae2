"""usage: stopwatch.py DESCRIPTOR SECONDS COMMAND...; runs the command, at most so long, and writes
"WALL_S CPU_S PEAK_KIB" to the descriptor.

A process of its own because a child begins with the peak memory of the process that started it (the kernel keeps
`maxrss` over exec): under a test runner of 70 MB nothing would ever peak below that. This one has 9 MB.
"""

import os
import signal
import sys
import time

report, patience, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
os.set_inheritable(report, False)
started = time.perf_counter()
try:
    child = os.posix_spawnp(command[0], command, os.environ)
except OSError as error:
    sys.exit(f"{command[0]}: {error.strerror}")


def give_up(*_: object) -> None:
    """The question goes on without a peer that hangs."""
    os.kill(child, signal.SIGKILL)
    sys.exit(f"{command[0]}: not done after {patience} s")


signal.signal(signal.SIGALRM, give_up)
signal.alarm(patience)
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - started
os.write(report, f"{wall} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}".encode())
sys.exit(os.waitstatus_to_exitcode(status) % 256)
