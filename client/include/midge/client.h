/*
 * libmidge: a NATS client whose calling thread does all the work.
 *
 * A client sends and receives on the thread that calls it: a request queues its bytes, hands them
 * to the kernel and waits for the reply in one system call, and takes the reply off the ring
 * itself. There is no thread behind it, so nothing happens between calls: pings, reconnects and
 * time-outs are handled inside the calls that *drive* it. These are midge_client_connect(), wait(),
 * poll(), run(), flush(), request(), request_many(), drain(), destroy(), midge_sub_next(),
 * midge_loop_wait() and midge_loop_poll(); publish drives only when its buffer is full and it may
 * wait. Call-backs run inside driving calls and nowhere else.
 *
 * Threads
 *   A loop, with all its clients, belongs to the first thread that drives it. Another thread gets
 *   MIDGE_E_THREAD from every call on it; so does the child after fork(), where the only thing to
 *   do with a client is midge_client_destroy(), which closes the child's copies without a word to
 * the server. A client made with `thread_safe` may be used by any number of threads; its call-backs
 * run in whichever of them waits.
 *
 * Bytes
 *   `struct midge_slice` is a borrowed view: bytes and their number, no NUL behind them. What a
 *   message shows lies in the receive buffer, and is valid until the call-back returns, or, for a
 *   message got from a call, until the next call that drives its loop. midge_msg_retain() keeps it
 *   longer. In a thread-safe client every message got from a call is owned by the caller instead:
 *   end it with midge_msg_release().
 *   Text arguments (`const char *`) are NUL-terminated and only read during the call.
 *
 * Signals
 *   No call raises SIGPIPE. EINTR never ends a wait; midge_client_interrupt() does, and then the
 *   call that waited returns MIDGE_AGAIN. What it had queued stays queued.
 *
 * Durations are milliseconds (`_ms`, or `timeout_ms`; 0 = do not wait, MIDGE_FOREVER) unless the
 * name says otherwise. Every function that can fail returns a status: MIDGE_OK is 0, flow is > 0
 * (normal), errors are < 0. A failed call changes nothing unless it says so.
 */
#ifndef MIDGE_CLIENT_H
#define MIDGE_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "midge/slice.h"
#include "midge/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef MIDGE_MUST_CHECK
#define MIDGE_MUST_CHECK __attribute__((warn_unused_result))
#endif

/* As a time-out: wait as long as it takes. */
#define MIDGE_FOREVER UINT32_MAX

/* For printf: printf("%.*s\n", MIDGE_SLICE_PRINT(msg->payload)). */
#define MIDGE_SLICE_PRINT(slice) (int)(slice).len, (const char *)(slice).base

struct midge_loop;    /* a ring and the clients on it */
struct midge_client;  /* a connection to a server, through reconnects */
struct midge_sub;     /* a subscription */
struct midge_headers; /* headers under construction */
struct midge_service; /* a service that `nats micro` lists */

/*
 * A received message. Lengths of all parts together are at most the server's max_payload and its
 * control line.
 *
 * Thread: constant after init; a retained one may be read and released by any thread.
 */
struct midge_msg {
    struct midge_slice subject;
    struct midge_slice reply;    /* where an answer is wanted; len 0 = nowhere */
    struct midge_slice headers;  /* as received, from NATS/1.0 to the empty line; len 0 = none */
    struct midge_slice payload;  /* may have len 0 */
    struct midge_client *client; /* borrowed */
    struct midge_sub *sub;       /* borrowed; NULL for the reply to a request */
    void *keeper;                /* private */
};

/* --- options --- */

enum midge_io {
    MIDGE_IO_AUTO = 0, /* io_uring where it works, else epoll */
    MIDGE_IO_URING,
    MIDGE_IO_EPOLL,
};

enum midge_tls_mode {
    /* If the URL says tls://, a tls_ option is set, or the server asks for it; and from the first
     * encrypted connection on always, but for Unix sockets. */
    MIDGE_TLS_AUTO = 0,
    MIDGE_TLS_REQUIRED, /* a server without it is refused */
    MIDGE_TLS_FIRST,    /* handshake before the server's INFO */
};

