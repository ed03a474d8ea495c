/*
 * The driver of nats.c, as its documentation says it is fast.
 *
 * A connection has a thread that reads and one that flushes, a subscription one that calls back.
 * Where latency counts each publish is a system call (SendAsap), and nothing waits for the flusher;
 * where throughput does (may_gather) the flusher gathers, as the library does it by itself, which
 * takes less CPU time. Blocking requests are natsConnection_RequestMsg(); asynchronous ones have
 * one wildcard inbox for each connection and a reply subject each. Subscriptions hold what comes
 * without limit: the library drops what is beyond one, and the run would count it as lost.
 *
 * A wait sleeps on a condition variable, or spins. Failures end it at once. Messages and replies
 * only count, for a program whose work is done in call-backs has no thread that each of them wakes,
 * and what that costs would be taken for the library's: a wait looks at the number every
 * LOOK_NS, and each WAKE_COUNT-th call-back wakes it.
 *
 * A time-out of an asynchronous request is told by the thread that waits, while no reply of its
 * connection is being told.
 *
 * Thread: the one that created it; call-backs in threads of the library.
 * Memory: the library's.
 * Source: nats.h of nats.c 3.4.1.
 */
#include <nats/nats.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "driver.h"
#include "driver_internal.h"

#define NAME "natsc"

/* Bytes of a subject with its NUL. */
#define SUBJECT_CAP 4001u

#define NS_PER_S  UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

/* How long after a call-back a wait ends at the latest. */
#define LOOK_NS (20 * NS_PER_MS)

/* … and after how many call-backs: few enough for a subscriber that tells its publisher how far it
 * is in between, while the wakes are lost in what so many messages cost. */
#define WAKE_COUNT 256u

/* How long destroy waits for threads of the library that have its call-backs. */
#define END_MAX_NS (10 * NS_PER_S)

struct sub {
    struct midge_driver_conn *conn;
    natsSubscription *handle; /* own */
    void *context;
    midge_driver_msg_cb msg_cb;
    struct sub *next;
};

struct midge_driver_conn {
    struct midge_driver *driver;    /* borrow */
    struct midge_driver_conn *next; /* of all */
    natsConnection *handle;         /* own */
    struct sub *subs;               /* own; the newest first */
    natsMsg *reply;                 /* own; of the last blocking request */
    _Atomic bool is_closed;         /* set once, by the library's thread */

    /* Asynchronous requests. */
    char *inbox; /* own; "_INBOX.<id>.", room for the number and a NUL */
    size_t inbox_len;
    void *context;
    midge_driver_reply_cb reply_cb;
    pthread_mutex_t flights_lock;
    struct midge_driver_flights flights; /* flights_lock */
    pthread_mutex_t reply_lock;          /* held while reply_cb runs: one at a time */
};

struct midge_driver {
    /* Constant after init. */
    struct midge_driver_options options;

    /* Thread: the driver's. */
    struct midge_driver_conn *conns; /* own; the newest first */
    uint64_t seen;                   /* of `delivered`, that a wait has told of */
    uint64_t closed_seen;            /* likewise */
    uint64_t closed_expired;         /* of `closed_count`, whose requests have been ended */
    uint64_t expiry_ns;              /* no request times out before; UINT64_MAX: there are none */
    uint32_t conn_count;
    bool has_subs; /* call-backs may come */

    /* Thread: any (lock-free). Changed with each message. */
    alignas(64) _Atomic uint64_t delivered; /* call-backs called */

    /* Likewise, but seldom: a wait that spins reads them. */
    alignas(64) _Atomic uint64_t closed_count;
    _Atomic uint64_t stray_count;
    _Atomic bool is_due;      /* enough is new for a wait to end */
    _Atomic bool is_refused;  /* the server said an error that a wait has not told of */
    _Atomic bool is_waiting;  /* the driver's thread is about to sleep, or sleeps */
    _Atomic bool is_ending;   /* closes are ours */
    _Atomic uint32_t runners; /* threads of the library that may yet call back */

    pthread_mutex_t lock;
    pthread_cond_t is_news;
};

static enum midge_status complain(enum midge_status status, const char *what, const char *why)
{
    return midge_driver_complain(NAME, status, what, why);
}

