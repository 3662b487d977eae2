/* load_file.h - a whole file in memory. */
#ifndef LOAD_FILE_H
#define LOAD_FILE_H

#include "base/lz_mem.h"
#include "check.h"

static inline struct lz_buf load_file(const char *path)
{
    struct lz_buf bytes = {0};
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        perror(path);
    CHECK(file != NULL);
    for (size_t got = 1; got > 0; bytes.size += got) {
        CHECK_EQ(lz_buf_reserve(&bytes, 65536), 0);
        got = fread(bytes.data + bytes.size, 1, 65536, file);
    }
    CHECK_EQ(ferror(file), 0);
    (void)fclose(file);
    return bytes;
}

#endif
