/* The relay's frame: connections, delay and stall, and a send that waits; see floor.h. */
#include "relay.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void sleep_until_ns(uint64_t at_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(at_ns / 1000000000ull),
                                   .tv_nsec = (long)(at_ns % 1000000000ull)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
}

/* Burnt, not slept: a sleep is as long as the timer slack wants, and lets others run meanwhile. */
void midge_floor_delay(const struct midge_floor *floor)
{
    const uint64_t delay_ns = floor->options->delay_ns;
    const uint64_t until_ns = delay_ns == 0 ? 0 : now_ns() + delay_ns;

    while (until_ns != 0 && now_ns() < until_ns)
        continue;
}

/* The end is fixed by the first byte, not by the one that meets the stall, so that who measures
 * through it can compute what each message has to wait. */
void midge_floor_stall(struct midge_floor *floor)
{
    uint64_t at_ns = 0;

    if (floor->is_stall_over)
        return;
    at_ns = now_ns();
    if (floor->stall_begins_ns == 0)
        floor->stall_begins_ns = at_ns + floor->options->stall_at_ns;
    if (at_ns < floor->stall_begins_ns)
        return;
    sleep_until_ns(floor->stall_begins_ns + floor->options->stall_ns);
    floor->is_stall_over = true;
}

static enum midge_status wait_for_room(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    const int ready = poll(&poll_fd, 1, MIDGE_FLOOR_STUCK_MS);

    if (ready == 0)
        errno = ETIMEDOUT;
    return ready > 0 || (ready < 0 && errno == EINTR) ? MIDGE_OK : MIDGE_E_SYSTEM;
}

enum midge_status midge_floor_send(int fd, const uint8_t *bytes, uint32_t len)
{
    while (len > 0) {
        const ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent >= 0) {
            bytes += sent;
            len -= (uint32_t)sent;
        } else if (errno == EPIPE || errno == ECONNRESET) {
            return MIDGE_E_EOF;
        } else if (errno == EAGAIN) {
            const enum midge_status status = wait_for_room(fd);

            if (status != MIDGE_OK)
                return status;
        } else if (errno != EINTR) {
            return MIDGE_E_SYSTEM;
        }
    }
    return MIDGE_OK;
}

/* The file of a Unix socket, which the listener made. */
static void remove_file(const struct midge_endpoint *endpoint)
{
    struct sockaddr_un address;

    if (!endpoint->is_unix)
        return;
    memcpy(&address, &endpoint->address, sizeof address);
    (void)unlink(address.sun_path);
}

static enum midge_status accept_all(struct midge_floor *floor)
{
    const struct midge_endpoint *endpoint = &floor->options->endpoint;
    int listener = -1;
    enum midge_status status = midge_endpoint_listen(endpoint, &listener);

    for (uint32_t i = 0; status == MIDGE_OK && i < floor->side_count; i++)
        status = midge_endpoint_accept(endpoint, listener, &floor->fd[i]);
    if (listener >= 0) {
        const int error = errno;

        remove_file(endpoint);
        (void)close(listener);
        errno = error;
    }
    return status;
}

static bool is_in_range(const struct midge_floor_options *options)
{
    if (options->read_len != 0 && (options->read_len < MIDGE_FLOOR_READ_LEN_MIN ||
                                   options->read_len > MIDGE_FLOOR_READ_LEN_MAX))
        return false;
    if (options->side_count == 0 || options->side_count == MIDGE_FLOOR_SIDES_MIN)
        return true;
    return !options->is_uring && options->side_count > MIDGE_FLOOR_SIDES_MIN &&
           options->side_count <= MIDGE_FLOOR_SIDES_MAX;
}

enum midge_status midge_floor_run(const struct midge_floor_options *options)
{
    struct midge_floor floor = {
        .options = options,
        .side_count = options->side_count == 0 ? MIDGE_FLOOR_SIDES_MIN : options->side_count,
        .read_len = options->read_len,
        .is_stall_over = options->stall_ns == 0,
    };
    enum midge_status status = MIDGE_OK;

    if (!is_in_range(options))
        return MIDGE_E_CONFIG;
    for (uint32_t i = 0; i < floor.side_count; i++)
        floor.fd[i] = -1;
    status = accept_all(&floor);
    if (status == MIDGE_OK)
        status = options->is_uring ? midge_floor_run_uring(&floor) : midge_floor_run_epoll(&floor);
    const int error = errno;

    for (uint32_t i = 0; i < floor.side_count; i++) {
        if (floor.fd[i] >= 0)
            (void)close(floor.fd[i]);
    }
    errno = error;
    return status == MIDGE_E_EOF ? MIDGE_OK : status;
}
