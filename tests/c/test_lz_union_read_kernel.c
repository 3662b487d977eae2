/* Unions of random layers, in all mixes of indexes and directories, against the kernel's overlayfs over the same layers, also
 * with an upper that the kernel has written. Mounts are made in a mount namespace of the test's own. */
#include "union_fixture.h"

#include <sched.h>
#include <sys/mount.h>

static struct scratch scratch;
static int objects;
static uint64_t state;

static uint32_t below(uint32_t limit)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % limit;
}

/* ---- what the kernel shows ---- */

static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void append_kernel_xattrs(const char *full, struct lz_buf *out)
{
    char names[4096], value[256];
    ssize_t size = llistxattr(full, names, sizeof names);
    CHECK(size >= 0);
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
        ssize_t got = lgetxattr(full, names + at, value, sizeof value);
        CHECK(got >= 0);
        append_line(out, " %s=%.*s", names + at, (int)got, value);
    }
}

static void append_kernel(const char *root, const char *path, struct lz_buf *out)
{
    char full[5200], child[LZ_PATH_MAX + 300], text[600];
    (void)snprintf(full, sizeof full, "%s/%s", root, path);
    struct stat stat;
    struct lz_union_info info;
    if (lstat(full, &stat) != 0) { /* it lists a whiteout where nothing lies below, and then has nothing there */
        CHECK_EQ(errno, ENOENT);
        return;
    }
    lz_union_info_of_stat(&stat, 0, &info);
    append_line_of(path, &info, out);
    if (info.kind == LZ_KIND_FILE) {
        int fd = open(full, O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0);
        ssize_t got = read(fd, text, sizeof text - 1);
        CHECK(got >= 0);
        CHECK_EQ(close(fd), 0);
        append_line(out, " =%.*s", (int)got, text);
    }
    if (info.kind == LZ_KIND_SYMLINK) {
        ssize_t got = readlink(full, text, sizeof text);
        CHECK(got >= 0);
        append_line(out, " >%.*s", (int)got, text);
    }
    if (info.kind == LZ_KIND_FILE || info.kind == LZ_KIND_DIRECTORY)
        append_kernel_xattrs(full, out);
    append_line(out, "\n");
    if (info.kind != LZ_KIND_DIRECTORY)
        return;
    struct dirent **entries;
    int count = scandir(full, &entries, NULL, compare_names);
    CHECK(count >= 0);
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        (void)snprintf(child, sizeof child, "%s%s%s", path, path[0] != 0 ? "/" : "", name);
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
            append_kernel(root, child, out);
        free(entries[i]);
    }
    free(entries);
}

static char *dump_kernel(const char *root)
{
    struct lz_buf out = {0};
    append_kernel(root, "", &out);
    CHECK_EQ(lz_buf_append_zeros(&out, 1), 0);
    return (char *)out.data;
}

/* ---- random layers ---- */

#define NAMES 3u
#define DEPTH 3u

static void random_directory(struct lz_buf *script, const char *path, unsigned depth)
{
    for (uint32_t i = 0; i < NAMES; i++) {
        char child[64];
        (void)snprintf(child, sizeof child, "%s%s%c", path, path[0] != 0 ? "/" : "", 'a' + (int)i);
        switch (below(9)) {
        case 0:
        case 1:
        case 2:
        case 3:
            append_line(script, "d %s 7%u5; ", child, below(8));
            if (below(5) == 0)
                append_line(script, "o %s; ", child);
            if (depth < DEPTH)
                random_directory(script, child, depth + 1);
            break;
        case 4:
            append_line(script, "%c %s text%u; ", below(2) == 0 ? 'f' : '@', child, below(1000));
            break;
        case 5:
            append_line(script, "s %s ../%c; ", child, 'a' + (int)below(NAMES));
            break;
        case 6:
            append_line(script, "w %s; ", child);
            break;
        default:
            break;
        }
    }
}

static char *random_script(void)
{
    struct lz_buf script = {0};
    append_line(&script, "d . 7%u5; ", below(8));
    random_directory(&script, "", 1);
    CHECK_EQ(lz_buf_append_zeros(&script, 1), 0);
    return (char *)script.data;
}

