/* What each subscriber gets from publishers on any shard: all, once, in their order. */
#include "shards_cases.h"

#include <stdlib.h>

#include "shards_peer.h"

/* ---- order: each subscriber gets each publisher's messages in order, all, once ---- */

#define ORDER_PUBLISHERS  (2 * MIDGE_RIG_SHARDS)
#define ORDER_SUBSCRIBERS (2 * MIDGE_RIG_SHARDS)
#define ORDER_MESSAGES    500u

struct order_case {
    pthread_barrier_t ready; /* all have joined */
    pthread_barrier_t done;  /* the broker has taken all that was published */
};

static void *order_publish(void *argument)
{
    struct midge_actor *actor = argument;
    struct order_case *order = actor->state;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");
    uint32_t number = 0;

    (void)pthread_barrier_wait(&order->ready);
    while (number < ORDER_MESSAGES) {
        uint32_t burst = 1 + midge_random_below(&actor->random, 60);

        for (; burst > 0 && number < ORDER_MESSAGES; burst--) {
            if (!midge_writing_add(writing, "order.all", actor->index, number,
                                   midge_writing_pick_len(&actor->random)))
                break;
            number++;
        }
        midge_writing_send(peer, writing, &actor->random);
        if (midge_random_below(&actor->random, 4) == 0)
            midge_pause_us(midge_random_below(&actor->random, 2000));
    }
    (void)midge_peer_fence(peer);
    (void)pthread_barrier_wait(&order->done);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

static void *order_subscribe(void *argument)
{
    struct midge_actor *actor = argument;
    struct order_case *order = actor->state;
    struct midge_peer *peer = midge_peer_join(
        actor->rig, actor->shard,
        actor->index < MIDGE_RIG_SHARDS ? "SUB order.all 1\r\n" : "SUB order.* 1\r\n");
    uint32_t next[ORDER_PUBLISHERS] = {0};
    struct midge_peer_frame frame;

    (void)pthread_barrier_wait(&order->ready);
    for (uint32_t i = 0; i < ORDER_PUBLISHERS * ORDER_MESSAGES; i++) {
        midge_peer_expect_msg(peer, &frame);
        (void)midge_peer_check_stamped(&actor->rig->scene, &frame, next, ORDER_PUBLISHERS);
    }
    (void)pthread_barrier_wait(&order->done);
    CHECK(&actor->rig->scene, midge_peer_fence(peer) == 0, "a message came twice");
    midge_peer_close(peer);
    return NULL;
}

void midge_case_order(struct midge_rig *rig)
{
    struct order_case order;
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    struct midge_actor subscribers[MIDGE_ACTORS_MAX];

    midge_rig_start(rig);
    (void)pthread_barrier_init(&order.ready, NULL, ORDER_PUBLISHERS + ORDER_SUBSCRIBERS);
    (void)pthread_barrier_init(&order.done, NULL, ORDER_PUBLISHERS + ORDER_SUBSCRIBERS);
    midge_actors_start(rig, subscribers, ORDER_SUBSCRIBERS, &order, order_subscribe);
    midge_actors_start(rig, publishers, ORDER_PUBLISHERS, &order, order_publish);
    midge_actors_join(publishers, ORDER_PUBLISHERS);
    midge_actors_join(subscribers, ORDER_SUBSCRIBERS);
    (void)pthread_barrier_destroy(&order.ready);
    (void)pthread_barrier_destroy(&order.done);
    (void)midge_rig_stop(rig);
}

/* ---- hand-over: more recipients on one other shard than a publisher's shard sends to ---- */

#define HANDOVER_READERS  100u
#define HANDOVER_MESSAGES 150u

static void *handover_publish(void *argument)
{
    struct midge_actor *actor = argument;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");

    for (uint32_t number = 0; number < HANDOVER_MESSAGES;) {
        for (uint32_t burst = 1 + midge_random_below(&actor->random, 10);
             burst > 0 && number < HANDOVER_MESSAGES; burst--)
            (void)midge_writing_add(writing, "many", actor->index, number++,
                                    MIDGE_STAMP_LEN + midge_random_below(&actor->random, 100));
        midge_writing_send(peer, writing, &actor->random);
        if (midge_random_below(&actor->random, 3) == 0)
            midge_pause_us(midge_random_below(&actor->random, 1000));
    }
    (void)midge_peer_fence(peer);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

/* All readers are on shard 1; one publisher is there, too, so that both ways to send meet. At the
 * end one of another shard publishes alone: nothing else makes shard 1 look. */
void midge_case_handover(struct midge_rig *rig)
{
    struct midge_peer *readers[HANDOVER_READERS];
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    struct midge_peer *last;

    midge_rig_start(rig);
    for (uint32_t i = 0; i < HANDOVER_READERS; i++)
        readers[i] = midge_peer_join(rig, 1, "SUB many 1\r\n");
    midge_actors_start(rig, publishers, 2, NULL, handover_publish);
    for (uint32_t i = 0; i < HANDOVER_READERS; i++) {
        uint32_t next[2] = {0};
        struct midge_peer_frame frame;

        for (uint32_t got = 0; got < 2 * HANDOVER_MESSAGES; got++) {
            midge_peer_expect_msg(readers[i], &frame);
            (void)midge_peer_check_stamped(&rig->scene, &frame, next, 2);
        }
    }
    midge_actors_join(publishers, 2);
    for (uint32_t i = 0; i < HANDOVER_READERS; i++)
        CHECK(&rig->scene, midge_peer_fence(readers[i]) == 0, "a message came twice");
    last = midge_peer_join(rig, 2, "PUB many 0\r\n\r\n");
    for (uint32_t i = 0; i < HANDOVER_READERS; i++) {
        struct midge_peer_frame frame;

        midge_peer_expect_msg(readers[i], &frame);
    }
    for (uint32_t i = 0; i < HANDOVER_READERS; i++)
        midge_peer_close(readers[i]);
    midge_peer_close(last);
    (void)midge_rig_stop(rig);
}

/* ---- quiet: the first message of another shard, to an owner that sleeps ---- */

#define QUIET_ROUNDS 100u

/* The owner has just sent PONG, or a message of its own, and sleeps; what it has sent may not be
 * settled yet. Nothing but the message wakes it. */
void midge_case_quiet(struct midge_rig *rig)
{
    uint64_t random = rig->scene.seed + 1;
    struct midge_peer *publishers[MIDGE_RIG_SHARDS];
    struct midge_peer_frame frame;

    midge_rig_start(rig);
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++)
        publishers[i] = midge_peer_join(rig, i, "");
    for (uint32_t round = 0; round < QUIET_ROUNDS; round++) {
        const uint32_t shard = round % MIDGE_RIG_SHARDS;
        /* Without CONNECT, so that no timer for a first PING wakes the owner. */
        struct midge_peer *reader = midge_peer_connect(rig, shard, 0);
        const bool own_first = midge_random_below(&random, 2) == 0;

        midge_peer_text(reader, "SUB quiet 1\r\n");
        (void)midge_peer_fence(reader);
        if (own_first) {
            midge_peer_text(publishers[shard], "PUB quiet 3\r\nown\r\n");
            midge_peer_expect_msg(reader, &frame);
        }
        if (midge_random_below(&random, 2) == 0)
            midge_pause_us(midge_random_below(&random, 1000));
        for (uint32_t i = 1; i < MIDGE_RIG_SHARDS; i++) {
            midge_peer_text(publishers[(shard + i) % MIDGE_RIG_SHARDS], "PUB quiet 5\r\nother\r\n");
            midge_peer_expect_msg(reader, &frame);
        }
        CHECK(&rig->scene, midge_peer_fence(reader) == 0, "a message came twice");
        midge_peer_close(reader);
    }
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++)
        midge_peer_close(publishers[i]);
    (void)midge_rig_stop(rig);
}
