/*
 * Subscriptions: the table by sid, delivery, pull queues, and their end.
 *
 * A subscription with a call-back gets each message where it lies. One without keeps copies, up to
 * its bounds, unless midge_sub_next() waits for it: that takes the message where it lies, and stops
 * the turn.
 *
 * Whoever destroys a subscription in its own call-back, or while midge_sub_next() waits for it,
 * frees it when these have returned.
 */
#include <stdlib.h>

#include "client_internal.h"
#include "midge/encode.h"
#include "midge/subject.h"

#define SUB_CAP_MIN 16u

/* --- the table --- */

static uint32_t slot_of(const struct midge_client *client, uint64_t sid)
{
    /* Fibonacci hashing: sids are dense, and stay apart. */
    return (uint32_t)((sid * 0x9e3779b97f4a7c15u) >> 32) & (client->sub_cap - 1);
}

static struct midge_sub *find_sub(const struct midge_client *client, uint64_t sid)
{
    uint32_t slot;

    if (client->sub_cap == 0)
        return NULL;
    slot = slot_of(client, sid);
    while (client->subs[slot] != NULL && client->subs[slot]->sid != sid)
        slot = (slot + 1) & (client->sub_cap - 1);
    return client->subs[slot];
}

static void insert_sub(struct midge_client *client, struct midge_sub *sub)
{
    uint32_t slot = slot_of(client, sub->sid);

    while (client->subs[slot] != NULL)
        slot = (slot + 1) & (client->sub_cap - 1);
    client->subs[slot] = sub;
}

static enum midge_status make_room(struct midge_client *client)
{
    const uint32_t old_cap = client->sub_cap;
    struct midge_sub **old = client->subs;
    struct midge_sub **subs;

    if (client->sub_cap > 0 && client->sub_count < client->sub_cap / 2)
        return MIDGE_OK;
    client->sub_cap = old_cap == 0 ? SUB_CAP_MIN : 2 * old_cap;
    subs = calloc(client->sub_cap, sizeof(struct midge_sub *));
    if (subs == NULL) {
        client->sub_cap = old_cap;
        return MIDGE_E_MEMORY;
    }
    client->subs = subs;
    for (uint32_t i = 0; i < old_cap; i++) {
        if (old[i] != NULL)
            insert_sub(client, old[i]);
    }
    free(old);
    return MIDGE_OK;
}

/* Take it out, and move what stands behind it up, so that no gap breaks a search. */
static void remove_sub(struct midge_client *client, struct midge_sub *sub)
{
    const uint32_t mask = client->sub_cap - 1;
    uint32_t hole = slot_of(client, sub->sid);

    if (!sub->is_in_table)
        return;
    while (client->subs[hole] != sub)
        hole = (hole + 1) & mask;
    for (uint32_t at = (hole + 1) & mask; client->subs[at] != NULL; at = (at + 1) & mask) {
        const uint32_t home = slot_of(client, client->subs[at]->sid);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            client->subs[hole] = client->subs[at];
            hole = at;
        }
    }
    client->subs[hole] = NULL;
    client->sub_count--;
    sub->is_in_table = false;
}

/* --- freeing --- */

static void drop_waiting(struct midge_sub *sub)
{
    while (sub->first != NULL) {
        struct midge_kept *kept = sub->first;
        sub->first = kept->next;
        midge_kept_release(kept);
    }
    sub->last = NULL;
    sub->stats.waiting_msgs = 0;
    sub->stats.waiting_bytes = 0;
}

static void free_sub(struct midge_sub *sub)
{
    drop_waiting(sub);
    if (sub->freed_cb != NULL)
        sub->freed_cb(sub->context);
    free(sub->subject);
    free(sub);
}

/* No message will come any more. It leaves the table, but stays its user's. */
static void end_sub(struct midge_client *client, struct midge_sub *sub)
{
    sub->state = MIDGE_SUB_ENDED;
    remove_sub(client, sub);
    client->loop->progress++;
    midge_drain_note(client);
    midge_loop_wake_done(client->loop);
}

/* --- frames --- */

static enum midge_status put_sub(struct midge_out *out, const struct midge_sub *sub)
{
    const struct midge_slice subject = midge_slice_text(sub->subject);
    const struct midge_slice queue = midge_slice_text(sub->queue == NULL ? "" : sub->queue);
    const uint32_t len = midge_encode_sub_len(subject, queue, sub->sid);
    uint8_t *at = midge_out_reserve(out, len);

