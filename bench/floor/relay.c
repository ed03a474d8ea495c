/*
 * midge-floor: accept two connections, then forward bytes between them; see floor.h.
 *
 * The listener closes after the second connection, and the process ends when either peer closes, so
 * that a benchmark starts a fresh relay for each round.
 */
#include "floor.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "endpoint.h"

/* Longest artificial delay in us. It exists to prove that a comparison finds 20. */
#define DELAY_US_MAX 1000000u

struct options {
    struct midge_endpoint endpoint;
    uint64_t delay_ns;
    bool uring;
    bool have_endpoint;
};

static const char usage[] =
    "usage: midge-floor --engine epoll|io_uring --listen tcp:PORT|unix:PATH [--delay-us N]\n"
    "Relay between the first connection (requester) and the second (responder), parsing nothing.\n";

static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* Burnt, not slept: a sleep is as long as the timer slack wants, and lets others run meanwhile. */
void midge_floor_delay(const struct midge_floor *floor)
{
    const uint64_t until_ns = floor->delay_ns == 0 ? 0 : now_ns() + floor->delay_ns;

    while (until_ns != 0 && now_ns() < until_ns)
        continue;
}

static enum midge_status wait_for_room(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    const int ready = poll(&poll_fd, 1, FLOOR_STUCK_MS);

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

static enum midge_status parse_engine(const char *text, bool *uring_out)
{
    *uring_out = strcmp(text, "io_uring") == 0;
    return *uring_out || strcmp(text, "epoll") == 0 ? MIDGE_OK : MIDGE_E_CONFIG;
}

static enum midge_status parse_delay(const char *text, uint64_t *delay_ns_out)
{
    char *end = NULL;
    const unsigned long delay_us = strtoul(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || *end != '\0' || delay_us > DELAY_US_MAX)
        return MIDGE_E_CONFIG;
    *delay_ns_out = delay_us * 1000ull;
    return MIDGE_OK;
}

static enum midge_status parse_options(int argc, char **argv, struct options *options)
{
    static const struct option names[] = {
        {"engine", required_argument, NULL, 'e'},
        {"listen", required_argument, NULL, 'l'},
        {"delay-us", required_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    int option = 0;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        enum midge_status status = MIDGE_E_CONFIG;

        if (option == 'e') {
            status = parse_engine(optarg, &options->uring);
        } else if (option == 'l') {
            status = midge_endpoint_parse(optarg, &options->endpoint);
            options->have_endpoint = true;
        } else if (option == 'd') {
            status = parse_delay(optarg, &options->delay_ns);
        }
        if (status != MIDGE_OK)
            return status;
    }
    return options->have_endpoint && optind == argc ? MIDGE_OK : MIDGE_E_CONFIG;
}

static enum midge_status accept_pair(const struct midge_endpoint *endpoint,
                                     struct midge_floor *floor)
{
    int listener = -1;
    enum midge_status status = midge_endpoint_listen(endpoint, &listener);

    for (uint32_t i = 0; status == MIDGE_OK && i < FLOOR_SIDES; i++)
        status = midge_endpoint_accept(endpoint, listener, &floor->fd[i]);
    if (listener >= 0) {
        const int error = errno;

        (void)close(listener);
        errno = error;
    }
    return status;
}

int main(int argc, char **argv)
{
    struct options options = {.uring = false};
    struct midge_floor floor = {.fd = {-1, -1}};
    enum midge_status status = parse_options(argc, argv, &options);

    if (status != MIDGE_OK) {
        (void)fputs(usage, stderr);
        return EXIT_FAILURE;
    }
    floor.delay_ns = options.delay_ns;
    status = accept_pair(&options.endpoint, &floor);
    if (status == MIDGE_OK)
        status = options.uring ? midge_floor_run_uring(&floor) : midge_floor_run_epoll(&floor);
    if (status != MIDGE_OK && status != MIDGE_E_EOF)
        (void)fprintf(stderr, "midge-floor: %s\n", strerror(errno));
    for (uint32_t i = 0; i < FLOOR_SIDES; i++) {
        if (floor.fd[i] >= 0)
            (void)close(floor.fd[i]);
    }
    return status == MIDGE_OK || status == MIDGE_E_EOF ? EXIT_SUCCESS : EXIT_FAILURE;
}
