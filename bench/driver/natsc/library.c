/*
 * The loads through nats.c, as its documentation says it is fast.
 *
 * A connection has a thread that reads and one that flushes, an asynchronous subscription one that
 * calls back. Blocking requests are natsConnection_Request(); asynchronous ones have one wildcard
 * inbox and natsConnection_PublishRequest(), each with a reply subject of its own.
 *
 * Source: nats.h of nats.c 3.4.1.
 */
#include <errno.h>
#include <nats/nats.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "load.h"
#include "wire.h"

/* Hexadecimal digits of a request's number in its reply subject. */
#define TOKEN_LEN 8u

#define NS_PER_MS 1000000ll
#define NS_PER_S  1000000000ll

struct midge_library {
    const struct midge_library_options *options; /* borrow */
    natsConnection *connection;                  /* own */
    natsConnection *responder;                   /* own; NULL = none */
    natsSubscription *responder_sub;             /* own */
    natsSubscription *sub;                       /* own */
    natsMsg *reply;                              /* own; of the last blocking request */
    char *inbox;                                 /* own; "_INBOX.<id>.", room for the token */
    size_t inbox_len;
    struct midge_progress *progress;
    void *context;
    midge_library_reply_cb reply_cb;

    /* The thread that calls back wakes the one that waits. */
    pthread_mutex_t lock;
    pthread_cond_t is_done;
};

const char *midge_library_name(void)
{
    static char name[32];

    if (name[0] == '\0')
        (void)snprintf(name, sizeof name, "nats.c %s", nats_GetVersion());
    return name;
}

static enum midge_status complain(natsStatus status, const char *what)
{
    return midge_load_complain(status == NATS_TIMEOUT ? MIDGE_AGAIN : MIDGE_E_PARSE, what,
                               natsStatus_GetText(status));
}

static natsStatus connect_to(const struct midge_library_options *options,
                             natsConnection **connection_out)
{
    natsOptions *own = NULL;
    natsStatus status = natsOptions_Create(&own);

    if (status == NATS_OK)
        status = natsOptions_SetURL(own, options->url);
    if (status == NATS_OK)
        status = natsOptions_SetAllowReconnect(own, false);
    if (status == NATS_OK)
        status = natsOptions_SetTimeout(own, options->timeout_ms);
    if (status == NATS_OK && options->is_send_asap)
        status = natsOptions_SetSendAsap(own, true);
    if (status == NATS_OK)
        status = natsConnection_Connect(connection_out, own);
    natsOptions_Destroy(own);
    return status;
}

enum midge_status midge_library_open(const struct midge_library_options *options,
                                     struct midge_library **library_out)
{
    struct midge_library *library = calloc(1, sizeof *library);
    pthread_condattr_t attributes;
    natsStatus status;

    if (library == NULL)
        return midge_load_complain(MIDGE_E_MEMORY, "open", "no memory");
    *library_out = library;
    library->options = options;
    (void)pthread_mutex_init(&library->lock, NULL);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&library->is_done, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    status = connect_to(options, &library->connection);
    return status == NATS_OK ? MIDGE_OK : complain(status, "connect");
}

void midge_library_close(struct midge_library *library)
{
    if (library == NULL)
        return;
    natsMsg_Destroy(library->reply);
    natsConnection_Close(library->connection);
    natsConnection_Close(library->responder);
    natsSubscription_Destroy(library->sub);
    natsSubscription_Destroy(library->responder_sub);
    natsConnection_Destroy(library->connection);
    natsConnection_Destroy(library->responder);
    (void)pthread_cond_destroy(&library->is_done);
    (void)pthread_mutex_destroy(&library->lock);
    free(library->inbox);
    free(library);
}

static struct midge_slice payload_of(const natsMsg *msg)
{
    return midge_slice_make(natsMsg_GetData(msg), (uint32_t)natsMsg_GetDataLength(msg));
}

enum midge_status midge_library_request(struct midge_library *library, struct midge_slice payload,
                                        struct midge_slice *reply_out)
{
    natsStatus status;

