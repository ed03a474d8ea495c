/* `midge req`: make requests and print the replies. */
#include <stdlib.h>
#include <unistd.h>

#include <jansson.h>

#include "cli.h"

struct requesting {
    struct midge_cli *cli;
    struct midge_outgoing outgoing;
    uint64_t start_ns; /* of this request */
    uint64_t reply_count;
};

static void show_time(const struct requesting *requesting)
{
    if (!requesting->cli->is_json && !requesting->cli->is_raw && isatty(STDERR_FILENO) == 1)
        (void)fprintf(stderr, "%.1f us\n",
                      (double)(midge_cli_now_ns() - requesting->start_ns) / 1000);
}

static void on_reply(void *context, const struct midge_msg *reply)
{
    struct requesting *requesting = context;

    requesting->reply_count++;
    show_time(requesting);
    midge_cli_print_msg(requesting->cli, reply, 0);
    midge_cli_flush();
}

static enum midge_status request_many(struct requesting *requesting, uint32_t timeout_ms)
{
    const struct midge_cli *cli = requesting->cli;
    const struct midge_request_options options = {
        .timeout_ms = timeout_ms,
        .replies_max =
            cli->replies == 0 || cli->replies > UINT32_MAX ? UINT32_MAX : (uint32_t)cli->replies,
        .silence_ms = (uint32_t)cli->silence_ms,
    };

    return midge_client_request_many(cli->client, &requesting->outgoing, &options, requesting,
                                     on_reply);
}

static enum midge_status request_one(struct requesting *requesting, uint32_t timeout_ms)
{
    const struct midge_msg *reply;
    const enum midge_status status = midge_client_request_msg(
        requesting->cli->client, &requesting->outgoing, timeout_ms, &reply);

    if (status == MIDGE_OK)
        on_reply(requesting, reply);
    return status;
}

static int run(struct midge_cli *cli)
{
    struct midge_cli_payload payload =
        midge_cli_read_payload(cli->word_count > 1 ? cli->words[1] : NULL);
    struct requesting requesting = {
        .cli = cli,
        .outgoing = {.subject = cli->words[0],
                     .headers = cli->headers,
                     .payload = payload.bytes,
                     .payload_len = payload.len},
    };
    const uint32_t timeout_ms = cli->has_timeout ? (uint32_t)cli->timeout_ms : 5000;
    const uint64_t count = cli->count > 0 ? cli->count : 1;
    enum midge_status status = MIDGE_OK;

    midge_cli_connect(cli);
    for (uint64_t i = 0; i < count && status == MIDGE_OK && !midge_cli_is_stopped(); i++) {
        requesting.start_ns = midge_cli_now_ns();
        status = cli->has_replies ? request_many(&requesting, timeout_ms)
                                  : request_one(&requesting, timeout_ms);
    }
    free(payload.owned);
    if (status == MIDGE_OK || midge_cli_is_stopped())
        return status == MIDGE_OK ? MIDGE_CLI_EXIT_OK : MIDGE_CLI_EXIT_ERROR;
    return midge_cli_fail(cli, cli->words[0], status);
}

static const enum midge_cli_flag own_flags[] = {
    MIDGE_CLI_FLAG_TIMEOUT, MIDGE_CLI_FLAG_HEADER,       MIDGE_CLI_FLAG_REPLIES,
    MIDGE_CLI_FLAG_SILENCE, MIDGE_CLI_FLAG_COUNT,        MIDGE_CLI_FLAG_RAW,
    MIDGE_CLI_FLAG_JSON,    MIDGE_CLI_FLAG_HEADERS_ONLY, (enum midge_cli_flag)0};

const struct midge_cli_command midge_cli_req = {
    .name = "req",
    .arguments = "[FLAG...] SUBJECT [PAYLOAD]",
    .summary = "make a request and print the reply",
    .help = "Sends a request and prints the reply, within 5 s unless --timeout says otherwise.\n"
            "Without PAYLOAD it is what comes from standard input, if that is no terminal.\n"
            "Exit status: 3 if nobody serves the subject, 4 if no reply came in time.\n\n"
            "  midge req greet.joe hi\n"
            "  midge req --replies 0 --silence 200ms '$SRV.PING' ''",
    .flags = own_flags,
    .needs = "SUBJECT",
    .words_min = 1,
    .words_max = 2,
    .run = run,
};
