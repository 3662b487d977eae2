/* Block-level files with several threads and processes, killed processes, and power cuts. */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "blocks_fixture.h"
#include "tree/lz_blocks_map.h"

/* ---- several writers: each has its own slots of 512 bytes, eight of different writers in each block, so that bringing in a
 *      block races with writing its other slots ---- */

#define SLOT 512u
#define SLOTS ((uint32_t)2048)
#define WRITERS 4u
#define PLAIN 300

static uint8_t slot_byte(uint32_t slot)
{
    return (uint8_t)(128 + slot % 127);
}

static void write_slots(struct lz_blocks *blocks, uint32_t writer)
{
    uint8_t bytes[SLOT];
    uint32_t random = writer * 77 + 1;
    for (int i = 0; i < 600; i++) {
        uint32_t slot = next_random(&random) % SLOTS / WRITERS * WRITERS + writer;
        memset(bytes, slot_byte(slot), sizeof bytes);
        CHECK_EQ(lz_blocks_write(blocks, bytes, sizeof bytes, (uint64_t)slot * SLOT), SLOT);
        if (i % 100 == 50)
            CHECK_EQ(lz_blocks_sync(blocks), 0);
        if (i % 20 == 10) { /* a record at the end, whole wherever it lands */
            memset(bytes, (int)(200 + writer), 100);
            CHECK_EQ(lz_blocks_append(blocks, bytes, 100), 100);
        }
    }
}

/* Each byte is as it was or as its writer writes it, while writers are at work: a read through the page cache may pass a
 * write half-way even within 512 bytes (seen on ext4: one cache line of 64 old bytes among new ones). */
static void check_slots(struct subject *subject, struct lz_blocks *blocks)
{
    static uint8_t found[MODEL_MAX];
    ssize_t size = lz_blocks_read(blocks, found, sizeof found, 0);
    CHECK(size >= (ssize_t)(SLOTS * SLOT));
    for (uint32_t at = 0; at < SLOTS * SLOT; at++)
        CHECK(found[at] == slot_byte(at / SLOT) || found[at] == subject->lower_model.bytes[at]);
}

/* Nobody writes any more: each slot is whole. */
static bool slot_is_whole(const struct subject *subject, const uint8_t *found, uint32_t slot, bool written)
{
    uint8_t expected[SLOT];
    memset(expected, slot_byte(slot), SLOT);
    return memcmp(found + (size_t)slot * SLOT, expected, SLOT) == 0 ||
           (!written &&
            memcmp(found + (size_t)slot * SLOT, subject->lower_model.bytes + (size_t)slot * SLOT, SLOT) == 0);
}

static void check_whole_slots(struct subject *subject, struct lz_blocks *blocks)
{
    static uint8_t found[MODEL_MAX];
    CHECK(lz_blocks_read(blocks, found, sizeof found, 0) >= (ssize_t)(SLOTS * SLOT));
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        CHECK(slot_is_whole(subject, found, slot, false));
}

/* `plain`: so many records are of somebody who knows of no map. */
static void check_all_written(struct subject *subject, struct lz_blocks *blocks, uint32_t plain)
{
    static uint8_t found[MODEL_MAX];
    uint32_t counts[WRITERS + 1] = {0};
    ssize_t size = lz_blocks_read(blocks, found, sizeof found, 0);
    CHECK_EQ(size, SLOTS * SLOT + (WRITERS * 30 + plain) * 100);
    for (uint32_t writer = 0; writer < WRITERS; writer++) {
        uint32_t random = writer * 77 + 1;
        for (int i = 0; i < 600; i++) {
            uint32_t slot = next_random(&random) % SLOTS / WRITERS * WRITERS + writer;
            CHECK(slot_is_whole(subject, found, slot, true));
        }
    }
    for (ssize_t at = SLOTS * SLOT; at < size; at += 100) {
        for (int i = 1; i < 100; i++)
            CHECK_EQ(found[at + i], found[at]);
        CHECK(found[at] >= 200 && found[at] <= 200 + WRITERS);
        counts[found[at] - 200]++;
    }
    for (uint32_t writer = 0; writer < WRITERS; writer++)
        CHECK_EQ(counts[writer], 30);
    CHECK_EQ(counts[WRITERS], plain);
    check_whole_slots(subject, blocks);
}

