/* Reading a union when the kernel says no, when an index is damaged, and when there is very much of everything. */
#include "union_fixture.h"

#include <sys/resource.h>

static struct scratch scratch;
static int objects;

/* An upper over a part of two layers over a directory, with something of everything. */
struct three {
    struct branch_index index;
    int lower, upper, work;
    struct lz_branch branches[2];
};

static const char *const part_scripts[] = {
    "d a 755; f a/low old; d a/sub 755; f a/sub/x 1; @ obj some-bytes; s a/link ../obj; d gone 755; f gone/x y; h hard "
    "obj",
    "d a/sub 755; o a/sub; f a/sub/y 2; w gone",
};

static void open_three(struct three *three)
{
    three->index = make_index(part_scripts, 2, 2, objects, true);
    three->lower =
        make_layer_directory(&scratch, "lower",
                             "d . 755; d a 711; f a/deep bottom; d a/sub 755; f a/sub/hidden no; d gone 755; "
                             "f gone/hidden no; f obj hidden; d only 755; f only/file bytes",
                             1);
    three->upper =
        make_layer_directory(&scratch, "upper",
                             "d . 755; d a 700; f a/new upper; w a/low; d b 755; s up b/../a/new; d moved 755; "
                             "f meta x",
                             7);
    set_xattr(&scratch, "upper/moved", "trusted.overlay.redirect", "/only");
    set_xattr(&scratch, "upper/meta", "trusted.overlay.metacopy", "");
    set_xattr(&scratch, "upper/meta", "trusted.overlay.redirect", "obj");
    make_directory(&scratch, "work");
    three->work = openat(scratch.fd, "work", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(three->work >= 0);
    three->branches[0] = index_branch(&three->index, objects);
    three->branches[1] = directory_branch(three->lower, true);
}

static void close_three(struct three *three)
{
    char command[200];
    CHECK_EQ(close(three->lower) + close(three->upper) + close(three->work), 0);
    free_index(&three->index);
    (void)snprintf(command, sizeof command, "cd %s && rm -rf lower upper work", scratch.path);
    CHECK_EQ(system(command), 0);
}

static void shows_three_kinds_of_branches(void)
{
    struct three three;
    open_three(&three);
    struct lz_union *self = open_union(three.branches, 2, three.upper, three.work);
    char *text = dump_union(self);
    check_same_text(text,
                    "D . 755 7:7 1000007 user.layer=7\n"
                    "D a 700 7:7 1000007 user.layer=7\n"
                    "F a/deep 644 1:1 1000001 =bottom user.layer=1\n"
                    "S a/link 777 2:2 1000002 >../obj\n"
                    "F a/new 644 7:7 1000007 =upper user.layer=7\n"
                    "D a/sub 755 3:3 1000003 user.layer=3\n"
                    "F a/sub/y 644 3:3 1000003 =2 user.layer=3\n"
                    "D b 755 7:7 1000007 user.layer=7\n"
                    "F hard 644 2:2 1000002 =some-bytes\n"
                    "F meta 644 7:7 1000007 =some-bytes user.layer=7\n"
                    "D moved 755 7:7 1000007 user.layer=7\n"
                    "F moved/file 644 1:1 1000001 =bytes user.layer=1\n"
                    "F obj 644 2:2 1000002 =some-bytes\n"
                    "D only 755 1:1 1000001 user.layer=1\n"
                    "F only/file 644 1:1 1000001 =bytes user.layer=1\n"
                    "S up 777 7:7 1000007 >b/../a/new\n",
                    "three kinds of branches");
    free(text);
    struct lz_union_info info;
    CHECK_EQ(lz_union_stat(self, "meta", 4, 0, &info), 0);
    CHECK(info.branch == LZ_UNION_UPPER && info.data_branch == 0 && info.has_digest && !info.unsettled);
    lz_union_free(self);
    close_three(&three);
}

/* ---- what the kernel refuses ---- */

static int all_calls(struct lz_union *self, struct lz_buf *seen)
{
    static const char *const paths[] = {"a/sub/y", "a/deep", "a/new", "meta", "up", "moved/file", "obj", "b/../a/link"};
    struct lz_union_info info;
    struct lz_union_list *list = NULL;
    struct lz_union_file *file = NULL;
    char bytes[LZ_PATH_MAX + 1];
    ssize_t rc = 0;
    for (size_t i = 0; i < sizeof paths / sizeof *paths && rc >= 0; i++) {
        size_t size = strlen(paths[i]);
        rc = lz_union_stat(self, paths[i], size, 0, &info);
        if (rc >= 0)
            rc = lz_union_open(self, paths[i], size, O_RDONLY, 0, &file, NULL);
        if (rc < 0)
            break;
        rc = lz_union_file_read(file, bytes, 100, 0);
        int64_t hole = rc >= 0 ? lz_union_file_seek(file, 0, SEEK_HOLE) : rc;
        if (rc >= 0 && hole >= 0)
            append_line(seen, "%s %llu %.*s %lld\n", paths[i], (unsigned long long)info.size, (int)rc, bytes,
                        (long long)hole);
        rc = hole < 0 ? hole : lz_union_file_stat(file, &info);
        if (rc == 0)
            rc = lz_union_file_sync(file);
        lz_union_file_close(file);
        if (rc == 0)
            rc = lz_union_listxattr(self, paths[i], size, 0, bytes, sizeof bytes);
        if (rc >= 0)
            append_line(seen, "%zd %.*s\n", rc, (int)rc, bytes);
        if (rc >= 0)
            rc = lz_union_getxattr(self, paths[i], size, 0, "user.layer", bytes, sizeof bytes);
        if (rc >= 0 || rc == -ENODATA)
            append_line(seen, "%zd\n", rc);
        rc = rc == -ENODATA ? 0 : rc;
    }
    static const char *const directories[] = {"/", "a", "moved", "only/.", "a/sub"};
    for (size_t i = 0; i < sizeof directories / sizeof *directories && rc >= 0; i++) {
        rc = lz_union_stat(self, directories[i], strlen(directories[i]), 0, &info);
        if (rc == 0)
            rc = lz_union_list(self, directories[i], strlen(directories[i]), &list);
        if (rc != 0)
            break;
        append_line(seen, "%s %u:", directories[i], info.link_count);
        for (size_t n = 0; n < lz_union_list_count(list); n++)
            append_line(seen, " %s %d %u %u", lz_union_list_at(list, n)->name, lz_union_list_at(list, n)->info.kind,
                        lz_union_list_at(list, n)->info.branch, lz_union_list_at(list, n)->info.data_branch);
        append_line(seen, "\n");
        lz_union_list_free(list);
    }
    if (rc >= 0)
        rc = lz_union_readlink(self, "up", 2, bytes, sizeof bytes);
    if (rc >= 0)
        rc = lz_union_realpath(self, "up", 2, bytes);
    CHECK_EQ(lz_buf_append_zeros(seen, 1), 0);
    return rc < 0 ? (int)rc : 0;
}

static void survives_every_refusal(void)
{
    static const int codes[] = {-EIO, -EMFILE, -ENOMEM, -EACCES};
    struct three three;
    open_three(&three);
    struct lz_union *plain = open_union(three.branches, 2, three.upper, three.work);
    struct lz_buf expected = {0};
    CHECK_EQ(all_calls(plain, &expected), 0);
    lz_union_free(plain);
    int before = count_descriptors();
    for (size_t c = 0; c < sizeof codes / sizeof *codes; c++) {
        for (long n = 1;; n++) {
            struct fault fault;
            struct lz_buf seen = {0};
            struct lz_union *self = NULL;
            struct lz_union_options options = {
                .lowers = three.branches, .lower_count = 2, .upper_fd = three.upper, .work_fd = three.work};
            fault_arm(&fault, n, codes[c]);
            int rc = lz_union_new(fault_sys(&fault), &options, &self, NULL);
            if (rc == 0) {
                rc = all_calls(self, &seen);
                if (rc == 0) /* then nobody may tell that something failed */
                    check_same_text((const char *)seen.data, (const char *)expected.data, "after a fault");
                else
                    CHECK_EQ(rc, codes[c]);
                lz_union_free(self);
            }
            lz_buf_free(&seen);
            CHECK_EQ(count_descriptors(), before);
            if (!fault.fired) {
                CHECK_EQ(rc, 0);
                CHECK(n > 100);
                break;
            }
        }
    }
    lz_buf_free(&expected);
    close_three(&three);
}

/* ---- a damaged index ---- */

static void no_flipped_byte_gives_a_wrong_answer(void)
{
    struct branch_index index = make_index(part_scripts, 2, 2, objects, true);
    struct lz_branch branch = index_branch(&index, objects);
    struct lz_union *self = open_union(&branch, 1, -1, -1);
    char *expected = dump_union(self);
    lz_union_free(self);
    size_t size = index.merged.size, opened = 0;
    uint8_t *bytes = malloc(size);
    CHECK(bytes != NULL);
    for (size_t at = 0; at < size; at++) {
        struct lz_index damaged;
        memcpy(bytes, index.merged.bytes, size);
        bytes[at] ^= (uint8_t)(1u << at % 8);
        if (lz_index_open(bytes, size, &damaged, NULL) != 0)
            continue;
        branch.index = &damaged;
        self = open_union(&branch, 1, -1, -1);
        char *found = dump_union(self);
        check_same_text(found, expected, "a flipped byte");
        free(found);
        lz_union_free(self);
        opened++;
    }
    CHECK(opened < LZ_INDEX_INLINE_OFFSET); /* the gap before the table belongs to nobody */
    free(bytes);
    free(expected);
    free_index(&index);
}

/* ---- very much ---- */

#define BRANCHES 120

static void needs_no_descriptor_for_each_branch(void)
{
    int fds[BRANCHES];
    struct lz_branch branches[BRANCHES];
    for (int i = 0; i < BRANCHES; i++) {
        char name[32], script[200];
        (void)snprintf(name, sizeof name, "many%d", i);
        (void)snprintf(script, sizeof script, "d . 755; d d 755; d d/e 755; f d/e/%d x; f d/same %d", i, i);
        fds[i] = make_layer_directory(&scratch, name, script, (unsigned)i);
        branches[BRANCHES - 1 - i] = directory_branch(fds[i], true);
    }
    struct lz_union *self = open_union(branches, BRANCHES, -1, -1);
    struct rlimit before, tight;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    tight.rlim_cur = (rlim_t)fds[BRANCHES - 1] + 4;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
    struct lz_union_info info;
    struct lz_union_list *list;
    CHECK_EQ(lz_union_stat(self, "d/e/0", 5, 0, &info), 0);
    CHECK_EQ(info.branch, BRANCHES - 1);
    CHECK_EQ(lz_union_stat(self, "d/same", 6, 0, &info), 0);
    CHECK_EQ(info.branch, 0);
    CHECK_EQ(lz_union_stat(self, "d/e/none", 8, 0, &info), -ENOENT);
    CHECK_EQ(lz_union_stat(self, "d", 1, 0, &info), 0);
    CHECK_EQ(info.link_count, 3);
    CHECK_EQ(lz_union_list(self, "d/e", 3, &list), 0);
    CHECK_EQ(lz_union_list_count(list), BRANCHES);
    lz_union_list_free(list);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    lz_union_free(self);
    for (int i = 0; i < BRANCHES; i++)
        CHECK_EQ(close(fds[i]), 0);
}

/* 1,000 directories in one another, and a symlink that goes up and down them again and again. */
static void goes_deep(void)
{
    static char script[2000000], path[LZ_PATH_MAX + 1], up[LZ_PATH_MAX + 1];
    size_t used = 0, size = 0;
    for (int i = 0; i < 1000; i++) {
        size += (size_t)snprintf(path + size, sizeof path - size, "%sd", i > 0 ? "/" : "");
        if (i < 600)
            used += (size_t)snprintf(script + used, sizeof script - used, "d %s 755; ", path);
    }
    path[600 * 2 - 1] = 0;
    for (int i = 0; i < 600; i++)
        memcpy(up + i * 3, "../", 4);
    up[1797] = 0; /* 599 of them: from the deepest to the first */
    used += (size_t)snprintf(script + used, sizeof script - used, "s %s/up %s; f d/end x", path, up);
    struct branch_index index = make_index((const char *const[]){script}, 1, 1, objects, false);
    int fd = make_layer_directory(&scratch, "deep", script, 1);
    struct lz_branch branches[2] = {index_branch(&index, objects), directory_branch(fd, true)};
    for (int i = 0; i < 3; i++) {
        struct lz_union *self = open_union(branches + (i == 1), i == 2 ? 2 : 1, -1, -1);
        struct lz_union_info info;
        char wanted[3 * LZ_PATH_MAX], real[LZ_PATH_MAX + 1];
        (void)snprintf(wanted, sizeof wanted, "%s/up/end", path);
        CHECK_EQ(lz_union_stat(self, wanted, strlen(wanted), 0, &info), 0);
        CHECK_EQ(info.kind, LZ_KIND_FILE);
        CHECK_EQ(lz_union_realpath(self, wanted, strlen(wanted), real), 5);
        CHECK_STR(real, "d/end");
        (void)snprintf(wanted, sizeof wanted, "%s/%s/end", path, up);
        CHECK_EQ(lz_union_stat(self, wanted, strlen(wanted), 0, &info), 0);
        lz_union_free(self);
    }
    CHECK_EQ(close(fd), 0);
    free_index(&index);
}

int main(void)
{
    scratch = scratch_new();
    make_directory(&scratch, "objects");
    objects = openat(scratch.fd, "objects", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    RUN(shows_three_kinds_of_branches);
    RUN(survives_every_refusal);
    RUN(no_flipped_byte_gives_a_wrong_answer);
    RUN(needs_no_descriptor_for_each_branch);
    RUN(goes_deep);
    CHECK_EQ(close(objects), 0);
    scratch_free(&scratch);
    return check_end();
}
