# The C side of union.pyx, lookup.pyx, names.pyx and handle.pyx.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from posix.types cimport dev_t, gid_t, uid_t

from lazarus._native.check cimport lz_detail, lz_sys
from lazarus._native.index cimport lz_index

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        long tv_nsec

cdef extern from "tree/lz_union.h" nogil:
    enum:
        LZ_BRANCH_INDEX
        LZ_BRANCH_DIRECTORY
        LZ_UNION_NOFOLLOW
        LZ_RUNG_COUNT
    uint32_t LZ_UNION_UPPER
    enum lz_branch_kind:
        pass
    enum lz_rung:
        pass
    struct lz_union:
        pass
    struct lz_union_file:
        pass
    struct lz_union_list:
        pass
    struct lz_branch:
        lz_branch_kind kind
        const lz_index *index
        const int *layer_fds
        int objects_fd
        int fd
        bint marks
    struct lz_union_options:
        const lz_branch *lowers
        size_t lower_count
        int upper_fd, work_fd
        bint user_xattr
        lz_rung rung
        uint64_t block_threshold
        uint32_t block_size
        bint read_only
    struct lz_union_info:
        int kind
        uint32_t mode, uid, gid, major, minor, link_count
        uint64_t size
        timespec atime, mtime, ctime
        uint32_t branch, data_branch
        int64_t entry, data_entry
        bint has_digest, unsettled
        uint8_t digest[32]
        uint64_t device, number
    struct lz_union_stats:
        uint64_t copyups[8]
        uint64_t copyups_other, bytes_asked, bytes_copied
    struct lz_union_name:
        const char *name
        size_t size
        lz_union_info info
    const char *lz_rung_name(lz_rung rung)
    int lz_union_new(const lz_sys *sys, const lz_union_options *options, lz_union **out, lz_detail *detail)
    void lz_union_free(lz_union *self)
    void lz_union_stats_of "lz_union_stats"(const lz_union *self, lz_union_stats *out)
    int lz_union_stat(lz_union *self, const char *path, size_t size, unsigned flags, lz_union_info *out)
    ssize_t lz_union_readlink(lz_union *self, const char *path, size_t size, char *out, size_t capacity)
    ssize_t lz_union_listxattr(lz_union *self, const char *path, size_t size, unsigned flags, char *out, size_t space)
    ssize_t lz_union_getxattr(lz_union *self, const char *path, size_t size, unsigned flags, const char *name,
                              void *out, size_t capacity)
    ssize_t lz_union_realpath(lz_union *self, const char *path, size_t size, char *out)
    int lz_union_list_names "lz_union_list"(lz_union *self, const char *path, size_t size, lz_union_list **out)
    size_t lz_union_list_count(const lz_union_list *list)
    const lz_union_name *lz_union_list_at(const lz_union_list *list, size_t position)
    void lz_union_list_free(lz_union_list *list)
    int lz_union_mkdir(lz_union *self, const char *path, size_t size, uint32_t mode)
    int lz_union_mknod(lz_union *self, const char *path, size_t size, uint32_t mode, dev_t device)
    int lz_union_symlink(lz_union *self, const char *target, size_t target_size, const char *path, size_t size)
    int lz_union_link(lz_union *self, const char *source, size_t source_size, const char *to, size_t to_size)
    int lz_union_unlink(lz_union *self, const char *path, size_t size)
    int lz_union_rmdir(lz_union *self, const char *path, size_t size)
    int lz_union_rename(lz_union *self, const char *source, size_t source_size, const char *to, size_t to_size,
                        unsigned flags)
    int lz_union_chmod(lz_union *self, const char *path, size_t size, unsigned flags, uint32_t mode)
    int lz_union_chown(lz_union *self, const char *path, size_t size, unsigned flags, uid_t uid, gid_t gid)
    int lz_union_utimens(lz_union *self, const char *path, size_t size, unsigned flags, const timespec *times)
    int lz_union_setxattr(lz_union *self, const char *path, size_t size, unsigned flags, const char *name,
                          const void *value, size_t value_size, int xattr_flags)
    int lz_union_removexattr(lz_union *self, const char *path, size_t size, unsigned flags, const char *name)
    int lz_union_truncate(lz_union *self, const char *path, size_t size, uint64_t length)
    int lz_union_open(lz_union *self, const char *path, size_t size, int flags, uint32_t mode, lz_union_file **out,
                      lz_detail *detail)
    void lz_union_file_close(lz_union_file *file)
    ssize_t lz_union_file_read(lz_union_file *file, void *out, size_t size, uint64_t offset)
    ssize_t lz_union_file_write(lz_union_file *file, const void *data, size_t size, uint64_t offset)
    int lz_union_file_truncate(lz_union_file *file, uint64_t size)
    int lz_union_file_punch(lz_union_file *file, uint64_t offset, uint64_t size)
    int64_t lz_union_file_copy(lz_union_file *source, uint64_t source_offset, lz_union_file *to, uint64_t to_offset,
                               uint64_t size)
    int64_t lz_union_file_seek(lz_union_file *file, uint64_t offset, int whence)
    int lz_union_file_sync(lz_union_file *file)
    int lz_union_file_stat(lz_union_file *file, lz_union_info *out)
    int lz_union_settle(lz_union *self, const char *path, size_t size, uint64_t *count, lz_detail *detail)

cdef extern from "tree/lz_lookup.h" nogil:
    struct lz_text:
        const char *bytes
        size_t size
    struct lz_lookup_row:
        pass
    struct lz_lookup:
        lz_union *layers
        const lz_index *index
        const lz_branch *lowers
        const uint32_t *first_layer
        uint32_t upper_layer
    enum:
        LZ_LOOKUP_WALK
    int64_t lz_lookup_try(const lz_index *index, const char *path, size_t size, unsigned flags)
    void lz_lookup_entry(const lz_lookup *self, int64_t number, lz_union_info *out)
    uint32_t lz_lookup_layer(const lz_lookup *self, uint32_t branch, int64_t entry)
    void lz_lookup_many(const lz_lookup *self, const lz_text *paths, size_t count, unsigned flags, lz_lookup_row *rows)
    int lz_lookup_packed(const lz_lookup *self, const char *data, size_t size, const uint64_t *offsets, size_t count,
                         unsigned flags, lz_lookup_row *rows)


cdef class Union:
    cdef lz_union *native
    cdef lz_lookup view
    cdef lz_branch *branches
    cdef uint32_t *first_layers
    cdef size_t branch_count
    cdef list kept
    cdef int *fds
    cdef size_t fd_count
    cdef Py_ssize_t users
    cdef bint shut
    cdef lz_union *enter(self) except NULL
    cdef void leave(self) noexcept
    cdef int own(self, list fds) except -1
    cdef void give_back(self) noexcept
    cdef int add(self, object lower) except -1


cdef bytes path_bytes(object path)
cdef int check_path(int64_t code, object path, const lz_detail *detail=*) except -1
