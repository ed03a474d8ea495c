/*
 * Outcomes: name, number, whether it ends the connection, and the text a client sees. Broker and
 * client library share them; numbers never change their meaning.
 *
 * Three kinds: 0 is success, > 0 is flow (normal, never logged), < 0 is an operating error, handled
 * by the first function that can act and returned unchanged by the others.
 *
 * X(name, value, closes, text): `closes` ends the connection; `text` goes out as -ERR '<text>', and
 * an empty text means that the peer gets no -ERR (status_peer.h). Source: nats-server v2.15.2,
 * server/parser.go:1253, server/client.go:2520-2620, 3191, 6000, server/errors.go.
 */
#ifndef MIDGE_STATUS_H
#define MIDGE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* What the shared library shows; this is the lowest one of its headers. */
#define MIDGE_API __attribute__((visibility("default")))

#define MIDGE_STATUS_TABLE(X)                                                                      \
    X(OK, 0, false, "")                                                                            \
    X(AGAIN, 1, false, "") /* flow: needs more bytes */                                            \
    X(FULL, 2, false, "")  /* flow: a bounded buffer is full or absent */                          \
    X(E_PARSE, -1, true, "Unknown Protocol Operation")                                             \
    X(E_CONTROL_LINE, -2, true, "maximum control line exceeded")                                   \
    X(E_PAYLOAD, -3, true, "Maximum Payload Violation")                                            \
    X(E_SUBJECT, -4, false, "Invalid Subject")                                                     \
    X(E_ARGS, -5, true, "") /* wrong arity, size or JSON: closed without -ERR */                   \
    X(E_PUB_SUBJECT, -6, false, "Invalid Publish Subject")                                         \
    X(E_AUTH, -7, true, "Authorization Violation")                                                 \
    X(E_AUTH_TIMEOUT, -8, true, "Authentication Timeout")                                          \
    X(E_PROTOCOL, -9, true, "invalid client protocol")                                             \
    X(E_NEEDS_HEADERS, -10, true, "no responders requires headers support")                        \
    X(E_MAX_CONNECTIONS, -11, true, "maximum connections exceeded")                                \
    X(E_MAX_SUBS, -12, false, "maximum subscriptions exceeded")                                    \
    X(E_STALE, -13, true, "Stale Connection")                                                      \
    X(E_PEER_ERR, -14, true, "")      /* the client sent -ERR */                                   \
    X(E_HEADERS, -15, true, "")       /* HPUB without headers in CONNECT */                        \
    X(E_SLOW_PENDING, -16, true, "")  /* over max_pending */                                       \
    X(E_SLOW_DEADLINE, -17, true, "") /* over write_deadline */                                    \
    X(E_READ, -18, true, "")                                                                       \
    X(E_WRITE, -19, true, "")                                                                      \
    X(E_EOF, -20, true, "") /* the peer closed */                                                  \
    X(E_SHUTDOWN, -21, true, "")                                                                   \
    X(E_MEMORY, -22, true, "") /* allocation failed or max_memory reached */                       \
    X(E_CONFIG, -23, false, "")                                                                    \
    X(E_SYSTEM, -24, false, "")        /* a system call failed; errno says why */                  \
    X(E_THREAD, -25, false, "")        /* client: another thread's, or the parent's after fork */  \
    X(E_TIMEOUT, -26, false, "")       /* client: no answer in time */                             \
    X(E_NO_RESPONDERS, -27, false, "") /* client: the server's 503 */                              \
    X(E_DISCONNECTED, -28, false, "")  /* client: the connection was lost, or there is none */     \
    X(E_NO_SERVERS, -29, false, "")    /* client: none could be reached */                         \
    X(E_CLOSED, -30, false, "")        /* client: closed for good, or draining */                  \
    X(E_SUB_ENDED, -31, false, "")     /* client: unsubscribed, its maximum reached, or drained */ \
    X(E_TLS, -32, true, "")            /* handshake or certificate refused */                      \
    X(E_PERMISSION, -33, false, "")    /* client: the server forbids the subject */

enum midge_status {
#define MIDGE_STATUS_ENUM(name, value, closes, text) MIDGE_##name = (value),
    MIDGE_STATUS_TABLE(MIDGE_STATUS_ENUM)
#undef MIDGE_STATUS_ENUM
};

/** Name of a status for logs, such as "E_PARSE"; static storage. Thread: any (lock-free). */
MIDGE_API const char *midge_status_name(enum midge_status status);

#ifdef __cplusplus
}
#endif

#endif
