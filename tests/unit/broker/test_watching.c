/*
 * How long a shard watches before it sleeps: halved by watching in vain and by turns that bring
 * many messages, and by nothing else; and how long it sleeps while another shard keeps what was
 * retired from being freed. Method: shards on the simulated ring; what the ring has counted is
 * replaced, and what it is asked to wait for is noted (--wrap).
 */
#include <criterion/criterion.h>
#include <string.h>

#include "rig.h"

#define BUDGET_NS 64000u

static struct midge_ring_counts counts;

void __wrap_midge_ring_counts(const struct midge_ring *ring, struct midge_ring_counts *counts_out);

void __wrap_midge_ring_counts(const struct midge_ring *ring, struct midge_ring_counts *counts_out)
{
    (void)ring;
    *counts_out = counts;
}

static uint64_t last_deadline_ns;

void __real_midge_ring_wait(struct midge_ring *ring, uint64_t deadline_ns, uint64_t spin_ns);
void __wrap_midge_ring_wait(struct midge_ring *ring, uint64_t deadline_ns, uint64_t spin_ns);

void __wrap_midge_ring_wait(struct midge_ring *ring, uint64_t deadline_ns, uint64_t spin_ns)
{
    last_deadline_ns = deadline_ns;
    __real_midge_ring_wait(ring, deadline_ns, spin_ns);
}

static void set_up(struct midge_rig *rig)
{
    counts = (struct midge_ring_counts){0};
    midge_rig_prepare(rig);
    midge_rig_start(rig);
    midge_shard_set_spin(rig->shard, BUDGET_NS);
}

Test(watching, in_vain_halves_the_budget)
{
    struct midge_rig rig;

    set_up(&rig);
    counts.spins++;
    midge_shard_turn(rig.shard, false);
    cr_assert_eq(rig.shard->spin_ns, BUDGET_NS / 2);
    midge_shard_turn(rig.shard, false);
    cr_assert_eq(rig.shard->spin_ns, BUDGET_NS / 2);
    midge_rig_stop(&rig);
}

Test(watching, with_success_restores_the_budget)
{
    struct midge_rig rig;

    set_up(&rig);
    counts.spins++;
    midge_shard_turn(rig.shard, false);
    counts.spins++;
    counts.spin_hits++;
    midge_shard_turn(rig.shard, false);
    cr_assert_eq(rig.shard->spin_ns, BUDGET_NS);
    midge_rig_stop(&rig);
}

Test(watching, a_turn_that_did_not_watch_leaves_the_budget_of_the_one_before)
{
    struct midge_rig rig;

    set_up(&rig);
    counts.spins++;
    counts.spin_hits++;
    midge_shard_turn(rig.shard, false);
    midge_shard_turn(rig.shard, false);
    cr_assert_eq(rig.shard->spin_ns, BUDGET_NS, "the success before counts as in vain now");
    midge_rig_stop(&rig);
}

Test(watching, many_messages_in_a_turn_halve_the_budget_and_few_restore_it)
{
    struct midge_rig rig;
    uint32_t peer;
    uint64_t before;

    set_up(&rig);
    peer = midge_rig_join(&rig, "PING\r\n");
    midge_shard_set_spin(rig.shard, BUDGET_NS);
    for (uint32_t few = 0; few < 2; few++) {
        before = rig.shard->stats.in_msgs;
        for (uint32_t i = 0; i < (few ? 2 : 8); i++)
            (void)midge_sim_peer_write(rig.sim, peer, MIDGE_SLICE_LITERAL("PUB a 2\r\nhi\r\n"));
        counts.spins++;
        counts.spin_hits++;
        while (rig.shard->stats.in_msgs == before)
            midge_shard_turn(rig.shard, false);
        cr_assert_eq(rig.shard->stats.in_msgs - before, few ? 2 : 8);
        cr_assert_eq(rig.shard->spin_ns, few ? BUDGET_NS : BUDGET_NS / 2);
    }
    midge_rig_stop(&rig);
}

/* Turns with events until the budget is back. @param messages  in each of them. @return turns */
static uint32_t turns_until_tried_again(uint32_t messages)
{
    struct midge_rig rig;
    uint32_t peer;
    uint32_t turns;

    set_up(&rig);
    peer = midge_rig_join(&rig, "PING\r\n");
    midge_shard_set_spin(rig.shard, BUDGET_NS);
    rig.shard->spin_ns = 0;
    for (turns = 0; turns < 2000 && rig.shard->spin_ns == 0; turns++) {
        const uint64_t before = rig.shard->stats.in_msgs;

        for (uint32_t i = 0; i < messages; i++)
            (void)midge_sim_peer_write(rig.sim, peer, MIDGE_SLICE_LITERAL("PUB a 2\r\nhi\r\n"));
        while (rig.shard->stats.in_msgs == before)
            midge_shard_turn(rig.shard, false);
    }
    midge_rig_stop(&rig);
    return turns;
}

Test(watching, is_tried_again_after_turns_that_brought_few_messages_only)
{
    cr_assert_leq(turns_until_tried_again(2), 300);
    cr_assert_eq(turns_until_tried_again(8), 2000, "to watch between bursts was tried");
}

/* A shard that has lost its core in the middle of a turn. */
Test(watching, a_shard_that_another_one_keeps_from_freeing_does_not_turn_without_pause)
{
    struct midge_rig rig;
    uint32_t peer;
    uint32_t turns;

    midge_rig_prepare(&rig);
    rig.shard_count = 2;
    midge_rig_start(&rig);
    peer = midge_rig_join(&rig, "SUB a 1\r\n");
    (void)midge_sim_peer_write(rig.sim, peer, MIDGE_SLICE_LITERAL("UNSUB 1\r\n"));
    while (midge_reclaim_waiting(rig.shard->participant) == 0)
        midge_shard_turn(rig.shard, true);
    for (turns = 0; turns < 100; turns++) {
        midge_shard_turn(rig.shard, true);
        if (last_deadline_ns != 0)
            break;
    }
    cr_assert(turns > 0 && turns < 100, "%u", turns);
    cr_assert_gt(midge_reclaim_waiting(rig.shard->participant), 0);
    cr_assert_leq(last_deadline_ns, rig.shard->now_ns + NS_PER_MS, "it may be free at any time");
    midge_shard_turn(rig.shards[1], true);
    midge_rig_settle(&rig);
    cr_assert_eq(midge_reclaim_waiting(rig.shard->participant), 0);
    midge_rig_stop(&rig);
}
