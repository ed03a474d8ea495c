/*
 * Publishing: what arrives, what is refused before a byte is written, what happens when too much is
 * queued. Method: one client publishes, another one, or the same, has subscribed.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "rig.h"

/* A payload whose bytes tell their place. */
static uint8_t *make_payload(size_t len)
{
    uint8_t *payload = malloc(len + 1);

    CHECK(payload != NULL);
    for (size_t i = 0; i < len; i++)
        payload[i] = (uint8_t)(i * 31 + (i >> 8));
    return payload;
}

/* The value of a header as a text, or a failure. */
static struct midge_slice header_of(const struct midge_msg *msg, const char *name)
{
    struct midge_slice value;

    CHECK(midge_msg_header(msg, name, &value));
    return value;
}

static void message_arrives_with_reply_and_headers(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "orders.*");
    struct midge_headers *headers = midge_headers_create();
    struct midge_outgoing outgoing = {
        .subject = "orders.new",
        .reply = "answers.here",
        .headers = headers,
        .payload = "tea",
        .payload_len = 3,
    };
    const struct midge_msg *msg;

    CHECK(headers != NULL);
    MUST(midge_headers_add(headers, "Kind", "green"));
    MUST(midge_headers_add(headers, "Kind", "black"));
    MUST(midge_headers_add(headers, "Cups", "2"));
    MUST(midge_client_publish_msg(client, &outgoing));
    msg = midge_rig_next(sub);
    CHECK_TEXT(msg->subject, "orders.new");
    CHECK_TEXT(msg->reply, "answers.here");
    CHECK_TEXT(msg->payload, "tea");
    CHECK_TEXT(header_of(msg, "Kind"), "green");
    CHECK_TEXT(header_of(msg, "Cups"), "2");
    CHECK(msg->client == client);
    CHECK(msg->sub == sub);
    CHECK_EQUAL(midge_msg_status(msg, NULL), 0);
    midge_rig_done(rig, msg);
    midge_headers_destroy(headers);
    midge_client_destroy(client);
}

static void headers_are_read_and_changed(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "headers");
    struct midge_headers *headers = midge_headers_create();
    struct midge_outgoing outgoing = {.subject = "headers", .headers = headers};
    struct midge_slice name;
    struct midge_slice value;
    const struct midge_msg *msg;
    uint32_t position = 0;

    CHECK(headers != NULL);
    MUST(midge_headers_add(headers, "A", "1"));
    MUST(midge_headers_add(headers, "a", "other"));
    MUST(midge_headers_add(headers, "A", "2"));
    MUST(midge_headers_add(headers, "B", " blanks go \t"));
    MUST(midge_headers_add(headers, "Gone", "x"));
    CHECK_EQUAL(midge_headers_delete(headers, "Gone"), 1);
    MUST(midge_headers_set(headers, "A", "only"));
    MUST(midge_client_publish_msg(client, &outgoing));
    msg = midge_rig_next(sub);
    CHECK(midge_msg_next_header(msg, &position, &name, &value));
    CHECK_TEXT(name, "A");
    CHECK_TEXT(value, "only");
    CHECK(midge_msg_next_header(msg, &position, &name, &value));
    CHECK_TEXT(name, "a");
    CHECK(midge_msg_next_header(msg, &position, &name, &value));
    CHECK_TEXT(name, "B");
    CHECK_TEXT(value, "blanks go");
    CHECK(!midge_msg_next_header(msg, &position, &name, &value));
    CHECK(!midge_msg_header(msg, "Gone", &value));
    midge_headers_destroy(headers);
    /* What was received can be sent on. */
    headers = midge_headers_copy(msg);
    CHECK(headers != NULL);
    CHECK_EQUAL(midge_headers_count(headers), 3);
    CHECK(strcmp(midge_headers_get(headers, "B"), "blanks go") == 0);
    midge_rig_done(rig, msg);
    midge_headers_destroy(headers);
    midge_client_destroy(client);
}

