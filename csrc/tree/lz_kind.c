#include "lz_kind.h"

#include <sys/stat.h>

mode_t lz_kind_to_mode(enum lz_kind kind)
{
    static const mode_t formats[] = {0, S_IFDIR, S_IFREG, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, 0};
    return formats[kind];
}

enum lz_kind lz_kind_of_mode(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return LZ_KIND_DIRECTORY;
    case S_IFREG:
        return LZ_KIND_FILE;
    case S_IFLNK:
        return LZ_KIND_SYMLINK;
    case S_IFCHR:
        return LZ_KIND_CHAR;
    case S_IFBLK:
        return LZ_KIND_BLOCK;
    case S_IFIFO:
        return LZ_KIND_FIFO;
    default:
        return LZ_KIND_SOCKET;
    }
}

enum lz_kind lz_kind_of_tar(enum lz_tar_type type)
{
    switch (type) {
    case LZ_TAR_FILE:
        return LZ_KIND_FILE;
    case LZ_TAR_SYMLINK:
        return LZ_KIND_SYMLINK;
    case LZ_TAR_CHAR:
        return LZ_KIND_CHAR;
    case LZ_TAR_BLOCK_DEVICE:
        return LZ_KIND_BLOCK;
    case LZ_TAR_DIRECTORY:
        return LZ_KIND_DIRECTORY;
    case LZ_TAR_FIFO:
        return LZ_KIND_FIFO;
    case LZ_TAR_HARDLINK:
        break;
    }
    return (enum lz_kind)0;
}

enum lz_tar_type lz_kind_to_tar(enum lz_kind kind)
{
    switch (kind) {
    case LZ_KIND_DIRECTORY:
        return LZ_TAR_DIRECTORY;
    case LZ_KIND_SYMLINK:
        return LZ_TAR_SYMLINK;
    case LZ_KIND_CHAR:
        return LZ_TAR_CHAR;
    case LZ_KIND_BLOCK:
        return LZ_TAR_BLOCK_DEVICE;
    case LZ_KIND_FIFO:
        return LZ_TAR_FIFO;
    default:
        return LZ_TAR_FILE;
    }
}