static enum midge_status fail(natsStatus status, const char *what)
{
    enum midge_status own = MIDGE_E_SYSTEM;

    if (status == NATS_OK)
        return MIDGE_OK;
    if (status == NATS_TIMEOUT)
        own = MIDGE_E_TIMEOUT;
    else if (status == NATS_NO_RESPONDERS)
        own = MIDGE_E_NO_RESPONDERS;
    else if (status == NATS_CONNECTION_CLOSED || status == NATS_CONNECTION_DISCONNECTED)
        own = MIDGE_E_EOF;
    else if (status == NATS_NO_MEMORY)
        own = MIDGE_E_MEMORY;
    return complain(own, what, natsStatus_GetText(status));
}

static const char *version(void)
{
    static char name[32];

    if (name[0] == '\0')
        (void)snprintf(name, sizeof name, "nats.c %s", nats_GetVersion());
    return name;
}

/* --- waking --- */

/* Whoever waits looks again. Sequentially consistent on both sides: either this thread sees
 * is_waiting, or the one that set it sees what was counted before. */
static void wake(struct midge_driver *driver)
{
    if (!atomic_load(&driver->is_waiting))
        return;
    (void)pthread_mutex_lock(&driver->lock);
    (void)pthread_cond_signal(&driver->is_news);
    (void)pthread_mutex_unlock(&driver->lock);
}

static void note_delivery(struct midge_driver *driver)
{
    if ((atomic_fetch_add(&driver->delivered, 1) + 1) % WAKE_COUNT > 0)
        return;
    atomic_store(&driver->is_due, true);
    wake(driver);
}

/* A thread of the library will call back no more. */
static void end_runner(struct midge_driver *driver)
{
    (void)pthread_mutex_lock(&driver->lock);
    /* Under the lock: destroy frees the driver as soon as it sees 0. */
    (void)atomic_fetch_sub(&driver->runners, 1);
    (void)pthread_cond_signal(&driver->is_news);
    (void)pthread_mutex_unlock(&driver->lock);
}

static struct timespec make_instant(uint64_t at_ns)
{
    return (struct timespec){.tv_sec = (time_t)(at_ns / NS_PER_S),
                             .tv_nsec = (long)(at_ns % NS_PER_S)};
}

/* --- create, destroy --- */

static enum midge_status create(const struct midge_driver_options *options,
                                struct midge_driver **driver_out)
{
    struct midge_driver *driver;
    pthread_condattr_t attributes;

    MIDGE_ASSERT(options->timeout_ms > 0);
    if (options->is_relay)
        return complain(MIDGE_E_CONFIG, "create", "not over a relay");
    driver = (struct midge_driver *)aligned_alloc(64, sizeof *driver);
    if (driver == NULL)
        return complain(MIDGE_E_MEMORY, "create", "no memory");
    memset(driver, 0, sizeof *driver);
    driver->options = *options;
    driver->expiry_ns = UINT64_MAX;
    (void)pthread_mutex_init(&driver->lock, NULL);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&driver->is_news, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    *driver_out = driver;
    return MIDGE_OK;
}

static void destroy_conn(struct midge_driver_conn *conn)
{
    natsMsg_Destroy(conn->reply);
    while (conn->subs != NULL) {
        struct sub *sub = conn->subs;

        conn->subs = sub->next;
        natsSubscription_Destroy(sub->handle);
        free(sub);
    }
    natsConnection_Destroy(conn->handle);
    midge_driver_flights_deinit(&conn->flights);
    (void)pthread_mutex_destroy(&conn->flights_lock);
    (void)pthread_mutex_destroy(&conn->reply_lock);
    free(conn->inbox);
    free(conn);
}

/* @return false: the library's threads did not end */
static bool await_runners(struct midge_driver *driver)
{
    const struct timespec until = make_instant(midge_process_now_ns() + END_MAX_NS);
    bool is_timely = true;

    (void)pthread_mutex_lock(&driver->lock);
    while (atomic_load(&driver->runners) > 0 && is_timely)
        is_timely = pthread_cond_timedwait(&driver->is_news, &driver->lock, &until) == 0;
    (void)pthread_mutex_unlock(&driver->lock);
    return is_timely;
}

