/*
 * The I/O seam on epoll, for kernels and sandboxes that refuse io_uring. It keeps the contract, and
 * makes no promise of speed.
 *
 * Level-triggered: readiness is the kernel's to remember, so nothing is missed after a short read,
 * and one read of one buffer per connection and turn is fair by itself. What is not wanted is not
 * watched: a level-triggered hang-up on a paused connection would make every wait return at once.
 *
 * Operations change marks of their descriptor; the next wait makes the queued sends, ends what was
 * cancelled, and brings epoll's view in line (one epoll_ctl per changed descriptor). An operation
 * that ended without readiness (a short send, a cancelled recv) waits in a list of descriptors,
 * which needs no memory of its own because each descriptor has at most one operation of each kind.
 *
 * Thread: shard, but for wake().
 * Memory: one slot per possible descriptor, mapped at create, touched when used.
 * Source: epoll(7), epoll_ctl(2), accept(2), send(2).
 */
#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ring_internal.h"

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

/* Descriptors at most: more than midge takes connections, whatever the limit of the process is. */
#define DESCRIPTORS_MAX (MIDGE_CONNECTIONS_MAX + 65536u)

/* Descriptors that one wait can report; the others follow in the next, the kernel takes turns. */
#define READY_MAX 512u

/* Connections taken from one listener in one turn. */
#define ACCEPTS_MAX 64u

#define INPUT_MASK  (EPOLLIN | EPOLLHUP | EPOLLERR)
#define OUTPUT_MASK (EPOLLOUT | EPOLLHUP | EPOLLERR)

enum operation {
    OPERATION_ACCEPT = 0,
    OPERATION_RECV,
    OPERATION_POLL_OUT,
    OPERATION_SEND,
    OPERATION_COUNT,
};

static const enum midge_ring_event_kind operation_kinds[OPERATION_COUNT] = {
    [OPERATION_ACCEPT] = MIDGE_RING_ACCEPT,
    [OPERATION_RECV] = MIDGE_RING_RECV,
    [OPERATION_POLL_OUT] = MIDGE_RING_POLL_OUT,
    [OPERATION_SEND] = MIDGE_RING_SEND,
};

/* Thread: shard. All zero is a descriptor that nothing is known about. */
struct descriptor {
    struct midge_handle handles[OPERATION_COUNT];
    int32_t results[OPERATION_COUNT]; /* of those in ended_bits */
    uint32_t watched;                 /* what epoll watches for; 0 = not registered */
    uint8_t armed_bits;               /* 1 << enum operation */
    uint8_t ended_bits;               /* their last event waits in the list */
    bool is_cancelled;                /* at the next wait */
    bool is_dirty;                    /* in the dirty list */
    int32_t dirty_next;
    int32_t ended_next;
};
static_assert(sizeof(struct descriptor) == 64, "one cache line each");

/* First in, first out, linked through the descriptors. */
struct descriptor_list {
    int32_t head; /* -1 = empty */
    int32_t tail;
};

struct queued_send {
    struct midge_handle handle;
    int32_t fd;
    uint32_t piece_off;
    uint32_t piece_count;
};

/* Thread: shard. */
struct epoll_ring {
    struct midge_ring base;

    /* Constant after init. */
    int epoll_fd;
    int bell_fd; /* eventfd; never read, edge-triggered */
    struct descriptor *descriptors;
    uint32_t descriptor_count;
    struct queued_send *sends;
    struct iovec *pieces;
    uint32_t send_cap;
    uint32_t piece_cap;
    uint8_t *buffer; /* the one that recv reads into */
    uint32_t buffer_len;

    /* The turn. */
    bool has_fine_timer; /* epoll_pwait2 is there; Linux 5.11 */
    uint32_t send_count;
    uint32_t piece_count;
    struct descriptor_list dirty;
    struct descriptor_list ended;
    uint32_t ready_count;
    uint32_t ready_index;
    uint32_t accept_count; /* taken from the listener at ready_index */
    struct epoll_event ready[READY_MAX];
};

static struct epoll_ring *epoll_of(struct midge_ring *ring)
{
    return (struct epoll_ring *)ring;
}

