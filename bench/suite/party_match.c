/*
 * Many subscriptions on one connection, messages to random ones of them, and others that change
 * meanwhile.
 *
 * Subscription i is for `fleet.<i mod 1000>.unit.<i>.state`, every tenth with `*` as its last
 * token. Messages go to even ones, so that each must come once, and in order; odd ones are
 * unsubscribed and subscribed again. Both connections are plain sockets in one thread, whatever the
 * driver: a library would be measured instead of the server. At full speed at most WINDOW messages
 * are under way.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "party.h"
#include "random.h"
#include "raw_socket.h"

#define GROUPS 1000u

/* Every so many subscriptions one has a wildcard. */
#define WILDCARD_EVERY 10u

/* Bytes of the longest line of ours, its payload not counted. */
#define LINE_CAP 160u

/* Bytes that are gathered before they are sent, while subscribing. */
#define BATCH_LEN 65536u

#define WINDOW 256u

/* Longest sleep while something is expected. */
#define NAP_NS 1000000ull

#define NS_PER_S 1000000000ull

/* Most that a server may take for one subscription. */
#define SUBSCRIBE_NS 50000ull

/* Bytes that may wait for the server before a message is missed. */
#define QUEUED_MAX (16u * 1024 * 1024)

struct matching {
    struct midge_party *party;          /* borrow */
    struct midge_raw_socket subscriber; /* own */
    struct midge_raw_socket publisher;  /* own */
    uint8_t *room;                      /* own; of reads */
    uint64_t sent;                      /* messages */
    uint64_t received;
    uint64_t pongs; /* that the subscriber has got */
    uint64_t publisher_pongs;
    uint64_t random;          /* whom the next message is for; state of a generator */
    uint64_t expected_random; /* … and whom the next one that comes: the same one, later */
    uint64_t change_random;   /* what changes next */
    struct midge_schedule messages;
    struct midge_schedule changes;
};

static enum midge_status put(struct midge_raw_socket *socket, const char *line, int len,
                             struct midge_slice payload)
{
    uint8_t *out = midge_raw_socket_reserve(socket, (uint32_t)len + payload.len + 2);

    if (out == NULL)
        return MIDGE_E_MEMORY;
    memcpy(out, line, (size_t)len);
    if (payload.len > 0) {
        memcpy(out + len, payload.base, payload.len);
        memcpy(out + len + payload.len, "\r\n", 2);
    }
    midge_raw_socket_commit(socket, (uint32_t)len + (payload.len > 0 ? payload.len + 2 : 0));
    return MIDGE_OK;
}

static enum midge_status put_text(struct midge_raw_socket *socket, const char *text)
{
    return put(socket, text, (int)strlen(text), midge_slice_make(NULL, 0));
}

static enum midge_status put_sub(struct matching *all, uint64_t index)
{
    char line[LINE_CAP];
    const int len =
        snprintf(line, sizeof line, "SUB fleet.%llu.unit.%llu.%s %llu\r\n",
                 (unsigned long long)(index % GROUPS), (unsigned long long)index,
                 index % WILDCARD_EVERY == 0 ? "*" : "state", (unsigned long long)index + 1);

    return put(&all->subscriber, line, len, midge_slice_make(NULL, 0));
}

static enum midge_status put_change(struct matching *all)
{
    const uint32_t half = all->party->options->subscriptions / 2;
    char line[LINE_CAP];
    enum midge_status status = MIDGE_OK;

    if (half == 0)
        return MIDGE_OK;
    const uint64_t index = 2 * (midge_random_next(&all->change_random) % half) + 1;
    const int len = snprintf(line, sizeof line, "UNSUB %llu\r\n", (unsigned long long)index + 1);

    status = put(&all->subscriber, line, len, midge_slice_make(NULL, 0));
    return status == MIDGE_OK ? put_sub(all, index) : status;
}

/* The subscription that a message is for: one that never changes. */
static uint64_t next_index(const struct midge_party *party, uint64_t *random)
{
    return 2 * (midge_random_next(random) % ((party->options->subscriptions + 1) / 2));
}

