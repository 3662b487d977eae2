#include "lz_glob.h"

#include <stdint.h>

/* One byte against what stands at pattern[at]; *next is behind it. */
static bool match_set(const char *pattern, size_t size, size_t at, unsigned char byte, size_t *next, bool *is_set)
{
    size_t from = at + 1;
    bool negated = from < size && (pattern[from] == '!' || pattern[from] == '^'), found = false;
    from += negated;
    size_t i = from;
    for (; i < size && (i == from || pattern[i] != ']'); i++) {
        if (pattern[i] == '\\' && i + 1 < size)
            i++;
        unsigned char low = (unsigned char)pattern[i], high = low;
        if (i + 2 < size && pattern[i + 1] == '-' && pattern[i + 2] != ']') {
            i += 2;
            if (pattern[i] == '\\' && i + 1 < size)
                i++;
            high = (unsigned char)pattern[i];
        }
        found = found || (low <= byte && byte <= high);
    }
    *is_set = i < size;
    *next = i + 1;
    return found != negated && byte != '/';
}

static bool match_byte(const char *pattern, size_t size, size_t at, unsigned char byte, size_t *next)
{
    bool is_set = false;
    if (pattern[at] == '[') {
        bool matches = match_set(pattern, size, at, byte, next, &is_set);
        if (is_set)
            return matches;
    }
    if (pattern[at] == '\\' && at + 1 < size)
        at++;
    else if (pattern[at] == '?') {
        *next = at + 1;
        return byte != '/';
    }
    *next = at + 1;
    return (unsigned char)pattern[at] == byte;
}

/* Where to go on when the rest does not match. The last star of each kind is enough to remember: what an earlier one
 * could take more, the later one can take as well. */
struct star {
    size_t pattern, path; /* behind the star; the first byte that it has not taken yet */
    bool is_set;
    bool component; /* takes whole components, with the slash behind each */
};

/* The star takes one byte, or component, more; false when there is none. */
static bool take_more(struct star *star, const char *path, size_t size)
{
    if (!star->is_set || star->path >= size)
        return false;
    if (!star->component) {
        star->path++;
        return true;
    }
    while (star->path < size && path[star->path] != '/')
        star->path++;
    return star->path++ < size;
}

/* By an odd number of backslashes before it. */
static bool is_escaped(const char *pattern, size_t at)
{
    size_t begin = at;
    while (begin > 0 && pattern[begin - 1] == '\\')
        begin--;
    return (at - begin) % 2 == 1;
}

bool lz_glob_match(const char *pattern, size_t pattern_size, const char *path, size_t path_size)
{
    while (pattern_size > 0 && pattern[0] == '/') {
        pattern++;
        pattern_size--;
    }
    while (pattern_size > 1 && pattern[pattern_size - 1] == '/' && !is_escaped(pattern, pattern_size - 1))
        pattern_size--;
    struct star star = {0}, globstar = {0};
    size_t at = 0, i = 0;
    for (;;) {
        if (at < pattern_size && pattern[at] == '*') {
            size_t begin = at;
            while (at < pattern_size && pattern[at] == '*')
                at++;
            if (at - begin == 1) {
                star = (struct star){at, i, true, false};
                continue;
            }
            bool component = (begin == 0 || pattern[begin - 1] == '/') && at < pattern_size && pattern[at] == '/';
            at += component;
            globstar = (struct star){at, i, true, component};
            star.is_set = false;
            continue;
        }
        size_t next;
        if (i < path_size && at < pattern_size &&
            match_byte(pattern, pattern_size, at, (unsigned char)path[i], &next)) {
            at = next;
            i++;
            continue;
        }
        if (i == path_size && at == pattern_size)
            return true;
        if (star.is_set && star.path < path_size && path[star.path] != '/') {
            at = star.pattern;
            i = ++star.path;
            continue;
        }
        star.is_set = false;
        if (!take_more(&globstar, path, path_size))
            return false;
        at = globstar.pattern;
        i = globstar.path;
    }
}
