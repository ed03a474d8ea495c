/* Answering requests, for `midge reply` and `midge service`. */
#include <stdlib.h>

#include "cli.h"

void midge_cli_begin_answering(struct midge_cli *cli, int index,
                               struct midge_cli_answering *answering_out)
{
    const bool has_word = cli->word_count > index;

    if (cli->is_echo && has_word)
        midge_cli_usage(cli, "--echo answers with the request, so '%s' is one word too many",
                        cli->words[index]);
    if (!cli->is_echo && !has_word)
        midge_cli_usage(cli, "what is the answer? PAYLOAD, - for standard input, or --echo");
    *answering_out = (struct midge_cli_answering){.cli = cli};
    if (!cli->is_echo)
        answering_out->payload = midge_cli_read_payload(cli->words[index]);
}

static bool has_enough(const struct midge_cli_answering *answering)
{
    return answering->cli->count > 0 && answering->request_count >= answering->cli->count;
}

void midge_cli_answer(void *context, const struct midge_msg *request)
{
    struct midge_cli_answering *answering = context;
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

int midge_cli_end_answering(struct midge_cli_answering *answering)
{
    struct midge_cli *cli = answering->cli;
    enum midge_status status;

    do {
        status = midge_client_wait(cli->client, MIDGE_FOREVER);
        midge_cli_flush();
    } while ((status == MIDGE_OK || status == MIDGE_AGAIN) && !has_enough(answering) &&
             !midge_cli_is_stopped() && !cli->has_failed);
    if (status != MIDGE_OK && status != MIDGE_AGAIN)
        return midge_cli_fail(cli, cli->command->name, status);
    return midge_cli_drain(cli);
}
