/*
 * Publish from some processes to others, at full speed or at a rate, and count what it costs the
 * server.
 *
 * Throughput only: a saturated run gives no latency. Every subscriber gets every message and checks
 * that each publisher's numbers come without a gap, a double or a swap, and every byte of them. A
 * publisher stays at most `window` messages ahead of the slowest reader (they share counters in
 * memory), so that no reader of a healthy server becomes a slow consumer and the load adapts to the
 * machine.
 *
 * At a rate, a publisher wakes every RATE_TICK_NS and sends in one call what is due by then, so
 * that every server gets the same messages in the same portions; who falls behind sends more at
 * once until the schedule is met. The report says what rate came of it.
 *
 * The last message of a publisher is marked. A run ends after `count` messages of each, or, where
 * the server's CPU time is the measure, once that has reached `cpu-ms`.
 *
 * Stalled subscribers subscribe and then read nothing, with a small receive buffer, until the
 * others are done; then they look whether the server has closed them.
 *
 * Thread: every role is a process of its own; `struct board` is what they share.
 */
#include <errno.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "midge/limits.h"
#include "process.h"
#include "raw.h"
#include "wire.h"

/* Bytes of one send; one message at least. */
#define BATCH_LEN 16384u

/* SO_RCVBUF of a stalled subscriber: the less the kernel holds, the sooner the server must. */
#define STALLED_BUFFER_LEN 4096u

/* How long a stalled subscriber, once it reads again, waits for its connection to end. */
#define STALLED_DRAIN_MS 1000u

/* Pause while a gate is closed or a window is used up. */
#define GATE_PAUSE_NS   1000000ull
#define WINDOW_PAUSE_NS 20000ull

/* Time between two sends of a publisher that keeps a rate: long against a wake-up, short against
 * what a socket buffer holds. */
#define RATE_TICK_NS 100000ull

/* How often the parent looks whether the server has used enough CPU time. */
#define WATCH_PAUSE_NS 2000000ull

/* The number in a payload: whether it is the last, publisher, and its message in the low bits. */
#define NUMBER_BITS      48u
#define NUMBER_LAST      (1ull << 63)
#define NUMBER_PUBLISHER 0x7fffu

#define HEAD "PUB bench "

/* What one subscriber tells the others. Thread: one writer, any reader. */
struct subscriber_row {
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t received[MIDGE_RAW_PROCESSES_MAX];
    /* Read by the parent after `finished_count` has counted the subscriber. */
    uint64_t end_at_ns;
    uint64_t gap_ns; /* longest time between two calls that brought bytes */
};

/* What one publisher tells the parent, likewise. Thread: one writer, any reader. */
struct publisher_row {
    uint64_t end_at_ns;
    uint64_t late_ns; /* longest time by which a message left behind its schedule */
};

/* Shared memory of all processes of a run. Thread: any (lock-free), except where a row says
 * otherwise. */
struct board {
    _Atomic uint32_t ready_count;
    _Atomic uint32_t finished_count; /* publishers and subscribers that have all they wait for */
    _Atomic uint64_t limit;          /* messages that each publisher may have sent so far */
    _Atomic bool stop;               /* publishers: the next message is the last */
    _Atomic bool failed;
    _Atomic bool done;
    _Atomic uint32_t closed_count; /* stalled subscribers that the server closed */
    uint64_t begin_at_ns; /* of the measured messages; written before `limit` allows them */
    struct publisher_row publishers[MIDGE_RAW_PROCESSES_MAX];
    struct subscriber_row rows[MIDGE_RAW_PROCESSES_MAX];
};

enum role {
    ROLE_SUBSCRIBER = 0,
    ROLE_STALLED,
    ROLE_PUBLISHER,
    ROLES,
};

