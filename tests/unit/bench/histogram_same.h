/* Whether two histograms are the same in every counter, for the tests of histograms. */
#ifndef MIDGE_HISTOGRAM_SAME_H
#define MIDGE_HISTOGRAM_SAME_H

#include <stdbool.h>

#include "histogram_internal.h"

static inline bool is_same(const struct midge_histogram *left, const struct midge_histogram *right)
{
    for (uint32_t i = 0; i < MIDGE_HISTOGRAM_BUCKETS; i++) {
        if (histogram_load(&left->buckets[i]) != histogram_load(&right->buckets[i]))
            return false;
    }
    return histogram_load(&left->count) == histogram_load(&right->count) &&
           histogram_load(&left->sum_ns) == histogram_load(&right->sum_ns) &&
           histogram_load(&left->min_ns) == histogram_load(&right->min_ns) &&
           histogram_load(&left->max_ns) == histogram_load(&right->max_ns) &&
           histogram_load(&left->beyond_count) == histogram_load(&right->beyond_count);
}

#endif
