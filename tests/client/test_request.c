/*
 * Requests: blocking, asynchronous and of many replies; how they end when nobody answers, answers
 * late, or the connection is lost; responding.
 */
#include <stdlib.h>

#include "rig.h"

/* --- one reply --- */

static void request_gets_its_reply(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_msg *reply;

    /* One thread drives both: what it waits for here is answered by its own call-back. */
    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    for (uint32_t i = 0; i < 100; i++) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%u", i);
        MUST(midge_client_request(client, "echo", text, strlen(text), RIG_PATIENCE_MS, &reply));
        CHECK_TEXT(reply->payload, text);
        CHECK(reply->sub == NULL);
        midge_rig_done(rig, reply);
    }
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 0);
    midge_client_destroy(client);
}

static void answer_with_headers(void *context, const struct midge_msg *msg)
{
    struct midge_headers *headers = midge_headers_create();
    struct midge_slice value;
    char text[32];

    (void)context;
    CHECK(headers != NULL);
    CHECK(midge_msg_header(msg, "Question", &value));
    (void)snprintf(text, sizeof(text), "%.*s!", MIDGE_SLICE_PRINT(value));
    MUST(midge_headers_add(headers, "Answer", text));
    MUST(midge_msg_respond_headers(msg, headers, "body", 4));
    midge_headers_destroy(headers);
}

static void headers_travel_both_ways(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_headers *headers = midge_headers_create();
    const struct midge_outgoing outgoing = {.subject = "headers", .headers = headers};
    const struct midge_msg *reply;
    struct midge_slice value;

    CHECK(headers != NULL);
    MUST(midge_headers_add(headers, "Question", "why"));
    (void)midge_rig_listen(client, "headers", NULL, answer_with_headers);
    MUST(midge_client_request_msg(client, &outgoing, RIG_PATIENCE_MS, &reply));
    CHECK(midge_msg_header(reply, "Answer", &value));
    CHECK_TEXT(value, "why!");
    CHECK_TEXT(reply->payload, "body");
    midge_rig_done(rig, reply);
    midge_headers_destroy(headers);
    midge_client_destroy(client);
}

static void silence_absence_and_loss_are_three_statuses(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    const struct midge_msg *reply;
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    options.reconnect_wait_ms = 1;
    options.drain_timeout_ms = 1;
    client = midge_rig_connect(rig, &options);
    CHECK_STATUS(midge_client_request(client, "absent", "", 0, RIG_PATIENCE_MS, &reply),
                 MIDGE_E_NO_RESPONDERS);
    (void)midge_rig_subscribe(client, "silent");
    CHECK_STATUS(midge_client_request(client, "silent", "", 0, 20, &reply), MIDGE_E_TIMEOUT);
    midge_rig_server_kill(&server);
    CHECK_STATUS(midge_client_request(client, "silent", "", 0, RIG_PATIENCE_MS, &reply),
                 MIDGE_E_DISCONNECTED);
    CHECK_STATUS(midge_client_request(client, "silent", "", 0, 20, &reply), MIDGE_E_DISCONNECTED);
    midge_client_destroy(client);
    midge_rig_server_end(&server);
}

static void late_reply_finds_nobody(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "late");
    const struct midge_msg *request;
    const struct midge_msg *reply;

    CHECK_STATUS(midge_client_request(client, "late", "one", 3, 20, &reply), MIDGE_E_TIMEOUT);
    request = midge_rig_next(sub);
    MUST(midge_msg_respond(request, "late", 4));
    midge_rig_done(rig, request);
    midge_rig_flush(client);
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 1);
    /* The place of the old request is used anew, and the old reply is not taken for the new one. */
    CHECK_STATUS(midge_client_request(client, "late", "two", 3, 20, &reply), MIDGE_E_TIMEOUT);
    midge_client_destroy(client);
}

static void request_with_a_reply_subject_is_refused(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "a", .reply = "b"};
    const struct midge_msg *reply;

    CHECK_STATUS(midge_client_request_msg(client, &outgoing, 1000, &reply), MIDGE_E_SUBJECT);
    CHECK_STATUS(midge_client_request_async(client, &outgoing, NULL, NULL, NULL, NULL),
                 MIDGE_E_SUBJECT);
    CHECK_STATUS(midge_client_request_many(client, &outgoing, NULL, NULL, NULL), MIDGE_E_SUBJECT);
    CHECK_EQUAL(midge_rig_stats(client).out_msgs, 0);
    midge_client_destroy(client);
}