enum midge_event_kind {
    MIDGE_EVENT_CONNECTED = 0, /* for the first time */
    MIDGE_EVENT_DISCONNECTED,  /* the connection is lost; a new one is tried */
    MIDGE_EVENT_RECONNECTED,   /* subscriptions are restored, queued messages on their way */
    MIDGE_EVENT_LAME_DUCK,     /* the server will stop soon, and close its connections before */
    MIDGE_EVENT_SERVERS,       /* the server announced a change of its cluster */
    MIDGE_EVENT_SLOW,          /* a subscription began to drop messages; sub says which */
    MIDGE_EVENT_ERROR,         /* the server refused something: status, and its words in text */
    MIDGE_EVENT_CLOSED,        /* for good: status says why, MIDGE_OK after drain or destroy */
};

/* All borrowed until the call-back returns. */
struct midge_event {
    enum midge_event_kind kind;
    enum midge_status status;
    const char *text; /* for people; "" if there is nothing to add */
    struct midge_client *client;
    struct midge_sub *sub; /* MIDGE_EVENT_SLOW; else NULL */
};

typedef void (*midge_event_cb)(void *context, const struct midge_event *event);
typedef void (*midge_msg_cb)(void *context, const struct midge_msg *msg);

/*
 * How to connect. Fill with midge_options_init(), then change what should differ; the strings are
 * borrowed until midge_client_create() returns.
 */
struct midge_options {
    uint32_t size; /* of this struct, set by init; lets later releases add fields */

    /* Where. */
    /* One or more, separated by commas: nats://, tls://, unix:///path, or host[:port]; with
     * user:password@ or token@ if need be. NULL = $NATS_URL, or nats://127.0.0.1:4222 */
    const char *url;
    const char *name;      /* shown by the server; NULL = none */
    bool keep_order;       /* try servers in the order given, not in a random one */
    bool ignore_announced; /* stay with the URLs given; do not learn others from the server */

    /* Who. At most one kind. */
    const char *user;
    const char *password;
    const char *token;
    const char *nkey_seed;        /* SU…; wiped from memory with the client */
    const char *credentials_file; /* .creds: a JWT and its seed; read at each connect */

    /* TLS. The certificate must be for the host that the URL given here names. */
    enum midge_tls_mode tls;
    const char *tls_ca_file;   /* PEM; NULL = the system's */
    const char *tls_cert_file; /* PEM, the client's own */
    const char *tls_key_file;  /* PEM */
    const char *tls_host_name; /* to check instead of the URL's host */
    bool tls_insecure;         /* check no certificate */

    /* How. */
    struct midge_loop *loop; /* borrowed, must outlive the client; NULL = one of its own */
    bool thread_safe; /* any thread may use the client; needs a loop of its own, uses epoll */
    enum midge_io io; /* of the client's own loop */
    uint32_t spin_us; /* watch for bytes this long before sleeping, in a client's own loop;
                         0 = sleep at once */
    bool no_echo;     /* the server sends this client's messages not back to it */
    const char *inbox_prefix; /* of reply subjects, at most 256 bytes; NULL = "_INBOX" */

    /* How long. */
    uint32_t connect_timeout_ms;    /* one attempt, name look-up to first PONG; 2000 */
    bool retry_first_connect;       /* the first connect follows reconnect_max, too */
    uint32_t reconnect_max;         /* attempts per server before it is given up; 60;
                                       0 = do not reconnect, UINT32_MAX = no end */
    uint32_t reconnect_wait_ms;     /* before a server is tried again; doubles per attempt, and per
                                       connection lost within reconnect_wait_max_ms; 100 */
    uint32_t reconnect_wait_max_ms; /* but not beyond this; 5000 */
    uint32_t reconnect_jitter_ms;   /* up to this much is added at random; 100 */
    uint32_t ping_interval_ms;      /* 120000; 0 = none */
    uint32_t pings_max;             /* unanswered before the connection counts as stale; 2 */
    uint32_t drain_timeout_ms;      /* of midge_client_destroy(), which tries to send what is
                                       queued; 500 */

