/* The turn of one shard; see shard.h. */
#include "shard.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "trace.h"

#define NS_PER_MS 1000000ull

/* Bytes that the pools of all shards keep for reuse: a burst of 64 large segments and some
 * messages. But no less for each than this: of many shards few may have all connections. */
#define POOL_KEEP_BYTES     (8ull * 1024 * 1024)
#define POOL_KEEP_BYTES_MIN (2ull * 1024 * 1024)

/* After a burst that gave so much back to the allocator (all shards together, whichever was last;
 * what the index freed along is about as much again and not counted), and then a second in which
 * hardly more came, the allocator gives it back to the system, in a turn that has nothing else to
 * do. */
#define TRIM_BYTES_MIN (8ull * 1024 * 1024)
#define TRIM_QUIET_MS  1000u

/* From so much on a shard says what it gave back, and the second begins anew. */
#define TRIM_STEP_BYTES (64u * 1024)

/* Bytes that a shard may come to hold before it looks at max_memory again, and into how many of
 * them a small max_memory is divided. */
#define MEMORY_STEP_BYTES (1 << 20)
#define MEMORY_STEPS_MIN  64u

/* How soon accept is tried again where nothing else says that a descriptor came free. */
#define ACCEPT_RETRY_MS 500u

/* One line per 10 s about a lack of descriptors. */
#define ACCEPT_LOG_INTERVAL_MS 10000u

/* Turns without a wait while something retired waits to be freed; and how long later ones wait. */
#define RECLAIM_TURNS   8u
#define RECLAIM_WAIT_NS 100000u

/* A budget of 0 is tried again after so many turns that brought few messages, in case the load has
 * become such that watching pays. */
#define SPIN_PROBE_TURNS 256u

/* A turn that brought more messages than this shares one wake-up among them: the next one need not
 * watch. */
#define SPIN_MSGS_MAX 4u

/* A budget below this is no use: one look costs about as much. */
#define SPIN_NS_MIN 2000u

/* Index in handles of listeners: above every connection slot (limits.h). */
#define LISTENER_INDEX_FIRST 0xfffff0u

/* ---- lists ---- */

/* Zeroes that take memory only where they are touched; NULL without. */
static void *map_array(uint64_t len)
{
    void *array =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return array != MAP_FAILED ? array : NULL;
}

static bool list_init(struct midge_conn_list *list, uint32_t cap)
{
    list->refs = map_array(cap * sizeof(*list->refs));
    list->count = 0;
    list->cap = cap;
    return list->refs != NULL;
}

static void list_deinit(struct midge_conn_list *list)
{
    if (list->refs != NULL)
        (void)munmap(list->refs, list->cap * sizeof(*list->refs));
    list->refs = NULL;
}

static void list_push(struct midge_conn_list *list, uint32_t index, uint32_t generation)
{
    MIDGE_ASSERT(list->count < list->cap);
    list->refs[list->count++] = (struct midge_conn_ref){index, generation};
}

/* The connection of a reference to one of ours, or NULL if its slot is used anew by now. */
static struct midge_conn *resolve(const struct midge_shard *shard, struct midge_conn_ref ref)
{
    struct midge_conn *conn = &shard->broker->conns[ref.index];

    return midge_conn_owner(conn) == shard && conn->generation == ref.generation ? conn : NULL;
}

void midge_shard_mark_dirty(struct midge_shard *shard, struct midge_conn *conn)
{
    uint64_t *turn = &shard->dirty_turns[conn->index];

    if (*turn == shard->turn)
        return;
    *turn = shard->turn;
    list_push(&shard->dirty, conn->index, conn->outbox.generation);
}

void midge_shard_mark_rearm(struct midge_shard *shard, struct midge_conn *conn)
{
    if (conn->rearm_queued)
        return;
    conn->rearm_queued = true;
    list_push(&shard->rearm, conn->index, conn->generation);
}

void midge_shard_mark_submitted(struct midge_shard *shard, struct midge_conn *conn)
{
    list_push(&shard->submitted, conn->index, conn->generation);
}

/* ---- requests ---- */

static void want_bell(struct midge_shard *shard, uint32_t index)
{
    shard->bells[index] = true;
    shard->bells_wanted = true;
}

static void ring_bells(struct midge_shard *shard)
{
    if (MIDGE_LIKELY(!shard->bells_wanted))
        return;
    shard->bells_wanted = false;
    for (uint32_t i = 0; i < shard->broker->shard_count; i++) {
        if (!shard->bells[i])
            continue;
        shard->bells[i] = false;
        midge_ring_doorbell(shard->broker->shards[i]->ring);
    }
}

/* Push on a list that another shard takes as a whole; by next_request. */
static void push_conn(_Atomic(struct midge_conn *) *list, struct midge_conn *conn)
{
    struct midge_conn *first = atomic_load_explicit(list, memory_order_relaxed);

    do {
        conn->next_request = first;
        /* Release pairs with the acquire in take_requests() and take_arrivals(): the link and the
         * slot as we leave it are visible before the entry. */
    } while (!atomic_compare_exchange_weak_explicit(list, &first, conn, memory_order_release,
                                                    memory_order_relaxed));
}

