/*
 * libmidge as the responder or the requester of a pair. See run_pair.py for what the two say to
 * each other.
 *
 *     peer [--last-value] [--no-empty] responder|requester
 *
 * What the other client cannot do: --last-value, it keeps one value per header name, the last;
 * --no-empty, it takes the line behind a header without value for the value.
 *
 * Thread: main; call-backs run inside the calls that drive the client.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <midge/client.h>

#define WAIT_MS         10000
#define QUIET_MS        200
#define COUNT           200u
#define JOB_COUNT       300u
#define IN_FLIGHT       100u
#define PAYLOAD_LEN_MAX (1024u * 1024)
#define TEXT_LEN_MAX    8192u

struct peer {
    struct midge_client *client;
    bool has_last_value_only; /* the other client */
    bool has_no_empty_value;  /* the other client */
    const char *step;         /* the scenario that runs, for the line of a failure */

    /* Responder. */
    struct midge_sub *sink;
    struct midge_sub *work;
    struct midge_sub *asked;
    uint32_t sink_count;
    char sink_wrong[160]; /* "" = nothing */
    char share[TEXT_LEN_MAX];
    uint32_t share_len;
};

__attribute__((format(printf, 3, 4))) static void check(const struct peer *peer, bool condition,
                                                        const char *format, ...)
{
    va_list arguments;

    if (condition)
        return;
    va_start(arguments, format);
    (void)fprintf(stderr, "fail %s: ", peer->step);
    (void)vfprintf(stderr, format, arguments);
    (void)fprintf(stderr, "\n");
    va_end(arguments);
    exit(EXIT_FAILURE);
}

static void must(const struct peer *peer, enum midge_status status, const char *what)
{
    check(peer, status == MIDGE_OK, "%s: %s; %s", what, midge_client_status_text(status),
          midge_client_error(peer->client));
}

static bool is_text(struct midge_slice slice, const char *text)
{
    return slice.len == strlen(text) && memcmp(slice.base, text, slice.len) == 0;
}

static void to_upper(char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        text[i] = (char)toupper((unsigned char)text[i]);
}

/* --- numbered messages --- */

static void publish_numbers(const struct peer *peer, const char *subject)
{
    struct midge_headers *headers = midge_headers_create();
    char number[16];

    check(peer, headers != NULL, "out of memory");
    for (uint32_t i = 0; i < COUNT; i++) {
        const int len = snprintf(number, sizeof(number), "%u", i);
        const struct midge_outgoing outgoing = {
            .subject = subject,
            .headers = i % 2 == 1 ? headers : NULL,
            .payload = number,
            .payload_len = (size_t)len,
        };

        must(peer, midge_headers_set(headers, "Number", number), "header");
        must(peer, midge_client_publish_msg(peer->client, &outgoing), subject);
    }
    midge_headers_destroy(headers);
}

static bool is_numbered(const struct midge_msg *msg, uint32_t i)
{
    struct midge_slice name;
    struct midge_slice value;
    uint32_t position = 0;
    char number[16];

    (void)snprintf(number, sizeof(number), "%u", i);
    if (!is_text(msg->payload, number))
        return false;
    if (i % 2 == 0)
        return !midge_msg_next_header(msg, &position, &name, &value);
    return midge_msg_next_header(msg, &position, &name, &value) && is_text(name, "Number") &&
           is_text(value, number) && !midge_msg_next_header(msg, &position, &name, &value);
}

/* --- responder --- */

static void count_sink(void *context, const struct midge_msg *msg)
{
    struct peer *peer = context;

    if (peer->sink_wrong[0] == '\0' && !is_numbered(msg, peer->sink_count))
        (void)snprintf(peer->sink_wrong, sizeof(peer->sink_wrong), "message %u is %.100s",
                       peer->sink_count, msg->payload.len == 0 ? "empty" : "another one");
    peer->sink_count++;
}

