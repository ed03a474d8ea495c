/*
 * What a match in the subject index costs, alone and beside a thread that subscribes and
 * unsubscribes, and what a subscription weighs.
 *
 * Method: the index alone, no broker. One thread matches, and its own CPU time is measured, so that
 * other load on the machine counts less. Each of some rounds has one slice for each rate of changes
 * and each set of queries, so that what the machine does to a round it does to all of them; the
 * figure is the median of the rounds. `uniform` draws from all subscriptions, which is the worst
 * locality; `hot` from as many as fit the match cache. The writer takes one subscription out and
 * puts it back, 1 ms after 1 ms, as many as are due by then: half of the changes are removals.
 *
 * Every run checks itself: what a match returns is counted, and in the end everything is removed
 * and the memory of the index must be what it was.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "midge/reclaim.h"
#include "midge/subindex.h"
#include "process.h"

#define SUBSCRIPTIONS_MAX 20000000u
#define CHANGES_MAX       10000000u
#define RATES_MAX         8u
#define ROUNDS_MAX        100u
#define QUERIES_MAX       4000000u
#define NUMBERS           7u

/* Longest subject, with its end: a `bomb` of 25 tokens and a number. */
#define SUBJECT_CAP 64u

/* Matches from one look at the clock, and from one quiescent point, to the next. */
#define STEP_COUNT 64u

/* Pace of the writer. */
#define PACE_NS 1000000ull

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

enum mix {
    MIX_LITERAL = 0,
    MIX_TENTH,
    MIX_HALF,
    MIX_TAILS,
    MIX_BOMB,
    MIX_COUNT
};

static const char *const mix_names[MIX_COUNT] = {"literal", "tenth", "half", "tails", "bomb"};

static const char usage[] =
    "usage: midge-bench-subindex [--subscriptions N] [--mix NAME] [--changes N[,N...]]\n"
    "                            [--rounds N] [--round-ms N] [--queries N] [--hot N]\n"
    "                            [--cpu N] [--writer-cpu N] [--json] [--help]\n"
    "--subscriptions N   1000000; 10000000 take some 2 GiB\n"
    "--mix NAME          of the subscriptions fleet.<i mod 1000>.unit.<i>.state:\n"
    "                      literal  all of them as they are\n"
    "                      tenth    every tenth with * as its last token (the default)\n"
    "                      half     every other with * for some tokens, in all 15 ways\n"
    "                      tails    every other with > as its last token\n"
    "                      bomb     instead: every mask of a.a.a..., then a token that no query\n"
    "                               has, so that a match looks at all of them for nothing\n"
    "--changes N,N       by the writer, a second: 0,10000,100000\n"
    "--rounds N          5 rounds, each with a slice of --round-ms of CPU time (200) for each\n"
    "                    rate and each set of queries\n"
    "--queries N         different subjects, drawn from all: 1000000; --hot N of them: 1024\n"
    "--cpu, --writer-cpu where the two threads run; default: anywhere\n";

struct options {
    uint32_t subscriptions;
    uint32_t rounds;
    uint32_t round_ms;
    uint32_t queries;
    uint32_t hot;
    uint32_t cpu;        /* UINT32_MAX: anywhere */
    uint32_t writer_cpu; /* the same */
    uint32_t rates[RATES_MAX];
    uint32_t rate_count;
    enum mix mix;
    bool is_json;
};

/* Which queries a slice takes. */
enum locality {
    LOCALITY_UNIFORM = 0,
    LOCALITY_HOT,
    LOCALITY_COUNT
};

/* What was measured. A slice is one round of one rate and one locality. */
struct slice {
    double match_ns;
    double matches_per_s;
    double hits;   /* share of the matches that the cache answered */
    double visits; /* trie nodes for each match */
    double found;  /* subscriptions for each match */
};

struct rate_result {
    struct slice slices[LOCALITY_COUNT][ROUNDS_MAX];
    uint64_t change_count;
    uint64_t change_cpu_ns;
    uint64_t wall_ns;
};

