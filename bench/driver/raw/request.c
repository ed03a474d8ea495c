/* One request and the process that answers; see request.h. */
#include "request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INBOX_FORMAT  "_INBOX.raw%016u%03u."
#define TOKEN_LEN     8u
#define HEAD          "PUB svc "
#define HEAD_LEN_MAX  256u /* bytes of a PUB line; the responder's subjects are ours */
#define REPLY_LEN_MAX 128u /* bytes of a reply subject that the responder takes */

/* Bytes of answers that go out in one send, before the last of them is added. */
#define ANSWERS_LEN 65536u

enum midge_status midge_request_complain(enum midge_status status, const char *what,
                                         uint64_t number)
{
    (void)fprintf(stderr, "midge-raw: request %llu: %s\n", (unsigned long long)number, what);
    return status;
}

static void inbox_text(char text[MIDGE_REQUEST_INBOX_LEN + 2], uint32_t inbox_index)
{
    const int len = snprintf(text, MIDGE_REQUEST_INBOX_LEN + 1, INBOX_FORMAT, (unsigned)getpid(),
                             (unsigned)inbox_index);

    MIDGE_ASSERT(len == (int)MIDGE_REQUEST_INBOX_LEN);
}

enum midge_status midge_request_init(struct midge_request *request, uint32_t inbox_index,
                                     uint32_t size)
{
    char inbox[MIDGE_REQUEST_INBOX_LEN + 2];

    MIDGE_ASSERT(inbox_index < MIDGE_REQUEST_INBOXES_MAX);
    MIDGE_ASSERT(size >= MIDGE_WIRE_NUMBER_LEN);
    uint8_t *frame = (uint8_t *)malloc(HEAD_LEN_MAX + (size_t)size + 2);

    if (frame == NULL)
        return MIDGE_E_MEMORY;
    inbox_text(inbox, inbox_index);
    const int len = snprintf((char *)frame, HEAD_LEN_MAX, HEAD "%s00000000 %u\r\n", inbox, size);

    MIDGE_ASSERT(len > 0 && len < (int)HEAD_LEN_MAX);
    *request = (struct midge_request){
        .frame = frame,
        .frame_len = (uint32_t)len + size + 2,
        .reply = frame + strlen(HEAD),
        .reply_len = MIDGE_REQUEST_INBOX_LEN + TOKEN_LEN,
        .payload = frame + len,
        .payload_len = size,
    };
    midge_wire_put_filler(request->payload, size);
    midge_wire_put_line_end(request->payload + size);
    midge_request_set_number(request, 0, false);
    return MIDGE_OK;
}

void midge_request_deinit(struct midge_request *request)
{
    free(request->frame);
    *request = (struct midge_request){.frame = NULL};
}

void midge_request_set_number(struct midge_request *request, uint64_t number, bool is_inbox_fixed)
{
    midge_wire_put_number(request->payload, MIDGE_WIRE_NUMBER_LEN, number);
    if (!is_inbox_fixed)
        midge_wire_put_number(request->reply + MIDGE_REQUEST_INBOX_LEN, TOKEN_LEN, number);
}

enum midge_status midge_request_check(const struct midge_request *request,
                                      const struct midge_wire_frame *frame, uint64_t number)
{
    const struct midge_slice reply = midge_slice_make(request->reply, request->reply_len);
    const struct midge_slice payload = midge_slice_make(request->payload, request->payload_len);
    uint64_t found = 0;

    if (frame->kind == MIDGE_WIRE_MSG && midge_slice_equal(frame->payload, payload) &&
        midge_slice_equal(frame->subject, reply))
        return MIDGE_OK;
    if (frame->kind == MIDGE_WIRE_MSG && midge_wire_get_number(frame->payload, &found) &&
        found < number)
        return midge_request_complain(MIDGE_E_PARSE, "an earlier reply came twice", number);
    return midge_request_complain(MIDGE_E_PARSE, "wrong reply", number);
}

enum midge_status midge_request_subscribe(struct midge_wire *wire, uint32_t inbox_index)
{
    char inbox[MIDGE_REQUEST_INBOX_LEN + 2];

    inbox_text(inbox, inbox_index);
    inbox[MIDGE_REQUEST_INBOX_LEN] = '*';
    inbox[MIDGE_REQUEST_INBOX_LEN + 1] = '\0';
    return midge_wire_subscribe(wire, inbox);
}

/* Append the answer to one request. @return bytes of `answers` used afterwards, 0 if it is none */
static uint32_t answer(const struct midge_wire_frame *frame, uint8_t *answers, uint32_t len)
{
    if (frame->kind != MIDGE_WIRE_MSG || frame->reply.len == 0 || frame->reply.len > REPLY_LEN_MAX)
        return 0;
    const int head_len =
        snprintf((char *)answers + len, HEAD_LEN_MAX, "PUB %.*s %u\r\n", (int)frame->reply.len,
                 (const char *)frame->reply.base, frame->payload.len);

    len += (uint32_t)head_len;
    memcpy(answers + len, frame->payload.base, frame->payload.len);
    midge_wire_put_line_end(answers + len + frame->payload.len);
    return len + frame->payload.len + 2;
}

/* Answer one request, and those that came with it. */
static enum midge_status respond_once(struct midge_wire *wire, uint8_t *answers)
{
    struct midge_wire_frame frame;
    uint32_t len = 0;
    enum midge_status status = midge_wire_read(wire, &frame);

    while (status == MIDGE_OK) {
        len = answer(&frame, answers, len);
        if (len == 0)
            return MIDGE_E_PARSE;
        status = len < ANSWERS_LEN ? midge_wire_next(wire, &frame) : MIDGE_AGAIN;
    }
    if (status != MIDGE_AGAIN || len == 0)
        return status;
    return midge_wire_send(wire, answers, len);
}

enum midge_status midge_request_respond(struct midge_wire *wire)
{
    uint8_t *answers =
        (uint8_t *)malloc(ANSWERS_LEN + HEAD_LEN_MAX + (size_t)MIDGE_WIRE_PAYLOAD_MAX + 2);
    enum midge_status status = answers == NULL ? MIDGE_E_MEMORY : MIDGE_OK;

    while (status == MIDGE_OK || status == MIDGE_AGAIN)
        status = respond_once(wire, answers);
    free(answers);
    return status;
}
