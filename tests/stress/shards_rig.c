/* A broker of several shards; see shards_rig.h. */
#include "shards_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TELL_TENTHS 100u /* of a second, from one line of progress to the next */

void midge_scene_fail(const struct midge_scene *scene, const char *format, ...)
{
    va_list args;

    (void)fprintf(stderr, "stress_shards %s %" PRIu64 " %s: ", scene->name, scene->seed,
                  scene->kind);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    (void)fflush(NULL);
    _exit(1); /* other threads go on: no handlers */
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

uint32_t midge_random_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)((next_random(state) >> 16) % bound);
}

void midge_pause_us(uint32_t us)
{
    const struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};

    (void)nanosleep(&pause, NULL);
}

static uint64_t monotonic_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- the broker ---- */

static void open_listener(struct midge_rig_shard *mine)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    mine->listener_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(&mine->rig->scene,
          mine->listener_fd >= 0 &&
              bind(mine->listener_fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
              listen(mine->listener_fd, 128) == 0 &&
              getsockname(mine->listener_fd, (struct sockaddr *)&address, &len) == 0,
          "cannot listen: %s", strerror(errno));
    mine->port = ntohs(address.sin_port);
}

static void *shard_main(void *argument)
{
    struct midge_rig_shard *mine = argument;
    struct midge_rig *rig = mine->rig;
    const struct midge_ring_options options = {.kind = rig->kind};
    struct midge_ring *ring;
    char why[128];

    /* One after another: TSan sees no munmap of liburing's own, and so takes the rings that the
     * self-tests of two threads map at one address, one after the other, for one. */
    (void)pthread_mutex_lock(&rig->making);
    CHECK(&rig->scene, midge_ring_create(&options, &ring, why) == MIDGE_OK, "no ring: %s", why);
    (void)pthread_mutex_unlock(&rig->making);
    mine->shard = midge_shard_create(&rig->broker, mine->index, &ring);
    CHECK(&rig->scene, mine->shard != NULL, "no shard");
    midge_shard_add_listener(mine->shard, mine->listener_fd);
    (void)pthread_barrier_wait(&rig->made);
    midge_shard_run(mine->shard);
    return NULL;
}

uint64_t midge_rig_pick(const struct midge_rig *rig, uint64_t short_count, uint64_t long_count)
{
    const uint64_t part = long_count * rig->long_percent / 100;

    return part > short_count ? part : short_count;
}

void midge_rig_step(struct midge_rig *rig, uint64_t count)
{
    (void)atomic_fetch_add_explicit(&rig->steps_done, count, memory_order_relaxed);
}

static void tell_progress(const struct midge_rig *rig)
{
    (void)printf("%s %" PRIu64 " %s: %" PRIu64, rig->scene.name, rig->scene.seed, rig->scene.kind,
                 atomic_load(&rig->steps_done));
    if (rig->step_count > 0)
        (void)printf(" of %" PRIu64, rig->step_count);
    (void)printf(" %s, %.0f s\n", rig->step_name,
                 (double)(monotonic_ns() - rig->started_at_ns) / 1e9);
    (void)fflush(stdout);
}

static void *teller_main(void *argument)
{
    struct midge_rig *rig = argument;

    for (uint32_t tenths = 1; !atomic_load(&rig->over); tenths++) {
        midge_pause_us(100000);
        if (tenths % TELL_TENTHS == 0)
            tell_progress(rig);
    }
    return NULL;
}

static void start_teller(struct midge_rig *rig)
{
    rig->started_at_ns = monotonic_ns();
    if (rig->long_percent == 0)
        return;
    CHECK(&rig->scene, rig->step_name != NULL, "a case without a long run");
    CHECK(&rig->scene, pthread_create(&rig->teller, NULL, teller_main, rig) == 0, "no thread");
}

/* Where it ended, and what it was made of. */
static void stop_teller(struct midge_rig *rig, const struct midge_rig_sums *sums)
{
    if (rig->long_percent == 0)
        return;
    atomic_store(&rig->over, true);
    (void)pthread_join(rig->teller, NULL);
    tell_progress(rig);
    (void)printf("    %" PRIu64 " messages, %" PRIu64 " deliveries (%" PRIu64 " delivered, %" PRIu64
                 " discarded; %" PRIu64 " dropped), %" PRIu64 " connections, %" PRIu64
                 " moves in %" PRIu64 " turns\n",
                 sums->in_msgs, sums->matched, sums->delivered, sums->discarded,
                 sums->matched - sums->out_msgs, sums->connects, sums->moves, sums->turns);
}

