/*
 * Sets of subscriptions and the queue groups of a record.
 *
 * A set is one atomic word (see subindex_internal.h): empty, one item, one chunk, or a list of
 * chunks. Chunks and lists are immutable; a change copies one chunk (two when it merges them), and
 * the list. Items are in ascending order, subscriptions by address and groups by name, so that one
 * is found by two binary searches however large the set is.
 *
 * A removal must not fail. Where the copy finds no memory, the subscription is crossed out: a bit
 * behind the items of its chunk is set, readers leave out such items, and the next copy of the
 * chunk drops them. The items themselves are never overwritten, since the results of earlier
 * matches point at them. A queue group cannot be crossed out, because searches look at the names;
 * it stays, empty, until it has a member again or all groups of the record are empty.
 *
 * Thread: one writer (index part lock), any reader.
 */
#include "subindex_internal.h"

#include <string.h>

/* A chunk that gets smaller than a quarter joins a neighbour if the two then fill at most 3/4. */
#define CHUNK_MERGE_MIN (MIDGE_SET_CHUNK_MAX / 4)
#define CHUNK_MERGE_MAX (MIDGE_SET_CHUNK_MAX / 4 * 3)

/* Order of items: < 0 if the key belongs before the item, 0 if it is the item's. */
typedef int order_fn(const void *key, const void *item); /* style: one callback, many parameters */

/* The chunks of a set; none for a set of less than two. */
struct view {
    struct midge_set_chunk *const *chunks;
    struct midge_set_chunk *only; /* what `chunks` points at when there is no list */
    struct midge_set_tree *tree;  /* or NULL */
    uint32_t chunk_count;
};

/* Items of the chunks to come. */
struct gather {
    uint32_t count;
    void *items[MIDGE_SET_CHUNK_MAX + 1];
};

static int order_subs(const void *key, const void *item)
{
    const uintptr_t a = (uintptr_t)key;
    const uintptr_t b = (uintptr_t)item;

    return (a > b) - (a < b);
}

/* The key of a group is a struct midge_slice with its name. */
static int order_groups(const void *key, const void *item)
{
    const struct midge_slice *name = key;
    const struct midge_set_group *group = item;

    if (name->len != group->name_len)
        return name->len < group->name_len ? -1 : 1;
    return memcmp(name->base, group->name, name->len);
}

static void *word_object(uintptr_t word)
{
    return (void *)(word & ~(uintptr_t)MIDGE_SET_TAG_MASK);
}

static uintptr_t word_load(_Atomic uintptr_t *word_at)
{
    return atomic_load_explicit(word_at, memory_order_relaxed);
}

static void view_init(struct view *view, uintptr_t word)
{
    *view = (struct view){0};
    if ((word & MIDGE_SET_TREE) != 0) {
        view->tree = word_object(word);
        view->chunks = view->tree->chunks;
        view->chunk_count = view->tree->chunk_count;
    } else if ((word & MIDGE_SET_CHUNK) != 0) {
        view->only = word_object(word);
        view->chunks = &view->only;
        view->chunk_count = 1;
    }
}

static size_t chunk_size(uint32_t count)
{
    return sizeof(struct midge_set_chunk) + (size_t)count * sizeof(void *) +
           ((size_t)count + 63) / 64 * sizeof(uint64_t);
}

static size_t tree_size(uint32_t chunk_count)
{
    return sizeof(struct midge_set_tree) + (size_t)chunk_count * sizeof(struct midge_set_chunk *);
}

static void chunk_free_cb(void *context, void *object)
{
    const struct midge_set_chunk *chunk = object;

    midge_part_free_retired(context, object, chunk_size(chunk->count));
}

static void tree_free_cb(void *context, void *object)
{
    const struct midge_set_tree *tree = object;

    midge_part_free_retired(context, object, tree_size(tree->chunk_count));
}

static void chunk_free(struct midge_subindex_part *part, struct midge_set_chunk *chunk)
{
    if (chunk != NULL)
        midge_part_free(part, chunk, chunk_size(chunk->count));
}

static bool item_is_dead(struct midge_set_chunk *chunk, uint32_t index)
{
    const uint64_t bits =
        atomic_load_explicit(&midge_set_dead_bits(chunk)[index / 64], memory_order_relaxed);

    return (bits >> (index % 64) & 1) != 0;
}

static uint32_t chunk_live_count(struct midge_set_chunk *chunk)
{
    return chunk->count - atomic_load_explicit(&chunk->dead_count, memory_order_relaxed);
}

