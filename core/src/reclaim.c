/*
 * Quiescent-state based reclamation without stand-alone fences.
 *
 * There is one epoch, raised by whoever has a batch of retired objects, and each participant
 * publishes in `seen` the epoch at which it last held nothing (0 while offline). A batch is given
 * the epoch T that its owner raised after the last object of the batch had become unreachable, and
 * is freed once every participant was seen at T or later, or offline.
 *
 * Why no reader holds a freed object. Let U be the store that made the object unreachable.
 *   1. Participant seen at T or later. It had loaded the epoch (acquire) from the increment that
 *      made T (release) or a later one, so U happened before its announcement, and reads after that
 *      cannot find the object. Reads before it are ordered before the announcement (release), which
 *      the scan has loaded (acquire).
 *   2. Participant seen offline. The scan makes sure with a read-modify-write of `seen`, and going
 *      online is a read-modify-write as well. The two are ordered: if the scan came first, going
 *      online acquires what the scan released, U included; if it came second, the scan saw it
 *      online.
 *   3. Participant registered late. Registering publishes the count and then does a
 *      read-modify-write on the epoch; the owner of a batch raises the epoch and then loads the
 *      count. Whichever came first, either the owner sees the participant, or the participant has
 *      acquired U.
 * A plain store and load in place of the read-modify-writes in 2 would need a fence on both sides,
 * which ThreadSanitizer does not understand.
 *
 * Thread: see reclaim.h.
 * Memory: blocks of retired objects, one per participant kept in reserve.
 */
#include "midge/reclaim.h"

#include <assert.h>
#include <pthread.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* One block of the list is one page. */
#define BLOCK_ITEM_COUNT 170u

/* Objects freed by one quiescent call; about 50 us. */
#define FREE_MAX 1024u

/* More where that is less than what is retired meanwhile, or the list would grow for ever: a share
 * of a large batch, and a multiple of what was retired since the last call, which costs less than
 * retiring it did. The share alone would let the list grow to 64 times that. */
#define FREE_SHARE          64u
#define FREE_RETIRED_FACTOR 2u

#define SEEN_OFFLINE 0u

struct retired {
    void *object;
    void *context;
    void (*free_cb)(void *context, void *object);
};

struct block {
    struct block *next;
    uint64_t count;
    struct retired items[BLOCK_ITEM_COUNT];
};

/* Last in, first out; the order of freeing has no meaning. */
struct batch {
    struct block *head;
    uint64_t count;
};

struct midge_participant {
    /* Written by the participant; by scans only with the value it has. */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t seen; /* epoch, or SEEN_OFFLINE */

    /* Private to the participant. */
    alignas(MIDGE_CACHE_LINE_LEN) struct midge_reclaim *reclaim;
    struct batch open;    /* retired since the last batch was closed */
    struct batch waiting; /* may be freed once everybody was seen at `target` */
    uint64_t open_seen;   /* objects in `open` when the last quiescent call returned */
    struct block *spare;  /* NULL or an empty block */
    uint64_t target;
    uint32_t passed_count; /* participants already found past `target` */
    uint32_t scan_count;   /* participants that the scan is about; = passed_count: batch is free */
};
static_assert(offsetof(struct midge_participant, reclaim) == MIDGE_CACHE_LINE_LEN,
              "announcing must not share a line with the lists");

struct midge_reclaim {
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint64_t epoch; /* from 1; only grows */

    /* Written by register under the lock. */
    alignas(MIDGE_CACHE_LINE_LEN) pthread_mutex_t lock;
    _Atomic uint32_t participant_count;
    struct midge_participant *participants[MIDGE_SHARDS_MAX]; /* constant once counted */
};

struct midge_reclaim *midge_reclaim_create(void)
{
    struct midge_reclaim *reclaim = aligned_alloc(MIDGE_CACHE_LINE_LEN, sizeof(*reclaim));

    if (reclaim == NULL)
        return NULL;
    memset(reclaim, 0, sizeof(*reclaim));
    if (pthread_mutex_init(&reclaim->lock, NULL) != 0) {
        free(reclaim);
        return NULL;
    }
    atomic_init(&reclaim->epoch, 1);
    return reclaim;
}

