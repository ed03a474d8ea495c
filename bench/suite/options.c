/* The command line of midge-bench; see options.h. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "endpoint.h"
#include "metric.h"
#include "midge/compiler.h"
#include "output.h"
#include "place.h"
#include "server.h"
#include "server_command.h"
#include "subject.h"

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
    "                        or localhost\n"
    "  --server-cmd COMMAND  start this one; {port} and {socket} stand for where it should listen\n"
    "  --server-pid PID      of the server at --url, for its CPU time and memory\n"
    "  --transport tcp|unix  for a started server and the relays (tcp)\n"
    "  --no-floor            without the bare relays that show what the machine itself costs\n"
    "  --relay               what is measured is a bare relay, which says nothing\n"
    "Load\n"
    "  --driver NAME         client library: %s (raw)\n"
    "  --size BYTES          of payload, 16 to 1048576 (16);  --headers  with a header\n"
    "  --far-driver NAME     of responders and publishers, if it should be another one\n"
    "  --rate N              messages a second, all together (load: 10000; else as fast as it "
    "goes)\n"
    "  --burst N             of a rate: that many at once, and as much more rarely (1)\n"
    "  --arrivals fixed|poisson   of a rate (fixed)\n"
    "  --requesters N  --responders N  --in-flight N  --publishers N  --subscribers N  --stalled "
    "N\n"
    "  --connections N  --subscriptions N  --changes N  --window N  --seed N\n"
    "  --responder own|apart in the process of the requesters, or one of its own\n"
    "  --duration TIME  --warmup TIME  --timeout TIME   such as 500ms, 5s, 2m (5s, 500ms, 5s)\n"
    "  --rate-max N          where a curve ends at the latest (1000000)\n"
    "  --spin                the load watches for bytes instead of sleeping; it burns a core\n"
    "  --instructions        count the server's, too, where the machine can (JSON only)\n"
    "Place\n"
    "  --place free|one|apart   nothing is bound; server and load share one CPU; each has half of "
    "them\n"
    "  --server-cpus LIST  --load-cpus LIST   such as 0,2-3; only the latter with --url\n"
    "Comparison\n"
    "  --a-driver NAME  --b-driver NAME  --c-driver NAME   of one server, to compare libraries; a\n"
    "                        server that has no command then is that of --a\n"
    "  --rounds N            with a fresh server each, in rotating order (10)\n"
    "  --metric NAME         the primary one, named beforehand: p50 p90 p99 p99.9 p99.99 max cpu "
    "rate\n"
    "                        rss each setup idle load-cpu near-cpu load-each\n"
    "  --aim AIM             what --a should reach: 'p50<=1.10*floor', 'cpu<=0.5*b', 'each<=200'\n"
    "Output\n"
    "  --json FILE  --hgrm DIRECTORY  --report FILE  -o FILE  --title TEXT  --quiet\n"
    "  --help  --version\n"
    "\n"
    "Exit status: 0; 1 if a run failed and its figures do not count; 2 for a wrong command line;\n"
    "130 or 143 if a signal ended it.\n"
    "Example: midge-bench compare --a midge-server --b nats-server\n";

/* Sets of scenarios and of commands. */
#define OF(scenario)  (1u << MIDGE_RUN_##scenario)
#define REQUESTS      (OF(RTT) | OF(LOAD) | OF(WORKERS))
#define PUBLISHING    (OF(PUB) | OF(FANOUT) | OF(SLOW))
#define RELAYED       (OF(RTT) | OF(LOAD) | OF(PUB) | OF(FANOUT))
#define ANY           (OF(SCENARIOS) - 1)
#define FOR(command)  (1u << MIDGE_COMMAND_##command)
#define ONE_SERVER    (FOR(RUN) | FOR(CURVE))
#define MEASURING     (FOR(RUN) | FOR(CURVE) | FOR(COMPARE))
#define EVERY_COMMAND (MEASURING | FOR(REPORT))

enum option_kind {
    OPTION_TEXT = 0, /* kept as it is */
    OPTION_NUMBER,   /* of 32 bits */
    OPTION_TIME,     /* a number of ms, with a unit */
    OPTION_FLAG,     /* true if it is there */
    OPTION_WORD,     /* what has a parser of its own */
};

struct parse;

