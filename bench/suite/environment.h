/*
 * The record of the machine that stands beside every figure, and what else it did meanwhile.
 *
 * Thread: any (values).
 */
#ifndef MIDGE_ENVIRONMENT_H
#define MIDGE_ENVIRONMENT_H

#include <sched.h>
#include <stdint.h>

#include <jansson.h>

#include "midge/compiler.h"

#define MIDGE_ENVIRONMENT_CPUS_MAX 1024u

/* Busy and stolen time of each CPU since boot, in ns (ticks of 10 ms). Of the busy time, what
 * ksoftirqd had: the kernel's thread for network work that a system call could not finish. */
struct midge_environment_times {
    uint32_t cpu_count;
    uint64_t busy_ns[MIDGE_ENVIRONMENT_CPUS_MAX];
    uint64_t steal_ns[MIDGE_ENVIRONMENT_CPUS_MAX];
    uint64_t network_ns[MIDGE_ENVIRONMENT_CPUS_MAX]; /* 0 where its thread is not visible */
};

/**
 * Everything about the machine that can move a latency: CPU model, CPUs online and allowed, SMT,
 * governor, idle driver, hypervisor, kernel, mitigations, clock source, memory, cgroup quota,
 * load average, time of day (UTC), libraries and compiler of midge-bench, its version and commit,
 * and the command line. What cannot be read is null.
 *
 * @return own (json_decref); NULL without memory
 */
MIDGE_MUST_CHECK json_t *midge_environment_describe(int argc, char *const *argv);

/**
 * Read the times now. The first call looks for the kernel's threads, which takes a millisecond.
 *
 * @param cpus  of which network_ns is read; NULL = none
 * Thread: one at a time.
 */
void midge_environment_read(const cpu_set_t *cpus, struct midge_environment_times *times_out);

/**
 * What happened between two readings: {"elapsed_ns", "here_ns": busy time of others on `cpus`,
 * "elsewhere_ns": busy time on the other CPUs, "steal_ns": what the hypervisor kept, "network_ns":
 * what ksoftirqd had on `cpus`}. The last is neither ours nor others': with large messages most of
 * it is work for the load.
 *
 * @param own_ns  CPU time that was ours on `cpus`
 * @return own; NULL without memory
 */
MIDGE_MUST_CHECK json_t *midge_environment_foreign(const struct midge_environment_times *before,
                                                   const struct midge_environment_times *after,
                                                   const cpu_set_t *cpus, uint64_t own_ns,
                                                   uint64_t elapsed_ns);

#endif
