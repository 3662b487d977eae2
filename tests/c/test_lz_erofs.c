/* The image is read back by the kernel (a detached mount, so nothing can stay mounted) and by fsck.erofs, and compared
 * with the merged index entry by entry. */
#include "tree/lz_erofs.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "fault.h"
#include "stack_fixture.h"
#include "tree/lz_mount.h"

static char directory[] = "/tmp/lz_erofs.XXXXXX";
static char image[64];
static uint8_t pattern[20000];

static bool have_fsck(void)
{
    return access("/usr/bin/fsck.erofs", X_OK) == 0 || access("/usr/sbin/fsck.erofs", X_OK) == 0;
}

/* fsck.erofs walks directories recursively, so that the deepest path wants a stack of its own. */
static void check_fsck(const char *how)
{
    char command[160];
    (void)snprintf(command, sizeof command, "ulimit -s unlimited; PATH=$PATH:/usr/sbin fsck.erofs -d1 %s %s >/dev/null",
                   how, image);
    if (have_fsck())
        CHECK_EQ(system(command), 0);
}

/* The xattrs that the kernel shows are those of the index, overlay's own names escaped, plus the object's two. */
static void check_xattrs(const struct lz_index *index, uint32_t number, const char *path)
{
    const struct lz_entry *entry = &index->entries[number];
    static char listed[300000], value[70000];
    ssize_t size = llistxattr(path, listed, sizeof listed);
    CHECK(size >= 0);
    size_t count = 0, expected = (entry->flags & LZ_FLAG_OBJECT) ? 2 : 0;
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(listed + at) + 1)
        count++;
    struct lz_xattr xattr;
    for (uint32_t cursor = 0; lz_index_next_xattr(index, number, &cursor, &xattr) == 1;) {
        char name[300];
        bool own = xattr.name_size > 16 && memcmp(xattr.name, "trusted.overlay.", 16) == 0;
        (void)snprintf(name, sizeof name, "%s%.*s", own ? "trusted.overlay.overlay." : "",
                       (int)xattr.name_size - (own ? 16 : 0), xattr.name + (own ? 16 : 0));
        if (strncmp(name, "com.", 4) == 0)
            continue; /* no Linux file system has it */
        CHECK_EQ(lgetxattr(path, name, value, sizeof value), xattr.value_size);
        CHECK(memcmp(value, xattr.value, xattr.value_size) == 0);
        expected++;
    }
    CHECK_EQ(count, expected);
    if (entry->flags & LZ_FLAG_OBJECT) {
        char hex[65], redirect[80];
        lz_hex(entry->digest, hex);
        (void)snprintf(redirect, sizeof redirect, "/%.2s/%s", hex, hex + 2);
        CHECK_EQ(lgetxattr(path, "trusted.overlay.metacopy", value, sizeof value), 0);
        CHECK_EQ(lgetxattr(path, "trusted.overlay.redirect", value, sizeof value), 66);
        CHECK(memcmp(value, redirect, 66) == 0);
    }
}

static void check_content(const struct stack *stack, uint32_t number, int fd)
{
    const struct lz_entry *entry = &stack->merged.entries[number];
    if (entry->size > (1u << 20)) { /* an object's place is one hole */
        char byte = 1;
        CHECK_EQ(pread(fd, &byte, 1, (off_t)entry->size - 1), 1);
        CHECK_EQ(byte, 0);
        return;
    }
    uint8_t *found = calloc(1, entry->size + 1), *expected = calloc(1, entry->size + 1);
    CHECK(found != NULL && expected != NULL);
    CHECK_EQ(lz_pread_full(lz_sys_linux(), fd, found, entry->size + 1, 0), entry->size);
    if (entry->flags & LZ_FLAG_INLINE)
        CHECK_EQ(pread(stack->layer_fds[entry->layer], expected, entry->size,
                       (off_t)(LZ_INDEX_INLINE_OFFSET + entry->data_offset)),
                 entry->size);
    CHECK(memcmp(found, expected, entry->size) == 0);
    free(found);
    free(expected);
}

