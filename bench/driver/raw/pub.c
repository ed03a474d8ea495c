/*
 * Publish at full speed from some processes to others, and count what it costs the server.
 *
 * Throughput only: a saturated run gives no latency. Every subscriber gets every message and checks
 * that each publisher's numbers come without a gap, a double or a swap. A publisher stays at most
 * `window` messages ahead of the slowest reader (they share counters in memory), so that no reader
 * of a healthy server becomes a slow consumer and the load adapts to the machine.
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

/* The number in a payload: publisher in the high bits, its message below. */
#define NUMBER_BITS 48u

#define HEAD "PUB bench "

/* What one subscriber tells the others. Thread: one writer, any reader. */
struct subscriber_row {
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t received[MIDGE_RAW_PROCESSES_MAX];
    /* Read by the parent after the subscriber has exited. */
    uint64_t end_at_ns;
    uint64_t gap_ns; /* longest time between two calls that brought bytes */
};

/* Shared memory of all processes of a run. Thread: any (lock-free), except where a row says
 * otherwise. */
struct board {
    _Atomic uint32_t ready_count;
    _Atomic bool go;
    _Atomic bool done;
    _Atomic uint32_t closed_count; /* stalled subscribers that the server closed */
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
    /* Release pairs with the acquire in wait_ready(). */
    (void)atomic_fetch_add_explicit(&board->ready_count, 1, memory_order_release);
}

/* Check one message and count it. */
static enum midge_status take(const struct midge_raw_options *options, struct subscriber_row *row,
                              uint32_t index, const struct midge_wire_frame *frame)
{
    uint64_t number = 0;

    if (frame->kind != MIDGE_WIRE_MSG || frame->payload.len != options->size ||
        !midge_wire_get_number(frame->payload, &number) ||
        number >> NUMBER_BITS >= options->publishers)
        return complain(MIDGE_E_PARSE, "subscriber", index, "message is not one of ours");
    _Atomic uint64_t *received = &row->received[number >> NUMBER_BITS];
    const uint64_t expected = atomic_load_explicit(received, memory_order_relaxed);

    if ((number & ((1ull << NUMBER_BITS) - 1)) != expected)
        return complain(MIDGE_E_PARSE, "subscriber", index,
                        "message lost, doubled or out of order");
    /* Relaxed: a publisher only learns how far it may go. */
    atomic_store_explicit(received, expected + 1, memory_order_relaxed);
    return MIDGE_OK;
}

static enum midge_status subscriber_loop(const struct run *run, uint32_t index,
                                         struct midge_wire *wire)
{
    const uint64_t total = (uint64_t)run->options->publishers * run->options->count;
    struct subscriber_row *row = &run->board->rows[index];
    uint64_t recv_count = 0;
    uint64_t last_at_ns = 0;

    for (uint64_t i = 0; i < total; i++) {
        struct midge_wire_frame frame;
        enum midge_status status = midge_wire_read(wire, &frame);

        if (status == MIDGE_OK)
            status = take(run->options, row, index, &frame);
        else
            (void)complain(status, "subscriber", index,
                           status == MIDGE_E_EOF ? "closed by the server" : "nothing comes");
        if (status != MIDGE_OK)
            return status;
        if (wire->recv_count != recv_count) {
            const uint64_t now_ns = midge_process_now_ns();

            if (last_at_ns != 0 && now_ns - last_at_ns > row->gap_ns)
                row->gap_ns = now_ns - last_at_ns;
            last_at_ns = now_ns;
            recv_count = wire->recv_count;
        }
    }
    row->end_at_ns = midge_process_now_ns();
    return MIDGE_OK;
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

/* Wait until `sent` messages are within the window. */
static enum midge_status wait_window(const struct run *run, uint32_t index, uint64_t sent)
{
    const uint64_t until_ns = midge_process_now_ns() + run->options->timeout_ms * 1000000ull;

