/*
 * Clients inside an event loop that is not ours: everything works when midge_client_poll() is
 * called whenever the descriptor is readable, nothing blocks, and an idle client does not wake
 * anybody.
 *
 * Method: an outer loop (loop_rig.h) whose timer ticks beside the client. A call that blocked would
 * keep it from ticking; one that waited for ever would meet the program's alarm. No test drives the
 * client but from the outer loop.
 */
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "loop_rig.h"
#include "rig.h"

/* Time-outs of the library under test, and the ticks that must fit. A call that blocked for one
 * would let a single tick through; a busy machine skips many of the forty. */
#define SHORT_MS    400u
#define SHORT_TICKS 2u

/* How long idleness is watched, and the wake-ups that are no busy loop. */
#define IDLE_TICKS     40u
#define IDLE_WAKES_MAX 5u

/* --- the world of a case --- */

struct world {
    struct midge_client *client;
    struct midge_outer *outer;
    uint32_t wakes; /* how often the descriptor was readable */
    struct midge_rig_events events;
};

static void check_poll(enum midge_status status)
{
    CHECK(status == MIDGE_OK || status == MIDGE_AGAIN || status == MIDGE_E_CLOSED);
}

static void poll_client(void *context)
{
    struct world *world = context;

    world->wakes++;
    check_poll(midge_client_poll(world->client));
}

/* Turn the outer loop until the condition holds. */
#define RUN_UNTIL(world, condition)                                                                \
    for (uint64_t run_begun_ns = midge_rig_now_ns(); !(condition);)                                \
    run_more(__FILE__, __LINE__, #condition, (world), run_begun_ns)

static void run_more(const char *file, int line, const char *what, const struct world *world,
                     uint64_t begun_ns)
{
    midge_outer_step(world->outer);
    if (midge_rig_now_ns() - begun_ns > RIG_PATIENCE_MS * 1000000ull)
        midge_rig_fail(file, line, "never came true: %s (%s)", what,
                       midge_client_error(world->client));
}

/* A client in a loop. It has not begun to connect. */
static void begin(const struct midge_rig *rig, struct world *world,
                  const struct midge_options *wanted)
{
    struct midge_options options = wanted == NULL ? midge_rig_options(rig) : *wanted;
    int fd;

    *world = (struct world){.wakes = 0};
    options.context = &world->events;
    options.event_cb = midge_rig_note_event;
    world->client = midge_rig_create(rig, &options);
    MUST(midge_client_fd(world->client, &fd));
    world->outer = midge_outer_start(fd, world, poll_client);
}

static void begin_connected(const struct midge_rig *rig, struct world *world,
                            const struct midge_options *wanted)
{
    begin(rig, world, wanted);
    CHECK_STATUS(midge_client_connect(world->client, 0), MIDGE_AGAIN);
    RUN_UNTIL(world, world->events.counts[MIDGE_EVENT_CONNECTED] == 1);
    CHECK_EQUAL(midge_client_state(world->client), MIDGE_CLIENT_CONNECTED);
}

static void end(struct world *world)
{
    midge_outer_end(world->outer);
    midge_client_destroy(world->client);
}

static struct midge_sub *listen_to(struct world *world, const char *subject,
                                   struct midge_rig_heard *heard)
{
    struct midge_sub *sub;

    MUST(midge_client_subscribe(world->client, subject, NULL, &sub, heard, midge_rig_hear));
    return sub;
}

/* --- what works --- */

static void messages_come_and_go(struct midge_rig *rig)
{
    struct world world;
    struct midge_rig_heard heard = {.count = 0};

    begin_connected(rig, &world, NULL);
    (void)listen_to(&world, "loop", &heard);
    /* What is queued outside of a poll leaves because the descriptor becomes readable. */
    for (uint32_t i = 1; i <= 100; i++) {
        midge_rig_publish(world.client, "loop", "round");
        RUN_UNTIL(&world, heard.count == i);
    }
    for (uint32_t i = 0; i < 10000; i++)
        midge_rig_publish(world.client, "loop", "at once");
    RUN_UNTIL(&world, heard.count == 10100);
    CHECK(strcmp(heard.payload, "at once") == 0);
    end(&world);
}

struct reply {
    uint32_t count;
    enum midge_status status;
    char payload[32];
};

static void note_reply(void *context, enum midge_status status, const struct midge_msg *msg)
{
    struct reply *reply = context;

    reply->count++;
    reply->status = status;
    if (msg != NULL)
        (void)snprintf(reply->payload, sizeof(reply->payload), "%.*s",
                       MIDGE_SLICE_PRINT(msg->payload));
}

static void ask(const struct world *world, const char *subject, const char *payload,
                uint32_t timeout_ms, struct reply *reply)
{
    const struct midge_outgoing request = {
        .subject = subject, .payload = payload, .payload_len = strlen(payload)};
    const struct midge_request_options options = {.timeout_ms = timeout_ms};

    *reply = (struct reply){.count = 0};
    MUST(midge_client_request_async(world->client, &request, &options, NULL, reply, note_reply));
}

static void requests_are_answered(struct midge_rig *rig)
{
    struct world world;
    struct midge_sub *sub;
    struct midge_rig_heard heard = {.count = 0};
    struct reply replies[100];
    struct reply reply;

    begin_connected(rig, &world, NULL);
    MUST(midge_client_subscribe(world.client, "echo", NULL, &sub, NULL, midge_rig_echo));
    for (uint32_t i = 0; i < 100; i++)
        ask(&world, "echo", "tea", RIG_PATIENCE_MS, &replies[i]);
    for (uint32_t i = 0; i < 100; i++) {
        RUN_UNTIL(&world, replies[i].count == 1);
        CHECK_STATUS(replies[i].status, MIDGE_OK);
        CHECK(strcmp(replies[i].payload, "tea") == 0);
    }
    ask(&world, "nobody", "", RIG_PATIENCE_MS, &reply);
    RUN_UNTIL(&world, reply.count == 1);
    CHECK_STATUS(reply.status, MIDGE_E_NO_RESPONDERS);
    /* Nothing but a timer of the client's ends this one. */
    (void)listen_to(&world, "silent", &heard);
    ask(&world, "silent", "", SHORT_MS, &reply);
    RUN_UNTIL(&world, reply.count == 1);
    CHECK_STATUS(reply.status, MIDGE_E_TIMEOUT);
    CHECK_EQUAL(heard.count, 1);
    end(&world);
}

static void client_comes_back_when_its_server_does(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_heard heard = {.count = 0};
    struct midge_rig_server server;
    struct world world;
    uint32_t ticks;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    begin_connected(rig, &world, &options);
    (void)listen_to(&world, "loop", &heard);
    midge_rig_publish(world.client, "loop", "before");
    RUN_UNTIL(&world, heard.count == 1);
    midge_rig_server_kill(&server);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_DISCONNECTED] == 1);
    midge_rig_publish(world.client, "loop", "meanwhile");
    ticks = midge_outer_ticks(world.outer);
    RUN_UNTIL(&world, midge_outer_ticks(world.outer) > ticks + 10);
    midge_rig_server_again(&server);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_RECONNECTED] == 1);
    RUN_UNTIL(&world, heard.count == 2);
    CHECK(strcmp(heard.payload, "meanwhile") == 0);
    midge_rig_publish(world.client, "loop", "after");
    RUN_UNTIL(&world, heard.count == 3);
    end(&world);
    midge_rig_server_end(&server);
}

