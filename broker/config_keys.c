/*
 * The keys of the configuration file: one table of all that nats-server knows, what we do with
 * each.
 *
 * Messages name the place and the key, never a value: it may be a secret.
 * Source: nats-server v2.15.2, server/opts.go:1149-1950 (top), :4622-4707 (authorization).
 */
#include <float.h>
#include <inttypes.h>
#include <stdlib.h>
#include <strings.h>

#include "config_internal.h"

/* A file with more mistakes is the wrong file. */
#define ERRORS_MAX 20u

#define NS_PER_MS 1000000
#define NS_PER_S  1000000000ll

/* What to do instead of a feature that we do not serve. */
#define INSTEAD_ACCOUNTS  "run one midge-server for each account"
#define INSTEAD_CLUSTER   "run one midge-server alone, or nats-server for a cluster"
#define INSTEAD_JETSTREAM "run nats-server for JetStream"
#define INSTEAD_LAME_DUCK "stop the clients first, then send --signal quit"
#define INSTEAD_LEAVE     "leave it out"
#define INSTEAD_MONITOR   "watch the log: there is no monitoring port"
#define INSTEAD_NATS      "connect clients by the NATS protocol, with listen or unix"
#define INSTEAD_PERF      "use perf record -p <pid>"
#define INSTEAD_SYSLOG    "use log_file, or standard error under a service manager"
#define INSTEAD_TLS       "put a TLS proxy in front, or use a Unix socket (unix: PATH)"
#define INSTEAD_USERS     "set one user and password, or one token, in authorization"

enum key_kind {
    KEY_UNSERVED = 0, /* refused by name */
    KEY_PROTECTS,     /* the same, and clients could do more without it */
    KEY_BOOL,         /* the field at offset */
    KEY_TEXT,         /* the field at offset */
    KEY_CALL,         /* apply_cb */
    KEY_MOOT_BOOL,    /* checked, without effect: it is about what we do not have */
    KEY_MOOT_INTEGER,
    KEY_MOOT_TEXT,
};

typedef void config_apply_cb(struct midge_config_load *load, const struct midge_conf_entry *entry);

struct config_key {
    const char *name;
    enum key_kind kind;
    bool off_allowed; /* UNSERVED: false and 0 leave the feature off, as it is anyway */
    size_t offset;
    config_apply_cb *apply_cb;
    const char *instead;
};

static const char *key_text(const struct midge_conf_entry *entry)
{
    return (const char *)entry->key.base;
}

static bool want_kind(struct midge_config_load *load, const struct midge_conf_entry *entry,
                      enum midge_conf_kind kind)
{
    if (entry->value.kind == kind)
        return true;
    midge_config_error(load, &entry->value.place, "\"%s\" must be %s, not %s", key_text(entry),
                       midge_conf_kind_name(kind), midge_conf_kind_name(entry->value.kind));
    return false;
}

/* A string without NUL inside. */
static bool want_text(struct midge_config_load *load, const struct midge_conf_entry *entry,
                      const char **text_out)
{
    if (!want_kind(load, entry, MIDGE_CONF_STRING))
        return false;
    *text_out = (const char *)entry->value.string.base;
    if (strlen(*text_out) == entry->value.string.len)
        return true;
    midge_config_error(load, &entry->value.place, "\"%s\" holds a NUL byte", key_text(entry));
    return false;
}

static bool want_integer(struct midge_config_load *load, const struct midge_conf_entry *entry,
                         int64_t min, int64_t max, int64_t *number_out)
{
    if (!want_kind(load, entry, MIDGE_CONF_INTEGER))
        return false;
    *number_out = entry->value.integer;
    if (*number_out >= min && *number_out <= max)
        return true;
    if (*number_out < min)
        midge_config_error(load, &entry->value.place, "\"%s\" must be at least %" PRId64,
                           key_text(entry), min);
    else
        midge_config_error(load, &entry->value.place, "\"%s\" must be at most %" PRId64,
                           key_text(entry), max);
    return false;
}

/* Milliseconds, rounded up so that a short time does not become none. */
static void set_duration_ms(struct midge_config_load *load, const struct midge_conf_entry *entry,
                            int64_t ns, uint64_t default_ms, uint64_t *ms_out)
{
    if (ns < 0)
        midge_config_error(load, &entry->value.place, "\"%s\" cannot be negative", key_text(entry));
    else if (ns == 0)
        *ms_out = default_ms;
    else
        *ms_out = ((uint64_t)ns + NS_PER_MS - 1) / NS_PER_MS;
}

