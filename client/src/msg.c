/*
 * Keeping a message beyond its call-back: one allocation that holds all of it.
 *
 * Thread: any; the count is atomic, the rest never changes.
 */
#include <stdlib.h>

#include "client_internal.h"

static uint8_t *put(uint8_t *at, struct midge_slice from, struct midge_slice *to_out)
{
    if (from.len > 0)
        memcpy(at, from.base, from.len);
    *to_out = midge_slice_make(at, from.len);
    return at + from.len;
}

struct midge_kept *midge_kept_create(const struct midge_msg *msg)
{
    const uint64_t len =
        (uint64_t)msg->subject.len + msg->reply.len + msg->headers.len + msg->payload.len;
    struct midge_kept *kept = malloc(sizeof(*kept) + len);
    uint8_t *at;

    if (kept == NULL)
        return NULL;
    kept->msg = *msg;
    kept->msg.keeper = kept;
    kept->next = NULL;
    atomic_init(&kept->references, 1);
    at = put(kept->bytes, msg->subject, &kept->msg.subject);
    at = put(at, msg->reply, &kept->msg.reply);
    at = put(at, msg->headers, &kept->msg.headers);
    (void)put(at, msg->payload, &kept->msg.payload);
    return kept;
}

void midge_kept_release(struct midge_kept *kept)
{
    /* Release: what this thread read is done; acquire: before the memory goes. */
    if (atomic_fetch_sub_explicit(&kept->references, 1, memory_order_acq_rel) == 1)
        free(kept);
}

const struct midge_msg *midge_msg_retain(const struct midge_msg *msg)
{
    struct midge_kept *kept = msg->keeper;

    if (kept == NULL) {
        kept = midge_kept_create(msg);
        return kept == NULL ? NULL : &kept->msg;
    }
    /* Relaxed: the caller has a reference already. */
    atomic_fetch_add_explicit(&kept->references, 1, memory_order_relaxed);
    return &kept->msg;
}

void midge_msg_release(const struct midge_msg *msg)
{
    if (msg != NULL && msg->keeper != NULL)
        midge_kept_release(msg->keeper);
}