static void check_entry(const struct stack *stack, uint32_t number, int mount, ino_t *inodes)
{
    const struct lz_index *index = &stack->merged;
    const struct lz_entry *entry = &index->entries[number];
    const char *path = number == 0 ? "." : lz_index_path(index, number);
    struct stat info;
    CHECK_EQ(fstatat(mount, path, &info, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_EQ(info.st_mode, entry->mode);
    CHECK_EQ(info.st_uid, entry->uid);
    CHECK_EQ(info.st_gid, entry->gid);
    CHECK_EQ(info.st_mtim.tv_sec, entry->mtime);
    CHECK_EQ(info.st_mtim.tv_nsec, entry->mtime_nsec);
    CHECK_EQ(info.st_nlink, entry->link_count);
    if (entry->kind != LZ_KIND_DIRECTORY)
        CHECK_EQ(info.st_size, entry->size);
    CHECK_EQ(major(info.st_rdev), entry->major);
    CHECK_EQ(minor(info.st_rdev), entry->minor);
    inodes[number] = info.st_ino;
    CHECK_EQ(inodes[entry->link], info.st_ino);
    char through[LZ_PATH_MAX + 64];
    (void)snprintf(through, sizeof through, "/proc/self/fd/%d/%s", mount, path);
    check_xattrs(index, number, through);
    if (entry->kind == LZ_KIND_SYMLINK) {
        char target[LZ_PATH_MAX + 1];
        CHECK_EQ(readlinkat(mount, path, target, sizeof target), entry->size);
        CHECK(memcmp(target, lz_index_target(index, number), entry->size) == 0);
    }
    if (entry->kind == LZ_KIND_FILE) {
        int fd = openat(mount, path, O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0);
        check_content(stack, number, fd);
        CHECK_EQ(close(fd), 0);
    }
}

/* How many names the kernel lists in a directory, `.` and `..` included. */
static uint64_t count_names(int mount, const char *path)
{
    int fd = openat(mount, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    static char bytes[1 << 16];
    uint64_t count = 0;
    ssize_t got;
    while ((got = lz_sys_linux()->getdents(NULL, fd, bytes, sizeof bytes)) > 0) {
        for (ssize_t at = 0; at < got; count++) {
            uint16_t record;
            memcpy(&record, bytes + at + 16, sizeof record);
            at += record;
        }
    }
    CHECK_EQ(got, 0);
    CHECK_EQ(close(fd), 0);
    return count;
}

/* Mounts the stack's image and compares everything. */
static void check_stack(const struct stack *stack)
{
    (void)stack_image(stack, image);
    check_fsck("");
    if (geteuid() != 0)
        return;
    struct lz_detail detail = {{0}};
    int mount = lz_mount_erofs(lz_sys_linux(), image, LZ_EROFS_AUTO, NULL, &detail);
    if (mount < 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK(mount >= 0);
    ino_t *inodes = calloc(stack->merged.entry_count, sizeof *inodes);
    CHECK(inodes != NULL);
    for (uint32_t i = 0; i < stack->merged.entry_count; i++) {
        const struct lz_entry *entry = &stack->merged.entries[i];
        check_entry(stack, i, mount, inodes);
        if (entry->kind == LZ_KIND_DIRECTORY)
            CHECK_EQ(count_names(mount, i == 0 ? "." : lz_index_path(&stack->merged, i)), entry->child_count + 2u);
    }
    free(inodes);
    CHECK_EQ(close(mount), 0);
}

static struct lz_tree_node plain(enum lz_kind kind)
{
    return (struct lz_tree_node){.kind = kind, .mode = 0640, .uid = 7, .gid = 70000, .mtime = 1700000000};
}

#define XATTR(name, value)                                                                                             \
    {                                                                                                                  \
        name, sizeof name - 1, (const uint8_t *)value, sizeof value - 1                                                \
    }

static void add_files(struct layer *layer)
{
    static const size_t sizes[] = {0, 1, 31, 32, 33, 3000, 4030, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 20000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "sizes/%zu", sizes[i]);
        layer_file(layer, path, plain(LZ_KIND_FILE), pattern + i, sizes[i] - (sizes[i] > 100 ? i : 0));
    }
}

static void add_objects(struct layer *layer)
{
    static const uint64_t sizes[] = {0, 1, 4096, 4097, 5000000000, 1ull << 43, (1ull << 43) + 1, 1ull << 46};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct lz_tree_node node = plain(LZ_KIND_FILE);
        char path[32];
        (void)snprintf(path, sizeof path, "objects/%zu", i);
        node.flags = LZ_FLAG_OBJECT;
        node.size = sizes[i];
        memset(node.digest, (int)(0xa0 + i), sizeof node.digest);
        layer_add(layer, path, node);
    }
}

static void add_kinds(struct layer *layer)
{
    struct lz_tree_node node = plain(LZ_KIND_CHAR);
    node.major = 1;
    node.minor = 3;
    layer_add(layer, "dev/null", node);
    node.kind = LZ_KIND_BLOCK;
    node.major = 4095;
    node.minor = 1048575;
    layer_add(layer, "dev/most", node);
    layer_add(layer, "dev/fifo", plain(LZ_KIND_FIFO));
    layer_add(layer, "dev/socket", plain(LZ_KIND_SOCKET));
    node = plain(LZ_KIND_SYMLINK);
    node.mode = 0777;
    static char target[LZ_PATH_MAX];
    memset(target, 'x', sizeof target);
    static const size_t sizes[] = {1, 64, 4000, 4032, 4033, 4095};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "links/%zu", sizes[i]);
        node.target = target;
        node.target_size = sizes[i];
        layer_add(layer, path, node);
    }
    struct lz_tree_node root = plain(LZ_KIND_DIRECTORY);
    root.mode = 01751;
    layer_add(layer, "", root);
}

