/*
 * Requesters and responders.
 *
 * One request in flight on one connection is made with the driver's blocking request, as a program
 * would make it; everything else with asynchronous ones. What is in flight stands in a table by its
 * number, so that a reply is known, and one that comes twice, or belongs to nothing, too.
 */
#include <stdlib.h>

#include "party.h"

/* Slots of the table: in a closed loop one for each request that can be in flight; in an open loop
 * what a server that stalls for SLOTS_S seconds leaves behind. A send that finds none is missed. */
#define SLOTS_MIN 1024u
#define SLOTS_MAX (1u << 20)
#define SLOTS_S   4u

/* A request's number: its slot in the low bits, and above them how many there were before it. */
#define SLOT_BITS 20u
#define SLOT_MASK ((1ull << SLOT_BITS) - 1)

struct requester;

struct slot {
    uint64_t number; /* of the request in it; UINT64_MAX = free */
    uint64_t intended_ns;
    uint64_t sent_ns;
    const struct requester *requester; /* borrow; whose it is */
    uint32_t next_free;                /* index, while it is free */
};

struct requesting;

struct requester {
    struct requesting *all;         /* borrow */
    struct midge_driver_conn *conn; /* borrow */
};

/* All requesters of a party. Thread: its own; where the library calls back, under its lock. */
struct requesting {
    struct midge_party *party;    /* borrow */
    struct requester *requesters; /* own */
    struct slot *slots;           /* own */
    uint32_t slot_count;
    uint32_t first_free; /* index; slot_count = none */
    uint64_t begun;      /* requests so far */
    _Atomic uint64_t in_flight;
    struct midge_schedule schedule; /* open loop */
};

static void record(struct midge_party *party, uint64_t intended_ns, uint64_t sent_ns,
                   uint64_t now_ns)
{
    midge_row_add(&party->row->done, 1);
    if (!midge_party_is_measured(party, intended_ns))
        return;
    midge_row_add(&party->row->received, 1);
    midge_histogram_add(&party->row->latency, now_ns - intended_ns, 1);
    if (party->options->rate > 0)
        midge_histogram_add(&party->row->service, now_ns - sent_ns, 1);
}

static void free_slot(struct requesting *all, struct slot *slot)
{
    slot->number = UINT64_MAX;
    slot->next_free = all->first_free;
    all->first_free = (uint32_t)(slot - all->slots);
    (void)atomic_fetch_sub_explicit(&all->in_flight, 1, memory_order_relaxed);
}

/* Begin one request. A closed loop intends it now. @return FULL: too much is under way */
static enum midge_status begin_request(struct requester *requester, uint64_t intended_ns,
                                       uint64_t now_ns)
{
    struct requesting *all = requester->all;
    struct midge_party *party = all->party;
    struct slot *slot = &all->slots[all->first_free];
    enum midge_status status = MIDGE_OK;

    if (all->first_free == all->slot_count)
        return MIDGE_FULL;
    all->first_free = slot->next_free;
    slot->number = all->begun << SLOT_BITS | (uint64_t)(slot - all->slots);
    slot->intended_ns = intended_ns;
    slot->sent_ns = now_ns;
    slot->requester = requester;
    (void)atomic_fetch_add_explicit(&all->in_flight, 1, memory_order_relaxed);
    midge_party_stamp(party, (struct midge_stamp){slot->number, intended_ns});
    status =
        party->library->begin_request_cb(requester->conn, MIDGE_PARTY_REQUESTS,
                                         midge_slice_make(party->payload, party->options->size));
    if (status == MIDGE_OK)
        all->begun++;
    else
        free_slot(all, slot);
    return status;
}

/* … and count it. Only an open loop may miss one: a closed loop that cannot go on has failed. */
static enum midge_status begin(struct requester *requester, uint64_t intended_ns, uint64_t now_ns)
{
    struct midge_party *party = requester->all->party;
    const bool is_measured = midge_party_is_measured(party, intended_ns);
    const enum midge_status status = begin_request(requester, intended_ns, now_ns);

    midge_row_add(&party->row->begun, 1);
    if (status == MIDGE_OK) {
        midge_row_add(&party->row->sent, is_measured ? 1 : 0);
        return MIDGE_OK;
    }
    if (status != MIDGE_FULL || party->options->rate == 0)
        return midge_party_fail(party, status, "cannot send a request: %s",
                                midge_status_name(status));
    midge_row_add(&party->row->missed, is_measured ? 1 : 0);
    return MIDGE_OK;
}

