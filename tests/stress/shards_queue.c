/* Which of those that match get a message: one member of a queue group, and never who said "no
 * echo" his own. */
#include "shards_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards_peer.h"

/* ---- queue: exactly one member gets a message, and each as often as any other ---- */

#define QUEUE_PUBLISHERS      MIDGE_RIG_SHARDS
#define QUEUE_READERS         (2 * MIDGE_RIG_SHARDS) /* connections of two members each */
#define QUEUE_MEMBERS         (2 * QUEUE_READERS)
#define QUEUE_TRANSIENTS      MIDGE_RIG_SHARDS
#define QUEUE_MESSAGES        4000u /* of each publisher, in each half */
#define QUEUE_LONG            500000u
#define QUEUE_WINDOW          2000u
#define QUEUE_SIGMAS          6.0 /* one run in 10^7 is outside by chance */
#define QUEUE_TRANSIENT_MAX   5u  /* UNSUB max */
#define QUEUE_TRANSIENT_READS 10u

/* Two halves: members that stay alone, whose shares are compared, and then others among them that
 * come and go. */
struct queue_case {
    uint32_t half;                                            /* messages of each publisher */
    _Atomic uint32_t *taken[QUEUE_PUBLISHERS];                /* by number: deliveries */
    _Atomic uint32_t shares[QUEUE_PUBLISHERS][QUEUE_MEMBERS]; /* of the first half */
    _Atomic uint32_t taken_count[QUEUE_PUBLISHERS];
    pthread_barrier_t ready;
    pthread_barrier_t middle; /* the first half is published */
    _Atomic bool done;
};

/* One delivery, to a member that stays or, with QUEUE_MEMBERS, to another one. */
static void queue_take(struct midge_actor *actor, const struct midge_peer_frame *frame,
                       uint32_t member)
{
    struct queue_case *queue = actor->state;
    const struct midge_scene *scene = &actor->rig->scene;
    uint32_t number;
    const uint32_t publisher = midge_peer_check_stamp(scene, frame, QUEUE_PUBLISHERS, &number);

    CHECK(scene, number < 2 * queue->half, "message %" PRIu32, number);
    CHECK(scene, atomic_fetch_add(&queue->taken[publisher][number], 1) == 0,
          "message %" PRIu32 " of publisher %" PRIu32 " was delivered twice", number, publisher);
    (void)atomic_fetch_add(&queue->taken_count[publisher], 1);
    if (member < QUEUE_MEMBERS && number < queue->half)
        (void)atomic_fetch_add(&queue->shares[publisher][member], 1);
    midge_rig_step(actor->rig, 1);
}

/* Publish up to this number. */
static void queue_publish_half(struct midge_actor *actor, struct midge_peer *peer,
                               struct midge_writing *writing, uint32_t from, uint32_t to)
{
    struct queue_case *queue = actor->state;

    for (uint32_t number = from; number < to;) {
        uint32_t waits = 0;

        for (uint32_t burst = 1 + midge_random_below(&actor->random, 30); burst > 0 && number < to;
             burst--)
            (void)midge_writing_add(writing, "queue.x", actor->index, number++,
                                    MIDGE_STAMP_LEN + midge_random_below(&actor->random, 50));
        midge_writing_send(peer, writing, &actor->random);
        midge_peer_answer_pings(peer);
        while (atomic_load(&queue->taken_count[actor->index]) + QUEUE_WINDOW <= number) {
            CHECK(&actor->rig->scene, ++waits < MIDGE_PATIENCE_S * 10000,
                  "messages of publisher %" PRIu32 " do not come", actor->index);
            midge_pause_us(50);
        }
    }
    (void)midge_peer_fence(peer);
}

static void *queue_publish(void *argument)
{
    struct midge_actor *actor = argument;
    struct queue_case *queue = actor->state;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&queue->ready);
    queue_publish_half(actor, peer, writing, 0, queue->half);
    (void)pthread_barrier_wait(&queue->middle);
    queue_publish_half(actor, peer, writing, queue->half, 2 * queue->half);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