    /* How much. */
    uint64_t send_bytes_max;    /* queued while connected; 8 MiB */
    uint64_t offline_bytes_max; /* queued while disconnected; 8 MiB; 0 = publish fails then */
    uint32_t send_wait_ms;      /* how long publish may wait for room, outside of call-backs and
                                   event loops; 5000 */
    uint32_t sub_msgs_max;      /* waiting in one pull subscription; 65536 */
    uint64_t sub_bytes_max;     /* all parts of them; 64 MiB */
    uint64_t message_bytes_max; /* a server that sends a longer one is left; 64 MiB */

    /* Who is told. */
    void *context;
    midge_event_cb event_cb; /* NULL = nobody */
};

/** Defaults as in the comments above. Thread: any. */
#define midge_options_init(options)                                                                \
    midge_options_init_sized((options), (uint32_t)sizeof(*(options)))
MIDGE_API void midge_options_init_sized(struct midge_options *options, uint32_t size);

/* --- loop: for several clients in one thread --- */

/**
 * Make a loop. Nothing is opened before a thread drives it.
 *
 * @param loop_out  owned; end with midge_loop_destroy()
 * @return MIDGE_OK or E_MEMORY. Thread: any.
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_loop_create(enum midge_io io, uint32_t spin_us,
                                                               struct midge_loop **loop_out);

/** End a loop whose clients have all been destroyed. NULL does nothing. Thread: the loop's. */
MIDGE_API void midge_loop_destroy(struct midge_loop *loop);

/**
 * Drive every client of the loop until something was delivered, or an event told, or time is over.
 *
 * @return MIDGE_OK; MIDGE_AGAIN if time ran out first or the wait was interrupted; E_THREAD,
 * E_SYSTEM, E_MEMORY
 * Thread: the loop's; it becomes the calling thread's if it is nobody's yet.
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_loop_wait(struct midge_loop *loop,
                                                             uint32_t timeout_ms);

/** Handle what is there and hand over what is queued, without waiting. @return as wait */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_loop_poll(struct midge_loop *loop);

/**
 * A descriptor for somebody else's event loop: call midge_loop_poll() whenever it is readable.
 * Timers are in it, and so is what was queued outside of a poll. From then on no call on the loop's
 * clients waits (time-outs count as 0, where a call cannot do without waiting it returns
 * MIDGE_AGAIN), except those that say so.
 *
 * @param fd_out  borrowed, level-triggered, until the loop is destroyed; never close, read or write
 * it
 * @return MIDGE_OK, E_THREAD, E_SYSTEM, E_MEMORY. Thread: the loop's.
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_loop_fd(struct midge_loop *loop, int *fd_out);

/** "io_uring", "epoll", or "" before the loop was driven. Static. Thread: the loop's. */
MIDGE_API const char *midge_loop_io(const struct midge_loop *loop);

/* --- client --- */

/**
 * Make a client. It connects with midge_client_connect().
 *
 * @param options     borrowed; NULL = defaults
 * @param client_out  owned; end with midge_client_destroy()
 * @param why         at least 160 bytes for the reason of a failure in words, or NULL
 * @return MIDGE_OK; E_CONFIG for options that cannot be; E_MEMORY; E_SYSTEM. Thread: any; for a
 * client of a given loop, the loop's.
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_client_create(const struct midge_options *options, struct midge_client **client_out,
                    char *why);

/**
 * Connect, and wait until the server has accepted the client.
 *
 * Host names are looked up by a thread that lives for the look-up only, at most one per client and
 * no longer waited for than connect_timeout_ms; numeric addresses, localhost and Unix sockets need
 * none.
 *
 * @param timeout_ms  for all attempts; 0 begins to connect and returns MIDGE_AGAIN: an event tells
 *                    the end
 * @return MIDGE_OK; MIDGE_AGAIN; E_NO_SERVERS when none could be reached; E_AUTH; E_TLS; E_CONFIG:
 *         a seed or file of the options cannot be used; E_TIMEOUT; E_DISCONNECTED: the connection
 *         was lost, and there is to be no other; E_CLOSED; E_THREAD; E_MEMORY; E_SYSTEM.
 *         midge_client_error() says more. It may be called again, but after E_CLOSED,
 *         E_DISCONNECTED and E_THREAD.
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_connect(struct midge_client *client,
                                                                  uint32_t timeout_ms);

/**
 * End a client, its subscriptions and its requests (whose call-backs get E_CLOSED). What is queued
 * is handed to the kernel first, for which drain_timeout_ms is given. Not inside a call-back of its
 * loop. NULL does nothing. Thread: the loop's, with no other thread using the client; also the
 * child's after fork.
 */
