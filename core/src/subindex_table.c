/*
 * Open-addressing table of pointers, for readers without locks.
 *
 * A slot is one atomic word: 20 bits of the hash (where the object belongs, and a filter against
 * looking at foreign objects) over the address. So a table is rebuilt without touching the objects,
 * and a reader sees a slot whole or not at all. Linear probing; grows at 3/4 full, tombstones
 * included.
 *
 * A slot becomes empty again only if the next one is empty: no object whose search passes it can
 * lie behind it. Otherwise it becomes a tombstone, which ends no search and may be filled again. A
 * table that was replaced no longer changes, so a reader that still searches it finds what was in
 * it at that time: the answer of a match that began before the change.
 *
 * Thread: one writer (index part lock), any reader.
 */
#include "subindex_internal.h"

#include <stdlib.h>

static_assert(alignof(max_align_t) >= 16, "slots leave out the lower 4 bits of an address");

static size_t table_size(uint64_t slot_count)
{
    return sizeof(struct midge_table) + slot_count * sizeof(uint64_t);
}

static struct midge_table *table_create(struct midge_subindex_part *part, uint64_t slot_count)
{
    struct midge_table *table = midge_part_alloc(part, table_size(slot_count));

    if (table != NULL)
        table->slot_mask = slot_count - 1;
    while (table != NULL && slot_count >> (MIDGE_TABLE_PLACE_BITS + table->home_shift) > 1)
        table->home_shift++;
    return table;
}

struct midge_table *midge_table_create(struct midge_subindex_part *part)
{
    return table_create(part, MIDGE_TABLE_SLOT_COUNT_MIN);
}

void midge_table_destroy(struct midge_subindex_part *part, struct midge_table *table)
{
    midge_part_free(part, table, table_size(table->slot_mask + 1));
}

static void table_free_cb(void *context, void *object)
{
    const struct midge_table *table = object;

    midge_part_free_retired(context, object, table_size(table->slot_mask + 1));
}

static uint64_t slot_load(const struct midge_table *table, uint64_t index)
{
    return atomic_load_explicit(&table->slots[index & table->slot_mask], memory_order_relaxed);
}

static void slot_store(struct midge_table *table, uint64_t index, uint64_t slot)
{
    /* Release pairs with the acquire in midge_table_find(). */
    atomic_store_explicit(&table->slots[index & table->slot_mask], slot, memory_order_release);
}

static uint64_t slot_make(uint64_t hash, const void *object)
{
    const uint64_t address = (uint64_t)(uintptr_t)object;

    MIDGE_ASSERT((address & 15) == 0);
    MIDGE_ASSERT(address >> 48 == 0);
    return midge_table_tag(hash) | address >> 4;
}

/* The slots of a table that was just built keep between 1/4 and 1/2 in use. */
static uint64_t slot_count_for(uint32_t live)
{
    uint64_t slot_count = MIDGE_TABLE_SLOT_COUNT_MIN;

    while (slot_count < (uint64_t)live * 2)
        slot_count *= 2;
    return slot_count;
}

/* Replace the table by one without tombstones and with room for `live` objects. */
static bool table_rebuild(const struct midge_op *op, struct midge_table *_Atomic *table_at,
                          struct midge_table_fill *fill, uint32_t live)
{
    struct midge_table *old = atomic_load_explicit(table_at, memory_order_relaxed);
    struct midge_table *table;

    if (slot_count_for(live) > MIDGE_TABLE_SLOT_COUNT_MAX)
        return false;
    table = table_create(op->part, slot_count_for(live));
    if (table == NULL)
        return false;
    for (uint64_t i = 0; i <= old->slot_mask; i++) {
        const uint64_t slot = slot_load(old, i);
        uint64_t place = midge_table_home(table, slot);

        if (slot == 0 || slot == MIDGE_TABLE_TOMBSTONE)
            continue;
        while (slot_load(table, place) != 0)
            place++;
        atomic_store_explicit(&table->slots[place & table->slot_mask], slot, memory_order_relaxed);
    }
    fill->used = fill->live;
    /* Release pairs with the acquire in midge_table_find(). */
    atomic_store_explicit(table_at, table, memory_order_release);
    midge_op_retire(op, old, table_free_cb);
    return true;
}

bool midge_table_insert(const struct midge_op *op, struct midge_table *_Atomic *table_at,
                        struct midge_table_fill *fill, uint64_t hash, void *object)
{
    struct midge_table *table = atomic_load_explicit(table_at, memory_order_relaxed);
    const uint64_t slot = slot_make(hash, object);
    uint64_t place;

    if ((uint64_t)(fill->used + 1) * 4 > (table->slot_mask + 1) * 3) {
        if (!table_rebuild(op, table_at, fill, fill->live + 1))
            return false;
        table = atomic_load_explicit(table_at, memory_order_relaxed);
    }
    place = midge_table_home(table, slot);
    while (slot_load(table, place) > MIDGE_TABLE_TOMBSTONE)
        place++;
    if (slot_load(table, place) == 0)
        fill->used++;
    fill->live++;
    slot_store(table, place, slot);
    return true;
}

void midge_table_remove(const struct midge_op *op, struct midge_table *_Atomic *table_at,
                        struct midge_table_fill *fill, uint64_t hash, const void *object)
{
    struct midge_table *table = atomic_load_explicit(table_at, memory_order_relaxed);
    const uint64_t slot = slot_make(hash, object);
    uint64_t place = midge_table_home(table, slot);

    while (slot_load(table, place) != slot) {
        MIDGE_ASSERT(slot_load(table, place) != 0);
        place++;
    }
    fill->live--;
    slot_store(table, place, MIDGE_TABLE_TOMBSTONE);
    if (slot_load(table, place + 1) == 0) {
        /* Ends at the latest at that empty slot, from the other side. */
        while (slot_load(table, place) == MIDGE_TABLE_TOMBSTONE) {
            slot_store(table, place, 0);
            fill->used--;
            place--;
        }
    }
    /* Without memory for a smaller table the large one stays. */
    if (table->slot_mask + 1 > MIDGE_TABLE_SLOT_COUNT_MIN &&
        (uint64_t)fill->live * 8 < table->slot_mask + 1)
        (void)table_rebuild(op, table_at, fill, fill->live);
}
