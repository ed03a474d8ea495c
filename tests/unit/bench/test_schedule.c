/* When sends of an open loop are meant to leave. */
#include <criterion/criterion.h>
#include <math.h>

#include "party.h"

#define BEGIN_NS 1000000000000ull

Test(schedule, even_intervals_do_not_drift)
{
    struct midge_schedule schedule;

    /* A third of a second is no whole number of ns. */
    midge_schedule_init(&schedule, &(struct midge_schedule_options){.rate = 3, .burst = 1},
                        BEGIN_NS);
    cr_assert_eq(schedule.next_ns, BEGIN_NS);
    for (uint32_t i = 0; i < 3000000; i++)
        midge_schedule_advance(&schedule);
    cr_assert_leq(schedule.next_ns, BEGIN_NS + 1000000ull * 1000000000ull + 1);
    cr_assert_geq(schedule.next_ns, BEGIN_NS + 1000000ull * 1000000000ull - 1);
}

Test(schedule, poisson_intervals_have_mean_and_spread)
{
    const uint32_t count = 1000000;
    const double mean_ns = 1e9 / 50000;
    const struct midge_schedule_options options = {
        .rate = 50000, .burst = 1, .arrivals = MIDGE_RUN_POISSON, .seed = 7};
    struct midge_schedule schedule;
    double squares = 0;
    uint64_t last_ns = BEGIN_NS;

    midge_schedule_init(&schedule, &options, BEGIN_NS);
    for (uint32_t i = 0; i < count; i++) {
        midge_schedule_advance(&schedule);
        const double step_ns = (double)(schedule.next_ns - last_ns);

        squares += step_ns * step_ns;
        last_ns = schedule.next_ns;
    }
    /* Of an exponential distribution the standard deviation is the mean; a million of them are
     * within 0.5 % of it but for one case in a million. */
    const double found_ns = (double)(last_ns - BEGIN_NS) / count;

    cr_assert_float_eq(found_ns / mean_ns, 1, 0.005);
    cr_assert_float_eq(sqrt(squares / count - found_ns * found_ns) / mean_ns, 1, 0.01);
}

Test(schedule, the_same_seed_gives_the_same_times)
{
    struct midge_schedule_options options = {
        .rate = 1000, .burst = 1, .arrivals = MIDGE_RUN_POISSON, .seed = 7};
    struct midge_schedule one;
    struct midge_schedule same;
    struct midge_schedule other;
    uint32_t differences = 0;

    midge_schedule_init(&one, &options, BEGIN_NS);
    midge_schedule_init(&same, &options, BEGIN_NS);
    options.seed = 8;
    midge_schedule_init(&other, &options, BEGIN_NS);
    for (uint32_t i = 0; i < 1000; i++) {
        midge_schedule_advance(&one);
        midge_schedule_advance(&same);
        midge_schedule_advance(&other);
        cr_assert_eq(one.next_ns, same.next_ns);
        differences += one.next_ns != other.next_ns ? 1 : 0;
    }
    cr_assert_gt(differences, 990);
}

Test(schedule, a_burst_is_due_at_once_and_more_rarely)
{
    struct midge_schedule schedule;

    midge_schedule_init(&schedule, &(struct midge_schedule_options){.rate = 1000, .burst = 20},
                        BEGIN_NS);
    cr_assert_float_eq(schedule.interval_ns, 20e6, 1);
    for (uint64_t i = 0; i < 100000; i++) {
        cr_assert_eq(schedule.next_ns, BEGIN_NS + i / 20 * 20000000);
        midge_schedule_advance(&schedule);
    }
}
