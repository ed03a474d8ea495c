/*
 * midge-bench: latency and throughput of a NATS server, and comparisons of several.
 *
 * Standard output has the tables (or the JSON), standard error what happens meanwhile.
 */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "compare.h"
#include "environment.h"
#include "interrupt.h"
#include "options.h"
#include "output.h"
#include "preflight.h"
#include "report.h"

/* A directory of ours for sockets and outputs of servers. @return false: said why */
static bool make_directory(char *path, size_t cap)
{
    const char *parent = getenv("TMPDIR");

    (void)snprintf(path, cap, "%s/midge-bench-XXXXXX",
                   parent == NULL || parent[0] == '\0' ? "/tmp" : parent);
    if (mkdtemp(path) != NULL)
        return true;
    (void)fprintf(stderr, "midge-bench: %s: %s\n", path, strerror(errno));
    return false;
}

static enum midge_status measure(const struct midge_bench_options *options, json_t **file_out)
{
    char directory[PATH_MAX];
    enum midge_status status = MIDGE_E_SYSTEM;

    if (!make_directory(directory, sizeof directory))
        return MIDGE_E_SYSTEM;
    switch (options->command) {
    case MIDGE_COMMAND_RUN:
        status = midge_compare_once(options, directory, file_out);
        break;
    case MIDGE_COMMAND_CURVE:
        status = midge_compare_curve(options, directory, file_out);
        break;
    case MIDGE_COMMAND_COMPARE:
        status = midge_compare_rounds(options, directory, file_out);
        break;
    case MIDGE_COMMAND_REPORT:
        break;
    }
    midge_output_clean(directory);
    return status;
}

/* This process only waits and reads: away from the CPU that measures, if there is another. */
static void step_aside(const struct midge_bench_options *options)
{
    cpu_set_t others;

    if (options->place != MIDGE_PLACE_ONE || sched_getaffinity(0, sizeof others, &others) != 0)
        return;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &options->server_cpus))
            CPU_CLR(cpu, &others);
    }
    if (CPU_COUNT(&others) > 0)
        (void)sched_setaffinity(0, sizeof others, &others);
}

/* What every file has. */
static void finish(const struct midge_bench_options *options, json_t *environment, json_t *file)
{
    json_object_set_new(file, "midge_bench", json_integer(1));
    json_object_set(file, "environment", environment);
    json_object_set(file, "command_line", json_object_get(environment, "command_line"));
    if (options->title != NULL)
        json_object_set_new(file, "title", json_string(options->title));
}

/* Measure, print and write. @return enum midge_exit */
static int bench(const struct midge_bench_options *options, int argc, char *const *argv)
{
    json_t *environment = NULL;
    json_t *file = NULL;
    bool is_good = false;

    midge_preflight_raise_files();
    if (midge_preflight_check(options) != MIDGE_OK || midge_output_check(options) != MIDGE_OK)
        return MIDGE_EXIT_FAILED;
    midge_interrupt_install();
    environment = midge_environment_describe(argc, argv); /* with all CPUs that are allowed */
    step_aside(options);
    if (measure(options, &file) == MIDGE_OK) {
        finish(options, environment, file);
        is_good = midge_output_is_good(file);
        if (midge_output_stdout_count(options) == 0)
            midge_output_print(file);
        is_good = midge_output_write(options, file) == MIDGE_OK && is_good;
        json_decref(file);
    }
    json_decref(environment);
    if (midge_interrupt_signal() != 0)
        return MIDGE_EXIT_SIGNAL + midge_interrupt_signal();
    return is_good ? MIDGE_EXIT_OK : MIDGE_EXIT_FAILED;
}

int main(int argc, char **argv)
{
    struct midge_bench_options options;
    /* Parsing changes the words and their order; the record has them as they were. */
    char **words = calloc((size_t)argc + 1, sizeof(char *));
    bool is_done = false;
    enum midge_status status = MIDGE_E_MEMORY;
    int result = MIDGE_EXIT_OK;

    if (words == NULL)
        return MIDGE_EXIT_FAILED;
    memcpy(words, argv, (size_t)argc * sizeof(char *));
    status = midge_options_parse(argc, words, &options, &is_done);
    if (status != MIDGE_OK)
        result = MIDGE_EXIT_USAGE;
    else if (!is_done && options.command != MIDGE_COMMAND_REPORT)
        result = bench(&options, argc, argv);
    else if (!is_done && midge_report_convert((const char *const *)options.files,
                                              options.file_count, options.report_path) != MIDGE_OK)
        result = MIDGE_EXIT_FAILED;
    if (midge_output_flush_stdout() != MIDGE_OK && result == MIDGE_EXIT_OK)
        result = MIDGE_EXIT_FAILED;
    free(words);
    return result;
}
