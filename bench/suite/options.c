/* The command line of midge-bench; see options.h. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metric.h"

static const char usage[] =
    "usage: midge-bench SCENARIO  --url URL | --server-cmd 'COMMAND'  [OPTION...]\n"
    "       midge-bench compare [SCENARIO]  --a 'COMMAND' --b 'COMMAND' [--c 'COMMAND']  "
    "[OPTION...]\n"
    "       midge-bench report FILE...  -o report.html\n"
    "\n"
    "Measure a NATS server, or compare some. Scenarios:\n"
    "  rtt      one request in flight (closed loop; the default of compare)\n"
    "  load     requests at --rate (open loop); latency counts from when each was meant to leave\n"
    "  curve    load at rising rates, from idle to the knee\n"
    "  workers  --requesters to --responders in a queue group\n"
    "  pub      a publisher to a subscriber, at --rate or as fast as it goes\n"
    "  fanout   a publisher to --subscribers\n"
    "  slow     fanout beside --stalled subscribers that read nothing\n"
    "  conns    a storm of --connections, then idle\n"
    "  subs     --subscriptions on one connection, messages to random ones, with --changes a "
    "second\n"
    "\n"
    "Server\n"
    "  --url URL             nats://HOST:PORT or unix:///PATH of one that runs; HOST is an IPv4 "
    "address\n"
    "  --server-cmd COMMAND  start this one; {port} and {socket} stand for where it should listen\n"
    "  --server-pid PID      of the server at --url, for its CPU time and memory\n"
    "  --transport tcp|unix  for a started server and the relays (tcp)\n"
    "  --no-floor            without the bare relays that show what the machine itself costs\n"
    "  --relay               what is measured is a bare relay, which says nothing\n"
    "Load\n"
    "  --driver NAME         client library: %s (raw)\n"
    "  --size BYTES          of payload, 16 to 1048576 (16);  --headers  with a header\n"
    "  --rate N              messages a second, all together (load: 10000; else as fast as it "
    "goes)\n"
    "  --arrivals fixed|poisson   of a rate (fixed)\n"
    "  --requesters N  --responders N  --in-flight N  --publishers N  --subscribers N  --stalled "
    "N\n"
    "  --connections N  --subscriptions N  --changes N  --window N  --seed N\n"
    "  --responder own|apart in the process of the requesters, or one of its own\n"
    "  --duration TIME  --warmup TIME  --timeout TIME   such as 500ms, 5s, 2m (5s, 500ms, 5s)\n"
    "  --rate-max N          where a curve ends at the latest (1000000)\n"
    "  --spin                the load watches for bytes instead of sleeping; it burns a core\n"
    "Place\n"
    "  --place free|one|apart   nothing is bound; server and load share one CPU; each has half of "
    "them\n"
    "  --server-cpus LIST  --load-cpus LIST   such as 0,2-3\n"
    "Comparison\n"
    "  --a-driver NAME  --b-driver NAME  --c-driver NAME   of one server, to compare libraries; a\n"
    "                        server that has no command then is that of --a\n"
    "  --rounds N            with a fresh server each, in rotating order (10)\n"
    "  --metric NAME         the primary one, named beforehand: p50 p90 p99 p99.9 p99.99 max cpu "
    "rate\n"
    "                        rss each load-cpu\n"
    "  --aim AIM             what --a should reach: 'p50<=1.10*floor', 'cpu<=0.5*b', 'each<=200'\n"
    "Output\n"
    "  --json FILE  --hgrm DIRECTORY  --report FILE  -o FILE  --title TEXT  --quiet\n"
    "  --help  --version\n"
    "\n"
    "Exit status: 0; 1 if a run failed and its figures do not count; 2 for a wrong command line.\n"
    "Example: midge-bench compare --a midge-server --b nats-server\n";

enum option_id {
    OPTION_TRANSPORT = 256,
    OPTION_NO_FLOOR,
    OPTION_RELAY,
    OPTION_DRIVER,
    OPTION_A_DRIVER,
    OPTION_B_DRIVER,
    OPTION_C_DRIVER,
    OPTION_AIM,
    OPTION_HEADERS,
    OPTION_ARRIVALS,
    OPTION_RESPONDER,
    OPTION_SPIN,
    OPTION_PLACE,
    OPTION_SERVER_CPUS,
    OPTION_LOAD_CPUS,
    OPTION_METRIC,
    OPTION_QUIET,
    OPTION_HELP,
    OPTION_VERSION,
    OPTION_TEXT,                      /* and from here on: index into texts */
    OPTION_NUMBER = OPTION_TEXT + 32, /* and from here on: index into numbers */
};

