/*
 * Whom a TLS session trusts: certificate, chain, validity, name, purpose; both sides.
 *
 * Method: certificates made for each case (certificates.c); the server is OpenSSL's own, so that
 * what it presents is not filtered by us. What is refused must be refused in the handshake, with
 * its reason, and stay refused.
 */
#include "tls_rig.h"

#include <openssl/pem.h>

static struct midge_certificates certificates;

static void make_certificates(void)
{
    midge_certificates_init(&certificates);
}

static void remove_certificates(void)
{
    midge_certificates_deinit(&certificates);
}

TestSuite(tls_verify, .init = make_certificates, .fini = remove_certificates);

/* The usual certificate. */
static const struct midge_certificate_options good = {
    .names = "DNS:midge.test,DNS:*.wild.test,DNS:w*.part.test,IP:127.0.0.1,IP:::1"};

/* Shake hands with a server of this certificate. @param why  the client's words, 160 bytes */
static enum midge_status shake_with(const struct midge_certificate_options *certificate,
                                    const struct midge_tls_options *options, const char *host_name,
                                    char why[160])
{
    const struct midge_certificate_files files =
        midge_certificates_make(&certificates, certificate, NULL);
    struct midge_tls_context *context;
    struct midge_tls *client = rig_client(options, host_name, &context);
    struct rig_peer peer;
    enum midge_status status;

    rig_peer_init(&peer, &files, 0);
    status = rig_shake(client, &peer, 0);
    (void)snprintf(why, 160, "%s", midge_tls_error(client));
    if (status != MIDGE_AGAIN) {
        struct midge_slice plain;

        cr_expect_eq(status, MIDGE_E_TLS);
        cr_expect_not(SSL_is_init_finished(peer.ssl), "the server must not think that it is well");
        cr_expect_eq(midge_tls_read(client, &plain), MIDGE_E_TLS);
        cr_expect_eq(midge_tls_write(client, MIDGE_SLICE_LITERAL("secret")), MIDGE_E_TLS);
        midge_tls_shutdown(client);
    }
    rig_peer_deinit(&peer);
    midge_tls_destroy(client);
    midge_tls_context_destroy(context);
    return status;
}

static void expect_accepted(const struct midge_certificate_options *certificate,
                            const char *host_name)
{
    const struct midge_tls_options options = {.ca_file = certificates.ca_file};
    char why[160];

    cr_expect_eq(shake_with(certificate, &options, host_name, why), MIDGE_AGAIN, "%s: %s",
                 host_name, why);
    cr_expect_str_empty(why);
}

static void expect_refused(const struct midge_certificate_options *certificate,
                           const char *host_name, const char *reason)
{
    const struct midge_tls_options options = {.ca_file = certificates.ca_file};
    char why[160];

    cr_expect_eq(shake_with(certificate, &options, host_name, why), MIDGE_E_TLS, "%s", host_name);
    cr_expect_not_null(strstr(why, reason), "%s: %s", host_name, why);
}

Test(tls_verify, a_certificate_for_the_name_is_accepted)
{
    expect_accepted(&good, "midge.test");
    expect_accepted(&good, "MIDGE.test");
    expect_accepted(&good, "a.wild.test");
}

Test(tls_verify, another_name_is_refused)
{
    expect_refused(&good, "other.test", "hostname mismatch");
    expect_refused(&good, "midge.test.other", "hostname mismatch");
    expect_refused(&good, "a.midge.test", "hostname mismatch");
    expect_refused(&good, "idge.test", "hostname mismatch");
}

Test(tls_verify, a_wildcard_is_one_whole_label)
{
    expect_refused(&good, "wild.test", "hostname mismatch");
    expect_refused(&good, "a.b.wild.test", "hostname mismatch");
    expect_refused(&good, "wx.part.test", "hostname mismatch");
}

Test(tls_verify, an_address_is_checked_as_one)
{
    expect_accepted(&good, "127.0.0.1");
    expect_accepted(&good, "::1");
    expect_accepted(&good, "0:0:0:0:0:0:0:1");
    expect_refused(&good, "127.0.0.2", "IP address mismatch");
    expect_refused(&good, "::2", "IP address mismatch");
}

/* A name that looks like an address, and the other way round. */
Test(tls_verify, a_name_does_not_stand_for_an_address)
{
    const struct midge_certificate_options certificate = {.names = "DNS:127.0.0.1"};

    expect_refused(&certificate, "127.0.0.1", "IP address mismatch");
}

/* Source: RFC 9525, section 2: the common name says nothing. */
Test(tls_verify, the_common_name_does_not_count)
{
    const struct midge_certificate_options certificate = {.common_name = "midge.test"};

    expect_refused(&certificate, "midge.test", "hostname mismatch");
}