/* Layers on disk, from the lowest, mounted at `merged`, perhaps with `upper`. */
struct layers {
    char *scripts[8];
    int fds[8];
    size_t count;
    char merged[128];
};

static void mount_layers(struct layers *layers, bool upper)
{
    char options[1400] = "index=off,redirect_dir=on,metacopy=on,lowerdir=";
    for (size_t i = layers->count; i-- > 0;)
        (void)snprintf(options + strlen(options), sizeof options - strlen(options), "%s/layer%zu%s", scratch.path, i,
                       i > 0 ? ":" : "");
    if (upper)
        (void)snprintf(options + strlen(options), sizeof options - strlen(options),
                       ",upperdir=%s/upper,workdir=%s/work", scratch.path, scratch.path);
    if (mount("overlay", layers->merged, "overlay", 0, options) != 0) {
        fprintf(stderr, "mount -o %s: %s\n", options, strerror(errno));
        CHECK(false);
    }
}

static void make_layers(struct layers *layers, size_t count)
{
    layers->count = count;
    for (size_t i = 0; i < count; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "layer%zu", i);
        layers->scripts[i] = random_script();
        layers->fds[i] = make_layer_directory(&scratch, name, layers->scripts[i], (unsigned)i);
    }
    (void)snprintf(layers->merged, sizeof layers->merged, "%s/merged", scratch.path);
    CHECK_EQ(mkdir(layers->merged, 0755), 0);
}

static void free_layers(struct layers *layers)
{
    char command[400];
    for (size_t i = 0; i < layers->count; i++) {
        free(layers->scripts[i]);
        CHECK_EQ(close(layers->fds[i]), 0);
    }
    (void)snprintf(command, sizeof command, "cd %s && rm -rf layer* merged upper work", scratch.path);
    CHECK_EQ(system(command), 0);
}

/* The layers as branches: bit i of `cuts` ends an index after layer i, bit i of `directories` makes it a directory. */
struct mix {
    struct branch_index indexes[8];
    size_t index_count;
    struct lz_branch branches[8]; /* the top one first */
    size_t count;
};

static void make_mix(const struct layers *layers, uint32_t cuts, uint32_t directories, struct mix *mix)
{
    struct lz_branch upwards[8];
    mix->index_count = mix->count = 0;
    for (size_t i = 0; i < layers->count;) {
        size_t from = i;
        if ((directories >> i & 1) != 0) {
            upwards[mix->count++] = directory_branch(layers->fds[i++], true);
            continue;
        }
        do
            i++;
        while (i < layers->count && (directories >> i & 1) == 0 && (cuts >> i & 1) == 0);
        struct branch_index *index = &mix->indexes[mix->index_count++];
        *index = make_index((const char *const *)layers->scripts + from, i - from, (unsigned)from, objects,
                            from > 0 || below(2) == 0);
        upwards[mix->count++] = index_branch(index, objects);
    }
    for (size_t i = 0; i < mix->count; i++)
        mix->branches[i] = upwards[mix->count - 1 - i];
}

static void free_mix(struct mix *mix)
{
    for (size_t i = 0; i < mix->index_count; i++)
        free_index(&mix->indexes[i]);
}

static void check_mixes(const struct layers *layers, const char *expected, int upper_fd, int work_fd, uint64_t seed)
{
    char what[100];
    for (uint32_t i = 0; i < 6; i++) {
        uint32_t cuts = i == 0 ? 0 : below(256), directories = i == 0 ? 0 : i == 1 ? 255 : below(256);
        struct mix mix;
        make_mix(layers, cuts, directories, &mix);
        struct lz_union *self = open_union(mix.branches, mix.count, upper_fd, work_fd);
        char *found = dump_union(self);
        (void)snprintf(what, sizeof what, "seed %llu, cuts %x, directories %x", (unsigned long long)seed, cuts,
                       directories);
        check_same_text(found, expected, what);
        free(found);
        lz_union_free(self);
        free_mix(&mix);
    }
}