static void payloads_of_all_sizes_arrive_whole_and_in_order(struct midge_rig *rig)
{
    /* Around the receive buffer (16 KiB), the submit threshold (64 KiB), and the largest. */
    static const size_t lens[] = {0,     1,     4096,  16350, 16383,  16384,  16385,
                                  32768, 65535, 65536, 65537, 262144, 1048576};
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "sizes");
    uint8_t *payload = make_payload(1048576);

    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
        MUST(midge_client_publish(client, "sizes", payload, lens[i]));
    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        const struct midge_msg *msg = midge_rig_next(sub);
        CHECK_EQUAL(msg->payload.len, lens[i]);
        CHECK(lens[i] == 0 || memcmp(msg->payload.base, payload, lens[i]) == 0);
        midge_rig_done(rig, msg);
    }
    free(payload);
    midge_client_destroy(client);
}

static void flush_returns_when_the_server_has_worked(struct midge_rig *rig)
{
    struct midge_client *publisher = midge_rig_connect(rig, NULL);
    struct midge_client *subscriber = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(subscriber, "flush");
    const struct midge_msg *msg;
    uint64_t rtt_ns = 0;

    for (uint32_t i = 0; i < 100; i++)
        midge_rig_publish(publisher, "flush", "x");
    MUST(midge_client_flush(publisher, RIG_PATIENCE_MS, &rtt_ns));
    CHECK(rtt_ns > 0);
    CHECK_EQUAL(midge_rig_stats(publisher).queued_bytes, 0);
    midge_rig_flush(subscriber);
    /* All of them are here: no wait is needed any more. */
    for (uint32_t i = 0; i < 100; i++) {
        MUST(midge_sub_next(sub, 0, &msg));
        midge_rig_done(rig, msg);
    }
    midge_client_destroy(subscriber);
    midge_client_destroy(publisher);
}

static void submit_hands_over_without_waiting(struct midge_rig *rig)
{
    struct midge_client *publisher = midge_rig_connect(rig, NULL);
    struct midge_client *subscriber = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(subscriber, "submit");

    midge_rig_publish(publisher, "submit", "now");
    MUST(midge_client_submit(publisher));
    CHECK_EQUAL(midge_rig_stats(publisher).queued_bytes, 0);
    /* The publisher is not driven any more. */
    midge_rig_expect(rig, sub, "now");
    midge_client_destroy(subscriber);
    midge_client_destroy(publisher);
}

static void publish_hands_over_by_itself_when_much_is_queued(struct midge_rig *rig)
{
    struct midge_client *publisher = midge_rig_connect(rig, NULL);
    struct midge_client *subscriber = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(subscriber, "much");
    uint8_t *payload = make_payload(1024);

    for (uint32_t i = 0; i < 64; i++)
        MUST(midge_client_publish(publisher, "much", payload, 1024));
    for (uint32_t i = 0; i < 60; i++)
        midge_rig_done(rig, midge_rig_next(sub));
    free(payload);
    midge_client_destroy(subscriber);
    midge_client_destroy(publisher);
}

/* Nothing that must be refused may leave a byte behind. */
static void check_untouched(struct midge_client *client)
{
    const struct midge_client_stats stats = midge_rig_stats(client);

    CHECK_EQUAL(stats.out_msgs, 0);
    CHECK_EQUAL(stats.out_bytes, 0);
    CHECK_EQUAL(stats.queued_bytes, 0);
}

