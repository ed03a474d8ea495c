/* State machine of one connection; see conn.h, and conn_internal.h for its other parts. */
#include "conn_internal.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "handshake.h"
#include "midge/status_peer.h"
#include "shard.h"
#include "trace.h"

/* How long a closing connection may take to send what it owes, at most: the peer of a protocol
 * error deserves its -ERR, not a slot for ever. */
#define FLUSH_MS_MAX          5000u
#define FLUSH_MS_SHUTDOWN_MAX 1000u
/* … and then so many tries to send the rest of the frame under way, since poll says that a socket
 * has room only when a third of its buffer has. */
#define LAST_TRIES_MAX 5u

#define NS_PER_MS 1000000ull

/* Hourly RTT measurement. Source: nats-server v2.15.2, server/const.go
 * DEFAULT_RTT_MEASUREMENT_INTERVAL. */
#define RTT_INTERVAL_NS (3600ull * 1000 * NS_PER_MS)

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
    conn->reading = to == MIDGE_CONN_OPEN;
}

void midge_conn_on_event(struct midge_shard *shard, struct midge_conn *conn,
                         const struct midge_ring_event *event)
{
    midge_shard_assert_owner(shard);
    switch (event->kind) {
    case MIDGE_RING_RECV:
        midge_conn_on_recv(shard, conn, event);
        break;
    case MIDGE_RING_SEND:
        midge_conn_on_sent(shard, conn, event->res);
        break;
    case MIDGE_RING_POLL_OUT:
        midge_conn_on_poll_out(shard, conn, event->res);
        break;
    case MIDGE_RING_ACCEPT:
    case MIDGE_RING_NONE:
        MIDGE_ASSERT(false);
        break;
    }
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

void midge_conn_on_timer(struct midge_shard *shard, struct midge_conn *conn)
{
    const uint64_t now_ns = shard->now_ns;

    if (conn->state == MIDGE_CONN_FLUSHING && conn->close_at_ns <= now_ns) {
        if (!shard->stop_seen || conn->send_submitted || conn->last_tries == LAST_TRIES_MAX) {
            midge_conn_begin_closing(shard, conn);
            return;
        }
        midge_conn_send_last_frame(shard, conn);
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
        midge_conn_arm_poll(shard, conn);
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
    conn->incoming = NULL;
    atomic_store_explicit(&conn->incoming_bytes, 0, memory_order_relaxed);
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
    conn->work = 0;
    conn->last_to = MIDGE_BALANCE_NONE;
    conn->away_looks = 0;
    conn->auth_at_ns = UINT64_MAX;
    conn->close_at_ns = UINT64_MAX;
    conn->ping_at_ns = shard->now_ns + config->ping_interval_ms * NS_PER_MS;
    MIDGE_ASSERT(!conn->purge_queued);
    MIDGE_ASSERT(conn->backlog == NULL);
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
    if (midge_ring_adopt(shard->ring, fd, midge_conn_handle(conn)) != 0) {
        midge_conn_close(shard, conn, MIDGE_E_READ);
        return;
    }
    midge_handshake_send_info(shard, conn, false);
    conn->recv_armed = true;
    midge_ring_recv(shard->ring, fd, midge_conn_handle(conn));
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
        midge_conn_begin_closing(shard, conn);
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
    midge_conn_stay(shard, conn);
    if (conn->state != MIDGE_CONN_FLUSHING)
        return; /* found no memory for the -ERR: closing already */
    if (is_hard(status)) {
        midge_conn_begin_closing(shard, conn);
        return;
    }
    if (flush_ms > shard->config->write_deadline_ms)
        flush_ms = shard->config->write_deadline_ms;
    conn->close_at_ns = shard->now_ns + flush_ms * NS_PER_MS;
    midge_conn_set_timer(shard, conn);
    midge_shard_mark_dirty(shard, conn);
}

void midge_conn_begin_closing(struct midge_shard *shard, struct midge_conn *conn)
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
        midge_ring_cancel(shard->ring, conn->fd, midge_conn_handle(conn));
    /* Never finished here: the caller may still hold views of the line buffer. */
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

void midge_conn_finish_closing(struct midge_shard *shard, struct midge_conn *conn)
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
    midge_conn_drop_input(shard, conn);
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
