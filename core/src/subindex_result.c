/*
 * What a reader collects during one match, and the queue groups merged by name.
 *
 * Thread: shard. Memory: arrays of the reader, grown to the largest result seen.
 */
#include "subindex_internal.h"

#include <stdlib.h>

/* Room from the start, so that usual results never allocate. */
#define PLAIN_CAP_MIN      64u
#define QUEUE_ITEM_CAP_MIN 16u

uint32_t midge_reader_cap(uint32_t cap, uint32_t need)
{
    MIDGE_ASSERT(cap <= UINT32_MAX / 2);
    return need > cap * 2 ? need : cap * 2;
}

void *midge_reader_grow(void *array, uint32_t cap, size_t element_len)
{
    void *grown = reallocarray(array, cap, element_len);

    MIDGE_ASSERT(grown != NULL); /* out of memory; see the header */
    return grown;
}

static void grow_plain(struct midge_subindex_reader *reader)
{
    const uint32_t cap = midge_reader_cap(reader->plain_cap, PLAIN_CAP_MIN);

    reader->plain_sets = midge_reader_grow(reader->plain_sets, cap, sizeof(*reader->plain_sets));
    reader->plain_singles =
        midge_reader_grow(reader->plain_singles, cap, sizeof(*reader->plain_singles));
    reader->plain_cap = cap;
}

static void grow_queue_items(struct midge_subindex_reader *reader)
{
    const uint32_t cap = midge_reader_cap(reader->queue_item_cap, QUEUE_ITEM_CAP_MIN);

    reader->queue_items = midge_reader_grow(reader->queue_items, cap, sizeof(*reader->queue_items));
    reader->queues = midge_reader_grow(reader->queues, cap, sizeof(*reader->queues));
    reader->queue_sets = midge_reader_grow(reader->queue_sets, cap, sizeof(*reader->queue_sets));
    reader->queue_singles =
        midge_reader_grow(reader->queue_singles, cap, sizeof(*reader->queue_singles));
    reader->queue_item_cap = cap;
}

void midge_result_deinit(struct midge_subindex_reader *reader)
{
    free(reader->plain_sets);
    free(reader->plain_singles);
    free(reader->queue_items);
    free(reader->queues);
    free(reader->queue_sets);
    free(reader->queue_singles);
    free(reader->queue_slots);
    free(reader->tokens);
    free(reader->steps);
}

void midge_result_begin(struct midge_subindex_reader *reader)
{
    reader->plain_count = 0;
    reader->queue_item_count = 0;
    reader->match.plain_set_count = 0;
    reader->match.queue_count = 0;
}

/* Add one array, or with subs == NULL one subscription, to the plain sets or to a group. */
static void result_push(struct midge_subindex_reader *reader, const struct midge_set_group *group,
                        struct midge_sub *const *subs, struct midge_sub *single, uint32_t count)
{
    if (group == NULL) {
        if (reader->plain_count == reader->plain_cap)
            grow_plain(reader);
        reader->plain_sets[reader->plain_count] = (struct midge_subset){subs, count};
        reader->plain_singles[reader->plain_count++] = single;
    } else {
        if (reader->queue_item_count == reader->queue_item_cap)
            grow_queue_items(reader);
        reader->queue_items[reader->queue_item_count++] = (struct midge_queue_item){
            .group = group, .subs = subs, .single = single, .count = count};
    }
}

/* The runs between the items that are crossed out. */
static void result_push_live(struct midge_subindex_reader *reader,
                             const struct midge_set_group *group, struct midge_set_chunk *chunk)
{
    struct midge_sub *const *subs = (struct midge_sub *const *)(void *)chunk->items;
    _Atomic uint64_t *dead_bits = midge_set_dead_bits(chunk);
    uint32_t begin = 0;

    for (uint32_t i = 0; i < chunk->count; i++) {
        const uint64_t bits = atomic_load_explicit(&dead_bits[i / 64], memory_order_relaxed);

        if ((bits >> (i % 64) & 1) == 0)
            continue;
        if (i > begin)
            result_push(reader, group, subs + begin, NULL, i - begin);
        begin = i + 1;
    }
    if (chunk->count > begin)
        result_push(reader, group, subs + begin, NULL, chunk->count - begin);
}

static void result_add_chunk(struct midge_subindex_reader *reader,
                             const struct midge_set_group *group, struct midge_set_chunk *chunk)
{
    /* Acquire pairs with the release in set_cross_out(). */
    if (MIDGE_UNLIKELY(atomic_load_explicit(&chunk->dead_count, memory_order_acquire) > 0))
        result_push_live(reader, group, chunk);
    else
        result_push(reader, group, (struct midge_sub *const *)(void *)chunk->items, NULL,
                    chunk->count);
}

static void *word_object(uintptr_t word)
{
    return (void *)(word & ~(uintptr_t)MIDGE_SET_TAG_MASK);
}

static void result_add_set(struct midge_subindex_reader *reader,
                           const struct midge_set_group *group, uintptr_t word)
{
    if ((word & MIDGE_SET_TREE) != 0) {
        const struct midge_set_tree *tree = word_object(word);

        for (uint32_t i = 0; i < tree->chunk_count; i++)
            result_add_chunk(reader, group, tree->chunks[i]);
    } else if ((word & MIDGE_SET_CHUNK) != 0) {
        result_add_chunk(reader, group, word_object(word));
    } else if (word != 0) {
        result_push(reader, group, NULL, word_object(word), 1);
    }
}

