/*
 * The neutral driver: plain sockets, and as few system calls as the scenario allows.
 *
 * What is published gathers until the program waits, flushes or fences, or until 256 KiB are there;
 * then it goes in one send. A driver with one connection waits in recv itself, or in ppoll where
 * there is a deadline; one with more waits in epoll. Requests have one wildcard inbox for each
 * connection, and a reply subject each.
 *
 * What a relay forwards has no subscription id: there the call-back is found by its subject, and an
 * own inbox by what it begins with.
 *
 * Thread: shard (one owner, no atomics).
 * Memory: one receive buffer for all connections; see raw_socket.h.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "driver.h"
#include "driver_internal.h"
#include "midge/encode.h"
#include "midge/nuid.h"
#include "raw_socket.h"

#define NAME "raw"

/* Bytes that wait before publish sends them itself: what a read of the far end takes at once. */
#define SEND_AHEAD_LEN (256u * 1024)

/* Connections that one look at epoll reports. */
#define EVENTS_MAX 64

#define INBOX_PREFIX     "_INBOX."
#define INBOX_PREFIX_LEN 7u
#define INBOX_LEN        (INBOX_PREFIX_LEN + MIDGE_NUID_LEN + 1) /* with the dot behind it */
#define REPLY_LEN        (INBOX_LEN + MIDGE_DRIVER_NUMBER_LEN)

/* Numbers of blocking requests, so that none is that of an asynchronous one. */
#define BLOCKING_BIT (MIDGE_DRIVER_NUMBER_MASK + 1)

#define HEADERS "NATS/1.0\r\n" MIDGE_DRIVER_HEADER_NAME ": " MIDGE_DRIVER_HEADER_VALUE "\r\n\r\n"

/* What a message without responders begins with. Source: nats-server v2.15.2, server/client.go
 * noResponders. */
#define NO_RESPONDERS "NATS/1.0 503"

static const char connect_line[] =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,"
    "\"protocol\":1,\"lang\":\"raw\",\"version\":\"" MIDGE_VERSION "\"}\r\n";

/* A subscription; its id is its index and 1. */
struct sub {
    void *context;
    midge_driver_msg_cb msg_cb; /* NULL: the inbox */
    char *subject;              /* own; NULL where a server finds the subscription */
    uint32_t subject_len;       /* 0 there; a message's is longer */
};

struct midge_driver_conn {
    struct midge_raw_socket socket;
    struct midge_driver *driver;            /* borrow */
    struct midge_driver_conn *next;         /* of all */
    struct midge_driver_conn *next_pending; /* of those with something to send */
    enum midge_status status;               /* why it was closed; MIDGE_OK = it is open */
    bool is_pending;
    bool is_broken;       /* a send failed: reading will say why */
    bool is_room_awaited; /* by epoll */
    bool has_info;
    uint64_t ping_count;
    uint64_t pong_count;

    struct sub *subs; /* own */
    uint32_t sub_count;
    uint32_t sub_cap;

    /* Requests. */
    uint64_t inbox_sid; /* 0 = none yet */
    uint8_t inbox[INBOX_LEN + 1];
    struct midge_driver_flights flights;
    void *context;
    midge_driver_reply_cb reply_cb;
    uint32_t blocking_number;
    enum midge_status blocking_status; /* MIDGE_AGAIN: it is under way */
    struct midge_slice blocking_reply;
};

struct midge_driver {
    struct midge_driver_options options;
    struct midge_endpoint endpoint;
    struct midge_nuid nuid;
    uint8_t *room; /* own; MIDGE_RAW_ROOM_LEN */
    int epoll;     /* own; -1 while there is one connection */

    struct midge_driver_conn *conns;   /* own; the newest first */
    struct midge_driver_conn *pending; /* those with something to send */
    uint32_t conn_count;
    uint32_t open_count;
    uint32_t broken_count;   /* those that are open, but cannot be sent to */
    uint32_t prepared_count; /* those with asynchronous requests */
    bool is_delivering;      /* call-backs may look at what lies in the room */
    bool is_answered;        /* the blocking request: its reply lies in the room */

    uint64_t delivered;       /* call-backs called */
    uint64_t seen;            /* … that a wait has told of */
    enum midge_status unsaid; /* a failure that a wait has not told of; MIDGE_OK = none */
    uint64_t next_expiry_ns;  /* no request times out before; UINT64_MAX = none is under way */
    uint64_t stray_count;
};

static enum midge_status fail(enum midge_status status, const char *what, const char *why)
{
    return midge_driver_complain(NAME, status, what, why);
}

static const char *version(void)
{
    return "plain sockets";
}

static uint64_t after_timeout(const struct midge_driver *driver)
{
    return midge_process_now_ns() + driver->options.timeout_ms * UINT64_C(1000000);
}

/* --- create, destroy --- */

