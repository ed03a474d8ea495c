/* State machine of one connection; see conn.h. */
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "dispatch.h"
#include "handshake.h"
#include "midge/subject.h"
#include "shard.h"
#include "subscribe.h"
#include "trace.h"

/* How long a closing connection may take to send what it owes, at most: the peer of a protocol
 * error deserves its -ERR, not a slot for ever. */
#define FLUSH_MS_MAX          5000u
#define FLUSH_MS_SHUTDOWN_MAX 1000u
/* … and then the rest of the frame under way: tries, since poll says that a socket has room only
 * when a third of its buffer has, and the time between them. */
#define LAST_TRIES_MAX 5u
#define LAST_TRY_MS    100u

#define NS_PER_MS 1000000ull

/* Sends of one shared outbox in one turn: bounded, since others append meanwhile. */
#define SENDS_PER_FLUSH 16u

/* Hourly RTT measurement. Source: nats-server v2.15.2, server/const.go
 * DEFAULT_RTT_MEASUREMENT_INTERVAL. */
#define RTT_INTERVAL_NS (3600ull * 1000 * NS_PER_MS)

static struct midge_handle handle_of(const struct midge_conn *conn)
{
    return (struct midge_handle){conn->index, conn->generation};
}

void midge_conn_set_state(struct midge_conn *conn, enum midge_conn_state from,
                          enum midge_conn_state to)
{
    bool drawn = false;

    switch (to) {
    case MIDGE_CONN_FREE:
        drawn = from == MIDGE_CONN_RESTING;
        break;
    case MIDGE_CONN_OPEN:
        drawn = from == MIDGE_CONN_FREE;
        break;
    case MIDGE_CONN_FLUSHING:
        drawn = from == MIDGE_CONN_OPEN;
        break;
    case MIDGE_CONN_CLOSING:
        drawn = from == MIDGE_CONN_OPEN || from == MIDGE_CONN_FLUSHING;
        break;
    case MIDGE_CONN_PURGING:
        drawn = from == MIDGE_CONN_CLOSING;
        break;
    case MIDGE_CONN_RESTING:
        drawn = from == MIDGE_CONN_PURGING;
        break;
    }
    MIDGE_ASSERT(drawn);
    MIDGE_ASSERT(conn->state == from);
    conn->state = to;
}

/* ---- output ---- */

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

/* Shut the socket down and end its operations; each has one event to come. */
static void begin_closing(struct midge_shard *shard, struct midge_conn *conn)
{
    midge_conn_set_state(conn, conn->state, MIDGE_CONN_CLOSING);
    /* Who sees the end of this connection finds its place free. */
    if (conn->registered)
        atomic_fetch_sub_explicit(&shard->broker->connection_count, 1, memory_order_relaxed);
    conn->registered = false;
    /* Shutdown first: a close with a request under way would send no FIN before the cancel came
     * through (liburing issues 568, 932). */
    midge_ring_shutdown(shard->ring, conn->fd, SHUT_RDWR);
    if (conn->recv_armed || conn->poll_armed)
        midge_ring_cancel(shard->ring, conn->fd, handle_of(conn));
    /* Never finished here: the caller may still hold views of the line buffer. */
    midge_shard_mark_dirty(shard, conn);
}

static void finish_closing(struct midge_shard *shard, struct midge_conn *conn);

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

static void arm_poll(struct midge_shard *shard, struct midge_conn *conn)
{
    if (conn->poll_armed || conn->move_to != NULL)
        return;
    conn->poll_armed = true;
    midge_ring_poll_out(shard->ring, conn->fd, handle_of(conn));
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
        finish_closing(shard, conn);
        return false;
    }
    if (sent.failed) {
        midge_conn_close(shard, conn, MIDGE_E_WRITE);
        return false;
    }
    if (sent.taken < sent.asked) {
        arm_poll(shard, conn);
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
            sends == SENDS_PER_FLUSH)
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

/* Give the connection to the shard that it moves to, if nothing of it is under way here any more.
 * @return true if it is gone */
