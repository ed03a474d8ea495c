/* `midge server info`: what a server says about itself. */
#include <string.h>

#include <jansson.h>

#include "cli.h"

static void print_text(const struct midge_cli *cli, const struct midge_server_info *server,
                       uint64_t rtt_ns)
{
    const struct {
        const char *name;
        const char *value;
    } lines[] = {
        {"URL", server->url},
        {"id", server->server_id},
        {"name", server->server_name},
        {"compatible with nats-server", server->version},
        {"midge-server", server->midge_version},
        {"cluster", server->cluster},
        {"this client's address", server->client_ip},
    };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        if (*lines[i].value == '\0')
            continue;
        (void)printf("%-28s ", lines[i].name);
        midge_cli_print_text(stdout, cli->is_terminal, midge_slice_text(lines[i].value));
        (void)putchar('\n');
    }
    (void)printf("%-28s %llu\n", "this client's number", (unsigned long long)server->client_id);
    (void)printf("%-28s %u bytes\n", "largest message", server->max_payload);
    (void)printf("%-28s %s\n", "headers", server->headers ? "yes" : "no");
    (void)printf("%-28s %s\n", "JetStream", server->jetstream ? "yes" : "no");
    (void)printf("%-28s %s\n", "encrypted", server->tls ? "yes" : "no");
    (void)printf("%-28s %.1f us\n", "round trip", (double)rtt_ns / 1000);
}

static void print_json(const struct midge_server_info *server, uint64_t rtt_ns)
{
    json_t *object = json_pack(
        "{s:I, s:I, s:b, s:b, s:b, s:f}", "client_id", (json_int_t)server->client_id, "max_payload",
        (json_int_t)server->max_payload, "headers", server->headers, "jetstream", server->jetstream,
        "tls", server->tls, "rtt_us", (double)rtt_ns / 1000);

    midge_cli_set_text(object, "url", server->url);
    midge_cli_set_text(object, "server_id", server->server_id);
    midge_cli_set_text(object, "server_name", server->server_name);
    midge_cli_set_text(object, "version", server->version);
    midge_cli_set_text(object, "midge", server->midge_version);
    midge_cli_set_text(object, "cluster", server->cluster);
    midge_cli_set_text(object, "client_ip", server->client_ip);
    midge_cli_print_json(object);
}

static int run(struct midge_cli *cli)
{
    struct midge_server_info server;
    enum midge_status status;
    uint64_t rtt_ns = 0;

    if (strcmp(cli->words[0], "info") != 0)
        midge_cli_usage(cli, "there is no '%s'; there is `midge server info`", cli->words[0]);
    midge_cli_connect(cli);
    status = midge_client_flush(cli->client, cli->has_timeout ? (uint32_t)cli->timeout_ms : 5000,
                                &rtt_ns);
    if (status != MIDGE_OK)
        return midge_cli_fail(cli, "server info", status);
    midge_client_server(cli->client, &server);
    if (cli->is_json)
        print_json(&server, rtt_ns);
    else
        print_text(cli, &server, rtt_ns);
    return MIDGE_CLI_EXIT_OK;
}

static const enum midge_cli_flag own_flags[] = {MIDGE_CLI_FLAG_TIMEOUT, MIDGE_CLI_FLAG_JSON,
                                                (enum midge_cli_flag)0};

const struct midge_cli_command midge_cli_server = {
    .name = "server",
    .arguments = "[FLAG...] info",
    .summary = "what the server says about itself",
    .help = "Connects, and prints what the server says about itself and about this connection.\n\n"
            "  midge server info\n"
            "  midge server info --json --server nats://demo:4222",
    .flags = own_flags,
    .needs = "info",
    .words_min = 1,
    .words_max = 1,
    .run = run,
};
