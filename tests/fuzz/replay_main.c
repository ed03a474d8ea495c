/*
 * Runs a fuzz target over the files of its corpus, where libFuzzer is not linked in.
 *
 * Arguments that begin with '-' are libFuzzer's and ignored; the others are files or directories.
 * An empty corpus is an error: a replay that ran nothing proves nothing.
 */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    uint8_t *data;
    size_t len;

    if (file == NULL || fstat(fileno(file), &info) != 0) {
        (void)fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    /* Exactly as large as the input, so that a read past its end is seen by AddressSanitizer. */
    data = malloc(info.st_size > 0 ? (size_t)info.st_size : 1);
    if (data == NULL)
        exit(1);
    len = fread(data, 1, (size_t)info.st_size, file);
    (void)fclose(file);
    (void)LLVMFuzzerTestOneInput(data, len);
    free(data);
    return 1;
}

static unsigned long run_path(const char *path)
{
    char child[4096];
    unsigned long count = 0;
    struct stat info;
    struct dirent *entry;
    DIR *dir;

    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return run_file(path);
    dir = opendir(path);
    if (dir == NULL) {
        (void)fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
        count += run_path(child);
    }
    (void)closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    unsigned long count = 0;

    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-')
            count += run_path(argv[i]);
    }
    printf("%lu inputs replayed\n", count);
    return count > 0 ? 0 : 1;
}
