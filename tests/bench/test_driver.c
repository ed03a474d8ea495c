/*
 * The drivers of midge-bench against real servers, a bare relay, and servers that misbehave.
 *
 * Every case runs for each kind; what a kind cannot (a relay, looking into its queue) is in cases
 * of `raw` alone. The rig of the client library's tests starts the servers.
 *
 *     test_driver --server midge|nats-server [CASE...]
 *
 * MIDGE_FLOOR is the relay.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver.h"
#include "rig.h"

#define SMALL_LEN   16u
#define LARGE_LEN   (1024u * 1024)
#define SMALL_COUNT 10000u
#define LARGE_COUNT 10u

#define REQUEST_COUNT 1000u
#define IN_FLIGHT     64u

/* One wait, beyond which a case has failed. */
#define PATIENCE_NS (RIG_PATIENCE_MS * UINT64_C(1000000))

static struct midge_driver_options options_for(const char *url)
{
    return (struct midge_driver_options){.url = url, .timeout_ms = RIG_PATIENCE_MS};
}

static struct midge_driver *create(const struct midge_driver_kind *kind,
                                   const struct midge_driver_options *options)
{
    struct midge_driver *driver;

    MUST(kind->create_cb(options, &driver));
    return driver;
}

static struct midge_driver_conn *connect_one(const struct midge_driver_kind *kind,
                                             struct midge_driver *driver)
{
    struct midge_driver_conn *conn;

    MUST(kind->connect_cb(driver, &conn));
    return conn;
}

/* Drive until a count is reached; nothing else may happen meanwhile. */
static void await_count(const struct midge_driver_kind *kind, struct midge_driver *driver,
                        const _Atomic uint32_t *count, uint32_t target)
{
    const uint64_t until_ns = midge_rig_now_ns() + PATIENCE_NS;

    while (atomic_load(count) < target)
        MUST(kind->wait_cb(driver, until_ns));
}

/* --- payloads --- */

/* A number, and bytes that follow from it. */
static void fill(uint8_t *bytes, uint32_t len, uint32_t number)
{
    memcpy(bytes, &number, sizeof number);
    for (uint32_t i = sizeof number; i < len; i++)
        bytes[i] = (uint8_t)(number * 7 + i * 13 + (i >> 8));
}

static bool is_filled(struct midge_slice payload, uint32_t len, uint32_t number)
{
    uint8_t *expected = malloc(len);
    bool is_equal;

    CHECK(expected != NULL);
    fill(expected, len, number);
    is_equal = midge_slice_equal(payload, midge_slice_make(expected, len));
    free(expected);
    return is_equal;
}

/* What comes, in order. One writer: one call-back at a time for each connection. */
struct receiver {
    uint32_t len; /* of each payload */
    _Atomic uint32_t count;
    _Atomic uint32_t wrong_count;
};

static void receive(void *context, const struct midge_driver_msg *msg)
{
    struct receiver *receiver = context;
    const uint32_t number = atomic_load(&receiver->count);

    if (msg->reply.len != 0 || !is_filled(msg->payload, receiver->len, number))
        atomic_fetch_add(&receiver->wrong_count, 1);
    atomic_fetch_add(&receiver->count, 1);
}

static void publish_all(const struct midge_driver_kind *kind, struct midge_driver *driver,
                        struct midge_driver_conn *conn, const char *subject, uint32_t count,
                        uint32_t len)
{
    uint8_t *payload = malloc(len);

    CHECK(payload != NULL);
    for (uint32_t i = 0; i < count; i++) {
        enum midge_status status;

        fill(payload, len, i);
        while ((status = kind->publish_cb(conn, midge_slice_text(subject), midge_slice_text(""),
                                          midge_slice_make(payload, len))) == MIDGE_FULL) {
            status = kind->wait_cb(driver, midge_rig_now_ns() + 1000000);
            CHECK(status >= 0);
        }
        MUST(status);
    }
    MUST(kind->flush_cb(driver));
    free(payload);
}

/* --- messages --- */

static void exchange(const struct midge_driver_kind *kind,
                     const struct midge_driver_options *options, uint32_t count, uint32_t len)
{
    struct midge_driver *driver = create(kind, options);
    struct midge_driver_conn *first = connect_one(kind, driver);
    struct midge_driver_conn *second = connect_one(kind, driver);
    struct receiver own = {.len = len};
    struct receiver other = {.len = len};

    MUST(kind->subscribe_cb(first, "messages", NULL, &own, receive));
    MUST(kind->subscribe_cb(second, "messages", NULL, &other, receive));
    MUST(kind->fence_cb(first));
    MUST(kind->fence_cb(second));
    publish_all(kind, driver, first, "messages", count, len);
    await_count(kind, driver, &own.count, count);
    await_count(kind, driver, &other.count, count);
    MUST(kind->fence_cb(first));
    CHECK_EQUAL(atomic_load(&own.count), count);
    CHECK_EQUAL(atomic_load(&other.count), count);
    CHECK_EQUAL(atomic_load(&own.wrong_count), 0);
    CHECK_EQUAL(atomic_load(&other.wrong_count), 0);
    CHECK_EQUAL(kind->strays_cb(driver), 0);
    kind->destroy_cb(driver);
}

