/* One run: its parties, its times, its result; see run.h. */
#include "run.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "instructions.h"
#include "interrupt.h"
#include "party.h"
#include "progress.h"
#include "server.h"
#include "server_process.h"

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

/* From when the parties have connected until the first send. */
#define HEAD_START_NS (5 * NS_PER_MS)

/* How long connecting, and how long ending, may take beyond what the parties allow themselves. */
#define PATIENCE_NS (10 * NS_PER_S)

/* … and how much more for each connection and subscription. */
#define CONNECT_PATIENCE_NS   (50 * NS_PER_MS)
#define SUBSCRIBE_PATIENCE_NS 50000ull

/* How long ending may take where the run has failed: a party may wait for what does not come. */
#define ABANDON_NS NS_PER_S

/* How often the parent looks at its parties. */
#define LOOK_NS (2 * NS_PER_MS)

/* Less of the measured time than one part in so many gives no rate and no CPU time; and a reading
 * that came later than one part in so many behind it gives no rate. */
#define WINDOW_SHARE 2u
#define LATE_SHARE   20u

/* Processes that connect at the same time. */
#define STORM_PARTIES 16u

/* What is read at both ends of the measured time. */
struct reading {
    uint64_t at_ns;
    uint64_t done;
    uint64_t begun;
    uint64_t load_cpu_ns;
    uint64_t near_cpu_ns; /* of it, what is not the far driver's */
    uint64_t own_cpu_ns;  /* of this process */
    uint64_t instructions;
    bool has_instructions;
    struct midge_server_usage server;
    struct midge_environment_times times;
};

struct run {
    const struct midge_run_options *options; /* borrow */
    struct midge_board *board;               /* own; mapped, shared with the parties */
    pid_t pids[MIDGE_PARTIES_MAX];           /* 0 = has been reaped */
    uint32_t conn_counts[MIDGE_PARTIES_MAX];
    struct midge_server_usage base;         /* before anybody connects */
    struct midge_server_usage ready;        /* when all have */
    struct midge_instructions instructions; /* own; of the server */
    struct reading first;
    struct reading last;
    bool is_spoiled; /* it failed before the measured time was over: there are no figures */
};

const char *midge_run_scenario_name(enum midge_run_scenario scenario)
{
    static const char *const names[MIDGE_RUN_SCENARIOS] = {
        [MIDGE_RUN_RTT] = "rtt",     [MIDGE_RUN_LOAD] = "load",     [MIDGE_RUN_WORKERS] = "workers",
        [MIDGE_RUN_PUB] = "pub",     [MIDGE_RUN_FANOUT] = "fanout", [MIDGE_RUN_SLOW] = "slow",
        [MIDGE_RUN_CONNS] = "conns", [MIDGE_RUN_SUBS] = "subs",
    };

    return names[scenario];
}

static bool is_passive(enum midge_party_kind kind)
{
    return kind == MIDGE_PARTY_RESPOND || kind == MIDGE_PARTY_STALL;
}

static void add_party(struct run *run, enum midge_party_kind kind, uint32_t conn_count)
{
    MIDGE_ASSERT(run->board->party_count < MIDGE_PARTIES_MAX);
    run->conn_counts[run->board->party_count] = conn_count;
    run->board->kinds[run->board->party_count++] = kind;
}

static void add_storm(struct run *run)
{
    const uint32_t connections = run->options->connections;
    const uint32_t count = connections < STORM_PARTIES ? connections : STORM_PARTIES;

    for (uint32_t i = 0; i < count; i++)
        add_party(run, MIDGE_PARTY_CONNECT,
                  connections / count + (i < connections % count ? 1 : 0));
}

