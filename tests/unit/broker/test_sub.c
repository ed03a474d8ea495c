/* Subscriptions by sid. Method: random adds, removes and look-ups against an array. */
#include "sub.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#define SID_COUNT 500u

static struct midge_conn *const conn = (struct midge_conn *)(void *)&(char[64]){0};

static struct midge_slice sid_of(uint32_t number, char text[16])
{
    (void)snprintf(text, 16, "%u", number);
    return midge_slice_text(text);
}

Test(sub, table_agrees_with_an_array_under_random_operations)
{
    struct midge_sub *twin[SID_COUNT] = {NULL};
    struct midge_sub_table table = {0};
    uint32_t count = 0;
    uint64_t state = 42;
    char text[16];

    for (uint32_t step = 0; step < 200000; step++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        const uint32_t number = (uint32_t)(state >> 33) % SID_COUNT;
        const struct midge_slice sid = sid_of(number, text);

        cr_assert_eq(midge_sub_table_find(&table, 7, sid), twin[number]);
        if ((state >> 60) < 7 && twin[number] == NULL) {
            twin[number] = midge_sub_create(conn, 1, sid, (struct midge_slice){NULL, 0});
            cr_assert(midge_sub_table_add(&table, 7, twin[number]));
            count++;
        } else if ((state >> 60) >= 8 && twin[number] != NULL) {
            midge_sub_table_remove(&table, 7, twin[number]);
            midge_sub_destroy(twin[number]);
            twin[number] = NULL;
            count--;
        }
        cr_assert_eq(table.count, count);
    }
    for (uint32_t cursor = 0;;) {
        struct midge_sub *sub = midge_sub_table_drain(&table, &cursor);

        if (sub == NULL)
            break;
        midge_sub_destroy(sub);
        count--;
    }
    cr_assert_eq(count, 0);
    midge_sub_table_deinit(&table);
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
