/* `midge rtt`: how long the way to the server and back takes. */
#include <stdlib.h>

#include <jansson.h>

#include "cli.h"

#define COUNT_DEFAULT 1000u
#define COUNT_MAX     100000000u

/* Before the first that counts: the connection is new. */
#define WARM_UP 16u

static int compare(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

/* The nearest rank of sorted samples. @param per_mille  1..1000 */
static double percentile_us(const uint64_t *sorted, uint64_t count, uint64_t per_mille)
{
    const uint64_t rank = (count * per_mille + 999) / 1000;

    return (double)sorted[rank - 1] / 1000;
}

static void report(const struct midge_cli *cli, const uint64_t *sorted, uint64_t count)
{
    struct midge_server_info server;
    double sum_us = 0;

    midge_client_server(cli->client, &server);
    for (uint64_t i = 0; i < count; i++)
        sum_us += (double)sorted[i] / 1000;
    if (cli->is_json) {
        json_t *object = json_pack(
            "{s:I, s:f, s:f, s:f, s:f, s:f}", "count", (json_int_t)count, "min_us",
            percentile_us(sorted, count, 1), "mean_us", sum_us / (double)count, "p50_us",
            percentile_us(sorted, count, 500), "p99_us", percentile_us(sorted, count, 990),
            "max_us", percentile_us(sorted, count, 1000));

        midge_cli_set_text(object, "url", server.url);
        midge_cli_print_json(object);
        return;
    }
    (void)printf("%s: %llu round trips\n", server.url, (unsigned long long)count);
    (void)printf("min %.1f us, mean %.1f us, p50 %.1f us, p99 %.1f us, max %.1f us\n",
                 (double)sorted[0] / 1000, sum_us / (double)count,
                 percentile_us(sorted, count, 500), percentile_us(sorted, count, 990),
                 percentile_us(sorted, count, 1000));
}

static enum midge_status measure(const struct midge_cli *cli, uint64_t *samples,
                                 uint64_t *count_in_out)
{
    const uint32_t timeout_ms = cli->has_timeout ? (uint32_t)cli->timeout_ms : 5000;
    const uint64_t wanted = *count_in_out + WARM_UP;
    enum midge_status status = MIDGE_OK;
    uint64_t done;

    for (done = 0; done < wanted && !midge_cli_is_stopped(); done++) {
        uint64_t rtt_ns;

        status = midge_client_flush(cli->client, timeout_ms, &rtt_ns);
        if (status != MIDGE_OK)
            break;
        if (done >= WARM_UP)
            samples[done - WARM_UP] = rtt_ns;
    }
    *count_in_out = done > WARM_UP ? done - WARM_UP : 0;
    return status;
}

static int run(struct midge_cli *cli)
{
    uint64_t count = cli->count > 0 ? cli->count : COUNT_DEFAULT;
    enum midge_status status;
    uint64_t *samples;

    if (count > COUNT_MAX)
        midge_cli_usage(cli, "--count is at most %u", COUNT_MAX);
    samples = calloc(count, sizeof(*samples));
    if (samples == NULL)
        return midge_cli_fail(cli, "rtt", MIDGE_E_MEMORY);
    midge_cli_connect(cli);
    status = measure(cli, samples, &count);
    qsort(samples, count, sizeof(*samples), compare);
    /* What was measured before an interrupt is shown. */
    if (count > 0)
        report(cli, samples, count);
    free(samples);
    if (status == MIDGE_OK || midge_cli_is_stopped())
        return MIDGE_CLI_EXIT_OK;
    return midge_cli_fail(cli, "rtt", status);
}

static const enum midge_cli_flag own_flags[] = {MIDGE_CLI_FLAG_COUNT, MIDGE_CLI_FLAG_TIMEOUT,
                                                MIDGE_CLI_FLAG_JSON, (enum midge_cli_flag)0};

const struct midge_cli_command midge_cli_rtt = {
    .name = "rtt",
    .arguments = "[FLAG...]",
    .summary = "measure the round trip to the server",
    .help = "Sends PING and waits for PONG, 1,000 times unless --count says otherwise, and prints\n"
            "what that took: one in flight, from before the send until the answer was read.\n\n"
            "  midge rtt\n"
            "  midge rtt --server unix:///run/midge.sock --count 100000",
    .flags = own_flags,
    .words_min = 0,
    .words_max = 0,
    .run = run,
};
