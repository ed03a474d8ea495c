/* What PONG promises about SUB, UNSUB and CONNECT, whichever shard publishes, and UNSUB max. */
#include "shards_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards_peer.h"

/* ---- fence: PONG says that SUB and UNSUB hold on every shard; UNSUB max is exact ---- */

#define FENCE_PAIRS     (2 * MIDGE_RIG_SHARDS) /* of a client that reads and one that publishes */
#define FENCE_RACERS    MIDGE_RIG_SHARDS
#define FENCE_CYCLES    150u /* of all pairs */
#define FENCE_LONG      1000000u
#define FENCE_BURST_MAX 6u   /* of what a racer publishes for each pair before it waits */
#define FENCE_MAX       50u  /* UNSUB max */
#define FENCE_MAX_EVERY 8u   /* of so many cycles one is about UNSUB max, too */
#define FENCE_PAUSE_US  500u /* at most, of a racer: the others are to get on, too */
#define FENCE_NO_ROUND  UINT32_MAX
#define FENCE_STRETCH   10u  /* cycles of one connection, then of the next one */
#define FENCE_BALLAST   300u /* subscriptions of a racer to its own messages */
#define FENCE_MARK_LEN  11u
#define FENCE_TEXT_CAP  4096u

struct fence_case {
    uint32_t cycle_count; /* of each pair */
    pthread_barrier_t ready;
    _Atomic bool done;
    /* Racers publish to max.<pair>.<round>, too; FENCE_NO_ROUND = there is none. */
    _Atomic uint32_t max_rounds[FENCE_PAIRS];
};

/* Each cycle has a pattern of another kind. All of them match what racers publish to
 * fence.<pair>.<racer>, and the marks. */
static const char *const fence_patterns[] = {"fence.%" PRIu32 ".*", "fence.%" PRIu32 ".>",
                                             "fence.%" PRIu32 ".* group",
                                             "fence.%" PRIu32 ".> group"};

/* Without echo a racer gets nothing for these, but its shard goes through all of them with what it
 * has matched: so UNSUB and its PONG often find another shard between match and delivery. */
static struct midge_peer *fence_join_racer(struct midge_actor *actor)
{
    struct midge_peer *peer = midge_peer_connect(actor->rig, actor->shard, 0);
    char text[FENCE_BALLAST * 32];
    uint32_t len = 0;

    for (uint32_t sid = 1; sid <= FENCE_BALLAST; sid++)
        len += (uint32_t)snprintf(text + len, sizeof(text) - len,
                                  "SUB fence.*.%" PRIu32 " %" PRIu32 "\r\n", actor->index, sid);
    midge_peer_text(peer, "CONNECT {\"verbose\":false,\"echo\":false}\r\n");
    midge_peer_write(peer, text, len);
    (void)midge_peer_fence(peer);
    return peer;
}

/* Publish all the time, but never more than the broker has taken. */
static void *fence_race(void *argument)
{
    struct midge_actor *actor = argument;
    struct fence_case *fence = actor->state;
    struct midge_peer *peer = fence_join_racer(actor);

    (void)pthread_barrier_wait(&fence->ready);
    while (!atomic_load(&fence->done)) {
        char text[FENCE_TEXT_CAP];
        uint32_t len = 0;

        for (uint32_t i = 1 + midge_random_below(&actor->random, FENCE_BURST_MAX); i > 0; i--) {
            for (uint32_t pair = 0; pair < FENCE_PAIRS; pair++) {
                const uint32_t round = atomic_load(&fence->max_rounds[pair]);

                len += (uint32_t)snprintf(text + len, sizeof(text) - len,
                                          "PUB fence.%" PRIu32 ".%" PRIu32 " 5\r\nnoise\r\n", pair,
                                          actor->index);
                if (round == FENCE_NO_ROUND)
                    continue;
                len += (uint32_t)snprintf(text + len, sizeof(text) - len,
                                          "PUB max.%" PRIu32 ".%" PRIu32 " 5\r\nnoise\r\n", pair,
                                          round);
            }
        }
        midge_peer_write(peer, text, len);
        (void)midge_peer_fence(peer);
        midge_pause_us(midge_random_below(&actor->random, FENCE_PAUSE_US));
    }
    midge_peer_close(peer);
    return NULL;
}