static void keep_job(void *context, const struct midge_msg *msg)
{
    struct peer *peer = context;

    check(peer, peer->share_len + msg->payload.len + 2 <= sizeof(peer->share),
          "the list of messages is too long");
    peer->share_len +=
        (uint32_t)snprintf(peer->share + peer->share_len, sizeof(peer->share) - peer->share_len,
                           "%.*s ", MIDGE_SLICE_PRINT(msg->payload));
}

static void respond(const struct peer *peer, const struct midge_msg *request, const char *text)
{
    must(peer, midge_msg_respond(request, text, strlen(text)), "respond");
}

static void respond_in_upper_case(const struct peer *peer, const struct midge_msg *request)
{
    const size_t len = request->payload.len;
    char *payload = malloc(len + 1);

    check(peer, payload != NULL, "out of memory");
    memcpy(payload, request->payload.base, len);
    to_upper(payload, len);
    must(peer, midge_msg_respond(request, payload, len), "respond");
    free(payload);
}

static void respond_with_headers(const struct peer *peer, const struct midge_msg *request)
{
    struct midge_headers *headers = midge_headers_copy(request);

    check(peer, headers != NULL, "out of memory");
    must(peer, midge_headers_add(headers, "Answer", "1"), "header");
    must(peer, midge_headers_add(headers, "Answer", "2"), "header");
    must(peer,
         midge_msg_respond_headers(request, headers, request->payload.base, request->payload.len),
         "respond with headers");
    midge_headers_destroy(headers);
}

static void answer(void *context, const struct midge_msg *request)
{
    struct peer *peer = context;
    char text[64];

    if (is_text(request->subject, "ask.upper")) {
        respond_in_upper_case(peer, request);
    } else if (is_text(request->subject, "ask.headers")) {
        respond_with_headers(peer, request);
    } else if (is_text(request->subject, "ask.send")) {
        publish_numbers(peer, "source");
        respond(peer, request, "");
    } else if (is_text(request->subject, "ask.count")) {
        (void)snprintf(text, sizeof(text), "%u in order", peer->sink_count);
        respond(peer, request, peer->sink_wrong[0] != '\0' ? peer->sink_wrong : text);
    } else if (is_text(request->subject, "ask.share")) {
        respond(peer, request, peer->share);
    } else if (is_text(request->subject, "ask.leave")) {
        respond(peer, request, "bye");
        check(peer, midge_client_drain(peer->client, 0) == MIDGE_AGAIN, "drain does not begin");
    }
}

static void respond_to_all(struct peer *peer)
{
    const struct midge_sub_options member = {.queue = "workers"};

    peer->step = "responder";
    must(peer, midge_client_subscribe(peer->client, "sink", NULL, &peer->sink, peer, count_sink),
         "subscribe");
    must(peer, midge_client_subscribe(peer->client, "work", &member, &peer->work, peer, keep_job),
         "subscribe");
    must(peer, midge_client_subscribe(peer->client, "ask.*", NULL, &peer->asked, peer, answer),
         "subscribe");
    must(peer, midge_client_flush(peer->client, WAIT_MS, NULL), "flush");
    printf("ready\n");
    must(peer, midge_client_run(peer->client), "run until the drain has ended");
}

/* --- requester --- */

/* @return borrowed until the next driving call */
static const struct midge_msg *ask(const struct peer *peer, const char *subject,
                                   const char *payload)
{
    const struct midge_msg *reply = NULL;

    must(peer,
         midge_client_request(peer->client, subject, payload, strlen(payload), WAIT_MS, &reply),
         subject);
    return reply;
}

static void check_ask(const struct peer *peer, const char *subject, const char *payload,
                      const char *wanted)
{
    const struct midge_msg *reply = ask(peer, subject, payload);

    check(peer, is_text(reply->payload, wanted), "%s: '%.*s', wanted '%s'", subject,
          MIDGE_SLICE_PRINT(reply->payload), wanted);
}

