/*
 * Several shards in one broker: what each client must get, whichever shards the others are on.
 *
 * Method: three shards, each with its own ring, thread and listening port, so that a client chooses
 * its shard; clients are threads with blocking sockets, on which a lost message is a timeout. Every
 * case ends with a stop of all shards and with their accounts: deliveries, connections, memory.
 *
 * Usage: stress_shards [case [seed [auto|epoll]]]; no case, or `all`: every one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shards_cases.h"

#define ALARM_S 240u /* for the whole program */

static const struct {
    const char *name;
    void (*run)(struct midge_rig *rig);
    uint32_t
        move_turns; /* connections move meanwhile; 0 where the case needs them in their place */
} cases[] = {
    {"order", midge_case_order, 0},       {"order_moves", midge_case_order, 2},
    {"request", midge_case_request, 0},   {"request_moves", midge_case_request, 2},
    {"fence", midge_case_fence, 0},       {"fence_moves", midge_case_fence, 1},
    {"handover", midge_case_handover, 0}, {"quiet", midge_case_quiet, 0},
    {"pressure", midge_case_pressure, 0}, {"pressure_moves", midge_case_pressure, 2},
    {"churn", midge_case_churn, 0},       {"churn_moves", midge_case_churn, 1},
    {"memory", midge_case_memory, 0},
};

static void run_case(uint32_t index, uint64_t seed, enum midge_ring_kind kind)
{
    struct midge_rig *rig = calloc(1, sizeof(*rig));

    if (rig == NULL)
        exit(1);
    rig->scene = (struct midge_scene){
        .name = cases[index].name,
        .kind = kind == MIDGE_RING_KIND_EPOLL ? "epoll" : "auto",
        .seed = seed,
    };
    rig->kind = kind;
    midge_config_init(&rig->config);
    rig->config.move_turns = cases[index].move_turns;
    cases[index].run(rig);
    (void)printf("%s %" PRIu64 " %s: passed\n", rig->scene.name, seed, rig->scene.kind);
    (void)fflush(stdout);
    free(rig);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "all";
    const char *kind = argc > 3 ? argv[3] : "";
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    bool known = false;

    (void)alarm(ALARM_S);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(name, "all") != 0 && strcmp(name, cases[i].name) != 0)
            continue;
        known = true;
        if (strcmp(kind, "epoll") != 0)
            run_case(i, seed, MIDGE_RING_KIND_AUTO);
        if (strcmp(kind, "auto") != 0)
            run_case(i, seed, MIDGE_RING_KIND_EPOLL);
    }
    if (!known)
        (void)fprintf(stderr, "stress_shards: no case `%s`\n", name);
    return known ? 0 : 1;
}
