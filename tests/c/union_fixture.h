/* union_fixture.h - layers of a union from a line of text, each as an index and as a host directory in overlayfs' format,
 * and the tree that a union shows as text.
 *
 *   "d a 755; f a/b content; s a/l b; h a/c a/b; p a/fifo; w gone; o a; @ a/big content"
 *
 * d directory: path, mode; f file, @ file whose content is an object: path, content; s symlink: path, target; h hard link:
 * path, what it is linked to; p fifo: path; w whiteout; o opaque mark: path. Everything of a layer has the layer's number
 * as owner, and as modification time after 1,000,000; files and directories of odd layers have the xattr user.layer.
 */
#ifndef UNION_FIXTURE_H
#define UNION_FIXTURE_H

#include <stdarg.h>

#include "bytes/lz_digest.h"
#include "tree/lz_union_internal.h"
#include "tree_fixture.h"
#include "tree_script.h"

#define LAYERS_MAX 64

struct word {
    char verb, path[5000], argument[5000];
};

/* Calls `run` for each word. */
static inline void each_word(const char *script, void (*run)(void *ctx, const struct word *word), void *ctx)
{
    char *copy = strdup(script), *rest = copy, *text;
    struct word *word = malloc(sizeof *word);
    CHECK(copy != NULL && word != NULL);
    while ((text = strsep(&rest, ";")) != NULL) {
        word->path[0] = word->argument[0] = 0;
        if (sscanf(text, " %c %4999s %4999s", &word->verb, word->path, word->argument) >= 2)
            run(ctx, word);
    }
    free(word);
    free(copy);
}

/* ---- as an index ---- */

struct built {
    struct lz_tree *tree;
    struct lz_buf data;
    struct lz_sha256 *sha256;
    unsigned number;
    int objects_fd;
};

static inline void put_object(struct built *built, const uint8_t digest[32], const char *bytes)
{
    char hex[LZ_SHA256_HEX_SIZE + 1], name[80];
    lz_hex(digest, hex);
    (void)snprintf(name, sizeof name, "%.2s", hex);
    CHECK(mkdirat(built->objects_fd, name, 0755) == 0 || errno == EEXIST);
    (void)snprintf(name, sizeof name, "%.2s/%s", hex, hex + 2);
    int fd = openat(built->objects_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, bytes, strlen(bytes)), strlen(bytes));
    CHECK_EQ(close(fd), 0);
}

static inline void build_word(void *ctx, const struct word *word)
{
    struct built *built = ctx;
    char path[LZ_PATH_MAX + 1], target[LZ_PATH_MAX + 1], value[16];
    int size = lz_path_clean(word->path, strlen(word->path), path, NULL);
    CHECK(size >= 0);
    (void)snprintf(value, sizeof value, "%u", built->number);
    struct lz_xattr xattr = {"user.layer", 10, (const uint8_t *)value, strlen(value)};
    struct lz_tree_node node = {
        .mode = 0644, .uid = built->number, .gid = built->number, .mtime = 1000000 + built->number, .xattrs = &xattr};
    size_t content = strlen(word->argument);
    switch (word->verb) {
    case 'd':
        node.kind = LZ_KIND_DIRECTORY;
        node.mode = (uint32_t)strtoul(word->argument[0] != 0 ? word->argument : "755", NULL, 8);
        node.xattr_count = built->number % 2;
        break;
    case 'f':
    case '@':
        node.kind = LZ_KIND_FILE;
        node.size = content;
        node.data_offset = built->data.size;
        node.flags = (uint8_t)(content == 0 ? 0 : word->verb == 'f' ? LZ_FLAG_INLINE : LZ_FLAG_OBJECT);
        node.xattr_count = built->number % 2;
        CHECK_EQ(lz_sha256_digest(built->sha256, (const uint8_t *)word->argument, content, node.digest), 0);
        if (word->verb == 'f')
            CHECK_EQ(lz_buf_append(&built->data, word->argument, content), 0);
        else
            put_object(built, node.digest, word->argument);
        break;
    case 's':
        node.kind = LZ_KIND_SYMLINK;
        node.mode = 0777;
        node.target = word->argument;
        node.target_size = content;
        break;
    case 'p':
        node.kind = LZ_KIND_FIFO;
        break;
    case 'h':
        CHECK(lz_path_clean(word->argument, content, target, NULL) >= 0);
        CHECK_EQ(lz_tree_link(built->tree, path, (size_t)size, target, strlen(target), NULL), 0);
        return;
    case 'w':
        CHECK_EQ(lz_tree_whiteout(built->tree, path, (size_t)size, NULL), 0);
        return;
    case 'o':
        CHECK_EQ(lz_tree_opaque(built->tree, path, (size_t)size, NULL), 0);
        return;
    default:
        CHECK(word->verb == '?');
    }
    CHECK_EQ(lz_tree_add(built->tree, path, (size_t)size, &node, NULL), 0);
}