/* Two members of one connection, by two patterns: all are one group. */
static void *queue_read(void *argument)
{
    struct midge_actor *actor = argument;
    struct queue_case *queue = actor->state;
    struct midge_peer *peer = midge_peer_join(
        actor->rig, actor->shard, "SUB queue.x group 0\r\nSUB queue.* group 1\r\nSUB end 2\r\n");
    struct midge_peer_frame frame;

    (void)pthread_barrier_wait(&queue->ready);
    for (;;) {
        midge_peer_expect_msg(peer, &frame);
        if (frame.sid == 2)
            break;
        queue_take(actor, &frame, 2 * actor->index + frame.sid);
    }
    CHECK(&actor->rig->scene, midge_peer_fence(peer) == 0, "a message behind the last one");
    midge_peer_close(peer);
    return NULL;
}

/* Take what is there, up to the PONG of a PING that was sent. */
static void queue_take_to_pong(struct midge_actor *actor, struct midge_peer *peer)
{
    struct midge_peer_frame frame;

    while (midge_peer_next(peer, &frame) == FRAME_MSG)
        queue_take(actor, &frame, QUEUE_MEMBERS);
    CHECK(&actor->rig->scene, frame.kind == FRAME_PONG, "frame %d instead of PONG",
          (int)frame.kind);
}

/* Members that come, and go by UNSUB, at once or behind so many messages: what they were given
 * before the PONG they have, so that no message may be missing. */
static void *queue_come_and_go(void *argument)
{
    struct midge_actor *actor = argument;
    struct queue_case *queue = actor->state;
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&queue->ready);
    (void)pthread_barrier_wait(&queue->middle);
    while (!atomic_load(&queue->done)) {
        const bool by_max = midge_random_below(&actor->random, 2) == 0;
        char text[128];

        (void)snprintf(text, sizeof(text), "SUB queue.%s group 7\r\nPING\r\n",
                       midge_random_below(&actor->random, 2) == 0 ? "x" : ">");
        midge_peer_text(peer, text);
        queue_take_to_pong(actor, peer);
        for (uint32_t i = midge_random_below(&actor->random, QUEUE_TRANSIENT_READS); i > 0; i--) {
            midge_peer_text(peer, "PING\r\n");
            queue_take_to_pong(actor, peer);
        }
        if (by_max) {
            (void)snprintf(text, sizeof(text), "UNSUB 7 %u\r\nPING\r\n", QUEUE_TRANSIENT_MAX);
            midge_peer_text(peer, text);
            queue_take_to_pong(actor, peer);
        }
        midge_peer_text(peer, "UNSUB 7\r\nPING\r\n");
        queue_take_to_pong(actor, peer);
        actor->count++;
    }
    midge_peer_close(peer);
    return NULL;
}

/* Each member has its share of what each shard published, as far as chance allows. */
static void queue_check_shares(const struct midge_rig *rig, struct queue_case *queue)
{
    const double part = 1.0 / QUEUE_MEMBERS;
    const double mean = queue->half * part;
    const double off_max = QUEUE_SIGMAS * sqrt(queue->half * part * (1 - part));

    for (uint32_t publisher = 0; publisher < QUEUE_PUBLISHERS; publisher++) {
        for (uint32_t member = 0; member < QUEUE_MEMBERS; member++) {
            const double share = atomic_load(&queue->shares[publisher][member]);

            CHECK(&rig->scene, fabs(share - mean) <= off_max,
                  "member %" PRIu32 " got %.0f messages of publisher %" PRIu32
                  " instead of %.0f, give or take %.0f",
                  member, share, publisher, mean, off_max);
        }
    }
}

static void queue_init(struct queue_case *queue, const struct midge_rig *rig)
{
    queue->half = (uint32_t)midge_rig_pick(rig, QUEUE_MESSAGES, QUEUE_LONG);
    for (uint32_t i = 0; i < QUEUE_PUBLISHERS; i++) {
        queue->taken[i] = calloc(2 * (size_t)queue->half, sizeof(*queue->taken[i]));
        CHECK(&rig->scene, queue->taken[i] != NULL, "no memory");
    }
    (void)pthread_barrier_init(&queue->ready, NULL,
                               QUEUE_PUBLISHERS + QUEUE_READERS + QUEUE_TRANSIENTS);
    (void)pthread_barrier_init(&queue->middle, NULL, QUEUE_PUBLISHERS + QUEUE_TRANSIENTS);
}