static void drain_ends_by_itself(struct midge_rig *rig)
{
    struct midge_rig_heard heard = {.count = 0};
    struct world world;

    begin_connected(rig, &world, NULL);
    (void)listen_to(&world, "loop", &heard);
    for (uint32_t i = 0; i < 100; i++)
        midge_rig_publish(world.client, "loop", "last");
    CHECK_STATUS(midge_client_drain(world.client, MIDGE_FOREVER), MIDGE_AGAIN);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_CLOSED] == 1);
    CHECK_STATUS(world.events.statuses[MIDGE_EVENT_CLOSED], MIDGE_OK);
    CHECK_EQUAL(heard.count, 100);
    end(&world);
}

/* --- several clients --- */

static void poll_loop(void *context)
{
    check_poll(midge_loop_poll(context));
}

static void several_clients_share_one_descriptor(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_heard heard[3] = {{.count = 0}};
    struct world worlds[3] = {{.wakes = 0}};
    struct midge_loop *loop;
    struct midge_outer *outer;
    int fd;

    MUST(midge_loop_create(rig->io, 0, &loop));
    MUST(midge_loop_fd(loop, &fd));
    outer = midge_outer_start(fd, loop, poll_loop);
    options.loop = loop;
    options.event_cb = midge_rig_note_event;
    for (uint32_t i = 0; i < 3; i++) {
        options.context = &worlds[i].events;
        worlds[i].outer = outer;
        worlds[i].client = midge_rig_create(rig, &options);
        CHECK_STATUS(midge_client_connect(worlds[i].client, 0), MIDGE_AGAIN);
        (void)listen_to(&worlds[i], "loop", &heard[i]);
    }
    for (uint32_t i = 0; i < 3; i++)
        RUN_UNTIL(&worlds[i], worlds[i].events.counts[MIDGE_EVENT_CONNECTED] == 1);
    /* Each client's own message says that its subscription is known. */
    for (uint32_t i = 0; i < 3; i++) {
        midge_rig_publish(worlds[i].client, "loop", "to all");
        RUN_UNTIL(&worlds[i], heard[i].count >= 1);
    }
    for (uint32_t i = 0; i < 3; i++)
        heard[i].count = 0;
    midge_rig_publish(worlds[0].client, "loop", "to all");
    for (uint32_t i = 0; i < 3; i++)
        RUN_UNTIL(&worlds[i], heard[i].count >= 1);
    midge_outer_end(outer);
    for (uint32_t i = 0; i < 3; i++)
        midge_client_destroy(worlds[i].client);
    midge_loop_destroy(loop);
}