/* First item that the key does not belong behind. */
static uint32_t items_position(void *const *items, uint32_t count, const void *key,
                               order_fn *order_cb)
{
    uint32_t low = 0;
    uint32_t high = count;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;

        if (order_cb(key, items[middle]) > 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The chunk where the key is or belongs: the last that does not begin behind it. */
static uint32_t view_position(const struct view *view, const void *key, order_fn *order_cb)
{
    uint32_t low = 0;
    uint32_t high = view->chunk_count;

    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;

        if (order_cb(key, view->chunks[middle]->items[0]) >= 0)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* True if a live item is in another chunk than `count` from `first` on. */
static bool view_is_live_outside(const struct view *view, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < view->chunk_count; i++) {
        if ((i < first || i >= first + count) && chunk_live_count(view->chunks[i]) > 0)
            return true;
    }
    return false;
}

/* Append the live items of a chunk, but not the one that is going. */
static void gather_chunk(struct gather *gather, struct midge_set_chunk *chunk,
                         const void *leave_out)
{
    const bool any_dead = chunk_live_count(chunk) < chunk->count;

    for (uint32_t i = 0; i < chunk->count; i++) {
        if (chunk->items[i] != leave_out && !(any_dead && item_is_dead(chunk, i)))
            gather->items[gather->count++] = chunk->items[i];
    }
}

static void gather_insert(struct gather *gather, void *item, const void *key, order_fn *order_cb)
{
    const uint32_t position = items_position(gather->items, gather->count, key, order_cb);
    void **place = &gather->items[position];

    /* Once in is enough: a subscription is in a set at most once. */
    MIDGE_ASSERT(position == gather->count || order_cb(key, *place) != 0);
    memmove(place + 1, place, (gather->count - position) * sizeof(*place));
    *place = item;
    gather->count++;
}

static struct midge_set_chunk *chunk_create(struct midge_subindex_part *part, void *const *items,
                                            uint32_t count)
{
    struct midge_set_chunk *chunk = midge_part_alloc(part, chunk_size(count));

    if (chunk != NULL) {
        chunk->count = count;
        memcpy(chunk->items, items, (size_t)count * sizeof(*items));
    }
    return chunk;
}

/* Make one or two chunks of what was gathered. */
static bool gather_make(struct midge_subindex_part *part, const struct gather *gather,
                        struct midge_set_chunk *chunks_out[2], uint32_t *chunk_count_out)
{
    const uint32_t half = gather->count > MIDGE_SET_CHUNK_MAX ? gather->count / 2 : gather->count;

    *chunk_count_out = (gather->count > 0 ? 1u : 0u) + (gather->count > half ? 1u : 0u);
    chunks_out[0] = chunks_out[1] = NULL;
    if (gather->count > 0)
        chunks_out[0] = chunk_create(part, gather->items, half);
    if (gather->count > half && chunks_out[0] != NULL)
        chunks_out[1] = chunk_create(part, gather->items + half, gather->count - half);
    if (*chunk_count_out > 0 && chunks_out[*chunk_count_out - 1] == NULL) {
        chunk_free(part, chunks_out[0]);
        return false;
    }
    return true;
}

/* The word of a set with these chunks in place of `old_count` from `first` on; 0 if it is empty or
 * if there is no memory, which only a list of chunks needs. */
static uintptr_t word_make(struct midge_subindex_part *part, const struct view *view,
                           uint32_t first, uint32_t old_count,
                           struct midge_set_chunk *const *chunks, uint32_t count)
{
    const uint32_t chunk_count = view->chunk_count - old_count + count;
    const uint32_t rest = view->chunk_count - old_count - first;
    struct midge_set_tree *tree;

    if (chunk_count == 0)
        return 0;
    if (chunk_count == 1) {
        const struct midge_set_chunk *only =
            count == 1 ? chunks[0] : view->chunks[first == 0 ? old_count : 0];

        return (uintptr_t)only | MIDGE_SET_CHUNK;
    }
    tree = midge_part_alloc(part, tree_size(chunk_count));
    if (tree == NULL)
        return 0;
    tree->chunk_count = chunk_count;
    memcpy(tree->chunks, view->chunks, first * sizeof(*chunks));
    memcpy(tree->chunks + first, chunks, count * sizeof(*chunks));
    memcpy(tree->chunks + first + count, view->chunks + first + old_count, rest * sizeof(*chunks));
    return (uintptr_t)tree | MIDGE_SET_TREE;
}

/* Publish the set with what was gathered in place of `old_count` chunks from `first` on.
 * Returns false without memory, and nothing has changed. */
static bool set_replace(const struct midge_op *op, _Atomic uintptr_t *word_at,
                        const struct view *view, uint32_t first, uint32_t old_count,
                        const struct gather *gather)
{
    const bool whole = view->chunk_count == old_count;
    struct midge_set_chunk *chunks[2];
    uint32_t chunk_count;
    uintptr_t word;

    if (whole && gather->count <= 1) {
        word = gather->count == 0 ? 0 : (uintptr_t)gather->items[0];
    } else {
        if (!gather_make(op->part, gather, chunks, &chunk_count))
            return false;
        word = word_make(op->part, view, first, old_count, chunks, chunk_count);
        if (word == 0) {
            chunk_free(op->part, chunks[0]);
            chunk_free(op->part, chunks[1]);
            return false;
        }
    }
    midge_op_publish(op, word_at, word);
    for (uint32_t i = 0; i < old_count; i++)
        midge_op_retire(op, view->chunks[first + i], chunk_free_cb);
    if (view->tree != NULL)
        midge_op_retire(op, view->tree, tree_free_cb);
    return true;
}

static bool set_insert(const struct midge_op *op, _Atomic uintptr_t *word_at, void *item,
                       const void *key, order_fn *order_cb)
{
    const uintptr_t word = word_load(word_at);
    struct gather gather;
    struct view view;
    uint32_t index;

    MIDGE_ASSERT(item != NULL);
    MIDGE_ASSERT(((uintptr_t)item & MIDGE_SET_TAG_MASK) == 0);
    gather.count = 0;
    view_init(&view, word);
    if (view.chunk_count == 0) {
        if (word != 0)
            gather.items[gather.count++] = word_object(word);
        gather_insert(&gather, item, key, order_cb);
        return set_replace(op, word_at, &view, 0, 0, &gather);
    }
    index = view_position(&view, key, order_cb);
    gather_chunk(&gather, view.chunks[index], NULL);
    gather_insert(&gather, item, key, order_cb);
    return set_replace(op, word_at, &view, index, 1, &gather);
}

/* Cross out a subscription, for want of memory; a set with no other becomes empty. */
static void set_cross_out(const struct midge_op *op, _Atomic uintptr_t *word_at, const void *item)
{
    struct midge_set_chunk *chunk;
    struct gather nothing;
    struct view view;
    uint32_t position;

    view_init(&view, word_load(word_at));
    MIDGE_ASSERT(view.chunks != NULL);
    chunk = view.chunks[view_position(&view, item, order_subs)];
    position = items_position(chunk->items, chunk->count, item, order_subs);
    /* The count goes up last: release pairs with the acquire in result_add_chunk(), so that who
     * sees it sees the bit. Who does not see it began before this removal. */
    (void)atomic_fetch_or_explicit(&midge_set_dead_bits(chunk)[position / 64],
                                   UINT64_C(1) << (position % 64), memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&chunk->dead_count, 1, memory_order_release);
    (void)atomic_fetch_add_explicit(op->generation, 1, memory_order_release);
    nothing.count = 0;
    if (!view_is_live_outside(&view, 0, 0))
        (void)set_replace(op, word_at, &view, 0, view.chunk_count, &nothing);
}

/* Returns false without memory, and nothing has changed. */
static bool set_remove(const struct midge_op *op, _Atomic uintptr_t *word_at, const void *item,
                       const void *key, order_fn *order_cb)
{
    const uintptr_t word = word_load(word_at);
    struct midge_set_chunk *chunk;
    struct gather gather;
    struct view view;
    uint32_t first;
    uint32_t old_count = 1;
    uint32_t position;

    view_init(&view, word);
    if (view.chunk_count == 0) {
        MIDGE_ASSERT(word_object(word) == item);
        midge_op_publish(op, word_at, 0);
        return true;
    }
    first = view_position(&view, key, order_cb);
    chunk = view.chunks[first];
    position = items_position(chunk->items, chunk->count, key, order_cb);
    MIDGE_ASSERT(position < chunk->count);
    MIDGE_ASSERT(chunk->items[position] == item);
    MIDGE_ASSERT(!item_is_dead(chunk, position));
    if (view.chunk_count > 1 && chunk_live_count(chunk) <= CHUNK_MERGE_MIN) {
        const uint32_t left = first + 1 < view.chunk_count ? first : first - 1;

        if (chunk_live_count(view.chunks[left]) + chunk_live_count(view.chunks[left + 1]) <=
            CHUNK_MERGE_MAX) {
            first = left;
            old_count = 2;
        }
    }
    gather.count = 0;
    for (uint32_t i = 0; i < old_count; i++)
        gather_chunk(&gather, view.chunks[first + i], item);
    /* Chunks of which all was crossed out may be all that is left. */
    if (gather.count == 0 && !view_is_live_outside(&view, first, old_count)) {
        first = 0;
        old_count = view.chunk_count;
    }
    return set_replace(op, word_at, &view, first, old_count, &gather);
}

static void set_remove_sub(const struct midge_op *op, _Atomic uintptr_t *word_at,
                           const struct midge_sub *sub)
{
    if (!set_remove(op, word_at, sub, sub, order_subs))
        set_cross_out(op, word_at, sub);
}

static void *set_find(uintptr_t word, const void *key, order_fn *order_cb)
{
    struct midge_set_chunk *chunk;
    struct view view;
    uint32_t position;

    view_init(&view, word);
    if (view.chunk_count == 0) {
        if (word != 0 && order_cb(key, word_object(word)) == 0)
            return word_object(word);
        return NULL;
    }
    chunk = view.chunks[view_position(&view, key, order_cb)];
    position = items_position(chunk->items, chunk->count, key, order_cb);
    if (position == chunk->count || item_is_dead(chunk, position) ||
        order_cb(key, chunk->items[position]) != 0)
        return NULL;
    return chunk->items[position];
}

static void set_destroy(struct midge_subindex_part *part, uintptr_t word)
{
    struct view view;

    view_init(&view, word);
    for (uint32_t i = 0; i < view.chunk_count; i++)
        chunk_free(part, view.chunks[i]);
    if (view.tree != NULL)
        midge_part_free(part, view.tree, tree_size(view.chunk_count));
}

static size_t group_size(uint32_t name_len)
{
    return offsetof(struct midge_set_group, name) + name_len;
}

static void group_free_cb(void *context, void *object)
{
    const struct midge_set_group *group = object;

    midge_part_free_retired(context, object, group_size(group->name_len));
}

static void mixed_free_cb(void *context, void *object)
{
    midge_part_free_retired(context, object, sizeof(struct midge_set_mixed));
}

static size_t record_size(uint32_t subject_len)
{
    return offsetof(struct midge_subindex_record, subject) + subject_len;
}

static void record_free_cb(void *context, void *object)
{
    const struct midge_subindex_record *record = object;

    midge_part_free_retired(context, object, record_size(record->subject_len));
}

struct midge_subindex_record *midge_record_create(struct midge_subindex_part *part,
                                                  uint32_t account, struct midge_slice subject)
{
    struct midge_subindex_record *record = midge_part_alloc(part, record_size(subject.len));

    if (record != NULL) {
        record->account = account;
        record->subject_len = subject.len;
        memcpy(record->subject, subject.base, subject.len);
    }
    return record;
}

void midge_record_retire(const struct midge_op *op, struct midge_subindex_record *record)
{
    MIDGE_ASSERT(midge_record_is_empty(record));
    midge_op_retire(op, record, record_free_cb);
}

static void group_destroy(struct midge_subindex_part *part, struct midge_set_group *group)
{
    set_destroy(part, word_load(&group->members));
    midge_part_free(part, group, group_size(group->name_len));
}

static void groups_destroy(struct midge_subindex_part *part, uintptr_t word)
{
    struct view view;

    view_init(&view, word);
    for (uint32_t i = 0; i < view.chunk_count; i++) {
        for (uint32_t j = 0; j < view.chunks[i]->count; j++)
            group_destroy(part, view.chunks[i]->items[j]);
    }
    if (view.chunk_count == 0 && word != 0)
        group_destroy(part, word_object(word));
    set_destroy(part, word);
}

void midge_record_destroy(struct midge_subindex_part *part, struct midge_subindex_record *record)
{
    const uintptr_t word = word_load(&record->word);

    if ((word & MIDGE_SET_MIXED) != 0) {
        struct midge_set_mixed *mixed = word_object(word);

        set_destroy(part, word_load(&mixed->plain));
        groups_destroy(part, word_load(&mixed->groups));
        midge_part_free(part, mixed, sizeof(*mixed));
    } else {
        set_destroy(part, word);
    }
    midge_part_free(part, record, record_size(record->subject_len));
}

/* The two sets of a record; NULL if it has no queue groups. */
static struct midge_set_mixed *record_mixed(struct midge_subindex_record *record)
{
    const uintptr_t word = word_load(&record->word);

    return (word & MIDGE_SET_MIXED) != 0 ? word_object(word) : NULL;
}

static _Atomic uintptr_t *record_plain(struct midge_subindex_record *record)
{
    struct midge_set_mixed *mixed = record_mixed(record);

    return mixed != NULL ? &mixed->plain : &record->word;
}

static bool group_is_empty(struct midge_set_group *group)
{
    return word_load(&group->members) == 0;
}

/* True at once if there is no group; false at the first that has a member. */
static bool groups_are_empty(uintptr_t word)
{
    struct view view;

    view_init(&view, word);
    for (uint32_t i = 0; i < view.chunk_count; i++) {
        for (uint32_t j = 0; j < view.chunks[i]->count; j++) {
            if (!group_is_empty(view.chunks[i]->items[j]))
                return false;
        }
    }
    return view.chunk_count > 0 || word == 0 || group_is_empty(word_object(word));
}

static void groups_retire(const struct midge_op *op, uintptr_t word)
{
    struct view view;

    view_init(&view, word);
    for (uint32_t i = 0; i < view.chunk_count; i++) {
        for (uint32_t j = 0; j < view.chunks[i]->count; j++)
            midge_op_retire(op, view.chunks[i]->items[j], group_free_cb);
        midge_op_retire(op, view.chunks[i], chunk_free_cb);
    }
    if (view.chunk_count == 0 && word != 0)
        midge_op_retire(op, word_object(word), group_free_cb);
    if (view.tree != NULL)
        midge_op_retire(op, view.tree, tree_free_cb);
}

/* Move the plain set back into the record when no queue group has a member. */
static void record_simplify(const struct midge_op *op, struct midge_subindex_record *record)
{
    struct midge_set_mixed *mixed = record_mixed(record);

    if (mixed != NULL && groups_are_empty(word_load(&mixed->groups))) {
        midge_op_publish(op, &record->word, word_load(&mixed->plain));
        groups_retire(op, word_load(&mixed->groups));
        midge_op_retire(op, mixed, mixed_free_cb);
    }
}

static bool group_add(const struct midge_op *op, struct midge_set_mixed *mixed,
                      struct midge_slice queue, struct midge_sub *sub)
{
    struct midge_set_group *group = set_find(word_load(&mixed->groups), &queue, order_groups);

    if (group != NULL)
        return set_insert(op, &group->members, sub, sub, order_subs);
    group = midge_part_alloc(op->part, group_size(queue.len));
    if (group == NULL)
        return false;
    atomic_init(&group->members, (uintptr_t)sub);
    group->name_hash = midge_subindex_hash_token(op->part->index, queue);
    group->name_len = queue.len;
    memcpy(group->name, queue.base, queue.len);
    if (set_insert(op, &mixed->groups, group, &queue, order_groups))
        return true;
    midge_part_free(op->part, group, group_size(queue.len));
    return false;
}

bool midge_record_add(const struct midge_op *op, struct midge_subindex_record *record,
                      struct midge_slice queue, struct midge_sub *sub)
{
    struct midge_set_mixed *mixed = record_mixed(record);
    bool added;

    MIDGE_ASSERT(sub != NULL);
    MIDGE_ASSERT(((uintptr_t)sub & MIDGE_SET_TAG_MASK) == 0);
    if (queue.len == 0)
        return set_insert(op, record_plain(record), sub, sub, order_subs);
    if (mixed == NULL) {
        mixed = midge_part_alloc(op->part, sizeof(*mixed));
        if (mixed == NULL)
            return false;
        atomic_init(&mixed->plain, word_load(&record->word));
        midge_op_publish(op, &record->word, (uintptr_t)mixed | MIDGE_SET_MIXED);
    }
    added = group_add(op, mixed, queue, sub);
    record_simplify(op, record);
    return added;
}

void midge_record_take(const struct midge_op *op, struct midge_subindex_record *record,
                       struct midge_slice queue, struct midge_sub *sub)
{
    struct midge_set_mixed *mixed = record_mixed(record);
    struct midge_set_group *group;

    if (queue.len == 0) {
        set_remove_sub(op, record_plain(record), sub);
        return;
    }
    MIDGE_ASSERT(mixed != NULL);
    group = set_find(word_load(&mixed->groups), &queue, order_groups);
    MIDGE_ASSERT(group != NULL);
    set_remove_sub(op, &group->members, sub);
    if (group_is_empty(group)) {
        if (set_remove(op, &mixed->groups, group, &queue, order_groups))
            midge_op_retire(op, group, group_free_cb);
        record_simplify(op, record);
    }
}
