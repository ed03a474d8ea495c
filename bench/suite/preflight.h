/*
 * What is looked at before anything is measured, since minutes later is too late.
 *
 * Thread: the parent of the runs, before it has any.
 */
#ifndef MIDGE_PREFLIGHT_H
#define MIDGE_PREFLIGHT_H

#include "midge/compiler.h"
#include "midge/status.h"
#include "options.h"

/** Raise the limit of open files as far as it goes; servers inherit it. */
void midge_preflight_raise_files(void);

/**
 * Are there the programs, the open files and the ports that the options need?
 *
 * @return MIDGE_OK; E_CONFIG: there are not, as a line on standard error says
 */
MIDGE_MUST_CHECK enum midge_status midge_preflight_check(const struct midge_bench_options *options);

#endif
