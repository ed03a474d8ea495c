/*
 * Exact latency samples and their percentiles.
 *
 * A run keeps every sample: a histogram would save memory that nobody misses here and round what is
 * to be compared. A percentile with fewer than MIDGE_SAMPLES_BEYOND_MIN samples beyond it is
 * unknown, because a handful of outliers would decide it.
 *
 * Thread: shard (one thread owns everything).
 * Memory: one array, allocated and touched at init.
 */
#ifndef MIDGE_SAMPLES_H
#define MIDGE_SAMPLES_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/status.h"

#define MIDGE_SAMPLES_BEYOND_MIN 100u
#define MIDGE_SAMPLES_MAX        100000000u

/* A share of one, in parts of 100,000: exact, where 0.999 as a double is not. */
#define MIDGE_SAMPLES_SHARE_ONE  100000u
#define MIDGE_SAMPLES_SHARE_P50  50000u
#define MIDGE_SAMPLES_SHARE_P90  90000u
#define MIDGE_SAMPLES_SHARE_P99  99000u
#define MIDGE_SAMPLES_SHARE_P999 99900u

/* What a report says of a run. */
#define MIDGE_SAMPLES_REPORTED 4u

struct midge_samples_reported {
    const char *key;  /* in JSON */
    const char *text; /* for people */
    uint32_t share;
};

extern const struct midge_samples_reported midge_samples_reported[MIDGE_SAMPLES_REPORTED];

struct midge_samples {
    uint64_t *ns; /* own */
    uint32_t count;
    uint32_t cap;
    bool sorted;
};

/**
 * Allocate room and touch it, so that no page fault falls into a measured request.
 *
 * @param cap  1..MIDGE_SAMPLES_MAX
 * @return MIDGE_OK; E_MEMORY
 */
MIDGE_MUST_CHECK enum midge_status midge_samples_init(struct midge_samples *samples, uint32_t cap);

/** Free the array. */
void midge_samples_deinit(struct midge_samples *samples);

/** Append one sample; there must be room. Cost: one store. */
void midge_samples_add(struct midge_samples *samples, uint64_t ns);

/**
 * Percentile by nearest rank: the smallest sample that at least `share` of all samples do not
 * exceed.
 *
 * Sorts at the first call.
 *
 * @param share   parts of MIDGE_SAMPLES_SHARE_ONE, above 0 and below one
 * @param ns_out  set if known
 * @return true if at least MIDGE_SAMPLES_BEYOND_MIN samples lie beyond the rank
 */
MIDGE_MUST_CHECK bool midge_samples_percentile(struct midge_samples *samples, uint32_t share,
                                               uint64_t *ns_out);

/** Largest sample, 0 if there is none. Sorts at the first call. */
uint64_t midge_samples_max(struct midge_samples *samples);

#endif
