/*
 * Arithmetic of buckets, which the parts of histogram share: adding, JSON, .hgrm.
 *
 * A value is shifted right until 11 bits of it are left, not at all below 2,048 ns. A bucket is
 * what is left, plus 1,024 for each bit that is gone.
 *
 * Thread: as in histogram.h.
 */
#ifndef MIDGE_HISTOGRAM_INTERNAL_H
#define MIDGE_HISTOGRAM_INTERNAL_H

#include <assert.h>

#include "histogram.h"

/* Bits of a value that choose its bucket: 1,024..2,047 above the linear part. */
#define HISTOGRAM_HALF_BITS 10u
#define HISTOGRAM_HALF      (1u << HISTOGRAM_HALF_BITS)

static_assert(2 * HISTOGRAM_HALF == MIDGE_HISTOGRAM_LINEAR, "the linear part is two halves");

/* Where an hour is, and whatever counts as one. */
#define HISTOGRAM_HOUR_SHIFT 31u
#define HISTOGRAM_HOUR_INDEX                                                                       \
    (HISTOGRAM_HOUR_SHIFT * HISTOGRAM_HALF +                                                       \
     (uint32_t)(MIDGE_HISTOGRAM_NS_MAX >> HISTOGRAM_HOUR_SHIFT))

static_assert(MIDGE_HISTOGRAM_NS_MAX >> HISTOGRAM_HOUR_SHIFT >= HISTOGRAM_HALF &&
                  MIDGE_HISTOGRAM_NS_MAX >> HISTOGRAM_HOUR_SHIFT < 2 * HISTOGRAM_HALF,
              "an hour is 2^41 ns and something");
static_assert(HISTOGRAM_HOUR_INDEX < MIDGE_HISTOGRAM_BUCKETS, "an hour has a bucket");

static inline uint64_t histogram_load(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static inline void histogram_store(_Atomic uint64_t *counter, uint64_t value)
{
    atomic_store_explicit(counter, value, memory_order_relaxed);
}

static inline uint64_t histogram_smaller(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

static inline uint64_t histogram_larger(uint64_t left, uint64_t right)
{
    return left > right ? left : right;
}

/* By how many bits the values of a bucket are wide. */
static inline uint32_t histogram_shift(uint32_t index)
{
    return index < MIDGE_HISTOGRAM_LINEAR ? 0 : index / HISTOGRAM_HALF - 1;
}

/** Bucket of a value of 1..MIDGE_HISTOGRAM_NS_MAX. */
static inline uint32_t histogram_index(uint64_t ns)
{
    /* The bit makes the shift 0 for all of the linear part. */
    const uint32_t bits = 64u - (uint32_t)__builtin_clzll(ns | HISTOGRAM_HALF);
    const uint32_t shift = bits - 1 - HISTOGRAM_HALF_BITS;

    return shift * HISTOGRAM_HALF + (uint32_t)(ns >> shift);
}

static inline uint64_t histogram_lowest(uint32_t index)
{
    const uint32_t shift = histogram_shift(index);

    return (uint64_t)(index - shift * HISTOGRAM_HALF) << shift;
}

/** Largest value of a bucket; an hour in that of an hour, since no sample counts as more. */
static inline uint64_t histogram_highest(uint32_t index)
{
    const uint64_t width = 1ull << histogram_shift(index);

    return histogram_smaller(histogram_lowest(index) + width - 1, MIDGE_HISTOGRAM_NS_MAX);
}

#endif