static void inbox_prefix_can_be_set(struct midge_rig *rig)
{
    struct midge_options options = midge_rig_options(rig);
    struct midge_client *client;
    const struct midge_msg *reply;
    struct midge_rig_heard heard = {0};
    char inbox[128];
    char other[128];

    options.inbox_prefix = "my.own";
    client = midge_rig_connect(rig, &options);
    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    (void)midge_rig_listen(client, "my.own.>", &heard, midge_rig_hear);
    MUST(midge_client_request(client, "echo", "x", 1, RIG_PATIENCE_MS, &reply));
    midge_rig_done(rig, reply);
    WAIT_UNTIL(client, heard.count == 1);
    CHECK(strncmp(heard.subject, "my.own.", 7) == 0);
    MUST(midge_client_new_inbox(client, inbox, sizeof(inbox)));
    MUST(midge_client_new_inbox(client, other, sizeof(other)));
    CHECK(strncmp(inbox, "my.own.", 7) == 0);
    CHECK(strcmp(inbox, other) != 0);
    midge_rig_publish(client, inbox, "to the inbox");
    WAIT_UNTIL(client, heard.count == 2);
    CHECK_STATUS(midge_client_new_inbox(client, inbox, 8), MIDGE_FULL);
    midge_client_destroy(client);
}

/* --- asynchronous --- */

/* What a request has come to. */
struct outcome {
    uint32_t count;
    uint32_t replies;
    enum midge_status status; /* of the last call */
    bool has_msg;             /* … */
    char payload[32];
    struct midge_client *client; /* to request again inside, `again` times */
    uint32_t again;
    midge_request_id id; /* to cancel inside, if not 0 */
};

static void note_outcome(void *context, enum midge_status status, const struct midge_msg *msg)
{
    struct outcome *outcome = context;

    outcome->count++;
    outcome->replies += msg != NULL;
    outcome->status = status;
    outcome->has_msg = msg != NULL;
    if (msg != NULL)
        (void)snprintf(outcome->payload, sizeof(outcome->payload), "%.*s",
                       MIDGE_SLICE_PRINT(msg->payload));
    if (outcome->again > 0) {
        const struct midge_outgoing outgoing = {.subject = "echo"};
        outcome->again--;
        MUST(midge_client_request_async(outcome->client, &outgoing, NULL, NULL, outcome,
                                        note_outcome));
    }
    if (outcome->id != 0)
        midge_client_request_cancel(outcome->client, outcome->id);
}

static void asynchronous_requests_get_their_own_replies(struct midge_rig *rig)
{
    enum {
        COUNT = 64
    };
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct outcome outcomes[COUNT] = {{0}};

    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    for (uint32_t round = 1; round <= 20; round++) {
        for (uint32_t i = 0; i < COUNT; i++) {
            char text[16];
            const struct midge_outgoing outgoing = {
                .subject = "echo",
                .payload = text,
                .payload_len = (size_t)snprintf(text, sizeof(text), "%u", i + round),
            };
            MUST(midge_client_request_async(client, &outgoing, NULL, NULL, &outcomes[i],
                                            note_outcome));
            CHECK_EQUAL(outcomes[i].count, round - 1);
        }
        for (uint32_t i = 0; i < COUNT; i++) {
            char text[16];
            (void)snprintf(text, sizeof(text), "%u", i + round);
            WAIT_UNTIL(client, outcomes[i].count == round);
            CHECK_STATUS(outcomes[i].status, MIDGE_OK);
            CHECK(strcmp(outcomes[i].payload, text) == 0);
        }
    }
    midge_client_destroy(client);
}

static void asynchronous_requests_may_follow_each_other(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "echo"};
    struct outcome outcome = {.client = client, .again = 500};

    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    MUST(midge_client_request_async(client, &outgoing, NULL, NULL, &outcome, note_outcome));
    WAIT_UNTIL(client, outcome.count == 501);
    CHECK_EQUAL(outcome.replies, 501);
    midge_client_destroy(client);
}

