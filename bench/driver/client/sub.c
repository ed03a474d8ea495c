/*
 * A subscriber that counts, and a publisher on raw sockets that stays at most a window ahead of it.
 *
 * The two processes share the count and a limit: the messages that the publisher may have sent so
 * far. It is raised twice, for the warm-up and for what is measured, so that the client's CPU time
 * can be read while nothing is under way. In the end the count must be that of what was published.
 */
#include <errno.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "load.h"
#include "midge/limits.h"
#include "process.h"
#include "wire.h"

/* Bytes of one send; one message at least. */
#define BATCH_LEN 16384u

#define HEAD_LEN_MAX 64u

/* Pause of a publisher that is a window ahead, or waits for more to be allowed. */
#define PAUSE_NS 20000ull

/* Shared memory of both processes. Thread: any (lock-free). */
struct board {
    struct midge_progress progress;                       /* written by the subscriber */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t limit; /* written by the subscriber */
};

struct run {
    const struct midge_load_options *options; /* borrow */
    struct board *board;                      /* own; mapped */
    struct midge_library *library;            /* own */
    struct midge_load_cpu before;
    struct midge_load_cpu after;
    uint64_t elapsed_ns;
};

/* The publisher. */

/* Messages that may leave now, at most `most`. Waits until there is one; 0 after the timeout. */
static uint64_t wait_turn(const struct run *run, uint64_t sent, uint64_t most)
{
    const uint64_t until_ns =
        midge_process_now_ns() + run->options->library.timeout_ms * 1000000ull;

    while (midge_process_now_ns() < until_ns) {
        /* Relaxed: both only say how far to go. */
        const uint64_t limit = atomic_load_explicit(&run->board->limit, memory_order_relaxed);
        const uint64_t ahead =
            atomic_load_explicit(&run->board->progress.count, memory_order_relaxed) +
            run->options->window;
        const uint64_t until = limit < ahead ? limit : ahead;

        if (until > sent)
            return until - sent < most ? until - sent : most;
        midge_process_sleep_ns(PAUSE_NS);
    }
    return 0;
}

static enum midge_status publish(const struct run *run, struct midge_wire *wire, uint8_t *batch)
{
    const uint32_t size = run->options->size;
    const uint64_t total = (uint64_t)run->options->warmup + run->options->count;
    const int head_len =
        snprintf((char *)batch, HEAD_LEN_MAX, "PUB " MIDGE_LIBRARY_MESSAGES " %u\r\n", size);
    const uint32_t frame_len = (uint32_t)head_len + size + 2;
    const uint32_t frames = frame_len > BATCH_LEN ? 1 : BATCH_LEN / frame_len;

    midge_wire_put_filler(batch + head_len, size);
    midge_wire_put_line_end(batch + head_len + size);
    for (uint32_t i = 1; i < frames; i++)
        memcpy(batch + (size_t)i * frame_len, batch, frame_len);
    for (uint64_t sent = 0; sent < total;) {
        const uint64_t now = wait_turn(run, sent, frames);

        if (now == 0)
            return midge_load_complain_of(MIDGE_AGAIN, "the subscriber is stuck", sent);
        for (uint32_t i = 0; i < now; i++)
            midge_wire_put_number(batch + i * frame_len + head_len, MIDGE_WIRE_NUMBER_LEN,
                                  sent + i);
        if (midge_wire_send(wire, batch, (uint32_t)now * frame_len) != MIDGE_OK)
            return midge_load_complain(MIDGE_E_WRITE, "publisher", strerror(errno));
        sent += now;
    }
    return midge_wire_fence(wire);
}

static enum midge_status publisher_main(const struct run *run)
{
    struct midge_wire wire;
    uint8_t *batch = (uint8_t *)malloc(BATCH_LEN + HEAD_LEN_MAX + (size_t)run->options->size + 2);
    enum midge_status status =
        midge_wire_open(&wire, &run->options->endpoint, false, 0, run->options->library.timeout_ms);

