/*
 * SUB and UNSUB.
 *
 * Thread: shard (owner).
 * Source: nats-server v2.15.2, server/client.go:3111 processSubEx, 3568 processUnsub.
 */
#ifndef MIDGE_SUBSCRIBE_H
#define MIDGE_SUBSCRIBE_H

#include "midge/parser.h"

struct midge_conn;
struct midge_shard;

void midge_subscribe_sub(struct midge_shard *shard, struct midge_conn *conn,
                         const struct midge_op *op);
void midge_subscribe_unsub(struct midge_shard *shard, struct midge_conn *conn,
                           const struct midge_op *op);

#endif
