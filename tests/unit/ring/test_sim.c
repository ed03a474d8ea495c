/*
 * The simulated ring itself: the same seed gives the same world, every fault really happens, what
 * ring.h forbids is caught, and a program that keeps to ring.h loses no byte whatever the seed.
 *
 * Method: single operations with and without one fault; an echo server that handles all that ring.h
 * allows, under hundreds of seeds with all faults on; aborting tests for the checks.
 */
#include "midge/ring_sim.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#define ECHO_CONN_COUNT   8u
#define ECHO_PEER_COUNT   12u
#define ECHO_BYTES_MAX    20000u
#define ECHO_OUTBOX_CAP   4096u
#define ECHO_STEPS_MAX    200000u
#define ECHO_SCRIPT_STEPS 2000u
#define ECHO_LISTENER     1000u
#define NO_FD             (-1)

static const struct midge_sim_faults ALL_FAULTS = {
    .delay = 200,
    .hold = 150,
    .split = 300,
    .disarm = 100,
    .no_buffers = 80,
    .short_send = 200,
    .send_again = 100,
    .accept_error = 100,
    .cancel_race = 500,
    .early_submit = 100,
    .early_wake = 20,
    .adopt_error = 50,
};

/* A world with one ring, one listener, one accepted connection; no faults. */
struct pair {
    struct midge_sim *sim;
    struct midge_ring *ring;
    int listener_fd;
    int fd;
    uint32_t peer;
};

static const struct midge_handle HANDLE = {.index = 7, .generation = 3};

/* Turn the ring until an event comes. */
static struct midge_ring_event turn_until_event(struct midge_ring *ring)
{
    struct midge_ring_event event = {0};

    for (uint32_t i = 0; i < 100; i++) {
        midge_ring_wait(ring, UINT64_MAX, 0);
        if (midge_ring_next(ring, &event))
            return event;
    }
    cr_assert_fail("no event");
    return event;
}

static void drain(struct midge_ring *ring)
{
    struct midge_ring_event event;

    while (midge_ring_next(ring, &event))
        ;
}

static struct pair pair_open(struct midge_sim_options options)
{
    struct pair pair = {.sim = midge_sim_create(&options)};

    pair.ring = midge_sim_ring_create(pair.sim, NULL);
    pair.listener_fd = midge_sim_listen(pair.sim);
    pair.peer = midge_sim_peer_connect(pair.sim, pair.listener_fd);
    midge_ring_accept(pair.ring, pair.listener_fd, HANDLE);

    const struct midge_ring_event event = turn_until_event(pair.ring);

    cr_assert_eq(event.kind, MIDGE_RING_ACCEPT);
    pair.fd = event.res;
    cr_assert_eq(midge_ring_adopt(pair.ring, pair.fd, HANDLE), 0);
    drain(pair.ring);
    return pair;
}

/* End the world; the connection is closed already. */
static void world_close(struct pair *pair)
{
    midge_ring_cancel(pair->ring, pair->listener_fd, HANDLE);
    cr_assert_eq(turn_until_event(pair->ring).res, -ECANCELED);
    drain(pair->ring);
    midge_ring_close(pair->ring, pair->listener_fd);
    cr_assert_eq(midge_sim_open_fd_count(pair->sim), 0);
    midge_ring_destroy(pair->ring);
    midge_sim_destroy(pair->sim);
}

static void pair_close(struct pair *pair)
{
    midge_ring_close(pair->ring, pair->fd);
    world_close(pair);
}

static void send_text(struct pair *pair, char *text)
{
    const struct iovec piece = {.iov_base = text, .iov_len = strlen(text)};

    midge_ring_send(pair->ring, pair->fd, HANDLE, &piece, 1);
}

/* Echo server. One connection: bytes received wait in the outbox and go back; recv stops while the
 * outbox is over half full; what the peer ends or breaks is closed by the rules of ring.h. */
struct echo_conn {
    int fd;
    uint32_t generation;
    bool recv_armed;
    bool poll_armed;
    bool cancelled;
    bool input_over;
    bool broken;
    uint32_t sending_len;
    uint32_t outbox_len;
    uint8_t outbox[ECHO_OUTBOX_CAP + 32768];
};

