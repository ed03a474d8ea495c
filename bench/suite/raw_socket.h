/*
 * One plain socket that speaks NATS, for the driver `raw`: bytes out of a buffer in one send, bytes
 * in by one recv and cut in place.
 *
 * On the way out everything gathers in a buffer of its own. Sending never blocks: what the kernel
 * does not take stays. On the way in the caller lends room for a read, which sockets of one thread
 * share: all that a read brought is cut before the next one. Only the rest of a message that a read
 * did not bring whole is received in a place of its own, so that it is copied at most once.
 *
 * A bare relay forwards what its other side sends: there PUB and HPUB are messages.
 *
 * Thread: shard (one owner, no atomics).
 * Memory: a buffer of what waits to be sent, one of the largest message that came in pieces.
 */
#ifndef MIDGE_RAW_SOCKET_H
#define MIDGE_RAW_SOCKET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "endpoint.h"
#include "midge/compiler.h"
#include "midge/parser.h"
#include "midge/server_parser.h"
#include "midge/slice.h"
#include "midge/status.h"

/* Bytes that may wait to be sent before another message is refused. Source: nats-server v2.15.2,
 * server/const.go MAX_PENDING_SIZE, what a server holds for one connection. */
#define MIDGE_RAW_QUEUED_MAX (64u * 1024 * 1024)

/* Bytes of a control line that the next one is compared with. */
#define MIDGE_RAW_HEAD_CAP 64u

/* Room for one read. Larger reads leave the second-level cache before they are cut. */
#define MIDGE_RAW_ROOM_LEN (256u * 1024)

struct midge_raw_socket {
    int fd; /* own; -1 = closed */
    bool is_relay;
    bool is_full; /* the kernel did not take all; wait for POLLOUT */

    /* What waits to be sent. */
    uint8_t *out; /* own */
    uint32_t out_begin_off;
    uint32_t out_end_off;
    uint32_t out_cap;

    /* What comes. */
    struct midge_server_parser parser;
    struct midge_parser relay_parser; /* instead, where is_relay */
    uint8_t *line;                    /* own; lent to the parser */
    uint32_t line_cap;

    /* The last MSG (over a relay: PUB) without a reply subject, for the next one says the same but
     * for its body, as long as publishers send the same size to the same subject. */
    uint8_t head[MIDGE_RAW_HEAD_CAP]; /* its control line, CRLF included */
    uint32_t head_len;                /* 0 = none */
    uint32_t head_subject_len;
    uint32_t head_sid;
    uint32_t head_body_len;

    /* A message under way: subject, reply, body, CRLF. */
    struct midge_server_op body_op; /* its views are made when it is complete */
    uint8_t *body;                  /* own */
    uint32_t body_cap;
    uint32_t body_off;  /* of the body: behind subject and reply */
    uint32_t body_fill; /* bytes of body and CRLF that are there */
    uint32_t body_need; /* … that it has; 0 = no message is under way */
};

/** Whether both have the same bytes. For a few words of text: half of what a call of memcmp costs.
 */
static inline bool midge_raw_is_same(const uint8_t *a, const uint8_t *b, uint32_t len)
{
    uint64_t words[2];
    uint32_t off = 0;

    if (len < sizeof words[0])
        return memcmp(a, b, len) == 0;
    /* The last two overlap. */
    for (; off + sizeof words[0] < len; off += (uint32_t)sizeof words[0]) {
        memcpy(&words[0], a + off, sizeof words[0]);
        memcpy(&words[1], b + off, sizeof words[1]);
        if (words[0] != words[1])
            return false;
    }
    memcpy(&words[0], a + len - sizeof words[0], sizeof words[0]);
    memcpy(&words[1], b + len - sizeof words[1], sizeof words[1]);
    return words[0] == words[1];
}

/**
 * Connect.
 *
 * @param timeout_ms          of connecting to a server that is starting, and of a receive that may
 *                            wait
 * @param receive_buffer_len  SO_RCVBUF, 0 = what the kernel chooses
 * @return MIDGE_OK; E_SYSTEM: errno says why; either way end with close
 */
MIDGE_MUST_CHECK enum midge_status midge_raw_socket_open(struct midge_raw_socket *socket,
                                                         const struct midge_endpoint *endpoint,
                                                         bool is_relay, uint32_t timeout_ms,
                                                         uint32_t receive_buffer_len);

/** Close and free; what waits is lost. A zeroed struct with fd -1 is fine, and is what is left. */
void midge_raw_socket_close(struct midge_raw_socket *socket);

/** Room for `len` bytes behind all that waits. @return borrow, until the next call on the socket;
 * NULL without memory */
MIDGE_MUST_CHECK uint8_t *midge_raw_socket_reserve(struct midge_raw_socket *socket, uint32_t len);

/** They are written, and wait now. @param len  at most what was reserved */
static inline void midge_raw_socket_commit(struct midge_raw_socket *socket, uint32_t len)
{
    MIDGE_ASSERT(len <= socket->out_cap - socket->out_end_off);
    socket->out_end_off += len;
}

/** Bytes that wait to be sent. */
static inline uint32_t midge_raw_socket_queued(const struct midge_raw_socket *socket)
{
    return socket->out_end_off - socket->out_begin_off;
}

/**
 * Give what waits to the kernel, as far as it takes it now.
 *
 * @return MIDGE_OK, with is_full telling whether it took all; E_EOF: the peer has closed; E_WRITE:
 *         errno says why. After an error nothing waits any more. Cost: one system call.
 */
MIDGE_MUST_CHECK enum midge_status midge_raw_socket_send(struct midge_raw_socket *socket);

/**
 * Read once.
 *
 * @param room       MIDGE_RAW_ROOM_LEN bytes; lend, until the input has been cut
 * @param may_wait   for up to the timeout of the socket
 * @param input_out  what came: all of it must be cut with next() before anything else is received
 * @return MIDGE_OK; AGAIN: nothing is there; E_EOF; E_READ: errno says why. Cost: one system call.
 */
MIDGE_MUST_CHECK enum midge_status midge_raw_socket_receive(struct midge_raw_socket *socket,
                                                            uint8_t *room, bool may_wait,
                                                            struct midge_slice *input_out);

/**
 * Cut the next operation. Messages are whole; views are valid until the next receive.
 *
 * @param input  in: bytes not yet used; out: what is left behind the operation
 * @return MIDGE_OK; AGAIN: all is used up; E_MEMORY; E_PARSE, E_CONTROL_LINE, E_PAYLOAD, E_ARGS,
 * E_HEADERS: it is not NATS
 */
MIDGE_MUST_CHECK enum midge_status midge_raw_socket_next(struct midge_raw_socket *socket,
                                                         struct midge_slice *input,
                                                         struct midge_server_op *op_out);

#endif
