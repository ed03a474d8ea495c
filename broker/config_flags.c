/*
 * argv: one table of nats-server's flags and ours, and what each does.
 *
 * Spelling as in Go's flag package: one dash or two, `-x value` or `-x=value`, a bool takes a value
 * only behind =; - and _ inside a name are the same. Two passes: the first checks all of argv and
 * takes what must be known before the file is read, the second lets the flags win over the file. A
 * bad flag ends with exit status 1; nats-server prints its help and exits with 0. Source:
 * nats-server v2.15.2, server/opts.go:6180-6260, main.go:25-88.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <strings.h>

#include "config_internal.h"

enum flag_kind {
    FLAG_UNSERVED = 0, /* refused by name, with its value */
    FLAG_UNSERVED_BOOL,
    FLAG_MOOT,  /* taken with its value, without effect */
    FLAG_BOOL,  /* the field at offset */
    FLAG_TEXT,  /* the field at offset */
    FLAG_CALL,  /* apply_cb with the value */
    FLAG_LEVEL, /* a bool for several fields: apply_cb with "true" or "false" */

    /* Taken in the first pass. */
    FLAG_CONFIG,
    FLAG_SIGNAL,
    FLAG_TEST,
    FLAG_VERSION,
    FLAG_HELP,
    FLAG_IGNORE,
};

typedef void config_flag_cb(struct midge_config_load *load, const char *name, const char *text);

struct midge_config_flag {
    const char *name;
    enum flag_kind kind;
    bool protects; /* UNSERVED: clients can do more without it */
    size_t offset;
    config_flag_cb *apply_cb;
    const char *instead;
};

/* The whole number of a flag. */
static bool want_number(struct midge_config_load *load, const char *name, const char *text,
                        int64_t *number_out)
{
    if (midge_config_parse_integer(text, number_out))
        return true;
    midge_config_error(load, NULL, "%s: expected a whole number, not \"%s\"", name, text);
    return false;
}

static void apply_port(struct midge_config_load *load, const char *name, const char *text)
{
    int64_t port;

    if (want_number(load, name, text, &port))
        midge_config_set_port(load, NULL, name, port);
}

static void apply_server_name(struct midge_config_load *load, const char *name, const char *text)
{
    midge_config_set_server_name(load, NULL, name, text);
}

/* An empty password on the command line is none, as in nats-server. */
static void apply_pass(struct midge_config_load *load, const char *name, const char *text)
{
    (void)name;
    midge_config_set_text(load, &load->config->pass, text, false);
}

static void apply_unix(struct midge_config_load *load, const char *name, const char *text)
{
    midge_config_set_unix_path(load, NULL, name, text);
}

static void apply_unix_mode(struct midge_config_load *load, const char *name, const char *text)
{
    if (!midge_config_parse_mode(text, &load->config->unix_mode))
        midge_config_error(load, NULL, "%s: expected an octal file mode such as 0700", name);
}

static void apply_threads(struct midge_config_load *load, const char *name, const char *text)
{
    int64_t count;

    if (strcmp(text, "auto") == 0)
        load->config->threads = MIDGE_THREADS_AUTO;
    else if (want_number(load, name, text, &count))
        midge_config_set_threads(load, NULL, name, count);
}

static void apply_move_turns(struct midge_config_load *load, const char *name, const char *text)
{
    int64_t turns;

    if (!want_number(load, name, text, &turns))
        return;
    if (turns < 0 || turns > UINT32_MAX)
        midge_config_error(load, NULL, "%s: between 0 and %u turns", name, UINT32_MAX);
    else
        load->config->move_turns = (uint32_t)turns;
}

static void apply_spin(struct midge_config_load *load, const char *name, const char *text)
{
    int64_t spin_us;

    if (strcmp(text, "auto") == 0)
        load->config->spin_us = MIDGE_SPIN_AUTO;
    else if (want_number(load, name, text, &spin_us))
        midge_config_set_spin(load, NULL, name, spin_us);
}

static void apply_io(struct midge_config_load *load, const char *name, const char *text)
{
    if (!midge_config_parse_io(text, &load->config->io_kind))
        midge_config_error(load, NULL, "%s: expected auto, io_uring or epoll", name);
}

static void apply_memory(struct midge_config_load *load, const char *name, const char *text)
{
    int64_t bytes;

    if (want_number(load, name, text, &bytes))
        midge_config_set_memory(load, NULL, name, bytes);
}

static void apply_log_size(struct midge_config_load *load, const char *name, const char *text)
{
    int64_t bytes;

    if (want_number(load, name, text, &bytes))
        load->config->log_size_limit = bytes < 0 ? 0 : (uint64_t)bytes;
}