struct echo {
    struct midge_ring *ring;
    int listener_fd;
    bool accept_armed;
    bool stopping;
    uint32_t conn_count;
    struct echo_conn conns[ECHO_CONN_COUNT];
};

static void echo_accepted(struct echo *echo, const struct midge_ring_event *event)
{
    uint32_t index = 0;

    echo->accept_armed = event->more;
    if (event->res < 0)
        return;
    while (index < ECHO_CONN_COUNT && echo->conns[index].fd != NO_FD)
        index++;
    if (index == ECHO_CONN_COUNT) {
        midge_ring_close(echo->ring, event->res);
        return;
    }

    struct echo_conn *conn = &echo->conns[index];
    const struct midge_handle handle = {.index = index, .generation = conn->generation + 1};

    if (midge_ring_adopt(echo->ring, event->res, handle) != 0) {
        midge_ring_close(echo->ring, event->res);
        return;
    }
    memset(conn, 0, offsetof(struct echo_conn, outbox));
    conn->fd = event->res;
    conn->generation = handle.generation;
    echo->conn_count++;
}

static void echo_received(struct echo_conn *conn, const struct midge_ring_event *event)
{
    conn->recv_armed = event->more;
    if (event->res > 0) {
        cr_assert_leq(conn->outbox_len + event->bytes.len, sizeof(conn->outbox));
        memcpy(conn->outbox + conn->outbox_len, event->bytes.base, event->bytes.len);
        conn->outbox_len += event->bytes.len;
    } else if (event->res == 0) {
        conn->input_over = true;
    } else if (event->res == -ECONNRESET) {
        conn->broken = true;
    } else {
        cr_assert(event->res == -ENOBUFS || event->res == -ECANCELED);
    }
    if (!event->more)
        conn->cancelled = false;
}

static void echo_sent(struct echo_conn *conn, uint32_t len)
{
    memmove(conn->outbox, conn->outbox + len, conn->outbox_len - len);
    conn->outbox_len -= len;
    conn->sending_len = 0;
}

static void echo_handle(struct echo *echo, const struct midge_ring_event *event)
{
    if (event->kind == MIDGE_RING_ACCEPT) {
        echo_accepted(echo, event);
        return;
    }

    struct echo_conn *conn = &echo->conns[event->handle.index];

    cr_assert_eq(conn->generation, event->handle.generation);
    if (event->kind == MIDGE_RING_RECV) {
        echo_received(conn, event);
    } else if (event->kind == MIDGE_RING_POLL_OUT) {
        conn->poll_armed = false;
    } else {
        cr_assert_eq(event->kind, MIDGE_RING_SEND);
        cr_assert_neq(conn->sending_len, 0);
        if (event->res < 0 && event->res != -EAGAIN)
            conn->broken = true;
        else if (!conn->poll_armed) {
            conn->poll_armed = true;
            midge_ring_poll_out(echo->ring, conn->fd, event->handle);
        }
        echo_sent(conn, event->res > 0 ? (uint32_t)event->res : 0);
    }
}

/* After the turn: settle, send, receive, stop, close. Returns true if the slot is free. */
static void echo_conn_after(struct echo *echo, struct echo_conn *conn)
{
    const struct midge_handle handle = {.index = (uint32_t)(conn - echo->conns),
                                        .generation = conn->generation};
    const bool stop_reading =
        conn->broken || echo->stopping || conn->outbox_len > ECHO_OUTBOX_CAP / 2;

    if (conn->broken)
        conn->outbox_len = 0;
    if ((conn->recv_armed || conn->poll_armed) && !conn->cancelled && stop_reading &&
        (conn->broken || echo->stopping || !conn->poll_armed)) {
        conn->cancelled = conn->recv_armed;
        midge_ring_cancel(echo->ring, conn->fd, handle);
    }
    if (conn->outbox_len != 0 && !conn->poll_armed) {
        const struct iovec pieces[2] = {
            {.iov_base = conn->outbox, .iov_len = (conn->outbox_len + 1) / 2},
            {.iov_base = conn->outbox + (conn->outbox_len + 1) / 2,
             .iov_len = conn->outbox_len / 2},
        };

        conn->sending_len = conn->outbox_len;
        midge_ring_send(echo->ring, conn->fd, handle, pieces, 2);
    }
    if (!conn->recv_armed && !conn->input_over && !stop_reading) {
        conn->recv_armed = true;
        midge_ring_recv(echo->ring, conn->fd, handle);
    }
    if (conn->recv_armed || conn->poll_armed || conn->outbox_len != 0)
        return;
    if (conn->broken || conn->input_over || echo->stopping) {
        midge_ring_shutdown(echo->ring, conn->fd, SHUT_RDWR);
        midge_ring_close(echo->ring, conn->fd);
        conn->fd = NO_FD;
        echo->conn_count--;
    }
}