static bool leave(struct midge_shard *shard, struct midge_conn *conn)
{
    struct midge_shard *to = conn->move_to;
    bool queued;

    /* Subscriptions that a CONNECT dropped leave the index first: they are on our list for that. */
    if (conn->recv_armed || conn->poll_armed || conn->send_submitted || conn->purge_queued)
        return false;
    MIDGE_ASSERT(conn->state == MIDGE_CONN_OPEN && !conn->paused && !conn->rearm_queued);
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

void midge_conn_flush(struct midge_shard *shard, struct midge_conn *conn)
{
    struct iovec pieces[MIDGE_RING_IOV_MAX];
    struct midge_flush flush;

    if (conn->state == MIDGE_CONN_CLOSING)
        finish_closing(shard, conn);
    if (conn->state != MIDGE_CONN_OPEN && conn->state != MIDGE_CONN_FLUSHING)
        return;
    if (MIDGE_UNLIKELY(conn->move_to != NULL) && leave(shard, conn))
        return;
    flush = gather(shard, conn, pieces);
    if (flush.piece_count == 0) {
        if (conn->state == MIDGE_CONN_FLUSHING && is_flushed(conn)) {
            begin_closing(shard, conn);
            finish_closing(shard, conn);
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
    midge_ring_send(shard->ring, conn->fd, handle_of(conn), pieces, flush.piece_count);
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
        *flush_out = midge_outbox_gather(outbox, shard->index, false, pieces, MIDGE_RING_IOV_MAX);
        /* Any other holder looks at what is pending when it gives the token back. */
        if (outbox->in_flight)
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

        if (!settle_foreign(shard, conn, sent_of(flush.bytes, result), sends == SENDS_PER_FLUSH))
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

static void on_poll_out(struct midge_shard *shard, struct midge_conn *conn, int res)
{
    conn->poll_armed = false;
    if (conn->state == MIDGE_CONN_CLOSING) {
        finish_closing(shard, conn);
        return;
    }
    if (conn->state != MIDGE_CONN_OPEN && conn->state != MIDGE_CONN_FLUSHING)
        return;
    if (res == -ECANCELED) {
        /* The cancel was meant for recv (back-pressure): the poll is still wanted, here or where
         * the connection goes. */
        arm_poll(shard, conn);
        if (conn->move_to != NULL)
            midge_shard_mark_dirty(shard, conn);
        return;
    }
    midge_outbox_lock(&conn->outbox);
    conn->outbox.blocked = false;
    midge_outbox_unlock(&conn->outbox);
    midge_shard_mark_dirty(shard, conn);
}

/* ---- input ---- */

/* The parser is not used again: whatever the line holds is given up. */
static void drop_line(struct midge_shard *shard, struct midge_conn *conn)
{
    uint8_t *line = conn->parser.line;

    conn->parser.line = NULL;
    if (line != NULL)
        midge_pool_free(&shard->pool, line, conn->line_block_cap);
}

static enum midge_status lend_line(struct midge_shard *shard, struct midge_conn *conn)
{
    uint8_t *line = midge_pool_alloc(&shard->pool, conn->parser.limits.control_line_len_max,
                                     &conn->line_block_cap);

    if (line == NULL)
        return MIDGE_E_MEMORY;
    midge_parser_lend_line(&conn->parser, line, conn->line_block_cap);
    return MIDGE_OK;
}

static void set_incoming(struct midge_conn *conn, struct midge_msg *msg)
{
    conn->incoming = msg;
    atomic_store_explicit(&conn->incoming_bytes, msg != NULL ? msg->total_len : 0,
                          memory_order_relaxed);
}

static void on_publish(struct midge_shard *shard, struct midge_conn *conn,
                       const struct midge_op *op)
{
    if (conn->pedantic && !midge_subject_is_literal(op->subject))
        midge_conn_send_err(shard, conn, midge_slice_text(midge_status_text(MIDGE_E_PUB_SUBJECT)));
    if (op->payload_whole) {
        midge_dispatch_publish(shard, conn, op);
        return;
    }
    MIDGE_ASSERT(conn->incoming == NULL);
    set_incoming(conn, midge_msg_create(&shard->pool, op));
    if (conn->incoming == NULL)
        midge_conn_close(shard, conn, MIDGE_E_MEMORY);
}

static void on_piece(struct midge_shard *shard, struct midge_conn *conn, const struct midge_op *op)
{
    struct midge_msg *msg = conn->incoming;

    MIDGE_ASSERT(msg != NULL);
    midge_msg_fill(msg, op->payload);
    if (!op->last)
        return;
    MIDGE_ASSERT(msg->filled_len == msg->total_len);
    set_incoming(conn, NULL);
    midge_dispatch_publish_msg(shard, conn, msg);
    midge_msg_release(msg, &shard->pool);
}

static void on_ping(struct midge_shard *shard, struct midge_conn *conn)
{
    (void)midge_conn_enqueue(shard, conn, MIDGE_SLICE_LITERAL("PONG\r\n"));
    conn->last_in_ns = shard->now_ns;
    if (!conn->connected || conn->first_pong_sent)
        return;
    conn->first_pong_sent = true;
    if (conn->options.protocol >= 1)
        midge_handshake_send_info(shard, conn, true);
}

static void on_pong(struct midge_shard *shard, struct midge_conn *conn)
{
    conn->pings_out = 0;
    if (conn->rtt_start_ns != 0)
        conn->rtt_ns = shard->now_ns - conn->rtt_start_ns + 1;
}

static void on_op(struct midge_shard *shard, struct midge_conn *conn, const struct midge_op *op)
{
    if (MIDGE_UNLIKELY(midge_log_enabled(shard->log, MIDGE_LOG_TRACE)))
        midge_trace_op(shard, conn, op);
    switch (op->kind) {
    case MIDGE_OP_PUB:
    case MIDGE_OP_HPUB:
        on_publish(shard, conn, op);
        break;
    case MIDGE_OP_PIECE:
        on_piece(shard, conn, op);
        break;
    case MIDGE_OP_SUB:
        midge_subscribe_sub(shard, conn, op);
        break;
    case MIDGE_OP_UNSUB:
        midge_subscribe_unsub(shard, conn, op);
        break;
    case MIDGE_OP_PING:
        on_ping(shard, conn);
        break;
    case MIDGE_OP_PONG:
        on_pong(shard, conn);
        break;
    case MIDGE_OP_CONNECT:
        midge_handshake_connect(shard, conn, op->json);
        break;
    case MIDGE_OP_INFO:
        if (!midge_info_is_object(op->json))
            midge_conn_close(shard, conn, MIDGE_E_ARGS);
        break;
    case MIDGE_OP_ERR:
        midge_conn_close(shard, conn, MIDGE_E_PEER_ERR);
        break;
    case MIDGE_OP_OK:
    case MIDGE_OP_NONE:
        break;
    }
}

/* True if the next byte begins an operation that is not allowed before CONNECT. */
static bool is_before_auth(const struct midge_conn *conn, struct midge_slice input)
{
    return conn->must_connect && input.len > 0 && (input.base[0] | 0x20) != 'c' &&
           midge_parser_at_start(&conn->parser);
}

static void consume(struct midge_shard *shard, struct midge_conn *conn, struct midge_slice input)
{
    const uint64_t ops_before = conn->in_ops;

    while (conn->state == MIDGE_CONN_OPEN) {
        enum midge_status status;
        struct midge_op op;

        if (MIDGE_UNLIKELY(is_before_auth(conn, input))) {
            midge_conn_close(shard, conn, MIDGE_E_AUTH);
            return;
        }
        status = midge_parser_next(&conn->parser, &input, &op);
        if (MIDGE_LIKELY(status == MIDGE_OK)) {
            on_op(shard, conn, &op);
            continue;
        }
        if (status == MIDGE_AGAIN)
            break;
        if (status == MIDGE_FULL)
            status = lend_line(shard, conn);
        if (status != MIDGE_OK) {
            midge_trace_parse_error(shard, conn, status);
            midge_conn_close(shard, conn, status);
            return;
        }
    }
    if (conn->in_ops != ops_before)
        conn->last_in_ns = shard->now_ns;
    if (conn->parser.line != NULL && midge_parser_line_idle(&conn->parser)) {
        uint8_t *line = midge_parser_take_line(&conn->parser);

        midge_pool_free(&shard->pool, line, conn->line_block_cap);
    }
}

static void on_recv(struct midge_shard *shard, struct midge_conn *conn,
                    const struct midge_ring_event *event)
{
    conn->recv_armed = event->more;
    if (conn->state == MIDGE_CONN_CLOSING) {
        finish_closing(shard, conn);
        return;
    }
    if (conn->state == MIDGE_CONN_FLUSHING) {
        /* What still comes is read and thrown away, so that closing does not reset the connection
         * before the peer has seen its -ERR. */
        if (!event->more && (event->res > 0 || event->res == -ENOBUFS || event->res == -ECANCELED))
            midge_shard_mark_rearm(shard, conn);
        return;
    }
    if (conn->state != MIDGE_CONN_OPEN)
        return;
    if (event->res > 0) {
        consume(shard, conn, event->bytes);
    } else if (event->res == 0) {
        midge_conn_close(shard, conn, MIDGE_E_EOF);
    } else if (event->res != -ENOBUFS && event->res != -ECANCELED && event->res != -EAGAIN &&
               event->res != -EINTR) {
        midge_conn_close(shard, conn, MIDGE_E_READ);
    }
    if (MIDGE_UNLIKELY(conn->move_to != NULL) && !conn->recv_armed) {
        midge_shard_mark_dirty(shard, conn);
        return;
    }
    /* Bytes that ended the connection may have ended recv, too: FLUSHING reads on, as above. */
    if (!conn->recv_armed && ((conn->state == MIDGE_CONN_OPEN && !conn->paused) ||
                              (conn->state == MIDGE_CONN_FLUSHING && event->res > 0)))
        midge_shard_mark_rearm(shard, conn);
}

void midge_conn_on_event(struct midge_shard *shard, struct midge_conn *conn,
                         const struct midge_ring_event *event)
{
    midge_shard_assert_owner(shard);
    switch (event->kind) {
    case MIDGE_RING_RECV:
        on_recv(shard, conn, event);
        break;
    case MIDGE_RING_SEND:
        midge_conn_on_sent(shard, conn, event->res);
        break;
    case MIDGE_RING_POLL_OUT:
        on_poll_out(shard, conn, event->res);
        break;
    case MIDGE_RING_ACCEPT:
    case MIDGE_RING_NONE:
        MIDGE_ASSERT(false);
        break;
    }
}

/* ---- moving ---- */

void midge_conn_move(struct midge_shard *shard, struct midge_conn *conn, struct midge_shard *to)
{
    if (conn->state != MIDGE_CONN_OPEN || conn->paused || conn->move_to != NULL || to == shard)
        return;
    conn->move_to = to;
    if (conn->recv_armed || conn->poll_armed)
        midge_ring_cancel(shard->ring, conn->fd, handle_of(conn));
    midge_shard_mark_dirty(shard, conn);
}

/* It does not go away after all: what was not armed for it is armed here. */
static void stay(struct midge_shard *shard, struct midge_conn *conn)
{
    bool blocked;

    if (conn->move_to == NULL)
        return;
    conn->move_to = NULL;
    midge_outbox_lock(&conn->outbox);
    blocked = conn->outbox.blocked;
    midge_outbox_unlock(&conn->outbox);
    if (blocked)
        arm_poll(shard, conn);
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
    if (midge_ring_adopt(shard->ring, conn->fd, handle_of(conn)) != 0) {
        midge_conn_close(shard, conn, MIDGE_E_READ);
        return;
    }
    midge_conn_set_timer(shard, conn);
    midge_shard_mark_rearm(shard, conn);
    if (blocked)
        arm_poll(shard, conn);
    else
        midge_shard_mark_dirty(shard, conn);
}

/* ---- back-pressure ---- */

void midge_conn_pause(struct midge_shard *shard, struct midge_conn *conn,
                      const struct midge_pause *pause)
{
    if (conn->paused || conn->state != MIDGE_CONN_OPEN)
        return;
    conn->pause = malloc(sizeof(*conn->pause));
    if (conn->pause == NULL)
        return; /* goes on publishing: max_pending still bounds what it can fill */
    *conn->pause = *pause;
    stay(shard, conn);
    conn->paused = true;
    conn->next_paused = shard->paused;
    shard->paused = conn;
    midge_stats_add(&shard->stats.stalls, 1);
    if (conn->recv_armed)
        midge_ring_cancel(shard->ring, conn->fd, handle_of(conn));
    midge_conn_set_timer(shard, conn);
}

void midge_conn_resume(struct midge_shard *shard, struct midge_conn *conn)
{
    const uint64_t interval_ns = shard->config->ping_interval_ms * NS_PER_MS;
    struct midge_conn **link = &shard->paused;

    if (!conn->paused)
        return;
    while (*link != conn) {
        MIDGE_ASSERT(*link != NULL);
        link = &(*link)->next_paused;
    }
    *link = conn->next_paused;
    conn->next_paused = NULL;
    conn->paused = false;
    free(conn->pause);
    conn->pause = NULL;
    /* Its PONGs may lie behind what was not read. */
    conn->pings_out = 0;
    if (conn->ping_at_ns < shard->now_ns + interval_ns)
        conn->ping_at_ns = shard->now_ns + interval_ns;
    /* FLUSHING reads too, and throws away: see on_recv(). */
    if (!conn->recv_armed && (conn->state == MIDGE_CONN_OPEN || conn->state == MIDGE_CONN_FLUSHING))
        midge_shard_mark_rearm(shard, conn);
}

/* ---- deadlines ---- */

static uint64_t write_deadline_at(const struct midge_shard *shard, struct midge_conn *conn)
{
    uint64_t stalled_at_ns;

    midge_outbox_lock(&conn->outbox);
    stalled_at_ns = conn->outbox.stalled_at_ns;
    midge_outbox_unlock(&conn->outbox);
    if (stalled_at_ns == 0)
        return UINT64_MAX;
    return stalled_at_ns + shard->config->write_deadline_ms * NS_PER_MS;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void midge_conn_set_timer(struct midge_shard *shard, struct midge_conn *conn)
{
    uint64_t at_ns = conn->close_at_ns;

    if (conn->state == MIDGE_CONN_OPEN) {
        at_ns = earlier(at_ns, earlier(conn->ping_at_ns, conn->auth_at_ns));
        at_ns = earlier(at_ns, write_deadline_at(shard, conn));
        if (conn->pause != NULL)
            at_ns = earlier(at_ns, conn->pause->until_ns);
    }
    if (at_ns == UINT64_MAX)
        midge_timers_clear(&shard->timers, &conn->timer);
    else
        midge_timers_set(&shard->timers, &conn->timer, at_ns);
}

/* Source: nats-server v2.15.2, server/client.go:5954 processPingTimer. */
static void on_ping_due(struct midge_shard *shard, struct midge_conn *conn)
{
    const uint64_t interval_ns = shard->config->ping_interval_ms * NS_PER_MS;
    const bool wants_rtt =
        conn->rtt_ns == 0 || shard->now_ns - conn->rtt_start_ns > RTT_INTERVAL_NS;

    conn->ping_at_ns = shard->now_ns + interval_ns;
    if (conn->paused)
        return; /* we do not read it: its silence says nothing */
    if (shard->now_ns - conn->last_in_ns < interval_ns && !wants_rtt)
        return;
    if (conn->pings_out + 1 > shard->config->ping_max) {
        midge_stats_add(&shard->stats.stale, 1);
        midge_conn_close(shard, conn, MIDGE_E_STALE);
        return;
    }
    conn->pings_out++;
    conn->rtt_start_ns = shard->now_ns;
    (void)midge_conn_enqueue(shard, conn, MIDGE_SLICE_LITERAL("PING\r\n"));
}

/* The end does not wait until a slow reader has all that it is owed; but what it gets ends with a
 * whole frame. */
static void send_last_frame(struct midge_shard *shard, struct midge_conn *conn)
{
    if (conn->last_tries++ == 0)
        midge_stats_add(&shard->stats.discarded, midge_outbox_cut(&conn->outbox, &shard->pool));
    conn->close_at_ns = shard->now_ns + LAST_TRY_MS * NS_PER_MS;
    midge_outbox_lock(&conn->outbox);
    conn->outbox.blocked = false;
    midge_outbox_unlock(&conn->outbox);
    midge_shard_mark_dirty(shard, conn);
}

void midge_conn_on_timer(struct midge_shard *shard, struct midge_conn *conn)
{
    const uint64_t now_ns = shard->now_ns;

    if (conn->state == MIDGE_CONN_FLUSHING && conn->close_at_ns <= now_ns) {
        if (!shard->stop_seen || conn->send_submitted || conn->last_tries == LAST_TRIES_MAX) {
            begin_closing(shard, conn);
            return;
        }
        send_last_frame(shard, conn);
    }
    if (conn->state == MIDGE_CONN_OPEN && conn->auth_at_ns <= now_ns)
        midge_conn_close(shard, conn, MIDGE_E_AUTH_TIMEOUT);
    if (conn->state == MIDGE_CONN_OPEN && write_deadline_at(shard, conn) <= now_ns)
        midge_conn_close(shard, conn, MIDGE_E_SLOW_DEADLINE);
    if (conn->state == MIDGE_CONN_OPEN && conn->pause != NULL && conn->pause->until_ns <= now_ns)
        midge_conn_resume(shard, conn);
    if (conn->state == MIDGE_CONN_OPEN && conn->ping_at_ns <= now_ns)
        on_ping_due(shard, conn);
    if (conn->state == MIDGE_CONN_OPEN || conn->state == MIDGE_CONN_FLUSHING)
        midge_conn_set_timer(shard, conn);
}

/* ---- requests of other shards, and of this one while it held a lock ---- */

void midge_conn_on_request(struct midge_shard *shard, struct midge_conn *conn, uint32_t requests,
                           enum midge_status close_status)
{
    if ((requests & MIDGE_REQUEST_EXPIRED) != 0)
        midge_conn_remove_expired(shard, conn);
    if ((requests & MIDGE_REQUEST_CLOSE) != 0)
        midge_conn_close(shard, conn, close_status);
    if ((requests & MIDGE_REQUEST_POLL_OUT) != 0 &&
        (conn->state == MIDGE_CONN_OPEN || conn->state == MIDGE_CONN_FLUSHING)) {
        arm_poll(shard, conn);
        midge_conn_set_timer(shard, conn);
    }
    if ((requests & MIDGE_REQUEST_FLUSH) != 0 || conn->move_to != NULL)
        midge_shard_mark_dirty(shard, conn);
}

/* ---- opening and closing ---- */

static void reset(struct midge_shard *shard, struct midge_conn *conn, int fd)
{
    const struct midge_config *config = shard->config;
    const struct midge_parser_limits limits = {
        .control_line_len_max = config->control_line_len_max,
        .payload_len_max = config->payload_len_max,
        .headers = false,
    };

    conn->fd = fd;
    conn->send_asked = 0;
    midge_parser_init(&conn->parser, &limits);
    set_incoming(conn, NULL);
    conn->recv_armed = false;
    conn->poll_armed = false;
    conn->send_submitted = false;
    conn->rearm_queued = false;
    conn->paused = false;
    conn->connected = false;
    conn->must_connect = false;
    conn->last_tries = 0;
    conn->first_pong_sent = false;
    conn->registered = false;
    conn->is_unix = false;
    /* What a client that sends no CONNECT gets. Source: nats-server v2.15.2, client.go defaultOpts.
     */
    conn->verbose = true;
    conn->pedantic = true;
    conn->echo = true;
    conn->no_responders = false;
    conn->in_msgs = 0;
    conn->in_ops = 0;
    conn->in_bytes = 0;
    conn->started_at_ns = shard->now_ns;
    conn->last_in_ns = shard->now_ns;
    conn->rtt_ns = 0;
    conn->rtt_start_ns = 0;
    conn->pings_out = 0;
    conn->auth_at_ns = UINT64_MAX;
    conn->close_at_ns = UINT64_MAX;
    conn->ping_at_ns = shard->now_ns + config->ping_interval_ms * NS_PER_MS;
    MIDGE_ASSERT(!conn->purge_queued);
    MIDGE_ASSERT(conn->old_subs == NULL);
    MIDGE_ASSERT(conn->subs.slots == NULL);
    conn->close_status = MIDGE_OK;
    conn->move_to = NULL;
    midge_connect_init(&conn->options);
    midge_outbox_init(&conn->outbox, conn->generation, config->pending_bytes_max);
    midge_outbox_lock(&conn->outbox);
    atomic_store_explicit(&conn->owner, shard, memory_order_relaxed);
    conn->expired = NULL;
    midge_outbox_unlock(&conn->outbox);
}

static void read_peer(struct midge_shard *shard, struct midge_conn *conn)
{
    struct midge_ring_peer peer = {0};

    /* A peer that has gone already has no address; its end of stream comes as an event. */
    if (midge_ring_peer(shard->ring, conn->fd, &peer) != 0)
        peer = (struct midge_ring_peer){.ip = ""};
    memcpy(conn->ip, peer.ip, sizeof(conn->ip));
    conn->port = peer.port;
    conn->is_unix = peer.is_unix;
}

void midge_conn_open(struct midge_shard *shard, struct midge_conn *conn, int fd)
{
    struct midge_broker *broker = shard->broker;
    uint32_t before;

    midge_shard_assert_owner(shard);
    midge_conn_set_state(conn, MIDGE_CONN_FREE, MIDGE_CONN_OPEN);
    reset(shard, conn, fd);
    conn->cid = atomic_fetch_add_explicit(&broker->next_cid, 1, memory_order_relaxed);
    midge_stats_add(&shard->stats.connects, 1);
    read_peer(shard, conn);
    midge_conn_log(shard, conn, MIDGE_LOG_DEBUG, "Client connection created");
    if (midge_ring_adopt(shard->ring, fd, handle_of(conn)) != 0) {
        midge_conn_close(shard, conn, MIDGE_E_READ);
        return;
    }
    midge_handshake_send_info(shard, conn, false);
    conn->recv_armed = true;
    midge_ring_recv(shard->ring, fd, handle_of(conn));
    before = atomic_fetch_add_explicit(&broker->connection_count, 1, memory_order_relaxed);
    conn->registered = true;
    if (before >= broker->connections_max) {
        midge_stats_add(&shard->stats.rejected, 1);
        midge_conn_close(shard, conn, MIDGE_E_MAX_CONNECTIONS);
        return;
    }
    if (midge_config_auth_required(shard->config)) {
        conn->must_connect = true;
        conn->auth_at_ns = shard->now_ns + shard->config->auth_timeout_ms * NS_PER_MS;
    }
    midge_conn_set_timer(shard, conn);
}

static bool is_hard(enum midge_status status)
{
    return status == MIDGE_E_READ || status == MIDGE_E_WRITE || status == MIDGE_E_SLOW_PENDING ||
           status == MIDGE_E_SLOW_DEADLINE || status == MIDGE_E_MEMORY;
}

static void count_close(struct midge_shard *shard, struct midge_conn *conn,
                        enum midge_status status)
{
    if (status == MIDGE_E_SLOW_PENDING)
        midge_stats_add(&shard->stats.slow_pending, 1);
    else if (status == MIDGE_E_SLOW_DEADLINE)
        midge_stats_add(&shard->stats.slow_deadline, 1);
    else if (status == MIDGE_E_AUTH || status == MIDGE_E_AUTH_TIMEOUT)
        midge_stats_add(&shard->stats.auth_errors, 1);
    else if (status == MIDGE_E_MEMORY)
        midge_stats_add(&shard->stats.memory_closed, 1);
    midge_trace_close(shard, conn, status);
}

/* Nothing is appended from here on, so publishers that wait for this outbox wait for nothing. */
static void refuse_appends(struct midge_shard *shard, struct midge_conn *conn)
{
    uint16_t watch_shard;
    bool watched;

    midge_outbox_lock(&conn->outbox);
    conn->outbox.closing = true;
    watched = conn->outbox.watch_mark_bytes > 0;
    watch_shard = conn->outbox.watch_shard;
    conn->outbox.watch_mark_bytes = 0;
    midge_outbox_unlock(&conn->outbox);
    if (watched)
        midge_shard_tell_drained(shard, watch_shard);
}

void midge_conn_close(struct midge_shard *shard, struct midge_conn *conn, enum midge_status status)
{
    const char *text = midge_status_text(status);
    uint64_t flush_ms = status == MIDGE_E_SHUTDOWN ? FLUSH_MS_SHUTDOWN_MAX : FLUSH_MS_MAX;

    if (conn->state == MIDGE_CONN_FLUSHING && is_hard(status)) {
        conn->close_status = status;
        begin_closing(shard, conn);
        return;
    }
    if (conn->state == MIDGE_CONN_FLUSHING && status == MIDGE_E_SHUTDOWN) {
        /* Closing already, for another reason: it gets no more time than the others. */
        conn->close_at_ns =
            earlier(conn->close_at_ns, shard->now_ns + FLUSH_MS_SHUTDOWN_MAX * NS_PER_MS);
        midge_conn_set_timer(shard, conn);
        return;
    }
    if (conn->state != MIDGE_CONN_OPEN)
        return;
    conn->close_status = status;
    /* FLUSHING from here on, so that an -ERR that finds no room does not come back to close again.
     */
    midge_conn_set_state(conn, MIDGE_CONN_OPEN, MIDGE_CONN_FLUSHING);
    count_close(shard, conn, status);
    if (text[0] != '\0')
        midge_conn_send_err(shard, conn, midge_slice_text(text));
    refuse_appends(shard, conn);
    midge_conn_resume(shard, conn);
    stay(shard, conn);
    if (conn->state != MIDGE_CONN_FLUSHING)
        return; /* found no memory for the -ERR: closing already */
    if (is_hard(status)) {
        begin_closing(shard, conn);
        return;
    }
    if (flush_ms > shard->config->write_deadline_ms)
        flush_ms = shard->config->write_deadline_ms;
    conn->close_at_ns = shard->now_ns + flush_ms * NS_PER_MS;
    midge_conn_set_timer(shard, conn);
    midge_shard_mark_dirty(shard, conn);
}

/* With nothing left to give back it is not picked again. */
static void end_memory_pick(struct midge_shard *shard, struct midge_conn *conn)
{
    bool picked;

    midge_outbox_lock(&conn->outbox);
    picked = conn->outbox.memory_pick;
    conn->outbox.memory_pick = false;
    midge_outbox_unlock(&conn->outbox);
    /* Release pairs with the acquire in begin_memory_pick(). */
    if (picked) {
        atomic_store_explicit(&shard->broker->memory_picking, false, memory_order_release);
        /* Whoever picked it may sleep by now. */
        shard->look_at_memory = true;
    }
}

/* The last step that needs the descriptor, once nothing is under way any more. */
static void finish_closing(struct midge_shard *shard, struct midge_conn *conn)
{
    bool held;

    if (conn->state != MIDGE_CONN_CLOSING || conn->recv_armed || conn->poll_armed ||
        conn->send_submitted)
        return;
    midge_outbox_lock(&conn->outbox);
    MIDGE_ASSERT(conn->outbox.closing);
    held = conn->outbox.flush_shard != MIDGE_FLUSH_FREE;
    if (!held) {
        /* They leave the index with all the others, in another order: looking for each in this list
         * would take quadratic time. */
        conn->expired = NULL;
    }
    midge_outbox_unlock(&conn->outbox);
    if (held)
        return; /* whoever holds the token asks for another look when it gives it back */
    midge_ring_close(shard->ring, conn->fd);
    conn->fd = -1;
    midge_stats_add(&shard->stats.discarded, midge_outbox_discard(&conn->outbox, &shard->pool));
    midge_timers_clear(&shard->timers, &conn->timer);
    drop_line(shard, conn);
    if (conn->incoming != NULL) {
        midge_msg_release(conn->incoming, &shard->pool);
        set_incoming(conn, NULL);
    }
    midge_shard_charge(shard, -(int64_t)midge_connect_bytes(&conn->options));
    midge_connect_deinit(&conn->options);
    end_memory_pick(shard, conn);
    midge_conn_set_state(conn, MIDGE_CONN_CLOSING, MIDGE_CONN_PURGING);
    midge_shard_conn_closed(shard, conn);
}

/* ---- subscriptions ---- */

static void free_sub_cb(void *context, void *object)
{
    midge_shard_charge(context, -(int64_t)midge_sub_bytes(object));
    midge_sub_destroy(object);
}

/* Take the subscription off the expired list, if it is on it: near its head. Not on it any more are
 * those of a closed connection, and those that a CONNECT dropped: their list was given up. Under
 * the outbox lock. */
static void unlink_expired(struct midge_conn *conn, struct midge_sub *sub)
{
    struct midge_sub **link = &conn->expired;

    if (!sub->expired || sub->generation != conn->outbox.sub_generation ||
        conn->state == MIDGE_CONN_PURGING)
        return;
    while (*link != sub) {
        MIDGE_ASSERT(*link != NULL);
        link = &(*link)->next_expired;
    }
    *link = sub->next_expired;
    sub->expired = false;
}

static void retire_sub(struct midge_shard *shard, struct midge_conn *conn, struct midge_sub *sub)
{
    midge_outbox_lock(&conn->outbox);
    sub->live = false;
    unlink_expired(conn, sub);
    midge_outbox_unlock(&conn->outbox);
    midge_subindex_remove(shard->broker->index, shard->participant, sub->record,
                          midge_sub_queue(sub), sub);
    midge_reclaim_retire(shard->participant, sub, shard, free_sub_cb);
}

void midge_conn_remove_sub(struct midge_shard *shard, struct midge_conn *conn,
                           struct midge_sub *sub)
{
    const uint64_t bytes = midge_sub_table_bytes(&conn->subs);

    midge_sub_table_remove(&conn->subs, shard->broker->seed, sub);
    midge_shard_charge(shard, (int64_t)(midge_sub_table_bytes(&conn->subs) - bytes));
    retire_sub(shard, conn, sub);
}

void midge_conn_remove_expired(struct midge_shard *shard, struct midge_conn *conn)
{
    if (conn->state == MIDGE_CONN_PURGING || conn->state == MIDGE_CONN_RESTING)
        return; /* leaves with all the others */
    for (;;) {
        struct midge_sub *sub;

        midge_outbox_lock(&conn->outbox);
        sub = conn->expired;
        midge_outbox_unlock(&conn->outbox);
        if (sub == NULL)
            return;
        midge_conn_remove_sub(shard, conn, sub);
    }
}

/* False if the steps did not suffice. */
static bool purge_table(struct midge_shard *shard, struct midge_conn *conn,
                        struct midge_sub_table *table, uint32_t *steps)
{
    const uint64_t bytes = midge_sub_table_bytes(table);
    struct midge_sub *sub;

    while ((sub = midge_sub_table_drain(table, steps)) != NULL) {
        retire_sub(shard, conn, sub);
        *steps -= *steps < MIDGE_PURGE_SUB_STEPS ? *steps : MIDGE_PURGE_SUB_STEPS;
    }
    if (table->count == 0)
        midge_sub_table_deinit(table);
    midge_shard_charge(shard, (int64_t)(midge_sub_table_bytes(table) - bytes));
    return table->count == 0;
}

bool midge_conn_purge(struct midge_shard *shard, struct midge_conn *conn, uint32_t *steps)
{
    while (conn->old_subs != NULL) {
        struct midge_old_subs *old = conn->old_subs;

        if (!purge_table(shard, conn, &old->table, steps))
            return false;
        conn->old_subs = old->next;
        midge_shard_charge(shard, -(int64_t)sizeof(*old));
        free(old);
    }
    return conn->state != MIDGE_CONN_PURGING || purge_table(shard, conn, &conn->subs, steps);
}

void midge_conn_drop_subs(struct midge_shard *shard, struct midge_conn *conn)
{
    /* No more than this CONNECT drops, or CONNECT and SUB in turns would cost 256 times a SUB. */
    const uint64_t wanted = (uint64_t)conn->subs.count * (MIDGE_PURGE_SUB_STEPS + 1) +
                            conn->subs.cap + conn->subs.old_cap;
    uint32_t steps = wanted < MIDGE_PURGE_STEPS_MAX ? (uint32_t)wanted : MIDGE_PURGE_STEPS_MAX;
    struct midge_old_subs *old;

    if (conn->subs.count == 0)
        return;
    old = calloc(1, sizeof(*old));
    if (old == NULL) {
        midge_conn_close(shard, conn, MIDGE_E_MEMORY);
        return;
    }
    midge_shard_charge(shard, sizeof(*old));
    old->table = conn->subs;
    old->next = conn->old_subs;
    conn->old_subs = old;
    conn->subs = (struct midge_sub_table){0};
    midge_outbox_lock(&conn->outbox);
    conn->outbox.sub_generation++;
    conn->expired = NULL;
    midge_outbox_unlock(&conn->outbox);
    if (!midge_conn_purge(shard, conn, &steps))
        midge_shard_mark_purge(shard, conn);
}