void midge_shard_request(struct midge_shard *shard, struct midge_conn *conn, uint32_t requests)
{
    struct midge_shard *owner = midge_conn_owner(conn);

    conn->outbox.requests |= (uint16_t)requests;
    /* On its way to another shard: that one looks when it takes it. */
    if (conn->outbox.queued || owner == NULL)
        return;
    conn->outbox.queued = true;
    push_conn(&owner->inbox, conn);
    if (owner != shard)
        want_bell(shard, owner->index);
}

void midge_shard_request_close(struct midge_shard *shard, struct midge_conn *conn,
                               enum midge_status status)
{
    conn->outbox.closing = true;
    conn->outbox.close_status = status;
    midge_shard_request(shard, conn, MIDGE_REQUEST_CLOSE);
}

static void take_requests(struct midge_shard *shard)
{
    struct midge_conn *conn;

    if (atomic_load_explicit(&shard->inbox, memory_order_relaxed) == NULL)
        return;
    /* Acquire pairs with the release in push_conn(). */
    conn = atomic_exchange_explicit(&shard->inbox, NULL, memory_order_acquire);
    while (conn != NULL) {
        struct midge_conn *next = conn->next_request;
        enum midge_status close_status;
        uint32_t requests;

        midge_outbox_lock(&conn->outbox);
        close_status = conn->outbox.close_status;
        requests = conn->outbox.requests;
        conn->outbox.requests = 0;
        conn->outbox.queued = false;
        midge_outbox_unlock(&conn->outbox);
        midge_conn_on_request(shard, conn, requests, close_status);
        conn = next;
    }
}

void midge_shard_tell_drained(struct midge_shard *shard, uint16_t watch_shard)
{
    for (uint32_t i = 0; i < shard->broker->shard_count; i++) {
        if (watch_shard != i && watch_shard != MIDGE_WATCH_MANY)
            continue;
        if (i == shard->index) {
            shard->look_at_paused = true;
            continue;
        }
        /* Release pairs with the acquire in look_at_paused(): it sees the outbox as it is now. */
        atomic_store_explicit(&shard->broker->shards[i]->drained, true, memory_order_release);
        want_bell(shard, i);
    }
}

/* True if what the publisher waits for has happened; else it is told when it does. A send of the
 * owner's that took everything ends no wait of his, and it began before he could know that somebody
 * waits for it: so he is woken. (The recipient was ours when the message was appended, and has
 * moved since; from a foreign append on the owner leaves no send in flight.) */
static bool is_below_mark(struct midge_shard *shard, const struct midge_pause_target *target)
{
    struct midge_conn *conn = &shard->broker->conns[target->index];
    struct midge_outbox *outbox = &conn->outbox;
    bool below;

    midge_outbox_lock(outbox);
    below = outbox->generation != target->generation || outbox->closing ||
            outbox->pending_bytes < target->mark_bytes;
    if (!below) {
        midge_outbox_watch(outbox, shard->index, target->mark_bytes);
        if (outbox->in_flight && midge_conn_owner(conn) != shard)
            midge_shard_request(shard, conn, MIDGE_REQUEST_FLUSH);
    }
    midge_outbox_unlock(outbox);
    return below;
}

static bool may_resume(struct midge_shard *shard, const struct midge_pause *pause)
{
    if (pause->any)
        return true;
    for (uint32_t i = 0; i < pause->target_count; i++) {
        if (is_below_mark(shard, &pause->targets[i]))
            return true;
    }
    return false;
}

static void look_at_paused(struct midge_shard *shard)
{
    struct midge_conn *conn = shard->paused;

    if (atomic_load_explicit(&shard->drained, memory_order_relaxed) &&
        /* Acquire pairs with the release in midge_shard_tell_drained(). */
        atomic_exchange_explicit(&shard->drained, false, memory_order_acquire))
        shard->look_at_paused = true;
    if (MIDGE_LIKELY(!shard->look_at_paused))
        return;
    shard->look_at_paused = false;
    while (conn != NULL) {
        struct midge_conn *next = conn->next_paused;

        if (may_resume(shard, conn->pause))
            midge_conn_resume(shard, conn);
        conn = next;
    }
}

/* ---- accept ---- */

static struct midge_handle listener_handle(uint32_t listener)
{
    return (struct midge_handle){LISTENER_INDEX_FIRST + listener, 0};
}

void midge_shard_add_listener(struct midge_shard *shard, int fd)
{
    struct midge_listener_state *listener = &shard->listeners[shard->listener_count];

    MIDGE_ASSERT(shard->listener_count < MIDGE_LISTENERS_MAX);
    listener->fd = fd;
    listener->armed = true;
    listener->wants_arm = true;
    midge_ring_accept(shard->ring, fd, listener_handle(shard->listener_count));
    shard->listener_count++;
}

