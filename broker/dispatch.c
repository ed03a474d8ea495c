/* From a message to its targets; see dispatch.h. */
#include "dispatch.h"

#include "conn.h"
#include "midge/encode.h"
#include "midge/subject.h"
#include "shard.h"
#include "trace.h"
#include "violation.h"

/* One message on its way. All borrowed for the call. */
struct publication {
    struct midge_conn *conn; /* the publisher */
    struct midge_slice subject;
    struct midge_slice reply;
    struct midge_slice header_text;
    struct midge_slice size_text;
    struct midge_slice body; /* headers and payload, without CRLF */
    struct midge_msg *msg;   /* holds the body and its CRLF, or NULL */
    uint32_t header_len;
    uint32_t frame_len;       /* of the frame but for the sid, for subscribers with headers */
    uint32_t plain_frame_len; /* … and without */
    uint32_t plain_size_len;
    uint8_t plain_size_text[MIDGE_DECIMAL_LEN_MAX]; /* for subscribers without headers */
    struct midge_pause pause;                       /* recipients that are behind */
    uint32_t appended;                              /* deliveries */
    uint32_t behind;        /* of those to others, how many were left over the high mark */
    uint32_t ahead;         /* … and how many were not */
    uint64_t wait_until_ns; /* for one that is close to max_pending though it reads; 0 = for none */
    struct midge_pause_target wait_target;
};

enum outcome {
    OUTCOME_APPENDED = 0,
    OUTCOME_NOT_A_TARGET, /* gone, unsubscribed, at its max, or the publisher itself without echo */
    OUTCOME_CLOSING,
    OUTCOME_SLOW,
    OUTCOME_MEMORY,
};

/* What a subscriber gets to see: the frame but for its sid, and the part of the body that follows.
 */
static struct midge_slice make_frame(const struct publication *pub, bool headers,
                                     struct midge_frame *frame)
{
    frame->subject = midge_slice_copy(&pub->subject);
    frame->reply = midge_slice_copy(&pub->reply);
    frame->sid = midge_slice_make(NULL, 0);
    if (pub->header_len == 0 || headers) {
        frame->header_text = pub->header_len > 0 ? pub->header_text : midge_slice_make(NULL, 0);
        frame->size_text = midge_slice_copy(&pub->size_text);
        return midge_slice_copy(&pub->body);
    }
    frame->header_text = midge_slice_make(NULL, 0);
    frame->size_text = midge_slice_make(pub->plain_size_text, pub->plain_size_len);
    return midge_slice_make(pub->body.base + pub->header_len, pub->body.len - pub->header_len);
}

/* Both forms are measured once for all subscribers. */
static void measure_frames(struct publication *pub)
{
    struct midge_frame frame;

    pub->plain_size_len =
        pub->header_len == 0
            ? 0
            : midge_encode_decimal(pub->plain_size_text, pub->body.len - pub->header_len);
    (void)make_frame(pub, true, &frame);
    pub->frame_len = midge_encode_frame_len(&frame);
    pub->plain_frame_len = pub->frame_len;
    if (pub->header_len == 0)
        return;
    (void)make_frame(pub, false, &frame);
    pub->plain_frame_len = midge_encode_frame_len(&frame);
}

/* Write one delivery. Under the outbox lock, after the checks. */
static void append_frame(struct midge_shard *shard, const struct publication *pub,
                         struct midge_outbox *outbox, const struct midge_frame *frame,
                         uint32_t frame_len, struct midge_slice body)
{
    uint8_t *at;

    if (pub->msg == NULL) {
        at = midge_outbox_append(outbox, &shard->spares, frame_len + body.len + 2);
        at = midge_encode_frame(at, frame);
        memcpy(at, body.base, body.len);
        memcpy(at + body.len, "\r\n", 2);
    } else {
        at = midge_outbox_append(outbox, &shard->spares, frame_len);
        (void)midge_encode_frame(at, frame);
        midge_outbox_append_msg(outbox, &shard->spares, pub->msg,
                                midge_slice_make(body.base, body.len + 2));
    }
    midge_outbox_count_msg(outbox, body.len);
}