struct bench {
    const struct options *options;
    struct midge_participant *participant;
    struct midge_participant *writer; /* of the other thread */
    struct midge_subindex *index;
    struct midge_subindex_reader *reader;
    struct midge_subindex_record **records; /* by number of the subscription */
    char (*queries)[SUBJECT_CAP];
    uint32_t cursor; /* next of the queries drawn uniformly */
    uint64_t random_state;
    double insert_ns;
    double remove_ns;
    double bytes_each;
    struct rate_result results[RATES_MAX];
};

/* The other thread. Thread: its own, but for `stop`. */
struct writer {
    struct bench *bench;
    uint32_t rate;
    _Atomic bool stop;
    uint64_t random_state;
    uint64_t count; /* changes made */
    uint64_t cpu_ns;
};

/* Time that this thread has run. */
static uint64_t cpu_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint32_t random_below(uint64_t *state, uint32_t bound)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state % bound);
}

_Noreturn static void fail(const char *what)
{
    (void)fprintf(stderr, "midge-bench-subindex: %s\n", what);
    exit(EXIT_FAILURE);
}

/* ---- subjects ---- */

/* a.*.a and so on, one token for each bit that numbers below the count have; `end` comes last. */
static struct midge_slice make_bomb(char *out, uint32_t mask, uint32_t count, const char *end)
{
    uint32_t len = 0;

    for (uint32_t bits = count - 1; bits > 0; bits >>= 1, mask >>= 1) {
        out[len++] = (mask & 1) != 0 ? '*' : 'a';
        out[len++] = '.';
    }
    len += (uint32_t)snprintf(out + len, SUBJECT_CAP - len, "%s", end);
    return midge_slice_make(out, len);
}

/* Bits of `stars`: the first, second, third and last token are `*`. The fourth names the one. */
static struct midge_slice make_unit(char *out, uint32_t number, uint32_t stars, const char *last)
{
    char fleet[16];
    int len;

    (void)snprintf(fleet, sizeof(fleet), "%u", number % 1000);
    len = snprintf(out, SUBJECT_CAP, "%s.%s.%s.%u.%s", (stars & 1) != 0 ? "*" : "fleet",
                   (stars & 2) != 0 ? "*" : fleet, (stars & 4) != 0 ? "*" : "unit", number,
                   (stars & 8) != 0 ? "*" : last);
    return midge_slice_make(out, (uint32_t)len);
}

/* What the subscription of this number subscribes to. */
static struct midge_slice make_pattern(const struct options *options, char *out, uint32_t number)
{
    switch (options->mix) {
    case MIX_BOMB:
        return make_bomb(out, number, options->subscriptions, "x");
    case MIX_TENTH:
        return make_unit(out, number, number % 10 == 9 ? 8 : 0, "state");
    case MIX_HALF:
        return make_unit(out, number, number % 2 == 0 ? 0 : 1 + number / 2 % 15, "state");
    case MIX_TAILS:
        return make_unit(out, number, 0, number % 2 == 0 ? "state" : ">");
    case MIX_LITERAL:
    case MIX_COUNT:
        break;
    }
    return make_unit(out, number, 0, "state");
}

static void make_queries(struct bench *bench)
{
    const struct options *options = bench->options;

    for (uint32_t i = 0; i < options->queries; i++) {
        char number[16];

        (void)snprintf(number, sizeof(number), "%u", i);
        if (options->mix == MIX_BOMB)
            (void)make_bomb(bench->queries[i], 0, options->subscriptions, number);
        else
            (void)make_unit(bench->queries[i],
                            random_below(&bench->random_state, options->subscriptions), 0, "state");
    }
}

/* ---- changes ---- */

static struct midge_sub *sub_of(uint32_t number)
{
    return (struct midge_sub *)(uintptr_t)(number + 1); /* the index never follows it */
}

static void insert(struct bench *bench, struct midge_participant *participant, uint32_t number)
{
    char subject[SUBJECT_CAP];

    if (midge_subindex_insert(bench->index, participant, 0,
                              make_pattern(bench->options, subject, number), midge_slice_text(""),
                              sub_of(number), &bench->records[number]) != MIDGE_OK)
        fail("no memory for the subscriptions");
    midge_reclaim_quiescent(participant);
}

