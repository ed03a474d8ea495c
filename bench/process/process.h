/*
 * The clock of benchmark programs, their processes, and what CPU time a server used.
 *
 * Requesters, responders, publishers and subscribers are processes, not threads, so that each is
 * scheduled as a real client would be and none shares an address space with what it measures.
 *
 * Thread: any (lock-free).
 */
#ifndef MIDGE_PROCESS_H
#define MIDGE_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

#include "midge/compiler.h"
#include "midge/status.h"

/** CLOCK_MONOTONIC in ns. */
uint64_t midge_process_now_ns(void);

/** Sleep at least `ns`. */
void midge_process_sleep_ns(uint64_t ns);

/** Sleep until CLOCK_MONOTONIC shows `at_ns`; returns at once if it does. */
void midge_process_sleep_until_ns(uint64_t at_ns);

/** Let sleeps of this process, and of those forked later, end when they are due: within 1 ns
 * instead of the kernel's 50 us of slack. */
void midge_process_be_punctual(void);

/** Run this process, and those forked later, on one CPU only. @return MIDGE_OK; E_SYSTEM */
MIDGE_MUST_CHECK enum midge_status midge_process_pin(uint32_t cpu);

/**
 * CPU time in user and kernel of all threads of a process, ended ones included.
 *
 * Read from the process's CPU clock: nanoseconds, where /proc/<pid>/stat counts ticks of 10 ms.
 *
 * @param pid     0 = not asked for: *ns_out is 0
 * @param ns_out  set on MIDGE_OK
 * @return MIDGE_OK; E_SYSTEM: no such process
 */
MIDGE_MUST_CHECK enum midge_status midge_process_cpu_ns(pid_t pid, uint64_t *ns_out);

/**
 * Fork; the child is killed if this process dies first.
 *
 * @param pid_out  0 in the child
 * @return MIDGE_OK; E_SYSTEM
 */
MIDGE_MUST_CHECK enum midge_status midge_process_fork(pid_t *pid_out);

#endif
