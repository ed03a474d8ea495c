/*
 * Bounded send queue: order, the flush token, partial sends, limits, shared messages, what is
 * counted. Method: an outbox and a pool without any ring; the test plays the kernel by reading the
 * pieces.
 */
#include "outbox.h"

#include <criterion/criterion.h>

#define SHARD 3

struct fixture {
    struct midge_outbox outbox;
    struct midge_pool pool;
    struct midge_spares spares;
};

static void set_up(struct fixture *fixture, uint64_t pending_bytes_max)
{
    memset(fixture, 0, sizeof(*fixture));
    midge_pool_init(&fixture->pool, 1 << 20);
    midge_outbox_init(&fixture->outbox, 1, pending_bytes_max);
}

/* Everything that was handed out must be back. */
static void tear_down(struct fixture *fixture)
{
    fixture->outbox.closing = true;
    (void)midge_outbox_discard(&fixture->outbox, &fixture->pool);
    midge_spares_deinit(&fixture->spares, &fixture->pool);
    cr_assert_eq(midge_pool_held_bytes(&fixture->pool), 0);
    midge_pool_deinit(&fixture->pool);
}

static void append(struct fixture *fixture, const void *bytes, uint32_t len)
{
    cr_assert(midge_spares_fill(&fixture->spares, &fixture->pool, len));
    midge_outbox_lock(&fixture->outbox);
    memcpy(midge_outbox_append(&fixture->outbox, &fixture->spares, len), bytes, len);
    midge_outbox_count_msg(&fixture->outbox, len);
    midge_outbox_unlock(&fixture->outbox);
}

static struct midge_flush gather(struct fixture *fixture, uint16_t shard_index, bool in_flight,
                                 struct iovec pieces[8])
{
    struct midge_flush gathered;

    midge_outbox_lock(&fixture->outbox);
    gathered = midge_outbox_gather(&fixture->outbox, shard_index, in_flight, pieces, 8);
    midge_outbox_unlock(&fixture->outbox);
    return gathered;
}

static struct midge_flush_result settle(struct fixture *fixture, uint64_t sent, uint64_t asked)
{
    struct midge_flush_result result;

    midge_outbox_lock(&fixture->outbox);
    result = midge_outbox_settle(&fixture->outbox, sent, asked, 1000);
    midge_outbox_unlock(&fixture->outbox);
    midge_outbox_free_sent(result.done, &fixture->pool);
    return result;
}

/* Let the kernel take at most `most` bytes; returns what it took, appended to `out`. */
static struct midge_flush_result flush(struct fixture *fixture, uint64_t most, uint8_t *out,
                                       uint64_t *out_len)
{
    struct iovec pieces[8];
    const struct midge_flush gathered = gather(fixture, SHARD, true, pieces);
    uint64_t left = most < gathered.bytes ? most : gathered.bytes;
    const uint64_t taken = left;

    cr_assert_gt(gathered.piece_count, 0);
    for (uint32_t i = 0; i < gathered.piece_count && left > 0; i++) {
        const uint64_t len = pieces[i].iov_len < left ? pieces[i].iov_len : left;

        memcpy(out + *out_len, pieces[i].iov_base, len);
        *out_len += len;
        left -= len;
    }
    return settle(fixture, taken, gathered.bytes);
}

static void unblock(struct fixture *fixture)
{
    fixture->outbox.blocked = false;
}

Test(outbox, bytes_leave_in_the_order_they_came_whatever_the_kernel_takes)
{
    const uint32_t total = 300000;
    uint8_t *in = malloc(total);
    uint8_t *out = malloc(total);
    uint64_t out_len = 0;
    uint32_t at = 0;
    struct fixture fixture;

    set_up(&fixture, 1 << 20);
    for (uint32_t i = 0; i < total; i++)
        in[i] = (uint8_t)(i * 31 + i / 251);
    for (uint32_t step = 1; at < total; step = step * 7 % 5003 + 1) {
        const uint32_t len = step < total - at ? step : total - at;

        append(&fixture, in + at, len);
        at += len;
    }
    for (uint64_t most = 1; out_len < total; most = most * 13 % 40009 + 1) {
        (void)flush(&fixture, most, out, &out_len);
        unblock(&fixture);
    }
    cr_assert_eq(memcmp(in, out, total), 0);
    cr_assert_eq(fixture.outbox.pending_bytes, 0);
    cr_assert_null(fixture.outbox.head);
    tear_down(&fixture);
    free(in);
    free(out);
}