static void remove_one(struct bench *bench, struct midge_participant *participant, uint32_t number)
{
    midge_subindex_remove(bench->index, participant, bench->records[number], midge_slice_text(""),
                          sub_of(number));
    midge_reclaim_quiescent(participant);
}

static void drain(struct midge_participant *participant)
{
    while (midge_reclaim_waiting(participant) > 0)
        midge_reclaim_quiescent(participant);
}

static bool is_stopped(const struct writer *writer)
{
    return atomic_load_explicit(&writer->stop, memory_order_relaxed);
}

static void *writer_run(void *context)
{
    struct writer *writer = context;
    struct bench *bench = writer->bench;
    const uint64_t begin_ns = midge_process_now_ns();
    uint32_t picked = 0;

    if (bench->options->writer_cpu != UINT32_MAX &&
        midge_process_pin(bench->options->writer_cpu) != MIDGE_OK)
        fail("--writer-cpu");
    midge_reclaim_online(bench->writer);
    while (!is_stopped(writer)) {
        const uint64_t paces = (midge_process_now_ns() - begin_ns) / PACE_NS;
        const uint64_t due = paces * writer->rate / (NS_PER_S / PACE_NS);

        while (writer->count < due && !is_stopped(writer)) {
            if (writer->count % 2 == 0) {
                picked = random_below(&writer->random_state, bench->options->subscriptions);
                remove_one(bench, bench->writer, picked);
            } else {
                insert(bench, bench->writer, picked);
            }
            writer->count++;
        }
        midge_reclaim_offline(bench->writer);
        midge_process_sleep_until_ns(begin_ns + (paces + 1) * PACE_NS);
        midge_reclaim_online(bench->writer);
    }
    writer->cpu_ns = cpu_now_ns();
    if (writer->count % 2 != 0)
        insert(bench, bench->writer, picked);
    drain(bench->writer);
    midge_reclaim_offline(bench->writer);
    return NULL;
}

/* ---- matches ---- */

static void match_some(struct bench *bench, enum locality locality, uint32_t count,
                       struct slice *sum)
{
    for (uint32_t i = 0; i < count; i++) {
        const char *query;
        const struct midge_match *match;

        if (bench->cursor ==
            (locality == LOCALITY_HOT ? bench->options->hot : bench->options->queries))
            bench->cursor = 0;
        query = bench->queries[bench->cursor++];
        match = midge_subindex_match(bench->reader, 0, midge_slice_text(query));
        for (uint32_t j = 0; j < match->plain_set_count; j++)
            sum->found += match->plain_sets[j].count;
    }
    midge_reclaim_quiescent(bench->participant);
}

static struct slice run_slice(struct bench *bench, enum locality locality)
{
    const uint64_t wanted_ns = bench->options->round_ms * NS_PER_MS;
    /* One match of a large bomb takes longer than a slice should. */
    const uint32_t step = bench->options->mix == MIX_BOMB ? 1 : STEP_COUNT;
    struct midge_subindex_cache_counts before;
    struct midge_subindex_cache_counts after;
    const uint64_t visits = midge_subindex_visits(bench->reader);
    const uint64_t wall_ns = midge_process_now_ns();
    const uint64_t begin_ns = cpu_now_ns();
    struct slice slice = {0};
    uint64_t count = 0;
    uint64_t used_ns;

    bench->cursor =
        locality == LOCALITY_HOT ? 0 : random_below(&bench->random_state, bench->options->queries);
    midge_subindex_cache_counts(bench->reader, &before);
    do {
        match_some(bench, locality, step, &slice);
        count += step;
        used_ns = cpu_now_ns() - begin_ns;
    } while (used_ns < wanted_ns);
    midge_subindex_cache_counts(bench->reader, &after);
    slice.match_ns = (double)used_ns / (double)count;
    slice.matches_per_s =
        (double)count * (double)NS_PER_S / (double)(midge_process_now_ns() - wall_ns);
    slice.hits = (double)(after.hits - before.hits) / (double)count;
    slice.visits = (double)(midge_subindex_visits(bench->reader) - visits) / (double)count;
    slice.found /= (double)count;
    return slice;
}

