/* A blocking connection that speaks just enough NATS; see wire.h. */
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "midge/limits.h"

/* MSG <subject> <sid> [reply] <size> has the most. */
#define TOKENS_MAX 5u

/* What payloads are filled with. */
#define FILLER 'x'

static const char connect_line[] =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,"
    "\"protocol\":1,\"lang\":\"raw\",\"version\":\"" MIDGE_VERSION "\"}\r\n";

static enum midge_status fail(enum midge_status status, const char *what, struct midge_slice detail)
{
    (void)fprintf(stderr, "midge-raw: %s: %.*s\n", what, (int)detail.len,
                  (const char *)detail.base);
    return status;
}

static enum midge_status fail_system(enum midge_status status, const char *what)
{
    return fail(status, what, midge_slice_text(strerror(errno)));
}

enum midge_status midge_wire_send(struct midge_wire *wire, const void *bytes, uint32_t len)
{
    const uint8_t *rest = (const uint8_t *)bytes;

    while (len > 0) {
        const ssize_t sent = send(wire->fd, rest, len, MSG_NOSIGNAL);

        if (sent >= 0) {
            rest += sent;
            len -= (uint32_t)sent;
        } else if (errno != EINTR) {
            return MIDGE_E_WRITE;
        }
    }
    return MIDGE_OK;
}

/* Make room at the end of the buffer, moving a partial frame to its front if it must. */
static enum midge_status make_room(struct midge_wire *wire)
{
    if (wire->begin_off == wire->end_off) {
        wire->begin_off = 0;
        wire->end_off = 0;
    }
    if (wire->end_off < wire->cap)
        return MIDGE_OK;
    if (wire->begin_off == 0)
        return fail(MIDGE_E_PARSE, "frame is too long for the read buffer",
                    midge_slice_make(wire->bytes, 32));
    memmove(wire->bytes, wire->bytes + wire->begin_off, wire->end_off - wire->begin_off);
    wire->end_off -= wire->begin_off;
    wire->begin_off = 0;
    return MIDGE_OK;
}

enum midge_status midge_wire_receive(struct midge_wire *wire)
{
    enum midge_status status = make_room(wire);

    if (status != MIDGE_OK)
        return status;
    for (;;) {
        const ssize_t len =
            recv(wire->fd, wire->bytes + wire->end_off, wire->cap - wire->end_off, 0);

        if (len > 0) {
            wire->end_off += (uint32_t)len;
            wire->recv_count++;
            return MIDGE_OK;
        }
        if (len == 0 || errno == ECONNRESET)
            return MIDGE_E_EOF;
        if (errno == EAGAIN)
            return MIDGE_AGAIN;
        if (errno != EINTR)
            return fail_system(MIDGE_E_READ, "recv");
    }
}

/* The line at begin_off without its line end; MIDGE_AGAIN if it is not complete. */
static enum midge_status peek_line(const struct midge_wire *wire, struct midge_slice *line_out,
                                   uint32_t *line_end_off_out)
{
    const uint8_t *base = wire->bytes + wire->begin_off;
    const uint8_t *end = (const uint8_t *)memchr(base, '\n', wire->end_off - wire->begin_off);

    if (end == NULL)
        return MIDGE_AGAIN;
    *line_end_off_out = (uint32_t)(end + 1 - wire->bytes);
    while (end > base && end[-1] == '\r')
        end--;
    *line_out = midge_slice_make(base, (uint32_t)(end - base));
    return MIDGE_OK;
}

static uint32_t split(struct midge_slice line, struct midge_slice tokens[TOKENS_MAX])
{
    uint32_t count = 0;
    uint32_t off = 0;

    while (off < line.len && count < TOKENS_MAX) {
        uint32_t end_off = off;

        while (end_off < line.len && line.base[end_off] != ' ')
            end_off++;
        if (end_off > off)
            tokens[count++] = midge_slice_make(line.base + off, end_off - off);
        off = end_off + 1;
    }
    return off < line.len ? TOKENS_MAX + 1 : count;
}

static bool parse_size(struct midge_slice text, uint32_t *size_out)
{
    uint32_t size = 0;

    if (text.len == 0 || text.len > MIDGE_SIZE_DIGITS_MAX)
        return false;
    for (uint32_t i = 0; i < text.len; i++) {
        if (text.base[i] < '0' || text.base[i] > '9')
            return false;
        size = size * 10 + (uint32_t)(text.base[i] - '0');
    }
    *size_out = size;
    return size <= MIDGE_WIRE_PAYLOAD_MAX;
}

