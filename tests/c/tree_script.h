/* tree_script.h - layers from a line of text, and trees as one: what the tests of the index and of the tree share.
 *
 *   "d a 5; f a/b 6; s l 7 a/b; h a/c a/b; c dev 8; w gone; o a"
 *
 * d directory, f file, s symlink, c device: path, uid (which tells entries apart), target of a symlink;
 * h hard link: path, target; w whiteout; o opaque mark: path. "." is the root. A path may end in a slash.
 * A dump is in entry order, `|` between entries: "D . 0 i|D a 5 o|F a/b 6 2>2|...": kind letter, path, uid, then flags
 * i(mplicit) o(paque), "link count>entry number of the link" for files with several names, "> target" of a symlink.
 */
#ifndef TREE_SCRIPT_H
#define TREE_SCRIPT_H

#include <sys/mman.h>
#include <unistd.h>

#include "base/lz_mem.h"
#include "bytes/lz_index.h"
#include "check.h"
#include "tree/lz_tree.h"

struct image { /* an index in memory of exactly its size, so that the sanitizer sees any byte read beyond it */
    uint8_t *bytes;
    size_t size;
    struct lz_index index;
};

static inline void load_image(int fd, struct image *image)
{
    image->size = (size_t)lseek(fd, 0, SEEK_END);
    image->bytes = malloc(image->size);
    CHECK(image->bytes != NULL);
    CHECK_EQ(pread(fd, image->bytes, image->size, 0), image->size);
    struct lz_detail detail = {{0}};
    int rc = lz_index_open(image->bytes, image->size, &image->index, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
}

/* Writes the tree, gives it back, and opens what was written. */
static inline struct image finish_tree(struct lz_tree *tree, const char *inline_data)
{
    struct image image;
    uint32_t count = 0;
    int fd = memfd_create("index", MFD_CLOEXEC);
    CHECK(fd >= 0);
    size_t inline_size = strlen(inline_data);
    CHECK_EQ(pwrite(fd, inline_data, inline_size, LZ_INDEX_INLINE_OFFSET), inline_size);
    CHECK_EQ(lz_tree_write(lz_sys_linux(), tree, fd, inline_size, &count, NULL), 0);
    load_image(fd, &image);
    CHECK_EQ(count, image.index.entry_count);
    CHECK_EQ(close(fd), 0);
    lz_tree_free(tree);
    return image;
}

static inline int run_word(struct lz_tree *tree, char verb, const char *path, const char *argument, const char *target)
{
    char clean[LZ_PATH_MAX + 1], clean_target[LZ_PATH_MAX + 1];
    int size = lz_path_clean(path, strlen(path), clean, NULL);
    if (size < 0)
        return size;
    static const struct lz_xattr xattrs[] = {{"user.a", 6, (const uint8_t *)"1", 1},
                                             {"user.long", 9, (const uint8_t *)"four", 4}};
    struct lz_tree_node node = {.mode = 0644, .uid = (uint32_t)atoi(argument), .mtime = 1, .mtime_nsec = 2};
    int target_size;
    switch (verb) {
    case 'd':
        node.kind = LZ_KIND_DIRECTORY;
        break;
    case 'f':
        node.kind = LZ_KIND_FILE;
        node.size = 5;
        node.flags = LZ_FLAG_OBJECT;
        node.digest[0] = (uint8_t)node.uid;
        node.xattrs = xattrs;
        node.xattr_count = node.uid % 3;
        CHECK_EQ(lz_tree_add_object(tree, node.digest, node.size), 0);
        break;
    case 's':
        node.kind = LZ_KIND_SYMLINK;
        node.target = target;
        node.target_size = strlen(target);
        break;
    case 'c':
        node.kind = LZ_KIND_CHAR;
        node.major = 1;
        node.minor = 3;
        break;
    case 'h':
        target_size = lz_path_clean(argument, strlen(argument), clean_target, NULL);
        return lz_tree_link(tree, clean, (size_t)size, clean_target, (size_t)target_size, NULL);
    case 'w':
        return lz_tree_whiteout(tree, clean, (size_t)size, NULL);
    case 'o':
        return lz_tree_opaque(tree, clean, (size_t)size, NULL);
    default:
        CHECK(verb == '?');
    }
    return lz_tree_add(tree, clean, (size_t)size, &node, NULL);
}

/* Runs a script; the code of the first word that fails. */
static inline int run_script(struct lz_tree *tree, const char *script)
{
    char *copy = strdup(script), *rest = copy, *word;
    int rc = 0;
    while (rc == 0 && (word = strsep(&rest, ";")) != NULL) {
        char path[5000] = "", argument[5000] = "", target[5000] = "", verb = '?';
        if (sscanf(word, " %c %4999s %4999s %4999s", &verb, path, argument, target) >= 2)
            rc = run_word(tree, verb, path, argument, target);
    }
    free(copy);
    return rc;
}

static inline struct image layer(const char *script)
{
    struct lz_tree *tree = NULL;
    CHECK_EQ(lz_tree_new(NULL, &tree), 0);
    CHECK_EQ(run_script(tree, script), 0);
    return finish_tree(tree, "");
}

static inline void free_image(struct image *image)
{
    free(image->bytes);
    *image = (struct image){0};
}

/* To be freed. */
static inline char *dump(const struct lz_index *index)
{
    struct lz_buf out = {0};
    for (uint32_t i = 0; i < index->entry_count; i++) {
        const struct lz_entry *e = &index->entries[i];
        char line[9000];
        int size = snprintf(line, sizeof line, "%s%c %s %u%s%s", i > 0 ? "|" : "", "?DFSCBPKW"[e->kind],
                            i > 0 ? lz_index_path(index, i) : ".", e->uid, (e->flags & LZ_FLAG_IMPLICIT) ? " i" : "",
                            (e->flags & LZ_FLAG_OPAQUE) ? " o" : "");
        CHECK_EQ(lz_buf_append(&out, line, (size_t)size), 0);
        size = 0;
        if (e->kind != LZ_KIND_DIRECTORY && e->link_count > 1)
            size = snprintf(line, sizeof line, " %u>%u", e->link_count, e->link);
        CHECK_EQ(lz_buf_append(&out, line, (size_t)size), 0);
        size = 0;
        if (e->kind == LZ_KIND_SYMLINK)
            size = snprintf(line, sizeof line, "> %s", lz_index_target(index, i));
        CHECK_EQ(lz_buf_append(&out, line, (size_t)size), 0);
    }
    CHECK_EQ(lz_buf_append_zeros(&out, 1), 0);
    return (char *)out.data;
}

#endif