struct thread {
    pthread_t id;
    struct lz_blocks *blocks;
    uint32_t writer;
};

static void *run_writer(void *argument)
{
    const struct thread *thread = argument;
    write_slots(thread->blocks, thread->writer);
    return NULL;
}

/* With one handle for all, and with a handle each. */
static void threads(void)
{
    for (int own = 0; own < 2; own++) {
        struct subject subject = subject_open(SLOTS * SLOT, 0, true, own == 0 ? BLOCK : 16384);
        struct thread all[WRITERS];
        for (uint32_t i = 0; i < WRITERS; i++) {
            all[i] = (struct thread){.blocks = own == 1 ? open_again(&subject, true) : subject.blocks, .writer = i};
            CHECK_EQ(pthread_create(&all[i].id, NULL, run_writer, &all[i]), 0);
        }
        struct lz_blocks *reader = open_again(&subject, false);
        for (int i = 0; i < 10; i++)
            check_slots(&subject, reader);
        lz_blocks_close(reader);
        for (uint32_t i = 0; i < WRITERS; i++) {
            CHECK_EQ(pthread_join(all[i].id, NULL), 0);
            if (own == 1)
                lz_blocks_close(all[i].blocks);
        }
        check_all_written(&subject, subject.blocks, 0);
        subject_free(&subject);
    }
}

/* Somebody settles the file while others write and append; then there are writers who know of no map. */
static void settled_meanwhile(void)
{
    struct subject subject = subject_open(SLOTS * SLOT, 0, true, BLOCK);
    struct thread all[WRITERS];
    for (uint32_t i = 0; i < WRITERS; i++) {
        all[i] = (struct thread){.blocks = open_again(&subject, true), .writer = i};
        CHECK_EQ(pthread_create(&all[i].id, NULL, run_writer, &all[i]), 0);
    }
    CHECK_EQ(lz_blocks_settle(subject.blocks, subject.maps_fd, NULL), 0);
    int plain = openat(subject.scratch.fd, "upper", O_WRONLY | O_APPEND | O_CLOEXEC);
    uint8_t record[100];
    memset(record, 200 + WRITERS, sizeof record);
    for (int i = 0; i < PLAIN; i++)
        CHECK_EQ(write(plain, record, sizeof record), sizeof record);
    CHECK_EQ(close(plain), 0);
    for (uint32_t i = 0; i < WRITERS; i++) {
        CHECK_EQ(pthread_join(all[i].id, NULL), 0);
        lz_blocks_close(all[i].blocks);
    }
    check_all_written(&subject, subject.blocks, PLAIN);
    subject_free(&subject);
}

/* A process of its own: its own descriptors, its own handle. */
static pid_t start_writer(const struct subject *subject, uint32_t writer)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0)
        return pid;
    struct subject own = *subject;
    own.file_fd = openat(subject->scratch.fd, "upper", O_RDWR | O_CLOEXEC);
    CHECK(own.file_fd >= 0);
    write_slots(open_again(&own, true), writer);
    _exit(0);
}

static void processes(void)
{
    struct subject subject = subject_open(SLOTS * SLOT, 0, true, BLOCK);
    pid_t pids[WRITERS];
    for (uint32_t i = 0; i < WRITERS; i++)
        pids[i] = start_writer(&subject, i);
    for (uint32_t i = 0; i < WRITERS; i++) {
        int status;
        check_slots(&subject, subject.blocks);
        CHECK_EQ(waitpid(pids[i], &status, 0), pids[i]);
        CHECK_EQ(status, 0);
    }
    check_all_written(&subject, subject.blocks, 0);
    subject_free(&subject);
}