static void messages(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    struct midge_driver_options options = options_for(rig->server.url);

    exchange(kind, &options, SMALL_COUNT, SMALL_LEN);
    exchange(kind, &options, LARGE_COUNT, LARGE_LEN);
    exchange(kind, &options, 100, sizeof(uint32_t));
    options.has_headers = true;
    exchange(kind, &options, SMALL_COUNT, SMALL_LEN);
    options.has_headers = false;
    options.is_spinning = true;
    exchange(kind, &options, SMALL_COUNT / 10, SMALL_LEN);
    options.is_spinning = false;
    if (rig->is_midge && strcmp(kind->name, "natsc") != 0) {
        options.url = rig->server.unix_url;
        exchange(kind, &options, SMALL_COUNT, SMALL_LEN);
        exchange(kind, &options, LARGE_COUNT, LARGE_LEN);
    }
}

/* One connection waits in another way than several. */
static void alone(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    for (uint32_t spinning = 0; spinning < 2; spinning++) {
        struct midge_driver_options options = options_for(rig->server.url);
        struct receiver own = {.len = SMALL_LEN};
        struct receiver large = {.len = LARGE_LEN};
        struct midge_driver *driver;
        struct midge_driver_conn *conn;

        options.is_spinning = spinning == 1;
        driver = create(kind, &options);
        conn = connect_one(kind, driver);
        MUST(kind->subscribe_cb(conn, "alone", NULL, &own, receive));
        MUST(kind->subscribe_cb(conn, "large", NULL, &large, receive));
        MUST(kind->fence_cb(conn));
        publish_all(kind, driver, conn, "alone", SMALL_COUNT, SMALL_LEN);
        while (atomic_load(&own.count) < SMALL_COUNT)
            MUST(kind->wait_cb(driver, UINT64_MAX));
        publish_all(kind, driver, conn, "large", LARGE_COUNT, LARGE_LEN);
        while (atomic_load(&large.count) < LARGE_COUNT)
            MUST(kind->wait_cb(driver, UINT64_MAX));
        CHECK_EQUAL(atomic_load(&own.wrong_count), 0);
        CHECK_EQUAL(atomic_load(&large.wrong_count), 0);
        kind->destroy_cb(driver);
    }
}

static void count(void *context, const struct midge_driver_msg *msg)
{
    (void)msg;
    atomic_fetch_add((_Atomic uint32_t *)context, 1);
}

static void queue_group(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    const struct midge_driver_options options = options_for(rig->server.url);
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *conns[3];
    _Atomic uint32_t counts[3] = {0, 0, 0};
    const uint64_t until_ns = midge_rig_now_ns() + PATIENCE_NS;

    for (uint32_t i = 0; i < 3; i++) {
        conns[i] = connect_one(kind, driver);
        MUST(kind->subscribe_cb(conns[i], "group", i < 2 ? "workers" : NULL, &counts[i], count));
        MUST(kind->fence_cb(conns[i]));
    }
    publish_all(kind, driver, conns[2], "group", 1000, SMALL_LEN);
    while (atomic_load(&counts[0]) + atomic_load(&counts[1]) < 1000 ||
           atomic_load(&counts[2]) < 1000)
        MUST(kind->wait_cb(driver, until_ns));
    for (uint32_t i = 0; i < 3; i++)
        MUST(kind->fence_cb(conns[i]));
    CHECK_EQUAL(atomic_load(&counts[0]) + atomic_load(&counts[1]), 1000);
    CHECK_EQUAL(atomic_load(&counts[2]), 1000);
    /* Neither is left out: with chances of one half, once in 2^999. */
    CHECK(atomic_load(&counts[0]) > 0 && atomic_load(&counts[1]) > 0);
    kind->destroy_cb(driver);
}

/* --- requests --- */

/* Answers on a thread and a driver of its own. */
struct echo {
    const struct midge_driver_kind *kind;
    struct midge_driver_options options;
    uint32_t answers; /* to each request */
    _Atomic bool is_ready;
    _Atomic bool is_over;
    pthread_t thread;
};

static void answer(void *context, const struct midge_driver_msg *msg)
{
    const struct echo *echo = context;

    for (uint32_t i = 0; i < echo->answers; i++)
        MUST(echo->kind->publish_cb(msg->conn, msg->reply, midge_slice_text(""), msg->payload));
}

static void *serve(void *context)
{
    struct echo *echo = context;
    struct midge_driver *driver = create(echo->kind, &echo->options);
    struct midge_driver_conn *conn = connect_one(echo->kind, driver);

    MUST(echo->kind->subscribe_cb(conn, "echo", NULL, echo, answer));
    MUST(echo->kind->fence_cb(conn));
    atomic_store(&echo->is_ready, true);
    while (!atomic_load(&echo->is_over))
        CHECK(echo->kind->wait_cb(driver, midge_rig_now_ns() + 5000000) >= 0);
    echo->kind->destroy_cb(driver);
    return NULL;
}

static void start_echo(struct echo *echo, const struct midge_driver_kind *kind,
                       const struct midge_driver_options *options, uint32_t answers)
{
    *echo = (struct echo){.kind = kind, .options = *options, .answers = answers};
    CHECK(pthread_create(&echo->thread, NULL, serve, echo) == 0);
    while (!atomic_load(&echo->is_ready))
        midge_rig_sleep_ms(1);
}

static void end_echo(struct echo *echo)
{
    atomic_store(&echo->is_over, true);
    CHECK(pthread_join(echo->thread, NULL) == 0);
}