static enum midge_status parse_transport(struct parse *parse, const char *name, const char *text);
static enum midge_status parse_driver(struct parse *parse, const char *name, const char *text);
static enum midge_status parse_arrivals(struct parse *parse, const char *name, const char *text);
static enum midge_status parse_responder(struct parse *parse, const char *name, const char *text);
static enum midge_status parse_place(struct parse *parse, const char *name, const char *text);
static enum midge_status parse_cpus(struct parse *parse, const char *name, const char *text);
static enum midge_status parse_aim(struct parse *parse, const char *name, const char *text);
static enum midge_status parse_metric(struct parse *parse, const char *name, const char *text);

#define FIELD(field) offsetof(struct midge_bench_options, field)

/* Every option, and for what it is: one that would change nothing is refused. */
static const struct row {
    const char *name;
    uint32_t scenarios;
    uint32_t commands;
    enum option_kind kind;
    size_t off; /* of its field; not for words */
    uint32_t min;
    uint32_t max;
    enum midge_status (*word_cb)(struct parse *parse, const char *name, const char *text);
} rows[] = {
    {"url", ANY, ONE_SERVER, OPTION_TEXT, FIELD(url), 0, 0, NULL},
    {"server-cmd", ANY, ONE_SERVER, OPTION_TEXT, FIELD(servers[0]), 0, 0, NULL},
    {"server-pid", ANY, ONE_SERVER, OPTION_NUMBER, FIELD(run.server_pid), 1, 4194304, NULL},
    {"transport", ANY, MEASURING, OPTION_WORD, 0, 0, 0, parse_transport},
    {"no-floor", ANY, MEASURING, OPTION_FLAG, FIELD(is_without_floor), 0, 0, NULL},
    {"relay", RELAYED, MEASURING, OPTION_FLAG, FIELD(run.is_relay), 0, 0, NULL},
    {"driver", ANY & ~OF(SUBS), MEASURING, OPTION_WORD, 0, 0, 0, parse_driver},
    {"far-driver", REQUESTS | PUBLISHING, MEASURING, OPTION_WORD, 0, 0, 0, parse_driver},
    {"size", ANY & ~OF(CONNS), MEASURING, OPTION_NUMBER, FIELD(run.size), MIDGE_RUN_SIZE_MIN,
     MIDGE_RUN_SIZE_MAX, NULL},
    {"headers", REQUESTS | PUBLISHING, MEASURING, OPTION_FLAG, FIELD(run.has_headers), 0, 0, NULL},
    {"rate", ANY & ~OF(RTT) & ~OF(CONNS), MEASURING, OPTION_NUMBER, FIELD(run.rate), 0,
     MIDGE_RUN_RATE_MAX, NULL},
    {"burst", ANY & ~OF(RTT) & ~OF(CONNS), MEASURING, OPTION_NUMBER, FIELD(run.burst), 1,
     MIDGE_RUN_BURST_MAX, NULL},
    {"arrivals", ANY & ~OF(RTT) & ~OF(CONNS), MEASURING, OPTION_WORD, 0, 0, 0, parse_arrivals},
    {"requesters", OF(LOAD) | OF(WORKERS), MEASURING, OPTION_NUMBER, FIELD(run.requesters), 1,
     MIDGE_RUN_CONNS_MAX, NULL},
    {"responders", OF(LOAD) | OF(WORKERS), MEASURING, OPTION_NUMBER, FIELD(run.responders), 1,
     MIDGE_RUN_CONNS_MAX, NULL},
    {"in-flight", OF(WORKERS), MEASURING, OPTION_NUMBER, FIELD(run.in_flight), 1,
     MIDGE_RUN_IN_FLIGHT_MAX, NULL},
    {"publishers", PUBLISHING, MEASURING, OPTION_NUMBER, FIELD(run.publishers), 1,
     MIDGE_RUN_PUBLISHERS_MAX, NULL},
    {"subscribers", PUBLISHING, MEASURING, OPTION_NUMBER, FIELD(run.subscribers), 0,
     MIDGE_RUN_CONNS_MAX, NULL},
    {"stalled", OF(SLOW), MEASURING, OPTION_NUMBER, FIELD(run.stalled), 1, 8, NULL},
    {"connections", OF(CONNS), MEASURING, OPTION_NUMBER, FIELD(run.connections), 1,
     MIDGE_RUN_IDLE_MAX, NULL},
    {"subscriptions", OF(SUBS), MEASURING, OPTION_NUMBER, FIELD(run.subscriptions), 1, 10000000,
     NULL},
    {"changes", OF(SUBS), MEASURING, OPTION_NUMBER, FIELD(run.changes), 0, 1000000, NULL},
    {"window", PUBLISHING, MEASURING, OPTION_NUMBER, FIELD(run.window), 1, 10000000, NULL},
    {"seed", ANY & ~OF(RTT) & ~OF(CONNS), MEASURING, OPTION_NUMBER, FIELD(run.seed), 0, UINT32_MAX,
     NULL},
    {"responder", REQUESTS, MEASURING, OPTION_WORD, 0, 0, 0, parse_responder},
    {"duration", ANY, MEASURING, OPTION_TIME, FIELD(run.duration_ms), 10, 3600000, NULL},
    {"warmup", ANY & ~OF(CONNS), MEASURING, OPTION_TIME, FIELD(run.warmup_ms), 0, 600000, NULL},
    {"timeout", ANY, MEASURING, OPTION_TIME, FIELD(run.timeout_ms), 10, 600000, NULL},
    {"rate-max", ANY, FOR(CURVE), OPTION_NUMBER, FIELD(rate_max), 1, MIDGE_RUN_RATE_MAX, NULL},
    {"spin", ANY & ~OF(CONNS), MEASURING, OPTION_FLAG, FIELD(run.is_spinning), 0, 0, NULL},
    {"instructions", ANY, MEASURING, OPTION_FLAG, FIELD(run.has_instructions), 0, 0, NULL},
    {"place", ANY, MEASURING, OPTION_WORD, 0, 0, 0, parse_place},
    {"server-cpus", ANY, MEASURING, OPTION_WORD, 0, 0, 0, parse_cpus},
    {"load-cpus", ANY, MEASURING, OPTION_WORD, 0, 0, 0, parse_cpus},
    {"a", ANY, FOR(COMPARE), OPTION_TEXT, FIELD(servers[0]), 0, 0, NULL},
    {"b", ANY, FOR(COMPARE), OPTION_TEXT, FIELD(servers[1]), 0, 0, NULL},
    {"c", ANY, FOR(COMPARE), OPTION_TEXT, FIELD(servers[2]), 0, 0, NULL},
    {"a-driver", ANY & ~OF(SUBS), FOR(COMPARE), OPTION_WORD, 0, 0, 0, parse_driver},
    {"b-driver", ANY & ~OF(SUBS), FOR(COMPARE), OPTION_WORD, 0, 0, 0, parse_driver},
    {"c-driver", ANY & ~OF(SUBS), FOR(COMPARE), OPTION_WORD, 0, 0, 0, parse_driver},
    {"rounds", ANY, FOR(COMPARE), OPTION_NUMBER, FIELD(rounds), 1, MIDGE_STATISTICS_ROUNDS_MAX,
     NULL},
    {"metric", ANY, FOR(COMPARE), OPTION_WORD, 0, 0, 0, parse_metric},
    {"aim", ANY, FOR(COMPARE), OPTION_WORD, 0, 0, 0, parse_aim},
    {"json", ANY, MEASURING, OPTION_TEXT, FIELD(json_path), 0, 0, NULL},
    {"hgrm", ANY, MEASURING, OPTION_TEXT, FIELD(hgrm_path), 0, 0, NULL},
    {"report", ANY, EVERY_COMMAND, OPTION_TEXT, FIELD(report_path), 0, 0, NULL},
    {"title", ANY, MEASURING, OPTION_TEXT, FIELD(title), 0, 0, NULL},
    {"quiet", ANY, MEASURING, OPTION_FLAG, FIELD(is_quiet), 0, 0, NULL},
};