static struct descriptor *descriptor_at(struct epoll_ring *ring, int fd)
{
    MIDGE_ASSERT((uint32_t)fd < ring->descriptor_count);
    return &ring->descriptors[fd];
}

static void mark_dirty(struct epoll_ring *ring, int fd)
{
    struct descriptor *descriptor = descriptor_at(ring, fd);

    if (descriptor->is_dirty)
        return;
    descriptor->is_dirty = true;
    descriptor->dirty_next = -1;
    if (ring->dirty.head < 0)
        ring->dirty.head = fd;
    else
        ring->descriptors[ring->dirty.tail].dirty_next = fd;
    ring->dirty.tail = fd;
}

/* Note the last event of an operation. */
static void end_operation(struct epoll_ring *ring, int fd, enum operation operation, int res)
{
    struct descriptor *descriptor = descriptor_at(ring, fd);
    const uint8_t bit = (uint8_t)(1u << operation);

    MIDGE_ASSERT((descriptor->ended_bits & bit) == 0);
    descriptor->armed_bits = (uint8_t)(descriptor->armed_bits & ~bit);
    descriptor->results[operation] = res;
    if (descriptor->ended_bits == 0) {
        descriptor->ended_next = -1;
        if (ring->ended.head < 0)
            ring->ended.head = fd;
        else
            ring->descriptors[ring->ended.tail].ended_next = fd;
        ring->ended.tail = fd;
    }
    descriptor->ended_bits |= bit;
}

static void arm(struct epoll_ring *ring, int fd, enum operation operation,
                struct midge_handle handle)
{
    struct descriptor *descriptor = descriptor_at(ring, fd);
    const uint8_t bit = (uint8_t)(1u << operation);

    MIDGE_ASSERT((descriptor->armed_bits & bit) == 0);
    MIDGE_ASSERT((descriptor->ended_bits & bit) == 0);
    descriptor->armed_bits |= bit;
    descriptor->handles[operation] = handle;
    mark_dirty(ring, fd);
}

static int epoll_adopt(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    int res;

    (void)handle;
    if ((uint32_t)fd >= epoll_of(ring)->descriptor_count)
        return -EMFILE;
    res = midge_ring_os_set_nonblocking(fd, true);
    return res != 0 ? res : midge_ring_os_set_nodelay(fd);
}

static void epoll_accept(struct midge_ring *ring, int listener_fd, struct midge_handle handle)
{
    (void)!midge_ring_os_set_nonblocking(listener_fd, true); /* a bad one shows as an event */
    arm(epoll_of(ring), listener_fd, OPERATION_ACCEPT, handle);
}

static void epoll_recv(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    arm(epoll_of(ring), fd, OPERATION_RECV, handle);
}

static void epoll_poll_out(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    arm(epoll_of(ring), fd, OPERATION_POLL_OUT, handle);
}

static void epoll_cancel(struct midge_ring *ring, int fd, struct midge_handle handle)
{
    (void)handle;
    descriptor_at(epoll_of(ring), fd)->is_cancelled = true;
    mark_dirty(epoll_of(ring), fd);
}

