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
 * Memory: none; MIDGE_JSON_DEPTH_MAX bits of stack while validating.
 * Source: Go 1.26 encoding/json scanner.go, decode.go (unquoteBytes), fold.go.
 */
#ifndef MIDGE_JSON_INTERNAL_H
#define MIDGE_JSON_INTERNAL_H

#include "midge/slice.h"

/* Levels of arrays and objects. Source: scanner.go maxNestingDepth. */
#define MIDGE_JSON_DEPTH_MAX 10000u

/* What stands for every byte that is not UTF-8. */
#define MIDGE_JSON_REPLACEMENT 0xfffdu

enum midge_json_kind {
    MIDGE_JSON_NULL = 0,
    MIDGE_JSON_FALSE,
    MIDGE_JSON_TRUE,
    MIDGE_JSON_NUMBER,
    MIDGE_JSON_STRING,
    MIDGE_JSON_ARRAY,
    MIDGE_JSON_OBJECT,
};

struct midge_json_value {
    enum midge_json_kind kind;
    struct midge_slice
        text; /* as written; a string without its quotes, array and object with brackets */
};

/** True if the text is one JSON value with only blanks around it. Cost: linear, no recursion. */
bool midge_json_is_valid(struct midge_slice text);

/** The one value of a valid text. */
struct midge_json_value midge_json_root(struct midge_slice text);

/** The content of an array or object, to be walked with midge_json_next_*. */
struct midge_slice midge_json_content(struct midge_json_value value);

/** Take the next member of an object's content; false at its end. The key is as written. */
bool midge_json_next_member(struct midge_slice *content, struct midge_slice *key_out,
                            struct midge_json_value *value_out);

/** Take the next element of an array's content; false at its end. */
bool midge_json_next_element(struct midge_slice *content, struct midge_json_value *value_out);

/** Take the next character of a string as written: escapes decoded, U+FFFD for what is no
 * character. */
uint32_t midge_json_next_character(struct midge_slice *text);

/** True if a key as written names the field: case does not matter. @param field lower-case ASCII */
bool midge_json_key_equals(struct midge_slice key, const char *field);

/** Take one UTF-8 character; U+FFFD and one byte if there is none. @param text at least one byte */
uint32_t midge_utf8_next(struct midge_slice *text);

/** Write one character; returns the bytes written, 1..4. */
uint32_t midge_utf8_put(uint8_t out[4], uint32_t character);

/** Make a C string of a JSON string as written. A U+0000 in it becomes U+FFFD: cutting the string
 * there would let "secret, NUL, anything" pass for "secret".
 * @param text_out  owned. @return false without memory */
bool midge_json_copy_text(struct midge_slice source, char **text_out);

#endif