/* Options that are kept as they are. */
static const struct text_option {
    const char *name;
    size_t off;
} texts[] = {
    {"url", offsetof(struct midge_bench_options, url)},
    {"server-cmd",
     offsetof(struct midge_bench_options, servers[0])}, /* what a comparison calls a */
    {"a", offsetof(struct midge_bench_options, servers[0])},
    {"b", offsetof(struct midge_bench_options, servers[1])},
    {"c", offsetof(struct midge_bench_options, servers[2])},
    {"title", offsetof(struct midge_bench_options, title)},
    {"json", offsetof(struct midge_bench_options, json_path)},
    {"hgrm", offsetof(struct midge_bench_options, hgrm_path)},
    {"report", offsetof(struct midge_bench_options, report_path)},
};

#define TEXTS (sizeof texts / sizeof texts[0])

#define RUN(field) offsetof(struct midge_bench_options, run.field)

/* Options that are a number of 32 bits. */
static const struct number_option {
    const char *name;
    size_t off;
    uint32_t min;
    uint32_t max;
    bool is_time; /* in ms, with a unit */
} numbers[] = {
    {"size", RUN(size), MIDGE_RUN_SIZE_MIN, MIDGE_RUN_SIZE_MAX, false},
    {"rate", RUN(rate), 0, MIDGE_RUN_RATE_MAX, false},
    {"requesters", RUN(requesters), 1, MIDGE_RUN_CONNS_MAX, false},
    {"responders", RUN(responders), 1, MIDGE_RUN_CONNS_MAX, false},
    {"in-flight", RUN(in_flight), 1, MIDGE_RUN_IN_FLIGHT_MAX, false},
    {"publishers", RUN(publishers), 1, MIDGE_RUN_PUBLISHERS_MAX, false},
    {"subscribers", RUN(subscribers), 0, MIDGE_RUN_CONNS_MAX, false},
    {"stalled", RUN(stalled), 1, 8, false},
    {"window", RUN(window), 1, 10000000, false},
    {"connections", RUN(connections), 1, MIDGE_RUN_IDLE_MAX, false},
    {"subscriptions", RUN(subscriptions), 1, 10000000, false},
    {"changes", RUN(changes), 0, 1000000, false},
    {"duration", RUN(duration_ms), 10, 3600000, true},
    {"warmup", RUN(warmup_ms), 0, 600000, true},
    {"timeout", RUN(timeout_ms), 10, 600000, true},
    {"server-pid", RUN(server_pid), 1, 4194304, false},
    {"seed", RUN(seed), 0, UINT32_MAX, false},
    {"rounds", offsetof(struct midge_bench_options, rounds), 1, MIDGE_STATISTICS_ROUNDS_MAX, false},
    {"rate-max", offsetof(struct midge_bench_options, rate_max), 1, MIDGE_RUN_RATE_MAX, false},
};

#define NUMBERS (sizeof numbers / sizeof numbers[0])

static const struct option words[] = {
    {"transport", required_argument, NULL, OPTION_TRANSPORT},
    {"no-floor", no_argument, NULL, OPTION_NO_FLOOR},
    {"relay", no_argument, NULL, OPTION_RELAY},
    {"driver", required_argument, NULL, OPTION_DRIVER},
    {"a-driver", required_argument, NULL, OPTION_A_DRIVER},
    {"b-driver", required_argument, NULL, OPTION_B_DRIVER},
    {"c-driver", required_argument, NULL, OPTION_C_DRIVER},
    {"aim", required_argument, NULL, OPTION_AIM},
    {"headers", no_argument, NULL, OPTION_HEADERS},
    {"arrivals", required_argument, NULL, OPTION_ARRIVALS},
    {"responder", required_argument, NULL, OPTION_RESPONDER},
    {"spin", no_argument, NULL, OPTION_SPIN},
    {"place", required_argument, NULL, OPTION_PLACE},
    {"server-cpus", required_argument, NULL, OPTION_SERVER_CPUS},
    {"load-cpus", required_argument, NULL, OPTION_LOAD_CPUS},
    {"metric", required_argument, NULL, OPTION_METRIC},
    {"quiet", no_argument, NULL, OPTION_QUIET},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
};

