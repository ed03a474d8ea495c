/*
 * Starting and stopping a server with the patience that a test has; see server.h.
 *
 * Thread: the one that started it.
 */
#ifndef MIDGE_SERVER_INTERNAL_H
#define MIDGE_SERVER_INTERNAL_H

#include "server.h"

/** As midge_server_start(), with a wait of `wait_ms` for its INFO. */
MIDGE_MUST_CHECK enum midge_status
midge_server_start_within(const struct midge_server_options *options, uint32_t wait_ms,
                          struct midge_server *server_out);

/** As midge_server_stop(), with SIGKILL after `wait_ms`. */
void midge_server_stop_within(struct midge_server *server, uint32_t wait_ms);

#endif
