/*
 * Goal: connection, outbox, dispatch and shard logic is right under every legal order of
 * completions and under faults.
 *
 * Method: for each seed a world (ring_sim.h) with random limits, faults and socket buffers, one to
 * four shards of the broker in it, and peers that follow a random script. Each shard has a stack of
 * its own and runs until it is left for another one: at the end of its turn, between two events,
 * while it sleeps, and in the middle of a send, when it holds the flush token of a connection and
 * no lock. The seed says who goes on; a shard may rest in the middle of a send for as long as all
 * others take to close and reopen.
 *
 * What happens at the I/O seam is recorded; a reference broker (reference.h) then says what must
 * have been sent to whom. While a shard sleeps it is checked that nothing waits for it which no
 * other shard is about to do or to ask for. At the end everything must be closed, free, and
 * accounted for.
 *
 *   test_sim_broker [--from S] [--seeds N]     seeds S .. S + N - 1
 *   test_sim_broker --seed S [--verbose]       one seed again, step by step
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include "broker.h"
#include "config.h"
#include "conn_internal.h"
#include "fiber.h"
#include "log.h"
#include "midge/ring_sim.h"
#include "reference.h"
#include "script.h"
#include "shard.h"

#define NS_PER_MS        1000000ull
#define SLOTS_MAX        (64u + MIDGE_CONN_SLOTS_EXTRA)
#define QUIET_TRIES      8u
#define SLICES_MAX       400000u /* in one phase */
#define STOP_STEPS_MAX   20000u
#define ACCEPT_RETRY_NS  (600 * NS_PER_MS)
#define SHOWN_BYTES      60u
#define REPEAT_EVERY     64u
#define SEEDS_FOR_ALL    500u
#define SEEDS_FOR_RARE   50000u
#define LEAK_CHECK_EVERY 32u

/* What happened, beyond the notes of the world. */
enum record_kind {
    RECORD_NOTE = 0,
    RECORD_PINGED,
    RECORD_CLOSE_SEEN, /* res = status */
    RECORD_REFUSED,
    RECORD_ARRIVED, /* from another shard; res as ADOPTED */
    RECORD_PURGED,
    RECORD_USED,      /* bytes_len = of what was handed before and kept; more = and then the end */
    RECORD_SLICE_END, /* res = peers with subscriptions that reached their max, as bits */
    RECORD_TURN_END,  /* res = turns of all shards so far */
    RECORD_QUIET,
    RECORD_STOP,
};

struct record {
    enum record_kind kind;
    enum midge_sim_note_kind note;
    uint32_t peer;
    int64_t res;
    bool more;
    uint32_t bytes_len;
    uint64_t bytes_off; /* in the arena */
    uint64_t appended;  /* REFUSED: bytes that the outbox ever took */
    uint32_t used_len;  /* RECEIVED: of the bytes, the others are kept */
    bool end_kept;      /* RECEIVED: the end, or the error */
    uint64_t now_ns;    /* as the shard knows it */
    uint64_t slice;
    uint32_t shard; /* that ran, or NOBODY */
};

/* What is known about a slot of the broker. */
struct slot {
    bool used;
    bool close_seen;
    bool refuse_seen;
    bool purged;
    bool input_over; /* the broker was told that the stream ended or broke */
    uint32_t peer;
    uint32_t generation;
    uint64_t rtt_start_ns;
};

#define SHARDS_MAX 4u
#define NOBODY     UINT32_MAX

static_assert(MIDGE_SCRIPT_PEERS_MAX <= 64, "peers as bits");

enum rest {
    REST_READY = 0, /* goes on whenever it is chosen */
    REST_ASLEEP,    /* in a wait that has no reason to end */
    REST_OVER,      /* has stopped */
};

/* Sends for one slot in one turn of a shard. */
struct turn_sends {
    uint64_t turn;
    uint32_t count;
};

struct own_shard {
    struct world *world;
    uint32_t index;
    struct midge_shard *shard;
    struct midge_fiber fiber;
    enum rest rest;
    bool stop_now; /* midge_shard_stop() between two turns, instead of broker.stopping */
    uint64_t turns;
    struct turn_sends sends[SLOTS_MAX];
};

/* What only several shards do; for runs that want to have seen all of it. */
struct shard_counts {
    uint64_t foreign_sends; /* results of sends for a connection of another shard: all taken */
    uint64_t foreign_short_sends; /* … some */
    uint64_t foreign_full_sends;  /* … -EAGAIN */
    uint64_t sends_on_the_way;    /* … for a connection between two shards */
    uint64_t arrivals;            /* connections of a shard that did not accept them */
    uint64_t flushed_under_token; /* slices in which an end waited for the token of another shard */
    uint64_t flush_requests;      /* slices at whose end an owner was asked for a flush */
    uint64_t expired_requests;    /* … to take subscriptions out, */
    uint64_t poll_requests;       /* … to wait for room, */
    uint64_t close_requests;      /* … to close */
    uint64_t in_flight_shared;    /* slices with a send in flight of an outbox that is shared */
    uint64_t asleep_in_turn;      /* slices at whose end one slept while another was in a turn */
    uint64_t told_drained;        /* slices at whose end publishers had been told by others */
    uint64_t kept;                /* what was received while a publisher was paused */
    uint64_t kept_more;           /* … behind such bytes */
    uint64_t used_partly;         /* it was paused anew before all of them were used */
    uint64_t ends_kept;           /* ends of streams behind such bytes */
    uint64_t last_sends;         /* the last ones of a turn for one outbox, with more behind them */
    uint64_t foreign_last_sends; /* … for a connection of another shard */
    /* Rare. */
    uint64_t foreign_errors;     /* results of foreign sends: an error that is not -EAGAIN */
    uint64_t closes_under_token; /* slices in which a close waited for the token of another shard,
                                    with no operation left under way */
};

struct world {
    uint64_t seed;
    uint64_t step;
    uint64_t step_count;
    uint64_t slice;
    uint64_t turn; /* turns of all shards */
    bool tries_stale;
    bool stops_directly;
    struct midge_sim *sim;
    struct midge_fiber fiber; /* of whoever chooses who goes on */
    struct own_shard shards[SHARDS_MAX];
    struct midge_ring *rings[SHARDS_MAX];
    uint32_t shard_count;
    uint32_t current;     /* runs, or NOBODY */
    uint32_t last;        /* ran last */
    uint32_t frozen;      /* is not chosen for a while, or NOBODY */
    uint32_t frozen_left; /* choices */
    uint16_t stickiness;  /* chance in 1/1000 that the one that ran last goes on */
    uint16_t switches[4]; /* chance in 1/1000 to be left at each place */
    uint16_t freezes;     /* chance in 1/1000 that somebody is frozen */
    int listener_fds[SHARDS_MAX];
    uint32_t listener_count;
    struct midge_config config;
    struct midge_log *log;
    struct midge_broker broker;
    struct midge_script script;
    struct slot slots[SLOTS_MAX];
    uint64_t expired_peers; /* in the index at the end of the last slice */
    uint32_t looked_at;     /* records, at that time */
    struct record *records;
    uint32_t record_count;
    uint32_t record_cap;
    uint8_t *arena;
    uint64_t arena_len;
    uint64_t arena_cap;
    struct midge_stats stats; /* of all shards, taken before they go */
    struct shard_counts counts;
    bool exact;
    bool memory_limited;
    char failure[1024];
};

static void fail(struct world *world, const char *what, uint32_t peer)
{
    if (world->failure[0] == '\0')
        (void)snprintf(world->failure, sizeof(world->failure), "%s (peer %u, slice %" PRIu64 ")",
                       what, peer, world->slice);
}

/* ---- records ---- */

static struct record *push_record(struct world *world, enum record_kind kind, uint32_t peer)
{
    struct record *record;

