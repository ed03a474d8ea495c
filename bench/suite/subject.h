/*
 * What is measured: a server that is started for each run, one that runs already, or a bare relay.
 *
 * The relay is the floor under every broker: it makes the same socket hops and parses nothing. It
 * is always loaded by the raw driver, since no library can talk to it.
 *
 * Thread: the parent of the runs.
 */
#ifndef MIDGE_SUBJECT_H
#define MIDGE_SUBJECT_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "midge/compiler.h"
#include "midge/status.h"
#include "options.h"

#define MIDGE_SUBJECTS_MAX 8u

/* Why a run of a server that did not get ready has failed. */
#define MIDGE_SUBJECT_NOT_STARTED "could not be started"

enum midge_subject_kind {
    MIDGE_SUBJECT_COMMAND = 0,
    MIDGE_SUBJECT_URL,
    MIDGE_SUBJECT_RELAY_EPOLL,
    MIDGE_SUBJECT_RELAY_URING,
};

struct midge_subject {
    enum midge_subject_kind kind;
    const char *key;     /* in JSON: "a", "b", "c", "a-again", "floor", "floor-io_uring" */
    const char *command; /* borrow; or the URL; NULL for a relay */
    const struct midge_driver_kind *driver;
    char label[80];
    char version[160]; /* "" = not known */
};

/**
 * What those options measure, in the order in which tables show it.
 *
 * @param subjects_out  MIDGE_SUBJECTS_MAX of them
 * @param count_out     how many there are
 */
void midge_subjects_make(const struct midge_bench_options *options,
                         struct midge_subject *subjects_out, uint32_t *count_out);

/**
 * Start it if need be, run the scenario, stop it.
 *
 * A run that could not be made is a failed one: what else is measured goes on.
 *
 * @param result_out  own; what midge_run() found, with key, label, place and command of the subject
 * @return MIDGE_OK, also for a run that failed; E_MEMORY
 */
MIDGE_MUST_CHECK enum midge_status midge_subject_run(const struct midge_subject *subject,
                                                     const struct midge_bench_options *options,
                                                     const struct midge_run_options *run_options,
                                                     const char *directory, json_t **result_out);

/** True if a relay can stand in the place of a server of this scenario. */
MIDGE_MUST_CHECK bool midge_subject_can_be_relayed(const struct midge_run_options *run);

/** True if a comparison with those options has a subject of that key beside "a". */
MIDGE_MUST_CHECK bool midge_subjects_have(const struct midge_bench_options *options,
                                          const char *key);

/** {"key", "label", "command", "version"}. @return own; NULL without memory */
MIDGE_MUST_CHECK json_t *midge_subject_json(const struct midge_subject *subject);

#endif
