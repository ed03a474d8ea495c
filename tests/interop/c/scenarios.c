/*
 * The interop scenarios with nats.c. See run_client.py for how it is run.
 *
 * Numbered messages carry their number in decimal; most subscriptions are synchronous, so the
 * library's own queue keeps what arrives.
 *
 * Thread: main; the callbacks of services run on threads of the library and touch atomics only.
 */
#include <stdint.h>

#include "support.h"

#define NUMBERS_MAX 1000

/* All that was published before this has reached its subscribers, surplus included. */
static void settle(natsConnection *near, natsConnection *far)
{
    flush(near);
    flush(far);
    sleep_ms(QUIET_MS);
}

static natsSubscription *serve(natsConnection *connection, const char *subject,
                               natsMsgHandler handler_cb)
{
    natsSubscription *sub = NULL;

    check_status(natsConnection_Subscribe(&sub, connection, subject, handler_cb, NULL), NATS_OK,
                 subject);
    return sub;
}

static void publish_numbers(natsConnection *connection, const char *subject, int first, int count)
{
    char payload[16];

    for (int i = first; i < first + count; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        publish(connection, subject, payload);
    }
}

/* How often each number has come. */
struct tally {
    int seen[NUMBERS_MAX];
    int count;
};

/* Count every message that waits in `sub`. Numbers must not go down: the order is part of the
 * promise. */
static void tally_all(struct tally *tally, natsSubscription *sub)
{
    natsMsg *message = NULL;
    long before = -1;

    while (natsSubscription_NextMsg(&message, sub, 1) == NATS_OK) {
        const long number = strtol(natsMsg_GetData(message), NULL, 10);

        check(number > before && number < NUMBERS_MAX, "%ld came after %ld", number, before);
        before = number;
        tally->seen[number]++;
        tally->count++;
        natsMsg_Destroy(message);
    }
}

static void check_tally(const struct tally *tally, int count, const char *what)
{
    check(tally->count == count, "%s: %d messages, wanted %d", what, tally->count, count);
    for (int i = 0; i < count; i++)
        check(tally->seen[i] == 1, "%s: message %d came %d times", what, i, tally->seen[i]);
}

static void echo_cb(natsConnection *connection, natsSubscription *sub, natsMsg *message,
                    void *closure)
{
    (void)sub;
    (void)closure;
    natsConnection_Publish(connection, natsMsg_GetReply(message), natsMsg_GetData(message),
                           natsMsg_GetDataLength(message));
    natsMsg_Destroy(message);
}

static void ignore_cb(natsConnection *connection, natsSubscription *sub, natsMsg *message,
                      void *closure)
{
    (void)connection;
    (void)sub;
    (void)closure;
    natsMsg_Destroy(message);
}

static void request_reply(natsConnection *near, natsConnection *far)
{
    natsSubscription *echo = serve(far, "rr.echo", echo_cb);
    natsSubscription *silent = serve(far, "rr.silent", ignore_cb);
    natsMsg *reply = NULL;
    char payload[32];

    flush(far);
    for (int i = 0; i < 100; i++) {
        snprintf(payload, sizeof(payload), "one-%d", i);
        check_status(natsConnection_RequestString(&reply, near, "rr.echo", payload, WAIT_MS),
                     NATS_OK, "request");
        check_payload(reply, payload);
        natsMsg_Destroy(reply);
    }
    check_status(natsConnection_RequestString(&reply, near, "rr.silent", "", QUIET_MS),
                 NATS_TIMEOUT, "request nobody answers");
    natsSubscription_Destroy(echo);
    natsSubscription_Destroy(silent);
}

static void no_responders(natsConnection *near, natsConnection *far)
{
    natsSubscription *service = serve(far, "nr.service", ignore_cb);

    check_no_responders(near, "nr.nobody");
    flush(far);
    check_status(natsSubscription_Unsubscribe(service), NATS_OK, "unsubscribe");
    flush(far);
    check_no_responders(near, "nr.service");
    natsSubscription_Destroy(service);
}

