/*
 * The doorbell: ends a sleep or a watch, and is not lost when it comes before one.
 *
 * Method: waits without a deadline; a lost doorbell hangs the test until its timeout.
 */
#include "ring_rig.h"

#include <pthread.h>
#include <sched.h>

#include "ring_internal.h"

RING_TEST(doorbell, before_a_wait_keeps_it_from_sleeping)
{
    struct midge_ring_counts before, after;
    struct midge_ring_event event;
    struct rig rig;

    rig_open_default(&rig, kind);
    midge_ring_counts(rig.ring, &before);
    for (uint32_t round = 0; round < 100; round++) {
        midge_ring_doorbell(rig.ring);
        midge_ring_doorbell(rig.ring);
        midge_ring_wait(rig.ring, UINT64_MAX, 0);
        cr_assert_not(midge_ring_next(rig.ring, &event));
    }
    midge_ring_counts(rig.ring, &after);
    cr_assert_eq(after.doorbells, before.doorbells, "an awake ring needs no system call");
    cr_assert_eq(after.sleeps, before.sleeps);
    midge_ring_destroy(rig.ring);
}

RING_TEST(doorbell, is_spent_by_one_wait)
{
    struct midge_ring_counts counts;
    struct rig rig;

    rig_open_default(&rig, kind);
    midge_ring_doorbell(rig.ring);
    midge_ring_wait(rig.ring, UINT64_MAX, 0);
    midge_ring_wait(rig.ring, midge_ring_now_ns(rig.ring) + 1000000, 0);
    midge_ring_counts(rig.ring, &counts);
    cr_assert_eq(counts.sleeps, 1);
    midge_ring_destroy(rig.ring);
}

struct ringer {
    struct midge_ring *ring;
    uint32_t rounds;
    bool waits_for_sleep;
    _Atomic uint32_t asked; /* round that the owner is ready for */
    _Atomic uint32_t rung;  /* round that the ringer rings for, or did */
};

/* Ring once per round, after the owner asked; if wanted, not before it slept since the last time.
 */
static void *ring_when_asked(void *argument)
{
    struct ringer *ringer = argument;
    uint64_t sleeps = 0;

    for (uint32_t round = 1; round <= ringer->rounds; round++) {
        struct midge_ring_counts counts;

        while (ringer->asked < round)
            (void)sched_yield();
        do {
            midge_ring_counts(ringer->ring, &counts);
            (void)sched_yield();
        } while (ringer->waits_for_sleep && counts.sleeps == sleeps);
        sleeps = counts.sleeps;
        ringer->rung = round;
        midge_ring_doorbell(ringer->ring);
    }
    return NULL;
}

/* Ask for a ring and sleep until it is there. A wait may end early for reasons of its own; one that
 * does not end for a doorbell hangs. */
static void expect_wake(struct ringer *ringer, uint32_t round, uint64_t spin_ns)
{
    struct midge_ring_event event;

    ringer->asked = round;
    while (ringer->rung < round) {
        midge_ring_wait(ringer->ring, UINT64_MAX, spin_ns);
        cr_assert_not(midge_ring_next(ringer->ring, &event));
    }
}

static void expect_wakes(enum midge_ring_kind kind, bool waits_for_sleep, uint64_t spin_ns)
{
    struct ringer ringer = {.rounds = 200, .waits_for_sleep = waits_for_sleep};
    pthread_t thread;
    struct rig rig;

    rig_open_default(&rig, kind);
    ringer.ring = rig.ring;
    cr_assert_eq(pthread_create(&thread, NULL, ring_when_asked, &ringer), 0);
    for (uint32_t round = 1; round <= ringer.rounds; round++)
        expect_wake(&ringer, round, spin_ns);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    midge_ring_destroy(rig.ring);
}

RING_TEST(doorbell, from_another_thread_ends_a_sleep)
{
    expect_wakes(kind, true, 0);
}

RING_TEST(doorbell, from_another_thread_ends_a_watch)
{
    expect_wakes(kind, false, RIG_PATIENCE_NS);
}

/* The last moment before the sleep: a doorbell that comes after all other looks still forbids it.
 */
RING_TEST(doorbell, forbids_the_sleep_at_the_last_moment)
{
    struct rig rig;

    rig_open_default(&rig, kind);
    midge_ring_doorbell(rig.ring);
    cr_assert_not(midge_ring_bell_begin_sleep(rig.ring));
    midge_ring_wait(rig.ring, UINT64_MAX, 0);
    cr_assert(midge_ring_bell_begin_sleep(rig.ring));
    midge_ring_destroy(rig.ring);
}

/* A wake-up whose completion overflows disarms the multishot poll on the eventfd. */
RING_TEST(doorbell, wakes_again_after_its_completion_overflowed)
{
    enum {
        PAIRS = 64
    };
    const struct midge_ring_options options = {.kind = kind, .sq_entries = 16, .cq_entries = 16};
    int near_fds[PAIRS], far_fds[PAIRS];
    struct ringer ringer = {.rounds = 10, .waits_for_sleep = true};
    struct midge_ring_counts counts;
    pthread_t thread;
    struct rig rig;

    rig_open(&rig, &options);
    for (uint32_t index = 0; index < PAIRS; index++)
        rig_unix_pair(&rig, &near_fds[index], &far_fds[index]);
    ringer.ring = rig.ring;
    cr_assert_eq(pthread_create(&thread, NULL, ring_when_asked, &ringer), 0);
    for (uint32_t round = 1; round <= ringer.rounds; round++) {
        struct midge_ring_event event;
        uint32_t polled_count = 0;

        midge_ring_wait(rig.ring, 0, 0);
        for (uint32_t index = 0; index < PAIRS; index++)
            midge_ring_poll_out(rig.ring, near_fds[index], rig_handle(index));
        rig.ring->ops->wake(rig.ring); /* as a ringer does that found the ring asleep */
        while (polled_count < PAIRS) {
            event = rig_next(&rig);
            cr_assert_eq(event.kind, MIDGE_RING_POLL_OUT);
            polled_count++;
        }
        cr_assert_not(midge_ring_next(rig.ring, &event));
        expect_wake(&ringer, round, 0);
    }
    cr_assert_eq(pthread_join(thread, NULL), 0);
    midge_ring_counts(rig.ring, &counts);
    if (kind == MIDGE_RING_KIND_URING)
        cr_assert_geq(counts.overflows, ringer.rounds);
    for (uint32_t index = 0; index < PAIRS; index++) {
        midge_ring_close(rig.ring, near_fds[index]);
        (void)close(far_fds[index]);
    }
    midge_ring_destroy(rig.ring);
}
