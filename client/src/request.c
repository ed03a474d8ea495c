/*
 * Requests: one wildcard subscription for the replies to all of them, `<prefix>.<id>.*`, and a
 * token for each that says whose the reply is.
 *
 * A token is eight characters of six bits: 18 bits of index, 30 of generation, so that a late reply
 * to a request that has ended finds nobody. The subscription is made with the first request, and
 * its SUB goes out before it.
 *
 * A blocking request takes its reply where it lies, and stops the turn.
 *
 * Source: ADR-4 and ADR-22 of NATS (503 without responders); nats-server v2.15.2, server/client.go
 * (the same).
 */
#include <stdlib.h>

#include "client_internal.h"
#include "headers_internal.h"
#include "midge/encode.h"
#include "midge/subject.h"
#include "publish_internal.h"

#define INDEX_BITS         18u
#define GENERATION_MASK    ((1u << 30) - 1)
#define TIMEOUT_MS_DEFAULT 5000u
#define NO_RESPONDERS      503u

/* A caller that waits: for the one reply, or, with a call-back for each, until the request is over.
 */
struct blocking {
    struct midge_waiter waiter;
    bool is_done;
    enum midge_status status;
    const struct midge_msg *msg;
    midge_msg_cb each_cb; /* of many */
    void *context;
    bool is_called; /* each_cb is under way, perhaps in another thread */
};

struct midge_request {
    struct midge_client *client;
    struct midge_client_timer timer; /* deadline or silence, whichever is first */
    struct midge_request *next_free;
    uint32_t index;
    uint32_t generation; /* 30 bits, from 1 */
    bool is_open;
    bool is_ending; /* meant by midge_request_end_all() */
    bool is_many;
    bool is_until_empty;
    uint32_t replies;
    uint32_t replies_max;
    uint64_t deadline_ns;
    uint64_t silence_ns;
    struct blocking *blocking; /* NULL = call back */
    midge_reply_cb reply_cb;
    void *context;
};

/* --- tokens --- */

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";

static void put_token(uint8_t *out, const struct midge_request *request)
{
    uint64_t bits = (uint64_t)request->generation << INDEX_BITS | request->index;

    for (uint32_t i = 0; i < MIDGE_CLIENT_TOKEN_LEN; i++) {
        out[i] = (uint8_t)digits[bits & 63];
        bits >>= 6;
    }
}

/* Value of a digit; 64 for what is none. */
static uint32_t digit_value(uint8_t byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - (uint32_t)'0';
    if (byte >= 'A' && byte <= 'Z')
        return byte - (uint32_t)'A' + 10;
    if (byte >= 'a' && byte <= 'z')
        return byte - (uint32_t)'a' + 36;
    return byte == '-' ? 62 : byte == '_' ? 63 : 64;
}

static struct midge_request *find_request(const struct midge_client *client, uint64_t bits)
{
    const uint32_t index = (uint32_t)(bits & ((1u << INDEX_BITS) - 1));
    struct midge_request *request = index < client->request_used ? client->requests[index] : NULL;

    if (request == NULL || !request->is_open || request->generation != bits >> INDEX_BITS)
        return NULL;
    return request;
}

/* The open request that a reply is for. */
static struct midge_request *find_by_subject(const struct midge_client *client,
                                             struct midge_slice subject)
{
    uint64_t bits = 0;

    if (subject.len != client->inbox_len + MIDGE_CLIENT_TOKEN_LEN)
        return NULL;
    for (uint32_t i = subject.len; i-- > client->inbox_len;) {
        const uint32_t value = digit_value(subject.base[i]);
        if (value > 63)
            return NULL;
        bits = bits << 6 | value;
    }
    return find_request(client, bits);
}

/* --- slots --- */

static enum midge_status make_slot(struct midge_client *client, struct midge_request **request_out)
{
    struct midge_request *request = client->free_requests;