    if (world->record_count == world->record_cap) {
        const uint32_t cap = world->record_cap == 0 ? 4096 : 2 * world->record_cap;
        struct record *records = realloc(world->records, cap * sizeof(*records));

        MIDGE_ASSERT(records != NULL);
        world->records = records;
        world->record_cap = cap;
    }
    record = &world->records[world->record_count++];
    *record = (struct record){
        .kind = kind,
        .peer = peer,
        .slice = world->slice,
        .shard = world->current,
        .now_ns = world->current == NOBODY ? midge_sim_now_ns(world->sim)
                                           : world->shards[world->current].shard->now_ns,
    };
    return record;
}

static uint64_t keep_bytes(struct world *world, struct midge_slice bytes)
{
    const uint64_t off = world->arena_len;

    if (off + bytes.len > world->arena_cap) {
        const uint64_t cap = 2 * (off + bytes.len) + 65536;
        uint8_t *arena = realloc(world->arena, cap);

        MIDGE_ASSERT(arena != NULL);
        world->arena = arena;
        world->arena_cap = cap;
    }
    if (bytes.len != 0)
        memcpy(world->arena + off, bytes.base, bytes.len);
    world->arena_len += bytes.len;
    return off;
}

/* So many sends of one outbox were made in this turn that what is behind them is left to the next
 * one. Called before the broker has settled the send. */
static bool is_last_send(struct world *world, uint32_t slot_index,
                         const struct midge_sim_note *note)
{
    const struct midge_conn *conn = &world->broker.conns[slot_index];
    struct own_shard *own = &world->shards[world->current];
    struct turn_sends *sends = &own->sends[slot_index];

    if (sends->turn != own->turns)
        *sends = (struct turn_sends){.turn = own->turns};
    sends->count++;
    return sends->count == world->broker.sends_per_flush && conn->outbox.shared &&
           !conn->outbox.closing && note->res > 0 && !note->more &&
           conn->outbox.pending_bytes > (uint64_t)note->res;
}

static void count_send(struct world *world, const struct midge_sim_note *note)
{
    struct shard_counts *counts = &world->counts;

    for (uint32_t i = 0; i < midge_broker_slot_high(&world->broker); i++) {
        const struct midge_shard *owner = midge_conn_owner(&world->broker.conns[i]);
        bool last;

        if (!world->slots[i].used || world->slots[i].peer != note->peer)
            continue;
        if (world->broker.conns[i].outbox.owner_sends &&
            (owner == NULL || owner->index != world->current))
            fail(world, "sent by another shard than the owner", note->peer);
        if (owner == NULL) {
            counts->sends_on_the_way++;
            continue;
        }
        last = is_last_send(world, i, note);
        if (owner->index == world->current) {
            counts->last_sends += last;
            continue;
        }
        counts->foreign_last_sends += last;
        if (note->res == -EAGAIN)
            counts->foreign_full_sends++;
        else if (note->res < 0)
            counts->foreign_errors++;
        else if (note->more)
            counts->foreign_short_sends++;
        else
            counts->foreign_sends++;
    }
}

static void on_note(void *context, const struct midge_sim_note *note)
{
    struct world *world = context;
    struct record *record;
    struct slot *slot;

    if (note->peer == UINT32_MAX)
        return;
    record = push_record(world, RECORD_NOTE, note->peer);
    record->note = note->kind;
    record->res = note->res;
    record->more = note->more;
    record->bytes_len = note->bytes.len;
    record->bytes_off = keep_bytes(world, note->bytes);
    record->used_len = note->bytes.len;
    if (note->kind == MIDGE_SIM_SETTLED && world->shard_count > 1)
        count_send(world, note);
    if (note->kind == MIDGE_SIM_RECEIVED && note->res <= 0 && note->res != -ENOBUFS &&
        note->res != -ECANCELED)
        world->slots[note->handle.index].input_over = true;
    if (note->kind != MIDGE_SIM_ADOPTED)
        return;
    MIDGE_ASSERT(note->handle.index < SLOTS_MAX);
    slot = &world->slots[note->handle.index];
    if (slot->used && slot->generation == note->handle.generation) {
        record->kind = RECORD_ARRIVED;
        return;
    }
    *slot = (struct slot){.used = true, .peer = note->peer, .generation = note->handle.generation};
    if (world->shard_count > 1 && midge_sim_random_below(world->sim, 8) == 0)
        world->broker.conns[note->handle.index].outbox.owner_sends = true;
    world->counts.arrivals += world->broker.spread && world->current != 0;
}

/* ---- what the broker looks like from inside ---- */

static bool is_free_of(const struct midge_conn *conn, const struct slot *slot)
{
    return conn->generation != slot->generation || conn->state == MIDGE_CONN_FREE ||
           conn->state == MIDGE_CONN_RESTING;
}

static void look_at_slot(struct world *world, const struct midge_conn *conn, struct slot *slot)
{
    struct record *record;

    if (conn->generation == slot->generation && conn->rtt_start_ns != slot->rtt_start_ns) {
        slot->rtt_start_ns = conn->rtt_start_ns;
        push_record(world, RECORD_PINGED, slot->peer)->res = conn->pings_out;
    }
    if (!slot->close_seen && conn->state != MIDGE_CONN_OPEN) {
        slot->close_seen = true;
        push_record(world, RECORD_CLOSE_SEEN, slot->peer)->res = conn->close_status;
    }
    if (!slot->refuse_seen && conn->outbox.closing) {
        slot->refuse_seen = true;
        record = push_record(world, RECORD_REFUSED, slot->peer);
        record->appended = conn->outbox.appended_bytes;
    }
    if (!slot->purged && is_free_of(conn, slot)) {
        slot->purged = true;
        slot->used = false;
        (void)push_record(world, RECORD_PURGED, slot->peer);
    }
}

static void count_requests(struct world *world, const struct midge_conn *conn)
{
    const struct midge_outbox *outbox = &conn->outbox;
    struct shard_counts *counts = &world->counts;

    if (midge_conn_owner(conn) == NULL || midge_conn_owner(conn)->index == world->current)
        return;
    counts->flush_requests += (outbox->requests & MIDGE_REQUEST_FLUSH) != 0;
    counts->expired_requests += (outbox->requests & MIDGE_REQUEST_EXPIRED) != 0;
    counts->poll_requests += (outbox->requests & MIDGE_REQUEST_POLL_OUT) != 0;
    counts->close_requests += (outbox->requests & MIDGE_REQUEST_CLOSE) != 0;
    counts->in_flight_shared += outbox->in_flight && outbox->shared;
    if (conn->send_submitted || outbox->flush_shard == MIDGE_FLUSH_FREE)
        return;
    counts->flushed_under_token += conn->state == MIDGE_CONN_FLUSHING;
    counts->closes_under_token +=
        conn->state == MIDGE_CONN_CLOSING && !conn->recv_armed && !conn->poll_armed;
}

/* The end of a slice: what timers did, what is closing, what has left the index. */
static void end_slice(struct world *world)
{
    uint64_t expired_peers = 0;

    for (uint32_t i = 0; i < midge_broker_slot_high(&world->broker); i++) {
        const struct midge_conn *conn = &world->broker.conns[i];
        struct slot *slot = &world->slots[i];

        if (!slot->used)
            continue;
        look_at_slot(world, conn, slot);
        if (conn->expired != NULL)
            expired_peers |= 1ull << slot->peer;
        if (world->shard_count > 1)
            count_requests(world, conn);
    }
    if (world->record_count != world->looked_at || world->expired_peers != expired_peers)
        push_record(world, RECORD_SLICE_END, UINT32_MAX)->res = (int64_t)expired_peers;
    world->expired_peers = expired_peers;
    world->looked_at = world->record_count;
    world->slice++;
}

/* ---- what a paused connection does with what it has received ---- */

void __real_midge_conn_on_event(struct midge_shard *shard, struct midge_conn *conn,
                                const struct midge_ring_event *event);
void __wrap_midge_conn_on_event(struct midge_shard *shard, struct midge_conn *conn,
                                const struct midge_ring_event *event);
void __real_midge_conn_use_backlog(struct midge_shard *shard, struct midge_conn *conn);
void __wrap_midge_conn_use_backlog(struct midge_shard *shard, struct midge_conn *conn);

