/*
 * What the files of the client library share.
 *
 *   loop.c     thread, turns, timers, the descriptor for other event loops
 *   client.c   making and ending a client, its state, what it tells
 *   url.c      URLs and the list of servers
 *   resolve.c  host names
 *   link.c     one socket: connecting, input, its end
 *   session.c  INFO, CONNECT, reconnecting, what is restored
 *   output.c   bytes on their way out
 *   publish.c, sub.c, request.c, msg.c, headers.c, drain.c, service.c   what users call
 *
 * A client has at most one link that counts (client->link). A link that is lost stays in its slot
 * of the loop until the ring has sent the last event of each of its operations; then it is freed.
 *
 * A turn of the loop: hand over what is queued, wait, handle events, run timers. A call that
 * returns a borrowed message stops in the middle of a turn (loop->is_turn_open), and the next
 * driving call goes on where it stopped, so that the message need not be copied.
 *
 * Thread: all of it belongs to the loop's thread; in a thread-safe client, to whoever holds
 * loop->lock. The lock is given up while the reader sleeps, around a send, and around call-backs.
 */
#ifndef MIDGE_CLIENT_INTERNAL_H
#define MIDGE_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "midge/client.h"
#include "midge/compiler.h"
#include "midge/greeting.h"
#include "midge/limits.h"
#include "midge/nuid.h"
#include "midge/ring.h"
#include "midge/server_parser.h"
#include "midge/tls.h"

#define NS_PER_MS 1000000ull

/* Queued bytes at which publish hands them to the kernel by itself. Half of what a socket takes at
 * once by default; more would only sit in our memory instead of the kernel's. */
#define MIDGE_CLIENT_SUBMIT_BYTES 65536u

/* Buffers that grew beyond this are given back once they are empty. */
#define MIDGE_CLIENT_KEEP_BYTES (256u * 1024)

/* One INFO line. nats-server sends one URL for each server of its cluster, some 30 bytes each. */
#define MIDGE_CLIENT_LINE_MAX (1024u * 1024)

/* Servers that one client knows; what is announced beyond them is ignored. */
#define MIDGE_CLIENT_SERVERS_MAX 1024u

/* Open requests of one client: what 18 bits of an inbox token can tell apart. */
#define MIDGE_CLIENT_REQUESTS_MAX 262143u

/* Bytes of a subject with its reply or queue name: beyond it the control line would be longer than
 * servers take, which costs the connection. Source: nats-server v2.15.2, server/const.go:
 * MAX_CONTROL_LINE_SIZE 4096, of which sizes, sid and blanks need less than 96. */
#define MIDGE_CLIENT_SUBJECT_MAX 4000u

/* The sid of the inbox subscription that all requests share; user subscriptions follow. */
#define MIDGE_CLIENT_INBOX_SID 1u

/* Attempt, ping and drain. */
#define MIDGE_TIMERS_OF_A_CLIENT 3u

/* Characters of the token behind the inbox prefix of a request. */
#define MIDGE_CLIENT_TOKEN_LEN 8u

/* --- timers --- */

struct midge_loop;

/* Thread: the loop's. Intrusive; in a binary heap of the loop. */
struct midge_client_timer {
    uint64_t at_ns;
    uint32_t position; /* in the heap, from 1; 0 = not set */
    void (*fire)(struct midge_client_timer *timer);
};

/* Set or move. @return MIDGE_OK or E_MEMORY (never when moving) */
MIDGE_MUST_CHECK enum midge_status
midge_loop_set_timer(struct midge_loop *loop, struct midge_client_timer *timer, uint64_t at_ns);
/* … one of a client's own, which cannot fail: room was made with the client. */
void midge_loop_set_own_timer(struct midge_loop *loop, struct midge_client_timer *timer,
                              uint64_t at_ns);
/* Take out, if set. */
void midge_loop_clear_timer(struct midge_loop *loop, struct midge_client_timer *timer);
/* Make room for `count` more timers, beside those of the clients, so that setting them cannot fail.
 */
MIDGE_MUST_CHECK enum midge_status midge_loop_reserve_timers(struct midge_loop *loop,
                                                             uint32_t count);

/* --- servers --- */

