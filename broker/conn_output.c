/*
 * Output of one connection: what its shard and others append is sent here, by whoever holds the
 * flush token (outbox.h).
 */
#include "conn_internal.h"

#include <errno.h>

#include "shard.h"
#include "trace.h"

/* Time between tries to send the rest of the frame under way at the end. */
#define LAST_TRY_NS 100000000ull

bool midge_conn_enqueue(struct midge_shard *shard, struct midge_conn *conn,
                        struct midge_slice bytes)
{
    struct midge_outbox *outbox = &conn->outbox;
    bool appended = false;

    if (!midge_spares_fill(&shard->spares, &shard->pool, bytes.len)) {
        midge_conn_close(shard, conn, MIDGE_E_MEMORY);
        return false;
    }
    midge_outbox_lock(outbox);
    if (!outbox->closing) {
        if (midge_outbox_is_over(outbox, bytes.len)) {
            midge_shard_request_close(shard, conn, MIDGE_E_SLOW_PENDING);
        } else {
            memcpy(midge_outbox_append(outbox, &shard->spares, bytes.len), bytes.base, bytes.len);
            midge_shard_mark_dirty(shard, conn);
            appended = true;
        }
    }
    midge_outbox_unlock(outbox);
    return appended;
}

void midge_conn_send_err(struct midge_shard *shard, struct midge_conn *conn,
                         struct midge_slice text)
{
    const uint32_t len = text.len + 9; /* -ERR '' CRLF */
    uint8_t *line;
    uint32_t cap;

    midge_conn_log(shard, conn, MIDGE_LOG_DEBUG, "-ERR '%.*s'", (int)text.len, text.base);
    line = midge_pool_alloc(&shard->pool, len, &cap);
    if (line == NULL) {
        midge_conn_close(shard, conn, MIDGE_E_MEMORY);
        return;
    }
    memcpy(line, "-ERR '", 6);
    memcpy(line + 6, text.base, text.len);
    memcpy(line + 6 + text.len, "'\r\n", 3);
    (void)midge_conn_enqueue(shard, conn, midge_slice_make(line, len));
    midge_pool_free(&shard->pool, line, cap);
}

static bool is_flushed(struct midge_conn *conn)
{
    bool flushed;

    midge_outbox_lock(&conn->outbox);
    flushed = conn->outbox.pending_bytes == 0 && conn->outbox.flush_shard == MIDGE_FLUSH_FREE;
    midge_outbox_unlock(&conn->outbox);
    return flushed;
}

/* What the kernel took of one send. */
struct sent {
    uint64_t asked;
    uint64_t taken;
    bool failed;
};

static struct sent sent_of(uint64_t asked, int64_t result)
{
    return (struct sent){
        .asked = asked,
        .taken = result > 0 ? (uint64_t)result : 0,
        .failed = result < 0 && result != -EAGAIN,
    };
}

/* What is left to do after the token was given back, outside the lock. */
static void finish_flush(struct midge_shard *shard, const struct midge_flush_result *result)
{
    midge_outbox_free_sent(result->done, &shard->pool);
    midge_stats_add(&shard->stats.delivered, result->sent_msgs);
    if (result->drained)
        midge_shard_tell_drained(shard, result->drained_shard);
}

void midge_conn_arm_poll(struct midge_shard *shard, struct midge_conn *conn)
{
    if (conn->poll_armed || conn->move_to != NULL)
        return;
    conn->poll_armed = true;
    midge_ring_poll_out(shard->ring, conn->fd, midge_conn_handle(conn));
}

/* The owner gives the token back. @return true if the kernel took all, and more can be sent at once
 */
static bool settle(struct midge_shard *shard, struct midge_conn *conn, struct sent sent,
                   uint64_t *pending_out)
{
    struct midge_flush_result result;

    midge_outbox_lock(&conn->outbox);
    result = midge_outbox_settle(&conn->outbox, sent.taken, sent.asked, shard->now_ns);
    midge_outbox_unlock(&conn->outbox);
    finish_flush(shard, &result);
    *pending_out = result.pending_bytes;
    if (conn->state == MIDGE_CONN_CLOSING) {
        midge_conn_finish_closing(shard, conn);
        return false;
    }
    if (sent.failed) {
        midge_conn_close(shard, conn, MIDGE_E_WRITE);
        return false;
    }
    if (sent.taken < sent.asked) {
        midge_conn_arm_poll(shard, conn);
        midge_conn_set_timer(shard, conn);
        return false;
    }
    return true;
}

