/*
 * Goal: connection, outbox, dispatch and shard logic is right under every legal order of
 * completions and under faults.
 *
 * Method: for each seed a world (ring_sim.h) with random limits, faults and socket buffers, the
 * broker's own shard in it, and peers that follow a random script. What happens at the I/O seam is
 * recorded; a reference broker (reference.h) then says what must have been sent to whom. While the
 * shard sleeps it is checked that nothing waits for it. At the end everything must be closed, free,
 * and accounted for.
 *
 *   test_sim_broker [--from S] [--seeds N]     seeds S .. S + N - 1
 *   test_sim_broker --seed S [--verbose]       one seed again, step by step
 */
#include <errno.h>
#include <inttypes.h>
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
#include "conn.h"
#include "log.h"
#include "midge/ring_sim.h"
#include "reference.h"
#include "script.h"
#include "shard.h"

#define NS_PER_MS        1000000ull
#define SLOTS_MAX        (64u + MIDGE_CONN_SLOTS_EXTRA)
#define QUIET_TRIES      8u
#define STILL_TURNS_MIN  40u
#define STOP_TURNS_MAX   20000u
#define STOP_STEPS_MAX   20000u
#define STALE_STEPS_MAX  64u
#define ACCEPT_RETRY_NS  (600 * NS_PER_MS)
#define SHOWN_BYTES      60u
#define REPEAT_EVERY     64u
#define SEEDS_FOR_ALL    500u
#define LEAK_CHECK_EVERY 32u

/* What happened, beyond the notes of the world. */
enum record_kind {
    RECORD_NOTE = 0,
    RECORD_PINGED,
    RECORD_CLOSE_SEEN, /* res = status */
    RECORD_PURGED,
    RECORD_TURN_END,
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
    uint64_t appended;  /* CLOSE_SEEN: bytes that the outbox ever took */
    uint64_t now_ns;
    uint64_t turn;
};

/* What is known about a slot of the broker. */
struct slot {
    bool used;
    bool close_seen;
    bool purged;
    bool input_over; /* the broker was told that the stream ended or broke */
    uint32_t peer;
    uint32_t generation;
    uint64_t rtt_start_ns;
};

enum phase {
    PHASE_SCRIPT = 0,
    PHASE_DRAIN, /* everybody reads; the clock stands still */
    PHASE_STALE, /* the clock runs, nobody says a word */
    PHASE_STOP,
};

struct world {
    uint64_t seed;
    enum phase phase;
    uint64_t step;
    uint64_t step_count;
    uint64_t turn;
    bool quiet;
    uint32_t still_turns; /* of the drain, in which nothing happened */
    bool tries_stale;
    struct midge_sim *sim;
    struct midge_ring *ring;
    int listener_fd;
    struct midge_config config;
    struct midge_log *log;
    struct midge_broker broker;
    struct midge_shard *shard;
    struct midge_script script;
    struct slot slots[SLOTS_MAX];
    struct record *records;
    uint32_t record_count;
    uint32_t record_cap;
    uint8_t *arena;
    uint64_t arena_len;
    uint64_t arena_cap;
    struct midge_stats stats; /* of the shard, taken before it goes */
    bool exact;
    char failure[1024];
};

static void fail(struct world *world, const char *what, uint32_t peer)
{
    if (world->failure[0] == '\0')
        (void)snprintf(world->failure, sizeof(world->failure), "%s (peer %u, turn %" PRIu64 ")",
                       what, peer, world->turn);
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
        .kind = kind, .peer = peer, .turn = world->turn, .now_ns = midge_sim_now_ns(world->sim)};
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

static void on_note(void *context, const struct midge_sim_note *note)
{
    struct world *world = context;
    struct record *record;

    if (note->peer == UINT32_MAX)
        return;
    record = push_record(world, RECORD_NOTE, note->peer);
    record->note = note->kind;
    record->res = note->res;
    record->more = note->more;
    record->bytes_len = note->bytes.len;
    record->bytes_off = keep_bytes(world, note->bytes);
    record->now_ns = note->now_ns;
    if (note->kind == MIDGE_SIM_RECEIVED && note->res <= 0 && note->res != -ENOBUFS &&
        note->res != -ECANCELED)
        world->slots[note->handle.index].input_over = true;
    if (note->kind == MIDGE_SIM_ADOPTED) {
        MIDGE_ASSERT(note->handle.index < SLOTS_MAX);
        world->slots[note->handle.index] =
            (struct slot){.used = true, .peer = note->peer, .generation = note->handle.generation};
    }
}

/* ---- what the broker looks like from inside ---- */