static struct world *world_of(struct midge_shard *shard)
{
    return (struct world *)(void *)((uint8_t *)shard->broker - offsetof(struct world, broker));
}

static uint32_t backlog_len(const struct midge_conn *conn)
{
    return conn->backlog != NULL ? conn->backlog->len - conn->backlog->off : 0;
}

static enum midge_status backlog_end(const struct midge_conn *conn)
{
    return conn->backlog != NULL ? conn->backlog->end : MIDGE_OK;
}

/* Note how much of the event was used: the record before is that of the event. */
void __wrap_midge_conn_on_event(struct midge_shard *shard, struct midge_conn *conn,
                                const struct midge_ring_event *event)
{
    struct world *world = world_of(shard);
    const uint32_t at = world->record_count - 1;
    const uint32_t before = backlog_len(conn);
    const uint64_t in_ops = conn->in_ops;
    const bool paused = conn->paused;
    struct record *record;
    uint32_t kept;

    __real_midge_conn_on_event(shard, conn, event);
    if (event->kind != MIDGE_RING_RECV)
        return;
    record = &world->records[at];
    MIDGE_ASSERT(record->kind == RECORD_NOTE && record->note == MIDGE_SIM_RECEIVED);
    if (paused && conn->in_ops != in_ops)
        fail(world, "a publisher goes on though it is paused", record->peer);
    if (conn->state != MIDGE_CONN_OPEN)
        return;
    record->end_kept = backlog_end(conn) != MIDGE_OK;
    world->counts.ends_kept += record->end_kept;
    kept = backlog_len(conn) - before;
    if (kept > record->bytes_len || (kept > 0 && !conn->paused))
        fail(world, "bytes are kept for no reason", record->peer);
    record->used_len = record->bytes_len - kept;
    world->counts.kept += kept > 0;
    world->counts.kept_more += kept > 0 && before > 0;
}

void __wrap_midge_conn_use_backlog(struct midge_shard *shard, struct midge_conn *conn)
{
    struct world *world = world_of(shard);
    const uint32_t before = backlog_len(conn);
    const bool end = backlog_end(conn) != MIDGE_OK;
    const bool open = conn->state == MIDGE_CONN_OPEN;
    struct record *record;
    uint32_t at;

    /* What timers did comes before. */
    end_slice(world);
    at = world->record_count;
    (void)push_record(world, RECORD_USED, world->slots[conn->index].peer);
    __real_midge_conn_use_backlog(shard, conn);
    record = &world->records[at];
    record->bytes_len = open ? before - backlog_len(conn) : 0;
    record->more = end && conn->backlog == NULL;
    world->counts.used_partly += conn->backlog != NULL;
}

/* ---- nothing may be left to do for one that sleeps ---- */

/* A shard that is in the middle of a turn will ring the doorbell when it ends. */
static bool is_bell_due(const struct world *world, const struct own_shard *own)
{
    for (uint32_t i = 0; i < world->shard_count; i++)
        if (world->shards[i].rest == REST_READY && world->shards[i].shard->bells[own->index])
            return true;
    return false;
}

/* A shard that is in the middle of a turn will send, or give the token back and look. */
static bool is_flush_due(const struct world *world, const struct midge_conn *conn)
{
    for (uint32_t i = 0; i < world->shard_count; i++) {
        const struct midge_shard *shard = world->shards[i].shard;

        if (world->shards[i].rest == REST_READY &&
            (shard->dirty_turns[conn->index] == shard->turn ||
             conn->outbox.flush_shard == shard->index))
            return true;
    }
    return false;
}

static const char *why_not_asleep_closing(const struct midge_conn *conn, const struct slot *slot)
{
    if (conn->old_subs != NULL)
        return "asleep with dropped subscriptions to take out";
    switch (conn->state) {
    case MIDGE_CONN_FREE:
    case MIDGE_CONN_RESTING:
        break;
    case MIDGE_CONN_PURGING:
        return "asleep with subscriptions to take out";
    case MIDGE_CONN_CLOSING:
        if (!conn->recv_armed && !conn->poll_armed)
            return "asleep with a connection to close";
        break;
    case MIDGE_CONN_FLUSHING:
        if (conn->send_submitted && conn->outbox.pending_bytes == conn->send_asked)
            return "asleep with a connection that has sent what it owed";
        if (conn->outbox.pending_bytes == 0)
            return "asleep with a connection that owes nothing";
        /* Bytes that are not read when it is closed reset it, and what was sent last is lost. */
        if (!conn->recv_armed && !slot->input_over)
            return "asleep with a closing connection that is not read";
        break;
    case MIDGE_CONN_OPEN:
        if (!conn->recv_armed && !conn->paused)
            return "asleep with a connection that is not read";
        if (conn->expired != NULL)
            return "asleep with a subscription that reached its max";
        break;
    }
    return NULL;
}

static const char *why_not_asleep_output(const struct midge_conn *conn)
{
    const struct midge_outbox *outbox = &conn->outbox;

    if (outbox->requests != 0)
        return "asleep with a request";
    if (outbox->flush_shard != MIDGE_FLUSH_FREE && !outbox->in_flight)
        return "asleep with the token";
    if (conn->state != MIDGE_CONN_OPEN && conn->state != MIDGE_CONN_FLUSHING)
        return NULL;
    if (conn->send_submitted && outbox->pending_bytes > conn->send_asked)
        return "asleep with output behind a send that was taken";
    if (!conn->send_submitted && !conn->poll_armed && outbox->pending_bytes != 0)
        return "asleep with output";
    if (!conn->send_submitted && !outbox->blocked && outbox->pending_bytes != 0)
        return "asleep with output for which there is room";
    return NULL;
}

/* True if one of those that it waits for is below its mark, or gone: its owner tells when it closes
 * it. */
static bool may_publish(const struct world *world, const struct midge_pause *pause)
{
    for (uint32_t i = 0; i < pause->target_count; i++) {
        const struct midge_pause_target *target = &pause->targets[i];
        const struct midge_outbox *outbox = &world->broker.conns[target->index].outbox;

        if (outbox->generation != target->generation ||
            (outbox->closing && (outbox->requests & MIDGE_REQUEST_CLOSE) == 0) ||
            outbox->pending_bytes < target->mark_bytes)
            return true;
    }
    return false;
}

static void check_own(struct world *world, const struct own_shard *own)
{
    const struct midge_shard *shard = own->shard;

    if (shard->bells_wanted || shard->dirty.count != 0)
        fail(world, "asleep with a turn that is not over", UINT32_MAX);
    if (is_bell_due(world, own))
        return;
    if (atomic_load(&shard->inbox) != NULL || atomic_load(&shard->arrivals) != NULL ||
        atomic_load(&shard->drained))
        fail(world, "asleep though somebody has asked for something", UINT32_MAX);
    for (const struct midge_conn *conn = shard->paused; conn != NULL; conn = conn->next_paused)
        if (may_publish(world, conn->pause))
            fail(world, "asleep with a publisher that may go on", world->slots[conn->index].peer);
    for (uint32_t i = 0; i < shard->listener_count; i++)
        if (!shard->listeners[i].armed && shard->listeners[i].wants_arm &&
            (shard->accept_at_ns == UINT64_MAX || !atomic_load(&world->broker.accept_waits)))
            fail(world, "asleep with a listener that accepts nobody", UINT32_MAX);
}

static void check_conns(struct world *world, const struct own_shard *own)
{
    for (uint32_t i = 0; i < midge_broker_slot_high(&world->broker); i++) {
        const struct midge_conn *conn = &world->broker.conns[i];
        const struct slot *slot = &world->slots[i];
        const char *why;

        if (midge_conn_owner(conn) != own->shard)
            continue;
        why = why_not_asleep_output(conn);
        if (why == NULL)
            why = why_not_asleep_closing(conn, slot);
        if (why != NULL && !is_bell_due(world, own) && !is_flush_due(world, conn))
            fail(world, why, slot->peer);
    }
}

