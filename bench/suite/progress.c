/* One line that says how a run goes; see progress.h. */
#include "progress.h"

#include <stdio.h>
#include <unistd.h>

#define INTERVAL_NS 250000000ull

#define CLEAR "\r\033[K"

void midge_progress_init(struct midge_progress *progress, const struct midge_run_options *options,
                         uint64_t measure_from_ns)
{
    progress->options = options;
    progress->is_shown = options->has_progress && isatty(STDERR_FILENO) == 1;
    progress->measure_from_ns = measure_from_ns;
    progress->shown_at_ns = 0;
    progress->shown_done = 0;
}

uint64_t midge_progress_next(const struct midge_progress *progress, uint64_t until_ns)
{
    const uint64_t next_ns = midge_party_now_ns() + INTERVAL_NS;

    (void)progress;
    return next_ns < until_ns ? next_ns : until_ns;
}

static void put_percentiles(struct midge_progress *progress, const struct midge_board *board)
{
    midge_histogram_init(&progress->all);
    for (uint32_t i = 0; i < board->party_count; i++)
        midge_histogram_merge(&progress->all, &board->rows[i].latency);
    for (uint32_t i = MIDGE_HISTOGRAM_P50; i <= MIDGE_HISTOGRAM_P999; i++) {
        uint64_t ns = 0;

        if (midge_histogram_percentile(&progress->all, midge_histogram_reported[i].share, &ns))
            (void)fprintf(stderr, "  %s %.1f us", midge_histogram_reported[i].text,
                          (double)ns / 1e3);
    }
}

void midge_progress_show(struct midge_progress *progress, const struct midge_board *board)
{
    const uint64_t now_ns = midge_party_now_ns();
    const double passed_s = ((double)now_ns - (double)progress->measure_from_ns) / 1e9;
    uint64_t done = 0;

    if (!progress->is_shown)
        return;
    for (uint32_t i = 0; i < board->party_count; i++)
        done += midge_row_get(&board->rows[i].done);
    (void)fprintf(stderr, CLEAR "%s  ", midge_run_scenario_name(progress->options->scenario));
    if (passed_s < 0)
        (void)fprintf(stderr, "warm-up");
    else
        (void)fprintf(stderr, "%.1f of %.1f s", passed_s, progress->options->duration_ms / 1e3);
    if (progress->shown_at_ns != 0)
        (void)fprintf(stderr, "  %.0f/s",
                      (double)(done - progress->shown_done) * 1e9 /
                          (double)(now_ns - progress->shown_at_ns));
    put_percentiles(progress, board);
    progress->shown_at_ns = now_ns;
    progress->shown_done = done;
}

void midge_progress_end(struct midge_progress *progress)
{
    if (progress->is_shown)
        (void)fprintf(stderr, CLEAR);
}
