/*
 * TLS over byte slices. See midge/tls.h.
 *
 * Two memory BIOs stand for the socket. OpenSSL's error queue is the thread's, so each call that
 * may leave something in it empties it before it returns.
 */
#include "midge/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

#define WHY_CAP     160u
#define PLAIN_LEN   16384u /* one record */
#define OUTPUT_MAX  (1u << 30)
#define VERIFY_DEEP 10

struct midge_tls_context {
    SSL_CTX *ssl_context;
    bool is_server;
};

struct midge_tls {
    SSL *ssl;
    BIO *in;  /* from the peer; owned by ssl */
    BIO *out; /* to the peer; owned by ssl */
    bool is_failed;
    char why[WHY_CAP];
    uint8_t plain[PLAIN_LEN];
};

/* What OpenSSL says, for people; empties its queue. */
static void explain(char *why, const char *what)
{
    const unsigned long error = ERR_peek_last_error();
    const char *reason = ERR_reason_error_string(error);

    (void)snprintf(why, WHY_CAP, "%s%s%s", what, reason == NULL ? "" : ": ",
                   reason == NULL ? "" : reason);
    ERR_clear_error();
}

/* --- contexts --- */

/* A key with a passphrase is refused: OpenSSL would ask for it at the terminal, and wait. */
static int give_no_passphrase(char *buffer, int cap, int is_writing, void *context)
{
    (void)buffer;
    (void)cap;
    (void)is_writing;
    (void)context;
    return -1;
}

static bool load_files(SSL_CTX *context, const struct midge_tls_options *options, char *why)
{
    char what[WHY_CAP / 2];

    SSL_CTX_set_default_passwd_cb(context, give_no_passphrase);
    if (options->cert_file != NULL &&
        SSL_CTX_use_certificate_chain_file(context, options->cert_file) != 1) {
        (void)snprintf(what, sizeof(what), "certificate %.50s", options->cert_file);
        explain(why, what);
        return false;
    }
    if (options->key_file != NULL &&
        SSL_CTX_use_PrivateKey_file(context, options->key_file, SSL_FILETYPE_PEM) != 1) {
        (void)snprintf(what, sizeof(what), "key %.50s", options->key_file);
        explain(why, what);
        return false;
    }
    if (options->ca_file != NULL &&
        SSL_CTX_load_verify_locations(context, options->ca_file, NULL) != 1) {
        (void)snprintf(what, sizeof(what), "CA %.50s", options->ca_file);
        explain(why, what);
        return false;
    }
    /* A system without certificates trusts nobody, which the handshake says. */
    if (options->ca_file == NULL && !options->is_server)
        (void)SSL_CTX_set_default_verify_paths(context);
    return true;
}

static int verify_mode(const struct midge_tls_options *options)
{
    if (options->is_server)
        return options->verify_client ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
                                      : SSL_VERIFY_NONE;
    return options->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER;
}

enum midge_status midge_tls_context_create(const struct midge_tls_options *options,
                                           struct midge_tls_context **context_out, char why[160])
{
    struct midge_tls_context *context = calloc(1, sizeof(*context));
    enum midge_status status = MIDGE_E_MEMORY;

