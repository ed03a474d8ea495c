/*
 * Services: endpoints in a queue group, and $SRV.PING, INFO and STATS about them.
 *
 * A service is a set of subscriptions, and lives as long as the last of them: whoever destroys it
 * destroys them, each is freed when its call-back has returned, and the last one frees the service.
 * So it may be destroyed in a call-back of its own, by another thread while one runs, or with its
 * client.
 *
 * Thread: as client_internal.h; the lists and counts of a service change between
 * midge_loop_enter() and leave().
 * Source: NATS ADR-32; nats.go v1.55.0, micro/service.go and micro/request.go (when a request
 * counts, what the last error looks like, what becomes of an answer that cannot be sent).
 */
#include "service_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "midge/subject.h"

#define QUEUE_DEFAULT "q"
#define ERROR_HEADER  "Nats-Service-Error"
#define CODE_HEADER   "Nats-Service-Error-Code"
#define CODE_TOO_LONG 500u

/* Of a service, in bytes: what leaves room for the rest of its longest control subject. */
#define NAME_LEN_MAX 3900u
static_assert(sizeof(MIDGE_SERVICE_PREFIX "STATS..") + NAME_LEN_MAX + MIDGE_NUID_LEN <=
                  MIDGE_CLIENT_SUBJECT_MAX,
              "a control subject would be too long");

/* --- life --- */

static void free_endpoint(struct midge_endpoint *endpoint)
{
    free(endpoint->identity.base);
    free(endpoint->metadata.base);
    free(endpoint);
}

static void release(struct midge_service *service)
{
    MIDGE_ASSERT(service->holds > 0);
    if (--service->holds > 0)
        return;
    while (service->first != NULL) {
        struct midge_endpoint *endpoint = service->first;
        service->first = endpoint->next;
        free_endpoint(endpoint);
    }
    free(service->identity.base);
    free(service->description.base);
    free(service->queue);
    free(service);
}

static void control_freed(void *context)
{
    release(context);
}

static void endpoint_freed(void *context)
{
    const struct midge_endpoint *endpoint = context;

    release(endpoint->service);
}

/* Destroy all subscriptions. The caller has a hold. */
static void end(struct midge_service *service)
{
    for (uint32_t i = 0; i < MIDGE_SERVICE_CONTROLS; i++)
        midge_sub_destroy(service->controls[i]);
    for (struct midge_endpoint *each = service->first; each != NULL; each = each->next)
        midge_sub_destroy(each->sub);
}

static enum midge_status respond_error(const struct midge_msg *request, uint32_t code,
                                       const char *text)
{
    struct midge_headers *headers = midge_headers_create();
    char digits[16];
    enum midge_status status;

    if (headers == NULL)
        return MIDGE_E_MEMORY;
    (void)snprintf(digits, sizeof(digits), "%u", (unsigned)code);
    status = midge_headers_add(headers, ERROR_HEADER, text);
    if (status == MIDGE_OK)
        status = midge_headers_add(headers, CODE_HEADER, digits);
    if (status == MIDGE_OK)
        status = midge_msg_respond_headers(request, headers, NULL, 0);
    midge_headers_destroy(headers);
    return status;
}

/* --- controls --- */

static void answer(struct midge_service *service, const struct midge_msg *request,
                   enum midge_service_verb verb)
{
    struct midge_loop *loop = service->client->loop;
    struct midge_service_text text;
    enum midge_status status = midge_loop_enter(loop, false);

    if (status != MIDGE_OK)
        return;
    status = midge_service_answer(service, verb, &text);
    midge_loop_leave(loop);
    if (status != MIDGE_OK)
        return;
    status = midge_msg_respond(request, text.base, text.len);
    if (status == MIDGE_E_PAYLOAD)
        status = respond_error(request, CODE_TOO_LONG, midge_client_status_text(status));
    (void)status; /* who watches services asks again */
    free(text.base);
}

static void on_ping(void *context, const struct midge_msg *request)
{
    answer(context, request, MIDGE_SERVICE_PING);
}

static void on_info(void *context, const struct midge_msg *request)
{
    answer(context, request, MIDGE_SERVICE_INFO);
}

static void on_stats(void *context, const struct midge_msg *request)
{
    answer(context, request, MIDGE_SERVICE_STATS);
}

