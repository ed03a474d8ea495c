/*
 * Subject index against a naive twin: a list of subscriptions and a matcher of its own.
 *
 * Goal: every match returns exactly the subscriptions whose pattern matches, each once, grouped by
 * queue; counts and memory return to where they began.
 * Method: random inserts, removes and matches over a small vocabulary (so that subjects, patterns
 * and accounts collide), between random quiescent points; then phases with large sets, many queue
 * groups, many subjects, and an allocator that often fails. Removed subscriptions are poisoned and
 * freed through the same reclaim domain, so a result that holds one too long is seen.
 *
 * Arguments: [seed] [--ops N]; the seed is printed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "midge/reclaim.h"
#include "midge/subindex.h"

#define SUBJECT_LEN_MAX 192
#define QUEUE_LEN_MAX   16
#define SUB_ALIVE       0x600dc0deu
#define SUB_DEAD        0xdeadbeefu

struct midge_sub {
    uint32_t state;
    uint32_t account;
    char subject[SUBJECT_LEN_MAX];
    char queue[QUEUE_LEN_MAX];
    struct midge_subindex_record *record;
    uint32_t list_index;
    uint32_t found_round; /* last match that returned it */
};

static struct model {
    struct midge_reclaim *reclaim;
    struct midge_participant *participant;
    struct midge_subindex *index;
    struct midge_subindex_reader *reader;
    struct midge_sub **subs;
    uint32_t sub_count;
    uint32_t sub_cap;
    uint32_t round;
    uint64_t random_state;
    uint64_t match_count;
    uint64_t found_count;
    uint64_t failed_alloc_count;
    uint32_t alloc_fail_percent; /* of the index's allocations, while one of its functions runs */
    bool in_index;
} model; /* style: a test program, one instance */

static void fail(const char *what, const char *subject)
{
    printf("FAILED: %s (subject \"%s\", round %u)\n", what, subject, model.round);
    exit(1);
}

static uint64_t random_next(void)
{
    model.random_state ^= model.random_state << 13;
    model.random_state ^= model.random_state >> 7;
    model.random_state ^= model.random_state << 17;
    return model.random_state * UINT64_C(0x2545F4914F6CDD1D) >> 16;
}

static uint32_t random_below(uint32_t bound)
{
    return (uint32_t)(random_next() % bound);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);

/* All allocations of the index for subscriptions come through here (-Wl,--wrap). */
void *__wrap_calloc(size_t count, size_t size)
{
    if (model.in_index && model.alloc_fail_percent > 0 &&
        random_below(100) < model.alloc_fail_percent) {
        model.failed_alloc_count++;
        return NULL;
    }
    return __real_calloc(count, size);
}

/* The twin's matcher: recursive over strings, on purpose unlike the index. */
static bool twin_matches(const char *pattern, const char *subject)
{
    const size_t pattern_len = strcspn(pattern, ".");
    const size_t subject_len = strcspn(subject, ".");

    if (subject_len == 0)
        return false;
    if (pattern_len == 1 && pattern[0] == '>')
        return subject[subject_len] == '\0' || twin_matches(">", subject + subject_len + 1);
    if (!(pattern_len == 1 && pattern[0] == '*') &&
        (pattern_len != subject_len || memcmp(pattern, subject, pattern_len) != 0))
        return false;
    if (pattern[pattern_len] == '\0' || subject[subject_len] == '\0')
        return pattern[pattern_len] == subject[subject_len];
    return twin_matches(pattern + pattern_len + 1, subject + subject_len + 1);
}

