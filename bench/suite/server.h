/*
 * A server that midge-bench starts for a run: where it listens, when it is ready, what it uses.
 *
 * A command may have {port} and {socket} where its port and its Unix socket belong. One that has
 * neither, and whose program is called midge-server or nats-server, gets `-a 127.0.0.1 -p PORT`,
 * and midge-server `--unix PATH` too for a Unix socket. Its output goes to a file, whose end is
 * shown where it fails.
 *
 * The process that is started must be the server, or become it (env, nice, taskset, numactl):
 * signals go to it alone, and what it uses is read from it alone. It runs where midge-bench runs,
 * and gets a SIGTERM when the thread that started it ends.
 *
 * Thread: the one that started it.
 */
#ifndef MIDGE_SERVER_H
#define MIDGE_SERVER_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "midge/compiler.h"
#include "midge/status.h"

#define MIDGE_SERVER_URL_CAP  160u
#define MIDGE_SERVER_PATH_CAP 108u

struct midge_server_options {
    const char *command;   /* words as a shell splits them; no shell runs it */
    const char *directory; /* for its socket and its output; exists */
    const char *name;      /* of those files, and in messages; no '/' */
    const cpu_set_t *cpus; /* NULL = where we are */
    bool is_unix;
    bool is_silent; /* says no INFO: it is not waited for, and who connects must try again */
};

struct midge_server {
    pid_t pid; /* 0 = none */
    char url[MIDGE_SERVER_URL_CAP];
    char log_path[MIDGE_SERVER_PATH_CAP];
    const char *name; /* borrow */
};

/* What a server has used up to a moment. */
struct midge_server_usage {
    uint64_t cpu_ns;         /* user and kernel, all threads */
    uint64_t resident_bytes; /* VmRSS */
    uint64_t peak_bytes;     /* VmHWM */
};

/**
 * Start it, and wait until it answers with INFO, 10 s at most.
 *
 * @param server_out  filled on MIDGE_OK; end with midge_server_stop()
 * @return MIDGE_OK; anything else: the reason is on standard error, with the end of its output
 */
MIDGE_MUST_CHECK enum midge_status midge_server_start(const struct midge_server_options *options,
                                                      struct midge_server *server_out);

/** True if it still runs; else says on standard error how it ended, and then it has no pid. */
MIDGE_MUST_CHECK bool midge_server_is_alive(struct midge_server *server);

/** SIGTERM, after 5 s SIGKILL, and reap; its socket's file is removed, its output stays. Does
 * nothing for pid 0. */
void midge_server_stop(struct midge_server *server);

/** @param pid  0 = not known: all zero. @return MIDGE_OK; E_SYSTEM: no such process */
MIDGE_MUST_CHECK enum midge_status midge_server_usage(pid_t pid,
                                                      struct midge_server_usage *usage_out);

/**
 * What `program --version` prints, on one line, at most 10 s; "" if nothing.
 *
 * @param command  as in the options; its first word is asked
 */
void midge_server_version(const char *command, char *out, uint32_t cap);

/**
 * A TCP port on 127.0.0.1 that nobody has at this moment.
 *
 * @return MIDGE_OK; E_SYSTEM: errno says why
 */
MIDGE_MUST_CHECK enum midge_status midge_server_free_port(uint32_t *port_out);

#endif