/* Which processes a scenario needs, in the order in which they connect. */
static void plan(struct run *run)
{
    const struct midge_run_options *options = run->options;

    switch (options->scenario) {
    case MIDGE_RUN_RTT:
    case MIDGE_RUN_LOAD:
    case MIDGE_RUN_WORKERS:
        add_party(run, MIDGE_PARTY_REQUEST, 0);
        if (options->is_responder_apart)
            add_party(run, MIDGE_PARTY_RESPOND, 0);
        break;
    case MIDGE_RUN_PUB:
    case MIDGE_RUN_FANOUT:
    case MIDGE_RUN_SLOW:
        add_party(run, MIDGE_PARTY_PUBLISH, 0);
        if (options->subscribers > 0)
            add_party(run, MIDGE_PARTY_SUBSCRIBE, 0);
        for (uint32_t i = 0; options->scenario == MIDGE_RUN_SLOW && i < options->stalled; i++)
            add_party(run, MIDGE_PARTY_STALL, 0);
        break;
    case MIDGE_RUN_CONNS:
        add_storm(run);
        break;
    case MIDGE_RUN_SUBS:
        add_party(run, MIDGE_PARTY_MATCH, 0);
        break;
    case MIDGE_RUN_SCENARIOS:
        break;
    }
}

static bool is_publishing(const struct run *run)
{
    return run->board->kinds[0] == MIDGE_PARTY_PUBLISH;
}

static bool is_far(enum midge_party_kind kind)
{
    return kind == MIDGE_PARTY_RESPOND || kind == MIDGE_PARTY_PUBLISH || kind == MIDGE_PARTY_STALL;
}

static const struct midge_driver_kind *library_of(const struct midge_run_options *options,
                                                  enum midge_party_kind kind)
{
    if (kind == MIDGE_PARTY_STALL)
        return &midge_driver_raw;
    return is_far(kind) && options->far_driver != NULL ? options->far_driver : options->driver;
}

