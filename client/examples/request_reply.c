/*
 * A greeting service and its requester in one process, on one connection and one thread.
 *
 * The service answers on `greet.*` with the second token of the subject. Three requests are
 * answered; once the service has drained its subscription, a fourth is told at once that nobody is
 * there. Prints what the same program in Python prints.
 *
 *     request_reply                                  at nats://127.0.0.1:4222
 *     NATS_URL=unix:///run/midge.sock request_reply  elsewhere
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <midge/client.h>

#define TIMEOUT_MS 5000

static void must(enum midge_status status, const char *what)
{
    if (status == MIDGE_OK)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, midge_client_status_text(status));
    exit(EXIT_FAILURE);
}

/* Called inside whatever call waits for something: here, inside the request that is answered. */
static void greet(void *context, const struct midge_msg *request)
{
    const uint32_t prefix_len = (uint32_t)strlen("greet.");
    char reply[128];
    int len;

    (void)context;
    len = snprintf(reply, sizeof(reply), "hello, %.*s", (int)(request->subject.len - prefix_len),
                   (const char *)request->subject.base + prefix_len);
    must(midge_msg_respond(request, reply, (size_t)len), "respond");
}

int main(void)
{
    static const char *const subjects[] = {"greet.joe", "greet.sue", "greet.bob"};
    struct midge_client *client;
    struct midge_sub *service;
    const struct midge_msg *reply;

    /* No options: $NATS_URL, or the default server. */
    must(midge_client_create(NULL, &client, NULL), "create");
    must(midge_client_connect(client, TIMEOUT_MS), "connect");
    must(midge_client_subscribe(client, "greet.*", NULL, &service, NULL, greet), "subscribe");

    for (size_t i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++) {
        must(midge_client_request(client, subjects[i], NULL, 0, TIMEOUT_MS, &reply), subjects[i]);
        printf("b'%.*s'\n", MIDGE_SLICE_PRINT(reply->payload));
    }

    must(midge_sub_drain(service), "drain the service");
    if (midge_client_request(client, "greet.joe", NULL, 0, TIMEOUT_MS, &reply) ==
        MIDGE_E_NO_RESPONDERS)
        printf("no responders\n");

    must(midge_client_drain(client, TIMEOUT_MS), "drain");
    midge_client_destroy(client);
    return EXIT_SUCCESS;
}
