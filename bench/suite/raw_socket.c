/* A plain socket that speaks NATS; see raw_socket.h. */
#include "raw_socket.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "midge/limits.h"

#define VERB_LEN 4u /* of MSG and PUB, with the blank behind it */
#define END_LEN  2u /* CRLF behind a body */

/* Room for what waits, at first. */
#define OUT_CAP_MIN (64u * 1024)

/* Longest line that a server may send: INFO of a large cluster. */
#define LINE_LEN_MAX (1024u * 1024)

/* The receive that may wait ends by this, so that a wait without end costs no poll. */
static enum midge_status set_timeout(int fd, uint32_t timeout_ms)
{
    const struct timeval timeout = {.tv_sec = timeout_ms / 1000,
                                    .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};

    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0 ? MIDGE_OK
                                                                                  : MIDGE_E_SYSTEM;
}

enum midge_status midge_raw_socket_open(struct midge_raw_socket *socket,
                                        const struct midge_endpoint *endpoint, bool is_relay,
                                        uint32_t timeout_ms, uint32_t receive_buffer_len)
{
    const struct midge_server_parser_limits limits = {.line_len_max = LINE_LEN_MAX,
                                                      .message_len_max = MIDGE_PAYLOAD_MAX};
    const struct midge_parser_limits relay_limits = {.control_line_len_max =
                                                         MIDGE_CONTROL_LINE_DEFAULT,
                                                     .payload_len_max = MIDGE_PAYLOAD_MAX,
                                                     .headers = true};
    enum midge_status status;

    *socket = (struct midge_raw_socket){.fd = -1, .is_relay = is_relay};
    if (is_relay)
        midge_parser_init(&socket->relay_parser, &relay_limits);
    else
        midge_server_parser_init(&socket->parser, &limits);
    status = midge_endpoint_connect(endpoint, timeout_ms, receive_buffer_len, &socket->fd);
    return status == MIDGE_OK ? set_timeout(socket->fd, timeout_ms) : status;
}

void midge_raw_socket_close(struct midge_raw_socket *socket)
{
    if (socket->fd >= 0)
        (void)close(socket->fd);
    free(socket->out);
    free(socket->line);
    free(socket->body);
    *socket = (struct midge_raw_socket){.fd = -1};
}

/* --- out --- */

/* Move what waits to the front where that is cheap for what it gains, else grow. */
static bool make_room(struct midge_raw_socket *socket, uint32_t len)
{
    const uint32_t queued = midge_raw_socket_queued(socket);
    uint64_t cap = socket->out_cap == 0 ? OUT_CAP_MIN : socket->out_cap;
    uint8_t *out;

    if (queued + (uint64_t)len <= cap / 2) {
        if (queued > 0)
            memmove(socket->out, socket->out + socket->out_begin_off, queued);
        socket->out_begin_off = 0;
        socket->out_end_off = queued;
        if (socket->out != NULL)
            return true;
    }
    while (cap - socket->out_end_off < len)
        cap *= 2;
    if (cap > UINT32_MAX)
        return false;
    out = realloc(socket->out, cap);
    if (out == NULL)
        return false;
    socket->out = out;
    socket->out_cap = (uint32_t)cap;
    return true;
}

uint8_t *midge_raw_socket_reserve(struct midge_raw_socket *socket, uint32_t len)
{
    if (MIDGE_UNLIKELY(socket->out_cap - socket->out_end_off < len) && !make_room(socket, len))
        return NULL;
    return socket->out + socket->out_end_off;
}

enum midge_status midge_raw_socket_send(struct midge_raw_socket *socket)
{
    const uint32_t queued = midge_raw_socket_queued(socket);
    ssize_t sent = 0;