/* One server of the list. All text owned. */
struct midge_server {
    char *host; /* name or address; path of a Unix socket */
    char *user; /* of the URL; NULL = none */
    char *password;
    char *token;
    char *tls_name; /* the host that its certificate must be for */
    uint16_t port;
    bool is_unix;
    bool is_tls; /* tls:// */
    bool is_announced;
    bool is_named;          /* by the last INFO */
    uint32_t attempts;      /* since it was last connected */
    uint32_t auth_errors;   /* in a row */
    uint32_t short_lives;   /* connections in a row that were lost soon */
    uint64_t not_before_ns; /* when it may be tried again */
};

struct midge_server_list {
    struct midge_server **servers; /* in the order in which they are tried; owned */
    uint32_t count;
    uint32_t cap;
};

/* Add the servers of a comma-separated list. @return MIDGE_OK; E_CONFIG with the reason in why (160
 * bytes); E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_server_list_add(struct midge_server_list *list,
                                                         const char *urls, char *why);
/* Add or find an announced host:port; what it inherits comes from `from`. @return true if it is new
 */
bool midge_server_list_announce(struct midge_server_list *list, const char *address,
                                const struct midge_server *from);
/* Remove the one at the index and free it. */
void midge_server_list_remove(struct midge_server_list *list, uint32_t index);
/* Move the one at the index behind all others. */
void midge_server_list_to_end(struct midge_server_list *list, uint32_t index);
void midge_server_list_deinit(struct midge_server_list *list);
/* "nats://host:port" without secrets. @return out */
const char *midge_server_url(const struct midge_server *server, char *out, size_t cap);

/* --- host names --- */

#define MIDGE_ADDRESSES_MAX 16u

struct midge_addresses {
    struct sockaddr_storage list[MIDGE_ADDRESSES_MAX];
    socklen_t lens[MIDGE_ADDRESSES_MAX];
    uint32_t count;
};

struct midge_lookup; /* counted: one reference is the client's, one the thread's */

/* Numeric addresses, localhost and Unix sockets. @return false if the host must be looked up */
bool midge_resolve_now(const struct midge_server *server, struct midge_addresses *out);
/* Begin a look-up; the ring's doorbell rings when it is done. @return NULL without memory or thread
 */
struct midge_lookup *midge_lookup_begin(const struct midge_server *server, struct midge_ring *ring);
/* True if it asks for the server's host and port. */
bool midge_lookup_is_for(const struct midge_lookup *lookup, const struct midge_server *server);
/* @return false while it is under way; else out has what was found, and why if that is nothing */
bool midge_lookup_is_done(struct midge_lookup *lookup, struct midge_addresses *out,
                          const char **why);
/* Let go of it; what comes later is thrown away. */
void midge_lookup_abandon(struct midge_lookup *lookup);

/* --- output --- */

/* Whole frames, in order. */
struct midge_out {
    uint8_t *base;
    uint64_t off; /* bytes handed over already */
    uint64_t len;
    uint64_t cap;
    bool is_secret; /* holds a CONNECT, and no message: its memory is wiped when it leaves */
};

/* --- link --- */

enum midge_link_state {
    MIDGE_LINK_CONNECTING = 0, /* connect(2) is under way */
    MIDGE_LINK_TLS_FIRST,      /* handshake before INFO */
    MIDGE_LINK_INFO,           /* waiting for INFO */
    MIDGE_LINK_TLS,            /* handshake after INFO */
    MIDGE_LINK_PONG,           /* CONNECT and PING are sent */
    MIDGE_LINK_READY,
    MIDGE_LINK_DEAD, /* operations are being cancelled; then freed */
};

/* One socket. Thread: the loop's. */
struct midge_link {
    struct midge_client *client;
    struct midge_handle handle;
    int fd;
    enum midge_link_state state;
    bool is_receiving;   /* recv is armed */
    bool is_polling;     /* poll_out is armed */
    bool is_sending;     /* a ring send is under way, or another thread is in send(2) */
    bool is_blocked;     /* the socket took no more; poll_out tells when it does */
    bool is_recv_wanted; /* in the loop's list of links to be armed */
    bool is_parsing;     /* its bytes are being worked on */
    struct midge_link *next_armed;
    struct midge_link *next_sending;
    struct midge_link *next_dead;