static enum midge_status put_message(struct matching *all, uint64_t intended_ns)
{
    struct midge_party *party = all->party;
    const uint64_t index = next_index(party, &all->random);
    char line[LINE_CAP];
    const int len = snprintf(line, sizeof line, "PUB fleet.%llu.unit.%llu.state %u\r\n",
                             (unsigned long long)(index % GROUPS), (unsigned long long)index,
                             party->options->size);

    midge_party_stamp(party, (struct midge_stamp){all->sent++, intended_ns});
    midge_row_add(&party->row->begun, 1);
    midge_row_add(&party->row->sent, midge_party_is_measured(party, intended_ns) ? 1 : 0);
    return put(&all->publisher, line, len, midge_slice_make(party->payload, party->options->size));
}

/* A message of ours must be the next one. */
static enum midge_status take(struct matching *all, const struct midge_server_op *op)
{
    struct midge_party *party = all->party;
    struct midge_stamp stamp;

    if (!midge_party_read_stamp(party, op->body, &stamp)) {
        midge_row_add(&party->row->wrong, 1);
        return midge_party_fail(party, MIDGE_E_PARSE, "a message has bytes that nobody sent");
    }
    if (stamp.number != all->received) {
        if (stamp.number > all->received)
            midge_row_add(&party->row->lost, stamp.number - all->received);
        else
            midge_row_add(&party->row->doubled, 1);
        return midge_party_fail(party, MIDGE_E_PARSE, "message %llu came instead of %llu",
                                (unsigned long long)stamp.number,
                                (unsigned long long)all->received);
    }
    if (op->sid != next_index(party, &all->expected_random) + 1) {
        midge_row_add(&party->row->wrong, 1);
        return midge_party_fail(party, MIDGE_E_PARSE, "message %llu came for another subscription",
                                (unsigned long long)stamp.number);
    }
    all->received++;
    midge_row_add(&party->row->done, 1);
    if (!midge_party_is_measured(party, stamp.intended_ns))
        return MIDGE_OK;
    midge_row_add(&party->row->received, 1);
    if (party->options->rate > 0)
        midge_histogram_add(&party->row->latency, midge_process_now_ns() - stamp.intended_ns, 1);
    return MIDGE_OK;
}

static enum midge_status take_op(struct matching *all, struct midge_raw_socket *socket,
                                 const struct midge_server_op *op)
{
    switch (op->kind) {
    case MIDGE_SERVER_OP_MSG:
        return take(all, op);
    case MIDGE_SERVER_OP_PING:
        return put_text(socket, "PONG\r\n");
    case MIDGE_SERVER_OP_PONG:
        *(socket == &all->subscriber ? &all->pongs : &all->publisher_pongs) += 1;
        return MIDGE_OK;
    case MIDGE_SERVER_OP_ERR:
        return midge_party_fail(all->party, MIDGE_E_PEER_ERR, "the server says: %.*s",
                                (int)op->text.len, (const char *)op->text.base);
    case MIDGE_SERVER_OP_NONE:
    case MIDGE_SERVER_OP_INFO:
    case MIDGE_SERVER_OP_OK:
    case MIDGE_SERVER_OP_PIECE:
        break;
    }
    return MIDGE_OK;
}

/* Send and read what there is on one socket. */
static enum midge_status serve(struct matching *all, struct midge_raw_socket *socket)
{
    struct midge_slice input;
    struct midge_server_op op;
    enum midge_status status = MIDGE_OK;

    if (socket->fd < 0)
        return MIDGE_OK; /* not connected yet */
    if (midge_raw_socket_queued(socket) > 0)
        status = midge_raw_socket_send(socket);
    if (status == MIDGE_OK)
        status = midge_raw_socket_receive(socket, all->room, false, &input);
    if (status == MIDGE_AGAIN)
        return MIDGE_OK;
    while (status == MIDGE_OK) {
        status = midge_raw_socket_next(socket, &input, &op);
        if (status == MIDGE_OK)
            status = take_op(all, socket, &op);
    }
    return status == MIDGE_AGAIN ? MIDGE_OK : status;
}