    if (request != NULL) {
        client->free_requests = request->next_free;
        *request_out = request;
        return MIDGE_OK;
    }
    if (client->request_used == MIDGE_CLIENT_REQUESTS_MAX)
        return MIDGE_FULL;
    if (client->request_used == client->request_cap) {
        const uint32_t cap = client->request_cap == 0 ? 16 : 2 * client->request_cap;
        struct midge_request **requests =
            realloc(client->requests, cap * sizeof(struct midge_request *));
        if (requests == NULL)
            return MIDGE_E_MEMORY;
        client->requests = requests;
        client->request_cap = cap;
    }
    request = calloc(1, sizeof(*request));
    if (request == NULL)
        return MIDGE_E_MEMORY;
    request->client = client;
    request->index = client->request_used;
    client->requests[client->request_used++] = request;
    *request_out = request;
    return MIDGE_OK;
}

static void open_request(struct midge_request *request)
{
    request->generation = (request->generation + 1) & GENERATION_MASK;
    if (request->generation == 0)
        request->generation = 1; /* so that no id is 0 */
    request->is_open = true;
    request->is_ending = false; /* not meant by an end of all that is under way */
    request->is_many = false;   /* as the one before it may have been */
    request->replies = 0;
    request->client->open_requests++;
}

static void close_request(struct midge_request *request)
{
    struct midge_client *client = request->client;

    request->is_open = false;
    client->open_requests--;
    midge_drain_note(client);
    midge_loop_clear_timer(client->loop, &request->timer);
    request->next_free = client->free_requests;
    client->free_requests = request;
}

/* --- the end of a request --- */

static void call_back(struct midge_client *client, midge_reply_cb reply_cb, void *context,
                      enum midge_status status, const struct midge_msg *msg)
{
    midge_loop_begin_callback(client->loop);
    reply_cb(context, status, msg);
    midge_loop_end_callback(client->loop);
}

/* Over without another reply. */
static void end_request(struct midge_request *request, enum midge_status status)
{
    struct midge_client *client = request->client;
    struct blocking *blocking = request->blocking;
    midge_reply_cb reply_cb = request->reply_cb;
    void *context = request->context;

    close_request(request);
    if (blocking != NULL) {
        blocking->is_done = true;
        blocking->status = status;
        midge_loop_wake(&blocking->waiter);
        return;
    }
    call_back(client, reply_cb, context, status, NULL);
}

void midge_request_end_all(struct midge_client *client, enum midge_status status)
{
    /* A call-back may make new ones, which are not meant. */
    const uint32_t used = client->request_used;

    for (uint32_t i = 0; i < used; i++) {
        struct midge_request *request = client->requests[i];
        request->is_ending = request->is_open;
    }
    for (uint32_t i = 0; i < used; i++) {
        struct midge_request *request = client->requests[i];
        if (request->is_ending && request->is_open)
            end_request(request, status);
    }
}

void midge_request_free_all(struct midge_client *client)
{
    for (uint32_t i = 0; i < client->request_used; i++)
        free(client->requests[i]);
    free(client->requests);
}

static void set_request_timer(struct midge_request *request)
{
    uint64_t at_ns = request->deadline_ns;
    enum midge_status status;

    if (request->silence_ns > 0 && request->replies > 0 &&
        request->client->loop->now_ns + request->silence_ns < at_ns)
        at_ns = request->client->loop->now_ns + request->silence_ns;
    status = midge_loop_set_timer(request->client->loop, &request->timer, at_ns);
    MIDGE_ASSERT(status == MIDGE_OK); /* room was made before the request was opened */
}

static void fire_request(struct midge_client_timer *timer)
{
    struct midge_request *request =
        (struct midge_request *)((char *)timer - offsetof(struct midge_request, timer));

    end_request(request, request->is_many && request->replies > 0 ? MIDGE_OK : MIDGE_E_TIMEOUT);
}

/* --- replies --- */

/* @return false if the caller takes it where it lies */
static bool give_to_caller(struct midge_request *request, const struct midge_msg *msg)
{
    struct midge_loop *loop = request->client->loop;
    struct blocking *blocking = request->blocking;

    close_request(request);
    blocking->is_done = true;
    blocking->status = MIDGE_OK;
    loop->progress++;
    if (!loop->is_thread_safe) {
        loop->direct = *msg;
        blocking->msg = &loop->direct;
        return false;
    }
    struct midge_kept *kept = midge_kept_create(msg);
    blocking->msg = kept == NULL ? NULL : &kept->msg;
    if (kept == NULL)
        blocking->status = MIDGE_E_MEMORY;
    midge_loop_wake(&blocking->waiter);
    return true;
}