    natsMsg_Destroy(library->reply);
    library->reply = NULL;
    status = natsConnection_Request(&library->reply, library->connection, MIDGE_LIBRARY_REQUESTS,
                                    payload.base, (int)payload.len, library->options->timeout_ms);
    if (status != NATS_OK)
        return complain(status, "request");
    *reply_out = payload_of(library->reply);
    return MIDGE_OK;
}

/* An answer that fails ends the run: the requester times out. */
static void answer(natsConnection *connection, natsSubscription *sub, natsMsg *msg, void *context)
{
    const natsStatus status = natsConnection_Publish(
        connection, natsMsg_GetReply(msg), natsMsg_GetData(msg), natsMsg_GetDataLength(msg));

    (void)sub;
    (void)context;
    if (status != NATS_OK)
        (void)complain(status, "respond");
    natsMsg_Destroy(msg);
}

enum midge_status midge_library_respond(struct midge_library *library)
{
    natsStatus status = connect_to(library->options, &library->responder);

    if (status == NATS_OK)
        status = natsConnection_Subscribe(&library->responder_sub, library->responder,
                                          MIDGE_LIBRARY_REQUESTS, answer, NULL);
    if (status == NATS_OK)
        status = natsConnection_FlushTimeout(library->responder, library->options->timeout_ms);
    return status == NATS_OK ? MIDGE_OK : complain(status, "respond");
}

/* In the thread that calls back: has everything come, or a wrong thing? */
static void look(struct midge_library *library)
{
    const struct midge_progress *progress = library->progress;

    if (atomic_load_explicit(&progress->count, memory_order_relaxed) !=
            atomic_load_explicit(&progress->target, memory_order_relaxed) &&
        !atomic_load_explicit(&progress->is_failed, memory_order_relaxed))
        return;
    (void)pthread_mutex_lock(&library->lock);
    (void)pthread_cond_signal(&library->is_done);
    (void)pthread_mutex_unlock(&library->lock);
}

/* The number in the last token of a reply subject. */
static uint64_t number_of(const struct midge_library *library, const char *subject)
{
    char *end = NULL;
    const uint64_t number = strlen(subject) == library->inbox_len + TOKEN_LEN
                                ? strtoull(subject + library->inbox_len, &end, 16)
                                : UINT64_MAX;

    return end != NULL && *end == '\0' ? number : UINT64_MAX;
}

static void take_reply(natsConnection *connection, natsSubscription *sub, natsMsg *msg,
                       void *context)
{
    struct midge_library *library = context;

    (void)connection;
    (void)sub;
    library->reply_cb(library->context, number_of(library, natsMsg_GetSubject(msg)),
                      payload_of(msg));
    natsMsg_Destroy(msg);
    look(library);
}

/* A unique prefix with a dot behind it, and the wildcard below it. */
static enum midge_status make_inbox(struct midge_library *library)
{
    natsInbox *unique = NULL;
    const natsStatus status = natsInbox_Create(&unique);

    if (status != NATS_OK)
        return complain(status, "inbox");
    library->inbox_len = strlen(unique) + 1;
    library->inbox = malloc(library->inbox_len + TOKEN_LEN + 1);
    if (library->inbox != NULL)
        (void)snprintf(library->inbox, library->inbox_len + 2, "%s.*", unique);
    natsInbox_Destroy(unique);
    return library->inbox == NULL ? midge_load_complain(MIDGE_E_MEMORY, "inbox", "no memory")
                                  : MIDGE_OK;
}

enum midge_status midge_library_prepare(struct midge_library *library,
                                        struct midge_progress *progress, void *context,
                                        midge_library_reply_cb reply_cb)
{
    const enum midge_status made = make_inbox(library);
    natsStatus status;

    if (made != MIDGE_OK)
        return made;
    library->progress = progress;
    library->context = context;
    library->reply_cb = reply_cb;
    status = natsConnection_Subscribe(&library->sub, library->connection, library->inbox,
                                      take_reply, library);
    return status == NATS_OK ? MIDGE_OK : complain(status, "subscribe");
}

