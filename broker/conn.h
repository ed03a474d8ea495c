/*
 * One connection: its state machine, what it has received and not yet used, and its subscriptions.
 *
 *   FREE --open--> OPEN --close--> FLUSHING --flushed--> CLOSING --last event--> PURGING --+
 *    ^               |                (error, slow consumer: at once)  ^                    |
 *    |               +--------------------------------------------------                    |
 *    +------------------------- RESTING <------ all subscriptions out of the index ---------+
 *         grace period, generation raised
 *
 *   - OPEN: reads and parses
 *   - FLUSHING: appends are refused; what is pending (an -ERR, earlier messages) is sent first
 *   - CLOSING: the socket is shut down and its operations cancelled; waits for the last event of
 *     each and for the result of the send under way
 *   - PURGING: descriptor closed; subscriptions leave the index, a bounded number per turn (what a
 *     CONNECT drops leaves so while the connection is OPEN, and goes on while it closes)
 *   - RESTING: unreachable for new matches; waits for the grace period
 *
 * Thread: shard (owner), except the outbox and what sub.h says.
 * Memory: slots are mapped once and never unmapped, so a pointer to a slot is always readable; a
 * line buffer and an unfinished message come from the shard's pool and only while they are needed.
 */
#ifndef MIDGE_CONN_H
#define MIDGE_CONN_H

#include <stdalign.h>

#include "midge/info.h"
#include "midge/parser.h"
#include "midge/ring.h"
#include "outbox.h"
#include "sub.h"
#include "timers.h"

struct midge_shard;

enum midge_conn_state {
    MIDGE_CONN_FREE = 0,
    MIDGE_CONN_OPEN,
    MIDGE_CONN_FLUSHING,
    MIDGE_CONN_CLOSING,
    MIDGE_CONN_PURGING,
    MIDGE_CONN_RESTING,
};

/* What subscriptions of closed connections, and dropped ones, may cost in one turn, in steps: a
 * slot of a table is one, a subscription that leaves the index as many as lie in eight cache lines.
 * That is about 256 of them, at 2 us or so each: the others wait half a millisecond. */
#define MIDGE_PURGE_STEPS_MAX 16896u
#define MIDGE_PURGE_SUB_STEPS 64u

/* Recipients that a paused publisher remembers; where there are more it waits for any one. */
#define MIDGE_PAUSE_TARGETS_MAX 8u

struct midge_pause_target {
    uint32_t index;
    uint32_t generation;
    uint64_t mark_bytes; /* the publisher may go on when less is pending there */
};

/* What only few connections need; made when it is needed. */
struct midge_pause {
    uint64_t until_ns;
    uint32_t target_count;
    bool any; /* there are more targets than these */
    struct midge_pause_target targets[MIDGE_PAUSE_TARGETS_MAX];
};

/* Received bytes that a paused connection has not yet used; conn_internal.h. */
struct midge_backlog;

struct midge_conn {
    /* Owner: every turn. */
    enum midge_conn_state state;
    uint32_t index;      /* constant after init */
    uint32_t generation; /* changes when the slot is used anew */
    int fd;              /* -1 = none; readable for whoever holds the flush token */
    uint64_t send_asked; /* bytes of the send under way */
    struct midge_parser parser;
    struct midge_msg *incoming;      /* owned: a message of which pieces are missing */
    _Atomic uint32_t incoming_bytes; /* of it and the backlog; one writer, any reader */
    uint32_t line_block_cap;         /* of the line buffer lent to the parser */
    bool recv_armed;
    bool poll_armed;
    bool send_submitted; /* pieces are lent to the ring; cleared when the send is settled */
    bool rearm_queued;   /* on the shard's list for this turn */
    bool paused;         /* back-pressure: not read */
    bool reading;        /* OPEN, not paused, no backlog: what is received is used at once */
    bool connected;      /* CONNECT was accepted */
    bool must_connect;   /* nothing but CONNECT is allowed */
    uint8_t last_tries;  /* to send the rest of one frame at the end; 0 = all is still sent */
    bool first_pong_sent;
    bool registered;   /* counts against max_connections */
    bool purge_queued; /* on the shard's list of connections to purge */
    bool is_unix;
    bool verbose;
    bool pedantic;
    bool echo;
    bool no_responders;

