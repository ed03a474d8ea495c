/*
 * A server that misbehaves before a connection is ready, about the servers that it announces, and
 * about how long its connections last.
 *
 * Method: fake servers (hostile.h). What connect() says is what the documentation promises; nothing
 * is sent in plain text that was meant to be encrypted; and whatever a server announces, the client
 * comes back to the one that its user named.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hostile.h"

#define MIB (1024u * 1024)

/* --- the end at every byte of the handshake --- */

static const char greeting[] = "INFO {\"server_id\":\"F\",\"headers\":true}\r\n";
static const char pong[] = "PONG\r\n";

static void talk_one_byte_more(struct midge_rig_fake_conn *conn)
{
    const size_t info_len = sizeof(greeting) - 1;
    const size_t len = conn->number;

    if (len >= info_len + sizeof(pong) - 1) {
        midge_hostile_serve(conn);
    } else if (len <= info_len) {
        (void)midge_hostile_send(conn, greeting, len);
    } else if (midge_hostile_send(conn, greeting, info_len) &&
               midge_rig_fake_await(conn, "PING\r\n")) {
        (void)midge_hostile_send(conn, pong, len - info_len);
    }
}

static void a_server_may_go_at_any_byte_of_the_handshake(struct midge_rig *rig)
{
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);

    options.retry_first_connect = true;
    midge_hostile_open(&hostile, rig, NULL, talk_one_byte_more, &options);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    CHECK_EQUAL(midge_rig_fake_conns(hostile.fake), sizeof(greeting) - 1 + sizeof(pong) - 1 + 1);
    CHECK_EQUAL(midge_rig_stats(hostile.victim).connects, 1);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

/* --- bad beginnings --- */

struct beginning {
    const char *text; /* instead of INFO */
    enum midge_status status;
    const char *words; /* that the client's error has */
};

static void talk_beginning(struct midge_rig_fake_conn *conn)
{
    const struct beginning *beginning = conn->context;

    midge_rig_fake_send(conn, beginning->text);
    (void)midge_hostile_read_to_end(conn);
}

static void expect_no_connection(struct midge_rig *rig, struct beginning *beginning)
{
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, beginning, talk_beginning, NULL);
    CHECK_STATUS(midge_client_connect(hostile.victim, RIG_PATIENCE_MS), beginning->status);
    if (strstr(midge_client_error(hostile.victim), beginning->words) == NULL)
        midge_rig_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"",
                       midge_client_error(hostile.victim), beginning->words);
    CHECK_EQUAL(midge_rig_fake_conns(hostile.fake), 1);
    CHECK_EQUAL(midge_client_state(hostile.victim), MIDGE_CLIENT_IDLE);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

#define INFO_OK "INFO {\"server_id\":\"F\"}\r\n"

static void a_bad_beginning_is_no_connection(struct midge_rig *rig)
{
    static struct beginning beginnings[] = {
        {"garbage\r\n", MIDGE_E_NO_SERVERS, "no NATS protocol"},
        {"INFO\r\n", MIDGE_E_NO_SERVERS, "no NATS protocol"},
        {"INFO {\r\n", MIDGE_E_NO_SERVERS, "INFO cannot be read"},
        {"INFO 7\r\n", MIDGE_E_NO_SERVERS, "INFO cannot be read"},
        {"INFO {\"headers\":\"yes\"}\r\n", MIDGE_E_NO_SERVERS, "INFO cannot be read"},
        {"MSG a 1 1\r\nx\r\n", MIDGE_E_NO_SERVERS, "too early"},
        {INFO_OK "MSG a 1 1\r\nx\r\n", MIDGE_E_NO_SERVERS, "too early"},
        {INFO_OK "HMSG a 1 1 1\r\n", MIDGE_E_NO_SERVERS, "too early"},
        {"-ERR 'maximum connections exceeded'\r\n", MIDGE_E_NO_SERVERS, "maximum connections"},
        {INFO_OK "-ERR 'Authorization Violation'\r\n", MIDGE_E_AUTH, "Authorization Violation"},
        {INFO_OK "-ERR 'whatever\x1b'\r\n", MIDGE_E_NO_SERVERS, "whatever?"},
        {"HTTP/1.1 400 Bad Request\r\n\r\n", MIDGE_E_NO_SERVERS, "no NATS protocol"},
    };

    for (size_t i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++)
        expect_no_connection(rig, &beginnings[i]);
}

