/*
 * Does io_uring on this kernel do what ring_uring.c relies on? Versions and feature bits do not
 * tell: back-ports, sandboxes and emulations differ. So each point is tried over a socket pair, on
 * a small ring made for it, before the real one is made.
 *
 * Thread: shard. Memory: one small ring, gone on return. Cost: about a millisecond.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ring_internal.h"

#define BUFFER_COUNT 4u
#define BUFFER_LEN   64u
#define ROUNDS_MAX   64u

/* Never reached on a kernel that works; long, so that a stalled machine is not taken for a broken
 * one. */
#define PATIENCE_NS 5000000000ull

struct trial {
    struct midge_ring *ring;
    int near_fd; /* driven by the ring */
    int far_fd;  /* plain system calls */
    const struct midge_handle handle;
};

/* Wait for one event; false if none came. */
static bool await(const struct trial *trial, struct midge_ring_event *event_out)
{
    for (uint32_t round = 0; round < ROUNDS_MAX; round++) {
        const uint64_t deadline_ns = midge_ring_now_ns(trial->ring) + PATIENCE_NS;

        if (midge_ring_next(trial->ring, event_out))
            return true;
        midge_ring_wait(trial->ring, deadline_ns, 0);
        if (midge_ring_next(trial->ring, event_out))
            return true;
        if (midge_ring_now_ns(trial->ring) >= deadline_ns)
            return false;
    }
    return false;
}

/* One turn that must bring nothing. */
static bool is_quiet(const struct trial *trial)
{
    struct midge_ring_event event;

    midge_ring_wait(trial->ring, 0, 0);
    return !midge_ring_next(trial->ring, &event);
}

static bool is_ours(const struct trial *trial, const struct midge_ring_event *event)
{
    return event->handle.index == trial->handle.index &&
           event->handle.generation == trial->handle.generation;
}

static const char *try_multishot_recv(const struct trial *trial)
{
    struct midge_ring_event event;

    midge_ring_recv(trial->ring, trial->near_fd, trial->handle);
    for (uint32_t round = 0; round < 2; round++) {
        if (send(trial->far_fd, "x", 1, MSG_NOSIGNAL) != 1)
            return "socket pair does not send";
        if (!await(trial, &event) || event.kind != MIDGE_RING_RECV || !is_ours(trial, &event))
            return "multishot recv brings nothing";
        if (event.res != 1 || event.bytes.base[0] != 'x' || !event.more)
            return "multishot recv does not stay armed";
    }
    return NULL;
}

/* More bytes than buffers: an end for lack of them, then the rest after re-arming. */
static const char *try_lack_of_buffers(const struct trial *trial)
{
    char bytes[(BUFFER_COUNT + 2) * BUFFER_LEN];
    struct midge_ring_event event;
    uint32_t received = 0;
    bool lacked = false;

    memset(bytes, 'y', sizeof(bytes));
    if (send(trial->far_fd, bytes, sizeof(bytes), MSG_NOSIGNAL) != (ssize_t)sizeof(bytes))
        return "socket pair does not send";
    while (received < sizeof(bytes)) {
        if (!await(trial, &event) || event.kind != MIDGE_RING_RECV)
            return "recv stays silent after a lack of buffers";
        if (event.res > 0) {
            received += (uint32_t)event.res;
        } else {
            if (event.res != -ENOBUFS || event.more)
                return "recv without buffers does not end";
            lacked = true;
            while (midge_ring_next(trial->ring, &event)) /* buffers first, then re-arm */
                received += event.res > 0 ? (uint32_t)event.res : 0;
            midge_ring_recv(trial->ring, trial->near_fd, trial->handle);
        }
    }
    return lacked && received == sizeof(bytes) ? NULL : "provided buffers are not used as asked";
}

/* A send that fits says nothing, one that does not says how much it took, one that cannot says so.
 */