    if (queued > 0) {
        do {
            sent = send(socket->fd, socket->out + socket->out_begin_off, queued,
                        MSG_NOSIGNAL | MSG_DONTWAIT);
        } while (sent < 0 && errno == EINTR);
    }
    if (MIDGE_UNLIKELY(sent < (ssize_t)queued) && (sent >= 0 || errno == EAGAIN)) {
        socket->out_begin_off += sent < 0 ? 0 : (uint32_t)sent;
        socket->is_full = true;
        return MIDGE_OK;
    }
    socket->out_begin_off = 0;
    socket->out_end_off = 0;
    socket->is_full = false;
    if (MIDGE_LIKELY(sent >= 0))
        return MIDGE_OK;
    return errno == EPIPE || errno == ECONNRESET ? MIDGE_E_EOF : MIDGE_E_WRITE;
}

/* --- in --- */

enum midge_status midge_raw_socket_receive(struct midge_raw_socket *socket, uint8_t *room,
                                           bool may_wait, struct midge_slice *input_out)
{
    uint8_t *base = room;
    uint32_t cap = MIDGE_RAW_ROOM_LEN;

    if (MIDGE_UNLIKELY(socket->body_need > 0)) {
        base = socket->body + socket->body_off + socket->body_fill;
        cap = socket->body_need - socket->body_fill;
    }
    for (;;) {
        const ssize_t len = recv(socket->fd, base, cap, may_wait ? 0 : MSG_DONTWAIT);

        if (MIDGE_LIKELY(len > 0)) {
            *input_out = midge_slice_make(base, (uint32_t)len);
            return MIDGE_OK;
        }
        if (len == 0 || errno == ECONNRESET)
            return MIDGE_E_EOF;
        if (errno == EAGAIN)
            return MIDGE_AGAIN;
        if (errno != EINTR)
            return MIDGE_E_READ;
    }
}

/* The parser asks for room for a line that was cut. */
static enum midge_status lend_line(struct midge_raw_socket *socket)
{
    const uint32_t cap = socket->is_relay ? socket->relay_parser.limits.control_line_len_max
                                          : 2 * midge_server_parser_line_needed(&socket->parser);
    uint8_t *line = realloc(socket->line, cap);

    if (line == NULL)
        return MIDGE_E_MEMORY;
    socket->line = line;
    socket->line_cap = cap;
    if (socket->is_relay)
        midge_parser_lend_line(&socket->relay_parser, line, cap);
    else
        midge_server_parser_lend_line(&socket->parser, line, cap);
    return MIDGE_OK;
}

/* What came over a relay, as if a server had said it. */
static enum midge_status next_of_relay(struct midge_raw_socket *socket, struct midge_slice *input,
                                       struct midge_server_op *op_out)
{
    struct midge_op op;
    const enum midge_status status = midge_parser_next(&socket->relay_parser, input, &op);

    if (status != MIDGE_OK)
        return status;
    *op_out = (struct midge_server_op){.body = op.payload};
    if (op.kind == MIDGE_OP_PIECE) {
        op_out->kind = MIDGE_SERVER_OP_PIECE;
        op_out->last = op.last;
        return MIDGE_OK;
    }
    if (op.kind != MIDGE_OP_PUB && op.kind != MIDGE_OP_HPUB)
        return MIDGE_E_PARSE;
    op_out->kind = MIDGE_SERVER_OP_MSG;
    op_out->subject = op.subject;
    op_out->reply = op.reply;
    op_out->header_len = op.header_len;
    op_out->total_len = op.total_len;
    op_out->whole = op.payload_whole;
    return MIDGE_OK;
}

/* A message whose end is still to come: find it a place, and keep what is there. */
static enum midge_status begin_body(struct midge_raw_socket *socket,
                                    const struct midge_server_op *op)
{
    const uint32_t head_len = op->subject.len + op->reply.len;
    const uint32_t needed = head_len + op->total_len + END_LEN;

    if (needed > socket->body_cap) {
        uint8_t *body = realloc(socket->body, needed);

        if (body == NULL)
            return MIDGE_E_MEMORY;
        socket->body = body;
        socket->body_cap = needed;
    }
    memcpy(socket->body, op->subject.base, op->subject.len);
    if (op->reply.len > 0)
        memcpy(socket->body + op->subject.len, op->reply.base, op->reply.len);
    if (op->body.len > 0)
        memcpy(socket->body + head_len, op->body.base, op->body.len);
    socket->body_op = *op;
    socket->body_off = head_len;
    socket->body_fill = op->body.len;
    socket->body_need = op->total_len + END_LEN;
    return MIDGE_OK;
}