static void on_accept_error(struct midge_shard *shard, int error)
{
    uint64_t suppressed;

    if (error == ECANCELED || error == ECONNABORTED || error == EINTR)
        return;
    midge_stats_add(&shard->stats.accept_errors, 1);
    if (!midge_log_allow(&shard->accept_limit, shard->now_ns, ACCEPT_LOG_INTERVAL_MS, &suppressed))
        return;
    midge_log_write(shard->log, MIDGE_LOG_ERROR,
                    "Accepting a connection failed: %s; new connections wait until one closes "
                    "(%llu more not logged)",
                    strerror(error), (unsigned long long)suppressed);
}

static struct midge_shard *shard_with_fewest(struct midge_shard *shard)
{
    struct midge_shard *best = shard;
    uint32_t best_load = UINT32_MAX;

    for (uint32_t i = 0; i < shard->broker->shard_count; i++) {
        struct midge_shard *other = shard->broker->shards[i];
        const uint32_t load = atomic_load_explicit(&other->load, memory_order_relaxed);

        if (load < best_load) {
            best = other;
            best_load = load;
        }
    }
    return best;
}

void midge_shard_send_away(struct midge_shard *shard, struct midge_shard *to,
                           struct midge_conn *conn)
{
    if (conn->state != MIDGE_CONN_FREE) {
        MIDGE_ASSERT(shard->conn_count > 0);
        shard->conn_count--;
        atomic_fetch_sub_explicit(&shard->load, 1, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&to->load, 1, memory_order_relaxed);
    push_conn(&to->arrivals, conn);
    want_bell(shard, to->index);
}

static struct midge_conn *take_arrivals(struct midge_shard *shard)
{
    if (MIDGE_LIKELY(atomic_load_explicit(&shard->arrivals, memory_order_relaxed) == NULL))
        return NULL;
    /* Acquire pairs with the release in push_conn(). */
    return atomic_exchange_explicit(&shard->arrivals, NULL, memory_order_acquire);
}

/* For tests: connections move though there is no reason. */
static void move_by_chance(struct midge_shard *shard)
{
    struct midge_broker *broker = shard->broker;
    const uint32_t high = midge_broker_slot_high(broker);
    const uint64_t random = midge_ring_random(shard->ring);
    struct midge_conn *conn;

    if (high == 0 || shard->stop_seen)
        return;
    conn = &broker->conns[(random & UINT32_MAX) % high];
    if (midge_conn_owner(conn) == shard)
        midge_conn_move(shard, conn, broker->shards[(random >> 32) % broker->shard_count]);
}

static void open_arrivals(struct midge_shard *shard)
{
    struct midge_conn *conn = take_arrivals(shard);

    while (conn != NULL) {
        struct midge_conn *next = conn->next_request;

        shard->conn_count++;
        if (conn->state == MIDGE_CONN_FREE)
            midge_conn_open(shard, conn, conn->fd);
        else
            midge_conn_arrive(shard, conn);
        if (shard->stop_seen)
            midge_conn_close(shard, conn, MIDGE_E_SHUTDOWN);
        conn = next;
    }
}

static void on_accept(struct midge_shard *shard, const struct midge_ring_event *event)
{
    const uint32_t index = event->handle.index - LISTENER_INDEX_FIRST;
    struct midge_listener_state *listener = &shard->listeners[index];
    struct midge_shard *to;
    struct midge_conn *conn;

    MIDGE_ASSERT(index < shard->listener_count);
    listener->armed = event->more;
    if (event->res < 0) {
        on_accept_error(shard, -event->res);
        /* Not re-armed at once: with no descriptor free that would spin (139,028 times in 50 ms
         * were counted). A close, or the clock, does it. */
        shard->accept_at_ns = shard->now_ns + ACCEPT_RETRY_MS * NS_PER_MS;
        atomic_store_explicit(&shard->broker->accept_waits, true, memory_order_relaxed);
        return;
    }
    if (!event->more)
        shard->accept_at_ns = shard->now_ns;
    conn = shard->stop_seen ? NULL : midge_broker_take_slot(shard->broker);
    if (conn == NULL) {
        midge_stats_add(&shard->stats.rejected, 1);
        midge_ring_close(shard->ring, event->res);
        return;
    }
    to = shard->broker->spread ? shard_with_fewest(shard) : midge_balance_for_new(shard);
    if (to != shard) {
        conn->fd = event->res;
        midge_shard_send_away(shard, to, conn);
        return;
    }
    atomic_fetch_add_explicit(&shard->load, 1, memory_order_relaxed);
    shard->conn_count++;
    midge_conn_open(shard, conn, event->res);
}

static void rearm_accept(struct midge_shard *shard)
{
    if (MIDGE_LIKELY(shard->accept_at_ns == UINT64_MAX))
        return;
    if (shard->accept_at_ns > shard->now_ns &&
        atomic_load_explicit(&shard->broker->accept_waits, memory_order_relaxed))
        return;
    shard->accept_at_ns = UINT64_MAX;
    for (uint32_t i = 0; i < shard->listener_count; i++) {
        struct midge_listener_state *listener = &shard->listeners[i];

        if (listener->armed || !listener->wants_arm)
            continue;
        listener->armed = true;
        midge_ring_accept(shard->ring, listener->fd, listener_handle(i));
    }
}

void midge_shard_conn_closed(struct midge_shard *shard, struct midge_conn *conn)
{
    atomic_fetch_sub_explicit(&shard->load, 1, memory_order_relaxed);
    midge_stats_add(&shard->stats.disconnects, 1);
    midge_shard_mark_purge(shard, conn);
    /* A descriptor came free. */
    if (atomic_load_explicit(&shard->broker->accept_waits, memory_order_relaxed) &&
        atomic_exchange_explicit(&shard->broker->accept_waits, false, memory_order_relaxed)) {
        for (uint32_t i = 0; i < shard->broker->shard_count; i++)
            want_bell(shard, i);
    }
}

/* ---- purge ---- */

void midge_shard_mark_purge(struct midge_shard *shard, struct midge_conn *conn)
{
    if (conn->purge_queued)
        return;
    conn->purge_queued = true;
    conn->next_purge = shard->purging;
    shard->purging = conn;
}

/* After the grace period nobody can reach the slot through a match: it may be used anew. */
static void rest_over_cb(void *context, void *object)
{
    struct midge_shard *shard = context;
    struct midge_conn *conn = object;

    conn->generation++;
    midge_conn_set_state(conn, MIDGE_CONN_RESTING, MIDGE_CONN_FREE);
    midge_outbox_lock(&conn->outbox);
    MIDGE_ASSERT(!conn->outbox.queued);
    atomic_store_explicit(&conn->owner, NULL, memory_order_relaxed);
    midge_outbox_unlock(&conn->outbox);
    midge_broker_give_slot(shard->broker, conn);
    MIDGE_ASSERT(shard->conn_count > 0);
    shard->conn_count--;
}

static void purge(struct midge_shard *shard)
{
    uint32_t steps = MIDGE_PURGE_STEPS_MAX;

    while (shard->purging != NULL && steps > 0) {
        struct midge_conn *conn = shard->purging;

        if (!midge_conn_purge(shard, conn, &steps))
            return;
        shard->purging = conn->next_purge;
        conn->next_purge = NULL;
        conn->purge_queued = false;
        /* It may have waited for that. */
        if (conn->move_to != NULL)
            midge_shard_mark_dirty(shard, conn);
        if (conn->state != MIDGE_CONN_PURGING)
            continue; /* a CONNECT dropped them: the connection goes on */
        midge_conn_set_state(conn, MIDGE_CONN_PURGING, MIDGE_CONN_RESTING);
        midge_reclaim_retire(shard->participant, conn, shard, rest_over_cb);
    }
}

/* ---- memory ---- */

void midge_shard_charge(struct midge_shard *shard, int64_t bytes)
{
    const int64_t before = atomic_load_explicit(&shard->charged_bytes, memory_order_relaxed);

    if (bytes < 0)
        shard->uncharged_bytes += (uint64_t)-bytes;
    /* One writer: no read-modify-write needed. */
    atomic_store_explicit(&shard->charged_bytes, before + bytes, memory_order_relaxed);
}

/* True if max_memory is reached. The index is summed up only when this shard has come to hold a
 * step more than at the last look, or memory was short then: SUB, by which the index grows, looks
 * for itself. */
static bool is_memory_short(struct midge_shard *shard)
{
    const uint64_t bytes_max = shard->broker->memory_bytes_max;
    const uint64_t share = bytes_max / MEMORY_STEPS_MIN;
    const int64_t step = share < MEMORY_STEP_BYTES ? (int64_t)share : MEMORY_STEP_BYTES;
    const int64_t held = midge_pool_held_bytes(&shard->pool) +
                         atomic_load_explicit(&shard->charged_bytes, memory_order_relaxed);

    if (held < shard->held_bytes_seen)
        shard->held_bytes_seen = held;
    if (MIDGE_LIKELY(!shard->memory_short && !shard->look_at_memory &&
                     held - shard->held_bytes_seen < step))
        return false;
    shard->look_at_memory = false;
    shard->held_bytes_seen = held;
    shard->memory_short = midge_broker_memory_bytes(shard->broker) > bytes_max;
    return shard->memory_short;
}

/* Output and unfinished message of a connection of any shard, and what CONNECT said of one of ours.
 * Under its outbox lock. */
static uint64_t held_bytes_of(const struct midge_shard *shard, const struct midge_conn *conn)
{
    uint64_t bytes = conn->outbox.pending_bytes;

    bytes += atomic_load_explicit(&conn->incoming_bytes, memory_order_relaxed);
    if (midge_conn_owner(conn) == shard)
        bytes += midge_connect_bytes(&conn->options);
    return bytes;
}

/* The connection that holds most, of all shards. @return bytes, 0 if there is none */
static uint64_t find_largest(struct midge_shard *shard, struct midge_conn_ref *ref_out)
{
    uint64_t largest_bytes = 0;

    for (uint32_t i = 0; i < midge_broker_slot_high(shard->broker); i++) {
        struct midge_conn *conn = &shard->broker->conns[i];
        uint64_t bytes;
        uint32_t generation;

        midge_outbox_lock(&conn->outbox);
        bytes = held_bytes_of(shard, conn);
        generation = conn->outbox.generation;
        midge_outbox_unlock(&conn->outbox);
        if (bytes > largest_bytes) {
            *ref_out = (struct midge_conn_ref){i, generation};
            largest_bytes = bytes;
        }
    }
    return largest_bytes;
}

/* True if memory is short and it is this shard that picks. */
static bool begin_memory_pick(struct midge_shard *shard)
{
    struct midge_broker *broker = shard->broker;

    /* Acquire pairs with the release wherever a pick ends: what the last one freed is counted. */
    if (MIDGE_LIKELY(!is_memory_short(shard)) ||
        atomic_exchange_explicit(&broker->memory_picking, true, memory_order_acquire))
        return false;
    /* Between the two the pick of another shard may have ended: it was his memory that we missed,
     * and a second one would pay for it. */
    if (midge_broker_memory_bytes(broker) > broker->memory_bytes_max)
        return true;
    atomic_store_explicit(&broker->memory_picking, false, memory_order_release);
    return false;
}

/* Over max_memory the connection that holds most is closed, and then the next one when its memory
 * has come back: more at once would close more than needed. */
static void check_memory(struct midge_shard *shard)
{
    struct midge_broker *broker = shard->broker;
    struct midge_conn_ref ref = {0};
    struct midge_conn *conn;
    uint64_t bytes;
    bool picked;

    if (MIDGE_LIKELY(!begin_memory_pick(shard)))
        return;
    bytes = find_largest(shard, &ref);
    conn = &broker->conns[ref.index];
    midge_outbox_lock(&conn->outbox);
    /* It may have gone since we looked, or another shard may have sent all that it held. */
    picked =
        bytes > 0 && conn->outbox.generation == ref.generation && held_bytes_of(shard, conn) > 0;
    if (picked) {
        conn->outbox.memory_pick = true;
        midge_shard_request_close(shard, conn, MIDGE_E_MEMORY);
    }
    midge_outbox_unlock(&conn->outbox);
    if (!picked) {
        atomic_store_explicit(&broker->memory_picking, false, memory_order_release);
        return;
    }
    midge_conn_log(shard, conn, MIDGE_LOG_WARN,
                   "max_memory of %llu bytes reached: closing the connection that holds most "
                   "(%llu bytes)",
                   (unsigned long long)broker->memory_bytes_max, (unsigned long long)bytes);
}

/* Free pages go back to the system: about 1 ms for 10 MiB in small blocks, during which only calls
 * of the allocator have to wait. So another thread does it, if there is one, and traffic goes on.
 */
static void give_pages_back(struct midge_broker *broker)
{
    if (!broker->has_trimmer)
        (void)malloc_trim(0);
    else if (!atomic_exchange_explicit(&broker->trim_wanted, true, memory_order_relaxed) &&
             pthread_kill(broker->trimmer, midge_broker_trim_signal()) != 0)
        /* No room in the queue of signals (RLIMIT_SIGPENDING): after the next burst, then. */
        atomic_store_explicit(&broker->trim_wanted, false, memory_order_relaxed);
}

/* What all shards gave back to the allocator, ever, as they have said. */
static uint64_t freed_bytes(const struct midge_broker *broker)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < broker->shard_count; i++)
        bytes += atomic_load_explicit(&broker->shards[i]->freed_bytes, memory_order_relaxed);
    return bytes;
}