struct run {
    const struct midge_raw_options *options; /* borrow */
    struct board *board;                     /* own; mapped, shared with the children */
    pid_t pids[ROLES][MIDGE_RAW_PROCESSES_MAX];
    uint32_t pid_count[ROLES];
    uint64_t elapsed_ns;
    uint64_t server_cpu_ns;
};

/* One publisher. Thread: shard (one process owns it). */
struct publisher {
    const struct run *run; /* borrow */
    struct midge_wire wire;
    uint8_t *batch; /* own */
    uint32_t index;
    uint32_t frame_len;
    uint32_t frames; /* that fit into the batch */
    uint64_t total;  /* UINT64_MAX: until the parent says stop */
    uint64_t sent;
};

static enum midge_status complain(enum midge_status status, const char *who, uint32_t index,
                                  const char *what)
{
    (void)fprintf(stderr, "midge-raw: %s %u: %s\n", who, index, what);
    return status;
}

static void wait_for(const _Atomic bool *gate)
{
    /* Acquire pairs with the release in run_load(): what was written before the gate opened is
     * seen. */
    while (!atomic_load_explicit(gate, memory_order_acquire))
        midge_process_sleep_ns(GATE_PAUSE_NS);
}

static void report_ready(struct board *board)
{
    /* Release pairs with the acquire in wait_count(). */
    (void)atomic_fetch_add_explicit(&board->ready_count, 1, memory_order_release);
}

/* Count this process among those that have finished, and stay connected until the server's CPU
 * time has been read: closing costs it some. */
static void report_finished(struct board *board)
{
    /* Release pairs with the acquire in wait_count(): the row is complete. */
    (void)atomic_fetch_add_explicit(&board->finished_count, 1, memory_order_release);
    wait_for(&board->done);
}

/* Check one message and count it. */
static enum midge_status take(const struct midge_raw_options *options, struct subscriber_row *row,
                              uint32_t index, const struct midge_wire_frame *frame,
                              uint64_t *number_out)
{
    uint64_t number = 0;

    if (frame->kind != MIDGE_WIRE_MSG || frame->payload.len != options->size ||
        !midge_wire_get_number(frame->payload, &number) || !midge_wire_has_filler(frame->payload) ||
        (number >> NUMBER_BITS & NUMBER_PUBLISHER) >= options->publishers)
        return complain(MIDGE_E_PARSE, "subscriber", index, "message is not one of ours");
    _Atomic uint64_t *received = &row->received[number >> NUMBER_BITS & NUMBER_PUBLISHER];
    const uint64_t expected = atomic_load_explicit(received, memory_order_relaxed);

    if ((number & ((1ull << NUMBER_BITS) - 1)) != expected)
        return complain(MIDGE_E_PARSE, "subscriber", index,
                        "message lost, doubled or out of order");
    /* Relaxed: a publisher only learns how far it may go. */
    atomic_store_explicit(received, expected + 1, memory_order_relaxed);
    *number_out = number;
    return MIDGE_OK;
}

static enum midge_status subscriber_loop(const struct run *run, uint32_t index,
                                         struct midge_wire *wire)
{
    struct subscriber_row *row = &run->board->rows[index];
    uint32_t last_count = 0;
    uint64_t recv_count = 0;
    uint64_t last_at_ns = 0;

    while (last_count < run->options->publishers) {
        struct midge_wire_frame frame;
        uint64_t number = 0;
        enum midge_status status = midge_wire_read(wire, &frame);

        if (status == MIDGE_OK)
            status = take(run->options, row, index, &frame, &number);
        else
            (void)complain(status, "subscriber", index,
                           status == MIDGE_E_EOF ? "closed by the server" : "nothing comes");
        if (status != MIDGE_OK)
            return status;
        last_count += (number & NUMBER_LAST) != 0;
        if (wire->recv_count != recv_count) {
            const uint64_t now_ns = midge_process_now_ns();

            if (last_at_ns != 0 && now_ns - last_at_ns > row->gap_ns)
                row->gap_ns = now_ns - last_at_ns;
            last_at_ns = now_ns;
            recv_count = wire->recv_count;
        }
    }
    row->end_at_ns = midge_process_now_ns();
    return midge_wire_fence(wire); /* nothing may follow the last message */
}

