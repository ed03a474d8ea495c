/*
 * What the subject index returns, one behaviour per test. Method: subscriptions are numbers dressed
 * as pointers, which the index never follows; a match is written out as text and compared. Random
 * operations are in model_subindex.c, threads in stress_subindex.c.
 *
 * The allocator is wrapped (-Wl,--wrap), so that tests can count its calls and make it fail.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "midge/reclaim.h"
#include "midge/subindex.h"

#define RECORD_COUNT_MAX 4096u

static uint64_t malloc_count;
static bool malloc_fails;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_reallocarray(void *block, size_t count, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_reallocarray(void *block, size_t count, size_t size);

void *__wrap_malloc(size_t size)
{
    malloc_count++;
    return __real_malloc(size); /* reclaim's list: must not fail */
}

void *__wrap_calloc(size_t count, size_t size)
{
    malloc_count++;
    return malloc_fails ? NULL : __real_calloc(count, size);
}

void *__wrap_reallocarray(void *block, size_t count, size_t size)
{
    malloc_count++;
    return __real_reallocarray(block, count, size);
}

static struct midge_reclaim *reclaim;
static struct midge_participant *participant;
static struct midge_subindex *subindex;
static struct midge_subindex_reader *reader;
static struct midge_subindex_record *records[RECORD_COUNT_MAX]; /* by number of the subscription */
static struct midge_subindex_counts counts_at_start;

static void setup(void)
{
    reclaim = midge_reclaim_create();
    participant = midge_reclaim_register(reclaim);
    subindex = midge_subindex_create(reclaim, 7);
    reader = midge_subindex_reader_create(subindex, participant);
    midge_reclaim_online(participant);
    midge_subindex_counts(subindex, &counts_at_start);
    malloc_fails = false;
}

static void teardown(void)
{
    midge_reclaim_offline(participant);
    midge_subindex_reader_destroy(reader);
    midge_subindex_destroy(subindex);
    midge_reclaim_destroy(reclaim);
}

TestSuite(subindex, .init = setup, .fini = teardown);

static struct midge_sub *sub_of(uint32_t number)
{
    return (struct midge_sub *)(uintptr_t)number;
}

static enum midge_status try_add_to(uint32_t account, const char *subject, const char *queue,
                                    uint32_t number)
{
    return midge_subindex_insert(subindex, participant, account, midge_slice_text(subject),
                                 midge_slice_text(queue), sub_of(number), &records[number]);
}

static void add_to(uint32_t account, const char *subject, const char *queue, uint32_t number)
{
    cr_assert_eq(try_add_to(account, subject, queue, number), MIDGE_OK);
}

static void add(const char *subject, const char *queue, uint32_t number)
{
    add_to(0, subject, queue, number);
}

static void take(const char *queue, uint32_t number)
{
    midge_subindex_remove(subindex, participant, records[number], midge_slice_text(queue),
                          sub_of(number));
}

