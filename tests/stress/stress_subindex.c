/*
 * Subject index with real threads: writers insert and remove, readers match.
 *
 * Goal: what the index promises across threads. Each check can fail:
 *   - a permanent subscription is in every match of its subject, once;
 *   - whatever is returned is alive (a removed subscription is poisoned and freed after its grace
 *     period) and its pattern matches the subject;
 *   - an insert that returned before the match began is seen, unless its removal has begun;
 *   - a removal that returned before the match began is seen.
 * For the last two a writer shows a subscription on a board (release) and a reader takes it from
 * there (acquire), which is all the order that there is between the two.
 * Method: writers share a few hot subjects (large sets, queue groups, cached results), and have
 * many of their own (growing tables, trie paths that come and go). Everything is removed at the
 * end, and counts and memory must be what they were.
 *
 * Arguments: [seed] [--ops N], per thread; the seed is printed.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "midge/reclaim.h"
#include "midge/subindex.h"
#include "midge/subject.h"

#define WRITER_COUNT    3
#define READER_COUNT    3
#define PERMANENT_COUNT 8
#define WRITER_SUBS_MAX 900u
#define SUBJECT_LEN_MAX 48
#define STATE_ALIVE     UINT64_C(0x600dc0de600dc0de)
#define STATE_DEAD      UINT64_C(0xdeadbeefdeadbeef)

struct midge_sub {
    uint64_t state;        /* plain on purpose: a late reader is a race, and poison */
    _Atomic bool removing; /* its removal has begun */
    bool permanent;
    char subject[SUBJECT_LEN_MAX];
    char queue[4];
    struct midge_subindex_record *record;
};

struct writer {
    pthread_t thread;
    uint32_t number;
    uint64_t random_state;
    struct midge_participant *participant;
    struct midge_sub *subs[WRITER_SUBS_MAX];
    uint32_t sub_count;
    /* Boards; what is shown here is not retired. */
    struct midge_sub *_Atomic inserted;
    struct midge_sub *_Atomic removed;
};

struct reader {
    pthread_t thread;
    uint64_t random_state;
    struct midge_participant *participant;
    struct midge_subindex_reader *reader;
    uint64_t found_count;
    uint64_t insert_check_count;
    uint64_t remove_check_count;
};

static struct midge_reclaim *reclaim;
static struct midge_subindex *subindex;
static struct midge_sub *permanent[PERMANENT_COUNT];
static struct writer writers[WRITER_COUNT];
static struct reader readers[READER_COUNT];
static uint64_t op_count = 60000;

static void fail(const char *what, const char *subject)
{
    printf("FAILED: %s (subject \"%s\")\n", what, subject);
    exit(1);
}

static uint32_t random_below(uint64_t *state, uint32_t bound)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)((*state * UINT64_C(0x2545F4914F6CDD1D) >> 32) % bound);
}

/* A subject that others use too, or one of the writer's own. */
static void make_pattern(struct writer *writer, char *subject_out)
{
    const uint32_t kind = random_below(&writer->random_state, 100);
    const uint32_t number = random_below(&writer->random_state, 500);

    if (kind < 35)
        (void)snprintf(subject_out, SUBJECT_LEN_MAX, "hot.0");
    else if (kind < 45)
        (void)snprintf(subject_out, SUBJECT_LEN_MAX, "hot.%u", number % PERMANENT_COUNT);
    else if (kind < 50)
        (void)snprintf(subject_out, SUBJECT_LEN_MAX, "hot.*");
    else if (kind < 52)
        (void)snprintf(subject_out, SUBJECT_LEN_MAX, "*.%u", number % PERMANENT_COUNT);
    else if (kind < 53)
        (void)snprintf(subject_out, SUBJECT_LEN_MAX, ">");
    else if (kind < 75)
        (void)snprintf(subject_out, SUBJECT_LEN_MAX, "own.%u.%u", writer->number, number);
    else if (kind < 90)
        (void)snprintf(subject_out, SUBJECT_LEN_MAX, "own.%u.*.x.%u", number % 20, number);
    else
        (void)snprintf(subject_out, SUBJECT_LEN_MAX, "w%u.*.%u.>", number, number % 3);
}

