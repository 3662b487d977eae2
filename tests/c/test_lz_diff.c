/* Diff and pack over uppers made by hand: what the marks mean, what is refused, and every failing call. The same over a
 * real overlay, with contents compared, is tests/test_pack_conformance.py. */
#include <sys/resource.h>

#include "stack_fixture.h"
#include "tree_fixture.h"

#include "tree/lz_diff.h"

struct setting {
    struct scratch upper, objects;
    struct stack stack;
    struct lz_diff_source source;
};

static const char LARGE[] = "the content of an object";

static void add_directory(struct layer *layer, const char *path)
{
    layer_add(layer, path, (struct lz_tree_node){.kind = LZ_KIND_DIRECTORY, .mode = 0755, .mtime = 1});
}

/* A file whose content is an object, which is stored unless `missing`. */
static void add_object(const struct setting *setting, struct layer *layer, const char *path, bool missing)
{
    struct lz_tree_node node = {.kind = LZ_KIND_FILE, .mode = 0644, .flags = LZ_FLAG_OBJECT, .size = strlen(LARGE)};
    char hex[LZ_SHA256_HEX_SIZE + 1], name[LZ_SHA256_HEX_SIZE + 2];
    struct lz_sha256 *sha256;
    CHECK_EQ(lz_sha256_new(&sha256), 0);
    CHECK_EQ(lz_sha256_digest(sha256, LARGE, strlen(LARGE), node.digest), 0);
    lz_sha256_free(sha256);
    node.digest[0] ^= missing;
    layer_add(layer, path, node);
    CHECK_EQ(lz_tree_add_object(layer->tree, node.digest, node.size), 0);
    if (missing)
        return;
    lz_hex(node.digest, hex);
    (void)snprintf(name, sizeof name, "%.2s", hex);
    (void)mkdirat(setting->objects.fd, name, 0755);
    (void)snprintf(name, sizeof name, "%.2s/%s", hex, hex + 2);
    make_file(&setting->objects, name, LARGE, strlen(LARGE));
}

/* a/ {b (inline), c/ {d (object)}, l -> b}, e, h1 = h2 (in x/) */
static void setting_new(struct setting *setting)
{
    struct layer layer;
    *setting = (struct setting){.upper = scratch_new(), .objects = scratch_new()};
    layer_begin(&layer);
    add_directory(&layer, "");
    add_directory(&layer, "a");
    layer_file(&layer, "a/b", (struct lz_tree_node){.mode = 0644, .mtime = 1}, "inline", 6);
    add_directory(&layer, "a/c");
    add_object(setting, &layer, "a/c/d", false);
    layer_add(&layer, "a/l",
              (struct lz_tree_node){.kind = LZ_KIND_SYMLINK, .mode = 0777, .target = "b", .target_size = 1});
    layer_file(&layer, "e", (struct lz_tree_node){.mode = 0644}, "", 0);
    add_directory(&layer, "x");
    layer_file(&layer, "x/h1", (struct lz_tree_node){.mode = 0600}, "linked", 6);
    CHECK_EQ(lz_tree_link(layer.tree, "x/h2", 4, "x/h1", 4, NULL), 0);
    add_object(setting, &layer, "x/lost", true);
    stack_push(&setting->stack, &layer);
    stack_merge(&setting->stack);
    setting->source = (struct lz_diff_source){.upper_fd = setting->upper.fd,
                                              .maps_fd = -1,
                                              .lower = &setting->stack.merged,
                                              .layer_fds = setting->stack.layer_fds,
                                              .objects_fd = setting->objects.fd};
}

static void setting_free(struct setting *setting)
{
    stack_free(&setting->stack);
    scratch_free(&setting->upper);
    scratch_free(&setting->objects);
}

static int collect(void *ctx, const struct lz_change *change)
{
    char line[9000];
    struct lz_buf *out = ctx;
    int size = snprintf(line, sizeof line, "%s%c%c%s %s", out->size > 0 ? "|" : "", change->change,
                        "?DFSCBPKW"[change->kind], change -> content ? "" : "-", change->path);
    return lz_buf_append(out, line, (size_t)size);
}

static int diff_code(const struct lz_sys *sys, const struct setting *setting, struct lz_buf *out,
                     struct lz_detail *detail)
{
    return lz_diff(sys, &setting->source, collect, out, detail);
}