static void destroy(struct midge_driver *driver)
{
    if (driver == NULL)
        return;
    atomic_store(&driver->is_ending, true);
    for (struct midge_driver_conn *conn = driver->conns; conn != NULL; conn = conn->next)
        natsConnection_Close(conn->handle);
    if (!await_runners(driver)) {
        /* What they use cannot be freed. */
        (void)complain(MIDGE_E_TIMEOUT, "end", "a call-back does not end");
        return;
    }
    while (driver->conns != NULL) {
        struct midge_driver_conn *conn = driver->conns;

        driver->conns = conn->next;
        destroy_conn(conn);
    }
    (void)pthread_cond_destroy(&driver->is_news);
    (void)pthread_mutex_destroy(&driver->lock);
    free(driver);
}

/* --- connecting --- */

/* In a thread of the library, once for each connection that was made. */
static void take_close(natsConnection *handle, void *context)
{
    struct midge_driver_conn *conn = context;
    struct midge_driver *driver = conn->driver;
    const char *why = NULL;

    if (!atomic_load(&driver->is_ending)) {
        (void)natsConnection_GetLastError(handle, &why);
        (void)complain(MIDGE_E_EOF, "connection closed by the server", why == NULL ? "" : why);
        atomic_store(&conn->is_closed, true);
        (void)atomic_fetch_add(&driver->closed_count, 1);
        wake(driver);
    }
    end_runner(driver);
}

/* In a thread of the library: the server's -ERR, for no subscription has a limit. */
static void take_error(natsConnection *handle, natsSubscription *sub, natsStatus error,
                       void *context)
{
    struct midge_driver_conn *conn = context;
    const char *why = NULL;

    (void)sub;
    if (atomic_load(&conn->driver->is_ending))
        return;
    (void)natsConnection_GetLastError(handle, &why);
    (void)complain(MIDGE_E_PEER_ERR, "server says",
                   why == NULL || why[0] == '\0' ? natsStatus_GetText(error) : why);
    atomic_store(&conn->driver->is_refused, true);
    wake(conn->driver);
}

static natsStatus connect_handle(struct midge_driver_conn *conn)
{
    const struct midge_driver_options *options = &conn->driver->options;
    natsOptions *own = NULL;
    natsStatus status = natsOptions_Create(&own);

    if (status == NATS_OK)
        status = natsOptions_SetURL(own, options->url);
    if (status == NATS_OK)
        status = natsOptions_SetAllowReconnect(own, false);
    if (status == NATS_OK)
        status = natsOptions_SetTimeout(own, options->timeout_ms);
    if (status == NATS_OK)
        status = natsOptions_SetSendAsap(own, !options->may_gather);
    if (status == NATS_OK)
        status = natsOptions_SetClosedCB(own, take_close, conn);
    if (status == NATS_OK)
        status = natsOptions_SetErrorHandler(own, take_error, conn);
    if (status == NATS_OK)
        status = natsConnection_Connect(&conn->handle, own);
    natsOptions_Destroy(own);
    return status;
}

static enum midge_status connect_conn(struct midge_driver *driver,
                                      struct midge_driver_conn **conn_out)
{
    struct midge_driver_conn *conn = calloc(1, sizeof *conn);
    natsStatus status;

    if (conn == NULL)
        return complain(MIDGE_E_MEMORY, "connect", "no memory");
    conn->driver = driver;
    (void)pthread_mutex_init(&conn->flights_lock, NULL);
    (void)pthread_mutex_init(&conn->reply_lock, NULL);
    (void)atomic_fetch_add(&driver->runners, 1);
    status = connect_handle(conn);
    if (status != NATS_OK) {
        /* There is no connection that could close. */
        (void)atomic_fetch_sub(&driver->runners, 1);
        destroy_conn(conn);
        return fail(status, "connect");
    }
    conn->next = driver->conns;
    driver->conns = conn;
    driver->conn_count++;
    *conn_out = conn;
    return MIDGE_OK;
}

/* --- messages --- */

static struct midge_slice payload_of(const natsMsg *msg)
{
    return midge_slice_make(natsMsg_GetData(msg), (uint32_t)natsMsg_GetDataLength(msg));
}

