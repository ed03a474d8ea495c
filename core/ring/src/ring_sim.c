/*
 * The simulated ring: accepts, receives and sends on the links of sim_world.c, completing
 * operations in any order and with any fault that ring.h allows, as the seed decides; and the
 * checks of what ring.h forbids.
 *
 * How an operation goes: the arming call puts it into the submission list; a wait (or a full list)
 * submits it; in every wait the world may complete it, which makes an event; an event may be held
 * back for some turns, but events of one operation keep their order; the events shown in a turn
 * come out of midge_ring_next() in random order. Sends are tried when they are submitted and settle
 * in the turn of that wait, as ring.h promises.
 *
 * Thread: shard. Memory: malloc; the bytes of a recv event are one block of their exact length.
 */
#include "ring_internal.h"
#include "sim_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SIM_BUFFER_LEN           16384u
#define SIM_HOLD_TURNS_MAX       4u
#define SIM_COMPLETIONS_MAX      4u /* of one operation in one wait */
#define SIM_TURN_NS_MAX          20000u
#define SIM_HASH_SEED            0x6d69646765ull
#define SIM_POISON               0xdb
#define SIM_CANCEL_FINISH_CHANCE 600u

static const struct midge_handle NO_HANDLE = {0};

enum sim_entry_kind {
    SIM_ENTRY_INPUT = 0,
    SIM_ENTRY_OUTPUT,
    SIM_ENTRY_SEND,
    SIM_ENTRY_CANCEL,
};

/* One queued submission. */
struct sim_entry {
    enum sim_entry_kind kind;
    int fd;
    uint32_t generation; /* of the descriptor, so that a cancel never hits its successor */
};

/* One event that is made and not yet taken. */
struct sim_event {
    struct midge_ring_event event;
    enum sim_entry_kind source;
    int fd;
    uint32_t peer;
    uint64_t release_turn;
    uint8_t *bytes; /* owned, NULL for none */
    bool joined;    /* bytes of more than one write */
};

struct sim_ring {
    struct midge_ring base;
    struct midge_sim *sim;
    uint32_t buffer_len;
    uint64_t turn;
    uint64_t deadline_ns; /* of the last wait */
    struct sim_share busy;
    bool in_wait;
    bool draining; /* between a wait and the next() that returns false */
    uint8_t *lent; /* bytes of the event taken last, owned */
    uint32_t lent_len;
    struct sim_entry *entries;
    uint32_t entry_count;
    uint32_t entry_cap;
    struct sim_event *events; /* in the order of their making */
    uint32_t event_count;
    uint32_t event_cap;
};

static struct sim_ring *sim_ring_of(struct midge_ring *ring)
{
    MIDGE_ASSERT(ring != NULL && ring->ops->kind == MIDGE_RING_KIND_SIM);
    return (struct sim_ring *)ring;
}

static const struct sim_ring *sim_ring_of_const(const struct midge_ring *ring)
{
    MIDGE_ASSERT(ring != NULL && ring->ops->kind == MIDGE_RING_KIND_SIM);
    return (const struct sim_ring *)ring;
}

/* The entry of a connected descriptor that this ring has adopted. */
static struct sim_fd *adopted_get(const struct sim_ring *ring, int fd)
{
    struct sim_fd *entry = midge_sim_fd_get(ring->sim, fd);

    MIDGE_ASSERT(entry->kind == SIM_FD_STREAM);
    MIDGE_ASSERT(entry->ring == &ring->base);
    return entry;
}

/* The thread of this ring may lose its core here. */
static void pause_here(struct sim_ring *ring, enum midge_sim_pause pause)
{
    const struct midge_sim *sim = ring->sim;

    if (sim->pause_cb != NULL)
        sim->pause_cb(sim->pause_context, &ring->base, pause);
}

static uint64_t pieces_checksum(const struct iovec *pieces, uint32_t piece_count)
{
    uint64_t hash = SIM_HASH_SEED;

    for (uint32_t i = 0; i < piece_count; i++)
        hash = midge_sim_hash_bytes(hash, pieces[i].iov_base, pieces[i].iov_len);
    return hash;
}

static uint64_t pieces_total(const struct iovec *pieces, uint32_t piece_count)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < piece_count; i++)
        total += pieces[i].iov_len;
    return total;
}

/* Put an event behind those of the same operation. Bytes, if any, become the event's. */
static void event_push(struct sim_ring *ring, struct sim_event *event, struct sim_op *op)
{
    struct midge_sim *sim = ring->sim;

    /* What goes out early is still told after the next wait. */
    event->release_turn = ring->in_wait ? ring->turn : ring->turn + 1;
    if (op != NULL) {
        if (midge_sim_strikes(sim, sim->options.faults.hold, &sim->counts.holds))
            event->release_turn += 1 + midge_sim_random(sim) % SIM_HOLD_TURNS_MAX;
        if (event->release_turn < op->release_turn)
            event->release_turn = op->release_turn;
        op->release_turn = event->release_turn;
        if (!event->event.more)
            op->state = SIM_OP_ENDED;
    }
    if (ring->event_count == ring->event_cap) {
        const uint32_t cap = ring->event_cap == 0 ? 64 : 2 * ring->event_cap;
        struct sim_event *events = realloc(ring->events, cap * sizeof(*events));

        MIDGE_ASSERT(events != NULL);
        ring->events = events;
        ring->event_cap = cap;
    }
    ring->events[ring->event_count++] = *event;
}