/* Consecutive layers, the lowest first, as one index. */
struct branch_index {
    int layer_fds[LAYERS_MAX];
    size_t layer_count;
    struct image merged;
};

static inline struct branch_index make_index(const char *const *scripts, size_t count, unsigned first_number,
                                             int objects_fd, bool part)
{
    struct branch_index out = {.layer_count = count};
    struct lz_tree *stack = NULL;
    CHECK(count <= LAYERS_MAX);
    CHECK_EQ(lz_tree_new(NULL, &stack), 0);
    if (part)
        lz_tree_begin_part(stack);
    else
        lz_tree_begin_stack(stack);
    for (size_t i = 0; i < count; i++) {
        struct built built = {.number = first_number + (unsigned)i, .objects_fd = objects_fd};
        CHECK_EQ(lz_tree_new(NULL, &built.tree), 0);
        CHECK_EQ(lz_sha256_new(&built.sha256), 0);
        each_word(scripts[i], build_word, &built);
        int fd = memfd_create("layer", MFD_CLOEXEC);
        CHECK(fd >= 0);
        CHECK_EQ(lz_pwrite_all(lz_sys_linux(), fd, built.data.data, built.data.size, LZ_INDEX_INLINE_OFFSET), 0);
        CHECK_EQ(lz_tree_write(lz_sys_linux(), built.tree, fd, built.data.size, NULL, NULL), 0);
        struct image image;
        load_image(fd, &image);
        uint8_t diff_id[32] = {(uint8_t)built.number + 1u};
        CHECK_EQ(lz_tree_apply(stack, &image.index, diff_id, NULL), 0);
        free_image(&image);
        lz_tree_free(built.tree);
        lz_buf_free(&built.data);
        lz_sha256_free(built.sha256);
        out.layer_fds[i] = fd;
    }
    out.merged = finish_tree(stack, "");
    return out;
}

static inline void free_index(struct branch_index *index)
{
    for (size_t i = 0; i < index->layer_count; i++)
        CHECK_EQ(close(index->layer_fds[i]), 0);
    free_image(&index->merged);
}

static inline struct lz_branch index_branch(const struct branch_index *index, int objects_fd)
{
    return (struct lz_branch){.kind = LZ_BRANCH_INDEX,
                              .index = &index->merged.index,
                              .layer_fds = index->layer_fds,
                              .objects_fd = objects_fd,
                              .fd = -1};
}

/* ---- as a directory ---- */

struct written {
    struct scratch *scratch; /* the layer lies below `name` in it */
    char name[64];
    unsigned number;
};

static inline void full_path(const struct written *written, const char *path, char out[5200])
{
    (void)snprintf(out, 5200, "%s/%s/%s", written->scratch->path, written->name, path);
}

