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

/* Connections of `req`, where one process has an inbox for each, and of `conns`. */
#define MIDGE_RAW_REQUESTERS_MAX  1000u
#define MIDGE_RAW_CONNECTIONS_MAX 60000u

#define MIDGE_RAW_SUBSCRIPTIONS_MAX 10000000u

enum midge_raw_mode {
    MIDGE_RAW_RTT = 0, /* one request in flight */
    MIDGE_RAW_REQ,     /* many connections with several requests in flight */
    MIDGE_RAW_PUB,     /* publishers to subscribers */
    MIDGE_RAW_CONNS,   /* memory of idle connections */
    MIDGE_RAW_SUBS,    /* memory and speed of many subscriptions */
    MIDGE_RAW_MODES,
};

struct midge_raw_options {
    struct midge_endpoint endpoint;
    enum midge_raw_mode mode;
    uint32_t count;  /* rtt, req: requests; pub, subs: messages of each publisher */
    uint32_t warmup; /* of the same before the measured ones */
    uint32_t size;   /* bytes of payload, MIDGE_WIRE_NUMBER_LEN..MIDGE_WIRE_PAYLOAD_MAX */
    uint32_t timeout_ms;
    uint32_t
        cpu_ms;    /* req, pub, subs: CPU time of the server that ends the run; 0 = `count` does */
    uint32_t rate; /* req: requests, pub: messages a second by all together; 0 = full speed */
    uint32_t publishers;    /* pub */
    uint32_t subscribers;   /* pub: those that read */
    uint32_t stalled;       /* pub: those that do not */
    uint32_t window;        /* pub: messages that a publisher may be ahead of the slowest reader */
    uint32_t connections;   /* req, conns */
    uint32_t in_flight;     /* req: requests of each connection */
    uint32_t subscriptions; /* subs */
    uint32_t idle_ms;       /* conns, subs: pause before memory is read */
    uint32_t cpu;
    pid_t server_pid; /* 0 = do not measure the server's CPU time and memory */
    bool has_endpoint;
    bool has_cpu;
    bool is_relay; /* rtt: the far end speaks nothing: no INFO, no CONNECT, no SUB */
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
 * Requests over many connections; prints the report.
 *
 * @return MIDGE_OK; anything else: the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_req_run(const struct midge_raw_options *options);

/**
 * Publish from some processes to others, some of which may not read; prints the report.
 *
 * @return MIDGE_OK; anything else: the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_pub_run(const struct midge_raw_options *options);

/**
 * Open many connections and leave them idle; prints what memory the server took for each.
 *
 * @return MIDGE_OK; anything else: the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_conns_run(const struct midge_raw_options *options);

/**
 * Make many subscriptions on one connection, then publish to random ones; prints the report.
 *
 * @return MIDGE_OK; anything else: the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_subs_run(const struct midge_raw_options *options);

#endif