static void add_times(struct layer *layer)
{
    static const struct {
        int64_t seconds;
        uint32_t nanoseconds;
    } times[] = {{-1, 999999999}, {INT32_MIN - 1ll, 1}, {0, 0}, {1ll << 33, 123456789}, {-62135596800, 500000000}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        struct lz_tree_node node = plain(LZ_KIND_FIFO);
        char path[32];
        (void)snprintf(path, sizeof path, "times/%zu", i);
        node.mode = 07777;
        node.uid = node.gid = UINT32_MAX - 1;
        node.mtime = times[i].seconds;
        node.mtime_nsec = times[i].nanoseconds;
        layer_add(layer, path, node);
    }
}

static void add_xattrs(struct layer *layer)
{
    static const char acl[] =
        "\2\0\0\0\1\0\7\0\377\377\377\377\2\0\4\0\5\0\0\0\4\0\5\0\377\377\377\377\20\0\5\0\377\377"
        "\377\377\40\0\5\0\377\377\377\377";
    static const struct lz_xattr some[] = {
        XATTR("com.apple.quarantine", "q"),
        XATTR("security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        XATTR("system.posix_acl_access", acl),
        XATTR("trusted.overlay.metacopy", ""),
        XATTR("trusted.overlay.opaque", "y"),
        XATTR("trusted.overlay.redirect", "/etc/shadow"),
        XATTR("trusted.x", ""),
        XATTR("user.overlay.opaque", "y"),
        XATTR("user.\377\376", "a\0b"),
    };
    struct lz_tree_node node = plain(LZ_KIND_DIRECTORY);
    node.xattrs = some;
    node.xattr_count = sizeof some / sizeof *some;
    layer_add(layer, "xattrs", node);
    layer_file(layer, "xattrs/file", node, "capable", 7);
    node.kind = LZ_KIND_FILE;
    node.flags = LZ_FLAG_OBJECT;
    node.size = 12345;
    layer_add(layer, "xattrs/object", node);
    /* an inode with more xattrs than a block holds, whose tail therefore cannot lie behind it */
    static uint8_t huge[65535];
    memset(huge, 'h', sizeof huge);
    const struct lz_xattr large[] = {{"user.huge", 9, huge, sizeof huge}, {"user.huge2", 10, huge, 4001}};
    node.xattrs = large;
    node.xattr_count = 2;
    layer_file(layer, "xattrs/large", node, pattern, 4100);
    node = plain(LZ_KIND_SYMLINK);
    static const struct lz_xattr one[] = {XATTR("trusted.t", "v")};
    node.target = "target";
    node.target_size = 6;
    node.xattrs = one;
    node.xattr_count = 1;
    layer_add(layer, "xattrs/link", node);
}

static void add_names(struct layer *layer)
{
    /* names on either side of `.` and `..` in byte order */
    static const char *const names[] = {"!",      "-",        ".!", ".-x",      "..!", "...", ".a",
                                        "\x01\n", "\377\376", "/",  "\xc3\x28", "a b", "a:b", "a,b=c\\"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "names/%s", names[i][0] == '/' ? "*" : names[i]);
        layer_file(layer, path, plain(LZ_KIND_FILE), "n", 1);
    }
    char path[LZ_PATH_MAX + 1];
    for (int i = 0; i < 40; i++) { /* names of 255 bytes: a directory of several blocks */
        (void)snprintf(path, sizeof path, "long/%0255d", i);
        layer_file(layer, path, plain(LZ_KIND_FILE), path, 20);
    }
    size_t size = 0;
    while (size + 6 < 3900) /* as deep as a path can say, also through /proc/self/fd */
        size += (size_t)snprintf(path + size, sizeof path - size, "%sdeep", size > 0 ? "/" : "");
    layer_add(layer, path, plain(LZ_KIND_DIRECTORY));
}

