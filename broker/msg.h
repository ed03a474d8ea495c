/*
 * A message kept outside the receive buffer: one that came in pieces, or is too long to be copied
 * to each target. Counted, immutable once complete.
 *
 * The block holds the arguments of the control line, then headers, payload and CRLF in one run.
 *
 * Thread: shard while it is filled; any (lock-free) from then on, by retain and release.
 * Memory: one block of the pool of the shard that received it, returned to the pool of the shard
 * that releases it last.
 */
#ifndef MIDGE_MSG_H
#define MIDGE_MSG_H

#include <stdatomic.h>

#include "midge/parser.h"
#include "midge/pool.h"
#include "midge/slice.h"

struct midge_msg {
    _Atomic uint32_t refs;
    uint32_t block_cap; /* for midge_pool_free */
    /* Views of this block; constant once complete. */
    struct midge_slice subject;
    struct midge_slice reply;
    struct midge_slice header_text;
    struct midge_slice size_text;
    uint32_t header_len; /* bytes */
    uint32_t total_len;  /* bytes of headers and payload */
    uint32_t filled_len; /* bytes of them received */
    uint8_t *body;       /* total_len bytes, then CRLF */
};

/**
 * Make a message with the arguments of a PUB or HPUB; the body is filled later.
 *
 * @param op  borrowed; its slices are copied
 * @return owned, one reference; NULL without memory
 */
struct midge_msg *midge_msg_create(struct midge_pool *pool, const struct midge_op *op);

/** Append received bytes; `bytes.len` must fit into what is left. */
void midge_msg_fill(struct midge_msg *msg, struct midge_slice bytes);

void midge_msg_retain(struct midge_msg *msg);

/** @param pool  of the calling shard; takes the block if this was the last reference */
void midge_msg_release(struct midge_msg *msg, struct midge_pool *pool);

#endif
