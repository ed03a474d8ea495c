/*
 * Deadlines of one shard: a wheel of 4,096 slots of 2^24 ns (16.8 ms), a horizon of 68 s.
 *
 * A deadline beyond the horizon waits in the last slot and is put in again from there. Deadlines
 * fire up to one slot late, never early.
 *
 * Thread: shard (one owner, no atomics).
 * Memory: intrusive; the timer lies in what it belongs to.
 */
#ifndef MIDGE_TIMERS_H
#define MIDGE_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

#define MIDGE_TIMER_SLOT_LOG2_NS 24u
#define MIDGE_TIMER_SLOT_COUNT   4096u

struct midge_timer {
    struct midge_timer *next; /* NULL = not set */
    struct midge_timer *prev;
    uint64_t at_ns;
    uint32_t slot;
};

struct midge_timers {
    struct midge_timer heads[MIDGE_TIMER_SLOT_COUNT]; /* circular lists */
    uint64_t used[MIDGE_TIMER_SLOT_COUNT / 64];       /* bit = the slot's list is not empty */
    uint64_t tick; /* slots up to and including this one have been looked at */
};

void midge_timers_init(struct midge_timers *timers, uint64_t now_ns);

/** Set or move a deadline; a deadline already past fires in the next call of expire. */
void midge_timers_set(struct midge_timers *timers, struct midge_timer *timer, uint64_t at_ns);

/** Take a deadline out, if it is set. */
void midge_timers_clear(struct midge_timers *timers, struct midge_timer *timer);

/** When expire should be called next; UINT64_MAX when nothing is set. Cost: at most 64 words. */
uint64_t midge_timers_next_ns(const struct midge_timers *timers);

/** Take out one timer whose deadline is not after now_ns; NULL when there is none left. */
struct midge_timer *midge_timers_expire(struct midge_timers *timers, uint64_t now_ns);

#endif