    if (at == NULL)
        return MIDGE_E_MEMORY;
    (void)midge_encode_sub(at, subject, queue, sub->sid);
    out->len += len;
    return MIDGE_OK;
}

static enum midge_status put_unsub(struct midge_out *out, const struct midge_sub *sub, uint64_t max)
{
    const uint32_t len = midge_encode_unsub_len(sub->sid, max);
    uint8_t *at = midge_out_reserve(out, len);

    if (at == NULL)
        return MIDGE_E_MEMORY;
    (void)midge_encode_unsub(at, sub->sid, max);
    out->len += len;
    return MIDGE_OK;
}

static bool is_ready(const struct midge_client *client)
{
    return client->link != NULL && client->link->state == MIDGE_LINK_READY;
}

enum midge_status midge_sub_restore(struct midge_client *client, struct midge_out *out)
{
    if (client->is_inbox_subscribed && midge_request_put_inbox(client, out) != MIDGE_OK)
        return MIDGE_E_MEMORY;
    for (uint32_t i = 0; i < client->sub_cap; i++) {
        struct midge_sub *sub = client->subs[i];
        if (sub == NULL || sub->state != MIDGE_SUB_OPEN)
            continue;
        sub->received_before = sub->received;
        if (put_sub(out, sub) != MIDGE_OK ||
            (sub->max > 0 && put_unsub(out, sub, sub->max - sub->received) != MIDGE_OK))
            return MIDGE_E_MEMORY;
    }
    return MIDGE_OK;
}

/* --- delivery --- */

/* A call-back that was told of it, or a call that waited for it, has returned. */
static void release_sub(struct midge_sub *sub)
{
    sub->users--;
    if (MIDGE_UNLIKELY(sub->is_destroyed) && sub->users == 0)
        free_sub(sub);
}

static void call_back(struct midge_sub *sub, const struct midge_msg *msg)
{
    struct midge_loop *loop = sub->client->loop;

    sub->stats.delivered_msgs++;
    sub->users++;
    midge_loop_begin_callback(loop);
    sub->message_cb(sub->context, msg);
    midge_loop_end_callback(loop);
    release_sub(sub);
}

static void drop(struct midge_sub *sub)
{
    struct midge_client *client = sub->client;

    sub->stats.dropped_msgs++;
    client->stats.dropped_msgs++;
    if (sub->is_slow)
        return;
    sub->is_slow = true;
    /* It may be destroyed meanwhile, in the call-back or by another thread. */
    sub->users++;
    midge_client_tell(client, MIDGE_EVENT_SLOW, MIDGE_FULL, sub->subject, sub);
    release_sub(sub);
}

/* What a waiting message counts; subject and reply, too, since the server may make them long. */
static uint64_t bytes_of(const struct midge_msg *msg)
{
    return (uint64_t)msg->subject.len + msg->reply.len + msg->headers.len + msg->payload.len;
}

static void keep(struct midge_sub *sub, const struct midge_msg *msg)
{
    const uint64_t bytes = bytes_of(msg);
    struct midge_kept *kept;

    if (sub->stats.waiting_msgs >= sub->msgs_max ||
        sub->stats.waiting_bytes + bytes > sub->bytes_max) {
        drop(sub);
        return;
    }
    kept = midge_kept_create(msg);
    if (kept == NULL) {
        drop(sub);
        return;
    }
    if (sub->last == NULL)
        sub->first = kept;
    else
        sub->last->next = kept;
    sub->last = kept;
    sub->stats.waiting_bytes += bytes;
    sub->stats.waiting_msgs++;
    if (sub->stats.waiting_msgs > sub->stats.waiting_msgs_peak)
        sub->stats.waiting_msgs_peak = sub->stats.waiting_msgs;
    sub->client->loop->progress++;
    midge_loop_wake_done(sub->client->loop);
}

