/*
 * One blocking connection of the load generator, speaking just enough of the NATS protocol.
 *
 * A neutral load: no client library, no thread, no buffering on the way out, so that every server
 * sees the same bytes in the same calls. Reading takes whatever recv() gives and cuts frames out of
 * it. PING is answered inside; INFO and +OK are skipped; -ERR ends the run with its text on
 * standard error.
 *
 * Thread: shard (one process owns it).
 * Memory: one read buffer per connection, room for one line and one payload.
 */
#ifndef MIDGE_WIRE_H
#define MIDGE_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "endpoint.h"
#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

/* Longest line that a server may send: INFO of a broker with many options is the longest. */
#define MIDGE_WIRE_LINE_MAX (32u * 1024)

/* Payload bytes. Source: nats-server v2.15.2, server/const.go MAX_PAYLOAD_SIZE, the default limit.
 */
#define MIDGE_WIRE_PAYLOAD_MAX (1024u * 1024)

/* Digits of the number that a payload begins with. */
#define MIDGE_WIRE_NUMBER_LEN 16u

/* Longest time in ms to wait for a server that is starting. */
#define MIDGE_WIRE_PATIENCE_MS 5000u

enum midge_wire_kind {
    MIDGE_WIRE_MSG = 0, /* MSG, or PUB where a relay forwards it */
    MIDGE_WIRE_PONG,
};

struct midge_wire_frame {
    enum midge_wire_kind kind;
    struct midge_slice subject; /* borrow: all slices until the next read */
    struct midge_slice sid;     /* empty where a relay forwards PUB */
    struct midge_slice reply;   /* empty if none */
    struct midge_slice payload;
};

struct midge_wire {
    uint8_t *bytes;      /* own */
    int fd;              /* own */
    uint32_t cap;        /* bytes */
    uint32_t begin_off;  /* first byte not handed out */
    uint32_t end_off;    /* first byte not read */
    uint64_t recv_count; /* calls that brought bytes */
};

/**
 * Connect and, unless the far end is a bare relay, do the handshake up to the first PONG.
 *
 * @param receive_buffer_len  SO_RCVBUF in bytes, 0 = what the kernel chooses
 * @param timeout_ms          a read that waits longer fails with MIDGE_AGAIN, a send with E_WRITE
 * @return MIDGE_OK; E_MEMORY; E_SYSTEM; E_PARSE, E_PEER_ERR, E_EOF, AGAIN: the far end misbehaves.
 *         The reason is on standard error.
 */
MIDGE_MUST_CHECK enum midge_status midge_wire_open(struct midge_wire *wire,
                                                   const struct midge_endpoint *endpoint,
                                                   bool is_relay, uint32_t receive_buffer_len,
                                                   uint32_t timeout_ms);

/** Close and free. Also right after a failed open, and on a zeroed struct with fd -1. */
void midge_wire_close(struct midge_wire *wire);

/**
 * Cut the next frame out of what has been read, without reading on.
 *
 * @param frame_out  borrow, until the next receive
 * @return MIDGE_OK; AGAIN: more bytes are needed; E_PARSE, E_PEER_ERR: with a line on standard
 *         error; E_WRITE: a PING could not be answered
 */
MIDGE_MUST_CHECK enum midge_status midge_wire_next(struct midge_wire *wire,
                                                   struct midge_wire_frame *frame_out);

/**
 * Read once, what is there or comes first.
 *
 * @return MIDGE_OK; AGAIN: nothing came within the timeout; E_EOF; E_READ, E_PARSE: with a line on
 *         standard error. Cost: one system call.
 */
MIDGE_MUST_CHECK enum midge_status midge_wire_receive(struct midge_wire *wire);

/**
 * Read the next frame.
 *
 * @param frame_out  borrow, until the next read
 * @return MIDGE_OK; AGAIN: nothing came within the timeout; E_EOF; E_READ: errno says why; E_PARSE;
 *         E_PEER_ERR. All but AGAIN and E_EOF come with a line on standard error.
 */
MIDGE_MUST_CHECK enum midge_status midge_wire_read(struct midge_wire *wire,
                                                   struct midge_wire_frame *frame_out);

/** Send all bytes, blocking. @return MIDGE_OK; E_WRITE: errno says why. Cost: one system call. */
MIDGE_MUST_CHECK enum midge_status midge_wire_send(struct midge_wire *wire, const void *bytes,
                                                   uint32_t len);

/** SUB, then PING, and wait for the PONG: after it the subscription is in force. */
MIDGE_MUST_CHECK enum midge_status midge_wire_subscribe(struct midge_wire *wire,
                                                        const char *subject);

/**
 * PING, and wait for the PONG.
 *
 * @return MIDGE_OK; E_PARSE: a message came first; as midge_wire_read otherwise
 */
MIDGE_MUST_CHECK enum midge_status midge_wire_fence(struct midge_wire *wire);

/** True if bytes wait that no frame was cut from, or come within `wait_ms`. Reads and drops them.
 */
MIDGE_MUST_CHECK bool midge_wire_has_more(struct midge_wire *wire, int wait_ms);

/** Write the two bytes that end a line and a payload. */
void midge_wire_put_line_end(uint8_t *bytes);

/** Write a payload as all loads send it, but for the number that it begins with. */
void midge_wire_put_filler(uint8_t *bytes, uint32_t len);

/** True if every byte behind the number is as midge_wire_put_filler() wrote it. */
MIDGE_MUST_CHECK bool midge_wire_has_filler(struct midge_slice payload);

/** Write `digits` lower-case hexadecimal digits. */
void midge_wire_put_number(uint8_t *bytes, uint32_t digits, uint64_t value);

/** Read the number that a payload begins with. @return false: too short or not hexadecimal */
MIDGE_MUST_CHECK bool midge_wire_get_number(struct midge_slice payload, uint64_t *value_out);

#endif