    while (sent > slowest(run, index) + run->options->window) {
        if (midge_process_now_ns() > until_ns)
            return complain(MIDGE_AGAIN, "publisher", index, "a subscriber is stuck");
        midge_process_sleep_ns(WINDOW_PAUSE_NS);
    }
    return MIDGE_OK;
}

/* Fill a batch with equal frames; the numbers are patched in before each send. */
static uint32_t fill_batch(uint8_t *batch, uint32_t frames, uint32_t size)
{
    const int head_len = snprintf((char *)batch, BATCH_LEN, HEAD "%u\r\n", size);
    const uint32_t frame_len = (uint32_t)head_len + size + 2;

    memset(batch + head_len, 'x', size);
    midge_wire_put_line_end(batch + head_len + size);
    for (uint32_t i = 1; i < frames; i++)
        memcpy(batch + (size_t)i * frame_len, batch, frame_len);
    return frame_len;
}

static enum midge_status publisher_loop(const struct run *run, uint32_t index,
                                        struct midge_wire *wire, uint8_t *batch, uint32_t frames)
{
    const uint64_t count = run->options->count;
    const uint32_t size = run->options->size;
    const uint32_t frame_len = fill_batch(batch, frames, size);

    for (uint64_t sent = 0; sent < count;) {
        const uint64_t left = count - sent;
        const uint32_t now = left < frames ? (uint32_t)left : frames;

        for (uint32_t i = 0; i < now; i++)
            midge_wire_put_number(batch + (size_t)(i + 1) * frame_len - 2 - size,
                                  MIDGE_WIRE_NUMBER_LEN,
                                  (uint64_t)index << NUMBER_BITS | (sent + i));
        sent += now;
        const enum midge_status status = wait_window(run, index, sent);

        if (status != MIDGE_OK)
            return status;
        if (midge_wire_send(wire, batch, now * frame_len) != MIDGE_OK)
            return complain(MIDGE_E_WRITE, "publisher", index, strerror(errno));
    }
    return midge_wire_fence(wire);
}

static enum midge_status publisher_main(const struct run *run, uint32_t index)
{
    const uint32_t frame_len_max = (uint32_t)sizeof HEAD + 16 + run->options->size;
    const uint32_t fitting = BATCH_LEN / frame_len_max;
    const uint32_t wanted = fitting < run->options->window ? fitting : run->options->window;
    const uint32_t frames = wanted == 0 ? 1 : wanted;
    uint8_t *batch = (uint8_t *)malloc(BATCH_LEN + (size_t)frames * frame_len_max);
    struct midge_wire wire;
    enum midge_status status =
        midge_wire_open(&wire, &run->options->endpoint, false, 0, run->options->timeout_ms);

    if (status == MIDGE_OK && batch == NULL)
        status = complain(MIDGE_E_MEMORY, "publisher", index, "no memory");
    report_ready(run->board);
    if (status == MIDGE_OK) {
        wait_for(&run->board->go);
        status = publisher_loop(run, index, &wire, batch, frames);
    }
    free(batch);
    midge_wire_close(&wire);
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
            _exit(status == MIDGE_OK ? EXIT_SUCCESS : EXIT_FAILURE);
        }
        run->pids[role][run->pid_count[role]++] = pid;
    }
    return MIDGE_OK;
}

static enum midge_status wait_ready(const struct run *run)
{
    const uint32_t expected =
        run->options->subscribers + run->options->stalled + run->options->publishers;
    const uint64_t patience_ns =
        (run->options->timeout_ms + (uint64_t)MIDGE_WIRE_PATIENCE_MS) * 1000000ull;
    const uint64_t until_ns = midge_process_now_ns() + patience_ns;