/* The first ones come from the thread that waits, all others from the one that calls back. */
enum midge_status midge_library_begin_request(struct midge_library *library, uint64_t number,
                                              struct midge_slice payload)
{
    char reply[128];
    natsStatus status;

    MIDGE_ASSERT(library->inbox_len + TOKEN_LEN < sizeof reply);
    memcpy(reply, library->inbox, library->inbox_len);
    midge_wire_put_number((uint8_t *)reply + library->inbox_len, TOKEN_LEN, number);
    reply[library->inbox_len + TOKEN_LEN] = '\0';
    status = natsConnection_PublishRequest(library->connection, MIDGE_LIBRARY_REQUESTS, reply,
                                           payload.base, (int)payload.len);
    return status == NATS_OK ? MIDGE_OK : complain(status, "request");
}

static void count(natsConnection *connection, natsSubscription *sub, natsMsg *msg, void *context)
{
    struct midge_library *library = context;
    struct midge_progress *progress = library->progress;

    (void)connection;
    (void)sub;
    natsMsg_Destroy(msg);
    /* One writer; the publisher's process reads it. */
    atomic_store_explicit(&progress->count,
                          atomic_load_explicit(&progress->count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    look(library);
}

enum midge_status midge_library_count(struct midge_library *library,
                                      struct midge_progress *progress)
{
    natsStatus status;

    library->progress = progress;
    status = natsConnection_Subscribe(&library->sub, library->connection, MIDGE_LIBRARY_MESSAGES,
                                      count, library);
    return status == NATS_OK ? MIDGE_OK : complain(status, "subscribe");
}

static struct timespec after_ms(uint32_t ms)
{
    struct timespec at;
    long long ns;

    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    ns = at.tv_nsec + ms * NS_PER_MS;
    return (struct timespec){.tv_sec = at.tv_sec + (time_t)(ns / NS_PER_S),
                             .tv_nsec = (long)(ns % NS_PER_S)};
}

/* For as long as something comes within each timeout. */
enum midge_status midge_library_wait(struct midge_library *library)
{
    const struct midge_progress *progress = library->progress;
    const uint64_t target = atomic_load_explicit(&progress->target, memory_order_relaxed);
    uint64_t before = UINT64_MAX;
    uint64_t now;

    (void)pthread_mutex_lock(&library->lock);
    while ((now = atomic_load_explicit(&progress->count, memory_order_relaxed)) < target &&
           !atomic_load_explicit(&progress->is_failed, memory_order_relaxed)) {
        const struct timespec until = after_ms(library->options->timeout_ms);

        if (pthread_cond_timedwait(&library->is_done, &library->lock, &until) == ETIMEDOUT) {
            if (now == before)
                break;
            before = now;
        }
    }
    (void)pthread_mutex_unlock(&library->lock);
    if (atomic_load_explicit(&progress->is_failed, memory_order_relaxed))
        return MIDGE_E_PARSE; /* the reason has been said */
    return now >= target ? MIDGE_OK : midge_load_complain(MIDGE_AGAIN, "wait", "nothing comes");
}

enum midge_status midge_library_fence(struct midge_library *library)
{
    const natsStatus status =
        natsConnection_FlushTimeout(library->connection, library->options->timeout_ms);

    return status == NATS_OK ? MIDGE_OK : complain(status, "end");
}

/* The library does not say what it drops beside a full subscription: a second reply to a blocking
 * request goes unseen. */
enum midge_status midge_library_finish(struct midge_library *library, uint64_t *lost_out)
{
    const int64_t timeout_ms = library->options->timeout_ms;
    int64_t dropped = 0;
    natsStatus status = natsConnection_FlushTimeout(library->connection, timeout_ms);

    if (status == NATS_OK && library->sub != NULL) {
        status = natsSubscription_GetDropped(library->sub, &dropped);
        if (status == NATS_OK)
            status = natsSubscription_DrainTimeout(library->sub, timeout_ms);
        if (status == NATS_OK)
            status = natsSubscription_WaitForDrainCompletion(library->sub, timeout_ms);
    }
    *lost_out = (uint64_t)dropped;
    return status == NATS_OK ? MIDGE_OK : complain(status, "end");
}
