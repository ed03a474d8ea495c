/* Slow readers, connections that come and go, and too little memory, on all shards at once. */
#include "shards_cases.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "shards_peer.h"

/* ---- pressure: publishers on other shards wait for a slow reader, and nothing is lost ---- */

#define PRESSURE_BYTES     (20u << 20) /* of each publisher */
#define PRESSURE_MAX       (1u << 19)  /* max_pending: less than a turn can bring */
#define PRESSURE_READ_STEP (1u << 19)

static uint32_t pressure_len(uint64_t *random)
{
    return 1000 + midge_random_below(random, midge_random_below(random, 10) == 0
                                                 ? MIDGE_RIG_PAYLOAD_MAX - 1000
                                                 : 8000);
}

/* The first on shard 0, the second on shard 2. The last message is empty. */
static void *pressure_publish(void *argument)
{
    struct midge_actor *actor = argument;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->index * 2, "");
    uint64_t bytes = 0;
    uint32_t number = 0;

    while (bytes < PRESSURE_BYTES) {
        const uint32_t len = pressure_len(&actor->random);

        if (!midge_writing_add(writing, "flood", actor->index, number, len)) {
            midge_peer_write(peer, writing->bytes, writing->len);
            writing->len = 0;
            continue;
        }
        number++;
        bytes += len;
    }
    midge_peer_write(peer, writing->bytes, writing->len);
    writing->len = 0;
    (void)midge_writing_add(writing, "flood", actor->index, number, MIDGE_STAMP_LEN);
    midge_peer_write(peer, writing->bytes, writing->len);
    actor->count = number + 1;
    (void)midge_peer_fence(peer);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

void midge_case_pressure(struct midge_rig *rig)
{
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    uint64_t random = rig->scene.seed + 1;
    uint32_t next[2] = {0};
    uint32_t ended = 0;
    uint64_t bytes = 0;
    struct midge_peer *reader;
    struct midge_peer_frame frame;

    rig->config.pending_bytes_max = PRESSURE_MAX;
    midge_rig_start(rig);
    reader = midge_peer_connect(rig, 1, 1 << 16);
    midge_peer_text(reader, "CONNECT {\"verbose\":false}\r\nSUB flood 1\r\n");
    (void)midge_peer_fence(reader);
    midge_actors_start(rig, publishers, 2, NULL, pressure_publish);
    while (ended < 2) {
        midge_peer_expect_msg(reader, &frame);
        (void)midge_peer_check_stamped(&rig->scene, &frame, next, 2);
        ended += frame.body_len == MIDGE_STAMP_LEN;
        bytes += frame.body_len;
        if (bytes >= PRESSURE_READ_STEP) {
            bytes = 0;
            midge_pause_us(midge_random_below(&random, 20) == 0 ? 100000 : 1000);
        }
    }
    midge_actors_join(publishers, 2);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(&rig->scene, next[i] == publishers[i].count, "messages of %" PRIu32 " are lost", i);
        CHECK(&rig->scene,
              rig->config.move_turns > 0 ||
                  midge_stats_read(&rig->shards[i * 2].shard->stats.stalls) > 0,
              "publisher %" PRIu32 " was never held back", i);
    }
    CHECK(&rig->scene, midge_peer_fence(reader) == 0, "a message came twice");
    midge_peer_close(reader);
    (void)midge_rig_stop(rig);
}

/* ---- churn: connections come and go in every way; bystanders lose nothing ---- */

#define CHURN_PUBLISHERS MIDGE_RIG_SHARDS
#define CHURN_BYSTANDERS MIDGE_RIG_SHARDS
#define CHURN_CHURNERS   (2 * MIDGE_RIG_SHARDS)
#define CHURN_MESSAGES   2500u
#define CHURN_LONG       1500000u
#define CHURN_WINDOW     40u        /* messages of one publisher that bystanders have not got */
#define CHURN_MAX        (1u << 21) /* max_pending: much more than all windows */

struct churn_case {
    pthread_barrier_t ready;
    _Atomic bool done;
    uint32_t message_count; /* of each publisher */
    struct midge_pace pace;
};