    /* Acquire pairs with the release in report_ready(). */
    while (atomic_load_explicit(&run->board->ready_count, memory_order_acquire) < expected) {
        if (midge_process_now_ns() > until_ns)
            return complain(MIDGE_AGAIN, "run", 0, "not all processes became ready");
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

static enum midge_status run_load(struct run *run)
{
    uint64_t cpu_begin_ns = 0;
    uint64_t cpu_end_ns = 0;
    enum midge_status status = midge_process_cpu_ns(run->options->server_pid, &cpu_begin_ns);
    const uint64_t begin_ns = midge_process_now_ns();

    if (status != MIDGE_OK)
        return complain(status, "server", 0, strerror(errno));
    atomic_store_explicit(&run->board->go, true, memory_order_release);
    status = wait_role(run, ROLE_SUBSCRIBER);
    if (status == MIDGE_OK)
        status = wait_role(run, ROLE_PUBLISHER);
    if (status != MIDGE_OK)
        return status;
    if (midge_process_cpu_ns(run->options->server_pid, &cpu_end_ns) != MIDGE_OK)
        return complain(MIDGE_E_SYSTEM, "server", 0, strerror(errno));
    run->server_cpu_ns = cpu_end_ns - cpu_begin_ns;
    for (uint32_t i = 0; i < run->options->subscribers; i++) {
        const uint64_t ns = run->board->rows[i].end_at_ns - begin_ns;

        run->elapsed_ns = ns > run->elapsed_ns ? ns : run->elapsed_ns;
    }
    atomic_store_explicit(&run->board->done, true, memory_order_release);
    return wait_role(run, ROLE_STALLED);
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

static void print_report(const struct run *run)
{
    const struct midge_raw_options *options = run->options;
    const uint64_t delivered =
        (uint64_t)options->publishers * options->count * options->subscribers;
    const double rate = (double)delivered * 1e9 / (double)run->elapsed_ns;
    const uint32_t closed = atomic_load_explicit(&run->board->closed_count, memory_order_relaxed);
    uint64_t gap_ns = 0;

    for (uint32_t i = 0; i < options->subscribers; i++)
        gap_ns = run->board->rows[i].gap_ns > gap_ns ? run->board->rows[i].gap_ns : gap_ns;
    if (options->is_json) {
        printf("{\"mode\":\"pub\",\"publishers\":%u,\"subscribers\":%u,\"stalled\":%u,"
               "\"stalled_closed\":%u,\"count\":%u,\"size\":%u,\"errors\":0,\"delivered\":%llu,"
               "\"elapsed_ns\":%llu,\"delivered_per_s\":%.0f,\"gap_ns\":%llu,"
               "\"server_cpu_ns\":%llu}\n",
               options->publishers, options->subscribers, options->stalled, closed, options->count,
               options->size, (unsigned long long)delivered, (unsigned long long)run->elapsed_ns,
               rate, (unsigned long long)gap_ns, (unsigned long long)run->server_cpu_ns);
        return;
    }
    printf("%u publishers, %u subscribers, %u stalled (%u closed by the server), %u bytes\n",
           options->publishers, options->subscribers, options->stalled, closed, options->size);
    printf("%llu messages delivered in %.3f s: %.0f a second; longest gap %.2f ms\n",
           (unsigned long long)delivered, (double)run->elapsed_ns / 1e9, rate,
           (double)gap_ns / 1e6);
    if (options->server_pid != 0)
        printf("server: %.3f us of CPU time a delivery\n",
               (double)run->server_cpu_ns / (double)delivered / 1e3);
}

enum midge_status midge_pub_run(const struct midge_raw_options *options)
{
    struct run run = {.options = options};
    void *mapped =
        mmap(NULL, sizeof *run.board, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_SHARED, -1, 0);

    if (mapped == MAP_FAILED)
        return complain(MIDGE_E_MEMORY, "board", 0, strerror(errno));
    run.board = (struct board *)mapped;

    enum midge_status status = start(&run, ROLE_SUBSCRIBER, options->subscribers);

    if (status == MIDGE_OK)
        status = start(&run, ROLE_STALLED, options->stalled);
    if (status == MIDGE_OK)
        status = start(&run, ROLE_PUBLISHER, options->publishers);
    if (status == MIDGE_OK)
        status = wait_ready(&run);
    if (status == MIDGE_OK)
        status = run_load(&run);
    stop_all(&run);
    if (status == MIDGE_OK)
        print_report(&run);
    (void)munmap(mapped, sizeof *run.board);
    return status;
}
