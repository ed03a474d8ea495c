/* The bounded send queue of one connection; see outbox.h. */
#include "outbox.h"

#include <sched.h>

/* Pauses before a waiter gives its core away: an append takes well under a microsecond, so a lock
 * held longer belongs to a thread that lost its core. */
#define LOCK_PAUSES 32u

void midge_outbox_init(struct midge_outbox *outbox, uint32_t generation, uint64_t pending_bytes_max)
{
    MIDGE_ASSERT(outbox->head == NULL);

    midge_outbox_lock(outbox);
    MIDGE_ASSERT(!outbox->queued);
    outbox->generation = generation;
    outbox->sub_generation++;
    outbox->flush_shard = MIDGE_FLUSH_FREE;
    outbox->requests = 0;
    outbox->queued = false;
    outbox->closing = false;
    outbox->blocked = false;
    outbox->in_flight = false;
    outbox->shared = false;
    outbox->headers = false;
    outbox->memory_pick = false;
    outbox->owner_sends = false;
    atomic_store_explicit(&outbox->last_from, MIDGE_BALANCE_NONE, memory_order_relaxed);
    outbox->watch_shard = MIDGE_WATCH_MANY;
    outbox->tail = NULL;
    outbox->pending_bytes = 0;
    outbox->pending_bytes_max = pending_bytes_max;
    outbox->appended_bytes = 0;
    outbox->watch_mark_bytes = 0;
    outbox->worth_mark_bytes = 0;
    outbox->wait_until_ns = 0;
    outbox->wait_since_ns = 0;
    outbox->stalled_at_ns = 0;
    outbox->stall_mark_bytes = 0;
    outbox->out_msgs = 0;
    outbox->out_bytes = 0;
    outbox->close_status = MIDGE_OK;
    midge_outbox_unlock(outbox);
}

void midge_outbox_lock(struct midge_outbox *outbox)
{
    uint32_t pauses = 0;

    /* Acquire pairs with the release in unlock(). */
    while (atomic_exchange_explicit(&outbox->lock, 1, memory_order_acquire) != 0) {
        while (atomic_load_explicit(&outbox->lock, memory_order_relaxed) != 0) {
            if (++pauses % LOCK_PAUSES == 0)
                (void)sched_yield();
            else
                midge_cpu_pause();
        }
    }
}

void midge_outbox_unlock(struct midge_outbox *outbox)
{
    /* Release pairs with the acquire in lock(). */
    atomic_store_explicit(&outbox->lock, 0, memory_order_release);
}

static struct midge_segment *segment_create(struct midge_pool *pool, uint32_t block_len)
{
    struct midge_segment *segment;
    uint32_t cap;

    segment = midge_pool_alloc(pool, block_len, &cap);
    if (segment == NULL)
        return NULL;
    segment->next = NULL;
    segment->base = (uint8_t *)(segment + 1);
    segment->msg = NULL;
    segment->len = 0;
    segment->cap = cap - (uint32_t)sizeof(*segment);
    segment->off = 0;
    segment->msg_count = 0;
    segment->block_cap = cap;
    return segment;
}

static void segment_destroy(struct midge_segment *segment, struct midge_pool *pool)
{
    if (segment->msg != NULL)
        midge_msg_release(segment->msg, pool);
    midge_pool_free(pool, segment, segment->block_cap);
}

bool midge_spares_fill(struct midge_spares *spares, struct midge_pool *pool, uint32_t len)
{
    const uint32_t header_len = (uint32_t)sizeof(struct midge_segment);

    if (MIDGE_UNLIKELY(spares->small == NULL)) {
        spares->small = segment_create(pool, MIDGE_SEGMENT_SMALL_LEN);
        if (spares->small == NULL)
            return false;
    }
    if (MIDGE_UNLIKELY(spares->view == NULL)) {
        spares->view = segment_create(pool, header_len);
        if (spares->view == NULL)
            return false;
    }
    if (MIDGE_UNLIKELY(spares->large != NULL && spares->large->cap < len)) {
        segment_destroy(spares->large, pool);
        spares->large = NULL;
    }
    if (MIDGE_UNLIKELY(spares->large == NULL)) {
        const uint32_t want =
            len + header_len > MIDGE_SEGMENT_LARGE_LEN ? len + header_len : MIDGE_SEGMENT_LARGE_LEN;

        if (want < len)
            return false;
        spares->large = segment_create(pool, want);
    }
    return spares->large != NULL;
}