#define WORDS (sizeof words / sizeof words[0])

static enum midge_status refuse(const char *option, const char *value, const char *wanted)
{
    (void)fprintf(stderr, "midge-bench: %s %s: wanted is %s\n", option, value, wanted);
    return MIDGE_E_CONFIG;
}

/* What a scenario is without options. */
static void set_defaults(struct midge_bench_options *options, enum midge_run_scenario scenario)
{
    struct midge_run_options *run = &options->run;

    run->scenario = scenario;
    run->driver = &midge_driver_raw;
    run->size = MIDGE_RUN_SIZE_MIN;
    run->requesters = 1;
    run->responders = 1;
    run->in_flight = 1;
    run->window = 8192;
    run->warmup_ms = 500;
    run->duration_ms = 5000;
    run->timeout_ms = 5000;
    run->seed = 1;
    options->has_floor = true;
    options->rounds = 10;
    options->rate_max = 1000000;
    options->metric = MIDGE_METRIC_P50;
    if (scenario == MIDGE_RUN_RTT) {
        run->is_responder_apart = true;
    } else if (scenario == MIDGE_RUN_LOAD) {
        run->rate = 10000;
        options->metric = MIDGE_METRIC_P99;
    } else if (scenario == MIDGE_RUN_WORKERS) {
        run->is_responder_apart = true;
        run->requesters = 8;
        run->responders = 4;
    } else if (scenario == MIDGE_RUN_CONNS) {
        run->connections = 5000;
        run->duration_ms = 1000; /* idle */
        run->warmup_ms = 0;
        options->metric = MIDGE_METRIC_EACH;
    } else if (scenario == MIDGE_RUN_SUBS) {
        run->subscriptions = 1000000;
        run->changes = 10000;
        options->metric = MIDGE_METRIC_CPU;
    } else {
        run->publishers = 1;
        run->subscribers = scenario == MIDGE_RUN_PUB ? 1 : scenario == MIDGE_RUN_FANOUT ? 8 : 2;
        run->stalled = scenario == MIDGE_RUN_SLOW ? 1 : 0;
        options->metric = MIDGE_METRIC_CPU;
    }
}

static bool parse_scenario(const char *text, struct midge_bench_options *options)
{
    if (strcmp(text, "curve") == 0) {
        set_defaults(options, MIDGE_RUN_LOAD);
        options->command = MIDGE_COMMAND_CURVE;
        options->run.rate = 1000;
        return true;
    }
    for (uint32_t i = 0; i < MIDGE_RUN_SCENARIOS; i++) {
        if (strcmp(text, midge_run_scenario_name((enum midge_run_scenario)i)) == 0) {
            set_defaults(options, (enum midge_run_scenario)i);
            return true;
        }
    }
    return false;
}

static enum midge_status parse_number(const struct number_option *option, const char *text,
                                      struct midge_bench_options *options)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}};
    char name[32];
    char wanted[80];
    char *end = NULL;
    uint64_t value = 0;
    bool is_good = text[0] >= '0' && text[0] <= '9';

    errno = 0;
    value = strtoull(text, &end, 10);
    if (option->is_time) {
        uint64_t ms = 0;

        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
            ms = strcmp(end, units[i].text) == 0 ? units[i].ms : ms;
        is_good = is_good && ms > 0 && value <= UINT32_MAX;
        value *= ms;
    } else {
        is_good = is_good && *end == '\0';
    }
    if (is_good && errno == 0 && value >= option->min && value <= option->max) {
        memcpy((uint8_t *)options + option->off, &(uint32_t){(uint32_t)value}, sizeof(uint32_t));
        return MIDGE_OK;
    }
    (void)snprintf(wanted, sizeof wanted,
                   option->is_time ? "a time such as 500ms, 5s or 2m, from %u to %u ms"
                                   : "a number from %u to %u",
                   option->min, option->max);
    (void)snprintf(name, sizeof name, "--%s", option->name);
    return refuse(name, text, wanted);
}

