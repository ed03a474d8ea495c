/*
 * Subject index under operations from the input, against a list of subscriptions and a naive
 * matcher.
 *
 * The input is text, one operation per line, so that the corpus can be read:
 *   +AQsubject  insert: account digit, queue digit (0: none), subject if it is valid
 *   -X          remove the subscription number X (a byte, modulo how many there are)
 *   ?Asubject   match; any bytes
 *   .           quiescent
 * A line that is none of these is a match in account 0. At the end everything is removed, and the
 * memory must be what it was.
 */
#include <stdlib.h>
#include <string.h>

#include "midge/reclaim.h"
#include "midge/subindex.h"
#include "midge/subject.h"

#define SUB_COUNT_MAX 256u

struct midge_sub {
    struct midge_subindex_record *record;
    struct midge_slice subject; /* in the input */
    struct midge_slice queue;
    uint32_t account;
    bool found;
};

struct target {
    struct midge_participant *participant;
    struct midge_subindex *index;
    struct midge_subindex_reader *reader;
    struct midge_sub *subs[SUB_COUNT_MAX];
    uint32_t sub_count;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void sub_free_cb(void *context, void *object)
{
    (void)context;
    free(object);
}

/* The next token of the text at *off, which moves behind its dot; false behind the last. */
static bool next_token(struct midge_slice text, uint32_t *off, struct midge_slice *token_out)
{
    uint32_t end = *off;

    if (*off > text.len)
        return false;
    while (end < text.len && text.base[end] != '.')
        end++;
    *token_out = midge_slice_make(text.base + *off, end - *off);
    *off = end + 1;
    return true;
}

static bool naive_matches(struct midge_slice pattern, struct midge_slice subject)
{
    struct midge_slice token;
    struct midge_slice wanted;
    uint32_t pattern_off = 0;
    uint32_t subject_off = 0;
    bool matches = true;
    bool rest = false;

    while (next_token(subject, &subject_off, &token)) {
        if (token.len == 0)
            return false;
        if (rest)
            continue;
        if (!next_token(pattern, &pattern_off, &wanted))
            wanted = midge_slice_text(""); /* equals no token */
        if (midge_slice_equal(wanted, MIDGE_SLICE_LITERAL(">")))
            rest = true;
        else if (!midge_slice_equal(wanted, MIDGE_SLICE_LITERAL("*")) &&
                 !midge_slice_equal(wanted, token))
            matches = false;
    }
    return matches && (rest || !next_token(pattern, &pattern_off, &wanted));
}

static void insert(struct target *target, struct midge_slice line)
{
    static const char *const queues[] = {"", "q", "workers", "q2"};
    struct midge_sub *sub;

    if (line.len < 3 || target->sub_count == SUB_COUNT_MAX ||
        !midge_subject_is_valid(midge_slice_make(line.base + 3, line.len - 3)))
        return;
    sub = calloc(1, sizeof(*sub));
    MIDGE_ASSERT(sub != NULL);
    sub->account = line.base[1] & 3;
    sub->queue = midge_slice_text(queues[line.base[2] & 3]);
    sub->subject = midge_slice_make(line.base + 3, line.len - 3);
    MIDGE_ASSERT(midge_subindex_insert(target->index, target->participant, sub->account,
                                       sub->subject, sub->queue, sub, &sub->record) == MIDGE_OK);
    MIDGE_ASSERT(midge_slice_equal(midge_subindex_subject(sub->record), sub->subject));
    target->subs[target->sub_count++] = sub;
}

static void take(struct target *target, uint32_t number)
{
    struct midge_sub *sub;

    if (target->sub_count == 0)
        return;
    number %= target->sub_count;
    sub = target->subs[number];
    target->subs[number] = target->subs[--target->sub_count];
    midge_subindex_remove(target->index, target->participant, sub->record, sub->queue, sub);
    midge_reclaim_retire(target->participant, sub, NULL, sub_free_cb);
}

static uint32_t check_sets(const struct midge_subset *sets, uint32_t set_count, uint32_t account,
                           struct midge_slice subject, struct midge_slice queue)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < set_count; i++) {
        MIDGE_ASSERT(sets[i].count > 0);
        for (uint32_t j = 0; j < sets[i].count; j++) {
            struct midge_sub *sub = sets[i].subs[j];

            MIDGE_ASSERT(!sub->found);
            MIDGE_ASSERT(sub->account == account);
            MIDGE_ASSERT(midge_slice_equal(sub->queue, queue));
            MIDGE_ASSERT(naive_matches(sub->subject, subject));
            sub->found = true;
            count++;
        }
    }
    return count;
}

static void match(struct target *target, uint32_t account, struct midge_slice subject)
{
    const struct midge_match *result = midge_subindex_match(target->reader, account, subject);
    uint32_t count = check_sets(result->plain_sets, result->plain_set_count, account, subject,
                                midge_slice_text(""));
    uint32_t expected = 0;

    for (uint32_t i = 0; i < result->queue_count; i++) {
        const struct midge_queue_match *queue = &result->queues[i];
        const uint32_t members = check_sets(result->queue_sets + queue->set_first, queue->set_count,
                                            account, subject, queue->name);

        MIDGE_ASSERT(members == queue->member_count);
        for (uint32_t j = 0; j < i; j++)
            MIDGE_ASSERT(!midge_slice_equal(result->queues[j].name, queue->name));
        count += members;
    }
    for (uint32_t i = 0; i < target->sub_count; i++) {
        struct midge_sub *sub = target->subs[i];

        expected += sub->account == account && naive_matches(sub->subject, subject) ? 1 : 0;
        sub->found = false;
    }
    MIDGE_ASSERT(count == expected);
}

static void run_line(struct target *target, struct midge_slice line)
{
    const uint8_t kind = line.len > 0 ? line.base[0] : 0;

    if (kind == '+') {
        insert(target, line);
    } else if (kind == '-' && line.len == 2) {
        take(target, line.base[1]);
    } else if (kind == '?' && line.len > 1) {
        match(target, line.base[1] & 3, midge_slice_make(line.base + 2, line.len - 2));
    } else if (kind == '.' && line.len == 1) {
        midge_reclaim_quiescent(target->participant);
    } else {
        match(target, 0, line);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct target target = {.participant = midge_reclaim_register(reclaim)};
    struct midge_subindex_counts first;
    struct midge_subindex_counts last;

    target.index = midge_subindex_create(reclaim, size);
    target.reader = midge_subindex_reader_create(target.index, target.participant);
    midge_subindex_counts(target.index, &first);
    midge_reclaim_online(target.participant);
    for (size_t off = 0; off < size;) {
        const uint8_t *end = memchr(data + off, '\n', size - off);
        const size_t len = end != NULL ? (size_t)(end - data) - off : size - off;

        run_line(&target, midge_slice_make(data + off, (uint32_t)len));
        off += len + 1;
    }
    while (target.sub_count > 0)
        take(&target, 0);
    while (midge_reclaim_waiting(target.participant) > 0)
        midge_reclaim_quiescent(target.participant);
    midge_subindex_counts(target.index, &last);
    MIDGE_ASSERT(last.subs == 0 && last.records == 0 && last.nodes == 0);
    MIDGE_ASSERT(last.bytes == first.bytes);
    midge_reclaim_offline(target.participant);
    midge_subindex_reader_destroy(target.reader);
    midge_subindex_destroy(target.index);
    midge_reclaim_destroy(reclaim);
    return 0;
}