MIDGE_API void midge_client_destroy(struct midge_client *client);

/** What went wrong last, in words, with the server it concerns; "" if nothing did. Borrowed until
 * the next call on the client. In a thread-safe client others may write it meanwhile: there it is
 * for event call-backs only, and midge_client_error_copy() for the rest. */
MIDGE_API const char *midge_client_error(const struct midge_client *client);

/** … copied to out, cut to `cap` bytes with their NUL; 256 hold all of it. */
MIDGE_API void midge_client_error_copy(const struct midge_client *client, char *out, size_t cap);

/** A status in words, such as "no responders are available". Static. Thread: any. */
MIDGE_API const char *midge_client_status_text(enum midge_status status);

/** As midge_loop_wait(), for the client's loop. @return as wait; E_CLOSED when the client has
 * closed and told so */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_wait(struct midge_client *client,
                                                               uint32_t timeout_ms);

/** As midge_loop_poll(). @return as wait of a client */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_poll(struct midge_client *client);

/** As midge_loop_fd(). @return the same; E_CONFIG: not for thread-safe clients */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_fd(struct midge_client *client,
                                                             int *fd_out);

/** Drive until the client closes, or is interrupted. @return MIDGE_OK after a drain, MIDGE_AGAIN if
 * interrupted, else why it closed */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_run(struct midge_client *client);

/** End the wait that drives the client, or keep its next one from waiting. Thread: any; also inside
 * a signal handler. */
MIDGE_API void midge_client_interrupt(struct midge_client *client);

/* What a client is doing. */
enum midge_client_state {
    MIDGE_CLIENT_IDLE = 0,   /* not connected yet, or the first connect failed */
    MIDGE_CLIENT_CONNECTING, /* for the first time */
    MIDGE_CLIENT_CONNECTED,
    MIDGE_CLIENT_RECONNECTING, /* between connections */
    MIDGE_CLIENT_DRAINING,
    MIDGE_CLIENT_CLOSED, /* for good */
};

/** What it is doing now. Thread: the loop's. */
MIDGE_API enum midge_client_state midge_client_state(const struct midge_client *client);

/* What the server said about itself. Borrowed until the next driving call; "" and 0 before the
 * first connection. */
struct midge_server_info {
    const char *url; /* connected, without secrets */
    const char *server_id;
    const char *server_name;
    const char *version; /* nats-server's, or the level that midge-server is compatible with */
    const char *midge_version; /* of a midge-server; "" for another server */
    const char *cluster;
    const char *client_ip; /* this client as the server sees it */
    uint64_t client_id;
    uint32_t max_payload; /* bytes of headers and payload */
    bool headers;
    bool tls; /* the connection is encrypted */
    bool jetstream;
};

/** What the server said about itself. In a thread-safe client the texts may go at any time but
 * inside an event call-back. Thread: the loop's. */
MIDGE_API void midge_client_server(const struct midge_client *client,
                                   struct midge_server_info *info_out);

/* Since the client was made. */
struct midge_client_stats {
    uint64_t in_msgs;
    uint64_t in_bytes; /* headers and payload */
    uint64_t out_msgs; /* queued by publish and request */
    uint64_t out_bytes;
    uint64_t connects;         /* connections that a server accepted */
    uint64_t dropped_msgs;     /* for full subscriptions */
    uint64_t stray_msgs;       /* for subscriptions and requests that had ended */
    uint64_t lost_msgs;        /* queued, but cut when a connection was lost, or still there when
                                  the client closed */
    uint64_t unconfirmed_msgs; /* given to the kernel on a connection that was lost, with no PONG
                                  since: some may have arrived, none is sent again */
    uint64_t queued_bytes;     /* waiting now */
};