static void request_reply(struct peer *peer)
{
    char payload[16];
    char wanted[16];

    for (int i = 0; i < 100; i++) {
        (void)snprintf(payload, sizeof(payload), "one-%d", i);
        (void)snprintf(wanted, sizeof(wanted), "ONE-%d", i);
        check_ask(peer, "ask.upper", payload, wanted);
    }
}

/* One of the requests in flight. */
struct flight {
    const struct peer *peer;
    uint32_t *landed;
    uint32_t index;
};

static void land(void *context, enum midge_status status, const struct midge_msg *msg)
{
    const struct flight *flight = context;
    char wanted[16];

    must(flight->peer, status, "one of many requests");
    (void)snprintf(wanted, sizeof(wanted), "MANY-%u", flight->index);
    check(flight->peer, is_text(msg->payload, wanted), "'%.*s', wanted '%s'",
          MIDGE_SLICE_PRINT(msg->payload), wanted);
    (*flight->landed)++;
}

static void requests_in_flight(struct peer *peer)
{
    struct flight flights[IN_FLIGHT];
    uint32_t landed = 0;
    char payload[16];

    for (uint32_t i = 0; i < IN_FLIGHT; i++) {
        const int len = snprintf(payload, sizeof(payload), "many-%u", i);
        const struct midge_outgoing request = {
            .subject = "ask.upper",
            .payload = payload,
            .payload_len = (size_t)len,
        };

        flights[i] = (struct flight){.peer = peer, .landed = &landed, .index = i};
        must(peer,
             midge_client_request_async(peer->client, &request, NULL, NULL, &flights[i], land),
             "request");
    }
    while (landed < IN_FLIGHT)
        must(peer, midge_client_wait(peer->client, WAIT_MS), "wait for replies");
}

static void large_payload(struct peer *peer)
{
    char *payload = malloc(PAYLOAD_LEN_MAX);
    const struct midge_msg *reply = NULL;

    check(peer, payload != NULL, "out of memory");
    for (uint32_t i = 0; i < PAYLOAD_LEN_MAX; i++)
        payload[i] = (char)('a' + (char)(i % 26));
    must(peer,
         midge_client_request(peer->client, "ask.upper", payload, PAYLOAD_LEN_MAX, WAIT_MS, &reply),
         "request");
    to_upper(payload, PAYLOAD_LEN_MAX);
    check(peer,
          reply->payload.len == PAYLOAD_LEN_MAX &&
              memcmp(reply->payload.base, payload, PAYLOAD_LEN_MAX) == 0,
          "1 MiB came back changed, %u bytes", reply->payload.len);
    free(payload);
}

struct header {
    const char *name;
    const char *value;
    bool is_overtaken; /* another value of the name follows */
};

static const struct header reply_headers[] = {
    {"Alpha", "one", true}, {"Alpha", "two", false},         {"alpha", "three", false},
    {"Empty", "", false},   {"Text", "größer: 1, 2", false}, {"Answer", "1", true},
    {"Answer", "2", false},
};

#define REPLY_HEADERS   (sizeof(reply_headers) / sizeof(reply_headers[0]))
#define REQUEST_HEADERS (REPLY_HEADERS - 2) /* all but the answers */

static bool is_beyond(const struct peer *peer, const struct header *header)
{
    return (header->is_overtaken && peer->has_last_value_only) ||
           (header->value[0] == '\0' && peer->has_no_empty_value);
}

/* Values of one name are in order; names may come in any, since other clients keep them in hash
 * tables. */
