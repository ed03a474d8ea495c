/*
 * Subject index: the operations, over the tables, the trie, the sets and the cache. The map of the
 * files and the rules of publication are in subindex_internal.h.
 *
 * A writer finds or creates the record of its subject, changes the record's set, and takes the
 * record out again when the set is empty. Until it has a set, a record (or a trie node) changes no
 * match, so an insert that runs out of memory half-way undoes itself by the same path.
 */
#define XXH_INLINE_ALL
#include "subindex_internal.h"

#include <stdlib.h>
#include <xxhash.h>

#include "midge/subject.h"

/* What malloc() takes for a block: 8 bytes of its own, steps of 16, at least 32.
 * Source: glibc 2.36, malloc/malloc.c request2size(). */
#define MALLOC_OVERHEAD 8u
#define MALLOC_STEP     16u
#define MALLOC_LEN_MIN  32u

/* Spreads account numbers over the seed. Source: XXH64's third prime. */
#define ACCOUNT_FACTOR UINT64_C(0x165667B19E3779F9)

struct literal_key {
    struct midge_slice subject;
    uint32_t account;
};

/* Where a subject lives. */
struct subject_place {
    uint64_t hash; /* of the table of literals, or of the pattern's first edge */
    bool is_pattern;
};

uint64_t midge_subindex_hash_subject(const struct midge_subindex *index, uint32_t account,
                                     struct midge_slice subject)
{
    return XXH3_64bits_withSeed(subject.base, subject.len,
                                index->seed ^ (uint64_t)account * ACCOUNT_FACTOR);
}

uint64_t midge_subindex_hash_token(const struct midge_subindex *index, struct midge_slice token)
{
    return XXH3_64bits_withSeed(token.base, token.len, index->seed);
}

static uint64_t charge_of(size_t size)
{
    const uint64_t len =
        ((uint64_t)size + MALLOC_OVERHEAD + MALLOC_STEP - 1) / MALLOC_STEP * MALLOC_STEP;

    return len < MALLOC_LEN_MIN ? MALLOC_LEN_MIN : len;
}

void *midge_part_alloc(struct midge_subindex_part *part, size_t size)
{
    void *object = calloc(1, size);

    if (object != NULL)
        (void)atomic_fetch_add_explicit(&part->bytes, charge_of(size), memory_order_relaxed);
    return object;
}

void midge_part_free(struct midge_subindex_part *part, void *object, size_t size)
{
    (void)atomic_fetch_sub_explicit(&part->bytes, charge_of(size), memory_order_relaxed);
    free(object);
}

static void index_unpin(struct midge_subindex *index)
{
    /* Release pairs with the acquire of the last one: all other work on the index is over. */
    if (atomic_fetch_sub_explicit(&index->pin_count, 1, memory_order_acq_rel) == 1)
        free(index);
}

void midge_part_free_retired(struct midge_subindex_part *part, void *object, size_t size)
{
    midge_part_free(part, object, size);
    index_unpin(part->index);
}

void midge_op_publish(const struct midge_op *op, _Atomic uintptr_t *word, uintptr_t value)
{
    /* Release pairs with the acquire in midge_result_add(): what the word points at is complete. */
    atomic_store_explicit(word, value, memory_order_release);
    /* Release pairs with the acquires in subindex_cache.c: the set is visible before the
     * generation. */
    (void)atomic_fetch_add_explicit(op->generation, 1, memory_order_release);
}

void midge_op_retire(const struct midge_op *op, void *object,
                     void (*free_cb)(void *context, void *object))
{
    (void)atomic_fetch_add_explicit(&op->part->index->pin_count, 1, memory_order_relaxed);
    midge_reclaim_retire(op->writer, object, op->part, free_cb);
}

