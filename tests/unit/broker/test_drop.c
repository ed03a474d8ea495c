/*
 * What a second CONNECT drops, or a close: nothing of it is delivered or counted any more, it
 * leaves the index a bounded number per turn, and all it cost is given back. Method: one shard on
 * the simulated ring; messages are dispatched between two turns, where subscriptions are half on
 * their way.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "dispatch.h"
#include "rig.h"

/* Enough for many turns of leaving. */
#define SUB_COUNT       5000u
#define SUB_COUNT_LARGE 100000u

/* More than is worth giving back. */
#define FREED_BYTES (64u * 1024 * 1024)

/* What is worth it only from three shards. */
#define FREED_BYTES_SMALL (3u * 1024 * 1024)

/* What one turn takes out of the index at most: each costs its steps and a slot, and the last one
 * may begin with a single step left. */
#define TURN_SUBS_MAX (MIDGE_PURGE_STEPS_MAX / (MIDGE_PURGE_SUB_STEPS + 1) + 1)

#define CONNECT_LINE "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n"

static void start(struct midge_rig *rig, uint32_t subs_max)
{
    midge_rig_prepare(rig);
    rig->config.subs_max = subs_max;
    midge_rig_start(rig);
}

/* Read all that comes. @return messages among it; only they have an M in these tests */
static uint32_t drain(struct midge_rig *rig, uint32_t peer)
{
    static char bytes[65536];
    uint32_t messages = 0;
    uint32_t len;

    midge_rig_settle(rig);
    while ((len = midge_sim_peer_read(rig->sim, peer, bytes, sizeof(bytes))) > 0) {
        for (uint32_t i = 0; i < len; i++)
            messages += bytes[i] == 'M';
        midge_rig_settle(rig);
    }
    return messages;
}

static struct midge_conn *join(struct midge_rig *rig, uint32_t *peer_out)
{
    *peer_out = midge_rig_join(rig, "");
    return midge_rig_conn(rig, *peer_out);
}

static void subscribe(struct midge_rig *rig, uint32_t peer, uint32_t count, const char *more)
{
    char line[128];

    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(line, sizeof(line), "SUB s.%u %u\r\n", i % 100, i);
        midge_rig_write_text(rig, peer, line);
        if (more != NULL) {
            (void)snprintf(line, sizeof(line), more, i);
            midge_rig_write_text(rig, peer, line);
        }
    }
    (void)drain(rig, peer);
}

/* One message to each subject, between two turns. */
static void publish(struct midge_rig *rig, struct midge_conn *conn)
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

        midge_dispatch_publish(rig->shard, conn, &op);
        midge_dispatch_end_run(rig->shard);
    }
}

static uint64_t indexed(const struct midge_rig *rig)
{
    struct midge_subindex_counts counts;

    midge_subindex_counts(rig->broker.index, &counts);
    return counts.subs;
}

/* What subscriptions and the index cost. */
static int64_t held_bytes(const struct midge_rig *rig)
{
    struct midge_subindex_counts counts;

    midge_subindex_counts(rig->broker.index, &counts);
    return (int64_t)counts.bytes + rig->shard->charged_bytes;
}

static uint64_t out_msgs(const struct midge_rig *rig)
{
    return midge_stats_read(&rig->shard->stats.out_msgs);
}

Test(drop, nothing_is_delivered_from_the_connect_on)
{
    struct midge_rig rig;
    struct midge_conn *conn;
    struct midge_conn *other;
    uint32_t peer;
    uint32_t publisher;

    start(&rig, 0);
    conn = join(&rig, &peer);
    other = join(&rig, &publisher);
    subscribe(&rig, peer, SUB_COUNT, NULL);
    publish(&rig, other);
    cr_assert_eq(drain(&rig, peer), SUB_COUNT);
    midge_rig_write_text(&rig, peer, CONNECT_LINE);
    cr_assert_gt(indexed(&rig), SUB_COUNT / 2, "all left in one turn");
    cr_assert_eq(conn->subs.count, 0);
    for (uint32_t i = 0; indexed(&rig) > 0; i++) {
        cr_assert_lt(i, SUB_COUNT * (MIDGE_PURGE_SUB_STEPS + 16) / MIDGE_PURGE_STEPS_MAX + 10,
                     "they do not leave");
        publish(&rig, other);
        publish(&rig, conn);
        midge_shard_turn(rig.shard, false);
    }
    cr_assert_eq(drain(&rig, peer), 0);
    cr_assert_eq(out_msgs(&rig), SUB_COUNT);
    cr_assert_null(conn->old_subs);
    midge_rig_stop(&rig);
}