/* One round of one rate; the writer runs beside both slices. */
static void run_rate(struct bench *bench, uint32_t round, uint32_t rate_index)
{
    struct rate_result *result = &bench->results[rate_index];
    struct writer writer = {
        .bench = bench, .rate = bench->options->rates[rate_index], .random_state = 12345 + round};
    const uint64_t begin_ns = midge_process_now_ns();
    pthread_t thread = 0;

    if (writer.rate > 0 && pthread_create(&thread, NULL, writer_run, &writer) != 0)
        fail("no thread for the changes");
    for (uint32_t i = 0; i < LOCALITY_COUNT; i++)
        result->slices[i][round] = run_slice(bench, (enum locality)i);
    result->wall_ns += midge_process_now_ns() - begin_ns;
    if (writer.rate > 0) {
        atomic_store_explicit(&writer.stop, true, memory_order_relaxed);
        /* The writer waits for what it has retired, and so for this thread. */
        midge_reclaim_offline(bench->participant);
        (void)pthread_join(thread, NULL);
        midge_reclaim_online(bench->participant);
        result->change_count += writer.count;
        result->change_cpu_ns += writer.cpu_ns;
    }
}

static void run(struct bench *bench)
{
    const struct options *options = bench->options;
    struct midge_subindex_counts before;
    struct midge_subindex_counts after;
    uint64_t begin_ns;

    midge_subindex_counts(bench->index, &before);
    begin_ns = cpu_now_ns();
    for (uint32_t i = 0; i < options->subscriptions; i++)
        insert(bench, bench->participant, i);
    bench->insert_ns = (double)(cpu_now_ns() - begin_ns) / options->subscriptions;
    drain(bench->participant);
    midge_subindex_counts(bench->index, &after);
    bench->bytes_each = (double)(after.bytes - before.bytes) / options->subscriptions;
    make_queries(bench);
    (void)run_slice(bench, LOCALITY_UNIFORM); /* warm-up */
    for (uint32_t round = 0; round < options->rounds; round++) {
        for (uint32_t i = 0; i < options->rate_count; i++)
            run_rate(bench, round, round % 2 == 0 ? i : options->rate_count - 1 - i);
    }
    begin_ns = cpu_now_ns();
    for (uint32_t i = 0; i < options->subscriptions; i++)
        remove_one(bench, bench->participant, i);
    bench->remove_ns = (double)(cpu_now_ns() - begin_ns) / options->subscriptions;
    drain(bench->participant);
    midge_subindex_counts(bench->index, &after);
    if (after.bytes != before.bytes || after.nodes != 0 || after.records != 0)
        fail("the memory of the index did not come back");
}

/* ---- report ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;

    return (x > y) - (x < y);
}

/* What the rounds of one rate and locality say together. */
struct summary {
    double low_ns;
    double median_ns;
    double high_ns;
    struct slice mean;
};

static struct summary summarize(const struct slice *slices, uint32_t count)
{
    double ns[ROUNDS_MAX];
    struct summary summary = {0};

    for (uint32_t i = 0; i < count; i++) {
        ns[i] = slices[i].match_ns;
        summary.mean.matches_per_s += slices[i].matches_per_s / count;
        summary.mean.hits += slices[i].hits / count;
        summary.mean.visits += slices[i].visits / count;
        summary.mean.found += slices[i].found / count;
    }
    qsort(ns, count, sizeof(ns[0]), compare_doubles);
    summary.low_ns = ns[0];
    summary.median_ns = count % 2 != 0 ? ns[count / 2] : (ns[count / 2 - 1] + ns[count / 2]) / 2;
    summary.high_ns = ns[count - 1];
    return summary;
}

static const char *const locality_names[LOCALITY_COUNT] = {"uniform", "hot"};

