/*
 * Publishing: checks, room, one frame into the buffer.
 *
 * Everything is checked before a byte is written, so a message is queued whole or not at all.
 */
#include "client_internal.h"
#include "headers_internal.h"
#include "midge/encode.h"
#include "midge/subject.h"
#include "publish_internal.h"

enum midge_status midge_client_check_open(const struct midge_client *client)
{
    return client->state == MIDGE_CLIENT_CLOSED || client->state == MIDGE_CLIENT_DRAINING
               ? MIDGE_E_CLOSED
               : MIDGE_OK;
}

static bool is_connected(const struct midge_client *client)
{
    return client->link != NULL && client->link->state == MIDGE_LINK_READY;
}

/* A message is let in while less than the bound is queued, so that one as long as the bound fits.
 */
static enum midge_status look_for_room(const struct midge_client *client)
{
    /* While what is on its way is worked off, it may be answered; behind the last PING of a drain
     * nothing may go. */
    if (client->state == MIDGE_CLIENT_CLOSED ||
        (client->state == MIDGE_CLIENT_DRAINING && client->drain_ping != 0))
        return MIDGE_E_CLOSED;
    if (is_connected(client))
        return midge_output_left(client) < client->options.send_bytes_max ? MIDGE_OK : MIDGE_FULL;
    return midge_output_left(client) < client->options.offline_bytes_max ? MIDGE_OK
                                                                         : MIDGE_E_DISCONNECTED;
}

static bool has_room(void *context)
{
    return look_for_room(context) != MIDGE_FULL;
}

/* Wait until less is queued, if this call may. */
static enum midge_status wait_for_room(struct midge_client *client)
{
    struct midge_loop *loop = client->loop;
    struct midge_waiter waiter = {.is_done = has_room, .context = client};
    enum midge_status status;

    midge_output_flush(client, true);
    status = look_for_room(client);
    if (status != MIDGE_FULL || !midge_loop_may_wait(loop) || client->options.send_wait_ms == 0)
        return status;
    loop->output_waiters++;
    status =
        midge_loop_drive(loop, &waiter, midge_loop_deadline(loop, client->options.send_wait_ms));
    loop->output_waiters--;
    return status == MIDGE_OK ? look_for_room(client) : MIDGE_FULL;
}

enum midge_status midge_publish_measure(struct midge_client *client, struct midge_frame_out *frame)
{
    const uint64_t body_len = (uint64_t)frame->header_len + frame->payload_len;
    const uint32_t reply_len =
        frame->is_request ? client->inbox_len + MIDGE_CLIENT_TOKEN_LEN : frame->reply.len;
    enum midge_status status;

    if (MIDGE_UNLIKELY((uint64_t)frame->subject.len + reply_len > MIDGE_CLIENT_SUBJECT_MAX))
        return MIDGE_E_SUBJECT;
    if (MIDGE_UNLIKELY(!midge_subject_is_publishable(frame->subject)))
        return MIDGE_E_SUBJECT;
    if (frame->is_reply_checked && frame->reply.len > 0 &&
        !midge_subject_is_publishable(frame->reply))
        return MIDGE_E_SUBJECT;
    if (MIDGE_UNLIKELY(frame->payload_len > MIDGE_PAYLOAD_MAX || body_len > MIDGE_PAYLOAD_MAX))
        return MIDGE_E_PAYLOAD;
    if (client->was_connected) {
        if (MIDGE_UNLIKELY(body_len > client->facts.max_payload))
            return MIDGE_E_PAYLOAD;
        if (MIDGE_UNLIKELY(frame->header_len > 0 && !client->facts.headers))
            return MIDGE_E_HEADERS;
    }
    status = look_for_room(client);
    return MIDGE_LIKELY(status == MIDGE_OK) ? status : wait_for_room(client);
}

enum midge_status midge_publish_put(struct midge_client *client,
                                    const struct midge_frame_out *frame)
{
    const uint32_t body_len = frame->header_len + (uint32_t)frame->payload_len;
    const uint32_t line_len =
        midge_encode_pub_len(frame->subject, frame->reply, frame->header_len, body_len);
    uint8_t *const base = midge_out_reserve(&client->pending, (uint64_t)line_len + body_len + 2);
    uint8_t *at = base;

    if (MIDGE_UNLIKELY(base == NULL))
        return MIDGE_E_MEMORY;
    at = midge_encode_pub(at, frame->subject, frame->reply, frame->header_len, body_len);
    if (frame->header_len > 0)
        at = midge_headers_encode(at, frame->headers);
    if (frame->payload_len > 0)
        memcpy(at, frame->payload, frame->payload_len);
    at += frame->payload_len;
    at[0] = '\r';
    at[1] = '\n';
    client->pending.len += (uint64_t)(at + 2 - base);
    client->stats.out_msgs++;
    client->stats.out_bytes += body_len;
    midge_output_queued(client);
    return MIDGE_OK;
}

void midge_publish_end(struct midge_client *client)
{
    if (MIDGE_UNLIKELY(midge_out_left(&client->pending) >= MIDGE_CLIENT_SUBMIT_BYTES) ||
        client->loop->is_thread_safe)
        midge_output_flush(client, true);
}

static enum midge_status publish(struct midge_client *client, struct midge_frame_out *frame)
{
    enum midge_status status = midge_loop_enter(client->loop, false);

