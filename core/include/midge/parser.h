/*
 * Incremental parser for what a client sends: finds the next operation in borrowed bytes, in place,
 * and can stop and go on at any byte.
 *
 * The caller owns every byte. An operation whose bytes all lie in the input is returned as views of
 * the input. An argument cut by the end of the input is kept in a line buffer that the caller lends
 * for just that time; a payload cut by the end of the input comes as pieces.
 *
 * Calls, for every chunk of received bytes:
 *   1. midge_parser_next(parser, &input, &op) until it returns something else than MIDGE_OK.
 *   2. MIDGE_AGAIN: all input is used up; come back with the next chunk.
 *   3. MIDGE_FULL: an unfinished argument must be kept and no line buffer is lent. Lend one of at
 * least limits.control_line_len_max bytes with midge_parser_lend_line() and call next again.
 *   4. < 0: the connection must be closed as midge_status says; the parser may not be used further.
 * When midge_parser_line_idle() is true the caller may take the line buffer back.
 *
 * The result never depends on how the stream was cut: nats-server itself does in three cases (a
 * lone CR inside an argument, twice; the pedantic error sent twice), where we always give its
 * unsplit answer. A message whose CRLF is missing or wrong is always announced (PUB, HPUB) before
 * the error.
 *
 * Thread: shard (one owner, no atomics).
 * Memory: no allocation; the line buffer is lent by the caller.
 * Source: nats-server v2.15.2, server/parser.go.
 */
#ifndef MIDGE_PARSER_H
#define MIDGE_PARSER_H

#include "midge/compiler.h"
#include "midge/slice.h"
#include "midge/status.h"

enum midge_op_kind {
    MIDGE_OP_NONE = 0,
    MIDGE_OP_CONNECT, /* json */
    MIDGE_OP_INFO,    /* json; ignored by the broker when valid */
    MIDGE_OP_PUB,     /* subject, reply, total_len, size_text; payload or pieces follow */
    MIDGE_OP_HPUB,    /* as PUB, and header_len, header_text */
    MIDGE_OP_SUB,     /* subject, queue, sid */
    MIDGE_OP_UNSUB,   /* sid, max */
    MIDGE_OP_PING,
    MIDGE_OP_PONG,
    MIDGE_OP_OK,
    MIDGE_OP_ERR,   /* the client sent -ERR */
    MIDGE_OP_PIECE, /* payload: the next bytes of the message announced before */
};

struct midge_op {
    enum midge_op_kind kind;
    /* Views of the input or of the line buffer; valid until the next call of the parser and as long
     * as the input is. len 0 means absent for reply and queue. */
    struct midge_slice subject;
    struct midge_slice reply;
    struct midge_slice queue;
    struct midge_slice sid;
    struct midge_slice json;
    struct midge_slice line; /* the whole argument part as received, for the protocol trace */
    struct midge_slice header_text; /* digits of the header size as the client wrote them */
    struct midge_slice size_text;   /* digits of the total size as the client wrote them */
    struct midge_slice payload; /* headers and payload, without CRLF; see payload_whole, PIECE */
    uint32_t header_len;        /* bytes of headers; 0 for PUB */
    uint32_t total_len;         /* bytes of headers and payload */
    uint32_t max;               /* UNSUB: message limit, 0 = remove now (absent or not a number) */
    bool payload_whole; /* PUB, HPUB: payload is complete and its CRLF was seen; no pieces follow */
    bool last;          /* PIECE: the payload is complete and its CRLF was seen; may have 0 bytes */
};

/* Constant between calls; the owner may change it between operations. */
struct midge_parser_limits {
    uint32_t control_line_len_max; /* bytes of one argument part */
    uint32_t payload_len_max;      /* bytes, MIDGE_PAYLOAD_MAX = unlimited */
    bool headers;                  /* HPUB allowed */
};

struct midge_parser {
    struct midge_parser_limits limits;
    uint8_t *line;         /* lent by the caller, NULL when none */
    uint32_t line_cap;     /* bytes of room in line */
    uint32_t line_len;     /* bytes of an unfinished argument kept in line */
    uint32_t payload_left; /* bytes of payload still to come */
    uint8_t state;         /* private */
    uint8_t verb;          /* private */
    uint8_t verb_len;      /* private */
    bool dropped_cr;       /* private: a CR was the last byte of the unfinished argument */
    bool line_in_use;      /* private: the operation returned last has views of the line */
};

/** Put the parser at the start of a stream. Thread: shard. */
void midge_parser_init(struct midge_parser *parser, const struct midge_parser_limits *limits);

/**
 * Find the next operation.
 *
 * @param input   in: bytes not yet used; out: what is left behind the operation
 * @param op_out  written on MIDGE_OK only
 * @return MIDGE_OK, MIDGE_AGAIN, MIDGE_FULL (see above), or E_PARSE, E_CONTROL_LINE, E_PAYLOAD,
 * E_ARGS, E_HEADERS. PUB and HPUB errors are decided on the control line, before any payload.
 * Thread: shard. Cost: linear in the bytes used, one pass.
 */
MIDGE_MUST_CHECK enum midge_status
midge_parser_next(struct midge_parser *parser, struct midge_slice *input, struct midge_op *op_out);

/** Lend a line buffer; it stays the caller's and must live until it is taken back. None may be lent
 * yet. If limits.control_line_len_max is raised later, line_cap bounds cut lines. Thread: shard.
 * @param line_cap  at least limits.control_line_len_max */
void midge_parser_lend_line(struct midge_parser *parser, uint8_t *line, uint32_t line_cap);

/** Take the line buffer back, NULL if none is lent; only when midge_parser_line_idle(). Thread:
 * shard. */
uint8_t *midge_parser_take_line(struct midge_parser *parser);

/** True if no unfinished argument and no operation returned last lies in the line buffer. */
bool midge_parser_line_idle(const struct midge_parser *parser);

/** True if the parser stands before the first byte of an operation. Thread: shard. */
bool midge_parser_at_start(const struct midge_parser *parser);

#endif
