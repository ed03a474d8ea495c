/*
 * Encrypted connections: when they are made, whom they trust, and that everything goes through
 * them. Method: servers with certificates that with_secrets.py made, good ones and others.
 */
#include <stdlib.h>

#include "rig.h"
#include "secrets.h"

/* Far more than one handshake takes, and far less than a test may. */
#define SHORT_MS 1500u

/* --- servers and clients --- */

/* A server with this certificate. @param members  more of its tls block */
static void start(const struct midge_rig *rig, struct midge_rig_server *server,
                  const char *certificate, const char *members)
{
    const struct midge_secret folder = midge_secret_path("");
    char config[2048];

    (void)snprintf(config, sizeof(config),
                   "tls { cert_file: \"%s%s.pem\", key_file: \"%s%s.key\", timeout: 20, %s }\n",
                   folder.path, certificate, folder.path, certificate, members);
    midge_rig_server_start_with(rig, server, config);
}

/* A server that asks for certificates which ca.pem has signed. */
static void start_asking(const struct midge_rig *rig, struct midge_rig_server *server)
{
    char members[512];

    (void)snprintf(members, sizeof(members), "verify: true, ca_file: \"%s\"",
                   midge_secret_path("ca.pem").path);
    start(rig, server, "server", members);
}

struct url {
    char text[96];
};

static struct url url_of(const struct midge_rig_server *server, const char *scheme,
                         const char *host)
{
    struct url url;

    (void)snprintf(url.text, sizeof(url.text), "%s://%s:%u", scheme, host, server->port);
    return url;
}

/* The client connects, over TLS or not, and a request goes round. */
static void expect_connection(const struct midge_rig *rig, const struct midge_options *options,
                              bool is_encrypted)
{
    struct midge_client *client = midge_rig_connect(rig, options);
    struct midge_server_info info;
    const struct midge_msg *reply;

    midge_client_server(client, &info);
    CHECK_EQUAL(info.tls, is_encrypted);
    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    MUST(midge_client_request(client, "echo", "tea", 3, RIG_PATIENCE_MS, &reply));
    CHECK_TEXT(reply->payload, "tea");
    midge_rig_done(rig, reply);
    midge_client_destroy(client);
}

/* --- when --- */

static void tls_url_is_encrypted(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct url url;

    start(rig, &server, "server", "");
    url = url_of(&server, "tls", "127.0.0.1");
    options.url = url.text;
    options.tls_ca_file = ca.path;
    expect_connection(rig, &options, true);
    midge_rig_server_end(&server);
}

static void server_that_requires_tls_gets_it(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;

    start(rig, &server, "server", "");
    options.url = server.url;
    /* The system's certificates have not signed this one; in plain text it would be no matter. */
    midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, "certificate");
    options.tls_ca_file = ca.path;
    expect_connection(rig, &options, true);
    options.tls = MIDGE_TLS_REQUIRED;
    expect_connection(rig, &options, true);
    midge_rig_server_end(&server);
}

static void server_that_offers_tls_is_asked_by_who_wants_it(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    const struct midge_secret folder = midge_secret_path("");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    char config[1024];

    (void)snprintf(config, sizeof(config),
                   "allow_non_tls: true\n"
                   "tls { cert_file: \"%sserver.pem\", key_file: \"%sserver.key\", timeout: 20 }\n",
                   folder.path, folder.path);
    midge_rig_server_start_with(rig, &server, config);
    options.url = server.url;
    expect_connection(rig, &options, false);
    options.tls_ca_file = ca.path;
    expect_connection(rig, &options, true);
    midge_rig_server_end(&server);
}

static void server_without_tls_is_refused_by_who_wants_it(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    const struct url url = url_of(&rig->server, "tls", "127.0.0.1");

    options.tls = MIDGE_TLS_REQUIRED;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, "no encrypted connection");
    options.tls = MIDGE_TLS_AUTO;
    options.tls_ca_file = ca.path;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, "no encrypted connection");
    options.tls_ca_file = NULL;
    options.url = url.text;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, "no encrypted connection");
}

static void handshake_comes_first_where_both_sides_agree(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct url url;

    start(rig, &server, "server", "handshake_first: true");
    url = url_of(&server, "tls", "127.0.0.1");
    options.url = url.text;
    options.tls_ca_file = ca.path;
    options.tls = MIDGE_TLS_FIRST;
    expect_connection(rig, &options, true);
    /* Who waits for INFO waits for ever. */
    options.tls = MIDGE_TLS_AUTO;
    options.connect_timeout_ms = SHORT_MS;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_NO_SERVERS, "no answer");
    midge_rig_server_end(&server);
}

static void handshake_first_is_a_choice_where_the_server_waits(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;

    start(rig, &server, "server", "handshake_first: \"300ms\"");
    options.url = server.url;
    options.tls_ca_file = ca.path;
    expect_connection(rig, &options, true);
    options.tls = MIDGE_TLS_FIRST;
    expect_connection(rig, &options, true);
    midge_rig_server_end(&server);
}

/* --- whom --- */

