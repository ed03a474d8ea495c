/*
 * report FILE... -o FILE: the report of midge-bench's JSON files, for test_report.py. With --parsed
 * it goes through midge_report_write(), which has no names to complain about.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

/** As midge-bench does after a run: files that are in memory already. */
static enum midge_status write_parsed(const char *const *paths, uint32_t count)
{
    json_t **files = calloc(count, sizeof *files);
    enum midge_status status = MIDGE_E_MEMORY;

    for (uint32_t index = 0; files != NULL && index < count; index++)
        files[index] = json_load_file(paths[index], 0, NULL);
    if (files != NULL)
        status = midge_report_write((const json_t *const *)files, count, stdout);
    for (uint32_t index = 0; files != NULL && index < count; index++)
        json_decref(files[index]);
    free(files);
    return status;
}

int main(int argc, char **argv)
{
    const char *const *paths = (const char *const *)argv + 1;
    const char *out_path = argc > 3 ? argv[argc - 1] : NULL;
    enum midge_status status;

    if (argc > 2 && strcmp(argv[1], "--parsed") == 0) {
        status = write_parsed(paths + 1, (uint32_t)argc - 2);
    } else if (argc > 3 && strcmp(argv[argc - 2], "-o") == 0) {
        status = midge_report_convert(paths, (uint32_t)argc - 3, out_path);
    } else {
        (void)fputs("usage: report FILE... -o FILE | report --parsed FILE...\n", stderr);
        return 2;
    }
    return status == MIDGE_OK ? 0 : 1;
}