static void *churn_publish(void *argument)
{
    struct midge_actor *actor = argument;
    struct churn_case *churn = actor->state;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&churn->ready);
    for (uint32_t number = 0; number < churn->message_count;) {
        for (uint32_t burst = 1 + midge_random_below(&actor->random, 10);
             burst > 0 && number < churn->message_count; burst--)
            (void)midge_writing_add(writing, "churn.a", actor->index, number++,
                                    midge_writing_pick_len(&actor->random));
        midge_writing_send(peer, writing, &actor->random);
        midge_peer_answer_pings(peer);
        midge_pace_wait(&churn->pace, &actor->rig->scene, actor->index, number);
    }
    (void)midge_peer_fence(peer);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

static void *churn_stand_by(void *argument)
{
    struct midge_actor *actor = argument;
    struct churn_case *churn = actor->state;
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "SUB churn.a 1\r\n");
    uint32_t next[CHURN_PUBLISHERS] = {0};
    struct midge_peer_frame frame;

    (void)pthread_barrier_wait(&churn->ready);
    for (uint32_t i = 0; i < CHURN_PUBLISHERS * churn->message_count; i++) {
        uint32_t publisher;

        midge_peer_expect_msg(peer, &frame);
        publisher = midge_peer_check_stamped(&actor->rig->scene, &frame, next, CHURN_PUBLISHERS);
        midge_pace_note(&churn->pace, actor->index, publisher, next[publisher]);
    }
    CHECK(&actor->rig->scene, midge_peer_fence(peer) == 0, "a message came twice");
    midge_peer_close(peer);
    return NULL;
}

/* What a connection of a churner does: reads a while, or not, and how it ends. */
static void churn_read(struct midge_actor *actor, struct midge_peer *peer, uint32_t frames)
{
    uint32_t next[CHURN_PUBLISHERS];
    bool begun[CHURN_PUBLISHERS] = {false};
    struct pollfd ready = {.fd = peer->fd, .events = POLLIN};
    struct midge_peer_frame frame;

    peer->may_run_dry = true;
    peer->answers_no_ping = true;
    for (; frames > 0; frames--) {
        /* Nothing may come any more: the publishers may have ended. */
        if (peer->off == peer->len && poll(&ready, 1, 5) == 0)
            return;
        if (midge_peer_next(peer, &frame) == FRAME_END)
            return;
        if (frame.kind != FRAME_MSG || frame.sid != 1)
            continue;
        if (frame.body_len >= MIDGE_STAMP_LEN) {
            const uint32_t publisher = (uint32_t)(frame.body[2] - '0') % CHURN_PUBLISHERS;

            /* The first one may be any. */
            if (!begun[publisher])
                next[publisher] = (uint32_t)strtoul((const char *)frame.body + 4, NULL, 10);
            begun[publisher] = true;
        }
        (void)midge_peer_check_stamped(&actor->rig->scene, &frame, next, CHURN_PUBLISHERS);
    }
}