static void give_one_of_many(struct midge_request *request, const struct midge_msg *msg)
{
    struct midge_client *client = request->client;
    const uint32_t generation = request->generation;

    request->replies++;
    if (request->blocking != NULL) {
        struct blocking *blocking = request->blocking;
        blocking->is_called = true;
        midge_loop_begin_callback(client->loop);
        blocking->each_cb(blocking->context, msg);
        midge_loop_end_callback(client->loop);
        blocking->is_called = false;
        midge_loop_wake_done(client->loop);
    } else {
        call_back(client, request->reply_cb, request->context, MIDGE_OK, msg);
    }
    if (!request->is_open || request->generation != generation)
        return; /* cancelled in its call-back */
    if (request->replies >= request->replies_max)
        end_request(request, MIDGE_OK);
    else if (request->silence_ns > 0)
        set_request_timer(request);
}

bool midge_request_reply(struct midge_client *client, const struct midge_msg *msg)
{
    struct midge_request *request = find_by_subject(client, msg->subject);

    if (request == NULL) {
        client->stats.stray_msgs++;
        return true;
    }
    if (MIDGE_UNLIKELY(msg->headers.len > 0 && msg->payload.len == 0) &&
        midge_msg_status(msg, NULL) == NO_RESPONDERS) {
        const bool is_awaited = request->blocking != NULL && !client->loop->is_thread_safe;
        end_request(request, MIDGE_E_NO_RESPONDERS);
        return !is_awaited;
    }
    if (request->blocking != NULL && !request->is_many)
        return give_to_caller(request, msg);
    if (request->is_many && request->is_until_empty && msg->headers.len == 0 &&
        msg->payload.len == 0) {
        end_request(request, MIDGE_OK);
    } else if (request->is_many) {
        give_one_of_many(request, msg);
    } else {
        midge_reply_cb reply_cb = request->reply_cb;
        void *context = request->context;
        close_request(request);
        call_back(client, reply_cb, context, MIDGE_OK, msg);
    }
    return true;
}

/* --- sending --- */

enum midge_status midge_request_put_inbox(struct midge_client *client, struct midge_out *out)
{
    uint8_t pattern[MIDGE_CLIENT_SUBJECT_MAX + 64];
    const struct midge_slice none = {0};
    struct midge_slice subject;
    uint32_t len;
    uint8_t *at;

    memcpy(pattern, client->inbox, client->inbox_len);
    pattern[client->inbox_len] = '*';
    subject = midge_slice_make(pattern, client->inbox_len + 1);
    len = midge_encode_sub_len(subject, none, MIDGE_CLIENT_INBOX_SID);
    at = midge_out_reserve(out, len);
    if (at == NULL)
        return MIDGE_E_MEMORY;
    (void)midge_encode_sub(at, subject, none, MIDGE_CLIENT_INBOX_SID);
    out->len += len;
    return MIDGE_OK;
}

static enum midge_status subscribe_inbox(struct midge_client *client)
{
    if (client->link != NULL && client->link->state == MIDGE_LINK_READY &&
        midge_request_put_inbox(client, &client->pending) != MIDGE_OK)
        return MIDGE_E_MEMORY;
    client->is_inbox_subscribed = true;
    return MIDGE_OK;
}

static struct midge_frame_out frame_of(const struct midge_outgoing *outgoing)
{
    return (struct midge_frame_out){
        .is_request = true,
        .subject = midge_slice_text(outgoing->subject),
        .headers = outgoing->headers,
        .header_len = midge_headers_encoded_len(outgoing->headers),
        .payload = outgoing->payload,
        .payload_len = outgoing->payload_len,
    };
}

/* Queue the message of an open request. On failure the request is closed. */
static enum midge_status send_request(struct midge_client *client, struct midge_request *request,
                                      struct midge_frame_out *frame)
{
    uint8_t reply[MIDGE_CLIENT_SUBJECT_MAX + 64];
    enum midge_status status = MIDGE_OK;