static void take_msg(natsConnection *handle, natsSubscription *subscription, natsMsg *msg,
                     void *context)
{
    const struct sub *sub = context;
    const char *reply = natsMsg_GetReply(msg);
    const struct midge_driver_msg own = {
        .conn = sub->conn,
        .reply = reply == NULL ? midge_slice_make(NULL, 0) : midge_slice_text(reply),
        .payload = payload_of(msg),
    };

    (void)handle;
    (void)subscription;
    sub->msg_cb(sub->context, &own);
    natsMsg_Destroy(msg);
    note_delivery(sub->conn->driver);
}

/* In the subscription's thread, after its last call-back. */
static void take_sub_end(void *context)
{
    struct midge_driver *driver = context;

    end_runner(driver);
}

/* Subscribe, so that destroy waits for the thread that calls back.
 * @param handle_out  own */
static natsStatus subscribe_handle(struct midge_driver_conn *conn, const char *subject,
                                   const char *queue, natsMsgHandler msg_cb, void *context,
                                   natsSubscription **handle_out)
{
    natsStatus status =
        queue == NULL ? natsConnection_Subscribe(handle_out, conn->handle, subject, msg_cb, context)
                      : natsConnection_QueueSubscribe(handle_out, conn->handle, subject, queue,
                                                      msg_cb, context);

    conn->driver->has_subs = true;
    if (status == NATS_OK)
        status = natsSubscription_SetPendingLimits(*handle_out, -1, -1);
    if (status == NATS_OK) {
        (void)atomic_fetch_add(&conn->driver->runners, 1);
        status = natsSubscription_SetOnCompleteCB(*handle_out, take_sub_end, conn->driver);
        if (status != NATS_OK)
            (void)atomic_fetch_sub(&conn->driver->runners, 1);
    }
    return status;
}

static enum midge_status subscribe(struct midge_driver_conn *conn, const char *subject,
                                   const char *queue, void *context, midge_driver_msg_cb msg_cb)
{
    struct sub *sub = calloc(1, sizeof *sub);

    MIDGE_ASSERT(msg_cb != NULL);
    if (sub == NULL)
        return complain(MIDGE_E_MEMORY, "subscribe", "no memory");
    *sub = (struct sub){.conn = conn, .context = context, .msg_cb = msg_cb, .next = conn->subs};
    conn->subs = sub; /* freed with the connection, also after a failure */
    return fail(subscribe_handle(conn, subject, queue, take_msg, sub, &sub->handle), "subscribe");
}

/* The library takes text with a NUL. */
static void make_text(char text[SUBJECT_CAP], struct midge_slice slice)
{
    MIDGE_ASSERT(slice.len < SUBJECT_CAP);
    memcpy(text, slice.base, slice.len);
    text[slice.len] = '\0';
}

/* A message with the header. @param msg_out  own */
static natsStatus make_msg(const char *subject, const char *reply, struct midge_slice payload,
                           natsMsg **msg_out)
{
    natsStatus status =
        natsMsg_Create(msg_out, subject, reply, (const char *)payload.base, (int)payload.len);

    if (status == NATS_OK)
        status = natsMsgHeader_Set(*msg_out, MIDGE_DRIVER_HEADER_NAME, MIDGE_DRIVER_HEADER_VALUE);
    return status;
}

/* @param reply  NULL = none */
static natsStatus publish_text(struct midge_driver_conn *conn, const char *subject,
                               const char *reply, struct midge_slice payload)
{
    natsMsg *msg = NULL;
    natsStatus status;

    if (!conn->driver->options.has_headers)
        return reply == NULL
                   ? natsConnection_Publish(conn->handle, subject, payload.base, (int)payload.len)
                   : natsConnection_PublishRequest(conn->handle, subject, reply, payload.base,
                                                   (int)payload.len);
    status = make_msg(subject, reply, payload, &msg);
    if (status == NATS_OK)
        status = natsConnection_PublishMsg(conn->handle, msg);
    natsMsg_Destroy(msg);
    return status;
}

static enum midge_status publish(struct midge_driver_conn *conn, struct midge_slice subject,
                                 struct midge_slice reply, struct midge_slice payload)
{
    char subject_text[SUBJECT_CAP];
    char reply_text[SUBJECT_CAP];

