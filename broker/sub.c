/* Subscriptions of one connection by sid; see sub.h. */
#include "sub.h"

#include <stdlib.h>

#include <xxhash.h>

#define TABLE_CAP_FIRST 4u

/* A table is halved when this many slots come to one subscription: then an eighth of it is used,
 * and six times as many subscriptions double it again. */
#define TABLE_SPARSE_SLOTS 16u

/* Up to this size all slots move at once: about 0.1 ms. */
#define MOVE_AT_ONCE_CAP 4096u

/* What one add or remove moves of a larger table, in steps: a slot that is looked at is one, and a
 * subscription, whose sid lies anywhere in memory, is more. That is done long before the size
 * changes again: with C old slots, at least 28 of them go with each of the C/2 and more calls that
 * a doubled table takes, and 100 with each of the C/32 that a halved one takes. */
#define MOVE_STEPS     200u
#define MOVE_SUB_STEPS 8u

/* Subscriptions whose sids are fetched from memory at once. */
#define BATCH_COUNT 16u

/* Of a slot: bits of the hash, where no user-space address has any. */
#define TAG_MASK (UINT64_C(0xffff) << 48)

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
    return ((uint64_t)table->cap + table->old_cap) * sizeof(*table->slots);
}

void midge_sub_table_deinit(struct midge_sub_table *table)
{
    free(table->old_slots);
    free(table->slots);
    *table = (struct midge_sub_table){0};
}

static uint64_t hash_of(uint64_t seed, struct midge_slice sid)
{
    return XXH3_64bits_withSeed(sid.base, sid.len, seed);
}

/* The upper bits of the hash are the tag, the lower ones the place. */
static uint64_t word_make(uint64_t hash, const struct midge_sub *sub)
{
    const uint64_t address = (uint64_t)(uintptr_t)sub;

    MIDGE_ASSERT((address & TAG_MASK) == 0);
    return (hash & TAG_MASK) | address;
}

static struct midge_sub *word_sub(uint64_t word)
{
    return (struct midge_sub *)(uintptr_t)(word & ~TAG_MASK);
}

static struct midge_sub *find_in(const uint64_t *slots, uint32_t cap, uint64_t hash,
                                 struct midge_slice sid)
{
    for (uint32_t slot = (uint32_t)hash & (cap - 1);; slot = (slot + 1) & (cap - 1)) {
        const uint64_t word = slots[slot];

        if (word == 0)
            return NULL;
        if (((word ^ hash) & TAG_MASK) == 0 &&
            midge_slice_equal(midge_sub_sid(word_sub(word)), sid))
            return word_sub(word);
    }
}

struct midge_sub *midge_sub_table_find(const struct midge_sub_table *table, uint64_t seed,
                                       struct midge_slice sid)
{
    struct midge_sub *sub;
    uint64_t hash;

    if (table->count == 0)
        return NULL;
    hash = hash_of(seed, sid);
    sub = find_in(table->slots, table->cap, hash, sid);
    if (sub == NULL && table->old_slots != NULL)
        sub = find_in(table->old_slots, table->old_cap, hash, sid);
    return sub;
}

static void place(struct midge_sub_table *table, uint64_t seed, struct midge_sub *sub)
{
    const uint64_t hash = hash_of(seed, midge_sub_sid(sub));
    uint32_t slot = (uint32_t)hash & (table->cap - 1);

    while (table->slots[slot] != 0)
        slot = (slot + 1) & (table->cap - 1);
    table->slots[slot] = word_make(hash, sub);
}

static void place_all(struct midge_sub_table *table, uint64_t seed, struct midge_sub **subs,
                      uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        place(table, seed, subs[i]);
}

static void drop_old_slots(struct midge_sub_table *table)
{
    free(table->old_slots);
    table->old_slots = NULL;
    table->old_cap = 0;
    table->cursor = 0;
}

/* Move what lies in the next old slots: some steps, and then on to an empty slot, so that what is
 * left is found as before. Old and new slots are both walked in order; only the sids lie anywhere.
 */
