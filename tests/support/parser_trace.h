/*
 * Feeds a stream to the parser in chunks and writes down what comes out, so that two ways of
 * cutting the same stream can be compared as text.
 *
 * Every chunk is an allocation of exactly its own length, and so is the line buffer:
 * AddressSanitizer sees a read past the input. The line buffer is lent only when the parser asks,
 * and taken back as soon as it is idle. What the header promises about every call is checked on the
 * way; a broken promise aborts.
 *
 * One line per operation: its kind, the fields as
 * [subject][reply][queue][sid][json]{header}{size}=max, the argument part, and for a message the
 * payload, "." when it is complete. The last line is how the stream ended: the name of the error,
 * or START or INSIDE when all was used.
 */
#ifndef MIDGE_PARSER_TRACE_H
#define MIDGE_PARSER_TRACE_H

#include "midge/parser.h"

/**
 * @param cuts  offsets into data, ascending, where a new chunk begins; others are ignored
 * @return owned, NUL-terminated; free()
 */
char *midge_parser_trace(const struct midge_parser_limits *limits, struct midge_slice data,
                         const uint32_t *cuts, uint32_t cut_count);

/** As midge_parser_trace(), every byte a chunk. */
char *midge_parser_trace_bytes(const struct midge_parser_limits *limits, struct midge_slice data);

#endif