    struct midge_tls *tls;    /* NULL = plain */
    struct midge_out cipher;  /* encrypted bytes on their way; lent as `sending` is */
    uint64_t submitted_len;   /* bytes of the ring send under way */
    struct midge_slice input; /* received, not parsed yet; lent by the ring, or by the session */
    struct midge_server_parser parser;
    uint8_t *line;
    uint32_t line_cap;

    /* A message that comes in pieces: subject, reply and body in one buffer. */
    uint8_t *body;
    uint64_t body_cap;
    uint64_t body_len;
    struct midge_server_op cut; /* what was announced; views point into `body` */
};

/* A PING on its way. */
struct midge_ping {
    uint64_t out_msgs; /* queued before it */
    uint64_t sent_at_ns;
};

/* --- client --- */

struct midge_request;

/* A thread that waits in midge_loop_drive(). */
struct midge_waiter {
    bool (*is_done)(void *context);
    void *context;
    /* Thread-safe: of those that sleep while another one reads. */
    struct midge_waiter *next;
    bool is_asleep;
    pthread_cond_t cond;
};

struct midge_client {
    struct midge_loop *loop;
    struct midge_client *next; /* of the loop */
    bool owns_loop;
    bool is_dirty; /* in the loop's list of clients with output */
    struct midge_client *next_dirty;

    struct midge_options options; /* its strings are owned */
    char *strings[12];            /* the owned ones */

    enum midge_client_state state;
    enum midge_status close_status; /* why it closed */
    bool was_connected;
    bool was_encrypted;   /* from then on nothing is sent in plain text */
    uint64_t ready_at_ns; /* since when it is connected */

    struct midge_server_list servers;
    struct midge_server *server; /* of the link or attempt; NULL = none */
    struct midge_addresses addresses;
    uint32_t address_index;
    struct midge_tls_context *tls_context; /* made with the first session; NULL = none yet */
    struct midge_lookup *lookup;           /* under way, perhaps begun by an earlier attempt */
    bool is_looking_up;                    /* this attempt waits for it */
    struct midge_link *link;               /* NULL between connections */
    struct midge_server_facts facts;
    uint32_t round_left;              /* servers that the first connect has yet to try */
    bool is_attempting;               /* attempt_timer ends an attempt; else it begins one */
    enum midge_status connect_status; /* why the first connect failed */

    struct midge_out sending; /* goes first; lent to the kernel while link->is_sending */
    struct midge_out pending; /* what users queue, behind what a new connection must know */
    bool is_reset_due;        /* the link is lost, and `sending` lent to the kernel */
    uint64_t confirmed_msgs;  /* of stats.out_msgs, by PONGs or because they were given up */

    struct midge_ping *pings; /* FIFO, a ring of ping_cap */
    uint32_t ping_cap;
    uint32_t ping_head;
    uint32_t ping_count;
    uint64_t ping_sent;     /* on this link */
    uint64_t ping_answered; /* on this link */
    uint64_t last_rtt_ns;
    uint32_t pings_unanswered; /* by the timer */
    uint32_t link_number;      /* raised with every accepted connection */

    struct midge_client_timer attempt_timer; /* end of an attempt, or of the wait before one */
    struct midge_client_timer ping_timer;
    struct midge_client_timer drain_timer;

    /* Subscriptions by sid: open addressing, a power of two. */
    struct midge_sub **subs;
    uint32_t sub_cap;
    uint32_t sub_count;
    uint64_t next_sid;
    struct midge_sub *owned_subs; /* all that users have not destroyed */

    /* Requests. */
    struct midge_nuid nuid;
    char *inbox; /* "_INBOX.<nuid>." */
    uint32_t inbox_len;
    bool is_inbox_subscribed;
    struct midge_request **requests; /* by index */
    uint32_t request_cap;
    uint32_t request_used; /* indexes below it have been used */
    struct midge_request *free_requests;
    uint32_t open_requests;

    uint64_t drain_ping; /* number of the last PING of a drain; 0 = not sent yet */
    struct midge_client_stats stats;
    char url[256]; /* of the server that it is connected to, or was last */
    char error[256];
};

