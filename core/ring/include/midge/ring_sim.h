/*
 * The simulated network behind the I/O seam: one world with a clock, links and peers, and rings in
 * it.
 *
 * Everything that a kernel may decide is decided by a seed: which descriptor completes first, how
 * bytes are cut and joined, when a completion is shown, how a cancel races with data, which
 * operation fails. The same seed and the same calls give the same world, step by step;
 * midge_sim_trace_hash() proves it. The world does nothing that ring.h does not allow, and
 * everything that it does allow will happen.
 *
 * What ring.h forbids is asserted: two sends under way on one descriptor, a second recv while one
 * is armed, a close before the last event, an operation on a descriptor that is not open, adopting
 * twice, re-arming a recv inside the turn that ended it, changing or freeing bytes lent to a send.
 * The bytes of a recv event live in a block of exactly their length, which is overwritten and freed
 * at the next call of next or wait, so that AddressSanitizer sees every late or long read.
 *
 * A wait never blocks: it returns at once, early if need be, and notes the deadline. The test asks
 * which rings have a reason to wake (midge_sim_ring_is_ready) and turns the clock.
 *
 * Several rings live in one world and one thread. A test that drives each of them from a stack of
 * its own may change stacks in the call-backs below: while a ring sleeps, and at every place where
 * the kernel may take a core away that matters to others. The world has no lock and no state of its
 * own there.
 *
 * Thread: shard; the whole world is one thread's.
 * Memory: malloc; a failed allocation ends the test.
 * Limits: MIDGE_SIM_FDS_MAX descriptors, MIDGE_SIM_RINGS_MAX rings.
 */
#ifndef MIDGE_RING_SIM_H
#define MIDGE_RING_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/ring.h"
#include "midge/slice.h"

#define MIDGE_SIM_FDS_MAX   1024u
#define MIDGE_SIM_RINGS_MAX 16u

/* Simulated descriptors begin here, so that one handed to the real kernel by mistake is refused. */
#define MIDGE_SIM_FD_FIRST 100000

struct midge_sim;

/* Chance of each fault, in 1/1000 of the occasions for it. All 0 = a kernel without surprises. */
struct midge_sim_faults {
    uint16_t delay;        /* what could complete in this turn does not yet */
    uint16_t hold;         /* what has completed is shown up to 4 turns later */
    uint16_t split;        /* recv: fewer bytes than there are */
    uint16_t disarm;       /* recv: ends with res > 0 and more = false, as after a CQ overflow */
    uint16_t no_buffers;   /* recv: ends with -ENOBUFS */
    uint16_t short_send;   /* send: fewer bytes than there is room for */
    uint16_t send_again;   /* send: -EAGAIN though there is room */
    uint16_t accept_error; /* accept: ends with -EMFILE or -ECONNABORTED */
    uint16_t
        cancel_race; /* a cancelled operation still shows data, or ends as if never cancelled */
    uint16_t early_submit; /* the submission queue is full: what is queued goes out at once */
    uint16_t early_wake;   /* wait: ends without a reason */
    uint16_t adopt_error;  /* adopt: -ENOMEM */
};

struct midge_sim_options {
    uint64_t seed;
    struct midge_sim_faults faults;
    uint32_t fd_count_max; /* open descriptors, listeners included; accept answers -EMFILE at it;
                              0 = MIDGE_SIM_FDS_MAX */
    uint32_t up_cap;       /* bytes of socket buffer from a peer to the ring, 0 = 65536 */
    uint32_t down_cap;     /* bytes of socket buffer from the ring to a peer, 0 = 65536 */
};

/* How often each thing happened; for tests that want to see every fault. */
struct midge_sim_counts {
    uint64_t turns;
    uint64_t delays;
    uint64_t holds;
    uint64_t splits;
    uint64_t joins; /* recv events with bytes of more than one write */
    uint64_t disarms;
    uint64_t no_buffers;
    uint64_t short_sends;  /* by fault */
    uint64_t send_agains;  /* by fault */
    uint64_t full_sockets; /* short or -EAGAIN for lack of room */
    uint64_t accept_errors;
    uint64_t fd_limits;   /* -EMFILE because of fd_count_max */
    uint64_t cancel_data; /* bytes shown after a cancel */
    uint64_t cancel_won;  /* operations that ended as if never cancelled */
    uint64_t canceled;    /* operations that ended with -ECANCELED */
    uint64_t early_submits;
    uint64_t early_wakes;
    uint64_t adopt_errors;
    uint64_t resets_seen; /* -ECONNRESET or -EPIPE told to the ring's user */
    uint64_t resets_sent; /* closes that reset the peer */
    uint64_t try_sends;
};

/* What the world tells an observer, in the order in which it happens. */
enum midge_sim_note_kind {
    MIDGE_SIM_ACCEPTED = 0, /* the accept event of this peer was taken */
    MIDGE_SIM_NAMED,        /* midge_ring_peer; res */
    MIDGE_SIM_ADOPTED,      /* midge_ring_adopt; res, handle */
    MIDGE_SIM_RECEIVED,     /* a recv event was taken; res, more, bytes */
    MIDGE_SIM_SENT,         /* the socket took bytes of a send; res, bytes */
    MIDGE_SIM_SETTLED, /* the ring's user has the result of its send; res; more = bytes are left */
    MIDGE_SIM_CANCELLED, /* midge_ring_cancel */
    MIDGE_SIM_SHUT,      /* midge_ring_shutdown; res = how */
    MIDGE_SIM_CLOSED,    /* midge_ring_close */
    MIDGE_SIM_RELEASED,  /* midge_ring_release */
};

