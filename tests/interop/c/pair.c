/*
 * nats.c as the responder or the requester of a pair. See run_pair.py for what the two say to each
 * other. A header without value is not among it: nats.c 3.4 takes the next line for the value.
 *
 *     nats_c_pair responder|requester
 *
 * All subscriptions but that of the requests in flight are synchronous: one thread of the library
 * puts what comes into their queues in order, so when a request is here, so is all that was sent
 * before it.
 *
 * Thread: main.
 */
#include <ctype.h>
#include <stdint.h>

#include "support.h"

#define COUNT         200
#define JOB_COUNT     300
#define IN_FLIGHT     100
#define TEXT_LEN_MAX  8192
#define DRAIN_WAIT_MS 5000

/* Numbers from 0, as payloads and as headers. */
static natsMsg *numbered(const char *subject, int i)
{
    natsMsg *message = NULL;
    char number[16];
    const int len = snprintf(number, sizeof(number), "%d", i);

    check_status(natsMsg_Create(&message, subject, NULL, number, len), NATS_OK, "message");
    if (i % 2 == 1)
        check_status(natsMsgHeader_Set(message, "Number", number), NATS_OK, "header");
    return message;
}

static void publish_numbers(natsConnection *connection, const char *subject)
{
    for (int i = 0; i < COUNT; i++) {
        natsMsg *message = numbered(subject, i);

        check_status(natsConnection_PublishMsg(connection, message), NATS_OK, subject);
        natsMsg_Destroy(message);
    }
}

static bool is_numbered(natsMsg *message, int i)
{
    const char **names = NULL;
    const char *value = "";
    int names_count = 0;
    char number[16];

    snprintf(number, sizeof(number), "%d", i);
    if (strcmp(natsMsg_GetData(message), number) != 0)
        return false;
    if (natsMsgHeader_Keys(message, &names, &names_count) == NATS_OK)
        free((void *)names);
    if (i % 2 == 0)
        return names_count == 0;
    return names_count == 1 && natsMsgHeader_Get(message, "Number", &value) == NATS_OK &&
           strcmp(value, number) == 0;
}

/* Takes all messages that wait. What ask.count answers goes to `text`, of TEXT_LEN_MAX bytes. */
static void judge_numbers(natsSubscription *sub, char *text)
{
    natsMsg *message = NULL;
    int count = 0;
    bool is_right = true;

    while (natsSubscription_NextMsg(&message, sub, 1) == NATS_OK) {
        if (is_right && !is_numbered(message, count)) {
            is_right = false;
            snprintf(text, TEXT_LEN_MAX, "message %d is %.100s", count, natsMsg_GetData(message));
        }
        count++;
        natsMsg_Destroy(message);
    }
    if (is_right)
        snprintf(text, TEXT_LEN_MAX, "%d in order", count);
}

/* Takes all messages that wait. Their payloads go to `text`, a blank behind each. */
static void list_payloads(natsSubscription *sub, char *text)
{
    natsMsg *message = NULL;
    size_t len = 0;

    text[0] = '\0';
    while (natsSubscription_NextMsg(&message, sub, 1) == NATS_OK) {
        len += (size_t)snprintf(text + len, TEXT_LEN_MAX - len, "%s ", natsMsg_GetData(message));
        check(len < TEXT_LEN_MAX, "the list of messages is too long");
        natsMsg_Destroy(message);
    }
}

static void to_upper(char *text, int len)
{
    for (int i = 0; i < len; i++)
        text[i] = (char)toupper((unsigned char)text[i]);
}

static void respond_in_upper_case(natsConnection *connection, natsMsg *request)
{
    const int len = natsMsg_GetDataLength(request);
    char *payload = malloc((size_t)len + 1);

    check(payload != NULL, "out of memory");
    memcpy(payload, natsMsg_GetData(request), (size_t)len);
    to_upper(payload, len);
    check_status(natsConnection_Publish(connection, natsMsg_GetReply(request), payload, len),
                 NATS_OK, "respond");
    free(payload);
}

static void respond_with_headers(natsConnection *connection, natsMsg *request)
{
    natsMsg *answer = NULL;
    const char **names = NULL;
    int names_count = 0;

    check_status(natsMsg_Create(&answer, natsMsg_GetReply(request), NULL, natsMsg_GetData(request),
                                natsMsg_GetDataLength(request)),
                 NATS_OK, "answer");
    check_status(natsMsgHeader_Keys(request, &names, &names_count), NATS_OK, "headers");
    for (int i = 0; i < names_count; i++) {
        const char **values = NULL;
        int values_count = 0;

        check_status(natsMsgHeader_Values(request, names[i], &values, &values_count), NATS_OK,
                     names[i]);
        for (int k = 0; k < values_count; k++)
            check_status(natsMsgHeader_Add(answer, names[i], values[k]), NATS_OK, names[i]);
        free((void *)values);
    }
    free((void *)names);
    check_status(natsMsgHeader_Add(answer, "Answer", "1"), NATS_OK, "Answer");
    check_status(natsMsgHeader_Add(answer, "Answer", "2"), NATS_OK, "Answer");
    check_status(natsConnection_PublishMsg(connection, answer), NATS_OK, "answer");
    natsMsg_Destroy(answer);
}