Test(drop, a_sid_is_free_again_at_once_and_means_the_new_subscription)
{
    struct midge_rig rig;
    struct midge_conn *other;
    uint32_t peer;
    uint32_t publisher;

    start(&rig, 0);
    (void)join(&rig, &peer);
    other = join(&rig, &publisher);
    subscribe(&rig, peer, SUB_COUNT, NULL);
    midge_rig_write_text(&rig, peer,
                         CONNECT_LINE "SUB s.7 1\r\nSUB s.7 2\r\nUNSUB 2\r\nUNSUB 3\r\n");
    cr_assert_gt(indexed(&rig), SUB_COUNT / 2);
    publish(&rig, other);
    cr_assert_eq(drain(&rig, peer), 1);
    cr_assert_eq(indexed(&rig), 1);
    midge_rig_stop(&rig);
}

Test(drop, a_requester_without_its_inbox_gets_no_503)
{
    struct midge_rig rig;
    struct midge_conn *conn;
    uint32_t peer;

    start(&rig, 0);
    conn = join(&rig, &peer);
    subscribe(&rig, peer, SUB_COUNT, NULL);
    midge_rig_write_text(&rig, peer, "CONNECT {\"no_responders\":true,\"headers\":true}\r\n");
    publish(&rig, conn);
    cr_assert_eq(midge_stats_read(&rig.shard->stats.no_responders), 0);
    midge_rig_write_text(&rig, peer, "SUB s.1 1\r\n");
    cr_assert_gt(indexed(&rig), SUB_COUNT / 2);
    publish(&rig, conn);
    /* Each message but the one that the subscription itself gets is answered there. */
    cr_assert_eq(midge_stats_read(&rig.shard->stats.no_responders), 99);
    midge_rig_stop(&rig);
}

Test(drop, those_at_their_max_are_not_looked_for_one_by_one)
{
    struct midge_rig rig;
    struct midge_conn *conn;
    uint32_t peer;

    start(&rig, 0);
    conn = join(&rig, &peer);
    subscribe(&rig, peer, SUB_COUNT, "UNSUB %u 1\r\n");
    publish(&rig, conn);
    cr_assert_not_null(conn->expired);
    midge_conn_drop_subs(rig.shard, conn);
    cr_assert_null(conn->expired);
    cr_assert_eq(drain(&rig, peer), SUB_COUNT);
    subscribe(&rig, peer, 200, "UNSUB %u 1\r\n");
    publish(&rig, conn);
    cr_assert_not_null(conn->expired);
    midge_rig_settle(&rig);
    cr_assert_null(conn->expired);
    cr_assert_eq(indexed(&rig), 0);
    cr_assert_eq(drain(&rig, peer), 200);
    midge_rig_stop(&rig);
}

Test(drop, connects_in_a_row_hold_no_more_than_twice_what_was_made)
{
    const uint32_t count = 1000;
    struct midge_rig rig;
    struct midge_conn *conn;
    uint32_t peer;
    char *text = malloc(count * 32 + 128);
    char *at = text;

    /* SUB and CONNECT are handled faster than turns go by. */
    cr_assert_not_null(text);
    at += snprintf(at, 128, CONNECT_LINE);
    for (uint32_t i = 0; i < count; i++)
        at += snprintf(at, 32, "SUB s.%u %u\r\n", i % 100, i);
    start(&rig, count);
    conn = join(&rig, &peer);
    for (uint32_t i = 0; i < 50; i++) {
        midge_rig_write_text(&rig, peer, text);
        cr_assert_leq(indexed(&rig), 2 * count + 1);
    }
    cr_assert_eq(conn->subs.count, count, "max_subscriptions counts those that were dropped");
    midge_rig_settle(&rig);
    cr_assert_eq(indexed(&rig), count);
    for (uint32_t i = 0; i < 2000; i++)
        midge_rig_write_text(&rig, peer, CONNECT_LINE "SUB a 1\r\n" CONNECT_LINE "SUB a 1\r\n");
    midge_rig_settle(&rig);
    cr_assert_eq(indexed(&rig), 1);
    cr_assert_null(conn->old_subs);
    free(text);
    midge_rig_stop(&rig);
}

