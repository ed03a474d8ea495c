/*
 * The part of the I/O seam that all implementations share: choice of one, checks and dispatch, the
 * doorbell, random numbers.
 *
 * Thread: as each function of ring.h says. Memory: none of its own.
 */
#include "midge/ring.h"

#include <assert.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#include "ring_internal.h"

#define SQ_ENTRIES_DEFAULT   1024u
#define CQ_ENTRIES_DEFAULT   8192u
#define BUFFER_COUNT_DEFAULT 512u
#define BUFFER_LEN_DEFAULT   16384u

/* A read burst of one connection takes up to 32 (MULTISHOT_MAX_RETRY of the kernel's
 * io_uring/net.c), and 64 first lines still fit the second-level cache sets they share. */
#define BUFFERS_AT_REST_DEFAULT 64u

/* Source: io_uring_register_buf_ring(3), "ring_entries ... maximum is 32768". */
#define BUFFER_COUNT_MAX 32768u

static_assert(MIDGE_RING_IOV_MAX <= IOV_MAX, "one sendmsg takes all pieces");

void midge_ring_explain(char why[128], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(why, 128, format, arguments);
    va_end(arguments);
}

void midge_ring_base_init(struct midge_ring *ring, const struct midge_ring_ops *ops,
                          uint64_t random_seed)
{
    ring->ops = ops;
    ring->owner = pthread_self();
    ring->random_state = random_seed;
    atomic_init(&ring->waits, 0);
    atomic_init(&ring->enters, 0);
    atomic_init(&ring->sleeps, 0);
    atomic_init(&ring->spins, 0);
    atomic_init(&ring->spin_hits, 0);
    atomic_init(&ring->overflows, 0);
    atomic_init(&ring->no_buffers, 0);
    atomic_init(&ring->bell, MIDGE_RING_BELL_AWAKE);
    atomic_init(&ring->wakes, 0);
}

/* Shard functions begin with this. Debug only: it costs a load of the thread's own id on each call.
 */
static inline void assert_owner(const struct midge_ring *ring)
{
    MIDGE_DEBUG_ASSERT(pthread_equal(ring->owner, pthread_self()));
    (void)ring;
}

static struct midge_ring_options options_with_defaults(const struct midge_ring_options *options)
{
    struct midge_ring_options filled = {.kind = MIDGE_RING_KIND_AUTO};

    if (options != NULL)
        filled = *options;
    if (filled.sq_entries == 0)
        filled.sq_entries = SQ_ENTRIES_DEFAULT;
    if (filled.cq_entries == 0)
        filled.cq_entries = CQ_ENTRIES_DEFAULT;
    if (filled.buffer_count == 0)
        filled.buffer_count = BUFFER_COUNT_DEFAULT;
    if (filled.buffer_len == 0)
        filled.buffer_len = BUFFER_LEN_DEFAULT;
    MIDGE_ASSERT(filled.buffer_count <= BUFFER_COUNT_MAX);
    MIDGE_ASSERT((filled.buffer_count & (filled.buffer_count - 1)) == 0);
    if (filled.buffers_at_rest == 0)
        filled.buffers_at_rest = BUFFERS_AT_REST_DEFAULT;
    if (filled.buffers_at_rest > filled.buffer_count)
        filled.buffers_at_rest = filled.buffer_count;
    MIDGE_ASSERT((filled.buffers_at_rest & (filled.buffers_at_rest - 1)) == 0);
    return filled;
}

static enum midge_status create_uring(const struct midge_ring_options *options,
                                      struct midge_ring **ring_out, char why[128])
{
    enum midge_status status = midge_ring_uring_self_test(why);

    if (status != MIDGE_OK)
        return status;
    return midge_ring_uring_create(options, ring_out, why);
}

enum midge_status midge_ring_create(const struct midge_ring_options *options,
                                    struct midge_ring **ring_out, char why[128])
{
    const struct midge_ring_options filled = options_with_defaults(options);
    char ignored[128];

    MIDGE_ASSERT(ring_out != NULL);
    MIDGE_ASSERT(why != NULL);
    MIDGE_ASSERT(filled.kind != MIDGE_RING_KIND_SIM); /* has a constructor of its own */

