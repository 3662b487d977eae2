#include <string.h>

#include "lz_tree.h"

int lz_path_clean(const char *path, size_t size, char out[LZ_PATH_MAX + 1], struct lz_detail *detail)
{
    size_t used = 0;
    if (size > 0 && memchr(path, 0, size) != NULL)
        return lz_fail(detail, LZ_E_FORMAT, "path '%.*s' goes on after a NUL", (int)(size < 200 ? size : 200), path);
    for (size_t at = 0; at < size;) {
        const char *slash = memchr(path + at, '/', size - at);
        size_t length = slash != NULL ? (size_t)(slash - path) - at : size - at;
        const char *name = path + at;
        at += length + 1;
        if (length == 0 || (length == 1 && name[0] == '.'))
            continue;
        if (length == 2 && name[0] == '.' && name[1] == '.')
            return lz_fail(detail, LZ_E_UNSAFE, "path '%.*s' has a '..' component", (int)(size < 200 ? size : 200),
                           path);
        if (length > LZ_NAME_MAX)
            return lz_fail(detail, LZ_E_LIMIT, "a name of %zu bytes in path '%.100s...' (at most %u)", length, path,
                           LZ_NAME_MAX);
        if (used + length + 1 > LZ_PATH_MAX)
            return lz_fail(detail, LZ_E_LIMIT, "path of %zu bytes: '%.100s...' (at most %u)", size, path, LZ_PATH_MAX);
        if (used > 0)
            out[used++] = '/';
        memcpy(out + used, name, length);
        used += length;
    }
    out[used] = 0;
    return (int)used;
}
