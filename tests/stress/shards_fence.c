/* What PONG promises about SUB and UNSUB, whichever shard publishes. */
#include "shards_cases.h"

#include <stdio.h>
#include <string.h>

#include "shards_peer.h"

/* ---- fence: PONG says that SUB and UNSUB hold on every shard; UNSUB max is exact ---- */

#define FENCE_ROUNDS  60u
#define FENCE_MAX     50u
#define FENCE_RACERS  MIDGE_RIG_SHARDS
#define FENCE_SUBJECT "fence.x"

struct fence_case {
    pthread_barrier_t ready;
    _Atomic bool done;
    _Atomic uint32_t max_round; /* racers publish to max.<round>, too */
};

/* Publish all the time, but never more than the broker has taken. */
static void *fence_race(void *argument)
{
    struct midge_actor *actor = argument;
    struct fence_case *fence = actor->state;
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&fence->ready);
    while (!atomic_load(&fence->done)) {
        const uint32_t round = atomic_load(&fence->max_round);
        char text[2048];
        uint32_t len = 0;

        for (uint32_t i = 1 + midge_random_below(&actor->random, 20); i > 0; i--)
            len += (uint32_t)snprintf(
                text + len, sizeof(text) - len,
                "PUB " FENCE_SUBJECT " 5\r\nnoise\r\nPUB max.%" PRIu32 " 5\r\nnoise\r\n", round);
        midge_peer_write(peer, text, len);
        (void)midge_peer_fence(peer);
    }
    midge_peer_close(peer);
    return NULL;
}

/* Publish one message, and know that the broker has delivered it. */
static void publish_mark(struct midge_peer *peer, uint32_t round)
{
    char text[64];

    (void)snprintf(text, sizeof(text), "PUB " FENCE_SUBJECT " 10\r\nmark%06" PRIu32 "\r\n", round);
    midge_peer_text(peer, text);
    (void)midge_peer_fence(peer);
}

/* Read up to the mark of this round. */
static void await_mark(struct midge_peer *peer, uint32_t round)
{
    struct midge_peer_frame frame;
    char text[16];

    (void)snprintf(text, sizeof(text), "mark%06" PRIu32, round);
    do {
        midge_peer_expect_msg(peer, &frame);
        CHECK(peer->scene, frame.sid == round, "sid %" PRIu32 " in round %" PRIu32, frame.sid,
              round);
    } while (frame.body_len != 10 || memcmp(frame.body, text, 10) != 0);
}

/* SUB and UNSUB hold from their PONGs on. */
static void fence_round(struct midge_peer *reader, struct midge_peer *publisher, uint32_t round)
{
    char text[96];

    (void)snprintf(text, sizeof(text), "SUB " FENCE_SUBJECT " %" PRIu32 "\r\n", round);
    midge_peer_text(reader, text);
    (void)midge_peer_fence(reader);
    publish_mark(publisher, round);
    await_mark(reader, round);
    (void)snprintf(text, sizeof(text), "UNSUB %" PRIu32 "\r\n", round);
    midge_peer_text(reader, text);
    (void)midge_peer_fence(reader);
    publish_mark(publisher, round);
    CHECK(reader->scene, midge_peer_fence(reader) == 0, "a message behind UNSUB, round %" PRIu32,
          round);
}

/* The racers begin behind UNSUB, which would otherwise come too late to be exact. */
static void max_round(struct fence_case *fence, struct midge_peer *reader,
                      struct midge_peer *publisher, uint32_t round)
{
    struct midge_peer_frame frame;
    char text[96];

    (void)snprintf(text, sizeof(text), "SUB max.%" PRIu32 " 1\r\nUNSUB 1 %u\r\n", round, FENCE_MAX);
    midge_peer_text(reader, text);
    CHECK(reader->scene, midge_peer_fence(reader) == 0, "a message on a new subject");
    atomic_store(&fence->max_round, round);
    for (uint32_t i = 0; i < FENCE_MAX; i++)
        midge_peer_expect_msg(reader, &frame);
    (void)snprintf(text, sizeof(text), "PUB max.%" PRIu32 " 0\r\n\r\n", round);
    midge_peer_text(publisher, text);
    (void)midge_peer_fence(publisher);
    CHECK(reader->scene, midge_peer_fence(reader) == 0, "a message over max, round %" PRIu32,
          round);
}

void midge_case_fence(struct midge_rig *rig)
{
    struct fence_case fence = {.max_round = UINT32_MAX};
    struct midge_actor racers[MIDGE_ACTORS_MAX];
    struct midge_peer *readers[MIDGE_RIG_SHARDS];
    struct midge_peer *publishers[MIDGE_RIG_SHARDS];

    midge_rig_start(rig);
    (void)pthread_barrier_init(&fence.ready, NULL, FENCE_RACERS + 1);
    midge_actors_start(rig, racers, FENCE_RACERS, &fence, fence_race);
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
        readers[i] = midge_peer_join(rig, i, "");
        publishers[i] = midge_peer_join(rig, i, "");
    }
    (void)pthread_barrier_wait(&fence.ready);
    for (uint32_t round = 0; round < FENCE_ROUNDS; round++) {
        struct midge_peer *reader = readers[round % MIDGE_RIG_SHARDS];
        struct midge_peer *publisher = publishers[(round + 1 + round / 3 % 2) % MIDGE_RIG_SHARDS];

        fence_round(reader, publisher, round);
        max_round(&fence, reader, publisher, round);
    }
    atomic_store(&fence.done, true);
    midge_actors_join(racers, FENCE_RACERS);
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
        midge_peer_close(readers[i]);
        midge_peer_close(publishers[i]);
    }
    (void)pthread_barrier_destroy(&fence.ready);
    (void)midge_rig_stop(rig);
}
