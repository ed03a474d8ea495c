/* Requests across shards: one reply each, or one 503. */
#include "shards_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shards_peer.h"

/* ---- request: one reply each, from a group spread over all shards; or one 503 ---- */

#define REQUESTERS        (2 * MIDGE_RIG_SHARDS)
#define RESPONDERS        (2 * MIDGE_RIG_SHARDS)
#define REQUEST_ROUNDS    60u
#define REQUESTS_IN_ROUND 8u /* the last one to a subject that nobody serves */

static void *request_respond(void *argument)
{
    struct midge_actor *actor = argument;
    struct midge_peer *peer =
        midge_peer_join(actor->rig, actor->shard, "SUB rpc.* pool 1\r\nSUB end 2\r\n");
    struct midge_peer_frame frame;

    (void)pthread_barrier_wait(actor->state);
    for (;;) {
        char text[256];
        int len;

        midge_peer_expect_msg(peer, &frame);
        if (frame.sid == 2)
            break;
        CHECK(&actor->rig->scene, frame.reply[0] != '\0' && frame.body_len < 64, "bad request");
        len = snprintf(text, sizeof(text), "PUB %s %" PRIu32 "\r\n%.*s\r\n", frame.reply,
                       frame.body_len, (int)frame.body_len, (const char *)frame.body);
        midge_peer_write(peer, text, (size_t)len);
        actor->count++;
    }
    midge_peer_close(peer);
    return NULL;
}

/* The reply to request `number` of this round; each may come once, in any order. */
static void take_reply(struct midge_actor *actor, struct midge_peer *peer, uint32_t round,
                       uint32_t *seen)
{
    const struct midge_scene *scene = &actor->rig->scene;
    struct midge_peer_frame frame;
    uint32_t number;
    uint32_t of_round;
    char text[64];

    midge_peer_expect_msg(peer, &frame);
    CHECK(scene,
          sscanf(frame.subject, "_INBOX.%*u.%" PRIu32 ".%" PRIu32, &of_round, &number) == 2 &&
              of_round == round && number < REQUESTS_IN_ROUND,
          "reply on `%s` in round %" PRIu32, frame.subject, round);
    CHECK(scene, (*seen & 1u << number) == 0, "two replies on `%s`", frame.subject);
    *seen |= 1u << number;
    if (number == REQUESTS_IN_ROUND - 1) {
        CHECK(scene,
              frame.header_len == frame.body_len && frame.body_len >= 12 &&
                  memcmp(frame.body, "NATS/1.0 503", 12) == 0,
              "no 503 on `%s`", frame.subject);
        return;
    }
    (void)snprintf(text, sizeof(text), "%" PRIu32 " %" PRIu32 " %" PRIu32, actor->index, round,
                   number);
    CHECK(scene, frame.body_len == strlen(text) && memcmp(frame.body, text, frame.body_len) == 0,
          "reply `%.*s` on `%s`", (int)frame.body_len, (const char *)frame.body, frame.subject);
}

static void *request_ask(void *argument)
{
    struct midge_actor *actor = argument;
    struct midge_peer *peer;
    char text[256];

    (void)snprintf(text, sizeof(text), "SUB _INBOX.%" PRIu32 ".> 1\r\n", actor->index);
    peer = midge_peer_join(actor->rig, actor->shard, text);
    (void)pthread_barrier_wait(actor->state);
    for (uint32_t round = 0; round < REQUEST_ROUNDS; round++) {
        uint32_t seen = 0;

        for (uint32_t number = 0; number < REQUESTS_IN_ROUND; number++) {
            char body[64];

            (void)snprintf(body, sizeof(body), "%" PRIu32 " %" PRIu32 " %" PRIu32, actor->index,
                           round, number);
            (void)snprintf(text, sizeof(text),
                           "PUB %s _INBOX.%" PRIu32 ".%" PRIu32 ".%" PRIu32 " %zu\r\n%s\r\n",
                           number == REQUESTS_IN_ROUND - 1 ? "nobody" : "rpc.x", actor->index,
                           round, number, strlen(body), body);
            midge_peer_text(peer, text);
        }
        for (uint32_t i = 0; i < REQUESTS_IN_ROUND; i++)
            take_reply(actor, peer, round, &seen);
    }
    (void)pthread_barrier_wait(actor->state);
    CHECK(&actor->rig->scene, midge_peer_fence(peer) == 0, "a reply too many");
    midge_peer_close(peer);
    return NULL;
}

