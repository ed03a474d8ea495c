/*
 * Lost connections: a new one is found, what was there before is restored, what cannot be is
 * counted; servers that fall silent, announce others, or say that they will go.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "rig.h"

/* A client of a server of its own. */
struct pair {
    struct midge_rig_server server;
    struct midge_options options;
    struct midge_rig_events events;
    struct midge_client *client;
};

/* Set up all but the client. */
static void prepare(struct midge_rig *rig, struct pair *pair)
{
    midge_rig_server_start(rig, &pair->server, NULL);
    pair->events = (struct midge_rig_events){0};
    pair->options = midge_rig_options(rig);
    pair->options.url = pair->server.url;
    pair->options.reconnect_max = UINT32_MAX;
    pair->options.reconnect_wait_ms = 2;
    pair->options.reconnect_wait_max_ms = 10;
    pair->options.reconnect_jitter_ms = 2;
    pair->options.context = &pair->events;
    pair->options.event_cb = midge_rig_note_event;
}

static void begin(struct midge_rig *rig, struct pair *pair)
{
    prepare(rig, pair);
    pair->client = midge_rig_connect(rig, &pair->options);
}

static void end(struct pair *pair)
{
    midge_client_destroy(pair->client);
    midge_rig_server_end(&pair->server);
}

static void lose(struct pair *pair)
{
    midge_rig_server_kill(&pair->server);
    WAIT_UNTIL(pair->client, midge_client_state(pair->client) == MIDGE_CLIENT_RECONNECTING);
}

static void find_again(struct pair *pair)
{
    midge_rig_server_again(&pair->server);
    WAIT_UNTIL(pair->client, midge_client_state(pair->client) == MIDGE_CLIENT_CONNECTED);
}

/* --- the same server --- */

static void lost_connection_comes_back_and_says_so(struct midge_rig *rig)
{
    struct pair pair;

    begin(rig, &pair);
    lose(&pair);
    CHECK_EQUAL(pair.events.counts[MIDGE_EVENT_DISCONNECTED], 1);
    CHECK_STATUS(pair.events.statuses[MIDGE_EVENT_DISCONNECTED], MIDGE_E_DISCONNECTED);
    CHECK(strstr(pair.events.texts[MIDGE_EVENT_DISCONNECTED], pair.server.url) != NULL);
    CHECK_STATUS(midge_client_submit(pair.client), MIDGE_E_DISCONNECTED);
    CHECK_STATUS(midge_client_flush(pair.client, 20, NULL), MIDGE_E_DISCONNECTED);
    find_again(&pair);
    CHECK_EQUAL(pair.events.count, 3);
    CHECK(pair.events.order[0] == MIDGE_EVENT_CONNECTED);
    CHECK(pair.events.order[1] == MIDGE_EVENT_DISCONNECTED);
    CHECK(pair.events.order[2] == MIDGE_EVENT_RECONNECTED);
    CHECK_EQUAL(midge_rig_stats(pair.client).connects, 2);
    end(&pair);
}

static void subscriptions_are_restored(struct midge_rig *rig)
{
    const struct midge_sub_options workers = {.queue = "workers"};
    struct midge_rig_heard heard = {0};
    struct midge_rig_heard worker = {0};
    struct midge_rig_heard gone = {0};
    struct midge_rig_heard made_offline = {0};
    struct midge_sub *pulled;
    struct midge_sub *sub;
    const struct midge_msg *reply;
    struct pair pair;

    begin(rig, &pair);
    (void)midge_rig_listen(pair.client, "a", &heard, midge_rig_hear);
    MUST(midge_client_subscribe(pair.client, "a", &workers, &sub, &worker, midge_rig_hear));
    sub = midge_rig_listen(pair.client, "a", &gone, midge_rig_hear);
    midge_sub_destroy(sub);
    pulled = midge_rig_subscribe(pair.client, "a");
    (void)midge_rig_listen(pair.client, "echo", NULL, midge_rig_echo);
    MUST(midge_client_request(pair.client, "echo", "1", 1, RIG_PATIENCE_MS, &reply));
    midge_rig_done(rig, reply);
    lose(&pair);
    MUST(midge_client_subscribe(pair.client, "a", NULL, &sub, &made_offline, midge_rig_hear));
    find_again(&pair);
    midge_rig_publish(pair.client, "a", "x");
    midge_rig_expect(rig, pulled, "x");
    midge_rig_flush(pair.client);
    CHECK_EQUAL(heard.count, 1);
    CHECK_EQUAL(worker.count, 1);
    CHECK_EQUAL(gone.count, 0);
    CHECK_EQUAL(made_offline.count, 1);
    /* The shared inbox is one of them. */
    MUST(midge_client_request(pair.client, "echo", "2", 1, RIG_PATIENCE_MS, &reply));
    CHECK_TEXT(reply->payload, "2");
    midge_rig_done(rig, reply);
    CHECK_EQUAL(midge_rig_stats(pair.client).stray_msgs, 0);
    end(&pair);
}

