/*
 * Incremental parser for what a client sends.
 *
 *   START -> VERB -> VERB_END -> BLANK -> ARG -> START               SUB UNSUB -ERR
 *                 -> BLANK                                           CONNECT INFO need no blank
 *                 -> SWALLOW -> START                                PING PONG +OK
 *                                         ARG -> PAYLOAD -> PAYLOAD_LF -> START   PUB HPUB
 *   any -> FAILED
 *
 * One path serves whole and cut lines: every stage looks at all the input there is, and its state
 * is stored only where a later call must go on. The end of a line is found by memchr over bytes not
 * seen before, so the work is linear in the input however it is cut.
 *
 * Details that a client can see, all observed on nats-server v2.15.2 (server/parser.go):
 *   - The first byte behind the blanks begins the argument whatever it is. An LF there does not end
 * the line: "SUB LF foo 1 CRLF" subscribes to foo. For PUB and HPUB nats-server makes that LF part
 * of the subject and so lets a publisher break the framing of every subscriber; we end the line
 * there, and the missing arguments close the connection.
 *   - A CR not directly before LF separates arguments of SUB and UNSUB and belongs to the token in
 * PUB and HPUB. With such a CR and a bare LF nats-server drops the byte before the LF; we do not.
 *   - HMSG from a client, which nats-server parses and ignores if its payload is empty, is an
 * unknown operation like MSG.
 *
 * Thread: shard.
 * Limits: control_line_len_max, payload_len_max, both given by the caller.
 */
#include "midge/parser.h"

#include "control_line_internal.h"
#include "midge/limits.h"

#include <assert.h>
#include <endian.h>

/* A size must fit the arithmetic on payload_left, CRLF included. */
static_assert(MIDGE_PAYLOAD_MAX <= UINT32_MAX - 2, "a payload and its CRLF fit 32 bits");

enum parser_state {
    STATE_START = 0,
    STATE_VERB,       /* verb_len bytes of a verb seen */
    STATE_VERB_END,   /* the verb is complete, one blank must follow */
    STATE_BLANK,      /* blanks before the argument */
    STATE_ARG,        /* inside the argument */
    STATE_SWALLOW,    /* PING, PONG, +OK: anything up to LF */
    STATE_PAYLOAD,    /* payload_left bytes, then CR */
    STATE_PAYLOAD_LF, /* the CR behind the payload was seen */
    STATE_FAILED,
};

/* Arguments of the longest control line, HPUB subject reply header-size total-size. */
#define ARGS_MAX 4u

#define VERB_LEN_MAX 7u

struct verb {
    char text[VERB_LEN_MAX + 1]; /* lower case */
    uint8_t len;
    uint8_t next; /* enum parser_state behind the verb */
};

static const struct verb verbs[] = {
    [MIDGE_OP_CONNECT] = {"connect", 7, STATE_BLANK},
    [MIDGE_OP_INFO] = {"info", 4, STATE_BLANK},
    [MIDGE_OP_PUB] = {"pub", 3, STATE_VERB_END},
    [MIDGE_OP_HPUB] = {"hpub", 4, STATE_VERB_END},
    [MIDGE_OP_SUB] = {"sub", 3, STATE_VERB_END},
    [MIDGE_OP_UNSUB] = {"unsub", 5, STATE_VERB_END},
    [MIDGE_OP_PING] = {"ping", 4, STATE_SWALLOW},
    [MIDGE_OP_PONG] = {"pong", 4, STATE_SWALLOW},
    [MIDGE_OP_OK] = {"+ok", 3, STATE_SWALLOW},
    [MIDGE_OP_ERR] = {"-err", 4, STATE_VERB_END},
};

static inline void parser_set_state(struct midge_parser *parser, enum parser_state from,
                                    enum parser_state to)
{
    MIDGE_ASSERT(parser->state == from);
    parser->state = (uint8_t)to;
}

static inline void slice_skip(struct midge_slice *slice, uint32_t len)
{
    slice->base += len;
    slice->len -= len;
}

/* An operation with nothing in it but its kind. Field by field: for an initialiser of this size gcc
 * emits `rep stos`, whose start-up alone costs more than the rest of a short control line. */
static inline void op_init(struct midge_op *op, enum midge_op_kind kind)
{
    const struct midge_slice none = {NULL, 0};

    op->kind = kind;
    op->subject = none;
    op->reply = none;
    op->queue = none;
    op->sid = none;
    op->json = none;
    op->line = none;
    op->header_text = none;
    op->size_text = none;
    op->payload = none;
    op->header_len = 0;
    op->total_len = 0;
    op->max = 0;
    op->payload_whole = false;
    op->last = false;
}