/* "0,2-3" */
static enum midge_status parse_cpus(const char *option, const char *text, cpu_set_t *cpus_out)
{
    const char *at = text;

    CPU_ZERO(cpus_out);
    for (;;) {
        char *end = NULL;
        unsigned long first = 0;
        unsigned long last = 0;

        if (*at < '0' || *at > '9')
            break;
        first = strtoul(at, &end, 10);
        last = first;
        if (*end == '-' && end[1] >= '0' && end[1] <= '9')
            last = strtoul(end + 1, &end, 10);
        if (first > last || last >= CPU_SETSIZE)
            break;
        for (unsigned long cpu = first; cpu <= last; cpu++)
            CPU_SET(cpu, cpus_out);
        if (*end == '\0')
            return MIDGE_OK;
        if (*end != ',')
            break;
        at = end + 1;
    }
    return refuse(option, text, "a list of CPUs such as 0,2-3");
}

/* One of two words. */
static enum midge_status parse_choice(const char *option, const char *text, const char *no,
                                      const char *yes, bool *is_yes_out)
{
    char wanted[64];

    *is_yes_out = strcmp(text, yes) == 0;
    if (*is_yes_out || strcmp(text, no) == 0)
        return MIDGE_OK;
    (void)snprintf(wanted, sizeof wanted, "%s or %s", no, yes);
    return refuse(option, text, wanted);
}

static enum midge_status parse_place(const char *text, struct midge_bench_options *options)
{
    for (uint32_t i = MIDGE_PLACE_FREE; i <= MIDGE_PLACE_APART; i++) {
        if (strcmp(text, midge_place_name((enum midge_place)i)) == 0) {
            options->place = (enum midge_place)i;
            return MIDGE_OK;
        }
    }
    return refuse("--place", text, "free, one or apart");
}

static enum midge_status parse_driver(const char *option, const char *text,
                                      const struct midge_driver_kind **driver_out)
{
    *driver_out = midge_driver_find(text);
    return *driver_out != NULL ? MIDGE_OK : refuse(option, text, midge_driver_names());
}

static enum midge_status parse_aim(const char *text, struct midge_bench_options *options)
{
    if (options->aim_count < MIDGE_OPTIONS_AIMS_MAX &&
        midge_aim_parse(text, &options->aims[options->aim_count]) == MIDGE_OK) {
        options->aim_count++;
        return MIDGE_OK;
    }
    return refuse("--aim", text, "such as 'p50<=1.10*floor' or 'each<=200', at most eight times");
}

static enum midge_status parse_metric(const char *text, struct midge_bench_options *options)
{
    return midge_metric_find(text, &options->metric) == MIDGE_OK
               ? MIDGE_OK
               : refuse("--metric", text,
                        "p50, p90, p99, p99.9, p99.99, max, cpu, rate, rss, each or load-cpu");
}

/* Options that are not a number. @return E_CONFIG: said */
static enum midge_status parse_word(int id, const char *value, struct midge_bench_options *options)
{
    bool is_yes = false;
    enum midge_status status = MIDGE_OK;

    switch (id) {
    case OPTION_TRANSPORT:
        return parse_choice("--transport", value, "tcp", "unix", &options->is_unix);
    case OPTION_NO_FLOOR:
        options->has_floor = false;
        break;
    case OPTION_RELAY:
        options->run.is_relay = true;
        break;
    case OPTION_DRIVER:
        return parse_driver("--driver", value, &options->run.driver);
    case OPTION_A_DRIVER:
    case OPTION_B_DRIVER:
    case OPTION_C_DRIVER:
        return parse_driver("--?-driver", value, &options->drivers[id - OPTION_A_DRIVER]);
    case OPTION_AIM:
        return parse_aim(value, options);
    case OPTION_HEADERS:
        options->run.has_headers = true;
        break;
    case OPTION_ARRIVALS:
        status = parse_choice("--arrivals", value, "fixed", "poisson", &is_yes);
        options->run.arrivals = is_yes ? MIDGE_RUN_POISSON : MIDGE_RUN_FIXED;
        return status;
    case OPTION_RESPONDER:
        return parse_choice("--responder", value, "own", "apart", &options->run.is_responder_apart);
    case OPTION_SPIN:
        options->run.is_spinning = true;
        break;
    case OPTION_PLACE:
        return parse_place(value, options);
    case OPTION_SERVER_CPUS:
        options->place = MIDGE_PLACE_LISTS;
        return parse_cpus("--server-cpus", value, &options->server_cpus);
    case OPTION_LOAD_CPUS:
        options->place = MIDGE_PLACE_LISTS;
        return parse_cpus("--load-cpus", value, &options->load_cpus);
    case OPTION_METRIC:
        return parse_metric(value, options);
    case OPTION_QUIET:
        options->is_quiet = true;
        break;
    default:
        return MIDGE_E_CONFIG; /* getopt has said why */
    }
    return MIDGE_OK;
}

