/*
 * Wildcard patterns: an edge-hash trie.
 *
 * A node is reached from its parent by a literal token, through the table of edges of the part,
 * keyed (parent, token) with a full compare; or by `*`, through a pointer in the parent. In first
 * place there are the first literal tokens of each account, and the token "" (which no subject
 * has): the root of the patterns that begin with a wildcard. So every pattern lives in the part of
 * its first token, and a match looks up two places and then walks down.
 *
 * A walk visits a node at most once and at one depth, so a match costs at most the nodes there are,
 * on an explicit stack of at most one entry more than tokens.
 *
 * Removal. A node goes when it has no record and no child, under the part lock: first the link to
 * it, then, retired, the node. A reader that is still in it finds it empty, as it was: links are
 * only added to nodes that can be found.
 *
 * Thread: one writer (index part lock), any reader.
 */
#include "subindex_internal.h"

#include <string.h>

#define TOKEN_COUNT_MIN 32u

/* A place in a pattern: the token that begins at `off`. */
struct token_cursor {
    struct midge_slice subject;
    struct midge_slice token;
    uint32_t off; /* of the next token; > subject.len after the last */
};

struct edge_key {
    uintptr_t parent_key;
    struct midge_slice token;
};

/* Where a pattern ends. */
struct trie_place {
    struct midge_trie_node *node;
    struct midge_subindex_record *_Atomic *record_at;
};

static bool cursor_next(struct token_cursor *cursor)
{
    const uint8_t *base = cursor->subject.base + cursor->off;
    const uint8_t *dot;
    uint32_t len;

    if (cursor->off > cursor->subject.len)
        return false;
    len = cursor->subject.len - cursor->off;
    dot = len > 0 ? memchr(base, '.', len) : NULL;
    if (dot != NULL)
        len = (uint32_t)(dot - base);
    cursor->token = midge_slice_make(base, len);
    cursor->off += len + 1;
    return true;
}

static bool token_is(struct midge_slice token, char character)
{
    return token.len == 1 && token.base[0] == (uint8_t)character;
}

struct midge_slice midge_trie_first_token(struct midge_slice subject)
{
    struct token_cursor cursor = {.subject = subject};

    (void)cursor_next(&cursor);
    return cursor.token;
}

static bool starts_with_wildcard(struct midge_slice pattern)
{
    const struct midge_slice token = midge_trie_first_token(pattern);

    return token_is(token, '*') || token_is(token, '>');
}

uint64_t midge_trie_hash(const struct midge_subindex *index, uint32_t account,
                         struct midge_slice pattern)
{
    const uint64_t token_hash =
        starts_with_wildcard(pattern)
            ? index->empty_token_hash
            : midge_subindex_hash_token(index, midge_trie_first_token(pattern));

    return midge_edge_hash(token_hash, midge_account_key(account));
}

static size_t node_size(uint32_t token_len)
{
    return offsetof(struct midge_trie_node, token) + token_len;
}

static void node_free_cb(void *context, void *object)
{
    const struct midge_trie_node *node = object;

    midge_part_free_retired(context, object, node_size(node->token_len));
}

static bool edge_equal(const void *key, const void *object)
{
    const struct edge_key *edge = key;
    const struct midge_trie_node *node = object;

    return node->parent_key == edge->parent_key && node->token_len == edge->token.len &&
           memcmp(node->token, edge->token.base, edge->token.len) == 0;
}

static struct midge_trie_node *edge_find(struct midge_subindex_part *part, uintptr_t parent_key,
                                         struct midge_slice token, uint64_t token_hash)
{
    const struct edge_key key = {parent_key, token};

    return midge_table_find(&part->edges, midge_edge_hash(token_hash, parent_key), &key,
                            edge_equal);
}

static uint64_t node_edge_hash(const struct midge_subindex *index,
                               const struct midge_trie_node *node)
{
    const struct midge_slice token = midge_slice_make(node->token, node->token_len);

    return midge_edge_hash(midge_subindex_hash_token(index, token), node->parent_key);
}

