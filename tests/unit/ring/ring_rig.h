/*
 * What the tests of the I/O seam share: a ring of one kind, sockets around it, and a loop that
 * waits for the next event. RING_TEST(suite, name) defines one test body and runs it on io_uring
 * and on epoll; where the kernel refuses io_uring, its half is skipped, loudly.
 */
#ifndef MIDGE_RING_RIG_H
#define MIDGE_RING_RIG_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "midge/ring.h"

/* How long a test waits for what must come, and how long it listens for what must not. */
#define RIG_PATIENCE_NS 20000000000ull
#define RIG_QUIET_TURNS 20u

struct rig {
    struct midge_ring *ring;
    enum midge_ring_kind kind;
};

static inline bool rig_kernel_has_io_uring(void)
{
    /* No entries: a kernel that would make a ring says EINVAL (or EFAULT). */
    return syscall(SYS_io_uring_setup, 0, NULL) >= 0 || (errno != ENOSYS && errno != EPERM);
}

static inline void rig_open(struct rig *rig, const struct midge_ring_options *options)
{
    char why[128];

    cr_assert_eq(midge_ring_create(options, &rig->ring, why), MIDGE_OK, "%s", why);
    cr_assert_eq(midge_ring_kind(rig->ring), options->kind);
    rig->kind = options->kind;
}

static inline void rig_run(enum midge_ring_kind kind, void (*body)(enum midge_ring_kind kind))
{
    if (kind == MIDGE_RING_KIND_URING && !rig_kernel_has_io_uring())
        cr_skip_test("this kernel refuses io_uring");
    body(kind);
}

#define RING_TEST(suite, name)                                                                     \
    static void suite##_##name(enum midge_ring_kind kind);                                         \
    Test(suite##_uring, name, .timeout = 120)                                                      \
    {                                                                                              \
        rig_run(MIDGE_RING_KIND_URING, suite##_##name);                                            \
    }                                                                                              \
    Test(suite##_epoll, name, .timeout = 120)                                                      \
    {                                                                                              \
        rig_run(MIDGE_RING_KIND_EPOLL, suite##_##name);                                            \
    }                                                                                              \
    static void suite##_##name(enum midge_ring_kind kind)

/* A ring with default sizes. */
static inline void rig_open_default(struct rig *rig, enum midge_ring_kind kind)
{
    const struct midge_ring_options options = {.kind = kind};

    rig_open(rig, &options);
}

static inline struct midge_handle rig_handle(uint32_t index)
{
    return (struct midge_handle){.index = index, .generation = 1};
}

/* The next event, waiting for it; the test fails when none comes. */
static inline struct midge_ring_event rig_next(struct rig *rig)
{
    const uint64_t deadline_ns = midge_ring_now_ns(rig->ring) + RIG_PATIENCE_NS;
    struct midge_ring_event event;

    while (!midge_ring_next(rig->ring, &event)) {
        cr_assert_lt(midge_ring_now_ns(rig->ring), deadline_ns, "no event came");
        midge_ring_wait(rig->ring, deadline_ns, 0);
    }
    return event;
}

/* Turns that must bring no event. */
static inline void rig_expect_quiet(struct rig *rig)
{
    struct midge_ring_event event;

    for (uint32_t turn = 0; turn < RIG_QUIET_TURNS; turn++) {
        midge_ring_wait(rig->ring, turn % 2 == 0 ? 0 : midge_ring_now_ns(rig->ring) + 1000000, 0);
        cr_assert_not(midge_ring_next(rig->ring, &event), "unexpected event: kind %d res %d",
                      (int)event.kind, event.res);
    }
}

static inline void rig_expect_bytes(const struct midge_ring_event *event, const char *text)
{
    cr_assert_eq(event->kind, MIDGE_RING_RECV);
    cr_assert_eq(event->res, (int)strlen(text), "res is %d", event->res);
    cr_assert_eq(event->bytes.len, strlen(text));
    cr_assert_eq(memcmp(event->bytes.base, text, strlen(text)), 0);
}

/* A listening TCP socket on 127.0.0.1. */
static inline int rig_listen(struct sockaddr_in *address_out)
{
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof(*address_out);

    memset(address_out, 0, sizeof(*address_out));
    address_out->sin_family = AF_INET;
    address_out->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(bind(fd, (struct sockaddr *)address_out, len), 0);
    cr_assert_eq(listen(fd, 4096), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)address_out, &len), 0);
    return fd;
}

static inline int rig_connect(const struct sockaddr_in *address)
{
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_geq(fd, 0, "socket: %s", strerror(errno));
    cr_assert_eq(connect(fd, (const struct sockaddr *)address, sizeof(*address)), 0, "connect: %s",
                 strerror(errno));
    return fd;
}

/* A TCP connection: near_out is adopted by the ring, far_out is for plain system calls. */
static inline void rig_tcp_pair(struct rig *rig, int *near_out, int *far_out)
{
    struct sockaddr_in address;
    const int listener_fd = rig_listen(&address);

    *far_out = rig_connect(&address);
    *near_out = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC);
    cr_assert_geq(*near_out, 0);
    (void)close(listener_fd);
    cr_assert_eq(midge_ring_adopt(rig->ring, *near_out, rig_handle(0)), 0);
}

static inline void rig_unix_pair(struct rig *rig, int *near_out, int *far_out)
{
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    *near_out = fds[0];
    *far_out = fds[1];
    cr_assert_eq(midge_ring_adopt(rig->ring, *near_out, rig_handle(0)), 0);
}

static inline void rig_write(int fd, const void *bytes, size_t len)
{
    cr_assert_eq(send(fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len, "send: %s", strerror(errno));
}

/* Shut down, end what is armed (armed_count operations), close. */
static inline void rig_hang_up(struct rig *rig, int fd, uint32_t armed_count)
{
    midge_ring_shutdown(rig->ring, fd, SHUT_RDWR);
    midge_ring_cancel(rig->ring, fd, rig_handle(0));
    while (armed_count > 0) {
        const struct midge_ring_event event = rig_next(rig);

        if (!event.more)
            armed_count--;
    }
    midge_ring_close(rig->ring, fd);
}

static inline uint32_t rig_open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    uint32_t count = 0;

    cr_assert_not_null(directory);
    while (readdir(directory) != NULL)
        count++;
    (void)closedir(directory);
    return count;
}

static inline void rig_raise_descriptor_limit(void)
{
    struct rlimit limit;

    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* Bytes that tell their place in the stream. */
static inline uint8_t rig_pattern(uint64_t off)
{
    return (uint8_t)((off * 0x9e3779b97f4a7c15ull) >> 56);
}

static inline void rig_fill(uint8_t *bytes, size_t len, uint64_t off)
{
    for (size_t at = 0; at < len; at++)
        bytes[at] = rig_pattern(off + at);
}

static inline void rig_expect_pattern(const uint8_t *bytes, size_t len, uint64_t off)
{
    for (size_t at = 0; at < len; at++)
        cr_assert_eq(bytes[at], rig_pattern(off + at), "wrong byte at %llu",
                     (unsigned long long)(off + at));
}

#endif