Test(tls_verify, an_expired_certificate_is_refused)
{
    const struct midge_certificate_options certificate = {
        .names = good.names, .from_s = -7200, .until_s = -3600};

    expect_refused(&certificate, "midge.test", "expired");
}

Test(tls_verify, a_certificate_of_tomorrow_is_refused)
{
    const struct midge_certificate_options certificate = {
        .names = good.names, .from_s = 3600, .until_s = 7200};

    expect_refused(&certificate, "midge.test", "not yet valid");
}

Test(tls_verify, a_self_signed_certificate_is_refused)
{
    const struct midge_certificate_options certificate = {.names = good.names,
                                                          .is_self_signed = true};

    expect_refused(&certificate, "midge.test", "self-signed");
}

Test(tls_verify, an_issuer_that_is_not_trusted_is_refused)
{
    const struct midge_certificate_options other = {
        .common_name = "other CA", .is_ca = true, .is_self_signed = true};
    struct midge_issuer issuer;
    const struct midge_certificate_options certificate = {.names = good.names, .issuer = &issuer};

    (void)midge_certificates_make(&certificates, &other, &issuer);
    expect_refused(&certificate, "midge.test", "unable to get local issuer");
    midge_issuer_deinit(&issuer);
}

/* Whoever has a certificate of the trusted issuer could otherwise make one for every name. */
Test(tls_verify, a_certificate_cannot_sign_another)
{
    const struct midge_certificate_options server = {.common_name = "no CA", .names = good.names};
    struct midge_issuer issuer;
    const struct midge_certificate_files chain =
        midge_certificates_make(&certificates, &server, &issuer);
    const struct midge_certificate_options forged = {.names = "DNS:victim.test", .issuer = &issuer};
    const struct midge_certificate_files files =
        midge_certificates_make(&certificates, &forged, NULL);
    const struct midge_tls_options options = {.ca_file = certificates.ca_file};
    struct midge_tls_context *context;
    struct midge_tls *client = rig_client(&options, "victim.test", &context);
    struct rig_peer peer;
    BIO *file = BIO_new_file(chain.cert_file, "r");
    X509 *certificate = PEM_read_bio_X509(file, NULL, NULL, NULL);

    BIO_free(file);
    rig_peer_init(&peer, &files, 0);
    cr_assert_eq(SSL_add1_chain_cert(peer.ssl, certificate), 1);
    X509_free(certificate);
    cr_expect_eq(rig_shake(client, &peer, 0), MIDGE_E_TLS);
    cr_expect_not_null(strstr(midge_tls_error(client), "certificate: invalid CA"), "%s",
                       midge_tls_error(client));
    rig_peer_deinit(&peer);
    midge_tls_destroy(client);
    midge_tls_context_destroy(context);
    midge_issuer_deinit(&issuer);
}

Test(tls_verify, a_certificate_for_clients_is_none_for_servers)
{
    const struct midge_certificate_options certificate = {.names = good.names,
                                                          .usage = "clientAuth"};

    expect_refused(&certificate, "midge.test", "unsuitable certificate purpose");
}

Test(tls_verify, without_a_ca_file_the_system_decides)
{
    const struct midge_tls_options options = {0};
    char why[160];

    cr_expect_eq(shake_with(&good, &options, "midge.test", why), MIDGE_E_TLS);
    cr_expect_not_null(strstr(why, "unable to get local issuer"), "%s", why);
}

/* Only where somebody has said so. */
Test(tls_verify, insecure_checks_nothing)
{
    const struct midge_certificate_options certificate = {
        .names = "DNS:other.test", .from_s = -7200, .until_s = -3600, .is_self_signed = true};
    const struct midge_tls_options options = {.insecure = true};
    char why[160];

    cr_expect_eq(shake_with(&certificate, &options, "midge.test", why), MIDGE_AGAIN, "%s", why);
}

Test(tls_verify, without_a_name_the_issuer_is_checked_all_the_same)
{
    const struct midge_certificate_options certificate = {.names = good.names,
                                                          .is_self_signed = true};

    expect_accepted(&good, NULL);
    expect_refused(&certificate, NULL, "self-signed");
}

/* OpenSSL takes an empty name for "check none", and one that begins with a dot for every name below
 * it. */
Test(tls_verify, a_name_that_would_weaken_the_check_is_no_name)
{
    static const char *const names[] = {"", ".", ".test", ".midge.test"};
    const struct midge_tls_options options = {.ca_file = certificates.ca_file};
    struct midge_tls_context *context;
    char why[160];

    cr_assert_eq(midge_tls_context_create(&options, &context, why), MIDGE_OK);
    for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct midge_tls *tls = NULL;

        cr_expect_eq(midge_tls_create(context, names[i], &tls), MIDGE_E_TLS, "'%s'", names[i]);
        cr_expect_null(tls);
    }
    midge_tls_context_destroy(context);
}