/* A duration; a bare integer counts as seconds, with a warning. Source: opts.go:1937. */
static void apply_duration(struct midge_config_load *load, const struct midge_conf_entry *entry,
                           uint64_t default_ms, uint64_t *ms_out)
{
    int64_t ns = 0;

    if (entry->value.kind == MIDGE_CONF_INTEGER) {
        midge_config_warn(load, &entry->value.place,
                          "\"%s\" is read as %" PRId64 " seconds: write a duration in quotes, such "
                          "as \"2m\"",
                          key_text(entry), entry->value.integer);
        if (__builtin_mul_overflow(entry->value.integer, NS_PER_S, &ns)) {
            midge_config_error(load, &entry->value.place, "\"%s\" is too long", key_text(entry));
            return;
        }
    } else {
        if (!want_kind(load, entry, MIDGE_CONF_STRING))
            return;
        const char *wrong = midge_config_parse_duration(entry->value.string, &ns);
        if (wrong != NULL) {
            midge_config_error(load, &entry->value.place, "\"%s\": %s", key_text(entry), wrong);
            return;
        }
    }
    set_duration_ms(load, entry, ns, default_ms, ms_out);
}

static void apply_listen(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    char host[256] = "";
    int64_t port = entry->value.integer;

    if (entry->value.kind != MIDGE_CONF_INTEGER) {
        if (!want_kind(load, entry, MIDGE_CONF_STRING))
            return;
        if (!midge_config_parse_listen(entry->value.string, host, sizeof(host), &port)) {
            midge_config_error(load, &entry->value.place,
                               "\"%s\" must be a port, host:port or [v6 address]:port",
                               key_text(entry));
            return;
        }
    }
    midge_config_set_text(load, &load->config->host, host, false);
    midge_config_set_port(load, &entry->value.place, key_text(entry), port);
}

static void apply_port(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t port;

    if (want_integer(load, entry, INT64_MIN, INT64_MAX, &port))
        midge_config_set_port(load, &entry->value.place, key_text(entry), port);
}

static void apply_unix(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    const char *text;

    if (want_text(load, entry, &text))
        midge_config_set_unix_path(load, &entry->value.place, key_text(entry), text);
}

/* 0700, whether written bare, where it scans as decimal, or in quotes. */
static void apply_unix_mode(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    char digits[24] = "";
    const char *text = digits;

    if (entry->value.kind == MIDGE_CONF_INTEGER)
        (void)snprintf(digits, sizeof(digits), "%03" PRId64, entry->value.integer);
    else if (!want_text(load, entry, &text))
        return;
    if (!midge_config_parse_mode(text, &load->config->unix_mode))
        midge_config_error(load, &entry->value.place,
                           "\"%s\" must be an octal file mode such as 0700", key_text(entry));
}

static void apply_server_name(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    const char *text;

    if (want_text(load, entry, &text))
        midge_config_set_server_name(load, &entry->value.place, key_text(entry), text);
}

static void apply_trace_verbose(struct midge_config_load *load,
                                const struct midge_conf_entry *entry)
{
    if (!want_kind(load, entry, MIDGE_CONF_BOOL))
        return;
    load->config->trace_verbose = entry->value.boolean;
    load->config->trace = entry->value.boolean;
}

/* 0 and less: nobody may connect. Source: opts.go:1369. */
static void apply_connections_max(struct midge_config_load *load,
                                  const struct midge_conf_entry *entry)
{
    int64_t count;

    if (want_integer(load, entry, INT64_MIN, INT64_MAX, &count))
        load->config->connections_max = midge_config_clamp(count, MIDGE_CONNECTIONS_MAX);
}

static void apply_subs_max(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t count;

    if (want_integer(load, entry, -1, INT64_MAX, &count))
        load->config->subs_max = midge_config_clamp(count, UINT32_MAX);
}

static void apply_sub_tokens_max(struct midge_config_load *load,
                                 const struct midge_conf_entry *entry)
{
    int64_t count;

    if (want_integer(load, entry, 1, UINT8_MAX, &count))
        load->config->sub_tokens_max = (uint32_t)count;
}

