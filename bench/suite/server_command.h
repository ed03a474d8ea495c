/*
 * The words of a server's command line: split, its port and socket put in, and added to servers
 * that we know.
 *
 * A command is split as a shell does it, with quotes, `~`, `$NAME` and patterns, but no shell runs:
 * `$(...)`, pipes and the like are refused. What begins a command is the server itself, or a
 * program that becomes it (env, nice, taskset, numactl).
 *
 * Thread: any (values).
 * Memory: the words, on the heap.
 */
#ifndef MIDGE_SERVER_COMMAND_H
#define MIDGE_SERVER_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "midge/compiler.h"
#include "midge/status.h"

/* Where the server is to listen. */
struct midge_server_place {
    const char *socket; /* path */
    uint32_t port;
    bool is_unix; /* loads use the socket */
};

struct midge_server_command {
    char **words; /* own, with each word; a NULL at the end */
    uint32_t count;
    uint32_t program; /* index of the server: behind `env` and its variables */
};

/**
 * Make the words.
 *
 * @param name         of the server, for messages; NULL = say nothing
 * @param text         the command
 * @param place        NULL = take {port} and {socket} out, and add nothing
 * @param command_out  own; end with deinit; set on MIDGE_OK
 * @return MIDGE_OK; E_CONFIG: it cannot be run like this, as a line on standard error says;
 * E_MEMORY
 */
MIDGE_MUST_CHECK enum midge_status
midge_server_command_init(const char *name, const char *text,
                          const struct midge_server_place *place,
                          struct midge_server_command *command_out);

/** The server's file name without its directories. @return borrow, of the command */
const char *midge_server_command_name(const struct midge_server_command *command);

/** Free the words. */
void midge_server_command_deinit(struct midge_server_command *command);

#endif
