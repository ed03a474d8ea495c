/*
 * The bounded send queue of one connection. Output belongs to the connection, not to a core: any
 * shard may append under the lock, so that a delivery wakes nobody.
 *
 *   appenders (any shard)        token holder (one shard)
 *        |                            |
 *        v                            v
 *   tail segment … … … … … … … … head segment -> send
 *
 * Segments are appended at the tail under the lock. Only the holder of the flush token reads bytes
 * and takes segments off the head. The token is free, or held by one shard from the moment it
 * gathers bytes until the result of that send is known; whoever gives it back looks at `pending`
 * under the lock.
 *
 * Under the lock, in this order, a delivery checks: sub_generation, closing, the subscription's
 * live bit, echo, delivered < max; then it appends and counts. UNSUB, close, auto-unsubscribe, a
 * CONNECT that drops subscriptions and the PONG write under the same lock: that is the whole proof
 * that a PONG is a fence.
 *
 * Thread: any (outbox lock), except where a function says otherwise. The lock is held for an
 * append, never across a system call or an allocation. Memory: segments from the pool of the
 * appending shard, returned to the pool of the flushing shard. Limits: pending never exceeds the
 * connection's max_pending.
 */
#ifndef MIDGE_OUTBOX_H
#define MIDGE_OUTBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "balance.h"
#include "midge/compiler.h"
#include "midge/limits.h"
#include "midge/pool.h"
#include "midge/slice.h"
#include "midge/status.h"
#include "msg.h"

/* Blocks of the pool for output bytes: the first of an empty outbox and the first behind a shared
 * message are small, later ones are large. */
#define MIDGE_SEGMENT_SMALL_LEN 4096u
#define MIDGE_SEGMENT_LARGE_LEN 65536u

/* A run of bytes to send: its own, behind this header, or a view of a shared message. */
struct midge_segment {
    struct midge_segment *next;
    uint8_t *base;
    struct midge_msg *msg; /* retained; NULL = own bytes */
    uint32_t len;          /* bytes to send */
    uint32_t cap;          /* bytes of room; 0 for a view */
    uint32_t off;          /* bytes that the kernel has taken */
    uint32_t msg_count;    /* deliveries whose last byte lies here */
    uint32_t block_cap;    /* for midge_pool_free */
};

/* Segments that a shard holds ready, so that nothing is allocated under a lock. */
struct midge_spares {
    struct midge_segment *small;
    struct midge_segment *large; /* at least the room that midge_spares_fill() was asked for */
    struct midge_segment *view;
};

/* What the owner of a connection is asked to do; bits under the outbox lock. */
enum midge_request {
    MIDGE_REQUEST_FLUSH = 1u << 0,    /* bytes pending that only the owner may send now */
    MIDGE_REQUEST_POLL_OUT = 1u << 1, /* the socket is full */
    MIDGE_REQUEST_CLOSE = 1u << 2,    /* close_status says why */
    MIDGE_REQUEST_EXPIRED = 1u << 3,  /* subscriptions reached their max */
};

#define MIDGE_FLUSH_FREE UINT16_MAX
#define MIDGE_WATCH_MANY UINT16_MAX

struct midge_outbox {
    /* Any shard, under the lock. */
    _Atomic uint32_t lock;
    uint32_t generation; /* of the connection; changes when the slot is used anew */
    /* Subscriptions made under another number are void: raised when the slot is used anew, and when
     * a CONNECT drops them all. They leave long before it comes around. */
    uint32_t sub_generation;
    uint16_t flush_shard; /* holder of the flush token, or MIDGE_FLUSH_FREE */
    uint16_t requests;    /* bits of enum midge_request not yet seen by the owner */
    bool queued;          /* in the owner's inbox */
    bool closing;         /* appends are refused */
    bool blocked;         /* the socket was full: no send before it has room */
    bool in_flight;   /* the token's holder is the owner, with a send whose result comes later */
    bool shared;      /* a foreign shard has appended once; set for good */
    bool headers;     /* the client takes HMSG */
    bool memory_pick; /* closed because of max_memory, as the one that held most */
    bool owner_sends; /* for TLS: what others append is handed over; constant while in use */
    /* Slot whose message was appended last, or MIDGE_BALANCE_NONE; the owner takes it without the
     * lock. */
    _Atomic uint32_t last_from;
    uint16_t watch_shard; /* whose publishers wait, or MIDGE_WATCH_MANY; see watch_mark_bytes */
    struct midge_segment *head;
    struct midge_segment *tail;
    uint64_t pending_bytes;     /* appended, not yet taken by the kernel */
    uint64_t pending_bytes_max; /* constant while the slot is in use */
    uint64_t appended_bytes;    /* since the connection began */
    uint64_t watch_mark_bytes;  /* publishers wait for pending to fall below it; 0 = none does */
    uint64_t worth_mark_bytes;  /* taken in all when it is worth a wait; 0 = it is not behind */
    uint64_t wait_until_ns;    /* publishers wait until then, or until below 1/2; 0 = they do not */
    uint64_t wait_since_ns;    /* when the first of the waits in a row began */
    uint64_t stalled_at_ns;    /* since when the socket is full; 0 = it is not */
    uint64_t stall_mark_bytes; /* appended_bytes at that time: these must be gone by the deadline */
    uint64_t out_msgs;         /* deliveries appended */
    uint64_t out_bytes;        /* headers and payload of them */
    enum midge_status close_status;
};