static void apply_control_line(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t len;

    if (want_integer(load, entry, 0, INT32_MAX, &len))
        load->config->control_line_len_max =
            len == 0 ? MIDGE_CONTROL_LINE_DEFAULT : midge_config_clamp(len, MIDGE_CONTROL_LINE_MAX);
}

static void apply_payload_max(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t len;

    if (!want_integer(load, entry, -1, INT32_MAX, &len))
        return;
    load->payload_len = len == 0 ? MIDGE_PAYLOAD_DEFAULT : len;
    load->config->payload_len_max =
        len < 0 ? MIDGE_PAYLOAD_MAX : midge_config_clamp(load->payload_len, MIDGE_PAYLOAD_MAX);
}

static void apply_pending_max(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t len;

    if (!want_integer(load, entry, 0, INT64_MAX, &len))
        return;
    load->config->pending_bytes_max = len == 0 ? MIDGE_PENDING_DEFAULT : (uint64_t)len;
    if (load->config->pending_bytes_max > MIDGE_PENDING_MAX)
        load->config->pending_bytes_max = MIDGE_PENDING_MAX;
}

static void apply_memory_max(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t len;

    if (want_integer(load, entry, INT64_MIN, INT64_MAX, &len))
        midge_config_set_memory(load, &entry->value.place, key_text(entry), len);
}

static void apply_ping_interval(struct midge_config_load *load,
                                const struct midge_conf_entry *entry)
{
    apply_duration(load, entry, MIDGE_PING_INTERVAL_MS_DEFAULT, &load->config->ping_interval_ms);
}

static void apply_ping_max(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t count;

    if (want_integer(load, entry, 0, INT64_MAX, &count))
        load->config->ping_max =
            count == 0 ? MIDGE_PING_MAX_DEFAULT : midge_config_clamp(count, UINT32_MAX);
}

static void apply_write_deadline(struct midge_config_load *load,
                                 const struct midge_conf_entry *entry)
{
    apply_duration(load, entry, MIDGE_WRITE_DEADLINE_MS_DEFAULT, &load->config->write_deadline_ms);
}

/* Our policy is the default one: the connection is closed. Source: opts.go:1970. */
static void apply_write_timeout(struct midge_config_load *load,
                                const struct midge_conf_entry *entry)
{
    const char *text;

    if (!want_text(load, entry, &text) || strcmp(text, "default") == 0 ||
        strcmp(text, "close") == 0)
        return;
    if (strcmp(text, "retry") == 0)
        midge_config_unserved(load, &entry->value.place, "write_timeout: retry",
                              "write default or close", false);
    else
        midge_config_error(load, &entry->value.place, "\"%s\" must be default or close",
                           key_text(entry));
}

static void apply_log_size(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t len;

    if (want_integer(load, entry, INT64_MIN, INT64_MAX, &len))
        load->config->log_size_limit = len < 0 ? 0 : (uint64_t)len;
}

static void apply_log_files(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t count;

    if (want_integer(load, entry, INT64_MIN, INT64_MAX, &count))
        load->config->log_files_max = midge_config_clamp(count, UINT32_MAX);
}

static void apply_traced_len(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t len;

    if (want_integer(load, entry, INT64_MIN, INT64_MAX, &len))
        load->config->traced_msg_len_max = midge_config_clamp(len, UINT32_MAX);
}

/* True if the value is the word auto. */
static bool is_auto(const struct midge_conf_value *value)
{
    return value->kind == MIDGE_CONF_STRING &&
           midge_slice_equal(value->string, MIDGE_SLICE_LITERAL("auto"));
}

static void apply_threads(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t count;

    if (is_auto(&entry->value))
        load->config->threads = MIDGE_THREADS_AUTO;
    else if (want_integer(load, entry, INT64_MIN, INT64_MAX, &count))
        midge_config_set_threads(load, &entry->value.place, key_text(entry), count);
}

static void apply_spin(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    int64_t spin_us;

    if (is_auto(&entry->value))
        load->config->spin_us = MIDGE_SPIN_AUTO;
    else if (want_integer(load, entry, INT64_MIN, INT64_MAX, &spin_us))
        midge_config_set_spin(load, &entry->value.place, key_text(entry), spin_us);
}

static void apply_io(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    const char *text;

    if (want_text(load, entry, &text) && !midge_config_parse_io(text, &load->config->io_kind))
        midge_config_error(load, &entry->value.place, "\"%s\" must be auto, io_uring or epoll",
                           key_text(entry));
}