Test(drop, a_slot_is_free_when_the_last_of_them_has_left)
{
    struct midge_rig rig;
    struct midge_conn *conn;
    struct midge_conn *other;
    int64_t before;
    uint32_t peer;
    uint32_t publisher;
    uint32_t next;

    start(&rig, 0);
    other = join(&rig, &publisher);
    before = held_bytes(&rig);
    conn = join(&rig, &peer);
    subscribe(&rig, peer, SUB_COUNT, NULL);
    midge_rig_write_text(&rig, peer, CONNECT_LINE);
    subscribe(&rig, peer, 500, NULL);
    midge_conn_drop_subs(rig.shard, conn);
    midge_rig_write_text(&rig, peer, "SUB s.1 1\r\n");
    midge_conn_close(rig.shard, conn, MIDGE_E_READ);
    while (conn->state != MIDGE_CONN_FREE) {
        cr_assert(indexed(&rig) == 0 || conn->state != MIDGE_CONN_RESTING);
        publish(&rig, other);
        midge_shard_turn(rig.shard, false);
    }
    cr_assert_eq(indexed(&rig), 0);
    midge_rig_settle(&rig);
    cr_assert_eq(held_bytes(&rig), before);
    cr_assert_eq(out_msgs(&rig), 0);
    next = midge_sim_peer_connect(rig.sim, rig.listener);
    midge_rig_write_text(&rig, next, CONNECT_LINE "SUB s.1 1\r\n");
    (void)drain(&rig, next);
    cr_assert_eq(conn->state, MIDGE_CONN_OPEN, "the slot is not used again");
    publish(&rig, other);
    cr_assert_eq(drain(&rig, next), 1);
    midge_rig_stop(&rig);
}

/* Subscribe until the broker says no. @return subscriptions that were made */
static uint32_t subscribe_until_refused(struct midge_rig *rig, uint32_t peer)
{
    const struct midge_conn *conn = midge_rig_conn(rig, peer);
    char lines[500 * 48];
    uint32_t count = 0;

    while (conn->subs.count == count) {
        int len = 0;

        for (uint32_t i = 0; i < 500; i++, count++)
            len += snprintf(lines + len, sizeof(lines) - (uint32_t)len, "SUB fill.%u.%u.> %u\r\n",
                            count, i, count);
        midge_rig_write_text(rig, peer, lines);
    }
    (void)midge_rig_drain(rig, peer);
    return conn->subs.count;
}

Test(drop, what_has_left_the_index_makes_room_for_as_many_while_turns_are_long)
{
    struct midge_rig rig;
    uint32_t count;
    uint32_t peer;

    midge_rig_prepare(&rig);
    rig.config.memory_bytes_max = 16u << 20;
    midge_rig_start(&rig);
    (void)join(&rig, &peer);
    count = subscribe_until_refused(&rig, peer);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t again;

        midge_rig_write_text(&rig, peer, CONNECT_LINE);
        while (indexed(&rig) > count / 2)
            midge_shard_turn(rig.shard, false);
        again = subscribe_until_refused(&rig, peer);
        cr_assert_gt(again, count / 10 * 9, "only %u after %u were dropped", again, count);
    }
    midge_rig_stop(&rig);
}

/* Take turns until the index is empty, with a PING in each. @return turns that it took */
static uint32_t leave(struct midge_rig *rig, uint32_t pinging)
{
    uint64_t left = indexed(rig);
    uint32_t pings = 0;
    uint32_t pongs = 0;
    uint32_t turns = 0;
    char bytes[64];

    while (left > 0) {
        pings += midge_sim_peer_write(rig->sim, pinging, MIDGE_SLICE_LITERAL("PING\r\n")) / 6;
        midge_shard_turn(rig->shard, false);
        turns++;
        pongs += midge_sim_peer_read(rig->sim, pinging, bytes, sizeof(bytes)) / 6;
        cr_assert_leq(left - indexed(rig), TURN_SUBS_MAX, "turn %u took out too many", turns);
        /* The simulated ring holds back what it likes for some turns. */
        cr_assert_leq(pings - pongs, 32, "PINGs wait for what leaves");
        left = indexed(rig);
        cr_assert_lt(turns, SUB_COUNT_LARGE, "they do not leave");
    }
    cr_assert_gt(pongs, 0);
    return turns;
}

Test(drop, a_close_takes_no_more_than_its_share_of_each_turn)
{
    struct midge_rig rig;
    struct midge_conn *conn;
    int64_t before;
    uint32_t peer;
    uint32_t other;
    uint32_t turns;

    start(&rig, 0);
    (void)join(&rig, &other);
    before = held_bytes(&rig);
    conn = join(&rig, &peer);
    subscribe(&rig, peer, SUB_COUNT_LARGE, NULL);
    cr_assert_eq(indexed(&rig), SUB_COUNT_LARGE);
    midge_conn_close(rig.shard, conn, MIDGE_E_READ);
    turns = leave(&rig, other);
    cr_assert_geq(turns, SUB_COUNT_LARGE / TURN_SUBS_MAX);
    /* Nor does it take for ever: slots, of which 1 in 16 may be used, are nearly free. */
    cr_assert_leq(turns, SUB_COUNT_LARGE / (TURN_SUBS_MAX / 2));
    midge_rig_settle(&rig);
    cr_assert_eq(held_bytes(&rig), before);
    midge_rig_stop(&rig);
}

