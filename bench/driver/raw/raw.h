/*
 * midge-raw: a neutral load generator on blocking sockets.
 *
 * Thread: constant after init (the options).
 */
#ifndef MIDGE_RAW_H
#define MIDGE_RAW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "endpoint.h"
#include "midge/compiler.h"
#include "midge/status.h"

/* Processes of one kind in `pub`. */
#define MIDGE_RAW_PROCESSES_MAX 64u

struct midge_raw_options {
    struct midge_endpoint endpoint;
    uint32_t count;  /* rtt: requests; pub: messages of each publisher */
    uint32_t warmup; /* rtt: requests before the measured ones */
    uint32_t size;   /* bytes of payload, MIDGE_WIRE_NUMBER_LEN..MIDGE_WIRE_PAYLOAD_MAX */
    uint32_t timeout_ms;
    uint32_t publishers;  /* pub only */
    uint32_t subscribers; /* pub only: those that read */
    uint32_t stalled;     /* pub only: those that do not */
    uint32_t window; /* pub only: messages that a publisher may be ahead of the slowest reader */
    uint32_t cpu;
    pid_t server_pid; /* 0 = do not measure the server's CPU time */
    bool has_endpoint;
    bool has_cpu;
    bool is_relay; /* the far end speaks nothing: no INFO, no CONNECT, no SUB */
    bool is_inbox_fixed;
    bool is_json;
};

/**
 * Round trips of one request in flight; prints the report to standard output.
 *
 * @return MIDGE_OK; anything else: the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_rtt_run(const struct midge_raw_options *options);

/**
 * Publish from some processes to others, some of which may not read; prints the report.
 *
 * @return MIDGE_OK; anything else: the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_pub_run(const struct midge_raw_options *options);

#endif
