/*
 * What an outcome means to the peer of a connection: for whoever serves one. No part of the client
 * library's interface, unlike status.h, which has the table.
 *
 * Thread: any (lock-free).
 */
#ifndef MIDGE_STATUS_PEER_H
#define MIDGE_STATUS_PEER_H

#include <stdbool.h>

#include "midge/status.h"

/** Text for -ERR, "" when the peer gets none; static storage. */
const char *midge_status_text(enum midge_status status);

/** True if the status ends the connection. */
bool midge_status_closes(enum midge_status status);

#endif
