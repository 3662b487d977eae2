"""Starting a runtime: a vfork-like spawn that can hide one directory of the host, and adoption of orphans."""
from libc.errno cimport EINVAL
from libc.stdlib cimport free, malloc

from lazarus._native.check cimport check, lz_detail

cdef extern from "base/lz_spawn.h":
    struct lz_spawn_t "lz_spawn":
        const char *path
        char *const *argv
        char *const *envp
        int stdio[3]
        const char *join
        const char *hide
    int lz_spawn(const lz_spawn_t *spawn, lz_detail *detail) nogil
    int lz_set_subreaper(bint on) nogil


cdef char **c_strings(list words) except NULL:
    """A NULL-terminated array that borrows the bytes of `words`; free() it."""
    cdef char **out = <char **> malloc((len(words) + 1) * sizeof(char *))
    if out == NULL:
        raise MemoryError
    cdef Py_ssize_t i
    for i, word in enumerate(words):
        out[i] = word
    out[len(words)] = NULL
    return out


cdef list encoded(object words):
    """Words as bytes, in the file system's spelling."""
    cdef list out = [w if isinstance(w, bytes) else (<str?> w).encode("utf-8", "surrogateescape") for w in words]
    for word in out:
        if b"\0" in word:
            shown = word[:80].decode("utf-8", "backslashreplace")
            raise OSError(EINVAL, f"a NUL byte in an argument or environment variable: {shown!r}")
    return out


def spawn(argv, env, *, int stdin=0, int stdout=1, int stderr=2, join=None, hide=None):
    """Starts the program argv[0] (an absolute path) in a session of its own and returns its pid, a child of the caller.

    `env` is a sequence of "NAME=value". `join` is the file `tasks` of a cgroup that it begins in. `hide` names a
    directory that it sees as an empty one (root only; it runs in a mount namespace of its own then). Signals are at
    their defaults. Raises `OSError` naming the step that failed.
    """
    cdef lz_spawn_t request
    cdef lz_detail detail
    cdef int pid
    cdef list arguments = encoded(argv)
    cdef list environment = encoded(env)
    if not arguments:
        raise OSError(EINVAL, "no program to start")
    cdef list joined = encoded([] if join is None else [join])
    cdef list hidden = encoded([] if hide is None else [hide])
    detail.text[0] = 0
    request.stdio[0], request.stdio[1], request.stdio[2] = stdin, stdout, stderr
    request.path = <bytes> arguments[0]
    request.join = request.hide = NULL
    if joined:
        request.join = <bytes> joined[0]
    if hidden:
        request.hide = <bytes> hidden[0]
    cdef char **argv_words = c_strings(arguments)
    cdef char **env_words = NULL
    try:
        env_words = c_strings(environment)
        request.argv, request.envp = argv_words, env_words
        with nogil:
            pid = lz_spawn(&request, &detail)
    finally:
        free(argv_words)
        free(env_words)
    check(pid, &detail)
    return pid


def set_subreaper(bint on):
    """Makes orphaned grandchildren children of this process, or stops that."""
    check(lz_set_subreaper(on), NULL)
