/*
 * Nkeys, and JWTs with their seeds in credentials files. Method: a server that knows an nkey, and
 * one in operator mode whose accounts were signed by what with_secrets.py ran.
 */
#include <stdlib.h>
#include <unistd.h>

#include "rig.h"
#include "secrets.h"

/* In which a client must have connected; what expires so soon is made again if it was late. */
#define SOON_S 2u

static void start_with_operator(const struct midge_rig *rig, struct midge_rig_server *server)
{
    midge_rig_server_start_with(rig, server, midge_secret_read("operator.conf").text);
}

static void start_with_nkey(const struct midge_rig *rig, struct midge_rig_server *server)
{
    char config[9000];

    (void)snprintf(config, sizeof(config), "authorization { users: [ { nkey: %s } ] }\n",
                   midge_secret_read("user.public").text);
    midge_rig_server_start_with(rig, server, config);
}

static void expect_connection(const struct midge_rig *rig, const struct midge_options *options)
{
    struct midge_client *client = midge_rig_connect(rig, options);
    struct midge_sub *sub = midge_rig_subscribe(client, "self");

    midge_rig_publish(client, "self", "here");
    midge_rig_expect(rig, sub, "here");
    midge_client_destroy(client);
}

static void nkey_signs_what_the_server_says(struct midge_rig *rig)
{
    const struct midge_secret_text seed = midge_secret_read("user.seed");
    const struct midge_secret_text stranger = midge_secret_read("stranger.seed");
    const struct midge_secret_text account = midge_secret_read("account.seed");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;

    start_with_nkey(rig, &server);
    options.url = server.url;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    options.nkey_seed = seed.text;
    expect_connection(rig, &options);
    options.nkey_seed = stranger.text;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    options.nkey_seed = account.text; /* whole, but no user's */
    midge_rig_expect_refusal(rig, &options, MIDGE_E_CONFIG, "seed");
    options.nkey_seed = "SUNOTASEED";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_CONFIG, "seed");
    midge_rig_server_end(&server);
}

static void credentials_file_opens_the_account(struct midge_rig *rig)
{
    const struct midge_secret user = midge_secret_path("user.creds");
    const struct midge_secret stranger = midge_secret_path("stranger.creds");
    const struct midge_secret no_creds = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;

    start_with_operator(rig, &server);
    options.url = server.url;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    options.credentials_file = user.path;
    expect_connection(rig, &options);
    options.credentials_file = stranger.path;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_AUTH, "Authorization Violation");
    options.credentials_file = "/nowhere/user.creds";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_CONFIG, "/nowhere/user.creds: No such file");
    options.credentials_file = no_creds.path;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_CONFIG, "no credentials file");
    midge_rig_server_end(&server);
}

static void credentials_go_through_tls(struct midge_rig *rig)
{
    const struct midge_secret user = midge_secret_path("user.creds");
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    char config[16384];

    (void)snprintf(config, sizeof(config),
                   "%s\ntls { cert_file: \"%s\", key_file: \"%s\", timeout: 20 }\n",
                   midge_secret_read("operator.conf").text, midge_secret_path("server.pem").path,
                   midge_secret_path("server.key").path);
    midge_rig_server_start_with(rig, &server, config);
    options.url = server.url;
    options.credentials_file = user.path;
    options.tls_ca_file = ca.path;
    expect_connection(rig, &options);
    midge_rig_server_end(&server);
}

/* A client whose JWT expires in a moment. */
static struct midge_client *connect_for_a_moment(const struct midge_rig *rig,
                                                 const struct midge_options *options,
                                                 const char *name)
{
    struct midge_client *client = midge_rig_create(rig, options);

    do
        midge_secret_make_creds(name, SOON_S);
    while (midge_client_connect(client, RIG_PATIENCE_MS) == MIDGE_E_AUTH);
    CHECK_EQUAL(midge_client_state(client), MIDGE_CLIENT_CONNECTED);
    return client;
}

static void new_jwt_is_read_when_the_old_one_has_expired(struct midge_rig *rig)
{
    const struct midge_secret creds = midge_secret_path("renewed.creds");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct midge_rig_server server;
    struct midge_client *client;
    struct midge_sub *sub;

    start_with_operator(rig, &server);
    options.url = server.url;
    options.credentials_file = creds.path;
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = connect_for_a_moment(rig, &options, "renewed");
    MUST(midge_client_subscribe(client, "self", NULL, &sub, NULL, NULL));
    midge_secret_make_creds("renewed", 3600);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_RECONNECTED] == 1);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_DISCONNECTED], MIDGE_E_AUTH);
    CHECK(strstr(events.texts[MIDGE_EVENT_DISCONNECTED], "Expired") != NULL);
    midge_rig_publish(client, "self", "still here");
    midge_rig_expect(rig, sub, "still here");
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void client_closes_when_its_jwt_stays_expired(struct midge_rig *rig)
{
    const struct midge_secret creds = midge_secret_path("moment.creds");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct midge_rig_server server;
    struct midge_client *client;

    start_with_operator(rig, &server);
    options.url = server.url;
    options.credentials_file = creds.path;
    options.reconnect_wait_ms = 10;
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = connect_for_a_moment(rig, &options, "moment");
    /* Until its second is over, the server that has closed the connection still takes it. */
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_CLOSED] == 1);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_CLOSED], MIDGE_E_AUTH);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void forbidden_subjects_are_told(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct midge_rig_server server;
    struct midge_client *client;
    struct midge_sub *sub;

    midge_rig_server_start_with(rig, &server,
                                "authorization { users: [ { user: a, password: b, permissions: {\n"
                                "  publish: [\"open.>\"], subscribe: [\"open.>\", \"_INBOX.>\"]\n"
                                "} } ] }\n");
    options.url = server.url;
    options.user = "a";
    options.password = "b";
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_connect(rig, &options);
    midge_rig_publish(client, "closed.door", "knock");
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_ERROR] == 1);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_ERROR], MIDGE_E_PERMISSION);
    CHECK(strstr(events.texts[MIDGE_EVENT_ERROR], "closed.door") != NULL);
    MUST(midge_client_subscribe(client, "closed.*", NULL, &sub, NULL, NULL));
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_ERROR] == 2);
    CHECK_STATUS(events.statuses[MIDGE_EVENT_ERROR], MIDGE_E_PERMISSION);
    /* The connection lives on. */
    sub = midge_rig_subscribe(client, "open.door");
    midge_rig_publish(client, "open.door", "come in");
    midge_rig_expect(rig, sub, "come in");
    CHECK_EQUAL(events.counts[MIDGE_EVENT_DISCONNECTED], 0);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(nkey_signs_what_the_server_says),
        RIG_CASE(credentials_file_opens_the_account),
        RIG_CASE(credentials_go_through_tls),
        RIG_CASE(new_jwt_is_read_when_the_old_one_has_expired),
        RIG_CASE(client_closes_when_its_jwt_stays_expired),
        RIG_CASE(forbidden_subjects_are_told),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