static void push_plain(struct sim_ring *ring, int fd, struct sim_op *op,
                       enum midge_ring_event_kind kind, int res, bool more)
{
    const struct sim_fd *entry = midge_sim_fd_get(ring->sim, fd);
    struct sim_event event = {
        .event = {.kind = kind, .handle = op->handle, .res = res, .more = more},
        .source = kind == MIDGE_RING_POLL_OUT ? SIM_ENTRY_OUTPUT : SIM_ENTRY_INPUT,
        .fd = fd,
        .peer = entry->link == NULL ? SIM_NO_PEER : entry->link->peer,
    };

    if (res == -ECANCELED)
        ring->sim->counts.canceled++;
    event_push(ring, &event, op);
}

/* Move bytes from the link into a recv event. */
static void push_bytes(struct sim_ring *ring, int fd, struct sim_fd *entry, bool more)
{
    struct midge_sim *sim = ring->sim;
    struct sim_pipe *up = &entry->link->up;
    uint32_t len = up->len < ring->buffer_len ? up->len : ring->buffer_len;

    if (len > 1 && midge_sim_strikes(sim, sim->options.faults.split, &sim->counts.splits))
        len = 1 + (uint32_t)(midge_sim_random(sim) %
                             (midge_sim_chance(sim, 500) && len > 8 ? 8 : len - 1));

    struct sim_event event = {
        .event = {.kind = MIDGE_RING_RECV,
                  .handle = entry->input.handle,
                  .res = (int)len,
                  .more = more},
        .source = SIM_ENTRY_INPUT,
        .fd = fd,
        .peer = entry->link->peer,
        .bytes = malloc(len),
        .joined = len > up->write_left,
    };

    MIDGE_ASSERT(event.bytes != NULL);
    midge_sim_pipe_pull(up, event.bytes, len);
    event.event.bytes = midge_slice_make(event.bytes, len);
    event_push(ring, &event, &entry->input);
}

/* End of the stream for recv: an error once, then the end. */
static int input_end(struct sim_link *link)
{
    if (link->broken && !link->error_told) {
        link->error_told = true;
        return -ECONNRESET;
    }
    return 0;
}

static bool input_is_over(const struct sim_link *link)
{
    return link->broken || link->peer_fin || link->ring_deaf;
}

static void disarm(struct sim_ring *ring, int fd, struct sim_fd *entry)
{
    midge_ring_count(&ring->base.overflows);
    push_bytes(ring, fd, entry, false);
}

static void no_buffers(struct sim_ring *ring, int fd, struct sim_fd *entry)
{
    midge_ring_count(&ring->base.no_buffers);
    push_plain(ring, fd, &entry->input, MIDGE_RING_RECV, -ENOBUFS, false);
}

/* One completion of a recv, if there is anything to complete. Returns false if not. */
static bool complete_recv(struct sim_ring *ring, int fd, struct sim_fd *entry)
{
    struct midge_sim *sim = ring->sim;
    const struct midge_sim_faults *faults = &sim->options.faults;

    if (entry->link->up.len != 0) {
        if (midge_sim_strikes(sim, faults->no_buffers, &sim->counts.no_buffers))
            no_buffers(ring, fd, entry);
        else if (midge_sim_strikes(sim, faults->disarm, &sim->counts.disarms))
            disarm(ring, fd, entry);
        else
            push_bytes(ring, fd, entry, true);
        return true;
    }
    if (!input_is_over(entry->link))
        return false;
    push_plain(ring, fd, &entry->input, MIDGE_RING_RECV, input_end(entry->link), false);
    return true;
}

/* One completion of an accept. */
static bool complete_accept(struct sim_ring *ring, int fd, struct sim_fd *entry, bool more)
{
    struct midge_sim *sim = ring->sim;
    struct sim_link *link = midge_sim_listener_first(sim, fd);

    if (link == NULL)
        return false;
    if (!midge_sim_fd_available(sim)) {
        sim->counts.fd_limits++;
        push_plain(ring, fd, &entry->input, MIDGE_RING_ACCEPT, -EMFILE, false);
        return true;
    }
    if (midge_sim_strikes(sim, sim->options.faults.accept_error, &sim->counts.accept_errors)) {
        const int res = midge_sim_chance(sim, 500) ? -EMFILE : -ECONNABORTED;

        push_plain(ring, fd, &entry->input, MIDGE_RING_ACCEPT, res, false);
        return true;
    }

    struct sim_event event = {
        .event = {.kind = MIDGE_RING_ACCEPT, .handle = entry->input.handle, .more = more},
        .source = SIM_ENTRY_INPUT,
        .fd = fd,
        .peer = link->peer,
    };

    link->listener_fd = -1;
    link->fd = midge_sim_fd_open(sim, SIM_FD_STREAM, link);
    event.event.res = link->fd;
    event_push(ring, &event, &entry->input);
    return true;
}

