/*
 * The figures of a run that are compared and shown.
 *
 * Thread: any (values).
 */
#ifndef MIDGE_METRIC_H
#define MIDGE_METRIC_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "midge/compiler.h"
#include "midge/status.h"
#include "run.h"

enum midge_metric_index {
    MIDGE_METRIC_P50 = 0,
    MIDGE_METRIC_P90,
    MIDGE_METRIC_P99,
    MIDGE_METRIC_P999,
    MIDGE_METRIC_P9999,
    MIDGE_METRIC_MAX,
    MIDGE_METRIC_CPU,
    MIDGE_METRIC_RATE,
    MIDGE_METRIC_RESIDENT,
    MIDGE_METRIC_EACH,
    MIDGE_METRIC_SETUP,
    MIDGE_METRIC_IDLE,
    MIDGE_METRIC_LOAD_CPU,
    MIDGE_METRIC_NEAR_CPU,
    MIDGE_METRIC_LOAD_EACH,
    MIDGE_METRIC_CORES,
    MIDGE_METRIC_LOAD_CORES,
    MIDGE_METRICS,
};

struct midge_metric {
    const char *name;   /* on the command line: "p99.9" */
    const char *key;    /* in JSON: "p999_ns" */
    const char *object; /* of the run that has it: "latency"; NULL = the run itself */
    const char *head;   /* of a column */
    double unit;        /* figures are divided by it to be shown */
    uint32_t digits;    /* behind the point */
    const char *text;   /* of that unit, behind a figure: " µs" */
    bool is_compared;
};

extern const struct midge_metric midge_metrics[MIDGE_METRICS];

/** True if a run failed, so that it has no figures; also if it does not say that it did not. */
bool midge_metric_has_failed(const json_t *run);

/** The value of a run; NAN where it is unknown or the run has failed. */
double midge_metric_of(const json_t *run, enum midge_metric_index metric);

/** True if runs like that have this figure, as far as one can say beforehand. */
MIDGE_MUST_CHECK bool midge_metric_is_of(enum midge_metric_index metric,
                                         const struct midge_run_options *run);

/** The metric of that name, if it is one that is compared. @return MIDGE_OK; E_CONFIG */
MIDGE_MUST_CHECK enum midge_status midge_metric_find(const char *name, uint32_t *metric_out);

#endif
