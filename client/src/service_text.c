/*
 * What a service says about itself, as JSON, and what it may be called.
 *
 * What never changes is written once; the rest is put around it with each answer, in two passes:
 * one measures, one writes.
 *
 * Source: NATS ADR-32; nats.go v1.55.0, micro/service.go (which members there are).
 */
#include <stdlib.h>

#include "midge/json_write.h"
#include "service_internal.h"

/* --- names and versions --- */

static bool is_digit(char character)
{
    return character >= '0' && character <= '9';
}

static bool is_letter(char character)
{
    return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z');
}

bool midge_service_is_name(const char *text)
{
    const char *at = text;

    while (is_letter(*at) || is_digit(*at) || *at == '-' || *at == '_')
        at++;
    return at > text && *at == '\0';
}

/* Pass over digits that begin with 0 only if they are 0. @return false if there are none */
static bool pass_number(const char **at)
{
    const char *const start = *at;

    while (is_digit(**at))
        (*at)++;
    return *at > start && (*start != '0' || *at == start + 1);
}

/* Pass over letters, digits and hyphens between dots. @param is_strict  numbers have no zeros
 * before them */
static bool pass_identifiers(const char **at, bool is_strict)
{
    for (;;) {
        const char *const start = *at;
        bool is_number = true;

        for (; is_letter(**at) || is_digit(**at) || **at == '-'; (*at)++)
            is_number = is_number && is_digit(**at);
        if (*at == start || (is_strict && is_number && *start == '0' && *at > start + 1))
            return false;
        if (**at != '.')
            return true;
        (*at)++;
    }
}

/* Pass over one character. */
static bool pass(const char **at, char character)
{
    if (**at != character)
        return false;
    (*at)++;
    return true;
}

bool midge_service_is_version(const char *text)
{
    const char *at = text;

    if (!pass_number(&at) || !pass(&at, '.') || !pass_number(&at) || !pass(&at, '.') ||
        !pass_number(&at))
        return false;
    if (pass(&at, '-') && !pass_identifiers(&at, true))
        return false;
    if (pass(&at, '+') && !pass_identifiers(&at, false))
        return false;
    return *at == '\0';
}

/* --- texts --- */

typedef void (*put_cb)(struct midge_json_writer *writer, const void *context);

static enum midge_status make_text(struct midge_service_text *text_out, const void *context,
                                   put_cb put)
{
    struct midge_json_writer measured = {0};
    struct midge_json_writer writer = {0};

    put(&measured, context);
    if (measured.len > UINT32_MAX)
        return MIDGE_E_MEMORY;
    writer.out = malloc(measured.len + 1);
    if (writer.out == NULL)
        return MIDGE_E_MEMORY;
    writer.cap = (uint32_t)measured.len;
    put(&writer, context);
    MIDGE_ASSERT(writer.len == measured.len);
    *text_out = (struct midge_service_text){.base = writer.out, .len = writer.cap};
    return MIDGE_OK;
}

static void put_member(struct midge_json_writer *writer, const char *key, const char *value)
{
    midge_json_put_key(writer, key);
    midge_json_put_string(writer, midge_slice_text(value == NULL ? "" : value));
}

static void put_count(struct midge_json_writer *writer, const char *key, uint64_t count)
{
    midge_json_put_key(writer, key);
    midge_json_put_number(writer, count);
}

/* Put a text that was made before; other members stand before it. */
static void put_text(struct midge_json_writer *writer, const struct midge_service_text *text)
{
    if (writer->last != '{')
        midge_json_put_raw(writer, MIDGE_SLICE_LITERAL(","));
    midge_json_put_raw(writer, midge_slice_make(text->base, text->len));
}

/* Of several values of one name the first one counts: a member of an object has one. */
static void put_metadata(struct midge_json_writer *writer, const struct midge_headers *metadata)
{
    const uint32_t count = metadata == NULL ? 0 : midge_headers_count(metadata);

    midge_json_put_key(writer, "metadata");
    midge_json_begin(writer, '{');
    for (uint32_t i = 0; i < count; i++) {
        const char *name;
        const char *value;

        midge_headers_at(metadata, i, &name, &value);
        if (midge_headers_get(metadata, name) == value)
            put_member(writer, name, value);
    }
    midge_json_end(writer, '}');
}

struct description {
    const struct midge_service *service;
    const struct midge_service_options *options;
};

