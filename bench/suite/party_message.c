/*
 * Publishers, subscribers, and subscribers that do not read.
 *
 * At a rate, each message carries the time at which it was meant to leave, and the subscriber
 * counts from there. At full speed there is no such time and no latency: publishers stay at most
 * `window` messages ahead of the slowest reader, so that the load adapts to the server, and what is
 * counted is throughput.
 */
#include <stdlib.h>

#include "party.h"

/* Bytes that a publisher queues before it hands them to the kernel. */
#define BATCH_LEN 16384u

/* Pause of a publisher whose window is used up: twice as long each time that it was in vain, and
 * half as long when it was not. Where server and readers share its CPU, each look interrupts them;
 * but with pauses of up to 1 ms the CPU was idle for 12 % of the time, at one to one with
 * midge-server (two runs of `midge-bench pub --place one`, 2 CPUs of an AMD EPYC). */
#define WINDOW_PAUSE_MIN_NS 20000ull
#define WINDOW_PAUSE_MAX_NS 160000ull

/* A used-up window is filled once one part in so many is free. */
#define REFILL_SHARE 4u

/* How often a reader looks whether all has come; and how long it waits behind the last message. */
#define LOOK_NS 20000000ull

/* How long a stalled subscriber, once it reads again, waits for its connection to end. */
#define STALLED_DRAIN_NS 1000000000ull

/* The number in a stamp: the publisher, and its message in the low bits. */
#define NUMBER_BITS 48u
#define NUMBER_MASK ((1ull << NUMBER_BITS) - 1)

struct publishing {
    struct midge_party *party;        /* borrow */
    struct midge_driver_conn **conns; /* own */
    uint64_t *sent;                   /* own; of each publisher */
    struct midge_schedule schedule;
};

/* A publisher's waits for its window. */
struct pausing {
    uint64_t ns;
    bool is_waiting; /* the last turn published nothing */
};

struct subscribing;

struct subscriber {
    struct subscribing *all;                             /* borrow */
    struct midge_driver_conn *conn;                      /* borrow */
    _Atomic uint64_t received[MIDGE_RUN_PUBLISHERS_MAX]; /* next number of each publisher */
};

struct subscribing {
    struct midge_party *party;      /* borrow */
    struct subscriber *subscribers; /* own */
    uint32_t unsaid_max;            /* at full speed: messages until progress is said again */
    uint32_t unsaid_count;          /* since it was. Thread: under the lock */
};

/* --- publishers --- */

static enum midge_status connect_publishers(struct publishing *all)
{
    const struct midge_run_options *options = all->party->options;

    all->conns = calloc(options->publishers, sizeof(struct midge_driver_conn *));
    all->sent = calloc(options->publishers, sizeof *all->sent);
    if (all->conns == NULL || all->sent == NULL)
        return midge_party_fail(all->party, MIDGE_E_MEMORY, "no memory for publishers");
    for (uint32_t i = 0; i < options->publishers; i++) {
        const enum midge_status status =
            all->party->library->connect_cb(all->party->driver, &all->conns[i]);

        if (status != MIDGE_OK)
            return midge_party_fail(all->party, status, "publisher %u cannot connect", i);
    }
    return MIDGE_OK;
}

static enum midge_status publish(struct publishing *all, uint32_t publisher, uint64_t intended_ns)
{
    struct midge_party *party = all->party;
    const bool is_measured = midge_party_is_measured(party, intended_ns);

    midge_party_stamp(
        party, (struct midge_stamp){(uint64_t)publisher << NUMBER_BITS | all->sent[publisher],
                                    intended_ns});
    const enum midge_status status = party->library->publish_cb(
        all->conns[publisher],
        midge_slice_make(MIDGE_PARTY_MESSAGES, sizeof MIDGE_PARTY_MESSAGES - 1),
        midge_slice_make(NULL, 0), midge_slice_make(party->payload, party->options->size));

