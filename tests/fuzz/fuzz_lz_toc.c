/* Any bytes as a table of contents, and each of their lines as one of tar-split: nothing but what lz_toc.h promises. */
#include <stdlib.h>
#include <string.h>

#include "bytes/lz_toc.h"
#include "replay.h"

static void check_table(const struct lz_toc *toc, uint64_t end)
{
    uint64_t at = 0;
    size_t next = 0;
    for (size_t i = 0; i < toc->file_count; i++) {
        const struct lz_toc_file *file = &toc->files[i];
        uint64_t size = 0;
        if (file->first_chunk != next)
            abort();
        for (size_t n = 0; n < file->chunk_count; n++) {
            const struct lz_toc_chunk *chunk = &toc->chunks[next++];
            if (chunk->offset < at || chunk->end <= chunk->offset || chunk->end > end || chunk->size == 0)
                abort();
            at = chunk->end;
            size += chunk->size;
        }
        if (size != file->size)
            abort();
    }
    if (next != toc->chunk_count)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *text = (const char *)bytes;
    struct lz_toc toc;
    struct lz_detail detail;
    int rc = lz_toc_parse(text, size, 1000, &toc, &detail);
    if (rc == 0)
        check_table(&toc, 1000);
    else if (detail.text[0] == 0)
        abort();
    lz_toc_free(&toc);
    for (size_t at = 0; at < size;) {
        const char *newline = memchr(text + at, '\n', size - at);
        size_t length = newline != NULL ? (size_t)(newline - text) - at : size - at;
        struct lz_tar_split_line line;
        struct lz_buf out = {0};
        if (lz_tar_split_parse(text + at, length, &line) == 0 && lz_json_base64(&line.payload, &out) == 0 &&
            out.size > line.payload.size)
            abort();
        lz_buf_free(&out);
        at += length + 1;
    }
    return 0;
}