static struct midge_trie_node *node_parent(const struct midge_trie_node *node)
{
    return (node->parent_key & 1) != 0 ? NULL : (struct midge_trie_node *)node->parent_key;
}

static struct midge_trie_node *node_create(struct midge_subindex_part *part, uintptr_t parent_key,
                                           struct midge_slice token)
{
    /* At least the size of the type: readers may copy no more than its members, but the compiler
     * may assume the whole. */
    struct midge_trie_node *node = midge_part_alloc(part, node_size(token.len));

    if (node != NULL) {
        node->parent_key = parent_key;
        node->token_len = token.len;
        if (token.len > 0)
            memcpy(node->token, token.base, token.len);
        (void)atomic_fetch_add_explicit(&part->node_count, 1, memory_order_relaxed);
    }
    return node;
}

static void node_uncount(struct midge_subindex_part *part)
{
    (void)atomic_fetch_sub_explicit(&part->node_count, 1, memory_order_relaxed);
}

static struct midge_trie_node *edge_obtain(const struct midge_op *op,
                                           struct midge_trie_node *parent, uintptr_t parent_key,
                                           struct midge_slice token, bool create)
{
    const uint64_t token_hash = midge_subindex_hash_token(op->part->index, token);
    struct midge_trie_node *node = edge_find(op->part, parent_key, token, token_hash);

    if (node != NULL || !create)
        return node;
    node = node_create(op->part, parent_key, token);
    if (node == NULL)
        return NULL;
    /* Readers that see the edge see the count first; midge_table_insert() releases. */
    if (parent != NULL)
        (void)atomic_fetch_add_explicit(&parent->child_count, 1, memory_order_relaxed);
    if (midge_table_insert(op, &op->part->edges, &op->part->edges_fill,
                           midge_edge_hash(token_hash, parent_key), node))
        return node;
    if (parent != NULL)
        (void)atomic_fetch_sub_explicit(&parent->child_count, 1, memory_order_relaxed);
    node_uncount(op->part);
    midge_part_free(op->part, node, node_size(token.len));
    return NULL;
}

static struct midge_trie_node *star_obtain(const struct midge_op *op,
                                           struct midge_trie_node *parent, bool create)
{
    struct midge_trie_node *node = atomic_load_explicit(&parent->star, memory_order_relaxed);

    if (node == NULL && create) {
        node = node_create(op->part, (uintptr_t)parent, midge_slice_make(NULL, 0));
        /* Release pairs with the acquire in trie_step(). */
        if (node != NULL)
            atomic_store_explicit(&parent->star, node, memory_order_release);
    }
    return node;
}

/* Take out the node, and its parents, as far as nothing else needs them. */
static void trie_prune(const struct midge_op *op, struct midge_trie_node *node)
{
    while (node != NULL) {
        struct midge_trie_node *parent = node_parent(node);

        if (atomic_load_explicit(&node->leaf, memory_order_relaxed) != NULL ||
            atomic_load_explicit(&node->rest, memory_order_relaxed) != NULL ||
            atomic_load_explicit(&node->star, memory_order_relaxed) != NULL ||
            atomic_load_explicit(&node->child_count, memory_order_relaxed) > 0)
            return;
        if (parent != NULL && atomic_load_explicit(&parent->star, memory_order_relaxed) == node) {
            atomic_store_explicit(&parent->star, NULL, memory_order_release);
        } else {
            midge_table_remove(op, &op->part->edges, &op->part->edges_fill,
                               node_edge_hash(op->part->index, node), node);
            if (parent != NULL)
                (void)atomic_fetch_sub_explicit(&parent->child_count, 1, memory_order_relaxed);
        }
        node_uncount(op->part);
        midge_op_retire(op, node, node_free_cb);
        node = parent;
    }
}