    if (status == MIDGE_OK) {
        all->sent[publisher]++;
        midge_row_add(&party->row->begun, 1);
        midge_row_add(&party->row->sent, is_measured ? 1 : 0);
    } else if (status == MIDGE_FULL) {
        midge_row_add(&party->row->missed, is_measured ? 1 : 0);
    }
    return status;
}

/* What every reader has of a publisher; UINT64_MAX without readers. */
static uint64_t slowest(const struct midge_board *board, uint32_t publisher)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < board->party_count; i++) {
        if (board->kinds[i] == MIDGE_PARTY_SUBSCRIBE) {
            const uint64_t has = midge_row_get(&board->rows[i].progress[publisher]);

            least = has < least ? has : least;
        }
    }
    return least;
}

static enum midge_status lost_connection(struct midge_party *party, enum midge_status status,
                                         const char *who)
{
    if (status == MIDGE_OK || status == MIDGE_AGAIN)
        return MIDGE_OK;
    return midge_party_fail(party, status, "%s: %s", who,
                            status == MIDGE_E_EOF ? "closed by the server"
                                                  : midge_status_name(status));
}

/* As many as the window and a batch allow, of one publisher; none while little of the window is
 * free, for small batches cost all who handle them. */
static enum midge_status publish_batch(struct publishing *all, uint32_t publisher,
                                       uint32_t *published_out)
{
    const struct midge_run_options *options = all->party->options;
    const uint32_t batch = options->size < BATCH_LEN ? BATCH_LEN / options->size : 1;
    const uint64_t reached = slowest(all->party->board, publisher);
    uint64_t free = UINT64_MAX;
    enum midge_status status = MIDGE_OK;

    if (reached != UINT64_MAX) {
        MIDGE_ASSERT(all->sent[publisher] <= reached + options->window);
        free = reached + options->window - all->sent[publisher];
    }
    if (free < options->window / REFILL_SHARE)
        return MIDGE_OK;
    for (uint32_t i = 0; status == MIDGE_OK && i < batch && i < free; i++) {
        status = publish(all, publisher, 0);
        *published_out += status == MIDGE_OK ? 1 : 0;
    }
    return status == MIDGE_FULL ? MIDGE_OK : status;
}

/* How long to wait before the window is looked at again. @param published  since the last wait; 0
 * again and again as long as the window is used up */
static uint64_t next_pause(struct pausing *pausing, uint32_t published)
{
    if (published == 0 && pausing->is_waiting && pausing->ns < WINDOW_PAUSE_MAX_NS)
        pausing->ns *= 2;
    else if (published > 0 && pausing->is_waiting && pausing->ns > WINDOW_PAUSE_MIN_NS)
        pausing->ns /= 2;
    pausing->is_waiting = published == 0;
    return pausing->is_waiting ? pausing->ns : 0;
}

/* At full speed. Without a reader each publisher is held back by a PONG behind each window. */
static enum midge_status publish_all(struct publishing *all)
{
    struct midge_party *party = all->party;
    const struct midge_run_options *options = party->options;
    struct pausing pausing = {.ns = WINDOW_PAUSE_MIN_NS};
    uint64_t unfenced = 0;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && !midge_party_is_over(party)) {
        const uint64_t now_ns = midge_process_now_ns();
        uint64_t pause_ns = 0;
        uint32_t published = 0;

        if (now_ns >= party->board->measure_until_ns)
            return MIDGE_OK;
        for (uint32_t i = 0; status == MIDGE_OK && i < options->publishers; i++)
            status = publish_batch(all, i, &published);
        pause_ns = next_pause(&pausing, published);
        if (status == MIDGE_OK)
            status = party->library->wait_cb(party->driver, pause_ns == 0 ? 0 : now_ns + pause_ns);
        unfenced += published;
        if (status >= MIDGE_OK && options->subscribers == 0 &&
            unfenced >= (uint64_t)options->window * options->publishers) {
            unfenced = 0;
            status = MIDGE_OK;
            for (uint32_t i = 0; status == MIDGE_OK && i < options->publishers; i++)
                status = party->library->fence_cb(all->conns[i]);
        }
        status = lost_connection(party, status, "publisher");
    }
    return status;
}

