/* `midge service`: answer requests as a service that `nats service list` shows. */
#include <stdlib.h>

#include "cli.h"

#define RELEASE_DEFAULT  "0.0.1"
#define ENDPOINT_DEFAULT "default"

/* @return the exit status if it cannot be */
static int begin(struct midge_cli_answering *answering, struct midge_service **service_out)
{
    struct midge_cli *cli = answering->cli;
    const struct midge_service_options options = {
        .name = cli->words[0],
        .version = cli->release != NULL ? cli->release : RELEASE_DEFAULT,
        .description = cli->description,
        .queue = cli->queue,
    };
    const struct midge_endpoint_options endpoint = {
        .name = cli->endpoint != NULL ? cli->endpoint : ENDPOINT_DEFAULT,
        .subject = cli->words[1],
    };
    enum midge_status status = midge_service_create(cli->client, &options, service_out);

    if (status == MIDGE_E_CONFIG)
        midge_cli_usage(cli,
                        "there is no service '%s' in version '%s': a name has letters, digits, - "
                        "and _, a version is like 1.0.0",
                        options.name, options.version);
    if (status != MIDGE_OK)
        return midge_cli_fail(cli, options.name, status);
    status = midge_service_add(*service_out, &endpoint, answering, midge_cli_answer);
    if (status == MIDGE_E_CONFIG)
        midge_cli_usage(cli, "no endpoint is called '%s': a name has letters, digits, - and _",
                        endpoint.name);
    return status == MIDGE_OK ? MIDGE_CLI_EXIT_OK : midge_cli_fail(cli, endpoint.subject, status);
}

static int run(struct midge_cli *cli)
{
    struct midge_cli_answering answering;
    struct midge_service *service; /* ends with the client */
    int status;

    midge_cli_begin_answering(cli, 2, &answering);
    midge_cli_connect(cli);
    status = begin(&answering, &service);
    if (status == MIDGE_CLI_EXIT_OK) {
        midge_cli_hint(cli->words[1], "");
        status = midge_cli_end_answering(&answering);
    }
    free(answering.payload.owned);
    return status;
}

static const enum midge_cli_flag own_flags[] = {
    MIDGE_CLI_FLAG_ECHO,     MIDGE_CLI_FLAG_RELEASE,      MIDGE_CLI_FLAG_DESCRIPTION,
    MIDGE_CLI_FLAG_ENDPOINT, MIDGE_CLI_FLAG_QUEUE,        MIDGE_CLI_FLAG_HEADER,
    MIDGE_CLI_FLAG_RAW,      MIDGE_CLI_FLAG_HEADERS_ONLY, MIDGE_CLI_FLAG_JSON,
    (enum midge_cli_flag)0};

const struct midge_cli_command midge_cli_service = {
    .name = "service",
    .arguments = "[FLAG...] NAME SUBJECT [PAYLOAD | --echo]",
    .summary = "answer requests as a service",
    .help = "Prints each request on SUBJECT and answers it, with PAYLOAD or with its own payload,\n"
            "until it is interrupted. Beside that it answers $SRV.PING, INFO and STATS, so that\n"
            "`nats service list` shows it. Several of one NAME share the requests.\n\n"
            "  midge service greeter 'greet.*' --echo --release 1.0.0\n"
            "  midge req '$SRV.STATS.greeter' '' --replies 0 --silence 200ms",
    .flags = own_flags,
    .needs = "NAME or SUBJECT",
    .words_min = 2,
    .words_max = 3,
    .run = run,
};
