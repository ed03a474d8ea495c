/*
 * From argv to a checked configuration: defaults, flags that come first, file, flags, checks.
 *
 * Source: nats-server v2.15.2, server/opts.go:6155-6500, server/server.go:1167, main.go:95-140.
 */
#include "config.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "config_internal.h"

/* The level of nats-server that we are compatible with; clients and test suites gate features on
 * it. */
#define NATS_SERVER_VERSION "2.15.2"

void midge_config_init(struct midge_config *config)
{
    *config = (struct midge_config){
        .port = (int32_t)MIDGE_PORT_DEFAULT,
        .unix_mode = 0700,
        .connections_max = MIDGE_CONNECTIONS_DEFAULT,
        .control_line_len_max = MIDGE_CONTROL_LINE_DEFAULT,
        .payload_len_max = MIDGE_PAYLOAD_DEFAULT,
        .pending_bytes_max = MIDGE_PENDING_DEFAULT,
        .ping_interval_ms = MIDGE_PING_INTERVAL_MS_DEFAULT,
        .ping_max = MIDGE_PING_MAX_DEFAULT,
        .write_deadline_ms = MIDGE_WRITE_DEADLINE_MS_DEFAULT,
        .auth_timeout_ms = MIDGE_AUTH_TIMEOUT_MS_DEFAULT,
        .log_time = true,
        .threads = MIDGE_THREADS_AUTO,
        .spin_us = MIDGE_SPIN_AUTO,
        .action = MIDGE_CONFIG_SERVE,
    };
}

void midge_config_deinit(struct midge_config *config)
{
    char **texts[] = {
        &config->host,        &config->unix_path, &config->client_advertise, &config->server_name,
        &config->config_file, &config->pid_file,  &config->ports_file_dir,   &config->user,
        &config->pass,        &config->token,     &config->log_file,         &config->signal_target,
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (*texts[i] != NULL)
            explicit_bzero(*texts[i], strlen(*texts[i]));
        free(*texts[i]);
        *texts[i] = NULL;
    }
}

bool midge_config_auth_required(const struct midge_config *config)
{
    return config->user != NULL || config->token != NULL;
}

static void report(struct midge_config_load *load, const char *word,
                   const struct midge_conf_place *place, const char *format, va_list args)
{
    (void)fputs("midge-server: ", load->err);
    if (place != NULL)
        (void)fprintf(load->err, "%s:%" PRIu32 ":%" PRIu32 ": ", place->file, place->line,
                      place->column);
    (void)fputs(word, load->err);
    (void)vfprintf(load->err, format, args);
    (void)fputc('\n', load->err);
}

void midge_config_error(struct midge_config_load *load, const struct midge_conf_place *place,
                        const char *format, ...)
{
    va_list args;

    load->error_count++;
    va_start(args, format);
    report(load, "", place, format, args);
    va_end(args);
}

void midge_config_warn(struct midge_config_load *load, const struct midge_conf_place *place,
                       const char *format, ...)
{
    va_list args;

    load->warning_count++;
    va_start(args, format);
    report(load, "warning: ", place, format, args);
    va_end(args);
}

void midge_config_unserved(struct midge_config_load *load, const struct midge_conf_place *place,
                           const char *name, const char *instead, bool protects)
{
    if (!load->config->ignore_unsupported) {
        midge_config_error(load, place,
                           "midge-server does not serve \"%s\": %s (--ignore-unsupported starts "
                           "without it)",
                           name, instead);
        return;
    }
    midge_config_warn(load, place, "ignored \"%s\", which midge-server does not serve%s: %s", name,
                      protects ? "; CLIENTS ARE NOT RESTRICTED BY IT" : "", instead);
    /* The user knows: this one does not fail -t. */
    load->warning_count--;
}

/* What bcrypt hashes look like. Source: nats-server v2.15.2, server/auth.go (bcrypt prefix
 * pattern). */