/* In the process of a party. Does not return. */
static void live(struct run *run, uint32_t index)
{
    struct midge_party party = {
        .kind = run->board->kinds[index],
        .index = index,
        .options = run->options,
        .board = run->board,
        .row = &run->board->rows[index],
        .library = library_of(run->options, run->board->kinds[index]),
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .conn_count = run->conn_counts[index],
    };

    midge_process_be_punctual();
    (void)signal(SIGINT, SIG_IGN); /* the parent gets it too, and ends the run */
    if (run->options->load_cpus != NULL &&
        sched_setaffinity(0, sizeof *run->options->load_cpus, run->options->load_cpus) != 0) {
        (void)midge_party_fail(&party, MIDGE_E_SYSTEM, "the load cannot run on its CPUs: %s",
                               strerror(errno));
        _exit(EXIT_FAILURE);
    }
    _exit(midge_party_live(&party) == MIDGE_OK ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void fail(struct run *run, const char *reason)
{
    midge_board_fail(run->board, reason);
}

static bool has_failed(const struct run *run)
{
    /* Acquire pairs with the release in midge_party_fail(): the reason is there. */
    return atomic_load_explicit(&run->board->is_failed, memory_order_acquire);
}

static enum midge_status start(struct run *run)
{
    for (uint32_t i = 0; i < run->board->party_count; i++) {
        midge_histogram_init(&run->board->rows[i].latency);
        midge_histogram_init(&run->board->rows[i].service);
    }
    /* What is buffered would be written by every party. */
    (void)fflush(NULL);
    for (uint32_t i = 0; i < run->board->party_count; i++) {
        pid_t pid = 0;

        if (midge_process_fork(&pid) != MIDGE_OK) {
            (void)fprintf(stderr, "midge-bench: fork: %s\n", strerror(errno));
            return MIDGE_E_SYSTEM;
        }
        if (pid == 0)
            live(run, i);
        run->pids[i] = pid;
    }
    return MIDGE_OK;
}

/* Notice a party that has ended. One that failed by itself has told why; one that was killed not.
 */
static void watch(struct run *run)
{
    for (uint32_t i = 0; i < run->board->party_count; i++) {
        int state = 0;

        if (run->pids[i] == 0 || waitpid(run->pids[i], &state, WNOHANG) != run->pids[i])
            continue;
        run->pids[i] = 0;
        if (WIFSIGNALED(state))
            fail(run, "a process of the load was killed");
        else if (WEXITSTATUS(state) != EXIT_SUCCESS)
            fail(run, "a process of the load failed");
    }
    if (run->options->server_pid != 0 && midge_server_process_has_ended(run->options->server_pid))
        fail(run, "the server has ended");
    if (midge_interrupt_signal() != 0)
        fail(run, "interrupted");
}

/* Until `count` reaches `wanted`. @return false: failed, or not by then */
static bool await(struct run *run, const _Atomic uint32_t *count, uint32_t wanted,
                  uint64_t until_ns)
{
    /* Acquire pairs with the releases of the parties: what they counted is there. */
    while (atomic_load_explicit(count, memory_order_acquire) < wanted) {
        watch(run);
        if (has_failed(run))
            return false;
        if (midge_process_now_ns() > until_ns) {
            fail(run, "the load did not get ready, or did not end, in time");
            return false;
        }
        midge_process_sleep_until_ns(midge_process_now_ns() + LOOK_NS);
    }
    return !has_failed(run);
}

/* 0 of one that has been reaped, or ends at this moment. */
static uint64_t cpu_of(pid_t pid)
{
    uint64_t ns = 0;

    return midge_process_cpu_ns(pid, &ns) == MIDGE_OK ? ns : 0;
}

static void read_all(struct run *run, struct reading *reading)
{
    reading->at_ns = midge_process_now_ns();
    reading->done = 0;
    reading->begun = 0;
    reading->load_cpu_ns = 0;
    reading->near_cpu_ns = 0;
    reading->own_cpu_ns = cpu_of(getpid());
    for (uint32_t i = 0; i < run->board->party_count; i++) {
        if (run->board->kinds[i] != MIDGE_PARTY_STALL)
            reading->done += midge_row_get(&run->board->rows[i].done);
        reading->begun += midge_row_get(&run->board->rows[i].begun);

        const uint64_t cpu_ns = cpu_of(run->pids[i]);

        reading->load_cpu_ns += cpu_ns;
        reading->near_cpu_ns += is_far(run->board->kinds[i]) ? 0 : cpu_ns;
    }
    if (midge_server_usage(run->options->server_pid, &reading->server) != MIDGE_OK)
        fail(run, "the server has ended");
    reading->has_instructions = midge_instructions_read(&run->instructions, &reading->instructions);
    if (run->options->all_cpus != NULL)
        midge_environment_read(run->options->all_cpus, &reading->times);
}

/* Look after the parties until that time, and show how it goes. */
static void sleep_and_show(struct run *run, struct midge_progress *progress, uint64_t until_ns)
{
    while (midge_process_now_ns() < until_ns && !has_failed(run)) {
        const uint64_t next_ns = midge_progress_next(progress, until_ns);

        midge_process_sleep_until_ns(next_ns);
        if (next_ns == until_ns)
            break; /* a reading follows at once: nothing may come between */
        midge_progress_show(progress, run->board);
        watch(run);
    }
}

/* The scenarios that last as long as they are told. */
static bool measure_for_a_time(struct run *run)
{
    const struct midge_run_options *options = run->options;
    struct midge_board *board = run->board;
    struct midge_progress progress;
    uint32_t active_count = 0;
    const uint64_t begin_ns = midge_process_now_ns() + HEAD_START_NS;

    board->measure_from_ns = begin_ns + options->warmup_ms * NS_PER_MS;
    board->measure_until_ns = board->measure_from_ns + options->duration_ms * NS_PER_MS;
    /* Release pairs with the acquire in midge_party_await_begin(). */
    atomic_store_explicit(&board->begin_at_ns, begin_ns, memory_order_release);
    midge_progress_init(&progress, options, board->measure_from_ns);
    sleep_and_show(run, &progress, board->measure_from_ns);
    read_all(run, &run->first);
    sleep_and_show(run, &progress, board->measure_until_ns);
    read_all(run, &run->last);
    midge_progress_end(&progress);
    run->is_spoiled = has_failed(run);
    for (uint32_t i = 0; i < board->party_count; i++)
        active_count += is_passive(board->kinds[i]) ? 0 : 1;
    return await(run, &board->finished_count, active_count,
                 midge_process_now_ns() + 2 * options->timeout_ms * NS_PER_MS + PATIENCE_NS);
}

static bool measure(struct run *run)
{
    const struct midge_run_options *options = run->options;
    const uint64_t conns = (uint64_t)options->connections + options->requesters +
                           options->responders + options->publishers + options->subscribers;
    const uint64_t many_ns =
        conns * CONNECT_PATIENCE_NS + options->subscriptions * SUBSCRIBE_PATIENCE_NS;

    if (!await(run, &run->board->ready_count, run->board->party_count,
               midge_process_now_ns() + options->timeout_ms * NS_PER_MS + PATIENCE_NS + many_ns))
        return false;
    if (midge_server_usage(options->server_pid, &run->ready) != MIDGE_OK)
        fail(run, "the server has ended");
    return measure_for_a_time(run);
}

/* Those that wait for messages without end are ended; the others end by themselves. */
static void end(struct run *run)
{
    const uint64_t until_ns = midge_process_now_ns() + (has_failed(run) ? ABANDON_NS : PATIENCE_NS);
    bool is_any = true;

    /* Release pairs with the acquire in midge_party_is_over(). */
    atomic_store_explicit(&run->board->is_over, true, memory_order_release);
    for (uint32_t i = 0; i < run->board->party_count; i++) {
        if (run->pids[i] != 0 && run->board->kinds[i] == MIDGE_PARTY_RESPOND) {
            (void)kill(run->pids[i], SIGKILL);
            (void)waitpid(run->pids[i], NULL, 0);
            run->pids[i] = 0;
        }
    }
    while (is_any) {
        is_any = false;
        for (uint32_t i = 0; i < run->board->party_count; i++) {
            if (run->pids[i] != 0 && waitpid(run->pids[i], NULL, WNOHANG) == run->pids[i])
                run->pids[i] = 0;
            if (run->pids[i] != 0 && midge_process_now_ns() > until_ns)
                (void)kill(run->pids[i], SIGKILL);
            is_any = is_any || run->pids[i] != 0;
        }
        if (is_any)
            midge_process_sleep_until_ns(midge_process_now_ns() + LOOK_NS);
    }
}

/* --- the result --- */

static uint64_t sum(const struct run *run, size_t counter_off)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < run->board->party_count; i++) {
        const uint8_t *row = (const uint8_t *)&run->board->rows[i];

        total += midge_row_get((const _Atomic uint64_t *)(const void *)(row + counter_off));
    }
    return total;
}

