/* A connection goes to another shard. */
#include "conn_internal.h"

#include "shard.h"
#include "trace.h"

bool midge_conn_leave(struct midge_shard *shard, struct midge_conn *conn)
{
    struct midge_shard *to = conn->move_to;
    bool queued;

    /* Subscriptions that a CONNECT dropped leave the index first: they are on our list for that. */
    if (conn->recv_armed || conn->poll_armed || conn->send_submitted || conn->purge_queued)
        return false;
    MIDGE_ASSERT(conn->reading && !conn->rearm_queued);
    midge_outbox_lock(&conn->outbox);
    /* What was asked of us is done first: its link in the inbox is needed for the way. */
    queued = conn->outbox.queued;
    if (!queued) {
        atomic_store_explicit(&conn->owner, NULL, memory_order_relaxed);
        conn->outbox.shared = false; /* perhaps those that it talks to are there already */
    }
    midge_outbox_unlock(&conn->outbox);
    if (queued)
        return false;
    midge_timers_clear(&shard->timers, &conn->timer);
    midge_ring_release(shard->ring, conn->fd);
    midge_shard_send_away(shard, to, conn);
    return true;
}

void midge_conn_move(struct midge_shard *shard, struct midge_conn *conn, struct midge_shard *to)
{
    if (!conn->reading || conn->move_to != NULL || to == shard)
        return;
    conn->move_to = to;
    if (conn->recv_armed || conn->poll_armed)
        midge_ring_cancel(shard->ring, conn->fd, midge_conn_handle(conn));
    midge_shard_mark_dirty(shard, conn);
}

void midge_conn_stay(struct midge_shard *shard, struct midge_conn *conn)
{
    bool blocked;

    if (conn->move_to == NULL)
        return;
    conn->move_to = NULL;
    midge_outbox_lock(&conn->outbox);
    blocked = conn->outbox.blocked;
    midge_outbox_unlock(&conn->outbox);
    if (blocked)
        midge_conn_arm_poll(shard, conn);
    if (!conn->recv_armed)
        midge_shard_mark_rearm(shard, conn);
}

void midge_conn_arrive(struct midge_shard *shard, struct midge_conn *conn)
{
    struct midge_outbox *outbox = &conn->outbox;
    bool blocked;

    MIDGE_ASSERT(conn->state == MIDGE_CONN_OPEN);
    midge_outbox_lock(outbox);
    MIDGE_ASSERT(midge_conn_owner(conn) == NULL && !outbox->queued);
    atomic_store_explicit(&conn->owner, shard, memory_order_relaxed);
    blocked = outbox->blocked;
    /* What was asked while nobody could look. */
    if (outbox->requests != 0)
        midge_shard_request(shard, conn, 0);
    midge_outbox_unlock(outbox);
    conn->move_to = NULL;
    midge_stats_add(&shard->stats.moves, 1);
    midge_conn_log(shard, conn, MIDGE_LOG_DEBUG, "Client connection moved to thread %u",
                   shard->index);
    if (midge_ring_adopt(shard->ring, conn->fd, midge_conn_handle(conn)) != 0) {
        midge_conn_close(shard, conn, MIDGE_E_READ);
        return;
    }
    midge_conn_set_timer(shard, conn);
    midge_shard_mark_rearm(shard, conn);
    if (blocked)
        midge_conn_arm_poll(shard, conn);
    else
        midge_shard_mark_dirty(shard, conn);
}
