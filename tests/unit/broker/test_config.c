/*
 * Options from file and argv. Method: a file text and flags in, one field or one message out; the
 * table of keys is also held against the list of what nats-server v2.15.2 knows.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "midge/ring.h"

#define ARGS_MAX 16

struct run {
    struct midge_config config;
    enum midge_status status;
    char *out;
    char *err;
};

/* clang-format off */
/* Source: nats-server v2.15.2, server/opts.go:1149-1950. */
static const char *const keys[] = {
    "listen", "client_advertise", "port", "server_name", "host", "net", "debug", "trace",
    "trace_verbose", "trace_headers", "logtime", "logtime_utc", "mappings", "maps",
    "disable_sublist_cache", "no_sublist_cache", "accounts", "default_sentinel", "authorization",
    "http", "https", "http_port", "monitor_port", "https_port", "http_base_path", "cluster",
    "gateway", "leaf", "leafnodes", "store_dir", "storedir", "jetstream", "logfile", "log_file",
    "logfile_size_limit", "log_size_limit", "logfile_max_num", "log_max_num", "syslog",
    "remote_syslog", "pidfile", "pid_file", "ports_file_dir", "prof_port", "prof_block_rate",
    "max_control_line", "max_payload", "max_pending", "proxy_protocol", "max_connections",
    "max_conn", "max_traced_msg_len", "max_subscriptions", "max_subs", "max_sub_tokens",
    "max_subscription_tokens", "ping_interval", "ping_max", "tls", "ocsp", "allow_non_tls",
    "write_deadline", "write_timeout", "lame_duck_duration", "lame_duck_grace_period", "operator",
    "operators", "roots", "root", "root_operators", "root_operator", "resolver", "account_resolver",
    "accounts_resolver", "resolver_tls", "resolver_preload", "resolver_pinned_accounts",
    "no_auth_user", "system_account", "system", "no_system_account", "no_system", "no_sys_acc",
    "no_header_support", "trusted", "trusted_keys", "connect_error_reports",
    "reconnect_error_reports", "websocket", "ws", "mqtt", "server_tags", "server_metadata",
    "feature_flags", "default_js_domain", "ocsp_cache", "no_fast_producer_stall",
    "max_closed_clients", "proxies",
};

/* Source: nats-server v2.15.2, server/opts.go:4636-4690. */
static const char *const auth_keys[] = {
    "user", "username", "pass", "password", "token", "timeout", "users", "default_permission",
    "default_permissions", "permissions", "auth_callout", "auth_hook", "proxy_required",
};

/* Source: nats-server v2.15.2, server/opts.go:6190-6260. */
static const char *const flags[] = {
    "h", "help", "port", "p", "n", "name", "server_name", "addr", "a", "net", "client_advertise",
    "D", "debug", "V", "VV", "trace", "DV", "DVV", "T", "logtime", "logtime_utc", "user", "pass",
    "auth", "m", "http_port", "ms", "https_port", "c", "config", "t", "sl", "signal", "P", "pid",
    "ports_file_dir", "l", "log", "log_size_limit", "s", "syslog", "r", "remote_syslog", "version",
    "v", "profile", "routes", "cluster", "cluster_listen", "cluster_advertise", "no_advertise",
    "connect_retries", "cluster_name", "help_tls", "tls", "tlsverify", "tlscert", "tlskey",
    "tlscacert", "max_traced_msg_len", "js", "jetstream", "sd", "store_dir",
};
/* clang-format on */

static char path[64];

static void make_path(void)
{
    (void)snprintf(path, sizeof(path), "/tmp/test_config.XXXXXX");
    const int fd = mkstemp(path);
    cr_assert(fd >= 0);
    (void)close(fd);
}

static void remove_path(void)
{
    (void)unlink(path);
}

/* text: of the file that -c names, NULL = no file; then flags up to NULL. */
static struct run load(const char *text, ...)
{
    struct run run = {.status = MIDGE_OK};
    char *args[ARGS_MAX + 1] = {strdup("midge-server")};
    int count = 1;
    size_t len;
    va_list list;

