/*
 * Blocking requests over a raw socket: what a client library is measured against.
 *
 * Thread: shard (one thread owns it).
 */
#ifndef MIDGE_BASE_H
#define MIDGE_BASE_H

#include "endpoint.h"
#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"
#include "request.h"
#include "wire.h"

struct midge_base {
    struct midge_wire wire;
    struct midge_request request; /* patched for each request; without frame before the first */
    uint64_t number;              /* of the next request */
};

/** Connect. @return MIDGE_OK; anything else: the reason is on standard error, as below */
MIDGE_MUST_CHECK enum midge_status midge_base_open(struct midge_base *base,
                                                   const struct midge_endpoint *endpoint,
                                                   uint32_t timeout_ms);

/** Disconnect and free. Also on a zeroed struct with wire.fd -1. */
void midge_base_close(struct midge_base *base);

/** Make the frame of requests that long, and subscribe to their replies. */
MIDGE_MUST_CHECK enum midge_status midge_base_prepare(struct midge_base *base, uint32_t size);

/**
 * Send a request and read its reply.
 *
 * @param payload    as long as prepared
 * @param reply_out  payload of the reply; borrow, until the next call
 * Cost: two system calls.
 */
MIDGE_MUST_CHECK enum midge_status midge_base_request(struct midge_base *base,
                                                      struct midge_slice payload,
                                                      struct midge_slice *reply_out);

#endif