/* Publish one message. Behind its PONG the broker has delivered it. */
static void publish_mark(struct midge_peer *peer, uint32_t pair, uint32_t round)
{
    char text[64];

    (void)snprintf(text, sizeof(text),
                   "PUB fence.%" PRIu32 ".m 11\r\nmark%07" PRIu32 "\r\nPING\r\n", pair, round);
    midge_peer_text(peer, text);
}

static void await_pong(struct midge_peer *peer)
{
    struct midge_peer_frame frame;

    CHECK(peer->scene, midge_peer_next(peer, &frame) == FRAME_PONG, "frame %d instead of PONG",
          (int)frame.kind);
}

/* One message for the subscription of this round. @return true if it is the mark and not noise */
static bool check_noise(struct midge_peer *peer, const struct midge_peer_frame *frame,
                        uint32_t round)
{
    char text[16];

    CHECK(peer->scene, frame->sid == round, "sid %" PRIu32 " in round %" PRIu32, frame->sid, round);
    (void)snprintf(text, sizeof(text), "mark%07" PRIu32, round);
    if (frame->body_len == FENCE_MARK_LEN && memcmp(frame->body, text, FENCE_MARK_LEN) == 0)
        return true;
    CHECK(peer->scene, frame->body_len == 5 && memcmp(frame->body, "noise", 5) == 0,
          "`%.*s` in round %" PRIu32, (int)frame->body_len, (const char *)frame->body, round);
    return false;
}

/* Say this and PING, and take what comes up to its PONG: nothing of another round. */
static void fence_with(struct midge_peer *peer, const char *text, uint32_t round)
{
    struct midge_peer_frame frame;

    midge_peer_text(peer, text);
    while (midge_peer_next(peer, &frame) == FRAME_MSG)
        CHECK(peer->scene, !check_noise(peer, &frame, round), "a mark too many");
    CHECK(peer->scene, frame.kind == FRAME_PONG, "frame %d instead of PONG", (int)frame.kind);
}

/* SUB and UNSUB hold from their PONGs on: the first mark must come, the second one must not, as the
 * next PONG shows, that of the next cycle. */
static void fence_cycle(struct midge_peer *reader, struct midge_peer *publisher, uint32_t pair,
                        uint32_t round)
{
    struct midge_peer_frame frame;
    char pattern[64];
    char text[96];

    (void)snprintf(pattern, sizeof(pattern), fence_patterns[round / 2 % 4], pair);
    (void)snprintf(text, sizeof(text), "SUB %s %" PRIu32 "\r\nPING\r\n", pattern, round);
    fence_with(reader, text, round);
    publish_mark(publisher, pair, round);
    do {
        midge_peer_expect_msg(reader, &frame);
    } while (!check_noise(reader, &frame, round));
    await_pong(publisher);
    (void)snprintf(text, sizeof(text), "UNSUB %" PRIu32 "\r\nPING\r\n", round);
    fence_with(reader, text, round);
    publish_mark(publisher, pair, round);
    await_pong(publisher);
}

/* The racers begin behind UNSUB, which would otherwise come too late to be exact. */
static void max_cycle(struct fence_case *fence, struct midge_peer *reader,
                      struct midge_peer *publisher, uint32_t pair, uint32_t round)
{
    struct midge_peer_frame frame;
    char text[96];

    (void)snprintf(text, sizeof(text), "SUB max.%" PRIu32 ".%" PRIu32 " 0\r\nUNSUB 0 %u\r\n", pair,
                   round, FENCE_MAX);
    midge_peer_text(reader, text);
    CHECK(reader->scene, midge_peer_fence(reader) == 0, "a message on a new subject");
    atomic_store(&fence->max_rounds[pair], round);
    for (uint32_t i = 0; i < FENCE_MAX; i++) {
        midge_peer_expect_msg(reader, &frame);
        CHECK(reader->scene, frame.sid == 0, "sid %" PRIu32 " instead of 0", frame.sid);
    }
    (void)snprintf(text, sizeof(text), "PUB max.%" PRIu32 ".%" PRIu32 " 0\r\n\r\n", pair, round);
    midge_peer_text(publisher, text);
    (void)midge_peer_fence(publisher);
    CHECK(reader->scene, midge_peer_fence(reader) == 0, "a message over max, round %" PRIu32,
          round);
    atomic_store(&fence->max_rounds[pair], FENCE_NO_ROUND);
}