/** What happened so far. Thread: the loop's. */
MIDGE_API void midge_client_read_stats(const struct midge_client *client,
                                       struct midge_client_stats *stats_out);

/* --- publish --- */

/*
 * A message to send. Zero it, then set what is needed. All borrowed during the call.
 *
 * subject and reply have no space, no control character, no empty token and no wildcard token. They
 * have at least one byte, and at most 4,000 together: servers take control lines of 4,096.
 */
struct midge_outgoing {
    const char *subject;
    const char *reply;                   /* NULL = no answer is wanted */
    const struct midge_headers *headers; /* NULL = none */
    const void *payload;
    size_t payload_len;
};

/**
 * Queue a message. It leaves with the next driving call or midge_client_submit(), or at once when
 * 64 KiB are queued; in a thread-safe client at once. In an event loop the descriptor becomes
 * readable.
 *
 * @return MIDGE_OK; MIDGE_FULL: too much is queued, and it did not get less within send_wait_ms;
 *         E_SUBJECT; E_PAYLOAD: over the server's max_payload; E_HEADERS: the server takes none;
 *         E_DISCONNECTED: no connection, and offline_bytes_max is reached; E_CLOSED; E_THREAD;
 *         E_MEMORY
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_publish(struct midge_client *client,
                                                                  const char *subject,
                                                                  const void *payload,
                                                                  size_t payload_len);

/** As midge_client_publish(), with reply and headers. */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_client_publish_msg(struct midge_client *client, const struct midge_outgoing *outgoing);

/** Answer a request. @return as publish; E_SUBJECT if the message wants no answer */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_msg_respond(const struct midge_msg *msg, const void *payload, size_t payload_len);

/** As midge_msg_respond(), with headers. @param headers  borrowed */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_msg_respond_headers(const struct midge_msg *msg, const struct midge_headers *headers,
                          const void *payload, size_t payload_len);

/** Give what is queued to the kernel, without waiting. @return MIDGE_OK; MIDGE_AGAIN if some is
 * left; E_DISCONNECTED; E_CLOSED; E_THREAD. Cost: one system call. */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_submit(struct midge_client *client);

/**
 * Send what is queued and wait until the server has worked on all of it (PING, PONG).
 *
 * @param rtt_ns_out  how long the answer took, or NULL
 * @return MIDGE_OK, E_TIMEOUT, E_DISCONNECTED (the connection was lost meanwhile), E_CLOSED,
 * E_THREAD; inside a call-back and in event loops MIDGE_AGAIN, after having queued a PING
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_client_flush(struct midge_client *client, uint32_t timeout_ms, uint64_t *rtt_ns_out);

/* --- subscribe --- */

/* What a subscription may hold, beside the defaults of the client. Zero it first. */
struct midge_sub_options {
    const char *queue;  /* one member of the group gets each message; at most 4,000 bytes with the
                           subject; NULL = none */
    uint32_t msgs_max;  /* 0 = the client's sub_msgs_max */
    uint64_t bytes_max; /* 0 = the client's sub_bytes_max */
};

/**
 * Subscribe. The server knows once what is queued has reached it; midge_client_flush() waits for
 * that. The subscription lives through reconnects.
 *
 * @param options     borrowed; NULL = none
 * @param sub_out     owned; end with midge_sub_destroy(); it also ends with its client
 * @param message_cb  called with each message; NULL = messages wait for midge_sub_next()
 * @return MIDGE_OK; E_SUBJECT for a subject or queue that cannot be; E_CLOSED; E_THREAD; E_MEMORY
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_client_subscribe(struct midge_client *client, const char *subject,
                       const struct midge_sub_options *options, struct midge_sub **sub_out,
                       void *context, midge_msg_cb message_cb);

/**
 * Take the next message of a subscription without call-back.
 *
 * @param msg_out  borrowed until the next driving call; owned in a thread-safe client
 * @return MIDGE_OK; E_TIMEOUT; E_SUB_ENDED: unsubscribed, its maximum reached, or drained, and
 *         nothing is left; E_CLOSED; E_THREAD; E_CONFIG: it has a call-back; in call-backs and
 * event loops MIDGE_AGAIN instead of waiting
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_sub_next(struct midge_sub *sub, uint32_t timeout_ms, const struct midge_msg **msg_out);

/* Messages after which a subscription can end by itself: what a server reads has nine digits. */
#define MIDGE_SUB_MAX 999999999u