static void request_often(const struct midge_driver_kind *kind, struct midge_driver_conn *conn,
                          uint32_t request_count, uint32_t len)
{
    uint8_t *payload = malloc(len);

    CHECK(payload != NULL);
    for (uint32_t i = 0; i < request_count; i++) {
        struct midge_slice reply = midge_slice_text("");

        fill(payload, len, i);
        MUST(kind->request_cb(conn, "echo", midge_slice_make(payload, len), &reply));
        CHECK(is_filled(reply, len, i));
    }
    free(payload);
}

/* Asynchronous requests, each of which begins another one. */
struct requester {
    const struct midge_driver_kind *kind;
    struct midge_driver_conn *conn;
    uint32_t total;
    _Atomic uint32_t begun;
    _Atomic uint32_t ended;
    uint8_t answers[REQUEST_COUNT]; /* to each; written by one call-back at a time */
};

static void begin(struct requester *requester)
{
    uint8_t payload[SMALL_LEN];
    const uint32_t number = atomic_load(&requester->begun);

    CHECK(number < REQUEST_COUNT);
    /* Before: with nats.c the reply may come, and begin the next one, at any time. */
    atomic_store(&requester->begun, number + 1);
    fill(payload, sizeof payload, number);
    MUST(requester->kind->begin_request_cb(requester->conn, "echo",
                                           midge_slice_make(payload, sizeof payload)));
}

static void end(void *context, enum midge_status status, struct midge_slice payload)
{
    struct requester *requester = context;
    uint32_t number = REQUEST_COUNT;

    MUST(status);
    CHECK(payload.len == SMALL_LEN);
    memcpy(&number, payload.base, sizeof number);
    CHECK(number < REQUEST_COUNT);
    CHECK(is_filled(payload, SMALL_LEN, number));
    requester->answers[number]++;
    atomic_fetch_add(&requester->ended, 1);
}

static void request_many(const struct midge_driver_kind *kind, struct midge_driver *driver,
                         struct midge_driver_conn *conn)
{
    struct requester requester = {.kind = kind, .conn = conn, .total = REQUEST_COUNT};
    const uint64_t until_ns = midge_rig_now_ns() + PATIENCE_NS;

    MUST(kind->prepare_requests_cb(conn, IN_FLIGHT, &requester, end));
    while (atomic_load(&requester.ended) < REQUEST_COUNT) {
        while (atomic_load(&requester.begun) < REQUEST_COUNT &&
               atomic_load(&requester.begun) - atomic_load(&requester.ended) < IN_FLIGHT)
            begin(&requester);
        MUST(kind->wait_cb(driver, until_ns));
    }
    MUST(kind->fence_cb(conn));
    for (uint32_t i = 0; i < REQUEST_COUNT; i++)
        CHECK_EQUAL(requester.answers[i], 1);
}

/* One request after the other, each begun when the one before has ended. */
struct chain {
    const struct midge_driver_kind *kind;
    struct midge_driver_conn *conn;
    uint32_t total;
    _Atomic uint32_t ended;
};

static void go_on(void *context, enum midge_status status, struct midge_slice payload)
{
    struct chain *chain = context;

    MUST(status);
    CHECK(midge_slice_equal(payload, midge_slice_text("x")));
    if (atomic_fetch_add(&chain->ended, 1) + 1 < chain->total)
        MUST(chain->kind->begin_request_cb(chain->conn, "echo", midge_slice_text("x")));
}

static void requests(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    for (uint32_t mode = 0; mode < 3; mode++) {
        struct midge_driver_options options = options_for(rig->server.url);
        struct midge_driver *driver;
        struct midge_driver_conn *conn;
        struct echo echo;

        options.has_headers = mode == 1;
        start_echo(&echo, kind, &options, 1);
        options.is_spinning = mode == 2;
        driver = create(kind, &options);
        conn = connect_one(kind, driver);
        request_often(kind, conn, mode == 2 ? REQUEST_COUNT / 10 : REQUEST_COUNT, SMALL_LEN);
        if (mode == 0)
            request_often(kind, conn, 5, LARGE_LEN);
        request_many(kind, driver, conn);
        CHECK_EQUAL(kind->strays_cb(driver), 0);
        kind->destroy_cb(driver);
        end_echo(&echo);
    }
}

/* Requester and responder of one thread. */
static void own_responder(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    const struct midge_driver_options options = options_for(rig->server.url);
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *requester = connect_one(kind, driver);
    struct midge_driver_conn *responder = connect_one(kind, driver);
    struct echo echo = {.kind = kind, .answers = 1};

    MUST(kind->subscribe_cb(responder, "echo", NULL, &echo, answer));
    MUST(kind->fence_cb(responder));
    request_often(kind, requester, 100, SMALL_LEN);
    request_often(kind, requester, 3, LARGE_LEN);
    request_many(kind, driver, requester);
    kind->destroy_cb(driver);
}

/* The end of one request. */
struct ending {
    _Atomic uint32_t count;
    enum midge_status status;
};

static void note_ending(void *context, enum midge_status status, struct midge_slice payload)
{
    struct ending *ending = context;

    CHECK(status == MIDGE_OK || payload.len == 0);
    ending->status = status;
    atomic_fetch_add(&ending->count, 1);
}

