/* A bare epoll loop. Source: epoll(7), timerfd_create(2). */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "loop_rig.h"
#include "rig.h"

struct midge_outer {
    int epoll_fd;
    int timer_fd;
    uint32_t ticks;
    void *context;
    midge_outer_cb readable_cb;
};

static void watch(const struct midge_outer *outer, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};

    CHECK(epoll_ctl(outer->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0);
}

struct midge_outer *midge_outer_start(int fd, void *context, midge_outer_cb readable_cb)
{
    const struct timespec tick = {.tv_nsec = OUTER_TICK_MS * 1000000};
    const struct itimerspec when = {.it_value = tick, .it_interval = tick};
    struct midge_outer *outer = calloc(1, sizeof(*outer));

    CHECK(outer != NULL);
    outer->context = context;
    outer->readable_cb = readable_cb;
    outer->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    outer->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    CHECK(outer->epoll_fd >= 0);
    CHECK(outer->timer_fd >= 0);
    CHECK(timerfd_settime(outer->timer_fd, 0, &when, NULL) == 0);
    watch(outer, outer->timer_fd);
    watch(outer, fd);
    return outer;
}

void midge_outer_step(struct midge_outer *outer)
{
    struct epoll_event events[2];
    const int count = epoll_wait(outer->epoll_fd, events, 2, -1);

    /* The kernel's side of io_uring interrupts a sleep now and then, as a signal would. */
    CHECK(count > 0 || (count < 0 && errno == EINTR));
    for (int i = 0; i < count; i++) {
        if (events[i].data.fd == outer->timer_fd) {
            uint64_t expirations;

            CHECK(read(outer->timer_fd, &expirations, sizeof(expirations)) ==
                  (ssize_t)sizeof(expirations));
            outer->ticks++;
        } else {
            outer->readable_cb(outer->context);
        }
    }
}

uint32_t midge_outer_ticks(const struct midge_outer *outer)
{
    return outer->ticks;
}

void midge_outer_end(struct midge_outer *outer)
{
    (void)close(outer->timer_fd);
    (void)close(outer->epoll_fd);
    free(outer);
}
