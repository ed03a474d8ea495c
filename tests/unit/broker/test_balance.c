/*
 * Which connections a busy shard gives away: groups that talk to each other stay together, the
 * weight comes close to what was wanted, and one that carries everything stays.
 */
#include <criterion/criterion.h>

#include "balance.h"

#define UNITS_MAX 64u

static struct midge_balance_unit units[UNITS_MAX];
static uint32_t order[UNITS_MAX];

/* Present units with these weights that talk to nobody. */
static void set_up(const uint64_t *weights, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        units[i] = (struct midge_balance_unit){.weight = weights[i],
                                               .friends = {MIDGE_BALANCE_NONE, MIDGE_BALANCE_NONE},
                                               .present = true};
}

/* The chosen ones as bits. */
static uint64_t choose(uint32_t count, uint64_t want, uint64_t *weight_out)
{
    uint64_t bits = 0;

    *weight_out = midge_balance_choose(units, order, count, want);
    for (uint32_t i = 0; i < count; i++)
        bits |= (uint64_t)units[i].chosen << i;
    return bits;
}

Test(balance, of_two_equal_ones_one_goes)
{
    uint64_t weight;

    set_up((uint64_t[]){100, 100}, 2);
    cr_assert_eq(__builtin_popcountll(choose(2, 100, &weight)), 1);
    cr_assert_eq(weight, 100);
}

Test(balance, one_that_carries_everything_stays)
{
    uint64_t weight;

    set_up((uint64_t[]){1000, 0, 0}, 3);
    cr_assert_eq(choose(3, 500, &weight), 0);
    cr_assert_eq(weight, 0);
}

Test(balance, the_heaviest_that_fit_go_first)
{
    uint64_t weight;

    set_up((uint64_t[]){900, 10, 400, 90, 600}, 5);
    cr_assert_eq(choose(5, 1000, &weight), 1u << 0 | 1u << 3 | 1u << 1);
    cr_assert_eq(weight, 1000);
}

Test(balance, groups_stay_together)
{
    uint64_t weight;

    /* 0 publishes to 1, 2 asks 3 which answers, 4 and 5 know each other through 6. */
    set_up((uint64_t[]){500, 0, 200, 300, 100, 100, 300}, 7);
    units[0].friends[0] = 1;
    units[2].friends[0] = 3;
    units[3].friends[0] = 2;
    units[4].friends[0] = 6;
    units[6].friends[1] = 5;
    cr_assert_eq(choose(7, 500, &weight), 1u << 0 | 1u << 1);
    cr_assert_eq(weight, 500);
    cr_assert_eq(choose(7, 1000, &weight), 0xf);
    cr_assert_eq(weight, 1000);
}

Test(balance, a_group_that_is_too_heavy_is_divided)
{
    uint64_t weight;
    uint64_t chosen;

    /* Eight publishers to one subject with one subscriber. */
    set_up((uint64_t[]){100, 100, 100, 100, 100, 100, 100, 100, 0}, 9);
    for (uint32_t i = 0; i < 8; i++)
        units[i].friends[0] = 8;
    chosen = choose(9, 400, &weight);
    cr_assert_eq(__builtin_popcountll(chosen), 4);
    cr_assert_eq(chosen >> 8, 0, "a subscriber moves no work");
    cr_assert_eq(weight, 400);
}

Test(balance, who_is_not_here_neither_goes_nor_joins_others)
{
    uint64_t weight;

    set_up((uint64_t[]){100, 100, 100, 100}, 4);
    units[1].present = false;
    units[0].friends[0] = 1;
    units[2].friends[0] = 1;
    cr_assert_eq(__builtin_popcountll(choose(4, 100, &weight)), 1);
    cr_assert_not(units[1].chosen);
    cr_assert_eq(weight, 100);
}

/* Whatever the weights and the ties: what is returned is what is chosen, and it is not much too
 * heavy. */
Test(balance, any_choice_keeps_its_promises)
{
    uint64_t state = 42;

    for (uint32_t round = 0; round < 20000; round++) {
        uint64_t weights[UNITS_MAX];
        uint64_t total = 0, chosen = 0, weight, want;
        uint32_t count;

#define RANDOM(bound) ((state = state * 6364136223846793005ull + 1) >> 33) % (bound)
        count = 1 + (uint32_t)(RANDOM(UNITS_MAX));
        for (uint32_t i = 0; i < count; i++) {
            weights[i] = RANDOM(4) == 0 ? 0 : RANDOM(1000);
            total += weights[i];
        }
        set_up(weights, count);
        for (uint32_t i = 0; i < count; i++) {
            units[i].present = RANDOM(8) != 0;
            for (uint32_t k = 0; k < 2; k++) {
                if (RANDOM(3) == 0)
                    units[i].friends[k] = (uint32_t)(RANDOM(count));
            }
        }
        want = RANDOM(total / 2 + 1);
        (void)choose(count, want, &weight);
        for (uint32_t i = 0; i < count; i++) {
            cr_assert(!units[i].chosen || units[i].present);
            chosen += units[i].chosen ? units[i].weight : 0;
        }
#undef RANDOM
        cr_assert_eq(chosen, weight, "round %u", round);
        cr_assert_leq(weight, want + want / 10, "round %u", round);
    }
}