static void no_responders(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    const struct midge_driver_options options = options_for(rig->server.url);
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *conn = connect_one(kind, driver);
    struct midge_slice reply;
    struct ending ending = {.status = MIDGE_OK};

    CHECK_STATUS(kind->request_cb(conn, "nobody", midge_slice_text("x"), &reply),
                 MIDGE_E_NO_RESPONDERS);
    MUST(kind->prepare_requests_cb(conn, 1, &ending, note_ending));
    MUST(kind->begin_request_cb(conn, "nobody", midge_slice_text("x")));
    await_count(kind, driver, &ending.count, 1);
    CHECK_EQUAL(ending.status, MIDGE_E_NO_RESPONDERS);
    CHECK_EQUAL(kind->strays_cb(driver), 0);
    kind->destroy_cb(driver);
}

/* Keeps the last request. */
struct keeper {
    char reply[128];
    _Atomic uint32_t count;
};

static void keep(void *context, const struct midge_driver_msg *msg)
{
    struct keeper *keeper = context;

    CHECK(msg->reply.len > 0 && msg->reply.len < sizeof keeper->reply);
    memcpy(keeper->reply, msg->reply.base, msg->reply.len);
    keeper->reply[msg->reply.len] = '\0';
    atomic_fetch_add(&keeper->count, 1);
}

/* A wait with a deadline, or without, sees the end of a request that nobody answers. */
static void time_outs(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    struct midge_driver_options options = options_for(rig->server.url);
    struct midge_driver *silent = create(kind, &options);
    struct midge_driver_conn *listener = connect_one(kind, silent);
    struct midge_driver *driver;
    struct midge_driver_conn *conn;
    struct midge_slice reply;
    struct keeper keeper = {.count = 0};
    struct ending ending = {.status = MIDGE_OK};
    uint32_t taken = 0;

    MUST(kind->subscribe_cb(listener, "silence", NULL, &keeper, keep));
    MUST(kind->fence_cb(listener));
    options.timeout_ms = 30;
    driver = create(kind, &options);
    conn = connect_one(kind, driver);
    CHECK_STATUS(kind->request_cb(conn, "silence", midge_slice_text("x"), &reply), MIDGE_E_TIMEOUT);
    MUST(kind->prepare_requests_cb(conn, 2, &ending, note_ending));
    for (uint32_t i = 0; i < 2; i++) {
        MUST(kind->begin_request_cb(conn, "silence", midge_slice_text("x")));
        MUST(kind->wait_cb(driver, i == 0 ? UINT64_MAX : midge_rig_now_ns() + PATIENCE_NS));
        CHECK_EQUAL(atomic_load(&ending.count), i + 1);
        CHECK_EQUAL(ending.status, MIDGE_E_TIMEOUT);
    }
    await_count(kind, silent, &keeper.count, 3);
    /* The answer to the last one comes late: nobody is told, and it is counted. */
    MUST(kind->publish_cb(listener, midge_slice_text(keeper.reply), midge_slice_text(""),
                          midge_slice_text("late")));
    MUST(kind->fence_cb(listener));
    while (kind->strays_cb(driver) == 0 && taken++ < RIG_PATIENCE_MS)
        CHECK_STATUS(kind->wait_cb(driver, midge_rig_now_ns() + 1000000), MIDGE_AGAIN);
    CHECK_EQUAL(kind->strays_cb(driver), 1);
    CHECK_EQUAL(atomic_load(&ending.count), 2);
    kind->destroy_cb(driver);
    kind->destroy_cb(silent);
}

/* Begins a request that nobody answers. */
struct starter {
    const struct midge_driver_kind *kind;
    struct midge_driver_conn *conn;
};

static void start_request(void *context, const struct midge_driver_msg *msg)
{
    const struct starter *starter = context;

    (void)msg;
    MUST(starter->kind->begin_request_cb(starter->conn, "silence", midge_slice_text("x")));
}

/* Requests of several connections, begun before a wait and, in a call-back, in the midst of one,
 * all end. */
static void time_outs_of_several(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    struct midge_driver_options options = options_for(rig->server.url);
    struct midge_driver *driver;
    struct midge_driver_conn *conns[3];
    struct starter starters[3];
    struct ending ending = {.status = MIDGE_OK};
    _Atomic uint32_t heard = 0;

    options.timeout_ms = 50;
    driver = create(kind, &options);
    for (uint32_t i = 0; i < 3; i++) {
        conns[i] = connect_one(kind, driver);
        starters[i] = (struct starter){.kind = kind, .conn = conns[i]};
        MUST(kind->prepare_requests_cb(conns[i], 2, &ending, note_ending));
        MUST(kind->subscribe_cb(conns[i], "start", NULL, &starters[i], start_request));
    }
    MUST(kind->subscribe_cb(conns[0], "silence", NULL, &heard, count));
    for (uint32_t i = 0; i < 3; i++)
        MUST(kind->fence_cb(conns[i]));
    for (uint32_t round = 1; round <= 3; round++) {
        MUST(kind->begin_request_cb(conns[round % 3], "silence", midge_slice_text("x")));
        MUST(kind->publish_cb(conns[0], midge_slice_text("start"), midge_slice_text(""),
                              midge_slice_text("")));
        while (atomic_load(&ending.count) < 4 * round)
            MUST(kind->wait_cb(driver, midge_rig_now_ns() + PATIENCE_NS));
        CHECK_EQUAL(atomic_load(&heard), 4 * round);
        CHECK_EQUAL(ending.status, MIDGE_E_TIMEOUT);
    }
    kind->destroy_cb(driver);
}

