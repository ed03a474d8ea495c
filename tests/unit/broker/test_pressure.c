/*
 * Back-pressure and max_memory: whom they hold back, whom they close, and whom they leave alone.
 * Method: one shard on the simulated ring, without faults; peers that read or do not read; the test
 * turns the clock.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conn_internal.h"
#include "dispatch.h"
#include "midge/ring_sim.h"
#include "shard.h"

#define NS_PER_MS 1000000ull

struct fixture {
    struct midge_config config;
    struct midge_broker broker;
    struct midge_log *log;
    struct midge_sim *sim;
    struct midge_shard *shard;
    int listener;
};

/* The configuration may be changed before start(). */
static void prepare(struct fixture *fixture)
{
    memset(fixture, 0, sizeof(*fixture));
    midge_config_init(&fixture->config);
    fixture->config.connections_max = 64;
}

static void start(struct fixture *fixture)
{
    const struct midge_sim_options options = {.seed = 42};
    struct midge_ring *ring;

    cr_assert_eq(midge_log_create(&fixture->config, &fixture->log), MIDGE_OK);
    cr_assert_eq(midge_broker_init(&fixture->broker, &fixture->config, fixture->log, 42), MIDGE_OK);
    fixture->broker.shard_count = 1;
    fixture->sim = midge_sim_create(&options);
    fixture->listener = midge_sim_listen(fixture->sim);
    ring = midge_sim_ring_create(fixture->sim, NULL);
    fixture->shard = midge_shard_create(&fixture->broker, 0, &ring);
    cr_assert_not_null(fixture->shard);
    midge_shard_add_listener(fixture->shard, fixture->listener);
}

static void stop(struct fixture *fixture)
{
    midge_shard_stop(fixture->shard);
    while (!midge_shard_is_idle(fixture->shard)) {
        midge_shard_turn(fixture->shard, false);
        midge_sim_advance(fixture->sim, 100 * NS_PER_MS);
    }
    midge_shard_destroy(fixture->shard);
    midge_sim_destroy(fixture->sim);
    midge_broker_deinit(&fixture->broker);
    midge_log_destroy(fixture->log);
    midge_config_deinit(&fixture->config);
}

/* Turns until nothing more happens without the clock. */
static void settle(struct fixture *fixture)
{
    for (uint32_t i = 0; i < 50; i++)
        midge_shard_turn(fixture->shard, false);
}

static void pass_ms(struct fixture *fixture, uint64_t ms)
{
    for (; ms > 0; ms -= ms < 100 ? ms : 100) {
        midge_sim_advance(fixture->sim, (ms < 100 ? ms : 100) * NS_PER_MS);
        settle(fixture);
    }
}

/* Write all of it, with turns in between. */
static void write_all(struct fixture *fixture, uint32_t peer, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;

    for (uint32_t i = 0; len > 0; i++) {
        const uint32_t taken =
            midge_sim_peer_write(fixture->sim, peer, midge_slice_make(at, (uint32_t)len));

        cr_assert_lt(i, 10000, "the broker does not read");
        at += taken;
        len -= taken;
        midge_shard_turn(fixture->shard, false);
    }
}

static void write_text(struct fixture *fixture, uint32_t peer, const char *text)
{
    write_all(fixture, peer, text, strlen(text));
}

/* Read and forget what is there. @return bytes */
static uint64_t drain(struct fixture *fixture, uint32_t peer)
{
    static uint8_t sink[65536];
    uint64_t total = 0;
    uint32_t len;

    settle(fixture);
    while ((len = midge_sim_peer_read(fixture->sim, peer, sink, sizeof(sink))) > 0) {
        total += len;
        settle(fixture);
    }
    return total;
}