/* A cancelled accept or recv ends in one of the ways that a race allows. */
static void finish_cancelled_input(struct sim_ring *ring, int fd, struct sim_fd *entry)
{
    struct midge_sim *sim = ring->sim;
    const bool race = midge_sim_chance(sim, sim->options.faults.cancel_race);

    if (!race) {
        push_plain(ring, fd, &entry->input,
                   entry->kind == SIM_FD_LISTENER ? MIDGE_RING_ACCEPT : MIDGE_RING_RECV, -ECANCELED,
                   false);
        return;
    }
    if (entry->kind == SIM_FD_LISTENER) {
        if (complete_accept(ring, fd, entry, midge_sim_chance(sim, 500)))
            sim->counts.cancel_won++;
        return;
    }
    if (entry->link->up.len != 0) {
        const bool more = midge_sim_chance(sim, 500);

        push_bytes(ring, fd, entry, more);
        *(more ? &sim->counts.cancel_data : &sim->counts.cancel_won) += 1;
        return;
    }
    if (complete_recv(ring, fd, entry))
        sim->counts.cancel_won++;
}

static bool output_is_ready(const struct sim_link *link)
{
    return link->broken || link->ring_fin || link->peer_gone || sim_pipe_room(&link->down) != 0;
}

static void run_input(struct sim_ring *ring, int fd, struct sim_fd *entry)
{
    struct midge_sim *sim = ring->sim;

    for (uint32_t i = 0; i < SIM_COMPLETIONS_MAX && entry->input.state == SIM_OP_ACTIVE; i++) {
        if (midge_sim_strikes(sim, sim->options.faults.delay, &sim->counts.delays))
            return;
        if (!(entry->kind == SIM_FD_LISTENER ? complete_accept(ring, fd, entry, true)
                                             : complete_recv(ring, fd, entry)))
            return;
    }
    if (entry->input.state == SIM_OP_CANCELLED &&
        !(sim->options.faults.cancel_race != 0 &&
          midge_sim_chance(sim, 1000 - SIM_CANCEL_FINISH_CHANCE)))
        finish_cancelled_input(ring, fd, entry);
}

static void run_output(struct sim_ring *ring, int fd, struct sim_fd *entry)
{
    struct midge_sim *sim = ring->sim;
    const bool ready = entry->output.state != SIM_OP_IDLE && output_is_ready(entry->link);

    if (entry->output.state == SIM_OP_ACTIVE && ready &&
        !midge_sim_strikes(sim, sim->options.faults.delay, &sim->counts.delays)) {
        push_plain(ring, fd, &entry->output, MIDGE_RING_POLL_OUT, 4 /* POLLOUT */, false);
        return;
    }
    if (entry->output.state != SIM_OP_CANCELLED)
        return;
    if (ready && midge_sim_strikes(sim, sim->options.faults.cancel_race, &sim->counts.cancel_won))
        push_plain(ring, fd, &entry->output, MIDGE_RING_POLL_OUT, 4 /* POLLOUT */, false);
    else
        push_plain(ring, fd, &entry->output, MIDGE_RING_POLL_OUT, -ECANCELED, false);
}

static void note_send(struct midge_sim *sim, const struct sim_link *link,
                      const struct iovec *pieces, uint32_t piece_count, int64_t res)
{
    uint64_t left = res > 0 ? (uint64_t)res : 0;

    for (uint32_t i = 0; i < piece_count && left != 0; i++) {
        const uint32_t len = (uint32_t)(pieces[i].iov_len < left ? pieces[i].iov_len : left);
        const struct midge_sim_note note = {
            .kind = MIDGE_SIM_SENT,
            .peer = link->peer,
            .res = len,
            .bytes = midge_slice_make(pieces[i].iov_base, len),
            .now_ns = sim->now_ns,
        };

        midge_sim_tell(sim, &note);
        left -= len;
    }
    if (res <= 0)
        midge_sim_trace(sim, 110, link->peer, (uint64_t)res);
}

/* What the socket answers to a send of `total` bytes. */
static int64_t send_result(struct midge_sim *sim, struct sim_link *link, uint64_t total)
{
    const struct midge_sim_faults *faults = &sim->options.faults;
    const uint32_t room = sim_pipe_room(&link->down);

    if (link->broken) {
        const bool first = !link->error_told;

        link->error_told = true;
        sim->counts.resets_seen++;
        return first && midge_sim_chance(sim, 500) ? -ECONNRESET : -EPIPE;
    }
    if (link->ring_fin) {
        sim->counts.resets_seen++;
        return -EPIPE;
    }
    if (room == 0)
        sim->counts.full_sockets++;
    if (room == 0 || midge_sim_strikes(sim, faults->send_again, &sim->counts.send_agains))
        return -EAGAIN;
    if (total > 1 && midge_sim_strikes(sim, faults->short_send, &sim->counts.short_sends)) {
        const uint64_t limit = total - 1 < room ? total - 1 : room;

        return 1 + (int64_t)(midge_sim_random(sim) % limit);
    }
    if (total > room)
        sim->counts.full_sockets++;
    return (int64_t)(total < room ? total : room);
}