static void take_end(struct midge_party *party, enum midge_status status)
{
    midge_row_add(status == MIDGE_E_TIMEOUT ? &party->row->timeouts : &party->row->errors, 1);
    (void)midge_party_fail(party, status, "a request ended without a reply: %s",
                           status == MIDGE_E_NO_RESPONDERS ? "no responders"
                           : status == MIDGE_E_TIMEOUT     ? "nothing in time"
                                                           : midge_status_name(status));
}

/* A reply, or the end of a request without one. */
static void take(struct requester *requester, enum midge_status status, struct midge_slice payload,
                 uint64_t now_ns)
{
    struct requesting *all = requester->all;
    struct midge_party *party = all->party;
    struct midge_stamp stamp;
    struct slot *slot = NULL;

    if (status != MIDGE_OK) {
        take_end(party, status);
        return;
    }
    if (!midge_party_read_stamp(party, payload, &stamp) ||
        (stamp.number & SLOT_MASK) >= all->slot_count || stamp.number >> SLOT_BITS >= all->begun) {
        midge_row_add(&party->row->wrong, 1);
        (void)midge_party_fail(party, MIDGE_E_PARSE, "a reply has bytes that nobody sent");
        return;
    }
    slot = &all->slots[stamp.number & SLOT_MASK];
    if (slot->number != stamp.number) {
        midge_row_add(&party->row->doubled, 1);
        (void)midge_party_fail(party, MIDGE_E_PARSE, "a second reply to one request");
        return;
    }
    if (slot->requester != requester || slot->intended_ns != stamp.intended_ns) {
        midge_row_add(&party->row->wrong, 1);
        (void)midge_party_fail(party, MIDGE_E_PARSE, "a reply to somebody else's request");
        return;
    }
    record(party, stamp.intended_ns, slot->sent_ns, now_ns);
    free_slot(all, slot);
    if (party->options->rate == 0 && now_ns < party->board->measure_until_ns) {
        const uint64_t begin_ns = midge_process_now_ns();

        (void)begin(requester, begin_ns, begin_ns); /* a failure is told */
    }
}

static void take_locked(void *context, enum midge_status status, struct midge_slice payload)
{
    struct requester *requester = context;
    /* Before the lock: waiting for it is not the library's time. */
    const uint64_t now_ns = midge_process_now_ns();

    midge_party_lock(requester->all->party);
    take(requester, status, payload, now_ns);
    midge_party_unlock(requester->all->party);
}

static enum midge_status connect_responders(struct midge_party *party)
{
    const struct midge_run_options *options = party->options;
    const char *queue = options->responders > 1 ? MIDGE_PARTY_QUEUE : NULL;
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; status == MIDGE_OK && i < options->responders; i++) {
        struct midge_driver_conn *conn = NULL;

        status = party->library->connect_cb(party->driver, &conn);
        if (status == MIDGE_OK)
            status = party->library->subscribe_cb(conn, MIDGE_PARTY_REQUESTS, queue, party,
                                                  midge_party_echo);
        if (status == MIDGE_OK)
            status = party->library->fence_cb(conn);
        if (status != MIDGE_OK)
            return midge_party_fail(party, status, "responder %u cannot connect and subscribe", i);
    }
    return status;
}

static uint32_t slots_for(const struct midge_run_options *options)
{
    const uint64_t in_time = (uint64_t)options->rate * SLOTS_S;
    const uint64_t wanted = in_time > 2 * options->burst ? in_time : 2 * options->burst;

    if (options->rate == 0)
        return options->requesters * options->in_flight;
    return wanted < SLOTS_MIN ? SLOTS_MIN : wanted > SLOTS_MAX ? SLOTS_MAX : (uint32_t)wanted;
}

/* Touched now, so that no page fault falls into a measured request. */
static enum midge_status make_slots(struct requesting *all)
{
    const struct midge_run_options *options = all->party->options;

    all->slot_count = slots_for(options);
    all->requesters = calloc(options->requesters, sizeof *all->requesters);
    all->slots = calloc(all->slot_count, sizeof *all->slots);
    if (all->requesters == NULL || all->slots == NULL)
        return midge_party_fail(all->party, MIDGE_E_MEMORY, "no memory for what is in flight");
    for (uint32_t i = 0; i < all->slot_count; i++)
        all->slots[i] = (struct slot){.number = UINT64_MAX, .next_free = i + 1};
    return MIDGE_OK;
}