/* The time in which what the readings differ by was done: up to the end of the measured time, also
 * if the second reading came later. 0 if the first came so late that too little is left. */
static double window_ns(const struct run *run)
{
    const struct midge_board *board = run->board;
    const uint64_t end_ns =
        run->last.at_ns < board->measure_until_ns ? run->last.at_ns : board->measure_until_ns;
    const uint64_t window = end_ns > run->first.at_ns ? end_ns - run->first.at_ns : 0;

    return window * WINDOW_SHARE < run->options->duration_ms * NS_PER_MS ? 0 : (double)window;
}

/* NULL if it has not. When all parties have ended. */
static const char *why_failed(const struct run *run)
{
    return has_failed(run) ? run->board->reason : NULL;
}

/* All parties' histograms of one kind as JSON; null without samples. */
static json_t *merged(const struct run *run, size_t histogram_off)
{
    struct midge_histogram *all = malloc(sizeof *all);
    json_t *json = NULL;

    if (all == NULL)
        return NULL;
    midge_histogram_init(all);
    for (uint32_t i = 0; i < run->board->party_count; i++) {
        const uint8_t *row = (const uint8_t *)&run->board->rows[i];

        midge_histogram_merge(all,
                              (const struct midge_histogram *)(const void *)(row + histogram_off));
    }
    all->beyond_min = (uint64_t)MIDGE_HISTOGRAM_BEYOND_MIN * run->options->burst;
    json = midge_histogram_count(all) == 0 ? json_null() : midge_histogram_to_json(all);
    free(all);
    return json;
}