static enum midge_status publish_at_rate(struct publishing *all)
{
    struct midge_party *party = all->party;
    struct midge_schedule *schedule = &all->schedule;
    uint64_t turn = 0;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && !midge_party_is_over(party) &&
           schedule->next_ns < party->board->measure_until_ns) {
        const uint64_t now_ns = midge_process_now_ns();

        if (now_ns < schedule->next_ns) {
            status = party->library->wait_cb(party->driver, schedule->next_ns);
            status = lost_connection(party, status, "publisher");
            continue;
        }
        if (midge_party_is_measured(party, schedule->next_ns) &&
            (double)(now_ns - schedule->next_ns) > schedule->interval_ns)
            midge_row_add(&party->row->late, 1);
        status = publish(all, (uint32_t)(turn++ % party->options->publishers), schedule->next_ns);
        if (status == MIDGE_FULL)
            status = MIDGE_OK;
        midge_schedule_advance(schedule);
    }
    return status == MIDGE_OK ? status : midge_party_fail(party, status, "cannot publish");
}

/* Tell the readers how much there was, once the server has all of it. */
static enum midge_status end_publishing(struct publishing *all)
{
    struct midge_party *party = all->party;
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; status == MIDGE_OK && i < party->options->publishers; i++) {
        status = party->library->fence_cb(all->conns[i]);
        atomic_store_explicit(&party->row->progress[i], all->sent[i], memory_order_relaxed);
    }
    if (status != MIDGE_OK)
        return midge_party_fail(party, status, "publisher: no PONG at the end");
    /* Release pairs with the acquire in has_all(). */
    (void)atomic_fetch_add_explicit(&party->board->published_count, 1, memory_order_release);
    midge_party_finish(party);
    return MIDGE_OK;
}

enum midge_status midge_party_publish(struct midge_party *party)
{
    const struct midge_run_options *options = party->options;
    struct publishing all = {.party = party};
    enum midge_status status = connect_publishers(&all);

    if (status == MIDGE_OK)
        status = midge_party_await_begin(party);
    if (status == MIDGE_OK && options->rate > 0) {
        midge_party_begin_schedule(party, &all.schedule);
        status = publish_at_rate(&all);
    } else if (status == MIDGE_OK) {
        status = publish_all(&all);
    }
    if (status == MIDGE_OK)
        status = end_publishing(&all);
    midge_party_close(party);
    free(all.conns);
    free(all.sent);
    return status;
}

/* --- subscribers --- */

static uint64_t least_received(const struct subscribing *all, uint32_t publisher)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < all->party->options->subscribers; i++) {
        const uint64_t has = midge_row_get(&all->subscribers[i].received[publisher]);

        least = has < least ? has : least;
    }
    return least;
}

/* A part of the window at a time, not only when a wait returns: until then publishers would hold
 * back, and the server would have nothing to do. At full speed; under the lock. */
static void say_progress(struct subscribing *all)
{
    struct midge_party *party = all->party;

    if (MIDGE_LIKELY(++all->unsaid_count < all->unsaid_max))
        return;
    all->unsaid_count = 0;
    for (uint32_t publisher = 0; publisher < party->options->publishers; publisher++)
        atomic_store_explicit(&party->row->progress[publisher], least_received(all, publisher),
                              memory_order_relaxed);
}

static MIDGE_COLD void refuse_bytes(struct midge_party *party)
{
    midge_row_add(&party->row->wrong, 1);
    (void)midge_party_fail(party, MIDGE_E_PARSE, "a message has bytes that nobody sent");
}

static MIDGE_COLD void refuse_number(struct midge_party *party, uint64_t number, uint64_t expected)
{
    if (number < expected) {
        midge_row_add(&party->row->doubled, 1);
        (void)midge_party_fail(party, MIDGE_E_PARSE, "a message came twice, or behind a later one");
    } else {
        midge_row_add(&party->row->lost, number - expected);
        (void)midge_party_fail(party, MIDGE_E_PARSE, "%llu messages lost",
                               (unsigned long long)(number - expected));
    }
}

