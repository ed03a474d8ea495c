/*
 * What the tests of connections share: a broker on the simulated ring, without faults, with one
 * shard or more that turn one after the other, and peers that the test moves.
 *
 *   midge_rig_prepare(&rig);            the configuration and shard_count may be changed behind it
 *   midge_rig_start(&rig);
 *   peer = midge_rig_join(&rig, "SUB a 1\r\n"); …
 *   midge_rig_stop(&rig);
 *
 * Thread: shard; all of it is the test's.
 */
#ifndef MIDGE_RIG_H
#define MIDGE_RIG_H

#include <stddef.h>

#include "midge/ring_sim.h"
#include "shard.h"

#define NS_PER_MS 1000000ull

#define MIDGE_RIG_SHARDS_MAX 4u

struct midge_rig {
    struct midge_config config;
    struct midge_broker broker;
    struct midge_log *log;
    struct midge_sim *sim;
    uint32_t shard_count;
    uint64_t look_ns; /* of the broker */
    struct midge_shard *shards[MIDGE_RIG_SHARDS_MAX];
    struct midge_shard *shard; /* the first of them, which accepts */
    int listener;
};

/** Defaults, but for 64 connections; one shard. */
void midge_rig_prepare(struct midge_rig *rig);

/** Make the broker with its shards and a listener. */
void midge_rig_start(struct midge_rig *rig);

/** Close everything, and free it; nothing may be charged any more. */
void midge_rig_stop(struct midge_rig *rig);

/** The second half of it, when the shards are idle. */
void midge_rig_free(struct midge_rig *rig);

/** Turns until nothing more happens without the clock. */
void midge_rig_settle(struct midge_rig *rig);

/** The same, and the clock goes on by so many milliseconds. */
void midge_rig_pass_ms(struct midge_rig *rig, uint64_t ms);

/** Write all of it, with turns in between. */
void midge_rig_write(struct midge_rig *rig, uint32_t peer, const void *bytes, size_t len);
void midge_rig_write_text(struct midge_rig *rig, uint32_t peer, const char *text);

/** Read and forget what comes. @return bytes */
uint64_t midge_rig_drain(struct midge_rig *rig, uint32_t peer);

/** Connect, say CONNECT (neither verbose nor pedantic) and `text`, and read the answers.
 * @return number of the peer */
uint32_t midge_rig_join(struct midge_rig *rig, const char *text);

/** The connection of the peer with this number, where no slot was used twice. */
struct midge_conn *midge_rig_conn(struct midge_rig *rig, uint32_t peer);

#endif