void midge_case_request(struct midge_rig *rig)
{
    /* Requesters meet again when all have their replies; responders by then wait for the end. */
    pthread_barrier_t ready;
    struct midge_actor requesters[MIDGE_ACTORS_MAX];
    struct midge_actor responders[MIDGE_ACTORS_MAX];
    pthread_barrier_t joined;
    struct midge_peer *ender;
    struct midge_rig_sums sums;

    midge_rig_start(rig);
    (void)pthread_barrier_init(&joined, NULL, RESPONDERS + 1);
    (void)pthread_barrier_init(&ready, NULL, REQUESTERS);
    midge_actors_start(rig, responders, RESPONDERS, &joined, request_respond);
    (void)pthread_barrier_wait(&joined);
    midge_actors_start(rig, requesters, REQUESTERS, &ready, request_ask);
    midge_actors_join(requesters, REQUESTERS);
    ender = midge_peer_join(rig, 0, "PUB end 0\r\n\r\n");
    midge_actors_join(responders, RESPONDERS);
    midge_peer_close(ender);
    for (uint32_t i = 0; i < RESPONDERS; i++)
        CHECK(&rig->scene, responders[i].count > 0, "responder %" PRIu32 " got nothing", i);
    (void)pthread_barrier_destroy(&joined);
    (void)pthread_barrier_destroy(&ready);
    sums = midge_rig_stop(rig);
    CHECK(&rig->scene, sums.no_responders == REQUESTERS * REQUEST_ROUNDS, "%" PRIu64 " 503s",
          sums.no_responders);
}

/* ---- responders: one reply or one 503 each, while those that reply come and go ---- */

#define TURNOVER_REQUESTERS (2 * MIDGE_RIG_SHARDS)
#define TURNOVER_RESPONDERS MIDGE_RIG_SHARDS
#define TURNOVER_REQUESTS   600u /* of each requester */
#define TURNOVER_LONG       200000u
#define TURNOVER_WINDOW     8u /* requests of one requester under way */
#define TURNOVER_SERVED_MAX 40u

struct turnover_case {
    uint32_t request_count; /* of each requester */
    pthread_barrier_t ready;
    _Atomic bool done;
    _Atomic uint64_t replies;
    _Atomic uint64_t refusals; /* 503 */
};

/* Reply, with what was asked. */
static void turnover_reply(struct midge_actor *actor, struct midge_peer *peer,
                           const struct midge_peer_frame *frame)
{
    char text[256];
    int len;

    CHECK(&actor->rig->scene, frame->reply[0] != '\0' && frame->body_len < 64, "bad request");
    len = snprintf(text, sizeof(text), "PUB %s %" PRIu32 "\r\n%.*s\r\n", frame->reply,
                   frame->body_len, (int)frame->body_len, (const char *)frame->body);
    midge_peer_write(peer, text, (size_t)len);
    actor->count++;
}

/* Serve what comes before the PONG of a PING that was sent. */
static void turnover_serve_to_pong(struct midge_actor *actor, struct midge_peer *peer)
{
    struct midge_peer_frame frame;

    while (midge_peer_next(peer, &frame) == FRAME_MSG)
        turnover_reply(actor, peer, &frame);
    CHECK(&actor->rig->scene, frame.kind == FRAME_PONG, "frame %d instead of PONG",
          (int)frame.kind);
}

/* Serve a while, as one of a group, alone or up to a maximum; then UNSUB, and what had come before
 * its PONG is served, too: whoever asks meanwhile is told that nobody is there. */
static void *turnover_respond(void *argument)
{
    struct midge_actor *actor = argument;
    struct turnover_case *turnover = actor->state;
    struct midge_peer *peer = midge_peer_join(actor->rig, actor->shard, "");

    (void)pthread_barrier_wait(&turnover->ready);
    while (!atomic_load(&turnover->done)) {
        const uint32_t limit = 1 + midge_random_below(&actor->random, TURNOVER_SERVED_MAX);
        char text[64];

        midge_peer_text(peer, midge_random_below(&actor->random, 2) == 0
                                  ? "SUB turnover.x group 1\r\n"
                                  : "SUB turnover.* group 1\r\n");
        if (midge_random_below(&actor->random, 2) == 0) {
            (void)snprintf(text, sizeof(text), "UNSUB 1 %" PRIu32 "\r\n", limit);
            midge_peer_text(peer, text);
        }
        for (uint32_t i = midge_random_below(&actor->random, 10); i > 0; i--) {
            midge_peer_text(peer, "PING\r\n");
            turnover_serve_to_pong(actor, peer);
        }
        midge_peer_text(peer, "UNSUB 1\r\nPING\r\n");
        turnover_serve_to_pong(actor, peer);
        midge_pause_us(midge_random_below(&actor->random, 1000));
    }
    midge_peer_close(peer);
    return NULL;
}

