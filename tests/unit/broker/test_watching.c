/*
 * How long a shard watches before it sleeps: halved by watching in vain, and by nothing else.
 * Method: a shard without connections on the simulated ring; what the ring has counted is replaced
 * (--wrap).
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
