/*
 * Histogram against exact samples. Method: the same samples go into a histogram and into a sorted
 * array; a figure of the one may be off by 0.1 % of that of the other. Samples come from generators
 * with a fixed seed.
 */
#include "histogram.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "histogram_internal.h"
#include "histogram_same.h"

#define SAMPLES 200000u
#define HOUR_NS MIDGE_HISTOGRAM_NS_MAX

static uint64_t seed = 7;
static uint64_t samples[SAMPLES];
static struct midge_histogram histogram;
static struct midge_histogram other;

/* Above 0, and at most 1. */
static double random_share(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return ((double)(seed >> 11) + 1) * 0x1p-53;
}

static double random_normal(void)
{
    const double radius = sqrt(-2 * log(random_share()));

    return radius * cos(2 * M_PI * random_share());
}

static uint64_t uniform(uint32_t i)
{
    (void)i;
    return 1 + (uint64_t)(random_share() * 5000000);
}

static uint64_t lognormal(uint32_t i)
{
    (void)i;
    return 1 + (uint64_t)exp(10 + 0.5 * random_normal());
}

/* Pareto: without a mean, and now and then beyond an hour. */
static uint64_t heavy_tail(uint32_t i)
{
    (void)i;
    return (uint64_t)fmin(1 + 5000 / pow(random_share(), 1.5), (double)HOUR_NS);
}

/* As many in each power of two, 1 ns to 1 h. */
static uint64_t all_magnitudes(uint32_t i)
{
    (void)i;
    return histogram_smaller((uint64_t)exp(random_share() * log((double)HOUR_NS)) + 1, HOUR_NS);
}

static uint64_t two_constants(uint32_t i)
{
    return i % 10 == 0 ? 123456789 : 98765;
}

static uint64_t linear_part(uint32_t i)
{
    return 1 + i % 3000;
}

/* Just below, at and just above each power of two. */
static uint64_t edges(uint32_t i)
{
    return (1ull << (1 + i / 3 % 41)) + i % 3 - 1;
}

static int compare(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

static void fill(uint64_t (*next_cb)(uint32_t i))
{
    midge_histogram_init(&histogram);
    for (uint32_t i = 0; i < SAMPLES; i++) {
        samples[i] = next_cb(i);
        midge_histogram_add(&histogram, samples[i], 1);
    }
    qsort(samples, SAMPLES, sizeof *samples, compare);
}

static void expect_near(uint32_t share)
{
    /* Whole: SAMPLES is a multiple of 100,000. */
    const uint64_t rank = (uint64_t)share * SAMPLES / MIDGE_HISTOGRAM_SHARE_ONE;
    const uint64_t exact = samples[rank - 1];
    uint64_t ns = 0;

    if (SAMPLES - rank < MIDGE_HISTOGRAM_BEYOND_MIN) {
        cr_expect_not(midge_histogram_percentile(&histogram, share, &ns), "share %u", share);
        return;
    }
    cr_assert(midge_histogram_percentile(&histogram, share, &ns), "share %u", share);
    cr_expect_geq(ns, exact, "share %u: %llu", share, (unsigned long long)ns);
    cr_expect_leq((ns - exact) * 1000, exact, "share %u: %llu for %llu", share,
                  (unsigned long long)ns, (unsigned long long)exact);
}

static void expect_all_near(uint64_t (*next_cb)(uint32_t i))
{
    double sum = 0;

    fill(next_cb);
    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_REPORTED; i++)
        expect_near(midge_histogram_reported[i].share);
    for (uint32_t share = 1; share < MIDGE_HISTOGRAM_SHARE_ONE; share += 1237)
        expect_near(share);
    for (uint32_t i = 0; i < SAMPLES; i++)
        sum += (double)samples[i];
    cr_expect_eq(midge_histogram_count(&histogram), SAMPLES);
    cr_expect_eq(histogram_load(&histogram.min_ns), samples[0]);
    cr_expect_eq(histogram_load(&histogram.max_ns), samples[SAMPLES - 1]);
    cr_expect_float_eq(midge_histogram_mean(&histogram), sum / SAMPLES, 1e-9 * sum / SAMPLES);
}

Test(histogram, percentiles_of_uniform_samples_are_near)
{
    expect_all_near(uniform);
}
Test(histogram, percentiles_of_lognormal_samples_are_near)
{
    expect_all_near(lognormal);
}
Test(histogram, percentiles_of_a_heavy_tail_are_near)
{
    expect_all_near(heavy_tail);
}
Test(histogram, percentiles_of_1_ns_to_1_h_are_near)
{
    expect_all_near(all_magnitudes);
}
Test(histogram, percentiles_of_two_constants_are_near)
{
    expect_all_near(two_constants);
}
Test(histogram, percentiles_of_powers_of_two_are_near)
{
    expect_all_near(edges);
}

