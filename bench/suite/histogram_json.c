/*
 * A histogram as JSON, and back; see histogram.h.
 *
 * What is read is first put into a histogram of its own, then asked for whatever it says twice: the
 * smallest and the largest sample against the buckets, the sum against what those leave possible,
 * mean and percentiles against what follows from the rest.
 */
#include <math.h>
#include <stdlib.h>

#include "histogram_internal.h"

/* A mean may have gone through a program that prints fewer digits. */
#define MEAN_TOLERANCE 1e-9

/* Sums of 2^53 samples of an hour, which are checked before they are cut at SUM_MAX. */
typedef unsigned __int128 wide;

static json_t *buckets_to_json(const struct midge_histogram *histogram)
{
    json_t *buckets = json_array();

    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_BUCKETS; i++) {
        const uint64_t count = histogram_load(&histogram->buckets[i]);

        if (count == 0)
            continue;
        /* Without memory json_pack() returns NULL, which json_array_append_new() refuses, and it
         * frees what it does not take. */
        if (json_array_append_new(buckets, json_pack("[I, I]", (json_int_t)i, (json_int_t)count)) !=
            0) {
            json_decref(buckets);
            return NULL;
        }
    }
    return buckets;
}

json_t *midge_histogram_to_json(const struct midge_histogram *histogram)
{
    const uint64_t count = histogram_load(&histogram->count);
    const uint64_t min_ns = count > 0 ? histogram_load(&histogram->min_ns) : 0;
    json_t *json = json_pack(
        "{s: I, s: I, s: I, s: f, s: I, s: I, s: I}", "count", (json_int_t)count, "min_ns",
        (json_int_t)min_ns, "max_ns", (json_int_t)histogram_load(&histogram->max_ns), "mean_ns",
        midge_histogram_mean(histogram), "sum_ns", (json_int_t)histogram_load(&histogram->sum_ns),
        "beyond_count", (json_int_t)histogram_load(&histogram->beyond_count), "beyond_min",
        (json_int_t)histogram->beyond_min);
    /* Setting a key to NULL fails, and so does setting one of NULL. */
    int failed = 0;

    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_REPORTED; i++) {
        uint64_t ns = 0;
        const bool is_known =
            midge_histogram_percentile(histogram, midge_histogram_reported[i].share, &ns);

        failed |= json_object_set_new(json, midge_histogram_reported[i].key,
                                      is_known ? json_integer((json_int_t)ns) : json_null());
    }
    failed |= json_object_set_new(json, "buckets", buckets_to_json(histogram));
    if (failed != 0) {
        json_decref(json);
        return NULL;
    }
    return json;
}

static bool get_number(const json_t *json, uint64_t max, uint64_t *number_out)
{
    if (!json_is_integer(json) || json_integer_value(json) < 0)
        return false;
    *number_out = (uint64_t)json_integer_value(json);
    return *number_out <= max;
}

/* Buckets that are there, in order, none of them empty. */
static bool read_buckets(struct midge_histogram *histogram, const json_t *buckets)
{
    uint64_t index = 0; /* of the last one; no sample is 0 ns */
    uint64_t total = 0;

    if (!json_is_array(buckets))
        return false;
    for (size_t i = 0; i < json_array_size(buckets); i++) {
        const json_t *bucket = json_array_get(buckets, i);
        const uint64_t last = index;
        uint64_t count = 0;

        if (!json_is_array(bucket) || json_array_size(bucket) != 2)
            return false;
        if (!get_number(json_array_get(bucket, 0), HISTOGRAM_HOUR_INDEX, &index) || index <= last)
            return false;
        if (!get_number(json_array_get(bucket, 1), MIDGE_HISTOGRAM_COUNT_MAX - total, &count) ||
            count == 0)
            return false;
        total += count;
        histogram_store(&histogram->buckets[index], count);
    }
    histogram_store(&histogram->count, total);
    return true;
}

/* What no bucket holds; `buckets` have been read. */
static bool read_rest(struct midge_histogram *histogram, const json_t *json)
{
    const uint64_t count = histogram_load(&histogram->count);
    uint64_t said_count = 0;
    uint64_t sum_ns = 0;
    uint64_t min_ns = 0;
    uint64_t max_ns = 0;
    uint64_t beyond_count = 0;

    if (!get_number(json_object_get(json, "count"), MIDGE_HISTOGRAM_COUNT_MAX, &said_count) ||
        said_count != count)
        return false;
    if (!get_number(json_object_get(json, "sum_ns"), MIDGE_HISTOGRAM_SUM_MAX, &sum_ns))
        return false;
    if (!get_number(json_object_get(json, "beyond_count"), count, &beyond_count))
        return false;
    if (!get_number(json_object_get(json, "beyond_min"), MIDGE_HISTOGRAM_COUNT_MAX,
                    &histogram->beyond_min) ||
        histogram->beyond_min == 0)
        return false;
    if (!get_number(json_object_get(json, "min_ns"), MIDGE_HISTOGRAM_SUM_MAX, &min_ns) ||
        !get_number(json_object_get(json, "max_ns"), MIDGE_HISTOGRAM_SUM_MAX, &max_ns))
        return false;
    histogram_store(&histogram->sum_ns, sum_ns);
    histogram_store(&histogram->min_ns, min_ns);
    histogram_store(&histogram->max_ns, max_ns);
    histogram_store(&histogram->beyond_count, beyond_count);
    return true;
}

