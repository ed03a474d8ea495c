/*
 * The two JSON objects of the protocol: INFO is written, CONNECT is read.
 *
 * CONNECT is merged as nats-server does it, by Go's encoding/json into a struct that is kept: every
 * field has its type, a null leaves what was there, a wrong type anywhere refuses the whole object.
 * Fields that we take no value from are still checked, because nats-server closes for them too.
 *
 * Memory: each string of CONNECT is one allocation; see the header.
 */
#include "midge/info.h"

#include "json_internal.h"
#include "midge/json_write.h"

#include <stdlib.h>

/* What malloc adds to a block, about: its header and rounding to 16 bytes. */
#define ALLOCATION_LEN 16u

/* Fields whose value is a string that we keep. */
enum text_field {
    TEXT_USER = 0,
    TEXT_PASS,
    TEXT_AUTH_TOKEN,
    TEXT_NAME,
    TEXT_LANG,
    TEXT_VERSION,
    TEXT_COUNT,
};

enum field_type {
    FIELD_TEXT = 0,   /* index: enum text_field */
    FIELD_FLAG,       /* index: enum flag_field */
    FIELD_PROTOCOL,   /* 64-bit integer */
    FIELD_ACCOUNT,    /* string; only whether it is empty matters */
    FIELD_CHECK_TEXT, /* string without effect */
    FIELD_PERMISSION, /* {"allow": [string], "deny": [string]} without effect */
};

enum flag_field {
    FLAG_VERBOSE = 0,
    FLAG_PEDANTIC,
    FLAG_ECHO,
    FLAG_HEADERS,
    FLAG_NO_RESPONDERS,
    FLAG_NEW_ACCOUNT,
    FLAG_TLS_REQUIRED, /* no effect */
    FLAG_COUNT,
};

struct field {
    const char *name; /* lower case */
    enum field_type type;
    uint32_t index;
};

/* Source: server/client.go:678. */
static const struct field fields[] = {
    {"echo", FIELD_FLAG, FLAG_ECHO},
    {"verbose", FIELD_FLAG, FLAG_VERBOSE},
    {"pedantic", FIELD_FLAG, FLAG_PEDANTIC},
    {"tls_required", FIELD_FLAG, FLAG_TLS_REQUIRED},
    {"nkey", FIELD_CHECK_TEXT, 0},
    {"jwt", FIELD_CHECK_TEXT, 0},
    {"sig", FIELD_CHECK_TEXT, 0},
    {"auth_token", FIELD_TEXT, TEXT_AUTH_TOKEN},
    {"user", FIELD_TEXT, TEXT_USER},
    {"pass", FIELD_TEXT, TEXT_PASS},
    {"name", FIELD_TEXT, TEXT_NAME},
    {"lang", FIELD_TEXT, TEXT_LANG},
    {"version", FIELD_TEXT, TEXT_VERSION},
    {"protocol", FIELD_PROTOCOL, 0},
    {"account", FIELD_ACCOUNT, 0},
    {"new_account", FIELD_FLAG, FLAG_NEW_ACCOUNT},
    {"headers", FIELD_FLAG, FLAG_HEADERS},
    {"no_responders", FIELD_FLAG, FLAG_NO_RESPONDERS},
    {"import", FIELD_PERMISSION, 0},
    {"export", FIELD_PERMISSION, 0},
    {"remote_account", FIELD_CHECK_TEXT, 0},
    {"proxy_sig", FIELD_CHECK_TEXT, 0},
};

/* What one CONNECT changes, collected before anything is changed. */
struct change {
    struct midge_slice texts[TEXT_COUNT]; /* as written in the JSON */
    bool text_given[TEXT_COUNT];
    bool flags[FLAG_COUNT];
    int32_t protocol;
    bool account;
};

static void put_string_member(struct midge_json_writer *writer, const char *key, const char *value)
{
    midge_json_put_key(writer, key);
    midge_json_put_string(writer, midge_slice_text(value));
}

static void put_number_member(struct midge_json_writer *writer, const char *key, uint64_t value)
{
    midge_json_put_key(writer, key);
    midge_json_put_number(writer, value);
}

static void put_flag_member(struct midge_json_writer *writer, const char *key, bool value)
{
    midge_json_put_key(writer, key);
    midge_json_put_flag(writer, value);
}