    if (text != NULL) {
        FILE *file = fopen(path, "we");
        cr_assert(file != NULL);
        (void)fputs(text, file);
        (void)fclose(file);
        args[count++] = strdup("-c");
        args[count++] = strdup(path);
    }
    va_start(list, text);
    for (const char *arg = va_arg(list, const char *); arg != NULL;
         arg = va_arg(list, const char *)) {
        cr_assert(count < ARGS_MAX);
        args[count++] = strdup(arg);
    }
    va_end(list);
    FILE *out = open_memstream(&run.out, &len);
    FILE *err = open_memstream(&run.err, &len);
    cr_assert(out != NULL && err != NULL);
    midge_config_init(&run.config);
    run.status = midge_config_load(&run.config, count, args, out, err);
    (void)fclose(out);
    (void)fclose(err);
    for (int i = 0; i < count; i++)
        free(args[i]);
    return run;
}

static void end(struct run *run)
{
    midge_config_deinit(&run->config);
    free(run->out);
    free(run->err);
}

/* The file is refused, and the message holds part. */
static void expect_refused(const char *text, const char *part)
{
    struct run run = load(text, NULL);

    cr_expect_eq(run.status, MIDGE_E_CONFIG, "%s is taken", text);
    cr_expect(strstr(run.err, part) != NULL, "%s: %s does not say %s", text, run.err, part);
    end(&run);
}

/* field of the config after the file and one flag with a value */
#define EXPECT(text, flag, value, field, expected)                                                 \
    do {                                                                                           \
        struct run run_ = load(text, flag, value, NULL);                                           \
        cr_expect_eq(run_.status, MIDGE_OK, "%s", run_.err);                                       \
        cr_expect_eq(run_.config.field, expected, "%s is %lld", #field,                            \
                     (long long)run_.config.field);                                                \
        end(&run_);                                                                                \
    } while (0)

