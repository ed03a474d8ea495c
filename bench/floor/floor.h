/*
 * A relay between connections that parses nothing: the floor under every broker.
 *
 * A request-reply through a broker is four socket hops. This relay makes the same four hops and
 * does nothing else, so what a broker takes on top of it is the broker's own cost. Bytes are
 * forwarded unchanged, which makes two of the hops up to twelve bytes shorter than a broker's (PUB
 * becomes MSG with a sid there): less than the measurement can see.
 *
 *      first connection  --->  every other one        (a publisher and its subscribers)
 *      first connection  <---  any other one          (their acknowledgements, replies)
 *
 * A peer that reads slower than another writes holds the writer back. Over epoll each direction
 * does that for itself; over io_uring a peer that does not read holds back both.
 *
 * Thread: shard (one thread owns everything).
 * Limits: MIDGE_FLOOR_SIDES_MAX connections, two over io_uring. Where bytes wait for a peer and
 * none of them can move for MIDGE_FLOOR_STUCK_MS, the relay gives up.
 */
#ifndef MIDGE_FLOOR_H
#define MIDGE_FLOOR_H

#include <stdbool.h>
#include <stdint.h>

#include "endpoint.h"
#include "midge/compiler.h"
#include "midge/status.h"

#define MIDGE_FLOOR_SIDES_MIN 2u
#define MIDGE_FLOOR_SIDES_MAX 64u

#define MIDGE_FLOOR_READ_LEN_MIN 64u
#define MIDGE_FLOOR_READ_LEN_MAX (1024u * 1024u)

/* How long peers may refuse to read before the relay gives up. */
#define MIDGE_FLOOR_STUCK_MS 10000

struct midge_floor_options {
    struct midge_endpoint endpoint; /* to listen on; of a Unix socket, the file must not exist */
    uint32_t side_count;            /* connections; 0 = MIDGE_FLOOR_SIDES_MIN */
    uint32_t read_len;              /* bytes of one read; 0 = what suits the engine */
    uint64_t delay_ns;              /* burnt on each read from the first connection; 0 = none */
    uint64_t stall_at_ns;           /* after the first byte: nothing is forwarded ... */
    uint64_t stall_ns;              /* ... for so long, once; 0 = never */
    bool is_uring;                  /* else epoll */
};

/**
 * Listen, accept all sides, close the listener, and forward until a peer closes. What it had sent
 * before has then gone out to those that read. A Unix socket's file is removed as soon as all have
 * connected.
 *
 * Who makes it a process of its own calls it in a child.
 *
 * @return MIDGE_OK: a peer closed; E_CONFIG: a value is out of its range, or more than two sides
 *         over io_uring; E_SYSTEM: errno says why (ETIMEDOUT: stuck; ENOSYS, EPERM: no io_uring);
 *         E_MEMORY
 * Thread: shard. Cost: three system calls a hop over epoll, one over io_uring.
 * Since: Linux 6.1 (io_uring: DEFER_TASKRUN).
 */
MIDGE_MUST_CHECK enum midge_status midge_floor_run(const struct midge_floor_options *options);

#endif
