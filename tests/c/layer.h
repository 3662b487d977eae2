/* layer.h - what the tests of ingest share: a staging area and a store each, archives, a look at the outcome. */
#ifndef LAYER_H
#define LAYER_H

#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "bytes/lz_digest.h"
#include "bytes/lz_index.h"
#include "bytes/lz_tar.h"
#include "tree/lz_ingest.h"
#include "tree/lz_queue.h"
#include "tree/lz_recipe.h"

static char root[64];
static int root_fd;

/* ---- a store of its own for each case ---- */

struct room {
    char name[16];
    int dir, staging, staged, objects, source;
};

static inline int make_dir(int dir, const char *name)
{
    CHECK_EQ(mkdirat(dir, name, 0700), 0);
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static inline struct room open_room(const struct lz_buf *source)
{
    static int serial;
    struct room room;
    (void)snprintf(room.name, sizeof room.name, "room%d", serial++);
    room.dir = make_dir(root_fd, room.name);
    room.staging = make_dir(room.dir, "staging");
    room.staged = make_dir(room.dir, "staged");
    room.objects = make_dir(room.dir, "objects");
    room.source = openat(room.dir, "source", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(room.source >= 0);
    CHECK_EQ(pwrite(room.source, source->data, source->size, 0), source->size);
    return room;
}

static inline void close_room(struct room *room)
{
    char command[160];
    (void)close(room->dir);
    (void)close(room->staging);
    (void)close(room->staged);
    (void)close(room->objects);
    (void)close(room->source);
    (void)snprintf(command, sizeof command, "rm -rf %s/%s", root, room->name);
    CHECK_EQ(system(command), 0);
}

static inline struct lz_ingest_options options_of(const struct room *room)
{
    return (struct lz_ingest_options){.source_fd = room->source,
                                      .source_offset = 0,
                                      .source_size = UINT64_MAX,
                                      .compression = -1,
                                      .staging_fd = room->staging,
                                      .staged_objects_fd = room->staged,
                                      .objects_fd = room->objects};
}

/* ---- archives ---- */

static inline void put_entry(struct lz_buf *out, const char *path, char type, const char *link, const void *bytes,
                             size_t size)
{
    struct lz_tar_entry entry = {.path = path,
                                 .path_size = strlen(path),
                                 .link = link,
                                 .link_size = link != NULL ? strlen(link) : 0,
                                 .mode = 0644,
                                 .mtime = 1700000000,
                                 .size = size,
                                 .stored_size = size};
    entry.type = type == 'l'   ? LZ_TAR_SYMLINK
                 : type == 'h' ? LZ_TAR_HARDLINK
                 : type == 'd' ? LZ_TAR_DIRECTORY
                 : type == 'c' ? LZ_TAR_CHAR
                               : LZ_TAR_FILE;
    CHECK_EQ(lz_tar_write_entry(&entry, out, NULL), 0);
    CHECK_EQ(lz_buf_append(out, bytes, size), 0);
    CHECK_EQ(lz_buf_append_zeros(out, lz_tar_pad(size)), 0);
}

static inline void put_end(struct lz_buf *out)
{
    CHECK_EQ(lz_buf_append_zeros(out, 1024), 0);
}

static inline uint8_t *noise(size_t size, uint32_t seed)
{
    uint8_t *bytes = malloc(size);
    CHECK(bytes != NULL);
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(seed >> 24);
    }
    return bytes;
}

/* Files on both sides of every border: inline limit, a chunk, what fits in memory. */
static inline struct lz_buf sample(uint32_t seed, size_t largest)
{
    static const size_t sizes[] = {0, 1, 511, 4096, 4097, 70000, 262144, 300000, 1048576, 1048577, 3000000};
    struct lz_buf out = {0};
    put_entry(&out, "./", 'd', NULL, NULL, 0);
    put_entry(&out, "./usr/", 'd', NULL, NULL, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && sizes[i] <= largest; i++) {
        char name[40];
        uint8_t *bytes = noise(sizes[i] + 1, seed + (uint32_t)i);
        (void)snprintf(name, sizeof name, "usr/file%zu", sizes[i]);
        put_entry(&out, name, 'f', NULL, bytes, sizes[i]);
        (void)snprintf(name, sizeof name, "usr/twin%zu", sizes[i]);
        put_entry(&out, name, 'f', NULL, bytes, sizes[i]);
        free(bytes);
    }
    put_entry(&out, "usr/link", 'l', "file70000", NULL, 0);
    put_entry(&out, "usr/hard", 'h', "./usr/file70000", NULL, 0);
    put_entry(&out, "etc/.wh.gone", 'f', NULL, NULL, 0);
    put_entry(&out, "etc/.wh..wh..opq", 'f', NULL, NULL, 0);
    put_entry(&out, "etc/.wh..wh.aufs", 'f', NULL, "aufs", 4);
    put_entry(&out, ".wh..wh.plnk/1.2", 'f', NULL, "plnk", 4);
    put_entry(&out, "dev/hidden", 'c', NULL, NULL, 0);
    put_end(&out);
    return out;
}

static inline struct lz_buf gzipped(const struct lz_buf *in)
{
    struct lz_buf out = {0};
    z_stream stream = {0};
    CHECK_EQ(deflateInit2(&stream, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    CHECK_EQ(lz_buf_reserve(&out, deflateBound(&stream, in->size)), 0);
    stream.next_in = in->data;
    stream.avail_in = (uInt)in->size;
    stream.next_out = out.data;
    stream.avail_out = (uInt)out.capacity;
    CHECK_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
    out.size = out.capacity - stream.avail_out;
    CHECK_EQ(deflateEnd(&stream), Z_OK);
    return out;
}

static inline void sha256(const void *bytes, size_t size, uint8_t out[32])
{
    struct lz_sha256 *context;
    CHECK_EQ(lz_sha256_new(&context), 0);
    CHECK_EQ(lz_sha256_digest(context, bytes, size, out), 0);
    lz_sha256_free(context);
}

/* ---- looking at the outcome ---- */

static inline uint8_t *read_file(int dir, const char *name, size_t *size)
{
    struct stat status;
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_mode & 07777, 0444);
    *size = (size_t)status.st_size;
    uint8_t *bytes = malloc(*size + 1);
    CHECK(bytes != NULL);
    CHECK_EQ(read(fd, bytes, *size), *size);
    CHECK_EQ(close(fd), 0);
    return bytes;
}

/* Number of objects in staging; each must be complete. Temporary names must be gone. */
static inline uint64_t check_objects(int staged)
{
    uint64_t count = 0;
    int fd = openat(staged, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fdopendir(fd);
    CHECK(dir != NULL);
    for (struct dirent *name; (name = readdir(dir)) != NULL;) {
        if (name->d_name[0] == '.')
            continue;
        CHECK_EQ(strlen(name->d_name), 64);
        size_t size;
        uint8_t *bytes = read_file(staged, name->d_name, &size);
        uint8_t digest[32];
        char hex[65];
        sha256(bytes, size, digest);
        lz_hex(digest, hex);
        CHECK_STR(name->d_name, hex);
        free(bytes);
        count++;
    }
    CHECK_EQ(closedir(dir), 0);
    return count;
}

/* staged -> objects/ab/cdef..., as a publish does it. */
static inline void publish(struct room *room)
{
    int fd = openat(room->staged, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fdopendir(fd);
    CHECK(dir != NULL);
    for (struct dirent *name; (name = readdir(dir)) != NULL;) {
        char path[80], prefix[3];
        if (name->d_name[0] == '.')
            continue;
        (void)snprintf(prefix, sizeof prefix, "%.2s", name->d_name);
        (void)snprintf(path, sizeof path, "%.2s/%.62s", name->d_name, name->d_name + 2);
        (void)mkdirat(room->objects, prefix, 0700);
        CHECK(linkat(room->staged, name->d_name, room->objects, path, 0) == 0 || errno == EEXIST);
        CHECK_EQ(unlinkat(room->staged, name->d_name, 0), 0);
    }
    CHECK_EQ(closedir(dir), 0);
}

static inline void check_replay(struct room *room, const struct lz_buf *tar)
{
    int recipe = openat(room->staging, "recipe", O_RDONLY | O_CLOEXEC);
    int index = openat(room->staging, "index", O_RDONLY | O_CLOEXEC);
    int out = openat(room->dir, "tar", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct lz_detail detail = {.text = ""};
    uint64_t size = 0;
    int rc = lz_recipe_replay(lz_sys_linux(), recipe, index, room->objects, out, &size, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    CHECK_EQ(size, tar->size);
    uint8_t *bytes = malloc(tar->size + 1);
    CHECK_EQ(pread(out, bytes, tar->size + 1, 0), tar->size);
    CHECK(memcmp(bytes, tar->data, tar->size) == 0);
    free(bytes);
    (void)close(recipe);
    (void)close(index);
    (void)close(out);
}

static inline int ingest(const struct lz_ingest_options *options, struct lz_ingest_result *result)
{
    struct lz_detail detail = {.text = ""};
    int rc = lz_ingest(lz_sys_linux(), options, NULL, result, &detail);
    if (rc != 0)
        fprintf(stderr, "    %d %s\n", rc, detail.text);
    return rc;
}

static inline void check_index(struct room *room, const struct lz_ingest_result *result)
{
    size_t size;
    uint8_t *bytes = read_file(room->staging, "index", &size);
    struct lz_index index;
    struct lz_detail detail = {.text = ""};
    CHECK_EQ(lz_index_open(bytes, size, &index, &detail), 0);
    CHECK_EQ(index.entry_count, result->entry_count);
    CHECK_EQ(index.object_count, result->object_count);
    CHECK_EQ(lz_index_find(&index, "etc/.wh..wh.aufs", 16), -ENOENT);
    CHECK_EQ(lz_index_find(&index, ".wh..wh.plnk", 12), -ENOENT);
    int64_t at = lz_index_find(&index, "etc/gone", 8);
    CHECK(at > 0);
    CHECK_EQ(index.entries[at].kind, LZ_KIND_WHITEOUT);
    at = lz_index_find(&index, "dev/hidden", 10);
    CHECK(at > 0);
    CHECK_EQ(index.entries[at].kind, LZ_KIND_WHITEOUT);
    at = lz_index_find(&index, "etc", 3);
    CHECK(at > 0);
    CHECK_EQ(index.entries[at].flags, LZ_FLAG_OPAQUE | LZ_FLAG_IMPLICIT);
    at = lz_index_find(&index, "usr/file4096", 12);
    CHECK(at > 0);
    CHECK_EQ(index.entries[at].flags, LZ_FLAG_INLINE);
    uint8_t digest[32];
    sha256(bytes + LZ_INDEX_INLINE_OFFSET + index.entries[at].data_offset, 4096, digest);
    CHECK(memcmp(digest, index.entries[at].digest, 32) == 0);
    at = lz_index_find(&index, "usr/file4097", 12);
    CHECK(at > 0);
    CHECK_EQ(index.entries[at].flags, LZ_FLAG_OBJECT);
    at = lz_index_find(&index, "usr/file0", 9);
    CHECK(at > 0);
    CHECK_EQ(index.entries[at].flags, 0);
    int64_t hard = lz_index_find(&index, "usr/hard", 8), file = lz_index_find(&index, "usr/file70000", 13);
    CHECK(hard > 0 && file > 0);
    CHECK_EQ(index.entries[hard].link, index.entries[file].link);
    CHECK_EQ(index.entries[hard].link_count, 2);
    free(bytes);
}

static inline void open_root(void)
{
    (void)snprintf(root, sizeof root, "/tmp/lz-ingest-XXXXXX");
    CHECK(mkdtemp(root) != NULL);
    root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(root_fd >= 0);
}

static inline void close_root(void)
{
    (void)close(root_fd);
    CHECK_EQ(rmdir(root), 0);
}

#endif
