/*
 * The running process: descriptor limits, listeners, shard threads, signals, pid and ports files.
 *
 * Thread: main, which waits for signals and gives free pages back; each shard's thread makes its
 * own ring and shard, as SINGLE_ISSUER asks for.
 */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "broker.h"
#include "cgroup.h"
#include "listener.h"
#include "shard.h"
#include "spin.h"

/* Descriptors that are not connections: rings, listeners, log, standard streams, files read on
 * demand. */
#define DESCRIPTORS_RESERVED 64u

struct serve;

struct serve_shard {
    struct serve *serve;
    struct midge_shard *shard; /* written by its thread before it counts as made */
    pthread_t thread;
    uint16_t index;
};

/* The threads, and the gate that opens when every shard is made. */
struct serve {
    struct midge_broker *broker;
    const struct midge_listeners *listeners;
    struct serve_shard *shards;
    uint32_t thread_count; /* that were started */
    uint64_t spin_ns;
    cpu_set_t cpus; /* that this process may use; none = not known */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t made; /* lock: shards that are ready, or failed */
    bool failed;   /* lock: why says of what */
    bool open;     /* lock: the shards may turn, or must end if one failed */
    enum midge_ring_kind kind;
    char why[128];
};

/* ---- limits ---- */

static void raise_descriptor_limit(struct midge_broker *broker, struct midge_log_producer *log)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    if (limit.rlim_cur == RLIM_INFINITY ||
        limit.rlim_cur >= (rlim_t)broker->connections_max + DESCRIPTORS_RESERVED)
        return;
    broker->connections_max =
        limit.rlim_cur > DESCRIPTORS_RESERVED ? (uint32_t)limit.rlim_cur - DESCRIPTORS_RESERVED : 1;
    midge_log_write(log, MIDGE_LOG_WARN,
                    "max_connections lowered to %" PRIu32
                    ": the open-file limit is %llu (raise it with ulimit -n or LimitNOFILE=)",
                    broker->connections_max, (unsigned long long)limit.rlim_cur);
}

/* ---- files ---- */

/* Write a small file so that a reader never sees half of it. */
static bool write_file(const char *path, const char *text)
{
    char temporary[4096];
    FILE *file;
    bool good;

    if (snprintf(temporary, sizeof(temporary), "%s.tmp%d", path, (int)getpid()) >=
        (int)sizeof(temporary)) {
        errno = ENAMETOOLONG;
        return false;
    }
    file = fopen(temporary, "we");
    if (file == NULL)
        return false;
    good = fputs(text, file) >= 0;
    good = fclose(file) == 0 && good;
    if (good && rename(temporary, path) == 0)
        return true;
    (void)unlink(temporary);
    return false;
}

static void write_pid_file(const struct midge_config *config, struct midge_log_producer *log)
{
    char text[32];

    if (config->pid_file == NULL)
        return;
    (void)snprintf(text, sizeof(text), "%d", (int)getpid());
    if (!write_file(config->pid_file, text))
        midge_log_write(log, MIDGE_LOG_ERROR, "Could not write pid file %s: %s", config->pid_file,
                        strerror(errno));
}

/* nats-server names the file after argv[0]; client suites look for its own name. */
static void ports_file_path(const struct midge_config *config, char path[4096])
{
    (void)snprintf(path, 4096, "%s/nats-server_%d.ports", config->ports_file_dir, (int)getpid());
}

static void write_ports_file(const struct midge_config *config,
                             const struct midge_listeners *listeners,
                             struct midge_log_producer *log)
{
    char path[4096];
    char text[512];

    if (config->ports_file_dir == NULL)
        return;
    ports_file_path(config, path);
    (void)snprintf(text, sizeof(text), "{\"nats\":[\"nats://%s:%u\"]}",
                   strcmp(listeners->host, "0.0.0.0") == 0 ? "127.0.0.1" : listeners->host,
                   listeners->port);
    if (!write_file(path, text))
        midge_log_write(log, MIDGE_LOG_ERROR, "Could not write ports file %s: %s", path,
                        strerror(errno));
}

/* What INFO says: where we listen, or the address that the configuration wants clients to be told.
 */