static void print_json(const struct bench *bench)
{
    const struct options *options = bench->options;

    printf("{\"mode\":\"index\",\"subscriptions\":%u,\"mix\":\"%s\",\"rounds\":%u,\"round_ms\":%u,"
           "\"queries\":%u,\"hot\":%u,\"insert_ns\":%.1f,\"remove_ns\":%.1f,\"bytes_each\":%.1f,"
           "\"rates\":[",
           options->subscriptions, mix_names[options->mix], options->rounds, options->round_ms,
           options->queries, options->hot, bench->insert_ns, bench->remove_ns, bench->bytes_each);
    for (uint32_t i = 0; i < options->rate_count; i++) {
        const struct rate_result *result = &bench->results[i];

        printf("%s{\"changes_wanted\":%u,\"changes\":%" PRIu64 ",\"changes_per_s\":%.0f,"
               "\"change_ns\":%.1f",
               i > 0 ? "," : "", options->rates[i], result->change_count,
               (double)result->change_count * (double)NS_PER_S / (double)result->wall_ns,
               result->change_count > 0
                   ? (double)result->change_cpu_ns / (double)result->change_count
                   : 0.0);
        for (uint32_t j = 0; j < LOCALITY_COUNT; j++) {
            const struct summary all = summarize(result->slices[j], options->rounds);

            printf(",\"%s\":{\"match_ns\":%.1f,\"low_ns\":%.1f,\"high_ns\":%.1f,"
                   "\"matches_per_s\":%.0f,\"hits\":%.4f,\"visits\":%.2f,\"found\":%.4f}",
                   locality_names[j], all.median_ns, all.low_ns, all.high_ns,
                   all.mean.matches_per_s, all.mean.hits, all.mean.visits, all.mean.found);
        }
        printf("}");
    }
    printf("]}\n");
}

static void print_table(const struct bench *bench)
{
    const struct options *options = bench->options;

    printf("%u subscriptions, %s: %.1f bytes each, insert %.0f ns, remove %.0f ns\n"
           "%u rounds of %u ms; ns of CPU time, median (lowest to highest round)\n\n"
           "%11s %11s %9s  %-8s %24s %11s %7s %9s %8s\n",
           options->subscriptions, mix_names[options->mix], bench->bytes_each, bench->insert_ns,
           bench->remove_ns, options->rounds, options->round_ms, "changes/s", "made/s", "ns/change",
           "queries", "ns/match", "matches/s", "cached", "nodes", "found");
    for (uint32_t i = 0; i < options->rate_count; i++) {
        const struct rate_result *result = &bench->results[i];

        for (uint32_t j = 0; j < LOCALITY_COUNT; j++) {
            const struct summary all = summarize(result->slices[j], options->rounds);
            char match[64];

            (void)snprintf(match, sizeof(match), "%.1f (%.1f to %.1f)", all.median_ns, all.low_ns,
                           all.high_ns);
            printf("%11u %11.0f %9.0f  %-8s %24s %11.0f %6.1f%% %9.2f %8.2f\n", options->rates[i],
                   (double)result->change_count * (double)NS_PER_S / (double)result->wall_ns,
                   result->change_count > 0
                       ? (double)result->change_cpu_ns / (double)result->change_count
                       : 0.0,
                   locality_names[j], match, all.mean.matches_per_s, all.mean.hits * 100,
                   all.mean.visits, all.mean.found);
        }
    }
}

/* ---- command line ---- */

static bool parse_number(const char *text, uint32_t min, uint32_t max, const char **end_out,
                         uint32_t *value_out)
{
    char *end = NULL;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    const unsigned long value = strtoul(text, &end, 10);

    *end_out = end;
    if (errno != 0 || value < min || value > max)
        return false;
    *value_out = (uint32_t)value;
    return true;
}

static bool parse_rates(struct options *options, const char *text)
{
    options->rate_count = 0;
    for (;;) {
        if (options->rate_count == RATES_MAX ||
            !parse_number(text, 0, CHANGES_MAX, &text, &options->rates[options->rate_count++]))
            return false;
        if (*text == '\0')
            return true;
        if (*text++ != ',')
            return false;
    }
}

static bool parse_mix(struct options *options, const char *text)
{
    for (uint32_t i = 0; i < MIX_COUNT; i++) {
        if (strcmp(text, mix_names[i]) == 0) {
            options->mix = (enum mix)i;
            return true;
        }
    }
    return false;
}

enum option_code {
    OPTION_HELP = 1,
    OPTION_MIX,
    OPTION_CHANGES,
    OPTION_JSON,
    OPTION_NUMBER
};

