/* Changing a union while it fails: each system call in turn, kill -9 at each of them, and a full disk. Every name is old or
 * new after it, work is empty again once somebody has taken the lock, and trying again works. */
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "union_script.h"

#define DIED 99 /* exit status of fault.dies */

struct scene {
    const char *what;
    struct op before[4]; /* the last has no path */
    struct op op;
};

#define NEW (O_WRONLY | O_CREAT | O_EXCL)

static const struct scene scenes[] = {
    {"directory", {{0}}, {.kind = OP_MKDIR, .a = "/d/sub/new", .mode = 0755}},
    {"directory over a whiteout", {{.kind = OP_RMDIR, .a = "/e"}}, {.kind = OP_MKDIR, .a = "/e", .mode = 0755}},
    {"file over a whiteout in a set-group-ID directory",
     {{.kind = OP_WRITE, .a = "/g/f", .flags = NEW, .mode = 0644},
      {.kind = OP_RENAME, .a = "/d/a", .b = "/g/a"},
      {.kind = OP_UNLINK, .a = "/d/b"}},
     {.kind = OP_WRITE, .a = "/d/b", .flags = NEW, .mode = 0644}},
    {"symlink", {{0}}, {.kind = OP_SYMLINK, .a = "t", .b = "/n/deep/s"}},
    {"link of a lower file", {{0}}, {.kind = OP_LINK, .a = "/d/a", .b = "/d/sub/l"}},
    {"link over a whiteout", {{.kind = OP_UNLINK, .a = "/d/c"}}, {.kind = OP_LINK, .a = "/d/a", .b = "/d/c"}},
    {"unlink of a lower file", {{0}}, {.kind = OP_UNLINK, .a = "/d/sub/x"}},
    {"unlink of an upper file over a lower one",
     {{.kind = OP_WRITE, .a = "/d/a", .flags = O_WRONLY, .text = "X"}},
     {.kind = OP_UNLINK, .a = "/d/a"}},
    {"rmdir with whiteouts inside", {{.kind = OP_UNLINK, .a = "/n/deep/down"}}, {.kind = OP_RMDIR, .a = "/n/deep"}},
    {"rmdir of a directory of the upper with whiteouts inside",
     {{.kind = OP_RENAME, .a = "/n/deep", .b = "/m"}, {.kind = OP_UNLINK, .a = "/m/down"}},
     {.kind = OP_RMDIR, .a = "/m"}},
    {"rename of a lower file", {{0}}, {.kind = OP_RENAME, .a = "/d/a", .b = "/n/a"}},
    {"rename over a lower file", {{0}}, {.kind = OP_RENAME, .a = "/d/a", .b = "/d/sub/x"}},
    {"rename over a whiteout", {{.kind = OP_UNLINK, .a = "/d/c"}}, {.kind = OP_RENAME, .a = "/d/a", .b = "/d/c"}},
    {"rename of a lower directory", {{0}}, {.kind = OP_RENAME, .a = "/d", .b = "/n/d"}},
    {"rename over an empty merged directory",
     {{.kind = OP_UNLINK, .a = "/n/deep/down"}},
     {.kind = OP_RENAME, .a = "/d/sub", .b = "/n/deep"}},
    {"rename of a new directory over a whiteout",
     {{.kind = OP_MKDIR, .a = "/m", .mode = 0755}, {.kind = OP_RMDIR, .a = "/e"}},
     {.kind = OP_RENAME, .a = "/m", .b = "/e"}},
    {"exchange", {{0}}, {.kind = OP_RENAME, .a = "/d/sub", .b = "/n/low", .number = RENAME_EXCHANGE}},
    {"mode", {{0}}, {.kind = OP_CHMOD, .a = "/d/sub/t/z", .mode = 0600}},
    {"mode of a file with three names", {{0}}, {.kind = OP_CHMOD, .a = "/h/h3", .mode = 0600}},
    {"owner", {{0}}, {.kind = OP_CHOWN, .a = "/d/b", .mode = 3, .number = 4}},
    {"owner of a symlink", {{0}}, {.kind = OP_CHOWN, .a = "/d/ln", .mode = 3, .number = 4, .nofollow = true}},
    {"mode of a device", {{0}}, {.kind = OP_CHMOD, .a = "/d/null", .mode = 0600}},
    {"xattr", {{0}}, {.kind = OP_SETXATTR, .a = "/d/a", .b = "user.two", .text = "2"}},
    {"opening for writing", {{0}}, {.kind = OP_WRITE, .a = "/d/b", .flags = O_WRONLY}},
    {"opening three names for writing", {{0}}, {.kind = OP_WRITE, .a = "/h1", .flags = O_WRONLY}},
    {"opening a metacopy for writing",
     {{.kind = OP_CHMOD, .a = "/d/b", .mode = 04711}},
     {.kind = OP_WRITE, .a = "/d/b", .flags = O_WRONLY}},
    {"cutting", {{0}}, {.kind = OP_TRUNCATE, .a = "/d/a"}},
    {"cutting a metacopy", {{.kind = OP_CHMOD, .a = "/d/b", .mode = 0600}}, {.kind = OP_TRUNCATE, .a = "/d/b"}},
    {"opening for writing, and writing a block",
     {{0}},
     {.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .number = 70000, .text = "X"}},
    {"opening a metacopy for writing block by block",
     {{.kind = OP_CHMOD, .a = "/big", .mode = 0600}},
     {.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .number = 70000, .text = "X"}},
    {"unlink of a block-level file",
     {{.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .text = "X"}},
     {.kind = OP_UNLINK, .a = "/big"}},
    {"rename of a block-level file",
     {{.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .text = "X"}},
     {.kind = OP_RENAME, .a = "/big", .b = "/d/a"}},
    {"rename over a block-level file",
     {{.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .text = "X"}},
     {.kind = OP_RENAME, .a = "/d/a", .b = "/big"}},
    {"a new file", {{0}}, {.kind = OP_WRITE, .a = "/n/w", .flags = NEW, .mode = 0604}},
};
#define SCENE_COUNT (sizeof scenes / sizeof *scenes)