/* While a ring sleeps no event is due: nothing may be left to do for its shard without one, nor
 * without a doorbell that somebody is about to ring. */
static void check_sleep(struct world *world)
{
    for (uint32_t i = 0; i < world->shard_count; i++) {
        const struct own_shard *own = &world->shards[i];

        if (own->rest != REST_ASLEEP || midge_sim_ring_is_ready(world->rings[i]))
            continue;
        check_own(world, own);
        check_conns(world, own);
    }
}

static bool anyone_open(const struct world *world)
{
    for (uint32_t i = 0; i < midge_broker_slot_high(&world->broker); i++)
        if (world->broker.conns[i].state == MIDGE_CONN_OPEN)
            return true;
    return false;
}

/* ---- who goes on ---- */

static bool chance(struct world *world, uint16_t per_mille)
{
    return per_mille != 0 && midge_sim_random_below(world->sim, 1000) < per_mille;
}

/* Leave a shard where it is for a while. */
static void freeze(struct world *world, uint32_t index)
{
    world->frozen = index;
    world->frozen_left = 1 + (uint32_t)midge_sim_random_below(world->sim, 200);
}

/* The shard that runs is left; returns when it is chosen again. */
static void leave_shard(struct world *world)
{
    struct own_shard *own = &world->shards[world->current];

    world->current = NOBODY;
    midge_fiber_switch(&own->fiber, &world->fiber);
    MIDGE_ASSERT(world->current == own->index);
}

static void on_pause(void *context, struct midge_ring *ring, enum midge_sim_pause pause)
{
    struct world *world = context;

    const bool sends = pause == MIDGE_SIM_PAUSE_SENDING || pause == MIDGE_SIM_PAUSE_SENT;

    MIDGE_ASSERT(ring == world->rings[world->current]);
    end_slice(world);
    if (!chance(world, world->switches[pause]))
        return;
    /* Long enough for others to close what is sent to here, and more often than elsewhere. */
    if (sends && world->frozen == NOBODY && chance(world, 10 * world->freezes))
        freeze(world, world->current);
    leave_shard(world);
}

static bool on_sleep(void *context, struct midge_ring *ring)
{
    struct world *world = context;
    struct own_shard *own = &world->shards[world->current];

    MIDGE_ASSERT(ring == world->rings[world->current]);
    own->rest = REST_ASLEEP;
    leave_shard(world);
    own->rest = REST_READY;
    return true;
}

static void run_shard_cb(void *context)
{
    struct own_shard *own = context;
    struct world *world = own->world;

    /* As midge_shard_run(). */
    while (!midge_shard_is_idle(own->shard) ||
           atomic_load(&world->broker.stopped_count) < world->shard_count) {
        if (own->stop_now)
            midge_shard_stop(own->shard);
        midge_shard_turn(own->shard, true);
        end_slice(world);
        push_record(world, RECORD_TURN_END, UINT32_MAX)->res = (int64_t)world->turn;
        world->turn++;
        own->turns++;
    }
    midge_shard_leave(own->shard);
    own->rest = REST_OVER;
    world->current = NOBODY;
    midge_fiber_end(&own->fiber, &world->fiber);
}

/* One that has work, or may have. */
static bool may_go_on(const struct world *world, uint32_t index)
{
    const struct own_shard *own = &world->shards[index];

    return own->rest == REST_READY ||
           (own->rest == REST_ASLEEP && midge_sim_ring_is_ready(world->rings[index]));
}

/* @return NOBODY if all sleep */
static uint32_t choose_shard(struct world *world)
{
    uint32_t candidates[SHARDS_MAX];
    uint32_t count = 0;
    uint32_t others = 0;

    for (uint32_t i = 0; i < world->shard_count; i++)
        if (may_go_on(world, i))
            candidates[count++] = i;
    if (count == 0)
        return NOBODY;
    if (count == 1)
        return candidates[0];
    if (world->frozen == NOBODY && chance(world, world->freezes))
        freeze(world, candidates[midge_sim_random_below(world->sim, count)]);
    if (world->frozen != NOBODY && world->frozen_left-- == 0)
        world->frozen = NOBODY;
    for (uint32_t i = 0; i < count; i++)
        if (candidates[i] != world->frozen)
            candidates[others++] = candidates[i];
    for (uint32_t i = 0; i < others; i++)
        if (candidates[i] == world->last && chance(world, world->stickiness))
            return world->last;
    return candidates[midge_sim_random_below(world->sim, others)];
}

static void run_shard(struct world *world, uint32_t index)
{
    uint32_t asleep = 0;

    world->current = index;
    world->last = index;
    midge_fiber_switch(&world->fiber, &world->shards[index].fiber);
    for (uint32_t i = 0; i < world->shard_count; i++)
        asleep += world->shards[i].rest == REST_ASLEEP;
    world->counts.asleep_in_turn += asleep != 0 && asleep != world->shard_count;
    for (uint32_t i = 0; i < world->shard_count; i++)
        world->counts.told_drained += atomic_load(&world->shards[i].shard->drained);
    if (asleep != 0)
        check_sleep(world);
}

/* ---- phases ---- */

static bool goes_on(struct world *world, uint64_t first_slice, const char *otherwise)
{
    if (world->slice - first_slice > SLICES_MAX)
        fail(world, otherwise, UINT32_MAX);
    return world->failure[0] == '\0';
}

static void run_script(struct world *world)
{
    const uint64_t first_slice = world->slice;

    while (world->step < world->step_count &&
           goes_on(world, first_slice, "the script does not come to its end")) {
        const uint32_t index = choose_shard(world);

        if (index != NOBODY && midge_sim_random_below(world->sim, 2 + world->shard_count) != 0) {
            run_shard(world, index);
            continue;
        }
        world->step++;
        midge_script_step(&world->script);
    }
}

/* All sleep, and everybody has said and read what is left. */
static void run_to_rest(struct world *world)
{
    const uint64_t first_slice = world->slice;

    while (goes_on(world, first_slice, "the broker does not come to rest")) {
        const uint32_t index = choose_shard(world);

        if (index != NOBODY && midge_sim_random_below(world->sim, 4) != 0)
            run_shard(world, index);
        else if (!midge_script_drain(&world->script) && index == NOBODY)
            return;
    }
}

/* Then nothing may be owed to anybody. The clock is moved only so that accept is tried again, and
 * over the pause of publishers whose recipients do not drain. */
static void run_drain(struct world *world)
{
    for (uint32_t i = 0; i < QUIET_TRIES; i++) {
        run_to_rest(world);
        if (world->failure[0] != '\0')
            return;
        for (uint32_t k = 0; k < world->shard_count; k++)
            if (world->shards[k].shard->paused != NULL)
                fail(world, "a publisher is not read though nobody has output", UINT32_MAX);
        (void)push_record(world, RECORD_QUIET, UINT32_MAX);
        midge_sim_advance(world->sim, ACCEPT_RETRY_NS);
    }
}

/* Nobody answers: everybody must be found stale in time. */
static void run_stale(struct world *world)
{
    const uint64_t first_slice = world->slice;
    const uint64_t step_max = 4 * (world->config.ping_max + 4ull);
    uint64_t step = 0;

    while (anyone_open(world) &&
           goes_on(world, first_slice, "a silent connection is not found stale")) {
        const uint32_t index = choose_shard(world);

        if (index != NOBODY) {
            run_shard(world, index);
        } else if (midge_script_drain(&world->script)) {
            step = 0; /* somebody was let in, or sent something: the time begins anew */
        } else {
            midge_sim_advance(world->sim, world->config.ping_interval_ms * NS_PER_MS / 4);
            if (++step > step_max)
                fail(world, "a silent connection is not found stale", UINT32_MAX);
        }
    }
}

static bool all_over(const struct world *world)
{
    for (uint32_t i = 0; i < world->shard_count; i++)
        if (world->shards[i].rest != REST_OVER)
            return false;
    return true;
}

