/*
 * The I/O seam: everything that connection, outbox and shard logic asks of the kernel, with three
 * implementations behind one interface.
 *   - uring: io_uring with multishot accept and recv, one provided buffer ring, one enter per turn.
 *   - epoll: for kernels and containers that refuse io_uring; compatibility, no speed promise.
 *   - sim:   a simulated network; order of completions and faults come from a seed (ring_sim.h).
 *
 * One turn of a shard:
 *   midge_ring_wait(ring, deadline_ns, spin_ns);      submit everything queued, wait for something
 *   while (midge_ring_next(ring, &event)) …            handle; queue new operations at will
 *
 * Operations are queued by the prep-like calls below (accept, recv, send, poll_out, cancel) and
 * reach the kernel in the next midge_ring_wait(), all in one system call. They never fail at once:
 * what goes wrong arrives as an event. When the submission queue is full the call submits what is
 * there first.
 *
 * Every armed operation ends with exactly one event whose `more` is false, in whatever order, also
 * after midge_ring_cancel(); a descriptor must not be closed before the last event of its
 * operations. A late event of a slot used anew is told apart by the generation in its handle.
 *
 * Sockets come from outside (listening sockets are made at start-up, where nothing completes), or
 * from accept events. Descriptors of the simulated ring are numbers of its own.
 *
 * Thread: shard, except midge_ring_try_send(), midge_ring_doorbell() and midge_ring_busy_ns(),
 * which are any (lock-free); the doorbell may ring in a signal handler, too.
 *
 * Source: io_uring_setup(2), io_uring_enter(2), io_uring_prep_recv(3), io_uring_cancelation(7).
 */
#ifndef MIDGE_RING_H
#define MIDGE_RING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

struct midge_ring;

/* Who an operation belongs to: no pointer, so that a late event of a reused slot is recognised. */
struct midge_handle {
    uint32_t index;      /* slot, < 2^24; 0xffffff is the seam's own */
    uint32_t generation; /* of the slot, low 32 bits */
};

enum midge_ring_kind {
    MIDGE_RING_KIND_AUTO = 0, /* uring if its self-test passes, else epoll */
    MIDGE_RING_KIND_URING,
    MIDGE_RING_KIND_EPOLL,
    MIDGE_RING_KIND_SIM,
};

enum midge_ring_event_kind {
    MIDGE_RING_NONE = 0,
    MIDGE_RING_ACCEPT,   /* res: new descriptor, or -errno */
    MIDGE_RING_RECV,     /* res > 0: bytes; 0: end of stream; -ENOBUFS, -ECANCELED, … */
    MIDGE_RING_SEND,     /* res: bytes taken (fewer than asked), or -errno (-EAGAIN: full) */
    MIDGE_RING_POLL_OUT, /* res >= 0: may have room, or an error that a send will show */
};

struct midge_ring_event {
    enum midge_ring_event_kind kind;
    struct midge_handle handle;
    int res;
    bool more;                /* accept, recv: still armed; send, poll_out: always false */
    struct midge_slice bytes; /* RECV with res > 0: borrowed until the next next() or wait() */
};

struct midge_ring_options {
    enum midge_ring_kind kind;
    uint32_t sq_entries;      /* submission queue, 0 = 1024 */
    uint32_t cq_entries;      /* completion queue, 0 = 8192 */
    uint32_t buffer_count;    /* provided buffers, power of two, 0 = 512 */
    uint32_t buffer_len;      /* bytes of one provided buffer, 0 = 16384 */
    uint32_t buffers_at_rest; /* io_uring: of those, offered to the kernel while traffic is low:
                                 that many take memory; power of two, 0 = 64, or all if fewer */
};

/* One writer, any reader. */
struct midge_ring_counts {
    uint64_t waits;      /* calls of midge_ring_wait */
    uint64_t enters;     /* system calls that submitted or waited */
    uint64_t sleeps;     /* waits that gave the core away */
    uint64_t spins;      /* waits that watched first */
    uint64_t spin_hits;  /* of those, ended by work */
    uint64_t spin_ns;    /* watched in all */
    uint64_t overflows;  /* completion queue overflows seen */
    uint64_t no_buffers; /* recv ended for lack of buffers */
    uint64_t doorbells;  /* doorbells that had to wake a sleeper (written by any thread) */
};

/**
 * Make a ring. Must be called on the thread that will drive it.
 *
 * @param options   borrowed; NULL = defaults with AUTO
 * @param ring_out  owned
 * @param why       at least 128 bytes: on failure the reason; on success with AUTO and epoll, why
 *                  io_uring was not taken; "" otherwise
 * @return MIDGE_OK, E_SYSTEM or E_MEMORY
 * Since: Linux 6.1 for uring (DEFER_TASKRUN; features are tested, not versions).
 */
MIDGE_MUST_CHECK enum midge_status midge_ring_create(const struct midge_ring_options *options,
                                                     struct midge_ring **ring_out, char why[128]);

/** All descriptors must be closed and operations ended. */
void midge_ring_destroy(struct midge_ring *ring);

/** Which implementation runs; never AUTO. */
enum midge_ring_kind midge_ring_kind(const struct midge_ring *ring);

/** "io_uring", "epoll" or "simulated". */
const char *midge_ring_kind_name(enum midge_ring_kind kind);

/** Make a connected descriptor ready for recv and send here (blocking or not, TCP_NODELAY). Once
 * per accepted descriptor, before its first operation. @return 0 or -errno. */
MIDGE_MUST_CHECK int midge_ring_adopt(struct midge_ring *ring, int fd, struct midge_handle handle);

/** Let go of an adopted descriptor, so that another ring may adopt it. All operations on it must
 * have sent their last event, and no send may be under way. */
