/*
 * Percentiles of exact samples. Method: samples 1..n in a scrambled order, so that the sample at
 * rank r is r; one behaviour per test.
 */
#include "samples.h"

#include <criterion/criterion.h>

/* A prime, so that i * STEP mod n visits each of 0..n-1 once for every n used here. */
#define STEP 7919u

static struct midge_samples scrambled(uint32_t count)
{
    struct midge_samples samples;

    cr_assert_eq(midge_samples_init(&samples, count), MIDGE_OK);
    for (uint64_t i = 0; i < count; i++)
        midge_samples_add(&samples, i * STEP % count + 1);
    return samples;
}

static void expect_percentile(uint32_t count, uint32_t share, uint64_t expected)
{
    struct midge_samples samples = scrambled(count);
    uint64_t ns = 0;

    cr_expect(midge_samples_percentile(&samples, share, &ns));
    cr_expect_eq(ns, expected, "share %u of %u is %llu, not %llu", share, count,
                 (unsigned long long)ns, (unsigned long long)expected);
    midge_samples_deinit(&samples);
}

static void expect_unknown(uint32_t count, uint32_t share)
{
    struct midge_samples samples = scrambled(count);
    uint64_t ns = 42;

    cr_expect_not(midge_samples_percentile(&samples, share, &ns));
    cr_expect_eq(ns, 42, "an unknown percentile leaves its argument alone");
    midge_samples_deinit(&samples);
}

Test(samples, percentile_is_the_nearest_rank)
{
    expect_percentile(1000, MIDGE_SAMPLES_SHARE_P50, 500);
    expect_percentile(1001, MIDGE_SAMPLES_SHARE_P50, 501);
    expect_percentile(1000, MIDGE_SAMPLES_SHARE_P90, 900);
    expect_percentile(20000, MIDGE_SAMPLES_SHARE_P99, 19800);
    expect_percentile(100000, MIDGE_SAMPLES_SHARE_P999, 99900);
}

Test(samples, percentile_with_fewer_than_100_samples_beyond_is_unknown)
{
    expect_percentile(200, MIDGE_SAMPLES_SHARE_P50, 100);
    expect_unknown(199, MIDGE_SAMPLES_SHARE_P50);
    expect_percentile(10000, MIDGE_SAMPLES_SHARE_P99, 9900);
    expect_unknown(9999, MIDGE_SAMPLES_SHARE_P99);
    expect_unknown(99999, MIDGE_SAMPLES_SHARE_P999);
}

Test(samples, samples_added_after_a_percentile_count)
{
    struct midge_samples samples;
    uint64_t ns = 0;

    cr_assert_eq(midge_samples_init(&samples, 400), MIDGE_OK);
    for (uint32_t i = 0; i < 300; i++)
        midge_samples_add(&samples, 10);
    cr_expect(midge_samples_percentile(&samples, MIDGE_SAMPLES_SHARE_P50, &ns));
    cr_expect_eq(midge_samples_max(&samples), 10);
    midge_samples_add(&samples, 5);
    midge_samples_add(&samples, 99);
    cr_expect_eq(midge_samples_max(&samples), 99);
    midge_samples_deinit(&samples);
}

Test(samples, max_of_nothing_is_zero)
{
    struct midge_samples samples;
    uint64_t ns = 0;

    cr_assert_eq(midge_samples_init(&samples, 1), MIDGE_OK);
    cr_expect_eq(midge_samples_max(&samples), 0);
    cr_expect_not(midge_samples_percentile(&samples, MIDGE_SAMPLES_SHARE_P50, &ns));
    midge_samples_deinit(&samples);
}
