/*
 * midge-bench: latency and throughput of a NATS server, and comparisons of several.
 *
 * Standard output has the tables (or the JSON), standard error what happens meanwhile.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "compare.h"
#include "environment.h"
#include "options.h"
#include "output.h"
#include "report.h"

/* The whole command line, for the record. @return own; NULL without memory */
static json_t *join(int argc, char *const *argv)
{
    char *text = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&text, &len);
    json_t *json = NULL;

    if (stream == NULL)
        return NULL;
    for (int i = 0; i < argc; i++) {
        const char *quote = strpbrk(argv[i], " \t'\"$*?{}") == NULL ? "" : "'";

        (void)fprintf(stream, "%s%s%s%s", i == 0 ? "" : " ", quote, argv[i], quote);
    }
    if (fclose(stream) == 0)
        json = json_string(text);
    free(text);
    return json;
}

static enum midge_status measure(const struct midge_bench_options *options, json_t **file_out)
{
    char directory[] = "/tmp/midge-bench-XXXXXX";
    enum midge_status status = MIDGE_E_SYSTEM;

    if (mkdtemp(directory) == NULL) {
        (void)fprintf(stderr, "midge-bench: %s: %s\n", directory, strerror(errno));
        return MIDGE_E_SYSTEM;
    }
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

int main(int argc, char **argv)
{
    struct midge_bench_options options;
    json_t *environment = midge_environment_describe(argc, argv);
    json_t *command_line = join(argc, argv);
    json_t *file = NULL;
    bool is_done = false;
    enum midge_status status = midge_options_parse(argc, argv, &options, &is_done);
    int result = MIDGE_EXIT_OK;

    if (status != MIDGE_OK || is_done) {
        result = is_done ? MIDGE_EXIT_OK : MIDGE_EXIT_USAGE;
    } else if (options.command == MIDGE_COMMAND_REPORT) {
        status = midge_report_convert((const char *const *)options.files, options.file_count,
                                      options.report_path);
        result = status == MIDGE_OK ? MIDGE_EXIT_OK : MIDGE_EXIT_FAILED;
    } else {
        step_aside(&options);
        status = measure(&options, &file);
        if (status == MIDGE_OK) {
            json_object_set_new(file, "midge_bench", json_integer(1));
            json_object_set(file, "environment", environment);
            json_object_set(file, "command_line", command_line);
            if (options.title != NULL)
                json_object_set_new(file, "title", json_string(options.title));
            if (midge_output_stdout_count(&options) == 0)
                midge_output_print(file);
            status = midge_output_write(&options, file);
        }
        result =
            status == MIDGE_OK && midge_output_is_good(file) ? MIDGE_EXIT_OK : MIDGE_EXIT_FAILED;
    }
    json_decref(file);
    json_decref(environment);
    json_decref(command_line);
    return result;
}
