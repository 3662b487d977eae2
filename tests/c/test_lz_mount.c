/* Real mounts, in a mount namespace of the test's own, so that nothing can stay mounted outside. */
#include "tree/lz_mount.h"

#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "fault.h"
#include "shell.h"
#include "stack_fixture.h"
#include "tree/lz_loop.h"
#include "tree/lz_mount_stack.h"

static char top[] = "/var/tmp/lz_mount.XXXXXX" /* no tmpfs: EROFS needs a file system it can read from */;
static char image[512], objects[64], upper[64], work[64], target[64], attach_dir[64];
static char content[10000];

static const struct lz_sys *linux_sys;

static void make_directory(char out[64], const char *name)
{
    (void)snprintf(out, 64, "%s/%s", top, name);
    CHECK(mkdir(out, 0755) == 0 || errno == EEXIST);
}

/* Runs a shell line with the top directory as its working directory. */
static void shell(const char *line)
{
    shell_in(top, line);
}

static int count_lines(const char *path, const char *wanted)
{
    FILE *file = fopen(path, "re");
    CHECK(file != NULL);
    char line[4096];
    int count = 0;
    while (fgets(line, sizeof line, file) != NULL)
        count += strstr(line, wanted) != NULL;
    CHECK_EQ(fclose(file), 0);
    return count;
}

static int mounts(void)
{
    return count_lines("/proc/self/mountinfo", "lz_mount.");
}

static struct lz_stack container(void)
{
    static const char *data[1];
    data[0] = objects;
    return (struct lz_stack){.image = image,
                             .data = data,
                             .data_count = 1,
                             .upper = upper,
                             .work = work,
                             .target = target,
                             .metacopy = true,
                             .redirect_dir = true,
                             .attach_dir = attach_dir};
}

static int mount_it(const struct lz_stack *stack, enum lz_erofs_source *used)
{
    struct lz_detail detail = {{0}};
    int rc = lz_mount_stack(linux_sys, stack, used, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    return rc;
}

static void unmount_it(void)
{
    CHECK_EQ(lz_unmount(linux_sys, target, false, NULL), 0);
}

static void fresh_upper(void)
{
    shell("rm -rf upper work && mkdir upper work");
}

/* An image with an inline file, an object file and a hard link to it. */
static void make_image(void)
{
    struct stack stack = {0};
    struct layer layer;
    layer_begin(&layer);
    struct lz_tree_node node = {.kind = LZ_KIND_FILE, .mode = 0644, .mtime = 1};
    layer_file(&layer, "etc/motd", node, "hello\n", 6);
    struct lz_sha256 *sha256;
    char hex[65], path[160];
    CHECK_EQ(lz_sha256_new(&sha256), 0);
    CHECK_EQ(lz_sha256_digest(sha256, content, sizeof content, node.digest), 0);
    lz_sha256_free(sha256);
    node.flags = LZ_FLAG_OBJECT;
    node.size = sizeof content;
    layer_add(&layer, "usr/object", node);
    CHECK_EQ(lz_tree_link(layer.tree, "usr/link", 8, "usr/object", 10, NULL), 0);
    stack_push(&stack, &layer);
    stack_merge(&stack);
    (void)snprintf(image, sizeof image, "%s/image", top);
    (void)stack_image(&stack, image);
    stack_free(&stack);
    lz_hex(node.digest, hex);
    (void)snprintf(path, sizeof path, "%s/%.2s", objects, hex);
    CHECK_EQ(mkdir(path, 0755), 0);
    (void)snprintf(path, sizeof path, "%s/%.2s/%s", objects, hex, hex + 2);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, content, sizeof content), sizeof content);
    CHECK_EQ(close(fd), 0);
}

static void check_target(void)
{
    static char found[sizeof content + 1];
    char path[128];
    (void)snprintf(path, sizeof path, "%s/usr/link", target);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(read(fd, found, sizeof found), sizeof content);
    CHECK(memcmp(found, content, sizeof content) == 0);
    CHECK_EQ(close(fd), 0);
    shell("grep -q hello merged/etc/motd && test $(stat -c %s merged/usr/object) = 10000");
}