static void apply_traced_len(struct midge_config_load *load, const char *name, const char *text)
{
    int64_t len;

    if (want_number(load, name, text, &len))
        load->config->traced_msg_len_max = midge_config_clamp(len, UINT32_MAX);
}

/* -DV, -VV and -DVV; Source: opts.go:6485. */
static void apply_debug_trace(struct midge_config_load *load, const char *name, const char *text)
{
    (void)name;
    load->config->debug = text[0] == 't';
    load->config->trace = text[0] == 't';
}

static void apply_verbose(struct midge_config_load *load, const char *name, const char *text)
{
    (void)name;
    load->config->trace = text[0] == 't';
    load->config->trace_verbose = text[0] == 't';
}

static void apply_debug_verbose(struct midge_config_load *load, const char *name, const char *text)
{
    apply_debug_trace(load, name, text);
    apply_verbose(load, name, text);
}

#define FIELD(name)       offsetof(struct midge_config, name)
#define INSTEAD_CLUSTER   "run one midge-server alone, or nats-server for a cluster"
#define INSTEAD_JETSTREAM "run nats-server for JetStream"
#define INSTEAD_MONITOR   "watch the log: there is no monitoring port"
#define INSTEAD_SYSLOG    "use --log, or standard error under a service manager"
#define INSTEAD_TLS       "put a TLS proxy in front, or use a Unix socket (--unix PATH)"