#define EXPECT_TEXT(text, flag, value, field, expected)                                            \
    do {                                                                                           \
        struct run run_ = load(text, flag, value, NULL);                                           \
        cr_expect_eq(run_.status, MIDGE_OK, "%s", run_.err);                                       \
        cr_expect(run_.config.field != NULL && strcmp(run_.config.field, expected) == 0,           \
                  "%s is %s", #field, run_.config.field);                                          \
        end(&run_);                                                                                \
    } while (0)

TestSuite(config, .init = make_path, .fini = remove_path);

Test(config, defaults_are_those_of_nats_server_but_for_the_host)
{
    struct run run = load(NULL, NULL);

    cr_expect_eq(run.status, MIDGE_OK);
    cr_expect(run.config.host == NULL);
    cr_expect_eq(run.config.port, 4222);
    cr_expect_eq(run.config.connections_max, 65536u);
    cr_expect_eq(run.config.subs_max, 0u);
    cr_expect_eq(run.config.control_line_len_max, 4096u);
    cr_expect_eq(run.config.payload_len_max, 1048576u);
    cr_expect_eq(run.config.pending_bytes_max, 67108864u);
    cr_expect_eq(run.config.ping_interval_ms, 120000u);
    cr_expect_eq(run.config.ping_max, 2u);
    cr_expect_eq(run.config.write_deadline_ms, 10000u);
    cr_expect_eq(run.config.auth_timeout_ms, 2000u);
    cr_expect(run.config.log_time);
    cr_expect_eq(run.config.spin_us, MIDGE_SPIN_AUTO);
    cr_expect_eq(run.config.threads, MIDGE_THREADS_AUTO);
    cr_expect_not(run.config.pin);
    cr_expect_eq(run.config.unix_mode, 0700u);
    cr_expect_eq(run.config.action, MIDGE_CONFIG_SERVE);
    cr_expect_not(midge_config_auth_required(&run.config));
    cr_expect_str_eq(run.err, "");
    end(&run);
}

Test(config, listen_sets_host_and_port)
{
    EXPECT("listen: 4333", NULL, NULL, port, 4333);
    EXPECT("listen: \"localhost:4333\"", NULL, NULL, port, 4333);
    EXPECT_TEXT("listen: localhost:4333", NULL, NULL, host, "localhost");
    EXPECT_TEXT("listen: \"[::1]:-1\"", NULL, NULL, host, "::1");
    EXPECT("listen: \"[::1]:-1\"", NULL, NULL, port, -1);
    EXPECT("host: a, listen: \":77\"", NULL, NULL, host, (char *)NULL);
    expect_refused("listen: \"4222\"", "host:port");
    expect_refused("listen: \"::1:4222\"", "host:port");
    expect_refused("listen: \"a:b\"", "host:port");
    expect_refused("listen: [a]", "string");
}

Test(config, ports_have_a_range)
{
    EXPECT("port: -1", NULL, NULL, port, -1);
    EXPECT("port: 0", NULL, NULL, port, 4222);
    EXPECT("port: 1", "-p", "-1", port, -1);
    EXPECT("port: 1", "-p", "0x10", port, 16);
    expect_refused("port: 65536", "65535");
    expect_refused("port: -2", "65535");
    expect_refused("port: \"1\"", ":1:7: \"port\" must be an integer, not a string");
}

Test(config, keys_match_in_any_case_and_have_aliases)
{
    EXPECT("MAX_Payload: 5", NULL, NULL, payload_len_max, 5u);
    EXPECT("max_conn: 5", NULL, NULL, connections_max, 5u);
    EXPECT("max_subs: 5", NULL, NULL, subs_max, 5u);
    EXPECT_TEXT("net: h", NULL, NULL, host, "h");
    EXPECT_TEXT("logfile: l", NULL, NULL, log_file, "l");
    EXPECT_TEXT("pidfile: p", NULL, NULL, pid_file, "p");
    EXPECT_TEXT("authorization { username: u, password: p }", NULL, NULL, user, "u");
}

Test(config, limits_read_zero_and_less_as_nats_server_does)
{
    EXPECT("max_payload: 0", NULL, NULL, payload_len_max, MIDGE_PAYLOAD_DEFAULT);
    EXPECT("max_payload: -1", NULL, NULL, payload_len_max, MIDGE_PAYLOAD_MAX);
    EXPECT("max_connections: 0", NULL, NULL, connections_max, 0u);
    EXPECT("max_connections: -1", NULL, NULL, connections_max, 0u);
    EXPECT("max_subscriptions: -1", NULL, NULL, subs_max, 0u);
    EXPECT("max_pending: 0", NULL, NULL, pending_bytes_max, MIDGE_PENDING_DEFAULT);
    EXPECT("max_control_line: 0", NULL, NULL, control_line_len_max, MIDGE_CONTROL_LINE_DEFAULT);
    EXPECT("ping_max: 0", NULL, NULL, ping_max, MIDGE_PING_MAX_DEFAULT);
    EXPECT("max_traced_msg_len: -1", NULL, NULL, traced_msg_len_max, 0u);
    EXPECT("log_size_limit: -1", NULL, NULL, log_size_limit, 0u);
    EXPECT("max_sub_tokens: 255", NULL, NULL, sub_tokens_max, 255u);
    expect_refused("max_sub_tokens: 0", "at least 1");
    expect_refused("max_sub_tokens: 256", "at most 255");
    expect_refused("max_payload: 2gb", "at most");
    expect_refused("max_payload: -2", "at least");
    expect_refused("max_pending: -1", "at least");
}

Test(config, values_over_our_ceilings_are_lowered)
{
    EXPECT("max_connections: 1g", NULL, NULL, connections_max, MIDGE_CONNECTIONS_MAX);
    EXPECT("max_pending: 4tb", NULL, NULL, pending_bytes_max, MIDGE_PENDING_MAX);
    EXPECT("max_control_line: 2147483647", NULL, NULL, control_line_len_max,
           MIDGE_CONTROL_LINE_MAX);
    EXPECT("max_payload: 2147483647, max_pending: 4g", NULL, NULL, payload_len_max,
           MIDGE_PAYLOAD_MAX);
}

Test(config, payload_over_pending_is_refused_at_start_alone)
{
    struct run run = load("max_payload: 100mb", "-t", NULL);

    cr_expect_eq(run.status, MIDGE_OK, "%s", run.err);
    end(&run);
    expect_refused("max_payload: 100mb",
                   "max_payload (104857600) cannot be higher than max_pending (67108864)");
    EXPECT("max_payload: -1, max_pending: 10", NULL, NULL, pending_bytes_max, 10u);
}

Test(config, durations_are_go_strings)
{
    EXPECT("ping_interval: \"1m30s\"", NULL, NULL, ping_interval_ms, 90000u);
    EXPECT("ping_interval: 1h", NULL, NULL, ping_interval_ms, 3600000u);
    EXPECT("write_deadline: \"1.5s\"", NULL, NULL, write_deadline_ms, 1500u);
    EXPECT("write_deadline: \"100us\"", NULL, NULL, write_deadline_ms, 1u);
    EXPECT("write_deadline: \"1\xc2\xb5s\"", NULL, NULL, write_deadline_ms, 1u);
    EXPECT("write_deadline: \"0\"", NULL, NULL, write_deadline_ms, MIDGE_WRITE_DEADLINE_MS_DEFAULT);
    EXPECT("write_deadline: \"+.5s\"", NULL, NULL, write_deadline_ms, 500u);
    expect_refused("ping_interval: \"5\"", "unit");
    expect_refused("ping_interval: \"5x\"", "unit");
    expect_refused("ping_interval: \"\"", "duration");
    expect_refused("ping_interval: \"s\"", "duration");
    expect_refused("ping_interval: \"9999999h\"", "too long");
    expect_refused("ping_interval: \"-5s\"", "negative");
    expect_refused("ping_interval: true", "string");
    expect_refused("ping_interval: 1.5", "string");
}

Test(config, bare_integer_is_seconds_with_a_warning_that_fails_the_test)
{
    struct run run = load("ping_interval: 5", NULL);

    cr_expect_eq(run.status, MIDGE_OK);
    cr_expect_eq(run.config.ping_interval_ms, 5000u);
    cr_expect(strstr(run.err, ":1:16: warning: \"ping_interval\" is read as 5 seconds") != NULL,
              "%s", run.err);
    end(&run);
    run = load("ping_interval: 5", "-t", NULL);
    cr_expect_eq(run.status, MIDGE_E_CONFIG);
    cr_expect(strstr(run.err, "is valid") == NULL, "%s", run.err);
    end(&run);
}

Test(config, authorization_timeout_is_a_number_or_a_duration)
{
    EXPECT("authorization { timeout: 3 }", NULL, NULL, auth_timeout_ms, 3000u);
    EXPECT("authorization { timeout: 0.0001 }", NULL, NULL, auth_timeout_ms, 1u);
    EXPECT("authorization { timeout: 1.5 }", NULL, NULL, auth_timeout_ms, 1500u);
    EXPECT("authorization { timeout: \"250ms\" }", NULL, NULL, auth_timeout_ms, 250u);
    EXPECT("authorization { timeout: 0 }", NULL, NULL, auth_timeout_ms, 2000u);
    expect_refused("authorization { timeout: -1 }", "negative");
    expect_refused("authorization { timeout: 9e }", "too long");
    expect_refused("authorization { timeout: [] }", "string");
}

Test(config, credentials_that_contradict_each_other_are_refused)
{
    expect_refused("authorization { user: a, pass: b, token: c }",
                   ":1:1: authorization holds both");
    expect_refused("authorization { pass: b, token: c }", "authorization holds both");
    expect_refused("authorization { pass: b }", "without a user");
    expect_refused("authorization { user: a }", "without a password");
    expect_refused("authorization { users: [{user: a, password: b}] }", ":1:17: ");
    expect_refused("authorization: x", "map");
    struct run run = load("authorization { user: a, pass: b }", "--auth", "t", NULL);
    cr_expect_eq(run.status, MIDGE_E_CONFIG);
    cr_expect(strstr(run.err, "both a user") != NULL, "%s", run.err);
    end(&run);
}

Test(config, last_authorization_block_counts_as_a_whole)
{
    struct run run =
        load("authorization { token: t }\nAUTHORIZATION { user: a, pass: \"\" }", NULL);

    cr_expect_eq(run.status, MIDGE_OK, "%s", run.err);
    cr_expect(run.config.token == NULL);
    cr_expect_str_eq(run.config.user, "a");
    cr_expect_str_eq(run.config.pass, "");
    cr_expect(midge_config_auth_required(&run.config));
    end(&run);
}

Test(config, bcrypt_hash_is_never_taken_for_a_password)
{
    static const char *const hashes[] = {"$2a$11$abcdef", "$2b$04$x", "$2x$10$", "$2y$10$q"};
    char text[128];

    for (size_t i = 0; i < sizeof(hashes) / sizeof(hashes[0]); i++) {
        (void)snprintf(text, sizeof(text), "authorization { user: a, pass: '%s' }", hashes[i]);
        expect_refused(text, "bcrypt");
        (void)snprintf(text, sizeof(text), "authorization { token: '%s' }", hashes[i]);
        expect_refused(text, "bcrypt");
    }
    struct run run = load(NULL, "--user", "a", "--pass", "$2a$11$abcdef", NULL);
    cr_expect_eq(run.status, MIDGE_E_CONFIG);
    end(&run);
    run = load("authorization { user: a, pass: $2a$11$abcdef }", "-t", NULL);
    cr_expect_eq(run.status, MIDGE_E_CONFIG);
    end(&run);
    EXPECT_TEXT("authorization { user: a, pass: '$2z$11$abc' }", NULL, NULL, pass, "$2z$11$abc");
}

Test(config, secrets_are_in_no_message)
{
    static const char *const texts[] = {
        "authorization { user: hush, token: hush, pass: hush }",
        "authorization { user: a, pass: $2a$11$hush }",
        "authorization { user: a, pass: $hush }",
        "authorization { user: a, pass: hush hush }",
        "authorization { user: a, pass: \"hush\\q\" }",
        "authorization { user: a, pass: [hush] }",
        "authorization { user: a, pass: hush'h }",
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct run run = load(texts[i], NULL);
        cr_expect_eq(run.status, MIDGE_E_CONFIG, "%s", texts[i]);
        cr_expect(strstr(run.err, "hush") == NULL, "%s", run.err);
        end(&run);
    }
    struct run run = load(NULL, "--pass=hush", "--auth=hush", NULL);
    cr_expect_eq(run.status, MIDGE_E_CONFIG);
    cr_expect(strstr(run.err, "hush") == NULL, "%s", run.err);
    end(&run);
}

Test(config, unknown_field_is_an_error_with_its_place)
{
    char expected[256];

    expect_refused("port: 1\n  bogus: 2", ":2:3: unknown field \"bogus\"");
    expect_refused("authorization {\n x: 2 }", ":2:2: unknown field \"x\"");
    expect_refused("X: { a: 1 }\nport: 1", "unknown field \"X\"");
    struct run run = load("a: 1\nb: 2\nport: 3", NULL);
    (void)snprintf(expected, sizeof(expected),
                   "midge-server: %s:1:1: unknown field \"a\"\nmidge-server: %s:2:1: unknown field "
                   "\"b\"\n",
                   path, path);
    cr_expect_str_eq(run.err, expected);
    end(&run);
}

Test(config, unknown_field_that_a_variable_names_is_none)
{
    EXPECT("X: 55\nport: $X", NULL, NULL, port, 55);
    EXPECT_TEXT("authorization { P: q, user: u, pass: $P }", NULL, NULL, pass, "q");
}

Test(config, every_key_of_nats_server_is_known)
{
    char text[128];

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        (void)snprintf(text, sizeof(text), "%s: 2000-01-01T00:00:00Z", keys[i]);
        struct run run = load(text, NULL);
        cr_expect_eq(run.status, MIDGE_E_CONFIG, "%s takes a date", keys[i]);
        cr_expect(strstr(run.err, "unknown field") == NULL, "%s", run.err);
        cr_expect(strstr(run.err, keys[i]) != NULL, "%s", run.err);
        end(&run);
    }
    for (size_t i = 0; i < sizeof(auth_keys) / sizeof(auth_keys[0]); i++) {
        (void)snprintf(text, sizeof(text), "authorization { %s: [] }", auth_keys[i]);
        struct run run = load(text, NULL);
        cr_expect_eq(run.status, MIDGE_E_CONFIG, "%s takes an array", auth_keys[i]);
        cr_expect(strstr(run.err, "unknown field") == NULL, "%s", run.err);
        cr_expect(strstr(run.err, auth_keys[i]) != NULL, "%s", run.err);
        end(&run);
    }
}

