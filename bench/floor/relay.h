/*
 * What the engines of the relay share; see floor.h.
 *
 * Thread: shard (one thread owns everything).
 */
#ifndef MIDGE_RELAY_H
#define MIDGE_RELAY_H

#include "floor.h"

/* Side of the requester or publisher: what it sends goes to all others. */
#define FLOOR_FIRST 0u

struct midge_floor {
    const struct midge_floor_options *options; /* borrowed; constant */
    int fd[MIDGE_FLOOR_SIDES_MAX];             /* own; blocking, used with MSG_DONTWAIT */
    uint32_t side_count;
    uint32_t read_len;        /* 0 = the engine's choice */
    uint64_t stall_begins_ns; /* CLOCK_MONOTONIC; 0 = no byte came yet */
    bool is_stall_over;       /* or there is none */
};

/**
 * Forward with epoll_wait, recv, send until a peer closes.
 *
 * @return as midge_floor_run()
 * Thread: shard. Cost: three system calls a hop.
 */
MIDGE_MUST_CHECK enum midge_status midge_floor_run_epoll(struct midge_floor *floor);

/**
 * Forward with multishot recv from a provided buffer ring and sends in the batch that waits.
 *
 * @param floor  with two sides
 * @return as midge_floor_run()
 * Thread: shard. Cost: one system call a hop. Since: Linux 6.1 (DEFER_TASKRUN).
 */
MIDGE_MUST_CHECK enum midge_status midge_floor_run_uring(struct midge_floor *floor);

/**
 * Send all bytes, waiting for room if the peer lags.
 *
 * @return MIDGE_OK; E_EOF: the peer is gone; E_SYSTEM: errno says why, ETIMEDOUT after
 *         MIDGE_FLOOR_STUCK_MS
 * Thread: shard. Cost: one system call unless the peer lags.
 */
MIDGE_MUST_CHECK enum midge_status midge_floor_send(int fd, const uint8_t *bytes, uint32_t len);

/** Burn the delay that was asked for; returns at once without one. Thread: shard. */
void midge_floor_delay(const struct midge_floor *floor);

/** Something came: if the time of the stall is now, sleep to its end. Thread: shard. */
void midge_floor_stall(struct midge_floor *floor);

#endif
