/*
 * Bytes as Go's %q shows them, for the protocol trace.
 *
 * What cannot be printed becomes an escape. Go asks Unicode tables; here the non-printing code
 * points are the controls, blanks other than U+0020, the common format characters, private use and
 * noncharacters; unassigned code points pass as they are.
 * Source: Go strconv.Quote, unicode.IsPrint.
 */
#include <stdio.h>

#include "log.h"

/* One code point of UTF-8. @return its bytes, 0 if they are not UTF-8. Source: RFC 3629. */
static uint32_t decode(struct midge_slice bytes, uint32_t *code_out)
{
    static const uint32_t code_min[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t first = bytes.base[0];
    uint32_t len = 1;

    if (first < 0x80) {
        *code_out = first;
        return 1;
    }
    if (first >= 0xc2 && first <= 0xdf)
        len = 2;
    else if (first >= 0xe0 && first <= 0xef)
        len = 3;
    else if (first >= 0xf0 && first <= 0xf4)
        len = 4;
    if (len == 1 || bytes.len < len)
        return 0;
    *code_out = first & (0x7fu >> len);
    for (uint32_t i = 1; i < len; i++) {
        if ((bytes.base[i] & 0xc0) != 0x80)
            return 0;
        *code_out = *code_out << 6 | (bytes.base[i] & 0x3fu);
    }
    if (*code_out < code_min[len] || *code_out > 0x10ffff ||
        (*code_out >= 0xd800 && *code_out <= 0xdfff))
        return 0;
    return len;
}

static bool is_printable(uint32_t code)
{
    static const struct {
        uint32_t first;
        uint32_t last;
    } hidden[] = {
        {0x00, 0x1f},        {0x7f, 0xa0},     {0xad, 0xad},     {0x61c, 0x61c},
        {0x1680, 0x1680},    {0x180e, 0x180e}, {0x2000, 0x200f}, {0x2028, 0x202f},
        {0x205f, 0x206f},    {0x3000, 0x3000}, {0xe000, 0xf8ff}, {0xfdd0, 0xfdef},
        {0xfeff, 0xfeff},    {0xfff0, 0xfffb}, {0xfffe, 0xffff}, {0xe0000, 0xe00ff},
        {0xf0000, 0x10ffff},
    };

    for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
        if (code >= hidden[i].first && code <= hidden[i].last)
            return false;
    }
    return true;
}

/* The letter behind the backslash, 0 if there is none. */
static char short_escape(uint32_t code)
{
    static const char codes[] = "\a\b\f\n\r\t\v\\\"";
    static const char letters[] = "abfnrtv\\\"";
    const char *at = code == 0 || code > 0x7f ? NULL : strchr(codes, (int)code);

    return at == NULL ? '\0' : letters[at - codes];
}

/* One escape or code point. @return bytes in text, which has room for 12 */
static uint32_t quote_one(char *text, size_t cap, const uint8_t *bytes, uint32_t len, uint32_t code)
{
    int printed;

    if (len == 0) {
        printed = snprintf(text, cap, "\\x%02x", bytes[0]);
    } else if (short_escape(code) != '\0') {
        printed = snprintf(text, cap, "\\%c", short_escape(code));
    } else if (is_printable(code)) {
        memcpy(text, bytes, len);
        printed = (int)len;
    } else if (code < 0x80) {
        printed = snprintf(text, cap, "\\x%02x", code);
    } else {
        printed = snprintf(text, cap, code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
    }
    MIDGE_ASSERT(printed > 0 && (size_t)printed < cap);
    return (uint32_t)printed;
}

uint32_t midge_log_quote(char *out, uint32_t cap, struct midge_slice bytes)
{
    uint32_t out_len = 0;
    uint32_t at = 0;

    while (at < bytes.len) {
        char text[16];
        uint32_t code = 0;
        const uint32_t len = decode(midge_slice_make(bytes.base + at, bytes.len - at), &code);
        const uint32_t text_len = quote_one(text, sizeof(text), bytes.base + at, len, code);

        if (text_len > cap - out_len)
            break;
        memcpy(out + out_len, text, text_len);
        out_len += text_len;
        at += len == 0 ? 1 : len;
    }
    return out_len;
}