static void set_info_address(struct midge_broker *broker, const struct midge_listeners *listeners)
{
    const char *advertise = broker->config->client_advertise;
    const char *colon = advertise != NULL ? strrchr(advertise, ':') : NULL;

    (void)snprintf(broker->info_host, sizeof(broker->info_host), "%s", listeners->host);
    broker->info_port = listeners->port;
    if (advertise == NULL)
        return;
    (void)snprintf(broker->info_host, sizeof(broker->info_host), "%.*s",
                   colon != NULL ? (int)(colon - advertise) : (int)strlen(advertise), advertise);
    if (colon != NULL)
        broker->info_port = (uint16_t)strtoul(colon + 1, NULL, 10);
}

/* ---- shards ---- */

/* As many as there are cores. Under a quota of CPU time it is one: the kernel stops all threads
 * when it is used up, and those that wait for each other only use it up sooner. */
static uint32_t auto_threads(const struct serve *serve)
{
    const uint32_t count = (uint32_t)CPU_COUNT(&serve->cpus);

    if (count == 0 || midge_cgroup_has_cpu_quota())
        return 1;
    return count < MIDGE_SHARDS_MAX ? count : MIDGE_SHARDS_MAX;
}

/* Bind this thread to one core of those that the process may use; the next ones share them. */
static bool pin_thread(const struct serve *serve, uint32_t index, char why[128])
{
    uint32_t left = index % (uint32_t)(CPU_COUNT(&serve->cpus) > 0 ? CPU_COUNT(&serve->cpus) : 1);
    cpu_set_t one;
    int error;

    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &serve->cpus) && left-- == 0) {
            CPU_SET(cpu, &one);
            break;
        }
    }
    error = pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    if (error != 0)
        (void)snprintf(why, 128, "--pin: cannot bind thread %u to a core: %s", index,
                       strerror(error));
    return error == 0;
}

/* Make the shard of this thread. @return false if it could not be made, why[] says why */
static bool make_shard(struct serve_shard *own, char why[128])
{
    struct serve *serve = own->serve;
    const struct midge_ring_options options = {
        .kind = (enum midge_ring_kind)serve->broker->config->io_kind};
    struct midge_ring *ring;
    enum midge_status status;

    if (serve->broker->config->pin && !pin_thread(serve, own->index, why))
        return false;
    /* One after the other: ThreadSanitizer does not see what liburing maps and unmaps, and takes
     * memory that a self-test gave back for shared. */
    (void)pthread_mutex_lock(&serve->lock);
    status = midge_ring_create(&options, &ring, why);
    (void)pthread_mutex_unlock(&serve->lock);
    if (status != MIDGE_OK)
        return false;
    own->shard = midge_shard_create(serve->broker, own->index, &ring);
    if (own->shard == NULL) {
        (void)snprintf(why, 128, "out of memory");
        midge_ring_destroy(ring);
        return false;
    }
    midge_shard_set_spin(own->shard, serve->spin_ns);
    return true;
}

/* Say that this thread is ready, and wait for all the others. @return true if all are */
static bool pass_gate(struct serve_shard *own, bool made, const char *why)
{
    struct serve *serve = own->serve;
    bool all;

    (void)pthread_mutex_lock(&serve->lock);
    serve->made++;
    if (!made)
        serve->failed = true;
    if (own->index == 0 || !made)
        (void)snprintf(serve->why, sizeof(serve->why), "%s", why);
    (void)pthread_cond_broadcast(&serve->changed);
    while (!serve->open)
        (void)pthread_cond_wait(&serve->changed, &serve->lock);
    all = !serve->failed;
    (void)pthread_mutex_unlock(&serve->lock);
    return all;
}

static void *shard_main(void *argument)
{
    struct serve_shard *own = argument;
    char why[128] = "";
    const bool made = make_shard(own, why);

    if (!pass_gate(own, made, why)) {
        if (made)
            midge_shard_leave(own->shard);
        return NULL;
    }
    /* The first one accepts for all (decision 0004). */
    for (uint32_t i = 0; own->index == 0 && i < own->serve->listeners->count; i++)
        midge_shard_add_listener(own->shard, own->serve->listeners->fds[i]);
    midge_shard_run(own->shard);
    /* Not destroyed here: others may be about to ring the doorbell of a shard that ended by itself.
     */
    return NULL;
}

