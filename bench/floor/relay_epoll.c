/* The relay over epoll: the plain way, three system calls a hop; see floor.h. */
#include "floor.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* One read and one send. @return MIDGE_OK; E_EOF: a peer closed; E_SYSTEM */
static enum midge_status forward(const struct midge_floor *floor, uint32_t from)
{
    uint8_t bytes[FLOOR_READ_LEN];
    const ssize_t len = recv(floor->fd[from], bytes, sizeof bytes, MSG_DONTWAIT);

    if (len == 0 || (len < 0 && errno == ECONNRESET))
        return MIDGE_E_EOF;
    if (len < 0)
        return errno == EAGAIN || errno == EINTR ? MIDGE_OK : MIDGE_E_SYSTEM;
    if (from == FLOOR_REQUESTER)
        midge_floor_delay(floor);
    return midge_floor_send(floor->fd[1 - from], bytes, (uint32_t)len);
}

static enum midge_status watch(const struct midge_floor *floor, int epoll)
{
    for (uint32_t i = 0; i < FLOOR_SIDES; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};

        if (epoll_ctl(epoll, EPOLL_CTL_ADD, floor->fd[i], &event) != 0)
            return MIDGE_E_SYSTEM;
    }
    return MIDGE_OK;
}

enum midge_status midge_floor_run_epoll(const struct midge_floor *floor)
{
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    enum midge_status status = epoll < 0 ? MIDGE_E_SYSTEM : watch(floor, epoll);

    while (status == MIDGE_OK) {
        struct epoll_event events[FLOOR_SIDES];
        const int count = epoll_wait(epoll, events, FLOOR_SIDES, -1);

        if (count < 0 && errno != EINTR)
            status = MIDGE_E_SYSTEM;
        for (int i = 0; i < count && status == MIDGE_OK; i++)
            status = forward(floor, events[i].data.u32);
    }
    if (epoll >= 0) {
        const int error = errno;

        (void)close(epoll);
        errno = error;
    }
    return status == MIDGE_E_EOF ? MIDGE_OK : status;
}