static void objects_are_read_and_copied_up(void)
{
    fresh_upper();
    struct lz_stack stack = container();
    enum lz_erofs_source used = LZ_EROFS_AUTO;
    CHECK_EQ(mount_it(&stack, &used), 0);
    CHECK(used == LZ_EROFS_FILE || used == LZ_EROFS_LOOP);
    check_target();
    shell("test -z \"$(ls -A upper)\" && test $(stat -c %h merged/usr/object) = 2");
    /* attributes only: the upper gets no data; data: it gets all of it; the object stays */
    shell("chmod 600 merged/usr/object && test $(stat -c %a:%b upper/usr/object) = 600:0");
    char value[16], path[128];
    (void)snprintf(path, sizeof path, "%s/usr/object", upper);
    CHECK(getxattr(path, "trusted.overlay.metacopy", value, sizeof value) >= 0);
    check_target();
    shell("printf x >> merged/usr/object && test $(stat -c %a:%s upper/usr/object) = 600:10001");
    CHECK(getxattr(path, "trusted.overlay.metacopy", value, sizeof value) < 0);
    shell("mv merged/etc merged/etc2 && test \"$(cat merged/etc2/motd)\" = hello && test ! -e merged/etc");
    shell("test $(stat -c %s objects/*/*) = 10000");
    unmount_it();
    /* what was written is there again, also by the other ways to mount */
    stack.erofs_source = LZ_EROFS_LOOP;
    stack.force_paths = true;
    CHECK_EQ(mount_it(&stack, &used), 0);
    CHECK_EQ(used, LZ_EROFS_LOOP);
    shell("test $(stat -c %a:%s merged/usr/object) = 600:10001 && cat merged/etc2/motd | grep -q hello");
    unmount_it();
    CHECK_EQ(mounts(), 0);
}

static void every_way_to_mount(void)
{
    for (int source = LZ_EROFS_AUTO; source <= LZ_EROFS_LOOP; source++) {
        for (int i = 0; i < 8; i++) {
            fresh_upper();
            struct lz_stack stack = container();
            stack.erofs_source = (enum lz_erofs_source)source;
            stack.force_paths = i & 1;
            stack.read_only = i & 2;
            if (i & 4)
                stack.upper = stack.work = NULL;
            enum lz_erofs_source used = LZ_EROFS_AUTO;
            int before = count_descriptors();
            CHECK_EQ(mount_it(&stack, &used), 0);
            CHECK_EQ(count_descriptors(), before);
            CHECK_EQ(mounts(), 1);
            CHECK(source == LZ_EROFS_AUTO || (int)used == source);
            check_target();
            shell(i & 6 ? "! touch merged/new 2>/dev/null" : "touch merged/new && test -e upper/new");
            unmount_it();
        }
    }
    CHECK_EQ(mounts(), 0);
}

static void single_layers(void)
{
    struct lz_stack stack = {.image = image, .target = target, .metacopy = true, .redirect_dir = true};
    CHECK_EQ(mount_it(&stack, NULL), 0);
    shell("grep -q hello merged/etc/motd && test \"$(stat -f -c %T merged)\" != overlayfs");
    unmount_it();
    const char *lowers[] = {objects};
    stack.image = NULL;
    stack.lowers = lowers;
    stack.lower_count = 1;
    enum lz_erofs_source used = LZ_EROFS_LOOP;
    CHECK_EQ(mount_it(&stack, &used), 0);
    CHECK_EQ(used, LZ_EROFS_AUTO);
    shell("ls merged/?? > /dev/null && ! touch merged/new 2>/dev/null && touch objects/new && rm objects/new");
    unmount_it();
    CHECK_EQ(mounts(), 0);
}

/* Host directories with names that an option string could not carry, more of them than a page of options would. */
static void many_lowers(void)
{
    enum { COUNT = 120 };
    static char paths[COUNT][384];
    const char *lowers[COUNT];
    char name[270];
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(name, sizeof name, "%03d:,\\ %0200d", i, i);
        (void)snprintf(paths[i], sizeof paths[i], "%s/%s", top, name);
        CHECK_EQ(mkdir(paths[i], 0755), 0);
        char file[420];
        (void)snprintf(file, sizeof file, "%s/own.%d", paths[i], i);
        CHECK_EQ(close(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0644)), 0);
        (void)snprintf(file, sizeof file, "%s/shared", paths[i]);
        int fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
        CHECK_EQ(dprintf(fd, "%d", i) > 0, 1);
        CHECK_EQ(close(fd), 0);
        lowers[i] = paths[i];
    }
    for (int by_path = 0; by_path < 2; by_path++) {
        fresh_upper();
        struct lz_stack stack = {.lowers = lowers,
                                 .lower_count = COUNT,
                                 .upper = upper,
                                 .work = work,
                                 .target = target,
                                 .user_xattr = by_path,
                                 .force_paths = by_path};
        CHECK_EQ(mount_it(&stack, NULL), 0);
        shell("test $(ls merged | wc -l) = 121 && test $(cat merged/shared) = 0");
        unmount_it();
    }
    shell("rm -rf [01]*");
}