/* Labels that only monitoring would show: a string, or an array of strings. */
static void apply_server_tags(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    const struct midge_conf_value *value = &entry->value;

    if (value->kind != MIDGE_CONF_ARRAY) {
        (void)want_kind(load, entry, MIDGE_CONF_STRING);
        return;
    }
    for (uint32_t i = 0; i < value->array->count; i++) {
        if (value->array->values[i].kind != MIDGE_CONF_STRING) {
            midge_config_error(load, &value->array->values[i].place,
                               "\"%s\" must hold strings only", key_text(entry));
            return;
        }
    }
}

static void apply_server_metadata(struct midge_config_load *load,
                                  const struct midge_conf_entry *entry)
{
    if (!want_kind(load, entry, MIDGE_CONF_MAP))
        return;
    for (uint32_t i = 0; i < entry->value.map->count; i++)
        (void)want_kind(load, &entry->value.map->entries[i], MIDGE_CONF_STRING);
}

/* We have no system account, so `true` is what we do. */
static void apply_no_system_account(struct midge_config_load *load,
                                    const struct midge_conf_entry *entry)
{
    if (want_kind(load, entry, MIDGE_CONF_BOOL) && !entry->value.boolean)
        midge_config_unserved(load, &entry->place, key_text(entry),
                              "write true: there is no system account", false);
}

/* Seconds as a number, or a duration. Source: opts.go:4642. */
static void apply_auth_timeout(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    const struct midge_conf_value *value = &entry->value;
    double seconds = 0;
    int64_t ns = 0;

    if (value->kind == MIDGE_CONF_INTEGER || value->kind == MIDGE_CONF_FLOAT) {
        seconds = value->kind == MIDGE_CONF_INTEGER ? (double)value->integer : value->real;
        if (seconds > (double)INT64_MAX / 1e10 || seconds < -(double)INT64_MAX / 1e10) {
            midge_config_error(load, &value->place, "\"%s\" is too long", key_text(entry));
            return;
        }
        ns = (int64_t)(seconds * 1e9);
        if (ns == 0 && seconds > 0)
            ns = 1;
    } else {
        if (!want_kind(load, entry, MIDGE_CONF_STRING))
            return;
        const char *wrong = midge_config_parse_duration(value->string, &ns);
        if (wrong != NULL) {
            midge_config_error(load, &value->place, "\"%s\": %s", key_text(entry), wrong);
            return;
        }
    }
    if (ns > 60 * NS_PER_S)
        midge_config_warn(load, &value->place,
                          "\"%s\" is %" PRId64 " seconds, which is long: a duration is written in "
                          "quotes, such as \"1m\"",
                          key_text(entry), (int64_t)(ns / NS_PER_S));
    set_duration_ms(load, entry, ns, MIDGE_AUTH_TIMEOUT_MS_DEFAULT, &load->config->auth_timeout_ms);
}

/* A given, empty password is one; an empty user or token is none. */
static void apply_pass(struct midge_config_load *load, const struct midge_conf_entry *entry)
{
    const char *text;

    if (want_text(load, entry, &text))
        midge_config_set_text(load, &load->config->pass, text, true);
}

#define FIELD(name) offsetof(struct midge_config, name)

/* style: one row per name, for the eye. */
/* clang-format off */
static const struct config_key auth_keys[] = {
    {.name = "user", .kind = KEY_TEXT, .offset = FIELD(user)},
    {.name = "username", .kind = KEY_TEXT, .offset = FIELD(user)},
    {.name = "pass", .kind = KEY_CALL, .apply_cb = apply_pass},
    {.name = "password", .kind = KEY_CALL, .apply_cb = apply_pass},
    {.name = "token", .kind = KEY_TEXT, .offset = FIELD(token)},
    {.name = "timeout", .kind = KEY_CALL, .apply_cb = apply_auth_timeout},
    {.name = "users", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "default_permission", .kind = KEY_PROTECTS, .instead = INSTEAD_ACCOUNTS},
    {.name = "default_permissions", .kind = KEY_PROTECTS, .instead = INSTEAD_ACCOUNTS},
    {.name = "permissions", .kind = KEY_PROTECTS, .instead = INSTEAD_ACCOUNTS},
    {.name = "auth_callout", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "auth_hook", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "proxy_required", .kind = KEY_PROTECTS, .off_allowed = true, .instead = INSTEAD_TLS},
    {.name = NULL, .kind = KEY_UNSERVED},
};
/* clang-format on */

