/*
 * The contract of ring.h, on io_uring and on epoll alike.
 *
 * Method: one ring, real sockets; far ends are plain blocking sockets of the same process. What
 * must not happen is listened for over a number of turns, not over a time.
 */
#include "ring_rig.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <time.h>

RING_TEST(ring, one_accept_takes_many_connections)
{
    struct sockaddr_in address;
    const int listener_fd = rig_listen(&address);
    int far_fds[100];
    struct rig rig;

    rig_open_default(&rig, kind);
    midge_ring_accept(rig.ring, listener_fd, rig_handle(7));
    for (uint32_t index = 0; index < 100; index++)
        far_fds[index] = rig_connect(&address);
    for (uint32_t index = 0; index < 100; index++) {
        const struct midge_ring_event event = rig_next(&rig);

        cr_assert_eq(event.kind, MIDGE_RING_ACCEPT);
        cr_assert_eq(event.handle.index, 7);
        cr_assert_geq(event.res, 0);
        cr_assert(event.more);
        cr_assert_eq(fcntl(event.res, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        cr_assert_eq(midge_ring_adopt(rig.ring, event.res, rig_handle(index)), 0);
        midge_ring_close(rig.ring, event.res);
        (void)close(far_fds[index]);
    }
    rig_expect_quiet(&rig);
    rig_hang_up(&rig, listener_fd, 1);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, sockets_from_outside_may_be_nonblocking)
{
    struct sockaddr_in address;
    const int listener_fd = rig_listen(&address);
    struct midge_ring_event event;
    struct rig rig;
    int far_fd;

    rig_open_default(&rig, kind);
    cr_assert_eq(fcntl(listener_fd, F_SETFL, O_NONBLOCK), 0);
    midge_ring_accept(rig.ring, listener_fd, rig_handle(1));
    rig_expect_quiet(&rig);
    far_fd = rig_connect(&address);
    event = rig_next(&rig);
    cr_assert_geq(event.res, 0);
    cr_assert_eq(fcntl(event.res, F_SETFL, O_NONBLOCK), 0);
    cr_assert_eq(midge_ring_adopt(rig.ring, event.res, rig_handle(2)), 0);
    midge_ring_recv(rig.ring, event.res, rig_handle(2));
    rig_expect_quiet(&rig);
    rig_hang_up(&rig, event.res, 1);
    rig_hang_up(&rig, listener_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, recv_brings_bytes_and_stays_armed)
{
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    for (uint32_t round = 0; round < 100; round++) {
        rig_write(far_fd, "PING\r\n", 6);
        event = rig_next(&rig);
        cr_assert_eq(event.handle.index, 3);
        cr_assert(event.more);
        rig_expect_bytes(&event, "PING\r\n");
    }
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, end_of_stream_follows_the_last_bytes_and_ends_the_recv)
{
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    rig_write(far_fd, "last", 4);
    (void)close(far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    event = rig_next(&rig);
    rig_expect_bytes(&event, "last");
    event = rig_next(&rig);
    cr_assert_eq(event.kind, MIDGE_RING_RECV);
    cr_assert_eq(event.res, 0);
    cr_assert_not(event.more);
    rig_expect_quiet(&rig);
    midge_ring_close(rig.ring, near_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, reset_ends_the_recv_with_its_error)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    rig_expect_quiet(&rig);
    cr_assert_eq(setsockopt(far_fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    (void)close(far_fd);
    event = rig_next(&rig);
    cr_assert_eq(event.res, -ECONNRESET);
    cr_assert_not(event.more);
    rig_expect_quiet(&rig);
    midge_ring_close(rig.ring, near_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, operations_on_a_bad_descriptor_end_with_an_event)
{
    static const enum midge_ring_event_kind kinds[] = {MIDGE_RING_ACCEPT, MIDGE_RING_RECV,
                                                       MIDGE_RING_POLL_OUT, MIDGE_RING_SEND};
    const struct iovec piece = {.iov_base = (char[]){'x'}, .iov_len = 1};
    struct rig rig;
    int fds[2];

    rig_open_default(&rig, kind);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    (void)close(fds[0]);
    (void)close(fds[1]);
    for (uint32_t index = 0; index < 4; index++) {
        struct midge_ring_event event;

        if (kinds[index] == MIDGE_RING_ACCEPT)
            midge_ring_accept(rig.ring, fds[0], rig_handle(index));
        else if (kinds[index] == MIDGE_RING_RECV)
            midge_ring_recv(rig.ring, fds[0], rig_handle(index));
        else if (kinds[index] == MIDGE_RING_POLL_OUT)
            midge_ring_poll_out(rig.ring, fds[0], rig_handle(index));
        else
            midge_ring_send(rig.ring, fds[0], rig_handle(index), &piece, 1);
        event = rig_next(&rig);
        cr_assert_eq(event.kind, kinds[index]);
        cr_assert_eq(event.handle.index, index);
        cr_assert_eq(event.res, -EBADF);
        cr_assert_not(event.more);
    }
    cr_assert_eq(midge_ring_adopt(rig.ring, fds[0], rig_handle(0)), -EBADF);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, cancel_ends_each_armed_operation_once)
{
    struct sockaddr_in address;
    const int listener_fd = rig_listen(&address);
    static uint8_t filler[1024 * 1024];
    const struct iovec piece = {.iov_base = filler, .iov_len = sizeof(filler)};
    uint32_t ended[8] = {0};
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    cr_assert_gt(midge_ring_try_send(rig.ring, near_fd, &piece, 1), 0); /* full: no room to poll */
    midge_ring_accept(rig.ring, listener_fd, rig_handle(1));
    midge_ring_recv(rig.ring, near_fd, rig_handle(2));
    midge_ring_poll_out(rig.ring, near_fd, rig_handle(3));
    rig_expect_quiet(&rig);
    midge_ring_cancel(rig.ring, listener_fd, rig_handle(1));
    midge_ring_cancel(rig.ring, near_fd, rig_handle(2));
    for (uint32_t index = 0; index < 3; index++) {
        const struct midge_ring_event event = rig_next(&rig);

        cr_assert_eq(event.res, -ECANCELED);
        cr_assert_not(event.more);
        ended[event.handle.index]++;
    }
    rig_expect_quiet(&rig);
    cr_assert(ended[1] == 1 && ended[2] == 1 && ended[3] == 1);
    midge_ring_cancel(rig.ring, near_fd, rig_handle(2)); /* nothing armed: nothing happens */
    rig_expect_quiet(&rig);
    midge_ring_close(rig.ring, near_fd);
    midge_ring_close(rig.ring, listener_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, bytes_wait_while_recv_is_cancelled)
{
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    for (uint32_t round = 0; round < 10; round++) {
        midge_ring_recv(rig.ring, near_fd, rig_handle(3));
        rig_write(far_fd, "one", 3);
        event = rig_next(&rig);
        rig_expect_bytes(&event, "one");
        midge_ring_cancel(rig.ring, near_fd, rig_handle(3));
        event = rig_next(&rig);
        cr_assert_not(event.more);
        rig_write(far_fd, "two", 3);
        rig_expect_quiet(&rig);
        midge_ring_recv(rig.ring, near_fd, rig_handle(3));
        event = rig_next(&rig);
        rig_expect_bytes(&event, "two");
        midge_ring_cancel(rig.ring, near_fd, rig_handle(3));
        event = rig_next(&rig);
        cr_assert_not(event.more);
    }
    midge_ring_close(rig.ring, near_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

/* A level-triggered hang-up would end each wait at once. Waits may be late, never early here. */
RING_TEST(ring, hang_up_on_a_paused_connection_does_not_end_waits)
{
    const uint64_t nap_ns = 2000000;
    uint32_t early_count = 0;
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    rig_expect_quiet(&rig);
    midge_ring_cancel(rig.ring, near_fd, rig_handle(3));
    event = rig_next(&rig);
    cr_assert_eq(event.res, -ECANCELED);
    rig_write(far_fd, "unread", 6);
    (void)close(far_fd);
    for (uint32_t round = 0; round < 20; round++) {
        const uint64_t deadline_ns = midge_ring_now_ns(rig.ring) + nap_ns;

        midge_ring_wait(rig.ring, deadline_ns, 0);
        cr_assert_not(midge_ring_next(rig.ring, &event));
        if (midge_ring_now_ns(rig.ring) < deadline_ns)
            early_count++;
    }
    cr_assert_leq(early_count, 2, "%u of 20 waits were ended", early_count);
    midge_ring_close(rig.ring, near_fd);
    midge_ring_destroy(rig.ring);
}

/* Run one turn and let the reader take `quota` bytes. */
static void drain(int fd, uint64_t *received, size_t quota)
{
    uint8_t bytes[65536];

    while (quota > 0) {
        const ssize_t len =
            recv(fd, bytes, quota < sizeof(bytes) ? quota : sizeof(bytes), MSG_DONTWAIT);

        if (len <= 0)
            return;
        rig_expect_pattern(bytes, (size_t)len, *received);
        *received += (uint64_t)len;
        quota -= (size_t)len;
    }
}

/* Push a patterned megabyte through a small socket: sends come short, poll_out tells when to go on.
 */
static void push_through_small_socket(struct rig *rig, int near_fd, int far_fd)
{
    const uint32_t total = 1024 * 1024;
    uint8_t *bytes = malloc(total);
    uint64_t sent = 0, received = 0;
    uint32_t short_count = 0;

    rig_fill(bytes, total, 0);
    while (sent < total) {
        /* Uneven pieces, several per send. */
        const uint64_t left = total - sent;
        const uint64_t first = left < 1000 ? left : 1000;
        const uint64_t second = left - first < 77777 ? left - first : 77777;
        const struct iovec pieces[3] = {
            {.iov_base = bytes + sent, .iov_len = first},
            {.iov_base = bytes + sent + first, .iov_len = second},
            {.iov_base = bytes + sent + first + second, .iov_len = left - first - second}};
        struct midge_ring_event event;

        midge_ring_send(rig->ring, near_fd, rig_handle(5), pieces, 3);
        midge_ring_wait(rig->ring, 0, 0);
        if (!midge_ring_next(rig->ring, &event))
            break; /* all of it went */
        cr_assert_eq(event.kind, MIDGE_RING_SEND);
        cr_assert_eq(event.handle.index, 5);
        cr_assert_not(event.more);
        cr_assert(event.res > 0 || event.res == -EAGAIN, "res is %d", event.res);
        cr_assert_lt(event.res, (int)left);
        short_count++;
        if (event.res > 0)
            sent += (uint64_t)event.res;
        midge_ring_poll_out(rig->ring, near_fd, rig_handle(6));
        cr_assert_not(midge_ring_next(rig->ring, &event));
        do {
            drain(far_fd, &received, 30000);
            midge_ring_wait(rig->ring, midge_ring_now_ns(rig->ring) + 1000000, 0);
        } while (!midge_ring_next(rig->ring, &event));
        cr_assert_eq(event.kind, MIDGE_RING_POLL_OUT);
        cr_assert_eq(event.handle.index, 6);
        cr_assert_geq(event.res, 0);
        cr_assert_not(event.more);
    }
    cr_assert_gt(short_count, 0);
    (void)shutdown(near_fd, SHUT_WR);
    while (received < total) {
        struct pollfd readable = {.fd = far_fd, .events = POLLIN};

        cr_assert_eq(poll(&readable, 1, 20000), 1);
        drain(far_fd, &received, total);
    }
    cr_assert_eq(received, total);
    cr_assert_eq(recv(far_fd, bytes, 1, 0), 0);
    free(bytes);
}

RING_TEST(ring, short_sends_tell_exactly_what_was_taken_tcp)
{
    const int small = 65536;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    cr_assert_eq(setsockopt(near_fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    cr_assert_eq(setsockopt(far_fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    push_through_small_socket(&rig, near_fd, far_fd);
    midge_ring_close(rig.ring, near_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, short_sends_tell_exactly_what_was_taken_unix)
{
    const int small = 65536;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    cr_assert_eq(setsockopt(near_fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    push_through_small_socket(&rig, near_fd, far_fd);
    midge_ring_close(rig.ring, near_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, full_socket_answers_eagain_until_poll_out)
{
    static uint8_t filler[4 * 1024 * 1024];
    const struct iovec big = {.iov_base = filler, .iov_len = sizeof(filler)};
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    while (midge_ring_try_send(rig.ring, near_fd, &big, 1) > 0)
        continue;
    cr_assert_eq(midge_ring_try_send(rig.ring, near_fd, &big, 1), -EAGAIN);
    midge_ring_send(rig.ring, near_fd, rig_handle(4), &big, 1);
    midge_ring_wait(rig.ring, 0, 0);
    cr_assert(midge_ring_next(rig.ring, &event));
    cr_assert_eq(event.kind, MIDGE_RING_SEND);
    cr_assert_eq(event.res, -EAGAIN);
    midge_ring_poll_out(rig.ring, near_fd, rig_handle(4));
    rig_expect_quiet(&rig);
    while (recv(far_fd, filler, sizeof(filler), MSG_DONTWAIT) > 0)
        continue;
    event = rig_next(&rig);
    cr_assert_eq(event.kind, MIDGE_RING_POLL_OUT);
    rig_expect_quiet(&rig);
    midge_ring_send(rig.ring, near_fd, rig_handle(4), &(struct iovec){filler, 10}, 1);
    rig_expect_quiet(&rig);
    midge_ring_close(rig.ring, near_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

/* Lengths beyond what one system call takes: 32 bits would cut this one to ten bytes. */
RING_TEST(ring, send_beyond_four_gigabytes_is_short_not_silent)
{
    const size_t len = (4ull << 30) + 10;
    uint8_t *zeroes =
        mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    cr_assert_neq(zeroes, MAP_FAILED);
    rig_open_default(&rig, kind);
    for (uint32_t count = 1; count <= 2; count++) {
        const struct iovec pieces[2] = {{zeroes, len}, {zeroes, len}};

        rig_unix_pair(&rig, &near_fd, &far_fd);
        midge_ring_send(rig.ring, near_fd, rig_handle(4), pieces, count);
        event = rig_next(&rig);
        cr_assert_eq(event.kind, MIDGE_RING_SEND);
        cr_assert_gt(event.res, 4096);
        rig_expect_quiet(&rig);
        midge_ring_close(rig.ring, near_fd);
        (void)close(far_fd);
    }
    (void)munmap(zeroes, len);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, send_to_a_gone_peer_is_an_error_and_no_signal)
{
    const struct iovec piece = {.iov_base = (char[]){'x'}, .iov_len = 1};
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    (void)close(far_fd);
    midge_ring_send(rig.ring, near_fd, rig_handle(4), &piece, 1);
    event = rig_next(&rig);
    cr_assert_eq(event.kind, MIDGE_RING_SEND);
    cr_assert_eq(event.res, -EPIPE);
    cr_assert_eq(midge_ring_try_send(rig.ring, near_fd, &piece, 1), -EPIPE);
    midge_ring_close(rig.ring, near_fd);
    midge_ring_destroy(rig.ring);
}

/* More sends in one turn than the submission queue and the arena hold, of the most pieces allowed.
 */
RING_TEST(ring, sends_beyond_the_queue_arrive_whole_and_in_turn)
{
    enum {
        PAIRS = 150
    };
    const struct midge_ring_options options = {.kind = kind, .sq_entries = 16, .cq_entries = 32};
    struct iovec pieces[MIDGE_RING_IOV_MAX];
    uint8_t bytes[MIDGE_RING_IOV_MAX * 3], received[MIDGE_RING_IOV_MAX * 3];
    int near_fds[PAIRS], far_fds[PAIRS];
    struct rig rig;

    rig_open(&rig, &options);
    rig_fill(bytes, sizeof(bytes), 0);
    for (uint32_t index = 0; index < PAIRS; index++)
        rig_unix_pair(&rig, &near_fds[index], &far_fds[index]);
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t index = 0; index < PAIRS; index++) {
            const uint32_t count = 1 + (index * 7 + round) % MIDGE_RING_IOV_MAX;

            for (uint32_t piece = 0; piece < count; piece++)
                pieces[piece] = (struct iovec){.iov_base = bytes + piece * 3, .iov_len = 3};
            midge_ring_send(rig.ring, near_fds[index], rig_handle(index), pieces, count);
            memset(pieces, 0, sizeof(pieces)); /* the array was copied */
        }
        rig_expect_quiet(&rig);
        for (uint32_t index = 0; index < PAIRS; index++) {
            const uint32_t len = 3 * (1 + (index * 7 + round) % MIDGE_RING_IOV_MAX);

            cr_assert_eq(recv(far_fds[index], received, sizeof(received), MSG_DONTWAIT), len);
            cr_assert_eq(memcmp(received, bytes, len), 0);
        }
    }
    for (uint32_t index = 0; index < PAIRS; index++) {
        midge_ring_close(rig.ring, near_fds[index]);
        (void)close(far_fds[index]);
    }
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, handles_come_back_unchanged)
{
    static const struct midge_handle handles[] = {
        {0, 0}, {0xfffffe, 0xffffffff}, {0xabcdef, 0x12345678}, {1, 0x80000000}, {0x800000, 1}};
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    for (uint32_t index = 0; index < sizeof(handles) / sizeof(handles[0]); index++) {
        midge_ring_recv(rig.ring, near_fd, handles[index]);
        rig_write(far_fd, "x", 1);
        event = rig_next(&rig);
        cr_assert_eq(event.kind, MIDGE_RING_RECV);
        cr_assert_eq(event.handle.index, handles[index].index);
        cr_assert_eq(event.handle.generation, handles[index].generation);
        midge_ring_cancel(rig.ring, near_fd, handles[index]);
        event = rig_next(&rig);
        cr_assert_eq(event.handle.generation, handles[index].generation);
        midge_ring_poll_out(rig.ring, near_fd, handles[index]);
        event = rig_next(&rig);
        cr_assert_eq(event.kind, MIDGE_RING_POLL_OUT);
        cr_assert_eq(event.handle.index, handles[index].index);
        cr_assert_eq(event.handle.generation, handles[index].generation);
    }
    midge_ring_close(rig.ring, near_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, many_connections_are_echoed)
{
    enum {
        PAIRS = 400,
        ROUNDS = 5
    };
    static int near_fds[PAIRS], far_fds[PAIRS];
    static char texts[PAIRS][16];
    struct rig rig;
    char received[16];

    rig_raise_descriptor_limit();
    rig_open_default(&rig, kind);
    for (uint32_t index = 0; index < PAIRS; index++) {
        rig_unix_pair(&rig, &near_fds[index], &far_fds[index]);
        midge_ring_recv(rig.ring, near_fds[index], rig_handle(index));
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t arrived = 0;

        for (uint32_t index = 0; index < PAIRS; index++) {
            (void)snprintf(texts[index], sizeof(texts[index]), "%u/%u", index, round);
            rig_write(far_fds[index], texts[index], sizeof(texts[index]));
            memset(texts[index], 0, sizeof(texts[index]));
        }
        while (arrived < PAIRS) {
            const struct midge_ring_event event = rig_next(&rig);
            const uint32_t index = event.handle.index;

            cr_assert_eq(event.kind, MIDGE_RING_RECV);
            if (event.res > 0) {
                cr_assert_eq(event.res, (int)sizeof(texts[index]));
                memcpy(texts[index], event.bytes.base, sizeof(texts[index]));
                midge_ring_send(rig.ring, near_fds[index], event.handle,
                                &(struct iovec){texts[index], sizeof(texts[index])}, 1);
                arrived++;
            }
            if (!event.more)
                midge_ring_recv(rig.ring, near_fds[index], event.handle);
        }
        midge_ring_wait(rig.ring, 0, 0);
        for (uint32_t index = 0; index < PAIRS; index++) {
            char expected[16] = {0};

            (void)snprintf(expected, sizeof(expected), "%u/%u", index, round);
            cr_assert_eq(recv(far_fds[index], received, sizeof(received), MSG_DONTWAIT), 16);
            cr_assert_eq(memcmp(received, expected, sizeof(expected)), 0);
        }
    }
    for (uint32_t index = 0; index < PAIRS; index++) {
        rig_hang_up(&rig, near_fds[index], 1);
        (void)close(far_fds[index]);
    }
    midge_ring_destroy(rig.ring);
}

/* Wait for a deadline, as often as it takes; how often. */
static uint32_t sleep_until(struct rig *rig, uint64_t deadline_ns, uint64_t spin_ns)
{
    struct midge_ring_event event;
    uint32_t wait_count = 0;

    do {
        midge_ring_wait(rig->ring, deadline_ns, spin_ns);
        cr_assert_not(midge_ring_next(rig->ring, &event));
        wait_count++;
    } while (midge_ring_now_ns(rig->ring) < deadline_ns);
    return wait_count;
}

RING_TEST(ring, wait_ends_at_its_deadline)
{
    struct rig rig;
    uint64_t now_ns;

    rig_open_default(&rig, kind);
    cr_assert_leq(sleep_until(&rig, 1, 0), 1); /* long past */
    for (uint32_t round = 0; round < 10; round++) {
        now_ns = midge_ring_now_ns(rig.ring);
        cr_assert_leq(sleep_until(&rig, now_ns + 1000000, 0), 3, "the wait did not sleep");
    }
    now_ns = midge_ring_now_ns(rig.ring);
    (void)sleep_until(&rig, now_ns + 2000000, 60000000000ull); /* the watch ends there, too */
    midge_ring_destroy(rig.ring);
}

/* Deadlines that come nearer and recede from wait to wait, each met. */
RING_TEST(ring, wait_keeps_up_with_a_deadline_that_moves)
{
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(1));
    for (uint32_t round = 0; round < 50; round++) {
        const uint64_t now_ns = midge_ring_now_ns(rig.ring);

        rig_write(far_fd, "x", 1); /* ends the first wait, whose deadline is left behind */
        midge_ring_wait(rig.ring, now_ns + 600000000000ull * (1 + round % 3), 0);
        event = rig_next(&rig);
        rig_expect_bytes(&event, "x");
        cr_assert_not(midge_ring_next(rig.ring, &event));
        cr_assert_leq(sleep_until(&rig, now_ns + 1000000 * (1 + round % 4), 0), 4);
    }
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, watching_finds_bytes_without_a_sleep)
{
    struct midge_ring_counts before, after;
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(1));
    rig_expect_quiet(&rig);
    midge_ring_counts(rig.ring, &before);
    rig_write(far_fd, "x", 1);
    midge_ring_wait(rig.ring, UINT64_MAX, RIG_PATIENCE_NS);
    cr_assert(midge_ring_next(rig.ring, &event));
    rig_expect_bytes(&event, "x");
    midge_ring_counts(rig.ring, &after);
    cr_assert_eq(after.sleeps, before.sleeps);
    cr_assert_eq(after.waits, before.waits + 1);
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

static uint64_t cpu_ns(void)
{
    struct timespec used;

    cr_assert_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used), 0);
    return (uint64_t)used.tv_sec * 1000000000ull + (uint64_t)used.tv_nsec;
}

/* What it used and what it watched are together the CPU time of its thread. */
RING_TEST(ring, a_thread_that_watches_is_not_busy)
{
    struct midge_ring_counts counts;
    uint64_t before_ns, busy_ns, after_ns;
    struct rig rig;

    rig_open_default(&rig, kind);
    for (uint32_t round = 0; round < 20; round++) {
        const uint64_t now_ns = midge_ring_now_ns(rig.ring);

        (void)sleep_until(&rig, now_ns + 1000000, round % 2 == 0 ? 60000000000ull : 0);
        midge_ring_counts(rig.ring, &counts);
        before_ns = cpu_ns();
        busy_ns = midge_ring_busy_ns(rig.ring);
        after_ns = cpu_ns();
        cr_assert_gt(counts.spin_ns, 0);
        /* Time in which others had the core counts as watched. */
        cr_assert(busy_ns == 0 || busy_ns + counts.spin_ns >= before_ns);
        cr_assert(busy_ns == 0 || busy_ns + counts.spin_ns <= after_ns);
    }
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, cores_are_idle_for_no_longer_than_the_time_that_passes)
{
    const uint64_t tick_ns = 1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK);
    const uint64_t cores = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t from_ns, idle_ns, span_ns;
    struct rig rig;

    rig_open_default(&rig, kind);
    from_ns = midge_ring_now_ns(rig.ring);
    idle_ns = midge_ring_idle_ns(rig.ring);
    cr_assert_gt(idle_ns, 0);
    (void)sleep_until(&rig, from_ns + 50000000, 0);
    idle_ns = midge_ring_idle_ns(rig.ring) - idle_ns;
    span_ns = midge_ring_now_ns(rig.ring) - from_ns;
    /* Each core counts in ticks of its own. */
    cr_assert_leq(idle_ns, cores * (span_ns + 2 * tick_ns));
    midge_ring_destroy(rig.ring);
}

/* io_uring: submitting, running completions and waiting are one system call. */
Test(ring_uring, one_turn_is_one_enter, .timeout = 60)
{
    struct midge_ring_counts before, after;
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    if (!rig_kernel_has_io_uring())
        cr_skip_test("this kernel refuses io_uring");
    rig_open_default(&rig, MIDGE_RING_KIND_URING);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(1));
    rig_expect_quiet(&rig);
    midge_ring_counts(rig.ring, &before);
    for (uint32_t round = 0; round < 100; round++) {
        rig_write(far_fd, "x", 1);
        midge_ring_wait(rig.ring, UINT64_MAX, 0);
        cr_assert(midge_ring_next(rig.ring, &event));
        cr_assert_not(midge_ring_next(rig.ring, &event));
        midge_ring_send(rig.ring, near_fd, rig_handle(1), &(struct iovec){(char[]){'y'}, 1}, 1);
    }
    midge_ring_counts(rig.ring, &after);
    cr_assert_eq(after.enters - before.enters, 100);
    midge_ring_wait(rig.ring, 0, 0);
    midge_ring_counts(rig.ring, &before);
    midge_ring_wait(rig.ring, 0, 0); /* nothing to submit, nothing to run: no system call */
    midge_ring_counts(rig.ring, &after);
    cr_assert_eq(after.enters, before.enters);
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

/* io_uring: a buffer that was used comes back behind those that wait, so all that wait get used. */
Test(ring_uring, low_traffic_goes_through_the_buffers_at_rest_alone, .timeout = 60)
{
    const struct midge_ring_options options = {
        .kind = MIDGE_RING_KIND_URING, .buffer_count = 16, .buffer_len = 64, .buffers_at_rest = 2};
    const uint8_t *bases[2] = {NULL, NULL};
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    if (!rig_kernel_has_io_uring())
        cr_skip_test("this kernel refuses io_uring");
    rig_open(&rig, &options);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(1));
    rig_expect_quiet(&rig);
    for (uint32_t round = 0; round < 100; round++) {
        rig_write(far_fd, "x", 1);
        event = rig_next(&rig);
        rig_expect_bytes(&event, "x");
        if (round < 2)
            bases[round] = event.bytes.base;
        cr_assert_eq(event.bytes.base, bases[round % 2]);
    }
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, adopt_switches_nagle_off)
{
    socklen_t len = sizeof(int);
    struct rig rig;
    int near_fd, far_fd;
    int nodelay = 0;

    rig_open_default(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    cr_assert_eq(getsockopt(near_fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &len), 0);
    cr_assert_neq(nodelay, 0);
    midge_ring_close(rig.ring, near_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, peer_of_tcp_is_its_address)
{
    struct sockaddr_in own;
    socklen_t len = sizeof(own);
    struct midge_ring_peer peer;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    cr_assert_eq(getsockname(far_fd, (struct sockaddr *)&own, &len), 0);
    cr_assert_eq(midge_ring_peer(rig.ring, near_fd, &peer), 0);
    cr_assert_str_eq(peer.ip, "127.0.0.1");
    cr_assert_eq(peer.port, ntohs(own.sin_port));
    cr_assert_not(peer.is_unix);
    midge_ring_close(rig.ring, near_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, peer_of_a_mapped_address_is_shown_as_ipv4)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(any);
    const int off = 0;
    const int listener_fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct midge_ring_peer peer;
    struct rig rig;
    int near_fd, far_fd;

    if (listener_fd < 0)
        cr_skip_test("no IPv6 here");
    rig_open_default(&rig, kind);
    cr_assert_eq(setsockopt(listener_fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)), 0);
    cr_assert_eq(bind(listener_fd, (struct sockaddr *)&any, sizeof(any)), 0);
    cr_assert_eq(listen(listener_fd, 8), 0);
    cr_assert_eq(getsockname(listener_fd, (struct sockaddr *)&any, &len), 0);
    address.sin_port = any.sin6_port;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    far_fd = rig_connect(&address);
    near_fd = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC);
    cr_assert_eq(midge_ring_peer(rig.ring, near_fd, &peer), 0);
    cr_assert_str_eq(peer.ip, "127.0.0.1");
    cr_assert_neq(peer.port, 0);
    (void)close(near_fd);
    (void)close(far_fd);
    (void)close(listener_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, peer_of_a_unix_socket_is_its_user)
{
    struct midge_ring_peer peer;
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, kind);
    rig_unix_pair(&rig, &near_fd, &far_fd);
    cr_assert_eq(midge_ring_peer(rig.ring, near_fd, &peer), 0);
    cr_assert(peer.is_unix);
    cr_assert_eq(peer.uid, geteuid());
    cr_assert_str_eq(peer.ip, "");
    cr_assert_eq(peer.port, 0);
    midge_ring_close(rig.ring, near_fd);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, peer_of_an_unconnected_socket_is_an_error)
{
    struct sockaddr_in address;
    const int listener_fd = rig_listen(&address);
    struct midge_ring_peer peer;
    struct rig rig;

    rig_open_default(&rig, kind);
    cr_assert_eq(midge_ring_peer(rig.ring, listener_fd, &peer), -ENOTCONN);
    (void)close(listener_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(ring, random_numbers_differ_between_rings)
{
    struct rig first, second;

    rig_open_default(&first, kind);
    rig_open_default(&second, kind);
    cr_assert_neq(midge_ring_random(first.ring), midge_ring_random(first.ring));
    cr_assert_neq(midge_ring_random(first.ring), midge_ring_random(second.ring));
    midge_ring_destroy(second.ring);
    midge_ring_destroy(first.ring);
}