static enum midge_status connect_requesters(struct requesting *all, bool is_async)
{
    struct midge_party *party = all->party;
    const struct midge_run_options *options = party->options;
    /* Requesters take turns, so each has its share under way, but not to the last one. */
    const uint32_t share = 2 * all->slot_count / options->requesters + SLOTS_MIN;
    const uint32_t in_flight_max = options->rate == 0        ? options->in_flight
                                   : share > all->slot_count ? all->slot_count
                                                             : share;
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; status == MIDGE_OK && i < options->requesters; i++) {
        struct requester *requester = &all->requesters[i];

        requester->all = all;
        status = party->library->connect_cb(party->driver, &requester->conn);
        if (status == MIDGE_OK && is_async)
            status = party->library->prepare_requests_cb(requester->conn, in_flight_max, requester,
                                                         take_locked);
        if (status == MIDGE_OK)
            status = party->library->fence_cb(requester->conn);
        if (status != MIDGE_OK)
            return midge_party_fail(party, status,
                                    "requester %u of %u cannot connect to %.100s: %s", i + 1,
                                    options->requesters, options->url, midge_status_name(status));
    }
    return status;
}

/* One request after the other, as the library does it. */
static enum midge_status run_blocking(struct requesting *all)
{
    struct midge_party *party = all->party;
    const struct midge_slice payload = midge_slice_make(party->payload, party->options->size);
    enum midge_status status = MIDGE_OK;

    for (uint64_t number = 0; status == MIDGE_OK && !midge_party_is_over(party); number++) {
        const uint64_t begin_ns = midge_process_now_ns();
        const struct midge_stamp stamp = {number, begin_ns};
        struct midge_slice reply;
        struct midge_stamp found;

        if (begin_ns >= party->board->measure_until_ns)
            return MIDGE_OK;
        midge_row_add(&party->row->begun, 1);
        if (midge_party_is_measured(party, begin_ns))
            midge_row_add(&party->row->sent, 1);
        midge_party_stamp(party, stamp);
        status = party->library->request_cb(all->requesters[0].conn, MIDGE_PARTY_REQUESTS, payload,
                                            &reply);
        const uint64_t now_ns = midge_process_now_ns();

        if (status != MIDGE_OK) {
            midge_row_add(&party->row->timeouts, status == MIDGE_E_TIMEOUT ? 1 : 0);
            return midge_party_fail(party, status, "request %llu: %s", (unsigned long long)number,
                                    status == MIDGE_E_TIMEOUT ? "reply lost: nothing in time"
                                                              : midge_status_name(status));
        }
        if (!midge_party_read_stamp(party, reply, &found) || found.number != number ||
            found.intended_ns != begin_ns) {
            midge_row_add(&party->row->wrong, 1);
            return midge_party_fail(party, MIDGE_E_PARSE, "request %llu: wrong reply",
                                    (unsigned long long)number);
        }
        record(party, begin_ns, begin_ns, now_ns);
    }
    return status;
}

/* Send what is due. Round robin over the requesters. */
static enum midge_status send_due(struct requesting *all, uint64_t *turn_in_out)
{
    struct midge_party *party = all->party;
    struct midge_schedule *schedule = &all->schedule;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && schedule->next_ns < party->board->measure_until_ns) {
        const uint64_t intended_ns = schedule->next_ns;

        if (intended_ns > midge_process_now_ns())
            break;
        midge_party_lock(party);

        const uint64_t now_ns = midge_process_now_ns();

        if (midge_party_is_measured(party, intended_ns) &&
            (double)(now_ns - intended_ns) > schedule->interval_ns)
            midge_row_add(&party->row->late, 1);
        status = begin(&all->requesters[(*turn_in_out)++ % party->options->requesters], intended_ns,
                       now_ns);
        midge_party_unlock(party);
        midge_schedule_advance(schedule);
    }
    return status;
}

/* When to look again: at the next send, or at the end, or when the last reply is overdue. */
static uint64_t next_look(const struct requesting *all)
{
    const struct midge_party *party = all->party;
    const uint64_t until_ns = party->board->measure_until_ns;

    if (party->options->rate > 0 && all->schedule.next_ns < until_ns)
        return all->schedule.next_ns;
    if (atomic_load_explicit(&all->in_flight, memory_order_relaxed) == 0)
        return until_ns;
    return until_ns + party->options->timeout_ms * 1000000ull;
}

