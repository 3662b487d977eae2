/* lz_glob.h - does a path match a pattern?
 *
 *     *        any bytes but a slash
 *     **       any bytes; as a whole component with more behind it, any number of components, none too: "**" "/a" is
 *              every a, at the top as well
 *     ?        one byte that is no slash
 *     [a-z]    one byte of a set; [!a-z] and [^a-z] one that is not in it, and no slash; a set without an end is a `[`
 *     \x       x itself
 *
 * Bytes, not characters: names of files have no encoding. Leading and trailing slashes of the pattern are ignored.
 */
#ifndef LZ_GLOB_H
#define LZ_GLOB_H

#include <stdbool.h>
#include <stddef.h>

/* `path` has no leading slash. No memory, no recursion; at worst O(pattern * path * path). */
bool lz_glob_match(const char *pattern, size_t pattern_size, const char *path, size_t path_size);

#endif