    memcpy(reply, client->inbox, client->inbox_len);
    put_token(reply + client->inbox_len, request);
    frame->reply = midge_slice_make(reply, client->inbox_len + MIDGE_CLIENT_TOKEN_LEN);
    if (MIDGE_UNLIKELY(!client->is_inbox_subscribed))
        status = subscribe_inbox(client);
    if (status == MIDGE_OK)
        status = midge_publish_put(client, frame);
    frame->reply = midge_slice_make(NULL, 0);
    if (status != MIDGE_OK) {
        close_request(request);
        return status;
    }
    midge_publish_end(client);
    return MIDGE_OK;
}

/* --- blocking --- */

static bool is_over(void *context)
{
    const struct blocking *blocking = context;

    return blocking->is_done;
}

static enum midge_status request_now(struct midge_client *client, struct midge_frame_out *frame,
                                     uint32_t timeout_ms, const struct midge_msg **reply_out)
{
    struct midge_loop *loop = client->loop;
    struct blocking blocking = {.waiter = {.is_done = is_over, .context = &blocking}};
    struct midge_request *request;
    uint64_t deadline_ns;
    enum midge_status status;

    if (!midge_loop_may_wait(loop))
        return MIDGE_AGAIN;
    deadline_ns = midge_loop_deadline(loop, timeout_ms);
    status = midge_publish_measure(client, frame);
    if (status == MIDGE_OK)
        status = make_slot(client, &request);
    if (status != MIDGE_OK)
        return status;
    open_request(request);
    request->blocking = &blocking;
    status = send_request(client, request, frame);
    if (status != MIDGE_OK)
        return status;
    status = midge_loop_drive(loop, &blocking.waiter, deadline_ns);
    if (status != MIDGE_OK) {
        close_request(request);
        if (status == MIDGE_E_TIMEOUT &&
            (client->link == NULL || client->link->state != MIDGE_LINK_READY))
            status = MIDGE_E_DISCONNECTED;
        return status;
    }
    *reply_out = blocking.msg;
    return blocking.status;
}

static enum midge_status request_entered(struct midge_client *client, struct midge_frame_out *frame,
                                         uint32_t timeout_ms, const struct midge_msg **reply_out)
{
    enum midge_status status = midge_loop_enter(client->loop, true);

    if (MIDGE_UNLIKELY(status != MIDGE_OK))
        return status;
    status = request_now(client, frame, timeout_ms, reply_out);
    midge_loop_leave(client->loop);
    return status;
}

enum midge_status midge_client_request(struct midge_client *client, const char *subject,
                                       const void *payload, size_t payload_len, uint32_t timeout_ms,
                                       const struct midge_msg **reply_out)
{
    struct midge_frame_out frame = {
        .is_request = true,
        .subject = midge_slice_text(subject),
        .payload = payload,
        .payload_len = payload_len,
    };

    return request_entered(client, &frame, timeout_ms, reply_out);
}

enum midge_status midge_client_request_msg(struct midge_client *client,
                                           const struct midge_outgoing *outgoing,
                                           uint32_t timeout_ms, const struct midge_msg **reply_out)
{
    struct midge_frame_out frame = frame_of(outgoing);

    if (outgoing->reply != NULL)
        return MIDGE_E_SUBJECT;
    return request_entered(client, &frame, timeout_ms, reply_out);
}

/* --- asynchronous --- */

/* Open a request, with its timer, and send it. @param like  has who is told, and whether of many */
static enum midge_status begin_async(struct midge_client *client, struct midge_frame_out *frame,
                                     const struct midge_request_options *options,
                                     const struct midge_request *like, midge_request_id *id_out)
{
    struct midge_loop *loop = client->loop;
    struct midge_request *request;
    enum midge_status status = midge_publish_measure(client, frame);

    if (status == MIDGE_OK)
        status = midge_loop_reserve_timers(loop, 1);
    if (status == MIDGE_OK)
        status = make_slot(client, &request);
    if (status != MIDGE_OK)
        return status;
    open_request(request);
    request->blocking = like->blocking;
    request->reply_cb = like->reply_cb;
    request->context = like->context;
    request->is_many = like->is_many;
    request->replies_max = options->replies_max == 0 ? 1 : options->replies_max;
    request->is_until_empty = options->until_empty;
    request->silence_ns = options->silence_ms * NS_PER_MS;
    request->deadline_ns = midge_loop_deadline(
        loop, options->timeout_ms == 0 ? TIMEOUT_MS_DEFAULT : options->timeout_ms);
    request->timer.fire = fire_request;
    set_request_timer(request);
    *id_out = (uint64_t)request->generation << INDEX_BITS | request->index;
    return send_request(client, request, frame);
}

