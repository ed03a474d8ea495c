/*
 * A broker that dies and comes back under 100 clients.
 *
 * Goal: all are back, no message comes twice or out of order, and the account of each is exact:
 * what did not arrive is what the client counted as lost or unconfirmed.
 *
 * Method: each client subscribes to what it publishes itself, and numbers it. The server sends a
 * message back before it answers a later PING of the same connection, so what a PONG has confirmed
 * has arrived; what was cut or discarded cannot have; what was unconfirmed may or may not. Hence
 *
 *     published - lost - unconfirmed <= arrived <= published - lost
 *
 * where the numbers that are missing among those that arrived tell how many that were.
 */
#include <signal.h>
#include <stdlib.h>

#include "rig.h"

#define CLIENTS     100u
#define KILLS       3u
#define PAYLOAD_LEN 1024u

struct member {
    struct midge_client *client;
    char subject[16];
    uint32_t published; /* number of the last message, from 1 */
    uint32_t arrived;
    uint32_t missing; /* numbers passed over on arrival */
    uint32_t last;
    uint32_t disconnects;
    uint32_t reconnects;
};

struct crowd {
    struct midge_loop *loop; /* NULL = each its own */
    struct midge_rig_server server;
    struct member members[CLIENTS];
};

static void note_arrival(void *context, const struct midge_msg *msg)
{
    struct member *member = context;
    uint32_t number;

    CHECK_EQUAL(msg->payload.len, PAYLOAD_LEN);
    memcpy(&number, msg->payload.base, sizeof(number));
    CHECK(number > member->last);
    CHECK(number <= member->published);
    member->missing += number - member->last - 1;
    member->last = number;
    member->arrived++;
}

static void note_loss(void *context, const struct midge_event *event)
{
    struct member *member = context;

    member->disconnects += event->kind == MIDGE_EVENT_DISCONNECTED;
    member->reconnects += event->kind == MIDGE_EVENT_RECONNECTED;
}

static void join(struct midge_rig *rig, struct crowd *crowd, uint32_t index)
{
    struct midge_options options = midge_rig_options(rig);
    struct member *member = &crowd->members[index];
    struct midge_sub *sub;

    *member = (struct member){.published = 0};
    (void)snprintf(member->subject, sizeof(member->subject), "member.%u", index);
    options.url = crowd->server.url;
    options.loop = crowd->loop;
    options.reconnect_max = UINT32_MAX;
    options.reconnect_wait_ms = 2;
    options.reconnect_wait_max_ms = 20;
    options.reconnect_jitter_ms = 5;
    options.context = member;
    options.event_cb = note_loss;
    member->client = midge_rig_connect(rig, &options);
    MUST(midge_client_subscribe(member->client, member->subject, NULL, &sub, member, note_arrival));
}

static void publish_some(struct member *member, uint32_t count)
{
    uint8_t payload[PAYLOAD_LEN] = {0};

    for (uint32_t i = 0; i < count; i++) {
        member->published++;
        memcpy(payload, &member->published, sizeof(member->published));
        MUST(midge_client_publish(member->client, member->subject, payload, sizeof(payload)));
    }
}

/* A look at all clients. */
static void drive(struct crowd *crowd)
{
    if (crowd->loop != NULL) {
        (void)!midge_loop_wait(crowd->loop, 1);
        return;
    }
    for (uint32_t i = 0; i < CLIENTS; i++)
        (void)!midge_client_poll(crowd->members[i].client);
}

/* Drive until this many connections have come in all. */
static void await_connections(struct crowd *crowd, uint32_t reconnects)
{
    const uint64_t begun_ns = midge_rig_now_ns();
    uint32_t ready = 0;

    while (ready < CLIENTS) {
        drive(crowd);
        ready = 0;
        for (uint32_t i = 0; i < CLIENTS; i++)
            ready += crowd->members[i].reconnects >= reconnects;
        CHECK(midge_rig_now_ns() - begun_ns < RIG_PATIENCE_MS * 1000000ull);
    }
}

