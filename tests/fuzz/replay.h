/* replay.h - runs a fuzz target over the files of the directories named on the command line, without a fuzzer. */
#ifndef REPLAY_H
#define REPLAY_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#ifdef LZ_REPLAY
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

static void replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    size_t capacity = 1 << 20, size = 0;
    uint8_t *bytes = malloc(capacity);
    while (bytes != NULL) {
        size += fread(bytes + size, 1, capacity - size, file);
        if (size < capacity)
            break;
        capacity *= 2;
        uint8_t *more = realloc(bytes, capacity);
        if (more == NULL)
            free(bytes);
        bytes = more;
    }
    (void)fclose(file);
    if (bytes == NULL)
        exit(1);
    (void)LLVMFuzzerTestOneInput(bytes, size);
    free(bytes);
}

int main(int count, char **paths)
{
    int files = 0;
    for (int i = 1; i < count; i++) {
        DIR *directory = opendir(paths[i]);
        if (directory == NULL) {
            perror(paths[i]);
            return 1;
        }
        for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
            if (entry->d_name[0] == '.')
                continue;
            char path[PATH_MAX];
            (void)snprintf(path, sizeof path, "%s/%s", paths[i], entry->d_name);
            replay_file(path);
            files++;
        }
        (void)closedir(directory);
    }
    fprintf(stderr, "  %d files\n", files);
    return files > 0 ? 0 : 1;
}
#endif

#endif
