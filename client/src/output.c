/*
 * Bytes on their way to the server.
 *
 * Two buffers of whole frames: `pending`, where users queue, and `sending`, which is lent to the
 * kernel until the turn ends. When `sending` is empty the two change places. Before a connection is
 * ready only `sending` goes out: it holds the handshake then. The subscriptions follow at the head
 * of `pending`.
 *
 * A thread-safe client sends from the thread that queued, without the lock; whoever queues
 * meanwhile leaves its bytes to that thread, which looks again: so the sends of many threads become
 * one.
 *
 * When a connection is lost, a message of which no byte was handed over is kept; one that was cut
 * is lost; one that the kernel took whole may have arrived or not, and is never sent again.
 */
#include <stdlib.h>
#include <string.h>

#include "client_internal.h"

#define OUT_CAP_MIN 4096u

/* Bytes encrypted at once: some records' worth, so that the ciphertext stays small. */
#define TLS_WRITE_MAX (256u * 1024)

/* --- buffers --- */

uint64_t midge_out_left(const struct midge_out *out)
{
    return out->len - out->off;
}

/* As realloc(), but nothing of a secret stays in the memory that is given back. */
static uint8_t *resize(const struct midge_out *out, uint64_t cap)
{
    uint8_t *base;

    if (!out->is_secret)
        return realloc(out->base, cap);
    base = malloc(cap);
    if (base == NULL)
        return NULL;
    if (out->base != NULL) {
        memcpy(base, out->base, out->len);
        explicit_bzero(out->base, out->cap);
    }
    free(out->base);
    return base;
}

uint8_t *midge_out_reserve(struct midge_out *out, uint64_t len)
{
    uint64_t cap = out->cap < OUT_CAP_MIN ? OUT_CAP_MIN : out->cap;
    uint8_t *base;

    if (MIDGE_LIKELY(out->cap - out->len >= len))
        return out->base + out->len;
    if (out->off > 0) {
        memmove(out->base, out->base + out->off, out->len - out->off);
        out->len -= out->off;
        out->off = 0;
        if (out->cap - out->len >= len)
            return out->base + out->len;
    }
    while (cap - out->len < len)
        cap *= 2;
    base = resize(out, cap);
    if (base == NULL)
        return NULL;
    out->base = base;
    out->cap = cap;
    return base + out->len;
}

static void wipe(struct midge_out *out)
{
    if (out->is_secret && out->base != NULL)
        explicit_bzero(out->base, out->cap);
    out->is_secret = false;
}

void midge_out_deinit(struct midge_out *out)
{
    wipe(out);
    free(out->base);
    *out = (struct midge_out){0};
}

/* Nothing is left in it. */
static void out_clear(struct midge_out *out)
{
    wipe(out);
    out->off = out->len = 0;
    if (out->cap > MIDGE_CLIENT_KEEP_BYTES)
        midge_out_deinit(out);
}

static bool out_append(struct midge_out *out, const void *bytes, uint32_t len)
{
    uint8_t *at = midge_out_reserve(out, len);

    if (at == NULL)
        return false;
    memcpy(at, bytes, len);
    out->len += len;
    return true;
}

bool midge_output_put_first(struct midge_client *client, struct midge_out *frames)
{
    struct midge_out *pending = &client->pending;
    const uint64_t len = midge_out_left(pending);

    if (frames->len == 0)
        return true;
    if (len > 0) {
        uint8_t *at = midge_out_reserve(frames, len);
        if (at == NULL)
            return false;
        memcpy(at, pending->base + pending->off, len);
        frames->len += len;
    }
    midge_out_deinit(pending);
    *pending = *frames;
    *frames = (struct midge_out){0};
    return true;
}

/* --- handing over --- */

void midge_output_queued(struct midge_client *client)
{
    struct midge_loop *loop = client->loop;

    if (client->is_dirty)
        return;
    client->is_dirty = true;
    client->next_dirty = loop->dirty;
    loop->dirty = client;
    if (loop->is_foreign)
        midge_loop_nudge(loop);
}

