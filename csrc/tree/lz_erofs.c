#include "lz_erofs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lz_erofs_content.h"
#include "lz_erofs_layout.h"

#define OUT_SIZE (1u << 20)

/* One image being written, front to back. */
struct writer {
    const struct lz_sys *sys;
    const struct lz_index *index;
    struct lz_erofs_plan plan;
    struct lz_erofs_content content;
    int fd;
    uint64_t written;  /* bytes that are in the file; what follows them is in `out` */
    struct lz_buf out; /* at least block 0, until it is flushed for the first time */
    uint8_t block[LZ_EROFS_BLOCK];
    struct lz_detail *detail;
};

static uint32_t crc32c(const uint8_t *bytes, size_t size)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82F63B78u & (0u - (crc & 1u)));
    }
    return crc; /* as the kernel's crc32c(): not inverted at the end */
}

/* Block 0 is complete: its checksum goes into the superblock. */
static void seal_super(struct writer *writer)
{
    uint8_t *super = writer->out.data + LZ_EROFS_SUPER_OFFSET;
    uint32_t checksum = crc32c(super, LZ_EROFS_BLOCK - LZ_EROFS_SUPER_OFFSET);
    memcpy(super + offsetof(struct lz_erofs_super, checksum), &checksum, sizeof checksum);
}

static int flush(struct writer *writer)
{
    if (writer->written == 0)
        seal_super(writer);
    int rc = lz_pwrite_all(writer->sys, writer->fd, writer->out.data, writer->out.size, (off_t)writer->written);
    if (rc != 0)
        return lz_fail(writer->detail, rc, "EROFS image: %s", lz_error_text(rc));
    writer->written += writer->out.size;
    writer->out.size = 0;
    return 0;
}

static int put(struct writer *writer, const void *bytes, size_t size)
{
    int rc = lz_buf_append(&writer->out, bytes, size);
    return rc != 0 || writer->out.size < OUT_SIZE ? rc : flush(writer);
}

/* Zeros up to an address of the image: the next inode, or the end of a block. */
static int pad_to(struct writer *writer, uint64_t address)
{
    return lz_buf_append_zeros(&writer->out, (size_t)(address - (writer->written + writer->out.size)));
}

static int put_super(struct writer *writer)
{
    const struct lz_index_header *header = writer->index->header;
    struct lz_erofs_super super = {
        .magic = LZ_EROFS_MAGIC,
        .feature_compat = LZ_EROFS_COMPAT_CHECKSUM,
        .block_bits = LZ_EROFS_BLOCK_BITS,
        .root_nid = (uint16_t)(writer->plan.places[0].address / LZ_EROFS_SLOT),
        .inode_count = writer->plan.inode_count,
        .block_count = writer->plan.block_count,
        .feature_incompat = LZ_EROFS_INCOMPAT_CHUNKED,
    };
    /* overlayfs wants a UUID in every lower; one that follows from the index keeps the image a function of it. */
    memcpy(super.uuid, &header->table_checksum, 8);
    memcpy(super.uuid + 8, &header->header_checksum, 8);
    super.uuid[6] = (uint8_t)((super.uuid[6] & 0x0F) | 0x80); /* RFC 9562, version 8: custom */
    super.uuid[8] = (uint8_t)((super.uuid[8] & 0x3F) | 0x80);
    int rc = pad_to(writer, LZ_EROFS_SUPER_OFFSET);
    return rc != 0 ? rc : put(writer, &super, sizeof super);
}

static uint32_t where_of(const struct lz_entry *entry, const struct lz_erofs_place *place)
{
    if (entry->kind == LZ_KIND_CHAR || entry->kind == LZ_KIND_BLOCK) /* the kernel's new_encode_dev() */
        return (entry->minor & 0xFFu) | entry->major << 8 | (entry->minor & ~0xFFu) << 12;
    if (place->layout == LZ_EROFS_CHUNK_BASED)
        return lz_erofs_chunk_bits(place->size);
    return place->block;
}

static int put_inode(struct writer *writer, uint32_t number)
{
    const struct lz_entry *entry = &writer->index->entries[number];
    const struct lz_erofs_place *place = &writer->plan.places[number];
    uint32_t xattrs = place->xattr_size;
    struct lz_erofs_inode inode = {
        .format = (uint16_t)(1u | (uint32_t)place->layout << 1),
        .xattr_count = (uint16_t)(xattrs == 0 ? 0 : (xattrs - sizeof(struct lz_erofs_xattr_header)) / 4 + 1),
        .mode = entry->mode,
        .size = place->size,
        .where = where_of(entry, place),
        .number = number + 1,
        .uid = entry->uid,
        .gid = entry->gid,
        .mtime = entry->mtime,
        .mtime_nsec = entry->mtime_nsec,
        .link_count = entry->link_count != 0 ? entry->link_count : 1,
    };
    int rc = pad_to(writer, place->address);
    if (rc == 0)
        rc = put(writer, &inode, sizeof inode);
    if (rc == 0)
        rc = lz_erofs_xattrs(writer->index, number, &writer->out, &xattrs, writer->detail);
    return rc;
}

static uint8_t file_type(const struct lz_entry *entry)
{
    static const uint8_t types[] = {
        [LZ_KIND_DIRECTORY] = 2, [LZ_KIND_FILE] = 1, [LZ_KIND_SYMLINK] = 7, [LZ_KIND_CHAR] = 3,
        [LZ_KIND_BLOCK] = 4,     [LZ_KIND_FIFO] = 5, [LZ_KIND_SOCKET] = 6};
    return types[entry->kind];
}

