/* The percentile output of HdrHistogram; see histogram.h. */
#include <inttypes.h>
#include <math.h>

#include "histogram_internal.h"

#define NS_OF_US 1000.0

/* Levels between two halvings of the distance to 100 %. Of each half distance the first is its
 * beginning, so that tick t of ten leaves (10 - t) / 10 of it, and t ends at 5. */
#define TICKS      5u
#define FULL_TICKS 10u

/* What HdrHistogram calls buckets: the linear one, and one for each power of two. */
#define POWERS (1u + HISTOGRAM_HOUR_SHIFT)

/* A percentile of the output: 1 - (10 - tick) / 10 / 2^halvings. */
struct level {
    uint32_t halvings;
    uint32_t tick;
};

static double share_beyond(struct level level)
{
    return ldexp((double)(FULL_TICKS - level.tick) / FULL_TICKS, -(int)level.halvings);
}

static void advance(struct level *level)
{
    level->tick++;
    if (level->tick == TICKS) {
        level->tick = 0;
        level->halvings++;
    }
}

/* True if so many samples beyond a value mean that it is at the level, or above. Both sides are
 * whole numbers; exact up to 2^49 samples. */
static bool is_reached(struct level level, uint64_t beyond, uint64_t total)
{
    return ldexp((double)(beyond * FULL_TICKS), (int)level.halvings) <=
           (double)(total * (FULL_TICKS - level.tick));
}

static uint64_t total_of(const struct midge_histogram *histogram)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_BUCKETS; i++)
        total += histogram_load(&histogram->buckets[i]);
    return total;
}

static double deviation(const struct midge_histogram *histogram, uint64_t total)
{
    const uint64_t min_ns =
        histogram_smaller(histogram_load(&histogram->min_ns), MIDGE_HISTOGRAM_NS_MAX);
    const uint64_t max_ns = histogram_load(&histogram->max_ns);
    const double mean = midge_histogram_mean(histogram);
    double squares = 0;

    for (uint32_t i = 0; i <= HISTOGRAM_HOUR_INDEX; i++) {
        const uint64_t count = histogram_load(&histogram->buckets[i]);

        if (count == 0)
            continue;

        const uint64_t from = histogram_larger(histogram_lowest(i), min_ns);
        const uint64_t to = histogram_smaller(histogram_highest(i), max_ns);
        const double middle = ((double)from + (double)to) / 2;

        squares += (double)count * (middle - mean) * (middle - mean);
    }
    return total > 0 ? sqrt(squares / (double)total) : 0;
}

/* One line for each level that the buckets reach, and one for 100 %. Returns what fprintf()
 * returned last. */
static int write_levels(const struct midge_histogram *histogram, uint64_t total, FILE *file)
{
    const uint64_t max_ns = histogram_load(&histogram->max_ns);
    struct level level = {.halvings = 0};
    uint64_t seen_count = 0;
    double value_us = 0;
    int length = 0;

    for (uint32_t i = 0; seen_count < total && i <= HISTOGRAM_HOUR_INDEX; i++) {
        const uint64_t count = histogram_load(&histogram->buckets[i]);

        if (count == 0)
            continue;
        seen_count += count;
        value_us = (double)histogram_smaller(histogram_highest(i), max_ns) / NS_OF_US;
        while (length >= 0 && is_reached(level, total - seen_count, total)) {
            length = fprintf(file, "%12.3f %2.12f %10" PRIu64 " %14.2f\n", value_us,
                             1 - share_beyond(level), seen_count, 1 / share_beyond(level));
            advance(&level);
            /* The last bucket reaches all levels that there are; one is said. */
            if (seen_count >= total)
                break;
        }
    }
    if (length >= 0 && total > 0)
        length = fprintf(file, "%12.3f %2.12f %10" PRIu64 "\n", value_us, 1.0, seen_count);
    return length;
}

enum midge_status midge_histogram_write_hgrm(const struct midge_histogram *histogram, FILE *file)
{
    const uint64_t total = total_of(histogram);
    const double max_us = (double)histogram_load(&histogram->max_ns) / NS_OF_US;

    if (fprintf(file, "%12s %14s %10s %14s\n\n", "Value", "Percentile", "TotalCount",
                "1/(1-Percentile)") < 0)
        return MIDGE_E_WRITE;
    if (write_levels(histogram, total, file) < 0)
        return MIDGE_E_WRITE;
    if (fprintf(file, "#[Mean    = %12.3f, StdDeviation   = %12.3f]\n",
                midge_histogram_mean(histogram) / NS_OF_US,
                deviation(histogram, total) / NS_OF_US) < 0)
        return MIDGE_E_WRITE;
    if (fprintf(file, "#[Max     = %12.3f, Total count    = %12" PRIu64 "]\n", max_us, total) < 0)
        return MIDGE_E_WRITE;
    if (fprintf(file, "#[Buckets = %12u, SubBuckets     = %12u]\n", POWERS,
                MIDGE_HISTOGRAM_LINEAR) < 0)
        return MIDGE_E_WRITE;
    return fflush(file) == 0 ? MIDGE_OK : MIDGE_E_WRITE;
}