static void set_scene(struct world *world, const struct scene *scene)
{
    world->options.block_threshold = 65536; /* /big comes up block by block */
    world_clear_upper(world);
    struct lz_union *self = world_union(world, lz_sys_linux());
    for (size_t i = 0; i < 4 && scene->before[i].a != NULL; i++)
        CHECK_EQ(apply_union(self, &scene->before[i]), 0);
    lz_union_free(self);
}

/* What everybody else sees, without times: a directory's times are put back after the name is there. */
static char *look(const struct world *world)
{
    struct lz_union *self = world_union(world, lz_sys_linux());
    char *text = text_union(self, 0);
    lz_union_free(self);
    return text;
}

/* A state on disk, and whether it shows as the scene does before or after. */
struct state {
    char *upper, *work;
    bool before, after;
};

/* What a scene is before and after, and the states that it was found in: the same bytes on disk show the same, and
 * failing calls leave the same few over and over. */
struct views {
    char *before, *after;
    struct state states[64];
    size_t state_count;
};

static char *look_at(int dir_fd)
{
    int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(here >= 0);
    CHECK_EQ(fchdir(dir_fd), 0);
    char *text = text_posix(0);
    CHECK_EQ(fchdir(here), 0);
    CHECK_EQ(close(here), 0);
    return text;
}

static void state_free(struct state *state)
{
    free(state->upper);
    free(state->work);
}

static void views_free(struct views *views)
{
    free(views->before);
    free(views->after);
    for (size_t i = 0; i < views->state_count; i++)
        state_free(&views->states[i]);
}

static void look_at_scene(struct world *world, const struct scene *scene, struct views *views)
{
    *views = (struct views){0};
    set_scene(world, scene);
    struct lz_union *self = world_union(world, lz_sys_linux());
    CHECK_EQ(apply_union(self, &scene->op), 0);
    lz_union_free(self);
    check_work_clean(world);
    views->after = look(world);
    set_scene(world, scene);
    views->before = look(world);
}

/* What the union shows now: one of the states that were seen, or looked at and remembered. */
static const struct state *shown(const struct world *world, struct lz_union *self, struct views *views)
{
    struct state now = {.upper = look_at(world->upper_fd), .work = look_at(world->work_fd)};
    for (size_t i = 0; i < views->state_count; i++) {
        const struct state *state = &views->states[i];
        if (strcmp(now.upper, state->upper) == 0 && strcmp(now.work, state->work) == 0) {
            state_free(&now);
            return state;
        }
    }
    char *text = text_union(self, 0);
    now.before = strcmp(text, views->before) == 0;
    now.after = strcmp(text, views->after) == 0;
    free(text);
    if (views->state_count == sizeof views->states / sizeof *views->states)
        state_free(&views->states[--views->state_count]);
    views->states[views->state_count] = now;
    return &views->states[views->state_count++];
}

/* Old or new; and new when it is tried again. */
static void check_scene(const struct world *world, const struct scene *scene, long n, struct views *views,
                        bool must_be_new)
{
    struct op take_lock = {.kind = OP_CHMOD, .a = "/none"};
    struct lz_union *self = world_union(world, lz_sys_linux());
    CHECK_EQ(apply_union(self, &take_lock), -ENOENT); /* finishes or removes what was left */
    check_work_clean(world);
    const struct state *state = shown(world, self, views);
    if (!state->after) {
        if (must_be_new || !state->before) {
            fprintf(stderr, "%s: call %ld\n", scene->what, n);
            check_text("neither old nor new", text_union(self, 0), must_be_new ? views->after : views->before);
        }
        CHECK_EQ(apply_union(self, &scene->op), 0);
        CHECK(shown(world, self, views)->after);
        check_work_clean(world);
    }
    lz_union_free(self);
}