static void talk_info_without_end(struct midge_rig_fake_conn *conn)
{
    static char letters[65536];

    memset(letters, ' ', sizeof(letters));
    midge_rig_fake_send(conn, "INFO {");
    while (midge_hostile_send(conn, letters, sizeof(letters)))
        ;
}

static void an_info_without_end_is_no_connection(struct midge_rig *rig)
{
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, NULL, talk_info_without_end, NULL);
    CHECK_STATUS(midge_client_connect(hostile.victim, RIG_PATIENCE_MS), MIDGE_E_NO_SERVERS);
    midge_hostile_check_memory(&hostile, 8ull * MIB);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

/* --- slow ones --- */

static void talk_slowly(struct midge_rig_fake_conn *conn)
{
    for (const char *at = greeting; *at != '\0'; at++) {
        if (!midge_hostile_send(conn, at, 1))
            return;
        midge_rig_sleep_ms(1);
    }
    if (midge_rig_fake_await(conn, "PING\r\n")) {
        midge_rig_fake_send(conn, pong);
        midge_hostile_behave(conn);
    }
}

static void a_slow_server_is_waited_for(struct midge_rig *rig)
{
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, NULL, talk_slowly, NULL);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

/* A byte now and then keeps nobody waiting for longer. */
static void talk_and_never_end(struct midge_rig_fake_conn *conn)
{
    midge_rig_fake_send(conn, "INFO {");
    while (midge_hostile_send(conn, " ", 1))
        midge_rig_sleep_ms(1);
}

static void talk_info_alone(struct midge_rig_fake_conn *conn)
{
    midge_rig_fake_send(conn, greeting);
    (void)midge_hostile_read_to_end(conn);
}

static void talk_nothing(struct midge_rig_fake_conn *conn)
{
    (void)midge_hostile_read_to_end(conn);
}

static void a_handshake_without_end_is_given_up(struct midge_rig *rig)
{
    static const midge_rig_talk_cb talks[] = {talk_and_never_end, talk_info_alone, talk_nothing};

    for (size_t i = 0; i < sizeof(talks) / sizeof(talks[0]); i++) {
        struct midge_hostile hostile;
        struct midge_options options = midge_hostile_options(&hostile);

        options.connect_timeout_ms = 30;
        midge_hostile_open(&hostile, rig, NULL, talks[i], &options);
        CHECK_STATUS(midge_client_connect(hostile.victim, RIG_PATIENCE_MS), MIDGE_E_NO_SERVERS);
        CHECK(strstr(midge_client_error(hostile.victim), "no answer within 30 ms") != NULL);
        midge_hostile_check_neighbour(&hostile);
        midge_hostile_close(&hostile);
    }
}

/* --- what must not go out in plain text --- */

struct eavesdropper {
    const char *text;
    _Atomic uint64_t heard; /* bytes */
};

static void talk_eavesdrop(struct midge_rig_fake_conn *conn)
{
    struct eavesdropper *eavesdropper = conn->context;

    midge_rig_fake_send(conn, eavesdropper->text);
    atomic_fetch_add_explicit(&eavesdropper->heard, midge_hostile_read_to_end(conn),
                              memory_order_relaxed);
}

/* @param scheme  of the URL, with its user. @return bytes that the server heard */
static uint64_t eavesdrop(struct midge_rig *rig, const char *info, const char *scheme,
                          enum midge_tls_mode mode)
{
    struct eavesdropper eavesdropper = {.text = info};
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);
    struct midge_rig_fake *fake = midge_rig_fake_start(&eavesdropper, talk_eavesdrop);
    char url[128];

    (void)snprintf(url, sizeof(url), "%s%s", scheme, midge_rig_fake_url(fake) + strlen("nats://"));
    options.url = url;
    options.tls = mode;
    midge_hostile_open(&hostile, rig, NULL, talk_nothing, &options);
    CHECK_STATUS(midge_client_connect(hostile.victim, RIG_PATIENCE_MS), MIDGE_E_TLS);
    midge_hostile_close(&hostile);
    midge_rig_fake_end(fake);
    return eavesdropper.heard;
}

static void without_encryption_no_credentials_are_sent(struct midge_rig *rig)
{
    CHECK_EQUAL(eavesdrop(rig, INFO_OK, "tls://user:secret@", MIDGE_TLS_AUTO), 0);
    CHECK_EQUAL(eavesdrop(rig, INFO_OK, "nats://user:secret@", MIDGE_TLS_REQUIRED), 0);
}

