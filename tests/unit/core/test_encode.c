/* Frames that broker and client send. Method: each is written into an allocation of exactly the
 * length that the length function says, and compared byte by byte. */
#include "midge/encode.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static void expect_frame(struct midge_frame frame, const char *want)
{
    const uint32_t len = midge_encode_frame_len(&frame);
    uint8_t *out = malloc(len);

    cr_assert_not_null(out);
    cr_assert_eq(len, strlen(want), "%s", want);
    cr_assert_eq(midge_encode_frame(out, &frame), out + len, "%s", want);
    cr_expect_arr_eq(out, want, len, "%s", want);
    free(out);
}

Test(encode, a_message_without_reply)
{
    expect_frame((struct midge_frame){.subject = MIDGE_SLICE_LITERAL("foo"),
                                      .sid = MIDGE_SLICE_LITERAL("1"),
                                      .size_text = MIDGE_SLICE_LITERAL("0003")},
                 "MSG foo 1 0003\r\n");
}

Test(encode, a_message_with_reply)
{
    expect_frame((struct midge_frame){.subject = MIDGE_SLICE_LITERAL("foo.bar"),
                                      .sid = MIDGE_SLICE_LITERAL("aSid"),
                                      .reply = MIDGE_SLICE_LITERAL("_INBOX.1"),
                                      .size_text = MIDGE_SLICE_LITERAL("11")},
                 "MSG foo.bar aSid _INBOX.1 11\r\n");
}

Test(encode, a_header_size_makes_it_hmsg)
{
    struct midge_frame frame = {.subject = MIDGE_SLICE_LITERAL("a"),
                                .sid = MIDGE_SLICE_LITERAL("9"),
                                .header_text = MIDGE_SLICE_LITERAL("12"),
                                .size_text = MIDGE_SLICE_LITERAL("14")};

    expect_frame(frame, "HMSG a 9 12 14\r\n");
    frame.reply = MIDGE_SLICE_LITERAL("rep");
    expect_frame(frame, "HMSG a 9 rep 12 14\r\n");
}

Test(encode, decimal_has_no_leading_zeros)
{
    static const struct {
        uint32_t number;
        const char *want;
    } cases[] = {{0, "0"},
                 {1, "1"},
                 {9, "9"},
                 {10, "10"},
                 {99, "99"},
                 {100, "100"},
                 {1048576, "1048576"},
                 {999999999, "999999999"},
                 {1000000000, "1000000000"},
                 {UINT32_MAX, "4294967295"}};

    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t out[MIDGE_DECIMAL_LEN_MAX];
        const uint32_t len = midge_encode_decimal(out, cases[i].number);

        cr_expect(midge_slice_equal(midge_slice_make(out, len), midge_slice_text(cases[i].want)),
                  "%s", cases[i].want);
    }
}

static void expect_no_responders(struct midge_slice subject, const char *want)
{
    const struct midge_slice reply = MIDGE_SLICE_LITERAL("_INBOX.x.1");
    const struct midge_slice sid = MIDGE_SLICE_LITERAL("9");
    const uint32_t len = midge_encode_no_responders_len(reply, sid, subject);
    uint8_t *out = malloc(len);

    cr_assert_not_null(out);
    cr_assert_eq(len, strlen(want), "%s", want);
    cr_assert_eq(midge_encode_no_responders(out, reply, sid, subject), out + len);
    cr_expect_arr_eq(out, want, len, "%s", want);
    free(out);
}

Test(encode, no_responders_names_the_subject)
{
    expect_no_responders(
        MIDGE_SLICE_LITERAL("svc"),
        "HMSG _INBOX.x.1 9 35 35\r\nNATS/1.0 503\r\nNats-Subject: svc\r\n\r\n\r\n");
}

/* The size of the headers has as many digits as it needs: 99 and 100 bytes. */
Test(encode, no_responders_counts_its_digits)
{
    char subject[68 + 1];
    char want[256];

    memset(subject, 'a', sizeof(subject));
    (void)snprintf(want, sizeof(want),
                   "HMSG _INBOX.x.1 9 99 99\r\nNATS/1.0 503\r\nNats-Subject: %.67s\r\n\r\n\r\n",
                   subject);
    expect_no_responders(midge_slice_make(subject, 67), want);
    (void)snprintf(want, sizeof(want),
                   "HMSG _INBOX.x.1 9 100 100\r\nNATS/1.0 503\r\nNats-Subject: %.68s\r\n\r\n\r\n",
                   subject);
    expect_no_responders(midge_slice_make(subject, 68), want);
}

