/*
 * Characters, keys and scalar values of a configuration file.
 *
 * Every scanner leaves the cursor behind what it took; what may follow is for the caller to check.
 * Source: nats-server v2.15.2, conf/lex.go, conf/parse.go:300-380; Go strconv.ParseInt, time.Parse.
 */
#include "conf_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

/* Enough for a small file in one piece. */
#define CHUNK_LEN_MIN 16384u

struct midge_conf_chunk {
    struct midge_conf_chunk *next;
    size_t len;
    size_t used;
    alignas(16) unsigned char bytes[];
};

void *midge_conf_alloc(struct midge_conf *conf, size_t len)
{
    struct midge_conf_chunk *chunk = conf->chunks;
    const size_t rounded = (len + 15) & ~(size_t)15;

    if (conf->tree_len + rounded > MIDGE_CONF_TREE_LEN_MAX)
        return NULL;
    if (chunk == NULL || chunk->len - chunk->used < rounded) {
        const size_t chunk_len = rounded > CHUNK_LEN_MIN ? rounded : CHUNK_LEN_MIN;

        chunk = calloc(1, sizeof(*chunk) + chunk_len);
        if (chunk == NULL)
            return NULL;
        chunk->len = chunk_len;
        chunk->next = conf->chunks;
        conf->chunks = chunk;
    }
    void *bytes = chunk->bytes + chunk->used;
    chunk->used += rounded;
    conf->tree_len += rounded;
    return bytes;
}

void midge_conf_init(struct midge_conf *conf)
{
    memset(conf, 0, sizeof(*conf));
}

void midge_conf_deinit(struct midge_conf *conf)
{
    while (conf->chunks != NULL) {
        struct midge_conf_chunk *chunk = conf->chunks;

        conf->chunks = chunk->next;
        explicit_bzero(chunk->bytes, chunk->used);
        free(chunk);
    }
    midge_conf_init(conf);
}

bool midge_conf_copy(struct midge_conf *conf, struct midge_slice bytes,
                     struct midge_slice *copy_out)
{
    uint8_t *copy = midge_conf_alloc(conf, (size_t)bytes.len + 1);

    if (copy == NULL)
        return false;
    if (bytes.len > 0)
        memcpy(copy, bytes.base, bytes.len);
    *copy_out = midge_slice_make(copy, bytes.len);
    return true;
}

struct midge_conf_place midge_conf_place(const struct midge_conf_reader *reader)
{
    return (struct midge_conf_place){
        .file = reader->name,
        .line = reader->line,
        .column = (uint32_t)(reader->at - reader->line_base) + 1,
    };
}

enum midge_status midge_conf_fail(struct midge_conf *conf, const struct midge_conf_place *place,
                                  const char *format, ...)
{
    int len = 0;
    va_list args;

    if (conf->error[0] != '\0')
        return MIDGE_E_CONFIG;
    if (place != NULL)
        len = snprintf(conf->error, sizeof(conf->error), "%s:%" PRIu32 ":%" PRIu32 ": ",
                       place->file, place->line, place->column);
    if (len >= 0 && (size_t)len < sizeof(conf->error)) {
        va_start(args, format);
        (void)vsnprintf(conf->error + len, sizeof(conf->error) - (size_t)len, format, args);
        va_end(args);
    }
    return MIDGE_E_CONFIG;
}

enum midge_status midge_conf_fail_memory(struct midge_conf *conf)
{
    return midge_conf_fail(conf, NULL, "the configuration does not fit in memory");
}

int midge_conf_peek(const struct midge_conf_reader *reader)
{
    return reader->at < reader->end ? *reader->at : -1;
}

void midge_conf_advance(struct midge_conf_reader *reader, uint32_t len)
{
    MIDGE_ASSERT(len <= (uint32_t)(reader->end - reader->at));
    for (; len > 0; len--) {
        if (*reader->at++ == '\n') {
            reader->line++;
            reader->line_base = reader->at;
        }
    }
}

static bool is_blank(int c)
{
    return c == ' ' || c == '\t';
}