static void asynchronous_request_ends_without_a_reply(struct midge_rig *rig)
{
    const struct midge_request_options soon = {.timeout_ms = 10};
    const struct midge_outgoing to_nobody = {.subject = "absent"};
    const struct midge_outgoing to_silence = {.subject = "silent"};
    struct midge_options options = midge_rig_options(rig);
    struct outcome absent = {0};
    struct outcome silent = {0};
    struct outcome lost = {0};
    struct outcome closed = {0};
    struct midge_rig_server server;
    struct midge_client *client;

    midge_rig_server_start(rig, &server, NULL);
    options.url = server.url;
    options.drain_timeout_ms = 1;
    client = midge_rig_connect(rig, &options);
    (void)midge_rig_subscribe(client, "silent");
    MUST(midge_client_request_async(client, &to_nobody, NULL, NULL, &absent, note_outcome));
    MUST(midge_client_request_async(client, &to_silence, &soon, NULL, &silent, note_outcome));
    WAIT_UNTIL(client, absent.count == 1 && silent.count == 1);
    CHECK_STATUS(absent.status, MIDGE_E_NO_RESPONDERS);
    CHECK_STATUS(silent.status, MIDGE_E_TIMEOUT);
    CHECK(!absent.has_msg && !silent.has_msg);
    MUST(midge_client_request_async(client, &to_silence, NULL, NULL, &lost, note_outcome));
    midge_rig_flush(client);
    midge_rig_server_kill(&server);
    WAIT_UNTIL(client, lost.count == 1);
    CHECK_STATUS(lost.status, MIDGE_E_DISCONNECTED);
    MUST(midge_client_request_async(client, &to_silence, NULL, NULL, &closed, note_outcome));
    midge_client_destroy(client);
    CHECK_EQUAL(closed.count, 1);
    CHECK_STATUS(closed.status, MIDGE_E_CLOSED);
    midge_rig_server_end(&server);
}

static void cancelled_request_is_silent(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "echo"};
    struct outcome outcome = {0};
    midge_request_id id = 0;

    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    MUST(midge_client_request_async(client, &outgoing, NULL, &id, &outcome, note_outcome));
    CHECK(id != 0);
    midge_client_request_cancel(client, id);
    midge_client_request_cancel(client, id);
    midge_rig_flush(client);
    midge_rig_flush(client);
    CHECK_EQUAL(outcome.count, 0);
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 1);
    /* An id that has ended does not hit the request that has its place now. */
    MUST(midge_client_request_async(client, &outgoing, NULL, NULL, &outcome, note_outcome));
    midge_client_request_cancel(client, id);
    WAIT_UNTIL(client, outcome.count == 1);
    midge_client_destroy(client);
}

static void open_requests_are_bounded(struct midge_rig *rig)
{
    enum {
        COUNT = 262143
    };
    struct midge_options options = midge_rig_options(rig);
    const struct midge_outgoing outgoing = {.subject = "a"};
    const struct midge_request_options forever = {.timeout_ms = MIDGE_FOREVER};
    struct outcome outcome = {0};
    struct midge_client *client;
    midge_request_id id = 0;

    /* Never connected: what is queued stays here. */
    options.offline_bytes_max = 1ull << 30;
    client = midge_rig_create(rig, &options);
    for (uint32_t i = 0; i < COUNT; i++)
        MUST(midge_client_request_async(client, &outgoing, &forever, &id, &outcome, note_outcome));
    CHECK_STATUS(
        midge_client_request_async(client, &outgoing, &forever, NULL, &outcome, note_outcome),
        MIDGE_FULL);
    midge_client_request_cancel(client, id);
    MUST(midge_client_request_async(client, &outgoing, &forever, NULL, &outcome, note_outcome));
    midge_client_destroy(client);
    CHECK_EQUAL(outcome.count, COUNT);
}

/* --- many replies --- */

/* Answers `count` times, then with nothing if `has_end`. */
struct answers {
    uint32_t count;
    bool has_end;
};

static void answer_many(void *context, const struct midge_msg *msg)
{
    const struct answers *answers = context;

    for (uint32_t i = 0; i < answers->count; i++) {
        char text[16];
        MUST(midge_msg_respond(msg, text, (size_t)snprintf(text, sizeof(text), "%u", i)));
    }
    if (answers->has_end)
        MUST(midge_msg_respond(msg, NULL, 0));
}

