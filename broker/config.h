/*
 * What one broker is told to do: defaults, then the configuration file, then the command line;
 * checked once, then constant.
 *
 * Names and defaults are nats-server's where the meaning is the same. Every value that nats-server
 * accepts is accepted, but for values that could only lock every client out (negative sizes and
 * times), and a value over one of our own ceilings is lowered to it. A key or flag that nats-server
 * knows and we do not serve is refused by name, or ignored with a warning under
 * --ignore-unsupported.
 *
 * Thread: constant after init.
 * Memory: strings are owned by the config.
 * Source: nats-server v2.15.2, server/opts.go, server/const.go.
 */
#ifndef MIDGE_CONFIG_H
#define MIDGE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "midge/compiler.h"
#include "midge/limits.h"
#include "midge/status.h"

#define MIDGE_SPIN_AUTO UINT32_MAX

/* Threads: as many as the load needs. */
#define MIDGE_THREADS_AUTO 0u

enum midge_config_action {
    MIDGE_CONFIG_SERVE = 0,
    MIDGE_CONFIG_EXIT,   /* --help, --version: printed, exit status 0 */
    MIDGE_CONFIG_TEST,   /* -t: the file is valid, which is printed; exit status 0 */
    MIDGE_CONFIG_SIGNAL, /* --signal: send and exit */
};

struct midge_config {
    /* Where clients connect. host NULL = loopback only (127.0.0.1 and ::1) without credentials,
     * every address with them. */
    char *host;
    int32_t port;           /* -1 = any free port */
    char *unix_path;        /* NULL = no Unix socket */
    uint32_t unix_mode;     /* permission bits of the socket file, 0700 by default */
    char *client_advertise; /* host:port shown in INFO, or NULL */

    char *server_name;    /* NULL = server id */
    char *config_file;    /* NULL = none */
    char *pid_file;       /* NULL = none */
    char *ports_file_dir; /* NULL = none */

    /* Limits. */
    uint32_t connections_max;      /* 0 = nobody */
    uint32_t subs_max;             /* per connection, 0 = unlimited */
    uint32_t sub_tokens_max;       /* 0 = off, 1..255 */
    uint32_t control_line_len_max; /* bytes */
    uint32_t payload_len_max;      /* bytes; MIDGE_PAYLOAD_MAX = unlimited */
    uint64_t pending_bytes_max;    /* per connection */
    uint64_t memory_bytes_max;     /* outboxes, messages and index; 0 = half of RAM or cgroup */

    /* Liveness. */
    uint64_t ping_interval_ms;
    uint32_t ping_max;
    uint64_t write_deadline_ms;
    uint64_t auth_timeout_ms;
    bool no_fast_producer_stall;
    bool no_header_support;

    /* Single user or token; NULL = none. All wiped in deinit. */
    char *user;
    char *pass;
    char *token;

    /* Logging. */
    char *log_file;              /* NULL = standard error */
    uint64_t log_size_limit;     /* bytes, 0 = no rotation */
    uint32_t log_files_max;      /* live file included, 0 = keep all */
    uint32_t traced_msg_len_max; /* 0 = all */
    bool log_time;
    bool log_time_utc;
    bool debug;
    bool trace;
    bool trace_verbose;

    /* Ours. */
    uint32_t threads;    /* shards, 1 .. MIDGE_SHARDS_MAX, or MIDGE_THREADS_AUTO */
    bool pin;            /* each of them to a core of its own */
    uint32_t move_turns; /* for tests: a connection moves every so many turns; 0 = never */
    uint32_t spin_us;    /* MIDGE_SPIN_AUTO = calibrated */
    uint32_t io_kind;    /* enum midge_ring_kind, from --io auto|io_uring|epoll */
    bool ignore_unsupported;

    enum midge_config_action action;
    int32_t signal_number; /* what --signal sends */
    char *signal_target;   /* pid, pid file, or a start of pids with a * behind; NULL = find it */
};

/** Defaults. Nothing owned yet. */
void midge_config_init(struct midge_config *config);

/** Free the strings; secrets are wiped first. */
void midge_config_deinit(struct midge_config *config);

/**
 * Read argv and the file it names.
 *
 * Prints help and version to `out`. Every error and warning is one line on `err`, naming file, line
 * and column (or the flag) and the remedy.
 *
 * @return MIDGE_OK, and config->action says what to do; E_CONFIG: exit status 1
 */
MIDGE_MUST_CHECK enum midge_status midge_config_load(struct midge_config *config, int argc,
                                                     char **argv, FILE *out, FILE *err);

/** Send the signal that --signal asked for. @return MIDGE_OK; E_CONFIG, with one line on `err` */
MIDGE_MUST_CHECK enum midge_status midge_config_send_signal(const struct midge_config *config,
                                                            FILE *err);

/** True if a client must authenticate. */
bool midge_config_auth_required(const struct midge_config *config);

#endif