static void make_subject(char *subject_out, bool published)
{
    static const char *const words[] = {"a",
                                        "b",
                                        "c",
                                        "foo",
                                        "_INBOX",
                                        "x*",
                                        "*y",
                                        "a>",
                                        ">b",
                                        "**",
                                        ">>",
                                        "q",
                                        "rather-long-token-indeed",
                                        "d",
                                        "e",
                                        "f"};
    const uint32_t token_count = 1 + random_below(random_below(4) == 0 ? 9 : 4);
    const uint32_t word_count = random_below(2) == 0 ? 3 : 16;
    char *end = subject_out;

    for (uint32_t i = 0; i < token_count; i++) {
        const uint32_t kind = random_below(100);
        const char *word = words[random_below(word_count)];

        if (kind < (published ? 3u : 22u))
            word = "*";
        else if (kind < 28 && (published ? kind < 5 : i + 1 == token_count))
            word = ">";
        else if (published && kind > 97)
            word = "";
        end += snprintf(end, (size_t)(subject_out + SUBJECT_LEN_MAX - end), "%s%s",
                        i > 0 ? "." : "", word);
    }
}

static void sub_free_cb(void *context, void *object)
{
    struct midge_sub *sub = object;

    (void)context;
    memset(sub, 0xee, sizeof(*sub));
    sub->state = SUB_DEAD;
    free(sub);
}

static void sub_add(uint32_t account, const char *subject, const char *queue)
{
    struct midge_sub *sub = calloc(1, sizeof(*sub));
    enum midge_status status;

    if (sub == NULL)
        fail("no memory", subject);
    sub->state = SUB_ALIVE;
    sub->account = account;
    (void)snprintf(sub->subject, sizeof(sub->subject), "%s", subject);
    (void)snprintf(sub->queue, sizeof(sub->queue), "%s", queue);
    model.in_index = true;
    status = midge_subindex_insert(model.index, model.participant, account,
                                   midge_slice_text(sub->subject), midge_slice_text(sub->queue),
                                   sub, &sub->record);
    model.in_index = false;
    if (status == MIDGE_E_MEMORY && model.alloc_fail_percent > 0) {
        free(sub);
        return;
    }
    if (status != MIDGE_OK)
        fail("insert", subject);
    if (!midge_slice_equal(midge_subindex_subject(sub->record), midge_slice_text(subject)))
        fail("record has another subject", subject);
    if (model.sub_count == model.sub_cap) {
        model.sub_cap = model.sub_cap * 2 + 1024;
        model.subs = realloc(model.subs, model.sub_cap * sizeof(struct midge_sub *));
        if (model.subs == NULL)
            fail("no memory", subject);
    }
    sub->list_index = model.sub_count;
    model.subs[model.sub_count++] = sub;
}

static void sub_remove(uint32_t list_index)
{
    struct midge_sub *sub = model.subs[list_index];

    model.in_index = true;
    midge_subindex_remove(model.index, model.participant, sub->record, midge_slice_text(sub->queue),
                          sub);
    model.in_index = false;
    model.subs[list_index] = model.subs[--model.sub_count];
    model.subs[list_index]->list_index = list_index;
    midge_reclaim_retire(model.participant, sub, NULL, sub_free_cb);
}

/* One returned subscription: alive, of this account, matching, in the right group, not seen before.
 */
static void check_found(struct midge_sub *sub, uint32_t account, const char *subject,
                        struct midge_slice queue)
{
    if (sub->state != SUB_ALIVE)
        fail("a dead subscription was returned", subject);
    if (sub->list_index >= model.sub_count || model.subs[sub->list_index] != sub)
        fail("a removed subscription was returned", subject);
    if (sub->account != account)
        fail("a subscription of another account was returned", subject);
    if (!twin_matches(sub->subject, subject))
        fail("a subscription that does not match was returned", subject);
    if (!midge_slice_equal(midge_slice_text(sub->queue), queue))
        fail("a subscription was returned in the wrong group", subject);
    if (sub->found_round == model.round)
        fail("a subscription was returned twice", subject);
    sub->found_round = model.round;
    model.found_count++;
}

static uint64_t check_sets(const struct midge_subset *sets, uint32_t set_count, uint32_t account,
                           const char *subject, struct midge_slice queue)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < set_count; i++) {
        if (sets[i].count == 0)
            fail("an empty set was returned", subject);
        for (uint32_t j = 0; j < sets[i].count; j++)
            check_found(sets[i].subs[j], account, subject, queue);
        count += sets[i].count;
    }
    return count;
}