/* Send through a link, now. */
static int64_t link_send(struct midge_sim *sim, struct sim_link *link, const struct iovec *pieces,
                         uint32_t piece_count)
{
    const int64_t res = send_result(sim, link, pieces_total(pieces, piece_count));
    uint64_t left = res > 0 ? (uint64_t)res : 0;

    note_send(sim, link, pieces, piece_count, res);
    if (res > 0 && link->peer_gone) {
        link->broken = true;
        return res;
    }
    for (uint32_t i = 0; i < piece_count && left != 0; i++) {
        const uint32_t len = (uint32_t)(pieces[i].iov_len < left ? pieces[i].iov_len : left);

        midge_sim_pipe_push(&link->down, pieces[i].iov_base, len);
        left -= len;
    }
    return res;
}

static void check_lent(const struct sim_send *send)
{
    /* The lender has changed or freed bytes that a send still needs. */
    MIDGE_ASSERT(pieces_checksum(send->pieces, send->piece_count) == send->checksum);
}

static void submit_send(struct sim_ring *ring, int fd, struct sim_fd *entry)
{
    struct sim_send *send = &entry->send;

    MIDGE_ASSERT(send->state == SIM_SEND_QUEUED);
    check_lent(send);
    send->res = link_send(ring->sim, entry->link, send->pieces, send->piece_count);
    send->settle_turn = ring->in_wait ? ring->turn : ring->turn + 1;
    if (send->res == (int64_t)send->total) {
        send->state = SIM_SEND_TAKEN;
        return;
    }
    send->state = SIM_SEND_TOLD;

    struct sim_event event = {
        .event = {.kind = MIDGE_RING_SEND, .handle = send->handle, .res = (int)send->res},
        .source = SIM_ENTRY_SEND,
        .fd = fd,
        .peer = entry->link->peer,
    };

    event_push(ring, &event, NULL);
}

static void submit_op(struct sim_op *op)
{
    MIDGE_ASSERT(op->state == SIM_OP_QUEUED);
    op->state = SIM_OP_ACTIVE;
}

static void submit_cancel(struct sim_op *op)
{
    if (op->state == SIM_OP_ACTIVE)
        op->state = SIM_OP_CANCELLED;
}

/* Everything queued goes to the simulated kernel, in order. */
static void submit_all(struct sim_ring *ring)
{
    for (uint32_t i = 0; i < ring->entry_count; i++) {
        const struct sim_entry *queued = &ring->entries[i];
        struct sim_fd *entry = &ring->sim->fds[queued->fd - MIDGE_SIM_FD_FIRST];

        if (entry->kind == SIM_FD_FREE || entry->generation != queued->generation) {
            /* Only a cancel may be queued behind the last event, and be late for its descriptor. */
            MIDGE_ASSERT(queued->kind == SIM_ENTRY_CANCEL);
            continue;
        }
        switch (queued->kind) {
        case SIM_ENTRY_INPUT:
            submit_op(&entry->input);
            break;
        case SIM_ENTRY_OUTPUT:
            submit_op(&entry->output);
            break;
        case SIM_ENTRY_SEND:
            submit_send(ring, queued->fd, entry);
            break;
        case SIM_ENTRY_CANCEL:
            submit_cancel(&entry->input);
            submit_cancel(&entry->output);
            break;
        }
    }
    ring->entry_count = 0;
}

static void entry_push(struct sim_ring *ring, enum sim_entry_kind kind, int fd)
{
    struct midge_sim *sim = ring->sim;

    if (ring->entry_count == ring->entry_cap) {
        const uint32_t cap = ring->entry_cap == 0 ? 64 : 2 * ring->entry_cap;
        struct sim_entry *entries = realloc(ring->entries, cap * sizeof(*entries));

        MIDGE_ASSERT(entries != NULL);
        ring->entries = entries;
        ring->entry_cap = cap;
    }
    ring->entries[ring->entry_count++] =
        (struct sim_entry){kind, fd, midge_sim_fd_get(sim, fd)->generation};
    midge_sim_trace(sim, 111, (uint64_t)kind, (uint64_t)fd);
    if (midge_sim_strikes(sim, sim->options.faults.early_submit, &sim->counts.early_submits))
        submit_all(ring);
}

static void arm(struct sim_ring *ring, int fd, struct sim_op *op, struct midge_handle handle,
                enum sim_entry_kind kind)
{
    /* Armed already: its last event was not taken yet. */
    MIDGE_ASSERT(op->state == SIM_OP_IDLE);
    op->state = SIM_OP_QUEUED;
    op->handle = handle;
    entry_push(ring, kind, fd);
}

static void note_fd(struct midge_sim *sim, enum midge_sim_note_kind kind,
                    const struct sim_fd *entry, struct midge_handle handle, int64_t res)
{
    const struct midge_sim_note note = {
        .kind = kind,
        .peer = entry->link == NULL ? SIM_NO_PEER : entry->link->peer,
        .res = res,
        .handle = handle,
        .now_ns = sim->now_ns,
    };

    midge_sim_tell(sim, &note);
}