/* Uppers of earlier mounts over the image: their marks count, and what is renamed twice is still found. */
static void directories_over_the_image(void)
{
    char newer[128], older[128];
    (void)snprintf(newer, sizeof newer, "%s/newer", top);
    (void)snprintf(older, sizeof older, "%s/older", top);
    const char *above[] = {newer, older};
    shell("mkdir older newer");
    for (int by_path = 0; by_path < 2; by_path++) {
        const char *steps[] = {"chmod 600 merged/usr/object && mv merged/usr merged/usr2 && echo 1 > merged/one",
                               "mv merged/usr2 merged/usr3 && rm merged/one && echo 2 > merged/two", "true"};
        for (size_t count = 0; count < 3; count++) {
            fresh_upper();
            struct lz_stack stack = container();
            stack.above = count == 1 ? above + 1 : above;
            stack.above_count = count;
            stack.force_paths = by_path;
            CHECK_EQ(mount_it(&stack, NULL), 0);
            shell(steps[count]);
            if (count == 2)
                shell("test $(stat -c %s:%a merged/usr3/object) = 10000:600 && test ! -e merged/one -a ! -e merged/usr "
                      "&& cmp merged/usr3/object merged/usr3/link && grep -q 2 merged/two && grep -q hello "
                      "merged/etc/motd");
            unmount_it();
            if (count < 2)
                shell(count == 0 ? "rm -rf older && mv upper older" : "rm -rf newer && mv upper newer");
        }
    }
    struct lz_stack alone = {.above = above, .above_count = 1, .target = target};
    CHECK_EQ(mount_it(&alone, NULL), 0);
    shell("grep -q 2 merged/two");
    unmount_it();
    shell("rm -rf older newer");
}

static void long_image_path(void)
{
    char before[512];
    memcpy(before, image, sizeof before);
    size_t size = strlen(top);
    memcpy(image, top, size);
    for (int i = 0; i < 2; i++) {
        size += (size_t)snprintf(image + size, sizeof image - size, "/%0180d", i);
        CHECK_EQ(mkdir(image, 0755), 0);
    }
    (void)snprintf(image + size, sizeof image - size, "/image");
    CHECK_EQ(link(before, image), 0);
    fresh_upper();
    for (int source = LZ_EROFS_FILE; source <= LZ_EROFS_LOOP; source++) {
        struct lz_stack stack = container();
        stack.erofs_source = (enum lz_erofs_source)source;
        CHECK_EQ(mount_it(&stack, NULL), 0);
        check_target();
        unmount_it();
    }
    shell("rm -rf 00*");
    memcpy(image, before, sizeof before);
}

static void failures_are_named(void)
{
    struct lz_detail detail = {{0}};
    struct lz_stack stack = container();
    stack.upper = "/nonexistent/upper";
    CHECK_EQ(lz_mount_stack(linux_sys, &stack, NULL, &detail), -ENOENT);
    CHECK(strstr(detail.text, "upper /nonexistent/upper") != NULL);
    stack = container();
    stack.image = "/dev/null";
    CHECK(lz_mount_stack(linux_sys, &stack, NULL, &detail) < 0);
    CHECK(strstr(detail.text, "/dev/null") != NULL);
    stack = container();
    stack.target = "/nonexistent";
    CHECK_EQ(lz_mount_stack(linux_sys, &stack, NULL, &detail), -ENOENT);
    CHECK(strstr(detail.text, "/nonexistent") != NULL);
    stack = container();
    stack.work = NULL;
    CHECK_EQ(lz_mount_stack(linux_sys, &stack, NULL, &detail), -EINVAL);
    stack = (struct lz_stack){.target = target};
    CHECK_EQ(lz_mount_stack(linux_sys, &stack, NULL, &detail), -EINVAL);
    stack = container();
    stack.force_paths = true;
    stack.attach_dir = NULL;
    CHECK_EQ(lz_mount_stack(linux_sys, &stack, NULL, &detail), LZ_E_UNSUPPORTED);
    /* upper and work overlap: said by the kernel in its own words */
    fresh_upper();
    stack = container();
    stack.work = upper;
    CHECK_EQ(lz_mount_stack(linux_sys, &stack, NULL, &detail), -EINVAL);
    CHECK(strncmp(detail.text, "overlay mount: ", 15) == 0);
    CHECK_EQ(lz_unmount(linux_sys, target, false, &detail), -EINVAL);
    CHECK(strstr(detail.text, "not a mount point") != NULL);
    CHECK_EQ(mounts(), 0);
}