static inline void write_word(void *ctx, const struct word *word)
{
    struct written *written = ctx;
    char path[5200], target[5200], value[16];
    full_path(written, strcmp(word->path, ".") == 0 ? "" : word->path, path);
    (void)snprintf(value, sizeof value, "%u", written->number);
    mode_t mode = 0644;
    int fd;
    switch (word->verb) {
    case 'd':
        CHECK(mkdir(path, 0755) == 0 || errno == EEXIST);
        mode = (mode_t)strtoul(word->argument[0] != 0 ? word->argument : "755", NULL, 8);
        break;
    case 'f':
    case '@':
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        CHECK(fd >= 0);
        CHECK_EQ(write(fd, word->argument, strlen(word->argument)), strlen(word->argument));
        CHECK_EQ(close(fd), 0);
        break;
    case 's':
        CHECK_EQ(symlink(word->argument, path), 0);
        break;
    case 'p':
        CHECK_EQ(mkfifo(path, 0644), 0);
        break;
    case 'h':
        full_path(written, word->argument, target);
        CHECK_EQ(link(target, path), 0);
        return;
    case 'w':
        CHECK_EQ(mknod(path, S_IFCHR, makedev(0, 0)), 0);
        return;
    case 'o':
        CHECK_EQ(lsetxattr(path, "trusted.overlay.opaque", "y", 1, 0), 0);
        return;
    default:
        CHECK(word->verb == '?');
    }
    if ((word->verb == 'd' || word->verb == 'f' || word->verb == '@') && written->number % 2 == 1)
        CHECK_EQ(lsetxattr(path, "user.layer", value, strlen(value), 0), 0);
    CHECK_EQ(lchown(path, written->number, written->number), 0);
    if (word->verb != 's')
        CHECK_EQ(chmod(path, mode), 0);
}

