/*
 * What a second CONNECT drops: nothing of it is delivered or counted any more, it leaves the index
 * a bounded number per turn, and all it cost is given back. Method: one shard on the simulated
 * ring; messages are dispatched between two turns, where subscriptions are half on their way.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "midge/ring_sim.h"
#include "shard.h"

#define NS_PER_MS 1000000ull

/* Enough for many turns of leaving. */
#define SUB_COUNT 5000u

#define CONNECT_LINE "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n"

struct fixture {
    struct midge_config config;
    struct midge_broker broker;
    struct midge_log *log;
    struct midge_sim *sim;
    struct midge_shard *shard;
    int listener;
};

static void start(struct fixture *fixture, uint32_t subs_max)
{
    const struct midge_sim_options options = {.seed = 42};
    struct midge_ring *ring;

    memset(fixture, 0, sizeof(*fixture));
    midge_config_init(&fixture->config);
    fixture->config.connections_max = 64;
    fixture->config.subs_max = subs_max;
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

static void settle(struct fixture *fixture)
{
    for (uint32_t i = 0; i < 100; i++)
        midge_shard_turn(fixture->shard, false);
}

static void stop(struct fixture *fixture)
{
    midge_shard_stop(fixture->shard);
    while (!midge_shard_is_idle(fixture->shard)) {
        midge_shard_turn(fixture->shard, false);
        midge_sim_advance(fixture->sim, 100 * NS_PER_MS);
    }
    cr_assert_eq(fixture->shard->charged_bytes, 0);
    midge_shard_destroy(fixture->shard);
    midge_sim_destroy(fixture->sim);
    midge_broker_deinit(&fixture->broker);
    midge_log_destroy(fixture->log);
    midge_config_deinit(&fixture->config);
}

/* Write all of it, with turns in between until it is read; not one more. */
static void write_text(struct fixture *fixture, uint32_t peer, const char *text)
{
    size_t len = strlen(text);

    while (len > 0 || midge_sim_peer_room(fixture->sim, peer) == 0) {
        const uint32_t taken =
            midge_sim_peer_write(fixture->sim, peer, midge_slice_make(text, (uint32_t)len));

        text += taken;
        len -= taken;
        midge_shard_turn(fixture->shard, false);
    }
}

/* Read all that comes. @return messages among it; only they have an M in these tests */
static uint32_t drain(struct fixture *fixture, uint32_t peer)
{
    static char bytes[65536];
    uint32_t messages = 0;
    uint32_t len;

    settle(fixture);
    while ((len = midge_sim_peer_read(fixture->sim, peer, bytes, sizeof(bytes))) > 0) {
        for (uint32_t i = 0; i < len; i++)
            messages += bytes[i] == 'M';
        settle(fixture);
    }
    return messages;
}

/* Slots are taken in the order in which peers connect. */
static struct midge_conn *join(struct fixture *fixture, uint32_t *peer_out)
{
    *peer_out = midge_sim_peer_connect(fixture->sim, fixture->listener);
    write_text(fixture, *peer_out, CONNECT_LINE);
    (void)drain(fixture, *peer_out);
    return &fixture->broker.conns[*peer_out];
}

static void subscribe(struct fixture *fixture, uint32_t peer, uint32_t count, const char *more)
{
    char line[128];

    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(line, sizeof(line), "SUB s.%u %u\r\n", i % 100, i);
        write_text(fixture, peer, line);
        if (more != NULL) {
            (void)snprintf(line, sizeof(line), more, i);
            write_text(fixture, peer, line);
        }
    }
    (void)drain(fixture, peer);
}

/* One message to each subject, between two turns. */
static void publish(struct fixture *fixture, struct midge_conn *conn)
{
    char subject[16];

    for (uint32_t i = 0; i < 100; i++) {
        const struct midge_op op = {
            .kind = MIDGE_OP_PUB,
            .subject =
                midge_slice_make(subject, (uint32_t)snprintf(subject, sizeof(subject), "s.%u", i)),
            .reply = MIDGE_SLICE_LITERAL("s.1"),
            .size_text = MIDGE_SLICE_LITERAL("0"),
            .payload = MIDGE_SLICE_LITERAL(""),
            .payload_whole = true};

        midge_dispatch_publish(fixture->shard, conn, &op);
    }
}

