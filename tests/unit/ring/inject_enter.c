/*
 * Traffic whose bytes are checked, for running under inject.sh, which makes system calls fail.
 *
 * Streams go out through small sockets by silent sends, come back from plain far ends, and are
 * received by the ring. A lost submission shows as a hole in the pattern or as a stall; exit status
 * 1 either way. The submission queue is shorter than a turn's work, so entries are also submitted
 * from inside the queueing calls.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "midge/ring.h"

#define STREAMS      8u
#define BYTES_EACH   200000u
#define SEND_LEN     3000u
#define STALL_ROUNDS 5000u

struct stream {
    int near_fd;
    int far_fd;
    uint32_t sent;     /* by the ring, settled */
    uint32_t asked;    /* of the send under way */
    uint32_t echoed;   /* read and written back at the far end */
    uint32_t received; /* by the ring */
    bool is_polling;
};

static uint8_t pattern[BYTES_EACH];
static struct stream streams[STREAMS];

static void fail(const char *text, uint32_t at)
{
    (void)fprintf(stderr, "inject_enter: %s (%u)\n", text, at);
    exit(1);
}

static void queue_sends(struct midge_ring *ring)
{
    for (uint32_t index = 0; index < STREAMS; index++) {
        struct stream *stream = &streams[index];
        const struct midge_handle handle = {.index = index, .generation = 1};
        uint32_t len = BYTES_EACH - stream->sent;

        if (stream->is_polling || len == 0)
            continue;
        if (len > SEND_LEN)
            len = SEND_LEN;
        stream->asked = len;
        midge_ring_send(ring, stream->near_fd, handle, &(struct iovec){pattern + stream->sent, len},
                        1);
    }
}

static void take_events(struct midge_ring *ring)
{
    struct midge_ring_event event;
    bool needs_recv[STREAMS] = {false};

    while (midge_ring_next(ring, &event)) {
        struct stream *stream = &streams[event.handle.index];

        if (event.kind == MIDGE_RING_RECV) {
            if (event.res > 0) {
                if (memcmp(event.bytes.base, pattern + stream->received, event.bytes.len) != 0)
                    fail("wrong bytes came back", stream->received);
                stream->received += event.bytes.len;
            } else if (event.res != -ENOBUFS) {
                fail("recv ended", (uint32_t)-event.res);
            }
            needs_recv[event.handle.index] |= !event.more;
        } else if (event.kind == MIDGE_RING_SEND) {
            if (event.res < 0 && event.res != -EAGAIN)
                fail("send failed", (uint32_t)-event.res);
            stream->sent += event.res > 0 ? (uint32_t)event.res : 0;
            stream->asked = 0;
            stream->is_polling = true;
            midge_ring_poll_out(ring, stream->near_fd, event.handle);
        } else {
            stream->is_polling = false;
        }
    }
    for (uint32_t index = 0; index < STREAMS; index++) {
        const struct midge_handle handle = {.index = index, .generation = 1};

        streams[index].sent += streams[index].asked; /* silent: all taken */
        streams[index].asked = 0;
        if (needs_recv[index])
            midge_ring_recv(ring, streams[index].near_fd, handle);
    }
}

/* The far ends: check what came, send it back as far as there is room. */
static void echo(void)
{
    uint8_t bytes[2048];

    for (uint32_t index = 0; index < STREAMS; index++) {
        struct stream *stream = &streams[index];
        const ssize_t len = recv(stream->far_fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_PEEK);
        ssize_t sent;

        if (len <= 0)
            continue;
        if (memcmp(bytes, pattern + stream->echoed, (size_t)len) != 0)
            fail("wrong bytes went out", stream->echoed);
        sent = send(stream->far_fd, bytes, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent <= 0)
            continue;
        if (recv(stream->far_fd, bytes, (size_t)sent, MSG_DONTWAIT) != sent)
            fail("echo", stream->echoed);
        stream->echoed += (uint32_t)sent;
    }
}

static uint64_t progress(void)
{
    uint64_t sum = 0;

    for (uint32_t index = 0; index < STREAMS; index++)
        sum += (uint64_t)streams[index].sent + streams[index].echoed + streams[index].received;
    return sum;
}

int main(void)
{
    const struct midge_ring_options options = {.kind = MIDGE_RING_KIND_URING,
                                               .sq_entries = 4,
                                               .cq_entries = 8,
                                               .buffer_count = 4,
                                               .buffer_len = 1024};
    const uint64_t total = 3ull * STREAMS * BYTES_EACH;
    struct midge_ring *ring;
    uint64_t last = 0;
    uint32_t stalled = 0;
    char why[128];

    for (uint32_t at = 0; at < BYTES_EACH; at++)
        pattern[at] = (uint8_t)((at * 0x9e3779b97f4a7c15ull) >> 56);
    if (syscall(SYS_io_uring_setup, 0, NULL) < 0 && (errno == ENOSYS || errno == EPERM)) {
        (void)printf("skipped: this kernel refuses io_uring\n");
        return 77;
    }
    if (midge_ring_create(&options, &ring, why) != MIDGE_OK) {
        (void)fprintf(stderr, "inject_enter: %s\n", why);
        return 1;
    }
    for (uint32_t index = 0; index < STREAMS; index++) {
        const struct midge_handle handle = {.index = index, .generation = 1};
        const int small = 8192;
        int fds[2];

        if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0 ||
            setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) != 0 ||
            midge_ring_adopt(ring, fds[0], handle) != 0)
            fail("socket pair", index);
        streams[index].near_fd = fds[0];
        streams[index].far_fd = fds[1];
        midge_ring_recv(ring, fds[0], handle);
    }
    while (progress() < total) {
        queue_sends(ring);
        midge_ring_wait(ring, midge_ring_now_ns(ring) + 100000, 0);
        take_events(ring);
        echo();
        stalled = progress() == last ? stalled + 1 : 0;
        last = progress();
        if (stalled > STALL_ROUNDS)
            fail("stalled", (uint32_t)last);
    }
    (void)printf("%llu bytes went round\n", (unsigned long long)total / 3);
    return 0;
}