/* A send that is taken silently ends no wait: do not sleep when something waits for it to be done.
 */
static uint64_t echo_deadline(const struct echo *echo)
{
    for (uint32_t i = 0; i < ECHO_CONN_COUNT; i++)
        if (echo->conns[i].fd != NO_FD && echo->conns[i].sending_len != 0 &&
            !echo->conns[i].recv_armed)
            return 0;
    return UINT64_MAX;
}

static void echo_turn(struct echo *echo)
{
    struct midge_ring_event event;

    midge_ring_wait(echo->ring, echo_deadline(echo), 0);
    while (midge_ring_next(echo->ring, &event))
        echo_handle(echo, &event);
    for (uint32_t i = 0; i < ECHO_CONN_COUNT; i++) {
        struct echo_conn *conn = &echo->conns[i];

        if (conn->fd == NO_FD)
            continue;
        if (conn->sending_len != 0)
            echo_sent(conn, conn->sending_len);
        echo_conn_after(echo, conn);
    }
    if (!echo->accept_armed && !echo->stopping) {
        echo->accept_armed = true;
        midge_ring_accept(echo->ring, echo->listener_fd,
                          (struct midge_handle){.index = ECHO_LISTENER});
    }
}

/* One peer of the echo server: writes a known sequence and checks that it comes back. */
struct echo_peer {
    uint32_t peer;
    uint32_t write_len; /* to be written in all */
    uint32_t written_len;
    uint32_t read_len;
    bool stalls;
    bool fin;
    bool gone;
};

static uint8_t pattern(uint32_t peer, uint32_t off)
{
    return (uint8_t)(peer * 37 + off * 7 + (off >> 8));
}

static void echo_peer_write(struct midge_sim *sim, struct echo_peer *peer)
{
    uint8_t bytes[512];
    uint32_t len = 1 + (uint32_t)midge_sim_random_below(sim, sizeof(bytes));

    if (len > peer->write_len - peer->written_len)
        len = peer->write_len - peer->written_len;
    for (uint32_t i = 0; i < len; i++)
        bytes[i] = pattern(peer->peer, peer->written_len + i);
    peer->written_len += midge_sim_peer_write(sim, peer->peer, midge_slice_make(bytes, len));
}

static void echo_peer_read(struct midge_sim *sim, struct echo_peer *peer)
{
    uint8_t bytes[700];
    const uint32_t len = midge_sim_peer_read(sim, peer->peer, bytes, sizeof(bytes));

    for (uint32_t i = 0; i < len; i++)
        cr_assert_eq(bytes[i], pattern(peer->peer, peer->read_len + i), "peer %u, byte %u",
                     peer->peer, peer->read_len + i);
    peer->read_len += len;
    cr_assert_leq(peer->read_len, peer->written_len);
}

static void echo_peer_step(struct midge_sim *sim, struct echo_peer *peer)
{
    const uint64_t choice = midge_sim_random_below(sim, 1000);

    if (peer->gone)
        return;
    if (choice < 5) {
        peer->gone = true;
        if (choice < 2)
            midge_sim_peer_reset(sim, peer->peer);
        else
            midge_sim_peer_close(sim, peer->peer);
    } else if (choice < 500 && peer->written_len < peer->write_len) {
        echo_peer_write(sim, peer);
    } else if (choice < 520) {
        peer->stalls = !peer->stalls;
    } else if (!peer->stalls) {
        echo_peer_read(sim, peer);
    }
    if (peer->written_len == peer->write_len && !peer->fin && !peer->gone) {
        peer->fin = true;
        midge_sim_peer_shutdown(sim, peer->peer);
    }
}

/* One step towards the end of a peer: write the rest, read everything. Returns 1 if all its bytes
 * came back and the server then ended its stream. */