static void bad_subjects_are_refused(struct midge_rig *rig)
{
    static const char *const bad[] = {
        "",   ".",    "a.",  ".a",  "a..b",  "a b",   " a",
        "a ", "a\tb", "a\r", "a\n", "a\x01", "a\x7f", "a\r\nPUB b 0\r\n",
        "*",  "a.*",  ">",   "a.>", "a.*.b"};
    struct midge_client *client = midge_rig_connect(rig, NULL);
    char *too_long = malloc(4002);
    const struct midge_msg *msg;

    CHECK(too_long != NULL);
    memset(too_long, 'a', 4001);
    too_long[4001] = '\0';
    for (size_t i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
        const char *subject = i == sizeof(bad) / sizeof(bad[0]) ? too_long : bad[i];
        const struct midge_outgoing to_it = {.subject = subject};
        const struct midge_outgoing answer_it = {.subject = "fine", .reply = subject};

        CHECK_STATUS(midge_client_publish(client, subject, "x", 1), MIDGE_E_SUBJECT);
        CHECK_STATUS(midge_client_publish_msg(client, &to_it), MIDGE_E_SUBJECT);
        CHECK_STATUS(midge_client_publish_msg(client, &answer_it), MIDGE_E_SUBJECT);
        CHECK_STATUS(midge_client_request(client, subject, "x", 1, 1000, &msg), MIDGE_E_SUBJECT);
        CHECK_STATUS(midge_client_request_async(client, &to_it, NULL, NULL, NULL, NULL),
                     MIDGE_E_SUBJECT);
    }
    check_untouched(client);
    too_long[4000] = '\0';
    MUST(midge_client_publish(client, too_long, "x", 1));
    /* A reply counts, the inbox of a request, too. */
    CHECK_STATUS(midge_client_request(client, too_long, "x", 1, 1000, &msg), MIDGE_E_SUBJECT);
    too_long[3900] = '\0';
    CHECK_STATUS(midge_client_request(client, too_long, "x", 1, RIG_PATIENCE_MS, &msg),
                 MIDGE_E_NO_RESPONDERS);
    midge_rig_flush(client);
    CHECK_EQUAL(midge_rig_stats(client).connects, 1);
    free(too_long);
    midge_client_destroy(client);
}

static void bad_subscriptions_are_refused(struct midge_rig *rig)
{
    static const char *const bad[] = {"",     ".",     "a.",    ".a",    "a..b", "a b",
                                      "a\tb", "a\r\n", "a\x01", "a.>.b", ">.a"};
    static const char *const bad_queues[] = {"a b", "a\tb", "a\r\nPING", "a\x7f"};
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_STATUS(midge_client_subscribe(client, bad[i], NULL, &sub, NULL, NULL),
                     MIDGE_E_SUBJECT);
    for (size_t i = 0; i < sizeof(bad_queues) / sizeof(bad_queues[0]); i++) {
        const struct midge_sub_options options = {.queue = bad_queues[i]};
        CHECK_STATUS(midge_client_subscribe(client, "a", &options, &sub, NULL, NULL),
                     MIDGE_E_SUBJECT);
    }
    check_untouched(client);
    midge_rig_flush(client);
    CHECK_EQUAL(midge_rig_stats(client).connects, 1);
    midge_client_destroy(client);
}

static void bad_headers_are_refused(struct midge_rig *rig)
{
    static const char *const bad_names[] = {"", "a b", "a:", "a\r\nb", "a\n", "\x7f", "\xc3\xa4"};
    static const char *const bad_values[] = {"a\r\nEvil: 1", "a\n", "\r", "a\x01", "\x7f"};
    struct midge_headers *headers = midge_headers_create();

    (void)rig;
    CHECK(headers != NULL);
    for (size_t i = 0; i < sizeof(bad_names) / sizeof(bad_names[0]); i++) {
        CHECK_STATUS(midge_headers_add(headers, bad_names[i], "x"), MIDGE_E_HEADERS);
        CHECK_STATUS(midge_headers_set(headers, bad_names[i], "x"), MIDGE_E_HEADERS);
    }
    for (size_t i = 0; i < sizeof(bad_values) / sizeof(bad_values[0]); i++) {
        CHECK_STATUS(midge_headers_add(headers, "Name", bad_values[i]), MIDGE_E_HEADERS);
        CHECK_STATUS(midge_headers_set(headers, "Name", bad_values[i]), MIDGE_E_HEADERS);
    }
    CHECK_EQUAL(midge_headers_count(headers), 0);
    midge_headers_destroy(headers);
}

