/*
 * The driver of libmidge: one loop, its clients, and no thread but ours.
 *
 * A wait is midge_loop_wait(), whose time-outs are whole milliseconds. What is left of a deadline
 * is polled away, with sched_yield() between the polls: up to 1 ms of a core for each wait that
 * ends by its deadline, and some 0.5 us later news than from a sleep in the kernel where another
 * thread takes its turn. The library's descriptor would have nanoseconds (ppoll), but once it is
 * asked for, none of its calls waits any more, and that way of use is not what is measured here.
 *
 * Thread: shard (one owner, no atomics).
 * Memory: the library's.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <midge/client.h>

#include "driver.h"
#include "driver_internal.h"

#define NAME "midge"

#define NS_PER_MS UINT64_C(1000000)

/* Longer than any run, and still a number of microseconds in 32 bits. */
#define SPIN_FOREVER_US 3600000000u

/* Bytes of a subject with its NUL. Source: midge/client.h, struct midge_outgoing. */
#define SUBJECT_CAP 4001u

struct sub {
    struct midge_driver_conn *conn;
    void *context;
    midge_driver_msg_cb msg_cb;
    struct sub *next;
};

struct midge_driver_conn {
    struct midge_driver *driver;    /* borrow */
    struct midge_driver_conn *next; /* of all */
    struct midge_client *client;    /* own */
    struct sub *subs;               /* own; the newest first */
    bool is_open;
    void *context;
    midge_driver_reply_cb reply_cb;
    uint32_t in_flight;
    uint32_t in_flight_max;
};

struct midge_driver {
    struct midge_driver_options options;
    struct midge_loop *loop;         /* own */
    struct midge_headers *headers;   /* own; NULL = none */
    struct midge_driver_conn *conns; /* own; the newest first */
    uint32_t open_count;
    uint64_t delivered; /* call-backs called */
    uint64_t seen;      /* … that a wait has told of */
    enum midge_status unsaid;
    bool is_ending; /* closes are ours */
};

static const char *version(void)
{
    return "libmidge " MIDGE_VERSION;
}

static enum midge_status fail(enum midge_status status, const char *what,
                              const struct midge_client *client)
{
    const char *error = client == NULL ? "" : midge_client_error(client);

    return midge_driver_complain(NAME, status, what,
                                 error[0] == '\0' ? midge_client_status_text(status) : error);
}

static void destroy(struct midge_driver *driver)
{
    if (driver == NULL)
        return;
    driver->is_ending = true;
    while (driver->conns != NULL) {
        struct midge_driver_conn *conn = driver->conns;

        driver->conns = conn->next;
        midge_client_destroy(conn->client);
        while (conn->subs != NULL) {
            struct sub *sub = conn->subs;

            conn->subs = sub->next;
            free(sub);
        }
        free(conn);
    }
    midge_headers_destroy(driver->headers);
    midge_loop_destroy(driver->loop);
    free(driver);
}

static enum midge_status create(const struct midge_driver_options *options,
                                struct midge_driver **driver_out)
{
    struct midge_driver *driver;
    enum midge_status status;

    MIDGE_ASSERT(options->timeout_ms > 0);
    if (options->is_relay)
        return midge_driver_complain(NAME, MIDGE_E_CONFIG, "create", "not over a relay");
    driver = calloc(1, sizeof *driver);
    if (driver == NULL)
        return fail(MIDGE_E_MEMORY, "create", NULL);
    driver->options = *options;
    status =
        midge_loop_create(MIDGE_IO_AUTO, options->is_spinning ? SPIN_FOREVER_US : 0, &driver->loop);
    if (status == MIDGE_OK && options->has_headers) {
        driver->headers = midge_headers_create();
        status = driver->headers == NULL
                     ? MIDGE_E_MEMORY
                     : midge_headers_add(driver->headers, MIDGE_DRIVER_HEADER_NAME,
                                         MIDGE_DRIVER_HEADER_VALUE);
    }
    if (status != MIDGE_OK) {
        destroy(driver);
        return fail(status, "create", NULL);
    }
    *driver_out = driver;
    return MIDGE_OK;
}

/* --- connecting --- */

static void take_event(void *context, const struct midge_event *event)
{
    struct midge_driver_conn *conn = context;
    struct midge_driver *driver = conn->driver;

    /* What fails while connecting, connect_conn() says. */
    if (driver->is_ending || !conn->is_open)
        return;
    if (event->kind == MIDGE_EVENT_ERROR) {
        (void)midge_driver_complain(NAME, MIDGE_E_PEER_ERR, "server says", event->text);
        driver->unsaid = MIDGE_E_PEER_ERR;
    } else if (event->kind == MIDGE_EVENT_CLOSED) {
        conn->is_open = false;
        driver->open_count--;
        (void)midge_driver_complain(NAME, MIDGE_E_EOF, "connection", "closed by the server");
        if (driver->unsaid == MIDGE_OK)
            driver->unsaid = MIDGE_E_EOF;
    }
}

