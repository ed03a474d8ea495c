/*
 * The -ERR lines that name a subject: a publish or a subscription that is not allowed.
 *
 * Subjects and queue names are quoted as Go's %q does, so that no byte that a client chose ends the
 * line or goes out raw.
 *
 * Thread: shard.
 * Source: nats-server v2.15.2, server/client.go:5917, 5926, 5939, 5948.
 */
#ifndef MIDGE_VIOLATION_H
#define MIDGE_VIOLATION_H

#include "midge/slice.h"

struct midge_conn;
struct midge_shard;

/**
 * Queue `-ERR '<what> "<subject>"[ using queue "<queue>"]<tail>'`; the connection stays open.
 *
 * @param queue  len 0 = left out
 * Thread: shard. Cost: one allocation from the pool; not on the path of a message that is
 * delivered.
 */
void midge_violation_send(struct midge_shard *shard, struct midge_conn *conn, const char *what,
                          struct midge_slice subject, struct midge_slice queue, const char *tail);

#endif