/* MSG <subject> <sid> [reply] <size>, or PUB <subject> [reply] <size> where a relay forwards it. */
static enum midge_status parse_msg(struct midge_slice line, struct midge_wire_frame *frame_out,
                                   uint32_t *payload_len_out)
{
    struct midge_slice tokens[TOKENS_MAX];
    const uint32_t fixed = line.base[0] == 'M' ? 4 : 3; /* tokens without a reply */
    const uint32_t count = split(line, tokens);

    if (count != fixed && count != fixed + 1)
        return MIDGE_E_PARSE;
    frame_out->kind = MIDGE_WIRE_MSG;
    frame_out->subject = tokens[1];
    frame_out->sid = line.base[0] == 'M' ? tokens[2] : midge_slice_make(line.base, 0);
    frame_out->reply = count == fixed ? midge_slice_make(line.base, 0) : tokens[count - 2];
    return parse_size(tokens[count - 1], payload_len_out) ? MIDGE_OK : MIDGE_E_PARSE;
}

/* Cut a message whose line ends before `payload_off`; MIDGE_AGAIN if its payload is not complete.
 */
static enum midge_status cut_msg(struct midge_wire *wire, struct midge_slice line,
                                 uint32_t payload_off, struct midge_wire_frame *frame_out)
{
    uint32_t payload_len = 0;

    if (parse_msg(line, frame_out, &payload_len) != MIDGE_OK)
        return fail(MIDGE_E_PARSE, "malformed message line", line);
    if (wire->end_off - payload_off < payload_len + 2)
        return MIDGE_AGAIN;
    const uint8_t *payload = wire->bytes + payload_off;

    if (payload[payload_len] != '\r' || payload[payload_len + 1] != '\n')
        return fail(MIDGE_E_PARSE, "payload does not end where its size says", line);
    frame_out->payload = midge_slice_make(payload, payload_len);
    wire->begin_off = payload_off + payload_len + 2;
    return MIDGE_OK;
}

/* Lines without payload. MIDGE_FULL: nothing for the caller, look at the next line. */
static enum midge_status cut_line(struct midge_wire *wire, struct midge_slice line,
                                  uint32_t line_end_off, struct midge_wire_frame *frame_out)
{
    wire->begin_off = line_end_off;
    if (midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("PONG"))) {
        *frame_out = (struct midge_wire_frame){.kind = MIDGE_WIRE_PONG};
        return MIDGE_OK;
    }
    if (midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("PING"))) {
        const enum midge_status status = midge_wire_send(wire, "PONG\r\n", 6);

        return status == MIDGE_OK ? MIDGE_FULL : status;
    }
    if (midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("INFO ")) ||
        midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("+OK")))
        return MIDGE_FULL;
    if (midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("-ERR")))
        return fail(MIDGE_E_PEER_ERR, "server says", line);
    return fail(MIDGE_E_PARSE, "unexpected line", line);
}

static bool is_msg(struct midge_slice line)
{
    return midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("MSG ")) ||
           midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("PUB "));
}

enum midge_status midge_wire_next(struct midge_wire *wire, struct midge_wire_frame *frame_out)
{
    for (;;) {
        struct midge_slice line = {.base = NULL};
        uint32_t line_end_off = 0;
        enum midge_status status = peek_line(wire, &line, &line_end_off);

        if (status == MIDGE_OK)
            status = is_msg(line) ? cut_msg(wire, line, line_end_off, frame_out)
                                  : cut_line(wire, line, line_end_off, frame_out);
        if (status != MIDGE_FULL)
            return status;
    }
}

enum midge_status midge_wire_read(struct midge_wire *wire, struct midge_wire_frame *frame_out)
{
    for (;;) {
        enum midge_status status = midge_wire_next(wire, frame_out);

        if (status != MIDGE_AGAIN)
            return status;
        status = midge_wire_receive(wire);
        if (status != MIDGE_OK)
            return status;
    }
}

enum midge_status midge_wire_fence(struct midge_wire *wire)
{
    struct midge_wire_frame frame;
    enum midge_status status = midge_wire_send(wire, "PING\r\n", 6);

    if (status != MIDGE_OK)
        return fail_system(status, "send");
    status = midge_wire_read(wire, &frame);
    if (status == MIDGE_OK && frame.kind != MIDGE_WIRE_PONG)
        return fail(MIDGE_E_PARSE, "message instead of PONG", frame.subject);
    return status;
}

enum midge_status midge_wire_subscribe(struct midge_wire *wire, const char *subject)
{
    char line[256];
    const int len = snprintf(line, sizeof line, "SUB %s 1\r\n", subject);

    MIDGE_ASSERT(len > 0 && (size_t)len < sizeof line);
    const enum midge_status status = midge_wire_send(wire, line, (uint32_t)len);

    return status == MIDGE_OK ? midge_wire_fence(wire) : fail_system(status, "send");
}

