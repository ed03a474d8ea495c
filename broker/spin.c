/* Calibration of the time to watch before sleeping; see spin.h. */
#include "spin.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "cgroup.h"
#include "config.h"

#define ROUNDS 63u

/* More than this is not spent on watching, whatever a wake-up costs. */
#define BUDGET_NS_MAX 100000u

struct calibration {
    int ping; /* eventfd: main to helper */
    int pong; /* eventfd: helper to main */
};

static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void *answer(void *argument)
{
    const struct calibration *calibration = argument;
    uint64_t value;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        if (read(calibration->ping, &value, sizeof(value)) != (ssize_t)sizeof(value))
            break;
        value = 1;
        if (write(calibration->pong, &value, sizeof(value)) != (ssize_t)sizeof(value))
            break;
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    const uint64_t first = *(const uint64_t *)a;
    const uint64_t second = *(const uint64_t *)b;

    return first < second ? -1 : first > second;
}

/* Median of half a round trip between two sleeping threads; 0 if it could not be measured. */
static uint64_t wake_cost_ns(void)
{
    struct calibration calibration = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
    uint64_t samples[ROUNDS];
    uint32_t count = 0;
    pthread_t helper;

    if (calibration.ping >= 0 && calibration.pong >= 0 &&
        pthread_create(&helper, NULL, answer, &calibration) == 0) {
        for (; count < ROUNDS; count++) {
            const uint64_t begun_ns = now_ns();
            uint64_t value = 1;

            if (write(calibration.ping, &value, sizeof(value)) != (ssize_t)sizeof(value) ||
                read(calibration.pong, &value, sizeof(value)) != (ssize_t)sizeof(value))
                break;
            samples[count] = (now_ns() - begun_ns) / 2;
        }
        if (count < ROUNDS)
            (void)pthread_cancel(helper);
        (void)pthread_join(helper, NULL);
    }
    if (calibration.ping >= 0)
        (void)close(calibration.ping);
    if (calibration.pong >= 0)
        (void)close(calibration.pong);
    if (count == 0)
        return 0;
    qsort(samples, count, sizeof(samples[0]), compare);
    return samples[count / 2];
}

uint64_t midge_spin_budget_ns(uint32_t spin_us)
{
    cpu_set_t cpus;
    uint64_t cost_ns;

    if (spin_us != MIDGE_SPIN_AUTO)
        return spin_us * 1000ull;
    if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) < 2 ||
        midge_cgroup_has_cpu_quota())
        return 0;
    cost_ns = wake_cost_ns();
    return cost_ns < BUDGET_NS_MAX ? cost_ns : BUDGET_NS_MAX;
}