static void many_replies_end_by_count(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "many"};
    const struct midge_request_options three = {.replies_max = 3, .timeout_ms = RIG_PATIENCE_MS};
    struct answers answers = {.count = 5};
    struct midge_rig_heard heard = {0};
    struct outcome outcome = {0};

    (void)midge_rig_listen(client, "many", &answers, answer_many);
    MUST(midge_client_request_many(client, &outgoing, &three, &heard, midge_rig_hear));
    CHECK_EQUAL(heard.count, 3);
    CHECK(strcmp(heard.payload, "2") == 0);
    MUST(midge_client_request_async(client, &outgoing, &three, NULL, &outcome, note_outcome));
    WAIT_UNTIL(client, outcome.count == 4);
    CHECK_EQUAL(outcome.replies, 3);
    CHECK_STATUS(outcome.status, MIDGE_OK);
    CHECK(!outcome.has_msg);
    midge_client_destroy(client);
}

static void one_reply_may_follow_many(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "many"};
    const struct midge_request_options three = {.replies_max = 3, .timeout_ms = RIG_PATIENCE_MS};
    struct answers answers = {.count = 3};
    struct midge_rig_heard heard = {0};
    const struct midge_msg *reply;

    (void)midge_rig_listen(client, "many", &answers, answer_many);
    MUST(midge_client_request_many(client, &outgoing, &three, &heard, midge_rig_hear));
    CHECK_EQUAL(heard.count, 3);
    /* In the same place, which has forgotten how many were wanted. */
    MUST(midge_client_request(client, "many", "", 0, RIG_PATIENCE_MS, &reply));
    CHECK_TEXT(reply->payload, "0");
    midge_rig_done(rig, reply);
    CHECK_EQUAL(heard.count, 3);
    midge_client_destroy(client);
}

static void many_replies_end_by_silence(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "many"};
    const struct midge_request_options silence = {
        .replies_max = UINT32_MAX, .silence_ms = 50, .timeout_ms = MIDGE_FOREVER};
    struct answers answers = {.count = 5};
    struct midge_rig_heard heard = {0};

    (void)midge_rig_listen(client, "many", &answers, answer_many);
    MUST(midge_client_request_many(client, &outgoing, &silence, &heard, midge_rig_hear));
    CHECK_EQUAL(heard.count, 5);
    midge_client_destroy(client);
}

static void many_replies_end_by_an_empty_one(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "many"};
    const struct midge_request_options until_empty = {
        .replies_max = UINT32_MAX, .until_empty = true, .timeout_ms = MIDGE_FOREVER};
    struct answers answers = {.count = 4, .has_end = true};
    struct midge_rig_heard heard = {0};

    (void)midge_rig_listen(client, "many", &answers, answer_many);
    MUST(midge_client_request_many(client, &outgoing, &until_empty, &heard, midge_rig_hear));
    CHECK_EQUAL(heard.count, 4);
    midge_client_destroy(client);
}

static void many_replies_end_by_time(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "many"};
    const struct midge_outgoing to_silence = {.subject = "silent"};
    const struct midge_outgoing to_nobody = {.subject = "absent"};
    const struct midge_request_options soon = {.replies_max = UINT32_MAX, .timeout_ms = 50};
    struct answers answers = {.count = 2};
    struct midge_rig_heard heard = {0};

    (void)midge_rig_listen(client, "many", &answers, answer_many);
    (void)midge_rig_subscribe(client, "silent");
    MUST(midge_client_request_many(client, &outgoing, &soon, &heard, midge_rig_hear));
    CHECK_EQUAL(heard.count, 2);
    CHECK_STATUS(midge_client_request_many(client, &to_silence, &soon, &heard, midge_rig_hear),
                 MIDGE_E_TIMEOUT);
    CHECK_STATUS(midge_client_request_many(client, &to_nobody, &soon, &heard, midge_rig_hear),
                 MIDGE_E_NO_RESPONDERS);
    CHECK_EQUAL(heard.count, 2);
    midge_client_destroy(client);
}

static void many_replies_may_be_cancelled_at_one(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    const struct midge_outgoing outgoing = {.subject = "many"};
    const struct midge_request_options all = {.replies_max = UINT32_MAX};
    struct answers answers = {.count = 5};
    struct outcome outcome = {.client = client};

    (void)midge_rig_listen(client, "many", &answers, answer_many);
    MUST(midge_client_request_async(client, &outgoing, &all, &outcome.id, &outcome, note_outcome));
    midge_rig_flush(client);
    midge_rig_flush(client);
    CHECK_EQUAL(outcome.count, 1);
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 4);
    midge_client_destroy(client);
}

/* --- responding --- */

