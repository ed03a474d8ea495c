/*
 * What a comparison should show, said beforehand: `p50<=1.10*floor`, `cpu<=0.5*b`, `each<=200`,
 * `rate>=1.3*b`. It is about the first server; the base is another subject's key, or none for the
 * figure itself in the unit of its JSON (ns, bytes, messages a second).
 *
 * Thread: any (values).
 */
#ifndef MIDGE_AIM_H
#define MIDGE_AIM_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "midge/compiler.h"
#include "midge/status.h"

#define MIDGE_AIM_BASE_CAP 16u

struct midge_aim {
    uint32_t metric; /* index into midge_metrics */
    bool is_least;   /* >= instead of <= */
    double limit;
    char base[MIDGE_AIM_BASE_CAP]; /* "" = none */
};

/** Read one. @return MIDGE_OK; E_CONFIG */
MIDGE_MUST_CHECK enum midge_status midge_aim_parse(const char *text, struct midge_aim *aim_out);

/**
 * Compare with what came out.
 *
 * @param summary  of a comparison: medians by subject and metric
 * @param ratios   likewise
 * @return own: {"metric", "limit", "is_least", "base", "value", "low", "high", "is_met",
 * "is_failed"}, value and is_met null where it is not known, is_met also where a run failed; NULL
 * without memory
 */
MIDGE_MUST_CHECK json_t *midge_aim_judge(const struct midge_aim *aim, const json_t *summary,
                                         const json_t *ratios);

#endif
