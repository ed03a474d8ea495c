/* Rules of NATS subjects. Method: subject, or pattern and subject, and the expected answer; one
 * behaviour per test. Long subjects repeat the case in every position, because checks go by eight
 * bytes. */
#include "midge/subject.h"

#include <criterion/criterion.h>

static void expect_match(const char *pattern, const char *subject, bool want)
{
    cr_expect_eq(midge_subject_matches(midge_slice_text(pattern), midge_slice_text(subject)), want,
                 "'%s' '%s' should be %d", pattern, subject, want);
}

static void expect_valid(const char *subject, bool want)
{
    cr_expect_eq(midge_subject_is_valid(midge_slice_text(subject)), want, "'%s'", subject);
}

static void expect_routable(const char *subject, bool want)
{
    cr_expect_eq(midge_subject_is_routable(midge_slice_text(subject)), want, "'%s'", subject);
}

static void expect_literal(const char *subject, bool want)
{
    cr_expect_eq(midge_subject_is_literal(midge_slice_text(subject)), want, "'%s'", subject);
}

static void expect_wildcard(const char *subject, bool want)
{
    cr_expect_eq(midge_subject_has_wildcard(midge_slice_text(subject)), want, "'%s'", subject);
}

Test(subject, an_empty_token_is_neither_valid_nor_routable)
{
    static const char *const subjects[] = {"",     ".",    "..",   "a.",  ".a",
                                           "a..b", "a.b.", ".a.b", "*..b"};

    for (uint32_t i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++) {
        expect_valid(subjects[i], false);
        expect_routable(subjects[i], false);
        expect_literal(subjects[i], false);
    }
}

Test(subject, two_dots_are_found_wherever_they_are)
{
    for (uint32_t len = 4; len < 40; len++) {
        for (uint32_t dot = 1; dot + 2 < len; dot++) {
            char text[48];
            struct midge_slice subject;

            memset(text, 'a', sizeof(text));
            text[dot] = '.';
            subject = midge_slice_make(text, len);
            cr_expect(midge_subject_is_routable(subject), "%u of %u", dot, len);
            cr_expect(midge_subject_is_valid(subject), "%u of %u", dot, len);
            text[dot + 1] = '.';
            cr_expect_not(midge_subject_is_routable(subject), "%u of %u", dot, len);
            cr_expect_not(midge_subject_is_valid(subject), "%u of %u", dot, len);
            memset(text, '/', sizeof(text)); /* one bit from a dot */
            text[dot] = (char)('.' | 0x80);
            cr_expect(midge_subject_is_routable(subject), "%u of %u", dot, len);
        }
    }
}

Test(subject, many_tokens_of_one_byte_are_routable)
{
    expect_routable("a.b.c.d.e.f.g.h.i.j.k", true);
    expect_routable("aa.b.c.d.e.f.g.h.i.j.k", true);
}

Test(subject, gt_is_valid_only_as_the_last_token)
{
    expect_valid(">", true);
    expect_valid("a.>", true);
    expect_valid("a.>.b", false);
    expect_valid(">.a", false);
    expect_valid(">.>", false);
}

Test(subject, star_is_valid_anywhere)
{
    expect_valid("*", true);
    expect_valid("a.*", true);
    expect_valid("*.b.*", true);
    expect_valid("*.>", true);
}

Test(subject, a_wildcard_inside_a_token_is_a_literal_character)
{
    expect_valid("a.>>", true);
    expect_valid("a>.b", true);
    expect_valid("**", true);
    expect_wildcard("a.>>.b", false);
    expect_wildcard("a*.*b.a>", false);
    expect_literal("a*.>b", true);
    expect_match("a*.b", "a*.b", true);
    expect_match("a*.b", "ax.b", false);
    expect_match("a.b>", "a.b>", true);
    expect_match("a.b>", "a.bc", false);
    expect_match(">a", "ba", false);
    expect_match("**", "ab", false);
}

/* The check that refuses whitespace, IsValidSubject, is not the one that nats-server makes for SUB.
 */
Test(subject, any_byte_is_valid_in_a_token)
{
    cr_expect(midge_subject_is_valid(MIDGE_SLICE_LITERAL("a\0b.\xff\xfe.\x0b\x7f. .\f")));
    cr_expect(midge_subject_is_routable(MIDGE_SLICE_LITERAL("\0.\xff\xfe.\x0b\x7f. .\f")));
    cr_expect(midge_subject_is_literal(MIDGE_SLICE_LITERAL("\0.\xff\xfe.\x0b\x7f. .\f")));
    expect_valid("$SYS.>", true);
    expect_valid("_INBOX.x.*", true);
}

Test(subject, a_literal_subject_has_no_wildcard_token)
{
    expect_literal("a", true);
    expect_literal("a.b", true);
    expect_literal("*", false);
    expect_literal("a.*", false);
    expect_literal("a.>.b", false);
    expect_wildcard("*", true);
    expect_wildcard(">", true);
    expect_wildcard("a.*.b", true);
    expect_wildcard("a.>", true);
    expect_wildcard("a.b", false);
}

Test(subject, a_literal_pattern_matches_only_itself)
{
    expect_match("a", "a", true);
    expect_match("a.b", "a.b", true);
    expect_match("a", "b", false);
    expect_match("a", "A", false);
    expect_match("a", "a.b", false);
    expect_match("a.b", "a", false);
    expect_match("ab", "a", false);
    expect_match("a", "ab", false);
    expect_match("a.b", "ab", false);
    expect_match("ab", "a.b", false);
}