/* Times come last, since what is made in a directory changes its own. */
static inline void time_word(void *ctx, const struct word *word)
{
    struct written *written = ctx;
    struct timespec times[2] = {{.tv_sec = 1000000 + written->number}, {.tv_sec = 1000000 + written->number}};
    char path[5200];
    full_path(written, word->path, path);
    if (word->verb != 'w' && word->verb != 'o' && word->verb != 'h')
        CHECK_EQ(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

/* Writes the layer below `name`, a new directory; O_PATH descriptor of it. */
static inline int make_layer_directory(struct scratch *scratch, const char *name, const char *script, unsigned number)
{
    struct written written = {.scratch = scratch, .number = number};
    (void)snprintf(written.name, sizeof written.name, "%s", name);
    make_directory(scratch, name);
    each_word(script, write_word, &written);
    each_word(script, time_word, &written);
    int fd = openat(scratch->fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static inline struct lz_branch directory_branch(int fd, bool marks)
{
    return (struct lz_branch){.kind = LZ_BRANCH_DIRECTORY, .fd = fd, .objects_fd = -1, .marks = marks};
}

/* ---- unions ---- */

static inline struct lz_union *open_union(const struct lz_branch *lowers, size_t count, int upper_fd, int work_fd)
{
    struct lz_union_options options = {
        .lowers = lowers, .lower_count = count, .upper_fd = upper_fd, .work_fd = work_fd};
    struct lz_union *self = NULL;
    struct lz_detail detail = {{0}};
    int rc = lz_union_new(lz_sys_linux(), &options, &self, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    return self;
}

static inline void append_line(struct lz_buf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline void append_line(struct lz_buf *out, const char *format, ...)
{
    char line[20000];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    CHECK(size >= 0 && (size_t)size < sizeof line);
    CHECK_EQ(lz_buf_append(out, line, (size_t)size), 0);
}

static inline void append_content(struct lz_union *self, const char *path, struct lz_buf *out)
{
    struct lz_union_file *file = NULL;
    struct lz_detail detail = {{0}};
    char bytes[600];
    int rc = lz_union_open(self, path, strlen(path), O_RDONLY | O_NOFOLLOW, 0, &file, &detail);
    if (rc != 0)
        fprintf(stderr, "%s: %s (%s)\n", path, lz_error_text(rc), detail.text);
    CHECK_EQ(rc, 0);
    ssize_t got = lz_union_file_read(file, bytes, sizeof bytes - 1, 0);
    CHECK(got >= 0);
    lz_union_file_close(file);
    bytes[got] = 0;
    append_line(out, " =%s", bytes);
}

static inline void append_xattrs(struct lz_union *self, const char *path, struct lz_buf *out)
{
    char names[4096], value[256];
    ssize_t size = lz_union_listxattr(self, path, strlen(path), LZ_UNION_NOFOLLOW, names, sizeof names);
    CHECK(size >= 0);
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
        ssize_t got = lz_union_getxattr(self, path, strlen(path), LZ_UNION_NOFOLLOW, names + at, value, sizeof value);
        CHECK(got >= 0);
        append_line(out, " %s=%.*s", names + at, (int)got, value);
    }
}

static inline void append_line_of(const char *path, const struct lz_union_info *info, struct lz_buf *out)
{
    append_line(out, "%c %s %o %u:%u %lld", "?DFSCBPKW"[info->kind], path[0] != 0 ? path : ".", info->mode & 07777,
                info->uid, info->gid, (long long)info->mtime.tv_sec);
}

/* One line of the union's: kind, path, mode, owner, time, then content, target, xattrs. */
static inline void append_entry(struct lz_union *self, const char *path, const struct lz_union_info *info,
                                struct lz_buf *out)
{
    char target[LZ_PATH_MAX + 1];
    append_line_of(path, info, out);
    if (info->kind == LZ_KIND_FILE)
        append_content(self, path, out);
    if (info->kind == LZ_KIND_SYMLINK) {
        ssize_t size = lz_union_readlink(self, path, strlen(path), target, sizeof target);
        CHECK_EQ(size, info->size);
        append_line(out, " >%.*s", (int)size, target);
    }
    if (info->kind == LZ_KIND_FILE || info->kind == LZ_KIND_DIRECTORY)
        append_xattrs(self, path[0] != 0 ? path : "/", out);
    append_line(out, "\n");
}

static inline void check_same_info(const struct lz_union_info *a, const struct lz_union_info *b)
{
    CHECK_EQ(a->kind, b->kind);
    CHECK_EQ(a->mode, b->mode);
    CHECK_EQ(a->uid, b->uid);
    CHECK_EQ(a->size, b->size);
    CHECK_EQ(a->branch, b->branch);
    CHECK_EQ(a->entry, b->entry);
    CHECK_EQ(a->data_branch, b->data_branch);
    CHECK_EQ(a->data_entry, b->data_entry);
    CHECK_EQ(a->device, b->device);
    CHECK_EQ(a->number, b->number);
    CHECK_EQ(a->mtime.tv_sec, b->mtime.tv_sec);
}

static inline void append_directory(struct lz_union *self, const char *path, struct lz_buf *out)
{
    struct lz_union_list *list = NULL;
    struct lz_union_info info;
    char child[LZ_PATH_MAX + 300];
    uint32_t directories = 2;
    const char *where = path[0] != 0 ? path : "/";
    CHECK_EQ(lz_union_stat(self, where, strlen(where), LZ_UNION_NOFOLLOW, &info), 0);
    append_entry(self, path, &info, out);
    CHECK_EQ(lz_union_list(self, where, strlen(where), &list), 0);
    for (size_t i = 0; i < lz_union_list_count(list); i++) {
        const struct lz_union_name *name = lz_union_list_at(list, i);
        struct lz_union_info again;
        CHECK_EQ(strlen(name->name), name->size);
        if (i > 0)
            CHECK(strcmp(lz_union_list_at(list, i - 1)->name, name->name) < 0);
        (void)snprintf(child, sizeof child, "%s%s%s", path, path[0] != 0 ? "/" : "", name->name);
        CHECK_EQ(lz_union_stat(self, child, strlen(child), LZ_UNION_NOFOLLOW, &again), 0);
        check_same_info(&name->info, &again);
        if (name->info.kind == LZ_KIND_DIRECTORY)
            append_directory(self, child, out);
        else
            append_entry(self, child, &name->info, out);
        directories += name->info.kind == LZ_KIND_DIRECTORY;
    }
    CHECK_EQ(info.link_count, directories);
    lz_union_list_free(list);
}

/* The whole tree; to be freed. */
static inline char *dump_union(struct lz_union *self)
{
    struct lz_buf out = {0};
    append_directory(self, "", &out);
    CHECK_EQ(lz_buf_append_zeros(&out, 1), 0);
    return (char *)out.data;
}

/* Says where two texts part before it fails. */
static inline void check_same_text(const char *actual, const char *expected, const char *what)
{
    if (strcmp(actual, expected) != 0)
        fprintf(stderr, "%s\n--- expected\n%s--- found\n%s", what, expected, actual);
    CHECK_EQ(strcmp(actual, expected), 0);
}

#endif
