/*
 * What the files of the subject index share. See midge/subindex.h for the whole.
 *
 *   subindex.c         insert, remove, match, counts: takes the part lock and calls the others
 *   subindex_table.c   lock-free open-addressing table of pointers (literal records; trie edges)
 *   subindex_trie.c    wildcard patterns
 *   subindex_set.c     sets of subscriptions, queue groups of a record
 *   subindex_result.c  what a reader collects during one match
 *   subindex_cache.c   match cache of a reader
 *
 * Locks. One part holds the literal records whose hash falls into it, and the whole subtries of the
 * first tokens whose hash falls into it; its mutex covers writers of both. A wildcard pattern meets
 * only nodes of its own first token, so the trie needs no lock of its own. The patterns of one
 * account that begin with a wildcard share one subtrie, and so one part.
 *
 * Publication. A writer stores a word with release order and a reader loads it with acquire order;
 * what it points at is immutable, or consists of more such words. The order is: publish, raise the
 * generation, retire the old memory (midge_op_publish, midge_op_retire). A writer reads with
 * relaxed order what only holders of its part lock write.
 */
#ifndef MIDGE_SUBINDEX_INTERNAL_H
#define MIDGE_SUBINDEX_INTERNAL_H

#include <assert.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "midge/subindex.h"

/* Parts; the upper bits of a hash choose one. More than twice the shards that most machines run, so
 * that two writers seldom meet; each part costs two tables. */
#define MIDGE_PART_COUNT     64u
#define MIDGE_PART_COUNT_LOG 6u

/* Generation counters. A new literal subscription makes 1/4096 of a match cache stale, a new
 * wildcard the subjects with 1/256 of the first tokens. 34 KiB in all, which stay in the
 * second-level cache. */
#define MIDGE_LITERAL_GENERATION_COUNT  4096u
#define MIDGE_WILDCARD_GENERATION_COUNT 256u

/* Longest subject that a match cache holds. */
#define MIDGE_CACHE_SUBJECT_LEN_MAX 128u

/* Slots of one table; beyond 3/4 of the most, insert returns MIDGE_E_MEMORY. The bits of the hash
 * in a slot address 2^20 places. In a larger table several slots belong to each place: a search
 * looks at all objects of its place, 6 on average in the fullest of the largest. Literals spread
 * over 64 parts, so it takes 50 million of them to get there; but all patterns with one first token
 * share one part, and they may well be a million. */
#define MIDGE_TABLE_PLACE_BITS     20u
#define MIDGE_TABLE_SLOT_COUNT_MIN 16u
#define MIDGE_TABLE_SLOT_COUNT_MAX (1u << 23)

/* Subscriptions in one chunk of a set. One insert or remove copies at most one chunk and the list
 * of chunks: 4 KiB + 3 KiB for 100,000 subscriptions of one subject. */
#define MIDGE_SET_CHUNK_MAX 512u

struct midge_subindex_part;
struct midge_set_group;

/*
 * A set is one word: 0 is the empty set, a pointer without a tag its only item, and a tag in the
 * top bits, which no user-space address has, says what else it points at.
 */
#define MIDGE_SET_CHUNK    (UINT64_C(1) << 63) /* struct midge_set_chunk */
#define MIDGE_SET_TREE     (UINT64_C(1) << 62) /* struct midge_set_tree */
#define MIDGE_SET_MIXED    (UINT64_C(1) << 61) /* record only: struct midge_set_mixed */
#define MIDGE_SET_TAG_MASK (MIDGE_SET_CHUNK | MIDGE_SET_TREE | MIDGE_SET_MIXED)

static_assert(sizeof(uintptr_t) == 8, "tags need the upper bits of a 64-bit word");

/* A table of pointers. The slots are one atomic word each, see subindex_table.c.
 * Thread: one writer (index part lock), any reader. */
struct midge_table {
    uint64_t slot_mask;  /* constant after init */
    uint64_t home_shift; /* constant after init; slots of one place, as a power of two */
    _Atomic uint64_t slots[];
};

/* What the writer knows about a table. Thread: any (index part lock). */
struct midge_table_fill {
    uint32_t live; /* slots with a pointer */
    uint32_t used; /* those and tombstones */
};

