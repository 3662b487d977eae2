#include "lz_mark.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const char prefix[] = ".wh.";
static const char meta_prefix[] = ".wh..wh.";
static const char opaque[] = ".wh..wh..opq";

static bool begins_with(const char *name, size_t size, const char *start, size_t start_size)
{
    return size >= start_size && memcmp(name, start, start_size) == 0;
}

int lz_mark_of_name(const char *name, size_t size, const char **target, size_t *target_size)
{
    if (!begins_with(name, size, prefix, sizeof prefix - 1))
        return LZ_MARK_NONE;
    if (size == sizeof opaque - 1 && memcmp(name, opaque, size) == 0)
        return LZ_MARK_OPAQUE;
    if (begins_with(name, size, meta_prefix, sizeof meta_prefix - 1))
        return LZ_MARK_IGNORED;
    const char *rest = name + sizeof prefix - 1;
    size_t rest_size = size - (sizeof prefix - 1);
    if (rest_size == 0 || (rest_size == 1 && rest[0] == '.') || (rest_size == 2 && rest[0] == '.' && rest[1] == '.'))
        return LZ_E_FORMAT;
    *target = rest;
    *target_size = rest_size;
    return LZ_MARK_WHITEOUT;
}

bool lz_mark_is_whiteout_device(uint32_t mode, uint32_t major, uint32_t minor)
{
    return S_ISCHR(mode) && major == 0 && minor == 0;
}

/* "trusted.overlay." or "user.overlay.", whichever overlayfs uses for itself. */
static const char *own_prefix(bool user_namespace)
{
    return user_namespace ? "user.overlay." : "trusted.overlay.";
}

enum lz_overlay_xattr lz_overlay_xattr_kind(const char *name, bool user_namespace)
{
    const char *own = own_prefix(user_namespace);
    if (strncmp(name, own, strlen(own)) != 0)
        return LZ_OVERLAY_NONE;
    const char *rest = name + strlen(own);
    if (strcmp(rest, "opaque") == 0)
        return LZ_OVERLAY_OPAQUE;
    if (strcmp(rest, "redirect") == 0)
        return LZ_OVERLAY_REDIRECT;
    if (strcmp(rest, "metacopy") == 0)
        return LZ_OVERLAY_METACOPY;
    return strncmp(rest, "overlay.", 8) == 0 ? LZ_OVERLAY_ESCAPED : LZ_OVERLAY_PRIVATE;
}

/* Copies `head` bytes of name, then `insert`, then what follows `skip` bytes of name. */
static int splice(const char *name, size_t head, const char *insert, size_t skip, char *out, size_t capacity)
{
    size_t insert_size = strlen(insert), tail = strlen(name + skip);
    if (head + insert_size + tail + 1 > capacity)
        return -ENAMETOOLONG;
    memcpy(out, name, head);
    memcpy(out + head, insert, insert_size);
    memcpy(out + head + insert_size, name + skip, tail + 1);
    return (int)(head + insert_size + tail);
}

int lz_overlay_xattr_escape(const char *name, bool user_namespace, char *out, size_t capacity)
{
    size_t own = strlen(own_prefix(user_namespace));
    bool ours = lz_overlay_xattr_kind(name, user_namespace) != LZ_OVERLAY_NONE;
    return ours ? splice(name, own, "overlay.", own, out, capacity) : splice(name, 0, "", 0, out, capacity);
}

int lz_overlay_xattr_unescape(const char *name, bool user_namespace, char *out, size_t capacity)
{
    size_t own = strlen(own_prefix(user_namespace));
    bool escaped = lz_overlay_xattr_kind(name, user_namespace) == LZ_OVERLAY_ESCAPED;
    return escaped ? splice(name, own, "", own + 8, out, capacity) : splice(name, 0, "", 0, out, capacity);
}
