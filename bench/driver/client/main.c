/* midge-load-<library>: command line of the loads through a client library; see load.h. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"
#include "number.h"
#include "samples.h"
#include "wire.h"

#define TIMEOUT_MS_MAX 600000u
#define IN_FLIGHT_MAX  65536u
#define WINDOW_MAX     100000000u
#define SPIN_US_MAX    1000000u
#define NUMBERS        9u

static const char usage[] =
    "usage: midge-load-<library> rtt --url URL [--alternate] [--responder raw|own] [--spin-us N]\n"
    "                                [--send-asap]\n"
    "       midge-load-<library> req --url URL [--in-flight N] [--send-asap]\n"
    "       midge-load-<library> sub --url URL [--window N]\n"
    "       midge-load-<library> mem --url URL [--clients N]\n"
    "all:   [--count N] [--warmup N] [--size BYTES] [--server-pid PID] [--timeout-ms N] [--json]\n"
    "URL:   nats://HOST:PORT or unix:///PATH, as far as the library knows it\n";

static const struct {
    const char *name;
    enum midge_status (*run_cb)(const struct midge_load_options *options);
    uint32_t count;
    uint32_t warmup;
} modes[MIDGE_LOAD_MODES] = {
    [MIDGE_LOAD_RTT] = {"rtt", midge_load_rtt, 20000, 2000},
    [MIDGE_LOAD_REQ] = {"req", midge_load_req, 100000, 2000},
    [MIDGE_LOAD_SUB] = {"sub", midge_load_sub, 1000000, 5000},
    [MIDGE_LOAD_MEM] = {"mem", midge_load_mem, 100, 0},
};

enum option_code {
    OPTION_URL = 1,
    OPTION_ALTERNATE,
    OPTION_RESPONDER,
    OPTION_SEND_ASAP,
    OPTION_JSON,
    OPTION_NUMBER, /* the first of the numbers; their order is that of the table in parse() */
};

static const struct option names[] = {
    {"url", required_argument, NULL, OPTION_URL},
    {"alternate", no_argument, NULL, OPTION_ALTERNATE},
    {"responder", required_argument, NULL, OPTION_RESPONDER},
    {"send-asap", no_argument, NULL, OPTION_SEND_ASAP},
    {"json", no_argument, NULL, OPTION_JSON},
    {"count", required_argument, NULL, OPTION_NUMBER},
    {"warmup", required_argument, NULL, OPTION_NUMBER + 1},
    {"size", required_argument, NULL, OPTION_NUMBER + 2},
    {"timeout-ms", required_argument, NULL, OPTION_NUMBER + 3},
    {"window", required_argument, NULL, OPTION_NUMBER + 4},
    {"in-flight", required_argument, NULL, OPTION_NUMBER + 5},
    {"clients", required_argument, NULL, OPTION_NUMBER + 6},
    {"spin-us", required_argument, NULL, OPTION_NUMBER + 7},
    {"server-pid", required_argument, NULL, OPTION_NUMBER + 8},
    {NULL, 0, NULL, 0},
};

static bool parse_url(struct midge_load_options *options, const char *text)
{
    options->library.url = text;
    return midge_endpoint_parse(text, &options->endpoint) == MIDGE_OK;
}

static bool parse_responder(struct midge_load_options *options, const char *text)
{
    options->is_responder_own = strcmp(text, "own") == 0;
    return options->is_responder_own || strcmp(text, "raw") == 0;
}

static bool parse(struct midge_load_options *options, int argc, char **argv)
{
    const struct midge_number numbers[NUMBERS] = {
        {"count", &options->count, 1, MIDGE_SAMPLES_MAX},
        {"warmup", &options->warmup, 0, MIDGE_SAMPLES_MAX},
        {"size", &options->size, MIDGE_WIRE_NUMBER_LEN, MIDGE_WIRE_PAYLOAD_MAX},
        {"timeout-ms", &options->library.timeout_ms, 1, TIMEOUT_MS_MAX},
        {"window", &options->window, 1, WINDOW_MAX},
        {"in-flight", &options->library.in_flight, 1, IN_FLIGHT_MAX},
        {"clients", &options->clients, 1, MIDGE_LOAD_CLIENTS_MAX},
        {"spin-us", &options->library.spin_us, 0, SPIN_US_MAX},
        {"server-pid", &options->server_pid, 1, INT32_MAX},
    };
    int option = 0;
    int name_index = 0;

    while ((option = getopt_long(argc, argv, "", names, &name_index)) != -1) {
        bool is_ok =
            option == OPTION_JSON || option == OPTION_SEND_ASAP || option == OPTION_ALTERNATE;

        if (option == OPTION_URL)
            is_ok = parse_url(options, optarg);
        else if (option == OPTION_RESPONDER)
            is_ok = parse_responder(options, optarg);
        else if (option >= OPTION_NUMBER && option < OPTION_NUMBER + (int)NUMBERS)
            is_ok = midge_number_parse(&numbers[option - OPTION_NUMBER], names[name_index].name,
                                       optarg);
        if (!is_ok)
            return false;
        options->is_json = options->is_json || option == OPTION_JSON;
        options->is_alternating = options->is_alternating || option == OPTION_ALTERNATE;
        options->library.is_send_asap = options->library.is_send_asap || option == OPTION_SEND_ASAP;
    }
    /* A raw socket has its responder in another process. */
    return options->library.url != NULL && optind == argc &&
           !(options->is_alternating && options->is_responder_own);
}

static bool parse_mode(struct midge_load_options *options, const char *text)
{
    for (uint32_t i = 0; i < MIDGE_LOAD_MODES; i++) {
        if (text != NULL && strcmp(text, modes[i].name) == 0) {
            options->mode = (enum midge_load_mode)i;
            options->count = modes[i].count;
            options->warmup = modes[i].warmup;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    struct midge_load_options options = {
        .library = {.timeout_ms = 5000, .in_flight = 64},
        .size = 16,
        .window = 8192,
        .clients = 200,
    };

    if (!parse_mode(&options, argv[1]) || !parse(&options, argc - 1, argv + 1)) {
        (void)fputs(usage, stderr);
        return EXIT_FAILURE;
    }
    return modes[options.mode].run_cb(&options) == MIDGE_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
