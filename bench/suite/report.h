/*
 * report.html: what midge-bench makes of its JSON files. One page without outside references, whose
 * script draws what it finds in a block of JSON inside it (report.html is the template).
 *
 * The block is smaller than the files: the buckets of a subject's rounds are added up and embedded
 * once, and the rounds themselves, like the runs of a curve, keep only their figures. Runs that
 * failed give no samples to that sum.
 *
 * What the page does with the files' order: each is a section, called as its optional "title" says,
 * a suite is as many as it has.
 * Curves of the same load that follow one another, and have the same title if they are parts of a
 * suite, are drawn in one plot. A curve's line is called as its optional "label" says, else as the
 * program in its command.
 *
 * Failures are said on standard error before a call returns one.
 *
 * Thread: any (values).
 * Memory: some 270 KiB beside what jansson holds.
 */
#ifndef MIDGE_REPORT_H
#define MIDGE_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "midge/compiler.h"
#include "midge/status.h"

/**
 * Write a report of parsed files.
 *
 * @param files  objects of kind run, curve, compare or suite; borrow, not changed; untrusted
 * @param count  at least 1
 * @param out    borrow; nothing is written unless all files are good
 * @return MIDGE_OK; E_CONFIG: a file is not what midge-bench writes; E_MEMORY; E_WRITE: errno says
 *         why
 */
MIDGE_MUST_CHECK enum midge_status midge_report_write(const json_t *const *files, uint32_t count,
                                                      FILE *out);

/**
 * Read files, and write a report of them.
 *
 * @param paths     "-" = standard input
 * @param count     at least 1
 * @param out_path  "-" = standard output; replaced, and left as it was unless all files are good
 * @return as midge_report_write(); E_CONFIG too for what is no JSON; E_SYSTEM: a file cannot be
 * read
 */
MIDGE_MUST_CHECK enum midge_status midge_report_convert(const char *const *paths, uint32_t count,
                                                        const char *out_path);

#endif