/* Walk to where the pattern ends. False without memory, and nothing has changed. */
static bool trie_walk(const struct midge_op *op, uint32_t account, struct midge_slice pattern,
                      bool create, struct trie_place *place_out)
{
    struct token_cursor cursor = {.subject = pattern};
    const bool from_root = starts_with_wildcard(pattern);
    struct midge_trie_node *node = NULL;
    struct midge_trie_node *next;

    if (!from_root)
        (void)cursor_next(&cursor);
    next = edge_obtain(op, NULL, midge_account_key(account),
                       from_root ? midge_slice_make("", 0) : cursor.token, create);
    while (next != NULL) {
        node = next;
        place_out->node = node;
        place_out->record_at = &node->leaf;
        if (!cursor_next(&cursor))
            return true;
        if (token_is(cursor.token, '>')) {
            place_out->record_at = &node->rest;
            return true;
        }
        if (token_is(cursor.token, '*'))
            next = star_obtain(op, node, create);
        else
            next = edge_obtain(op, node, (uintptr_t)node, cursor.token, create);
    }
    trie_prune(op, node);
    return false;
}

struct midge_subindex_record *midge_trie_obtain(const struct midge_op *op, uint32_t account,
                                                struct midge_slice pattern)
{
    struct midge_subindex_record *record;
    struct trie_place place;

    if (!trie_walk(op, account, pattern, true, &place))
        return NULL;
    record = atomic_load_explicit(place.record_at, memory_order_relaxed);
    if (record != NULL)
        return record;
    record = midge_record_create(op->part, account, pattern);
    if (record == NULL) {
        trie_prune(op, place.node);
        return NULL;
    }
    /* Release pairs with the acquire in trie_step(). */
    atomic_store_explicit(place.record_at, record, memory_order_release);
    return record;
}

void midge_trie_discard(const struct midge_op *op, struct midge_subindex_record *record)
{
    struct trie_place place;
    bool found;

    found = trie_walk(op, record->account, midge_subindex_subject(record), false, &place);
    MIDGE_ASSERT(found);
    MIDGE_ASSERT(atomic_load_explicit(place.record_at, memory_order_relaxed) == record);
    atomic_store_explicit(place.record_at, NULL, memory_order_release);
    midge_record_retire(op, record);
    trie_prune(op, place.node);
}

static void node_destroy(struct midge_subindex_part *part, struct midge_trie_node *node)
{
    struct midge_subindex_record *leaf = atomic_load_explicit(&node->leaf, memory_order_relaxed);
    struct midge_subindex_record *rest = atomic_load_explicit(&node->rest, memory_order_relaxed);

    if (leaf != NULL)
        midge_record_destroy(part, leaf);
    if (rest != NULL)
        midge_record_destroy(part, rest);
    midge_part_free(part, node, node_size(node->token_len));
}

void midge_trie_destroy(struct midge_subindex_part *part)
{
    struct midge_table *edges = atomic_load_explicit(&part->edges, memory_order_relaxed);

    /* Every node is in the table or at the end of a chain of `*` that begins in it. */
    for (uint64_t i = 0; i <= edges->slot_mask; i++) {
        const uint64_t slot = atomic_load_explicit(&edges->slots[i], memory_order_relaxed);
        struct midge_trie_node *node =
            slot > MIDGE_TABLE_TOMBSTONE ? midge_table_object(slot) : NULL;

        while (node != NULL) {
            struct midge_trie_node *star = atomic_load_explicit(&node->star, memory_order_relaxed);

            node_destroy(part, node);
            node = star;
        }
    }
}

