/*
 * Memory for messages and output of one shard: blocks in power-of-two classes, reused last in first
 * out.
 *
 * A freed block goes to the free list of the pool that frees it, whichever pool it came from. At
 * most `keep_bytes` stay in the free lists; what is over goes back to the allocator, the largest
 * first, so memory returns after a burst, and the message path does not allocate once it is warm.
 *
 * Thread: shard; `held_bytes` is one writer, any reader. A block may be freed into another shard's
 * pool, so a single pool's held_bytes may be negative; the sum over all pools is exact.
 */
#ifndef MIDGE_POOL_H
#define MIDGE_POOL_H

#include <stdatomic.h>
#include <stdint.h>

#include "midge/compiler.h"

#define MIDGE_POOL_CLASS_LOG2_MIN 6u  /* 64 B: a segment header */
#define MIDGE_POOL_CLASS_LOG2_MAX 30u /* 1 GiB: MIDGE_PAYLOAD_MAX and its header */
#define MIDGE_POOL_CLASS_COUNT    (MIDGE_POOL_CLASS_LOG2_MAX - MIDGE_POOL_CLASS_LOG2_MIN + 1u)

struct midge_pool {
    void *free_lists[MIDGE_POOL_CLASS_COUNT];
    uint64_t kept_bytes;        /* bytes in the free lists */
    uint64_t keep_bytes;        /* ceiling of kept_bytes */
    uint64_t released_bytes;    /* given back to the allocator, ever */
    uint64_t malloc_count;      /* calls of the allocator, for the test that counts them */
    _Atomic int64_t held_bytes; /* bytes handed out minus bytes taken back */
};

/** @param keep_bytes  ceiling of what stays in the free lists. Thread: shard. */
void midge_pool_init(struct midge_pool *pool, uint64_t keep_bytes);

/** Give the free lists back to the allocator; blocks that are out stay valid. */
void midge_pool_deinit(struct midge_pool *pool);

/**
 * @param len      bytes wanted, from 1
 * @param cap_out  bytes of room, >= len; pass it back to free
 * @return owned, aligned to 64, contents undefined; NULL without memory, or over 1 GiB
 * Thread: shard.
 */
void *midge_pool_alloc(struct midge_pool *pool, uint32_t len, uint32_t *cap_out);

/** @param cap  as alloc gave it. Thread: shard. */
void midge_pool_free(struct midge_pool *pool, void *block, uint32_t cap);

/** Bytes out of this pool; negative when it took back more than it gave. Thread: any. */
int64_t midge_pool_held_bytes(const struct midge_pool *pool);

#endif
