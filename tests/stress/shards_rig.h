/*
 * A broker of several shards for the cases of stress_shards: each shard with its own ring, thread
 * and listening port, so that a client chooses its shard.
 *
 * Thread: started and stopped by one; what clients use of it is constant in between, and atomic.
 */
#ifndef MIDGE_SHARDS_RIG_H
#define MIDGE_SHARDS_RIG_H

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker.h"
#include "midge/compiler.h"
#include "shard.h"

#define MIDGE_RIG_SHARDS 3u  /* more than cores, on the smallest machine that runs this */
#define MIDGE_PATIENCE_S 20u /* for one read or write of a client */

/* What runs, for the message of a failure. */
struct midge_scene {
    const char *name;
    const char *kind;
    uint64_t seed;
};

/** Say what is wrong and end the program at once: other threads go on. Thread: any. */
MIDGE_PRINTF(2, 3)
_Noreturn void midge_scene_fail(const struct midge_scene *scene, const char *format, ...);

#define CHECK(scene, condition, ...)                                                               \
    do {                                                                                           \
        if (!(condition))                                                                          \
            midge_scene_fail(scene, __VA_ARGS__);                                                  \
    } while (0)

/** @return 0 .. bound - 1; the state must not be 0. */
uint32_t midge_random_below(uint64_t *state, uint32_t bound);

void midge_pause_us(uint32_t us);

struct midge_rig {
    struct midge_scene scene;
    struct midge_config config;
    struct midge_broker broker;
    struct midge_log *log;
    enum midge_ring_kind kind;
    uint32_t long_percent; /* of the counts of a long run; 0 = the counts of a short one */
    uint64_t empty_bytes;  /* memory before the first connection */
    /* What a long run tells of its progress. */
    const char *step_name;       /* of what is counted, plural; set before the start */
    uint64_t step_count;         /* of all; 0 = not known */
    _Atomic uint64_t steps_done; /* any thread */
    _Atomic bool over;
    uint64_t started_at_ns;
    pthread_t teller;
    pthread_mutex_t making;
    pthread_barrier_t made;
    struct midge_rig_shard {
        struct midge_rig *rig;
        uint16_t index;
        int listener_fd;
        uint16_t port;
        struct midge_shard *shard;
        pthread_t thread;
    } shards[MIDGE_RIG_SHARDS];
};

/* Counters of all shards. */
struct midge_rig_sums {
#define SUM_FIELD(name, text) uint64_t name;
    MIDGE_STATS_TABLE(SUM_FIELD)
#undef SUM_FIELD
};

/** @return short_count; in a long run the wanted part of long_count, but at least short_count */
uint64_t midge_rig_pick(const struct midge_rig *rig, uint64_t short_count, uint64_t long_count);

/** So many steps, as counted by step_name, are done. Thread: any. */
void midge_rig_step(struct midge_rig *rig, uint64_t count);

/** Start all shards. The configuration is constant from here on. */
void midge_rig_start(struct midge_rig *rig);

/** Stop all shards and check their accounts: nothing may be left, and every delivery has come to
 * one end. */
struct midge_rig_sums midge_rig_stop(struct midge_rig *rig);

#endif