static void payloads_over_the_maximum_are_refused(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_headers *headers = midge_headers_create();
    struct midge_server_info info;
    struct midge_outgoing outgoing = {.subject = "large", .headers = headers};
    const struct midge_msg *msg;
    uint8_t *payload;

    CHECK(headers != NULL);
    MUST(midge_headers_add(headers, "A", "b"));
    midge_client_server(client, &info);
    payload = make_payload(info.max_payload + 1);
    CHECK_STATUS(midge_client_publish(client, "large", payload, info.max_payload + 1),
                 MIDGE_E_PAYLOAD);
    CHECK_STATUS(midge_client_publish(client, "large", payload, SIZE_MAX), MIDGE_E_PAYLOAD);
    CHECK_STATUS(midge_client_request(client, "large", payload, info.max_payload + 1, 1000, &msg),
                 MIDGE_E_PAYLOAD);
    /* Headers count. */
    outgoing.payload = payload;
    outgoing.payload_len = info.max_payload;
    CHECK_STATUS(midge_client_publish_msg(client, &outgoing), MIDGE_E_PAYLOAD);
    check_untouched(client);
    MUST(midge_client_publish(client, "large", payload, info.max_payload));
    midge_rig_flush(client);
    CHECK_EQUAL(midge_rig_stats(client).connects, 1);
    free(payload);
    midge_headers_destroy(headers);
    midge_client_destroy(client);
}

static void no_echo_keeps_own_messages_away(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_client *other = midge_rig_connect(rig, NULL);
    struct midge_client *client;
    struct midge_sub *sub;

    options.no_echo = true;
    client = midge_rig_connect(rig, &options);
    sub = midge_rig_subscribe(client, "echo");
    midge_rig_publish(client, "echo", "own");
    midge_rig_flush(client);
    midge_rig_publish(other, "echo", "other");
    midge_rig_flush(other);
    midge_rig_expect(rig, sub, "other");
    midge_rig_expect_nothing(sub);
    midge_client_destroy(client);
    midge_client_destroy(other);
}

static void statistics_add_up(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "stats");
    struct midge_headers *headers = midge_headers_create();
    struct midge_outgoing outgoing = {
        .subject = "stats", .headers = headers, .payload = "12345", .payload_len = 5};
    struct midge_client_stats stats;

    CHECK(headers != NULL);
    MUST(midge_headers_add(headers, "A", "b"));
    midge_rig_publish(client, "stats", "123");
    MUST(midge_client_publish_msg(client, &outgoing));
    midge_rig_publish(client, "nobody", "1");
    midge_rig_done(rig, midge_rig_next(sub));
    midge_rig_done(rig, midge_rig_next(sub));
    midge_rig_flush(client);
    stats = midge_rig_stats(client);
    CHECK_EQUAL(stats.out_msgs, 3);
    CHECK_EQUAL(stats.out_bytes, 3 + 5 + strlen("NATS/1.0\r\nA: b\r\n\r\n") + 1);
    CHECK_EQUAL(stats.in_msgs, 2);
    CHECK_EQUAL(stats.in_bytes, 3 + 5 + strlen("NATS/1.0\r\nA: b\r\n\r\n"));
    CHECK_EQUAL(stats.connects, 1);
    CHECK_EQUAL(stats.dropped_msgs + stats.stray_msgs + stats.lost_msgs + stats.unconfirmed_msgs,
                0);
    CHECK_EQUAL(stats.queued_bytes, 0);
    midge_headers_destroy(headers);
    midge_client_destroy(client);
}