static json_t *parameters_json(const struct midge_run_options *options)
{
    return json_pack(
        "{s:i, s:b, s:i, s:i, s:o, s:s?, s:i, s:i, s:b, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, "
        "s:b, s:I, s:I, s:I}",
        "size", (int)options->size, "has_headers", (int)options->has_headers, "rate",
        (int)options->rate, "burst", (int)options->burst, "arrivals",
        options->rate == 0
            ? json_null()
            : json_string(options->arrivals == MIDGE_RUN_POISSON ? "poisson" : "fixed"),
        "far_driver", options->far_driver == NULL ? NULL : options->far_driver->name, "requesters",
        (int)options->requesters, "responders", (int)options->responders, "is_responder_apart",
        (int)options->is_responder_apart, "in_flight", (int)options->in_flight, "publishers",
        (int)options->publishers, "subscribers", (int)options->subscribers, "stalled",
        (int)options->stalled, "connections", (int)options->connections, "subscriptions",
        (int)options->subscriptions, "changes", (int)options->changes, "window",
        (int)options->window, "is_spinning", (int)options->is_spinning, "warmup_ns",
        (json_int_t)(options->warmup_ms * NS_PER_MS), "duration_ns",
        (json_int_t)(options->duration_ms * NS_PER_MS), "seed", (json_int_t)options->seed);
}

/* Null where nobody asked for them, and where the machine cannot or may not count them. */
static json_t *instructions_json(const struct run *run, double messages)
{
    if (!run->first.has_instructions || !run->last.has_instructions || messages <= 0)
        return json_null();
    return json_real((double)(run->last.instructions - run->first.instructions) / messages);
}

static json_t *server_json(const struct run *run, double messages, double elapsed_ns)
{
    const double cpu_ns = (double)(run->last.server.cpu_ns - run->first.server.cpu_ns);

    if (run->options->server_pid == 0 || run->is_spoiled)
        return json_null();
    /* A relay is a fork of this process: what it has resident says nothing. */
    return json_pack(
        "{s:I, s:o, s:o, s:o, s:o, s:o, s:b}", "cpu_ns", (json_int_t)cpu_ns, "cpu_per_message_ns",
        messages > 0 ? json_real(cpu_ns / messages) : json_null(), "resident_bytes",
        run->options->is_relay ? json_null()
                               : json_integer((json_int_t)run->last.server.resident_bytes),
        "peak_bytes",
        run->options->is_relay ? json_null()
                               : json_integer((json_int_t)run->last.server.peak_bytes),
        "cores", elapsed_ns > 0 ? json_real(cpu_ns / elapsed_ns) : json_null(),
        "instructions_per_message", instructions_json(run, messages), "has_kernel_instructions",
        (int)run->instructions.has_kernel);
}

/* What others did; not known where the server's share is not. */
static json_t *foreign_json(const struct run *run, uint64_t load_ns)
{
    const struct midge_run_options *options = run->options;
    const uint64_t own_ns = load_ns + run->last.own_cpu_ns - run->first.own_cpu_ns +
                            run->last.server.cpu_ns - run->first.server.cpu_ns;
    json_t *foreign = NULL;

    if (options->all_cpus == NULL || options->server_pid == 0 || run->is_spoiled)
        return json_null();
    foreign = midge_environment_foreign(&run->first.times, &run->last.times, options->all_cpus,
                                        own_ns, run->last.at_ns - run->first.at_ns);
    json_object_set_new(foreign, "cpu_count", json_integer(CPU_COUNT(options->all_cpus)));
    return foreign;
}

/* Too many sends that left late: the load was not what it says. */
static void check_pace(struct run *run)
{
    const uint64_t sent = sum(run, offsetof(struct midge_row, sent));
    const uint64_t late = sum(run, offsetof(struct midge_row, late));
    const uint64_t missed = sum(run, offsetof(struct midge_row, missed));
    char reason[MIDGE_PARTY_REASON_CAP];

    if (has_failed(run) || run->options->rate == 0 ||
        late + missed <= (sent + missed) / MIDGE_RUN_LATE_SHARE)
        return;
    (void)snprintf(reason, sizeof reason,
                   "the load fell behind: of %llu sends %llu left more than one interval late, and "
                   "%llu not at all; try a lower --rate, --burst or --spin",
                   (unsigned long long)(sent + missed), (unsigned long long)late,
                   (unsigned long long)missed);
    fail(run, reason);
}

/* True where each send has an intended time, by which it belongs to the measured time or not; else
 * what was counted between the readings does. */
static bool is_intended(const struct run *run)
{
    return run->options->rate > 0 || !is_publishing(run);
}

static uint64_t sent_count(const struct run *run)
{
    return is_intended(run) ? sum(run, offsetof(struct midge_row, sent))
                            : run->last.begun - run->first.begun;
}