static void maximum_counts_through_reconnects(struct midge_rig *rig)
{
    struct midge_rig_heard heard = {0};
    struct midge_sub *sub;
    struct pair pair;

    begin(rig, &pair);
    sub = midge_rig_listen(pair.client, "max", &heard, midge_rig_hear);
    MUST(midge_sub_unsubscribe(sub, 5));
    midge_rig_publish(pair.client, "max", "x");
    midge_rig_publish(pair.client, "max", "x");
    midge_rig_flush(pair.client);
    lose(&pair);
    find_again(&pair);
    for (uint32_t i = 0; i < 10; i++)
        midge_rig_publish(pair.client, "max", "x");
    midge_rig_flush(pair.client);
    CHECK_EQUAL(heard.count, 5);
    CHECK(midge_sub_has_ended(sub));
    CHECK_EQUAL(midge_rig_stats(pair.client).stray_msgs, 0);
    end(&pair);
}

static void maximum_set_after_a_reconnect_counts_from_the_start(struct midge_rig *rig)
{
    struct midge_rig_heard heard = {0};
    struct midge_rig_heard offline = {0};
    struct midge_sub *subs[2];
    struct pair pair;

    begin(rig, &pair);
    subs[0] = midge_rig_listen(pair.client, "max", &heard, midge_rig_hear);
    subs[1] = midge_rig_listen(pair.client, "max", &offline, midge_rig_hear);
    midge_rig_publish(pair.client, "max", "x");
    midge_rig_publish(pair.client, "max", "x");
    midge_rig_flush(pair.client);
    lose(&pair);
    MUST(midge_sub_unsubscribe(subs[1], 3));
    find_again(&pair);
    midge_rig_publish(pair.client, "max", "x");
    midge_rig_flush(pair.client);
    MUST(midge_sub_unsubscribe(subs[0], 4));
    for (uint32_t i = 0; i < 10; i++)
        midge_rig_publish(pair.client, "max", "x");
    midge_rig_flush(pair.client);
    CHECK_EQUAL(heard.count, 4);
    CHECK_EQUAL(offline.count, 3);
    CHECK_EQUAL(midge_rig_stats(pair.client).stray_msgs, 0);
    end(&pair);
}

static void messages_wait_for_the_connection_up_to_a_bound(struct midge_rig *rig)
{
    struct midge_rig_server *server;
    struct midge_client *other;
    struct midge_sub *sub;
    struct midge_options options = midge_rig_options(rig);
    struct pair pair;
    uint32_t accepted = 0;
    enum midge_status status;

    prepare(rig, &pair);
    server = &pair.server;
    pair.options.offline_bytes_max = 1000;
    pair.client = midge_rig_connect(rig, &pair.options);
    lose(&pair);
    while ((status = midge_client_publish(pair.client, "wait", "0123456789", 10)) == MIDGE_OK)
        accepted++;
    CHECK_STATUS(status, MIDGE_E_DISCONNECTED);
    CHECK(accepted >= 30);
    CHECK(accepted <= 50);
    CHECK(midge_rig_stats(pair.client).queued_bytes >= 1000);
    midge_rig_server_again(server);
    options.url = server->url;
    other = midge_rig_connect(rig, &options);
    sub = midge_rig_subscribe(other, "wait");
    WAIT_UNTIL(pair.client, midge_client_state(pair.client) == MIDGE_CLIENT_CONNECTED);
    midge_rig_flush(pair.client);
    for (uint32_t i = 0; i < accepted; i++)
        midge_rig_expect(rig, sub, "0123456789");
    midge_rig_expect_nothing(sub);
    CHECK_EQUAL(midge_rig_stats(pair.client).lost_msgs, 0);
    CHECK_EQUAL(midge_rig_stats(pair.client).unconfirmed_msgs, 0);
    midge_client_destroy(other);
    end(&pair);
}

