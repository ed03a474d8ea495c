/*
 * Log lines in nats-server's form, written by one thread of their own.
 *
 * A producer (each shard, and the main thread) has a bounded ring of bytes of its own; a line that
 * does not fit is dropped and counted, and the log thread writes how many were lost. Nothing here
 * blocks a shard, and none of it is a system call unless the log thread sleeps: then one write to
 * an eventfd wakes it. What is queued before midge_log_destroy() is called reaches the file; a pipe
 * whose reader has stalled is given one second.
 *
 * Line: `[<pid>] YYYY/MM/DD HH:MM:SS.uuuuuu [LVL] text\n`.
 *
 * Thread: producer / consumer for each ring; the rest constant after init.
 * Source: nats-server v2.15.2, logger/log.go.
 */
#ifndef MIDGE_LOG_H
#define MIDGE_LOG_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

enum midge_log_level {
    MIDGE_LOG_INFO = 0,
    MIDGE_LOG_WARN,
    MIDGE_LOG_ERROR,
    MIDGE_LOG_FATAL,
    MIDGE_LOG_DEBUG,
    MIDGE_LOG_TRACE,
};

/* Bytes of text in one line; the rest is cut and marked with "...". */
#define MIDGE_LOG_LINE_LEN_MAX 8192u

struct midge_log;          /* shared: the file and the log thread */
struct midge_log_producer; /* one per producing thread */

/** @param config  borrowed. @return MIDGE_OK, E_SYSTEM (reason on standard error), E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_log_create(const struct midge_config *config,
                                                    struct midge_log **log_out);

/** Write what is waiting, end the log thread, close the file, free all. All producers are done. */
void midge_log_destroy(struct midge_log *log);

/** Register a producing thread. @return borrowed; NULL without memory. Thread: any (lock-free). */
struct midge_log_producer *midge_log_register(struct midge_log *log);

/** Queue one line. Never blocks. Thread: producer. */
void midge_log_write(struct midge_log_producer *producer, enum midge_log_level level,
                     const char *format, ...) MIDGE_PRINTF(3, 4);

/** True if the level is written at all; the data path asks before it formats. Thread: any. */
bool midge_log_enabled(const struct midge_log_producer *producer, enum midge_log_level level);

/** At most one line per `interval_ms` for each limit; the number left out is told in the next.
 * @return true if the caller may log now, with the number left out. Thread: producer */
struct midge_log_limit {
    uint64_t last_ns;
    uint64_t suppressed;
};
bool midge_log_allow(struct midge_log_limit *limit, uint64_t now_ns, uint64_t interval_ms,
                     uint64_t *suppressed_out);

/** Append bytes to `out` as Go's %q prints them, without the quotes; for payloads and subjects in
 * trace lines. Stops before cap. @return bytes written */
uint32_t midge_log_quote(char *out, uint32_t cap, struct midge_slice bytes);

/** Reopen the file (SIGUSR1); the log tells that it did. Thread: any (lock-free), handlers too. */
void midge_log_reopen(struct midge_log *log);

/** Lines dropped since start, those that could not be written included. Thread: any (lock-free). */
uint64_t midge_log_dropped(const struct midge_log *log);

#endif
