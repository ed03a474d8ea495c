/* Ratios within rounds and the bootstrap of their middle; see statistics.h. */
#include "statistics.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"

#define SEED 1u

/* Logarithms of ratios that differ by less are equal but for rounding. */
#define SPREAD_MIN 1e-12

/* Which resample, counted from each end, is the end of an interval at the 5 % level. */
#define TAIL_COUNT ((MIDGE_STATISTICS_RESAMPLES + 1) / 40u)
static_assert(TAIL_COUNT * 40u == MIDGE_STATISTICS_RESAMPLES + 1, "2.5 % is a whole number");

/* Trimmed mean, and its standard error, but for a factor that depends on the count alone and so
 * falls out of every ratio: the error comes from the winsorized sample. */
struct estimate {
    double mean;
    double error;
};

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left;
    const double b = *(const double *)right;

    return (a > b) - (a < b);
}

static void sort(double *values, uint32_t count)
{
    qsort(values, count, sizeof *values, compare_doubles);
}

/* 0..count - 1. Some come up more often than others by count / 2^32: nobody can see it. */
static uint32_t random_index(uint64_t *state, uint32_t count)
{
    return (uint32_t)(((midge_random_next(state) >> 32) * count) >> 32);
}

/* How many are left out at each end. */
static uint32_t trim_count(uint32_t count)
{
    const uint32_t share = count * MIDGE_STATISTICS_TRIM_PERCENT / 100;

    if (count < 3)
        return 0;
    return share > 0 ? share : 1;
}

static struct estimate estimate(const double *sorted, uint32_t count)
{
    const uint32_t trim = trim_count(count);
    const uint32_t last = count - 1 - trim;
    double sum = 0;
    double squares = 0;

    for (uint32_t i = trim; i <= last; i++)
        sum += sorted[i];

    const double center = (sum + trim * (sorted[trim] + sorted[last])) / count;

    for (uint32_t i = trim; i <= last; i++)
        squares += (sorted[i] - center) * (sorted[i] - center);
    squares += trim * (sorted[trim] - center) * (sorted[trim] - center);
    squares += trim * (sorted[last] - center) * (sorted[last] - center);
    return (struct estimate){.mean = sum / (count - 2 * trim), .error = sqrt(squares)};
}

/* As many as there are, with replacement. Each is counted rather than copied, so that the sample
 * comes out sorted. */
static void resample(uint64_t *state, const double *sorted, uint32_t count, double *sample_out)
{
    uint32_t times[MIDGE_STATISTICS_ROUNDS_MAX];
    uint32_t index = 0;

    memset(times, 0, count * sizeof *times);
    for (uint32_t i = 0; i < count; i++)
        times[random_index(state, count)]++;
    for (uint32_t i = 0; i < count; i++) {
        while (times[index] == 0)
            index++;
        times[index]--;
        sample_out[i] = sorted[index];
    }
}

/* How far a resample is from the whole, in its own standard errors. A resample of one ratio alone
 * has no error, and is as far away as can be. */
static double distance(struct estimate part, struct estimate whole)
{
    const double difference = part.mean - whole.mean;

    if (part.error > SPREAD_MIN)
        return difference / part.error;
    if (fabs(difference) <= SPREAD_MIN)
        return 0;
    return copysign(INFINITY, difference);
}

/* The smallest values so far, in order. */
struct tail {
    double values[TAIL_COUNT];
    uint32_t count;
};

/* Ends are all that is asked for, and sorting would take longer than the resamples themselves. */
static void keep_smallest(struct tail *tail, double value)
{
    if (tail->count == TAIL_COUNT) {
        if (value >= tail->values[TAIL_COUNT - 1])
            return;
        tail->count--;
    }

    uint32_t place = tail->count++;

    for (; place > 0 && tail->values[place - 1] > value; place--)
        tail->values[place] = tail->values[place - 1];
    tail->values[place] = value;
}

/* Bootstrap-t: where resamples lie as seen from the whole is taken for where the whole lies as seen
 * from the truth. */
