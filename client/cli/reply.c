/* `midge reply`: answer requests. */
#include <stdlib.h>

#include "cli.h"

/* So that several of them share the work, unless --queue says otherwise. */
#define QUEUE_DEFAULT "midge-reply"

static int answer(struct midge_cli_answering *answering)
{
    struct midge_cli *cli = answering->cli;
    const struct midge_sub_options options = {.queue =
                                                  cli->queue != NULL ? cli->queue : QUEUE_DEFAULT};
    struct midge_sub *sub; /* ends with the client */
    enum midge_status status = midge_client_subscribe(cli->client, cli->words[0], &options, &sub,
                                                      answering, midge_cli_answer);

    /* So many and no more come here: the others of the group get the rest. */
    if (status == MIDGE_OK)
        status = midge_cli_limit(cli, sub);
    if (status != MIDGE_OK)
        return midge_cli_fail(cli, cli->words[0], status);
    midge_cli_hint(cli->words[0], "");
    return midge_cli_end_answering(answering);
}

static int run(struct midge_cli *cli)
{
    struct midge_cli_answering answering;
    int status;

    midge_cli_begin_answering(cli, 1, &answering);
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