static bool is_newline(int c)
{
    return c == '\n' || c == '\r';
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

/* What ends a bare value; -1 is the end of the text. */
static bool is_value_end(int c)
{
    return c == -1 || is_blank(c) || is_newline(c) || c == ',' || c == ';' || c == ']' || c == '}';
}

/* White space as Unicode has it, since text copied from a web page brings no-break spaces. */
uint32_t midge_conf_space_len(const struct midge_conf_reader *reader)
{
    const size_t left = (size_t)(reader->end - reader->at);
    const uint8_t *at = reader->at;

    if (left == 0)
        return 0;
    if (at[0] == ' ' || (at[0] >= '\t' && at[0] <= '\r'))
        return 1;
    if (left >= 2 && at[0] == 0xc2 && (at[1] == 0x85 || at[1] == 0xa0))
        return 2;
    if (left < 3)
        return 0;
    if (at[0] == 0xe2 && at[1] == 0x80 &&
        ((at[2] >= 0x80 && at[2] <= 0x8a) || at[2] == 0xa8 || at[2] == 0xa9 || at[2] == 0xaf))
        return 3;
    if ((at[0] == 0xe1 && at[1] == 0x9a && at[2] == 0x80) ||
        (at[0] == 0xe2 && at[1] == 0x81 && at[2] == 0x9f) ||
        (at[0] == 0xe3 && at[1] == 0x80 && at[2] == 0x80))
        return 3;
    return 0;
}

void midge_conf_skip_blanks(struct midge_conf_reader *reader)
{
    while (is_blank(midge_conf_peek(reader)))
        midge_conf_advance(reader, 1);
}

void midge_conf_skip_space(struct midge_conf_reader *reader)
{
    for (uint32_t len = midge_conf_space_len(reader); len > 0; len = midge_conf_space_len(reader))
        midge_conf_advance(reader, len);
}

bool midge_conf_skip_comment(struct midge_conf_reader *reader)
{
    const bool slashes =
        reader->end - reader->at >= 2 && reader->at[0] == '/' && reader->at[1] == '/';

    if (midge_conf_peek(reader) != '#' && !slashes)
        return false;
    while (midge_conf_peek(reader) != -1 && !is_newline(midge_conf_peek(reader)))
        midge_conf_advance(reader, 1);
    return true;
}

void midge_conf_skip_all(struct midge_conf_reader *reader)
{
    do {
        midge_conf_skip_space(reader);
    } while (midge_conf_skip_comment(reader));
}

/* From behind the opening quote to the closing one, which is taken too. */
static enum midge_status scan_quoted(struct midge_conf_reader *reader, uint8_t quote, bool escapes,
                                     struct midge_slice *text_out)
{
    const struct midge_conf_place place = midge_conf_place(reader);
    const uint8_t *base;

    midge_conf_advance(reader, 1);
    base = reader->at;
    while (midge_conf_peek(reader) != quote) {
        if (escapes && midge_conf_peek(reader) == '\\' && reader->end - reader->at >= 2)
            midge_conf_advance(reader, 1);
        if (midge_conf_peek(reader) == -1)
            return midge_conf_fail(reader->conf, &place, "this quote is never closed");
        midge_conf_advance(reader, 1);
    }
    *text_out = midge_slice_make(base, (uint32_t)(reader->at - base));
    midge_conf_advance(reader, 1);
    return MIDGE_OK;
}

enum midge_status midge_conf_scan_key(struct midge_conf_reader *reader, struct midge_slice *key_out,
                                      bool *quoted_out)
{
    const int first = midge_conf_peek(reader);
    const uint8_t *base = reader->at;

    *quoted_out = first == '"' || first == '\'';
    if (*quoted_out)
        return scan_quoted(reader, (uint8_t)first, false, key_out);
    while (midge_conf_peek(reader) != -1 && midge_conf_peek(reader) != ':' &&
           midge_conf_peek(reader) != '=' && midge_conf_space_len(reader) == 0)
        midge_conf_advance(reader, 1);
    *key_out = midge_slice_make(base, (uint32_t)(reader->at - base));
    return MIDGE_OK;
}

enum midge_status midge_conf_scan_include(struct midge_conf_reader *reader,
                                          struct midge_slice *path_out)
{
    const struct midge_conf_place place = midge_conf_place(reader);
    const int first = midge_conf_peek(reader);
    const uint8_t *base = reader->at;

    if (first == '"' || first == '\'')
        return scan_quoted(reader, (uint8_t)first, false, path_out);
    if (first == '[' || first == '{' || first == '(' || first == '\\' || first == '-' ||
        is_digit(first))
        return midge_conf_fail(reader->conf, &place, "expected the path of a file behind include");
    while (midge_conf_peek(reader) != -1 && !is_newline(midge_conf_peek(reader)) &&
           !is_blank(midge_conf_peek(reader)) && midge_conf_peek(reader) != ';' &&
           midge_conf_peek(reader) != '}')
        midge_conf_advance(reader, 1);
    if (reader->at == base)
        return midge_conf_fail(reader->conf, &place, "expected the path of a file behind include");
    *path_out = midge_slice_make(base, (uint32_t)(reader->at - base));
    return MIDGE_OK;
}

static int hex_digit(uint8_t c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* One escape behind its backslash. @return bytes taken, 0 if it is none */
static uint32_t decode_escape(struct midge_slice text, uint8_t *byte_out)
{
    static const char names[] = "tnr\"\\";
    static const char bytes[] = "\t\n\r\"\\";

    if (text.len == 0)
        return 0;
    if (text.base[0] == 'x') {
        if (text.len < 3 || hex_digit(text.base[1]) < 0 || hex_digit(text.base[2]) < 0)
            return 0;
        *byte_out = (uint8_t)(hex_digit(text.base[1]) * 16 + hex_digit(text.base[2]));
        return 3;
    }
    for (size_t i = 0; names[i] != '\0'; i++) {
        if ((uint8_t)names[i] == text.base[0]) {
            *byte_out = (uint8_t)bytes[i];
            return 1;
        }
    }
    return 0;
}

/* A string value from text; with escapes decoded if asked for. */
static enum midge_status set_string(struct midge_conf_reader *reader, struct midge_slice text,
                                    bool escapes, struct midge_conf_value *value)
{
    uint8_t *out = midge_conf_alloc(reader->conf, (size_t)text.len + 1);
    uint32_t len = 0;

    if (out == NULL)
        return midge_conf_fail_memory(reader->conf);
    for (uint32_t i = 0; i < text.len; i++) {
        if (!escapes || text.base[i] != '\\') {
            out[len++] = text.base[i];
            continue;
        }
        const uint32_t taken =
            decode_escape(midge_slice_make(text.base + i + 1, text.len - i - 1), &out[len]);
        if (taken == 0)
            return midge_conf_fail(reader->conf, &value->place,
                                   "a backslash may be followed by xHH t n r \" \\ only; "
                                   "a string in single quotes takes it as it is");
        len++;
        i += taken;
    }
    value->kind = MIDGE_CONF_STRING;
    value->string = midge_slice_make(out, len);
    return MIDGE_OK;
}

static bool is_word(struct midge_slice text, const char *word)
{
    return text.len == strlen(word) && strncasecmp((const char *)text.base, word, text.len) == 0;
}

/* True if the word is a bool, whose value it sets. */
static bool read_bool(struct midge_slice text, bool *bool_out)
{
    const bool yes = is_word(text, "true") || is_word(text, "yes") || is_word(text, "on");
    const bool no = is_word(text, "false") || is_word(text, "no") || is_word(text, "off");

    *bool_out = yes;
    return yes || no;
}

/* A bare word from base on, of which the cursor has taken a part: bool, variable or string. */
static enum midge_status scan_bare(struct midge_conf_reader *reader, const uint8_t *base,
                                   struct midge_conf_value *value, struct midge_slice *variable_out)
{
    bool escapes = false;
    bool boolean;
    struct midge_slice text;

    while (!is_value_end(midge_conf_peek(reader))) {
        if (midge_conf_peek(reader) == '\'') {
            const struct midge_conf_place place = midge_conf_place(reader);
            return midge_conf_fail(
                reader->conf, &place,
                "a bare value cannot hold a single quote: put the value in quotes");
        }
        if (midge_conf_peek(reader) == '\\') {
            escapes = true;
            if (reader->end - reader->at >= 2)
                midge_conf_advance(reader, 1);
        }
        midge_conf_advance(reader, 1);
    }
    text = midge_slice_make(base, (uint32_t)(reader->at - base));
    if (text.len == 0)
        return midge_conf_fail(reader->conf, &value->place, "expected a value");
    if (!escapes && read_bool(text, &boolean)) {
        value->kind = MIDGE_CONF_BOOL;
        value->boolean = boolean;
        return MIDGE_OK;
    }
    if (!escapes && text.base[0] == '$') {
        *variable_out = midge_slice_make(text.base + 1, text.len - 1);
        return MIDGE_OK;
    }
    return set_string(reader, text, escapes, value);
}

/* Bytes that a number suffix stands for, 0 = unknown: k = 1000, kb ki kib = 1024, and so on to e.
 */
static int64_t suffix_factor(struct midge_slice suffix)
{
    static const char letters[] = "kmgtpe";
    const struct midge_slice tail =
        suffix.len == 0 ? suffix : midge_slice_make(suffix.base + 1, suffix.len - 1);
    const bool binary = is_word(tail, "b") || is_word(tail, "i") || is_word(tail, "ib");
    int64_t factor = 1;

    if (suffix.len == 0)
        return 1;
    if (suffix.len > 1 && !binary)
        return 0;
    for (size_t i = 0; letters[i] != '\0'; i++) {
        factor *= binary ? 1024 : 1000;
        if ((suffix.base[0] | 0x20) == letters[i])
            return factor;
    }
    return 0;
}

static enum midge_status set_integer(struct midge_conf_reader *reader, struct midge_slice digits,
                                     struct midge_slice suffix, struct midge_conf_value *value)
{
    const bool negative = digits.base[0] == '-';
    const int64_t factor = suffix_factor(suffix);
    int64_t number = 0;

    if (factor == 0)
        return midge_conf_fail(reader->conf, &value->place,
                               "unknown number suffix: k m g t p e, alone or with b, i or ib");
    for (uint32_t i = negative ? 1 : 0; i < digits.len; i++) {
        const int64_t digit = digits.base[i] - '0';

        /* Downwards, so that the smallest number fits too. */
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_sub_overflow(number, digit, &number))
            return midge_conf_fail(reader->conf, &value->place, "the number is out of range");
    }
    if (__builtin_mul_overflow(number, negative ? factor : -factor, &number))
        return midge_conf_fail(reader->conf, &value->place, "the number is out of range");
    value->kind = MIDGE_CONF_INTEGER;
    value->integer = number;
    return MIDGE_OK;
}

static enum midge_status set_float(struct midge_conf_reader *reader, struct midge_slice text,
                                   struct midge_conf_value *value)
{
    struct midge_slice copy;

    if (!midge_conf_copy(reader->conf, text, &copy))
        return midge_conf_fail_memory(reader->conf);
    errno = 0;
    value->kind = MIDGE_CONF_FLOAT;
    value->real = strtod((const char *)copy.base, NULL);
    if (errno == ERANGE && (value->real > 1 || value->real < -1))
        return midge_conf_fail(reader->conf, &value->place, "the number is out of range");
    return MIDGE_OK;
}

static uint32_t days_in_month(uint32_t year, uint32_t month)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

    return month == 2 && leap ? 29u : days[month - 1];
}