static void run_stop(struct world *world)
{
    const uint64_t first_slice = world->slice;
    uint32_t step = 0;

    (void)push_record(world, RECORD_STOP, UINT32_MAX);
    if (!world->stops_directly)
        atomic_store(&world->broker.stopping, true);
    for (uint32_t i = 0; i < world->shard_count; i++) {
        world->shards[i].stop_now = world->stops_directly;
        midge_ring_doorbell(world->rings[i]);
    }
    while (!all_over(world) && goes_on(world, first_slice, "the broker does not stop")) {
        const uint32_t index = choose_shard(world);

        if (index != NOBODY && midge_sim_random_below(world->sim, 4) != 0) {
            run_shard(world, index);
        } else if (!midge_script_drain(&world->script) && index == NOBODY) {
            midge_sim_advance(world->sim, 10 * NS_PER_MS);
            if (++step > STOP_STEPS_MAX)
                fail(world, "asleep though it is to stop", UINT32_MAX);
        }
    }
}

/* ---- set-up ---- */

static uint64_t pick(struct midge_sim *sim, const uint64_t *values, uint32_t count)
{
    return values[midge_sim_random_below(sim, count)];
}

#define PICK(sim, ...)                                                                             \
    pick(sim, (const uint64_t[]){__VA_ARGS__},                                                     \
         sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void choose_faults(struct midge_sim *sim)
{
    const uint64_t harshness = PICK(sim, 0, 20, 100, 300);
    uint16_t chances[11];
    struct midge_sim_faults faults;

    for (uint32_t i = 0; i < 11; i++)
        chances[i] = (uint16_t)midge_sim_random_below(sim, harshness + 1);
    faults = (struct midge_sim_faults){
        .delay = chances[0],
        .hold = chances[1],
        .split = chances[2],
        .disarm = chances[3],
        .no_buffers = chances[4],
        .short_send = chances[5],
        .send_again = chances[6],
        .accept_error = chances[7],
        .cancel_race = (uint16_t)(2 * chances[8]),
        .early_submit = chances[9],
        .early_wake = chances[10],
        .adopt_error = chances[0] / 8,
    };
    midge_sim_set_faults(sim, &faults);
}

/* How many shards, and how they take turns. */
static void choose_shards(struct world *world)
{
    struct midge_sim *sim = world->sim;

    world->current = NOBODY;
    world->last = NOBODY;
    world->frozen = NOBODY;
    world->shard_count = (uint32_t)PICK(sim, 1, 1, 1, 2, 3, 4);
    world->stops_directly = midge_sim_random_below(sim, 4) == 0;
    /* A shard that spins for others would never let them go on. */
    world->switches[MIDGE_SIM_PAUSE_WAIT] = 1000;
    if (world->shard_count == 1)
        return;
    world->switches[MIDGE_SIM_PAUSE_NEXT] = (uint16_t)PICK(sim, 0, 50, 500);
    world->switches[MIDGE_SIM_PAUSE_SENDING] = (uint16_t)PICK(sim, 0, 200, 800);
    world->switches[MIDGE_SIM_PAUSE_SENT] = (uint16_t)PICK(sim, 0, 200, 800);
    world->stickiness = (uint16_t)PICK(sim, 0, 500, 950);
    world->freezes = (uint16_t)PICK(sim, 0, 5, 20);
}

static void choose_config(struct world *world)
{
    struct midge_sim *sim = world->sim;
    struct midge_config *config = &world->config;

    midge_config_init(config);
    config->log_file = strdup("/dev/null");
    config->trace = midge_sim_random_below(sim, 16) == 0;
    config->debug = config->trace;
    config->connections_max = (uint32_t)PICK(sim, 3, 12, 64);
    config->subs_max = (uint32_t)PICK(sim, 0, 0, 0, 3, 10);
    config->sub_tokens_max = (uint32_t)PICK(sim, 0, 0, 0, 4);
    config->control_line_len_max = (uint32_t)PICK(sim, 4096, 4096, 300);
    config->payload_len_max = (uint32_t)PICK(sim, 2000, 20000, 20000, 60000);
    config->pending_bytes_max = PICK(sim, MIDGE_PENDING_DEFAULT, 1 << 20, 100000, 2, 1) * 1ull;
    if (config->pending_bytes_max <= 2)
        config->pending_bytes_max = config->payload_len_max * config->pending_bytes_max + 1000;
    config->memory_bytes_max = 1ull << 40;
    world->memory_limited = midge_sim_random_below(sim, 8) == 0;
    if (world->memory_limited)
        config->memory_bytes_max = PICK(sim, 1 << 20, 600000, 2 << 20);
    config->ping_interval_ms = PICK(sim, 120000, 120000, 3000, 200);
    config->ping_max = (uint32_t)PICK(sim, 1, 2, 2, 4);
    config->write_deadline_ms = PICK(sim, 10000, 2000, 100);
    config->auth_timeout_ms = PICK(sim, 2000, 200);
    config->no_fast_producer_stall = midge_sim_random_below(sim, 4) == 0;
    if (world->shard_count > 1)
        config->move_turns = (uint32_t)PICK(sim, 0, 0, 1, 10);
    config->no_header_support = midge_sim_random_below(sim, 16) == 0;
    if (midge_sim_random_below(sim, 5) == 0) {
        config->user = strdup("sim");
        config->pass = strdup("secret");
    }
}

static void set_up_script(struct world *world)
{
    const struct midge_script_options options = {
        .peers_max = 2 + (uint32_t)midge_sim_random_below(world->sim, 9),
        .payload_len_max = world->config.payload_len_max,
        .control_line_len_max = world->config.control_line_len_max,
        .jump_ns = PICK(world->sim, 300, 4000, 20000) * NS_PER_MS,
        .login = world->config.user != NULL,
        .polite = midge_sim_random_below(world->sim, 3) == 0,
        .leave_rate = (uint32_t)PICK(world->sim, 5, 5, 30),
    };

    midge_script_init(&world->script, world->sim, world->rings, world->shard_count,
                      world->listener_fds, world->listener_count, &options);
}

/* One listener and an owner that spreads what it accepts, one and shards that look at their load,
 * or a listener for each. */
static void set_up_shards(struct world *world)
{
    const struct midge_ring_options options = {
        .buffer_len = (uint32_t)PICK(world->sim, 16384, 16384, 512, 64)};

    world->broker.shard_count = world->shard_count;
    world->broker.spread = world->shard_count > 1 && midge_sim_random_below(world->sim, 3) != 0;
    world->broker.hand_over_min = (uint32_t)PICK(world->sim, 0, 1, 2, MIDGE_HAND_OVER_MIN);
    world->broker.sends_per_flush = (uint32_t)PICK(world->sim, 1, 2, MIDGE_SENDS_PER_FLUSH);
    if (world->shard_count > 1 && !world->broker.spread &&
        midge_sim_random_below(world->sim, 2) == 0)
        world->broker.look_ns = PICK(world->sim, NS_PER_MS / 10, NS_PER_MS, 10 * NS_PER_MS);
    world->listener_count =
        world->broker.spread || world->broker.look_ns != 0 ? 1 : world->shard_count;
    for (uint32_t i = 0; i < world->shard_count; i++) {
        struct own_shard *own = &world->shards[i];
        struct midge_ring *ring = midge_sim_ring_create(world->sim, &options);

        world->rings[i] = ring;
        *own = (struct own_shard){.world = world, .index = i};
        own->shard = midge_shard_create(&world->broker, (uint16_t)i, &ring);
        MIDGE_ASSERT(own->shard != NULL);
        midge_fiber_init(&own->fiber, own, run_shard_cb);
    }
    for (uint32_t i = 0; i < world->listener_count; i++) {
        world->listener_fds[i] = midge_sim_listen(world->sim);
        midge_shard_add_listener(world->shards[i].shard, world->listener_fds[i]);
    }
}

static void set_up(struct world *world, uint64_t seed)
{
    struct midge_sim_options options = {.seed = seed};

    memset(world, 0, sizeof(*world));
    world->seed = seed;
    /* Sizes of the world come from the seed as well, before there is a world to draw them from. */
    options.fd_count_max = seed % 5 == 0 ? 3 + (uint32_t)(seed / 5 % 9) : 0;
    options.up_cap = (uint32_t[]){65536, 3000, 300, 20000}[seed / 2 % 4];
    options.down_cap = (uint32_t[]){65536, 600, 5000, 200000}[seed / 3 % 4];
    world->sim = midge_sim_create(&options);
    choose_faults(world->sim);
    choose_shards(world);
    choose_config(world);
    if (options.fd_count_max != 0 && options.fd_count_max < world->shard_count + 2)
        world->shard_count = 1;
    midge_sim_observe(world->sim, world, on_note);
    MIDGE_ASSERT(midge_log_create(&world->config, &world->log) == MIDGE_OK);
    MIDGE_ASSERT(midge_broker_init(&world->broker, &world->config, world->log, seed) == MIDGE_OK);
    (void)snprintf(world->broker.info_host, sizeof(world->broker.info_host), "127.0.0.1");
    world->broker.info_port = 4222;
    midge_fiber_init_main(&world->fiber);
    set_up_shards(world);
    set_up_script(world);
    world->step_count = 200 + midge_sim_random_below(world->sim, 600);
    world->tries_stale = midge_sim_random_below(world->sim, 4) == 0;
    midge_sim_let_sleep(world->sim, world, on_sleep);
    midge_sim_let_pause(world->sim, world, on_pause);
}

/* Everything must be free by now. */
static void check_free(struct world *world)
{
    struct midge_subindex_counts counts;
    uint32_t load = 0;
    int64_t bytes = 0;

    for (uint32_t i = 0; i < world->shard_count; i++) {
        const struct midge_spares *spares = &world->shards[i].shard->spares;

        load += atomic_load(&world->shards[i].shard->load);
        if (!midge_shard_is_idle(world->shards[i].shard))
            fail(world, "a shard is not idle", UINT32_MAX);
        /* A block may be freed into the pool of another shard than it came from. */
        bytes += midge_pool_held_bytes(&world->shards[i].shard->pool);
        bytes -= spares->small != NULL ? spares->small->block_cap : 0;
        bytes -= spares->large != NULL ? spares->large->block_cap : 0;
        bytes -= spares->view != NULL ? spares->view->block_cap : 0;
    }
    if (bytes != 0)
        fail(world, "memory of the pools is still held", UINT32_MAX);
    midge_subindex_counts(world->broker.index, &counts);
    if (counts.subs != 0 || counts.records != 0 || counts.nodes != 0)
        fail(world, "the index is not empty", UINT32_MAX);
    if (midge_sim_open_fd_count(world->sim) != world->listener_count)
        fail(world, "a descriptor is still open", UINT32_MAX);
    if (atomic_load(&world->broker.connection_count) != 0)
        fail(world, "the count of connections is not 0", UINT32_MAX);
    if (load != 0)
        fail(world, "the load of the shards is not 0", UINT32_MAX);
    if (atomic_load(&world->broker.memory_picking))
        fail(world, "a connection is still being closed for its memory", UINT32_MAX);
}

static void tear_down(struct world *world)
{
    midge_sim_let_sleep(world->sim, NULL, NULL);
    midge_sim_let_pause(world->sim, NULL, NULL);
    for (uint32_t i = 0; i < world->listener_count; i++)
        midge_ring_close(world->rings[i], world->listener_fds[i]);
    for (uint32_t i = 0; i < world->shard_count; i++) {
        midge_shard_destroy(world->shards[i].shard);
        midge_fiber_deinit(&world->shards[i].fiber);
    }
    midge_broker_deinit(&world->broker);
    midge_log_destroy(world->log);
    midge_script_deinit(&world->script);
    midge_config_deinit(&world->config);
    midge_sim_destroy(world->sim);
}

/* ---- the verdict ---- */

static void show_bytes(const struct world *world, const struct record *record)
{
    const uint32_t len = record->bytes_len < SHOWN_BYTES ? record->bytes_len : SHOWN_BYTES;

    if (len == 0)
        return;
    (void)printf(" \"");
    for (uint32_t i = 0; i < len; i++) {
        const uint8_t byte = world->arena[record->bytes_off + i];

        if (byte == '\n')
            (void)printf("\\n");
        else if (byte == '\r')
            (void)printf("\\r");
        else if (byte < ' ' || byte > '~')
            (void)printf("\\x%02x", byte);
        else
            (void)printf("%c", byte);
    }
    (void)printf(record->bytes_len > len ? "...\"" : "\"");
}

static void show_record(const struct world *world, const struct record *record)
{
    static const char *const notes[] = {"accepted", "named",     "adopted", "received", "sent",
                                        "settled",  "cancelled", "shut",    "closed",   "released"};
    static const char *const kinds[] = {"",         "pinged", "close seen", "refused",
                                        "arrived",  "purged", "used",       "slice end",
                                        "turn end", "quiet",  "stop"};

    if (record->kind == RECORD_SLICE_END)
        return;
    (void)printf("%6" PRIu64 " %c %12.6f  ", record->slice,
                 record->shard == NOBODY ? '-' : (char)('0' + record->shard),
                 (double)record->now_ns / 1e9);
    if (record->kind == RECORD_USED)
        (void)printf("peer %-2u used       %u%s", record->peer, record->bytes_len,
                     record->more ? " and the end" : "");
    else if (record->peer == UINT32_MAX)
        (void)printf("%s", kinds[record->kind]);
    else
        (void)printf("peer %-2u %-10s %" PRId64 "%s", record->peer,
                     record->kind == RECORD_NOTE ? notes[record->note] : kinds[record->kind],
                     record->res, record->more ? " more" : "");
    if (record->kind == RECORD_CLOSE_SEEN)
        (void)printf(" %s", midge_status_name((enum midge_status)record->res));
    if (record->kind == RECORD_NOTE)
        show_bytes(world, record);
    (void)printf("\n");
}

/* What a peer has sent and the broker has not used. */
struct kept {
    uint8_t *bytes; /* owned */
    uint32_t len;
    int end; /* behind them, as in the event */
};

/* From one record to the next. */
struct replay {
    bool named;
    struct kept kept[MIDGE_SCRIPT_PEERS_MAX];
};

/* The first `len` bytes are used. */
static void drop_kept(struct kept *kept, uint32_t len)
{
    kept->len -= len;
    memmove(kept->bytes, kept->bytes + len, kept->len);
}

static bool replay_receive(struct midge_ref *ref, const struct world *world,
                           const struct record *record, struct kept *kept)
{
    bool good;

    if (record->end_kept) {
        kept->end = (int)record->res;
        return true;
    }
    if (record->res <= 0)
        return midge_ref_receive_end(ref, record->peer, (int)record->res, record->now_ns);
    kept->bytes = realloc(kept->bytes, kept->len + record->bytes_len);
    MIDGE_ASSERT(kept->bytes != NULL);
    memcpy(kept->bytes + kept->len, world->arena + record->bytes_off, record->bytes_len);
    kept->len += record->bytes_len;
    MIDGE_ASSERT(record->used_len <= kept->len);
    good = midge_ref_receive(ref, record->peer, midge_slice_make(kept->bytes, record->used_len),
                             record->now_ns);
    drop_kept(kept, record->used_len);
    return good;
}

static bool replay_used(struct midge_ref *ref, const struct record *record, struct kept *kept)
{
    MIDGE_ASSERT(record->bytes_len <= kept->len);
    if (!midge_ref_receive_kept(ref, record->peer, midge_slice_make(kept->bytes, record->bytes_len),
                                record->now_ns))
        return false;
    drop_kept(kept, record->bytes_len);
    return !record->more || midge_ref_receive_end(ref, record->peer, kept->end, record->now_ns);
}

/* Give one note to the reference. */
static bool replay_note(struct midge_ref *ref, const struct world *world,
                        const struct record *record, struct replay *replay)
{
    switch (record->note) {
    case MIDGE_SIM_ACCEPTED:
    case MIDGE_SIM_CANCELLED:
        return true;
    case MIDGE_SIM_NAMED:
        replay->named = record->res == 0;
        return true;
    case MIDGE_SIM_ADOPTED:
        return midge_ref_open(ref, record->peer, replay->named, record->res == 0, record->now_ns);
    case MIDGE_SIM_RECEIVED:
        return replay_receive(ref, world, record, &replay->kept[record->peer]);
    case MIDGE_SIM_SENT:
        midge_ref_sent(ref, record->peer, record->bytes_len);
        return true;
    case MIDGE_SIM_SETTLED:
        return midge_ref_settled(ref, record->peer, record->res, record->more, record->now_ns);
    case MIDGE_SIM_SHUT:
        return midge_ref_shut(ref, record->peer, record->now_ns);
    case MIDGE_SIM_CLOSED:
        return midge_ref_closed(ref, record->peer);
    case MIDGE_SIM_RELEASED:
        midge_ref_left(ref, record->peer);
        return true;
    }
    return true;
}

static bool replay_record(struct midge_ref *ref, const struct world *world,
                          const struct record *record, struct replay *replay)
{
    midge_ref_at(ref, record->slice, record->shard);
    switch (record->kind) {
    case RECORD_NOTE:
        return replay_note(ref, world, record, replay);
    case RECORD_PINGED:
        return midge_ref_pinged(ref, record->peer, (uint32_t)record->res, record->now_ns);
    case RECORD_CLOSE_SEEN:
        return midge_ref_close_seen(ref, record->peer, (enum midge_status)record->res,
                                    record->now_ns);
    case RECORD_REFUSED:
        return midge_ref_refused(ref, record->peer);
    case RECORD_ARRIVED:
        return midge_ref_arrived(ref, record->peer, record->res == 0, record->now_ns);
    case RECORD_PURGED:
        midge_ref_purged(ref, record->peer);
        return true;
    case RECORD_USED:
        return replay_used(ref, record, &replay->kept[record->peer]);
    case RECORD_SLICE_END:
        midge_ref_slice_end(ref, (uint64_t)record->res);
        return true;
    case RECORD_TURN_END:
        return midge_ref_turn_end(ref, record->now_ns);
    case RECORD_QUIET:
        return midge_ref_check_quiet(ref);
    case RECORD_STOP:
        midge_ref_stop(ref, record->now_ns);
        return true;
    }
    return true;
}

/* What was sent to each peer in the whole run, one after the other. */
static void give_outputs(struct midge_ref *ref, const struct world *world, uint8_t *outputs)
{
    struct output {
        uint8_t *start;
        uint32_t len;
        uint64_t end_slice;
        uint64_t end_appended;
    } peers[MIDGE_SCRIPT_PEERS_MAX];
    uint8_t *at = outputs;

    for (uint32_t i = 0; i < world->script.peer_count; i++)
        peers[i] = (struct output){.end_slice = UINT64_MAX, .end_appended = UINT64_MAX};
    for (uint32_t i = 0; i < world->record_count; i++) {
        const struct record *record = &world->records[i];

        if (record->kind == RECORD_NOTE && record->note == MIDGE_SIM_SENT)
            peers[record->peer].len += record->bytes_len;
        if (record->kind != RECORD_REFUSED)
            continue;
        peers[record->peer].end_slice = record->slice;
        peers[record->peer].end_appended = record->appended;
    }
    for (uint32_t i = 0; i < world->script.peer_count; i++) {
        peers[i].start = at;
        at += peers[i].len;
        midge_ref_set_output(ref, i, midge_slice_make(peers[i].start, peers[i].len),
                             peers[i].end_slice, peers[i].end_appended);
    }
    for (uint32_t i = 0; i < world->record_count; i++) {
        const struct record *record = &world->records[i];

        if (record->kind != RECORD_NOTE || record->note != MIDGE_SIM_SENT)
            continue;
        memcpy(peers[record->peer].start, world->arena + record->bytes_off, record->bytes_len);
        peers[record->peer].start += record->bytes_len;
    }
}

static void check_stats(struct world *world, const struct midge_ref_stats *want)
{
    const struct midge_stats *have = &world->stats;
    const uint64_t matched = midge_stats_read(&have->matched);
    const uint64_t out = midge_stats_read(&have->out_msgs);

#define CHECK_STAT(name)                                                                           \
    if (want->exact && world->failure[0] == '\0' && midge_stats_read(&have->name) != want->name)   \
        (void)snprintf(world->failure, sizeof(world->failure),                                     \
                       #name ": counted %" PRIu64 ", expected %" PRIu64,                           \
                       midge_stats_read(&have->name), want->name);
    MIDGE_REF_STATS_TABLE(CHECK_STAT)
#undef CHECK_STAT
    world->exact = want->exact;
    if (matched != out + midge_stats_read(&have->dropped_closing) +
                       midge_stats_read(&have->dropped_slow) +
                       midge_stats_read(&have->dropped_memory))
        fail(world, "matched is not appended + dropped", UINT32_MAX);
    if (out != midge_stats_read(&have->delivered) + midge_stats_read(&have->discarded))
        fail(world, "appended is not delivered + discarded", UINT32_MAX);
    if (midge_stats_read(&have->delivered) > want->delivered ||
        (!want->cut && midge_stats_read(&have->delivered) != want->delivered))
        fail(world, "deliveries handed to the kernel were miscounted", UINT32_MAX);
    if (midge_stats_read(&have->in_msgs) != want->in_msgs)
        fail(world, "messages received were miscounted", UINT32_MAX);
}

static void judge(struct world *world, bool verbose)
{
    const struct midge_config *config = &world->config;
    const struct midge_ref_options options = {
        .info = {.server_id = world->broker.server_id,
                 .server_name = world->broker.server_name,
                 .version = MIDGE_NATS_VERSION,
                 .midge = MIDGE_VERSION,
                 .host = world->broker.info_host,
                 .remote_account = "$G",
                 .max_payload = config->payload_len_max,
                 .port = world->broker.info_port,
                 .headers = !config->no_header_support,
                 .auth_required = config->user != NULL},
        .first_cid = 1,
        .pending_bytes_max = config->pending_bytes_max,
        .ping_interval_ns = config->ping_interval_ms * NS_PER_MS,
        .write_deadline_ns = config->write_deadline_ms * NS_PER_MS,
        .auth_timeout_ns = config->auth_timeout_ms * NS_PER_MS,
        .shard_count = world->shard_count,
        .memory_limited = world->memory_limited,
        .ping_max = config->ping_max,
        .connections_max = config->connections_max,
        .subs_max = config->subs_max,
        .sub_tokens_max = config->sub_tokens_max,
        .control_line_len_max = config->control_line_len_max,
        .payload_len_max = config->payload_len_max,
        .no_header_support = config->no_header_support,
        .user = config->user,
        .pass = config->pass,
    };
    struct midge_ref *ref = midge_ref_create(&options, world->script.peer_count);
    uint8_t *outputs = malloc(world->arena_len + 1);
    struct replay replay = {0};
    bool good = true;

    MIDGE_ASSERT(outputs != NULL);
    give_outputs(ref, world, outputs);
    for (uint32_t i = 0; i < world->record_count && good && !midge_ref_is_lost(ref); i++) {
        if (verbose)
            show_record(world, &world->records[i]);
        good = replay_record(ref, world, &world->records[i], &replay) ||
               midge_ref_failure(ref)[0] == '\0';
        if (!good && !verbose)
            show_record(world, &world->records[i]);
    }
    /* A world that has failed before its end is not judged beyond it. */
    if (good && world->failure[0] == '\0' && !midge_ref_is_lost(ref))
        good = midge_ref_check_end(ref);
    if (!good)
        (void)snprintf(world->failure, sizeof(world->failure), "%s", midge_ref_failure(ref));
    else if (world->failure[0] == '\0' && !midge_ref_is_lost(ref))
        check_stats(world, midge_ref_stats(ref));
    midge_ref_destroy(ref);
    for (uint32_t i = 0; i < MIDGE_SCRIPT_PEERS_MAX; i++)
        free(replay.kept[i].bytes);
    free(outputs);
}

/* How often things happened: the broker's counters by name, then the world's in their order. */
#define STATS_ONE(name, text) +1
#define STATS_COUNT           (0 MIDGE_STATS_TABLE(STATS_ONE))
#define WORLD_COUNT           (sizeof(struct midge_sim_counts) / sizeof(uint64_t))
#define SHARDS_COUNT          (sizeof(struct shard_counts) / sizeof(uint64_t))
#define RARE_COUNT            2u /* the last ones of them */

/* What a run tells the process that started it. */
struct result {
    bool good;
    bool exact; /* the counters were compared one by one */
    uint64_t hash;
    uint64_t stats[STATS_COUNT];
    union {
        struct midge_sim_counts counts;
        uint64_t words[WORLD_COUNT];
    } world;
    union {
        struct shard_counts counts;
        uint64_t words[SHARDS_COUNT];
    } shards;
};

static void sum_stats(struct world *world)
{
    for (uint32_t i = 0; i < world->shard_count; i++) {
        const struct midge_stats *stats = &world->shards[i].shard->stats;

#define SUM(name, text) midge_stats_add(&world->stats.name, midge_stats_read(&stats->name));
        MIDGE_STATS_TABLE(SUM)
#undef SUM
    }
}

static void run_seed(uint64_t seed, bool verbose, struct result *result)
{
    struct world *world = malloc(sizeof(*world));
    uint32_t at = 0;

    MIDGE_ASSERT(world != NULL);
    set_up(world, seed);
    run_script(world);
    midge_sim_set_faults(world->sim, &(struct midge_sim_faults){0});
    run_drain(world);
    if (world->tries_stale)
        run_stale(world);
    run_stop(world);
    result->hash = midge_sim_trace_hash(world->sim);
    midge_sim_counts(world->sim, &result->world.counts);
    if (world->failure[0] == '\0')
        check_free(world);
    sum_stats(world);
    result->shards.counts = world->counts;
#define TELL(name, text) result->stats[at++] = midge_stats_read(&world->stats.name);
    MIDGE_STATS_TABLE(TELL)
#undef TELL
    judge(world, verbose);
    result->exact = world->exact;
    result->good = world->failure[0] == '\0';
    if (!result->good) {
        (void)printf("seed %" PRIu64 ", step %" PRIu64 " of %" PRIu64
                     ", %u shards%s, slice %" PRIu64 ": %s\n",
                     seed, world->step, world->step_count, world->shard_count,
                     world->memory_limited ? ", max_memory" : "", world->slice, world->failure);
        return; /* a broker that has failed is left as it is */
    }
    tear_down(world);
    free(world->records);
    free(world->arena);
    free(world);
}

/*
 * Run one seed in a process of its own. The index keeps subscriptions in the order of their
 * addresses, so a run can only be repeated from the same state of the heap; and an abort takes no
 * other seed along.
 */
static bool run_alone(uint64_t seed, bool verbose, struct result *result)
{
    int ends[2];
    int status = 0;
    pid_t child;

    *result = (struct result){.good = false};
    MIDGE_ASSERT(pipe(ends) == 0);
    child = fork();
    MIDGE_ASSERT(child >= 0);
    if (child == 0) {
        run_seed(seed, verbose, result);
        (void)fflush(stdout);
#if defined(__SANITIZE_ADDRESS__)
        if (seed % LEAK_CHECK_EVERY == 0)
            __lsan_do_leak_check();
#endif
        _exit(write(ends[1], result, sizeof(*result)) == (ssize_t)sizeof(*result) ? 0 : 1);
    }
    (void)close(ends[1]);
    if (read(ends[0], result, sizeof(*result)) != (ssize_t)sizeof(*result))
        result->good = false;
    (void)close(ends[0]);
    (void)waitpid(child, &status, 0);
    if (result->good)
        return true;
    if (WIFSIGNALED(status))
        (void)printf("seed %" PRIu64 " ended by %s\n", seed, strsignal(WTERMSIG(status)));
    (void)printf("replay: test_sim_broker --seed %" PRIu64 " --verbose\n", seed);
    return false;
}

static bool parse_number(const char *text, uint64_t *number_out)
{
    char *end;

    if (text == NULL)
        return false;
    errno = 0;
    *number_out = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0';
}

/* What a long run must have seen, or the script and the faults are not what they should be. */
static bool saw_everything(const struct result *sum, uint64_t exact_count, uint64_t count)
{
    static const char *const stats[] = {
#define STATS_NAME(name, text) #name,
        MIDGE_STATS_TABLE(STATS_NAME)
#undef STATS_NAME
    };
    bool good = true;

    for (uint32_t i = 0; i < STATS_COUNT; i++) {
        /* The allocator always has memory in these worlds. */
        if (sum->stats[i] != 0 || strcmp(stats[i], "dropped_memory") == 0)
            continue;
        /* Rare, like the last of the counts below. */
        if (count < SEEDS_FOR_RARE && strcmp(stats[i], "memory_closed") == 0)
            continue;
        (void)printf("%s stayed 0\n", stats[i]);
        good = false;
    }
    for (uint32_t i = 0; i < WORLD_COUNT; i++) {
        if (sum->world.words[i] != 0)
            continue;
        (void)printf("count %u of the simulated world stayed 0\n", i);
        good = false;
    }
    for (uint32_t i = 0; i < SHARDS_COUNT; i++) {
        if (sum->shards.words[i] != 0 || (count < SEEDS_FOR_RARE && i >= SHARDS_COUNT - RARE_COUNT))
            continue;
        (void)printf("count %u of what only several shards do stayed 0\n", i);
        good = false;
    }
    if (exact_count * 2 < count) {
        (void)printf("only %" PRIu64 " of %" PRIu64 " seeds could be counted exactly\n",
                     exact_count, count);
        good = false;
    }
    return good;
}

static void add_up(struct result *sum, const struct result *result)
{
    for (uint32_t i = 0; i < STATS_COUNT; i++)
        sum->stats[i] += result->stats[i];
    for (uint32_t i = 0; i < WORLD_COUNT; i++)
        sum->world.words[i] += result->world.words[i];
    for (uint32_t i = 0; i < SHARDS_COUNT; i++)
        sum->shards.words[i] += result->shards.words[i];
}

static int run_all(uint64_t first, uint64_t count, bool verbose)
{
    struct result sum = {0};
    uint64_t exact_count = 0;

    for (uint64_t seed = first; seed < first + count; seed++) {
        struct result result;
        struct result again;

        if (!run_alone(seed, verbose, &result))
            return 1;
        add_up(&sum, &result);
        exact_count += result.exact;
        if (seed % REPEAT_EVERY != 0)
            continue;
        if (!run_alone(seed, verbose, &again) || result.hash != again.hash) {
            (void)printf("seed %" PRIu64 " did not go the same way twice\n", seed);
            return 1;
        }
    }
    (void)printf("%" PRIu64 " seeds from %" PRIu64 ", %" PRIu64 " turns, %" PRIu64
                 " counted exactly: all as expected\n",
                 count, first, sum.world.counts.turns, exact_count);
    return count < SEEDS_FOR_ALL || saw_everything(&sum, exact_count, count) ? 0 : 1;
}

int main(int argc, char **argv)
{
    uint64_t first = 1;
    uint64_t count = 1000;
    bool verbose = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0) {
            verbose = true;
        } else if (strcmp(argv[i], "--seeds") == 0 && parse_number(argv[i + 1], &count)) {
            i++;
        } else if (strcmp(argv[i], "--from") == 0 && parse_number(argv[i + 1], &first)) {
            i++;
        } else if (strcmp(argv[i], "--seed") == 0 && parse_number(argv[i + 1], &first)) {
            count = 1;
            i++;
        } else {
            (void)fprintf(stderr, "usage: %s [--from S] [--seeds N] [--seed S] [--verbose]\n",
                          argv[0]);
            return 2;
        }
    }
    return run_all(first, count, verbose);
}