static enum midge_status create(const struct midge_driver_options *options,
                                struct midge_driver **driver_out)
{
    uint8_t seed[MIDGE_NUID_SEED_LEN];
    struct midge_driver *driver;

    MIDGE_ASSERT(options->timeout_ms > 0);
    driver = calloc(1, sizeof *driver);
    if (driver == NULL)
        return fail(MIDGE_E_MEMORY, "create", "no memory");
    driver->options = *options;
    driver->epoll = -1;
    driver->next_expiry_ns = UINT64_MAX;
    driver->room = malloc(MIDGE_RAW_ROOM_LEN);
    if (driver->room == NULL || getrandom(seed, sizeof seed, 0) != (ssize_t)sizeof seed) {
        free(driver->room);
        free(driver);
        return fail(MIDGE_E_MEMORY, "create", "no memory, or no random numbers");
    }
    midge_nuid_init(&driver->nuid, seed);
    if (midge_endpoint_parse(options->url, &driver->endpoint) != MIDGE_OK) {
        free(driver->room);
        free(driver);
        return fail(MIDGE_E_CONFIG, options->url, "not nats://ADDRESS:PORT or unix:///PATH");
    }
    *driver_out = driver;
    return MIDGE_OK;
}

static void destroy_conn(struct midge_driver_conn *conn)
{
    midge_raw_socket_close(&conn->socket);
    midge_driver_flights_deinit(&conn->flights);
    for (uint32_t i = 0; i < conn->sub_count; i++)
        free(conn->subs[i].subject);
    free(conn->subs);
    free(conn);
}

/* --- sending --- */

static void close_conn(struct midge_driver_conn *conn, enum midge_status status)
{
    struct midge_driver *driver = conn->driver;

    MIDGE_ASSERT(status < 0);
    MIDGE_ASSERT(conn->status == MIDGE_OK);
    if (status == MIDGE_E_EOF)
        (void)fail(status, "connection", "closed by the server");
    else
        (void)fail(status, "connection",
                   status == MIDGE_E_READ || status == MIDGE_E_WRITE ? strerror(errno)
                                                                     : midge_status_name(status));
    conn->status = status;
    midge_raw_socket_close(&conn->socket); /* epoll forgets it */
    driver->open_count--;
    driver->broken_count -= conn->is_broken ? 1 : 0;
    if (driver->unsaid == MIDGE_OK)
        driver->unsaid = status;
    if (conn->flights.count > 0)
        driver->next_expiry_ns = 0; /* the next wait ends them */
}

/* The server says something: a failure, for nothing here is ever refused. */
static void take_error(struct midge_driver_conn *conn, struct midge_slice text)
{
    char words[160];
    const uint32_t len = text.len < sizeof words ? text.len : sizeof words - 1;

    memcpy(words, text.base, len);
    words[len] = '\0';
    (void)fail(MIDGE_E_PEER_ERR, "server says", words);
    conn->driver->unsaid = MIDGE_E_PEER_ERR;
}

static void set_pending(struct midge_driver_conn *conn)
{
    if (conn->is_pending)
        return;
    conn->is_pending = true;
    conn->next_pending = conn->driver->pending;
    conn->driver->pending = conn;
}

/* Let epoll tell of room in the kernel's buffer, or no more. */
static void watch_room(struct midge_driver_conn *conn)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    int res;

    if (conn->driver->epoll < 0 || conn->is_room_awaited == conn->socket.is_full)
        return;
    if (conn->socket.is_full)
        event.events |= EPOLLOUT;
    conn->is_room_awaited = conn->socket.is_full;
    res = epoll_ctl(conn->driver->epoll, EPOLL_CTL_MOD, conn->socket.fd, &event);
    MIDGE_ASSERT(res == 0);
}

/* A send that fails does not close the connection: what the server said before can be read yet, and
 * a call-back may be looking at a message. Reading finds the end. */
static void send_some(struct midge_driver_conn *conn)
{
    const enum midge_status status = midge_raw_socket_send(&conn->socket);

    if (MIDGE_UNLIKELY(status != MIDGE_OK) && !conn->is_broken) {
        conn->is_broken = true;
        conn->driver->broken_count++;
        if (status != MIDGE_E_EOF)
            (void)fail(status, "send", strerror(errno));
        (void)shutdown(conn->socket.fd, SHUT_WR);
    }
    watch_room(conn);
}

static void destroy(struct midge_driver *driver)
{
    if (driver == NULL)
        return;
    while (driver->conns != NULL) {
        struct midge_driver_conn *conn = driver->conns;

        driver->conns = conn->next;
        if (conn->status == MIDGE_OK)
            send_some(conn); /* what was published last */
        destroy_conn(conn);
    }
    if (driver->epoll >= 0)
        (void)close(driver->epoll);
    free(driver->room);
    free(driver);
}