static const char *try_silent_send(const struct trial *trial)
{
    static const uint8_t zeroes[1024 * 1024];
    const int small = 4096;
    struct iovec pieces[2] = {{.iov_base = (char[]){'a'}, .iov_len = 1},
                              {.iov_base = (char[]){'b'}, .iov_len = 1}};
    struct midge_ring_event event;

    if (setsockopt(trial->near_fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) != 0)
        return "SO_SNDBUF cannot be set";
    midge_ring_send(trial->ring, trial->near_fd, trial->handle, pieces, 2);
    if (!is_quiet(trial))
        return "a send that was taken in full is not silent";
    memcpy(&pieces[0].iov_base, &(const void *){zeroes}, sizeof(void *));
    pieces[0].iov_len = sizeof(zeroes);
    midge_ring_send(trial->ring, trial->near_fd, trial->handle, pieces, 1);
    if (!await(trial, &event) || event.kind != MIDGE_RING_SEND || !is_ours(trial, &event))
        return "a short send is not reported";
    if (event.res <= 0 || (uint32_t)event.res >= sizeof(zeroes))
        return "a short send is reported wrongly";
    midge_ring_send(trial->ring, trial->near_fd, trial->handle, pieces, 2);
    if (!await(trial, &event) || event.kind != MIDGE_RING_SEND || event.res != -EAGAIN)
        return "a send on a full socket is not refused";
    return NULL;
}

static const char *try_cancel(const struct trial *trial)
{
    struct midge_ring_event event;

    midge_ring_cancel(trial->ring, trial->near_fd, trial->handle);
    if (!await(trial, &event) || event.kind != MIDGE_RING_RECV || event.more)
        return "recv cannot be cancelled";
    return is_quiet(trial) ? NULL : "a cancelled recv ends twice";
}

static const char *try_timer(const struct trial *trial)
{
    const uint64_t deadline_ns = midge_ring_now_ns(trial->ring) + 100000;
    struct midge_ring_event event;

    /* The first wait moves the timer that await() left behind, and may end for that. */
    for (uint32_t round = 0; round < 4; round++) {
        midge_ring_wait(trial->ring, deadline_ns, 0);
        if (midge_ring_next(trial->ring, &event))
            return "a timer is taken for something else";
        if (midge_ring_now_ns(trial->ring) >= deadline_ns)
            return NULL;
    }
    return "a deadline does not end a sleep";
}

static const char *try_doorbell(const struct trial *trial)
{
    struct midge_ring_event event;

    for (uint32_t round = 0; round < 2; round++) {
        const uint64_t deadline_ns = midge_ring_now_ns(trial->ring) + PATIENCE_NS;

        trial->ring->ops->wake(trial->ring); /* as if somebody had found this ring asleep */
        midge_ring_wait(trial->ring, deadline_ns, 0);
        if (midge_ring_next(trial->ring, &event) || midge_ring_now_ns(trial->ring) >= deadline_ns)
            return "the doorbell does not end a sleep";
    }
    return NULL;
}

enum midge_status midge_ring_uring_self_test(char why[128])
{
    static const char *(*const tries[])(const struct trial *) = {
        try_timer,  try_multishot_recv, try_lack_of_buffers, try_silent_send,
        try_cancel, try_timer,          try_doorbell};
    const struct midge_ring_options options = {.kind = MIDGE_RING_KIND_URING,
                                               .sq_entries = 16,
                                               .cq_entries = 32,
                                               .buffer_count = BUFFER_COUNT,
                                               .buffer_len = BUFFER_LEN,
                                               .buffers_at_rest = BUFFER_COUNT};
    struct trial trial = {.handle = {.index = 0xabcde, .generation = 0xfedcba98u}};
    enum midge_status status = midge_ring_uring_create(&options, &trial.ring, why);
    const char *complaint = NULL;
    int fds[2];

    if (status != MIDGE_OK)
        return status;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        midge_ring_explain(why, "socketpair: %s", strerror(errno));
        midge_ring_destroy(trial.ring);
        return MIDGE_E_SYSTEM;
    }
    trial.near_fd = fds[0];
    trial.far_fd = fds[1];
    for (size_t index = 0; index < sizeof(tries) / sizeof(tries[0]) && complaint == NULL; index++)
        complaint = tries[index](&trial);
    midge_ring_destroy(trial.ring);
    (void)close(fds[0]);
    (void)close(fds[1]);
    if (complaint != NULL) {
        midge_ring_explain(why, "io_uring self-test: %s", complaint);
        return MIDGE_E_SYSTEM;
    }
    return MIDGE_OK;
}
