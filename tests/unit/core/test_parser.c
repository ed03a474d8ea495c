/*
 * What the parser makes of a client's bytes, however they are cut.
 *
 * Method: a table of streams and the operations they hold, written down as text (see
 * parser_trace.h). Each stream is fed whole, byte by byte, cut once at every offset, and, if short,
 * cut twice at every pair of offsets; all must give the same text. The table follows the recorded
 * answers of nats-server 2.15.2. Behind it, the promises about the line buffer and about single
 * calls.
 */
#include "midge/parser.h"

#include "midge/limits.h"
#include "parser_trace.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static const struct midge_parser_limits default_limits = {
    .control_line_len_max = MIDGE_CONTROL_LINE_DEFAULT,
    .payload_len_max = MIDGE_PAYLOAD_DEFAULT,
    .headers = true,
};

/* Streams up to this length are cut at every pair of offsets. */
#define PAIRS_LEN_MAX 64u

static void expect_text(char *text, const char *want, const char *how, uint32_t a, uint32_t b)
{
    cr_expect_str_eq(text, want, "%s %u %u\ngot  %s\nwant %s", how, a, b, text, want);
    free(text);
}

static void expect_limited(const struct midge_parser_limits *limits, struct midge_slice data,
                           const char *want)
{
    expect_text(midge_parser_trace(limits, data, NULL, 0), want, "whole", 0, 0);
    expect_text(midge_parser_trace_bytes(limits, data), want, "bytes", 0, 0);
    for (uint32_t a = 0; a <= data.len; a++) {
        expect_text(midge_parser_trace(limits, data, &a, 1), want, "cut", a, 0);
        for (uint32_t b = a; data.len <= PAIRS_LEN_MAX && b <= data.len; b++)
            expect_text(midge_parser_trace(limits, data, (const uint32_t[]){a, b}, 2), want, "cuts",
                        a, b);
    }
}

/* The text is a literal, so that it may hold NUL. */
#define EXPECT(text, want) expect_limited(&default_limits, MIDGE_SLICE_LITERAL(text), want)

Test(parser, an_empty_stream_stays_at_the_start)
{
    EXPECT("", "START\n");
}

Test(parser, ping_and_its_likes_swallow_everything_up_to_lf)
{
    const char *ping = "PING [][][][][]{}{}=0 \nSTART\n";

    EXPECT("PING\r\n", ping);
    EXPECT("ping\n", ping);
    EXPECT("pInGx\r\n", ping);
    EXPECT("PING \x01\r garbage\r\r\n", ping);
    EXPECT("PONG\r\n", "PONG [][][][][]{}{}=0 \nSTART\n");
    EXPECT("+ok 7\n", "+OK [][][][][]{}{}=0 \nSTART\n");
    EXPECT("PING", "INSIDE\n");
    EXPECT("PING\r\nPONG\n+OK\r\n", "PING [][][][][]{}{}=0 \nPONG [][][][][]{}{}=0 \n"
                                    "+OK [][][][][]{}{}=0 \nSTART\n");
}

Test(parser, a_verb_begins_at_column_zero)
{
    EXPECT(" PING\r\n", "E_PARSE\n");
    EXPECT("\r\n", "E_PARSE\n");
    EXPECT("\n", "E_PARSE\n");
    EXPECT("PING\r\n PING\r\n", "PING [][][][][]{}{}=0 \nE_PARSE\n");
}

