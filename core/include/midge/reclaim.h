/*
 * Quiescent-state based reclamation: memory that lock-free readers may still see is freed only after
 * every reader has announced that it holds nothing.
 *
 * Each shard is one participant. It announces once per turn (midge_reclaim_quiescent), and is offline
 * while it spins or sleeps. A participant that is offline delays nobody and may read nothing.
 *
 * Thread: any (lock-free) for the epoch; each participant belongs to one shard.
 * Memory: retired objects wait in the list of the participant that retired them, and are freed by it.
 * Limits: MIDGE_SHARDS_MAX participants.
 */
#ifndef MIDGE_RECLAIM_H
#define MIDGE_RECLAIM_H

#include <stdatomic.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/limits.h"
#include "midge/status.h"

struct midge_reclaim;

/** One participant; private. Owned by the midge_reclaim that registered it. */
struct midge_participant;

/** @return owned, or NULL without memory. */
struct midge_reclaim *midge_reclaim_create(void);

/** Free everything still retired, then the domain; no participant may be online. */
void midge_reclaim_destroy(struct midge_reclaim *reclaim);

/** Register a participant, offline. @return borrowed, or NULL when MIDGE_SHARDS_MAX are registered.
 * Thread: any; takes a lock. */
struct midge_participant *midge_reclaim_register(struct midge_reclaim *reclaim);

/** From here on the participant may read shared memory. Thread: shard. */
void midge_reclaim_online(struct midge_participant *participant);

/** The participant holds no pointer into shared memory and will take none before going online.
 * Thread: shard. */
void midge_reclaim_offline(struct midge_participant *participant);

/** The participant holds no pointer taken before this call; frees what has become free.
 * Thread: shard, online. Cost: one load and one store while nothing is retired. */
void midge_reclaim_quiescent(struct midge_participant *participant);

/**
 * Free an object after a grace period, by free_cb(context, object) on the same participant's thread.
 *
 * The object must be unreachable for readers that come later. Never fails: without memory for the list
 * it waits for the grace period on the spot of the next quiescent call (the list is intrusive-free,
 * grown in blocks; out of memory aborts, since nothing can be unwound here).
 * Thread: shard, online or offline.
 */
void midge_reclaim_retire(struct midge_participant *participant, void *object, void *context,
                          void (*free_cb)(void *context, void *object));

/** Objects that this participant has retired and not yet freed. Thread: shard. */
uint64_t midge_reclaim_waiting(const struct midge_participant *participant);

#endif