static int sim_adopt(struct midge_ring *base, int fd, struct midge_handle handle)
{
    struct sim_ring *ring = sim_ring_of(base);
    struct midge_sim *sim = ring->sim;
    struct sim_fd *entry = midge_sim_fd_get(sim, fd);
    int res = 0;

    MIDGE_ASSERT(entry->kind == SIM_FD_STREAM);
    MIDGE_ASSERT(entry->ring == NULL);
    if (midge_sim_strikes(sim, sim->options.faults.adopt_error, &sim->counts.adopt_errors))
        res = -ENOMEM;
    else
        entry->ring = base;
    entry->on_its_way = entry->on_its_way && res != 0;
    note_fd(sim, MIDGE_SIM_ADOPTED, entry, handle, res);
    return res;
}

static void sim_accept(struct midge_ring *base, int listener_fd, struct midge_handle handle)
{
    struct sim_ring *ring = sim_ring_of(base);
    struct sim_fd *entry = midge_sim_fd_get(ring->sim, listener_fd);

    MIDGE_ASSERT(entry->kind == SIM_FD_LISTENER);
    MIDGE_ASSERT(entry->ring == NULL || entry->ring == base);
    entry->ring = base;
    arm(ring, listener_fd, &entry->input, handle, SIM_ENTRY_INPUT);
}

static void sim_recv(struct midge_ring *base, int fd, struct midge_handle handle)
{
    struct sim_ring *ring = sim_ring_of(base);
    struct sim_fd *entry = adopted_get(ring, fd);

    /* Re-armed before all events of the turn that ended it are handled. */
    MIDGE_ASSERT(!ring->draining || entry->input.idle_turn != ring->turn);
    arm(ring, fd, &entry->input, handle, SIM_ENTRY_INPUT);
}

static void sim_send(struct midge_ring *base, int fd, struct midge_handle handle,
                     const struct iovec *pieces, uint32_t piece_count)
{
    struct sim_ring *ring = sim_ring_of(base);
    struct sim_send *send = &adopted_get(ring, fd)->send;

    /* Two sends under way on one descriptor. */
    MIDGE_ASSERT(send->state == SIM_SEND_NONE);
    send->state = SIM_SEND_QUEUED;
    send->handle = handle;
    memcpy(send->pieces, pieces, piece_count * sizeof(*pieces));
    send->piece_count = piece_count;
    send->total = pieces_total(pieces, piece_count);
    send->checksum = pieces_checksum(pieces, piece_count);
    MIDGE_ASSERT(send->total != 0);
    entry_push(ring, SIM_ENTRY_SEND, fd);
}

/* Others may use the socket meanwhile for all but a send or a close, and must leave the bytes
 * alone.
 */
static int64_t sim_try_send(struct midge_ring *base, int fd, const struct iovec *pieces,
                            uint32_t piece_count)
{
    struct sim_ring *ring = sim_ring_of(base);
    struct midge_sim *sim = ring->sim;
    struct sim_fd *entry = midge_sim_fd_get(sim, fd);
    const uint64_t total = pieces_total(pieces, piece_count);
    const uint64_t checksum = pieces_checksum(pieces, piece_count);
    struct midge_sim_note note = {.kind = MIDGE_SIM_SETTLED};

    MIDGE_ASSERT(entry->kind == SIM_FD_STREAM);
    MIDGE_ASSERT(entry->ring != NULL || entry->on_its_way);
    MIDGE_ASSERT(total != 0);
    /* Two sends under way on one descriptor. */
    MIDGE_ASSERT(entry->send.state == SIM_SEND_NONE);
    entry->send.state = SIM_SEND_TRIED;
    sim->counts.try_sends++;

    pause_here(ring, MIDGE_SIM_PAUSE_SENDING);
    MIDGE_ASSERT(pieces_checksum(pieces, piece_count) == checksum);
    note.peer = entry->link->peer;
    note.res = link_send(sim, entry->link, pieces, piece_count);
    note.more = note.res < (int64_t)total;
    pause_here(ring, MIDGE_SIM_PAUSE_SENT);
    MIDGE_ASSERT(pieces_checksum(pieces, piece_count) == checksum);

    entry->send.state = SIM_SEND_NONE;
    note.now_ns = sim->now_ns;
    midge_sim_tell(sim, &note);
    return note.res;
}

static void sim_poll_out(struct midge_ring *base, int fd, struct midge_handle handle)
{
    struct sim_ring *ring = sim_ring_of(base);
    struct sim_fd *entry = adopted_get(ring, fd);

    arm(ring, fd, &entry->output, handle, SIM_ENTRY_OUTPUT);
}

static void sim_cancel(struct midge_ring *base, int fd, struct midge_handle handle)
{
    struct sim_ring *ring = sim_ring_of(base);
    const struct sim_fd *entry = midge_sim_fd_get(ring->sim, fd);

    MIDGE_ASSERT(entry->ring == base);
    note_fd(ring->sim, MIDGE_SIM_CANCELLED, entry, handle, 0);
    entry_push(ring, SIM_ENTRY_CANCEL, fd);
}

