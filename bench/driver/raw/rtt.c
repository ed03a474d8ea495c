/*
 * Round trips of one request in flight.
 *
 * Requester and responder are two processes with a blocking socket each; request.h says what they
 * send. By default every request has a reply subject of its own under one wildcard subscription, as
 * client libraries do; `--inbox fixed` keeps it the same.
 *
 * Latency is the time from before send() until the whole reply has been read. Each reply is
 * compared byte for byte; the first one that is wrong, lost or doubled ends the run as failed.
 *
 * Through a relay the far end forwards PUB unchanged where a broker sends MSG.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"
#include "raw.h"
#include "request.h"
#include "samples.h"
#include "wire.h"

#define STRAGGLER_MS 20 /* a doubled reply through a relay follows at once */

struct requester {
    struct midge_wire wire;
    struct midge_request request;
    bool is_inbox_fixed;
};

struct report {
    uint64_t elapsed_ns;
    uint64_t server_cpu_ns;
    struct midge_samples samples;
};

static enum midge_status exchange(struct requester *requester, uint64_t number, uint64_t *ns_out)
{
    struct midge_wire_frame frame;

    midge_request_set_number(&requester->request, number, requester->is_inbox_fixed);

    const uint64_t begin_ns = midge_process_now_ns();
    enum midge_status status =
        midge_wire_send(&requester->wire, requester->request.frame, requester->request.frame_len);

    if (status != MIDGE_OK)
        return midge_request_complain(status, strerror(errno), number);
    status = midge_wire_read(&requester->wire, &frame);
    *ns_out = midge_process_now_ns() - begin_ns;
    if (status == MIDGE_AGAIN)
        return midge_request_complain(status, "reply lost: nothing within the timeout", number);
    if (status == MIDGE_E_EOF)
        return midge_request_complain(status, "reply lost: connection closed", number);
    return status == MIDGE_OK ? midge_request_check(&requester->request, &frame, number) : status;
}

/* Nothing may follow the last reply. */
static enum midge_status check_end(struct requester *requester, bool is_relay, uint64_t number)
{
    if (is_relay)
        return midge_wire_has_more(&requester->wire, STRAGGLER_MS)
                   ? midge_request_complain(MIDGE_E_PARSE, "bytes after the last reply", number)
                   : MIDGE_OK;
    const enum midge_status status = midge_wire_fence(&requester->wire);

    return status == MIDGE_OK
               ? status
               : midge_request_complain(status, "no PONG after the last reply", number);
}

static enum midge_status measure(struct requester *requester,
                                 const struct midge_raw_options *options, struct report *report)
{
    const uint64_t total = (uint64_t)options->warmup + options->count;
    uint64_t cpu_begin_ns = 0;
    uint64_t cpu_end_ns = 0;
    uint64_t begin_ns = 0;
    uint64_t ns = 0;
    enum midge_status status = MIDGE_OK;

    for (uint64_t number = 0; number < total; number++) {
        if (number == options->warmup) {
            status = midge_process_cpu_ns(options->server_pid, &cpu_begin_ns);
            if (status != MIDGE_OK)
                return midge_request_complain(status, strerror(errno), number);
            begin_ns = midge_process_now_ns();
        }
        status = exchange(requester, number, &ns);
        if (status != MIDGE_OK)
            return status;
        if (number >= options->warmup)
            midge_samples_add(&report->samples, ns);
    }
    report->elapsed_ns = midge_process_now_ns() - begin_ns;
    status = midge_process_cpu_ns(options->server_pid, &cpu_end_ns);
    if (status != MIDGE_OK)
        return midge_request_complain(status, strerror(errno), total);
    report->server_cpu_ns = cpu_end_ns - cpu_begin_ns;
    return check_end(requester, options->is_relay, total);
}