static uint64_t received_count(const struct run *run)
{
    return is_intended(run) ? sum(run, offsetof(struct midge_row, received))
                            : run->last.done - run->first.done;
}

/* A rate so low, or a time so short, that there is nothing to say. */
static void check_amount(struct run *run)
{
    if (sent_count(run) == 0 && !has_failed(run) && (is_intended(run) || window_ns(run) > 0))
        fail(run, "nothing was sent in the measured time");
}

static bool is_last_late(const struct run *run)
{
    return run->last.at_ns >
           run->board->measure_until_ns + run->options->duration_ms * NS_PER_MS / LATE_SHARE;
}

static void put_counts(const struct run *run, json_t *result, double done, double elapsed_ns)
{
    static const struct {
        const char *key;
        size_t off;
    } counters[] = {
        {"errors", offsetof(struct midge_row, errors)},
        {"timeouts", offsetof(struct midge_row, timeouts)},
        {"lost", offsetof(struct midge_row, lost)},
        {"doubled", offsetof(struct midge_row, doubled)},
        {"wrong", offsetof(struct midge_row, wrong)},
        {"late", offsetof(struct midge_row, late)},
        {"missed", offsetof(struct midge_row, missed)},
    };

    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++)
        json_object_set_new(result, counters[i].key,
                            json_integer((json_int_t)sum(run, counters[i].off)));
    json_object_set_new(result, "sent", json_integer((json_int_t)sent_count(run)));
    json_object_set_new(result, "received", json_integer((json_int_t)received_count(run)));
    json_object_set_new(result, "elapsed_ns", json_integer((json_int_t)elapsed_ns));
    /* Idle connections have no rate. What was under way at the end, and came until a late reading,
     * would count as done in time. */
    json_object_set_new(result, "rate_per_s",
                        elapsed_ns > 0 && !is_last_late(run) &&
                                run->options->scenario != MIDGE_RUN_CONNS
                            ? json_real(done * 1e9 / elapsed_ns)
                            : json_null());
}

/* How many connections or subscriptions there were, what each took, and how fast they came. */
static void put_each(const struct run *run, json_t *figures, uint64_t count,
                     uint64_t resident_bytes)
{
    const double more_bytes = (double)resident_bytes - (double)run->base.resident_bytes;
    uint64_t begin_ns = UINT64_MAX;
    uint64_t end_ns = 0;

    for (uint32_t i = 0; i < run->board->party_count; i++) {
        const struct midge_row *row = &run->board->rows[i];

        begin_ns = row->begin_ns < begin_ns ? row->begin_ns : begin_ns;
        end_ns = row->end_ns > end_ns ? row->end_ns : end_ns;
    }
    json_object_set_new(figures, "count", json_integer((json_int_t)count));
    if (end_ns > begin_ns)
        json_object_set_new(figures, "setup_per_s",
                            json_real((double)count * 1e9 / (double)(end_ns - begin_ns)));
    if (run->options->server_pid == 0)
        return;
    json_object_set_new(figures, "resident_each", json_real(more_bytes / (double)count));
    json_object_set_new(figures, "cpu_each_ns",
                        json_real((double)(run->ready.cpu_ns - run->base.cpu_ns) / (double)count));
}

static json_t *figures_json(const struct run *run)
{
    const struct midge_run_options *options = run->options;
    json_t *figures = json_object();

    if (run->is_spoiled)
        return figures;
    if (options->scenario == MIDGE_RUN_CONNS) {
        put_each(run, figures, options->connections, run->last.server.resident_bytes);
        if (options->server_pid != 0 && window_ns(run) > 0)
            json_object_set_new(
                figures, "idle_cores",
                json_real((double)(run->last.server.cpu_ns - run->first.server.cpu_ns) /
                          window_ns(run)));
        json_object_set_new(figures, "client_resident_each",
                            json_real((double)sum(run, offsetof(struct midge_row, resident_bytes)) /
                                      options->connections));
    } else if (options->scenario == MIDGE_RUN_SUBS) {
        put_each(run, figures, options->subscriptions, run->ready.resident_bytes);
        json_object_set_new(
            figures, "changes",
            json_integer((json_int_t)sum(run, offsetof(struct midge_row, changes))));
    } else if (options->scenario == MIDGE_RUN_SLOW) {
        json_object_set_new(figures, "stalled_closed",
                            json_integer((json_int_t)sum(run, offsetof(struct midge_row, closed))));
    }
    return figures;
}