Test(outbox, the_flush_token_is_held_by_one)
{
    struct iovec pieces[8];
    struct fixture fixture;

    set_up(&fixture, 1 << 20);
    append(&fixture, "abc", 3);
    cr_assert_eq(gather(&fixture, 1, true, pieces).piece_count, 1);
    append(&fixture, "def", 3);
    cr_assert_eq(gather(&fixture, 2, false, pieces).piece_count, 0);
    cr_assert(fixture.outbox.in_flight, "who wants to send now has to ask the owner");
    cr_assert_eq(settle(&fixture, 3, 3).pending_bytes, 3);
    cr_assert_not(fixture.outbox.in_flight);
    cr_assert_eq(gather(&fixture, 2, false, pieces).piece_count, 1);
    cr_assert_not(fixture.outbox.in_flight);
    cr_assert_eq(memcmp(pieces[0].iov_base, "def", 3), 0);
    cr_assert_eq(settle(&fixture, 3, 3).pending_bytes, 0);
    tear_down(&fixture);
}

Test(outbox, the_owner_sends_a_shared_outbox_at_once)
{
    struct iovec pieces[8];
    struct fixture fixture;

    set_up(&fixture, 1 << 20);
    fixture.outbox.shared = true;
    append(&fixture, "abc", 3);
    cr_assert(gather(&fixture, 1, true, pieces).shared);
    cr_assert_not(fixture.outbox.in_flight);
    (void)settle(&fixture, 3, 3);
    tear_down(&fixture);
}

Test(outbox, a_full_socket_blocks_and_keeps_the_instant_of_the_stall)
{
    uint8_t out[16];
    uint64_t out_len = 0;
    struct iovec pieces[8];
    struct fixture fixture;

    set_up(&fixture, 1 << 20);
    append(&fixture, "abcdef", 6);
    (void)flush(&fixture, 2, out, &out_len);
    cr_assert(fixture.outbox.blocked);
    cr_assert_eq(fixture.outbox.stalled_at_ns, 1000);
    cr_assert_eq(gather(&fixture, 1, true, pieces).piece_count, 0);
    /* What comes later does not move the deadline of what is stalled … */
    append(&fixture, "gh", 2);
    unblock(&fixture);
    (void)flush(&fixture, 3, out, &out_len);
    cr_assert_eq(fixture.outbox.stalled_at_ns, 1000);
    /* … which ends when the bytes pending at that time are gone. */
    unblock(&fixture);
    (void)flush(&fixture, 3, out, &out_len);
    cr_assert_eq(fixture.outbox.stalled_at_ns, 0);
    cr_assert_eq(memcmp(out, "abcdefgh", 8), 0);
    tear_down(&fixture);
}

Test(outbox, pending_never_exceeds_its_limit)
{
    struct fixture fixture;

    set_up(&fixture, 10);
    cr_assert_not(midge_outbox_is_over(&fixture.outbox, 10));
    cr_assert(midge_outbox_is_over(&fixture.outbox, 11));
    append(&fixture, "abcdef", 6);
    cr_assert_not(midge_outbox_is_over(&fixture.outbox, 4));
    cr_assert(midge_outbox_is_over(&fixture.outbox, 5));
    tear_down(&fixture);
}

Test(outbox, deliveries_are_counted_when_their_last_byte_left)
{
    uint8_t out[64];
    uint64_t out_len = 0;
    struct fixture fixture;

    set_up(&fixture, 1 << 20);
    append(&fixture, "abc", 3);
    append(&fixture, "def", 3);
    cr_assert_eq(flush(&fixture, 5, out, &out_len).sent_msgs, 0);
    unblock(&fixture);
    cr_assert_eq(flush(&fixture, 1, out, &out_len).sent_msgs, 2);
    append(&fixture, "ghi", 3);
    fixture.outbox.closing = true;
    cr_assert_eq(midge_outbox_discard(&fixture.outbox, &fixture.pool), 1);
    tear_down(&fixture);
}