/* --- what does not block --- */

static void calls_that_wait_elsewhere_return_at_once(struct midge_rig *rig)
{
    const struct midge_outgoing request = {.subject = "silent"};
    struct midge_rig_heard heard = {.count = 0};
    const struct midge_msg *msg;
    struct midge_sub *sub;
    struct world world;
    uint64_t sent;

    begin(rig, &world, NULL);
    CHECK_STATUS(midge_client_connect(world.client, MIDGE_FOREVER), MIDGE_AGAIN);
    CHECK_STATUS(midge_client_wait(world.client, MIDGE_FOREVER), MIDGE_AGAIN);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_CONNECTED] == 1);
    (void)listen_to(&world, "silent", &heard);
    MUST(midge_client_subscribe(world.client, "pull", NULL, &sub, NULL, NULL));
    sent = midge_rig_stats(world.client).out_msgs;
    CHECK_STATUS(midge_sub_next(sub, MIDGE_FOREVER, &msg), MIDGE_AGAIN);
    CHECK_STATUS(midge_client_request(world.client, "silent", "", 0, MIDGE_FOREVER, &msg),
                 MIDGE_AGAIN);
    CHECK_STATUS(midge_client_request_many(world.client, &request, NULL, &heard, midge_rig_hear),
                 MIDGE_AGAIN);
    CHECK_STATUS(midge_client_flush(world.client, MIDGE_FOREVER, NULL), MIDGE_AGAIN);
    CHECK_EQUAL(midge_rig_stats(world.client).out_msgs, sent);
    /* A pull subscription is served from what has come. */
    midge_rig_publish(world.client, "pull", "here");
    for (enum midge_status status = MIDGE_AGAIN; status != MIDGE_OK;) {
        midge_outer_step(world.outer);
        status = midge_sub_next(sub, MIDGE_FOREVER, &msg);
        CHECK(status == MIDGE_OK || status == MIDGE_AGAIN);
    }
    CHECK_TEXT(msg->payload, "here");
    CHECK_EQUAL(heard.count, 0);
    end(&world);
}

static void talk_silently(struct midge_rig_fake_conn *conn)
{
    (void)midge_rig_fake_await(conn, "never");
}

static void server_that_never_speaks_blocks_nothing(struct midge_rig *rig)
{
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_silently);
    struct midge_options options = midge_rig_options(rig);
    struct world world;

    options.url = midge_rig_fake_url(fake);
    options.connect_timeout_ms = SHORT_MS;
    begin(rig, &world, &options);
    CHECK_STATUS(midge_client_connect(world.client, 0), MIDGE_AGAIN);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_ERROR] == 1);
    CHECK_STATUS(world.events.statuses[MIDGE_EVENT_ERROR], MIDGE_E_NO_SERVERS);
    CHECK(midge_outer_ticks(world.outer) > SHORT_TICKS);
    CHECK_EQUAL(midge_rig_fake_conns(fake), 1);
    end(&world);
    midge_rig_fake_end(fake);
}

static void talk_without_pong(struct midge_rig_fake_conn *conn)
{
    if (midge_rig_fake_accept(conn, ""))
        (void)midge_rig_fake_await(conn, "never");
}

static void server_that_falls_silent_is_noticed(struct midge_rig *rig)
{
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_without_pong);
    struct midge_options options = midge_rig_options(rig);
    struct world world;

    options.url = midge_rig_fake_url(fake);
    options.ping_interval_ms = SHORT_MS / 2;
    options.pings_max = 1;
    begin_connected(rig, &world, &options);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_DISCONNECTED] == 1);
    CHECK_STATUS(world.events.statuses[MIDGE_EVENT_DISCONNECTED], MIDGE_E_STALE);
    CHECK(midge_outer_ticks(world.outer) > SHORT_TICKS);
    end(&world);
    midge_rig_fake_end(fake);
}

