/*
 * One run: one scenario against one server, and what came of it.
 *
 * A run is a few processes, its *parties*: each holds one driver and with it some connections of
 * one kind. They connect one after the other, begin together, and go through a warm-up that counts
 * for nothing and then the measured time. What they count lies in memory that all of them share;
 * the parent reads it, with the CPU time of server and parties, at both ends of the measured time,
 * and makes the result.
 *
 * Open loop: each send has an intended time, fixed or Poisson, that does not depend on the server.
 * Latency counts from there. Service time counts from when the message was given to the driver;
 * what lies between is the wait that a closed loop hides.
 *
 * A run that is wrong is failed, not shortened: a lost, doubled or wrong message, a time-out, a
 * server or party that ended, or more than one send in a thousand that left more than one interval
 * late.
 *
 * Thread: the parent (one thread), and each party's process.
 */
#ifndef MIDGE_RUN_H
#define MIDGE_RUN_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "driver.h"
#include "midge/compiler.h"
#include "midge/status.h"

/* Bytes of payload: the least has the number of the message and its intended time. */
#define MIDGE_RUN_SIZE_MIN 16u
#define MIDGE_RUN_SIZE_MAX (1024u * 1024u)

/* Requesters, responders, subscribers: of each. */
#define MIDGE_RUN_CONNS_MAX 1000u

#define MIDGE_RUN_IDLE_MAX       60000u
#define MIDGE_RUN_RATE_MAX       10000000u
#define MIDGE_RUN_IN_FLIGHT_MAX  65536u
#define MIDGE_RUN_BURST_MAX      65536u
#define MIDGE_RUN_PUBLISHERS_MAX 64u

/* More late sends than one in this many fail a run. */
#define MIDGE_RUN_LATE_SHARE 1000u

enum midge_run_scenario {
    MIDGE_RUN_RTT = 0, /* closed loop, one request in flight */
    MIDGE_RUN_LOAD,    /* open loop */
    MIDGE_RUN_WORKERS, /* requesters and members of a queue group */
    MIDGE_RUN_PUB,     /* a publisher to a subscriber */
    MIDGE_RUN_FANOUT,  /* a publisher to several */
    MIDGE_RUN_SLOW,    /* the same, with subscribers beside them that read nothing */
    MIDGE_RUN_CONNS,   /* a storm of connects, then idle */
    MIDGE_RUN_SUBS,    /* many subscriptions, which change while messages match them */
    MIDGE_RUN_SCENARIOS,
};

enum midge_run_arrivals {
    MIDGE_RUN_FIXED = 0,
    MIDGE_RUN_POISSON,
};

struct midge_run_options {
    enum midge_run_scenario scenario;
    const struct midge_driver_kind *driver;
    const struct midge_driver_kind *far_driver; /* of responders and publishers; NULL = the same */
    const char *url;                            /* borrow */
    bool is_relay;                              /* the far end is a bare relay; raw only */
    uint32_t size;
    bool has_headers;
    uint32_t rate;  /* requests or messages a second, all together; 0 = as fast as it goes */
    uint32_t burst; /* of a rate: that many are meant to leave at once; > 0 */
    enum midge_run_arrivals arrivals;
    uint32_t requesters;
    uint32_t responders;
    bool is_responder_apart; /* in a process of their own */
    uint32_t in_flight;      /* of each requester, closed loop */
    uint32_t publishers;
    uint32_t subscribers;
    uint32_t stalled;       /* slow */
    uint32_t window;        /* messages that a publisher may be ahead of the slowest reader */
    uint32_t connections;   /* conns */
    uint32_t subscriptions; /* subs */
    uint32_t changes;       /* subs: a second */
    uint32_t warmup_ms;
    uint32_t duration_ms;
    uint32_t timeout_ms;
    bool is_spinning;           /* the load never sleeps */
    uint32_t seed;              /* of Poisson arrivals and random subjects */
    pid_t server_pid;           /* 0 = not known: nothing is said of CPU time and memory */
    const cpu_set_t *load_cpus; /* NULL = where we are */
    const cpu_set_t *all_cpus;  /* of load and server, for what others did there; or NULL */
    bool has_instructions;      /* count them; a switch of threads then takes a little longer */
    bool has_progress;          /* on standard error */
};

/** Name of a scenario, as on the command line. Static. */
const char *midge_run_scenario_name(enum midge_run_scenario scenario);

/**
 * Run.
 *
 * @param result_out  own (json_decref); set on MIDGE_OK. "failed" in it says why a run gives no
 *                    figures
 * @return MIDGE_OK, also for a failed run; anything else: it could not be made, the reason is on
 *         standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_run(const struct midge_run_options *options,
                                             json_t **result_out);

#endif