/* --- a client's --- */

#define L MIDGE_SLICE_LITERAL

static const struct midge_slice none = {0};

static void expect_pub(struct midge_slice reply, uint32_t header_len, uint32_t total_len,
                       const char *want)
{
    const uint32_t len = midge_encode_pub_len(L("a.b"), reply, header_len, total_len);
    uint8_t *out = malloc(len);

    cr_assert_not_null(out);
    cr_assert_eq(len, strlen(want), "%s", want);
    cr_assert_eq(midge_encode_pub(out, L("a.b"), reply, header_len, total_len), out + len);
    cr_expect_arr_eq(out, want, len, "got %.*s", (int)len, out);
    free(out);
}

Test(encode, pub_has_a_size_and_perhaps_a_reply)
{
    expect_pub(none, 0, 0, "PUB a.b 0\r\n");
    expect_pub(none, 0, 9, "PUB a.b 9\r\n");
    expect_pub(none, 0, 10, "PUB a.b 10\r\n");
    expect_pub(L("_INBOX.x"), 0, 999999999, "PUB a.b _INBOX.x 999999999\r\n");
}

Test(encode, headers_make_it_hpub)
{
    expect_pub(none, 12, 12, "HPUB a.b 12 12\r\n");
    expect_pub(none, 9, 10, "HPUB a.b 9 10\r\n");
    expect_pub(L("r"), 100, 1000, "HPUB a.b r 100 1000\r\n");
}

static void expect_sub(struct midge_slice queue, uint64_t sid, const char *want)
{
    const uint32_t len = midge_encode_sub_len(L("a.>"), queue, sid);
    uint8_t *out = malloc(len);

    cr_assert_not_null(out);
    cr_assert_eq(len, strlen(want), "%s", want);
    cr_assert_eq(midge_encode_sub(out, L("a.>"), queue, sid), out + len);
    cr_expect_arr_eq(out, want, len, "got %.*s", (int)len, out);
    free(out);
}

Test(encode, sub_has_a_sid_and_perhaps_a_queue)
{
    expect_sub(none, 1, "SUB a.> 1\r\n");
    expect_sub(none, UINT64_MAX, "SUB a.> 18446744073709551615\r\n");
    expect_sub(L("workers"), 10, "SUB a.> workers 10\r\n");
}

static void expect_unsub(uint64_t sid, uint64_t max, const char *want)
{
    const uint32_t len = midge_encode_unsub_len(sid, max);
    uint8_t *out = malloc(len);

    cr_assert_not_null(out);
    cr_assert_eq(len, strlen(want), "%s", want);
    cr_assert_eq(midge_encode_unsub(out, sid, max), out + len);
    cr_expect_arr_eq(out, want, len, "got %.*s", (int)len, out);
    free(out);
}

Test(encode, unsub_without_a_maximum_ends_at_once)
{
    expect_unsub(7, 0, "UNSUB 7\r\n");
    expect_unsub(UINT64_MAX, 1, "UNSUB 18446744073709551615 1\r\n");
    expect_unsub(9, UINT64_MAX, "UNSUB 9 18446744073709551615\r\n");
}

Test(encode, decimal64_has_no_leading_zeros)
{
    static const struct {
        uint64_t number;
        const char *want;
    } cases[] = {{0, "0"},
                 {9, "9"},
                 {10, "10"},
                 {4294967296, "4294967296"},
                 {9999999999999999999u, "9999999999999999999"},
                 {10000000000000000000u, "10000000000000000000"},
                 {UINT64_MAX, "18446744073709551615"}};

    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t out[MIDGE_DECIMAL64_LEN_MAX];
        const uint32_t len = midge_encode_decimal64(out, cases[i].number);

        cr_expect(midge_slice_equal(midge_slice_make(out, len), midge_slice_text(cases[i].want)),
                  "%s", cases[i].want);
    }
}