static void check_headers(const struct peer *peer, const struct midge_headers *headers)
{
    bool is_taken[REPLY_HEADERS] = {false};
    const uint32_t count = midge_headers_count(headers);
    uint32_t wanted_count = 0;

    check(peer, count <= REPLY_HEADERS, "%u headers", count);
    for (size_t i = 0; i < REPLY_HEADERS; i++) {
        const struct header *wanted = &reply_headers[i];
        const char *name = "";
        const char *value = "nothing";

        if (is_beyond(peer, wanted))
            continue;
        wanted_count++;
        for (uint32_t k = 0; k < count; k++) {
            midge_headers_at(headers, k, &name, &value);
            if (!is_taken[k] && strcmp(name, wanted->name) == 0) {
                is_taken[k] = true;
                break;
            }
        }
        check(peer, strcmp(name, wanted->name) == 0 && strcmp(value, wanted->value) == 0,
              "header %s: '%s', wanted '%s'", wanted->name, value, wanted->value);
    }
    check(peer, count == wanted_count, "%u headers, wanted %u", count, wanted_count);
}

static void headers(struct peer *peer)
{
    struct midge_headers *sent = midge_headers_create();
    struct midge_headers *received = NULL;
    const struct midge_msg *reply = NULL;
    const struct midge_outgoing request = {
        .subject = "ask.headers",
        .headers = sent,
        .payload = "body",
        .payload_len = strlen("body"),
    };

    check(peer, sent != NULL, "out of memory");
    for (size_t i = 0; i < REQUEST_HEADERS; i++) {
        if (reply_headers[i].is_overtaken || !is_beyond(peer, &reply_headers[i]))
            must(peer, midge_headers_add(sent, reply_headers[i].name, reply_headers[i].value),
                 "header");
    }
    must(peer, midge_client_request_msg(peer->client, &request, WAIT_MS, &reply), "request");
    check(peer, is_text(reply->payload, "body"), "payload after headers: '%.*s'",
          MIDGE_SLICE_PRINT(reply->payload));
    received = midge_headers_copy(reply);
    check(peer, received != NULL, "out of memory");
    check_headers(peer, received);
    midge_headers_destroy(received);
    midge_headers_destroy(sent);
}

static void publish(struct peer *peer)
{
    char wanted[32];

    (void)snprintf(wanted, sizeof(wanted), "%u in order", COUNT);
    publish_numbers(peer, "sink");
    check_ask(peer, "ask.count", "", wanted);
}

static void subscribe(struct peer *peer)
{
    struct midge_sub *source = NULL;
    const struct midge_msg *msg = NULL;

    must(peer, midge_client_subscribe(peer->client, "source", NULL, &source, NULL, NULL),
         "subscribe");
    check_ask(peer, "ask.send", "", "");
    for (uint32_t i = 0; i < COUNT; i++) {
        must(peer, midge_sub_next(source, 0, &msg), "next message");
        check(peer, is_numbered(msg, i), "message %u is '%.*s' with %u bytes of headers", i,
              MIDGE_SLICE_PRINT(msg->payload), msg->headers.len);
    }
    check(peer, midge_sub_next(source, 0, &msg) == MIDGE_E_TIMEOUT, "one message too many");
    midge_sub_destroy(source);
}

/* Counts the numbers in a list with blanks. @return how many there are */
static uint32_t count_numbers(const struct peer *peer, const char *list, uint32_t *seen)
{
    char *end = NULL;
    uint32_t count = 0;

    for (long number = strtol(list, &end, 10); end != list; number = strtol(list, &end, 10)) {
        check(peer, number >= 0 && number < (long)JOB_COUNT, "nobody published %ld", number);
        seen[number]++;
        count++;
        list = end;
    }
    return count;
}