/* Whoever sits in between could put it there. */
static void plain_text_before_encryption_is_refused(struct midge_rig *rig)
{
    CHECK_EQUAL(eavesdrop(rig, "INFO {\"tls_required\":true}\r\nPONG\r\n", "nats://user:secret@",
                          MIDGE_TLS_AUTO),
                0);
    CHECK_EQUAL(
        eavesdrop(rig, "INFO {\"tls_required\":true}\r\nP", "nats://user:secret@", MIDGE_TLS_AUTO),
        0);
}

/* --- announcements --- */

/* Odd: the list is full in every second round, where the old ones go before the new ones fit. */
#define ROUNDS 7u

/* Thousands of servers that nobody can reach, in one INFO and in many, and then the end. */
static void talk_announce(struct midge_rig_fake_conn *conn)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out;

    if (conn->number > 0) {
        midge_hostile_serve(conn);
        return;
    }
    if (!midge_rig_fake_accept(conn, ""))
        return;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        out = open_memstream(&text, &len);
        CHECK(out != NULL);
        (void)fputs("INFO {\"max_payload\":1048576,\"headers\":true,\"connect_urls\":[", out);
        for (uint32_t i = 0; i < 3000; i++)
            (void)fprintf(out, "%s\"127.0.0.%u:%u\"", i == 0 ? "" : ",", 1 + round, 1 + i % 1023);
        (void)fputs("]}\r\n", out);
        (void)fclose(out);
        if (!midge_hostile_send(conn, text, len))
            break;
        free(text);
        text = NULL;
    }
    free(text);
    midge_rig_fake_send(conn, "PING\r\n");
    (void)midge_rig_fake_await(conn, "PONG\r\n");
}

static void thousands_of_announced_servers_are_survived(struct midge_rig *rig)
{
    struct midge_server_info info;
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, NULL, talk_announce, NULL);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    CHECK(hostile.events.counts[MIDGE_EVENT_SERVERS] >= ROUNDS);
    midge_client_server(hostile.victim, &info);
    CHECK_TEXT(midge_slice_text(info.url), midge_rig_fake_url(hostile.fake));
    midge_hostile_check_memory(&hostile, 8ull * MIB);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

/* The other server of a redirection. */
struct redirection {
    char members[128];
    struct midge_rig_fake *other;
};

static void talk_well(struct midge_rig_fake_conn *conn)
{
    midge_hostile_serve(conn);
}

static void talk_redirect(struct midge_rig_fake_conn *conn)
{
    const struct redirection *redirection = conn->context;

    if (conn->number > 0) {
        midge_hostile_serve(conn);
        return;
    }
    if (!midge_rig_fake_accept(conn, redirection->members))
        return;
    midge_rig_fake_send(conn, "PING\r\n");
    (void)midge_rig_fake_await(conn, "PONG\r\n");
}

/* @return connections that the other server got */
static uint32_t redirect(struct midge_rig *rig, bool ignore_announced)
{
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);
    struct redirection redirection;
    uint32_t conns;

    redirection.other = midge_rig_fake_start(NULL, talk_well);
    (void)snprintf(redirection.members, sizeof(redirection.members),
                   ",\"connect_urls\":[\"%s\"],\"host\":\"127.0.0.1\",\"port\":1",
                   midge_rig_fake_url(redirection.other) + strlen("nats://"));
    options.ignore_announced = ignore_announced;
    midge_hostile_open(&hostile, rig, &redirection, talk_redirect, &options);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
    conns = midge_rig_fake_conns(redirection.other);
    midge_rig_fake_end(redirection.other);
    return conns;
}

static void an_announced_server_is_used_unless_that_was_forbidden(struct midge_rig *rig)
{
    CHECK_EQUAL(redirect(rig, false), 1);
    CHECK_EQUAL(redirect(rig, true), 0);
}

static void talk_info_storm(struct midge_rig_fake_conn *conn)
{
    char text[128];

    if (conn->number > 0) {
        midge_hostile_serve(conn);
        return;
    }
    if (!midge_rig_fake_accept(conn, ""))
        return;
    for (uint32_t i = 0; i < 5000; i++) {
        (void)snprintf(
            text, sizeof(text),
            "INFO {\"server_id\":\"%u\",\"ldm\":true,\"connect_urls\":[\"127.0.0.1:%u\"]}"
            "\r\n",
            i, 1 + i % 2);
        midge_rig_fake_send(conn, text);
    }
    midge_rig_fake_send(conn, "PING\r\n");
    (void)midge_rig_fake_await(conn, "PONG\r\n");
}