/* A subject that the pattern matches. */
static void make_subject(const char *pattern, char *subject_out)
{
    uint32_t len = 0;

    for (; *pattern != '\0'; pattern++)
        subject_out[len++] = *pattern == '*' || *pattern == '>' ? '7' : *pattern;
    subject_out[len] = '\0';
}

static struct midge_sub *sub_insert(struct midge_participant *participant, const char *subject,
                                    const char *queue)
{
    struct midge_sub *sub = calloc(1, sizeof(*sub));

    if (sub == NULL)
        fail("no memory", subject);
    sub->state = STATE_ALIVE;
    (void)snprintf(sub->subject, sizeof(sub->subject), "%s", subject);
    (void)snprintf(sub->queue, sizeof(sub->queue), "%s", queue);
    if (midge_subindex_insert(subindex, participant, 0, midge_slice_text(sub->subject),
                              midge_slice_text(sub->queue), sub, &sub->record) != MIDGE_OK)
        fail("insert", subject);
    return sub;
}

static void sub_free_cb(void *context, void *object)
{
    struct midge_sub *sub = object;

    (void)context;
    sub->state = STATE_DEAD;
    free(sub);
}

static void writer_insert(struct writer *writer)
{
    static const char *const queues[] = {"", "", "", "", "", "", "q0", "q1"};
    char subject[SUBJECT_LEN_MAX];
    struct midge_sub *sub;

    make_pattern(writer, subject);
    sub = sub_insert(writer->participant, subject, queues[random_below(&writer->random_state, 8)]);
    writer->subs[writer->sub_count++] = sub;
    /* Release pairs with the acquire in check_inserted(). */
    atomic_store_explicit(&writer->inserted, sub, memory_order_release);
}

static void writer_remove(struct writer *writer)
{
    const uint32_t index = random_below(&writer->random_state, writer->sub_count);
    struct midge_sub *sub = writer->subs[index];
    struct midge_sub *previous = atomic_load_explicit(&writer->removed, memory_order_relaxed);

    writer->subs[index] = writer->subs[--writer->sub_count];
    if (atomic_load_explicit(&writer->inserted, memory_order_relaxed) == sub)
        atomic_store_explicit(&writer->inserted, NULL, memory_order_release);
    atomic_store_explicit(&sub->removing, true, memory_order_release);
    midge_subindex_remove(subindex, writer->participant, sub->record, midge_slice_text(sub->queue),
                          sub);
    /* Release pairs with the acquire in check_removed(). */
    atomic_store_explicit(&writer->removed, sub, memory_order_release);
    if (previous != NULL)
        midge_reclaim_retire(writer->participant, previous, NULL, sub_free_cb);
}

static void *writer_main(void *argument)
{
    struct writer *writer = argument;

    for (uint64_t i = 0; i < op_count; i++) {
        /* Up and down, so that tables and sets grow and shrink. */
        const uint32_t target = (i / 3000) % 2 == 0 ? WRITER_SUBS_MAX : WRITER_SUBS_MAX / 8;

        if (random_below(&writer->random_state, 2 * target) >= writer->sub_count &&
            writer->sub_count < WRITER_SUBS_MAX)
            writer_insert(writer);
        else if (writer->sub_count > 0)
            writer_remove(writer);
        if (i % 8 == 0) {
            midge_reclaim_online(writer->participant);
            midge_reclaim_quiescent(writer->participant);
            midge_reclaim_offline(writer->participant);
        }
    }
    while (writer->sub_count > 0)
        writer_remove(writer);
    return NULL;
}

