/*
 * Raw blocking sockets in the place of a client library: what the kernel and the server cost alone.
 *
 * Asynchronous requests gather until the load waits, and what one read brought is answered in one
 * send: no library can do with fewer calls. There is no second connection in one thread to answer
 * with, as each waits for itself only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"
#include "load.h"

struct midge_library {
    const struct midge_library_options *options; /* borrow */
    struct midge_base base;
    uint8_t *batch; /* own; in_flight frames */
    uint32_t batch_len;
    struct midge_progress *progress;
    void *context;
    midge_library_reply_cb reply_cb; /* NULL: count messages */
};

const char *midge_library_name(void)
{
    return "blocking sockets";
}

enum midge_status midge_library_open(const struct midge_library_options *options,
                                     struct midge_library **library_out)
{
    struct midge_library *library = calloc(1, sizeof *library);
    struct midge_endpoint endpoint;

    if (library == NULL)
        return midge_load_complain(MIDGE_E_MEMORY, "open", "no memory");
    *library_out = library;
    library->options = options;
    library->base.wire.fd = -1;
    if (midge_endpoint_parse(options->url, &endpoint) != MIDGE_OK)
        return midge_load_complain(MIDGE_E_CONFIG, "open", "not a URL");
    return midge_base_open(&library->base, &endpoint, options->timeout_ms);
}

void midge_library_close(struct midge_library *library)
{
    if (library == NULL)
        return;
    midge_base_close(&library->base);
    free(library->batch);
    free(library);
}

enum midge_status midge_library_request(struct midge_library *library, struct midge_slice payload,
                                        struct midge_slice *reply_out)
{
    const enum midge_status status = library->base.request.frame == NULL
                                         ? midge_base_prepare(&library->base, payload.len)
                                         : MIDGE_OK;

    return status == MIDGE_OK ? midge_base_request(&library->base, payload, reply_out) : status;
}

enum midge_status midge_library_respond(struct midge_library *library)
{
    (void)library;
    return midge_load_complain(MIDGE_E_CONFIG, "--responder own", "not with blocking sockets");
}

enum midge_status midge_library_prepare(struct midge_library *library,
                                        struct midge_progress *progress, void *context,
                                        midge_library_reply_cb reply_cb)
{
    library->progress = progress;
    library->context = context;
    library->reply_cb = reply_cb;
    return MIDGE_OK;
}

static enum midge_status send_batch(struct midge_library *library)
{
    const uint32_t len = library->batch_len;

    library->batch_len = 0;
    if (len > 0 && midge_wire_send(&library->base.wire, library->batch, len) != MIDGE_OK)
        return midge_load_complain(MIDGE_E_WRITE, "request", strerror(errno));
    return MIDGE_OK;
}

enum midge_status midge_library_begin_request(struct midge_library *library, uint64_t number,
                                              struct midge_slice payload)
{
    struct midge_request *request = &library->base.request;

    if (request->frame == NULL) {
        const enum midge_status status = midge_base_prepare(&library->base, payload.len);

        if (status != MIDGE_OK)
            return status;
        library->batch =
            (uint8_t *)malloc((size_t)library->options->in_flight * request->frame_len);
        if (library->batch == NULL)
            return midge_load_complain(MIDGE_E_MEMORY, "request", "no memory");
    }
    midge_request_set_number(request, number, false);
    memcpy(request->payload, payload.base, payload.len);
    memcpy(library->batch + library->batch_len, request->frame, request->frame_len);
    library->batch_len += request->frame_len;
    return MIDGE_OK;
}

enum midge_status midge_library_count(struct midge_library *library,
                                      struct midge_progress *progress)
{
    library->progress = progress;
    return midge_wire_subscribe(&library->base.wire, MIDGE_LIBRARY_MESSAGES);
}

/* The number in the last token of a reply subject, 8 hexadecimal digits. */
static uint64_t number_of(struct midge_slice subject)
{
    uint8_t digits[MIDGE_WIRE_NUMBER_LEN];
    uint64_t number = UINT64_MAX;
    const uint32_t token_len = 8;

    if (subject.len < token_len)
        return number;
    memset(digits, '0', sizeof digits);
    memcpy(digits + sizeof digits - token_len, subject.base + subject.len - token_len, token_len);
    return midge_wire_get_number(midge_slice_make(digits, sizeof digits), &number) ? number
                                                                                   : UINT64_MAX;
}

static void take(struct midge_library *library, const struct midge_wire_frame *frame)
{
    struct midge_progress *progress = library->progress;

    if (library->reply_cb != NULL) {
        library->reply_cb(library->context, number_of(frame->subject), frame->payload);
        return;
    }
    atomic_store_explicit(&progress->count,
                          atomic_load_explicit(&progress->count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

/* Everything that has been read. */
static enum midge_status take_all(struct midge_library *library)
{
    struct midge_wire_frame frame;
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK) {
        status = midge_wire_next(&library->base.wire, &frame);
        if (status == MIDGE_OK && frame.kind == MIDGE_WIRE_MSG)
            take(library, &frame);
    }
    return status == MIDGE_AGAIN ? MIDGE_OK : status;
}

enum midge_status midge_library_wait(struct midge_library *library)
{
    struct midge_progress *progress = library->progress;
    const uint64_t target = atomic_load_explicit(&progress->target, memory_order_relaxed);
    enum midge_status status = MIDGE_OK;

    while (status == MIDGE_OK &&
           atomic_load_explicit(&progress->count, memory_order_relaxed) < target) {
        status = send_batch(library);
        if (status == MIDGE_OK)
            status = midge_wire_receive(&library->base.wire);
        if (status == MIDGE_AGAIN || status == MIDGE_E_EOF)
            return midge_load_complain(status, "wait", "nothing comes, or closed by the server");
        if (status == MIDGE_OK)
            status = take_all(library);
        if (atomic_load_explicit(&progress->is_failed, memory_order_relaxed))
            return MIDGE_E_PARSE; /* the reason has been said */
    }
    return status;
}

enum midge_status midge_library_fence(struct midge_library *library)
{
    const enum midge_status status = midge_wire_fence(&library->base.wire);

    return status == MIDGE_OK ? status : midge_load_complain(status, "end", "no PONG");
}

enum midge_status midge_library_finish(struct midge_library *library, uint64_t *lost_out)
{
    *lost_out = 0; /* the fence takes a message too many for an error */
    return midge_library_fence(library);
}
