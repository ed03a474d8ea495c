/*
 * An event loop that is not ours, for the tests of clients inside one. loop_epoll.c, loop_uv.c and
 * loop_event.c each implement it; loop_cases.c is the tests.
 *
 * Thread: the main one.
 */
#ifndef MIDGE_LOOP_RIG_H
#define MIDGE_LOOP_RIG_H

#include <stdint.h>

/* The loop's own timer, which shows that nothing keeps the loop from turning. */
#define OUTER_TICK_MS 10u

struct midge_outer;

typedef void (*midge_outer_cb)(void *context);

/** Make a loop that calls `readable_cb` whenever the descriptor is readable, and counts ticks. */
struct midge_outer *midge_outer_start(int fd, void *context, midge_outer_cb readable_cb);
/** Wait until the descriptor is readable or the timer ticks, and handle it. */
void midge_outer_step(struct midge_outer *outer);
/** Ticks that were handled. */
uint32_t midge_outer_ticks(const struct midge_outer *outer);
void midge_outer_end(struct midge_outer *outer);

#endif