static void shows_what_overlayfs_shows(void)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct layers layers;
        state = seed;
        make_layers(&layers, 2 + below(5));
        mount_layers(&layers, false);
        char *expected = dump_kernel(layers.merged);
        check_mixes(&layers, expected, -1, -1, seed);
        free(expected);
        CHECK_EQ(umount2(layers.merged, 0), 0);
        free_layers(&layers);
    }
}

/* ---- with an upper that the kernel wrote ---- */

static void random_path(const char *root, char out[300])
{
    int size = snprintf(out, 300, "%s", root);
    for (uint32_t depth = 1 + below(DEPTH); depth > 0; depth--)
        size += snprintf(out + size, 300 - (size_t)size, "/%c", 'a' + (int)below(NAMES));
}

/* Most fail; what matters is that the rest makes whiteouts, opaque directories, redirects and metacopies of all kinds. */
static void change_at_random(const char *root)
{
    char path[300], other[300], command[320];
    random_path(root, path);
    random_path(root, other);
    int fd, rc = 0;
    switch (below(8)) {
    case 0:
        rc = mkdir(path, 0700);
        break;
    case 1:
        rc = unlink(path);
        break;
    case 2:
        rc = rmdir(path);
        break;
    case 3:
    case 4:
        rc = rename(path, other);
        break;
    case 5:
        rc = chmod(path, 0600 + below(64));
        break;
    case 6:
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd >= 0) {
            CHECK_EQ(write(fd, "more", 4), 4);
            CHECK_EQ(close(fd), 0);
        }
        break;
    default:
        (void)snprintf(command, sizeof command, "rm -rf %s", path);
        rc = system(command);
        break;
    }
    (void)rc;
}

static void reads_an_upper_that_overlayfs_wrote(void)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct layers layers;
        state = seed * 1000;
        make_layers(&layers, 2 + below(3));
        make_directory(&scratch, "upper");
        make_directory(&scratch, "work");
        mount_layers(&layers, true);
        for (uint32_t i = 0; i < 60; i++)
            change_at_random(layers.merged);
        CHECK_EQ(umount2(layers.merged, 0), 0);
        mount_layers(&layers, true); /* so that nothing is shown that is only in memory */
        char *expected = dump_kernel(layers.merged);
        CHECK_EQ(umount2(layers.merged, 0), 0);
        int upper = openat(scratch.fd, "upper", O_PATH | O_DIRECTORY | O_CLOEXEC);
        int work = openat(scratch.fd, "work", O_PATH | O_DIRECTORY | O_CLOEXEC);
        CHECK(upper >= 0 && work >= 0);
        check_mixes(&layers, expected, upper, work, seed);
        /* the upper as the topmost lower is the same tree */
        struct mix mix;
        make_mix(&layers, below(256), below(256), &mix);
        memmove(mix.branches + 1, mix.branches, mix.count * sizeof *mix.branches);
        mix.branches[0] = directory_branch(upper, true);
        struct lz_union *self = open_union(mix.branches, mix.count + 1, -1, -1);
        char *found = dump_union(self);
        check_same_text(found, expected, "an upper as a lower");
        free(found);
        lz_union_free(self);
        free_mix(&mix);
        free(expected);
        CHECK_EQ(close(upper), 0);
        CHECK_EQ(close(work), 0);
        free_layers(&layers);
    }
}

static void unmount(void)
{
    char merged[128];
    (void)snprintf(merged, sizeof merged, "%s/merged", scratch.path);
    (void)umount2(merged, MNT_DETACH);
}

int main(void)
{
    if (geteuid() != 0) {
        fprintf(stderr, "  skipped: mounting overlayfs needs root\n");
        return 0;
    }
    CHECK_EQ(unshare(CLONE_NEWNS), 0);
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    scratch = scratch_new();
    CHECK_EQ(atexit(unmount), 0);
    make_directory(&scratch, "objects");
    objects = openat(scratch.fd, "objects", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    RUN(shows_what_overlayfs_shows);
    RUN(reads_an_upper_that_overlayfs_wrote);
    CHECK_EQ(close(objects), 0);
    scratch_free(&scratch);
    return check_end();
}
