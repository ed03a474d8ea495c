/*
 * Subject index: which subscriptions does a message on this subject reach?
 *
 * Shared by all shards. Readers are wait-free and take no lock; writers never block readers, and
 * two writers meet only in one of 64 parts. Every key starts with an account number.
 *   - Literal subjects: open-addressing table in 64 parts by hash, slots of one atomic word, key
 *     XXH3 with a random seed per index and full compare.
 *   - Wildcards: edge-hash trie, in 64 parts by first token, one table of edges keyed (node, token)
 *     with full compare, nodes with a `*` child, a `>` set and a leaf set.
 *   - Sets of subscriptions are immutable arrays, copied on write, chunked when large; queue groups
 *     are kept grouped by name. A set of one subscription costs no array.
 *   - Each reader has a small match cache, validated by partitioned 64-bit generation counters that
 *     are read before matching and checked at every use. Subjects over 128 bytes, and subjects seen
 *     once, are not cached.
 * Writers publish the set, raise the generation, then retire the old memory.
 *
 * A published subject is literal even where a token of it is `*` or `>`. A subject with an empty
 * token matches nothing.
 *
 * The index knows a subscription only as a pointer below 2^61. It never follows it.
 *
 * Thread: any (lock-free) for match, any (index part lock) for insert and remove.
 * Memory: malloc for what subscriptions bring, counted; retired through midge_reclaim. Matching
 * does not allocate once the reader's result arrays have grown to the largest result seen; out of
 * memory while they grow aborts.
 * Limits: 6 million different tokens in the wildcards with one first token, 400 million literal
 * subjects (subindex_internal.h, MIDGE_TABLE_SLOT_COUNT_MAX).
 */
#ifndef MIDGE_SUBINDEX_H
#define MIDGE_SUBINDEX_H

#include "midge/compiler.h"
#include "midge/reclaim.h"
#include "midge/slice.h"
#include "midge/status.h"

struct midge_sub;             /* the owner's subscription; opaque here */
struct midge_subindex;        /* shared */
struct midge_subindex_reader; /* one per shard: participant, match cache, result arrays */
struct midge_subindex_record; /* what one (account, subject) pair has in the index */

/* An array of subscriptions; immutable, valid until the reader's next quiescent call. */
struct midge_subset {
    struct midge_sub *const *subs;
    uint32_t count; /* >= 1 */
};

/* All matching members of one queue group, over all patterns. */
struct midge_queue_match {
    struct midge_slice name;
    uint32_t set_first; /* first of set_count entries in midge_match.queue_sets */
    uint32_t set_count;
    uint32_t member_count; /* sum of the counts of those sets */
};

/* Result of one match. Valid until the reader's next match or quiescent call. */
struct midge_match {
    const struct midge_subset *plain_sets;
    const struct midge_subset *queue_sets;
    const struct midge_queue_match *queues;
    uint32_t plain_set_count;
    uint32_t queue_count;
};

/* One writer per counter and any reader; for monitoring. */
struct midge_subindex_counts {
    uint64_t subs;    /* subscriptions now */
    uint64_t records; /* distinct (account, subject) pairs now */
    uint64_t nodes;   /* trie nodes now, root not counted */
    uint64_t bytes;   /* memory now, retired but not yet freed included */
    uint64_t inserts; /* since start */
    uint64_t removes; /* since start */
};

/**
 * @param reclaim  borrowed, must outlive the index
 * @param seed     random per process, so that a client cannot choose colliding subjects
 * @return owned, or NULL without memory
 */
struct midge_subindex *midge_subindex_create(struct midge_reclaim *reclaim, uint64_t seed);

/** Free the index and whatever is still in it; all readers must be gone. */
void midge_subindex_destroy(struct midge_subindex *index);

/** @param participant  borrowed; the reader's matches live until its next quiescent call
 * @return owned, or NULL without memory */
struct midge_subindex_reader *midge_subindex_reader_create(struct midge_subindex *index,
                                                           struct midge_participant *participant);
void midge_subindex_reader_destroy(struct midge_subindex_reader *reader);

/**
 * Add one subscription.
 *
 * @param writer      the calling shard's participant; old memory is retired there
 * @param subject     must satisfy midge_subject_is_valid()
 * @param queue       len 0 = plain subscription
 * @param sub         borrowed until a grace period after its removal; once per subject and queue
 * @param record_out  the record of its subject, for remove and midge_subindex_subject()
 * @return MIDGE_OK or E_MEMORY (index unchanged)
 * Thread: any (index part lock). Cost: one hash, one probe; a copy of the set it joins, in chunks.
 */
MIDGE_MUST_CHECK enum midge_status
midge_subindex_insert(struct midge_subindex *index, struct midge_participant *writer,
                      uint32_t account, struct midge_slice subject, struct midge_slice queue,
                      struct midge_sub *sub, struct midge_subindex_record **record_out);

/**
 * Take one subscription out; it must be in. A match that began before may still return it until the
 * grace period is over, so the caller retires the subscription's memory after this call.
 *
 * @param queue  the same bytes as at insert
 * Thread: any (index part lock). Never fails: where the copy of a set finds no memory, the
 * subscription is crossed out in place, and matches leave it out (see subindex_set.c).
 */
void midge_subindex_remove(struct midge_subindex *index, struct midge_participant *writer,
                           struct midge_subindex_record *record, struct midge_slice queue,
                           struct midge_sub *sub);

/** Subject of a record; valid while a subscription of the caller is in it.
 * Thread: any (lock-free). */
struct midge_slice midge_subindex_subject(const struct midge_subindex_record *record);

/**
 * Find all subscriptions that the subject reaches. Wait-free.
 *
 * @param subject  any bytes
 * @return borrowed from the reader; never NULL
 * Thread: shard (the reader's), online.
 */
const struct midge_match *midge_subindex_match(struct midge_subindex_reader *reader,
                                               uint32_t account, struct midge_slice subject);

/**
 * A match or an insert of this subject will come soon: have what it looks at first on its way to
 * the processor's cache. Changes nothing but time.
 *
 * Thread: shard (the reader's), online. Cost: one hash.
 */
void midge_subindex_expect(struct midge_subindex_reader *reader, uint32_t account,
                           struct midge_slice subject);

/** Thread: any (lock-free). */
void midge_subindex_counts(const struct midge_subindex *index,
                           struct midge_subindex_counts *counts_out);

/** `bytes` of the counts alone, for who asks often. Thread: any (lock-free). Cost: a cache line for
 * each part. */
uint64_t midge_subindex_bytes(const struct midge_subindex *index);

/* Match cache of one reader since its creation. Thread: one writer, any reader. */
struct midge_subindex_cache_counts {
    uint64_t hits;
    uint64_t misses;
    uint64_t uncacheable;
};
void midge_subindex_cache_counts(const struct midge_subindex_reader *reader,
                                 struct midge_subindex_cache_counts *counts_out);

/** Trie nodes that the matches of one reader have looked at since its creation; those that the
 * cache answered look at none. Thread: one writer, any reader. */
uint64_t midge_subindex_visits(const struct midge_subindex_reader *reader);

#endif