    if (status == MIDGE_OK && batch != NULL)
        status = publish(run, &wire, batch);
    else if (status == MIDGE_OK)
        status = midge_load_complain(MIDGE_E_MEMORY, "publisher", "no memory");
    midge_wire_close(&wire);
    free(batch);
    return status;
}

/* The subscriber. */

/* Let the publisher go on up to `until`, and take in what comes. */
static enum midge_status take_until(struct run *run, uint64_t until)
{
    struct midge_progress *progress = &run->board->progress;

    if (atomic_load_explicit(&progress->count, memory_order_relaxed) == until)
        return MIDGE_OK;
    atomic_store_explicit(&progress->target, until, memory_order_relaxed);
    atomic_store_explicit(&run->board->limit, until, memory_order_relaxed);
    return midge_library_wait(run->library);
}

/* Once the publisher has ended, the server has everything, and the client's fence is behind it. */
static enum midge_status check_count(struct run *run)
{
    const uint64_t total = (uint64_t)run->options->warmup + run->options->count;
    const enum midge_status status = midge_load_check_end(run->library);
    const uint64_t count = atomic_load_explicit(&run->board->progress.count, memory_order_relaxed);

    if (status == MIDGE_OK && count != total)
        return midge_load_complain_of(MIDGE_E_PARSE, "is the count, not what was published", count);
    return status;
}

static enum midge_status measure(struct run *run)
{
    const struct midge_load_options *options = run->options;
    const uint64_t total = (uint64_t)options->warmup + options->count;
    enum midge_status status = midge_library_count(run->library, &run->board->progress);

    if (status == MIDGE_OK)
        status = midge_library_fence(run->library);
    if (status == MIDGE_OK)
        status = take_until(run, options->warmup);
    if (status == MIDGE_OK)
        status = midge_load_cpu(options, &run->before);
    const uint64_t begin_ns = midge_process_now_ns();

    if (status == MIDGE_OK)
        status = take_until(run, total);
    run->elapsed_ns = midge_process_now_ns() - begin_ns;
    if (status == MIDGE_OK)
        status = midge_load_cpu(options, &run->after);
    return status;
}

static void print(const struct run *run)
{
    midge_load_report_begin(run->options, "sub");
    midge_load_report_put(run->options, "window", run->options->window);
    midge_load_report_put(run->options, "elapsed_ns", run->elapsed_ns);
    midge_load_report_cpu(run->options, &run->before, &run->after);
    midge_load_report_end(run->options);
}

enum midge_status midge_load_sub(const struct midge_load_options *options)
{
    struct run run = {.options = options};
    pid_t pid = 0;
    void *mapped =
        mmap(NULL, sizeof *run.board, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_SHARED, -1, 0);

    if (mapped == MAP_FAILED)
        return midge_load_complain(MIDGE_E_MEMORY, "board", strerror(errno));
    run.board = (struct board *)mapped;
    midge_process_be_punctual();

    enum midge_status status = midge_process_fork(&pid);

    if (status == MIDGE_OK && pid == 0)
        _exit(publisher_main(&run) == MIDGE_OK ? EXIT_SUCCESS : EXIT_FAILURE);
    if (status == MIDGE_OK)
        status = midge_library_open(&options->library, &run.library);
    if (status == MIDGE_OK)
        status = measure(&run);
    if (status != MIDGE_OK && pid != 0)
        (void)midge_process_end(pid);
    else if (status == MIDGE_OK && !midge_process_wait(pid))
        status = midge_load_complain(MIDGE_E_PARSE, "sub", "the publisher failed");
    if (status == MIDGE_OK)
        status = check_count(&run);
    midge_library_close(run.library);
    if (status == MIDGE_OK)
        print(&run);
    (void)munmap(mapped, sizeof *run.board);
    return status;
}
