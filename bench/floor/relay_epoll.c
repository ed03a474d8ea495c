/*
 * The relay over epoll: the plain way, three system calls a hop; see floor.h.
 *
 * While peers read as fast as others write, bytes go from one recv straight into a send. What a
 * peer does not take waits in its outbox; when that is full, those who write to the peer are not
 * read any more until it is empty. Only then epoll_ctl is called, so the relay of one request in
 * flight never pays for it. Edge-triggered EPOLLOUT needs no such calls, but wakes the relay of a
 * Unix socket on every read of the peer.
 */
#include "relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Bytes of one read. */
#define READ_LEN_DEFAULT (64u * 1024u)

/* What may wait for a peer: so many reads that the calls of epoll_ctl are few beside them. */
#define OUTBOX_READS 8u

struct side {
    uint8_t *outbox; /* own; outbox_cap bytes */
    uint32_t begin_off;
    uint32_t end_off;
    uint32_t events; /* that epoll watches; 0 = the descriptor is not in its set */
    bool is_full;    /* from when the outbox had no room for a read until it is empty */
};

struct relay {
    struct midge_floor *floor; /* borrowed */
    uint8_t *bytes;            /* own; of one read */
    uint32_t read_len;
    uint32_t outbox_cap;
    int epoll;              /* own */
    uint32_t waiting_count; /* sides whose outbox is not empty */
    bool is_watch_outdated; /* an outbox became full or empty, or has bytes now */
    struct side sides[MIDGE_FLOOR_SIDES_MAX];
};

static bool is_waiting(const struct side *side)
{
    return side->end_off > side->begin_off;
}

/* True if all who get what that side sends have room for another read. */
static bool may_read(const struct relay *relay, uint32_t from)
{
    if (from != FLOOR_FIRST)
        return !relay->sides[FLOOR_FIRST].is_full;
    for (uint32_t i = FLOOR_FIRST + 1; i < relay->floor->side_count; i++) {
        if (relay->sides[i].is_full)
            return false;
    }
    return true;
}

/* As much as the peer takes now. @return MIDGE_OK; E_EOF; E_SYSTEM */
static enum midge_status send_some(int fd, const uint8_t *bytes, uint32_t len, uint32_t *sent_out)
{
    const ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    *sent_out = sent > 0 ? (uint32_t)sent : 0;
    if (sent >= 0 || errno == EAGAIN || errno == EINTR)
        return MIDGE_OK;
    return errno == EPIPE || errno == ECONNRESET ? MIDGE_E_EOF : MIDGE_E_SYSTEM;
}

static void put_aside(struct relay *relay, struct side *side, const uint8_t *bytes, uint32_t len)
{
    MIDGE_ASSERT(side->end_off + len <= relay->outbox_cap);
    if (!is_waiting(side)) {
        relay->waiting_count++;
        relay->is_watch_outdated = true;
    }
    memcpy(side->outbox + side->end_off, bytes, len);
    side->end_off += len;
    if (relay->outbox_cap - side->end_off < relay->read_len) {
        side->is_full = true;
        relay->is_watch_outdated = true;
    }
}

static enum midge_status deliver(struct relay *relay, uint32_t to, uint32_t len)
{
    struct side *side = &relay->sides[to];
    enum midge_status status = MIDGE_OK;
    uint32_t sent = 0;

    if (!is_waiting(side))
        status = send_some(relay->floor->fd[to], relay->bytes, len, &sent);
    if (status == MIDGE_OK && sent < len)
        put_aside(relay, side, relay->bytes + sent, len - sent);
    return status;
}

/* One read, and a send to each who gets it. @return MIDGE_OK; E_EOF: a peer closed; E_SYSTEM */
static enum midge_status forward(struct relay *relay, uint32_t from)
{
    const ssize_t received =
        recv(relay->floor->fd[from], relay->bytes, relay->read_len, MSG_DONTWAIT);
    enum midge_status status = MIDGE_OK;

    if (received == 0 || (received < 0 && errno == ECONNRESET))
        return MIDGE_E_EOF;
    if (received < 0)
        return errno == EAGAIN || errno == EINTR ? MIDGE_OK : MIDGE_E_SYSTEM;
    if (from != FLOOR_FIRST)
        return deliver(relay, FLOOR_FIRST, (uint32_t)received);
    midge_floor_delay(relay->floor);
    for (uint32_t i = FLOOR_FIRST + 1; status == MIDGE_OK && i < relay->floor->side_count; i++)
        status = deliver(relay, i, (uint32_t)received);
    return status;
}

/* The peer has room again. */
static enum midge_status empty_outbox(struct relay *relay, uint32_t to)
{
    struct side *side = &relay->sides[to];
    uint32_t sent = 0;
    const enum midge_status status = send_some(relay->floor->fd[to], side->outbox + side->begin_off,
                                               side->end_off - side->begin_off, &sent);