/* clang-format off */
static const struct midge_config_flag flags[] = {
    {.name = "a", .kind = FLAG_TEXT, .offset = FIELD(host)},
    {.name = "addr", .kind = FLAG_TEXT, .offset = FIELD(host)},
    {.name = "net", .kind = FLAG_TEXT, .offset = FIELD(host)},
    {.name = "p", .kind = FLAG_CALL, .apply_cb = apply_port},
    {.name = "port", .kind = FLAG_CALL, .apply_cb = apply_port},
    {.name = "unix", .kind = FLAG_CALL, .apply_cb = apply_unix},
    {.name = "unix_mode", .kind = FLAG_CALL, .apply_cb = apply_unix_mode},
    {.name = "client_advertise", .kind = FLAG_TEXT, .offset = FIELD(client_advertise)},
    {.name = "n", .kind = FLAG_CALL, .apply_cb = apply_server_name},
    {.name = "name", .kind = FLAG_CALL, .apply_cb = apply_server_name},
    {.name = "server_name", .kind = FLAG_CALL, .apply_cb = apply_server_name},
    {.name = "user", .kind = FLAG_TEXT, .offset = FIELD(user)},
    {.name = "pass", .kind = FLAG_CALL, .apply_cb = apply_pass},
    {.name = "auth", .kind = FLAG_TEXT, .offset = FIELD(token)},
    {.name = "c", .kind = FLAG_CONFIG},
    {.name = "config", .kind = FLAG_CONFIG},
    {.name = "t", .kind = FLAG_TEST},
    {.name = "sl", .kind = FLAG_SIGNAL},
    {.name = "signal", .kind = FLAG_SIGNAL},
    {.name = "P", .kind = FLAG_TEXT, .offset = FIELD(pid_file)},
    {.name = "pid", .kind = FLAG_TEXT, .offset = FIELD(pid_file)},
    {.name = "ports_file_dir", .kind = FLAG_TEXT, .offset = FIELD(ports_file_dir)},
    {.name = "l", .kind = FLAG_TEXT, .offset = FIELD(log_file)},
    {.name = "log", .kind = FLAG_TEXT, .offset = FIELD(log_file)},
    {.name = "log_size_limit", .kind = FLAG_CALL, .apply_cb = apply_log_size},
    {.name = "max_traced_msg_len", .kind = FLAG_CALL, .apply_cb = apply_traced_len},
    {.name = "T", .kind = FLAG_BOOL, .offset = FIELD(log_time)},
    {.name = "logtime", .kind = FLAG_BOOL, .offset = FIELD(log_time)},
    {.name = "logtime_utc", .kind = FLAG_BOOL, .offset = FIELD(log_time_utc)},
    {.name = "D", .kind = FLAG_BOOL, .offset = FIELD(debug)},
    {.name = "debug", .kind = FLAG_BOOL, .offset = FIELD(debug)},
    {.name = "V", .kind = FLAG_BOOL, .offset = FIELD(trace)},
    {.name = "trace", .kind = FLAG_BOOL, .offset = FIELD(trace)},
    {.name = "DV", .kind = FLAG_LEVEL, .apply_cb = apply_debug_trace},
    {.name = "VV", .kind = FLAG_LEVEL, .apply_cb = apply_verbose},
    {.name = "DVV", .kind = FLAG_LEVEL, .apply_cb = apply_debug_verbose},
    {.name = "threads", .kind = FLAG_CALL, .apply_cb = apply_threads},
    {.name = "pin", .kind = FLAG_BOOL, .offset = FIELD(pin)},
    {.name = "spin_us", .kind = FLAG_CALL, .apply_cb = apply_spin},
    {.name = "io", .kind = FLAG_CALL, .apply_cb = apply_io},
    {.name = "move_turns", .kind = FLAG_CALL, .apply_cb = apply_move_turns},
    {.name = "max_memory", .kind = FLAG_CALL, .apply_cb = apply_memory},
    {.name = "ignore_unsupported", .kind = FLAG_IGNORE},
    {.name = "v", .kind = FLAG_VERSION},
    {.name = "version", .kind = FLAG_VERSION},
    {.name = "h", .kind = FLAG_HELP},
    {.name = "help", .kind = FLAG_HELP},

    /* Where JetStream would store; test suites pass it always. */
    {.name = "sd", .kind = FLAG_MOOT},
    {.name = "store_dir", .kind = FLAG_MOOT},

    {.name = "m", .kind = FLAG_UNSERVED, .instead = INSTEAD_MONITOR},
    {.name = "http_port", .kind = FLAG_UNSERVED, .instead = INSTEAD_MONITOR},
    {.name = "ms", .kind = FLAG_UNSERVED, .instead = INSTEAD_MONITOR},
    {.name = "https_port", .kind = FLAG_UNSERVED, .instead = INSTEAD_MONITOR},
    {.name = "js", .kind = FLAG_UNSERVED_BOOL, .instead = INSTEAD_JETSTREAM},
    {.name = "jetstream", .kind = FLAG_UNSERVED_BOOL, .instead = INSTEAD_JETSTREAM},
    {.name = "s", .kind = FLAG_UNSERVED_BOOL, .instead = INSTEAD_SYSLOG},
    {.name = "syslog", .kind = FLAG_UNSERVED_BOOL, .instead = INSTEAD_SYSLOG},
    {.name = "r", .kind = FLAG_UNSERVED, .instead = INSTEAD_SYSLOG},
    {.name = "remote_syslog", .kind = FLAG_UNSERVED, .instead = INSTEAD_SYSLOG},
    {.name = "profile", .kind = FLAG_UNSERVED, .instead = "use perf record -p <pid>"},
    {.name = "routes", .kind = FLAG_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "cluster", .kind = FLAG_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "cluster_listen", .kind = FLAG_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "cluster_advertise", .kind = FLAG_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "cluster_name", .kind = FLAG_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "connect_retries", .kind = FLAG_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "no_advertise", .kind = FLAG_UNSERVED_BOOL, .instead = INSTEAD_CLUSTER},
    {.name = "help_tls", .kind = FLAG_UNSERVED_BOOL, .instead = INSTEAD_TLS},
    {.name = "tls", .kind = FLAG_UNSERVED_BOOL, .protects = true, .instead = INSTEAD_TLS},
    {.name = "tlsverify", .kind = FLAG_UNSERVED_BOOL, .protects = true, .instead = INSTEAD_TLS},
    {.name = "tlscert", .kind = FLAG_UNSERVED, .protects = true, .instead = INSTEAD_TLS},
    {.name = "tlskey", .kind = FLAG_UNSERVED, .protects = true, .instead = INSTEAD_TLS},
    {.name = "tlscacert", .kind = FLAG_UNSERVED, .protects = true, .instead = INSTEAD_TLS},
};
/* clang-format on */