static uint32_t echo_peer_finish(struct midge_sim *sim, struct echo_peer *peer)
{
    if (peer->gone)
        return 0;
    if (peer->written_len < peer->write_len)
        echo_peer_write(sim, peer);
    if (peer->written_len == peer->write_len && !peer->fin) {
        peer->fin = true;
        midge_sim_peer_shutdown(sim, peer->peer);
    }
    echo_peer_read(sim, peer);
    switch (midge_sim_peer_state(sim, peer->peer)) {
    case MIDGE_SIM_PEER_OPEN:
        return 0;
    case MIDGE_SIM_PEER_EOF:
        cr_assert_eq(peer->read_len, peer->write_len);
        peer->gone = true;
        return 1;
    case MIDGE_SIM_PEER_RESET:
    case MIDGE_SIM_PEER_GONE:
        peer->gone = true;
        return 0;
    }
    return 0;
}

/* The world around the echo server, which goes on while the server sleeps. */
struct echo_world {
    struct midge_sim *sim;
    struct echo_peer peers[ECHO_PEER_COUNT];
    uint32_t step;
    uint32_t exact_count; /* peers that had all their bytes come back */
    bool over;
};

static bool echo_world_step(void *context, struct midge_ring *ring)
{
    struct echo_world *world = context;
    uint32_t gone_count = 0;

    (void)ring;
    cr_assert_lt(world->step, ECHO_STEPS_MAX, "a peer hangs");
    if (world->step++ < ECHO_SCRIPT_STEPS) {
        echo_peer_step(world->sim,
                       &world->peers[midge_sim_random_below(world->sim, ECHO_PEER_COUNT)]);
        return true;
    }
    for (uint32_t i = 0; i < ECHO_PEER_COUNT; i++) {
        world->exact_count += echo_peer_finish(world->sim, &world->peers[i]);
        gone_count += world->peers[i].gone;
    }
    world->over = gone_count == ECHO_PEER_COUNT;
    return !world->over;
}

static void echo_stop(struct echo *echo)
{
    echo->stopping = true;
    if (echo->accept_armed)
        midge_ring_cancel(echo->ring, echo->listener_fd,
                          (struct midge_handle){.index = ECHO_LISTENER});
    for (uint32_t i = 0; echo->accept_armed || echo->conn_count != 0; i++) {
        cr_assert_lt(i, 1000);
        echo_turn(echo);
    }
    midge_ring_close(echo->ring, echo->listener_fd);
    midge_ring_destroy(echo->ring);
}

struct echo_result {
    uint64_t trace_hash;
    uint32_t exact_count;
    struct midge_sim_counts counts;
};

static struct echo_result echo_run(uint64_t seed)
{
    const struct midge_sim_options options = {
        .seed = seed, .faults = ALL_FAULTS, .fd_count_max = 5, .up_cap = 1500, .down_cap = 1100};
    struct midge_sim *sim = midge_sim_create(&options);
    struct echo *echo = calloc(1, sizeof(*echo));
    struct echo_world world = {.sim = sim};
    struct echo_result result;

    cr_assert_not_null(echo);
    echo->ring = midge_sim_ring_create(sim, NULL);
    echo->listener_fd = midge_sim_listen(sim);
    for (uint32_t i = 0; i < ECHO_CONN_COUNT; i++)
        echo->conns[i].fd = NO_FD;
    for (uint32_t i = 0; i < ECHO_PEER_COUNT; i++) {
        world.peers[i].peer = midge_sim_peer_connect(sim, echo->listener_fd);
        world.peers[i].write_len = 1 + (uint32_t)midge_sim_random_below(sim, ECHO_BYTES_MAX);
    }
    midge_sim_let_sleep(sim, &world, echo_world_step);
    while (!world.over) {
        if (midge_sim_random_below(sim, 2) == 0)
            (void)echo_world_step(&world, echo->ring);
        echo_turn(echo);
    }
    midge_sim_let_sleep(sim, NULL, NULL);
    echo_stop(echo);
    cr_assert_eq(midge_sim_open_fd_count(sim), 0);
    result.exact_count = world.exact_count;
    result.trace_hash = midge_sim_trace_hash(sim);
    midge_sim_counts(sim, &result.counts);
    midge_sim_destroy(sim);
    free(echo);
    return result;
}