static uint64_t indexed(const struct fixture *fixture)
{
    struct midge_subindex_counts counts;

    midge_subindex_counts(fixture->broker.index, &counts);
    return counts.subs;
}

/* What subscriptions and the index cost. */
static int64_t held_bytes(const struct fixture *fixture)
{
    struct midge_subindex_counts counts;

    midge_subindex_counts(fixture->broker.index, &counts);
    return (int64_t)counts.bytes + fixture->shard->charged_bytes;
}

static uint64_t out_msgs(const struct fixture *fixture)
{
    return midge_stats_read(&fixture->shard->stats.out_msgs);
}

Test(drop, nothing_is_delivered_from_the_connect_on)
{
    struct fixture fixture;
    struct midge_conn *conn;
    struct midge_conn *other;
    uint32_t peer;
    uint32_t publisher;

    start(&fixture, 0);
    conn = join(&fixture, &peer);
    other = join(&fixture, &publisher);
    subscribe(&fixture, peer, SUB_COUNT, NULL);
    publish(&fixture, other);
    cr_assert_eq(drain(&fixture, peer), SUB_COUNT);
    write_text(&fixture, peer, CONNECT_LINE);
    cr_assert_gt(indexed(&fixture), SUB_COUNT / 2, "all left in one turn");
    cr_assert_eq(conn->subs.count, 0);
    for (uint32_t i = 0; indexed(&fixture) > 0; i++) {
        cr_assert_lt(i, SUB_COUNT * (MIDGE_PURGE_SUB_STEPS + 16) / MIDGE_PURGE_STEPS_MAX + 10,
                     "they do not leave");
        publish(&fixture, other);
        publish(&fixture, conn);
        midge_shard_turn(fixture.shard, false);
    }
    cr_assert_eq(drain(&fixture, peer), 0);
    cr_assert_eq(out_msgs(&fixture), SUB_COUNT);
    cr_assert_null(conn->old_subs);
    stop(&fixture);
}

Test(drop, a_sid_is_free_again_at_once_and_means_the_new_subscription)
{
    struct fixture fixture;
    struct midge_conn *other;
    uint32_t peer;
    uint32_t publisher;

    start(&fixture, 0);
    (void)join(&fixture, &peer);
    other = join(&fixture, &publisher);
    subscribe(&fixture, peer, SUB_COUNT, NULL);
    write_text(&fixture, peer, CONNECT_LINE "SUB s.7 1\r\nSUB s.7 2\r\nUNSUB 2\r\nUNSUB 3\r\n");
    cr_assert_gt(indexed(&fixture), SUB_COUNT / 2);
    publish(&fixture, other);
    cr_assert_eq(drain(&fixture, peer), 1);
    cr_assert_eq(indexed(&fixture), 1);
    stop(&fixture);
}

Test(drop, a_requester_without_its_inbox_gets_no_503)
{
    struct fixture fixture;
    struct midge_conn *conn;
    uint32_t peer;

    start(&fixture, 0);
    conn = join(&fixture, &peer);
    subscribe(&fixture, peer, SUB_COUNT, NULL);
    write_text(&fixture, peer, "CONNECT {\"no_responders\":true,\"headers\":true}\r\n");
    publish(&fixture, conn);
    cr_assert_eq(midge_stats_read(&fixture.shard->stats.no_responders), 0);
    write_text(&fixture, peer, "SUB s.1 1\r\n");
    cr_assert_gt(indexed(&fixture), SUB_COUNT / 2);
    publish(&fixture, conn);
    /* Each message but the one that the subscription itself gets is answered there. */
    cr_assert_eq(midge_stats_read(&fixture.shard->stats.no_responders), 99);
    stop(&fixture);
}

