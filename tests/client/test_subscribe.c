/*
 * Subscriptions: call-backs, pulling with a deadline, queue groups, maxima, draining, slow ones,
 * and whose a message is.
 */
#include <stdlib.h>

#include "rig.h"

static void callback_gets_each_message(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_rig_heard heard = {0};
    struct midge_rig_heard heard_all = {0};
    struct midge_sub *sub = midge_rig_listen(client, "call.*.back", &heard, midge_rig_hear);

    (void)midge_rig_listen(client, "call.>", &heard_all, midge_rig_hear);
    CHECK(strcmp(midge_sub_subject(sub), "call.*.back") == 0);
    midge_rig_publish(client, "call.1.back", "first");
    midge_rig_publish(client, "call.2.forth", "second");
    midge_rig_flush(client);
    CHECK_EQUAL(heard.count, 1);
    CHECK(strcmp(heard.subject, "call.1.back") == 0);
    CHECK(strcmp(heard.payload, "first") == 0);
    CHECK_EQUAL(heard_all.count, 2);
    CHECK(strcmp(heard_all.payload, "second") == 0);
    midge_client_destroy(client);
}

static void next_takes_messages_in_order_until_its_deadline(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "next");
    const struct midge_msg *msg;
    const uint64_t begun_ns = midge_rig_now_ns();

    CHECK_STATUS(midge_sub_next(sub, 20, &msg), MIDGE_E_TIMEOUT);
    CHECK(midge_rig_now_ns() - begun_ns >= 20000000);
    for (uint32_t i = 0; i < 1000; i++) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%u", i);
        midge_rig_publish(client, "next", text);
    }
    for (uint32_t i = 0; i < 1000; i++) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%u", i);
        midge_rig_expect(rig, sub, text);
    }
    midge_rig_expect_nothing(sub);
    midge_client_destroy(client);
}

static void next_is_not_for_subscriptions_with_a_callback(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_rig_heard heard = {0};
    struct midge_sub *sub = midge_rig_listen(client, "both", &heard, midge_rig_hear);
    const struct midge_msg *msg;

    CHECK_STATUS(midge_sub_next(sub, 0, &msg), MIDGE_E_CONFIG);
    midge_client_destroy(client);
}

/* What a call-back of the next case does. */
struct puller {
    struct midge_sub *other;
    enum midge_status status;
    uint32_t count;
};

static void pull_inside(void *context, const struct midge_msg *msg)
{
    struct puller *puller = context;
    const struct midge_msg *taken;

    puller->status = midge_sub_next(puller->other, RIG_PATIENCE_MS, &taken);
    puller->count++;
    CHECK_STATUS(midge_client_flush(msg->client, 1000, NULL), MIDGE_AGAIN);
    CHECK_STATUS(midge_client_wait(msg->client, 1000), MIDGE_AGAIN);
}

static void calls_inside_a_callback_do_not_wait(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct puller puller = {.other = midge_rig_subscribe(client, "other")};

    (void)midge_rig_listen(client, "inside", &puller, pull_inside);
    midge_rig_publish(client, "inside", "");
    WAIT_UNTIL(client, puller.count == 1);
    CHECK_STATUS(puller.status, MIDGE_AGAIN);
    midge_client_destroy(client);
}