static uint32_t join(struct fixture *fixture, const char *text)
{
    const uint32_t peer = midge_sim_peer_connect(fixture->sim, fixture->listener);

    write_text(fixture, peer, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
    write_text(fixture, peer, text);
    (void)drain(fixture, peer);
    return peer;
}

/* Publish 1 MiB to `big` in messages of 8,000 bytes, which stay with a subscriber that does not
 * read. */
static void publish_mib(struct fixture *fixture, uint32_t peer)
{
    static char message[8100];
    const int len = snprintf(message, sizeof(message), "PUB big 8000\r\n%08000d\r\n", 1);

    for (uint32_t i = 0; i < 128; i++) {
        if (midge_sim_peer_room(fixture->sim, peer) < (uint32_t)len)
            return;
        write_all(fixture, peer, message, (size_t)len);
    }
}

static uint32_t paused_count(const struct fixture *fixture)
{
    uint32_t count = 0;

    for (const struct midge_conn *conn = fixture->shard->paused; conn != NULL;
         conn = conn->next_paused)
        count++;
    return count;
}

static bool is_open(struct fixture *fixture, uint32_t peer)
{
    (void)drain(fixture, peer);
    return midge_sim_peer_state(fixture->sim, peer) == MIDGE_SIM_PEER_OPEN;
}

Test(pressure, a_publisher_goes_on_when_the_one_it_waits_for_leaves)
{
    struct fixture fixture;
    uint32_t reader;
    uint32_t publisher;

    prepare(&fixture);
    fixture.config.pending_bytes_max = 2 << 20;
    start(&fixture);
    reader = join(&fixture, "SUB big 1\r\n");
    publisher = join(&fixture, "");
    publish_mib(&fixture, publisher);
    settle(&fixture);
    cr_assert_eq(paused_count(&fixture), 1);
    midge_sim_peer_reset(fixture.sim, reader);
    settle(&fixture);
    cr_assert_eq(paused_count(&fixture), 0, "still waits for a connection that is gone");
    stop(&fixture);
}

Test(pressure, a_publisher_goes_on_when_the_one_it_waits_for_is_being_closed)
{
    struct fixture fixture;
    uint32_t reader;
    uint32_t publisher;

    prepare(&fixture);
    fixture.config.pending_bytes_max = 2 << 20;
    start(&fixture);
    reader = join(&fixture, "SUB big 1\r\n");
    publisher = join(&fixture, "");
    publish_mib(&fixture, publisher);
    settle(&fixture);
    cr_assert_eq(paused_count(&fixture), 1);
    write_text(&fixture, reader, "NONSENSE\r\n");
    settle(&fixture);
    cr_assert_eq(paused_count(&fixture), 0, "waits for one that takes no more messages");
    stop(&fixture);
}

Test(pressure, a_publisher_goes_on_whichever_of_many_recipients_catches_up)
{
    for (uint32_t fast = 0; fast < 12; fast++) {
        struct fixture fixture;
        uint32_t readers[12];
        uint32_t publisher;

        prepare(&fixture);
        fixture.config.pending_bytes_max = 2 << 20;
        start(&fixture);
        for (uint32_t i = 0; i < 12; i++)
            readers[i] = join(&fixture, "SUB big 1\r\n");
        publisher = join(&fixture, "");
        publish_mib(&fixture, publisher);
        settle(&fixture);
        cr_assert_eq(paused_count(&fixture), 1);
        (void)drain(&fixture, readers[fast]);
        cr_assert_eq(paused_count(&fixture), 0, "number %u has caught up", fast);
        stop(&fixture);
    }
}

Test(pressure, a_publisher_that_is_not_read_is_not_stale)
{
    struct fixture fixture;
    uint32_t publisher;
    uint32_t reader;

    prepare(&fixture);
    fixture.config.pending_bytes_max = 2 << 20;
    fixture.config.ping_interval_ms = 1000;
    fixture.config.ping_max = 2;
    start(&fixture);
    reader = join(&fixture, "SUB big 1\r\n");
    publisher = join(&fixture, "");
    publish_mib(&fixture, publisher);
    settle(&fixture);
    cr_assert_eq(paused_count(&fixture), 1);
    for (uint32_t i = 0; i < 50; i++) {
        /* Both answer every PING, but the publisher's PONG waits where its messages wait. */
        write_text(&fixture, reader, "PONG\r\n");
        if (drain(&fixture, publisher) > 0)
            (void)midge_sim_peer_write(fixture.sim, publisher, MIDGE_SLICE_LITERAL("PONG\r\n"));
        pass_ms(&fixture, 100);
    }
    cr_assert(is_open(&fixture, publisher), "closed as stale while it was not read");
    cr_assert_eq(paused_count(&fixture), 1);
    stop(&fixture);
}

static struct midge_conn *conn_of(struct fixture *fixture, uint32_t peer)
{
    /* Slots are taken in the order in which peers connect. */
    return &fixture->broker.conns[peer];
}

/* Messages of 1,000 bytes that begin with their number. */
#define NUMBERED_LEN 1000
#define FRAME_LEN    (sizeof("MSG n 1 1000\r\n\r\n") - 1 + NUMBERED_LEN)

/* A subscriber that does not read, with little room, and a publisher. */
static void start_numbered(struct fixture *fixture, uint32_t *reader, uint32_t *publisher)
{
    prepare(fixture);
    fixture->config.pending_bytes_max = 80000;
    start(fixture);
    *reader = join(fixture, "SUB n 1\r\n");
    *publisher = join(fixture, "");
}

/* Write up to `count` messages, as long as there is room; no turn in between. @return number of the
 * next one */
static uint32_t write_numbered(struct fixture *fixture, uint32_t peer, uint32_t number,
                               uint32_t count)
{
    const uint32_t end = number + count;
    char message[NUMBERED_LEN + 100];

    for (; number < end; number++) {
        const int len = snprintf(message, sizeof(message), "PUB n %d\r\n%0*u\r\n", NUMBERED_LEN,
                                 NUMBERED_LEN, number);

        if (midge_sim_peer_room(fixture->sim, peer) < (uint32_t)len)
            break;
        (void)midge_sim_peer_write(fixture->sim, peer, midge_slice_make(message, (uint32_t)len));
    }
    return number;
}

/* Read all that comes: the messages from `first` to `end`, and nothing else. */
static void expect_numbered(struct fixture *fixture, uint32_t peer, uint32_t first, uint32_t end)
{
    char want[FRAME_LEN + 100];
    char have[FRAME_LEN + 1];
    uint32_t len = 0;

    for (uint32_t number = first; number < end;) {
        const uint32_t got =
            midge_sim_peer_read(fixture->sim, peer, have + len, (uint32_t)FRAME_LEN - len);

        if (got == 0) {
            settle(fixture);
            cr_assert_gt(midge_sim_peer_unread(fixture->sim, peer), 0, "nothing behind message %u",
                         number);
        }
        len += got;
        if (len < FRAME_LEN)
            continue;
        (void)snprintf(want, sizeof(want), "MSG n 1 %d\r\n%0*u\r\n", NUMBERED_LEN, NUMBERED_LEN,
                       number);
        cr_assert_arr_eq(have, want, FRAME_LEN, "message %u", number);
        len = 0;
        number++;
    }
    cr_assert_eq(drain(fixture, peer), 0, "more than was published");
}

/* The reader's socket takes the first ones. Then the publisher is paused, in a turn that has
 * received more. @return number of the next message */
static uint32_t publish_until_paused(struct fixture *fixture, uint32_t reader, uint32_t publisher)
{
    uint32_t number;

    number = write_numbered(fixture, publisher, 0, UINT16_MAX);
    settle(fixture);
    cr_assert_eq(paused_count(fixture), 0);
    number = write_numbered(fixture, publisher, number, UINT16_MAX);
    settle(fixture);
    cr_assert_eq(paused_count(fixture), 1);
    cr_assert_gt(conn_of(fixture, reader)->outbox.pending_bytes, 0);
    cr_assert_not_null(conn_of(fixture, publisher)->backlog, "nothing was received in that turn");
    return number;
}

Test(pressure, a_paused_publisher_delivers_nothing_until_it_goes_on)
{
    struct fixture fixture;
    uint32_t publisher;
    uint32_t reader;
    uint32_t number;
    uint64_t in_msgs;

    start_numbered(&fixture, &reader, &publisher);
    number = publish_until_paused(&fixture, reader, publisher);
    in_msgs = midge_stats_read(&fixture.shard->stats.in_msgs);
    cr_assert_leq(conn_of(&fixture, reader)->outbox.pending_bytes,
                  fixture.config.pending_bytes_max / MIDGE_PENDING_HIGH_DIVISOR + FRAME_LEN,
                  "more than the message that went over the mark");
    (void)write_numbered(&fixture, publisher, number, UINT16_MAX);
    settle(&fixture);
    cr_assert_eq(midge_stats_read(&fixture.shard->stats.in_msgs), in_msgs);
    cr_assert_eq(paused_count(&fixture), 1);
    stop(&fixture);
}

Test(pressure, what_was_received_while_a_publisher_was_paused_comes_in_order)
{
    struct fixture fixture;
    uint32_t publisher;
    uint32_t reader;
    uint32_t number;

    start_numbered(&fixture, &reader, &publisher);
    number = publish_until_paused(&fixture, reader, publisher);
    number = write_numbered(&fixture, publisher, number, UINT16_MAX);
    expect_numbered(&fixture, reader, 0, number);
    cr_assert_eq(paused_count(&fixture), 0);
    cr_assert_null(conn_of(&fixture, publisher)->backlog);
    cr_assert(is_open(&fixture, publisher));
    cr_assert(is_open(&fixture, reader));
    stop(&fixture);
}

Test(pressure, the_end_of_a_stream_comes_behind_what_was_received_before_it)
{
    struct fixture fixture;
    uint32_t publisher;
    uint32_t reader;
    uint32_t number;

    start_numbered(&fixture, &reader, &publisher);
    number = write_numbered(&fixture, publisher, 0, UINT16_MAX);
    settle(&fixture);
    /* Few enough for the end to be received in the same turn. */
    number = write_numbered(&fixture, publisher, number, 30);
    midge_sim_peer_shutdown(fixture.sim, publisher);
    settle(&fixture);
    cr_assert_eq(paused_count(&fixture), 1);
    cr_assert_not_null(conn_of(&fixture, publisher)->backlog);
    cr_assert_eq(conn_of(&fixture, publisher)->backlog->end, MIDGE_E_EOF);
    expect_numbered(&fixture, reader, 0, number);
    settle(&fixture);
    cr_assert_neq(midge_sim_peer_state(fixture.sim, publisher), MIDGE_SIM_PEER_OPEN);
    cr_assert_eq(paused_count(&fixture), 0);
    stop(&fixture);
}

Test(pressure, what_a_paused_publisher_has_sent_counts_as_its_memory_until_it_is_used_or_dropped)
{
    for (uint32_t dropped = 0; dropped < 2; dropped++) {
        struct fixture fixture;
        struct midge_conn *conn;
        uint32_t publisher;
        uint32_t reader;
        uint32_t number;

        start_numbered(&fixture, &reader, &publisher);
        number = publish_until_paused(&fixture, reader, publisher);
        conn = conn_of(&fixture, publisher);
        cr_assert_geq(conn->incoming_bytes, conn->backlog->len - conn->backlog->off);
        if (dropped == 1)
            midge_conn_close(fixture.shard, conn, MIDGE_E_SHUTDOWN);
        else
            expect_numbered(&fixture, reader, 0, number);
        settle(&fixture);
        cr_assert_null(conn->backlog);
        cr_assert_eq(conn->incoming_bytes, 0);
        stop(&fixture);
    }
}

Test(pressure, subscriptions_at_their_max_leave_a_closed_connection_with_the_others)
{
    const struct midge_op op = {.kind = MIDGE_OP_PUB,
                                .subject = MIDGE_SLICE_LITERAL("a"),
                                .size_text = MIDGE_SLICE_LITERAL("0"),
                                .payload = MIDGE_SLICE_LITERAL(""),
                                .payload_whole = true};
    struct fixture fixture;
    struct midge_conn *conn;
    uint32_t peer;

    prepare(&fixture);
    start(&fixture);
    peer = join(&fixture, "");
    for (uint32_t i = 0; i < 5000; i++) {
        char line[64];

        (void)snprintf(line, sizeof(line), "SUB a %u\r\nUNSUB %u 1\r\n", i, i);
        write_text(&fixture, peer, line);
    }
    conn = conn_of(&fixture, peer);
    cr_assert_eq(conn->subs.count, 5000);
    midge_dispatch_publish(fixture.shard, conn, &op);
    cr_assert_not_null(conn->expired);
    midge_conn_close(fixture.shard, conn, MIDGE_E_READ);
    while (conn->state == MIDGE_CONN_OPEN || conn->state == MIDGE_CONN_CLOSING)
        midge_shard_turn(fixture.shard, false);
    cr_assert_null(conn->expired, "each is looked for in the list of all");
    settle(&fixture);
    cr_assert_eq(conn->state, MIDGE_CONN_FREE);
    cr_assert_eq(conn->subs.count, 0);
    stop(&fixture);
}

/* Another shard is in the middle of a send: it holds the token. @return bytes that it offers */
static uint64_t begin_foreign_send(struct midge_outbox *outbox)
{
    struct iovec pieces[MIDGE_RING_IOV_MAX];
    struct midge_flush flush;

    midge_outbox_lock(outbox);
    outbox->blocked = false;
    flush = midge_outbox_gather(outbox, 1, false, pieces, MIDGE_RING_IOV_MAX);
    midge_outbox_unlock(outbox);
    return flush.bytes;
}

/* The socket took nothing of it: as midge_conn_flush_foreign() ends. */
static void end_foreign_send(struct fixture *fixture, struct midge_conn *conn, uint64_t asked)
{
    struct midge_outbox *outbox = &conn->outbox;

    midge_outbox_lock(outbox);
    (void)midge_outbox_settle(outbox, 0, asked, fixture->shard->now_ns);
    midge_shard_request(fixture->shard, conn, MIDGE_REQUEST_FLUSH | MIDGE_REQUEST_POLL_OUT);
    midge_outbox_unlock(outbox);
}

Test(pressure, what_is_sent_at_the_end_is_cut_as_soon_as_no_other_shard_is_sending)
{
    struct fixture fixture;
    struct midge_conn *conn;
    uint32_t publisher;
    uint32_t reader;
    uint64_t asked;

    start_numbered(&fixture, &reader, &publisher);
    (void)publish_until_paused(&fixture, reader, publisher);
    conn = conn_of(&fixture, reader);
    asked = begin_foreign_send(&conn->outbox);
    cr_assert_gt(asked, 2 * FRAME_LEN);
    midge_shard_stop(fixture.shard);
    pass_ms(&fixture, 1100);
    cr_assert_gt(conn->last_tries, 0);
    end_foreign_send(&fixture, conn, asked);
    settle(&fixture);
    cr_assert_leq(conn->outbox.pending_bytes, FRAME_LEN, "more than the frame under way");
    /* Room for that one, but not for all that was pending. */
    cr_assert_eq(midge_sim_peer_read(fixture.sim, reader, NULL, FRAME_LEN + 500), FRAME_LEN + 500);
    pass_ms(&fixture, 1000);
    cr_assert_eq((drain(&fixture, reader) + FRAME_LEN + 500) % FRAME_LEN, 0, "a torn frame");
    cr_assert_eq(midge_sim_peer_state(fixture.sim, reader), MIDGE_SIM_PEER_EOF);
    stop(&fixture);
}

/* Subscribe to ever new subjects until the broker refuses. @return subscriptions made */
static uint32_t subscribe_until_refused(struct fixture *fixture, uint32_t peer, uint32_t sid_len)
{
    char line[4096];

    for (uint32_t i = 0; i < 1000000; i++) {
        const int len = snprintf(line, sizeof(line), "SUB s.%u %0*u\r\n", i, (int)sid_len, i);

        write_all(fixture, peer, line, (size_t)len);
        if (midge_sim_peer_unread(fixture->sim, peer) > 0)
            return i;
    }
    return UINT32_MAX;
}

Test(pressure, subscriptions_up_to_max_memory_close_nobody)
{
    struct fixture fixture;
    uint32_t greedy;
    uint32_t modest;

    prepare(&fixture);
    fixture.config.memory_bytes_max = 4 << 20;
    start(&fixture);
    modest = join(&fixture, "SUB a 1\r\n");
    greedy = join(&fixture, "");
    cr_assert_lt(subscribe_until_refused(&fixture, greedy, 8), UINT32_MAX);
    for (uint32_t i = 0; i < 100; i++) {
        write_text(&fixture, modest, "PUB a 2\r\nhi\r\n");
        cr_assert(is_open(&fixture, modest), "closed for the memory of another one");
    }
    cr_assert(is_open(&fixture, greedy));
    cr_assert_eq(midge_stats_read(&fixture.shard->stats.memory_closed), 0);
    stop(&fixture);
}

Test(pressure, what_sids_hold_counts_towards_max_memory)
{
    struct fixture fixture;
    uint32_t greedy;
    uint32_t count;

    prepare(&fixture);
    fixture.config.memory_bytes_max = 4 << 20;
    start(&fixture);
    greedy = join(&fixture, "");
    count = subscribe_until_refused(&fixture, greedy, 4000);
    cr_assert_lt((uint64_t)count * 4000, fixture.config.memory_bytes_max, "%u subscriptions",
                 count);
    stop(&fixture);
}

Test(pressure, memory_comes_back_when_subscriptions_leave)
{
    struct fixture fixture;
    uint64_t before;
    uint32_t peer;

    prepare(&fixture);
    start(&fixture);
    (void)join(&fixture, "");
    before = midge_broker_memory_bytes(&fixture.broker);
    peer = join(&fixture, "");
    for (uint32_t i = 0; i < 1000; i++) {
        char line[64];

        (void)snprintf(line, sizeof(line), "SUB many %u\r\n%s", i,
                       i % 3 == 0 ? "UNSUB 0 1\r\n" : "");
        write_text(&fixture, peer, line);
    }
    cr_assert_gt(midge_broker_memory_bytes(&fixture.broker),
                 before + 1000 * sizeof(struct midge_sub));
    midge_sim_peer_close(fixture.sim, peer);
    settle(&fixture);
    cr_assert_leq(midge_broker_memory_bytes(&fixture.broker), before);
    stop(&fixture);
}

/* A second CONNECT with a name of so many bytes that are no characters: each becomes three. */
static void rename_peer(struct fixture *fixture, uint32_t peer, uint32_t len)
{
    char line[4096] = "CONNECT {\"name\":\"";
    const size_t head_len = strlen(line);

    memset(line + head_len, 0xff, len);
    memcpy(line + head_len + len, "\"}\r\n", sizeof("\"}\r\n"));
    write_text(fixture, peer, line);
    (void)drain(fixture, peer);
}

Test(pressure, what_connect_said_counts_until_it_is_replaced_or_the_connection_ends)
{
    struct fixture fixture;
    int64_t before;
    uint32_t peer;

    prepare(&fixture);
    start(&fixture);
    before = fixture.shard->charged_bytes;
    peer = join(&fixture, "");
    rename_peer(&fixture, peer, 3900);
    cr_assert_geq(fixture.shard->charged_bytes, before + 3 * 3900);
    cr_assert_geq(midge_broker_memory_bytes(&fixture.broker), 3 * 3900);
    rename_peer(&fixture, peer, 10);
    cr_assert_leq(fixture.shard->charged_bytes, before + 100);
    rename_peer(&fixture, peer, 3900);
    midge_sim_peer_close(fixture.sim, peer);
    settle(&fixture);
    cr_assert_eq(fixture.shard->charged_bytes, before);
    stop(&fixture);
}

Test(pressure, what_connect_said_is_bounded_by_max_memory)
{
    struct fixture fixture;
    uint32_t modest;

    prepare(&fixture);
    fixture.config.memory_bytes_max = 512 << 10;
    start(&fixture);
    modest = join(&fixture, "");
    for (uint32_t i = 0; i < 60; i++)
        rename_peer(&fixture, join(&fixture, ""), 3900);
    cr_assert_leq(midge_broker_memory_bytes(&fixture.broker), 512 << 10);
    cr_assert_gt(midge_stats_read(&fixture.shard->stats.memory_closed), 0);
    cr_assert(is_open(&fixture, modest), "closed for the memory of another one");
    stop(&fixture);
}

Test(pressure, those_that_are_closing_are_closed_first_when_memory_is_short)
{
    struct fixture fixture;
    uint32_t publisher;
    uint32_t modest;
    uint32_t greedy;

    prepare(&fixture);
    fixture.config.memory_bytes_max = 4 << 20;
    start(&fixture);
    modest = join(&fixture, "SUB a 1\r\n");
    greedy = join(&fixture, "SUB big 1\r\n");
    publisher = join(&fixture, "");
    publish_mib(&fixture, publisher);
    /* It now owes more than any other one, and takes its time to go. */
    write_text(&fixture, greedy, "NONSENSE\r\n");
    fixture.broker.memory_bytes_max = 1 << 19;
    fixture.shard->memory_short = true;
    for (uint32_t i = 0; i < 100; i++) {
        write_text(&fixture, modest, "PUB a 2\r\nhi\r\n");
        cr_assert(is_open(&fixture, modest), "closed for the memory of another one");
    }
    stop(&fixture);
}
