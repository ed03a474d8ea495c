/*
 * One socket of a client: opening it, what arrives on it, its end.
 *
 * Messages are delivered where they lie in the receive buffer. One that is cut by the end of a
 * buffer is put together in a buffer of the link's own.
 *
 * Source: connect(2), socket(7) SO_ERROR, unix(7).
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "client_internal.h"

/* --- opening --- */

enum midge_status midge_link_open(struct midge_client *client)
{
    struct midge_loop *loop = client->loop;
    const struct sockaddr_storage *address = &client->addresses.list[client->address_index];
    const struct midge_server_parser_limits limits = {
        .line_len_max = MIDGE_CLIENT_LINE_MAX,
        .message_len_max = client->options.message_bytes_max > MIDGE_PAYLOAD_MAX
                               ? MIDGE_PAYLOAD_MAX
                               : (uint32_t)client->options.message_bytes_max,
    };
    struct midge_link *link = calloc(1, sizeof(*link));
    int error = ENOMEM;

    if (link == NULL || midge_loop_add_link(loop, link) != MIDGE_OK)
        goto err_free;
    link->client = client;
    midge_server_parser_init(&link->parser, &limits);
    link->fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    error = errno;
    if (link->fd < 0)
        goto err_remove;
    if (connect(link->fd, (const struct sockaddr *)address,
                client->addresses.lens[client->address_index]) != 0 &&
        errno != EINPROGRESS) {
        error = errno;
        goto err_close;
    }
    error = -midge_ring_adopt(loop->ring, link->fd, link->handle);
    if (error != 0)
        goto err_close;
    link->is_polling = true;
    midge_ring_poll_out(loop->ring, link->fd, link->handle);
    client->link = link;
    return MIDGE_OK;

err_close:
    (void)close(link->fd);
err_remove:
    midge_loop_remove_link(loop, link);
err_free:
    free(link);
    errno = error;
    return MIDGE_E_SYSTEM;
}

/* --- the end --- */

void midge_link_kill(struct midge_link *link)
{
    struct midge_loop *loop = link->client->loop;

    if (link->state == MIDGE_LINK_DEAD)
        return;
    if (link->client->link == link)
        link->client->link = NULL;
    link->state = MIDGE_LINK_DEAD;
    link->input.len = 0;
    midge_ring_shutdown(loop->ring, link->fd, SHUT_RDWR);
    midge_ring_cancel(loop->ring, link->fd, link->handle);
    link->next_dead = loop->dead;
    loop->dead = link;
}

void midge_link_free(struct midge_link *link)
{
    midge_loop_remove_link(link->client->loop, link);
    midge_tls_destroy(link->tls);
    midge_out_deinit(&link->cipher);
    free(link->line);
    free(link->body);
    free(link);
}

bool midge_link_reap(struct midge_link *link)
{
    struct midge_loop *loop = link->client->loop;

    /* One that is to be armed stands in a list of the loop, which passes over it. */
    if (link->is_receiving || link->is_polling || link->is_sending || link->is_parsing ||
        link->is_recv_wanted)
        return false;
    midge_ring_close(loop->ring, link->fd);
    midge_link_free(link);
    return true;
}

/* --- events --- */

void midge_link_want_recv(struct midge_link *link)
{
    struct midge_loop *loop = link->client->loop;

    if (link->is_receiving || link->is_recv_wanted)
        return;
    link->is_recv_wanted = true;
    link->next_armed = loop->armed;
    loop->armed = link;
}

static void lost_by(struct midge_link *link, int error)
{
    midge_session_lost(link, MIDGE_E_DISCONNECTED, strerror(error));
}

static void on_recv(struct midge_link *link, const struct midge_ring_event *event)
{
    link->is_receiving = event->more;
    if (link->state == MIDGE_LINK_DEAD)
        return;
    if (event->res > 0) {
        link->client->loop->parsing = link;
        link->is_parsing = true;
        if (link->tls == NULL)
            link->input = event->bytes;
        else if (midge_tls_feed(link->tls, event->bytes) != MIDGE_OK)
            midge_session_lost(link, MIDGE_E_MEMORY, "no memory for encrypted bytes");
    } else if (event->res == 0) {
        midge_session_lost(link, MIDGE_E_DISCONNECTED, "the server closed the connection");
        return;
    } else if (event->res != -ENOBUFS && event->res != -ECANCELED && event->res != -EINTR) {
        lost_by(link, -event->res);
        return;
    }
    if (!link->is_receiving)
        midge_link_want_recv(link);
}