    side->begin_off += sent;
    if (!is_waiting(side)) {
        side->begin_off = 0;
        side->end_off = 0;
        side->is_full = false;
        relay->waiting_count--;
        relay->is_watch_outdated = true;
    }
    return status;
}

static enum midge_status watch(struct relay *relay, uint32_t index)
{
    struct side *side = &relay->sides[index];
    struct epoll_event event = {.data.u32 = index};
    int operation = EPOLL_CTL_MOD;

    if (may_read(relay, index))
        event.events |= EPOLLIN;
    if (is_waiting(side))
        event.events |= EPOLLOUT;
    if (event.events == side->events)
        return MIDGE_OK;
    /* A closed peer is reported even if nothing is asked for, again and again; its last bytes must
     * wait until they may be read. */
    if (event.events == 0)
        operation = EPOLL_CTL_DEL;
    else if (side->events == 0)
        operation = EPOLL_CTL_ADD;
    side->events = event.events;
    return epoll_ctl(relay->epoll, operation, relay->floor->fd[index], &event) == 0
               ? MIDGE_OK
               : MIDGE_E_SYSTEM;
}

static enum midge_status watch_all(struct relay *relay)
{
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; status == MIDGE_OK && i < relay->floor->side_count; i++)
        status = watch(relay, i);
    relay->is_watch_outdated = false;
    return status;
}

static enum midge_status serve(struct relay *relay, const struct epoll_event *event)
{
    const uint32_t index = event->data.u32;
    enum midge_status status = MIDGE_OK;

    if (is_waiting(&relay->sides[index]) && (event->events & ~(uint32_t)EPOLLIN) != 0)
        status = empty_outbox(relay, index);
    /* Another event of this batch may have filled an outbox. */
    if (status == MIDGE_OK && (event->events & ~(uint32_t)EPOLLOUT) != 0 && may_read(relay, index))
        status = forward(relay, index);
    return status;
}

static enum midge_status run(struct relay *relay)
{
    struct epoll_event events[MIDGE_FLOOR_SIDES_MAX];
    enum midge_status status = watch_all(relay);

    while (status == MIDGE_OK) {
        const int count = epoll_wait(relay->epoll, events, MIDGE_FLOOR_SIDES_MAX,
                                     relay->waiting_count > 0 ? MIDGE_FLOOR_STUCK_MS : -1);

        if (count == 0)
            errno = ETIMEDOUT;
        if (count == 0 || (count < 0 && errno != EINTR))
            return MIDGE_E_SYSTEM;
        if (count > 0)
            midge_floor_stall(relay->floor);
        for (int i = 0; i < count && status == MIDGE_OK; i++)
            status = serve(relay, &events[i]);
        if (relay->is_watch_outdated && status == MIDGE_OK)
            status = watch_all(relay);
    }
    return status;
}

/* A peer closed: what it and others had sent before still goes out. */
static enum midge_status flush(struct relay *relay)
{
    enum midge_status worst = MIDGE_OK;

    for (uint32_t i = 0; i < relay->floor->side_count; i++) {
        const struct side *side = &relay->sides[i];
        const enum midge_status status = midge_floor_send(
            relay->floor->fd[i], side->outbox + side->begin_off, side->end_off - side->begin_off);

        if (status != MIDGE_OK && status != MIDGE_E_EOF)
            worst = status;
    }
    return worst;
}

static bool allocate(struct relay *relay)
{
    relay->bytes = (uint8_t *)malloc(relay->read_len);
    if (relay->bytes == NULL)
        return false;
    for (uint32_t i = 0; i < relay->floor->side_count; i++) {
        relay->sides[i].outbox = (uint8_t *)malloc(relay->outbox_cap);
        if (relay->sides[i].outbox == NULL)
            return false;
    }
    return true;
}

enum midge_status midge_floor_run_epoll(struct midge_floor *floor)
{
    const uint32_t read_len = floor->read_len == 0 ? READ_LEN_DEFAULT : floor->read_len;
    struct relay relay = {
        .floor = floor,
        .read_len = read_len,
        .outbox_cap = OUTBOX_READS * read_len,
        .epoll = epoll_create1(EPOLL_CLOEXEC),
    };
    enum midge_status status = relay.epoll < 0 ? MIDGE_E_SYSTEM : MIDGE_OK;

    if (status == MIDGE_OK && !allocate(&relay))
        status = MIDGE_E_MEMORY;
    if (status == MIDGE_OK)
        status = run(&relay);
    if (status == MIDGE_E_EOF)
        status = flush(&relay);
    const int error = errno;

    for (uint32_t i = 0; i < floor->side_count; i++)
        free(relay.sides[i].outbox);
    free(relay.bytes);
    if (relay.epoll >= 0)
        (void)close(relay.epoll);
    errno = error;
    return status;
}