bool midge_sub_deliver(struct midge_client *client, uint64_t sid, const struct midge_msg *msg)
{
    struct midge_sub *sub = find_sub(client, sid);
    struct midge_loop *loop = client->loop;
    struct midge_msg own;

    if (sub == NULL) {
        client->stats.stray_msgs++;
        return true;
    }
    own = *msg;
    own.sub = sub;
    sub->received++;
    /* The last one ends it first, so that the call-back may destroy it. */
    if (sub->max > 0 && sub->received >= sub->max)
        end_sub(client, sub);
    if (sub->message_cb != NULL) {
        call_back(sub, &own);
        return true;
    }
    if (!sub->is_awaited || sub->first != NULL) {
        keep(sub, &own);
        return true;
    }
    sub->is_awaited = false;
    sub->stats.delivered_msgs++;
    loop->direct = own;
    sub->direct = &loop->direct;
    loop->progress++;
    return false;
}

/* --- what users call --- */

static enum midge_status check_names(const char *subject, const struct midge_sub_options *options)
{
    const char *queue = options == NULL ? NULL : options->queue;
    const size_t subject_len = strnlen(subject, MIDGE_CLIENT_SUBJECT_MAX + 1);
    const size_t queue_len = queue == NULL ? 0 : strnlen(queue, MIDGE_CLIENT_SUBJECT_MAX + 1);

    if (subject_len + queue_len > MIDGE_CLIENT_SUBJECT_MAX ||
        !midge_subject_is_subscribable(midge_slice_text(subject)) ||
        (queue != NULL && !midge_subject_is_queue_name(midge_slice_text(queue))))
        return MIDGE_E_SUBJECT;
    return MIDGE_OK;
}

static struct midge_sub *make_sub(struct midge_client *client, const char *subject,
                                  const struct midge_sub_options *options)
{
    const char *queue = options == NULL || options->queue == NULL ? "" : options->queue;
    const size_t subject_len = strlen(subject);
    const size_t queue_len = strlen(queue);
    struct midge_sub *sub = calloc(1, sizeof(*sub));

    if (sub == NULL)
        return NULL;
    sub->subject = malloc(subject_len + queue_len + 2);
    if (sub->subject == NULL) {
        free(sub);
        return NULL;
    }
    memcpy(sub->subject, subject, subject_len + 1);
    memcpy(sub->subject + subject_len + 1, queue, queue_len + 1);
    sub->queue = queue_len == 0 ? NULL : sub->subject + subject_len + 1;
    sub->client = client;
    sub->msgs_max =
        options != NULL && options->msgs_max > 0 ? options->msgs_max : client->options.sub_msgs_max;
    sub->bytes_max = options != NULL && options->bytes_max > 0 ? options->bytes_max
                                                               : client->options.sub_bytes_max;
    return sub;
}

static enum midge_status subscribe(struct midge_client *client, struct midge_sub *sub)
{
    enum midge_status status = midge_client_check_open(client);

    if (status == MIDGE_OK)
        status = make_room(client);
    if (status != MIDGE_OK)
        return status;
    sub->sid = client->next_sid;
    /* Without a connection it is not queued: the next one restores it. */
    if (is_ready(client)) {
        status = put_sub(&client->pending, sub);
        if (status != MIDGE_OK)
            return status;
        midge_output_queued(client);
    }
    client->next_sid++;
    insert_sub(client, sub);
    client->sub_count++;
    sub->is_in_table = true;
    return MIDGE_OK;
}

enum midge_status midge_client_subscribe(struct midge_client *client, const char *subject,
                                         const struct midge_sub_options *options,
                                         struct midge_sub **sub_out, void *context,
                                         midge_msg_cb message_cb)
{
    enum midge_status status = midge_loop_enter(client->loop, false);
    struct midge_sub *sub;

    if (status != MIDGE_OK)
        return status;
    status = check_names(subject, options);
    if (status != MIDGE_OK)
        goto leave;
    sub = make_sub(client, subject, options);
    status = MIDGE_E_MEMORY;
    if (sub == NULL)
        goto leave;
    sub->message_cb = message_cb;
    sub->context = context;
    status = subscribe(client, sub);
    if (status != MIDGE_OK) {
        free_sub(sub);
        goto leave;
    }
    sub->next_owned = client->owned_subs;
    if (client->owned_subs != NULL)
        client->owned_subs->previous_owned = sub;
    client->owned_subs = sub;
    *sub_out = sub;
    /* Last, since it gives up the lock: others may subscribe meanwhile, or get its messages. */
    if (client->loop->is_thread_safe)
        midge_output_flush(client, true);
leave:
    midge_loop_leave(client->loop);
    return status;
}