Test(config, unserved_key_is_refused_by_name_with_a_remedy)
{
    expect_refused("port: 1\ntls { cert_file: x }",
                   ":2:1: midge-server does not serve \"tls\": put a TLS proxy");
    expect_refused("accounts { A { users: [] } }", "run one midge-server for each account");
    expect_refused("write_timeout: retry", "write default or close");
    expect_refused("no_system_account: false", "does not serve");
}

Test(config, unserved_key_that_is_off_is_taken)
{
    EXPECT("jetstream: false, http_port: 0, syslog: no, proxy_protocol: false, port: 5", NULL, NULL,
           port, 5);
    EXPECT("authorization { proxy_required: false, token: t }, port: 5", NULL, NULL, port, 5);
    EXPECT("no_system_account: true, write_timeout: close, port: 5", NULL, NULL, port, 5);
}

Test(config, key_without_effect_here_is_checked_and_taken)
{
    EXPECT("server_tags: [a, 'b'], server_metadata { k: v }, store_dir: /x, port: 5", NULL, NULL,
           port, 5);
    EXPECT("allow_non_tls: true, connect_error_reports: 5, max_closed_clients: 9, port: 5", NULL,
           NULL, port, 5);
    expect_refused("server_tags: [1]", "strings");
    expect_refused("server_metadata { k: 1 }", "string");
    expect_refused("disable_sublist_cache: 1", "bool");
}