static void apply_entries(struct midge_config_load *load, const struct midge_conf_map *map,
                          const struct config_key *keys);

/* The last block counts as a whole. */
static void apply_authorization(struct midge_config_load *load,
                                const struct midge_conf_entry *entry)
{
    struct midge_config *config = load->config;

    if (!want_kind(load, entry, MIDGE_CONF_MAP))
        return;
    midge_config_set_text(load, &config->user, "", false);
    midge_config_set_text(load, &config->pass, "", false);
    midge_config_set_text(load, &config->token, "", false);
    config->auth_timeout_ms = MIDGE_AUTH_TIMEOUT_MS_DEFAULT;
    apply_entries(load, entry->value.map, auth_keys);
    if ((config->user != NULL || config->pass != NULL) && config->token != NULL)
        midge_config_error(load, &entry->place,
                           "authorization holds both a user or password and a token: keep one");
}

/* clang-format off */
static const struct config_key top_keys[] = {
    {.name = "listen", .kind = KEY_CALL, .apply_cb = apply_listen},
    {.name = "host", .kind = KEY_TEXT, .offset = FIELD(host)},
    {.name = "net", .kind = KEY_TEXT, .offset = FIELD(host)},
    {.name = "port", .kind = KEY_CALL, .apply_cb = apply_port},
    {.name = "unix", .kind = KEY_CALL, .apply_cb = apply_unix},
    {.name = "unix_mode", .kind = KEY_CALL, .apply_cb = apply_unix_mode},
    {.name = "client_advertise", .kind = KEY_TEXT, .offset = FIELD(client_advertise)},
    {.name = "server_name", .kind = KEY_CALL, .apply_cb = apply_server_name},
    {.name = "server_tags", .kind = KEY_CALL, .apply_cb = apply_server_tags},
    {.name = "server_metadata", .kind = KEY_CALL, .apply_cb = apply_server_metadata},
    {.name = "authorization", .kind = KEY_CALL, .apply_cb = apply_authorization},

    {.name = "max_connections", .kind = KEY_CALL, .apply_cb = apply_connections_max},
    {.name = "max_conn", .kind = KEY_CALL, .apply_cb = apply_connections_max},
    {.name = "max_subscriptions", .kind = KEY_CALL, .apply_cb = apply_subs_max},
    {.name = "max_subs", .kind = KEY_CALL, .apply_cb = apply_subs_max},
    {.name = "max_sub_tokens", .kind = KEY_CALL, .apply_cb = apply_sub_tokens_max},
    {.name = "max_subscription_tokens", .kind = KEY_CALL, .apply_cb = apply_sub_tokens_max},
    {.name = "max_control_line", .kind = KEY_CALL, .apply_cb = apply_control_line},
    {.name = "max_payload", .kind = KEY_CALL, .apply_cb = apply_payload_max},
    {.name = "max_pending", .kind = KEY_CALL, .apply_cb = apply_pending_max},
    {.name = "max_memory", .kind = KEY_CALL, .apply_cb = apply_memory_max},
    {.name = "max_closed_clients", .kind = KEY_MOOT_INTEGER},
    {.name = "ping_interval", .kind = KEY_CALL, .apply_cb = apply_ping_interval},
    {.name = "ping_max", .kind = KEY_CALL, .apply_cb = apply_ping_max},
    {.name = "write_deadline", .kind = KEY_CALL, .apply_cb = apply_write_deadline},
    {.name = "write_timeout", .kind = KEY_CALL, .apply_cb = apply_write_timeout},
    {.name = "no_fast_producer_stall", .kind = KEY_BOOL, .offset = FIELD(no_fast_producer_stall)},
    {.name = "no_header_support", .kind = KEY_BOOL, .offset = FIELD(no_header_support)},
    {.name = "disable_sublist_cache", .kind = KEY_MOOT_BOOL},
    {.name = "no_sublist_cache", .kind = KEY_MOOT_BOOL},

    {.name = "debug", .kind = KEY_BOOL, .offset = FIELD(debug)},
    {.name = "trace", .kind = KEY_BOOL, .offset = FIELD(trace)},
    {.name = "trace_verbose", .kind = KEY_CALL, .apply_cb = apply_trace_verbose},
    {.name = "logtime", .kind = KEY_BOOL, .offset = FIELD(log_time)},
    {.name = "logtime_utc", .kind = KEY_BOOL, .offset = FIELD(log_time_utc)},
    {.name = "log_file", .kind = KEY_TEXT, .offset = FIELD(log_file)},
    {.name = "logfile", .kind = KEY_TEXT, .offset = FIELD(log_file)},
    {.name = "logfile_size_limit", .kind = KEY_CALL, .apply_cb = apply_log_size},
    {.name = "log_size_limit", .kind = KEY_CALL, .apply_cb = apply_log_size},
    {.name = "logfile_max_num", .kind = KEY_CALL, .apply_cb = apply_log_files},
    {.name = "log_max_num", .kind = KEY_CALL, .apply_cb = apply_log_files},
    {.name = "max_traced_msg_len", .kind = KEY_CALL, .apply_cb = apply_traced_len},
    {.name = "pid_file", .kind = KEY_TEXT, .offset = FIELD(pid_file)},
    {.name = "pidfile", .kind = KEY_TEXT, .offset = FIELD(pid_file)},
    {.name = "ports_file_dir", .kind = KEY_TEXT, .offset = FIELD(ports_file_dir)},

    {.name = "threads", .kind = KEY_CALL, .apply_cb = apply_threads},
    {.name = "pin", .kind = KEY_BOOL, .offset = FIELD(pin)},
    {.name = "spin_us", .kind = KEY_CALL, .apply_cb = apply_spin},
    {.name = "io", .kind = KEY_CALL, .apply_cb = apply_io},

    /* About routes, which we do not have. */
    {.name = "connect_error_reports", .kind = KEY_MOOT_INTEGER},
    {.name = "reconnect_error_reports", .kind = KEY_MOOT_INTEGER},
    /* Says that a TLS port also takes plain text. */
    {.name = "allow_non_tls", .kind = KEY_MOOT_BOOL},
    /* Where JetStream would store; test suites pass it always. */
    {.name = "store_dir", .kind = KEY_MOOT_TEXT},
    {.name = "storedir", .kind = KEY_MOOT_TEXT},
    {.name = "no_system_account", .kind = KEY_CALL, .apply_cb = apply_no_system_account},
    {.name = "no_system", .kind = KEY_CALL, .apply_cb = apply_no_system_account},
    {.name = "no_sys_acc", .kind = KEY_CALL, .apply_cb = apply_no_system_account},

    {.name = "accounts", .kind = KEY_PROTECTS, .instead = INSTEAD_ACCOUNTS},
    {.name = "account_resolver", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "accounts_resolver", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "cluster", .kind = KEY_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "default_js_domain", .kind = KEY_UNSERVED, .instead = INSTEAD_JETSTREAM},
    {.name = "default_sentinel", .kind = KEY_UNSERVED, .instead = INSTEAD_USERS},
    {.name = "feature_flags", .kind = KEY_UNSERVED, .instead = INSTEAD_LEAVE},
    {.name = "gateway", .kind = KEY_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "http", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_MONITOR},
    {.name = "http_base_path", .kind = KEY_UNSERVED, .instead = INSTEAD_MONITOR},
    {.name = "http_port", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_MONITOR},
    {.name = "https", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_MONITOR},
    {.name = "https_port", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_MONITOR},
    {.name = "jetstream", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_JETSTREAM},
    {.name = "lame_duck_duration", .kind = KEY_UNSERVED, .instead = INSTEAD_LAME_DUCK},
    {.name = "lame_duck_grace_period", .kind = KEY_UNSERVED, .instead = INSTEAD_LAME_DUCK},
    {.name = "leaf", .kind = KEY_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "leafnodes", .kind = KEY_UNSERVED, .instead = INSTEAD_CLUSTER},
    {.name = "mappings", .kind = KEY_UNSERVED, .instead = "publish to the subject it maps to"},
    {.name = "maps", .kind = KEY_UNSERVED, .instead = "publish to the subject it maps to"},
    {.name = "monitor_port", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_MONITOR},
    {.name = "mqtt", .kind = KEY_UNSERVED, .instead = INSTEAD_NATS},
    {.name = "no_auth_user", .kind = KEY_UNSERVED, .instead = INSTEAD_USERS},
    {.name = "ocsp", .kind = KEY_PROTECTS, .off_allowed = true, .instead = INSTEAD_TLS},
    {.name = "ocsp_cache", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_TLS},
    {.name = "operator", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "operators", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "prof_block_rate", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_PERF},
    {.name = "prof_port", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_PERF},
    {.name = "proxies", .kind = KEY_PROTECTS, .instead = INSTEAD_TLS},
    {.name = "proxy_protocol", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_LEAVE},
    {.name = "remote_syslog", .kind = KEY_UNSERVED, .instead = INSTEAD_SYSLOG},
    {.name = "resolver", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "resolver_pinned_accounts", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "resolver_preload", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "resolver_tls", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "root", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "root_operator", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "root_operators", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "roots", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "syslog", .kind = KEY_UNSERVED, .off_allowed = true, .instead = INSTEAD_SYSLOG},
    {.name = "system", .kind = KEY_UNSERVED, .instead = INSTEAD_MONITOR},
    {.name = "system_account", .kind = KEY_UNSERVED, .instead = INSTEAD_MONITOR},
    {.name = "tls", .kind = KEY_PROTECTS, .instead = INSTEAD_TLS},
    {.name = "trace_headers", .kind = KEY_UNSERVED, .off_allowed = true, .instead = "use trace"},
    {.name = "trusted", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "trusted_keys", .kind = KEY_PROTECTS, .instead = INSTEAD_USERS},
    {.name = "websocket", .kind = KEY_UNSERVED, .instead = INSTEAD_NATS},
    {.name = "ws", .kind = KEY_UNSERVED, .instead = INSTEAD_NATS},
    {.name = NULL, .kind = KEY_UNSERVED},
};
/* clang-format on */

