/* tree_fixture.h - a scratch directory on disk, an upper made by hand, and an archive that is written out as text: what
 * the tests of diff, pack and unpack share. */
#ifndef TREE_FIXTURE_H
#define TREE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/lz_mem.h"
#include "bytes/lz_tar.h"
#include "check.h"
#include "fault.h"
#include "shell.h"

struct scratch {
    char path[64];
    int fd;
};

static char scratch_paths[4][64]; /* removed on any end of the test */

/* rm(1) copes with paths longer than PATH_MAX. */
static inline int remove_scratch(char *path)
{
    char command[320];
    (void)snprintf(command, sizeof command, "exec rm -rf --one-file-system %s", path);
    int rc = path[0] != 0 ? system(command) : 0;
    path[0] = 0;
    return rc;
}

static inline void remove_scratches(void)
{
    for (size_t i = 0; i < sizeof scratch_paths / sizeof *scratch_paths; i++)
        (void)remove_scratch(scratch_paths[i]);
}

static inline struct scratch scratch_new(void)
{
    struct scratch scratch = {.path = "/var/tmp/lz-test-XXXXXX"};
    static bool registered;
    if (!registered)
        CHECK_EQ(atexit(remove_scratches), 0);
    registered = true;
    CHECK(mkdtemp(scratch.path) != NULL);
    size_t free_one = 0;
    while (scratch_paths[free_one][0] != 0)
        free_one++;
    CHECK(free_one < sizeof scratch_paths / sizeof *scratch_paths);
    memcpy(scratch_paths[free_one], scratch.path, sizeof scratch.path);
    CHECK_EQ(chmod(scratch.path, 0755), 0);
    scratch.fd = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(scratch.fd >= 0);
    return scratch;
}

static inline void scratch_free(struct scratch *scratch)
{
    CHECK_EQ(close(scratch->fd), 0);
    for (size_t i = 0; i < sizeof scratch_paths / sizeof *scratch_paths; i++) {
        if (strcmp(scratch_paths[i], scratch->path) == 0)
            CHECK_EQ(remove_scratch(scratch_paths[i]), 0);
    }
}

static inline void make_directory(const struct scratch *scratch, const char *path)
{
    CHECK_EQ(mkdirat(scratch->fd, path, 0755), 0);
}

static inline void make_file(const struct scratch *scratch, const char *path, const void *bytes, size_t size)
{
    int fd = openat(scratch->fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, bytes, size), size);
    CHECK_EQ(close(fd), 0);
}

static inline void make_whiteout(const struct scratch *scratch, const char *path)
{
    CHECK_EQ(mknodat(scratch->fd, path, S_IFCHR, makedev(0, 0)), 0);
}

static inline void set_xattr(const struct scratch *scratch, const char *path, const char *name, const char *value)
{
    char full[4400];
    (void)snprintf(full, sizeof full, "%s/%s", scratch->path, path);
    CHECK_EQ(lsetxattr(full, name, value, strlen(value), 0), 0);
}

struct archive_input {
    const uint8_t *data;
    size_t size;
};

static inline int archive_next(void *ctx, const uint8_t **data, size_t *size)
{
    struct archive_input *input = ctx;
    if (input->size == 0)
        return 0;
    *data = input->data;
    *size = input->size;
    input->size = 0;
    return 1;
}

/* The content of a file descriptor, from its start. */
static inline struct lz_buf read_whole(int fd)
{
    struct lz_buf bytes = {0};
    off_t size = lseek(fd, 0, SEEK_END);
    CHECK(size >= 0);
    CHECK_EQ(lz_buf_append_zeros(&bytes, (size_t)size + 1), 0);
    bytes.size--;
    CHECK_EQ(pread(fd, bytes.data, bytes.size, 0), size);
    return bytes;
}

/* "D a/|F a/b 5|H a/c>a/b|L s>t": kind, path, size or target, then the names of xattrs. To be freed. */
static inline char *list_archive(int fd)
{
    struct lz_buf bytes = read_whole(fd), out = {0};
    struct archive_input input = {.data = bytes.data, .size = bytes.size};
    struct lz_tar_source source = {.next = archive_next, .ctx = &input};
    struct lz_tar_reader *reader;
    struct lz_tar_entry entry;
    int rc;
    CHECK_EQ(lz_tar_reader_new(&source, 0, &reader), 0);
    while ((rc = lz_tar_next(reader, &entry, NULL)) == 1) {
        char line[9000], size[32] = "";
        if (entry.type == LZ_TAR_FILE)
            (void)snprintf(size, sizeof size, " %llu%s", (unsigned long long)entry.size,
                           entry.extents != NULL ? "s" : "");
        int used = snprintf(line, sizeof line, "%s%c %s%s%s%s", out.size > 0 ? "|" : "", "FHLCBDP"[entry.type],
                            entry.path, size, entry.link != NULL ? ">" : "", entry.link != NULL ? entry.link : "");
        CHECK_EQ(lz_buf_append(&out, line, (size_t)used), 0);
        for (size_t i = 0; i < entry.xattr_count; i++) {
            used = snprintf(line, sizeof line, " %s", entry.xattrs[i].name);
            CHECK_EQ(lz_buf_append(&out, line, (size_t)used), 0);
        }
    }
    CHECK_EQ(rc, 0);
    CHECK_EQ(lz_buf_append_zeros(&out, 1), 0);
    lz_tar_reader_free(reader);
    lz_buf_free(&bytes);
    return (char *)out.data;
}

static inline void check_archive(int fd, const char *expected)
{
    char *text = list_archive(fd);
    CHECK_STR(text, expected);
    free(text);
}

#endif
