/*
 * The two JSON objects of the protocol: INFO, which the broker writes, and CONNECT, which it reads.
 *
 * Thread: any (lock-free) for INFO; CONNECT allocates and belongs to its caller.
 * Memory: each CONNECT string is one allocation of its own length, at most three times
 * max_control_line (a byte that is not UTF-8 becomes three).
 * Source: nats-server v2.15.2, server/server.go:107 (Info), server/client.go:678 (ClientOpts).
 */
#ifndef MIDGE_INFO_H
#define MIDGE_INFO_H

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

/* What one INFO line says. Strings are borrowed and NUL-terminated. */
struct midge_info {
    const char *server_id;
    const char *server_name;
    const char *version; /* the nats-server level that we are compatible with */
    const char *midge;   /* our own version */
    const char *host;
    const char *client_ip;      /* "" for a Unix socket */
    const char *remote_account; /* only with connect_info */
    uint64_t client_id;
    uint32_t max_payload; /* bytes */
    uint16_t port;
    bool headers;
    bool auth_required;
    bool connect_info; /* the INFO after the first PONG */
};

/* Enough for every INFO whose strings together stay under 2 KiB. */
#define MIDGE_INFO_LEN_MAX 4096u

/**
 * Write `INFO {…} CRLF`, with the keys in nats-server's order.
 *
 * @return bytes written, 0 if it would not fit in `cap`
 */
uint32_t midge_info_encode(uint8_t *out, uint32_t cap, const struct midge_info *info);

/* Options of CONNECT, merged over all CONNECTs of one connection. Strings are owned, NULL = absent
 * or empty (nats-server does not tell these apart either). */
struct midge_connect {
    char *user;
    char *pass;
    char *auth_token;
    char *name;
    char *lang;
    char *version;
    int32_t protocol; /* what is beyond 32 bits is INT32_MAX or its negative */
    bool verbose;
    bool pedantic;
    bool echo;
    bool headers;
    bool no_responders;
    bool account_given; /* account was not empty or new_account was true */
};

/** Defaults of a connection that has sent no CONNECT. Nothing owned yet. */
void midge_connect_init(struct midge_connect *connect);

/** Free the strings; secrets are wiped first. */
void midge_connect_deinit(struct midge_connect *connect);

/** What the strings cost, the allocator's share included. Cost: linear in them. */
uint64_t midge_connect_bytes(const struct midge_connect *connect);

/**
 * Merge one CONNECT object: keys in any case, unknown keys ignored, later duplicates win, null
 * leaves the old value, bytes of strings that are not UTF-8 become U+FFFD as in Go. A U+0000 in a
 * string also becomes U+FFFD, so that the string never ends early. The whole text may also be null:
 * no change.
 *
 * @return MIDGE_OK; E_ARGS for anything but one object with the right types; E_MEMORY. The options
 * are unchanged unless MIDGE_OK. Cost: linear, no recursion; allocates only for strings, and only
 * once the whole text was checked.
 */
MIDGE_MUST_CHECK enum midge_status midge_connect_merge(struct midge_connect *connect,
                                                       struct midge_slice json);

/**
 * Copy a CONNECT text for a log, as written but for the values of its secrets, which become
 * `[REDACTED]`. The keys are found as midge_connect_merge() finds them. Of a text that is no JSON
 * object nothing is shown: where a secret begins and ends in it is anybody's guess.
 *
 * @param cap  bytes of room in out; what is over is cut
 * @return bytes written
 */
uint32_t midge_connect_redact(uint8_t *out, uint32_t cap, struct midge_slice json);

/** True if the text is one valid JSON object, or null (what a client's INFO must be). The types of
 * the members are not checked: a client has no reason to send INFO, and nothing of it is used. */
bool midge_info_is_object(struct midge_slice json);

#endif