void midge_config_print_help(FILE *out)
{
    (void)fputs(
        "Usage: midge-server [options]\n"
        "\n"
        "Flags and the configuration file are nats-server's where the meaning is the same.\n"
        "\n"
        "Server:\n"
        "  -a, --addr, --net HOST      listen on HOST (default: 127.0.0.1 and ::1, or every\n"
        "                              address if a user or token is set)\n"
        "  -p, --port PORT             listen on PORT (default: 4222; -1: any free port)\n"
        "      --unix PATH             listen on a Unix socket too\n"
        "      --unix-mode MODE        file mode of the socket (default: 0700)\n"
        "  -n, --name, --server_name NAME\n"
        "                              name of this server (default: its id)\n"
        "      --client_advertise HOST:PORT\n"
        "                              address that clients are told\n"
        "  -c, --config FILE           read FILE first; flags win\n"
        "  -t                          check the configuration file and exit\n"
        "  -P, --pid FILE              write the process id to FILE\n"
        "      --ports_file_dir DIR    write nats-server_<pid>.ports to DIR\n"
        "  -sl, --signal CMD[=PID]     send stop, quit, term, reopen, reload or ldm to a running\n"
        "                              server; PID may be a pid file\n"
        "      --ignore-unsupported    only warn about nats-server's options that are not served\n"
        "\n"
        "Speed and size:\n"
        "      --threads N             threads that serve connections (default: auto, as many as\n"
        "                              the load needs, at most one for each core)\n"
        "      --pin                   bind each thread to a core of its own\n"
        "      --spin-us N             microseconds to spin before sleep (default: auto)\n"
        "      --move-turns N          for tests: move a connection to another thread every N "
        "turns\n"
        "      --io auto|io_uring|epoll\n"
        "                              how to talk to the kernel (default: auto)\n"
        "      --max-memory BYTES      for all messages and subscriptions (default: half of "
        "memory)\n"
        "\n"
        "Logging:\n"
        "  -l, --log FILE              log to FILE (default: standard error)\n"
        "      --log_size_limit BYTES  start a new log file at this size\n"
        "  -T, --logtime               time of day in log lines (default: true)\n"
        "      --logtime_utc           in UTC\n"
        "  -D, --debug                 debug lines\n"
        "  -V, --trace                 protocol trace\n"
        "  -DV                         both\n"
        "  -VV, -DVV                   verbose trace\n"
        "      --max_traced_msg_len N  bytes of payload in the trace (default: all)\n"
        "\n"
        "Authorization:\n"
        "      --user USER, --pass PASSWORD\n"
        "                              what every client must send; or\n"
        "      --auth TOKEN\n"
        "\n"
        "  -v, --version               print the version\n"
        "  -h, --help                  print this\n",
        out);
}

/* - and _ are the same inside a name. */
static bool name_equals(const char *name, const char *text, size_t text_len)
{
    if (strlen(name) != text_len)
        return false;
    for (size_t i = 0; i < text_len; i++) {
        if (name[i] != (text[i] == '-' ? '_' : text[i]))
            return false;
    }
    return true;
}

static const struct midge_config_flag *find_flag(const char *text, size_t text_len)
{
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if (name_equals(flags[i].name, text, text_len))
            return &flags[i];
    }
    return NULL;
}

static bool takes_value(enum flag_kind kind)
{
    switch (kind) {
    case FLAG_UNSERVED:
    case FLAG_MOOT:
    case FLAG_TEXT:
    case FLAG_CALL:
    case FLAG_CONFIG:
    case FLAG_SIGNAL:
        return true;
    case FLAG_UNSERVED_BOOL:
    case FLAG_BOOL:
    case FLAG_LEVEL:
    case FLAG_TEST:
    case FLAG_VERSION:
    case FLAG_HELP:
    case FLAG_IGNORE:
        return false;
    }
    return false;
}

/* Source: nats-server v2.15.2, server/signal.go:148. */
static int32_t signal_of(const char *command, size_t len)
{
    static const struct {
        const char *command;
        int32_t number;
    } signals[] = {
        {"stop", SIGKILL},   {"quit", SIGINT},   {"term", SIGTERM},
        {"reopen", SIGUSR1}, {"reload", SIGHUP}, {"ldm", SIGUSR2},
    };

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        if (strlen(signals[i].command) == len && strncmp(signals[i].command, command, len) == 0)
            return signals[i].number;
    }
    return 0;
}

static void take_signal(struct midge_config_load *load, const char *name, const char *text)
{
    MIDGE_ASSERT(text != NULL); /* scan_flag() took a value, or failed */

    const size_t command_len = strcspn(text, "=");

    load->config->action = MIDGE_CONFIG_SIGNAL;
    load->config->signal_number = signal_of(text, command_len);
    if (load->config->signal_number == 0)
        midge_config_error(load, NULL,
                           "%s: unknown signal \"%.*s\": use stop, quit, term, reopen, reload or "
                           "ldm",
                           name, (int)command_len, text);
    if (text[command_len] == '=')
        midge_config_set_text(load, &load->config->signal_target, text + command_len + 1, false);
}

