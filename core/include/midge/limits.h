/*
 * Every ceiling of the project: unit, reason, source. Default and hard maximum stand side by side.
 *
 * Sources: nats-server v2.15.2, server/const.go and server/opts.go, unless another is named.
 */
#ifndef MIDGE_LIMITS_H
#define MIDGE_LIMITS_H

#include <stdint.h>

/* Bytes in a cache line of every machine we run on. */
#define MIDGE_CACHE_LINE_LEN 64u

/* TCP port. Source: const.go DEFAULT_PORT. */
#define MIDGE_PORT_DEFAULT 4222u

/* Bytes of arguments in one control line. Source: const.go MAX_CONTROL_LINE_SIZE; the maximum is
 * what a 32-bit length minus the frame around it can hold. */
#define MIDGE_CONTROL_LINE_DEFAULT 4096u
#define MIDGE_CONTROL_LINE_MAX     (1u << 30)

/* Bytes of headers and payload in one message. Source: const.go MAX_PAYLOAD_SIZE; a size has at
 * most nine digits (util.go:83), so 999,999,999 is also what "unlimited" means. */
#define MIDGE_PAYLOAD_DEFAULT (1024u * 1024u)
#define MIDGE_PAYLOAD_MAX     999999999u
#define MIDGE_SIZE_DIGITS_MAX 9u

/* Bytes waiting for one connection. Source: const.go MAX_PENDING_SIZE. */
#define MIDGE_PENDING_DEFAULT (64ull * 1024 * 1024)
#define MIDGE_PENDING_MAX     (1ull << 40)

/* Connections. Source: const.go DEFAULT_MAX_CONNECTIONS. The maximum keeps a slot index in 24 bits,
 * with room for the slots beyond the limit and for the handles of listeners. */
#define MIDGE_CONNECTIONS_DEFAULT 65536u
#define MIDGE_CONNECTIONS_MAX     ((1u << 24) - 4096u)

/* Durations. Source: const.go. */
#define MIDGE_PING_INTERVAL_MS_DEFAULT  120000u
#define MIDGE_PING_MAX_DEFAULT          2u
#define MIDGE_FIRST_PING_MS             2000u
#define MIDGE_WRITE_DEADLINE_MS_DEFAULT 10000u
#define MIDGE_AUTH_TIMEOUT_MS_DEFAULT   2000u

/* Payload bytes that are copied into each outbox; a longer payload is shared by all targets. 8 KiB
 * is where one copy costs about as much as the bookkeeping of a shared message. */
#define MIDGE_COPY_LEN_MAX 8192u

/* Threads of one broker. */
#define MIDGE_SHARDS_MAX 256u

#endif