static void queue_deinit(struct queue_case *queue)
{
    for (uint32_t i = 0; i < QUEUE_PUBLISHERS; i++)
        free(queue->taken[i]);
    (void)pthread_barrier_destroy(&queue->ready);
    (void)pthread_barrier_destroy(&queue->middle);
}

void midge_case_queue(struct midge_rig *rig)
{
    struct queue_case queue = {.done = false};
    struct midge_actor publishers[MIDGE_ACTORS_MAX];
    struct midge_actor readers[MIDGE_ACTORS_MAX];
    struct midge_actor transients[MIDGE_ACTORS_MAX];
    struct midge_rig_sums sums;
    struct midge_peer *ender;

    queue_init(&queue, rig);
    rig->step_name = "messages";
    rig->step_count = 2ull * queue.half * QUEUE_PUBLISHERS;
    midge_rig_start(rig);
    midge_actors_start(rig, readers, QUEUE_READERS, &queue, queue_read);
    midge_actors_start(rig, transients, QUEUE_TRANSIENTS, &queue, queue_come_and_go);
    midge_actors_start(rig, publishers, QUEUE_PUBLISHERS, &queue, queue_publish);
    midge_actors_join(publishers, QUEUE_PUBLISHERS);
    atomic_store(&queue.done, true);
    midge_actors_join(transients, QUEUE_TRANSIENTS);
    ender = midge_peer_join(rig, 0, "PUB end 0\r\n\r\n");
    midge_actors_join(readers, QUEUE_READERS);
    midge_peer_close(ender);
    sums = midge_rig_stop(rig);
    for (uint32_t i = 0; i < QUEUE_PUBLISHERS; i++)
        CHECK(&rig->scene, atomic_load(&queue.taken_count[i]) == 2 * queue.half,
              "%" PRIu32 " messages of publisher %" PRIu32 " instead of %" PRIu32,
              atomic_load(&queue.taken_count[i]), i, 2 * queue.half);
    for (uint32_t i = 0; i < QUEUE_TRANSIENTS; i++)
        CHECK(&rig->scene, transients[i].count > 0, "nobody came and went");
    CHECK(&rig->scene, sums.delivered == rig->step_count + QUEUE_READERS, "%" PRIu64 " delivered",
          sums.delivered);
    queue_check_shares(rig, &queue);
    queue_deinit(&queue);
}

/* ---- echo: a connection without echo gets what all others publish, and nothing of its own ---- */

#define ECHO_ACTORS (2 * MIDGE_RIG_SHARDS) /* every second one without echo */
#define ECHO_ROUNDS 60u
#define ECHO_LONG   100000u
#define ECHO_BURST  10u /* messages of one actor in a round, and as many to the group */

struct echo_case {
    uint32_t round_count;
    pthread_barrier_t ready;
    pthread_barrier_t done;
    _Atomic uint64_t group_count; /* messages that members of the group got */
};

/* What one has got. */
struct echo_reader {
    uint32_t next[ECHO_ACTORS];
    bool without_echo;
};

static void echo_take(struct midge_actor *actor, struct echo_reader *reader,
                      const struct midge_peer_frame *frame)
{
    struct echo_case *echo = actor->state;
    const struct midge_scene *scene = &actor->rig->scene;
    uint32_t publisher;

    if (frame->sid == 1) {
        publisher = midge_peer_check_stamped(scene, frame, reader->next, ECHO_ACTORS);
    } else {
        CHECK(scene, frame->body_len > 0, "a message without stamp");
        publisher = (uint32_t)strtoul((const char *)frame->body, NULL, 10);
        (void)atomic_fetch_add(&echo->group_count, 1);
    }
    CHECK(scene, !reader->without_echo || publisher != actor->index, "echo of a message");
    midge_rig_step(actor->rig, 1);
}

