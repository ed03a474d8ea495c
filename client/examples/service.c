/*
 * A service that `nats micro ls` lists: `greeter` greets on greet.* and divides on math.divide.
 * math.divide.
 *
 *     service                                  at nats://127.0.0.1:4222
 *     NATS_URL=unix:///run/midge.sock service  elsewhere
 *
 * Ctrl-C ends it, after what the server had sent already is answered.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <midge/client.h>

#define TIMEOUT_MS 5000

/* For the signal handler alone. */
static struct midge_client *interrupted;

static void must(enum midge_status status, const char *what)
{
    if (status == MIDGE_OK)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, midge_client_status_text(status));
    exit(EXIT_FAILURE);
}

static void interrupt(int signal_number)
{
    (void)signal_number;
    /* It says itself that it may: NOLINTNEXTLINE(bugprone-signal-handler) */
    midge_client_interrupt(interrupted);
}

static void greet(void *context, const struct midge_msg *request)
{
    const uint32_t prefix_len = (uint32_t)strlen("greet.");
    char reply[128];

    (void)context;
    (void)snprintf(reply, sizeof(reply), "hello, %.*s", (int)(request->subject.len - prefix_len),
                   (const char *)request->subject.base + prefix_len);
    must(midge_msg_respond(request, reply, strlen(reply)), "respond");
}

/* The payload is two numbers with a blank between them. */
static void divide(void *context, const struct midge_msg *request)
{
    struct midge_service *service = context;
    char text[64];
    int dividend;
    int divisor;

    (void)snprintf(text, sizeof(text), "%.*s", MIDGE_SLICE_PRINT(request->payload));
    if (sscanf(text, "%9d %9d", &dividend, &divisor) != 2) {
        must(midge_service_error(service, request, 400, "two numbers are wanted"), "respond");
    } else if (divisor == 0) {
        must(midge_service_error(service, request, 422, "division by zero"), "respond");
    } else {
        (void)snprintf(text, sizeof(text), "%d", dividend / divisor);
        must(midge_msg_respond(request, text, strlen(text)), "respond");
    }
}

static struct midge_service *start(struct midge_client *client)
{
    struct midge_headers *metadata = midge_headers_create();
    const struct midge_service_options options = {
        .name = "greeter",
        .version = "1.0.0",
        .description = "Greets people and divides numbers",
        .metadata = metadata,
    };
    const struct midge_endpoint_options hello = {.name = "hello", .subject = "greet.*"};
    const struct midge_endpoint_options quotient = {
        .name = "divide",
        .subject = "math.divide",
        .queue = "calculators",
        .metadata = metadata,
    };
    struct midge_service *service;

    must(metadata == NULL ? MIDGE_E_MEMORY : MIDGE_OK, "metadata");
    must(midge_headers_add(metadata, "language", "C"), "metadata");
    must(midge_service_create(client, &options, &service), "create the service");
    must(midge_service_add(service, &hello, NULL, greet), "add hello");
    must(midge_service_add(service, &quotient, service, divide), "add divide");
    midge_headers_destroy(metadata);
    return service;
}

int main(void)
{
    struct midge_client *client;
    struct midge_service *service;
    enum midge_status status;

    must(midge_client_create(NULL, &client, NULL), "create");
    must(midge_client_connect(client, TIMEOUT_MS), "connect");
    service = start(client);
    interrupted = client;
    (void)signal(SIGINT, interrupt);
    (void)signal(SIGTERM, interrupt);
    must(midge_client_flush(client, TIMEOUT_MS, NULL), "flush");
    printf("greeter %s is ready\n", midge_service_id(service));
    (void)fflush(stdout);
    status = midge_client_run(client);
    if (status == MIDGE_AGAIN) /* interrupted */
        status = midge_client_drain(client, TIMEOUT_MS);
    must(status, "run");
    midge_client_destroy(client);
    return EXIT_SUCCESS;
}