/* `at` holds two digits. */
static uint32_t two_digits(const uint8_t *at)
{
    return (uint32_t)(at[0] - '0') * 10 + (uint32_t)(at[1] - '0');
}

static bool date_is_valid(const uint8_t *text)
{
    const uint32_t year = two_digits(text) * 100 + two_digits(text + 2);
    const uint32_t month = two_digits(text + 5);
    const uint32_t day = two_digits(text + 8);

    return month >= 1 && month <= 12 && day >= 1 && day <= days_in_month(year, month) &&
           two_digits(text + 11) <= 23 && two_digits(text + 14) <= 59 &&
           two_digits(text + 17) <= 59;
}

/* 2006-01-02T15:04:05Z from base on; the year is already taken. */
static enum midge_status scan_date(struct midge_conf_reader *reader, const uint8_t *base,
                                   struct midge_conf_value *value)
{
    static const char form[] = "0000-00-00T00:00:00Z";
    const uint32_t len = sizeof(form) - 1;
    bool fits = (size_t)(reader->end - base) >= len;

    for (uint32_t i = 0; fits && i < len; i++)
        fits = form[i] == '0' ? is_digit(base[i]) : (uint8_t)form[i] == base[i];
    if (!fits || !date_is_valid(base))
        return midge_conf_fail(
            reader->conf, &value->place,
            "expected a date such as 2006-01-02T15:04:05Z; quote the value if it is "
            "a string");
    midge_conf_advance(reader, (uint32_t)(base + len - reader->at));
    if (!midge_conf_copy(reader->conf, midge_slice_make(base, len), &value->string))
        return midge_conf_fail_memory(reader->conf);
    value->kind = MIDGE_CONF_DATE;
    return MIDGE_OK;
}