/* One (account, subject) pair. Thread: `word` one writer (index part lock), any reader; the rest
 * constant after init. */
struct midge_subindex_record {
    _Atomic uintptr_t word; /* its set, or MIDGE_SET_MIXED */
    uint32_t account;
    uint32_t subject_len;
    uint8_t subject[];
};

/* A node of the trie. Thread: one writer (index part lock), any reader; the rest constant. */
struct midge_trie_node {
    uintptr_t parent_key; /* the parent node; or, in first place, midge_account_key() */
    struct midge_trie_node *_Atomic star;
    struct midge_subindex_record *_Atomic leaf; /* the pattern that ends here */
    struct midge_subindex_record *_Atomic rest; /* the pattern that ends here with `>` */
    _Atomic uint32_t child_count;               /* edges to literal tokens */
    uint32_t token_len;                         /* 0: a `*` node, or the root of an account */
    uint8_t token[];
};

struct midge_subindex_part {
    /* Read by every match, written when a table is replaced. */
    alignas(MIDGE_CACHE_LINE_LEN) struct midge_table *_Atomic literals; /* of records */
    struct midge_table *_Atomic edges;                                  /* of nodes */
    struct midge_subindex *index;                                       /* constant after init */

    /* Writers. */
    alignas(MIDGE_CACHE_LINE_LEN) pthread_mutex_t lock;
    struct midge_table_fill literals_fill;
    struct midge_table_fill edges_fill;
    /* Written under the lock, read by midge_subindex_counts(). */
    _Atomic uint64_t sub_count;
    _Atomic uint64_t record_count;
    _Atomic uint64_t node_count;
    _Atomic uint64_t insert_count;
    _Atomic uint64_t remove_count;
    _Atomic uint64_t bytes; /* also lowered by whoever frees what was retired */
};
static_assert(offsetof(struct midge_subindex_part, lock) == MIDGE_CACHE_LINE_LEN,
              "taking the lock must not disturb readers");

struct midge_subindex {
    /* Constant after init. */
    struct midge_reclaim *reclaim;
    uint64_t seed;
    uint64_t empty_token_hash; /* of the token "", which leads to the root of an account */

    /* Objects retired and not yet freed, and one for the owner: whoever takes it to 0 frees this.
     */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t pin_count;

    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t
        literal_generations[MIDGE_LITERAL_GENERATION_COUNT];
    _Atomic uint64_t wildcard_generations[MIDGE_WILDCARD_GENERATION_COUNT];

    struct midge_subindex_part parts[MIDGE_PART_COUNT];
};

/* One insert or remove in progress. Thread: any (index part lock). */
struct midge_op {
    struct midge_subindex_part *part;
    struct midge_participant *writer;
    _Atomic uint64_t *generation; /* raised with each publication of a set */
};

/* Hashes and memory -------------------------------------------------------------------------- */

/** Hash of (account, subject) for the table of literals. */
uint64_t midge_subindex_hash_subject(const struct midge_subindex *index, uint32_t account,
                                     struct midge_slice subject);
/** Hash of one token; mixed with a parent by midge_edge_hash(). */
uint64_t midge_subindex_hash_token(const struct midge_subindex *index, struct midge_slice token);

/* Node addresses are even, so an odd word can stand for an account. */
static inline uintptr_t midge_account_key(uint32_t account)
{
    return ((uintptr_t)account << 1) | 1;
}

/* The multiplications spread both inputs over all bits; constants are those of XXH64's primes. */
static inline uint64_t midge_edge_hash(uint64_t token_hash, uintptr_t parent_key)
{
    uint64_t hash = token_hash + (uint64_t)parent_key * UINT64_C(0x9E3779B185EBCA87);

    hash ^= hash >> 32;
    hash *= UINT64_C(0xC2B2AE3D27D4EB4F);
    return hash ^ (hash >> 29);
}

/* Three disjoint ranges of bits: 0..19 place in the table, 20..31 generation, 58..63 part. */
static inline struct midge_subindex_part *midge_part_of(struct midge_subindex *index, uint64_t hash)
{
    return &index->parts[hash >> (64 - MIDGE_PART_COUNT_LOG)];
}