struct midge_sim_note {
    enum midge_sim_note_kind kind;
    uint32_t peer; /* UINT32_MAX for a listener */
    int64_t res;
    bool more;
    struct midge_handle handle;
    struct midge_slice bytes; /* borrowed until the call-back returns */
    uint64_t now_ns;
};

typedef void (*midge_sim_note_cb)(void *context, const struct midge_sim_note *note);

/** Make a world at instant 1 s. @param options  borrowed. @return owned */
struct midge_sim *midge_sim_create(const struct midge_sim_options *options);

/** All rings must be destroyed. Listeners may be open. */
void midge_sim_destroy(struct midge_sim *sim);

/** Change the chances from here on, for example to all 0 so that a test can run to its end. */
void midge_sim_set_faults(struct midge_sim *sim, const struct midge_sim_faults *faults);

/** Call note_cb for every note from here on; NULL = nobody. */
void midge_sim_observe(struct midge_sim *sim, void *context, midge_sim_note_cb note_cb);

/** What goes on while a ring sleeps. It may do everything but use that ring (the doorbell is
 * allowed).
 * @return false to wake the ring without a reason */
typedef bool (*midge_sim_sleep_cb)(void *context, struct midge_ring *ring);

/** Call sleep_cb, again and again, while a ring sleeps; NULL = every wait returns at once. */
void midge_sim_let_sleep(struct midge_sim *sim, void *context, midge_sim_sleep_cb sleep_cb);

/* Where the thread of a ring may lose its core. */
enum midge_sim_pause {
    MIDGE_SIM_PAUSE_WAIT = 0, /* before anything queued is submitted */
    MIDGE_SIM_PAUSE_NEXT,     /* the event before is handled, the next one is not chosen */
    MIDGE_SIM_PAUSE_SENDING,  /* in try_send, before the socket takes bytes */
    MIDGE_SIM_PAUSE_SENT,     /* … and after, before the caller has the result */
};

/** May do everything but use that ring (the doorbell is allowed). */
typedef void (*midge_sim_pause_cb)(void *context, struct midge_ring *ring,
                                   enum midge_sim_pause pause);

/** Call pause_cb at each of these places; NULL = nobody. */
void midge_sim_let_pause(struct midge_sim *sim, void *context, midge_sim_pause_cb pause_cb);

/** Make a ring in this world. @param options  borrowed, NULL = defaults; only buffer_len is used.
 * @return owned; ended by midge_ring_destroy() */
struct midge_ring *midge_sim_ring_create(struct midge_sim *sim,
                                         const struct midge_ring_options *options);

/** True if a sleeping ring would wake by now: an event is there or can be, the deadline of its last
 * wait is over, or the doorbell rang. */
bool midge_sim_ring_is_ready(const struct midge_ring *ring);

/** Earliest deadline that the rings wait for; UINT64_MAX = none. */
uint64_t midge_sim_deadline_ns(const struct midge_sim *sim);

/** Turn the clock forward by `duration_ns`. */
void midge_sim_advance(struct midge_sim *sim, uint64_t duration_ns);

/** The simulated clock. */
uint64_t midge_sim_now_ns(const struct midge_sim *sim);

/** Hash over everything that happened so far. */
uint64_t midge_sim_trace_hash(const struct midge_sim *sim);

/** What happened so far. */
void midge_sim_counts(const struct midge_sim *sim, struct midge_sim_counts *counts_out);

/** Descriptors open on the ring side, listeners included. */
uint32_t midge_sim_open_fd_count(const struct midge_sim *sim);

/** Make a listening descriptor. */
int midge_sim_listen(struct midge_sim *sim);

/** A random number below `bound` (>= 1) from the world's seed, for the script of a test. */
uint64_t midge_sim_random_below(struct midge_sim *sim, uint64_t bound);

/* The other end of a link; its address is 10.a.b.c with the three low bytes of its number. Peers
 * are numbered from 0 in the order in which they connect; numbers are never reused. */
enum midge_sim_peer_state {
    MIDGE_SIM_PEER_OPEN = 0, /* connected; perhaps not accepted yet */
    MIDGE_SIM_PEER_EOF,      /* the ring's side has ended its stream and everything was read */
    MIDGE_SIM_PEER_RESET,    /* the link is broken and everything that arrived was read */
    MIDGE_SIM_PEER_GONE,     /* closed or reset by the peer itself */
};

/** Connect to a listener. @return number of the peer, or UINT32_MAX if the listener is closed */
uint32_t midge_sim_peer_connect(struct midge_sim *sim, int listener_fd);

/** Write as much as there is room for. @return bytes taken; 0 if the socket is full or the link
 * broken */
uint32_t midge_sim_peer_write(struct midge_sim *sim, uint32_t peer, struct midge_slice bytes);

/** Room for the next write of the peer. */
uint32_t midge_sim_peer_room(const struct midge_sim *sim, uint32_t peer);

/** Read what has arrived, at most `cap` bytes; `out` may be NULL.
 * @return bytes read, 0 if there are none now */
uint32_t midge_sim_peer_read(struct midge_sim *sim, uint32_t peer, void *out, uint32_t cap);

/** Bytes that have arrived and were not read. */
uint32_t midge_sim_peer_unread(const struct midge_sim *sim, uint32_t peer);

/** End the peer's stream; it can still read. */
void midge_sim_peer_shutdown(struct midge_sim *sim, uint32_t peer);

/** Close as close(2) does: with unread bytes the link is reset, and what the ring sends later
 * resets it. */
void midge_sim_peer_close(struct midge_sim *sim, uint32_t peer);

/** Reset the link; up to all of what the ring has not received yet is lost. */
void midge_sim_peer_reset(struct midge_sim *sim, uint32_t peer);

/** How the link looks from the peer. */
enum midge_sim_peer_state midge_sim_peer_state(const struct midge_sim *sim, uint32_t peer);

#endif