static void retained_request_may_be_answered_later(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "later");
    const struct midge_outgoing outgoing = {.subject = "later", .payload = "q", .payload_len = 1};
    struct outcome outcome = {0};
    const struct midge_msg *request;
    const struct midge_msg *kept;

    MUST(midge_client_request_async(client, &outgoing, NULL, NULL, &outcome, note_outcome));
    request = midge_rig_next(sub);
    kept = midge_msg_retain(request);
    CHECK(kept != NULL);
    midge_rig_done(rig, request);
    midge_rig_flush(client);
    CHECK_EQUAL(outcome.count, 0);
    MUST(midge_msg_respond(kept, "a", 1));
    midge_msg_release(kept);
    WAIT_UNTIL(client, outcome.count == 1);
    CHECK(strcmp(outcome.payload, "a") == 0);
    midge_client_destroy(client);
}

static void message_that_wants_no_answer_gets_none(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "no.reply");
    const struct midge_msg *msg;

    midge_rig_publish(client, "no.reply", "x");
    msg = midge_rig_next(sub);
    CHECK_EQUAL(msg->reply.len, 0);
    CHECK_STATUS(midge_msg_respond(msg, "x", 1), MIDGE_E_SUBJECT);
    midge_rig_done(rig, msg);
    midge_client_destroy(client);
}

static void status_of_a_message_can_be_read(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "status");
    const struct midge_outgoing outgoing = {.subject = "absent", .reply = "status"};
    struct midge_slice description;
    const struct midge_msg *msg;

    MUST(midge_client_publish_msg(client, &outgoing));
    msg = midge_rig_next(sub);
    CHECK_EQUAL(midge_msg_status(msg, &description), 503);
    CHECK_TEXT(description, "");
    midge_rig_done(rig, msg);
    midge_client_destroy(client);
}

/* Requests inside: the blocking ones refuse, the asynchronous one goes. */
struct nested {
    struct outcome outcome;
    enum midge_status blocking;
    enum midge_status many;
};

static void request_inside(void *context, const struct midge_msg *msg)
{
    struct nested *nested = context;
    const struct midge_outgoing outgoing = {.subject = "echo", .payload = "in", .payload_len = 2};
    const struct midge_msg *reply;

    nested->blocking = midge_client_request(msg->client, "echo", "", 0, 1000, &reply);
    nested->many = midge_client_request_many(msg->client, &outgoing, NULL, NULL, midge_rig_hear);
    MUST(midge_client_request_async(msg->client, &outgoing, NULL, NULL, &nested->outcome,
                                    note_outcome));
}

static void blocking_requests_are_refused_inside_callbacks(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct nested nested = {.outcome = {0}};

    (void)midge_rig_listen(client, "echo", NULL, midge_rig_echo);
    (void)midge_rig_listen(client, "go", &nested, request_inside);
    midge_rig_publish(client, "go", "");
    WAIT_UNTIL(client, nested.outcome.count == 1);
    CHECK_STATUS(nested.blocking, MIDGE_AGAIN);
    CHECK_STATUS(nested.many, MIDGE_AGAIN);
    CHECK(strcmp(nested.outcome.payload, "in") == 0);
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 0);
    midge_client_destroy(client);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(request_gets_its_reply),
        RIG_CASE(headers_travel_both_ways),
        RIG_CASE(silence_absence_and_loss_are_three_statuses),
        RIG_CASE(late_reply_finds_nobody),
        RIG_CASE(request_with_a_reply_subject_is_refused),
        RIG_CASE(inbox_prefix_can_be_set),
        RIG_CASE(asynchronous_requests_get_their_own_replies),
        RIG_CASE(asynchronous_requests_may_follow_each_other),
        RIG_CASE(asynchronous_request_ends_without_a_reply),
        RIG_CASE(cancelled_request_is_silent),
        RIG_CASE(open_requests_are_bounded),
        RIG_CASE(many_replies_end_by_count),
        RIG_CASE(one_reply_may_follow_many),
        RIG_CASE(many_replies_end_by_silence),
        RIG_CASE(many_replies_end_by_an_empty_one),
        RIG_CASE(many_replies_end_by_time),
        RIG_CASE(many_replies_may_be_cancelled_at_one),
        RIG_CASE(retained_request_may_be_answered_later),
        RIG_CASE(message_that_wants_no_answer_gets_none),
        RIG_CASE(status_of_a_message_can_be_read),
        RIG_CASE(blocking_requests_are_refused_inside_callbacks),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
