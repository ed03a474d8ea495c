/*
 * Connecting: where to, as whom, what the server says, how it ends; what is refused and with which
 * words.
 */
#include <stdlib.h>

#include "rig.h"

/* Connect to these URLs, which must work, and try a message. */
static void check_works(struct midge_rig *rig, struct midge_options *options, const char *url)
{
    struct midge_client *client;
    const struct midge_msg *reply;

    options->url = url;
    client = midge_rig_connect(rig, options);
    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    MUST(midge_client_request(client, "echo", "x", 1, RIG_PATIENCE_MS, &reply));
    midge_rig_done(rig, reply);
    midge_client_destroy(client);
}

/* --- where to --- */

static void urls_may_be_written_in_several_ways(struct midge_rig *rig)
{
    static const char *const forms[] = {
        "nats://127.0.0.1:%u",           "NATS://127.0.0.1:%u/", "127.0.0.1:%u",   "localhost:%u",
        "nats://[::1]:1, 127.0.0.1:%u ", "nats://localhost:%u",  "nats://127.1:%u"};
    struct midge_options options = midge_rig_options(rig);

    options.keep_order = true;
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        char url[128];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        (void)snprintf(url, sizeof(url), forms[i], rig->server.port);
#pragma GCC diagnostic pop
        check_works(rig, &options, url);
    }
}

static void next_url_is_tried_when_one_fails(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    char urls[256];

    (void)snprintf(urls, sizeof(urls), "127.0.0.1:%u,127.0.0.1:%u,%s", midge_rig_free_port(),
                   midge_rig_free_port(), rig->server.url);
    options.keep_order = true;
    check_works(rig, &options, urls);
    options.keep_order = false;
    check_works(rig, &options, urls);
}

static void environment_names_the_server(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);

    CHECK(setenv("NATS_URL", rig->server.url, 1) == 0);
    check_works(rig, &options, NULL);
    CHECK(unsetenv("NATS_URL") == 0);
}

static void unix_socket_works(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    char url[256];

    options.url = "unix:///no/such/socket";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_NO_SERVERS,
                             "unix:///no/such/socket: No such file or directory");
    if (!rig->is_midge)
        return; /* nats-server has none */
    check_works(rig, &options, rig->server.unix_url);
    (void)snprintf(url, sizeof(url), "%s,%s", rig->server.unix_url, rig->server.url);
    check_works(rig, &options, url);
}

static void bad_urls_are_refused_with_words(struct midge_rig *rig)
{
    static const struct {
        const char *url;
        const char *words;
    } bad[] = {
        {",", "no URL"},
        {"http://a", "scheme"},
        {"nats://", "no host"},
        {"nats://a:0", "port"},
        {"nats://a:65536", "port"},
        {"nats://a:x", "port"},
        {"nats://a:", "port"},
        {"nats://[::1]4222", "colon"},
        {"nats://u:%4@a", "malformed"},
        {"nats://%00@a", "malformed"},
        {"nats://a b", "character"},
        {"nats://a\r\n", "character"},
        {"unix://", "path"},
        {"nats://good,nats://a:0", "URL 2"},
    };
    struct midge_options options = midge_rig_options(rig);
    struct midge_client *client;
    char why[160];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        options.url = bad[i].url;
        CHECK_STATUS(midge_client_create(&options, &client, why), MIDGE_E_CONFIG);
        if (strstr(why, bad[i].words) == NULL)
            midge_rig_fail(__FILE__, __LINE__, "%s: \"%s\" does not say \"%s\"", bad[i].url, why,
                           bad[i].words);
    }
    CHECK_STATUS(midge_client_create(&options, &client, NULL), MIDGE_E_CONFIG);
}

static void options_that_cannot_be_are_refused(struct midge_rig *rig)
{
    struct midge_client *client;
    struct midge_loop *loop;
    struct midge_options wrong[7];
    const char *const words[7] = {"more than one", "loop of its own",    "epoll",
                                  "inbox prefix",  "connect_timeout_ms", "certificate",
                                  "inbox prefix"};
    char why[160];

    MUST(midge_loop_create(MIDGE_IO_AUTO, 0, &loop));
    for (size_t i = 0; i < 7; i++) {
        midge_options_init(&wrong[i]);
        wrong[i].url = rig->server.url;
    }
    wrong[0].user = "u";
    wrong[0].token = "t";
    wrong[1].thread_safe = true;
    wrong[1].loop = loop;
    wrong[2].thread_safe = true;
    wrong[2].io = MIDGE_IO_URING;
    wrong[3].inbox_prefix = "a b";
    wrong[4].connect_timeout_ms = 0;
    wrong[5].tls_cert_file = "cert.pem";
    wrong[6].inbox_prefix = "a.*";
    for (size_t i = 0; i < 7; i++) {
        CHECK_STATUS(midge_client_create(&wrong[i], &client, why), MIDGE_E_CONFIG);
        CHECK(strstr(why, words[i]) != NULL);
    }
    midge_loop_destroy(loop);
}