/* Join and destroy what was started. */
static void end_shards(struct serve *serve)
{
    for (uint32_t i = 0; i < serve->thread_count; i++)
        (void)pthread_join(serve->shards[i].thread, NULL);
    for (uint32_t i = 0; i < serve->thread_count; i++) {
        if (serve->shards[i].shard != NULL)
            midge_shard_destroy(serve->shards[i].shard);
    }
    free(serve->shards);
    (void)pthread_cond_destroy(&serve->changed);
    (void)pthread_mutex_destroy(&serve->lock);
}

static void start_threads(struct serve *serve)
{
    const uint32_t count = serve->broker->shard_count;

    for (uint32_t i = 0; i < count; i++) {
        struct serve_shard *own = &serve->shards[i];

        own->serve = serve;
        own->index = (uint16_t)i;
        if (pthread_create(&own->thread, NULL, shard_main, own) != 0) {
            (void)pthread_mutex_lock(&serve->lock);
            serve->failed = true;
            (void)snprintf(serve->why, sizeof(serve->why), "cannot start thread %u of %u", i + 1,
                           count);
            (void)pthread_mutex_unlock(&serve->lock);
            return;
        }
        serve->thread_count++;
    }
}

/* Start all shards, or none. @return false if one failed, serve->why says why */
static bool start_shards(struct serve *serve)
{
    struct midge_broker *broker = serve->broker;
    const bool is_auto = broker->config->threads == MIDGE_THREADS_AUTO;
    bool failed;

    if (sched_getaffinity(0, sizeof(serve->cpus), &serve->cpus) != 0)
        CPU_ZERO(&serve->cpus);
    broker->shard_count = is_auto ? auto_threads(serve) : broker->config->threads;
    broker->spread = !is_auto && broker->shard_count > 1;
    broker->look_ns = is_auto && broker->shard_count > 1 ? MIDGE_BALANCE_LOOK_NS : 0;
    (void)pthread_mutex_init(&serve->lock, NULL);
    (void)pthread_cond_init(&serve->changed, NULL);
    serve->spin_ns = midge_spin_budget_ns(broker->config->spin_us);
    serve->shards = calloc(broker->shard_count, sizeof(*serve->shards));
    if (serve->shards == NULL) {
        (void)snprintf(serve->why, sizeof(serve->why), "out of memory");
        return false;
    }
    start_threads(serve);
    (void)pthread_mutex_lock(&serve->lock);
    while (serve->made < serve->thread_count)
        (void)pthread_cond_wait(&serve->changed, &serve->lock);
    failed = serve->failed;
    if (serve->thread_count > 0 && serve->shards[0].shard != NULL)
        serve->kind = midge_ring_kind(serve->shards[0].shard->ring);
    serve->open = true;
    (void)pthread_cond_broadcast(&serve->changed);
    (void)pthread_mutex_unlock(&serve->lock);
    if (failed)
        end_shards(serve);
    return !failed;
}

static void stop_shards(struct serve *serve)
{
    /* Release pairs with the acquire in midge_shard_turn(). */
    atomic_store_explicit(&serve->broker->stopping, true, memory_order_release);
    for (uint32_t i = 0; i < serve->thread_count; i++)
        midge_ring_doorbell(serve->shards[i].shard->ring);
    end_shards(serve);
}

/* ---- words ---- */

static void log_start(const struct midge_broker *broker, struct midge_log_producer *log)
{
    midge_log_write(log, MIDGE_LOG_INFO, "Starting midge-server");
    midge_log_write(log, MIDGE_LOG_INFO, "  Version:  %s (speaks NATS as nats-server %s)",
                    MIDGE_VERSION, MIDGE_NATS_VERSION);
    midge_log_write(log, MIDGE_LOG_INFO, "  Name:     %s", broker->server_name);
    midge_log_write(log, MIDGE_LOG_INFO, "  ID:       %s", broker->server_id);
    if (broker->config->config_file != NULL)
        midge_log_write(log, MIDGE_LOG_INFO, "Using configuration file: %s",
                        broker->config->config_file);
    midge_log_write(log, MIDGE_LOG_INFO,
                    "Memory: at most %llu MiB for output, messages and index; %" PRIu32
                    " connection slots of %zu bytes",
                    (unsigned long long)(broker->memory_bytes_max >> 20), broker->conn_cap,
                    sizeof(struct midge_conn));
}