/* Subscribe, and have the service live until that subscription is freed. */
static enum midge_status subscribe_control(struct midge_service *service, const char *subject,
                                           midge_msg_cb message_cb, struct midge_sub **sub_out)
{
    struct midge_loop *loop = service->client->loop;
    struct midge_sub *sub;
    enum midge_status status =
        midge_client_subscribe(service->client, subject, NULL, &sub, service, message_cb);

    if (status != MIDGE_OK)
        return status;
    status = midge_loop_enter(loop, false);
    MIDGE_ASSERT(status == MIDGE_OK); /* it was a moment ago */
    sub->freed_cb = control_freed;
    service->holds++;
    *sub_out = sub;
    midge_loop_leave(loop);
    return MIDGE_OK;
}

static enum midge_status subscribe_controls(struct midge_service *service, const char *name)
{
    static const struct {
        const char *name;
        midge_msg_cb message_cb;
    } verbs[MIDGE_SERVICE_VERBS] = {{"PING", on_ping}, {"INFO", on_info}, {"STATS", on_stats}};
    char subject[MIDGE_CLIENT_SUBJECT_MAX + 1];

    for (uint32_t i = 0; i < MIDGE_SERVICE_CONTROLS; i++) {
        const uint32_t verb = i % MIDGE_SERVICE_VERBS;
        const uint32_t form = i / MIDGE_SERVICE_VERBS; /* all, of the name, this one */
        enum midge_status status;

        (void)snprintf(subject, sizeof(subject), MIDGE_SERVICE_PREFIX "%s%s%s%s%s",
                       verbs[verb].name, form > 0 ? "." : "", form > 0 ? name : "",
                       form > 1 ? "." : "", form > 1 ? service->id : "");
        status = subscribe_control(service, subject, verbs[verb].message_cb, &service->controls[i]);
        if (status != MIDGE_OK)
            return status;
    }
    return MIDGE_OK;
}

/* --- making --- */

static bool is_good(const struct midge_service_options *options)
{
    const char *queue = options->queue;

    return options->name != NULL && midge_service_is_name(options->name) &&
           strlen(options->name) <= NAME_LEN_MAX && options->version != NULL &&
           midge_service_is_version(options->version) &&
           (queue == NULL || queue[0] == '\0' ||
            midge_subject_is_queue_name(midge_slice_text(queue)));
}

static void set_started(struct midge_service *service)
{
    struct timespec now;
    struct tm utc;
    size_t len;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    len = strftime(service->started, sizeof(service->started), "%Y-%m-%dT%H:%M:%S", &utc);
    (void)snprintf(service->started + len, sizeof(service->started) - len, ".%03uZ",
                   (unsigned)(now.tv_nsec / 1000000));
}

static enum midge_status fill(struct midge_service *service, struct midge_client *client,
                              const struct midge_service_options *options)
{
    const enum midge_status status = midge_loop_enter(client->loop, false);

    if (status != MIDGE_OK)
        return status;
    midge_nuid_next(&client->nuid, service->id);
    midge_loop_leave(client->loop);
    service->client = client;
    set_started(service);
    service->queue = strdup(options->queue == NULL ? QUEUE_DEFAULT : options->queue);
    if (service->queue == NULL)
        return MIDGE_E_MEMORY;
    return midge_service_describe(service, options);
}

/* A call at work on the service begins or ends. @return MIDGE_OK or E_THREAD */
static enum midge_status hold(struct midge_service *service)
{
    const enum midge_status status = midge_loop_enter(service->client->loop, false);

    if (status != MIDGE_OK)
        return status;
    service->holds++;
    midge_loop_leave(service->client->loop);
    return MIDGE_OK;
}

static void let_go(struct midge_service *service)
{
    struct midge_loop *loop = service->client->loop;
    const enum midge_status status = midge_loop_enter(loop, false);

    MIDGE_ASSERT(status == MIDGE_OK); /* it was when the call began */
    release(service);
    midge_loop_leave(loop);
}

enum midge_status midge_service_create(struct midge_client *client,
                                       const struct midge_service_options *options,
                                       struct midge_service **service_out)
{
    struct midge_service *service;
    enum midge_status status;

    if (!is_good(options))
        return MIDGE_E_CONFIG;
    service = calloc(1, sizeof(*service));
    if (service == NULL)
        return MIDGE_E_MEMORY;
    service->holds = 1;
    status = fill(service, client, options);
    if (status != MIDGE_OK) {
        release(service);
        return status;
    }
    status = subscribe_controls(service, options->name);
    if (status != MIDGE_OK)
        end(service);
    else
        *service_out = service;
    let_go(service);
    return status;
}

/* --- endpoints --- */

static void on_request(void *context, const struct midge_msg *request)
{
    struct midge_endpoint *endpoint = context;
    struct midge_loop *loop = endpoint->service->client->loop;
    const uint64_t begun_at_ns = midge_ring_now_ns(loop->ring);

    endpoint->request_cb(endpoint->context, request);
    if (midge_loop_enter(loop, false) != MIDGE_OK)
        return; /* the child of a fork */
    endpoint->requests++;
    endpoint->processing_ns += midge_ring_now_ns(loop->ring) - begun_at_ns;
    midge_loop_leave(loop);
}

