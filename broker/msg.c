/* Messages that outlive the turn that received them; see msg.h. */
#include "msg.h"

#include "midge/limits.h"

static struct midge_slice copy_slice(uint8_t **at, struct midge_slice slice)
{
    uint8_t *base = *at;

    if (slice.len > 0)
        memcpy(base, slice.base, slice.len);
    *at += slice.len;
    return midge_slice_make(base, slice.len);
}

struct midge_msg *midge_msg_create(struct midge_pool *pool, const struct midge_op *op)
{
    const uint64_t args_len =
        (uint64_t)op->subject.len + op->reply.len + op->header_text.len + op->size_text.len;
    const uint64_t len = sizeof(struct midge_msg) + args_len + op->total_len + 2;
    struct midge_msg *msg;
    uint32_t cap;
    uint8_t *at;

    MIDGE_ASSERT(op->kind == MIDGE_OP_PUB || op->kind == MIDGE_OP_HPUB);
    MIDGE_ASSERT(op->header_len <= op->total_len);

    if (len > (1u << MIDGE_POOL_CLASS_LOG2_MAX))
        return NULL;
    msg = midge_pool_alloc(pool, (uint32_t)len, &cap);
    if (msg == NULL)
        return NULL;
    atomic_init(&msg->refs, 1);
    msg->block_cap = cap;
    at = (uint8_t *)(msg + 1);
    msg->subject = copy_slice(&at, op->subject);
    msg->reply = copy_slice(&at, op->reply);
    msg->header_text = copy_slice(&at, op->header_text);
    msg->size_text = copy_slice(&at, op->size_text);
    msg->header_len = op->header_len;
    msg->total_len = op->total_len;
    msg->filled_len = 0;
    msg->body = at;
    at[op->total_len] = '\r';
    at[op->total_len + 1] = '\n';
    return msg;
}

void midge_msg_fill(struct midge_msg *msg, struct midge_slice bytes)
{
    MIDGE_ASSERT(bytes.len <= msg->total_len - msg->filled_len);

    if (bytes.len > 0)
        memcpy(msg->body + msg->filled_len, bytes.base, bytes.len);
    msg->filled_len += bytes.len;
}

void midge_msg_retain(struct midge_msg *msg)
{
    const uint32_t before = atomic_fetch_add_explicit(&msg->refs, 1, memory_order_relaxed);

    MIDGE_ASSERT(before > 0);
}

void midge_msg_release(struct midge_msg *msg, struct midge_pool *pool)
{
    /* Acquire-release: pairs with the other holders' releases, so that all their reads of the body
     * come before the block is used anew. */
    const uint32_t before = atomic_fetch_sub_explicit(&msg->refs, 1, memory_order_acq_rel);

    MIDGE_ASSERT(before > 0);
    if (before == 1)
        midge_pool_free(pool, msg, msg->block_cap);
}
