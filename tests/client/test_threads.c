/*
 * Many threads and one client, which is thread-safe: each gets its own, and nobody waits for
 * another longer than it must.
 *
 * Method: payloads carry the number of their thread and one of their own, so what is lost, doubled,
 * swapped or given to the wrong thread is found. Where a thread must be waiting already, the main
 * one sleeps a little first: if it was too short, the case passes for less, and never fails for it.
 *
 * Thread: each function that a thread begins with says so by its context.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "rig.h"

#define THREADS_MAX 8u

/* Until a thread that was just started is waiting, most likely. */
#define SETTLE_MS 20u

/* --- threads --- */

/* What one thread works with. */
struct worker {
    struct midge_client *client;
    struct midge_sub *sub;
    uint32_t number;
    uint32_t count; /* how much to do, or what was done */
    enum midge_status status;
    _Atomic bool *is_over; /* NULL = it ends by itself */
    _Atomic bool has_ended;
    _Atomic uint32_t *left;
    pthread_t thread;
};

static void start(struct worker *worker, void *(*run)(void *context))
{
    CHECK(pthread_create(&worker->thread, NULL, run, worker) == 0);
}

static void start_all(struct worker *workers, uint32_t count, struct midge_client *client,
                      uint32_t work, void *(*run)(void *context))
{
    for (uint32_t i = 0; i < count; i++) {
        workers[i].client = client;
        workers[i].number = i;
        workers[i].count = work;
        start(&workers[i], run);
    }
}

static void join(const struct worker *worker)
{
    CHECK(pthread_join(worker->thread, NULL) == 0);
}

static void join_all(const struct worker *workers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        join(&workers[i]);
}

/* A client that answers on `echo`, driven by a thread of its own until it is interrupted. */
struct responder {
    struct midge_client *client;
    pthread_t thread;
};

static void *respond(void *context)
{
    CHECK_STATUS(midge_client_run(context), MIDGE_AGAIN);
    return NULL;
}

static void start_responder(struct midge_rig *rig, struct responder *responder)
{
    responder->client = midge_rig_connect(rig, NULL);
    (void)midge_rig_listen(responder->client, "echo", NULL, midge_rig_echo);
    CHECK(pthread_create(&responder->thread, NULL, respond, responder->client) == 0);
}

static void end_responder(struct responder *responder)
{
    midge_client_interrupt(responder->client);
    CHECK(pthread_join(responder->thread, NULL) == 0);
    midge_client_destroy(responder->client);
}

/* --- each its own --- */

/* What a message says of itself. */
struct stamp {
    uint32_t thread;
    uint32_t number;
};

static struct stamp stamp_of(const struct midge_msg *msg)
{
    struct stamp stamp;

    CHECK(msg->payload.len >= sizeof(stamp));
    memcpy(&stamp, msg->payload.base, sizeof(stamp));
    CHECK(stamp.thread < THREADS_MAX);
    return stamp;
}

static void request_once(const struct worker *worker, uint32_t number)
{
    const struct stamp asked = {.thread = worker->number, .number = number};
    const struct midge_msg *reply;
    struct stamp got;

    MUST(midge_client_request(worker->client, "echo", &asked, sizeof(asked), RIG_PATIENCE_MS,
                              &reply));
    got = stamp_of(reply);
    CHECK_EQUAL(got.thread, asked.thread);
    CHECK_EQUAL(got.number, asked.number);
    midge_msg_release(reply);
}

static void *request_often(void *context)
{
    const struct worker *worker = context;

    for (uint32_t i = 0; i < worker->count; i++)
        request_once(worker, i);
    return NULL;
}

static void replies_find_the_thread_that_asked(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct worker workers[THREADS_MAX] = {0};
    struct responder responder;

    start_responder(rig, &responder);
    start_all(workers, THREADS_MAX, client, 200, request_often);
    join_all(workers, THREADS_MAX);
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 0);
    CHECK_EQUAL(midge_rig_stats(client).in_msgs, THREADS_MAX * 200);
    end_responder(&responder);
    midge_client_destroy(client);
}

static void replies_may_come_from_the_same_client(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct worker workers[THREADS_MAX] = {0};

    /* Whoever reads answers for all. */
    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    start_all(workers, THREADS_MAX, client, 200, request_often);
    join_all(workers, THREADS_MAX);
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 0);
    midge_client_destroy(client);
}

