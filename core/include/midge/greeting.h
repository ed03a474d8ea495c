/*
 * The client's side of the two JSON objects of the protocol: INFO, which it reads, and CONNECT,
 * which it writes. The broker's side is info.h.
 *
 * Thread: any (lock-free); what is decoded belongs to its caller.
 * Memory: each string of INFO is one allocation, all of them together at most three times the text.
 * Source: nats-server v2.15.2, server/server.go:107 (Info), server/client.go:678 (ClientOpts).
 */
#ifndef MIDGE_GREETING_H
#define MIDGE_GREETING_H

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

/* URLs of one INFO that are kept; what is beyond them is left out. */
#define MIDGE_CONNECT_URLS_MAX 1024u

/* What an INFO says. Strings are owned; NULL = absent. */
struct midge_server_facts {
    char *server_id;
    char *server_name;
    char *version;
    char *midge; /* version of a midge-server */
    char *host;
    char *nonce; /* to be signed */
    char *cluster;
    char *domain;
    char *client_ip;
    char **connect_urls; /* host:port of the other servers of the cluster */
    uint32_t connect_url_count;
    uint32_t max_payload; /* bytes, at most MIDGE_PAYLOAD_MAX; its default where INFO has none */
    uint64_t client_id;
    bool headers;
    bool auth_required;
    bool tls_required;
    bool tls_available;
    bool ldm; /* lame duck mode */
    bool jetstream;
};

/**
 * Read one INFO object: unknown keys ignored, keys in any case, later duplicates win.
 *
 * @param facts_out  owned after MIDGE_OK; end with midge_server_facts_deinit()
 * @return MIDGE_OK; E_ARGS for anything but one object with the right types; E_MEMORY
 * Cost: linear, no recursion.
 */
MIDGE_MUST_CHECK enum midge_status midge_server_facts_decode(struct midge_server_facts *facts_out,
                                                             struct midge_slice json);

/** Free the strings; all zero is fine, and is what is left. */
void midge_server_facts_deinit(struct midge_server_facts *facts);

/* What a CONNECT says. Strings are borrowed; NULL = leave the key out. */
struct midge_connect_options {
    const char *user;
    const char *pass;
    const char *auth_token;
    const char *jwt;
    const char *nkey; /* public key */
    const char *sig;  /* of the nonce */
    const char *name;
    const char *lang;
    const char *version;
    uint32_t protocol;
    bool verbose;
    bool pedantic;
    bool tls_required;
    bool echo;
    bool headers;
    bool no_responders;
};

/** Bytes of `CONNECT {…}CRLF`. Each byte of a string that is not UTF-8 becomes U+FFFD. */
uint32_t midge_connect_encode_len(const struct midge_connect_options *options);

/** Write it; exactly midge_connect_encode_len() bytes. Returns the end. */
uint8_t *midge_connect_encode(uint8_t *out, const struct midge_connect_options *options);

#endif
