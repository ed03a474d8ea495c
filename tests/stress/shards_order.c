/* What each subscriber gets from publishers on any shard: all, once, in their order. */
#include "shards_cases.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards_peer.h"

/* Stop; nothing was dropped, and each delivery was handed over. */
static void check_all_delivered(struct midge_rig *rig, uint64_t count)
{
    const struct midge_rig_sums sums = midge_rig_stop(rig);

    CHECK(&rig->scene, sums.matched == count && sums.delivered == count,
          "%" PRIu64 " matched, %" PRIu64 " delivered of %" PRIu64, sums.matched, sums.delivered,
          count);
}

/* ---- order: each subscriber gets each publisher's messages in order, all, once ---- */

#define ORDER_PUBLISHERS  (2 * MIDGE_RIG_SHARDS)
#define ORDER_SUBSCRIBERS (2 * MIDGE_RIG_SHARDS)
#define ORDER_MESSAGES    500u /* of each publisher */
#define ORDER_LONG        2000000u
#define ORDER_WINDOW      1000u /* messages of one publisher that a subscriber has not got */

struct order_case {
    uint32_t message_count; /* of each publisher */
    struct midge_pace pace;
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
    while (number < order->message_count) {
        uint32_t burst = 1 + midge_random_below(&actor->random, 60);

        for (; burst > 0 && number < order->message_count; burst--) {
            if (!midge_writing_add(writing, "order.all", actor->index, number,
                                   midge_writing_pick_len(&actor->random)))
                break;
            number++;
        }
        midge_writing_send(peer, writing, &actor->random);
        midge_peer_answer_pings(peer);
        midge_pace_wait(&order->pace, &actor->rig->scene, actor->index, number);
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
    for (uint32_t i = 0; i < ORDER_PUBLISHERS * order->message_count; i++) {
        uint32_t publisher;

        midge_peer_expect_msg(peer, &frame);
        publisher = midge_peer_check_stamped(&actor->rig->scene, &frame, next, ORDER_PUBLISHERS);
        midge_pace_note(&order->pace, actor->index, publisher, next[publisher]);
        midge_rig_step(actor->rig, 1);
    }
    (void)pthread_barrier_wait(&order->done);
    CHECK(&actor->rig->scene, midge_peer_fence(peer) == 0, "a message came twice");
    midge_peer_close(peer);
    return NULL;
}

void midge_case_order(struct midge_rig *rig)
{
    struct order_case order = {
        .message_count = (uint32_t)midge_rig_pick(rig, ORDER_MESSAGES, ORDER_LONG),
        .pace = {.reader_count = ORDER_SUBSCRIBERS, .window = ORDER_WINDOW},
    };
    const uint64_t delivery_count =
        (uint64_t)ORDER_PUBLISHERS * ORDER_SUBSCRIBERS * order.message_count;
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    struct midge_actor subscribers[MIDGE_ACTORS_MAX];

    rig->step_name = "deliveries";
    rig->step_count = delivery_count;
    midge_rig_start(rig);
    (void)pthread_barrier_init(&order.ready, NULL, ORDER_PUBLISHERS + ORDER_SUBSCRIBERS);
    (void)pthread_barrier_init(&order.done, NULL, ORDER_PUBLISHERS + ORDER_SUBSCRIBERS);
    midge_actors_start(rig, subscribers, ORDER_SUBSCRIBERS, &order, order_subscribe);
    midge_actors_start(rig, publishers, ORDER_PUBLISHERS, &order, order_publish);
    midge_actors_join(publishers, ORDER_PUBLISHERS);
    midge_actors_join(subscribers, ORDER_SUBSCRIBERS);
    (void)pthread_barrier_destroy(&order.ready);
    (void)pthread_barrier_destroy(&order.done);
    check_all_delivered(rig, delivery_count);
}

/* ---- grid: many connections with many subscriptions each, every message to all of them ---- */

#define GRID_PUBLISHERS (2 * MIDGE_RIG_SHARDS)
#define GRID_READERS    5u /* threads */
#define GRID_CONNS      20u
#define GRID_CONNS_LONG 100u
#define GRID_SUBS       20u /* of each connection, and as many subjects */
#define GRID_SUBS_LONG  100u
#define GRID_WIDE_EVERY 10u /* of so many connections one gets all it may in each subscription */
#define GRID_MESSAGES   60u /* of each publisher */
#define GRID_LONG       30000u
#define GRID_WINDOW     100u
#define GRID_LEN_MAX    300u /* of a payload, less the stamp */

static_assert(GRID_CONNS_LONG <= MIDGE_PACE_READERS_MAX, "one reader for each connection");
static_assert(GRID_PUBLISHERS <= MIDGE_PACE_PUBLISHERS_MAX, "all publishers");

struct grid_case {
    uint32_t conn_count;
    uint32_t sub_count;     /* of each connection */
    uint32_t message_count; /* of each publisher */
    struct midge_pace pace;
    pthread_barrier_t ready;
    pthread_barrier_t done;
};

/* One connection that subscribes. */
struct grid_conn {
    struct midge_peer *peer;
    uint32_t index;
    bool is_wide; /* each subscription gets all; else each one the messages of its subject */
    uint64_t left;
    uint32_t (*next)[GRID_PUBLISHERS]; /* by sid - 1 where it is wide, else one for all */
};

static void *grid_publish(void *argument)
{
    struct midge_actor *actor = argument;
    struct grid_case *grid = actor->state;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&grid->ready);
    for (uint32_t number = 0; number < grid->message_count;) {
        for (uint32_t burst = 1 + midge_random_below(&actor->random, 20);
             burst > 0 && number < grid->message_count; burst--) {
            char subject[32];

            (void)snprintf(subject, sizeof(subject), "grid.%" PRIu32,
                           1 + midge_random_below(&actor->random, grid->sub_count));
            (void)midge_writing_add(writing, subject, actor->index, number++,
                                    MIDGE_STAMP_LEN +
                                        midge_random_below(&actor->random, GRID_LEN_MAX));
        }
        midge_writing_send(peer, writing, &actor->random);
        midge_peer_answer_pings(peer);
        midge_pace_wait(&grid->pace, &actor->rig->scene, actor->index, number);
    }
    (void)midge_peer_fence(peer);
    (void)pthread_barrier_wait(&grid->done);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

static void grid_open(struct midge_actor *actor, struct grid_conn *conn, uint32_t index)
{
    const struct grid_case *grid = actor->state;
    char text[8192];
    uint32_t len = 0;

    conn->index = index;
    conn->is_wide = index % GRID_WIDE_EVERY == 0;
    conn->left = (uint64_t)GRID_PUBLISHERS * grid->message_count;
    if (conn->is_wide)
        conn->left *= grid->sub_count;
    conn->next = calloc(grid->sub_count, sizeof(*conn->next));
    CHECK(&actor->rig->scene, conn->next != NULL, "no memory");
    for (uint32_t sid = 1; sid <= grid->sub_count; sid++) {
        if (conn->is_wide)
            len += (uint32_t)snprintf(text + len, sizeof(text) - len, "SUB grid.%s %" PRIu32 "\r\n",
                                      sid % 2 == 0 ? "*" : ">", sid);
        else
            len += (uint32_t)snprintf(text + len, sizeof(text) - len,
                                      "SUB grid.%" PRIu32 " %" PRIu32 "\r\n", sid, sid);
    }
    conn->peer = midge_peer_join(actor->rig, index % MIDGE_RIG_SHARDS, text);
    conn->peer->may_run_dry = true;
}

/* Take what is there of one connection, which may be a PING alone. A narrow one has all messages of
 * a publisher in one order, whichever of its subscriptions they came by. */
static void grid_read(struct midge_actor *actor, struct grid_conn *conn)
{
    struct grid_case *grid = actor->state;
    struct midge_peer_frame frame;
    char subject[32];

    do {
        uint32_t publisher;
        uint32_t *next;

        if (midge_peer_next(conn->peer, &frame) == FRAME_NONE)
            return;
        CHECK(&actor->rig->scene, frame.kind == FRAME_MSG, "frame %d instead of a message",
              (int)frame.kind);
        CHECK(&actor->rig->scene, frame.sid - 1 < grid->sub_count, "sid %" PRIu32, frame.sid);
        (void)snprintf(subject, sizeof(subject), "grid.%" PRIu32, frame.sid);
        CHECK(&actor->rig->scene, conn->is_wide || strcmp(frame.subject, subject) == 0,
              "`%s` with sid %" PRIu32, frame.subject, frame.sid);
        next = conn->next[conn->is_wide ? frame.sid - 1 : 0];
        publisher = midge_peer_check_stamped(&actor->rig->scene, &frame, next, GRID_PUBLISHERS);
        if (!conn->is_wide || frame.sid == 1)
            midge_pace_note(&grid->pace, conn->index, publisher, next[publisher]);
        midge_rig_step(actor->rig, 1);
    } while (--conn->left > 0 && conn->peer->off < conn->peer->len);
}

/* Read all connections of this thread as they have something. */
static void grid_read_all(struct midge_actor *actor, struct grid_conn *conns, uint32_t count)
{
    struct pollfd ready[GRID_CONNS_LONG];
    uint32_t open_count = count;

    for (uint32_t i = 0; i < count; i++)
        ready[i] = (struct pollfd){.fd = conns[i].peer->fd, .events = POLLIN};
    while (open_count > 0) {
        CHECK(&actor->rig->scene, poll(ready, count, (int)MIDGE_PATIENCE_S * 1000) > 0,
              "%" PRIu32 " connections wait in vain", open_count);
        for (uint32_t i = 0; i < count; i++) {
            if (ready[i].revents == 0)
                continue;
            grid_read(actor, &conns[i]);
            if (conns[i].left > 0)
                continue;
            ready[i].fd = -1; /* poll passes it over */
            open_count--;
        }
    }
}

static void *grid_subscribe(void *argument)
{
    struct midge_actor *actor = argument;
    struct grid_case *grid = actor->state;
    struct grid_conn conns[GRID_CONNS_LONG];
    uint32_t count = 0;

    for (uint32_t index = actor->index; index < grid->conn_count; index += GRID_READERS)
        grid_open(actor, &conns[count++], index);
    (void)pthread_barrier_wait(&grid->ready);
    grid_read_all(actor, conns, count);
    (void)pthread_barrier_wait(&grid->done);
    for (uint32_t i = 0; i < count; i++) {
        conns[i].peer->may_run_dry = false;
        CHECK(&actor->rig->scene, midge_peer_fence(conns[i].peer) == 0, "a message came twice");
        midge_peer_close(conns[i].peer);
        free(conns[i].next);
    }
    return NULL;
}

void midge_case_grid(struct midge_rig *rig)
{
    struct grid_case grid = {
        .conn_count = rig->long_percent > 0 ? GRID_CONNS_LONG : GRID_CONNS,
        .sub_count = rig->long_percent > 0 ? GRID_SUBS_LONG : GRID_SUBS,
        .message_count = (uint32_t)midge_rig_pick(rig, GRID_MESSAGES, GRID_LONG),
        .pace = {.window = GRID_WINDOW},
    };
    const uint32_t wide_count = (grid.conn_count + GRID_WIDE_EVERY - 1) / GRID_WIDE_EVERY;
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    struct midge_actor readers[MIDGE_ACTORS_MAX];

    grid.pace.reader_count = grid.conn_count;
    rig->step_name = "deliveries";
    rig->step_count = (uint64_t)GRID_PUBLISHERS * grid.message_count *
                      (grid.conn_count - wide_count + (uint64_t)wide_count * grid.sub_count);
    midge_rig_start(rig);
    (void)pthread_barrier_init(&grid.ready, NULL, GRID_PUBLISHERS + GRID_READERS);
    (void)pthread_barrier_init(&grid.done, NULL, GRID_PUBLISHERS + GRID_READERS);
    midge_actors_start(rig, readers, GRID_READERS, &grid, grid_subscribe);
    midge_actors_start(rig, publishers, GRID_PUBLISHERS, &grid, grid_publish);
    midge_actors_join(publishers, GRID_PUBLISHERS);
    midge_actors_join(readers, GRID_READERS);
    (void)pthread_barrier_destroy(&grid.ready);
    (void)pthread_barrier_destroy(&grid.done);
    check_all_delivered(rig, rig->step_count);
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