static void epoll_release(struct midge_ring *ring, int fd)
{
    struct epoll_ring *epoll_ring = epoll_of(ring);
    struct descriptor *descriptor = descriptor_at(epoll_ring, fd);

    MIDGE_ASSERT(descriptor->armed_bits == 0);
    MIDGE_ASSERT(descriptor->ended_bits == 0);
    if (descriptor->watched != 0)
        (void)epoll_ctl(epoll_ring->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    descriptor->watched = 0;
    descriptor->is_cancelled = false;
}

static void epoll_ring_close(struct midge_ring *ring, int fd)
{
    epoll_release(ring, fd);
    (void)close(fd); /* Linux frees the number whatever close() answers: close(2), NOTES */
}

/* Make the queued sends in order; only those that took less than all of their bytes are heard of.
 */
static void run_sends(struct epoll_ring *ring)
{
    for (uint32_t index = 0; index < ring->send_count; index++) {
        const struct queued_send *queued = &ring->sends[index];
        const struct iovec *pieces = &ring->pieces[queued->piece_off];
        int64_t asked = 0;
        int64_t sent;

        for (uint32_t piece = 0; piece < queued->piece_count; piece++)
            asked += (int64_t)pieces[piece].iov_len;
        midge_ring_count(&ring->base.enters);
        sent = midge_ring_os_try_send(NULL, queued->fd, pieces, queued->piece_count);
        if (sent == asked)
            continue;
        descriptor_at(ring, queued->fd)->handles[OPERATION_SEND] = queued->handle;
        end_operation(ring, queued->fd, OPERATION_SEND, (int)sent);
    }
    ring->send_count = 0;
    ring->piece_count = 0;
}

static void epoll_send(struct midge_ring *ring, int fd, struct midge_handle handle,
                       const struct iovec *pieces, uint32_t piece_count)
{
    struct epoll_ring *epoll_ring = epoll_of(ring);

    if (epoll_ring->send_count == epoll_ring->send_cap ||
        epoll_ring->piece_count + piece_count > epoll_ring->piece_cap)
        run_sends(epoll_ring);
    epoll_ring->sends[epoll_ring->send_count++] =
        (struct queued_send){.handle = handle,
                             .fd = fd,
                             .piece_off = epoll_ring->piece_count,
                             .piece_count = piece_count};
    memcpy(&epoll_ring->pieces[epoll_ring->piece_count], pieces, piece_count * sizeof(*pieces));
    epoll_ring->piece_count += piece_count;
}

static void epoll_wake(struct midge_ring *ring)
{
    const uint64_t one = 1;

    /* The count never fills up: that takes 2^64 wakes. */
    (void)!write(epoll_of(ring)->bell_fd, &one, sizeof(one));
}

/* End what is armed on a descriptor. */
static void end_armed(struct epoll_ring *ring, int fd, int res)
{
    for (uint32_t operation = 0; operation < OPERATION_COUNT; operation++) {
        if ((ring->descriptors[fd].armed_bits & (1u << operation)) != 0)
            end_operation(ring, fd, (enum operation)operation, res);
    }
}

/* Bring epoll's view of one descriptor in line with what is armed on it. */
static void watch_descriptor(struct epoll_ring *ring, int fd)
{
    struct descriptor *descriptor = descriptor_at(ring, fd);
    struct epoll_event event = {.data.fd = fd};
    int command = EPOLL_CTL_MOD;

    if ((descriptor->armed_bits & (1u << OPERATION_ACCEPT | 1u << OPERATION_RECV)) != 0)
        event.events |= EPOLLIN;
    if ((descriptor->armed_bits & 1u << OPERATION_POLL_OUT) != 0)
        event.events |= EPOLLOUT;
    if (event.events == descriptor->watched)
        return;
    if (event.events == 0)
        command = EPOLL_CTL_DEL;
    else if (descriptor->watched == 0)
        command = EPOLL_CTL_ADD;
    descriptor->watched = event.events;
    if (epoll_ctl(ring->epoll_fd, command, fd, &event) != 0) {
        descriptor->watched = 0;
        end_armed(ring, fd, -errno);
    }
}

static void sync_dirty(struct epoll_ring *ring)
{
    while (ring->dirty.head >= 0) {
        const int fd = ring->dirty.head;
        struct descriptor *descriptor = &ring->descriptors[fd];

        ring->dirty.head = descriptor->dirty_next;
        descriptor->is_dirty = false;
        if (descriptor->is_cancelled) {
            descriptor->is_cancelled = false;
            end_armed(ring, fd, -ECANCELED);
        }
        watch_descriptor(ring, fd);
    }
}

/* One system call that waits up to timeout_ns; UINT64_MAX = for ever. */
static void poll_kernel(struct epoll_ring *ring, uint64_t timeout_ns)
{
    const struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_S),
                                     .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    int timeout_ms = -1;
    int count = -1;

    midge_ring_count(&ring->base.enters);
    if (ring->has_fine_timer && timeout_ns != 0 && timeout_ns != UINT64_MAX) {
        count = epoll_pwait2(ring->epoll_fd, ring->ready, READY_MAX, &timeout, NULL);
        if (count < 0 && (errno == ENOSYS || errno == EPERM))
            ring->has_fine_timer = false; /* an old kernel, or a filter that does not know it */
    } else {
        if (timeout_ns != UINT64_MAX) {
            const uint64_t rounded_ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);

            timeout_ms = rounded_ms < INT32_MAX ? (int)rounded_ms : INT32_MAX;
        }
        count = epoll_wait(ring->epoll_fd, ring->ready, READY_MAX, timeout_ms);
    }
    ring->ready_count = count > 0 ? (uint32_t)count : 0;
    ring->ready_index = 0;
    ring->accept_count = 0;
}

