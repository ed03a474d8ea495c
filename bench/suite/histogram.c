/* Samples into buckets, and percentiles out of them; see histogram.h. */
#include "histogram.h"

#include <assert.h>

#include "histogram_internal.h"

static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "it lies in memory that processes share");

const struct midge_histogram_reported midge_histogram_reported[MIDGE_HISTOGRAM_REPORTED] = {
    [MIDGE_HISTOGRAM_P50] = {"p50_ns", "p50", 50000},
    [MIDGE_HISTOGRAM_P90] = {"p90_ns", "p90", 90000},
    [MIDGE_HISTOGRAM_P99] = {"p99_ns", "p99", 99000},
    [MIDGE_HISTOGRAM_P999] = {"p999_ns", "p99.9", 99900},
    [MIDGE_HISTOGRAM_P9999] = {"p9999_ns", "p99.99", 99990},
};

/* There is one writer, so a load and a store do what an atomic addition does, at a tenth of its
 * cost. */
static void increase(_Atomic uint64_t *counter, uint64_t by)
{
    histogram_store(counter, histogram_load(counter) + by);
}

/* Both are at most SUM_MAX, so the addition does not overflow. */
static void increase_sum(struct midge_histogram *histogram, uint64_t by_ns)
{
    const uint64_t sum_ns = histogram_load(&histogram->sum_ns) + by_ns;

    histogram_store(&histogram->sum_ns, histogram_smaller(sum_ns, MIDGE_HISTOGRAM_SUM_MAX));
}

/* Asks for the count, which must not have been increased yet, since memory that was zeroed and
 * nothing else has a minimum of 0. */
static void extend_range(struct midge_histogram *histogram, uint64_t min_ns, uint64_t max_ns)
{
    const bool is_first = histogram_load(&histogram->count) == 0;

    if (is_first || min_ns < histogram_load(&histogram->min_ns))
        histogram_store(&histogram->min_ns, min_ns);
    if (max_ns > histogram_load(&histogram->max_ns))
        histogram_store(&histogram->max_ns, max_ns);
}

void midge_histogram_init(struct midge_histogram *histogram)
{
    histogram_store(&histogram->count, 0);
    histogram_store(&histogram->sum_ns, 0);
    histogram_store(&histogram->min_ns, UINT64_MAX);
    histogram_store(&histogram->max_ns, 0);
    histogram_store(&histogram->beyond_count, 0);
    histogram->beyond_min = MIDGE_HISTOGRAM_BEYOND_MIN;
    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_BUCKETS; i++)
        histogram_store(&histogram->buckets[i], 0);
}

void midge_histogram_add(struct midge_histogram *histogram, uint64_t ns, uint64_t count)
{
    const uint64_t exact_ns = histogram_smaller(ns > 0 ? ns : 1, MIDGE_HISTOGRAM_SUM_MAX);
    const uint64_t counted_ns = histogram_smaller(exact_ns, MIDGE_HISTOGRAM_NS_MAX);
    uint64_t sum_ns = 0;

    if (count == 0)
        return;
    if (__builtin_mul_overflow(counted_ns, count, &sum_ns))
        sum_ns = MIDGE_HISTOGRAM_SUM_MAX;
    extend_range(histogram, exact_ns, exact_ns);
    increase(&histogram->buckets[histogram_index(counted_ns)], count);
    increase_sum(histogram, histogram_smaller(sum_ns, MIDGE_HISTOGRAM_SUM_MAX));
    if (exact_ns > MIDGE_HISTOGRAM_NS_MAX)
        increase(&histogram->beyond_count, count);
    increase(&histogram->count, count);
}

void midge_histogram_merge(struct midge_histogram *into, const struct midge_histogram *from)
{
    const uint64_t count = histogram_load(&from->count);

    if (count == 0)
        return;
    extend_range(into, histogram_load(&from->min_ns), histogram_load(&from->max_ns));
    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_BUCKETS; i++) {
        const uint64_t in_bucket = histogram_load(&from->buckets[i]);

        if (in_bucket > 0)
            increase(&into->buckets[i], in_bucket);
    }
    increase_sum(into, histogram_load(&from->sum_ns));
    increase(&into->beyond_count, histogram_load(&from->beyond_count));
    increase(&into->count, count);
}

uint64_t midge_histogram_count(const struct midge_histogram *histogram)
{
    return histogram_load(&histogram->count);
}

double midge_histogram_mean(const struct midge_histogram *histogram)
{
    const uint64_t count = histogram_load(&histogram->count);

    if (count == 0)
        return 0;
    return (double)histogram_load(&histogram->sum_ns) / (double)count;
}

/* Smallest rank that at least `share` of all samples do not exceed. In two parts, because the
 * product of both may not fit. */
static uint64_t rank_of(uint64_t count, uint32_t share)
{
    const uint64_t whole = count / MIDGE_HISTOGRAM_SHARE_ONE * share;
    const uint64_t rest = count % MIDGE_HISTOGRAM_SHARE_ONE * share;

    return whole + (rest + MIDGE_HISTOGRAM_SHARE_ONE - 1) / MIDGE_HISTOGRAM_SHARE_ONE;
}

bool midge_histogram_percentile(const struct midge_histogram *histogram, uint32_t share,
                                uint64_t *ns_out)
{
    MIDGE_ASSERT(share > 0);
    MIDGE_ASSERT(share < MIDGE_HISTOGRAM_SHARE_ONE);

    const uint64_t count = histogram_load(&histogram->count);
    const uint64_t rank = rank_of(count, share);
    const uint64_t max_ns = histogram_load(&histogram->max_ns);
    uint64_t seen_count = 0;

    if (count - rank < histogram->beyond_min)
        return false;
    for (uint32_t i = 0; i <= HISTOGRAM_HOUR_INDEX; i++) {
        seen_count += histogram_load(&histogram->buckets[i]);
        if (seen_count >= rank) {
            *ns_out = histogram_smaller(histogram_highest(i), max_ns);
            return true;
        }
    }
    /* Beside a writer the count may be ahead of the buckets. */
    *ns_out = histogram_smaller(max_ns, MIDGE_HISTOGRAM_NS_MAX);
    return true;
}
