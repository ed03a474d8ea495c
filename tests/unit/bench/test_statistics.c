/*
 * Comparison of rounds. Method: the false differences and the ones that are found are counted in
 * 1,000 synthetic comparisons, whose noise is like that of a machine: what changes from round to
 * round changes for both, each has noise of its own, and now and then one takes half as long again.
 * The generator has a fixed seed, and every test starts from it: with others 1,000 trials find up
 * to 1.5 % more or less than the shares that statistics.h tells from many more.
 */
#include "statistics.h"

#include <criterion/criterion.h>
#include <math.h>

#define TRIALS       1000u
#define DRIFT        0.1
#define NOISE        0.03
#define OUTLIER      1.5
#define OUTLIER_RATE 0.05
#define ROUNDS_MAX   30u

static uint64_t seed = 5;

/* Above 0, and at most 1. */
static double random_share(void)
{
    seed += 0x9e3779b97f4a7c15u;

    uint64_t mixed = seed;

    mixed = (mixed ^ (mixed >> 32)) * 0xd6e8feb86659fd93u;
    mixed = (mixed ^ (mixed >> 32)) * 0xd6e8feb86659fd93u;
    mixed ^= mixed >> 32;
    return ((double)(mixed >> 11) + 1) * 0x1p-53;
}

static double random_normal(void)
{
    const double radius = sqrt(-2 * log(random_share()));

    return radius * cos(2 * M_PI * random_share());
}

static double noisy(double value, double outlier_rate)
{
    const double noise = exp(NOISE * random_normal());

    return value * noise * (random_share() <= outlier_rate ? OUTLIER : 1);
}

struct found {
    uint32_t less;
    uint32_t more;
    uint32_t true_inside; /* intervals that enclose the true ratio */
};

static struct found compare_often(uint32_t trials, uint32_t rounds, double true_ratio,
                                  double outlier_rate)
{
    double values[ROUNDS_MAX];
    double bases[ROUNDS_MAX];
    struct found found = {0};

    for (uint32_t trial = 0; trial < trials; trial++) {
        for (uint32_t i = 0; i < rounds; i++) {
            const double drift = 50000 * exp(DRIFT * random_normal());

            values[i] = noisy(drift * true_ratio, outlier_rate);
            bases[i] = noisy(drift, outlier_rate);
        }

        const struct midge_statistics_ratio ratio = midge_statistics_compare(values, bases, rounds);

        cr_assert_eq(ratio.rounds, rounds);
        cr_assert_leq(ratio.low, ratio.middle);
        cr_assert_geq(ratio.high, ratio.middle);
        found.less += ratio.verdict == MIDGE_STATISTICS_LESS;
        found.more += ratio.verdict == MIDGE_STATISTICS_MORE;
        found.true_inside += ratio.low <= true_ratio && true_ratio <= ratio.high;
    }
    return found;
}

/* 3 to 7 % of the trials, and not all of them on one side. */
static void expect_calibrated(uint32_t rounds, double outlier_rate)
{
    const struct found found = compare_often(TRIALS, rounds, 1, outlier_rate);
    const uint32_t both = found.less + found.more;

    cr_expect_geq(both, TRIALS * 3 / 100, "%u of %u with %u rounds", both, TRIALS, rounds);
    cr_expect_leq(both, TRIALS * 7 / 100, "%u of %u with %u rounds", both, TRIALS, rounds);
    cr_expect_geq(found.less, TRIALS / 100, "with %u rounds", rounds);
    cr_expect_geq(found.more, TRIALS / 100, "with %u rounds", rounds);
    cr_expect_eq(found.true_inside, TRIALS - both, "a verdict is what the interval says");
}

Test(statistics, false_differences_are_5_percent_with_8_rounds)
{
    expect_calibrated(8, OUTLIER_RATE);
}

Test(statistics, false_differences_are_5_percent_with_10_rounds)
{
    expect_calibrated(10, OUTLIER_RATE);
}

Test(statistics, false_differences_are_5_percent_with_12_rounds)
{
    expect_calibrated(12, OUTLIER_RATE);
}

Test(statistics, false_differences_are_5_percent_with_20_rounds)
{
    expect_calibrated(20, OUTLIER_RATE);
}

Test(statistics, false_differences_are_5_percent_without_outliers)
{
    expect_calibrated(9, 0);
}

Test(statistics, a_difference_of_5_percent_is_found_in_most_trials)
{
    cr_expect_geq(compare_often(400, 8, 1.05, 0).more, 200);
    cr_expect_geq(compare_often(400, 12, 1.05, 0).more, 320);
    cr_expect_geq(compare_often(400, 12, 1.05, OUTLIER_RATE).more, 240);
    cr_expect_geq(compare_often(400, 20, 1 / 1.05, OUTLIER_RATE).less, 320);
}

