/* lz_erofs.h - writes a merged index as an EROFS image that holds metadata and small files only.
 *
 * Source: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of the kernel.
 * Uncompressed, 4 KiB blocks, extended inodes (64-bit times with nanoseconds, 32-bit owners and link counts), inline
 * xattrs, small files and directory tails inline behind their inode (FLAT_INLINE) where they fit in a block. A file
 * whose content is an object becomes a chunk-based inode of the right size with no data and two xattrs:
 *     trusted.overlay.metacopy = ""            trusted.overlay.redirect = "/ab/cdef..."
 * so that overlayfs, given the objects directory as a data-only lower, reads the object (overlayfs.rst, "Data-only
 * lower layers"). overlay.* xattrs of the image itself are escaped (lz_mark.h). The image is a function of the merged
 * index: same in, same bytes out.
 */
#ifndef LZ_EROFS_H
#define LZ_EROFS_H

#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"

/* `layer_fds[i]` is the open index file of layer i of `merged` (inline contents are read from it). Writes the image to
 * out_fd from offset 0, no fsync. Every inline content is checked against its digest: LZ_E_CORRUPT names the path.
 * *size (may be NULL) gets the image's bytes. */
int lz_erofs_write(const struct lz_sys *sys, const struct lz_index *merged, const int *layer_fds, int out_fd,
                   uint64_t *size, struct lz_detail *detail);

/* What lz_erofs_write() would refuse of an entry, asked before it comes into a layer: a container could never be made on
 * it. The xattrs are taken as those of an object file, which has two more. LZ_E_LIMIT (LZ_E_FORMAT for a name with a NUL
 * in it) with a text that begins with `path`. */
int lz_erofs_check_xattrs(const char *path, const struct lz_xattr *xattrs, size_t count, struct lz_detail *detail);
int lz_erofs_check_device(const char *path, uint32_t major, uint32_t minor, struct lz_detail *detail);

#endif
