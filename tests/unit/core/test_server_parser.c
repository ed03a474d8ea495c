/*
 * What the client's parser makes of a server's bytes, however they are cut.
 *
 * Method: a table of streams and the operations they hold, written down as text (see
 * server_parser_trace.h). Each stream is fed whole, byte by byte, cut once at every offset, and, if
 * short, cut twice at every pair of offsets; all must give the same text. Behind it, the promises
 * about the line buffer and about single calls.
 */
#include "midge/server_parser.h"

#include "midge/limits.h"
#include "server_parser_trace.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static const struct midge_server_parser_limits default_limits = {
    .line_len_max = 4096,
    .message_len_max = MIDGE_PAYLOAD_MAX,
};

/* Streams up to this length are cut at every pair of offsets. */
#define PAIRS_LEN_MAX 64u

static void expect_text(char *text, const char *want, const char *how, uint32_t a, uint32_t b)
{
    cr_expect_str_eq(text, want, "%s %u %u\ngot  %s\nwant %s", how, a, b, text, want);
    free(text);
}

static void expect_limited(const struct midge_server_parser_limits *limits, struct midge_slice data,
                           const char *want)
{
    expect_text(midge_server_parser_trace(limits, data, NULL, 0), want, "whole", 0, 0);
    expect_text(midge_server_parser_trace_bytes(limits, data), want, "bytes", 0, 0);
    for (uint32_t a = 0; a <= data.len; a++) {
        expect_text(midge_server_parser_trace(limits, data, &a, 1), want, "cut", a, 0);
        for (uint32_t b = a; data.len <= PAIRS_LEN_MAX && b <= data.len; b++)
            expect_text(midge_server_parser_trace(limits, data, (const uint32_t[]){a, b}, 2), want,
                        "cuts", a, b);
    }
}

/* The text is a literal, so that it may hold NUL. */
#define EXPECT(text, want) expect_limited(&default_limits, MIDGE_SLICE_LITERAL(text), want)

Test(server_parser, an_empty_stream_stays_at_the_start)
{
    EXPECT("", "START\n");
}

Test(server_parser, words_without_arguments)
{
    EXPECT("PING\r\n", "PING\nSTART\n");
    EXPECT("PONG\r\n", "PONG\nSTART\n");
    EXPECT("+OK\r\n", "OK\nSTART\n");
    EXPECT("PING\n", "PING\nSTART\n");
    EXPECT("PING \t\r\n", "PING\nSTART\n");
    EXPECT("+OK fine\r\n", "OK\nSTART\n");
    EXPECT("PING\r\nPONG\r\n+OK\r\n", "PING\nPONG\nOK\nSTART\n");
    EXPECT("PING", "INSIDE\n");
    EXPECT("PING\r", "INSIDE\n");
}

