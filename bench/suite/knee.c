/* Where a curve bends; see knee.h. */
#include "knee.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "metric.h"
#include "subject.h"

#define LATENCY_FACTOR 10.0
#define KEPT_SHARE     0.95

static const enum midge_metric_index metrics[MIDGE_KNEE_METRICS] = {
    MIDGE_METRIC_P99, MIDGE_METRIC_P90, MIDGE_METRIC_P50};

void midge_knee_init(struct midge_knee *knee)
{
    *knee = (struct midge_knee){.kept_per_s = NAN};
    for (uint32_t i = 0; i < MIDGE_KNEE_METRICS; i++)
        knee->bases[i].ns = NAN;
}

/* What part of what was sent came back meanwhile. Not of the rate: random arrivals are now more and
 * now less. */
static double kept_of(const json_t *run, uint32_t duration_ms)
{
    const double sent = json_number_value(json_object_get(run, "sent")) +
                        json_number_value(json_object_get(run, "missed"));

    return midge_metric_of(run, MIDGE_METRIC_RATE) * duration_ms / (1000 * sent);
}

static void compare_latency(struct midge_knee *knee, const json_t *run)
{
    for (uint32_t i = 0; i < MIDGE_KNEE_METRICS; i++) {
        const double ns = midge_metric_of(run, metrics[i]);

        if (isnan(ns) || isnan(knee->bases[i].ns))
            continue;
        if (ns > LATENCY_FACTOR * knee->bases[i].ns)
            (void)snprintf(knee->reason, sizeof knee->reason,
                           "%s is more than %.0f times that of %u/s",
                           midge_metrics[metrics[i]].name, LATENCY_FACTOR, knee->bases[i].rate);
        return;
    }
}

void midge_knee_look(struct midge_knee *knee, const json_t *run, uint32_t rate,
                     uint32_t duration_ms)
{
    const char *failed = json_string_value(json_object_get(run, "failed"));

    if (failed != NULL) {
        (void)snprintf(knee->reason, sizeof knee->reason, "%s", failed);
        if (strcmp(failed, MIDGE_SUBJECT_NOT_STARTED) == 0)
            knee->kept_per_s = NAN;
        return;
    }
    /* Its rate could not be read: no point, and no knee. */
    if (isnan(kept_of(run, duration_ms)))
        return;
    if (kept_of(run, duration_ms) < KEPT_SHARE)
        (void)snprintf(knee->reason, sizeof knee->reason, "less than %.0f %% of the rate was kept",
                       100 * KEPT_SHARE);
    else
        compare_latency(knee, run);
    if (knee->reason[0] != '\0')
        return;
    knee->kept_per_s = rate;
    for (uint32_t i = 0; i < MIDGE_KNEE_METRICS; i++) {
        if (isnan(knee->bases[i].ns)) {
            knee->bases[i].ns = midge_metric_of(run, metrics[i]);
            knee->bases[i].rate = rate;
        }
    }
}