static inline uint32_t midge_literal_generation_index(uint64_t hash)
{
    return (uint32_t)(hash >> 20) & (MIDGE_LITERAL_GENERATION_COUNT - 1);
}

static inline uint32_t midge_wildcard_generation_index(uint64_t hash)
{
    return (uint32_t)(hash >> 20) & (MIDGE_WILDCARD_GENERATION_COUNT - 1);
}

/** @return owned, zeroed, charged to the part; or NULL. Give it back with the same size. */
void *midge_part_alloc(struct midge_subindex_part *part, size_t size);
/** Free memory that no reader has seen or can see. */
void midge_part_free(struct midge_subindex_part *part, void *object, size_t size);
/** Free retired memory; for free callbacks. The index may be gone afterwards. */
void midge_part_free_retired(struct midge_subindex_part *part, void *object, size_t size);

/** Make a set visible, then raise the generation. */
void midge_op_publish(const struct midge_op *op, _Atomic uintptr_t *word, uintptr_t value);
/** Retire what readers can no longer find; free_cb gets the part as context and ends with
 * midge_part_free_retired(). */
void midge_op_retire(const struct midge_op *op, void *object,
                     void (*free_cb)(void *context, void *object));

/* Tables ------------------------------------------------------------------------------------- */

#define MIDGE_TABLE_TOMBSTONE UINT64_C(1)

/* Slot: 20 bits of the hash over 44 bits of an address that is aligned to 16 and below 2^48. */
static inline uint64_t midge_table_tag(uint64_t hash)
{
    return hash << (64 - MIDGE_TABLE_PLACE_BITS);
}

static inline void *midge_table_object(uint64_t slot)
{
    return (void *)(uintptr_t)((slot << MIDGE_TABLE_PLACE_BITS) >> (MIDGE_TABLE_PLACE_BITS - 4));
}

static inline uint64_t midge_table_place(uint64_t slot)
{
    return slot >> (64 - MIDGE_TABLE_PLACE_BITS);
}

/* Where the search for what belongs to this place begins. */
static inline uint64_t midge_table_home(const struct midge_table *table, uint64_t slot)
{
    return midge_table_place(slot) << table->home_shift;
}

/* Find the object with this hash for which equal_cb says true, or NULL. Inline, so that the
 * callback is a direct call. Wait-free: a table has always an empty slot, and a replaced table no
 * longer changes. */
static inline void *midge_table_find(struct midge_table *_Atomic *table_at, uint64_t hash,
                                     const void *key,
                                     bool (*equal_cb)(const void *key, const void *object))
{
    /* Acquire pairs with the release in table_rebuild(): the slots are there before the table. */
    struct midge_table *table = atomic_load_explicit(table_at, memory_order_acquire);
    const uint64_t tag = midge_table_tag(hash);

    for (uint64_t i = midge_table_home(table, tag);; i++) {
        /* Acquire pairs with the release in slot_store(): the object is there before the slot. */
        const uint64_t slot =
            atomic_load_explicit(&table->slots[i & table->slot_mask], memory_order_acquire);

        if (slot == 0)
            return NULL;
        if (((slot ^ tag) >> (64 - MIDGE_TABLE_PLACE_BITS)) == 0 && slot != MIDGE_TABLE_TOMBSTONE &&
            equal_cb(key, midge_table_object(slot)))
            return midge_table_object(slot);
    }
}

/* Have the slot on its way, for a find that comes later. */
static inline void midge_table_prefetch(struct midge_table *_Atomic *table_at, uint64_t hash)
{
    /* Acquire pairs with the release in table_rebuild(). */
    struct midge_table *table = atomic_load_explicit(table_at, memory_order_acquire);

    __builtin_prefetch(
        &table->slots[midge_table_home(table, midge_table_tag(hash)) & table->slot_mask]);
}

/* Have the object on its way that a find will look at first. Where the slot is not at hand either,
 * the processor goes on meanwhile. */