static void full_buffer_refuses_and_loses_nothing(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    uint8_t *payload = make_payload(65536);
    struct midge_rig_server server;
    struct midge_client *client;
    struct midge_sub *sub;
    uint32_t accepted = 0;
    enum midge_status status;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    options.send_bytes_max = 1u << 20;
    options.send_wait_ms = 1;
    client = midge_rig_connect(rig, &options);
    sub = midge_rig_subscribe(client, "full");
    midge_rig_server_signal(&server, SIGSTOP);
    /* Until the kernel takes no more, which it may say too early: its buffers grow. */
    do {
        status = midge_client_publish(client, "full", payload, 65536);
        accepted += status == MIDGE_OK;
        CHECK(accepted < 4096);
    } while (status == MIDGE_OK || midge_client_submit(client) == MIDGE_OK ||
             midge_rig_stats(client).queued_bytes < options.send_bytes_max);
    CHECK_STATUS(status, MIDGE_FULL);
    CHECK(midge_rig_stats(client).queued_bytes < options.send_bytes_max + 2 * 65536u);
    midge_rig_server_signal(&server, SIGCONT);
    for (uint32_t i = 0; i < accepted; i++)
        midge_rig_done(rig, midge_rig_next(sub));
    midge_rig_expect_nothing(sub);
    free(payload);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void *resume_later(void *context)
{
    midge_rig_sleep_ms(100);
    midge_rig_server_signal(context, SIGCONT);
    return NULL;
}

static void submit_goes_on_when_there_is_room_again(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    uint8_t *payload = make_payload(65536);
    struct midge_rig_server server;
    struct midge_client *client;
    uint64_t begun_ns;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    client = midge_rig_connect(rig, &options);
    midge_rig_server_signal(&server, SIGSTOP);
    do {
        MUST(midge_client_publish(client, "submit", payload, 65536));
    } while (midge_client_submit(client) == MIDGE_OK);
    midge_rig_server_signal(&server, SIGCONT);
    /* Nothing else drives. */
    begun_ns = midge_rig_now_ns();
    while (midge_client_submit(client) != MIDGE_OK) {
        CHECK(midge_rig_now_ns() - begun_ns < RIG_PATIENCE_MS * 1000000ull);
        midge_rig_sleep_ms(1);
    }
    CHECK_EQUAL(midge_rig_stats(client).queued_bytes, 0);
    free(payload);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void publish_waits_for_room(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    uint8_t *payload = make_payload(65536);
    struct midge_rig_server server;
    struct midge_client *client;
    pthread_t thread;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    options.send_bytes_max = 65536;
    options.send_wait_ms = RIG_PATIENCE_MS;
    client = midge_rig_connect(rig, &options);
    midge_rig_server_signal(&server, SIGSTOP);
    CHECK(pthread_create(&thread, NULL, resume_later, &server) == 0);
    /* More than the sockets of both sides hold. */
    for (uint32_t i = 0; i < 300; i++)
        MUST(midge_client_publish(client, "room", payload, 65536));
    CHECK(pthread_join(thread, NULL) == 0);
    midge_rig_flush(client);
    CHECK_EQUAL(midge_rig_stats(client).connects, 1);
    free(payload);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void no_call_raises_sigpipe(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct midge_client *client;

    /* A SIGPIPE would end this program: nothing has changed its default. */
    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    options.reconnect_wait_ms = 1;
    client = midge_rig_connect(rig, &options);
    midge_rig_server_kill(&server);
    for (uint32_t i = 0; i < 10; i++) {
        midge_rig_publish(client, "pipe", "x");
        (void)!midge_client_submit(client);
        midge_rig_sleep_ms(1);
    }
    WAIT_UNTIL(client, midge_client_state(client) == MIDGE_CLIENT_RECONNECTING);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(message_arrives_with_reply_and_headers),
        RIG_CASE(headers_are_read_and_changed),
        RIG_CASE(payloads_of_all_sizes_arrive_whole_and_in_order),
        RIG_CASE(flush_returns_when_the_server_has_worked),
        RIG_CASE(submit_hands_over_without_waiting),
        RIG_CASE(publish_hands_over_by_itself_when_much_is_queued),
        RIG_CASE(bad_subjects_are_refused),
        RIG_CASE(bad_subscriptions_are_refused),
        RIG_CASE(bad_headers_are_refused),
        RIG_CASE(payloads_over_the_maximum_are_refused),
        RIG_CASE(no_echo_keeps_own_messages_away),
        RIG_CASE(statistics_add_up),
        RIG_CASE(full_buffer_refuses_and_loses_nothing),
        RIG_CASE(submit_goes_on_when_there_is_room_again),
        RIG_CASE(publish_waits_for_room),
        RIG_CASE(no_call_raises_sigpipe),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
