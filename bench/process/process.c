/* Placing, forking and timing processes; see process.h. */
#include "process.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static uint64_t to_ns(struct timespec time)
{
    return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

uint64_t midge_process_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return to_ns(now);
}

void midge_process_sleep_ns(uint64_t ns)
{
    const struct timespec pause = {.tv_sec = (time_t)(ns / 1000000000ull),
                                   .tv_nsec = (long)(ns % 1000000000ull)};

    (void)nanosleep(&pause, NULL);
}

void midge_process_sleep_until_ns(uint64_t at_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(at_ns / 1000000000ull),
                                   .tv_nsec = (long)(at_ns % 1000000000ull)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
}

void midge_process_be_punctual(void)
{
    (void)prctl(PR_SET_TIMERSLACK, 1ul);
}

enum midge_status midge_process_pin(uint32_t cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0 ? MIDGE_OK : MIDGE_E_SYSTEM;
}

enum midge_status midge_process_cpu_ns(pid_t pid, uint64_t *ns_out)
{
    struct timespec used = {.tv_sec = 0};
    clockid_t clock = 0;

    if (pid != 0) {
        const int error = clock_getcpuclockid(pid, &clock);

        if (error != 0) {
            errno = error;
            return MIDGE_E_SYSTEM;
        }
        if (clock_gettime(clock, &used) != 0)
            return MIDGE_E_SYSTEM;
    }
    *ns_out = to_ns(used);
    return MIDGE_OK;
}

enum midge_status midge_process_fork(pid_t *pid_out)
{
    const pid_t parent = getpid();
    const pid_t pid = fork();

    if (pid < 0)
        return MIDGE_E_SYSTEM;
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* The parent may have died before the line above. */
        if (getppid() != parent)
            _exit(EXIT_FAILURE);
    }
    *pid_out = pid;
    return MIDGE_OK;
}