/* A stream that lost some bytes is left, not guessed at. */
Test(server_parser, a_word_ends_where_it_ends)
{
    EXPECT("PINGPONG\r\n", "E_PARSE\n");
    EXPECT("PINGMSG a 1 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("PONG\0\r\n", "E_PARSE\n");
    EXPECT("+OKAY\r\n", "E_PARSE\n");
    EXPECT("-ERROR 'x'\r\n", "E_PARSE\n");
    EXPECT("PING\rPING\n", "E_PARSE\n");
    EXPECT("INFO{}\r\n", "E_PARSE\n");
    EXPECT("INFO\r\n", "E_PARSE\n");
    EXPECT("MSG\r\n", "E_PARSE\n");
    EXPECT("MSGa 1 0\r\n\r\n", "E_PARSE\n");
    EXPECT("HMSG\ta 1 0 0\r\n\r\n", "E_PARSE\n");
}

Test(server_parser, what_is_no_operation_of_a_server)
{
    EXPECT("\r\n", "E_PARSE\n");
    EXPECT("\n", "E_PARSE\n");
    EXPECT(" PING\r\n", "E_PARSE\n");
    EXPECT("ping\r\n", "E_PARSE\n");
    EXPECT("PIN\r\n", "E_PARSE\n");
    EXPECT("PUB a 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("SUB a 1\r\n", "E_PARSE\n");
    EXPECT("CONNECT {}\r\n", "E_PARSE\n");
    EXPECT("LMSG a 1 0\r\n\r\n", "E_PARSE\n");
    EXPECT("HTTP/1.1 400 Bad Request\r\n", "E_PARSE\n");
    EXPECT("SSH-2.0-x\r\n", "E_PARSE\n");
    EXPECT("\x15\x03\x01\x00\x02\x02\x46\n", "E_PARSE\n"); /* a TLS alert */
    EXPECT("PING\r\n\0\r\n", "PING\nE_PARSE\n");
}

Test(server_parser, info_is_the_rest_of_its_line)
{
    EXPECT("INFO {\"a\":\"b c\"} \r\n", "INFO [{\"a\":\"b\\20c\"}\\20]\nSTART\n");
    EXPECT("INFO \n", "INFO []\nSTART\n");
    EXPECT("INFO {}\r\nPING\r\n", "INFO [{}]\nPING\nSTART\n");
}

Test(server_parser, err_loses_blanks_and_quotes)
{
    EXPECT("-ERR 'Stale Connection'\r\n", "ERR [Stale\\20Connection]\nSTART\n");
    EXPECT("-ERR  \t'x' \r\n", "ERR [x]\nSTART\n");
    EXPECT("-ERR x\r\n", "ERR [x]\nSTART\n");
    EXPECT("-ERR ''x''\r\n", "ERR ['x']\nSTART\n");
    EXPECT("-ERR ''\r\n", "ERR []\nSTART\n");
    EXPECT("-ERR '\r\n", "ERR []\nSTART\n");
    EXPECT("-ERR \r\n", "ERR []\nSTART\n");
    EXPECT("-ERR\r\n", "ERR []\nSTART\n");
}

Test(server_parser, a_message_with_and_without_reply)
{
    EXPECT("MSG a.b 7 3\r\nxyz\r\n", "MSG [a.b][] 7 0/3:xyz.\nSTART\n");
    EXPECT("MSG a 1 _INBOX.x 1\r\nx\r\n", "MSG [a][_INBOX.x] 1 0/1:x.\nSTART\n");
    EXPECT("MSG a 1 0\r\n\r\n", "MSG [a][] 1 0/0:.\nSTART\n");
    EXPECT("MSG a 1 000000001\r\nx\r\n", "MSG [a][] 1 0/1:x.\nSTART\n");
    EXPECT("MSG  a\t 1  r \t1 \r\nx\r\n", "MSG [a][r] 1 0/1:x.\nSTART\n");
    EXPECT("MSG a 1 4\r\n\r\n\r\n\r\n", "MSG [a][] 1 0/4:\\0d\\0a\\0d\\0a.\nSTART\n");
    EXPECT("MSG a 1 1\r\nx\r\nMSG b 2 1\r\ny\r\nPING\r\n",
           "MSG [a][] 1 0/1:x.\nMSG [b][] 2 0/1:y.\nPING\nSTART\n");
}

Test(server_parser, a_message_with_headers)
{
    EXPECT("HMSG a 1 12 15\r\nNATS/1.0\r\n\r\nxyz\r\n",
           "MSG [a][] 1 12/15:NATS/1.0\\0d\\0a\\0d\\0axyz.\nSTART\n");
    EXPECT("HMSG a 1 r 1 2\r\nhp\r\n", "MSG [a][r] 1 1/2:hp.\nSTART\n");
    EXPECT("HMSG a 1 0 1\r\nx\r\n", "MSG [a][] 1 0/1:x.\nSTART\n");
    EXPECT("HMSG a 1 2 2\r\nhh\r\n", "MSG [a][] 1 2/2:hh.\nSTART\n");
    EXPECT("HMSG a 1 3 2\r\nhh\r\n", "E_PARSE\n");
}

/* Bytes of a subject are not judged here: whoever sends to it judges them. */
Test(server_parser, a_subject_may_hold_any_byte_but_blanks_and_lf)
{
    EXPECT("MSG a\0\r\x7f\xff 1 0\r\n\r\n", "MSG [a\\00\\0d\\7f\\ff][] 1 0/0:.\nSTART\n");
}

Test(server_parser, a_message_needs_its_arguments)
{
    EXPECT("MSG \r\n", "E_PARSE\n");
    EXPECT("MSG a\r\n", "E_PARSE\n");
    EXPECT("MSG a 1\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 r s 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 r s t u v w 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("HMSG a 1 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("HMSG a 1 r s 1 1\r\nx\r\n", "E_PARSE\n");
}

Test(server_parser, a_sid_is_a_number_of_64_bits)
{
    EXPECT("MSG a 0 0\r\n\r\n", "MSG [a][] 0 0/0:.\nSTART\n");
    EXPECT("MSG a 018446744073709551615 0\r\n\r\n",
           "MSG [a][] 18446744073709551615 0/0:.\nSTART\n");
    EXPECT("MSG a 18446744073709551616 0\r\n\r\n", "E_PARSE\n");
    EXPECT("MSG a 99999999999999999999 0\r\n\r\n", "E_PARSE\n");
    EXPECT("MSG a -1 0\r\n\r\n", "E_PARSE\n");
    EXPECT("MSG a +1 0\r\n\r\n", "E_PARSE\n");
    EXPECT("MSG a 1x 0\r\n\r\n", "E_PARSE\n");
    EXPECT("MSG a x 0\r\n\r\n", "E_PARSE\n");
}

Test(server_parser, a_size_is_a_number_of_nine_digits)
{
    EXPECT("MSG a 1 0000000001\r\nx\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 4294967296\r\nx\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 -1\r\nx\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 1.0\r\nx\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 x\r\nx\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 0x1\r\nx\r\n", "E_PARSE\n");
    EXPECT("HMSG a 1 -1 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("HMSG a 1 x 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("HMSG a 1 1 0000000001\r\nx\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 999999999\r\nx", "MSG [a][] 1 0/999999999:xINSIDE\n");
}

Test(server_parser, crlf_ends_a_body)
{
    EXPECT("MSG a 1 1\r\nx", "MSG [a][] 1 0/1:xINSIDE\n");
    EXPECT("MSG a 1 1\r\nx\r", "MSG [a][] 1 0/1:xINSIDE\n");
    EXPECT("MSG a 1 1\r\n", "MSG [a][] 1 0/1:INSIDE\n");
}

Test(server_parser, anything_else_behind_a_body_is_an_error)
{
    EXPECT("MSG a 1 1\r\nx\n\nPING\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 1\r\nx\r\rPING\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 1\r\nxy\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 2\r\nx\r\nPING\r\n", "E_PARSE\n");
    EXPECT("MSG a 1 0\r\nPING\r\n", "E_PARSE\n");
    EXPECT("PING\r\nMSG a 1 0\r\n\n", "PING\nE_PARSE\n");
}

Test(server_parser, a_line_has_a_limit_that_counts_its_end)
{
    const struct midge_server_parser_limits limits = {.line_len_max = 12, .message_len_max = 9};

    expect_limited(&limits, MIDGE_SLICE_LITERAL("INFO {...}\r\n"), "INFO [{...}]\nSTART\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("INFO {....}\r\n"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("INFO {....}\r"), "INSIDE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("INFO {.....}\r"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("PING\r\nINFO {......}"), "PING\nE_CONTROL_LINE\n");
    /* A body is no line. */
    expect_limited(&limits, MIDGE_SLICE_LITERAL("MSG a 1 9\r\n123456789\r\n"),
                   "MSG [a][] 1 0/9:123456789.\nSTART\n");
}

Test(server_parser, a_message_has_a_limit_that_is_decided_on_its_line)
{
    const struct midge_server_parser_limits limits = {.line_len_max = 64, .message_len_max = 9};

    expect_limited(&limits, MIDGE_SLICE_LITERAL("MSG a 1 10\r\n"), "E_PAYLOAD\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("MSG a 1 999999999\r\n"), "E_PAYLOAD\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("HMSG a 1 5 10\r\n"), "E_PAYLOAD\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("HMSG a 1 5 9\r\n123456789\r\n"),
                   "MSG [a][] 1 5/9:123456789.\nSTART\n");
}

Test(server_parser, a_long_message_comes_in_views_of_every_chunk)
{
    enum {
        BODY_LEN = 1000
    };
    static char data[BODY_LEN + 64];
    static char want[BODY_LEN + 64];
    char *at = want;
    int len = snprintf(data, sizeof(data), "MSG a 1 %u\r\n", BODY_LEN);

    at += snprintf(want, sizeof(want), "MSG [a][] 1 0/%u:", BODY_LEN);
    for (uint32_t i = 0; i < BODY_LEN; i++) {
        const char byte = (char)('a' + i % 26);
        data[len++] = byte;
        *at++ = byte;
    }
    data[len++] = '\r';
    data[len++] = '\n';
    (void)snprintf(at, 16, ".\nSTART\n");
    expect_limited(&default_limits, midge_slice_make(data, (uint32_t)len), want);
}

/* Of a body that is cut nothing is kept: it goes out as it comes in. */
Test(server_parser, a_body_needs_no_buffer)
{
    struct midge_server_parser parser;
    struct midge_slice input = MIDGE_SLICE_LITERAL("MSG a 1 4\r\nwx");
    struct midge_server_op op;

    midge_server_parser_init(&parser, &default_limits);
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_OK);
    cr_assert_not(op.whole);
    cr_expect(midge_slice_equal(op.body, MIDGE_SLICE_LITERAL("wx")));
    cr_expect_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_AGAIN);
    input = MIDGE_SLICE_LITERAL("yz");
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_OK);
    cr_expect_eq(op.kind, MIDGE_SERVER_OP_PIECE);
    cr_expect_not(op.last);
    input = MIDGE_SLICE_LITERAL("\r\nPING\r\n");
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_OK);
    cr_expect_eq(op.kind, MIDGE_SERVER_OP_PIECE);
    cr_expect(op.last);
    cr_expect_eq(op.body.len, 0);
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_OK);
    cr_expect_eq(op.kind, MIDGE_SERVER_OP_PING);
    cr_expect(midge_server_parser_at_start(&parser));
}

