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
#include "rig.h"

/* Publish 1 MiB to `big` in messages of 8,000 bytes, which stay with a subscriber that does not
 * read. */
static void publish_mib(struct midge_rig *rig, uint32_t peer)
{
    static char message[8100];
    const int len = snprintf(message, sizeof(message), "PUB big 8000\r\n%08000d\r\n", 1);

    for (uint32_t i = 0; i < 128; i++) {
        if (midge_sim_peer_room(rig->sim, peer) < (uint32_t)len)
            return;
        midge_rig_write(rig, peer, message, (size_t)len);
    }
}

static uint32_t paused_count(const struct midge_rig *rig)
{
    uint32_t count = 0;

    for (const struct midge_conn *conn = rig->shard->paused; conn != NULL; conn = conn->next_paused)
        count++;
    return count;
}

static bool is_open(struct midge_rig *rig, uint32_t peer)
{
    (void)midge_rig_drain(rig, peer);
    return midge_sim_peer_state(rig->sim, peer) == MIDGE_SIM_PEER_OPEN;
}

Test(pressure, a_publisher_goes_on_when_the_one_it_waits_for_leaves)
{
    struct midge_rig rig;
    uint32_t reader;
    uint32_t publisher;

    midge_rig_prepare(&rig);
    rig.config.pending_bytes_max = 2 << 20;
    midge_rig_start(&rig);
    reader = midge_rig_join(&rig, "SUB big 1\r\n");
    publisher = midge_rig_join(&rig, "");
    publish_mib(&rig, publisher);
    midge_rig_settle(&rig);
    cr_assert_eq(paused_count(&rig), 1);
    midge_sim_peer_reset(rig.sim, reader);
    midge_rig_settle(&rig);
    cr_assert_eq(paused_count(&rig), 0, "still waits for a connection that is gone");
    midge_rig_stop(&rig);
}

Test(pressure, a_publisher_goes_on_when_the_one_it_waits_for_is_being_closed)
{
    struct midge_rig rig;
    uint32_t reader;
    uint32_t publisher;

    midge_rig_prepare(&rig);
    rig.config.pending_bytes_max = 2 << 20;
    midge_rig_start(&rig);
    reader = midge_rig_join(&rig, "SUB big 1\r\n");
    publisher = midge_rig_join(&rig, "");
    publish_mib(&rig, publisher);
    midge_rig_settle(&rig);
    cr_assert_eq(paused_count(&rig), 1);
    midge_rig_write_text(&rig, reader, "NONSENSE\r\n");
    midge_rig_settle(&rig);
    cr_assert_eq(paused_count(&rig), 0, "waits for one that takes no more messages");
    midge_rig_stop(&rig);
}

Test(pressure, a_publisher_goes_on_whichever_of_many_recipients_catches_up)
{
    for (uint32_t fast = 0; fast < 12; fast++) {
        struct midge_rig rig;
        uint32_t readers[12];
        uint32_t publisher;

        midge_rig_prepare(&rig);
        rig.config.pending_bytes_max = 2 << 20;
        midge_rig_start(&rig);
        for (uint32_t i = 0; i < 12; i++)
            readers[i] = midge_rig_join(&rig, "SUB big 1\r\n");
        publisher = midge_rig_join(&rig, "");
        publish_mib(&rig, publisher);
        midge_rig_settle(&rig);
        cr_assert_eq(paused_count(&rig), 1);
        (void)midge_rig_drain(&rig, readers[fast]);
        cr_assert_eq(paused_count(&rig), 0, "number %u has caught up", fast);
        midge_rig_stop(&rig);
    }
}

Test(pressure, a_publisher_that_is_not_read_is_not_stale)
{
    struct midge_rig rig;
    uint32_t publisher;
    uint32_t reader;

    midge_rig_prepare(&rig);
    rig.config.pending_bytes_max = 2 << 20;
    rig.config.ping_interval_ms = 1000;
    rig.config.ping_max = 2;
    midge_rig_start(&rig);
    reader = midge_rig_join(&rig, "SUB big 1\r\n");
    publisher = midge_rig_join(&rig, "");
    publish_mib(&rig, publisher);
    midge_rig_settle(&rig);
    cr_assert_eq(paused_count(&rig), 1);
    for (uint32_t i = 0; i < 50; i++) {
        /* Both answer every PING, but the publisher's PONG waits where its messages wait. */
        midge_rig_write_text(&rig, reader, "PONG\r\n");
        if (midge_rig_drain(&rig, publisher) > 0)
            (void)midge_sim_peer_write(rig.sim, publisher, MIDGE_SLICE_LITERAL("PONG\r\n"));
        midge_rig_pass_ms(&rig, 100);
    }
    cr_assert(is_open(&rig, publisher), "closed as stale while it was not read");
    cr_assert_eq(paused_count(&rig), 1);
    midge_rig_stop(&rig);
}

