/*
 * The I/O seam on io_uring.
 *
 * One ring per thread (SINGLE_ISSUER, DEFER_TASKRUN: completions run in our own enter, in batches
 * and without interrupts), multishot accept and recv, one provided buffer ring, and one
 * io_uring_enter per turn that submits and waits.
 *
 * Sends are silent: IOSQE_CQE_SKIP_SUCCESS together with MSG_WAITALL | MSG_DONTWAIT. Each part is
 * needed. Without MSG_DONTWAIT a full socket parks the send in the kernel; without MSG_WAITALL a
 * short send counts as success, posts nothing, and its tail is lost. Together they are tried
 * exactly once, inside the enter that submits them, and complain in its completions. So a send is
 * settled when that enter has returned and its completions are read, and nothing that was lent to
 * it is needed after.
 *
 * Provided buffers: free ones lie on a stack, and only as many as recent turns used are posted, so
 * a quiet ring works in a few warm buffers instead of cycling through all of them.
 *
 * Thread: shard, but for wake().
 * Memory: mapped at create, touched when used: rings, buffers, arena.
 * Source: io_uring_setup(2), io_uring_enter(2), io_uring_register_buf_ring(3),
 * io_uring_prep_send(3), io_uring_prep_recv(3), io_uring_prep_cancel(3); behaviour of sends tried
 * on Linux 6.18.
 */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ring_internal.h"

#define NS_PER_S 1000000000ull

/* Newer than liburing 2.3. Source: include/uapi/linux/io_uring.h of Linux 6.15. */
#define ENTER_NO_IOWAIT (1u << 7)
#define FEAT_NO_IOWAIT  (1u << 17)

#define FEATURES_NEEDED (IORING_FEAT_NODROP | IORING_FEAT_CQE_SKIP)

#define BUFFER_GROUP 0

/* Turns between two looks at whether fewer buffers would do. */
#define POSTED_WINDOW_TURNS 1024u

/* Bytes for the headers of gathered sends between two submits; full, the queue is submitted early.
 */
#define ARENA_LEN 65536u

/* Bytes of one send at most: the kernel silently takes no more than 2 GiB less a page, and a length
 * field has 32 bits. Source: Linux include/linux/fs.h, MAX_RW_COUNT. Pieces up to PIECE_LEN_SURE
 * cannot sum up to more. */
#define SEND_LEN_MAX   (1u << 30)
#define PIECE_LEN_SURE (SEND_LEN_MAX / MIDGE_RING_IOV_MAX)

/* While watching: length of the phase without yields, and looks between two readings of the clock.
 */
#define PAUSE_PHASE_NS 1500u
#define PAUSE_LOOKS    8u

/* Failed enters in a row before yielding, and before sleeping a millisecond each. */
#define FAILURES_BEFORE_YIELD 4u
#define FAILURES_BEFORE_SLEEP 64u

/* What user_data says an operation is: an event kind, or one of the ring's own. */
enum {
    OWN_BELL = 0x40,
    OWN_TIMER,
    OWN_QUIET, /* nobody wants to know */
};

/* A gathered send; the kernel reads it during the enter that submits it. */
struct send_message {
    struct msghdr header;
    struct iovec pieces[];
};
static_assert(sizeof(struct iovec) % alignof(struct send_message) == 0, "arena stays aligned");

/* Thread: shard. */
struct uring {
    struct midge_ring base;

    /* Constant after init. */
    struct io_uring ring; /* its queues are shared with the kernel */
    uint32_t enter_flags; /* of every enter */
    uint32_t sleep_flags; /* of an enter that may sleep */
    int bell_fd;          /* eventfd; never read, the multishot poll on it sees each write */
    uint8_t *pool;
    struct io_uring_buf_ring *buffer_ring;
    uint16_t *free_stack;
    uint8_t *arena;
    uint32_t buffer_count;
    uint32_t buffer_len;
    uint32_t posted_min;

    /* For an owner that polls elsewhere; read by any thread that rings. */
    _Atomic int outside_fd;  /* eventfd; -1 = nobody has asked for it */
    _Atomic bool is_outside; /* from park() to the next wait: a doorbell goes there */

