"""The end of a command by a signal, also while it is in a long call of C, where no Python handler is called.

The first signal calls the Python handler, as soon as that can be; who has not called `under_way` within some seconds is
ended then, with a line. The second is the kernel's. Nothing here allocates or takes a lock.
"""

from posix.signal cimport sigaction, sigaction_t, sigemptyset
from posix.unistd cimport _exit, alarm, write

cdef extern from "signal.h" nogil:
    ctypedef void (*handler_t)(int) noexcept nogil
    handler_t signal(int number, handler_t handler)
    handler_t SIG_DFL
    enum: SIGALRM

cdef extern from "Python.h" nogil:
    int PyErr_SetInterruptEx(int number)

cdef enum: SECONDS = 5

cdef char *TEXT = b"lazarus: terminated\n"
cdef int last = 0


cdef void late(int number) noexcept nogil:
    write(2, TEXT, 20)
    _exit(128 + last)


cdef void first(int number) noexcept nogil:
    global last
    last = number
    signal(number, SIG_DFL)
    signal(SIGALRM, late)
    alarm(SECONDS)
    PyErr_SetInterruptEx(number)


def on_first(int number):
    """To be called once signal.signal() has a handler for it, which calls `under_way`. Raises OSError."""
    cdef sigaction_t action
    action.sa_handler = first
    sigemptyset(&action.sa_mask)
    action.sa_flags = 0
    if sigaction(number, &action, NULL) != 0:
        raise OSError(22, "Invalid argument", str(number))


def under_way():
    """The handler has been called: what follows may take its time."""
    alarm(0)
