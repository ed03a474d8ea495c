/*
 * What the implementations of the I/O seam share: the table of functions that each provides, the
 * head of every ring, and the doorbell.
 *
 * An implementation puts struct midge_ring first in its own struct, fills it with
 * midge_ring_base_init(), and is reached through `ops`. The public functions in ring.c check their
 * arguments and dispatch, so implementations need not check again.
 */
#ifndef MIDGE_RING_INTERNAL_H
#define MIDGE_RING_INTERNAL_H

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>

#include "midge/limits.h"
#include "midge/ring.h"

/* ASan does not see what the kernel writes: buffers are poisoned while the kernel owns them. */
#if defined(__SANITIZE_ADDRESS__)
#define MIDGE_RING_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MIDGE_RING_ASAN 1
#endif
#endif
#ifdef MIDGE_RING_ASAN
#include <sanitizer/asan_interface.h>
#define MIDGE_RING_POISON(base, len)   ASAN_POISON_MEMORY_REGION((base), (len))
#define MIDGE_RING_UNPOISON(base, len) ASAN_UNPOISON_MEMORY_REGION((base), (len))
#else
#define MIDGE_RING_POISON(base, len)   ((void)(base), (void)(len))
#define MIDGE_RING_UNPOISON(base, len) ((void)(base), (void)(len))
#endif

#define MIDGE_RING_INDEX_MAX 0xfffffeu /* of a caller's handle; the one above is the seam's own */

/* How watching before a sleep ended. */
enum midge_watch {
    MIDGE_WATCH_NOTHING = 0, /* the budget is spent */
    MIDGE_WATCH_WORK,
    MIDGE_WATCH_CROWDED, /* somebody else wants this core */
};

/* A yield that finds nobody else takes well under a microsecond; one that switches to another
 * thread and back takes several. */
#define MIDGE_WATCH_CROWDED_NS 4000u

/* One implementation. Every entry is set; each does what the public function of its name promises.
 */
struct midge_ring_ops {
    enum midge_ring_kind kind;
    void (*destroy)(struct midge_ring *ring); /* frees the ring itself as well */
    int (*adopt)(struct midge_ring *ring, int fd, struct midge_handle handle);
    void (*release)(struct midge_ring *ring, int fd); /* NULL = nothing to do */
    void (*accept)(struct midge_ring *ring, int listener_fd, struct midge_handle handle);
    void (*recv)(struct midge_ring *ring, int fd, struct midge_handle handle);
    void (*send)(struct midge_ring *ring, int fd, struct midge_handle handle,
                 const struct iovec *pieces, uint32_t piece_count);
    int64_t (*try_send)(struct midge_ring *ring, int fd, const struct iovec *pieces,
                        uint32_t piece_count); /* any thread */
    void (*poll_out)(struct midge_ring *ring, int fd, struct midge_handle handle);
    void (*cancel)(struct midge_ring *ring, int fd, struct midge_handle handle);
    void (*shutdown)(struct midge_ring *ring, int fd, int how);
    void (*close)(struct midge_ring *ring, int fd);
    void (*wait)(struct midge_ring *ring, uint64_t deadline_ns, uint64_t spin_ns);
    bool (*next)(struct midge_ring *ring, struct midge_ring_event *event_out);
    void (*wake)(
        struct midge_ring *ring);       /* any thread: end a sleep begun with bell_begin_sleep() */
    int (*fd)(struct midge_ring *ring); /* NULL = has none */
    bool (*park)(struct midge_ring *ring); /* NULL = begin_sleep() is all that it takes */
    uint64_t (*now_ns)(struct midge_ring *ring);
    uint64_t (*busy_ns)(struct midge_ring *ring); /* any thread */
    uint64_t (*idle_ns)(struct midge_ring *ring);
    int (*peer)(struct midge_ring *ring, int fd, struct midge_ring_peer *peer_out);
};

/*
 * The doorbell is one word, so that its order needs no second thought: a ringer swaps RUNG in and
 * calls wake() only if it found ASLEEP; the owner swaps AWAKE in at the end of each wait, and may
 * only sleep after it turned AWAKE into ASLEEP. A ring between two waits stays in the word and
 * forbids the sleep.
 */
enum midge_ring_bell {
    MIDGE_RING_BELL_AWAKE = 0,
    MIDGE_RING_BELL_RUNG,
    MIDGE_RING_BELL_ASLEEP,
};

/*
 * Head of every ring.
 *
 * Thread: shard, but for `bell` and `wakes` (any, lock-free) and the counts (one writer, any
 * reader).
 */