/* What a subscriber saw of each thread. */
struct tally {
    uint32_t next[THREADS_MAX]; /* number */
    uint32_t count;
};

static void note_stamp(void *context, const struct midge_msg *msg)
{
    struct tally *tally = context;
    const struct stamp stamp = stamp_of(msg);

    CHECK_EQUAL(stamp.number, tally->next[stamp.thread]);
    tally->next[stamp.thread]++;
    tally->count++;
}

/* The message of one thread and number, with enough behind it to fill a send. */
static void publish_often(const struct worker *worker, uint32_t payload_len)
{
    uint8_t *payload = calloc(1, payload_len);

    CHECK(payload != NULL);
    for (uint32_t i = 0; i < worker->count; i++) {
        const struct stamp stamp = {.thread = worker->number, .number = i};
        memcpy(payload, &stamp, sizeof(stamp));
        MUST(midge_client_publish(worker->client, "stamps", payload, payload_len));
    }
    free(payload);
}

static void *publish_short(void *context)
{
    publish_often(context, sizeof(struct stamp));
    return NULL;
}

static void *publish_long(void *context)
{
    publish_often(context, 20000);
    return NULL;
}

static void check_published(struct midge_rig *rig, const struct midge_options *options,
                            uint32_t each, void *(*run)(void *context))
{
    struct midge_client *publisher = midge_rig_connect(rig, options);
    struct midge_client *subscriber = midge_rig_connect(rig, NULL);
    struct worker workers[THREADS_MAX] = {0};
    struct tally tally = {0};

    (void)midge_rig_listen(subscriber, "stamps", &tally, note_stamp);
    start_all(workers, THREADS_MAX, publisher, each, run);
    WAIT_UNTIL(subscriber, tally.count == THREADS_MAX * each);
    join_all(workers, THREADS_MAX);
    midge_rig_flush(subscriber);
    CHECK_EQUAL(tally.count, THREADS_MAX * each);
    CHECK_EQUAL(midge_rig_stats(publisher).out_msgs, THREADS_MAX * each);
    CHECK_EQUAL(midge_rig_stats(publisher).queued_bytes, 0);
    midge_client_destroy(subscriber);
    midge_client_destroy(publisher);
}

static void published_messages_arrive_once_and_in_order(struct midge_rig *rig)
{
    check_published(rig, NULL, 2000, publish_short);
}

static void publishers_wait_for_room_beside_each_other(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);

    options.send_bytes_max = 30000;
    options.send_wait_ms = RIG_PATIENCE_MS;
    check_published(rig, &options, 150, publish_long);
}

