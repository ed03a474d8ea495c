/*
 * Quiescent-state based reclamation: memory that lock-free readers may still see is freed only
 * after every reader has announced that it holds nothing.
 *
 * Each shard is one participant. It announces once per turn (midge_reclaim_quiescent), and is
 * offline while it spins or sleeps. A participant that is offline delays nobody and may read
 * nothing. What it has retired stays until its next quiescent call: a shard that should give memory
 * back before a long sleep looks at midge_reclaim_waiting() and takes another turn.
 *
 * The proof that no reader holds what is freed stands at the head of reclaim.c.
 *
 * Thread: any (lock-free) for the epoch; each participant belongs to one shard.
 * Memory: retired objects wait in the list of the participant that retired them, and are freed by
 * it.
 * Limits: MIDGE_SHARDS_MAX participants.
 */
#ifndef MIDGE_RECLAIM_H
#define MIDGE_RECLAIM_H

#include <stdatomic.h>
#include <stdbool.h>
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

/** The participant holds no pointer taken before this call; frees what has become free: at most
 * 1,024 objects, a sixty-fourth of the batch, or twice as many as it has retired since the last
 * call, whichever is most, so that one call stays short and a backlog still drains. Thread: shard,
 * online. Cost: one load and one store while nothing is retired. */
void midge_reclaim_quiescent(struct midge_participant *participant);

/**
 * Free an object after a grace period, by free_cb(context, object) on the same participant's
 * thread.
 *
 * The object must be unreachable for readers that come later. Never fails: the list grows in
 * blocks, one of which is kept in reserve; out of memory beyond that aborts, since nothing can be
 * unwound here.
 * Thread: shard, online or offline; free_cb may retire more.
 */
void midge_reclaim_retire(struct midge_participant *participant, void *object, void *context,
                          void (*free_cb)(void *context, void *object));

/** True between online and offline, for assertions. Thread: shard. */
bool midge_reclaim_is_online(const struct midge_participant *participant);

/** Objects that this participant has retired and not yet freed. Thread: shard. */
uint64_t midge_reclaim_waiting(const struct midge_participant *participant);

#endif