static bool has_message(void *context)
{
    const struct midge_sub *sub = context;

    return sub->first != NULL || sub->direct != NULL || sub->state == MIDGE_SUB_ENDED ||
           sub->client->state == MIDGE_CLIENT_CLOSED;
}

/* Take what is there. @return MIDGE_AGAIN if nothing is, and something may come */
static enum midge_status take(struct midge_sub *sub, const struct midge_msg **msg_out)
{
    struct midge_loop *loop = sub->client->loop;
    struct midge_kept *kept = sub->first;

    if (sub->direct != NULL) {
        *msg_out = sub->direct;
        sub->direct = NULL;
        return MIDGE_OK;
    }
    if (kept == NULL) {
        if (sub->state == MIDGE_SUB_ENDED)
            return MIDGE_E_SUB_ENDED;
        return sub->client->state == MIDGE_CLIENT_CLOSED ? MIDGE_E_CLOSED : MIDGE_AGAIN;
    }
    sub->first = kept->next;
    if (sub->first == NULL) {
        sub->last = NULL;
        sub->is_slow = false;
    }
    sub->stats.waiting_msgs--;
    sub->stats.waiting_bytes -= bytes_of(&kept->msg);
    sub->stats.delivered_msgs++;
    *msg_out = &kept->msg;
    if (!loop->is_thread_safe) {
        if (loop->lent != NULL)
            midge_kept_release(loop->lent);
        loop->lent = kept;
    }
    return MIDGE_OK;
}

enum midge_status midge_sub_next(struct midge_sub *sub, uint32_t timeout_ms,
                                 const struct midge_msg **msg_out)
{
    struct midge_loop *loop = sub->client->loop;
    struct midge_waiter waiter = {.is_done = has_message, .context = sub};
    enum midge_status status = midge_loop_enter(loop, true);
    uint64_t deadline_ns;

    if (status != MIDGE_OK)
        return status;
    if (sub->message_cb != NULL) {
        status = MIDGE_E_CONFIG;
        goto leave;
    }
    status = take(sub, msg_out);
    if (status != MIDGE_AGAIN || !midge_loop_may_wait(loop))
        goto leave;
    deadline_ns = midge_loop_deadline(loop, timeout_ms);
    sub->is_awaited = !loop->is_thread_safe;
    sub->users++; /* a call-back, or another thread, may destroy it meanwhile */
    for (;;) {
        status = midge_loop_drive(loop, &waiter, deadline_ns);
        if (status != MIDGE_OK)
            break;
        status = sub->is_destroyed ? MIDGE_E_SUB_ENDED : take(sub, msg_out);
        if (status != MIDGE_AGAIN)
            break; /* else another thread was faster */
    }
    sub->is_awaited = false;
    release_sub(sub);
leave:
    midge_loop_leave(loop);
    return status;
}

enum midge_status midge_sub_unsubscribe(struct midge_sub *sub, uint64_t max)
{
    struct midge_client *client = sub->client;
    enum midge_status status;

    /* Servers take a longer number for none, and unsubscribe at once.
     * Source: nats-server v2.15.2, server/client.go:3568, server/util.go:83. */
    if (max > MIDGE_SUB_MAX)
        return MIDGE_E_CONFIG;
    status = midge_loop_enter(client->loop, false);
    if (status != MIDGE_OK)
        return status;
    if (sub->state != MIDGE_SUB_OPEN)
        status = MIDGE_E_SUB_ENDED;
    else if (is_ready(client))
        status =
            put_unsub(&client->pending, sub, max > sub->received ? max - sub->received_before : 0);
    if (status == MIDGE_OK) {
        if (is_ready(client))
            midge_output_queued(client);
        sub->max = max;
        if (max <= sub->received)
            end_sub(client, sub);
        if (client->loop->is_thread_safe)
            midge_output_flush(client, true);
    }
    midge_loop_leave(client->loop);
    return status;
}

/* --- draining --- */

/* Unsubscribe; the PING behind it comes back after the last message. */
static enum midge_status begin_drain(struct midge_client *client, struct midge_sub *sub)
{
    if (!is_ready(client)) {
        end_sub(client, sub);
        return MIDGE_OK;
    }
    if (put_unsub(&client->pending, sub, 0) != MIDGE_OK || midge_output_ping(client) != MIDGE_OK)
        return MIDGE_E_MEMORY;
    sub->state = MIDGE_SUB_DRAINING;
    sub->drain_ping = client->ping_sent;
    return MIDGE_OK;
}