uint64_t midge_output_left(const struct midge_client *client)
{
    const struct midge_link *link = client->link;
    uint64_t left = midge_out_left(&client->pending) + midge_out_left(&client->sending);

    if (link != NULL && link->tls != NULL && link->state == MIDGE_LINK_READY)
        left += midge_out_left(&link->cipher) + midge_tls_output(link->tls).len;
    return left;
}

/* Move what goes out next into `sending`. @return false if there is nothing */
static bool choose(struct midge_client *client)
{
    if (midge_out_left(&client->sending) == 0) {
        const struct midge_out empty = client->sending;

        if (client->link->state != MIDGE_LINK_READY || midge_out_left(&client->pending) == 0)
            return false;
        client->sending = client->pending;
        client->pending = empty;
    }
    return true;
}

/* Take what the session wants to send out of it: its own buffer may grow while ours is lent. */
static void take_cipher(struct midge_link *link)
{
    const struct midge_slice cipher = midge_tls_output(link->tls);

    /* Without memory it stays where it is, and the next turn tries again. */
    if (cipher.len > 0 && out_append(&link->cipher, cipher.base, cipher.len))
        midge_tls_consume(link->tls, cipher.len);
}

/* What the session has encrypted counts as handed over: nobody can tell what of it arrives. */
static void encrypt(struct midge_link *link)
{
    struct midge_client *client = link->client;
    uint64_t len;

    if (!midge_tls_is_established(link->tls) || !choose(client))
        return;
    len = midge_out_left(&client->sending);
    if (len > TLS_WRITE_MAX)
        len = TLS_WRITE_MAX;
    if (midge_tls_write(link->tls, midge_slice_make(client->sending.base + client->sending.off,
                                                    (uint32_t)len)) != MIDGE_OK)
        return;
    client->sending.off += len;
    if (midge_out_left(&client->sending) == 0)
        out_clear(&client->sending);
}

/* Where the bytes for the socket are. */
static struct midge_out *out_of(struct midge_link *link)
{
    return link->tls != NULL ? &link->cipher : &link->client->sending;
}

/* Bytes for the socket; len 0 if there are none. */
static struct iovec next_bytes(struct midge_link *link)
{
    struct midge_out *out = out_of(link);

    if (link->tls == NULL) {
        (void)choose(link->client);
    } else if (midge_out_left(out) == 0) {
        take_cipher(link);
        if (midge_out_left(out) == 0) {
            encrypt(link);
            take_cipher(link);
        }
    }
    return (struct iovec){out->base + out->off, midge_out_left(out)};
}

/* The socket has taken bytes. */
static void take_off(struct midge_link *link, uint64_t len)
{
    struct midge_out *out = out_of(link);

    out->off += len;
    MIDGE_ASSERT(out->off <= out->len);
    if (midge_out_left(out) == 0)
        out_clear(out);
    if (link->client->loop->output_waiters > 0)
        midge_loop_wake_done(link->client->loop);
}

/* The socket is full: go on when it says so. */
static void wait_for_room(struct midge_link *link)
{
    link->is_blocked = true;
    if (link->is_polling)
        return;
    link->is_polling = true;
    midge_ring_poll_out(link->client->loop->ring, link->fd, link->handle);
}

/* Send at once, for as long as there is something and the socket takes it. A thread-safe client
 * gives up the lock around each send. */
static void send_now(struct midge_client *client)
{
    struct midge_loop *loop = client->loop;
    struct midge_link *link = client->link;

    while (link->state != MIDGE_LINK_DEAD) {
        const struct iovec piece = next_bytes(link);
        int64_t res;

        if (piece.iov_len == 0)
            return;
        link->is_sending = true;
        midge_loop_unlock(loop);
        res = midge_ring_try_send(loop->ring, link->fd, &piece, 1);
        midge_loop_lock(loop);
        link->is_sending = false;
        if (res > 0)
            take_off(link, (uint64_t)res);
        if (link->state == MIDGE_LINK_DEAD) {
            /* Lost meanwhile by another thread, which left the buffer to us. */
            midge_output_reset(client);
            return;
        }
        if (res < (int64_t)piece.iov_len) {
            /* Full, or broken: the reader's turn finds out which. */
            link->is_blocked = true;
            midge_output_queued(client);
            midge_loop_nudge(loop);
            return;
        }
    }
}

