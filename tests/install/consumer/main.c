/*
 * A program of somebody else, in C: answers its own request, and prints the answer.
 */
#include <midge/client.h>

#include <stdio.h>
#include <stdlib.h>

#define TIMEOUT_MS 10000

static void must(enum midge_status status, const char *what)
{
    if (status == MIDGE_OK)
        return;
    (void)fprintf(stderr, "%s: %s (%s)\n", what, midge_client_status_text(status),
                  midge_status_name(status));
    exit(EXIT_FAILURE);
}

static void echo(void *context, const struct midge_msg *request)
{
    (void)context;
    must(midge_msg_respond(request, request->payload.base, request->payload.len), "respond");
}

int main(void)
{
    struct midge_options options;
    struct midge_client *client;
    struct midge_sub *sub;
    const struct midge_msg *reply;

    midge_options_init(&options);
    options.name = "consumer";
    must(midge_client_create(&options, &client, NULL), "create");
    must(midge_client_connect(client, TIMEOUT_MS), "connect");
    must(midge_client_subscribe(client, "echo", NULL, &sub, NULL, echo), "subscribe");
    must(midge_client_request(client, "echo", "hello", 5, TIMEOUT_MS, &reply), "request");
    printf("%.*s\n", MIDGE_SLICE_PRINT(reply->payload));
    midge_client_destroy(client);
    return EXIT_SUCCESS;
}