static void build_everything(struct stack *stack, bool objects)
{
    struct layer layer;
    layer_begin(&layer);
    add_files(&layer);
    if (objects)
        add_objects(&layer);
    add_kinds(&layer);
    add_times(&layer);
    stack_push(stack, &layer);
    layer_begin(&layer);
    add_xattrs(&layer);
    add_names(&layer);
    static const char *const links[] = {"a/second", "z", "0"};
    for (size_t i = 0; i < 3; i++)
        CHECK_EQ(lz_tree_link(layer.tree, links[i], strlen(links[i]), "xattrs/file", 11, NULL), 0);
    CHECK_EQ(lz_tree_link(layer.tree, "dup", 3, "xattrs/object", 13, NULL), 0);
    stack_push(stack, &layer);
    stack_merge(stack);
}

static void everything_reads_back(void)
{
    struct stack stack = {0};
    build_everything(&stack, true);
    check_stack(&stack);
    stack_free(&stack);
}

/* --extract reads every byte, which holes of terabytes do not allow. */
static void fsck_reads_everything(void)
{
    struct stack stack = {0};
    build_everything(&stack, false);
    (void)stack_image(&stack, image);
    check_fsck("--extract");
    stack_free(&stack);
}

static void empty_root(void)
{
    struct stack stack = {0};
    struct layer layer;
    layer_begin(&layer);
    stack_push(&stack, &layer);
    stack_merge(&stack);
    CHECK_EQ(stack_image(&stack, image), 4096);
    check_stack(&stack);
    stack_free(&stack);
}

