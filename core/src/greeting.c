/* What a client reads of INFO and writes in CONNECT. See midge/greeting.h. */
#include "midge/greeting.h"

#include "json_internal.h"
#include "midge/json_write.h"
#include "midge/limits.h"

#include <stddef.h>
#include <stdlib.h>

enum field_type {
    FIELD_TEXT = 0,
    FIELD_FLAG,
    FIELD_NUMBER,
    FIELD_MAX_PAYLOAD,
    FIELD_URLS,
};

struct field {
    const char *name; /* lower case */
    enum field_type type;
    uint32_t off; /* in struct midge_server_facts */
};

#define FACT(member) (uint32_t) offsetof(struct midge_server_facts, member)

static const struct field fields[] = {
    {"server_id", FIELD_TEXT, FACT(server_id)},
    {"server_name", FIELD_TEXT, FACT(server_name)},
    {"version", FIELD_TEXT, FACT(version)},
    {"midge", FIELD_TEXT, FACT(midge)},
    {"host", FIELD_TEXT, FACT(host)},
    {"nonce", FIELD_TEXT, FACT(nonce)},
    {"cluster", FIELD_TEXT, FACT(cluster)},
    {"domain", FIELD_TEXT, FACT(domain)},
    {"client_ip", FIELD_TEXT, FACT(client_ip)},
    {"connect_urls", FIELD_URLS, FACT(connect_urls)},
    {"max_payload", FIELD_MAX_PAYLOAD, FACT(max_payload)},
    {"client_id", FIELD_NUMBER, FACT(client_id)},
    {"headers", FIELD_FLAG, FACT(headers)},
    {"auth_required", FIELD_FLAG, FACT(auth_required)},
    {"tls_required", FIELD_FLAG, FACT(tls_required)},
    {"tls_available", FIELD_FLAG, FACT(tls_available)},
    {"ldm", FIELD_FLAG, FACT(ldm)},
    {"jetstream", FIELD_FLAG, FACT(jetstream)},
};

/* --- INFO --- */

static void free_urls(struct midge_server_facts *facts)
{
    for (uint32_t i = 0; i < facts->connect_url_count; i++)
        free(facts->connect_urls[i]);
    free(facts->connect_urls);
    facts->connect_urls = NULL;
    facts->connect_url_count = 0;
}

static enum midge_status read_text(struct midge_json_value value, char **text_out)
{
    char *text;

    if (value.kind != MIDGE_JSON_STRING)
        return MIDGE_E_ARGS;
    if (!midge_json_copy_text(value.text, &text))
        return MIDGE_E_MEMORY;
    free(*text_out);
    *text_out = text;
    return MIDGE_OK;
}

static enum midge_status read_flag(struct midge_json_value value, bool *flag_out)
{
    if (value.kind != MIDGE_JSON_TRUE && value.kind != MIDGE_JSON_FALSE)
        return MIDGE_E_ARGS;
    *flag_out = value.kind == MIDGE_JSON_TRUE;
    return MIDGE_OK;
}

/* A whole number from 0; what is beyond 64 bits becomes the largest. */
static enum midge_status read_number(struct midge_json_value value, uint64_t *number_out)
{
    uint64_t number = 0;

    if (value.kind != MIDGE_JSON_NUMBER)
        return MIDGE_E_ARGS;
    for (uint32_t i = 0; i < value.text.len; i++) {
        const uint64_t digit = (uint64_t)value.text.base[i] - '0';
        if (digit > 9)
            return MIDGE_E_ARGS;
        number = number > (UINT64_MAX - digit) / 10 ? UINT64_MAX : 10 * number + digit;
    }
    *number_out = number;
    return MIDGE_OK;
}

static enum midge_status read_max_payload(struct midge_json_value value, uint32_t *len_out)
{
    uint64_t number;
    const enum midge_status status = read_number(value, &number);

    if (status != MIDGE_OK)
        return status;
    *len_out = number > MIDGE_PAYLOAD_MAX ? MIDGE_PAYLOAD_MAX : (uint32_t)number;
    return MIDGE_OK;
}

static enum midge_status read_urls(struct midge_json_value value, struct midge_server_facts *facts)
{
    struct midge_slice content;
    struct midge_json_value element;

    if (value.kind != MIDGE_JSON_ARRAY)
        return MIDGE_E_ARGS;
    free_urls(facts);
    content = midge_json_content(value);
    while (midge_json_next_element(&content, &element)) {
        char **urls;
        enum midge_status status;

        if (facts->connect_url_count == MIDGE_CONNECT_URLS_MAX)
            break;
        urls = realloc(facts->connect_urls, (facts->connect_url_count + 1) * sizeof(char *));
        if (urls == NULL)
            return MIDGE_E_MEMORY;
        facts->connect_urls = urls;
        urls[facts->connect_url_count] = NULL;
        status = read_text(element, &urls[facts->connect_url_count]);
        if (status != MIDGE_OK)
            return status;
        facts->connect_url_count++;
    }
    return MIDGE_OK;
}