/* What is on its way now is not all. */
static bool has_more(const struct midge_link *link)
{
    const struct midge_client *client = link->client;

    if (link->state == MIDGE_LINK_READY && midge_out_left(&client->pending) > 0)
        return true;
    return link->tls != NULL && midge_tls_is_established(link->tls) &&
           (midge_out_left(&client->sending) > 0 || midge_tls_output(link->tls).len > 0);
}

/* Send with the ring's next wait. */
static void send_later(struct midge_link *link)
{
    struct midge_loop *loop = link->client->loop;
    const struct iovec piece = next_bytes(link);

    if (piece.iov_len == 0)
        return;
    link->is_sending = true;
    link->submitted_len = piece.iov_len;
    link->next_sending = loop->sending;
    loop->sending = link;
    loop->has_more |= has_more(link);
    midge_ring_send(loop->ring, link->fd, link->handle, &piece, 1);
}

void midge_output_flush(struct midge_client *client, bool is_now)
{
    struct midge_loop *loop = client->loop;
    struct midge_link *link = client->link;

    if (link == NULL || link->state == MIDGE_LINK_CONNECTING || link->is_sending)
        return;
    /* Where nobody drives, nobody hears that there is room again: then the socket is asked. */
    if (is_now && loop->is_thread_safe && !loop->has_reader)
        link->is_blocked = false;
    if (link->is_blocked) {
        /* Only the thread that drives may ask the ring; at once, it is the one that queues. */
        if (!is_now)
            wait_for_room(link);
        return;
    }
    if (is_now) {
        send_now(client);
        return;
    }
    if (loop->is_thread_safe) {
        send_now(client);
        if (client->link == link && link->is_blocked)
            wait_for_room(link);
        return;
    }
    send_later(link);
}

void midge_output_sent(struct midge_link *link, uint64_t len)
{
    struct midge_client *client = link->client;
    const bool is_all = len == UINT64_MAX || len == link->submitted_len;

    link->is_sending = false;
    take_off(link, is_all ? link->submitted_len : len);
    if (link->state == MIDGE_LINK_DEAD) {
        /* The buffer was left alone until now. */
        midge_output_reset(client);
        return;
    }
    if (!is_all)
        wait_for_room(link);
    else if (link->tls != NULL || midge_out_left(&client->pending) > 0 ||
             midge_out_left(&client->sending) > 0)
        midge_output_queued(client);
}

/* --- pings --- */

void midge_output_pong(struct midge_client *client)
{
    static const char pong[] = "PONG\r\n";

    /* A server may send PINGs without end and never read: then its PONGs wait in vain, and at most
     * this much of them. */
    if (midge_out_left(&client->pending) >= client->options.send_bytes_max ||
        (client->link->state != MIDGE_LINK_READY && client->link->state != MIDGE_LINK_PONG))
        return;
    /* One that comes before the server's first PONG is answered behind the handshake. */
    if (out_append(&client->pending, pong, sizeof(pong) - 1))
        midge_output_queued(client);
}

static bool grow_pings(struct midge_client *client)
{
    const uint32_t cap = client->ping_cap == 0 ? 4 : 2 * client->ping_cap;
    struct midge_ping *pings = malloc(cap * sizeof(*pings));

    if (pings == NULL)
        return false;
    for (uint32_t i = 0; i < client->ping_count; i++)
        pings[i] = client->pings[(client->ping_head + i) % client->ping_cap];
    free(client->pings);
    client->pings = pings;
    client->ping_cap = cap;
    client->ping_head = 0;
    return true;
}

enum midge_status midge_output_ping(struct midge_client *client)
{
    static const char ping[] = "PING\r\n";