static void put_identity(struct midge_json_writer *writer, const void *context)
{
    const struct description *description = context;

    put_member(writer, "name", description->options->name);
    put_member(writer, "id", description->service->id);
    put_member(writer, "version", description->options->version);
    put_metadata(writer, description->options->metadata);
}

static void put_description(struct midge_json_writer *writer, const void *context)
{
    const struct description *description = context;

    put_member(writer, "description", description->options->description);
}

enum midge_status midge_service_describe(struct midge_service *service,
                                         const struct midge_service_options *options)
{
    const struct description description = {.service = service, .options = options};

    if (make_text(&service->identity, &description, put_identity) != MIDGE_OK)
        return MIDGE_E_MEMORY;
    return make_text(&service->description, &description, put_description);
}

struct endpoint_description {
    const char *name;
    const char *subject;
    const char *queue;
};

static void put_endpoint_identity(struct midge_json_writer *writer, const void *context)
{
    const struct endpoint_description *description = context;

    put_member(writer, "name", description->name);
    put_member(writer, "subject", description->subject);
    put_member(writer, "queue_group", description->queue);
}

static void put_endpoint_metadata(struct midge_json_writer *writer, const void *context)
{
    put_metadata(writer, context);
}

enum midge_status midge_endpoint_describe(struct midge_endpoint *endpoint,
                                          const struct midge_endpoint_options *options,
                                          const char *subject, const char *queue)
{
    const struct endpoint_description description = {
        .name = options->name,
        .subject = subject,
        .queue = queue,
    };

    if (make_text(&endpoint->identity, &description, put_endpoint_identity) != MIDGE_OK)
        return MIDGE_E_MEMORY;
    return make_text(&endpoint->metadata, options->metadata, put_endpoint_metadata);
}

/* --- answers --- */

static void put_begin(struct midge_json_writer *writer, const struct midge_service *service,
                      const char *type)
{
    midge_json_begin(writer, '{');
    put_member(writer, "type", type);
    put_text(writer, &service->identity);
}

static void put_ping(struct midge_json_writer *writer, const void *context)
{
    put_begin(writer, context, "io.nats.micro.v1.ping_response");
    midge_json_end(writer, '}');
}

static void put_info(struct midge_json_writer *writer, const void *context)
{
    const struct midge_service *service = context;

    put_begin(writer, service, "io.nats.micro.v1.info_response");
    put_text(writer, &service->description);
    midge_json_put_key(writer, "endpoints");
    midge_json_begin(writer, '[');
    for (const struct midge_endpoint *each = service->first; each != NULL; each = each->next) {
        midge_json_begin(writer, '{');
        put_text(writer, &each->identity);
        put_text(writer, &each->metadata);
        midge_json_end(writer, '}');
    }
    midge_json_end(writer, ']');
    midge_json_end(writer, '}');
}

static void put_endpoint_stats(struct midge_json_writer *writer,
                               const struct midge_endpoint *endpoint)
{
    midge_json_begin(writer, '{');
    put_text(writer, &endpoint->identity);
    put_count(writer, "num_requests", endpoint->requests);
    put_count(writer, "num_errors", endpoint->errors);
    put_member(writer, "last_error", endpoint->last_error);
    put_count(writer, "processing_time", endpoint->processing_ns);
    put_count(writer, "average_processing_time",
              endpoint->requests == 0 ? 0 : endpoint->processing_ns / endpoint->requests);
    midge_json_end(writer, '}');
}

static void put_stats(struct midge_json_writer *writer, const void *context)
{
    const struct midge_service *service = context;

    put_begin(writer, service, "io.nats.micro.v1.stats_response");
    put_member(writer, "started", service->started);
    midge_json_put_key(writer, "endpoints");
    midge_json_begin(writer, '[');
    for (const struct midge_endpoint *each = service->first; each != NULL; each = each->next)
        put_endpoint_stats(writer, each);
    midge_json_end(writer, ']');
    midge_json_end(writer, '}');
}

enum midge_status midge_service_answer(const struct midge_service *service,
                                       enum midge_service_verb verb,
                                       struct midge_service_text *text_out)
{
    static const put_cb puts[MIDGE_SERVICE_VERBS] = {
        [MIDGE_SERVICE_PING] = put_ping,
        [MIDGE_SERVICE_INFO] = put_info,
        [MIDGE_SERVICE_STATS] = put_stats,
    };

    return make_text(text_out, service, puts[verb]);
}