static void queue_group(struct peer *peer)
{
    const struct midge_sub_options member = {.queue = "workers"};
    struct midge_sub *work = NULL;
    const struct midge_msg *msg = NULL;
    uint32_t seen[JOB_COUNT] = {0};
    uint32_t theirs = 0;
    uint32_t ours = 0;
    char text[TEXT_LEN_MAX];

    must(peer, midge_client_subscribe(peer->client, "work", &member, &work, NULL, NULL),
         "subscribe");
    must(peer, midge_client_flush(peer->client, WAIT_MS, NULL), "flush");
    for (uint32_t i = 0; i < JOB_COUNT; i++) {
        const int len = snprintf(text, sizeof(text), "%u", i);

        must(peer, midge_client_publish(peer->client, "work", text, (size_t)len), "publish");
    }
    msg = ask(peer, "ask.share", "");
    (void)snprintf(text, sizeof(text), "%.*s", MIDGE_SLICE_PRINT(msg->payload));
    theirs = count_numbers(peer, text, seen);
    while (midge_sub_next(work, 0, &msg) == MIDGE_OK) {
        (void)snprintf(text, sizeof(text), "%.*s", MIDGE_SLICE_PRINT(msg->payload));
        ours += count_numbers(peer, text, seen);
    }
    check(peer, theirs > 0 && ours > 0, "%u and %u messages: each member gets a share", theirs,
          ours);
    for (uint32_t i = 0; i < JOB_COUNT; i++)
        check(peer, seen[i] == 1, "message %u reached %u members", i, seen[i]);
    midge_sub_destroy(work);
}

static void no_responders(struct peer *peer)
{
    const struct midge_msg *reply = NULL;
    enum midge_status status = MIDGE_OK;

    status = midge_client_request(peer->client, "nobody", NULL, 0, WAIT_MS, &reply);
    check(peer, status == MIDGE_E_NO_RESPONDERS, "request that nobody serves: %s",
          midge_client_status_text(status));
    status = midge_client_request(peer->client, "ask.silent", NULL, 0, QUIET_MS, &reply);
    check(peer, status == MIDGE_E_TIMEOUT, "request that nobody answers: %s",
          midge_client_status_text(status));
}

static void responder_leaves(struct peer *peer)
{
    const struct midge_msg *reply = NULL;
    enum midge_status status = MIDGE_OK;

    check_ask(peer, "ask.leave", "", "bye");
    for (int i = 0; i < WAIT_MS / QUIET_MS && status != MIDGE_E_NO_RESPONDERS; i++)
        status = midge_client_request(peer->client, "ask.upper", NULL, 0, QUIET_MS, &reply);
    check(peer, status == MIDGE_E_NO_RESPONDERS, "request when the responder has left: %s",
          midge_client_status_text(status));
}

static void request_all(struct peer *peer)
{
    static const struct {
        const char *name;
        void (*run)(struct peer *peer);
    } scenarios[] = {
        {"request_reply", request_reply},
        {"requests_in_flight", requests_in_flight},
        {"large_payload", large_payload},
        {"headers", headers},
        {"publish", publish},
        {"subscribe", subscribe},
        {"queue_group", queue_group},
        {"no_responders", no_responders},
        {"responder_leaves", responder_leaves},
    };

    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        peer->step = scenarios[i].name;
        scenarios[i].run(peer);
        printf("ok %s\n", peer->step);
    }
}

int main(int argc, char **argv)
{
    struct peer peer = {.step = "connect"};
    const char *role = argc > 1 ? argv[argc - 1] : "";
    enum midge_status status = MIDGE_OK;
    char why[160] = "";

    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--last-value") == 0)
            peer.has_last_value_only = true;
        else if (strcmp(argv[i], "--no-empty") == 0)
            peer.has_no_empty_value = true;
        else
            check(&peer, false, "no such option: %s", argv[i]);
    }
    status = midge_client_create(NULL, &peer.client, why);
    check(&peer, status == MIDGE_OK, "%s: %s", midge_client_status_text(status), why);
    must(&peer, midge_client_connect(peer.client, WAIT_MS), "connect");
    if (strcmp(role, "responder") == 0)
        respond_to_all(&peer);
    else if (strcmp(role, "requester") == 0)
        request_all(&peer);
    else
        check(&peer, false, "no such role: %s", role);
    midge_client_destroy(peer.client);
    return EXIT_SUCCESS;
}