/* Send what waits on all connections; those that are full stay in the list. */
static void send_all(struct midge_driver *driver)
{
    struct midge_driver_conn **at = &driver->pending;

    while (*at != NULL) {
        struct midge_driver_conn *conn = *at;

        if (conn->status == MIDGE_OK)
            send_some(conn);
        if (MIDGE_UNLIKELY(conn->socket.is_full)) {
            at = &conn->next_pending;
        } else {
            *at = conn->next_pending;
            conn->is_pending = false;
        }
    }
}

/* Where nobody waits, and sending has failed: look for what the server said last, deliver nothing,
 * and close. Inside a call-back that must wait. */
static enum midge_status hear_last_words(struct midge_driver_conn *conn)
{
    struct midge_server_op op = {.kind = MIDGE_SERVER_OP_NONE};
    struct midge_slice input = {.base = NULL};

    if (conn->driver->is_delivering)
        return fail(MIDGE_E_EOF, "send", "closed by the server");
    while (midge_raw_socket_receive(&conn->socket, conn->driver->room, false, &input) == MIDGE_OK) {
        enum midge_status status;

        while ((status = midge_raw_socket_next(&conn->socket, &input, &op)) == MIDGE_OK) {
            if (op.kind == MIDGE_SERVER_OP_ERR)
                take_error(conn, op.text);
        }
        if (status != MIDGE_AGAIN)
            break;
    }
    close_conn(conn, MIDGE_E_EOF);
    return conn->status;
}

/* --- what comes --- */

/* Begin the time of the oldest request of all that may end by it. */
static void note_expiry(struct midge_driver *driver, uint64_t until_ns)
{
    if (until_ns < driver->next_expiry_ns)
        driver->next_expiry_ns = until_ns;
}

static void take_blocking_reply(struct midge_driver_conn *conn, uint32_t number,
                                enum midge_status status, struct midge_slice payload)
{
    if (conn->blocking_status != MIDGE_AGAIN || conn->blocking_number != number) {
        conn->driver->stray_count++;
        return;
    }
    conn->blocking_status = status;
    conn->blocking_reply = payload;
    conn->driver->is_answered = true;
}

static void take_reply(struct midge_driver_conn *conn, const struct midge_server_op *op)
{
    const struct midge_slice no_responders = MIDGE_SLICE_LITERAL(NO_RESPONDERS);
    struct midge_slice payload =
        midge_slice_make(op->body.base + op->header_len, op->body.len - op->header_len);
    enum midge_status status = MIDGE_OK;
    uint32_t number = 0;

    if (op->subject.len != REPLY_LEN ||
        !midge_driver_get_number(op->subject.base + INBOX_LEN, &number)) {
        conn->driver->stray_count++;
        return;
    }
    if (op->header_len > 0 && payload.len == 0 && midge_slice_starts_with(op->body, no_responders))
        status = MIDGE_E_NO_RESPONDERS;
    if ((number & BLOCKING_BIT) != 0) {
        take_blocking_reply(conn, number, status, payload);
    } else if (midge_driver_flights_end(&conn->flights, number)) {
        conn->driver->delivered++;
        conn->reply_cb(conn->context, status, payload);
    } else {
        conn->driver->stray_count++;
    }
}

static const struct sub *find_by_subject(const struct midge_driver_conn *conn,
                                         struct midge_slice subject)
{
    if (conn->inbox_sid > 0 &&
        midge_slice_starts_with(subject, midge_slice_make(conn->inbox, INBOX_LEN)))
        return &conn->subs[conn->inbox_sid - 1];
    for (uint32_t i = 0; i < conn->sub_count; i++) {
        const struct sub *sub = &conn->subs[i];

        if (sub->subject_len == subject.len &&
            midge_raw_is_same((const uint8_t *)sub->subject, subject.base, subject.len))
            return sub;
    }
    return NULL;
}

static void deliver(struct midge_driver_conn *conn, const struct midge_server_op *op)
{
    const struct sub *sub = NULL;
    struct midge_driver_msg msg;

    if (MIDGE_UNLIKELY(conn->socket.is_relay))
        sub = find_by_subject(conn, op->subject);
    else if (op->sid - 1 < conn->sub_count)
        sub = &conn->subs[op->sid - 1];
    if (MIDGE_UNLIKELY(sub == NULL)) {
        conn->driver->stray_count++;
        return;
    }
    if (sub->msg_cb == NULL) {
        take_reply(conn, op);
        return;
    }
    msg.conn = conn;
    msg.reply = midge_slice_copy(&op->reply);
    msg.payload = midge_slice_make(op->body.base + op->header_len, op->body.len - op->header_len);
    conn->driver->delivered++;
    sub->msg_cb(sub->context, &msg);
}

/* Append bytes that count for no limit: they are few. */
static enum midge_status append(struct midge_driver_conn *conn, const char *text, uint32_t len)
{
    uint8_t *out = midge_raw_socket_reserve(&conn->socket, len);