#define ROWS (sizeof rows / sizeof rows[0])

/* What getopt returns for the first row: no letter. */
#define FIRST_ID 256

struct parse {
    struct midge_bench_options *options; /* borrow */
    bool is_given[ROWS];
};

static enum midge_status refuse(const char *option, const char *value, const char *wanted)
{
    (void)fprintf(stderr, "midge-bench: --%s %s: wanted is %s\n", option, value, wanted);
    return MIDGE_E_CONFIG;
}

static enum midge_status refuse_argument(const char *value, const char *wanted)
{
    (void)fprintf(stderr, "midge-bench: %s: wanted is %s\n", value, wanted);
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
    run->burst = 1;
    run->window = 8192;
    run->warmup_ms = 500;
    run->duration_ms = 5000;
    run->timeout_ms = 5000;
    run->seed = 1;
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

static enum midge_status parse_number(const struct row *option, const char *text,
                                      struct midge_bench_options *options)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}};
    const bool is_time = option->kind == OPTION_TIME;
    char wanted[80];
    char *end = NULL;
    uint64_t value = 0;
    bool is_good = text[0] >= '0' && text[0] <= '9';

    errno = 0;
    value = strtoull(text, &end, 10);
    if (is_time) {
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
                   is_time ? "a time such as 500ms, 5s or 2m, from %u to %u ms"
                           : "a number from %u to %u",
                   option->min, option->max);
    return refuse(option->name, text, wanted);
}