static bool is_bcrypt(const char *secret)
{
    return secret != NULL && strlen(secret) >= 7 && secret[0] == '$' && secret[1] == '2' &&
           strchr("abxy", secret[2]) != NULL && secret[3] == '$' && secret[4] >= '0' &&
           secret[4] <= '9' && secret[5] >= '0' && secret[5] <= '9' && secret[6] == '$';
}

/* A hash that is compared as plain text would be the password itself. */
static void check_secrets(struct midge_config_load *load)
{
    if (is_bcrypt(load->config->pass))
        midge_config_error(load, NULL,
                           "the password looks like a bcrypt hash, which is not served yet: set "
                           "the password in plain text in a file that only the server can read");
    if (is_bcrypt(load->config->token))
        midge_config_error(load, NULL,
                           "the token looks like a bcrypt hash, which is not served yet: set the "
                           "token in plain text in a file that only the server can read");
}

/* Contradictions that show only when file and flags are put together. */
static void check(struct midge_config_load *load)
{
    const struct midge_config *config = load->config;

    check_secrets(load);
    if ((config->user != NULL || config->pass != NULL) && config->token != NULL)
        midge_config_error(load, NULL, "both a user or password and a token are set: keep one");
    else if (config->pass != NULL && config->user == NULL)
        midge_config_error(load, NULL,
                           "a password without a user protects nothing: set user (--user) too");
    else if (config->user != NULL && config->pass == NULL)
        midge_config_error(load, NULL,
                           "a user without a password: set password (--pass) too, or a token");
    if (load->payload_len > 0 && (uint64_t)load->payload_len > config->pending_bytes_max)
        midge_config_error(
            load, NULL, "max_payload (%" PRId64 ") cannot be higher than max_pending (%" PRIu64 ")",
            load->payload_len, config->pending_bytes_max);
}

static void print_version(FILE *out)
{
    /* The first line is what test suites and scripts look at. */
    (void)fputs("nats-server: v" NATS_SERVER_VERSION "\n"
                "midge-server: v" MIDGE_VERSION "\n",
                out);
}

static void test_file(struct midge_config_load *load)
{
    if (load->config->config_file == NULL) {
        midge_config_error(load, NULL,
                           "must specify [-c, --config] option to check configuration file syntax");
        return;
    }
    midge_config_read_file(load);
    if (load->error_count > 0 || load->warning_count > 0)
        return;
    check_secrets(load);
    if (load->error_count > 0)
        return;
    load->config->action = MIDGE_CONFIG_TEST;
    (void)fprintf(load->err, "midge-server: configuration file %s is valid\n",
                  load->config->config_file);
}

static void run(struct midge_config_load *load, const struct midge_config_given *given,
                uint32_t count)
{
    struct midge_config *config = load->config;

    if (load->error_count > 0)
        return;
    if (load->version || load->help) {
        config->action = MIDGE_CONFIG_EXIT;
        if (load->version)
            print_version(load->out);
        else
            midge_config_print_help(load->out);
        return;
    }
    if (config->action == MIDGE_CONFIG_SIGNAL)
        return;
    if (load->test) {
        test_file(load);
        return;
    }
    if (config->config_file != NULL)
        midge_config_read_file(load);
    midge_config_apply_flags(load, given, count);
    if (load->error_count == 0)
        check(load);
}

enum midge_status midge_config_load(struct midge_config *config, int argc, char **argv, FILE *out,
                                    FILE *err)
{
    struct midge_config_load load = {
        .config = config, .out = out, .err = err, .payload_len = MIDGE_PAYLOAD_DEFAULT};
    struct midge_config_given *given;
    uint32_t count;

    MIDGE_ASSERT(argc >= 0);
    given = calloc((size_t)argc + 1, sizeof(*given));
    if (given == NULL) {
        midge_config_error(&load, NULL, "out of memory");
        return MIDGE_E_CONFIG;
    }
    count = midge_config_scan_flags(&load, argc, argv, given);
    run(&load, given, count);
    free(given);
    if (load.error_count > 0 ||
        (load.test && load.warning_count > 0 && !load.version && !load.help))
        return MIDGE_E_CONFIG;
    return MIDGE_OK;
}