static void without_a_buffer_publish_fails_at_once(struct midge_rig *rig)
{
    struct pair pair;

    prepare(rig, &pair);
    pair.options.offline_bytes_max = 0;
    pair.client = midge_rig_connect(rig, &pair.options);
    lose(&pair);
    CHECK_STATUS(midge_client_publish(pair.client, "a", "x", 1), MIDGE_E_DISCONNECTED);
    CHECK_EQUAL(midge_rig_stats(pair.client).queued_bytes, 0);
    end(&pair);
}

static void flush_is_told_that_the_connection_was_lost(struct midge_rig *rig)
{
    struct pair pair;

    begin(rig, &pair);
    midge_rig_server_signal(&pair.server, SIGSTOP);
    CHECK_STATUS(midge_client_flush(pair.client, 20, NULL), MIDGE_E_TIMEOUT);
    midge_rig_publish(pair.client, "a", "x");
    MUST(midge_client_submit(pair.client));
    midge_rig_server_kill(&pair.server);
    CHECK_STATUS(midge_client_flush(pair.client, RIG_PATIENCE_MS, NULL), MIDGE_E_DISCONNECTED);
    CHECK_EQUAL(midge_rig_stats(pair.client).unconfirmed_msgs, 1);
    /* A flush that begins without a connection waits for one. */
    midge_rig_server_again(&pair.server);
    midge_rig_flush(pair.client);
    end(&pair);
}

static void drain_without_a_connection_closes(struct midge_rig *rig)
{
    struct pair pair;

    begin(rig, &pair);
    lose(&pair);
    midge_rig_publish(pair.client, "a", "x");
    CHECK_STATUS(midge_client_drain(pair.client, RIG_PATIENCE_MS), MIDGE_E_DISCONNECTED);
    CHECK(midge_client_state(pair.client) == MIDGE_CLIENT_CLOSED);
    CHECK_STATUS(pair.events.statuses[MIDGE_EVENT_CLOSED], MIDGE_E_DISCONNECTED);
    CHECK_EQUAL(midge_rig_stats(pair.client).lost_msgs, 1);
    CHECK_EQUAL(midge_rig_stats(pair.client).queued_bytes, 0);
    end(&pair);
}

static void loss_ends_the_drain_of_a_subscription(struct midge_rig *rig)
{
    struct midge_sub *sub;
    struct pair pair;

    begin(rig, &pair);
    sub = midge_rig_subscribe(pair.client, "a");
    midge_rig_server_signal(&pair.server, SIGSTOP);
    MUST(midge_sub_drain(sub));
    midge_rig_server_kill(&pair.server);
    WAIT_UNTIL(pair.client, midge_sub_has_ended(sub));
    end(&pair);
}

/* --- when to give up --- */

static void without_reconnects_a_loss_closes(struct midge_rig *rig)
{
    struct midge_sub *sub;
    const struct midge_msg *msg;
    struct pair pair;

    prepare(rig, &pair);
    pair.options.reconnect_max = 0;
    pair.client = midge_rig_connect(rig, &pair.options);
    sub = midge_rig_subscribe(pair.client, "a");
    midge_rig_server_kill(&pair.server);
    CHECK_STATUS(midge_client_run(pair.client), MIDGE_E_DISCONNECTED);
    CHECK_EQUAL(pair.events.counts[MIDGE_EVENT_CLOSED], 1);
    CHECK_STATUS(pair.events.statuses[MIDGE_EVENT_CLOSED], MIDGE_E_DISCONNECTED);
    CHECK_STATUS(midge_sub_next(sub, 0, &msg), MIDGE_E_SUB_ENDED);
    CHECK_STATUS(midge_client_publish(pair.client, "a", "x", 1), MIDGE_E_CLOSED);
    end(&pair);
}