/* One of two words. */
static enum midge_status parse_choice(const char *name, const char *text, const char *no,
                                      const char *yes, bool *is_yes_out)
{
    char wanted[64];

    *is_yes_out = strcmp(text, yes) == 0;
    if (*is_yes_out || strcmp(text, no) == 0)
        return MIDGE_OK;
    (void)snprintf(wanted, sizeof wanted, "%s or %s", no, yes);
    return refuse(name, text, wanted);
}

static enum midge_status parse_transport(struct parse *parse, const char *name, const char *text)
{
    return parse_choice(name, text, "tcp", "unix", &parse->options->is_unix);
}

/* "driver", "far-driver", or "a-driver" and so on. */
static enum midge_status parse_driver(struct parse *parse, const char *name, const char *text)
{
    const struct midge_driver_kind *driver = midge_driver_find(text);

    if (driver == NULL)
        return refuse(name, text, midge_driver_names());
    if (name[1] == '-')
        parse->options->drivers[name[0] - 'a'] = driver;
    else if (name[0] == 'f')
        parse->options->run.far_driver = driver;
    else
        parse->options->run.driver = driver;
    return MIDGE_OK;
}

static enum midge_status parse_arrivals(struct parse *parse, const char *name, const char *text)
{
    bool is_poisson = false;
    const enum midge_status status = parse_choice(name, text, "fixed", "poisson", &is_poisson);

    parse->options->run.arrivals = is_poisson ? MIDGE_RUN_POISSON : MIDGE_RUN_FIXED;
    return status;
}

static enum midge_status parse_responder(struct parse *parse, const char *name, const char *text)
{
    return parse_choice(name, text, "own", "apart", &parse->options->run.is_responder_apart);
}

static enum midge_status parse_place(struct parse *parse, const char *name, const char *text)
{
    return midge_place_find(text, &parse->options->place) == MIDGE_OK
               ? MIDGE_OK
               : refuse(name, text, "free, one or apart");
}

static enum midge_status parse_cpus(struct parse *parse, const char *name, const char *text)
{
    struct midge_bench_options *options = parse->options;
    cpu_set_t *cpus = name[0] == 's' ? &options->server_cpus : &options->load_cpus;

    return midge_place_read_list(text, cpus) == MIDGE_OK
               ? MIDGE_OK
               : refuse(name, text, "a list of CPUs such as 0,2-3");
}

static enum midge_status parse_aim(struct parse *parse, const char *name, const char *text)
{
    struct midge_bench_options *options = parse->options;

    if (options->aim_count < MIDGE_OPTIONS_AIMS_MAX &&
        midge_aim_parse(text, &options->aims[options->aim_count]) == MIDGE_OK) {
        options->aim_count++;
        return MIDGE_OK;
    }
    return refuse(name, text, "such as 'p50<=1.10*floor' or 'each<=200', at most eight times");
}

static enum midge_status parse_metric(struct parse *parse, const char *name, const char *text)
{
    return midge_metric_find(text, &parse->options->metric) == MIDGE_OK
               ? MIDGE_OK
               : refuse(name, text,
                        "p50, p90, p99, p99.9, p99.99, max, cpu, rate, rss, each, setup, idle, "
                        "load-cpu, near-cpu or load-each");
}