void midge_ring_release(struct midge_ring *ring, int fd);

/** Accept connections until cancelled or until an event says more = false (EMFILE ends it: re-arm
 * only when a descriptor came free). Descriptors are close-on-exec. The listener needs no adopt. */
void midge_ring_accept(struct midge_ring *ring, int listener_fd, struct midge_handle handle);

/** Receive until cancelled or until an event says more = false. Re-arm whatever res was, -ENOBUFS
 * included, but not before all events of the turn are handled (their buffers are back then). */
void midge_ring_recv(struct midge_ring *ring, int fd, struct midge_handle handle);

/**
 * Queue one send of up to MIDGE_RING_IOV_MAX pieces. At most one per descriptor may be under way.
 *
 * A send is silent when all its bytes were taken: then there is no event, and it counts as done
 * when midge_ring_next() has returned false after the wait that submitted it. Otherwise a SEND
 * event arrives before that. It never blocks and is never parked in the kernel: a full socket
 * answers -EAGAIN. Of more than 1 GiB the rest is left out, and reported as not taken.
 *
 * @param pieces  the array is copied; the bytes are lent until the send is done
 */
#define MIDGE_RING_IOV_MAX 64u
void midge_ring_send(struct midge_ring *ring, int fd, struct midge_handle handle,
                     const struct iovec *pieces, uint32_t piece_count);

/** Send now, without waiting, from any thread; the caller keeps others from sending on this
 * descriptor. @return bytes taken, or -errno */
MIDGE_MUST_CHECK int64_t midge_ring_try_send(struct midge_ring *ring, int fd,
                                             const struct iovec *pieces, uint32_t piece_count);

/** One POLL_OUT event when the descriptor may have room again. */
void midge_ring_poll_out(struct midge_ring *ring, int fd, struct midge_handle handle);

/** End the accept, recv and poll_out of this descriptor. Each still sends its last event (usually
 * -ECANCELED, but it may have completed already). */
void midge_ring_cancel(struct midge_ring *ring, int fd, struct midge_handle handle);

/** Shut a connected descriptor down, now: how is SHUT_WR or SHUT_RDWR. */
void midge_ring_shutdown(struct midge_ring *ring, int fd, int how);

/** Close, now. All operations on the descriptor must have sent their last event. */
void midge_ring_close(struct midge_ring *ring, int fd);

/**
 * Submit everything queued and wait for an event, a doorbell or the deadline.
 *
 * @param deadline_ns  instant on midge_ring_now_ns()'s clock; 0 = do not wait, UINT64_MAX = for
 * ever
 * @param spin_ns      watch from user space this long, yielding the core, before sleeping
 * Bytes of earlier events are given back. Returns early for any reason at will.
 */
void midge_ring_wait(struct midge_ring *ring, uint64_t deadline_ns, uint64_t spin_ns);

/** Take the next event of this turn; false when there is none left. Never blocks. */
MIDGE_MUST_CHECK bool midge_ring_next(struct midge_ring *ring, struct midge_ring_event *event_out);

/** End the target's wait, or keep its next one from sleeping. Carries nothing. Thread: any
 * (lock-free). Cost: one atomic exchange; a system call only when the target sleeps. */
void midge_ring_doorbell(struct midge_ring *ring);

/** CLOCK_MONOTONIC, or the simulated clock. */
uint64_t midge_ring_now_ns(struct midge_ring *ring);

/* For a ring inside somebody else's event loop. */

/** A descriptor to poll while the owner is away, level-triggered; between the next wait and
 * midge_ring_park() it may be readable for nothing.
 * @return borrowed, never to be read, written or closed; -1 for a simulated ring, or if there is
 * none to be had. Thread: shard. Cost: from the first call on, a uring ring signals it with its
 * completions */
int midge_ring_fd(struct midge_ring *ring);

/** The owner goes away to poll midge_ring_fd(), which it has asked for before: from here on the
 * descriptor is readable when midge_ring_wait(ring, 0, 0) would find something, a doorbell
 * included. @return false if there is something already, or something is queued that only a wait
 * submits, and the owner must not go */
MIDGE_MUST_CHECK bool midge_ring_park(struct midge_ring *ring);

/** The calling thread becomes the owner; the caller orders the hand-over. Not for uring, whose
 * kernel side knows one submitter only. */
void midge_ring_take(struct midge_ring *ring);

/** Free a ring in the child after fork(): its memory and the child's copies of its descriptors, and
 * nothing that the parent sees. Adopted descriptors are the caller's to close. */
void midge_ring_abandon(struct midge_ring *ring);

/** 64 random bits, not for secrets; from the seed in the simulated ring. */
uint64_t midge_ring_random(struct midge_ring *ring);

/** CPU time that the thread of a ring has used, less what midge_ring_wait() watched for. Thread:
 * any, while that thread is not joined. Cost: a system call. */
uint64_t midge_ring_busy_ns(struct midge_ring *ring);

/** Time that the cores of this process were idle, summed over them; where that is not known, as if
 * one of them were always idle. Cost: opens and reads a file of /proc. */
uint64_t midge_ring_idle_ns(struct midge_ring *ring);

/* Who is at the other end. */
struct midge_ring_peer {
    char ip[48];   /* "127.0.0.1", "::1", "" for a Unix socket */
    uint16_t port; /* 0 for a Unix socket */
    bool is_unix;
    uint32_t uid; /* Unix sockets only */
};

/** @return 0 or -errno (ENOTCONN when the peer has gone already) */
MIDGE_MUST_CHECK int midge_ring_peer(struct midge_ring *ring, int fd,
                                     struct midge_ring_peer *peer_out);

/** Thread: any. */
void midge_ring_counts(const struct midge_ring *ring, struct midge_ring_counts *counts_out);

#endif