    /* Owner: statistics. */
    uint64_t cid; /* constant while a subscription of this connection can be found */
    uint64_t in_msgs;
    uint64_t in_bytes;
    uint64_t in_ops;     /* messages, SUBs and UNSUBs: what counts as activity */
    uint64_t last_in_ns; /* last data, SUB, UNSUB or PING */
    uint64_t started_at_ns;
    uint64_t rtt_ns;       /* 0 = not measured */
    uint64_t rtt_start_ns; /* when the PING under way was sent */
    uint32_t pings_out;

    /* Owner: for balance.h. */
    uint64_t work;       /* that its input made since it was looked at last: MIDGE_WORK_RECV */
    uint32_t last_to;    /* slot that a message of its went to last since then, or NONE */
    uint16_t away_shard; /* of its last partner */
    uint8_t away_looks;  /* in a row that found the partner there */

    /* Owner: deadlines, UINT64_MAX = none. */
    struct midge_timer timer; /* the earliest of them */
    uint64_t ping_at_ns;
    uint64_t auth_at_ns;
    uint64_t close_at_ns;

    /* Owner: subscriptions. */
    struct midge_sub_table subs;
    struct midge_old_subs *old_subs; /* owned: dropped by CONNECTs, not yet all out of the index */

    /* Owner: control plane. */
    struct midge_connect options;
    struct midge_pause *pause;     /* owned while paused */
    struct midge_backlog *backlog; /* owned: to be used first when it is read again; or NULL */
    struct midge_conn *next_paused;
    struct midge_conn *next_purge;
    char ip[48]; /* as cid; likewise port and is_unix */
    uint16_t port;
    enum midge_status close_status;
    struct midge_shard *move_to; /* it goes there when its operations have ended; NULL = it stays */

    /* Any shard: under the outbox lock, and the link of the owner's inbox. */
    alignas(MIDGE_CACHE_LINE_LEN) struct midge_outbox outbox;
    struct midge_sub *expired; /* outbox lock: subscriptions that reached max */
    /* Changed under the outbox lock: from the owner to NULL by the owner, when the slot is free or
     * the connection is on its way to another shard, and from NULL by the shard that takes it. So
     * who reads its own shard here is right without the lock; who reads another one knows nothing
     * yet. */
    _Atomic(struct midge_shard *) owner;
    struct midge_conn *next_request; /* owner's inbox */
};

/** Move from one state to another; asserts that the move is drawn above. Thread: shard. */
void midge_conn_set_state(struct midge_conn *conn, enum midge_conn_state from,
                          enum midge_conn_state to);

/** Take a freshly accepted descriptor into a free slot: INFO goes out, reading starts. Thread:
 * shard. */
void midge_conn_open(struct midge_shard *shard, struct midge_conn *conn, int fd);

/** Handle one event of the ring for this connection; the generation was checked. Thread: shard. */
void midge_conn_on_event(struct midge_shard *shard, struct midge_conn *conn,
                         const struct midge_ring_event *event);

/** The send under way took `sent` bytes, or failed with -errno. Thread: shard. */
void midge_conn_on_sent(struct midge_shard *shard, struct midge_conn *conn, int64_t sent);

/** Send what is pending, or put it into a send of this turn, if that is possible now. Thread: shard
 * (owner). */
void midge_conn_flush(struct midge_shard *shard, struct midge_conn *conn);

/** Send what this shard has appended to a connection of another one, now, or leave it to the owner
 * where a send of his is in flight. Nothing is done if the slot is used anew. Thread: shard, any
 * but the owner. */
void midge_conn_flush_foreign(struct midge_shard *shard, struct midge_conn *conn,
                              uint32_t generation);