enum midge_sub_state {
    MIDGE_SUB_OPEN = 0,
    MIDGE_SUB_DRAINING, /* unsubscribed; a PING behind it has not been answered */
    MIDGE_SUB_ENDED,
};

/* A retained message; its bytes follow it. */
struct midge_kept {
    struct midge_msg msg;
    _Atomic uint32_t references;
    struct midge_kept *next; /* waiting in a subscription */
    uint8_t bytes[];
};

struct midge_sub {
    struct midge_client *client;
    uint64_t sid;
    char *subject;     /* owned, with the queue behind it */
    const char *queue; /* NULL = none */
    enum midge_sub_state state;
    midge_msg_cb message_cb;
    void *context;
    void (*freed_cb)(void *context); /* under the lock, as the last act; NULL = nobody is told */
    uint64_t received;               /* since it was made, for max */
    uint64_t received_before;        /* of those, on earlier connections */
    uint64_t max;                    /* 0 = none */
    uint64_t drain_ping;             /* number of the PING that ends the drain */
    uint32_t users; /* call-backs, and calls that wait, under way; it is freed by the last one */
    bool is_destroyed;
    bool is_slow; /* dropped since it was last empty */
    bool is_in_table;
    struct midge_sub *next_owned; /* all that users have not destroyed */
    struct midge_sub *previous_owned;
    struct midge_kept *first;
    struct midge_kept *last;
    uint32_t msgs_max;
    uint64_t bytes_max;
    struct midge_sub_stats stats;
    const struct midge_msg *direct; /* what midge_sub_next() takes uncopied */
    bool is_awaited;                /* by midge_sub_next(), not thread-safe: take it uncopied */
};

struct midge_loop {
    enum midge_io io;
    uint64_t spin_ns;
    struct midge_ring *ring; /* NULL before the first drive */
    /* The same, for midge_client_interrupt(): any thread, or a signal handler. */
    _Atomic(struct midge_ring *) bell;
    uint32_t *fork_guard; /* a page of its own; 0 in the child of a fork */
    pthread_t owner;
    bool has_owner;
    bool is_thread_safe;
    bool is_foreign;   /* somebody else's event loop waits; no call does */
    bool is_turn_open; /* between wait and the last event */
    bool has_more;     /* behind what is being sent */
    bool is_drain_due; /* what a drain waits for may be done; looked at before the next wait */
    uint32_t callback_depth;
    uint64_t progress;         /* raised when something was delivered or told */
    uint32_t output_waiters;   /* calls that wait until something was sent */
    uint32_t progress_waiters; /* … that wait until progress is raised */
    _Atomic bool is_interrupted;
    bool is_parked;  /* the foreign loop polls the descriptor */
    uint64_t now_ns; /* of this turn */

    struct midge_link **links; /* by slot */
    uint32_t *generations;
    uint32_t link_cap;
    struct midge_link *parsing; /* its input is not used up */
    struct midge_link *armed;   /* links whose recv is to be armed */
    struct midge_link *sending; /* links with a send in this turn */
    struct midge_link *dead;
    struct midge_client *clients;
    uint32_t client_count;
    struct midge_client *dirty;
    struct midge_kept *lent; /* popped from a queue by the call before; released by the next */
    struct midge_msg direct; /* what a call was given uncopied */

    struct midge_client_timer **timers; /* heap, from index 1 */
    uint32_t timer_count;
    uint32_t timer_cap;

    /* For other event loops. */
    int outer_fd;
    int timer_fd;
    uint64_t timer_fd_at_ns; /* what it is set to; UINT64_MAX = not */

    /* Thread-safe clients. */
    pthread_mutex_t lock;
    bool has_reader;
    pthread_t reader;
    struct midge_waiter *reading; /* the reader's own; NULL = none reads */
    struct midge_waiter *waiters; /* of the others, the one that has waited longest first */
};

/* --- loop.c --- */

/* Begin a public call: the right thread, or the lock. @param drives  the call makes the loop the
 * calling thread's if it is nobody's, and opens the ring. @return MIDGE_OK, E_THREAD, E_SYSTEM,
 * E_MEMORY; only after MIDGE_OK must midge_loop_leave() follow */
