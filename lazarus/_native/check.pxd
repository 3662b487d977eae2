# The one way a native return code becomes an exception.
from libc.stdint cimport int64_t

cdef extern from "base/lz_err.h":
    int LZ_DETAIL_SIZE
    struct lz_detail:
        char text[640]
    const char *lz_error_text(int code) nogil
    enum:
        LZ_E_CANCELLED

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from "base/lz_sys.h":
    struct lz_sys:
        pass
    const lz_sys *lz_sys_linux() nogil


cdef extern from "base/lz_step.h":
    struct lz_step:
        int (*ask)(void *ctx) noexcept nogil
        void *ctx


cdef inline int check(int64_t code, const lz_detail *detail, object path=None) except -1:
    """Raises for a negative code: the detail's line if there is one, else the code's own text."""
    if code >= 0:
        return 0
    from lazarus.errors import from_code
    cdef bytes text = b""
    if detail != NULL:
        text = detail.text
    if not text:
        text = lz_error_text(<int> code)
    raise from_code(code, text.decode("ascii", "replace"), path)


cdef inline int ask_signals(void *raised) noexcept with gil:
    """Called now and then by a long call of C without the GIL: what a handler of a signal raises goes into the list
    `raised`, for the caller to raise, and ends the call."""
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<list> raised).append(error)
        return LZ_E_CANCELLED
    return 0
