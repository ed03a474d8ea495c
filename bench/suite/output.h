/*
 * What comes of a measurement: a table, JSON, .hgrm files, the page.
 *
 * Thread: the parent of the runs.
 */
#ifndef MIDGE_OUTPUT_H
#define MIDGE_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "midge/compiler.h"
#include "midge/status.h"
#include "options.h"

/** How many of the outputs go to standard output, in the place of the tables. */
uint32_t midge_output_stdout_count(const struct midge_bench_options *options);

/** Print a file's tables, in Markdown, to standard output. */
void midge_output_print(const json_t *file);

/** Write what is buffered of standard output. @return MIDGE_OK; E_WRITE: not all of it could be
 * written; said on standard error */
MIDGE_MUST_CHECK enum midge_status midge_output_flush_stdout(void);

/** Can the outputs be written? Makes the directory. @return MIDGE_OK; E_WRITE: said on standard
 * error */
MIDGE_MUST_CHECK enum midge_status midge_output_check(const struct midge_bench_options *options);

/** True if every run of a file counts, and there is one. */
MIDGE_MUST_CHECK bool midge_output_is_good(const json_t *file);

/**
 * Write the JSON, the .hgrm files and the page that the options ask for, each also if another
 * cannot be written.
 *
 * @return MIDGE_OK; anything else: said on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_output_write(const struct midge_bench_options *options,
                                                      const json_t *file);

/** Remove a directory and the files in it, as far as it can. */
void midge_output_clean(const char *directory);

#endif