Test(config, ignore_unsupported_turns_refusals_into_warnings)
{
    struct run run = load("tls {}\nport: 5\naccounts {}", "--ignore-unsupported", NULL);

    cr_expect_eq(run.status, MIDGE_OK, "%s", run.err);
    cr_expect_eq(run.config.port, 5);
    cr_expect(strstr(run.err, ":1:1: warning: ignored \"tls\"") != NULL, "%s", run.err);
    cr_expect(strstr(run.err, "CLIENTS ARE NOT RESTRICTED") != NULL, "%s", run.err);
    end(&run);
    run = load("jetstream {}", "--ignore-unsupported", "-t", NULL);
    cr_expect_eq(run.status, MIDGE_OK, "%s", run.err);
    end(&run);
    run = load("bogus: 1", "--ignore-unsupported", NULL);
    cr_expect_eq(run.status, MIDGE_E_CONFIG);
    end(&run);
}

Test(config, flags_win_over_the_file)
{
    EXPECT("port: 1, listen: \"h:2\"", "-p", "3", port, 3);
    EXPECT_TEXT("listen: \"h:2\"", "--addr", "i", host, "i");
    EXPECT_TEXT("server_name: a", "-n", "b", server_name, "b");
    EXPECT("debug: true", "-D=false", NULL, debug, false);
    EXPECT("logtime: false", "-T", NULL, log_time, true);
    EXPECT("logtime: false", NULL, NULL, log_time, false);
    EXPECT("threads: auto, spin_us: 5", "--spin-us", "auto", spin_us, MIDGE_SPIN_AUTO);
}