static void doubled_replies(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    const struct midge_driver_options options = options_for(rig->server.url);
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *conn = connect_one(kind, driver);
    struct echo echo;
    uint32_t taken = 0;

    start_echo(&echo, kind, &options, 2);
    request_many(kind, driver, conn);
    /* What no wait has told of yet. */
    CHECK(kind->wait_cb(driver, 0) >= 0);
    while (kind->strays_cb(driver) < REQUEST_COUNT && taken++ < RIG_PATIENCE_MS)
        CHECK_STATUS(kind->wait_cb(driver, midge_rig_now_ns() + 1000000), MIDGE_AGAIN);
    CHECK_EQUAL(kind->strays_cb(driver), REQUEST_COUNT);
    kind->destroy_cb(driver);
    end_echo(&echo);
}

static void in_flight_is_bounded(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    const struct midge_driver_options options = options_for(rig->server.url);
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *conn = connect_one(kind, driver);
    struct keeper keeper = {.count = 0};
    struct ending ending = {.status = MIDGE_E_PARSE};

    MUST(kind->subscribe_cb(conn, "silence", NULL, &keeper, keep));
    MUST(kind->prepare_requests_cb(conn, 1, &ending, note_ending));
    MUST(kind->fence_cb(conn));
    MUST(kind->begin_request_cb(conn, "silence", midge_slice_text("x")));
    CHECK_STATUS(kind->begin_request_cb(conn, "silence", midge_slice_text("x")), MIDGE_FULL);
    await_count(kind, driver, &keeper.count, 1);
    MUST(kind->publish_cb(conn, midge_slice_text(keeper.reply), midge_slice_text(""),
                          midge_slice_text("")));
    await_count(kind, driver, &ending.count, 1);
    CHECK_EQUAL(ending.status, MIDGE_OK);
    MUST(kind->begin_request_cb(conn, "silence", midge_slice_text("x")));
    kind->destroy_cb(driver);
}

/* --- ends --- */

static void deadlines(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    for (uint32_t mode = 0; mode < 4; mode++) {
        struct midge_driver_options options = options_for(rig->server.url);
        struct midge_driver *driver;

        options.is_spinning = (mode & 1) != 0;
        driver = create(kind, &options);
        (void)connect_one(kind, driver);
        if ((mode & 2) != 0)
            (void)connect_one(kind, driver);
        for (uint32_t i = 0; i < 20; i++) {
            /* Some below a millisecond, some above. */
            const uint64_t until_ns = midge_rig_now_ns() + i * UINT64_C(123456);

            CHECK_STATUS(kind->wait_cb(driver, until_ns), MIDGE_AGAIN);
            CHECK(midge_rig_now_ns() >= until_ns);
        }
        CHECK_STATUS(kind->wait_cb(driver, 0), MIDGE_AGAIN);
        CHECK_STATUS(kind->wait_cb(driver, 1), MIDGE_AGAIN); /* long ago */
        kind->destroy_cb(driver);
    }
}

static void server_killed(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    for (uint32_t conn_count = 1; conn_count < 3; conn_count++) {
        struct midge_rig_server server;
        struct midge_driver_options options;
        struct midge_driver *driver;
        struct midge_driver_conn *conns[2];
        struct ending ending = {.status = MIDGE_OK};
        struct keeper keeper = {.count = 0};
        struct midge_slice reply;

        midge_rig_server_start(rig, &server, NULL);
        options = options_for(server.url);
        driver = create(kind, &options);
        for (uint32_t i = 0; i < conn_count; i++)
            conns[i] = connect_one(kind, driver);
        MUST(kind->subscribe_cb(conns[0], "silence", NULL, &keeper, keep));
        MUST(kind->prepare_requests_cb(conns[0], 1, &ending, note_ending));
        MUST(kind->fence_cb(conns[0]));
        MUST(kind->begin_request_cb(conns[0], "silence", midge_slice_text("x")));
        await_count(kind, driver, &keeper.count, 1);
        midge_rig_server_kill(&server);
        /* Each closed connection is told of, the lost request once. */
        for (uint32_t told = 0; told < 2;) {
            const enum midge_status status = kind->wait_cb(driver, UINT64_MAX);

            CHECK(status == MIDGE_OK || status == MIDGE_E_EOF);
            told += status == MIDGE_E_EOF ? 1 : 0;
        }
        CHECK_STATUS(kind->wait_cb(driver, UINT64_MAX), MIDGE_E_EOF);
        CHECK_EQUAL(atomic_load(&ending.count), 1);
        CHECK(ending.status < 0 && ending.status != MIDGE_E_TIMEOUT);
        CHECK(kind->fence_cb(conns[0]) < 0);
        CHECK(kind->request_cb(conns[0], "silence", midge_slice_text("x"), &reply) < 0);
        CHECK(kind->publish_cb(conns[0], midge_slice_text("a"), midge_slice_text(""),
                               midge_slice_text("x")) < 0);
        kind->destroy_cb(driver);
        midge_rig_server_end(&server);
    }
}