/* Messages without end; what comes back is read and thrown away. */
static void talk_without_end(struct midge_rig_fake_conn *conn)
{
    static const char message[] = "MSG flood 2 3\r\ntea\r\n";
    char messages[64 * sizeof(message)] = "";
    char answers[65536];

    for (uint32_t i = 0; i < 64; i++)
        memcpy(messages + i * (sizeof(message) - 1), message, sizeof(message));
    if (!midge_rig_fake_accept(conn, "") || !midge_rig_fake_await(conn, "SUB flood 2\r\n"))
        return;
    while (send(conn->fd, messages, strlen(messages), MSG_NOSIGNAL) > 0)
        (void)recv(conn->fd, answers, sizeof(answers), MSG_DONTWAIT);
}

/* Queues more with each message. */
struct answers {
    struct midge_client *client;
    uint32_t count;
};

static void answer(void *context, const struct midge_msg *msg)
{
    struct answers *answers = context;
    const enum midge_status status =
        midge_client_publish(answers->client, "answer", msg->payload.base, msg->payload.len);

    CHECK(status == MIDGE_OK || status == MIDGE_FULL);
    answers->count++;
}

static void messages_without_end_leave_room_for_others(struct midge_rig *rig)
{
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_without_end);
    struct midge_options options = midge_rig_options(rig);
    struct answers answers = {.count = 0};
    struct midge_sub *sub;
    struct world world;

    options.url = midge_rig_fake_url(fake);
    options.drain_timeout_ms = 0;
    begin_connected(rig, &world, &options);
    answers.client = world.client;
    MUST(midge_client_subscribe(world.client, "flood", NULL, &sub, &answers, answer));
    RUN_UNTIL(&world, answers.count > 1000);
    RUN_UNTIL(&world, midge_outer_ticks(world.outer) > 2);
    end(&world);
    midge_rig_fake_end(fake);
}

static void full_buffer_blocks_nothing(struct midge_rig *rig)
{
    static const uint8_t payload[65536];
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct world world;
    struct reply reply;
    uint64_t sent = 0;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    options.send_bytes_max = 1048576;
    options.send_wait_ms = MIDGE_FOREVER;
    begin_connected(rig, &world, &options);
    midge_rig_server_signal(&server, SIGSTOP);
    for (enum midge_status status = MIDGE_OK; status == MIDGE_OK; sent++) {
        status = midge_client_publish(world.client, "loop", payload, sizeof(payload));
        CHECK(status == MIDGE_OK || status == MIDGE_FULL);
    }
    CHECK(sent > 16);
    CHECK_STATUS(midge_client_submit(world.client), MIDGE_AGAIN);
    RUN_UNTIL(&world, midge_outer_ticks(world.outer) > 10);
    midge_rig_server_signal(&server, SIGCONT);
    RUN_UNTIL(&world, midge_rig_stats(world.client).queued_bytes == 0);
    ask(&world, "nobody", "", RIG_PATIENCE_MS, &reply);
    RUN_UNTIL(&world, reply.count == 1);
    CHECK_STATUS(reply.status, MIDGE_E_NO_RESPONDERS);
    end(&world);
    midge_rig_server_end(&server);
}

/* --- host names --- */

/* Look-ups that hang, and those that have returned. Thread: any; the look-up's writes the second.
 */
static _Atomic bool is_lookup_hanging = false;
static _Atomic uint32_t lookups_begun = 0;
static _Atomic uint32_t lookups_ended = 0;

/* In the place of libc's: a name server that does not answer, then none at all. style: it needs the
 * name of what it replaces. */
int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict req, struct addrinfo **restrict pai)
{
    (void)name;
    (void)service;
    (void)req;
    *pai = NULL;
    /* Relaxed, all three: they say nothing about other memory. */
    atomic_fetch_add_explicit(&lookups_begun, 1, memory_order_relaxed);
    while (atomic_load_explicit(&is_lookup_hanging, memory_order_relaxed))
        midge_rig_sleep_ms(1);
    atomic_fetch_add_explicit(&lookups_ended, 1, memory_order_relaxed);
    return EAI_AGAIN;
}