/* One pair: the shards of both change all the time. */
static void *fence_pair(void *argument)
{
    struct midge_actor *actor = argument;
    struct fence_case *fence = actor->state;
    struct midge_peer *readers[MIDGE_RIG_SHARDS];
    struct midge_peer *publishers[MIDGE_RIG_SHARDS];

    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
        readers[i] = midge_peer_join(actor->rig, i, "");
        publishers[i] = midge_peer_join(actor->rig, i, "");
    }
    (void)pthread_barrier_wait(&fence->ready);
    for (uint32_t round = 1; round <= fence->cycle_count; round++) {
        const uint32_t stretch = round / FENCE_STRETCH;
        struct midge_peer *reader = readers[(actor->index + stretch) % MIDGE_RIG_SHARDS];
        struct midge_peer *publisher =
            publishers[(actor->index + stretch + 1 + round / 3 % 2) % MIDGE_RIG_SHARDS];

        fence_cycle(reader, publisher, actor->index, round);
        if (round % FENCE_MAX_EVERY == 0)
            max_cycle(fence, reader, publisher, actor->index, round);
        midge_rig_step(actor->rig, 1);
    }
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
        CHECK(&actor->rig->scene, midge_peer_fence(readers[i]) == 0, "a message behind UNSUB");
        midge_peer_close(readers[i]);
        midge_peer_close(publishers[i]);
    }
    return NULL;
}

void midge_case_fence(struct midge_rig *rig)
{
    struct fence_case fence = {
        .cycle_count = (uint32_t)midge_rig_pick(rig, FENCE_CYCLES, FENCE_LONG) / FENCE_PAIRS + 1,
    };
    struct midge_actor racers[MIDGE_ACTORS_MAX];
    struct midge_actor pairs[MIDGE_ACTORS_MAX];

    for (uint32_t i = 0; i < FENCE_PAIRS; i++)
        atomic_store(&fence.max_rounds[i], FENCE_NO_ROUND);
    rig->step_name = "cycles";
    rig->step_count = (uint64_t)fence.cycle_count * FENCE_PAIRS;
    midge_rig_start(rig);
    (void)pthread_barrier_init(&fence.ready, NULL, FENCE_RACERS + FENCE_PAIRS);
    midge_actors_start(rig, racers, FENCE_RACERS, &fence, fence_race);
    midge_actors_start(rig, pairs, FENCE_PAIRS, &fence, fence_pair);
    midge_actors_join(pairs, FENCE_PAIRS);
    atomic_store(&fence.done, true);
    midge_actors_join(racers, FENCE_RACERS);
    (void)pthread_barrier_destroy(&fence.ready);
    (void)midge_rig_stop(rig);
}

/* ---- again: a second CONNECT drops many subscriptions while connections move ---- */

#define AGAIN_READERS  (2 * MIDGE_RIG_SHARDS)
#define AGAIN_RACERS   MIDGE_RIG_SHARDS
#define AGAIN_ROUNDS   6u /* of each reader */
#define AGAIN_LONG     2000u
#define AGAIN_SUBS     6000u /* at most in a round; some 256 leave the index in a turn */
#define AGAIN_SUBJECTS 10u
#define AGAIN_LINE_LEN 64u /* of one SUB, at most */

struct again_case {
    uint32_t round_count;
    pthread_barrier_t ready;
    _Atomic bool done;
};

/* Publish to what all readers have many subscriptions to. */
static void *again_race(void *argument)
{
    struct midge_actor *actor = argument;
    struct again_case *again = actor->state;
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&again->ready);
    while (!atomic_load(&again->done)) {
        char text[256];

        (void)snprintf(text, sizeof(text), "PUB again.%" PRIu32 " 5\r\nnoise\r\n",
                       midge_random_below(&actor->random, AGAIN_SUBJECTS));
        midge_peer_text(peer, text);
        (void)midge_peer_fence(peer);
    }
    midge_peer_close(peer);
    return NULL;
}