    if (out == NULL)
        return fail(MIDGE_E_MEMORY, "send", "no memory");
    memcpy(out, text, len);
    midge_raw_socket_commit(&conn->socket, len);
    set_pending(conn);
    return MIDGE_OK;
}

/* Act on all that one read brought. */
static enum midge_status take(struct midge_driver_conn *conn, struct midge_slice input)
{
    struct midge_server_op op = {.kind = MIDGE_SERVER_OP_NONE};
    enum midge_status status;

    while ((status = midge_raw_socket_next(&conn->socket, &input, &op)) == MIDGE_OK) {
        if (MIDGE_LIKELY(op.kind == MIDGE_SERVER_OP_MSG)) {
            deliver(conn, &op);
        } else if (op.kind == MIDGE_SERVER_OP_PING) {
            status = append(conn, "PONG\r\n", 6);
        } else if (op.kind == MIDGE_SERVER_OP_PONG) {
            conn->pong_count++;
        } else if (op.kind == MIDGE_SERVER_OP_ERR) {
            take_error(conn, op.text);
        } else if (op.kind == MIDGE_SERVER_OP_INFO) {
            conn->has_info = true;
        }
        if (MIDGE_UNLIKELY(status != MIDGE_OK))
            return status;
    }
    return status == MIDGE_AGAIN ? MIDGE_OK : status;
}

/* Read once and act on it. @return MIDGE_AGAIN: nothing is there; MIDGE_OK: it was, or the
 * connection is closed now */
static enum midge_status receive(struct midge_driver_conn *conn, bool may_wait)
{
    struct midge_slice input = {.base = NULL};
    enum midge_status status =
        midge_raw_socket_receive(&conn->socket, conn->driver->room, may_wait, &input);

    if (status == MIDGE_AGAIN)
        return status;
    if (MIDGE_LIKELY(status == MIDGE_OK)) {
        conn->driver->is_delivering = true;
        status = take(conn, input);
        conn->driver->is_delivering = false;
    }
    if (MIDGE_UNLIKELY(status != MIDGE_OK))
        close_conn(conn, status);
    return MIDGE_OK;
}

/* --- waiting --- */

/* From now until an instant. @return false: it is over */
static bool time_left(uint64_t until_ns, struct timespec *left_out)
{
    const uint64_t now_ns = until_ns == 0 ? 0 : midge_process_now_ns();
    const uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;

    *left_out = (struct timespec){.tv_sec = (time_t)(left_ns / 1000000000),
                                  .tv_nsec = (long)(left_ns % 1000000000)};
    return left_ns > 0;
}

/* One connection. In recv itself, where neither a deadline nor room is waited for. */
static enum midge_status step_one(struct midge_driver_conn *conn, uint64_t until_ns)
{
    struct pollfd poll_fd = {.fd = conn->socket.fd, .events = POLLIN};
    struct timespec left = {.tv_sec = 0};
    int ready;

    if (until_ns == UINT64_MAX && !conn->socket.is_full)
        return receive(conn, true);
    if (until_ns != UINT64_MAX && !time_left(until_ns, &left))
        return receive(conn, false);
    if (conn->socket.is_full)
        poll_fd.events |= POLLOUT;
    ready = ppoll(&poll_fd, 1, until_ns == UINT64_MAX ? NULL : &left, NULL);
    if (ready <= 0)
        return MIDGE_AGAIN; /* or a signal: the caller looks at the time */
    if ((poll_fd.revents & POLLOUT) != 0)
        send_some(conn);
    return (poll_fd.revents & ~POLLOUT) == 0 ? MIDGE_OK : receive(conn, false);
}

/* Several connections. @param is_patient  false: only what is there */
static enum midge_status step_many(struct midge_driver *driver, uint64_t until_ns, bool is_patient)
{
    struct epoll_event events[EVENTS_MAX];
    struct timespec left = {.tv_sec = 0};
    const bool is_endless = is_patient && until_ns == UINT64_MAX;
    int count;

    if (is_patient && !is_endless)
        (void)time_left(until_ns, &left);
    count = epoll_pwait2(driver->epoll, events, EVENTS_MAX, is_endless ? NULL : &left, NULL);
    /* The next read would go where the reply lies. */
    for (int i = 0; i < count && !driver->is_answered; i++) {
        struct midge_driver_conn *conn = (struct midge_driver_conn *)events[i].data.ptr;

        if ((events[i].events & EPOLLOUT) != 0)
            send_some(conn);
        if ((events[i].events & ~(uint32_t)EPOLLOUT) != 0)
            (void)receive(conn, false);
    }
    return count > 0 ? MIDGE_OK : MIDGE_AGAIN;
}