    why[0] = '\0';
    if (context == NULL)
        return MIDGE_E_MEMORY;
    context->is_server = options->is_server;
    context->ssl_context =
        SSL_CTX_new(options->is_server ? TLS_server_method() : TLS_client_method());
    if (context->ssl_context == NULL)
        goto err_free;
    (void)SSL_CTX_set_min_proto_version(context->ssl_context, TLS1_2_VERSION);
    (void)SSL_CTX_set_options(context->ssl_context,
                              SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    (void)SSL_CTX_set_mode(context->ssl_context,
                           SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(context->ssl_context, verify_mode(options), NULL);
    SSL_CTX_set_verify_depth(context->ssl_context, VERIFY_DEEP);
    status = MIDGE_E_TLS;
    if (!load_files(context->ssl_context, options, why))
        goto err_free_context;
    ERR_clear_error();
    *context_out = context;
    return MIDGE_OK;

err_free_context:
    SSL_CTX_free(context->ssl_context);
err_free:
    ERR_clear_error();
    free(context);
    return status;
}

void midge_tls_context_destroy(struct midge_tls_context *context)
{
    if (context == NULL)
        return;
    SSL_CTX_free(context->ssl_context);
    free(context);
}

/* --- sessions --- */

static bool is_address(const char *host_name)
{
    uint8_t bytes[16];

    return inet_pton(AF_INET, host_name, bytes) == 1 || inet_pton(AF_INET6, host_name, bytes) == 1;
}

/* OpenSSL's macro takes the name as something that it might change, though it copies it. */
static bool set_server_name(SSL *ssl, const char *host_name)
{
    char *copy = strdup(host_name);
    const bool is_set = copy != NULL && SSL_set_tlsext_host_name(ssl, copy) == 1;

    free(copy);
    return is_set;
}

static bool set_host_name(SSL *ssl, const char *host_name)
{
    /* OpenSSL takes an empty name for "check none", and a dot in front for any name below it. */
    if (host_name[0] == '\0' || host_name[0] == '.')
        return false;
    if (is_address(host_name))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host_name) == 1;
    /* A common name is for people. Source: RFC 9525, section 2. */
    SSL_set_hostflags(ssl,
                      X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    return SSL_set1_host(ssl, host_name) == 1 && set_server_name(ssl, host_name);
}

enum midge_status midge_tls_create(struct midge_tls_context *context, const char *host_name,
                                   struct midge_tls **tls_out)
{
    struct midge_tls *tls = calloc(1, sizeof(*tls));
    enum midge_status status = MIDGE_E_MEMORY;

    if (tls == NULL)
        return MIDGE_E_MEMORY;
    tls->ssl = SSL_new(context->ssl_context);
    tls->in = BIO_new(BIO_s_mem());
    tls->out = BIO_new(BIO_s_mem());
    if (tls->ssl == NULL || tls->in == NULL || tls->out == NULL)
        goto err_free;
    status = MIDGE_E_TLS;
    if (host_name != NULL && !set_host_name(tls->ssl, host_name))
        goto err_free;
    /* An empty BIO is not the end of the stream. */
    (void)BIO_set_mem_eof_return(tls->in, -1);
    (void)BIO_set_mem_eof_return(tls->out, -1);
    SSL_set_bio(tls->ssl, tls->in, tls->out);
    if (context->is_server)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    *tls_out = tls;
    return MIDGE_OK;

err_free:
    BIO_free(tls->in);
    BIO_free(tls->out);
    SSL_free(tls->ssl);
    ERR_clear_error();
    free(tls);
    return status;
}

void midge_tls_destroy(struct midge_tls *tls)
{
    if (tls == NULL)
        return;
    SSL_free(tls->ssl);
    ERR_clear_error();
    free(tls);
}

enum midge_status midge_tls_feed(struct midge_tls *tls, struct midge_slice cipher)
{
    size_t taken = 0;

    if (cipher.len == 0)
        return MIDGE_OK;
    if (BIO_write_ex(tls->in, cipher.base, cipher.len, &taken) == 1 && taken == cipher.len)
        return MIDGE_OK;
    ERR_clear_error();
    return MIDGE_E_MEMORY;
}

/* The session is of no use any more. */
static enum midge_status fail(struct midge_tls *tls)
{
    const long verdict = SSL_get_verify_result(tls->ssl);
    const bool is_checked = SSL_get_verify_mode(tls->ssl) != SSL_VERIFY_NONE;
    char what[WHY_CAP / 2];

    tls->is_failed = true;
    if (is_checked && verdict != X509_V_OK) {
        (void)snprintf(what, sizeof(what), "certificate: %.60s",
                       X509_verify_cert_error_string(verdict));
        (void)snprintf(tls->why, WHY_CAP, "%s", what);
        ERR_clear_error();
    } else {
        explain(tls->why, "TLS");
    }
    return MIDGE_E_TLS;
}

/* What a call of SSL_* that did not succeed means. */
static enum midge_status outcome(struct midge_tls *tls, int result)
{
    switch (SSL_get_error(tls->ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        ERR_clear_error();
        return MIDGE_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        ERR_clear_error();
        return MIDGE_E_EOF;
    default:
        return fail(tls);
    }
}

enum midge_status midge_tls_read(struct midge_tls *tls, struct midge_slice *plain_out)
{
    size_t len = 0;
    int result;

    if (tls->is_failed)
        return MIDGE_E_TLS;
    ERR_clear_error();
    if (!SSL_is_init_finished(tls->ssl)) {
        result = SSL_do_handshake(tls->ssl);
        if (result != 1)
            return outcome(tls, result);
    }
    result = SSL_read_ex(tls->ssl, tls->plain, sizeof(tls->plain), &len);
    if (result != 1)
        return outcome(tls, result);
    *plain_out = midge_slice_make(tls->plain, (uint32_t)len);
    return MIDGE_OK;
}

bool midge_tls_is_established(const struct midge_tls *tls)
{
    return SSL_is_init_finished(tls->ssl) == 1;
}

enum midge_status midge_tls_write(struct midge_tls *tls, struct midge_slice plain)
{
    size_t taken = 0;
    int result;

    if (tls->is_failed)
        return MIDGE_E_TLS;
    if (!midge_tls_is_established(tls))
        return MIDGE_AGAIN;
    if (plain.len == 0)
        return MIDGE_OK;
    ERR_clear_error();
    /* A memory BIO takes everything, so a write is never partial. */
    result = SSL_write_ex(tls->ssl, plain.base, plain.len, &taken);
    if (result == 1 && taken == plain.len)
        return MIDGE_OK;
    return fail(tls);
}

struct midge_slice midge_tls_output(const struct midge_tls *tls)
{
    char *base = NULL;
    const long len = BIO_get_mem_data(tls->out, &base);

    if (len <= 0)
        return midge_slice_make(NULL, 0);
    return midge_slice_make(base, len > OUTPUT_MAX ? OUTPUT_MAX : (uint32_t)len);
}

void midge_tls_consume(struct midge_tls *tls, uint32_t len)
{
    uint8_t scratch[4096];

    while (len > 0) {
        size_t taken = 0;
        const size_t wanted = len < sizeof(scratch) ? len : sizeof(scratch);

        if (BIO_read_ex(tls->out, scratch, wanted, &taken) != 1)
            break;
        len -= (uint32_t)taken;
    }
    MIDGE_ASSERT(len == 0);
}

void midge_tls_shutdown(struct midge_tls *tls)
{
    if (tls->is_failed || !midge_tls_is_established(tls))
        return;
    (void)SSL_shutdown(tls->ssl);
    ERR_clear_error();
}

const char *midge_tls_error(const struct midge_tls *tls)
{
    return tls->why;
}