static enum midge_status parse_option(struct parse *parse, const struct row *row, const char *text)
{
    uint8_t *field = (uint8_t *)parse->options + row->off;

    parse->is_given[row - rows] = true;
    switch (row->kind) {
    case OPTION_TEXT:
        memcpy(field, &text, sizeof text);
        break;
    case OPTION_NUMBER:
    case OPTION_TIME:
        return parse_number(row, text, parse->options);
    case OPTION_FLAG:
        *(bool *)field = true;
        break;
    case OPTION_WORD:
        return row->word_cb(parse, row->name, text);
    }
    return MIDGE_OK;
}

static enum midge_status complain(const char *text)
{
    (void)fprintf(stderr, "midge-bench: %s; see --help\n", text);
    return MIDGE_E_CONFIG;
}

static bool is_given(const struct parse *parse, const char *name)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].name, name) == 0)
            return parse->is_given[i];
    }
    MIDGE_ASSERT(false);
    return false;
}

/* What is measured, for messages. */
static const char *name_of(const struct midge_bench_options *options)
{
    if (options->command == MIDGE_COMMAND_REPORT)
        return "report";
    if (options->command == MIDGE_COMMAND_CURVE)
        return "curve";
    return midge_run_scenario_name(options->run.scenario);
}

/* Options that would change nothing here. */
static enum midge_status check_scope(const struct parse *parse)
{
    const struct midge_bench_options *options = parse->options;

    for (size_t i = 0; i < ROWS; i++) {
        if (!parse->is_given[i])
            continue;
        if ((rows[i].commands & 1u << options->command) == 0) {
            (void)fprintf(stderr, "midge-bench: --%s is not for %s%s; see --help\n", rows[i].name,
                          options->command == MIDGE_COMMAND_COMPARE ? "compare " : "",
                          name_of(options));
            return MIDGE_E_CONFIG;
        }
        if ((rows[i].scenarios & 1u << options->run.scenario) == 0) {
            (void)fprintf(stderr, "midge-bench: --%s is not for %s; see --help\n", rows[i].name,
                          name_of(options));
            return MIDGE_E_CONFIG;
        }
    }
    return MIDGE_OK;
}

const char *midge_options_server_name(const struct midge_bench_options *options, uint32_t index)
{
    static const char *const names[MIDGE_OPTIONS_SERVERS_MAX] = {"--a", "--b", "--c"};

    return options->command == MIDGE_COMMAND_COMPARE ? names[index] : "--server-cmd";
}

/* Whether servers can be told where to listen. */
static enum midge_status check_commands(const struct midge_bench_options *options)
{
    const struct midge_server_place place = {
        .socket = "/socket", .port = 1, .is_unix = options->is_unix};

    for (uint32_t i = 0; i < MIDGE_OPTIONS_SERVERS_MAX; i++) {
        struct midge_server_command words;

        if (options->servers[i] == NULL)
            continue;
        const enum midge_status status = midge_server_command_init(
            midge_options_server_name(options, i), options->servers[i], &place, &words);

        if (status != MIDGE_OK)
            return status;
        midge_server_command_deinit(&words);
    }
    return MIDGE_OK;
}

static enum midge_status check_server(const struct parse *parse)
{
    struct midge_bench_options *options = parse->options;
    const bool is_raw =
        options->run.driver == &midge_driver_raw || options->run.scenario == MIDGE_RUN_SUBS;
    struct midge_endpoint endpoint;

    for (uint32_t i = 1; i < MIDGE_OPTIONS_SERVERS_MAX; i++) {
        if (options->drivers[i] != NULL && options->servers[i] == NULL)
            options->servers[i] = options->servers[0];
    }
    if (options->command == MIDGE_COMMAND_COMPARE)
        return options->servers[0] != NULL
                   ? check_commands(options)
                   : complain("compare needs --a, and mostly --b: commands of servers");
    if (options->url == NULL && options->servers[0] == NULL)
        return complain("--url or --server-cmd is needed");
    if (options->url != NULL && options->servers[0] != NULL)
        return complain(
            "--url is for a server that runs, --server-cmd starts one: only one of them");
    if (options->url == NULL)
        return options->run.server_pid == 0 ? check_commands(options)
                                            : complain("--server-pid is for the server at --url");
    if (options->is_unix)
        return complain("--transport is for a server that is started; say it in the URL");
    /* Libraries read theirs themselves: it may have a name and a password. */
    if (strlen(options->url) >= MIDGE_SERVER_URL_CAP ||
        (is_raw && midge_endpoint_parse(options->url, &endpoint) != MIDGE_OK))
        return refuse("url", options->url,
                      "nats://HOST:PORT, where HOST is an IPv4 address or localhost, or "
                      "unix:///PATH");
    return MIDGE_OK;
}

