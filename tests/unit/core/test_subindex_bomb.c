/*
 * Wildcards chosen to make one match expensive: every mask of a subject, and long patterns through
 * which the number of paths is out of reach. Goal: a match looks at each pattern prefix that fits
 * its subject exactly once, however many subscriptions and ways lead there; the result is right;
 * the memory is bounded and comes back.
 *
 * Method: the nodes that a match looked at are counted by the reader. The twin holds the patterns
 * as text, counts the different prefixes among them that fit, and matches each pattern by itself.
 * No time is measured. Subscriptions are numbers dressed as pointers.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "midge/reclaim.h"
#include "midge/subindex.h"

#define MASK_TOKENS      10u
#define MASK_COUNT       (1u << MASK_TOKENS)
#define DEEP_COUNT       1500u
#define DEEP_TOKENS      64u
#define TEXT_CAP         160u
#define CONN_COUNT       8u
#define SUB_COUNT_MAX    (MASK_COUNT * CONN_COUNT)
#define CONTROL_LINE_LEN 4096u

/* Bytes that a token of a pattern may cost where no other pattern shares it: a node of 80 at most
 * with its short token, 8 of the table of edges at its emptiest (1/4 full: 32). */
#define TOKEN_BYTES_MAX 112u

/* And what comes once for each: the record with its text, the set. */
#define PATTERN_BYTES_MAX 256u

struct pattern {
    char text[TEXT_CAP];
    struct midge_subindex_record *record;
};

static struct midge_reclaim *reclaim;
static struct midge_participant *participant;
static struct midge_subindex *subindex;
static struct midge_subindex_reader *reader;
static struct midge_subindex_counts counts_at_start;
static struct pattern *patterns; /* in the index, by number of the subscription less 1 */
static uint32_t pattern_count;
static uint8_t *found; /* by number of the subscription */
static uint64_t random_state;

static void setup(void)
{
    reclaim = midge_reclaim_create();
    participant = midge_reclaim_register(reclaim);
    subindex = midge_subindex_create(reclaim, 7);
    reader = midge_subindex_reader_create(subindex, participant);
    patterns = calloc(SUB_COUNT_MAX, sizeof(*patterns));
    found = calloc(SUB_COUNT_MAX + 1, 1);
    cr_assert(reader != NULL && patterns != NULL && found != NULL);
    midge_reclaim_online(participant);
    midge_subindex_counts(subindex, &counts_at_start);
    pattern_count = 0;
    random_state = 1;
}

static void teardown(void)
{
    midge_reclaim_offline(participant);
    midge_subindex_reader_destroy(reader);
    midge_subindex_destroy(subindex);
    midge_reclaim_destroy(reclaim);
    free(patterns);
    free(found);
}

TestSuite(subindex_bomb, .init = setup, .fini = teardown);

static uint32_t random_below(uint32_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state % bound);
}

static void add(const char *text)
{
    struct pattern *pattern = &patterns[pattern_count++];

    cr_assert_leq(pattern_count, SUB_COUNT_MAX);
    cr_assert_lt(strlen(text), TEXT_CAP);
    (void)snprintf(pattern->text, sizeof(pattern->text), "%s", text);
    cr_assert_eq(midge_subindex_insert(subindex, participant, 0, midge_slice_text(pattern->text),
                                       midge_slice_text(""),
                                       (struct midge_sub *)(uintptr_t)pattern_count,
                                       &pattern->record),
                 MIDGE_OK);
    midge_reclaim_quiescent(participant);
}

static uint32_t token_count_of(const char *text)
{
    uint32_t count = 1;

    for (; *text != '\0'; text++)
        count += *text == '.';
    return count;
}

/* Bytes of the first `count` tokens; all if there are fewer. */
static size_t prefix_len(const char *text, uint32_t count)
{
    const char *end = text;

    for (;;) {
        end += strcspn(end, ".");
        if (--count == 0 || *end == '\0')
            return (size_t)(end - text);
        end++;
    }
}

/* How many leading tokens of the pattern fit those of the subject, `>` not counted. */
static uint32_t fitting_tokens(const char *pattern, const char *subject)
{
    uint32_t count = 0;

    while (*pattern != '\0' && *subject != '\0') {
        const size_t len = strcspn(pattern, ".");
        const size_t subject_len = strcspn(subject, ".");

        if (len == 1 && *pattern == '>')
            break;
        if (!(len == 1 && *pattern == '*') &&
            (len != subject_len || memcmp(pattern, subject, len) != 0))
            break;
        count++;
        pattern += len + (pattern[len] == '.');
        subject += subject_len + (subject[subject_len] == '.');
    }
    return count;
}