static enum midge_status set_timeout(int fd, uint32_t timeout_ms)
{
    const struct timeval timeout = {.tv_sec = timeout_ms / 1000,
                                    .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};

    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0)
        return MIDGE_E_SYSTEM;
    return MIDGE_OK;
}

/* INFO comes first and unasked; it is read before CONNECT goes out, as clients do. */
static enum midge_status shake_hands(struct midge_wire *wire)
{
    struct midge_slice line = {.base = NULL};
    uint32_t line_end_off = 0;

    while (peek_line(wire, &line, &line_end_off) == MIDGE_AGAIN) {
        const enum midge_status status = midge_wire_receive(wire);

        if (status != MIDGE_OK)
            return fail(status, "no INFO from the server", midge_slice_text(""));
    }
    if (!midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("INFO ")))
        return fail(MIDGE_E_PARSE, "first line is not INFO", line);
    wire->begin_off = line_end_off;
    if (midge_wire_send(wire, connect_line, sizeof connect_line - 1) != MIDGE_OK)
        return fail_system(MIDGE_E_WRITE, "send");
    return midge_wire_fence(wire);
}

enum midge_status midge_wire_open(struct midge_wire *wire, const struct midge_endpoint *endpoint,
                                  bool is_relay, uint32_t receive_buffer_len, uint32_t timeout_ms)
{
    *wire = (struct midge_wire){.fd = -1};
    wire->cap = MIDGE_WIRE_LINE_MAX + MIDGE_WIRE_PAYLOAD_MAX;
    wire->bytes = (uint8_t *)malloc(wire->cap);
    if (wire->bytes == NULL)
        return fail_system(MIDGE_E_MEMORY, "read buffer");
    if (midge_endpoint_connect(endpoint, MIDGE_WIRE_PATIENCE_MS, receive_buffer_len, &wire->fd) !=
            MIDGE_OK ||
        set_timeout(wire->fd, timeout_ms) != MIDGE_OK)
        return fail_system(MIDGE_E_SYSTEM, "connect");
    return is_relay ? MIDGE_OK : shake_hands(wire);
}

void midge_wire_close(struct midge_wire *wire)
{
    if (wire->fd >= 0)
        (void)close(wire->fd);
    free(wire->bytes);
    *wire = (struct midge_wire){.fd = -1};
}

bool midge_wire_has_more(struct midge_wire *wire, int wait_ms)
{
    struct pollfd poll_fd = {.fd = wire->fd, .events = POLLIN};
    bool more = wire->begin_off != wire->end_off;

    wire->begin_off = 0;
    wire->end_off = 0;
    if (!more && poll(&poll_fd, 1, wait_ms) > 0)
        more = recv(wire->fd, wire->bytes, wire->cap, MSG_DONTWAIT) > 0;
    return more;
}

void midge_wire_put_line_end(uint8_t *bytes)
{
    bytes[0] = '\r';
    bytes[1] = '\n';
}

void midge_wire_put_filler(uint8_t *bytes, uint32_t len)
{
    memset(bytes, FILLER, len);
}

/* The first byte is right and each is as the one before: one comparison of the rest with itself. */
bool midge_wire_has_filler(struct midge_slice payload)
{
    const uint8_t *rest = payload.base + MIDGE_WIRE_NUMBER_LEN;

    MIDGE_ASSERT(payload.len >= MIDGE_WIRE_NUMBER_LEN);
    const uint32_t len = payload.len - MIDGE_WIRE_NUMBER_LEN;

    return len == 0 || (rest[0] == FILLER && memcmp(rest, rest + 1, len - 1) == 0);
}

void midge_wire_put_number(uint8_t *bytes, uint32_t digits, uint64_t value)
{
    static const char hexadecimal[] = "0123456789abcdef";

    MIDGE_ASSERT(digits <= MIDGE_WIRE_NUMBER_LEN);
    for (uint32_t i = digits; i > 0; i--) {
        bytes[i - 1] = (uint8_t)hexadecimal[value & 15];
        value >>= 4;
    }
}

bool midge_wire_get_number(struct midge_slice payload, uint64_t *value_out)
{
    uint64_t value = 0;

    if (payload.len < MIDGE_WIRE_NUMBER_LEN)
        return false;
    for (uint32_t i = 0; i < MIDGE_WIRE_NUMBER_LEN; i++) {
        const uint8_t digit = payload.base[i];

        if (digit >= '0' && digit <= '9')
            value = value << 4 | (uint64_t)(digit - '0');
        else if (digit >= 'a' && digit <= 'f')
            value = value << 4 | (uint64_t)(digit - 'a' + 10);
        else
            return false;
    }
    *value_out = value;
    return true;
}