void midge_rig_start(struct midge_rig *rig)
{
    rig->config.connections_max = 1024;
    /* Beyond our patience: on a busy machine a reader may be late, and it is not closed for that;
     * and a publisher goes on because it is told, not because it is late. */
    rig->config.write_deadline_ms = 10 * MIDGE_PATIENCE_S * 1000;
    rig->config.log_file = strdup("/dev/null"); /* owned by the config */
    CHECK(&rig->scene, midge_log_create(&rig->config, &rig->log) == MIDGE_OK, "no log");
    CHECK(&rig->scene,
          midge_broker_init(&rig->broker, &rig->config, rig->log, rig->scene.seed) == MIDGE_OK,
          "no broker");
    rig->broker.shard_count = MIDGE_RIG_SHARDS;
    rig->empty_bytes = midge_broker_memory_bytes(&rig->broker);
    (void)pthread_mutex_init(&rig->making, NULL);
    (void)pthread_barrier_init(&rig->made, NULL, MIDGE_RIG_SHARDS + 1);
    for (uint16_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
        struct midge_rig_shard *mine = &rig->shards[i];

        *mine = (struct midge_rig_shard){.rig = rig, .index = i};
        open_listener(mine);
        CHECK(&rig->scene, pthread_create(&mine->thread, NULL, shard_main, mine) == 0, "no thread");
    }
    (void)pthread_barrier_wait(&rig->made);
    start_teller(rig);
}

static struct midge_rig_sums sum_up(const struct midge_rig *rig)
{
    struct midge_rig_sums sums = {0};

    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
#define SUM_ADD(name, text) sums.name += midge_stats_read(&rig->shards[i].shard->stats.name);
        MIDGE_STATS_TABLE(SUM_ADD)
#undef SUM_ADD
    }
    return sums;
}

/* Blocks that a shard holds ready: all that is left of the pools' memory. */
static uint64_t spare_bytes(const struct midge_rig *rig)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
        const struct midge_spares *spares = &rig->shards[i].shard->spares;

        bytes += spares->small != NULL ? spares->small->block_cap : 0;
        bytes += spares->large != NULL ? spares->large->block_cap : 0;
        bytes += spares->view != NULL ? spares->view->block_cap : 0;
    }
    return bytes;
}

/* All shards have ended: nothing may be left, and every delivery has come to one end. */
static struct midge_rig_sums check_accounts(const struct midge_rig *rig)
{
    const struct midge_scene *scene = &rig->scene;
    const struct midge_rig_sums sums = sum_up(rig);
    const uint64_t bytes = midge_broker_memory_bytes(&rig->broker);

    CHECK(scene,
          sums.matched ==
              sums.out_msgs + sums.dropped_closing + sums.dropped_slow + sums.dropped_memory,
          "matched %" PRIu64 ", appended %" PRIu64 ", dropped %" PRIu64 " + %" PRIu64 " + %" PRIu64,
          sums.matched, sums.out_msgs, sums.dropped_closing, sums.dropped_slow,
          sums.dropped_memory);
    CHECK(scene, sums.out_msgs == sums.delivered + sums.discarded,
          "appended %" PRIu64 ", delivered %" PRIu64 ", discarded %" PRIu64, sums.out_msgs,
          sums.delivered, sums.discarded);
    CHECK(scene, sums.connects == sums.disconnects, "%" PRIu64 " connects, %" PRIu64 " disconnects",
          sums.connects, sums.disconnects);
    CHECK(scene, atomic_load(&rig->broker.connection_count) == 0, "connections are left");
    CHECK(scene, !atomic_load(&rig->broker.memory_picking), "a connection is still being picked");
    CHECK(scene, bytes == rig->empty_bytes + spare_bytes(rig),
          "%" PRIu64 " bytes are left of %" PRIu64 " and spares of %" PRIu64, bytes,
          rig->empty_bytes, spare_bytes(rig));
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++)
        CHECK(scene, rig->shards[i].shard->paused == NULL, "a publisher is still paused");
    return sums;
}

struct midge_rig_sums midge_rig_stop(struct midge_rig *rig)
{
    struct timespec deadline;
    struct midge_rig_sums sums;

    /* Release pairs with the acquire in midge_shard_turn(). */
    atomic_store_explicit(&rig->broker.stopping, true, memory_order_release);
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++)
        midge_ring_doorbell(rig->shards[i].shard->ring);
    (void)clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += MIDGE_PATIENCE_S;
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++)
        CHECK(&rig->scene, pthread_timedjoin_np(rig->shards[i].thread, NULL, &deadline) == 0,
              "shard %" PRIu32 " does not stop", i);
    sums = check_accounts(rig);
    CHECK(&rig->scene, rig->config.move_turns == 0 || sums.moves > 0, "no connection has moved");
    stop_teller(rig, &sums);
    for (uint32_t i = 0; i < MIDGE_RIG_SHARDS; i++) {
        midge_shard_destroy(rig->shards[i].shard);
        (void)close(rig->shards[i].listener_fd);
    }
    midge_broker_deinit(&rig->broker);
    midge_log_destroy(rig->log);
    midge_config_deinit(&rig->config);
    (void)pthread_barrier_destroy(&rig->made);
    (void)pthread_mutex_destroy(&rig->making);
    return sums;
}
