/*
 * From a message to its targets: match, deliver, pick one member of each queue group, 503.
 *
 * There is one function that appends to a subscriber's outbox for a subscription; whatever
 * restricts a delivery is checked there, under the outbox lock.
 *
 * Thread: shard (the publisher's owner).
 */
#ifndef MIDGE_DISPATCH_H
#define MIDGE_DISPATCH_H

#include "midge/parser.h"
#include "midge/slice.h"
#include "msg.h"

struct midge_conn;
struct midge_shard;

/** Route a PUB or HPUB whose payload lies whole in the receive buffer. */
void midge_dispatch_publish(struct midge_shard *shard, struct midge_conn *conn,
                            const struct midge_op *op);

/** Route a message that came in pieces. @param msg  borrowed, complete */
void midge_dispatch_publish_msg(struct midge_shard *shard, struct midge_conn *conn,
                                struct midge_msg *msg);

#endif