/* The verb that the first letter promises; PUB stands for the three that begin with P. */
static enum midge_op_kind verb_of_first(uint8_t letter)
{
    switch (letter) {
    case 'p':
        return MIDGE_OP_PUB;
    case 'h':
        return MIDGE_OP_HPUB;
    case 's':
        return MIDGE_OP_SUB;
    case 'u':
        return MIDGE_OP_UNSUB;
    case 'c':
        return MIDGE_OP_CONNECT;
    case 'i':
        return MIDGE_OP_INFO;
    case '+':
        return MIDGE_OP_OK;
    case '-':
        return MIDGE_OP_ERR;
    default:
        return MIDGE_OP_NONE;
    }
}

/* Take one byte of a verb; false if no verb goes on like this. */
static bool verb_take(struct midge_parser *parser, uint8_t byte)
{
    const uint8_t letter = byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte + ('a' - 'A')) : byte;

    if (parser->verb_len == 0)
        parser->verb = (uint8_t)verb_of_first(letter);
    else if (parser->verb_len == 1 && parser->verb == MIDGE_OP_PUB && letter == 'i')
        parser->verb = MIDGE_OP_PING;
    else if (parser->verb_len == 1 && parser->verb == MIDGE_OP_PUB && letter == 'o')
        parser->verb = MIDGE_OP_PONG;
    if (parser->verb == MIDGE_OP_NONE ||
        (uint8_t)verbs[parser->verb].text[parser->verb_len] != letter)
        return false;
    parser->verb_len++;
    return true;
}

/* The frequent verbs, whole in the input, by one comparison. Setting bit 5 folds letters; the only
 * bytes that become a lower-case letter so are that letter in both cases. */
static inline bool verb_take_frequent(struct midge_parser *parser, struct midge_slice *rest)
{
    uint32_t word;

    if (rest->len < 5)
        return false;
    memcpy(&word, rest->base, sizeof(word));
    word = le32toh(word) | 0x20202020u;
    if ((word & 0xffffffu) == ('p' | 'u' << 8 | 'b' << 16) && midge_is_blank(rest->base[3])) {
        parser->verb = MIDGE_OP_PUB;
        slice_skip(rest, 4);
    } else if (word == ('h' | 'p' << 8 | 'u' << 16 | (uint32_t)'b' << 24) &&
               midge_is_blank(rest->base[4])) {
        parser->verb = MIDGE_OP_HPUB;
        slice_skip(rest, 5);
    } else if ((word & 0xffffffu) == ('s' | 'u' << 8 | 'b' << 16) &&
               midge_is_blank(rest->base[3])) {
        parser->verb = MIDGE_OP_SUB;
        slice_skip(rest, 4);
    } else {
        return false;
    }
    parser_set_state(parser, STATE_START, STATE_BLANK);
    return true;
}

/* Get past the verb and the blank it needs. MIDGE_OK: the state is BLANK, ARG or SWALLOW. */
static enum midge_status read_verb(struct midge_parser *parser, struct midge_slice *rest)
{
    if (parser->state == STATE_START) {
        if (rest->len == 0)
            return MIDGE_AGAIN;
        if (verb_take_frequent(parser, rest))
            return MIDGE_OK;
        parser->verb_len = 0;
        parser_set_state(parser, STATE_START, STATE_VERB);
    }
    while (parser->state == STATE_VERB) {
        if (rest->len == 0)
            return MIDGE_AGAIN;
        if (!verb_take(parser, rest->base[0]))
            return MIDGE_E_PARSE;
        slice_skip(rest, 1);
        if (parser->verb_len == verbs[parser->verb].len)
            parser_set_state(parser, STATE_VERB, (enum parser_state)verbs[parser->verb].next);
    }
    if (parser->state == STATE_VERB_END) {
        if (rest->len == 0)
            return MIDGE_AGAIN;
        if (!midge_is_blank(rest->base[0]))
            return MIDGE_E_PARSE;
        slice_skip(rest, 1);
        parser_set_state(parser, STATE_VERB_END, STATE_BLANK);
    }
    return MIDGE_OK;
}

/* PING, PONG, +OK: nothing before the LF matters, and nothing is kept. */
static enum midge_status swallow_line(struct midge_parser *parser, struct midge_slice *rest,
                                      struct midge_op *op_out)
{
    const uint8_t *lf = rest->len > 0 ? memchr(rest->base, '\n', rest->len) : NULL;

    if (lf == NULL) {
        slice_skip(rest, rest->len);
        return MIDGE_AGAIN;
    }
    slice_skip(rest, (uint32_t)(lf - rest->base) + 1);
    parser_set_state(parser, STATE_SWALLOW, STATE_START);
    op_init(op_out, (enum midge_op_kind)parser->verb);
    return MIDGE_OK;
}

