/*
 * Blocking requests, one after the other.
 *
 * Latency is CLOCK_MONOTONIC from before the call until it has returned with the reply. Each
 * payload carries its number, so that a reply to another request is found.
 *
 * What a library adds is a small difference of two large times, and a virtual machine changes its
 * speed within a second by more than that. So both are measured in the same run: requests through
 * the library take turns with requests over a raw socket, on a connection of its own.
 */
#include <stdlib.h>
#include <string.h>

#include "base.h"
#include "load.h"
#include "process.h"
#include "samples.h"

struct run;

/* Requests of one sort before the other has its turn: enough to be warm, and short against the
 * time in which a virtual machine changes its speed. */
#define BLOCK 100u

/* One sort of requests: through the library, or over a socket. */
struct side {
    enum midge_status (*request_cb)(struct run *run, struct midge_slice payload,
                                    struct midge_slice *reply_out);
    struct midge_samples samples;
    struct midge_load_cpu cpu; /* used by it so far */
};

struct run {
    const struct midge_load_options *options; /* borrow */
    struct midge_library *library;            /* own */
    struct midge_base base;                   /* own */
    uint8_t *payload;                         /* own */
    uint64_t number;                          /* of the next request */
    struct side through_library;
    struct side over_socket;
};

static enum midge_status request_library(struct run *run, struct midge_slice payload,
                                         struct midge_slice *reply_out)
{
    return midge_library_request(run->library, payload, reply_out);
}

static enum midge_status request_socket(struct run *run, struct midge_slice payload,
                                        struct midge_slice *reply_out)
{
    return midge_base_request(&run->base, payload, reply_out);
}

static enum midge_status exchange(struct run *run, const struct side *side, uint64_t *ns_out)
{
    const struct midge_slice payload = midge_slice_make(run->payload, run->options->size);
    const uint64_t number = run->number++;
    struct midge_slice reply;

    midge_wire_put_number(run->payload, MIDGE_WIRE_NUMBER_LEN, number);

    const uint64_t begin_ns = midge_process_now_ns();
    const enum midge_status status = side->request_cb(run, payload, &reply);

    *ns_out = midge_process_now_ns() - begin_ns;
    if (status != MIDGE_OK)
        return midge_load_complain_of(status, "no reply", number);
    if (!midge_slice_equal(payload, reply))
        return midge_load_complain_of(MIDGE_E_PARSE, "wrong reply", number);
    return MIDGE_OK;
}

static enum midge_status run_block(struct run *run, struct side *side, uint32_t count,
                                   bool is_measured)
{
    struct midge_load_cpu before;
    struct midge_load_cpu after;
    uint64_t ns = 0;
    enum midge_status status = midge_load_cpu(run->options, &before);

    for (uint32_t i = 0; i < count && status == MIDGE_OK; i++) {
        status = exchange(run, side, &ns);
        if (is_measured && status == MIDGE_OK)
            midge_samples_add(&side->samples, ns);
    }
    if (status == MIDGE_OK)
        status = midge_load_cpu(run->options, &after);
    if (is_measured && status == MIDGE_OK) {
        side->cpu.client_ns += after.client_ns - before.client_ns;
        side->cpu.server_ns += after.server_ns - before.server_ns;
    }
    return status;
}

/* As many requests through the library, and, where asked for, over the socket in turn. */
static enum midge_status run_blocks(struct run *run, uint32_t count, bool is_measured)
{
    enum midge_status status = MIDGE_OK;

    for (uint32_t left = count; left > 0 && status == MIDGE_OK;) {
        const uint32_t now = left < BLOCK ? left : BLOCK;

        if (run->options->is_alternating)
            status = run_block(run, &run->over_socket, now, is_measured);
        if (status == MIDGE_OK)
            status = run_block(run, &run->through_library, now, is_measured);
        left -= now;
    }
    return status;
}

static enum midge_status measure(struct run *run)
{
    enum midge_status status = run_blocks(run, run->options->warmup, false);

    if (status == MIDGE_OK)
        status = run_blocks(run, run->options->count, true);
    if (status == MIDGE_OK && run->options->is_alternating)
        status = midge_wire_fence(&run->base.wire);
    return status == MIDGE_OK ? midge_load_check_end(run->library) : status;
}

static void print(struct run *run)
{
    static const struct midge_load_cpu zero = {.client_ns = 0};
    const struct midge_load_options *options = run->options;
    struct side *side = &run->through_library;
    uint64_t ns = 0;

    midge_load_report_begin(options, "rtt");
    for (uint32_t i = 0; i < MIDGE_SAMPLES_REPORTED; i++) {
        const bool is_known =
            midge_samples_percentile(&side->samples, midge_samples_reported[i].share, &ns);

        midge_load_report_put_or_null(options, midge_samples_reported[i].key, is_known, ns);
    }
    midge_load_report_put(options, "max_ns", midge_samples_max(&side->samples));
    midge_load_report_cpu(options, &zero, &side->cpu);
    if (options->is_alternating) {
        side = &run->over_socket;
        const bool is_known =
            midge_samples_percentile(&side->samples, MIDGE_SAMPLES_SHARE_P50, &ns);

        midge_load_report_put_or_null(options, "socket_p50_ns", is_known, ns);
        midge_load_report_put(options, "socket_client_cpu_ns", side->cpu.client_ns);
    }
    midge_load_report_end(options);
}

static enum midge_status prepare(struct run *run)
{
    const struct midge_load_options *options = run->options;
    enum midge_status status = midge_samples_init(&run->through_library.samples, options->count);

    if (status == MIDGE_OK)
        status = midge_samples_init(&run->over_socket.samples, options->count);
    run->payload = (uint8_t *)malloc(options->size);
    if (status != MIDGE_OK || run->payload == NULL)
        return midge_load_complain(MIDGE_E_MEMORY, "rtt", "no memory");
    midge_wire_put_filler(run->payload, options->size);
    if (options->is_alternating) {
        status = midge_base_open(&run->base, &options->endpoint, options->library.timeout_ms);
        if (status == MIDGE_OK)
            status = midge_base_prepare(&run->base, options->size);
    }
    if (status == MIDGE_OK)
        status = midge_library_open(&options->library, &run->library);
    if (status == MIDGE_OK && options->is_responder_own)
        status = midge_library_respond(run->library);
    return status;
}

enum midge_status midge_load_rtt(const struct midge_load_options *options)
{
    struct run run = {
        .options = options,
        .base = {.wire = {.fd = -1}},
        .through_library = {.request_cb = request_library},
        .over_socket = {.request_cb = request_socket},
    };
    enum midge_status status = MIDGE_OK;
    pid_t pid = 0;

    if (!options->is_responder_own)
        status = midge_load_start_responder(options, &pid);
    if (status == MIDGE_OK)
        status = prepare(&run);
    if (status == MIDGE_OK)
        status = measure(&run);
    midge_library_close(run.library);
    midge_base_close(&run.base);
    if (pid != 0 && !midge_process_end(pid) && status == MIDGE_OK)
        status = midge_load_complain(MIDGE_E_PARSE, "rtt", "the responder failed");
    if (status == MIDGE_OK)
        print(&run);
    midge_samples_deinit(&run.through_library.samples);
    midge_samples_deinit(&run.over_socket.samples);
    free(run.payload);
    return status;
}