/* True if the smallest and the largest sample lie in the first and the last bucket, and those
 * beyond an hour in the last one. */
static bool is_range_possible(const struct midge_histogram *histogram)
{
    const uint64_t min_ns = histogram_load(&histogram->min_ns);
    const uint64_t max_ns = histogram_load(&histogram->max_ns);
    const uint64_t beyond_count = histogram_load(&histogram->beyond_count);
    const uint64_t count = histogram_load(&histogram->count);
    uint32_t first = 0;
    uint32_t last = HISTOGRAM_HOUR_INDEX;

    while (histogram_load(&histogram->buckets[first]) == 0)
        first++;
    while (histogram_load(&histogram->buckets[last]) == 0)
        last--;
    if (min_ns > max_ns || (count == 1 && min_ns != max_ns))
        return false;
    if (histogram_index(histogram_smaller(min_ns, MIDGE_HISTOGRAM_NS_MAX)) != first ||
        histogram_index(histogram_smaller(max_ns, MIDGE_HISTOGRAM_NS_MAX)) != last)
        return false;
    if (beyond_count > histogram_load(&histogram->buckets[HISTOGRAM_HOUR_INDEX]))
        return false;
    return (max_ns > MIDGE_HISTOGRAM_NS_MAX) == (beyond_count > 0) &&
           (min_ns > MIDGE_HISTOGRAM_NS_MAX) == (beyond_count == count);
}

/* Smallest and largest sum of samples that are in these buckets: one is the smallest, another the
 * largest, those beyond an hour count as one, and the others are anywhere in their bucket. */
static bool is_sum_possible(const struct midge_histogram *histogram)
{
    const uint64_t sum_ns = histogram_load(&histogram->sum_ns);
    const uint64_t min_ns =
        histogram_smaller(histogram_load(&histogram->min_ns), MIDGE_HISTOGRAM_NS_MAX);
    const uint64_t max_ns =
        histogram_smaller(histogram_load(&histogram->max_ns), MIDGE_HISTOGRAM_NS_MAX);
    const uint64_t beyond_count = histogram_load(&histogram->beyond_count);
    wide lowest = (wide)beyond_count * MIDGE_HISTOGRAM_NS_MAX;
    wide highest = lowest;

    for (uint32_t i = 0; i <= HISTOGRAM_HOUR_INDEX; i++) {
        const uint64_t from_ns = histogram_larger(histogram_lowest(i), min_ns);
        const uint64_t to_ns = histogram_smaller(histogram_highest(i), max_ns);
        uint64_t count = histogram_load(&histogram->buckets[i]);

        if (i == HISTOGRAM_HOUR_INDEX)
            count -= beyond_count;
        if (count == 0)
            continue;
        lowest += (wide)count * from_ns;
        highest += (wide)count * to_ns;
        /* So far the smallest sample may be the largest of its bucket, and the other way round. */
        if (i == histogram_index(min_ns))
            highest -= to_ns - min_ns;
        if (i == histogram_index(max_ns) && beyond_count == 0)
            lowest += max_ns - from_ns;
    }
    if (lowest > MIDGE_HISTOGRAM_SUM_MAX)
        lowest = MIDGE_HISTOGRAM_SUM_MAX;
    return sum_ns >= lowest && sum_ns <= highest;
}

static bool is_mean_right(const struct midge_histogram *histogram, const json_t *said)
{
    const double mean = midge_histogram_mean(histogram);

    return json_is_number(said) && fabs(json_number_value(said) - mean) <= MEAN_TOLERANCE * mean;
}

static bool are_percentiles_right(const struct midge_histogram *histogram, const json_t *json)
{
    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_REPORTED; i++) {
        const json_t *said = json_object_get(json, midge_histogram_reported[i].key);
        uint64_t said_ns = 0;
        uint64_t ns = 0;

        if (!midge_histogram_percentile(histogram, midge_histogram_reported[i].share, &ns)) {
            if (!json_is_null(said))
                return false;
        } else if (!get_number(said, MIDGE_HISTOGRAM_SUM_MAX, &said_ns) || said_ns != ns) {
            return false;
        }
    }
    return true;
}

/* True if there is a list of samples of which all that was read is true. */
static bool is_possible(const struct midge_histogram *histogram)
{
    if (midge_histogram_count(histogram) == 0)
        return histogram_load(&histogram->sum_ns) == 0 && histogram_load(&histogram->min_ns) == 0 &&
               histogram_load(&histogram->max_ns) == 0;
    return is_range_possible(histogram) && is_sum_possible(histogram);
}

static bool read_all(struct midge_histogram *histogram, const json_t *json)
{
    return json_is_object(json) && read_buckets(histogram, json_object_get(json, "buckets")) &&
           read_rest(histogram, json) && is_possible(histogram) &&
           is_mean_right(histogram, json_object_get(json, "mean_ns")) &&
           are_percentiles_right(histogram, json);
}

enum midge_status midge_histogram_from_json(struct midge_histogram *histogram, const json_t *json)
{
    /* Zeros are an empty histogram. */
    struct midge_histogram *read = (struct midge_histogram *)calloc(1, sizeof *read);

    if (read == NULL)
        return MIDGE_E_MEMORY;
    if (!read_all(read, json)) {
        free(read);
        return MIDGE_E_CONFIG;
    }
    midge_histogram_init(histogram);
    midge_histogram_merge(histogram, read);
    histogram->beyond_min = read->beyond_min;
    free(read);
    return MIDGE_OK;
}
