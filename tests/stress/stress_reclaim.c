/*
 * Reclamation with real threads.
 *
 * Goal: nobody ever reads an object that was freed, and everything retired is freed once.
 * Method: threads share a few slots. Each swaps new objects in and retires what it took out, reads
 * objects of others and checks their words, announces, goes offline and online. Objects are
 * poisoned when they are freed, so a reader that still holds one fails even without a sanitizer.
 * Threads register while others run.
 *
 * Arguments: [seed] [--ops N], per thread; the seed is printed.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "midge/reclaim.h"

#define THREAD_COUNT 6 /* at a time */
#define START_COUNT  24
#define SLOT_COUNT   16
#define WORD_COUNT   8
#define POISON       UINT64_C(0xdeadbeefdeadbeef)

struct object {
    uint64_t words[WORD_COUNT]; /* all the same, not POISON */
};

static struct object *_Atomic slots[SLOT_COUNT];
static _Atomic uint64_t retired_count;
static _Atomic uint64_t freed_count;
static struct midge_reclaim *reclaim;
static uint64_t seed;
static uint64_t op_count = 100000;

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * UINT64_C(0x2545F4914F6CDD1D) >> 16;
}

static void free_cb(void *context, void *object)
{
    struct object *dead = object;

    (void)context;
    for (int i = 0; i < WORD_COUNT; i++)
        dead->words[i] = POISON;
    free(dead);
    (void)atomic_fetch_add_explicit(&freed_count, 1, memory_order_relaxed);
}

static void check_object(const struct object *object)
{
    for (int i = 0; i < WORD_COUNT; i++) {
        if (object->words[i] != object->words[0] || object->words[i] == POISON) {
            printf("FAILED: read an object that was freed\n");
            exit(1);
        }
    }
}

static void replace_object(struct midge_participant *participant, uint64_t random)
{
    struct object *object = malloc(sizeof(*object));

    if (object == NULL)
        exit(1);
    for (int i = 0; i < WORD_COUNT; i++)
        object->words[i] = random;
    object = atomic_exchange_explicit(&slots[random % SLOT_COUNT], object, memory_order_acq_rel);
    if (object != NULL) {
        (void)atomic_fetch_add_explicit(&retired_count, 1, memory_order_relaxed);
        midge_reclaim_retire(participant, object, NULL, free_cb);
    }
}

static void *thread_main(void *argument)
{
    struct midge_participant *participant = midge_reclaim_register(reclaim);
    uint64_t random_state = seed + 1 + (uint64_t)(uintptr_t)argument * 7919;
    const struct object *held[8];
    uint32_t held_count = 0;

    midge_reclaim_online(participant);
    for (uint64_t i = 0; i < op_count; i++) {
        const uint64_t random = random_next(&random_state);
        const uint32_t kind = (uint32_t)(random >> 32) % 100;

        if (kind < 20) {
            replace_object(participant, random);
        } else if (kind < 80) {
            const struct object *object =
                atomic_load_explicit(&slots[random % SLOT_COUNT], memory_order_acquire);

            if (object != NULL && held_count < 8)
                held[held_count++] = object;
        } else {
            for (uint32_t j = 0; j < held_count; j++)
                check_object(held[j]);
            held_count = 0;
            if (kind < 95) {
                midge_reclaim_quiescent(participant);
            } else {
                midge_reclaim_offline(participant);
                midge_reclaim_online(participant);
            }
        }
    }
    midge_reclaim_offline(participant);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[START_COUNT];

    seed = (uint64_t)time(NULL);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--ops") == 0 && i + 1 < argc)
            op_count = strtoull(argv[++i], NULL, 0);
        else
            seed = strtoull(argv[i], NULL, 0);
    }
    printf("seed %" PRIu64 ", ops %" PRIu64 "\n", seed, op_count);
    (void)fflush(stdout);
    reclaim = midge_reclaim_create();
    for (uintptr_t i = 0; i < START_COUNT; i++) {
        /* The next ones register while the previous ones run. */
        if (i >= THREAD_COUNT)
            (void)pthread_join(threads[i - THREAD_COUNT], NULL);
        if (pthread_create(&threads[i], NULL, thread_main, (void *)i) != 0)
            return 1;
    }
    for (int i = START_COUNT - THREAD_COUNT; i < START_COUNT; i++)
        (void)pthread_join(threads[i], NULL);
    printf("%" PRIu64 " retired, %" PRIu64 " freed while running\n", atomic_load(&retired_count),
           atomic_load(&freed_count));
    if (atomic_load(&freed_count) == 0) {
        printf("FAILED: nothing was freed before the end\n");
        return 1;
    }
    midge_reclaim_destroy(reclaim);
    if (atomic_load(&freed_count) != atomic_load(&retired_count)) {
        printf("FAILED: %" PRIu64 " were freed\n", atomic_load(&freed_count));
        return 1;
    }
    for (int i = 0; i < SLOT_COUNT; i++)
        free(atomic_load(&slots[i]));
    return 0;
}