static void a_storm_of_infos_is_survived(struct midge_rig *rig)
{
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, NULL, talk_info_storm, NULL);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_await_return(&hostile, 1);
    CHECK_EQUAL(hostile.events.counts[MIDGE_EVENT_LAME_DUCK], 1);
    /* Once more for the connection after it, whose server announces none. */
    CHECK_EQUAL(hostile.events.counts[MIDGE_EVENT_SERVERS], 5001);
    midge_hostile_check_memory(&hostile, 4ull * MIB);
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
}

/* --- connections that do not last --- */

static void talk_and_hang_up(struct midge_rig_fake_conn *conn)
{
    (void)midge_rig_fake_accept(conn, "");
}

/* No slow machine can break it: nothing is tried again before its time. */
static void who_accepts_and_hangs_up_is_left_alone_for_longer(struct midge_rig *rig)
{
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);
    uint64_t begun_ns;
    uint64_t waited_ms;

    options.reconnect_wait_ms = 20;
    options.reconnect_wait_max_ms = 60000;
    midge_hostile_open(&hostile, rig, NULL, talk_and_hang_up, &options);
    begun_ns = midge_rig_now_ns();
    /* The connection may be lost before the call looks; then it goes on. */
    (void)!midge_client_connect(hostile.victim, 1);
    WAIT_UNTIL(hostile.victim, midge_rig_fake_conns(hostile.fake) >= 6);
    waited_ms = (midge_rig_now_ns() - begun_ns) / 1000000;
    /* Two at once, then after 20, 40, 80, 160 ms. */
    CHECK(waited_ms >= 20 + 40 + 80 + 160);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

/* A server that fails at once, with no wait before it is tried again, leaves every deadline
 * alone. */
static void trying_again_at_once_holds_nobody_up(struct midge_rig *rig)
{
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);

    options.url = "unix:///nowhere/midge.socket";
    options.retry_first_connect = true;
    options.reconnect_wait_ms = 0;
    options.reconnect_wait_max_ms = 0;
    midge_hostile_open(&hostile, rig, NULL, talk_nothing, &options);
    CHECK_STATUS(midge_client_connect(hostile.victim, 50), MIDGE_E_TIMEOUT);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

static void talk_once(struct midge_rig_fake_conn *conn)
{
    if (conn->number == 0)
        (void)midge_rig_fake_accept(conn, "");
}

/* Nothing is forgotten: what is queued when the last server is given up counts as lost. */
static void what_is_queued_at_the_end_counts_as_lost(struct midge_rig *rig)
{
    struct midge_client_stats stats;
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);

    options.reconnect_max = 3;
    options.reconnect_wait_ms = 50; /* time to publish */
    options.reconnect_wait_max_ms = 50;
    midge_hostile_open(&hostile, rig, NULL, talk_once, &options);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    WAIT_UNTIL(hostile.victim, hostile.events.counts[MIDGE_EVENT_DISCONNECTED] == 1);
    for (uint32_t i = 0; i < 3; i++)
        midge_rig_publish(hostile.victim, "x", "y");
    WAIT_UNTIL(hostile.victim, hostile.events.counts[MIDGE_EVENT_CLOSED] == 1);
    stats = midge_rig_stats(hostile.victim);
    CHECK_EQUAL(stats.lost_msgs, 3);
    CHECK_EQUAL(stats.unconfirmed_msgs, 0);
    CHECK_EQUAL(stats.queued_bytes, 0);
    CHECK_STATUS(midge_client_publish(hostile.victim, "x", "y", 1), MIDGE_E_CLOSED);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

/* --- call-backs in between --- */

/* Requests under way, and what their call-backs do when the connection is lost. */
struct chain {
    struct midge_client *client;
    midge_request_id second;
    uint32_t lost;
    uint32_t timed_out;
};

static void note_end(void *context, enum midge_status status, const struct midge_msg *msg)
{
    struct chain *chain = context;

    CHECK(msg == NULL);
    chain->lost += status == MIDGE_E_DISCONNECTED;
    chain->timed_out += status == MIDGE_E_TIMEOUT;
}