static void on_poll_out(struct midge_link *link)
{
    link->is_polling = false;
    if (link->state == MIDGE_LINK_DEAD)
        return;
    if (link->state == MIDGE_LINK_CONNECTING) {
        int error = 0;
        socklen_t len = sizeof(error);
        if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
            error = errno;
        if (error != 0)
            lost_by(link, error);
        else
            midge_session_opened(link);
        return;
    }
    link->is_blocked = false;
    midge_output_queued(link->client);
}

static void on_send(struct midge_link *link, int res)
{
    if (res < 0 && res != -EAGAIN && res != -EINTR) {
        link->is_sending = false;
        if (link->state == MIDGE_LINK_DEAD)
            midge_output_reset(link->client); /* the buffer was left alone until now */
        else
            lost_by(link, -res);
        return;
    }
    midge_output_sent(link, res < 0 ? 0 : (uint64_t)res);
}

void midge_link_event(struct midge_loop *loop, const struct midge_ring_event *event)
{
    struct midge_link *link = NULL;

    if (event->handle.index < loop->link_cap)
        link = loop->links[event->handle.index];
    if (link == NULL || link->handle.generation != event->handle.generation)
        return;
    switch (event->kind) {
    case MIDGE_RING_RECV:
        on_recv(link, event);
        break;
    case MIDGE_RING_POLL_OUT:
        on_poll_out(link);
        break;
    case MIDGE_RING_SEND:
        on_send(link, event->res);
        break;
    case MIDGE_RING_NONE:
    case MIDGE_RING_ACCEPT:
        break;
    }
}

/* --- input --- */

/* Hand a whole message on. @return false if a caller stopped the turn to look at it */
static bool deliver(struct midge_link *link, const struct midge_server_op *op,
                    struct midge_slice body)
{
    struct midge_client *client = link->client;
    const struct midge_msg msg = {
        .subject = op->subject,
        .reply = op->reply,
        .headers = midge_slice_make(body.base, op->header_len),
        .payload = midge_slice_make(body.base + op->header_len, body.len - op->header_len),
        .client = client,
    };

    client->stats.in_msgs++;
    client->stats.in_bytes += body.len;
    if (op->sid == MIDGE_CLIENT_INBOX_SID)
        return midge_request_reply(client, &msg);
    return midge_sub_deliver(client, op->sid, &msg);
}

static void append_body(struct midge_link *link, struct midge_slice bytes)
{
    MIDGE_ASSERT(bytes.len <= link->body_cap - link->body_len);
    if (bytes.len > 0)
        memcpy(link->body + link->body_len, bytes.base, bytes.len);
    link->body_len += bytes.len;
}

/* A message that goes on in the next buffer. */
static bool begin_body(struct midge_link *link, const struct midge_server_op *op)
{
    const uint64_t needed = (uint64_t)op->subject.len + op->reply.len + op->total_len;

    if (link->body_cap < needed || link->body_cap > MIDGE_CLIENT_KEEP_BYTES) {
        uint8_t *body = malloc(needed);
        if (body == NULL) {
            midge_session_lost(link, MIDGE_E_MEMORY, "no memory for a message");
            return false;
        }
        free(link->body);
        link->body = body;
        link->body_cap = needed;
    }
    link->body_len = 0;
    append_body(link, op->subject);
    append_body(link, op->reply);
    append_body(link, op->body);
    link->cut = *op;
    link->cut.subject = midge_slice_make(link->body, op->subject.len);
    link->cut.reply = midge_slice_make(link->body + op->subject.len, op->reply.len);
    return true;
}

static bool end_body(struct midge_link *link)
{
    const struct midge_server_op *cut = &link->cut;

    return deliver(
        link, cut,
        midge_slice_make(link->body + cut->subject.len + cut->reply.len, cut->total_len));
}