static enum midge_status read_field(struct midge_server_facts *facts, const struct field *field,
                                    struct midge_json_value value)
{
    void *const at = (char *)facts + field->off;

    switch (field->type) {
    case FIELD_TEXT:
        return read_text(value, at);
    case FIELD_FLAG:
        return read_flag(value, at);
    case FIELD_NUMBER:
        return read_number(value, at);
    case FIELD_MAX_PAYLOAD:
        return read_max_payload(value, at);
    case FIELD_URLS:
        return read_urls(value, facts);
    }
    return MIDGE_E_ARGS;
}

static enum midge_status read_members(struct midge_server_facts *facts, struct midge_slice content)
{
    struct midge_slice key;
    struct midge_json_value value;

    while (midge_json_next_member(&content, &key, &value)) {
        for (uint32_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
            enum midge_status status = MIDGE_OK;

            if (!midge_json_key_equals(key, fields[i].name))
                continue;
            if (value.kind != MIDGE_JSON_NULL)
                status = read_field(facts, &fields[i], value);
            if (status != MIDGE_OK)
                return status;
            break;
        }
    }
    return MIDGE_OK;
}

enum midge_status midge_server_facts_decode(struct midge_server_facts *facts_out,
                                            struct midge_slice json)
{
    struct midge_server_facts facts = {.max_payload = MIDGE_PAYLOAD_DEFAULT};
    enum midge_status status = MIDGE_E_ARGS;

    if (midge_json_is_valid(json) && midge_json_root(json).kind == MIDGE_JSON_OBJECT)
        status = read_members(&facts, midge_json_content(midge_json_root(json)));
    if (status != MIDGE_OK) {
        midge_server_facts_deinit(&facts);
        return status;
    }
    *facts_out = facts;
    return MIDGE_OK;
}

void midge_server_facts_deinit(struct midge_server_facts *facts)
{
    for (uint32_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (fields[i].type == FIELD_TEXT)
            free(*(char **)((char *)facts + fields[i].off));
    }
    free_urls(facts);
    *facts = (struct midge_server_facts){0};
}

/* --- CONNECT --- */

static void put_flag(struct midge_json_writer *writer, const char *key, bool flag)
{
    midge_json_put_key(writer, key);
    midge_json_put_flag(writer, flag);
}

static void put_text(struct midge_json_writer *writer, const char *key, const char *text)
{
    if (text == NULL)
        return;
    midge_json_put_key(writer, key);
    midge_json_put_string(writer, midge_slice_text(text));
}

static void write_connect(struct midge_json_writer *writer,
                          const struct midge_connect_options *options)
{
    midge_json_begin(writer, '{');
    put_flag(writer, "verbose", options->verbose);
    put_flag(writer, "pedantic", options->pedantic);
    put_flag(writer, "tls_required", options->tls_required);
    put_text(writer, "user", options->user);
    put_text(writer, "pass", options->pass);
    put_text(writer, "auth_token", options->auth_token);
    put_text(writer, "jwt", options->jwt);
    put_text(writer, "nkey", options->nkey);
    put_text(writer, "sig", options->sig);
    put_text(writer, "name", options->name);
    put_text(writer, "lang", options->lang);
    put_text(writer, "version", options->version);
    midge_json_put_key(writer, "protocol");
    midge_json_put_number(writer, options->protocol);
    put_flag(writer, "echo", options->echo);
    put_flag(writer, "headers", options->headers);
    put_flag(writer, "no_responders", options->no_responders);
    midge_json_end(writer, '}');
}

#define CONNECT_HEAD "CONNECT "
#define CONNECT_TAIL "\r\n"
#define AROUND_LEN   (uint32_t)(sizeof(CONNECT_HEAD) - 1 + sizeof(CONNECT_TAIL) - 1)

uint32_t midge_connect_encode_len(const struct midge_connect_options *options)
{
    struct midge_json_writer writer = {0};

    write_connect(&writer, options);
    return (uint32_t)writer.len + AROUND_LEN;
}

uint8_t *midge_connect_encode(uint8_t *out, const struct midge_connect_options *options)
{
    struct midge_json_writer writer = {.cap = UINT32_MAX};

    memcpy(out, CONNECT_HEAD, sizeof(CONNECT_HEAD) - 1);
    writer.out = out + sizeof(CONNECT_HEAD) - 1;
    write_connect(&writer, options);
    out = writer.out + writer.len;
    memcpy(out, CONNECT_TAIL, sizeof(CONNECT_TAIL) - 1);
    return out + sizeof(CONNECT_TAIL) - 1;
}
