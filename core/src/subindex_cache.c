/*
 * Match cache of one reader: results of earlier matches, by (account, subject).
 *
 * An entry points at sets and names in index memory. It is used again only if the three generations
 * it depends on are what they were before the match that made it: that of its literal subject, that
 * of the patterns with its first token, and that of the account's patterns that begin with a
 * wildcard.
 *
 * Why a stale entry is never followed, although the reader has announced quiescence in the meantime
 * and what the entry points at may have been freed. Let S be what a writer took out. The writer
 * (W1) published the new set, (W2) raised the generation, (W3) retired S; and S is freed only after
 * every participant was seen, after W3, to hold nothing, or offline.
 *   1. The entry's generation G was loaded (acquire) before the match looked at anything, and the
 *      match found S. If G had included W2 (release), W1 would have happened before the match,
 *      which would not have found S. So W2 takes the generation to a value other than G; it only
 *      grows, by 64 bits, so it is never G again.
 *   2. Suppose that S is freed now or will be before the reader's next quiescent call. Then the
 *      scan that frees it relies on this reader's latest announcement or an earlier one (or on its
 *      being offline before it last went online). By the proof in reclaim.c everything before W3,
 *      so W2, happened before what the reader does after that. The reader is online and compares
 *      the generation now: by coherence it loads W2's value or a later one, which is not G, and the
 *      entry is not used.
 *   3. So if all generations are equal, nothing that the entry points at is freed before the
 *      reader's next quiescent call, which is how long a result is valid.
 * The same holds for the subscriptions themselves, which their owner retires after the removal has
 * returned, and so after W2; for the names of queue groups, which are retired like sets; and for a
 * subscription crossed out in place, whose chunk stays but is left out by the next match.
 *
 * An equal generation also means an up-to-date answer: the load is an acquire, so a match that
 * begins after an insert or a remove has returned (on any shard that learned of it) sees W2.
 *
 * A subject enters the cache when it is met for the second time, so that reply subjects, used once,
 * do not push out what is hot. Results with many sets do not enter: looking them up is cheap
 * compared with delivering to them.
 *
 * Thread: shard; the counters are one writer, any reader.
 * Memory: about 2 MiB of address space, touched as it fills.
 * Limits: ENTRY_COUNT subjects of MIDGE_CACHE_SUBJECT_LEN_MAX bytes.
 */
#include "subindex_internal.h"

#include <string.h>
#include <sys/mman.h>

#define ENTRY_COUNT 4096u
#define WAY_COUNT   2u
#define LINE_COUNT  (ENTRY_COUNT / WAY_COUNT)

/* Tags of subjects seen once. */
#define SEEN_COUNT 8192u

/* Of one result. */
#define ENTRY_SET_MAX   8u
#define ENTRY_QUEUE_MAX 2u

enum generation {
    GENERATION_LITERAL = 0,
    GENERATION_FIRST,
    GENERATION_ROOT,
    GENERATION_COUNT,
};

/* What a result depends on, and what it was. */
struct stamp {
    uint64_t values[GENERATION_COUNT];
    const _Atomic uint64_t *counters[GENERATION_COUNT];
};

struct entry {
    /* Looked at by every hit. */
    alignas(MIDGE_CACHE_LINE_LEN) struct stamp stamp;
    uint32_t account;
    uint32_t subject_len; /* 0: unused */
    struct midge_match match;
    uint8_t subject[MIDGE_CACHE_SUBJECT_LEN_MAX];

    /* What `match` points at. */
    struct midge_subset sets[ENTRY_SET_MAX]; /* plain, then of queue groups */
    struct midge_sub *singles[ENTRY_SET_MAX];
    struct midge_queue_match queues[ENTRY_QUEUE_MAX];
};

struct midge_match_cache {
    struct stamp stamp; /* of the match in progress */
    _Atomic uint64_t hit_count;
    _Atomic uint64_t miss_count;
    _Atomic uint64_t uncacheable_count;
    uint64_t hashes[LINE_COUNT][WAY_COUNT]; /* so that a miss touches no entry */
    uint8_t victims[LINE_COUNT];            /* the way not used last */
    uint16_t seen[SEEN_COUNT];
    struct entry entries[LINE_COUNT][WAY_COUNT];
};

struct midge_match_cache *midge_match_cache_create(void)
{
    /* Aligned and zeroed without being touched, which calloc() would not be. */
    void *cache = mmap(NULL, sizeof(struct midge_match_cache), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return cache != MAP_FAILED ? cache : NULL;
}

void midge_match_cache_destroy(struct midge_match_cache *cache)
{
    if (cache != NULL)
        (void)munmap(cache, sizeof(*cache));
}

static void count_one(_Atomic uint64_t *counter)
{
    const uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, value + 1, memory_order_relaxed);
}

static uint32_t line_of(uint64_t hash)
{
    return (uint32_t)hash & (LINE_COUNT - 1);
}

static bool stamp_holds(const struct stamp *stamp)
{
    bool equal = true;

    /* Acquire pairs with the release in midge_op_publish(); see the head comment. */
    for (uint32_t i = 0; i < GENERATION_COUNT; i++) {
        if (atomic_load_explicit(stamp->counters[i], memory_order_acquire) != stamp->values[i])
            equal = false;
    }
    return equal;
}

