/*
 * Blocks in power-of-two classes over the C allocator: a free list per class, a ceiling over all
 * lists.
 *
 * Why not slabs mapped at start: the classes that a load needs are not known before it comes, and
 * the ceiling makes memory return after a burst. Once warm the lists serve every call.
 */
#include "midge/pool.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "midge/limits.h"

/* A free block holds only the link to the next one. */
struct free_block {
    struct free_block *next;
};

static uint32_t class_of(uint32_t len)
{
    const uint32_t bits = len > 1 ? 32u - (uint32_t)__builtin_clz(len - 1) : 0;

    return bits <= MIDGE_POOL_CLASS_LOG2_MIN ? 0 : bits - MIDGE_POOL_CLASS_LOG2_MIN;
}

static uint32_t class_cap(uint32_t class)
{
    return 1u << (class + MIDGE_POOL_CLASS_LOG2_MIN);
}

static void add_held(struct midge_pool *pool, int64_t bytes)
{
    const int64_t held = atomic_load_explicit(&pool->held_bytes, memory_order_relaxed);

    /* One writer: no read-modify-write needed. */
    atomic_store_explicit(&pool->held_bytes, held + bytes, memory_order_relaxed);
}

void midge_pool_init(struct midge_pool *pool, uint64_t keep_bytes)
{
    memset(pool, 0, sizeof(*pool));
    pool->keep_bytes = keep_bytes;
}

void midge_pool_deinit(struct midge_pool *pool)
{
    for (uint32_t class = 0; class < MIDGE_POOL_CLASS_COUNT; class ++) {
        struct free_block *block = pool->free_lists[class];

        while (block != NULL) {
            struct free_block *next = block->next;

            free(block);
            block = next;
        }
        pool->free_lists[class] = NULL;
    }
    pool->kept_bytes = 0;
}

void *midge_pool_alloc(struct midge_pool *pool, uint32_t len, uint32_t *cap_out)
{
    const uint32_t class = class_of(len);
    struct free_block *block;

    MIDGE_ASSERT(len > 0);

    /* A frame is as long as subject, reply and sid, which peers choose: refused, not asserted. */
    if (MIDGE_UNLIKELY(class >= MIDGE_POOL_CLASS_COUNT))
        return NULL;
    block = pool->free_lists[class];
    if (MIDGE_LIKELY(block != NULL)) {
        pool->free_lists[class] = block->next;
        pool->kept_bytes -= class_cap(class);
    } else {
        block = aligned_alloc(MIDGE_CACHE_LINE_LEN, class_cap(class));
        if (block == NULL)
            return NULL;
        pool->malloc_count++;
    }
    add_held(pool, class_cap(class));
    *cap_out = class_cap(class);
    return block;
}

/* Give one kept block of a larger class back to the allocator; false if there is none. Small blocks
 * come first: a burst of large ones must not leave the small ones of every message without a place.
 */
static MIDGE_COLD bool evict_larger(struct midge_pool *pool, uint32_t class)
{
    for (uint32_t larger = MIDGE_POOL_CLASS_COUNT - 1; larger > class; larger--) {
        struct free_block *block = pool->free_lists[larger];

        if (block == NULL)
            continue;
        pool->free_lists[larger] = block->next;
        pool->kept_bytes -= class_cap(larger);
        pool->released_bytes += class_cap(larger);
        free(block);
        return true;
    }
    return false;
}

void midge_pool_free(struct midge_pool *pool, void *block, uint32_t cap)
{
    const uint32_t class = class_of(cap);
    struct free_block *free_block = block;

    MIDGE_ASSERT(block != NULL);
    MIDGE_ASSERT(cap == class_cap(class));

    add_held(pool, -(int64_t)cap);
    /* One is enough: it was larger. */
    if (MIDGE_UNLIKELY(pool->kept_bytes + cap > pool->keep_bytes) && !evict_larger(pool, class)) {
        free(block);
        pool->released_bytes += cap;
        return;
    }
    free_block->next = pool->free_lists[class];
    pool->free_lists[class] = free_block;
    pool->kept_bytes += cap;
}

int64_t midge_pool_held_bytes(const struct midge_pool *pool)
{
    return atomic_load_explicit(&pool->held_bytes, memory_order_relaxed);
}