/* Let the broker die with messages in every place where one can be: answered, in its sockets, in
 * ours, cut by a full socket, queued here, and published without a connection. */
static void die_under_load(struct crowd *crowd)
{
    for (uint32_t i = 0; i < CLIENTS; i++)
        publish_some(&crowd->members[i], 10);
    drive(crowd);
    midge_rig_server_signal(&crowd->server, SIGSTOP);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        publish_some(&crowd->members[i], 10);
        MUST(midge_client_submit(crowd->members[i].client));
    }
    /* More than a socket takes, in the buffer of one. */
    for (uint32_t i = 0; i < 100 && midge_client_submit(crowd->members[0].client) == MIDGE_OK; i++)
        publish_some(&crowd->members[0], 100);
    for (uint32_t i = 0; i < CLIENTS; i++)
        publish_some(&crowd->members[i], 5);
    midge_rig_server_kill(&crowd->server);
    for (uint32_t i = 0; i < 20; i++)
        drive(crowd);
    for (uint32_t i = 0; i < CLIENTS; i++)
        publish_some(&crowd->members[i], 5);
    midge_rig_server_again(&crowd->server);
}

static void check_account(struct member *member, struct midge_client_stats *sum)
{
    const struct midge_client_stats stats = midge_rig_stats(member->client);
    /* Those behind the last that arrived are missing, too. */
    const uint32_t missing = member->missing + member->published - member->last;

    CHECK_EQUAL(member->disconnects, KILLS);
    CHECK_EQUAL(member->reconnects, KILLS);
    CHECK_EQUAL(stats.connects, KILLS + 1);
    CHECK_EQUAL(stats.out_msgs, member->published);
    CHECK_EQUAL(stats.queued_bytes, 0);
    CHECK_EQUAL(stats.in_msgs, member->arrived);
    CHECK_EQUAL(stats.stray_msgs + stats.dropped_msgs, 0);
    CHECK_EQUAL(member->arrived + missing, member->published);
    CHECK(missing >= stats.lost_msgs);
    CHECK(missing <= stats.lost_msgs + stats.unconfirmed_msgs);
    sum->lost_msgs += stats.lost_msgs;
    sum->unconfirmed_msgs += stats.unconfirmed_msgs;
    sum->in_msgs += member->arrived;
}

static void accounts_of_a_crowd_are_exact(struct midge_rig *rig)
{
    struct crowd *crowd = calloc(1, sizeof(*crowd));
    struct midge_client_stats sum = {0};

    CHECK(crowd != NULL);
    midge_rig_server_start(rig, &crowd->server, NULL);
    if (!rig->is_thread_safe)
        MUST(midge_loop_create(rig->io, 0, &crowd->loop));
    for (uint32_t i = 0; i < CLIENTS; i++)
        join(rig, crowd, i);
    for (uint32_t i = 0; i < KILLS; i++) {
        die_under_load(crowd);
        await_connections(crowd, i + 1);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        publish_some(&crowd->members[i], 1);
        midge_rig_flush(crowd->members[i].client);
        /* The last one, behind all others, has come through. */
        CHECK_EQUAL(crowd->members[i].last, crowd->members[i].published);
    }
    for (uint32_t i = 0; i < CLIENTS; i++)
        check_account(&crowd->members[i], &sum);
    /* Else this would prove nothing. */
    CHECK(sum.unconfirmed_msgs > 0);
    CHECK(sum.lost_msgs > 0);
    CHECK(sum.in_msgs > CLIENTS * KILLS);
    for (uint32_t i = 0; i < CLIENTS; i++)
        midge_client_destroy(crowd->members[i].client);
    midge_loop_destroy(crowd->loop);
    midge_rig_server_end(&crowd->server);
    free(crowd);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(accounts_of_a_crowd_are_exact),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
