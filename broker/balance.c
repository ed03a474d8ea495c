/* Which shard reads which connections; see balance.h. */
#include "balance.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "broker.h"
#include "conn.h"
#include "shard.h"
#include "trace.h"

/* Shares of a core, in thousandths. A shard above the first one is busy, in so many looks in a row;
 * what it gives away goes to one that is less busy by at least the second. */
#define BUSY_PERMILLE 800u
#define BUSY_LOOKS    3u
#define GAP_PERMILLE  300u

/* Nothing is given away where less than this of a core was idle: on a machine that has no core left
 * it would take time from those that it waits for, and a shard may look less busy because it gets
 * none. */
#define SPARE_PERMILLE 500u

/* A shard takes in who talks to its connections until it is so busy, … */
#define JOIN_PERMILLE 500u
/* … and one with a lower index gives such away from here on. With one bound both would move. */
#define LEAVE_PERMILLE 600u
/* How many looks in a row a connection talks to another shard before it goes there. */
#define AWAY_LOOKS 8u

/* This shard and the first one together, for as long as so many looks take. */
#define CALM_PERMILLE 400u
#define CALM_LOOKS    50u

/* Connections that one look moves at most to join or to shrink. */
#define MOVES_MAX 64u

/* After it gave something away, or found nothing to give, a shard sees what comes of it. */
#define REST_LOOKS 10u

/* ---- choosing ---- */

static uint32_t find_group(struct midge_balance_unit *units, uint32_t unit)
{
    while (units[unit].group != unit) {
        units[unit].group = units[units[unit].group].group;
        unit = units[unit].group;
    }
    return unit;
}

/* Sum up the groups, and list the units that stand for one that has weight. @return their number */
static uint32_t form_groups(struct midge_balance_unit *units, uint32_t *order, uint32_t count)
{
    uint32_t group_count = 0;

    for (uint32_t i = 0; i < count; i++) {
        units[i].group = i;
        units[i].group_weight = 0;
        units[i].chosen = false;
    }
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; units[i].present && k < 2; k++) {
            const uint32_t other = units[i].friends[k];

            if (other != MIDGE_BALANCE_NONE && units[other].present)
                units[find_group(units, other)].group = find_group(units, i);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (units[i].present)
            units[find_group(units, i)].group_weight += units[i].weight;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (units[i].group_weight > 0)
            order[group_count++] = i;
    }
    return group_count;
}

static int heavier_group_first(const void *a, const void *b, void *context)
{
    const struct midge_balance_unit *units = context;
    const uint64_t first = units[*(const uint32_t *)a].group_weight;
    const uint64_t second = units[*(const uint32_t *)b].group_weight;

    return first > second ? -1 : first < second;
}

static int heavier_first(const void *a, const void *b, void *context)
{
    const struct midge_balance_unit *units = context;
    const uint64_t first = units[*(const uint32_t *)a].weight;
    const uint64_t second = units[*(const uint32_t *)b].weight;

    return first > second ? -1 : first < second;
}

/* True if so much more may be chosen. */
static bool fits(uint64_t weight, uint64_t chosen, uint64_t want)
{
    return chosen + weight <= want + want / 10;
}

static uint64_t choose_units(struct midge_balance_unit *units, uint32_t *order, uint32_t count,
                             uint64_t chosen, uint64_t want)
{
    uint32_t single_count = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (units[i].present && !units[i].chosen && units[i].weight > 0)
            order[single_count++] = i;
    }
    qsort_r(order, single_count, sizeof(*order), heavier_first, units);
    for (uint32_t i = 0; i < single_count; i++) {
        if (!fits(units[order[i]].weight, chosen, want))
            continue;
        units[order[i]].chosen = true;
        chosen += units[order[i]].weight;
    }
    return chosen;
}