static bool is_wildcard(const char *pattern)
{
    return strpbrk(pattern, "*>") != NULL;
}

static bool twin_matches(const char *pattern, const char *subject)
{
    const uint32_t tokens = token_count_of(pattern);
    const uint32_t fitting = fitting_tokens(pattern, subject);

    if (pattern[strlen(pattern) - 1] == '>')
        return fitting + 1 == tokens && token_count_of(subject) >= tokens;
    return fitting == tokens && token_count_of(subject) == tokens;
}

struct prefix {
    const char *text;
    size_t len;
};

static int compare_prefixes(const void *a, const void *b)
{
    const struct prefix *x = a;
    const struct prefix *y = b;

    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    return memcmp(x->text, y->text, x->len);
}

/* Different prefixes of the wildcards that fit the subject; the root of those that begin with a
 * wildcard is one. */
static uint64_t twin_visits(const char *subject)
{
    struct prefix *prefixes = calloc((size_t)pattern_count * DEEP_TOKENS, sizeof(*prefixes));
    bool has_root = false;
    size_t count = 0;
    uint64_t different = 0;

    cr_assert_not_null(prefixes);
    for (uint32_t i = 0; i < pattern_count; i++) {
        const char *text = patterns[i].text;
        const uint32_t fitting = fitting_tokens(text, subject);

        if (!is_wildcard(text))
            continue;
        has_root = has_root || *text == '*' || *text == '>';
        for (uint32_t j = 1; j <= fitting; j++)
            prefixes[count++] = (struct prefix){text, prefix_len(text, j)};
    }
    if (count > 0)
        qsort(prefixes, count, sizeof(*prefixes), compare_prefixes);
    for (size_t i = 0; i < count; i++)
        different += i == 0 || compare_prefixes(&prefixes[i - 1], &prefixes[i]) != 0;
    free(prefixes);
    return different + has_root;
}

static void check_result(const struct midge_match *match, const char *subject)
{
    memset(found, 0, SUB_COUNT_MAX + 1);
    for (uint32_t i = 0; i < match->plain_set_count; i++) {
        for (uint32_t j = 0; j < match->plain_sets[i].count; j++) {
            const uintptr_t number = (uintptr_t)match->plain_sets[i].subs[j];

            cr_assert(number >= 1 && number <= pattern_count);
            cr_assert_eq(found[number], 0, "%s is found twice", patterns[number - 1].text);
            found[number] = 1;
        }
    }
    for (uint32_t i = 0; i < pattern_count; i++)
        cr_assert_eq(found[i + 1], twin_matches(patterns[i].text, subject), "%s, matching %s: %u",
                     patterns[i].text, subject, found[i + 1]);
}

/* One match of a subject that no match has had since the last change. @return what it looked at */
static uint64_t check_match(const char *subject)
{
    const uint64_t before = midge_subindex_visits(reader);
    struct midge_subindex_counts counts;
    uint64_t visits;

    check_result(midge_subindex_match(reader, 0, midge_slice_text(subject)), subject);
    visits = midge_subindex_visits(reader) - before;
    midge_subindex_counts(subindex, &counts);
    cr_assert_leq(visits, counts.nodes, "%s", subject);
    cr_assert_eq(visits, twin_visits(subject), "%s: looked at %u nodes of %u", subject,
                 (unsigned)visits, (unsigned)counts.nodes);
    return visits;
}

static void remove_all(void)
{
    struct midge_subindex_counts counts;

    while (pattern_count > 0) {
        midge_subindex_remove(subindex, participant, patterns[pattern_count - 1].record,
                              midge_slice_text(""), (struct midge_sub *)(uintptr_t)pattern_count);
        pattern_count--;
        midge_reclaim_quiescent(participant);
    }
    for (uint32_t i = 0; i < 100 && midge_reclaim_waiting(participant) > 0; i++)
        midge_reclaim_quiescent(participant);
    midge_subindex_counts(subindex, &counts);
    cr_assert_eq(counts.nodes, 0);
    cr_assert_eq(counts.records, 0);
    cr_assert_eq(counts.bytes, counts_at_start.bytes);
}

