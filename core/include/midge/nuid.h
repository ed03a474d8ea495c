/*
 * Unique ids in 22 letters and digits, as other NATS clients make them: 12 random ones, then 10
 * that count on in random steps.
 *
 * Thread: shard (one owner, no atomics).
 * Memory: none. Core has no source of chance: the caller brings the seed.
 */
#ifndef MIDGE_NUID_H
#define MIDGE_NUID_H

#include <stdint.h>

#define MIDGE_NUID_LEN      22u /* without the NUL behind it */
#define MIDGE_NUID_SEED_LEN 32u

struct midge_nuid {
    uint64_t counter; /* below 62^10 */
    uint64_t step;    /* 33 to 332 */
    char prefix[12];
};

/** @param seed  MIDGE_NUID_SEED_LEN bytes that nobody can guess, from getrandom(2) */
void midge_nuid_init(struct midge_nuid *nuid, const uint8_t seed[MIDGE_NUID_SEED_LEN]);

/** Write the next id and a NUL. @param out  MIDGE_NUID_LEN + 1 bytes */
void midge_nuid_next(struct midge_nuid *nuid, char *out);

#endif