static void log_ready(const struct midge_broker *broker, const struct midge_listeners *listeners,
                      const struct serve *serve, struct midge_log_producer *log)
{
    const struct midge_config *config = broker->config;
    const bool v6 = strchr(listeners->host, ':') != NULL;

    midge_log_write(log, MIDGE_LOG_INFO, "I/O: %s%s%s", midge_ring_kind_name(serve->kind),
                    serve->why[0] != '\0' ? "; io_uring is not used: " : "", serve->why);
    if (broker->shard_count > 1)
        midge_log_write(log, MIDGE_LOG_INFO, "Threads: %s%u",
                        broker->look_ns != 0 ? "as many as the load needs, at most " : "",
                        broker->shard_count);
    midge_log_write(log, MIDGE_LOG_INFO, "Listening for client connections on %s%s%s:%u",
                    v6 ? "[" : "", listeners->host, v6 ? "]" : "", listeners->port);
    if (config->unix_path != NULL)
        midge_log_write(log, MIDGE_LOG_INFO, "Listening for client connections on unix://%s",
                        config->unix_path);
    if (config->host == NULL && !midge_config_auth_required(config))
        midge_log_write(log, MIDGE_LOG_INFO,
                        "No credentials configured: loopback only (127.0.0.1 and ::1); -a 0.0.0.0 "
                        "or credentials open it");
    midge_log_write(log, MIDGE_LOG_INFO, "Server is ready");
}

static const char *signal_name(int number)
{
    switch (number) {
    case SIGINT:
        return "interrupt";
    case SIGTERM:
        return "terminated";
    case SIGHUP:
        return "hangup";
    case SIGUSR1:
        return "user defined signal 1";
    case SIGUSR2:
        return "user defined signal 2";
    default:
        return "unknown";
    }
}

/* Shards have freed memory; the wish is taken first, so that what they free from now on counts. */
static void trim(struct midge_broker *broker)
{
    atomic_store_explicit(&broker->trim_wanted, false, memory_order_relaxed);
    (void)malloc_trim(0);
}

/* Wait for the signal that ends the process. */
static void wait_for_end(struct midge_broker *broker, struct midge_log_producer *log)
{
    sigset_t set;
    int number;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGUSR1);
    (void)sigaddset(&set, SIGUSR2);
    (void)sigaddset(&set, midge_broker_trim_signal());
    for (;;) {
        if (sigwait(&set, &number) != 0)
            continue;
        if (number == midge_broker_trim_signal()) {
            trim(broker);
            continue;
        }
        midge_log_write(log, MIDGE_LOG_DEBUG, "Trapped \"%s\" signal", signal_name(number));
        if (number == SIGINT || number == SIGTERM)
            return;
        if (number == SIGUSR1 && broker->config->log_file != NULL)
            midge_log_reopen(broker->log);
        else if (number == SIGUSR1)
            midge_log_write(log, MIDGE_LOG_INFO, "File log re-open ignored, not a file logger");
        else
            midge_log_write(log, MIDGE_LOG_WARN, "Signal \"%s\" ignored: %s is not served",
                            signal_name(number),
                            number == SIGHUP ? "configuration reload" : "lame duck mode");
    }
}

int midge_broker_run(struct midge_broker *broker, struct midge_log_producer *log)
{
    struct serve serve = {.broker = broker};
    struct midge_listeners listeners;
    char why[256];
    char path[4096];

    log_start(broker, log);
    raise_descriptor_limit(broker, log);
    if (midge_listeners_open(&listeners, broker->config, why) != MIDGE_OK) {
        midge_log_write(log, MIDGE_LOG_FATAL, "Error listening on port: %s", why);
        return 1;
    }
    set_info_address(broker, &listeners);
    serve.listeners = &listeners;
    broker->trimmer = pthread_self();
    broker->has_trimmer = true;
    if (!start_shards(&serve)) {
        midge_log_write(log, MIDGE_LOG_FATAL, "Error starting: %s", serve.why);
        midge_listeners_close(&listeners, broker->config);
        return 1;
    }
    write_pid_file(broker->config, log);
    log_ready(broker, &listeners, &serve, log);
    write_ports_file(broker->config, &listeners, log);

    wait_for_end(broker, log);

    midge_log_write(log, MIDGE_LOG_INFO, "Initiating Shutdown...");
    stop_shards(&serve);
    midge_listeners_close(&listeners, broker->config);
    if (broker->config->ports_file_dir != NULL) {
        ports_file_path(broker->config, path);
        (void)unlink(path);
    }
    midge_log_write(log, MIDGE_LOG_INFO, "Server Exiting..");
    return 0;
}