/* Also when messages come all the time. */
static void deadlines_among_messages(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    const struct midge_driver_options options = options_for(rig->server.url);
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *conn = connect_one(kind, driver);
    struct receiver receiver = {.len = SMALL_LEN};
    uint32_t told_count = 0;

    MUST(kind->subscribe_cb(conn, "messages", NULL, &receiver, receive));
    MUST(kind->fence_cb(conn));
    for (uint32_t i = 0; i < 100; i++) {
        const uint64_t until_ns = midge_rig_now_ns() + i * UINT64_C(10000);
        uint8_t payload[SMALL_LEN];
        enum midge_status status;

        fill(payload, sizeof payload, i);
        MUST(kind->publish_cb(conn, midge_slice_text("messages"), midge_slice_text(""),
                              midge_slice_make(payload, sizeof payload)));
        while ((status = kind->wait_cb(driver, until_ns)) == MIDGE_OK)
            told_count++;
        CHECK_STATUS(status, MIDGE_AGAIN);
        CHECK(midge_rig_now_ns() >= until_ns);
    }
    await_count(kind, driver, &receiver.count, 100);
    CHECK(kind->wait_cb(driver, 0) >= 0);
    CHECK_EQUAL(atomic_load(&receiver.wrong_count), 0);
    CHECK(told_count > 0);
    kind->destroy_cb(driver);
}

static void nobody_listens(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    char url[64];
    struct midge_driver_options options = options_for(url);
    struct midge_driver *driver;
    struct midge_driver_conn *conn;

    (void)rig;
    (void)snprintf(url, sizeof url, "nats://127.0.0.1:%u", midge_rig_free_port());
    options.timeout_ms = 20;
    driver = create(kind, &options);
    CHECK(kind->connect_cb(driver, &conn) < 0);
    kind->destroy_cb(driver);
    kind->destroy_cb(NULL);
}

/* Says an error once it is subscribed to, and stays. */
static void refuse(struct midge_rig_fake_conn *conn)
{
    if (!midge_rig_fake_accept(conn, "") || !midge_rig_fake_await(conn, "SUB "))
        return;
    midge_rig_fake_send(conn, "-ERR 'Permissions Violation for Subscription to \"secret\"'\r\n");
    (void)midge_rig_fake_await(conn, "never");
}

static void refusal(struct midge_rig *rig, const struct midge_driver_kind *kind)
{
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, refuse);
    const struct midge_driver_options options = options_for(midge_rig_fake_url(fake));
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *conn = connect_one(kind, driver);
    _Atomic uint32_t heard = 0;
    const uint64_t until_ns = midge_rig_now_ns() + PATIENCE_NS;

    (void)rig;
    MUST(kind->subscribe_cb(conn, "secret", NULL, &heard, count));
    CHECK_STATUS(kind->wait_cb(driver, until_ns), MIDGE_E_PEER_ERR);
    kind->destroy_cb(driver);
    midge_rig_fake_end(fake);
}

/* --- raw alone --- */

static void talk_nonsense(struct midge_rig_fake_conn *conn)
{
    if (midge_rig_fake_accept(conn, "")) {
        midge_rig_fake_send(conn, "NONSENSE\r\n");
        (void)midge_rig_fake_await(conn, "never");
    }
}

static void raw_nonsense(struct midge_rig *rig)
{
    const struct midge_driver_kind *kind = &midge_driver_raw;
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_nonsense);
    const struct midge_driver_options options = options_for(midge_rig_fake_url(fake));
    struct midge_driver *driver = create(kind, &options);

    (void)rig;
    (void)connect_one(kind, driver);
    CHECK_STATUS(kind->wait_cb(driver, UINT64_MAX), MIDGE_E_PARSE);
    CHECK_STATUS(kind->wait_cb(driver, UINT64_MAX), MIDGE_E_EOF);
    kind->destroy_cb(driver);
    midge_rig_fake_end(fake);
}

static void ping_the_client(struct midge_rig_fake_conn *conn)
{
    if (!midge_rig_fake_accept(conn, "") || !midge_rig_fake_await(conn, "SUB pinged 1\r\n"))
        return;
    midge_rig_fake_send(conn, "+OK\r\nPING\r\n");
    if (midge_rig_fake_await(conn, "PONG\r\n"))
        midge_rig_fake_send(conn, "MSG pinged 1 2\r\nok\r\n");
    (void)midge_rig_fake_await(conn, "never");
}

static void raw_answers_ping(struct midge_rig *rig)
{
    const struct midge_driver_kind *kind = &midge_driver_raw;
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, ping_the_client);
    const struct midge_driver_options options = options_for(midge_rig_fake_url(fake));
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *conn = connect_one(kind, driver);
    _Atomic uint32_t heard = 0;

    (void)rig;
    MUST(kind->subscribe_cb(conn, "pinged", NULL, &heard, count));
    MUST(kind->wait_cb(driver, UINT64_MAX));
    CHECK_EQUAL(atomic_load(&heard), 1);
    kind->destroy_cb(driver);
    midge_rig_fake_end(fake);
}

/* Sends a message, and reads nothing until it is told to; then everything. */
struct slow_reader {
    _Atomic bool may_read;
    _Atomic uint64_t read_len;
};

static void read_late(struct midge_rig_fake_conn *conn)
{
    static uint8_t bytes[256 * 1024];
    struct slow_reader *reader = conn->context;
    ssize_t len;

    if (!midge_rig_fake_accept(conn, "") || !midge_rig_fake_await(conn, "SUB here 1\r\n"))
        return;
    while (!atomic_load(&reader->may_read)) {
        midge_rig_fake_send(conn, "MSG here 1 2\r\nhi\r\n");
        midge_rig_sleep_ms(1);
    }
    while ((len = recv(conn->fd, bytes, sizeof bytes, 0)) > 0)
        atomic_fetch_add(&reader->read_len, (uint64_t)len);
}