    make_text(subject_text, subject);
    if (reply.len > 0)
        make_text(reply_text, reply);
    return fail(publish_text(conn, subject_text, reply.len > 0 ? reply_text : NULL, payload),
                "publish");
}

/* With SendAsap nothing is queued, and without it the library's flusher does not wait to be asked.
 */
static enum midge_status flush(struct midge_driver *driver)
{
    (void)driver;
    return MIDGE_OK;
}

/* --- requests --- */

static enum midge_status request(struct midge_driver_conn *conn, const char *subject,
                                 struct midge_slice payload, struct midge_slice *reply_out)
{
    const struct midge_driver_options *options = &conn->driver->options;
    natsStatus status;

    natsMsg_Destroy(conn->reply);
    conn->reply = NULL;
    if (options->has_headers) {
        natsMsg *msg = NULL;

        status = make_msg(subject, NULL, payload, &msg);
        if (status == NATS_OK)
            status =
                natsConnection_RequestMsg(&conn->reply, conn->handle, msg, options->timeout_ms);
        natsMsg_Destroy(msg);
    } else {
        status = natsConnection_Request(&conn->reply, conn->handle, subject, payload.base,
                                        (int)payload.len, options->timeout_ms);
    }
    if (status != NATS_OK)
        return fail(status, subject);
    *reply_out = payload_of(conn->reply);
    return MIDGE_OK;
}

/* Tell the program of an end. */
static void tell(struct midge_driver_conn *conn, enum midge_status status,
                 struct midge_slice payload)
{
    (void)pthread_mutex_lock(&conn->reply_lock);
    conn->reply_cb(conn->context, status, payload);
    (void)pthread_mutex_unlock(&conn->reply_lock);
    note_delivery(conn->driver);
}

static bool end_flight(struct midge_driver_conn *conn, const char *subject)
{
    uint32_t number = 0;
    bool is_ours = strlen(subject) == conn->inbox_len + MIDGE_DRIVER_NUMBER_LEN &&
                   midge_driver_get_number((const uint8_t *)subject + conn->inbox_len, &number);

    if (!is_ours)
        return false;
    (void)pthread_mutex_lock(&conn->flights_lock);
    is_ours = midge_driver_flights_end(&conn->flights, number);
    (void)pthread_mutex_unlock(&conn->flights_lock);
    return is_ours;
}

static void take_reply(natsConnection *handle, natsSubscription *sub, natsMsg *msg, void *context)
{
    struct midge_driver_conn *conn = context;

    (void)handle;
    (void)sub;
    if (!end_flight(conn, natsMsg_GetSubject(msg)))
        (void)atomic_fetch_add(&conn->driver->stray_count, 1);
    else if (natsMsg_IsNoResponders(msg))
        tell(conn, MIDGE_E_NO_RESPONDERS, midge_slice_make(NULL, 0));
    else
        tell(conn, MIDGE_OK, payload_of(msg));
    natsMsg_Destroy(msg);
}

/* A unique prefix with a dot behind it, and the wildcard below it. */
static enum midge_status make_inbox(struct midge_driver_conn *conn)
{
    natsInbox *unique = NULL;
    const natsStatus status = natsInbox_Create(&unique);

    if (status != NATS_OK)
        return fail(status, "inbox");
    conn->inbox_len = strlen(unique) + 1;
    conn->inbox = malloc(conn->inbox_len + MIDGE_DRIVER_NUMBER_LEN + 1);
    if (conn->inbox != NULL)
        (void)snprintf(conn->inbox, conn->inbox_len + 2, "%s.*", unique);
    natsInbox_Destroy(unique);
    return conn->inbox == NULL ? complain(MIDGE_E_MEMORY, "inbox", "no memory") : MIDGE_OK;
}

static uint64_t timeout_ns(const struct midge_driver *driver)
{
    return driver->options.timeout_ms * NS_PER_MS;
}

