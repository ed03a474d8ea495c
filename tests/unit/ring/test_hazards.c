/*
 * What servers on io_uring have been bitten by, one test each, on the real kernel; epoll has to
 * pass the same. Reproductions of each hazard without the seam's care are listed in the io_uring
 * issue trackers named beside the tests.
 */
#include "ring_rig.h"

#include <fcntl.h>

/* Close alone sends no FIN while a recv is in flight: the kernel's request keeps the socket.
 * Shutdown first. Source: axboe/liburing issues 568, 932. */
RING_TEST(hazards, shutdown_shows_the_peer_the_end_before_any_event)
{
    enum {
        BATCH = 100,
        BATCHES = 10
    };
    int near_fds[BATCH], far_fds[BATCH];
    struct rig rig;
    char byte;

    rig_open_default(&rig, kind);
    for (uint32_t batch = 0; batch < BATCHES; batch++) {
        uint32_t ended_count = 0;

        for (uint32_t index = 0; index < BATCH; index++) {
            rig_tcp_pair(&rig, &near_fds[index], &far_fds[index]);
            midge_ring_recv(rig.ring, near_fds[index], rig_handle(index));
        }
        midge_ring_wait(rig.ring, 0, 0);
        for (uint32_t index = 0; index < BATCH; index++) {
            struct pollfd readable = {.fd = far_fds[index], .events = POLLIN};

            midge_ring_shutdown(rig.ring, near_fds[index], SHUT_RDWR);
            cr_assert_eq(poll(&readable, 1, 10000), 1);
            cr_assert_eq(recv(far_fds[index], &byte, 1, MSG_DONTWAIT), 0);
        }
        while (ended_count < BATCH) {
            const struct midge_ring_event event = rig_next(&rig);

            cr_assert_leq(event.res, 0);
            cr_assert_not(event.more);
            ended_count++;
        }
        for (uint32_t index = 0; index < BATCH; index++) {
            midge_ring_close(rig.ring, near_fds[index]);
            (void)close(far_fds[index]);
        }
    }
    midge_ring_destroy(rig.ring);
}

/* A descriptor number used anew: nothing of the old peer may reach the new owner.
 * Source: axboe/liburing issue 363. */
RING_TEST(hazards, bytes_of_an_old_peer_never_reach_a_reused_descriptor)
{
    enum {
        CYCLES = 2000
    };
    struct sockaddr_in address;
    const int listener_fd = rig_listen(&address);
    uint32_t reused_count = 0;
    int last_near_fd = -1, old_far_fd = -1;
    struct rig rig;

    rig_open_default(&rig, kind);
    for (uint32_t cycle = 1; cycle <= CYCLES; cycle++) {
        const struct midge_handle handle = {.index = 9, .generation = cycle};
        const uint8_t mark = (uint8_t)cycle;
        const int far_fd = rig_connect(&address);
        const int near_fd = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC);
        struct midge_ring_event event;

        cr_assert_geq(near_fd, 0);
        reused_count += near_fd == last_near_fd;
        last_near_fd = near_fd;
        cr_assert_eq(midge_ring_adopt(rig.ring, near_fd, handle), 0);
        midge_ring_recv(rig.ring, near_fd, handle);
        if (old_far_fd >= 0) { /* the old peer is still talking */
            (void)!send(old_far_fd, &(uint8_t){(uint8_t)(mark - 1)}, 1, MSG_NOSIGNAL);
            (void)close(old_far_fd);
        }
        rig_write(far_fd, &mark, 1);
        event = rig_next(&rig);
        cr_assert_eq(event.handle.generation, cycle);
        cr_assert_eq(event.res, 1);
        cr_assert_eq(event.bytes.base[0], mark);
        rig_write(far_fd, &mark, 1);
        midge_ring_shutdown(rig.ring, near_fd, SHUT_RDWR);
        midge_ring_cancel(rig.ring, near_fd, handle);
        do {
            event = rig_next(&rig);
            cr_assert_eq(event.handle.generation, cycle);
            cr_assert(event.res <= 0 || event.bytes.base[0] == mark);
        } while (event.more);
        midge_ring_close(rig.ring, near_fd);
        old_far_fd = far_fd;
    }
    rig_expect_quiet(&rig);
    cr_assert_gt(reused_count, CYCLES / 4, "numbers were not reused: the test proves nothing");
    (void)close(old_far_fd);
    (void)close(listener_fd);
    midge_ring_destroy(rig.ring);
}

struct stream {
    int near_fd;
    int far_fd;
    uint64_t written;
    uint64_t received;
    uint32_t last_turn;
    bool is_armed;
};

/* Read all that the streams have coming, re-arming after each turn. Returns how often it re-armed.
 */
