/* Writes the frames that broker and client send. See midge/encode.h. */
#include "midge/encode.h"

/* NATS/1.0 503 CRLF Nats-Subject: <subject> CRLF CRLF. Source: server/client.go:4598. */
#define NO_RESPONDERS_HEAD "NATS/1.0 503\r\nNats-Subject: "
#define NO_RESPONDERS_TAIL "\r\n\r\n"

/* Most words of a frame are short: a call of memcpy costs more than to copy them. Halves overlap.
 */
static inline uint8_t *put_bytes(uint8_t *out, const uint8_t *bytes, uint32_t len)
{
    if (MIDGE_UNLIKELY(len > 16)) {
        memcpy(out, bytes, len);
    } else if (len >= 8) {
        uint64_t first, last;

        memcpy(&first, bytes, 8);
        memcpy(&last, bytes + len - 8, 8);
        memcpy(out, &first, 8);
        memcpy(out + len - 8, &last, 8);
    } else if (len >= 4) {
        uint32_t first, last;

        memcpy(&first, bytes, 4);
        memcpy(&last, bytes + len - 4, 4);
        memcpy(out, &first, 4);
        memcpy(out + len - 4, &last, 4);
    } else {
        for (uint32_t i = 0; i < len; i++)
            out[i] = bytes[i];
    }
    return out + len;
}

static inline uint8_t *put_slice(uint8_t *out, struct midge_slice slice)
{
    return put_bytes(out, slice.base, slice.len);
}

/* A word and the blank behind it. */
static inline uint8_t *put_word(uint8_t *out, struct midge_slice word)
{
    out = put_slice(out, word);
    *out = ' ';
    return out + 1;
}

static inline uint8_t *put_crlf(uint8_t *out)
{
    out[0] = '\r';
    out[1] = '\n';
    return out + 2;
}

static uint32_t decimal_len(uint32_t number)
{
    uint32_t len = 1;

    for (; number >= 10; number /= 10)
        len++;
    return len;
}

uint32_t midge_encode_frame_len(const struct midge_frame *frame)
{
    uint32_t len = (uint32_t)sizeof("MSG ") - 1 + frame->subject.len + 1 + frame->sid.len + 1 +
                   frame->size_text.len + 2;

    if (frame->reply.len > 0)
        len += frame->reply.len + 1;
    if (frame->header_text.len > 0)
        len += frame->header_text.len + 2; /* the H and a blank */
    return len;
}

uint8_t *midge_encode_frame(uint8_t *out, const struct midge_frame *frame)
{
    MIDGE_ASSERT(frame->subject.len > 0);
    MIDGE_ASSERT(frame->sid.len > 0);
    MIDGE_ASSERT(frame->size_text.len > 0);

    if (frame->header_text.len > 0)
        *out++ = 'H';
    memcpy(out, "MSG ", 4);
    out += 4;
    out = put_word(out, frame->subject);
    out = put_word(out, frame->sid);
    if (frame->reply.len > 0)
        out = put_word(out, frame->reply);
    if (frame->header_text.len > 0)
        out = put_word(out, frame->header_text);
    out = put_slice(out, frame->size_text);
    return put_crlf(out);
}

uint32_t midge_encode_decimal(uint8_t out[MIDGE_DECIMAL_LEN_MAX], uint32_t number)
{
    const uint32_t len = decimal_len(number);

    for (uint32_t i = len; i > 0; i--) {
        out[i - 1] = (uint8_t)('0' + number % 10);
        number /= 10;
    }
    return len;
}

static uint32_t no_responders_header_len(struct midge_slice subject)
{
    return (uint32_t)(sizeof(NO_RESPONDERS_HEAD) - 1 + sizeof(NO_RESPONDERS_TAIL) - 1) +
           subject.len;
}

uint32_t midge_encode_no_responders_len(struct midge_slice reply, struct midge_slice sid,
                                        struct midge_slice subject)
{
    const uint32_t header_len = no_responders_header_len(subject);