static void answer_with_headers_cb(natsConnection *connection, natsSubscription *sub,
                                   natsMsg *message, void *closure)
{
    natsMsg *answer = NULL;

    (void)sub;
    (void)closure;
    check_status(natsMsg_Create(&answer, natsMsg_GetReply(message), NULL, natsMsg_GetData(message),
                                natsMsg_GetDataLength(message)),
                 NATS_OK, "answer");
    natsMsgHeader_Add(answer, "Answer", "1");
    natsMsgHeader_Add(answer, "Answer", "2");
    natsMsgHeader_Add(answer, "Answer", "3");
    check_status(natsConnection_PublishMsg(connection, answer), NATS_OK, "answer");
    natsMsg_Destroy(answer);
    natsMsg_Destroy(message);
}

static void headers(natsConnection *near, natsConnection *far)
{
    natsSubscription *service = serve(far, "hd.request", answer_with_headers_cb);
    natsSubscription *seen = subscribe(far, "hd.*");
    natsMsg *request = NULL;
    natsMsg *message = NULL;
    const char **names = NULL;
    int names_count = 0;

    flush(far);
    check_status(natsMsg_Create(&request, "hd.request", NULL, "body", 4), NATS_OK, "request");
    natsMsgHeader_Add(request, "Alpha", "one");
    natsMsgHeader_Add(request, "Alpha", "two");
    natsMsgHeader_Add(request, "alpha", "three");
    natsMsgHeader_Add(request, "Text", "größer: 1, 2");
    check_status(natsConnection_RequestMsg(&message, near, request, WAIT_MS), NATS_OK, "request");
    check_header(message, "Answer", 3, "1", "2", "3");
    check_payload(message, "body");
    natsMsg_Destroy(message);
    natsMsg_Destroy(request);

    message = next_message(seen);
    check_header(message, "Alpha", 2, "one", "two");
    check_header(message, "alpha", 1, "three");
    check_header(message, "Text", 1, "größer: 1, 2");
    check_payload(message, "body");
    natsMsg_Destroy(message);

    publish(near, "hd.plain", "no header");
    message = next_message(seen);
    check_payload(message, "no header");
    check_status(natsMsgHeader_Keys(message, &names, &names_count), NATS_NOT_FOUND, "headers");
    natsMsg_Destroy(message);
    natsSubscription_Destroy(service);
    natsSubscription_Destroy(seen);
}

static void wildcards(natsConnection *near, natsConnection *far)
{
    static const char *const subjects[] = {"wc",     "wc.a",     "wc.a.b",   "wc.c.b",
                                           "wc.a.d", "wc.a.b.e", "wcx.a.b.c"};
    static const struct {
        const char *pattern;
        const char *wanted; /* one digit for each subject that must come, its index above */
    } cases[] = {
        {"wc.a.b", "2"},   {"wc.*.b", "23"},  {"wc.a.*", "24"}, {"*.a.b", "2"},
        {"wc.>", "12345"}, {"wc.a.>", "245"}, {"wc.*", "1"},
    };
    natsSubscription *subs[sizeof(cases) / sizeof(cases[0])];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        subs[i] = subscribe(far, cases[i].pattern);
    flush(far);
    for (size_t i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++)
        publish(near, subjects[i], "");
    settle(near, far);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        natsMsg *message = NULL;

        for (const char *digit = cases[i].wanted; *digit != '\0'; digit++) {
            message = next_message(subs[i]);
            check(strcmp(natsMsg_GetSubject(message), subjects[*digit - '0']) == 0, "%s got %s",
                  cases[i].pattern, natsMsg_GetSubject(message));
            natsMsg_Destroy(message);
        }
        check_status(natsSubscription_NextMsg(&message, subs[i], 1), NATS_TIMEOUT,
                     "surplus message");
        natsSubscription_Destroy(subs[i]);
    }
}