Test(config, flags_have_one_dash_or_two_and_values_behind_equals)
{
    EXPECT(NULL, "--p=7", NULL, port, 7);
    EXPECT(NULL, "-port", "7", port, 7);
    EXPECT_TEXT(NULL, "--unix_mode=0600", "--unix=/x", unix_path, "/x");
    EXPECT(NULL, "--unix-mode", "0660", unix_mode, 0660u);
    EXPECT_TEXT(NULL, "-client_advertise=h:1", NULL, client_advertise, "h:1");
    EXPECT(NULL, "--store_dir", "/x", port, 4222);
}

Test(config, debug_and_trace_flags_combine)
{
    static const struct {
        const char *flag;
        bool debug, trace, verbose;
    } cases[] = {
        {"-D", true, false, false},         {"-V", false, true, false},
        {"-DV", true, true, false},         {"-VV", false, true, true},
        {"-DVV", true, true, true},         {"--trace", false, true, false},
        {"-DV=false", false, false, false}, {"-D=T", true, false, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct run run = load(NULL, cases[i].flag, NULL);
        cr_expect_eq(run.status, MIDGE_OK, "%s", run.err);
        cr_expect_eq(run.config.debug, cases[i].debug, "%s", cases[i].flag);
        cr_expect_eq(run.config.trace, cases[i].trace, "%s", cases[i].flag);
        cr_expect_eq(run.config.trace_verbose, cases[i].verbose, "%s", cases[i].flag);
        end(&run);
    }
    EXPECT("trace_verbose: true", NULL, NULL, trace, true);
}

Test(config, bad_flags_are_errors)
{
    static const struct {
        const char *flag, *value, *part;
    } cases[] = {
        {"--bogus", NULL, "unknown flag --bogus"},
        {"---p", "1", "unknown flag"},
        {"-p", NULL, "needs a value"},
        {"-p", "x", "whole number"},
        {"-p", "1x", "whole number"},
        {"-p", "", "whole number"},
        {"-D", "false", "unexpected argument \"false\""},
        {"-D=maybe", NULL, "true or false"},
        {"--threads", "0", "between 1 and 256"},
        {"--threads", "257", "between 1 and 256"},
        {"--threads", "many", "whole number"},
        {"--io", "uring", "io_uring"},
        {"--spin-us", "-1", "microseconds"},
        {"--unix-mode", "rwx", "octal"},
        {"-n", "a b", "spaces"},
        {"-m", "8222", "monitoring"},
        {"--tls", NULL, "TLS proxy"},
        {"-js", NULL, "JetStream"},
        {"--cluster", "nats://h:1", "cluster"},
        {"-t", NULL, "must specify [-c, --config]"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct run run = load(NULL, cases[i].flag, cases[i].value, NULL);
        cr_expect_eq(run.status, MIDGE_E_CONFIG, "%s is taken", cases[i].flag);
        cr_expect(strstr(run.err, cases[i].part) != NULL, "%s", run.err);
        cr_expect(strchr(run.err, '\n') == strrchr(run.err, '\n'), "more than a line: %s", run.err);
        end(&run);
    }
}

Test(config, every_flag_of_nats_server_is_known)
{
    char flag[64];

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        (void)snprintf(flag, sizeof(flag), "-%s=1", flags[i]);
        struct run run = load(NULL, flag, NULL);
        cr_expect(strstr(run.err, "unknown flag") == NULL, "%s", run.err);
        end(&run);
    }
}

Test(config, ignored_flags_take_their_value_along)
{
    struct run run = load(NULL, "--ignore-unsupported", "-m", "8222", "--tls", "--tlscert", "x",
                          "-js", "-p", "9", NULL);

    cr_expect_eq(run.status, MIDGE_OK, "%s", run.err);
    cr_expect_eq(run.config.port, 9);
    end(&run);
}

Test(config, version_and_help_print_and_exit)
{
    static const char *const version[] = {"-v", "--version", "version", "VERSION"};
    static const char *const help[] = {"-h", "--help", "help"};

    for (size_t i = 0; i < sizeof(version) / sizeof(version[0]); i++) {
        struct run run = load(NULL, version[i], NULL);
        cr_expect_eq(run.status, MIDGE_OK);
        cr_expect_eq(run.config.action, MIDGE_CONFIG_EXIT);
        cr_expect_str_eq(run.out, "nats-server: v2.15.2\nmidge-server: v" MIDGE_VERSION "\n");
        cr_expect_str_eq(run.err, "");
        end(&run);
    }
    for (size_t i = 0; i < sizeof(help) / sizeof(help[0]); i++) {
        struct run run = load(NULL, help[i], NULL);
        cr_expect_eq(run.config.action, MIDGE_CONFIG_EXIT);
        cr_expect(strstr(run.out, "Usage: midge-server") != NULL);
        end(&run);
    }
}

Test(config, test_flag_reports_a_valid_file)
{
    struct run run = load("port: 5", "-t", NULL);
    char expected[256];

    (void)snprintf(expected, sizeof(expected), "midge-server: configuration file %s is valid\n",
                   path);
    cr_expect_eq(run.status, MIDGE_OK);
    cr_expect_eq(run.config.action, MIDGE_CONFIG_TEST);
    cr_expect_str_eq(run.err, expected);
    end(&run);
    run = load("", "-t", NULL);
    cr_expect_eq(run.status, MIDGE_E_CONFIG);
    cr_expect(strstr(run.err, "config has no values or is empty") != NULL, "%s", run.err);
    end(&run);
}

Test(config, our_own_options_are_read)
{
    EXPECT_TEXT("unix: /run/m.sock", NULL, NULL, unix_path, "/run/m.sock");
    EXPECT("unix_mode: 0660", NULL, NULL, unix_mode, 0660u);
    EXPECT("unix_mode: \"777\"", NULL, NULL, unix_mode, 0777u);
    EXPECT("io: epoll", NULL, NULL, io_kind, (uint32_t)MIDGE_RING_KIND_EPOLL);
    EXPECT(NULL, "--io=io_uring", NULL, io_kind, (uint32_t)MIDGE_RING_KIND_URING);
    EXPECT("max_memory: 1gb", NULL, NULL, memory_bytes_max, 1073741824u);
    EXPECT(NULL, "--max-memory", "1048576", memory_bytes_max, 1048576u);
    EXPECT("spin_us: 0", NULL, NULL, spin_us, 0u);
    EXPECT("threads: 3", NULL, NULL, threads, 3u);
    EXPECT("threads: 3", "--threads", "auto", threads, MIDGE_THREADS_AUTO);
    EXPECT("threads: auto", NULL, NULL, threads, MIDGE_THREADS_AUTO);
    EXPECT("pin: true", NULL, NULL, pin, true);
    EXPECT("pin: true", "--pin=false", NULL, pin, false);
    EXPECT(NULL, "--pin", NULL, pin, true);
    EXPECT(NULL, "--threads=256", NULL, threads, 256u);
    expect_refused("unix_mode: 0888", "octal");
    expect_refused("threads: 0", "between 1 and 256");
    expect_refused("unix: "
                   "/123456789012345678901234567890123456789012345678901234567890123456789012345678"
                   "90123456789012345678901234567890",
                   "at most 107 bytes");
    expect_refused("max_memory: -1", "bytes");
}

Test(config, number_of_messages_is_bounded)
{
    char text[2048] = "";
    size_t lines = 0;

    for (size_t i = 0; i < 100; i++)
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "bogus%zu: 1\n", i);
    struct run run = load(text, NULL);
    for (const char *at = run.err; *at != '\0'; at++)
        lines += *at == '\n';
    cr_expect_eq(lines, 20u);
    end(&run);
}