static void host_names_are_looked_up(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);

    /* A name with an empty label needs no server to be found wanting. */
    options.url = "nats://a..b:4222";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_NO_SERVERS, "host name not found");
}

/* --- as whom --- */

static void user_and_password_are_sent(struct midge_rig *rig)
{
    static const char *const arguments[] = {"--user", "joe", "--pass", "s3:cr@t", NULL};
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    char url[160];

    midge_rig_server_start(rig, &server, arguments);
    options.url = server.url;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    options.user = "joe";
    options.password = "s3:cr@t";
    check_works(rig, &options, server.url);
    options.password = "wrong";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    /* What the URL says wins. */
    (void)snprintf(url, sizeof(url), "nats://joe:s3%%3Acr%%40t@127.0.0.1:%u", server.port);
    check_works(rig, &options, url);
    midge_rig_server_end(&server);
}

static void token_is_sent(struct midge_rig *rig)
{
    static const char *const arguments[] = {"--auth", "t0ken", NULL};
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    char url[160];

    midge_rig_server_start(rig, &server, arguments);
    options.url = server.url;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    (void)snprintf(url, sizeof(url), "nats://t0ken@127.0.0.1:%u", server.port);
    check_works(rig, &options, url);
    options.token = "t0ken";
    check_works(rig, &options, server.url);
    midge_rig_server_end(&server);
}

/* --- what the server says --- */

static void server_introduces_itself(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_server_info info;
    struct midge_client *client = midge_rig_create(rig, &options);

    midge_client_server(client, &info);
    CHECK(strcmp(info.url, "") == 0);
    CHECK(strcmp(info.version, "") == 0);
    CHECK_EQUAL(info.max_payload, 0);
    MUST(midge_client_connect(client, RIG_PATIENCE_MS));
    midge_client_server(client, &info);
    CHECK(strcmp(info.url, rig->server.url) == 0);
    CHECK(strcmp(info.version, "2.15.2") == 0);
    CHECK((strcmp(info.midge_version, "") != 0) == rig->is_midge);
    CHECK(strcmp(info.client_ip, "127.0.0.1") == 0);
    CHECK(strlen(info.server_id) > 0);
    CHECK(info.client_id > 0);
    CHECK_EQUAL(info.max_payload, 1048576);
    CHECK(info.headers);
    CHECK(!info.tls);
    midge_client_destroy(client);
}

static void events_tell_the_life_of_a_client(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {0};
    struct midge_client *client;

    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_create(rig, &options);
    CHECK(midge_client_state(client) == MIDGE_CLIENT_IDLE);
    CHECK_STATUS(midge_client_connect(client, 0), MIDGE_AGAIN);
    CHECK(midge_client_state(client) == MIDGE_CLIENT_CONNECTING);
    WAIT_UNTIL(client, midge_client_state(client) == MIDGE_CLIENT_CONNECTED);
    CHECK_EQUAL(events.count, 1);
    CHECK(events.order[0] == MIDGE_EVENT_CONNECTED);
    MUST(midge_client_connect(client, 0));
    MUST(midge_client_drain(client, RIG_PATIENCE_MS));
    CHECK(midge_client_state(client) == MIDGE_CLIENT_CLOSED);
    CHECK_EQUAL(events.count, 2);
    CHECK(events.order[1] == MIDGE_EVENT_CLOSED);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_CLOSED], MIDGE_OK);
    midge_client_destroy(client);
    CHECK_EQUAL(events.count, 2);
}