static uint32_t receive_all(struct rig *rig, struct stream *streams, uint32_t count,
                            uint64_t bytes_each, uint32_t silence_max)
{
    uint32_t rearm_count = 0, done_count = 0;

    for (uint32_t turn = 1; done_count < count; turn++) {
        struct midge_ring_event event;

        midge_ring_wait(rig->ring, midge_ring_now_ns(rig->ring) + RIG_PATIENCE_NS, 0);
        while (midge_ring_next(rig->ring, &event)) {
            struct stream *stream = &streams[event.handle.index];

            cr_assert_eq(event.kind, MIDGE_RING_RECV);
            cr_assert(event.res > 0 || event.res == -ENOBUFS, "res is %d", event.res);
            stream->is_armed = event.more;
            if (event.res > 0) {
                rig_expect_pattern(event.bytes.base, event.bytes.len, stream->received);
                stream->received += event.bytes.len;
                stream->last_turn = turn;
                done_count += stream->received == bytes_each;
            }
        }
        for (uint32_t index = 0; index < count; index++) {
            struct stream *stream = &streams[index];

            cr_assert(stream->received == bytes_each || turn - stream->last_turn <= silence_max,
                      "stream %u was silent for %u turns", index, turn - stream->last_turn);
            if (!stream->is_armed) {
                midge_ring_recv(rig->ring, stream->near_fd, rig_handle(index));
                stream->is_armed = true;
                rearm_count++;
            }
        }
    }
    return rearm_count;
}

static void open_streams(struct rig *rig, struct stream *streams, uint32_t count,
                         uint32_t bytes_each)
{
    uint8_t *bytes = malloc(bytes_each);

    rig_fill(bytes, bytes_each, 0);
    for (uint32_t index = 0; index < count; index++) {
        streams[index] = (struct stream){.is_armed = true};
        rig_unix_pair(rig, &streams[index].near_fd, &streams[index].far_fd);
        midge_ring_recv(rig->ring, streams[index].near_fd, rig_handle(index));
    }
    midge_ring_wait(rig->ring, 0, 0);
    for (uint32_t index = 0; index < count; index++)
        rig_write(streams[index].far_fd, bytes, bytes_each);
    free(bytes);
}

static void close_streams(struct rig *rig, struct stream *streams, uint32_t count)
{
    for (uint32_t index = 0; index < count; index++) {
        rig_hang_up(rig, streams[index].near_fd, 1);
        (void)close(streams[index].far_fd);
    }
}

/* A recv that finds no buffer ends, and nobody restarts it but the caller. All get their turn, and
 * the re-arming stays in proportion to the buffers that came. Source: axboe/liburing issues 778,
 * 1275. */
RING_TEST(hazards, eight_buffers_serve_two_hundred_busy_connections)
{
    enum {
        STREAMS = 200,
        BYTES = 64 * 50
    };
    const struct midge_ring_options options = {.kind = kind, .buffer_count = 8, .buffer_len = 64};
    static struct stream streams[STREAMS];
    struct midge_ring_counts counts;
    uint32_t rearm_count;
    struct rig rig;

    rig_raise_descriptor_limit();
    rig_open(&rig, &options);
    open_streams(&rig, streams, STREAMS, BYTES);
    rearm_count = receive_all(&rig, streams, STREAMS, BYTES, 10 * STREAMS);
    midge_ring_counts(rig.ring, &counts);
    if (kind == MIDGE_RING_KIND_URING)
        cr_assert_gt(counts.no_buffers, 0);
    /* Each turn with a shortage used eight buffers and re-armed each stream once at most. */
    cr_assert_leq(rearm_count, STREAMS * (STREAMS * BYTES / 64 / 8 + 10));
    rig_expect_quiet(&rig);
    close_streams(&rig, streams, STREAMS);
    midge_ring_destroy(rig.ring);
}

/* More buffers are offered when those at rest do not do, until a whole burst fits. */
RING_TEST(hazards, two_buffers_at_rest_become_as_many_as_a_burst_needs)
{
    enum {
        BURST = 16 * 64,
        BURSTS = 50
    };
    const struct midge_ring_options options = {
        .kind = kind, .buffer_count = 64, .buffer_len = 64, .buffers_at_rest = 2};
    struct stream stream;
    struct midge_ring_counts early, late;
    struct rig rig;

    rig_open(&rig, &options);
    open_streams(&rig, &stream, 1, BURST);
    (void)receive_all(&rig, &stream, 1, BURST, 10);
    midge_ring_counts(rig.ring, &early);
    for (uint32_t burst = 1; burst < BURSTS; burst++) {
        uint8_t bytes[BURST];

        rig_fill(bytes, sizeof(bytes), (uint64_t)burst * BURST);
        rig_write(stream.far_fd, bytes, sizeof(bytes));
        (void)receive_all(&rig, &stream, 1, (uint64_t)(burst + 1) * BURST, 10);
    }
    midge_ring_counts(rig.ring, &late);
    if (kind == MIDGE_RING_KIND_URING)
        cr_assert_gt(early.no_buffers, 0);
    cr_assert_lt(late.no_buffers, early.no_buffers + 5, "shortages: %lu, then %lu more",
                 early.no_buffers, late.no_buffers - early.no_buffers);
    rig_expect_quiet(&rig);
    close_streams(&rig, &stream, 1);
    midge_ring_destroy(rig.ring);
}