enum midge_status midge_client_request_async(struct midge_client *client,
                                             const struct midge_outgoing *outgoing,
                                             const struct midge_request_options *options,
                                             midge_request_id *id_out, void *context,
                                             midge_reply_cb reply_cb)
{
    static const struct midge_request_options defaults = {0};
    struct midge_frame_out frame = frame_of(outgoing);
    struct midge_request like = {.reply_cb = reply_cb, .context = context};
    midge_request_id id;
    enum midge_status status;

    if (outgoing->reply != NULL)
        return MIDGE_E_SUBJECT;
    if (options == NULL)
        options = &defaults;
    like.is_many = options->replies_max > 1;
    status = midge_loop_enter(client->loop, true);
    if (status != MIDGE_OK)
        return status;
    status = begin_async(client, &frame, options, &like, &id);
    if (status == MIDGE_OK && id_out != NULL)
        *id_out = id;
    midge_loop_leave(client->loop);
    return status;
}

void midge_client_request_cancel(struct midge_client *client, midge_request_id id)
{
    struct midge_request *request;

    if (midge_loop_enter(client->loop, false) != MIDGE_OK)
        return;
    request = find_request(client, id);
    if (request != NULL && request->blocking == NULL)
        close_request(request);
    midge_loop_leave(client->loop);
}

/* --- many, blocking --- */

static bool is_left_alone(void *context)
{
    const struct blocking *blocking = context;

    return !blocking->is_called;
}

static enum midge_status request_many(struct midge_client *client, struct midge_frame_out *frame,
                                      const struct midge_request_options *options,
                                      struct blocking *blocking)
{
    const struct midge_request like = {.blocking = blocking, .is_many = true};
    struct midge_waiter left_alone = {.is_done = is_left_alone, .context = blocking};
    struct midge_request *request;
    midge_request_id id;
    enum midge_status status;

    if (!midge_loop_may_wait(client->loop))
        return MIDGE_AGAIN;
    status = begin_async(client, frame, options, &like, &id);
    if (status != MIDGE_OK)
        return status;
    status = midge_loop_drive(client->loop, &blocking->waiter, UINT64_MAX);
    if (status == MIDGE_OK)
        return blocking->status;
    /* Interrupted. What the call-back works with is the caller's, who must not have it back while
     * another thread is in there. */
    while (blocking->is_called)
        (void)!midge_loop_drive(client->loop, &left_alone, UINT64_MAX);
    request = find_request(client, id);
    if (request != NULL)
        close_request(request);
    return status;
}

enum midge_status midge_client_request_many(struct midge_client *client,
                                            const struct midge_outgoing *outgoing,
                                            const struct midge_request_options *options,
                                            void *context, midge_msg_cb reply_cb)
{
    static const struct midge_request_options defaults = {.replies_max = UINT32_MAX};
    struct midge_frame_out frame = frame_of(outgoing);
    struct blocking blocking = {
        .waiter = {.is_done = is_over, .context = &blocking},
        .each_cb = reply_cb,
        .context = context,
    };
    enum midge_status status;

    if (outgoing->reply != NULL)
        return MIDGE_E_SUBJECT;
    status = midge_loop_enter(client->loop, true);
    if (status != MIDGE_OK)
        return status;
    status = request_many(client, &frame, options == NULL ? &defaults : options, &blocking);
    midge_loop_leave(client->loop);
    return status;
}

/* --- inboxes --- */

enum midge_status midge_client_new_inbox(struct midge_client *client, char *out, size_t cap)
{
    /* The shared inbox is the prefix, an id, and two dots. */
    const uint32_t prefix_len = client->inbox_len - MIDGE_NUID_LEN - 1;
    enum midge_status status = midge_loop_enter(client->loop, false);

    if (status != MIDGE_OK)
        return status;
    if (cap <= (size_t)prefix_len + MIDGE_NUID_LEN) {
        status = MIDGE_FULL;
    } else {
        memcpy(out, client->inbox, prefix_len);
        midge_nuid_next(&client->nuid, out + prefix_len);
    }
    midge_loop_leave(client->loop);
    return status;
}
