/*
 * Services: what they answer, how requests and errors count, and how they end. Method: a service
 * and its requester share a client, or have one each; what a service says is looked for as text.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#include "rig.h"

static struct midge_service *begin(struct midge_client *client, const char *name)
{
    const struct midge_service_options options = {.name = name, .version = "1.2.3"};
    struct midge_service *service;

    MUST(midge_service_create(client, &options, &service));
    return service;
}

static void add(struct midge_service *service, const char *name, void *context,
                midge_request_cb request_cb)
{
    const struct midge_endpoint_options options = {.name = name};

    MUST(midge_service_add(service, &options, context, request_cb));
}

/* The payload of the answer to a request must hold a text. */
static void expect_answer(const struct midge_rig *rig, struct midge_client *client,
                          const char *subject, const char *wanted)
{
    const struct midge_msg *reply;

    MUST(midge_client_request(client, subject, NULL, 0, RIG_PATIENCE_MS, &reply));
    if (memmem(reply->payload.base, reply->payload.len, wanted, strlen(wanted)) == NULL)
        midge_rig_fail(__FILE__, __LINE__, "%s: %.*s does not hold %s", subject,
                       MIDGE_SLICE_PRINT(reply->payload), wanted);
    midge_rig_done(rig, reply);
}

static void expect_nobody(struct midge_client *client, const char *subject)
{
    const struct midge_msg *reply;

    CHECK_STATUS(midge_client_request(client, subject, NULL, 0, RIG_PATIENCE_MS, &reply),
                 MIDGE_E_NO_RESPONDERS);
}

/* --- what they say --- */

static void each_form_of_each_verb_is_answered(struct midge_rig *rig)
{
    static const char *const verbs[] = {"PING", "INFO", "STATS"};
    static const char *const types[] = {"ping", "info", "stats"};
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_service *service = begin(client, "forms");
    char subject[128];
    char type[128];

    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        (void)snprintf(
            type, sizeof(type),
            "{\"type\":\"io.nats.micro.v1.%s_response\",\"name\":\"forms\",\"id\":\"%s\","
            "\"version\":\"1.2.3\",\"metadata\":{}",
            types[i], midge_service_id(service));
        (void)snprintf(subject, sizeof(subject), "$SRV.%s", verbs[i]);
        expect_answer(rig, client, subject, type);
        (void)snprintf(subject, sizeof(subject), "$SRV.%s.forms", verbs[i]);
        expect_answer(rig, client, subject, type);
        (void)snprintf(subject, sizeof(subject), "$SRV.%s.forms.%s", verbs[i],
                       midge_service_id(service));
        expect_answer(rig, client, subject, type);
        (void)snprintf(subject, sizeof(subject), "$SRV.%s.others", verbs[i]);
        expect_nobody(client, subject);
    }
    midge_service_destroy(service);
    expect_nobody(client, "$SRV.PING");
    midge_client_destroy(client);
}

static void info_shows_what_endpoints_really_use(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_headers *metadata = midge_headers_create();
    const struct midge_service_options options = {
        .name = "shown",
        .version = "1.2.3",
        .description = "says \"hello\"",
        .queue = "team",
        .metadata = metadata,
    };
    const struct midge_endpoint_options plain = {.name = "plain"};
    const struct midge_endpoint_options full = {
        .name = "full", .subject = "a.*.>", .queue = "own", .metadata = metadata};
    const struct midge_endpoint_options each = {.name = "each", .queue = ""};
    struct midge_service *service;

    CHECK(metadata != NULL);
    MUST(midge_headers_add(metadata, "k", "first"));
    MUST(midge_headers_add(metadata, "k", "second"));
    MUST(midge_headers_add(metadata, "l", "\xff<"));
    MUST(midge_service_create(client, &options, &service));
    MUST(midge_service_add(service, &plain, NULL, midge_rig_echo));
    MUST(midge_service_add(service, &full, NULL, midge_rig_echo));
    MUST(midge_service_add(service, &each, NULL, midge_rig_echo));
    midge_headers_destroy(metadata);
    expect_answer(
        rig, client, "$SRV.INFO.shown",
        "\"version\":\"1.2.3\",\"metadata\":{\"k\":\"first\",\"l\":\"\\ufffd\\u003c\"},"
        "\"description\":\"says \\\"hello\\\"\",\"endpoints\":["
        "{\"name\":\"plain\",\"subject\":\"plain\",\"queue_group\":\"team\",\"metadata\":{}},"
        "{\"name\":\"full\",\"subject\":\"a.*.\\u003e\",\"queue_group\":\"own\","
        "\"metadata\":{\"k\":\"first\",\"l\":\"\\ufffd\\u003c\"}},"
        "{\"name\":\"each\",\"subject\":\"each\",\"queue_group\":\"\",\"metadata\":{}}]}");
    midge_service_destroy(service);
    midge_client_destroy(client);
}

