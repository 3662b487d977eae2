"""Layers seen as one tree (csrc/tree/lz_union.h): an open one, and its end."""

import os

from libc.stdlib cimport free
from libc.string cimport memset
from posix.unistd cimport close

import cython

from lazarus._native.check cimport check, lz_sys_linux
from lazarus._native.index cimport Index
from lazarus._native.pack cimport lz_alloc_array


cdef bytes path_bytes(object path):
    return path if type(path) is bytes else os.fsencode(path)


cdef int check_path(int64_t code, object path, const lz_detail *detail=NULL) except -1:
    return 0 if code >= 0 else check(code, detail, os.fspath(path))


@cython.no_gc_clear  # the indexes must outlive the native union
cdef class Union:
    """An open union. `lowers`, the top one first, are (Index, descriptors of its layers' index files, descriptor of
    the objects) or (descriptor of a directory, whether overlay marks in it count). Descriptors become the union's, also
    when it cannot be opened; `also` are further ones to close with it (a lock).

    `close()` refuses further calls; calls that run, and open files, end as they would, and the last gives all back.
    """

    def __init__(self, lowers, int upper_fd=-1, int work_fd=-1, *, bint user_xattr=False, int rung=0,
                 uint64_t block_threshold=0, uint32_t block_size=0, bint read_only=False, also=()):
        cdef lz_union_options options
        cdef lz_detail detail
        cdef uint32_t number = 0
        cdef size_t i
        cdef int rc
        if self.fds != NULL or self.shut:
            raise TypeError("it is open already")
        detail.text[0] = 0
        self.kept = []
        self.own([upper_fd, work_fd, *also] + [fd for lower in lowers for fd in (
            [*lower[1], lower[2]] if isinstance(lower[0], Index) else [lower[0]])])
        self.branches = <lz_branch *> lz_alloc_array(len(lowers) + 1, sizeof(lz_branch))
        self.first_layers = <uint32_t *> lz_alloc_array(len(lowers) + 1, sizeof(uint32_t))
        if self.branches == NULL or self.first_layers == NULL:
            raise MemoryError
        for lower in lowers:
            self.add(lower)
        for i in range(self.branch_count, 0, -1):
            self.first_layers[i - 1] = number
            number += self.branches[i - 1].index.layer_count if self.branches[i - 1].index != NULL else 1
        if self.branch_count == 0:  # its root is said to be of the first lower, which is not there
            memset(&self.branches[0], 0, sizeof(lz_branch))
            self.first_layers[0] = <uint32_t> -1
        options = lz_union_options(self.branches, self.branch_count, upper_fd, work_fd, user_xattr, <lz_rung> rung,
                                   block_threshold, block_size, read_only)
        with nogil:
            rc = lz_union_new(lz_sys_linux(), &options, &self.native, &detail)
        check(rc, &detail)
        self.view = lz_lookup(self.native, NULL, self.branches, self.first_layers, number)
        if self.branch_count == 1 and upper_fd < 0:
            self.view.index = self.branches[0].index

    cdef int own(self, list fds) except -1:
        self.fds = <int *> lz_alloc_array(len(fds), sizeof(int))
        if self.fds == NULL:
            raise MemoryError
        for fd in fds:
            self.fds[self.fd_count] = fd
            self.fd_count += 1
        return 0

    cdef int add(self, object lower) except -1:
        cdef lz_branch *branch = &self.branches[self.branch_count]
        cdef Index index
        cdef lz_index *own
        cdef int *fds
        memset(branch, 0, sizeof(lz_branch))
        branch.fd = branch.objects_fd = -1
        self.branch_count += 1
        if not isinstance(lower[0], Index):
            branch.kind, branch.fd, branch.marks = <lz_branch_kind> LZ_BRANCH_DIRECTORY, lower[0], lower[1]
            return 0
        index = lower[0]
        if len(lower[1]) != index.open().layer_count:
            raise ValueError(f"{len(lower[1])} layers for an index of {index.index.layer_count}")
        fds = <int *> lz_alloc_array(len(lower[1]) + 1, sizeof(int))
        if fds == NULL:
            raise MemoryError
        branch.kind, branch.layer_fds, branch.objects_fd = <lz_branch_kind> LZ_BRANCH_INDEX, fds, lower[2]
        for i, fd in enumerate(lower[1]):
            fds[i] = fd
        own = <lz_index *> lz_alloc_array(1, sizeof(lz_index))
        if own == NULL:
            raise MemoryError
        own[0] = index.index
        branch.index = own
        self.kept += [index, index.entries_buffer]  # whoever closes the Index, the mapping stays
        return 0

    cdef lz_union *enter(self) except NULL:
        if self.shut or self.native == NULL:
            raise ValueError("the stack is closed")
        self.users += 1
        return self.native

    cdef void leave(self) noexcept:
        self.users -= 1
        if self.shut and self.users == 0:
            self.give_back()
            self.kept = None

    cdef void give_back(self) noexcept:
        cdef size_t i
        lz_union_free(self.native)
        self.native = NULL
        for i in range(self.branch_count):
            free(<void *> self.branches[i].layer_fds)
            free(<void *> self.branches[i].index)
        free(self.branches)
        free(self.first_layers)
        self.branches, self.first_layers, self.branch_count = NULL, NULL, 0
        for i in range(self.fd_count):
            if self.fds[i] >= 0:
                close(self.fds[i])
        free(self.fds)
        self.fds, self.fd_count = NULL, 0

    def __dealloc__(self):
        self.give_back()

    def close(self):
        """Ends it. Open files go on until they are closed. A second call is harmless."""
        if not self.shut:
            self.shut = True
            self.users += 1
            self.leave()

    @property
    def closed(self):
        """Has close() been called?"""
        return bool(self.shut)
