/* Requests across shards: one reply each, or one 503. */
#include "shards_cases.h"

#include <stdio.h>
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