/** Make an outbox ready for a new connection. Thread: shard, before others can reach it. */
void midge_outbox_init(struct midge_outbox *outbox, uint32_t generation,
                       uint64_t pending_bytes_max);

void midge_outbox_lock(struct midge_outbox *outbox);
void midge_outbox_unlock(struct midge_outbox *outbox);

/** Hold spares ready for an append of `len` bytes in one run. @return false without memory.
 * Thread: shard. Never call it under a lock. */
MIDGE_MUST_CHECK bool midge_spares_fill(struct midge_spares *spares, struct midge_pool *pool,
                                        uint32_t len);
void midge_spares_deinit(struct midge_spares *spares, struct midge_pool *pool);

/* Back-pressure marks, as parts of max_pending: a publisher all of whose recipients are over the
 * high mark is not read until one of them is below the low mark. Decision 0002 says why not 3/4 and
 * 1/2. */
#define MIDGE_PENDING_HIGH_DIVISOR 8u
#define MIDGE_PENDING_LOW_DIVISOR  16u

/* How long publishers wait at most for one recipient that is about to be closed. */
#define MIDGE_OUTBOX_WAIT_NS 500000000ull

/** True if `len` more bytes would go over max_pending. Under the lock. */
bool midge_outbox_is_over(const struct midge_outbox *outbox, uint64_t len);

/** Room for exactly `len` bytes in one run, counted as appended. Under the lock, after
 * midge_spares_fill(len). */
uint8_t *midge_outbox_append(struct midge_outbox *outbox, struct midge_spares *spares,
                             uint32_t len);

/** Append a view of a shared message, retained here. Under the lock, after midge_spares_fill(). */
void midge_outbox_append_msg(struct midge_outbox *outbox, struct midge_spares *spares,
                             struct midge_msg *msg, struct midge_slice bytes);

/** Count one delivery that ends with the byte appended last. Under the lock. */
void midge_outbox_count_msg(struct midge_outbox *outbox, uint64_t payload_len);

/* What a flush gathered. */
struct midge_flush {
    uint64_t bytes;
    uint32_t piece_count; /* 0 = nothing to send now: empty, blocked, or the token is held */
    bool urgent;          /* more is pending, or a publisher waits: the result is wanted soon */
    bool shared;          /* send now: the owner must not sleep with the token */
};

/**
 * Take the flush token and gather what is to be sent, if that is possible. Under the lock.
 *
 * @param in_flight  the result of the send will come later (owner only); an outbox that is shared
 *                   by then is taken with false all the same
 */
struct midge_flush midge_outbox_gather(struct midge_outbox *outbox, uint16_t shard_index,
                                       bool in_flight, struct iovec *pieces, uint32_t piece_cap);

/* What the outbox looks like after a send. */
struct midge_flush_result {
    struct midge_segment *done; /* owned: segments that the kernel has wholly taken */
    uint64_t pending_bytes;
    uint64_t sent_msgs;     /* deliveries in those segments */
    bool drained;           /* it fell below the mark that publishers wait for: they may go on */
    uint16_t drained_shard; /* whose they are, or MIDGE_WATCH_MANY */
};

/**
 * Give the flush token back with the result of the send. Under the lock, by the token's holder.
 *
 * @param sent    bytes the kernel took
 * @param asked   bytes it was offered; fewer sent means that the socket is full (blocked)
 * @param now_ns  for the write deadline
 */
struct midge_flush_result midge_outbox_settle(struct midge_outbox *outbox, uint64_t sent,
                                              uint64_t asked, uint64_t now_ns);

/** Free the segments of a result. Thread: the owner of the pool; never under a lock. */
void midge_outbox_free_sent(struct midge_segment *done, struct midge_pool *pool);

/**
 * True if publishers should wait for this reader: it is over 3/4 of max_pending, or has not come
 * below 1/2 since, and it reads.
 *
 *   - At first that means: since it was over the high mark it took a third of what was appended.
 *   - A wait of MIDGE_OUTBOX_WAIT_NS is followed by another one if it took 1/64 of max_pending, for
 *     `row_ns` at most.
 *   - Once below 1/2, it has to take 1/32 before it is over 3/4 again: a ninth of what is appended.
 *
 * So one that stops reading costs one wait, and one that never read costs nothing.
 * Under the lock, after an append that left it over the high mark. Decision 0002.
 */
bool midge_outbox_is_worth_a_wait(struct midge_outbox *outbox, uint64_t row_ns, uint64_t now_ns);

/** Have publishers of this shard told when pending falls below `bytes`; the highest mark counts.
 * Under the lock. */
void midge_outbox_watch(struct midge_outbox *outbox, uint16_t shard_index, uint64_t bytes);

/** Throw away what is pending but for the rest of the frame that the kernel has taken a part of;
 * nothing while the token is held, so again whenever it is given back. The outbox must be closing.
 * @return deliveries discarded. Cost: linear in the bytes of one segment. Thread: shard (owner). */
uint64_t midge_outbox_cut(struct midge_outbox *outbox, struct midge_pool *pool);

/** Throw away what is pending. @return deliveries discarded. The token must be free and the outbox
 * closing. Thread: shard (owner). */
uint64_t midge_outbox_discard(struct midge_outbox *outbox, struct midge_pool *pool);

#endif
