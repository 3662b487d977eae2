/* Block-level files of a union, handles that are open while a file comes up, and many writers at once. */
#include <pthread.h>
#include <sys/wait.h>

#include "union_script.h"

#define RUN_OP(self, ...) apply_union(self, &(const struct op){__VA_ARGS__})

static struct lz_union_info info_of(struct lz_union *self, const char *path)
{
    struct lz_union_info info;
    CHECK_EQ(lz_union_stat(self, path, strlen(path), LZ_UNION_NOFOLLOW, &info), 0);
    return info;
}

static void world_with_blocks(struct world *world)
{
    world_new(world);
    world->options.block_threshold = 65536;
}

/* Maps in work/blocks. */
static int count_maps(const struct world *world)
{
    int fd = openat(world->work_fd, "blocks", O_RDONLY | O_DIRECTORY | O_CLOEXEC), count = 0;
    if (fd < 0)
        return 0;
    DIR *directory = fdopendir(fd);
    for (struct dirent *item; (item = readdir(directory)) != NULL;)
        count += item->d_name[0] != '.';
    CHECK_EQ(closedir(directory), 0);
    return count;
}

/* A model of the file, which each change is made to, too. */
struct model {
    uint8_t bytes[2 * BIG_SIZE];
    size_t size;
};

static void model_new(struct model *model)
{
    memset(model, 0, sizeof *model);
    big_bytes(model->bytes, BIG_SIZE);
    model->size = BIG_SIZE;
}

static void check_model(struct lz_union *self, const char *path, const struct model *model)
{
    static uint8_t bytes[2 * BIG_SIZE + 1];
    struct lz_union_file *file;
    CHECK_EQ(lz_union_open(self, path, strlen(path), O_RDONLY, 0, &file, NULL), 0);
    size_t done = 0;
    for (ssize_t got; (got = lz_union_file_read(file, bytes + done, sizeof bytes - done, done)) != 0;) {
        CHECK(got > 0);
        done += (size_t)got;
    }
    CHECK_EQ(done, model->size);
    CHECK(memcmp(bytes, model->bytes, done) == 0);
    CHECK_EQ(info_of(self, path).size, done);
    lz_union_file_close(file);
}

static void model_write(struct lz_union_file *file, struct model *model, size_t at, const char *text)
{
    size_t size = strlen(text);
    CHECK_EQ(lz_union_file_write(file, text, size, at), size);
    memcpy(model->bytes + at, text, size);
    model->size = at + size > model->size ? at + size : model->size;
}

static void block_by_block(void)
{
    static struct model model;
    struct world world;
    struct lz_union_file *file;
    world_with_blocks(&world);
    struct lz_union *self = world_union(&world, lz_sys_linux());
    model_new(&model);
    CHECK_EQ(lz_union_open(self, "/big", 4, O_RDWR, 0, &file, NULL), 0);
    CHECK(info_of(self, "big").unsettled);
    CHECK_EQ(info_of(self, "big").data_branch, 1);
    CHECK_EQ(info_of(self, "big").mtime.tv_sec, OLD_TIME); /* opened, not written */
    check_model(self, "big", &model);
    model_write(file, &model, 100000, "some bytes");
    model_write(file, &model, 4096 * 5 - 3, "across a border");
    CHECK(info_of(self, "big").mtime.tv_sec > OLD_TIME);
    struct stat info;
    CHECK_EQ(fstatat(world.upper_fd, "big", &info, 0), 0);
    CHECK_EQ(info.st_size, BIG_SIZE);
    CHECK(info.st_blocks * 512 <= 5 * 4096); /* three blocks, perhaps one of xattrs */
    struct lz_union_stats stats;
    lz_union_stats(self, &stats);
    CHECK_EQ(stats.copyups[LZ_RUNG_BLOCKS], 1);
    CHECK_EQ(stats.bytes_asked, 25);
    CHECK_EQ(stats.bytes_copied, 3 * 4096 - 25);
    check_model(self, "big", &model);
    CHECK_EQ(lz_union_file_truncate(file, 200000), 0);
    CHECK_EQ(lz_union_file_truncate(file, 250000), 0);
    memset(model.bytes + 200000, 0, sizeof model.bytes - 200000);
    model.size = 250000;
    check_model(self, "big", &model);
    CHECK_EQ(lz_union_file_punch(file, 50000, 30000), 0);
    memset(model.bytes + 50000, 0, 30000);
    check_model(self, "big", &model);
    CHECK_EQ(lz_union_file_punch(file, 0, 0), -EINVAL);
    CHECK_EQ(lz_union_file_sync(file), 0);
    lz_union_file_close(file);
    /* under other names */
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/big", .b = "/d/big"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/d", .b = "/n/d"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_LINK, .a = "/n/d/big", .b = "/other"), 0);
    check_model(self, "n/d/big", &model);
    CHECK_EQ(lz_union_open(self, "/other", 6, O_WRONLY | O_APPEND, 0, &file, NULL), 0);
    CHECK_EQ(lz_union_file_write(file, "appended", 8, 0), 8);
    memcpy(model.bytes + model.size, "appended", 8);
    model.size += 8;
    lz_union_file_close(file);
    check_model(self, "n/d/big", &model);
    check_model(self, "other", &model);
    /* whole again, with what it is */
    CHECK_EQ(RUN_OP(self, .kind = OP_CHMOD, .a = "/other", .mode = 04755), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_UTIMES, .a = "/other"), 0);
    CHECK_EQ(count_maps(&world), 1);
    uint64_t count = 9;
    CHECK_EQ(lz_union_settle(self, "/", 1, &count, NULL), 0);
    CHECK_EQ(count, 1);
    CHECK_EQ(count_maps(&world), 0);
    CHECK(!info_of(self, "other").unsettled);
    CHECK_EQ(info_of(self, "other").mode & 07777, 04755);
    CHECK_EQ(info_of(self, "other").mtime.tv_sec, script_times[1].tv_sec);
    CHECK_EQ(info_of(self, "other").number, info_of(self, "n/d/big").number);
    check_model(self, "other", &model);
    CHECK_EQ(lz_union_settle(self, "/", 1, &count, NULL), 0);
    CHECK_EQ(count, 0);
    lz_union_free(self);
    check_work_clean(&world);
    world_free(&world);
}

