/*
 * How long a shard may watch for work before it sleeps.
 *
 * Thread: any, at start.
 */
#ifndef MIDGE_SPIN_H
#define MIDGE_SPIN_H

#include <stdint.h>

/**
 * @param spin_us  microseconds, or MIDGE_SPIN_AUTO: what waking a thread costs here, measured; 0
 * where one core is all there is, or where a CPU quota makes watching expensive
 * @return nanoseconds
 * Cost: AUTO takes a few milliseconds.
 */
uint64_t midge_spin_budget_ns(uint32_t spin_us);

#endif