static void result_add_group(struct midge_subindex_reader *reader, struct midge_set_group *group)
{
    /* Acquire pairs with the release in midge_op_publish(). */
    result_add_set(reader, group, atomic_load_explicit(&group->members, memory_order_acquire));
}

/* As result_add_set(), but the items are groups. None is ever crossed out. */
static void result_add_groups(struct midge_subindex_reader *reader, uintptr_t word)
{
    const struct midge_set_chunk *only = word_object(word);
    const struct midge_set_chunk *const *chunks = &only;
    uint32_t chunk_count = 1;

    if ((word & MIDGE_SET_TAG_MASK) == 0) {
        if (word != 0)
            result_add_group(reader, word_object(word));
        return;
    }
    if ((word & MIDGE_SET_TREE) != 0) {
        const struct midge_set_tree *tree = word_object(word);

        chunks = (const struct midge_set_chunk *const *)tree->chunks;
        chunk_count = tree->chunk_count;
    }
    for (uint32_t i = 0; i < chunk_count; i++) {
        for (uint32_t j = 0; j < chunks[i]->count; j++)
            result_add_group(reader, chunks[i]->items[j]);
    }
}

void midge_result_add(struct midge_subindex_reader *reader, struct midge_subindex_record *record)
{
    /* The acquires pair with the releases in midge_op_publish(). */
    const uintptr_t word = atomic_load_explicit(&record->word, memory_order_acquire);

    if ((word & MIDGE_SET_MIXED) != 0) {
        struct midge_set_mixed *mixed = word_object(word);

        result_add_set(reader, NULL, atomic_load_explicit(&mixed->plain, memory_order_acquire));
        result_add_groups(reader, atomic_load_explicit(&mixed->groups, memory_order_acquire));
    } else {
        result_add_set(reader, NULL, word);
    }
}

/* Index into `queues` of a group's name; a new entry for a new name. */
static uint32_t queue_index_of(struct midge_subindex_reader *reader,
                               const struct midge_set_group *group, uint32_t slot_mask)
{
    const struct midge_slice name = midge_slice_make(group->name, group->name_len);
    uint32_t slot = (uint32_t)group->name_hash & slot_mask;
    uint32_t index;

    while (reader->queue_slots[slot] != 0) {
        index = reader->queue_slots[slot] - 1;
        if (midge_slice_equal(reader->queues[index].name, name))
            return index;
        slot = (slot + 1) & slot_mask;
    }
    index = reader->match.queue_count++;
    reader->queues[index] = (struct midge_queue_match){.name = name};
    reader->queue_slots[slot] = index + 1;
    return index;
}

/* Sort the sets by group: name them, count, place. Linear in their number. */
static void result_merge_queues(struct midge_subindex_reader *reader)
{
    uint32_t slot_count = QUEUE_ITEM_CAP_MIN;
    uint32_t first = 0;

    while (slot_count < reader->queue_item_count * 2)
        slot_count *= 2;
    if (slot_count > reader->queue_slot_cap) {
        reader->queue_slots =
            midge_reader_grow(reader->queue_slots, slot_count, sizeof(*reader->queue_slots));
        reader->queue_slot_cap = slot_count;
    }
    memset(reader->queue_slots, 0, slot_count * sizeof(*reader->queue_slots));
    for (uint32_t i = 0; i < reader->queue_item_count; i++) {
        struct midge_queue_item *item = &reader->queue_items[i];
        const uint32_t index = queue_index_of(reader, item->group, slot_count - 1);

        item->queue_index = index;
        reader->queues[index].set_count++;
        reader->queues[index].member_count += item->count;
    }
    for (uint32_t i = 0; i < reader->match.queue_count; i++) {
        reader->queues[i].set_first = first;
        first += reader->queues[i].set_count;
        reader->queues[i].set_count = 0; /* counted up again below */
    }
    for (uint32_t i = 0; i < reader->queue_item_count; i++) {
        const struct midge_queue_item *item = &reader->queue_items[i];
        struct midge_queue_match *queue = &reader->queues[item->queue_index];
        const uint32_t place = queue->set_first + queue->set_count++;

        reader->queue_singles[place] = item->single;
        reader->queue_sets[place] = (struct midge_subset){
            item->subs != NULL ? item->subs : &reader->queue_singles[place], item->count};
    }
}

const struct midge_match *midge_result_end(struct midge_subindex_reader *reader)
{
    for (uint32_t i = 0; i < reader->plain_count; i++) {
        if (reader->plain_sets[i].subs == NULL)
            reader->plain_sets[i].subs = &reader->plain_singles[i];
    }
    if (reader->queue_item_count > 0)
        result_merge_queues(reader);
    reader->match.plain_sets = reader->plain_sets;
    reader->match.plain_set_count = reader->plain_count;
    reader->match.queue_sets = reader->queue_sets;
    reader->match.queues = reader->queues;
    return &reader->match;
}