uint32_t midge_info_encode(uint8_t *out, uint32_t cap, const struct midge_info *info)
{
    struct midge_json_writer writer = {.out = out, .cap = cap};

    MIDGE_ASSERT(out != NULL);
    MIDGE_ASSERT(info->server_id != NULL && info->server_name != NULL);

    midge_json_put_raw(&writer, MIDGE_SLICE_LITERAL("INFO {"));
    put_string_member(&writer, "server_id", info->server_id);
    put_string_member(&writer, "server_name", info->server_name);
    put_string_member(&writer, "version", info->version);
    put_number_member(&writer, "proto", 1);
    /* Some clients require the key; the value is the language level that we are built at. */
    put_string_member(&writer, "go", "c17");
    put_string_member(&writer, "host", info->host);
    put_number_member(&writer, "port", info->port);
    put_flag_member(&writer, "headers", info->headers);
    if (info->auth_required)
        put_flag_member(&writer, "auth_required", true);
    put_number_member(&writer, "max_payload", info->max_payload);
    if (info->client_id != 0)
        put_number_member(&writer, "client_id", info->client_id);
    if (info->client_ip != NULL && info->client_ip[0] != '\0')
        put_string_member(&writer, "client_ip", info->client_ip);
    if (info->connect_info) {
        put_flag_member(&writer, "connect_info", true);
        if (info->remote_account != NULL && info->remote_account[0] != '\0')
            put_string_member(&writer, "remote_account", info->remote_account);
    }
    put_string_member(&writer, "midge", info->midge);
    /* The blank before CRLF is nats-server's; it joins the parts of the line with blanks. */
    midge_json_put_raw(&writer, MIDGE_SLICE_LITERAL("} \r\n"));
    return midge_json_fits(&writer) ? (uint32_t)writer.len : 0;
}

static char **text_of(struct midge_connect *connect, uint32_t field)
{
    char **const texts[TEXT_COUNT] = {
        [TEXT_USER] = &connect->user,
        [TEXT_PASS] = &connect->pass,
        [TEXT_AUTH_TOKEN] = &connect->auth_token,
        [TEXT_NAME] = &connect->name,
        [TEXT_LANG] = &connect->lang,
        [TEXT_VERSION] = &connect->version,
    };

    MIDGE_ASSERT(field < TEXT_COUNT);
    return texts[field];
}

void midge_connect_init(struct midge_connect *connect)
{
    /* Source: server/client.go:711 defaultOpts. */
    *connect = (struct midge_connect){.verbose = true, .pedantic = true, .echo = true};
}

/* Wipe and free one string; every one, so that no secret is missed if a user mixes the fields up.
 */
static void text_free(char *text)
{
    if (text != NULL)
        explicit_bzero(text, strlen(text));
    free(text);
}

void midge_connect_deinit(struct midge_connect *connect)
{
    for (uint32_t i = 0; i < TEXT_COUNT; i++) {
        char **text = text_of(connect, i);

        text_free(*text);
        *text = NULL;
    }
}

uint64_t midge_connect_bytes(const struct midge_connect *connect)
{
    const char *const texts[TEXT_COUNT] = {connect->user, connect->pass, connect->auth_token,
                                           connect->name, connect->lang, connect->version};
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < TEXT_COUNT; i++) {
        if (texts[i] != NULL)
            bytes += strlen(texts[i]) + 1 + ALLOCATION_LEN;
    }
    return bytes;
}

/* An integer as Go's int; false if it has a fraction or an exponent or is too large. What is beyond
 * 32 bits is as wrong a protocol as the limit of 32 bits is. */
static bool read_protocol(struct midge_slice text, int32_t *number_out)
{
    const bool negative = text.base[0] == '-';
    const uint64_t magnitude_max = (uint64_t)INT64_MAX + (negative ? 1 : 0);
    uint64_t magnitude = 0;

    for (uint32_t i = negative ? 1 : 0; i < text.len; i++) {
        const uint32_t digit = (uint32_t)text.base[i] - '0';

        if (digit > 9 || magnitude > (magnitude_max - digit) / 10)
            return false;
        magnitude = magnitude * 10 + digit;
    }
    if (magnitude > INT32_MAX)
        magnitude = INT32_MAX;
    *number_out = negative ? -(int32_t)magnitude : (int32_t)magnitude;
    return true;
}

static bool is_text_list(struct midge_json_value value)
{
    struct midge_slice content;
    struct midge_json_value element;

    if (value.kind == MIDGE_JSON_NULL)
        return true;
    if (value.kind != MIDGE_JSON_ARRAY)
        return false;
    content = midge_json_content(value);
    while (midge_json_next_element(&content, &element)) {
        if (element.kind != MIDGE_JSON_STRING && element.kind != MIDGE_JSON_NULL)
            return false;
    }
    return true;
}

/* Source: server/auth.go:130. */
static bool is_permission(struct midge_json_value value)
{
    struct midge_slice content;
    struct midge_slice key;
    struct midge_json_value member;

    if (value.kind != MIDGE_JSON_OBJECT)
        return false;
    content = midge_json_content(value);
    while (midge_json_next_member(&content, &key, &member)) {
        if ((midge_json_key_equals(key, "allow") || midge_json_key_equals(key, "deny")) &&
            !is_text_list(member))
            return false;
    }
    return true;
}

/* Take over one member that is not null; false if it has the wrong type. */
static bool change_take(struct change *change, const struct field *field,
                        struct midge_json_value value)
{
    switch (field->type) {
    case FIELD_TEXT:
        change->texts[field->index] = value.text;
        change->text_given[field->index] = true;
        return value.kind == MIDGE_JSON_STRING;
    case FIELD_FLAG:
        change->flags[field->index] = value.kind == MIDGE_JSON_TRUE;
        return value.kind == MIDGE_JSON_TRUE || value.kind == MIDGE_JSON_FALSE;
    case FIELD_PROTOCOL:
        return value.kind == MIDGE_JSON_NUMBER && read_protocol(value.text, &change->protocol);
    case FIELD_ACCOUNT:
        change->account = value.text.len > 0;
        return value.kind == MIDGE_JSON_STRING;
    case FIELD_CHECK_TEXT:
        return value.kind == MIDGE_JSON_STRING;
    case FIELD_PERMISSION:
        return is_permission(value);
    }
    return false;
}

