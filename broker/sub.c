/* Subscriptions of one connection by sid; see sub.h. */
#include "sub.h"

#include <stdlib.h>

#include <xxhash.h>

#define TABLE_CAP_FIRST 4u

/* What malloc adds to a block, about: its header and rounding to 16 bytes. */
#define ALLOCATION_LEN 16u

struct midge_sub *midge_sub_create(struct midge_conn *conn, uint32_t generation,
                                   struct midge_slice sid, struct midge_slice queue)
{
    struct midge_sub *sub;

    MIDGE_ASSERT(conn != NULL);
    MIDGE_ASSERT(sid.len > 0);

    if (queue.len > UINT16_MAX)
        return NULL;
    sub = malloc(sizeof(*sub) + sid.len + queue.len);
    if (sub == NULL)
        return NULL;
    *sub = (struct midge_sub){.conn = conn,
                              .generation = generation,
                              .queue_len = (uint16_t)queue.len,
                              .live = true,
                              .sid_len = sid.len};
    memcpy(sub->text, sid.base, sid.len);
    if (queue.len > 0)
        memcpy(sub->text + sid.len, queue.base, queue.len);
    return sub;
}

void midge_sub_destroy(struct midge_sub *sub)
{
    free(sub);
}

uint32_t midge_sub_bytes(const struct midge_sub *sub)
{
    return (uint32_t)sizeof(*sub) + sub->sid_len + sub->queue_len + ALLOCATION_LEN;
}

uint64_t midge_sub_table_bytes(const struct midge_sub_table *table)
{
    return (uint64_t)table->cap * sizeof(*table->slots);
}

void midge_sub_table_deinit(struct midge_sub_table *table)
{
    free(table->slots);
    *table = (struct midge_sub_table){0};
}

static uint32_t slot_of(const struct midge_sub_table *table, uint64_t seed, struct midge_slice sid)
{
    return (uint32_t)XXH3_64bits_withSeed(sid.base, sid.len, seed) & (table->cap - 1);
}

struct midge_sub *midge_sub_table_find(const struct midge_sub_table *table, uint64_t seed,
                                       struct midge_slice sid)
{
    if (table->count == 0)
        return NULL;
    for (uint32_t slot = slot_of(table, seed, sid);; slot = (slot + 1) & (table->cap - 1)) {
        struct midge_sub *sub = table->slots[slot];

        if (sub == NULL)
            return NULL;
        if (midge_slice_equal(midge_sub_sid(sub), sid))
            return sub;
    }
}

static void place(struct midge_sub_table *table, uint64_t seed, struct midge_sub *sub)
{
    uint32_t slot = slot_of(table, seed, midge_sub_sid(sub));

    while (table->slots[slot] != NULL)
        slot = (slot + 1) & (table->cap - 1);
    table->slots[slot] = sub;
}

static bool grow(struct midge_sub_table *table, uint64_t seed)
{
    const uint32_t cap = table->cap == 0 ? TABLE_CAP_FIRST : table->cap * 2;
    struct midge_sub_table larger = {.cap = cap, .count = table->count};

    if (cap < table->cap)
        return false;
    larger.slots = calloc(cap, sizeof(*larger.slots));
    if (larger.slots == NULL)
        return false;
    for (uint32_t slot = 0; slot < table->cap; slot++) {
        if (table->slots[slot] != NULL)
            place(&larger, seed, table->slots[slot]);
    }
    free(table->slots);
    *table = larger;
    return true;
}

bool midge_sub_table_add(struct midge_sub_table *table, uint64_t seed, struct midge_sub *sub)
{
    /* At most three quarters full. */
    if ((uint64_t)(table->count + 1) * 4 > (uint64_t)table->cap * 3 && !grow(table, seed))
        return false;
    place(table, seed, sub);
    table->count++;
    return true;
}

void midge_sub_table_remove(struct midge_sub_table *table, uint64_t seed, struct midge_sub *sub)
{
    const uint32_t mask = table->cap - 1;
    uint32_t hole = slot_of(table, seed, midge_sub_sid(sub));

    while (table->slots[hole] != sub) {
        MIDGE_ASSERT(table->slots[hole] != NULL);
        hole = (hole + 1) & mask;
    }
    for (uint32_t slot = (hole + 1) & mask; table->slots[slot] != NULL; slot = (slot + 1) & mask) {
        const uint32_t home = slot_of(table, seed, midge_sub_sid(table->slots[slot]));

        /* An entry may move into the hole if its home does not lie between hole and slot. */
        if (((slot - home) & mask) >= ((slot - hole) & mask)) {
            table->slots[hole] = table->slots[slot];
            hole = slot;
        }
    }
    table->slots[hole] = NULL;
    table->count--;
}

struct midge_sub *midge_sub_table_drain(struct midge_sub_table *table, uint32_t *cursor)
{
    for (; *cursor < table->cap; (*cursor)++) {
        struct midge_sub *sub = table->slots[*cursor];

        if (sub != NULL) {
            table->slots[*cursor] = NULL;
            table->count--;
            return sub;
        }
    }
    return NULL;
}
