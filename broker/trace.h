/*
 * Log lines about one connection, with its address, cid and client name in front, and the protocol
 * trace.
 *
 * Thread: shard (owner of the connection).
 * Source: nats-server v2.15.2, server/client.go traceOp, traceMsg; the words are an interface that
 * client suites read.
 */
#ifndef MIDGE_TRACE_H
#define MIDGE_TRACE_H

#include "log.h"
#include "midge/parser.h"
#include "midge/status.h"

struct midge_conn;
struct midge_shard;

/** One log line about the connection, if the level is on. */
void midge_conn_log(struct midge_shard *shard, const struct midge_conn *conn,
                    enum midge_log_level level, const char *format, ...) MIDGE_PRINTF(4, 5);

/** `<<- [SUB a 1]` and, for a whole message, `<<- MSG_PAYLOAD: ["…"]`; secrets are redacted. */
void midge_trace_op(struct midge_shard *shard, const struct midge_conn *conn,
                    const struct midge_op *op);

/** `<<- MSG_PAYLOAD: ["…"]` */
void midge_trace_payload(struct midge_shard *shard, const struct midge_conn *conn,
                         struct midge_slice payload);

/** `->> [MSG a 1 3]`: a control line that was sent, without its CRLF. */
void midge_trace_out(struct midge_shard *shard, const struct midge_conn *conn,
                     struct midge_slice line);

/** `<-> [DELSUB 1]` */
void midge_trace_delsub(struct midge_shard *shard, const struct midge_conn *conn,
                        struct midge_slice sid);

/** What nats-server logs when a client's bytes are wrong. */
void midge_trace_parse_error(struct midge_shard *shard, const struct midge_conn *conn,
                             enum midge_status status);

/** `Client connection closed: <reason>` and, for a slow consumer, the line that names it. */
void midge_trace_close(struct midge_shard *shard, struct midge_conn *conn,
                       enum midge_status status);

#endif