static void check_diff(const struct setting *setting, const char *expected)
{
    struct lz_buf out = {0};
    CHECK_EQ(diff_code(lz_sys_linux(), setting, &out, NULL), 0);
    CHECK_EQ(lz_buf_append_zeros(&out, 1), 0);
    CHECK_STR((char *)out.data, expected);
    lz_buf_free(&out);
}

/* The root's time: what the lower has, or something else. */
static void set_root_time(const struct setting *setting, time_t seconds)
{
    const struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    CHECK_EQ(futimens(setting->upper.fd, times), 0);
}

static int pack_code(const struct lz_sys *sys, const struct setting *setting, int out, struct lz_detail *detail)
{
    struct lz_pack_options options = {.clamp_mtime = true, .max_mtime = 5};
    return lz_pack_upper(sys, &setting->source, &options, out, NULL, detail);
}

static void check_pack(const struct setting *setting, const char *expected)
{
    int out = memfd_create("layer", MFD_CLOEXEC);
    struct lz_detail detail = {{0}};
    set_root_time(setting, 1);
    int rc = pack_code(lz_sys_linux(), setting, out, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    check_archive(out, expected);
    CHECK_EQ(close(out), 0);
}

static void check_refused(const struct setting *setting, int code, const char *text)
{
    int out = memfd_create("layer", MFD_CLOEXEC);
    struct lz_detail detail = {{0}};
    CHECK_EQ(pack_code(lz_sys_linux(), setting, out, &detail), code);
    if (strstr(detail.text, text) == NULL)
        CHECK_STR(detail.text, text);
    CHECK_EQ(close(out), 0);
}

/* ---- what the marks mean ---- */

static void nothing_changed(void)
{
    struct setting setting;
    setting_new(&setting);
    check_diff(&setting, "");
    check_pack(&setting, "");
    setting_free(&setting);
}

static void whiteouts(void)
{
    struct setting setting;
    setting_new(&setting);
    make_directory(&setting.upper, "a");
    make_whiteout(&setting.upper, "a/c");
    make_whiteout(&setting.upper, "a/never was");
    make_file(&setting.upper, "a/a", "new", 3);
    make_whiteout(&setting.upper, "e");
    make_whiteout(&setting.upper, "nor this");
    check_diff(&setting, "CD- a|AF a/a|DD a/c|DF e");
    check_pack(&setting, "F .wh.e 0|D a/|F a/.wh.c 0|F a/a 3");
    setting_free(&setting);
}

static void opaque(void)
{
    struct setting setting;
    setting_new(&setting);
    make_directory(&setting.upper, "a");
    set_xattr(&setting.upper, "a", "trusted.overlay.opaque", "y");
    make_file(&setting.upper, "a/c", "was a directory", 15);
    make_directory(&setting.upper, "new");
    set_xattr(&setting.upper, "new", "trusted.overlay.opaque", "y");
    make_directory(&setting.upper, "x");
    set_xattr(&setting.upper, "x", "trusted.overlay.opaque", "x"); /* only says that whiteouts may be xattrs */
    check_diff(&setting, "CD- a|DF a/b|CF a/c|DS a/l|AD new|CD- x");
    check_pack(&setting, "D a/|F a/.wh..wh..opq 0|F a/c 15|D new/|D x/");
    setting_free(&setting);
}

static void user_marks(void)
{
    struct setting setting;
    setting_new(&setting);
    make_directory(&setting.upper, "a");
    set_xattr(&setting.upper, "a", "user.overlay.opaque", "y");
    check_diff(&setting, "CD- a");
    check_pack(&setting, "D a/ user.overlay.opaque");
    setting.source.user_xattr = true;
    check_diff(&setting, "CD- a|DF a/b|DD a/c|DS a/l");
    check_pack(&setting, "D a/|F a/.wh..wh..opq 0");
    set_xattr(&setting.upper, "a", "user.overlay.overlay.redirect", "the user's own");
    set_xattr(&setting.upper, "a", "user.overlay.origin", "overlay's");
    check_pack(&setting, "D a/ user.overlay.redirect|F a/.wh..wh..opq 0");
    setting_free(&setting);
}

static void redirects(void)
{
    struct setting setting;
    setting_new(&setting);
    make_directory(&setting.upper, "z");
    set_xattr(&setting.upper, "z", "trusted.overlay.redirect", "a");
    make_whiteout(&setting.upper, "a");
    make_directory(&setting.upper, "z/deep");
    set_xattr(&setting.upper, "z/deep", "trusted.overlay.redirect", "c");
    make_whiteout(&setting.upper, "z/c");
    make_directory(&setting.upper, "x");
    set_xattr(&setting.upper, "x", "trusted.overlay.redirect", "/a/c");
    check_diff(&setting, "DD a|CD- x|AF x/d|DF x/h1|DF x/h2|DF x/lost|AD z|AF z/b|AD z/deep|AF z/deep/d|AS z/l");
    check_pack(&setting, "F .wh.a 0|D x/|F x/.wh..wh..opq 0|F x/d 24|D z/|F z/b 6|D z/deep/|F z/deep/d 24|L z/l>b");
    /* where it points to nothing, overlayfs shows the upper alone */
    set_xattr(&setting.upper, "x", "trusted.overlay.redirect", "/a/no");
    check_diff(&setting, "DD a|CD- x|DF x/h1|DF x/h2|DF x/lost|AD z|AF z/b|AD z/deep|AF z/deep/d|AS z/l");
    set_xattr(&setting.upper, "x", "trusted.overlay.redirect", "/a/b");
    check_pack(&setting, "F .wh.a 0|D x/|F x/.wh..wh..opq 0|D z/|F z/b 6|D z/deep/|F z/deep/d 24|L z/l>b");
    setting_free(&setting);
}

static void links_of_a_renamed_directory(void)
{
    struct setting setting;
    setting_new(&setting);
    make_directory(&setting.upper, "y");
    set_xattr(&setting.upper, "y", "trusted.overlay.redirect", "/x");
    make_whiteout(&setting.upper, "y/lost");
    check_pack(&setting, "D y/|F y/h1 6|H y/h2>y/h1");
    setting_free(&setting);
}

static void metacopies(void)
{
    struct setting setting;
    setting_new(&setting);
    make_directory(&setting.upper, "a");
    make_file(&setting.upper, "a/b", "", 0);
    set_xattr(&setting.upper, "a/b", "trusted.overlay.metacopy", "");
    make_file(&setting.upper, "far", "", 0);
    set_xattr(&setting.upper, "far", "trusted.overlay.metacopy", "");
    set_xattr(&setting.upper, "far", "trusted.overlay.redirect", "/a/c/d");
    check_diff(&setting, "CD- a|CF- a/b|AF far");
    check_pack(&setting, "D a/|F a/b 6|F far 24");
    setting_free(&setting);
}

static void the_root(void)
{
    struct setting setting;
    setting_new(&setting);
    CHECK_EQ(fchmod(setting.upper.fd, 0711), 0);
    check_diff(&setting, "");
    check_pack(&setting, "D ./");
    CHECK_EQ(fchmod(setting.upper.fd, 0755), 0);
    set_xattr(&setting.upper, "", "user.a", "1");
    check_pack(&setting, "D ./ user.a");
    CHECK_EQ(fremovexattr(setting.upper.fd, "user.a"), 0);
    check_pack(&setting, "");
    set_root_time(&setting, 2);
    int out = memfd_create("layer", MFD_CLOEXEC);
    CHECK_EQ(pack_code(lz_sys_linux(), &setting, out, NULL), 0);
    check_archive(out, "D ./");
    CHECK_EQ(close(out), 0);
    setting_free(&setting);
}

static void without_a_lower(void)
{
    struct setting setting;
    setting_new(&setting);
    setting.source = (struct lz_diff_source){.upper_fd = setting.upper.fd, .maps_fd = -1, .objects_fd = -1};
    make_directory(&setting.upper, "a");
    make_whiteout(&setting.upper, "b");
    check_diff(&setting, "AD a");
    check_pack(&setting, "D ./|D a/");
    setting_free(&setting);
}

/* ---- what is refused ---- */

static void bad_uppers(void)
{
    struct setting setting;
    setting_new(&setting);
    make_file(&setting.upper, "far", "", 0);
    set_xattr(&setting.upper, "far", "trusted.overlay.metacopy", "");
    check_refused(&setting, LZ_E_FORMAT, "/far: the upper has only attributes, and the lower has no file");
    set_xattr(&setting.upper, "far", "trusted.overlay.redirect", "/../../etc/passwd");
    check_refused(&setting, LZ_E_FORMAT, "at /../../etc/passwd");
    set_xattr(&setting.upper, "far", "trusted.overlay.redirect", "a");
    check_refused(&setting, LZ_E_FORMAT, "at a");
    set_xattr(&setting.upper, "far", "trusted.overlay.redirect", "/x/lost");
    check_refused(&setting, -ENOENT, "/far: object sha256:");
    CHECK_EQ(unlinkat(setting.upper.fd, "far", 0), 0);
    make_file(&setting.upper, ".wh.b", "", 0);
    check_refused(&setting, LZ_E_UNSUPPORTED, "/.wh.b: a layer cannot hold this name");
    setting_free(&setting);
}

static void corrupt_contents(void)
{
    struct setting setting;
    setting_new(&setting);
    make_directory(&setting.upper, "z");
    set_xattr(&setting.upper, "z", "trusted.overlay.redirect", "/a/c");
    char hex[LZ_SHA256_HEX_SIZE + 1], name[LZ_SHA256_HEX_SIZE + 2];
    int64_t entry = lz_index_find(&setting.stack.merged, "a/c/d", 5);
    CHECK(entry > 0);
    lz_hex(setting.stack.merged.entries[entry].digest, hex);
    (void)snprintf(name, sizeof name, "%.2s/%s", hex, hex + 2);
    make_file(&setting.objects, name, "The content of an object", strlen(LARGE));
    check_refused(&setting, LZ_E_CORRUPT, "/z/d: the stored content is sha256:");
    make_file(&setting.objects, name, LARGE, 5);
    check_refused(&setting, LZ_E_CORRUPT, "/z/d: ends after 5 bytes, expected 24");
    CHECK_EQ(unlinkat(setting.objects.fd, name, 0), 0);
    check_refused(&setting, -ENOENT, hex);

    set_xattr(&setting.upper, "z", "trusted.overlay.redirect", "/a");
    make_whiteout(&setting.upper, "z/c");
    CHECK_EQ(pwrite(setting.stack.layer_fds[0], "I", 1, LZ_INDEX_INLINE_OFFSET), 1);
    check_refused(&setting, LZ_E_CORRUPT, "/z/b: the stored content is sha256:");
    setting_free(&setting);
}

/* Deeper than there are descriptors, and than a path may be long. */
static void deep(void)
{
    struct setting setting;
    struct rlimit before, few;
    setting_new(&setting);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = (struct rlimit){.rlim_cur = 128, .rlim_max = before.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
    int dir = dup(setting.upper.fd);
    for (int i = 0; i < 2100; i++) {
        CHECK_EQ(mkdirat(dir, "d", 0755), 0);
        int next = openat(dir, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        CHECK(next >= 0);
        if (i == 1500)
            CHECK_EQ(mknodat(dir, "leaf", S_IFIFO | 0600, 0), 0);
        CHECK_EQ(close(dir), 0);
        dir = next;
        if (i == 2000) {
            struct lz_buf out = {0};
            CHECK_EQ(diff_code(lz_sys_linux(), &setting, &out, NULL), 0);
            CHECK(memmem(out.data, out.size, "AP d/", 5) != NULL); /* the leaf comes on the way back up */
            lz_buf_free(&out);
        }
    }
    CHECK_EQ(close(dir), 0);
    struct lz_buf out = {0};
    struct lz_detail detail = {{0}};
    CHECK_EQ(diff_code(lz_sys_linux(), &setting, &out, &detail), LZ_E_LIMIT);
    CHECK(strstr(detail.text, "longer than 4095 bytes") != NULL);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    lz_buf_free(&out);
    setting_free(&setting);
}

/* ---- every failing call ---- */

static void failing_calls(void)
{
    struct setting setting;
    struct fault fault;
    setting_new(&setting);
    make_directory(&setting.upper, "z");
    set_xattr(&setting.upper, "z", "trusted.overlay.redirect", "/a");
    set_xattr(&setting.upper, "z", "user.own", "1");
    make_whiteout(&setting.upper, "z/l");
    make_file(&setting.upper, "z/new", "new", 3);
    CHECK_EQ(symlinkat("target", setting.upper.fd, "link"), 0);
    make_file(&setting.upper, "sparse", "x", 1);
    int sparse = openat(setting.upper.fd, "sparse", O_WRONLY | O_CLOEXEC);
    CHECK_EQ(ftruncate(sparse, 1 << 20), 0);
    CHECK_EQ(close(sparse), 0);
    set_root_time(&setting, 1);
    int before = count_descriptors();
    long calls = 0;
    for (long n = 1;; n++) {
        int out = memfd_create("layer", MFD_CLOEXEC);
        fault_arm(&fault, n, -EIO);
        struct lz_detail detail = {{0}};
        int rc = pack_code(fault_sys(&fault), &setting, out, &detail);
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            check_archive(out, "L link>target|F sparse 1048576s|D z/ user.own|F z/b 6|D z/c/|F z/c/d 24|F z/new 3");
            CHECK_EQ(close(out), 0);
            break;
        }
        CHECK(rc == -EIO || rc == 0); /* a failing close of what was only read harms nothing */
        calls += rc != 0;
        CHECK_EQ(close(out), 0);
        CHECK_EQ(count_descriptors(), before);
    }
    CHECK(calls > 20);
    for (long n = 1;; n++) {
        struct lz_buf out = {0};
        fault_arm(&fault, n, -EIO);
        int rc = diff_code(fault_sys(&fault), &setting, &out, NULL);
        lz_buf_free(&out);
        CHECK_EQ(count_descriptors(), before);
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            break;
        }
        CHECK(rc == -EIO || rc == 0);
    }
    setting_free(&setting);
}

/* ---- pack_tree ---- */

static int pack_tree(const struct lz_sys *sys, int fd, const char *root_name, int out, struct lz_detail *detail)
{
    return lz_pack_tree(sys, fd, root_name, false, NULL, out, NULL, detail);
}

static void check_tree(int fd, const char *root_name, const char *expected)
{
    int out = memfd_create("tree", MFD_CLOEXEC);
    CHECK_EQ(pack_tree(lz_sys_linux(), fd, root_name, out, NULL), 0);
    check_archive(out, expected);
    CHECK_EQ(close(out), 0);
}

static void trees(void)
{
    struct scratch scratch = scratch_new();
    make_directory(&scratch, "b");
    make_file(&scratch, "b/f", "file", 4);
    CHECK_EQ(linkat(scratch.fd, "b/f", scratch.fd, "a", 0), 0);
    make_whiteout(&scratch, "c");
    make_file(&scratch, ".wh.x", "", 0);
    CHECK_EQ(mknodat(scratch.fd, "s", S_IFSOCK | 0600, 0), 0);
    CHECK_EQ(symlinkat("nowhere", scratch.fd, "l"), 0);
    set_xattr(&scratch, "b", "trusted.overlay.opaque", "y");
    check_tree(scratch.fd, NULL, "D ./|F .wh.x 0|F a 4|D b/ trusted.overlay.opaque|H b/f>a|C c|L l>nowhere");
    check_tree(scratch.fd, "top",
               "D top/|F top/.wh.x 0|F top/a 4|D top/b/ trusted.overlay.opaque|H top/b/f>top/a|C top/c|"
               "L top/l>nowhere");
    static const struct {
        const char *name, *expected;
    } singles[] = {{"a", "F new 4"}, {"l", "L new>nowhere"}, {"c", "C new"}};
    for (size_t i = 0; i < sizeof singles / sizeof *singles; i++) {
        int fd = openat(scratch.fd, singles[i].name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        CHECK(fd >= 0);
        check_tree(fd, "new", singles[i].expected);
        int out = memfd_create("tree", MFD_CLOEXEC);
        CHECK_EQ(pack_tree(lz_sys_linux(), fd, NULL, out, NULL), -ENOTDIR);
        CHECK_EQ(close(out), 0);
        CHECK_EQ(close(fd), 0);
    }
    int dir = openat(scratch.fd, "b", O_PATH | O_DIRECTORY | O_CLOEXEC);
    check_tree(dir, NULL, "D ./ trusted.overlay.opaque|F f 4");
    CHECK_EQ(close(dir), 0);
    scratch_free(&scratch);
}

int main(void)
{
    RUN(nothing_changed);
    RUN(whiteouts);
    RUN(opaque);
    RUN(user_marks);
    RUN(redirects);
    RUN(links_of_a_renamed_directory);
    RUN(metacopies);
    RUN(the_root);
    RUN(without_a_lower);
    RUN(bad_uppers);
    RUN(corrupt_contents);
    RUN(deep);
    RUN(failing_calls);
    RUN(trees);
    return check_end();
}