static void refusals_of_the_server_are_told(struct midge_rig *rig)
{
    static const char config[] =
        "authorization { users = [ { user: a, password: b, permissions: { publish: { deny: "
        "\"no\" } } } ] }\n";
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {0};
    struct midge_rig_server server;
    struct midge_client *client;

    if (rig->is_midge)
        return; /* it has no permissions yet */
    midge_rig_server_start_with(rig, &server, config);
    options.url = server.url;
    options.user = "a";
    options.password = "b";
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_connect(rig, &options);
    midge_rig_publish(client, "no", "x");
    midge_rig_flush(client);
    CHECK_EQUAL(events.counts[MIDGE_EVENT_ERROR], 1);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_ERROR], MIDGE_E_PERMISSION);
    CHECK(strstr(events.texts[MIDGE_EVENT_ERROR], "Permissions Violation for Publish") != NULL);
    CHECK(midge_client_state(client) == MIDGE_CLIENT_CONNECTED);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

/* --- when it fails --- */

static void nobody_there_is_told_with_words(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    char url[64];

    (void)snprintf(url, sizeof(url), "nats://127.0.0.1:%u", midge_rig_free_port());
    options.url = url;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_NO_SERVERS, "Connection refused");
}

static void talk_nothing(struct midge_rig_fake_conn *conn)
{
    (void)midge_rig_fake_await(conn, "never");
}

static void talk_rubbish(struct midge_rig_fake_conn *conn)
{
    midge_rig_fake_send(conn, "HTTP/1.1 400 Bad Request\r\n\r\n");
    (void)midge_rig_fake_await(conn, "never");
}

static void talk_early(struct midge_rig_fake_conn *conn)
{
    midge_rig_fake_info(conn, "");
    midge_rig_fake_send(conn, "MSG a 1 1\r\nx\r\n");
    (void)midge_rig_fake_await(conn, "never");
}

static void servers_that_are_none_are_left(struct midge_rig *rig)
{
    static const struct {
        midge_rig_talk_cb talk_cb;
        uint32_t timeout_ms;
        const char *words;
    } fakes[] = {
        {talk_nothing, 50, "no answer within 50 ms"},
        {talk_rubbish, RIG_PATIENCE_MS, "no NATS protocol"},
        {talk_early, RIG_PATIENCE_MS, "too early"},
    };

    for (size_t i = 0; i < sizeof(fakes) / sizeof(fakes[0]); i++) {
        struct midge_options options = midge_rig_options(rig);
        struct midge_rig_fake *fake = midge_rig_fake_start(NULL, fakes[i].talk_cb);

        options.connect_timeout_ms = fakes[i].timeout_ms;
        options.url = midge_rig_fake_url(fake);
        midge_rig_expect_refusal(rig, &options, MIDGE_E_NO_SERVERS, fakes[i].words);
        midge_rig_fake_end(fake);
    }
}

static void failed_connect_may_be_tried_again(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start(rig, &server, NULL);
    midge_rig_server_kill(&server);
    options.url = server.url;
    client = midge_rig_create(rig, &options);
    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), MIDGE_E_NO_SERVERS);
    midge_rig_server_again(&server);
    MUST(midge_client_connect(client, RIG_PATIENCE_MS));
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void first_connect_is_retried_where_wanted(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start(rig, &server, NULL);
    midge_rig_server_kill(&server);
    options.url = server.url;
    options.retry_first_connect = true;
    options.reconnect_max = UINT32_MAX;
    options.reconnect_wait_ms = 5;
    options.reconnect_wait_max_ms = 20;
    options.reconnect_jitter_ms = 5;
    client = midge_rig_create(rig, &options);
    CHECK_STATUS(midge_client_connect(client, 20), MIDGE_E_TIMEOUT);
    CHECK(midge_client_state(client) == MIDGE_CLIENT_CONNECTING);
    midge_rig_server_again(&server);
    MUST(midge_client_connect(client, RIG_PATIENCE_MS));
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void first_connect_gives_up_after_its_attempts(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {0};
    struct midge_client *client;
    char url[64];

    (void)snprintf(url, sizeof(url), "nats://127.0.0.1:%u", midge_rig_free_port());
    options.url = url;
    options.retry_first_connect = true;
    options.reconnect_max = 3;
    options.reconnect_wait_ms = 1;
    options.reconnect_jitter_ms = 1;
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_create(rig, &options);
    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), MIDGE_E_NO_SERVERS);
    CHECK(midge_client_state(client) == MIDGE_CLIENT_CLOSED);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_CLOSED], MIDGE_E_NO_SERVERS);
    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), MIDGE_E_CLOSED);
    midge_client_destroy(client);
}

