/*
 * The doorbell between threads: no ring is lost, and what was written before it is seen after the
 * wait.
 *
 * Method: ringers push nodes on a lock-free stack and ring; the owner waits without a deadline,
 * takes the stack and checks the plain payload of each node. A lost doorbell leaves the owner
 * asleep with work waiting: the alarm then ends the program. Odd rounds let the owner watch before
 * it sleeps. The owner also echoes over a socket, so that doorbells and completions meet. TSan sees
 * the order through the doorbell word and the stack; it sees none through the kernel, and none is
 * needed.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "midge/ring.h"

#define RINGERS    3u
#define PUSHES     20000u
#define BURST_MAX  16u
#define PATIENCE_S 120u

struct node {
    struct node *next;
    uint32_t ringer;
    uint32_t value; /* plain: published by the stack */
};

struct mailbox {
    struct midge_ring *ring;
    _Atomic(struct node *) head;
    int talker_fd; /* the far end of the owner's socket */
};

struct ringer {
    struct mailbox *mailbox;
    struct node *nodes;
    uint32_t index;
    uint32_t random;
};

static void fail(const char *text)
{
    (void)fprintf(stderr, "stress_ring: %s\n", text);
    exit(1);
}

static void *ring_away(void *argument)
{
    struct ringer *ringer = argument;
    struct mailbox *mailbox = ringer->mailbox;
    uint32_t burst = 0;

    for (uint32_t value = 0; value < PUSHES; value++) {
        struct node *node = &ringer->nodes[value];
        struct node *head = atomic_load_explicit(&mailbox->head, memory_order_relaxed);

        node->ringer = ringer->index;
        node->value = value;
        do {
            node->next = head;
            /* Release pairs with the acquire in take_nodes(). */
        } while (!atomic_compare_exchange_weak_explicit(
            &mailbox->head, &head, node, memory_order_release, memory_order_relaxed));
        midge_ring_doorbell(mailbox->ring);
        if (burst == 0) { /* let the owner fall asleep now and then */
            ringer->random = ringer->random * 1664525u + 1013904223u;
            burst = (ringer->random >> 16) % BURST_MAX;
            if (ringer->index == 0 && send(mailbox->talker_fd, "x", 1, MSG_NOSIGNAL) != 1)
                fail("send");
            if ((ringer->random >> 28) == 0)
                (void)usleep(50);
            else
                (void)sched_yield();
        } else {
            burst--;
        }
    }
    return NULL;
}

/* Take all nodes and check them; how many. */
static uint32_t take_nodes(struct mailbox *mailbox, uint64_t sums[RINGERS])
{
    /* Acquire pairs with the release in ring_away(). */
    struct node *node = atomic_exchange_explicit(&mailbox->head, NULL, memory_order_acquire);
    uint32_t count = 0;

    for (; node != NULL; node = node->next) {
        sums[node->ringer] += node->value;
        count++;
    }
    return count;
}

static void run(enum midge_ring_kind kind, uint64_t spin_ns)
{
    const struct midge_ring_options options = {.kind = kind};
    const struct midge_handle handle = {.index = 1, .generation = 1};
    const uint64_t expected_sum = (uint64_t)PUSHES * (PUSHES - 1) / 2;
    struct mailbox mailbox = {.head = NULL};
    struct ringer ringers[RINGERS];
    pthread_t threads[RINGERS];
    uint64_t sums[RINGERS] = {0};
    struct midge_ring_counts counts;
    struct midge_ring_event event;
    uint32_t taken = 0;
    char why[128];
    int fds[2];

    if (midge_ring_create(&options, &mailbox.ring, why) != MIDGE_OK) {
        (void)printf("%s: skipped: %s\n", midge_ring_kind_name(kind), why);
        return;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0 ||
        midge_ring_adopt(mailbox.ring, fds[0], handle) != 0)
        fail("socket pair");
    mailbox.talker_fd = fds[1];
    midge_ring_recv(mailbox.ring, fds[0], handle);
    for (uint32_t index = 0; index < RINGERS; index++) {
        ringers[index] = (struct ringer){.mailbox = &mailbox,
                                         .nodes = calloc(PUSHES, sizeof(struct node)),
                                         .index = index,
                                         .random = index + 1};
        if (ringers[index].nodes == NULL ||
            pthread_create(&threads[index], NULL, ring_away, &ringers[index]) != 0)
            fail("thread");
    }
    while (taken < RINGERS * PUSHES) {
        midge_ring_wait(mailbox.ring, UINT64_MAX, spin_ns);
        while (midge_ring_next(mailbox.ring, &event)) {
            if (event.res <= 0)
                fail("recv");
            if (!event.more)
                midge_ring_recv(mailbox.ring, fds[0], handle);
        }
        taken += take_nodes(&mailbox, sums);
    }
    for (uint32_t index = 0; index < RINGERS; index++) {
        (void)pthread_join(threads[index], NULL);
        free(ringers[index].nodes);
        if (sums[index] != expected_sum)
            fail("a node came twice or never");
    }
    midge_ring_shutdown(mailbox.ring, fds[0], SHUT_RDWR);
    do {
        midge_ring_wait(mailbox.ring, UINT64_MAX, 0);
        event.more = true;
        while (midge_ring_next(mailbox.ring, &event) && event.more)
            continue;
    } while (event.more);
    midge_ring_counts(mailbox.ring, &counts);
    (void)printf("%s: %u rings, %llu woke a sleeper, %llu waits, %llu sleeps, %llu watches hit\n",
                 midge_ring_kind_name(kind), taken, (unsigned long long)counts.doorbells,
                 (unsigned long long)counts.waits, (unsigned long long)counts.sleeps,
                 (unsigned long long)counts.spin_hits);
    midge_ring_close(mailbox.ring, fds[0]);
    (void)close(fds[1]);
    midge_ring_destroy(mailbox.ring);
}

int main(void)
{
    (void)alarm(PATIENCE_S);
    run(MIDGE_RING_KIND_URING, 0);
    run(MIDGE_RING_KIND_URING, 20000);
    run(MIDGE_RING_KIND_EPOLL, 0);
    run(MIDGE_RING_KIND_EPOLL, 20000);
    return 0;
}