/* What the near side took is told apart where the far side is another library's. */
static json_t *load_json(const struct run *run, uint64_t load_ns, double done, double elapsed_ns)
{
    const uint64_t near_ns = run->last.near_cpu_ns - run->first.near_cpu_ns;

    if (run->is_spoiled)
        return json_null();
    return json_pack(
        "{s:I, s:o, s:o, s:o}", "cpu_ns", (json_int_t)load_ns, "cpu_per_message_ns",
        done > 0 ? json_real((double)load_ns / done) : json_null(), "near_cpu_per_message_ns",
        done > 0 && run->options->far_driver != NULL ? json_real((double)near_ns / done)
                                                     : json_null(),
        "cores", elapsed_ns > 0 ? json_real((double)load_ns / elapsed_ns) : json_null());
}

static json_t *result_json(struct run *run)
{
    const struct midge_run_options *options = run->options;
    const double elapsed_ns = window_ns(run);
    const bool is_sent_only = is_publishing(run) && options->subscribers == 0;
    const uint64_t difference =
        is_sent_only ? run->last.begun - run->first.begun : run->last.done - run->first.done;
    const double done = elapsed_ns > 0 ? (double)difference : 0;
    const uint64_t load_ns = run->last.load_cpu_ns - run->first.load_cpu_ns;
    json_t *result = json_object();
    const char *why = NULL;

    check_pace(run);
    check_amount(run);
    why = why_failed(run);
    json_object_set_new(result, "scenario",
                        json_string(midge_run_scenario_name(options->scenario)));
    json_object_set_new(result, "driver", json_string(options->driver->name));
    json_object_set_new(result, "driver_version", json_string(options->driver->version_cb()));
    json_object_set_new(result, "transport",
                        json_string(strncmp(options->url, "unix:", 5) == 0 ? "unix" : "tcp"));
    json_object_set_new(result, "parameters", parameters_json(options));
    put_counts(run, result, done, elapsed_ns);
    json_object_set_new(result, "latency", merged(run, offsetof(struct midge_row, latency)));
    json_object_set_new(result, "service", merged(run, offsetof(struct midge_row, service)));
    json_object_set_new(result, "server", server_json(run, done, elapsed_ns));
    json_object_set_new(result, "load", load_json(run, load_ns, done, elapsed_ns));
    json_object_set_new(result, "scenario_figures", figures_json(run));
    json_object_set_new(result, "foreign", foreign_json(run, load_ns));
    json_object_set_new(result, "is_read_late",
                        json_boolean((elapsed_ns == 0 || is_last_late(run)) && !run->is_spoiled));
    json_object_set_new(result, "failed", why == NULL ? json_null() : json_string(why));
    return result;
}

enum midge_status midge_run(const struct midge_run_options *options, json_t **result_out)
{
    struct run run = {.options = options};
    enum midge_status status = MIDGE_OK;

    run.board =
        mmap(NULL, sizeof *run.board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (run.board == MAP_FAILED) {
        (void)fprintf(stderr, "midge-bench: shared memory: %s\n", strerror(errno));
        return MIDGE_E_MEMORY;
    }
    plan(&run);
    if (midge_server_usage(options->server_pid, &run.base) != MIDGE_OK)
        fail(&run, "there is no such server process");
    if (options->has_instructions && options->server_pid != 0 &&
        midge_instructions_open(options->server_pid, &run.instructions) != MIDGE_OK)
        run.instructions.thread_count = 0; /* not counted here, which is no fault */
    status = start(&run);
    /* A failure stands in the result. */
    if (status == MIDGE_OK && !measure(&run) && run.last.at_ns == 0)
        run.is_spoiled = true;
    end(&run);
    if (status == MIDGE_OK) {
        *result_out = result_json(&run);
        status = *result_out == NULL ? MIDGE_E_MEMORY : MIDGE_OK;
    }
    midge_instructions_close(&run.instructions);
    (void)munmap(run.board, sizeof *run.board);
    return status;
}