/* The first one that ends takes the second one back, and makes another in its place. */
static void replace_second(void *context, enum midge_status status, const struct midge_msg *msg)
{
    const struct midge_outgoing outgoing = {.subject = "q"};
    const struct midge_request_options options = {.timeout_ms = 1};
    struct chain *chain = context;

    note_end(context, status, msg);
    midge_client_request_cancel(chain->client, chain->second);
    MUST(midge_client_request_async(chain->client, &outgoing, &options, NULL, chain, note_end));
}

static void talk_until_requests(struct midge_rig_fake_conn *conn)
{
    if (conn->number > 0)
        midge_hostile_serve(conn);
    else if (midge_rig_fake_accept(conn, "") && midge_rig_fake_await(conn, "PUB q "))
        (void)midge_rig_fake_await(conn, "PUB q ");
}

static void a_request_made_while_others_end_lives(struct midge_rig *rig)
{
    const struct midge_outgoing outgoing = {.subject = "q"};
    const struct midge_request_options options = {.timeout_ms = RIG_PATIENCE_MS};
    struct midge_hostile hostile;
    struct chain chain = {.lost = 0};

    midge_hostile_open(&hostile, rig, NULL, talk_until_requests, NULL);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    chain.client = hostile.victim;
    MUST(midge_client_request_async(hostile.victim, &outgoing, &options, NULL, &chain,
                                    replace_second));
    MUST(midge_client_request_async(hostile.victim, &outgoing, &options, &chain.second, &chain,
                                    note_end));
    midge_hostile_await_return(&hostile, 1);
    WAIT_UNTIL(hostile.victim, chain.lost + chain.timed_out == 2);
    CHECK_EQUAL(chain.lost, 1);
    CHECK_EQUAL(chain.timed_out, 1);
    midge_hostile_close(&hostile);
}

/* The call-back of one client ends another that has just reached its server: all in one turn. */
struct ender {
    struct midge_client *other;
    uint32_t count;
};

static void end_other(void *context, const struct midge_msg *msg)
{
    struct ender *ender = context;

    (void)msg;
    ender->count++;
    CHECK_STATUS(midge_client_drain(ender->other, 0), MIDGE_AGAIN);
}

static void a_connection_may_be_ended_in_the_turn_that_made_it(struct midge_rig *rig)
{
    if (rig->is_thread_safe)
        return; /* has a loop of its own */
    for (uint32_t round = 0; round < 20; round++) {
        struct midge_hostile hostile;
        struct ender ender = {.count = 0};
        struct midge_sub *sub;

        midge_hostile_open(&hostile, rig, NULL, talk_nothing, NULL);
        ender.other = hostile.victim;
        MUST(midge_client_subscribe(hostile.neighbour, "end", NULL, &sub, &ender, end_other));
        midge_rig_flush(hostile.neighbour);
        midge_rig_publish(hostile.neighbour, "end", "x");
        CHECK_STATUS(midge_client_connect(hostile.victim, 0), MIDGE_AGAIN);
        /* What was queued leaves, and the attempt begins; then both have news at once. */
        (void)!midge_loop_poll(hostile.loop);
        midge_rig_sleep_ms(2);
        WAIT_UNTIL(hostile.neighbour, ender.count == 1);
        midge_hostile_check_neighbour(&hostile);
        CHECK_EQUAL(midge_client_state(hostile.victim), MIDGE_CLIENT_CLOSED);
        midge_hostile_close(&hostile);
    }
}

/* A server that accepts its client when it is told to. */
struct acceptor {
    _Atomic bool has_ping;
    _Atomic bool may_accept;
};

static void talk_when_told(struct midge_rig_fake_conn *conn)
{
    struct acceptor *acceptor = conn->context;

    midge_rig_fake_info(conn, "");
    if (!midge_rig_fake_await(conn, "PING\r\n"))
        return;
    atomic_store_explicit(&acceptor->has_ping, true, memory_order_relaxed);
    while (!atomic_load_explicit(&acceptor->may_accept, memory_order_relaxed))
        midge_rig_sleep_ms(1);
    midge_rig_fake_send(conn, pong);
    midge_hostile_behave(conn);
}

