/* Reads one JSON text in place. See json_internal.h. */
#include "json_internal.h"

#include <stdlib.h>

#include "midge/compiler.h"

static bool is_space(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

static bool is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static void skip(struct midge_slice *text, uint32_t len)
{
    text->base += len;
    text->len -= len;
}

static void skip_spaces(struct midge_slice *text)
{
    while (text->len > 0 && is_space(text->base[0]))
        skip(text, 1);
}

/* Take one byte if it is the wanted one. */
static bool take(struct midge_slice *text, uint8_t byte)
{
    if (text->len == 0 || text->base[0] != byte)
        return false;
    skip(text, 1);
    return true;
}

static bool take_digits(struct midge_slice *text)
{
    if (text->len == 0 || !is_digit(text->base[0]))
        return false;
    while (text->len > 0 && is_digit(text->base[0]))
        skip(text, 1);
    return true;
}

static bool take_number(struct midge_slice *text)
{
    (void)take(text, '-');
    if (!take(text, '0') && !take_digits(text))
        return false;
    if (take(text, '.') && !take_digits(text))
        return false;
    if (take(text, 'e') || take(text, 'E')) {
        if (!take(text, '+'))
            (void)take(text, '-');
        return take_digits(text);
    }
    return true;
}

static bool take_word(struct midge_slice *text, struct midge_slice word)
{
    if (!midge_slice_starts_with(*text, word))
        return false;
    skip(text, word.len);
    return true;
}

/* Value of four hexadecimal digits; false if they are not. */
static bool read_hex4(struct midge_slice text, uint32_t *number_out)
{
    uint32_t number = 0;

    if (text.len < 4)
        return false;
    for (uint32_t i = 0; i < 4; i++) {
        const uint8_t byte = text.base[i];

        if (is_digit(byte))
            number = number << 4 | (uint32_t)(byte - '0');
        else if (byte >= 'a' && byte <= 'f')
            number = number << 4 | (uint32_t)(byte - 'a' + 10);
        else if (byte >= 'A' && byte <= 'F')
            number = number << 4 | (uint32_t)(byte - 'A' + 10);
        else
            return false;
    }
    *number_out = number;
    return true;
}

/* Take what follows a backslash. */
static bool take_escape(struct midge_slice *text)
{
    uint32_t number;

    if (text->len == 0)
        return false;
    switch (text->base[0]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        skip(text, 1);
        return true;
    case 'u':
        skip(text, 1);
        if (!read_hex4(*text, &number))
            return false;
        skip(text, 4);
        return true;
    default:
        return false;
    }
}

static bool take_string(struct midge_slice *text)
{
    if (!take(text, '"'))
        return false;
    while (text->len > 0) {
        const uint8_t byte = text->base[0];

        if (byte < ' ')
            return false;
        skip(text, 1);
        if (byte == '"')
            return true;
        if (byte == '\\' && !take_escape(text))
            return false;
    }
    return false;
}

/* A value that has no values inside. */
static bool take_scalar(struct midge_slice *text)
{
    if (text->len == 0)
        return false;
    switch (text->base[0]) {
    case '"':
        return take_string(text);
    case 'n':
        return take_word(text, MIDGE_SLICE_LITERAL("null"));
    case 't':
        return take_word(text, MIDGE_SLICE_LITERAL("true"));
    case 'f':
        return take_word(text, MIDGE_SLICE_LITERAL("false"));
    default:
        return take_number(text);
    }
}

/* The open brackets of a text, one bit each: set for an object. */
struct nesting {
    uint32_t depth;
    uint8_t is_object[(MIDGE_JSON_DEPTH_MAX + 7) / 8];
};

static bool nesting_push(struct nesting *nesting, bool is_object)
{
    const uint32_t index = nesting->depth / 8;
    const uint8_t bit = (uint8_t)(1u << nesting->depth % 8);

    if (nesting->depth == MIDGE_JSON_DEPTH_MAX)
        return false;
    if (nesting->depth % 8 == 0)
        nesting->is_object[index] = 0;
    nesting->is_object[index] =
        (uint8_t)(is_object ? nesting->is_object[index] | bit : nesting->is_object[index] & ~bit);
    nesting->depth++;
    return true;
}

static bool nesting_in_object(const struct nesting *nesting)
{
    const uint32_t top = nesting->depth - 1;

    return (nesting->is_object[top / 8] >> top % 8 & 1) != 0;
}

/* Take a key and its colon. */
static bool take_key(struct midge_slice *text)
{
    skip_spaces(text);
    if (!take_string(text))
        return false;
    skip_spaces(text);
    return take(text, ':');
}

/* Take a value up to where its first inner value begins. *complete_out tells if it has none. */
static bool take_begin(struct midge_slice *text, struct nesting *nesting, bool *complete_out)
{
    const bool is_object = text->len > 0 && text->base[0] == '{';

    *complete_out = true;
    if (!take(text, '{') && !take(text, '['))
        return take_scalar(text);
    if (!nesting_push(nesting, is_object))
        return false;
    skip_spaces(text);
    if (take(text, is_object ? '}' : ']')) {
        nesting->depth--;
        return true;
    }
    *complete_out = false;
    return !is_object || take_key(text);
}

/* Behind a complete value: take closing brackets, up to where the next value begins or to the end.
 */
static bool take_end(struct midge_slice *text, struct nesting *nesting)
{
    while (nesting->depth > 0) {
        const bool is_object = nesting_in_object(nesting);

        skip_spaces(text);
        if (take(text, ','))
            return !is_object || take_key(text);
        if (!take(text, is_object ? '}' : ']'))
            return false;
        nesting->depth--;
    }
    return true;
}

bool midge_json_is_valid(struct midge_slice text)
{
    struct nesting nesting;
    bool complete;

    nesting.depth = 0;
    do {
        skip_spaces(&text);
        if (!take_begin(&text, &nesting, &complete))
            return false;
        if (complete && !take_end(&text, &nesting))
            return false;
    } while (nesting.depth > 0);
    skip_spaces(&text);
    return text.len == 0;
}

/* Length of a string in a valid text, quotes included. */
static uint32_t string_len(struct midge_slice text)
{
    uint32_t off = 1;

    while (text.base[off] != '"')
        off += text.base[off] == '\\' ? 2 : 1;
    return off + 1;
}

/* Length of the array or object that a valid text begins with. */
static uint32_t nested_len(struct midge_slice text)
{
    uint32_t depth = 0;
    uint32_t off = 0;

    do {
        const uint8_t byte = text.base[off];

        if (byte == '"') {
            off += string_len(midge_slice_make(text.base + off, text.len - off));
            continue;
        }
        if (byte == '{' || byte == '[')
            depth++;
        else if (byte == '}' || byte == ']')
            depth--;
        off++;
    } while (depth > 0);
    return off;
}

static uint32_t scalar_len(struct midge_slice text)
{
    uint32_t off = 0;

    while (off < text.len && !is_space(text.base[off]) && text.base[off] != ',' &&
           text.base[off] != ']' && text.base[off] != '}')
        off++;
    return off;
}

/* Take the value that valid text begins with. */
static struct midge_json_value take_value(struct midge_slice *text)
{
    struct midge_json_value value = {MIDGE_JSON_NUMBER, {text->base, 0}};

    MIDGE_ASSERT(text->len > 0);
    switch (text->base[0]) {
    case '{':
    case '[':
        value.kind = text->base[0] == '{' ? MIDGE_JSON_OBJECT : MIDGE_JSON_ARRAY;
        value.text.len = nested_len(*text);
        skip(text, value.text.len);
        return value;
    case '"':
        value.kind = MIDGE_JSON_STRING;
        value.text = midge_slice_make(text->base + 1, string_len(*text) - 2);
        skip(text, value.text.len + 2);
        return value;
    case 'n':
        value.kind = MIDGE_JSON_NULL;
        break;
    case 'f':
        value.kind = MIDGE_JSON_FALSE;
        break;
    case 't':
        value.kind = MIDGE_JSON_TRUE;
        break;
    default:
        break;
    }
    value.text.len = scalar_len(*text);
    skip(text, value.text.len);
    return value;
}

struct midge_json_value midge_json_root(struct midge_slice text)
{
    skip_spaces(&text);
    return take_value(&text);
}

struct midge_slice midge_json_content(struct midge_json_value value)
{
    MIDGE_ASSERT(value.kind == MIDGE_JSON_ARRAY || value.kind == MIDGE_JSON_OBJECT);

    return midge_slice_make(value.text.base + 1, value.text.len - 2);
}

bool midge_json_next_element(struct midge_slice *content, struct midge_json_value *value_out)
{
    skip_spaces(content);
    if (content->len == 0)
        return false;
    *value_out = take_value(content);
    skip_spaces(content);
    (void)take(content, ',');
    return true;
}

bool midge_json_next_member(struct midge_slice *content, struct midge_slice *key_out,
                            struct midge_json_value *value_out)
{
    skip_spaces(content);
    if (content->len == 0)
        return false;
    *key_out = take_value(content).text;
    skip_spaces(content);
    (void)take(content, ':');
    return midge_json_next_element(content, value_out);
}

/* Take \uXXXX behind the backslash; the second half of a pair only if it makes the pair whole. */
static uint32_t take_unicode(struct midge_slice *text)
{
    uint32_t high = 0;
    uint32_t low = 0;

    skip(text, 1);
    (void)read_hex4(*text, &high);
    skip(text, 4);
    if (high < 0xd800 || high > 0xdfff)
        return high;
    if (high < 0xdc00 && text->len >= 6 && text->base[0] == '\\' && text->base[1] == 'u' &&
        read_hex4(midge_slice_make(text->base + 2, 4), &low) && low >= 0xdc00 && low <= 0xdfff) {
        skip(text, 6);
        return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    }
    return MIDGE_JSON_REPLACEMENT;
}

uint32_t midge_json_next_character(struct midge_slice *text)
{
    uint8_t escape;

    MIDGE_ASSERT(text->len > 0);
    if (text->base[0] != '\\')
        return midge_utf8_next(text);
    skip(text, 1);
    if (text->base[0] == 'u')
        return take_unicode(text);
    escape = text->base[0];
    skip(text, 1);
    switch (escape) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return escape;
    }
}