/* Writers that are killed wherever they are; the others and the next go on. */
static void killed(void)
{
    struct subject subject = subject_open(SLOTS * SLOT, 0, true, BLOCK);
    uint32_t random = 99;
    for (int round = 0; round < 30; round++) {
        pid_t first = start_writer(&subject, 0), second = start_writer(&subject, 1 + (uint32_t)round % 3);
        struct timespec while_ago = {.tv_nsec = (long)(next_random(&random) % 20000000)};
        (void)nanosleep(&while_ago, NULL);
        CHECK_EQ(kill(first, SIGKILL), 0);
        CHECK_EQ(kill(second, SIGKILL), 0);
        CHECK_EQ(waitpid(first, NULL, 0), first);
        CHECK_EQ(waitpid(second, NULL, 0), second);
        check_whole_slots(&subject, subject.blocks);
    }
    subject_free(&subject);
}

/* ---- a process that ends at its n-th system call ---- */

enum { WRITE, APPEND, CUT, CUT_AND_GROW, PUNCH, SYNC, SETTLE, CHANGES };

static uint8_t news[20000];

static int change(struct subject *subject, struct lz_blocks *blocks, int what)
{
    ssize_t rc = 0;
    switch (what) {
    case WRITE:
        rc = lz_blocks_write(blocks, news, sizeof news, 30001);
        break;
    case APPEND:
        rc = lz_blocks_append(blocks, news, 5000);
        break;
    case CUT:
        rc = lz_blocks_truncate(blocks, 12345);
        break;
    case CUT_AND_GROW:
        rc = lz_blocks_truncate(blocks, 12345);
        rc = rc == 0 ? lz_blocks_truncate(blocks, 70000) : rc;
        break;
    case PUNCH:
        rc = lz_blocks_punch(blocks, 5000, 30000);
        break;
    case SYNC:
        rc = lz_blocks_sync(blocks);
        break;
    default:
        rc = lz_blocks_settle(blocks, subject->maps_fd, NULL);
    }
    return rc < 0 ? (int)rc : 0;
}

/* What the change makes of the content, in `model`; `middle`: how a killed one may leave it, too. */
static void change_model(struct model *model, struct model *middle, int what)
{
    if (what == WRITE)
        model_write(model, news, sizeof news, 30001);
    if (what == APPEND)
        model_write(model, news, 5000, model->size);
    if (what == CUT || what == CUT_AND_GROW)
        model_resize(model, 12345);
    memcpy(middle->bytes, model->bytes, MODEL_MAX);
    middle->size = model->size;
    if (what == CUT_AND_GROW)
        model_resize(model, 70000);
    if (what == PUNCH)
        model_punch(model, 5000, 30000);
}

static struct model copy_model(const struct model *model)
{
    struct model copy = {.bytes = malloc(MODEL_MAX), .size = model->size};
    CHECK(copy.bytes != NULL);
    memcpy(copy.bytes, model->bytes, MODEL_MAX);
    return copy;
}

static bool is_model(const uint8_t *found, ssize_t size, const struct model *model)
{
    return size == (ssize_t)model->size && memcmp(found, model->bytes, model->size) == 0;
}

/* The content is that of before, of after, or (writes and holes, which POSIX does not promise whole) block by block of one
 * of them. */
static void check_half_done(struct lz_blocks *blocks, int what, const struct model *before, const struct model *middle,
                            const struct model *after)
{
    static uint8_t found[MODEL_MAX];
    ssize_t size = lz_blocks_read(blocks, found, sizeof found, 0);
    CHECK_EQ(size, lz_blocks_size(blocks));
    if (what == WRITE || what == PUNCH) {
        CHECK_EQ(size, before->size);
        for (ssize_t i = 0; i < size; i++)
            CHECK(found[i] == before->bytes[i] || found[i] == after->bytes[i]);
    } else {
        CHECK(is_model(found, size, before) || is_model(found, size, middle) || is_model(found, size, after));
    }
}