static const struct config_key *find_key(const struct config_key *keys, const char *name)
{
    for (; keys->name != NULL; keys++) {
        if (strcasecmp(keys->name, name) == 0)
            return keys;
    }
    return NULL;
}

static bool is_off(const struct midge_conf_value *value)
{
    return (value->kind == MIDGE_CONF_BOOL && !value->boolean) ||
           (value->kind == MIDGE_CONF_INTEGER && value->integer == 0);
}

static void apply_key(struct midge_config_load *load, const struct config_key *key,
                      const struct midge_conf_entry *entry)
{
    void *field = (char *)load->config + key->offset;
    const char *text;

    switch (key->kind) {
    case KEY_UNSERVED:
    case KEY_PROTECTS:
        if (!key->off_allowed || !is_off(&entry->value))
            midge_config_unserved(load, &entry->place, key_text(entry), key->instead,
                                  key->kind == KEY_PROTECTS);
        break;
    case KEY_BOOL:
        if (want_kind(load, entry, MIDGE_CONF_BOOL))
            *(bool *)field = entry->value.boolean;
        break;
    case KEY_TEXT:
        if (want_text(load, entry, &text))
            midge_config_set_text(load, field, text, false);
        break;
    case KEY_CALL:
        key->apply_cb(load, entry);
        break;
    case KEY_MOOT_BOOL:
        (void)want_kind(load, entry, MIDGE_CONF_BOOL);
        break;
    case KEY_MOOT_INTEGER:
        (void)want_kind(load, entry, MIDGE_CONF_INTEGER);
        break;
    case KEY_MOOT_TEXT:
        (void)want_kind(load, entry, MIDGE_CONF_STRING);
        break;
    }
}

static void apply_entries(struct midge_config_load *load, const struct midge_conf_map *map,
                          const struct config_key *keys)
{
    for (uint32_t i = 0; i < map->count && load->error_count < ERRORS_MAX; i++) {
        const struct midge_conf_entry *entry = &map->entries[i];
        const struct config_key *key;

        if (entry->shadowed)
            continue;
        key = find_key(keys, key_text(entry));
        if (key != NULL)
            apply_key(load, key, entry);
        else if (!entry->used)
            midge_config_error(load, &entry->place, "unknown field \"%s\"", key_text(entry));
    }
}

void midge_config_read_file(struct midge_config_load *load)
{
    struct midge_conf conf;

    midge_conf_init(&conf);
    if (midge_conf_load_file(&conf, load->config->config_file) != MIDGE_OK) {
        midge_config_error(load, NULL, "%s", conf.error);
    } else {
        if (conf.root.count == 0)
            midge_config_warn(load, NULL, "%s: config has no values or is empty",
                              load->config->config_file);
        apply_entries(load, &conf.root, top_keys);
    }
    midge_conf_deinit(&conf);
}
