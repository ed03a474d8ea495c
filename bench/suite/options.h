/*
 * The command line of midge-bench.
 *
 * Thread: constant after init.
 */
#ifndef MIDGE_OPTIONS_H
#define MIDGE_OPTIONS_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "aim.h"
#include "run.h"
#include "statistics.h"

/* Servers that one comparison takes. */
#define MIDGE_OPTIONS_SERVERS_MAX 3u

#define MIDGE_OPTIONS_AIMS_MAX 8u

/* Exit statuses. */
enum midge_exit {
    MIDGE_EXIT_OK = 0,
    MIDGE_EXIT_FAILED = 1, /* something was measured wrongly, or not at all: no figure counts */
    MIDGE_EXIT_USAGE = 2,
    MIDGE_EXIT_SIGNAL = 128, /* and the number of the signal */
};

enum midge_command {
    MIDGE_COMMAND_RUN = 0, /* one scenario, one server */
    MIDGE_COMMAND_CURVE,   /* load at rising rates */
    MIDGE_COMMAND_COMPARE,
    MIDGE_COMMAND_REPORT, /* files to one page */
};

enum midge_place {
    MIDGE_PLACE_FREE = 0, /* nothing is bound */
    MIDGE_PLACE_ONE,      /* server and load share one CPU */
    MIDGE_PLACE_APART,    /* each has half of the CPUs */
    MIDGE_PLACE_LISTS,    /* --server-cpus and --load-cpus */
};

struct midge_bench_options {
    enum midge_command command;
    struct midge_run_options run;
    const char *url;                                /* NULL: a server is started */
    const char *servers[MIDGE_OPTIONS_SERVERS_MAX]; /* commands; NULL = none */
    /* Of each server, to compare libraries; NULL = run.driver. */
    const struct midge_driver_kind *drivers[MIDGE_OPTIONS_SERVERS_MAX];
    struct midge_aim aims[MIDGE_OPTIONS_AIMS_MAX];
    uint32_t aim_count;
    bool is_unix; /* a started server: over a Unix socket */
    enum midge_place place;
    cpu_set_t server_cpus; /* empty: not bound */
    cpu_set_t load_cpus;   /* empty: not bound */
    cpu_set_t all_cpus;    /* of both; where nothing is bound, all that are allowed */
    bool is_without_floor;
    uint32_t rounds;
    uint32_t metric;       /* index into midge_metrics; the primary one */
    uint32_t rate_max;     /* curve */
    const char *title;     /* of a section in the page; NULL = what the scenario is called */
    const char *json_path; /* NULL = none; "-" = standard output */
    const char *hgrm_path; /* directory */
    const char *report_path;
    bool is_quiet;
    char *const *files; /* of report */
    uint32_t file_count;
};

/** The option that says the server of that index, for messages: "--b". Static. */
const char *midge_options_server_name(const struct midge_bench_options *options, uint32_t index);

/**
 * Read the command line; prints help where that is asked for.
 *
 * @param is_done_out  true: nothing more is to do (help, version)
 * @return MIDGE_OK; E_CONFIG: the reason is on standard error
 */
MIDGE_MUST_CHECK enum midge_status midge_options_parse(int argc, char **argv,
                                                       struct midge_bench_options *options_out,
                                                       bool *is_done_out);

#endif
