/*
 * TLS over byte slices: no sockets, so that the ring keeps doing the I/O.
 *
 * A session is fed what came from the peer, read for plaintext, written plaintext, and asked for
 * what is to be sent. Reading drives the handshake.
 *
 *     midge_tls_feed(tls, cipher);
 *     while (midge_tls_read(tls, &plain) == MIDGE_OK) …
 *     send(midge_tls_output(tls)); midge_tls_consume(tls, taken);
 *
 * TLS 1.2 and 1.3. No compression, no renegotiation.
 *
 * Thread: a context may be shared by threads; a session belongs to one at a time.
 * Memory: OpenSSL's own; about 20 KiB a session once it is established.
 * Source: SSL_CTX_new(3), BIO_s_mem(3), SSL_set1_host(3), SSL_read_ex(3).
 */
#ifndef MIDGE_TLS_H
#define MIDGE_TLS_H

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

struct midge_tls_context; /* certificates and what is checked */
struct midge_tls;         /* one session */

/* Paths of PEM files; NULL = none. A key must have no passphrase. Borrowed. */
struct midge_tls_options {
    bool is_server;
    const char *ca_file;   /* client: NULL = the system's */
    const char *cert_file; /* with its chain */
    const char *key_file;
    bool insecure;      /* client: check no certificate */
    bool verify_client; /* server: ask for a certificate, and refuse without one */
};

/** @param context_out  owned. @param why  the reason of a failure in words
 * @return MIDGE_OK; E_TLS if a file cannot be used; E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_tls_context_create(const struct midge_tls_options *options,
                                                            struct midge_tls_context **context_out,
                                                            char why[160]);

/** Sessions that exist keep what they need. NULL does nothing. */
void midge_tls_context_destroy(struct midge_tls_context *context);

/** @param host_name  client: name or address that the certificate must be for, and, for a name,
 * SNI; NULL = neither. @param tls_out  owned. @return MIDGE_OK; E_TLS if that is no name to check;
 * E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_tls_create(struct midge_tls_context *context,
                                                    const char *host_name,
                                                    struct midge_tls **tls_out);

/** NULL does nothing. */
void midge_tls_destroy(struct midge_tls *tls);

/** Hand over bytes from the peer; they are copied. Read until MIDGE_AGAIN before feeding again, so
 * that no more than one feed is held. @return MIDGE_OK or E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_tls_feed(struct midge_tls *tls, struct midge_slice cipher);

/** Go on with the handshake, or take plaintext. @param plain_out  borrowed until the next call on
 * the session; written on MIDGE_OK only
 * @return MIDGE_OK; MIDGE_AGAIN: needs more bytes; E_EOF: the peer has ended the session; E_TLS */
MIDGE_MUST_CHECK enum midge_status midge_tls_read(struct midge_tls *tls,
                                                  struct midge_slice *plain_out);

/** True from the end of the handshake on. */
bool midge_tls_is_established(const struct midge_tls *tls);

/** Encrypt all of it into the output. @return MIDGE_OK; MIDGE_AGAIN before the handshake has ended,
 * with nothing taken; E_TLS */
MIDGE_MUST_CHECK enum midge_status midge_tls_write(struct midge_tls *tls, struct midge_slice plain);

/** What is to be sent, at most 1 GiB of it; borrowed until the next call on the session. */
struct midge_slice midge_tls_output(const struct midge_tls *tls);

/** Bytes of the output that were taken. */
void midge_tls_consume(struct midge_tls *tls, uint32_t len);

/** Tell the peer that the session ends. */
void midge_tls_shutdown(struct midge_tls *tls);

/** Why the session failed, in words; "" if it did not. Borrowed until it is destroyed. */
const char *midge_tls_error(const struct midge_tls *tls);

#endif