static void count_up(_Atomic uint64_t *counter)
{
    (void)atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static void count_down(_Atomic uint64_t *counter)
{
    (void)atomic_fetch_sub_explicit(counter, 1, memory_order_relaxed);
}

static void part_deinit(struct midge_subindex_part *part)
{
    struct midge_table *literals = atomic_load_explicit(&part->literals, memory_order_relaxed);
    struct midge_table *edges = atomic_load_explicit(&part->edges, memory_order_relaxed);

    if (literals != NULL && edges != NULL)
        midge_trie_destroy(part);
    for (uint64_t i = 0; literals != NULL && i <= literals->slot_mask; i++) {
        const uint64_t slot = atomic_load_explicit(&literals->slots[i], memory_order_relaxed);

        if (slot > MIDGE_TABLE_TOMBSTONE)
            midge_record_destroy(part, midge_table_object(slot));
    }
    if (literals != NULL)
        midge_table_destroy(part, literals);
    if (edges != NULL)
        midge_table_destroy(part, edges);
    (void)pthread_mutex_destroy(&part->lock);
}

static bool part_init(struct midge_subindex_part *part, struct midge_subindex *index)
{
    part->index = index;
    if (pthread_mutex_init(&part->lock, NULL) != 0)
        return false;
    atomic_init(&part->literals, midge_table_create(part));
    atomic_init(&part->edges, midge_table_create(part));
    if (atomic_load_explicit(&part->literals, memory_order_relaxed) != NULL &&
        atomic_load_explicit(&part->edges, memory_order_relaxed) != NULL)
        return true;
    part_deinit(part);
    return false;
}

struct midge_subindex *midge_subindex_create(struct midge_reclaim *reclaim, uint64_t seed)
{
    struct midge_subindex *index = aligned_alloc(MIDGE_CACHE_LINE_LEN, sizeof(*index));
    uint32_t part_count = 0;

    MIDGE_ASSERT(reclaim != NULL);
    if (index == NULL)
        return NULL;
    memset(index, 0, sizeof(*index));
    index->reclaim = reclaim;
    index->seed = seed;
    index->empty_token_hash = midge_subindex_hash_token(index, midge_slice_make("", 0));
    atomic_init(&index->pin_count, 1);
    while (part_count < MIDGE_PART_COUNT) {
        if (!part_init(&index->parts[part_count], index))
            goto err_deinit_parts;
        part_count++;
    }
    return index;

err_deinit_parts:
    while (part_count > 0)
        part_deinit(&index->parts[--part_count]);
    free(index);
    return NULL;
}

void midge_subindex_destroy(struct midge_subindex *index)
{
    if (index == NULL)
        return;
    for (uint32_t i = 0; i < MIDGE_PART_COUNT; i++)
        part_deinit(&index->parts[i]);
    index_unpin(index);
}

struct midge_subindex_reader *midge_subindex_reader_create(struct midge_subindex *index,
                                                           struct midge_participant *participant)
{
    struct midge_subindex_reader *reader = calloc(1, sizeof(*reader));

    MIDGE_ASSERT(participant != NULL);
    if (reader == NULL)
        return NULL;
    reader->index = index;
    reader->participant = participant;
    reader->cache = midge_match_cache_create();
    if (reader->cache == NULL) {
        free(reader);
        return NULL;
    }
    return reader;
}

void midge_subindex_reader_destroy(struct midge_subindex_reader *reader)
{
    if (reader == NULL)
        return;
    midge_match_cache_destroy(reader->cache);
    midge_result_deinit(reader);
    free(reader);
}

static struct subject_place subject_locate(const struct midge_subindex *index, uint32_t account,
                                           struct midge_slice subject)
{
    struct subject_place place;

    place.is_pattern = midge_subject_has_wildcard(subject);
    place.hash = place.is_pattern ? midge_trie_hash(index, account, subject)
                                  : midge_subindex_hash_subject(index, account, subject);
    return place;
}

static bool literal_equal(const void *key, const void *object)
{
    const struct literal_key *literal = key;
    const struct midge_subindex_record *record = object;

    return record->subject_len == literal->subject.len && record->account == literal->account &&
           memcmp(record->subject, literal->subject.base, literal->subject.len) == 0;
}

static struct midge_subindex_record *literal_find(struct midge_subindex *index, uint32_t account,
                                                  struct midge_slice subject, uint64_t hash)
{
    const struct literal_key key = {subject, account};

    return midge_table_find(&midge_part_of(index, hash)->literals, hash, &key, literal_equal);
}

static struct midge_subindex_record *literal_obtain(const struct midge_op *op, uint32_t account,
                                                    struct midge_slice subject, uint64_t hash)
{
    struct midge_subindex_record *record = literal_find(op->part->index, account, subject, hash);

    if (record != NULL)
        return record;
    record = midge_record_create(op->part, account, subject);
    if (record == NULL ||
        midge_table_insert(op, &op->part->literals, &op->part->literals_fill, hash, record))
        return record;
    midge_record_destroy(op->part, record);
    return NULL;
}

static void record_discard(const struct midge_op *op, const struct subject_place *place,
                           struct midge_subindex_record *record)
{
    if (place->is_pattern) {
        midge_trie_discard(op, record);
    } else {
        midge_table_remove(op, &op->part->literals, &op->part->literals_fill, place->hash, record);
        midge_record_retire(op, record);
    }
}

static struct midge_op op_make(struct midge_subindex *index, struct midge_participant *writer,
                               const struct subject_place *place)
{
    const uint32_t literal = midge_literal_generation_index(place->hash);
    const uint32_t wildcard = midge_wildcard_generation_index(place->hash);

    return (struct midge_op){.part = midge_part_of(index, place->hash),
                             .writer = writer,
                             .generation = place->is_pattern
                                               ? &index->wildcard_generations[wildcard]
                                               : &index->literal_generations[literal]};
}

enum midge_status midge_subindex_insert(struct midge_subindex *index,
                                        struct midge_participant *writer, uint32_t account,
                                        struct midge_slice subject, struct midge_slice queue,
                                        struct midge_sub *sub,
                                        struct midge_subindex_record **record_out)
{
    const struct subject_place place = subject_locate(index, account, subject);
    const struct midge_op op = op_make(index, writer, &place);
    struct midge_subindex_record *record;
    bool was_empty;
    bool added = false;

    MIDGE_ASSERT(midge_subject_is_valid(subject));
    (void)pthread_mutex_lock(&op.part->lock);
    record = place.is_pattern ? midge_trie_obtain(&op, account, subject)
                              : literal_obtain(&op, account, subject, place.hash);
    if (record != NULL) {
        was_empty = midge_record_is_empty(record);
        added = midge_record_add(&op, record, queue, sub);
        if (!added && was_empty)
            record_discard(&op, &place, record);
    }
    if (added) {
        *record_out = record;
        count_up(&op.part->sub_count);
        count_up(&op.part->insert_count);
        if (was_empty)
            count_up(&op.part->record_count);
    }
    (void)pthread_mutex_unlock(&op.part->lock);
    return added ? MIDGE_OK : MIDGE_E_MEMORY;
}

void midge_subindex_remove(struct midge_subindex *index, struct midge_participant *writer,
                           struct midge_subindex_record *record, struct midge_slice queue,
                           struct midge_sub *sub)
{
    const struct subject_place place =
        subject_locate(index, record->account, midge_subindex_subject(record));
    const struct midge_op op = op_make(index, writer, &place);

    (void)pthread_mutex_lock(&op.part->lock);
    midge_record_take(&op, record, queue, sub);
    count_down(&op.part->sub_count);
    count_up(&op.part->remove_count);
    if (midge_record_is_empty(record)) {
        count_down(&op.part->record_count);
        record_discard(&op, &place, record);
    }
    (void)pthread_mutex_unlock(&op.part->lock);
}

struct midge_slice midge_subindex_subject(const struct midge_subindex_record *record)
{
    return midge_slice_make(record->subject, record->subject_len);
}

/* The part of a match that is needed only when the cache has no answer. */
static const struct midge_match *match_uncached(struct midge_subindex_reader *reader,
                                                struct midge_lookup *lookup, bool cacheable)
{
    struct midge_subindex *index = reader->index;
    const uintptr_t account_key = midge_account_key(lookup->account);
    struct midge_subindex_record *record;

    midge_table_prefetch_object(&midge_part_of(index, lookup->hash)->literals, lookup->hash);
    lookup->first_token = midge_trie_first_token(lookup->subject);
    lookup->first_token_hash = midge_subindex_hash_token(index, lookup->first_token);
    lookup->first_hash = midge_edge_hash(lookup->first_token_hash, account_key);
    lookup->root_hash = midge_edge_hash(index->empty_token_hash, account_key);
    if (cacheable)
        midge_match_cache_begin(reader->cache, index, lookup);
    midge_trie_match(reader, lookup);
    record = literal_find(index, lookup->account, lookup->subject, lookup->hash);
    if (record != NULL)
        midge_result_add(reader, record);
    (void)midge_result_end(reader);
    if (cacheable)
        midge_match_cache_put(reader->cache, lookup, &reader->match);
    return &reader->match;
}

const struct midge_match *midge_subindex_match(struct midge_subindex_reader *reader,
                                               uint32_t account, struct midge_slice subject)
{
    const bool cacheable = subject.len <= MIDGE_CACHE_SUBJECT_LEN_MAX;
    struct midge_lookup lookup = {.subject = subject, .account = account};
    const struct midge_match *match;

    MIDGE_ASSERT(midge_reclaim_is_online(reader->participant));
    midge_result_begin(reader);
    if (subject.len == 0)
        return &reader->match;
    lookup.hash = midge_subindex_hash_subject(reader->index, account, subject);
    if (cacheable) {
        match = midge_match_cache_get(reader->cache, account, subject, lookup.hash);
        if (match != NULL)
            return match;
    } else {
        midge_match_cache_skip(reader->cache);
    }
    return match_uncached(reader, &lookup, cacheable);
}

void midge_subindex_expect(struct midge_subindex_reader *reader, uint32_t account,
                           struct midge_slice subject)
{
    const uint64_t hash = midge_subindex_hash_subject(reader->index, account, subject);

    midge_match_cache_prefetch(reader->cache, hash);
    midge_table_prefetch(&midge_part_of(reader->index, hash)->literals, hash);
}

uint64_t midge_subindex_bytes(const struct midge_subindex *index)
{
    uint64_t bytes = charge_of(sizeof(*index));

    for (uint32_t i = 0; i < MIDGE_PART_COUNT; i++)
        bytes += atomic_load_explicit(&index->parts[i].bytes, memory_order_relaxed);
    return bytes;
}

void midge_subindex_counts(const struct midge_subindex *index,
                           struct midge_subindex_counts *counts_out)
{
    *counts_out = (struct midge_subindex_counts){.bytes = midge_subindex_bytes(index)};
    for (uint32_t i = 0; i < MIDGE_PART_COUNT; i++) {
        const struct midge_subindex_part *part = &index->parts[i];

        counts_out->subs += atomic_load_explicit(&part->sub_count, memory_order_relaxed);
        counts_out->records += atomic_load_explicit(&part->record_count, memory_order_relaxed);
        counts_out->nodes += atomic_load_explicit(&part->node_count, memory_order_relaxed);
        counts_out->inserts += atomic_load_explicit(&part->insert_count, memory_order_relaxed);
        counts_out->removes += atomic_load_explicit(&part->remove_count, memory_order_relaxed);
    }
}

void midge_subindex_cache_counts(const struct midge_subindex_reader *reader,
                                 struct midge_subindex_cache_counts *counts_out)
{
    midge_match_cache_counts(reader->cache, counts_out);
}

uint64_t midge_subindex_visits(const struct midge_subindex_reader *reader)
{
    return atomic_load_explicit(&reader->visit_count, memory_order_relaxed);
}