/* The CPUs of server and load. */
static enum midge_status set_cpus(struct midge_bench_options *options)
{
    cpu_set_t allowed;
    uint32_t seen = 0;

    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        (void)fprintf(stderr, "midge-bench: CPU affinity: %s\n", strerror(errno));
        return MIDGE_E_SYSTEM;
    }
    options->all_cpus = allowed;
    if (options->place == MIDGE_PLACE_LISTS) {
        if (CPU_COUNT(&options->server_cpus) == 0 || CPU_COUNT(&options->load_cpus) == 0) {
            (void)fprintf(stderr, "midge-bench: --server-cpus and --load-cpus go together\n");
            return MIDGE_E_CONFIG;
        }
        CPU_OR(&options->all_cpus, &options->server_cpus, &options->load_cpus);
        return MIDGE_OK;
    }
    CPU_ZERO(&options->server_cpus);
    CPU_ZERO(&options->load_cpus);
    const uint32_t count = (uint32_t)CPU_COUNT(&allowed);

    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed))
            continue;
        seen++;
        if (options->place == MIDGE_PLACE_ONE) {
            /* The last one: interrupts like the first. */
            if (seen == count) {
                CPU_SET(cpu, &options->server_cpus);
                CPU_SET(cpu, &options->load_cpus);
            }
        } else {
            CPU_SET(cpu, seen > count / 2 ? &options->server_cpus : &options->load_cpus);
        }
    }
    if (options->place == MIDGE_PLACE_ONE)
        options->all_cpus = options->server_cpus;
    if (options->place == MIDGE_PLACE_APART && count < 2) {
        (void)fprintf(stderr, "midge-bench: --place apart needs two CPUs\n");
        return MIDGE_E_CONFIG;
    }
    return MIDGE_OK;
}

static enum midge_status complain(const char *text)
{
    (void)fprintf(stderr, "midge-bench: %s; see --help\n", text);
    return MIDGE_E_CONFIG;
}

/* What the options are to each other. */
static enum midge_status check(struct midge_bench_options *options)
{
    const struct midge_run_options *run = &options->run;

    if (options->command == MIDGE_COMMAND_REPORT)
        return options->report_path == NULL ? complain("report needs -o FILE") : MIDGE_OK;
    for (uint32_t i = 1; i < MIDGE_OPTIONS_SERVERS_MAX; i++) {
        if (options->drivers[i] != NULL && options->servers[i] == NULL)
            options->servers[i] = options->servers[0];
    }
    if (options->command == MIDGE_COMMAND_COMPARE &&
        (options->servers[0] == NULL || options->url != NULL))
        return complain("compare needs --a, and mostly --b: commands of servers");
    if (options->command != MIDGE_COMMAND_COMPARE &&
        (options->url == NULL) == (options->servers[0] == NULL))
        return complain("one of --url and --server-cmd is needed");
    if (options->url != NULL && options->is_unix)
        return complain("--transport is for a server that is started; say it in the URL");
    if (options->url == NULL && run->server_pid != 0)
        return complain("--server-pid is for the server at --url");
    if (options->command == MIDGE_COMMAND_CURVE && run->rate == 0)
        return complain("curve begins at a --rate above 0");
    if (run->scenario == MIDGE_RUN_LOAD && run->rate == 0)
        return complain("load needs a --rate above 0");
    if (run->scenario == MIDGE_RUN_RTT &&
        (run->rate > 0 || run->requesters > 1 || run->in_flight > 1))
        return complain("rtt is one request in flight; load takes a rate, workers more of them");
    if (!midge_metrics[options->metric].is_compared)
        return complain("that metric is not compared");
    return set_cpus(options);
}