static enum midge_status subscriber_main(const struct run *run, uint32_t index)
{
    struct midge_wire wire;
    enum midge_status status =
        midge_wire_open(&wire, &run->options->endpoint, false, 0, run->options->timeout_ms);

    if (status == MIDGE_OK)
        status = midge_wire_subscribe(&wire, "bench");
    report_ready(run->board);
    if (status == MIDGE_OK)
        status = subscriber_loop(run, index, &wire);
    if (status == MIDGE_OK)
        report_finished(run->board);
    midge_wire_close(&wire);
    return status;
}

static enum midge_status stalled_main(const struct run *run)
{
    struct midge_wire wire;
    struct midge_wire_frame frame;
    enum midge_status status = midge_wire_open(&wire, &run->options->endpoint, false,
                                               STALLED_BUFFER_LEN, STALLED_DRAIN_MS);

    if (status == MIDGE_OK)
        status = midge_wire_subscribe(&wire, "bench");
    report_ready(run->board);
    if (status == MIDGE_OK) {
        wait_for(&run->board->done);
        while (status == MIDGE_OK)
            status = midge_wire_read(&wire, &frame);
        if (status == MIDGE_E_EOF)
            (void)atomic_fetch_add_explicit(&run->board->closed_count, 1, memory_order_relaxed);
        status = status == MIDGE_E_EOF || status == MIDGE_AGAIN ? MIDGE_OK : status;
    }
    midge_wire_close(&wire);
    return status;
}

static uint64_t slowest(const struct run *run, uint32_t publisher)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < run->options->subscribers; i++) {
        const uint64_t received =
            atomic_load_explicit(&run->board->rows[i].received[publisher], memory_order_relaxed);

        least = received < least ? received : least;
    }
    return least;
}

/* What the schedule and the gate allow now, at most `frames`. While it is nothing: the time to look
 * again, in *again_at_ns_out. */
static uint32_t allowed(const struct publisher *publisher, uint64_t *again_at_ns_out)
{
    const struct midge_raw_options *options = publisher->run->options;
    const struct board *board = publisher->run->board;
    /* Acquire pairs with the release in open_gate(): begin_at_ns is the one that belongs to it. */
    uint64_t limit = atomic_load_explicit(&board->limit, memory_order_acquire);

    if (options->rate > 0 && limit > options->warmup && publisher->sent >= options->warmup) {
        const uint64_t elapsed_ns = midge_process_now_ns() - board->begin_at_ns;
        const uint64_t tick = elapsed_ns / RATE_TICK_NS;
        const uint64_t due = options->warmup + (tick * RATE_TICK_NS) * options->rate /
                                                   options->publishers / 1000000000ull;

        limit = due < limit ? due : limit;
        *again_at_ns_out = board->begin_at_ns + (tick + 1) * RATE_TICK_NS;
    } else {
        *again_at_ns_out = midge_process_now_ns() + WINDOW_PAUSE_NS;
    }
    limit = limit < publisher->total ? limit : publisher->total;
    const uint64_t left = limit > publisher->sent ? limit - publisher->sent : 0;

    return left < publisher->frames ? (uint32_t)left : publisher->frames;
}

/* By how much the oldest unsent message is behind the schedule. */
static void note_late(const struct publisher *publisher)
{
    const struct midge_raw_options *options = publisher->run->options;
    struct publisher_row *row = &publisher->run->board->publishers[publisher->index];

    if (options->rate == 0 || publisher->sent < options->warmup)
        return;
    const uint64_t due_ns =
        (publisher->sent - options->warmup) * 1000000000ull * options->publishers / options->rate;
    const uint64_t elapsed_ns = midge_process_now_ns() - publisher->run->board->begin_at_ns;

    if (elapsed_ns > due_ns && elapsed_ns - due_ns > row->late_ns)
        row->late_ns = elapsed_ns - due_ns;
}