/* Ask the kernel again and again, yielding the core between; true if there is work or a doorbell.
 */
static enum midge_watch watch(struct epoll_ring *ring, uint64_t deadline_ns, uint64_t spin_ns,
                              uint64_t *watched_ns_out)
{
    const uint64_t begun_ns = midge_ring_os_now_ns(NULL);
    uint64_t now_ns = begun_ns;

    while (now_ns < deadline_ns && now_ns - begun_ns < spin_ns) {
        uint64_t before_ns;

        poll_kernel(ring, 0);
        if (ring->ready_count > 0 || midge_ring_bell_is_rung(&ring->base))
            return MIDGE_WATCH_WORK;
        before_ns = midge_ring_os_now_ns(NULL);
        (void)sched_yield();
        now_ns = midge_ring_os_now_ns(NULL);
        *watched_ns_out = now_ns - begun_ns;
        if (now_ns - before_ns > MIDGE_WATCH_CROWDED_NS)
            return MIDGE_WATCH_CROWDED;
    }
    return MIDGE_WATCH_NOTHING;
}

static void epoll_ring_wait(struct midge_ring *ring, uint64_t deadline_ns, uint64_t spin_ns)
{
    struct epoll_ring *epoll_ring = epoll_of(ring);
    uint64_t timeout_ns = UINT64_MAX;

    run_sends(epoll_ring);
    sync_dirty(epoll_ring);
    if (deadline_ns == 0 || epoll_ring->ended.head >= 0 || midge_ring_bell_is_rung(ring)) {
        poll_kernel(epoll_ring, 0);
        return;
    }
    if (spin_ns != 0) {
        uint64_t watched_ns = 0;
        const enum midge_watch watched = watch(epoll_ring, deadline_ns, spin_ns, &watched_ns);

        midge_ring_count(&ring->spins);
        midge_ring_add(&ring->spin_ns, watched_ns);
        if (watched == MIDGE_WATCH_WORK) {
            midge_ring_count(&ring->spin_hits);
            return;
        }
    }
    if (deadline_ns != UINT64_MAX) {
        const uint64_t now_ns = midge_ring_os_now_ns(NULL);

        timeout_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    }
    if (!midge_ring_bell_begin_sleep(ring))
        timeout_ns = 0;
    else
        midge_ring_count(&ring->sleeps);
    poll_kernel(epoll_ring, timeout_ns);
}

static void fill_event(const struct descriptor *descriptor, enum operation operation, int res,
                       bool more, struct midge_ring_event *event_out)
{
    event_out->kind = operation_kinds[operation];
    event_out->handle = descriptor->handles[operation];
    event_out->res = res;
    event_out->more = more;
    event_out->bytes = (struct midge_slice){0};
}

static bool next_ended(struct epoll_ring *ring, struct midge_ring_event *event_out)
{
    struct descriptor *descriptor;
    uint32_t operation;

    if (ring->ended.head < 0)
        return false;
    descriptor = &ring->descriptors[ring->ended.head];
    operation = (uint32_t)__builtin_ctz(descriptor->ended_bits);
    fill_event(descriptor, (enum operation)operation, descriptor->results[operation], false,
               event_out);
    descriptor->ended_bits = (uint8_t)(descriptor->ended_bits & ~(1u << operation));
    if (descriptor->ended_bits == 0)
        ring->ended.head = descriptor->ended_next;
    return true;
}

/* An operation that readiness ended: its event is the one being made. */
static void disarm(struct epoll_ring *ring, int fd, enum operation operation)
{
    struct descriptor *descriptor = &ring->descriptors[fd];

    descriptor->armed_bits = (uint8_t)(descriptor->armed_bits & ~(1u << operation));
    mark_dirty(ring, fd);
}

