/*
 * Where a curve of rising rates bends: the last rate that a server, or the load, keeps up with.
 *
 * Past it a run fails, less than 95 % of what was sent came back meanwhile, or a percentile is ten
 * times what it was. Compared is the highest of p99, p90 and p50 that is known, with the lowest
 * rate of which it is known too: at a low rate a run may have too few samples for a p99.
 *
 * Thread: any (values).
 */
#ifndef MIDGE_KNEE_H
#define MIDGE_KNEE_H

#include <stdint.h>

#include <jansson.h>

#define MIDGE_KNEE_METRICS    3u
#define MIDGE_KNEE_REASON_CAP 200u

struct midge_knee {
    struct {
        double ns; /* NAN = not known yet */
        uint32_t rate;
    } bases[MIDGE_KNEE_METRICS];
    double kept_per_s;                  /* the highest rate before the knee; NAN = none */
    char reason[MIDGE_KNEE_REASON_CAP]; /* "" = there is no knee yet */
};

/** Begin. */
void midge_knee_init(struct midge_knee *knee);

/**
 * Look at the next run: sets the reason if it is past the knee, else the rate that was kept.
 *
 * A server that could not be started is past everything, and leaves no rate that was kept.
 */
void midge_knee_look(struct midge_knee *knee, const json_t *run, uint32_t rate,
                     uint32_t duration_ms);

#endif