/* True when the child got to the end. */
static bool run_and_die(struct subject *subject, int what, long n)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct lz_blocks *blocks;
        struct fault fault;
        fault_arm(&fault, 0, 0);
        struct subject own = *subject;
        own.file_fd = openat(subject->scratch.fd, "upper", O_RDWR | O_CLOEXEC);
        CHECK_EQ(open_with(fault_sys(&fault), &own, true, &blocks, NULL), 0);
        fault.calls = 0;
        fault.fail_at = n;
        fault.dies = true;
        CHECK_EQ(change(&own, blocks, what), 0);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(status == 0 || WEXITSTATUS(status) == 99);
    return status == 0;
}

static int count_maps(const struct subject *subject)
{
    int fd = openat(subject->scratch.fd, "maps", O_RDONLY | O_DIRECTORY | O_CLOEXEC), count = -2;
    DIR *directory = fdopendir(fd);
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    CHECK_EQ(closedir(directory), 0);
    return count;
}

static void killed_at(int what, long n, bool *over)
{
    struct subject subject = subject_open(70000, 0, true, BLOCK);
    write_both(&subject, "before", 6, 40000);
    struct model after = copy_model(&subject.model), middle = copy_model(&subject.model);
    change_model(&after, &middle, what);
    *over = run_and_die(&subject, what, n);
    check_half_done(subject.blocks, what, &subject.model, &middle, &after); /* a handle that was open all the time */
    char name[LZ_BLOCKS_NAME_SIZE];
    int named = lz_blocks_name(booted(), subject.scratch.fd, "upper", subject.user_xattr, name);
    CHECK(named == 1 || (named == 0 && what == SETTLE));
    CHECK(named == 0 || count_maps(&subject) == 1);
    if (named == 1) {
        lz_blocks_close(subject.blocks);
        subject.blocks = open_again(&subject, true);
        check_half_done(subject.blocks, what, &subject.model, &middle, &after);
        static uint8_t found[MODEL_MAX];
        ssize_t size = lz_blocks_read(subject.blocks, found, sizeof found, 0);
        model_resize(&subject.model, 0);
        model_write(&subject.model, found, (size_t)size, 0);
        write_both(&subject, "on it goes", 10, 80000); /* what was cut does not come back */
        check_content(subject.blocks, &subject.model);
        CHECK_EQ(lz_blocks_settle(subject.blocks, subject.maps_fd, NULL), 0);
        check_content(subject.blocks, &subject.model);
        CHECK_EQ(count_maps(&subject), 0);
    } else { /* settled: what may be left is a map that nobody names */
        struct lz_buf whole = read_whole(subject.file_fd);
        CHECK(is_model(whole.data, (ssize_t)whole.size, &after));
        lz_buf_free(&whole);
    }
    free(after.bytes);
    free(middle.bytes);
    subject_free(&subject);
}

static void killed_at_each_call(void)
{
    for (size_t i = 0; i < sizeof news; i++)
        news[i] = (uint8_t)(128 + i % 100);
    for (int what = 0; what < CHANGES; what++) {
        bool over = false;
        long n = 0;
        while (!over)
            killed_at(what, ++n, &over);
        CHECK(n > 3);
    }
}

/* ---- power cuts: the next boot finds of the file and the map what the disk has ---- */

/* Another file and map as a disk may have them after the cut: `scribble` puts garbage into every block of the upper that
 * was not synced, as if its data had never got there. */