static bool is_free_of(const struct midge_conn *conn, const struct slot *slot)
{
    return conn->generation != slot->generation || conn->state == MIDGE_CONN_FREE ||
           conn->state == MIDGE_CONN_RESTING;
}

/* At the end of a turn: what timers did, what is closing, what has left the index. */
static void look_at_slots(struct world *world)
{
    for (uint32_t i = 0; i < midge_broker_slot_high(&world->broker); i++) {
        const struct midge_conn *conn = &world->broker.conns[i];
        struct slot *slot = &world->slots[i];
        struct record *record;

        if (!slot->used)
            continue;
        if (conn->generation == slot->generation && conn->rtt_start_ns != slot->rtt_start_ns) {
            slot->rtt_start_ns = conn->rtt_start_ns;
            push_record(world, RECORD_PINGED, slot->peer)->res = conn->pings_out;
        }
        if (!slot->close_seen && conn->state != MIDGE_CONN_OPEN) {
            slot->close_seen = true;
            record = push_record(world, RECORD_CLOSE_SEEN, slot->peer);
            record->res = conn->close_status;
            record->appended = conn->outbox.appended_bytes;
        }
        if (!slot->purged && is_free_of(conn, slot)) {
            slot->purged = true;
            slot->used = false;
            (void)push_record(world, RECORD_PURGED, slot->peer);
        }
    }
}

static const char *why_not_asleep(const struct midge_conn *conn, const struct slot *slot)
{
    const struct midge_outbox *outbox = &conn->outbox;

    if (conn->old_subs != NULL)
        return "asleep with dropped subscriptions to take out";
    switch (conn->state) {
    case MIDGE_CONN_FREE:
    case MIDGE_CONN_RESTING:
        return NULL;
    case MIDGE_CONN_PURGING:
        return "asleep with subscriptions to take out";
    case MIDGE_CONN_CLOSING:
        if (!conn->recv_armed && !conn->poll_armed)
            return "asleep with a connection to close";
        return NULL;
    case MIDGE_CONN_FLUSHING:
        if (conn->send_submitted && outbox->pending_bytes == conn->send_asked)
            return "asleep with a connection that has sent what it owed";
        /* Bytes that are not read when it is closed reset it, and what was sent last is lost. */
        if (!conn->recv_armed && !slot->input_over)
            return "asleep with a closing connection that is not read";
        break;
    case MIDGE_CONN_OPEN:
        if (!conn->recv_armed && !conn->paused)
            return "asleep with a connection that is not read";
        break;
    }
    if (conn->send_submitted && outbox->pending_bytes > conn->send_asked)
        return "asleep with output behind a send that was taken";
    if (!conn->send_submitted && !conn->poll_armed && outbox->pending_bytes != 0)
        return "asleep with output";
    return NULL;
}

/* While the ring sleeps no event is due: nothing may be left to do without one. */
static void check_sleep(struct world *world)
{
    const struct midge_shard *shard = world->shard;

    for (uint32_t i = 0; i < midge_broker_slot_high(&world->broker); i++) {
        const char *why = why_not_asleep(&world->broker.conns[i], &world->slots[i]);

        if (why != NULL)
            fail(world, why, world->slots[i].peer);
    }
    for (uint32_t i = 0; i < shard->listener_count; i++)
        if (!shard->listeners[i].armed && shard->listeners[i].wants_arm &&
            shard->accept_at_ns == UINT64_MAX)
            fail(world, "asleep with a listener that accepts nobody", UINT32_MAX);
}

static bool anyone_open(const struct world *world)
{
    for (uint32_t i = 0; i < midge_broker_slot_high(&world->broker); i++)
        if (world->broker.conns[i].state == MIDGE_CONN_OPEN)
            return true;
    return false;
}

/* ---- phases ---- */

/* The world while the shard sleeps. */
static bool on_sleep(void *context, struct midge_ring *ring)
{
    struct world *world = context;

    (void)ring;
    check_sleep(world);
    if (world->failure[0] != '\0')
        return false;
    switch (world->phase) {
    case PHASE_SCRIPT:
        if (world->step >= world->step_count)
            return false;
        world->step++;
        midge_script_step(&world->script);
        return true;
    case PHASE_DRAIN:
        if (midge_script_drain(&world->script)) {
            world->still_turns = 0;
            return true;
        }
        /* An event may be late, or held back, by chance: rest is when none comes for long. */
        if (++world->still_turns < STILL_TURNS_MIN)
            return true;
        world->still_turns = 0;
        world->quiet = true;
        return false;
    case PHASE_STALE:
        if (midge_script_drain(&world->script)) {
            world->step = 0; /* somebody was let in, or sent something: the time begins anew */
            return true;
        }
        midge_sim_advance(world->sim, world->config.ping_interval_ms * NS_PER_MS / 4);
        world->step++;
        return false;
    case PHASE_STOP:
        if (!midge_script_drain(&world->script))
            midge_sim_advance(world->sim, 10 * NS_PER_MS);
        if (++world->step > STOP_STEPS_MAX)
            fail(world, "asleep though it is to stop", UINT32_MAX);
        return world->failure[0] == '\0';
    }
    return false;
}

