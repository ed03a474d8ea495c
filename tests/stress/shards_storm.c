/* SUB, UNSUB, close and kill from all shards while all shards fan out. */
#include "shards_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "shards_peer.h"

/* ---- storm: every client gets what it may, and nothing torn; bystanders get all ---- */

#define STORM_PUBLISHERS  MIDGE_RIG_SHARDS
#define STORM_BYSTANDERS  MIDGE_RIG_SHARDS
#define STORM_STORMERS    (2 * MIDGE_RIG_SHARDS)
#define STORM_OPS         20000u /* SUB, UNSUB, connect, and close of any kind */
#define STORM_LONG        10000000u
#define STORM_WINDOW      200u /* messages of one publisher that a bystander has not got */
#define STORM_OPS_FOR_ONE 20u  /* message of each publisher: where one is slow, so is the other */
#define STORM_SUBJECTS    16u
#define STORM_SIDS        48u
#define STORM_BATCH_MAX   60u /* SUBs and UNSUBs before one PING */
#define STORM_BATCHES_MAX 20u /* of one connection */
#define STORM_LINE_LEN    64u /* of one of them, at most */
#define STORM_NO_NUMBER   UINT32_MAX

struct storm_case {
    uint64_t op_count;
    struct midge_pace pace;
    pthread_barrier_t ready;
    _Atomic uint64_t ops_done;
    _Atomic bool over;
};

enum storm_state {
    STORM_OFF = 0,
    STORM_ON,
    STORM_LIMITED, /* UNSUB max: perhaps at its end already */
};

/* One sid, as its client knows it. */
struct storm_sub {
    enum storm_state state;
    bool is_wide;  /* gets all messages */
    bool touched;  /* since the last PONG */
    bool may_come; /* a message before the next PONG is no fault */
    /* Of each publisher, the number that came last; and whether it came since the last change, so
     * that the one behind it must be the next. */
    uint32_t last[STORM_PUBLISHERS];
    bool is_known[STORM_PUBLISHERS];
};

struct storm_client {
    struct midge_actor *actor;
    struct midge_peer *peer;
    struct storm_sub subs[STORM_SIDS];
};

static uint32_t storm_len(uint64_t *random)
{
    if (midge_random_below(random, 50) == 0)
        return 8000 + midge_random_below(random, 2000);
    return MIDGE_STAMP_LEN + midge_random_below(random, 100);
}

/* Publish until the storm is over, and then say so. */
static void *storm_publish(void *argument)
{
    struct midge_actor *actor = argument;
    struct storm_case *storm = actor->state;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");
    uint32_t number = 0;

    (void)pthread_barrier_wait(&storm->ready);
    while (!atomic_load(&storm->over)) {
        for (uint32_t burst = 1 + midge_random_below(&actor->random, 10); burst > 0; burst--) {
            char subject[32];

            (void)snprintf(subject, sizeof(subject), "storm.%" PRIu32,
                           midge_random_below(&actor->random, STORM_SUBJECTS));
            (void)midge_writing_add(writing, subject, actor->index, number++,
                                    storm_len(&actor->random));
        }
        midge_writing_send(peer, writing, &actor->random);
        midge_peer_answer_pings(peer);
        midge_pace_wait(&storm->pace, &actor->rig->scene, actor->index, number);
        do {
            midge_pause_us(midge_random_below(&actor->random, 1000));
        } while (number > 100 + atomic_load(&storm->ops_done) / STORM_OPS_FOR_ONE &&
                 !atomic_load(&storm->over));
    }
    (void)midge_writing_add(writing, "storm.end", actor->index, number, MIDGE_STAMP_LEN);
    midge_writing_send(peer, writing, &actor->random);
    (void)midge_peer_fence(peer);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

static void *storm_stand_by(void *argument)
{
    struct midge_actor *actor = argument;
    struct storm_case *storm = actor->state;
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "SUB storm.> 1\r\n");
    uint32_t next[STORM_PUBLISHERS] = {0};
    struct midge_peer_frame frame;

    (void)pthread_barrier_wait(&storm->ready);
    for (uint32_t ended = 0; ended < STORM_PUBLISHERS;) {
        uint32_t publisher;

        midge_peer_expect_msg(peer, &frame);
        publisher = midge_peer_check_stamped(&actor->rig->scene, &frame, next, STORM_PUBLISHERS);
        midge_pace_note(&storm->pace, actor->index, publisher, next[publisher]);
        ended += strcmp(frame.subject, "storm.end") == 0;
    }
    CHECK(&actor->rig->scene, midge_peer_fence(peer) == 0, "a message came twice");
    midge_peer_close(peer);
    return NULL;
}