static void same_in_same_out(void)
{
    struct stack stack = {0};
    build_everything(&stack, true);
    uint64_t size = stack_image(&stack, image);
    uint8_t *first = malloc(size), *second = malloc(size);
    int fd = open(image, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(read(fd, first, size), size);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(stack_image(&stack, image), size);
    fd = open(image, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(read(fd, second, size), size);
    CHECK_EQ(close(fd), 0);
    CHECK(memcmp(first, second, size) == 0);
    free(first);
    free(second);
    stack_free(&stack);
}

/* A directory of 100,000 names, looked up and listed; contents spread over several cached pieces and out of order. */
static void large_directory(void)
{
    struct stack stack = {0};
    struct layer layer;
    layer_begin(&layer);
    char path[64];
    for (unsigned i = 0; i < 100000; i++) {
        (void)snprintf(path, sizeof path, "many/%06u-entry", i * 7919 % 100000);
        layer_file(&layer, path, plain(LZ_KIND_FILE), path, i % 16 == 0 ? strlen(path) : 0);
    }
    stack_push(&stack, &layer);
    stack_merge(&stack);
    (void)stack_image(&stack, image);
    if (geteuid() == 0) {
        int mount = lz_mount_erofs(lz_sys_linux(), image, LZ_EROFS_AUTO, NULL, NULL);
        CHECK(mount >= 0);
        CHECK_EQ(count_names(mount, "many"), 100002);
        ino_t *inodes = calloc(stack.merged.entry_count, sizeof *inodes);
        for (uint32_t i = 0; i < stack.merged.entry_count; i += i < 2 ? 1 : 97)
            check_entry(&stack, i, mount, inodes);
        free(inodes);
        CHECK_EQ(faccessat(mount, "many/000000-entrx", F_OK, 0), -1);
        CHECK_EQ(close(mount), 0);
    }
    stack_free(&stack);
}

static int write_to_nowhere(const struct stack *stack, struct lz_detail *detail)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    CHECK(fd >= 0);
    int rc = lz_erofs_write(lz_sys_linux(), &stack->merged, stack->layer_fds, fd, NULL, detail);
    CHECK_EQ(close(fd), 0);
    return rc;
}

static void wrong_content_is_named(void)
{
    struct stack stack = {0};
    struct layer layer;
    struct lz_detail detail = {{0}};
    layer_begin(&layer);
    layer_file(&layer, "etc/passwd", plain(LZ_KIND_FILE), "root:x:0:0", 10);
    stack_push(&stack, &layer);
    stack_merge(&stack);
    CHECK_EQ(pwrite(stack.layer_fds[0], "R", 1, LZ_INDEX_INLINE_OFFSET), 1);
    CHECK_EQ(write_to_nowhere(&stack, &detail), LZ_E_CORRUPT);
    CHECK(strncmp(detail.text, "etc/passwd: content has digest ", 31) == 0);
    CHECK_EQ(ftruncate(stack.layer_fds[0], LZ_INDEX_INLINE_OFFSET + 3), 0);
    CHECK_EQ(write_to_nowhere(&stack, &detail), LZ_E_TRUNCATED);
    CHECK_EQ(ftruncate(stack.layer_fds[0], 100), 0);
    CHECK_EQ(write_to_nowhere(&stack, &detail), LZ_E_TRUNCATED);
    CHECK(strstr(detail.text, "etc/passwd") != NULL);
    stack_free(&stack);
}

/* What a merged index cannot have, or EROFS cannot hold; the bytes are changed after the index was opened. */
static void refuses(size_t offset, uint64_t value, size_t size, uint32_t number, int code)
{
    struct stack stack = {0};
    struct layer layer;
    struct lz_detail detail = {{0}};
    layer_begin(&layer);
    layer_file(&layer, "a/b", plain(LZ_KIND_FILE), "content", 7);
    layer_add(&layer, "a/c", plain(LZ_KIND_FIFO));
    stack_push(&stack, &layer);
    stack_merge(&stack);
    memcpy((uint8_t *)(uintptr_t)&stack.merged.entries[number] + offset, &value, size);
    CHECK_EQ(write_to_nowhere(&stack, &detail), code);
    CHECK(detail.text[0] == 'a');
    stack_free(&stack);
}

static void bad_entries(void)
{
    refuses(offsetof(struct lz_entry, kind), LZ_KIND_WHITEOUT, 1, 2, LZ_E_FORMAT);
    refuses(offsetof(struct lz_entry, mtime_nsec), 1000000000, 4, 2, LZ_E_FORMAT);
    refuses(offsetof(struct lz_entry, flags), LZ_FLAG_INLINE | LZ_FLAG_OBJECT, 1, 2, LZ_E_FORMAT);
    refuses(offsetof(struct lz_entry, flags), 0, 1, 2, LZ_E_FORMAT);
    refuses(offsetof(struct lz_entry, size), UINT64_MAX, 8, 2, LZ_E_LIMIT);
    refuses(offsetof(struct lz_entry, size), 1ull << 40, 8, 2, LZ_E_FORMAT);
    refuses(offsetof(struct lz_entry, data_offset), UINT64_MAX, 8, 2, LZ_E_FORMAT);
    refuses(offsetof(struct lz_entry, parent), 0, 4, 3, LZ_E_FORMAT);
    refuses(offsetof(struct lz_entry, child_count), 2, 4, 0, LZ_E_FORMAT);
}

static void limits_of_xattrs_and_devices(void)
{
    struct lz_detail detail = {{0}};
    static uint8_t value[65536];
    char name[256];
    (void)snprintf(name, sizeof name, "trusted.overlay.%0239d", 1);
    const struct lz_xattr cases[] = {{"user.v", 6, value, sizeof value}, {name, 255, value, 1}};
    for (size_t i = 0; i < 3; i++) {
        struct stack stack = {0};
        struct layer layer;
        layer_begin(&layer);
        struct lz_tree_node node = plain(i < 2 ? LZ_KIND_DIRECTORY : LZ_KIND_CHAR);
        node.xattrs = &cases[i];
        node.xattr_count = i < 2;
        node.major = i < 2 ? 0 : 4096;
        layer_add(&layer, "x", node);
        stack_push(&stack, &layer);
        stack_merge(&stack);
        CHECK_EQ(write_to_nowhere(&stack, &detail), LZ_E_LIMIT);
        CHECK(strncmp(detail.text, "x: ", 3) == 0);
        stack_free(&stack);
    }
}

/* What is refused before it comes into a layer is what the writer would refuse, to the byte. */
static void checks_before(void)
{
    static uint8_t value[65536];
    char name[256];
    (void)snprintf(name, sizeof name, "trusted.overlay.%0231d", 1); /* 247 bytes, and 8 more once it is escaped */
    struct lz_xattr xattrs[5] = {{"user.v", 6, value, 65535}, {name, 247, value, 1}};
    CHECK_EQ(lz_erofs_check_xattrs("x", xattrs, 2, NULL), 0);
    xattrs[0].value_size = 65536;
    struct lz_detail detail = {{0}};
    CHECK_EQ(lz_erofs_check_xattrs("x", xattrs, 2, &detail), LZ_E_LIMIT);
    CHECK(strcmp(detail.text, "x: xattr user.v has 65536 bytes, EROFS holds at most 65535") == 0);
    (void)snprintf(name, sizeof name, "trusted.overlay.%0232d", 1);
    CHECK_EQ(lz_erofs_check_xattrs("x", &(struct lz_xattr){name, 248, value, 1}, 1, NULL), LZ_E_LIMIT);
    CHECK_EQ(lz_erofs_check_xattrs("x", &(struct lz_xattr){"user.a\0b", 8, value, 1}, 1, NULL), LZ_E_FORMAT);
    /* 262,148 bytes: 12 of the header, 20 and 88 of the object's two, three times 65,540, and 65,408 of the last */
    static const char *const names[] = {"user.aaaa", "user.bbbb", "user.cccc", "user.dddd"};
    for (size_t i = 0; i < 4; i++)
        xattrs[i] = (struct lz_xattr){names[i], 9, value, i < 3 ? 65532 : 65400};
    for (int i = 0; i < 2; i++) {
        struct stack stack = {0};
        struct layer layer;
        layer_begin(&layer);
        struct lz_tree_node node = plain(LZ_KIND_FILE);
        node.xattrs = xattrs;
        node.xattr_count = 4;
        node.size = 5000;
        node.flags = LZ_FLAG_OBJECT;
        CHECK_EQ(lz_erofs_check_xattrs("x", xattrs, 4, NULL), i == 0 ? 0 : LZ_E_LIMIT);
        layer_add(&layer, "x", node);
        stack_push(&stack, &layer);
        stack_merge(&stack);
        CHECK_EQ(write_to_nowhere(&stack, NULL), i == 0 ? 0 : LZ_E_LIMIT);
        stack_free(&stack);
        xattrs[3].value_size += 1;
    }
    CHECK_EQ(lz_erofs_check_device("x", 4095, 1048575, NULL), 0);
    CHECK_EQ(lz_erofs_check_device("x", 4096, 0, NULL), LZ_E_LIMIT);
    CHECK_EQ(lz_erofs_check_device("x", 0, 1048576, &detail), LZ_E_LIMIT);
    CHECK(strcmp(detail.text, "x: device 0:1048576, Linux has 4095:1048575 at most") == 0);
}

static void every_failing_call(void)
{
    struct stack stack = {0};
    build_everything(&stack, true);
    long n = 1;
    for (;; n++) {
        struct fault fault;
        fault_arm(&fault, n, -ENOSPC);
        uint64_t size = 4711;
        struct lz_detail detail = {{0}};
        int fd = memfd_create("image", MFD_CLOEXEC);
        int rc = lz_erofs_write(fault_sys(&fault), &stack.merged, stack.layer_fds, fd, &size, &detail);
        CHECK_EQ(close(fd), 0);
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            break;
        }
        CHECK_EQ(rc, -ENOSPC);
        CHECK(detail.text[0] != 0);
        CHECK_EQ(size, 4711);
    }
    CHECK(n > 4);
    stack_free(&stack);
}

int main(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i * 131 + i / 251);
    CHECK(mkdtemp(directory) != NULL);
    (void)snprintf(image, sizeof image, "%s/image", directory);
    if (geteuid() != 0)
        fprintf(stderr, "  not root: images are not mounted\n");
    RUN(empty_root);
    RUN(everything_reads_back);
    RUN(fsck_reads_everything);
    RUN(same_in_same_out);
    RUN(large_directory);
    RUN(wrong_content_is_named);
    RUN(bad_entries);
    RUN(limits_of_xattrs_and_devices);
    RUN(checks_before);
    RUN(every_failing_call);
    (void)unlink(image);
    CHECK_EQ(rmdir(directory), 0);
    return check_end();
}
