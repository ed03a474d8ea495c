/*
 * A ring inside somebody else's event loop: its descriptor, going away and coming back, a change of
 * owner, and its end in the child of a fork.
 *
 * Method: the outer loop is poll(2), and epoll(7) once. Whoever waits for what must come waits long
 * and fails; what must not come is looked for once nothing is under way.
 */
#include "ring_rig.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#define PATIENCE_MS 20000

static bool is_readable(const struct rig *rig, int timeout_ms)
{
    struct pollfd fd = {.fd = midge_ring_fd(rig->ring), .events = POLLIN};

    cr_assert_geq(fd.fd, 0);
    return poll(&fd, 1, timeout_ms) == 1;
}

/* A ring that somebody polls. */
static void open_outside(struct rig *rig, enum midge_ring_kind kind)
{
    rig_open_default(rig, kind);
    cr_assert_geq(midge_ring_fd(rig->ring), 0);
    midge_ring_wait(rig->ring, 0, 0); /* from here on it can be called */
}

/* Turns until the ring lets its owner go; they bring no event. */
static void go_away(struct rig *rig)
{
    uint32_t turns = 0;

    do {
        struct midge_ring_event event;

        cr_assert_lt(turns++, 100u, "the ring never lets go");
        midge_ring_wait(rig->ring, 0, 0);
        cr_assert_not(midge_ring_next(rig->ring, &event));
    } while (!midge_ring_park(rig->ring));
}

/* Come back, and take the one event that called. */
static struct midge_ring_event come_back(struct rig *rig)
{
    struct midge_ring_event event;
    struct midge_ring_event more;

    midge_ring_wait(rig->ring, 0, 0);
    cr_assert(midge_ring_next(rig->ring, &event), "it was readable for nothing");
    /* Bytes are borrowed until the next call: who needs them looks at the length only. */
    cr_assert_not(midge_ring_next(rig->ring, &more));
    return event;
}

