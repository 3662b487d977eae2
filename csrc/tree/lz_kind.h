/* lz_kind.h - what a thing is, in the three tongues that this room speaks: the index's, stat's and tar's.
 */
#ifndef LZ_KIND_H
#define LZ_KIND_H

#include <sys/types.h>

#include "../bytes/lz_index.h"
#include "../bytes/lz_tar.h"

/* S_IFMT bits; 0 for a whiteout. */
mode_t lz_kind_to_mode(enum lz_kind kind);

/* SOCKET for what is none of the others. */
enum lz_kind lz_kind_of_mode(mode_t mode);

/* 0 for types that are not a kind of file (hard links). */
enum lz_kind lz_kind_of_tar(enum lz_tar_type type);

/* Tar has no sockets: FILE. */
enum lz_tar_type lz_kind_to_tar(enum lz_kind kind);

#endif
