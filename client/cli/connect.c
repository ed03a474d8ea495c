/* From flags to a connection, signals, and what went wrong in words. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "cli.h"

#define NS_PER_MS 1000000u

#define DRAIN_MS 2000u

/* What a signal handler may touch. */
static volatile sig_atomic_t is_stopped;
static struct midge_client *volatile interrupted;

static void on_signal(int number)
{
    const int error = errno;

    (void)number;
    /* Asked twice, it ends at once. */
    if (is_stopped != 0)
        _exit(128 + number);
    is_stopped = 1;
    if (interrupted != NULL)
        midge_client_interrupt(interrupted);
    errno = error;
}

bool midge_cli_is_stopped(void)
{
    return is_stopped != 0;
}

void midge_cli_say(const char *format, ...)
{
    char text[1024]; /* what is longer loses its end */
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    (void)fputs("midge: ", stderr);
    /* There may be words of a server in it. */
    midge_cli_print_text(stderr, isatty(STDERR_FILENO) == 1, midge_slice_text(text));
    (void)fputc('\n', stderr);
}

void midge_cli_hint(const char *subject, const char *more)
{
    if (isatty(STDERR_FILENO) == 1)
        midge_cli_say("listening on %s%s; Ctrl-C ends it", subject, more);
}

static int exit_of(enum midge_status status)
{
    if (status == MIDGE_E_NO_RESPONDERS)
        return MIDGE_CLI_EXIT_NO_RESPONDERS;
    if (status == MIDGE_E_TIMEOUT || status == MIDGE_AGAIN)
        return MIDGE_CLI_EXIT_TIMEOUT;
    if (status == MIDGE_E_NO_SERVERS || status == MIDGE_E_DISCONNECTED || status == MIDGE_E_AUTH ||
        status == MIDGE_E_AUTH_TIMEOUT || status == MIDGE_E_TLS || status == MIDGE_E_CLOSED)
        return MIDGE_CLI_EXIT_CONNECTION;
    if (status == MIDGE_E_SUBJECT || status == MIDGE_E_HEADERS)
        return MIDGE_CLI_EXIT_USAGE;
    return status == MIDGE_OK ? MIDGE_CLI_EXIT_OK : MIDGE_CLI_EXIT_ERROR;
}

/* What to do about it; "" where that is plain. */
static const char *advice_of(enum midge_status status)
{
    if (status == MIDGE_E_SUBJECT)
        return " (words with dots between them and no blanks, at most 4,000 bytes; * and > only "
               "for "
               "who listens)";
    if (status == MIDGE_E_AUTH)
        return " (who connects: --user and --password, --token, --nkey, --creds, or a context)";
    if (status == MIDGE_E_NO_SERVERS)
        return " (where one is: --server, $NATS_URL, or a context)";
    if (status == MIDGE_E_TIMEOUT)
        return " (--timeout says how long to wait)";
    return "";
}

int midge_cli_fail(const struct midge_cli *cli, const char *what, enum midge_status status)
{
    const int found = exit_of(status);
    const char *more = "";

    /* The last error of a client is about its connection, and so is all that happens before it. */
    if (cli->client != NULL && (found == MIDGE_CLI_EXIT_CONNECTION || !cli->is_connected))
        more = midge_client_error(cli->client);
    midge_cli_say("%.200s%s: %s%s%s%s", what, strlen(what) > 200 ? "…" : "",
                  midge_client_status_text(status), *more != '\0' ? ": " : "", more,
                  advice_of(status));
    return found;
}

static void on_event(void *context, const struct midge_event *event)
{
    struct midge_cli *cli = context;

    /* Why it could not connect is said once, at the end. */
    if (!cli->is_connected)
        return;
    switch (event->kind) {
    case MIDGE_EVENT_DISCONNECTED:
        midge_cli_say("disconnected: %s", event->text);
        break;
    case MIDGE_EVENT_RECONNECTED:
        midge_cli_say("connected again");
        break;
    case MIDGE_EVENT_LAME_DUCK:
        midge_cli_say("the server is about to stop");
        break;
    case MIDGE_EVENT_SLOW:
        midge_cli_say("too slow: messages are dropped");
        break;
    case MIDGE_EVENT_ERROR:
        midge_cli_say("the server says: %s", event->text);
        cli->has_failed = true;
        break;
    case MIDGE_EVENT_CONNECTED:
    case MIDGE_EVENT_SERVERS:
    case MIDGE_EVENT_CLOSED:
        break;
    }
}