static enum midge_status prepare_requests(struct midge_driver_conn *conn, uint32_t in_flight_max,
                                          void *context, midge_driver_reply_cb reply_cb)
{
    struct sub *sub;
    enum midge_status status;

    MIDGE_ASSERT(conn->reply_cb == NULL);
    status = make_inbox(conn);
    if (status != MIDGE_OK)
        return status;
    sub = calloc(1, sizeof *sub);
    if (sub == NULL || midge_driver_flights_init(&conn->flights, in_flight_max) != MIDGE_OK) {
        free(sub);
        return complain(MIDGE_E_MEMORY, "requests", "no memory");
    }
    *sub = (struct sub){.conn = conn, .next = conn->subs};
    conn->subs = sub;
    conn->context = context;
    conn->reply_cb = reply_cb;
    if (conn->driver->expiry_ns == UINT64_MAX)
        conn->driver->expiry_ns = midge_driver_tick_ns() + timeout_ns(conn->driver);
    return fail(subscribe_handle(conn, conn->inbox, NULL, take_reply, conn, &sub->handle),
                "requests");
}

/* Also in the threads that call back. */
static enum midge_status begin_request(struct midge_driver_conn *conn, const char *subject,
                                       struct midge_slice payload)
{
    char reply[128];
    uint32_t number = 0;
    natsStatus status;
    bool is_begun;

    MIDGE_ASSERT(conn->inbox_len + MIDGE_DRIVER_NUMBER_LEN < sizeof reply);
    (void)pthread_mutex_lock(&conn->flights_lock);
    /* The clock is read under the lock: see expire_all(). */
    is_begun = midge_driver_flights_begin(
        &conn->flights, midge_driver_tick_ns() + timeout_ns(conn->driver), &number);
    (void)pthread_mutex_unlock(&conn->flights_lock);
    if (!is_begun)
        return MIDGE_FULL;
    memcpy(reply, conn->inbox, conn->inbox_len);
    midge_driver_put_number((uint8_t *)reply + conn->inbox_len, number);
    reply[conn->inbox_len + MIDGE_DRIVER_NUMBER_LEN] = '\0';
    status = publish_text(conn, subject, reply, payload);
    if (status == NATS_OK)
        return MIDGE_OK;
    (void)pthread_mutex_lock(&conn->flights_lock);
    is_begun = midge_driver_flights_end(&conn->flights, number);
    (void)pthread_mutex_unlock(&conn->flights_lock);
    /* Not if it has timed out meanwhile: then its end has been told. */
    return is_begun ? fail(status, subject) : MIDGE_OK;
}

/* --- waiting --- */

/* Tell of the requests of one connection whose time is over. @return when the next one may end */
static uint64_t expire(struct midge_driver_conn *conn, uint64_t now_ns)
{
    const bool is_open = !atomic_load(&conn->is_closed);
    uint64_t next_ns = UINT64_MAX;
    uint32_t left = UINT32_MAX;

    if (conn->reply_cb == NULL)
        return next_ns;
    for (bool is_over = true; is_over && left > 0; left--) {
        (void)pthread_mutex_lock(&conn->flights_lock);
        /* No more than there are now, if the call-back begins others that fail as well. */
        if (left == UINT32_MAX)
            left = conn->flights.count + 1;
        is_over = midge_driver_flights_expire(&conn->flights, is_open ? now_ns : UINT64_MAX);
        next_ns = midge_driver_flights_until_ns(&conn->flights);
        (void)pthread_mutex_unlock(&conn->flights_lock);
        if (is_over) {
            tell(conn, is_open ? MIDGE_E_TIMEOUT : MIDGE_E_DISCONNECTED, midge_slice_make(NULL, 0));
            atomic_store(&conn->driver->is_due, true);
        }
    }
    return next_ns;
}

/* Tell of all requests whose time is over, or whose connection is closed. */
static void expire_all(struct midge_driver *driver, uint64_t now_ns)
{
    uint64_t next_ns = UINT64_MAX;

    /* Before `is_closed` of any is looked at: one that closes later is seen the next time. */
    driver->closed_expired = atomic_load(&driver->closed_count);
    /* Before the first lock: a request that a connection's turn misses reads the clock later. */
    if (driver->expiry_ns != UINT64_MAX)
        next_ns = midge_driver_tick_ns() + timeout_ns(driver);
    for (struct midge_driver_conn *conn = driver->conns; conn != NULL; conn = conn->next) {
        const uint64_t until_ns = expire(conn, now_ns);

        if (until_ns < next_ns)
            next_ns = until_ns;
    }
    driver->expiry_ns = next_ns;
}

