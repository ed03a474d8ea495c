/*
 * A server that misbehaves where the connection is to be encrypted: the wrong name, the name of
 * another, no encryption any more, garbage, and the end at any byte.
 *
 * Method: a fake server that speaks TLS with our own sessions (core/secure) and certificates made
 * for the test. The system's certificates are those of the test, so that the client has no option
 * that would ask for encryption by itself.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "certificates.h"
#include "hostile.h"
#include "midge/tls.h"

#define INFO_TLS "INFO {\"server_id\":\"F\",\"tls_required\":true,\"headers\":true%s}\r\n"

/* Made once for all cases. */
struct world {
    struct midge_certificates certificates;
    struct midge_tls_context *address;  /* a certificate for 127.0.0.1 */
    struct midge_tls_context *name;     /* … for localhost */
    struct midge_tls_context *stranger; /* … for 127.0.0.1, of an issuer that nobody trusts */
};

/* style: made before the first case and constant then; the talks of all cases need it. */
static struct world world;

static struct midge_tls_context *make_context(const struct midge_certificate_options *options)
{
    const struct midge_certificate_files files =
        midge_certificates_make(&world.certificates, options, NULL);
    const struct midge_tls_options tls_options = {
        .is_server = true, .cert_file = files.cert_file, .key_file = files.key_file};
    struct midge_tls_context *context;
    char why[160];

    MUST(midge_tls_context_create(&tls_options, &context, why));
    return context;
}

static void make_world(void)
{
    midge_certificates_init(&world.certificates);
    world.address = make_context(&(struct midge_certificate_options){.names = "IP:127.0.0.1"});
    world.name = make_context(&(struct midge_certificate_options){.names = "DNS:localhost"});
    world.stranger = make_context(
        &(struct midge_certificate_options){.names = "IP:127.0.0.1", .is_self_signed = true});
    /* Where OpenSSL looks for the system's. */
    CHECK(setenv("SSL_CERT_FILE", world.certificates.ca_file, 1) == 0);
}

static void end_world(void)
{
    midge_tls_context_destroy(world.address);
    midge_tls_context_destroy(world.name);
    midge_tls_context_destroy(world.stranger);
    midge_certificates_deinit(&world.certificates);
}

/* --- a server that speaks TLS --- */

struct secure_conn {
    const struct midge_rig_fake_conn *conn;
    struct midge_tls *tls;
    uint32_t cipher_left; /* bytes that still may be sent; then it hangs up */
    char heard[4096];     /* plaintext */
    uint32_t heard_len;
};

/* Send what the session has to say. @return false if the peer has gone, or no more may be said */
static bool speak(struct secure_conn *secure)
{
    while (midge_tls_output(secure->tls).len > 0) {
        const struct midge_slice output = midge_tls_output(secure->tls);
        const uint32_t len = output.len < secure->cipher_left ? output.len : secure->cipher_left;

        if (!midge_hostile_send(secure->conn, output.base, len))
            return false;
        midge_tls_consume(secure->tls, len);
        secure->cipher_left -= len;
        if (secure->cipher_left == 0)
            return false;
    }
    return true;
}

/* Wait for bytes and read them. @return false if there will be no more */
static bool listen_once(struct secure_conn *secure)
{
    char bytes[4096];
    struct midge_slice plain;
    enum midge_status status = midge_tls_read(secure->tls, &plain);
    ssize_t len;

    if (status == MIDGE_AGAIN) {
        if (!speak(secure))
            return false;
        len = recv(secure->conn->fd, bytes, sizeof(bytes), 0);
        if (len <= 0)
            return false;
        MUST(midge_tls_feed(secure->tls, midge_slice_make(bytes, (uint32_t)len)));
        status = midge_tls_read(secure->tls, &plain);
    }
    for (; status == MIDGE_OK; status = midge_tls_read(secure->tls, &plain)) {
        CHECK(plain.len < sizeof(secure->heard) - secure->heard_len);
        memcpy(secure->heard + secure->heard_len, plain.base, plain.len);
        secure->heard_len += plain.len;
        secure->heard[secure->heard_len] = '\0';
    }
    return speak(secure) && status == MIDGE_AGAIN;
}

/* Wait until the peer has said so, decrypted. @return false if it does not */
static bool await(struct secure_conn *secure, const char *text)
{
    while (strstr(secure->heard, text) == NULL) {
        if (!listen_once(secure))
            return strstr(secure->heard, text) != NULL;
    }
    return true;
}