static void respond_to_all(natsConnection *connection, struct events *events)
{
    natsSubscription *sink = subscribe(connection, "sink");
    natsSubscription *work = join(connection, "work", "workers");
    natsSubscription *asked = subscribe(connection, "ask.*");
    char text[TEXT_LEN_MAX];
    bool has_left = false;

    flush(connection);
    printf("ready\n");
    while (!has_left) {
        natsMsg *request = next_message(asked);
        const char *what = natsMsg_GetSubject(request) + strlen("ask.");

        text[0] = '\0';
        if (strcmp(what, "upper") == 0) {
            respond_in_upper_case(connection, request);
        } else if (strcmp(what, "headers") == 0) {
            respond_with_headers(connection, request);
        } else if (strcmp(what, "silent") != 0) {
            if (strcmp(what, "send") == 0)
                publish_numbers(connection, "source");
            else if (strcmp(what, "count") == 0)
                judge_numbers(sink, text);
            else if (strcmp(what, "share") == 0)
                list_payloads(work, text);
            else
                snprintf(text, sizeof(text), "bye");
            publish(connection, natsMsg_GetReply(request), text);
            has_left = strcmp(what, "leave") == 0;
        }
        natsMsg_Destroy(request);
    }
    /* A synchronous subscription is drained by whoever takes its messages; these do not matter. */
    natsSubscription_Destroy(sink);
    natsSubscription_Destroy(work);
    natsSubscription_Destroy(asked);
    check_status(natsConnection_DrainTimeout(connection, DRAIN_WAIT_MS), NATS_OK, "drain");
    wait_for_flag(&events->closed, "drained connection closes");
}

/* `text`, of TEXT_LEN_MAX bytes, is what the responder says. */
static void ask(natsConnection *connection, const char *subject, const char *payload, char *text)
{
    natsMsg *reply = NULL;

    check_status(natsConnection_RequestString(&reply, connection, subject, payload, WAIT_MS),
                 NATS_OK, subject);
    snprintf(text, TEXT_LEN_MAX, "%s", natsMsg_GetData(reply));
    natsMsg_Destroy(reply);
}

static void check_ask(natsConnection *connection, const char *subject, const char *payload,
                      const char *wanted)
{
    char text[TEXT_LEN_MAX];

    ask(connection, subject, payload, text);
    check(strcmp(text, wanted) == 0, "%s: '%s', wanted '%s'", subject, text, wanted);
}

static void request_reply(natsConnection *connection)
{
    char payload[16];
    char wanted[16];

    for (int i = 0; i < 100; i++) {
        snprintf(payload, sizeof(payload), "one-%d", i);
        snprintf(wanted, sizeof(wanted), "ONE-%d", i);
        check_ask(connection, "ask.upper", payload, wanted);
    }
}

/* nats.c has no asynchronous requests: they are published with a reply subject of our own. */
static void requests_in_flight(natsConnection *connection)
{
    natsSubscription *replies = NULL;
    natsInbox *inbox = NULL;
    char payload[16];

    check_status(natsInbox_Create(&inbox), NATS_OK, "inbox");
    replies = subscribe(connection, inbox);
    for (int i = 0; i < IN_FLIGHT; i++) {
        snprintf(payload, sizeof(payload), "many-%d", i);
        check_status(natsConnection_PublishRequestString(connection, "ask.upper", inbox, payload),
                     NATS_OK, "request");
    }
    for (int i = 0; i < IN_FLIGHT; i++) {
        natsMsg *reply = next_message(replies);

        snprintf(payload, sizeof(payload), "MANY-%d", i);
        check_payload(reply, payload);
        natsMsg_Destroy(reply);
    }
    natsSubscription_Destroy(replies);
    natsInbox_Destroy(inbox);
}

static void large_payload(natsConnection *connection)
{
    char *payload = malloc(PAYLOAD_LEN_MAX);
    natsMsg *reply = NULL;

    check(payload != NULL, "out of memory");
    for (int i = 0; i < PAYLOAD_LEN_MAX; i++)
        payload[i] = (char)('a' + i % 26);
    check_status(
        natsConnection_Request(&reply, connection, "ask.upper", payload, PAYLOAD_LEN_MAX, WAIT_MS),
        NATS_OK, "request");
    to_upper(payload, PAYLOAD_LEN_MAX);
    check(natsMsg_GetDataLength(reply) == PAYLOAD_LEN_MAX &&
              memcmp(natsMsg_GetData(reply), payload, PAYLOAD_LEN_MAX) == 0,
          "1 MiB came back changed, %d bytes", natsMsg_GetDataLength(reply));
    natsMsg_Destroy(reply);
    free(payload);
}