static void turn(struct world *world)
{
    midge_shard_turn(world->shard, true);
    look_at_slots(world);
    push_record(world, RECORD_TURN_END, UINT32_MAX)->res = (int64_t)world->turn;
    world->turn++;
}

static void run_script(struct world *world)
{
    world->phase = PHASE_SCRIPT;
    while (world->step < world->step_count && world->failure[0] == '\0') {
        if (midge_sim_random_below(world->sim, 3) == 0) {
            world->step++;
            midge_script_step(&world->script);
        }
        turn(world);
    }
}

/* Everybody says and reads what is left; then nothing may be owed to anybody. The clock is moved
 * only so that accept is tried again, and over the pause of publishers whose recipients do not
 * drain. */
static void run_drain(struct world *world)
{
    world->phase = PHASE_DRAIN;
    for (uint32_t i = 0; i < QUIET_TRIES && world->failure[0] == '\0'; i++) {
        world->quiet = false;
        for (uint32_t turns = 0; !world->quiet && world->failure[0] == '\0'; turns++) {
            if (turns > STOP_TURNS_MAX)
                fail(world, "the broker does not come to rest", UINT32_MAX);
            turn(world);
        }
        if (world->failure[0] != '\0')
            return;
        if (world->shard->paused != NULL)
            fail(world, "a publisher is not read though nobody has output", UINT32_MAX);
        (void)push_record(world, RECORD_QUIET, UINT32_MAX);
        midge_sim_advance(world->sim, ACCEPT_RETRY_NS);
    }
}

/* Nobody answers: everybody must be found stale in time. */
static void run_stale(struct world *world)
{
    const uint64_t limit = 4 * (world->config.ping_max + 4ull);

    world->phase = PHASE_STALE;
    world->step = 0;
    for (uint32_t turns = 0; world->failure[0] == '\0' && anyone_open(world); turns++) {
        if (world->step > limit || turns > STOP_TURNS_MAX)
            fail(world, "a silent connection is not found stale", UINT32_MAX);
        turn(world);
    }
}

