/*
 * Headers on their way out, for the files that publish.
 *
 * Thread: any; a list belongs to one thread at a time.
 */
#ifndef MIDGE_HEADERS_INTERNAL_H
#define MIDGE_HEADERS_INTERNAL_H

#include "midge/client.h"
#include "midge/limits.h"

/* Bytes of a name, and of a value before the blanks at its ends are cut. Ours; NATS bounds only the
 * whole message, and these are far beyond what anybody sends. */
#define MIDGE_HEADER_NAME_MAX  1024u
#define MIDGE_HEADER_VALUE_MAX 65535u

/* Bytes of all headers as sent: what the size in a control line can say. */
#define MIDGE_HEADERS_LEN_MAX MIDGE_PAYLOAD_MAX

/** Bytes that midge_headers_encode() writes, 0..MIDGE_HEADERS_LEN_MAX; 0 for an empty list.
 * @param headers  borrowed, or NULL */
uint32_t midge_headers_encoded_len(const struct midge_headers *headers);

/** Write `NATS/1.0`, the pairs and the empty line; nothing for an empty list or NULL.
 * @param out  room for exactly midge_headers_encoded_len()
 * @return the end of what was written */
uint8_t *midge_headers_encode(uint8_t *out, const struct midge_headers *headers);

#endif
