/*
 * Parser for what a server sends. See midge/server_parser.h.
 *
 * A whole line is found with one memchr() and split at its blanks; there is no state within a line.
 * What is cut is gathered first, and then takes the same way.
 */
#include "midge/server_parser.h"

#include "control_line_internal.h"
#include "midge/limits.h"

#define END_LEN   2u /* CRLF behind a body */
#define WORDS_MAX 5u /* HMSG: subject, sid, reply, two sizes */

void midge_server_parser_init(struct midge_server_parser *parser,
                              const struct midge_server_parser_limits *limits)
{
    MIDGE_ASSERT(limits->message_len_max <= MIDGE_PAYLOAD_MAX);
    *parser = (struct midge_server_parser){.limits = *limits};
}

/* --- numbers and words --- */

/* A sid is what our side chose: no sign, at most 64 bits. */
static bool read_sid(struct midge_slice text, uint64_t *number_out)
{
    uint64_t number = 0;

    if (text.len == 0)
        return false;
    for (uint32_t i = 0; i < text.len; i++) {
        const uint64_t digit = (uint64_t)text.base[i] - '0';
        if (digit > 9 || number > (UINT64_MAX - digit) / 10)
            return false;
        number = 10 * number + digit;
    }
    *number_out = number;
    return true;
}

/* Split at runs of blanks. @return words, WORDS_MAX + 1 if there are more */
static uint32_t split(struct midge_slice text, struct midge_slice words[WORDS_MAX])
{
    const uint8_t *at = text.base;
    const uint8_t *const end = text.base + text.len;
    uint32_t count = 0;

    for (;;) {
        const uint8_t *begin;

        while (at < end && (*at == ' ' || *at == '\t'))
            at++;
        if (at == end)
            return count;
        if (count == WORDS_MAX)
            return WORDS_MAX + 1;
        begin = at;
        while (at < end && *at != ' ' && *at != '\t')
            at++;
        words[count].base = begin;
        words[count].len = (uint32_t)(at - begin);
        count++;
    }
}

/* --- messages --- */

/* The arguments of MSG (2 to 3 words and a size) or HMSG (one size more). */
static enum midge_status read_arguments(const struct midge_server_parser *parser,
                                        struct midge_slice text, bool has_headers,
                                        struct midge_server_op *op)
{
    struct midge_slice words[WORDS_MAX];
    const uint32_t count = split(text, words);
    const uint32_t fewest = has_headers ? 4 : 3;

    if (count != fewest && count != fewest + 1)
        return MIDGE_E_PARSE;
    op->subject = words[0];
    op->reply = count > fewest ? words[2] : midge_slice_make(NULL, 0);
    op->header_len = 0;
    if (!read_sid(words[1], &op->sid) || !midge_size_parse(words[count - 1], &op->total_len))
        return MIDGE_E_PARSE;
    if (has_headers &&
        (!midge_size_parse(words[count - 2], &op->header_len) || op->header_len > op->total_len))
        return MIDGE_E_PARSE;
    return op->total_len > parser->limits.message_len_max ? MIDGE_E_PAYLOAD : MIDGE_OK;
}

/* What of the body is there. */
static enum midge_status take_body(struct midge_server_parser *parser, struct midge_slice *input,
                                   struct midge_server_op *op)
{
    const uint32_t len = op->total_len;

    if (MIDGE_LIKELY(input->len >= len + END_LEN)) {
        if (MIDGE_UNLIKELY(input->base[len] != '\r' || input->base[len + 1] != '\n'))
            return MIDGE_E_PARSE;
        op->body = midge_slice_make(input->base, len);
        op->whole = true;
        input->base += len + END_LEN;
        input->len -= len + END_LEN;
        return MIDGE_OK;
    }
    op->whole = false;
    op->body = midge_slice_make(input->base, input->len < len ? input->len : len);
    parser->body_left = len - op->body.len;
    parser->end_left = END_LEN;
    input->base += op->body.len;
    input->len -= op->body.len;
    return MIDGE_OK;
}

/* The next bytes of a message, and of the CRLF behind it. */
static enum midge_status take_piece(struct midge_server_parser *parser, struct midge_slice *input,
                                    struct midge_server_op *op)
{
    const uint32_t len = input->len < parser->body_left ? input->len : parser->body_left;

    op->kind = MIDGE_SERVER_OP_PIECE;
    op->body = midge_slice_make(input->base, len);
    parser->body_left -= len;
    input->base += len;
    input->len -= len;
    for (; parser->body_left == 0 && parser->end_left > 0 && input->len > 0; parser->end_left--) {
        if (input->base[0] != (parser->end_left == END_LEN ? '\r' : '\n'))
            return MIDGE_E_PARSE;
        input->base++;
        input->len--;
    }
    op->last = parser->body_left == 0 && parser->end_left == 0;
    return MIDGE_OK;
}

/* --- lines --- */

static bool begins_with(struct midge_slice line, const char *word, uint32_t len)
{
    return line.len >= len && memcmp(line.base, word, len) == 0;
}

static struct midge_slice behind(struct midge_slice line, uint32_t len)
{
    return midge_slice_make(line.base + len, line.len - len);
}