/* Words before the options: what to do. */
static enum midge_status parse_command(int argc, char **argv, struct midge_bench_options *options,
                                       int *first_out)
{
    if (strcmp(argv[1], "report") == 0) {
        options->command = MIDGE_COMMAND_REPORT;
        *first_out = 1;
        return MIDGE_OK;
    }
    if (strcmp(argv[1], "compare") == 0) {
        const bool has_scenario = argc > 2 && argv[2][0] != '-';

        if (has_scenario && !parse_scenario(argv[2], options))
            return refuse("compare", argv[2], "a scenario");
        if (has_scenario && options->command == MIDGE_COMMAND_CURVE)
            return complain("curve is not compared; report takes the files of several");
        if (!has_scenario)
            set_defaults(options, MIDGE_RUN_RTT);
        options->command = MIDGE_COMMAND_COMPARE;
        /* Where medians are steady. An open loop wants a core of its own. */
        options->place = options->run.rate > 0 ? MIDGE_PLACE_APART : MIDGE_PLACE_ONE;
        *first_out = has_scenario ? 2 : 1;
        return MIDGE_OK;
    }
    *first_out = 1;
    return parse_scenario(argv[1], options) ? MIDGE_OK : refuse("argument", argv[1], "a scenario");
}

static enum midge_status parse_rest(int argc, char **argv, struct midge_bench_options *options)
{
    struct option names[WORDS + TEXTS + NUMBERS + 1];
    enum midge_status status = MIDGE_OK;
    int id = 0;

    memcpy(names, words, sizeof words);
    for (size_t i = 0; i < TEXTS; i++)
        names[WORDS + i] =
            (struct option){texts[i].name, required_argument, NULL, OPTION_TEXT + (int)i};
    for (size_t i = 0; i < NUMBERS; i++)
        names[WORDS + TEXTS + i] =
            (struct option){numbers[i].name, required_argument, NULL, OPTION_NUMBER + (int)i};
    names[WORDS + TEXTS + NUMBERS] = (struct option){NULL, 0, NULL, 0};
    while (status == MIDGE_OK && (id = getopt_long(argc, argv, "o:", names, NULL)) != -1) {
        if (id == 'o')
            options->report_path = optarg;
        else if (id >= OPTION_NUMBER)
            status = parse_number(&numbers[id - OPTION_NUMBER], optarg, options);
        else if (id >= OPTION_TEXT)
            memcpy((uint8_t *)options + texts[id - OPTION_TEXT].off, &optarg, sizeof optarg);
        else
            status = parse_word(id, optarg, options);
    }
    if (status != MIDGE_OK)
        return status;
    options->files = argv + optind;
    options->file_count = (uint32_t)(argc - optind);
    if (options->command != MIDGE_COMMAND_REPORT && options->file_count > 0)
        return refuse("argument", argv[optind], "an option");
    if (options->command == MIDGE_COMMAND_REPORT && options->file_count == 0)
        return complain("report needs the files that --json wrote");
    return check(options);
}

enum midge_status midge_options_parse(int argc, char **argv,
                                      struct midge_bench_options *options_out, bool *is_done_out)
{
    int first = 0;
    enum midge_status status = MIDGE_OK;

    memset(options_out, 0, sizeof *options_out);
    *is_done_out = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            (void)printf(usage, midge_driver_names());
            *is_done_out = true;
            return MIDGE_OK;
        }
        if (strcmp(argv[i], "--version") == 0) {
            (void)printf("midge-bench %s\n", MIDGE_VERSION);
            *is_done_out = true;
            return MIDGE_OK;
        }
    }
    if (argc < 2)
        return complain("what should be measured?");
    status = parse_command(argc, argv, options_out, &first);
    /* getopt takes the word before the options for the name of the program. */
    if (status == MIDGE_OK) {
        argv[first] = argv[0];
        status = parse_rest(argc - first, argv + first, options_out);
    }
    return status;
}

const char *midge_place_name(enum midge_place place)
{
    static const char *const names[] = {"free", "one", "apart", "lists"};

    return names[place];
}