/* Completions beyond the queue go to a list in the kernel, and multishot recvs end with bytes in
 * hand. Source: libuv issue 4598, tokio-rs/io-uring issue 302. */
RING_TEST(hazards, overflow_of_the_completion_queue_loses_nothing)
{
    enum {
        STREAMS = 64,
        BYTES = 64 * 40
    };
    const struct midge_ring_options options = {
        .kind = kind, .sq_entries = 16, .cq_entries = 16, .buffer_count = 512, .buffer_len = 64};
    static struct stream streams[STREAMS];
    struct midge_ring_counts counts;
    struct rig rig;

    rig_open(&rig, &options);
    open_streams(&rig, streams, STREAMS, BYTES);
    (void)receive_all(&rig, streams, STREAMS, BYTES, 10 * STREAMS);
    midge_ring_counts(rig.ring, &counts);
    if (kind == MIDGE_RING_KIND_URING)
        cr_assert_gt(counts.overflows, 0);
    rig_expect_quiet(&rig);
    close_streams(&rig, streams, STREAMS);
    midge_ring_destroy(rig.ring);
}

/* Failed sends need a completion even if the queue is full of others. */
RING_TEST(hazards, failed_sends_are_reported_in_their_turn_despite_an_overflow)
{
    enum {
        STREAMS = 64
    };
    const struct midge_ring_options options = {.kind = kind, .sq_entries = 16, .cq_entries = 16};
    static struct stream streams[STREAMS];
    bool has_failed[STREAMS];
    struct rig rig;

    rig_open(&rig, &options);
    open_streams(&rig, streams, STREAMS, 1);
    for (uint32_t index = 0; index < STREAMS; index++)
        (void)close(streams[index].far_fd);
    for (uint32_t round = 0; round < 10; round++) {
        const struct iovec piece = {.iov_base = (char[]){'x'}, .iov_len = 1};
        uint32_t failed_count = 0;
        struct midge_ring_event event;

        memset(has_failed, 0, sizeof(has_failed));
        for (uint32_t index = 0; index < STREAMS; index++)
            midge_ring_send(rig.ring, streams[index].near_fd, rig_handle(index), &piece, 1);
        midge_ring_wait(rig.ring, 0, 0);
        while (midge_ring_next(rig.ring, &event)) {
            if (event.kind != MIDGE_RING_SEND)
                continue;
            cr_assert_eq(event.res, -EPIPE);
            cr_assert_not(has_failed[event.handle.index]);
            has_failed[event.handle.index] = true;
            failed_count++;
        }
        cr_assert_eq(failed_count, STREAMS, "%u failures in round %u", failed_count, round);
    }
    for (uint32_t index = 0; index < STREAMS; index++)
        midge_ring_close(rig.ring, streams[index].near_fd);
    midge_ring_destroy(rig.ring);
}

/* Take what connects; the fds of accepted sockets go to fds, their number is returned. */
static uint32_t accept_until_refused(struct rig *rig, int *fds)
{
    uint32_t count = 0;

    for (;;) {
        const struct midge_ring_event event = rig_next(rig);

        cr_assert_eq(event.kind, MIDGE_RING_ACCEPT);
        if (event.res < 0) {
            cr_assert_eq(event.res, -EMFILE);
            cr_assert_not(event.more);
            return count;
        }
        cr_assert(event.more);
        fds[count++] = event.res;
    }
}

/* No descriptors left: the accept ends, stays ended, and goes on when armed again.
 * Source: accept(2), EMFILE; the connection stays in the listener's queue. */