Test(drop, connections_that_close_together_share_one_turn)
{
    const uint32_t conn_count = 20;
    struct midge_conn *conns[20];
    struct midge_rig rig;
    uint32_t peer;
    uint32_t other;
    uint32_t turns;

    start(&rig, 0);
    (void)join(&rig, &other);
    for (uint32_t i = 0; i < conn_count; i++) {
        conns[i] = join(&rig, &peer);
        subscribe(&rig, peer, SUB_COUNT, NULL);
    }
    for (uint32_t i = 0; i < conn_count; i++)
        midge_conn_close(rig.shard, conns[i], MIDGE_E_READ);
    turns = leave(&rig, other);
    cr_assert_geq(turns, conn_count * SUB_COUNT / TURN_SUBS_MAX);
    midge_rig_stop(&rig);
}

static bool trim_is_asked_for(void)
{
    sigset_t pending;

    cr_assert_eq(sigpending(&pending), 0);
    return sigismember(&pending, midge_broker_trim_signal()) == 1;
}

/* Turns for some seconds. */
static void rest(struct midge_rig *rig)
{
    for (uint32_t i = 0; i < 30; i++) {
        for (uint32_t shard = 0; shard < rig->shard_count; shard++)
            midge_shard_turn(rig->shards[shard], false);
        midge_sim_advance(rig->sim, 100 * NS_PER_MS);
    }
}

/* With the test as the thread that gives pages back. */
static void start_trimmed(struct midge_rig *rig, uint32_t shard_count)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, midge_broker_trim_signal());
    cr_assert_eq(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    midge_rig_prepare(rig);
    rig->shard_count = shard_count;
    midge_rig_start(rig);
    rig->broker.trimmer = pthread_self();
    rig->broker.has_trimmer = true;
    rest(rig);
    cr_assert_not(trim_is_asked_for(), "nothing was freed");
}

static void take_trim(struct midge_rig *rig)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, midge_broker_trim_signal());
    (void)sigwaitinfo(&set, NULL);
    atomic_store(&rig->broker.trim_wanted, false);
}

Test(drop, another_thread_is_asked_to_give_free_pages_back_and_asked_once)
{
    struct midge_rig rig;

    start_trimmed(&rig, 1);
    rig.shard->uncharged_bytes += FREED_BYTES;
    rest(&rig);
    cr_assert(trim_is_asked_for());
    take_trim(&rig);
    rest(&rig);
    cr_assert_not(trim_is_asked_for(), "nothing was freed since");
    atomic_store(&rig.broker.trim_wanted, true);
    rig.shard->uncharged_bytes += FREED_BYTES;
    rest(&rig);
    cr_assert_not(trim_is_asked_for(), "the first wish has not been taken yet");
    atomic_store(&rig.broker.trim_wanted, false);
    rig.shard->uncharged_bytes += FREED_BYTES;
    rest(&rig);
    cr_assert(trim_is_asked_for());
    take_trim(&rig);
    midge_rig_stop(&rig);
}

Test(drop, a_signal_that_finds_no_room_does_not_end_the_asking)
{
    struct rlimit before;
    struct rlimit limit;
    struct midge_rig rig;

    start_trimmed(&rig, 1);
    cr_assert_eq(getrlimit(RLIMIT_SIGPENDING, &before), 0);
    limit = before;
    limit.rlim_cur = 0;
    cr_assert_eq(setrlimit(RLIMIT_SIGPENDING, &limit), 0);
    rig.shard->uncharged_bytes += FREED_BYTES;
    rest(&rig);
    cr_assert_eq(setrlimit(RLIMIT_SIGPENDING, &before), 0);
    cr_assert_not(trim_is_asked_for(), "there was room");
    rig.shard->uncharged_bytes += FREED_BYTES;
    rest(&rig);
    cr_assert(trim_is_asked_for());
    take_trim(&rig);
    midge_rig_stop(&rig);
}

Test(drop, what_shards_free_counts_together_in_whichever_order_they_end)
{
    struct midge_rig rig;

    start_trimmed(&rig, 3);
    rig.shards[0]->uncharged_bytes += FREED_BYTES;
    rest(&rig);
    cr_assert(trim_is_asked_for());
    take_trim(&rig);
    /* Each had lost its core, and the first of them the last of its share. */
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert_not(trim_is_asked_for(), "for what %u shards had left", i);
        rig.shards[(i + 1) % 3]->uncharged_bytes += FREED_BYTES_SMALL;
        rest(&rig);
    }
    cr_assert(trim_is_asked_for());
    take_trim(&rig);
    midge_rig_stop(&rig);
}