    why[0] = '\0';
    if (filled.kind == MIDGE_RING_KIND_EPOLL)
        return midge_ring_epoll_create(&filled, ring_out, why);
    if (create_uring(&filled, ring_out, why) == MIDGE_OK)
        return MIDGE_OK;
    if (filled.kind == MIDGE_RING_KIND_URING)
        return MIDGE_E_SYSTEM;
    return midge_ring_epoll_create(&filled, ring_out, ignored);
}

void midge_ring_destroy(struct midge_ring *ring)
{
    if (ring != NULL)
        ring->ops->destroy(ring);
}

enum midge_ring_kind midge_ring_kind(const struct midge_ring *ring)
{
    return ring->ops->kind;
}

const char *midge_ring_kind_name(enum midge_ring_kind kind)
{
    switch (kind) {
    case MIDGE_RING_KIND_AUTO:
        return "auto";
    case MIDGE_RING_KIND_URING:
        return "io_uring";
    case MIDGE_RING_KIND_EPOLL:
        return "epoll";
    case MIDGE_RING_KIND_SIM:
        return "simulated";
    }
    return "?";
}

int midge_ring_adopt(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    MIDGE_ASSERT(handle.index <= MIDGE_RING_INDEX_MAX);
    return ring->ops->adopt(ring, fd, handle);
}

void midge_ring_release(struct midge_ring *ring, int fd)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    if (ring->ops->release != NULL)
        ring->ops->release(ring, fd);
}

void midge_ring_accept(struct midge_ring *ring, int listener_fd, struct midge_handle handle)
{
    assert_owner(ring);
    MIDGE_ASSERT(listener_fd >= 0);
    MIDGE_ASSERT(handle.index <= MIDGE_RING_INDEX_MAX);
    ring->ops->accept(ring, listener_fd, handle);
}

void midge_ring_recv(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    MIDGE_ASSERT(handle.index <= MIDGE_RING_INDEX_MAX);
    ring->ops->recv(ring, fd, handle);
}

void midge_ring_send(struct midge_ring *ring, int fd, struct midge_handle handle,
                     const struct iovec *pieces, uint32_t piece_count)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    MIDGE_ASSERT(handle.index <= MIDGE_RING_INDEX_MAX);
    MIDGE_ASSERT(piece_count > 0);
    MIDGE_ASSERT(piece_count <= MIDGE_RING_IOV_MAX);
    ring->ops->send(ring, fd, handle, pieces, piece_count);
}

int64_t midge_ring_try_send(struct midge_ring *ring, int fd, const struct iovec *pieces,
                            uint32_t piece_count)
{
    MIDGE_ASSERT(fd >= 0);
    MIDGE_ASSERT(piece_count > 0);
    MIDGE_ASSERT(piece_count <= MIDGE_RING_IOV_MAX);
    return ring->ops->try_send(ring, fd, pieces, piece_count);
}

void midge_ring_poll_out(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    MIDGE_ASSERT(handle.index <= MIDGE_RING_INDEX_MAX);
    ring->ops->poll_out(ring, fd, handle);
}

void midge_ring_cancel(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    MIDGE_ASSERT(handle.index <= MIDGE_RING_INDEX_MAX);
    ring->ops->cancel(ring, fd, handle);
}

void midge_ring_shutdown(struct midge_ring *ring, int fd, int how)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    MIDGE_ASSERT(how == SHUT_WR || how == SHUT_RDWR);
    ring->ops->shutdown(ring, fd, how);
}

void midge_ring_close(struct midge_ring *ring, int fd)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    ring->ops->close(ring, fd);
}

void midge_ring_wait(struct midge_ring *ring, uint64_t deadline_ns, uint64_t spin_ns)
{
    assert_owner(ring);
    midge_ring_count(&ring->waits);
    ring->ops->wait(ring, deadline_ns, spin_ns);

    /* Take a doorbell over, and end a sleep. The load keeps the locked exchange off turns that had
     * neither; a doorbell that it misses is still in the word at the next wait. */
    if (atomic_load_explicit(&ring->bell, memory_order_relaxed) != MIDGE_RING_BELL_AWAKE) {
        /* Acquire pairs with the release in midge_ring_doorbell(): what the ringer wrote before it
         * is visible to the caller after this wait. */
        (void)atomic_exchange_explicit(&ring->bell, MIDGE_RING_BELL_AWAKE, memory_order_acq_rel);
    }
}

