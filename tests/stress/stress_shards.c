/*
 * Several shards in one broker: what each client must get, whichever shards the others are on.
 *
 * Method: three shards, each with its own ring, thread and listening port, so that a client chooses
 * its shard; clients are threads with blocking sockets, on which a lost message is a timeout. Every
 * case ends with a stop of all shards and with their accounts: deliveries, connections, memory.
 *
 * Usage: stress_shards [--long[=PERCENT]] [case [seed [auto|epoll]]]; no case, or `all`: every one
 * (of those that have a long run, with --long). A long run tells of its progress; PERCENT of its
 * counts are what it does, 100 if nothing is said.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shards_cases.h"

/* For the whole program. */
#define ALARM_S      240u
#define LONG_ALARM_S 7200u

static const struct {
    const char *name;
    void (*run)(struct midge_rig *rig);
    /* Connections move meanwhile; 0 where the case needs them in their place. */
    uint32_t move_turns;
    bool has_long;
} cases[] = {
    {"order", midge_case_order, 0, true},        {"order_moves", midge_case_order, 1, true},
    {"grid", midge_case_grid, 0, true},          {"grid_moves", midge_case_grid, 1, true},
    {"request", midge_case_request, 0, false},   {"request_moves", midge_case_request, 2, false},
    {"turnover", midge_case_turnover, 0, true},  {"turnover_moves", midge_case_turnover, 1, true},
    {"queue", midge_case_queue, 0, true},        {"queue_moves", midge_case_queue, 1, true},
    {"echo", midge_case_echo, 0, true},          {"echo_moves", midge_case_echo, 1, true},
    {"fence", midge_case_fence, 0, true},        {"fence_moves", midge_case_fence, 1, true},
    {"again", midge_case_again, 0, false},       {"again_moves", midge_case_again, 1, true},
    {"handover", midge_case_handover, 0, false}, {"quiet", midge_case_quiet, 0, false},
    {"pressure", midge_case_pressure, 0, false}, {"pressure_moves", midge_case_pressure, 2, false},
    {"churn", midge_case_churn, 0, false},       {"churn_moves", midge_case_churn, 1, true},
    {"storm", midge_case_storm, 0, true},        {"storm_moves", midge_case_storm, 1, true},
    {"memory", midge_case_memory, 0, false},
};

static void run_case(uint32_t index, uint64_t seed, enum midge_ring_kind kind,
                     uint32_t long_percent)
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
    rig->long_percent = long_percent;
    midge_config_init(&rig->config);
    rig->config.move_turns = cases[index].move_turns;
    cases[index].run(rig);
    (void)printf("%s %" PRIu64 " %s: passed\n", rig->scene.name, seed, rig->scene.kind);
    (void)fflush(stdout);
    free(rig);
}

/* @return percent, 0 without --long */
static uint32_t take_long(int *argc, char ***argv)
{
    const char *text = *argc > 1 ? (*argv)[1] : "";
    uint32_t percent = 100;

    if (strncmp(text, "--long", 6) != 0)
        return 0;
    if (text[6] == '=')
        percent = (uint32_t)strtoul(text + 7, NULL, 10);
    (*argc)--;
    (*argv)++;
    return percent > 0 ? percent : 1;
}

int main(int argc, char **argv)
{
    const uint32_t long_percent = take_long(&argc, &argv);
    const char *name = argc > 1 ? argv[1] : "all";
    const char *kind = argc > 3 ? argv[3] : "";
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    bool known = false;

    (void)alarm(long_percent > 0 ? LONG_ALARM_S : ALARM_S);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(name, "all") != 0 && strcmp(name, cases[i].name) != 0)
            continue;
        if (long_percent > 0 && !cases[i].has_long)
            continue;
        known = true;
        if (strcmp(kind, "epoll") != 0)
            run_case(i, seed, MIDGE_RING_KIND_AUTO, long_percent);
        if (strcmp(kind, "auto") != 0)
            run_case(i, seed, MIDGE_RING_KIND_EPOLL, long_percent);
    }
    if (!known)
        (void)fprintf(stderr, "stress_shards: no case `%s`%s\n", name,
                      long_percent > 0 ? " with a long run" : "");
    return known ? 0 : 1;
}