/** End the subscription after `max` messages, counted from its start; 0 = now. What waits can still
 * be taken. @return MIDGE_OK, E_CONFIG over MIDGE_SUB_MAX, E_SUB_ENDED, E_CLOSED, E_THREAD,
 * E_MEMORY */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_sub_unsubscribe(struct midge_sub *sub,
                                                                   uint64_t max);

/** Unsubscribe, but deliver what the server had sent already; then it has ended. Does not wait.
 * @return MIDGE_OK, E_SUB_ENDED, E_CLOSED, E_THREAD, E_MEMORY */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_sub_drain(struct midge_sub *sub);

/** True from when no message will come any more, though some may wait. */
MIDGE_API bool midge_sub_has_ended(const struct midge_sub *sub);

struct midge_sub_stats {
    uint64_t delivered_msgs; /* to call-back or next */
    uint64_t dropped_msgs;   /* because too much was waiting */
    uint32_t waiting_msgs;
    uint32_t waiting_msgs_peak;
    uint64_t waiting_bytes; /* all parts of the messages */
};

/** What happened so far. Thread: the loop's. */
MIDGE_API void midge_sub_read_stats(const struct midge_sub *sub, struct midge_sub_stats *stats_out);

/** Borrowed while the subscription lives. */
MIDGE_API const char *midge_sub_subject(const struct midge_sub *sub);

/** Unsubscribe, and forget what waits. Allowed inside call-backs: in its own the message stays
 * valid until that returns, and a midge_sub_next() that waits for it returns E_SUB_ENDED. In a
 * thread-safe client its call-back may be under way in another thread when this returns. NULL does
 * nothing. */
MIDGE_API void midge_sub_destroy(struct midge_sub *sub);

/** Unsubscribe everything, deliver what is on its way, send what is queued, then close. Until all
 * is delivered, publishing and requests go on (messages may be answered), but no subscribing.
 * @param timeout_ms  0 begins and returns MIDGE_AGAIN: MIDGE_EVENT_CLOSED tells the end
 * @return MIDGE_OK; MIDGE_AGAIN; E_TIMEOUT (closed all the same); E_DISCONNECTED; E_CLOSED;
 * E_THREAD */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_drain(struct midge_client *client,
                                                                uint32_t timeout_ms);

/* --- request --- */

/**
 * Send a request and wait for one reply.
 *
 * @param reply_out  borrowed until the next driving call; owned in a thread-safe client
 * @return MIDGE_OK; E_NO_RESPONDERS: nobody serves the subject; E_TIMEOUT; E_DISCONNECTED: the
 *         connection was lost after the request left, or there was none in time; and as publish.
 *         MIDGE_AGAIN inside call-backs and event loops, with nothing sent: use the asynchronous
 * one.
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_client_request(struct midge_client *client, const char *subject, const void *payload,
                     size_t payload_len, uint32_t timeout_ms, const struct midge_msg **reply_out);

/** As midge_client_request(), with headers. outgoing->reply must be NULL. */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_client_request_msg(struct midge_client *client, const struct midge_outgoing *outgoing,
                         uint32_t timeout_ms, const struct midge_msg **reply_out);

/**
 * Called with each reply (MIDGE_OK), and, unless one reply was all that was wanted, once more when
 * the request is over: MIDGE_OK and msg NULL after the last of many, else the error and msg NULL.
 */
typedef void (*midge_reply_cb)(void *context, enum midge_status status,
                               const struct midge_msg *msg);