static void attempts_are_counted(struct midge_rig *rig)
{
    struct pair pair;

    prepare(rig, &pair);
    pair.options.reconnect_max = 3;
    pair.client = midge_rig_connect(rig, &pair.options);
    midge_rig_server_kill(&pair.server);
    CHECK_STATUS(midge_client_run(pair.client), MIDGE_E_NO_SERVERS);
    CHECK_EQUAL(pair.events.counts[MIDGE_EVENT_DISCONNECTED], 1);
    CHECK_EQUAL(pair.events.counts[MIDGE_EVENT_CLOSED], 1);
    CHECK(strstr(midge_client_error(pair.client), "Connection refused") != NULL);
    end(&pair);
}

static void credentials_refused_twice_close(struct midge_rig *rig)
{
    struct pair pair;

    begin(rig, &pair);
    lose(&pair);
    pair.server.arguments[pair.server.argument_count++] = "--auth";
    pair.server.arguments[pair.server.argument_count++] = "other";
    midge_rig_server_again(&pair.server);
    CHECK_STATUS(midge_client_run(pair.client), MIDGE_E_AUTH);
    CHECK_STATUS(pair.events.statuses[MIDGE_EVENT_CLOSED], MIDGE_E_AUTH);
    end(&pair);
}

/* Notes when connections come, and drops them. */
struct arrivals {
    uint64_t at_ns[32];
};

static void talk_arrivals(struct midge_rig_fake_conn *conn)
{
    struct arrivals *arrivals = conn->context;

    if (conn->number < 32)
        arrivals->at_ns[conn->number] = midge_rig_now_ns();
}

static void wait_between_attempts_doubles_up_to_a_bound(struct midge_rig *rig)
{
    static const uint64_t least_ms[] = {8, 16, 32, 32, 32};
    struct midge_options options = midge_rig_options(rig);
    struct arrivals arrivals;
    struct midge_rig_fake *fake = midge_rig_fake_start(&arrivals, talk_arrivals);
    struct midge_client *client;

    options.url = midge_rig_fake_url(fake);
    options.retry_first_connect = true;
    options.reconnect_max = 6;
    options.reconnect_wait_ms = 8;
    options.reconnect_wait_max_ms = 32;
    options.reconnect_jitter_ms = 0;
    client = midge_rig_create(rig, &options);
    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), MIDGE_E_NO_SERVERS);
    midge_client_destroy(client);
    CHECK_EQUAL(midge_rig_fake_conns(fake), 6);
    midge_rig_fake_end(fake);
    /* One accepted late makes a gap shorter, the whole from the first is not. */
    for (uint64_t i = 0, least = 0; i < 5; i++) {
        least += least_ms[i] * 1000000;
        CHECK(arrivals.at_ns[i + 1] - arrivals.at_ns[0] + 4000000 >= least);
    }
}

static void wait_has_a_random_part(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct arrivals arrivals;
    struct midge_rig_fake *fake = midge_rig_fake_start(&arrivals, talk_arrivals);
    struct midge_client *client;

    options.url = midge_rig_fake_url(fake);
    options.retry_first_connect = true;
    options.reconnect_max = 16;
    options.reconnect_wait_ms = 0;
    options.reconnect_jitter_ms = 20;
    client = midge_rig_create(rig, &options);
    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), MIDGE_E_NO_SERVERS);
    midge_client_destroy(client);
    midge_rig_fake_end(fake);
    /* 15 waits of 10 ms on average; that they are below 10 ms in all happens once in 10^16. */
    CHECK(arrivals.at_ns[15] - arrivals.at_ns[0] >= 10000000);
}