static inline void midge_table_prefetch_object(struct midge_table *_Atomic *table_at, uint64_t hash)
{
    /* Acquire pairs with the release in table_rebuild(). */
    struct midge_table *table = atomic_load_explicit(table_at, memory_order_acquire);
    const uint64_t tag = midge_table_tag(hash);

    for (uint64_t i = midge_table_home(table, tag);; i++) {
        const uint64_t slot =
            atomic_load_explicit(&table->slots[i & table->slot_mask], memory_order_relaxed);

        if (slot == 0)
            return;
        if ((slot ^ tag) >> (64 - MIDGE_TABLE_PLACE_BITS) == 0) {
            __builtin_prefetch(midge_table_object(slot));
            return;
        }
    }
}

/** @return owned, empty, of the smallest size; or NULL */
struct midge_table *midge_table_create(struct midge_subindex_part *part);
void midge_table_destroy(struct midge_subindex_part *part, struct midge_table *table);
/** Add an object that is not in. @return false without memory, and nothing has changed */
bool midge_table_insert(const struct midge_op *op, struct midge_table *_Atomic *table_at,
                        struct midge_table_fill *fill, uint64_t hash, void *object);
/** Take out an object that is in. Never fails. */
void midge_table_remove(const struct midge_op *op, struct midge_table *_Atomic *table_at,
                        struct midge_table_fill *fill, uint64_t hash, const void *object);

/* Sets and records --------------------------------------------------------------------------- */

/* Items in ascending order; a bit for each item that a removal without memory has crossed out. The
 * bits follow the items, which is why `items` is sized by `count`. Thread: constant after init, but
 * for dead_count and the bits: one writer (index part lock), any reader. */
struct midge_set_chunk {
    uint32_t count; /* >= 1 */
    _Atomic uint32_t dead_count;
    void *items[];
};

/* Thread: constant after init. */
struct midge_set_tree {
    uint32_t chunk_count; /* >= 2 */
    struct midge_set_chunk *chunks[];
};

/* What the word of a record with queue groups points at. Thread: one writer (index part lock), any
 * reader. */
struct midge_set_mixed {
    _Atomic uintptr_t plain;  /* set of subscriptions */
    _Atomic uintptr_t groups; /* set of struct midge_set_group, by name */
};

/* Thread: `members` one writer (index part lock), any reader; the rest constant after init. */
struct midge_set_group {
    _Atomic uintptr_t members; /* set of subscriptions */
    uint64_t name_hash;
    uint32_t name_len;
    uint8_t name[];
};

static inline _Atomic uint64_t *midge_set_dead_bits(struct midge_set_chunk *chunk)
{
    return (_Atomic uint64_t *)(void *)&chunk->items[chunk->count];
}

/** Memory of a new record, not yet linked, with an empty set; or NULL. */
struct midge_subindex_record *midge_record_create(struct midge_subindex_part *part,
                                                  uint32_t account, struct midge_slice subject);
/** Retire a record whose set is empty and which no reader can find. */
void midge_record_retire(const struct midge_op *op, struct midge_subindex_record *record);
/** Free a record and its set, when all readers are gone. */
void midge_record_destroy(struct midge_subindex_part *part, struct midge_subindex_record *record);

/** @return false without memory, and nothing has changed */
bool midge_record_add(const struct midge_op *op, struct midge_subindex_record *record,
                      struct midge_slice queue, struct midge_sub *sub);
/** Never fails; the subscription must be in. */
void midge_record_take(const struct midge_op *op, struct midge_subindex_record *record,
                       struct midge_slice queue, struct midge_sub *sub);
/** True if no subscription is in. */
static inline bool midge_record_is_empty(const struct midge_subindex_record *record)
{
    return atomic_load_explicit(&record->word, memory_order_relaxed) == 0;
}

/* Trie --------------------------------------------------------------------------------------- */

/** First token of a subject, without its dot. */
struct midge_slice midge_trie_first_token(struct midge_slice subject);
/** Hash that decides the part and the generation of a pattern with a wildcard. */
uint64_t midge_trie_hash(const struct midge_subindex *index, uint32_t account,
                         struct midge_slice pattern);
/** Find or create the record of a pattern. @return borrowed, or NULL without memory */
struct midge_subindex_record *midge_trie_obtain(const struct midge_op *op, uint32_t account,
                                                struct midge_slice pattern);
/** Take out the empty record of a pattern, and the nodes that only it needed. */
void midge_trie_discard(const struct midge_op *op, struct midge_subindex_record *record);
/** Free nodes and their records, when all readers are gone. */
void midge_trie_destroy(struct midge_subindex_part *part);