static void a_client_may_be_ended_in_the_turn_that_connects_it(struct midge_rig *rig)
{
    struct acceptor acceptor = {.has_ping = false};
    struct midge_hostile hostile;
    struct ender ender = {.count = 0};
    struct midge_sub *sub;

    if (rig->is_thread_safe)
        return; /* has a loop of its own */
    midge_hostile_open(&hostile, rig, &acceptor, talk_when_told, NULL);
    ender.other = hostile.victim;
    MUST(midge_client_subscribe(hostile.neighbour, "end", NULL, &sub, &ender, end_other));
    midge_rig_flush(hostile.neighbour);
    CHECK_STATUS(midge_client_connect(hostile.victim, 0), MIDGE_AGAIN);
    WAIT_UNTIL(hostile.neighbour, atomic_load_explicit(&acceptor.has_ping, memory_order_relaxed));
    /* Both have news at once: first the one who ends the other, then the other's connection. On a
     * busy machine it may be the other way round, which is an ordinary drain. */
    midge_rig_publish(hostile.neighbour, "end", "x");
    MUST(midge_client_submit(hostile.neighbour));
    midge_rig_sleep_ms(20);
    atomic_store_explicit(&acceptor.may_accept, true, memory_order_relaxed);
    midge_rig_sleep_ms(20);
    WAIT_UNTIL(hostile.neighbour, hostile.events.counts[MIDGE_EVENT_CLOSED] == 1);
    CHECK_STATUS(hostile.events.statuses[MIDGE_EVENT_CLOSED],
                 hostile.events.counts[MIDGE_EVENT_CONNECTED] == 0 ? MIDGE_E_DISCONNECTED
                                                                   : MIDGE_OK);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

/* --- what a client says of itself --- */

struct listener {
    char line[1024];
    uint32_t len;
};

static void talk_and_listen(struct midge_rig_fake_conn *conn)
{
    struct listener *listener = conn->context;

    midge_rig_fake_info(conn, ",\"auth_required\":true,\"nonce\":\"PXoWU7zWAMt75FY\"");
    while (listener->len < sizeof(listener->line) - 1 &&
           recv(conn->fd, listener->line + listener->len, 1, 0) == 1 &&
           listener->line[listener->len] != '\n')
        listener->len++;
    if (midge_rig_fake_await(conn, "PING\r\n"))
        midge_rig_fake_send(conn, pong);
    midge_hostile_behave(conn);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    CHECK(file != NULL);
    CHECK(fputs(text, file) >= 0);
    CHECK(fclose(file) == 0);
}

/* Source of key and signature: nats-io/nkeys v0.4.16, as in tests/unit/secure/test_nkey.c. */
static void a_seed_alone_says_whose_it_is(struct midge_rig *rig)
{
    struct listener listener = {.len = 0};
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/seed", rig->folder);
    write_file(path, "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y\n");
    options.credentials_file = path;
    midge_hostile_open(&hostile, rig, &listener, talk_and_listen, &options);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    midge_hostile_check_well(&hostile);
    midge_hostile_close(&hostile);
    CHECK(strstr(listener.line,
                 "\"nkey\":\"UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK\"") != NULL);
    CHECK(strstr(listener.line,
                 "\"sig\":\"bnxg5G8aOV2LQdSE_lcM9clxm_"
                 "fbTTZxsqQ1EpTNgJXmH6z5ezesd49kXfuNhoAqw_DmEtsGcNsJdug9wMuRDQ\"") != NULL);
    CHECK(strstr(listener.line, "jwt") == NULL);
    CHECK(strstr(listener.line, "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y") ==
          NULL);
    (void)unlink(path);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(a_server_may_go_at_any_byte_of_the_handshake),
        RIG_CASE(a_bad_beginning_is_no_connection),
        RIG_CASE(an_info_without_end_is_no_connection),
        RIG_CASE(a_slow_server_is_waited_for),
        RIG_CASE(a_handshake_without_end_is_given_up),
        RIG_CASE(without_encryption_no_credentials_are_sent),
        RIG_CASE(plain_text_before_encryption_is_refused),
        RIG_CASE(thousands_of_announced_servers_are_survived),
        RIG_CASE(an_announced_server_is_used_unless_that_was_forbidden),
        RIG_CASE(a_storm_of_infos_is_survived),
        RIG_CASE(who_accepts_and_hangs_up_is_left_alone_for_longer),
        RIG_CASE(trying_again_at_once_holds_nobody_up),
        RIG_CASE(what_is_queued_at_the_end_counts_as_lost),
        RIG_CASE(a_request_made_while_others_end_lives),
        RIG_CASE(a_connection_may_be_ended_in_the_turn_that_made_it),
        RIG_CASE(a_client_may_be_ended_in_the_turn_that_connects_it),
        RIG_CASE(a_seed_alone_says_whose_it_is),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