bool midge_ring_next(struct midge_ring *ring, struct midge_ring_event *event_out)
{
    assert_owner(ring);
    return ring->ops->next(ring, event_out);
}

void midge_ring_doorbell(struct midge_ring *ring)
{
    /* Pairs with the exchange at the end of midge_ring_wait() (release) and with the
     * compare-exchange in midge_ring_bell_begin_sleep(): either that one finds RUNG, or this one
     * finds ASLEEP. */
    if (atomic_exchange_explicit(&ring->bell, MIDGE_RING_BELL_RUNG, memory_order_seq_cst) !=
        MIDGE_RING_BELL_ASLEEP)
        return;
    (void)atomic_fetch_add_explicit(&ring->wakes, 1, memory_order_relaxed); /* a statistic */
    ring->ops->wake(ring);
}

int midge_ring_fd(struct midge_ring *ring)
{
    assert_owner(ring);
    return ring->ops->fd == NULL ? -1 : ring->ops->fd(ring);
}

bool midge_ring_park(struct midge_ring *ring)
{
    assert_owner(ring);
    return ring->ops->park == NULL ? midge_ring_bell_begin_sleep(ring) : ring->ops->park(ring);
}

void midge_ring_take(struct midge_ring *ring)
{
    MIDGE_ASSERT(ring->ops->kind != MIDGE_RING_KIND_URING);
    ring->owner = pthread_self();
}

void midge_ring_abandon(struct midge_ring *ring)
{
    /* Closing and unmapping is all that destroy does; neither is seen by the parent. */
    ring->ops->destroy(ring);
}

uint64_t midge_ring_now_ns(struct midge_ring *ring)
{
    return ring->ops->now_ns(ring);
}

uint64_t midge_ring_busy_ns(struct midge_ring *ring)
{
    return ring->ops->busy_ns(ring);
}

uint64_t midge_ring_idle_ns(struct midge_ring *ring)
{
    assert_owner(ring);
    return ring->ops->idle_ns(ring);
}

uint64_t midge_ring_random(struct midge_ring *ring)
{
    uint64_t mixed;

    assert_owner(ring);
    /* SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
     * OOPSLA 2014; constants of Vigna's splitmix64.c. */
    ring->random_state += 0x9e3779b97f4a7c15ull;
    mixed = ring->random_state;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ull;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebull;
    return mixed ^ (mixed >> 31);
}

int midge_ring_peer(struct midge_ring *ring, int fd, struct midge_ring_peer *peer_out)
{
    assert_owner(ring);
    MIDGE_ASSERT(fd >= 0);
    MIDGE_ASSERT(peer_out != NULL);
    return ring->ops->peer(ring, fd, peer_out);
}

void midge_ring_counts(const struct midge_ring *ring, struct midge_ring_counts *counts_out)
{
    counts_out->waits = atomic_load_explicit(&ring->waits, memory_order_relaxed);
    counts_out->enters = atomic_load_explicit(&ring->enters, memory_order_relaxed);
    counts_out->sleeps = atomic_load_explicit(&ring->sleeps, memory_order_relaxed);
    counts_out->spins = atomic_load_explicit(&ring->spins, memory_order_relaxed);
    counts_out->spin_hits = atomic_load_explicit(&ring->spin_hits, memory_order_relaxed);
    counts_out->spin_ns = atomic_load_explicit(&ring->spin_ns, memory_order_relaxed);
    counts_out->overflows = atomic_load_explicit(&ring->overflows, memory_order_relaxed);
    counts_out->no_buffers = atomic_load_explicit(&ring->no_buffers, memory_order_relaxed);
    counts_out->doorbells = atomic_load_explicit(&ring->wakes, memory_order_relaxed);
}