static int compare_numbers(const void *a, const void *b)
{
    const uintptr_t x = *(const uintptr_t *)a;
    const uintptr_t y = *(const uintptr_t *)b;

    return (x > y) - (x < y);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void print_sets(char *text, size_t cap, const struct midge_subset *sets, uint32_t set_count)
{
    uintptr_t numbers[64];
    uint32_t count = 0;
    size_t len = strlen(text);

    for (uint32_t i = 0; i < set_count; i++) {
        for (uint32_t j = 0; j < sets[i].count; j++) {
            cr_assert_lt(count, 64);
            numbers[count++] = (uintptr_t)sets[i].subs[j];
        }
    }
    qsort(numbers, count, sizeof(numbers[0]), compare_numbers);
    for (uint32_t i = 0; i < count; i++)
        len += (size_t)snprintf(text + len, cap - len, " %u", (unsigned)numbers[i]);
}

/* A match is written as " 1 2 q: 3 4": plain numbers in order, then the groups by name. */
static void expect_match_in(uint32_t account, struct midge_slice subject, const char *expected)
{
    const struct midge_match *match = midge_subindex_match(reader, account, subject);
    char groups[16][64];
    char text[1200] = "";

    print_sets(text, sizeof(text), match->plain_sets, match->plain_set_count);
    cr_assert_leq(match->queue_count, 16);
    for (uint32_t i = 0; i < match->queue_count; i++) {
        const struct midge_queue_match *queue = &match->queues[i];

        (void)snprintf(groups[i], sizeof(groups[i]), " %.*s:", (int)queue->name.len,
                       (const char *)queue->name.base);
        print_sets(groups[i], sizeof(groups[i]), match->queue_sets + queue->set_first,
                   queue->set_count);
    }
    qsort(groups, match->queue_count, sizeof(groups[0]), compare_texts);
    for (uint32_t i = 0; i < match->queue_count; i++)
        (void)strncat(text, groups[i], sizeof(text) - strlen(text) - 1);
    cr_assert_str_eq(text, expected, "subject %.*s gave \"%s\" instead of \"%s\"", (int)subject.len,
                     (const char *)subject.base, text, expected);
}

static void expect_match(const char *subject, const char *expected)
{
    expect_match_in(0, midge_slice_text(subject), expected);
}

static void expect_all_gone(void)
{
    struct midge_subindex_counts counts;

    while (midge_reclaim_waiting(participant) > 0)
        midge_reclaim_quiescent(participant);
    midge_subindex_counts(subindex, &counts);
    cr_assert_eq(counts.subs, 0);
    cr_assert_eq(counts.records, 0);
    cr_assert_eq(counts.nodes, 0);
    cr_assert_eq(counts.bytes, counts_at_start.bytes);
}

Test(subindex, a_literal_reaches_its_subject_only)
{
    add("a.b", "", 1);
    expect_match("a.b", " 1");
    expect_match("a", "");
    expect_match("a.b.c", "");
    expect_match("a.c", "");
    expect_match("A.b", "");
}

Test(subindex, a_star_is_exactly_one_token)
{
    add("a.*", "", 1);
    add("*.b", "", 2);
    add("a.*.c", "", 3);
    add("*", "", 4);
    expect_match("a.b", " 1 2");
    expect_match("a.b.c", " 3");
    expect_match("a.b.d", "");
    expect_match("a", " 4");
}

Test(subindex, gt_needs_at_least_one_token)
{
    add("a.>", "", 1);
    add(">", "", 2);
    add("a.*.>", "", 3);
    expect_match("a", " 2");
    expect_match("a.b", " 1 2");
    expect_match("a.b.c", " 1 2 3");
    expect_match("b", " 2");
}

Test(subindex, all_kinds_of_pattern_meet_in_one_match)
{
    add("a.b.c", "", 1);
    add("a.*.c", "", 2);
    add("*.b.c", "", 3);
    add("*.*.*", "", 4);
    add("a.>", "", 5);
    add("*.>", "", 6);
    add(">", "", 7);
    add("a.b.*", "", 8);
    add("a.b.*.>", "", 9);
    add("a.b", "", 10);
    expect_match("a.b.c", " 1 2 3 4 5 6 7 8");
}

Test(subindex, a_wildcard_inside_a_token_is_a_character)
{
    add("a*", "", 1);
    add("x.>y", "", 2);
    add("x.**", "", 3);
    expect_match("a*", " 1");
    expect_match("ab", "");
    expect_match("x.>y", " 2");
    expect_match("x.zy", "");
    expect_match("x.**", " 3");
}

Test(subindex, a_published_wildcard_token_is_literal)
{
    add("a.*", "", 1);
    add("a.>", "", 2);
    add("a.b", "", 3);
    add("*", "", 4);
    add(">", "", 5);
    add("b.c", "", 6);
    expect_match("a.*", " 1 2 5");
    expect_match("a.>", " 1 2 5");
    expect_match(">", " 4 5");
    expect_match("*", " 4 5");
    expect_match("*.c", " 5");
}

Test(subindex, a_subject_with_an_empty_token_matches_nothing)
{
    add(">", "", 1);
    add("*", "", 2);
    add("*.*", "", 3);
    add("a.>", "", 4);
    add("a.*.b", "", 5);
    expect_match("", "");
    expect_match(".", "");
    expect_match("a.", "");
    expect_match(".a", "");
    expect_match("a..b", "");
    expect_match("a.b..", "");
}

Test(subindex, any_byte_may_be_in_a_subject)
{
    const struct midge_slice subject = midge_slice_make("a\0\xff.\x01", 5);

    add("*.>", "", 1);
    cr_assert_eq(midge_subindex_insert(subindex, participant, 0, subject, midge_slice_text(""),
                                       sub_of(2), &records[2]),
                 MIDGE_OK);
    expect_match_in(0, subject, " 1 2");
    expect_match_in(0, midge_slice_make("a\0\xfe.\x01", 5), " 1");
}

Test(subindex, accounts_do_not_see_each_other)
{
    add_to(0, "a.b", "", 1);
    add_to(1, "a.b", "", 2);
    add_to(1, "a.*", "", 3);
    add_to(UINT32_MAX, ">", "", 4);
    add_to(UINT32_MAX, "a.b", "q", 5);
    expect_match_in(0, midge_slice_text("a.b"), " 1");
    expect_match_in(1, midge_slice_text("a.b"), " 2 3");
    expect_match_in(2, midge_slice_text("a.b"), "");
    expect_match_in(UINT32_MAX, midge_slice_text("a.b"), " 4 q: 5");
}

Test(subindex, queue_groups_are_merged_by_name_over_all_patterns)
{
    add("a.b", "q", 1);
    add("a.b", "q", 2);
    add("a.*", "q", 3);
    add("a.>", "p", 4);
    add("a.*", "", 5);
    add("a.c", "q", 6);
    add("a.b", "qq", 7);
    expect_match("a.b", " 5 p: 4 q: 1 2 3 qq: 7");
    take("q", 1);
    take("q", 3);
    expect_match("a.b", " 5 p: 4 q: 2 qq: 7");
    take("q", 2);
    expect_match("a.b", " 5 p: 4 qq: 7");
}

Test(subindex, subscriptions_of_one_subject_share_a_record)
{
    struct midge_subindex_counts counts;

    add("a.b", "", 1);
    add("a.b", "", 2);
    add("a.b", "q", 3);
    add("a.*", "", 4);
    cr_assert_eq(records[1], records[2]);
    cr_assert_eq(records[1], records[3]);
    cr_assert(midge_slice_equal(midge_subindex_subject(records[4]), midge_slice_text("a.*")));
    midge_subindex_counts(subindex, &counts);
    cr_assert_eq(counts.subs, 4);
    cr_assert_eq(counts.records, 2);
    cr_assert_eq(counts.inserts, 4);
    take("", 1);
    midge_subindex_counts(subindex, &counts);
    cr_assert_eq(counts.subs, 3);
    cr_assert_eq(counts.records, 2);
    cr_assert_eq(counts.removes, 1);
}

Test(subindex, what_is_removed_leaves_nothing_behind)
{
    static const char *const subjects[] = {"a",   "a.b",     "*",     ">",       "a.*",
                                           "*.b", "a.*.*.b", "a.b.>", "*.*.*.>", "a.b.c.d"};

    for (uint32_t i = 0; i < 10; i++) {
        add(subjects[i], "", 1 + i);
        add(subjects[i], "q", 101 + i);
    }
    for (uint32_t i = 0; i < 10; i++) {
        take("", 1 + i);
        take("q", 101 + (i + 5) % 10);
    }
    expect_match("a", "");
    expect_match("a.b", "");
    expect_match("a.b.c.d", "");
    expect_all_gone();
}

Test(subindex, a_shorter_pattern_survives_a_longer_one)
{
    add("a.*.c", "", 1);
    add("a.*.c.*.e", "", 2);
    add("a.*.c.d", "", 3);
    take("", 2);
    expect_match("a.b.c", " 1");
    expect_match("a.b.c.d", " 3");
    take("", 1);
    expect_match("a.b.c", "");
    expect_match("a.b.c.d", " 3");
    take("", 3);
    expect_all_gone();
}

Test(subindex, two_thousand_stars_are_one_walk)
{
    static char pattern[4000];
    static char subject[4000];

    for (size_t i = 0; i < 2000; i++) {
        (void)snprintf(pattern + 2 * i, 3, "%s", i < 1999 ? "*." : "*");
        (void)snprintf(subject + 2 * i, 3, "%s", i < 1999 ? "x." : "x");
    }
    add(pattern, "", 1);
    add("x.>", "", 2);
    expect_match(subject, " 1 2");
    subject[3997] = '\0'; /* one token less */
    expect_match(subject, " 2");
    take("", 1);
    take("", 2);
    expect_all_gone();
}

Test(subindex, a_long_literal_path_matches)
{
    static char subject[4000];

    for (size_t i = 0; i < 2000; i++)
        (void)snprintf(subject + 2 * i, 3, "%c%s", 'a' + (int)(i % 26), i < 1999 ? "." : "");
    add(subject, "", 1);
    subject[3998] = '*';
    add(subject, "", 2);
    subject[3998] = 'z';
    expect_match(subject, " 2");
}

static uint64_t count_members(const char *subject, uint32_t *largest_out)
{
    const struct midge_match *match = midge_subindex_match(reader, 0, midge_slice_text(subject));
    uint64_t count = 0;

    for (uint32_t i = 0; i < match->plain_set_count; i++) {
        count += match->plain_sets[i].count;
        if (match->plain_sets[i].count > *largest_out)
            *largest_out = match->plain_sets[i].count;
    }
    return count;
}

Test(subindex, a_large_set_comes_in_chunks)
{
    uint32_t largest = 0;

    for (uint32_t i = 1; i <= 3000; i++)
        add("a.b", "", i * 7919 % 3001);
    cr_assert_eq(count_members("a.b", &largest), 3000);
    cr_assert_leq(largest, 512);
    for (uint32_t i = 1; i <= 2990; i++)
        take("", i);
    expect_match("a.b", " 2991 2992 2993 2994 2995 2996 2997 2998 2999 3000");
    for (uint32_t i = 2991; i <= 3000; i++)
        take("", i);
    expect_all_gone();
}

Test(subindex, a_result_stays_valid_until_the_next_quiescent_call)
{
    const struct midge_match *match;

    add("a.b", "", 1);
    add("a.b", "", 2);
    add("a.b", "", 3);
    match = midge_subindex_match(reader, 0, midge_slice_text("a.b"));
    take("", 1);
    take("", 2);
    take("", 3);
    cr_assert_eq(match->plain_set_count, 1);
    cr_assert_eq(match->plain_sets[0].count, 3);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(match->plain_sets[0].subs[i], sub_of(1 + i));
    expect_all_gone();
}

static uint64_t cache_hits(void)
{
    struct midge_subindex_cache_counts counts;

    midge_subindex_cache_counts(reader, &counts);
    return counts.hits;
}

Test(subindex, a_subject_is_cached_when_it_is_met_again)
{
    add("a.b", "", 1);
    add("a.b", "q", 2);
    add("a.*", "q", 3);
    expect_match("a.b", " 1 q: 2 3");
    expect_match("a.b", " 1 q: 2 3");
    cr_assert_eq(cache_hits(), 0);
    expect_match("a.b", " 1 q: 2 3");
    cr_assert_eq(cache_hits(), 1);
    midge_reclaim_quiescent(participant);
    expect_match("a.b", " 1 q: 2 3");
    cr_assert_eq(cache_hits(), 2);
}

Test(subindex, a_cached_result_ends_with_every_change_that_concerns_it)
{
    static const char *const subjects[] = {"a.b", "a.*", "*.b", ">"};

    for (uint32_t i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++)
            expect_match("a.b", "");
        add(subjects[i], "", 1);
        for (int j = 0; j < 4; j++)
            expect_match("a.b", " 1");
        add(subjects[i], "q", 2);
        for (int j = 0; j < 4; j++)
            expect_match("a.b", " 1 q: 2");
        take("", 1);
        for (int j = 0; j < 4; j++)
            expect_match("a.b", " q: 2");
        take("q", 2);
        midge_reclaim_quiescent(participant);
    }
    cr_assert_geq(cache_hits(), 4 * 4 * 3 - 4);
}