static void publishing_goes_on_when_there_is_room_again(struct midge_rig *rig)
{
    static const uint8_t payload[65536];
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct midge_client *client;
    uint64_t begun_ns;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    client = midge_rig_connect(rig, &options);
    midge_rig_server_signal(&server, SIGSTOP);
    do {
        MUST(midge_client_publish(client, "room", payload, sizeof(payload)));
    } while (midge_rig_stats(client).queued_bytes == 0);
    midge_rig_server_signal(&server, SIGCONT);
    /* No thread drives. */
    begun_ns = midge_rig_now_ns();
    while (midge_rig_stats(client).queued_bytes > 0) {
        CHECK(midge_rig_now_ns() - begun_ns < RIG_PATIENCE_MS * 1000000ull);
        midge_rig_sleep_ms(1);
        midge_rig_publish(client, "room", "x");
    }
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void *flush_often(void *context)
{
    const struct worker *worker = context;

    for (uint32_t i = 0; i < worker->count; i++) {
        uint64_t rtt_ns = 0;
        MUST(midge_client_publish(worker->client, "flushed", "", 0));
        MUST(midge_client_flush(worker->client, RIG_PATIENCE_MS, &rtt_ns));
        CHECK(rtt_ns > 0);
    }
    return NULL;
}

static void flushes_of_many_threads_return(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct worker workers[THREADS_MAX] = {0};

    start_all(workers, THREADS_MAX, client, 200, flush_often);
    join_all(workers, THREADS_MAX);
    CHECK_EQUAL(midge_rig_stats(client).out_msgs, THREADS_MAX * 200);
    midge_client_destroy(client);
}

/* --- one subscription, many takers --- */

static void *take_all(void *context)
{
    struct worker *worker = context;
    const struct midge_msg *msg;
    uint32_t before = 0; /* number of the last one, from 1 */

    while ((worker->status = midge_sub_next(worker->sub, RIG_PATIENCE_MS, &msg)) == MIDGE_OK) {
        const struct stamp stamp = stamp_of(msg);
        /* Who takes later gets a later one. */
        CHECK(stamp.number + 1 > before);
        before = stamp.number + 1;
        worker->count++;
        atomic_fetch_sub_explicit(worker->left, 1, memory_order_relaxed);
        midge_msg_release(msg);
    }
    return NULL;
}

static void messages_of_one_subscription_are_taken_once_each(struct midge_rig *rig)
{
    enum {
        takers = 4,
        count = 4000
    };
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "stamps");
    struct worker publisher = {.client = client, .count = count};
    struct worker workers[takers] = {0};
    _Atomic uint32_t left = count;
    uint32_t taken = 0;

    for (uint32_t i = 0; i < takers; i++) {
        workers[i].sub = sub;
        workers[i].left = &left;
        start(&workers[i], take_all);
    }
    (void)publish_short(&publisher);
    WAIT_UNTIL(client, atomic_load_explicit(&left, memory_order_relaxed) == 0);
    /* Those that wait for another one are told that none will come. */
    MUST(midge_sub_unsubscribe(sub, 0));
    for (uint32_t i = 0; i < takers; i++) {
        join(&workers[i]);
        CHECK_STATUS(workers[i].status, MIDGE_E_SUB_ENDED);
        taken += workers[i].count;
    }
    CHECK_EQUAL(taken, count);
    midge_client_destroy(client);
}

/* --- the reader's place --- */

static void *take_one(void *context)
{
    struct worker *worker = context;
    const struct midge_msg *msg;

    worker->status = midge_sub_next(worker->sub, RIG_PATIENCE_MS, &msg);
    if (worker->status == MIDGE_OK)
        midge_msg_release(msg);
    return NULL;
}

static void reader_that_leaves_hands_its_place_on(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct worker workers[THREADS_MAX] = {0};
    char subject[16];

    for (uint32_t i = 0; i < THREADS_MAX; i++) {
        (void)snprintf(subject, sizeof(subject), "place.%u", i);
        workers[i].sub = midge_rig_subscribe(client, subject);
    }
    for (uint32_t i = 0; i < THREADS_MAX; i++)
        start(&workers[i], take_one);
    midge_rig_sleep_ms(SETTLE_MS);
    /* Nobody but them reads: publishing does not. */
    for (uint32_t i = 0; i < THREADS_MAX; i++) {
        (void)snprintf(subject, sizeof(subject), "place.%u", i);
        midge_rig_publish(client, subject, "x");
        join(&workers[i]);
        CHECK_STATUS(workers[i].status, MIDGE_OK);
    }
    midge_client_destroy(client);
}

static void deadline_is_kept_while_another_thread_reads(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct worker reader = {.client = client, .sub = midge_rig_subscribe(client, "reader")};
    struct midge_sub *sub = midge_rig_subscribe(client, "nothing");
    const struct midge_msg *msg;

    start(&reader, take_one);
    midge_rig_sleep_ms(SETTLE_MS);
    CHECK_STATUS(midge_sub_next(sub, 20, &msg), MIDGE_E_TIMEOUT);
    CHECK_STATUS(midge_sub_next(sub, 0, &msg), MIDGE_E_TIMEOUT);
    CHECK_STATUS(midge_client_request(client, "nothing", "", 0, 20, &msg), MIDGE_E_TIMEOUT);
    midge_rig_flush(client);
    CHECK_STATUS(midge_client_wait(client, 20), MIDGE_AGAIN);
    /* It has read all the time, and goes on. */
    midge_rig_publish(client, "reader", "x");
    join(&reader);
    CHECK_STATUS(reader.status, MIDGE_OK);
    midge_client_destroy(client);
}

