/* midge-raw: command line of the load generator; see raw.h. */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "process.h"
#include "raw.h"
#include "samples.h"
#include "wire.h"

#define TIMEOUT_MS_MAX 600000u
#define WINDOW_MAX     100000000u
#define RATE_MAX       100000000u
#define IN_FLIGHT_MAX  1024u
#define NUMBERS        16u

static const char usage[] =
    "usage: midge-raw rtt (--url URL | --relay URL) [--inbox unique|fixed]\n"
    "       midge-raw req --url URL [--connections N] [--in-flight N] [--rate N] [--cpu-ms N]\n"
    "       midge-raw pub --url URL [--publishers N] [--subscribers N] [--stalled N] [--window N]\n"
    "                     [--rate N] [--cpu-ms N]\n"
    "       midge-raw conns --url URL [--connections N] [--idle-ms N]\n"
    "       midge-raw subs --url URL [--subscriptions N] [--idle-ms N] [--cpu-ms N]\n"
    "all:   [--count N] [--warmup N] [--size BYTES] [--cpu N] [--server-pid PID] [--timeout-ms N]\n"
    "       [--json]\n"
    "URL:   nats://HOST:PORT, tcp:PORT, unix:///PATH or unix:PATH\n"
    "--cpu-ms N instead of --count: until the server has used N ms of CPU time\n"
    "--rate N: a second, by all together; without it as fast as it goes\n";

static const struct {
    const char *name;
    enum midge_status (*run_cb)(const struct midge_raw_options *options);
} modes[MIDGE_RAW_MODES] = {
    [MIDGE_RAW_RTT] = {"rtt", midge_rtt_run},    [MIDGE_RAW_REQ] = {"req", midge_req_run},
    [MIDGE_RAW_PUB] = {"pub", midge_pub_run},    [MIDGE_RAW_CONNS] = {"conns", midge_conns_run},
    [MIDGE_RAW_SUBS] = {"subs", midge_subs_run},
};

static bool parse_endpoint(struct midge_raw_options *options, const char *text, bool is_relay)
{
    options->has_endpoint = true;
    options->is_relay = is_relay;
    return midge_endpoint_parse(text, &options->endpoint) == MIDGE_OK;
}

static bool parse_inbox(struct midge_raw_options *options, const char *text)
{
    options->is_inbox_fixed = strcmp(text, "fixed") == 0;
    return options->is_inbox_fixed || strcmp(text, "unique") == 0;
}

enum option_code {
    OPTION_URL = 1,
    OPTION_RELAY,
    OPTION_INBOX,
    OPTION_JSON,
    OPTION_NUMBER, /* the first of the numbers; their order is that of the table in parse() */
};

static const struct option names[] = {
    {"url", required_argument, NULL, OPTION_URL},
    {"relay", required_argument, NULL, OPTION_RELAY},
    {"inbox", required_argument, NULL, OPTION_INBOX},
    {"json", no_argument, NULL, OPTION_JSON},
    {"count", required_argument, NULL, OPTION_NUMBER},
    {"warmup", required_argument, NULL, OPTION_NUMBER + 1},
    {"size", required_argument, NULL, OPTION_NUMBER + 2},
    {"timeout-ms", required_argument, NULL, OPTION_NUMBER + 3},
    {"publishers", required_argument, NULL, OPTION_NUMBER + 4},
    {"subscribers", required_argument, NULL, OPTION_NUMBER + 5},
    {"stalled", required_argument, NULL, OPTION_NUMBER + 6},
    {"window", required_argument, NULL, OPTION_NUMBER + 7},
    {"cpu", required_argument, NULL, OPTION_NUMBER + 8},
    {"server-pid", required_argument, NULL, OPTION_NUMBER + 9},
    {"cpu-ms", required_argument, NULL, OPTION_NUMBER + 10},
    {"rate", required_argument, NULL, OPTION_NUMBER + 11},
    {"connections", required_argument, NULL, OPTION_NUMBER + 12},
    {"in-flight", required_argument, NULL, OPTION_NUMBER + 13},
    {"subscriptions", required_argument, NULL, OPTION_NUMBER + 14},
    {"idle-ms", required_argument, NULL, OPTION_NUMBER + 15},
    {NULL, 0, NULL, 0},
};