RING_TEST(outside, a_ring_with_nothing_to_do_is_not_readable)
{
    struct rig rig;
    int near_fd, far_fd;

    open_outside(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    go_away(&rig);
    cr_expect_not(is_readable(&rig, 0));
    cr_expect_not(is_readable(&rig, 20));
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(outside, bytes_make_it_readable_until_they_are_taken)
{
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    open_outside(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    for (uint32_t round = 0; round < 100; round++) {
        go_away(&rig);
        rig_write(far_fd, "PING\r\n", 6);
        cr_assert(is_readable(&rig, PATIENCE_MS));
        cr_assert(is_readable(&rig, 0), "it is level-triggered");
        event = come_back(&rig);
        cr_assert_eq(event.kind, MIDGE_RING_RECV);
        cr_assert_eq(event.res, 6);
        go_away(&rig);
        cr_assert_not(is_readable(&rig, 0));
    }
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

struct writer {
    const struct rig *rig;
    int fd;
};

/* Write once the owner sleeps outside. */
static void *write_later(void *context)
{
    const struct writer *writer = context;

    (void)usleep(20000);
    rig_write(writer->fd, "late", 4);
    return NULL;
}

RING_TEST(outside, bytes_end_a_sleep_outside)
{
    struct midge_ring_event event;
    struct writer writer;
    pthread_t thread;
    struct rig rig;
    int near_fd, far_fd;

    open_outside(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    go_away(&rig);
    writer = (struct writer){.rig = &rig, .fd = far_fd};
    cr_assert_eq(pthread_create(&thread, NULL, write_later, &writer), 0);
    cr_assert(is_readable(&rig, PATIENCE_MS));
    cr_assert_eq(pthread_join(thread, NULL), 0);
    event = come_back(&rig);
    cr_expect_eq(event.res, 4);
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(outside, the_end_of_a_stream_makes_it_readable)
{
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    open_outside(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    go_away(&rig);
    (void)close(far_fd);
    cr_assert(is_readable(&rig, PATIENCE_MS));
    event = come_back(&rig);
    cr_expect_eq(event.res, 0);
    cr_expect_not(event.more);
    midge_ring_close(rig.ring, near_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(outside, room_for_output_makes_it_readable)
{
    static uint8_t bytes[1u << 16];
    const struct iovec piece = {.iov_base = bytes, .iov_len = sizeof(bytes)};
    struct midge_ring_event event;
    struct rig rig;
    int near_fd, far_fd;

    open_outside(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    while (midge_ring_try_send(rig.ring, near_fd, &piece, 1) > 0)
        ;
    midge_ring_poll_out(rig.ring, near_fd, rig_handle(3));
    go_away(&rig);
    cr_assert_not(is_readable(&rig, 0));
    while (!is_readable(&rig, 0))
        cr_assert_gt(recv(far_fd, bytes, sizeof(bytes), 0), 0);
    event = come_back(&rig);
    cr_expect_eq(event.kind, MIDGE_RING_POLL_OUT);
    rig_hang_up(&rig, near_fd, 0);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

RING_TEST(outside, a_doorbell_makes_it_readable_once)
{
    struct rig rig;

    open_outside(&rig, kind);
    for (uint32_t round = 0; round < 100; round++) {
        struct midge_ring_event event;

        go_away(&rig);
        cr_assert_not(is_readable(&rig, 0));
        midge_ring_doorbell(rig.ring);
        cr_assert(is_readable(&rig, PATIENCE_MS));
        midge_ring_wait(rig.ring, 0, 0);
        cr_assert_not(midge_ring_next(rig.ring, &event));
    }
    go_away(&rig);
    cr_assert_not(is_readable(&rig, 0));
    midge_ring_destroy(rig.ring);
}

/* Otherwise it would be slept through: the ringer saw an owner that was awake. */
RING_TEST(outside, a_doorbell_before_it_forbids_to_go)
{
    struct midge_ring_event event;
    struct rig rig;

    open_outside(&rig, kind);
    midge_ring_wait(rig.ring, 0, 0);
    midge_ring_doorbell(rig.ring);
    cr_expect_not(midge_ring_park(rig.ring));
    midge_ring_wait(rig.ring, 0, 0);
    cr_expect_not(midge_ring_next(rig.ring, &event));
    cr_expect(midge_ring_park(rig.ring), "one wait spends it");
    midge_ring_destroy(rig.ring);
}

struct ringer {
    struct midge_ring *ring;
    uint32_t rounds;
    _Atomic uint32_t seen; /* rounds that the owner has noticed */
};

static void *ring_each_round(void *context)
{
    struct ringer *ringer = context;

    for (uint32_t round = 1; round <= ringer->rounds; round++) {
        midge_ring_doorbell(ringer->ring);
        while (ringer->seen < round)
            (void)sched_yield();
    }
    return NULL;
}

/* At whatever moment it comes: a lost one would be waited for in vain. */
RING_TEST(outside, no_doorbell_is_lost_on_the_way_out)
{
    struct ringer ringer = {.rounds = 2000};
    pthread_t thread;
    struct rig rig;

    open_outside(&rig, kind);
    ringer.ring = rig.ring;
    cr_assert_eq(pthread_create(&thread, NULL, ring_each_round, &ringer), 0);
    for (uint32_t round = 1; round <= ringer.rounds; round++) {
        struct midge_ring_event event;

        if (midge_ring_park(rig.ring))
            cr_assert(is_readable(&rig, PATIENCE_MS), "round %u", round);
        midge_ring_wait(rig.ring, 0, 0);
        cr_assert_not(midge_ring_next(rig.ring, &event));
        ringer.seen = round;
    }
    cr_assert_eq(pthread_join(thread, NULL), 0);
    midge_ring_destroy(rig.ring);
}

RING_TEST(outside, an_outer_epoll_sees_it_again_and_again)
{
    const int outer_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event outer = {.events = EPOLLIN};
    struct rig rig;
    int near_fd, far_fd;

    cr_assert_geq(outer_fd, 0);
    open_outside(&rig, kind);
    cr_assert_eq(epoll_ctl(outer_fd, EPOLL_CTL_ADD, midge_ring_fd(rig.ring), &outer), 0);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    for (uint32_t round = 0; round < 100; round++) {
        go_away(&rig);
        cr_assert_eq(epoll_wait(outer_fd, &outer, 1, 0), 0);
        if (round % 2 == 0)
            midge_ring_doorbell(rig.ring);
        else
            rig_write(far_fd, "x", 1);
        cr_assert_eq(epoll_wait(outer_fd, &outer, 1, PATIENCE_MS), 1, "round %u", round);
        cr_assert_eq(epoll_wait(outer_fd, &outer, 1, 0), 1, "round %u: level-triggered", round);
        midge_ring_wait(rig.ring, 0, 0);
        if (round % 2 != 0)
            cr_assert_eq(rig_next(&rig).res, 1);
    }
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    (void)close(outer_fd);
    midge_ring_destroy(rig.ring);
}

/* --- a change of owner --- */

static void *receive_once(void *context)
{
    struct rig *rig = context;

    midge_ring_take(rig->ring);
    cr_assert_eq(rig_next(rig).res, 1);
    return NULL;
}

Test(outside_epoll, the_owner_may_change, .timeout = 120)
{
    struct rig rig;
    int near_fd, far_fd;

    rig_open_default(&rig, MIDGE_RING_KIND_EPOLL);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    for (uint32_t round = 0; round < 20; round++) {
        pthread_t thread;

        cr_assert_eq(pthread_create(&thread, NULL, receive_once, &rig), 0);
        rig_write(far_fd, "x", 1);
        cr_assert_eq(pthread_join(thread, NULL), 0);
        midge_ring_take(rig.ring);
        rig_write(far_fd, "xy", 2);
        cr_assert_eq(rig_next(&rig).res, 2);
    }
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}

Test(outside_uring, has_one_owner_for_good, .timeout = 120, .signal = SIGABRT)
{
    struct rig rig;

    if (!rig_kernel_has_io_uring())
        abort(); /* nothing to show here, and a skipped test cannot expect a signal */
    rig_open_default(&rig, MIDGE_RING_KIND_URING);
    midge_ring_take(rig.ring);
}

/* --- after fork() --- */

/* In the child: the ring's descriptors go, and nothing else is touched. */
static _Noreturn void abandon_in_child(struct rig *rig, uint32_t descriptors_before_ring)
{
    midge_ring_abandon(rig->ring);
    _exit(rig_open_descriptors() == descriptors_before_ring ? 0 : 1);
}

RING_TEST(outside, a_child_of_fork_abandons_it_and_the_parent_goes_on)
{
    uint32_t descriptors;
    struct rig rig;
    int near_fd, far_fd;
    int status;
    pid_t child;

    descriptors = rig_open_descriptors();
    open_outside(&rig, kind);
    rig_tcp_pair(&rig, &near_fd, &far_fd);
    midge_ring_recv(rig.ring, near_fd, rig_handle(3));
    go_away(&rig);
    child = fork();
    cr_assert_geq(child, 0);
    if (child == 0)
        abandon_in_child(&rig, descriptors + 2); /* the pair is the caller's to close */
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (uint32_t round = 0; round < 10; round++) {
        rig_write(far_fd, "x", 1);
        cr_assert_eq(rig_next(&rig).res, 1);
    }
    midge_ring_doorbell(rig.ring);
    midge_ring_wait(rig.ring, UINT64_MAX, 0);
    rig_hang_up(&rig, near_fd, 1);
    (void)close(far_fd);
    midge_ring_destroy(rig.ring);
}