Test(subindex, a_long_subject_is_not_cached)
{
    struct midge_subindex_cache_counts counts;
    char subject[130];

    memset(subject, 'x', sizeof(subject));
    subject[129] = '\0';
    add(">", "", 1);
    for (int i = 0; i < 5; i++)
        expect_match(subject, " 1");
    midge_subindex_cache_counts(reader, &counts);
    cr_assert_eq(counts.hits, 0);
    cr_assert_eq(counts.uncacheable, 5);
    subject[128] = '\0';
    for (int i = 0; i < 5; i++)
        expect_match(subject, " 1");
    cr_assert_eq(cache_hits(), 3);
}

Test(subindex, a_warm_reader_does_not_allocate)
{
    char subject[32];
    uint64_t before;

    add("a.*", "q", 1);
    add("a.>", "", 2);
    for (uint32_t i = 0; i < 100; i++)
        add("a.b", "", 10 + i);
    expect_match("a.x", " 2 q: 1");
    before = malloc_count;
    for (uint32_t i = 0; i < 10000; i++) {
        (void)snprintf(subject, sizeof(subject), "a.%u", i % 3000);
        (void)midge_subindex_match(reader, 0, midge_slice_text(subject));
        (void)midge_subindex_match(reader, 0, midge_slice_text("a.b"));
    }
    cr_assert_eq(malloc_count, before);
}