static void sim_shutdown(struct midge_ring *base, int fd, int how)
{
    struct sim_ring *ring = sim_ring_of(base);
    const struct sim_fd *entry = midge_sim_fd_get(ring->sim, fd);

    MIDGE_ASSERT(entry->kind == SIM_FD_STREAM);
    note_fd(ring->sim, MIDGE_SIM_SHUT, entry, NO_HANDLE, how);
    entry->link->ring_fin = true;
    if (how == SHUT_RDWR)
        entry->link->ring_deaf = true;
}

/* Closed or released before the last event of an operation was taken. */
static void assert_at_rest(const struct sim_fd *entry)
{
    MIDGE_ASSERT(entry->input.state == SIM_OP_IDLE);
    MIDGE_ASSERT(entry->output.state == SIM_OP_IDLE);
}

static void sim_release(struct midge_ring *base, int fd)
{
    struct sim_fd *entry = adopted_get(sim_ring_of(base), fd);

    assert_at_rest(entry);
    /* Another ring may be in a try_send: that needs no ring of the descriptor. */
    MIDGE_ASSERT(entry->send.state == SIM_SEND_NONE || entry->send.state == SIM_SEND_TRIED);
    note_fd(sim_ring_of(base)->sim, MIDGE_SIM_RELEASED, entry, NO_HANDLE, 0);
    entry->ring = NULL;
    entry->on_its_way = true;
}

static void sim_close(struct midge_ring *base, int fd)
{
    struct sim_ring *ring = sim_ring_of(base);
    const struct sim_fd *entry = midge_sim_fd_get(ring->sim, fd);

    assert_at_rest(entry);
    MIDGE_ASSERT(entry->send.state == SIM_SEND_NONE); /* closed under a send */
    note_fd(ring->sim, MIDGE_SIM_CLOSED, entry, NO_HANDLE, 0);
    midge_sim_fd_close(ring->sim, fd);
}

/* Give the bytes of the event taken last back: whoever still looks at them sees garbage, or is
 * caught. */
static void return_lent(struct sim_ring *ring)
{
    if (ring->lent == NULL)
        return;
    memset(ring->lent, SIM_POISON, ring->lent_len);
    free(ring->lent);
    ring->lent = NULL;
}

/* The world may complete operations of this ring. */
static void run_all(struct sim_ring *ring)
{
    struct midge_sim *sim = ring->sim;

    ring->turn++;
    sim->counts.turns++;
    sim->now_ns += midge_sim_random(sim) % SIM_TURN_NS_MAX;
    midge_sim_trace(sim, 112, ring->turn, ring->deadline_ns);
    submit_all(ring);
    for (uint32_t i = 0; i < sim->fd_high; i++) {
        struct sim_fd *entry = &sim->fds[i];

        if (entry->kind == SIM_FD_FREE || entry->ring != &ring->base)
            continue;
        run_input(ring, MIDGE_SIM_FD_FIRST + (int)i, entry);
        if (entry->kind == SIM_FD_STREAM)
            run_output(ring, MIDGE_SIM_FD_FIRST + (int)i, entry);
    }
}

/* True if a wait has a reason to return by now. */
static bool wait_is_over(const struct sim_ring *ring)
{
    if (ring->sim->now_ns >= ring->deadline_ns || midge_ring_bell_is_rung(&ring->base))
        return true;
    for (uint32_t i = 0; i < ring->event_count; i++)
        if (ring->events[i].release_turn <= ring->turn)
            return true;
    return false;
}

static void sim_wait(struct midge_ring *base, uint64_t deadline_ns, uint64_t spin_ns)
{
    struct sim_ring *ring = sim_ring_of(base);
    struct midge_sim *sim = ring->sim;

    (void)spin_ns;
    MIDGE_ASSERT(!ring->in_wait);
    return_lent(ring);
    pause_here(ring, MIDGE_SIM_PAUSE_WAIT);
    ring->draining = true;
    ring->in_wait = true;
    ring->deadline_ns = deadline_ns;
    run_all(ring);
    while (!wait_is_over(ring) && sim->sleep_cb != NULL &&
           !midge_sim_strikes(sim, sim->options.faults.early_wake, &sim->counts.early_wakes)) {
        if (!sim->sleep_cb(sim->sleep_context, base))
            break;
        run_all(ring);
    }
    ring->in_wait = false;
}

/* The turn is over: sends whose bytes were all taken count as done. */
static void settle_taken(struct sim_ring *ring)
{
    struct midge_sim *sim = ring->sim;

    for (uint32_t i = 0; i < sim->fd_high; i++) {
        struct sim_fd *entry = &sim->fds[i];

        if (entry->kind != SIM_FD_STREAM || entry->ring != &ring->base ||
            entry->send.state != SIM_SEND_TAKEN || entry->send.settle_turn > ring->turn)
            continue;
        check_lent(&entry->send);
        entry->send.state = SIM_SEND_NONE;
        note_fd(sim, MIDGE_SIM_SETTLED, entry, entry->send.handle, entry->send.res);
    }
    ring->draining = false;
}

/* Index of the event to show next, event_count if none may be shown: any that this turn shows, but
 * the first of its operation. */