static void names_and_versions_are_checked(struct midge_rig *rig)
{
    static const char *const bad_names[] = {"", "a.b", "a b", "a*", "\xc3\xa4", "a\n", NULL};
    static const char *const bad_versions[] = {
        "",       "1",      "1.2",      "1.2.",     "1.2.3.4", "01.2.3", "1.02.3",    "1.2.03",
        "v1.2.3", "1.2.3-", "1.2.3-a.", "1.2.3-01", "1.2.3+",  "1.2.3 ", "1.2.3-a_b", NULL};
    static const char *const good_versions[] = {"0.0.0",        "10.20.30",   "1.2.3-rc.1",
                                                "1.2.3-0a.-.0", "1.2.3+01.b", "1.2.3-a+b-c"};
    struct midge_client *client = midge_rig_create(rig, NULL);
    struct midge_service_options options = {.version = "1.2.3"};
    struct midge_endpoint_options endpoint = {.name = "good"};
    struct midge_service *service;
    char long_name[3902];

    memset(long_name, 'n', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    options.name = long_name;
    CHECK_STATUS(midge_service_create(client, &options, &service), MIDGE_E_CONFIG);
    for (size_t i = 0; i < sizeof(bad_names) / sizeof(bad_names[0]); i++) {
        options.name = bad_names[i];
        CHECK_STATUS(midge_service_create(client, &options, &service), MIDGE_E_CONFIG);
    }
    options.name = "Good-name_1";
    for (size_t i = 0; i < sizeof(bad_versions) / sizeof(bad_versions[0]); i++) {
        options.version = bad_versions[i];
        CHECK_STATUS(midge_service_create(client, &options, &service), MIDGE_E_CONFIG);
    }
    for (size_t i = 0; i < sizeof(good_versions) / sizeof(good_versions[0]); i++) {
        options.version = good_versions[i];
        MUST(midge_service_create(client, &options, &service));
        midge_service_destroy(service);
    }
    options.queue = "a b";
    CHECK_STATUS(midge_service_create(client, &options, &service), MIDGE_E_CONFIG);
    options.queue = NULL;
    options.name = long_name + 1;
    MUST(midge_service_create(client, &options, &service));
    for (size_t i = 0; i < sizeof(bad_names) / sizeof(bad_names[0]); i++) {
        endpoint.name = bad_names[i];
        CHECK_STATUS(midge_service_add(service, &endpoint, NULL, midge_rig_echo), MIDGE_E_CONFIG);
    }
    endpoint.name = "good";
    endpoint.subject = "not..good";
    CHECK_STATUS(midge_service_add(service, &endpoint, NULL, midge_rig_echo), MIDGE_E_SUBJECT);
    endpoint.subject = NULL;
    endpoint.queue = "a b";
    CHECK_STATUS(midge_service_add(service, &endpoint, NULL, midge_rig_echo), MIDGE_E_SUBJECT);
    midge_client_destroy(client);
}

/* --- requests --- */

/* Two instances with one endpoint each. @return how many of them answer one request */
static uint32_t count_answers(const struct midge_rig *rig, const char *queue)
{
    const struct midge_endpoint_options endpoint = {.name = "who", .queue = queue};
    const struct midge_outgoing question = {.subject = "who", .reply = "answers"};
    struct midge_client *requester = midge_rig_connect(rig, NULL);
    struct midge_rig_heard heard = {.count = 0};
    struct midge_client *clients[2];
    struct midge_service *service;

    (void)midge_rig_listen(requester, "answers", &heard, midge_rig_hear);
    for (uint32_t i = 0; i < 2; i++) {
        clients[i] = midge_rig_connect(rig, NULL);
        service = begin(clients[i], "twins");
        MUST(midge_service_add(service, &endpoint, NULL, midge_rig_echo));
        midge_rig_flush(clients[i]);
    }
    MUST(midge_client_publish_msg(requester, &question));
    midge_rig_flush(requester);
    for (uint32_t i = 0; i < 2; i++) {
        midge_rig_flush(clients[i]); /* the request comes before the PONG */
        midge_rig_flush(clients[i]); /* and its answer is at the server */
    }
    midge_rig_flush(requester);
    for (uint32_t i = 0; i < 2; i++)
        midge_client_destroy(clients[i]);
    midge_client_destroy(requester);
    return heard.count;
}

static void one_of_a_group_answers_or_each_without_group(struct midge_rig *rig)
{
    CHECK_EQUAL(count_answers(rig, NULL), 1);
    CHECK_EQUAL(count_answers(rig, ""), 2);
}

/* Answer with an error whose text is the payload of the request. */
static void refuse(void *context, const struct midge_msg *request)
{
    struct midge_service **service = context;
    char text[512];

    (void)snprintf(text, sizeof(text), "%.*s", MIDGE_SLICE_PRINT(request->payload));
    CHECK_STATUS(midge_service_error(*service, request, 0, text), MIDGE_E_HEADERS);
    CHECK_STATUS(midge_service_error(*service, request, 500, ""), MIDGE_E_HEADERS);
    CHECK_STATUS(midge_service_error(*service, request, 500, "a\nb"), MIDGE_E_HEADERS);
    MUST(midge_service_error(*service, request, 41800, text));
}

static void expect_refusal(const struct midge_rig *rig, struct midge_client *client,
                           const char *text)
{
    const struct midge_msg *reply;
    struct midge_slice value;

    MUST(midge_client_request(client, "refuse", text, strlen(text), RIG_PATIENCE_MS, &reply));
    CHECK_EQUAL(reply->payload.len, 0);
    CHECK(midge_msg_header(reply, "Nats-Service-Error-Code", &value));
    CHECK_TEXT(value, "41800");
    CHECK(midge_msg_header(reply, "Nats-Service-Error", &value));
    CHECK_TEXT(value, text);
    midge_rig_done(rig, reply);
}

static void errors_count_and_the_last_one_is_shown(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_service *service = begin(client, "errors");
    char text[301];
    char wanted[512];

    add(service, "refuse", &service, refuse);
    add(service, "echo", NULL, midge_rig_echo);
    expect_refusal(rig, client, "no tea");
    expect_answer(rig, client, "echo", "");
    expect_answer(rig, client, "$SRV.STATS.errors",
                  "\"name\":\"refuse\",\"subject\":\"refuse\",\"queue_group\":\"q\","
                  "\"num_requests\":1,\"num_errors\":1,\"last_error\":\"41800:no tea\",");
    expect_answer(rig, client, "$SRV.STATS.errors",
                  "\"name\":\"echo\",\"subject\":\"echo\",\"queue_group\":\"q\","
                  "\"num_requests\":1,\"num_errors\":0,\"last_error\":\"\",");
    /* A long one is cut there, not in the answer. */
    memset(text, 'e', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    expect_refusal(rig, client, text);
    (void)snprintf(wanted, sizeof(wanted), "\"num_errors\":2,\"last_error\":\"41800:%.249s\",",
                   text);
    expect_answer(rig, client, "$SRV.STATS.errors", wanted);
    midge_service_destroy(service);
    midge_client_destroy(client);
}

/* A request that nobody can answer is no error of the endpoint. */
static void refuse_unasked(void *context, const struct midge_msg *request)
{
    struct midge_service **service = context;

    CHECK_STATUS(midge_service_error(*service, request, 500, "x"), MIDGE_E_SUBJECT);
}

static void message_without_reply_is_a_request_but_no_error(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_service *service = begin(client, "unasked");

    add(service, "unasked", &service, refuse_unasked);
    midge_rig_publish(client, "unasked", "x");
    midge_rig_publish(client, "$SRV.PING", "x");
    expect_answer(rig, client, "$SRV.STATS.unasked",
                  "\"num_requests\":1,\"num_errors\":0,\"last_error\":\"\",");
    midge_service_destroy(service);
    midge_client_destroy(client);
}

/* What the server does not take: who asks is told, and does not wait in vain. */
static void answer_that_is_too_long_is_an_error(struct midge_rig *rig)
{
    struct midge_rig_server server = {.is_midge = rig->is_midge};
    struct midge_options options = midge_rig_options(rig);
    const struct midge_service_options named = {
        .name = "long",
        .version = "1.2.3",
        .description = "as long as what the server takes, so that there is no room for the rest of "
                       "what a service says about itself, such as its name, its version and its id "
                       "- but a PING does not ask for it, and is answered as ever by this service",
    };
    struct midge_service *service;
    struct midge_client *client;
    const struct midge_msg *reply;
    struct midge_slice value;

    midge_rig_server_start_with(rig, &server, "max_payload: 256\n");
    options.url = server.url;
    client = midge_rig_connect(rig, &options);
    MUST(midge_service_create(client, &named, &service));
    MUST(midge_client_request(client, "$SRV.INFO", NULL, 0, RIG_PATIENCE_MS, &reply));
    CHECK_EQUAL(reply->payload.len, 0);
    CHECK(midge_msg_header(reply, "Nats-Service-Error-Code", &value));
    CHECK_TEXT(value, "500");
    CHECK(midge_msg_header(reply, "Nats-Service-Error", &value));
    midge_rig_done(rig, reply);
    expect_answer(rig, client, "$SRV.PING", "\"name\":\"long\"");
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

struct keeping {
    const struct midge_msg *msg;
};

static void retain(void *context, const struct midge_msg *request)
{
    struct keeping *kept = context;

    kept->msg = midge_msg_retain(request);
}

static void retained_request_is_answered_later(struct midge_rig *rig)
{
    struct midge_client *server = midge_rig_connect(rig, NULL);
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_service *service = begin(server, "later");
    const struct midge_outgoing question = {.subject = "later", .reply = "answers"};
    struct midge_sub *answers = midge_rig_subscribe(client, "answers");
    struct keeping kept = {.msg = NULL};
    const struct midge_msg *reply;
    struct midge_slice value;

    add(service, "later", &kept, retain);
    midge_rig_flush(server);
    MUST(midge_client_publish_msg(client, &question));
    midge_rig_flush(client);
    WAIT_UNTIL(server, kept.msg != NULL);
    MUST(midge_service_error(service, kept.msg, 500, "too late"));
    midge_msg_release(kept.msg);
    midge_rig_flush(server);
    reply = midge_rig_next(answers);
    CHECK(midge_msg_header(reply, "Nats-Service-Error", &value));
    CHECK_TEXT(value, "too late");
    midge_rig_done(rig, reply);
    midge_client_destroy(client);
    midge_client_destroy(server);
}

/* --- the end --- */

static void drained_service_answers_what_was_on_its_way(struct midge_rig *rig)
{
    struct midge_client *server = midge_rig_connect(rig, NULL);
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_service *service = begin(server, "drained");
    struct midge_outgoing question = {.subject = "drained", .reply = "answers", .payload = "x"};
    struct midge_sub *answers = midge_rig_subscribe(client, "answers");

    question.payload_len = 1;
    add(service, "drained", NULL, midge_rig_echo);
    midge_rig_flush(server);
    for (uint32_t i = 0; i < 3; i++)
        MUST(midge_client_publish_msg(client, &question));
    midge_rig_flush(client); /* they wait at the socket of the service */
    MUST(midge_service_drain(service));
    MUST(midge_service_drain(service));
    midge_rig_flush(server); /* the call-backs have run */
    midge_rig_flush(server); /* and their answers are at the server */
    for (uint32_t i = 0; i < 3; i++)
        midge_rig_expect(rig, answers, "x");
    expect_nobody(client, "drained");
    expect_nobody(client, "$SRV.INFO.drained");
    midge_service_destroy(service);
    midge_client_destroy(client);
    midge_client_destroy(server);
}

static void answer_and_end(void *context, const struct midge_msg *request)
{
    struct midge_service **service = context;

    midge_rig_echo(NULL, request);
    midge_service_destroy(*service);
    *service = NULL;
    CHECK_EQUAL(request->payload.len, 0); /* still there */
}

static void service_may_end_in_its_own_call_back(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_service *service = begin(client, "brief");

    add(service, "brief", &service, answer_and_end);
    expect_answer(rig, client, "brief", "");
    CHECK(service == NULL);
    expect_nobody(client, "brief");
    expect_nobody(client, "$SRV.PING");
    midge_service_destroy(NULL);
    midge_client_destroy(client);
}

static void service_ends_with_its_client(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_service *service = begin(client, "bound");
    const struct midge_endpoint_options late = {.name = "late"};
    const struct midge_service_options options = {.name = "later", .version = "1.2.3"};

    add(service, "bound", NULL, midge_rig_echo);
    MUST(midge_client_drain(client, RIG_PATIENCE_MS));
    CHECK_STATUS(midge_service_add(service, &late, NULL, midge_rig_echo), MIDGE_E_CLOSED);
    CHECK_STATUS(midge_service_create(client, &options, &service), MIDGE_E_CLOSED);
    MUST(midge_service_drain(service));
    midge_client_destroy(client); /* what is left over would be a leak */
}

static void services_are_there_again_after_a_reconnect(struct midge_rig *rig)
{
    struct midge_rig_server server = {.is_midge = rig->is_midge};
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {.count = 0};
    struct midge_client *client;
    struct midge_service *service;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_create(rig, &options);
    service = begin(client, "back"); /* before the first connection is fine, too */
    add(service, "back", NULL, midge_rig_echo);
    MUST(midge_client_connect(client, RIG_PATIENCE_MS));
    expect_answer(rig, client, "back", "");
    midge_rig_server_kill(&server);
    midge_rig_server_again(&server);
    WAIT_UNTIL(client, events.counts[MIDGE_EVENT_RECONNECTED] == 1);
    expect_answer(rig, client, "back", "");
    expect_answer(rig, client, "$SRV.STATS.back", "\"num_requests\":2,");
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

/* --- threads --- */

struct meeting {
    struct midge_client *client;
    sem_t begun;
    sem_t ended;
    _Atomic bool is_stopped;
};

static void dawdle(void *context, const struct midge_msg *request)
{
    struct meeting *meeting = context;

    (void)request;
    CHECK(sem_post(&meeting->begun) == 0);
    CHECK(sem_wait(&meeting->ended) == 0);
}

static void *drive(void *context)
{
    struct meeting *meeting = context;

    while (!meeting->is_stopped) {
        const enum midge_status status = midge_client_wait(meeting->client, 50);
        CHECK(status == MIDGE_OK || status == MIDGE_AGAIN);
    }
    return NULL;
}

static void service_may_end_while_another_thread_is_in_its_call_back(struct midge_rig *rig)
{
    struct meeting meeting = {.is_stopped = false};
    struct midge_client *requester;
    struct midge_service *service;
    pthread_t thread;

    if (!rig->is_thread_safe)
        return;
    CHECK(sem_init(&meeting.begun, 0, 0) == 0);
    CHECK(sem_init(&meeting.ended, 0, 0) == 0);
    meeting.client = midge_rig_connect(rig, NULL);
    requester = midge_rig_connect(rig, NULL);
    service = begin(meeting.client, "slow");
    add(service, "slow", &meeting, dawdle);
    midge_rig_flush(meeting.client);
    CHECK(pthread_create(&thread, NULL, drive, &meeting) == 0);
    midge_rig_publish(requester, "slow", "x");
    midge_rig_flush(requester);
    CHECK(sem_wait(&meeting.begun) == 0);
    midge_service_destroy(service);
    CHECK(sem_post(&meeting.ended) == 0);
    meeting.is_stopped = true;
    CHECK(pthread_join(thread, NULL) == 0);
    midge_rig_flush(meeting.client); /* the server knows it, too */
    expect_nobody(requester, "slow");
    midge_client_destroy(requester);
    midge_client_destroy(meeting.client);
    CHECK(sem_destroy(&meeting.begun) == 0);
    CHECK(sem_destroy(&meeting.ended) == 0);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(each_form_of_each_verb_is_answered),
        RIG_CASE(info_shows_what_endpoints_really_use),
        RIG_CASE(names_and_versions_are_checked),
        RIG_CASE(one_of_a_group_answers_or_each_without_group),
        RIG_CASE(errors_count_and_the_last_one_is_shown),
        RIG_CASE(message_without_reply_is_a_request_but_no_error),
        RIG_CASE(answer_that_is_too_long_is_an_error),
        RIG_CASE(retained_request_is_answered_later),
        RIG_CASE(drained_service_answers_what_was_on_its_way),
        RIG_CASE(service_may_end_in_its_own_call_back),
        RIG_CASE(service_ends_with_its_client),
        RIG_CASE(services_are_there_again_after_a_reconnect),
        RIG_CASE(service_may_end_while_another_thread_is_in_its_call_back),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
