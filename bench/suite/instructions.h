/*
 * Instructions that a server executes, where the machine counts them: a hardware counter on each of
 * its threads, and on those that they start later.
 *
 * Many virtual machines have no such counter, and kernel.perf_event_paranoid may forbid it, or the
 * kernel's part of it. So all of it is optional: where there is no count, nothing is said.
 *
 * Thread: one at a time.
 */
#ifndef MIDGE_INSTRUCTIONS_H
#define MIDGE_INSTRUCTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "midge/compiler.h"
#include "midge/status.h"

/* Threads of one server; one with more is not counted. Each takes a file descriptor. */
#define MIDGE_INSTRUCTIONS_THREADS_MAX 256u

struct midge_instructions {
    uint32_t thread_count; /* 0 = nothing is counted */
    bool has_kernel;       /* the kernel's instructions, too; else only the server's own */
    int fds[MIDGE_INSTRUCTIONS_THREADS_MAX];
};

/**
 * Count the instructions of all threads that a process has now, and of those that they start.
 *
 * @param counter_out  filled on MIDGE_OK; end with midge_instructions_close()
 * @return MIDGE_OK; E_SYSTEM: errno says why nothing is counted (ENOENT: the machine has no such
 *         counter; EACCES, EPERM: it is not allowed)
 */
MIDGE_MUST_CHECK enum midge_status midge_instructions_open(pid_t pid,
                                                           struct midge_instructions *counter_out);

/**
 * The same with another event of perf_event_open(2), for a machine that counts no instructions.
 *
 * @param type, config  as in struct perf_event_attr
 */
MIDGE_MUST_CHECK enum midge_status
midge_instructions_open_event(pid_t pid, uint32_t type, uint64_t config,
                              struct midge_instructions *counter_out);

/**
 * What has been counted up to now.
 *
 * @return false if nothing is counted, or the counter was lent to others for more than a thousandth
 *         of the time: what is then missing can only be guessed
 */
MIDGE_MUST_CHECK bool midge_instructions_read(const struct midge_instructions *counter,
                                              uint64_t *count_out);

/** Stop counting. Does nothing if nothing is counted. */
void midge_instructions_close(struct midge_instructions *counter);

#endif