/* The call alone fails, or all from there on, too, which leaves what kill -9 would. */
static void each_call_fails(struct world *world, const struct scene *scene, int code, bool lasts)
{
    struct views views;
    look_at_scene(world, scene, &views);
    int descriptors = count_descriptors();
    for (long n = 1;; n += lasts ? 2 : 1) { /* each by itself; of the states that a kill leaves every second */
        struct fault fault;
        set_scene(world, scene);
        fault_arm(&fault, 0, code);
        struct lz_union *self = world_union(world, fault_sys(&fault)); /* is not what is tested */
        fault.calls = 0;
        fault.lasts = lasts;
        fault.fail_at = n;
        int rc = apply_union(self, &scene->op);
        lz_union_free(self);
        CHECK_EQ(count_descriptors(), descriptors);
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            break;
        }
        check_scene(world, scene, n, &views, rc == 0);
        CHECK(n < 2000);
    }
    views_free(&views);
}

static void every_call_fails(void)
{
    struct world world;
    world_new(&world);
    for (size_t i = 0; i < SCENE_COUNT; i++) {
        each_call_fails(&world, &scenes[i], i % 2 == 0 ? -EIO : -ENOSPC, false);
        each_call_fails(&world, &scenes[i], -EIO, true);
    }
    world_free(&world);
}

/* ---- kill -9 ---- */

static int die_at(const struct world *world, const struct scene *scene, long n)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct fault fault;
        fault_arm(&fault, 0, 0);
        fault.dies = true;
        struct lz_union *self = world_union(world, fault_sys(&fault));
        fault.calls = 0;
        fault.fail_at = n;
        _exit(apply_union(self, &scene->op) == 0 ? 0 : 1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void killed_at_every_call(void)
{
    struct world world;
    world_new(&world);
    for (size_t i = 0; i < SCENE_COUNT; i += 7) { /* a fork is slow; every_call_fails() has the others */
        struct views views;
        look_at_scene(&world, &scenes[i], &views);
        for (long n = 1;; n++) {
            set_scene(&world, &scenes[i]);
            int rc = die_at(&world, &scenes[i], n);
            CHECK(rc == 0 || rc == DIED);
            check_scene(&world, &scenes[i], n, &views, rc == 0);
            if (rc == 0)
                break;
        }
        views_free(&views);
    }
    world_free(&world);
}

/* One who is killed between the names of a group; another, who has had the upper open all along, goes on. */
static void killed_beside_others(void)
{
    const struct scene *scene = NULL;
    struct world world;
    world_new(&world);
    for (size_t i = 0; i < SCENE_COUNT; i++) {
        if (strcmp(scenes[i].what, "opening three names for writing") == 0)
            scene = &scenes[i];
    }
    CHECK(scene != NULL);
    for (long n = 1;; n++) {
        struct lz_union_info one, two, three;
        const struct op touch = {.kind = OP_CHMOD, .a = "/e", .mode = 0700};
        set_scene(&world, scene);
        struct lz_union *self = world_union(&world, lz_sys_linux());
        CHECK_EQ(apply_union(self, &touch), 0);
        bool done = die_at(&world, scene, n) == 0;
        const struct op write = {.kind = OP_WRITE, .a = "/h2", .flags = O_WRONLY, .text = "L"};
        CHECK_EQ(apply_union(self, &write), 0);
        CHECK_EQ(lz_union_stat(self, "h1", 2, 0, &one), 0);
        CHECK_EQ(lz_union_stat(self, "h2", 2, 0, &two), 0);
        CHECK_EQ(lz_union_stat(self, "h/h3", 4, 0, &three), 0);
        CHECK_EQ(one.number, two.number);
        CHECK_EQ(one.number, three.number);
        CHECK_EQ(one.link_count, 3);
        lz_union_free(self);
        check_work_clean(&world);
        if (done)
            break;
    }
    world_free(&world);
}

/* Settling is done or not, and the bytes are the same. */
static void settling_fails(void)
{
    const struct scene written = {"settle", {{.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .text = "X"}}, {0}};
    struct world world;
    world_new(&world);
    set_scene(&world, &written);
    char *before = look(&world);
    for (int dies = 0; dies < 2; dies++) {
        for (long n = 1;; n++) {
            int status = 0;
            set_scene(&world, &written);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) {
                struct fault fault;
                fault_arm(&fault, 0, -EIO);
                fault.dies = dies != 0;
                struct lz_union *self = world_union(&world, fault_sys(&fault));
                fault.calls = 0;
                fault.fail_at = n;
                int rc = lz_union_settle(self, "/", 1, NULL, NULL);
                lz_union_free(self);
                _exit(fault.fired ? 1 : rc == 0 ? 0 : 2);
            }
            CHECK_EQ(waitpid(child, &status, 0), child);
            CHECK(WIFEXITED(status) && (WEXITSTATUS(status) <= 1 || WEXITSTATUS(status) == DIED));
            char *after = look(&world);
            check_text("settling", after, before);
            free(after);
            struct lz_union *self = world_union(&world, lz_sys_linux());
            CHECK_EQ(lz_union_settle(self, "/", 1, NULL, NULL), 0);
            after = text_union(self, 0);
            check_text("settled", after, before);
            free(after);
            lz_union_free(self);
            if (WEXITSTATUS(status) == 0)
                break;
        }
    }
    free(before);
    world_free(&world);
}