static void storm_take(struct storm_client *client, const struct midge_peer_frame *frame)
{
    const struct midge_scene *scene = client->peer->scene;
    uint32_t number;
    const uint32_t publisher = midge_peer_check_stamp(scene, frame, STORM_PUBLISHERS, &number);
    struct storm_sub *sub = &client->subs[frame->sid % STORM_SIDS];
    const uint32_t last = sub->last[publisher];

    CHECK(scene, frame->sid < STORM_SIDS && sub->may_come,
          "a message for sid %" PRIu32 ", which is not subscribed", frame->sid);
    CHECK(scene, last == STORM_NO_NUMBER || number > last,
          "message %" PRIu32 " behind %" PRIu32 " of publisher %" PRIu32, number, last, publisher);
    CHECK(scene, !sub->is_known[publisher] || number == last + 1,
          "message %" PRIu32 " instead of %" PRIu32 " of publisher %" PRIu32, number, last + 1,
          publisher);
    sub->last[publisher] = number;
    sub->is_known[publisher] = sub->is_wide && sub->state == STORM_ON && !sub->touched;
}

/* Up to the PONG of a PING that was sent. From then on holds what was said before it. */
static void storm_take_to_pong(struct storm_client *client)
{
    struct midge_peer_frame frame;

    while (midge_peer_next(client->peer, &frame) == FRAME_MSG)
        storm_take(client, &frame);
    CHECK(client->peer->scene, frame.kind == FRAME_PONG, "frame %d instead of PONG",
          (int)frame.kind);
    for (uint32_t sid = 0; sid < STORM_SIDS; sid++) {
        client->subs[sid].touched = false;
        client->subs[sid].may_come = client->subs[sid].state != STORM_OFF;
    }
}

/* @return length of the operation, behind which there may be a second one */
static uint32_t storm_change(struct storm_client *client, uint32_t sid, char *text)
{
    uint64_t *random = &client->actor->random;
    struct storm_sub *sub = &client->subs[sid];
    int len;

    sub->touched = true;
    memset(sub->is_known, 0, sizeof(sub->is_known));
    if (sub->state != STORM_OFF) {
        sub->state = STORM_OFF;
        return (uint32_t)snprintf(text, STORM_LINE_LEN, "UNSUB %" PRIu32 "\r\n", sid);
    }
    sub->state = STORM_ON;
    sub->may_come = true;
    sub->is_wide = midge_random_below(random, 8) == 0;
    if (sub->is_wide)
        return (uint32_t)snprintf(text, STORM_LINE_LEN, "SUB storm.%s %" PRIu32 "\r\n",
                                  midge_random_below(random, 2) == 0 ? ">" : "*", sid);
    len = snprintf(text, STORM_LINE_LEN, "SUB storm.%" PRIu32 "%s %" PRIu32 "\r\n",
                   midge_random_below(random, STORM_SUBJECTS),
                   midge_random_below(random, 3) == 0 ? " group" : "", sid);
    if (midge_random_below(random, 4) > 0)
        return (uint32_t)len;
    sub->state = STORM_LIMITED;
    len += snprintf(text + len, STORM_LINE_LEN, "UNSUB %" PRIu32 " %" PRIu32 "\r\n", sid,
                    1 + midge_random_below(random, 20));
    return (uint32_t)len;
}

static void storm_count(struct midge_actor *actor, uint64_t count)
{
    struct storm_case *storm = actor->state;

    (void)atomic_fetch_add(&storm->ops_done, count);
    midge_rig_step(actor->rig, count);
}

static bool storm_is_over(const struct midge_actor *actor)
{
    struct storm_case *storm = actor->state;

    return atomic_load(&storm->ops_done) >= storm->op_count;
}