/* Wait until there is something to send, and room for it in the window. */
static enum midge_status wait_turn(const struct publisher *publisher, uint32_t *now_out)
{
    const struct midge_raw_options *options = publisher->run->options;
    const uint64_t until_ns = midge_process_now_ns() + options->timeout_ms * 1000000ull;
    uint64_t again_at_ns = 0;
    uint32_t now = allowed(publisher, &again_at_ns);

    while (now == 0) {
        if (midge_process_now_ns() > until_ns)
            return complain(MIDGE_AGAIN, "publisher", publisher->index, "the gate stays closed");
        midge_process_sleep_until_ns(again_at_ns);
        now = allowed(publisher, &again_at_ns);
    }
    while (publisher->sent + now > slowest(publisher->run, publisher->index) + options->window) {
        if (midge_process_now_ns() > until_ns)
            return complain(MIDGE_AGAIN, "publisher", publisher->index, "a subscriber is stuck");
        midge_process_sleep_ns(WINDOW_PAUSE_NS);
    }
    *now_out = now;
    return MIDGE_OK;
}

/* Fill a batch with equal frames; the numbers are patched in before each send. */
static uint32_t fill_batch(uint8_t *batch, uint32_t frames, uint32_t size)
{
    const int head_len = snprintf((char *)batch, BATCH_LEN, HEAD "%u\r\n", size);
    const uint32_t frame_len = (uint32_t)head_len + size + 2;

    midge_wire_put_filler(batch + head_len, size);
    midge_wire_put_line_end(batch + head_len + size);
    for (uint32_t i = 1; i < frames; i++)
        memcpy(batch + (size_t)i * frame_len, batch, frame_len);
    return frame_len;
}

/* Send the next `now` messages. @return MIDGE_OK; E_WRITE */
static enum midge_status send_batch(struct publisher *publisher, uint32_t now, bool is_last)
{
    const uint64_t head = (uint64_t)publisher->index << NUMBER_BITS;
    uint8_t *end = publisher->batch;

    for (uint32_t i = 0; i < now; i++) {
        const uint64_t mark = is_last && i + 1 == now ? NUMBER_LAST : 0;

        end += publisher->frame_len;
        midge_wire_put_number(end - 2 - publisher->run->options->size, MIDGE_WIRE_NUMBER_LEN,
                              mark | head | (publisher->sent + i));
    }
    note_late(publisher);
    if (midge_wire_send(&publisher->wire, publisher->batch, now * publisher->frame_len) != MIDGE_OK)
        return complain(MIDGE_E_WRITE, "publisher", publisher->index, strerror(errno));
    publisher->sent += now;
    return MIDGE_OK;
}

static enum midge_status publisher_loop(struct publisher *publisher)
{
    struct board *board = publisher->run->board;
    bool is_last = false;

    while (!is_last) {
        uint32_t now = 0;
        enum midge_status status = wait_turn(publisher, &now);

        if (status != MIDGE_OK)
            return status;
        is_last = publisher->sent + now == publisher->total ||
                  atomic_load_explicit(&board->stop, memory_order_relaxed);
        status = send_batch(publisher, now, is_last);
        if (status != MIDGE_OK)
            return status;
    }
    board->publishers[publisher->index].end_at_ns = midge_process_now_ns();
    return midge_wire_fence(&publisher->wire);
}

static enum midge_status publisher_main(const struct run *run, uint32_t index)
{
    const uint32_t frame_len_max = (uint32_t)sizeof HEAD + 16 + run->options->size;
    const uint32_t fitting = BATCH_LEN / frame_len_max;
    const uint32_t wanted = fitting < run->options->window ? fitting : run->options->window;
    struct publisher publisher = {
        .run = run, .index = index, .frames = wanted == 0 ? 1 : wanted, .total = UINT64_MAX};
    enum midge_status status = midge_wire_open(&publisher.wire, &run->options->endpoint, false, 0,
                                               run->options->timeout_ms);