/* --- other servers --- */

static void another_configured_server_takes_over(struct midge_rig *rig)
{
    struct midge_server_info info;
    struct pair pair;
    char urls[160];

    prepare(rig, &pair);
    (void)snprintf(urls, sizeof(urls), "%s,%s", pair.server.url, rig->server.url);
    pair.options.url = urls;
    pair.options.keep_order = true;
    pair.client = midge_rig_connect(rig, &pair.options);
    midge_client_server(pair.client, &info);
    CHECK(strcmp(info.url, pair.server.url) == 0);
    midge_rig_server_kill(&pair.server);
    WAIT_UNTIL(pair.client, midge_rig_stats(pair.client).connects == 2);
    midge_client_server(pair.client, &info);
    CHECK(strcmp(info.url, rig->server.url) == 0);
    end(&pair);
}

/* Announces the server of the rig to the first connection, and ends it when told so. */
struct announcer {
    char members[128];
    pthread_mutex_t told;
};

static void talk_announcing(struct midge_rig_fake_conn *conn)
{
    struct announcer *announcer = conn->context;

    if (conn->number > 0 || !midge_rig_fake_accept(conn, announcer->members))
        return;
    CHECK(pthread_mutex_lock(&announcer->told) == 0);
    CHECK(pthread_mutex_unlock(&announcer->told) == 0);
}

static void announced_server_takes_over(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct announcer announcer = {.told = PTHREAD_MUTEX_INITIALIZER};
    struct midge_rig_fake *fake = midge_rig_fake_start(&announcer, talk_announcing);
    struct midge_server_info info;
    struct midge_client *client;

    (void)snprintf(announcer.members, sizeof(announcer.members),
                   ",\"connect_urls\":[\"127.0.0.1:%u\"]", rig->server.port);
    CHECK(pthread_mutex_lock(&announcer.told) == 0);
    options.url = midge_rig_fake_url(fake);
    client = midge_rig_connect(rig, &options);
    CHECK(pthread_mutex_unlock(&announcer.told) == 0);
    WAIT_UNTIL(client, midge_rig_stats(client).connects == 2);
    midge_client_server(client, &info);
    CHECK(strcmp(info.url, rig->server.url) == 0);
    midge_client_destroy(client);
    midge_rig_fake_end(fake);
}

static void announced_servers_may_be_ignored(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct announcer announcer = {.told = PTHREAD_MUTEX_INITIALIZER};
    struct midge_rig_fake *fake = midge_rig_fake_start(&announcer, talk_announcing);
    struct midge_client *client;

    (void)snprintf(announcer.members, sizeof(announcer.members),
                   ",\"connect_urls\":[\"127.0.0.1:%u\"]", rig->server.port);
    CHECK(pthread_mutex_lock(&announcer.told) == 0);
    options.url = midge_rig_fake_url(fake);
    options.ignore_announced = true;
    options.reconnect_max = 2;
    options.reconnect_wait_ms = 1;
    client = midge_rig_connect(rig, &options);
    CHECK(pthread_mutex_unlock(&announcer.told) == 0);
    CHECK_STATUS(midge_client_run(client), MIDGE_E_NO_SERVERS);
    CHECK_EQUAL(midge_rig_stats(client).connects, 1);
    midge_client_destroy(client);
    midge_rig_fake_end(fake);
}

/* Changes its cluster, then says that it will go. */
static void talk_changing(struct midge_rig_fake_conn *conn)
{
    if (!midge_rig_fake_accept(conn, ""))
        return;
    midge_rig_fake_info(conn, ",\"connect_urls\":[\"127.0.0.1:1\"]");
    midge_rig_fake_info(conn, ",\"connect_urls\":[\"127.0.0.1:1\"]");
    midge_rig_fake_info(conn, ",\"connect_urls\":[\"127.0.0.1:2\"]");
    midge_rig_fake_info(conn, ",\"connect_urls\":[\"127.0.0.1:2\"],\"ldm\":true");
    midge_rig_fake_info(conn, ",\"connect_urls\":[\"127.0.0.1:2\"],\"ldm\":true");
    (void)midge_rig_fake_await(conn, "never");
}

