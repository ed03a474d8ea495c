/* What all shards share: slots, index, identity; see broker.h. */
#include "broker.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cgroup.h"
#include "conn.h"
#include "shard.h"

static bool map_slots(struct midge_broker *broker)
{
    const size_t conns_len = (size_t)broker->conn_cap * sizeof(struct midge_conn);
    const size_t free_len = (size_t)broker->conn_cap * sizeof(uint32_t);

    broker->conns = mmap(NULL, conns_len, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (broker->conns == MAP_FAILED) {
        broker->conns = NULL;
        return false;
    }
    broker->free_slots = mmap(NULL, free_len, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (broker->free_slots == MAP_FAILED) {
        broker->free_slots = NULL;
        return false;
    }
    return true;
}

static void unmap_slots(struct midge_broker *broker)
{
    if (broker->conns != NULL)
        (void)munmap(broker->conns, (size_t)broker->conn_cap * sizeof(struct midge_conn));
    if (broker->free_slots != NULL)
        (void)munmap(broker->free_slots, (size_t)broker->conn_cap * sizeof(uint32_t));
}

/* One step of splitmix64. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t value = (*state += 0x9e3779b97f4a7c15ull);

    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    return value ^ (value >> 31);
}

/* An id of the shape that nats-server's have: `N` and 55 characters of base32. */
static void make_server_id(struct midge_broker *broker)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    uint64_t state = broker->seed;

    broker->server_id[0] = 'N';
    for (uint32_t i = 1; i < 56; i++)
        broker->server_id[i] = digits[next_random(&state) % 32];
    broker->server_id[56] = '\0';
}

/* Half of what this process may use: RAM, or its cgroup's limit where that is less. */
static uint64_t default_memory_bytes(void)
{
    const uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t limit = midge_cgroup_memory_bytes();

    return (limit < ram ? limit : ram) / 2;
}

enum midge_status midge_broker_init(struct midge_broker *broker, const struct midge_config *config,
                                    struct midge_log *log, uint64_t seed)
{
    memset(broker, 0, sizeof(*broker));
    broker->config = config;
    broker->log = log;
    broker->seed = seed;
    broker->connections_max = config->connections_max;
    broker->hand_over_min = MIDGE_HAND_OVER_MIN;
    broker->sends_per_flush = MIDGE_SENDS_PER_FLUSH;
    broker->conn_cap = config->connections_max + MIDGE_CONN_SLOTS_EXTRA;
    broker->memory_bytes_max =
        config->memory_bytes_max != 0 ? config->memory_bytes_max : default_memory_bytes();
    atomic_init(&broker->next_cid, 1);
    if (pthread_mutex_init(&broker->slot_lock, NULL) != 0)
        return MIDGE_E_MEMORY;
    make_server_id(broker);
    (void)snprintf(broker->server_name, sizeof(broker->server_name), "%s",
                   config->server_name != NULL ? config->server_name : broker->server_id);
    broker->reclaim = midge_reclaim_create();
    if (broker->reclaim == NULL)
        goto err_destroy_lock;
    broker->index = midge_subindex_create(broker->reclaim, seed);
    if (broker->index == NULL)
        goto err_destroy_reclaim;
    if (!map_slots(broker))
        goto err_destroy_index;
    return MIDGE_OK;

err_destroy_index:
    unmap_slots(broker);
    midge_subindex_destroy(broker->index);
err_destroy_reclaim:
    midge_reclaim_destroy(broker->reclaim);
err_destroy_lock:
    (void)pthread_mutex_destroy(&broker->slot_lock);
    return MIDGE_E_MEMORY;
}

void midge_broker_deinit(struct midge_broker *broker)
{
    /* The index first: what it still holds is retired or freed before the domain goes. */
    midge_subindex_destroy(broker->index);
    midge_reclaim_destroy(broker->reclaim);
    unmap_slots(broker);
    (void)pthread_mutex_destroy(&broker->slot_lock);
}

struct midge_conn *midge_broker_take_slot(struct midge_broker *broker)
{
    struct midge_conn *conn = NULL;

    (void)pthread_mutex_lock(&broker->slot_lock);
    if (broker->free_count > 0) {
        conn = &broker->conns[broker->free_slots[--broker->free_count]];
    } else {
        const uint32_t high = atomic_load_explicit(&broker->slot_high, memory_order_relaxed);

        if (high < broker->conn_cap) {
            conn = &broker->conns[high];
            conn->index = high;
            conn->fd = -1;
            conn->generation = 1;
            /* Release pairs with the acquire in midge_broker_slot_high(). */
            atomic_store_explicit(&broker->slot_high, high + 1, memory_order_release);
        }
    }
    (void)pthread_mutex_unlock(&broker->slot_lock);
    return conn;
}

void midge_broker_give_slot(struct midge_broker *broker, struct midge_conn *conn)
{
    MIDGE_ASSERT(conn->state == MIDGE_CONN_FREE);

    (void)pthread_mutex_lock(&broker->slot_lock);
    MIDGE_ASSERT(broker->free_count < broker->conn_cap);
    broker->free_slots[broker->free_count++] = conn->index;
    (void)pthread_mutex_unlock(&broker->slot_lock);
}

uint32_t midge_broker_slot_high(const struct midge_broker *broker)
{
    /* Acquire pairs with the release in midge_broker_take_slot(). */
    return atomic_load_explicit(&broker->slot_high, memory_order_acquire);
}

uint64_t midge_broker_memory_bytes(const struct midge_broker *broker)
{
    int64_t bytes = 0;

    for (uint32_t i = 0; i < broker->shard_count; i++) {
        const struct midge_shard *shard = broker->shards[i];

        if (shard == NULL)
            continue;
        bytes += midge_pool_held_bytes(&shard->pool);
        bytes += atomic_load_explicit(&shard->charged_bytes, memory_order_relaxed);
    }
    return midge_subindex_bytes(broker->index) + (bytes > 0 ? (uint64_t)bytes : 0);
}
