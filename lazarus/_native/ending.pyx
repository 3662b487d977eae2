"""The end of a command by a signal, also while it is in a long call of C, where no Python handler is called.

The first signal calls the Python handler, as soon as that can be. A read() that was about to begin when it came would
not notice it: so each second another signal interrupts what is being waited for. Who has not called `under_way` within
some seconds is ended then, with a line. What comes within a second of the first is the same end: `timeout` signals its
child and then its group, and a closed terminal is told by the shell and by the kernel. Whatever comes later is the
kernel's to act upon.
Nothing here allocates or takes a lock.
"""

from posix.signal cimport kill, sigaction, sigaction_t, sigemptyset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport _exit, alarm, getpid, write

cdef extern from "signal.h" nogil:
    ctypedef void (*sighandler_t)(int) noexcept nogil
    sighandler_t SIG_DFL
    enum: SIGALRM

cdef extern from "Python.h" nogil:
    int PyErr_SetInterruptEx(int number)

cdef enum: SECONDS = 5
cdef enum: SAME = 1000  # milliseconds

cdef char *TEXT = b"lazarus: terminated\n"
cdef int last = 0
cdef int seconds = 0  # since then
cdef long long since = 0  # milliseconds of the monotonic clock; 0: no signal yet
numbers = set()


cdef void late(int number) noexcept nogil:
    global seconds
    seconds += 1
    if seconds < SECONDS:
        alarm(1)
        return
    write(2, TEXT, 20)
    _exit(128 + last)


cdef int handle(int number, sighandler_t handler) noexcept nogil:
    """Without SA_RESTART, which signal() has: calls end with EINTR."""
    cdef sigaction_t action
    action.sa_handler = handler
    sigemptyset(&action.sa_mask)
    action.sa_flags = 0
    return sigaction(number, &action, NULL)


cdef void first(int number) noexcept nogil:
    global last, since
    cdef timespec clock
    clock_gettime(CLOCK_MONOTONIC, &clock)
    cdef long long now = clock.tv_sec * 1000 + clock.tv_nsec // 1000000
    if since != 0:
        if now - since >= SAME:
            handle(number, SIG_DFL)
            kill(getpid(), number)  # it waits until this handler has returned
        return
    since = now
    last = number
    handle(SIGALRM, late)
    alarm(1)
    PyErr_SetInterruptEx(number)


def on_first(int number):
    """To be called once signal.signal() has a handler for it, which calls `under_way`. Raises OSError."""
    if handle(number, first) != 0:
        raise OSError(22, "Invalid argument", str(number))
    numbers.add(number)


def put_back(int number):
    """`on_first` again, where it had been called, after signal.signal() has put that handler back."""
    if number in numbers:
        on_first(number)


def under_way():
    """The handler has been called: what follows may take its time."""
    alarm(0)