static enum midge_status spin(struct midge_driver *driver, uint64_t until_ns)
{
    for (;;) {
        const enum midge_status status =
            driver->conn_count == 1 ? receive(driver->conns, false) : step_many(driver, 0, false);

        if (status != MIDGE_AGAIN)
            return status;
        if (until_ns != UINT64_MAX && (until_ns == 0 || midge_process_now_ns() >= until_ns))
            return MIDGE_AGAIN;
        send_all(driver);
        if (driver->open_count == 0)
            return MIDGE_OK;
    }
}

/* Look, or wait until there is something to see, and act on it. @return MIDGE_AGAIN: nothing
 * came */
static enum midge_status step(struct midge_driver *driver, uint64_t until_ns)
{
    MIDGE_ASSERT(driver->open_count > 0);
    if (driver->options.is_spinning)
        return spin(driver, until_ns);
    return driver->conn_count == 1 ? step_one(driver->conns, until_ns)
                                   : step_many(driver, until_ns, true);
}

/* Tell of the requests whose time is over, or whose connection. */
static void expire(struct midge_driver *driver, uint64_t now_ns)
{
    if (MIDGE_LIKELY(now_ns < driver->next_expiry_ns))
        return;
    driver->next_expiry_ns = UINT64_MAX;
    driver->is_delivering = true;
    for (struct midge_driver_conn *conn = driver->conns; conn != NULL; conn = conn->next) {
        const bool is_open = conn->status == MIDGE_OK;

        /* No more than there are now, if the call-back begins others that fail as well. */
        for (uint32_t left = conn->flights.count; left > 0; left--) {
            if (!midge_driver_flights_expire(&conn->flights, is_open ? now_ns : UINT64_MAX))
                break;
            driver->delivered++;
            conn->reply_cb(conn->context, is_open ? MIDGE_E_TIMEOUT : MIDGE_E_DISCONNECTED,
                           midge_slice_make(NULL, 0));
        }
        note_expiry(driver, midge_driver_flights_until_ns(&conn->flights));
    }
    driver->is_delivering = false;
}

/* What a wait has to tell. @return MIDGE_AGAIN: nothing */
static enum midge_status take_news(struct midge_driver *driver)
{
    enum midge_status status = driver->unsaid;

    if (driver->delivered != driver->seen) {
        driver->seen = driver->delivered;
        return MIDGE_OK;
    }
    driver->unsaid = MIDGE_OK;
    if (MIDGE_LIKELY(status == MIDGE_OK))
        return MIDGE_LIKELY(driver->open_count > 0) ? MIDGE_AGAIN : MIDGE_E_EOF;
    return status;
}

static enum midge_status wait_for(struct midge_driver *driver, uint64_t until_ns)
{
    bool is_over = false;
    bool is_late = false; /* nothing came for as long as one receive waits */

    MIDGE_ASSERT(driver->conn_count > 0);
    for (;;) {
        enum midge_status status;
        uint64_t step_until_ns = until_ns;

        if (driver->pending != NULL)
            send_all(driver);
        if (driver->prepared_count > 0)
            expire(driver, is_late ? midge_process_now_ns() : midge_driver_tick_ns());
        status = take_news(driver);
        if (status != MIDGE_AGAIN || is_over)
            return status;
        /* Requests that time out cost nothing while there are replies: only after a receive that
         * waited in vain, or in a wait that has a deadline anyway, is theirs looked for. Several
         * connections have no receive that ends by itself. */
        if (driver->next_expiry_ns < until_ns &&
            (until_ns != UINT64_MAX || is_late || driver->options.is_spinning ||
             driver->conn_count > 1))
            step_until_ns = driver->next_expiry_ns;
        if (step(driver, step_until_ns) != MIDGE_OK) {
            is_late = true;
            is_over =
                until_ns == 0 || (until_ns != UINT64_MAX && midge_process_now_ns() >= until_ns);
        } else {
            is_over = until_ns == 0;
        }
    }
}

/* Wait until a count of one connection is as high as another. */
static enum midge_status wait_for_count(struct midge_driver_conn *conn, const uint64_t *count,
                                        uint64_t target, const char *what)
{
    struct midge_driver *driver = conn->driver;
    const uint64_t until_ns = after_timeout(driver);

    while (*count < target) {
        send_all(driver);
        if (conn->status == MIDGE_OK && driver->unsaid == MIDGE_OK)
            (void)step(driver, until_ns);
        if (driver->unsaid != MIDGE_OK || conn->status != MIDGE_OK) {
            const enum midge_status status =
                driver->unsaid != MIDGE_OK ? driver->unsaid : conn->status;

            driver->unsaid = MIDGE_OK;
            return status; /* the reason has been said */
        }
        if (*count < target && midge_process_now_ns() >= until_ns)
            return fail(MIDGE_E_TIMEOUT, what, "no PONG in time");
    }
    return MIDGE_OK;
}