static void check_match(uint32_t account, const char *subject)
{
    const struct midge_match *match;
    uint64_t expected = 0;
    uint64_t count;

    model.round++;
    model.match_count++;
    match = midge_subindex_match(model.reader, account, midge_slice_text(subject));
    count = check_sets(match->plain_sets, match->plain_set_count, account, subject,
                       midge_slice_text(""));
    for (uint32_t i = 0; i < match->queue_count; i++) {
        const struct midge_queue_match *queue = &match->queues[i];
        const uint64_t members = check_sets(match->queue_sets + queue->set_first, queue->set_count,
                                            account, subject, queue->name);

        if (members != queue->member_count || queue->name.len == 0)
            fail("a queue group has a wrong number of members", subject);
        for (uint32_t j = 0; j < i && match->queue_count < 64; j++) {
            if (midge_slice_equal(match->queues[j].name, queue->name))
                fail("a queue group was returned twice", subject);
        }
        count += members;
    }
    for (uint32_t i = 0; i < model.sub_count; i++)
        expected +=
            model.subs[i]->account == account && twin_matches(model.subs[i]->subject, subject);
    if (count != expected)
        fail("a subscription that matches was not returned", subject);
}

static void check_counts(void)
{
    struct midge_subindex_counts counts;

    midge_subindex_counts(model.index, &counts);
    if (counts.subs != model.sub_count || counts.inserts - counts.removes != counts.subs)
        fail("count of subscriptions", "");
}

static void random_queue(char *queue_out)
{
    const uint32_t kind = random_below(10);

    queue_out[0] = '\0';
    if (kind < 3)
        (void)snprintf(queue_out, QUEUE_LEN_MAX, "q%u", random_below(kind == 0 ? 12 : 2));
}

/* Inserts, removes and matches; `sub_target` is where the number of subscriptions is drawn to. */
static void run_random(uint64_t op_count, uint32_t sub_target)
{
    char hot[SUBJECT_LEN_MAX] = "a.b";
    char subject[SUBJECT_LEN_MAX];
    char queue[QUEUE_LEN_MAX];

    for (uint64_t i = 0; i < op_count; i++) {
        const uint32_t kind = random_below(100);
        const uint32_t account = random_below(3) == 0 ? random_below(4) * 77777777u : 0;

        if (kind < 25 && random_below(2 * sub_target) >= model.sub_count) {
            make_subject(subject, false);
            random_queue(queue);
            sub_add(account, subject, queue);
        } else if (kind < 40 && model.sub_count > 0 &&
                   random_below(2 * sub_target) < model.sub_count) {
            sub_remove(random_below(model.sub_count));
        } else if (kind < 60) {
            make_subject(subject, true);
            check_match(account, subject);
        } else if (kind < 90) {
            check_match(0, hot);
        } else if (kind < 95) {
            make_subject(hot, true);
        } else {
            midge_reclaim_quiescent(model.participant);
        }
        check_counts();
    }
}

/* One subject with many subscriptions, so that its set has chunks, then down again. */
static void run_large_set(const char *pattern, const char *subject, const char *queue)
{
    const uint32_t before = model.sub_count;

    for (uint32_t i = 0; i < 4000; i++) {
        sub_add(0, pattern, queue);
        if (i % 499 == 0)
            check_match(0, subject);
        if (i % 16 == 0)
            midge_reclaim_quiescent(model.participant);
    }
    while (model.sub_count > before) {
        sub_remove(before + random_below(model.sub_count - before));
        if (model.sub_count % 499 == 0)
            check_match(0, subject);
        if (model.sub_count % 16 == 0)
            midge_reclaim_quiescent(model.participant);
    }
    check_match(0, subject);
}

static void run_many_groups(void)
{
    const uint32_t before = model.sub_count;
    char queue[QUEUE_LEN_MAX];

    for (uint32_t i = 0; i < 3000; i++) {
        (void)snprintf(queue, sizeof(queue), "group%u", random_below(2000));
        sub_add(0, i % 3 == 0 ? "many.*" : "many.groups", queue);
        if (i % 301 == 0)
            check_match(0, "many.groups");
    }
    while (model.sub_count > before) {
        sub_remove(before + random_below(model.sub_count - before));
        if (model.sub_count % 301 == 0)
            check_match(0, "many.groups");
    }
}

