/* `midge sub`: print what is published. */
#include <stdlib.h>

#include "cli.h"

struct printing {
    struct midge_cli *cli;
    uint64_t msg_count;
    uint64_t last_ns; /* when the last message came */
};

static bool has_enough(const struct printing *printing)
{
    return printing->cli->count > 0 && printing->msg_count >= printing->cli->count;
}

static void on_msg(void *context, const struct midge_msg *msg)
{
    struct printing *printing = context;

    if (has_enough(printing))
        return;
    printing->msg_count++;
    printing->last_ns = midge_cli_now_ns();
    midge_cli_print_msg(printing->cli, msg, printing->msg_count);
}

/* @return the exit status if it cannot be */
static int subscribe(struct printing *printing)
{
    struct midge_cli *cli = printing->cli;
    const struct midge_sub_options options = {.queue = cli->queue};

    for (int i = 0; i < cli->word_count; i++) {
        struct midge_sub *sub; /* ends with the client */
        enum midge_status status =
            midge_client_subscribe(cli->client, cli->words[i], &options, &sub, printing, on_msg);

        /* Of a single subject no more come here: the others of a queue group get the rest. */
        if (status == MIDGE_OK && cli->word_count == 1)
            status = midge_cli_limit(cli, sub);
        if (status != MIDGE_OK)
            return midge_cli_fail(cli, cli->words[i], status);
    }
    return MIDGE_CLI_EXIT_OK;
}

static uint64_t deadline_ns(const struct printing *printing)
{
    return printing->cli->has_timeout ? printing->last_ns + printing->cli->timeout_ms * 1000000u
                                      : UINT64_MAX;
}

static int run(struct midge_cli *cli)
{
    struct printing printing = {.cli = cli};
    enum midge_status status;
    int failed;

    midge_cli_connect(cli);
    failed = subscribe(&printing);
    if (failed != MIDGE_CLI_EXIT_OK)
        return failed;
    midge_cli_hint(cli->words[0], cli->word_count > 1 ? " and more" : "");
    printing.last_ns = midge_cli_now_ns();
    do {
        status = midge_cli_wait_until(cli, deadline_ns(&printing));
        midge_cli_flush();
    } while ((status == MIDGE_OK || status == MIDGE_AGAIN) && !has_enough(&printing) &&
             !midge_cli_is_stopped() && !cli->has_failed &&
             midge_cli_now_ns() < deadline_ns(&printing));
    if (cli->has_failed)
        return MIDGE_CLI_EXIT_ERROR;
    if (has_enough(&printing) || midge_cli_is_stopped())
        return midge_cli_drain(cli);
    if (status != MIDGE_OK && status != MIDGE_AGAIN)
        return midge_cli_fail(cli, "sub", status);
    return MIDGE_CLI_EXIT_TIMEOUT;
}

static const enum midge_cli_flag own_flags[] = {
    MIDGE_CLI_FLAG_COUNT,        MIDGE_CLI_FLAG_QUEUE, MIDGE_CLI_FLAG_TIMEOUT, MIDGE_CLI_FLAG_RAW,
    MIDGE_CLI_FLAG_HEADERS_ONLY, MIDGE_CLI_FLAG_JSON,  (enum midge_cli_flag)0};

const struct midge_cli_command midge_cli_sub = {
    .name = "sub",
    .arguments = "[FLAG...] SUBJECT...",
    .summary = "print what is published",
    .help = "Prints messages until --count of them came, until none came for --timeout, or until\n"
            "it is interrupted.\n\n"
            "  midge sub 'news.>'\n"
            "  midge sub --count 1 --raw clock",
    .flags = own_flags,
    .needs = "SUBJECT",
    .words_min = 1,
    .words_max = -1,
    .run = run,
};