/** Have the owner send what this shard has appended. Thread: shard, any but the owner. */
void midge_conn_hand_over(struct midge_shard *shard, struct midge_conn *conn, uint32_t generation);

/** Have another shard read this connection, once its operations have ended here; nothing happens if
 * it is closing, held back, or on its way already. Thread: shard (owner). */
void midge_conn_move(struct midge_shard *shard, struct midge_conn *conn, struct midge_shard *to);

/** Take a connection that another shard has let go of. Thread: shard. */
void midge_conn_arrive(struct midge_shard *shard, struct midge_conn *conn);

/** The shard that reads this connection, or NULL; see the field. Thread: any. */
static inline struct midge_shard *midge_conn_owner(const struct midge_conn *conn)
{
    return atomic_load_explicit(&conn->owner, memory_order_relaxed);
}

/** Deadlines of this connection are due, or have changed. Thread: shard. */
void midge_conn_on_timer(struct midge_shard *shard, struct midge_conn *conn);

/** Set the timer to the earliest deadline. Thread: shard. */
void midge_conn_set_timer(struct midge_shard *shard, struct midge_conn *conn);

/** The bits that were requested under the outbox lock, and the close_status of that moment. Thread:
 * shard (owner). */
void midge_conn_on_request(struct midge_shard *shard, struct midge_conn *conn, uint32_t requests,
                           enum midge_status close_status);

/** Append bytes of the broker's own (PONG, +OK, INFO, -ERR). @return false if the connection is
 * closing or was just found too slow; the caller need not care. Thread: shard (owner). */
bool midge_conn_enqueue(struct midge_shard *shard, struct midge_conn *conn,
                        struct midge_slice bytes);

/** Send -ERR '<text>' (text may be built by the caller) and stay open. Thread: shard (owner). */
void midge_conn_send_err(struct midge_shard *shard, struct midge_conn *conn,
                         struct midge_slice text);

/** End the connection for this reason, -ERR first if the status has a text. Thread: shard (owner).
 */
void midge_conn_close(struct midge_shard *shard, struct midge_conn *conn, enum midge_status status);

/** Not read until one of the targets is below its mark or gone, or until pause->until_ns. What the
 * ring has received all the same is kept, in order, and so is the end of the stream behind it.
 * @param pause  borrowed; copied. Thread: shard (owner). */
void midge_conn_pause(struct midge_shard *shard, struct midge_conn *conn,
                      const struct midge_pause *pause);

/** Read again, what was kept first: see midge_conn_use_backlog(). Thread: shard (owner). */
void midge_conn_resume(struct midge_shard *shard, struct midge_conn *conn);

/** Use what was received while the connection was paused, as far as it is not paused anew; nothing
 * while it is, or if there is none. Before recv is armed again. Thread: shard (owner). */
void midge_conn_use_backlog(struct midge_shard *shard, struct midge_conn *conn);

/** Take one subscription out of table and index, and retire it. Thread: shard (owner). */
void midge_conn_remove_sub(struct midge_shard *shard, struct midge_conn *conn,
                           struct midge_sub *sub);

/** Take out the subscriptions that reached their max. Thread: shard (owner). */
void midge_conn_remove_expired(struct midge_shard *shard, struct midge_conn *conn);

/**
 * Take dropped subscriptions out of the index, and in PURGING all others.
 *
 * @param steps  what it may cost; lowered by what it did
 * @return true when none is left that is to leave
 * Thread: shard (owner).
 */
bool midge_conn_purge(struct midge_shard *shard, struct midge_conn *conn, uint32_t *steps);

/**
 * Drop all subscriptions: none of them gets a message, counts or is found from here on. Few leave
 * the index at once, many a bounded number per turn. Without memory for that the connection is
 * closed.
 *
 * Thread: shard (owner). Cost: bounded, and linear in what is dropped.
 */
void midge_conn_drop_subs(struct midge_shard *shard, struct midge_conn *conn);

#endif
