/* union_upper.h - two directory branches that have a bit of everything, an upper, and a tree written out as text: what
 * the tests of the writing half of the union share. */
#ifndef UNION_UPPER_H
#define UNION_UPPER_H

#include <stdarg.h>
#include <zlib.h>

#include "tree_fixture.h"

#include "bytes/lz_digest.h"
#include "tree/lz_remove.h"
#include "tree/lz_union.h"

#define OLD_TIME 1000000000 /* of everything in the lowers */
#define BIG_SIZE 300000u

struct world {
    struct scratch top; /* lower0/ lower1/ upper/ work/ */
    int lower_fds[2], upper_fd, work_fd;
    struct lz_branch lowers[2];
    struct lz_union_options options;
};

static inline int world_open(const struct world *world, const char *name)
{
    int fd = openat(world->top.fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static inline void big_bytes(uint8_t *out, size_t size)
{
    uint32_t seed = 7;
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (uint8_t)(seed >> 24);
    }
}

static inline void make_text(const struct scratch *top, const char *path, const char *text)
{
    make_file(top, path, text, strlen(text));
}

static inline void set_old(const struct scratch *top, const char *path)
{
    const struct timespec times[2] = {{.tv_sec = OLD_TIME, .tv_nsec = 5}, {.tv_sec = OLD_TIME, .tv_nsec = 123456789}};
    CHECK_EQ(utimensat(top->fd, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

/* Depth first, so that directories keep what they are given. */
static inline void set_all_old(const struct scratch *top, const char *path)
{
    struct stat info;
    CHECK_EQ(fstatat(top->fd, path, &info, AT_SYMLINK_NOFOLLOW), 0);
    if (S_ISDIR(info.st_mode)) {
        DIR *directory = fdopendir(openat(top->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        CHECK(directory != NULL);
        for (struct dirent *item; (item = readdir(directory)) != NULL;) {
            char child[600];
            if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
                continue;
            (void)snprintf(child, sizeof child, "%s/%s", path, item->d_name);
            set_all_old(top, child);
        }
        CHECK_EQ(closedir(directory), 0);
    }
    set_old(top, path);
}

static inline void fill_lowers(const struct scratch *top, const char *own)
{
    static uint8_t big[BIG_SIZE];
    static const char *const directories[] = {
        "lower0",   "lower1",   "lower1/d", "lower1/d/sub",  "lower1/e", "lower1/g",   "lower1/o",      "lower1/h",
        "lower0/d", "lower0/o", "lower0/n", "lower0/n/deep", "lower1/n", "lower1/n/w", "lower1/d/sub/t"};
    char opaque[64];
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
        make_directory(top, directories[i]);
    make_text(top, "lower1/d/a", "alpha");
    make_text(top, "lower1/d/b", "beta");
    make_text(top, "lower1/d/gone", "gone");
    make_text(top, "lower1/d/sub/x", "ex");
    make_text(top, "lower1/d/sub/y", "why");
    make_text(top, "lower1/d/sub/t/z", "zed");
    make_text(top, "lower1/o/hidden", "hidden");
    make_text(top, "lower1/h1", "linked");
    make_text(top, "lower1/n/low", "low");
    make_text(top, "lower1/n/w/only", "only");
    make_text(top, "lower1/empty", "");
    make_text(top, "lower0/d/c", "gamma");
    make_text(top, "lower0/d/b", "beta on top");
    make_text(top, "lower0/n/deep/down", "down");
    make_text(top, "lower0/o/seen", "seen");
    make_whiteout(top, "lower0/d/gone");
    make_whiteout(top, "lower0/n/w");
    big_bytes(big, sizeof big);
    make_file(top, "lower1/big", big, sizeof big);
    make_file(top, "lower1/sparse", "start", 5);
    int fd = openat(top->fd, "lower1/sparse", O_WRONLY | O_CLOEXEC);
    CHECK_EQ(pwrite(fd, "end", 3, 200000), 3);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(linkat(top->fd, "lower1/h1", top->fd, "lower1/h2", 0), 0);
    CHECK_EQ(linkat(top->fd, "lower1/h1", top->fd, "lower1/h/h3", 0), 0);
    CHECK_EQ(symlinkat("a", top->fd, "lower1/d/ln"), 0);
    CHECK_EQ(symlinkat("/nowhere/at/all", top->fd, "lower1/dangling"), 0);
    CHECK_EQ(symlinkat("/made", top->fd, "lower1/makes"), 0);
    CHECK_EQ(symlinkat("d", top->fd, "lower1/dirlink"), 0);
    CHECK_EQ(mknodat(top->fd, "lower1/d/fifo", S_IFIFO | 0640, 0), 0);
    CHECK_EQ(mknodat(top->fd, "lower1/d/null", S_IFCHR | 0666, makedev(1, 3)), 0);
    CHECK_EQ(mknodat(top->fd, "lower1/d/sock", S_IFSOCK | 0600, 0), 0);
    set_xattr(top, "lower1/d/a", "user.one", "1");
    set_xattr(top, "lower1/d", "user.dir", "yes");
    (void)snprintf(opaque, sizeof opaque, "%s.overlay.opaque", own);
    set_xattr(top, "lower0/o", opaque, "y");
    CHECK_EQ(fchownat(top->fd, "lower0/d/b", 12, 13, 0), 0);
    CHECK_EQ(fchmodat(top->fd, "lower0/d/b", 06755, 0), 0);
    CHECK_EQ(fchownat(top->fd, "lower1/g", 0, 77, 0), 0);
    CHECK_EQ(fchmodat(top->fd, "lower1/g", 02775, 0), 0);
    CHECK_EQ(fchownat(top->fd, "lower1/d/ln", 5, 6, AT_SYMLINK_NOFOLLOW), 0);
    set_all_old(top, "lower0");
    set_all_old(top, "lower1");
}

static inline void world_clear_upper(struct world *world)
{
    if (world->upper_fd >= 0) {
        CHECK_EQ(close(world->upper_fd), 0);
        CHECK_EQ(close(world->work_fd), 0);
    }
    CHECK(lz_remove_tree(lz_sys_linux(), world->top.fd, "upper", NULL) >= 0);
    CHECK(lz_remove_tree(lz_sys_linux(), world->top.fd, "work", NULL) >= 0);
    make_directory(&world->top, "upper");
    make_directory(&world->top, "work");
    world->options.upper_fd = world->upper_fd = world_open(world, "upper");
    world->options.work_fd = world->work_fd = world_open(world, "work");
}

/* Two lowers and an empty upper; without blocks. */
static inline void world_new(struct world *world)
{
    *world = (struct world){.top = scratch_new(), .upper_fd = -1};
    fill_lowers(&world->top, "trusted");
    for (size_t i = 0; i < 2; i++) {
        world->lower_fds[i] = world_open(world, i == 0 ? "lower0" : "lower1");
        world->lowers[i] = (struct lz_branch){.kind = LZ_BRANCH_DIRECTORY, .fd = world->lower_fds[i], .marks = true};
    }
    world->options =
        (struct lz_union_options){.lowers = world->lowers, .lower_count = 2, .block_threshold = UINT64_MAX};
    world_clear_upper(world);
}

static inline void world_free(struct world *world)
{
    CHECK_EQ(close(world->lower_fds[0]), 0);
    CHECK_EQ(close(world->lower_fds[1]), 0);
    CHECK_EQ(close(world->upper_fd), 0);
    CHECK_EQ(close(world->work_fd), 0);
    scratch_free(&world->top);
}

static inline struct lz_union *world_union(const struct world *world, const struct lz_sys *sys)
{
    struct lz_union *self = NULL;
    struct lz_detail detail = {{0}};
    int rc = lz_union_new(sys, &world->options, &self, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    return self;
}

/* ---- a tree as text ---- */

struct text {
    struct lz_buf lines;
    time_t now; /* mtimes from here on are "now"; 0: mtimes are left out */
    struct {
        uint64_t device, number;
        char path[256];
    } seen[512]; /* files with several names */
    size_t seen_count;
};

static inline void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline void text_add(struct text *text, const char *format, ...)
{
    char line[2000];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    CHECK(size >= 0 && (size_t)size < sizeof line);
    CHECK_EQ(lz_buf_append(&text->lines, line, (size_t)size), 0);
}

/* The first path of the same file. */
static inline const char *text_link(struct text *text, uint64_t device, uint64_t number, const char *path)
{
    for (size_t i = 0; i < text->seen_count; i++) {
        if (text->seen[i].device == device && text->seen[i].number == number)
            return text->seen[i].path;
    }
    CHECK(text->seen_count < sizeof text->seen / sizeof *text->seen);
    text->seen[text->seen_count].device = device;
    text->seen[text->seen_count].number = number;
    (void)snprintf(text->seen[text->seen_count].path, 256, "%s", path);
    return text->seen[text->seen_count++].path;
}

struct seen { /* one name, however it was looked at */
    const char *path;
    uint32_t mode, uid, gid;
    uint64_t size, device, number;
    unsigned major, minor;
    struct timespec mtime;
    char target[300];
    uint64_t content;     /* hash */
    struct lz_buf xattrs; /* "name=value;" sorted */
};

static inline void text_row(struct text *text, struct seen *seen)
{
    text_add(text, "/%s %o %u:%u", seen->path, seen->mode, seen->uid, seen->gid);
    if (text->now != 0 && seen->mtime.tv_sec >= text->now)
        text_add(text, " now");
    else if (text->now != 0)
        text_add(text, " %lld.%09ld", (long long)seen->mtime.tv_sec, seen->mtime.tv_nsec);
    if (S_ISREG(seen->mode))
        text_add(text, " %llu #%llx", (unsigned long long)seen->size, (unsigned long long)seen->content);
    if (S_ISLNK(seen->mode))
        text_add(text, " -> %s", seen->target);
    if (S_ISCHR(seen->mode) || S_ISBLK(seen->mode))
        text_add(text, " %u,%u", seen->major, seen->minor);
    if (!S_ISDIR(seen->mode))
        text_add(text, " = %s", text_link(text, seen->device, seen->number, seen->path));
    text_add(text, " %.*s\n", (int)seen->xattrs.size, seen->xattrs.size > 0 ? (char *)seen->xattrs.data : "");
    lz_buf_free(&seen->xattrs);
}

static inline int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static inline void add_xattr(struct lz_buf *out, const char *name, const char *value, ssize_t size)
{
    CHECK(size >= 0);
    CHECK_EQ(lz_buf_append(out, name, strlen(name)), 0);
    CHECK_EQ(lz_buf_append(out, "=", 1), 0);
    for (ssize_t i = 0; i < size; i++) {
        char hex[3];
        (void)snprintf(hex, sizeof hex, "%02x", (unsigned char)value[i]);
        CHECK_EQ(lz_buf_append(out, hex, 2), 0);
    }
    CHECK_EQ(lz_buf_append(out, ";", 1), 0);
}

/* `list` as listxattr gives it: sorts, and leaves out the host's labels. */
static inline size_t sort_names(char *list, ssize_t size, char *names[64])
{
    size_t count = 0;
    for (char *name = list; name < list + size; name += strlen(name) + 1) {
        if (strcmp(name, "security.selinux") != 0 && count < 64)
            names[count++] = name;
    }
    qsort(names, count, sizeof *names, by_text);
    return count;
}

static inline void see_union(struct lz_union *self, const char *path, const struct lz_union_info *info,
                             struct seen *seen)
{
    char list[4096], value[4096], *names[64], full[600];
    (void)snprintf(full, sizeof full, "/%s", path);
    *seen = (struct seen){.path = path,
                          .mode = info->mode,
                          .uid = info->uid,
                          .gid = info->gid,
                          .size = info->size,
                          .device = info->device,
                          .number = info->number,
                          .major = info->major,
                          .minor = info->minor,
                          .mtime = info->mtime};
    if (info->kind == LZ_KIND_SYMLINK) {
        ssize_t size = lz_union_readlink(self, full, strlen(full), seen->target, sizeof seen->target - 1);
        CHECK(size > 0);
        seen->target[size] = 0;
    }
    if (info->kind == LZ_KIND_FILE) {
        struct lz_union_file *file;
        uint8_t *bytes = malloc(info->size + 100);
        CHECK(bytes != NULL);
        CHECK_EQ(lz_union_open(self, full, strlen(full), O_RDONLY, 0, &file, NULL), 0);
        uint64_t got = 0;
        for (ssize_t now; (now = lz_union_file_read(file, bytes + got, info->size + 100 - got, got)) != 0;) {
            CHECK(now > 0);
            got += (uint64_t)now;
        }
        CHECK_EQ(got, info->size);
        seen->content = crc32(0, bytes, (uInt)got);
        lz_union_file_close(file);
        free(bytes);
    }
    ssize_t size = lz_union_listxattr(self, full, strlen(full), LZ_UNION_NOFOLLOW, list, sizeof list);
    CHECK(size >= 0);
    size_t count = sort_names(list, size, names);
    for (size_t i = 0; i < count; i++)
        add_xattr(&seen->xattrs, names[i], value,
                  lz_union_getxattr(self, full, strlen(full), LZ_UNION_NOFOLLOW, names[i], value, sizeof value));
}

static inline void text_union_below(struct text *text, struct lz_union *self, const char *path)
{
    struct lz_union_list *list;
    char full[600];
    (void)snprintf(full, sizeof full, "/%s", path);
    CHECK_EQ(lz_union_list(self, full, strlen(full), &list), 0);
    for (size_t i = 0; i < lz_union_list_count(list); i++) {
        const struct lz_union_name *name = lz_union_list_at(list, i);
        char child[500];
        struct seen seen;
        struct lz_union_info info;
        (void)snprintf(child, sizeof child, "%s%s%s", path, path[0] != 0 ? "/" : "", name->name);
        CHECK_EQ(lz_union_stat(self, child, strlen(child), LZ_UNION_NOFOLLOW, &info), 0);
        CHECK_EQ(info.mode, name->info.mode);
        CHECK_EQ(info.number, name->info.number);
        CHECK_EQ(info.size, name->info.size);
        see_union(self, child, &info, &seen);
        text_row(text, &seen);
        if (info.kind == LZ_KIND_DIRECTORY)
            text_union_below(text, self, child);
    }
    lz_union_list_free(list);
}

/* The whole tree but its root, to be freed. */
static inline char *text_union(struct lz_union *self, time_t now)
{
    struct text *text = calloc(1, sizeof *text);
    CHECK(text != NULL);
    text->now = now;
    text_union_below(text, self, "");
    CHECK_EQ(lz_buf_append_zeros(&text->lines, 1), 0);
    char *lines = (char *)text->lines.data;
    free(text);
    return lines;
}

static inline void see_posix(const char *path, struct seen *seen)
{
    struct stat info;
    char list[4096], value[4096], *names[64];
    CHECK_EQ(lstat(path, &info), 0);
    *seen = (struct seen){.path = path,
                          .mode = info.st_mode,
                          .uid = info.st_uid,
                          .gid = info.st_gid,
                          .size = (uint64_t)info.st_size,
                          .device = info.st_dev,
                          .number = info.st_ino,
                          .major = major(info.st_rdev),
                          .minor = minor(info.st_rdev),
                          .mtime = info.st_mtim};
    if (S_ISLNK(info.st_mode))
        CHECK(readlink(path, seen->target, sizeof seen->target - 1) > 0);
    if (S_ISREG(info.st_mode)) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0);
        struct lz_buf bytes = read_whole(fd);
        CHECK_EQ(close(fd), 0);
        seen->content = crc32(0, bytes.data, (uInt)bytes.size);
        lz_buf_free(&bytes);
    }
    ssize_t size = llistxattr(path, list, sizeof list);
    CHECK(size >= 0);
    size_t count = sort_names(list, size, names);
    for (size_t i = 0; i < count; i++)
        add_xattr(&seen->xattrs, names[i], value, lgetxattr(path, names[i], value, sizeof value));
}

static inline void text_posix_below(struct text *text, const char *path)
{
    char *names[256];
    size_t count = 0;
    DIR *directory = opendir(path[0] != 0 ? path : ".");
    CHECK(directory != NULL);
    for (struct dirent *item; (item = readdir(directory)) != NULL;) {
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
            CHECK((names[count++] = strdup(item->d_name)) != NULL);
    }
    CHECK_EQ(closedir(directory), 0);
    qsort(names, count, sizeof *names, by_text);
    for (size_t i = 0; i < count; i++) {
        char child[600];
        struct seen seen;
        (void)snprintf(child, sizeof child, "%s%s%s", path, path[0] != 0 ? "/" : "", names[i]);
        see_posix(child, &seen);
        uint32_t mode = seen.mode;
        text_row(text, &seen);
        if (S_ISDIR(mode))
            text_posix_below(text, child);
        free(names[i]);
    }
}

/* The tree of the current directory, by system calls; to be freed. */
static inline char *text_posix(time_t now)
{
    struct text *text = calloc(1, sizeof *text);
    CHECK(text != NULL);
    text->now = now;
    text_posix_below(text, "");
    CHECK_EQ(lz_buf_append_zeros(&text->lines, 1), 0);
    char *lines = (char *)text->lines.data;
    free(text);
    return lines;
}

/* Prints the lines in which two texts differ. */
static inline void print_difference(const char *a, const char *b)
{
    for (int side = 0; side < 2; side++) {
        const char *one = side == 0 ? a : b, *other = side == 0 ? b : a;
        while (*one != 0) {
            size_t size = strcspn(one, "\n") + 1;
            char line[2200] = "\n";
            memcpy(line + 1, one, size);
            bool first = strncmp(other, line + 1, size) == 0;
            if (!first && strstr(other, line) == NULL)
                fprintf(stderr, "%c %.*s", side == 0 ? '-' : '+', (int)size, one);
            one += size;
        }
    }
}

static inline void check_text(const char *what, const char *actual, const char *expected)
{
    check_count++;
    if (strcmp(actual, expected) == 0)
        return;
    fprintf(stderr, "%s: differs (- found, + expected)\n", what);
    print_difference(actual, expected);
    exit(1);
}

/* Work holds nothing but the lock and the maps. */
static inline void check_work_clean(const struct world *world)
{
    static const char *const names[] = {"new", "old", "stage", "group", "journal"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct stat info;
        if (fstatat(world->work_fd, names[i], &info, AT_SYMLINK_NOFOLLOW) == 0) {
            fprintf(stderr, "work/%s is left\n", names[i]);
            exit(1);
        }
    }
}

#endif
