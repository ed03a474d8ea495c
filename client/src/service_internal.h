/*
 * What the two files of services share: what a service is, and what it says.
 *
 * Thread: as client_internal.h; between midge_loop_enter() and leave(), but for what is constant.
 */
#ifndef MIDGE_SERVICE_INTERNAL_H
#define MIDGE_SERVICE_INTERNAL_H

#include "client_internal.h"

#define MIDGE_SERVICE_PREFIX "$SRV."

/* PING, INFO and STATS, each for all services, those of one name, and one of them. */
#define MIDGE_SERVICE_VERBS    3u
#define MIDGE_SERVICE_CONTROLS 9u

/* Bytes of the last error that statistics show, with its NUL; the rest is cut. */
#define MIDGE_SERVICE_ERROR_CAP 256u

/* JSON made once: members without the braces around them. Owned. */
struct midge_service_text {
    uint8_t *base;
    uint32_t len;
};

struct midge_endpoint {
    struct midge_service *service;
    struct midge_endpoint *next; /* in the order in which they were added */
    struct midge_sub *sub;       /* owned */
    void *context;
    midge_request_cb request_cb;
    struct midge_service_text identity; /* name, subject, queue_group */
    struct midge_service_text metadata;
    uint64_t requests;
    uint64_t errors;
    uint64_t processing_ns;
    char last_error[MIDGE_SERVICE_ERROR_CAP]; /* "" = none so far */
};

struct midge_service {
    struct midge_client *client;
    char id[MIDGE_NUID_LEN + 1];
    char started[32];                   /* UTC, as RFC 3339 writes it */
    char *queue;                        /* of endpoints that name none; owned */
    struct midge_service_text identity; /* name, id, version, metadata */
    struct midge_service_text description;
    struct midge_sub *controls[MIDGE_SERVICE_CONTROLS]; /* owned; NULL = not made */
    struct midge_endpoint *first;
    struct midge_endpoint *last;
    uint64_t holds; /* subscriptions that are not freed, and calls at work */
};

enum midge_service_verb {
    MIDGE_SERVICE_PING = 0,
    MIDGE_SERVICE_INFO,
    MIDGE_SERVICE_STATS,
};

/** True for letters, digits, `-` and `_`, at least one. Thread: any. */
bool midge_service_is_name(const char *text);

/** True for what semver.org says a version is. Thread: any. */
bool midge_service_is_version(const char *text);

/** Make identity and description. @return MIDGE_OK or E_MEMORY, with what was made in service */
MIDGE_MUST_CHECK enum midge_status
midge_service_describe(struct midge_service *service, const struct midge_service_options *options);

/** Make the texts of an endpoint. @param queue  "" = none. @return MIDGE_OK or E_MEMORY, with what
 * was made in endpoint */
MIDGE_MUST_CHECK enum midge_status
midge_endpoint_describe(struct midge_endpoint *endpoint,
                        const struct midge_endpoint_options *options, const char *subject,
                        const char *queue);

/** What the service answers to a verb. @param text_out  owned. @return MIDGE_OK or E_MEMORY */
MIDGE_MUST_CHECK enum midge_status midge_service_answer(const struct midge_service *service,
                                                        enum midge_service_verb verb,
                                                        struct midge_service_text *text_out);

#endif