static void queue_group_shares_messages(struct midge_rig *rig)
{
    const struct midge_sub_options workers = {.queue = "workers"};
    const struct midge_sub_options others = {.queue = "others"};
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_client *second = midge_rig_connect(rig, NULL);
    struct midge_rig_heard heard[4] = {{0}};
    struct midge_sub *sub;

    MUST(midge_client_subscribe(client, "work", &workers, &sub, &heard[0], midge_rig_hear));
    MUST(midge_client_subscribe(second, "work", &workers, &sub, &heard[1], midge_rig_hear));
    MUST(midge_client_subscribe(second, "work", &others, &sub, &heard[2], midge_rig_hear));
    MUST(midge_client_subscribe(second, "work", NULL, &sub, &heard[3], midge_rig_hear));
    midge_rig_flush(second);
    midge_rig_flush(client);
    for (uint32_t i = 0; i < 200; i++)
        midge_rig_publish(client, "work", "x");
    midge_rig_flush(client);
    midge_rig_flush(second);
    midge_rig_flush(client);
    CHECK_EQUAL(heard[0].count + heard[1].count, 200);
    CHECK(heard[0].count > 0);
    CHECK(heard[1].count > 0);
    CHECK_EQUAL(heard[2].count, 200);
    CHECK_EQUAL(heard[3].count, 200);
    midge_client_destroy(second);
    midge_client_destroy(client);
}

static void subscription_ends_after_its_maximum(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_rig_heard heard = {0};
    struct midge_sub *called = midge_rig_listen(client, "max", &heard, midge_rig_hear);
    struct midge_sub *pulled = midge_rig_subscribe(client, "max");
    const struct midge_msg *msg;

    midge_rig_publish(client, "max", "0");
    midge_rig_flush(client);
    /* Counted from the start: one has come already. */
    MUST(midge_sub_unsubscribe(called, 3));
    MUST(midge_sub_unsubscribe(pulled, 3));
    for (uint32_t i = 0; i < 5; i++)
        midge_rig_publish(client, "max", "x");
    midge_rig_flush(client);
    CHECK_EQUAL(heard.count, 3);
    CHECK(midge_sub_has_ended(called));
    CHECK(midge_sub_has_ended(pulled));
    for (uint32_t i = 0; i < 3; i++)
        midge_rig_done(rig, midge_rig_next(pulled));
    CHECK_STATUS(midge_sub_next(pulled, RIG_PATIENCE_MS, &msg), MIDGE_E_SUB_ENDED);
    CHECK_STATUS(midge_sub_unsubscribe(pulled, 0), MIDGE_E_SUB_ENDED);
    CHECK_STATUS(midge_sub_drain(pulled), MIDGE_E_SUB_ENDED);
    /* The server has sent no more than that. */
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 0);
    midge_client_destroy(client);
}

static void maximum_that_is_reached_already_ends_at_once(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "reached");

    midge_rig_publish(client, "reached", "1");
    midge_rig_publish(client, "reached", "2");
    midge_rig_flush(client);
    MUST(midge_sub_unsubscribe(sub, 1));
    CHECK(midge_sub_has_ended(sub));
    midge_rig_publish(client, "reached", "3");
    midge_rig_flush(client);
    midge_rig_expect(rig, sub, "1");
    midge_rig_expect(rig, sub, "2");
    midge_client_destroy(client);
}

/* Servers read a longer number as 0: messages would stop without a word. */
static void maximum_that_servers_cannot_read_is_refused(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "huge");

    CHECK_STATUS(midge_sub_unsubscribe(sub, (uint64_t)MIDGE_SUB_MAX + 1), MIDGE_E_CONFIG);
    MUST(midge_sub_unsubscribe(sub, MIDGE_SUB_MAX));
    midge_rig_publish(client, "huge", "x");
    midge_rig_expect(rig, sub, "x");
    midge_client_destroy(client);
}

static void unsubscribing_keeps_what_waits(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "unsub");
    const struct midge_msg *msg;

    midge_rig_publish(client, "unsub", "kept");
    midge_rig_flush(client);
    MUST(midge_sub_unsubscribe(sub, 0));
    midge_rig_publish(client, "unsub", "too late");
    midge_rig_flush(client);
    midge_rig_expect(rig, sub, "kept");
    CHECK_STATUS(midge_sub_next(sub, RIG_PATIENCE_MS, &msg), MIDGE_E_SUB_ENDED);
    midge_sub_destroy(sub);
    midge_sub_destroy(NULL);
    midge_client_destroy(client);
}

