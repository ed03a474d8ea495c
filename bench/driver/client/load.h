/*
 * Loads through a client library, the same ones for each: midge-load-raw, midge-load-libmidge and
 * midge-load-natsc differ in library.h's one file only.
 *
 * The far side is the same for all, too: responder and publisher are processes of their own on raw
 * sockets, as in midge-raw. What counts is what the client costs: the latency of its blocking
 * requests, the CPU time of its process, its memory.
 *
 * Thread: constant after init (the options).
 */
#ifndef MIDGE_LOAD_H
#define MIDGE_LOAD_H

#include <sys/types.h>

#include "endpoint.h"
#include "library.h"

#define MIDGE_LOAD_CLIENTS_MAX 10000u

enum midge_load_mode {
    MIDGE_LOAD_RTT = 0, /* one blocking request after the other */
    MIDGE_LOAD_REQ,     /* asynchronous requests */
    MIDGE_LOAD_SUB,     /* a subscriber that counts */
    MIDGE_LOAD_MEM,     /* memory of connected clients */
    MIDGE_LOAD_MODES,
};

struct midge_load_options {
    struct midge_library_options library;
    struct midge_endpoint endpoint; /* the same place as library.url, for the far side */
    enum midge_load_mode mode;
    uint32_t count;   /* rtt, req: requests; sub: messages; mem: requests of each client */
    uint32_t warmup;  /* rtt, req, sub: of the same before the measured ones */
    uint32_t size;    /* bytes of payload */
    uint32_t window;  /* sub: messages that the publisher may be ahead */
    uint32_t clients; /* mem */
    uint32_t server_pid;
    bool is_alternating;   /* rtt: in turns with blocking requests over a raw socket */
    bool is_responder_own; /* rtt: the library answers, too, in the same process */
    bool is_json;
};

/* CPU time of client and server. */
struct midge_load_cpu {
    uint64_t client_ns;
    uint64_t server_ns;
};

/* Runs. */

/** Blocking requests. @return MIDGE_OK; anything else: the reason is on standard error */
MIDGE_MUST_CHECK enum midge_status midge_load_rtt(const struct midge_load_options *options);

/** Asynchronous requests. @return as midge_load_rtt() */
MIDGE_MUST_CHECK enum midge_status midge_load_req(const struct midge_load_options *options);

/** A subscriber that counts. @return as midge_load_rtt() */
MIDGE_MUST_CHECK enum midge_status midge_load_sub(const struct midge_load_options *options);

/** Memory of connected clients. @return as midge_load_rtt() */
MIDGE_MUST_CHECK enum midge_status midge_load_mem(const struct midge_load_options *options);

/* What they share. */

/** Start the process that answers requests. Before any library is opened: threads do not fork.
 * @param pid_out  end with midge_process_end() */
MIDGE_MUST_CHECK enum midge_status
midge_load_start_responder(const struct midge_load_options *options, pid_t *pid_out);

/** Say on standard error what went wrong. @return status */
enum midge_status midge_load_complain(enum midge_status status, const char *what, const char *why);

/** The same of one request or message. @return status */
enum midge_status midge_load_complain_of(enum midge_status status, const char *what,
                                         uint64_t number);

/** CPU time used so far. */
MIDGE_MUST_CHECK enum midge_status midge_load_cpu(const struct midge_load_options *options,
                                                  struct midge_load_cpu *cpu_out);

/** Nothing may have come that nobody waited for. @return MIDGE_OK; E_PARSE */
MIDGE_MUST_CHECK enum midge_status midge_load_check_end(struct midge_library *library);

/* A report: one JSON object, or a line for each of its members. */

void midge_load_report_begin(const struct midge_load_options *options, const char *mode);
void midge_load_report_put(const struct midge_load_options *options, const char *key,
                           uint64_t value);
/** A value that may not be known. */
void midge_load_report_put_or_null(const struct midge_load_options *options, const char *key,
                                   bool is_known, uint64_t value);
/** CPU time between two readings, and of the server only if it was asked for. */
void midge_load_report_cpu(const struct midge_load_options *options,
                           const struct midge_load_cpu *before, const struct midge_load_cpu *after);
void midge_load_report_end(const struct midge_load_options *options);

#endif
