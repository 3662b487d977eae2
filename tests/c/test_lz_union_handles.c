/* Handles that read a lower's bytes, while copy-ups, renames and other threads go on beside them. */
#include "union_fixture.h"

#include <pthread.h>

static struct scratch scratch;
static int objects;

struct setting {
    struct branch_index index;
    struct lz_branch branch;
    int upper, work;
    struct lz_union *self;
};

static void open_setting(struct setting *setting, const char *lower, const char *upper)
{
    setting->index = make_index(&lower, 1, 1, objects, false);
    setting->branch = index_branch(&setting->index, objects);
    setting->upper = make_layer_directory(&scratch, "upper", upper, 2);
    make_directory(&scratch, "work");
    setting->work = openat(scratch.fd, "work", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(setting->work >= 0);
    setting->self = open_union(&setting->branch, 1, setting->upper, setting->work);
}

static void close_setting(struct setting *setting)
{
    char command[200];
    lz_union_free(setting->self);
    CHECK_EQ(close(setting->upper) + close(setting->work), 0);
    free_index(&setting->index);
    (void)snprintf(command, sizeof command, "cd %s && rm -rf upper work", scratch.path);
    CHECK_EQ(system(command), 0);
}

static void check_read(struct lz_union_file *file, const char *expected)
{
    char bytes[100];
    ssize_t got = lz_union_file_read(file, bytes, sizeof bytes - 1, 0);
    CHECK(got >= 0);
    bytes[got] = 0;
    CHECK_STR(bytes, expected);
}

static struct lz_union_file *open_file(struct lz_union *self, const char *path)
{
    struct lz_union_file *file = NULL;
    CHECK_EQ(lz_union_open(self, path, strlen(path), O_RDONLY, 0, &file, NULL), 0);
    return file;
}

static struct lz_origin origin_of(struct lz_union *self, const char *path)
{
    struct lz_origin origin;
    struct lz_place place;
    lz_place_begin(&place);
    CHECK_EQ(lz_union_walk(self, path, strlen(path), 0, &place), 0);
    lz_union_origin(&place, &origin);
    lz_place_end(&place);
    return origin;
}

/* What a copy-up leaves, made by hand. */
static void bring_up(const char *path, const char *content, const struct lz_origin *origin)
{
    char full[300];
    (void)snprintf(full, sizeof full, "upper/%s", path);
    make_file(&scratch, full, content, strlen(content));
    (void)snprintf(full, sizeof full, "%s/upper/%s", scratch.path, path);
    if (origin != NULL)
        CHECK_EQ(lsetxattr(full, "trusted.overlay.lazarus.origin", origin, sizeof *origin, 0), 0);
}

static void count_change(struct lz_union *self)
{
    CHECK(lz_union_lock_file(self, true) >= 0);
    CHECK_EQ(lz_union_changed(self), 0);
}

static void follows_a_copy_up_of_another_process(void)
{
    struct setting setting;
    open_setting(&setting, "f same text; f other text2; d d 755; f d/f text3", "d . 755");
    struct lz_origin same = origin_of(setting.self, "same"), other = origin_of(setting.self, "other");
    struct lz_union_file *file = open_file(setting.self, "same"), *second = open_file(setting.self, "other");
    struct lz_union_info info;
    struct lz_union *elsewhere = open_union(&setting.branch, 1, setting.upper, setting.work);
    check_read(file, "text");
    count_change(elsewhere);
    check_read(file, "text");
    bring_up("same", "new", &same);
    count_change(elsewhere);
    check_read(file, "new");
    CHECK_EQ(lz_union_file_stat(file, &info), 0);
    CHECK(info.branch == LZ_UNION_UPPER && info.size == 3);
    /* a file that took the name without being that one */
    bring_up("other", "foreign", &same);
    count_change(elsewhere);
    check_read(second, "text2");
    CHECK_EQ(unlinkat(setting.upper, "other", 0), 0);
    bring_up("other", "foreign", NULL);
    count_change(elsewhere);
    check_read(second, "text2");
    bring_up("other", "right", &other);
    check_read(second, "text2"); /* nobody has said that something changed */
    count_change(elsewhere);
    check_read(second, "right");
    lz_union_file_close(file);
    lz_union_file_close(second);
    lz_union_free(elsewhere);
    close_setting(&setting);
}

static void follows_a_copy_up_and_a_rename_of_its_own(void)
{
    struct setting setting;
    open_setting(&setting, "f file text; f still here", "d . 755");
    struct lz_origin origin = origin_of(setting.self, "file");
    struct lz_union_file *file = open_file(setting.self, "file"), *again = open_file(setting.self, "file"),
                         *still = open_file(setting.self, "still");
    bring_up("file", "new", &origin);
    lz_union_files_moved(setting.self, &origin, "file", 4);
    CHECK_EQ(renameat(setting.upper, "file", setting.upper, "elsewhere"), 0);
    make_whiteout(&scratch, "upper/file");
    check_read(file, "new");
    bring_up("elsewhere", "newer", &origin);
    check_read(again, "newer");
    check_read(still, "here");
    lz_union_file_close(again);
    lz_union_file_close(still);
    lz_union_file_close(file);
    close_setting(&setting);
}

static void follows_the_data_of_a_metacopy(void)
{
    struct setting setting;
    open_setting(&setting, "f file text", "d . 755; f file xxxx");
    struct lz_origin origin = {1, 2, 3};
    bring_up("file", "xxxx", &origin);
    set_xattr(&scratch, "upper/file", "trusted.overlay.metacopy", "");
    struct lz_union_file *file = open_file(setting.self, "file");
    check_read(file, "text");
    count_change(setting.self);
    check_read(file, "text");
    bring_up("file", "data", &origin);
    char full[300];
    (void)snprintf(full, sizeof full, "%s/upper/file", scratch.path);
    CHECK_EQ(removexattr(full, "trusted.overlay.metacopy"), 0);
    count_change(setting.self);
    check_read(file, "data");
    lz_union_file_close(file);
    /* attributes whose data is nowhere: the name is there, its content is not */
    bring_up("lost", "xxxx", &origin);
    set_xattr(&scratch, "upper/lost", "trusted.overlay.metacopy", "");
    struct lz_union_list *list;
    CHECK_EQ(lz_union_open(setting.self, "lost", 4, O_RDONLY, 0, &file, NULL), -EIO);
    CHECK_EQ(lz_union_list(setting.self, "/", 1, &list), 0);
    CHECK_EQ(lz_union_list_count(list), 2);
    CHECK_STR(lz_union_list_at(list, 1)->name, "lost");
    lz_union_list_free(list);
    close_setting(&setting);
}

/* A file of the upper that has only its second block: the rest is the lower's. */
static void reads_a_block_level_file(void)
{
    struct setting setting;
    static char script[9000] = "@ file ";
    char bytes[9000];
    memset(script + 7, 'a', 4990); /* the fixture's words end there */
    open_setting(&setting, script, "d . 755");
    struct lz_place place;
    struct lz_blocks_lower lower;
    struct lz_blocks *blocks;
    char map[LZ_BLOCKS_NAME_SIZE];
    bool owned;
    lz_place_begin(&place);
    CHECK_EQ(lz_union_walk(setting.self, "file", 4, 0, &place), 0);
    CHECK_EQ(lz_union_blocks_lower(setting.self, &place, lz_place_data(&place), &lower, &owned, NULL), 0);
    CHECK(owned && lower.has_digest && lower.at.size == 4990);
    make_file(&scratch, "upper/file", "", 0);
    int maps = lz_union_blocks_dir(setting.self, true), fd = openat(scratch.fd, "upper/file", O_RDWR | O_CLOEXEC);
    CHECK(maps >= 0 && fd >= 0);
    CHECK_EQ(lz_blocks_create(lz_sys_linux(), fd, maps, false, 4096, &lower, NULL), 0);
    CHECK_EQ(lz_blocks_name(lz_sys_linux(), fd, "", false, map), 1);
    CHECK_EQ(lz_blocks_open(lz_sys_linux(), fd, maps, map, true, &lower, &blocks, NULL), 0);
    CHECK_EQ(lz_blocks_write(blocks, "new", 3, 4096), 3);

    struct lz_union *elsewhere = open_union(&setting.branch, 1, setting.upper, setting.work);
    struct lz_union_file *file = open_file(elsewhere, "file");
    struct lz_union_info info, handle;
    CHECK_EQ(lz_union_stat(elsewhere, "file", 4, 0, &info), 0);
    CHECK(info.unsettled && !info.has_digest && info.branch == LZ_UNION_UPPER && info.data_branch == 0);
    CHECK_EQ(info.size, 4990);
    CHECK_EQ(lz_union_file_stat(file, &handle), 0);
    CHECK(handle.unsettled && handle.size == 4990 && handle.number == info.number);
    CHECK_EQ(lz_union_file_read(file, bytes, sizeof bytes, 0), 4990);
    CHECK(bytes[4095] == 'a' && memcmp(bytes + 4096, "newa", 4) == 0 && bytes[4989] == 'a');
    CHECK_EQ(lz_blocks_write(blocks, "first", 5, 0), 5);
    CHECK_EQ(lz_union_file_read(file, bytes, 6, 0), 6);
    CHECK_EQ(memcmp(bytes, "firsta", 6), 0);
    CHECK_EQ(lz_union_file_seek(file, 0, SEEK_HOLE), 4990);
    CHECK_EQ(lz_union_file_sync(file), 0);
    lz_union_file_close(file);

    struct lz_detail detail = {{0}};
    CHECK_EQ(unlinkat(maps, map, 0), 0);
    CHECK_EQ(lz_union_open(elsewhere, "file", 4, O_RDONLY, 0, &file, &detail), LZ_E_CORRUPT);
    CHECK(detail.text[0] != 0);
    lz_union_free(elsewhere);
    lz_blocks_close(blocks);
    CHECK_EQ(close(fd) + close(lower.at.fd), 0);
    lz_place_end(&place);
    close_setting(&setting);
}

/* ---- threads ---- */

#define READERS 8

struct busy {
    struct setting setting;
    const char *expected;
    atomic_bool stop;
    atomic_long rounds;
};

static void *read_on(void *argument)
{
    struct busy *busy = argument;
    struct lz_union *self = busy->setting.self;
    while (!atomic_load(&busy->stop)) {
        struct lz_union_info info;
        struct lz_union_list *list;
        char bytes[20];
        CHECK_EQ(lz_union_stat(self, "d/swapped", 9, 0, &info), 0);
        CHECK(info.size == 3 || info.size == 5);
        struct lz_union_file *file = open_file(self, "d/swapped");
        ssize_t got = lz_union_file_read(file, bytes, sizeof bytes, 0);
        CHECK((got == 3 && memcmp(bytes, "new", 3) == 0) || (got == 5 && memcmp(bytes, "newer", 5) == 0));
        lz_union_file_close(file);
        CHECK_EQ(lz_union_list(self, "d", 1, &list), 0);
        CHECK_EQ(lz_union_list_count(list), 3);
        lz_union_list_free(list);
        file = open_file(self, "d/low");
        check_read(file, "text");
        lz_union_file_close(file);
        atomic_fetch_add(&busy->rounds, 1);
    }
    return NULL;
}

/* One name goes from one file to another by rename, the other's comes back: a name that is always there is always seen. */
static void eight_threads_always_see_a_name_that_is_there(void)
{
    struct busy busy = {0};
    open_setting(&busy.setting, "d d 755; f d/low text; f d/x text", "d . 755; d d 755; f d/swapped new");
    pthread_t threads[READERS];
    for (int i = 0; i < READERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, read_on, &busy), 0);
    for (int i = 0; i < 400 || atomic_load(&busy.rounds) < READERS * 5; i++) {
        make_file(&scratch, "other", i % 2 == 0 ? "newer" : "new", i % 2 == 0 ? 5 : 3);
        CHECK_EQ(renameat(scratch.fd, "other", busy.setting.upper, "d/swapped"), 0);
        if (i % 16 == 0)
            count_change(busy.setting.self);
    }
    atomic_store(&busy.stop, true);
    for (int i = 0; i < READERS; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    close_setting(&busy.setting);
}

/* One handle in all threads, which changes over while it is read. */
struct shared {
    struct lz_union_file *file;
    atomic_bool moved, stop;
};

static void *read_shared(void *argument)
{
    struct shared *shared = argument;
    while (!atomic_load(&shared->stop)) {
        bool moved = atomic_load(&shared->moved);
        char bytes[10];
        ssize_t got = lz_union_file_read(shared->file, bytes, sizeof bytes, 0);
        CHECK(got == 4 || got == 3);
        CHECK(got == 4 ? !moved && memcmp(bytes, "text", 4) == 0 : memcmp(bytes, "new", 3) == 0);
    }
    return NULL;
}

static void a_shared_handle_changes_over_once(void)
{
    for (int round = 0; round < 20; round++) {
        struct setting setting;
        open_setting(&setting, "f file text", "d . 755");
        struct lz_origin origin = origin_of(setting.self, "file");
        struct shared shared = {.file = open_file(setting.self, "file")};
        pthread_t threads[READERS];
        for (int i = 0; i < READERS; i++)
            CHECK_EQ(pthread_create(&threads[i], NULL, read_shared, &shared), 0);
        bring_up("file", "new", &origin);
        if (round % 2 == 0)
            lz_union_files_moved(setting.self, &origin, "file", 4);
        else
            count_change(setting.self);
        atomic_store(&shared.moved, true);
        check_read(shared.file, "new");
        atomic_store(&shared.stop, true);
        for (int i = 0; i < READERS; i++)
            CHECK_EQ(pthread_join(threads[i], NULL), 0);
        lz_union_file_close(shared.file);
        close_setting(&setting);
    }
}

int main(void)
{
    scratch = scratch_new();
    make_directory(&scratch, "objects");
    objects = openat(scratch.fd, "objects", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    RUN(follows_a_copy_up_of_another_process);
    RUN(follows_a_copy_up_and_a_rename_of_its_own);
    RUN(follows_the_data_of_a_metacopy);
    RUN(reads_a_block_level_file);
    RUN(eight_threads_always_see_a_name_that_is_there);
    RUN(a_shared_handle_changes_over_once);
    CHECK_EQ(close(objects), 0);
    scratch_free(&scratch);
    return check_end();
}