/* Put a piece in its place, where it is not received there. @param used  bytes, CRLF included */
static void add_piece(struct midge_raw_socket *socket, struct midge_slice piece, uint32_t used)
{
    uint8_t *place = socket->body + socket->body_off + socket->body_fill;

    MIDGE_ASSERT(used <= socket->body_need - socket->body_fill);
    if (piece.len > 0 && piece.base != place)
        memcpy(place, piece.base, piece.len);
    socket->body_fill += used;
}

static void end_body(struct midge_raw_socket *socket, struct midge_server_op *op_out)
{
    const uint8_t *at = socket->body;

    *op_out = socket->body_op;
    op_out->subject = midge_slice_make(at, op_out->subject.len);
    op_out->reply = midge_slice_make(at + op_out->subject.len, op_out->reply.len);
    op_out->body = midge_slice_make(at + socket->body_off, op_out->total_len);
    op_out->whole = true;
    socket->body_need = 0;
    socket->body_fill = 0;
}

/* --- whole messages --- */

#define BYTES_01 UINT64_C(0x0101010101010101)

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lowest byte of a word is the first");

/* The end of a word: the first byte that is a blank or below. The last 7 bytes before `end` are not
 * looked at. @return NULL: none was found */
static inline const uint8_t *find_end(const uint8_t *at, const uint8_t *end)
{
    for (; end - at >= 8; at += 8) {
        uint64_t bytes;
        uint64_t below;

        memcpy(&bytes, at, sizeof bytes);
        /* The upper bit of each byte below 0x21; above the first of them some may be wrong. */
        below = (bytes - 0x21 * BYTES_01) & ~bytes & 0x80 * BYTES_01;
        if (below != 0)
            return at + (__builtin_ctzll(below) >> 3);
    }
    return NULL;
}

/* One to nine digits. @return false: anything else */
static inline bool read_number(const uint8_t *at, const uint8_t *end, uint32_t *number_out)
{
    uint32_t number = 0;

    if (at == end || end - at > (ptrdiff_t)MIDGE_SIZE_DIGITS_MAX)
        return false;
    for (; at < end; at++) {
        const uint32_t digit = (uint32_t)*at - '0';

        if (digit > 9)
            return false;
        number = 10 * number + digit;
    }
    *number_out = number;
    return true;
}

/* Whole, with a body of `len` bytes and its CRLF at `body`, and no reply. @return false: not all of
 * it is in the input */
static inline bool end_whole(struct midge_slice *input, const uint8_t *body, uint32_t len,
                             struct midge_server_op *op_out)
{
    const uint8_t *const end = input->base + input->len;

    if ((uint64_t)(end - body) < (uint64_t)len + END_LEN || body[len] != '\r' ||
        body[len + 1] != '\n')
        return false;
    op_out->kind = MIDGE_SERVER_OP_MSG;
    op_out->header_len = 0;
    op_out->total_len = len;
    op_out->reply = midge_slice_make(NULL, 0);
    op_out->body = midge_slice_make(body, len);
    op_out->whole = true;
    input->base = body + len + END_LEN;
    input->len = (uint32_t)(end - input->base);
    return true;
}

/* Keep a control line without a reply subject, which cut_whole() has understood. */
static inline void keep_head(struct midge_raw_socket *socket, const uint8_t *head, uint32_t len,
                             const struct midge_server_op *op)
{
    if (len > MIDGE_RAW_HEAD_CAP)
        return;
    memcpy(socket->head, head, len);
    socket->head_len = len;
    socket->head_subject_len = op->subject.len;
    socket->head_sid = (uint32_t)op->sid;
    socket->head_body_len = op->total_len;
}

/* The same control line as before, and whole: some 15 ns less than to read it. */
static inline bool cut_same(const struct midge_raw_socket *socket, struct midge_slice *input,
                            struct midge_server_op *op_out)
{
    const uint8_t *const head = input->base;
    const uint32_t len = socket->head_len;