/* Split the subject; false if a token is empty, since such a subject matches nothing. */
static bool tokens_split(struct midge_subindex_reader *reader, struct midge_slice subject,
                         uint32_t *token_count_out)
{
    struct token_cursor cursor = {.subject = subject};
    uint32_t count = 0;

    while (cursor_next(&cursor)) {
        if (cursor.token.len == 0)
            return false;
        if (count == reader->token_cap) {
            const uint32_t cap = midge_reader_cap(count, TOKEN_COUNT_MIN);

            reader->tokens = midge_reader_grow(reader->tokens, cap, sizeof(*reader->tokens));
            reader->steps = midge_reader_grow(reader->steps, cap + 2, sizeof(*reader->steps));
            reader->token_cap = cap;
        }
        reader->tokens[count++] = (struct midge_token){
            .off = (uint32_t)(cursor.token.base - subject.base), .len = cursor.token.len};
    }
    *token_count_out = count;
    return true;
}

/* Take the records of one node and push its children. */
static uint32_t trie_step(struct midge_subindex_reader *reader, const struct midge_lookup *lookup,
                          struct midge_subindex_part *part, struct midge_trie_step step,
                          uint32_t token_count, uint32_t step_count)
{
    const bool at_end = step.depth == token_count;
    struct midge_token *token = &reader->tokens[step.depth];
    /* The acquires pair with the releases in midge_trie_obtain() and star_obtain(). */
    struct midge_subindex_record *record =
        atomic_load_explicit(at_end ? &step.node->leaf : &step.node->rest, memory_order_acquire);
    struct midge_trie_node *next;
    struct midge_slice name;

    if (record != NULL)
        midge_result_add(reader, record);
    if (at_end)
        return step_count;
    next = atomic_load_explicit(&step.node->star, memory_order_acquire);
    if (next != NULL)
        reader->steps[step_count++] = (struct midge_trie_step){next, step.depth + 1};
    if (atomic_load_explicit(&step.node->child_count, memory_order_relaxed) == 0)
        return step_count;
    name = midge_slice_make(lookup->subject.base + token->off, token->len);
    if (token->hash == 0)
        token->hash = midge_subindex_hash_token(reader->index, name);
    next = edge_find(part, (uintptr_t)step.node, name, token->hash);
    if (next != NULL)
        reader->steps[step_count++] = (struct midge_trie_step){next, step.depth + 1};
    return step_count;
}

static void trie_walk_down(struct midge_subindex_reader *reader, const struct midge_lookup *lookup,
                           struct midge_subindex_part *part, struct midge_trie_step start,
                           uint32_t token_count)
{
    uint64_t visits = atomic_load_explicit(&reader->visit_count, memory_order_relaxed);
    uint32_t step_count = 1;

    reader->steps[0] = start;
    while (step_count > 0) {
        MIDGE_DEBUG_ASSERT(step_count <= token_count + 1);
        step_count--;
        visits++;
        step_count =
            trie_step(reader, lookup, part, reader->steps[step_count], token_count, step_count);
    }
    /* Once for each walk: a step must not pay for being counted. */
    atomic_store_explicit(&reader->visit_count, visits, memory_order_relaxed);
}

void midge_trie_match(struct midge_subindex_reader *reader, const struct midge_lookup *lookup)
{
    const uintptr_t account_key = midge_account_key(lookup->account);
    struct midge_subindex_part *root_part = midge_part_of(reader->index, lookup->root_hash);
    struct midge_subindex_part *first_part = midge_part_of(reader->index, lookup->first_hash);
    struct midge_trie_node *root;
    struct midge_trie_node *first;
    uint32_t token_count;

    root =
        edge_find(root_part, account_key, midge_slice_make("", 0), reader->index->empty_token_hash);
    first = edge_find(first_part, account_key, lookup->first_token, lookup->first_token_hash);
    if ((root == NULL && first == NULL) || !tokens_split(reader, lookup->subject, &token_count))
        return;
    if (root != NULL)
        trie_walk_down(reader, lookup, root_part, (struct midge_trie_step){root, 0}, token_count);
    if (first != NULL)
        trie_walk_down(reader, lookup, first_part, (struct midge_trie_step){first, 1}, token_count);
}