    if (run->options->cpu_ms == 0)
        publisher.total = (uint64_t)run->options->warmup + run->options->count;
    publisher.batch = (uint8_t *)malloc(BATCH_LEN + (size_t)publisher.frames * frame_len_max);
    if (status == MIDGE_OK && publisher.batch == NULL)
        status = complain(MIDGE_E_MEMORY, "publisher", index, "no memory");
    report_ready(run->board);
    if (status == MIDGE_OK) {
        publisher.frame_len = fill_batch(publisher.batch, publisher.frames, run->options->size);
        status = publisher_loop(&publisher);
    }
    if (status == MIDGE_OK)
        report_finished(run->board);
    free(publisher.batch);
    midge_wire_close(&publisher.wire);
    return status;
}

static enum midge_status start(struct run *run, enum role role, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        pid_t pid = 0;
        enum midge_status status = midge_process_fork(&pid);

        if (status != MIDGE_OK)
            return complain(status, "fork", i, strerror(errno));
        if (pid == 0) {
            if (role == ROLE_SUBSCRIBER)
                status = subscriber_main(run, i);
            else
                status = role == ROLE_STALLED ? stalled_main(run) : publisher_main(run, i);
            if (status != MIDGE_OK)
                atomic_store_explicit(&run->board->failed, true, memory_order_relaxed);
            _exit(status == MIDGE_OK ? EXIT_SUCCESS : EXIT_FAILURE);
        }
        run->pids[role][run->pid_count[role]++] = pid;
    }
    return MIDGE_OK;
}

/* Wait until as many processes as are expected have counted themselves. */
static enum midge_status wait_count(const struct run *run, const _Atomic uint32_t *counter,
                                    uint32_t expected, const char *what)
{
    const uint64_t patience_ns =
        (run->options->timeout_ms + (uint64_t)MIDGE_WIRE_PATIENCE_MS) * 1000000ull;
    const uint64_t until_ns = midge_process_now_ns() + patience_ns;

    /* Acquire pairs with the release in report_ready() and report_finished(). */
    while (atomic_load_explicit(counter, memory_order_acquire) < expected) {
        if (atomic_load_explicit(&run->board->failed, memory_order_relaxed))
            return MIDGE_E_PARSE; /* the child has said why */
        if (midge_process_now_ns() > until_ns)
            return complain(MIDGE_AGAIN, "run", 0, what);
        midge_process_sleep_ns(GATE_PAUSE_NS);
    }
    return MIDGE_OK;
}

/* Wait for all of one role, youngest first. */
static enum midge_status wait_role(struct run *run, enum role role)
{
    enum midge_status status = MIDGE_OK;

    while (run->pid_count[role] > 0) {
        run->pid_count[role]--;
        if (!midge_process_wait(run->pids[role][run->pid_count[role]]))
            status = MIDGE_E_PARSE; /* the child has said why */
    }
    return status;
}

static void open_gate(struct run *run, uint64_t limit)
{
    run->board->begin_at_ns = midge_process_now_ns();
    /* Release pairs with the acquire in allowed(). */
    atomic_store_explicit(&run->board->limit, limit, memory_order_release);
}

/* Let the messages before the measured ones through, and wait until all have arrived. */
static enum midge_status warm_up(struct run *run)
{
    const uint64_t until_ns = midge_process_now_ns() + run->options->timeout_ms * 1000000ull;

    open_gate(run, run->options->warmup);
    for (uint32_t i = 0; i < run->options->publishers; i++) {
        while (slowest(run, i) < run->options->warmup) {
            if (atomic_load_explicit(&run->board->failed, memory_order_relaxed))
                return MIDGE_E_PARSE; /* the child has said why */
            if (midge_process_now_ns() > until_ns)
                return complain(MIDGE_AGAIN, "run", 0, "warm-up does not end");
            midge_process_sleep_ns(GATE_PAUSE_NS);
        }
    }
    return MIDGE_OK;
}

