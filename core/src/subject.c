/* Rules for subjects. See midge/subject.h; one pass each, no recursion, no copies. */
#include "midge/subject.h"

#include <endian.h>

/* True if base[off, off + 1) is a whole token. */
static inline bool is_token(struct midge_slice subject, uint32_t off)
{
    return (off == 0 || subject.base[off - 1] == '.') &&
           (off + 1 == subject.len || subject.base[off + 1] == '.');
}

bool midge_subject_is_valid(struct midge_slice subject)
{
    bool tail = false; /* a token `>` was seen, so nothing may follow */
    uint32_t token_off = 0;

    for (uint32_t i = 0; i <= subject.len; i++) {
        if (i < subject.len && subject.base[i] != '.')
            continue;
        if (i == token_off || tail)
            return false;
        tail = i - token_off == 1 && subject.base[token_off] == '>';
        token_off = i + 1;
    }
    return true;
}

/* On the path of every message, so eight bytes at a time: two dots side by side are an empty token.
 */
bool midge_subject_is_routable(struct midge_slice subject)
{
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t lows = ones * 0x7f;
    uint64_t dot_before = 0; /* bit 7 set if the byte before is a dot */
    uint32_t off = 0;

    if (subject.len == 0 || subject.base[0] == '.' || subject.base[subject.len - 1] == '.')
        return false;
    for (; subject.len - off >= 8; off += 8) {
        uint64_t word;
        uint64_t dots;

        memcpy(&word, subject.base + off, sizeof(word));
        word = le64toh(word) ^ (ones * '.');
        dots = ~(((word & lows) + lows) | word | lows); /* bit 7 of every zero byte, exactly */
        if ((dots & (dots << 8 | dot_before)) != 0)
            return false;
        dot_before = dots >> 56;
    }
    for (; off < subject.len; off++) {
        const bool dot = subject.base[off] == '.';

        if (dot && dot_before != 0)
            return false;
        dot_before = dot;
    }
    return true;
}

bool midge_subject_is_literal(struct midge_slice subject)
{
    return midge_subject_is_routable(subject) && !midge_subject_has_wildcard(subject);
}

bool midge_subject_has_wildcard(struct midge_slice subject)
{
    for (uint32_t i = 0; i < subject.len; i++) {
        if ((subject.base[i] == '*' || subject.base[i] == '>') && is_token(subject, i))
            return true;
    }
    return false;
}

bool midge_subject_matches(struct midge_slice pattern, struct midge_slice subject)
{
    uint32_t p = 0; /* both stand at the begin of a token at the top of the loop */
    uint32_t s = 0;

    MIDGE_ASSERT(pattern.len > 0);
    MIDGE_ASSERT(subject.len > 0);

    for (;;) {
        if (p + 1 == pattern.len && pattern.base[p] == '>')
            return true;
        if (p < pattern.len && pattern.base[p] == '*' && is_token(pattern, p)) {
            p++;
            while (s < subject.len && subject.base[s] != '.')
                s++;
        } else {
            while (p < pattern.len && pattern.base[p] != '.') {
                if (s == subject.len || subject.base[s] != pattern.base[p])
                    return false;
                p++;
                s++;
            }
        }
        if (p == pattern.len || s == subject.len)
            return p == pattern.len && s == subject.len;
        if (subject.base[s] != '.')
            return false;
        p++;
        s++;
    }
}

/* True if every byte is above a blank, and none is DEL. Eight bytes at a time, as it is on the path
 * of every message that a client publishes. */
static bool is_printable(struct midge_slice text)
{
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t highs = ones * 0x80;
    uint32_t off = 0;

    for (; text.len - off >= 8; off += 8) {
        uint64_t word;
        uint64_t del;

        memcpy(&word, text.base + off, sizeof(word));
        del = word ^ (ones * 0x7f);
        /* A borrow can only come from a lower byte that is too small itself, so the answer for the
         * whole word is exact. */
        if (((((word - ones * 0x21) & ~word) | ((del - ones) & ~del)) & highs) != 0)
            return false;
    }
    for (; off < text.len; off++) {
        if (text.base[off] <= ' ' || text.base[off] == 0x7f)
            return false;
    }
    return true;
}

bool midge_subject_is_publishable(struct midge_slice subject)
{
    return subject.len <= MIDGE_SUBJECT_LEN_MAX && midge_subject_is_literal(subject) &&
           is_printable(subject);
}

bool midge_subject_is_subscribable(struct midge_slice subject)
{
    return subject.len <= MIDGE_SUBJECT_LEN_MAX && midge_subject_is_valid(subject) &&
           is_printable(subject);
}

bool midge_subject_is_queue_name(struct midge_slice name)
{
    return name.len >= 1 && name.len <= MIDGE_SUBJECT_LEN_MAX && is_printable(name);
}