static bool parse(struct midge_raw_options *options, int argc, char **argv)
{
    uint32_t cpu = UINT32_MAX;
    uint32_t server_pid = 0;
    const struct midge_number numbers[NUMBERS] = {
        {"count", &options->count, 1, MIDGE_SAMPLES_MAX},
        {"warmup", &options->warmup, 0, MIDGE_SAMPLES_MAX},
        {"size", &options->size, MIDGE_WIRE_NUMBER_LEN, MIDGE_WIRE_PAYLOAD_MAX},
        {"timeout-ms", &options->timeout_ms, 1, TIMEOUT_MS_MAX},
        {"publishers", &options->publishers, 1, MIDGE_RAW_PROCESSES_MAX},
        {"subscribers", &options->subscribers, 1, MIDGE_RAW_PROCESSES_MAX},
        {"stalled", &options->stalled, 0, MIDGE_RAW_PROCESSES_MAX},
        {"window", &options->window, 1, WINDOW_MAX},
        {"cpu", &cpu, 0, CPU_SETSIZE - 1},
        {"server-pid", &server_pid, 1, INT32_MAX},
        {"cpu-ms", &options->cpu_ms, 1, TIMEOUT_MS_MAX},
        {"rate", &options->rate, 1, RATE_MAX},
        {"connections", &options->connections, 1, MIDGE_RAW_CONNECTIONS_MAX},
        {"in-flight", &options->in_flight, 1, IN_FLIGHT_MAX},
        {"subscriptions", &options->subscriptions, 1, MIDGE_RAW_SUBSCRIPTIONS_MAX},
        {"idle-ms", &options->idle_ms, 0, TIMEOUT_MS_MAX},
    };
    int option = 0;
    int name_index = 0;

    while ((option = getopt_long(argc, argv, "", names, &name_index)) != -1) {
        bool ok = false;

        if (option == OPTION_URL || option == OPTION_RELAY)
            ok = parse_endpoint(options, optarg, option == OPTION_RELAY);
        else if (option == OPTION_INBOX)
            ok = parse_inbox(options, optarg);
        else if (option == OPTION_JSON)
            ok = true;
        else if (option >= OPTION_NUMBER && option < OPTION_NUMBER + (int)NUMBERS)
            ok = midge_number_parse(&numbers[option - OPTION_NUMBER], names[name_index].name,
                                    optarg);
        if (!ok)
            return false;
        options->is_json = options->is_json || option == OPTION_JSON;
    }
    options->has_cpu = cpu != UINT32_MAX;
    options->cpu = cpu;
    options->server_pid = (pid_t)server_pid;
    return options->has_endpoint && optind == argc;
}

/* What an option alone cannot say. */
static bool is_consistent(const struct midge_raw_options *options)
{
    if (options->is_relay && options->mode != MIDGE_RAW_RTT)
        return false;
    if (options->mode == MIDGE_RAW_REQ && options->connections > MIDGE_RAW_REQUESTERS_MAX)
        return false;
    return options->cpu_ms == 0 || options->server_pid != 0;
}

static bool parse_mode(struct midge_raw_options *options, const char *text)
{
    for (uint32_t i = 0; i < MIDGE_RAW_MODES; i++) {
        if (text != NULL && strcmp(text, modes[i].name) == 0) {
            options->mode = (enum midge_raw_mode)i;
            options->warmup = i == MIDGE_RAW_RTT ? 2000 : 0;
            options->connections = i == MIDGE_RAW_CONNS ? 5000 : 16;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    struct midge_raw_options options = {
        .count = 20000,
        .size = 16,
        .timeout_ms = 5000,
        .publishers = 1,
        .subscribers = 1,
        .window = 8192,
        .in_flight = 8,
        .subscriptions = 1000000,
        .idle_ms = 1000,
    };

    if (!parse_mode(&options, argv[1]) || !parse(&options, argc - 1, argv + 1) ||
        !is_consistent(&options)) {
        (void)fputs(usage, stderr);
        return EXIT_FAILURE;
    }
    if (options.has_cpu && midge_process_pin(options.cpu) != MIDGE_OK) {
        (void)fprintf(stderr, "midge-raw: --cpu %u: %s\n", options.cpu, strerror(errno));
        return EXIT_FAILURE;
    }
    return modes[options.mode].run_cb(&options) == MIDGE_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
