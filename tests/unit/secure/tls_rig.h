/*
 * What the tests of TLS share: one of our sessions as a client, and at the other end a server made
 * of OpenSSL alone, with buffers instead of a socket between them.
 */
#ifndef MIDGE_TLS_RIG_H
#define MIDGE_TLS_RIG_H

#include <criterion/criterion.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>

#include "certificates.h"
#include "midge/tls.h"

/* Turns of talk after which both sides have said what they wanted. */
#define RIG_TURNS 8u

/* The server. */
struct rig_peer {
    SSL_CTX *context;
    SSL *ssl;
    BIO *in;
    BIO *out;
};

/* @param version  the only one that it speaks; 0 = all that OpenSSL does */
static inline void rig_peer_init(struct rig_peer *peer, const struct midge_certificate_files *files,
                                 int version)
{
    peer->context = SSL_CTX_new(TLS_server_method());
    cr_assert_not_null(peer->context);
    SSL_CTX_set_security_level(peer->context, 0); /* also what a client must refuse */
    cr_assert_eq(SSL_CTX_set_min_proto_version(peer->context, version), 1);
    cr_assert_eq(SSL_CTX_set_max_proto_version(peer->context, version), 1);
    cr_assert_eq(SSL_CTX_use_certificate_chain_file(peer->context, files->cert_file), 1);
    cr_assert_eq(SSL_CTX_use_PrivateKey_file(peer->context, files->key_file, SSL_FILETYPE_PEM), 1);
    peer->ssl = SSL_new(peer->context);
    peer->in = BIO_new(BIO_s_mem());
    peer->out = BIO_new(BIO_s_mem());
    (void)BIO_set_mem_eof_return(peer->in, -1);
    (void)BIO_set_mem_eof_return(peer->out, -1);
    SSL_set_bio(peer->ssl, peer->in, peer->out);
    SSL_set_accept_state(peer->ssl);
}

static inline void rig_peer_deinit(struct rig_peer *peer)
{
    SSL_free(peer->ssl);
    SSL_CTX_free(peer->context);
    ERR_clear_error();
}

/* A client's session. @param context_out  to be destroyed by the caller */
static inline struct midge_tls *rig_client(const struct midge_tls_options *options,
                                           const char *host_name,
                                           struct midge_tls_context **context_out)
{
    struct midge_tls *client;
    char why[160];

    cr_assert_eq(midge_tls_context_create(options, context_out, why), MIDGE_OK, "%s", why);
    cr_assert_eq(midge_tls_create(*context_out, host_name, &client), MIDGE_OK);
    return client;
}

/* What the client wants to say reaches the server. */
static inline void rig_to_peer(struct midge_tls *client, struct rig_peer *peer)
{
    const struct midge_slice output = midge_tls_output(client);

    if (output.len == 0)
        return;
    cr_assert_eq(BIO_write(peer->in, output.base, (int)output.len), (int)output.len);
    midge_tls_consume(client, output.len);
    cr_assert_eq(midge_tls_output(client).len, 0);
}

/* Take what the server wants to say. @return owned */
static inline uint8_t *rig_take(struct rig_peer *peer, uint32_t *len_out)
{
    const uint32_t len = (uint32_t)BIO_ctrl_pending(peer->out);
    uint8_t *bytes = malloc(len > 0 ? len : 1);

    cr_assert_not_null(bytes);
    if (len > 0)
        cr_assert_eq(BIO_read(peer->out, bytes, (int)len), (int)len);
    *len_out = len;
    return bytes;
}

/* Read until it is not MIDGE_OK. @param plain  what was read goes behind plain->len; or NULL */
struct rig_plain {
    uint8_t *bytes;
    uint32_t len;
    uint32_t cap;
};

static inline enum midge_status rig_drain(struct midge_tls *tls, struct rig_plain *plain)
{
    struct midge_slice read;
    enum midge_status status;

    while ((status = midge_tls_read(tls, &read)) == MIDGE_OK) {
        cr_assert_gt(read.len, 0);
        cr_assert_not_null(plain, "plaintext where none was sent");
        cr_assert_leq(read.len, plain->cap - plain->len);
        memcpy(plain->bytes + plain->len, read.base, read.len);
        plain->len += read.len;
    }
    return status;
}

/* Feed bytes in chunks of `step` (0 = all at once), each an allocation of its own, and read after
 * each. @return what the last read said */
static inline enum midge_status rig_feed(struct midge_tls *tls, const uint8_t *bytes, uint32_t len,
                                         uint32_t step, struct rig_plain *plain)
{
    enum midge_status status = rig_drain(tls, plain);

    for (uint32_t off = 0; off < len && status == MIDGE_AGAIN;) {
        const uint32_t part = step == 0 || len - off < step ? len - off : step;
        uint8_t *copy = malloc(part);

        cr_assert_not_null(copy);
        memcpy(copy, bytes + off, part);
        cr_assert_eq(midge_tls_feed(tls, midge_slice_make(copy, part)), MIDGE_OK);
        free(copy);
        off += part;
        status = rig_drain(tls, plain);
    }
    return status;
}

/* One turn: what the client says, what the server answers. @return what the client's read said */
static inline enum midge_status rig_turn(struct midge_tls *client, struct rig_peer *peer,
                                         uint32_t step)
{
    enum midge_status status = rig_drain(client, NULL);
    uint8_t *answer;
    uint32_t len;

    rig_to_peer(client, peer);
    if (status != MIDGE_AGAIN)
        return status;
    if (!SSL_is_init_finished(peer->ssl))
        (void)SSL_do_handshake(peer->ssl);
    ERR_clear_error();
    answer = rig_take(peer, &len);
    status = rig_feed(client, answer, len, step, NULL);
    free(answer);
    rig_to_peer(client, peer);
    return status;
}

/* Handshake. @return MIDGE_AGAIN when both sides are established, else what the client said */
static inline enum midge_status rig_shake(struct midge_tls *client, struct rig_peer *peer,
                                          uint32_t step)
{
    enum midge_status status = MIDGE_AGAIN;

    for (uint32_t turn = 0; turn < RIG_TURNS && status == MIDGE_AGAIN; turn++)
        status = rig_turn(client, peer, step);
    if (status == MIDGE_AGAIN) {
        cr_assert(midge_tls_is_established(client));
        cr_assert(SSL_is_init_finished(peer->ssl));
    }
    return status;
}

#endif