static void try_text(struct midge_peer *peer, const char *text)
{
    /* The broker may have closed it already. */
    (void)!send(peer->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void churn_end(struct midge_actor *actor, struct midge_peer *peer)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    uint8_t sink[4096];

    switch (midge_random_below(&actor->random, 5)) {
    case 0: /* reset */
        (void)setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
        break;
    case 1: /* in the midst of a message */
        try_text(peer, "PUB churn.b 20000\r\nthe rest is missing");
        break;
    case 2: /* end of stream, and then to the end of the other one */
        (void)shutdown(peer->fd, SHUT_WR);
        while (recv(peer->fd, sink, sizeof(sink), 0) > 0)
            continue;
        break;
    case 3: /* a fault, of which the broker tells before it closes */
        try_text(peer, "NONSENSE\r\n");
        while (recv(peer->fd, sink, sizeof(sink), 0) > 0)
            continue;
        break;
    default: /* does not read: too slow before long */
        midge_pause_us(20000 + midge_random_below(&actor->random, 100000));
        break;
    }
    midge_peer_close(peer);
}

static void *churn_come_and_go(void *argument)
{
    struct midge_actor *actor = argument;
    struct churn_case *churn = actor->state;

    (void)pthread_barrier_wait(&churn->ready);
    while (!atomic_load(&churn->done)) {
        const uint32_t dice = midge_random_below(&actor->random, 8);
        struct midge_peer *peer = midge_peer_connect(
            actor->rig, midge_random_below(&actor->random, MIDGE_RIG_SHARDS), 4096);

        try_text(peer, "CONNECT {\"verbose\":false,\"headers\":true}\r\n");
        if (dice > 0)
            try_text(peer, "SUB churn.a 1\r\n");
        if (dice % 2 == 0)
            try_text(peer, "SUB churn.> 2\r\nSUB churn.a group 3\r\n");
        if (dice % 4 == 0)
            try_text(peer, "SUB churn.a 4\r\nUNSUB 4 20\r\nUNSUB 2\r\n");
        /* So that INFO is not the last thing that comes. */
        try_text(peer, "PING\r\n");
        if (dice < 6)
            churn_read(actor, peer, midge_random_below(&actor->random, 300));
        if (dice % 3 == 0)
            try_text(peer, "PUB churn.b 3\r\nabc\r\nPUB churn.b r 3\r\nabc\r\n");
        churn_end(actor, peer);
        midge_rig_step(actor->rig, 1);
    }
    return NULL;
}

void midge_case_churn(struct midge_rig *rig)
{
    struct churn_case churn = {
        .pace = {.reader_count = CHURN_BYSTANDERS, .window = CHURN_WINDOW},
        .message_count = (uint32_t)midge_rig_pick(rig, CHURN_MESSAGES, CHURN_LONG),
    };
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    struct midge_actor bystanders[MIDGE_ACTORS_MAX];
    struct midge_actor churners[MIDGE_ACTORS_MAX];
    struct midge_peer *sleepers[MIDGE_RIG_SHARDS]; /* never read: too slow in any case */
    struct midge_rig_sums sums;

    rig->step_name = "connections that came and went";
    rig->config.pending_bytes_max = CHURN_MAX;
    rig->config.no_fast_producer_stall = true;
    midge_rig_start(rig);
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
        sleepers[i] = midge_peer_connect(rig, i, 4096);
        midge_peer_text(sleepers[i], "CONNECT {\"verbose\":false}\r\nSUB churn.* 1\r\n");
        (void)midge_peer_fence(sleepers[i]);
    }
    (void)pthread_barrier_init(&churn.ready, NULL,
                               CHURN_PUBLISHERS + CHURN_BYSTANDERS + CHURN_CHURNERS);
    midge_actors_start(rig, bystanders, CHURN_BYSTANDERS, &churn, churn_stand_by);
    midge_actors_start(rig, publishers, CHURN_PUBLISHERS, &churn, churn_publish);
    midge_actors_start(rig, churners, CHURN_CHURNERS, &churn, churn_come_and_go);
    midge_actors_join(publishers, CHURN_PUBLISHERS);
    midge_actors_join(bystanders, CHURN_BYSTANDERS);
    atomic_store(&churn.done, true);
    midge_actors_join(churners, CHURN_CHURNERS);
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++)
        midge_peer_close(sleepers[i]);
    (void)pthread_barrier_destroy(&churn.ready);
    sums = midge_rig_stop(rig);
    CHECK(&rig->scene, sums.slow_pending >= MIDGE_RIG_SHARDS, "%" PRIu64 " were too slow",
          sums.slow_pending);
    CHECK(&rig->scene, sums.discarded > 0, "nobody left anything unread");
}

/* ---- memory: over max_memory those that do not read are closed, and only those ---- */

#define MEMORY_MAX        (8u << 20)
#define MEMORY_PUBLISHERS MIDGE_RIG_SHARDS
#define MEMORY_BYSTANDERS MIDGE_RIG_SHARDS
#define MEMORY_IDLERS     (2 * MIDGE_RIG_SHARDS) /* do not read */
#define MEMORY_CLOSED     MEMORY_IDLERS          /* so many of them, until the publishers end */
#define MEMORY_BURSTS_MAX 4000u                  /* of 16 messages */