static void catch_signals(struct midge_client *client)
{
    struct sigaction action = {.sa_handler = on_signal};

    interrupted = client;
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

static bool has_color(const struct midge_cli *cli)
{
    const char *no_color = getenv("NO_COLOR");
    const char *terminal = getenv("TERM");

    return cli->is_terminal && !cli->is_json && !cli->is_raw &&
           (no_color == NULL || *no_color == '\0') &&
           (terminal == NULL || strcmp(terminal, "dumb") != 0);
}

void midge_cli_connect(struct midge_cli *cli)
{
    enum midge_status status;
    char why[160] = "";

    cli->is_terminal = isatty(STDOUT_FILENO) == 1;
    cli->is_color = has_color(cli);
    cli->options.context = cli;
    cli->options.event_cb = on_event;
    if (cli->options.name == NULL)
        cli->options.name = "midge";
    status = midge_client_create(&cli->options, &cli->client, why);
    if (status == MIDGE_E_CONFIG)
        midge_cli_usage(cli, "%s", why);
    if (status != MIDGE_OK)
        exit(midge_cli_end(cli, midge_cli_fail(cli, "connect", status)));
    catch_signals(cli->client);
    status = midge_client_connect(cli->client, MIDGE_FOREVER);
    if (status == MIDGE_OK) {
        cli->is_connected = true;
        return;
    }
    if (midge_cli_is_stopped())
        exit(midge_cli_end(cli, MIDGE_CLI_EXIT_ERROR));
    /* Whatever kept it from connecting, scripts want to know just that. */
    (void)midge_cli_fail(cli, "connect", status);
    exit(midge_cli_end(cli, MIDGE_CLI_EXIT_CONNECTION));
}

enum midge_status midge_cli_limit(const struct midge_cli *cli, struct midge_sub *sub)
{
    if (cli->count == 0 || cli->count > MIDGE_SUB_MAX)
        return MIDGE_OK;
    return midge_sub_unsubscribe(sub, cli->count);
}

uint64_t midge_cli_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

enum midge_status midge_cli_wait_until(struct midge_cli *cli, uint64_t until_ns)
{
    const uint64_t now_ns = midge_cli_now_ns();
    uint64_t left_ms = 0;

    if (until_ns == UINT64_MAX)
        return midge_client_wait(cli->client, MIDGE_FOREVER);
    if (until_ns > now_ns)
        left_ms = (until_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;
    return midge_client_wait(cli->client, left_ms < INT_MAX ? (uint32_t)left_ms : INT_MAX);
}

int midge_cli_drain(struct midge_cli *cli)
{
    enum midge_status status = midge_client_drain(cli->client, DRAIN_MS);

    /* The interrupt that ended the wait may still be noted, and is taken for a second one. */
    if (status == MIDGE_AGAIN)
        status = midge_client_run(cli->client);
    midge_cli_flush();
    /* Where the connection is gone, nothing is on its way. */
    if (status == MIDGE_OK || status == MIDGE_E_CLOSED || status == MIDGE_E_DISCONNECTED)
        return MIDGE_CLI_EXIT_OK;
    if (status != MIDGE_E_TIMEOUT)
        return midge_cli_fail(cli, "drain", status);
    midge_cli_say("drain: what is on its way, or queued, was not done with in %u s",
                  DRAIN_MS / 1000);
    return MIDGE_CLI_EXIT_TIMEOUT;
}

int midge_cli_end(struct midge_cli *cli, int status)
{
    midge_cli_flush();
    interrupted = NULL;
    midge_client_destroy(cli->client);
    cli->client = NULL;
    midge_headers_destroy(cli->headers);
    cli->headers = NULL;
    if (cli->nkey_seed != NULL) {
        explicit_bzero(cli->nkey_seed, strlen(cli->nkey_seed));
        free(cli->nkey_seed);
        cli->nkey_seed = NULL;
    }
    json_decref(cli->context);
    cli->context = NULL;
    return status == MIDGE_CLI_EXIT_OK && cli->has_failed ? MIDGE_CLI_EXIT_ERROR : status;
}
