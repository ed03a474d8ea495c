/*
 * Feeds a server's stream to its parser in chunks and writes down what comes out, so that two ways
 * of cutting the same stream can be compared as text. As parser_trace.h, for the other direction.
 *
 * Every chunk is an allocation of exactly its own length, and so is the line buffer, which grows by
 * no more than the parser asks for: AddressSanitizer sees a read past either. What the header
 * promises about every call is checked on the way; a broken promise aborts.
 *
 * One line per operation: its kind, then [text] of INFO and ERR; of a message
 * [subject][reply] sid headers/total: and the body, "." when it is complete. The last line is how
 * the stream ended: the name of the error, or START or INSIDE when all was used. A message that an
 * error cuts is left out, since how much of it was told before depends on the chunks.
 */
#ifndef MIDGE_SERVER_PARSER_TRACE_H
#define MIDGE_SERVER_PARSER_TRACE_H

#include "midge/server_parser.h"

/**
 * @param cuts  offsets into data, ascending, where a new chunk begins; others are ignored
 * @return owned, NUL-terminated; free()
 */
char *midge_server_parser_trace(const struct midge_server_parser_limits *limits,
                                struct midge_slice data, const uint32_t *cuts, uint32_t cut_count);

/** As midge_server_parser_trace(), every byte a chunk. */
char *midge_server_parser_trace_bytes(const struct midge_server_parser_limits *limits,
                                      struct midge_slice data);

#endif