static uint64_t memory_closed(const struct midge_rig *rig)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++)
        count += midge_stats_read(&rig->shards[i].shard->stats.memory_closed);
    return count;
}

static void *memory_publish(void *argument)
{
    struct midge_actor *actor = argument;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");
    uint32_t burst;

    for (burst = 0; burst < MEMORY_BURSTS_MAX; burst++) {
        for (uint32_t i = 0; i < 16; i++)
            (void)midge_writing_add(writing, "idle", actor->index, i,
                                    midge_writing_pick_len(&actor->random));
        (void)midge_writing_add(writing, "read", actor->index, burst, MIDGE_STAMP_LEN + 100);
        midge_writing_send(peer, writing, &actor->random);
        if (memory_closed(actor->rig) >= MEMORY_CLOSED)
            break;
    }
    CHECK(&actor->rig->scene, burst < MEMORY_BURSTS_MAX, "%" PRIu64 " closed in all",
          memory_closed(actor->rig));
    (void)midge_writing_add(writing, "read", actor->index, burst + 1, MIDGE_STAMP_LEN);
    midge_peer_write(peer, writing->bytes, writing->len);
    (void)midge_peer_fence(peer);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

static void *memory_stand_by(void *argument)
{
    struct midge_actor *actor = argument;
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "SUB read 1\r\n");
    uint32_t next[MEMORY_PUBLISHERS] = {0};
    uint32_t ended = 0;
    struct midge_peer_frame frame;

    (void)pthread_barrier_wait(actor->state);
    while (ended < MEMORY_PUBLISHERS) {
        midge_peer_expect_msg(peer, &frame);
        (void)midge_peer_check_stamped(&actor->rig->scene, &frame, next, MEMORY_PUBLISHERS);
        ended += frame.body_len == MIDGE_STAMP_LEN;
    }
    CHECK(&actor->rig->scene, midge_peer_fence(peer) == 0, "a message came twice");
    midge_peer_close(peer);
    return NULL;
}

void midge_case_memory(struct midge_rig *rig)
{
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    struct midge_actor bystanders[MIDGE_ACTORS_MAX];
    struct midge_peer *idlers[MEMORY_IDLERS];
    pthread_barrier_t ready;
    struct midge_rig_sums sums;
    uint32_t waits = 0;

    rig->config.memory_bytes_max = MEMORY_MAX;
    rig->config.no_fast_producer_stall = true;
    midge_rig_start(rig);
    for (uint32_t i = 0; i < MEMORY_IDLERS; i++) {
        idlers[i] = midge_peer_connect(rig, i % MIDGE_RIG_SHARDS, 4096);
        midge_peer_text(idlers[i], "CONNECT {\"verbose\":false}\r\nSUB idle 1\r\n");
        (void)midge_peer_fence(idlers[i]);
    }
    (void)pthread_barrier_init(&ready, NULL, MEMORY_BYSTANDERS + 1);
    midge_actors_start(rig, bystanders, MEMORY_BYSTANDERS, &ready, memory_stand_by);
    (void)pthread_barrier_wait(&ready);
    midge_actors_start(rig, publishers, MEMORY_PUBLISHERS, NULL, memory_publish);
    midge_actors_join(publishers, MEMORY_PUBLISHERS);
    midge_actors_join(bystanders, MEMORY_BYSTANDERS);
    while (atomic_load(&rig->broker.memory_picking)) {
        CHECK(&rig->scene, ++waits < MIDGE_PATIENCE_S * 1000, "still picking");
        midge_pause_us(1000);
    }
    for (uint32_t i = 0; i < MEMORY_IDLERS; i++)
        midge_peer_close(idlers[i]);
    (void)pthread_barrier_destroy(&ready);
    sums = midge_rig_stop(rig);
    CHECK(&rig->scene, sums.memory_closed >= MEMORY_CLOSED && sums.memory_closed <= MEMORY_IDLERS,
          "%" PRIu64 " closed because of max_memory", sums.memory_closed);
}