/* Many records and nodes, so that tables grow and shrink. */
static void run_many_subjects(void)
{
    const uint32_t before = model.sub_count;
    char subject[SUBJECT_LEN_MAX];

    for (uint32_t i = 0; i < 30000; i++) {
        (void)snprintf(subject, sizeof(subject), "t%u.%s%u", i, i % 3 == 0 ? "*." : "", i % 7);
        sub_add(i % 2, subject, "");
        if (i % 701 == 0) {
            const uint32_t number = random_below(i + 1);

            (void)snprintf(subject, sizeof(subject), "t%u.%s%u", number,
                           number % 3 == 0 ? "x." : "", number % 7);
            check_match(number % 2, subject);
        }
    }
    while (model.sub_count > before) {
        const uint32_t list_index = before + random_below(model.sub_count - before);

        (void)snprintf(subject, sizeof(subject), "%s", model.subs[list_index]->subject);
        sub_remove(list_index);
        if (model.sub_count % 701 == 0)
            check_match(0, subject);
        if (model.sub_count % 64 == 0)
            midge_reclaim_quiescent(model.participant);
    }
}

static void run(uint64_t op_count)
{
    struct midge_subindex_counts first;
    struct midge_subindex_counts last;
    struct midge_subindex_cache_counts cache;

    midge_subindex_counts(model.index, &first);
    run_random(op_count / 2, 30);
    run_random(op_count / 4, 1000);
    run_large_set("big.set", "big.set", "");
    run_large_set("big.*", "big.set", "workers");
    run_many_groups();
    run_many_subjects();
    run_random(op_count / 4, 100);
    model.alloc_fail_percent = 40;
    run_random(op_count / 4, 300);
    model.alloc_fail_percent = 2;
    run_large_set("big.set", "big.set", "");
    run_many_groups();
    run_many_subjects();
    model.alloc_fail_percent = 0;
    while (model.sub_count > 0)
        sub_remove(random_below(model.sub_count));
    while (midge_reclaim_waiting(model.participant) > 0)
        midge_reclaim_quiescent(model.participant);
    check_match(0, "a.b");
    midge_subindex_counts(model.index, &last);
    midge_subindex_cache_counts(model.reader, &cache);
    printf("%" PRIu64 " matches, %" PRIu64 " found, cache: %" PRIu64 " hits, %" PRIu64
           " misses, %" PRIu64 " uncacheable\n",
           model.match_count, model.found_count, cache.hits, cache.misses, cache.uncacheable);
    if (last.subs != 0 || last.records != 0 || last.nodes != 0 || last.bytes != first.bytes)
        fail("counts did not return", "");
    if (cache.hits == 0 || model.found_count == 0 || model.failed_alloc_count == 0)
        fail("the run proved nothing", "");
}

int main(int argc, char **argv)
{
    uint64_t seed = (uint64_t)time(NULL);
    uint64_t op_count = 40000;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--ops") == 0 && i + 1 < argc)
            op_count = strtoull(argv[++i], NULL, 0);
        else
            seed = strtoull(argv[i], NULL, 0);
    }
    printf("seed %" PRIu64 ", ops %" PRIu64 "\n", seed, op_count);
    (void)fflush(stdout);
    model.random_state = seed * 2 + 1;
    model.reclaim = midge_reclaim_create();
    model.participant = midge_reclaim_register(model.reclaim);
    model.index = midge_subindex_create(model.reclaim, seed);
    model.reader = midge_subindex_reader_create(model.index, model.participant);
    if (model.reader == NULL)
        fail("no memory", "");
    midge_reclaim_online(model.participant);
    run(op_count);
    midge_reclaim_offline(model.participant);
    midge_subindex_reader_destroy(model.reader);
    midge_subindex_destroy(model.index);
    midge_reclaim_destroy(model.reclaim);
    free(model.subs);
    return 0;
}