Test(outbox, a_shared_message_is_sent_from_one_place_and_released_once)
{
    struct fixture first;
    struct fixture second;
    struct midge_op op = {.kind = MIDGE_OP_PUB,
                          .subject = MIDGE_SLICE_LITERAL("a"),
                          .size_text = MIDGE_SLICE_LITERAL("5"),
                          .total_len = 5};
    struct midge_msg *msg;
    uint8_t out[16];
    uint64_t out_len = 0;

    set_up(&first, 1 << 20);
    set_up(&second, 1 << 20);
    msg = midge_msg_create(&first.pool, &op);
    midge_msg_fill(msg, MIDGE_SLICE_LITERAL("hel"));
    midge_msg_fill(msg, MIDGE_SLICE_LITERAL("lo"));
    cr_assert(midge_spares_fill(&first.spares, &first.pool, 1));
    cr_assert(midge_spares_fill(&second.spares, &second.pool, 1));
    midge_outbox_append_msg(&first.outbox, &first.spares, msg, midge_slice_make(msg->body, 7));
    midge_outbox_append_msg(&second.outbox, &second.spares, msg,
                            midge_slice_make(msg->body + 2, 5));
    midge_msg_release(msg, &first.pool);
    (void)flush(&first, 100, out, &out_len);
    cr_assert_eq(memcmp(out, "hello\r\n", 7), 0);
    (void)flush(&second, 100, out, &out_len);
    cr_assert_eq(memcmp(out + 7, "llo\r\n", 5), 0);
    /* The block went to the pool that released it last: only the sum is zero. */
    midge_spares_deinit(&first.spares, &first.pool);
    midge_spares_deinit(&second.spares, &second.pool);
    cr_assert_neq(midge_pool_held_bytes(&first.pool), 0);
    cr_assert_eq(midge_pool_held_bytes(&first.pool) + midge_pool_held_bytes(&second.pool), 0);
    midge_pool_deinit(&first.pool);
    midge_pool_deinit(&second.pool);
}

Test(outbox, the_frame_of_a_shared_message_takes_little_room)
{
    const uint32_t count = 100;
    struct midge_op op = {.kind = MIDGE_OP_PUB,
                          .subject = MIDGE_SLICE_LITERAL("a"),
                          .size_text = MIDGE_SLICE_LITERAL("9000"),
                          .total_len = 9000};
    struct midge_msg *msg;
    struct fixture fixture;
    int64_t before;

    set_up(&fixture, 1 << 20);
    msg = midge_msg_create(&fixture.pool, &op);
    before = midge_pool_held_bytes(&fixture.pool);
    for (uint32_t i = 0; i < count; i++) {
        append(&fixture, "MSG a 1 9000\r\n", 14);
        midge_outbox_append_msg(&fixture.outbox, &fixture.spares, msg,
                                midge_slice_make(msg->body, 9002));
    }
    cr_assert_lt(midge_pool_held_bytes(&fixture.pool) - before,
                 count * MIDGE_SEGMENT_SMALL_LEN * 2);
    midge_msg_release(msg, &fixture.pool);
    tear_down(&fixture);
}

Test(outbox, a_watched_outbox_says_when_it_has_drained)
{
    struct midge_flush_result result;
    uint8_t out[64];
    uint64_t out_len = 0;
    struct fixture fixture;

    set_up(&fixture, 160);
    append(&fixture, "0123456789abcdefghij", 20);
    midge_outbox_watch(&fixture.outbox, 5, 10);
    cr_assert_not(flush(&fixture, 10, out, &out_len).drained);
    unblock(&fixture);
    result = flush(&fixture, 1, out, &out_len);
    cr_assert(result.drained);
    cr_assert_eq(result.drained_shard, 5);
    cr_assert_eq(fixture.outbox.watch_mark_bytes, 0);
    /* The highest mark of all who wait counts. */
    unblock(&fixture);
    midge_outbox_watch(&fixture.outbox, 6, 9);
    midge_outbox_watch(&fixture.outbox, 7, 4);
    result = flush(&fixture, 1, out, &out_len);
    cr_assert(result.drained);
    cr_assert_eq(result.drained_shard, MIDGE_WATCH_MANY);
    tear_down(&fixture);
}

#define MAX    (1u << 20)
#define ROW_NS (4 * MIDGE_OUTBOX_WAIT_NS)
#define PIECE  (MAX / 64)

/* Append `bytes` and let the kernel take `taken` of what is pending, in turns of one piece; returns
 * whether the last append would hold its publisher back. */
static bool pass(struct fixture *fixture, uint32_t bytes, uint32_t taken, uint64_t now_ns)
{
    static uint8_t buffer[2 * MAX];
    bool worth = false;

    for (uint32_t left = bytes; left > 0;) {
        const uint32_t len = left < PIECE ? left : PIECE;
        uint64_t out_len = 0;

        append(fixture, buffer, len);
        left -= len;
        if (fixture->outbox.pending_bytes > MAX / MIDGE_PENDING_HIGH_DIVISOR)
            worth = midge_outbox_is_worth_a_wait(&fixture->outbox, ROW_NS, now_ns);
        if ((uint64_t)len * taken / bytes > 0)
            (void)flush(fixture, (uint64_t)len * taken / bytes, buffer, &out_len);
        unblock(fixture);
    }
    return worth;
}