/* One answer; its number must be one of those under way. */
static void turnover_take(struct midge_actor *actor, struct midge_peer *peer, bool *pending)
{
    struct turnover_case *turnover = actor->state;
    const struct midge_scene *scene = &actor->rig->scene;
    struct midge_peer_frame frame;
    uint32_t number;
    char text[64];

    midge_peer_expect_msg(peer, &frame);
    CHECK(scene, sscanf(frame.subject, "_INBOX.%*u.%" PRIu32, &number) == 1, "answer on `%s`",
          frame.subject);
    CHECK(scene, number < turnover->request_count && pending[number],
          "request %" PRIu32 " has a second answer", number);
    pending[number] = false;
    if (frame.header_len > 0) {
        CHECK(scene,
              frame.header_len == frame.body_len && frame.body_len >= 12 &&
                  memcmp(frame.body, "NATS/1.0 503", 12) == 0,
              "no 503 on `%s`", frame.subject);
        (void)atomic_fetch_add(&turnover->refusals, 1);
    } else {
        (void)snprintf(text, sizeof(text), "%" PRIu32 " %" PRIu32, actor->index, number);
        CHECK(scene,
              frame.body_len == strlen(text) && memcmp(frame.body, text, frame.body_len) == 0,
              "reply `%.*s` on `%s`", (int)frame.body_len, (const char *)frame.body, frame.subject);
        (void)atomic_fetch_add(&turnover->replies, 1);
    }
    midge_rig_step(actor->rig, 1);
}

static void *turnover_ask(void *argument)
{
    struct midge_actor *actor = argument;
    struct turnover_case *turnover = actor->state;
    bool *pending = calloc(turnover->request_count, sizeof(*pending));
    uint32_t answered = 0;
    struct midge_peer *peer;
    char text[256];

    CHECK(&actor->rig->scene, pending != NULL, "no memory");
    (void)snprintf(text, sizeof(text), "SUB _INBOX.%" PRIu32 ".* 1\r\n", actor->index);
    peer = midge_peer_join(actor->rig, actor->shard, text);
    (void)pthread_barrier_wait(&turnover->ready);
    for (uint32_t asked = 0; answered < turnover->request_count; answered++) {
        for (; asked < turnover->request_count && asked - answered < TURNOVER_WINDOW; asked++) {
            char body[64];

            (void)snprintf(body, sizeof(body), "%" PRIu32 " %" PRIu32, actor->index, asked);
            (void)snprintf(text, sizeof(text),
                           "PUB turnover.x _INBOX.%" PRIu32 ".%" PRIu32 " %zu\r\n%s\r\n",
                           actor->index, asked, strlen(body), body);
            pending[asked] = true;
            midge_peer_text(peer, text);
        }
        turnover_take(actor, peer, pending);
    }
    CHECK(&actor->rig->scene, midge_peer_fence(peer) == 0, "an answer too many");
    midge_peer_close(peer);
    free(pending);
    return NULL;
}

void midge_case_turnover(struct midge_rig *rig)
{
    struct turnover_case turnover = {
        .request_count = (uint32_t)midge_rig_pick(rig, TURNOVER_REQUESTS, TURNOVER_LONG),
    };
    struct midge_actor requesters[MIDGE_ACTORS_MAX];
    struct midge_actor responders[MIDGE_ACTORS_MAX];
    uint64_t served = 0;
    struct midge_rig_sums sums;

    rig->step_name = "requests";
    rig->step_count = (uint64_t)turnover.request_count * TURNOVER_REQUESTERS;
    midge_rig_start(rig);
    (void)pthread_barrier_init(&turnover.ready, NULL, TURNOVER_REQUESTERS + TURNOVER_RESPONDERS);
    midge_actors_start(rig, responders, TURNOVER_RESPONDERS, &turnover, turnover_respond);
    midge_actors_start(rig, requesters, TURNOVER_REQUESTERS, &turnover, turnover_ask);
    midge_actors_join(requesters, TURNOVER_REQUESTERS);
    atomic_store(&turnover.done, true);
    midge_actors_join(responders, TURNOVER_RESPONDERS);
    (void)pthread_barrier_destroy(&turnover.ready);
    for (uint32_t i = 0; i < TURNOVER_RESPONDERS; i++)
        served += responders[i].count;
    sums = midge_rig_stop(rig);
    CHECK(&rig->scene,
          sums.no_responders == atomic_load(&turnover.refusals) &&
              served == atomic_load(&turnover.replies),
          "%" PRIu64 " 503s of %" PRIu64 ", %" PRIu64 " replies of %" PRIu64,
          atomic_load(&turnover.refusals), sums.no_responders, atomic_load(&turnover.replies),
          served);
    CHECK(&rig->scene, sums.no_responders > 0 && served > 0,
          "%" PRIu64 " 503s and %" PRIu64 " replies", sums.no_responders, served);
    CHECK(&rig->scene, sums.delivered == 2 * served && sums.matched == 2 * served,
          "%" PRIu64 " delivered for %" PRIu64 " requests and their replies", sums.delivered,
          served);
}