static struct midge_flush gather(struct midge_shard *shard, struct midge_conn *conn,
                                 struct iovec *pieces)
{
    struct midge_flush flush;

    midge_outbox_lock(&conn->outbox);
    flush = midge_outbox_gather(&conn->outbox, shard->index, true, pieces, MIDGE_RING_IOV_MAX);
    midge_outbox_unlock(&conn->outbox);
    return flush;
}

/* Other shards append here, too: they must not find the token in the hands of a shard that sleeps.
 */
static void flush_shared(struct midge_shard *shard, struct midge_conn *conn, struct iovec *pieces,
                         struct midge_flush flush)
{
    uint64_t pending;

    for (uint32_t sends = 1;; sends++) {
        const int64_t result =
            midge_ring_try_send(shard->ring, conn->fd, pieces, flush.piece_count);

        if (!settle(shard, conn, sent_of(flush.bytes, result), &pending) || pending == 0 ||
            sends == shard->broker->sends_per_flush)
            break;
        flush = gather(shard, conn, pieces);
        if (flush.piece_count == 0)
            break;
    }
    if (conn->fd == -1)
        return;
    /* The next turn sends more, or goes on closing. */
    midge_outbox_lock(&conn->outbox);
    if ((conn->outbox.pending_bytes > 0 && !conn->outbox.blocked) || conn->outbox.closing)
        midge_shard_request(shard, conn, MIDGE_REQUEST_FLUSH);
    midge_outbox_unlock(&conn->outbox);
}

void midge_conn_flush(struct midge_shard *shard, struct midge_conn *conn)
{
    struct iovec pieces[MIDGE_RING_IOV_MAX];
    struct midge_flush flush;

    if (conn->state == MIDGE_CONN_CLOSING)
        midge_conn_finish_closing(shard, conn);
    if (conn->state != MIDGE_CONN_OPEN && conn->state != MIDGE_CONN_FLUSHING)
        return;
    if (MIDGE_UNLIKELY(conn->move_to != NULL) && midge_conn_leave(shard, conn))
        return;
    /* Each time: another shard may have held the token until now, and asks for this flush. */
    if (MIDGE_UNLIKELY(conn->last_tries > 0))
        midge_stats_add(&shard->stats.discarded, midge_outbox_cut(&conn->outbox, &shard->pool));
    flush = gather(shard, conn, pieces);
    if (flush.piece_count == 0) {
        if (conn->state == MIDGE_CONN_FLUSHING && is_flushed(conn)) {
            midge_conn_begin_closing(shard, conn);
            midge_conn_finish_closing(shard, conn);
        }
        return;
    }
    if (flush.shared) {
        flush_shared(shard, conn, pieces, flush);
        return;
    }
    conn->send_asked = flush.bytes;
    /* A silent send does not end the wait (measured): where something waits for its result, the
     * next turn must not sleep. */
    if (flush.urgent || conn->state == MIDGE_CONN_FLUSHING)
        shard->settle_soon = true;
    MIDGE_ASSERT(!conn->send_submitted);
    conn->send_submitted = true;
    midge_ring_send(shard->ring, conn->fd, midge_conn_handle(conn), pieces, flush.piece_count);
    midge_shard_mark_submitted(shard, conn);
}

void midge_conn_on_sent(struct midge_shard *shard, struct midge_conn *conn, int64_t sent)
{
    uint64_t pending;

    MIDGE_ASSERT(conn->send_submitted);
    conn->send_submitted = false;
    if ((settle(shard, conn, sent_of(conn->send_asked, sent), &pending) &&
         (pending > 0 || conn->state == MIDGE_CONN_FLUSHING)) ||
        conn->move_to != NULL)
        midge_shard_mark_dirty(shard, conn);
}

/* Take the token for a send of another shard's. @return true if there is something to send */
static bool gather_foreign(struct midge_shard *shard, struct midge_conn *conn, uint32_t generation,
                           struct iovec *pieces, struct midge_flush *flush_out)
{
    struct midge_outbox *outbox = &conn->outbox;