Test(sim, the_same_seed_gives_the_same_trace)
{
    const struct echo_result first = echo_run(42);
    const struct echo_result again = echo_run(42);
    const struct echo_result other = echo_run(43);

    cr_assert_eq(first.trace_hash, again.trace_hash);
    cr_assert_eq(memcmp(&first.counts, &again.counts, sizeof(first.counts)), 0);
    cr_assert_neq(first.trace_hash, other.trace_hash);
}

Test(sim, an_echo_server_is_exact_under_every_fault)
{
    struct midge_sim_counts sum = {0};
    uint64_t *words = (uint64_t *)&sum;
    uint32_t exact_count = 0;

    for (uint64_t seed = 1; seed <= 200; seed++) {
        const struct echo_result result = echo_run(seed);
        const uint64_t *counts = (const uint64_t *)&result.counts;

        exact_count += result.exact_count;
        for (uint32_t i = 0; i < sizeof(sum) / sizeof(*words); i++)
            words[i] += counts[i];
    }
    cr_assert_gt(exact_count, 400);
    cr_assert_gt(sum.delays, 0);
    cr_assert_gt(sum.holds, 0);
    cr_assert_gt(sum.splits, 0);
    cr_assert_gt(sum.joins, 0);
    cr_assert_gt(sum.disarms, 0);
    cr_assert_gt(sum.no_buffers, 0);
    cr_assert_gt(sum.short_sends, 0);
    cr_assert_gt(sum.send_agains, 0);
    cr_assert_gt(sum.full_sockets, 0);
    cr_assert_gt(sum.accept_errors, 0);
    cr_assert_gt(sum.fd_limits, 0);
    cr_assert_gt(sum.cancel_data, 0);
    cr_assert_gt(sum.cancel_won, 0);
    cr_assert_gt(sum.canceled, 0);
    cr_assert_gt(sum.early_submits, 0);
    cr_assert_gt(sum.early_wakes, 0);
    cr_assert_gt(sum.adopt_errors, 0);
    cr_assert_gt(sum.resets_seen, 0);
    cr_assert_gt(sum.resets_sent, 0);
}

Test(sim, a_full_send_is_silent_and_settles_at_the_end_of_the_turn)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    struct midge_ring_event event;
    char text[] = "hello";
    char got[16] = "";

    send_text(&pair, text);
    cr_assert_eq(midge_sim_peer_unread(pair.sim, pair.peer), 0);
    midge_ring_wait(pair.ring, 0, 0);
    cr_assert_not(midge_ring_next(pair.ring, &event));
    cr_assert_eq(midge_sim_peer_read(pair.sim, pair.peer, got, sizeof(got)), 5);
    cr_assert_str_eq(got, "hello");
    send_text(&pair, text);
    drain(pair.ring);
    midge_ring_wait(pair.ring, 0, 0);
    drain(pair.ring);
    pair_close(&pair);
}

Test(sim, a_full_socket_answers_short_then_again_then_has_room)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1, .down_cap = 4});
    char text[] = "hello";
    char got[16];

    send_text(&pair, text);
    struct midge_ring_event event = turn_until_event(pair.ring);
    cr_assert(event.kind == MIDGE_RING_SEND && event.res == 4 && !event.more);
    drain(pair.ring);
    send_text(&pair, text);
    event = turn_until_event(pair.ring);
    cr_assert(event.kind == MIDGE_RING_SEND && event.res == -EAGAIN);
    midge_ring_poll_out(pair.ring, pair.fd, HANDLE);
    drain(pair.ring);
    midge_ring_wait(pair.ring, UINT64_MAX, 0);
    cr_assert_not(midge_ring_next(pair.ring, &event));
    cr_assert_not(midge_sim_ring_is_ready(pair.ring));
    cr_assert_eq(midge_sim_peer_read(pair.sim, pair.peer, got, 1), 1);
    cr_assert(midge_sim_ring_is_ready(pair.ring));
    event = turn_until_event(pair.ring);
    cr_assert(event.kind == MIDGE_RING_POLL_OUT && event.res >= 0);
    drain(pair.ring);
    midge_sim_peer_close(pair.sim, pair.peer);
    pair_close(&pair);
}

