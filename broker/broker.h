/*
 * The process: configuration, what all shards share, and the table of connection slots.
 *
 * Thread: constant after init, except the slot table (a lock taken on connect and close only) and
 * the counters named here.
 */
#ifndef MIDGE_BROKER_H
#define MIDGE_BROKER_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "config.h"
#include "log.h"
#include "midge/limits.h"
#include "midge/reclaim.h"
#include "midge/subindex.h"

struct midge_conn;
struct midge_shard;

/* Slots beyond max_connections, for those that are told that it is reached or are still closing. */
#define MIDGE_CONN_SLOTS_EXTRA 512u

/* Above so many connections of one other shard in a turn, that shard sends for itself: one doorbell
 * is less than a system call for each. */
#define MIDGE_HAND_OVER_MIN 64u

/* Sends of one shared outbox in one turn: bounded, since others append meanwhile. */
#define MIDGE_SENDS_PER_FLUSH 16u

/* The nats-server level that we are compatible with: clients gate features on it. */
#define MIDGE_NATS_VERSION "2.15.2"

#define MIDGE_ACCOUNT_DEFAULT 0u

struct midge_broker {
    /* Constant after init. */
    const struct midge_config *config;
    struct midge_log *log;
    struct midge_reclaim *reclaim;
    struct midge_subindex *index;
    struct midge_conn *conns; /* conn_cap slots, mapped */
    uint32_t conn_cap;
    uint32_t connections_max; /* config, lowered to what descriptors allow */
    uint32_t shard_count;
    bool spread;              /* who accepts a connection gives it to the shard that has fewest */
    uint64_t look_ns;         /* MIDGE_BALANCE_LOOK_NS, or 0: connections stay where they are */
    uint32_t hand_over_min;   /* MIDGE_HAND_OVER_MIN; lower in tests, where few connections exist */
    uint32_t sends_per_flush; /* MIDGE_SENDS_PER_FLUSH; lower in tests, where few others append */
    struct midge_shard *shards[MIDGE_SHARDS_MAX]; /* all made before the first of them turns */
    uint64_t seed; /* random per process, for hash tables whose keys clients choose */
    char server_id[64];
    char server_name[256];
    char info_host[256]; /* what INFO says */
    uint16_t info_port;
    uint64_t memory_bytes_max;
    pthread_t trimmer; /* gives free pages back when midge_broker_trim_signal() comes */
    bool has_trimmer;  /* if not, shards do it themselves */

    /* Slot lock. */
    pthread_mutex_t slot_lock;
    uint32_t *free_slots; /* a stack */
    uint32_t free_count;
    _Atomic uint32_t slot_high; /* slots at or above this index were never used */

    /* Any. */
    _Atomic uint64_t next_cid;
    _Atomic uint32_t connection_count; /* that count against connections_max */
    _Atomic bool accept_waits;         /* a shard found no descriptor; cleared when one came free */
    _Atomic bool memory_picking;       /* a connection is being closed because of max_memory */
    _Atomic bool trim_wanted;          /* the signal is on its way; cleared before the trim */
    _Atomic uint64_t trimmed_bytes;    /* freed_bytes of all shards when one wanted a trim last */
    _Atomic bool stopping;
    _Atomic uint32_t
        stopped_count; /* shards that have seen it: they send nothing to others any more */
};

/** What wakes the trimmer. It is blocked in all threads, and no other signal means that. */
static inline int midge_broker_trim_signal(void)
{
    return SIGRTMIN;
}

/**
 * Make what shards share; no thread, no socket yet.
 *
 * @param config  borrowed, constant from here on
 * @param log     borrowed
 * @param seed    for hash tables and ids
 * @return MIDGE_OK or E_MEMORY
 */
MIDGE_MUST_CHECK enum midge_status midge_broker_init(struct midge_broker *broker,
                                                     const struct midge_config *config,
                                                     struct midge_log *log, uint64_t seed);

/** All shards must be destroyed. */
void midge_broker_deinit(struct midge_broker *broker);

/** @return a free slot, or NULL. Thread: any; takes the slot lock. */
struct midge_conn *midge_broker_take_slot(struct midge_broker *broker);

/** Thread: any; takes the slot lock. */
void midge_broker_give_slot(struct midge_broker *broker, struct midge_conn *conn);

/** Slots at or above this index were never used; for whoever looks at all connections. Thread: any.
 */
uint32_t midge_broker_slot_high(const struct midge_broker *broker);

/** Bytes of outboxes, messages, CONNECT options, subscriptions and index now. Thread: any. */
uint64_t midge_broker_memory_bytes(const struct midge_broker *broker);

/** Open listeners, start the shards, and serve until SIGINT or SIGTERM, which the caller has
 * blocked in all threads. @return exit status */
int midge_broker_run(struct midge_broker *broker, struct midge_log_producer *log);

#endif
