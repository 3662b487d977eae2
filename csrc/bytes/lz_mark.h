/* lz_mark.h - whiteouts and opaque marks in all their spellings.
 *
 *                    in a layer's tar (OCI image-spec, layer.md)        in an upper directory (overlayfs.rst)
 *   whiteout         empty file `.wh.NAME`; also char device 0:0        char device 0:0
 *   opaque           `.wh..wh..opq` inside the directory                trusted|user.overlay.opaque = "y"
 *   ignored          other `.wh..wh.*` (aufs: plnk, orph, aufs)         -
 *
 * Names of overlay's own xattrs are data when they come from an image: escaped on the way into overlayfs
 * (trusted.overlay.X -> trusted.overlay.overlay.X), unescaped on the way out.
 */
#ifndef LZ_MARK_H
#define LZ_MARK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"

enum lz_mark { LZ_MARK_NONE = 0, LZ_MARK_WHITEOUT = 1, LZ_MARK_OPAQUE = 2, LZ_MARK_IGNORED = 3 };

/* What a base name of a layer's tar means. For WHITEOUT, *target and *target_size are the hidden name (a part of
 * `name`). LZ_E_FORMAT for `.wh.` alone, `.wh..` and `.wh...` (they would hide nothing, `.` or `..`). */
int lz_mark_of_name(const char *name, size_t size, const char **target, size_t *target_size);

/* Char device 0:0. */
bool lz_mark_is_whiteout_device(uint32_t mode, uint32_t major, uint32_t minor);

/* What an xattr of a file in an upper directory is to overlayfs. */
enum lz_overlay_xattr {
    LZ_OVERLAY_NONE,     /* the user's own: goes into the layer as it is */
    LZ_OVERLAY_OPAQUE,   /* ...overlay.opaque */
    LZ_OVERLAY_REDIRECT, /* ...overlay.redirect */
    LZ_OVERLAY_METACOPY, /* ...overlay.metacopy */
    LZ_OVERLAY_PRIVATE,  /* origin, impure, nlink, upper, uuid, whiteout, protattr, ...: never leaves the upper */
    LZ_OVERLAY_ESCAPED,  /* ...overlay.overlay.X: the user's ...overlay.X */
};
/* `user_namespace` false: trusted.overlay.* is overlay's own; true: user.overlay.* is (mount option userxattr). */
enum lz_overlay_xattr lz_overlay_xattr_kind(const char *name, bool user_namespace);

/* trusted.overlay.X -> trusted.overlay.overlay.X (and user.overlay.X with user_namespace). Other names are copied as
 * they are. Returns the length, or -ENAMETOOLONG when it does not fit in `capacity` with its NUL. unescape is the
 * inverse. */
int lz_overlay_xattr_escape(const char *name, bool user_namespace, char *out, size_t capacity);
int lz_overlay_xattr_unescape(const char *name, bool user_namespace, char *out, size_t capacity);

#endif