static void skip_digits(struct midge_conf_reader *reader)
{
    while (is_digit(midge_conf_peek(reader)))
        midge_conf_advance(reader, 1);
}

/* A float, or an address such as 127.0.0.1:4222; the cursor is at the first dot. */
static enum midge_status scan_float(struct midge_conf_reader *reader, const uint8_t *base,
                                    struct midge_conf_value *value)
{
    midge_conf_advance(reader, 1);
    if (!is_digit(midge_conf_peek(reader)))
        return midge_conf_fail(reader->conf, &value->place, "a number needs a digit after the dot");
    skip_digits(reader);
    if (midge_conf_peek(reader) != '.')
        return set_float(reader, midge_slice_make(base, (uint32_t)(reader->at - base)), value);
    while (is_digit(midge_conf_peek(reader)) || midge_conf_peek(reader) == '.' ||
           midge_conf_peek(reader) == ':' || midge_conf_peek(reader) == '-')
        midge_conf_advance(reader, 1);
    return set_string(reader, midge_slice_make(base, (uint32_t)(reader->at - base)), false, value);
}

/* A number, date or address, or a bare string that starts with a digit. */
static enum midge_status scan_number(struct midge_conf_reader *reader,
                                     struct midge_conf_value *value,
                                     struct midge_slice *variable_out)
{
    const uint8_t *base = reader->at;
    const bool negative = *base == '-';
    struct midge_slice digits;
    struct midge_slice suffix;