/*
 * Add `len` bytes to the unfinished argument in the line buffer, and end it if `ends`.
 *
 * A CR at the end of the bytes may be half of CRLF: it is held back (dropped_cr) and neither
 * counted nor kept until the byte behind it decides.
 */
static enum midge_status keep_line(struct midge_parser *parser, struct midge_slice *rest,
                                   uint32_t len, bool ends, struct midge_slice *line_out)
{
    const bool held = parser->dropped_cr && len > 0;
    const bool cr = len > 0 && rest->base[len - 1] == '\r';
    const uint32_t body_len = cr ? len - 1 : len;
    uint32_t len_max = parser->limits.control_line_len_max;

    if (parser->line != NULL && parser->line_cap < len_max)
        len_max = parser->line_cap;
    if ((uint64_t)parser->line_len + held + body_len > len_max)
        return MIDGE_E_CONTROL_LINE;
    if (parser->line == NULL && (held || body_len > 0))
        return MIDGE_FULL;
    if (held)
        parser->line[parser->line_len++] = '\r';
    if (body_len > 0) {
        memcpy(parser->line + parser->line_len, rest->base, body_len);
        parser->line_len += body_len;
    }
    if (!ends) {
        parser->dropped_cr = cr;
        slice_skip(rest, len);
        return MIDGE_AGAIN;
    }
    parser->line_in_use = parser->line_len > 0;
    *line_out = parser->line_in_use ? midge_slice_make(parser->line, parser->line_len)
                                    : midge_slice_make(rest->base, 0);
    parser->line_len = 0;
    parser->dropped_cr = false;
    slice_skip(rest, len + 1);
    return MIDGE_OK;
}

/* Find the argument part: a view of the input if it lies there whole, else of the line buffer. */
static inline enum midge_status read_line(struct midge_parser *parser, struct midge_slice *rest,
                                          struct midge_slice *line_out)
{
    const bool begins = parser->line_len == 0 && !parser->dropped_cr;
    const bool is_message = parser->verb == MIDGE_OP_PUB || parser->verb == MIDGE_OP_HPUB;
    const uint8_t *lf;
    uint32_t from = 0;
    uint32_t len;

    if (rest->len == 0)
        return MIDGE_AGAIN;
    if (begins && rest->base[0] == '\n' && !is_message)
        from = 1;
    lf = memchr(rest->base + from, '\n', rest->len - from);
    len = lf != NULL ? (uint32_t)(lf - rest->base) : rest->len;
    if (!begins || lf == NULL)
        return keep_line(parser, rest, len, lf != NULL, line_out);
    *line_out = midge_slice_make(rest->base, len);
    slice_skip(rest, len + 1);
    if (len > 0 && line_out->base[len - 1] == '\r')
        line_out->len--;
    return line_out->len <= parser->limits.control_line_len_max ? MIDGE_OK : MIDGE_E_CONTROL_LINE;
}

/* The first byte that is not above a blank; eight bytes at a time. Borrows reach only bytes behind
 * the first hit, so the lowest bit found is exact. */
static inline const uint8_t *find_low_byte(const uint8_t *at, const uint8_t *end)
{
    const uint64_t ones = 0x0101010101010101u;

    while (end - at >= 8) {
        uint64_t word;
        uint64_t low;

        memcpy(&word, at, sizeof(word));
        word = le64toh(word);
        low = (word - ones * (' ' + 1)) & ~word & (ones << 7);
        if (low != 0)
            return at + ((uint32_t)__builtin_ctzll(low) >> 3);
        at += 8;
    }
    while (at<end && * at> ' ')
        at++;
    return at;
}

static inline bool is_separator(uint8_t byte, bool breaks_separate)
{
    return midge_is_blank(byte) || (breaks_separate && (byte == '\r' || byte == '\n'));
}

/* Split into tokens. Returns their number, ARGS_MAX + 1 if there are more than ARGS_MAX. */
static inline uint32_t split(struct midge_slice line, bool breaks_separate,
                             struct midge_slice tokens[ARGS_MAX])
{
    const uint8_t *at = line.base;
    const uint8_t *const end = line.base + line.len;
    uint32_t count = 0;

    for (;;) {
        const uint8_t *token;

        while (at < end && is_separator(*at, breaks_separate))
            at++;
        if (at == end)
            return count;
        if (count == ARGS_MAX)
            return ARGS_MAX + 1;
        token = at;
        for (at = find_low_byte(at, end); at < end && !is_separator(*at, breaks_separate);)
            at = find_low_byte(at + 1, end);
        tokens[count++] = midge_slice_make(token, (uint32_t)(at - token));
    }
}

