/*
 * One line on a terminal that says how a run goes: time, rate, percentiles so far. Nothing where
 * standard error is no terminal.
 *
 * Thread: the parent of a run.
 */
#ifndef MIDGE_PROGRESS_H
#define MIDGE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "histogram.h"
#include "party.h"

struct midge_progress {
    const struct midge_run_options *options; /* borrow */
    bool is_shown;
    uint64_t measure_from_ns;
    uint64_t shown_at_ns; /* 0 = not yet */
    uint64_t shown_done;
    struct midge_histogram all;
};

/** Begin. Shows nothing yet. */
void midge_progress_init(struct midge_progress *progress, const struct midge_run_options *options,
                         uint64_t measure_from_ns);

/** When to show the next line, at `until_ns` at the latest. */
uint64_t midge_progress_next(const struct midge_progress *progress, uint64_t until_ns);

/** Show where it stands, now: on one line of the terminal, cut where that ends. */
void midge_progress_show(struct midge_progress *progress, const struct midge_board *board);

/** Clear the line. */
void midge_progress_end(struct midge_progress *progress);

#endif