/* Count one delivery of the subscription; the one that reaches max ends it. Under the outbox lock.
 */
static void count_delivery(struct midge_shard *shard, struct midge_sub *sub)
{
    struct midge_conn *conn = sub->conn;

    sub->delivered++;
    if (sub->max == 0 || sub->delivered < sub->max)
        return;
    sub->live = false;
    sub->expired = true;
    sub->next_expired = conn->expired;
    conn->expired = sub;
    midge_shard_request(shard, conn, MIDGE_REQUEST_EXPIRED);
}

static uint64_t write_deadline_ns(const struct midge_shard *shard)
{
    return shard->config->write_deadline_ms * 1000000ull;
}

static void note_fill(const struct midge_shard *shard, struct publication *pub,
                      struct midge_conn *conn)
{
    struct midge_outbox *outbox = &conn->outbox;
    struct midge_pause_target target = {conn->index, outbox->generation, 0};

    pub->appended++;
    /* Nobody is held back for himself: a client may write all before it reads. */
    if (MIDGE_UNLIKELY(conn == pub->conn))
        return;
    if (MIDGE_LIKELY(outbox->pending_bytes <=
                     outbox->pending_bytes_max / MIDGE_PENDING_HIGH_DIVISOR)) {
        pub->ahead++;
        return;
    }
    pub->behind++;
    target.mark_bytes = outbox->pending_bytes_max / MIDGE_PENDING_LOW_DIVISOR;
    if (pub->pause.target_count < MIDGE_PAUSE_TARGETS_MAX)
        pub->pause.targets[pub->pause.target_count++] = target;
    else
        pub->pause.any = true;
    if (midge_outbox_is_worth_a_wait(outbox, write_deadline_ns(shard), shard->now_ns)) {
        target.mark_bytes = outbox->pending_bytes_max / 2;
        pub->wait_until_ns = outbox->wait_until_ns;
        pub->wait_target = target;
    }
    midge_outbox_watch(outbox, shard->index, target.mark_bytes);
}

static void note_partners(struct midge_conn *from, struct midge_conn *to)
{
    if (MIDGE_UNLIKELY(from == to))
        return;
    from->last_to = to->index;
    atomic_store_explicit(&to->outbox.last_from, from->index, memory_order_relaxed);
}

/* The one place where a subscription gets a message. Under the outbox lock. */
static enum outcome deliver_locked(struct midge_shard *shard, struct publication *pub,
                                   struct midge_sub *sub)
{
    struct midge_conn *conn = sub->conn;
    struct midge_outbox *outbox = &conn->outbox;
    struct midge_frame frame;
    struct midge_slice body;
    uint32_t frame_len;

    if (outbox->sub_generation != sub->generation)
        return OUTCOME_NOT_A_TARGET;
    if (outbox->closing)
        return OUTCOME_CLOSING;
    if (!sub->live || (conn == pub->conn && !conn->echo))
        return OUTCOME_NOT_A_TARGET;
    body = make_frame(pub, outbox->headers, &frame);
    frame.sid = midge_sub_sid(sub);
    frame_len = (outbox->headers ? pub->frame_len : pub->plain_frame_len) + frame.sid.len;
    if (midge_outbox_is_over(outbox, (uint64_t)frame_len + body.len + 2)) {
        midge_shard_request_close(shard, conn, MIDGE_E_SLOW_PENDING);
        return OUTCOME_SLOW;
    }
    if (MIDGE_UNLIKELY(!outbox->shared && midge_conn_owner(conn) != shard))
        outbox->shared = true;
    append_frame(shard, pub, outbox, &frame, frame_len, body);
    count_delivery(shard, sub);
    note_partners(pub->conn, conn);
    note_fill(shard, pub, conn);
    midge_shard_mark_dirty(shard, conn);
    return OUTCOME_APPENDED;
}