/* What a client that trusts ca.pem says to a certificate, seen through a host of the URL. */
static void expect_verdict(const struct midge_rig *rig, const char *certificate, const char *host,
                           const char *host_name, const char *word)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct url url;

    start(rig, &server, certificate, "");
    url = url_of(&server, "tls", host);
    options.url = url.text;
    options.tls_ca_file = ca.path;
    options.tls_host_name = host_name;
    if (word == NULL)
        expect_connection(rig, &options, true);
    else
        midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, word);
    options.tls_insecure = true;
    expect_connection(rig, &options, true);
    midge_rig_server_end(&server);
}

static void certificate_must_name_the_host_of_the_url(struct midge_rig *rig)
{
    expect_verdict(rig, "name", "localhost", NULL, NULL);
    expect_verdict(rig, "name", "127.0.0.1", NULL, "mismatch");
    expect_verdict(rig, "address", "127.0.0.1", NULL, NULL);
    expect_verdict(rig, "address", "localhost", NULL, "mismatch");
    expect_verdict(rig, "elsewhere", "localhost", NULL, "mismatch");
}

static void another_host_name_can_be_asked_for(struct midge_rig *rig)
{
    expect_verdict(rig, "elsewhere", "127.0.0.1", "elsewhere.example", NULL);
    expect_verdict(rig, "server", "127.0.0.1", "elsewhere.example", "mismatch");
    expect_verdict(rig, "name", "127.0.0.1", "localhost", NULL);
}

static void certificate_must_be_valid_and_signed(struct midge_rig *rig)
{
    expect_verdict(rig, "expired", "localhost", NULL, "expired");
    expect_verdict(rig, "stranger", "localhost", NULL, "self-signed");
}

static void client_shows_its_certificate(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    const struct midge_secret certificate = midge_secret_path("client.pem");
    const struct midge_secret key = midge_secret_path("client.key");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;

    start_asking(rig, &server);
    options.url = server.url;
    options.tls_ca_file = ca.path;
    options.tls_cert_file = certificate.path;
    options.tls_key_file = key.path;
    expect_connection(rig, &options, true);
    midge_rig_server_end(&server);
}

/* In TLS 1.3 the server judges after the client has finished: what the client had sent by then may
 * turn the refusal into a reset connection. */
static void client_without_the_right_certificate_is_refused(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    const struct midge_secret certificate = midge_secret_path("stranger_client.pem");
    const struct midge_secret key = midge_secret_path("stranger_client.key");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct midge_client *client;
    enum midge_status status;

    start_asking(rig, &server);
    options.url = server.url;
    options.tls_ca_file = ca.path;
    for (int i = 0; i < 2; i++) {
        client = midge_rig_create(rig, &options);
        status = midge_client_connect(client, RIG_PATIENCE_MS);
        CHECK(status == MIDGE_E_TLS || status == MIDGE_E_NO_SERVERS);
        midge_client_destroy(client);
        options.tls_cert_file = certificate.path;
        options.tls_key_file = key.path;
    }
    /* Whom the client trusts is no matter to the server, and no reason to tell. */
    options.tls_cert_file = options.tls_key_file = options.tls_ca_file = NULL;
    options.tls_insecure = true;
    client = midge_rig_create(rig, &options);
    CHECK(midge_client_connect(client, RIG_PATIENCE_MS) != MIDGE_OK);
    CHECK(strstr(midge_client_error(client), "self-signed") == NULL);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void files_that_cannot_be_used_are_named(struct midge_rig *rig)
{
    const struct midge_secret certificate = midge_secret_path("client.pem");
    const struct midge_secret other_key = midge_secret_path("server.key");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;

    start(rig, &server, "server", "");
    options.url = server.url;
    options.tls_ca_file = "/nowhere/ca.pem";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, "/nowhere/ca.pem");
    options.tls_ca_file = NULL;
    options.tls_cert_file = certificate.path;
    options.tls_key_file = "/nowhere/client.key";
    midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, "/nowhere/client.key");
    options.tls_key_file = other_key.path;
    midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, "server.key");
    midge_rig_server_end(&server);
}

/* --- what goes through --- */

#define FLOOD_COUNT 20000u

struct flood {
    uint32_t count;
    bool is_in_order;
};

static void count_flood(void *context, const struct midge_msg *msg)
{
    struct flood *flood = context;
    char wanted[16];

    (void)snprintf(wanted, sizeof(wanted), "%u", flood->count);
    flood->is_in_order =
        flood->is_in_order && midge_slice_equal(msg->payload, midge_slice_text(wanted));
    flood->count++;
}