static uint64_t bytes_more(void)
{
    struct midge_subindex_counts counts;

    while (midge_reclaim_waiting(participant) > 0)
        midge_reclaim_quiescent(participant);
    midge_subindex_counts(subindex, &counts);
    return counts.bytes - counts_at_start.bytes;
}

/* t0.t1...t9 with `*` for the tokens whose bit is set. */
static void add_masks(const char *family)
{
    char text[TEXT_CAP];

    for (uint32_t mask = 0; mask < MASK_COUNT; mask++) {
        size_t len = 0;

        for (uint32_t i = 0; i < MASK_TOKENS; i++) {
            len += (size_t)(((mask >> i) & 1) != 0
                                ? snprintf(text + len, TEXT_CAP - len, "*.")
                                : snprintf(text + len, TEXT_CAP - len, "%s%u.", family, i));
        }
        text[len - 1] = '\0';
        add(text);
    }
}

static void check_mask_matches(void)
{
    const char *whole = "t0.t1.t2.t3.t4.t5.t6.t7.t8.t9";
    char subject[TEXT_CAP];

    cr_expect_gt(check_match(whole), MASK_COUNT);
    (void)check_match("t0.t1.t2.t3.t4.t5.t6.t7.t8");
    (void)check_match("t0.t1.t2.t3.t4.t5.t6.t7.t8.t9.t10");
    (void)check_match("x.x.x.x.x.x.x.x.x.x");
    (void)check_match("t0");
    for (uint32_t i = 0; i < MASK_TOKENS; i++) {
        (void)snprintf(subject, sizeof(subject), "%s", whole);
        subject[i * 3] = 'x';
        (void)check_match(subject);
    }
}

Test(subindex_bomb, every_mask_of_ten_tokens_is_looked_at_once)
{
    add_masks("t");
    /* Masks share their prefixes: two nodes each, not ten. */
    cr_expect_leq(bytes_more(), MASK_COUNT * (2 * TOKEN_BYTES_MAX + PATTERN_BYTES_MAX));
    check_mask_matches();
    remove_all();
    (void)check_match("t0.t1.t2.t3.t4.t5.t6.t7.t8.t9");
}

Test(subindex_bomb, many_connections_with_every_mask_cost_no_more_nodes)
{
    struct midge_subindex_counts one;
    struct midge_subindex_counts all;
    uint64_t visits;

    add_masks("t");
    visits = check_match("t0.t1.t2.t3.t4.t5.t6.t7.t8.t9");
    midge_subindex_counts(subindex, &one);
    for (uint32_t i = 1; i < CONN_COUNT; i++)
        add_masks("t");
    midge_subindex_counts(subindex, &all);
    cr_expect_eq(all.nodes, one.nodes);
    cr_expect_eq(check_match("t0.t1.t2.t3.t4.t5.t6.t7.t8.t9"), visits);
    check_mask_matches();
    remove_all();
}

Test(subindex_bomb, masks_of_other_subjects_are_not_looked_at)
{
    char family[2] = "a";
    uint64_t visits;

    add_masks("t");
    visits = check_match("t0.t1.t2.t3.t4.t5.t6.t7.t8.t9");
    for (; family[0] < 'a' + (char)CONN_COUNT - 1; family[0]++)
        add_masks(family);
    /* What all families share, `*.*...`, was there before. */
    cr_expect_eq(check_match("t0.t1.t2.t3.t4.t5.t6.t7.t8.t9"), visits);
    check_mask_matches();
    remove_all();
}

/* A pattern of `count` tokens: `*` in `star_percent` of 100, else `a`; then what ends it. */
static void make_deep(char *text, uint32_t count, uint32_t star_percent, const char *end)
{
    size_t len = 0;

    for (uint32_t i = 0; i < count; i++)
        len += (size_t)snprintf(text + len, TEXT_CAP - len, "%s.",
                                random_below(100) < star_percent ? "*" : "a");
    (void)snprintf(text + len, TEXT_CAP - len, "%s", end);
}

