/* midge-server: argv and file to a constant config, then the broker until a signal. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "broker.h"
#include "config.h"
#include "log.h"

/* Bytes at the end of a thread's memory that are free and stay resident: what frees and allocates
 * two blocks for a payload of the default max in turns touches no new page. */
#define FREE_END_BYTES_MAX (4 * 1024 * 1024)

/* Blocks from this size on are mapped for themselves, and unmapped when they are freed: tables, and
 * payloads beyond the default max. */
#define MAPPED_BYTES_MIN (4 * 1024 * 1024)

/* A handler that does nothing: a shell starts background jobs with SIGINT ignored, and an ignored
 * signal is thrown away even while it is blocked. */
static void on_signal(int number)
{
    (void)number;
}

/* Standard streams that the parent closed lead nowhere: else the next descriptor made would take
 * their number, and the log be written into it. @return false if /dev/null cannot be opened */
static bool open_streams(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd < 0)
        return false;
    (void)close(fd);
    return true;
}

/* The signals that main waits for are blocked in all threads; a peer that went away is an EPIPE. */
static void prepare_signals(void)
{
    const int waited[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, midge_broker_trim_signal()};
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t set;

    (void)sigemptyset(&set);
    for (size_t i = 0; i < sizeof(waited) / sizeof(waited[0]); i++) {
        (void)sigaction(waited[i], &action, NULL);
        (void)sigaddset(&set, waited[i]);
    }
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &action, NULL);
}

/* What glibc gives back to the system. The free end of a thread's memory stays, up to twice the
 * largest block that was ever mapped for itself and freed, 64 MiB at most; malloc_trim() leaves it
 * alone; and while small blocks are put aside unmerged nothing looks at it before 64 KiB are freed
 * at a time. So a shard that gave up a million subscriptions could hold 32 MiB for good. Merged at
 * once they cost some 20 ns each, but no later call the time of merging all.
 * Source: glibc 2.36, malloc/malloc.c mtrim, heap_trim, _int_free, __libc_free. */
static void prepare_allocator(void)
{
    (void)mallopt(M_MXFAST, 0);
    (void)mallopt(M_TRIM_THRESHOLD, FREE_END_BYTES_MAX);
    (void)mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
}

static int serve(const struct midge_config *config)
{
    struct midge_log_producer *producer;
    struct midge_broker broker;
    struct midge_log *log;
    uint64_t seed;
    int status = 1;

    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed)) {
        (void)fprintf(stderr, "midge-server: no random numbers: %s\n", strerror(errno));
        return 1;
    }
    prepare_signals();
    prepare_allocator();
    if (midge_log_create(config, &log) != MIDGE_OK)
        return 1;
    producer = midge_log_register(log);
    if (producer == NULL || midge_broker_init(&broker, config, log, seed) != MIDGE_OK) {
        (void)fprintf(stderr, "midge-server: out of memory\n");
        goto out_destroy_log;
    }
    status = midge_broker_run(&broker, producer);
    midge_broker_deinit(&broker);
out_destroy_log:
    midge_log_destroy(log);
    return status;
}

int main(int argc, char **argv)
{
    struct midge_config config;
    int status = 1;

    if (!open_streams())
        return 1;
    midge_config_init(&config);
    if (midge_config_load(&config, argc, argv, stdout, stderr) == MIDGE_OK) {
        switch (config.action) {
        case MIDGE_CONFIG_SERVE:
            status = serve(&config);
            break;
        case MIDGE_CONFIG_EXIT:
        case MIDGE_CONFIG_TEST:
            status = 0;
            break;
        case MIDGE_CONFIG_SIGNAL:
            status = midge_config_send_signal(&config, stderr) == MIDGE_OK ? 0 : 1;
            break;
        }
    }
    midge_config_deinit(&config);
    return status;
}
