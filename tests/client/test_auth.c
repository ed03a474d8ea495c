/*
 * Users, passwords and tokens: where they may stand, and what a refusal does. Method: a server that
 * asks for one of them.
 */
#include "rig.h"

#define USER     "someone"
#define PASSWORD "p@ss/word"
#define TOKEN    "t0ken:with@signs"

static const char *const asks_for_password[] = {"--user", USER, "--pass", PASSWORD, NULL};
static const char *const asks_for_another[] = {"--user", USER, "--pass", "another", NULL};
static const char *const asks_for_token[] = {"--auth", TOKEN, NULL};

struct url {
    char text[128];
};

static struct url url_with(const struct midge_rig_server *server, const char *who)
{
    struct url url;

    (void)snprintf(url.text, sizeof(url.text), "nats://%s@127.0.0.1:%u", who, server->port);
    return url;
}

static void expect_connection(const struct midge_rig *rig, const struct midge_options *options)
{
    struct midge_client *client = midge_rig_connect(rig, options);
    struct midge_server_info info;

    midge_client_server(client, &info);
    /* What the client shows for logs holds no secret. */
    CHECK(strchr(info.url, '@') == NULL);
    CHECK(strstr(midge_client_error(client), PASSWORD) == NULL);
    midge_rig_flush(client);
    midge_client_destroy(client);
}

static void user_and_password_are_shown(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct url url;

    midge_rig_server_start(rig, &server, asks_for_password);
    options.url = server.url;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    options.user = USER;
    options.password = "wrong";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    options.password = PASSWORD;
    expect_connection(rig, &options);
    /* Those of a URL come first. */
    url = url_with(&server, USER ":p%40ss%2Fword");
    options.url = url.text;
    options.password = "wrong";
    expect_connection(rig, &options);
    options.user = options.password = NULL;
    expect_connection(rig, &options);
    midge_rig_server_end(&server);
}

static void token_is_shown(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct url url;

    midge_rig_server_start(rig, &server, asks_for_token);
    options.url = server.url;
    options.token = "wrong";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    options.token = TOKEN;
    expect_connection(rig, &options);
    url = url_with(&server, "t0ken%3Awith%40signs");
    options.url = url.text;
    options.token = NULL;
    expect_connection(rig, &options);
    midge_rig_server_end(&server);
}

static void refused_client_may_try_again(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start(rig, &server, asks_for_another);
    options.url = server.url;
    options.user = USER;
    options.password = PASSWORD;
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_create(rig, &options);
    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), MIDGE_E_AUTH);
    CHECK_EQUAL(events.counts[MIDGE_EVENT_ERROR], 1);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_ERROR], MIDGE_E_AUTH);
    midge_rig_server_kill(&server);
    server.arguments[3] = PASSWORD;
    midge_rig_server_again(&server);
    MUST(midge_client_connect(client, RIG_PATIENCE_MS));
    midge_rig_flush(client);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

/* The server's password changes while the client is away: asking for ever would be of no use, and
 * might lock the user out. */
static void client_refused_twice_on_its_way_back_closes(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start(rig, &server, asks_for_password);
    options.url = server.url;
    options.user = USER;
    options.password = PASSWORD;
    options.reconnect_wait_ms = 10;
    options.reconnect_jitter_ms = 0;
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_connect(rig, &options);
    midge_rig_server_kill(&server);
    server.arguments[3] = "another";
    midge_rig_server_again(&server);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_CLOSED] == 1);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_CLOSED], MIDGE_E_AUTH);
    CHECK_EQUAL(events.counts[MIDGE_EVENT_RECONNECTED], 0);
    CHECK_EQUAL(midge_client_state(client), MIDGE_CLIENT_CLOSED);
    CHECK_STATUS(midge_client_publish(client, "a", "b", 1), MIDGE_E_CLOSED);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

/* A server that is tired of waiting for CONNECT. Ours comes at once, so the server is a fake one.
 */
static void talk_tired(struct midge_rig_fake_conn *conn)
{
    midge_rig_fake_info(conn, ",\"auth_required\":true");
    (void)midge_rig_fake_await(conn, "PING\r\n");
    midge_rig_fake_send(conn, "-ERR 'Authentication Timeout'\r\n");
}

static void authentication_timeout_is_a_refusal(struct midge_rig *rig)
{
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_tired);
    struct midge_options options = midge_rig_options(rig);
    struct midge_client *client;

    options.url = midge_rig_fake_url(fake);
    client = midge_rig_create(rig, &options);
    CHECK_STATUS(midge_client_connect(client, RIG_PATIENCE_MS), MIDGE_E_AUTH);
    CHECK(strstr(midge_client_error(client), "Authentication Timeout") != NULL);
    midge_client_destroy(client);
    midge_rig_fake_end(fake);
}

static void two_kinds_of_proof_are_no_options(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_client *client;
    char why[160];

    options.token = TOKEN;
    options.user = USER;
    options.password = PASSWORD;
    CHECK_STATUS(midge_client_create(&options, &client, why), MIDGE_E_CONFIG);
    options.user = options.password = NULL;
    options.credentials_file = "/nowhere/user.creds";
    CHECK_STATUS(midge_client_create(&options, &client, why), MIDGE_E_CONFIG);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(user_and_password_are_shown),
        RIG_CASE(token_is_shown),
        RIG_CASE(refused_client_may_try_again),
        RIG_CASE(client_refused_twice_on_its_way_back_closes),
        RIG_CASE(authentication_timeout_is_a_refusal),
        RIG_CASE(two_kinds_of_proof_are_no_options),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