/* A map goes with the last name of its file, whichever way that goes. */
static void maps_go_with_their_files(void)
{
    struct world world;
    world_with_blocks(&world);
    struct lz_union *self = world_union(&world, lz_sys_linux());
    const struct op write = {.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .text = "X"};
    CHECK_EQ(apply_union(self, &write), 0);
    CHECK_EQ(count_maps(&world), 1);
    CHECK_EQ(RUN_OP(self, .kind = OP_LINK, .a = "/big", .b = "/big2"), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/big"), 0);
    CHECK_EQ(count_maps(&world), 1);
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/d/a", .b = "/big2"), 0);
    CHECK_EQ(count_maps(&world), 0);
    lz_union_free(self);
    world_clear_upper(&world);
    self = world_union(&world, lz_sys_linux());
    CHECK_EQ(RUN_OP(self, .kind = OP_RENAME, .a = "/big", .b = "/d/big"), 0); /* a metacopy */
    CHECK_EQ(count_maps(&world), 0);
    CHECK_EQ(RUN_OP(self, .kind = OP_WRITE, .a = "/d/big", .flags = O_WRONLY, .text = "X"), 0); /* now by blocks */
    CHECK(info_of(self, "d/big").unsettled);
    CHECK_EQ(count_maps(&world), 1);
    CHECK_EQ(RUN_OP(self, .kind = OP_UNLINK, .a = "/d/big"), 0); /* no lower has that name */
    CHECK_EQ(count_maps(&world), 0);
    lz_union_free(self);
    check_work_clean(&world);
    world_free(&world);
}

/* ---- handles ---- */

static void check_starts(struct lz_union_file *file, const char *expected)
{
    char bytes[100] = "";
    ssize_t got = lz_union_file_read(file, bytes, strlen(expected), 0);
    CHECK_EQ(got, strlen(expected));
    CHECK_STR(bytes, expected);
}

static void readers_see_what_is_written(void)
{
    struct world world;
    int status;
    world_with_blocks(&world);
    for (int i = 0; i < 2; i++) { /* another process, this one */
        const char *const paths[] = {"/d/a", "/big", "/h/h3"}, *const writes[] = {"/d/a", "/big", "/h1"};
        struct lz_union_file *files[3];
        world_clear_upper(&world);
        struct lz_union *self = world_union(&world, lz_sys_linux());
        for (size_t k = 0; k < 3; k++)
            CHECK_EQ(lz_union_open(self, paths[k], strlen(paths[k]), O_RDONLY, 0, &files[k], NULL), 0);
        pid_t child = i == 0 ? fork() : 0;
        CHECK(child >= 0);
        if (child == 0) {
            struct lz_union *writer = i == 0 ? world_union(&world, lz_sys_linux()) : self;
            for (size_t k = 0; k < 3; k++) {
                CHECK_EQ(RUN_OP(writer, .kind = OP_CHMOD, .a = writes[k], .mode = 0600), 0);
                CHECK_EQ(RUN_OP(writer, .kind = OP_WRITE, .a = writes[k], .flags = O_WRONLY, .text = "new"), 0);
            }
            if (i == 0)
                _exit(0);
        }
        if (i == 0)
            CHECK_EQ(waitpid(child, &status, 0), child);
        for (size_t k = 0; k < 3; k++) {
            check_starts(files[k], "new");
            struct lz_union_info info;
            CHECK_EQ(lz_union_file_stat(files[k], &info), 0);
            CHECK_EQ(info.mode & 07777, 0600);
            lz_union_file_close(files[k]);
        }
        lz_union_free(self);
    }
    world_free(&world);
}

static void copies_between_handles(void)
{
    static struct model model;
    struct world world;
    struct lz_union_file *big, *text, *whole, *again;
    world_with_blocks(&world);
    struct lz_union *self = world_union(&world, lz_sys_linux());
    model_new(&model);
    CHECK_EQ(lz_union_open(self, "/d/b", 4, O_RDONLY, 0, &text, NULL), 0);
    CHECK_EQ(lz_union_open(self, "/big", 4, O_RDWR, 0, &big, NULL), 0);
    CHECK_EQ(lz_union_open(self, "/whole", 6, O_RDWR | O_CREAT, 0644, &whole, NULL), 0);
    CHECK_EQ(lz_union_open(self, "/whole", 6, O_RDWR, 0, &again, NULL), 0);
    CHECK_EQ(lz_union_file_copy(text, 5, big, 10, 100), 6); /* into blocks: "on top" */
    memcpy(model.bytes + 10, "on top", 6);
    check_model(self, "big", &model);
    for (int64_t done = 0, now; done < (int64_t)BIG_SIZE; done += now) { /* out of blocks */
        now = lz_union_file_copy(big, (uint64_t)done, whole, (uint64_t)done, BIG_SIZE - (uint64_t)done);
        CHECK(now > 0);
    }
    check_model(self, "whole", &model);
    CHECK_EQ(lz_union_file_copy(text, 0, whole, BIG_SIZE, 11), 11); /* a lower's, in the kernel */
    memcpy(model.bytes + BIG_SIZE, "beta on top", 11);
    model.size += 11;
    check_model(self, "whole", &model);
    CHECK_EQ(lz_union_file_copy(text, 500, whole, 0, 10), 0);
    CHECK_EQ(lz_union_file_copy(whole, 0, again, 5, 10), -EINVAL); /* over itself */
    CHECK_EQ(lz_union_file_copy(whole, 0, text, 0, 10), -EBADF);
    CHECK_EQ(lz_union_file_copy(whole, UINT64_MAX, again, 0, 10), -EOVERFLOW);
    struct lz_union_stats stats;
    lz_union_stats(self, &stats);
    CHECK_EQ(stats.bytes_asked, 6 + BIG_SIZE + 11);
    CHECK_EQ(lz_union_file_write(text, "x", 1, 0), -EBADF);
    CHECK_EQ(lz_union_file_truncate(text, 0), -EINVAL);
    CHECK_EQ(lz_union_file_write(whole, "x", 1, INT64_MAX), -EINVAL);
    lz_union_file_close(big);
    lz_union_file_close(text);
    lz_union_file_close(whole);
    lz_union_file_close(again);
    lz_union_free(self);
    world_free(&world);
}

/* ---- many at once ---- */

#define WORKERS 8
#define PROCESSES 3
#define ROUNDS 150

struct worker {
    pthread_t thread;
    struct lz_union *self;
    uint32_t state;
};

static uint32_t roll(struct worker *worker, uint32_t bound)
{
    worker->state ^= worker->state << 13;
    worker->state ^= worker->state >> 17;
    worker->state ^= worker->state << 5;
    return worker->state % bound;
}

static const char *any(struct worker *worker)
{
    static const char *const paths[] = {"/d",   "/d/a", "/d/b",   "/d/sub", "/d/sub/x", "/d/sub/t/z", "/e",    "/e/a",
                                        "/n",   "/h1",  "/h2",    "/h/h3",  "/h",       "/x",         "/x/d",  "/x/a",
                                        "/big", "/n/b", "/n/big", "/e/h",   "/x/sub",   "/sparse",    "/n/low"};
    return paths[roll(worker, sizeof paths / sizeof *paths)];
}

/* What happens to the names does not matter here, but only these errors may come of it. */
static void check_code(const struct op *op, int rc)
{
    static const int allowed[] = {0,          -ENOENT, -EEXIST, -ENOTDIR, -EISDIR,
                                  -ENOTEMPTY, -EINVAL, -EPERM,  -EBUSY,   -ENODATA};
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        if (rc == allowed[i])
            return;
    }
    print_op(op);
    CHECK_EQ(rc, 0);
}

