/* union_script.h - one operation on a tree as a value, carried out on a union or by plain system calls. */
#ifndef UNION_SCRIPT_H
#define UNION_SCRIPT_H

#include <linux/fs.h>

#include "union_upper.h"

enum op_kind {
    OP_MKDIR,
    OP_MKNOD,
    OP_SYMLINK, /* a: target, b: path */
    OP_LINK,
    OP_UNLINK,
    OP_RMDIR,
    OP_RENAME, /* number: flags */
    OP_CHMOD,
    OP_CHOWN, /* mode: uid, number: gid */
    OP_UTIMES,
    OP_SETXATTR, /* b: name, text: value, number: flags */
    OP_REMOVEXATTR,
    OP_TRUNCATE,
    OP_WRITE, /* flags: open(2)'s; number: offset; text: bytes */
};

struct op {
    enum op_kind kind;
    const char *a, *b;
    uint32_t mode;
    uint64_t number;
    int flags;
    const char *text;
    bool nofollow;
};

static const char *const op_names[] = {"mkdir", "mknod", "symlink", "link",     "unlink",      "rmdir",    "rename",
                                       "chmod", "chown", "utimes",  "setxattr", "removexattr", "truncate", "write"};

static inline void print_op(const struct op *op)
{
    fprintf(stderr, "%s %s %s mode %o number %llu flags %o text %s%s\n", op_names[op->kind], op->a,
            op->b != NULL ? op->b : "", op->mode, (unsigned long long)op->number, (unsigned)op->flags,
            op->text != NULL ? op->text : "", op->nofollow ? " nofollow" : "");
}

static const struct timespec script_times[2] = {{.tv_sec = 1100000000, .tv_nsec = 1},
                                                {.tv_sec = 1100000001, .tv_nsec = 2}};

static inline int write_union(struct lz_union *self, const struct op *op)
{
    struct lz_union_file *file;
    int rc = lz_union_open(self, op->a, strlen(op->a), op->flags, op->mode, &file, NULL);
    if (rc != 0)
        return rc;
    ssize_t wrote = op->text != NULL ? lz_union_file_write(file, op->text, strlen(op->text), op->number) : 0;
    lz_union_file_close(file);
    return wrote < 0 ? (int)wrote : 0;
}

static inline int apply_union(struct lz_union *self, const struct op *op)
{
    size_t a = op->a != NULL ? strlen(op->a) : 0, b = op->b != NULL ? strlen(op->b) : 0;
    unsigned flags = op->nofollow ? LZ_UNION_NOFOLLOW : 0;
    switch (op->kind) {
    case OP_MKDIR:
        return lz_union_mkdir(self, op->a, a, op->mode);
    case OP_MKNOD:
        return lz_union_mknod(self, op->a, a, op->mode, (dev_t)op->number);
    case OP_SYMLINK:
        return lz_union_symlink(self, op->a, a, op->b, b);
    case OP_LINK:
        return lz_union_link(self, op->a, a, op->b, b);
    case OP_UNLINK:
        return lz_union_unlink(self, op->a, a);
    case OP_RMDIR:
        return lz_union_rmdir(self, op->a, a);
    case OP_RENAME:
        return lz_union_rename(self, op->a, a, op->b, b, (unsigned)op->number);
    case OP_CHMOD:
        return lz_union_chmod(self, op->a, a, flags, op->mode);
    case OP_CHOWN:
        return lz_union_chown(self, op->a, a, flags, op->mode, (gid_t)op->number);
    case OP_UTIMES:
        return lz_union_utimens(self, op->a, a, flags, script_times);
    case OP_SETXATTR:
        return lz_union_setxattr(self, op->a, a, flags, op->b, op->text, strlen(op->text), (int)op->number);
    case OP_REMOVEXATTR:
        return lz_union_removexattr(self, op->a, a, flags, op->b);
    case OP_TRUNCATE:
        return lz_union_truncate(self, op->a, a, op->number);
    default:
        return write_union(self, op);
    }
}

static inline int write_posix(const struct op *op)
{
    int fd = open(op->a, op->flags | O_CLOEXEC, op->mode);
    if (fd < 0)
        return -errno;
    ssize_t wrote = op->text != NULL ? pwrite(fd, op->text, strlen(op->text), (off_t)op->number) : 0;
    int rc = wrote < 0 ? -errno : 0;
    CHECK_EQ(close(fd), 0);
    return rc;
}

/* In the current directory, and root. */
static inline int apply_posix(const struct op *op)
{
    int rc;
    switch (op->kind) {
    case OP_MKDIR:
        rc = mkdir(op->a, op->mode);
        break;
    case OP_MKNOD:
        rc = mknod(op->a, op->mode, (dev_t)op->number);
        break;
    case OP_SYMLINK:
        rc = symlink(op->a, op->b);
        break;
    case OP_LINK:
        rc = link(op->a, op->b);
        break;
    case OP_UNLINK:
        rc = unlink(op->a);
        break;
    case OP_RMDIR:
        rc = rmdir(op->a);
        break;
    case OP_RENAME:
        rc = renameat2(AT_FDCWD, op->a, AT_FDCWD, op->b, (unsigned)op->number);
        break;
    case OP_CHMOD:
        rc = chmod(op->a, op->mode);
        break;
    case OP_CHOWN:
        rc = fchownat(AT_FDCWD, op->a, op->mode, (gid_t)op->number, op->nofollow ? AT_SYMLINK_NOFOLLOW : 0);
        break;
    case OP_UTIMES:
        rc = utimensat(AT_FDCWD, op->a, script_times, op->nofollow ? AT_SYMLINK_NOFOLLOW : 0);
        break;
    case OP_SETXATTR:
        rc = (op->nofollow ? lsetxattr : setxattr)(op->a, op->b, op->text, strlen(op->text), (int)op->number);
        break;
    case OP_REMOVEXATTR:
        rc = (op->nofollow ? lremovexattr : removexattr)(op->a, op->b);
        break;
    case OP_TRUNCATE:
        rc = truncate(op->a, (off_t)op->number);
        break;
    default:
        return write_posix(op);
    }
    return rc < 0 ? -errno : 0;
}

#endif