static void changes_of_the_cluster_are_told_once_each(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_changing);
    struct midge_rig_events events = {0};
    struct midge_client *client;

    options.url = midge_rig_fake_url(fake);
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_connect(rig, &options);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_LAME_DUCK] == 1);
    CHECK_EQUAL(events.counts[MIDGE_EVENT_SERVERS], 2);
    CHECK_STATUS(midge_client_wait(client, 20), MIDGE_AGAIN);
    CHECK_EQUAL(events.counts[MIDGE_EVENT_LAME_DUCK], 1);
    midge_client_destroy(client);
    midge_rig_fake_end(fake);
}

/* --- silence --- */

static void silent_server_is_left(struct midge_rig *rig)
{
    struct pair pair;
    char urls[160];

    prepare(rig, &pair);
    (void)snprintf(urls, sizeof(urls), "%s,%s", pair.server.url, rig->server.url);
    pair.options.url = urls;
    pair.options.keep_order = true;
    pair.options.ping_interval_ms = 30;
    pair.options.pings_max = 2;
    pair.client = midge_rig_connect(rig, &pair.options);
    midge_rig_server_signal(&pair.server, SIGSTOP);
    WAIT_UNTIL(pair.client, pair.events.counts[MIDGE_EVENT_DISCONNECTED] == 1);
    CHECK_STATUS(pair.events.statuses[MIDGE_EVENT_DISCONNECTED], MIDGE_E_STALE);
    WAIT_UNTIL(pair.client, midge_rig_stats(pair.client).connects == 2);
    end(&pair);
}

static void server_that_answers_is_kept(struct midge_rig *rig)
{
    struct pair pair;

    prepare(rig, &pair);
    /* On a busy machine an answer takes long; it must be missing fifty times in a row. */
    pair.options.ping_interval_ms = 5;
    pair.options.pings_max = 50;
    pair.client = midge_rig_connect(rig, &pair.options);
    for (uint32_t i = 0; i < 10; i++)
        (void)!midge_client_wait(pair.client, 10);
    CHECK_EQUAL(pair.events.counts[MIDGE_EVENT_DISCONNECTED], 0);
    end(&pair);
}

static void pings_of_the_server_are_answered(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start_with(rig, &server, "ping_interval: \"250ms\"\nping_max: 3\n");
    options.url = server.url;
    client = midge_rig_connect(rig, &options);
    for (const uint64_t begun_ns = midge_rig_now_ns(); midge_rig_now_ns() - begun_ns < 1300000000;)
        (void)!midge_client_wait(client, 10);
    midge_rig_flush(client);
    CHECK_EQUAL(midge_rig_stats(client).connects, 1);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(lost_connection_comes_back_and_says_so),
        RIG_CASE(subscriptions_are_restored),
        RIG_CASE(maximum_counts_through_reconnects),
        RIG_CASE(maximum_set_after_a_reconnect_counts_from_the_start),
        RIG_CASE(messages_wait_for_the_connection_up_to_a_bound),
        RIG_CASE(without_a_buffer_publish_fails_at_once),
        RIG_CASE(flush_is_told_that_the_connection_was_lost),
        RIG_CASE(drain_without_a_connection_closes),
        RIG_CASE(loss_ends_the_drain_of_a_subscription),
        RIG_CASE(without_reconnects_a_loss_closes),
        RIG_CASE(attempts_are_counted),
        RIG_CASE(credentials_refused_twice_close),
        RIG_CASE(wait_between_attempts_doubles_up_to_a_bound),
        RIG_CASE(wait_has_a_random_part),
        RIG_CASE(another_configured_server_takes_over),
        RIG_CASE(announced_server_takes_over),
        RIG_CASE(announced_servers_may_be_ignored),
        RIG_CASE(changes_of_the_cluster_are_told_once_each),
        RIG_CASE(silent_server_is_left),
        RIG_CASE(server_that_answers_is_kept),
        RIG_CASE(pings_of_the_server_are_answered),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