/* --- --signal --- */

static void expect_signal(const char *word, int number)
{
    struct run run = load(NULL, "--signal", word, NULL);

    cr_expect_eq(run.status, MIDGE_OK, "%s", run.err);
    cr_expect_eq(run.config.action, MIDGE_CONFIG_SIGNAL);
    cr_expect_eq(run.config.signal_number, number);
    end(&run);
}

Test(config, signal_words_are_those_of_nats_server)
{
    expect_signal("stop", SIGKILL);
    expect_signal("quit", SIGINT);
    expect_signal("term=5", SIGTERM);
    expect_signal("reopen=/a=b", SIGUSR1);
    expect_signal("reload", SIGHUP);
    expect_signal("ldm", SIGUSR2);
    struct run run = load(NULL, "-sl", "bogus", NULL);
    cr_expect_eq(run.status, MIDGE_E_CONFIG);
    cr_expect(strstr(run.err, "unknown signal \"bogus\"") != NULL, "%s", run.err);
    end(&run);
}

/* Ask --signal to send to target. @return its status */
static enum midge_status send_to(const char *word)
{
    struct run run = load(NULL, "--signal", word, NULL);
    char *text = NULL;
    size_t len;
    FILE *err = open_memstream(&text, &len);

    cr_assert(err != NULL);
    const enum midge_status status = midge_config_send_signal(&run.config, err);
    (void)fclose(err);
    cr_expect_eq(status == MIDGE_OK, text[0] == '\0', "%s", text);
    free(text);
    end(&run);
    return status;
}