/* So many subscriptions; the last ones also get what the reader's own publisher says. */
static void again_subscribe(struct midge_actor *actor, struct midge_peer *reader, uint32_t count)
{
    char *text = malloc((size_t)count * AGAIN_LINE_LEN);
    uint32_t len = 0;

    CHECK(&actor->rig->scene, text != NULL, "no memory");
    for (uint32_t sid = 1; sid <= count; sid++) {
        if (sid == count)
            len += (uint32_t)snprintf(text + len, AGAIN_LINE_LEN,
                                      "SUB mark.%" PRIu32 " %" PRIu32 "\r\n", actor->index, sid);
        else if (sid % 100 == 0)
            len += (uint32_t)snprintf(text + len, AGAIN_LINE_LEN,
                                      "SUB again.%" PRIu32 " %" PRIu32 "\r\n",
                                      sid / 100 % AGAIN_SUBJECTS, sid);
        else
            len += (uint32_t)snprintf(text + len, AGAIN_LINE_LEN,
                                      "SUB again.%" PRIu32 ".%" PRIu32 " %" PRIu32 "\r\n",
                                      actor->index, sid, sid);
    }
    midge_peer_write(reader, text, len);
    free(text);
}

/* All that was subscribed to gets nothing from the PONG behind CONNECT on, and what is subscribed
 * to behind it, under the same sids, gets all. */
static void again_round(struct midge_actor *actor, struct midge_peer *reader,
                        struct midge_peer *publisher)
{
    const struct midge_scene *scene = &actor->rig->scene;
    const uint32_t count = 1 + midge_random_below(&actor->random, AGAIN_SUBS);
    struct midge_peer_frame frame;
    char text[64];

    (void)snprintf(text, sizeof(text), "PUB mark.%" PRIu32 " 4\r\nmark\r\n", actor->index);
    again_subscribe(actor, reader, count);
    (void)midge_peer_fence(reader);
    midge_peer_text(publisher, text);
    do {
        midge_peer_expect_msg(reader, &frame);
        CHECK(scene, frame.sid <= count, "sid %" PRIu32 " of %" PRIu32, frame.sid, count);
    } while (frame.sid != count);
    midge_peer_text(reader, "CONNECT {\"verbose\":false,\"headers\":true}\r\n");
    if (midge_random_below(&actor->random, 2) == 0)
        return; /* and the next SUB at once */
    (void)midge_peer_fence(reader);
    midge_peer_text(publisher, text);
    (void)midge_peer_fence(publisher);
    CHECK(scene, midge_peer_fence(reader) == 0, "a message behind CONNECT");
}

static void *again_read(void *argument)
{
    struct midge_actor *actor = argument;
    struct again_case *again = actor->state;
    struct midge_peer *reader = midge_peer_join(actor->rig, actor->shard, "");
    struct midge_peer *publisher =
        midge_peer_join(actor->rig, (actor->shard + 1) % MIDGE_RIG_SHARDS, "");

    (void)pthread_barrier_wait(&again->ready);
    for (uint32_t round = 0; round < again->round_count; round++) {
        again_round(actor, reader, publisher);
        midge_rig_step(actor->rig, 1);
    }
    midge_peer_close(reader); /* perhaps with subscriptions on their way out */
    midge_peer_close(publisher);
    return NULL;
}

void midge_case_again(struct midge_rig *rig)
{
    struct again_case again = {
        .round_count = (uint32_t)midge_rig_pick(rig, AGAIN_ROUNDS, AGAIN_LONG),
    };
    struct midge_actor racers[MIDGE_ACTORS_MAX];
    struct midge_actor readers[MIDGE_ACTORS_MAX];

    rig->step_name = "rounds of CONNECT";
    rig->step_count = (uint64_t)again.round_count * AGAIN_READERS;
    midge_rig_start(rig);
    (void)pthread_barrier_init(&again.ready, NULL, AGAIN_RACERS + AGAIN_READERS);
    midge_actors_start(rig, racers, AGAIN_RACERS, &again, again_race);
    midge_actors_start(rig, readers, AGAIN_READERS, &again, again_read);
    midge_actors_join(readers, AGAIN_READERS);
    atomic_store(&again.done, true);
    midge_actors_join(racers, AGAIN_RACERS);
    (void)pthread_barrier_destroy(&again.ready);
    (void)midge_rig_stop(rig);
}
