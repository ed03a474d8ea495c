/*
 * Latencies in an HDR-style histogram: from 1 ns to 1 h with three digits.
 *
 * Below 2,048 ns a bucket is 1 ns wide; above, each power of two has 1,024 buckets, so a bucket is
 * at most 1/1,024 of its values wide and every figure read from it is off by less than 0.1 %. What
 * is longer than an hour counts as an hour, and is counted as beyond it, too; only the smallest and
 * the largest sample are kept as they were.
 *
 * It has no pointers: it may lie in memory that processes share, and two of them are merged without
 * loss.
 *
 * Thread: one writer, any reader; a reader beside the writer sees some of the latest values.
 * Memory: its own size (some 264 KiB), zeroed by the owner or by init.
 * Source: hdrhistogram.org; its percentile output, which write_hgrm() makes.
 */
#ifndef MIDGE_HISTOGRAM_H
#define MIDGE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "midge/compiler.h"
#include "midge/status.h"

#define MIDGE_HISTOGRAM_NS_MAX 3600000000000ull /* 1 h */

/* Buckets: 2,048 of 1 ns, and 1,024 for each power of two from 2^11 up to that of an hour (2^41).
 */
#define MIDGE_HISTOGRAM_LINEAR  2048u
#define MIDGE_HISTOGRAM_BUCKETS (MIDGE_HISTOGRAM_LINEAR + 31u * 1024u)

/* Where sums and single samples stay, 292 years: the largest integer that JSON can hold here. */
#define MIDGE_HISTOGRAM_SUM_MAX ((uint64_t)INT64_MAX)

/* Samples of a histogram read from JSON: what every reader of JSON takes for the same number. */
#define MIDGE_HISTOGRAM_COUNT_MAX (1ull << 53)

/* A share of one, in parts of 100,000: exact, where 0.999 as a double is not. */
#define MIDGE_HISTOGRAM_SHARE_ONE 100000u

/* A percentile with fewer samples beyond it is unknown: a handful of them would decide it. That is
 * for samples of one cause each; where a burst of them shares one, so many bursts. */
#define MIDGE_HISTOGRAM_BEYOND_MIN 100u

/* Percentiles that every report has. */
enum midge_histogram_reported_index {
    MIDGE_HISTOGRAM_P50 = 0,
    MIDGE_HISTOGRAM_P90,
    MIDGE_HISTOGRAM_P99,
    MIDGE_HISTOGRAM_P999,
    MIDGE_HISTOGRAM_P9999,
    MIDGE_HISTOGRAM_REPORTED,
};

struct midge_histogram_reported {
    const char *key;  /* in JSON: "p999_ns" */
    const char *text; /* for people: "p99.9" */
    uint32_t share;
};

extern const struct midge_histogram_reported midge_histogram_reported[MIDGE_HISTOGRAM_REPORTED];

struct midge_histogram {
    _Atomic uint64_t count;
    _Atomic uint64_t sum_ns;       /* exact, but for values beyond an hour; 0..SUM_MAX */
    _Atomic uint64_t min_ns;       /* exact; UINT64_MAX while there is none */
    _Atomic uint64_t max_ns;       /* exact */
    _Atomic uint64_t beyond_count; /* of `count`, those of more than an hour */
    uint64_t beyond_min; /* samples beyond a percentile that is known. Thread: while nobody reads */
    _Atomic uint64_t buckets[MIDGE_HISTOGRAM_BUCKETS];
};

/** Empty it; beyond_min is MIDGE_HISTOGRAM_BEYOND_MIN then. Thread: the writer. */
void midge_histogram_init(struct midge_histogram *histogram);

/** Add `count` samples of `ns`; 0 ns counts as 1. Cost: a few stores. Thread: the writer. */
void midge_histogram_add(struct midge_histogram *histogram, uint64_t ns, uint64_t count);

/** Add all samples of another one, as if each had been added here. Thread: the writer of `into`. */
void midge_histogram_merge(struct midge_histogram *into, const struct midge_histogram *from);

/** Samples in it. Thread: any. */
uint64_t midge_histogram_count(const struct midge_histogram *histogram);

/** Mean in ns, 0 if it is empty. Thread: any. */
double midge_histogram_mean(const struct midge_histogram *histogram);

/**
 * Percentile by nearest rank: a value that at least `share` of all samples do not exceed, the
 * largest of its bucket, but not above the largest sample.
 *
 * @param share   parts of MIDGE_HISTOGRAM_SHARE_ONE, above 0 and below one
 * @param ns_out  set if known
 * @return true if at least `beyond_min` samples lie beyond the rank
 * Thread: any. Cost: a walk over the buckets, some 10 us.
 */
MIDGE_MUST_CHECK bool midge_histogram_percentile(const struct midge_histogram *histogram,
                                                 uint32_t share, uint64_t *ns_out);

/**
 * As one JSON object: count, min_ns, max_ns, mean_ns, sum_ns, beyond_count, beyond_min, the
 * reported percentiles (null where unknown), and "buckets": [[index, count], ...] of those that are
 * not empty, in order. Of an empty one all are 0 or null.
 *
 * @return own (json_decref); NULL without memory
 * Thread: any, while nobody writes.
 */
MIDGE_MUST_CHECK json_t *midge_histogram_to_json(const struct midge_histogram *histogram);

/**
 * Read it back, without loss. What was in the histogram is gone; it stays on failure.
 *
 * @param json  what to_json() made; untrusted; NULL is refused. Keys that are not known are ignored
 * @return MIDGE_OK; E_CONFIG: not such an object, or there are no samples of which all that it says
 *         would be true; E_MEMORY
 * Thread: the writer.
 */
MIDGE_MUST_CHECK enum midge_status midge_histogram_from_json(struct midge_histogram *histogram,
                                                             const json_t *json);

/**
 * Write the percentile distribution that the public HdrHistogram plotter reads, in us, and flush
 * the file.
 *
 * @return MIDGE_OK; E_WRITE: errno says why
 * Thread: any, while nobody writes.
 * Source: HdrHistogram 2.2, AbstractHistogram.outputPercentileDistribution() with 5 ticks per half
 *         distance.
 */
MIDGE_MUST_CHECK enum midge_status
midge_histogram_write_hgrm(const struct midge_histogram *histogram, FILE *file);

#endif
