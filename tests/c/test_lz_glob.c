/* Glob: what each sign takes, and that nothing is read beyond its end. */
#include "bytes/lz_glob.h"
#include "check.h"

/* Copies of exactly their size, so that the sanitizer sees any byte read beyond. */
static bool matches(const char *pattern, const char *path)
{
    size_t pattern_size = strlen(pattern), path_size = strlen(path);
    char *left = malloc(pattern_size + 1), *right = malloc(path_size + 1);
    CHECK(left != NULL && right != NULL);
    char *exact_left = pattern_size > 0 ? realloc(left, pattern_size) : left;
    char *exact_right = path_size > 0 ? realloc(right, path_size) : right;
    memcpy(exact_left, pattern, pattern_size);
    memcpy(exact_right, path, path_size);
    bool found = lz_glob_match(exact_left, pattern_size, exact_right, path_size);
    free(exact_left);
    free(exact_right);
    return found;
}

static void yes_and_no(void)
{
    static const struct {
        const char *pattern, *yes, *no; /* paths, blanks between them */
    } cases[] = {
        {"a", "a", "b aa a/a"},
        {"/usr/bin/", "usr/bin", "usr usr/bin/env usr/binary"},
        {"*", "a ab .a", "a/b"},
        {"a*c", "ac abc abbc acc", "a/c ab abcd"},
        {"*/b", "a/b x/b", "b a/a/b a/bb"},
        {"a?c", "abc a.c", "ac a/c abbc"},
        {"a?", "ab", "a abc"},
        {"**", "a a/b a/b/c", ""},
        {"**/b", "b a/b a/a/b", "bb a/xb xb a/b/c"},
        {"a/**", "a/b a/b/c", "a b/a ab"},
        {"a/**/b", "a/b a/x/b a/x/y/b", "ab a/xb b a/b/x"},
        {"a**z", "az a/z abz a/b/z", "a bz"},
        {"**/*.so*", "x.so lib/x.so.1 a/b/c.so", "x.s lib.so/x"},
        {"a/**/b/**/c", "a/b/c a/x/b/y/z/c a/b/b/c/c", "a/c a/b/x a/b/cc"},
        {"**/a*b", "ab x/axb x/ay/ab", "x/a/b a/bx"},
        {"[a-c]x", "ax bx cx", "dx x a/x"},
        {"[!a-c]x", "dx .x", "ax /x"},
        {"[^a]", "b", "a"},
        {"[]a]", "] a", "b"},
        {"[a\\]]", "a ]", "\\ b"},
        {"[a-", "[a-", "a -"},
        {"[", "[", "a"},
        {"[a-]", "a -", "b"},
        {"\\*", "*", "a \\*"},
        {"a\\", "a\\", "a"},
        {"a\\\\/", "a\\", "a a\\\\"},
        {"a\\/", "a/", "a a\\"},
        {"", "", "a"},
        {"/", "", "a"},
        {"*a*a*a*a*b", "aaaaab", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {"\xff*", "\xff \xffx", "x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int side = 0; side < 2; side++) {
            char *copy = strdup(side == 0 ? cases[i].yes : cases[i].no), *rest = copy, *path;
            if (copy[0] == 0 && side == 0)
                CHECK_EQ(matches(cases[i].pattern, "") || cases[i].pattern[0] == '*', true);
            while (copy[0] != 0 && (path = strsep(&rest, " ")) != NULL) {
                if (matches(cases[i].pattern, path) != (side == 0))
                    fprintf(stderr, "pattern %s, path %s\n", cases[i].pattern, path);
                CHECK_EQ(matches(cases[i].pattern, path), side == 0);
            }
            free(copy);
        }
    }
}

int main(void)
{
    RUN(yes_and_no);
    return check_end();
}