static void queue_groups(natsConnection *near, natsConnection *far)
{
    natsSubscription *members[] = {
        join(near, "qg.*", "workers"),
        join(far, "qg.*", "workers"),
        join(far, "qg.job", "workers"),
    };
    natsSubscription *auditors = join(far, "qg.job", "auditors");
    natsSubscription *plain = subscribe(far, "qg.job");
    struct tally shared = {0};
    struct tally audited = {0};
    struct tally all = {0};

    flush(near);
    flush(far);
    publish_numbers(near, "qg.job", 0, 300);
    settle(near, far);
    for (int i = 0; i < 3; i++) {
        const int before = shared.count;

        tally_all(&shared, members[i]);
        check(shared.count > before, "member %d of the group gets a share", i);
        natsSubscription_Destroy(members[i]);
    }
    check_tally(&shared, 300, "group");
    tally_all(&audited, auditors);
    check_tally(&audited, 300, "other group");
    tally_all(&all, plain);
    check_tally(&all, 300, "plain subscription");
    natsSubscription_Destroy(auditors);
    natsSubscription_Destroy(plain);
}

static void auto_unsubscribe(natsConnection *near, natsConnection *far)
{
    natsSubscription *first = subscribe(far, "au.first");
    natsSubscription *second = subscribe(far, "au.second");
    struct tally first_tally = {0};
    struct tally second_tally = {0};

    check_status(natsSubscription_AutoUnsubscribe(first, 5), NATS_OK, "auto-unsubscribe");
    flush(far);
    publish_numbers(near, "au.second", 0, 2);
    settle(near, far);
    check_status(natsSubscription_AutoUnsubscribe(second, 3), NATS_OK, "auto-unsubscribe");
    flush(far);
    publish_numbers(near, "au.first", 0, 10);
    publish_numbers(near, "au.second", 2, 10);
    settle(near, far);
    tally_all(&first_tally, first);
    check_tally(&first_tally, 5, "five messages, then no more");
    tally_all(&second_tally, second);
    check_tally(&second_tally, 3, "messages before the limit was set count");
    check_no_responders(near, "au.first");
    check_no_responders(near, "au.second");
    natsSubscription_Destroy(first);
    natsSubscription_Destroy(second);
}

static void slow_cb(natsConnection *connection, natsSubscription *sub, natsMsg *message,
                    void *closure)
{
    (void)connection;
    (void)sub;
    sleep_ms(5);
    atomic_fetch_add((atomic_int *)closure, 1);
    natsMsg_Destroy(message);
}

static void drain_subscription(natsConnection *near, natsConnection *far)
{
    natsSubscription *sub = NULL;
    atomic_int handled = 0;

    check_status(natsConnection_Subscribe(&sub, far, "ds.work", slow_cb, &handled), NATS_OK,
                 "subscribe");
    flush(far);
    publish_numbers(near, "ds.work", 0, 50);
    flush(near);
    check_status(natsSubscription_DrainTimeout(sub, WAIT_MS), NATS_OK, "drain");
    check_status(natsSubscription_WaitForDrainCompletion(sub, WAIT_MS), NATS_OK, "end of drain");
    check(atomic_load(&handled) == 50, "%d of 50 messages handled", atomic_load(&handled));
    check_no_responders(near, "ds.work");
    natsSubscription_Destroy(sub);
}

static void relay_cb(natsConnection *connection, natsSubscription *sub, natsMsg *message,
                     void *closure)
{
    (void)sub;
    (void)closure;
    sleep_ms(5);
    natsConnection_PublishString(connection, "dc.answer", natsMsg_GetData(message));
    natsMsg_Destroy(message);
}

static void drain_connection(natsConnection *near, natsConnection *far)
{
    static struct events events;
    natsConnection *worker = open_connection(&events);
    natsSubscription *work = serve(worker, "dc.work", relay_cb);
    natsSubscription *answers = subscribe(far, "dc.answer");
    struct tally tally = {0};

    flush(worker);
    flush(far);
    publish_numbers(near, "dc.work", 0, 50);
    flush(near);
    check_status(natsConnection_DrainTimeout(worker, WAIT_MS), NATS_OK, "drain");
    wait_for_flag(&events.closed, "drained connection closes");
    settle(near, far);
    tally_all(&tally, answers);
    check_tally(&tally, 50, "answers published during the drain");
    check_no_responders(near, "dc.work");
    natsSubscription_Destroy(work);
    natsSubscription_Destroy(answers);
    natsConnection_Destroy(worker);
}