static enum midge_status check_load(const struct parse *parse)
{
    const struct midge_bench_options *options = parse->options;
    const struct midge_run_options *run = &options->run;

    if (run->scenario == MIDGE_RUN_LOAD && run->rate == 0)
        return complain(options->command == MIDGE_COMMAND_CURVE ? "curve begins at a --rate above 0"
                                                                : "load needs a --rate above 0");
    if (options->command == MIDGE_COMMAND_CURVE && run->rate > options->rate_max)
        return complain("--rate, where a curve begins, is above --rate-max, where it ends");
    if (is_given(parse, "in-flight") && run->rate > 0)
        return complain("--in-flight is not for a --rate, which waits for no reply");
    if (is_given(parse, "window") && run->rate > 0)
        return complain("--window is not for a --rate, which waits for no reader");
    if (is_given(parse, "arrivals") && run->rate == 0)
        return complain("--arrivals is for a --rate");
    if (is_given(parse, "burst") && run->rate == 0)
        return complain("--burst is for a --rate");
    if (run->far_driver != NULL && run->publishers == 0 && !run->is_responder_apart)
        return complain("--far-driver needs --responder apart: here they are in one thread");
    if (is_given(parse, "seed") && run->scenario != MIDGE_RUN_SUBS &&
        run->arrivals != MIDGE_RUN_POISSON)
        return complain("--seed is for what is random: --arrivals poisson, and subs");
    if (!run->is_relay)
        return MIDGE_OK;
    if (run->driver != &midge_driver_raw || options->drivers[0] != NULL ||
        options->drivers[1] != NULL || options->drivers[2] != NULL || run->far_driver != NULL)
        return complain(
            "--relay is for the driver raw: a relay says nothing a library understands");
    return midge_subject_can_be_relayed(run)
               ? MIDGE_OK
               : complain("--relay is for one requester and one responder, or one publisher and "
                          "some subscribers");
}

/* Figures that the comparison cannot have. */
static enum midge_status check_figures(const struct parse *parse)
{
    const struct midge_bench_options *options = parse->options;
    const struct midge_run_options *run = &options->run;

    if (!midge_metric_is_of((enum midge_metric_index)options->metric, run)) {
        (void)fprintf(stderr, "midge-bench: --metric %s is not known of %s%s; see --help\n",
                      midge_metrics[options->metric].name, name_of(options),
                      run->rate == 0 && run->scenario != MIDGE_RUN_CONNS ? " without a --rate"
                                                                         : "");
        return MIDGE_E_CONFIG;
    }
    for (uint32_t i = 0; i < options->aim_count; i++) {
        const struct midge_aim *aim = &options->aims[i];
        const char *name = midge_metrics[aim->metric].name;

        if (!midge_metric_is_of((enum midge_metric_index)aim->metric, run)) {
            (void)fprintf(stderr, "midge-bench: --aim: %s is not known of %s; see --help\n", name,
                          name_of(options));
            return MIDGE_E_CONFIG;
        }
        /* A relay is a fork of midge-bench: what it has resident says nothing. */
        if (aim->base[0] != '\0' &&
            (!midge_subjects_have(options, aim->base) ||
             (aim->metric == MIDGE_METRIC_RESIDENT && strncmp(aim->base, "floor", 5) == 0))) {
            (void)fprintf(stderr,
                          "midge-bench: --aim: %s of %s is not measured here; it can be of b, c, "
                          "a-again, floor or floor-io_uring\n",
                          name, aim->base);
            return MIDGE_E_CONFIG;
        }
    }
    return MIDGE_OK;
}