/* What must be known before the file is read. */
static void take_early(struct midge_config_load *load, const struct midge_config_given *given)
{
    bool on = true;

    if (!takes_value(given->flag->kind) && given->text != NULL &&
        !midge_config_parse_bool(given->text, &on)) {
        midge_config_error(load, NULL, "%s: expected true or false, not \"%s\"", given->name,
                           given->text);
        return;
    }
    switch (given->flag->kind) {
    case FLAG_CONFIG:
        midge_config_set_text(load, &load->config->config_file, given->text, false);
        break;
    case FLAG_SIGNAL:
        take_signal(load, given->name, given->text);
        break;
    case FLAG_TEST:
        load->test = on;
        break;
    case FLAG_VERSION:
        load->version = on;
        break;
    case FLAG_HELP:
        load->help = on;
        break;
    case FLAG_IGNORE:
        load->config->ignore_unsupported = on;
        break;
    case FLAG_UNSERVED:
    case FLAG_UNSERVED_BOOL:
    case FLAG_MOOT:
    case FLAG_BOOL:
    case FLAG_TEXT:
    case FLAG_CALL:
    case FLAG_LEVEL:
        break;
    }
}

/* The words behind the flags. Source: nats-server v2.15.2, server/server.go:1714. */
static void take_words(struct midge_config_load *load, int word_count, char **words)
{
    if (word_count == 0)
        return;
    if (strcasecmp(words[0], "version") == 0)
        load->version = true;
    else if (strcasecmp(words[0], "help") == 0)
        load->help = true;
    else
        midge_config_error(load, NULL,
                           "unexpected argument \"%s\" (a flag that is true or false takes its "
                           "value behind =; see midge-server --help)",
                           words[0]);
}

/* One flag at argv[at]. @return arguments taken, 0 after an error */
static int scan_flag(struct midge_config_load *load, int argc, char **argv, int at,
                     struct midge_config_given *given)
{
    const char *name = argv[at] + (argv[at][1] == '-' ? 2 : 1);
    const size_t name_len = strcspn(name, "=");

    given->name = argv[at];
    given->text = name[name_len] == '=' ? name + name_len + 1 : NULL;
    given->flag = find_flag(name, name_len);
    if (given->flag == NULL) {
        midge_config_error(load, NULL, "unknown flag %.*s (see midge-server --help)",
                           (int)(name + name_len - argv[at]), argv[at]);
        return 0;
    }
    if (given->text != NULL) {
        /* The name alone, since a value may be a secret. */
        given->name = given->flag->name;
        return 1;
    }
    if (!takes_value(given->flag->kind))
        return 1;
    if (at + 1 >= argc) {
        midge_config_error(load, NULL, "%s needs a value (see midge-server --help)", argv[at]);
        return 0;
    }
    given->text = argv[at + 1];
    return 2;
}

uint32_t midge_config_scan_flags(struct midge_config_load *load, int argc, char **argv,
                                 struct midge_config_given *given)
{
    uint32_t count = 0;
    int at = 1;

    while (at < argc && argv[at][0] == '-' && argv[at][1] != '\0') {
        if (strcmp(argv[at], "--") == 0) {
            at++;
            break;
        }
        const int taken = scan_flag(load, argc, argv, at, &given[count]);
        if (taken == 0)
            return count;
        take_early(load, &given[count]);
        count++;
        at += taken;
    }
    take_words(load, argc - at, argv + at);
    return count;
}

static void apply_flag(struct midge_config_load *load, const struct midge_config_given *given)
{
    const struct midge_config_flag *flag = given->flag;
    void *field = (char *)load->config + flag->offset;
    bool on = true;

    /* Checked in the first pass. */
    if (!takes_value(flag->kind) && given->text != NULL)
        MIDGE_ASSERT(midge_config_parse_bool(given->text, &on));
    switch (flag->kind) {
    case FLAG_UNSERVED:
        midge_config_unserved(load, NULL, given->name, flag->instead, flag->protects);
        break;
    case FLAG_UNSERVED_BOOL:
        if (on)
            midge_config_unserved(load, NULL, given->name, flag->instead, flag->protects);
        break;
    case FLAG_BOOL:
        *(bool *)field = on;
        break;
    case FLAG_TEXT:
        midge_config_set_text(load, field, given->text, false);
        break;
    case FLAG_CALL:
        flag->apply_cb(load, given->name, given->text);
        break;
    case FLAG_LEVEL:
        flag->apply_cb(load, given->name, on ? "true" : "false");
        break;
    case FLAG_MOOT:
    case FLAG_CONFIG:
    case FLAG_SIGNAL:
    case FLAG_TEST:
    case FLAG_VERSION:
    case FLAG_HELP:
    case FLAG_IGNORE:
        break;
    }
}

void midge_config_apply_flags(struct midge_config_load *load,
                              const struct midge_config_given *given, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        apply_flag(load, &given[i]);
}