/* Some SUBs and UNSUBs, without PING. */
static void storm_change_some(struct storm_client *client)
{
    uint64_t *random = &client->actor->random;
    const uint32_t count = 1 + midge_random_below(random, STORM_BATCH_MAX);
    char text[2 * STORM_BATCH_MAX * STORM_LINE_LEN];
    uint32_t len = 0;

    for (uint32_t i = 0; i < count; i++)
        len += storm_change(client, midge_random_below(random, STORM_SIDS), text + len);
    midge_peer_write(client->peer, text, len);
    storm_count(client->actor, count);
}

/* The end of a connection, in the midst of what it is sent. */
static void storm_end(struct storm_client *client)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    struct midge_peer *peer = client->peer;
    struct midge_peer_frame frame;
    bool reads = false;

    peer->answers_no_ping = true;
    switch (midge_random_below(&client->actor->random, 5)) {
    case 0: /* reset */
        (void)setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
        break;
    case 1: /* in the midst of a message */
        midge_peer_text(peer, "PUB storm.cut 20000\r\nthe rest is missing");
        break;
    case 2: /* half */
        (void)shutdown(peer->fd, SHUT_WR);
        reads = true;
        break;
    case 3: /* a fault */
        midge_peer_text(peer, "NONSENSE\r\n");
        reads = true;
        break;
    default: /* with whatever is unread */
        break;
    }
    /* What comes until the end is whole, too, and is meant for it. */
    while (reads && midge_peer_next(peer, &frame) != FRAME_END)
        if (frame.kind == FRAME_MSG)
            storm_take(client, &frame);
    CHECK(peer->scene, !peer->is_torn || peer->is_reset, "the last frame is torn");
    midge_peer_close(peer);
    storm_count(client->actor, 1);
}

static void *storm_rage(void *argument)
{
    struct midge_actor *actor = argument;
    struct storm_case *storm = actor->state;
    struct storm_client *client = malloc(sizeof(*client));

    CHECK(&actor->rig->scene, client != NULL, "no memory");
    (void)pthread_barrier_wait(&storm->ready);
    while (!storm_is_over(actor)) {
        *client = (struct storm_client){.actor = actor};
        for (uint32_t sid = 0; sid < STORM_SIDS; sid++)
            memset(client->subs[sid].last, 0xff, sizeof(client->subs[sid].last));
        client->peer =
            midge_peer_join(actor->rig, midge_random_below(&actor->random, MIDGE_RIG_SHARDS), "");
        storm_count(actor, 1);
        for (uint32_t i = midge_random_below(&actor->random, STORM_BATCHES_MAX); i > 0; i--) {
            storm_change_some(client);
            midge_peer_text(client->peer, "PING\r\n");
            storm_take_to_pong(client);
        }
        storm_change_some(client);
        storm_end(client);
    }
    free(client);
    return NULL;
}

void midge_case_storm(struct midge_rig *rig)
{
    struct storm_case storm = {
        .op_count = midge_rig_pick(rig, STORM_OPS, STORM_LONG),
        .pace = {.reader_count = STORM_BYSTANDERS, .window = STORM_WINDOW},
    };
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    struct midge_actor bystanders[MIDGE_ACTORS_MAX];
    struct midge_actor stormers[MIDGE_ACTORS_MAX];

    rig->step_name = "operations";
    rig->step_count = storm.op_count;
    midge_rig_start(rig);
    (void)pthread_barrier_init(&storm.ready, NULL,
                               STORM_PUBLISHERS + STORM_BYSTANDERS + STORM_STORMERS);
    midge_actors_start(rig, bystanders, STORM_BYSTANDERS, &storm, storm_stand_by);
    midge_actors_start(rig, publishers, STORM_PUBLISHERS, &storm, storm_publish);
    midge_actors_start(rig, stormers, STORM_STORMERS, &storm, storm_rage);
    midge_actors_join(stormers, STORM_STORMERS);
    atomic_store(&storm.over, true);
    midge_actors_join(publishers, STORM_PUBLISHERS);
    midge_actors_join(bystanders, STORM_BYSTANDERS);
    (void)pthread_barrier_destroy(&storm.ready);
    (void)midge_rig_stop(rig);
}