void midge_spares_deinit(struct midge_spares *spares, struct midge_pool *pool)
{
    if (spares->small != NULL)
        segment_destroy(spares->small, pool);
    if (spares->large != NULL)
        segment_destroy(spares->large, pool);
    if (spares->view != NULL)
        segment_destroy(spares->view, pool);
    *spares = (struct midge_spares){0};
}

bool midge_outbox_is_over(const struct midge_outbox *outbox, uint64_t len)
{
    return outbox->pending_bytes + len > outbox->pending_bytes_max;
}

static void push_segment(struct midge_outbox *outbox, struct midge_segment *segment)
{
    MIDGE_ASSERT(segment->next == NULL);

    if (outbox->tail == NULL)
        outbox->head = segment;
    else
        outbox->tail->next = segment;
    outbox->tail = segment;
}

static void count_bytes(struct midge_outbox *outbox, uint32_t len)
{
    outbox->pending_bytes += len;
    outbox->appended_bytes += len;
}

uint8_t *midge_outbox_append(struct midge_outbox *outbox, struct midge_spares *spares, uint32_t len)
{
    struct midge_segment *tail = outbox->tail;
    uint8_t *room;

    if (tail == NULL || tail->cap - tail->len < len || tail->cap == 0) {
        /* Behind a view a small one, too: often the next frame is followed by a view again. */
        if ((tail == NULL || tail->cap == 0) && spares->small->cap >= len) {
            tail = spares->small;
            spares->small = NULL;
        } else {
            tail = spares->large;
            spares->large = NULL;
        }
        MIDGE_ASSERT(tail != NULL && tail->cap >= len);
        push_segment(outbox, tail);
    }
    room = tail->base + tail->len;
    tail->len += len;
    count_bytes(outbox, len);
    return room;
}

void midge_outbox_append_msg(struct midge_outbox *outbox, struct midge_spares *spares,
                             struct midge_msg *msg, struct midge_slice bytes)
{
    struct midge_segment *view = spares->view;

    MIDGE_ASSERT(view != NULL);

    spares->view = NULL;
    midge_msg_retain(msg);
    view->msg = msg;
    view->base = msg->body + (bytes.base - msg->body);
    view->len = bytes.len;
    view->cap = 0;
    push_segment(outbox, view);
    count_bytes(outbox, bytes.len);
}

void midge_outbox_count_msg(struct midge_outbox *outbox, uint64_t payload_len)
{
    MIDGE_ASSERT(outbox->tail != NULL);

    outbox->tail->msg_count++;
    outbox->out_msgs++;
    outbox->out_bytes += payload_len;
}

struct midge_flush midge_outbox_gather(struct midge_outbox *outbox, uint16_t shard_index,
                                       bool in_flight, struct iovec *pieces, uint32_t piece_cap)
{
    struct midge_flush flush = {.shared = outbox->shared};

    if (outbox->flush_shard != MIDGE_FLUSH_FREE || outbox->blocked)
        return flush;
    for (struct midge_segment *segment = outbox->head;
         segment != NULL && flush.piece_count < piece_cap; segment = segment->next) {
        const uint32_t len = segment->len - segment->off;

        if (len == 0)
            continue;
        pieces[flush.piece_count].iov_base = segment->base + segment->off;
        pieces[flush.piece_count].iov_len = len;
        flush.piece_count++;
        flush.bytes += len;
    }
    if (flush.piece_count > 0) {
        outbox->flush_shard = shard_index;
        outbox->in_flight = in_flight && !outbox->shared;
    }
    flush.urgent = outbox->watch_mark_bytes > 0 || flush.bytes < outbox->pending_bytes;
    return flush;
}

/* Take `sent` bytes off the head; returns the segments that are done, linked. Under the lock. */
static struct midge_segment *take_sent(struct midge_outbox *outbox, uint64_t sent, uint64_t *msgs)
{
    struct midge_segment *done = outbox->head;
    struct midge_segment *last = NULL;
    struct midge_segment *segment = outbox->head;