/* How often `wanted` is in the sets; everything else in them is checked on the way. */
static uint32_t check_sets(struct reader *reader, const struct midge_subset *sets,
                           uint32_t set_count, const char *subject, struct midge_slice queue,
                           const struct midge_sub *wanted)
{
    uint32_t found = 0;

    for (uint32_t i = 0; i < set_count; i++) {
        for (uint32_t j = 0; j < sets[i].count; j++) {
            const struct midge_sub *sub = sets[i].subs[j];

            if (sub->state != STATE_ALIVE)
                fail("a dead subscription was returned", subject);
            if (!midge_slice_equal(midge_slice_text(sub->queue), queue))
                fail("a subscription was returned in the wrong group", subject);
            /* Costs most, so not for each of a large set. */
            if (j % 64 == 0 &&
                !midge_subject_matches(midge_slice_text(sub->subject), midge_slice_text(subject)))
                fail("a subscription that does not match was returned", subject);
            found += sub == wanted;
            reader->found_count++;
        }
    }
    return found;
}

static uint32_t check_match(struct reader *reader, const char *subject,
                            const struct midge_sub *wanted)
{
    const struct midge_match *match =
        midge_subindex_match(reader->reader, 0, midge_slice_text(subject));
    uint32_t found = check_sets(reader, match->plain_sets, match->plain_set_count, subject,
                                midge_slice_text(""), wanted);

    for (uint32_t i = 0; i < match->queue_count; i++) {
        const struct midge_queue_match *queue = &match->queues[i];

        found += check_sets(reader, match->queue_sets + queue->set_first, queue->set_count, subject,
                            queue->name, wanted);
    }
    return found;
}

static void check_permanent(struct reader *reader)
{
    const uint32_t number = random_below(&reader->random_state, PERMANENT_COUNT);
    char subject[SUBJECT_LEN_MAX];

    make_subject(permanent[number]->subject, subject);
    if (check_match(reader, subject, permanent[number]) != 1)
        fail("a permanent subscription was not returned once", subject);
}

static void check_inserted(struct reader *reader, struct writer *writer)
{
    /* Acquire pairs with the release in writer_insert(). */
    struct midge_sub *sub = atomic_load_explicit(&writer->inserted, memory_order_acquire);
    char subject[SUBJECT_LEN_MAX];
    uint32_t found;

    if (sub == NULL)
        return;
    make_subject(sub->subject, subject);
    found = check_match(reader, subject, sub);
    if (found > 1 || (found == 0 && !atomic_load_explicit(&sub->removing, memory_order_acquire)))
        fail("an inserted subscription was not returned", subject);
    reader->insert_check_count += found;
}

static void check_removed(struct reader *reader, struct writer *writer)
{
    /* Acquire pairs with the release in writer_remove(). */
    struct midge_sub *sub = atomic_load_explicit(&writer->removed, memory_order_acquire);
    char subject[SUBJECT_LEN_MAX];

    if (sub == NULL)
        return;
    make_subject(sub->subject, subject);
    if (check_match(reader, subject, sub) != 0)
        fail("a removed subscription was returned", subject);
    reader->remove_check_count++;
}

static void *reader_main(void *argument)
{
    struct reader *reader = argument;

    midge_reclaim_online(reader->participant);
    for (uint64_t i = 0; i < op_count; i++) {
        const uint32_t kind = random_below(&reader->random_state, 10);
        struct writer *writer = &writers[random_below(&reader->random_state, WRITER_COUNT)];

        if (kind < 3)
            check_permanent(reader);
        else if (kind < 6)
            check_inserted(reader, writer);
        else
            check_removed(reader, writer);
        if (kind == 7) {
            midge_reclaim_quiescent(reader->participant);
        } else if (kind == 8) {
            midge_reclaim_offline(reader->participant);
            midge_reclaim_online(reader->participant);
        }
    }
    midge_reclaim_offline(reader->participant);
    return NULL;
}