/* When a second has passed since this shard freed something. Each looks at what all have freed
 * since the last time, so what one leaves because it is too little counts for the next one. Without
 * a trimmer also in a turn without events only. */
static void trim_when_quiet(struct midge_shard *shard, bool found)
{
    struct midge_broker *broker = shard->broker;
    const uint64_t freed = shard->pool.released_bytes + shard->uncharged_bytes;
    uint64_t all;

    if (MIDGE_UNLIKELY(freed - atomic_load_explicit(&shard->freed_bytes, memory_order_relaxed) >=
                       TRIM_STEP_BYTES)) {
        atomic_store_explicit(&shard->freed_bytes, freed, memory_order_relaxed);
        shard->trim_at_ns = shard->now_ns + TRIM_QUIET_MS * NS_PER_MS;
        return;
    }
    if (MIDGE_LIKELY(shard->trim_at_ns > shard->now_ns) || (found && !broker->has_trimmer))
        return;
    shard->trim_at_ns = UINT64_MAX;
    all = freed_bytes(broker);
    /* Signed: another shard, here at the same time, may have seen more. */
    if ((int64_t)(all - atomic_load_explicit(&broker->trimmed_bytes, memory_order_relaxed)) <
        (int64_t)TRIM_BYTES_MIN)
        return;
    atomic_store_explicit(&broker->trimmed_bytes, all, memory_order_relaxed);
    give_pages_back(broker);
}

