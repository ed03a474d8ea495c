/* What all parties of a run share; see party.h. */
#include "party.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"

/* Pause while waiting for others, who take milliseconds. */
#define PAUSE_NS 200000ull

#define NS_PER_S 1000000000ull

static void pause_a_little(void)
{
    midge_process_sleep_ns(PAUSE_NS);
}

void midge_row_add(_Atomic uint64_t *counter, uint64_t count)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + count,
                          memory_order_relaxed);
}

uint64_t midge_row_get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* True for the first caller. The first reason is the cause; what follows from it says less. */
static bool claim(struct midge_board *board)
{
    bool expected = false;

    return atomic_compare_exchange_strong_explicit(&board->is_claimed, &expected, true,
                                                   memory_order_relaxed, memory_order_relaxed);
}

enum midge_status midge_party_fail(struct midge_party *party, enum midge_status status,
                                   const char *format, ...)
{
    va_list arguments;

    if (status == MIDGE_E_CLOSED)
        return status;
    if (claim(party->board)) {
        va_start(arguments, format);
        (void)vsnprintf(party->board->reason, sizeof party->board->reason, format, arguments);
        va_end(arguments);
    }
    /* Release pairs with the acquire in midge_party_is_over() and run.c. */
    atomic_store_explicit(&party->board->is_failed, true, memory_order_release);
    return status;
}

void midge_board_fail(struct midge_board *board, const char *reason)
{
    if (claim(board))
        (void)snprintf(board->reason, sizeof board->reason, "%s", reason);
    atomic_store_explicit(&board->is_failed, true, memory_order_release);
}

bool midge_party_is_over(const struct midge_party *party)
{
    return atomic_load_explicit(&party->board->is_over, memory_order_acquire) ||
           atomic_load_explicit(&party->board->is_failed, memory_order_acquire);
}

enum midge_status midge_party_await_begin(struct midge_party *party)
{
    struct midge_board *board = party->board;

    /* Release pairs with the acquires in run.c and midge_party_live(). */
    (void)atomic_fetch_add_explicit(&board->ready_count, 1, memory_order_release);
    /* Acquire pairs with the release in run.c: the times are there. */
    while (atomic_load_explicit(&board->begin_at_ns, memory_order_acquire) == 0) {
        if (midge_party_is_over(party))
            return MIDGE_E_CLOSED;
        pause_a_little();
    }
    midge_process_sleep_until_ns(atomic_load_explicit(&board->begin_at_ns, memory_order_relaxed));
    return MIDGE_OK;
}

void midge_party_finish(struct midge_party *party)
{
    /* Release pairs with the acquire in run.c: the row is complete. */
    (void)atomic_fetch_add_explicit(&party->board->finished_count, 1, memory_order_release);
    while (!midge_party_is_over(party))
        pause_a_little();
}

void midge_party_close(struct midge_party *party)
{
    party->library->destroy_cb(party->driver);
    party->driver = NULL;
}

bool midge_party_is_measured(const struct midge_party *party, uint64_t intended_ns)
{
    return intended_ns >= party->board->measure_from_ns &&
           intended_ns < party->board->measure_until_ns;
}

void midge_party_stamp(struct midge_party *party, struct midge_stamp stamp)
{
    stamp.number |= midge_stamp_check(stamp.number, stamp.intended_ns);
    memcpy(party->payload, &stamp, sizeof stamp);
}

void midge_party_echo(void *context, const struct midge_driver_msg *msg)
{
    struct midge_party *party = context;
    const enum midge_status status =
        party->library->publish_cb(msg->conn, msg->reply, midge_slice_make(NULL, 0), msg->payload);

    if (status != MIDGE_OK)
        (void)midge_party_fail(party, status, "responder: cannot answer: %s",
                               midge_status_name(status));
}

static enum midge_status make_payloads(struct midge_party *party)
{
    const uint32_t size = party->options->size;

    party->payload = malloc(size);
    party->expected = malloc(size);
    if (party->payload == NULL || party->expected == NULL)
        return midge_party_fail(party, MIDGE_E_MEMORY, "no memory for a payload");
    for (uint32_t i = 0; i < size; i++)
        party->payload[i] = (uint8_t)('a' + i % 26);
    memcpy(party->expected, party->payload, size);
    return MIDGE_OK;
}