MIDGE_MUST_CHECK enum midge_status midge_loop_enter(struct midge_loop *loop, bool drives);
void midge_loop_leave(struct midge_loop *loop);
/* Inside of a call: take the lock of a thread-safe client, or give it up meanwhile. Others have
 * none. */
static inline void midge_loop_lock(struct midge_loop *loop)
{
    if (loop->is_thread_safe)
        pthread_mutex_lock(&loop->lock);
}

static inline void midge_loop_unlock(struct midge_loop *loop)
{
    if (loop->is_thread_safe)
        pthread_mutex_unlock(&loop->lock);
}

/* False inside call-backs and where a foreign event loop waits. */
bool midge_loop_may_wait(const struct midge_loop *loop);

/* An instant from now; UINT64_MAX for MIDGE_FOREVER. */
uint64_t midge_loop_deadline(const struct midge_loop *loop, uint32_t timeout_ms);

/* Drive until is_done, the deadline, or an interrupt. Between enter and leave, where
 * midge_loop_may_wait(). @return MIDGE_OK when done, MIDGE_AGAIN, E_TIMEOUT */
MIDGE_MUST_CHECK enum midge_status
midge_loop_drive(struct midge_loop *loop, struct midge_waiter *waiter, uint64_t deadline_ns);
/* midge_loop_wait(), and midge_client_wait() for a client. */
MIDGE_MUST_CHECK enum midge_status midge_loop_wait_for(struct midge_loop *loop,
                                                       const struct midge_client *client,
                                                       uint32_t timeout_ms);
/* One turn without waiting. */
void midge_loop_turn(struct midge_loop *loop);
/* To the end of the open turn, or one whole turn, with a wait even where no call waits; at the end
 * of a client. */
void midge_loop_turn_until(struct midge_loop *loop, uint64_t deadline_ns);
/* True if links of the client are left, dead ones included. */
bool midge_loop_has_links(const struct midge_loop *loop, const struct midge_client *client);
/* The client is going: it leaves the lists of the loop. */
void midge_loop_forget(struct midge_loop *loop, const struct midge_client *client);
/* Thread-safe: wake the waiter, if it sleeps. */
void midge_loop_wake(struct midge_waiter *waiter);
/* Thread-safe: wake all that wait and are done, the reader included. */
void midge_loop_wake_done(struct midge_loop *loop);
/* Around every call-back. */
void midge_loop_begin_callback(struct midge_loop *loop);
void midge_loop_end_callback(struct midge_loop *loop);
/* Thread-safe and foreign loops: whoever waits must look at timers and output again. */
void midge_loop_nudge(struct midge_loop *loop);
/* A slot for a link. @return MIDGE_OK or E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_loop_add_link(struct midge_loop *loop,
                                                       struct midge_link *link);
void midge_loop_remove_link(struct midge_loop *loop, struct midge_link *link);

/* --- link.c --- */

/* Open a socket to the client's address and begin to connect. @return MIDGE_OK; else errno is set
 */
MIDGE_MUST_CHECK enum midge_status midge_link_open(struct midge_client *client);
/* End a link: nothing of it reaches the client any more. */
void midge_link_kill(struct midge_link *link);
/* Free it, once the ring is done with it. @return false if it is not */
bool midge_link_reap(struct midge_link *link);
/* Free it. Its descriptor is closed, and no ring works on it. */
void midge_link_free(struct midge_link *link);
void midge_link_event(struct midge_loop *loop, const struct midge_ring_event *event);
/* Go on with its input. @return false if a caller stopped it */
bool midge_link_parse(struct midge_link *link);
/* Receive again at the end of the turn. */
void midge_link_want_recv(struct midge_link *link);

/* --- session.c --- */

void midge_session_begin(struct midge_client *client);
/* connect(2) has ended well. */
void midge_session_opened(struct midge_link *link);
/* The TLS handshake has ended well. */
void midge_session_secured(struct midge_link *link);
/* The link is of no use any more, for this reason. */
void midge_session_lost(struct midge_link *link, enum midge_status status, const char *text);
void midge_session_info(struct midge_link *link, struct midge_slice json);
void midge_session_pong(struct midge_link *link);
void midge_session_error(struct midge_link *link, struct midge_slice text);
void midge_session_look_up(struct midge_client *client); /* has the host name been found? */
void midge_session_fire_attempt(struct midge_client *client);
void midge_session_fire_ping(struct midge_client *client);
void midge_session_set_ping_timer(struct midge_client *client);