/* Reading ------------------------------------------------------------------------------------ */

struct midge_token {
    uint64_t hash; /* 0: not computed yet */
    uint32_t off;
    uint32_t len;
};

/* One set of a queue group on the way into the result. */
struct midge_queue_item {
    const struct midge_set_group *group;
    struct midge_sub *const *subs; /* NULL: `single` is the only one */
    struct midge_sub *single;
    uint32_t count;
    uint32_t queue_index;
};

struct midge_trie_step {
    struct midge_trie_node *node;
    uint32_t depth; /* tokens consumed */
};

struct midge_match_cache;

/* Thread: shard. */
struct midge_subindex_reader {
    struct midge_subindex *index;
    struct midge_participant *participant;
    struct midge_match_cache *cache; /* owned */

    /* The result; arrays owned, grown and never shrunk. A set of one has its place in `singles`,
     * and its `subs` is pointed there when no array moves any more. */
    struct midge_match match;
    struct midge_subset *plain_sets;
    struct midge_sub **plain_singles;
    struct midge_queue_item *queue_items;
    struct midge_queue_match *queues;
    struct midge_subset *queue_sets;
    struct midge_sub **queue_singles;
    uint32_t *queue_slots; /* open addressing by name: index into queues + 1, or 0 */
    uint32_t plain_count;
    uint32_t plain_cap;
    uint32_t queue_item_count;
    uint32_t queue_item_cap; /* also of queues, queue_sets, queue_singles */
    uint32_t queue_slot_cap;

    /* Work space of the trie walk. */
    struct midge_token *tokens;
    struct midge_trie_step *steps;
    uint32_t token_cap; /* steps have two more */

    _Atomic uint64_t visit_count; /* nodes looked at; one writer, any reader */
};

/* One match in progress; what it depends on. */
struct midge_lookup {
    struct midge_slice subject;
    struct midge_slice first_token;
    uint64_t hash;             /* of (account, subject) */
    uint64_t first_token_hash; /* of the token alone */
    uint64_t first_hash;       /* of the edge (account, first token) */
    uint64_t root_hash;        /* of the edge (account, "") */
    uint32_t account;
};

/** Capacity to grow to: `need`, or twice the old if that is more. */
uint32_t midge_reader_cap(uint32_t cap, uint32_t need);
/** @return the array with room for `cap` elements; what was in stays. Out of memory aborts: a match
 * cannot fail, and to leave out subscribers would break the accounting of deliveries. */
void *midge_reader_grow(void *array, uint32_t cap, size_t element_len);

/** Free the arrays of the reader. */
void midge_result_deinit(struct midge_subindex_reader *reader);
void midge_result_begin(struct midge_subindex_reader *reader);
/** Add whatever is in the record now. */
void midge_result_add(struct midge_subindex_reader *reader, struct midge_subindex_record *record);
const struct midge_match *midge_result_end(struct midge_subindex_reader *reader);

/** Add the records of all patterns that the subject matches. */
void midge_trie_match(struct midge_subindex_reader *reader, const struct midge_lookup *lookup);

struct midge_match_cache *midge_match_cache_create(void);
void midge_match_cache_destroy(struct midge_match_cache *cache);
/** @return the result of an earlier match that is still what a new one would find, or NULL */
const struct midge_match *midge_match_cache_get(struct midge_match_cache *cache, uint32_t account,
                                                struct midge_slice subject, uint64_t hash);
/** Have what a get looks at first on its way. */
void midge_match_cache_prefetch(const struct midge_match_cache *cache, uint64_t hash);
/** Note the generations, before the match looks at anything. */
void midge_match_cache_begin(struct midge_match_cache *cache, const struct midge_subindex *index,
                             const struct midge_lookup *lookup);
/** Keep the result if the subject is met for the second time. */
void midge_match_cache_put(struct midge_match_cache *cache, const struct midge_lookup *lookup,
                           const struct midge_match *match);
/** Count a subject that is too long. */
void midge_match_cache_skip(struct midge_match_cache *cache);
void midge_match_cache_counts(const struct midge_match_cache *cache,
                              struct midge_subindex_cache_counts *counts_out);

#endif