/* As fast as it goes, with more than one under way. */
static bool is_for_throughput(const struct midge_run_options *options)
{
    return options->rate == 0 &&
           (options->publishers > 0 || options->requesters * options->in_flight > 1);
}

static enum midge_status make_driver(struct midge_party *party)
{
    const struct midge_run_options *options = party->options;
    const bool is_stalled = party->kind == MIDGE_PARTY_STALL;
    const struct midge_driver_options driver_options = {
        .url = options->url,
        .timeout_ms = options->timeout_ms,
        /* The less the kernel holds for it, the sooner the server must. */
        .receive_buffer_len = is_stalled ? 4096 : 0,
        .is_spinning = options->is_spinning && !is_stalled,
        .may_gather = is_for_throughput(options),
        .is_relay = options->is_relay,
        .has_headers = options->has_headers,
    };
    const enum midge_status status = party->library->create_cb(&driver_options, &party->driver);

    return status == MIDGE_OK ? status
                              : midge_party_fail(party, status, "%s: driver %s: %s", options->url,
                                                 party->library->name, midge_status_name(status));
}

enum midge_status midge_party_live(struct midge_party *party)
{
    static enum midge_status (*const live_cb[MIDGE_PARTY_KINDS])(struct midge_party * party) = {
        [MIDGE_PARTY_REQUEST] = midge_party_request,
        [MIDGE_PARTY_RESPOND] = midge_party_respond,
        [MIDGE_PARTY_PUBLISH] = midge_party_publish,
        [MIDGE_PARTY_SUBSCRIBE] = midge_party_subscribe,
        [MIDGE_PARTY_STALL] = midge_party_stall,
        [MIDGE_PARTY_CONNECT] = midge_party_connect,
        [MIDGE_PARTY_MATCH] = midge_party_match,
    };
    enum midge_status status = make_payloads(party);

    /* In order, so that a relay can tell them apart. Acquire pairs with midge_party_await_begin().
     */
    while (party->kind != MIDGE_PARTY_CONNECT &&
           atomic_load_explicit(&party->board->ready_count, memory_order_acquire) < party->index &&
           !midge_party_is_over(party))
        pause_a_little();
    if (midge_party_is_over(party))
        status = MIDGE_E_CLOSED; /* connecting would only fail the same way */
    if (status == MIDGE_OK)
        status = make_driver(party);
    if (status == MIDGE_OK)
        status = live_cb[party->kind](party);
    if (status != MIDGE_OK)
        (void)midge_party_fail(party, status, "%s", midge_status_name(status));
    midge_party_close(party);
    free(party->payload);
    free(party->expected);
    return status;
}

void midge_schedule_init(struct midge_schedule *schedule,
                         const struct midge_schedule_options *options, uint64_t begin_at_ns)
{
    *schedule = (struct midge_schedule){
        .next_ns = begin_at_ns,
        .interval_ns = (double)NS_PER_S * options->burst / options->rate,
        .burst = options->burst,
        .left = options->burst - 1,
        .arrivals = options->arrivals,
        .random = options->seed,
    };
}

void midge_party_begin_schedule(const struct midge_party *party, struct midge_schedule *schedule)
{
    const struct midge_run_options *options = party->options;

    midge_schedule_init(schedule,
                        &(struct midge_schedule_options){.rate = options->rate,
                                                         .burst = options->burst,
                                                         .arrivals = options->arrivals,
                                                         .seed = options->seed},
                        atomic_load_explicit(&party->board->begin_at_ns, memory_order_relaxed));
}

void midge_schedule_advance(struct midge_schedule *schedule)
{
    double step_ns = schedule->interval_ns;

    if (schedule->left > 0) {
        schedule->left--;
        return;
    }
    schedule->left = schedule->burst - 1;
    if (schedule->arrivals == MIDGE_RUN_POISSON) {
        /* 53 bits make a double in [0, 1); its complement has a logarithm. */
        const double uniform = (double)(midge_random_next(&schedule->random) >> 11) * 0x1p-53;

        step_ns = -log1p(-uniform) * schedule->interval_ns;
    }
    step_ns += schedule->rest_ns;
    schedule->next_ns += (uint64_t)step_ns;
    schedule->rest_ns = step_ns - floor(step_ns);
}