const struct midge_match *midge_match_cache_get(struct midge_match_cache *cache, uint32_t account,
                                                struct midge_slice subject, uint64_t hash)
{
    const uint32_t line = line_of(hash);

    for (uint32_t way = 0; way < WAY_COUNT; way++) {
        const struct entry *entry = &cache->entries[line][way];

        if (cache->hashes[line][way] != hash || entry->subject_len != subject.len ||
            entry->account != account || memcmp(entry->subject, subject.base, subject.len) != 0)
            continue;
        if (!stamp_holds(&entry->stamp))
            break;
        cache->victims[line] = (uint8_t)(way ^ 1);
        count_one(&cache->hit_count);
        return &entry->match;
    }
    count_one(&cache->miss_count);
    return NULL;
}

void midge_match_cache_prefetch(const struct midge_match_cache *cache, uint64_t hash)
{
    __builtin_prefetch(cache->hashes[line_of(hash)]);
}

void midge_match_cache_begin(struct midge_match_cache *cache, const struct midge_subindex *index,
                             const struct midge_lookup *lookup)
{
    const uint32_t literal = midge_literal_generation_index(lookup->hash);
    const uint32_t first = midge_wildcard_generation_index(lookup->first_hash);
    const uint32_t root = midge_wildcard_generation_index(lookup->root_hash);
    struct stamp *stamp = &cache->stamp;

    stamp->counters[GENERATION_LITERAL] = &index->literal_generations[literal];
    stamp->counters[GENERATION_FIRST] = &index->wildcard_generations[first];
    stamp->counters[GENERATION_ROOT] = &index->wildcard_generations[root];
    /* Acquire pairs with the release in midge_op_publish(); point 1 of the head comment. */
    for (uint32_t i = 0; i < GENERATION_COUNT; i++)
        stamp->values[i] = atomic_load_explicit(stamp->counters[i], memory_order_acquire);
}

/* Copy the sets; a set of one is copied itself, since it may lie in the arrays of the reader. */
static void entry_put_sets(struct entry *entry, uint32_t first, const struct midge_subset *sets,
                           uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct midge_subset *set = &entry->sets[first + i];

        *set = sets[i];
        if (set->count == 1) {
            entry->singles[first + i] = set->subs[0];
            set->subs = &entry->singles[first + i];
        }
    }
}

static void entry_put(struct entry *entry, const struct stamp *stamp,
                      const struct midge_lookup *lookup, const struct midge_match *match,
                      uint32_t queue_set_count)
{
    entry->stamp = *stamp;
    entry->account = lookup->account;
    entry->subject_len = lookup->subject.len;
    memcpy(entry->subject, lookup->subject.base, lookup->subject.len);
    entry_put_sets(entry, 0, match->plain_sets, match->plain_set_count);
    entry_put_sets(entry, match->plain_set_count, match->queue_sets, queue_set_count);
    if (match->queue_count > 0)
        memcpy(entry->queues, match->queues, match->queue_count * sizeof(*match->queues));
    entry->match = (struct midge_match){.plain_sets = entry->sets,
                                        .queue_sets = entry->sets + match->plain_set_count,
                                        .queues = entry->queues,
                                        .plain_set_count = match->plain_set_count,
                                        .queue_count = match->queue_count};
}

/* The way for this hash, or WAY_COUNT if it is met for the first time. */
static uint32_t way_choose(struct midge_match_cache *cache, uint64_t hash)
{
    const uint32_t line = line_of(hash);
    uint16_t *seen = &cache->seen[(hash >> 32) & (SEEN_COUNT - 1)];
    const uint16_t tag = (uint16_t)(hash >> 48);

    for (uint32_t way = 0; way < WAY_COUNT; way++) {
        if (cache->hashes[line][way] == hash)
            return way;
    }
    if (*seen == tag)
        return cache->victims[line];
    *seen = tag;
    return WAY_COUNT;
}

void midge_match_cache_put(struct midge_match_cache *cache, const struct midge_lookup *lookup,
                           const struct midge_match *match)
{
    const uint32_t line = line_of(lookup->hash);
    uint32_t queue_set_count = 0;
    uint32_t way;

    if (match->queue_count > ENTRY_QUEUE_MAX || match->plain_set_count > ENTRY_SET_MAX) {
        count_one(&cache->uncacheable_count);
        return;
    }
    for (uint32_t i = 0; i < match->queue_count; i++)
        queue_set_count += match->queues[i].set_count;
    if (queue_set_count > ENTRY_SET_MAX - match->plain_set_count) {
        count_one(&cache->uncacheable_count);
        return;
    }
    way = way_choose(cache, lookup->hash);
    if (way == WAY_COUNT)
        return;
    entry_put(&cache->entries[line][way], &cache->stamp, lookup, match, queue_set_count);
    cache->hashes[line][way] = lookup->hash;
    cache->victims[line] = (uint8_t)(way ^ 1);
}

void midge_match_cache_skip(struct midge_match_cache *cache)
{
    count_one(&cache->uncacheable_count);
}

void midge_match_cache_counts(const struct midge_match_cache *cache,
                              struct midge_subindex_cache_counts *counts_out)
{
    counts_out->hits = atomic_load_explicit(&cache->hit_count, memory_order_relaxed);
    counts_out->misses = atomic_load_explicit(&cache->miss_count, memory_order_relaxed);
    counts_out->uncacheable = atomic_load_explicit(&cache->uncacheable_count, memory_order_relaxed);
}