/* Until everything has been sent and answered. */
static enum midge_status run_async(struct requesting *all)
{
    struct midge_party *party = all->party;
    const uint64_t until_ns = party->board->measure_until_ns;
    const uint64_t overdue_ns = until_ns + party->options->timeout_ms * 1000000ull;
    uint64_t turn = 0;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && !midge_party_is_over(party)) {
        if (party->options->rate > 0)
            status = send_due(all, &turn);
        if (status != MIDGE_OK)
            return status;

        const uint64_t in_flight = atomic_load_explicit(&all->in_flight, memory_order_relaxed);
        const uint64_t now_ns = midge_process_now_ns();

        if (now_ns >= until_ns && in_flight == 0)
            return MIDGE_OK;
        if (now_ns >= overdue_ns) {
            midge_row_add(&party->row->timeouts, in_flight);
            return midge_party_fail(party, MIDGE_E_TIMEOUT, "%llu requests got no reply in time",
                                    (unsigned long long)in_flight);
        }
        status = party->library->wait_cb(party->driver, next_look(all));
        if (status == MIDGE_AGAIN)
            status = MIDGE_OK;
    }
    return status == MIDGE_OK ? status
                              : midge_party_fail(party, status, "requester: connection lost");
}

static enum midge_status start_closed(struct requesting *all)
{
    struct midge_party *party = all->party;
    const uint32_t count = all->slot_count;
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; status == MIDGE_OK && i < count; i++) {
        midge_party_lock(party);

        const uint64_t now_ns = midge_process_now_ns();

        status = begin(&all->requesters[i % party->options->requesters], now_ns, now_ns);
        midge_party_unlock(party);
    }
    return status;
}

/* Nothing may come behind the last reply, and nothing may have come that nobody waited for. */
static enum midge_status check_end(struct requesting *all)
{
    struct midge_party *party = all->party;
    enum midge_status status = MIDGE_OK;
    uint64_t strays = 0;

    for (uint32_t i = 0; status == MIDGE_OK && i < party->options->requesters; i++)
        status = party->library->fence_cb(all->requesters[i].conn);
    if (status != MIDGE_OK)
        return midge_party_fail(party, status, "no PONG at the end");
    strays = party->library->strays_cb(party->driver);
    if (strays == 0)
        return MIDGE_OK;
    midge_row_add(&party->row->doubled, strays);
    return midge_party_fail(party, MIDGE_E_PARSE, "%llu replies came twice, or for nobody",
                            (unsigned long long)strays);
}

enum midge_status midge_party_request(struct midge_party *party)
{
    const struct midge_run_options *options = party->options;
    struct requesting all = {.party = party};
    const bool is_async = options->rate > 0 || options->requesters * options->in_flight > 1 ||
                          !options->is_responder_apart;
    enum midge_status status = make_slots(&all);

    if (status == MIDGE_OK)
        status = connect_requesters(&all, is_async);

    if (status == MIDGE_OK && !options->is_responder_apart)
        status = connect_responders(party);
    if (status == MIDGE_OK)
        status = midge_party_await_begin(party);
    if (status == MIDGE_OK && options->rate > 0)
        midge_party_begin_schedule(party, &all.schedule);
    else if (status == MIDGE_OK && is_async)
        status = start_closed(&all);
    if (status == MIDGE_OK)
        status = is_async ? run_async(&all) : run_blocking(&all);
    if (status == MIDGE_OK)
        status = check_end(&all);
    if (status == MIDGE_OK)
        midge_party_finish(party);
    midge_party_close(party); /* no call-back from here on */
    free(all.slots);
    free(all.requesters);
    return status;
}

enum midge_status midge_party_respond(struct midge_party *party)
{
    enum midge_status status = connect_responders(party);

    if (status == MIDGE_OK)
        status = midge_party_await_begin(party);
    while (status == MIDGE_OK && !midge_party_is_over(party)) {
        status = party->library->wait_cb(party->driver, UINT64_MAX);
        if (status == MIDGE_AGAIN)
            status = MIDGE_OK;
    }
    /* Behind a relay the far side ends first. */
    if (status == MIDGE_E_EOF && midge_party_is_over(party))
        return MIDGE_OK;
    return status == MIDGE_OK ? status
                              : midge_party_fail(party, status, "responder: connection lost");
}
