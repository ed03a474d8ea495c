/*
 * What one match, insert and remove costs, and what a subscription weighs.
 *
 * Method: one thread, its CPU time; four-token subjects of 24 bytes. Queries are drawn uniformly
 * over all subscriptions, which is the worst locality; `hot` draws from 1,024, which fit the match
 * cache. Wildcards are subjects of literals with `*` for some tokens, but not for the third, in all
 * 7 ways. Arguments: [LITERALS] [WILDCARDS], by default 1000000 and 100000. Compare two builds, in
 * turns: absolute numbers say as much about the machine.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "midge/reclaim.h"
#include "midge/subindex.h"

#define QUERY_COUNT 1000000u
#define HOT_COUNT   1024u
#define SUBJECT_CAP 40u

struct bench {
    struct midge_participant *participant;
    struct midge_subindex *index;
    struct midge_subindex_reader *reader;
    struct midge_subindex_record **records;
    char (*queries)[SUBJECT_CAP];
    uint64_t random_state;
    uint64_t started_at_ns;
    uint64_t set_count; /* so that no match is left out by the compiler */
};

/* Time that this thread has run, so that other load on the machine counts less. */
static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint32_t random_below(struct bench *bench, uint64_t bound)
{
    bench->random_state ^= bench->random_state << 13;
    bench->random_state ^= bench->random_state >> 7;
    bench->random_state ^= bench->random_state << 17;
    return (uint32_t)(bench->random_state % bound);
}

/* Bits of the tokens that are `*` in a wildcard. */
static const uint32_t masks[] = {1, 2, 3, 8, 9, 10, 11};

/* The subject of a number. */
static void make_subject(char *subject_out, uint32_t number, uint32_t mask)
{
    static const char *const regions[] = {"eu0", "us1", "ap2", "sa3"};
    static const char *const verbs[] = {"get_1", "put_2", "list3", "stat4"};
    char name[16];

    (void)snprintf(name, sizeof(name), "%08x", number * 2654435761u);
    (void)snprintf(subject_out, SUBJECT_CAP, "%s.%s.%s.%s", (mask & 1) != 0 ? "*" : "svc",
                   (mask & 2) != 0 ? "*" : regions[number & 3], (mask & 4) != 0 ? "*" : name,
                   (mask & 8) != 0 ? "*" : verbs[number >> 2 & 3]);
}

static void report(struct bench *bench, const char *what, uint64_t count)
{
    const uint64_t elapsed_ns = now_ns() - bench->started_at_ns;

    printf("%-52s %8.1f ns\n", what, (double)elapsed_ns / (double)count);
}

static void run_matches(struct bench *bench, const char *what, uint32_t query_count)
{
    bench->set_count = 0;
    bench->started_at_ns = now_ns();
    for (uint32_t i = 0; i < QUERY_COUNT; i++) {
        const struct midge_match *match = midge_subindex_match(
            bench->reader, 0, midge_slice_text(bench->queries[i % query_count]));

        bench->set_count += match->plain_set_count;
        if (i % 64 == 0)
            midge_reclaim_quiescent(bench->participant);
    }
    report(bench, what, QUERY_COUNT);
    printf("%-52s %8.2f\n", "  sets per match", (double)bench->set_count / QUERY_COUNT);
}

static void insert_all(struct bench *bench, uint32_t first, uint32_t count, uint32_t literal_count,
                       bool wildcards)
{
    struct midge_subindex_counts before;
    struct midge_subindex_counts after;
    char subject[SUBJECT_CAP];

    midge_subindex_counts(bench->index, &before);
    bench->started_at_ns = now_ns();
    for (uint32_t i = 0; i < count; i++) {
        make_subject(subject, wildcards ? random_below(bench, literal_count) : i,
                     wildcards ? masks[i % 7] : 0);
        if (midge_subindex_insert(bench->index, bench->participant, 0, midge_slice_text(subject),
                                  midge_slice_text(""),
                                  (struct midge_sub *)(uintptr_t)(first + i + 1),
                                  &bench->records[first + i]) != MIDGE_OK)
            exit(1);
        midge_reclaim_quiescent(bench->participant);
    }
    report(bench, wildcards ? "insert, wildcard" : "insert, literal", count);
    midge_subindex_counts(bench->index, &after);
    printf("%-52s %8.1f B\n", "  memory per subscription",
           (double)(after.bytes - before.bytes) / (double)count);
}

static void run(struct bench *bench, uint32_t literal_count, uint32_t wildcard_count)
{
    insert_all(bench, 0, literal_count, literal_count, false);
    for (uint32_t i = 0; i < QUERY_COUNT; i++)
        make_subject(bench->queries[i], random_below(bench, literal_count), 0);
    run_matches(bench, "match, literals, uniform", QUERY_COUNT);
    run_matches(bench, "match, literals, hot", HOT_COUNT);
    insert_all(bench, literal_count, wildcard_count, literal_count, true);
    run_matches(bench, "match, literals and wildcards, uniform", QUERY_COUNT);
    run_matches(bench, "match, literals and wildcards, hot", HOT_COUNT);
    for (uint32_t i = 0; i < QUERY_COUNT; i++)
        (void)snprintf(bench->queries[i], SUBJECT_CAP, "_INBOX.%08x.%u", i, i);
    run_matches(bench, "match, each subject once, nobody listens", QUERY_COUNT);
    for (uint32_t i = 0; i < QUERY_COUNT; i++)
        make_subject(bench->queries[i], literal_count + i, 0);
    run_matches(bench, "match, unknown name among the wildcards", QUERY_COUNT);
    bench->started_at_ns = now_ns();
    for (uint32_t i = 0; i < literal_count + wildcard_count; i++) {
        midge_subindex_remove(bench->index, bench->participant, bench->records[i],
                              midge_slice_text(""), (struct midge_sub *)(uintptr_t)(i + 1));
        midge_reclaim_quiescent(bench->participant);
    }
    report(bench, "remove", literal_count + wildcard_count);
}

int main(int argc, char **argv)
{
    const uint32_t literal_count = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 1000000;
    const uint32_t wildcard_count = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 0) : 100000;
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct bench bench = {.participant = midge_reclaim_register(reclaim), .random_state = 1};

    bench.index = midge_subindex_create(reclaim, 1);
    bench.reader = midge_subindex_reader_create(bench.index, bench.participant);
    bench.records = calloc((size_t)literal_count + wildcard_count, sizeof(*bench.records));
    bench.queries = calloc(QUERY_COUNT, sizeof(*bench.queries));
    if (bench.reader == NULL || bench.records == NULL || bench.queries == NULL ||
        literal_count == 0)
        exit(1);
    midge_reclaim_online(bench.participant);
    printf("%u literals, %u wildcards\n", literal_count, wildcard_count);
    run(&bench, literal_count, wildcard_count);
    midge_reclaim_offline(bench.participant);
    midge_subindex_reader_destroy(bench.reader);
    midge_subindex_destroy(bench.index);
    midge_reclaim_destroy(reclaim);
    free(bench.records);
    free(bench.queries);
    return 0;
}