/* A relay answers no PING: what is queued is with the kernel then, and no more is known. */
static enum midge_status flush_to_relay(struct midge_driver_conn *conn)
{
    struct midge_driver *driver = conn->driver;
    const uint64_t until_ns = after_timeout(driver);

    send_all(driver);
    while (conn->status == MIDGE_OK && !conn->is_broken &&
           midge_raw_socket_queued(&conn->socket) > 0) {
        if (midge_process_now_ns() >= until_ns)
            return fail(MIDGE_E_TIMEOUT, "fence", "the relay takes nothing more");
        (void)step(driver, until_ns);
        send_all(driver);
    }
    return conn->is_broken ? hear_last_words(conn) : conn->status;
}

static enum midge_status fence(struct midge_driver_conn *conn)
{
    enum midge_status status;

    if (conn->status != MIDGE_OK)
        return conn->status;
    if (conn->socket.is_relay)
        return flush_to_relay(conn);
    status = append(conn, "PING\r\n", 6);
    return status == MIDGE_OK ? wait_for_count(conn, &conn->pong_count, ++conn->ping_count, "fence")
                              : status;
}

/* --- connecting --- */

/* INFO comes first and unasked; it is read before CONNECT goes out, as clients do. */
static enum midge_status shake_hands(struct midge_driver_conn *conn)
{
    const uint64_t until_ns = after_timeout(conn->driver);
    enum midge_status status = MIDGE_OK;

    while (!conn->has_info && conn->status == MIDGE_OK) {
        if (step_one(conn, until_ns) == MIDGE_AGAIN && midge_process_now_ns() >= until_ns)
            return fail(MIDGE_E_TIMEOUT, "connect", "no INFO from the server");
    }
    if (conn->status != MIDGE_OK)
        return conn->status;
    status = append(conn, connect_line, sizeof connect_line - 1);
    return status == MIDGE_OK ? fence(conn) : status;
}

static enum midge_status watch(struct midge_driver *driver, struct midge_driver_conn *conn)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};

    conn->is_room_awaited = conn->socket.is_full;
    if (conn->is_room_awaited)
        event.events |= EPOLLOUT;
    return epoll_ctl(driver->epoll, EPOLL_CTL_ADD, conn->socket.fd, &event) == 0 ? MIDGE_OK
                                                                                 : MIDGE_E_SYSTEM;
}

/* From the second connection on there is an epoll, with all that are open. */
static enum midge_status watch_all(struct midge_driver *driver, struct midge_driver_conn *newest)
{
    enum midge_status status = MIDGE_OK;

    if (driver->epoll >= 0)
        return watch(driver, newest);
    driver->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (driver->epoll < 0)
        return MIDGE_E_SYSTEM;
    for (struct midge_driver_conn *conn = driver->conns; conn != NULL; conn = conn->next) {
        if (conn->status == MIDGE_OK && status == MIDGE_OK)
            status = watch(driver, conn);
    }
    return status;
}

/* The connection is among the driver's, also if the handshake fails. */
static enum midge_status join(struct midge_driver *driver, struct midge_driver_conn *conn)
{
    enum midge_status status = MIDGE_OK;

    conn->next = driver->conns;
    driver->conns = conn;
    driver->conn_count++;
    driver->open_count++;
    if (driver->conn_count > 1)
        status = watch_all(driver, conn);
    if (status != MIDGE_OK)
        return fail(status, "connect", strerror(errno));
    return conn->socket.is_relay ? MIDGE_OK : shake_hands(conn);
}

static enum midge_status connect_conn(struct midge_driver *driver,
                                      struct midge_driver_conn **conn_out)
{
    struct midge_driver_conn *conn = calloc(1, sizeof *conn);
    enum midge_status status;

    if (conn == NULL)
        return fail(MIDGE_E_MEMORY, "connect", "no memory");
    conn->driver = driver;
    status = midge_raw_socket_open(&conn->socket, &driver->endpoint, driver->options.is_relay,
                                   driver->options.timeout_ms, driver->options.receive_buffer_len);
    if (status != MIDGE_OK) {
        (void)fail(status, "connect", strerror(errno));
        destroy_conn(conn);
        return status;
    }
    status = join(driver, conn);
    if (status == MIDGE_OK) {
        *conn_out = conn;
    } else if (conn->status == MIDGE_OK) {
        close_conn(conn, status);
        driver->unsaid = MIDGE_OK;
    }
    return status;
}

/* --- subscribing and publishing --- */