static void start(uint64_t seed)
{
    static const char *const patterns[PERMANENT_COUNT] = {"hot.0", "hot.1", "hot.*",   "*.3",
                                                          "hot.>", ">",     "own.1.*", "hot.0"};

    reclaim = midge_reclaim_create();
    subindex = midge_subindex_create(reclaim, seed);
    for (uint32_t i = 0; i < WRITER_COUNT; i++) {
        writers[i].number = i;
        writers[i].random_state = seed * 31 + UINT64_C(2) * i + 1;
        writers[i].participant = midge_reclaim_register(reclaim);
    }
    for (uint32_t i = 0; i < PERMANENT_COUNT; i++)
        permanent[i] = sub_insert(writers[0].participant, patterns[i], i == 7 ? "q0" : "");
    for (uint32_t i = 0; i < READER_COUNT; i++) {
        readers[i].random_state = seed * 37 + UINT64_C(2) * i + 1;
        readers[i].participant = midge_reclaim_register(reclaim);
        readers[i].reader = midge_subindex_reader_create(subindex, readers[i].participant);
        if (readers[i].reader == NULL)
            fail("no memory", "");
    }
}

static void run(void)
{
    bool started = true;

    for (uint32_t i = 0; i < WRITER_COUNT; i++)
        started &= pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]) == 0;
    for (uint32_t i = 0; i < READER_COUNT; i++)
        started &= pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]) == 0;
    if (!started)
        fail("no thread", "");
    for (uint32_t i = 0; i < WRITER_COUNT; i++)
        (void)pthread_join(writers[i].thread, NULL);
    for (uint32_t i = 0; i < READER_COUNT; i++)
        (void)pthread_join(readers[i].thread, NULL);
}

static void drain(void)
{
    for (uint32_t i = 0; i < WRITER_COUNT; i++) {
        midge_reclaim_online(writers[i].participant);
        while (midge_reclaim_waiting(writers[i].participant) > 0)
            midge_reclaim_quiescent(writers[i].participant);
        midge_reclaim_offline(writers[i].participant);
    }
}

static void finish(const struct midge_subindex_counts *first)
{
    struct midge_subindex_cache_counts cache;
    struct midge_subindex_counts last;
    uint64_t hit_count = 0;
    uint64_t insert_check_count = 0;
    uint64_t remove_check_count = 0;

    drain();
    midge_subindex_counts(subindex, &last);
    for (uint32_t i = 0; i < READER_COUNT; i++) {
        midge_subindex_cache_counts(readers[i].reader, &cache);
        hit_count += cache.hits;
        insert_check_count += readers[i].insert_check_count;
        remove_check_count += readers[i].remove_check_count;
        midge_subindex_reader_destroy(readers[i].reader);
    }
    printf("%" PRIu64 " inserts, %" PRIu64 " removes, %" PRIu64 " cache hits, %" PRIu64
           " inserts and %" PRIu64 " removals seen\n",
           last.inserts, last.removes, hit_count, insert_check_count, remove_check_count);
    if (last.subs != first->subs || last.records != first->records || last.nodes != first->nodes ||
        last.bytes != first->bytes)
        fail("counts did not return", "");
    if (hit_count == 0 || insert_check_count == 0 || remove_check_count == 0)
        fail("the run proved nothing", "");
    midge_subindex_destroy(subindex);
    midge_reclaim_destroy(reclaim);
    for (uint32_t i = 0; i < PERMANENT_COUNT; i++)
        free(permanent[i]);
    for (uint32_t i = 0; i < WRITER_COUNT; i++)
        free(atomic_load(&writers[i].removed));
}

int main(int argc, char **argv)
{
    uint64_t seed = (uint64_t)time(NULL);
    struct midge_subindex_counts first;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--ops") == 0 && i + 1 < argc)
            op_count = strtoull(argv[++i], NULL, 0);
        else
            seed = strtoull(argv[i], NULL, 0);
    }
    printf("seed %" PRIu64 ", ops %" PRIu64 "\n", seed, op_count);
    (void)fflush(stdout);
    start(seed);
    drain();
    midge_subindex_counts(subindex, &first);
    run();
    finish(&first);
    return 0;
}
