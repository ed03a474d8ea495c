/*
 * A relay between two connections that parses nothing: the floor under every broker.
 *
 * A request-reply through a broker is four socket hops. This relay makes the same four hops and
 * does nothing else, so what a broker takes on top of it is the broker's own cost. Bytes are
 * forwarded unchanged, which makes two of the hops up to twelve bytes shorter than a broker's (PUB
 * becomes MSG with a sid there): less than the measurement can see.
 *
 * Thread: shard (one thread owns everything).
 * Limits: made for one request in flight. If both peers flood the relay and neither reads, it waits
 * for FLOOR_STUCK_MS and gives up, instead of buffering.
 */
#ifndef MIDGE_FLOOR_H
#define MIDGE_FLOOR_H

#include <stdint.h>

#include "midge/compiler.h"
#include "midge/status.h"

/* Bytes of one read. A request of the latency runs fits many times over. */
#define FLOOR_READ_LEN 4096u

/* How long a peer may refuse to read before the relay gives up. */
#define FLOOR_STUCK_MS 10000

enum floor_side {
    FLOOR_REQUESTER = 0, /* connected first */
    FLOOR_RESPONDER = 1,
    FLOOR_SIDES = 2,
};

struct midge_floor {
    int fd[FLOOR_SIDES]; /* own; blocking, used with MSG_DONTWAIT */
    uint64_t delay_ns;   /* burnt on each read from the requester; 0 = none */
};

/**
 * Forward with epoll_wait, recv, send until a peer closes.
 *
 * @param floor  borrowed
 * @return MIDGE_OK: a peer closed; E_SYSTEM: errno says why
 * Thread: shard. Cost: three system calls a hop.
 */
MIDGE_MUST_CHECK enum midge_status midge_floor_run_epoll(const struct midge_floor *floor);

/**
 * Forward with multishot recv from a provided buffer ring and sends in the batch that waits.
 *
 * @param floor  borrowed
 * @return MIDGE_OK: a peer closed; E_SYSTEM: errno says why (ENOSYS and EPERM: no io_uring here)
 * Thread: shard. Cost: one system call a hop. Since: Linux 6.1 (DEFER_TASKRUN).
 */
MIDGE_MUST_CHECK enum midge_status midge_floor_run_uring(const struct midge_floor *floor);

/**
 * Send all bytes, waiting for room if the peer lags.
 *
 * @return MIDGE_OK; E_EOF: the peer is gone; E_SYSTEM: errno says why, ETIMEDOUT after
 * FLOOR_STUCK_MS Thread: shard. Cost: one system call unless the peer lags.
 */
MIDGE_MUST_CHECK enum midge_status midge_floor_send(int fd, const uint8_t *bytes, uint32_t len);

/** Burn the delay that --delay-us asked for; returns at once without one. Thread: shard. */
void midge_floor_delay(const struct midge_floor *floor);

#endif