/* `now_ns`: when it came; 0 at full speed, where nobody asks. */
static void take(struct subscriber *subscriber, const struct midge_driver_msg *msg, uint64_t now_ns)
{
    struct midge_party *party = subscriber->all->party;
    struct midge_stamp stamp;

    if (!midge_party_read_stamp(party, midge_slice_copy(&msg->payload), &stamp) ||
        stamp.number >> NUMBER_BITS >= party->options->publishers ||
        (stamp.intended_ns == 0) != (now_ns == 0)) {
        refuse_bytes(party);
        return;
    }
    _Atomic uint64_t *received = &subscriber->received[stamp.number >> NUMBER_BITS];
    const uint64_t expected = midge_row_get(received);
    const uint64_t number = stamp.number & NUMBER_MASK;

    if (MIDGE_UNLIKELY(number != expected))
        refuse_number(party, number, expected);
    if (MIDGE_UNLIKELY(number < expected))
        return;
    atomic_store_explicit(received, number + 1, memory_order_relaxed);
    midge_row_add(&party->row->done, 1);
    if (stamp.intended_ns != 0 && midge_party_is_measured(party, stamp.intended_ns)) {
        midge_row_add(&party->row->received, 1);
        midge_histogram_add(&party->row->latency, now_ns - stamp.intended_ns, 1);
    }
}

/* At full speed, in the one thread that counts: no clock and no lock. */
static void take_alone(void *context, const struct midge_driver_msg *msg)
{
    struct subscriber *subscriber = context;

    take(subscriber, msg, 0);
    say_progress(subscriber->all);
}

static void take_locked(void *context, const struct midge_driver_msg *msg)
{
    struct subscriber *subscriber = context;
    struct midge_party *party = subscriber->all->party;
    /* Before the lock: waiting for it is not the library's time. */
    const uint64_t now_ns = party->options->rate > 0 ? midge_process_now_ns() : 0;

    midge_party_lock(party);
    take(subscriber, msg, now_ns);
    if (party->options->rate == 0)
        say_progress(subscriber->all);
    midge_party_unlock(party);
}

static enum midge_status connect_subscriber(struct midge_party *party, void *context,
                                            midge_driver_msg_cb msg_cb,
                                            struct midge_driver_conn **conn_out)
{
    enum midge_status status = party->library->connect_cb(party->driver, conn_out);

    if (status == MIDGE_OK)
        status =
            party->library->subscribe_cb(*conn_out, MIDGE_PARTY_MESSAGES, NULL, context, msg_cb);
    if (status == MIDGE_OK)
        status = party->library->fence_cb(*conn_out);
    return status == MIDGE_OK
               ? status
               : midge_party_fail(party, status, "a subscriber cannot connect and subscribe: %s",
                                  midge_status_name(status));
}

/* Say what the slowest reader of this party has; true if it is all that was published. */
static bool has_all(struct subscribing *all)
{
    struct midge_party *party = all->party;
    struct midge_board *board = party->board;
    uint32_t publishing = 0;
    bool is_all = true;

    for (uint32_t i = 0; i < board->party_count; i++)
        publishing += board->kinds[i] == MIDGE_PARTY_PUBLISH ? 1 : 0;
    /* Acquire pairs with the release in end_publishing(): the publishers' counts are final. */
    const bool is_published =
        atomic_load_explicit(&board->published_count, memory_order_acquire) == publishing;

    midge_party_lock(party); /* progress has one writer at a time, and never goes back */
    for (uint32_t publisher = 0; publisher < party->options->publishers; publisher++) {
        const uint64_t least = least_received(all, publisher);

        atomic_store_explicit(&party->row->progress[publisher], least, memory_order_relaxed);
        for (uint32_t i = 0; is_published && i < board->party_count; i++) {
            if (board->kinds[i] == MIDGE_PARTY_PUBLISH)
                is_all = is_all && midge_row_get(&board->rows[i].progress[publisher]) == least;
        }
    }
    midge_party_unlock(party);
    return is_published && is_all;
}

