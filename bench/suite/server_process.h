/*
 * A process that becomes a program of others: started, watched, ended; see server.h.
 *
 * Thread: the one that started it.
 */
#ifndef MIDGE_SERVER_PROCESS_H
#define MIDGE_SERVER_PROCESS_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "midge/compiler.h"
#include "midge/status.h"

/**
 * Start a program, with nothing to read and its output to one descriptor.
 *
 * It gets the signals and the timer slack that a shell would give it, and a SIGTERM when this
 * thread ends. A name without '/' is looked for in PATH.
 *
 * @param name     for messages; NULL = say nothing
 * @param words    of its command line, a NULL at the end
 * @param cpus     NULL = where we are
 * @param output   borrow
 * @param pid_out  set on MIDGE_OK
 * @return MIDGE_OK: it has become the program; E_SYSTEM: it could not, as a line on standard error
 *         says
 */
MIDGE_MUST_CHECK enum midge_status midge_server_process_start(const char *name, char *const *words,
                                                              const cpu_set_t *cpus, int output,
                                                              pid_t *pid_out);

/** True if a process has ended; a child of ours is not reaped. */
MIDGE_MUST_CHECK bool midge_server_process_has_ended(pid_t pid);

/** Reap a child that has ended. @param text_out  how: "with exit status 1", "by signal 9 (Killed)"
 */
void midge_server_process_reap(pid_t pid, char *text_out, uint32_t cap);

/** SIGTERM, after `wait_ms` SIGKILL, and reap. */
void midge_server_process_end(pid_t pid, uint32_t wait_ms);

#endif
