/* unpack_fixture.h - archives made entry by entry, and the tree that came of them: what the tests of unpack share. */
#ifndef UNPACK_FIXTURE_H
#define UNPACK_FIXTURE_H

#include "tree_fixture.h"

#include "tree/lz_diff.h"
#include "tree/lz_unpack.h"

static const struct lz_unpack_options ALL = {.keep_owner = true, .keep_xattrs = true};

/* An archive that is being written: memory behind a descriptor. */
struct archive {
    struct lz_buf bytes;
    int fd;
};

static inline void put(struct archive *archive, struct lz_tar_entry entry, const char *path, const char *content)
{
    entry.path = path;
    entry.path_size = strlen(path);
    if (entry.link != NULL)
        entry.link_size = strlen(entry.link);
    if (content != NULL && entry.extents == NULL)
        entry.size = entry.stored_size = strlen(content);
    if (entry.mode == 0)
        entry.mode = 0755;
    CHECK_EQ(lz_tar_write_entry(&entry, &archive->bytes, NULL), 0);
    if (content == NULL)
        return;
    CHECK_EQ(lz_buf_append(&archive->bytes, content, strlen(content)), 0);
    CHECK_EQ(lz_buf_append_zeros(&archive->bytes, lz_tar_pad(strlen(content))), 0);
}

static inline void put_directory(struct archive *archive, const char *path)
{
    put(archive, (struct lz_tar_entry){.type = LZ_TAR_DIRECTORY, .mtime = 7, .mtime_nsec = 9}, path, NULL);
}

static inline void put_file(struct archive *archive, const char *path, const char *content)
{
    put(archive, (struct lz_tar_entry){.type = LZ_TAR_FILE, .mtime = 5, .mtime_nsec = 6}, path, content);
}

static inline void put_link(struct archive *archive, enum lz_tar_type type, const char *path, const char *target)
{
    put(archive, (struct lz_tar_entry){.type = type, .link = target, .mtime = 5}, path, NULL);
}

static inline int finished(struct archive *archive)
{
    CHECK_EQ(lz_buf_append_zeros(&archive->bytes, 1024), 0);
    archive->fd = memfd_create("archive", MFD_CLOEXEC);
    CHECK(archive->fd >= 0);
    CHECK_EQ(write(archive->fd, archive->bytes.data, archive->bytes.size), archive->bytes.size);
    CHECK_EQ(lseek(archive->fd, 0, SEEK_SET), 0);
    return archive->fd;
}

static inline void archive_free(struct archive *archive)
{
    lz_buf_free(&archive->bytes);
    CHECK_EQ(close(archive->fd), 0);
    *archive = (struct archive){0};
}

static inline void check_tree(const struct scratch *scratch, const char *expected)
{
    int out = memfd_create("tree", MFD_CLOEXEC);
    CHECK_EQ(lz_pack_tree(lz_sys_linux(), scratch->fd, NULL, false, NULL, out, NULL, NULL), 0);
    check_archive(out, expected);
    CHECK_EQ(close(out), 0);
}

#endif