/* ---- the turn ---- */

static void on_event(struct midge_shard *shard, const struct midge_ring_event *event)
{
    struct midge_conn *conn;

    if (event->kind == MIDGE_RING_ACCEPT) {
        on_accept(shard, event);
        return;
    }
    MIDGE_ASSERT(event->handle.index < shard->broker->conn_cap);
    conn = &shard->broker->conns[event->handle.index];
    /* Operations end before their slot rests, so a late event can only be a fault of the seam. */
    MIDGE_ASSERT(conn->generation == event->handle.generation);
    midge_conn_on_event(shard, conn, event);
}

/* The sends that brought no event took all their bytes. */
static void settle_sends(struct midge_shard *shard)
{
    const uint32_t count = shard->submitted.count;

    shard->submitted.count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct midge_conn *conn = resolve(shard, shard->submitted.refs[i]);

        if (conn != NULL && conn->send_submitted)
            midge_conn_on_sent(shard, conn, (int64_t)conn->send_asked);
    }
}

static void rearm_recvs(struct midge_shard *shard)
{
    const uint32_t count = shard->rearm.count;

    shard->rearm.count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct midge_conn *conn = resolve(shard, shard->rearm.refs[i]);
        bool wanted;

        if (conn == NULL)
            continue;
        conn->rearm_queued = false;
        if (MIDGE_UNLIKELY(conn->backlog != NULL))
            midge_conn_use_backlog(shard, conn);
        wanted = (conn->state == MIDGE_CONN_OPEN && !conn->paused && conn->move_to == NULL) ||
                 conn->state == MIDGE_CONN_FLUSHING;
        if (!wanted || conn->recv_armed)
            continue;
        conn->recv_armed = true;
        midge_ring_recv(shard->ring, conn->fd,
                        (struct midge_handle){conn->index, conn->generation});
    }
}