static uint32_t event_choose(struct sim_ring *ring)
{
    uint32_t shown_count = 0;
    uint32_t chosen = ring->event_count;

    for (uint32_t i = 0; i < ring->event_count; i++) {
        if (ring->events[i].release_turn > ring->turn)
            continue;
        shown_count++;
        if (midge_sim_random(ring->sim) % shown_count == 0)
            chosen = i;
    }
    for (uint32_t i = 0; i < chosen && chosen < ring->event_count; i++)
        if (ring->events[i].fd == ring->events[chosen].fd &&
            ring->events[i].source == ring->events[chosen].source)
            return i;
    return chosen;
}

static void op_taken(struct sim_ring *ring, struct sim_op *op, bool more)
{
    if (more)
        return;
    MIDGE_ASSERT(op->state == SIM_OP_ENDED);
    op->state = SIM_OP_IDLE;
    op->idle_turn = ring->turn;
}

/* The ring's user sees an event: its operation is one further. */
static void event_taken(struct sim_ring *ring, const struct sim_event *taken)
{
    struct midge_sim *sim = ring->sim;
    struct sim_fd *entry = midge_sim_fd_get(sim, taken->fd);
    const struct midge_ring_event *event = &taken->event;
    const struct midge_sim_note note = {
        .kind = taken->source == SIM_ENTRY_SEND    ? MIDGE_SIM_SETTLED
                : event->kind == MIDGE_RING_ACCEPT ? MIDGE_SIM_ACCEPTED
                                                   : MIDGE_SIM_RECEIVED,
        .peer = taken->peer,
        .res = event->res,
        .more = event->more || taken->source == SIM_ENTRY_SEND,
        .handle = event->handle,
        .bytes = event->bytes,
        .now_ns = sim->now_ns,
    };

    if (taken->source == SIM_ENTRY_OUTPUT) {
        op_taken(ring, &entry->output, event->more);
        midge_sim_trace(sim, 113, taken->peer, (uint64_t)event->res);
        return;
    }
    if (taken->source == SIM_ENTRY_SEND) {
        check_lent(&entry->send);
        entry->send.state = SIM_SEND_NONE;
    } else {
        op_taken(ring, &entry->input, event->more);
    }
    if (event->res == -ECONNRESET && taken->source == SIM_ENTRY_INPUT)
        sim->counts.resets_seen++;
    sim->counts.joins += taken->joined;
    midge_sim_tell(sim, &note);
}

static bool sim_next(struct midge_ring *base, struct midge_ring_event *event_out)
{
    struct sim_ring *ring = sim_ring_of(base);

    MIDGE_ASSERT(!ring->in_wait);
    return_lent(ring);
    pause_here(ring, MIDGE_SIM_PAUSE_NEXT);

    const uint32_t index = event_choose(ring);

    if (index == ring->event_count) {
        settle_taken(ring);
        return false;
    }

    const struct sim_event taken = ring->events[index];

    ring->event_count--;
    memmove(&ring->events[index], &ring->events[index + 1],
            (ring->event_count - index) * sizeof(*ring->events));
    ring->lent = taken.bytes;
    ring->lent_len = taken.event.bytes.len;
    *event_out = taken.event;
    event_taken(ring, &taken);
    return true;
}

/* A simulated ring never sleeps inside a wait: the doorbell's word alone makes it ready. */
static void sim_wake(struct midge_ring *base)
{
    midge_sim_trace(sim_ring_of(base)->sim, 114, 0, 0);
}

static uint64_t sim_now_ns(struct midge_ring *base)
{
    return sim_ring_of(base)->sim->now_ns;
}

/* The share of the time, in thousandths, that something takes for a while. */
static uint64_t advance(struct midge_sim *sim, struct sim_share *share)
{
    static const uint16_t levels[] = {50, 300, 450, 650, 950};

    if (share->at_ns == 0 || midge_sim_random(sim) % 64 == 0)
        share->permille = levels[midge_sim_random(sim) % (sizeof(levels) / sizeof(levels[0]))];
    share->total_ns += (sim->now_ns - share->at_ns) * share->permille / 1000;
    share->at_ns = sim->now_ns;
    return share->total_ns;
}

static uint64_t sim_busy_ns(struct midge_ring *base)
{
    return advance(sim_ring_of(base)->sim, &sim_ring_of(base)->busy);
}

static uint64_t sim_idle_ns(struct midge_ring *base)
{
    return advance(sim_ring_of(base)->sim, &sim_ring_of(base)->sim->idle);
}

static int sim_peer(struct midge_ring *base, int fd, struct midge_ring_peer *peer_out)
{
    const struct sim_ring *ring = sim_ring_of(base);
    const struct sim_fd *entry = midge_sim_fd_get(ring->sim, fd);

    MIDGE_ASSERT(entry->kind == SIM_FD_STREAM);
    MIDGE_ASSERT(entry->link != NULL);

    const int res = entry->link->broken ? -ENOTCONN : 0;

    note_fd(ring->sim, MIDGE_SIM_NAMED, entry, NO_HANDLE, res);
    if (res != 0)
        return res;

    const uint32_t peer = entry->link->peer;

    memset(peer_out, 0, sizeof(*peer_out));
    (void)snprintf(peer_out->ip, sizeof(peer_out->ip), "10.%u.%u.%u", peer >> 16 & 255,
                   peer >> 8 & 255, peer & 255);
    peer_out->port = (uint16_t)(1024 + peer % 60000);
    return 0;
}