/* Something that a wait ends for at once. */
static bool is_urgent(const struct midge_driver *driver)
{
    return atomic_load(&driver->closed_count) != driver->closed_seen ||
           atomic_load(&driver->is_refused) || atomic_load(&driver->is_due) ||
           driver->closed_seen == driver->conn_count;
}

/* What a wait has to tell. @return MIDGE_AGAIN: nothing */
static enum midge_status take_news(struct midge_driver *driver)
{
    uint64_t delivered;

    /* Before the number: what is counted later is due again. */
    atomic_store(&driver->is_due, false);
    delivered = atomic_load(&driver->delivered);
    if (delivered != driver->seen) {
        driver->seen = delivered;
        return MIDGE_OK;
    }
    if (atomic_exchange(&driver->is_refused, false))
        return MIDGE_E_PEER_ERR;
    if (atomic_load(&driver->closed_count) != driver->closed_seen) {
        driver->closed_seen++;
        return MIDGE_E_EOF;
    }
    return driver->closed_seen == driver->conn_count ? MIDGE_E_EOF : MIDGE_AGAIN;
}

/* Until something is urgent or time is over; a signal may end it early. */
static void sleep_until(struct midge_driver *driver, uint64_t until_ns)
{
    const struct timespec until = make_instant(until_ns == UINT64_MAX ? 0 : until_ns);

    (void)pthread_mutex_lock(&driver->lock);
    atomic_store(&driver->is_waiting, true);
    if (!is_urgent(driver)) {
        if (until_ns == UINT64_MAX)
            (void)pthread_cond_wait(&driver->is_news, &driver->lock);
        else
            (void)pthread_cond_timedwait(&driver->is_news, &driver->lock, &until);
    }
    atomic_store(&driver->is_waiting, false);
    (void)pthread_mutex_unlock(&driver->lock);
}

/* Does not read what each message changes, which would slow down those that change it. */
static void spin_until(const struct midge_driver *driver, uint64_t until_ns)
{
    while (!is_urgent(driver) && midge_process_now_ns() < until_ns)
        midge_cpu_pause();
}

/* When a wait looks for what is new. Where nothing can come, it is not worth a look. */
static uint64_t next_look_ns(const struct midge_driver *driver, uint64_t now_ns, uint64_t until_ns)
{
    return driver->has_subs && now_ns + LOOK_NS < until_ns ? now_ns + LOOK_NS : until_ns;
}

static enum midge_status wait_for(struct midge_driver *driver, uint64_t until_ns)
{
    uint64_t now_ns = until_ns == 0 ? 0 : midge_process_now_ns();
    uint64_t look_ns = next_look_ns(driver, now_ns, until_ns);

    MIDGE_ASSERT(driver->conns != NULL);
    for (;;) {
        uint64_t pause_ns;

        if (now_ns >= driver->expiry_ns ||
            atomic_load(&driver->closed_count) != driver->closed_expired)
            expire_all(driver, now_ns);
        if (is_urgent(driver) || now_ns >= look_ns) {
            const enum midge_status status = take_news(driver);

            if (status != MIDGE_AGAIN || now_ns >= until_ns)
                return status;
            look_ns = next_look_ns(driver, now_ns, until_ns);
        }
        pause_ns = driver->expiry_ns < look_ns ? driver->expiry_ns : look_ns;
        if (driver->options.is_spinning)
            spin_until(driver, pause_ns);
        else
            sleep_until(driver, pause_ns);
        now_ns = midge_process_now_ns();
    }
}

static enum midge_status fence(struct midge_driver_conn *conn)
{
    const natsStatus status =
        natsConnection_FlushTimeout(conn->handle, conn->driver->options.timeout_ms);

    if (status != NATS_OK)
        return fail(status, "fence");
    return atomic_exchange(&conn->driver->is_refused, false) ? MIDGE_E_PEER_ERR : MIDGE_OK;
}

static uint64_t strays(const struct midge_driver *driver)
{
    return atomic_load(&driver->stray_count);
}

const struct midge_driver_kind midge_driver_natsc = {
    .name = NAME,
    .has_threads = true,
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