static void large_payload(natsConnection *near, natsConnection *far)
{
    natsSubscription *service = serve(far, "lp.echo", echo_cb);
    char *payload = malloc(PAYLOAD_LEN_MAX);

    check(payload != NULL, "out of memory");
    for (int i = 0; i < PAYLOAD_LEN_MAX; i++)
        payload[i] = (char)(unsigned char)(i * 7 % 251);
    flush(far);
    for (int i = 0; i < 3; i++) {
        natsMsg *reply = NULL;

        check_status(
            natsConnection_Request(&reply, near, "lp.echo", payload, PAYLOAD_LEN_MAX, WAIT_MS),
            NATS_OK, "request");
        check(natsMsg_GetDataLength(reply) == PAYLOAD_LEN_MAX, "%d bytes came back",
              natsMsg_GetDataLength(reply));
        check(memcmp(natsMsg_GetData(reply), payload, PAYLOAD_LEN_MAX) == 0,
              "1 MiB came back changed");
        natsMsg_Destroy(reply);
    }
    free(payload);
    natsSubscription_Destroy(service);
}

static void max_payload(natsConnection *near, natsConnection *far)
{
    char *payload = calloc(1, PAYLOAD_LEN_MAX + 1);

    (void)far;
    check(payload != NULL, "out of memory");
    check(natsConnection_GetMaxPayload(near) == PAYLOAD_LEN_MAX, "max_payload of INFO is %lld",
          (long long)natsConnection_GetMaxPayload(near));
    check_status(natsConnection_Publish(near, "mp.over", payload, PAYLOAD_LEN_MAX + 1),
                 NATS_MAX_PAYLOAD, "payload over the limit");
    flush(near);
    free(payload);
}

static void reconnect(natsConnection *near, natsConnection *far)
{
    static struct events events;
    natsConnection *client = open_connection(&events);
    natsSubscription *subs[] = {
        subscribe(client, "rc.plain"),
        subscribe(client, "rc.*"),
        join(client, "rc.plain", "workers"),
    };
    char line[16] = "";

    flush(client);
    printf("restart\n");
    check(fgets(line, sizeof(line), stdin) != NULL && strcmp(line, "restarted\n") == 0,
          "answer to restart: '%s'", line);
    wait_for_flag(&events.lost, "disconnect");
    wait_for_flag(&events.back, "reconnect");
    for (int i = 0; i < WAIT_MS / 10 && natsConnection_Status(near) != NATS_CONN_STATUS_CONNECTED;
         i++)
        sleep_ms(10);
    for (int i = 0; i < WAIT_MS / 10 && natsConnection_Status(far) != NATS_CONN_STATUS_CONNECTED;
         i++)
        sleep_ms(10);
    flush(client);
    publish(near, "rc.plain", "0");
    settle(near, client);
    for (int i = 0; i < 3; i++) {
        struct tally tally = {0};

        tally_all(&tally, subs[i]);
        check_tally(&tally, 1, "subscription after the restart");
        natsSubscription_Destroy(subs[i]);
    }
    natsConnection_Destroy(client);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(natsConnection *near, natsConnection *far);
    } scenarios[] = {
        {"request_reply", request_reply},
        {"no_responders", no_responders},
        {"headers", headers},
        {"wildcards", wildcards},
        {"queue_groups", queue_groups},
        {"auto_unsubscribe", auto_unsubscribe},
        {"drain_subscription", drain_subscription},
        {"drain_connection", drain_connection},
        {"large_payload", large_payload},
        {"max_payload", max_payload},
        {"reconnect", reconnect},
    };
    static struct events near_events;
    static struct events far_events;
    natsConnection *near = open_connection(&near_events);
    natsConnection *far = open_connection(&far_events);

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        scenario_name = scenarios[i].name;
        scenarios[i].run(near, far);
        printf("ok %s\n", scenario_name);
    }
    natsConnection_Destroy(near);
    natsConnection_Destroy(far);
    nats_Close();
    return 0;
}