static bool say(struct secure_conn *secure, const char *text)
{
    return midge_tls_write(secure->tls, midge_slice_text(text)) == MIDGE_OK && speak(secure);
}

/* INFO in plain text, the handshake, CONNECT, PONG. @param members  more of the INFO
 * @return true if the client is connected */
static bool accept_secure(struct secure_conn *secure, const struct midge_rig_fake_conn *conn,
                          struct midge_tls_context *context, const char *members,
                          uint32_t cipher_max)
{
    char info[512];

    *secure = (struct secure_conn){.conn = conn, .cipher_left = cipher_max};
    MUST(midge_tls_create(context, NULL, &secure->tls));
    (void)snprintf(info, sizeof(info), INFO_TLS, members);
    midge_rig_fake_send(conn, info);
    return await(secure, "PING\r\n") && say(secure, "PONG\r\n");
}

/* Serve until the peer goes. */
static void serve_secure(const struct midge_rig_fake_conn *conn, struct midge_tls_context *context)
{
    struct secure_conn secure;

    if (accept_secure(&secure, conn, context, "", UINT32_MAX)) {
        do
            secure.heard[secure.heard_len = 0] = '\0';
        while (await(&secure, "PING\r\n") && say(&secure, "PONG\r\n"));
    }
    midge_tls_destroy(secure.tls);
}

/* --- who is at the other end --- */

struct talk {
    struct midge_tls_context *context;
    struct midge_rig_fake *other; /* to announce, or NULL */
    _Atomic uint64_t plain_heard; /* bytes */
    _Atomic bool has_credentials; /* a CONNECT was heard */
};

static void talk_secure(struct midge_rig_fake_conn *conn)
{
    const struct talk *talk = conn->context;

    serve_secure(conn, talk->context);
}

static void expect_outcome(struct midge_rig *rig, struct midge_tls_context *context,
                           enum midge_status status, const char *words)
{
    struct talk talk = {.context = context};
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, &talk, talk_secure, NULL);
    CHECK_STATUS(midge_client_connect(hostile.victim, RIG_PATIENCE_MS), status);
    if (strstr(midge_client_error(hostile.victim), words) == NULL)
        midge_rig_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"",
                       midge_client_error(hostile.victim), words);
    if (status == MIDGE_OK)
        midge_hostile_check_well(&hostile);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

static void the_certificate_must_be_for_the_host_of_the_url(struct midge_rig *rig)
{
    expect_outcome(rig, world.address, MIDGE_OK, "");
    expect_outcome(rig, world.name, MIDGE_E_TLS, "certificate: IP address mismatch");
    expect_outcome(rig, world.stranger, MIDGE_E_TLS, "certificate: self-signed certificate");
}

/* The first server announces another one, by the name localhost, and hangs up. */
static void talk_announce(struct midge_rig_fake_conn *conn)
{
    const struct talk *talk = conn->context;
    const char *port = strrchr(midge_rig_fake_url(talk->other), ':');
    struct secure_conn secure;
    char members[64];

    if (conn->number > 0)
        return;
    (void)snprintf(members, sizeof(members), ",\"connect_urls\":[\"localhost%s\"]", port);
    (void)accept_secure(&secure, conn, talk->context, members, UINT32_MAX);
    midge_tls_destroy(secure.tls);
}

static void talk_announced(struct midge_rig_fake_conn *conn)
{
    struct talk *talk = conn->context;
    struct secure_conn secure;

    if (accept_secure(&secure, conn, talk->context, "", UINT32_MAX))
        (void)await(&secure, "nothing that it will say");
    if (strstr(secure.heard, "CONNECT") != NULL)
        atomic_store_explicit(&talk->has_credentials, true, memory_order_relaxed);
    midge_tls_destroy(secure.tls);
}

/* @param context  of the announced server. @return true if it was told the credentials */
static bool announce(struct midge_rig *rig, struct midge_tls_context *context)
{
    struct talk second = {.context = context};
    struct talk first = {.context = world.address,
                         .other = midge_rig_fake_start(&second, talk_announced)};
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, &first, talk_announce, NULL);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    if (context == world.address) {
        midge_hostile_await_return(&hostile, 1);
    } else {
        /* Refused, and tried again later. */
        WAIT_UNTIL(hostile.victim, midge_rig_fake_conns(first.other) >= 2);
        CHECK_EQUAL(midge_rig_stats(hostile.victim).connects, 1);
    }
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
    midge_rig_fake_end(first.other);
    return second.has_credentials;
}