static void trace_delivery(struct midge_shard *shard, const struct publication *pub,
                           const struct midge_sub *sub)
{
    struct midge_frame frame;
    uint8_t line[512];

    (void)make_frame(pub, true, &frame);
    frame.sid = midge_sub_sid(sub);
    if (midge_encode_frame_len(&frame) > sizeof(line))
        return;
    (void)midge_encode_frame(line, &frame);
    midge_trace_out(shard, sub->conn, midge_slice_make(line, midge_encode_frame_len(&frame) - 2));
}

static enum outcome deliver(struct midge_shard *shard, struct publication *pub,
                            struct midge_sub *sub)
{
    struct midge_conn *conn = sub->conn;
    /* Room for the longer form: whether the subscriber takes headers is known under the lock only.
     */
    const uint32_t frame_len = pub->frame_len + midge_sub_sid(sub).len;
    enum outcome outcome;

    if (MIDGE_UNLIKELY(!midge_spares_fill(&shard->spares, &shard->pool,
                                          frame_len + (pub->msg == NULL ? pub->body.len + 2 : 0))))
        return OUTCOME_MEMORY;
    midge_outbox_lock(&conn->outbox);
    outcome = deliver_locked(shard, pub, sub);
    midge_outbox_unlock(&conn->outbox);
    if (outcome == OUTCOME_APPENDED &&
        MIDGE_UNLIKELY(midge_log_enabled(shard->log, MIDGE_LOG_TRACE)))
        trace_delivery(shard, pub, sub);
    return outcome;
}

/* Count what became of one matched target. */
static void count_outcome(struct midge_shard *shard, enum outcome outcome, uint32_t body_len)
{
    struct midge_stats *stats = &shard->stats;

    switch (outcome) {
    case OUTCOME_NOT_A_TARGET:
        return;
    case OUTCOME_APPENDED:
        midge_stats_add(&stats->out_msgs, 1);
        midge_stats_add(&stats->out_bytes, body_len);
        break;
    case OUTCOME_CLOSING:
        midge_stats_add(&stats->dropped_closing, 1);
        break;
    case OUTCOME_SLOW:
        midge_stats_add(&stats->dropped_slow, 1);
        break;
    case OUTCOME_MEMORY:
        midge_stats_add(&stats->dropped_memory, 1);
        break;
    }
    midge_stats_add(&stats->matched, 1);
}

/* Deliver to one member: a uniform pick over all patterns, then around the group until one takes
 * it. */
static void deliver_to_queue(struct midge_shard *shard, struct publication *pub,
                             const struct midge_match *match, const struct midge_queue_match *queue)
{
    const struct midge_subset *sets = match->queue_sets + queue->set_first;
    enum outcome result = OUTCOME_NOT_A_TARGET;
    uint32_t set_index = 0;
    uint32_t at;

    /* Multiply-shift: uniform to within member_count / 2^32. */
    at = (uint32_t)(((midge_ring_random(shard->ring) & UINT32_MAX) * queue->member_count) >> 32);
    while (at >= sets[set_index].count)
        at -= sets[set_index++].count;
    for (uint32_t tried = 0; tried < queue->member_count; tried++) {
        const enum outcome outcome = deliver(shard, pub, sets[set_index].subs[at]);

        if (outcome == OUTCOME_APPENDED) {
            result = outcome;
            break;
        }
        if (outcome != OUTCOME_NOT_A_TARGET)
            result = outcome;
        if (++at == sets[set_index].count) {
            at = 0;
            set_index = set_index + 1 == queue->set_count ? 0 : set_index + 1;
        }
    }
    count_outcome(shard, result, pub->body.len);
}