static enum midge_status add_sub(struct midge_driver_conn *conn, struct midge_slice subject,
                                 const char *queue, const struct sub *sub)
{
    const struct midge_slice group =
        queue == NULL ? midge_slice_make(NULL, 0) : midge_slice_text(queue);
    const uint64_t sid = conn->sub_count + UINT64_C(1);
    const uint32_t len = midge_encode_sub_len(subject, group, sid);
    uint8_t *out;

    if (conn->sub_count == conn->sub_cap) {
        const uint32_t cap = conn->sub_cap == 0 ? 4 : 2 * conn->sub_cap;
        struct sub *subs = (struct sub *)realloc(conn->subs, cap * sizeof *subs);

        if (subs == NULL)
            return fail(MIDGE_E_MEMORY, "subscribe", "no memory");
        conn->subs = subs;
        conn->sub_cap = cap;
    }
    if (!conn->socket.is_relay) {
        out = midge_raw_socket_reserve(&conn->socket, len);
        if (out == NULL)
            return fail(MIDGE_E_MEMORY, "subscribe", "no memory");
        (void)midge_encode_sub(out, subject, group, sid);
        midge_raw_socket_commit(&conn->socket, len);
        set_pending(conn);
    }
    conn->subs[conn->sub_count++] = *sub;
    return MIDGE_OK;
}

static enum midge_status subscribe(struct midge_driver_conn *conn, const char *subject,
                                   const char *queue, void *context, midge_driver_msg_cb msg_cb)
{
    const struct sub sub = {.context = context, .msg_cb = msg_cb};
    char *own_subject = NULL;
    enum midge_status status;

    MIDGE_ASSERT(msg_cb != NULL);
    if (conn->status != MIDGE_OK)
        return conn->status;
    if (conn->socket.is_relay) {
        own_subject = strdup(subject);
        if (own_subject == NULL)
            return fail(MIDGE_E_MEMORY, "subscribe", "no memory");
    }
    status = add_sub(conn, midge_slice_text(subject), queue, &sub);
    if (status != MIDGE_OK) {
        free(own_subject);
        return status;
    }
    conn->subs[conn->sub_count - 1].subject = own_subject;
    conn->subs[conn->sub_count - 1].subject_len =
        own_subject == NULL ? 0 : (uint32_t)strlen(own_subject);
    return status;
}

static enum midge_status publish(struct midge_driver_conn *conn, struct midge_slice subject,
                                 struct midge_slice reply, struct midge_slice payload)
{
    struct midge_raw_socket *socket = &conn->socket;
    const uint32_t header_len = conn->driver->options.has_headers ? sizeof HEADERS - 1 : 0;
    const uint32_t total_len = header_len + payload.len;
    uint32_t len;
    uint8_t *out;

    if (MIDGE_UNLIKELY(conn->status != MIDGE_OK))
        return conn->status;
    if (MIDGE_UNLIKELY(conn->is_broken))
        return hear_last_words(conn);
    if (MIDGE_UNLIKELY(midge_raw_socket_queued(socket) > MIDGE_RAW_QUEUED_MAX))
        return MIDGE_FULL;
    len = midge_encode_pub_len(subject, reply, header_len, total_len) + total_len + 2;
    out = midge_raw_socket_reserve(socket, len);
    if (MIDGE_UNLIKELY(out == NULL))
        return fail(MIDGE_E_MEMORY, "publish", "no memory");
    out = midge_encode_pub(out, subject, reply, header_len, total_len);
    if (header_len > 0)
        memcpy(out, HEADERS, header_len);
    if (payload.len > 0)
        memcpy(out + header_len, payload.base, payload.len);
    out[total_len] = '\r';
    out[total_len + 1] = '\n';
    midge_raw_socket_commit(socket, len);
    set_pending(conn);
    /* Once it is full, a wait or a flush finds out when there is room again. */
    if (MIDGE_UNLIKELY(midge_raw_socket_queued(socket) >= SEND_AHEAD_LEN) && !socket->is_full)
        send_some(conn);
    return MIDGE_OK;
}

static enum midge_status flush(struct midge_driver *driver)
{
    enum midge_status status = MIDGE_OK;

    send_all(driver);
    if (MIDGE_LIKELY(driver->broken_count == 0))
        return MIDGE_OK;
    for (struct midge_driver_conn *conn = driver->conns; conn != NULL; conn = conn->next) {
        if (conn->status == MIDGE_OK && conn->is_broken)
            status = hear_last_words(conn);
    }
    return status;
}

/* --- requests --- */

static enum midge_status make_inbox(struct midge_driver_conn *conn)
{
    const struct sub sub = {.msg_cb = NULL};
    enum midge_status status;

    if (conn->inbox_sid > 0)
        return MIDGE_OK;
    memcpy(conn->inbox, INBOX_PREFIX, INBOX_PREFIX_LEN);
    midge_nuid_next(&conn->driver->nuid, (char *)conn->inbox + INBOX_PREFIX_LEN);
    conn->inbox[INBOX_LEN - 1] = '.';
    conn->inbox[INBOX_LEN] = '*';
    status = add_sub(conn, midge_slice_make(conn->inbox, INBOX_LEN + 1), NULL, &sub);
    if (status == MIDGE_OK)
        conn->inbox_sid = conn->sub_count;
    return status;
}