Test(tls_verify, a_name_too_long_for_the_protocol_is_no_name)
{
    const struct midge_tls_options options = {.ca_file = certificates.ca_file};
    struct midge_tls_context *context;
    struct midge_tls *tls = NULL;
    char name[257];
    char why[160];

    memset(name, 'a', sizeof(name));
    cr_assert_eq(midge_tls_context_create(&options, &context, why), MIDGE_OK);
    name[256] = '\0';
    cr_expect_eq(midge_tls_create(context, name, &tls), MIDGE_E_TLS);
    cr_expect_null(tls);
    name[255] = '\0';
    cr_assert_eq(midge_tls_create(context, name, &tls), MIDGE_OK);
    midge_tls_destroy(tls);
    midge_tls_context_destroy(context);
}

/* The name that a server of many names needs to choose; addresses are none. Source: RFC 6066. */
Test(tls_verify, the_server_is_told_a_name_but_no_address)
{
    static const char *const names[] = {"midge.test", "127.0.0.1", "::1"};
    const struct midge_certificate_files files =
        midge_certificates_make(&certificates, &good, NULL);
    const struct midge_tls_options options = {.ca_file = certificates.ca_file};

    for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct midge_tls_context *context;
        struct midge_tls *client = rig_client(&options, names[i], &context);
        struct rig_peer peer;
        const char *told;

        rig_peer_init(&peer, &files, 0);
        cr_assert_eq(rig_shake(client, &peer, 0), MIDGE_AGAIN);
        told = SSL_get_servername(peer.ssl, TLSEXT_NAMETYPE_host_name);
        if (i == 0)
            cr_expect_str_eq(told, names[0]);
        else
            cr_expect_null(told);
        rig_peer_deinit(&peer);
        midge_tls_destroy(client);
        midge_tls_context_destroy(context);
    }
}

/* --- our own server, which asks for a certificate --- */

/* Move what one says to the other, and let that read. */
static enum midge_status pass_on(struct midge_tls *from, struct midge_tls *to)
{
    const struct midge_slice output = midge_tls_output(from);
    enum midge_status status;

    if (output.len > 0)
        cr_assert_eq(midge_tls_feed(to, output), MIDGE_OK);
    midge_tls_consume(from, output.len);
    status = rig_drain(to, NULL);
    return status;
}

/* @param files  the client's, or NULL. @param why  the server's words
 * @return what the server said last */
static enum midge_status shake_ours(const struct midge_certificate_files *files, bool is_asked,
                                    char why[160])
{
    const struct midge_certificate_files mine = midge_certificates_make(&certificates, &good, NULL);
    const struct midge_tls_options server_options = {
        .is_server = true,
        .ca_file = certificates.ca_file,
        .cert_file = mine.cert_file,
        .key_file = mine.key_file,
        .verify_client = is_asked,
    };
    const struct midge_tls_options client_options = {
        .ca_file = certificates.ca_file,
        .cert_file = files == NULL ? NULL : files->cert_file,
        .key_file = files == NULL ? NULL : files->key_file,
    };
    struct midge_tls_context *server_context;
    struct midge_tls_context *client_context;
    struct midge_tls *client = rig_client(&client_options, "midge.test", &client_context);
    struct midge_tls *server;
    enum midge_status status = MIDGE_AGAIN;

    cr_assert_eq(midge_tls_context_create(&server_options, &server_context, why), MIDGE_OK, "%s",
                 why);
    cr_assert_eq(midge_tls_create(server_context, NULL, &server), MIDGE_OK);
    cr_assert_eq(rig_drain(server, NULL), MIDGE_AGAIN);
    cr_expect_eq(midge_tls_output(server).len, 0, "a server waits to be spoken to");
    cr_assert_eq(rig_drain(client, NULL), MIDGE_AGAIN);
    for (uint32_t turn = 0; turn < RIG_TURNS && status == MIDGE_AGAIN; turn++) {
        status = pass_on(client, server);
        (void)pass_on(server, client);
    }
    (void)snprintf(why, 160, "%s", midge_tls_error(server));
    cr_expect_eq(midge_tls_is_established(server), status == MIDGE_AGAIN);
    if (status == MIDGE_AGAIN)
        cr_expect(midge_tls_is_established(client));
    midge_tls_destroy(client);
    midge_tls_destroy(server);
    midge_tls_context_destroy(client_context);
    midge_tls_context_destroy(server_context);
    return status;
}

Test(tls_verify, a_server_need_not_ask)
{
    char why[160];

    cr_expect_eq(shake_ours(NULL, false, why), MIDGE_AGAIN, "%s", why);
}