Test(server_parser, a_cut_line_asks_for_room_and_goes_on)
{
    struct midge_server_parser parser;
    struct midge_slice input = MIDGE_SLICE_LITERAL("INFO {");
    struct midge_server_op op;
    uint8_t small[6];
    uint8_t large[10];

    midge_server_parser_init(&parser, &default_limits);
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_FULL);
    cr_expect_eq(midge_server_parser_line_needed(&parser), 6);
    cr_expect_eq(input.len, 6, "nothing is taken before there is room");
    midge_server_parser_lend_line(&parser, small, sizeof(small));
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_AGAIN);
    cr_expect_not(midge_server_parser_at_start(&parser));
    input = MIDGE_SLICE_LITERAL("}\r\nPING\r\n");
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_FULL);
    cr_expect_eq(midge_server_parser_line_needed(&parser), 9);
    memcpy(large, small, sizeof(small));
    midge_server_parser_lend_line(&parser, large, sizeof(large));
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_OK);
    cr_expect_eq(op.kind, MIDGE_SERVER_OP_INFO);
    cr_expect(midge_slice_equal(op.text, MIDGE_SLICE_LITERAL("{}")));
    cr_assert_eq(midge_server_parser_next(&parser, &input, &op), MIDGE_OK);
    cr_expect_eq(op.kind, MIDGE_SERVER_OP_PING);
}

/* The room that is asked for never goes beyond the limit, so that nobody can make a client
 * allocate more. */
Test(server_parser, an_endless_line_asks_for_no_more_than_the_limit)
{
    const struct midge_server_parser_limits limits = {.line_len_max = 64, .message_len_max = 0};
    struct midge_server_parser parser;
    struct midge_server_op op;
    enum midge_status status = MIDGE_AGAIN;
    uint8_t line[64];
    uint32_t fed = 0;

    midge_server_parser_init(&parser, &limits);
    while (status >= 0) {
        struct midge_slice input = MIDGE_SLICE_LITERAL("INFO   ");

        fed += input.len;
        cr_assert_leq(fed, limits.line_len_max + input.len);
        status = midge_server_parser_next(&parser, &input, &op);
        if (status == MIDGE_FULL) {
            cr_assert_leq(midge_server_parser_line_needed(&parser), limits.line_len_max);
            midge_server_parser_lend_line(&parser, line, sizeof(line));
            status = midge_server_parser_next(&parser, &input, &op);
        }
    }
    cr_expect_eq(status, MIDGE_E_CONTROL_LINE);
}