static void drained_subscription_gets_what_was_sent(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_client *other = midge_rig_connect(rig, NULL);
    struct midge_rig_heard heard = {0};
    struct midge_sub *pulled = midge_rig_subscribe(client, "drain");
    struct midge_sub *called = midge_rig_listen(client, "drain", &heard, midge_rig_hear);
    const struct midge_msg *msg;

    for (uint32_t i = 0; i < 100; i++)
        midge_rig_publish(other, "drain", "x");
    midge_rig_flush(other);
    /* They are on their way, or here already; none has been looked at. */
    MUST(midge_sub_drain(pulled));
    MUST(midge_sub_drain(called));
    CHECK_STATUS(midge_sub_drain(pulled), MIDGE_E_SUB_ENDED);
    for (uint32_t i = 0; i < 100; i++)
        midge_rig_done(rig, midge_rig_next(pulled));
    CHECK_STATUS(midge_sub_next(pulled, RIG_PATIENCE_MS, &msg), MIDGE_E_SUB_ENDED);
    WAIT_UNTIL(client, midge_sub_has_ended(called));
    CHECK_EQUAL(heard.count, 100);
    midge_rig_publish(other, "drain", "too late");
    midge_rig_flush(other);
    midge_rig_flush(client);
    CHECK_EQUAL(heard.count, 100);
    midge_client_destroy(other);
    midge_client_destroy(client);
}

/* Destroys its own subscription, and looks at the message afterwards. */
struct suicide {
    struct midge_sub *sub;
    uint32_t count;
    char payload[16];
};

static void destroy_inside(void *context, const struct midge_msg *msg)
{
    struct suicide *suicide = context;

    midge_sub_destroy(suicide->sub);
    suicide->count++;
    (void)snprintf(suicide->payload, sizeof(suicide->payload), "%.*s",
                   MIDGE_SLICE_PRINT(msg->payload));
}

static void subscription_may_be_destroyed_in_its_callback(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct suicide suicide = {0};
    struct suicide last = {0};

    suicide.sub = midge_rig_listen(client, "suicide", &suicide, destroy_inside);
    /* Its last message ends it before the call-back does. */
    last.sub = midge_rig_listen(client, "suicide", &last, destroy_inside);
    MUST(midge_sub_unsubscribe(last.sub, 1));
    midge_rig_publish(client, "suicide", "first");
    midge_rig_publish(client, "suicide", "second");
    midge_rig_flush(client);
    CHECK_EQUAL(suicide.count, 1);
    CHECK(strcmp(suicide.payload, "first") == 0);
    CHECK_EQUAL(last.count, 1);
    midge_client_destroy(client);
}

/* Publishes, subscribes and asks inside a call-back. */
struct busy {
    struct midge_rig_heard heard;
    struct midge_sub *sub;
    uint32_t left;
};

static void act_inside(void *context, const struct midge_msg *msg)
{
    struct busy *busy = context;

    if (busy->left-- == 0)
        return;
    if (busy->sub == NULL)
        MUST(midge_client_subscribe(msg->client, "busy.answer", NULL, &busy->sub, &busy->heard,
                                    midge_rig_hear));
    midge_rig_publish(msg->client, "busy.answer", "from inside");
    midge_rig_publish(msg->client, "busy", "again");
}

static void destroy_other(void *context, const struct midge_msg *msg)
{
    (void)msg;
    midge_sub_destroy(context);
}

static void subscription_may_be_destroyed_while_next_waits_for_it(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "never");
    const struct midge_msg *msg;

    (void)midge_rig_listen(client, "end", sub, destroy_other);
    midge_rig_publish(client, "end", "x");
    CHECK_STATUS(midge_sub_next(sub, RIG_PATIENCE_MS, &msg), MIDGE_E_SUB_ENDED);
    midge_client_destroy(client);
}