enum midge_status midge_sub_drain(struct midge_sub *sub)
{
    struct midge_client *client = sub->client;
    enum midge_status status = midge_loop_enter(client->loop, false);

    if (status != MIDGE_OK)
        return status;
    status = sub->state == MIDGE_SUB_OPEN ? begin_drain(client, sub) : MIDGE_E_SUB_ENDED;
    if (status == MIDGE_OK && client->loop->is_thread_safe)
        midge_output_flush(client, true);
    midge_loop_leave(client->loop);
    return status;
}

/* Call `act` for each subscription in the table; `act` may take it out, and its call-backs others.
 */
static void for_each_sub(struct midge_client *client,
                         void (*act)(struct midge_client *client, struct midge_sub *sub))
{
    for (struct midge_sub *sub = client->owned_subs; sub != NULL;) {
        struct midge_sub *next = sub->next_owned;
        if (sub->is_in_table)
            act(client, sub);
        sub = next;
    }
}

static void end_answered(struct midge_client *client, struct midge_sub *sub)
{
    if (sub->state == MIDGE_SUB_DRAINING && client->ping_answered >= sub->drain_ping)
        end_sub(client, sub);
}

void midge_sub_pong(struct midge_client *client)
{
    for_each_sub(client, end_answered);
}

static void end_draining(struct midge_client *client, struct midge_sub *sub)
{
    if (sub->state == MIDGE_SUB_DRAINING)
        end_sub(client, sub);
}

void midge_sub_disconnected(struct midge_client *client)
{
    for_each_sub(client, end_draining);
}

void midge_sub_end_all(struct midge_client *client)
{
    for_each_sub(client, end_sub);
}

static void drain_one(struct midge_client *client, struct midge_sub *sub)
{
    if (sub->state == MIDGE_SUB_OPEN && begin_drain(client, sub) != MIDGE_OK)
        end_sub(client, sub);
}

void midge_sub_drain_all(struct midge_client *client)
{
    for_each_sub(client, drain_one);
}

bool midge_sub_is_draining(const struct midge_client *client)
{
    for (const struct midge_sub *sub = client->owned_subs; sub != NULL; sub = sub->next_owned) {
        if (sub->state == MIDGE_SUB_DRAINING)
            return true;
    }
    return false;
}

/* --- the end --- */

static void disown(struct midge_client *client, struct midge_sub *sub)
{
    if (sub->previous_owned == NULL)
        client->owned_subs = sub->next_owned;
    else
        sub->previous_owned->next_owned = sub->next_owned;
    if (sub->next_owned != NULL)
        sub->next_owned->previous_owned = sub->previous_owned;
}

void midge_sub_destroy(struct midge_sub *sub)
{
    struct midge_client *client = sub == NULL ? NULL : sub->client;

    if (sub == NULL || midge_loop_enter(client->loop, false) != MIDGE_OK)
        return;
    if (sub->state == MIDGE_SUB_OPEN && is_ready(client) &&
        put_unsub(&client->pending, sub, 0) == MIDGE_OK)
        midge_output_queued(client);
    if (sub->is_in_table)
        end_sub(client, sub);
    disown(client, sub);
    if (sub->users > 0)
        sub->is_destroyed = true;
    else
        free_sub(sub);
    if (client->loop->is_thread_safe)
        midge_output_flush(client, true);
    midge_loop_leave(client->loop);
}

void midge_sub_free_all(struct midge_client *client)
{
    while (client->owned_subs != NULL) {
        struct midge_sub *sub = client->owned_subs;
        MIDGE_ASSERT(sub->previous_owned == NULL);
        disown(client, sub);
        free_sub(sub);
    }
    free(client->subs);
}

bool midge_sub_has_ended(const struct midge_sub *sub)
{
    struct midge_loop *loop = sub->client->loop;
    bool has_ended;

    midge_loop_lock(loop);
    has_ended = sub->state == MIDGE_SUB_ENDED;
    midge_loop_unlock(loop);
    return has_ended;
}

void midge_sub_read_stats(const struct midge_sub *sub, struct midge_sub_stats *stats_out)
{
    struct midge_loop *loop = sub->client->loop;

    midge_loop_lock(loop);
    *stats_out = sub->stats;
    midge_loop_unlock(loop);
}

const char *midge_sub_subject(const struct midge_sub *sub)
{
    return sub->subject;
}