static void run_stop(struct world *world)
{
    world->phase = PHASE_STOP;
    world->step = 0;
    (void)push_record(world, RECORD_STOP, UINT32_MAX);
    midge_shard_stop(world->shard);
    for (uint32_t turns = 0; !midge_shard_is_idle(world->shard) && world->failure[0] == '\0';
         turns++) {
        if (turns > STOP_TURNS_MAX)
            fail(world, "the broker does not stop", UINT32_MAX);
        turn(world);
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
    config->ping_interval_ms = PICK(sim, 120000, 120000, 3000, 200);
    config->ping_max = (uint32_t)PICK(sim, 1, 2, 2, 4);
    config->write_deadline_ms = PICK(sim, 10000, 2000, 100);
    config->auth_timeout_ms = PICK(sim, 2000, 200);
    config->no_fast_producer_stall = midge_sim_random_below(sim, 4) == 0;
    config->no_header_support = midge_sim_random_below(sim, 16) == 0;
    if (midge_sim_random_below(sim, 5) == 0) {
        config->user = strdup("sim");
        config->pass = strdup("secret");
    }
}

static void set_up(struct world *world, uint64_t seed)
{
    struct midge_sim_options options = {.seed = seed};
    struct midge_ring_options ring_options = {0};
    struct midge_script_options script_options = {0};
    struct midge_ring *ring;

    memset(world, 0, sizeof(*world));
    world->seed = seed;
    /* Sizes of the world come from the seed as well, before there is a world to draw them from. */
    options.fd_count_max = seed % 5 == 0 ? 3 + (uint32_t)(seed / 5 % 9) : 0;
    options.up_cap = (uint32_t[]){65536, 3000, 300, 20000}[seed / 2 % 4];
    options.down_cap = (uint32_t[]){65536, 600, 5000, 200000}[seed / 3 % 4];
    world->sim = midge_sim_create(&options);
    choose_faults(world->sim);
    choose_config(world);
    midge_sim_observe(world->sim, world, on_note);
    MIDGE_ASSERT(midge_log_create(&world->config, &world->log) == MIDGE_OK);
    MIDGE_ASSERT(midge_broker_init(&world->broker, &world->config, world->log, seed) == MIDGE_OK);
    world->broker.shard_count = 1;
    (void)snprintf(world->broker.info_host, sizeof(world->broker.info_host), "127.0.0.1");
    world->broker.info_port = 4222;
    ring_options.buffer_len = (uint32_t)PICK(world->sim, 16384, 16384, 512, 64);
    ring = midge_sim_ring_create(world->sim, &ring_options);
    world->ring = ring;
    world->shard = midge_shard_create(&world->broker, 0, &ring);
    MIDGE_ASSERT(world->shard != NULL);
    world->listener_fd = midge_sim_listen(world->sim);
    midge_shard_add_listener(world->shard, world->listener_fd);
    script_options.peers_max = 2 + (uint32_t)midge_sim_random_below(world->sim, 9);
    script_options.payload_len_max = world->config.payload_len_max;
    script_options.control_line_len_max = world->config.control_line_len_max;
    script_options.jump_ns = PICK(world->sim, 300, 4000, 20000) * NS_PER_MS;
    script_options.login = world->config.user != NULL;
    script_options.polite = midge_sim_random_below(world->sim, 3) == 0;
    midge_script_init(&world->script, world->sim, world->ring, world->listener_fd, &script_options);
    world->step_count = 200 + midge_sim_random_below(world->sim, 600);
    world->tries_stale = midge_sim_random_below(world->sim, 4) == 0;
    midge_sim_let_sleep(world->sim, world, on_sleep);
}

/* Everything must be free by now. */
static void check_free(struct world *world)
{
    const struct midge_spares *spares = &world->shard->spares;
    struct midge_subindex_counts counts;
    int64_t spare_bytes = 0;

    spare_bytes += spares->small != NULL ? spares->small->block_cap : 0;
    spare_bytes += spares->large != NULL ? spares->large->block_cap : 0;
    spare_bytes += spares->view != NULL ? spares->view->block_cap : 0;
    if (midge_pool_held_bytes(&world->shard->pool) != spare_bytes)
        fail(world, "memory of the pool is still held", UINT32_MAX);
    midge_subindex_counts(world->broker.index, &counts);
    if (counts.subs != 0 || counts.records != 0 || counts.nodes != 0)
        fail(world, "the index is not empty", UINT32_MAX);
    if (midge_sim_open_fd_count(world->sim) != 1)
        fail(world, "a descriptor is still open", UINT32_MAX);
    if (atomic_load(&world->broker.connection_count) != 0)
        fail(world, "the count of connections is not 0", UINT32_MAX);
}

static void tear_down(struct world *world)
{
    midge_sim_let_sleep(world->sim, NULL, NULL);
    midge_ring_close(world->ring, world->listener_fd);
    memcpy(&world->stats, &world->shard->stats, sizeof(world->stats));
    midge_shard_destroy(world->shard);
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
                                        "settled",  "cancelled", "shut",    "closed"};
    static const char *const kinds[] = {"",         "pinged", "close seen", "purged",
                                        "turn end", "quiet",  "stop"};

    (void)printf("%6" PRIu64 " %12.6f  ", record->turn, (double)record->now_ns / 1e9);
    if (record->peer == UINT32_MAX)
        (void)printf("%s", kinds[record->kind]);
    else
        (void)printf("peer %-2u %-10s %" PRId64 "%s", record->peer,
                     record->kind == RECORD_NOTE ? notes[record->note] : kinds[record->kind],
                     record->res, record->more ? " more" : "");
    if (record->kind == RECORD_CLOSE_SEEN)
        (void)printf(" %s", midge_status_name((enum midge_status)record->res));
    show_bytes(world, record);
    (void)printf("\n");
}

/* Give one note to the reference. `named` is kept from one note to the next. */
static bool replay_note(struct midge_ref *ref, const struct world *world,
                        const struct record *record, bool *named)
{
    const struct midge_slice bytes =
        midge_slice_make(world->arena + record->bytes_off, record->bytes_len);

    switch (record->note) {
    case MIDGE_SIM_ACCEPTED:
    case MIDGE_SIM_CANCELLED:
        return true;
    case MIDGE_SIM_NAMED:
        *named = record->res == 0;
        return true;
    case MIDGE_SIM_ADOPTED:
        return midge_ref_open(ref, record->peer, *named, record->res == 0, record->now_ns);
    case MIDGE_SIM_RECEIVED:
        if (record->res > 0)
            return midge_ref_receive(ref, record->peer, bytes, record->now_ns);
        return midge_ref_receive_end(ref, record->peer, (int)record->res, record->now_ns);
    case MIDGE_SIM_SENT:
        midge_ref_sent(ref, record->peer, record->bytes_len);
        return true;
    case MIDGE_SIM_SETTLED:
        return midge_ref_settled(ref, record->peer, record->res, record->more, record->now_ns);
    case MIDGE_SIM_SHUT:
        return midge_ref_shut(ref, record->peer, record->now_ns);
    case MIDGE_SIM_CLOSED:
        return midge_ref_closed(ref, record->peer);
    }
    return true;
}