Test(parser, an_unknown_verb_is_a_parse_error)
{
    EXPECT("MSG foo 1 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("HMSG foo 1 1 1\r\nx\r\n", "E_PARSE\n");
    EXPECT("RS+ $G foo\r\n", "E_PARSE\n");
    EXPECT("LS+ foo\r\n", "E_PARSE\n");
    EXPECT("A+ foo\r\n", "E_PARSE\n");
    EXPECT("GET / HTTP/1.1\r\n\r\n", "E_PARSE\n");
    EXPECT("\x16\x03\x01\x02\x00\x01\x00", "E_PARSE\n");
    EXPECT("$SYS\r\n", "E_PARSE\n");
    EXPECT("PUBX a 1\r\n", "E_PARSE\n");
    EXPECT("POUB", "E_PARSE\n");
    EXPECT("PIB", "E_PARSE\n");
    EXPECT("UNSUx", "E_PARSE\n");
    EXPECT("CONNEX {}\r\n", "E_PARSE\n");
    EXPECT("-ERX", "E_PARSE\n");
    EXPECT("+O\n", "E_PARSE\n");
    EXPECT("\x0bOK\r\n", "E_PARSE\n"); /* bit 5 set would make a plus of it */
    EXPECT("\x0d"
           "ERR x\r\n",
           "E_PARSE\n");
}

Test(parser, a_verb_with_arguments_needs_a_blank)
{
    EXPECT("PUB\r\n", "E_PARSE\n");
    EXPECT("HPUB\r\n", "E_PARSE\n");
    EXPECT("SUB\r\n", "E_PARSE\n");
    EXPECT("UNSUB\r\n", "E_PARSE\n");
    EXPECT("-ERR\r\n", "E_PARSE\n");
    EXPECT("PUB\0a 1\r\n", "E_PARSE\n"); /* bit 5 set would make a blank of NUL */
    EXPECT("SUB\0a 1\r\n", "E_PARSE\n");
}

Test(parser, sub_has_two_or_three_arguments)
{
    EXPECT("SUB foo 1\r\n", "SUB [foo][][][1][]{}{}=0 foo\\201\nSTART\n");
    EXPECT("sub foo 1\n", "SUB [foo][][][1][]{}{}=0 foo\\201\nSTART\n");
    EXPECT("SUB foo  1\r\n", "SUB [foo][][][1][]{}{}=0 foo\\20\\201\nSTART\n");
    EXPECT("SUB\tfoo q\t-1 \r\n", "SUB [foo][][q][-1][]{}{}=0 foo\\20q\\09-1\\20\nSTART\n");
    EXPECT("SUB foo\r\n", "E_ARGS\n");
    EXPECT("SUB foo q 1 2\r\n", "E_ARGS\n");
    EXPECT("SUB foo q 1 2 3 4 5 6\r\n", "E_ARGS\n");
    EXPECT("SUB \r\n", "E_ARGS\n");
}

Test(parser, unsub_has_one_or_two_arguments)
{
    EXPECT("UNSUB 1\r\n", "UNSUB [][][][1][]{}{}=0 1\nSTART\n");
    EXPECT("UNSUB 1 \r\n", "UNSUB [][][][1][]{}{}=0 1\\20\nSTART\n");
    EXPECT("unsub 1 5\n", "UNSUB [][][][1][]{}{}=5 1\\205\nSTART\n");
    EXPECT("UNSUB 1 000000005\n", "UNSUB [][][][1][]{}{}=5 1\\20000000005\nSTART\n");
    EXPECT("UNSUB \r\n", "E_ARGS\n");
    EXPECT("UNSUB 1 2 3\r\n", "E_ARGS\n");
}

Test(parser, an_unsub_limit_that_is_no_number_counts_as_zero)
{
    EXPECT("UNSUB 1 x\r\n", "UNSUB [][][][1][]{}{}=0 1\\20x\nSTART\n");
    EXPECT("UNSUB 1 -1\r\n", "UNSUB [][][][1][]{}{}=0 1\\20-1\nSTART\n");
    EXPECT("UNSUB 1 12x\r\n", "UNSUB [][][][1][]{}{}=0 1\\2012x\nSTART\n");
    EXPECT("UNSUB 1 1000000000\r\n", "UNSUB [][][][1][]{}{}=0 1\\201000000000\nSTART\n");
}

Test(parser, pub_carries_its_payload)
{
    EXPECT("PUB foo 2\r\nok\r\n", "PUB [foo][][][][]{}{2}=0 foo\\202 0/2:ok.\nSTART\n");
    EXPECT("pub foo 2\nok\r\n", "PUB [foo][][][][]{}{2}=0 foo\\202 0/2:ok.\nSTART\n");
    EXPECT("PUB a r 0\r\n\r\n", "PUB [a][r][][][]{}{0}=0 a\\20r\\200 0/0:.\nSTART\n");
    EXPECT("PUB\t \ta\t r\t 3 \r\n\r\n\n\r\nPING\r\n",
           "PUB [a][r][][][]{}{3}=0 a\\09\\20r\\09\\203\\20 0/3:\\0d\\0a\\0a.\n"
           "PING [][][][][]{}{}=0 \nSTART\n");
    EXPECT("PUB a 1\r\nxPUB", "PUB [a][][][][]{}{1}=0 a\\201 0/1:xE_PARSE\n");
    EXPECT("PUB a 3\r\nx", "PUB [a][][][][]{}{3}=0 a\\203 0/3:xINSIDE\n");
}

Test(parser, a_payload_ends_with_exactly_crlf)
{
    EXPECT("PUB foo 2\r\nok\n", "PUB [foo][][][][]{}{2}=0 foo\\202 0/2:okE_PARSE\n");
    EXPECT("PUB foo 2\r\nokk\r\n", "PUB [foo][][][][]{}{2}=0 foo\\202 0/2:okE_PARSE\n");
    EXPECT("PUB foo 2\r\no\r\n", "PUB [foo][][][][]{}{2}=0 foo\\202 0/2:o\\0dE_PARSE\n");
    EXPECT("PUB foo 2\r\nok\r\r\n", "PUB [foo][][][][]{}{2}=0 foo\\202 0/2:okE_PARSE\n");
    EXPECT("PUB foo 0\r\n\n", "PUB [foo][][][][]{}{0}=0 foo\\200 0/0:E_PARSE\n");
    EXPECT("PUB foo 0\r\n\r", "PUB [foo][][][][]{}{0}=0 foo\\200 0/0:INSIDE\n");
}

Test(parser, a_size_is_one_to_nine_digits_and_kept_as_written)
{
    EXPECT("PUB a 000000002\r\nok\r\n",
           "PUB [a][][][][]{}{000000002}=0 a\\20000000002 0/2:ok.\nSTART\n");
    EXPECT("PUB a 0000000002\r\nok\r\n", "E_ARGS\n");
    EXPECT("PUB a 1000000000\r\n", "E_ARGS\n");
    EXPECT("PUB a 18446744073709551618\r\nok\r\n", "E_ARGS\n");
    EXPECT("PUB a -1\r\n", "E_ARGS\n");
    EXPECT("PUB a +2\r\nok\r\n", "E_ARGS\n");
    EXPECT("PUB a 0x2\r\nok\r\n", "E_ARGS\n");
    EXPECT("PUB a 2.\r\nok\r\n", "E_ARGS\n");
    EXPECT("PUB a x\r\n", "E_ARGS\n");
}

Test(parser, pub_has_two_or_three_arguments)
{
    EXPECT("PUB foo\r\n", "E_ARGS\n");
    EXPECT("PUB foo a b 1\r\nx\r\n", "E_ARGS\n");
    EXPECT("PUB 1 2 3 4 5 6\r\n", "E_ARGS\n");
    EXPECT("PUB \r\n", "E_ARGS\n");
}

Test(parser, hpub_has_a_header_size_within_the_total)
{
    EXPECT("HPUB a 2 4\r\nabok\r\n", "HPUB [a][][][][]{2}{4}=0 a\\202\\204 2/4:abok.\nSTART\n");
    EXPECT("hpub a r 02 2\nab\r\n",
           "HPUB [a][r][][][]{02}{2}=0 a\\20r\\2002\\202 2/2:ab.\nSTART\n");
    EXPECT("HPUB a 0 2\r\nok\r\n", "HPUB [a][][][][]{0}{2}=0 a\\200\\202 0/2:ok.\nSTART\n");
    EXPECT("HPUB foo 14 12\r\n", "E_ARGS\n");
    EXPECT("HPUB foo 12\r\n", "E_ARGS\n");
    EXPECT("HPUB foo x 4\r\nabok\r\n", "E_ARGS\n");
    EXPECT("HPUB foo 4 x\r\nabok\r\n", "E_ARGS\n");
    EXPECT("HPUB a b 1 1 1\r\nx\r\n", "E_ARGS\n");
}

Test(parser, hpub_without_headers_fails_before_its_arguments_are_read)
{
    const struct midge_parser_limits limits = {
        .control_line_len_max = 16, .payload_len_max = 10, .headers = false};

    expect_limited(&limits, MIDGE_SLICE_LITERAL("HPUB a 2 4\r\n"), "E_HEADERS\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("HPUB a\r\n"), "E_HEADERS\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("HPUB a 0 99\r\n"), "E_HEADERS\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("HPUB 12345678901234567\r\n"), "E_CONTROL_LINE\n");
}

Test(parser, a_payload_over_the_limit_fails_on_the_control_line)
{
    struct midge_parser_limits limits = default_limits;

    limits.payload_len_max = 3;
    expect_limited(&limits, MIDGE_SLICE_LITERAL("PUB a 4\r\n"), "E_PAYLOAD\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("PUB a 999999999\r\n"), "E_PAYLOAD\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("HPUB a 2 4\r\n"), "E_PAYLOAD\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("HPUB a 5 4\r\n"), "E_ARGS\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("PUB a 3\r\nabc\r\n"),
                   "PUB [a][][][][]{}{3}=0 a\\203 0/3:abc.\nSTART\n");
    limits.payload_len_max = MIDGE_PAYLOAD_MAX;
    expect_limited(&limits, MIDGE_SLICE_LITERAL("PUB a 999999999\r\n"),
                   "PUB [a][][][][]{}{999999999}=0 a\\20999999999 0/999999999:INSIDE\n");
}

Test(parser, connect_and_info_need_no_blank)
{
    EXPECT("CONNECT {}\r\n", "CONNECT [][][][][{}]{}{}=0 {}\nSTART\n");
    EXPECT("connect{}\n", "CONNECT [][][][][{}]{}{}=0 {}\nSTART\n");
    EXPECT("CONNECT \t { }x\r\n", "CONNECT [][][][][{\\20}x]{}{}=0 {\\20}x\nSTART\n");
    EXPECT("CONNECT\r\n", "CONNECT [][][][][]{}{}=0 \nSTART\n");
    EXPECT("INFO {}\r\n", "INFO [][][][][{}]{}{}=0 {}\nSTART\n");
    EXPECT("INFO\r\n", "INFO [][][][][]{}{}=0 \nSTART\n");
}

Test(parser, err_from_the_client_is_reported_with_its_text)
{
    EXPECT("-ERR 'x'\r\n", "-ERR [][][][][]{}{}=0 'x'\nSTART\n");
    EXPECT("-err \r\n", "-ERR [][][][][]{}{}=0 \nSTART\n");
}

Test(parser, any_byte_may_be_in_a_token)
{
    EXPECT("SUB \xff\xfe\x01 1\r\n",
           "SUB [\\ff\\fe\\01][][][1][]{}{}=0 \\ff\\fe\\01\\201\nSTART\n");
    EXPECT("PUB foo\0bar 1\r\nx\r\n",
           "PUB [foo\\00bar][][][][]{}{1}=0 foo\\00bar\\201 0/1:x.\nSTART\n");
    EXPECT("PUB \x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c 1\r\nx\r\n",
           "PUB [\\01\\02\\03\\04\\05\\06\\07\\08\\0b\\0c][][][][]{}{1}=0 "
           "\\01\\02\\03\\04\\05\\06\\07\\08\\0b\\0c\\201 0/1:x.\nSTART\n");
}

Test(parser, a_lone_cr_stays_in_a_token_of_pub)
{
    EXPECT("PUB foo\r 1\r\nx\r\n", "PUB [foo\\0d][][][][]{}{1}=0 foo\\0d\\201 0/1:x.\nSTART\n");
    EXPECT("PUB fo\ro 1\r\nx\r\n", "PUB [fo\\0do][][][][]{}{1}=0 fo\\0do\\201 0/1:x.\nSTART\n");
    EXPECT("PUB \r\r 1\nx\r\n", "PUB [\\0d\\0d][][][][]{}{1}=0 \\0d\\0d\\201 0/1:x.\nSTART\n");
    EXPECT("PUB foo 1\r\r\nx\r\n", "E_ARGS\n");
}

Test(parser, a_lone_cr_separates_arguments_of_sub_and_unsub)
{
    EXPECT("SUB foo\r1\r\n", "SUB [foo][][][1][]{}{}=0 foo\\0d1\nSTART\n");
    EXPECT("SUB \rfoo 1\r\r\n", "SUB [foo][][][1][]{}{}=0 \\0dfoo\\201\\0d\nSTART\n");
    EXPECT("UNSUB 1\r2\n", "UNSUB [][][][1][]{}{}=2 1\\0d2\nSTART\n");
}

Test(parser, an_lf_right_behind_the_blanks_begins_the_argument)
{
    EXPECT("SUB \nfoo 1\r\n", "SUB [foo][][][1][]{}{}=0 \\0afoo\\201\nSTART\n");
    EXPECT("UNSUB \n1\n", "UNSUB [][][][1][]{}{}=0 \\0a1\nSTART\n");
    EXPECT("CONNECT\n{}\r\n", "CONNECT [][][][][\\0a{}]{}{}=0 \\0a{}\nSTART\n");
    EXPECT("INFO \n", "INSIDE\n");
    EXPECT("SUB \n\n", "E_ARGS\n");
}

Test(parser, a_publisher_cannot_put_an_lf_into_a_subject)
{
    EXPECT("PUB \nfoo 1\r\nx\r\n", "E_ARGS\n");
    EXPECT("HPUB \nfoo 1 1\r\nx\r\n", "E_ARGS\n");
}

/* The argument part alone counts: neither the blanks before it nor CRLF. */
Test(parser, an_argument_part_over_the_limit_fails_wherever_it_is_cut)
{
    struct midge_parser_limits limits = default_limits;

    limits.control_line_len_max = 8;
    expect_limited(&limits, MIDGE_SLICE_LITERAL("SUB   abcdef 1\r\n"),
                   "SUB [abcdef][][][1][]{}{}=0 abcdef\\201\nSTART\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("SUB abcdefg 1\r\n"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("SUB abcd   1\r\n"),
                   "SUB [abcd][][][1][]{}{}=0 abcd\\20\\20\\201\nSTART\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("SUB abcd    1\r\n"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("SUB abcdef 1\r"), "INSIDE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("SUB abcdef 1\r\r"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("PUB abcdef 12"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("HPUB abcdefghij"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("UNSUB 123456789\r\n"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("CONNECT {\"a\":12}\r\n"),
                   "CONNECT [][][][][{\"a\":12}]{}{}=0 {\"a\":12}\nSTART\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("CONNECT {\"a\":123}\r\n"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("INFO {\"a\":123}\r\n"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("-ERR 123456789\r\n"), "E_CONTROL_LINE\n");
    expect_limited(&limits, MIDGE_SLICE_LITERAL("PING 123456789\r\n"),
                   "PING [][][][][]{}{}=0 \nSTART\n");
}

/* nats-server's default limit, at the limit and one over. */
Test(parser, the_default_limit_is_inclusive)
{
    char text[MIDGE_CONTROL_LINE_DEFAULT + 16];
    const uint32_t len = MIDGE_CONTROL_LINE_DEFAULT - 2;
    char *trace;

    memset(text, 'a', sizeof(text));
    memcpy(text, "SUB ", 4);
    memcpy(text + 4 + len, " 1\r\n", 4);
    trace = midge_parser_trace(&default_limits, midge_slice_make(text, len + 8), NULL, 0);
    cr_expect_not_null(strstr(trace, "\nSTART\n"));
    free(trace);
    trace = midge_parser_trace_bytes(&default_limits, midge_slice_make(text, len + 8));
    cr_expect_not_null(strstr(trace, "\nSTART\n"));
    free(trace);
    memcpy(text + 4 + len, "a 1\r\n", 5);
    expect_text(midge_parser_trace(&default_limits, midge_slice_make(text, len + 9), NULL, 0),
                "E_CONTROL_LINE\n", "whole", 0, 0);
    expect_text(midge_parser_trace_bytes(&default_limits, midge_slice_make(text, len + 9)),
                "E_CONTROL_LINE\n", "bytes", 0, 0);
}

static enum midge_status next_of(struct midge_parser *parser, const char *text, struct midge_op *op)
{
    struct midge_slice input = midge_slice_text(text);

    return midge_parser_next(parser, &input, op);
}

Test(parser, blanks_before_the_argument_are_not_kept)
{
    struct midge_parser parser;
    struct midge_op op;

    midge_parser_init(&parser, &default_limits);
    cr_assert_eq(next_of(&parser, "SUB ", &op), MIDGE_AGAIN);
    for (uint32_t i = 0; i < 50000; i++)
        cr_assert_eq(next_of(&parser, i % 2 == 0 ? " " : "\t", &op), MIDGE_AGAIN);
    cr_assert_eq(next_of(&parser, "foo 1\r\n", &op), MIDGE_OK);
    cr_assert(midge_slice_equal(op.subject, MIDGE_SLICE_LITERAL("foo")));
}

Test(parser, a_whole_line_needs_no_line_buffer_and_is_viewed_in_place)
{
    struct midge_slice input = MIDGE_SLICE_LITERAL("PUB foo bar 2\r\nokPUB");
    const uint8_t *base = input.base;
    struct midge_parser parser;
    struct midge_op op;

    midge_parser_init(&parser, &default_limits);
    cr_assert_eq(midge_parser_next(&parser, &input, &op), MIDGE_OK);
    cr_expect_eq(op.subject.base, base + 4);
    cr_expect_eq(op.reply.base, base + 8);
    cr_expect_eq(op.payload_whole, false);
    cr_expect(midge_parser_line_idle(&parser));
    cr_expect_not(midge_parser_at_start(&parser));
}

Test(parser, a_cut_line_waits_for_a_line_buffer)
{
    struct midge_slice input = MIDGE_SLICE_LITERAL("PING\r\nSUB  fo");
    uint8_t line[MIDGE_CONTROL_LINE_DEFAULT];
    struct midge_parser parser;
    struct midge_op op;

    midge_parser_init(&parser, &default_limits);
    cr_assert_eq(midge_parser_next(&parser, &input, &op), MIDGE_OK);
    for (uint32_t i = 0; i < 2; i++) {
        cr_assert_eq(midge_parser_next(&parser, &input, &op), MIDGE_FULL);
        cr_expect(midge_slice_equal(input, MIDGE_SLICE_LITERAL("fo")));
        cr_expect(midge_parser_line_idle(&parser));
    }
    midge_parser_lend_line(&parser, line, sizeof(line));
    cr_assert_eq(midge_parser_next(&parser, &input, &op), MIDGE_AGAIN);
    cr_expect_eq(input.len, 0);
    cr_expect_not(midge_parser_line_idle(&parser));

    input = MIDGE_SLICE_LITERAL("o 1\r\n");
    cr_assert_eq(midge_parser_next(&parser, &input, &op), MIDGE_OK);
    cr_expect_eq(op.subject.base, line);
    cr_expect(midge_slice_equal(op.subject, MIDGE_SLICE_LITERAL("foo")));
    cr_expect_not(midge_parser_line_idle(&parser), "the operation has views of the line");
    cr_assert_eq(midge_parser_next(&parser, &input, &op), MIDGE_AGAIN);
    cr_expect(midge_parser_line_idle(&parser));
    cr_expect_eq(midge_parser_take_line(&parser), line);
    cr_expect_null(midge_parser_take_line(&parser));
}

Test(parser, a_payload_is_never_kept)
{
    struct midge_parser parser;
    struct midge_op op;

    midge_parser_init(&parser, &default_limits);
    cr_assert_eq(next_of(&parser, "PUB foo 5\r\n", &op), MIDGE_OK);
    cr_assert_eq(next_of(&parser, "abc", &op), MIDGE_OK);
    cr_expect_eq(op.kind, MIDGE_OP_PIECE);
    cr_expect(midge_slice_equal(op.payload, MIDGE_SLICE_LITERAL("abc")));
    cr_expect_not(op.last);
    cr_assert_eq(next_of(&parser, "de\r", &op), MIDGE_OK);
    cr_expect(midge_slice_equal(op.payload, MIDGE_SLICE_LITERAL("de")));
    cr_expect_not(op.last);
    cr_assert_eq(next_of(&parser, "\n", &op), MIDGE_OK);
    cr_expect_eq(op.payload.len, 0);
    cr_expect(op.last);
    cr_expect(midge_parser_line_idle(&parser));
    cr_expect(midge_parser_at_start(&parser));
}

Test(parser, limits_may_change_between_operations)
{
    struct midge_parser parser;
    struct midge_op op;

    midge_parser_init(
        &parser, &(struct midge_parser_limits){.control_line_len_max = 64, .payload_len_max = 1});
    cr_assert_eq(next_of(&parser, "PUB a 1\r\nx\r\n", &op), MIDGE_OK);
    parser.limits.payload_len_max = 2;
    parser.limits.headers = true;
    cr_assert_eq(next_of(&parser, "HPUB a 2 2\r\nxy\r\n", &op), MIDGE_OK);
    parser.limits.control_line_len_max = 3;
    cr_assert_eq(next_of(&parser, "PUB ab 1\r\n", &op), MIDGE_E_CONTROL_LINE);
}

Test(parser, a_raised_limit_does_not_overrun_the_line_lent_before)
{
    uint8_t line[8];
    struct midge_parser parser;
    struct midge_op op;

    midge_parser_init(
        &parser, &(struct midge_parser_limits){.control_line_len_max = 8, .payload_len_max = 1});
    midge_parser_lend_line(&parser, line, sizeof(line));
    parser.limits.control_line_len_max = 64;
    cr_assert_eq(next_of(&parser, "SUB abcd", &op), MIDGE_AGAIN);
    cr_assert_eq(next_of(&parser, "efgh", &op), MIDGE_AGAIN);
    cr_assert_eq(next_of(&parser, "i 1\r\n", &op), MIDGE_E_CONTROL_LINE);
}