    if (client->ping_count == client->ping_cap && !grow_pings(client))
        return MIDGE_E_MEMORY;
    if (!out_append(&client->pending, ping, sizeof(ping) - 1))
        return MIDGE_E_MEMORY;
    client->pings[(client->ping_head + client->ping_count) % client->ping_cap] =
        (struct midge_ping){
            .out_msgs = client->stats.out_msgs,
            .sent_at_ns = midge_ring_now_ns(client->loop->ring),
        };
    client->ping_count++;
    client->ping_sent++;
    midge_output_queued(client);
    return MIDGE_OK;
}

/* --- a lost connection --- */

/* Length of the frame at the start of our own bytes; is_message for PUB and HPUB. */
static uint64_t frame_len(const uint8_t *base, uint64_t len, bool *is_message)
{
    const uint8_t *end = memchr(base, '\n', len);
    uint64_t line_len;
    uint64_t body_len = 0;
    uint64_t digit = 1;

    MIDGE_ASSERT(end != NULL);
    line_len = (uint64_t)(end - base) + 1;
    *is_message = base[0] == 'H' || (base[0] == 'P' && base[1] == 'U');
    if (!*is_message)
        return line_len;
    for (const uint8_t *at = end - 2; *at >= '0' && *at <= '9'; at--) {
        body_len += digit * (uint64_t)(*at - '0');
        digit *= 10;
    }
    return line_len + body_len + 2;
}

/* Drop all frames of a buffer but the messages of which nothing was handed over. @return how many
 * those are; *cut_out is raised by those that were cut */
static uint64_t keep_messages(struct midge_out *out, uint64_t *cut_out)
{
    uint64_t kept_msgs = 0;
    uint64_t kept_len = 0;
    uint64_t len;

    for (uint64_t at = 0; at < out->len; at += len) {
        bool is_message;

        len = frame_len(out->base + at, out->len - at, &is_message);
        if (is_message && at >= out->off) {
            memmove(out->base + kept_len, out->base + at, len);
            kept_len += len;
            kept_msgs++;
        } else if (is_message && at + len > out->off) {
            (*cut_out)++;
        }
    }
    out->off = 0;
    out->len = kept_len;
    return kept_msgs;
}

void midge_output_reset(struct midge_client *client)
{
    struct midge_client_stats *stats = &client->stats;
    struct midge_out *first = &client->sending;
    struct midge_out *second = &client->pending;
    struct midge_out swapped;
    uint64_t cut = 0;
    uint64_t kept;
    uint64_t gone;

    if (first->is_secret)
        out_clear(first);
    kept = keep_messages(first, &cut);
    if (second->len > 0) {
        const uint64_t more = keep_messages(second, &cut);
        uint8_t *at = midge_out_reserve(first, second->len);

        if (at != NULL) {
            memcpy(at, second->base, second->len);
            first->len += second->len;
            kept += more;
        } else {
            cut += more;
        }
        out_clear(second);
    }
    swapped = *first;
    *first = *second;
    *second = swapped;

    gone = stats->out_msgs - kept;
    stats->lost_msgs += cut;
    /* A server may have answered a PING that it had not got yet. */
    if (gone > client->confirmed_msgs + cut)
        stats->unconfirmed_msgs += gone - client->confirmed_msgs - cut;
    client->confirmed_msgs = gone;
    client->ping_head = client->ping_count = 0;
    client->ping_sent = client->ping_answered = 0;
    client->is_reset_due = false;
    if (client->state == MIDGE_CLIENT_CLOSED)
        midge_output_discard(client);
}

void midge_output_lost(struct midge_client *client, const struct midge_link *link)
{
    client->is_reset_due = true;
    if (!link->is_sending)
        midge_output_reset(client);
}

void midge_output_discard(struct midge_client *client)
{
    uint64_t cut = 0;

    /* A reset came before: nothing of these was handed over. */
    client->stats.lost_msgs += keep_messages(&client->sending, &cut);
    client->stats.lost_msgs += keep_messages(&client->pending, &cut) + cut;
    client->confirmed_msgs = client->stats.out_msgs;
    out_clear(&client->sending);
    out_clear(&client->pending);
}
