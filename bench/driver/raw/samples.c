/* Exact samples and their percentiles; see samples.h. */
#include "samples.h"

#include <stdlib.h>
#include <string.h>

const struct midge_samples_reported midge_samples_reported[MIDGE_SAMPLES_REPORTED] = {
    {"p50_ns", "p50", MIDGE_SAMPLES_SHARE_P50},
    {"p90_ns", "p90", MIDGE_SAMPLES_SHARE_P90},
    {"p99_ns", "p99", MIDGE_SAMPLES_SHARE_P99},
    {"p999_ns", "p99.9", MIDGE_SAMPLES_SHARE_P999},
};

enum midge_status midge_samples_init(struct midge_samples *samples, uint32_t cap)
{
    MIDGE_ASSERT(cap >= 1);
    MIDGE_ASSERT(cap <= MIDGE_SAMPLES_MAX);

    uint64_t *ns = (uint64_t *)malloc((size_t)cap * sizeof *ns);

    if (ns == NULL)
        return MIDGE_E_MEMORY;
    /* Not zero: the compiler would make calloc() of malloc() and memset(0), which touches nothing.
     */
    memset(ns, 0xff, (size_t)cap * sizeof *ns);
    *samples = (struct midge_samples){.ns = ns, .cap = cap};
    return MIDGE_OK;
}

void midge_samples_deinit(struct midge_samples *samples)
{
    free(samples->ns);
    *samples = (struct midge_samples){.ns = NULL};
}

void midge_samples_add(struct midge_samples *samples, uint64_t ns)
{
    MIDGE_ASSERT(samples->count < samples->cap);

    samples->ns[samples->count] = ns;
    samples->count++;
    samples->sorted = false;
}

static int compare(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

static void sort(struct midge_samples *samples)
{
    if (!samples->sorted)
        qsort(samples->ns, samples->count, sizeof *samples->ns, compare);
    samples->sorted = true;
}

bool midge_samples_percentile(struct midge_samples *samples, uint32_t share, uint64_t *ns_out)
{
    const uint64_t scaled = (uint64_t)samples->count * share;
    const uint64_t rank = (scaled + MIDGE_SAMPLES_SHARE_ONE - 1) / MIDGE_SAMPLES_SHARE_ONE;

    MIDGE_ASSERT(share > 0);
    MIDGE_ASSERT(share < MIDGE_SAMPLES_SHARE_ONE);

    if (samples->count - rank < MIDGE_SAMPLES_BEYOND_MIN)
        return false;
    sort(samples);
    *ns_out = samples->ns[rank - 1];
    return true;
}

uint64_t midge_samples_max(struct midge_samples *samples)
{
    sort(samples);
    return samples->count == 0 ? 0 : samples->ns[samples->count - 1];
}