static bool change_collect(struct change *change, struct midge_json_value object)
{
    struct midge_slice content = midge_json_content(object);
    struct midge_slice key;
    struct midge_json_value value;

    while (midge_json_next_member(&content, &key, &value)) {
        for (uint32_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
            if (!midge_json_key_equals(key, fields[i].name))
                continue;
            if (value.kind != MIDGE_JSON_NULL && !change_take(change, &fields[i], value))
                return false;
            break;
        }
    }
    return true;
}

/* Put a collected change into effect; all or nothing. */
static enum midge_status change_apply(const struct change *change, struct midge_connect *connect)
{
    char *texts[TEXT_COUNT] = {NULL};

    for (uint32_t i = 0; i < TEXT_COUNT; i++) {
        if (change->texts[i].len > 0 && !midge_json_copy_text(change->texts[i], &texts[i]))
            goto err_free_texts;
    }
    for (uint32_t i = 0; i < TEXT_COUNT; i++) {
        char **text = text_of(connect, i);

        if (!change->text_given[i])
            continue;
        text_free(*text);
        *text = texts[i];
    }
    connect->verbose = change->flags[FLAG_VERBOSE];
    connect->pedantic = change->flags[FLAG_PEDANTIC];
    connect->echo = change->flags[FLAG_ECHO];
    connect->headers = change->flags[FLAG_HEADERS];
    connect->no_responders = change->flags[FLAG_NO_RESPONDERS];
    connect->protocol = change->protocol;
    /* Source: server/client.go:2454. A connection that gave one is closed, so nothing is merged. */
    connect->account_given |= change->account || change->flags[FLAG_NEW_ACCOUNT];
    return MIDGE_OK;

err_free_texts:
    for (uint32_t i = 0; i < TEXT_COUNT; i++)
        text_free(texts[i]);
    return MIDGE_E_MEMORY;
}

enum midge_status midge_connect_merge(struct midge_connect *connect, struct midge_slice json)
{
    struct change change = {
        .flags = {[FLAG_VERBOSE] = connect->verbose,
                  [FLAG_PEDANTIC] = connect->pedantic,
                  [FLAG_ECHO] = connect->echo,
                  [FLAG_HEADERS] = connect->headers,
                  [FLAG_NO_RESPONDERS] = connect->no_responders},
        .protocol = connect->protocol,
    };
    struct midge_json_value root;

    if (!midge_json_is_valid(json))
        return MIDGE_E_ARGS;
    root = midge_json_root(json);
    if (root.kind == MIDGE_JSON_NULL)
        return MIDGE_OK;
    if (root.kind != MIDGE_JSON_OBJECT || !change_collect(&change, root))
        return MIDGE_E_ARGS;
    return change_apply(&change, connect);
}

/* Source: server/client.go:2196, for the names. */
static bool is_secret(struct midge_slice key)
{
    static const char *const names[] = {"pass", "auth_token", "sig", "nkey", "proxy_sig", "jwt"};

    for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (midge_json_key_equals(key, names[i]))
            return true;
    }
    return false;
}

/* Append as much as there is room for; returns the new length. */
static uint32_t append(uint8_t *out, uint32_t cap, uint32_t len, struct midge_slice bytes)
{
    const uint32_t room = cap - len;
    const uint32_t part = bytes.len < room ? bytes.len : room;

    if (part > 0)
        memcpy(out + len, bytes.base, part);
    return len + part;
}

uint32_t midge_connect_redact(uint8_t *out, uint32_t cap, struct midge_slice json)
{
    const bool shown = midge_json_is_valid(json) && midge_json_root(json).kind == MIDGE_JSON_OBJECT;
    const uint8_t *rest = json.base;
    struct midge_json_value value;
    struct midge_slice content;
    struct midge_slice key;
    uint32_t len = 0;

    if (!shown)
        return append(out, cap, 0, MIDGE_SLICE_LITERAL("(not a JSON object)"));
    content = midge_json_content(midge_json_root(json));
    while (midge_json_next_member(&content, &key, &value)) {
        if (!is_secret(key))
            continue;
        len = append(out, cap, len, midge_slice_make(rest, (uint32_t)(value.text.base - rest)));
        len = append(out, cap, len, MIDGE_SLICE_LITERAL("[REDACTED]"));
        rest = value.text.base + value.text.len;
    }
    return append(out, cap, len, midge_slice_make(rest, json.len - (uint32_t)(rest - json.base)));
}

bool midge_info_is_object(struct midge_slice json)
{
    enum midge_json_kind kind;

    if (!midge_json_is_valid(json))
        return false;
    kind = midge_json_root(json).kind;
    return kind == MIDGE_JSON_OBJECT || kind == MIDGE_JSON_NULL;
}