Test(sim, a_peer_that_ends_its_stream_can_still_read)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "bye";
    char got[8];

    midge_ring_recv(pair.ring, pair.fd, HANDLE);
    cr_assert_eq(midge_sim_peer_write(pair.sim, pair.peer, MIDGE_SLICE_LITERAL("x")), 1);
    midge_sim_peer_shutdown(pair.sim, pair.peer);
    struct midge_ring_event event = turn_until_event(pair.ring);
    cr_assert(event.res == 1 && event.more);
    event = (struct midge_ring_event){0};
    cr_assert(midge_ring_next(pair.ring, &event));
    cr_assert(event.res == 0 && !event.more);
    drain(pair.ring);
    send_text(&pair, text);
    midge_ring_wait(pair.ring, 0, 0);
    drain(pair.ring);
    midge_ring_shutdown(pair.ring, pair.fd, SHUT_WR);
    cr_assert_eq(midge_sim_peer_state(pair.sim, pair.peer), MIDGE_SIM_PEER_OPEN);
    cr_assert_eq(midge_sim_peer_read(pair.sim, pair.peer, got, sizeof(got)), 3);
    cr_assert_eq(midge_sim_peer_state(pair.sim, pair.peer), MIDGE_SIM_PEER_EOF);
    pair_close(&pair);
}

Test(sim, a_reset_is_told_to_recv_send_and_peer)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    struct midge_ring_peer who;
    char text[] = "x";

    cr_assert_eq(midge_ring_peer(pair.ring, pair.fd, &who), 0);
    cr_assert_str_eq(who.ip, "10.0.0.0");
    midge_ring_recv(pair.ring, pair.fd, HANDLE);
    midge_sim_peer_reset(pair.sim, pair.peer);
    cr_assert_eq(midge_ring_peer(pair.ring, pair.fd, &who), -ENOTCONN);
    struct midge_ring_event event = turn_until_event(pair.ring);
    cr_assert(event.kind == MIDGE_RING_RECV && event.res == -ECONNRESET && !event.more);
    drain(pair.ring);
    send_text(&pair, text);
    event = turn_until_event(pair.ring);
    cr_assert(event.kind == MIDGE_RING_SEND && event.res == -EPIPE);
    drain(pair.ring);
    pair_close(&pair);
}

Test(sim, a_close_with_unread_bytes_resets_the_peer)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    cr_assert_eq(midge_sim_peer_write(pair.sim, pair.peer, MIDGE_SLICE_LITERAL("x")), 1);
    midge_ring_close(pair.ring, pair.fd);
    cr_assert_eq(midge_sim_peer_state(pair.sim, pair.peer), MIDGE_SIM_PEER_RESET);
    cr_assert_eq(midge_sim_peer_write(pair.sim, pair.peer, MIDGE_SLICE_LITERAL("y")), 0);
    world_close(&pair);
}

Test(sim, the_lowest_free_descriptor_is_used_again)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1, .fd_count_max = 2});
    const int fd = pair.fd;

    pair.peer = midge_sim_peer_connect(pair.sim, pair.listener_fd);
    struct midge_ring_event event = turn_until_event(pair.ring);
    cr_assert(event.kind == MIDGE_RING_ACCEPT && event.res == -EMFILE && !event.more);
    drain(pair.ring);
    midge_ring_close(pair.ring, pair.fd);
    midge_ring_accept(pair.ring, pair.listener_fd, HANDLE);
    event = turn_until_event(pair.ring);
    cr_assert_eq(event.res, fd);
    drain(pair.ring);
    pair_close(&pair);
}

Test(sim, a_ring_is_ready_at_its_deadline_and_after_a_doorbell)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    const uint64_t deadline_ns = midge_ring_now_ns(pair.ring) + 1000000000;

    midge_ring_wait(pair.ring, deadline_ns, 0);
    drain(pair.ring);
    cr_assert_not(midge_sim_ring_is_ready(pair.ring));
    cr_assert_eq(midge_sim_deadline_ns(pair.sim), deadline_ns);
    midge_ring_doorbell(pair.ring);
    cr_assert(midge_sim_ring_is_ready(pair.ring));
    midge_ring_wait(pair.ring, deadline_ns, 0);
    drain(pair.ring);
    cr_assert_not(midge_sim_ring_is_ready(pair.ring));
    midge_sim_advance(pair.sim, deadline_ns - midge_sim_now_ns(pair.sim));
    cr_assert(midge_sim_ring_is_ready(pair.ring));
    pair_close(&pair);
}

