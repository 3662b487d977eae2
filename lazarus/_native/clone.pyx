"""A tree under a new name (csrc/tree/lz_clone.h): a snapshot of btrfs where there can be one, else a copy."""

import os

from libc.stdint cimport uint64_t

from lazarus._native.check cimport ask_signals, check, lz_detail, lz_step, lz_sys, lz_sys_linux

cdef extern from "tree/lz_clone.h":
    struct lz_copy_result:
        uint64_t entries, shared, copied
    int lz_clone_prepare(const lz_sys *sys, int dir_fd, const char *name) nogil
    int lz_clone_tree(const lz_sys *sys, int from_fd, int dir_fd, const char *name, unsigned threads,
                      const lz_step *step, lz_copy_result *result, lz_detail *detail) nogil


def make_root(path):
    """A new, empty directory (0700) for a tree that `clone_tree` is to clone: on btrfs a subvolume where it can be."""
    directory, name = os.path.split(os.fsencode(path))
    cdef const char *text = name
    cdef int rc
    cdef int dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with nogil:
            rc = lz_clone_prepare(lz_sys_linux(), dir_fd, text)
    finally:
        os.close(dir_fd)
    check(rc, NULL, path)


def clone_tree(source, target):
    """Makes the directory `target` with everything in `source`: one snapshot on btrfs where it can be, else as
    `copy_tree`, whose results it has, and which signals end as well."""
    directory, name = os.path.split(os.fsencode(target))
    cdef const char *text = name
    cdef lz_detail detail
    cdef lz_copy_result result
    cdef list raised = []
    cdef lz_step step = lz_step(ask_signals, <void *> raised)
    cdef int rc
    cdef int dir_fd
    cdef unsigned threads = len(os.sched_getaffinity(0))
    detail.text[0] = 0
    cdef int from_fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with nogil:
                rc = lz_clone_tree(lz_sys_linux(), from_fd, dir_fd, text, threads, &step, &result, &detail)
        finally:
            os.close(dir_fd)
    finally:
        os.close(from_fd)
    if raised:
        raise raised[0]
    check(rc, &detail)
    return result.entries, result.shared, result.copied