static void *take_one_at_last(void *context)
{
    struct worker *worker = context;
    const struct midge_msg *msg;

    worker->status = midge_sub_next(worker->sub, MIDGE_FOREVER, &msg);
    atomic_store_explicit(&worker->has_ended, true, memory_order_relaxed);
    return NULL;
}

/* Without driving the client, which would do the other thread's work. */
static void await_end(struct worker *worker)
{
    const uint64_t begun_ns = midge_rig_now_ns();

    while (!atomic_load_explicit(&worker->has_ended, memory_order_relaxed)) {
        CHECK(midge_rig_now_ns() - begun_ns < RIG_PATIENCE_MS * 1000000ull);
        midge_rig_sleep_ms(1);
    }
    join(worker);
}

static void reader_hears_that_its_subscription_has_ended(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct worker reader = {0};
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    client = midge_rig_connect(rig, &options);
    reader.sub = midge_rig_subscribe(client, "ended");
    start(&reader, take_one_at_last);
    midge_rig_sleep_ms(SETTLE_MS);
    /* Nothing comes from the server that could end its sleep. */
    midge_rig_server_signal(&server, SIGSTOP);
    MUST(midge_sub_unsubscribe(reader.sub, 0));
    await_end(&reader);
    CHECK_STATUS(reader.status, MIDGE_E_SUB_ENDED);
    midge_rig_server_signal(&server, SIGCONT);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void interrupt_ends_one_wait(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "interrupted");
    struct worker workers[2] = {{.sub = sub}, {.sub = sub}};

    start(&workers[0], take_one);
    start(&workers[1], take_one);
    midge_rig_sleep_ms(SETTLE_MS);
    midge_client_interrupt(client);
    midge_rig_sleep_ms(SETTLE_MS);
    /* The other one waits on, and reads. */
    midge_rig_publish(client, "interrupted", "x");
    join_all(workers, 2);
    CHECK((workers[0].status == MIDGE_AGAIN && workers[1].status == MIDGE_OK) ||
          (workers[0].status == MIDGE_OK && workers[1].status == MIDGE_AGAIN));
    midge_client_destroy(client);
}

/* --- coming and going --- */

static bool is_over(const struct worker *worker)
{
    return atomic_load_explicit(worker->is_over, memory_order_relaxed);
}

static void *subscribe_often(void *context)
{
    struct worker *worker = context;
    char subject[32];

    (void)snprintf(subject, sizeof(subject), "own.%u", worker->number);
    for (uint32_t i = 0; i < worker->count; i++) {
        const struct midge_msg *msg;
        struct midge_sub *sub;

        MUST(midge_client_subscribe(worker->client, subject, NULL, &sub, NULL, NULL));
        MUST(midge_client_publish(worker->client, subject, &i, sizeof(i)));
        MUST(midge_sub_next(sub, RIG_PATIENCE_MS, &msg));
        CHECK(msg->sub == sub);
        CHECK_EQUAL(msg->payload.len, sizeof(i));
        CHECK(memcmp(msg->payload.base, &i, sizeof(i)) == 0);
        midge_msg_release(msg);
        if (i % 3 == 0) {
            MUST(midge_sub_unsubscribe(sub, 0));
        } else if (i % 3 == 1) {
            MUST(midge_sub_drain(sub));
            CHECK_STATUS(midge_sub_next(sub, RIG_PATIENCE_MS, &msg), MIDGE_E_SUB_ENDED);
        }
        midge_sub_destroy(sub);
    }
    return NULL;
}

static void subscriptions_come_and_go_beside_requests(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct worker subscribers[4] = {0};
    struct worker requesters[4] = {0};
    struct responder responder;

    start_responder(rig, &responder);
    start_all(requesters, 4, client, 150, request_often);
    start_all(subscribers, 4, client, 99, subscribe_often);
    join_all(subscribers, 4);
    join_all(requesters, 4);
    CHECK_EQUAL(midge_rig_stats(client).dropped_msgs, 0);
    end_responder(&responder);
    midge_client_destroy(client);
}

static void *request_until_over(void *context)
{
    struct worker *worker = context;

    for (uint32_t i = 0; !is_over(worker); i++) {
        request_once(worker, i);
        worker->count++;
    }
    return NULL;
}