static void fire_timers(struct midge_shard *shard)
{
    struct midge_timer *timer;

    while ((timer = midge_timers_expire(&shard->timers, shard->now_ns)) != NULL) {
        struct midge_conn *conn =
            (struct midge_conn *)(void *)((uint8_t *)timer - offsetof(struct midge_conn, timer));

        midge_conn_on_timer(shard, conn);
    }
}

/* Flush what was appended to connections of other shards; the first `count` of the dirty list. */
static void flush_foreign(struct midge_shard *shard, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct midge_conn_ref ref = shard->dirty.refs[i];
        struct midge_conn *conn = &shard->broker->conns[ref.index];
        const struct midge_shard *owner = midge_conn_owner(conn);

        if (owner != NULL && shard->foreign_counts[owner->index] > shard->broker->hand_over_min)
            midge_conn_hand_over(shard, conn, ref.generation);
        else
            midge_conn_flush_foreign(shard, conn, ref.generation);
    }
    memset(shard->foreign_counts, 0, shard->broker->shard_count * sizeof(*shard->foreign_counts));
}

static void flush_dirty(struct midge_shard *shard)
{
    uint32_t foreign_count = 0;

    /* A flush may put a connection on the list again, at most once per turn. */
    for (uint32_t i = 0; i < shard->dirty.count; i++) {
        const struct midge_conn_ref ref = shard->dirty.refs[i];
        struct midge_conn *conn = &shard->broker->conns[ref.index];
        const struct midge_shard *owner = midge_conn_owner(conn);

        if (owner == shard) {
            if (conn->generation == ref.generation)
                midge_conn_flush(shard, conn);
            continue;
        }
        if (owner != NULL)
            shard->foreign_counts[owner->index]++;
        shard->dirty.refs[foreign_count++] = ref;
    }
    if (MIDGE_UNLIKELY(foreign_count > 0))
        flush_foreign(shard, foreign_count);
    shard->dirty.count = 0;
    /* What is marked from here on is new, also before the next turn (a stop). */
    shard->turn++;
}

/* Ski rental: watching costs at most what a wake-up costs. Halved while it brings nothing, or many
 * messages at once, down to 0; restored when it brings few; tried again from time to time while
 * there is work that brings few. */
