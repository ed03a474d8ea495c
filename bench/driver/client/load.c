/* What the loads through a client library share; see load.h. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"
#include "request.h"

enum midge_status midge_load_complain(enum midge_status status, const char *what, const char *why)
{
    (void)fprintf(stderr, "midge-load: %s: %s\n", what, why);
    return status;
}

enum midge_status midge_load_complain_of(enum midge_status status, const char *what,
                                         uint64_t number)
{
    (void)fprintf(stderr, "midge-load: number %llu: %s\n", (unsigned long long)number, what);
    return status;
}

enum midge_status midge_load_start_responder(const struct midge_load_options *options,
                                             pid_t *pid_out)
{
    struct midge_wire wire;
    enum midge_status status =
        midge_wire_open(&wire, &options->endpoint, false, 0, options->library.timeout_ms);

    if (status == MIDGE_OK)
        status = midge_wire_subscribe(&wire, MIDGE_LIBRARY_REQUESTS);
    if (status == MIDGE_OK)
        status = midge_process_fork(pid_out);
    if (status == MIDGE_OK && *pid_out == 0) {
        status = midge_request_respond(&wire);
        _exit(status == MIDGE_E_EOF ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    midge_wire_close(&wire);
    return status;
}

enum midge_status midge_load_cpu(const struct midge_load_options *options,
                                 struct midge_load_cpu *cpu_out)
{
    enum midge_status status = midge_process_cpu_ns(getpid(), &cpu_out->client_ns);

    if (status == MIDGE_OK)
        status = midge_process_cpu_ns((pid_t)options->server_pid, &cpu_out->server_ns);
    return status == MIDGE_OK ? status : midge_load_complain(status, "CPU time", strerror(errno));
}

enum midge_status midge_load_check_end(struct midge_library *library)
{
    uint64_t lost = 0;
    const enum midge_status status = midge_library_finish(library, &lost);

    if (status == MIDGE_OK && lost > 0)
        return midge_load_complain_of(MIDGE_E_PARSE, "of messages dropped, or for nobody", lost);
    return status;
}

void midge_load_report_begin(const struct midge_load_options *options, const char *mode)
{
    if (options->is_json)
        printf("{\"mode\":\"%s\",\"library\":\"%s\",\"errors\":0", mode, midge_library_name());
    else
        printf("%s through %s, no errors\n", mode, midge_library_name());
    midge_load_report_put(options, "count", options->count);
    midge_load_report_put(options, "warmup", options->warmup);
    midge_load_report_put(options, "size", options->size);
}

void midge_load_report_put_or_null(const struct midge_load_options *options, const char *key,
                                   bool is_known, uint64_t value)
{
    if (options->is_json)
        printf(",\"%s\":", key);
    else
        printf("%-16s ", key);
    if (is_known)
        printf("%llu", (unsigned long long)value);
    else
        (void)fputs("null", stdout);
    if (!options->is_json)
        (void)putchar('\n');
}

void midge_load_report_put(const struct midge_load_options *options, const char *key,
                           uint64_t value)
{
    midge_load_report_put_or_null(options, key, true, value);
}

void midge_load_report_cpu(const struct midge_load_options *options,
                           const struct midge_load_cpu *before, const struct midge_load_cpu *after)
{
    midge_load_report_put(options, "client_cpu_ns", after->client_ns - before->client_ns);
    midge_load_report_put_or_null(options, "server_cpu_ns", options->server_pid != 0,
                                  after->server_ns - before->server_ns);
}

void midge_load_report_end(const struct midge_load_options *options)
{
    if (options->is_json)
        (void)puts("}");
}