static enum midge_status server_cpu(const struct run *run, uint64_t *ns_out)
{
    const enum midge_status status = midge_process_cpu_ns(run->options->server_pid, ns_out);

    return status == MIDGE_OK ? status : complain(status, "server", 0, strerror(errno));
}

/* Where CPU time ends the run: until the server has used it. Else: until everything was sent. */
static enum midge_status watch(const struct run *run, uint64_t cpu_begin_ns)
{
    const uint64_t wanted_ns = run->options->cpu_ms * 1000000ull;
    const uint32_t expected = run->options->subscribers + run->options->publishers;
    const struct board *board = run->board;
    uint64_t now_ns = cpu_begin_ns;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && (wanted_ns == 0 || now_ns - cpu_begin_ns < wanted_ns)) {
        midge_process_sleep_ns(WATCH_PAUSE_NS);
        if (atomic_load_explicit(&board->failed, memory_order_relaxed))
            return MIDGE_E_PARSE; /* the child has said why */
        if (atomic_load_explicit(&board->finished_count, memory_order_relaxed) == expected)
            return MIDGE_OK;
        status = wanted_ns == 0 ? MIDGE_OK : server_cpu(run, &now_ns);
    }
    return status;
}

static enum midge_status run_load(struct run *run)
{
    const uint32_t expected = run->options->subscribers + run->options->publishers;
    uint64_t cpu_begin_ns = 0;
    uint64_t cpu_end_ns = 0;
    enum midge_status status = warm_up(run);

    if (status == MIDGE_OK)
        status = server_cpu(run, &cpu_begin_ns);
    if (status != MIDGE_OK)
        return status;
    open_gate(run, UINT64_MAX);
    status = watch(run, cpu_begin_ns);
    atomic_store_explicit(&run->board->stop, true, memory_order_relaxed);
    if (status == MIDGE_OK)
        status = wait_count(run, &run->board->finished_count, expected, "not all messages came");
    if (status == MIDGE_OK)
        status = server_cpu(run, &cpu_end_ns);
    if (status != MIDGE_OK)
        return status;
    run->server_cpu_ns = cpu_end_ns - cpu_begin_ns;
    for (uint32_t i = 0; i < run->options->subscribers; i++) {
        const uint64_t ns = run->board->rows[i].end_at_ns - run->board->begin_at_ns;

        run->elapsed_ns = ns > run->elapsed_ns ? ns : run->elapsed_ns;
    }
    /* Release pairs with the acquire in wait_for(). */
    atomic_store_explicit(&run->board->done, true, memory_order_release);
    for (uint32_t role = 0; role < ROLES && status == MIDGE_OK; role++)
        status = wait_role(run, role);
    return status;
}

static void stop_all(struct run *run)
{
    for (uint32_t role = 0; role < ROLES; role++) {
        while (run->pid_count[role] > 0) {
            run->pid_count[role]--;
            (void)midge_process_end(run->pids[role][run->pid_count[role]]);
        }
    }
}

/* What a finished run comes to. */
struct totals {
    uint64_t published; /* of the measured messages */
    uint64_t delivered;
    uint64_t send_ns; /* from the first to the end of the last publisher */
    uint64_t late_ns;
    uint64_t gap_ns;
};

static struct totals sum_up(const struct run *run)
{
    const struct midge_raw_options *options = run->options;
    const struct board *board = run->board;
    struct totals totals = {.published = 0};