static void volatile_is_refused_the_second_time(void)
{
    fresh_upper();
    struct lz_stack stack = container();
    stack.is_volatile = true;
    CHECK_EQ(mount_it(&stack, NULL), 0);
    shell("touch merged/new");
    CHECK_EQ(lz_unmount(linux_sys, target, true, NULL), 0);
    struct lz_detail detail = {{0}};
    CHECK_EQ(lz_mount_stack(linux_sys, &stack, NULL, &detail), -EINVAL);
    CHECK(strstr(detail.text, "was mounted volatile") != NULL);
}

static void bind_mounts_and_is_mount(void)
{
    char file[128], link_path[128], slashes[128];
    shell(
        "mkdir -p source/below && touch source/file plain && ln -sfn merged link && mount -t tmpfs none source/below");
    shell("touch source/below/deep");
    (void)snprintf(file, sizeof file, "%s/source", top);
    CHECK_EQ(lz_is_mount(linux_sys, target), 0);
    CHECK_EQ(lz_mount_bind(linux_sys, file, target, true, true, NULL), 0);
    CHECK_EQ(lz_is_mount(linux_sys, target), 1); /* the same file system on both sides */
    shell("test -e merged/below/deep && ! touch merged/x 2>/dev/null && ! touch merged/below/x 2>/dev/null");
    shell("touch source/x source/below/x"); /* only the view is read-only */
    (void)snprintf(slashes, sizeof slashes, "%s//", target);
    CHECK_EQ(lz_is_mount(linux_sys, slashes), 1);
    (void)snprintf(link_path, sizeof link_path, "%s/link", top);
    CHECK_EQ(lz_is_mount(linux_sys, link_path), 0);
    CHECK_EQ(lz_unmount(linux_sys, link_path, true, NULL), -EINVAL); /* a symlink is not followed */
    CHECK_EQ(lz_unmount(linux_sys, target, true, NULL), 0);
    CHECK_EQ(lz_mount_bind(linux_sys, file, target, false, false, NULL), 0);
    shell("test ! -e merged/below/deep && touch merged/y && test -e source/y");
    unmount_it();
    /* a file over a file */
    (void)snprintf(file, sizeof file, "%s/source/file", top);
    (void)snprintf(slashes, sizeof slashes, "%s/plain", top);
    CHECK_EQ(lz_mount_bind(linux_sys, file, slashes, true, true, NULL), 0);
    CHECK_EQ(lz_is_mount(linux_sys, slashes), 1);
    CHECK_EQ(lz_unmount(linux_sys, slashes, false, NULL), 0);
    CHECK_EQ(lz_is_mount(linux_sys, "/"), 1);
    CHECK_EQ(lz_is_mount(linux_sys, "//"), 1);
    CHECK_EQ(lz_is_mount(linux_sys, "/proc/"), 1);
    CHECK_EQ(lz_is_mount(linux_sys, ""), -EINVAL);
    CHECK_EQ(lz_is_mount(linux_sys, "/tmp/.."), -EINVAL);
    CHECK_EQ(lz_is_mount(linux_sys, "/nonexistent/x"), -ENOENT);
    CHECK_EQ(lz_is_mount(linux_sys, "nonexistent"), -ENOENT);
    CHECK_EQ(lz_mount_bind(linux_sys, "/nonexistent", target, true, true, NULL), -ENOENT);
    shell("umount source/below && rm -rf source plain link");
    CHECK_EQ(mounts(), 0);
}

