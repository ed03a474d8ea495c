/* `midge pub`: publish messages. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "cli.h"

/* Every so many messages a look at the clock, for the progress line. */
#define PROGRESS_MSGS 4096u
#define PROGRESS_NS   200000000u

struct publishing {
    struct midge_cli *cli;
    struct midge_outgoing outgoing;
    uint64_t msg_count;
    uint64_t byte_count;
    uint64_t shown_at_ns;
    bool is_shown; /* a progress line stands on the terminal */
};

static void show_progress(struct publishing *publishing)
{
    const uint64_t now_ns = midge_cli_now_ns();

    if (now_ns - publishing->shown_at_ns < PROGRESS_NS)
        return;
    publishing->shown_at_ns = now_ns;
    publishing->is_shown = true;
    (void)fprintf(stderr, "\r%llu", (unsigned long long)publishing->msg_count);
    if (publishing->cli->count > 0)
        (void)fprintf(stderr, " of %llu", (unsigned long long)publishing->cli->count);
}

static enum midge_status publish(struct publishing *publishing, const void *payload, size_t len)
{
    enum midge_status status;

    publishing->outgoing.payload = payload;
    publishing->outgoing.payload_len = len;
    status = midge_client_publish_msg(publishing->cli->client, &publishing->outgoing);
    if (status != MIDGE_OK)
        return status;
    publishing->msg_count++;
    publishing->byte_count += len;
    if (publishing->msg_count % PROGRESS_MSGS == 0 && isatty(STDERR_FILENO) == 1)
        show_progress(publishing);
    return MIDGE_OK;
}

/* Leave, and let the time to the next one pass. @return MIDGE_OK, or why there is no next one */
static enum midge_status pause_between(struct publishing *publishing, uint64_t start_ns)
{
    struct midge_cli *cli = publishing->cli;
    const uint64_t until_ns = start_ns + publishing->msg_count * cli->interval_ms * 1000000u;
    enum midge_status status = MIDGE_OK;

    if (cli->interval_ms == 0)
        return MIDGE_OK;
    while ((status == MIDGE_OK || status == MIDGE_AGAIN) && !midge_cli_is_stopped() &&
           midge_cli_now_ns() < until_ns)
        status = midge_cli_wait_until(cli, until_ns);
    return status == MIDGE_AGAIN ? MIDGE_OK : status;
}

static enum midge_status publish_payload(struct publishing *publishing,
                                         const struct midge_cli_payload *payload)
{
    const uint64_t count = publishing->cli->count > 0 ? publishing->cli->count : 1;
    const uint64_t start_ns = midge_cli_now_ns();
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && publishing->msg_count < count && !midge_cli_is_stopped()) {
        status = publish(publishing, payload->bytes, payload->len);
        if (status == MIDGE_OK && publishing->msg_count < count)
            status = pause_between(publishing, start_ns);
    }
    return status;
}

static enum midge_status publish_lines(struct publishing *publishing)
{
    const uint64_t start_ns = midge_cli_now_ns();
    const uint64_t count = publishing->cli->count > 0 ? publishing->cli->count : UINT64_MAX;
    struct midge_cli_lines lines = {0};
    struct midge_slice line;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK && publishing->msg_count < count && !midge_cli_is_stopped()) {
        status = midge_cli_next_line(publishing->cli, &lines, &line);
        if (status == MIDGE_OK)
            status = publish(publishing, line.base, line.len);
        if (status == MIDGE_OK)
            status = pause_between(publishing, start_ns);
    }
    free(lines.bytes);
    return status == MIDGE_AGAIN ? MIDGE_OK : status;
}

static void report(const struct publishing *publishing)
{
    const unsigned long long msgs = publishing->msg_count;
    const unsigned long long bytes = publishing->byte_count;

    if (publishing->cli->is_json) {
        json_t *object =
            json_pack("{s:I, s:I}", "count", (json_int_t)msgs, "bytes", (json_int_t)bytes);

        midge_cli_set_text(object, "subject", publishing->outgoing.subject);
        midge_cli_print_json(object);
    } else if (isatty(STDERR_FILENO) == 1) {
        (void)fprintf(stderr, "%spublished %llu message%s, %llu bytes, to %s\n",
                      publishing->is_shown ? "\r" : "", msgs, msgs == 1 ? "" : "s", bytes,
                      publishing->outgoing.subject);
    }
}

static int run(struct midge_cli *cli)
{
    struct publishing publishing = {
        .cli = cli,
        .outgoing = {.subject = cli->words[0], .reply = cli->reply, .headers = cli->headers},
    };
    const uint64_t timeout_ms = cli->has_timeout ? cli->timeout_ms : 5000;
    struct midge_cli_payload payload = {0};
    enum midge_status status;

    if (cli->is_lines && cli->word_count > 1)
        midge_cli_usage(cli,
                        "--lines takes payloads from standard input, so '%s' is one word too many",
                        cli->words[1]);
    if (!cli->is_lines)
        payload = midge_cli_read_payload(cli->word_count > 1 ? cli->words[1] : NULL);
    midge_cli_connect(cli);
    status = cli->is_lines ? publish_lines(&publishing) : publish_payload(&publishing, &payload);
    free(payload.owned);
    /* The server has worked on all of it, or said what it refuses, when this is over. */
    if (status == MIDGE_OK)
        status = midge_client_flush(cli->client, (uint32_t)timeout_ms, NULL);
    if (status != MIDGE_OK && !midge_cli_is_stopped()) {
        if (publishing.is_shown)
            (void)fputc('\n', stderr);
        return midge_cli_fail(cli, cli->words[0], status);
    }
    report(&publishing);
    return MIDGE_CLI_EXIT_OK;
}

static const enum midge_cli_flag own_flags[] = {
    MIDGE_CLI_FLAG_COUNT, MIDGE_CLI_FLAG_INTERVAL, MIDGE_CLI_FLAG_HEADER, MIDGE_CLI_FLAG_REPLY,
    MIDGE_CLI_FLAG_LINES, MIDGE_CLI_FLAG_TIMEOUT,  MIDGE_CLI_FLAG_JSON,   (enum midge_cli_flag)0};

const struct midge_cli_command midge_cli_pub = {
    .name = "pub",
    .arguments = "[FLAG...] SUBJECT [PAYLOAD]",
    .summary = "publish a message, or many",
    .help = "Publishes, and waits until the server has taken it. Without PAYLOAD it is what comes\n"
            "from standard input, if that is no terminal; `-` reads it from there in any case.\n\n"
            "  midge pub news.today 'good morning' -H Lang:en\n"
            "  date | midge pub clock\n"
            "  midge pub --count 10 --interval 1s tick ''",
    .flags = own_flags,
    .needs = "SUBJECT",
    .words_min = 1,
    .words_max = 2,
    .run = run,
};
