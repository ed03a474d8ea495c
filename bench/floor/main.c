/*
 * midge-floor: the relay as a program of its own; see floor.h.
 *
 * The listener closes after the last connection, and the process ends when a peer closes, so that
 * a benchmark starts a fresh relay for each round.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "floor.h"

/* Longest artificial delay in us. It exists to prove that a comparison finds 20. */
#define DELAY_US_MAX 1000000u

/* Longest time before a stall, and longest stall, in ms. */
#define STALL_MS_MAX 3600000u

/* What getopt_long() returns for an option that is a number. */
enum number_index {
    NUMBER_SIDES = 0,
    NUMBER_READ_LEN,
    NUMBER_DELAY_US,
    NUMBER_STALL_AT_MS,
    NUMBER_STALL_MS,
    NUMBERS,
};

struct number {
    uint32_t *value;
    uint32_t min;
    uint32_t max;
};

struct options {
    struct midge_floor_options floor;
    uint32_t delay_us;
    uint32_t stall_at_ms;
    uint32_t stall_ms;
    bool have_endpoint;
};

static const char usage[] =
    "usage: midge-floor --engine epoll|io_uring --listen tcp:PORT|unix:PATH [OPTION...]\n"
    "Relay between the first connection and all others, parsing nothing.\n"
    "  --sides N        connections, 2 (default) to 64; with io_uring always 2\n"
    "  --read-len N     bytes of one read, 64 to 1048576 (default 65536; io_uring 4096)\n"
    "  --delay-us N     burn so much on each read from the first connection\n"
    "  --stall-at-ms A  forward nothing from A ms after the first byte (default 0) ...\n"
    "  --stall-ms B     ... for B ms, once\n";

static enum midge_status parse_engine(const char *text, bool *is_uring_out)
{
    *is_uring_out = strcmp(text, "io_uring") == 0;
    return *is_uring_out || strcmp(text, "epoll") == 0 ? MIDGE_OK : MIDGE_E_CONFIG;
}

static enum midge_status parse_number(const char *text, const struct number *number)
{
    char *end = NULL;

    if (text[0] < '0' || text[0] > '9')
        return MIDGE_E_CONFIG;
    errno = 0;
    const unsigned long value = strtoul(text, &end, 10);

    if (errno != 0 || *end != '\0' || value < number->min || value > number->max)
        return MIDGE_E_CONFIG;
    *number->value = (uint32_t)value;
    return MIDGE_OK;
}

static enum midge_status parse_options(int argc, char **argv, struct options *options)
{
    static const struct option names[] = {
        {"sides", required_argument, NULL, NUMBER_SIDES},
        {"read-len", required_argument, NULL, NUMBER_READ_LEN},
        {"delay-us", required_argument, NULL, NUMBER_DELAY_US},
        {"stall-at-ms", required_argument, NULL, NUMBER_STALL_AT_MS},
        {"stall-ms", required_argument, NULL, NUMBER_STALL_MS},
        {"engine", required_argument, NULL, 'e'},
        {"listen", required_argument, NULL, 'l'},
        {NULL, 0, NULL, 0},
    };
    const struct number numbers[NUMBERS] = {
        [NUMBER_SIDES] = {&options->floor.side_count, MIDGE_FLOOR_SIDES_MIN, MIDGE_FLOOR_SIDES_MAX},
        [NUMBER_READ_LEN] = {&options->floor.read_len, MIDGE_FLOOR_READ_LEN_MIN,
                             MIDGE_FLOOR_READ_LEN_MAX},
        [NUMBER_DELAY_US] = {&options->delay_us, 0, DELAY_US_MAX},
        [NUMBER_STALL_AT_MS] = {&options->stall_at_ms, 0, STALL_MS_MAX},
        [NUMBER_STALL_MS] = {&options->stall_ms, 0, STALL_MS_MAX},
    };
    int option = 0;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        enum midge_status status = MIDGE_E_CONFIG;

        if (option < (int)NUMBERS) {
            status = parse_number(optarg, &numbers[option]);
        } else if (option == 'e') {
            status = parse_engine(optarg, &options->floor.is_uring);
        } else if (option == 'l') {
            status = midge_endpoint_parse(optarg, &options->floor.endpoint);
            options->have_endpoint = true;
        }
        if (status != MIDGE_OK)
            return status;
    }
    return options->have_endpoint && optind == argc ? MIDGE_OK : MIDGE_E_CONFIG;
}

int main(int argc, char **argv)
{
    struct options options = {.have_endpoint = false};
    enum midge_status status = parse_options(argc, argv, &options);

    if (status != MIDGE_OK) {
        (void)fputs(usage, stderr);
        return EXIT_FAILURE;
    }
    if (options.floor.is_uring && options.floor.side_count > MIDGE_FLOOR_SIDES_MIN) {
        (void)fputs("midge-floor: more than two sides need --engine epoll\n", stderr);
        return EXIT_FAILURE;
    }
    options.floor.delay_ns = options.delay_us * 1000ull;
    options.floor.stall_at_ns = options.stall_at_ms * 1000000ull;
    options.floor.stall_ns = options.stall_ms * 1000000ull;
    status = midge_floor_run(&options.floor);
    if (status != MIDGE_OK) {
        (void)fprintf(stderr, "midge-floor: %s\n",
                      status == MIDGE_E_SYSTEM ? strerror(errno) : midge_status_name(status));
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