/* A server that does not read fills the queue; what it says is heard all the same, and all that was
 * taken arrives. */
static void raw_full_queue(struct midge_rig *rig)
{
    const struct midge_driver_kind *kind = &midge_driver_raw;
    struct slow_reader reader = {.may_read = false};
    struct midge_rig_fake *fake = midge_rig_fake_start(&reader, read_late);
    const struct midge_driver_options options = options_for(midge_rig_fake_url(fake));
    struct midge_driver *driver = create(kind, &options);
    struct midge_driver_conn *conn = connect_one(kind, driver);
    const uint64_t until_ns = midge_rig_now_ns() + PATIENCE_NS;
    const struct midge_slice subject = midge_slice_text("there");
    const struct midge_slice none = midge_slice_text("");
    uint8_t *payload = calloc(1, LARGE_LEN);
    _Atomic uint32_t heard = 0;
    uint64_t taken_len = 0;
    enum midge_status status;

    (void)rig;
    CHECK(payload != NULL);
    MUST(kind->subscribe_cb(conn, "here", NULL, &heard, count));
    MUST(kind->wait_cb(driver, until_ns));
    while ((status = kind->publish_cb(conn, subject, none, midge_slice_make(payload, LARGE_LEN))) ==
           MIDGE_OK)
        taken_len += strlen("PUB there 1048576\r\n") + LARGE_LEN + 2;
    CHECK_EQUAL(status, MIDGE_FULL);
    CHECK(taken_len > 64u * 1024 * 1024);
    for (uint32_t i = 0; i < 3; i++)
        MUST(kind->wait_cb(driver, i == 0 ? UINT64_MAX : until_ns));
    CHECK(atomic_load(&heard) > 3);
    atomic_store(&reader.may_read, true);
    while (atomic_load(&reader.read_len) < taken_len)
        CHECK(kind->wait_cb(driver, midge_rig_now_ns() + 1000000) >= 0);
    CHECK_EQUAL(atomic_load(&reader.read_len), taken_len);
    MUST(kind->publish_cb(conn, subject, none, none));
    kind->destroy_cb(driver);
    free(payload);
    midge_rig_fake_end(fake);
}

/* The same with several connections, which wait in another way, and less than the queue holds. */
static void raw_full_socket(struct midge_rig *rig)
{
    const struct midge_driver_kind *kind = &midge_driver_raw;
    const uint32_t large_count = 40;
    struct receiver receiver = {.len = LARGE_LEN};
    struct midge_rig_server server;
    struct midge_driver_options options;
    struct midge_driver *driver;
    struct midge_driver_conn *first;
    struct midge_driver_conn *second;

    midge_rig_server_start(rig, &server, NULL);
    options = options_for(server.url);
    driver = create(kind, &options);
    first = connect_one(kind, driver);
    second = connect_one(kind, driver);
    MUST(kind->subscribe_cb(second, "large", NULL, &receiver, receive));
    MUST(kind->fence_cb(second));
    midge_rig_server_signal(&server, SIGSTOP);
    publish_all(kind, driver, first, "large", large_count, LARGE_LEN);
    CHECK_STATUS(kind->wait_cb(driver, midge_rig_now_ns() + 5000000), MIDGE_AGAIN);
    midge_rig_server_signal(&server, SIGCONT);
    await_count(kind, driver, &receiver.count, large_count);
    CHECK_EQUAL(atomic_load(&receiver.wrong_count), 0);
    kind->destroy_cb(driver);
    midge_rig_server_end(&server);
}