static void drain_ends_what_other_threads_wait_for(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct worker takers[2] = {{.sub = midge_rig_subscribe(client, "one")},
                               {.sub = midge_rig_subscribe(client, "two")}};
    struct worker requesters[2] = {0};
    _Atomic bool is_stopped = false;
    struct responder responder;

    start_responder(rig, &responder);
    start_all(takers, 2, client, 0, take_one);
    requesters[0].is_over = requesters[1].is_over = &is_stopped;
    start_all(requesters, 2, client, 0, request_until_over);
    midge_rig_sleep_ms(SETTLE_MS);
    /* Requests go on until there is none any more. */
    CHECK_STATUS(midge_client_drain(client, 0), MIDGE_AGAIN);
    atomic_store_explicit(&is_stopped, true, memory_order_relaxed);
    MUST(midge_client_run(client));
    join_all(requesters, 2);
    for (uint32_t i = 0; i < 2; i++) {
        join(&takers[i]);
        CHECK_STATUS(takers[i].status, MIDGE_E_SUB_ENDED);
    }
    CHECK_STATUS(midge_client_publish(client, "one", "", 0), MIDGE_E_CLOSED);
    CHECK_EQUAL(midge_rig_stats(client).lost_msgs, 0);
    end_responder(&responder);
    midge_client_destroy(client);
}

/* Requests through losses of the connection. */
static void *request_through_losses(void *context)
{
    struct worker *worker = context;

    for (uint32_t i = 0; !is_over(worker) || worker->status != MIDGE_OK; i++) {
        const struct stamp asked = {.thread = worker->number, .number = i};
        const struct midge_msg *reply;

        worker->status =
            midge_client_request(worker->client, "echo", &asked, sizeof(asked), 1000, &reply);
        if (worker->status == MIDGE_OK) {
            CHECK_EQUAL(stamp_of(reply).thread, worker->number);
            CHECK_EQUAL(stamp_of(reply).number, i);
            midge_msg_release(reply);
            worker->count++;
        } else {
            /* Its client was back before that of the responder, or the request came in between. */
            CHECK(worker->status == MIDGE_E_DISCONNECTED || worker->status == MIDGE_E_TIMEOUT ||
                  worker->status == MIDGE_E_NO_RESPONDERS);
        }
    }
    return NULL;
}

static void threads_go_on_after_a_reconnect(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct worker workers[4] = {0};
    _Atomic bool is_stopped = false;
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    options.reconnect_max = UINT32_MAX;
    options.reconnect_wait_ms = 2;
    options.reconnect_wait_max_ms = 10;
    options.reconnect_jitter_ms = 2;
    client = midge_rig_connect(rig, &options);
    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    for (uint32_t i = 0; i < 4; i++)
        workers[i].is_over = &is_stopped;
    start_all(workers, 4, client, 0, request_through_losses);
    for (uint64_t connects = 1; connects < 3;) {
        midge_rig_sleep_ms(SETTLE_MS);
        midge_rig_server_kill(&server);
        midge_rig_server_again(&server);
        connects++;
        WAIT_UNTIL(client, midge_rig_stats(client).connects == connects);
    }
    atomic_store_explicit(&is_stopped, true, memory_order_relaxed);
    join_all(workers, 4);
    for (uint32_t i = 0; i < 4; i++)
        CHECK(workers[i].count > 0);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(replies_find_the_thread_that_asked),
        RIG_CASE(replies_may_come_from_the_same_client),
        RIG_CASE(published_messages_arrive_once_and_in_order),
        RIG_CASE(publishers_wait_for_room_beside_each_other),
        RIG_CASE(publishing_goes_on_when_there_is_room_again),
        RIG_CASE(flushes_of_many_threads_return),
        RIG_CASE(messages_of_one_subscription_are_taken_once_each),
        RIG_CASE(reader_that_leaves_hands_its_place_on),
        RIG_CASE(deadline_is_kept_while_another_thread_reads),
        RIG_CASE(reader_hears_that_its_subscription_has_ended),
        RIG_CASE(interrupt_ends_one_wait),
        RIG_CASE(subscriptions_come_and_go_beside_requests),
        RIG_CASE(drain_ends_what_other_threads_wait_for),
        RIG_CASE(threads_go_on_after_a_reconnect),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