RING_TEST(hazards, accept_ends_at_the_descriptor_limit_and_resumes)
{
    enum {
        CONNECTIONS = 20,
        ROOM = 5
    };
    struct sockaddr_in address;
    const int listener_fd = rig_listen(&address);
    int far_fds[CONNECTIONS], near_fds[CONNECTIONS];
    struct rlimit limit;
    struct rig rig;

    rig_open_default(&rig, kind);
    for (uint32_t index = 0; index < CONNECTIONS; index++)
        far_fds[index] = rig_connect(&address);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = (rlim_t)far_fds[CONNECTIONS - 1] + 1 + ROOM;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    midge_ring_accept(rig.ring, listener_fd, rig_handle(1));
    cr_assert_eq(accept_until_refused(&rig, near_fds), ROOM);
    rig_expect_quiet(&rig);
    for (uint32_t index = 0; index < 3; index++)
        midge_ring_close(rig.ring, near_fds[index]);
    rig_expect_quiet(&rig);
    midge_ring_accept(rig.ring, listener_fd, rig_handle(1));
    cr_assert_eq(accept_until_refused(&rig, near_fds), 3);
    limit.rlim_cur += CONNECTIONS;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    midge_ring_accept(rig.ring, listener_fd, rig_handle(1));
    for (uint32_t index = 0; index < CONNECTIONS - ROOM - 3; index++) {
        const struct midge_ring_event event = rig_next(&rig);

        cr_assert_geq(event.res, 0);
        cr_assert(event.more);
    }
    rig_expect_quiet(&rig);
    rig_hang_up(&rig, listener_fd, 1);
    midge_ring_destroy(rig.ring);
}

/* A cancel may find its target armed, about to complete, or done. The target ends exactly once, and
 * what it did not receive is still in the socket. Source: io_uring_cancelation(7). */
RING_TEST(hazards, cancel_that_races_with_bytes_ends_the_recv_once)
{
    enum {
        CYCLES = 3000
    };
    uint8_t bytes[256];
    struct rig rig;

    rig_open_default(&rig, kind);
    rig_fill(bytes, sizeof(bytes), 0);
    for (uint32_t cycle = 0; cycle < CYCLES; cycle++) {
        const uint64_t choice = midge_ring_random(rig.ring); /* any choice must pass */
        const uint32_t first_len = (uint32_t)(choice & 63),
                       second_len = (uint32_t)(choice >> 8 & 63);
        const uint32_t sent = first_len + second_len;
        const bool closes = (choice >> 16 & 1) != 0;
        uint32_t received = 0, ended_count = 0;
        struct midge_ring_event event;
        uint8_t rest[256];
        int near_fd, far_fd;

        rig_unix_pair(&rig, &near_fd, &far_fd);
        midge_ring_recv(rig.ring, near_fd, rig_handle(cycle));
        if ((choice >> 17 & 1) != 0)
            midge_ring_wait(rig.ring, 0, 0);
        if (first_len > 0)
            rig_write(far_fd, bytes, first_len);
        midge_ring_cancel(rig.ring, near_fd, rig_handle(cycle));
        if (second_len > 0)
            rig_write(far_fd, bytes + first_len, second_len);
        if (closes)
            cr_assert_eq(shutdown(far_fd, SHUT_RDWR), 0);
        for (uint32_t turn = 0; turn < 4; turn++) {
            while (midge_ring_next(rig.ring, &event)) {
                cr_assert_eq(event.handle.index, cycle);
                if (event.res > 0) {
                    rig_expect_pattern(event.bytes.base, event.bytes.len, received);
                    received += event.bytes.len;
                }
                ended_count += !event.more;
            }
            midge_ring_wait(rig.ring, 0, 0);
        }
        cr_assert_eq(ended_count, 1, "cycle %u ended %u times", cycle, ended_count);
        if (received < sent) {
            const ssize_t len = recv(near_fd, rest, sizeof(rest), MSG_DONTWAIT);

            cr_assert_eq(len, (ssize_t)(sent - received));
            rig_expect_pattern(rest, (size_t)len, received);
        }
        midge_ring_close(rig.ring, near_fd);
        (void)close(far_fd);
    }
    midge_ring_destroy(rig.ring);
}

RING_TEST(hazards, no_descriptor_is_left_behind)
{
    uint32_t before;
    struct rig rig;

    rig_open_default(&rig, kind); /* what is opened once per process is open now */
    midge_ring_destroy(rig.ring);
    before = rig_open_descriptors();
    for (uint32_t cycle = 0; cycle < 20; cycle++) {
        struct sockaddr_in address;
        const int listener_fd = rig_listen(&address);
        struct midge_ring_event event;

        rig_open_default(&rig, kind);
        midge_ring_accept(rig.ring, listener_fd, rig_handle(0));
        for (uint32_t index = 1; index <= 10; index++) {
            const int far_fd = rig_connect(&address);

            event = rig_next(&rig);
            cr_assert_eq(event.kind, MIDGE_RING_ACCEPT);
            cr_assert_eq(midge_ring_adopt(rig.ring, event.res, rig_handle(index)), 0);
            midge_ring_recv(rig.ring, event.res, rig_handle(index));
            midge_ring_poll_out(rig.ring, event.res, rig_handle(index));
            rig_hang_up(&rig, event.res, 2);
            (void)close(far_fd);
        }
        rig_hang_up(&rig, listener_fd, 1);
        midge_ring_destroy(rig.ring);
    }
    cr_assert_eq(rig_open_descriptors(), before);
}
