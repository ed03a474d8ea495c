/* Blocks in size classes: capacity, alignment, reuse, the ceiling over what is kept. */
#include "midge/pool.h"

#include <criterion/criterion.h>
#include <string.h>

Test(pool, a_block_holds_what_was_asked_for_and_is_aligned)
{
    static const uint32_t lens[] = {1, 63, 64, 65, 4096, 4097, 100000, 1 << 20};
    struct midge_pool pool;

    midge_pool_init(&pool, 1 << 22);
    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        uint32_t cap;
        void *block = midge_pool_alloc(&pool, lens[i], &cap);

        cr_assert_geq(cap, lens[i]);
        cr_assert_leq(cap, lens[i] < 64 ? 64 : lens[i] * 2);
        cr_assert_eq((uintptr_t)block % 64, 0);
        memset(block, 0xa5, cap);
        midge_pool_free(&pool, block, cap);
    }
    cr_assert_eq(midge_pool_held_bytes(&pool), 0);
    midge_pool_deinit(&pool);
}

Test(pool, the_last_block_freed_is_the_next_one_given_and_costs_no_allocation)
{
    struct midge_pool pool;
    uint64_t before;
    uint32_t cap;
    void *block;

    midge_pool_init(&pool, 1 << 20);
    block = midge_pool_alloc(&pool, 5000, &cap);
    midge_pool_free(&pool, block, cap);
    before = pool.malloc_count;
    for (uint32_t i = 0; i < 1000; i++) {
        void *again = midge_pool_alloc(&pool, 4097 + i, &cap);

        cr_assert_eq(again, block);
        midge_pool_free(&pool, again, cap);
    }
    cr_assert_eq(pool.malloc_count, before);
    midge_pool_deinit(&pool);
}

Test(pool, what_is_over_the_ceiling_goes_back)
{
    struct midge_pool pool;
    uint32_t caps[4];
    void *blocks[4];

    midge_pool_init(&pool, 8192);
    for (uint32_t i = 0; i < 4; i++)
        blocks[i] = midge_pool_alloc(&pool, 4096, &caps[i]);
    cr_assert_eq(midge_pool_held_bytes(&pool), 4 * 4096);
    for (uint32_t i = 0; i < 4; i++)
        midge_pool_free(&pool, blocks[i], caps[i]);
    cr_assert_eq(pool.kept_bytes, 8192);
    cr_assert_eq(pool.released_bytes, 8192);
    cr_assert_eq(midge_pool_held_bytes(&pool), 0);
    midge_pool_deinit(&pool);
}

Test(pool, a_burst_of_large_blocks_does_not_keep_small_ones_from_being_reused)
{
    struct midge_pool pool;
    uint32_t caps[8];
    void *blocks[8];
    uint64_t before;

    midge_pool_init(&pool, 8 << 20);
    for (uint32_t i = 0; i < 8; i++)
        blocks[i] = midge_pool_alloc(&pool, 1 << 20, &caps[i]);
    for (uint32_t i = 0; i < 8; i++)
        midge_pool_free(&pool, blocks[i], caps[i]);
    before = pool.malloc_count;
    for (uint32_t i = 0; i < 100; i++) {
        blocks[0] = midge_pool_alloc(&pool, 4096, &caps[0]);
        midge_pool_free(&pool, blocks[0], caps[0]);
        cr_assert_leq(pool.kept_bytes, pool.keep_bytes);
    }
    cr_assert_eq(pool.malloc_count, before + 1);
    midge_pool_deinit(&pool);
}

Test(pool, more_than_the_largest_class_is_refused)
{
    struct midge_pool pool;
    uint32_t cap;

    midge_pool_init(&pool, 1 << 20);
    cr_assert_null(midge_pool_alloc(&pool, (1u << MIDGE_POOL_CLASS_LOG2_MAX) + 1, &cap));
    cr_assert_null(midge_pool_alloc(&pool, UINT32_MAX, &cap));
    cr_assert_eq(midge_pool_held_bytes(&pool), 0);
    midge_pool_deinit(&pool);
}
