/* Subscriptions by sid. Method: random adds, removes and look-ups against an array. */
#include "sub.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static struct midge_conn *const conn = (struct midge_conn *)(void *)&(char[64]){0};

static struct midge_slice sid_of(uint32_t number, char text[16])
{
    (void)snprintf(text, 16, "%u", number);
    return midge_slice_text(text);
}

/* Take out and free all that is left, one step at a time. @return how many it were */
static uint32_t drain_all(struct midge_sub_table *table)
{
    uint32_t count = 0;

    while (table->count > 0) {
        uint32_t steps = 1;
        struct midge_sub *sub = midge_sub_table_drain(table, &steps);

        cr_assert_eq(steps, 0);
        count += sub != NULL;
        midge_sub_destroy(sub);
    }
    midge_sub_table_deinit(table);
    return count;
}

static struct midge_sub *make(uint32_t number)
{
    char text[16];

    return midge_sub_create(conn, 1, sid_of(number, text), (struct midge_slice){NULL, 0});
}

/* Adds outweigh removes for `phase` steps, then the other way round, and so on. */
static void agree(uint32_t sid_count, uint32_t step_count, uint32_t phase)
{
    struct midge_sub **twin = calloc(sid_count, sizeof(struct midge_sub *));
    struct midge_sub_table table = {0};
    uint32_t cap_most = 0;
    uint32_t count = 0;
    uint64_t state = 42;
    char text[16];

    cr_assert_not_null(twin);
    for (uint32_t step = 0; step < step_count; step++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        const uint32_t number = (uint32_t)(state >> 33) % sid_count;
        const struct midge_slice sid = sid_of(number, text);
        const uint32_t share = (step / phase) % 2 == 0 ? 12 : 2;

        cr_assert_eq(midge_sub_table_find(&table, 7, sid), twin[number]);
        if ((state >> 60) < share && twin[number] == NULL) {
            twin[number] = make(number);
            cr_assert(midge_sub_table_add(&table, 7, twin[number]));
            count++;
        } else if ((state >> 60) >= share && twin[number] != NULL) {
            midge_sub_table_remove(&table, 7, twin[number]);
            midge_sub_destroy(twin[number]);
            twin[number] = NULL;
            count--;
        }
        cr_assert_eq(table.count, count);
        cr_assert(table.cap <= 4 || table.cap / 16 <= count, "%u slots for %u", table.cap, count);
        cap_most = table.cap > cap_most ? table.cap : cap_most;
    }
    cr_assert_gt(cap_most, sid_count);
    cr_assert_eq(drain_all(&table), count);
    free(twin);
}

Test(sub, table_agrees_with_an_array_under_random_operations)
{
    agree(500, 200000, 3000);
}

Test(sub, large_table_agrees_with_an_array_while_it_grows_and_shrinks)
{
    agree(40000, 1500000, 200000);
}

/* With one seed or another the last slots and the first ones are one run. */
Test(sub, table_finds_all_while_it_is_moved)
{
    struct midge_sub_table table = {0};
    struct midge_sub *subs[6000];
    char text[16];

    for (uint32_t seed = 0; seed < 20; seed++) {
        for (uint32_t i = 0; i < 6000; i++) {
            subs[i] = make(i);
            cr_assert(midge_sub_table_add(&table, seed, subs[i]));
        }
        while (table.old_slots == NULL) {
            struct midge_sub *sub = make(6000 + table.count);

            cr_assert(midge_sub_table_add(&table, seed, sub));
        }
        for (uint32_t i = 0; i < 6000; i++) {
            cr_assert_eq(midge_sub_table_find(&table, seed, sid_of(i, text)), subs[i]);
            if (i % 2 == 0) {
                midge_sub_table_remove(&table, seed, subs[i]);
                midge_sub_destroy(subs[i]);
            }
        }
        (void)drain_all(&table);
    }
}

Test(sub, table_gives_back_what_few_subscriptions_do_not_need)
{
    enum {
        COUNT = 300000
    };
    struct midge_sub **subs = malloc(COUNT * sizeof(struct midge_sub *));
    struct midge_sub_table table = {0};
    char text[16];

    cr_assert_not_null(subs);
    for (uint32_t i = 0; i < COUNT; i++) {
        subs[i] = make(i);
        cr_assert(midge_sub_table_add(&table, 7, subs[i]));
    }
    cr_assert_geq(midge_sub_table_bytes(&table), COUNT * sizeof(struct midge_sub *));
    for (uint32_t i = 10; i < COUNT; i++) {
        midge_sub_table_remove(&table, 7, subs[i]);
        midge_sub_destroy(subs[i]);
    }
    cr_assert_leq(midge_sub_table_bytes(&table), 10 * 16 * sizeof(struct midge_sub *));
    for (uint32_t i = 0; i < 10; i++)
        cr_assert_eq(midge_sub_table_find(&table, 7, sid_of(i, text)), subs[i]);
    cr_assert_eq(drain_all(&table), 10);
    free(subs);
}

Test(sub, a_table_that_changed_its_size_stays_while_it_is_half_used)
{
    struct midge_sub_table table = {0};
    struct midge_sub *sub;
    uint64_t bytes;

    for (uint32_t i = 0; i < 97; i++)
        cr_assert(midge_sub_table_add(&table, 7, make(i)));
    bytes = midge_sub_table_bytes(&table);
    for (uint32_t i = 0; i < 1000; i++) {
        sub = make(97);
        cr_assert(midge_sub_table_add(&table, 7, sub));
        midge_sub_table_remove(&table, 7, sub);
        midge_sub_destroy(sub);
        cr_assert_eq(midge_sub_table_bytes(&table), bytes);
    }
    cr_assert_eq(drain_all(&table), 97);
}

Test(sub, keeps_sid_and_queue_bytes)
{
    struct midge_sub *sub =
        midge_sub_create(conn, 9, midge_slice_make("a\0b", 3), MIDGE_SLICE_LITERAL("workers"));

    cr_assert(midge_slice_equal(midge_sub_sid(sub), midge_slice_make("a\0b", 3)));
    cr_assert(midge_slice_equal(midge_sub_queue(sub), MIDGE_SLICE_LITERAL("workers")));
    cr_assert(sub->live);
    cr_assert_eq(sub->generation, 9);
    midge_sub_destroy(sub);
}

Test(sub, refuses_a_queue_name_longer_than_it_can_count)
{
    char *queue = calloc(1, 70000);

    cr_assert_null(
        midge_sub_create(conn, 1, MIDGE_SLICE_LITERAL("1"), midge_slice_make(queue, 70000)));
    free(queue);
}