    for (uint32_t i = 0; i < options->publishers; i++) {
        const struct publisher_row *row = &board->publishers[i];
        const uint64_t ns = row->end_at_ns - board->begin_at_ns;

        totals.published += slowest(run, i) - options->warmup;
        totals.send_ns = ns > totals.send_ns ? ns : totals.send_ns;
        totals.late_ns = row->late_ns > totals.late_ns ? row->late_ns : totals.late_ns;
    }
    for (uint32_t i = 0; i < options->subscribers; i++)
        totals.gap_ns =
            board->rows[i].gap_ns > totals.gap_ns ? board->rows[i].gap_ns : totals.gap_ns;
    totals.delivered = totals.published * options->subscribers;
    return totals;
}

static void print_report(const struct run *run)
{
    const struct midge_raw_options *options = run->options;
    const struct totals totals = sum_up(run);
    const double rate = (double)totals.delivered * 1e9 / (double)run->elapsed_ns;
    const double kept = (double)totals.published * 1e9 / (double)totals.send_ns;
    const uint32_t closed = atomic_load_explicit(&run->board->closed_count, memory_order_relaxed);

    if (options->is_json) {
        printf("{\"mode\":\"pub\",\"publishers\":%u,\"subscribers\":%u,\"stalled\":%u,"
               "\"stalled_closed\":%u,\"warmup\":%u,\"size\":%u,\"errors\":0,"
               "\"published\":%llu,\"delivered\":%llu,\"elapsed_ns\":%llu,"
               "\"delivered_per_s\":%.0f,\"published_per_s\":%.0f,\"rate\":%u,\"late_ns\":%llu,"
               "\"gap_ns\":%llu,\"server_cpu_ns\":%llu}\n",
               options->publishers, options->subscribers, options->stalled, closed, options->warmup,
               options->size, (unsigned long long)totals.published,
               (unsigned long long)totals.delivered, (unsigned long long)run->elapsed_ns, rate,
               kept, options->rate, (unsigned long long)totals.late_ns,
               (unsigned long long)totals.gap_ns, (unsigned long long)run->server_cpu_ns);
        return;
    }
    printf("%u publishers, %u subscribers, %u stalled (%u closed by the server), %u bytes\n",
           options->publishers, options->subscribers, options->stalled, closed, options->size);
    printf("%llu messages published, %.0f a second; ", (unsigned long long)totals.published, kept);
    printf("%llu delivered in %.3f s: %.0f a second; longest gap %.2f ms\n",
           (unsigned long long)totals.delivered, (double)run->elapsed_ns / 1e9, rate,
           (double)totals.gap_ns / 1e6);
    if (options->rate > 0)
        printf("rate: %u a second asked for, at most %.2f ms late\n", options->rate,
               (double)totals.late_ns / 1e6);
    if (options->server_pid != 0)
        printf("server: %.3f us of CPU time a delivery\n",
               (double)run->server_cpu_ns / (double)totals.delivered / 1e3);
}

enum midge_status midge_pub_run(const struct midge_raw_options *options)
{
    struct run run = {.options = options};
    const uint32_t expected = options->subscribers + options->stalled + options->publishers;
    void *mapped =
        mmap(NULL, sizeof *run.board, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_SHARED, -1, 0);

    if (mapped == MAP_FAILED)
        return complain(MIDGE_E_MEMORY, "board", 0, strerror(errno));
    run.board = (struct board *)mapped;
    midge_process_be_punctual();

    enum midge_status status = start(&run, ROLE_SUBSCRIBER, options->subscribers);

    if (status == MIDGE_OK)
        status = start(&run, ROLE_STALLED, options->stalled);
    if (status == MIDGE_OK)
        status = start(&run, ROLE_PUBLISHER, options->publishers);
    if (status == MIDGE_OK)
        status =
            wait_count(&run, &run.board->ready_count, expected, "not all processes became ready");
    if (status == MIDGE_OK)
        status = run_load(&run);
    stop_all(&run);
    if (status == MIDGE_OK)
        print_report(&run);
    (void)munmap(mapped, sizeof *run.board);
    return status;
}