/* --- before and after --- */

static void work_may_begin_before_the_connection(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_create(rig, NULL);
    struct midge_rig_heard heard = {0};
    struct midge_sub *sub;

    MUST(midge_client_subscribe(client, "before", NULL, &sub, &heard, midge_rig_hear));
    midge_rig_publish(client, "before", "early");
    MUST(midge_client_connect(client, RIG_PATIENCE_MS));
    WAIT_UNTIL(client, heard.count == 1);
    CHECK(strcmp(heard.payload, "early") == 0);
    midge_client_destroy(client);
}

static void client_may_end_before_it_began(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_create(rig, NULL);

    midge_client_destroy(client);
    client = midge_rig_create(rig, NULL);
    CHECK_STATUS(midge_client_connect(client, 0), MIDGE_AGAIN);
    midge_client_destroy(client);
    client = midge_rig_create(rig, NULL);
    CHECK_STATUS(midge_client_connect(client, 0), MIDGE_AGAIN);
    (void)!midge_client_poll(client);
    (void)!midge_client_poll(client);
    midge_client_destroy(client);
    midge_client_destroy(NULL);
}

static void destroy_sends_what_is_queued(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_client *other = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(other, "last");

    for (uint32_t i = 0; i < 1000; i++)
        midge_rig_publish(client, "last", "words");
    midge_client_destroy(client);
    for (uint32_t i = 0; i < 1000; i++)
        midge_rig_expect(rig, sub, "words");
    midge_client_destroy(other);
}

/* A service that answers while its client drains. */
static void drain_finishes_all_work(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_client *other = midge_rig_connect(rig, NULL);
    struct midge_sub *answers = midge_rig_subscribe(other, "answers");
    const struct midge_outgoing outgoing = {
        .subject = "work", .reply = "answers", .payload = "x", .payload_len = 1};
    struct midge_sub *sub;

    (void)midge_rig_listen(client, "work", NULL, midge_rig_echo);
    for (uint32_t i = 0; i < 100; i++)
        MUST(midge_client_publish_msg(other, &outgoing));
    midge_rig_flush(other);
    MUST(midge_client_drain(client, RIG_PATIENCE_MS));
    CHECK_STATUS(midge_client_publish(client, "a", "x", 1), MIDGE_E_CLOSED);
    CHECK_STATUS(midge_client_subscribe(client, "a", NULL, &sub, NULL, NULL), MIDGE_E_CLOSED);
    CHECK_STATUS(midge_client_flush(client, 1000, NULL), MIDGE_E_CLOSED);
    CHECK_STATUS(midge_client_wait(client, 0), MIDGE_E_CLOSED);
    CHECK_STATUS(midge_client_drain(client, 1000), MIDGE_E_CLOSED);
    for (uint32_t i = 0; i < 100; i++)
        midge_rig_expect(rig, answers, "x");
    midge_client_destroy(client);
    midge_client_destroy(other);
}

static void wait_on_a_closed_client_does_not_wait(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);

    MUST(midge_client_drain(client, RIG_PATIENCE_MS));
    CHECK_STATUS(midge_client_wait(client, MIDGE_FOREVER), MIDGE_E_CLOSED);
    CHECK_STATUS(midge_client_poll(client), MIDGE_E_CLOSED);
    MUST(midge_client_run(client));
    midge_client_destroy(client);
}

static void drain_waits_for_pulled_messages(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "pulled");
    const struct midge_msg *msg;

    midge_rig_publish(client, "pulled", "1");
    midge_rig_publish(client, "pulled", "2");
    midge_rig_flush(client);
    CHECK_STATUS(midge_client_drain(client, 0), MIDGE_AGAIN);
    midge_rig_expect(rig, sub, "1");
    midge_rig_expect(rig, sub, "2");
    CHECK_STATUS(midge_sub_next(sub, RIG_PATIENCE_MS, &msg), MIDGE_E_SUB_ENDED);
    MUST(midge_client_run(client));
    midge_client_destroy(client);
}

static void ignore_reply(void *context, enum midge_status status, const struct midge_msg *msg)
{
    (void)context;
    (void)status;
    (void)msg;
}

static void talk_back(struct midge_rig_fake_conn *conn)
{
    if (!midge_rig_fake_accept(conn, ""))
        return;
    while (midge_rig_fake_await(conn, "PING\r\n"))
        midge_rig_fake_send(conn, "PONG\r\nPING\r\n");
}