static bool sleep_until_ready(void *context, struct midge_ring *ring)
{
    struct pair *pair = context;
    uint8_t byte;

    (void)ring;
    (void)midge_sim_peer_read(pair->sim, pair->peer, &byte, 1);
    midge_sim_advance(pair->sim, 1000000);
    return true;
}

Test(sim, a_silent_send_does_not_end_a_sleep)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    const uint64_t deadline_ns = midge_ring_now_ns(pair.ring) + 1000000000;
    struct midge_ring_event event;
    char text[] = "x";

    midge_sim_let_sleep(pair.sim, &pair, sleep_until_ready);
    send_text(&pair, text);
    midge_ring_wait(pair.ring, deadline_ns, 0);
    cr_assert_not(midge_ring_next(pair.ring, &event));
    cr_assert_geq(midge_ring_now_ns(pair.ring), deadline_ns);
    pair_close(&pair);
}

Test(sim, room_in_a_full_socket_ends_a_sleep)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1, .down_cap = 1});
    char text[] = "x";
    struct midge_ring_event event;

    send_text(&pair, text);
    midge_ring_wait(pair.ring, 0, 0);
    drain(pair.ring);
    midge_ring_poll_out(pair.ring, pair.fd, HANDLE);
    midge_sim_let_sleep(pair.sim, &pair, sleep_until_ready);
    midge_ring_wait(pair.ring, UINT64_MAX, 0);
    cr_assert(midge_ring_next(pair.ring, &event));
    cr_assert_eq(event.kind, MIDGE_RING_POLL_OUT);
    drain(pair.ring);
    pair_close(&pair);
}

/* What was paused, as one digit for each pause. */
static void note_pause(void *context, struct midge_ring *ring, enum midge_sim_pause pause)
{
    char *at = context;

    (void)ring;
    at[strlen(at)] = (char)('0' + pause);
}

Test(sim, a_pause_comes_before_a_wait_and_an_event_and_on_both_sides_of_a_try_send)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";
    const struct iovec piece = {.iov_base = text, .iov_len = 1};
    char pauses[16] = "";

    midge_sim_let_pause(pair.sim, pauses, note_pause);
    midge_ring_wait(pair.ring, 0, 0);
    drain(pair.ring);
    cr_assert_eq(midge_ring_try_send(pair.ring, pair.fd, &piece, 1), 1);
    midge_sim_let_pause(pair.sim, NULL, NULL);
    cr_assert_str_eq(pauses, "0123");
    pair_close(&pair);
}

Test(sim, a_released_descriptor_takes_a_try_send_and_is_adopted_again)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";
    const struct iovec piece = {.iov_base = text, .iov_len = 1};

    midge_ring_release(pair.ring, pair.fd);
    cr_assert_eq(midge_ring_try_send(pair.ring, pair.fd, &piece, 1), 1);
    cr_assert_eq(midge_ring_adopt(pair.ring, pair.fd, HANDLE), 0);
    pair_close(&pair);
}

Test(sim, a_release_of_what_is_armed_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    midge_ring_recv(pair.ring, pair.fd, HANDLE);
    midge_ring_release(pair.ring, pair.fd);
}

static void close_while_sending(void *context, struct midge_ring *ring, enum midge_sim_pause pause)
{
    const struct pair *pair = context;

    if (pause == MIDGE_SIM_PAUSE_SENT)
        midge_ring_close(ring, pair->fd);
}

Test(sim, a_close_under_a_try_send_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";
    const struct iovec piece = {.iov_base = text, .iov_len = 1};

    midge_sim_let_pause(pair.sim, &pair, close_while_sending);
    cr_assert_eq(midge_ring_try_send(pair.ring, pair.fd, &piece, 1), 1);
}

Test(sim, a_poll_out_is_cancelled)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1, .down_cap = 1});
    char text[] = "x";

    send_text(&pair, text);
    midge_ring_wait(pair.ring, 0, 0);
    drain(pair.ring);
    midge_ring_poll_out(pair.ring, pair.fd, HANDLE);
    midge_ring_cancel(pair.ring, pair.fd, HANDLE);
    const struct midge_ring_event event = turn_until_event(pair.ring);
    cr_assert(event.kind == MIDGE_RING_POLL_OUT && event.res == -ECANCELED);
    drain(pair.ring);
    pair_close(&pair);
}