static void take(struct fixture *fixture, uint32_t taken)
{
    static uint8_t buffer[2 * MAX];
    uint64_t out_len = 0;

    while (taken > 0) {
        const uint64_t before = out_len;

        (void)flush(fixture, taken, buffer, &out_len);
        unblock(fixture);
        taken -= (uint32_t)(out_len - before);
    }
}

Test(outbox, publishers_wait_for_a_reader_of_half_their_speed)
{
    struct fixture fixture;

    set_up(&fixture, MAX);
    cr_assert_not(pass(&fixture, MAX, MAX / 2, 1));
    cr_assert(pass(&fixture, 5 * (MAX / 8), 5 * (MAX / 16), 1));
    /* All of them, until it is below one half … */
    cr_assert(pass(&fixture, PIECE, 0, 2));
    take(&fixture, MAX / 8);
    cr_assert(pass(&fixture, PIECE, 0, 3));
    take(&fixture, MAX / 4);
    /* … and again when it falls behind again. */
    cr_assert_not(pass(&fixture, PIECE, 0, 4));
    cr_assert(pass(&fixture, 5 * (MAX / 8), 5 * (MAX / 16), 5));
    tear_down(&fixture);
}

Test(outbox, nobody_waits_for_a_reader_that_never_read)
{
    struct fixture fixture;

    set_up(&fixture, MAX);
    cr_assert_not(pass(&fixture, MAX - PIECE, 0, 1));
    tear_down(&fixture);
}

Test(outbox, nobody_waits_for_a_reader_of_a_quarter_of_their_speed)
{
    struct fixture fixture;

    set_up(&fixture, MAX);
    cr_assert_not(pass(&fixture, MAX, MAX / 4, 1));
    cr_assert_not(pass(&fixture, PIECE * 8, PIECE * 2, 1));
    cr_assert_gt(fixture.outbox.pending_bytes, MAX / 4 * 3);
    tear_down(&fixture);
}

Test(outbox, a_reader_that_stops_costs_one_wait)
{
    struct fixture fixture;

    set_up(&fixture, MAX);
    cr_assert_not(pass(&fixture, MAX, MAX / 2, 1));
    cr_assert_not(pass(&fixture, MAX / 2 - 2 * PIECE, MAX / 4 - PIECE, 1));
    cr_assert(pass(&fixture, 2 * PIECE, 0, 1));
    cr_assert_not(pass(&fixture, PIECE, 0, 1 + MIDGE_OUTBOX_WAIT_NS));
    cr_assert_not(pass(&fixture, PIECE, 0, 1 + 2 * MIDGE_OUTBOX_WAIT_NS));
    tear_down(&fixture);
}

Test(outbox, waits_in_a_row_end)
{
    struct fixture fixture;
    uint64_t now_ns = 1;

    set_up(&fixture, MAX);
    cr_assert_not(pass(&fixture, MAX, MAX / 2, now_ns));
    cr_assert_not(pass(&fixture, MAX / 2 - 2 * PIECE, MAX / 4 - PIECE, now_ns));
    for (; now_ns < 1 + ROW_NS; now_ns += MIDGE_OUTBOX_WAIT_NS) {
        cr_assert(pass(&fixture, 2 * PIECE, 0, now_ns), "after %lu ns", (unsigned long)now_ns);
        take(&fixture, 2 * PIECE);
    }
    cr_assert_not(pass(&fixture, 2 * PIECE, 0, now_ns));
    tear_down(&fixture);
}

Test(outbox, an_append_longer_than_a_large_segment_gets_room_of_its_own)
{
    const uint32_t len = MIDGE_SEGMENT_LARGE_LEN * 3;
    uint8_t *in = calloc(1, len);
    uint8_t *out = malloc(len);
    uint64_t out_len = 0;
    struct fixture fixture;

    set_up(&fixture, 1 << 20);
    in[len - 1] = 7;
    append(&fixture, in, len);
    (void)flush(&fixture, len, out, &out_len);
    cr_assert_eq(out_len, len);
    cr_assert_eq(memcmp(in, out, len), 0);
    tear_down(&fixture);
    free(in);
    free(out);
}

/* A stream of frames, small ones and shared messages, as dispatch appends them. */
struct stream {
    uint8_t bytes[256 * 1024];
    uint32_t len;
    uint32_t ends[64];       /* where each frame ends */
    uint32_t deliveries[64]; /* up to and including each frame */
    uint32_t frame_count;
    uint32_t delivery_count;
};

static void add_bytes(struct stream *stream, const void *bytes, uint32_t len)
{
    memcpy(stream->bytes + stream->len, bytes, len);
    stream->len += len;
}