/* Give the operation its payload if that is whole in the input, else prepare for pieces. A payload
 * with a wrong end also comes as pieces: what is decided on the control line must happen before the
 * error. */
static inline void attach_payload(struct midge_parser *parser, struct midge_slice *rest,
                                  struct midge_op *op)
{
    const uint32_t len = op->total_len;

    if (rest->len >= len + 2 && rest->base[len] == '\r' && rest->base[len + 1] == '\n') {
        op->payload = midge_slice_make(rest->base, len);
        op->payload_whole = true;
        slice_skip(rest, len + 2);
        parser_set_state(parser, STATE_ARG, STATE_START);
        return;
    }
    parser->payload_left = len;
    parser_set_state(parser, STATE_ARG, STATE_PAYLOAD);
}

static inline enum midge_status parse_pub(struct midge_parser *parser, struct midge_slice line,
                                          struct midge_slice *rest, struct midge_op *op_out)
{
    const bool headers = parser->verb == MIDGE_OP_HPUB;
    const uint32_t count_min = headers ? 3 : 2;
    struct midge_slice tokens[ARGS_MAX];
    uint32_t total_len;
    uint32_t header_len = 0;
    uint32_t count;

    if (headers && !parser->limits.headers)
        return MIDGE_E_HEADERS;
    count = split(line, false, tokens);
    if (count < count_min || count > count_min + 1)
        return MIDGE_E_ARGS;
    if (!midge_size_parse(tokens[count - 1], &total_len))
        return MIDGE_E_ARGS;
    if (headers && (!midge_size_parse(tokens[count - 2], &header_len) || header_len > total_len))
        return MIDGE_E_ARGS;
    if (total_len > parser->limits.payload_len_max)
        return MIDGE_E_PAYLOAD;
    op_init(op_out, (enum midge_op_kind)parser->verb);
    op_out->subject = midge_slice_copy(&tokens[0]);
    op_out->line = line;
    op_out->size_text = midge_slice_copy(&tokens[count - 1]);
    op_out->header_len = header_len;
    op_out->total_len = total_len;
    if (count > count_min)
        op_out->reply = midge_slice_copy(&tokens[1]);
    if (headers)
        op_out->header_text = midge_slice_copy(&tokens[count - 2]);
    attach_payload(parser, rest, op_out);
    return MIDGE_OK;
}

static enum midge_status parse_sub(struct midge_parser *parser, struct midge_slice line,
                                   struct midge_op *op_out)
{
    struct midge_slice tokens[ARGS_MAX];
    const uint32_t count = split(line, true, tokens);

    if (count < 2 || count > 3)
        return MIDGE_E_ARGS;
    op_init(op_out, MIDGE_OP_SUB);
    op_out->subject = tokens[0];
    op_out->sid = tokens[count - 1];
    op_out->line = line;
    if (count == 3)
        op_out->queue = tokens[1];
    parser_set_state(parser, STATE_ARG, STATE_START);
    return MIDGE_OK;
}

static enum midge_status parse_unsub(struct midge_parser *parser, struct midge_slice line,
                                     struct midge_op *op_out)
{
    struct midge_slice tokens[ARGS_MAX];
    const uint32_t count = split(line, true, tokens);
    uint32_t max = 0;

    if (count < 1 || count > 2)
        return MIDGE_E_ARGS;
    /* What is not a number removes the subscription now, as 0 does. Source: server/client.go:3568.
     */
    if (count == 2 && !midge_size_parse(tokens[1], &max))
        max = 0;
    op_init(op_out, MIDGE_OP_UNSUB);
    op_out->sid = tokens[0];
    op_out->line = line;
    op_out->max = max;
    parser_set_state(parser, STATE_ARG, STATE_START);
    return MIDGE_OK;
}

static enum midge_status parse_text(struct midge_parser *parser, struct midge_slice line,
                                    struct midge_op *op_out)
{
    op_init(op_out, (enum midge_op_kind)parser->verb);
    op_out->line = line;
    if (parser->verb != MIDGE_OP_ERR)
        op_out->json = line;
    parser_set_state(parser, STATE_ARG, STATE_START);
    return MIDGE_OK;
}

/* Everything with an argument: skip the blanks, find the line, split it. */
static inline enum midge_status read_op(struct midge_parser *parser, struct midge_slice *rest,
                                        struct midge_op *op_out)
{
    struct midge_slice line;
    enum midge_status status;