/* Start a relay on a Unix socket. @return its process */
static pid_t start_relay(const struct midge_rig *rig, char *url, size_t cap)
{
    const char *program = getenv("MIDGE_FLOOR");
    static uint32_t number;
    pid_t pid;

    CHECK(program != NULL);
    (void)snprintf(url, cap, "unix://%s/relay%u", rig->folder, number++);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)execl(program, program, "--engine", "epoll", "--listen", url, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void end_relay(pid_t pid)
{
    int status = 0;

    /* It ends with its first peer. */
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void relay(struct midge_rig *rig, bool has_headers)
{
    const struct midge_driver_kind *kind = &midge_driver_raw;
    char url[160];
    const pid_t pid = start_relay(rig, url, sizeof url);
    struct midge_driver_options options = options_for(url);
    struct receiver small = {.len = SMALL_LEN};
    struct receiver large = {.len = LARGE_LEN};
    struct midge_driver *driver;
    struct midge_driver_conn *first;
    struct midge_driver_conn *second;
    struct echo echo = {.kind = kind, .answers = 1};

    options.is_relay = true;
    options.has_headers = has_headers;
    driver = create(kind, &options);
    first = connect_one(kind, driver);
    second = connect_one(kind, driver);
    MUST(kind->subscribe_cb(second, "small", NULL, &small, receive));
    MUST(kind->subscribe_cb(second, "large", NULL, &large, receive));
    MUST(kind->subscribe_cb(second, "echo", NULL, &echo, answer));
    MUST(kind->fence_cb(second));
    publish_all(kind, driver, first, "small", SMALL_COUNT, SMALL_LEN);
    await_count(kind, driver, &small.count, SMALL_COUNT);
    publish_all(kind, driver, first, "large", LARGE_COUNT, LARGE_LEN);
    await_count(kind, driver, &large.count, LARGE_COUNT);
    CHECK_EQUAL(atomic_load(&small.wrong_count), 0);
    CHECK_EQUAL(atomic_load(&large.wrong_count), 0);
    request_often(kind, first, REQUEST_COUNT, SMALL_LEN);
    request_often(kind, first, 3, LARGE_LEN);
    request_many(kind, driver, first);
    CHECK_EQUAL(kind->strays_cb(driver), 0);
    kind->destroy_cb(driver);
    end_relay(pid);
}

static void raw_relay(struct midge_rig *rig)
{
    relay(rig, false);
    relay(rig, true);
}

#ifdef MIDGE_HAVE_LIBNATS

/* --- natsc alone --- */

/* Waits that end before their time, on the waiting thread. */
#define CALM_NS    UINT64_C(10000000) /* for each of them, at least */
#define CALM_COUNT 100u               /* call-backs for each of them, at least */

/* Replies do not wake the thread that waits, which a program that works in call-backs lacks. */
static void natsc_replies_wake_nobody(struct midge_rig *rig)
{
    const struct midge_driver_kind *kind = &midge_driver_natsc;

    for (uint32_t spinning = 0; spinning < 2; spinning++) {
        struct midge_driver_options options = options_for(rig->server.url);
        struct midge_driver *driver;
        struct midge_driver_conn *conn;
        struct chain chain = {.kind = kind, .total = 2000};
        struct echo echo;
        uint64_t begin_ns;
        uint64_t wait_count = 0;

        start_echo(&echo, kind, &options, 1);
        options.is_spinning = spinning == 1;
        driver = create(kind, &options);
        conn = connect_one(kind, driver);
        chain.conn = conn;
        MUST(kind->prepare_requests_cb(conn, 1, &chain, go_on));
        begin_ns = midge_rig_now_ns();
        MUST(kind->begin_request_cb(conn, "echo", midge_slice_text("x")));
        for (; atomic_load(&chain.ended) < chain.total; wait_count++)
            MUST(kind->wait_cb(driver, UINT64_MAX));
        CHECK(wait_count <= 1 + (midge_rig_now_ns() - begin_ns) / CALM_NS + 2000 / CALM_COUNT);
        kind->destroy_cb(driver);
        end_echo(&echo);
    }
}

#endif

/* --- all --- */

static void names(struct midge_rig *rig)
{
    (void)rig;
    CHECK(midge_driver_find("raw") == &midge_driver_raw);
    CHECK(midge_driver_find("midge") == &midge_driver_midge);
#ifdef MIDGE_HAVE_LIBNATS
    CHECK(midge_driver_find("natsc") == &midge_driver_natsc);
    CHECK(strcmp(midge_driver_names(), "midge, natsc, raw") == 0);
    CHECK(strncmp(midge_driver_natsc.version_cb(), "nats.c 3.", 9) == 0);
#else
    CHECK(midge_driver_find("natsc") == NULL);
    CHECK(strcmp(midge_driver_names(), "midge, raw") == 0);
#endif
    CHECK(midge_driver_find("") == NULL);
    CHECK(strcmp(midge_driver_midge.version_cb(), "libmidge " MIDGE_VERSION) == 0);
    CHECK(strcmp(midge_driver_raw.version_cb(), "plain sockets") == 0);
}

/* One function for each kind: the rig knows cases by their names. */
#define CASES_OF(X, kind)                                                                          \
    X(kind, messages)                                                                              \
    X(kind, alone)                                                                                 \
    X(kind, queue_group)                                                                           \
    X(kind, requests)                                                                              \
    X(kind, own_responder)                                                                         \
    X(kind, no_responders)                                                                         \
    X(kind, time_outs)                                                                             \
    X(kind, time_outs_of_several)                                                                  \
    X(kind, doubled_replies)                                                                       \
    X(kind, in_flight_is_bounded)                                                                  \
    X(kind, deadlines)                                                                             \
    X(kind, deadlines_among_messages)                                                              \
    X(kind, server_killed)                                                                         \
    X(kind, nobody_listens)                                                                        \
    X(kind, refusal)

#define DEFINE(kind, name)                                                                         \
    static void kind##_##name(struct midge_rig *rig)                                               \
    {                                                                                              \
        name(rig, &midge_driver_##kind);                                                           \
    }
#define ROW(kind, name) RIG_CASE(kind##_##name),

CASES_OF(DEFINE, raw)
CASES_OF(DEFINE, midge)
#ifdef MIDGE_HAVE_LIBNATS
CASES_OF(DEFINE, natsc)
#endif

static const struct midge_rig_case cases[] = {RIG_CASE(names),
                                              RIG_CASE(raw_nonsense),
                                              RIG_CASE(raw_answers_ping),
                                              RIG_CASE(raw_full_queue),
                                              RIG_CASE(raw_full_socket),
                                              RIG_CASE(raw_relay),
                                              CASES_OF(ROW, raw) CASES_OF(ROW, midge)
#ifdef MIDGE_HAVE_LIBNATS
                                                  RIG_CASE(natsc_replies_wake_nobody),
                                              CASES_OF(ROW, natsc)
#endif
};

int main(int argc, char **argv)
{
    return midge_rig_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
