/* From a message to its targets; see dispatch.h. */
#include "dispatch.h"

#include "conn.h"
#include "midge/encode.h"
#include "midge/subject.h"
#include "shard.h"
#include "trace.h"
#include "violation.h"

/* Messages on their way, of one publisher and to one subject. All borrowed for the call. */
struct publication {
    struct midge_conn *conn; /* the publisher */
    struct midge_slice subject;
    const struct midge_run_msg *msgs;
    uint32_t msg_count;
    uint32_t room_len;        /* bytes that all of them need in one outbox, without sids */
    uint64_t body_len;        /* of all of them */
    struct midge_msg *holder; /* holds the body and its CRLF of a single one, or NULL */
    struct midge_pause pause; /* recipients that are behind */
    uint64_t appended;        /* deliveries */
    uint64_t appended_bytes;  /* of headers and payload of those */
    uint32_t behind;          /* recipients, but for the publisher, left over the high mark */
    uint32_t ahead;           /* … and those that were not */
    uint64_t wait_until_ns;   /* for one that is close to max_pending though it reads; 0 = none */
    struct midge_pause_target wait_target;
};

enum outcome {
    OUTCOME_APPENDED = 0,
    OUTCOME_NOT_A_TARGET, /* gone, unsubscribed, at its max, or the publisher itself without echo */
    OUTCOME_CLOSING,
    OUTCOME_SLOW,
    OUTCOME_MEMORY,
};

/* What became of messages that one subscription was to get: `count` were appended, `body_len`
 * bytes; then the first that was not had this outcome. */
struct delivery {
    uint32_t count;
    uint64_t body_len;
    enum outcome outcome; /* OUTCOME_APPENDED: none was refused */
};

/* What a subscriber gets to see: the frame but for its sid, and the part of the body that follows.
 */
static struct midge_slice make_frame(struct midge_slice subject, const struct midge_run_msg *msg,
                                     bool headers, struct midge_frame *frame)
{
    frame->subject = subject;
    frame->reply = midge_slice_copy(&msg->reply);
    frame->sid = midge_slice_make(NULL, 0);
    if (msg->header_len == 0 || headers) {
        frame->header_text = msg->header_len > 0 ? msg->header_text : midge_slice_make(NULL, 0);
        frame->size_text = midge_slice_copy(&msg->size_text);
        return midge_slice_copy(&msg->body);
    }
    frame->header_text = midge_slice_make(NULL, 0);
    frame->size_text = midge_slice_make(msg->plain_size_text, msg->plain_size_len);
    return midge_slice_make(msg->body.base + msg->header_len, msg->body.len - msg->header_len);
}

/* Both forms are measured once for all subscribers. */
static void measure_frames(struct midge_slice subject, struct midge_run_msg *msg)
{
    struct midge_frame frame;

    (void)make_frame(subject, msg, true, &frame);
    msg->frame_len = midge_encode_frame_len(&frame);
    msg->plain_frame_len = msg->frame_len;
    if (msg->header_len == 0)
        return;
    msg->plain_size_len =
        midge_encode_decimal(msg->plain_size_text, msg->body.len - msg->header_len);
    (void)make_frame(subject, msg, false, &frame);
    msg->plain_frame_len = midge_encode_frame_len(&frame);
}