    return (uint32_t)sizeof("HMSG ") - 1 + reply.len + 1 + sid.len + 1 +
           2 * decimal_len(header_len) + 1 + 2 + header_len + 2;
}

uint8_t *midge_encode_no_responders(uint8_t *out, struct midge_slice reply, struct midge_slice sid,
                                    struct midge_slice subject)
{
    uint8_t digits[MIDGE_DECIMAL_LEN_MAX];
    const struct midge_slice size_text =
        midge_slice_make(digits, midge_encode_decimal(digits, no_responders_header_len(subject)));

    /* All of the message is headers: both sizes are the same. */
    out = midge_encode_frame(out, &(struct midge_frame){
                                      .subject = reply,
                                      .sid = sid,
                                      .header_text = size_text,
                                      .size_text = size_text,
                                  });
    out = put_slice(out, MIDGE_SLICE_LITERAL(NO_RESPONDERS_HEAD));
    out = put_slice(out, subject);
    out = put_slice(out, MIDGE_SLICE_LITERAL(NO_RESPONDERS_TAIL));
    return put_crlf(out);
}

/* --- a client's --- */

static uint32_t decimal64_len(uint64_t number)
{
    uint32_t len = 1;

    for (; number >= 10; number /= 10)
        len++;
    return len;
}

uint32_t midge_encode_decimal64(uint8_t out[MIDGE_DECIMAL64_LEN_MAX], uint64_t number)
{
    const uint32_t len = decimal64_len(number);

    for (uint32_t i = len; i > 0; i--) {
        out[i - 1] = (uint8_t)('0' + number % 10);
        number /= 10;
    }
    return len;
}

uint32_t midge_encode_pub_len(struct midge_slice subject, struct midge_slice reply,
                              uint32_t header_len, uint32_t total_len)
{
    uint32_t len = (uint32_t)sizeof("PUB ") - 1 + subject.len + 1 + decimal_len(total_len) + 2;

    if (reply.len > 0)
        len += reply.len + 1;
    if (header_len > 0)
        len += decimal_len(header_len) + 2; /* the H and a blank */
    return len;
}

uint8_t *midge_encode_pub(uint8_t *out, struct midge_slice subject, struct midge_slice reply,
                          uint32_t header_len, uint32_t total_len)
{
    if (header_len > 0)
        *out++ = 'H';
    memcpy(out, "PUB ", 4);
    out += 4;
    out = put_word(out, subject);
    if (reply.len > 0)
        out = put_word(out, reply);
    if (header_len > 0) {
        out += midge_encode_decimal(out, header_len);
        *out++ = ' ';
    }
    out += midge_encode_decimal(out, total_len);
    return put_crlf(out);
}

uint32_t midge_encode_sub_len(struct midge_slice subject, struct midge_slice queue, uint64_t sid)
{
    const uint32_t len = (uint32_t)sizeof("SUB ") - 1 + subject.len + 1 + decimal64_len(sid) + 2;

    return queue.len > 0 ? len + queue.len + 1 : len;
}

uint8_t *midge_encode_sub(uint8_t *out, struct midge_slice subject, struct midge_slice queue,
                          uint64_t sid)
{
    memcpy(out, "SUB ", 4);
    out += 4;
    out = put_word(out, subject);
    if (queue.len > 0)
        out = put_word(out, queue);
    out += midge_encode_decimal64(out, sid);
    return put_crlf(out);
}

uint32_t midge_encode_unsub_len(uint64_t sid, uint64_t max)
{
    const uint32_t len = (uint32_t)sizeof("UNSUB ") - 1 + decimal64_len(sid) + 2;

    return max > 0 ? len + decimal64_len(max) + 1 : len;
}

uint8_t *midge_encode_unsub(uint8_t *out, uint64_t sid, uint64_t max)
{
    memcpy(out, "UNSUB ", 6);
    out += 6;
    out += midge_encode_decimal64(out, sid);
    if (max > 0) {
        *out++ = ' ';
        out += midge_encode_decimal64(out, max);
    }
    return put_crlf(out);
}