struct midge_ring {
    /* Constant after init. */
    const struct midge_ring_ops *ops;
    pthread_t owner;

    /* Written by the owner. */
    uint64_t random_state;
    _Atomic uint64_t waits;
    _Atomic uint64_t enters;
    _Atomic uint64_t sleeps;
    _Atomic uint64_t spins;
    _Atomic uint64_t spin_hits;
    _Atomic uint64_t spin_ns;
    _Atomic uint64_t overflows;
    _Atomic uint64_t no_buffers;

    /* Written by any thread. */
    alignas(MIDGE_CACHE_LINE_LEN) _Atomic uint32_t bell; /* enum midge_ring_bell */
    _Atomic uint64_t wakes;
};

/** Fill the head of a ring; the calling thread becomes its owner. Thread: shard. */
void midge_ring_base_init(struct midge_ring *ring, const struct midge_ring_ops *ops,
                          uint64_t random_seed);

/* Raise a counter that only the owner writes. */
static inline void midge_ring_add(_Atomic uint64_t *counter, uint64_t amount)
{
    /* Relaxed: a statistic, nothing is published with it. */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + amount,
                          memory_order_relaxed);
}

static inline void midge_ring_count(_Atomic uint64_t *counter)
{
    midge_ring_add(counter, 1);
}

/* True if a doorbell came since the last wait ended. */
static inline bool midge_ring_bell_is_rung(const struct midge_ring *ring)
{
    /* Relaxed: only a hint not to sleep; the exchange at the end of the wait takes the ring over.
     */
    return atomic_load_explicit(&ring->bell, memory_order_relaxed) == MIDGE_RING_BELL_RUNG;
}

/* Announce a sleep; false if a doorbell came first, and then the owner must not sleep. From here to
 * the end of the wait a doorbell calls ops->wake(). */
static inline bool midge_ring_bell_begin_sleep(struct midge_ring *ring)
{
    uint32_t expected = MIDGE_RING_BELL_AWAKE;

    /* Pairs with the exchange in midge_ring_doorbell(): one of the two comes first in the order of
     * this word, so either this fails, or the ringer finds ASLEEP. seq_cst also keeps it ordered
     * with flags of the caller's own. */
    return atomic_compare_exchange_strong_explicit(&ring->bell, &expected, MIDGE_RING_BELL_ASLEEP,
                                                   memory_order_seq_cst, memory_order_relaxed);
}

/* What the two kernel implementations have in common. */

/** Make an io_uring ring; does not run the self-test. `why`: as midge_ring_create(). Thread: shard.
 */
MIDGE_MUST_CHECK enum midge_status midge_ring_uring_create(const struct midge_ring_options *options,
                                                           struct midge_ring **ring_out,
                                                           char why[128]);

/** Try what the uring implementation relies on, on a small ring over a socket pair. @return
 * MIDGE_OK, or E_SYSTEM with the reason in `why`. Thread: shard. Cost: about a millisecond. */
MIDGE_MUST_CHECK enum midge_status midge_ring_uring_self_test(char why[128]);

/** Make an epoll ring. `why`: as midge_ring_create(). Thread: shard. */
MIDGE_MUST_CHECK enum midge_status midge_ring_epoll_create(const struct midge_ring_options *options,
                                                           struct midge_ring **ring_out,
                                                           char why[128]);

/** A seed from the kernel. Thread: any (lock-free). */
uint64_t midge_ring_os_seed(void);

int64_t midge_ring_os_try_send(struct midge_ring *ring, int fd, const struct iovec *pieces,
                               uint32_t piece_count);
void midge_ring_os_shutdown(struct midge_ring *ring, int fd, int how);
uint64_t midge_ring_os_now_ns(struct midge_ring *ring);
uint64_t midge_ring_os_busy_ns(struct midge_ring *ring);
uint64_t midge_ring_os_idle_ns(struct midge_ring *ring);
int midge_ring_os_peer(struct midge_ring *ring, int fd, struct midge_ring_peer *peer_out);

/** Switch TCP_NODELAY on; sockets that are not TCP are left alone. @return 0 or -errno */
MIDGE_MUST_CHECK int midge_ring_os_set_nodelay(int fd);

/** Set or clear O_NONBLOCK. @return 0 or -errno */
MIDGE_MUST_CHECK int midge_ring_os_set_nonblocking(int fd, bool nonblocking);

/** Write a reason into `why`, cut to its length. */
MIDGE_PRINTF(2, 3) void midge_ring_explain(char why[128], const char *format, ...);

#endif