static void interval(const double *sorted, uint32_t count, struct estimate whole, double *low_out,
                     double *high_out)
{
    double sample[MIDGE_STATISTICS_ROUNDS_MAX];
    struct tail below = {.count = 0};
    struct tail above = {.count = 0}; /* with the opposite sign */
    uint64_t state = SEED;

    for (uint32_t i = 0; i < MIDGE_STATISTICS_RESAMPLES; i++) {
        resample(&state, sorted, count, sample);

        const double from_whole = distance(estimate(sample, count), whole);

        keep_smallest(&below, from_whole);
        keep_smallest(&above, -from_whole);
    }

    /* Where resamples of one ratio are as far away as can be, only the cut is an end. */
    *low_out = fmax(whole.mean + above.values[TAIL_COUNT - 1] * whole.error, sorted[0]);
    *high_out = fmin(whole.mean - below.values[TAIL_COUNT - 1] * whole.error, sorted[count - 1]);
}

static bool is_usable(double value)
{
    return isfinite(value) && value > 0;
}

struct midge_statistics_ratio midge_statistics_compare(const double *values, const double *bases,
                                                       uint32_t rounds)
{
    MIDGE_ASSERT(rounds <= MIDGE_STATISTICS_ROUNDS_MAX);

    struct midge_statistics_ratio ratio = {.middle = NAN, .low = NAN, .high = NAN};
    double logs[MIDGE_STATISTICS_ROUNDS_MAX] = {0};

    for (uint32_t i = 0; i < rounds; i++) {
        if (is_usable(values[i]) && is_usable(bases[i]))
            logs[ratio.rounds++] = log(values[i]) - log(bases[i]);
    }
    if (ratio.rounds == 0)
        return ratio;
    sort(logs, ratio.rounds);

    const struct estimate whole = estimate(logs, ratio.rounds);
    double low = 0;
    double high = 0;

    ratio.middle = exp(whole.mean);
    if (ratio.rounds < MIDGE_STATISTICS_ROUNDS_MIN)
        return ratio;
    interval(logs, ratio.rounds, whole, &low, &high);
    ratio.low = exp(low);
    ratio.high = exp(high);
    if (ratio.low > 1)
        ratio.verdict = MIDGE_STATISTICS_MORE;
    else if (ratio.high < 1)
        ratio.verdict = MIDGE_STATISTICS_LESS;
    else
        ratio.verdict = MIDGE_STATISTICS_SAME;
    return ratio;
}

struct midge_statistics_range midge_statistics_range(const double *values, uint32_t rounds)
{
    MIDGE_ASSERT(rounds <= MIDGE_STATISTICS_ROUNDS_MAX);

    struct midge_statistics_range range = {.median = NAN, .min = NAN, .max = NAN};
    double sorted[MIDGE_STATISTICS_ROUNDS_MAX];

    for (uint32_t i = 0; i < rounds; i++) {
        if (!isnan(values[i]))
            sorted[range.count++] = values[i];
    }
    if (range.count == 0)
        return range;
    sort(sorted, range.count);
    range.min = sorted[0];
    range.max = sorted[range.count - 1];
    range.median = sorted[range.count / 2];
    if (range.count % 2 == 0)
        range.median = (range.median + sorted[range.count / 2 - 1]) / 2;
    return range;
}

const char *midge_statistics_verdict_text(enum midge_statistics_verdict verdict)
{
    switch (verdict) {
    case MIDGE_STATISTICS_UNKNOWN:
        return "unknown";
    case MIDGE_STATISTICS_SAME:
        return "no difference";
    case MIDGE_STATISTICS_LESS:
        return "less";
    case MIDGE_STATISTICS_MORE:
        return "more";
    }
    MIDGE_ASSERT(false);
}

uint32_t midge_statistics_order(uint32_t subjects, uint32_t round, uint32_t place)
{
    MIDGE_ASSERT(place < subjects);

    const bool is_reversed = round / subjects % 2 == 1;
    const uint32_t step = is_reversed ? subjects - 1 - place : place;

    return (round % subjects + step) % subjects;
}
