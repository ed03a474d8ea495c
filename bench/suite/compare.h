/*
 * What midge-bench makes of runs: one of each subject, many rounds of them, or a curve.
 *
 * Each returns the object that --json writes, but for what every file has (midge_output_finish()).
 *
 * Thread: the parent of the runs.
 */
#ifndef MIDGE_COMPARE_H
#define MIDGE_COMPARE_H

#include <jansson.h>

#include "midge/compiler.h"
#include "midge/status.h"
#include "options.h"

/**
 * One run of each subject.
 *
 * @param file_out   own
 * @return MIDGE_OK, also if runs failed; anything else: the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_compare_once(const struct midge_bench_options *options,
                                                      const char *directory, json_t **file_out);

/** Rounds of all subjects, with their ratios. @param file_out, @return as midge_compare_once() */
MIDGE_MUST_CHECK enum midge_status midge_compare_rounds(const struct midge_bench_options *options,
                                                        const char *directory, json_t **file_out);

/** Load at rising rates until the server, or the load, is past its knee.
 * @param file_out, @return as midge_compare_once() */
MIDGE_MUST_CHECK enum midge_status midge_compare_curve(const struct midge_bench_options *options,
                                                       const char *directory, json_t **file_out);

#endif