/* Both sockets once; then sleep until something can be done, or that time, 0 = not at all. */
static enum midge_status turn(struct matching *all, uint64_t sleep_until_ns)
{
    struct midge_raw_socket *const sockets[] = {&all->publisher, &all->subscriber};
    struct pollfd polls[2];
    enum midge_status status = MIDGE_OK;

    for (uint32_t i = 0; status == MIDGE_OK && i < 2; i++) {
        status = serve(all, sockets[i]);
        polls[i] = (struct pollfd){
            .fd = sockets[i]->fd,
            .events = (short)(POLLIN | (midge_raw_socket_queued(sockets[i]) > 0 ? POLLOUT : 0))};
    }
    const uint64_t now_ns = sleep_until_ns == 0 ? 0 : midge_process_now_ns();

    if (status == MIDGE_OK && sleep_until_ns > now_ns) {
        const struct timespec left = {.tv_sec = (time_t)((sleep_until_ns - now_ns) / NS_PER_S),
                                      .tv_nsec = (long)((sleep_until_ns - now_ns) % NS_PER_S)};

        if (ppoll(polls, 2, &left, NULL) < 0 && errno != EINTR)
            return MIDGE_E_SYSTEM;
    }
    return status;
}

/* Until the server has answered a PING on that socket. @param more_ns  beyond the usual time */
static enum midge_status fence(struct matching *all, struct midge_raw_socket *socket,
                               const uint64_t *pongs, uint64_t more_ns)
{
    const uint64_t wanted = *pongs + 1;
    const uint64_t until_ns =
        midge_process_now_ns() + all->party->options->timeout_ms * 1000000ull + more_ns;
    enum midge_status status = put_text(socket, "PING\r\n");

    while (status == MIDGE_OK && *pongs < wanted && !midge_party_is_over(all->party)) {
        status = turn(all, midge_process_now_ns() + NAP_NS);
        if (midge_process_now_ns() > until_ns)
            return midge_party_fail(all->party, MIDGE_E_TIMEOUT, "no PONG");
    }
    return status;
}

static enum midge_status connect_one(struct matching *all, struct midge_raw_socket *socket,
                                     const uint64_t *pongs)
{
    const struct midge_run_options *options = all->party->options;
    struct midge_endpoint endpoint;
    enum midge_status status = midge_endpoint_parse(options->url, &endpoint);

    if (status == MIDGE_OK)
        status = midge_raw_socket_open(socket, &endpoint, false, options->timeout_ms, 0);
    if (status == MIDGE_OK)
        status = put_text(socket, "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\","
                                  "\"version\":\"0\",\"protocol\":1}\r\n");
    return status == MIDGE_OK ? fence(all, socket, pongs, 0) : status;
}

static enum midge_status subscribe_all(struct matching *all)
{
    struct midge_party *party = all->party;
    enum midge_status status = MIDGE_OK;

    party->row->begin_ns = midge_process_now_ns();
    for (uint32_t i = 0; status == MIDGE_OK && i < party->options->subscriptions; i++) {
        status = put_sub(all, i);
        while (status == MIDGE_OK && midge_raw_socket_queued(&all->subscriber) > BATCH_LEN)
            status = turn(all, 0);
    }
    if (status == MIDGE_OK)
        status =
            fence(all, &all->subscriber, &all->pongs, party->options->subscriptions * SUBSCRIBE_NS);
    party->row->end_ns = midge_process_now_ns();
    return status;
}

static enum midge_status put_changes_due(struct matching *all, uint64_t now_ns)
{
    struct midge_party *party = all->party;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && party->options->changes > 0 && all->changes.next_ns <= now_ns &&
           all->changes.next_ns < party->board->measure_until_ns) {
        status = put_change(all);
        midge_row_add(&party->row->changes,
                      midge_party_is_measured(party, all->changes.next_ns) ? 1 : 0);
        midge_schedule_advance(&all->changes);
    }
    return status;
}