static void *work_on(void *argument)
{
    struct worker *worker = argument;
    static const enum op_kind kinds[] = {OP_MKDIR, OP_UNLINK, OP_RMDIR, OP_RENAME, OP_RENAME,
                                         OP_WRITE, OP_WRITE,  OP_CHMOD, OP_LINK,   OP_TRUNCATE};
    for (int i = 0; i < ROUNDS; i++) {
        struct op op = {.kind = kinds[roll(worker, 10)], .a = any(worker), .b = any(worker), .mode = 0755};
        op.number = op.kind == OP_RENAME && roll(worker, 4) == 0 ? RENAME_EXCHANGE : 0;
        op.flags = roll(worker, 2) != 0 ? O_WRONLY | O_CREAT : O_RDWR | O_APPEND;
        op.text = "a few bytes";
        check_code(&op, apply_union(worker->self, &op));
        struct lz_union_list *list;
        if (i % 10 == 0 && lz_union_list(worker->self, "/d", 2, &list) == 0)
            lz_union_list_free(list);
    }
    return NULL;
}

static void eight_threads(const struct world *world, uint32_t seed)
{
    struct worker workers[WORKERS];
    struct lz_union *self = world_union(world, lz_sys_linux());
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.self = self, .state = (seed * WORKERS + i + 1) * 2654435761u};
        CHECK_EQ(pthread_create(&workers[i].thread, NULL, work_on, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < WORKERS; i++)
        CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
    lz_union_free(self);
}