/* A child that waits for a signal. */
static pid_t start_child(void)
{
    const pid_t pid = fork();

    cr_assert(pid >= 0);
    if (pid == 0) {
        (void)signal(SIGTERM, SIG_DFL);
        for (;;)
            (void)pause();
    }
    return pid;
}

static void expect_terminated(pid_t pid)
{
    int status;

    cr_expect_eq(waitpid(pid, &status, 0), pid);
    cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

Test(config, signal_goes_to_a_pid_or_a_pid_file)
{
    char word[128];
    pid_t pid = start_child();

    (void)snprintf(word, sizeof(word), "term=%ld", (long)pid);
    cr_expect_eq(send_to(word), MIDGE_OK);
    expect_terminated(pid);

    pid = start_child();
    FILE *file = fopen(path, "we");
    cr_assert(file != NULL);
    (void)fprintf(file, "%ld\n", (long)pid);
    (void)fclose(file);
    (void)snprintf(word, sizeof(word), "term=%s", path);
    cr_expect_eq(send_to(word), MIDGE_OK);
    expect_terminated(pid);
}

Test(config, signal_refuses_what_is_no_single_process)
{
    cr_expect_eq(send_to("term=0"), MIDGE_E_CONFIG);
    cr_expect_eq(send_to("term=-1"), MIDGE_E_CONFIG);
    cr_expect_eq(send_to("term=1x"), MIDGE_E_CONFIG);
    cr_expect_eq(send_to("term=99999999999"), MIDGE_E_CONFIG);
    cr_expect_eq(send_to("term=999999999"), MIDGE_E_CONFIG);
}