static void copy_as_found(const struct subject *from, struct subject *to, bool scribble, const bool *synced)
{
    char name[LZ_BLOCKS_NAME_SIZE], command[512];
    *to = *from;
    to->scratch = scratch_new();
    (void)snprintf(command, sizeof command, "cp -a %s/upper %s/maps %s/", from->scratch.path, from->scratch.path,
                   to->scratch.path);
    CHECK_EQ(system(command), 0);
    to->file_fd = openat(to->scratch.fd, "upper", O_RDWR | O_CLOEXEC);
    to->maps_fd = openat(to->scratch.fd, "maps", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(to->file_fd >= 0 && to->maps_fd >= 0);
    CHECK_EQ(lz_blocks_name(booted(), to->file_fd, "", to->user_xattr, name), 1);
    off_t size = lseek(to->file_fd, 0, SEEK_END);
    for (off_t at = 0; scribble && at < size && at < (off_t)to->lower_model.size; at += BLOCK) {
        uint8_t garbage[BLOCK];
        memset(garbage, 0xee, sizeof garbage);
        size_t piece = (size_t)(size - at) < BLOCK ? (size_t)(size - at) : BLOCK;
        if (!synced[at / BLOCK])
            CHECK_EQ(pwrite(to->file_fd, garbage, piece, at), piece);
    }
}

static void free_copy(struct subject *copy)
{
    CHECK_EQ(close(copy->file_fd), 0);
    CHECK_EQ(close(copy->maps_fd), 0);
    scratch_free(&copy->scratch);
}

/* Blocks that were synced read as they were then (or as they were written since); others read as the lower. */
static void power_cut(void)
{
    for (uint32_t seed = 1; seed <= 12; seed++) {
        uint32_t random = seed * 101;
        struct subject subject = subject_open(50 * BLOCK, 0, true, BLOCK), copy;
        bool synced[50] = {0}, written[50] = {0};
        for (int i = 0; i < 30; i++) {
            uint32_t block = next_random(&random) % 50;
            uint8_t bytes[100];
            memset(bytes, (int)(128 + next_random(&random) % 100), sizeof bytes);
            write_both(&subject, bytes, sizeof bytes, block * BLOCK + next_random(&random) % 3000);
            written[block] = true;
            if (i == (int)(seed % 4) * 7) {
                CHECK_EQ(lz_blocks_sync(subject.blocks), 0);
                memcpy(synced, written, sizeof synced);
            }
        }
        struct model expected = copy_model(&subject.model);
        for (size_t block = 0; block < 50; block++) {
            if (!synced[block])
                memcpy(expected.bytes + block * BLOCK, subject.lower_model.bytes + block * BLOCK, BLOCK);
        }
        copy_as_found(&subject, &copy, true, synced);
        reboot_into(&subject, 'n');
        struct lz_blocks *blocks = open_again(&copy, seed % 2 == 0);
        check_content(blocks, &expected);
        lz_blocks_close(blocks);
        blocks = open_again(&copy, true);
        CHECK_EQ(lz_blocks_write(blocks, "again", 5, 20 * BLOCK + 7), 5);
        model_write(&expected, (const uint8_t *)"again", 5, 20 * BLOCK + 7);
        check_content(blocks, &expected);
        CHECK_EQ(lz_blocks_settle(blocks, copy.maps_fd, NULL), 0);
        check_content(blocks, &expected);
        lz_blocks_close(blocks);
        free(expected.bytes);
        free_copy(&copy);
        subject_free(&subject);
    }
}

/* A truncation that was not synced: the disk may have the file as it was, cut, or grown again. */
static void power_cut_after_truncation(void)
{
    for (int stage = 0; stage < 3; stage++) {
        struct subject subject = subject_open(50 * BLOCK, 0, true, BLOCK), copy;
        write_both(&subject, "early", 5, 100);
        CHECK_EQ(lz_blocks_sync(subject.blocks), 0);
        CHECK_EQ(lz_blocks_truncate(subject.blocks, 3 * BLOCK + 5), 0);
        if (stage == 2) {
            CHECK_EQ(lz_blocks_truncate(subject.blocks, 50 * BLOCK), 0);
            model_resize(&subject.model, 3 * BLOCK + 5);
            model_resize(&subject.model, 50 * BLOCK);
        }
        static const bool all[50] = {true, true, true, true};
        copy_as_found(&subject, &copy, false, all);
        if (stage == 0) /* the map's page got there, the file's size did not */
            CHECK_EQ(ftruncate(copy.file_fd, 50 * BLOCK), 0);
        if (stage == 1)
            model_resize(&subject.model, 3 * BLOCK + 5);
        reboot_into(&subject, 'n');
        struct lz_blocks *blocks = open_again(&copy, true);
        check_content(blocks, &subject.model);
        lz_blocks_close(blocks);
        free_copy(&copy);
        subject_free(&subject);
    }
}

/* The cut came before the map's content got to the disk. That nobody had asked for, so the file is the lower's; once
 * somebody had, it is an error. */
static void lost_map(void)
{
    for (int synced = 0; synced < 2; synced++) {
        for (int shape = 0; shape < 5; shape++) {
            struct subject subject = subject_open(70000, 0, shape == 0, BLOCK), copy;
            int damage = shape == 4 ? -ENOENT : LZ_E_CORRUPT;
            char name[LZ_BLOCKS_NAME_SIZE];
            CHECK_EQ(lz_blocks_write(subject.blocks, "gone", 4, 100), 4);
            if (synced == 1)
                CHECK_EQ(lz_blocks_sync(subject.blocks), 0);
            copy_as_found(&subject, &copy, false, NULL);
            CHECK_EQ(lz_blocks_name(booted(), copy.file_fd, "", copy.user_xattr, name), 1);
            int map = openat(copy.maps_fd, name, O_RDWR | O_CLOEXEC);
            struct stat info;
            CHECK_EQ(fstat(map, &info), 0);
            CHECK_EQ(ftruncate(map, 0), 0);
            if (shape > 0)
                CHECK_EQ(ftruncate(map, shape == 1 ? 100 : info.st_size), 0);
            if (shape == 3) { /* the page of a cell came, that of the header did not; nor did the data */
                const uint64_t cell = 1 | (uint64_t)0x9e3779b1u << 32;
                CHECK_EQ(pwrite(map, &cell, sizeof cell, LZ_BLOCKS_HEADER_SIZE), sizeof cell);
            }
            CHECK_EQ(close(map), 0);
            if (shape == 4) /* btrfs: the file's own log came, the transaction with the map's name did not */
                CHECK_EQ(unlinkat(copy.maps_fd, name, 0), 0);
            struct lz_blocks *blocks = NULL;
            CHECK_EQ(open_with(booted(), &copy, true, &blocks, NULL), damage); /* in this boot */
            reboot_into(&subject, 'n');
            struct lz_blocks_lower other = copy.lower;
            other.digest[0] ^= 1;
            other.mtime ^= 1;
            CHECK_EQ(lz_blocks_open(booted(), copy.file_fd, copy.maps_fd, name, true, &other, &blocks, NULL), damage);
            if (synced == 1) {
                CHECK_EQ(open_with(booted(), &copy, true, &blocks, NULL), damage);
            } else {
                blocks = open_again(&copy, shape == 2);
                check_content(blocks, &copy.model);
                lz_blocks_close(blocks);
                blocks = open_again(&copy, true);
                CHECK_EQ(lz_blocks_write(blocks, "new", 3, 30000), 3);
                CHECK_EQ(lz_blocks_sync(blocks), 0);
                model_write(&copy.model, (const uint8_t *)"new", 3, 30000);
                check_content(blocks, &copy.model);
                lz_blocks_close(blocks);
            }
            free_copy(&copy);
            subject_free(&subject);
        }
    }
}

int main(void)
{
    RUN(threads);
    RUN(settled_meanwhile);
    RUN(processes);
    RUN(killed);
    RUN(killed_at_each_call);
    RUN(power_cut);
    RUN(power_cut_after_truncation);
    RUN(lost_map);
    return check_end();
}
