/* lz_erofs_format.h - the part of the EROFS on-disk format that lz_erofs writes (internal to lz_erofs*.c).
 *
 *   0        +------------------------+
 *            | unused                 |  room for a boot block
 *   1024     +------------------------+
 *            | superblock   128 bytes |  checksum: CRC-32C of what follows up to the end of block 0
 *   1152     +------------------------+
 *            | inodes                 |  in entry order, the root first; each 64 bytes, then its xattrs, then either
 *            |                        |  the tail of its data or its chunk map; in 32-byte slots. What fits in one
 *            |                        |  block does not cross into the next; a tail that does not fit is a block
 *   k * 4096 +------------------------+
 *            | blocks                 |  whole data blocks of directories, small files and long symlinks
 *            +------------------------+
 *
 * An inode's number (nid) is its address / 32. All numbers are little-endian.
 * Source: fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst of the kernel.
 */
#ifndef LZ_EROFS_FORMAT_H
#define LZ_EROFS_FORMAT_H

#include <stdint.h>

#define LZ_EROFS_BLOCK_BITS 12u
#define LZ_EROFS_BLOCK 4096u
#define LZ_EROFS_SLOT 32u /* inodes are addressed in these */
#define LZ_EROFS_SUPER_OFFSET 1024u
#define LZ_EROFS_MAGIC 0xE0F5E1E2u
#define LZ_EROFS_COMPAT_CHECKSUM 1u
#define LZ_EROFS_INCOMPAT_CHUNKED 4u

struct lz_erofs_super { /* 128 bytes */
    uint32_t magic;
    uint32_t checksum;
    uint32_t feature_compat;
    uint8_t block_bits;
    uint8_t extension_slots;
    uint16_t root_nid;
    uint64_t inode_count;
    uint64_t build_time;
    uint32_t build_time_nsec;
    uint32_t block_count;
    uint32_t meta_block;
    uint32_t xattr_block;
    uint8_t uuid[16];
    uint8_t volume_name[16];
    uint32_t feature_incompat;
    uint8_t reserved[44];
};

enum lz_erofs_layout { LZ_EROFS_FLAT_PLAIN = 0, LZ_EROFS_FLAT_INLINE = 2, LZ_EROFS_CHUNK_BASED = 4 };

struct lz_erofs_inode {   /* 64 bytes: the extended form */
    uint16_t format;      /* 1 (extended) | enum lz_erofs_layout << 1 */
    uint16_t xattr_count; /* 0, or 1 + (bytes of xattrs - 12) / 4 */
    uint16_t mode;
    uint16_t reserved;
    uint64_t size;
    uint32_t where; /* first data block; device number; chunk format */
    uint32_t number;
    uint32_t uid, gid;
    int64_t mtime;
    uint32_t mtime_nsec;
    uint32_t link_count;
    uint8_t reserved2[16];
};

#define LZ_EROFS_CHUNK_BITS_MAX 31u /* chunks of at most 2^(12 + 31) bytes */
#define LZ_EROFS_HOLE 0xFFFFFFFFu   /* chunk map: no data here */

struct lz_erofs_dirent { /* 12 bytes; names follow the last dirent of a block */
    uint64_t nid;
    uint16_t name_offset;
    uint8_t file_type;
    uint8_t reserved;
} __attribute__((packed));

struct lz_erofs_xattr_header { /* 12 bytes */
    uint32_t name_filter;
    uint8_t shared_count;
    uint8_t reserved[7];
};

struct lz_erofs_xattr_entry { /* 4 bytes; then name without prefix, value, zeros to a multiple of 4 */
    uint8_t name_size;
    uint8_t prefix;
    uint16_t value_size;
};

#define LZ_EROFS_XATTR_BYTES_MAX (sizeof(struct lz_erofs_xattr_header) + 4u * 65534u)
#define LZ_EROFS_XATTR_VALUE_MAX 65535u

_Static_assert(sizeof(struct lz_erofs_super) == 128, "on-disk size");
_Static_assert(sizeof(struct lz_erofs_inode) == 64, "on-disk size");
_Static_assert(sizeof(struct lz_erofs_dirent) == 12, "on-disk size");
_Static_assert(sizeof(struct lz_erofs_xattr_header) == 12, "on-disk size");
_Static_assert(sizeof(struct lz_erofs_xattr_entry) == 4, "on-disk size");

#endif