static enum midge_status connect_client(struct midge_driver *driver, struct midge_driver_conn *conn)
{
    struct midge_options options;
    enum midge_status status;

    midge_options_init(&options);
    options.url = driver->options.url;
    options.loop = driver->loop;
    options.reconnect_max = 0;
    options.connect_timeout_ms = driver->options.timeout_ms;
    options.send_wait_ms = 0; /* MIDGE_FULL at once */
    options.context = conn;
    options.event_cb = take_event;
    status = midge_client_create(&options, &conn->client, NULL);
    return status == MIDGE_OK ? midge_client_connect(conn->client, driver->options.timeout_ms)
                              : status;
}

static enum midge_status connect_conn(struct midge_driver *driver,
                                      struct midge_driver_conn **conn_out)
{
    struct midge_driver_conn *conn = calloc(1, sizeof *conn);
    enum midge_status status;

    if (conn == NULL)
        return fail(MIDGE_E_MEMORY, "connect", NULL);
    conn->driver = driver;
    status = connect_client(driver, conn);
    if (status != MIDGE_OK) {
        (void)fail(status, "connect", conn->client);
        midge_client_destroy(conn->client);
        free(conn);
        return status;
    }
    conn->is_open = true;
    conn->next = driver->conns;
    driver->conns = conn;
    driver->open_count++;
    *conn_out = conn;
    return MIDGE_OK;
}

/* --- messages --- */

static void take_msg(void *context, const struct midge_msg *msg)
{
    const struct sub *sub = context;
    const struct midge_driver_msg own = {
        .conn = sub->conn, .reply = msg->reply, .payload = msg->payload};

    sub->conn->driver->delivered++;
    sub->msg_cb(sub->context, &own);
}

static enum midge_status subscribe(struct midge_driver_conn *conn, const char *subject,
                                   const char *queue, void *context, midge_driver_msg_cb msg_cb)
{
    const struct midge_sub_options options = {.queue = queue};
    struct sub *sub = calloc(1, sizeof *sub);
    struct midge_sub *handle; /* ends with its client */
    enum midge_status status;

    MIDGE_ASSERT(msg_cb != NULL);
    if (sub == NULL)
        return fail(MIDGE_E_MEMORY, "subscribe", NULL);
    *sub = (struct sub){.conn = conn, .context = context, .msg_cb = msg_cb, .next = conn->subs};
    status = midge_client_subscribe(conn->client, subject, &options, &handle, sub, take_msg);
    if (status != MIDGE_OK) {
        free(sub);
        return fail(status, "subscribe", conn->client);
    }
    conn->subs = sub;
    return MIDGE_OK;
}

/* The library takes text with a NUL. */
static void make_text(char text[SUBJECT_CAP], struct midge_slice slice)
{
    MIDGE_ASSERT(slice.len < SUBJECT_CAP);
    memcpy(text, slice.base, slice.len);
    text[slice.len] = '\0';
}

static enum midge_status publish(struct midge_driver_conn *conn, struct midge_slice subject,
                                 struct midge_slice reply, struct midge_slice payload)
{
    char subject_text[SUBJECT_CAP];
    char reply_text[SUBJECT_CAP];
    struct midge_outgoing outgoing = {
        .subject = subject_text,
        .headers = conn->driver->headers,
        .payload = payload.base,
        .payload_len = payload.len,
    };
    enum midge_status status;

    make_text(subject_text, subject);
    if (reply.len > 0) {
        make_text(reply_text, reply);
        outgoing.reply = reply_text;
    }
    status = midge_client_publish_msg(conn->client, &outgoing);
    return MIDGE_LIKELY(status >= 0) ? status : fail(status, "publish", conn->client);
}

static enum midge_status flush(struct midge_driver *driver)
{
    for (struct midge_driver_conn *conn = driver->conns; conn != NULL; conn = conn->next) {
        const enum midge_status status =
            conn->is_open ? midge_client_submit(conn->client) : MIDGE_OK;

        if (MIDGE_UNLIKELY(status < 0))
            return fail(status, "flush", conn->client);
    }
    return MIDGE_OK;
}

/* --- requests --- */

static enum midge_status request(struct midge_driver_conn *conn, const char *subject,
                                 struct midge_slice payload, struct midge_slice *reply_out)
{
    const struct midge_driver *driver = conn->driver;
    const struct midge_msg *reply;
    enum midge_status status;

