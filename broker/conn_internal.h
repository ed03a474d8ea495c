/*
 * Between the parts of a connection: conn.c (states, deadlines, opening and closing,
 * subscriptions), conn_input.c (received bytes to operations, back-pressure), conn_output.c
 * (sending), conn_move.c (going to another shard).
 *
 * Thread: shard (owner), all of it.
 */
#ifndef MIDGE_CONN_INTERNAL_H
#define MIDGE_CONN_INTERNAL_H

#include "conn.h"

/* What was received before a cancel came through: at most all provided buffers of the ring, of the
 * turn in which the connection was paused and of the next one. From the shard's pool. */
struct midge_backlog {
    uint32_t block_cap;    /* for midge_pool_free */
    uint32_t len;          /* of bytes */
    uint32_t off;          /* of them used */
    enum midge_status end; /* behind them the stream ended or broke; OK = not yet */
    uint8_t bytes[];
};

static inline struct midge_handle midge_conn_handle(const struct midge_conn *conn)
{
    return (struct midge_handle){conn->index, conn->generation};
}

/* ---- conn.c ---- */

/** Shut the socket down and end its operations; each has one event to come. Finished at the end of
 * the turn or later, so the caller may go on to use views of what was received. */
void midge_conn_begin_closing(struct midge_shard *shard, struct midge_conn *conn);

/** The last step that needs the descriptor, once nothing is under way any more; nothing before, or
 * in another state than CLOSING. */
void midge_conn_finish_closing(struct midge_shard *shard, struct midge_conn *conn);

/* ---- conn_input.c ---- */

/** Handle a RECV event. */
void midge_conn_on_recv(struct midge_shard *shard, struct midge_conn *conn,
                        const struct midge_ring_event *event);

/** Give up what was received and not yet used; nothing is parsed after that. */
void midge_conn_drop_input(struct midge_shard *shard, struct midge_conn *conn);

/* ---- conn_output.c ---- */

/** Handle a POLL_OUT event; res as in it. */
void midge_conn_on_poll_out(struct midge_shard *shard, struct midge_conn *conn, int res);

/** Ask for an event when the socket has room, unless that is under way or the connection leaves. */
void midge_conn_arm_poll(struct midge_shard *shard, struct midge_conn *conn);

/** The end does not wait until a slow reader has all that it is owed; but what it gets ends with a
 * whole frame: send the rest of the one under way, and nothing behind it. */
void midge_conn_send_last_frame(struct midge_shard *shard, struct midge_conn *conn);

/* ---- conn_move.c ---- */

/** Give the connection to the shard that it moves to, if nothing of it is under way here any more.
 * @return true if it is gone */
MIDGE_MUST_CHECK bool midge_conn_leave(struct midge_shard *shard, struct midge_conn *conn);

/** It does not go away after all: what was not armed for it is armed here. Nothing if it was not to
 * go. */
void midge_conn_stay(struct midge_shard *shard, struct midge_conn *conn);

#endif