/* Messages of 1,000 bytes that begin with their number. */
#define NUMBERED_LEN 1000
#define FRAME_LEN    (sizeof("MSG n 1 1000\r\n\r\n") - 1 + NUMBERED_LEN)

/* A subscriber that does not read, with little room, and a publisher. */
static void start_numbered(struct midge_rig *rig, uint32_t *reader, uint32_t *publisher)
{
    midge_rig_prepare(rig);
    rig->config.pending_bytes_max = 80000;
    midge_rig_start(rig);
    *reader = midge_rig_join(rig, "SUB n 1\r\n");
    *publisher = midge_rig_join(rig, "");
}

/* Write up to `count` messages, as long as there is room; no turn in between. @return number of the
 * next one */
static uint32_t write_numbered(struct midge_rig *rig, uint32_t peer, uint32_t number,
                               uint32_t count)
{
    const uint32_t end = number + count;
    char message[NUMBERED_LEN + 100];

    for (; number < end; number++) {
        const int len = snprintf(message, sizeof(message), "PUB n %d\r\n%0*u\r\n", NUMBERED_LEN,
                                 NUMBERED_LEN, number);

        if (midge_sim_peer_room(rig->sim, peer) < (uint32_t)len)
            break;
        (void)midge_sim_peer_write(rig->sim, peer, midge_slice_make(message, (uint32_t)len));
    }
    return number;
}