static enum midge_status read_all(struct subscribing *all)
{
    struct midge_party *party = all->party;
    const uint64_t patience_ns = party->options->timeout_ms * 1000000ull;
    uint64_t last_done = 0;
    uint64_t quiet_from_ns = party->board->measure_until_ns;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && !has_all(all) && !midge_party_is_over(party)) {
        const uint64_t now_ns = midge_process_now_ns();
        const uint64_t done = midge_row_get(&party->row->done);

        if (done != last_done && now_ns > quiet_from_ns)
            quiet_from_ns = now_ns;
        last_done = done;
        if (now_ns > quiet_from_ns + patience_ns)
            return midge_party_fail(party, MIDGE_E_TIMEOUT, "the last messages never came");
        status = party->library->wait_cb(party->driver, now_ns + LOOK_NS);
        status = lost_connection(party, status, "subscriber");
    }
    return status;
}

/* Nothing may come behind the last message: take_locked() or take_alone() finds what does. */
static enum midge_status check_end(struct subscribing *all)
{
    struct midge_party *party = all->party;
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; status == MIDGE_OK && i < party->options->subscribers; i++)
        status = party->library->fence_cb(all->subscribers[i].conn);
    return status == MIDGE_OK ? status
                              : midge_party_fail(party, status, "subscriber: no PONG at the end");
}

enum midge_status midge_party_subscribe(struct midge_party *party)
{
    const bool is_alone = party->options->rate == 0 && !party->library->has_threads;
    struct subscribing all = {.party = party, .unsaid_max = party->options->window / 8};
    enum midge_status status = MIDGE_OK;

    all.subscribers = calloc(party->options->subscribers, sizeof *all.subscribers);
    if (all.subscribers == NULL)
        return midge_party_fail(party, MIDGE_E_MEMORY, "no memory for subscribers");
    for (uint32_t i = 0; i < party->options->subscribers; i++)
        all.subscribers[i].all = &all;
    for (uint32_t i = 0; status == MIDGE_OK && i < party->options->subscribers; i++)
        status = connect_subscriber(party, &all.subscribers[i], is_alone ? take_alone : take_locked,
                                    &all.subscribers[i].conn);
    if (status == MIDGE_OK)
        status = midge_party_await_begin(party);
    if (status == MIDGE_OK)
        status = read_all(&all);
    if (status == MIDGE_OK)
        status = check_end(&all);
    if (status == MIDGE_OK)
        midge_party_finish(party);
    midge_party_close(party);
    free(all.subscribers);
    return status;
}

/* What comes late is nobody's figure. */
static void drop(void *context, const struct midge_driver_msg *msg)
{
    (void)context;
    (void)msg;
}

/* One that reads nothing until everybody else is done, and then looks whether it was closed. */
enum midge_status midge_party_stall(struct midge_party *party)
{
    struct midge_driver_conn *conn = NULL;
    enum midge_status status = connect_subscriber(party, NULL, drop, &conn);

    if (status == MIDGE_OK)
        status = midge_party_await_begin(party);
    if (status != MIDGE_OK)
        return status;
    while (!midge_party_is_over(party))
        midge_process_sleep_until_ns(midge_process_now_ns() + LOOK_NS);

    const uint64_t until_ns = midge_process_now_ns() + STALLED_DRAIN_NS;

    while (status == MIDGE_OK && midge_process_now_ns() < until_ns)
        status = party->library->wait_cb(party->driver, until_ns);
    /* A server that closes a slow consumer may say -ERR first, which is no MIDGE_E_EOF. */
    if (status < 0)
        midge_row_add(&party->row->closed, 1);
    midge_party_close(party);
    return MIDGE_OK;
}
