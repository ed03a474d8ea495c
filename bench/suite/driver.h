/*
 * What a scenario asks of a client library: the one interface that `midge` (libmidge), `natsc`
 * (nats.c) and `raw` (plain sockets) implement. Each does what a program would write that uses the
 * library well, and nothing else, so that what a run costs beside the server is the library's.
 *
 * A *driver* is the connections of one thread. Call-backs run inside midge_driver wait and request
 * calls, or, for nats.c, in threads of the library, where two connections may call back at once.
 *
 * Failures are said on standard error with the driver's name before a call returns one.
 *
 * Thread: the one that created the driver, except where a library calls back in its own.
 */
#ifndef MIDGE_DRIVER_H
#define MIDGE_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

struct midge_driver;      /* defined by each kind */
struct midge_driver_conn; /* likewise */

struct midge_driver_options {
    const char *url;     /* nats://HOST:PORT or unix:///PATH; borrow, as long as the driver lives */
    uint32_t timeout_ms; /* of connecting, fences and requests */
    uint32_t receive_buffer_len; /* SO_RCVBUF, 0 = what the kernel chooses; raw only */
    bool is_spinning; /* never sleep in a wait; where a library has threads of its own, those do */
    bool may_gather;  /* what counts is throughput, not when each message leaves; natsc only */
    bool is_relay;    /* raw only: the far end speaks nothing: no INFO, CONNECT or SUB */
    bool has_headers; /* publish and request with one header, "Bench: 0123456789abcdef" */
};

/* A message that has come. Views are valid until the call-back returns. */
struct midge_driver_msg {
    struct midge_driver_conn *conn;
    struct midge_slice reply;   /* len 0 = none */
    struct midge_slice payload; /* without headers */
};

typedef void (*midge_driver_msg_cb)(void *context, const struct midge_driver_msg *msg);

/**
 * A request begun with begin_request_cb is over.
 *
 * @param status   MIDGE_OK; E_NO_RESPONDERS; E_TIMEOUT; others: the request is lost
 * @param payload  of the reply; empty unless MIDGE_OK
 */
typedef void (*midge_driver_reply_cb)(void *context, enum midge_status status,
                                      struct midge_slice payload);

struct midge_driver_kind {
    const char *name; /* as in --driver */
    bool has_threads; /* call-backs come in threads of the library, and may come in two at once */

    /** "libmidge 0.1.0" and the like. Static. */
    const char *(*version_cb)(void);

    /** Make one without connections. @param driver_out  own; end with destroy_cb */
    enum midge_status (*create_cb)(const struct midge_driver_options *options,
                                   struct midge_driver **driver_out);

    /** Close what is open, and free. NULL does nothing. */
    void (*destroy_cb)(struct midge_driver *driver);

    /** Connect, with the first PONG. @param conn_out  borrow, until the driver is destroyed */
    enum midge_status (*connect_cb)(struct midge_driver *driver,
                                    struct midge_driver_conn **conn_out);

    /** Subscribe; `queue` NULL = none. The server knows after fence_cb. At most one call-back for
     * each subject of a connection. */
    enum midge_status (*subscribe_cb)(struct midge_driver_conn *conn, const char *subject,
                                      const char *queue, void *context, midge_driver_msg_cb msg_cb);

    /** Queue a message, and hand it to the kernel at the latest in the next wait, flush or fence
     * (natsc with may_gather: some time later, in a thread of the library).
     * @param reply  len 0 = none
     * @return MIDGE_OK; MIDGE_FULL: too much is queued, nothing was taken; anything else: failed */
    enum midge_status (*publish_cb)(struct midge_driver_conn *conn, struct midge_slice subject,
                                    struct midge_slice reply, struct midge_slice payload);

    /** Hand what is queued on all connections to the kernel as far as it takes it. */
    enum midge_status (*flush_cb)(struct midge_driver *driver);

    /** A blocking request, as the library does it.
     * @param reply_out  payload of the reply; borrow, until the next call */
    enum midge_status (*request_cb)(struct midge_driver_conn *conn, const char *subject,
                                    struct midge_slice payload, struct midge_slice *reply_out);

    /** Get ready for asynchronous requests, all of whose ends come to one call-back.
     * @param in_flight_max  of begun and not ended requests */
    enum midge_status (*prepare_requests_cb)(struct midge_driver_conn *conn, uint32_t in_flight_max,
                                             void *context, midge_driver_reply_cb reply_cb);

    /** Queue a request with a reply subject of its own, as publish_cb. Also inside call-backs. */
    enum midge_status (*begin_request_cb)(struct midge_driver_conn *conn, const char *subject,
                                          struct midge_slice payload);

    /** Flush, then deliver what comes, until something was delivered or CLOCK_MONOTONIC shows
     * `until_ns` (UINT64_MAX: no end; 0: only what is there).
     * What came since the wait before, in a fence or a thread of the library, counts as well.
     * Where has_threads, call-backs need no wait, and one may return late: up to some hundred
     * call-backs or 20 ms after a delivery, but not after `until_ns`. A time-out and a failure are
     * told at once.
     * @return MIDGE_OK: something was delivered; MIDGE_AGAIN: time is over; E_EOF: a connection was
     *         closed by the server, told once for each, and always when none is left; anything
     *         else: failed, E_PEER_ERR for what the server refused */
    enum midge_status (*wait_cb)(struct midge_driver *driver, uint64_t until_ns);

    /** PING, and wait for the PONG; delivers meanwhile. With a relay it does nothing but flush. */
    enum midge_status (*fence_cb)(struct midge_driver_conn *conn);

    /** Messages that came for nobody, all connections together: a reply to a request that had
     * ended, such as a doubled one, which no call-back is told of. nats.c drops a second reply to a
     * blocking request by itself: natsc cannot count it. */
    uint64_t (*strays_cb)(const struct midge_driver *driver);
};

extern const struct midge_driver_kind midge_driver_raw;
extern const struct midge_driver_kind midge_driver_midge;
#ifdef MIDGE_HAVE_LIBNATS
extern const struct midge_driver_kind midge_driver_natsc;
#endif

/** The kind of that name, or NULL. */
const struct midge_driver_kind *midge_driver_find(const char *name);

/** Names of all that are built in, for messages: "midge, natsc, raw". Static. */
const char *midge_driver_names(void);

#endif