/* Renders `count` names from `position` on into writer->block: dirents first, names behind them. */
static void render_names(struct writer *writer, const struct lz_erofs_directory *directory, uint64_t position,
                         uint64_t count)
{
    memset(writer->block, 0, sizeof writer->block);
    uint8_t *dirent_at = writer->block, *name_at = writer->block + count * sizeof(struct lz_erofs_dirent);
    for (uint64_t i = 0; i < count; i++) {
        struct lz_erofs_name name = lz_erofs_directory_at(directory, position + i);
        const struct lz_entry *entry = &writer->index->entries[name.entry];
        struct lz_erofs_dirent dirent = {
            .nid = writer->plan.places[entry->link].address / LZ_EROFS_SLOT,
            .name_offset = (uint16_t)(name_at - writer->block),
            .file_type = file_type(entry),
        };
        memcpy(dirent_at, &dirent, sizeof dirent);
        memcpy(name_at, name.name, name.size);
        dirent_at += sizeof dirent;
        name_at += name.size;
    }
}

/* Either the whole blocks of a directory, or its tail. */
static int put_directory(struct writer *writer, uint32_t number, bool tail)
{
    const struct lz_erofs_place *place = &writer->plan.places[number];
    uint64_t blocks = lz_erofs_blocks_of(place);
    struct lz_erofs_directory directory;
    lz_erofs_directory_open(writer->index, number, &directory);
    uint32_t used = 0;
    uint64_t count = 0, block = 0;
    for (uint64_t position = 0; position < directory.count; position += count, block++) {
        count = lz_erofs_directory_fill(&directory, position, &used);
        if ((block >= blocks) != tail)
            continue;
        render_names(writer, &directory, position, count);
        int rc = put(writer, writer->block, tail ? used : LZ_EROFS_BLOCK);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The bytes of a small file or a symlink. */
static int find_bytes(struct writer *writer, uint32_t number, const uint8_t **bytes)
{
    if (writer->index->entries[number].kind == LZ_KIND_SYMLINK) {
        *bytes = (const uint8_t *)lz_index_target(writer->index, number);
        return 0;
    }
    int rc = lz_erofs_content_read(&writer->content, number, writer->detail);
    *bytes = writer->content.file.data;
    return rc;
}

static int put_data(struct writer *writer, uint32_t number, bool tail)
{
    const struct lz_erofs_place *place = &writer->plan.places[number];
    if (writer->index->entries[number].kind == LZ_KIND_DIRECTORY)
        return put_directory(writer, number, tail);
    const uint8_t *bytes = NULL;
    int rc = find_bytes(writer, number, &bytes);
    if (rc != 0)
        return rc;
    uint64_t tail_size = lz_erofs_tail_of(place), body = place->size - tail_size;
    if (tail)
        return put(writer, bytes + body, tail_size);
    rc = put(writer, bytes, body);
    uint64_t end = (place->block + lz_erofs_blocks_of(place)) * LZ_EROFS_BLOCK;
    return rc != 0 ? rc : pad_to(writer, end);
}

static int put_chunk_map(struct writer *writer, const struct lz_erofs_place *place)
{
    static const uint32_t hole = LZ_EROFS_HOLE;
    int rc = 0;
    for (uint64_t i = lz_erofs_chunk_count(place->size); i > 0 && rc == 0; i--)
        rc = put(writer, &hole, sizeof hole);
    return rc;
}

static int put_inodes(struct writer *writer)
{
    for (uint32_t i = 0; i < writer->index->entry_count; i++) {
        const struct lz_erofs_place *place = &writer->plan.places[i];
        if (place->address == 0)
            continue;
        int rc = put_inode(writer, i);
        if (rc == 0 && place->layout == LZ_EROFS_CHUNK_BASED)
            rc = put_chunk_map(writer, place);
        else if (rc == 0 && lz_erofs_tail_of(place) > 0)
            rc = put_data(writer, i, true);
        if (rc != 0)
            return rc;
    }
    return pad_to(writer, writer->plan.meta_size);
}

static int put_blocks(struct writer *writer)
{
    for (uint32_t i = 0; i < writer->index->entry_count; i++) {
        const struct lz_erofs_place *place = &writer->plan.places[i];
        if (place->address == 0 || lz_erofs_blocks_of(place) == 0)
            continue;
        int rc = put_data(writer, i, false);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int write_image(struct writer *writer)
{
    int rc = put_super(writer);
    if (rc == 0)
        rc = put_inodes(writer);
    if (rc == 0)
        rc = put_blocks(writer);
    return rc != 0 || writer->out.size == 0 ? rc : flush(writer);
}

int lz_erofs_write(const struct lz_sys *sys, const struct lz_index *merged, const int *layer_fds, int out_fd,
                   uint64_t *size, struct lz_detail *detail)
{
    struct writer *writer = lz_zalloc_array(1, sizeof *writer);
    if (writer == NULL)
        return -ENOMEM;
    *writer = (struct writer){.sys = sys, .index = merged, .fd = out_fd, .detail = detail};
    int rc = lz_erofs_plan_make(merged, &writer->plan, detail);
    if (rc == 0)
        rc = lz_erofs_content_open(&writer->content, sys, merged, layer_fds);
    if (rc == 0)
        rc = lz_buf_reserve(&writer->out, OUT_SIZE + LZ_EROFS_BLOCK * 2);
    if (rc == 0)
        rc = write_image(writer);
    if (rc == 0 && size != NULL)
        *size = writer->written;
    lz_erofs_content_close(&writer->content);
    lz_erofs_plan_free(&writer->plan);
    lz_buf_free(&writer->out);
    free(writer);
    return rc;
}
