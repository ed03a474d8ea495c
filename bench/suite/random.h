/*
 * Random numbers that a seed repeats: splitmix64, of which any seed is a good one.
 *
 * Thread: any (values).
 * Source: prng.di.unimi.it, public domain.
 */
#ifndef MIDGE_RANDOM_H
#define MIDGE_RANDOM_H

#include <stdint.h>

/** The next number. @param state  the seed at first */
static inline uint64_t midge_random_next(uint64_t *state)
{
    uint64_t mixed = *state += 0x9e3779b97f4a7c15ull;

    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
    return mixed ^ mixed >> 31;
}

#endif