static const struct option names[] = {
    {"help", no_argument, NULL, OPTION_HELP},
    {"mix", required_argument, NULL, OPTION_MIX},
    {"changes", required_argument, NULL, OPTION_CHANGES},
    {"json", no_argument, NULL, OPTION_JSON},
    /* In the order of the table in parse(). */
    {"subscriptions", required_argument, NULL, OPTION_NUMBER},
    {"rounds", required_argument, NULL, OPTION_NUMBER + 1},
    {"round-ms", required_argument, NULL, OPTION_NUMBER + 2},
    {"queries", required_argument, NULL, OPTION_NUMBER + 3},
    {"hot", required_argument, NULL, OPTION_NUMBER + 4},
    {"cpu", required_argument, NULL, OPTION_NUMBER + 5},
    {"writer-cpu", required_argument, NULL, OPTION_NUMBER + 6},
    {NULL, 0, NULL, 0},
};

static bool parse(struct options *options, int argc, char **argv)
{
    const struct {
        uint32_t *value;
        uint32_t min;
        uint32_t max;
    } numbers[NUMBERS] = {
        {&options->subscriptions, 2, SUBSCRIPTIONS_MAX},
        {&options->rounds, 1, ROUNDS_MAX},
        {&options->round_ms, 1, 10000},
        {&options->queries, 1, QUERIES_MAX},
        {&options->hot, 1, QUERIES_MAX},
        {&options->cpu, 0, CPU_SETSIZE - 1},
        {&options->writer_cpu, 0, CPU_SETSIZE - 1},
    };
    int option = 0;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        const char *end = "";
        bool ok = true;

        if (option == OPTION_HELP) {
            (void)fputs(usage, stdout);
            exit(EXIT_SUCCESS);
        }
        options->is_json = options->is_json || option == OPTION_JSON;
        if (option == OPTION_MIX)
            ok = parse_mix(options, optarg);
        else if (option == OPTION_CHANGES)
            ok = parse_rates(options, optarg);
        else if (option >= OPTION_NUMBER && option < OPTION_NUMBER + (int)NUMBERS)
            ok = parse_number(optarg, numbers[option - OPTION_NUMBER].min,
                              numbers[option - OPTION_NUMBER].max, &end,
                              numbers[option - OPTION_NUMBER].value);
        if (!ok || *end != '\0' || option == '?')
            return false;
    }
    return optind == argc && options->hot <= options->queries;
}

int main(int argc, char **argv)
{
    struct options options = {.subscriptions = 1000000,
                              .rounds = 5,
                              .round_ms = 200,
                              .queries = 1000000,
                              .hot = 1024,
                              .cpu = UINT32_MAX,
                              .writer_cpu = UINT32_MAX,
                              .rates = {0, 10000, 100000},
                              .rate_count = 3,
                              .mix = MIX_TENTH};
    static struct bench bench = {.random_state = 1}; /* style: too large for the stack */
    struct midge_reclaim *reclaim = midge_reclaim_create();

    if (!parse(&options, argc, argv)) {
        (void)fputs(usage, stderr);
        return EXIT_FAILURE;
    }
    if (options.cpu != UINT32_MAX && midge_process_pin(options.cpu) != MIDGE_OK)
        fail("--cpu");
    bench.options = &options;
    bench.participant = midge_reclaim_register(reclaim);
    bench.writer = midge_reclaim_register(reclaim);
    bench.index = midge_subindex_create(reclaim, 1);
    bench.reader = midge_subindex_reader_create(bench.index, bench.participant);
    bench.records = calloc(options.subscriptions, sizeof(*bench.records));
    bench.queries = calloc(options.queries, sizeof(*bench.queries));
    if (bench.reader == NULL || bench.records == NULL || bench.queries == NULL)
        fail("no memory");
    midge_reclaim_online(bench.participant);
    run(&bench);
    if (options.is_json)
        print_json(&bench);
    else
        print_table(&bench);
    midge_reclaim_offline(bench.participant);
    midge_subindex_reader_destroy(bench.reader);
    midge_subindex_destroy(bench.index);
    midge_reclaim_destroy(reclaim);
    free(bench.records);
    free(bench.queries);
    return EXIT_SUCCESS;
}