    /* The turn. */
    uint32_t
        turn_tail; /* submission tail at the last wait: the turn ends when all before is taken */
    uint32_t failure_count; /* enters failed in a row */
    int32_t borrowed;       /* buffer of the last event, or -1 */
    bool is_bell_armed;
    uint64_t timer_at_ns; /* when the timer in the ring fires, UINT64_MAX = not armed */
    struct __kernel_timespec timer_value; /* read by the kernel when it takes the entry */
    uint32_t arena_len;                   /* bytes in use */

    /* Provided buffers. */
    uint32_t free_count;
    uint32_t posted;        /* with the kernel, or in completions not read yet */
    uint32_t posted_wanted; /* refill up to here */
    uint32_t taken;         /* buffers that came in this turn */
    uint32_t starved;       /* recvs that ended for want of one in this turn */
    uint32_t taken_max;     /* most taken in one turn of this window */
    uint32_t window_turns;
};

static struct uring *uring_of(struct midge_ring *ring)
{
    return (struct uring *)ring;
}

static uint64_t pack(uint32_t kind, struct midge_handle handle)
{
    return (uint64_t)kind << 56 | (uint64_t)handle.generation << 24 | handle.index;
}

static uint64_t own_data(uint32_t kind)
{
    return pack(kind, (struct midge_handle){.index = MIDGE_RING_INDEX_MAX + 1});
}

static inline bool cq_has_work(const struct uring *uring)
{
    return io_uring_smp_load_acquire(uring->ring.cq.ktail) != *uring->ring.cq.khead;
}