static bool recv_once(struct epoll_ring *ring, int fd, struct midge_ring_event *event_out)
{
    ssize_t res;

    MIDGE_RING_UNPOISON(ring->buffer, ring->buffer_len);
    do {
        res = recv(fd, ring->buffer, ring->buffer_len, MSG_DONTWAIT);
    } while (res < 0 && errno == EINTR);
    if (res < 0 && errno == EAGAIN)
        return false; /* an event about an older owner of this number, or no news after all */
    fill_event(&ring->descriptors[fd], OPERATION_RECV, res < 0 ? -errno : (int)res, res > 0,
               event_out);
    if (res > 0) {
        event_out->bytes = midge_slice_make(ring->buffer, (uint32_t)res);
        MIDGE_RING_POISON(ring->buffer + res, ring->buffer_len - (size_t)res);
    } else {
        disarm(ring, fd, OPERATION_RECV);
    }
    return true;
}

static bool accept_once(struct epoll_ring *ring, int fd, struct midge_ring_event *event_out)
{
    int accepted;

    if (ring->accept_count == ACCEPTS_MAX)
        return false;
    ring->accept_count++;
    do {
        accepted = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (accepted < 0 && errno == EINTR);
    if (accepted < 0 && errno == EAGAIN)
        return false;
    fill_event(&ring->descriptors[fd], OPERATION_ACCEPT, accepted < 0 ? -errno : accepted,
               accepted >= 0, event_out);
    if (accepted < 0)
        disarm(ring, fd, OPERATION_ACCEPT);
    return true;
}

/* The next event of one ready descriptor. A kind that is done is taken off the mask. */
static bool next_of(struct epoll_ring *ring, struct epoll_event *ready,
                    struct midge_ring_event *event_out)
{
    const int fd = ready->data.fd;
    const struct descriptor *descriptor = &ring->descriptors[fd];

    if ((ready->events & INPUT_MASK) != 0 &&
        (descriptor->armed_bits & 1u << OPERATION_ACCEPT) != 0 && accept_once(ring, fd, event_out))
        return true;
    if ((ready->events & INPUT_MASK) != 0 && (descriptor->armed_bits & 1u << OPERATION_RECV) != 0) {
        const bool may_write = (ready->events & OUTPUT_MASK) != 0;

        ready->events = may_write ? EPOLLOUT : 0;
        if (recv_once(ring, fd, event_out))
            return true;
    }
    if ((ready->events & OUTPUT_MASK) != 0 &&
        (descriptor->armed_bits & 1u << OPERATION_POLL_OUT) != 0) {
        fill_event(descriptor, OPERATION_POLL_OUT, (int)(ready->events & OUTPUT_MASK), false,
                   event_out);
        ready->events = 0;
        disarm(ring, fd, OPERATION_POLL_OUT);
        return true;
    }
    return false;
}

static bool epoll_next(struct midge_ring *ring, struct midge_ring_event *event_out)
{
    struct epoll_ring *epoll_ring = epoll_of(ring);

    MIDGE_RING_POISON(epoll_ring->buffer, epoll_ring->buffer_len);
    if (next_ended(epoll_ring, event_out))
        return true;
    while (epoll_ring->ready_index < epoll_ring->ready_count) {
        struct epoll_event *ready = &epoll_ring->ready[epoll_ring->ready_index];

        if (ready->data.fd != epoll_ring->bell_fd && next_of(epoll_ring, ready, event_out))
            return true;
        epoll_ring->ready_index++;
        epoll_ring->accept_count = 0;
    }
    return false;
}

static int epoll_ring_fd(struct midge_ring *ring)
{
    return epoll_of(ring)->epoll_fd;
}

static bool epoll_park(struct midge_ring *ring)
{
    const struct epoll_ring *epoll_ring = epoll_of(ring);

    return epoll_ring->send_count == 0 && epoll_ring->dirty.head < 0 &&
           epoll_ring->ended.head < 0 && midge_ring_bell_begin_sleep(ring);
}

static void epoll_destroy(struct midge_ring *ring)
{
    struct epoll_ring *epoll_ring = epoll_of(ring);

    if (epoll_ring->epoll_fd >= 0)
        (void)close(epoll_ring->epoll_fd);
    if (epoll_ring->bell_fd >= 0)
        (void)close(epoll_ring->bell_fd);
    if (epoll_ring->descriptors != NULL)
        (void)munmap(epoll_ring->descriptors,
                     epoll_ring->descriptor_count * sizeof(struct descriptor));
    if (epoll_ring->buffer != NULL)
        MIDGE_RING_UNPOISON(epoll_ring->buffer, epoll_ring->buffer_len);
    free(epoll_ring->buffer);
    free(epoll_ring->pieces);
    free(epoll_ring->sends);
    free(epoll_ring);
}

static const struct midge_ring_ops epoll_ops = {
    .kind = MIDGE_RING_KIND_EPOLL,
    .destroy = epoll_destroy,
    .adopt = epoll_adopt,
    .release = epoll_release,
    .accept = epoll_accept,
    .recv = epoll_recv,
    .send = epoll_send,
    .try_send = midge_ring_os_try_send,
    .poll_out = epoll_poll_out,
    .cancel = epoll_cancel,
    .shutdown = midge_ring_os_shutdown,
    .close = epoll_ring_close,
    .wait = epoll_ring_wait,
    .next = epoll_next,
    .wake = epoll_wake,
    .fd = epoll_ring_fd,
    .park = epoll_park,
    .now_ns = midge_ring_os_now_ns,
    .busy_ns = midge_ring_os_busy_ns,
    .idle_ns = midge_ring_os_idle_ns,
    .peer = midge_ring_os_peer,
};

static enum midge_status setup_memory(struct epoll_ring *ring,
                                      const struct midge_ring_options *options, char why[128])
{
    struct rlimit limit = {.rlim_max = DESCRIPTORS_MAX};
    void *base;

    (void)getrlimit(RLIMIT_NOFILE, &limit);
    ring->descriptor_count =
        limit.rlim_max < DESCRIPTORS_MAX ? (uint32_t)limit.rlim_max : DESCRIPTORS_MAX;
    base = mmap(NULL, ring->descriptor_count * sizeof(struct descriptor), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base != MAP_FAILED)
        ring->descriptors = base;
    ring->send_cap = options->sq_entries;
    ring->piece_cap = options->sq_entries + MIDGE_RING_IOV_MAX;
    ring->buffer_len = options->buffer_len;
    ring->sends = calloc(ring->send_cap, sizeof(*ring->sends));
    ring->pieces = calloc(ring->piece_cap, sizeof(*ring->pieces));
    ring->buffer = malloc(ring->buffer_len);
    if (base == MAP_FAILED || ring->sends == NULL || ring->pieces == NULL || ring->buffer == NULL) {
        midge_ring_explain(why, "no memory for %u descriptors", ring->descriptor_count);
        return MIDGE_E_MEMORY;
    }
    return MIDGE_OK;
}

static enum midge_status setup_kernel(struct epoll_ring *ring, char why[128])
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};

    ring->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    ring->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    event.data.fd = ring->bell_fd;
    if (ring->epoll_fd < 0 || ring->bell_fd < 0 ||
        epoll_ctl(ring->epoll_fd, EPOLL_CTL_ADD, ring->bell_fd, &event) != 0) {
        midge_ring_explain(why, "epoll: %s", strerror(errno));
        return MIDGE_E_SYSTEM;
    }
    return MIDGE_OK;
}

enum midge_status midge_ring_epoll_create(const struct midge_ring_options *options,
                                          struct midge_ring **ring_out, char why[128])
{
    struct epoll_ring *ring = aligned_alloc(alignof(struct epoll_ring), sizeof(*ring));
    enum midge_status status;

    if (ring == NULL) {
        midge_ring_explain(why, "no memory for a ring");
        return MIDGE_E_MEMORY;
    }
    memset(ring, 0, sizeof(*ring));
    midge_ring_base_init(&ring->base, &epoll_ops, midge_ring_os_seed());
    ring->epoll_fd = -1;
    ring->bell_fd = -1;
    ring->has_fine_timer = true;
    ring->dirty.head = -1;
    ring->ended.head = -1;
    status = setup_memory(ring, options, why);
    if (status == MIDGE_OK)
        status = setup_kernel(ring, why);
    if (status != MIDGE_OK) {
        epoll_destroy(&ring->base);
        return status;
    }
    *ring_out = &ring->base;
    return MIDGE_OK;
}