static void sim_destroy(struct midge_ring *base)
{
    struct sim_ring *ring = sim_ring_of(base);
    struct midge_sim *sim = ring->sim;

    return_lent(ring);
    for (uint32_t i = 0; i < sim->fd_high; i++) {
        struct sim_fd *entry = &sim->fds[i];

        if (entry->kind == SIM_FD_FREE || entry->ring != base)
            continue;
        /* A descriptor of this ring is open, or an operation has not ended. */
        MIDGE_ASSERT(entry->kind == SIM_FD_LISTENER);
        MIDGE_ASSERT(entry->input.state == SIM_OP_IDLE);
        entry->ring = NULL;
    }
    MIDGE_ASSERT(ring->event_count == 0);
    for (uint32_t i = 0; i < sim->ring_count; i++)
        if (sim->rings[i] == base)
            sim->rings[i] = sim->rings[--sim->ring_count];
    free(ring->entries);
    free(ring->events);
    free(ring);
}

static const struct midge_ring_ops SIM_OPS = {
    .kind = MIDGE_RING_KIND_SIM,
    .destroy = sim_destroy,
    .adopt = sim_adopt,
    .release = sim_release,
    .accept = sim_accept,
    .recv = sim_recv,
    .send = sim_send,
    .try_send = sim_try_send,
    .poll_out = sim_poll_out,
    .cancel = sim_cancel,
    .shutdown = sim_shutdown,
    .close = sim_close,
    .wait = sim_wait,
    .next = sim_next,
    .wake = sim_wake,
    .now_ns = sim_now_ns,
    .busy_ns = sim_busy_ns,
    .idle_ns = sim_idle_ns,
    .peer = sim_peer,
};

struct midge_ring *midge_sim_ring_create(struct midge_sim *sim,
                                         const struct midge_ring_options *options)
{
    struct sim_ring *ring = aligned_alloc(MIDGE_CACHE_LINE_LEN, sizeof(*ring));

    MIDGE_ASSERT(ring != NULL);
    MIDGE_ASSERT(sim->ring_count < MIDGE_SIM_RINGS_MAX);
    memset(ring, 0, sizeof(*ring));
    midge_ring_base_init(&ring->base, &SIM_OPS, midge_sim_random(sim));
    ring->sim = sim;
    ring->buffer_len = SIM_BUFFER_LEN;
    if (options != NULL && options->buffer_len != 0)
        ring->buffer_len = options->buffer_len;
    sim->rings[sim->ring_count++] = &ring->base;
    return &ring->base;
}

static bool input_is_ready(const struct midge_sim *sim, int fd, const struct sim_fd *entry)
{
    switch (entry->input.state) {
    case SIM_OP_IDLE:
    case SIM_OP_ENDED:
        return false;
    case SIM_OP_QUEUED:
    case SIM_OP_CANCELLED:
        return true;
    case SIM_OP_ACTIVE:
        if (entry->kind == SIM_FD_LISTENER)
            return midge_sim_listener_first(sim, fd) != NULL;
        return entry->link->up.len != 0 || input_is_over(entry->link);
    }
    return true;
}

static bool output_would_wake(const struct sim_fd *entry)
{
    switch (entry->output.state) {
    case SIM_OP_IDLE:
    case SIM_OP_ENDED:
        return false;
    case SIM_OP_QUEUED:
    case SIM_OP_CANCELLED:
        return true;
    case SIM_OP_ACTIVE:
        return output_is_ready(entry->link);
    }
    return true;
}

bool midge_sim_ring_is_ready(const struct midge_ring *base)
{
    const struct sim_ring *ring = sim_ring_of_const(base);
    const struct midge_sim *sim = ring->sim;

    if (ring->turn == 0 || ring->event_count != 0 || ring->entry_count != 0 ||
        sim->now_ns >= ring->deadline_ns || midge_ring_bell_is_rung(base))
        return true;
    for (uint32_t i = 0; i < sim->fd_high; i++) {
        const struct sim_fd *entry = &sim->fds[i];

        if (entry->kind == SIM_FD_FREE || entry->ring != base)
            continue;
        if (input_is_ready(sim, MIDGE_SIM_FD_FIRST + (int)i, entry) ||
            (entry->kind == SIM_FD_STREAM && output_would_wake(entry)))
            return true;
    }
    return false;
}

uint64_t midge_sim_deadline_ns(const struct midge_sim *sim)
{
    uint64_t deadline_ns = UINT64_MAX;

    for (uint32_t i = 0; i < sim->ring_count; i++) {
        const struct sim_ring *ring = sim_ring_of_const(sim->rings[i]);

        if (ring->deadline_ns < deadline_ns)
            deadline_ns = ring->deadline_ns;
    }
    return deadline_ns;
}