    if (MIDGE_UNLIKELY(status != MIDGE_OK))
        return status;
    status = midge_publish_measure(client, frame);
    if (MIDGE_LIKELY(status == MIDGE_OK))
        status = midge_publish_put(client, frame);
    if (MIDGE_LIKELY(status == MIDGE_OK))
        midge_publish_end(client);
    midge_loop_leave(client->loop);
    return status;
}

enum midge_status midge_client_publish(struct midge_client *client, const char *subject,
                                       const void *payload, size_t payload_len)
{
    struct midge_frame_out frame = {
        .subject = midge_slice_text(subject),
        .payload = payload,
        .payload_len = payload_len,
    };

    return publish(client, &frame);
}

enum midge_status midge_client_publish_msg(struct midge_client *client,
                                           const struct midge_outgoing *outgoing)
{
    struct midge_frame_out frame = {
        .subject = midge_slice_text(outgoing->subject),
        .reply = midge_slice_text(outgoing->reply == NULL ? "" : outgoing->reply),
        .is_reply_checked = true,
        .headers = outgoing->headers,
        .header_len = midge_headers_encoded_len(outgoing->headers),
        .payload = outgoing->payload,
        .payload_len = outgoing->payload_len,
    };

    if (outgoing->reply != NULL && outgoing->reply[0] == '\0')
        return MIDGE_E_SUBJECT;
    return publish(client, &frame);
}

enum midge_status midge_msg_respond_headers(const struct midge_msg *msg,
                                            const struct midge_headers *headers,
                                            const void *payload, size_t payload_len)
{
    struct midge_frame_out frame = {
        .subject = msg->reply,
        .headers = headers,
        .header_len = midge_headers_encoded_len(headers),
        .payload = payload,
        .payload_len = payload_len,
    };

    return publish(msg->client, &frame);
}

enum midge_status midge_msg_respond(const struct midge_msg *msg, const void *payload,
                                    size_t payload_len)
{
    return midge_msg_respond_headers(msg, NULL, payload, payload_len);
}

enum midge_status midge_client_submit(struct midge_client *client)
{
    enum midge_status status = midge_loop_enter(client->loop, true);

    if (status != MIDGE_OK)
        return status;
    if (client->state == MIDGE_CLIENT_CLOSED) {
        status = MIDGE_E_CLOSED;
    } else if (!is_connected(client)) {
        status = MIDGE_E_DISCONNECTED;
    } else {
        /* A socket that was full may have room by now, and this call is not one that drives. */
        client->link->is_blocked = false;
        midge_output_flush(client, true);
        status = midge_output_left(client) == 0 ? MIDGE_OK : MIDGE_AGAIN;
    }
    midge_loop_leave(client->loop);
    return status;
}

/* --- flush --- */

struct flush {
    struct midge_client *client;
    uint64_t ping;        /* number of ours */
    uint32_t link_number; /* of the connection that it went to */
};

static bool is_answered(void *context)
{
    const struct flush *flush = context;
    const struct midge_client *client = flush->client;

    return client->link_number != flush->link_number || client->ping_answered >= flush->ping ||
           client->state == MIDGE_CLIENT_CLOSED;
}

static bool is_settled(void *context)
{
    const struct flush *flush = context;

    return is_connected(flush->client) || flush->client->state == MIDGE_CLIENT_CLOSED ||
           flush->client->state == MIDGE_CLIENT_IDLE;
}

static enum midge_status flush_until(struct flush *flush, uint64_t deadline_ns)
{
    struct midge_client *client = flush->client;
    struct midge_loop *loop = client->loop;
    struct midge_waiter connected = {.is_done = is_settled, .context = flush};
    struct midge_waiter answered = {.is_done = is_answered, .context = flush};
    enum midge_status status;

    if (!is_settled(flush)) {
        status = midge_loop_drive(loop, &connected, deadline_ns);
        if (status != MIDGE_OK)
            return status == MIDGE_E_TIMEOUT ? MIDGE_E_DISCONNECTED : status;
    }
    if (client->state == MIDGE_CLIENT_CLOSED)
        return MIDGE_E_CLOSED;
    if (!is_connected(client))
        return MIDGE_E_DISCONNECTED;
    status = midge_output_ping(client);
    if (status != MIDGE_OK)
        return status;
    flush->ping = client->ping_sent;
    flush->link_number = client->link_number;
    if (loop->is_thread_safe)
        midge_output_flush(client, true);
    status = midge_loop_drive(loop, &answered, deadline_ns);
    if (status != MIDGE_OK)
        return status;
    if (client->state == MIDGE_CLIENT_CLOSED)
        return MIDGE_E_CLOSED;
    return client->link_number == flush->link_number ? MIDGE_OK : MIDGE_E_DISCONNECTED;
}

enum midge_status midge_client_flush(struct midge_client *client, uint32_t timeout_ms,
                                     uint64_t *rtt_ns_out)
{
    struct flush flush = {.client = client};
    enum midge_status status = midge_loop_enter(client->loop, true);

    if (status != MIDGE_OK)
        return status;
    if (client->state == MIDGE_CLIENT_CLOSED) {
        status = MIDGE_E_CLOSED;
    } else if (!midge_loop_may_wait(client->loop)) {
        status = is_connected(client) ? midge_output_ping(client) : MIDGE_OK;
        if (status == MIDGE_OK)
            status = MIDGE_AGAIN;
    } else {
        status = flush_until(&flush, midge_loop_deadline(client->loop, timeout_ms));
        if (status == MIDGE_OK && rtt_ns_out != NULL)
            *rtt_ns_out = client->last_rtt_ns;
    }
    midge_loop_leave(client->loop);
    return status;
}
