/*
 * Subscriptions of one connection, and the table that finds them by sid.
 *
 * A sid is bytes: the client chooses it. The table is open addressing with linear probing; a slot
 * holds some bits of the hash, so that a search does not fetch what lies on its way; removing
 * shifts later entries back, so there are no tombstones. It doubles when it is three quarters full,
 * and halves when a sixteenth of it is used. A large one moves a little with each add and remove,
 * so that no call takes long.
 *
 * Thread: the table belongs to the owner shard. Of a subscription, `live`, `delivered` and `max`
 * are any (outbox lock) of its connection; the rest is constant after init. Memory: one block per
 * subscription (sid and queue behind the struct), retired through midge_reclaim, since other shards
 * may still hold a match that names it.
 */
#ifndef MIDGE_SUB_H
#define MIDGE_SUB_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/subindex.h"

struct midge_conn;

struct midge_sub {
    /* Constant after init. */
    struct midge_conn *conn; /* slots are never unmapped */
    struct midge_subindex_record *record;
    uint32_t generation; /* sub_generation of the outbox when it was made; void once that differs */
    uint16_t queue_len;  /* bytes, 0 = plain */
    /* Outbox lock of conn. */
    bool live;    /* cleared by UNSUB, close and the delivery that reaches max */
    bool expired; /* on the connection's expired list */
    uint64_t delivered;
    struct midge_sub *next_expired;
    uint32_t max;     /* deliveries since SUB, 0 = no limit */
    uint32_t sid_len; /* constant after init */
    uint8_t text[];   /* sid, then queue; constant after init */
};

static inline struct midge_slice midge_sub_sid(const struct midge_sub *sub)
{
    return midge_slice_make(sub->text, sub->sid_len);
}

static inline struct midge_slice midge_sub_queue(const struct midge_sub *sub)
{
    return midge_slice_make(sub->text + sub->sid_len, sub->queue_len);
}

/** @return owned, live, not in any table; NULL without memory or if queue is over 65,535 bytes */
struct midge_sub *midge_sub_create(struct midge_conn *conn, uint32_t generation,
                                   struct midge_slice sid, struct midge_slice queue);

void midge_sub_destroy(struct midge_sub *sub);

/** What one subscription costs, the allocator's share included. */
uint32_t midge_sub_bytes(const struct midge_sub *sub);

struct midge_sub_table {
    uint64_t *slots;     /* 16 bits of the sid's hash over an address; NULL while empty */
    uint64_t *old_slots; /* of before the size changed, while they are moved; or NULL */
    uint32_t cap;        /* power of two, or 0 */
    uint32_t count;      /* in both */
    uint32_t old_cap;
    uint32_t cursor; /* next to move, or to drain */
};

/** What the slots cost; changes with add, remove and drain. */
uint64_t midge_sub_table_bytes(const struct midge_sub_table *table);

/** Free the slots; the subscriptions must have left. */
void midge_sub_table_deinit(struct midge_sub_table *table);

/** @return borrowed, or NULL */
struct midge_sub *midge_sub_table_find(const struct midge_sub_table *table, uint64_t seed,
                                       struct midge_slice sid);

/** Add a subscription whose sid is not in. @return false without memory */
MIDGE_MUST_CHECK bool midge_sub_table_add(struct midge_sub_table *table, uint64_t seed,
                                          struct midge_sub *sub);

/** Take a subscription out; it must be in. */
void midge_sub_table_remove(struct midge_sub_table *table, uint64_t seed, struct midge_sub *sub);

/**
 * Take any subscription out. Not to be mixed with other calls: at the end the table is freed.
 *
 * @param steps  lowered by the slots that were looked at; never below 0
 * @return NULL when none is left (count), or when there are no more steps
 */
struct midge_sub *midge_sub_table_drain(struct midge_sub_table *table, uint32_t *steps);

/* What a connection had subscribed to before a CONNECT, on its way out of the index. */
struct midge_old_subs {
    struct midge_sub_table table; /* drained only */
    struct midge_old_subs *next;
};

#endif