    *flush_out = (struct midge_flush){0};
    midge_outbox_lock(outbox);
    /* What is pending when it closes is the owner's to send. */
    if (outbox->generation == generation && !outbox->closing) {
        if (!outbox->owner_sends)
            *flush_out =
                midge_outbox_gather(outbox, shard->index, false, pieces, MIDGE_RING_IOV_MAX);
        /* Any other holder looks at what is pending when it gives the token back. */
        if (outbox->in_flight || outbox->owner_sends)
            midge_shard_request(shard, conn, MIDGE_REQUEST_FLUSH);
    }
    midge_outbox_unlock(outbox);
    return flush_out->piece_count > 0;
}

/* Give the token back, and leave to the owner what only he can do. @return true if there is more
 * that can be sent at once, and it is not the owner's to do */
static bool settle_foreign(struct midge_shard *shard, struct midge_conn *conn, struct sent sent,
                           bool last)
{
    struct midge_outbox *outbox = &conn->outbox;
    struct midge_flush_result result;
    bool go_on;

    midge_outbox_lock(outbox);
    result = midge_outbox_settle(outbox, sent.taken, sent.asked, shard->now_ns);
    go_on = result.pending_bytes > 0 && sent.taken == sent.asked && !outbox->closing && !last;
    if (sent.failed && !outbox->closing)
        midge_shard_request_close(shard, conn, MIDGE_E_WRITE);
    else if (outbox->closing || (last && result.pending_bytes > 0))
        midge_shard_request(shard, conn, MIDGE_REQUEST_FLUSH);
    if (sent.taken < sent.asked)
        midge_shard_request(shard, conn, MIDGE_REQUEST_POLL_OUT);
    midge_outbox_unlock(outbox);
    finish_flush(shard, &result);
    return go_on;
}

void midge_conn_flush_foreign(struct midge_shard *shard, struct midge_conn *conn,
                              uint32_t generation)
{
    struct iovec pieces[MIDGE_RING_IOV_MAX];
    struct midge_flush flush;

    for (uint32_t sends = 1; gather_foreign(shard, conn, generation, pieces, &flush); sends++) {
        /* The descriptor stays open while the token is held. */
        const int64_t result =
            midge_ring_try_send(shard->ring, conn->fd, pieces, flush.piece_count);

        if (!settle_foreign(shard, conn, sent_of(flush.bytes, result),
                            sends == shard->broker->sends_per_flush))
            return;
    }
}

void midge_conn_hand_over(struct midge_shard *shard, struct midge_conn *conn, uint32_t generation)
{
    midge_outbox_lock(&conn->outbox);
    if (conn->outbox.generation == generation && !conn->outbox.closing)
        midge_shard_request(shard, conn, MIDGE_REQUEST_FLUSH);
    midge_outbox_unlock(&conn->outbox);
}

void midge_conn_on_poll_out(struct midge_shard *shard, struct midge_conn *conn, int res)
{
    conn->poll_armed = false;
    if (conn->state == MIDGE_CONN_CLOSING) {
        midge_conn_finish_closing(shard, conn);
        return;
    }
    if (conn->state != MIDGE_CONN_OPEN && conn->state != MIDGE_CONN_FLUSHING)
        return;
    if (res == -ECANCELED) {
        /* The cancel was meant for recv (back-pressure): the poll is still wanted, here or where
         * the connection goes. */
        midge_conn_arm_poll(shard, conn);
        if (conn->move_to != NULL)
            midge_shard_mark_dirty(shard, conn);
        return;
    }
    midge_outbox_lock(&conn->outbox);
    conn->outbox.blocked = false;
    midge_outbox_unlock(&conn->outbox);
    midge_shard_mark_dirty(shard, conn);
}

void midge_conn_send_last_frame(struct midge_shard *shard, struct midge_conn *conn)
{
    conn->last_tries++;
    conn->close_at_ns = shard->now_ns + LAST_TRY_NS;
    midge_outbox_lock(&conn->outbox);
    conn->outbox.blocked = false;
    midge_outbox_unlock(&conn->outbox);
    midge_shard_mark_dirty(shard, conn);
}