Test(tls_verify, a_server_that_asks_refuses_without_a_certificate)
{
    char why[160];

    cr_expect_eq(shake_ours(NULL, true, why), MIDGE_E_TLS);
    cr_expect_not_null(strstr(why, "did not return a certificate"), "%s", why);
}

Test(tls_verify, a_server_that_asks_takes_a_good_certificate)
{
    const struct midge_certificate_options certificate = {.usage = "clientAuth"};
    const struct midge_certificate_files files =
        midge_certificates_make(&certificates, &certificate, NULL);
    char why[160];

    cr_expect_eq(shake_ours(&files, true, why), MIDGE_AGAIN, "%s", why);
}

Test(tls_verify, a_server_that_asks_refuses_a_bad_certificate)
{
    const struct midge_certificate_options bad[] = {
        {.usage = "clientAuth", .is_self_signed = true},
        {.usage = "clientAuth", .from_s = -7200, .until_s = -3600},
        {.usage = "serverAuth"},
    };
    static const char *const reasons[] = {"self-signed", "expired", "unsuitable"};

    for (uint32_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const struct midge_certificate_files files =
            midge_certificates_make(&certificates, &bad[i], NULL);
        char why[160];

        cr_expect_eq(shake_ours(&files, true, why), MIDGE_E_TLS, "%s", reasons[i]);
        cr_expect_not_null(strstr(why, reasons[i]), "%s: %s", reasons[i], why);
    }
}

/* --- files --- */

static void expect_no_context(const struct midge_tls_options *options, const char *reason)
{
    struct midge_tls_context *context = NULL;
    char why[160] = "";

    cr_expect_eq(midge_tls_context_create(options, &context, why), MIDGE_E_TLS, "%s", reason);
    cr_expect_null(context);
    cr_expect_not_null(strstr(why, reason), "%s: %s", reason, why);
    cr_expect_eq(ERR_peek_error(), 0, "nothing is left in the thread's queue");
}

Test(tls_verify, a_file_that_cannot_be_used_is_named)
{
    const struct midge_certificate_files a = midge_certificates_make(&certificates, &good, NULL);
    const struct midge_certificate_files b = midge_certificates_make(&certificates, &good, NULL);
    const char *garbage = midge_certificates_write(&certificates, "-----BEGIN CERTIFICATE-----\n");

    expect_no_context(&(struct midge_tls_options){.ca_file = "/nowhere/ca.pem"},
                      "CA /nowhere/ca.pem: ");
    expect_no_context(&(struct midge_tls_options){.ca_file = garbage}, "CA /tmp/");
    expect_no_context(&(struct midge_tls_options){.cert_file = "/nowhere/c.pem"},
                      "certificate /nowhere/c.pem: ");
    expect_no_context(&(struct midge_tls_options){.cert_file = garbage}, "certificate /tmp/");
    expect_no_context(
        &(struct midge_tls_options){.cert_file = a.cert_file, .key_file = "/nowhere/k"},
        "key /nowhere/k: ");
    expect_no_context(
        &(struct midge_tls_options){.cert_file = a.cert_file, .key_file = a.cert_file},
        "key /tmp/");
    expect_no_context(&(struct midge_tls_options){.cert_file = a.cert_file, .key_file = b.key_file},
                      "key values mismatch");
}

/* OpenSSL would ask at the terminal. A test has none, so that it would wait for ever, or read what
 * is not meant for it. */
Test(tls_verify, a_key_with_a_passphrase_is_refused_without_a_question)
{
    const struct midge_certificate_files open = midge_certificates_make(&certificates, &good, NULL);
    const char *path = midge_certificates_write(&certificates, "");
    BIO *in = BIO_new_file(open.key_file, "r");
    BIO *out = BIO_new_file(path, "w");
    EVP_PKEY *key = PEM_read_bio_PrivateKey(in, NULL, NULL, NULL);

    cr_assert_eq(PEM_write_bio_PrivateKey(out, key, EVP_aes_128_cbc(),
                                          (const unsigned char *)"word", 4, NULL, NULL),
                 1);
    EVP_PKEY_free(key);
    BIO_free(in);
    BIO_free(out);
    expect_no_context(&(struct midge_tls_options){.cert_file = open.cert_file, .key_file = path},
                      "key /tmp/");
}

/* A path as long as paths may be, and no room for it in the reason. */
Test(tls_verify, a_long_path_does_not_overrun_the_reason)
{
    char path[4096];
    struct midge_tls_context *context = NULL;
    char why[160];

    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    cr_expect_eq(
        midge_tls_context_create(&(struct midge_tls_options){.ca_file = path}, &context, why),
        MIDGE_E_TLS);
    cr_expect_lt(strlen(why), sizeof(why));
}

Test(tls_verify, nothing_is_destroyed_quietly)
{
    midge_tls_destroy(NULL);
    midge_tls_context_destroy(NULL);
}
