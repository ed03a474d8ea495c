/* Timing wheel: never early, at most one slot late, in whatever order deadlines are set and moved.
 */
#include "timers.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define SLOT_NS (1ull << MIDGE_TIMER_SLOT_LOG2_NS)
#define START   (12345ull * SLOT_NS + 77)

static struct midge_timers *make(void)
{
    struct midge_timers *timers = malloc(sizeof(*timers));

    midge_timers_init(timers, START);
    return timers;
}

Test(timers, fire_once_and_never_early)
{
    struct midge_timers *timers = make();
    struct midge_timer timer = {0};

    midge_timers_set(timers, &timer, START + 5 * SLOT_NS);
    cr_assert_null(midge_timers_expire(timers, START + 5 * SLOT_NS - 1));
    cr_assert_eq(midge_timers_expire(timers, START + 6 * SLOT_NS + SLOT_NS), &timer);
    cr_assert_null(midge_timers_expire(timers, START + 100 * SLOT_NS));
    cr_assert_eq(midge_timers_next_ns(timers), UINT64_MAX);
    free(timers);
}

Test(timers, a_deadline_beyond_the_horizon_still_fires_in_time)
{
    struct midge_timers *timers = make();
    struct midge_timer timer = {0};
    const uint64_t at_ns = START + 3ull * MIDGE_TIMER_SLOT_COUNT * SLOT_NS;
    uint64_t now_ns = START;
    struct midge_timer *fired = NULL;

    midge_timers_set(timers, &timer, at_ns);
    for (uint32_t turns = 0; fired == NULL && turns < 100; turns++) {
        now_ns = midge_timers_next_ns(timers);
        cr_assert_neq(now_ns, UINT64_MAX);
        fired = midge_timers_expire(timers, now_ns);
    }
    cr_assert_eq(fired, &timer);
    cr_assert_geq(now_ns, at_ns);
    cr_assert_leq(now_ns, at_ns + 2 * SLOT_NS);
    free(timers);
}

Test(timers, moved_and_cleared_deadlines_are_forgotten)
{
    struct midge_timers *timers = make();
    struct midge_timer moved = {0};
    struct midge_timer cleared = {0};

    midge_timers_set(timers, &moved, START + 2 * SLOT_NS);
    midge_timers_set(timers, &cleared, START + 2 * SLOT_NS);
    midge_timers_set(timers, &moved, START + 50 * SLOT_NS);
    midge_timers_clear(timers, &cleared);
    cr_assert_null(midge_timers_expire(timers, START + 40 * SLOT_NS));
    midge_timers_set(timers, &moved, START + 45 * SLOT_NS);
    cr_assert_eq(midge_timers_expire(timers, START + 47 * SLOT_NS), &moved);
    cr_assert_null(midge_timers_expire(timers, START + 99 * SLOT_NS));
    free(timers);
}

Test(timers, random_deadlines_all_fire_between_due_and_two_slots_later)
{
    enum {
        COUNT = 2000
    };
    struct midge_timers *timers = make();
    struct midge_timer *all = calloc(COUNT, sizeof(*all));
    uint64_t state = 7;
    uint32_t fired = 0;
    uint64_t last_ns = START;

    for (uint32_t i = 0; i < COUNT; i++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        midge_timers_set(timers, &all[i], START + (state >> 28) % (200ull * 1000 * 1000 * 1000));
    }
    while (fired < COUNT) {
        const uint64_t now_ns = midge_timers_next_ns(timers);
        struct midge_timer *timer;

        cr_assert_neq(now_ns, UINT64_MAX);
        cr_assert_geq(now_ns, last_ns);
        while ((timer = midge_timers_expire(timers, now_ns)) != NULL) {
            cr_assert_leq(timer->at_ns, now_ns);
            cr_assert_geq(timer->at_ns + 2 * SLOT_NS, now_ns);
            fired++;
        }
        last_ns = now_ns;
    }
    free(all);
    free(timers);
}