    if (parser->state == STATE_BLANK) {
        uint32_t blank_count = 0;

        while (blank_count < rest->len && midge_is_blank(rest->base[blank_count]))
            blank_count++;
        if (blank_count == rest->len) {
            slice_skip(rest, rest->len);
            return MIDGE_AGAIN;
        }
        slice_skip(rest, blank_count);
        parser_set_state(parser, STATE_BLANK, STATE_ARG);
    }
    status = read_line(parser, rest, &line);
    if (status != MIDGE_OK)
        return status;
    if (parser->verb == MIDGE_OP_PUB || parser->verb == MIDGE_OP_HPUB)
        return parse_pub(parser, line, rest, op_out);
    if (parser->verb == MIDGE_OP_SUB)
        return parse_sub(parser, line, op_out);
    if (parser->verb == MIDGE_OP_UNSUB)
        return parse_unsub(parser, line, op_out);
    return parse_text(parser, line, op_out);
}

/* The next bytes of a payload, and the CRLF behind it. A piece goes out before a wrong byte fails.
 */
static enum midge_status read_piece(struct midge_parser *parser, struct midge_slice *rest,
                                    struct midge_op *op_out)
{
    const uint32_t len = rest->len < parser->payload_left ? rest->len : parser->payload_left;
    const struct midge_slice piece = midge_slice_make(rest->base, len);
    bool last = false;

    if (rest->len == 0)
        return MIDGE_AGAIN;
    slice_skip(rest, len);
    parser->payload_left -= len;
    if (parser->payload_left == 0 && parser->state == STATE_PAYLOAD && rest->len > 0) {
        if (rest->base[0] == '\r') {
            slice_skip(rest, 1);
            parser_set_state(parser, STATE_PAYLOAD, STATE_PAYLOAD_LF);
        } else if (len == 0) {
            return MIDGE_E_PARSE;
        }
    }
    if (parser->state == STATE_PAYLOAD_LF && rest->len > 0) {
        if (rest->base[0] == '\n') {
            slice_skip(rest, 1);
            parser_set_state(parser, STATE_PAYLOAD_LF, STATE_START);
            last = true;
        } else if (len == 0) {
            return MIDGE_E_PARSE;
        }
    }
    if (len == 0 && !last)
        return MIDGE_AGAIN;
    op_init(op_out, MIDGE_OP_PIECE);
    op_out->payload = piece;
    op_out->last = last;
    return MIDGE_OK;
}

void midge_parser_init(struct midge_parser *parser, const struct midge_parser_limits *limits)
{
    MIDGE_ASSERT(parser != NULL);
    MIDGE_ASSERT(limits->control_line_len_max <= MIDGE_CONTROL_LINE_MAX);
    MIDGE_ASSERT(limits->payload_len_max <= MIDGE_PAYLOAD_MAX);

    *parser = (struct midge_parser){.limits = *limits, .state = STATE_START};
}

enum midge_status midge_parser_next(struct midge_parser *parser, struct midge_slice *input,
                                    struct midge_op *op_out)
{
    struct midge_slice rest = *input;
    enum midge_status status;

    MIDGE_ASSERT(parser->state < STATE_FAILED);
    MIDGE_ASSERT(op_out != NULL);

    parser->line_in_use = false;
    if (parser->state == STATE_PAYLOAD || parser->state == STATE_PAYLOAD_LF) {
        status = read_piece(parser, &rest, op_out);
    } else {
        status = read_verb(parser, &rest);
        if (status == MIDGE_OK)
            status = parser->state == STATE_SWALLOW ? swallow_line(parser, &rest, op_out)
                                                    : read_op(parser, &rest, op_out);
    }
    if (status < 0) {
        parser->line_len = 0;
        parser->line_in_use = false;
        parser->state = STATE_FAILED;
        return status;
    }
    *input = rest;
    return status;
}

void midge_parser_lend_line(struct midge_parser *parser, uint8_t *line, uint32_t line_cap)
{
    MIDGE_ASSERT(line != NULL);
    MIDGE_ASSERT(parser->line == NULL);
    MIDGE_ASSERT(line_cap >= parser->limits.control_line_len_max);

    parser->line = line;
    parser->line_cap = line_cap;
}

uint8_t *midge_parser_take_line(struct midge_parser *parser)
{
    uint8_t *line = parser->line;

    MIDGE_ASSERT(midge_parser_line_idle(parser));

    parser->line = NULL;
    parser->line_cap = 0;
    return line;
}

bool midge_parser_line_idle(const struct midge_parser *parser)
{
    return parser->line_len == 0 && !parser->line_in_use;
}

bool midge_parser_at_start(const struct midge_parser *parser)
{
    return parser->state == STATE_START;
}