Test(statistics, the_interval_encloses_a_true_ratio_in_95_percent)
{
    const uint32_t inside = compare_often(TRIALS, 10, 0.7, OUTLIER_RATE).true_inside;

    cr_expect_geq(inside, TRIALS * 93 / 100, "%u", inside);
    cr_expect_leq(inside, TRIALS * 97 / 100, "%u", inside);
}

/* Ratios of these to bases of 1. */
static struct midge_statistics_ratio of_ratios(const double *ratios, uint32_t rounds)
{
    double bases[ROUNDS_MAX];

    for (uint32_t i = 0; i < rounds; i++)
        bases[i] = 1;
    return midge_statistics_compare(ratios, bases, rounds);
}

Test(statistics, middle_is_the_geometric_mean_without_the_ends)
{
    const double eight[] = {1000, 2, 2, 2, 8, 8, 8, 0.001};
    const double fourteen[] = {2, 900, 8, 2, 8, 2, 8, 0.01, 2, 8, 700, 8, 2, 0.02};
    const double two[] = {2, 8};

    cr_expect_float_eq(of_ratios(eight, 8).middle, 4, 1e-12);
    cr_expect_float_eq(of_ratios(fourteen, 14).middle, 4, 1e-12);
    cr_expect_float_eq(of_ratios(eight, 3).middle, 2, 1e-12);
    cr_expect_float_eq(of_ratios(two, 2).middle, 4, 1e-12);
    cr_expect_float_eq(of_ratios(two, 1).middle, 2, 1e-12);
}

Test(statistics, values_and_bases_the_other_way_round_are_the_other_way_round)
{
    double values[12];
    double bases[12];

    for (uint32_t i = 0; i < 12; i++) {
        values[i] = noisy(1.2, 0);
        bases[i] = noisy(1, 0);
    }

    const struct midge_statistics_ratio one = midge_statistics_compare(values, bases, 12);
    const struct midge_statistics_ratio other = midge_statistics_compare(bases, values, 12);

    cr_expect_eq(one.verdict, MIDGE_STATISTICS_MORE);
    cr_expect_eq(other.verdict, MIDGE_STATISTICS_LESS);
    cr_expect_float_eq(one.middle * other.middle, 1, 1e-12);
    /* Not the same resamples, so the ends are near and not equal. */
    cr_expect_float_eq(one.low * other.high, 1, 0.01);
    cr_expect_float_eq(one.high * other.low, 1, 0.01);
}

Test(statistics, the_same_rounds_give_the_same_interval)
{
    const double ratios[] = {1.01, 0.98, 1.04, 1.02, 0.97, 1.3, 1.0, 1.05, 0.99};
    const struct midge_statistics_ratio first = of_ratios(ratios, 9);
    const struct midge_statistics_ratio second = of_ratios(ratios, 9);

    cr_expect_eq(first.low, second.low);
    cr_expect_eq(first.high, second.high);
    cr_expect_eq(first.verdict, MIDGE_STATISTICS_SAME);
}

Test(statistics, the_interval_stays_within_the_ratios)
{
    const double ratios[] = {1, 1, 1, 1, 1, 1.5, 1.6, 0.5, 0.4};
    const struct midge_statistics_ratio ratio = of_ratios(ratios, 9);

    cr_expect_geq(ratio.low, 0.4 * (1 - 1e-12));
    cr_expect_leq(ratio.high, 1.6 * (1 + 1e-12));
    cr_expect_eq(ratio.verdict, MIDGE_STATISTICS_SAME);
}

Test(statistics, equal_ratios_have_an_interval_without_width)
{
    const double less[] = {0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8};
    const double same[] = {1, 1, 1, 1, 1, 1, 1, 1.5};
    const struct midge_statistics_ratio ratio = of_ratios(less, 8);

    cr_expect_float_eq(ratio.low, 0.8, 1e-9);
    cr_expect_float_eq(ratio.high, 0.8, 1e-9);
    cr_expect_eq(ratio.verdict, MIDGE_STATISTICS_LESS);
    cr_expect_eq(of_ratios(same, 8).verdict, MIDGE_STATISTICS_SAME);
}