Test(drop, those_at_their_max_are_not_looked_for_one_by_one)
{
    struct fixture fixture;
    struct midge_conn *conn;
    uint32_t peer;

    start(&fixture, 0);
    conn = join(&fixture, &peer);
    subscribe(&fixture, peer, SUB_COUNT, "UNSUB %u 1\r\n");
    publish(&fixture, conn);
    cr_assert_not_null(conn->expired);
    midge_conn_drop_subs(fixture.shard, conn);
    cr_assert_null(conn->expired);
    cr_assert_eq(drain(&fixture, peer), SUB_COUNT);
    subscribe(&fixture, peer, 200, "UNSUB %u 1\r\n");
    publish(&fixture, conn);
    cr_assert_not_null(conn->expired);
    settle(&fixture);
    cr_assert_null(conn->expired);
    cr_assert_eq(indexed(&fixture), 0);
    cr_assert_eq(drain(&fixture, peer), 200);
    stop(&fixture);
}

Test(drop, connects_in_a_row_hold_no_more_than_twice_what_was_made)
{
    const uint32_t count = 1000;
    struct fixture fixture;
    struct midge_conn *conn;
    uint32_t peer;
    char *text = malloc(count * 32 + 128);
    char *at = text;

    /* SUB and CONNECT are handled faster than turns go by. */
    cr_assert_not_null(text);
    at += snprintf(at, 128, CONNECT_LINE);
    for (uint32_t i = 0; i < count; i++)
        at += snprintf(at, 32, "SUB s.%u %u\r\n", i % 100, i);
    start(&fixture, count);
    conn = join(&fixture, &peer);
    for (uint32_t i = 0; i < 50; i++) {
        write_text(&fixture, peer, text);
        cr_assert_leq(indexed(&fixture), 2 * count + 1);
    }
    cr_assert_eq(conn->subs.count, count, "max_subscriptions counts those that were dropped");
    settle(&fixture);
    cr_assert_eq(indexed(&fixture), count);
    for (uint32_t i = 0; i < 2000; i++)
        write_text(&fixture, peer, CONNECT_LINE "SUB a 1\r\n" CONNECT_LINE "SUB a 1\r\n");
    settle(&fixture);
    cr_assert_eq(indexed(&fixture), 1);
    cr_assert_null(conn->old_subs);
    free(text);
    stop(&fixture);
}

Test(drop, a_slot_is_free_when_the_last_of_them_has_left)
{
    struct fixture fixture;
    struct midge_conn *conn;
    struct midge_conn *other;
    int64_t before;
    uint32_t peer;
    uint32_t publisher;
    uint32_t next;

    start(&fixture, 0);
    other = join(&fixture, &publisher);
    before = held_bytes(&fixture);
    conn = join(&fixture, &peer);
    subscribe(&fixture, peer, SUB_COUNT, NULL);
    write_text(&fixture, peer, CONNECT_LINE);
    subscribe(&fixture, peer, 500, NULL);
    midge_conn_drop_subs(fixture.shard, conn);
    write_text(&fixture, peer, "SUB s.1 1\r\n");
    midge_conn_close(fixture.shard, conn, MIDGE_E_READ);
    while (conn->state != MIDGE_CONN_FREE) {
        cr_assert(indexed(&fixture) == 0 || conn->state != MIDGE_CONN_RESTING);
        publish(&fixture, other);
        midge_shard_turn(fixture.shard, false);
    }
    cr_assert_eq(indexed(&fixture), 0);
    settle(&fixture);
    cr_assert_eq(held_bytes(&fixture), before);
    cr_assert_eq(out_msgs(&fixture), 0);
    next = midge_sim_peer_connect(fixture.sim, fixture.listener);
    write_text(&fixture, next, CONNECT_LINE "SUB s.1 1\r\n");
    (void)drain(&fixture, next);
    cr_assert_eq(conn->state, MIDGE_CONN_OPEN, "the slot is not used again");
    publish(&fixture, other);
    cr_assert_eq(drain(&fixture, next), 1);
    stop(&fixture);
}