/* Append the 503 if this is a plain subscription of the requester that is still there. */
static bool reply_no_responders(struct midge_shard *shard, const struct publication *pub,
                                struct midge_sub *sub)
{
    struct midge_conn *conn = pub->conn;
    const struct midge_slice sid = midge_sub_sid(sub);
    const uint32_t len = midge_encode_no_responders_len(pub->reply, sid, pub->subject);
    bool appended = false;

    if (!midge_spares_fill(&shard->spares, &shard->pool, len))
        return false;
    midge_outbox_lock(&conn->outbox);
    if (conn->outbox.sub_generation == sub->generation && !conn->outbox.closing && sub->live &&
        !midge_outbox_is_over(&conn->outbox, len)) {
        (void)midge_encode_no_responders(midge_outbox_append(&conn->outbox, &shard->spares, len),
                                         pub->reply, sid, pub->subject);
        midge_shard_mark_dirty(shard, conn);
        appended = true;
    }
    midge_outbox_unlock(&conn->outbox);
    return appended;
}

/* Source: nats-server v2.15.2, server/client.go:4590. */
static void no_responders(struct midge_shard *shard, const struct publication *pub)
{
    const struct midge_match *match =
        midge_subindex_match(shard->reader, MIDGE_ACCOUNT_DEFAULT, pub->reply);

    for (uint32_t set = 0; set < match->plain_set_count; set++) {
        for (uint32_t i = 0; i < match->plain_sets[set].count; i++) {
            struct midge_sub *sub = match->plain_sets[set].subs[i];

            if (sub->conn == pub->conn && reply_no_responders(shard, pub, sub)) {
                midge_stats_add(&shard->stats.no_responders, 1);
                return;
            }
        }
    }
}

static bool has_prefix(struct midge_slice subject, const char *prefix)
{
    return midge_slice_starts_with(subject, midge_slice_text(prefix));
}

/* Subjects that a client may not publish to, or name as reply.
 * Source: nats-server v2.15.2, server/client.go:4387 isReservedReply, 4436, 4460; server/gateway.go
 * hasGWRoutedReplyPrefix; server/jetstream_api.go jsAckPre. */
static bool is_refused(struct midge_shard *shard, const struct publication *pub)
{
    const struct midge_slice subject = pub->subject;
    const struct midge_slice reply = pub->reply;

    if (MIDGE_LIKELY(subject.base[0] != '_' && subject.base[0] != '$' &&
                     (reply.len == 0 || (reply.base[0] != '_' && reply.base[0] != '$'))))
        return false;
    if (has_prefix(subject, "_GR_.") || has_prefix(subject, "$GR.") ||
        has_prefix(subject, "$NRG.")) {
        midge_violation_send(shard, pub->conn, "Permissions Violation for Publish to", subject,
                             midge_slice_make(NULL, 0), "");
        return true;
    }
    if (reply.len > 0 &&
        (has_prefix(reply, "_R_.") || has_prefix(reply, "_GR_.") || has_prefix(reply, "$GR.") ||
         (has_prefix(reply, "$JS.ACK.") && reply.len > strlen("$JS.ACK.")))) {
        midge_violation_send(shard, pub->conn, "Permissions Violation for Publish with Reply of",
                             reply, midge_slice_make(NULL, 0), "");
        return true;
    }
    return false;
}

static void deliver_to_all(struct midge_shard *shard, struct publication *pub)
{
    const struct midge_match *match =
        midge_subindex_match(shard->reader, MIDGE_ACCOUNT_DEFAULT, pub->subject);

    if (match->plain_set_count == 0 && match->queue_count == 0)
        midge_stats_add(&shard->stats.no_interest, 1);
    for (uint32_t set = 0; set < match->plain_set_count; set++) {
        for (uint32_t i = 0; i < match->plain_sets[set].count; i++)
            count_outcome(shard, deliver(shard, pub, match->plain_sets[set].subs[i]),
                          pub->body.len);
    }
    for (uint32_t queue = 0; queue < match->queue_count; queue++)
        deliver_to_queue(shard, pub, match, &match->queues[queue]);
}

