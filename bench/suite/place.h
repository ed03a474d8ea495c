/*
 * On which CPUs server and load run.
 *
 * Thread: any (values).
 */
#ifndef MIDGE_PLACE_H
#define MIDGE_PLACE_H

#include <sched.h>

#include "midge/compiler.h"
#include "midge/status.h"
#include "options.h"

/** "free", "one", "apart", "lists". Static. */
const char *midge_place_name(enum midge_place place);

/** The place of that name, but for lists, which have none. @return MIDGE_OK; E_CONFIG */
MIDGE_MUST_CHECK enum midge_status midge_place_find(const char *name, enum midge_place *place_out);

/** Read a list such as "0,2-3". @return MIDGE_OK; E_CONFIG: it is none */
MIDGE_MUST_CHECK enum midge_status midge_place_read_list(const char *text, cpu_set_t *cpus_out);

/**
 * Set the CPUs of server and load, and those of both, as their place says; lists are checked.
 *
 * @return MIDGE_OK; anything else: there are no such CPUs, as a line on standard error says
 */
MIDGE_MUST_CHECK enum midge_status midge_place_set_cpus(struct midge_bench_options *options);

#endif