/* What is due at that time, also if that is over: it was meant to leave. */
static enum midge_status put_messages_due(struct matching *all, uint64_t now_ns)
{
    struct midge_party *party = all->party;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && all->messages.next_ns <= now_ns &&
           all->messages.next_ns < party->board->measure_until_ns) {
        const bool is_measured = midge_party_is_measured(party, all->messages.next_ns);
        const bool is_full = midge_raw_socket_queued(&all->publisher) > QUEUED_MAX;

        if (is_measured && (double)(now_ns - all->messages.next_ns) > all->messages.interval_ns)
            midge_row_add(&party->row->late, 1);
        if (is_full)
            midge_row_add(&party->row->missed, is_measured ? 1 : 0);
        else
            status = put_message(all, all->messages.next_ns);
        midge_schedule_advance(&all->messages);
    }
    return status;
}

static enum midge_status put_due(struct matching *all, uint64_t now_ns)
{
    struct midge_party *party = all->party;
    enum midge_status status = put_changes_due(all, now_ns);

    if (status == MIDGE_OK && party->options->rate > 0)
        return put_messages_due(all, now_ns);
    while (status == MIDGE_OK && all->sent < all->received + WINDOW &&
           now_ns < party->board->measure_until_ns)
        status = put_message(all, now_ns);
    return status;
}

/* When something is to be sent next, and within NAP_NS. */
static uint64_t next_due(const struct matching *all, uint64_t now_ns)
{
    const struct midge_run_options *options = all->party->options;
    uint64_t next_ns = now_ns + NAP_NS;

    if (options->rate > 0 && all->messages.next_ns < next_ns)
        next_ns = all->messages.next_ns;
    if (options->changes > 0 && all->changes.next_ns < next_ns)
        next_ns = all->changes.next_ns;
    return next_ns;
}

static enum midge_status match_all(struct matching *all)
{
    struct midge_party *party = all->party;
    const uint64_t until_ns = party->board->measure_until_ns;
    const uint64_t patience_ns = party->options->timeout_ms * 1000000ull;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && !midge_party_is_over(party)) {
        const uint64_t now_ns = midge_process_now_ns();

        if (now_ns >= until_ns && all->received == all->sent &&
            (party->options->rate == 0 || all->messages.next_ns >= until_ns))
            return MIDGE_OK;
        if (now_ns >= until_ns + patience_ns) {
            midge_row_add(&party->row->timeouts, all->sent - all->received);
            return midge_party_fail(party, MIDGE_E_TIMEOUT, "%llu messages never came",
                                    (unsigned long long)(all->sent - all->received));
        }
        status = put_due(all, now_ns);
        if (status == MIDGE_OK)
            status = turn(all, party->options->is_spinning ? 0 : next_due(all, now_ns));
    }
    return status;
}

static enum midge_status match(struct matching *all)
{
    struct midge_party *party = all->party;
    enum midge_status status = connect_one(all, &all->publisher, &all->publisher_pongs);

    if (status == MIDGE_OK)
        status = connect_one(all, &all->subscriber, &all->pongs);
    if (status == MIDGE_OK)
        status = subscribe_all(all);
    if (status == MIDGE_OK)
        status = midge_party_await_begin(party);
    if (status != MIDGE_OK)
        return status;
    all->random = party->options->seed;
    all->expected_random = party->options->seed;
    all->change_random = party->options->seed + 1ull;
    if (party->options->rate > 0)
        midge_party_begin_schedule(party, &all->messages);
    if (party->options->changes > 0)
        midge_schedule_init(
            &all->changes,
            &(struct midge_schedule_options){.rate = party->options->changes, .burst = 1},
            atomic_load_explicit(&party->board->begin_at_ns, memory_order_relaxed));
    status = match_all(all);
    if (status == MIDGE_OK)
        status = fence(all, &all->subscriber, &all->pongs, 0);
    if (status == MIDGE_OK)
        midge_party_finish(party);
    return status;
}

enum midge_status midge_party_match(struct midge_party *party)
{
    struct matching all = {.party = party, .subscriber = {.fd = -1}, .publisher = {.fd = -1}};
    enum midge_status status = MIDGE_E_MEMORY;

    all.room = malloc(MIDGE_RAW_ROOM_LEN);
    if (all.room != NULL)
        status = match(&all);
    midge_raw_socket_close(&all.subscriber);
    midge_raw_socket_close(&all.publisher);
    free(all.room);
    return status;
}