static enum midge_status publish_request(struct midge_driver_conn *conn, const char *subject,
                                         uint32_t number, struct midge_slice payload)
{
    uint8_t reply[REPLY_LEN];

    memcpy(reply, conn->inbox, INBOX_LEN);
    midge_driver_put_number(reply + INBOX_LEN, number);
    return publish(conn, midge_slice_text(subject), midge_slice_make(reply, sizeof reply), payload);
}

/* One connection sends and receives, and looks at no clock unless something else comes first. */
static enum midge_status await_reply(struct midge_driver_conn *conn)
{
    struct midge_driver *driver = conn->driver;
    uint64_t until_ns =
        driver->conn_count > 1 || driver->options.is_spinning ? after_timeout(driver) : UINT64_MAX;

    for (;;) {
        bool is_idle;

        send_all(driver);
        if (conn->status != MIDGE_OK)
            return conn->status;
        is_idle = step(driver, until_ns) != MIDGE_OK;
        if (MIDGE_LIKELY(conn->blocking_status != MIDGE_AGAIN))
            return conn->blocking_status;
        if (conn->status != MIDGE_OK || driver->unsaid != MIDGE_OK)
            return conn->status != MIDGE_OK ? conn->status : driver->unsaid;
        if (is_idle && (until_ns == UINT64_MAX || midge_process_now_ns() >= until_ns))
            return MIDGE_E_TIMEOUT;
        if (until_ns == UINT64_MAX)
            until_ns = after_timeout(driver);
    }
}

static enum midge_status request(struct midge_driver_conn *conn, const char *subject,
                                 struct midge_slice payload, struct midge_slice *reply_out)
{
    enum midge_status status = make_inbox(conn);

    if (status != MIDGE_OK)
        return status;
    conn->blocking_number = (conn->blocking_number + 1) | BLOCKING_BIT;
    status = publish_request(conn, subject, conn->blocking_number, payload);
    if (MIDGE_UNLIKELY(status != MIDGE_OK))
        return status;
    conn->blocking_status = MIDGE_AGAIN;
    conn->driver->is_answered = false;
    status = await_reply(conn);
    conn->driver->is_answered = false;
    conn->blocking_status = MIDGE_OK;
    if (MIDGE_LIKELY(status == MIDGE_OK)) {
        *reply_out = conn->blocking_reply;
        return MIDGE_OK;
    }
    if (status == MIDGE_E_NO_RESPONDERS)
        return fail(status, subject, "no responders");
    if (status == MIDGE_E_TIMEOUT)
        return fail(status, subject, "no reply in time");
    conn->driver->unsaid = MIDGE_OK; /* it has been said, and is told now */
    return status;
}

static enum midge_status prepare_requests(struct midge_driver_conn *conn, uint32_t in_flight_max,
                                          void *context, midge_driver_reply_cb reply_cb)
{
    enum midge_status status = conn->status;

    MIDGE_ASSERT(conn->flights.slots == NULL);
    if (status == MIDGE_OK)
        status = make_inbox(conn);
    if (status != MIDGE_OK)
        return status;
    if (midge_driver_flights_init(&conn->flights, in_flight_max) != MIDGE_OK)
        return fail(MIDGE_E_MEMORY, "requests", "no memory");
    conn->context = context;
    conn->reply_cb = reply_cb;
    conn->driver->prepared_count++;
    return MIDGE_OK;
}

static enum midge_status begin_request(struct midge_driver_conn *conn, const char *subject,
                                       struct midge_slice payload)
{
    const uint64_t until_ns =
        midge_driver_tick_ns() + conn->driver->options.timeout_ms * UINT64_C(1000000);
    uint32_t number = 0;
    enum midge_status status;
    bool is_ended;

    if (MIDGE_UNLIKELY(conn->status != MIDGE_OK))
        return conn->status;
    if (!midge_driver_flights_begin(&conn->flights, until_ns, &number))
        return MIDGE_FULL;
    status = publish_request(conn, subject, number, payload);
    if (MIDGE_LIKELY(status == MIDGE_OK)) {
        note_expiry(conn->driver, until_ns);
        return MIDGE_OK;
    }
    is_ended = midge_driver_flights_end(&conn->flights, number);
    MIDGE_ASSERT(is_ended);
    return status;
}

static uint64_t strays(const struct midge_driver *driver)
{
    return driver->stray_count;
}

const struct midge_driver_kind midge_driver_raw = {
    .name = NAME,
    .version_cb = version,
    .create_cb = create,
    .destroy_cb = destroy,
    .connect_cb = connect_conn,
    .subscribe_cb = subscribe,
    .publish_cb = publish,
    .flush_cb = flush,
    .request_cb = request,
    .prepare_requests_cb = prepare_requests,
    .begin_request_cb = begin_request,
    .wait_cb = wait_for,
    .fence_cb = fence,
    .strays_cb = strays,
};