    if (negative)
        midge_conf_advance(reader, 1);
    if (!is_digit(midge_conf_peek(reader)))
        return midge_conf_fail(reader->conf, &value->place,
                               "expected a digit after the minus sign");
    skip_digits(reader);
    digits = midge_slice_make(base, (uint32_t)(reader->at - base));
    if (midge_conf_peek(reader) == '.')
        return scan_float(reader, base, value);
    if (midge_conf_peek(reader) == '-' && !negative)
        return scan_date(reader, base, value);

    suffix = midge_slice_make(reader->at, 0);
    if (midge_conf_peek(reader) > 0 && strchr("kKmMgGtTpPeE", midge_conf_peek(reader)) != NULL) {
        do {
            midge_conf_advance(reader, 1);
        } while (midge_conf_peek(reader) > 0 && strchr("bBiI", midge_conf_peek(reader)) != NULL);
        suffix.len = (uint32_t)(reader->at - suffix.base);
    }
    if (is_value_end(midge_conf_peek(reader)) || (negative && suffix.len == 0))
        return set_integer(reader, digits, suffix, value);
    return scan_bare(reader, base, value, variable_out);
}

/* A block: from behind ( to a ) that stands alone on its line; the newline before it belongs to it.
 */
static enum midge_status scan_block(struct midge_conf_reader *reader,
                                    struct midge_conf_value *value)
{
    const uint8_t *base;

    midge_conf_advance(reader, 1);
    base = reader->at;
    for (; midge_conf_peek(reader) != -1; midge_conf_advance(reader, 1)) {
        const uint8_t *next = reader->at + 1;

        if (*reader->at != ')' || reader->at == base || reader->at[-1] != '\n')
            continue;
        if (next < reader->end && !is_newline(*next))
            continue;
        const struct midge_slice text = midge_slice_make(base, (uint32_t)(reader->at - base));
        midge_conf_advance(reader, 1);
        return set_string(reader, text, false, value);
    }
    return midge_conf_fail(reader->conf, &value->place,
                           "this block is never closed by a ) alone on a line");
}

enum midge_status midge_conf_scan_scalar(struct midge_conf_reader *reader,
                                         struct midge_conf_value *value,
                                         struct midge_slice *variable_out)
{
    const int first = midge_conf_peek(reader);
    struct midge_slice text = midge_slice_make(NULL, 0);

    *variable_out = midge_slice_make(NULL, 0);
    value->place = midge_conf_place(reader);
    if (first == '(')
        return scan_block(reader, value);
    if (first == '-' || is_digit(first))
        return scan_number(reader, value, variable_out);
    if (first == '.')
        return midge_conf_fail(reader->conf, &value->place, "a number starts with a digit");
    if (first != '"' && first != '\'')
        return scan_bare(reader, reader->at, value, variable_out);
    enum midge_status status = scan_quoted(reader, (uint8_t)first, first == '"', &text);
    return status != MIDGE_OK ? status : set_string(reader, text, first == '"', value);
}