    if (driver->headers == NULL) {
        status = midge_client_request(conn->client, subject, payload.base, payload.len,
                                      driver->options.timeout_ms, &reply);
    } else {
        const struct midge_outgoing outgoing = {
            .subject = subject,
            .headers = driver->headers,
            .payload = payload.base,
            .payload_len = payload.len,
        };

        status =
            midge_client_request_msg(conn->client, &outgoing, driver->options.timeout_ms, &reply);
    }
    if (MIDGE_UNLIKELY(status != MIDGE_OK))
        return fail(status, subject, conn->client);
    *reply_out = reply->payload;
    return MIDGE_OK;
}

static enum midge_status prepare_requests(struct midge_driver_conn *conn, uint32_t in_flight_max,
                                          void *context, midge_driver_reply_cb reply_cb)
{
    MIDGE_ASSERT(conn->reply_cb == NULL);
    MIDGE_ASSERT(in_flight_max > 0);
    conn->in_flight_max = in_flight_max;
    conn->context = context;
    conn->reply_cb = reply_cb;
    return MIDGE_OK;
}

static void take_reply(void *context, enum midge_status status, const struct midge_msg *msg)
{
    struct midge_driver_conn *conn = context;

    if (conn->driver->is_ending)
        return;
    conn->in_flight--;
    conn->driver->delivered++;
    conn->reply_cb(conn->context, status,
                   status == MIDGE_OK ? msg->payload : midge_slice_make(NULL, 0));
}

static enum midge_status begin_request(struct midge_driver_conn *conn, const char *subject,
                                       struct midge_slice payload)
{
    const struct midge_outgoing outgoing = {
        .subject = subject,
        .headers = conn->driver->headers,
        .payload = payload.base,
        .payload_len = payload.len,
    };
    const struct midge_request_options options = {.timeout_ms = conn->driver->options.timeout_ms};
    enum midge_status status;

    MIDGE_ASSERT(conn->reply_cb != NULL);
    if (conn->in_flight == conn->in_flight_max)
        return MIDGE_FULL;
    status = midge_client_request_async(conn->client, &outgoing, &options, NULL, conn, take_reply);
    if (MIDGE_LIKELY(status == MIDGE_OK))
        conn->in_flight++;
    return MIDGE_LIKELY(status >= 0) ? status : fail(status, subject, conn->client);
}

/* --- waiting --- */

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

/* One call of the library, as long as it may take. */
static enum midge_status step(struct midge_driver *driver, uint64_t until_ns, bool *is_over_out)
{
    uint64_t now_ns;
    enum midge_status status;

    if (until_ns == UINT64_MAX)
        return midge_loop_wait(driver->loop, MIDGE_FOREVER);
    now_ns = until_ns == 0 ? 0 : midge_process_now_ns();
    if (!driver->options.is_spinning && now_ns < until_ns && until_ns - now_ns >= NS_PER_MS) {
        const uint64_t left_ms = (until_ns - now_ns) / NS_PER_MS;

        return midge_loop_wait(driver->loop,
                               left_ms < MIDGE_FOREVER ? (uint32_t)left_ms : MIDGE_FOREVER - 1);
    }
    status = midge_loop_poll(driver->loop);
    *is_over_out = now_ns >= until_ns;
    if (status == MIDGE_AGAIN && !*is_over_out && !driver->options.is_spinning)
        (void)sched_yield();
    return status;
}

static enum midge_status wait_for(struct midge_driver *driver, uint64_t until_ns)
{
    enum midge_status status = take_news(driver);
    bool is_over = false;

    MIDGE_ASSERT(driver->conns != NULL);
    /* Something came in a fence: what is queued must go all the same. */
    if (MIDGE_UNLIKELY(status != MIDGE_AGAIN)) {
        const enum midge_status flushed = status == MIDGE_OK ? flush(driver) : MIDGE_OK;

        return flushed == MIDGE_OK ? status : flushed;
    }
    for (;;) {
        status = step(driver, until_ns, &is_over);
        if (MIDGE_UNLIKELY(status < 0))
            return fail(status, "wait", NULL);
        status = take_news(driver);
        if (status != MIDGE_AGAIN || is_over)
            return status;
    }
}

static enum midge_status fence(struct midge_driver_conn *conn)
{
    struct midge_driver *driver = conn->driver;
    enum midge_status status = midge_client_flush(conn->client, driver->options.timeout_ms, NULL);

    if (status != MIDGE_OK)
        return fail(status, "fence", conn->client);
    status = driver->unsaid;
    driver->unsaid = MIDGE_OK;
    return status; /* the reason has been said */
}

static uint64_t strays(const struct midge_driver *driver)
{
    uint64_t count = 0;

    for (const struct midge_driver_conn *conn = driver->conns; conn != NULL; conn = conn->next) {
        struct midge_client_stats stats;

        midge_client_read_stats(conn->client, &stats);
        count += stats.stray_msgs + stats.dropped_msgs;
    }
    return count;
}

const struct midge_driver_kind midge_driver_midge = {
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