/* All that everybody publishes in a round has come. */
static bool echo_is_through(const struct midge_actor *actor, const struct echo_reader *reader,
                            uint32_t count)
{
    for (uint32_t i = 0; i < ECHO_ACTORS; i++)
        if (reader->next[i] < count && !(reader->without_echo && i == actor->index))
            return false;
    return true;
}

static void echo_round(struct midge_actor *actor, struct midge_peer *peer,
                       struct midge_writing *writing, struct echo_reader *reader, uint32_t round)
{
    struct midge_peer_frame frame;

    for (uint32_t i = 0; i < ECHO_BURST; i++) {
        const uint32_t number = round * ECHO_BURST + i;

        (void)midge_writing_add(writing, "echo.all", actor->index, number,
                                MIDGE_STAMP_LEN + midge_random_below(&actor->random, 200));
        (void)midge_writing_add(writing, "echo.group", actor->index, number, MIDGE_STAMP_LEN);
    }
    midge_writing_send(peer, writing, &actor->random);
    while (!echo_is_through(actor, reader, (round + 1) * ECHO_BURST)) {
        midge_peer_expect_msg(peer, &frame);
        echo_take(actor, reader, &frame);
    }
}

static void *echo_act(void *argument)
{
    struct midge_actor *actor = argument;
    struct echo_case *echo = actor->state;
    struct midge_writing *writing = midge_writing_create(&actor->rig->scene);
    struct midge_peer *peer = midge_peer_connect(actor->rig, actor->shard, 0);
    struct echo_reader reader = {.without_echo = actor->index % 2 == 0};
    struct midge_peer_frame frame;

    midge_peer_text(peer, reader.without_echo ? "CONNECT {\"verbose\":false,\"echo\":false}\r\n"
                                              : "CONNECT {\"verbose\":false}\r\n");
    midge_peer_text(peer, "SUB echo.all 1\r\nSUB echo.group group 2\r\n");
    (void)midge_peer_fence(peer);
    (void)pthread_barrier_wait(&echo->ready);
    for (uint32_t round = 0; round < echo->round_count; round++)
        echo_round(actor, peer, writing, &reader, round);
    (void)midge_peer_text(peer, "PING\r\n");
    while (midge_peer_next(peer, &frame) == FRAME_MSG)
        echo_take(actor, &reader, &frame);
    CHECK(&actor->rig->scene, frame.kind == FRAME_PONG, "frame %d", (int)frame.kind);
    /* All have published all, and know it: what comes now was there before. */
    (void)pthread_barrier_wait(&echo->done);
    midge_peer_text(peer, "PING\r\n");
    while (midge_peer_next(peer, &frame) == FRAME_MSG)
        echo_take(actor, &reader, &frame);
    midge_peer_close(peer);
    free(writing);
    return NULL;
}

void midge_case_echo(struct midge_rig *rig)
{
    struct echo_case echo = {
        .round_count = (uint32_t)midge_rig_pick(rig, ECHO_ROUNDS, ECHO_LONG),
    };
    const uint64_t published = (uint64_t)echo.round_count * ECHO_BURST * ECHO_ACTORS;
    struct midge_actor actors[MIDGE_ACTORS_MAX];
    struct midge_rig_sums sums;

    rig->step_name = "deliveries";
    /* Half of them do not get their own. */
    rig->step_count = published * ECHO_ACTORS - published / 2 + published;
    midge_rig_start(rig);
    (void)pthread_barrier_init(&echo.ready, NULL, ECHO_ACTORS);
    (void)pthread_barrier_init(&echo.done, NULL, ECHO_ACTORS);
    midge_actors_start(rig, actors, ECHO_ACTORS, &echo, echo_act);
    midge_actors_join(actors, ECHO_ACTORS);
    (void)pthread_barrier_destroy(&echo.ready);
    (void)pthread_barrier_destroy(&echo.done);
    sums = midge_rig_stop(rig);
    CHECK(&rig->scene, atomic_load(&echo.group_count) == published,
          "%" PRIu64 " messages to the group instead of %" PRIu64, atomic_load(&echo.group_count),
          published);
    CHECK(&rig->scene, sums.delivered == rig->step_count,
          "%" PRIu64 " delivered instead of %" PRIu64, sums.delivered, rig->step_count);
}