Test(subindex, an_insert_without_memory_changes_nothing)
{
    static const char *const subjects[] = {"x", "x.*.y.*.z", ">", "x.>", "*", "a.*.>"};
    struct midge_subindex_counts before;
    struct midge_subindex_counts after;

    add("a.b", "", 1);
    add("a.*", "q", 2);
    midge_subindex_counts(subindex, &before);
    malloc_fails = true;
    for (uint32_t i = 0; i < 6; i++) {
        cr_assert_eq(try_add_to(0, subjects[i], "", 3), MIDGE_E_MEMORY);
        cr_assert_eq(try_add_to(0, subjects[i], "q", 3), MIDGE_E_MEMORY);
    }
    cr_assert_eq(try_add_to(0, "a.b", "", 3), MIDGE_E_MEMORY);
    cr_assert_eq(try_add_to(0, "a.b", "q", 3), MIDGE_E_MEMORY);
    cr_assert_eq(try_add_to(0, "a.*", "p", 3), MIDGE_E_MEMORY);
    cr_assert_eq(try_add_to(0, "a.*", "q", 3), MIDGE_E_MEMORY);
    malloc_fails = false;
    midge_reclaim_quiescent(participant);
    midge_subindex_counts(subindex, &after);
    cr_assert_eq(memcmp(&before, &after, sizeof(before)), 0);
    expect_match("a.b", " 1 q: 2");
    expect_match("x", "");
}