/* ---- a full disk ---- */

static uint64_t free_bytes(const struct world *world)
{
    struct statvfs info;
    CHECK_EQ(fstatvfs(world->upper_fd, &info), 0);
    return (uint64_t)info.f_bfree * info.f_bsize;
}

static void small_disk(struct world *world, const char *directory)
{
    char target[200];
    make_directory(&world->top, directory);
    (void)snprintf(target, sizeof target, "%s/%s", world->top.path, directory);
    CHECK_EQ(mount("tmpfs", target, "tmpfs", 0, "size=192k"), 0);
    CHECK_EQ(close(world->upper_fd), 0);
    CHECK_EQ(close(world->work_fd), 0);
    (void)snprintf(target, sizeof target, "%s/upper", directory);
    make_directory(&world->top, target);
    world->options.upper_fd = world->upper_fd = world_open(world, target);
    (void)snprintf(target, sizeof target, "%s/work", directory);
    make_directory(&world->top, target);
    world->options.work_fd = world->work_fd = world_open(world, target);
}

static void full_disk(void)
{
    struct world world;
    char target[200];
    world_new(&world);
    small_disk(&world, "small");
    struct lz_union *self = world_union(&world, lz_sys_linux());
    char *before = text_union(self, 0);
    const struct op attributes = {.kind = OP_CHMOD, .a = "/big", .mode = 0600};
    const struct op back = {.kind = OP_CHMOD, .a = "/big", .mode = 0644};
    const struct op write = {.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY, .number = 5, .text = "no room"};
    const struct op cut = {.kind = OP_WRITE, .a = "/big", .flags = O_WRONLY | O_TRUNC, .text = "short"};
    CHECK_EQ(apply_union(self, &write), -ENOSPC);
    uint64_t room = free_bytes(&world);
    CHECK_EQ(apply_union(self, &write), -ENOSPC);
    CHECK_EQ(free_bytes(&world), room); /* nothing of it stays */
    check_work_clean(&world);
    CHECK_EQ(apply_union(self, &attributes), 0); /* needs no room */
    CHECK_EQ(apply_union(self, &back), 0);
    room = free_bytes(&world);
    CHECK_EQ(apply_union(self, &write), -ENOSPC); /* of a metacopy, in place */
    CHECK_EQ(free_bytes(&world), room);
    char *after = text_union(self, 0);
    check_text("full disk", after, before);
    CHECK_EQ(apply_union(self, &cut), 0);
    struct lz_union_info info;
    CHECK_EQ(lz_union_stat(self, "big", 3, 0, &info), 0);
    CHECK_EQ(info.size, 5);
    CHECK_EQ(info.data_branch, LZ_UNION_UPPER);
    lz_union_free(self);
    free(before);
    free(after);
    CHECK_EQ(close(world.upper_fd), 0);
    CHECK_EQ(close(world.work_fd), 0);
    (void)snprintf(target, sizeof target, "%s/small", world.top.path);
    CHECK_EQ(umount2(target, 0), 0);
    world.upper_fd = dup(world.top.fd);
    world.work_fd = dup(world.top.fd);
    world_free(&world);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  skipped: trusted.overlay.* needs root\n");
        return 0;
    }
    CHECK_EQ(unshare(CLONE_NEWNS), 0);
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK_EQ(mount("tmpfs", "/var/tmp", "tmpfs", 0, NULL), 0); /* each copy-up writes back: no disk is to wait for */
    RUN(full_disk);
    RUN(every_call_fails);
    RUN(killed_at_every_call);
    RUN(killed_beside_others);
    RUN(settling_fails);
    return check_end();
}