static void name_server_that_never_answers_blocks_nothing(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct world world;

    options.url = "nats://name.invalid:4222";
    options.connect_timeout_ms = SHORT_MS;
    atomic_store_explicit(&is_lookup_hanging, true, memory_order_relaxed);
    begin(rig, &world, &options);
    CHECK_STATUS(midge_client_connect(world.client, 0), MIDGE_AGAIN);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_ERROR] == 1);
    CHECK_STATUS(world.events.statuses[MIDGE_EVENT_ERROR], MIDGE_E_NO_SERVERS);
    CHECK(midge_outer_ticks(world.outer) > SHORT_TICKS);
    /* Another attempt waits for the same look-up instead of beginning one more. */
    CHECK_STATUS(midge_client_connect(world.client, 0), MIDGE_AGAIN);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_ERROR] == 2);
    CHECK_EQUAL(atomic_load_explicit(&lookups_begun, memory_order_relaxed), 1);
    /* The end of the client waits for it neither. */
    end(&world);
    CHECK_EQUAL(atomic_load_explicit(&lookups_ended, memory_order_relaxed), 0);
    atomic_store_explicit(&is_lookup_hanging, false, memory_order_relaxed);
    while (atomic_load_explicit(&lookups_ended, memory_order_relaxed) == 0)
        midge_rig_sleep_ms(1);
}

static void name_that_is_not_found_is_told(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct world world;

    options.url = "nats://name.invalid:4222";
    begin(rig, &world, &options);
    CHECK_STATUS(midge_client_connect(world.client, 0), MIDGE_AGAIN);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_ERROR] == 1);
    CHECK_STATUS(world.events.statuses[MIDGE_EVENT_ERROR], MIDGE_E_NO_SERVERS);
    CHECK(strstr(world.events.texts[MIDGE_EVENT_ERROR], "name.invalid") != NULL);
    end(&world);
}

/* --- idleness --- */

static uint32_t wakes_while_idle(struct world *world)
{
    const uint32_t wakes = world->wakes;
    const uint32_t ticks = midge_outer_ticks(world->outer);

    RUN_UNTIL(world, midge_outer_ticks(world->outer) >= ticks + IDLE_TICKS);
    return world->wakes - wakes;
}

static void idle_client_wakes_nobody(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_heard heard = {.count = 0};
    struct midge_rig_server server;
    struct world world;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    begin_connected(rig, &world, &options);
    (void)listen_to(&world, "loop", &heard);
    midge_rig_publish(world.client, "loop", "something");
    RUN_UNTIL(&world, heard.count == 1);
    CHECK(wakes_while_idle(&world) <= IDLE_WAKES_MAX);
    /* A timer that was moved does not ring again and again. */
    options.ping_interval_ms = IDLE_TICKS * OUTER_TICK_MS / 4;
    end(&world);
    begin_connected(rig, &world, &options);
    CHECK(wakes_while_idle(&world) <= 5 * 4 + IDLE_WAKES_MAX);
    CHECK_EQUAL(world.events.counts[MIDGE_EVENT_DISCONNECTED], 0);
    /* Nor does a server that has gone, while nobody tries to reach it. */
    options.reconnect_wait_ms = options.reconnect_wait_max_ms = RIG_PATIENCE_MS;
    options.ping_interval_ms = 0;
    end(&world);
    begin_connected(rig, &world, &options);
    midge_rig_server_kill(&server);
    RUN_UNTIL(&world, world.events.counts[MIDGE_EVENT_DISCONNECTED] == 1);
    RUN_UNTIL(&world, strstr(midge_client_error(world.client), "refused") != NULL);
    CHECK(wakes_while_idle(&world) <= IDLE_WAKES_MAX);
    end(&world);
    midge_rig_server_end(&server);
}

static void thread_safe_client_has_no_descriptor(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_client *client;
    int fd = -1;

    options.io = MIDGE_IO_AUTO;
    options.thread_safe = true;
    client = midge_rig_create(rig, &options);
    CHECK_STATUS(midge_client_fd(client, &fd), MIDGE_E_CONFIG);
    CHECK_EQUAL(fd, -1);
    midge_client_destroy(client);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(messages_come_and_go),
        RIG_CASE(requests_are_answered),
        RIG_CASE(client_comes_back_when_its_server_does),
        RIG_CASE(drain_ends_by_itself),
        RIG_CASE(several_clients_share_one_descriptor),
        RIG_CASE(calls_that_wait_elsewhere_return_at_once),
        RIG_CASE(server_that_never_speaks_blocks_nothing),
        RIG_CASE(server_that_falls_silent_is_noticed),
        RIG_CASE(messages_without_end_leave_room_for_others),
        RIG_CASE(full_buffer_blocks_nothing),
        RIG_CASE(name_server_that_never_answers_blocks_nothing),
        RIG_CASE(name_that_is_not_found_is_told),
        RIG_CASE(idle_client_wakes_nobody),
        RIG_CASE(thread_safe_client_has_no_descriptor),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