    if (len == 0 || input->len < len || !midge_raw_is_same(socket->head, head, len) ||
        !end_whole(input, head + len, socket->head_body_len, op_out))
        return false;
    op_out->sid = socket->head_sid;
    op_out->subject = midge_slice_make(head + VERB_LEN, socket->head_subject_len);
    return true;
}

/*
 * MSG and PUB as servers and we write them, with one blank between words, and whole in the input:
 * nearly all that a load receives. What is anything else is left to the parser, untouched.
 *
 * The parser needs some 40 ns for a message of 16 bytes, as much as all that the kernel does to
 * receive it in a large read; this needs half of that.
 */
__attribute__((noinline)) static bool cut_whole(struct midge_raw_socket *socket,
                                                struct midge_slice *input,
                                                struct midge_server_op *op_out)
{
    const uint8_t *const head = input->base;
    const uint8_t *const end = head + input->len;
    const uint8_t *words[4];
    const uint8_t *ends[4];
    const uint32_t fewest = socket->is_relay ? 2 : 3; /* subject, sid, size */
    const uint8_t *at = head + VERB_LEN;
    uint32_t count = 0;
    uint32_t sid = 0;
    uint32_t len = 0;

    if (input->len < 8 || memcmp(head, socket->is_relay ? "PUB " : "MSG ", VERB_LEN) != 0)
        return false;
    do {
        words[count] = at;
        ends[count] = find_end(at, end);
        if (ends[count] == NULL || ends[count] == at)
            return false;
        at = ends[count++] + 1;
    } while (at[-1] == ' ' && count < fewest + 1);
    if (count < fewest || end - at < 1 || at[-1] != '\r' || at[0] != '\n' ||
        !read_number(words[count - 1], ends[count - 1], &len) ||
        (!socket->is_relay && !read_number(words[1], ends[1], &sid)) ||
        !end_whole(input, ++at, len, op_out))
        return false;
    op_out->sid = sid;
    op_out->subject = midge_slice_make(words[0], (uint32_t)(ends[0] - words[0]));
    if (count > fewest)
        op_out->reply =
            midge_slice_make(words[count - 2], (uint32_t)(ends[count - 2] - words[count - 2]));
    else
        keep_head(socket, head, (uint32_t)(at - head), op_out);
    return true;
}

static bool is_at_start(const struct midge_raw_socket *socket)
{
    return socket->is_relay ? midge_parser_at_start(&socket->relay_parser)
                            : midge_server_parser_at_start(&socket->parser);
}

/* Apart, for what it saves on the stack is not needed to cut what is whole. */
__attribute__((noinline)) static enum midge_status parse_next(struct midge_raw_socket *socket,
                                                              struct midge_slice *input,
                                                              struct midge_server_op *op_out)
{
    for (;;) {
        const uint32_t before = input->len;
        enum midge_status status = socket->is_relay
                                       ? next_of_relay(socket, input, op_out)
                                       : midge_server_parser_next(&socket->parser, input, op_out);

        if (MIDGE_UNLIKELY(status == MIDGE_FULL)) {
            status = lend_line(socket);
            if (status != MIDGE_OK)
                return status;
            continue;
        }
        if (status != MIDGE_OK)
            return status;
        if (MIDGE_UNLIKELY(op_out->kind == MIDGE_SERVER_OP_PIECE)) {
            add_piece(socket, op_out->body, before - input->len);
            if (!op_out->last)
                continue;
            end_body(socket, op_out);
            return MIDGE_OK;
        }
        if (MIDGE_LIKELY(op_out->kind != MIDGE_SERVER_OP_MSG || op_out->whole))
            return MIDGE_OK;
        status = begin_body(socket, op_out);
        if (status != MIDGE_OK)
            return status;
    }
}

enum midge_status midge_raw_socket_next(struct midge_raw_socket *socket, struct midge_slice *input,
                                        struct midge_server_op *op_out)
{
    if (MIDGE_LIKELY(is_at_start(socket)) &&
        (MIDGE_LIKELY(cut_same(socket, input, op_out)) || cut_whole(socket, input, op_out)))
        return MIDGE_OK;
    return parse_next(socket, input, op_out);
}