/* --- client.c --- */

/* Remember what went wrong. */
void midge_client_note(struct midge_client *client, const char *format, ...) MIDGE_PRINTF(2, 3);
void midge_client_tell(struct midge_client *client, enum midge_event_kind kind,
                       enum midge_status status, const char *text, struct midge_sub *sub);
/* For good: requests, subscriptions and callers are told. */
void midge_client_close(struct midge_client *client, enum midge_status status);
/* MIDGE_OK, or E_CLOSED when nothing may be queued any more. */
MIDGE_MUST_CHECK enum midge_status midge_client_check_open(const struct midge_client *client);

/* --- output.c --- */

/* Room for `len` bytes at the end. @return where; NULL without memory */
uint8_t *midge_out_reserve(struct midge_out *out, uint64_t len);
void midge_out_deinit(struct midge_out *out);
uint64_t midge_out_left(const struct midge_out *out);
/* Bytes that the kernel has not taken, in clear text or encrypted. */
uint64_t midge_output_left(const struct midge_client *client);
/* Put frames before what users have queued, and take them. @return false without memory */
bool midge_output_put_first(struct midge_client *client, struct midge_out *frames);
/* Something was put into client->pending. */
void midge_output_queued(struct midge_client *client);
/* Hand over what is queued: in the ring's next wait, or, `is_now` or thread-safe, at once. */
void midge_output_flush(struct midge_client *client, bool is_now);
/* The ring has taken `len` bytes of the send (all of it: UINT64_MAX). */
void midge_output_sent(struct midge_link *link, uint64_t len);
/* The connection is lost: keep whole messages that were not begun, count the others; as soon as the
 * kernel has given the buffer back. */
void midge_output_lost(struct midge_client *client, const struct midge_link *link);
/* … now. */
void midge_output_reset(struct midge_client *client);
/* The client has closed: count what is left as lost. */
void midge_output_discard(struct midge_client *client);
/* Queue a PONG. */
void midge_output_pong(struct midge_client *client);
/* Queue a PING. @return MIDGE_OK or E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_output_ping(struct midge_client *client);

/* --- the rest --- */

/* Deliver. @return false if a caller stopped the turn to look at it */
bool midge_sub_deliver(struct midge_client *client, uint64_t sid, const struct midge_msg *msg);
/* Write SUB and UNSUB of all subscriptions for a new connection. @return MIDGE_OK or E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_sub_restore(struct midge_client *client,
                                                     struct midge_out *out);
/* A PONG came: drains may have ended. */
void midge_sub_pong(struct midge_client *client);
/* The connection is lost: drains end. */
void midge_sub_disconnected(struct midge_client *client);
void midge_sub_end_all(struct midge_client *client);
void midge_sub_drain_all(struct midge_client *client);
/* True if subscriptions wait for their PONG. */
bool midge_sub_is_draining(const struct midge_client *client);
/* Free what users have not destroyed. */
void midge_sub_free_all(struct midge_client *client);

/* A reply to the shared inbox. @return as midge_sub_deliver() */
bool midge_request_reply(struct midge_client *client, const struct midge_msg *msg);
/* Write SUB of the shared inbox. @return MIDGE_OK or E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_request_put_inbox(struct midge_client *client,
                                                           struct midge_out *out);
/* End all requests with a status. */
void midge_request_end_all(struct midge_client *client, enum midge_status status);
void midge_request_free_all(struct midge_client *client);

/* At the end of each turn of a draining client. */
void midge_drain_step(struct midge_client *client);
/* Something that a drain waits for has come to its end, in a turn or in a call outside of one. */
void midge_drain_note(struct midge_client *client);
void midge_drain_fire(struct midge_client *client);

/* A copy with one reference. @return NULL without memory */
struct midge_kept *midge_kept_create(const struct midge_msg *msg);
void midge_kept_release(struct midge_kept *kept);

#endif