static void callbacks_may_publish_and_subscribe(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct busy busy = {.left = 100};

    (void)midge_rig_listen(client, "busy", &busy, act_inside);
    midge_rig_publish(client, "busy", "go");
    WAIT_UNTIL(client, busy.heard.count == 100);
    midge_client_destroy(client);
}

static void retained_messages_outlive_their_client(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub *sub = midge_rig_subscribe(client, "retain");
    const struct midge_msg *msg;
    const struct midge_msg *kept;
    const struct midge_msg *again;
    const struct midge_msg *next;

    midge_rig_publish(client, "retain", "mine");
    midge_rig_publish(client, "retain", "next");
    msg = midge_rig_next(sub);
    kept = midge_msg_retain(msg);
    CHECK(kept != NULL);
    midge_rig_done(rig, msg);
    again = midge_msg_retain(kept);
    CHECK(again == kept);
    /* The next one takes the place of the borrowed one. */
    next = midge_rig_next(sub);
    CHECK_TEXT(next->payload, "next");
    CHECK_TEXT(kept->payload, "mine");
    midge_rig_done(rig, next);
    midge_client_destroy(client);
    midge_msg_release(again);
    CHECK_TEXT(kept->subject, "retain");
    CHECK_TEXT(kept->payload, "mine");
    midge_msg_release(kept);
    midge_msg_release(NULL);
}

/* Keeps what it gets. */
struct keeper {
    const struct midge_msg *kept[3];
    uint32_t count;
};

static void keep_inside(void *context, const struct midge_msg *msg)
{
    struct keeper *keeper = context;

    keeper->kept[keeper->count] = midge_msg_retain(msg);
    CHECK(keeper->kept[keeper->count] != NULL);
    CHECK(keeper->kept[keeper->count] != msg);
    keeper->count++;
}

static void callback_may_retain(struct midge_rig *rig)
{
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct keeper keeper = {0};

    (void)midge_rig_listen(client, "keep", &keeper, keep_inside);
    midge_rig_publish(client, "keep", "0");
    midge_rig_publish(client, "keep", "1");
    midge_rig_publish(client, "keep", "2");
    WAIT_UNTIL(client, keeper.count == 3);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQUAL(keeper.kept[i]->payload.base[0], '0' + i);
        midge_msg_release(keeper.kept[i]);
    }
    midge_client_destroy(client);
}

static void slow_subscription_drops_by_number_and_counts(struct midge_rig *rig)
{
    const struct midge_sub_options small = {.msgs_max = 10};
    struct midge_options options = midge_rig_options(rig);
    struct midge_rig_events events = {0};
    struct midge_sub_stats stats;
    struct midge_client *client;
    struct midge_sub *sub;

    options.context = &events;
    options.event_cb = midge_rig_note_event;
    client = midge_rig_connect(rig, &options);
    MUST(midge_client_subscribe(client, "slow", &small, &sub, NULL, NULL));
    for (uint32_t i = 0; i < 25; i++)
        midge_rig_publish(client, "slow", "12345");
    midge_rig_flush(client);
    midge_sub_read_stats(sub, &stats);
    CHECK_EQUAL(stats.waiting_msgs, 10);
    CHECK_EQUAL(stats.waiting_msgs_peak, 10);
    CHECK_EQUAL(stats.waiting_bytes, 90); /* subject and payload */
    CHECK_EQUAL(stats.dropped_msgs, 15);
    CHECK_EQUAL(midge_rig_stats(client).dropped_msgs, 15);
    CHECK_EQUAL(events.counts[MIDGE_EVENT_SLOW], 1);
    CHECK(strcmp(events.texts[MIDGE_EVENT_SLOW], "slow") == 0);
    for (uint32_t i = 0; i < 10; i++)
        midge_rig_done(rig, midge_rig_next(sub));
    /* Once empty it is no longer slow; the next time is told again. */
    for (uint32_t i = 0; i < 11; i++)
        midge_rig_publish(client, "slow", "12345");
    midge_rig_flush(client);
    midge_sub_read_stats(sub, &stats);
    CHECK_EQUAL(stats.dropped_msgs, 16);
    CHECK_EQUAL(stats.delivered_msgs, 10);
    CHECK_EQUAL(events.counts[MIDGE_EVENT_SLOW], 2);
    midge_client_destroy(client);
}

