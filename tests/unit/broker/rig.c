/* Shards on the simulated ring, for tests; see rig.h. */
#include "rig.h"

#include <criterion/criterion.h>
#include <string.h>

#define SEED         42u
#define SETTLE_TURNS 100u
#define STEP_MS      100u
#define WRITES_MAX   10000u

void midge_rig_prepare(struct midge_rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    midge_config_init(&rig->config);
    rig->config.connections_max = 64;
    rig->shard_count = 1;
}

void midge_rig_start(struct midge_rig *rig)
{
    const struct midge_sim_options options = {.seed = SEED};

    cr_assert_leq(rig->shard_count, MIDGE_RIG_SHARDS_MAX);
    cr_assert_eq(midge_log_create(&rig->config, &rig->log), MIDGE_OK);
    cr_assert_eq(midge_broker_init(&rig->broker, &rig->config, rig->log, SEED), MIDGE_OK);
    rig->broker.shard_count = rig->shard_count;
    rig->broker.look_ns = rig->look_ns;
    rig->sim = midge_sim_create(&options);
    rig->listener = midge_sim_listen(rig->sim);
    for (uint32_t i = 0; i < rig->shard_count; i++) {
        struct midge_ring *ring = midge_sim_ring_create(rig->sim, NULL);

        rig->shards[i] = midge_shard_create(&rig->broker, (uint16_t)i, &ring);
        cr_assert_not_null(rig->shards[i]);
    }
    rig->shard = rig->shards[0];
    midge_shard_add_listener(rig->shard, rig->listener);
}

/* Each shard once. */
static void turn(struct midge_rig *rig)
{
    for (uint32_t i = 0; i < rig->shard_count; i++)
        midge_shard_turn(rig->shards[i], false);
}

void midge_rig_stop(struct midge_rig *rig)
{
    int64_t charged_bytes = 0;

    for (uint32_t i = 0; i < rig->shard_count; i++)
        midge_shard_stop(rig->shards[i]);
    for (uint32_t i = 0; i < rig->shard_count; i++) {
        while (!midge_shard_is_idle(rig->shards[i])) {
            turn(rig);
            midge_sim_advance(rig->sim, STEP_MS * NS_PER_MS);
        }
        /* What moved is charged to one and given back to another. */
        charged_bytes += rig->shards[i]->charged_bytes;
    }
    cr_assert_eq(charged_bytes, 0);
    midge_rig_free(rig);
}

void midge_rig_free(struct midge_rig *rig)
{
    for (uint32_t i = 0; i < rig->shard_count; i++)
        midge_shard_destroy(rig->shards[i]);
    midge_sim_destroy(rig->sim);
    midge_broker_deinit(&rig->broker);
    midge_log_destroy(rig->log);
    midge_config_deinit(&rig->config);
}

void midge_rig_settle(struct midge_rig *rig)
{
    for (uint32_t i = 0; i < SETTLE_TURNS; i++)
        turn(rig);
}

void midge_rig_pass_ms(struct midge_rig *rig, uint64_t ms)
{
    while (ms > 0) {
        const uint64_t step = ms < STEP_MS ? ms : STEP_MS;

        midge_sim_advance(rig->sim, step * NS_PER_MS);
        midge_rig_settle(rig);
        ms -= step;
    }
}

void midge_rig_write(struct midge_rig *rig, uint32_t peer, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;

    for (uint32_t i = 0; len > 0; i++) {
        const uint32_t taken =
            midge_sim_peer_write(rig->sim, peer, midge_slice_make(at, (uint32_t)len));

        cr_assert_lt(i, WRITES_MAX, "the broker does not read");
        at += taken;
        len -= taken;
        turn(rig);
    }
}

void midge_rig_write_text(struct midge_rig *rig, uint32_t peer, const char *text)
{
    midge_rig_write(rig, peer, text, strlen(text));
}

uint64_t midge_rig_drain(struct midge_rig *rig, uint32_t peer)
{
    uint64_t total = 0;
    uint32_t len;

    midge_rig_settle(rig);
    while ((len = midge_sim_peer_read(rig->sim, peer, NULL, UINT32_MAX)) > 0) {
        total += len;
        midge_rig_settle(rig);
    }
    return total;
}

uint32_t midge_rig_join(struct midge_rig *rig, const char *text)
{
    const uint32_t peer = midge_sim_peer_connect(rig->sim, rig->listener);

    midge_rig_write_text(rig, peer, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
    midge_rig_write_text(rig, peer, text);
    (void)midge_rig_drain(rig, peer);
    return peer;
}

struct midge_conn *midge_rig_conn(struct midge_rig *rig, uint32_t peer)
{
    /* Slots are taken in the order in which peers connect. */
    return &rig->broker.conns[peer];
}