/* When a request is over, whichever comes first. Zero it, then set what is needed. */
struct midge_request_options {
    uint32_t timeout_ms;  /* in all; 0 = 5000. With at least one reply of many this is no error */
    uint32_t replies_max; /* 0 = one; UINT32_MAX = no limit */
    uint32_t silence_ms;  /* since the last reply; 0 = does not matter */
    bool until_empty;     /* of many: one without headers and payload is the end, not delivered */
};

/* An asynchronous request, to cancel it. Never 0. */
typedef uint64_t midge_request_id;

/**
 * Send a request whose replies come to a call-back. At most 262,143 are open at a time
 * (MIDGE_FULL).
 *
 * @param options  borrowed; NULL = one reply within 5 s
 * @param id_out   or NULL
 * @return as publish; the call-back is called only after MIDGE_OK, and not before this returns; in
 * a thread-safe client another thread may be in it by then
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_client_request_async(struct midge_client *client, const struct midge_outgoing *outgoing,
                           const struct midge_request_options *options, midge_request_id *id_out,
                           void *context, midge_reply_cb reply_cb);

/** Forget a request; its call-back is not called any more, though in a thread-safe client it may be
 * under way in another thread. One that is over already is no error. */
MIDGE_API void midge_client_request_cancel(struct midge_client *client, midge_request_id id);

/**
 * Send a request and wait until it is over; each reply goes to the call-back.
 *
 * @return MIDGE_OK after at least one reply or the empty one that ends them; else as
 * midge_client_request()
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_client_request_many(struct midge_client *client, const struct midge_outgoing *outgoing,
                          const struct midge_request_options *options, void *context,
                          midge_msg_cb reply_cb);

/** A new unique subject for replies, NUL-terminated. @param cap  bytes of room, at least 64 more
 * than the inbox prefix has. @return MIDGE_OK or MIDGE_FULL */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_client_new_inbox(struct midge_client *client,
                                                                    char *out, size_t cap);

/* --- messages and headers --- */

/** Keep a message: one copy if it is borrowed, one more reference if it is retained already.
 * @return owned, ended by midge_msg_release(); NULL without memory. Thread: any. */
MIDGE_MUST_CHECK MIDGE_API const struct midge_msg *midge_msg_retain(const struct midge_msg *msg);

/** NULL does nothing. Thread: any. */
MIDGE_API void midge_msg_release(const struct midge_msg *msg);

/** The first value of a header; names are compared with regard to case, as in other NATS clients.
 * @return false if there is none. Thread: any. */
MIDGE_API bool midge_msg_header(const struct midge_msg *msg, const char *name,
                                struct midge_slice *value_out);

/** Walk through all headers in order: *position_in_out = 0, then call until it returns false. The
 * values of one name are those whose name_out equals it. Thread: any. */
MIDGE_API bool midge_msg_next_header(const struct midge_msg *msg, uint32_t *position_in_out,
                                     struct midge_slice *name_out, struct midge_slice *value_out);

/** The status of a message from a server, such as 503; 0 if it has none.
 * @param description_out  what stands behind it, or NULL. Thread: any. */
MIDGE_API uint32_t midge_msg_status(const struct midge_msg *msg,
                                    struct midge_slice *description_out);

/** Make an empty list of headers. @return owned, NULL without memory. Thread: any; the list belongs
 * to one thread at a time. */
MIDGE_MUST_CHECK MIDGE_API struct midge_headers *midge_headers_create(void);

/** Copy the headers of a message, without its status. @return owned, NULL without memory */
MIDGE_MUST_CHECK MIDGE_API struct midge_headers *midge_headers_copy(const struct midge_msg *msg);

/** NULL does nothing. */
MIDGE_API void midge_headers_destroy(struct midge_headers *headers);

/**
 * Put one value behind all others.
 *
 * @param name   1 to 1,024 bytes from `!` to `~`, no colon
 * @param value  at most 65,535 bytes, no control characters but tab; blanks at its ends are lost
 * @return MIDGE_OK, E_HEADERS, E_MEMORY
 */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_headers_add(struct midge_headers *headers,
                                                               const char *name, const char *value);

