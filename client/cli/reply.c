/* `midge reply`: answer requests. */
#include <stdlib.h>

#include "cli.h"

/* So that several of them share the work, unless --queue says otherwise. */
#define QUEUE_DEFAULT "midge-reply"

struct answering {
    struct midge_cli *cli;
    struct midge_cli_payload payload;
    uint64_t request_count;
};

static bool has_enough(const struct answering *answering)
{
    return answering->cli->count > 0 && answering->request_count >= answering->cli->count;
}

static void on_request(void *context, const struct midge_msg *request)
{
    struct answering *answering = context;
    struct midge_cli *cli = answering->cli;
    const void *bytes = cli->is_echo ? request->payload.base : answering->payload.bytes;
    const size_t len = cli->is_echo ? request->payload.len : answering->payload.len;
    enum midge_status status;

    if (has_enough(answering))
        return;
    answering->request_count++;
    midge_cli_print_msg(cli, request, answering->request_count);
    if (request->reply.len == 0)
        return;
    status = midge_msg_respond_headers(request, cli->headers, bytes, len);
    if (status != MIDGE_OK)
        (void)midge_cli_fail(cli, "respond", status);
}

static int answer(struct answering *answering)
{
    struct midge_cli *cli = answering->cli;
    const struct midge_sub_options options = {.queue =
                                                  cli->queue != NULL ? cli->queue : QUEUE_DEFAULT};
    struct midge_sub *sub; /* ends with the client */
    enum midge_status status;

    status =
        midge_client_subscribe(cli->client, cli->words[0], &options, &sub, answering, on_request);
    /* So many and no more come here: the others of the group get the rest. */
    if (status == MIDGE_OK && cli->count > 0)
        status = midge_sub_unsubscribe(sub, cli->count);
    if (status != MIDGE_OK)
        return midge_cli_fail(cli, cli->words[0], status);
    do {
        status = midge_client_wait(cli->client, MIDGE_FOREVER);
        midge_cli_flush();
    } while ((status == MIDGE_OK || status == MIDGE_AGAIN) && !has_enough(answering) &&
             !midge_cli_is_stopped() && !cli->has_failed);
    if (status != MIDGE_OK && status != MIDGE_AGAIN)
        return midge_cli_fail(cli, "reply", status);
    return midge_cli_drain(cli);
}

static int run(struct midge_cli *cli)
{
    struct answering answering = {.cli = cli};
    int status;

    if (cli->is_echo && cli->word_count > 1)
        midge_cli_usage(cli, "--echo answers with the request, so '%s' is one word too many",
                        cli->words[1]);
    if (!cli->is_echo && cli->word_count < 2)
        midge_cli_usage(cli, "what is the answer? PAYLOAD, - for standard input, or --echo");
    if (!cli->is_echo)
        answering.payload = midge_cli_read_payload(cli->words[1]);
    midge_cli_connect(cli);
    status = answer(&answering);
    free(answering.payload.owned);
    return status;
}

static const enum midge_cli_flag own_flags[] = {MIDGE_CLI_FLAG_ECHO,   MIDGE_CLI_FLAG_QUEUE,
                                                MIDGE_CLI_FLAG_HEADER, MIDGE_CLI_FLAG_COUNT,
                                                MIDGE_CLI_FLAG_RAW,    MIDGE_CLI_FLAG_HEADERS_ONLY,
                                                MIDGE_CLI_FLAG_JSON,   (enum midge_cli_flag)0};

const struct midge_cli_command midge_cli_reply = {
    .name = "reply",
    .arguments = "[FLAG...] SUBJECT [PAYLOAD | --echo]",
    .summary = "answer requests",
    .help = "Prints each request and answers it, with PAYLOAD or with its own payload, until\n"
            "--count of them came or it is interrupted.\n"
            "Several of them on one subject share the requests (queue group " QUEUE_DEFAULT ").\n\n"
            "  midge reply 'greet.*' --echo\n"
            "  midge reply time.zone Europe/Vienna",
    .flags = own_flags,
    .needs = "SUBJECT",
    .words_min = 1,
    .words_max = 2,
    .run = run,
};
