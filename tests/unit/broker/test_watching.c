/*
 * How long a shard watches before it sleeps: halved by watching in vain, and by nothing else.
 * Method: a shard without connections on the simulated ring; what the ring has counted is replaced
 * (--wrap).
 */
#include <criterion/criterion.h>
#include <string.h>

#include "midge/ring_sim.h"
#include "shard.h"

#define BUDGET_NS 64000u

static struct midge_ring_counts counts;

void __wrap_midge_ring_counts(const struct midge_ring *ring, struct midge_ring_counts *counts_out);

void __wrap_midge_ring_counts(const struct midge_ring *ring, struct midge_ring_counts *counts_out)
{
    (void)ring;
    *counts_out = counts;
}

struct fixture {
    struct midge_config config;
    struct midge_broker broker;
    struct midge_log *log;
    struct midge_sim *sim;
    struct midge_shard *shard;
};

static void set_up(struct fixture *fixture)
{
    const struct midge_sim_options options = {.seed = 42};
    struct midge_ring *ring;

    memset(fixture, 0, sizeof(*fixture));
    counts = (struct midge_ring_counts){0};
    midge_config_init(&fixture->config);
    cr_assert_eq(midge_log_create(&fixture->config, &fixture->log), MIDGE_OK);
    cr_assert_eq(midge_broker_init(&fixture->broker, &fixture->config, fixture->log, 42), MIDGE_OK);
    fixture->broker.shard_count = 1;
    fixture->sim = midge_sim_create(&options);
    ring = midge_sim_ring_create(fixture->sim, NULL);
    fixture->shard = midge_shard_create(&fixture->broker, 0, &ring);
    cr_assert_not_null(fixture->shard);
    midge_shard_set_spin(fixture->shard, BUDGET_NS);
}

static void tear_down(struct fixture *fixture)
{
    midge_shard_stop(fixture->shard);
    midge_shard_destroy(fixture->shard);
    midge_sim_destroy(fixture->sim);
    midge_broker_deinit(&fixture->broker);
    midge_log_destroy(fixture->log);
    midge_config_deinit(&fixture->config);
}

Test(watching, in_vain_halves_the_budget)
{
    struct fixture fixture;

    set_up(&fixture);
    counts.spins++;
    midge_shard_turn(fixture.shard, false);
    cr_assert_eq(fixture.shard->spin_ns, BUDGET_NS / 2);
    midge_shard_turn(fixture.shard, false);
    cr_assert_eq(fixture.shard->spin_ns, BUDGET_NS / 2);
    tear_down(&fixture);
}

Test(watching, with_success_restores_the_budget)
{
    struct fixture fixture;

    set_up(&fixture);
    counts.spins++;
    midge_shard_turn(fixture.shard, false);
    counts.spins++;
    counts.spin_hits++;
    midge_shard_turn(fixture.shard, false);
    cr_assert_eq(fixture.shard->spin_ns, BUDGET_NS);
    tear_down(&fixture);
}

Test(watching, a_turn_that_did_not_watch_leaves_the_budget_of_the_one_before)
{
    struct fixture fixture;

    set_up(&fixture);
    counts.spins++;
    counts.spin_hits++;
    midge_shard_turn(fixture.shard, false);
    midge_shard_turn(fixture.shard, false);
    cr_assert_eq(fixture.shard->spin_ns, BUDGET_NS, "the success before counts as in vain now");
    tear_down(&fixture);
}