/** Make this the only value of the name, in the place of the first one. @return as add */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_headers_set(struct midge_headers *headers,
                                                               const char *name, const char *value);

/** Remove all values of a name. @return how many there were */
MIDGE_API uint32_t midge_headers_delete(struct midge_headers *headers, const char *name);

/** The first value of a name, borrowed until the list is changed; NULL if there is none. */
MIDGE_API const char *midge_headers_get(const struct midge_headers *headers, const char *name);

/** Pairs in the list. */
MIDGE_API uint32_t midge_headers_count(const struct midge_headers *headers);

/** One pair, borrowed until the list is changed. @param index  below the count */
MIDGE_API void midge_headers_at(const struct midge_headers *headers, uint32_t index,
                                const char **name_out, const char **value_out);

/* --- services --- */

/*
 * A service answers requests on its endpoints in a queue group, and $SRV.PING, $SRV.INFO and
 * $SRV.STATS about itself, so that `nats micro ls` lists it. Source: NATS ADR-32, without its
 * groups, reset and statistics of the service's own.
 *
 * Zero the options, then set what is needed; all is borrowed during the call. Of several metadata
 * values of one name the first one is shown.
 */
struct midge_service_options {
    const char *name;                     /* letters, digits, `-` and `_`; at most 3,900 */
    const char *version;                  /* as semver.org says, such as 1.0.0 */
    const char *description;              /* NULL = none */
    const char *queue;                    /* group of all endpoints; NULL = "q", "" = none: each
                                             instance of the service answers */
    const struct midge_headers *metadata; /* names and values; NULL = none */
};

struct midge_endpoint_options {
    const char *name;    /* letters, digits, `-` and `_` */
    const char *subject; /* may have wildcards; NULL = the name */
    const char *queue;   /* NULL = the service's, "" = none */
    const struct midge_headers *metadata;
};

/** One request to an endpoint. Answer with midge_msg_respond() or midge_service_error(), now or,
 * with a retained message, later. */
typedef void (*midge_request_cb)(void *context, const struct midge_msg *request);

/** Start a service. @param service_out  owned; end with midge_service_destroy(); it also ends with
 * its client
 * @return MIDGE_OK; E_CONFIG: name, version or queue; E_CLOSED; E_THREAD; E_MEMORY */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_service_create(struct midge_client *client, const struct midge_service_options *options,
                     struct midge_service **service_out);

/** Add an endpoint; there is no way to take one out.
 * @return MIDGE_OK; E_CONFIG: name; E_SUBJECT; E_CLOSED; E_THREAD; E_MEMORY */
MIDGE_MUST_CHECK MIDGE_API enum midge_status
midge_service_add(struct midge_service *service, const struct midge_endpoint_options *options,
                  void *context, midge_request_cb request_cb);

/** Answer with an error: headers Nats-Service-Error and Nats-Service-Error-Code. It counts in the
 * statistics of the endpoint. @param request  one that an endpoint of the service was called with.
 * @param code  not 0; such as those of HTTP. @param text  not empty, as the value of a header.
 * @return as publish; E_HEADERS: code or text */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_service_error(struct midge_service *service,
                                                                 const struct midge_msg *request,
                                                                 uint32_t code, const char *text);

/** Its unique id; borrowed. */
MIDGE_API const char *midge_service_id(const struct midge_service *service);

/** Take no more requests, but those that the server had sent already. Does not wait; when
 * midge_client_flush() returns after it, all of them have been delivered; the last answers leave
 * with the next driving call.
 * @return MIDGE_OK, E_THREAD, E_MEMORY */
MIDGE_MUST_CHECK MIDGE_API enum midge_status midge_service_drain(struct midge_service *service);

/** End it and its endpoints; requests on their way get no answer. Allowed inside call-backs of its
 * endpoints. NULL does nothing. Thread: the loop's, with no other thread inside a call on it. */
MIDGE_API void midge_service_destroy(struct midge_service *service);

#ifdef __cplusplus
}
#endif

#endif