Test(subject, star_matches_exactly_one_token)
{
    expect_match("*", "a", true);
    expect_match("*", "abc", true);
    expect_match("*", "a.b", false);
    expect_match("a.*", "a.b", true);
    expect_match("a.*", "a", false);
    expect_match("a.*", "a.b.c", false);
    expect_match("*.b", "a.b", true);
    expect_match("*.b", "b", false);
    expect_match("*.b.*", "a.b.c", true);
    expect_match("*.b.*", "a.c.c", false);
    expect_match("*.*", "ab", false);
}

Test(subject, gt_matches_one_or_more_tokens)
{
    expect_match(">", "a", true);
    expect_match(">", "a.b.c", true);
    expect_match("a.>", "a.b", true);
    expect_match("a.>", "a.b.c", true);
    expect_match("a.>", "a", false);
    expect_match("a.>", "b.c", false);
    expect_match("*.>", "a", false);
    expect_match("*.>", "a.b", true);
    expect_match("a.*.>", "a.b", false);
    expect_match("a.*.>", "a.b.c.d", true);
}

Test(subject, wildcards_in_the_subject_are_literal)
{
    expect_match("a.*", "a.>", true);
    expect_match("a.*", "a.*", true);
    expect_match("a.>", "a.*.b", true);
    expect_match("a.b", "a.*", false);
    expect_match("a.b", "a.>", false);
    expect_match(">", ">", true);
    expect_match("*", "*", true);
}

/* --- what a client may send --- */

static void expect_publishable(const char *subject, bool want)
{
    cr_expect_eq(midge_subject_is_publishable(midge_slice_text(subject)), want, "'%s'", subject);
}

static void expect_subscribable(const char *subject, bool want)
{
    cr_expect_eq(midge_subject_is_subscribable(midge_slice_text(subject)), want, "'%s'", subject);
}

Test(subject, only_a_literal_one_can_be_published_to)
{
    expect_publishable("a", true);
    expect_publishable("a.b.c", true);
    expect_publishable("a*.>b", true);
    expect_publishable("$SYS.x", true);
    expect_publishable("\xc3\xa9", true);
    expect_publishable("", false);
    expect_publishable("a.", false);
    expect_publishable(".a", false);
    expect_publishable("a..b", false);
    expect_publishable("*", false);
    expect_publishable("a.>", false);
    expect_publishable("a.>.b", false);
}

Test(subject, wildcards_can_be_subscribed_to_where_they_may_stand)
{
    expect_subscribable("a", true);
    expect_subscribable("*", true);
    expect_subscribable(">", true);
    expect_subscribable("a.*.b.>", true);
    expect_subscribable("", false);
    expect_subscribable("a.>.b", false);
    expect_subscribable("a..b", false);
    expect_subscribable("a.", false);
}

/* Every byte, at every place of subjects of every length up to three words. */
Test(subject, no_blank_and_no_control_character_can_be_sent)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        const bool want = byte > ' ' && byte != 0x7f;

        if (byte == '.' || byte == '*' || byte == '>')
            continue; /* they mean something else */
        for (uint32_t len = 1; len <= 24; len++) {
            for (uint32_t off = 0; off < len; off++) {
                uint8_t text[24];
                const struct midge_slice subject = midge_slice_make(text, len);

                memset(text, 'a', sizeof(text));
                text[off] = (uint8_t)byte;
                cr_assert_eq(midge_subject_is_publishable(subject), want, "%02x at %u of %u", byte,
                             off, len);
                cr_assert_eq(midge_subject_is_subscribable(subject), want, "%02x at %u of %u", byte,
                             off, len);
                cr_assert_eq(midge_subject_is_queue_name(subject), want, "%02x at %u of %u", byte,
                             off, len);
            }
        }
    }
}

/* A byte that is too small must not make its neighbour look too small, or too large. */
Test(subject, every_pair_of_bytes_is_judged_by_itself)
{
    for (uint32_t pair = 0; pair < 65536; pair++) {
        const uint8_t low = (uint8_t)pair;
        const uint8_t high = (uint8_t)(pair >> 8);
        const uint8_t text[8] = {'a', 'a', 'a', low, high, 'a', 'a', 'a'};
        const bool want = low > ' ' && low != 0x7f && high > ' ' && high != 0x7f;

        cr_assert_eq(midge_subject_is_queue_name(midge_slice_make(text, 8)), want, "%02x %02x", low,
                     high);
    }
}

Test(subject, what_is_sent_has_a_longest_length)
{
    uint8_t text[MIDGE_SUBJECT_LEN_MAX + 1];

    memset(text, 'a', sizeof(text));
    for (uint32_t extra = 0; extra < 2; extra++) {
        const struct midge_slice subject = midge_slice_make(text, MIDGE_SUBJECT_LEN_MAX + extra);

        cr_expect_eq(midge_subject_is_publishable(subject), extra == 0);
        cr_expect_eq(midge_subject_is_subscribable(subject), extra == 0);
        cr_expect_eq(midge_subject_is_queue_name(subject), extra == 0);
    }
}

Test(subject, a_queue_name_is_any_word)
{
    cr_expect(midge_subject_is_queue_name(MIDGE_SLICE_LITERAL("workers.*")));
    cr_expect(midge_subject_is_queue_name(MIDGE_SLICE_LITERAL("..")));
    cr_expect_not(midge_subject_is_queue_name(MIDGE_SLICE_LITERAL("")));
}