static void what_waits_can_be_taken_after_the_end(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "left");
    const struct midge_msg *msg;

    midge_rig_publish(client, "left", "1");
    midge_rig_publish(client, "left", "2");
    MUST(midge_client_drain(client, RIG_PATIENCE_MS));
    /* Until nothing of the connection is left, so that destroying the client drives nothing. */
    for (uint32_t i = 0; i < 10; i++)
        CHECK_STATUS(midge_client_wait(client, 0), MIDGE_E_CLOSED);
    midge_rig_expect(rig, sub, "1");
    midge_rig_expect(rig, sub, "2");
    /* The last one is the client's to end, unless the caller owns it. */
    CHECK_STATUS(midge_sub_next(sub, 0, &msg), MIDGE_E_SUB_ENDED);
    midge_client_destroy(client);
}

static void drain_is_not_held_up_by_a_ping_behind_the_last_pong(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_back);
    struct midge_client *client;
    struct midge_sub *sub;

    options.url = midge_rig_fake_url(fake);
    client = midge_rig_connect(rig, &options);
    MUST(midge_client_subscribe(client, "a", NULL, &sub, NULL, NULL));
    MUST(midge_client_drain(client, RIG_PATIENCE_MS));
    CHECK(midge_sub_has_ended(sub));
    midge_client_destroy(client);
    midge_rig_fake_end(fake);
}

static void drain_has_a_time_limit(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    const struct midge_outgoing outgoing = {.subject = "silent"};
    struct midge_rig_heard heard = {0};
    struct midge_client *client = midge_rig_connect(rig, &options);
    struct midge_client *other = midge_rig_connect(rig, &options);

    (void)midge_rig_listen(other, "silent", &heard, midge_rig_hear);
    /* An open request keeps it. */
    MUST(midge_client_request_async(client, &outgoing, NULL, NULL, NULL, ignore_reply));
    CHECK_STATUS(midge_client_drain(client, 20), MIDGE_E_TIMEOUT);
    CHECK(midge_client_state(client) == MIDGE_CLIENT_CLOSED);
    midge_client_destroy(other);
    midge_client_destroy(client);
}

/* --- statuses --- */

static void each_status_has_words(struct midge_rig *rig)
{
    static const enum midge_status all[] = {
#define STATUS_VALUE(name, value, closes, text) MIDGE_##name,
        MIDGE_STATUS_TABLE(STATUS_VALUE)
#undef STATUS_VALUE
    };
    const char *const unknown = midge_client_status_text((enum midge_status)(-999));

    (void)rig;
    CHECK(unknown[0] != '\0');
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        CHECK(midge_client_status_text(all[i])[0] != '\0');
        CHECK(strcmp(midge_client_status_text(all[i]), unknown) != 0);
    }
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(urls_may_be_written_in_several_ways),
        RIG_CASE(next_url_is_tried_when_one_fails),
        RIG_CASE(environment_names_the_server),
        RIG_CASE(unix_socket_works),
        RIG_CASE(bad_urls_are_refused_with_words),
        RIG_CASE(options_that_cannot_be_are_refused),
        RIG_CASE(host_names_are_looked_up),
        RIG_CASE(user_and_password_are_sent),
        RIG_CASE(token_is_sent),
        RIG_CASE(server_introduces_itself),
        RIG_CASE(events_tell_the_life_of_a_client),
        RIG_CASE(refusals_of_the_server_are_told),
        RIG_CASE(nobody_there_is_told_with_words),
        RIG_CASE(servers_that_are_none_are_left),
        RIG_CASE(failed_connect_may_be_tried_again),
        RIG_CASE(first_connect_is_retried_where_wanted),
        RIG_CASE(first_connect_gives_up_after_its_attempts),
        RIG_CASE(work_may_begin_before_the_connection),
        RIG_CASE(client_may_end_before_it_began),
        RIG_CASE(destroy_sends_what_is_queued),
        RIG_CASE(drain_finishes_all_work),
        RIG_CASE(wait_on_a_closed_client_does_not_wait),
        RIG_CASE(drain_waits_for_pulled_messages),
        RIG_CASE(what_waits_can_be_taken_after_the_end),
        RIG_CASE(drain_is_not_held_up_by_a_ping_behind_the_last_pong),
        RIG_CASE(drain_has_a_time_limit),
        RIG_CASE(each_status_has_words),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