static void print_json(const struct midge_raw_options *options, struct report *report)
{
    printf("{\"mode\":\"rtt\",\"count\":%u,\"warmup\":%u,\"size\":%u,\"errors\":0", options->count,
           options->warmup, options->size);
    for (uint32_t i = 0; i < MIDGE_SAMPLES_REPORTED; i++) {
        const struct midge_samples_reported *reported = &midge_samples_reported[i];
        uint64_t ns = 0;

        if (midge_samples_percentile(&report->samples, reported->share, &ns))
            printf(",\"%s\":%llu", reported->key, (unsigned long long)ns);
        else
            printf(",\"%s\":null", reported->key);
    }
    printf(",\"max_ns\":%llu,\"elapsed_ns\":%llu",
           (unsigned long long)midge_samples_max(&report->samples),
           (unsigned long long)report->elapsed_ns);
    if (options->server_pid != 0)
        printf(",\"server_cpu_ns\":%llu}\n", (unsigned long long)report->server_cpu_ns);
    else
        printf(",\"server_cpu_ns\":null}\n");
}

static void print_text(const struct midge_raw_options *options, struct report *report)
{
    printf("%u requests of %u bytes, 0 errors, %.3f s\n", options->count, options->size,
           (double)report->elapsed_ns / 1e9);
    for (uint32_t i = 0; i < MIDGE_SAMPLES_REPORTED; i++) {
        const struct midge_samples_reported *reported = &midge_samples_reported[i];
        uint64_t ns = 0;

        if (midge_samples_percentile(&report->samples, reported->share, &ns))
            printf("%-6s %10.2f us\n", reported->text, (double)ns / 1e3);
        else
            printf("%-6s    unknown (fewer than %u samples beyond it)\n", reported->text,
                   MIDGE_SAMPLES_BEYOND_MIN);
    }
    printf("max    %10.2f us\n", (double)midge_samples_max(&report->samples) / 1e3);
    if (options->server_pid != 0)
        printf("server %10.2f us of CPU time a request\n",
               (double)report->server_cpu_ns / options->count / 1e3);
}

/* Both connections open before the fork, requester first, so that a relay can tell them apart. */
static enum midge_status open_both(struct requester *requester, struct midge_wire *responder,
                                   const struct midge_raw_options *options)
{
    enum midge_status status = midge_wire_open(&requester->wire, &options->endpoint,
                                               options->is_relay, 0, options->timeout_ms);

    if (status != MIDGE_OK)
        return status;
    status =
        midge_wire_open(responder, &options->endpoint, options->is_relay, 0, options->timeout_ms);
    if (status != MIDGE_OK || options->is_relay)
        return status;
    status = midge_request_subscribe(&requester->wire, 0);
    return status == MIDGE_OK ? midge_wire_subscribe(responder, "svc") : status;
}

static enum midge_status run(struct requester *requester, struct midge_wire *responder,
                             const struct midge_raw_options *options, struct report *report)
{
    pid_t pid = 0;
    enum midge_status status = open_both(requester, responder, options);

    if (status == MIDGE_OK)
        status = midge_request_init(&requester->request, 0, options->size);
    if (status == MIDGE_OK)
        status = midge_samples_init(&report->samples, options->count);
    if (status == MIDGE_OK)
        status = midge_process_fork(&pid);
    if (status != MIDGE_OK)
        return status;
    if (pid == 0) {
        midge_wire_close(&requester->wire);
        status = midge_request_respond(responder);
        _exit(status == MIDGE_E_EOF ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    midge_wire_close(responder);
    status = measure(requester, options, report);
    if (!midge_process_end(pid) && status == MIDGE_OK)
        status = midge_request_complain(MIDGE_E_PARSE, "responder failed", options->count);
    return status;
}

enum midge_status midge_rtt_run(const struct midge_raw_options *options)
{
    struct requester requester = {.wire = {.fd = -1}, .is_inbox_fixed = options->is_inbox_fixed};
    struct midge_wire responder = {.fd = -1};
    struct report report = {.elapsed_ns = 0};
    const enum midge_status status = run(&requester, &responder, options, &report);

    if (status == MIDGE_OK && options->is_json)
        print_json(options, &report);
    else if (status == MIDGE_OK)
        print_text(options, &report);
    midge_samples_deinit(&report.samples);
    midge_request_deinit(&requester.request);
    midge_wire_close(&responder);
    midge_wire_close(&requester.wire);
    return status;
}