static void messages_of_all_sizes_go_through(struct midge_rig *rig)
{
    /* Around a record (16 KiB), the submit threshold (64 KiB), and the largest. */
    static const size_t lens[] = {0, 1, 16383, 16384, 16385, 65535, 65536, 65537, 1048576};
    struct midge_options options = midge_rig_options(rig);
    struct flood flood = {.is_in_order = true};
    struct midge_rig_server server;
    struct midge_client *client;
    struct midge_sub *sub;
    uint8_t *payload = malloc(1048576);
    char number[16];

    CHECK(payload != NULL);
    for (uint32_t i = 0; i < 1048576; i++)
        payload[i] = (uint8_t)(i * 31 + (i >> 8));
    start(rig, &server, "server", "");
    options.url = server.url;
    options.tls_insecure = true;
    client = midge_rig_connect(rig, &options);
    sub = midge_rig_subscribe(client, "sizes");
    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
        MUST(midge_client_publish(client, "sizes", payload, lens[i]));
    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        const struct midge_msg *msg = midge_rig_next(sub);

        CHECK_EQUAL(msg->payload.len, lens[i]);
        CHECK(lens[i] == 0 || memcmp(msg->payload.base, payload, lens[i]) == 0);
        midge_rig_done(rig, msg);
    }
    (void)midge_rig_listen(client, "flood", &flood, count_flood);
    for (uint32_t i = 0; i < FLOOD_COUNT; i++) {
        (void)snprintf(number, sizeof(number), "%u", i);
        midge_rig_publish(client, "flood", number);
    }
    WAIT_UNTIL(client, flood.count == FLOOD_COUNT);
    CHECK(flood.is_in_order);
    free(payload);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

/* More than a socket takes at once: some is encrypted already and waits for room. */
static void what_is_queued_leaves_before_the_end(struct midge_rig *rig)
{
    static const uint8_t payload[65536];
    const uint32_t count = 256;
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_server server;
    struct midge_client *client;
    struct midge_client *far;
    struct midge_sub *sub;

    start(rig, &server, "server", "");
    options.url = server.url;
    options.tls_insecure = true;
    options.send_bytes_max = count * 2 * sizeof(payload);
    far = midge_rig_connect(rig, &options);
    sub = midge_rig_subscribe(far, "last");
    client = midge_rig_connect(rig, &options);
    for (uint32_t i = 0; i < count; i++)
        MUST(midge_client_publish(client, "last", payload, sizeof(payload)));
    midge_client_destroy(client);
    for (uint32_t i = 0; i < count; i++) {
        const struct midge_msg *msg = midge_rig_next(sub);

        CHECK_EQUAL(msg->payload.len, sizeof(payload));
        midge_rig_done(rig, msg);
    }
    midge_client_destroy(far);
    midge_rig_server_end(&server);
}

static void reconnects_are_encrypted_too(struct midge_rig *rig)
{
    const struct midge_secret ca = midge_secret_path("ca.pem");
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct midge_rig_server server;
    struct midge_server_info info;
    struct midge_client *client;
    struct midge_sub *sub;

    start(rig, &server, "server", "");
    options.url = server.url;
    options.tls_ca_file = ca.path;
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_connect(rig, &options);
    sub = midge_rig_subscribe(client, "again");
    midge_rig_server_kill(&server);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_DISCONNECTED] == 1);
    midge_rig_publish(client, "again", "kept meanwhile");
    midge_rig_server_again(&server);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_RECONNECTED] == 1);
    midge_client_server(client, &info);
    CHECK(info.tls);
    midge_rig_expect(rig, sub, "kept meanwhile");
    midge_rig_publish(client, "again", "new");
    midge_rig_expect(rig, sub, "new");
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

/* A man in the middle could put words in front of the handshake: what follows INFO in plain text
 * is not believed. */
static void talk_behind_info(struct midge_rig_fake_conn *conn)
{
    midge_rig_fake_send(conn, "INFO {\"server_id\":\"FAKE\",\"version\":\"2.15.2\",\"proto\":1,"
                              "\"headers\":true,\"max_payload\":1048576,"
                              "\"tls_required\":true}\r\nPING\r\n");
    (void)midge_rig_fake_await(conn, "never");
}

static void plain_text_behind_info_is_refused(struct midge_rig *rig)
{
    struct midge_rig_fake *fake = midge_rig_fake_start(NULL, talk_behind_info);
    struct midge_options options = midge_rig_options(rig);

    options.url = midge_rig_fake_url(fake);
    midge_rig_expect_refusal(rig, &options, MIDGE_E_TLS, "plain text");
    midge_rig_fake_end(fake);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(tls_url_is_encrypted),
        RIG_CASE(server_that_requires_tls_gets_it),
        RIG_CASE(server_that_offers_tls_is_asked_by_who_wants_it),
        RIG_CASE(server_without_tls_is_refused_by_who_wants_it),
        RIG_CASE(handshake_comes_first_where_both_sides_agree),
        RIG_CASE(handshake_first_is_a_choice_where_the_server_waits),
        RIG_CASE(certificate_must_name_the_host_of_the_url),
        RIG_CASE(another_host_name_can_be_asked_for),
        RIG_CASE(certificate_must_be_valid_and_signed),
        RIG_CASE(client_shows_its_certificate),
        RIG_CASE(client_without_the_right_certificate_is_refused),
        RIG_CASE(files_that_cannot_be_used_are_named),
        RIG_CASE(messages_of_all_sizes_go_through),
        RIG_CASE(what_is_queued_leaves_before_the_end),
        RIG_CASE(reconnects_are_encrypted_too),
        RIG_CASE(plain_text_behind_info_is_refused),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