Test(histogram, percentiles_below_2048_ns_are_exact)
{
    fill(linear_part);
    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_REPORTED; i++) {
        const uint64_t rank =
            (uint64_t)midge_histogram_reported[i].share * SAMPLES / MIDGE_HISTOGRAM_SHARE_ONE;
        uint64_t ns = 0;

        if (samples[rank - 1] < MIDGE_HISTOGRAM_LINEAR &&
            midge_histogram_percentile(&histogram, midge_histogram_reported[i].share, &ns))
            cr_expect_eq(ns, samples[rank - 1]);
    }
}

Test(histogram, a_percentile_of_equal_samples_is_the_sample)
{
    for (uint64_t ns = 1; ns < HOUR_NS; ns = ns * 3 + 1) {
        uint64_t found = 0;

        midge_histogram_init(&histogram);
        midge_histogram_add(&histogram, ns, 1000);
        cr_assert(midge_histogram_percentile(&histogram, 90000, &found));
        cr_expect_eq(found, ns);
    }
}

Test(histogram, buckets_follow_each_other_without_a_gap)
{
    cr_expect_eq(histogram_lowest(0), 0);
    for (uint32_t i = 0; i < HISTOGRAM_HOUR_INDEX; i++) {
        const uint64_t lowest = histogram_lowest(i);
        const uint64_t highest = histogram_highest(i);

        cr_assert_eq(histogram_index(lowest), i, "bucket %u", i);
        cr_assert_eq(histogram_index(highest), i, "bucket %u", i);
        cr_assert_eq(histogram_lowest(i + 1), highest + 1, "bucket %u", i);
        cr_assert_leq((highest - lowest) * 1000, lowest, "bucket %u", i);
    }
    cr_expect_eq(histogram_index(HOUR_NS), HISTOGRAM_HOUR_INDEX);
    cr_expect_eq(histogram_highest(HISTOGRAM_HOUR_INDEX), HOUR_NS);
}

/* How others read the JSON: bucket -> lowest value and width. */
Test(histogram, buckets_are_where_readers_of_the_json_expect_them)
{
    cr_expect_eq(histogram_index(2047), 2047);
    cr_expect_eq(histogram_index(2048), 2048);
    cr_expect_eq(histogram_index(2049), 2048);
    cr_expect_eq(histogram_index(4095), 3071);
    cr_expect_eq(histogram_index(4096), 3072);
    cr_expect_eq(histogram_index(1ull << 41), 2048 + 30 * 1024);
    for (uint32_t i = MIDGE_HISTOGRAM_LINEAR; i <= HISTOGRAM_HOUR_INDEX; i++) {
        const uint32_t power = (i - 2048) / 1024;
        const uint64_t mantissa = 1024 + (i - 2048) % 1024;

        cr_assert_eq(histogram_lowest(i), mantissa << (power + 1), "bucket %u", i);
    }
}

Test(histogram, more_than_an_hour_counts_as_an_hour_and_is_counted)
{
    uint64_t ns = 0;

    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, HOUR_NS, 100);
    cr_expect_eq(histogram_load(&histogram.beyond_count), 0);
    midge_histogram_add(&histogram, HOUR_NS + 1, 100);
    midge_histogram_add(&histogram, 5 * HOUR_NS, 100);
    cr_expect_eq(histogram_load(&histogram.beyond_count), 200);
    cr_expect_eq(histogram_load(&histogram.sum_ns), 300 * HOUR_NS);
    cr_expect_eq(histogram_load(&histogram.min_ns), HOUR_NS);
    cr_expect_eq(histogram_load(&histogram.max_ns), 5 * HOUR_NS);
    cr_assert(midge_histogram_percentile(&histogram, 50000, &ns));
    cr_expect_eq(ns, HOUR_NS);
}

Test(histogram, no_sample_overflows_anything)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, UINT64_MAX, 1);
    midge_histogram_add(&histogram, HOUR_NS, 1ull << 40);
    midge_histogram_add(&histogram, HOUR_NS, 1ull << 40);
    cr_expect_eq(histogram_load(&histogram.sum_ns), MIDGE_HISTOGRAM_SUM_MAX);
    cr_expect_eq(histogram_load(&histogram.max_ns), MIDGE_HISTOGRAM_SUM_MAX);
    cr_expect_eq(midge_histogram_count(&histogram), (1ull << 41) + 1);
}