/* Not for the one that it was announced with: whoever announces could choose that. Source:
 * RUSTSEC-2023-0029. */
static void an_announced_server_needs_the_certificate_of_the_users_host(struct midge_rig *rig)
{
    CHECK(announce(rig, world.address));
    CHECK(!announce(rig, world.name));
}

/* --- no encryption any more --- */

/* Encrypted at first; then, from another server or from somebody in between, in plain text. */
static void talk_encrypted_once(struct midge_rig_fake_conn *conn)
{
    struct talk *talk = conn->context;
    struct secure_conn secure;

    if (conn->number == 0) {
        (void)accept_secure(&secure, conn, talk->context, "", UINT32_MAX);
        midge_tls_destroy(secure.tls);
        return;
    }
    midge_rig_fake_info(conn, "");
    atomic_fetch_add_explicit(&talk->plain_heard, midge_hostile_read_to_end(conn),
                              memory_order_relaxed);
}

static void what_was_encrypted_once_is_not_sent_in_plain_text(struct midge_rig *rig)
{
    struct talk talk = {.context = world.address};
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);

    options.user = "user";
    options.password = "secret";
    midge_hostile_open(&hostile, rig, &talk, talk_encrypted_once, &options);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    MUST(midge_client_publish(hostile.victim, "secret", "secret", 6));
    WAIT_UNTIL(hostile.victim, midge_rig_fake_conns(hostile.fake) >= 4);
    CHECK(strstr(midge_client_error(hostile.victim), "no encrypted connection") != NULL);
    CHECK_EQUAL(midge_rig_stats(hostile.victim).connects, 1);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
    CHECK_EQUAL(talk.plain_heard, 0);
}

/* --- handshakes that end badly --- */

static void talk_garbage(struct midge_rig_fake_conn *conn)
{
    char info[256];

    (void)snprintf(info, sizeof(info), INFO_TLS, "");
    midge_rig_fake_send(conn, info);
    /* A ClientHello has begun. */
    (void)midge_rig_fake_await(conn, "\x16\x03\x01");
    midge_rig_fake_send(conn, "INFO {\"tls_required\":false}\r\nPONG\r\n");
    (void)midge_hostile_read_to_end(conn);
}

static void garbage_in_the_handshake_is_refused(struct midge_rig *rig)
{
    struct midge_hostile hostile;

    midge_hostile_open(&hostile, rig, NULL, talk_garbage, NULL);
    CHECK_STATUS(midge_client_connect(hostile.victim, RIG_PATIENCE_MS), MIDGE_E_TLS);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

/* More of the encrypted bytes with every connection, until all of them are said. */
#define CUT_STEP 61u

static void talk_more_each_time(struct midge_rig_fake_conn *conn)
{
    const struct talk *talk = conn->context;
    struct secure_conn secure;

    if (accept_secure(&secure, conn, talk->context, "", 1 + conn->number * CUT_STEP))
        (void)await(&secure, "nothing that it will say");
    midge_tls_destroy(secure.tls);
}

static void a_server_may_go_at_any_place_of_the_handshake(struct midge_rig *rig)
{
    struct talk talk = {.context = world.address};
    struct midge_hostile hostile;
    struct midge_options options = midge_hostile_options(&hostile);

    options.retry_first_connect = true;
    midge_hostile_open(&hostile, rig, &talk, talk_more_each_time, &options);
    MUST(midge_client_connect(hostile.victim, RIG_PATIENCE_MS));
    /* Its certificate alone has some hundred bytes. */
    CHECK(midge_rig_fake_conns(hostile.fake) > 8);
    midge_hostile_check_neighbour(&hostile);
    midge_hostile_close(&hostile);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(the_certificate_must_be_for_the_host_of_the_url),
        RIG_CASE(an_announced_server_needs_the_certificate_of_the_users_host),
        RIG_CASE(what_was_encrypted_once_is_not_sent_in_plain_text),
        RIG_CASE(garbage_in_the_handshake_is_refused),
        RIG_CASE(a_server_may_go_at_any_place_of_the_handshake),
    };
    int status;

    make_world();
    status = midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
    end_world();
    return status;
}
