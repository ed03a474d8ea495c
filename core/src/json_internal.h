/*
 * Reads one JSON text in place, with exactly the rules of Go's encoding/json.
 *
 * jansson is not used for CONNECT: it cannot show repeated keys in order, a null that leaves the
 * value before it, or keys that differ in case; it refuses \u0000, lone surrogates, bytes that are
 * not UTF-8, numbers that overflow and more than 2048 levels, all of which nats-server accepts; and
 * it allocates for every value of a peer that has not logged in yet. The fuzz target compares the
 * two where they agree.
 *
 * A text is validated once as a whole; the other functions take only parts of a text that passed.
 *
 * Thread: any (lock-free); pure functions.
 * Memory: none; JSON_DEPTH_MAX bits of stack while validating.
 * Source: Go 1.26 encoding/json scanner.go, decode.go (unquoteBytes), fold.go.
 */
#ifndef MIDGE_JSON_INTERNAL_H
#define MIDGE_JSON_INTERNAL_H

#include "midge/slice.h"

/* Levels of arrays and objects. Source: scanner.go maxNestingDepth. */
#define JSON_DEPTH_MAX 10000u

/* What stands for every byte that is not UTF-8. */
#define JSON_REPLACEMENT 0xfffdu

enum json_kind {
    JSON_NULL = 0,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
};

struct json_value {
    enum json_kind kind;
    struct midge_slice
        text; /* as written; a string without its quotes, array and object with brackets */
};

/** True if the text is one JSON value with only blanks around it. Cost: linear, no recursion. */
bool json_is_valid(struct midge_slice text);

/** The one value of a valid text. */
struct json_value json_root(struct midge_slice text);

/** The content of an array or object, to be walked with json_next_*. */
struct midge_slice json_content(struct json_value value);

/** Take the next member of an object's content; false at its end. The key is as written. */
bool json_next_member(struct midge_slice *content, struct midge_slice *key_out,
                      struct json_value *value_out);

/** Take the next element of an array's content; false at its end. */
bool json_next_element(struct midge_slice *content, struct json_value *value_out);

/** Take the next character of a string as written: escapes decoded, U+FFFD for what is no
 * character. */
uint32_t json_next_character(struct midge_slice *text);

/** True if a key as written names the field: case does not matter. @param field lower-case ASCII */
bool json_key_equals(struct midge_slice key, const char *field);

/** Take one UTF-8 character; U+FFFD and one byte if there is none. @param text at least one byte */
uint32_t utf8_next(struct midge_slice *text);

/** Write one character; returns the bytes written, 1..4. */
uint32_t utf8_put(uint8_t out[4], uint32_t character);

#endif