Test(subindex, a_removal_without_memory_is_as_good_as_any)
{
    for (uint32_t i = 1; i <= 2000; i++)
        add("a.b", i <= 1000 ? "" : "q", i);
    malloc_fails = true;
    for (uint32_t i = 1; i <= 2000; i++) {
        if (i % 100 != 0)
            take(i <= 1000 ? "" : "q", i);
    }
    expect_match("a.b", " 100 200 300 400 500 600 700 800 900 1000"
                        " q: 1100 1200 1300 1400 1500 1600 1700 1800 1900 2000");
    malloc_fails = false;
    add("a.b", "", 150);
    expect_match("a.b", " 100 150 200 300 400 500 600 700 800 900 1000"
                        " q: 1100 1200 1300 1400 1500 1600 1700 1800 1900 2000");
    malloc_fails = true;
    take("", 150);
    for (uint32_t i = 100; i <= 2000; i += 100)
        take(i <= 1000 ? "" : "q", i);
    malloc_fails = false;
    expect_match("a.b", "");
    expect_all_gone();
}

Test(subindex, a_group_that_was_emptied_without_memory_can_be_joined_again)
{
    add("a.b", "p", 1);
    add("a.b", "q", 2);
    add("a.b", "r", 3);
    malloc_fails = true;
    take("q", 2);
    malloc_fails = false;
    expect_match("a.b", " p: 1 r: 3");
    add("a.b", "q", 4);
    expect_match("a.b", " p: 1 q: 4 r: 3");
    malloc_fails = true;
    take("q", 4);
    take("p", 1);
    take("r", 3);
    malloc_fails = false;
    expect_match("a.b", "");
    expect_all_gone();
}

Test(subindex, a_literal_subscription_of_24_bytes_takes_at_most_75)
{
    struct midge_subindex_record *record;
    struct midge_subindex_counts counts;
    char subject[32];

    for (uint32_t i = 1; i <= 100000; i++) {
        /* 7 + 8 + 9 bytes. */
        (void)snprintf(subject, sizeof(subject), "orders.%08x.created2", i * 2654435761u);
        cr_assert_eq(midge_subindex_insert(subindex, participant, 0, midge_slice_text(subject),
                                           midge_slice_text(""), sub_of(i), &record),
                     MIDGE_OK);
    }
    while (midge_reclaim_waiting(participant) > 0)
        midge_reclaim_quiescent(participant);
    midge_subindex_counts(subindex, &counts);
    cr_assert_leq(counts.bytes - counts_at_start.bytes, UINT64_C(75) * 100000);
    cr_assert_gt(counts.bytes - counts_at_start.bytes, UINT64_C(24) * 100000);
}

Test(subindex, the_index_may_go_before_what_it_retired)
{
    struct midge_reclaim *other = midge_reclaim_create();
    struct midge_participant *writer = midge_reclaim_register(other);
    struct midge_subindex *short_lived = midge_subindex_create(other, 1);
    struct midge_subindex_record *record;

    for (uint32_t i = 1; i < 100; i++)
        cr_assert_eq(midge_subindex_insert(short_lived, writer, 0, midge_slice_text("a.*"),
                                           midge_slice_text("q"), sub_of(i), &record),
                     MIDGE_OK);
    cr_assert_gt(midge_reclaim_waiting(writer), 0);
    midge_subindex_destroy(short_lived);
    midge_reclaim_destroy(other);
}