/* Read the publisher no further for now, if all its recipients are behind, or if one that keeps up
 * more or less is about to be closed. */
static void hold_back(struct midge_shard *shard, struct publication *pub)
{
    struct midge_conn *conn = pub->conn;

    if (pub->ahead == 0) {
        pub->pause.until_ns = shard->now_ns + write_deadline_ns(shard);
    } else if (pub->wait_until_ns != 0) {
        pub->pause.until_ns = pub->wait_until_ns;
        pub->pause.targets[0] = pub->wait_target;
        pub->pause.target_count = 1;
        pub->pause.any = false;
    } else {
        return;
    }
    midge_conn_pause(shard, conn, &pub->pause);
}

static void route(struct midge_shard *shard, struct publication *pub)
{
    struct midge_conn *conn = pub->conn;

    conn->in_ops++;
    conn->in_msgs++;
    conn->in_bytes += pub->body.len;
    midge_stats_add(&shard->stats.in_msgs, 1);
    midge_stats_add(&shard->stats.in_bytes, pub->body.len);
    if (MIDGE_UNLIKELY(is_refused(shard, pub)))
        return;
    if (conn->verbose)
        (void)midge_conn_enqueue(shard, conn, MIDGE_SLICE_LITERAL("+OK\r\n"));
    measure_frames(pub);
    pub->pause.target_count = 0;
    pub->pause.any = false;
    pub->appended = 0;
    pub->behind = 0;
    pub->ahead = 0;
    pub->wait_until_ns = 0;
    deliver_to_all(shard, pub);
    conn->work += pub->appended + (1ull + pub->appended) * pub->body.len / MIDGE_WORK_BYTES;
    if (pub->appended == 0 && pub->reply.len > 0 && conn->no_responders)
        no_responders(shard, pub);
    if (MIDGE_UNLIKELY(pub->behind > 0) && !shard->config->no_fast_producer_stall)
        hold_back(shard, pub);
}

void midge_dispatch_publish_msg(struct midge_shard *shard, struct midge_conn *conn,
                                struct midge_msg *msg)
{
    struct publication pub;

    MIDGE_ASSERT(msg->filled_len == msg->total_len);

    pub.conn = conn;
    pub.subject = msg->subject;
    pub.reply = msg->reply;
    pub.header_text = msg->header_text;
    pub.size_text = msg->size_text;
    pub.body = midge_slice_make(msg->body, msg->total_len);
    pub.msg = msg->total_len > MIDGE_COPY_LEN_MAX ? msg : NULL;
    pub.header_len = msg->header_len;
    if (MIDGE_UNLIKELY(midge_log_enabled(shard->log, MIDGE_LOG_TRACE)))
        midge_trace_payload(shard, conn, pub.body);
    route(shard, &pub);
}

void midge_dispatch_publish(struct midge_shard *shard, struct midge_conn *conn,
                            const struct midge_op *op)
{
    struct publication pub;

    MIDGE_ASSERT(op->payload_whole);
    MIDGE_ASSERT(op->payload.len == op->total_len);

    if (op->total_len > MIDGE_COPY_LEN_MAX) {
        struct midge_msg *msg = midge_msg_create(&shard->pool, op);

        if (msg == NULL) {
            midge_conn_close(shard, conn, MIDGE_E_MEMORY);
            return;
        }
        midge_msg_fill(msg, op->payload);
        midge_dispatch_publish_msg(shard, conn, msg);
        midge_msg_release(msg, &shard->pool);
        return;
    }
    pub.conn = conn;
    pub.subject = midge_slice_copy(&op->subject);
    pub.reply = midge_slice_copy(&op->reply);
    pub.header_text = midge_slice_copy(&op->header_text);
    pub.size_text = midge_slice_copy(&op->size_text);
    pub.body = midge_slice_copy(&op->payload);
    pub.msg = NULL;
    pub.header_len = op->header_len;
    route(shard, &pub);
}