bool midge_json_key_equals(struct midge_slice key, const char *field)
{
    while (key.len > 0) {
        uint32_t character = midge_json_next_character(&key);

        if (character >= 'A' && character <= 'Z')
            character += 'a' - 'A';
        else if (character == 0x17f) /* long s and the Kelvin sign fold to letters; fold.go */
            character = 's';
        else if (character == 0x212a)
            character = 'k';
        if (character == 0 || character != (uint8_t)*field)
            return false;
        field++;
    }
    return *field == '\0';
}

/* RFC 3629: what may follow each first byte. Overlong forms, surrogates and > U+10FFFF are no
 * characters. */
uint32_t midge_utf8_next(struct midge_slice *text)
{
    const uint8_t first = text->base[0];
    uint32_t len = 2;
    uint32_t low = 0x80; /* range of the second byte */
    uint32_t high = 0xbf;
    uint32_t character = first & 0x1fu;

    if (first >= 0xe0 && first < 0xf0) {
        len = 3;
        low = first == 0xe0 ? 0xa0 : 0x80;
        high = first == 0xed ? 0x9f : 0xbf;
        character = first & 0x0fu;
    } else if (first >= 0xf0) {
        len = 4;
        low = first == 0xf0 ? 0x90 : 0x80;
        high = first == 0xf4 ? 0x8f : 0xbf;
        character = first & 0x07u;
    }
    if (first < 0xc2 || first > 0xf4 || text->len < len) {
        skip(text, 1);
        return first < 0x80 ? first : MIDGE_JSON_REPLACEMENT;
    }
    for (uint32_t i = 1; i < len; i++) {
        if (text->base[i] < low || text->base[i] > high) {
            skip(text, 1);
            return MIDGE_JSON_REPLACEMENT;
        }
        character = character << 6 | (text->base[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    skip(text, len);
    return character;
}

uint32_t midge_utf8_put(uint8_t out[4], uint32_t character)
{
    if (character < 0x80) {
        out[0] = (uint8_t)character;
        return 1;
    }
    if (character < 0x800) {
        out[0] = (uint8_t)(0xc0 | character >> 6);
        out[1] = (uint8_t)(0x80 | (character & 0x3f));
        return 2;
    }
    if (character < 0x10000) {
        out[0] = (uint8_t)(0xe0 | character >> 12);
        out[1] = (uint8_t)(0x80 | (character >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (character & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | character >> 18);
    out[1] = (uint8_t)(0x80 | (character >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (character >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (character & 0x3f));
    return 4;
}

bool midge_json_copy_text(struct midge_slice source, char **text_out)
{
    struct midge_slice rest = source;
    uint8_t bytes[4];
    size_t len = 0;
    char *text;

    while (rest.len > 0) {
        const uint32_t character = midge_json_next_character(&rest);

        len += midge_utf8_put(bytes, character != 0 ? character : MIDGE_JSON_REPLACEMENT);
    }
    text = malloc(len + 1);
    if (text == NULL)
        return false;
    *text_out = text;
    rest = source;
    while (rest.len > 0) {
        const uint32_t character = midge_json_next_character(&rest);
        const uint32_t put_len =
            midge_utf8_put(bytes, character != 0 ? character : MIDGE_JSON_REPLACEMENT);

        memcpy(text, bytes, put_len);
        text += put_len;
    }
    *text = '\0';
    explicit_bzero(bytes, sizeof(bytes));
    return true;
}
