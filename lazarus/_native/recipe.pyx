"""A layer's tar, byte for byte, from its recipe, index and objects (csrc/tree/lz_recipe.h)."""

import os

from libc.stdint cimport uint64_t

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux

cdef extern from "tree/lz_recipe.h":
    int lz_recipe_replay(const lz_sys *sys, int recipe_fd, int index_fd, int objects_fd, int out_fd, uint64_t *size,
                         lz_detail *detail) nogil


def replay(recipe, index, objects, int out_fd):
    """Writes the tar to `out_fd` (file, pipe or socket) and returns its size in bytes.

    The bytes are hashed on the way: CorruptError names the object, or the layer, when they are not the ones that came
    in (the output is worthless then); OSError (ENOENT) names an object that is missing.
    """
    cdef uint64_t size = 0
    cdef lz_detail detail
    cdef int recipe_fd = -1, index_fd = -1, objects_fd = -1, rc
    detail.text[0] = 0
    try:
        recipe_fd = os.open(recipe, os.O_RDONLY | os.O_CLOEXEC)
        index_fd = os.open(index, os.O_RDONLY | os.O_CLOEXEC)
        objects_fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with nogil:
            rc = lz_recipe_replay(lz_sys_linux(), recipe_fd, index_fd, objects_fd, out_fd, &size, &detail)
    finally:
        for fd in (recipe_fd, index_fd, objects_fd):
            if fd >= 0:
                os.close(fd)
    check(rc, &detail)
    return size