uint64_t midge_balance_choose(struct midge_balance_unit *units, uint32_t *order, uint32_t count,
                              uint64_t want)
{
    const uint32_t group_count = form_groups(units, order, count);
    uint64_t chosen = 0;

    qsort_r(order, group_count, sizeof(*order), heavier_group_first, units);
    for (uint32_t i = 0; i < group_count; i++) {
        if (!fits(units[order[i]].group_weight, chosen, want))
            continue;
        units[order[i]].chosen = true;
        chosen += units[order[i]].group_weight;
    }
    for (uint32_t i = 0; i < count; i++)
        units[i].chosen = units[i].present && units[find_group(units, i)].chosen;
    return chosen < want / 4 ? choose_units(units, order, count, chosen, want) : chosen;
}

/* ---- looking ---- */

/* What one look knows. */
struct look {
    struct midge_shard *shard;
    struct midge_balance *balance;
    uint32_t first; /* slot of unit 0 */
    uint32_t high;  /* slots in use or used before */
    uint32_t count; /* units */
    uint64_t weight;
    uint64_t moved; /* permille of a core that go elsewhere */
    uint32_t moves;
};

bool midge_balance_init(struct midge_balance *balance, uint64_t look_ns)
{
    void *units;

    memset(balance, 0, sizeof(*balance));
    if (look_ns == 0)
        return true;
    units = mmap(NULL, MIDGE_BALANCE_SLOTS * sizeof(*balance->units), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (units == MAP_FAILED)
        return false;
    balance->units = units;
    balance->look_ns = look_ns;
    return true;
}

void midge_balance_deinit(struct midge_balance *balance)
{
    if (balance->units != NULL)
        (void)munmap(balance->units, MIDGE_BALANCE_SLOTS * sizeof(*balance->units));
    balance->units = NULL;
}

/* How busy every shard was since the last look. @return false if that says nothing yet */
static bool measure(struct midge_shard *shard)
{
    struct midge_balance *balance = &shard->balance;
    const uint64_t span_ns = shard->now_ns - balance->looked_at_ns;
    const bool first = balance->looked_at_ns == 0;

    for (uint32_t i = 0; i < shard->broker->shard_count; i++) {
        const uint64_t busy_ns = midge_ring_busy_ns(shard->broker->shards[i]->ring);
        const uint64_t used_ns = busy_ns > balance->busy_ns[i] ? busy_ns - balance->busy_ns[i] : 0;

        balance->permilles[i] = first ? 0 : (uint32_t)(used_ns * 1000 / span_ns);
        balance->busy_ns[i] = busy_ns;
    }
    balance->looked_at_ns = shard->now_ns;
    return !first;
}

static struct midge_conn *conn_of(const struct look *look, uint32_t unit)
{
    return &look->shard->broker->conns[(look->first + unit) % look->high];
}

static uint32_t unit_of(const struct look *look, uint32_t index)
{
    const uint32_t unit = (index + look->high - look->first) % look->high;

    return index < look->high && unit < look->count ? unit : MIDGE_BALANCE_NONE;
}

/* How many looks in a row the connection has talked to another shard; it is that of its last
 * partner. */
static void note_partner(struct look *look, struct midge_conn *conn, uint32_t partner)
{
    const struct midge_shard *owner;

    if (partner == MIDGE_BALANCE_NONE || partner >= look->high)
        return;
    owner = midge_conn_owner(&look->shard->broker->conns[partner]);
    if (owner == NULL || owner == look->shard)
        conn->away_looks = 0;
    else if (conn->away_looks < AWAY_LOOKS)
        conn->away_looks++;
    conn->away_shard = owner != NULL ? owner->index : look->shard->index;
}

/* Take what a connection did since it was looked at last. */
static void look_at_conn(struct look *look, uint32_t index)
{
    struct midge_balance_unit *unit = &look->balance->units[index];
    struct midge_conn *conn = conn_of(look, index);
    uint32_t last_from;

    *unit = (struct midge_balance_unit){.friends = {MIDGE_BALANCE_NONE, MIDGE_BALANCE_NONE}};
    if (midge_conn_owner(conn) != look->shard || conn->state != MIDGE_CONN_OPEN || conn->paused ||
        conn->move_to != NULL)
        return;
    last_from =
        atomic_exchange_explicit(&conn->outbox.last_from, MIDGE_BALANCE_NONE, memory_order_relaxed);
    unit->present = true;
    unit->weight = conn->work;
    unit->friends[0] = unit_of(look, conn->last_to);
    unit->friends[1] = unit_of(look, last_from);
    look->weight += conn->work;
    note_partner(look, conn, conn->last_to != MIDGE_BALANCE_NONE ? conn->last_to : last_from);
    conn->work = 0;
    conn->last_to = MIDGE_BALANCE_NONE;
}

static void look_at_conns(struct look *look)
{
    for (uint32_t i = 0; i < look->count; i++)
        look_at_conn(look, i);
    look->balance->cursor = (look->first + look->count) % look->high;
}

static void move_one(struct look *look, struct midge_conn *conn, struct midge_shard *to)
{
    conn->away_looks = 0;
    midge_conn_move(look->shard, conn, to);
    look->moves++;
}

/* ---- spread ---- */

static bool is_used(const struct midge_shard *shard)
{
    return atomic_load_explicit(&shard->load, memory_order_relaxed) > 0;
}

/* True if a core was idle while this shard was busy. */
static bool has_spare_core(struct midge_shard *shard)
{
    const struct midge_balance *balance = &shard->balance;
    const uint64_t span_ns = shard->now_ns - balance->idle_at_ns;
    const uint64_t idle_ns = midge_ring_idle_ns(shard->ring);

    /* The kernel's count of time in wait for a disk can go back. */
    return idle_ns > balance->idle_ns &&
           idle_ns - balance->idle_ns >= span_ns / 1000 * SPARE_PERMILLE;
}

/* The shard that takes a part: the least busy of those in use if it has room, or else one more.
 * NULL = none. */
static struct midge_shard *find_room(struct midge_shard *shard)
{
    const struct midge_balance *balance = &shard->balance;
    const uint32_t most = balance->permilles[shard->index] - GAP_PERMILLE;
    struct midge_shard *best = NULL;
    struct midge_shard *unused = NULL;

    for (uint32_t i = 0; i < shard->broker->shard_count; i++) {
        struct midge_shard *other = shard->broker->shards[i];

        if (other == shard || balance->permilles[i] > most)
            continue;
        if (!is_used(other))
            unused = unused != NULL ? unused : other;
        else if (best == NULL || balance->permilles[i] < balance->permilles[best->index])
            best = other;
    }
    if (best == NULL || (unused != NULL && balance->permilles[best->index] >= JOIN_PERMILLE))
        return unused;
    return best;
}

static void spread(struct look *look)
{
    struct midge_balance *balance = look->balance;
    struct midge_shard *shard = look->shard;
    struct midge_shard *to = find_room(shard);
    uint64_t want;

    balance->busy_looks = 0;
    if (to == NULL || !has_spare_core(shard))
        return;
    balance->rest_until_ns = shard->now_ns + REST_LOOKS * balance->look_ns;
    /* Half of the difference makes them equal. */
    want = look->weight * (balance->permilles[shard->index] - balance->permilles[to->index]) /
           (2ull * balance->permilles[shard->index]);
    if (midge_balance_choose(balance->units, balance->order, look->count, want) == 0)
        return;
    for (uint32_t i = 0; i < look->count; i++) {
        if (!balance->units[i].chosen)
            continue;
        move_one(look, conn_of(look, i), to);
    }
    midge_stats_add(&shard->stats.spread_moves, look->moves);
    midge_log_write(shard->log, MIDGE_LOG_DEBUG,
                    "Thread %u used %u/1000 of a core: %u connections move to thread %u",
                    shard->index, balance->permilles[shard->index], look->moves, to->index);
}

/* True if it has been busy for long enough to do something about it. */
static bool is_overloaded(struct midge_shard *shard)
{
    struct midge_balance *balance = &shard->balance;

    if (balance->permilles[shard->index] < BUSY_PERMILLE ||
        shard->now_ns < balance->rest_until_ns) {
        balance->busy_looks = 0;
        return false;
    }
    if (balance->busy_looks++ == 0) {
        balance->idle_ns = midge_ring_idle_ns(shard->ring);
        balance->idle_at_ns = shard->now_ns;
    }
    return balance->busy_looks > BUSY_LOOKS;
}

/* ---- join, shrink ---- */

/* True if a connection should go where its partners are. The bounds of the two directions exclude
 * each other: else both partners would move. */
static bool should_join(const struct look *look, uint32_t to, uint64_t permille, bool passive)
{
    const struct midge_balance *balance = look->balance;
    const uint32_t own = look->shard->index;

    /* One that only gets messages brings no work: it is sent to by those who publish to it. */
    if (passive)
        return to < own || balance->permilles[own] > JOIN_PERMILLE;
    if (balance->permilles[to] + look->moved + permille > JOIN_PERMILLE)
        return false;
    return to < own || balance->permilles[own] > LEAVE_PERMILLE;
}

static void join(struct look *look)
{
    const struct midge_shard *shard = look->shard;

    for (uint32_t i = 0; i < look->count && look->moves < MOVES_MAX; i++) {
        const struct midge_balance_unit *unit = &look->balance->units[i];
        struct midge_conn *conn = conn_of(look, i);
        uint64_t permille;

        if (!unit->present || conn->away_looks < AWAY_LOOKS)
            continue;
        permille = look->weight > 0
                       ? look->balance->permilles[shard->index] * unit->weight / look->weight
                       : 0;
        if (!should_join(look, conn->away_shard, permille, unit->weight == 0))
            continue;
        look->moved += permille;
        move_one(look, conn, shard->broker->shards[conn->away_shard]);
        midge_stats_add(&look->shard->stats.join_moves, 1);
    }
}

static void shrink(struct look *look)
{
    struct midge_balance *balance = look->balance;
    const uint32_t own = look->shard->index;

    if (own == 0 || balance->permilles[own] + balance->permilles[0] > CALM_PERMILLE) {
        balance->calm_since_ns = 0;
        return;
    }
    if (balance->calm_since_ns == 0)
        balance->calm_since_ns = look->shard->now_ns;
    if (look->shard->now_ns - balance->calm_since_ns < CALM_LOOKS * balance->look_ns)
        return;
    for (uint32_t i = 0; i < look->count && look->moves < MOVES_MAX; i++) {
        if (!balance->units[i].present || conn_of(look, i)->move_to != NULL)
            continue;
        move_one(look, conn_of(look, i), look->shard->broker->shards[0]);
        midge_stats_add(&look->shard->stats.shrink_moves, 1);
    }
}

void midge_balance_look(struct midge_shard *shard)
{
    struct midge_balance *balance = &shard->balance;
    struct look look = {.shard = shard, .balance = balance, .first = balance->cursor};
    bool known;

    if (MIDGE_LIKELY(balance->look_ns == 0 || shard->now_ns < balance->look_at_ns) ||
        shard->stop_seen)
        return;
    balance->look_at_ns = shard->now_ns + balance->look_ns;
    look.high = midge_broker_slot_high(shard->broker);
    look.count = look.high < MIDGE_BALANCE_SLOTS ? look.high : MIDGE_BALANCE_SLOTS;
    known = measure(shard);
    if (look.high == 0)
        return;
    look_at_conns(&look);
    if (!known)
        return;
    if (is_overloaded(shard)) {
        spread(&look);
    } else {
        join(&look);
        shrink(&look);
    }
}

struct midge_shard *midge_balance_for_new(struct midge_shard *shard)
{
    const struct midge_balance *balance = &shard->balance;
    struct midge_shard *best = shard;

    if (balance->look_ns == 0 || balance->permilles[shard->index] < BUSY_PERMILLE)
        return shard;
    for (uint32_t i = 0; i < shard->broker->shard_count; i++) {
        struct midge_shard *other = shard->broker->shards[i];

        if (is_used(other) && balance->permilles[i] < balance->permilles[best->index])
            best = other;
    }
    return best;
}