static void adapt_spin(struct midge_shard *shard, bool found)
{
    const uint64_t in_msgs = midge_stats_read(&shard->stats.in_msgs);
    const bool many = in_msgs - shard->spin_msgs > SPIN_MSGS_MAX;
    struct midge_ring_counts counts;

    shard->spin_msgs = in_msgs;
    if (shard->spin_ns_max == 0)
        return;
    if (shard->spin_ns == 0) {
        if (found && !many && shard->spin_probe-- == 0)
            shard->spin_ns = shard->spin_ns_max;
        return;
    }
    midge_ring_counts(shard->ring, &counts);
    if (counts.spin_hits != shard->spin_hits && !many) {
        shard->spin_hits = counts.spin_hits;
        shard->spins = counts.spins;
        shard->spin_ns = shard->spin_ns_max;
        return;
    }
    if (counts.spins == shard->spins && !many)
        return; /* there was work without watching */
    shard->spins = counts.spins;
    shard->spin_hits = counts.spin_hits;
    shard->spin_ns = shard->spin_ns / 2 < SPIN_NS_MIN ? 0 : shard->spin_ns / 2;
    shard->spin_probe = SPIN_PROBE_TURNS;
}

/* A grace period ends when every shard has begun a turn since: nearly always one or two turns of
 * this one later. Where another one lost its core in the middle of a turn that takes longer, and
 * turns of ours would only keep the core from it. */
static uint64_t reclaim_deadline(const struct midge_shard *shard)
{
    if (midge_reclaim_waiting(shard->participant) == 0)
        return UINT64_MAX;
    return shard->reclaim_turns < RECLAIM_TURNS ? 0 : shard->now_ns + RECLAIM_WAIT_NS;
}

static uint64_t wait_deadline(const struct midge_shard *shard, bool may_wait)
{
    uint64_t deadline_ns = reclaim_deadline(shard);
    uint64_t timer_ns;

    if (!may_wait || shard->settle_soon || shard->dirty.count > 0 || shard->purging != NULL ||
        shard->look_at_paused || shard->look_at_memory ||
        atomic_load_explicit(&shard->inbox, memory_order_relaxed) != NULL ||
        atomic_load_explicit(&shard->arrivals, memory_order_relaxed) != NULL)
        return 0;
    /* The grace period of the last connection may just have ended: no event is left to wait for. */
    if (MIDGE_UNLIKELY(shard->stop_seen) && midge_shard_is_idle(shard))
        return 0;
    timer_ns = midge_timers_next_ns(&shard->timers);
    if (timer_ns < deadline_ns)
        deadline_ns = timer_ns;
    if (shard->trim_at_ns < deadline_ns)
        deadline_ns = shard->trim_at_ns;
    return shard->accept_at_ns < deadline_ns ? shard->accept_at_ns : deadline_ns;
}

static void handle_events(struct midge_shard *shard)
{
    struct midge_ring_event event;
    bool found = false;

    while (midge_ring_next(shard->ring, &event)) {
        found = true;
        on_event(shard, &event);
    }
    adapt_spin(shard, found);
    trim_when_quiet(shard, found);
}

void midge_shard_turn(struct midge_shard *shard, bool may_wait)
{
    midge_reclaim_quiescent(shard->participant);
    shard->reclaim_turns =
        midge_reclaim_waiting(shard->participant) > 0 ? shard->reclaim_turns + 1 : 0;
    const uint64_t deadline_ns = wait_deadline(shard, may_wait);
    midge_reclaim_offline(shard->participant);
    midge_ring_wait(shard->ring, deadline_ns, deadline_ns == 0 ? 0 : shard->spin_ns);
    midge_reclaim_online(shard->participant);

    shard->settle_soon = false;
    shard->now_ns = midge_ring_now_ns(shard->ring);
    midge_stats_add(&shard->stats.turns, 1);
    handle_events(shard);
    settle_sends(shard);
    if (MIDGE_UNLIKELY(!shard->stop_seen &&
                       atomic_load_explicit(&shard->broker->stopping, memory_order_acquire)))
        midge_shard_stop(shard);
    fire_timers(shard);
    rearm_accept(shard);
    open_arrivals(shard);
    if (MIDGE_UNLIKELY(shard->config->move_turns > 0) &&
        shard->turn % shard->config->move_turns == 0)
        move_by_chance(shard);
    midge_balance_look(shard);
    check_memory(shard);
    take_requests(shard);
    look_at_paused(shard);
    purge(shard);
    rearm_recvs(shard);
    flush_dirty(shard);
    ring_bells(shard);
}

/* Until all have seen the end, one of them may still send a connection here; so that is looked at
 * first, and whether something has come only behind it. */
static bool has_ended(const struct midge_shard *shard)
{
    /* Acquire pairs with the release in midge_shard_stop(). */
    return atomic_load_explicit(&shard->broker->stopped_count, memory_order_acquire) ==
               shard->broker->shard_count &&
           midge_shard_is_idle(shard);
}

void midge_shard_run(struct midge_shard *shard)
{
    while (!has_ended(shard))
        midge_shard_turn(shard, true);
    midge_shard_leave(shard);
}

void midge_shard_leave(struct midge_shard *shard)
{
    midge_reclaim_offline(shard->participant);
}

/* ---- life ---- */