    outbox->pending_bytes -= sent;
    while (segment != NULL) {
        const uint32_t left = segment->len - segment->off;

        if (left > sent) {
            segment->off += (uint32_t)sent;
            break;
        }
        sent -= left;
        *msgs += segment->msg_count;
        last = segment;
        segment = segment->next;
    }
    outbox->head = segment;
    if (segment == NULL)
        outbox->tail = NULL;
    if (last == NULL)
        return NULL;
    last->next = NULL;
    return done;
}

/* Keep the instant since which the socket is full. Under the lock. */
static void note_stall(struct midge_outbox *outbox, bool full, uint64_t now_ns)
{
    const uint64_t sent_bytes = outbox->appended_bytes - outbox->pending_bytes;

    outbox->blocked = full;
    if (outbox->stalled_at_ns != 0 && sent_bytes >= outbox->stall_mark_bytes)
        outbox->stalled_at_ns = 0;
    if (outbox->stalled_at_ns == 0 && full) {
        outbox->stalled_at_ns = now_ns;
        outbox->stall_mark_bytes = outbox->appended_bytes;
    }
}

bool midge_outbox_is_worth_a_wait(struct midge_outbox *outbox, uint64_t row_ns, uint64_t now_ns)
{
    const uint64_t max = outbox->pending_bytes_max;
    const uint64_t taken = outbox->appended_bytes - outbox->pending_bytes;

    if (outbox->worth_mark_bytes == 0)
        outbox->worth_mark_bytes = taken + max / 16 * 5 + 1;
    if (outbox->wait_until_ns == 0 && outbox->pending_bytes <= max / 4 * 3)
        return false;
    if (outbox->wait_until_ns <= now_ns) {
        if (outbox->wait_until_ns == 0)
            outbox->wait_since_ns = now_ns;
        if (taken < outbox->worth_mark_bytes || now_ns - outbox->wait_since_ns >= row_ns)
            return false;
        outbox->worth_mark_bytes = taken + max / 64 + 1;
        outbox->wait_until_ns = now_ns + MIDGE_OUTBOX_WAIT_NS;
    }
    return true;
}

void midge_outbox_watch(struct midge_outbox *outbox, uint16_t shard_index, uint64_t bytes)
{
    if (outbox->watch_mark_bytes == 0)
        outbox->watch_shard = shard_index;
    else if (outbox->watch_shard != shard_index)
        outbox->watch_shard = MIDGE_WATCH_MANY;
    if (bytes > outbox->watch_mark_bytes)
        outbox->watch_mark_bytes = bytes;
}

/* Keep what publishers go by: see midge_outbox_is_worth_a_wait(). Under the lock. */
static void note_recovery(struct midge_outbox *outbox)
{
    const uint64_t max = outbox->pending_bytes_max;

    if (outbox->wait_until_ns != 0 && outbox->pending_bytes < max / 2) {
        outbox->wait_until_ns = 0;
        outbox->worth_mark_bytes = outbox->appended_bytes - outbox->pending_bytes + max / 32 + 1;
    }
    if (outbox->pending_bytes < max / MIDGE_PENDING_LOW_DIVISOR)
        outbox->worth_mark_bytes = 0;
}

struct midge_flush_result midge_outbox_settle(struct midge_outbox *outbox, uint64_t sent,
                                              uint64_t asked, uint64_t now_ns)
{
    struct midge_flush_result result = {0};

    MIDGE_ASSERT(sent <= asked);
    MIDGE_ASSERT(outbox->flush_shard != MIDGE_FLUSH_FREE);
    MIDGE_ASSERT(outbox->pending_bytes >= sent);

    result.done = take_sent(outbox, sent, &result.sent_msgs);
    note_stall(outbox, sent < asked, now_ns);
    note_recovery(outbox);
    if (outbox->pending_bytes < outbox->watch_mark_bytes) {
        outbox->watch_mark_bytes = 0;
        result.drained = true;
        result.drained_shard = outbox->watch_shard;
    }
    outbox->flush_shard = MIDGE_FLUSH_FREE;
    outbox->in_flight = false;
    result.pending_bytes = outbox->pending_bytes;
    return result;
}

void midge_outbox_free_sent(struct midge_segment *done, struct midge_pool *pool)
{
    while (done != NULL) {
        struct midge_segment *next = done->next;

        segment_destroy(done, pool);
        done = next;
    }
}

