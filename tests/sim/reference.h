/*
 * A reference broker without sockets, clock or index: lists and a naive matcher. It is the oracle
 * of the simulation.
 *
 * It is fed, after the run, with what happened at the I/O seam in the order in which it happened:
 * which bytes the broker was handed, how much each send took, what was shut down and closed. All
 * shards of a simulated broker run in one thread, each until it is left for another one (a slice),
 * and never in the middle of what it was handed: so there is one order of all that is published,
 * and the reference can say, byte for byte, what every connection must be sent. Where the broker is
 * free to choose (member of a queue group, order of two subscriptions of one connection, which
 * subscription gets a 503) the reference follows the choice that it finds in the bytes that were
 * sent, and checks that it was among the allowed ones.
 *
 * What depends on the clock (PING, stale, deadlines) is reported to it and checked for
 * plausibility.
 *
 * Thread: shard. Memory: malloc; a failed allocation ends the test.
 * Source: the protocol as nats-server v2.15.2 speaks it; docs/PROTOCOL.md.
 */
#ifndef MIDGE_REFERENCE_H
#define MIDGE_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/info.h"
#include "midge/slice.h"
#include "midge/status.h"

struct midge_ref;

struct midge_ref_options {
    struct midge_info
        info; /* client_ip, client_id, connect_info are filled in for each connection */
    uint64_t first_cid;
    uint64_t pending_bytes_max;
    uint64_t ping_interval_ns;
    uint64_t write_deadline_ns;
    uint64_t auth_timeout_ns;
    uint32_t shard_count;
    uint32_t ping_max;
    uint32_t connections_max;
    uint32_t subs_max;       /* 0 = unlimited */
    uint32_t sub_tokens_max; /* 0 = off */
    uint32_t control_line_len_max;
    uint32_t payload_len_max;
    bool no_header_support;
    bool memory_limited; /* max_memory may be reached; which connection holds most is not checked */
    const char *user;    /* NULL = no authentication */
    const char *pass;
};

/* Names as in the broker's own counters. */
#define MIDGE_REF_STATS_TABLE(X)                                                                   \
    X(in_msgs)                                                                                     \
    X(in_bytes)                                                                                    \
    X(out_msgs)                                                                                    \
    X(out_bytes)                                                                                   \
    X(matched)                                                                                     \
    X(dropped_closing)                                                                             \
    X(dropped_slow)                                                                                \
    X(no_interest)                                                                                 \
    X(no_responders)                                                                               \
    X(connects)                                                                                    \
    X(disconnects)                                                                                 \
    X(slow_pending)                                                                                \
    X(slow_deadline)                                                                               \
    X(stale)                                                                                       \
    X(auth_errors)

struct midge_ref_stats {
    uint64_t delivered; /* deliveries that were wholly sent */
#define MIDGE_REF_STATS_FIELD(name) uint64_t name;
    MIDGE_REF_STATS_TABLE(MIDGE_REF_STATS_FIELD)
#undef MIDGE_REF_STATS_FIELD
    bool cut;   /* a connection ended with output unsent; the broker counts deliveries of a partly
                   sent   segment as discarded, so `delivered` may be less than what was sent */
    bool exact; /* false: a choice of the broker left no trace, so out_msgs and what follows from it
                   may differ */
};

/** @param options  borrowed, strings too. @return owned */
struct midge_ref *midge_ref_create(const struct midge_ref_options *options, uint32_t peer_count);
void midge_ref_destroy(struct midge_ref *ref);

/**
 * What free choices are looked up in.
 *
 * @param output        borrowed: what the broker has sent to this peer in the whole run
 * @param end_slice     slice in which it began to refuse output, UINT64_MAX = never
 * @param end_appended  bytes that its outbox had taken by then, sent or not; UINT64_MAX = unknown
 */
void midge_ref_set_output(struct midge_ref *ref, uint32_t peer, struct midge_slice output,
                          uint64_t end_slice, uint64_t end_appended);

/* What happened, in order. Each returns false when the broker has broken a rule; then
 * midge_ref_failure() says which. */

/** What follows happens in this slice, while this shard runs; UINT32_MAX = none. */
void midge_ref_at(struct midge_ref *ref, uint64_t slice, uint32_t shard);

/** The shard that runs took the connection on. @param named  its address could be asked for */
bool midge_ref_open(struct midge_ref *ref, uint32_t peer, bool named, bool adopted,
                    uint64_t now_ns);

/** The shard that runs gave the connection away; … got it from another one. */
void midge_ref_left(struct midge_ref *ref, uint32_t peer);
bool midge_ref_arrived(struct midge_ref *ref, uint32_t peer, bool adopted, uint64_t now_ns);

/** The broker was handed bytes. */
bool midge_ref_receive(struct midge_ref *ref, uint32_t peer, struct midge_slice bytes,
                       uint64_t now_ns);

/** Likewise, earlier in this turn or in one before; it uses them now, when its turn ends. */
bool midge_ref_receive_kept(struct midge_ref *ref, uint32_t peer, struct midge_slice bytes,
                            uint64_t now_ns);

/** The broker was told that the stream ended: 0, or -errno. */
bool midge_ref_receive_end(struct midge_ref *ref, uint32_t peer, int res, uint64_t now_ns);

/** A socket took bytes. */
void midge_ref_sent(struct midge_ref *ref, uint32_t peer, uint32_t len);

/** The broker got the result of a send: bytes taken, or -errno. @param is_short  not all were taken
 */
bool midge_ref_settled(struct midge_ref *ref, uint32_t peer, int64_t res, bool is_short,
                       uint64_t now_ns);

/** The broker shut the socket down, closed it. */
bool midge_ref_shut(struct midge_ref *ref, uint32_t peer, uint64_t now_ns);
bool midge_ref_closed(struct midge_ref *ref, uint32_t peer);

/** A timer of the broker has sent a PING. @param number  of PINGs without a PONG, this one included
 */
bool midge_ref_pinged(struct midge_ref *ref, uint32_t peer, uint32_t number, uint64_t now_ns);

/** At the end of a slice the connection was seen to refuse output. */
bool midge_ref_refused(struct midge_ref *ref, uint32_t peer);

/** At the end of a slice the connection was seen to be closing, for this reason. */
bool midge_ref_close_seen(struct midge_ref *ref, uint32_t peer, enum midge_status status,
                          uint64_t now_ns);

/** At the end of a slice the subscriptions of a closed connection had left the index. */
void midge_ref_purged(struct midge_ref *ref, uint32_t peer);

/** A slice is over. @param expired_peers  bit n: peer n has subscriptions in the index that reached
 * their max */
void midge_ref_slice_end(struct midge_ref *ref, uint64_t expired_peers);

/** A turn of the shard that runs is over. */
bool midge_ref_turn_end(struct midge_ref *ref, uint64_t now_ns);

/** The broker was told to stop. */
void midge_ref_stop(struct midge_ref *ref, uint64_t now_ns);

/** Nothing is under way: every connection that is still open must have been sent everything. */
bool midge_ref_check_quiet(struct midge_ref *ref);

/** The broker has stopped: everything is closed, and was sent what was owed. */
bool midge_ref_check_end(struct midge_ref *ref);

/** True if something that leaves no trace has made all that follows unknown: nothing is judged
 * then.
 */
bool midge_ref_is_lost(const struct midge_ref *ref);

const struct midge_ref_stats *midge_ref_stats(const struct midge_ref *ref);

/** What rule was broken; "" if none. */
const char *midge_ref_failure(const struct midge_ref *ref);

#endif
