/* Input of one connection: received bytes to operations, and back-pressure, which stops that. */
#include "conn_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "dispatch.h"
#include "handshake.h"
#include "midge/status_peer.h"
#include "midge/subject.h"
#include "shard.h"
#include "subscribe.h"
#include "trace.h"

#define NS_PER_MS 1000000ull

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
    uint32_t bytes = msg != NULL ? msg->total_len : 0;

    conn->incoming = msg;
    if (MIDGE_UNLIKELY(conn->backlog != NULL))
        bytes += conn->backlog->block_cap;
    atomic_store_explicit(&conn->incoming_bytes, bytes, memory_order_relaxed);
}

static void on_publish(struct midge_shard *shard, struct midge_conn *conn,
                       const struct midge_op *op)
{
    if (conn->pedantic && !midge_subject_is_literal(op->subject)) {
        midge_dispatch_end_run(shard);
        midge_conn_send_err(shard, conn, midge_slice_text(midge_status_text(MIDGE_E_PUB_SUBJECT)));
    }
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
    if (op->kind != MIDGE_OP_PUB && op->kind != MIDGE_OP_HPUB)
        midge_dispatch_end_run(shard);
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

/* @return what is left because the connection was paused */
static struct midge_slice consume(struct midge_shard *shard, struct midge_conn *conn,
                                  struct midge_slice input)
{
    const uint64_t ops_before = conn->in_ops;

    while (conn->reading) {
        enum midge_status status;
        struct midge_op op;

        if (MIDGE_UNLIKELY(is_before_auth(conn, input))) {
            midge_conn_close(shard, conn, MIDGE_E_AUTH);
            return midge_slice_make(NULL, 0);
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
            midge_dispatch_end_run(shard);
            midge_trace_parse_error(shard, conn, status);
            midge_conn_close(shard, conn, status);
            return midge_slice_make(NULL, 0);
        }
    }
    midge_dispatch_end_run(shard);
    if (conn->in_ops != ops_before)
        conn->last_in_ns = shard->now_ns;
    conn->work += MIDGE_WORK_RECV + (conn->in_ops - ops_before);
    if (conn->parser.line != NULL && midge_parser_line_idle(&conn->parser)) {
        uint8_t *line = midge_parser_take_line(&conn->parser);

        midge_pool_free(&shard->pool, line, conn->line_block_cap);
    }
    return conn->paused ? input : midge_slice_make(NULL, 0);
}

static void set_backlog(struct midge_shard *shard, struct midge_conn *conn,
                        struct midge_backlog *backlog)
{
    if (conn->backlog != NULL)
        midge_pool_free(&shard->pool, conn->backlog, conn->backlog->block_cap);
    conn->backlog = backlog;
    set_incoming(conn, conn->incoming);
}

/* Keep bytes for later: the buffer that they lie in does not outlive the turn. */
static void keep(struct midge_shard *shard, struct midge_conn *conn, struct midge_slice bytes)
{
    struct midge_backlog *backlog = conn->backlog;
    const uint32_t left = backlog != NULL ? backlog->len - backlog->off : 0;
    const uint32_t want = (uint32_t)sizeof(*backlog) + left + bytes.len;

    if (backlog == NULL ||
        backlog->block_cap - (uint32_t)sizeof(*backlog) - backlog->len < bytes.len) {
        struct midge_backlog *larger;
        uint32_t cap;

        larger = midge_pool_alloc(&shard->pool, want, &cap);
        if (larger == NULL) {
            midge_conn_close(shard, conn, MIDGE_E_MEMORY);
            return;
        }
        *larger = (struct midge_backlog){.block_cap = cap, .len = left, .end = MIDGE_OK};
        if (left > 0)
            memcpy(larger->bytes, backlog->bytes + backlog->off, left);
        backlog = larger;
        set_backlog(shard, conn, backlog);
    }
    memcpy(backlog->bytes + backlog->len, bytes.base, bytes.len);
    backlog->len += bytes.len;
}

void midge_conn_use_backlog(struct midge_shard *shard, struct midge_conn *conn)
{
    struct midge_backlog *backlog = conn->backlog;
    enum midge_status end;

    if (backlog == NULL || conn->paused)
        return;
    if (conn->state == MIDGE_CONN_OPEN) {
        struct midge_slice rest =
            midge_slice_make(backlog->bytes + backlog->off, backlog->len - backlog->off);

        conn->reading = true;
        rest = consume(shard, conn, rest);
        backlog->off = backlog->len - rest.len;
        if (rest.len > 0)
            return; /* paused anew */
    }
    end = backlog->end;
    set_backlog(shard, conn, NULL);
    if (end != MIDGE_OK && conn->state == MIDGE_CONN_OPEN)
        midge_conn_close(shard, conn, end);
}

/* The stream has ended, or broken: what came before goes first. */
static void end_input(struct midge_shard *shard, struct midge_conn *conn, enum midge_status status)
{
    if (conn->backlog != NULL)
        conn->backlog->end = status;
    else
        midge_conn_close(shard, conn, status);
}

void midge_conn_on_recv(struct midge_shard *shard, struct midge_conn *conn,
                        const struct midge_ring_event *event)
{
    conn->recv_armed = event->more;
    if (conn->state == MIDGE_CONN_CLOSING) {
        midge_conn_finish_closing(shard, conn);
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
        struct midge_slice rest = event->bytes;

        if (MIDGE_LIKELY(conn->reading))
            rest = consume(shard, conn, rest);
        if (MIDGE_UNLIKELY(rest.len > 0))
            keep(shard, conn, rest);
    } else if (event->res == 0) {
        end_input(shard, conn, MIDGE_E_EOF);
    } else if (event->res != -ENOBUFS && event->res != -ECANCELED && event->res != -EAGAIN &&
               event->res != -EINTR) {
        end_input(shard, conn, MIDGE_E_READ);
    }
    if (MIDGE_UNLIKELY(conn->move_to != NULL) && !conn->recv_armed) {
        midge_shard_mark_dirty(shard, conn);
        return;
    }
    /* Bytes that ended the connection may have ended recv, too: FLUSHING reads on, as above. */
    if (!conn->recv_armed &&
        (conn->reading || (conn->state == MIDGE_CONN_FLUSHING && event->res > 0)))
        midge_shard_mark_rearm(shard, conn);
}

void midge_conn_drop_input(struct midge_shard *shard, struct midge_conn *conn)
{
    uint8_t *line = conn->parser.line;

    conn->parser.line = NULL;
    if (line != NULL)
        midge_pool_free(&shard->pool, line, conn->line_block_cap);
    if (conn->incoming != NULL) {
        midge_msg_release(conn->incoming, &shard->pool);
        set_incoming(conn, NULL);
    }
    if (conn->backlog != NULL)
        set_backlog(shard, conn, NULL);
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
    midge_conn_stay(shard, conn);
    conn->paused = true;
    conn->reading = false;
    conn->next_paused = shard->paused;
    shard->paused = conn;
    midge_stats_add(&shard->stats.stalls, 1);
    if (conn->recv_armed)
        midge_ring_cancel(shard->ring, conn->fd, midge_conn_handle(conn));
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
    conn->reading = conn->state == MIDGE_CONN_OPEN && conn->backlog == NULL;
    free(conn->pause);
    conn->pause = NULL;
    /* Its PONGs may lie behind what was not read. */
    conn->pings_out = 0;
    if (conn->ping_at_ns < shard->now_ns + interval_ns)
        conn->ping_at_ns = shard->now_ns + interval_ns;
    /* FLUSHING reads too, and throws away: see midge_conn_on_recv(). */
    if ((!conn->recv_armed || conn->backlog != NULL) &&
        (conn->state == MIDGE_CONN_OPEN || conn->state == MIDGE_CONN_FLUSHING))
        midge_shard_mark_rearm(shard, conn);
}