static void move_on(struct midge_sub_table *table, uint64_t seed, uint32_t steps)
{
    struct midge_sub *batch[BATCH_COUNT];
    uint32_t count = 0;

    for (uint64_t taken = 0; table->cursor < table->old_cap; taken++, table->cursor++) {
        struct midge_sub *sub = word_sub(table->old_slots[table->cursor]);

        if (sub == NULL) {
            if (taken >= steps)
                break;
            continue;
        }
        table->old_slots[table->cursor] = 0;
        __builtin_prefetch(&sub->sid_len);
        __builtin_prefetch(sub->text);
        batch[count++] = sub;
        taken += MOVE_SUB_STEPS;
        if (count == BATCH_COUNT) {
            place_all(table, seed, batch, count);
            count = 0;
        }
    }
    place_all(table, seed, batch, count);
    if (table->cursor == table->old_cap)
        drop_old_slots(table);
}

/* Begin to move everything to other slots. False without memory. */
static bool resize(struct midge_sub_table *table, uint64_t seed, uint32_t cap)
{
    uint64_t *slots;

    MIDGE_ASSERT(cap > table->count);

    slots = calloc(cap, sizeof(*slots));
    if (slots == NULL)
        return false;
    if (table->old_slots != NULL)
        move_on(table, seed, UINT32_MAX);
    table->old_slots = table->slots;
    table->old_cap = table->cap;
    table->slots = slots;
    table->cap = cap;
    /* A run of used slots that goes around the end loses its tail first: what is left is still
     * found from where it begins. */
    move_on(table, seed, table->old_cap <= MOVE_AT_ONCE_CAP ? UINT32_MAX : 0);
    return true;
}

static bool grow(struct midge_sub_table *table, uint64_t seed)
{
    const uint32_t cap = table->cap == 0 ? TABLE_CAP_FIRST : table->cap * 2;

    return cap > table->cap && resize(table, seed, cap);
}

bool midge_sub_table_add(struct midge_sub_table *table, uint64_t seed, struct midge_sub *sub)
{
    if (table->old_slots != NULL)
        move_on(table, seed, MOVE_STEPS);
    /* At most three quarters full. */
    if ((uint64_t)(table->count + 1) * 4 > (uint64_t)table->cap * 3 && !grow(table, seed))
        return false;
    place(table, seed, sub);
    table->count++;
    return true;
}

/* False if it is not in these slots. */
static bool remove_from(uint64_t *slots, uint32_t cap, uint64_t seed, const struct midge_sub *sub)
{
    const uint32_t mask = cap - 1;
    uint32_t hole = (uint32_t)hash_of(seed, midge_sub_sid(sub)) & mask;

    while (word_sub(slots[hole]) != sub) {
        if (slots[hole] == 0)
            return false;
        hole = (hole + 1) & mask;
    }
    for (uint32_t slot = (hole + 1) & mask; slots[slot] != 0; slot = (slot + 1) & mask) {
        const uint32_t home = (uint32_t)hash_of(seed, midge_sub_sid(word_sub(slots[slot]))) & mask;

        /* An entry may move into the hole if its home does not lie between hole and slot. */
        if (((slot - home) & mask) >= ((slot - hole) & mask)) {
            slots[hole] = slots[slot];
            hole = slot;
        }
    }
    slots[hole] = 0;
    return true;
}

void midge_sub_table_remove(struct midge_sub_table *table, uint64_t seed, struct midge_sub *sub)
{
    bool removed = remove_from(table->slots, table->cap, seed, sub);

    if (!removed && table->old_slots != NULL)
        removed = remove_from(table->old_slots, table->old_cap, seed, sub);
    MIDGE_ASSERT(removed);
    table->count--;
    if (table->old_slots != NULL)
        move_on(table, seed, MOVE_STEPS);
    /* Without memory it stays as it is, until the next one is removed. */
    if (table->cap > TABLE_CAP_FIRST &&
        (uint64_t)table->count * TABLE_SPARSE_SLOTS <= (uint64_t)table->cap)
        (void)resize(table, seed, table->cap / 2);
}

struct midge_sub *midge_sub_table_drain(struct midge_sub_table *table, uint32_t *steps)
{
    for (; table->count > 0 && *steps > 0; (*steps)--) {
        uint64_t *slots = table->old_slots != NULL ? table->old_slots : table->slots;
        struct midge_sub *sub = word_sub(slots[table->cursor]);

        slots[table->cursor++] = 0;
        if (table->old_slots != NULL && table->cursor == table->old_cap)
            drop_old_slots(table);
        if (sub != NULL) {
            (*steps)--;
            table->count--;
            return sub;
        }
    }
    return NULL;
}