static void headers(natsConnection *connection)
{
    natsMsg *request = NULL;
    natsMsg *reply = NULL;
    const char **names = NULL;
    int names_count = 0;

    check_status(natsMsg_Create(&request, "ask.headers", NULL, "body", 4), NATS_OK, "request");
    natsMsgHeader_Add(request, "Alpha", "one");
    natsMsgHeader_Add(request, "Alpha", "two");
    natsMsgHeader_Add(request, "alpha", "three");
    natsMsgHeader_Add(request, "Text", "größer: 1, 2");
    check_status(natsConnection_RequestMsg(&reply, connection, request, WAIT_MS), NATS_OK,
                 "request");
    check_status(natsMsgHeader_Keys(reply, &names, &names_count), NATS_OK, "headers");
    check(names_count == 4, "%d header names in the reply, wanted 4", names_count);
    check_header(reply, "Alpha", 2, "one", "two");
    check_header(reply, "alpha", 1, "three");
    check_header(reply, "Text", 1, "größer: 1, 2");
    check_header(reply, "Answer", 2, "1", "2");
    check_payload(reply, "body");
    free((void *)names);
    natsMsg_Destroy(request);
    natsMsg_Destroy(reply);
}

static void publish_to_responder(natsConnection *connection)
{
    char wanted[32];

    snprintf(wanted, sizeof(wanted), "%d in order", COUNT);
    publish_numbers(connection, "sink");
    check_ask(connection, "ask.count", "", wanted);
}

static void subscribe_to_responder(natsConnection *connection)
{
    natsSubscription *source = subscribe(connection, "source");
    char text[TEXT_LEN_MAX];
    char wanted[32];

    snprintf(wanted, sizeof(wanted), "%d in order", COUNT);
    check_ask(connection, "ask.send", "", "");
    judge_numbers(source, text);
    check(strcmp(text, wanted) == 0, "%s, wanted %s", text, wanted);
    natsSubscription_Destroy(source);
}

/* Counts the numbers in a list with blanks. @return how many there are */
static int count_numbers(const char *list, int *seen)
{
    char *end = NULL;
    int count = 0;

    for (long number = strtol(list, &end, 10); end != list; number = strtol(list, &end, 10)) {
        check(number >= 0 && number < JOB_COUNT, "nobody published %ld", number);
        seen[number]++;
        count++;
        list = end;
    }
    return count;
}

static void queue_group(natsConnection *connection)
{
    natsSubscription *work = join(connection, "work", "workers");
    int seen[JOB_COUNT] = {0};
    char text[TEXT_LEN_MAX];
    char number[16];
    int theirs = 0;
    int ours = 0;

    flush(connection);
    for (int i = 0; i < JOB_COUNT; i++) {
        snprintf(number, sizeof(number), "%d", i);
        publish(connection, "work", number);
    }
    ask(connection, "ask.share", "", text);
    theirs = count_numbers(text, seen);
    list_payloads(work, text);
    ours = count_numbers(text, seen);
    check(theirs > 0 && ours > 0, "%d and %d messages: each member gets a share", theirs, ours);
    for (int i = 0; i < JOB_COUNT; i++)
        check(seen[i] == 1, "message %d reached %d members", i, seen[i]);
    natsSubscription_Destroy(work);
}

static void no_responders(natsConnection *connection)
{
    natsMsg *reply = NULL;

    check_no_responders(connection, "nobody");
    check_status(natsConnection_RequestString(&reply, connection, "ask.silent", "", QUIET_MS),
                 NATS_TIMEOUT, "request that nobody answers");
}

static void responder_leaves(natsConnection *connection)
{
    natsStatus status = NATS_OK;

    check_ask(connection, "ask.leave", "", "bye");
    for (int i = 0; i < WAIT_MS / QUIET_MS && status != NATS_NO_RESPONDERS; i++) {
        natsMsg *reply = NULL;

        status = natsConnection_RequestString(&reply, connection, "ask.upper", "", QUIET_MS);
        natsMsg_Destroy(reply);
    }
    check_status(status, NATS_NO_RESPONDERS, "request when the responder has left");
}

static void request_all(natsConnection *connection)
{
    static const struct {
        const char *name;
        void (*run)(natsConnection *connection);
    } scenarios[] = {
        {"request_reply", request_reply},       {"requests_in_flight", requests_in_flight},
        {"large_payload", large_payload},       {"headers", headers},
        {"publish", publish_to_responder},      {"subscribe", subscribe_to_responder},
        {"queue_group", queue_group},           {"no_responders", no_responders},
        {"responder_leaves", responder_leaves},
    };

    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        scenario_name = scenarios[i].name;
        scenarios[i].run(connection);
        printf("ok %s\n", scenario_name);
    }
}

int main(int argc, char **argv)
{
    static struct events events;
    const char *role = argc == 2 ? argv[1] : "";
    natsConnection *connection = open_connection(&events);

    setvbuf(stdout, NULL, _IOLBF, 0);
    scenario_name = role;
    if (strcmp(role, "responder") == 0)
        respond_to_all(connection, &events);
    else if (strcmp(role, "requester") == 0)
        request_all(connection);
    else
        check(false, "no such role");
    natsConnection_Destroy(connection);
    nats_Close();
    return 0;
}