/* @return false if a caller stopped the turn */
static bool handle(struct midge_link *link, const struct midge_server_op *op)
{
    switch (op->kind) {
    case MIDGE_SERVER_OP_MSG:
        if (MIDGE_LIKELY(op->whole))
            return deliver(link, op, op->body);
        (void)begin_body(link, op);
        break;
    case MIDGE_SERVER_OP_PIECE:
        append_body(link, op->body);
        if (op->last)
            return end_body(link);
        break;
    case MIDGE_SERVER_OP_PING:
        midge_output_pong(link->client);
        break;
    case MIDGE_SERVER_OP_PONG:
        midge_session_pong(link);
        break;
    case MIDGE_SERVER_OP_INFO:
        midge_session_info(link, op->text);
        break;
    case MIDGE_SERVER_OP_ERR:
        midge_session_error(link, op->text);
        break;
    case MIDGE_SERVER_OP_NONE:
    case MIDGE_SERVER_OP_OK:
        break;
    }
    return true;
}

static bool grow_line(struct midge_link *link)
{
    uint32_t cap = midge_server_parser_line_needed(&link->parser);
    uint8_t *line;

    cap = cap < 1024 ? 1024 : cap + cap / 2;
    if (cap > MIDGE_CLIENT_LINE_MAX)
        cap = MIDGE_CLIENT_LINE_MAX;
    line = realloc(link->line, cap);
    if (line == NULL) {
        midge_session_lost(link, MIDGE_E_MEMORY, "no memory for a control line");
        return false;
    }
    link->line = line;
    link->line_cap = cap;
    midge_server_parser_lend_line(&link->parser, line, cap);
    return true;
}

/* Take the next plaintext, or go on with the handshake. @return false if there is nothing more */
static bool decrypt(struct midge_link *link)
{
    const enum midge_status status = midge_tls_read(link->tls, &link->input);

    if (midge_tls_output(link->tls).len > 0)
        midge_output_queued(link->client);
    if (status == MIDGE_E_EOF) {
        midge_session_lost(link, MIDGE_E_DISCONNECTED, "the server closed the connection");
        return false;
    }
    if (status < 0) {
        midge_session_lost(link, MIDGE_E_TLS, midge_tls_error(link->tls));
        return false;
    }
    if (link->state == MIDGE_LINK_TLS_FIRST || link->state == MIDGE_LINK_TLS) {
        if (!midge_tls_is_established(link->tls))
            return false;
        midge_session_secured(link);
    }
    return status == MIDGE_OK;
}

/* What is wrong with a stream. */
static const char *words_for(enum midge_status status)
{
    if (status == MIDGE_E_PAYLOAD)
        return "the server sent a message longer than message_bytes_max";
    if (status == MIDGE_E_CONTROL_LINE)
        return "the server sent a control line without end";
    return "the server sent what is no NATS protocol";
}

bool midge_link_parse(struct midge_link *link)
{
    struct midge_loop *loop = link->client->loop;

    while (link->state != MIDGE_LINK_DEAD) {
        struct midge_server_op op;
        enum midge_status status = MIDGE_AGAIN;

        if (link->input.len > 0)
            status = midge_server_parser_next(&link->parser, &link->input, &op);

        if (MIDGE_LIKELY(status == MIDGE_OK)) {
            /* Before the handshake has ended only a few words make sense, and a message none. */
            if (MIDGE_UNLIKELY(link->state != MIDGE_LINK_READY) &&
                (op.kind == MIDGE_SERVER_OP_MSG || op.kind == MIDGE_SERVER_OP_PIECE))
                midge_session_lost(link, MIDGE_E_PARSE, "the server sent a message too early");
            else if (!handle(link, &op))
                return false;
            /* Nothing may follow in plain text what asks for encryption. */
            if (link->state == MIDGE_LINK_TLS && link->input.len > 0 &&
                op.kind == MIDGE_SERVER_OP_INFO)
                midge_session_lost(link, MIDGE_E_TLS, "plain text follows the server's INFO");
        } else if (status == MIDGE_FULL) {
            (void)grow_line(link);
        } else if (status == MIDGE_AGAIN) {
            if (link->tls == NULL || !decrypt(link))
                break;
        } else {
            midge_session_lost(link, status, words_for(status));
        }
    }
    link->is_parsing = false;
    loop->parsing = NULL;
    return true;
}
