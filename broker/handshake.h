/*
 * The exchange that opens a connection: INFO out, CONNECT in, INFO again after the first PONG.
 *
 * Thread: shard (owner).
 * Source: nats-server v2.15.2, server/client.go:2332 processConnect, 2805 processPing.
 */
#ifndef MIDGE_HANDSHAKE_H
#define MIDGE_HANDSHAKE_H

#include "midge/slice.h"

struct midge_conn;
struct midge_shard;

/** Send INFO. @param connect_info  the one after the first PONG */
void midge_handshake_send_info(struct midge_shard *shard, struct midge_conn *conn,
                               bool connect_info);

/** Handle CONNECT, the first or a later one. May close the connection. */
void midge_handshake_connect(struct midge_shard *shard, struct midge_conn *conn,
                             struct midge_slice json);

#endif
