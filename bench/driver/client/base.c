/* Blocking requests over a raw socket; see base.h. */
#include "base.h"

#include <errno.h>
#include <string.h>

#include "load.h"

enum midge_status midge_base_open(struct midge_base *base, const struct midge_endpoint *endpoint,
                                  uint32_t timeout_ms)
{
    *base = (struct midge_base){.wire = {.fd = -1}};
    return midge_wire_open(&base->wire, endpoint, false, 0, timeout_ms);
}

void midge_base_close(struct midge_base *base)
{
    midge_wire_close(&base->wire);
    midge_request_deinit(&base->request);
}

enum midge_status midge_base_prepare(struct midge_base *base, uint32_t size)
{
    /* An inbox for each connection of this process. */
    const uint32_t inbox_index = (uint32_t)base->wire.fd % MIDGE_REQUEST_INBOXES_MAX;
    const enum midge_status status = midge_request_init(&base->request, inbox_index, size);

    if (status != MIDGE_OK)
        return midge_load_complain(status, "socket", "no memory");
    return midge_request_subscribe(&base->wire, inbox_index);
}

enum midge_status midge_base_request(struct midge_base *base, struct midge_slice payload,
                                     struct midge_slice *reply_out)
{
    struct midge_request *request = &base->request;
    struct midge_wire_frame frame;
    enum midge_status status;

    MIDGE_ASSERT(request->payload_len == payload.len);
    midge_request_set_number(request, base->number++, false);
    memcpy(request->payload, payload.base, payload.len);
    if (midge_wire_send(&base->wire, request->frame, request->frame_len) != MIDGE_OK)
        return midge_load_complain(MIDGE_E_WRITE, "socket", strerror(errno));
    status = midge_wire_read(&base->wire, &frame);
    if (status == MIDGE_AGAIN || status == MIDGE_E_EOF)
        return midge_load_complain(status, "socket", "no reply, or closed by the server");
    if (status != MIDGE_OK)
        return status;
    if (!midge_slice_equal(frame.subject, midge_slice_make(request->reply, request->reply_len)))
        return midge_load_complain(MIDGE_E_PARSE, "socket", "the reply is for another request");
    *reply_out = frame.payload;
    return MIDGE_OK;
}
