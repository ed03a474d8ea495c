/*
 * Incremental parser for what a server sends: finds the next operation in borrowed bytes, in place,
 * and can stop and go on at any byte. The other direction is parser.h.
 *
 * The caller owns every byte. An operation whose bytes all lie in the input is returned as views of
 * the input. A control line cut by the end of the input is kept in a line buffer that the caller
 * lends; a message cut inside its body comes in pieces.
 *
 * Calls, for every chunk of received bytes:
 *   1. midge_server_parser_next(parser, &input, &op) until it returns something else than MIDGE_OK.
 *   2. MIDGE_AGAIN: all input is used up; come back with the next chunk.
 *   3. MIDGE_FULL: an unfinished line must be kept, and the line buffer is absent or too small.
 * Lend one of at least midge_server_parser_line_needed() bytes, and call next again.
 *   4. < 0: the connection must be closed; the parser may not be used further.
 *
 * Thread: shard (one owner, no atomics).
 * Memory: no allocation; the line buffer is lent by the caller.
 * Source: docs.nats.io, client protocol; nats-server v2.15.2, server/client.go (msgHeader).
 */
#ifndef MIDGE_SERVER_PARSER_H
#define MIDGE_SERVER_PARSER_H

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

enum midge_server_op_kind {
    MIDGE_SERVER_OP_NONE = 0,
    MIDGE_SERVER_OP_INFO, /* text */
    MIDGE_SERVER_OP_MSG,  /* subject, reply, sid, sizes, body */
    MIDGE_SERVER_OP_PING,
    MIDGE_SERVER_OP_PONG,
    MIDGE_SERVER_OP_OK,
    MIDGE_SERVER_OP_ERR,   /* text */
    MIDGE_SERVER_OP_PIECE, /* body: the next bytes of the message announced before */
};

struct midge_server_op {
    enum midge_server_op_kind kind;
    uint32_t header_len; /* bytes of headers at the start of the body; 0 for MSG */
    uint32_t total_len;  /* bytes of headers and payload */
    uint64_t sid;
    /* Views of the input or of the line buffer; valid until the next call of the parser and as long
     * as the input is. */
    struct midge_slice subject;
    struct midge_slice reply; /* len 0 = none */
    struct midge_slice text;  /* INFO: the JSON; ERR: the words, without quotes */
    struct midge_slice body;  /* headers and payload, without CRLF; see whole, PIECE */
    bool whole; /* MSG: the body is complete and its CRLF was seen; no pieces follow */
    bool last;  /* PIECE: complete and its CRLF was seen; may have 0 bytes */
};

/* Constant between calls. */
struct midge_server_parser_limits {
    uint32_t line_len_max;    /* bytes of one control line, its end included */
    uint32_t message_len_max; /* bytes of headers and payload */
};

struct midge_server_parser {
    struct midge_server_parser_limits limits;
    uint8_t *line;        /* lent by the caller, NULL when none */
    uint32_t line_cap;    /* bytes of room in line */
    uint32_t line_len;    /* bytes of an unfinished line kept in it */
    uint32_t line_needed; /* private: room asked for by MIDGE_FULL */
    uint32_t body_left;   /* private: bytes of body still to come */
    uint32_t end_left;    /* private: bytes of the CRLF behind it still to come */
};

/** Put the parser at the start of a stream. Thread: shard. */
void midge_server_parser_init(struct midge_server_parser *parser,
                              const struct midge_server_parser_limits *limits);

/**
 * Find the next operation.
 *
 * @param input   in: bytes not yet used; out: what is left behind the operation
 * @param op_out  good on MIDGE_OK only, and of its fields those that the kind names; what else is
 *                in it does not matter and may have changed
 * @return MIDGE_OK, MIDGE_AGAIN, MIDGE_FULL (see above), E_PARSE, E_CONTROL_LINE: over
 *         line_len_max, E_PAYLOAD: over message_len_max. Sizes are decided on the control line,
 *         before any body.
 * Thread: shard. Cost: linear in the bytes used, one pass.
 */
MIDGE_MUST_CHECK enum midge_status midge_server_parser_next(struct midge_server_parser *parser,
                                                            struct midge_slice *input,
                                                            struct midge_server_op *op_out);

/** Bytes of line buffer that the last MIDGE_FULL asks for, at most limits.line_len_max. */
uint32_t midge_server_parser_line_needed(const struct midge_server_parser *parser);

/** Lend a line buffer, or a larger one in place of the one lent, whose bytes the caller has copied.
 * It stays the caller's, and must live as long as the parser is used. Thread: shard. */
void midge_server_parser_lend_line(struct midge_server_parser *parser, uint8_t *line,
                                   uint32_t line_cap);

/** True if the parser stands before the first byte of an operation. Thread: shard. */
bool midge_server_parser_at_start(const struct midge_server_parser *parser);

#endif