static void slow_subscription_drops_by_bytes(struct midge_rig *rig)
{
    const struct midge_sub_options small = {.bytes_max = 100};
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub_stats stats;
    struct midge_sub *sub;

    MUST(midge_client_subscribe(client, "bytes", &small, &sub, NULL, NULL));
    for (uint32_t i = 0; i < 30; i++)
        midge_rig_publish(client, "bytes", "0123456789");
    midge_rig_flush(client);
    midge_sub_read_stats(sub, &stats);
    CHECK_EQUAL(stats.waiting_bytes, 90); /* six of 15 bytes */
    CHECK_EQUAL(stats.waiting_msgs, 6);
    CHECK_EQUAL(stats.dropped_msgs, 24);
    midge_client_destroy(client);
}

static void many_subscriptions_find_their_messages(struct midge_rig *rig)
{
    enum {
        COUNT = 1000
    };
    struct midge_client *client = midge_rig_connect(rig, NULL);
    struct midge_sub **subs = calloc(COUNT, sizeof(struct midge_sub *));
    struct midge_rig_heard *heard = calloc(COUNT, sizeof(*heard));

    CHECK(subs != NULL);
    CHECK(heard != NULL);
    for (uint32_t i = 0; i < COUNT; i++) {
        char subject[32];
        (void)snprintf(subject, sizeof(subject), "many.%u", i);
        MUST(midge_client_subscribe(client, subject, NULL, &subs[i], &heard[i], midge_rig_hear));
    }
    /* Every third goes again, so that the table has gaps to close. */
    for (uint32_t i = 0; i < COUNT; i += 3)
        midge_sub_destroy(subs[i]);
    for (uint32_t i = 0; i < COUNT; i++) {
        char subject[32];
        (void)snprintf(subject, sizeof(subject), "many.%u", i);
        midge_rig_publish(client, subject, subject);
    }
    midge_rig_flush(client);
    for (uint32_t i = 0; i < COUNT; i++)
        CHECK_EQUAL(heard[i].count, i % 3 == 0 ? 0 : 1);
    CHECK_EQUAL(midge_rig_stats(client).stray_msgs, 0);
    free(heard);
    free(subs);
    midge_client_destroy(client);
}

int main(int argc, char **argv)
{
    static const struct midge_rig_case cases[] = {
        RIG_CASE(callback_gets_each_message),
        RIG_CASE(next_takes_messages_in_order_until_its_deadline),
        RIG_CASE(next_is_not_for_subscriptions_with_a_callback),
        RIG_CASE(calls_inside_a_callback_do_not_wait),
        RIG_CASE(queue_group_shares_messages),
        RIG_CASE(subscription_ends_after_its_maximum),
        RIG_CASE(maximum_that_is_reached_already_ends_at_once),
        RIG_CASE(maximum_that_servers_cannot_read_is_refused),
        RIG_CASE(unsubscribing_keeps_what_waits),
        RIG_CASE(drained_subscription_gets_what_was_sent),
        RIG_CASE(subscription_may_be_destroyed_in_its_callback),
        RIG_CASE(subscription_may_be_destroyed_while_next_waits_for_it),
        RIG_CASE(callbacks_may_publish_and_subscribe),
        RIG_CASE(retained_messages_outlive_their_client),
        RIG_CASE(callback_may_retain),
        RIG_CASE(slow_subscription_drops_by_number_and_counts),
        RIG_CASE(slow_subscription_drops_by_bytes),
        RIG_CASE(many_subscriptions_find_their_messages),
    };

    return midge_rig_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