/* Destroy a list of segments; returns the deliveries that ended in them. */
static uint64_t destroy_segments(struct midge_segment *segment, struct midge_pool *pool)
{
    uint64_t msgs = 0;

    while (segment != NULL) {
        struct midge_segment *next = segment->next;

        msgs += segment->msg_count;
        segment_destroy(segment, pool);
        segment = next;
    }
    return msgs;
}

/* The number behind the last blank of a control line. */
static uint64_t last_number(const uint8_t *line, const uint8_t *end)
{
    const uint8_t *at = end;
    uint64_t number = 0;

    while (at > line && at[-1] != ' ')
        at--;
    for (; at < end; at++)
        number = number * 10 + (uint64_t)(*at - '0');
    return number;
}

/* Where the frame that begins at `at` ends: in its segment, or *body_follows_out: behind the view
 * that follows it. These are our own bytes: control lines hold no LF but their last. */
static uint32_t frame_end(const struct midge_segment *segment, uint32_t at, bool *body_follows_out)
{
    const uint8_t *line = segment->base + at;
    const uint8_t *end = memchr(line, '\n', segment->len - at);
    uint64_t whole;

    MIDGE_ASSERT(end != NULL && end > line);
    *body_follows_out = false;
    whole = at + (uint64_t)(end + 1 - line);
    if (memcmp(line, "MSG ", 4) != 0 && memcmp(line, "HMSG ", 5) != 0)
        return (uint32_t)whole;
    if (whole == segment->len) {
        *body_follows_out = true;
        return (uint32_t)whole;
    }
    whole += last_number(line, end - 1) + 2;
    MIDGE_ASSERT(whole <= segment->len);
    return (uint32_t)whole;
}

/* Shorten the segment to the frame that the kernel has taken a part of, if any. Under the lock.
 * @return true if that frame's body is the view that follows */
static bool cut_segment(struct midge_segment *segment, uint64_t *msgs)
{
    bool body_follows = false;
    uint32_t msg_count = 0;
    uint32_t at = 0;

    if (segment->msg != NULL)
        return false; /* its control line has gone: all of it is that frame */
    while (at < segment->off) {
        const bool is_msg = segment->base[at] == 'M' || segment->base[at] == 'H';

        at = frame_end(segment, at, &body_follows);
        msg_count += is_msg && !body_follows;
    }
    segment->len = at;
    /* More are found than are counted where one is a 503, which is no delivery. */
    if (segment->msg_count > msg_count) {
        *msgs += segment->msg_count - msg_count;
        segment->msg_count = msg_count;
    }
    return body_follows;
}

uint64_t midge_outbox_cut(struct midge_outbox *outbox, struct midge_pool *pool)
{
    struct midge_segment *last;
    struct midge_segment *rest;
    bool body_follows;
    uint64_t pending;
    uint64_t msgs = 0;

    midge_outbox_lock(outbox);
    MIDGE_ASSERT(outbox->closing);
    last = outbox->head;
    if (last == NULL || outbox->flush_shard != MIDGE_FLUSH_FREE) {
        midge_outbox_unlock(outbox);
        return 0;
    }
    body_follows = cut_segment(last, &msgs);
    pending = last->len - last->off;
    if (body_follows) {
        last = last->next;
        MIDGE_ASSERT(last != NULL && last->msg != NULL);
        pending += last->len;
    }
    rest = last->next;
    last->next = NULL;
    outbox->tail = last;
    outbox->appended_bytes -= outbox->pending_bytes - pending;
    outbox->pending_bytes = pending;
    midge_outbox_unlock(outbox);
    return msgs + destroy_segments(rest, pool);
}

uint64_t midge_outbox_discard(struct midge_outbox *outbox, struct midge_pool *pool)
{
    struct midge_segment *segment;

    midge_outbox_lock(outbox);
    MIDGE_ASSERT(outbox->closing);
    MIDGE_ASSERT(outbox->flush_shard == MIDGE_FLUSH_FREE);
    segment = outbox->head;
    outbox->head = NULL;
    outbox->tail = NULL;
    outbox->pending_bytes = 0;
    midge_outbox_unlock(outbox);

    return destroy_segments(segment, pool);
}
