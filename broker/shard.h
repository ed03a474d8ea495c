/*
 * One thread with one ring: connections, timers, counters, and the turn that drives them.
 *
 * A turn: wait for events (which also submits the sends of the turn before), handle them, settle
 * the sends, look at requests of others, fire timers, then flush every connection that got output.
 *
 * Thread: shard (one owner, no atomics), except the inbox line and the counters.
 * Memory: arrays sized at start for the connections limit, mapped and touched only when used; the
 * pool keeps what a burst needed up to a ceiling.
 */
#ifndef MIDGE_SHARD_H
#define MIDGE_SHARD_H

#include <stdalign.h>

#include "balance.h"
#include "broker.h"
#include "conn.h"
#include "dispatch.h"
#include "log.h"
#include "midge/pool.h"
#include "midge/reclaim.h"
#include "midge/ring.h"
#include "midge/subindex.h"
#include "stats.h"
#include "timers.h"

struct midge_conn_ref {
    uint32_t index;
    uint32_t generation;
};

/* References to connections, each at most once per turn; room for every slot, touched only when
 * used. */
struct midge_conn_list {
    struct midge_conn_ref *refs;
    uint32_t count;
    uint32_t cap;
};

#define MIDGE_LISTENERS_MAX 8u

struct midge_listener_state {
    int fd;
    bool armed;
    bool wants_arm;
};

struct midge_shard {
    /* Constant after init. */
    struct midge_broker *broker;
    const struct midge_config *config;
    struct midge_ring *ring;
    struct midge_participant *participant;
    struct midge_subindex_reader *reader;
    struct midge_log_producer *log;
    pthread_t thread;
    uint16_t index;

    /* Owner: life. */
    bool stop_seen;
    uint32_t conn_count; /* slots in use here, resting ones included */

    /* Owner: the turn. */
    uint64_t now_ns;
    uint64_t turn;          /* ends when the dirty list was flushed */
    uint32_t reclaim_turns; /* in a row in which something retired waited */
    bool settle_soon; /* the next wait must not sleep: the result of a silent send is needed */
    struct midge_pool pool;
    struct midge_spares spares;
    struct midge_run run;         /* messages that are delivered together */
    uint64_t run_number;          /* of the run that was looked at last for connections met twice */
    uint64_t *run_marks;          /* by slot: the run in which it was met last */
    struct midge_conn_list dirty; /* got output in this turn, of whichever shard they are */
    uint64_t *dirty_turns;        /* by slot: the turn that put it on that list last */
    uint32_t
        foreign_counts[MIDGE_SHARDS_MAX]; /* while flushing: how many of them are of that shard */
    struct midge_conn_list submitted;     /* sends under way */
    struct midge_conn_list rearm;         /* recv ended and is to be armed again */
    struct midge_conn *paused;            /* publishers not read */
    bool look_at_paused;                  /* what one of them waits for may have happened */
    bool bells_wanted;
    bool bells[MIDGE_SHARDS_MAX]; /* shards that are asked for something: rung as the turn ends */
    struct midge_conn *purging;   /* of which subscriptions leave the index */
    struct midge_listener_state listeners[MIDGE_LISTENERS_MAX];
    uint32_t listener_count;
    bool look_at_memory;      /* a connection closed for max_memory is gone: perhaps another must */
    bool memory_short;        /* max_memory was reached at the last look */
    int64_t held_bytes_seen;  /* of the pool and charged, at the last look or less since */
    uint64_t uncharged_bytes; /* given back by midge_shard_charge(), ever */
    uint64_t trim_at_ns;      /* free pages go back to the system then, if nothing happens before */
    uint64_t accept_at_ns;    /* accept is tried again then; UINT64_MAX = it runs */
    uint64_t spin_ns;         /* current budget, adapted */
    uint64_t spin_ns_max;
    uint64_t spins;      /* of the ring, as seen last */
    uint64_t spin_hits;  /* likewise */
    uint32_t spin_probe; /* turns with few messages until a budget of 0 is tried again */
    uint64_t spin_msgs;  /* in_msgs, as seen last */
    struct midge_log_limit accept_limit;
    struct midge_log_limit slow_limit;
    struct midge_timers timers;
    struct midge_balance balance;