/* Write one delivery. Under the outbox lock, after the checks. */
static void append_frame(struct midge_shard *shard, const struct publication *pub,
                         struct midge_outbox *outbox, const struct midge_frame *frame,
                         uint32_t frame_len, struct midge_slice body)
{
    uint8_t *at;

    if (pub->holder == NULL) {
        at = midge_outbox_append(outbox, &shard->spares, frame_len + body.len + 2);
        at = midge_encode_frame(at, frame);
        memcpy(at, body.base, body.len);
        memcpy(at + body.len, "\r\n", 2);
    } else {
        at = midge_outbox_append(outbox, &shard->spares, frame_len);
        (void)midge_encode_frame(at, frame);
        midge_outbox_append_msg(outbox, &shard->spares, pub->holder,
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
static enum outcome append_locked(struct midge_shard *shard, const struct publication *pub,
                                  const struct midge_run_msg *msg, struct midge_sub *sub)
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
    body = make_frame(pub->subject, msg, outbox->headers, &frame);
    frame.sid = midge_sub_sid(sub);
    frame_len = (outbox->headers ? msg->frame_len : msg->plain_frame_len) + frame.sid.len;
    if (midge_outbox_is_over(outbox, (uint64_t)frame_len + body.len + 2)) {
        midge_shard_request_close(shard, conn, MIDGE_E_SLOW_PENDING);
        return OUTCOME_SLOW;
    }
    append_frame(shard, pub, outbox, &frame, frame_len, body);
    count_delivery(shard, sub);
    return OUTCOME_APPENDED;
}

/* Under the outbox lock. */
static struct delivery deliver_locked(struct midge_shard *shard, struct publication *pub,
                                      uint32_t first, uint32_t count, struct midge_sub *sub)
{
    struct delivery delivery = {0};
    struct midge_conn *conn = sub->conn;

    for (; delivery.count < count; delivery.count++) {
        const struct midge_run_msg *msg = &pub->msgs[first + delivery.count];

        delivery.outcome = append_locked(shard, pub, msg, sub);
        if (delivery.outcome != OUTCOME_APPENDED)
            break;
        delivery.body_len += msg->body.len;
    }
    if (delivery.count == 0)
        return delivery;
    if (MIDGE_UNLIKELY(!conn->outbox.shared && midge_conn_owner(conn) != shard))
        conn->outbox.shared = true;
    note_partners(pub->conn, conn);
    note_fill(shard, pub, conn);
    midge_shard_mark_dirty(shard, conn);
    return delivery;
}

static void trace_delivery(struct midge_shard *shard, const struct publication *pub,
                           const struct midge_run_msg *msg, const struct midge_sub *sub)
{
    struct midge_frame frame;
    uint8_t line[512];

    (void)make_frame(pub->subject, msg, true, &frame);
    frame.sid = midge_sub_sid(sub);
    if (midge_encode_frame_len(&frame) > sizeof(line))
        return;
    (void)midge_encode_frame(line, &frame);
    midge_trace_out(shard, sub->conn, midge_slice_make(line, midge_encode_frame_len(&frame) - 2));
}

/* Append messages of the publication in a row. */
static struct delivery deliver(struct midge_shard *shard, struct publication *pub, uint32_t first,
                               uint32_t count, struct midge_sub *sub)
{
    struct midge_conn *conn = sub->conn;
    struct delivery delivery = {.outcome = OUTCOME_MEMORY};

    /* Room for the longer form: whether the subscriber takes headers is known under the lock only.
     */
    if (MIDGE_UNLIKELY(!midge_spares_fill(&shard->spares, &shard->pool,
                                          pub->room_len + count * midge_sub_sid(sub).len)))
        return delivery;
    midge_outbox_lock(&conn->outbox);
    delivery = deliver_locked(shard, pub, first, count, sub);
    midge_outbox_unlock(&conn->outbox);
    pub->appended += delivery.count;
    pub->appended_bytes += delivery.body_len;
    if (MIDGE_UNLIKELY(midge_log_enabled(shard->log, MIDGE_LOG_TRACE))) {
        for (uint32_t i = 0; i < delivery.count; i++)
            trace_delivery(shard, pub, &pub->msgs[first + i], sub);
    }
    return delivery;
}

/* Count targets that got nothing. */
static void count_dropped(struct midge_stats *stats, enum outcome outcome, uint32_t count)
{
    switch (outcome) {
    case OUTCOME_APPENDED:
    case OUTCOME_NOT_A_TARGET:
        return;
    case OUTCOME_CLOSING:
        midge_stats_add(&stats->dropped_closing, count);
        break;
    case OUTCOME_SLOW:
        midge_stats_add(&stats->dropped_slow, count);
        break;
    case OUTCOME_MEMORY:
        midge_stats_add(&stats->dropped_memory, count);
        break;
    }
    midge_stats_add(&stats->matched, count);
}

/* Deliver to a plain subscription, and count what became of each message. */
static void deliver_plain(struct midge_shard *shard, struct publication *pub, uint32_t first,
                          uint32_t count, struct midge_sub *sub)
{
    const struct delivery delivery = deliver(shard, pub, first, count, sub);
    uint32_t left = count - delivery.count;

    if (MIDGE_LIKELY(left == 0))
        return;
    if (delivery.outcome == OUTCOME_SLOW) {
        count_dropped(&shard->stats, OUTCOME_SLOW, 1);
        /* It is closing from there on. */
        count_dropped(&shard->stats, OUTCOME_CLOSING, left - 1);
        return;
    }
    count_dropped(&shard->stats, delivery.outcome, left);
}

/* Deliver to one member: a uniform pick over all patterns, then around the group until one takes
 * it. */
static void deliver_to_queue(struct midge_shard *shard, struct publication *pub, uint32_t msg_index,
                             const struct midge_match *match, const struct midge_queue_match *queue)
{
    const struct midge_subset *sets = match->queue_sets + queue->set_first;
    enum outcome dropped = OUTCOME_NOT_A_TARGET;
    uint32_t set_index = 0;
    uint32_t at;

    /* Multiply-shift: uniform to within member_count / 2^32. */
    at = (uint32_t)(((midge_ring_random(shard->ring) & UINT32_MAX) * queue->member_count) >> 32);
    while (at >= sets[set_index].count)
        at -= sets[set_index++].count;
    for (uint32_t tried = 0; tried < queue->member_count; tried++) {
        const enum outcome outcome =
            deliver(shard, pub, msg_index, 1, sets[set_index].subs[at]).outcome;

        if (outcome == OUTCOME_APPENDED)
            return;
        if (outcome != OUTCOME_NOT_A_TARGET)
            dropped = outcome;
        if (++at == sets[set_index].count) {
            at = 0;
            set_index = set_index + 1 == queue->set_count ? 0 : set_index + 1;
        }
    }
    count_dropped(&shard->stats, dropped, 1);
}

/* Append the 503 if this is a plain subscription of the requester that is still there. */
static bool reply_no_responders(struct midge_shard *shard, const struct publication *pub,
                                struct midge_sub *sub)
{
    struct midge_conn *conn = pub->conn;
    const struct midge_slice sid = midge_sub_sid(sub);
    const struct midge_slice reply = pub->msgs->reply;
    const uint32_t len = midge_encode_no_responders_len(reply, sid, pub->subject);
    bool appended = false;

    if (!midge_spares_fill(&shard->spares, &shard->pool, len))
        return false;
    midge_outbox_lock(&conn->outbox);
    if (conn->outbox.sub_generation == sub->generation && !conn->outbox.closing && sub->live &&
        !midge_outbox_is_over(&conn->outbox, len)) {
        (void)midge_encode_no_responders(midge_outbox_append(&conn->outbox, &shard->spares, len),
                                         reply, sid, pub->subject);
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
        midge_subindex_match(shard->reader, MIDGE_ACCOUNT_DEFAULT, pub->msgs->reply);

    MIDGE_ASSERT(pub->msg_count == 1);
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
    const struct midge_slice reply = pub->msgs->reply;

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

static void deliver_some(struct midge_shard *shard, struct publication *pub, uint32_t first,
                         uint32_t count, const struct midge_match *match)
{
    for (uint32_t set = 0; set < match->plain_set_count; set++) {
        for (uint32_t i = 0; i < match->plain_sets[set].count; i++)
            deliver_plain(shard, pub, first, count, match->plain_sets[set].subs[i]);
    }
    for (uint32_t queue = 0; queue < match->queue_count; queue++)
        deliver_to_queue(shard, pub, first, match, &match->queues[queue]);
}

/* True if every target may take all messages before the next target gets any. No connection gets
 * two copies of a message then, so it does not see the difference. And no sid is so long that 64 of
 * them were much to write under a lock. */
static bool may_take_runs(struct midge_shard *shard, const struct midge_match *match)
{
    if (match->queue_count > 0)
        return false;
    shard->run_number++;
    for (uint32_t set = 0; set < match->plain_set_count; set++) {
        for (uint32_t i = 0; i < match->plain_sets[set].count; i++) {
            const struct midge_sub *sub = match->plain_sets[set].subs[i];
            uint64_t *mark = &shard->run_marks[sub->conn->index];

            if (*mark == shard->run_number || midge_sub_sid(sub).len > MIDGE_RUN_SID_LEN_MAX)
                return false;
            *mark = shard->run_number;
        }
    }
    return true;
}

static void deliver_to_all(struct midge_shard *shard, struct publication *pub)
{
    const struct midge_match *match =
        midge_subindex_match(shard->reader, MIDGE_ACCOUNT_DEFAULT, pub->subject);

    if (match->plain_set_count == 0 && match->queue_count == 0) {
        midge_stats_add(&shard->stats.no_interest, pub->msg_count);
        return;
    }
    if (pub->msg_count == 1 || may_take_runs(shard, match)) {
        deliver_some(shard, pub, 0, pub->msg_count, match);
    } else {
        for (uint32_t i = 0; i < pub->msg_count; i++)
            deliver_some(shard, pub, i, 1, match);
    }
    midge_stats_add(&shard->stats.matched, pub->appended);
    midge_stats_add(&shard->stats.out_msgs, pub->appended);
    midge_stats_add(&shard->stats.out_bytes, pub->appended_bytes);
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

    conn->in_ops += pub->msg_count;
    conn->in_msgs += pub->msg_count;
    conn->in_bytes += pub->body_len;
    midge_stats_add(&shard->stats.in_msgs, pub->msg_count);
    midge_stats_add(&shard->stats.in_bytes, pub->body_len);
    if (MIDGE_UNLIKELY(is_refused(shard, pub)))
        return;
    if (conn->verbose)
        (void)midge_conn_enqueue(shard, conn, MIDGE_SLICE_LITERAL("+OK\r\n"));
    pub->pause.target_count = 0;
    pub->pause.any = false;
    pub->appended = 0;
    pub->appended_bytes = 0;
    pub->behind = 0;
    pub->ahead = 0;
    pub->wait_until_ns = 0;
    deliver_to_all(shard, pub);
    conn->work += pub->appended + (pub->body_len + pub->appended_bytes) / MIDGE_WORK_BYTES;
    if (pub->appended == 0 && pub->msgs->reply.len > 0 && conn->no_responders)
        no_responders(shard, pub);
    if (MIDGE_UNLIKELY(pub->behind > 0) && !shard->config->no_fast_producer_stall)
        hold_back(shard, pub);
}

/* One message that is not part of a run. @param holder  holds the body, or NULL */
static void route_one(struct midge_shard *shard, struct midge_conn *conn,
                      struct midge_slice subject, struct midge_run_msg *msg,
                      struct midge_msg *holder)
{
    struct publication pub;

    measure_frames(subject, msg);
    pub.conn = conn;
    pub.subject = subject;
    pub.msgs = msg;
    pub.msg_count = 1;
    pub.room_len = msg->frame_len + (holder == NULL ? msg->body.len + 2 : 0);
    pub.body_len = msg->body.len;
    pub.holder = holder;
    route(shard, &pub);
}

void midge_dispatch_end_run(struct midge_shard *shard)
{
    struct midge_run *run = &shard->run;
    struct publication pub;

    if (run->count == 0)
        return;
    pub.conn = run->conn;
    pub.subject = midge_slice_copy(&run->subject);
    pub.msgs = run->msgs;
    pub.msg_count = run->count;
    pub.room_len = run->room_len;
    pub.body_len = run->body_len;
    pub.holder = NULL;
    run->count = 0;
    route(shard, &pub);
}

static void set_msg(struct midge_run_msg *msg, const struct midge_op *op)
{
    msg->reply = midge_slice_copy(&op->reply);
    msg->header_text = midge_slice_copy(&op->header_text);
    msg->size_text = midge_slice_copy(&op->size_text);
    msg->body = midge_slice_copy(&op->payload);
    msg->header_len = op->header_len;
}

/* True if the message may wait for others to the same subject: nothing but its deliveries comes of
 * it, and its bytes stay where they are. */
static bool may_join(const struct midge_shard *shard, const struct midge_conn *conn,
                     const struct midge_op *op)
{
    const uint8_t *line = conn->parser.line;

    return op->reply.len == 0 && op->subject.base[0] != '_' && op->subject.base[0] != '$' &&
           !conn->verbose && !midge_log_enabled(shard->log, MIDGE_LOG_TRACE) &&
           (line == NULL || op->subject.base < line ||
            op->subject.base >= line + conn->parser.line_cap);
}

static uint64_t room_max(const struct midge_shard *shard)
{
    const uint64_t part = shard->config->pending_bytes_max / MIDGE_RUN_PENDING_DIVISOR;

    return part < MIDGE_COPY_LEN_MAX ? part : MIDGE_COPY_LEN_MAX;
}

/* Put the message into the run, behind those to the same subject. */
static void join_run(struct midge_shard *shard, struct midge_conn *conn, const struct midge_op *op)
{
    struct midge_run *run = &shard->run;
    struct midge_run_msg *msg;
    uint32_t room_len;

    if (run->count > 0 && !midge_slice_equal(run->subject, op->subject)) {
        midge_subindex_expect(shard->reader, MIDGE_ACCOUNT_DEFAULT, op->subject);
        midge_dispatch_end_run(shard);
    } else if (run->count == MIDGE_RUN_MSGS_MAX) {
        midge_dispatch_end_run(shard);
    }
    msg = &run->msgs[run->count];
    set_msg(msg, op);
    measure_frames(op->subject, msg);
    room_len = msg->frame_len + msg->body.len + 2;
    if (run->count > 0 && run->room_len + room_len > room_max(shard)) {
        midge_dispatch_end_run(shard);
        run->msgs[0] = *msg;
    }
    if (run->count == 0) {
        run->conn = conn;
        run->subject = midge_slice_copy(&op->subject);
        run->room_len = 0;
        run->body_len = 0;
    }
    MIDGE_DEBUG_ASSERT(run->conn == conn);
    run->room_len += room_len;
    run->body_len += op->total_len;
    run->count++;
}

void midge_dispatch_publish_msg(struct midge_shard *shard, struct midge_conn *conn,
                                struct midge_msg *msg)
{
    struct midge_run_msg one = {
        .reply = msg->reply,
        .header_text = msg->header_text,
        .size_text = msg->size_text,
        .body = midge_slice_make(msg->body, msg->total_len),
        .header_len = msg->header_len,
    };

    MIDGE_ASSERT(msg->filled_len == msg->total_len);

    if (MIDGE_UNLIKELY(midge_log_enabled(shard->log, MIDGE_LOG_TRACE)))
        midge_trace_payload(shard, conn, one.body);
    route_one(shard, conn, msg->subject, &one, msg->total_len > MIDGE_COPY_LEN_MAX ? msg : NULL);
}

void midge_dispatch_publish(struct midge_shard *shard, struct midge_conn *conn,
                            const struct midge_op *op)
{
    struct midge_run_msg one;

    MIDGE_ASSERT(op->payload_whole);
    MIDGE_ASSERT(op->payload.len == op->total_len);

    if (op->total_len > MIDGE_COPY_LEN_MAX) {
        struct midge_msg *msg = midge_msg_create(&shard->pool, op);

        midge_dispatch_end_run(shard);
        if (msg == NULL) {
            midge_conn_close(shard, conn, MIDGE_E_MEMORY);
            return;
        }
        midge_msg_fill(msg, op->payload);
        midge_dispatch_publish_msg(shard, conn, msg);
        midge_msg_release(msg, &shard->pool);
        return;
    }
    if (MIDGE_LIKELY(may_join(shard, conn, op))) {
        join_run(shard, conn, op);
        return;
    }
    midge_dispatch_end_run(shard);
    set_msg(&one, op);
    route_one(shard, conn, op->subject, &one, NULL);
}