/* Read all that comes: the messages from `first` to `end`, and nothing else. */
static void expect_numbered(struct midge_rig *rig, uint32_t peer, uint32_t first, uint32_t end)
{
    char want[FRAME_LEN + 100];
    char have[FRAME_LEN + 1];
    uint32_t len = 0;

    for (uint32_t number = first; number < end;) {
        const uint32_t got =
            midge_sim_peer_read(rig->sim, peer, have + len, (uint32_t)FRAME_LEN - len);

        if (got == 0) {
            midge_rig_settle(rig);
            cr_assert_gt(midge_sim_peer_unread(rig->sim, peer), 0, "nothing behind message %u",
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
    cr_assert_eq(midge_rig_drain(rig, peer), 0, "more than was published");
}

/* The reader's socket takes the first ones. Then the publisher is paused, in a turn that has
 * received more. @return number of the next message */
static uint32_t publish_until_paused(struct midge_rig *rig, uint32_t reader, uint32_t publisher)
{
    uint32_t number;

    number = write_numbered(rig, publisher, 0, UINT16_MAX);
    midge_rig_settle(rig);
    cr_assert_eq(paused_count(rig), 0);
    number = write_numbered(rig, publisher, number, UINT16_MAX);
    midge_rig_settle(rig);
    cr_assert_eq(paused_count(rig), 1);
    cr_assert_gt(midge_rig_conn(rig, reader)->outbox.pending_bytes, 0);
    cr_assert_not_null(midge_rig_conn(rig, publisher)->backlog,
                       "nothing was received in that turn");
    return number;
}

Test(pressure, a_paused_publisher_delivers_nothing_until_it_goes_on)
{
    struct midge_rig rig;
    uint32_t publisher;
    uint32_t reader;
    uint32_t number;
    uint64_t in_msgs;

    start_numbered(&rig, &reader, &publisher);
    number = publish_until_paused(&rig, reader, publisher);
    in_msgs = midge_stats_read(&rig.shard->stats.in_msgs);
    cr_assert_leq(midge_rig_conn(&rig, reader)->outbox.pending_bytes,
                  rig.config.pending_bytes_max / MIDGE_PENDING_HIGH_DIVISOR +
                      rig.config.pending_bytes_max / MIDGE_RUN_PENDING_DIVISOR + FRAME_LEN,
                  "more than the run that went over the mark");
    (void)write_numbered(&rig, publisher, number, UINT16_MAX);
    midge_rig_settle(&rig);
    cr_assert_eq(midge_stats_read(&rig.shard->stats.in_msgs), in_msgs);
    cr_assert_eq(paused_count(&rig), 1);
    midge_rig_stop(&rig);
}

Test(pressure, what_was_received_while_a_publisher_was_paused_comes_in_order)
{
    struct midge_rig rig;
    uint32_t publisher;
    uint32_t reader;
    uint32_t number;

    start_numbered(&rig, &reader, &publisher);
    number = publish_until_paused(&rig, reader, publisher);
    number = write_numbered(&rig, publisher, number, UINT16_MAX);
    expect_numbered(&rig, reader, 0, number);
    cr_assert_eq(paused_count(&rig), 0);
    cr_assert_null(midge_rig_conn(&rig, publisher)->backlog);
    cr_assert(is_open(&rig, publisher));
    cr_assert(is_open(&rig, reader));
    midge_rig_stop(&rig);
}

Test(pressure, the_end_of_a_stream_comes_behind_what_was_received_before_it)
{
    struct midge_rig rig;
    uint32_t publisher;
    uint32_t reader;
    uint32_t number;

    start_numbered(&rig, &reader, &publisher);
    number = write_numbered(&rig, publisher, 0, UINT16_MAX);
    midge_rig_settle(&rig);
    /* Few enough for the end to be received in the same turn. */
    number = write_numbered(&rig, publisher, number, 30);
    midge_sim_peer_shutdown(rig.sim, publisher);
    midge_rig_settle(&rig);
    cr_assert_eq(paused_count(&rig), 1);
    cr_assert_not_null(midge_rig_conn(&rig, publisher)->backlog);
    cr_assert_eq(midge_rig_conn(&rig, publisher)->backlog->end, MIDGE_E_EOF);
    expect_numbered(&rig, reader, 0, number);
    midge_rig_settle(&rig);
    cr_assert_neq(midge_sim_peer_state(rig.sim, publisher), MIDGE_SIM_PEER_OPEN);
    cr_assert_eq(paused_count(&rig), 0);
    midge_rig_stop(&rig);
}

Test(pressure, what_a_paused_publisher_has_sent_counts_as_its_memory_until_it_is_used_or_dropped)
{
    for (uint32_t dropped = 0; dropped < 2; dropped++) {
        struct midge_rig rig;
        struct midge_conn *conn;
        uint32_t publisher;
        uint32_t reader;
        uint32_t number;

        start_numbered(&rig, &reader, &publisher);
        number = publish_until_paused(&rig, reader, publisher);
        conn = midge_rig_conn(&rig, publisher);
        cr_assert_geq(conn->incoming_bytes, conn->backlog->len - conn->backlog->off);
        if (dropped == 1)
            midge_conn_close(rig.shard, conn, MIDGE_E_SHUTDOWN);
        else
            expect_numbered(&rig, reader, 0, number);
        midge_rig_settle(&rig);
        cr_assert_null(conn->backlog);
        cr_assert_eq(conn->incoming_bytes, 0);
        midge_rig_stop(&rig);
    }
}

Test(pressure, subscriptions_at_their_max_leave_a_closed_connection_with_the_others)
{
    const struct midge_op op = {.kind = MIDGE_OP_PUB,
                                .subject = MIDGE_SLICE_LITERAL("a"),
                                .size_text = MIDGE_SLICE_LITERAL("0"),
                                .payload = MIDGE_SLICE_LITERAL(""),
                                .payload_whole = true};
    struct midge_rig rig;
    struct midge_conn *conn;
    uint32_t peer;

    midge_rig_prepare(&rig);
    midge_rig_start(&rig);
    peer = midge_rig_join(&rig, "");
    for (uint32_t i = 0; i < 5000; i++) {
        char line[64];

        (void)snprintf(line, sizeof(line), "SUB a %u\r\nUNSUB %u 1\r\n", i, i);
        midge_rig_write_text(&rig, peer, line);
    }
    conn = midge_rig_conn(&rig, peer);
    cr_assert_eq(conn->subs.count, 5000);
    midge_dispatch_publish(rig.shard, conn, &op);
    midge_dispatch_end_run(rig.shard);
    cr_assert_not_null(conn->expired);
    midge_conn_close(rig.shard, conn, MIDGE_E_READ);
    while (conn->state == MIDGE_CONN_OPEN || conn->state == MIDGE_CONN_CLOSING)
        midge_shard_turn(rig.shard, false);
    cr_assert_null(conn->expired, "each is looked for in the list of all");
    midge_rig_settle(&rig);
    cr_assert_eq(conn->state, MIDGE_CONN_FREE);
    cr_assert_eq(conn->subs.count, 0);
    midge_rig_stop(&rig);
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
static void end_foreign_send(struct midge_rig *rig, struct midge_conn *conn, uint64_t asked)
{
    struct midge_outbox *outbox = &conn->outbox;

    midge_outbox_lock(outbox);
    (void)midge_outbox_settle(outbox, 0, asked, rig->shard->now_ns);
    midge_shard_request(rig->shard, conn, MIDGE_REQUEST_FLUSH | MIDGE_REQUEST_POLL_OUT);
    midge_outbox_unlock(outbox);
}

Test(pressure, what_is_sent_at_the_end_is_cut_as_soon_as_no_other_shard_is_sending)
{
    struct midge_rig rig;
    struct midge_conn *conn;
    uint32_t publisher;
    uint32_t reader;
    uint64_t asked;

    start_numbered(&rig, &reader, &publisher);
    (void)publish_until_paused(&rig, reader, publisher);
    conn = midge_rig_conn(&rig, reader);
    asked = begin_foreign_send(&conn->outbox);
    cr_assert_gt(asked, 2 * FRAME_LEN);
    midge_shard_stop(rig.shard);
    midge_rig_pass_ms(&rig, 1100);
    cr_assert_gt(conn->last_tries, 0);
    end_foreign_send(&rig, conn, asked);
    midge_rig_settle(&rig);
    cr_assert_leq(conn->outbox.pending_bytes, FRAME_LEN, "more than the frame under way");
    /* Room for that one, but not for all that was pending. */
    cr_assert_eq(midge_sim_peer_read(rig.sim, reader, NULL, FRAME_LEN + 500), FRAME_LEN + 500);
    midge_rig_pass_ms(&rig, 1000);
    cr_assert_eq((midge_rig_drain(&rig, reader) + FRAME_LEN + 500) % FRAME_LEN, 0, "a torn frame");
    cr_assert_eq(midge_sim_peer_state(rig.sim, reader), MIDGE_SIM_PEER_EOF);
    midge_rig_stop(&rig);
}

/* Subscribe to ever new subjects until the broker refuses. @return subscriptions made */
static uint32_t subscribe_until_refused(struct midge_rig *rig, uint32_t peer, uint32_t sid_len)
{
    char line[4096];

    for (uint32_t i = 0; i < 1000000; i++) {
        const int len = snprintf(line, sizeof(line), "SUB s.%u %0*u\r\n", i, (int)sid_len, i);

        midge_rig_write(rig, peer, line, (size_t)len);
        if (midge_sim_peer_unread(rig->sim, peer) > 0)
            return i;
    }
    return UINT32_MAX;
}

Test(pressure, subscriptions_up_to_max_memory_close_nobody)
{
    struct midge_rig rig;
    uint32_t greedy;
    uint32_t modest;

    midge_rig_prepare(&rig);
    rig.config.memory_bytes_max = 4 << 20;
    midge_rig_start(&rig);
    modest = midge_rig_join(&rig, "SUB a 1\r\n");
    greedy = midge_rig_join(&rig, "");
    cr_assert_lt(subscribe_until_refused(&rig, greedy, 8), UINT32_MAX);
    for (uint32_t i = 0; i < 100; i++) {
        midge_rig_write_text(&rig, modest, "PUB a 2\r\nhi\r\n");
        cr_assert(is_open(&rig, modest), "closed for the memory of another one");
    }
    cr_assert(is_open(&rig, greedy));
    cr_assert_eq(midge_stats_read(&rig.shard->stats.memory_closed), 0);
    midge_rig_stop(&rig);
}

Test(pressure, what_sids_hold_counts_towards_max_memory)
{
    struct midge_rig rig;
    uint32_t greedy;
    uint32_t count;

    midge_rig_prepare(&rig);
    rig.config.memory_bytes_max = 4 << 20;
    midge_rig_start(&rig);
    greedy = midge_rig_join(&rig, "");
    count = subscribe_until_refused(&rig, greedy, 4000);
    cr_assert_lt((uint64_t)count * 4000, rig.config.memory_bytes_max, "%u subscriptions", count);
    midge_rig_stop(&rig);
}

Test(pressure, memory_comes_back_when_subscriptions_leave)
{
    struct midge_rig rig;
    uint64_t before;
    uint32_t peer;

    midge_rig_prepare(&rig);
    midge_rig_start(&rig);
    (void)midge_rig_join(&rig, "");
    before = midge_broker_memory_bytes(&rig.broker);
    peer = midge_rig_join(&rig, "");
    for (uint32_t i = 0; i < 1000; i++) {
        char line[64];

        (void)snprintf(line, sizeof(line), "SUB many %u\r\n%s", i,
                       i % 3 == 0 ? "UNSUB 0 1\r\n" : "");
        midge_rig_write_text(&rig, peer, line);
    }
    cr_assert_gt(midge_broker_memory_bytes(&rig.broker), before + 1000 * sizeof(struct midge_sub));
    midge_sim_peer_close(rig.sim, peer);
    midge_rig_settle(&rig);
    cr_assert_leq(midge_broker_memory_bytes(&rig.broker), before);
    midge_rig_stop(&rig);
}

/* A second CONNECT with a name of so many bytes that are no characters: each becomes three. */
static void rename_peer(struct midge_rig *rig, uint32_t peer, uint32_t len)
{
    char line[4096] = "CONNECT {\"name\":\"";
    const size_t head_len = strlen(line);

    memset(line + head_len, 0xff, len);
    memcpy(line + head_len + len, "\"}\r\n", sizeof("\"}\r\n"));
    midge_rig_write_text(rig, peer, line);
    (void)midge_rig_drain(rig, peer);
}

Test(pressure, what_connect_said_counts_until_it_is_replaced_or_the_connection_ends)
{
    struct midge_rig rig;
    int64_t before;
    uint32_t peer;

    midge_rig_prepare(&rig);
    midge_rig_start(&rig);
    before = rig.shard->charged_bytes;
    peer = midge_rig_join(&rig, "");
    rename_peer(&rig, peer, 3900);
    cr_assert_geq(rig.shard->charged_bytes, before + 3 * 3900);
    cr_assert_geq(midge_broker_memory_bytes(&rig.broker), 3 * 3900);
    rename_peer(&rig, peer, 10);
    cr_assert_leq(rig.shard->charged_bytes, before + 100);
    rename_peer(&rig, peer, 3900);
    midge_sim_peer_close(rig.sim, peer);
    midge_rig_settle(&rig);
    cr_assert_eq(rig.shard->charged_bytes, before);
    midge_rig_stop(&rig);
}

Test(pressure, what_connect_said_is_bounded_by_max_memory)
{
    struct midge_rig rig;
    uint32_t modest;

    midge_rig_prepare(&rig);
    rig.config.memory_bytes_max = 512 << 10;
    midge_rig_start(&rig);
    modest = midge_rig_join(&rig, "");
    for (uint32_t i = 0; i < 60; i++)
        rename_peer(&rig, midge_rig_join(&rig, ""), 3900);
    cr_assert_leq(midge_broker_memory_bytes(&rig.broker), 512 << 10);
    cr_assert_gt(midge_stats_read(&rig.shard->stats.memory_closed), 0);
    cr_assert(is_open(&rig, modest), "closed for the memory of another one");
    midge_rig_stop(&rig);
}

Test(pressure, those_that_are_closing_are_closed_first_when_memory_is_short)
{
    struct midge_rig rig;
    uint32_t publisher;
    uint32_t modest;
    uint32_t greedy;

    midge_rig_prepare(&rig);
    rig.config.memory_bytes_max = 4 << 20;
    midge_rig_start(&rig);
    modest = midge_rig_join(&rig, "SUB a 1\r\n");
    greedy = midge_rig_join(&rig, "SUB big 1\r\n");
    publisher = midge_rig_join(&rig, "");
    publish_mib(&rig, publisher);
    /* It now owes more than any other one, and takes its time to go. */
    midge_rig_write_text(&rig, greedy, "NONSENSE\r\n");
    rig.broker.memory_bytes_max = 1 << 19;
    rig.shard->memory_short = true;
    for (uint32_t i = 0; i < 100; i++) {
        midge_rig_write_text(&rig, modest, "PUB a 2\r\nhi\r\n");
        cr_assert(is_open(&rig, modest), "closed for the memory of another one");
    }
    midge_rig_stop(&rig);
}
