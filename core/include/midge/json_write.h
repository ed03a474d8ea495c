/*
 * Writes JSON from the front, with the escapes of Go's encoding/json.
 *
 * Commas come by themselves: before every key and value that does not follow `{`, `[` or a colon.
 * What does not fit is counted but not written, so that a first pass without room measures the
 * text. Nothing checks that what is begun is ended; that is up to the caller.
 *
 * Thread: any (lock-free); a writer belongs to its caller.
 * Memory: none.
 * Source: Go 1.26 encoding/json encode.go, appendString.
 */
#ifndef MIDGE_JSON_WRITE_H
#define MIDGE_JSON_WRITE_H

#include "midge/slice.h"

/* Set out and cap, zero the rest. */
struct midge_json_writer {
    uint8_t *out; /* borrowed; may be NULL with cap 0 */
    uint32_t cap; /* bytes of room */
    uint64_t len; /* bytes so far, also those that did not fit */
    uint8_t last; /* the last byte, 0 before the first one */
};

/** True if everything fitted. */
static inline bool midge_json_fits(const struct midge_json_writer *writer)
{
    return writer->len <= writer->cap;
}

/** Write bytes as they are, without a comma before them. */
void midge_json_put_raw(struct midge_json_writer *writer, struct midge_slice text);

/** Begin an object or array. @param bracket  `{` or `[` */
void midge_json_begin(struct midge_json_writer *writer, char bracket);

/** End one. @param bracket  `}` or `]` */
void midge_json_end(struct midge_json_writer *writer, char bracket);

/** Write a key and its colon. @param key  NUL-terminated */
void midge_json_put_key(struct midge_json_writer *writer, const char *key);

/** Write a string: safe inside HTML and JavaScript; each byte that is not UTF-8 becomes U+FFFD. */
void midge_json_put_string(struct midge_json_writer *writer, struct midge_slice text);

/** Write a number. */
void midge_json_put_number(struct midge_json_writer *writer, uint64_t number);

/** Write true or false. */
void midge_json_put_flag(struct midge_json_writer *writer, bool flag);

#endif