static void free_lists(struct midge_shard *shard)
{
    if (shard->dirty_turns != NULL)
        (void)munmap(shard->dirty_turns, shard->broker->conn_cap * sizeof(*shard->dirty_turns));
    if (shard->run_marks != NULL)
        (void)munmap(shard->run_marks, shard->broker->conn_cap * sizeof(*shard->run_marks));
    midge_balance_deinit(&shard->balance);
    list_deinit(&shard->dirty);
    list_deinit(&shard->submitted);
    list_deinit(&shard->rearm);
}

struct midge_shard *midge_shard_create(struct midge_broker *broker, uint16_t index,
                                       struct midge_ring **ring)
{
    struct midge_shard *shard = aligned_alloc(MIDGE_CACHE_LINE_LEN, sizeof(*shard));

    if (shard == NULL)
        return NULL;
    memset(shard, 0, sizeof(*shard));
    shard->broker = broker;
    shard->config = broker->config;
    shard->index = index;
    shard->thread = pthread_self();
    shard->accept_at_ns = UINT64_MAX;
    shard->trim_at_ns = UINT64_MAX;
    shard->turn = 1; /* 0 = never, in dirty_turns */
    midge_pool_init(&shard->pool, POOL_KEEP_BYTES / broker->shard_count > POOL_KEEP_BYTES_MIN
                                      ? POOL_KEEP_BYTES / broker->shard_count
                                      : POOL_KEEP_BYTES_MIN);
    shard->dirty_turns = map_array(broker->conn_cap * sizeof(*shard->dirty_turns));
    shard->run_marks = map_array(broker->conn_cap * sizeof(*shard->run_marks));
    if (shard->dirty_turns == NULL || shard->run_marks == NULL ||
        !midge_balance_init(&shard->balance, broker->look_ns) ||
        !list_init(&shard->dirty, broker->conn_cap) ||
        !list_init(&shard->submitted, broker->conn_cap) ||
        !list_init(&shard->rearm, broker->conn_cap))
        goto err_free_shard;
    shard->log = midge_log_register(broker->log);
    shard->participant = midge_reclaim_register(broker->reclaim);
    if (shard->log == NULL || shard->participant == NULL)
        goto err_free_shard;
    shard->reader = midge_subindex_reader_create(broker->index, shard->participant);
    if (shard->reader == NULL)
        goto err_free_shard;
    shard->ring = *ring;
    *ring = NULL;
    shard->now_ns = midge_ring_now_ns(shard->ring);
    midge_timers_init(&shard->timers, shard->now_ns);
    shard->spin_ns_max = 0;
    midge_reclaim_online(shard->participant);
    broker->shards[index] = shard;
    return shard;

err_free_shard:
    free_lists(shard);
    free(shard);
    return NULL;
}

void midge_shard_destroy(struct midge_shard *shard)
{
    MIDGE_ASSERT(midge_shard_is_idle(shard));

    if (midge_reclaim_is_online(shard->participant)) {
        midge_reclaim_quiescent(shard->participant);
        midge_reclaim_offline(shard->participant);
    }
    midge_ring_destroy(shard->ring);
    midge_subindex_reader_destroy(shard->reader);
    midge_spares_deinit(&shard->spares, &shard->pool);
    midge_pool_deinit(&shard->pool);
    free_lists(shard);
    shard->broker->shards[shard->index] = NULL;
    free(shard);
}

void midge_shard_stop(struct midge_shard *shard)
{
    if (shard->stop_seen)
        return;
    shard->stop_seen = true;
    /* Release pairs with the acquire in midge_shard_run(): what we sent away before is there. */
    atomic_fetch_add_explicit(&shard->broker->stopped_count, 1, memory_order_release);
    for (uint32_t i = 0; i < shard->listener_count; i++) {
        shard->listeners[i].wants_arm = false;
        if (shard->listeners[i].armed)
            midge_ring_cancel(shard->ring, shard->listeners[i].fd, listener_handle(i));
    }
    for (uint32_t i = 0; i < midge_broker_slot_high(shard->broker); i++) {
        struct midge_conn *conn = &shard->broker->conns[i];

        if (midge_conn_owner(conn) == shard &&
            (conn->state == MIDGE_CONN_OPEN || conn->state == MIDGE_CONN_FLUSHING))
            midge_conn_close(shard, conn, MIDGE_E_SHUTDOWN);
    }
}

void midge_shard_set_spin(struct midge_shard *shard, uint64_t spin_ns_max)
{
    shard->spin_ns_max = spin_ns_max;
    shard->spin_ns = spin_ns_max;
}

bool midge_shard_is_idle(const struct midge_shard *shard)
{
    for (uint32_t i = 0; i < shard->listener_count; i++) {
        if (shard->listeners[i].armed)
            return false;
    }
    if (atomic_load_explicit(&shard->arrivals, memory_order_relaxed) != NULL)
        return false;
    /* What is retired names the shard: it must be freed before. */
    return shard->conn_count == 0 && midge_reclaim_waiting(shard->participant) == 0;
}

void midge_shard_assert_owner(const struct midge_shard *shard)
{
    MIDGE_DEBUG_ASSERT(pthread_equal(shard->thread, pthread_self()));
    (void)shard;
}