static void what_the_kernel_supports(void)
{
    CHECK_EQ(lz_mount_supports(linux_sys, "overlay", NULL, NULL), 1);
    CHECK_EQ(lz_mount_supports(linux_sys, "overlay", "datadir+", NULL), 1);
    CHECK_EQ(lz_mount_supports(linux_sys, "overlay", "nonsense", NULL), 0);
    CHECK_EQ(lz_mount_supports(linux_sys, "nonsense", NULL, NULL), 0);
}

/* The detached loop device goes away with its last user. */
static void loop_devices_clear_themselves(void)
{
    int fd = open(image, O_RDONLY | O_CLOEXEC);
    char name[LZ_LOOP_NAME_SIZE];
    int device = lz_loop_attach(linux_sys, fd, LZ_LOOP_READ_ONLY, name, NULL);
    CHECK(device >= 0);
    char backing[96], path[512] = "";
    (void)snprintf(backing, sizeof backing, "/sys/block/%s/loop/backing_file", name + strlen("/dev/"));
    int file = open(backing, O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    CHECK(read(file, path, sizeof path - 1) > 0);
    CHECK_EQ(close(file), 0);
    CHECK(strncmp(path, image, strlen(image)) == 0);
    CHECK_EQ(write(device, "x", 1), -1);
    CHECK_EQ(close(device), 0);
    CHECK_EQ(close(fd), 0);
    for (int i = 0; i < 200 && access(backing, F_OK) == 0; i++)
        (void)usleep(10000);
    CHECK(access(backing, F_OK) != 0);
}

static void every_failing_call(void)
{
    char place[128];
    (void)snprintf(place, sizeof place, "%s/over", top);
    CHECK_EQ(mkdir(place, 0755), 0);
    const char *over = place;
    for (int way = 0; way < 8; way++) {
        long n = 1;
        for (;; n++) {
            fresh_upper();
            struct fault fault;
            fault_arm(&fault, n, way & 4 ? -EINVAL : -EMFILE);
            struct lz_stack stack = container();
            stack.erofs_source = way & 1 ? LZ_EROFS_LOOP : LZ_EROFS_AUTO;
            stack.force_paths = way & 2;
            stack.is_volatile = true;
            stack.above = &over;
            stack.above_count = 1;
            struct lz_detail detail = {{0}};
            int before = count_descriptors();
            int rc = lz_mount_stack(fault_sys(&fault), &stack, NULL, &detail);
            CHECK_EQ(count_descriptors(), before);
            CHECK_EQ(mounts(), rc == 0);
            if (rc == 0)
                unmount_it();
            else
                CHECK(detail.text[0] != 0);
            if (!fault.fired) {
                CHECK_EQ(rc, 0);
                break;
            }
        }
        CHECK(n > 15);
    }
}

static void every_failing_call_of_bind(void)
{
    for (long n = 1;; n++) {
        struct fault fault;
        fault_arm(&fault, n, -EPERM);
        int before = count_descriptors();
        int rc = lz_mount_bind(fault_sys(&fault), objects, target, true, true, NULL);
        CHECK_EQ(count_descriptors(), before);
        CHECK_EQ(mounts(), rc == 0);
        if (rc == 0)
            unmount_it();
        if (!fault.fired)
            break;
        fault_arm(&fault, n, -EPERM);
        (void)lz_is_mount(fault_sys(&fault), target);
        CHECK_EQ(count_descriptors(), before);
    }
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  not root: nothing can be mounted\n");
        return 0;
    }
    linux_sys = lz_sys_linux();
    CHECK_EQ(unshare(CLONE_NEWNS), 0);
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK(mkdtemp(top) != NULL);
    memset(content, 'o', sizeof content);
    make_directory(objects, "objects");
    make_directory(upper, "upper");
    make_directory(work, "work");
    make_directory(target, "merged");
    make_directory(attach_dir, "attach");
    make_image();
    RUN(objects_are_read_and_copied_up);
    RUN(every_way_to_mount);
    RUN(single_layers);
    RUN(many_lowers);
    RUN(directories_over_the_image);
    RUN(long_image_path);
    RUN(failures_are_named);
    RUN(volatile_is_refused_the_second_time);
    RUN(bind_mounts_and_is_mount);
    RUN(what_the_kernel_supports);
    RUN(loop_devices_clear_themselves);
    RUN(every_failing_call);
    RUN(every_failing_call_of_bind);
    shell("cd / && rm -rf \"$OLDPWD\"");
    return check_end();
}