static void check_deep(uint32_t token_count)
{
    static const char *const ends[] = {"b", "*", ">", "a"};
    char text[TEXT_CAP];

    for (uint32_t i = 0; i < DEEP_COUNT; i++) {
        /* Some end early, so that there are `>` at every depth. */
        const uint32_t count = i % 3 == 0 ? 1 + random_below(token_count - 1) : token_count - 1;

        make_deep(text, count, i % 5 == 0 ? 97 : 50, ends[i % 4]);
        add(text);
    }
    cr_expect_leq(bytes_more(),
                  (uint64_t)DEEP_COUNT * (token_count * TOKEN_BYTES_MAX + PATTERN_BYTES_MAX));
    for (uint32_t count = 1; count <= token_count + 1; count += 9) {
        make_deep(text, count, 0, "a");
        (void)check_match(text);
        make_deep(text, count, 0, "b");
        (void)check_match(text);
        make_deep(text, count, 0, "c"); /* every path to its end, and most for nothing */
        (void)check_match(text);
    }
    remove_all();
}

Test(subindex_bomb, patterns_of_32_tokens_are_looked_at_once)
{
    check_deep(32);
}

Test(subindex_bomb, patterns_of_64_tokens_are_looked_at_once)
{
    check_deep(DEEP_TOKENS);
}

/* 2,047 tokens are what fits a control line; the walk goes down as far, and stops there. */
Test(subindex_bomb, the_longest_subjects_of_stars_are_walked_once)
{
    char *text = malloc(CONTROL_LINE_LEN);
    struct midge_subindex_record *records[2];
    const struct midge_match *match;
    const uint32_t len = CONTROL_LINE_LEN - 3;

    cr_assert_not_null(text);
    for (uint32_t i = 0; i < len; i++)
        text[i] = i % 2 == 0 ? '*' : '.';
    for (uint32_t i = 0; i < 2; i++) {
        text[len - 1] = i == 0 ? '*' : '>';
        cr_assert_eq(midge_subindex_insert(subindex, participant, 0, midge_slice_make(text, len),
                                           midge_slice_text(""),
                                           (struct midge_sub *)(uintptr_t)(i + 1), &records[i]),
                     MIDGE_OK);
    }
    match = midge_subindex_match(reader, 0, midge_slice_make(text, len));
    cr_expect_eq(match->plain_set_count, 2);
    cr_expect_eq(midge_subindex_visits(reader), len / 2 + 2);
    match = midge_subindex_match(reader, 0, midge_slice_make(text, len - 2));
    cr_expect_eq(match->plain_set_count, 0);
    cr_expect_eq(midge_subindex_visits(reader), 2 * (len / 2) + 3);
    for (uint32_t i = 0; i < 2; i++)
        midge_subindex_remove(subindex, participant, records[i], midge_slice_text(""),
                              (struct midge_sub *)(uintptr_t)(i + 1));
    remove_all();
    free(text);
}

/* All wildcards with one first token are in one table of edges, which has more slots than the bits
 * of a hash in a slot can address. */
Test(subindex_bomb, more_than_a_million_wildcards_may_share_their_first_token)
{
    const uint32_t count = 1200000;
    struct midge_subindex_record **records = calloc(count, sizeof(struct midge_subindex_record *));
    struct midge_subindex_counts counts;
    char text[TEXT_CAP];

    cr_assert_not_null(records);
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(text, sizeof(text), "fleet.%u.*", i);
        cr_assert_eq(midge_subindex_insert(subindex, participant, 0, midge_slice_text(text),
                                           midge_slice_text(""),
                                           (struct midge_sub *)(uintptr_t)(i + 1), &records[i]),
                     MIDGE_OK, "number %u", i);
        midge_reclaim_quiescent(participant);
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct midge_match *match;

        (void)snprintf(text, sizeof(text), "fleet.%u.state", i);
        match = midge_subindex_match(reader, 0, midge_slice_text(text));
        cr_assert(match->plain_set_count == 1 && match->plain_sets[0].count == 1 &&
                      match->plain_sets[0].subs[0] == (struct midge_sub *)(uintptr_t)(i + 1),
                  "%s", text);
        midge_reclaim_quiescent(participant);
    }
    for (uint32_t i = 0; i < count; i++) {
        midge_subindex_remove(subindex, participant, records[i], midge_slice_text(""),
                              (struct midge_sub *)(uintptr_t)(i + 1));
        midge_reclaim_quiescent(participant);
    }
    remove_all();
    midge_subindex_counts(subindex, &counts);
    cr_assert_eq(counts.subs, 0);
    free(records);
}