Test(statistics, too_few_rounds_have_a_middle_and_no_verdict)
{
    const double ratios[] = {2, 2, 2, 2, 2, 2, 2, 2};

    for (uint32_t rounds = 1; rounds < MIDGE_STATISTICS_ROUNDS_MIN; rounds++) {
        const struct midge_statistics_ratio ratio = of_ratios(ratios, rounds);

        cr_expect_eq(ratio.verdict, MIDGE_STATISTICS_UNKNOWN);
        cr_expect_float_eq(ratio.middle, 2, 1e-12);
        cr_expect(isnan(ratio.low));
        cr_expect(isnan(ratio.high));
    }
    cr_expect_eq(of_ratios(ratios, MIDGE_STATISTICS_ROUNDS_MIN).verdict, MIDGE_STATISTICS_MORE);
}

Test(statistics, rounds_without_both_values_do_not_count)
{
    const double values[] = {2, NAN, 2, 0, 2, 2, -1, 2, INFINITY, 2, 2, 2, 2};
    const double bases[] = {1, 1, NAN, 1, 0, 1, 1, 1, 1, 1, 1, INFINITY, 1};
    const struct midge_statistics_ratio ratio = midge_statistics_compare(values, bases, 13);

    cr_expect_eq(ratio.rounds, 6);
    cr_expect_float_eq(ratio.middle, 2, 1e-12);
    cr_expect_eq(ratio.verdict, MIDGE_STATISTICS_UNKNOWN);
    cr_expect(isnan(midge_statistics_compare(values, bases, 0).middle));
}

Test(statistics, most_rounds_that_are_allowed_are_compared)
{
    static double values[MIDGE_STATISTICS_ROUNDS_MAX];
    static double bases[MIDGE_STATISTICS_ROUNDS_MAX];

    for (uint32_t i = 0; i < MIDGE_STATISTICS_ROUNDS_MAX; i++) {
        values[i] = noisy(1.02, OUTLIER_RATE);
        bases[i] = noisy(1, OUTLIER_RATE);
    }

    const struct midge_statistics_ratio ratio =
        midge_statistics_compare(values, bases, MIDGE_STATISTICS_ROUNDS_MAX);

    cr_expect_eq(ratio.rounds, MIDGE_STATISTICS_ROUNDS_MAX);
    cr_expect_eq(ratio.verdict, MIDGE_STATISTICS_MORE);
}

Test(statistics, range_is_median_smallest_and_largest)
{
    const double values[] = {5, NAN, 1, 3, 9, NAN};
    struct midge_statistics_range range = midge_statistics_range(values, 6);

    cr_expect_eq(range.count, 4);
    cr_expect_eq(range.median, 4);
    cr_expect_eq(range.min, 1);
    cr_expect_eq(range.max, 9);
    range = midge_statistics_range(values, 4);
    cr_expect_eq(range.count, 3);
    cr_expect_eq(range.median, 3);
    range = midge_statistics_range(values + 1, 1);
    cr_expect_eq(range.count, 0);
    cr_expect(isnan(range.median));
}

Test(statistics, each_subject_is_at_each_place_equally_often)
{
    for (uint32_t subjects = 1; subjects <= 7; subjects++) {
        uint32_t times[7][7] = {{0}};

        for (uint32_t round = 0; round < 2 * subjects; round++) {
            uint32_t seen = 0;

            for (uint32_t place = 0; place < subjects; place++) {
                const uint32_t subject = midge_statistics_order(subjects, round, place);

                cr_assert_lt(subject, subjects);
                times[subject][place]++;
                seen |= 1u << subject;
            }
            cr_expect_eq(seen, (1u << subjects) - 1, "each runs once in a round");
        }
        for (uint32_t i = 0; i < subjects * subjects; i++)
            cr_expect_eq(times[i / subjects][i % subjects], 2);
    }
}

Test(statistics, a_subject_does_not_always_follow_the_same_one)
{
    const uint32_t first[] = {0, 1, 2};
    const uint32_t second[] = {1, 2, 0};
    const uint32_t reversed[] = {2, 1, 0};

    for (uint32_t place = 0; place < 3; place++) {
        cr_expect_eq(midge_statistics_order(3, 0, place), first[place]);
        cr_expect_eq(midge_statistics_order(3, 1, place), second[place]);
        cr_expect_eq(midge_statistics_order(3, 3, place), reversed[place]);
        cr_expect_eq(midge_statistics_order(3, 6, place), first[place]);
    }
}

Test(statistics, verdicts_have_words)
{
    cr_expect_str_eq(midge_statistics_verdict_text(MIDGE_STATISTICS_UNKNOWN), "unknown");
    cr_expect_str_eq(midge_statistics_verdict_text(MIDGE_STATISTICS_SAME), "no difference");
    cr_expect_str_eq(midge_statistics_verdict_text(MIDGE_STATISTICS_LESS), "less");
    cr_expect_str_eq(midge_statistics_verdict_text(MIDGE_STATISTICS_MORE), "more");
}