/* As begins_with(), and the word ends there: PINGMSG is a torn stream, not a PING. */
static bool has_word(struct midge_slice line, const char *word, uint32_t len)
{
    return begins_with(line, word, len) && (line.len == len || midge_is_blank(line.base[len]));
}

/* The words of an -ERR; blanks around them and their quotes are left out. */
static struct midge_slice unquote(struct midge_slice text)
{
    while (text.len > 0 && midge_is_blank(text.base[0]))
        text = behind(text, 1);
    while (text.len > 0 && midge_is_blank(text.base[text.len - 1]))
        text.len--;
    if (text.len > 0 && text.base[0] == '\'')
        text = behind(text, 1);
    if (text.len > 0 && text.base[text.len - 1] == '\'')
        text.len--;
    return text;
}

static enum midge_status read_other(struct midge_slice line, struct midge_server_op *op)
{
    if (has_word(line, "PING", 4)) {
        op->kind = MIDGE_SERVER_OP_PING;
    } else if (has_word(line, "PONG", 4)) {
        op->kind = MIDGE_SERVER_OP_PONG;
    } else if (has_word(line, "+OK", 3)) {
        op->kind = MIDGE_SERVER_OP_OK;
    } else if (has_word(line, "-ERR", 4)) {
        op->kind = MIDGE_SERVER_OP_ERR;
        op->text = unquote(behind(line, 4));
    } else if (begins_with(line, "INFO ", 5)) {
        op->kind = MIDGE_SERVER_OP_INFO;
        op->text = behind(line, 5);
    } else {
        return MIDGE_E_PARSE;
    }
    return MIDGE_OK;
}

/* One line without its end; a message's body is taken from the input. */
static enum midge_status read_line(struct midge_server_parser *parser, struct midge_slice line,
                                   struct midge_slice *input, struct midge_server_op *op)
{
    enum midge_status status;

    if (MIDGE_LIKELY(begins_with(line, "MSG ", 4)))
        status = read_arguments(parser, behind(line, 4), false, op);
    else if (begins_with(line, "HMSG ", 5))
        status = read_arguments(parser, behind(line, 5), true, op);
    else
        return read_other(line, op);
    if (MIDGE_UNLIKELY(status != MIDGE_OK))
        return status;
    op->kind = MIDGE_SERVER_OP_MSG;
    return take_body(parser, input, op);
}

static struct midge_slice without_end(const uint8_t *base, uint32_t len)
{
    len--; /* LF */
    if (len > 0 && base[len - 1] == '\r')
        len--;
    return midge_slice_make(base, len);
}

/* Put `len` bytes of the input behind what is kept of a line. */
static enum midge_status keep(struct midge_server_parser *parser, struct midge_slice *input,
                              uint32_t len)
{
    if (len > parser->limits.line_len_max - parser->line_len)
        return MIDGE_E_CONTROL_LINE;
    if (len > parser->line_cap - parser->line_len) {
        parser->line_needed = parser->line_len + len;
        return MIDGE_FULL;
    }
    memcpy(parser->line + parser->line_len, input->base, len);
    parser->line_len += len;
    input->base += len;
    input->len -= len;
    return MIDGE_OK;
}

/* A line that is not whole in the input. @param end  its LF, NULL if that is not there yet */
static enum midge_status gather(struct midge_server_parser *parser, struct midge_slice *input,
                                const uint8_t *end, struct midge_server_op *op)
{
    const uint32_t len = end == NULL ? input->len : (uint32_t)(end - input->base) + 1;
    const enum midge_status status = keep(parser, input, len);
    struct midge_slice line;

    if (status != MIDGE_OK)
        return status;
    if (end == NULL)
        return MIDGE_AGAIN;
    line = without_end(parser->line, parser->line_len);
    parser->line_len = 0; /* its bytes stay until the next line is gathered */
    return read_line(parser, line, input, op);
}

enum midge_status midge_server_parser_next(struct midge_server_parser *parser,
                                           struct midge_slice *input,
                                           struct midge_server_op *op_out)
{
    const uint8_t *base = input->base;
    const uint8_t *end;
    uint32_t len;

    if (MIDGE_UNLIKELY(input->len == 0))
        return MIDGE_AGAIN;
    if (MIDGE_UNLIKELY(parser->end_left > 0))
        return take_piece(parser, input, op_out);
    end = memchr(base, '\n', input->len);
    if (MIDGE_UNLIKELY(end == NULL || parser->line_len > 0))
        return gather(parser, input, end, op_out);
    len = (uint32_t)(end - base) + 1;
    if (MIDGE_UNLIKELY(len > parser->limits.line_len_max))
        return MIDGE_E_CONTROL_LINE;
    input->base += len;
    input->len -= len;
    return read_line(parser, without_end(base, len), input, op_out);
}

uint32_t midge_server_parser_line_needed(const struct midge_server_parser *parser)
{
    return parser->line_needed;
}

void midge_server_parser_lend_line(struct midge_server_parser *parser, uint8_t *line,
                                   uint32_t line_cap)
{
    MIDGE_ASSERT(line_cap >= parser->line_len);
    parser->line = line;
    parser->line_cap = line_cap;
}

bool midge_server_parser_at_start(const struct midge_server_parser *parser)
{
    return parser->line_len == 0 && parser->end_left == 0;
}