static bool replay_record(struct midge_ref *ref, const struct world *world,
                          const struct record *record, bool *named)
{
    switch (record->kind) {
    case RECORD_NOTE:
        return replay_note(ref, world, record, named);
    case RECORD_PINGED:
        return midge_ref_pinged(ref, record->peer, (uint32_t)record->res, record->now_ns);
    case RECORD_CLOSE_SEEN:
        return midge_ref_close_seen(ref, record->peer, (enum midge_status)record->res,
                                    record->now_ns);
    case RECORD_PURGED:
        midge_ref_purged(ref, record->peer);
        return true;
    case RECORD_TURN_END:
        return midge_ref_turn_end(ref, record->turn, record->now_ns);
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
    uint8_t *at = outputs;

    for (uint32_t peer = 0; peer < world->script.peer_count; peer++) {
        uint8_t *start = at;
        uint64_t end_turn = UINT64_MAX;
        uint64_t end_appended = UINT64_MAX;

        for (uint32_t i = 0; i < world->record_count; i++) {
            const struct record *record = &world->records[i];

            if (record->peer != peer)
                continue;
            if (record->kind == RECORD_CLOSE_SEEN) {
                end_turn = record->turn;
                end_appended = record->appended;
            }
            if (record->kind != RECORD_NOTE || record->note != MIDGE_SIM_SENT)
                continue;
            memcpy(at, world->arena + record->bytes_off, record->bytes_len);
            at += record->bytes_len;
        }
        midge_ref_set_output(ref, peer, midge_slice_make(start, (uint32_t)(at - start)), end_turn,
                             end_appended);
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
    bool named = false;
    bool good = true;

    MIDGE_ASSERT(outputs != NULL);
    give_outputs(ref, world, outputs);
    for (uint32_t i = 0; i < world->record_count && good; i++) {
        if (verbose)
            show_record(world, &world->records[i]);
        good = replay_record(ref, world, &world->records[i], &named);
        if (!good && !verbose)
            show_record(world, &world->records[i]);
    }
    /* A world that has failed before its end is not judged beyond it. */
    if (good && world->failure[0] == '\0')
        good = midge_ref_check_end(ref);
    if (!good)
        (void)snprintf(world->failure, sizeof(world->failure), "%s", midge_ref_failure(ref));
    else if (world->failure[0] == '\0')
        check_stats(world, midge_ref_stats(ref));
    midge_ref_destroy(ref);
    free(outputs);
}

/* How often things happened: the broker's counters by name, then the world's in their order. */
#define STATS_ONE(name, text) +1
#define STATS_COUNT           (0 MIDGE_STATS_TABLE(STATS_ONE))
#define WORLD_COUNT           (sizeof(struct midge_sim_counts) / sizeof(uint64_t))

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
};

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
    memcpy(&world->stats, &world->shard->stats, sizeof(world->stats));
#define TELL(name, text) result->stats[at++] = midge_stats_read(&world->stats.name);
    MIDGE_STATS_TABLE(TELL)
#undef TELL
    judge(world, verbose);
    result->exact = world->exact;
    result->good = world->failure[0] == '\0';
    if (!result->good) {
        (void)printf("seed %" PRIu64 ", step %" PRIu64 " of %" PRIu64 ", turn %" PRIu64 ": %s\n",
                     seed, world->step, world->step_count, world->turn, world->failure);
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
        /* There is memory enough in these worlds. */
        /* `moves` is for more than one shard. */
        if (sum->stats[i] != 0 || strstr(stats[i], "memory") != NULL ||
            strcmp(stats[i], "moves") == 0)
            continue;
        (void)printf("%s stayed 0\n", stats[i]);
        good = false;
    }
    for (uint32_t i = 0; i < WORLD_COUNT; i++) {
        /* The last one, try_sends, is for more than one shard. */
        if (sum->world.words[i] != 0 || i == WORLD_COUNT - 1)
            continue;
        (void)printf("count %u of the simulated world stayed 0\n", i);
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