/* Where server and load run. */
static enum midge_status check_place(const struct parse *parse)
{
    struct midge_bench_options *options = parse->options;
    const bool has_lists = is_given(parse, "server-cpus") || is_given(parse, "load-cpus");

    if (is_given(parse, "place") && has_lists)
        return complain("--place says already what --server-cpus and --load-cpus do");
    if (options->url != NULL &&
        (is_given(parse, "server-cpus") || options->place == MIDGE_PLACE_ONE ||
         options->place == MIDGE_PLACE_APART))
        return complain("the server at --url stays where it is: only --load-cpus is for it");
    if (has_lists)
        options->place = MIDGE_PLACE_LISTS;
    else if (!is_given(parse, "place") && options->command == MIDGE_COMMAND_COMPARE)
        /* Where medians are steady. What burns a core, and an open loop, want one of their own. */
        options->place =
            options->run.rate > 0 || options->run.is_spinning ? MIDGE_PLACE_APART : MIDGE_PLACE_ONE;
    if (options->place == MIDGE_PLACE_ONE && options->run.is_spinning)
        return complain("--spin would take the one CPU of --place one from the server");
    return midge_place_set_cpus(options);
}

/* What the options are to each other. */
static enum midge_status check(const struct parse *parse)
{
    const struct midge_bench_options *options = parse->options;
    enum midge_status status = check_scope(parse);

    if (status == MIDGE_OK && options->command == MIDGE_COMMAND_REPORT)
        return options->report_path == NULL ? complain("report needs -o FILE") : MIDGE_OK;
    if (status == MIDGE_OK)
        status = check_server(parse);
    if (status == MIDGE_OK)
        status = check_load(parse);
    if (status == MIDGE_OK && options->command == MIDGE_COMMAND_COMPARE)
        status = check_figures(parse);
    if (status == MIDGE_OK && midge_output_stdout_count(options) > 1)
        status = complain("only one of --json and --report can go to standard output");
    return status == MIDGE_OK ? check_place(parse) : status;
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
            return refuse_argument(argv[2], "a scenario");
        if (has_scenario && options->command == MIDGE_COMMAND_CURVE)
            return complain("curve is not compared; report takes the files of several");
        if (!has_scenario)
            set_defaults(options, MIDGE_RUN_RTT);
        options->command = MIDGE_COMMAND_COMPARE;
        *first_out = has_scenario ? 2 : 1;
        return MIDGE_OK;
    }
    *first_out = 1;
    return parse_scenario(argv[1], options) ? MIDGE_OK : refuse_argument(argv[1], "a scenario");
}

static enum midge_status parse_rest(int argc, char **argv, struct midge_bench_options *options)
{
    struct parse parse = {.options = options};
    struct option names[ROWS + 1];
    enum midge_status status = MIDGE_OK;
    int id = 0;

    for (size_t i = 0; i < ROWS; i++)
        names[i] = (struct option){rows[i].name,
                                   rows[i].kind == OPTION_FLAG ? no_argument : required_argument,
                                   NULL, FIRST_ID + (int)i};
    names[ROWS] = (struct option){NULL, 0, NULL, 0};
    while (status == MIDGE_OK && (id = getopt_long(argc, argv, "o:", names, NULL)) != -1) {
        if (id == 'o')
            options->report_path = optarg;
        else if (id >= FIRST_ID)
            status = parse_option(&parse, &rows[id - FIRST_ID], optarg);
        else
            status = MIDGE_E_CONFIG; /* getopt has said why */
    }
    if (status != MIDGE_OK)
        return status;
    options->files = argv + optind;
    options->file_count = (uint32_t)(argc - optind);
    if (options->command != MIDGE_COMMAND_REPORT && options->file_count > 0)
        return refuse_argument(argv[optind], "an option");
    if (options->command == MIDGE_COMMAND_REPORT && options->file_count == 0)
        return complain("report needs the files that --json wrote");
    return check(&parse);
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
        return complain(
            "it is not said what to measure, as in: midge-bench rtt --server-cmd midge-server");
    status = parse_command(argc, argv, options_out, &first);
    /* getopt takes the word before the options for the name of the program. */
    if (status == MIDGE_OK) {
        argv[first] = argv[0];
        status = parse_rest(argc - first, argv + first, options_out);
    }
    return status;
}
