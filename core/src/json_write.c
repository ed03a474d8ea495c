/*
 * Writes JSON; see json_write.h.
 */
#include "midge/json_write.h"

#include <inttypes.h>
#include <stdio.h>

#include "json_internal.h"
#include "midge/compiler.h"

void midge_json_put_raw(struct midge_json_writer *writer, struct midge_slice text)
{
    if (text.len == 0)
        return;
    if (midge_json_fits(writer) && text.len <= writer->cap - writer->len)
        memcpy(writer->out + writer->len, text.base, text.len);
    writer->len += text.len;
    writer->last = text.base[text.len - 1];
}

static void put_character(struct midge_json_writer *writer, char character)
{
    midge_json_put_raw(writer, midge_slice_make(&character, 1));
}

/* What stands before a key or value. A string cannot end in one of these bytes: it ends in `"`. */
static void put_separator(struct midge_json_writer *writer)
{
    const uint8_t last = writer->last;

    if (last != 0 && last != '{' && last != '[' && last != ':')
        put_character(writer, ',');
}

void midge_json_begin(struct midge_json_writer *writer, char bracket)
{
    MIDGE_ASSERT(bracket == '{' || bracket == '[');

    put_separator(writer);
    put_character(writer, bracket);
}

void midge_json_end(struct midge_json_writer *writer, char bracket)
{
    MIDGE_ASSERT(bracket == '}' || bracket == ']');

    put_character(writer, bracket);
}

/* The letter behind the backslash of a short escape, 0 if there is none. */
static char short_escape(uint32_t character)
{
    switch (character) {
    case '"':
    case '\\':
        return (char)character;
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return 0;
    }
}

static bool needs_escape(uint32_t character)
{
    return character < ' ' || character == '<' || character == '>' || character == '&' ||
           character == 0x2028 || character == 0x2029 || character == MIDGE_JSON_REPLACEMENT;
}

static void put_quoted(struct midge_json_writer *writer, struct midge_slice rest)
{
    put_character(writer, '"');
    while (rest.len > 0) {
        const uint32_t character = midge_utf8_next(&rest);
        const char letter = short_escape(character);
        uint8_t bytes[8];

        if (letter != 0) {
            midge_json_put_raw(writer, midge_slice_make((const char[]){'\\', letter}, 2));
        } else if (needs_escape(character)) {
            (void)snprintf((char *)bytes, sizeof(bytes), "\\u%04" PRIx32, character);
            midge_json_put_raw(writer, midge_slice_make(bytes, 6));
        } else {
            midge_json_put_raw(writer, midge_slice_make(bytes, midge_utf8_put(bytes, character)));
        }
    }
    put_character(writer, '"');
}

void midge_json_put_key(struct midge_json_writer *writer, const char *key)
{
    put_separator(writer);
    put_quoted(writer, midge_slice_text(key));
    put_character(writer, ':');
}

void midge_json_put_string(struct midge_json_writer *writer, struct midge_slice text)
{
    put_separator(writer);
    put_quoted(writer, text);
}

void midge_json_put_number(struct midge_json_writer *writer, uint64_t number)
{
    char digits[24];

    (void)snprintf(digits, sizeof(digits), "%" PRIu64, number);
    put_separator(writer);
    midge_json_put_raw(writer, midge_slice_text(digits));
}

void midge_json_put_flag(struct midge_json_writer *writer, bool flag)
{
    put_separator(writer);
    midge_json_put_raw(writer, flag ? MIDGE_SLICE_LITERAL("true") : MIDGE_SLICE_LITERAL("false"));
}