static void block_push(struct midge_participant *participant)
{
    struct block *block = participant->spare;

    participant->spare = NULL;
    if (block == NULL)
        block = malloc(sizeof(*block));
    MIDGE_ASSERT(block != NULL); /* out of memory, and nothing to unwind to; see reclaim.h */
    block->next = participant->open.head;
    block->count = 0;
    participant->open.head = block;
}

static void block_pop(struct midge_participant *participant, struct batch *batch)
{
    struct block *block = batch->head;

    batch->head = block->next;
    if (participant->spare == NULL)
        participant->spare = block;
    else
        free(block);
}

/* Free up to `limit` objects of the batch. The callbacks may retire more: into the open batch,
 * which is never the one that is being freed. */
static void batch_free(struct midge_participant *participant, struct batch *batch, uint64_t limit)
{
    while (limit > 0 && batch->head != NULL) {
        struct block *block = batch->head;

        if (block->count > 0) {
            const struct retired *item = &block->items[--block->count];

            batch->count--;
            limit--;
            item->free_cb(item->context, item->object);
        }
        if (block->count == 0)
            block_pop(participant, batch);
    }
}

void midge_reclaim_destroy(struct midge_reclaim *reclaim)
{
    const uint32_t count = atomic_load_explicit(&reclaim->participant_count, memory_order_acquire);
    bool again = true;

    while (again) {
        again = false;
        for (uint32_t i = 0; i < count; i++) {
            struct midge_participant *participant = reclaim->participants[i];
            struct batch batch = participant->open;

            MIDGE_ASSERT(!midge_reclaim_is_online(participant));
            again = again || batch.count + participant->waiting.count > 0;
            participant->open = (struct batch){0};
            batch_free(participant, &participant->waiting, UINT64_MAX);
            batch_free(participant, &batch, UINT64_MAX);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        free(reclaim->participants[i]->spare);
        free(reclaim->participants[i]);
    }
    (void)pthread_mutex_destroy(&reclaim->lock);
    free(reclaim);
}

struct midge_participant *midge_reclaim_register(struct midge_reclaim *reclaim)
{
    struct midge_participant *participant = NULL;
    uint32_t count;

    (void)pthread_mutex_lock(&reclaim->lock);
    count = atomic_load_explicit(&reclaim->participant_count, memory_order_relaxed);
    if (count < MIDGE_SHARDS_MAX)
        participant = aligned_alloc(MIDGE_CACHE_LINE_LEN, sizeof(*participant));
    if (participant != NULL) {
        memset(participant, 0, sizeof(*participant));
        participant->reclaim = reclaim;
        participant->spare = malloc(sizeof(struct block)); /* NULL is fine: only a reserve */
        reclaim->participants[count] = participant;
        /* Release pairs with the acquire in batch_close(): the pointer is there before the count.
         */
        atomic_store_explicit(&reclaim->participant_count, count + 1, memory_order_release);
        /* Pairs with the increment in batch_close(); point 3 above. */
        (void)atomic_fetch_add_explicit(&reclaim->epoch, 0, memory_order_acq_rel);
    }
    (void)pthread_mutex_unlock(&reclaim->lock);
    return participant;
}

bool midge_reclaim_is_online(const struct midge_participant *participant)
{
    return atomic_load_explicit(&participant->seen, memory_order_relaxed) != SEEN_OFFLINE;
}

void midge_reclaim_online(struct midge_participant *participant)
{
    uint64_t epoch;

    MIDGE_ASSERT(!midge_reclaim_is_online(participant));
    /* Acquire pairs with the increment in batch_close(); point 1 above. */
    epoch = atomic_load_explicit(&participant->reclaim->epoch, memory_order_acquire);
    /* Pairs with the read-modify-write in participant_passed(); point 2 above. */
    (void)atomic_exchange_explicit(&participant->seen, epoch, memory_order_acq_rel);
}

void midge_reclaim_offline(struct midge_participant *participant)
{
    MIDGE_ASSERT(midge_reclaim_is_online(participant));
    /* Release pairs with the acquire in participant_passed(): our reads are over. */
    atomic_store_explicit(&participant->seen, SEEN_OFFLINE, memory_order_release);
}

static bool participant_passed(struct midge_participant *other, uint64_t target)
{
    /* Acquire pairs with the release in announce() and offline(): its reads came before our free.
     */
    uint64_t seen = atomic_load_explicit(&other->seen, memory_order_acquire);

    /* Pairs with the exchange in online(); point 2 above. */
    if (seen == SEEN_OFFLINE)
        seen = atomic_fetch_add_explicit(&other->seen, 0, memory_order_acq_rel);
    return seen == SEEN_OFFLINE || seen >= target;
}

static void announce(struct midge_participant *participant, uint64_t epoch)
{
    /* Release pairs with the acquire in participant_passed(). */
    if (atomic_load_explicit(&participant->seen, memory_order_relaxed) != epoch)
        atomic_store_explicit(&participant->seen, epoch, memory_order_release);
}

static void batch_close(struct midge_participant *participant)
{
    struct midge_reclaim *reclaim = participant->reclaim;

    participant->waiting = participant->open;
    participant->open = (struct batch){0};
    /* Release: what we unlinked happened before any announcement of this epoch; acquire: see
     * register(). Both sides are in the head comment, points 1 and 3. */
    participant->target = 1 + atomic_fetch_add_explicit(&reclaim->epoch, 1, memory_order_acq_rel);
    participant->passed_count = 0;
    participant->scan_count =
        atomic_load_explicit(&reclaim->participant_count, memory_order_acquire);
    /* We hold nothing right now, so we are the first to have seen it. */
    announce(participant, participant->target);
}

/* Who has passed once has passed for good, so that a batch costs one visit to each participant, and
 * one more per turn to the first that lags. */
static bool batch_is_free(struct midge_participant *participant)
{
    while (participant->passed_count < participant->scan_count) {
        struct midge_participant *other =
            participant->reclaim->participants[participant->passed_count];

        if (!participant_passed(other, participant->target))
            return false;
        participant->passed_count++;
    }
    return true;
}

/* How many of the batch one call frees, if so many were retired since the one before. */
static uint64_t free_limit(const struct batch *batch, uint64_t retired_count)
{
    uint64_t limit = FREE_MAX;

    if (limit < batch->count / FREE_SHARE)
        limit = batch->count / FREE_SHARE;
    if (limit < retired_count * FREE_RETIRED_FACTOR)
        limit = retired_count * FREE_RETIRED_FACTOR;
    return limit;
}

void midge_reclaim_quiescent(struct midge_participant *participant)
{
    const uint64_t retired_count = participant->open.count - participant->open_seen;

    MIDGE_ASSERT(midge_reclaim_is_online(participant));
    /* Acquire pairs with the increment in batch_close(); point 1 above. */
    announce(participant, atomic_load_explicit(&participant->reclaim->epoch, memory_order_acquire));
    if (participant->waiting.count == 0) {
        if (participant->open.count == 0)
            return;
        batch_close(participant);
    }
    if (batch_is_free(participant))
        batch_free(participant, &participant->waiting,
                   free_limit(&participant->waiting, retired_count));
    participant->open_seen = participant->open.count;
}

void midge_reclaim_retire(struct midge_participant *participant, void *object, void *context,
                          void (*free_cb)(void *context, void *object))
{
    struct block *block;

    MIDGE_ASSERT(object != NULL);
    MIDGE_ASSERT(free_cb != NULL);
    if (participant->open.head == NULL || participant->open.head->count == BLOCK_ITEM_COUNT)
        block_push(participant);
    block = participant->open.head;
    block->items[block->count++] = (struct retired){object, context, free_cb};
    participant->open.count++;
}

uint64_t midge_reclaim_waiting(const struct midge_participant *participant)
{
    return participant->open.count + participant->waiting.count;
}