static void append_small_frame(struct fixture *fixture, struct stream *stream, uint32_t number)
{
    static const char *const frames[] = {
        "PING\r\n",
        "-ERR 'Invalid Subject'\r\n",
        "MSG a 1 5\r\nMSG \r\r\n",
        "HMSG a.b 12 r 12 16\r\nNATS/1.0\r\n\r\nMSG \r\n",
        "MSG a 1 0\r\n\r\n",
    };
    const char *frame = frames[number % 5];
    const uint32_t len = (uint32_t)strlen(frame);

    cr_assert(midge_spares_fill(&fixture->spares, &fixture->pool, len));
    memcpy(midge_outbox_append(&fixture->outbox, &fixture->spares, len), frame, len);
    if (frame[0] == 'M' || frame[0] == 'H') {
        midge_outbox_count_msg(&fixture->outbox, len);
        stream->delivery_count++;
    }
    add_bytes(stream, frame, len);
}

static void append_shared_frame(struct fixture *fixture, struct stream *stream)
{
    static const char line[] = "MSG large 1 9000\r\n";
    const struct midge_op op = {
        .kind = MIDGE_OP_PUB, .subject = MIDGE_SLICE_LITERAL("large"), .total_len = 9000};
    struct midge_msg *msg = midge_msg_create(&fixture->pool, &op);
    const uint32_t len = (uint32_t)sizeof(line) - 1;

    cr_assert_not_null(msg);
    memset(msg->body, '\n', 9000);
    cr_assert(midge_spares_fill(&fixture->spares, &fixture->pool, len));
    memcpy(midge_outbox_append(&fixture->outbox, &fixture->spares, len), line, len);
    midge_outbox_append_msg(&fixture->outbox, &fixture->spares, msg,
                            midge_slice_make(msg->body, 9002));
    midge_outbox_count_msg(&fixture->outbox, 9000);
    stream->delivery_count++;
    add_bytes(stream, line, len);
    add_bytes(stream, msg->body, 9002);
    midge_msg_release(msg, &fixture->pool);
}

static void append_stream(struct fixture *fixture, struct stream *stream)
{
    stream->len = 0;
    stream->frame_count = 0;
    stream->delivery_count = 0;
    for (uint32_t i = 0; i < 24; i++) {
        if (i % 7 == 3 || i % 7 == 4)
            append_shared_frame(fixture, stream);
        else
            append_small_frame(fixture, stream, i);
        stream->deliveries[stream->frame_count] = stream->delivery_count;
        stream->ends[stream->frame_count++] = stream->len;
    }
}

/* What the kernel has of the stream must end with the frame that it had a part of. */
static void expect_cut(struct fixture *fixture, struct stream *stream, uint8_t *out, uint64_t taken)
{
    struct midge_flush_result result = {0};
    uint64_t delivered = 0;
    uint64_t discarded;
    uint64_t out_len = 0;
    uint32_t frame = 0;

    while (frame < stream->frame_count && stream->ends[frame] < taken)
        frame++;
    while (out_len < taken) {
        result = flush(fixture, taken - out_len, out, &out_len);
        unblock(fixture);
        delivered += result.sent_msgs;
    }
    fixture->outbox.closing = true;
    discarded = midge_outbox_cut(&fixture->outbox, &fixture->pool);
    while (fixture->outbox.pending_bytes > 0) {
        result = flush(fixture, UINT64_MAX, out, &out_len);
        delivered += result.sent_msgs;
    }
    cr_expect_eq(out_len, taken == 0 ? 0 : stream->ends[frame], "cut after %lu bytes: %lu came",
                 (unsigned long)taken, (unsigned long)out_len);
    cr_expect_eq(memcmp(out, stream->bytes, out_len), 0);
    discarded += midge_outbox_discard(&fixture->outbox, &fixture->pool);
    /* What went out of a segment that did not go out as a whole counts as discarded. */
    cr_expect_leq(delivered, taken == 0 ? 0 : stream->deliveries[frame]);
    cr_expect_eq(delivered + discarded, stream->delivery_count);
}

Test(outbox, cut_leaves_the_frame_that_the_kernel_has_a_part_of)
{
    static struct stream stream;
    static uint8_t out[sizeof(stream.bytes)];
    uint64_t taken = 0;

    do {
        struct fixture fixture;

        set_up(&fixture, 1 << 20);
        append_stream(&fixture, &stream);
        expect_cut(&fixture, &stream, out, taken);
        tear_down(&fixture);
        taken += taken % 9000 < 300 || taken % 9000 > 8700 ? 1 : 97;
    } while (taken < stream.len);
}