    /* Any shard. */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic(struct midge_conn *) inbox;
    _Atomic(struct midge_conn *)
        arrivals;          /* accepted elsewhere, to be opened here; by next_request */
    _Atomic uint32_t load; /* connections that are here or on their way */
    _Atomic bool drained;  /* an outbox that publishers of this shard wait for has drained */

    /* One writer, any reader. */
    alignas(MIDGE_CACHE_LINE_LEN) struct midge_stats stats;
    /* Of subscriptions, their tables, and what CONNECT said; those not yet freed included. */
    _Atomic int64_t charged_bytes;
    _Atomic uint64_t freed_bytes; /* given back to the allocator, ever; said in steps */
};

/**
 * Make a shard around a ring. Must be called on the thread that will drive it.
 *
 * @param ring  taken on success; the shard destroys it
 * @return owned, or NULL without memory
 */
struct midge_shard *midge_shard_create(struct midge_broker *broker, uint16_t index,
                                       struct midge_ring **ring);

/** Free a shard whose connections are all closed (midge_shard_stop() came to its end). */
void midge_shard_destroy(struct midge_shard *shard);

/** Accept connections from a listening descriptor, which stays the caller's. Thread: shard. */
void midge_shard_add_listener(struct midge_shard *shard, int fd);

/** How long a turn may watch for events before it sleeps; the budget adapts between 0 and this.
 * Thread: shard. */
void midge_shard_set_spin(struct midge_shard *shard, uint64_t spin_ns_max);

/** Turn until midge_shard_stop() came to its end, then leave. Thread: shard. */
void midge_shard_run(struct midge_shard *shard);

/** The thread of this shard ends: no grace period of others waits for it. Thread: shard. */
void midge_shard_leave(struct midge_shard *shard);

/** One turn. @param may_wait  false: look, but do not wait. Thread: shard. */
void midge_shard_turn(struct midge_shard *shard, bool may_wait);

/** Begin to close everything; whole frames only. Turn until midge_shard_is_idle(). Thread: shard.
 */
void midge_shard_stop(struct midge_shard *shard);

/** True when no connection is left, no listener is armed and nothing retired waits. Thread: shard.
 */
bool midge_shard_is_idle(const struct midge_shard *shard);

/** Remember that a connection has output, or is to be finished: it is looked at when the turn ends.
 * Once per turn and connection. Thread: shard; the owner, or any under the outbox lock. */
void midge_shard_mark_dirty(struct midge_shard *shard, struct midge_conn *conn);

/** Remember a connection whose recv is to be armed at the end of the turn. Thread: shard. */
void midge_shard_mark_rearm(struct midge_shard *shard, struct midge_conn *conn);

/** Remember a send under way. Thread: shard. */
void midge_shard_mark_submitted(struct midge_shard *shard, struct midge_conn *conn);

/** Ask the owner of a connection for something: it is woken when this turn ends, and looks in its
 * next one. Under the outbox lock, of a connection in use (its generation was checked, or the token
 * is held). Thread: shard (any). */
void midge_shard_request(struct midge_shard *shard, struct midge_conn *conn, uint32_t requests);

/** Refuse all further appends and have the owner close. Likewise. */
void midge_shard_request_close(struct midge_shard *shard, struct midge_conn *conn,
                               enum midge_status status);

/** Give a slot that nobody owns to another shard: a fresh one with its descriptor, or a connection
 * that moves. Thread: shard. */
void midge_shard_send_away(struct midge_shard *shard, struct midge_shard *to,
                           struct midge_conn *conn);

/** Charge memory that is not of the pool or the index, or give it back (negative). Thread: shard.
 */
void midge_shard_charge(struct midge_shard *shard, int64_t bytes);

/** Remember a connection of which subscriptions are to leave the index; no turn sleeps before they
 * have. Thread: shard. */
void midge_shard_mark_purge(struct midge_shard *shard, struct midge_conn *conn);

/** A slot is free again; accept may go on. Thread: shard. */
void midge_shard_conn_closed(struct midge_shard *shard, struct midge_conn *conn);

/** An outbox that publishers of `watch_shard` (or of many shards) wait for has drained or is gone.
 * Thread: shard (any). */
void midge_shard_tell_drained(struct midge_shard *shard, uint16_t watch_shard);

/** Assert that the calling thread drives this shard (debug builds). */
void midge_shard_assert_owner(const struct midge_shard *shard);

#endif