#if defined(__SANITIZE_ADDRESS__)
Test(sim, received_bytes_are_poisoned_by_the_next_call)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    midge_ring_recv(pair.ring, pair.fd, HANDLE);
    cr_assert_eq(midge_sim_peer_write(pair.sim, pair.peer, MIDGE_SLICE_LITERAL("xyz")), 3);
    const struct midge_ring_event event = turn_until_event(pair.ring);
    cr_assert_eq(event.res, 3);
    cr_assert_not(__asan_address_is_poisoned(event.bytes.base + 2));
    cr_assert(__asan_address_is_poisoned(event.bytes.base + 3));
    drain(pair.ring);
    cr_assert(__asan_address_is_poisoned(event.bytes.base));
    midge_ring_cancel(pair.ring, pair.fd, HANDLE);
    cr_assert_eq(turn_until_event(pair.ring).res, -ECANCELED);
    drain(pair.ring);
    pair_close(&pair);
}
#endif

/* The checks of what ring.h forbids: each of these must abort. */

Test(sim, two_sends_under_way_abort, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";

    send_text(&pair, text);
    send_text(&pair, text);
}

Test(sim, a_send_before_the_turn_has_settled_the_last_one_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";

    send_text(&pair, text);
    midge_ring_wait(pair.ring, 0, 0);
    send_text(&pair, text);
}

Test(sim, a_try_send_beside_a_send_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";
    const struct iovec piece = {.iov_base = text, .iov_len = 1};

    send_text(&pair, text);
    cr_assert_eq(midge_ring_try_send(pair.ring, pair.fd, &piece, 1), 1);
}

Test(sim, a_second_recv_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    midge_ring_recv(pair.ring, pair.fd, HANDLE);
    midge_ring_recv(pair.ring, pair.fd, HANDLE);
}

Test(sim, a_close_under_an_armed_recv_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    midge_ring_recv(pair.ring, pair.fd, HANDLE);
    midge_ring_wait(pair.ring, 0, 0);
    drain(pair.ring);
    midge_ring_close(pair.ring, pair.fd);
}

Test(sim, a_close_before_the_last_event_is_taken_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    midge_ring_recv(pair.ring, pair.fd, HANDLE);
    midge_ring_cancel(pair.ring, pair.fd, HANDLE);
    midge_ring_wait(pair.ring, 0, 0);
    midge_ring_close(pair.ring, pair.fd);
}

Test(sim, a_close_under_a_send_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";

    send_text(&pair, text);
    midge_ring_wait(pair.ring, 0, 0);
    midge_ring_close(pair.ring, pair.fd);
}

Test(sim, an_operation_on_a_closed_descriptor_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    midge_ring_close(pair.ring, pair.fd);
    midge_ring_recv(pair.ring, pair.fd, HANDLE);
}

Test(sim, adopting_twice_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    cr_assert_eq(midge_ring_adopt(pair.ring, pair.fd, HANDLE), 0);
}

Test(sim, re_arming_a_recv_inside_the_turn_that_ended_it_aborts, .signal = SIGABRT)
{
    struct pair pair =
        pair_open((struct midge_sim_options){.seed = 1, .faults = {.no_buffers = 1000}});

    midge_ring_recv(pair.ring, pair.fd, HANDLE);
    cr_assert_eq(midge_sim_peer_write(pair.sim, pair.peer, MIDGE_SLICE_LITERAL("x")), 1);
    cr_assert_eq(turn_until_event(pair.ring).res, -ENOBUFS);
    midge_ring_recv(pair.ring, pair.fd, HANDLE);
}

Test(sim, changing_lent_bytes_before_the_wait_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";

    send_text(&pair, text);
    text[0] = 'y';
    midge_ring_wait(pair.ring, 0, 0);
}

Test(sim, changing_lent_bytes_before_the_turn_is_over_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});
    char text[] = "x";

    send_text(&pair, text);
    midge_ring_wait(pair.ring, 0, 0);
    text[0] = 'y';
    drain(pair.ring);
}

Test(sim, destroying_a_ring_with_an_open_connection_aborts, .signal = SIGABRT)
{
    struct pair pair = pair_open((struct midge_sim_options){.seed = 1});

    midge_ring_destroy(pair.ring);
}