static void many_at_once(void)
{
    struct world world;
    pid_t children[PROCESSES];
    int status;
    world_with_blocks(&world);
    for (uint32_t i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            eight_threads(&world, i + 1);
            _exit(0);
        }
    }
    eight_threads(&world, 0);
    for (int i = 0; i < PROCESSES; i++) {
        CHECK_EQ(waitpid(children[i], &status, 0), children[i]);
        CHECK_EQ(status, 0);
    }
    check_work_clean(&world);
    struct lz_union *self = world_union(&world, lz_sys_linux());
    char *before = text_union(self, 0); /* everything that is listed can be read */
    CHECK_EQ(lz_union_settle(self, "/", 1, NULL, NULL), 0);
    char *after = text_union(self, 0);
    check_text("settled", after, before);
    CHECK_EQ(count_maps(&world), 0);
    lz_union_free(self);
    free(before);
    free(after);
    world_free(&world);
}

/* Appends of threads and processes to one file are whole, and none is lost. */
static void append_on(struct lz_union *self, const char *path, char mark)
{
    struct lz_union_file *file;
    char record[16];
    memset(record, mark, sizeof record);
    CHECK_EQ(lz_union_open(self, path, strlen(path), O_WRONLY | O_APPEND, 0, &file, NULL), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(lz_union_file_write(file, record, sizeof record, 0), sizeof record);
    lz_union_file_close(file);
}

static void check_records(struct lz_union *self, const char *path, uint64_t from)
{
    struct lz_union_file *file;
    char record[16];
    CHECK_EQ(lz_union_open(self, path, strlen(path), O_RDONLY, 0, &file, NULL), 0);
    int seen[4] = {0};
    for (uint64_t at = from;; at += sizeof record) {
        ssize_t got = lz_union_file_read(file, record, sizeof record, at);
        if (got == 0)
            break;
        CHECK_EQ(got, sizeof record);
        for (size_t i = 1; i < sizeof record; i++)
            CHECK_EQ(record[i], record[0]);
        seen[record[0] - 'a']++;
    }
    for (int i = 0; i < 4; i++)
        CHECK_EQ(seen[i], 100);
    lz_union_file_close(file);
}

static void appends_are_whole(void)
{
    static const char *const paths[] = {"/d/b", "/big"};
    static const uint64_t sizes[] = {11, BIG_SIZE};
    struct world world;
    pid_t children[4];
    int status;
    world_with_blocks(&world);
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 4; i++) {
            children[i] = fork();
            CHECK(children[i] >= 0);
            if (children[i] == 0) {
                append_on(world_union(&world, lz_sys_linux()), paths[k], (char)('a' + i));
                _exit(0);
            }
        }
        for (int i = 0; i < 4; i++) {
            CHECK_EQ(waitpid(children[i], &status, 0), children[i]);
            CHECK_EQ(status, 0);
        }
        struct lz_union *self = world_union(&world, lz_sys_linux());
        check_records(self, paths[k], sizes[k]);
        lz_union_free(self);
    }
    world_free(&world);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  skipped: trusted.overlay.* needs root\n");
        return 0;
    }
    RUN(block_by_block);
    RUN(maps_go_with_their_files);
    RUN(readers_see_what_is_written);
    RUN(copies_between_handles);
    RUN(appends_are_whole);
    RUN(many_at_once);
    return check_end();
}