/* Flags by which the kernel asks to be entered: task work is waiting, or completions overflowed. */
static inline uint32_t kernel_wants(const struct uring *uring)
{
    return IO_URING_READ_ONCE(*uring->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* Entries the kernel has not taken yet. */
static inline uint32_t sq_pending(const struct uring *uring)
{
    return uring->ring.sq.sqe_tail - IO_URING_READ_ONCE(*uring->ring.sq.khead);
}

/* Show the kernel all entries that were filled; how many it has not taken. */
static inline uint32_t sq_publish(struct uring *uring)
{
    uring->ring.sq.sqe_head = uring->ring.sq.sqe_tail;
    io_uring_smp_store_release(uring->ring.sq.ktail, uring->ring.sq.sqe_tail);
    return sq_pending(uring);
}

/*
 * One io_uring_enter. Failures leave the entries where they are, so the callers that must get them
 * out call again; only what no retry can mend is a broken invariant.
 */
static void enter(struct uring *uring, uint32_t to_submit, uint32_t min_complete, uint32_t flags)
{
    int res;

    midge_ring_count(&uring->base.enters);
    res = io_uring_enter((unsigned)uring->ring.enter_ring_fd, to_submit, min_complete,
                         flags | uring->enter_flags, NULL);
    if (MIDGE_LIKELY(res >= 0 || res == -EINTR)) {
        uring->failure_count = 0;
        return;
    }
    if (res ==
        -EBADR) { /* the kernel had no memory for completions that overflowed: they are gone */
        midge_ring_count(&uring->base.overflows);
        return;
    }
    MIDGE_ASSERT(res == -EAGAIN || res == -EBUSY || res == -ENOMEM);
    uring->failure_count++;
}

/* Give a kernel that is short of memory time to find some. */
static MIDGE_COLD void back_off(const struct uring *uring)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    if (uring->failure_count > FAILURES_BEFORE_SLEEP)
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    else if (uring->failure_count > FAILURES_BEFORE_YIELD)
        (void)sched_yield();
}

/* Submit all entries, now, however long it takes. */
static MIDGE_COLD void submit_all(struct uring *uring)
{
    uint32_t pending;

    while ((pending = sq_publish(uring)) != 0) {
        enter(uring, pending, 0, 0);
        if (uring->failure_count != 0) {
            enter(uring, 0, 0, IORING_ENTER_GETEVENTS); /* finish what can free memory */
            back_off(uring);
        }
    }
}

static inline struct io_uring_sqe *sqe_take(struct uring *uring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

    if (MIDGE_UNLIKELY(sqe == NULL)) {
        submit_all(uring);
        sqe = io_uring_get_sqe(&uring->ring);
        MIDGE_ASSERT(sqe != NULL);
    }
    return sqe;
}

/* Provided buffers. */

static uint8_t *buffer_at(const struct uring *uring, uint32_t index)
{
    return uring->pool + (size_t)index * uring->buffer_len;
}

static inline void buffer_give_back(struct uring *uring, uint32_t index)
{
    MIDGE_ASSERT(uring->free_count < uring->buffer_count);
    MIDGE_RING_POISON(buffer_at(uring, index), uring->buffer_len);
    uring->free_stack[uring->free_count++] = (uint16_t)index;
}

static inline void borrowed_give_back(struct uring *uring)
{
    if (uring->borrowed >= 0) {
        buffer_give_back(uring, (uint32_t)uring->borrowed);
        uring->borrowed = -1;
    }
}

/* Once per turn: post more buffers after a shortage at once, fewer after a quiet window. */
static inline void buffers_adapt(struct uring *uring)
{
    if (uring->taken > uring->taken_max)
        uring->taken_max = uring->taken;
    while (uring->starved != 0 && uring->posted_wanted < uring->buffer_count &&
           uring->posted_wanted < 2 * (uring->taken + uring->starved))
        uring->posted_wanted *= 2;
    uring->taken = 0;
    uring->starved = 0;

    if (++uring->window_turns < POSTED_WINDOW_TURNS)
        return;
    if (uring->posted_wanted > uring->posted_min && uring->taken_max < uring->posted_wanted / 4)
        uring->posted_wanted /= 2;
    uring->window_turns = 0;
    uring->taken_max = 0;
}

static inline void buffers_post(struct uring *uring)
{
    const int mask = io_uring_buf_ring_mask(uring->buffer_count);
    int added = 0;

    while (uring->posted < uring->posted_wanted && uring->free_count > 0) {
        const uint16_t index = uring->free_stack[--uring->free_count];

        io_uring_buf_ring_add(uring->buffer_ring, buffer_at(uring, index), uring->buffer_len, index,
                              mask, added);
        added++;
        uring->posted++;
    }
    if (added > 0)
        io_uring_buf_ring_advance(uring->buffer_ring, added);
}

/* Operations. */

static int uring_adopt(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    /* Linux 6.18 arms on O_NONBLOCK descriptors, too; others were seen to answer -EAGAIN. */
    const int res = midge_ring_os_set_nonblocking(fd, false);

    (void)ring;
    (void)handle;
    return res != 0 ? res : midge_ring_os_set_nodelay(fd);
}

static void uring_accept(struct midge_ring *ring, int listener_fd, struct midge_handle handle)
{
    struct io_uring_sqe *sqe = sqe_take(uring_of(ring));

    (void)!midge_ring_os_set_nonblocking(listener_fd, false); /* a bad one shows as an event */
    io_uring_prep_multishot_accept(sqe, listener_fd, NULL, NULL, SOCK_CLOEXEC);
    sqe->user_data = pack(MIDGE_RING_ACCEPT, handle);
}

static void uring_recv(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    struct io_uring_sqe *sqe = sqe_take(uring_of(ring));

    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    sqe->user_data = pack(MIDGE_RING_RECV, handle);
}

/* Room for a gathered send; stays until the kernel has taken all entries queued so far. */
static struct send_message *arena_take(struct uring *uring, uint32_t piece_count)
{
    const uint32_t len =
        (uint32_t)(sizeof(struct send_message) + piece_count * sizeof(struct iovec));
    struct send_message *message;

    if (uring->arena_len + len > ARENA_LEN)
        submit_all(uring);
    if (sq_pending(uring) == 0)
        uring->arena_len = 0;
    message = (struct send_message *)(void *)(uring->arena + uring->arena_len);
    uring->arena_len += len;
    return message;
}
static_assert(sizeof(struct send_message) + MIDGE_RING_IOV_MAX * sizeof(struct iovec) <= ARENA_LEN,
              "the largest send fits an empty arena");

/* Leave out what is over SEND_LEN_MAX; false if nothing is. The pieces kept go to clipped. */
static MIDGE_COLD bool clip(const struct iovec *pieces, uint32_t *piece_count,
                            struct iovec clipped[MIDGE_RING_IOV_MAX])
{
    size_t room = SEND_LEN_MAX;

    for (uint32_t index = 0; index < *piece_count; index++) {
        clipped[index] = pieces[index];
        if (pieces[index].iov_len > room) {
            clipped[index].iov_len = room;
            *piece_count = index + 1;
            return true;
        }
        room -= pieces[index].iov_len;
    }
    return false;
}

static void uring_send(struct midge_ring *ring, int fd, struct midge_handle handle,
                       const struct iovec *pieces, uint32_t piece_count)
{
    const unsigned flags = MSG_WAITALL | MSG_DONTWAIT | MSG_NOSIGNAL;
    struct uring *uring = uring_of(ring);
    struct iovec clipped[MIDGE_RING_IOV_MAX];
    struct io_uring_sqe *sqe;
    bool is_clipped = false;

    for (uint32_t index = 0; index < piece_count; index++) {
        if (MIDGE_UNLIKELY(pieces[index].iov_len > PIECE_LEN_SURE)) {
            is_clipped = clip(pieces, &piece_count, clipped);
            pieces = clipped;
            break;
        }
    }
    if (piece_count == 1) {
        sqe = sqe_take(uring);
        io_uring_prep_send(sqe, fd, pieces[0].iov_base, pieces[0].iov_len, (int)flags);
    } else {
        struct send_message *message = arena_take(uring, piece_count);

        memset(&message->header, 0, sizeof(message->header));
        memcpy(message->pieces, pieces, piece_count * sizeof(*pieces));
        message->header.msg_iov = message->pieces;
        message->header.msg_iovlen = piece_count;
        sqe = sqe_take(uring);
        io_uring_prep_sendmsg(sqe, fd, &message->header, flags);
    }
    if (MIDGE_LIKELY(!is_clipped)) /* else success is short, too, and must be told */
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = pack(MIDGE_RING_SEND, handle);
}

static void uring_poll_out(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    struct io_uring_sqe *sqe = sqe_take(uring_of(ring));

    io_uring_prep_poll_add(sqe, fd, POLLOUT);
    sqe->user_data = pack(MIDGE_RING_POLL_OUT, handle);
}

static void uring_cancel(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    struct io_uring_sqe *sqe = sqe_take(uring_of(ring));

    (void)handle;
    /* What became of it is told by the last events of the cancelled operations. */
    io_uring_prep_cancel_fd(sqe, fd, IORING_ASYNC_CANCEL_ALL);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = own_data(OWN_QUIET);
}

static void uring_close(struct midge_ring *ring, int fd)
{
    (void)ring;
    (void)close(fd); /* Linux frees the number whatever close() answers: close(2), NOTES */
}

static void bell_arm(struct uring *uring)
{
    struct io_uring_sqe *sqe = sqe_take(uring);

    io_uring_prep_poll_multishot(sqe, uring->bell_fd, POLLIN);
    sqe->user_data = own_data(OWN_BELL);
    uring->is_bell_armed = true;
}

/* An owner outside of the ring sleeps on outside_fd alone, so a doorbell must write that: the
 * kernel does not pass a write to bell_fd on from within it. Relaxed: who found the owner asleep
 * sees what it wrote before that; if it has come back meanwhile, it has found the doorbell in the
 * word. */
static void uring_wake(struct midge_ring *ring)
{
    struct uring *uring = uring_of(ring);
    const bool is_outside = atomic_load_explicit(&uring->is_outside, memory_order_relaxed);
    const int outside_fd = atomic_load_explicit(&uring->outside_fd, memory_order_relaxed);
    const uint64_t one = 1;

    /* The count never fills up: that takes 2^64 wakes. */
    (void)!write(is_outside ? outside_fd : uring->bell_fd, &one, sizeof(one));
}

/* An eventfd that the kernel signals when there is work. Not the ring's own descriptor: with
 * DEFER_TASKRUN completions are made by our own enter, and until then the kernel wakes nobody who
 * sleeps in a poll of the ring (tried on Linux 6.18), though a new poll finds it readable. */
static int uring_fd(struct midge_ring *ring)
{
    struct uring *uring = uring_of(ring);
    int fd = atomic_load_explicit(&uring->outside_fd, memory_order_relaxed);

    if (fd >= 0)
        return fd;
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -1;
    if (io_uring_register_eventfd(&uring->ring, fd) != 0) {
        (void)close(fd);
        return -1;
    }
    atomic_store_explicit(&uring->outside_fd, fd, memory_order_relaxed);
    return fd;
}

static bool uring_park(struct midge_ring *ring)
{
    struct uring *uring = uring_of(ring);
    const int fd = atomic_load_explicit(&uring->outside_fd, memory_order_relaxed);
    uint64_t count;

    MIDGE_ASSERT(fd >= 0);
    /* In this order: what is signalled before the read shows in the ring, or in the word of the
     * doorbell; what comes after it is in the descriptor. */
    (void)!read(fd, &count, sizeof(count));
    atomic_store_explicit(&uring->is_outside, true, memory_order_relaxed);
    return sq_pending(uring) == 0 && midge_ring_bell_begin_sleep(ring) &&
           kernel_wants(uring) == 0 && !cq_has_work(uring);
}

/* Waiting. */

/* Submit, and run what the kernel has for us, without waiting; no system call if there is neither.
 */
static inline void flush(struct uring *uring, uint32_t pending)
{
    if (pending != 0 || kernel_wants(uring) != 0)
        enter(uring, pending, 0, IORING_ENTER_GETEVENTS);
}

/*
 * Watch from user space, first with pauses, then yielding the core between looks, since what we
 * wait for may want to run on it. A yield that takes long ran somebody else: the core is not ours
 * to burn, and sleeping is the faster way to give it away.
 */
static enum midge_watch watch(struct uring *uring, uint64_t deadline_ns, uint64_t spin_ns,
                              uint64_t *watched_ns_out)
{
    const uint64_t begun_ns = midge_ring_os_now_ns(NULL);
    uint64_t now_ns = begun_ns;

    while (now_ns < deadline_ns && now_ns - begun_ns < spin_ns) {
        uint64_t before_ns = now_ns;

        for (uint32_t look = 0; look < PAUSE_LOOKS; look++) {
            if (kernel_wants(uring) != 0)
                enter(uring, 0, 0, IORING_ENTER_GETEVENTS);
            if (cq_has_work(uring) || midge_ring_bell_is_rung(&uring->base))
                return MIDGE_WATCH_WORK;
            if (now_ns - begun_ns >= PAUSE_PHASE_NS)
                break;
            midge_cpu_pause();
        }
        if (now_ns - begun_ns >= PAUSE_PHASE_NS) {
            before_ns = midge_ring_os_now_ns(NULL);
            (void)sched_yield();
        }
        now_ns = midge_ring_os_now_ns(NULL);
        *watched_ns_out = now_ns - begun_ns;
        if (now_ns - begun_ns >= PAUSE_PHASE_NS && now_ns - before_ns > MIDGE_WATCH_CROWDED_NS)
            return MIDGE_WATCH_CROWDED;
    }
    return MIDGE_WATCH_NOTHING;
}

/*
 * See to it that something wakes us at the deadline. A timeout given to io_uring_enter would be
 * started and stopped in each sleep, 0.3 us of it. Deadlines move rarely, and a wait may end early;
 * so one timer stays armed in the ring, is moved when the deadline comes nearer, and left alone
 * when it recedes.
 */
static inline void timer_set(struct uring *uring, uint64_t deadline_ns)
{
    const bool is_armed = uring->timer_at_ns != UINT64_MAX;
    struct io_uring_sqe *sqe;

    if (uring->timer_at_ns <= deadline_ns)
        return;
    sqe = sqe_take(uring);
    uring->timer_value.tv_sec = (int64_t)(deadline_ns / NS_PER_S);
    uring->timer_value.tv_nsec = (long long)(deadline_ns % NS_PER_S);
    if (is_armed) {
        /* If it fired a moment ago there is none to move (-ENOENT); its own completion tells. */
        io_uring_prep_timeout_update(sqe, &uring->timer_value, own_data(OWN_TIMER),
                                     IORING_TIMEOUT_ABS);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        sqe->user_data = own_data(OWN_QUIET);
    } else {
        io_uring_prep_timeout(sqe, &uring->timer_value, 0, IORING_TIMEOUT_ABS);
        sqe->user_data = own_data(OWN_TIMER);
    }
    uring->timer_at_ns = deadline_ns;
}

/* Submit and sleep in one system call. */
static void submit_and_sleep(struct uring *uring, uint64_t deadline_ns)
{
    uint32_t pending;

    timer_set(uring, deadline_ns);
    pending = sq_publish(uring);
    uring->turn_tail = uring->ring.sq.sqe_tail;
    if (!midge_ring_bell_begin_sleep(&uring->base)) {
        flush(uring, pending);
        return;
    }
    midge_ring_count(&uring->base.sleeps);
    enter(uring, pending, 1, uring->sleep_flags);
    if (MIDGE_UNLIKELY(uring->failure_count != 0))
        back_off(uring);
}

static void uring_wait(struct midge_ring *ring, uint64_t deadline_ns, uint64_t spin_ns)
{
    struct uring *uring = uring_of(ring);
    uint32_t pending;

    if (MIDGE_UNLIKELY(atomic_load_explicit(&uring->is_outside, memory_order_relaxed)))
        atomic_store_explicit(&uring->is_outside, false, memory_order_relaxed);
    borrowed_give_back(uring);
    buffers_adapt(uring);
    buffers_post(uring);
    if (MIDGE_UNLIKELY(!uring->is_bell_armed))
        bell_arm(uring);
    pending = sq_publish(uring);
    uring->turn_tail = uring->ring.sq.sqe_tail;

    if (deadline_ns == 0 || cq_has_work(uring) || midge_ring_bell_is_rung(ring)) {
        flush(uring, pending);
        return;
    }
    if (spin_ns != 0) {
        flush(uring, pending);
        if (cq_has_work(uring))
            return;
        uint64_t watched_ns = 0;
        const enum midge_watch watched = watch(uring, deadline_ns, spin_ns, &watched_ns);

        midge_ring_count(&ring->spins);
        midge_ring_add(&ring->spin_ns, watched_ns);
        if (watched == MIDGE_WATCH_WORK) {
            midge_ring_count(&ring->spin_hits);
            return;
        }
    }
    submit_and_sleep(uring, deadline_ns);
}

/* True while completions of this turn may be missing: not all submitted, or some in the overflow
 * list. */
static inline bool is_unsettled(const struct uring *uring)
{
    const uint32_t taken = IO_URING_READ_ONCE(*uring->ring.sq.khead);

    return (int32_t)(uring->turn_tail - taken) > 0 ||
           (IO_URING_READ_ONCE(*uring->ring.sq.kflags) & IORING_SQ_CQ_OVERFLOW) != 0;
}

static MIDGE_COLD void settle(struct uring *uring)
{
    const uint32_t left = uring->turn_tail - IO_URING_READ_ONCE(*uring->ring.sq.khead);

    if ((IO_URING_READ_ONCE(*uring->ring.sq.kflags) & IORING_SQ_CQ_OVERFLOW) != 0)
        midge_ring_count(&uring->base.overflows);
    enter(uring, (int32_t)left > 0 ? left : 0, 0, IORING_ENTER_GETEVENTS);
    if (uring->failure_count != 0)
        back_off(uring);
}

static inline void take_buffer(struct uring *uring, const struct io_uring_cqe *cqe,
                               struct midge_ring_event *event_out)
{
    const uint32_t index = cqe->flags >> IORING_CQE_BUFFER_SHIFT;

    MIDGE_ASSERT(index < uring->buffer_count);
    MIDGE_ASSERT(uring->posted > 0);
    uring->posted--;
    uring->taken++;
    if (cqe->res <= 0) {
        buffer_give_back(uring, index);
        return;
    }
    MIDGE_ASSERT((uint32_t)cqe->res <= uring->buffer_len);
    MIDGE_RING_UNPOISON(buffer_at(uring, index), (uint32_t)cqe->res);
    uring->borrowed = (int32_t)index;
    event_out->bytes = midge_slice_make(buffer_at(uring, index), (uint32_t)cqe->res);
}

/* Turn a completion into an event; false if it is one of the ring's own. */
static inline bool deliver(struct uring *uring, const struct io_uring_cqe *cqe,
                           struct midge_ring_event *event_out)
{
    const uint32_t kind = (uint32_t)(cqe->user_data >> 56);
    const bool more = (cqe->flags & IORING_CQE_F_MORE) != 0;

    if (MIDGE_UNLIKELY(kind >= OWN_BELL)) {
        if (kind == OWN_BELL)
            uring->is_bell_armed = more;
        else if (kind == OWN_TIMER)
            uring->timer_at_ns = UINT64_MAX;
        return false;
    }
    event_out->kind = (enum midge_ring_event_kind)kind;
    event_out->handle.index = (uint32_t)(cqe->user_data & 0xffffffu);
    event_out->handle.generation = (uint32_t)(cqe->user_data >> 24);
    event_out->res = cqe->res;
    event_out->more = more;
    event_out->bytes = (struct midge_slice){0};
    if ((cqe->flags & IORING_CQE_F_BUFFER) != 0) {
        take_buffer(uring, cqe, event_out);
    } else if (kind == MIDGE_RING_RECV && cqe->res == -ENOBUFS) {
        uring->starved++;
        midge_ring_count(&uring->base.no_buffers);
    }
    return true;
}

static bool uring_next(struct midge_ring *ring, struct midge_ring_event *event_out)
{
    struct uring *uring = uring_of(ring);

    borrowed_give_back(uring);
    for (;;) {
        const uint32_t tail = io_uring_smp_load_acquire(uring->ring.cq.ktail);
        uint32_t head = *uring->ring.cq.khead;

        while (head != tail) {
            const struct io_uring_cqe *slot =
                &uring->ring.cq.cqes[head & *uring->ring.cq.kring_mask];
            const struct io_uring_cqe cqe = {
                .user_data = slot->user_data, .res = slot->res, .flags = slot->flags};

            io_uring_smp_store_release(uring->ring.cq.khead, ++head);
            if (deliver(uring, &cqe, event_out))
                return true;
        }
        if (MIDGE_LIKELY(!is_unsettled(uring)))
            return false;
        settle(uring);
    }
}

/* Life. */

static void uring_free(struct uring *uring)
{
    if (uring->ring.ring_fd >= 0)
        io_uring_queue_exit(&uring->ring);
    if (uring->buffer_ring != NULL)
        (void)munmap(uring->buffer_ring, uring->buffer_count * sizeof(struct io_uring_buf));
    if (uring->pool != NULL) {
        MIDGE_RING_UNPOISON(uring->pool, (size_t)uring->buffer_count * uring->buffer_len);
        (void)munmap(uring->pool, (size_t)uring->buffer_count * uring->buffer_len);
    }
    if (uring->bell_fd >= 0)
        (void)close(uring->bell_fd);
    if (atomic_load_explicit(&uring->outside_fd, memory_order_relaxed) >= 0)
        (void)close(atomic_load_explicit(&uring->outside_fd, memory_order_relaxed));
    free(uring->free_stack);
    free(uring->arena);
    free(uring);
}

static void uring_destroy(struct midge_ring *ring)
{
    uring_free(uring_of(ring));
}

static const struct midge_ring_ops uring_ops = {
    .kind = MIDGE_RING_KIND_URING,
    .destroy = uring_destroy,
    .adopt = uring_adopt,
    .accept = uring_accept,
    .recv = uring_recv,
    .send = uring_send,
    .try_send = midge_ring_os_try_send,
    .poll_out = uring_poll_out,
    .cancel = uring_cancel,
    .shutdown = midge_ring_os_shutdown,
    .close = uring_close,
    .wait = uring_wait,
    .next = uring_next,
    .wake = uring_wake,
    .fd = uring_fd,
    .park = uring_park,
    .now_ns = midge_ring_os_now_ns,
    .busy_ns = midge_ring_os_busy_ns,
    .idle_ns = midge_ring_os_idle_ns,
    .peer = midge_ring_os_peer,
};

/* Set the ring up with as many of the wanted flags as the kernel knows. */
static enum midge_status setup_queues(struct uring *uring, const struct midge_ring_options *options,
                                      char why[128])
{
    /* From best to least. Source: io_uring_setup(2): DEFER_TASKRUN 6.1, SINGLE_ISSUER 6.0,
     * COOP_TASKRUN and TASKRUN_FLAG 5.19, SUBMIT_ALL 5.18. */
    static const uint32_t ladder[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_SUBMIT_ALL,
        0,
    };
    struct io_uring_params params;
    int res = -EINVAL;

    for (size_t step = 0; step < sizeof(ladder) / sizeof(ladder[0]) && res == -EINVAL; step++) {
        memset(&params, 0, sizeof(params));
        params.flags = ladder[step] | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
        params.cq_entries =
            options->cq_entries > options->sq_entries ? options->cq_entries : options->sq_entries;
        res = io_uring_queue_init_params(options->sq_entries, &uring->ring, &params);
    }
    if (res != 0) {
        uring->ring.ring_fd = -1;
        midge_ring_explain(why, "io_uring_setup: %s%s", strerror(-res),
                           res == -EPERM ? " (seccomp or kernel.io_uring_disabled)" : "");
        return res == -ENOMEM ? MIDGE_E_MEMORY : MIDGE_E_SYSTEM;
    }
    if ((params.features & FEATURES_NEEDED) != FEATURES_NEEDED) {
        midge_ring_explain(why, "io_uring lacks features: has 0x%x, needs 0x%x", params.features,
                           (unsigned)FEATURES_NEEDED);
        return MIDGE_E_SYSTEM;
    }
    uring->sleep_flags = IORING_ENTER_GETEVENTS;
    if ((params.features & FEAT_NO_IOWAIT) != 0)
        uring->sleep_flags |= ENTER_NO_IOWAIT;
    if (io_uring_register_ring_fd(&uring->ring) == 1)
        uring->enter_flags = IORING_ENTER_REGISTERED_RING;
    return MIDGE_OK;
}

static void *map_zeroed(size_t len)
{
    void *base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return base == MAP_FAILED ? NULL : base;
}

/* liburing 2.3 has no io_uring_setup_buf_ring(), so the ring of buffers is mapped and registered
 * here. */
static enum midge_status setup_buffers(struct uring *uring, char why[128])
{
    struct io_uring_buf_reg registration = {0};
    int res;

    uring->buffer_ring = map_zeroed(uring->buffer_count * sizeof(struct io_uring_buf));
    uring->pool = map_zeroed((size_t)uring->buffer_count * uring->buffer_len);
    uring->free_stack = calloc(uring->buffer_count, sizeof(*uring->free_stack));
    uring->arena = malloc(ARENA_LEN);
    if (uring->buffer_ring == NULL || uring->pool == NULL || uring->free_stack == NULL ||
        uring->arena == NULL) {
        midge_ring_explain(why, "no memory for %u receive buffers of %u bytes", uring->buffer_count,
                           uring->buffer_len);
        return MIDGE_E_MEMORY;
    }
    registration.ring_addr = (uint64_t)(uintptr_t)uring->buffer_ring;
    registration.ring_entries = uring->buffer_count;
    registration.bgid = BUFFER_GROUP;
    res = io_uring_register_buf_ring(&uring->ring, &registration, 0);
    if (res != 0) {
        midge_ring_explain(why, "io_uring_register_buf_ring: %s", strerror(-res));
        return MIDGE_E_SYSTEM;
    }
    io_uring_buf_ring_init(uring->buffer_ring);
    /* Highest index first, so that the stack hands out the lowest. */
    for (uint32_t index = uring->buffer_count; index-- > 0;)
        buffer_give_back(uring, index);
    uring->posted_wanted = uring->posted_min;
    return MIDGE_OK;
}

enum midge_status midge_ring_uring_create(const struct midge_ring_options *options,
                                          struct midge_ring **ring_out, char why[128])
{
    struct uring *uring = aligned_alloc(alignof(struct uring), sizeof(*uring));
    enum midge_status status;

    if (uring == NULL) {
        midge_ring_explain(why, "no memory for a ring");
        return MIDGE_E_MEMORY;
    }
    memset(uring, 0, sizeof(*uring));
    midge_ring_base_init(&uring->base, &uring_ops, midge_ring_os_seed());
    uring->ring.ring_fd = -1;
    uring->borrowed = -1;
    uring->timer_at_ns = UINT64_MAX;
    atomic_init(&uring->outside_fd, -1);
    uring->buffer_count = options->buffer_count;
    uring->buffer_len = options->buffer_len;
    uring->posted_min = options->buffers_at_rest;
    uring->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (uring->bell_fd < 0) {
        midge_ring_explain(why, "eventfd: %s", strerror(errno));
        status = MIDGE_E_SYSTEM;
        goto err_free;
    }
    status = setup_queues(uring, options, why);
    if (status != MIDGE_OK)
        goto err_free;
    status = setup_buffers(uring, why);
    if (status != MIDGE_OK)
        goto err_free;
    *ring_out = &uring->base;
    return MIDGE_OK;

err_free:
    uring_free(uring);
    return status;
}