static void append(struct midge_service *service, struct midge_endpoint *endpoint)
{
    if (service->last == NULL)
        service->first = endpoint;
    else
        service->last->next = endpoint;
    service->last = endpoint;
    service->holds++;
    endpoint->sub->freed_cb = endpoint_freed;
}

static enum midge_status add(struct midge_service *service, struct midge_endpoint *endpoint,
                             const struct midge_endpoint_options *options)
{
    struct midge_client *client = service->client;
    const char *subject = options->subject == NULL ? options->name : options->subject;
    const char *queue = options->queue == NULL ? service->queue : options->queue;
    const struct midge_sub_options sub_options = {.queue = queue[0] == '\0' ? NULL : queue};
    enum midge_status status = midge_endpoint_describe(endpoint, options, subject, queue);

    if (status == MIDGE_OK)
        status = midge_client_subscribe(client, subject, &sub_options, &endpoint->sub, endpoint,
                                        on_request);
    if (status != MIDGE_OK)
        return status;
    status = midge_loop_enter(client->loop, false);
    MIDGE_ASSERT(status == MIDGE_OK); /* it was a moment ago */
    append(service, endpoint);
    midge_loop_leave(client->loop);
    return MIDGE_OK;
}

enum midge_status midge_service_add(struct midge_service *service,
                                    const struct midge_endpoint_options *options, void *context,
                                    midge_request_cb request_cb)
{
    struct midge_endpoint *endpoint;
    enum midge_status status;

    MIDGE_ASSERT(request_cb != NULL);

    if (options->name == NULL || !midge_service_is_name(options->name))
        return MIDGE_E_CONFIG;
    endpoint = calloc(1, sizeof(*endpoint));
    if (endpoint == NULL)
        return MIDGE_E_MEMORY;
    endpoint->service = service;
    endpoint->context = context;
    endpoint->request_cb = request_cb;
    status = add(service, endpoint, options);
    if (status != MIDGE_OK)
        free_endpoint(endpoint);
    return status;
}

/* --- errors --- */

enum midge_status midge_service_error(struct midge_service *service,
                                      const struct midge_msg *request, uint32_t code,
                                      const char *text)
{
    struct midge_loop *loop = service->client->loop;
    struct midge_endpoint *endpoint;
    enum midge_status status;

    MIDGE_ASSERT(request->sub != NULL);
    MIDGE_ASSERT(request->sub->message_cb == on_request);
    endpoint = request->sub->context;
    MIDGE_ASSERT(endpoint->service == service);

    if (code == 0 || text[0] == '\0')
        return MIDGE_E_HEADERS;
    status = respond_error(request, code, text);
    if (status != MIDGE_OK)
        return status;
    status = midge_loop_enter(loop, false);
    MIDGE_ASSERT(status == MIDGE_OK); /* it was a moment ago */
    endpoint->errors++;
    (void)snprintf(endpoint->last_error, sizeof(endpoint->last_error), "%u:%s", (unsigned)code,
                   text);
    midge_loop_leave(loop);
    return MIDGE_OK;
}

/* --- the end --- */

const char *midge_service_id(const struct midge_service *service)
{
    return service->id;
}

/* Drain one, if nothing went wrong before. */
static void drain(struct midge_sub *sub, enum midge_status *status)
{
    if (*status == MIDGE_OK)
        *status = midge_sub_drain(sub);
    if (*status == MIDGE_E_SUB_ENDED)
        *status = MIDGE_OK; /* by an earlier drain, or with its client */
}

enum midge_status midge_service_drain(struct midge_service *service)
{
    struct midge_loop *loop = service->client->loop;
    struct midge_endpoint *each;
    enum midge_status status = midge_loop_enter(loop, false);

    if (status != MIDGE_OK)
        return status;
    each = service->first;
    while (each != NULL) {
        midge_loop_leave(loop);
        drain(each->sub, &status);
        if (status != MIDGE_OK || midge_loop_enter(loop, false) != MIDGE_OK)
            return status;
        each = each->next; /* another thread may have added one */
    }
    midge_loop_leave(loop);
    for (uint32_t i = 0; i < MIDGE_SERVICE_CONTROLS; i++)
        drain(service->controls[i], &status);
    return status;
}

void midge_service_destroy(struct midge_service *service)
{
    if (service == NULL || hold(service) != MIDGE_OK)
        return;
    end(service);
    let_go(service);
}
