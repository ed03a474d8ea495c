/*
 * Asynchronous requests: as many in flight as asked for, each reply followed by the next request.
 *
 * Request n + in_flight leaves when the reply to n has come, so that each place in flight is a
 * chain of its own and needs no lock where a library calls back in its own thread. Each reply must
 * be the one to the request that is open in its place, byte for byte.
 */
#include <stdlib.h>
#include <string.h>

#include "load.h"
#include "process.h"
#include "wire.h"

/* One request in flight. */
struct place {
    uint64_t number;
    uint8_t *payload; /* borrow, of the run's */
};

struct run {
    const struct midge_load_options *options; /* borrow */
    struct midge_library *library;            /* own */
    struct place *places;                     /* own; in_flight */
    uint8_t *payloads;                        /* own */
    struct midge_progress progress;
    struct midge_load_cpu before;
    struct midge_load_cpu after;
    uint64_t elapsed_ns;
};

static void fail(struct run *run)
{
    atomic_store_explicit(&run->progress.is_failed, true, memory_order_relaxed);
}

static enum midge_status begin(struct run *run, uint64_t number)
{
    struct place *place = &run->places[number % run->options->library.in_flight];

    place->number = number;
    midge_wire_put_number(place->payload, MIDGE_WIRE_NUMBER_LEN, number);
    return midge_library_begin_request(run->library, number,
                                       midge_slice_make(place->payload, run->options->size));
}

static void take_reply(void *context, uint64_t number, struct midge_slice payload)
{
    struct run *run = context;
    const struct place *place = &run->places[number % run->options->library.in_flight];
    const uint64_t next = number + run->options->library.in_flight;

    if (place->number != number ||
        !midge_slice_equal(payload, midge_slice_make(place->payload, run->options->size))) {
        (void)midge_load_complain_of(MIDGE_E_PARSE, "wrong reply", number);
        fail(run);
        return;
    }
    /* Relaxed, as the target changes only while nothing is in flight. */
    if (next < atomic_load_explicit(&run->progress.target, memory_order_relaxed) &&
        begin(run, next) != MIDGE_OK)
        fail(run);
    /* One writer. Relaxed: whoever waits for the count learns of its end in another way. */
    atomic_store_explicit(&run->progress.count,
                          atomic_load_explicit(&run->progress.count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

/* Requests up to number `until`, and their replies. */
static enum midge_status run_until(struct run *run, uint64_t until)
{
    const uint64_t from = atomic_load_explicit(&run->progress.count, memory_order_relaxed);
    const uint32_t in_flight = run->options->library.in_flight;
    const uint64_t first_end = from + in_flight < until ? from + in_flight : until;
    enum midge_status status = MIDGE_OK;

    if (from == until)
        return MIDGE_OK;
    atomic_store_explicit(&run->progress.target, until, memory_order_relaxed);
    for (uint64_t number = from; number < first_end && status == MIDGE_OK; number++)
        status = begin(run, number);
    return status == MIDGE_OK ? midge_library_wait(run->library) : status;
}

static enum midge_status measure(struct run *run)
{
    const struct midge_load_options *options = run->options;
    enum midge_status status = midge_library_prepare(run->library, &run->progress, run, take_reply);

    if (status == MIDGE_OK)
        status = run_until(run, options->warmup);
    if (status == MIDGE_OK)
        status = midge_load_cpu(options, &run->before);
    const uint64_t begin_ns = midge_process_now_ns();

    if (status == MIDGE_OK)
        status = run_until(run, (uint64_t)options->warmup + options->count);
    run->elapsed_ns = midge_process_now_ns() - begin_ns;
    if (status == MIDGE_OK)
        status = midge_load_cpu(options, &run->after);
    return status == MIDGE_OK ? midge_load_check_end(run->library) : status;
}

static enum midge_status prepare(struct run *run)
{
    const struct midge_load_options *options = run->options;
    const uint32_t in_flight = options->library.in_flight;

    run->places = (struct place *)calloc(in_flight, sizeof *run->places);
    run->payloads = (uint8_t *)malloc((size_t)in_flight * options->size);
    if (run->places == NULL || run->payloads == NULL)
        return midge_load_complain(MIDGE_E_MEMORY, "req", "no memory");
    midge_wire_put_filler(run->payloads, in_flight * options->size);
    for (uint32_t i = 0; i < in_flight; i++)
        run->places[i].payload = run->payloads + (size_t)i * options->size;
    return midge_library_open(&options->library, &run->library);
}

enum midge_status midge_load_req(const struct midge_load_options *options)
{
    struct run run = {.options = options};
    pid_t pid = 0;
    enum midge_status status = midge_load_start_responder(options, &pid);

    if (status == MIDGE_OK)
        status = prepare(&run);
    if (status == MIDGE_OK)
        status = measure(&run);
    midge_library_close(run.library);
    if (pid != 0 && !midge_process_end(pid) && status == MIDGE_OK)
        status = midge_load_complain(MIDGE_E_PARSE, "req", "the responder failed");
    if (status == MIDGE_OK) {
        midge_load_report_begin(options, "req");
        midge_load_report_put(options, "in_flight", options->library.in_flight);
        midge_load_report_put(options, "elapsed_ns", run.elapsed_ns);
        midge_load_report_cpu(options, &run.before, &run.after);
        midge_load_report_end(options);
    }
    free(run.places);
    free(run.payloads);
    return status;
}
