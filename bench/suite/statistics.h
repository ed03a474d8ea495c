/*
 * Ratios within rounds, and what may be said of them.
 *
 * Two servers are compared inside one round, where the machine is the same for both, and never
 * across rounds. The figure is the ratio in the middle of the rounds; its interval comes from a
 * bootstrap over the rounds, never over samples. The seed is fixed, so the same rounds always give
 * the same interval.
 *
 * Thread: any (values).
 * Memory: none is kept.
 */
#ifndef MIDGE_STATISTICS_H
#define MIDGE_STATISTICS_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"

#define MIDGE_STATISTICS_ROUNDS_MAX 1000u
#define MIDGE_STATISTICS_RESAMPLES  10000u

/* With 5 rounds not even the smallest and the largest enclose a median in 95 % of cases. */
#define MIDGE_STATISTICS_ROUNDS_MIN 6u

enum midge_statistics_verdict {
    MIDGE_STATISTICS_UNKNOWN = 0, /* too few rounds for an interval */
    MIDGE_STATISTICS_SAME,        /* the interval encloses 1: no difference is shown */
    MIDGE_STATISTICS_LESS,
    MIDGE_STATISTICS_MORE,
};

struct midge_statistics_ratio {
    double middle;
    double low; /* of the interval at the 5 % level; not set where the verdict is unknown */
    double high;
    uint32_t rounds; /* pairs that had both values, both above 0 */
    enum midge_statistics_verdict verdict;
};

struct midge_statistics_range {
    double median;
    double min;
    double max;
    uint32_t count;
};

/**
 * Compare values round by round.
 *
 * @param values  one per round, NAN where a round has none
 * @param bases   likewise
 * @param rounds  0..MIDGE_STATISTICS_ROUNDS_MAX
 */
struct midge_statistics_ratio midge_statistics_compare(const double *values, const double *bases,
                                                       uint32_t rounds);

/** Median and range of those values that are not NAN. */
struct midge_statistics_range midge_statistics_range(const double *values, uint32_t rounds);

/** "no difference", "less", "more", "unknown". Static. */
const char *midge_statistics_verdict_text(enum midge_statistics_verdict verdict);

/**
 * Place of a subject in the order of a round: rotated by one each round and reversed in every other
 * turn of the wheel, so that each comes at each place equally often and does not always follow the
 * same one.
 *
 * @param place  0..subjects - 1: first, second, …
 * @return which subject runs there
 */
uint32_t midge_statistics_order(uint32_t subjects, uint32_t round, uint32_t place);

#endif
