/* One line that says how a run goes; see progress.h. */
#include "progress.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INTERVAL_NS 250000000ull

/* Of a line; what is longer is cut. */
#define LINE_CAP 256

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
    const uint64_t now_ns = midge_process_now_ns();
    /* Counted from the last line, so that the time it takes does not add up. */
    const uint64_t planned_ns = progress->shown_at_ns + INTERVAL_NS;
    const uint64_t next_ns = planned_ns > now_ns ? planned_ns : now_ns + INTERVAL_NS;

    return next_ns < until_ns ? next_ns : until_ns;
}

/* Columns of the terminal; 80 where it does not say. */
static uint32_t columns(void)
{
    struct winsize size = {.ws_col = 0};

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void put_percentiles(struct midge_progress *progress, const struct midge_board *board,
                            FILE *line)
{
    midge_histogram_init(&progress->all);
    for (uint32_t i = 0; i < board->party_count; i++)
        midge_histogram_merge(&progress->all, &board->rows[i].latency);
    for (uint32_t i = MIDGE_HISTOGRAM_P50; i <= MIDGE_HISTOGRAM_P999; i++) {
        uint64_t ns = 0;

        if (midge_histogram_percentile(&progress->all, midge_histogram_reported[i].share, &ns))
            (void)fprintf(line, "  %s %.1f us", midge_histogram_reported[i].text, (double)ns / 1e3);
    }
}

void midge_progress_show(struct midge_progress *progress, const struct midge_board *board)
{
    const uint64_t now_ns = midge_process_now_ns();
    const double passed_s = ((double)now_ns - (double)progress->measure_from_ns) / 1e9;
    char text[LINE_CAP] = "";
    uint64_t done = 0;
    FILE *line = progress->is_shown ? fmemopen(text, sizeof text, "w") : NULL;

    if (line == NULL)
        return;
    for (uint32_t i = 0; i < board->party_count; i++)
        done += midge_row_get(&board->rows[i].done);
    (void)fprintf(line, "%s  ", midge_run_scenario_name(progress->options->scenario));
    if (passed_s < 0)
        (void)fprintf(line, "warm-up");
    else
        (void)fprintf(line, "%.1f of %.1f s", passed_s, progress->options->duration_ms / 1e3);
    if (progress->shown_at_ns != 0)
        (void)fprintf(line, "  %.0f/s",
                      (double)(done - progress->shown_done) * 1e9 /
                          (double)(now_ns - progress->shown_at_ns));
    put_percentiles(progress, board, line);
    (void)fclose(line);
    /* A line that wraps cannot be cleared. */
    (void)fprintf(stderr, CLEAR "%.*s", (int)columns() - 1, text);
    progress->shown_at_ns = now_ns;
    progress->shown_done = done;
}

void midge_progress_end(struct midge_progress *progress)
{
    if (progress->is_shown)
        (void)fprintf(stderr, CLEAR);
}