Test(histogram, nothing_counts_as_1_ns)
{
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 0, 3);
    cr_expect_eq(histogram_load(&histogram.min_ns), 1);
    cr_expect_eq(histogram_load(&histogram.max_ns), 1);
    cr_expect_eq(histogram_load(&histogram.sum_ns), 3);
    cr_expect_eq(histogram_load(&histogram.buckets[1]), 3);
}

Test(histogram, percentile_with_fewer_than_100_samples_beyond_is_unknown)
{
    uint64_t ns = 42;

    midge_histogram_init(&histogram);
    cr_expect_not(midge_histogram_percentile(&histogram, 50000, &ns), "an empty one");
    midge_histogram_add(&histogram, 7, 199);
    cr_expect_not(midge_histogram_percentile(&histogram, 50000, &ns));
    cr_expect_eq(ns, 42, "an unknown percentile leaves its argument alone");
    midge_histogram_add(&histogram, 7, 1);
    cr_expect(midge_histogram_percentile(&histogram, 50000, &ns));
    cr_expect_eq(ns, 7);
    midge_histogram_add(&histogram, 7, 9799);
    cr_expect_not(midge_histogram_percentile(&histogram, 99000, &ns), "9,999 samples");
    midge_histogram_add(&histogram, 7, 1);
    cr_expect(midge_histogram_percentile(&histogram, 99000, &ns), "10,000 samples");
}

Test(histogram, percentile_of_bursts_needs_as_many_more)
{
    uint64_t ns = 0;

    midge_histogram_init(&histogram);
    histogram.beyond_min = 50ull * MIDGE_HISTOGRAM_BEYOND_MIN;
    midge_histogram_add(&histogram, 7, 9999);
    cr_expect_not(midge_histogram_percentile(&histogram, 50000, &ns));
    midge_histogram_add(&histogram, 7, 1);
    cr_expect(midge_histogram_percentile(&histogram, 50000, &ns));
}

Test(histogram, percentile_of_very_many_samples_is_right)
{
    uint64_t ns = 0;

    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 10, 999000000000000000u);
    midge_histogram_add(&histogram, 20, 1000000000000000u);
    cr_assert(midge_histogram_percentile(&histogram, 99900, &ns));
    cr_expect_eq(ns, 10);
    cr_assert(midge_histogram_percentile(&histogram, 99901, &ns));
    cr_expect_eq(ns, 20);
}

Test(histogram, merging_is_adding_all_to_one)
{
    static struct midge_histogram all;

    midge_histogram_init(&histogram);
    midge_histogram_init(&other);
    midge_histogram_init(&all);
    for (uint32_t i = 0; i < SAMPLES; i++) {
        /* The second one has the smallest, the largest, and all beyond an hour. */
        const uint64_t ns = i % 2 == 0 ? lognormal(i) + 1000 : heavy_tail(i) * 100;

        midge_histogram_add(i % 2 == 0 ? &histogram : &other, ns, 1 + i % 3);
        midge_histogram_add(&all, ns, 1 + i % 3);
    }
    cr_assert_gt(histogram_load(&other.beyond_count), 0);
    midge_histogram_merge(&histogram, &other);
    cr_expect(is_same(&histogram, &all));
}

Test(histogram, merging_an_empty_one_changes_nothing)
{
    fill(uniform);
    memcpy(&other, &histogram, sizeof other);
    static struct midge_histogram empty;

    midge_histogram_init(&empty);
    midge_histogram_merge(&histogram, &empty);
    cr_expect(is_same(&histogram, &other));
    midge_histogram_merge(&empty, &histogram);
    cr_expect(is_same(&empty, &other));
}

Test(histogram, zeroed_memory_is_an_empty_one)
{
    memset(&other, 0, sizeof other);
    midge_histogram_init(&histogram);
    midge_histogram_add(&histogram, 5000, 2);
    midge_histogram_add(&other, 5000, 2);
    cr_expect(is_same(&histogram, &other));
    memset(&other, 0, sizeof other);
    midge_histogram_merge(&other, &histogram);
    cr_expect(is_same(&histogram, &other));
    cr_expect_eq(midge_histogram_mean(&histogram), 5000);
    midge_histogram_init(&histogram);
    cr_expect_eq(midge_histogram_mean(&histogram), 0);
}
