/*
 * The loads through libmidge: one loop, one client, and no thread but ours.
 *
 * The responder of midge_library_respond() is a second client on the same loop: it answers within
 * the calls that wait for the reply.
 */
#include <stdlib.h>

#include <midge/client.h>

#include "load.h"

/* A request in flight: what its call-back is given. */
struct place {
    struct midge_library *library;
    uint64_t number;
};

struct midge_library {
    const struct midge_library_options *options; /* borrow */
    struct midge_loop *loop;                     /* own */
    struct midge_client *client;                 /* own */
    struct midge_client *responder;              /* own; NULL = none */
    struct place *places;                        /* own; in_flight */
    struct midge_progress *progress;
    void *context;
    midge_library_reply_cb reply_cb;
};

const char *midge_library_name(void)
{
    return "libmidge " MIDGE_VERSION;
}

static enum midge_status complain(enum midge_status status, const char *what,
                                  const struct midge_client *client)
{
    const char *error = client == NULL ? "" : midge_client_error(client);

    return midge_load_complain(status, what,
                               error[0] == '\0' ? midge_client_status_text(status) : error);
}

/* One connection on the library's loop. */
static enum midge_status open_client(struct midge_library *library,
                                     struct midge_client **client_out)
{
    struct midge_options options;
    enum midge_status status;

    midge_options_init(&options);
    options.url = library->options->url;
    options.loop = library->loop;
    options.reconnect_max = 0;
    options.connect_timeout_ms = library->options->timeout_ms;
    status = midge_client_create(&options, client_out, NULL);
    if (status == MIDGE_OK)
        status = midge_client_connect(*client_out, library->options->timeout_ms);
    return status == MIDGE_OK ? status : complain(status, "connect", *client_out);
}

enum midge_status midge_library_open(const struct midge_library_options *options,
                                     struct midge_library **library_out)
{
    struct midge_library *library = calloc(1, sizeof *library);
    enum midge_status status;

    if (library == NULL)
        return complain(MIDGE_E_MEMORY, "open", NULL);
    *library_out = library;
    library->options = options;
    status = midge_loop_create(MIDGE_IO_AUTO, options->spin_us, &library->loop);
    if (status != MIDGE_OK)
        return complain(status, "loop", NULL);
    return open_client(library, &library->client);
}

void midge_library_close(struct midge_library *library)
{
    if (library == NULL)
        return;
    midge_client_destroy(library->responder);
    midge_client_destroy(library->client);
    midge_loop_destroy(library->loop);
    free(library->places);
    free(library);
}

enum midge_status midge_library_request(struct midge_library *library, struct midge_slice payload,
                                        struct midge_slice *reply_out)
{
    const struct midge_msg *reply;
    const enum midge_status status =
        midge_client_request(library->client, MIDGE_LIBRARY_REQUESTS, payload.base, payload.len,
                             library->options->timeout_ms, &reply);

    if (MIDGE_UNLIKELY(status != MIDGE_OK))
        return complain(status, "request", library->client);
    *reply_out = reply->payload;
    return MIDGE_OK;
}

/* An answer that fails ends the run: the requester times out. */
static void answer(void *context, const struct midge_msg *msg)
{
    const enum midge_status status = midge_msg_respond(msg, msg->payload.base, msg->payload.len);

    (void)context;
    if (status != MIDGE_OK)
        (void)complain(status, "respond", msg->client);
}

enum midge_status midge_library_respond(struct midge_library *library)
{
    struct midge_sub *sub;
    enum midge_status status = open_client(library, &library->responder);

    if (status != MIDGE_OK)
        return status;
    status = midge_client_subscribe(library->responder, MIDGE_LIBRARY_REQUESTS, NULL, &sub, NULL,
                                    answer);
    if (status == MIDGE_OK)
        status = midge_client_flush(library->responder, library->options->timeout_ms, NULL);
    return status == MIDGE_OK ? status : complain(status, "respond", library->responder);
}

enum midge_status midge_library_prepare(struct midge_library *library,
                                        struct midge_progress *progress, void *context,
                                        midge_library_reply_cb reply_cb)
{
    library->progress = progress;
    library->context = context;
    library->reply_cb = reply_cb;
    library->places = (struct place *)calloc(library->options->in_flight, sizeof *library->places);
    return library->places == NULL ? complain(MIDGE_E_MEMORY, "prepare", NULL) : MIDGE_OK;
}

static void take_reply(void *context, enum midge_status status, const struct midge_msg *msg)
{
    const struct place *place = context;
    struct midge_library *library = place->library;

    if (MIDGE_LIKELY(status == MIDGE_OK)) {
        library->reply_cb(library->context, place->number, msg->payload);
        return;
    }
    (void)complain(status, "reply", NULL);
    atomic_store_explicit(&library->progress->is_failed, true, memory_order_relaxed);
}

enum midge_status midge_library_begin_request(struct midge_library *library, uint64_t number,
                                              struct midge_slice payload)
{
    const struct midge_outgoing outgoing = {
        .subject = MIDGE_LIBRARY_REQUESTS,
        .payload = payload.base,
        .payload_len = payload.len,
    };
    struct place *place = &library->places[number % library->options->in_flight];
    enum midge_status status;

    *place = (struct place){.library = library, .number = number};
    status = midge_client_request_async(library->client, &outgoing, NULL, NULL, place, take_reply);
    return status == MIDGE_OK ? status : complain(status, "request", library->client);
}

static void count(void *context, const struct midge_msg *msg)
{
    struct midge_progress *progress = context;

    (void)msg;
    /* One writer; the publisher's process reads it. */
    atomic_store_explicit(&progress->count,
                          atomic_load_explicit(&progress->count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

enum midge_status midge_library_count(struct midge_library *library,
                                      struct midge_progress *progress)
{
    struct midge_sub *sub;
    const enum midge_status status = midge_client_subscribe(library->client, MIDGE_LIBRARY_MESSAGES,
                                                            NULL, &sub, progress, count);

    library->progress = progress;
    return status == MIDGE_OK ? status : complain(status, "subscribe", library->client);
}

enum midge_status midge_library_wait(struct midge_library *library)
{
    const struct midge_progress *progress = library->progress;
    const uint64_t target = atomic_load_explicit(&progress->target, memory_order_relaxed);

    while (atomic_load_explicit(&progress->count, memory_order_relaxed) < target) {
        const enum midge_status status =
            midge_client_wait(library->client, library->options->timeout_ms);

        if (atomic_load_explicit(&progress->is_failed, memory_order_relaxed))
            return MIDGE_E_PARSE; /* the reason has been said */
        if (status != MIDGE_OK)
            return complain(status, "wait", library->client);
    }
    return MIDGE_OK;
}

enum midge_status midge_library_fence(struct midge_library *library)
{
    const enum midge_status status =
        midge_client_flush(library->client, library->options->timeout_ms, NULL);

    return status == MIDGE_OK ? status : complain(status, "end", library->client);
}

enum midge_status midge_library_finish(struct midge_library *library, uint64_t *lost_out)
{
    struct midge_client_stats stats;
    const enum midge_status status = midge_library_fence(library);

    midge_client_read_stats(library->client, &stats);
    *lost_out = stats.dropped_msgs + stats.stray_msgs;
    return status;
}
