/*
 * Memory runs out anywhere: nothing breaks, every delivery is accounted for, and everything is
 * given back. Method: one script of all operations on the simulated ring, run again and again; in
 * run n the n-th allocation of blocks, tables and index objects fails (--wrap), once or from then
 * on, until a run has no n-th allocation.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"

#define RUNS_MAX 10000u

static bool counting;
static bool persistent;
static uint64_t allocations; /* in this run */
static uint64_t fails_at;

void *__real_calloc(size_t count, size_t len);
void *__real_aligned_alloc(size_t alignment, size_t len);
void *__wrap_calloc(size_t count, size_t len);
void *__wrap_aligned_alloc(size_t alignment, size_t len);

static bool is_to_fail(void)
{
    const uint64_t number = allocations;

    if (!counting)
        return false;
    allocations++;
    return persistent ? number >= fails_at : number == fails_at;
}

void *__wrap_calloc(size_t count, size_t len)
{
    return is_to_fail() ? NULL : __real_calloc(count, len);
}

void *__wrap_aligned_alloc(size_t alignment, size_t len)
{
    return is_to_fail() ? NULL : __real_aligned_alloc(alignment, len);
}

struct fixture {
    struct midge_rig rig;
    uint32_t peers[3];
};

static void start(struct fixture *fixture)
{
    struct midge_rig *rig = &fixture->rig;

    midge_rig_prepare(rig);
    rig->config.connections_max = 16;
    rig->config.pending_bytes_max = 100000;
    midge_rig_start(rig);
    for (uint32_t i = 0; i < 3; i++)
        fixture->peers[i] = midge_sim_peer_connect(rig->sim, rig->listener);
}

static void turn(struct fixture *fixture)
{
    counting = true;
    for (uint32_t i = 0; i < 5; i++)
        midge_shard_turn(fixture->rig.shard, false);
    counting = false;
}

/* A peer that was closed takes nothing more, and that is all right. */
static void say(struct fixture *fixture, uint32_t peer, const char *text)
{
    static uint8_t sink[65536];

    (void)midge_sim_peer_write(fixture->rig.sim, fixture->peers[peer], midge_slice_text(text));
    turn(fixture);
    for (uint32_t i = 0; i < 3; i++) {
        while (midge_sim_peer_read(fixture->rig.sim, fixture->peers[i], sink, sizeof(sink)) > 0)
            turn(fixture);
    }
}

/* More than the recipient may owe before its publisher is paused comes in one turn. */
static void play_pause(struct fixture *fixture)
{
    static char flood[60000];
    const uint32_t peer = fixture->peers[2];
    uint32_t len = 0;

    while (len + 1100 < sizeof(flood))
        len +=
            (uint32_t)snprintf(flood + len, sizeof(flood) - len, "PUB big 1000\r\n%01000d\r\n", 1);
    (void)midge_sim_peer_write(fixture->rig.sim, peer, midge_slice_make(flood, len));
    turn(fixture);
    (void)midge_sim_peer_write(fixture->rig.sim, peer, midge_slice_make(flood, len));
    say(fixture, 2, "PING\r\n");
}

static void play(struct fixture *fixture)
{
    static char big[20100];
    const int cut = snprintf(big, sizeof(big), "PUB big r.1 20000\r\n%020000d\r\n", 1) - 5000;
    char part[64];

    for (uint32_t i = 0; i < 3; i++)
        say(fixture, i,
            "CONNECT {\"headers\":true,\"no_responders\":true,\"name\":\"a\"}\r\nPING\r\n");
    say(fixture, 0,
        "SUB a 1\r\nSUB a.* 2\r\nSUB a.> q 3\r\nSUB big 4\r\nSUB r.* 5\r\nUNSUB 1 2\r\n");
    say(fixture, 1, "SUB a 1\r\nSUB a.b q 2\r\nSUB big 3\r\nSUB a. 9\r\nSUB a _sys_ 9\r\n");
    say(fixture, 2, "PUB a 2\r\nhi\r\nPUB a.b 2\r\nhi\r\nPUB nobody r.2 0\r\n\r\nPUB a 0\r\n\r\n");
    say(fixture, 0,
        "PUB nobody r.2 0\r\n\r\nPUB a..b 0\r\n\r\nPUB $GR.x 0\r\n\r\nPUB a 3\r\nabc\r\n");
    say(fixture, 2, "HPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
    for (uint32_t i = 0; i < 40; i++) {
        (void)snprintf(part, sizeof(part), "SUB s.%u.* %u\r\n", i, i + 100);
        say(fixture, 0, part);
    }
    (void)midge_sim_peer_write(fixture->rig.sim, fixture->peers[2],
                               midge_slice_make(big, (uint32_t)cut));
    turn(fixture);
    say(fixture, 2, big + cut);
    say(fixture, 1, "CONNECT {\"verbose\":true}\r\nSUB a 1\r\nUNSUB 1\r\n");
    play_pause(fixture);
    say(fixture, 2, "PUB a 2\r\nhi\r\nPU");
    say(fixture, 2, "B a 1\r\nx\r\nNONSENSE\r\n");
}

static void check(struct fixture *fixture)
{
    const struct midge_stats *stats = &fixture->rig.shard->stats;

    cr_assert_eq(midge_stats_read(&stats->matched), midge_stats_read(&stats->out_msgs) +
                                                        midge_stats_read(&stats->dropped_closing) +
                                                        midge_stats_read(&stats->dropped_slow) +
                                                        midge_stats_read(&stats->dropped_memory));
    cr_assert_eq(midge_stats_read(&stats->out_msgs),
                 midge_stats_read(&stats->delivered) + midge_stats_read(&stats->discarded));
    cr_assert_eq(midge_stats_read(&stats->connects), midge_stats_read(&stats->disconnects));
    cr_assert_eq(fixture->rig.shard->charged_bytes, 0);
    midge_spares_deinit(&fixture->rig.shard->spares, &fixture->rig.shard->pool);
    cr_assert_eq(midge_pool_held_bytes(&fixture->rig.shard->pool), 0);
}

static void stop(struct fixture *fixture)
{
    counting = true;
    midge_shard_stop(fixture->rig.shard);
    counting = false;
    while (!midge_shard_is_idle(fixture->rig.shard)) {
        turn(fixture);
        midge_sim_advance(fixture->rig.sim, 100 * NS_PER_MS);
    }
    check(fixture);
    midge_rig_free(&fixture->rig);
}

static void run_all(void)
{
    uint64_t stalls = 0;

    for (fails_at = 0; fails_at < RUNS_MAX; fails_at++) {
        struct fixture fixture;

        allocations = 0;
        start(&fixture);
        play(&fixture);
        stalls = midge_stats_read(&fixture.rig.shard->stats.stalls);
        stop(&fixture);
        if (allocations <= fails_at)
            break;
    }
    cr_assert_gt(fails_at, 50, "the wrapper does not count");
    cr_assert_gt(stalls, 0, "nobody was paused");
    cr_assert_lt(fails_at, RUNS_MAX);
}

Test(exhaustion, one_failed_allocation_breaks_nothing)
{
    persistent = false;
    run_all();
}

Test(exhaustion, failed_allocations_from_some_point_on_break_nothing)
{
    persistent = true;
    run_all();
}
